"""Step 2: unlabelled images + teacher -> pseudo-labels, thresholded and balanced.

    python imagenet_dummy_label.py photos/ more.tar.xz          # folders, tar and zip archives
    python imagenet_dummy_label.py rest --calibrate             # the training images without a label
    python imagenet_dummy_label.py data/toy/unlabeled --truth data/toy/truth.csv

The teacher looks at every image once, without noise. What it is confident about is kept with its soft
label, the most confident first, at most --per-class-cap per class; smaller classes are then filled up to
the largest by repetition.

Reads   logs/teacher/ (step 1) and images of any size, format and mode
Writes  logs/pseudo/   x.npy (kept images), y.npy (their soft labels), index.npy (the balanced draw),
                       images.csv (every image seen, what became of it, and the truth where known), run.json,
                       montage.png, confidence.png and (with --truth) mistakes.png to look at
"""

import argparse
import csv
import heapq
import io
import itertools
import lzma
import os
import pathlib
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import cifar10_resnet50 as step1  # first: it quietens the backend
import stochastic_resblock  # noqa: F401  a student can teach too, and its layers must be known to load it

import numpy as np

LARGEST_CHUNK = 4 << 20  # bytes of archived images that a worker is sent at once
LARGEST_MEMBER = 256 << 20  # bytes; what an archive claims beyond that is not unpacked
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError)  # what broken archives raise
BINS = 1000  # of the histogram of confidences; it replaces the list of all confidences


# --- 1. the images -------------------------------------------------------------------------------


class Found(NamedTuple):
    """An image before it is decoded."""

    source: str  # as named on the command line
    path: str  # within the source
    content: object  # a path, bytes, a uint8 (32, 32, 3) array, or a UserError that says why it cannot be read
    size: int  # its share of the work, in bytes


