"""What is known of every image that was seen: its row in images.csv, and how right its label is.

It only looks on: nothing here decides what is kept. Imports no Keras.
"""

import contextlib
import csv
import os
import pathlib
from array import array
from collections import Counter
from typing import NamedTuple

import numpy as np

from noisy_student.files import UNFINISHED, UserError, read_csv, reading, whole_file
from noisy_student.pool import tidy

# The screen names at most this many unreadable files; images.csv names all.
EXAMPLES = 5
# Bins of the histogram of confidences, which replaces the list of all confidences.
BINS = 1000
# A pool in which more is left out as near copies than this share is strange.
PLAUSIBLE_COPIES = 0.05
# The status of a file whose picture counts under another name.
SAME_PICTURE = "same picture"
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

    def fill_in(self, pictures):
        """Yields: the Pictures, with their truth, and says at the end of how many it is known."""
        for picture in pictures:
            if not picture.reason:
                picture.truth = self.of(*picture.name)
            yield picture
        self.report()

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


def truth_number(name, class_names):
    """The true class that images.csv calls so; the inverse of truth_name."""
    if not name:
        return None
    return class_names.index(name) if name in class_names else -1


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

    def describe(self, class_names, hard, index, share, calibrated):
        """The article's counts per class, before and after balancing, and how right they are.

        Args:
            share: of each class that is kept, in place of a threshold; or None.
        """
        lines = [f"{'labelled' if share else 'above the threshold'}: {self.above}",
                 f"kept: {self.kept}"]
        if calibrated and not share:
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


class Row(NamedTuple):
    """What is taken down of a Picture until it is known what is kept: texts, classes as numbers."""

    source: str
    path: str
    status: str
    reason: str
    # In hexadecimal.
    digest: str
    label: str = ""
    confidence: str = ""
    raw_confidence: str = ""
    truth: str = ""


