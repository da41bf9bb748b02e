"""oneDNN's kernels, which train up to twice as fast on a CPU: on, where they are safe.

Processors before AVX-512 VNNI have them too, but TensorFlow leaves them off there. They must be
chosen before TensorFlow is imported. Imports neither.
"""

import os
import pathlib
import platform

from noisy_student import files
from noisy_student.files import UserError

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"
# On one thread, oneDNN writes beyond its memory where a convolution of the resnet has fewer filters
# than that (TensorFlow 2.21; the process dies, or worse). The small network does not do it.
FEWEST_FILTERS = 4
# The resnet's first stage, of width 1, in cifar10_resnet50.py.
FIRST_STAGE = 64


def choose(network, width, log_dir=None):
    """Sets TensorFlow's variable for the network that is about to be trained or asked.

    What the user has set stays. A run that goes on keeps the kernels that it was begun with.

    Args:
        network: "resnet" or "small".
        log_dir: the folder of a training.
    """
    if VARIABLE in os.environ or platform.machine() not in ("x86_64", "AMD64"):
        return
    safe = network != "resnet" or round(FIRST_STAGE * width) >= FEWEST_FILTERS
    begun = read_json(pathlib.Path(log_dir or "", "run.json")) if log_dir else {}
    if begun and not begun.get("results"):
        safe = begun.get("versions", {}).get("onednn") == "1"
    os.environ[VARIABLE] = str(int(safe))


def choose_for_runs(folders):
    """The same for the networks of all trainings in some folders, or below them."""
    paths = [path for folder in folders for path in pathlib.Path(folder).rglob("run.json")]
    chosen = [read_json(path).get("arguments", {}) for path in paths]
    # Of a labelling there is none.
    chosen = [settings for settings in chosen if "width" in settings]
    widths = [settings["width"] for settings in chosen if settings.get("network") != "small"]
    # A network from elsewhere may be of any kind: it is left to TensorFlow.
    if chosen:
        choose("resnet" if widths else "small", min(widths, default=1.0))


def read_json(path):
    """A dictionary, empty where there is none: whoever needs it complains later."""
    try:
        return files.read_json(path)
    except UserError:
        return {}
