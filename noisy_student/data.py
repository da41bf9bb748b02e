"""Labelled images, and who may see which. Imports Keras only to download CIFAR-10."""

from dataclasses import dataclass

import numpy as np

from noisy_student import formats
from noisy_student.files import UserError, reading, sha256
from noisy_student.images import read_images
from noisy_student.metrics import exact_copies

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
# This share of the labelled images is held out to validate on, and at most VALIDATION_MOST of them.
# Test images never are.
VALIDATION_SHARE, VALIDATION_MOST = 0.1, 5000
# A data set without test images gives every fifth image of each class to test with.
TEST_EVERY = 5


@dataclass
class Dataset:
    """Labelled images, and who may see which.

    x, y            all training images, uint8 (N, 32, 32, 3), and their classes, int64 (N,);
                    -1 where a data set has no label for one, which is then in `rest`
    train/val/rest  int64 indices into x: to train on, to validate on, and left without a label
    x_test, y_test  the test images, read once, at the end
    names           one name per training image: its path, where there is one
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
        """What chooses checkpoints and learning rates: uint8 (V, 32, 32, 3), float32 (V, C)."""
        if len(self.val) == 0:
            # --validation test, the article's choice.
            return self.x_test, self.one_hot(self.y_test)
        return self.x[self.val], self.one_hot(self.y[self.val])

    def lineage(self):
        """What run.json keeps of the data, and what later steps compare."""
        class_names = "\n".join(self.class_names).encode(errors="surrogateescape")
        return {"data": self.name,
                "data_sha256": sha256(self.x, self.y, self.x_test, self.y_test, class_names),
                "split_sha256": sha256(*(index.astype("<i8")
                                         for index in (self.train, self.val, self.rest)))}

    def __str__(self):
        held_out = f"{len(self.val)} validation"
        if len(self.val) == 0:
            held_out = f"{len(self.x_test)} validation (the test images!)"
        return (f"{self.name}: {len(self.train)} labelled training images, {held_out}, "
                f"{len(self.rest)} without label, {len(self.x_test)} test, "
                f"{self.num_classes} classes")


def load_data(name="cifar10", num_labeled=None, validation="split", seed=0):
    """Loads a data set and decides which training images keep their label.

    Args:
        name: "cifar10" (Keras' own verified download), or what formats.READERS know, such as a
            folder train/<class>/*, test/<class>/*.
        num_labeled: how many training images keep their label (default: all). The others are
            `rest`.
        validation: "split" holds 10 % of the labelled images out (5,000 at most); "test" validates
            on the test images, which is the article's choice and leaks them.
        seed: of the split. One seed, one split, whatever else changes.

    Returns: Dataset. Raises: UserError.
    """
    data = load_cifar10() if name == "cifar10" else load_files(name)
    data.train, data.val, data.rest = split_labels(data.y, num_labeled, validation, seed)
    others = np.delete(data.x, data.val, axis=0)
    for what, x, known in (("test", data.x_test, data.x), ("validation", data.x[data.val], others)):
        if copies := exact_copies(x, known).sum():
            print(f"warning: {name}: {copies:,} of {len(x):,} {what} images are among the "
                  f"{'other ' if known is others else ''}training images, pixel for pixel")
    return data


def load_cifar10():
    import keras

    try:
        (x, y), (x_test, y_test) = keras.datasets.cifar10.load_data()
    except Exception as error:
        # Keras raises a plain Exception when the download fails.
        raise UserError(
            f"CIFAR-10 cannot be downloaded ({error}). Without a network, give its archive, "
            "--data cifar-10-python.tar.gz, or a folder train/<class>/*, test/<class>/* of images: "
            "--data FOLDER (python data/make_toy.py data/toy draws one)") from error
    names = [f"train/{i:05d}" for i in range(len(x))]
    y, y_test = (labels.ravel().astype(np.int64) for labels in (y, y_test))
    return Dataset("cifar10", CIFAR10, x, y, names, x_test, y_test)


def load_files(path):
    """Reads whatever formats.READERS know. Raises: UserError."""
    class_names, parts = formats.read(path)
    if "train" not in parts:
        raise UserError(f"{path}: has no labelled images to train on, such as "
                        "train/<class>/<images>")
    if len(class_names) < 2:
        raise UserError(f"{path}: has one class, {class_names}; at least two are expected")
    x, y, names = decode(path, class_names, parts["train"])
    if x.max() <= 1:
        raise UserError(f"{path}: no pixel is above {x.max()}; 0 to 255 are expected")
    if unlabelled := (y < 0).sum():
        print(f"{path}: {unlabelled:,} training images have no label, and are part of the rest")
    tested = "test" if "test" in parts else "val"
    if tested in parts:
        if "val" in parts:
            print(f"{path}: its validation images are "
                  f"{'the test images here' if tested == 'val' else 'not used'}")
        x_test, y_test = decode_tests(path, class_names, parts[tested])
        return Dataset(str(path), class_names, x, y, names, x_test, y_test)
    # No seed decides which: the test images stay the same.
    test = np.zeros(len(y), dtype=bool)
    for c in range(len(class_names)):
        test[np.flatnonzero(y == c)[TEST_EVERY - 1::TEST_EVERY]] = True
    if not test.any():
        raise UserError(f"{path}: has no test images, and no class has the {TEST_EVERY} training "
                        "images of which one could be held out; add test/<class>/*")
    untested = [name for c, name in enumerate(class_names) if not test[y == c].any()]
    print(f"{path}: has no test images with labels, so every {TEST_EVERY}th training image of a "
          f"class is one: {test.sum():,}{', none of ' if untested else ''}{', '.join(untested)}")
    names = [name for name, tested in zip(names, test) if not tested]
    return Dataset(str(path), class_names, x[~test], y[~test], names, x[test], y[test])


def decode(path, class_names, part, required=None):
    """Decodes a formats.Part.

    Args:
        required: names of classes that must have an image (all).

    Returns: uint8 (N, 32, 32, 3), int64 (N,), and N names. What cannot be read is named and left
        out. Raises: UserError, where a class has no readable image.
    """
    with reading(path):
        images, unreadable = read_images(part.files, len(part.labels))
    if unreadable:
        print(f"warning: {len(unreadable)} files in {path} are not readable images "
              "and are left out:")
        for i, reason in list(unreadable.items())[:5]:
            print(f"  {part.names[i]!r}: {reason}")
    kept = [i for i in range(len(part.labels)) if i not in unreadable]
    labels = part.labels[kept]
    required = class_names if required is None else required
    missing = [name for name in required if class_names.index(name) not in labels]
    if missing:
        raise UserError(f"{path}: no readable image of {', '.join(missing)}")
    return images, labels, [part.names[i] for i in kept]


def decode_tests(path, class_names, part, required=None):
    """Decodes a formats.Part to test with, without what has no label: images and classes."""
    x, y, _ = decode(path, class_names, part, required)
    if unlabelled := (y < 0).sum():
        print(f"{path}: {unlabelled:,} test images have no label, and are left out")
    return x[y >= 0], y[y >= 0]


def split_labels(y, num_labeled=None, validation="split", seed=0):
    """Draws which training images are trained on, validated on, and left without a label.

    Every class keeps its share in each of the three, and no image is in two of them.

    Args:
        y: int (N,), the classes; -1 for what has none and goes to `rest`.

    Returns: three sorted int64 index arrays: train, val, rest. Every class has an image to train
        on. Raises: UserError, where the images are too few for that, whatever the seed.
    """
    if (y < 0).any():
        labelled, unlabelled = np.flatnonzero(y >= 0), np.flatnonzero(y < 0)
        train, val, rest = split_labels(y[labelled], num_labeled, validation, seed)
        return labelled[train], labelled[val], np.sort(np.r_[labelled[rest], unlabelled])
    classes = np.unique(y)
    wanted = len(y) if num_labeled is None else num_labeled
    num_val = 0
    if validation == "split":
        num_val = min(int(wanted * VALIDATION_SHARE), VALIDATION_MOST)
    if wanted > len(y):
        raise UserError(f"--num-labeled {wanted}: the data set has {len(y)} training images")
    amount = f"--num-labeled {wanted}" if num_labeled else f"{wanted} training images"
    if wanted - num_val < len(classes) or (validation == "split" and num_val == 0):
        raise UserError(f"{amount}: too few for {len(classes)} classes and a validation set")
    rng = np.random.default_rng(seed)
    # Each image gets a random place within its own class, 0..1, and sorting by it interleaves the
    # classes: of 2 cats and 4 dogs, say at 0.3, 0.8 and 0.1, 0.35, 0.6, 0.85, the order is dog,
    # cat, dog, dog, cat, dog. So the first third of it, or any other, holds both in their shares.
    place = np.empty(len(y))
    for c in classes:
        members = np.flatnonzero(y == c)
        place[members] = (rng.permutation(len(members)) + rng.random()) / len(members)
    order = np.argsort(place, kind="stable")
    for c in classes:
        training = y[order[num_val:wanted]]
        if c not in training:
            # A rare class: an image of it changes places with the last one of a class of several.
            several = np.bincount(training)[training] > 1
            here = np.flatnonzero(y[order] == c)[0]
            there = num_val + np.flatnonzero(several)[-1]
            order[[here, there]] = order[[there, here]]
    val, train, rest = np.split(order, [num_val, wanted])
    return np.sort(train), np.sort(val), np.sort(rest)
