"""Step 2: unlabelled images + teacher -> pseudo-labels, thresholded and balanced.

    python imagenet_dummy_label.py photos/ more.tar.xz          # folders, tar and zip archives
    python imagenet_dummy_label.py rest --calibrate             # training images without a label
    python imagenet_dummy_label.py data/toy/unlabeled --truth data/toy/truth.csv
    python imagenet_dummy_label.py --merge logs/a logs/b --out logs/both    # labelled apart

The teacher looks at every image once, without noise. What it is confident about is kept with its
soft label, the most confident first, at most --per-class-cap per class; smaller classes are then
filled up to the largest by repetition. Copies of the labelled data's validation and test images
are left out, exact and near ones, and of equal pictures all but one.

Reads   logs/teacher/ (step 1) and images of any size, format and mode; or finished labellings
Writes  logs/pseudo/   x.npy (kept images), y.npy (their soft labels), index.npy (the balanced
                       draw), images.csv (every image seen, what became of it, and the truth where
                       known), merge.npz (what else --merge needs), run.json, montage.png,
                       confidence.png, mistakes.png (where truth is known)
"""

from noisy_student import arguments

if __name__ == "__main__":
    # Before Keras is imported, which takes seconds.
    args = arguments.labelling(__doc__)

import heapq
import shutil
from dataclasses import dataclass

import numpy as np

# A student can teach too, and its layers must be known to load it.
import stochastic_resblock  # noqa: F401
from noisy_student import backend, commands, labels, merge, pool, runs
from noisy_student.files import UserError, run_script
from noisy_student.metrics import fit_temperature, score, with_temperature
from noisy_student.record import Record, Truth, scratch_table
from noisy_student.training import BATCH, predict

# --- the teacher looks at every image once --------------------------------------------------------
#
# The teacher sees images as they are, so that its labels are as good as it can make them; noise is
# for the student, who must reach the same answer from less. Labels are soft: "cat 0.6, dog 0.4"
# tells a student more than "cat" does, and costs less where it is wrong.


def label_images(teacher, batches, temperature=1.0):
    """Lets the teacher look at images, without noise. Article: one image at a time.

    The teacher is always shown BATCH images, some of them repeated if need be: what it says of one
    then does not depend on how many are shown with it, and no backend compiles for another size.

    Args:
        batches: lists of at most BATCH Pictures.

    Yields: the same lists; what the teacher says of a Picture, unless it is left out, is filled in.
    """
    for batch in batches:
        # All but those that cannot be read, or are test images.
        shown = [picture for picture in batch if not picture.reason]
        if shown:
            pixels = [picture.pixels for picture in shown]
            raw = teacher.predict_on_batch(np.resize(pixels, (BATCH, *pixels[0].shape)))
            raw = raw[:len(shown)]
            soft = with_temperature(raw, temperature) if temperature != 1 else raw
            for picture, row, raw_confidence in zip(shown, soft, raw.max(axis=1)):
                if np.isnan(raw_confidence):
                    picture.leave_out("the teacher's answer is not a number")
                else:
                    picture.judge(row, raw_confidence)
        yield batch


