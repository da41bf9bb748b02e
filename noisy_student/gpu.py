"""The NVIDIA cards of this machine, and what keeps a backend from training on them.

Imports no Keras, because backend.py needs this file before TensorFlow looks for GPUs. check.py
prints what is found here, and tries the rest out.
"""

import contextlib
import ctypes
import importlib.util
import pathlib
import sys
from dataclasses import dataclass

import pynvml

# What Linux shows of any card, with or without a driver.
PCI = pathlib.Path("/sys/bus/pci/devices")
NVIDIA, DISPLAY = "0x10de", "0x03"
# Compute capabilities: below OLDEST no backend has code, below TURING the stack is an older one.
OLDEST, TURING = (6, 0), (7, 5)
# The first cuDNN without code for cards before Turing.
CUDNN_SINCE_TURING = (9, 11)
# The oldest driver that CUDA 12 takes, and the last that knows cards before Turing.
OLDEST_DRIVER, LAST_DRIVER = 525, 580
# What to install, by backend: for cards before Turing, and for others.
INSTALL = {
    "tensorflow": ("-e '.[gpu-pascal]'", "-e '.[gpu]'"),
    "jax": ("-e '.[jax-gpu-pascal]'", "-e '.[jax-gpu]'"),
    "torch": ("-e . torch==2.7.1", "-e . torch"),
}
# Libraries that are looked for where they are not: cuSOLVER by the loader of TensorFlow 2.21, and
# NVRTC by cuDNN 9.10, whose wheel has an old name of NVRTC's folder. With other versions,
# benchmarks/gpu_loader.py tells whether they are found.
MISPLACED = (("cusolver", "libcusolver.so.11"), ("cuda_nvrtc", "libnvrtc.so.12"))


# --- the cards ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Card:
    """name and driver ("580.95.05"): text. capability: like (6, 1). memory_mib: int."""

    name: str
    capability: tuple
    memory_mib: int
    driver: str


def nvidia_cards():
    """The Cards that the driver shows, used or not; none without a driver."""
    try:
        pynvml.nvmlInit()
        driver = pynvml.nvmlSystemGetDriverVersion()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return [Card(pynvml.nvmlDeviceGetName(handle),
                     tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
                     pynvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20, driver)
                for handle in handles]
    except pynvml.NVMLError:
        return []


def cards_on_the_bus():
    """How many NVIDIA cards are in the machine, with or without a driver that knows them."""
    devices = [path.parent for path in PCI.glob("*/vendor") if path.read_text().strip() == NVIDIA]
    return sum((device / "class").read_text().startswith(DISPLAY) for device in devices)


# --- the libraries --------------------------------------------------------------------------------


def cuda_library(package, file):
    """The path of a library of the wheel that brings nvidia/<package>, or None."""
    try:
        spec = importlib.util.find_spec(f"nvidia.{package}")
    except ModuleNotFoundError:
        return None
    places = (spec.submodule_search_locations or []) if spec else []
    paths = (pathlib.Path(place) / "lib" / file for place in places)
    return next((path for path in paths if path.is_file()), None)


def load_cuda_libraries():
    """Loads the CUDA libraries that TensorFlow and cuDNN would not find by themselves.

    TensorFlow 2.21 looks for cuSOLVER in every wheel but cuSOLVER's. Without it, it skips all
    GPUs and trains on the CPU. The system's loader looks nowhere for what is loaded already, so
    this must be called before TensorFlow is asked for its GPUs.

    Returns: the paths of what it loaded; none where the wheels are not installed.
    """
    loaded = []
    paths = (cuda_library(*names) for names in MISPLACED) if sys.platform == "linux" else ()
    for path in filter(None, paths):
        # OSError: it does not fit the others, of which TensorFlow then complains itself.
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(path))
            loaded.append(path)
    return loaded


def cudnn_version():
    """The version of the installed cuDNN, like (9, 10, 2), or None."""
    try:
        library = ctypes.CDLL(str(cuda_library("cudnn", "libcudnn.so.9") or "libcudnn.so.9"))
    except OSError:
        return None
    number = library.cudnnGetVersion()
    return number // 10000, number // 100 % 100, number % 100


# --- what is missing ------------------------------------------------------------------------------


def missing(backend, cards, used, cudnn=None, packages=(), on_the_bus=0, hidden=None):
    """(What keeps a GPU from training, the command that mends it), or None if nothing is known to.

    Args:
        backend: "tensorflow", "jax" or "torch". cards: the Cards that the driver shows.
        used: the compute capabilities of the GPUs that the backend uses.
        cudnn: its version, like (9, 10, 2), or None. packages: the names of the installed ones.
        on_the_bus: how many NVIDIA cards are in the machine. hidden: CUDA_VISIBLE_DEVICES.
    """
    new_driver = f"sudo apt install nvidia-driver-{LAST_DRIVER}  # Ubuntu's name; then restart"
    if not cards and not used:
        return (f"no driver shows the NVIDIA card that is in this machine ({LAST_DRIVER} is the "
                "last that knows GTX 10xx and V100; a container needs --gpus all)",
                new_driver) if on_the_bus else None
    capability = min(used or [card.capability for card in cards])
    remedy = environment_for(backend, capability)
    if capability < OLDEST:
        return f"no backend has code for compute capability {dotted(capability)}", "none"
    if hidden in ("", "-1") and not used:
        return f"CUDA_VISIBLE_DEVICES='{hidden}' hides the card", "unset CUDA_VISIBLE_DEVICES"
    if backend == "tensorflow" and {"tensorflow", "tensorflow-cpu"} <= set(packages):
        return "tensorflow and tensorflow-cpu are both installed, one over the other", remedy
    if not used:
        driver = cards[0].driver
        if int(driver.split(".")[0]) < OLDEST_DRIVER:
            return f"driver {driver} is too old: CUDA 12 needs {OLDEST_DRIVER} or later", new_driver
        return f"the {backend} that is installed here does not use the card", remedy
    if backend != "torch" and capability < TURING and cudnn and cudnn >= CUDNN_SINCE_TURING:
        return f"cuDNN {dotted(cudnn)} has no code for this card", remedy
    return None


def environment_for(backend, capability):
    """The command that makes an environment in which a backend trains on such a card."""
    what = INSTALL[backend][capability >= TURING]
    return f"python -m venv .venv-gpu && .venv-gpu/bin/python -m pip install {what}"


def dotted(version):
    return ".".join(map(str, version))
