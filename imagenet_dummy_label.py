"""Step 2: unlabelled images + teacher -> pseudo-labels, thresholded and balanced.

    python imagenet_dummy_label.py photos/ more.tar.xz          # folders, tar and zip archives
    python imagenet_dummy_label.py rest --calibrate             # training images without a label
    python imagenet_dummy_label.py data/toy/unlabeled --truth data/toy/truth.csv

The teacher looks at every image once, without noise. What it is confident about is kept with its
soft label, the most confident first, at most --per-class-cap per class; smaller classes are then
filled up to the largest by repetition. Copies of the labelled data's validation and test images
are left out, exact and near ones.

Reads   logs/teacher/ (step 1) and images of any size, format and mode
Writes  logs/pseudo/   x.npy (kept images), y.npy (their soft labels), index.npy (the balanced
                       draw), images.csv (every image seen, what became of it, and the truth where
                       known), run.json, montage.png, confidence.png, mistakes.png (where truth is
                       known).
                       With --engine ray, images.csv is the index of a table per source in parts/.
"""

from noisy_student import arguments

if __name__ == "__main__":
    # Before Keras is imported, which takes seconds.
    args = arguments.labelling(__doc__)

import heapq
import itertools

import numpy as np

# A student can teach too, and its layers must be known to load it.
import stochastic_resblock  # noqa: F401
from noisy_student import backend, parts, pool, runs
from noisy_student.batches import in_batches, made_ahead
from noisy_student.files import UserError, run_script
from noisy_student.images import FEW_BYTES, decode_all
from noisy_student.labels import (
    BINS,
    load_teacher,
    nothing_kept,
    save_labels,
    with_progress,
    without_copies,
)
from noisy_student.metrics import fit_temperature, score, with_temperature
from noisy_student.record import Record, Truth, scratch_table
from noisy_student.training import BATCH, predict

# --- the teacher looks at every image once --------------------------------------------------------


def label_images(teacher, sources, data, temperature=1.0, workers=None):
    """Decodes every image and lets the teacher look at it, without noise, a batch at a time.

    Finding and decoding, the teacher, and whoever takes the labels all work at the same time.
    Article: one image at a time.

    Args:
        sources: folders, archives, or the word "rest": what `data` left without a label.
        data: a Dataset, whose validation and test images are left out; or None.

    Yields: Pictures, with what the teacher says, or the reason why they were not shown to it.
    """
    pictures = itertools.chain.from_iterable(pool.find_images(source, data) for source in sources)
    batches = in_batches(decode_all(pictures, workers), BATCH)
    if data is not None:
        batches = without_copies(batches, data)
    for batch in made_ahead(look_at(teacher, made_ahead(batches), temperature)):
        yield from batch


def look_at(teacher, batches, temperature):
    """Fills in what the teacher says of the pictures that can be looked at.

    The teacher is always shown BATCH images, some of them repeated if need be: what it says of one
    then does not depend on how many are shown with it, and no backend compiles for another size.

    Args:
        batches: lists of Pictures.

    Yields: the same lists.
    """
    for batch in batches:
        readable = [picture for picture in batch if not picture.reason]
        if readable:
            pixels = [picture.pixels for picture in readable]
            raw = teacher.predict_on_batch(np.resize(pixels, (BATCH, *pixels[0].shape)))
            raw = raw[:len(readable)]
            soft = with_temperature(raw, temperature) if temperature != 1 else raw
            for picture, row, raw_confidence in zip(readable, soft, raw.max(axis=1)):
                if np.isnan(raw_confidence):
                    picture.leave_out("the teacher's answer is not a number")
                else:
                    picture.judge(row, raw_confidence)
        yield batch


def choose_and_record(pictures, selection, record):
    """Chooses from a pool, or from a part of one, and takes down what the teacher said.

    Args:
        pictures: of label_images. selection: a Selection. record: which only looks on.
    """
    for picture in pictures:
        if not picture.reason:
            selection.add(picture)
        record.add(picture)


def calibrate(teacher, data):
    """Fits a temperature on the images that the teacher was validated on.

    A teacher that has memorised its training images is surer than it should be (Guo et al. 2017).
    """
    x, t = data.validation()
    before = predict(teacher, x)
    temperature = fit_temperature(before, t)
    after = with_temperature(before, temperature.value)
    (loss_before, accuracy), (loss_after, _) = score(before, t), score(after, t)
    print(f"{temperature}. On {len(x):,} validation images: "
          f"accuracy {accuracy:.3f}, mean confidence {before.max(1).mean():.3f} -> "
          f"{after.max(1).mean():.3f}, cross-entropy {loss_before:.3f} -> {loss_after:.3f}")
    return temperature.value


# --- the most confident of each class -------------------------------------------------------------


def rank(picture):
    """The order of choice: most confident first, and equals by name, not in an order of listing."""
    return -picture.confidence, *picture.name


def most_confident(pictures, count):
    """At most `count` of them, the most confident first."""
    return heapq.nsmallest(count, pictures, rank)


