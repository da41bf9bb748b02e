"""What is known of every image that was seen: its row in images.csv, and how right its label is.

It only looks on: nothing here decides what is kept. Imports no Keras.
"""

import contextlib
import csv
import os
import pathlib
from collections import Counter

import numpy as np

from noisy_student.files import UNFINISHED, UserError, read_csv, reading, whole_file
from noisy_student.pool import tidy

# Of unreadable files, so many are named on the screen; images.csv names all.
EXAMPLES = 5
# How a table is opened: a file's name may hold bytes that are no letters.
TABLE = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
COLUMNS = ("source", "path", "label", "confidence", "status", "reason", "truth")


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
            for i in data.rest[data.y[data.rest] >= 0]:
                self.classes[f"rest/{tidy(data.names[i])}"] = int(data.y[i])

    def read(self, path, class_names):
        with reading(path):
            for row in read_csv(path):
                if len(row) != 2:
                    raise UserError(f"{path}: two columns, path and class, are expected; got {row}")
                name, of_class = row
                label = class_names.index(of_class) if of_class in class_names else -1
                self.classes[tidy(name)] = label
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
            for start in ([], [os.path.basename(os.path.abspath(source))]):
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
    """Counts how right the labels are."""

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


class Record:
    """What is known of all images that were seen. It looks on: it never decides what is kept.

    Args:
        file: an open text file, for the rows of images.csv as images come; for good they are
            written once it is known which images are kept.
        threshold: of confidence. truth: a Truth.
    """

    def __init__(self, file, class_names, threshold, truth):
        self.file, self.class_names, self.truth = file, class_names, truth
        self.write = csv.writer(file).writerow
        self.audit = Audit(len(class_names), threshold)
        # By status, of those that are left out.
        self.counts, self.examples = Counter(), []

    def leave_out(self, picture):
        """One file that is not shown to the teacher."""
        self.counts[picture.status] += 1
        if picture.status == "unreadable":
            self.name(picture.path,
                      f"{os.path.join(picture.source, picture.path)!r}: {picture.reason}")
        self.write([*picture.name, "", "", picture.status, picture.reason, ""])

    def name(self, path, example):
        """Keeps an example of what is unreadable: the first ones, and every whole source."""
        if len(self.examples) < EXAMPLES or not path:
            self.examples.append((path, example))

    def add(self, picture):
        """One file, left out or labelled."""
        if picture.reason:
            self.leave_out(picture)
            return
        truth = self.truth.of(*picture.name)
        self.audit.add(picture.label, truth, picture.raw_confidence, picture.confidence)
        self.write([*picture.name, self.class_names[picture.label], repr(picture.confidence), "",
                    "", truth_name(truth, self.class_names)])

    def write_table(self, path, kept, args):
        """Writes images.csv, once it is known which Pictures are kept."""
        self.file.seek(0)
        write_statuses(path, csv.reader(self.file), {picture.name for picture in kept}, args)

    def report(self):
        """Says what was left out, and how many images the truth is known of."""
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
        self.truth.report()


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
