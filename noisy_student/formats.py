"""Labelled data as people have it: folders, CSV, Parquet, CIFAR's files, arrays; without Keras.

A new format is a reader and a line in READERS. Nothing is decoded here.
"""

import io
import itertools
import json
import os
import pathlib
import pickle
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from noisy_student import archives
from noisy_student.files import UserError, read_arrays, read_csv, read_text, reading
from noisy_student.images import what_it_is

# What a part of a data set is called by a folder or a file, in any case, and here.
PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "val",
         "valid": "val", "validation": "val"}
# What columns are called, in any case; of several, the first one counts.
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "level")
FILE_COLUMNS = ("file", "filename", "file_name", "image", "image_id", "path", "id")
IMAGE_COLUMNS = ("image", "images", "img", "picture", "photo", "jpg", "png")
# More bytes than CIFAR-100's largest file has.
LARGEST_BATCH = 256 << 20
# What CIFAR's own files are called; a folder of one of them needs the others of its line.
CIFAR_SETS = ((*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
              ("train", "test", "meta"))
# Labels above are numbers of something else.
MOST_CLASSES = 100_000
# Names of arrays that belong together.
ARRAY_PAIRS = (("data", "labels"), ("images", "labels"), ("x", "y"), ("X", "y"))


class Part(NamedTuple):
    """The images to train on, to validate on, or to test with."""

    # Paths, bytes or uint8 (32, 32, 3) arrays, as the content of an images.Picture.
    files: Iterable
    # int (N,): places in the list of class names; -1 where there is no label.
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
                        "one. docs/data.md names the other formats")
    reader = reader_of(path)
    if reader is None:
        raise UserError(f"{path}: neither a folder nor a Parquet file nor CIFAR's own archive, but "
                        f"{what_it_is(path)}; what it holds must become train/<class>/*, "
                        "test/<class>/*")
    with reading(path):
        class_names, parts = reader(path)
        # Competitions keep the labels of their test images to themselves.
        parts = {name: part for name, part in parts.items() if (part.labels >= 0).any()}
        for name, part in parts.items():
            strange = set(part.labels.tolist()) - set(range(-1, len(class_names)))
            if strange:
                raise UserError(f"{path}: the {name} images have a class {min(strange)}, "
                                f"but there are {len(class_names)}, from 0 on")
    if name := twice(class_names):
        raise UserError(f"{path}: two classes are called {name!r}: give each its own name")
    alike = len(class_names) - len({name.lower() for name in class_names})
    if alike:
        print(f"warning: {path}: {alike} classes differ from others only by capital "
              f"letters: {', '.join(class_names)}")
    return class_names, parts


def reader_of(path):
    """What reads a data set, or None."""
    return next((reader for recognises, reader in READERS if recognises(path)), None)


def labels_all(path):
    """Whether a data set's format gives each of its training images a label."""
    return reader_of(pathlib.Path(path)) in (read_cifar, read_folders)


def twice(names):
    """The first of some names that is there more than once, or None."""
    return next((name for name, times in Counter(names).items() if times > 1), None)


def part_of(path):
    """train, val or test, as the file's name or else a folder's says; None, where none does."""
    for name in reversed(pathlib.Path(path).parts):
        for word in re.findall("[a-z]+", name.lower()):
            if word in PARTS:
                return PARTS[word]
    return None


def numbered(part, count):
    return [f"{part}/{i:05d}" for i in range(count)]


def names_of(labels):
    """Names for classes that are only numbers. Raises: UserError, where they number no classes."""
    most = max(labels, default=-1)
    if most > MOST_CLASSES:
        raise UserError(f"there is a label {most:,}: classes are expected to be counted from 0 on")
    return [str(number) for number in range(most + 1)]


def places(labels, class_names):
    """Names of classes -> int64 (N,), their places in the list; -1 for None."""
    place = {name: i for i, name in enumerate(class_names)} | {None: -1}
    return np.array([place[label] for label in labels], np.int64)


def column_called(names, columns):
    """The first of some names that a column has, as the column spells it; None, where none has."""
    spelled = {column.lower(): column for column in columns}
    return next((spelled[name] for name in names if name in spelled), None)


