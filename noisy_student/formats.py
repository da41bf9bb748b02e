"""Labelled data as people have it: folders, CSV, Parquet, CIFAR's files, arrays; without Keras.

A new format is a reader and a line in READERS. Nothing is decoded here.
"""

import csv
import io
import itertools
import json
import os
import pathlib
import pickle
import re
import tarfile
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from noisy_student.files import UserError, read_arrays, reading

# What a part of a data set is called by a file or a folder, and here.
PARTS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
# Columns of Parquet files, the first that is there.
LABEL_COLUMNS = ("label", "labels", "fine_label")
# More bytes than CIFAR-100's largest file has.
LARGEST_BATCH = 256 << 20
# Names of arrays that belong together.
ARRAY_PAIRS = (("data", "labels"), ("images", "labels"), ("x", "y"), ("X", "y"))


class Part(NamedTuple):
    """The images to train on, to validate on, or to test with."""

    # Paths, bytes or uint8 (32, 32, 3) arrays, as the content of an images.Picture.
    files: Iterable
    # int (N,): places in the list of class names.
    labels: np.ndarray
    # One per image, the path where there is one.
    names: list


def read(path):
    """What a labelled data set consists of.

    Returns: the classes' names, and {"train", "val" or "test": Part}. Raises: UserError.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such folder or file. Data is 'cifar10', or a folder "
                        "train/<class>/*, test/<class>/*; python data/make_toy.py data/toy draws "
                        "one. README.md names the other formats")
    for recognises, reader in READERS:
        if recognises(path):
            with reading(path):
                class_names, parts = reader(path)
                # Competitions keep the labels of their test images to themselves.
                parts = {name: part for name, part in parts.items() if (part.labels >= 0).any()}
                for name, part in parts.items():
                    strange = set(part.labels.tolist()) - set(range(len(class_names)))
                    if strange:
                        raise UserError(f"{path}: the {name} images have a class {min(strange)}, "
                                        f"but there are {len(class_names)}, from 0 on")
            return class_names, parts
    raise UserError(f"{path}: neither a folder nor a Parquet file nor CIFAR's own archive; other "
                    "archives must be unpacked to train/<class>/*, test/<class>/*")


def part_of(path):
    """train, val or test, as a folder or the file's name says; None, where neither does."""
    for name in pathlib.Path(path).parts:
        for word in re.findall("[a-z]+", name.lower()):
            if word in PARTS:
                return PARTS[word]
    return None


def numbered(part, count):
    return [f"{part}/{i:05d}" for i in range(count)]


def names_of(labels):
    """Names for classes that are only numbers."""
    return [str(number) for number in range(max(labels, default=-1) + 1)]


# --- folders --------------------------------------------------------------------------------------


def hidden(name):
    """Whether a program put it there for itself: .ipynb_checkpoints, .DS_Store, __MACOSX."""
    return name == "__MACOSX" or (name.startswith(".") and name not in (".", ".."))


def visible_files(folder, passed=None, visited=None):
    """Every file below a folder that is not hidden, sorted within each folder: paths.

    Links to folders are followed, unless to where the way came from; no folder is read twice.

    Args:
        passed: a list that receives what is hidden. visited: where it has been.
    """
    visited, here = set() if visited is None else visited, os.path.realpath(folder)
    visited.add(here)
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if hidden(entry.name):
            if passed is not None:
                passed.append(entry.path)
        elif not entry.is_dir():
            yield pathlib.Path(entry.path)
        else:
            target = os.path.realpath(entry.path)
            upwards = os.path.join(here, "").startswith(os.path.join(target, ""))
            if target not in visited and not upwards:
                yield from visible_files(entry.path, passed, visited)


def class_folders(folder):
    """{class name: [folder, ...]} of the folders in a folder, sorted; hidden ones are no classes.

    One name may be written with other code points on another system (é as e and an accent).
    """
    named = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir() and not hidden(entry.name):
            name = unicodedata.normalize("NFC", entry.name)
            named.setdefault(name, []).append(entry.path)
    return dict(sorted(named.items()))


def read_folders(folder):
    """train/<class>/*, and test/ or val/; or <class>/* alone, which is to test with."""
    places = {PARTS[name]: folder / name for name in PARTS if (folder / name).is_dir()}
    class_names, parts, passed = None, {}, []
    for part, place in (places or {"test": folder}).items():
        found = class_folders(place)
        class_names = class_names or list(found)
        if places and (list(found) != class_names or len(found) < 2):
            raise UserError(f"{folder}: classes are the folders in train/, test/ and val/, at "
                            f"least two and the same in all; {place.name}/ has {list(found)}, "
                            f"the first has {class_names}")
        passed += [entry for entry in os.scandir(place) if hidden(entry.name)]
        files, labels = [], []
        for label, folders in enumerate(found.values()):
            for class_folder in folders:
                files += visible_files(class_folder, passed)
                labels += [label] * (len(files) - len(labels))
        names = [path.relative_to(folder).as_posix() for path in files]
        parts[part] = Part(files, np.array(labels, np.int64), names)
    if passed:
        print(f"{folder}: {len(passed)} hidden files or folders are passed over")
    return class_names, parts


