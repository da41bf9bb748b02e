"""Who labels, what is known about how right the labels are, and what a later step reads of them."""

import contextlib
import csv
import os
import pathlib
import sys
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
from rich import progress

from noisy_student import runs
from noisy_student.data import load_data
from noisy_student.files import UNFINISHED, UserError, reading, sha256, whole_file
from noisy_student.images import LeftOut
from noisy_student.metrics import near_copies, perceptual_hash
from noisy_student.pool import tidy
from noisy_student.training import duration

# Of the histogram of confidences, which replaces the list of all confidences.
BINS = 1000
# Of unreadable files, so many are named on the screen; images.csv names all.
EXAMPLES = 5
# How a table is opened: a file's name may hold bytes that are no letters.
TABLE = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
COLUMNS = ("source", "path", "label", "confidence", "status", "reason", "truth")


# --- the teacher ----------------------------------------------------------------------------------


@dataclass
class Teacher:
    """A network that labels, what is known of its training, and the data it was trained on."""

    model: object
    class_names: list
    made_from: dict
    taught_by: dict
    data: object = None


def load_teacher(args):
    """The teacher, and the data it was trained on.

    Args:
        args: of step 2.

    Raises: UserError, where teacher, data and arguments do not fit together.
    """
    if args.teacher.endswith(".keras"):
        return load_own_network(args)
    run = runs.trained(args.teacher, "python cifar10_resnet50.py")
    made_from = {**run.made_from, "teacher_sha256": run.sha256["model.keras"]}
    taught_by = {"arguments": run.arguments, "taught_by": run.taught_by}
    teacher = Teacher(run.model(), run.results["class_names"], made_from, taught_by)
    teacher.data = load_data_of(run, args.data)
    if args.calibrate and len(teacher.data.val) == 0:
        raise UserError(f"--calibrate: {args.teacher} was validated on the test images, "
                        "which must not decide anything")
    if "rest" in args.images and len(teacher.data.rest) == 0:
        raise UserError(f"rest: {args.teacher} was given every label; "
                        "train it with --num-labeled N")
    return teacher


def load_data_of(run, moved_to=None):
    """The data set a run was trained on, split as it was. Raises: UserError, if it has changed."""
    chosen, name = run.arguments, moved_to or run.made_from["data"]
    if name != "cifar10" and not os.path.exists(name):
        raise UserError(f"{name}: not there, but {run.folder} was trained on it; "
                        "--data tells where it is now")
    data = load_data(name, chosen["num_labeled"], chosen["validation"], chosen["seed"])
    lineage = data.lineage()
    for key in ("data_sha256", "split_sha256"):
        if run.made_from[key] != lineage[key]:
            raise UserError(f"{name} has changed since {run.folder} was trained on it, "
                            f"or is another data set ({key}); --data tells where it is")
    return data


def load_own_network(args):
    """Any Keras network of 32x32 images in 0..255, of which only the classes' names are known."""
    if not os.path.isfile(args.teacher):
        raise UserError(f"{args.teacher}: no such file")
    model = runs.load_network(args.teacher)
    outputs = model.output_shape[-1]
    if model.input_shape[1:] != (32, 32, 3) or not args.classes or len(args.classes) != outputs:
        raise UserError(f"{args.teacher}: takes {model.input_shape}, gives {model.output_shape}; "
                        f"(batch, 32, 32, 3) is needed, and {outputs} names after --classes")
    if args.calibrate or "rest" in args.images:
        raise UserError(f"{args.teacher}: its training data are not known, "
                        "which rest and --calibrate need")
    data = load_data(args.data, validation="test") if args.data else None
    if data is None:
        print("copies of test images are not looked for: --data tells which these are")
    return Teacher(model, args.classes, {"teacher_sha256": sha256(args.teacher)}, None, data)


# --- images that are tested on --------------------------------------------------------------------


def without_copies(batches, data):
    """Puts LeftOut in the place of every image that shows a validation or test image of `data`.

    What a network is measured on must not be learnt from, and pools hold it: CINIC-10 contains all
    of CIFAR-10.

    Args:
        batches: lists of (Found, pixels or UserError).

    Yields: the same lists.
    """
    known = np.concatenate([data.x[data.val], data.x_test])
    names = [data.names[i] for i in data.val]
    names += [f"test image {i}" for i in range(len(data.x_test))]
    hashes, exact = perceptual_hash(known), {image.tobytes(): i for i, image in enumerate(known)}
    for batch in batches:
        rows = [row for row, (_, pixels) in enumerate(batch) if isinstance(pixels, np.ndarray)]
        x = np.array([batch[row][1] for row in rows], np.uint8).reshape(-1, *known.shape[1:])
        copies = {}
        for i, j in near_copies(x, known, hashes)[0]:
            copies[i] = LeftOut("near copy", f"shows {names[j]}")
        for i, image in enumerate(x):
            if (j := exact.get(image.tobytes())) is not None:
                copies[i] = LeftOut("exact copy", f"is {names[j]}, pixel for pixel")
        for i, copy in copies.items():
            batch[rows[i]] = batch[rows[i]][0], copy
        yield batch


