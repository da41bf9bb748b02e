"""The libraries of the installed CUDA wheels. Imports no Keras."""

import contextlib
import ctypes
import importlib.util
import pathlib
import sys

# What is looked for where it is not: cuSOLVER by the loader of TensorFlow 2.21, and NVRTC by
# cuDNN 9.10, in whose wheel the name of NVRTC's folder is out of date.
MISPLACED = (("cusolver", "libcusolver.so.11"), ("cuda_nvrtc", "libnvrtc.so.12"))


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