class Record:
    """What is known of all images that were seen. It looks on: it never decides what is kept.

    Equal pictures count once, under the first of their names.

    Args:
        file: an open text file, which keeps what comes until it is known what is kept.
        rule: of selection.
    """

    def __init__(self, file, class_names, rule):
        self.file, self.class_names, self.rule = file, class_names, rule
        self.write = csv.writer(file).writerow
        self.audit = Audit(len(class_names), rule.threshold)
        self.histogram = np.zeros(BINS, dtype=np.int64)
        # Images that are left out, by status, and examples of those that are unreadable.
        self.counts, self.examples = Counter(), []
        # Digests of pictures that came more than once.
        self.repeated = set()

    def add(self, picture, repeated=False):
        """Takes down a Picture, and whether an equal one came before."""
        digest = picture.digest.hex()
        if repeated or picture.status == SAME_PICTURE:
            self.repeated.add(digest)
        self.write(Row(*picture.name, picture.status, picture.reason, digest, picture.label,
                       picture.confidence, picture.raw_confidence, picture.truth))

    def write_table(self, path, kept, spare=()):
        """Counts every picture, and writes images.csv, once it is known which Pictures are kept.

        Returns: what a merge must know besides of the N images with a digest, {name: array}:
            digest, uint8 (N, 16), raw_confidence, float32 (N,), and place, int64 (N,): which of
            the kept, then of the spare Pictures it is; -1: none of them.
        """
        places = {(*picture.name, picture.digest.hex()): place
                  for place, picture in enumerate([*kept, *spare])}
        digests, raw_confidences, place_of_each = bytearray(), array("f"), array("q")
        with whole_file(path) as beside, open_table(beside, "w") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row in self.each_once([*kept, *spare]):
                place = -1
                if row.status:
                    self.leave_out(row)
                else:
                    place = places.get((row.source, row.path, row.digest), -1)
                    row = self.labelled(row, 0 <= place < len(kept))
                writer.writerow([getattr(row, column) for column in COLUMNS])
                if row.digest:
                    digests += bytes.fromhex(row.digest)
                    raw_confidences.append(float(row.raw_confidence or 0))
                    place_of_each.append(place)
        return {"digest": np.frombuffer(digests, np.uint8).reshape(-1, 16),
                "raw_confidence": np.array(raw_confidences, np.float32),
                "place": np.array(place_of_each, np.int64)}

    def rows(self):
        self.file.seek(0)
        return map(Row._make, csv.reader(self.file))

    def each_once(self, selected):
        """Yields: every Row; of equal pictures, all but one are left out."""
        originals, met = self.originals(selected), set()
        for row in self.rows():
            original = originals.get(row.digest)
            if original and (original != (row.source, row.path) or row.digest in met):
                row = Row(row.source, row.path, SAME_PICTURE,
                          f"is {os.path.join(*original)}, pixel for pixel", row.digest)
            elif original:
                met.add(row.digest)
            yield row

    def originals(self, selected):
        """Under which of its names a picture counts that came more than once: {digest: name}.

        Under that which was selected, since its pixels are known; or else under the first of those
        with a label, which all but one have lost where labellings are merged.
        """
        names = {}
        for row in self.rows() if self.repeated else ():
            if row.digest in self.repeated:
                name = row.status == SAME_PICTURE, (row.source, row.path)
                names[row.digest] = min(names.get(row.digest, name), name)
        return ({digest: name for digest, (_, name) in names.items()}
                | {picture.digest.hex(): picture.name for picture in selected
                   if picture.digest.hex() in names})

    def leave_out(self, row):
        """Counts a file that is left out, and keeps the first examples, and every whole source."""
        self.counts[row.status] += 1
        if row.status == "unreadable" and (len(self.examples) < EXAMPLES or not row.path):
            self.examples.append(f"{os.path.join(row.source, row.path)!r}: {row.reason}")

    def labelled(self, row, kept):
        """Counts a picture that has a label. Returns: its Row, as images.csv shows it."""
        label, confidence = int(row.label), float(row.confidence)
        truth = int(row.truth) if row.truth else None
        self.audit.add(label, truth, float(row.raw_confidence), confidence)
        self.histogram[min(int(confidence * BINS), BINS - 1)] += 1
        if kept:
            status = "kept"
        elif confidence <= self.rule.threshold:
            status = "below threshold"
        elif self.rule.share:
            status = "beyond the share or cap" if self.rule.cap else "beyond the share"
        else:
            status = "over the cap"
        return row._replace(label=self.class_names[label], status=status,
                            truth=truth_name(truth, self.class_names))

    def report(self):
        """Says what was left out."""
        if count := self.counts["unreadable"]:
            print(f"warning: {count:,} files are not readable images (images.csv names all):",
                  *self.examples, sep="\n  ")
        exact, near = self.counts["exact copy"], self.counts["near copy"]
        if exact or near:
            print(f"{exact + near:,} images are left out, which show validation or test images, "
                  f"{exact:,} of them pixel for pixel (images.csv names all)")
        if near > PLAUSIBLE_COPIES * (near + self.histogram.sum()):
            print(f"warning: {near:,} near copies are many: unless the pool holds the labelled "
                  "data set, look at some of them (status near copy): its pictures may only "
                  "resemble each other")
        if count := self.counts[SAME_PICTURE]:
            print(f"{count:,} files show the same picture as another one, pixel for pixel, and "
                  "are left out (images.csv names all)")
        hidden, companions = self.counts["hidden"], self.counts["companion"]
        if hidden or companions:
            print(f"{hidden:,} hidden files or folders and {companions:,} texts beside images are "
                  "passed over (images.csv names all)")


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
    """Confidences in images.csv, and whether each label is right, float (M,); NaN: not known."""
    confidences, right = [], []
    with reading(path), open_table(path) as file:
        for row in csv.DictReader(file):
            if row.get("confidence"):
                confidences.append(float(row["confidence"]))
                right.append(float(row["label"] == row["truth"]) if row["truth"] else np.nan)
    return np.array(confidences), np.array(right)
