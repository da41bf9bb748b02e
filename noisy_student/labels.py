"""Who labels, and what a later step reads of the labels."""

import itertools
import os
import sys
import time
from dataclasses import dataclass

import numpy as np
from rich import progress

from noisy_student import commands, formats, pool, runs
from noisy_student.batches import in_batches, made_ahead
from noisy_student.data import load_data
from noisy_student.files import UserError, sha256, write_arrays
from noisy_student.images import FEW_BYTES, decode_all
from noisy_student.metrics import ALIKE, alike_from, near_copies, perceptual_hash
from noisy_student.record import BINS
from noisy_student.training import BATCH, duration

# How far from 1 the sum of a network's probabilities may be: further than half precision rounds.
FAR_FROM_ONE = 0.01


# --- the teacher ----------------------------------------------------------------------------------


@dataclass
class Teacher:
    """A network that labels, what is known of its training, and the data it was trained on."""

    model: object
    class_names: list
    made_from: dict
    taught_by: dict
    data: object = None


class Network:
    """A Keras network whose answers are checked by what they mean, before anything is learnt."""

    def __init__(self, model, path):
        self.model, self.path = model, path

    def predict_on_batch(self, x):
        """uint8 (N, 32, 32, 3) -> probabilities, float32 (N, C), whatever the network computes in.

        An answer that is not a number is NaN: it costs its own image alone. Raises: UserError,
        where other answers are no distributions.
        """
        answers = self.model.predict_on_batch(x)
        y = np.asarray(answers, np.float32)
        numbers = np.isfinite(y).all(axis=1)
        if wrong := no_distributions(y[numbers]):
            self.refuse(wrong)
        y = np.where(numbers[:, None], y, np.float32(np.nan))
        return y if answers.dtype == np.float32 else y / y.sum(axis=1, keepdims=True)

    def try_out(self):
        """Shows it noise, before hours are spent. Raises: UserError, where no answer is right."""
        noise = np.random.default_rng(0).integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8)
        answers = self.predict_on_batch(noise)
        if np.isnan(answers).all():
            self.refuse(no_distributions(answers))

    def refuse(self, wrong):
        raise UserError(f"{self.path}: its answers {wrong}. A teacher answers with probabilities: "
                        "end it in a softmax, and see to it that its weights are numbers")


def no_distributions(y):
    """What is wrong with labels or answers, float (N, C), in words; None, where nothing is."""
    if not np.isfinite(y).all():
        return f"are not numbers for {(~np.isfinite(y).all(axis=1)).sum():,} of {len(y):,} images"
    sums = y.sum(axis=1)
    if (y < 0).any() or (abs(sums - 1) > FAR_FROM_ONE).any():
        return (f"go from {y.min():.2f} to {y.max():.2f}, and those of an image add up to "
                f"{sums.min():.2f} to {sums.max():.2f}, not to 1")
    return None


def load_teacher(path, class_names=None, data=None):
    """The teacher, and the data it was trained on.

    Args:
        path: the folder of a training, or a .keras file.
        class_names: what the outputs of a .keras file stand for.
        data: where the data set is now, if it has moved; of a .keras file, the data set whose test
            images are left out.

    Raises: UserError, where teacher, data and classes do not fit together.
    """
    if path.endswith(".keras"):
        return load_own_network(path, class_names, data)
    run = runs.trained(path, "python cifar10_resnet50.py")
    made_from = {**run.made_from, "teacher_sha256": run.sha256["model.keras"]}
    taught_by = {"arguments": run.arguments, "taught_by": run.taught_by}
    network = Network(run.model(), path)
    return Teacher(network, run.results["class_names"], made_from, taught_by,
                   load_data_of(run, data))


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


def load_own_network(path, class_names, data):
    """Any Keras network of 32x32 images in 0..255, of which only the classes' names are known."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file")
    model = runs.load_network(path)
    takes, gives = model.input_shape, model.output_shape
    if takes[1:] != (32, 32, 3) or len(gives) != 2 or gives[1] != len(class_names or ()):
        raise UserError(f"{path}: takes {takes}, gives {gives}; (batch, 32, 32, 3) and "
                        f"(batch, classes) are needed, and {gives[-1]} names after --classes")
    if name := formats.twice(class_names):
        raise UserError(f"--classes: two are called {name!r}: give each its own name")
    made_from = {"teacher_sha256": sha256(path)}
    data = load_data(data, validation="test") if data else None
    if data is None:
        print("copies of test images are not looked for: --data tells which these are")
    else:
        # Its copies are left out, so other labels come of other data.
        lineage = data.lineage()
        made_from |= {key: lineage[key] for key in ("data", "data_sha256")}
    network = Network(model, path)
    network.try_out()
    return Teacher(network, class_names, made_from, None, data)


def check_teacher(teacher, sources, calibrate):
    """Raises: UserError, where what is asked for needs images that the teacher's data lack."""
    path = teacher.model.path
    if teacher.taught_by is None and (calibrate or "rest" in sources):
        raise UserError(f"{path}: its training data are not known, "
                        "which rest and --calibrate need")
    if calibrate and len(teacher.data.val) == 0:
        raise UserError(f"--calibrate: {path} was validated on the test images, "
                        "which must not decide anything")
    if "rest" in sources and len(teacher.data.rest) == 0:
        raise UserError(f"rest: {path} was given every label; train it with --num-labeled N")


