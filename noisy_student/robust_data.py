"""The images of robustness.py: corrupted sets, images from elsewhere, copies of those trained on.

What a network answered is kept in its run's folder, so that nothing is measured twice.
"""

import json
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from noisy_student import figures, formats
from noisy_student.data import CIFAR10, decode_tests
from noisy_student.files import UserError, read_arrays, read_json, sha256, write_json
from noisy_student.metrics import exact_copies, near_copies
from noisy_student.training import duration, predict

# A file of a corrupted set holds all images at severity 1, then all at severity 2, up to this one.
SEVERITIES = 5


class Test(NamedTuple):
    """A question to a network that takes a while to answer."""

    # sha256 of what it is asked about: the answer is kept in the run's folder beside it.
    key: str
    # network -> a dictionary that JSON can hold.
    measure: Callable
    # That dictionary -> {column of the table: a share, 0..1}.
    columns: Callable


def run_tests(cells, tests, seeds=None):
    """Asks the networks of the first `seeds` seeds of each cell, and fills their `robust`.

    Args:
        cells: {name: {seed: Measured}}. tests: {name: Test}.
    """
    networks = [m for cell in cells.values() for m in list(cell.values())[:seeds]]
    started = time.monotonic()
    for number, m in enumerate(networks if tests else [], 1):
        for name, test in tests.items():
            m.robust[name] = remembered(m.run, name, test)
        left = (time.monotonic() - started) * (len(networks) / number - 1)
        print(f"robustness: {number} of {len(networks)} runs, {duration(left)} left", flush=True)


def remembered(run, name, test):
    """What the test gave the last time for this network and these images, or gives now."""
    path = run.path(f"robust-{sha256(name.encode(errors='surrogateescape'))[:8]}.json")
    key = f"{run.sha256['model.keras']} {test.key}"
    if path.exists():
        try:
            kept = read_json(path)
            if kept["key"] == key and kept["sha256"] == digest(key, kept["result"]):
                return kept["result"]
            if kept["key"] == key:
                raise UserError(f"{path}: not what was written")
        except UserError:
            print(f"warning: {path} is damaged and is made again")
    result = test.measure(run.model())
    try:
        write_json(path, {"key": key, "result": result, "sha256": digest(key, result)})
    except OSError as error:
        # A folder that may only be read must not cost the measurement.
        print(f"warning: {path} cannot be kept ({error})")
    return result


def digest(key, result):
    """sha256 of a result as it stands in a file, so that another one in its place is found out."""
    return sha256(json.dumps([key, result]).encode())


def means(cells, tests):
    """{column: {cell: its mean over the seeds that were tested, in %, as text; "-" for none}}."""
    table = {}
    for name, test in tests.items():
        for cell_name, cell in cells.items():
            shares = [test.columns(m.robust[name]) for m in cell.values() if name in m.robust]
            for column in shares[0] if shares else ():
                mean = 100 * np.mean([share[column] for share in shares])
                table.setdefault(column, dict.fromkeys(cells, "-"))[cell_name] = f"{mean:.1f}"
    return table


def tables(cells, tests, title, says):
    """{heading: (what it says, head, rows)} of the results, as tables.tables() has them.

    Args:
        cells: {name: {seed: Measured}}, after run_tests(). title: of a cell by its name.
        says: what is said of the first table.
    """
    columns, text = means(cells, tests), {}
    if columns:
        text["Robustness"] = (says, ["cell", *columns], [
            [title(name), *(column[name] for column in columns.values())] for name in cells])
    # {cell: [{corruption: its error at each severity}, ...]}
    errors = {}
    for name, cell in cells.items():
        seeds = [m.robust["corrupted"]["errors"] for m in cell.values() if "corrupted" in m.robust]
        if seeds:
            errors[name] = seeds
    if errors:
        rows = []
        for corruption in next(iter(errors.values()))[0]:
            shares = [np.mean([seed[corruption] for seed in seeds]) for seeds in errors.values()]
            rows.append([corruption.replace("_", " "), *(f"{100 * share:.1f}" for share in shares)])
        text["Each corruption"] = ("Mean error over severities and seeds, in %.",
                                   ["corruption", *map(title, errors)], rows)
    return text


# --- corrupted images -----------------------------------------------------------------------------


class CorruptedSet(NamedTuple):
    """Test images under several corruptions, each at SEVERITIES severities."""

    # {corruption: uint8 (SEVERITIES*N, 32, 32, 3)}, read from the disk as they are needed.
    images: dict
    # The classes, int64 (SEVERITIES*N,).
    y: np.ndarray
    # The rows to look at, int (SEVERITIES, M): the same images at every severity.
    rows: np.ndarray
    # sha256 of what is looked at.
    key: str