def warn_of_missing(path, names):
    """Says which files are not there of a set whose files' names tell how many it has."""
    wanted = set().union(*(known for known in CIFAR_SETS if set(known) & set(names)))
    shards = [re.fullmatch(r"(.*?)(\d+)(-of-0*(\d{1,5})\D.*)", name) for name in names]
    for before, width, after, count in {(shard[1], len(shard[2]), shard[3], int(shard[4]))
                                        for shard in filter(None, shards)}:
        # Most are counted from 0 on.
        first = int(f"{before}{count:0{width}}{after}" in names)
        wanted |= {f"{before}{i:0{width}}{after}" for i in range(first, count + first)}
    if missing := sorted(wanted - set(names)):
        more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
        print(f"warning: {path}: only a part of a known set: {len(missing):,} of {len(wanted):,} "
              f"files are missing: {', '.join(missing[:5])}{more}")


# --- folders --------------------------------------------------------------------------------------


def hidden(name):
    """Whether a program put it there for itself: .ipynb_checkpoints, .DS_Store, __MACOSX."""
    return name == "__MACOSX" or (name.startswith(".") and name not in (".", ".."))


def is_folder(entry):
    """Whether an os.DirEntry is a folder, or leads to one that can be looked at."""
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads to itself, or into what is private.
        return False


def visible_files(folder, passed=None, visited=None):
    """Every file below a folder that is not hidden, sorted within each folder: paths.

    Links to folders are followed, unless to where the way came from; no folder is read twice.

    Args:
        passed: a list that receives what is hidden. visited: where it has been.
    """
    visited, here = set() if visited is None else visited, os.path.realpath(folder)
    visited.add(here)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        # It is one of the files that cannot be read, and costs no other.
        yield pathlib.Path(folder)
        return
    for entry in entries:
        if hidden(entry.name):
            if passed is not None:
                passed.append(entry.path)
        elif not is_folder(entry):
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
        if is_folder(entry) and not hidden(entry.name):
            name = unicodedata.normalize("NFC", entry.name)
            named.setdefault(name, []).append(entry.path)
    return dict(sorted(named.items()))


def part_folders(folder):
    """{"train", "test" or "val": its folder}, for those that there are."""
    found = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        part = PARTS.get(entry.name.lower())
        if part and is_folder(entry):
            if part in found:
                raise UserError(f"{folder}: has {found[part].name}/ and {entry.name}/, and which "
                                f"one is to {part} with is not known; move one of them away")
            found[part] = folder / entry.name
    return {part: found[part] for part in ("train", "test", "val") if part in found}


def read_folders(folder):
    """train/<class>/*, and test/ or val/; or <class>/* alone, which is to test with."""
    found = part_folders(folder)
    class_names, parts, passed, stray = None, {}, [], 0
    for part, place in (found or {"test": folder}).items():
        named = class_folders(place)
        class_names = class_names or list(named)
        if found and (list(named) != class_names or len(named) < 2):
            raise UserError(f"{folder}: classes are the folders in train/, test/ and val/, at "
                            f"least two and the same in all; {place.name}/ has {list(named)}, "
                            f"the first has {class_names}")
        passed += [entry for entry in os.scandir(place) if hidden(entry.name)]
        stray += sum(not is_folder(entry) and not hidden(entry.name)
                     for entry in os.scandir(place))
        files, labels = [], []
        for label, folders in enumerate(named.values()):
            for class_folder in folders:
                files += visible_files(class_folder, passed)
                labels += [label] * (len(files) - len(labels))
        names = [path.relative_to(folder).as_posix() for path in files]
        parts[part] = Part(files, np.array(labels, np.int64), names)
    if passed:
        print(f"{folder}: {len(passed)} hidden files or folders are passed over")
    if stray:
        print(f"{folder}: {stray:,} files beside the classes' folders are passed over")
    return class_names, parts


def read_kaggle(folder):
    """Kaggle's CIFAR-10: train/<id>.png, and trainLabels.csv, which says (id, class)."""
    table = folder / "trainLabels.csv"
    header, *rows = read_csv(table)
    file, label = (column_called(names, header) for names in (FILE_COLUMNS, LABEL_COLUMNS))
    if file is None or label is None:
        raise UserError(f"{table}: its first line names the columns, such as id and label; "
                        f"it has {', '.join(header)}")
    said = {}
    for row in (dict(zip(header, row)) for row in rows):
        name, of_class = pathlib.PurePath(row[file]).name, row.get(label)
        if of_class in ("", "-1"):
            of_class = None
        if said.setdefault(name, of_class) != of_class:
            raise UserError(f"{table}: {name} is {said[name]} in one line, {of_class} in another")
    place = part_folders(folder).get("train")
    if place is None:
        raise UserError(f"{folder}: has trainLabels.csv, but no folder train/: unpack train.7z")
    # In the order of their numbers.
    found = sorted(visible_files(place), key=lambda path: (len(path.stem), path.stem))
    files = [path for path in found if path.name in said or path.stem in said]
    if not files:
        raise UserError(f"{table}: no line fits a file: it has {next(iter(said), 'no line')!r}, "
                        f"the folder has {found[0].name if found else 'no file'!r}")
    if len(files) < len(found) or len(files) < len(said):
        print(f"warning: {folder}: of {len(found):,} files and {len(said):,} lines of "
              f"trainLabels.csv, {len(files):,} belong together")
    class_names = sorted(set(said.values()) - {None})
    labels = places([said.get(path.name, said.get(path.stem)) for path in files], class_names)
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
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1"