def read_kaggle(folder):
    """Kaggle's CIFAR-10: train/<id>.png, and trainLabels.csv, which says (id, class)."""
    with open(folder / "trainLabels.csv", newline="", encoding="utf-8-sig") as file:
        _, *rows = csv.reader(file)
    said = {pathlib.PurePath(row[0]).stem: row[1] for row in rows if row}
    if not (folder / "train").is_dir():
        raise UserError(f"{folder}: has trainLabels.csv, but no folder train/: unpack train.7z")
    # In the order of their numbers.
    found = sorted(visible_files(folder / "train"), key=lambda path: (len(path.stem), path.stem))
    files = [path for path in found if path.stem in said]
    if len(files) < len(found) or len(files) < len(said):
        print(f"warning: {folder}: of {len(found):,} files and {len(said):,} lines of "
              f"trainLabels.csv, {len(files):,} belong together")
    class_names = sorted(set(said.values()))
    number = {name: i for i, name in enumerate(class_names)}
    labels = np.array([number[said[path.stem]] for path in files], np.int64)
    names = [path.relative_to(folder).as_posix() for path in files]
    return class_names, {"train": Part(files, labels, names)}


# --- Parquet --------------------------------------------------------------------------------------


def parquet_file(path):
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("Parquet files need pyarrow: python -m pip install pyarrow") from error
    return parquet.ParquetFile(path)


def is_parquet(path):
    return path.is_file() and path.suffix == ".parquet"


def parquet_images(path):
    """The encoded images of a Parquet file, as bytes; None, where there are none.

    They are the first column that holds bytes, by itself or as `bytes` beside a path.
    """
    from pyarrow import types

    file = parquet_file(path)
    for field in file.schema_arrow:
        kind = field.type
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if types.is_binary(kind) or types.is_large_binary(kind):
            break
    else:
        raise UserError(f"{path}: no column holds images as bytes, of "
                        f"{', '.join(file.schema_arrow.names)}")
    for batch in file.iter_batches(64, columns=[field.name]):
        for value in batch.column(0).to_pylist():
            yield value["bytes"] if isinstance(value, dict) else value


def read_parquet(path):
    """Hugging Face's files: images with their bytes, and labels, perhaps with names for them."""
    paths, labels, class_names = {}, {}, None
    for one in [path] if is_parquet(path) else parquet_in(path):
        file = parquet_file(one)
        schema = file.schema_arrow
        columns = [name for name in LABEL_COLUMNS if name in schema.names]
        if not columns:
            raise UserError(f"{one}: none of its columns {', '.join(schema.names)} is "
                            f"{' or '.join(LABEL_COLUMNS)}")
        part = part_of(one.name if one == path else one.relative_to(path)) or "train"
        paths.setdefault(part, []).append(one)
        labels.setdefault(part, []).extend(file.read(columns[:1]).column(0).to_pylist())
        class_names = class_names or label_names(schema, columns[0])
    values = sum(labels.values(), [])
    if any(isinstance(label, str) for label in values):
        class_names = sorted(set(values))
        number = {name: i for i, name in enumerate(class_names)}
        labels = {part: [number[label] for label in of_part] for part, of_part in labels.items()}
    parts = {}
    for part, y in labels.items():
        files = itertools.chain.from_iterable(map(parquet_images, paths[part]))
        parts[part] = Part(files, np.array(y, np.int64), numbered(part, len(y)))
    return class_names or names_of(values), parts


def parquet_in(folder):
    return sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")])


def label_names(schema, column):
    """The names that the library datasets writes into the schema; None, where there are none."""
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return about.get("info", {}).get("features", {}).get(column, {}).get("names")


# --- CIFAR's own files ----------------------------------------------------------------------------


class Unpickler(pickle.Unpickler):
    """Knows NumPy arrays and plain containers alone: a pickle can run any program."""

    KNOWN = {
        # Of an array, before it is given its state.
        "_reconstruct": lambda *_: np.empty(0, np.uint8),
        "ndarray": None,
        "dtype": np.dtype,
        # How bytes are written by protocol 2.
        "encode": lambda text, _: text.encode("latin-1"),
    }
    MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "_codecs")

    def find_class(self, module, name):
        if module not in self.MODULES or name not in self.KNOWN:
            raise UserError(f"a pickle that asks for {module}.{name}, where arrays and lists are "
                            "expected: it is not loaded")
        return self.KNOWN[name]


