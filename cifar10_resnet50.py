"""Step 1: the data, the ResNet50, and the teacher.

    python cifar10_resnet50.py --data cifar10                  # downloads CIFAR-10 once
    python cifar10_resnet50.py --data data/toy --depth 14 --width 0.125 --recipe fast

Trains a network on the labelled images alone, without any noise: the teacher.

Reads   a data set: the word cifar10, or a folder train/<class>/*, test/<class>/* of images
Writes  logs/teacher/   model.keras (final weights), best.keras (best on the validation images),
                        history.csv, run.json, split.npz, backup/ (to resume from), predictions.npz
                        (what it says about the validation and test images, for step 5)

Kill it whenever you like: the same command goes on after the last finished epoch.
"""

import argparse
import contextlib
import csv
import ctypes
import functools
import hashlib
import io
import json
import math
import multiprocessing
import os
import pathlib
import platform
import secrets
import signal
import stat
import sys
import time
import unittest.mock
import warnings
from collections import deque
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def quiet():
    """Shuts out what TensorFlow says when it is imported, on some processors whatever its log level is; its errors still raise.

    To hear it, set TF_CPP_MIN_LOG_LEVEL=0.
    """
    silent = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "3" and sys.stderr  # None: there is nobody to hear it
    if silent:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
    try:
        yield
    finally:
        if silent:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


if {"-h", "--help"} & set(sys.argv[1:]):  # what takes seconds to import is not needed to explain a script
    sys.modules |= {name: unittest.mock.MagicMock() for name in ("keras", "numba", "numba.extending", "llvmlite")}

with quiet():
    import keras
import numpy as np
from keras import layers
from PIL import Image, ImageOps

IMAGE_SIZE = 32  # pixels, both ways: CIFAR-10's
VALIDATION_SHARE, VALIDATION_MOST = 0.1, 5000  # of the labelled images; never of the test set
BATCH = 256  # images that a network looks at together when it does not learn
CHUNK = 64  # files that a worker is given at a time
JPEG_DETAIL = 4  # a large JPEG is decoded at no less than so many times IMAGE_SIZE: see read_image
ORIENTATION = 0x0112  # the EXIF tag that says how a camera was held; 1 is upright
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # the decoders we let files reach

warnings.filterwarnings("ignore", module=r"PIL\.")  # thousands of them in a bad folder; what cannot be read is reported

# The article's network, stage by stage: filters and stride of the stage's first block.
# Article: the third stage keeps its resolution (stride 1), since 32x32 images are small already.
STAGES = ((64, 1), (128, 2), (256, 1), (512, 2))
BLOCKS_PER_STAGE = {
    14: (1, 1, 1, 1),
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),  # the article's
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
STEM_FILTERS = 32
SEAL = "sha256_of_the_rest"
NOISES = ("all", "none", "input", "model")  # what a network may be trained under: on its images, on itself, or both
UNFINISHED = ".unfinished-"  # begins the name of a file that is being written
OCCUPIED = {}  # folders that this process writes its runs to, and their open lock files


class UserError(Exception):
    """Something the user can put right: shown as one line, without a traceback."""


def first_line(error):
    return (str(error).splitlines() or ["?"])[0]


# --- the data ------------------------------------------------------------------------------------


@dataclass
class Dataset:
    """Labelled images, and who may see which.

    x, y            all training images, uint8 (N, 32, 32, 3), and their classes, int64 (N,)
    train/val/rest  int64 indices into x: to train on, to validate on, and left without a label
    x_test, y_test  the test images, read once, at the end
    names           one name per training image (its path, where there is one)
    """

    name: str
    class_names: list
    x: np.ndarray
    y: np.ndarray
    names: list
    x_test: np.ndarray
    y_test: np.ndarray
    train: np.ndarray = None
    val: np.ndarray = None
    rest: np.ndarray = None

    @property
    def num_classes(self):
        return len(self.class_names)

    def one_hot(self, y):
        """Classes, int (N,) -> float32 (N, num_classes)."""
        return np.eye(self.num_classes, dtype=np.float32)[y]

    def validation(self):
        """The images that choose checkpoints and learning rates: uint8 (V, 32, 32, 3), float32 (V, C)."""
        if len(self.val) == 0:  # --validation test, the article's choice
            return self.x_test, self.one_hot(self.y_test)
        return self.x[self.val], self.one_hot(self.y[self.val])

    def fingerprint(self):
        """sha256 of every pixel, label and class name: tells one data set from another."""
        parts = (self.x, self.y, self.x_test, self.y_test, "\n".join(self.class_names).encode())
        return sha256(*(np.ascontiguousarray(part) if isinstance(part, np.ndarray) else part for part in parts))

    def lineage(self):
        """What run.json keeps of the data, and what later steps compare."""
        split = sha256(*(index.astype("<i8") for index in (self.train, self.val, self.rest)))
        return {"data": self.name, "data_sha256": self.fingerprint(), "split_sha256": split}


def load_data(name="cifar10", num_labeled=None, validation="split", seed=0):
    """Loads a data set and decides which training images keep their label.

    Args:
        name: "cifar10" (Keras' own verified download), or a folder train/<class>/*, test/<class>/*.
        num_labeled: how many training images keep their label (default: all). The others are `rest`.
        validation: "split" holds 10 % of the labelled images out (5,000 at most);
            "test" validates on the test images, which is the article's choice and leaks them.
        seed: of the split. One seed, one split, whatever else changes.

    Returns: Dataset. Raises: UserError.
    """
    if name == "cifar10":
        try:
            (x, y), (x_test, y_test) = keras.datasets.cifar10.load_data()
        except Exception as error:  # Keras raises a plain Exception when the download fails
            raise UserError(
                f"CIFAR-10 cannot be downloaded ({error}). Without a network, give a folder train/<class>/*, "
                "test/<class>/* of images: --data FOLDER (python data/make_toy.py data/toy draws one)"
            ) from error
        classes = "airplane automobile bird cat deer dog frog horse ship truck".split()
        names = [f"train/{i:05d}" for i in range(len(x))]
        data = Dataset(name, classes, x, y.ravel().astype(np.int64), names, x_test, y_test.ravel().astype(np.int64))
    else:
        data = load_folder(name)
    data.train, data.val, data.rest = split_labels(data.y, num_labeled, validation, seed)
    return data