def load_corrupted(folder, data, most=None):
    """A set in CIFAR-10-C's layout: <corruption>.npy, uint8 (5*N, 32, 32, 3), and labels.npy.

    Args:
        data: the Dataset that the networks were trained on.
        most: look at at most this many images of each severity, evenly spaced; None: at all.

    Returns: a CorruptedSet. Raises: UserError, where the folder is no such set.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. --corrupted takes CIFAR-10-C, or what "
                        "data/make_corrupted.py writes")
    y, images = corrupted_labels(folder, data), {}
    for path in sorted(folder.glob("[!.]*.npy")):
        if path.stem in ("labels", "index"):
            continue
        x = read_arrays(path, mmap_mode="r")
        if x.shape != (len(y), 32, 32, 3) or x.dtype != np.uint8:
            raise UserError(f"{path}: uint8 ({len(y)}, 32, 32, 3) is expected, as labels.npy "
                            f"has it, got {x.dtype} {x.shape}")
        images[path.stem] = x
    if not images:
        raise UserError(f"{folder}: has no <corruption>.npy beside labels.npy")
    n = len(y) // SEVERITIES
    chosen = figures.spaced(n, most or n)
    rows = np.arange(SEVERITIES)[:, None] * n + chosen
    # File by file: all of them are too many for a small machine's memory.
    seen = [f"{name} {sha256(x[rows])}" for name, x in images.items()]
    key = sha256("\n".join(seen).encode(errors="surrogateescape"), y, chosen)
    return CorruptedSet(images, y, rows, key)


def corrupted_labels(folder, data):
    """labels.npy, int64 (SEVERITIES*N,), numbered as data's classes. Raises: UserError."""
    path = folder / "labels.npy"
    if not path.exists():
        raise UserError(f"{folder}: has no labels.npy, so it is not in CIFAR-10-C's layout")
    y = read_arrays(path)
    if y.ndim != 1 or y.dtype.kind not in "iu" or len(y) % SEVERITIES or len(y) == 0:
        raise UserError(f"{path}: one whole number per image of {SEVERITIES} severities is "
                        f"expected, got {y.dtype} {y.shape}")
    if y.min() < 0 or y.max() >= data.num_classes:
        raise UserError(f"{path}: has classes {y.min()} to {y.max()}, "
                        f"the networks know {data.num_classes}")
    origin = folder / "made.json"
    if not origin.exists():
        return renumbered(y, data.class_names, path).astype(np.int64)
    # By data/make_corrupted.py, which numbers classes as the data set does.
    if read_json(origin)["data_sha256"] != data.lineage()["data_sha256"]:
        raise UserError(f"{folder}: was made from another data set than {data.name}, see {origin}")
    return y.astype(np.int64)


def renumbered(y, class_names, path):
    """Labels of a file that numbers CIFAR-10's classes, or folders named by numbers, as ours.

    Args:
        y: int (N,), 0 to len(class_names) - 1; -1 where there is no label.

    Raises: UserError, where nobody says which class a number stands for.
    """
    order = CIFAR10
    if all(name.isdecimal() for name in class_names):
        order = [str(number) for number in range(len(class_names))]
    if sorted(order) != sorted(class_names):
        raise UserError(f"{path}: numbers its classes, which are taken for {', '.join(order)}; "
                        f"the networks know {', '.join(class_names)}")
    # Where there is no label, -1 stays what it is.
    return np.array([*map(class_names.index, order), -1])[y]


# --- other images of the same classes -------------------------------------------------------------


def shifted(folder, data):
    """The Test of accuracy on labelled images from elsewhere."""
    x, y = load_shifted(folder, data.class_names)
    trained, tested = (exact_copies(x, known).sum() for known in (data.x, data.x_test))
    print(f"{folder}: of {len(x):,} images, {trained:,} are among the training images pixel for "
          f"pixel, and {tested:,} among the test images")

    def measure(model):
        right = int((predict(model, x).argmax(axis=1) == y).sum())
        return {"right": right, "images": len(y)}

    def columns(result):
        return {f"accuracy on {folder}": result["right"] / result["images"]}

    return Test(sha256(x, y), measure, columns)


def load_shifted(path, class_names):
    """Images to test with, in any format that --data takes, or a folder <class>/*.

    Returns: uint8 (N, 32, 32, 3), int64 (N,), numbered as `class_names`. Raises: UserError, where
        its classes are others.
    """
    theirs, parts = formats.read(path)
    part = next((parts[name] for name in ("test", "val", "train") if name in parts), None)
    if part is None:
        raise UserError(f"{path}: has no labelled images, such as <class>/<images>")
    if theirs == formats.names_of(range(len(theirs))):
        if len(theirs) > len(class_names):
            raise UserError(f"{path}: classes 0 to {len(class_names) - 1} are expected, "
                            f"it has {len(theirs)}")
        x, y = decode_tests(path, theirs, part._replace(
            labels=renumbered(part.labels, class_names, path)), required=())
        if len(x) == 0:
            raise UserError(f"{path}: no image there can be read")
        return x, y
    missing = [name for name in class_names if name not in theirs]
    if missing:
        raise UserError(f"{path}: no readable image of {', '.join(missing)}")
    x, y = decode_tests(path, theirs, part, required=class_names)
    ours = np.array([class_names.index(n) if n in class_names else -1 for n in theirs])[y]
    if (ours < 0).any():
        print(f"{path}: {(ours < 0).sum():,} images are of other classes and left out")
    return x[ours >= 0], ours[ours >= 0]


# --- images that were trained on ------------------------------------------------------------------


def check_overlap(labellings, data, out):
    """Looks for copies of test images, exact and near, among all that was trained on.

    CIFAR-10 is known for some of both (Barz and Denzler 2020, "Do we train on test data?").

    Args:
        labellings: {name: [Run, ...]}. out: where the pictures go.
    """
    everything = {"training images": data.x}
    for name in labellings:
        for run in labellings[name]:
            everything[f"pseudo-labelled images in {run.folder}"] = run.arrays("x.npy")
    for number, (what, x) in enumerate(everything.items()):
        exact = exact_copies(data.x_test, x).sum()
        pairs, alike = near_copies(data.x_test, x)
        print(f"of {len(data.x_test):,} test images, {exact:,} are among the {what} pixel for "
              f"pixel, and {len(pairs):,} show the same picture as one of them")
        if len(pairs):
            path = pathlib.Path(out) / f"overlap{number or ''}.png"
            print(f"  pairs to look at: {figures.pairs(data.x_test, x, pairs, alike, path)}")