class Selection:
    """Keeps, of everything it is shown, the most confident images of each class.

    With a cap, memory grows with what is kept, not with what is seen.

    Args:
        threshold: an image is kept if its confidence is above (article: 0.75; the paper: 0.3).
        per_class_cap: at most so many of a class (the paper: 130,000); None, no cap.
        keep_share: of each class, only this share, 0..1, of all that the teacher put into it: a
            threshold alone keeps few of the classes that a teacher is seldom sure of.
    """

    def __init__(self, threshold, per_class_cap, num_classes, keep_share=1.0):
        self.threshold, self.cap, self.keep_share = threshold, per_class_cap, keep_share
        self.candidates = [[] for _ in range(num_classes)]
        self.seen = np.zeros(num_classes, dtype=np.int64)
        self.histogram = np.zeros(BINS, dtype=np.int64)
        # Of each class the rank beyond which nothing is kept, as far as that is known: for Ray's
        # machines.
        self.bounds = [None] * num_classes

    def add(self, picture):
        """Shows one labelled picture."""
        self.seen[picture.label] += 1
        self.histogram[min(int(picture.confidence * BINS), BINS - 1)] += 1
        if picture.confidence > self.threshold:
            self.take(picture)

    def take(self, picture):
        """Takes one picture above the threshold as a candidate."""
        of_class = self.candidates[picture.label]
        of_class.append(picture)
        # Sorted now and then, not at every image.
        if self.cap and len(of_class) >= 2 * self.cap + BATCH:
            self.candidates[picture.label] = most_confident(of_class, self.cap)
            self.bounds[picture.label] = rank(self.candidates[picture.label][-1])

    def kept(self):
        """The chosen images, class after class, the most confident first: Pictures."""
        chosen = []
        for of_class, seen in zip(self.candidates, self.seen):
            most = round(self.keep_share * int(seen))
            if self.cap:
                most = min(most, self.cap)
            chosen += most_confident(of_class, most)
        return chosen


# --- the same number of every class ---------------------------------------------------------------


def balance(hard, max_repeats=None):
    """Fills every class up to the largest by repeating its images, as the article does.

    A class without an image stays empty. Images are repeated from the front: if those of a class
    come most confident first, the most confident are repeated.

    Args:
        hard: int (K,), class of each kept image.
        max_repeats: uses no image more often than that.

    Returns: int64 indices into the kept images; without max_repeats, as many of every class.
    """
    counts = np.bincount(hard)
    drawn = []
    for c in np.unique(hard):
        size = counts.max()
        if max_repeats:
            size = min(size, max_repeats * counts[c])
        drawn.append(np.resize(np.flatnonzero(hard == c), size))
    return np.concatenate(drawn)


# --- the script -----------------------------------------------------------------------------------


def main(args):
    if args.engine == "ray":
        parts.check(args)
        backend.leave_gpus()
    backend.prepare(0)
    teacher = load_teacher(args)
    class_names, data = teacher.class_names, teacher.data
    if args.engine == "ray":
        size = parts.size_of(args.images, data)
    else:
        size = sum(pool.check_source(source, data) for source in args.images)
    # Few images are decoded sooner than worker processes start.
    workers = args.workers or (1 if size < FEW_BYTES else None)
    truth = Truth(args.truth, class_names, data if "rest" in args.images else None)
    if args.keep_share:
        # The share is in the place of the threshold.
        args.threshold = 0.0
    made_from = {**teacher.made_from, "pool_bytes": size}
    run = runs.start("imagenet_dummy_label.py", args.out, args, made_from, teacher.taught_by,
                     flag="--out")
    if run.finished:
        print(f"{args.out} is finished: {run.results['kept']:,} of {run.results['seen']:,} images "
              "kept; delete it to label again")
        return

    # Look at every image once, and keep the most confident of each class
    selection = Selection(args.threshold, args.per_class_cap, len(class_names),
                          args.keep_share or 1.0)
    with scratch_table(run) as file:
        record = Record(file, class_names, args.threshold, truth)
        if args.engine == "ray":
            kept, temperature = parts.on_cluster(args, run, selection, record)
        else:
            temperature = calibrate(teacher.model, data) if args.calibrate else 1.0
            labelled = label_images(teacher.model, args.images, data, temperature, workers)
            choose_and_record(with_progress(labelled, size), selection, record)
            kept = selection.kept()
            record.write_table(run.path("images.csv"), kept, args)
    record.report()
    if not kept:
        raise UserError(nothing_kept(args, selection.histogram))

    # The same number of every class
    y = np.stack([picture.soft for picture in kept])
    hard = y.argmax(axis=1)
    index = np.arange(len(hard)) if args.no_balance else balance(hard, args.max_repeats)
    if args.hard:
        y = np.eye(len(class_names), dtype=np.float32)[hard]
    save_labels(run, args, kept, y, index, record, selection.histogram, temperature)


if __name__ == "__main__":
    run_script(main, args)
