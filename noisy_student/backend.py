"""The only lines that know whether TensorFlow, JAX or PyTorch runs, and on what."""

import contextlib
import ctypes
import os
import platform
import sys

import keras
import numpy as np

from noisy_student import onednn
from noisy_student.arguments import BACKENDS
from noisy_student.batches import made_ahead
from noisy_student.commands import THREADS
from noisy_student.files import UserError
from noisy_student.gpu import load_cuda_libraries, nvidia_cards

BACKEND = keras.backend.backend()
NAME = BACKENDS.get(BACKEND, BACKEND)
if BACKEND == "tensorflow":
    import tensorflow as tf

    # TensorFlow looks for GPUs once, after this.
    load_cuda_libraries()
elif BACKEND == "jax":
    import jax
else:
    import torch

# What every network here relies on, whatever the user's own keras.json says.
keras.config.set_image_data_format("channels_last")
keras.config.set_floatx("float32")
keras.config.set_epsilon(1e-7)

# Options of glibc's malloc, from its malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
# The first NVIDIA GPUs that multiply in bfloat16, and the first whose convolutions XLA compiles
# with every cuDNN that knows them.
BFLOAT16_SINCE, XLA_SINCE = (8, 0), (7, 5)


def prepare(seed):
    """Seeds everything; every script calls it before it does anything else."""
    keras.utils.set_random_seed(seed)
    if BACKEND == "tensorflow":
        tf.config.experimental.enable_op_determinism()
    elif BACKEND == "jax" and not jax.config.jax_compilation_cache_dir:
        # What takes minutes to compile is kept for the next run.
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/jax"))
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        keep_freed_memory(ctypes.CDLL(None).mallopt)


def leave_gpus():
    """This process computes on the CPU, before anything else is done: the GPUs are for others."""
    if BACKEND == "tensorflow":
        tf.config.set_visible_devices([], "GPU")
    elif BACKEND == "jax":
        jax.config.update("jax_platforms", "cpu")


def keep_freed_memory(mallopt):
    """Linux' malloc gives every freed tensor back to the kernel and asks for it in the next step.

    That took more than half of a training step's time on two cores. So: one arena, no trimming,
    growth by 256 MiB. It comes before any second thread: existing arenas are kept.
    """
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_MMAP_THRESHOLD, 1 << 25)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 1 << 28)


# --- what there is --------------------------------------------------------------------------------


def gpus():
    """(name, compute capability) of each GPU that the backend uses."""
    if BACKEND == "tensorflow":
        devices = tf.config.list_physical_devices("GPU")
        details = [tf.config.experimental.get_device_details(device) for device in devices]
        return [(gpu.get("device_name", "GPU"), gpu.get("compute_capability", (0, 0)))
                for gpu in details]
    if BACKEND == "jax":
        devices = [device for device in jax.devices() if device.platform == "gpu"]
        return [(gpu.device_kind, tuple(map(int, gpu.compute_capability.split("."))))
                for gpu in devices]
    return [(torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i))
            for i in range(torch.cuda.device_count())]


def hardware():
    """The GPUs; or where there are none, the processor, cores and, where they are set, threads."""
    names = [name for name, _ in gpus()]
    threads = os.environ.get(THREADS[0])
    cpu = f"{processor()}, {os.cpu_count()} cores{f', threads: {threads}' if threads else ''}"
    return ", ".join(names) or cpu


def processor():
    """What Linux calls it; elsewhere, what Python does."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def has_bfloat16():
    """Whether there is a GPU that multiplies in bfloat16."""
    return any(capability >= BFLOAT16_SINCE for _, capability in gpus())


def precision(wanted, bfloat16):
    """What "auto" means here: "bfloat16", where the recipe and the device have it, or "float32".

    Args:
        wanted: what --precision says. bfloat16: whether the recipe learns in it.
    """
    if wanted != "auto":
        return wanted
    return "bfloat16" if bfloat16 and has_bfloat16() else "float32"


def jit_compile():
    """Keras' `jit_compile`. On a CPU, TensorFlow's own kernels are faster than XLA's."""
    if BACKEND == "tensorflow":
        capabilities = [capability for _, capability in gpus()]
        new_enough = bool(capabilities) and min(capabilities) >= XLA_SINCE
        return new_enough and not tf.distribute.has_strategy()
    return "auto"


def uses_onednn():
    """Whether TensorFlow was told to use oneDNN's kernels (noisy_student/onednn.py)."""
    return BACKEND == "tensorflow" and os.environ.get(onednn.VARIABLE) == "1"


def describe(precision):
    """Says backend, device and precision in one line, and warns of a card that is not used."""
    names = [name for name, _ in gpus()]
    cores = os.cpu_count()
    kernels = ", oneDNN" if uses_onednn() and not names else ""
    print(f"{NAME} on {', '.join(names) or f'the CPU ({cores} cores{kernels})'}, {precision}")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    cards = [] if names or hidden else nvidia_cards()
    if cards:
        print(f"WARNING: {NAME} does not use the {cards[0].name} that is in this machine, and the "
              "CPU may take a hundred times longer. Run: python -m noisy_student.check",
              file=sys.stderr)


# --- where networks are built and trained ---------------------------------------------------------


@contextlib.contextmanager
def on_hardware(precision, devices, batch_size):
    """Where a network is built and trained, and in which numbers.

    Args:
        precision: "float32", or "bfloat16": weights stay float32, and what is computed from them
            is bfloat16.
        devices: "one"; or "all": every GPU of the machine holds the network and takes its share
            of each batch. Batch normalization's statistics then run over the whole batch with JAX,
            over each share with TensorFlow.

    Raises: UserError, where the devices cannot share a batch.
    """
    before = keras.config.dtype_policy()
    describe(precision)
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        with all_devices(batch_size) if devices == "all" else contextlib.nullcontext():
            yield
    finally:
        keras.config.set_dtype_policy(before)


