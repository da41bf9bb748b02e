"""Does TensorFlow find the CUDA libraries of its own wheels, and thereby the GPU? Before and after.

    python -m pip install -e '.[gpu]'        # in an environment of its own
    python benchmarks/gpu_loader.py

Asks TensorFlow's loader for each library, by the functions in libtensorflow_framework.so.2 that it
calls itself; asks cuDNN where it would look for NVRTC; then lets TensorFlow list its GPUs. First as
installed, then after noisy_student.gpu.load_cuda_libraries(), each in a process of its
own. No GPU is needed: where there is no driver, stand_in_driver.c takes its place.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from noisy_student.gpu import cuda_library, load_cuda_libraries

# What TensorFlow loads before it takes a GPU, by the names of its loader's functions.
ASKED = ("CudaRuntime", "Cublas", "CublasLt", "Cufft", "Cusolver", "Cusparse", "Cudnn")
# dlinfo's questions for the folders in which a library's own dlopen() looks.
RTLD_DI_SERINFO, RTLD_DI_SERINFOSIZE = 4, 5


class Answer(ctypes.Structure):
    """An absl::StatusOr<void*>, or the absl::Status at its beginning, for which OK is 1."""

    _fields_ = [("status", ctypes.c_size_t), ("value", ctypes.c_void_p)]


class Folder(ctypes.Structure):
    """glibc's Dl_serpath."""

    _fields_ = [("name", ctypes.c_char_p), ("flags", ctypes.c_uint)]


def succeeds(framework, function):
    """Whether a function of tsl::internal::DsoLoader returns OK."""
    call = getattr(framework, f"_ZN3tsl8internal9DsoLoader{len(function)}{function}Ev")
    answer = Answer()
    call.argtypes, call.restype = [ctypes.c_void_p], None
    call(ctypes.byref(answer))
    return answer.status == 1


def search_folders(path):
    """The folders in which the library at `path` looks for what it loads by name."""
    library, dlinfo = ctypes.CDLL(str(path)), ctypes.CDLL(None).dlinfo
    dlinfo.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    # Dl_serinfo: its size, how many folders, and the folders.
    head = (ctypes.c_size_t * 2)()
    dlinfo(library._handle, RTLD_DI_SERINFOSIZE, head)
    info = ctypes.create_string_buffer(head[0])
    dlinfo(library._handle, RTLD_DI_SERINFOSIZE, info)
    dlinfo(library._handle, RTLD_DI_SERINFO, info)
    count = head[1] & 0xFFFFFFFF
    return [folder.name.decode() for folder in (Folder * count).from_buffer(info, 16)]


def is_loaded(file):
    """Whether this process has loaded a library of this name."""
    try:
        ctypes.CDLL(file, os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return False
    return True


def ask():
    """Prints which libraries are found, in this process, as it is."""
    folder = pathlib.Path(importlib.util.find_spec("tensorflow").origin).parent
    framework = ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"))
    for name in ASKED:
        found = succeeds(framework, f"Get{name}DsoHandle")
        print(f"  TensorFlow loads {name:12} {'yes' if found else 'NO'}")
    found = succeeds(framework, "MaybeTryDlopenGPULibraries")
    print(f"  TensorFlow has all it needs   {'yes' if found else 'NO: it will skip every GPU'}")
    nvrtc, found = cuda_library("cuda_nvrtc", "libnvrtc.so.12").name, "NO"
    if is_loaded(nvrtc):
        found = "yes, it is loaded already"
    else:
        folders = search_folders(cuda_library("cudnn", "libcudnn_graph.so.9"))
        if any((pathlib.Path(folder) / nvrtc).exists() for folder in folders):
            found = "yes, in its wheel"
    print(f"  cuDNN finds NVRTC             {found}")


def list_gpus():
    """Prints the GPUs that TensorFlow would use, in this process, as it is."""
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(device) for device in devices]
    print(f"  TensorFlow's GPUs             {details or 'none'}")


def stand_in_driver(folder):
    """Compiles the stand-in for the driver, and returns the environment in which it is found."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        return None
    source = pathlib.Path(__file__).with_name("stand_in_driver.c")
    driver = pathlib.Path(folder) / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", driver, source], check=True)
    shutil.copy(driver, driver.with_name("libnvidia-ml.so.1"))
    places = filter(None, (folder, os.environ.get("LD_LIBRARY_PATH")))
    return os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(places)}


def in_a_process(question, preload, environment):
    """What `question` prints in a new process, and what TensorFlow warns of meanwhile."""
    command = [sys.executable, __file__, question, *(["preload"] if preload else [])]
    answer = subprocess.run(command, capture_output=True, text=True,
                            env=environment | {"TF_CPP_MIN_LOG_LEVEL": "0"})
    warnings = re.findall(r"Cannot dlopen some GPU libraries|Skipping registering GPU devices",
                          answer.stderr)
    print(answer.stdout, end="")
    for warning in warnings:
        print(f"  TensorFlow says: {warning}")
    if answer.returncode:
        print(f"  the process ended with {answer.returncode}: {answer.stderr[-500:]}")


def main():
    if sys.platform != "linux" or not cuda_library("cusolver", "libcusolver.so.11") \
            or not importlib.util.find_spec("tensorflow"):
        print("skipped: the CUDA wheels are not installed (pip install -e '.[gpu]')")
        return
    packages = ("tensorflow", *(f"nvidia-{name}-cu12" for name in ("cudnn", "cublas", "cusolver")))
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages))
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ)
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            environment = stand_in_driver(folder)
            print("no driver here;", "a stand-in shows one GTX 1080 Ti" if environment
                  else "and no C compiler to make a stand-in, so no GPUs are listed")
        for preload in (False, True):
            print("after load_cuda_libraries():" if preload else "as installed:", flush=True)
            in_a_process("ask", preload, environment or dict(os.environ))
            if environment:
                in_a_process("list_gpus", preload, environment)


if __name__ == "__main__":
    if sys.argv[1:]:
        if "preload" in sys.argv:
            load_cuda_libraries()
        {"ask": ask, "list_gpus": list_gpus}[sys.argv[1]]()
    else:
        main()