def find_images(source, data=None):
    """All files of one source, in an order that does not depend on the file system.

    Args:
        source: a folder, a tar or zip archive, or "rest": what `data` (step 1's Dataset) left without label.

    Yields: Found.
    """
    if source == "rest":
        for i in data.rest:
            yield Found(source, data.names[i], data.x[i], data.x[i].nbytes)
    elif os.path.isdir(source):
        for path in walk(source):
            yield Found(source, os.path.relpath(path, source), path, path_size(path))
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for member in sorted(archive.infolist(), key=lambda member: member.filename):
                if not member.is_dir():
                    yield Found(source, member.filename, read_zipped(archive, member), member.compress_size)
    else:
        with open(source, "rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as archive:
            before = 0
            for member in archive:
                if not member.isdir():
                    content = (read_member(archive.extractfile, member, member.size) if member.isreg()
                               else step1.UserError("a link or a device, not a file"))
                    yield Found(source, member.name, content, raw.tell() - before)
                    before = raw.tell()


def read_member(open_member, member, size):
    """Bytes of an archive's member; nothing is ever written to disk."""
    if size > LARGEST_MEMBER:
        return step1.UserError(f"{size:,} bytes, more than {LARGEST_MEMBER:,}")
    with open_member(member) as file:
        return file.read(LARGEST_MEMBER)


def read_zipped(archive, member):
    """read_member, where a damaged member is one unreadable file: a zip can be read on behind it, a tar cannot."""
    try:
        return read_member(archive.open, member, member.file_size)
    except (*DAMAGED, OSError, RuntimeError, NotImplementedError) as error:  # the latter: encrypted, or an unknown method
        return step1.UserError(str(error))


def walk(folder):
    """Every file below a folder, sorted within each folder; links to folders are not followed."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path)
        else:
            yield entry.path


def path_size(path):
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def check_source(source, data=None):
    """The size of a source in bytes, as find_images counts them. Raises: UserError if it is not a source."""
    try:
        if source == "rest":
            return sum(data.x[i].nbytes for i in data.rest)
        if os.path.isdir(source):
            return sum(map(path_size, walk(source)))
        if not os.path.isfile(source):
            raise step1.UserError(f"{source}: no such folder or archive")
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                return sum(member.compress_size for member in archive.infolist())
        if tarfile.is_tarfile(source):
            return os.path.getsize(source)
    except (*DAMAGED, OSError) as error:
        raise step1.UserError(f"{source}: {step1.first_line(error)}") from error
    raise step1.UserError(f"{source}: neither a folder, nor a tar or zip archive")


def decode(image):
    """The content of a Found -> uint8 (32, 32, 3), or the UserError that says why not."""
    if isinstance(image, (step1.UserError, np.ndarray)):
        return image
    if isinstance(image, bytes):
        if not image:
            return step1.UserError("empty file")
        image = io.BytesIO(image)
    return step1.read_or_reason(image)


def decode_all(contents):
    return [decode(content) for content in contents]


def chunks(images):
    """Lists of up to step1.CHUNK of the images, and of no more bytes than a worker should be sent at once."""
    chunk, size = [], 0
    for image in images:
        chunk.append(image)
        size += len(image.content) if isinstance(image.content, bytes) else 0
        if len(chunk) == step1.CHUNK or size > LARGEST_CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def decoded(images, workers=None):
    """Decodes Found images, later ones while the first are used.

    Args:
        workers: how many decode at a time; default, one per core.

    Yields: (Found, its pixels, uint8 (32, 32, 3), or the UserError that says why not), in the order found.
    """
    workers, waiting = workers or os.cpu_count(), deque()
    with step1.decoders(workers) as pool:
        for chunk in chunks(images):
            waiting.append((chunk, pool.submit(decode_all, [image.content for image in chunk])))
            if len(waiting) > 2 * workers:
                chunk, pixels = waiting.popleft()
                yield from zip(chunk, pixels.result())
        for chunk, pixels in waiting:
            yield from zip(chunk, pixels.result())


def batches_of(items):
    """Lists of step1.BATCH items, the last one of what is left."""
    items = iter(items)
    while batch := list(itertools.islice(items, step1.BATCH)):
        yield batch


# --- 2. the teacher's confidence -----------------------------------------------------------------


def with_temperature(probabilities, temperature):
    """softmax(logits / temperature), from probabilities (N, C) alone. Above 1 it makes the teacher less sure."""
    log_p = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny), dtype=np.float64) / temperature
    p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)).astype(np.float32)


def fit_temperature(probabilities, t):
    """The temperature that minimises cross-entropy on (N, C) labels t (Guo et al. 2017), in 0.05..20.

    An over-confident teacher gets more than 1. Its most probable class never changes.
    """
    low, high = 0.05, 20.0
    for _ in range(4):  # the cross-entropy has one valley: look at 40 points, then closer around the lowest
        grid = np.geomspace(low, high, 40)
        best = int(np.argmin([step1.score(with_temperature(probabilities, T), t)[0] for T in grid]))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(grid[best])


# --- 3. threshold and cap ------------------------------------------------------------------------


@dataclass(order=True)
class Candidate:
    """One image above the threshold. The order is the order of choice: the most confident first."""

    rank: tuple  # (-confidence, source, path): equal confidences are told apart without the listing order
    pixels: np.ndarray = field(compare=False)
    soft: np.ndarray = field(compare=False)


class Selection:
    """Keeps, of everything it is shown, the most confident images of each class.

    Memory grows with what is kept, not with what is seen, if there is a cap.

    Args:
        threshold: an image is kept if its confidence is above (article: 0.75; the paper: 0.3).
        per_class_cap: at most so many of a class (the paper: 130,000); None, no cap.
    """

    def __init__(self, threshold, per_class_cap, num_classes):
        self.threshold, self.cap = threshold, per_class_cap
        self.candidates = [[] for _ in range(num_classes)]
        self.histogram = np.zeros(BINS, dtype=np.int64)

    def add(self, source, path, pixels, soft):
        """Shows one image: uint8 (32, 32, 3) and its soft label, float32 (C,). Returns: its class, confidence."""
        label, confidence = int(soft.argmax()), float(soft.max())
        self.histogram[min(int(confidence * BINS), BINS - 1)] += 1
        if confidence > self.threshold:
            of_class = self.candidates[label]
            of_class.append(Candidate((-confidence, source, path), pixels, soft))
            if self.cap and len(of_class) >= 2 * self.cap + step1.BATCH:
                self.candidates[label] = heapq.nsmallest(self.cap, of_class)
        return label, confidence

    def kept(self):
        """The chosen images, class after class, the most confident first: a list of Candidate."""
        return [candidate for of_class in self.candidates for candidate in sorted(of_class)[:self.cap]]

    def nothing_kept(self):
        """The message for a threshold that nothing passes: how confident the teacher was, and what to try."""
        seen, below = self.histogram.sum(), np.cumsum(self.histogram)
        at = {q: (int(np.searchsorted(below, q * seen)) + 1) / BINS for q in (0.1, 0.5, 0.9, 1.0)}
        return (f"no image is above --threshold {self.threshold}. Of {seen:,} images, a tenth has a confidence below "
                f"{at[0.1]:.2f}, half below {at[0.5]:.2f}, nine tenths below {at[0.9]:.2f}, all below {at[1.0]:.2f}. "
                f"Try --threshold {max(at[0.9] - 0.01, 0):.2f}")


# --- 4. the same number of every class -----------------------------------------------------------


def balance(hard):
    """Fills every class up to the largest by repeating its images, article step 2.

    A class without an image stays empty. Images are repeated from the front: if those of a class come most
    confident first, the most confident are repeated.

    Args:
        hard: int (K,), class of each kept image.

    Returns: int64 indices into the kept images, classes present x size of the largest.
    """
    largest = np.bincount(hard).max()
    return np.concatenate([np.resize(np.flatnonzero(hard == c), largest) for c in np.unique(hard)])


# --- the truth, for those who know it ------------------------------------------------------------


def read_truth(path, class_names):
    """A CSV of (path prefix, class) -> {prefix: class number}; an unknown class name means: of no class."""
    truth = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for row in csv.reader(file):
                if not row:
                    continue
                if len(row) != 2:
                    raise step1.UserError(f"{path}: two columns, path prefix and class, are expected; got {row}")
                prefix, name = row[0].strip().strip("/"), row[1].strip()
                truth[prefix] = class_names.index(name) if name in class_names else -1
    except (UnicodeDecodeError, csv.Error) as error:
        raise step1.UserError(f"{path}: not a CSV file ({error})") from error
    if strangers := sorted({prefix for prefix, label in truth.items() if label < 0}):
        print(f"{path}: {len(strangers):,} prefixes are of none of the classes, {strangers[0]!r} for one")
    if not any(label >= 0 for label in truth.values()):
        raise step1.UserError(f"{path}: names none of the classes {', '.join(class_names)}")
    return truth


def true_class(truth, source, path):
    """Class number by the longest prefix of whole names; -1: of no class; None: not known.

    A prefix may begin at the source's own name or below it.
    """
    names = path.replace(os.sep, "/").split("/")
    for start in ([], [os.path.basename(os.path.normpath(source))]):
        for end in range(len(names), 0, -1):
            if (label := truth.get("/".join(start + names[:end]))) is not None:
                return label
    return None


def truth_name(label, class_names):
    """What images.csv says of a true class: its name, "none of these", or nothing where it is not known."""
    return "" if label is None else class_names[label] if label >= 0 else "none of these"


class Audit:
    """Counts how right the labels are. It only ever looks on: nothing here decides what is kept."""

    def __init__(self, num_classes):
        self.count = 0  # kept, whether the truth is known or not
        self.kept = np.zeros(num_classes, dtype=np.int64)  # by the teacher's class, where the truth is known
        self.right = np.zeros(num_classes, dtype=np.int64)
        self.exist = np.zeros(num_classes, dtype=np.int64)  # by true class, kept or not

    def add(self, label, truth, kept):
        """One image: the teacher's class, the true one (-1: no class; None: not known), and whether it is kept."""
        self.count += kept
        if truth is not None:
            self.kept[label] += kept
            self.right[label] += kept and label == truth
            if truth >= 0:
                self.exist[truth] += 1

    def summary(self):
        return {"kept": self.count, "truth_known": int(self.kept.sum()), "right": int(self.right.sum()),
                "precision": ratio(self.right.sum(), self.kept.sum()), "recall": ratio(self.right.sum(), self.exist.sum())}

    def __str__(self):
        known = self.kept.sum()
        right = f", {100 * self.right.sum() / known:.1f} % of the {known:,} whose truth is known are right" if known else ""
        return f"{self.count:,}{right}"


def ratio(part, whole):
    return float(part / whole) if whole else None


def percent(share):
    return "     -" if share is None else f"{100 * share:5.1f}%"


# --- what a later step reads ---------------------------------------------------------------------


@dataclass
class PseudoLabels:
    """x: uint8 (K, 32, 32, 3); y: float32 (K, C); index: int64, the balanced draw from them; record: run.json."""

    x: np.ndarray
    y: np.ndarray
    index: np.ndarray
    record: dict


def array_files(folder):
    """The paths of x.npy, y.npy and index.npy, in this order."""
    return [pathlib.Path(folder) / f"{name}.npy" for name in ("x", "y", "index")]


def load_pseudo(folder, data):
    """Reads what this script wrote, and refuses what does not belong to `data` (step 1's Dataset)."""
    record = step1.load_run(folder, "python imagenet_dummy_label.py IMAGES")
    if "teacher_cell" not in record:
        raise step1.UserError(f"{folder}: holds no pseudo-labels but what {record['script']} made")
    for key, value in data.lineage().items():
        if key != "data" and record["made_from"][key] != value:
            what = "data set" if key == "data_sha256" else "choice of labelled images (--num-labeled, --seed, --validation)"
            raise step1.UserError(f"{folder}: its teacher was trained on another {what}")
    arrays = {}
    for path, dtype in zip(array_files(folder), (np.uint8, np.float32, np.int64)):
        name = path.stem
        if not path.exists() or step1.sha256(path) != record["sha256"][name]:
            raise step1.UserError(f"{path}: missing, or not the file that its run wrote. Delete {folder} and label again")
        arrays[name] = step1.read_arrays(path)
        if arrays[name].dtype != dtype:
            raise step1.UserError(f"{path}: {np.dtype(dtype)} is expected, got {arrays[name].dtype}. Delete {folder} and label again")
    shapes, kept = tuple(array.shape for array in arrays.values()), len(arrays["x"]) if arrays["x"].ndim else 0
    if shapes[:2] != ((kept, *data.x.shape[1:]), (kept, data.num_classes)) or arrays["index"].ndim != 1 or not (
            (0 <= arrays["index"]) & (arrays["index"] < kept)).all():
        raise step1.UserError(f"{folder}: images, labels and index do not fit together ({shapes}). Delete it and label again")
    return PseudoLabels(**arrays, record=record)


# --- pictures ------------------------------------------------------------------------------------


def draw_montage(kept, truths, class_names, path, mistakes=False, columns=12):
    """A row per class, from the most to the least confident of those kept; wrong ones are framed.

    With mistakes, only the wrong ones, the most confident of them, each under what it really is.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * 0.85 + 1, len(class_names) * 1.05), layout="constrained")
    grid = figure.subplots(len(class_names), columns, squeeze=False)
    labels = np.array([candidate.soft.argmax() for candidate in kept])
    wrong = np.array([truth is not None and truth != label for truth, label in zip(truths, labels)])
    for c, name in enumerate(class_names):
        members = np.flatnonzero((labels == c) & (wrong if mistakes else True))
        spaced = np.linspace(0, len(members) - 1, min(columns, len(members))).round().astype(int)
        chosen = members[:columns] if mistakes else members[spaced]
        grid[c, 0].set_ylabel(f"{name}\n{len(members):,}", rotation=0, ha="right", va="center", fontsize=9)
        for axes, i in itertools.zip_longest(grid[c], chosen):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=i is not None and wrong[i], color="#d55e00", linewidth=3)
            if i is not None:
                axes.imshow(kept[i].pixels)
                says = truth_name(truths[i], class_names).replace(" of these", "") if mistakes else f"{-kept[i].rank[0]:.3f}"
                axes.set_title(says, fontsize=8, pad=3, color="#d55e00" if wrong[i] else "black")
    if mistakes:
        figure.supxlabel("kept and wrong, the most confident first; left: what the teacher takes them for; above: what they are", fontsize=9)
    elif any(truth is not None for truth in truths):
        figure.supxlabel("kept, by confidence; framed: wrong, as far as the truth is known", fontsize=9)
    with step1.whole_file(path) as beside:
        figure.savefig(beside, dpi=100)


def draw_confidence(histogram, threshold, path):
    """How confident the teacher was about all images, and where the threshold cuts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    bars = histogram.reshape(50, -1).sum(axis=1)
    edges = np.linspace(0, 1, 51)
    axes.stairs(bars, edges, fill=True, color="#6baed6")
    axes.axvline(threshold, color="#d55e00", linewidth=2)
    above = histogram[int(threshold * BINS):].sum() / max(histogram.sum(), 1)
    axes.text(threshold - 0.01, 0.95, f"threshold {threshold:g}\n{100 * above:.0f} % above", ha="right", va="top",
              color="#d55e00", transform=axes.get_xaxis_transform())
    axes.set(xlabel="the teacher's confidence (probability of the class it chose)", ylabel="images", xlim=(0, 1))
    with step1.whole_file(path) as beside:
        figure.savefig(beside, dpi=100)


class Progress:
    """One line on a terminal: how far, how fast, how long still. Nothing where output goes to a file."""

    def __init__(self, total_bytes):
        self.total, self.done, self.images, self.started, self.shown = max(total_bytes, 1), 0, 0, time.monotonic(), 0.0

    def add(self, images, size):
        self.images, self.done = self.images + images, self.done + size
        now = time.monotonic()
        if sys.stdout.isatty() and now - self.shown > 0.2:
            self.shown, elapsed, share = now, now - self.started, min(self.done / self.total, 1)
            left = elapsed / share - elapsed if share else 0
            bar = "#" * int(30 * share)
            print(f"\r[{bar:30}] {100 * share:3.0f}%  {self.images:,} images, {self.images / elapsed:,.0f}/s, "
                  f"{left:.0f} s left ", end="", flush=True)

    def end(self):
        elapsed = time.monotonic() - self.started
        print(f"{chr(13) if sys.stdout.isatty() else ''}labelled {self.images:,} images in {elapsed:.1f} s "
              f"({self.images / elapsed:,.0f} images/s){' ' * 40 if sys.stdout.isatty() else ''}")


# --- the script ----------------------------------------------------------------------------------


def load_teacher(folder, need_data):
    """The teacher, its record, and the data it was trained on if needed. Raises: UserError where they do not fit."""
    teacher, record = step1.load_model(folder)
    if not need_data:
        return teacher, record, None
    arguments, made_from = record["arguments"], record["made_from"]
    data = step1.load_data(made_from["data"], arguments["num_labeled"], arguments["validation"], arguments["seed"])
    for key, value in data.lineage().items():
        if made_from[key] != value:
            raise step1.UserError(f"{made_from['data']} has changed since {folder} was trained on it ({key})")
    return teacher, record, data


def calibrate(teacher, data):
    """Fits a temperature on the images that the teacher was validated on, and says what it changes."""
    x, t = data.validation()
    before = step1.predict(teacher, x)
    temperature = fit_temperature(before, t)
    after = with_temperature(before, temperature)
    (loss_before, accuracy), (loss_after, _) = step1.score(before, t), step1.score(after, t)
    print(f"temperature {temperature:.3f}, from {len(x):,} validation images: accuracy {accuracy:.3f}, mean confidence "
          f"{before.max(1).mean():.3f} -> {after.max(1).mean():.3f}, cross-entropy {loss_before:.3f} -> {loss_after:.3f}")
    return temperature


def label_images(teacher, sources, data, temperature, total_bytes, workers=None):
    """Decodes every image and lets the teacher look at it, without noise, a batch at a time.

    Finding and decoding, the teacher, and whoever takes the labels all work at the same time.

    Args:
        total_bytes: of all sources, as check_source counts them, for the estimate of the time left.

    Yields: (source, path, pixels uint8 (32, 32, 3), raw (C,), soft (C,)), raw being the teacher's
        probabilities and soft those at `temperature`; or (source, path, UserError, None, None).
    """
    found = (image for source in sources for image in all_of(source, data))
    batches = step1.made_ahead(batches_of(decoded(found, workers)))
    progress = Progress(total_bytes)
    for batch, raw in step1.made_ahead(predictions(teacher, batches)):
        answers = iter(zip(raw, with_temperature(raw, temperature) if temperature != 1 else raw))
        for image, pixels in batch:
            yield image.source, image.path, pixels, *(next(answers) if isinstance(pixels, np.ndarray) else (None, None))
        progress.add(len(batch), sum(image.size for image, _ in batch))
    progress.end()


def predictions(teacher, batches):
    """Yields: (batch, what the teacher says of those that can be read, float32 (R, C)).

    The teacher is always shown step1.BATCH images, some of them twice if need be: what it says of one then does not
    depend on how many are shown with it, and no backend compiles for another size.
    """
    for batch in batches:
        readable = [pixels for _, pixels in batch if isinstance(pixels, np.ndarray)]
        shown = np.resize(readable, (step1.BATCH, *readable[0].shape)) if readable else None
        yield batch, teacher.predict_on_batch(shown)[:len(readable)] if readable else np.empty((0, 1))


def all_of(source, data):
    """find_images, where an archive that breaks off in the middle is one more unreadable file."""
    try:
        yield from find_images(source, data)
    except DAMAGED as error:
        yield Found(source, "", step1.UserError(f"the archive is damaged from here on: {error}"), 0)


def write_rows(path, rows, kept):
    """Copies the rows, in their order, to images.csv; what was above the threshold may be over the cap."""
    rows.seek(0)
    with step1.whole_file(path) as beside, open(beside, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "path", "label", "confidence", "status", "reason", "truth"])
        for source, path, label, confidence, status, reason, truth in csv.reader(rows):
            if status == "kept" and (source, path) not in kept:
                status = "over the cap"
            writer.writerow([source, path, label, confidence, status, reason, truth])