@contextlib.contextmanager
def all_devices(batch_size):
    if BACKEND == "torch":
        raise UserError("--devices all is for TensorFlow and JAX (KERAS_BACKEND=jax)")
    if BACKEND == "tensorflow":
        logical = tf.config.list_logical_devices
        names = [device.name for device in logical("GPU") or logical("CPU")]
    else:
        names = keras.distribution.list_devices()
    if batch_size % len(names):
        raise UserError(f"--devices all: {len(names)} devices cannot share a batch of {batch_size} "
                        "equally; give another --batch-size")
    print(f"{len(names)} devices, {batch_size // len(names)} images of each batch on each")
    if BACKEND == "tensorflow":
        with tf.distribute.MirroredStrategy(names).scope():
            yield
        return
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    try:
        yield
    finally:
        keras.distribution.set_distribution(None)


def sharing():
    """How many devices share a batch right now."""
    if BACKEND == "tensorflow":
        return tf.distribute.get_strategy().num_replicas_in_sync
    distribution = keras.distribution.distribution()
    return distribution.device_mesh.devices.size if distribution else 1


# --- how data reach fit() -------------------------------------------------------------------------


def feed(batches, batch_size=None):
    """What fit() is given: the batches of batches(), the next ones made while one is used.

    Args:
        batches: makes a generator of (images, labels), NumPy.
        batch_size: how many images a batch has; None, if not all have as many.
    """
    if BACKEND != "tensorflow":
        return made_ahead(batches())
    arrays = next(batches())
    signature = tuple(tf.TensorSpec((batch_size, *array.shape[1:]), array.dtype)
                      for array in arrays)
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(2)
    # tf.data's autotuning is done by a thread that is waited for at the end: often as long again
    # as everything before took, up to a minute.
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def validation_feed(x, t, batch_size):
    """What fit() is given to validate on: images (N, 32, 32, 3) and labels (N, C), each once.

    Raises: UserError, where the devices cannot share them.
    """
    devices = sharing()
    if min(batch_size, len(x)) % devices or len(x) % batch_size % devices:
        raise UserError(f"--devices all: {devices} devices cannot share {len(x)} validation "
                        f"images in batches of {batch_size} equally; give another --num-labeled")
    if BACKEND != "tensorflow":
        return x, t

    def batches():
        for i in range(0, len(x), batch_size):
            yield x[i:i + batch_size], t[i:i + batch_size]

    count = -(-len(x) // batch_size)
    return feed(batches).apply(tf.data.experimental.assert_cardinality(count))


# --- what a backend does better than Keras' operations -------------------------------------------


def normalize_by_operations(images, scale, offset, epsilon):
    """(images - mean) / sqrt(variance + epsilon) * scale + offset, as Keras' own layer computes it.

    Args:
        images: (batch, h, w, c), float32 or bfloat16. scale, offset: float32 (c,), or None.

    Returns: the same as images, and the mean and the variance of the batch, float32 (c,) each.
    """
    as_float32 = keras.ops.cast(images, "float32")
    mean, variance = keras.ops.moments(as_float32, axes=(0, 1, 2))
    outputs = keras.ops.batch_normalization(as_float32, mean, variance, -1, offset, scale, epsilon)
    return keras.ops.cast(outputs, images.dtype), mean, variance


def normalize_batch(images, scale, offset, epsilon):
    """The same to rounding, in one kernel where the backend has one."""
    if BACKEND == "jax":
        # XLA makes one kernel of these by itself.
        return normalize_by_operations(images, scale, offset, epsilon)
    channels = images.shape[-1]
    scale = keras.ops.ones(channels) if scale is None else keras.ops.convert_to_tensor(scale)
    offset = keras.ops.zeros(channels) if offset is None else keras.ops.convert_to_tensor(offset)
    # Both kernels give the unbiased variance, of which this share is Keras'.
    count = keras.ops.prod(keras.ops.shape(images)[:3])
    biased = 1 - 1 / keras.ops.cast(count, "float32")
    if BACKEND == "tensorflow":
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            images, scale, offset, epsilon=epsilon, is_training=True)
        return outputs, mean, variance * biased
    mean, variance = torch.zeros_like(scale), torch.zeros_like(scale)
    # With a momentum of 1, what it calls running statistics are this batch's.
    outputs = torch.nn.functional.batch_norm(images.permute(0, 3, 1, 2), mean, variance, scale,
                                             offset, training=True, momentum=1.0, eps=epsilon)
    return outputs.permute(0, 2, 3, 1), mean, variance * biased


def loss_gradient(network, x, t):
    """The gradient of each image's cross-entropy with respect to its pixels.

    Args:
        network: keras.Model, float (N, 32, 32, 3) -> logits (N, C). x: (N, 32, 32, 3). t: (N, C).

    Returns: float32 (N, 32, 32, 3), NumPy.
    """
    def loss(images):
        # A softmax in bfloat16 has no gradient where the network is sure.
        logits = keras.ops.cast(network(images, training=False), "float32")
        losses = keras.losses.categorical_crossentropy(t, logits, from_logits=True)
        return keras.ops.sum(losses)

    x = keras.ops.convert_to_tensor(np.asarray(x, dtype=np.float32))
    if BACKEND == "tensorflow":
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(x)
        gradient = tape.gradient(value, x)
    elif BACKEND == "jax":
        gradient = jax.grad(loss)(x)
    else:
        x.requires_grad_(True)
        loss(x).backward()
        gradient = x.grad
    return keras.ops.convert_to_numpy(gradient)