def calibrate(teacher, data):
    """Fits a temperature on the images that the teacher was validated on.

    A teacher may be surer than it is right (Guo et al. 2017), or less sure, after label smoothing:
    a threshold then keeps too many or too few. Dividing the logits by one number brings confidence
    near accuracy. The order of an image's classes stays; that of images by confidence may change.
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
#
# A confident label is more often right, and a wrong one teaches the student a mistake. But one
# threshold for all classes keeps few images of those that the teacher is seldom sure of, and the
# student then hardly meets them. A share of each class keeps some of every class, unless that has
# hardly any. A cap bounds what is kept of the commonest ones.


@dataclass(frozen=True)
class Rule:
    """What is kept of all that the teacher has seen, and how it is used.

    threshold    a picture is kept if its confidence is above (article: 0.75; the paper, Xie et al.
                 2020: 0.3). Label smoothing s aims at 1 - s + s/C: 0.82 for the sprint recipe and
                 ten classes. With such a teacher, calibrate or use `share`
    share        only this share, 0..1, of what the teacher put into a class is kept; None: all
    cap          at most this many of a class are kept (the paper: 130,000); None: no cap
    max_repeats  a picture is used at most this often when classes are balanced; None: no limit
    hard         whether labels are one-hot
    balanced     whether smaller classes are filled up to the largest
    """

    threshold: float = 0.75
    share: float = None
    cap: int = None
    max_repeats: int = None
    hard: bool = False
    balanced: bool = True

    def most(self, seen):
        """How many of a class are kept at most, of all that the teacher has put into it."""
        most = round((self.share or 1.0) * seen)
        return min(most, self.cap) if self.cap else most


def rank(picture):
    """Sort key: most confident first; ties by name, so the order of files does not matter."""
    return -picture.confidence, *picture.name, picture.digest


class Selection:
    """Keeps, of everything it is shown, the most confident pictures of each class, each once.

    With a cap, memory grows with what is kept, and by a hundred bytes for every picture seen.
    """

    def __init__(self, rule, num_classes):
        self.rule = rule
        # {digest: Picture} of each class: equal pictures are one, under the first of their names.
        self.candidates = [{} for _ in range(num_classes)]
        self.digests, self.seen = set(), np.zeros(num_classes, dtype=np.int64)

    def add(self, picture):
        """Shows one labelled Picture. Returns: whether an equal one came before."""
        repeated = picture.digest in self.digests
        self.digests.add(picture.digest)
        self.seen[picture.label] += not repeated
        if picture.confidence > self.rule.threshold:
            candidates = self.candidates[picture.label]
            equal = candidates.get(picture.digest, picture)
            candidates[picture.digest] = min(equal, picture, key=rank)
            # Sorted now and then, not at every image.
            if self.rule.cap and len(candidates) >= 2 * self.rule.cap + BATCH:
                best = self.most_confident(candidates)
                self.candidates[picture.label] = {each.digest: each for each in best}
        return repeated

    def most_confident(self, candidates):
        """Those within the cap, the most confident first."""
        return heapq.nsmallest(self.rule.cap or len(candidates), candidates.values(), rank)

    def kept(self):
        """The chosen Pictures, class after class, the most confident first.

        Returns: a list of them, and one of those beyond the share, which may be within it once
            this pool is merged with another.
        """
        kept, spare = [], []
        for candidates, seen in zip(self.candidates, self.seen.tolist()):
            best, most = self.most_confident(candidates), self.rule.most(seen)
            kept += best[:most]
            spare += best[most:]
        return kept, spare


# --- the same number of every class ---------------------------------------------------------------
#
# A student that met nine dogs for each cat would guess "dog" whenever it is in doubt. Under noise a
# repetition costs little, since it looks different every time; without noise, the student sees the
# same picture again.


def balance(hard, max_repeats=None):
    """Fills every class up to the largest by repeating its images, as the article does.

    A class without an image stays empty. Images are repeated from the front, the most confident
    first; the paper repeats random ones.

    Args:
        hard: int (K,), class of each kept image.
        max_repeats: uses no image more often than that.

    Returns: int64 indices into the kept images; without max_repeats, as many of every class.
    """
    counts, drawn = np.bincount(hard), [np.empty(0, dtype=np.int64)]
    for c in np.unique(hard):
        size = counts.max()
        if max_repeats:
            size = min(size, max_repeats * counts[c])
        drawn.append(np.resize(np.flatnonzero(hard == c), size))
    return np.concatenate(drawn)


# --- the script -----------------------------------------------------------------------------------
#
# What was labelled apart, on two machines or in two months, is merged as if it had been labelled
# at once: the pictures then come with their labels, and all else is the same.


def main(args):
    if args.engine == "ray":
        # The GPUs are for the commands that label.
        backend.leave_gpus()
    backend.prepare(0)
    # With a share there is no threshold
    chosen = vars(args) | ({"threshold": 0.0} if args.keep_share else {})
    # Labels are made by a teacher, who looks at images, or taken from labellings that are merged
    if args.merge:
        made = parts = merge.Parts(args.merge)
        chosen = parts.arguments | {"require_all_classes": args.require_all_classes}
    else:
        made = teacher = labels.load_teacher(args.teacher, args.classes, args.data)
        labels.check_teacher(teacher, args.images, args.calibrate)
        size = pool.check_sources(args.images, teacher.data)
        teacher.made_from["pool_bytes"] = size
        truth = Truth(args.truth, teacher.class_names,
                      teacher.data if "rest" in args.images else None)
    rule = Rule(chosen["threshold"], chosen["keep_share"], chosen["per_class_cap"],
                chosen["max_repeats"], chosen["hard"], not chosen["no_balance"])
    run = runs.start("imagenet_dummy_label.py", args.out, chosen, made.made_from, made.taught_by,
                     flag="--out")
    if run.finished:
        print(f"{args.out} is finished: {run.results['kept']:,} of {run.results['seen']:,} images "
              "kept; delete it to label again")
        return

    # Look at every image once, and keep the most confident of each class
    if args.engine == "ray":
        parts = merge.label_apart(chosen, f"{args.out}/parts")
    if args.merge or args.engine == "ray":
        pictures, temperature = parts.pictures(), parts.temperature
    else:
        temperature = calibrate(teacher.model, teacher.data) if args.calibrate else 1.0
        batches = labels.read_batches(args.images, teacher.data, size, args.workers)
        pictures = labels.with_progress(label_images(teacher.model, batches, temperature), size)
        pictures = truth.fill_in(pictures)
    selection = Selection(rule, len(made.class_names))
    with scratch_table(run) as file:
        record = Record(file, made.class_names, rule)
        for picture in pictures:
            repeated = not picture.reason and selection.add(picture)
            record.add(picture, repeated)
        kept, spare = selection.kept()
        merge.keep(run, record.write_table(run.path("images.csv"), kept, spare), spare)
    record.report()
    if not kept and not args.allow_empty:
        raise UserError(labels.nothing_kept(rule, chosen["images"], record.histogram))

    # The same number of every class
    hard = np.array([picture.label for picture in kept], dtype=np.int64)
    missing = labels.without_label(hard, made.class_names)
    if missing and args.require_all_classes:
        raise UserError(f"--require-all-classes: no pseudo-label for {missing}")
    index = balance(hard, rule.max_repeats) if rule.balanced else np.arange(len(hard))
    labels.save_labels(run, rule, kept, index, record, temperature)
    if args.engine == "ray":
        shutil.rmtree(f"{args.out}/parts")
    if kept:
        # A teacher from elsewhere does not tell which data set its student is to learn.
        known = args.data if made.taught_by else args.data or "FOLDER"
        commands.say_next(*commands.student_next(args.out, known))


if __name__ == "__main__":
    run_script(main, args)