def print_classes(class_names, hard, index, audit):
    """The article's counts per class, before and after balancing, with precision and recall where known."""
    known = audit.kept.any()
    print(f"{'class':12}   kept  balanced" + ("  precision  recall" if known else ""))
    for c, name in enumerate(class_names):
        print(f"{name:12} {(hard == c).sum():6}  {(hard[index] == c).sum():8}" + (
            f"     {percent(ratio(audit.right[c], audit.kept[c]))}  {percent(ratio(audit.right[c], audit.exist[c]))}"
            if known else ""))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", help="folders, tar or zip archives, or the word rest")
    parser.add_argument("--teacher", default="logs/teacher", help="folder of a finished training")
    parser.add_argument("--threshold", type=step1.number(float, 0, 1), default=0.75, help="keep what is above (0.75; the paper: 0.3)")
    parser.add_argument("--calibrate", action="store_true", help="fit a temperature on the teacher's validation images first")
    parser.add_argument("--per-class-cap", type=step1.number(int, 1), metavar="N", help="keep at most N per class (the paper: 130000)")
    parser.add_argument("--require-all-classes", action="store_true", help="a class without a pseudo-label is an error")
    parser.add_argument("--hard", action="store_true", help="one-hot labels in place of soft ones")
    parser.add_argument("--no-balance", action="store_true", help="do not fill small classes up")
    parser.add_argument("--truth", metavar="CSV", help="path prefix, class: measures precision and recall, decides nothing")
    parser.add_argument("--workers", type=step1.number(int, 1), metavar="N", help="how many decode at a time (one per core)")
    parser.add_argument("--out", default="logs/pseudo")
    args = parser.parse_args(argv)
    out = pathlib.Path(args.out)

    # The teacher, and what it was made from
    step1.prepare_backend(0)
    teacher, made_by, data = load_teacher(args.teacher, need_data=args.calibrate or "rest" in args.images)
    class_names = made_by["class_names"]
    if args.calibrate and len(data.val) == 0:
        raise step1.UserError(f"--calibrate: {args.teacher} was validated on the test images, which must not decide anything")
    if "rest" in args.images and len(data.rest) == 0:
        raise step1.UserError(f"rest: {args.teacher} was given every label; train it with --num-labeled N")
    sizes = [check_source(source, data) for source in args.images]
    truth = read_truth(args.truth, class_names) if args.truth else {}
    if "rest" in args.images:
        truth |= {f"rest/{data.names[i]}": int(data.y[i]) for i in data.rest}

    settings = {key: value for key, value in vars(args).items() if key not in ("out", "teacher", "truth", "workers")}
    record = step1.open_run(out, "imagenet_dummy_label.py", settings,
                            {**made_by["made_from"], "teacher_sha256": made_by["model_sha256"], "image_bytes": sizes}, resumable=False)
    if record["finished"]:
        print(f"{out} is finished: {record['kept']:,} of {record['seen']:,} images kept; delete it to label again")
        return

    # 1. and 2. Look at every image once; 3. keep the most confident of each class
    temperature = calibrate(teacher, data) if args.calibrate else 1.0
    selection = Selection(args.threshold, args.per_class_cap, len(class_names))
    uncalibrated, above, chosen = (Audit(len(class_names)) for _ in range(3))
    unreadable, examples = 0, []
    with tempfile.TemporaryFile("w+", dir=out, newline="", encoding="utf-8", errors="surrogateescape") as rows:
        write_row = csv.writer(rows).writerow
        for source, path, pixels, raw, soft in label_images(
                teacher, args.images, data, temperature, sum(sizes), args.workers):
            if soft is None:
                unreadable += 1
                examples += [f"{os.path.join(source, path)!r}: {pixels}"] if unreadable <= 5 else []
                write_row([source, path, "", "", "unreadable", str(pixels), ""])
                continue
            label, confidence = selection.add(source, path, pixels, soft)
            true = true_class(truth, source, path)
            uncalibrated.add(label, true, bool(raw.max() > args.threshold))
            above.add(label, true, confidence > args.threshold)
            status = "kept" if confidence > args.threshold else "below threshold"
            write_row([source, path, class_names[label], repr(confidence), status, "", truth_name(true, class_names)])
        kept, seen = selection.kept(), int(selection.histogram.sum())
        if unreadable:
            print(f"warning: {unreadable} of {unreadable + seen:,} files are not readable images (images.csv names all):",
                  *examples, sep="\n  ")
        if not kept:
            raise step1.UserError(selection.nothing_kept() if seen else f"{', '.join(args.images)}: no readable image found")
        write_rows(out / "images.csv", rows, {candidate.rank[1:] for candidate in kept})

    # 4. The same number of every class
    y = np.stack([candidate.soft for candidate in kept])
    hard = y.argmax(axis=1)
    index = np.arange(len(hard)) if args.no_balance else balance(hard)
    if args.hard:
        y = np.eye(len(class_names), dtype=np.float32)[hard]
    missing = [name for c, name in enumerate(class_names) if c not in hard]
    if missing and args.require_all_classes:
        raise step1.UserError(f"no image above --threshold {args.threshold} for: {', '.join(missing)}")

    # What came of it
    truths = [true_class(truth, *candidate.rank[1:]) for candidate in kept]
    for label, true in zip(hard, truths):
        chosen.add(label, true, True)
    chosen.exist = above.exist
    if args.calibrate:
        print(f"above the threshold without calibration: {uncalibrated}")
    print(f"above the threshold: {above}\nkept of {seen:,} images: {chosen}")
    print_classes(class_names, hard, index, chosen)
    if missing:
        print(f"warning: no pseudo-label for {', '.join(missing)}; the student goes on with the other classes "
              "(--require-all-classes makes this an error)")

    arrays = {"x": np.stack([candidate.pixels for candidate in kept]), "y": y, "index": index.astype(np.int64)}
    for name, array in arrays.items():
        with step1.whole_file(out / f"{name}.npy") as path, open(path, "wb") as file:
            np.save(file, array, allow_pickle=False)
    pictures = [out / "montage.png", out / "confidence.png"]
    draw_montage(kept, truths, class_names, pictures[0])
    draw_confidence(selection.histogram, args.threshold, pictures[1])
    if any(truth is not None for truth in truths):
        pictures.append(out / "mistakes.png")
        draw_montage(kept, truths, class_names, pictures[2], mistakes=True)
    step1.finish_run(
        out, record, seen=seen, unreadable=unreadable, kept=len(kept), balanced=len(index), temperature=temperature,
        class_names=class_names, kept_per_class=np.bincount(hard, minlength=len(class_names)).tolist(),
        audit={"uncalibrated": uncalibrated.summary(), "above_threshold": above.summary(), "kept": chosen.summary()},
        teacher_cell=made_by["cell"], sha256={name: step1.sha256(out / f"{name}.npy") for name in arrays})
    print(f"pictures: {', '.join(map(str, pictures))}")


if __name__ == "__main__":
    step1.run_script(main)