def cifar_files(path):
    """{name: bytes} of the batches and the list of names, from a folder or an archive."""
    wanted = re.compile(r"data_batch_\d+|test_batch|batches\.meta|train|test|meta")
    found = {}
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.is_file() and wanted.fullmatch(file.name):
                found[file.name] = file.read_bytes()
        return found
    with tarfile.open(path) as archive:
        for member in archive:
            name = os.path.basename(member.name)
            if member.isreg() and wanted.fullmatch(name):
                if member.size > LARGEST_BATCH:
                    raise UserError(f"{path}: {name} would have {member.size:,} bytes, which no "
                                    "batch of CIFAR's has")
                found[name] = archive.extractfile(member).read()
    return dict(sorted(found.items()))


def is_cifar(path):
    if path.is_dir():
        return (path / "test_batch").is_file() or (path / "meta").is_file()
    return tarfile.is_tarfile(path)


def read_cifar(path):
    """cifar-10-batches-py, cifar-100-python (its fine labels), or their archives."""
    images, labels, class_names = {}, {}, None
    for name, content in cifar_files(path).items():
        batch = Unpickler(io.BytesIO(content), encoding="bytes").load()
        if name.endswith("meta"):
            named = batch.get(b"label_names") or batch[b"fine_label_names"]
            class_names = [name.decode() for name in named]
            continue
        part = "test" if name.startswith("test") else "train"
        pixels = batch[b"data"]
        if pixels.dtype != np.uint8:
            raise UserError(f"{path}: {name} holds {pixels.dtype}, and not uint8")
        images.setdefault(part, []).append(
            pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.setdefault(part, []).extend(batch.get(b"labels") or batch[b"fine_labels"])
    if not images:
        raise UserError(f"{path}: holds none of CIFAR's batches; an archive of images must be "
                        "unpacked to train/<class>/*, test/<class>/*")
    parts = {}
    for part in images:
        x, y = np.concatenate(images[part]), np.array(labels[part], np.int64)
        parts[part] = Part(x, y, numbered(part, len(y)))
    return class_names or names_of(sum(labels.values(), [])), parts


# --- arrays ---------------------------------------------------------------------------------------


def array_pairs(folder):
    """(images, labels) of every two .npy files whose names belong together."""
    pairs = []
    for path in sorted(folder.glob("[!.]*.npy")):
        for ours, theirs in ARRAY_PAIRS:
            # A whole word of the name.
            name = re.sub(rf"(?<![A-Za-z]){ours}(?![A-Za-z])", theirs, path.stem)
            labels = path.with_name(f"{name}.npy")
            if labels != path and labels.is_file():
                pairs.append((path, labels))
    return pairs


def read_pairs(folder):
    """x_train.npy and y_train.npy, x.npy and y.npy, CIFAR-10.1's *data.npy and *labels.npy.

    The classes are numbers, unless classes.txt names them, a line each.
    """
    parts, most = {}, []
    for images, labels in array_pairs(folder):
        x, y = read_arrays(images, mmap_mode="r"), read_arrays(labels)
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        if x.dtype != np.uint8 or x.shape != (len(y), 32, 32, 3):
            raise UserError(f"{images}: uint8 (N, 32, 32, 3) and N labels are expected, "
                            f"got {x.dtype} {x.shape}, {y.shape}")
        if y.ndim != 1 or y.dtype.kind not in "iu":
            raise UserError(f"{labels}: whole numbers (N,) are expected, got {y.dtype} {y.shape}")
        part = part_of(images.name) or "train"
        if part in parts:
            raise UserError(f"{folder}: holds several sets ({images.name} is another); give a "
                            "folder with one")
        parts[part] = Part(x, y.astype(np.int64), numbered(part, len(y)))
        most += y.tolist()
    names = folder / "classes.txt"
    class_names = names.read_text(encoding="utf-8").split("\n") if names.is_file() else []
    return [name.strip() for name in class_names if name.strip()] or names_of(most), parts


# How a format is recognised, the first that does, and what reads it.
READERS = (
    (lambda path: (path / "trainLabels.csv").is_file(), read_kaggle),
    (is_cifar, read_cifar),
    (lambda path: path.is_dir() and array_pairs(path), read_pairs),
    (lambda path: is_parquet(path) or (path.is_dir() and parquet_in(path)), read_parquet),
    (lambda path: path.is_dir(), read_folders),
)