def features(schema):
    """{column: what it holds}, as the library datasets writes it into the schema."""
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return about.get("info", {}).get("features", {})


def holds_bytes(kind):
    """Whether a column's type is bytes, or a struct of bytes beside a path."""
    from pyarrow import types

    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return types.is_binary(kind) or types.is_large_binary(kind)


def image_column(path, schema):
    """The column of encoded images: the only one of bytes, or the one that is called so."""
    columns = [field.name for field in schema if holds_bytes(field.type)]
    if not columns:
        raise UserError(f"{path}: no column holds images as bytes, of {', '.join(schema.names)}")
    known = features(schema)
    called = [column for column in columns if column.lower() in IMAGE_COLUMNS
              or known.get(column, {}).get("_type") == "Image"]
    if len(columns) > 1 and len(called) != 1:
        raise UserError(f"{path}: which column is to be read? {' and '.join(called or columns)} "
                        "may hold images; leave out or rename all but one")
    return (called or columns)[0]


def parquet_images(path):
    """The encoded images of a Parquet file, as bytes; None, where there are none."""
    file = parquet_file(path)
    for batch in file.iter_batches(64, columns=[image_column(path, file.schema_arrow)]):
        for value in batch.column(0).to_pylist():
            yield value["bytes"] if isinstance(value, dict) else value


def parquet_labels(path):
    """A file's labels: names of classes or numbers, and None where there is none.

    Returns: the labels, and the file's own list of names, by which its numbers have been named.
    """
    file = parquet_file(path)
    schema = file.schema_arrow
    column = column_called(LABEL_COLUMNS, schema.names)
    if column is None:
        raise UserError(f"{path}: none of its columns {', '.join(schema.names)} is "
                        f"{' or '.join(LABEL_COLUMNS)}")
    labels = [label_of(value) for value in file.read([column]).column(0).to_pylist()]
    names = features(schema).get(column, {}).get("names") or []
    if names:
        strange = set(labels) - {None, *range(len(names))}
        if strange:
            raise UserError(f"{path}: has a class {min(strange)}, but names {len(names)}, "
                            "from 0 on")
        labels = [None if label is None else names[label] for label in labels]
    return labels, names


def label_of(value):
    """A cell's label: a name or a number, or None. pandas writes 1.0 and NaN."""
    if isinstance(value, str):
        return value.strip() or None
    if value is None or value != value or value == -1:
        return None
    return int(value) if value == int(value) else value


def read_parquet(path):
    """Hugging Face's files: images with their bytes, and labels, perhaps with names for them."""
    paths, labels, class_names = {}, {}, {}
    files = [path] if is_parquet(path) else parquet_in(path)
    warn_of_missing(path, [file.name for file in files])
    for file in files:
        part = part_of(file.name if file == path else file.relative_to(path)) or "train"
        of_file, names = parquet_labels(file)
        paths.setdefault(part, []).append(file)
        labels.setdefault(part, []).extend(of_file)
        # Another file may number the same classes in another order.
        class_names |= dict.fromkeys(names)
    values = set(itertools.chain(*labels.values())) - {None}
    kinds = {type(value) for value in values}
    if len(kinds) > 1 or not kinds <= {int, str}:
        raise UserError(f"{path}: labels must be words, or whole numbers, in all files")
    class_names = list(class_names) or (sorted(values) if kinds == {str} else names_of(values))
    known = range(len(class_names)) if kinds == {int} else class_names
    parts = {}
    for part, y in labels.items():
        files = itertools.chain.from_iterable(map(parquet_images, paths[part]))
        parts[part] = Part(files, places(y, known), numbered(part, len(y)))
    return class_names, parts