# --- images, before the teacher sees them ---------------------------------------------------------


def read_batches(sources, data, size, workers=None):
    """Finds and decodes images, the next ones while the last are used.

    Args:
        sources: folders, archives, or the word "rest": what `data` left without a label.
        data: a Dataset, whose validation and test images are left out; or None.
        size: of all sources, in bytes. workers: processes that decode.

    Returns: an iterator over lists of at most BATCH Pictures, all of one source: the last bits of
        what a network says may depend on the place in a batch, and a source is to be labelled as
        it would be by itself.
    """
    if size < FEW_BYTES:
        # Few images are decoded sooner than worker processes start.
        workers = workers or 1
    pictures = itertools.chain.from_iterable(pool.find_images(source, data) for source in sources)
    by_source = itertools.groupby(decode_all(pictures, workers), lambda picture: picture.source)
    batches = itertools.chain.from_iterable(in_batches(group, BATCH) for _, group in by_source)
    return made_ahead(batches if data is None else without_copies(batches, data))


def without_copies(batches, data):
    """Leaves out every picture that shows a validation or test image of `data`.

    What a network is measured on must not be learnt from, and pools hold it: CINIC-10 contains all
    of CIFAR-10.

    Args:
        batches: lists of decoded Pictures.

    Returns: an iterator over the same lists.
    """
    known = np.concatenate([data.x[data.val], data.x_test])
    names = [data.names[i] for i in data.val]
    names += [f"test image {i}" for i in range(len(data.x_test))]
    hashes, exact = perceptual_hash(known), {image.tobytes(): i for i, image in enumerate(known)}
    alike, share = alike_from(known, hashes)
    if alike > ALIKE:
        print(f"{100 * share:.0f} % of the validation and test images resemble another one of them "
              f"as near copies do: only what correlates above {alike:.3f} with one, and not above "
              f"{ALIKE}, is left out as its copy")

    def left_out(batch):
        images = [picture for picture in batch if not picture.reason]
        x = np.array([picture.pixels for picture in images], np.uint8)
        x = x.reshape(-1, *known.shape[1:])
        near = dict(near_copies(x, known, hashes, alike)[0].tolist())
        for i, picture in enumerate(images):
            if (j := exact.get(picture.pixels.tobytes())) is not None:
                picture.leave_out(f"is {names[j]}, pixel for pixel", "exact copy")
            elif i in near:
                picture.leave_out(f"shows {names[near[i]]}", "near copy")
        return batch

    return map(left_out, batches)


def nothing_kept(rule, sources, histogram):
    """For a rule that nothing passes: how confident the teacher was, and what to try.

    Args:
        histogram: int (BINS,), of the confidences of all images.
    """
    seen, below = histogram.sum(), np.cumsum(histogram)
    if not seen:
        return f"{', '.join(sources)}: no readable image found that may be learnt from"
    if rule.share:
        return (f"--keep-share {rule.share}: keeps none of {seen:,} images. "
                f"Try {commands.as_flags('label', '--keep-share 1')}")
    at = {}
    for share in (0.1, 0.5, 0.9, 1.0):
        at[share] = (int(np.searchsorted(below, share * seen)) + 1) / BINS
    return (f"no image is above --threshold {rule.threshold}. Of {seen:,} images, a tenth has a "
            f"confidence below {at[0.1]:.2f}, half below {at[0.5]:.2f}, nine tenths below "
            f"{at[0.9]:.2f}, all below {at[1.0]:.2f}. "
            f"Try {commands.as_flags('label', f'--threshold {max(at[0.9] - 0.01, 0):.2f}')}")