def load_folder(folder):
    """Reads train/<class>/* and test/<class>/* in sorted order; what cannot be read is named and skipped."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Data is 'cifar10', or a folder train/<class>/*, test/<class>/*; "
                        "python data/make_toy.py data/toy draws one")
    arrays, class_names = [], {}
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            raise UserError(f"{folder}: has no folder {part}/ (expected {part}/<class>/<images>)")
        class_names[part] = sorted(entry.name for entry in (folder / part).iterdir() if entry.is_dir())
        if class_names[part] != class_names["train"] or len(class_names[part]) < 2:
            raise UserError(f"{folder}: classes are the folders in train/ and test/, at least two and the same in both; "
                            f"{part}/ has {class_names[part]}")
        images, labels, paths = read_classes(folder / part, class_names[part])
        arrays += [images, labels, [path.relative_to(folder).as_posix() for path in paths]]
    x, y, names, x_test, y_test, _ = arrays
    return Dataset(str(folder), class_names["train"], x, y, names, x_test, y_test)


def read_classes(folder, class_names):
    """All images of <folder>/<class>/*: uint8 (N, 32, 32, 3), int64 (N,), and their N paths.

    Raises: UserError where a class has no readable image.
    """
    paths, labels = [], []
    for label, class_name in enumerate(class_names):
        files = sorted(path for path in (folder / class_name).rglob("*") if not path.is_dir())
        paths += files
        labels += [label] * len(files)
    images, unreadable = read_images(paths)
    if unreadable:
        print(f"warning: {len(unreadable)} files in {folder} are not readable images and are left out:")
        for path, reason in unreadable[:5]:
            print(f"  {str(path)!r}: {reason}")
    skipped = {path for path, _ in unreadable}
    kept = [i for i, path in enumerate(paths) if path not in skipped]
    labels = np.array(labels, dtype=np.int64)[kept]
    missing = [name for label, name in enumerate(class_names) if label not in labels]
    if missing:
        raise UserError(f"{folder}: no readable image of {', '.join(missing)}")
    return images, labels, [paths[i] for i in kept]


def read_images(paths):
    """Decodes many files, on all cores where there are many.

    Returns: uint8 (N, 32, 32, 3) of those that can be read, in the order given, and a list of
        (path, reason) of those that cannot.
    """
    images, unreadable = np.empty((len(paths), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8), []
    with decoders() as pool:
        for i, image in enumerate(pool.map(read_or_reason, paths, chunksize=CHUNK)):
            if isinstance(image, UserError):
                unreadable.append((paths[i], str(image)))
            else:
                images[i - len(unreadable)] = image
    return images[:len(paths) - len(unreadable)], unreadable


def read_or_reason(file):
    """read_image, or the UserError that says why not: what a worker sends back."""
    try:
        return read_image(file)
    except UserError as error:
        return error


def decoders(count=None):
    """A pool of `count` workers to decode with; default, one per core.

    Linux gets processes: threads of one Python wait for each other over small images, and are slower than no
    threads at all. Elsewhere a process would first have to import TensorFlow, so there are threads.
    """
    count = count or os.cpu_count()
    if sys.platform != "linux":
        return ThreadPoolExecutor(count)
    return ProcessPoolExecutor(count, multiprocessing.get_context("fork"), initializer=live_and_die_with_parent)


def live_and_die_with_parent():
    """A worker leaves Ctrl-C to the script, and does not outlive it: the kernel sees to that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    for lock in OCCUPIED.values():
        lock.close()


def read_image(file):
    """Any image, any size, any mode -> uint8 (32, 32, 3), 0..255.

    Turned upright (EXIF), cropped to its central square, resized with an antialiasing filter.
    Article: images had to be resized by hand, and one grey image stopped the script.

    Args:
        file: a path or a binary file object.

    Raises: UserError, with the reason, for whatever is not a readable image.
    """
    try:
        if isinstance(file, (str, pathlib.Path)):
            status = os.stat(file)
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
                raise UserError("not a regular file")
            if status.st_size == 0:
                raise UserError("empty file")
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise UserError(f"{image.width}x{image.height} pixels, more than {Image.MAX_IMAGE_PIXELS} (a bomb?)")
            # A JPEG can be decoded at a half, a quarter or an eighth of its size, in less time. At four times what is
            # asked for, the result differs by less than it does between two good resizing filters.
            scale = JPEG_DETAIL * IMAGE_SIZE / min(image.size)
            image.draft(None, [math.ceil(side * scale) for side in image.size])
            if image.getexif().get(ORIENTATION, 1) != 1:
                image = ImageOps.exif_transpose(image)
            image = to_rgb(image)
            if image.size != (IMAGE_SIZE, IMAGE_SIZE):
                image = ImageOps.fit(image, (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
            return np.array(image)
    except UserError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UserError("not an image") from error
    except Exception as error:  # a decoder fed with broken bytes raises almost anything
        raise UserError(f"{type(error).__name__}: {error}") from error


def to_rgb(image):
    """A Pillow image of any mode -> RGB. Transparency is shown on white, 16 bits become 8."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = np.asarray(image, dtype=np.float64)
        grey = grey / 257 if grey.max(initial=0) > 255 else grey
        return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def split_labels(y, num_labeled=None, validation="split", seed=0):
    """Draws which training images are trained on, validated on, and left without a label.

    Every class keeps its share in each of the three, and no image is in two of them.

    Args:
        y: int (N,), the classes.

    Returns: three sorted int64 index arrays: train, val, rest.
    """
    num_labeled = len(y) if num_labeled is None else num_labeled
    num_val = min(int(num_labeled * VALIDATION_SHARE), VALIDATION_MOST) if validation == "split" else 0
    if num_labeled > len(y):
        raise UserError(f"--num-labeled {num_labeled}: the data set has {len(y)} training images")
    if num_labeled < len(np.unique(y)) or (validation == "split" and num_val == 0):
        raise UserError(f"--num-labeled {num_labeled}: too few for {len(np.unique(y))} classes and a validation set")
    rng = np.random.default_rng(seed)
    # Each image's place within its own class, 0..1, in random order: sorting by it interleaves the classes.
    place = np.empty(len(y))
    for c in np.unique(y):
        members = np.flatnonzero(y == c)
        place[members] = (rng.permutation(len(members)) + rng.random()) / len(members)
    order = np.argsort(place, kind="stable")
    val, train, rest = np.split(order, [num_val, num_labeled])
    if len(np.unique(y[train])) < len(np.unique(y)):
        raise UserError(f"--num-labeled {num_labeled}: too few, some classes get no image to train on")
    return np.sort(train), np.sort(val), np.sort(rest)


# --- the network ---------------------------------------------------------------------------------


def shortcut_en(x, residual, name=None):
    """Adds the block's input to its residual, projected by a 1x1 convolution where the shapes differ.

    Args:
        x: (batch, h, w, c), the input of the block.
        residual: (batch, h', w', c'), the output of its convolutions.

    Returns: (batch, h', w', c').
    """
    if x.shape != residual.shape:
        strides = (round(x.shape[1] / residual.shape[1]), round(x.shape[2] / residual.shape[2]))
        x = layers.Conv2D(residual.shape[-1], 1, strides=strides, kernel_initializer="he_normal",
                          kernel_regularizer=keras.regularizers.L2(1e-4), name=part(name, "shortcut_conv"))(x)
        x = layers.BatchNormalization(name=part(name, "shortcut_bn"))(x)
    return layers.Add(name=part(name, "add"))([x, residual])


def part(name, suffix):
    """A layer's name within a block. By these names weights find their way between teacher and student."""
    return f"{name}_{suffix}" if name else None


def residual_path(x, filters, strides=1, name=None):
    """1x1, 3x3, 1x1 convolutions, (batch, h, w, c) -> (batch, h/strides, w/strides, 4*filters).

    Article: the stride sits on the last convolution, so a strided block throws three quarters of its
    3x3 work away. It stays: this is the article's network.
    """
    for i, (width, kernel, stride) in enumerate(((filters, 1, 1), (filters, 3, 1), (filters * 4, 1, strides)), 1):
        x = layers.Conv2D(width, kernel, strides=stride, padding="same", name=part(name, f"conv{i}"))(x)
        x = layers.BatchNormalization(name=part(name, f"bn{i}"))(x)
        if i < 3:
            x = layers.ReLU(name=part(name, f"relu{i}"))(x)
    return x


def normal_resblock50(data, filters, strides=1, name=None):
    """The teacher's bottleneck block: relu(data + residual), (batch, h, w, c) -> (batch, h/s, w/s, 4*filters)."""
    x = residual_path(data, filters, strides, name)
    x = shortcut_en(data, x, name)
    return layers.ReLU(name=part(name, "relu3"))(x)


def build_resnet(depth=50, width=1.0, num_classes=10, block=normal_resblock50, dropout=None):
    """The article's ResNet, for 32x32 images.

    Args:
        depth: 14, 26, 50 (the article's: 23,590,794 parameters), 101 or 152.
        width: multiplies every filter count.
        block: called as block(x, filters, strides, name=...); the student brings its own.
        dropout: rate before the classifier; None builds no such layer.

    Returns: keras.Model, uint8 (batch, 32, 32, 3) 0..255 -> probabilities, float32 (batch, num_classes).
        Scaling to 0..1 is the first layer, so no script can forget it or do it twice.
    """
    def scaled(filters):
        return max(1, round(filters * width))

    inputs = layers.Input((IMAGE_SIZE, IMAGE_SIZE, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255, name="scale")(inputs)
    x = layers.Conv2D(scaled(STEM_FILTERS), 5, padding="same", name="stem_conv")(x)  # (batch, 32, 32, 32)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(name="stem_relu")(x)
    for stage, ((filters, strides), blocks) in enumerate(zip(STAGES, BLOCKS_PER_STAGE[depth]), 1):
        for i in range(blocks):
            x = block(x, scaled(filters), strides if i == 0 else 1, name=f"stage{stage}_block{i + 1}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)  # (batch, 8, 8, 2048) -> (batch, 2048)
    if dropout is not None:
        # The seed is replaced in every epoch (see Recorder). Without one, Keras takes PyTorch's own dropout, which no epoch could repeat.
        x = layers.Dropout(dropout, seed=0, name="dropout")(x)
    x = layers.Dense(num_classes, name="logits")(x)
    outputs = layers.Activation("softmax", dtype="float32", name="probabilities")(x)
    return keras.Model(inputs, outputs, name=f"resnet{depth}")


# --- training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """What a recipe trains with where the command line says nothing."""

    batch_size: int
    epochs: int
    learning_rate: float
    weight_decay: float = 0.0
    one_cycle: bool = False  # warm up for a tenth of the steps, then a half cosine down to zero
    bn_momentum: float = 0.99  # of batch normalization's running statistics; a short run needs a shorter memory
    bfloat16: bool = False  # where the GPU has it
    flip_and_crop: bool = False  # mirrored and shifted images, as part of the noise on the input


RECIPES = {
    # Article: Adam at its default rate; 250 epochs as they are, then up to 50 with the brakes on.
    "article": Recipe(batch_size=64, epochs=300, learning_rate=1e-3),
    "fast": Recipe(batch_size=64, epochs=30, learning_rate=3e-3, weight_decay=0.02, one_cycle=True, bn_momentum=0.9,
                   bfloat16=True, flip_and_crop=True),
}
CONSTANT_SHARE = 250 / 300  # of the article's epochs, before ReduceLROnPlateau and EarlyStopping join


def shuffled_batches(x, y, batch_size, seed=0, first_batch=0):
    """Endless batches, shuffled anew in every pass over the data; a pass ends in the middle of a batch if it must.

    Batch number k depends on the seed and on k alone. A resumed run starts at the batch where it was
    killed, and sees what it would have seen.

    Args:
        x, y: anything with a length that takes an array of indices.
        first_batch: number of the first batch to yield.

    Yields: (number, x[indices], y[indices]).
    """
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"x and y must have the same length, at least 1; got {len(x)} and {len(y)}")
    number, current, order = first_batch, None, None
    while True:
        position = np.arange(number * batch_size, (number + 1) * batch_size)
        indices = np.empty(batch_size, dtype=np.int64)
        for this_pass in np.unique(position // len(x)):
            if this_pass != current:
                current, order = this_pass, np.random.default_rng([seed, this_pass]).permutation(len(x))
            inside = position // len(x) == this_pass
            indices[inside] = order[position[inside] % len(x)]
        yield number, x[indices], y[indices]
        number += 1


class JoinedRows:
    """Chosen rows of several arrays, read as one array; only the rows that are asked for are copied.

    Args:
        parts: (array, indices) pairs, of one row shape and dtype.
    """

    def __init__(self, *parts):
        self.arrays = [array for array, _ in parts]
        self.part = np.repeat(np.arange(len(parts)), [len(indices) for _, indices in parts])
        self.row = np.concatenate([indices for _, indices in parts])

    def __len__(self):
        return len(self.row)

    def __getitem__(self, indices):
        """int (B,) -> the B rows."""
        part, row = self.part[indices], self.row[indices]
        rows = np.empty((len(indices), *self.arrays[0].shape[1:]), self.arrays[0].dtype)
        for number, array in enumerate(self.arrays):
            here = np.flatnonzero(part == number)
            rows[here] = array[row[here]]
        return rows


def made_ahead(items, ahead=2):
    """The same items in the same order; the next ones are made in a thread while the last one is used.

    Args:
        items: an iterator, endless or not, that never yields None.
    """
    maker = ThreadPoolExecutor(1)
    try:
        waiting = deque(maker.submit(next, items, None) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(maker.submit(next, items, None))
            yield item
    finally:
        maker.shutdown(cancel_futures=True)


def prepare_backend(seed):
    """Seeds everything; every script calls it before it does anything else.

    From here to loss_gradient are the only lines that know which backend runs.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()
    elif keras.backend.backend() == "jax":
        import jax

        if not jax.config.jax_compilation_cache_dir:  # what takes minutes to compile is kept for the next run
            jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/jax"))
    # Linux' malloc gives every freed tensor back to the kernel and asks for it again in the next step, which
    # took more than half of a training step's time on two cores. Keep it: one arena, no trimming, growth by 256 MiB.
    # It must be said before there is a second thread: an arena that exists is used on.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for option, value in ((-8, 1), (-3, 1 << 25), (-1, 2**31 - 1), (-2, 1 << 28)):
            mallopt(option, value)


def jit_where_it_pays():
    """Keras' `jit_compile`. On a CPU, TensorFlow's own kernels are faster than XLA's."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        return bool(tensorflow.config.list_physical_devices("GPU")) and not tensorflow.distribute.has_strategy()
    return "auto"


def has_bfloat16():
    """Whether there is a GPU that multiplies in bfloat16, which Ampere (compute capability 8.0) brought."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        details = map(tensorflow.config.experimental.get_device_details, tensorflow.config.list_physical_devices("GPU"))
        return any(gpu.get("compute_capability", (0, 0)) >= (8, 0) for gpu in details)
    if backend == "jax":
        import jax

        return jax.default_backend() == "gpu" and float(jax.devices()[0].compute_capability) >= 8
    import torch

    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


@contextlib.contextmanager
def on_hardware(precision, devices, batch_size):
    """Where a network is built and trained, and in which numbers.

    Args:
        precision: "float32", or "bfloat16": weights stay float32, and what is computed from them is bfloat16.
        devices: "one"; or "all": every GPU of the machine holds the network and takes its share of each batch.
            Batch normalization's statistics then run over the whole batch with JAX, over each share with TensorFlow.

    Raises: UserError where the devices cannot share a batch.
    """
    backend, before = keras.backend.backend(), keras.config.dtype_policy()
    with contextlib.ExitStack() as stack:
        if devices == "all":
            count = 0
            if backend == "tensorflow":
                import tensorflow

                names = [device.name for device in tensorflow.config.list_logical_devices("GPU")
                         or tensorflow.config.list_logical_devices("CPU")]
                stack.enter_context(tensorflow.distribute.MirroredStrategy(names).scope())
                count = len(names)
            elif backend == "jax":
                keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
                stack.callback(keras.distribution.set_distribution, None)
                count = len(keras.distribution.list_devices())
            else:
                raise UserError("--devices all is for TensorFlow and JAX (KERAS_BACKEND=jax)")
            if batch_size % count:
                raise UserError(f"--devices all: {count} devices cannot share a batch of {batch_size} equally; give another --batch-size")
            print(f"{count} devices, {batch_size // count} images of each batch on each")
        keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
        stack.callback(keras.config.set_dtype_policy, before)
        yield


def feed(batches, images=None):
    """What fit() is given: the batches of batches() from the first one on, the next ones made while one is used.

    Args:
        batches: makes a generator of (images, labels), NumPy.
        images: how many images a batch has; None, if not all have as many.
    """
    if keras.backend.backend() != "tensorflow":
        return made_ahead(batches())
    import tensorflow

    signature = tuple(tensorflow.TensorSpec((images, *array.shape[1:]), array.dtype) for array in next(batches()))
    dataset = tensorflow.data.Dataset.from_generator(batches, output_signature=signature).prefetch(2)
    # What tf.data does by itself to go faster is done by a thread that is waited for at the end: often as long again as
    # everything before took, up to a minute.
    options = tensorflow.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def in_batches(x, t):
    """What fit() is given to validate on: images (N, 32, 32, 3) and labels (N, C), 256 at a time."""
    if keras.backend.backend() != "tensorflow":
        return x, t
    return feed(lambda: ((x[i:i + BATCH], t[i:i + BATCH]) for i in range(0, len(x), BATCH)))


def loss_gradient(network, x, t):
    """The gradient of each image's cross-entropy with respect to its pixels.

    Args:
        network: keras.Model, float (N, 32, 32, 3) -> logits (N, C). x: (N, 32, 32, 3). t: (N, C).

    Returns: float32 (N, 32, 32, 3), NumPy.
    """
    def loss(images):
        return keras.ops.sum(keras.losses.categorical_crossentropy(t, network(images, training=False), from_logits=True))

    backend, x = keras.backend.backend(), keras.ops.convert_to_tensor(x, dtype="float32")
    if backend == "tensorflow":
        import tensorflow

        with tensorflow.GradientTape() as tape:
            tape.watch(x)
            value = loss(x)
        gradient = tape.gradient(value, x)
    elif backend == "jax":
        import jax

        gradient = jax.grad(loss)(x)
    else:
        x.requires_grad_(True)
        loss(x).backward()
        gradient = x.grad
    return keras.ops.convert_to_numpy(gradient)


def compile_model(model, recipe, learning_rate, steps):
    """Optimizer, schedule and loss of a Recipe, for a training of so many steps."""
    optimizer = keras.optimizers.Adam(learning_rate)
    if recipe.one_cycle:
        schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - steps // 10, warmup_target=learning_rate,
                                                          warmup_steps=steps // 10)
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = recipe.bn_momentum
    model.compile(optimizer, loss="categorical_crossentropy", metrics=["accuracy"], jit_compile=jit_where_it_pays())


def train(model, batches, held_out, log_dir, *, recipe, batch_size, epochs, steps_per_epoch, learning_rate,
          early_stopping, seed, **_):
    """Trains to the end, or from the last finished epoch to the end.

    Args:
        model: as built; train() compiles it.
        batches: batches(first_batch) -> an endless generator of (images, labels) from that batch on.
        held_out: (images, labels) to validate on, never the ones trained on.
        log_dir: gets history.csv, best.keras, backup/ after every epoch, and model.keras at the end.
        early_stopping: epochs without a better validation loss before the article's second phase ends;
            0 trains all epochs.

    Raises: UserError when the loss is no longer a number.
    """
    log_dir = pathlib.Path(log_dir)
    compile_model(model, RECIPES[recipe], learning_rate, steps=epochs * steps_per_epoch)

    phases = [(0, epochs, [])]
    if recipe == "article":
        constant = round(epochs * CONSTANT_SHARE)
        brakes = [keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.1, patience=3)]
        if early_stopping:
            brakes.append(keras.callbacks.EarlyStopping(monitor="val_loss", patience=early_stopping))
        phases = [(0, constant, []), (constant, epochs, brakes)]

    recorder = Recorder(log_dir, seed)
    recorder.restore(model)
    if recorder.epoch:
        print(f"resuming {log_dir} after epoch {recorder.epoch} of {epochs}")
    for first, last, brakes in phases:
        if recorder.epoch >= last or recorder.stopped:
            continue
        recorder.begin_phase(first, brakes, learning_rate)
        model.fit(feed(functools.partial(batches, recorder.epoch * steps_per_epoch), batch_size), initial_epoch=recorder.epoch,
                  epochs=last, steps_per_epoch=steps_per_epoch, shuffle=False, validation_data=in_batches(*held_out),
                  validation_batch_size=BATCH,
                  callbacks=[*brakes, recorder], verbose=1 if sys.stdout.isatty() else 2)
    with whole_file(log_dir / "model.keras") as path:
        model.save(path, include_optimizer=False)
    return recorder


class Recorder(keras.callbacks.Callback):
    """After every epoch writes history.csv, best.keras and backup/, so that a killed run can go on exactly.

    Keras' own BackupAndRestore saves weights and optimizer, but neither the random state of dropout
    and stochastic depth nor the counters of ReduceLROnPlateau and EarlyStopping. Here the random
    state is set anew from (seed, epoch) whenever an epoch begins, and the counters are won back by
    showing the callbacks the history again. Must be the last callback: it saves what the others did.
    """

    def __init__(self, log_dir, seed):
        super().__init__()
        self.log_dir, self.seed = pathlib.Path(log_dir), seed
        self.state_file = self.log_dir / "backup" / "state.json"
        self.history, self.epoch, self.stopped, self.seconds = [], 0, False, 0.0

    def restore(self, model):
        """Loads the state after the last finished epoch, if there is one."""
        if not self.state_file.exists():
            return
        state = read_json(self.state_file)
        if wrong := misfit(state, STATE) or next(filter(None, (misfit(row, HISTORY) for row in state["history"])), None):
            raise UserError(f"{self.state_file}: damaged, or of another version ({wrong}). Delete {self.log_dir} and train again")
        self.epoch, self.stopped, self.seconds, self.history = (state[key] for key in ("epoch", "stopped", "seconds", "history"))
        weights = self.state_file.parent / state["weights"]
        if not weights.is_file() or sha256(weights) != state["weights_sha256"]:
            raise UserError(f"{weights}: missing, or not what its run wrote. Delete {self.log_dir} and train again")
        try:
            with open(weights, "rb") as file:
                for variable in self.variables(model):
                    variable.assign(np.load(file, allow_pickle=False))
        except (ValueError, EOFError) as error:
            raise UserError(f"{weights}: of another network or version. Delete {self.log_dir} and train again") from error

    def variables(self, model):
        """All that a training changes: weights, running statistics, random states, the optimizer's moments and its clock."""
        model.optimizer.build(model.trainable_variables)
        return [*model.variables, *model.optimizer.variables]

    def begin_phase(self, first_epoch, brakes, learning_rate):
        self.first_epoch, self.brakes, self.learning_rate = first_epoch, brakes, learning_rate

    def on_train_begin(self, logs=None):
        self.started = time.monotonic() - self.seconds
        seen = self.history[self.first_epoch:]
        if self.brakes and seen:
            self.model.optimizer.learning_rate = self.learning_rate
            for row in seen:
                for callback in self.brakes:
                    callback.on_epoch_end(row["epoch"] - 1, dict(row))
            self.model.stop_training = False

    def on_epoch_begin(self, epoch, logs=None):
        rng = np.random.default_rng([self.seed, epoch])
        for layer in self.model._flatten_layers():
            for generator in {id(g): g for g in vars(layer).values() if isinstance(g, keras.random.SeedGenerator)}.values():
                generator.state.assign(rng.integers(2**31, size=2, dtype=np.uint32))
        self.rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs=None):
        if not all(math.isfinite(logs[key]) for key in ("loss", "val_loss")):
            raise UserError(
                f"the loss is {logs['loss']} (validation {logs['val_loss']}) in epoch {epoch + 1}: stopped. "
                f"{self.log_dir} keeps the state after epoch {epoch}; try a lower --learning-rate in a new --log-dir")
        row = {"epoch": epoch + 1, **{key: float(logs[key]) for key in ("loss", "accuracy", "val_loss", "val_accuracy")},
               "learning_rate": self.rate}
        best_so_far = min((r["val_loss"] for r in self.history), default=math.inf)
        self.history.append(row)
        write_history(self.log_dir / "history.csv", self.history)
        if row["val_loss"] < best_so_far:
            with whole_file(self.log_dir / "best.keras") as path:
                self.model.save(path, include_optimizer=False)
        self.epoch, self.seconds = epoch + 1, time.monotonic() - self.started
        weights = self.state_file.with_name(f"epoch{self.epoch:04d}.npy")
        with whole_file(weights) as path, open(path, "wb") as file:
            for variable in self.variables(self.model):
                np.save(file, keras.ops.convert_to_numpy(variable), allow_pickle=False)
        # state.json names the weights it belongs to: until it is renamed into place, the old pair counts.
        write_json(self.state_file, {"epoch": self.epoch, "weights": weights.name, "weights_sha256": sha256(weights),
                                     "history": self.history, "seconds": round(self.seconds, 3),
                                     "stopped": bool(self.model.stop_training)})
        for old in set(self.state_file.parent.glob("epoch*.npy")) - {weights}:
            old.unlink()


def my_eval(model, x, t, probabilities=None):
    """Prints and returns plain cross-entropy (nats per image, no L2 term) and accuracy (0..1), article step 1.

    Article: its loss is model.evaluate's, which adds the L2 term of the shortcuts.

    Args:
        x: uint8 (N, 32, 32, 3). t: one-hot or soft labels, (N, C).
        probabilities: what the model says about x, (N, C), where that is known already.
    """
    loss, accuracy = score(predict(model, x) if probabilities is None else probabilities, t)
    print(f"loss: {loss:.4f}")
    print(f"acc: {accuracy:.4f}")
    return loss, accuracy


def predict(model, x):
    """uint8 (N, 32, 32, 3) -> the network's probabilities, float32 (N, C)."""
    size = min(BATCH, len(x))
    batches = np.resize(x, (-(-len(x) // size), size, *x.shape[1:]))  # the last one filled up: each size is compiled anew
    return np.concatenate([model.predict_on_batch(batch)[:size] for batch in batches])[:len(x)]


def save_predictions(log_dir, model, data):
    """Runs the network on the images it was not trained on, and keeps what it says in predictions.npz.

    Returns: {"test": float32 (N, C), "validation": float32 (V, C), "made_from": sha256 of network and data}.
    """
    predictions = {"test": predict(model, data.x_test), "validation": predict(model, data.validation()[0]),
                   "made_from": predictions_key(sha256(pathlib.Path(log_dir) / "model.keras"), data.lineage())}
    write_arrays(pathlib.Path(log_dir) / "predictions.npz", **predictions)
    return predictions


def predictions_key(model_sha256, made_from):
    return sha256(*(text.encode() for text in (model_sha256, made_from["data_sha256"], made_from["split_sha256"])))


def score(probabilities, t):
    """Plain cross-entropy and accuracy of predictions (N, C) against one-hot or soft labels (N, C)."""
    log_p = np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny))
    return float(-(t * log_p).sum(axis=1).mean()), float((probabilities.argmax(1) == t.argmax(1)).mean())


# --- files that are whole or absent, and runs that know what they were made from --------------------


@contextlib.contextmanager
def whole_file(path):
    """Gives a path beside `path` to write to, and renames it into place when all went well and is on the disk."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{UNFINISHED}{secrets.token_hex(8)}-{path.name}")  # a name that nobody can have put there
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
        if os.name == "posix":  # the new name, too
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        error.filename = str(path)  # a full disk does not say which file it had no room for
        raise
    finally:
        beside.unlink(missing_ok=True)


def occupy(folder):
    """Keeps a folder for this process until it ends, however it ends, and sweeps out what a killed one left unfinished.

    Raises: UserError where another process has it.
    """
    folder = pathlib.Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lock = OCCUPIED.get(folder) or open(folder / ".lock", "a")
    for attempt in range(20):  # the workers of a killed run may hold it for another moment
        try:
            if fcntl:  # absent on Windows
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(0.1)
    else:
        raise UserError(f"{folder}: another run is writing there right now; let it finish, or choose another folder")
    OCCUPIED[folder] = lock
    for path in folder.rglob(f"{UNFINISHED}*"):
        path.unlink()


def sha256(*parts):
    """sha256 of paths' contents and arrays' or bytes' values, one after the other."""
    digest = hashlib.sha256()
    for item in parts:
        if isinstance(item, (str, pathlib.Path)):
            with open(item, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        else:
            digest.update(item)
    return digest.hexdigest()


def write_json(path, content):
    """Writes a dictionary, and with it the sha256 of itself, by which read_json sees that it was not changed."""
    content = {**content, SEAL: sha256(json.dumps(content).encode())}
    with whole_file(path) as beside:
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_json(path):
    """What write_json wrote. Raises: UserError where it is anything else."""
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged, not JSON ({error})") from error
    if not isinstance(content, dict) or SEAL not in content:
        raise UserError(f"{path}: damaged, or of another program")
    if content.pop(SEAL) != sha256(json.dumps(content).encode()):
        raise UserError(f"{path}: damaged, or changed by hand: it is not what its run wrote")
    return content


def write_arrays(path, **arrays):
    """Writes a .npz of named arrays."""
    content = io.BytesIO()  # a zip archive that cannot be written to its end complains more than once
    np.savez_compressed(content, **arrays)
    with whole_file(path) as beside:
        beside.write_bytes(content.getvalue())


def read_arrays(path, mmap_mode=None):
    """The array in a .npy, or {name: array} of a .npz. Raises: UserError where it is not that, or holds more than numbers."""
    try:
        arrays = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
        if pathlib.Path(path).suffix == ".npz":
            with arrays:
                return dict(arrays)
        if not isinstance(arrays, np.ndarray):
            raise TypeError("an archive")
        return arrays
    except Exception as error:  # a damaged or forged header raises almost anything
        raise UserError(f"{path}: damaged, or not a file of numbers ({type(error).__name__}: {first_line(error)})") from error


def read_history(path):
    """history.csv as a list of dictionaries, numbers as they were. Raises: UserError where it is damaged."""
    with open(path, newline="", encoding="utf-8") as file:
        try:
            return [{key: int(row[key]) if kind is int else float(row[key]) for key, kind in HISTORY.items()}
                    for row in csv.DictReader(file)]
        except (ValueError, TypeError, KeyError, csv.Error) as error:
            raise UserError(f"{path}: damaged, not a table of a training's numbers ({error})") from error


def write_history(path, rows):
    with whole_file(path) as beside, open(beside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def open_run(log_dir, script, arguments, made_from, resumable=True):
    """The record of a run: a new one, or the one already in log_dir, finished or not.

    Raises: UserError where log_dir holds a run made with other arguments or from other files. One that is
        neither finished nor resumable, of the same script, holds nothing worth keeping, and gives way.
    """
    occupy(log_dir)
    path = pathlib.Path(log_dir) / "run.json"
    record = {"script": script, "finished": False, "arguments": arguments, "made_from": made_from,
              "versions": {"python": platform.python_version(), "keras": keras.__version__, "numpy": np.__version__,
                           "backend": keras.backend.backend()}}
    old = read_record(path) if path.exists() else None
    if old is None or not (old["finished"] or resumable or old["script"] != script):
        write_json(path, record)
        return record
    was, now = ({"script": r["script"], **r["made_from"], **r["arguments"]} for r in (old, record))
    differs = [f"{key} {was.get(key)} there, {now.get(key)} here" for key in {**was, **now} if was.get(key) != now.get(key)]
    if differs:
        raise UserError(f"{log_dir} holds another run ({'; '.join(differs)}): choose another folder, or delete that one")
    return old


def finish_run(log_dir, record, **results):
    """Marks the run as finished and adds what came out."""
    record.update(finished=True, **results)
    write_json(pathlib.Path(log_dir) / "run.json", record)


def begin_training(log_dir, script, settings, made_from, data):
    """open_run for a network, and split.npz. Returns None, and says so, where there is nothing left to do."""
    record = open_run(log_dir, script, settings, made_from)
    if record["finished"]:
        print(f"{log_dir} is finished: test accuracy {record['test_accuracy']:.4f}")
        return None
    write_arrays(pathlib.Path(log_dir) / "split.npz", train=data.train, val=data.val, rest=data.rest)
    return record


def finish_training(log_dir, record, recorder, data, test_loss, test_accuracy, cell):
    """finish_run for a network. `cell` says which of the experiment's cells it is: its noise, its teacher's cell,
    how that teacher's labels were chosen, and here the size of the network."""
    cell |= {key: record["arguments"][key] for key in ("depth", "width")}
    finish_run(log_dir, record, cell=cell, class_names=data.class_names, test_loss=test_loss, test_accuracy=test_accuracy,
               steps=recorder.epoch * record["arguments"]["steps_per_epoch"], wall_seconds=round(recorder.seconds, 1),
               model_sha256=sha256(pathlib.Path(log_dir) / "model.keras"))


def load_run(log_dir, made_by):
    """The record of a finished run. Raises: UserError, with the command to run first."""
    path = pathlib.Path(log_dir) / "run.json"
    if not path.exists():
        raise UserError(f"{log_dir}: nothing there yet. Run first: {made_by}")
    record = read_record(path)
    if not record["finished"]:
        raise UserError(f"{log_dir}: not finished. The command that began it goes on: python {record['script']} ...")
    return record


# What records must hold for those who read them, and values of which kind; a dictionary stands for one that holds at least this.
NUMBER, PERHAPS = (int, float), (dict, type(None))
MADE_FROM = {"data": str, "data_sha256": str, "split_sha256": str}
CELL = {"noise": str, "pseudo": PERHAPS, "labelling": PERHAPS, "depth": int, "width": NUMBER}
RUN = {"script": str, "finished": bool, "arguments": dict, "made_from": dict}
TRAINING = {"arguments": {"seed": int, "steps_per_epoch": int}, "made_from": MADE_FROM, "cell": CELL, "class_names": list,
            "steps": int, "wall_seconds": NUMBER, "test_accuracy": NUMBER, "model_sha256": str}
LABELLING = {"arguments": {"images": list}, "made_from": MADE_FROM | {"teacher_sha256": str}, "teacher_cell": CELL,
             "class_names": list, "kept_per_class": list, "balanced": int, "sha256": {"x": str, "y": str, "index": str}}
STATE = {"epoch": int, "weights": str, "weights_sha256": str, "history": list, "seconds": NUMBER, "stopped": bool}
HISTORY = {"epoch": int, "loss": NUMBER, "accuracy": NUMBER, "val_loss": NUMBER, "val_accuracy": NUMBER, "learning_rate": NUMBER}


def misfit(content, shape):
    """The first key at which content lacks what `shape` wants, or holds another kind of value; None where all fits."""
    if not isinstance(content, dict):
        return "not a dictionary"
    for key, kind in shape.items():
        if isinstance(kind, dict):
            if inside := misfit(content.get(key), kind):
                return f"{key}: {inside}"
        elif key not in content or not isinstance(content[key], kind):
            return key
    return None


def misfit_of_cell(cell):
    """The same for a cell, its teacher's cell, and so on."""
    return misfit(cell, CELL) or ("noise" if cell["noise"] not in NOISES else cell["pseudo"] and misfit_of_cell(cell["pseudo"]))


def read_record(path):
    """A run.json. Raises: UserError where it is not one."""
    record = read_json(path)
    wrong = misfit(record, RUN)
    if not wrong and record["finished"]:
        kind, cell = (TRAINING, "cell") if "cell" in record else (LABELLING, "teacher_cell")
        wrong = misfit(record, kind) or misfit_of_cell(record[cell])
    if wrong:
        raise UserError(f"{path}: damaged, or of another program or version: it does not describe a run ({wrong})")
    return record


def load_model(log_dir, made_by="python cifar10_resnet50.py"):
    """The final model of a finished run and its record, in Keras' safe mode.

    Raises: UserError where the run is missing, unfinished or not what its run.json says.
    """
    record = load_run(log_dir, made_by)
    path = pathlib.Path(log_dir) / "model.keras"
    if "cell" not in record:
        raise UserError(f"{log_dir}: holds no network but what {record['script']} made. Run: {made_by}")
    if not path.exists() or sha256(path) != record["model_sha256"]:
        raise UserError(f"{path}: missing, or not the file that its run wrote. Delete {log_dir} and run: {made_by}")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True), record
    except Exception as error:  # a forged archive, configuration or weights file raises almost anything
        raise UserError(f"{path}: cannot be loaded ({type(error).__name__}: {first_line(error)})") from error


# --- the command line ----------------------------------------------------------------------------


def number(kind, low, high=math.inf, open_low=False):
    """An argparse type: an int or float in a range, or one line that says which."""
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (low < value if open_low else low <= value) or not value <= high or not math.isfinite(value):
            limits = f"{'above' if open_low else 'from'} {low}" + (f" to {high}" if high < math.inf else "")
            raise argparse.ArgumentTypeError(f"{text!r} is not {'a whole' if kind is int else 'a'} number {limits}")
        return value
    return parse


def add_training_arguments(parser, log_dir):
    """The flags that step 1 and step 4 share."""
    parser.add_argument("--data", default="cifar10", help="cifar10, or a folder train/<class>/*, test/<class>/*")
    parser.add_argument("--num-labeled", type=number(int, 1), metavar="N", help="training images that keep their label (all)")
    parser.add_argument("--validation", choices=("split", "test"), default="split", help="test: the article's choice, a leak")
    parser.add_argument("--recipe", choices=RECIPES, default="article")
    parser.add_argument("--depth", type=int, choices=BLOCKS_PER_STAGE, default=50)
    parser.add_argument("--width", type=number(float, 0, 16, open_low=True), default=1.0, help="multiplies every filter count")
    parser.add_argument("--epochs", type=number(int, 1), metavar="N", help="default: the recipe's")
    parser.add_argument("--steps-per-epoch", type=number(int, 1), metavar="N", help="default: labelled images / batch size")
    parser.add_argument("--batch-size", type=number(int, 1), metavar="N", help="default: the recipe's")
    parser.add_argument("--learning-rate", type=number(float, 0, open_low=True), metavar="X", help="default: the recipe's")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto",
                        help="auto: bfloat16 with --recipe fast, where the GPU has it")
    parser.add_argument("--devices", choices=("one", "all"), default="one", help="all: every GPU takes its share of a batch")
    parser.add_argument("--early-stopping", type=number(int, 0), default=10, metavar="N",
                        help="patience of the article's second phase, in epochs; 0: never stop early")
    parser.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=0)
    parser.add_argument("--log-dir", default=log_dir)


def fill_in(args, data):
    """The arguments as a dictionary, with the recipe's values where the command line gave none."""
    settings = {key: value for key, value in vars(args).items() if key not in ("log_dir", "data", "pseudo")}
    recipe = RECIPES[args.recipe]
    for key in ("epochs", "batch_size", "learning_rate"):
        settings[key] = getattr(recipe, key) if settings[key] is None else settings[key]
    if args.precision == "auto":
        settings["precision"] = "bfloat16" if recipe.bfloat16 and has_bfloat16() else "float32"
    # Matched optimizer steps: every cell of an experiment takes one step per batch of labelled images,
    # however many pseudo-labels it is given. Article: more images, more steps.
    settings["steps_per_epoch"] = settings["steps_per_epoch"] or max(1, len(data.train) // settings["batch_size"])
    return settings


def describe(data):
    print(f"{data.name}: {len(data.train)} labelled training images, {len(data.val) or len(data.x_test)} validation"
          f"{'' if len(data.val) else ' (the test images!)'}, {len(data.rest)} without label, "
          f"{len(data.x_test)} test, {data.num_classes} classes")


def run_script(main):
    """Runs a script's main(). A user's mistake becomes one line and exit status 1."""
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on (a training after its last finished epoch)", file=sys.stderr)
        sys.exit(130)
    except BrokenExecutor:
        sys.exit("error: a process that decodes images was killed, perhaps for want of memory; the same command begins anew, "
                 "and with --workers 1 needs less")
    except OSError as error:  # a full disk, a folder that must not be written to, ...
        reason = error.strerror or f"{', '.join(map(str, error.args))} (is the disk full?)"  # NumPy only counts what it wrote
        sys.exit(f"error: {f'{error.filename}: ' if error.filename else ''}{reason}. Nothing half-written is left; "
                 "the same command goes on once that is put right")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, log_dir="logs/teacher")
    args = parser.parse_args(argv)
    prepare_backend(args.seed)

    # The data
    data = load_data(args.data, args.num_labeled, args.validation, args.seed)
    describe(data)
    settings = fill_in(args, data)
    record = begin_training(args.log_dir, "cifar10_resnet50.py", settings, data.lineage(), data)
    if not record:
        return

    with on_hardware(settings["precision"], args.devices, settings["batch_size"]):
        # The network
        model = build_resnet(args.depth, args.width, data.num_classes)
        print(f"ResNet{args.depth}, width {args.width}: {model.count_params():,} parameters")

        # The training, without noise
        x_train, y_train = JoinedRows((data.x, data.train)), JoinedRows((data.one_hot(data.y), data.train))

        def batches(first_batch):
            for _, x, y in shuffled_batches(x_train, y_train, settings["batch_size"], args.seed, first_batch):
                yield x, y

        recorder = train(model, batches, data.validation(), args.log_dir, **settings)

        # What the teacher knows: the test set is read here, once
        predictions = save_predictions(args.log_dir, model, data)
    loss, accuracy = my_eval(model, data.x_test, data.one_hot(data.y_test), predictions["test"])
    finish_training(args.log_dir, record, recorder, data, loss, accuracy, cell={"noise": "none", "pseudo": None, "labelling": None})


if __name__ == "__main__":
    run_script(main)