# --- the truth, for those who know it -------------------------------------------------------------


class Truth:
    """Which class images really are of: by their path, or the longest known beginning of it.

    Args:
        path: a CSV of (path or the beginning of one, class), or None. A beginning is one of whole
            names, and may begin with the source's own name or below it.
        data: a Dataset, whose `rest` is known too; or None.
    """

    def __init__(self, path, class_names, data=None):
        # Class numbers; -1 is none of the classes.
        self.classes, self.path, self.matched, self.asked = {}, path, 0, 0
        self.example = None
        if path:
            self.read(path, class_names)
        if data is not None:
            for i in data.rest:
                self.classes[f"rest/{tidy(data.names[i])}"] = int(data.y[i])

    def read(self, path, class_names):
        with reading(path), open(path, newline="", encoding="utf-8-sig") as file:
            for row in csv.reader(file, strict=True):
                if not row:
                    continue
                if len(row) != 2:
                    raise UserError(f"{path}: two columns, path and class, are expected; got {row}")
                name = row[1].strip()
                label = class_names.index(name) if name in class_names else -1
                self.classes[tidy(row[0].strip())] = label
        strangers = sorted(key for key, label in self.classes.items() if label < 0)
        if strangers:
            print(f"{path}: {len(strangers):,} lines are of none of the classes, "
                  f"{strangers[0]!r} for one")
        if len(strangers) == len(self.classes):
            raise UserError(f"{path}: names none of the classes {', '.join(class_names)}")

    def of(self, source, path):
        """Class number of an image; -1: of no class; None: not known."""
        names = path.split("/")
        self.asked += 1
        # A CSV may leave the ending of the file's name out.
        whole = [names, [*names[:-1], pathlib.PurePath(names[-1]).stem]]
        for beginning in (*whole, *(names[:end] for end in range(len(names) - 1, 0, -1))):
            for start in ([], [os.path.basename(os.path.normpath(source))]):
                label = self.classes.get("/".join([*start, *beginning]))
                if label is not None:
                    self.matched += 1
                    return label
        self.example = self.example or path
        return None

    def report(self):
        """How many images the truth is known of; in a file that fits none, an example of each."""
        if not self.path:
            return
        print(f"truth known for {self.matched:,} of {self.asked:,} images")
        if self.example:
            key = next(iter(self.classes))
            print(f"{'' if self.matched else 'warning: '}{self.path} has {key!r}, "
                  f"and no line for {self.example!r}")


def truth_name(label, class_names):
    """What images.csv says of a true class."""
    if label is None:
        return ""
    return class_names[label] if label >= 0 else "none of these"


class Audit:
    """Counts how right the labels are. It only ever looks on: nothing here decides what is kept."""

    def __init__(self, num_classes, threshold):
        self.threshold = threshold
        self.uncalibrated, self.above = Count(num_classes), Count(num_classes)
        self.kept = Count(num_classes)

    def add(self, label, truth, raw_confidence, confidence):
        """One image: the teacher's class, the true one, and the confidence before and after."""
        self.uncalibrated.add(label, truth, raw_confidence > self.threshold)
        self.above.add(label, truth, confidence > self.threshold)

    def keep(self, labels, truths):
        """All images that were kept."""
        for label, truth in zip(labels, truths):
            self.kept.add(label, truth, True)
        # How many there are of a class is known from all images, not from those that were kept.
        self.kept.exist = self.above.exist

    def summary(self):
        return {"uncalibrated": self.uncalibrated.summary(),
                "above_threshold": self.above.summary(), "kept": self.kept.summary()}

    def describe(self, class_names, hard, index, calibrated):
        """The article's counts per class, before and after balancing, and how right they are."""
        lines = [f"above the threshold: {self.above}", f"kept: {self.kept}"]
        if calibrated:
            lines.insert(0, f"above the threshold without calibration: {self.uncalibrated}")
        known = self.kept.count.any()
        lines.append(f"{'class':12}   kept  balanced" + ("  precision  recall" if known else ""))
        for c, name in enumerate(class_names):
            line = f"{name:12} {(hard == c).sum():6}  {(hard[index] == c).sum():8}"
            if known:
                line += (f"     {percent(self.kept.right[c], self.kept.count[c])}"
                         f"  {percent(self.kept.right[c], self.kept.exist[c])}")
            lines.append(line)
        return "\n".join(lines)