def with_progress(batches, total):
    """Shows how far, how fast and how long still; in a file, a line a minute.

    Args:
        batches: lists of labelled Pictures, of which the next is made while one is used.
        total: bytes of all sources.

    Yields: the Pictures.
    """
    columns = (progress.BarColumn(), progress.TaskProgressColumn(),
               progress.TextColumn("{task.fields[images]:,} images"),
               progress.TimeRemainingColumn())
    terminal = sys.stdout.isatty()
    started = said = time.monotonic()
    images = done = 0
    with progress.Progress(*columns, transient=True, disable=not terminal) as bar:
        task = bar.add_task("labelling", total=max(total, 1), images=0)
        for picture in itertools.chain.from_iterable(made_ahead(batches)):
            yield picture
            images, done = images + 1, done + picture.size
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


def save_labels(run, rule, kept, index, record, temperature):
    """Writes x.npy, y.npy, index.npy, run.json and pictures, and says what came of it.

    Args:
        rule: of selection. kept: a list of K Pictures, class after class.
        index: int64, the balanced draw from them. record: a Record, whose table is written.
    """
    class_names = record.class_names
    hard = np.array([picture.label for picture in kept], dtype=np.int64)
    pixels = np.array([picture.pixels for picture in kept], np.uint8).reshape(-1, 32, 32, 3)
    y = np.array([picture.soft for picture in kept], np.float32).reshape(-1, len(class_names))
    if rule.hard:
        y = np.eye(len(class_names), dtype=np.float32)[hard]
    for name, array in (("x", pixels), ("y", y), ("index", index.astype(np.int64))):
        write_arrays(run.path(f"{name}.npy"), array)
    truths = [picture.truth for picture in kept]
    record.audit.keep(hard, truths)
    run.finish(seen=int(record.histogram.sum()), left_out=record.counts, kept=len(kept),
               balanced=len(index), temperature=temperature, class_names=class_names,
               kept_per_class=np.bincount(hard, minlength=len(class_names)).tolist(),
               balanced_per_class=np.bincount(hard[index], minlength=len(class_names)).tolist(),
               audit=record.audit.summary())
    print(record.audit.describe(class_names, hard, index, rule.share, temperature != 1))
    if missing := without_label(hard, class_names):
        print(f"warning: no pseudo-label for {missing}; the student goes on with the "
              "other classes (--require-all-classes makes this an error)")
    if not kept:
        return
    # Imported late: the work is done when it is time for pictures.
    from noisy_student import figures

    pictures = figures.draw_labels(run.folder, kept, class_names, record.histogram,
                                   None if rule.share else rule.threshold)
    print(f"pictures: {', '.join(map(str, pictures))}")


def without_label(hard, class_names):
    """The names of the classes that int (K,) has none of, in words."""
    return ", ".join(name for c, name in enumerate(class_names) if c not in hard)


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
    if not run.results["kept"]:
        raise UserError(f"{folder}: keeps no image; it is there to be merged with others")
    # What is not known passes: the split of a teacher from elsewhere, and perhaps its data.
    ours = data.lineage()
    theirs = {**ours, **run.made_from}
    if theirs["data_sha256"] != ours["data_sha256"]:
        raise UserError(f"{folder}: its teacher was trained on another data set" if run.taught_by
                        else f"{folder}: the test images of another data set are left out (--data)")
    if theirs["split_sha256"] != ours["split_sha256"]:
        raise UserError(f"{folder}: its teacher was trained on another choice of labelled images "
                        "(--num-labeled, --seed, --validation)")
    names = run.results["class_names"]
    if sorted(names) != sorted(data.class_names):
        raise UserError(f"{folder}: its classes are {names}, "
                        f"those of {data.name} are {data.class_names}")
    x, y, index = (run.arrays(f"{name}.npy") for name in ("x", "y", "index"))
    kept = len(x) if x.ndim else 0
    types = (x.dtype, y.dtype, index.dtype) == (np.uint8, np.float32, np.int64)
    shapes = (x.shape, y.shape) == ((kept, *data.x.shape[1:]), (kept, data.num_classes))
    inside = ((0 <= index) & (index < kept)).all()
    if not types or not shapes or index.ndim != 1 or not inside:
        raise UserError(f"{folder}: images {x.dtype} {x.shape}, labels {y.dtype} {y.shape} and "
                        f"index {index.dtype} {index.shape} do not fit together. "
                        "Delete it and label again")
    if wrong := no_distributions(y):
        raise UserError(f"{folder}: its labels {wrong}. Delete it and label again")
    # A network of one's own may have the same classes in another order.
    y = y[:, [names.index(name) for name in data.class_names]]
    taught_by = {"labelling": run.arguments, "teacher": run.taught_by}
    return PseudoLabels(x, y, index, run.labels_sha256, taught_by)