def parquet_in(folder):
    return sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")])


# --- CIFAR's own files ----------------------------------------------------------------------------


class Unpickler(pickle.Unpickler):
    """Knows NumPy arrays and plain containers alone: a pickle can run any program."""

    KNOWN = {
        # An array before it is given its state, and one of protocol 5.
        "_reconstruct": lambda *_: np.empty(0, np.uint8),
        "_frombuffer": lambda content, dtype, shape, order: (
            np.frombuffer(content, dtype).reshape(shape, order=order)),
        "scalar": lambda dtype, content: np.frombuffer(content, dtype)[0],
        "ndarray": None,
        "dtype": np.dtype,
        # How bytes are written by protocol 2.
        "encode": lambda text, _: text.encode("latin-1"),
    }
    MODULES = re.compile(r"numpy(\._?core\.(multiarray|numeric))?|_codecs")

    def find_class(self, module, name):
        if not self.MODULES.fullmatch(module) or name not in self.KNOWN:
            raise UserError(f"a pickle that asks for {module}.{name}, where arrays and lists are "
                            "expected: it is not loaded")
        return self.KNOWN[name]


def cifar_files(path):
    """{name: bytes} of the batches and the list of names, from a folder or an archive."""
    wanted = set().union(*CIFAR_SETS)
    if path.is_dir():
        return {file.name: file.read_bytes() for file in sorted(path.iterdir())
                if file.name in wanted and file.is_file()}
    found = {}
    try:
        for member in archives.members(path, LARGEST_BATCH,
                                       lambda name: os.path.basename(name) in wanted):
            name = os.path.basename(member.name)
            if name in wanted:
                if member.reason:
                    raise UserError(f"{name}: {member.reason}")
                found[name] = member.content
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return dict(sorted(found.items()))


def is_cifar(path):
    if path.is_dir():
        known = {"meta"}.union(*CIFAR_SETS[:1])
        return any((path / name).is_file() for name in known)
    return archives.kind(path) is not None


def read_cifar(path):
    """cifar-10-batches-py, cifar-100-python (its fine labels), or their archives."""
    images, labels, class_names, files = {}, {}, None, cifar_files(path)
    for name, content in files.items():
        # Python 2 wrote strings that are bytes here.
        batch = {text(key): value for key, value in
                 Unpickler(io.BytesIO(content), encoding="bytes").load().items()}
        if name.endswith("meta"):
            class_names = [text(name) for name in one_of(batch, "label_names", "fine_label_names")]
            continue
        part = "test" if name.startswith("test") else "train"
        pixels, y = batch["data"], np.array(one_of(batch, "labels", "fine_labels"), np.int64)
        if pixels.dtype != np.uint8 or pixels.shape != (len(y), 3072):
            raise UserError(f"{path}: {name} holds {pixels.dtype} {pixels.shape}, and not uint8 "
                            f"({len(y)}, 3072) for its {len(y)} labels")
        images.setdefault(part, []).append(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.setdefault(part, []).append(y)
    if not images:
        raise UserError(f"{path}: holds none of CIFAR's batches; an archive of images must be "
                        "unpacked to train/<class>/*, test/<class>/*")
    warn_of_missing(path, list(files))
    parts = {}
    for part in images:
        x, y = np.concatenate(images[part]), np.concatenate(labels[part])
        parts[part] = Part(x, y, numbered(part, len(y)))
    return class_names or names_of(max(y.max() for y in labels[part]) for part in labels), parts


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def one_of(batch, first, second):
    return batch[first] if first in batch else batch[second]


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
    parts, most, read = {}, [], set()
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
        read |= {images.name, labels.name}
    if unread := sorted({path.name for path in folder.glob("[!.]*.npy")} - read):
        print(f"warning: {folder}: no other array belongs to {', '.join(unread)}, not read")
    names = folder / "classes.txt"
    class_names = read_text(names).splitlines() if names.is_file() else []
    return [name.strip() for name in class_names if name.strip()] or names_of(most), parts


# How a format is recognised, the first that does, and what reads it.
READERS = (
    (lambda path: (path / "trainLabels.csv").is_file(), read_kaggle),
    (is_cifar, read_cifar),
    (lambda path: path.is_dir() and array_pairs(path), read_pairs),
    (lambda path: is_parquet(path) or (path.is_dir() and parquet_in(path)), read_parquet),
    (lambda path: path.is_dir(), read_folders),
)
