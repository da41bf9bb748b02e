"""Labelled images, and who may see which. Imports Keras only to download CIFAR-10."""

import dataclasses
import os
import pathlib
import unicodedata
from dataclasses import dataclass

import numpy as np

from noisy_student.files import UserError, sha256
from noisy_student.images import read_images

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
# Of the labelled images, so many are held out to validate on; never of the test images.
VALIDATION_SHARE, VALIDATION_MOST = 0.1, 5000


@dataclass
class Dataset:
    """Labelled images, and who may see which.

    x, y            all training images, uint8 (N, 32, 32, 3), and their classes, int64 (N,)
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
                "split_sha256": split_sha256(self.train, self.val, self.rest)}

    def with_split(self, train, val, rest):
        """The same images, differently divided."""
        return dataclasses.replace(self, train=train, val=val, rest=rest)

    def __str__(self):
        held_out = f"{len(self.val)} validation"
        if len(self.val) == 0:
            held_out = f"{len(self.x_test)} validation (the test images!)"
        return (f"{self.name}: {len(self.train)} labelled training images, {held_out}, "
                f"{len(self.rest)} without label, {len(self.x_test)} test, "
                f"{self.num_classes} classes")


def split_sha256(train, val, rest):
    return sha256(*(index.astype("<i8") for index in (train, val, rest)))


def load_data(name="cifar10", num_labeled=None, validation="split", seed=0):
    """Loads a data set and decides which training images keep their label.

    Args:
        name: "cifar10" (Keras' own verified download), or a folder train/<class>/*, test/<class>/*.
        num_labeled: how many training images keep their label (default: all). The others are
            `rest`.
        validation: "split" holds 10 % of the labelled images out (5,000 at most); "test" validates
            on the test images, which is the article's choice and leaks them.
        seed: of the split. One seed, one split, whatever else changes.

    Returns: Dataset. Raises: UserError.
    """
    data = load_cifar10() if name == "cifar10" else load_folder(name)
    return data.with_split(*split_labels(data.y, num_labeled, validation, seed))


def load_cifar10():
    import keras

    try:
        (x, y), (x_test, y_test) = keras.datasets.cifar10.load_data()
    except Exception as error:
        # Keras raises a plain Exception when the download fails.
        raise UserError(
            f"CIFAR-10 cannot be downloaded ({error}). Without a network, give a folder "
            "train/<class>/*, test/<class>/* of images: --data FOLDER "
            "(python data/make_toy.py data/toy draws one)") from error
    names = [f"train/{i:05d}" for i in range(len(x))]
    y, y_test = (labels.ravel().astype(np.int64) for labels in (y, y_test))
    return Dataset("cifar10", CIFAR10, x, y, names, x_test, y_test)


def load_folder(folder):
    """Reads train/<class>/* and test/<class>/* in sorted order."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Data is 'cifar10', or a folder "
                        "train/<class>/*, test/<class>/*; "
                        "python data/make_toy.py data/toy draws one")
    class_names, arrays = None, []
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            raise UserError(f"{folder}: has no folder {part}/ "
                            f"(expected {part}/<class>/<images>)")
        found = class_folders(folder / part)
        class_names = class_names or found
        if list(found) != list(class_names) or len(found) < 2:
            raise UserError(f"{folder}: classes are the folders in train/ and test/, at least two "
                            f"and the same in both; {part}/ has {list(found)}, "
                            f"train/ has {list(class_names)}")
        images, labels, paths = read_classes(folder / part, found)
        arrays += [images, labels, [path.relative_to(folder).as_posix() for path in paths]]
    return Dataset(str(folder), list(class_names), *arrays[:5])


def class_folders(folder):
    """{class name: folder} of the folders in a folder, sorted; hidden ones are no classes.

    One name may be written with other code points on another system (é as e and an accent).
    """
    folders = [entry for entry in os.scandir(folder) if entry.is_dir() and not hidden(entry.name)]
    named = {unicodedata.normalize("NFC", entry.name): pathlib.Path(entry) for entry in folders}
    return dict(sorted(named.items()))


def hidden(name):
    """Whether a program put it there for itself: .ipynb_checkpoints, .DS_Store, __MACOSX."""
    return name == "__MACOSX" or (name.startswith(".") and name not in (".", ".."))


def visible_files(folder):
    """Every file below a folder that is not hidden, sorted within each folder: paths.

    Links to folders are not followed.
    """
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if hidden(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from visible_files(entry.path)
        else:
            yield pathlib.Path(entry.path)


def read_classes(folder, folders):
    """All images of each class.

    Args:
        folders: {class name: folder}, in the order of the classes' numbers.

    Returns: uint8 (N, 32, 32, 3), int64 (N,), and their N paths. What cannot be read is named and
        left out. Raises: UserError, where a class has no readable image.
    """
    paths, labels = [], []
    for label, class_folder in enumerate(folders.values()):
        files = list(visible_files(class_folder))
        paths += files
        labels += [label] * len(files)
    images, unreadable = read_images(paths)
    if unreadable:
        print(f"warning: {len(unreadable)} files in {folder} are not readable images "
              "and are left out:")
        for path, reason in unreadable[:5]:
            print(f"  {str(path)!r}: {reason}")
    skipped = {path for path, _ in unreadable}
    kept = [i for i, path in enumerate(paths) if path not in skipped]
    labels = np.array(labels, dtype=np.int64)[kept]
    missing = [name for label, name in enumerate(folders) if label not in labels]
    if missing:
        raise UserError(f"{folder}: no readable image of {', '.join(missing)}")
    return images, labels, [paths[i] for i in kept]


def split_labels(y, num_labeled=None, validation="split", seed=0):
    """Draws which training images are trained on, validated on, and left without a label.

    Every class keeps its share in each of the three, and no image is in two of them.

    Args:
        y: int (N,), the classes.

    Returns: three sorted int64 index arrays: train, val, rest. Raises: UserError, where a class
        would have nothing to train on.
    """
    classes = np.unique(y)
    wanted = len(y) if num_labeled is None else num_labeled
    num_val = 0
    if validation == "split":
        num_val = min(int(wanted * VALIDATION_SHARE), VALIDATION_MOST)
    if wanted > len(y):
        raise UserError(f"--num-labeled {wanted}: the data set has {len(y)} training images")
    said = f"--num-labeled {wanted}" if num_labeled else f"{wanted} training images"
    if wanted < len(classes) or (validation == "split" and num_val == 0):
        raise UserError(f"{said}: too few for {len(classes)} classes and a validation set")
    rng = np.random.default_rng(seed)
    # Each image's place within its own class, 0..1, in random order: sorting by it interleaves
    # the classes.
    place = np.empty(len(y))
    for c in classes:
        members = np.flatnonzero(y == c)
        place[members] = (rng.permutation(len(members)) + rng.random()) / len(members)
    val, train, rest = np.split(np.argsort(place, kind="stable"), [num_val, wanted])
    missing = [c for c in classes if c not in y[train]]
    if missing:
        raise UserError(f"{said}: too few, {len(missing)} of {len(classes)} classes get no image "
                        "to train on")
    return np.sort(train), np.sort(val), np.sort(rest)