class Count:
    """Labels that are kept, and of those whose truth is known, how many are right."""

    def __init__(self, num_classes):
        self.total = 0
        # By the teacher's class where the truth is known, and by true class, kept or not.
        self.count = np.zeros(num_classes, dtype=np.int64)
        self.right = np.zeros(num_classes, dtype=np.int64)
        self.exist = np.zeros(num_classes, dtype=np.int64)

    def add(self, label, truth, kept):
        self.total += bool(kept)
        if truth is not None:
            self.count[label] += kept
            self.right[label] += kept and label == truth
            if truth >= 0:
                self.exist[truth] += 1

    def summary(self):
        return {"kept": self.total, "truth_known": int(self.count.sum()),
                "right": int(self.right.sum()),
                "precision": ratio(self.right.sum(), self.count.sum()),
                "recall": ratio(self.right.sum(), self.exist.sum())}

    def __str__(self):
        known = self.count.sum()
        if not known:
            return f"{self.total:,}"
        return (f"{self.total:,}, {100 * self.right.sum() / known:.1f} % of the {known:,} "
                "whose truth is known are right")


def ratio(part, whole):
    return float(part / whole) if whole else None


def percent(part, whole):
    return f"{100 * part / whole:5.1f}%" if whole else "     -"


# --- every image that was seen --------------------------------------------------------------------


class ImageTable:
    """images.csv: every image seen, what became of it, and the truth where known.

    Rows are written to an open text file as images come, and for good once it is known which ones
    are kept.
    """

    def __init__(self, file, class_names):
        self.file, self.class_names = file, class_names
        self.write = csv.writer(file).writerow
        # By status, of those that are left out.
        self.counts, self.examples = Counter(), []

    def leave_out(self, image, reason):
        """One file that is not shown to the teacher, and the UserError that says why."""
        status = reason.status if isinstance(reason, LeftOut) else "unreadable"
        self.counts[status] += 1
        if status == "unreadable":
            self.name(image.path, f"{os.path.join(image.source, image.path)!r}: {reason}")
        self.write([image.source, image.path, "", "", status, str(reason), ""])

    def name(self, path, example):
        """Keeps an example of what is unreadable: the first ones, and every whole source."""
        if len(self.examples) < EXAMPLES or not path:
            self.examples.append((path, example))

    def add(self, image, label, confidence, truth):
        self.write([image.source, image.path, self.class_names[label], repr(confidence), "", "",
                    truth_name(truth, self.class_names)])

    def finish(self, path, kept, args):
        """Writes images.csv, and says what was left out."""
        self.report()
        self.file.seek(0)
        write_statuses(path, csv.reader(self.file), kept, args)

    def report(self):
        if count := self.counts["unreadable"]:
            print(f"warning: {count:,} files are not readable images (images.csv names all):",
                  *(example for _, example in self.examples), sep="\n  ")
        exact, near = self.counts["exact copy"], self.counts["near copy"]
        if exact or near:
            print(f"{exact + near:,} images are left out, which show validation or test images, "
                  f"{exact:,} of them pixel for pixel (images.csv names all)")
        hidden, companions = self.counts["hidden"], self.counts["companion"]
        if hidden or companions:
            print(f"{hidden:,} hidden files or folders and {companions:,} texts beside images are "
                  "passed over (images.csv names all)")


def write_statuses(path, rows, kept, args):
    """Writes a table of images with what became of each.

    Args:
        rows: of the table, without statuses. kept: set of (source, path). args: of step 2.

    Returns: how many rows.
    """
    beyond, count = "over the cap", 0
    if args.keep_share:
        beyond = "beyond the share or cap" if args.per_class_cap else "beyond the share"
    with whole_file(path) as beside, open_table(beside, "w") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for source, name, label, confidence, status, reason, truth in rows:
            if not status and (source, name) in kept:
                status = "kept"
            elif not status:
                status = beyond if float(confidence) > args.threshold else "below threshold"
            writer.writerow([source, name, label, confidence, status, reason, truth])
            count += 1
    return count


@contextlib.contextmanager
def scratch_table(run):
    """A table in a run's folder for as long as it is written and read."""
    path = run.path(f"{UNFINISHED}seen.csv")
    try:
        with open_table(path, "w+") as file:
            yield file
    finally:
        path.unlink(missing_ok=True)


def open_table(path, mode="r"):
    return open(path, mode, **TABLE)


def read_table(path):
    """Of images.csv: confidences, and whether each was right, float (M,); NaN: truth not known."""
    confidences, right = [], []
    with reading(path), open_table(path) as file:
        for row in csv.DictReader(file):
            if "part" in row:
                # An index of many.
                part = pathlib.Path(path).parent / row["part"]
                for column, more in zip((confidences, right), read_table(part)):
                    column.extend(more)
            elif row["confidence"]:
                confidences.append(float(row["confidence"]))
                right.append(float(row["label"] == row["truth"]) if row["truth"] else np.nan)
    return np.array(confidences), np.array(right)


