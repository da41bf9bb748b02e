"""What this machine trains with, how fast, and what its GPU lacks.

    python -m noisy_student.check

Takes some minutes, reads no data and writes nothing. Run it in the folder of the scripts. Where a
GPU does not train, it ends with 1 and names the one command that should mend it.
"""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time

from noisy_student import arguments, onednn

if __name__ == "__main__":
    arguments.parser(__doc__).parse_args()
    # The kernels that the article's network is trained with.
    onednn.choose("resnet", 1.0)

import keras
import numpy as np
from keras import layers

from noisy_student import backend, gpu
from noisy_student.files import UserError, first_line, run_script
from noisy_student.gpu import dotted

# Images of CIFAR-10 that a recipe trains on, and its epochs.
IMAGES, EPOCHS = 45_000, {"article": 300, "fast": 30}
# Bytes that the article's network takes of a GPU: at rest, and for each image of a batch.
AT_REST, PER_IMAGE = 1.5e9, 46e6
# Seconds after which a measurement ends, whatever it has seen by then.
LONG_ENOUGH = 15


def complaints():
    """What TensorFlow says of libraries and driver, at a lower log level, when it finds no GPU."""
    question = [sys.executable, "-c", "from noisy_student import backend; backend.gpus()"]
    loud = {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "dso_loader=1"}
    answer = subprocess.run(question, capture_output=True, text=True, env=os.environ | loud)
    pattern = r"Could not load dynamic library '\S+'|failed call to cu\w+: .*"
    return sorted(set(re.findall(pattern, answer.stderr)))


def one_convolution():
    return keras.Sequential([
        layers.Input((32, 32, 3)), layers.Conv2D(10, 3), layers.ReLU(),
        layers.GlobalAveragePooling2D(), layers.Activation("softmax", dtype="float32")])


def article_network():
    try:
        from cifar10_resnet50 import build_resnet
    except ModuleNotFoundError as error:
        raise UserError(f"{error}: run this in the folder of the scripts") from error
    return build_resnet(50, 1.0)


def speed(build, precision, batch, steps):
    """How fast the network that build() makes trains on noise.

    Returns: (images per second, None), or (None, one line that says why it does not train).
    """
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    rng = np.random.default_rng(0)
    x = rng.integers(256, size=(batch, 32, 32, 3), dtype=np.uint8)
    t = np.eye(10, dtype=np.float32)[np.arange(batch) % 10]
    try:
        network = build()
        network.compile("adam", "categorical_crossentropy", jit_compile=backend.jit_compile())
        # The first steps compile, and choose among cuDNN's algorithms.
        for _ in range(2):
            network.train_on_batch(x, t)
        started, done, seconds = time.perf_counter(), 0, 0
        while done < steps and seconds < LONG_ENOUGH:
            loss = network.train_on_batch(x, t)
            done, seconds = done + 1, time.perf_counter() - started
    except UserError:
        raise
    # Each backend has exceptions of its own for what a GPU cannot do.
    except Exception as error:
        return None, f"{type(error).__name__}: {first_line(error)}"[:400]
    finally:
        keras.backend.clear_session()
    if not np.isfinite(loss):
        return None, f"the loss is {loss}"
    return batch * done / seconds, None


def batch_that_fits(cards):
    """The largest power of two that the memory of the smallest card has room for, by estimate."""
    memory = min(card.memory_mib for card in cards) * 2**20
    room = max(1, int((0.95 * memory - AT_REST) / PER_IMAGE))
    return 2**(room.bit_length() - 1)


def measure(precision, batch, steps, command):
    """Prints whether a convolution with a bias trains, and how fast the article's network does.

    Args: command: what mends it if the convolution does not.

    Returns: images per second, or None where something does not train.
    """
    print(f"a convolution with a bias trains in {precision}: ", end="", flush=True)
    _, why = speed(one_convolution, precision, 16, 1)
    print("NO" if why else "yes")
    if why:
        return complain(why, command)
    print(f"the article's network, {precision}, batches of {batch}: ", end="", flush=True)
    rate, why = speed(article_network, precision, batch, steps)
    print("does not train" if why else f"{rate:,.1f} images/s")
    return complain(why, f"--batch-size {batch // 2}, if it lacks memory") if why else rate


def complain(what, command, details=()):
    """Prints what is wrong and the one command that should mend it."""
    print(f"PROBLEM: {what}")
    for detail in details:
        print(f"    {backend.BACKEND} says: {detail}")
    print(f"What should mend it:\n    {command}")


def main():
    cards, cudnn, name = gpu.nvidia_cards(), gpu.cudnn_version(), backend.BACKEND
    print(f"Python {platform.python_version()}, Keras {keras.__version__}, {name} "
          f"{sys.modules[name].__version__}, cuDNN {dotted(cudnn) if cudnn else 'not installed'}")
    for card in cards:
        print(f"card: {card.name}, compute capability {dotted(card.capability)}, "
              f"memory {card.memory_mib:,} MiB, driver {card.driver}")
    backend.prepare(0)
    names, used = zip(*backend.gpus()) if backend.gpus() else ((), ())
    packages = [package.metadata["Name"].lower() for package in importlib.metadata.distributions()]
    trouble = gpu.missing(name, cards, used, cudnn, packages, gpu.cards_on_the_bus(),
                          os.environ.get("CUDA_VISIBLE_DEVICES"))
    if trouble:
        complain(*trouble, complaints() if name == "tensorflow" and not used else ())
        return 1
    if not used:
        print(f"no NVIDIA card, {os.cpu_count()} cores")
        if name == "jax":
            print("not measured: on a CPU, JAX compiles the article's network for more than an "
                  "hour. TensorFlow does not: KERAS_BACKEND=tensorflow")
            return 0
        if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5 * os.cpu_count():
            print(f"{os.getloadavg()[0]:.0f} other programs want these cores: alone, it is faster")
    xla = name == "jax" or backend.jit_compile() is True
    print(f"{name} trains on {', '.join(names) or 'the CPU'}, {'with' if xla else 'without'} XLA")
    batch, steps = (64, 20) if used else (16, 3)
    if used and cards:
        print(f"memory: room for --batch-size {batch_that_fits(cards)}, by estimate")
        batch = min(batch, batch_that_fits(cards))
    command = (gpu.environment_for(name, min(used)) if used
               else "python -m pip install -e '.[cpu]'")
    rates = {}
    for precision in ("float32", "bfloat16") if backend.has_bfloat16() else ("float32",):
        rates[precision] = measure(precision, batch, steps, command)
        if not rates[precision]:
            return 1
    for recipe, epochs in EPOCHS.items():
        # The fast recipe trains in bfloat16 where it can.
        precision = list(rates)[-1 if recipe == "fast" else 0]
        hours = epochs * IMAGES / rates[precision] / 3600
        print(f"--recipe {recipe}: {epochs} epochs of {IMAGES:,} images in {precision}, "
              f"{hours:,.1f} hours")
    return 0


if __name__ == "__main__":
    run_script(main)