def nothing_kept(args, histogram):
    """For a threshold that nothing passes: how confident the teacher was, and what to try.

    Args:
        args: of step 2. histogram: int (BINS,), of the confidences of all images.
    """
    seen, below = histogram.sum(), np.cumsum(histogram)
    if not seen:
        return f"{', '.join(args.images)}: no readable image found that may be learnt from"
    if args.keep_share:
        return f"--keep-share {args.keep_share}: keeps none of {seen:,} images"
    at = {}
    for share in (0.1, 0.5, 0.9, 1.0):
        at[share] = (int(np.searchsorted(below, share * seen)) + 1) / BINS
    return (f"no image is above --threshold {args.threshold}. Of {seen:,} images, a tenth has a "
            f"confidence below {at[0.1]:.2f}, half below {at[0.5]:.2f}, nine tenths below "
            f"{at[0.9]:.2f}, all below {at[1.0]:.2f}. "
            f"Try --threshold {max(at[0.9] - 0.01, 0):.2f}")


def with_progress(labelled, total):
    """Shows how far, how fast and how long still; in a file, a line a minute.

    Args:
        labelled: (Found, ...) tuples. total: bytes of all sources.
    """
    columns = (progress.BarColumn(), progress.TaskProgressColumn(),
               progress.TextColumn("{task.fields[images]:,} images"),
               progress.TimeRemainingColumn())
    terminal = sys.stdout.isatty()
    started = said = time.monotonic()
    images = done = 0
    with progress.Progress(*columns, transient=True, disable=not terminal) as bar:
        task = bar.add_task("labelling", total=max(total, 1), images=0)
        for item in labelled:
            yield item
            images, done = images + 1, done + item[0].size
            if images % 256 == 0:
                bar.update(task, completed=done, images=images)
                now = time.monotonic()
                if not terminal and now - said > 60:
                    said, share = now, min(done / max(total, 1), 1)
                    left = duration((now - started) * (1 / share - 1)) if share else "all"
                    print(f"{images:,} images, {100 * share:.0f} %, {left} left", flush=True)
    elapsed = time.monotonic() - started
    print(f"labelled {images:,} images in {elapsed:.1f} s ({images / elapsed:,.0f} images/s)")


# --- what a later step reads ----------------------------------------------------------------------


@dataclass
class PseudoLabels:
    """x: uint8 (K, 32, 32, 3). y: float32 (K, C). index: int64, the balanced draw from them."""

    x: np.ndarray
    y: np.ndarray
    index: np.ndarray
    sha256: str
    # How they were made, and how their teacher was, as far as it goes.
    taught_by: dict


def load_pseudo(folder, data):
    """Reads what step 2 wrote, and refuses what does not belong to `data`, a Dataset."""
    run = runs.finished(folder, "python imagenet_dummy_label.py IMAGES")
    if run.trained:
        raise UserError(f"{folder}: holds no pseudo-labels but what {run.script} made")
    # Of a teacher that was not trained here, neither is known.
    ours = data.lineage()
    theirs = {**ours, **run.made_from}
    if theirs["data_sha256"] != ours["data_sha256"]:
        raise UserError(f"{folder}: its teacher was trained on another data set")
    if theirs["split_sha256"] != ours["split_sha256"]:
        raise UserError(f"{folder}: its teacher was trained on another choice of labelled images "
                        "(--num-labeled, --seed, --validation)")
    if run.results["class_names"] != data.class_names:
        raise UserError(f"{folder}: its classes are {run.results['class_names']}, "
                        f"those of {data.name} are {data.class_names}")
    x, y, index = (run.arrays(f"{name}.npy") for name in ("x", "y", "index"))
    kept = len(x) if x.ndim else 0
    types = (x.dtype, y.dtype, index.dtype) == (np.uint8, np.float32, np.int64)
    shapes = (x.shape, y.shape) == ((kept, *data.x.shape[1:]), (kept, data.num_classes))
    if (not types or not shapes or index.ndim != 1 or not np.isfinite(y).all()
            or not ((0 <= index) & (index < kept)).all()):
        raise UserError(f"{folder}: images {x.dtype} {x.shape}, labels {y.dtype} {y.shape} and "
                        f"index {index.dtype} {index.shape} do not fit together. "
                        "Delete it and label again")
    digest = sha256(*(run.sha256[f"{name}.npy"].encode() for name in ("x", "y", "index")))
    taught_by = {"labelling": run.arguments, "teacher": run.taught_by}
    return PseudoLabels(x, y, index, digest, taught_by)
