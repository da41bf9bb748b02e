"""Test images that are corrupted, attacked, or from elsewhere, and copies of images trained on.

Noisy Student's paper claims robustness above all (its ImageNet-A, -C, -P). The article was too
exhausted to look. A new test is a line in tests(): it must not load anything it does not need.
"""

import json
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from noisy_student import figures, formats
from noisy_student.backend import loss_gradient
from noisy_student.data import CIFAR10, decode_tests
from noisy_student.files import UserError, read_arrays, read_json, sha256, write_json
from noisy_student.metrics import exact_copies, near_copies
from noisy_student.training import duration, predict

# Of each corruption, in the files one after the other.
SEVERITIES = 5
# Of FGSM: how far a pixel may be moved, of 255.
EPSILONS = (1, 2, 4, 8, 16)
PGD_EPSILON, PGD_STEPS = 4, 10
# That are attacked, unless told otherwise.
ADVERSARIAL_IMAGES = 1000
# Corruptions that operations of Rand_Augment.py resemble: a student under noise has practised them.
# brightness, contrast and saturate are its brightness, contrast and color by other formulas; its
# sharpness, the weak way, is a 3x3 blur; rotate, shear and translate are affine maps. Noise, JPEG
# and clouds are new to it. (zoom_blur and pixelate soften too; the line is ours.)
LIKE_RANDAUGMENT = ("brightness", "contrast", "saturate", "defocus_blur", "gaussian_blur",
                    "elastic_transform")
EXPLANATION = (
    "Means over the seeds that were tested, in %. Mean corruption error: over corruptions and "
    "severities, not divided by another network's; lower is better. "
    f"{', '.join(LIKE_RANDAUGMENT).replace('_', ' ')} resemble operations of RandAugment, which a "
    "student under noise has practised. FGSM and PGD: accuracy when every pixel may move so far; "
    "higher is better. PGD above FGSM at the same distance would mean masked gradients.")


class Test(NamedTuple):
    """A question to a network that takes a while to answer."""

    # sha256 of what it is asked about: the answer is kept in the run's folder beside it.
    key: str
    # network -> a dictionary that JSON can hold.
    measure: Callable
    # That dictionary -> {column of the table: a share, 0..1}.
    columns: Callable


def tests(args, data):
    """{name: Test} of what was asked for on the command line of step 5."""
    found = {}
    if args.corrupted:
        corrupted = Corrupted(args.corrupted, data, args.robust_images)
        found["corrupted"] = Test(corrupted.fingerprint, corrupted.measure, corrupted_columns)
    if args.adversarial:
        rows = figures.spaced(len(data.y_test), args.robust_images or ADVERSARIAL_IMAGES)
        x, t = data.x_test[rows], data.one_hot(data.y_test[rows])
        found["adversarial"] = Test(sha256(x, t), lambda model: attack(model, x, t),
                                    adversarial_columns)
    for folder in args.shifted:
        found[f"shifted {folder}"] = shifted(folder, data)
    return found


def measure(cells, tests, seeds=None):
    """Fills `robust` of the first `seeds` seeds of every cell: {seed: Measured} by name."""
    measured = [m for cell in cells.values() for m in list(cell.values())[:seeds]]
    started = time.monotonic()
    for done, m in enumerate(measured if tests else [], 1):
        for name, test in tests.items():
            m.robust[name] = remembered(m.run, name, test)
        left = (time.monotonic() - started) * (len(measured) / done - 1)
        print(f"robustness: {done} of {len(measured)} runs, {duration(left)} left", flush=True)


def remembered(run, name, test):
    """What the test gave the last time for this network and these images, or gives now."""
    path = run.path(f"robust-{sha256(name.encode())[:8]}.json")
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


def columns(cells, tests):
    """{column of the table: {cell: its mean over the seeds that were tested, in %, as text}}."""
    found = {}
    for name, test in tests.items():
        for of_cell, cell in cells.items():
            rows = [test.columns(m.robust[name]) for m in cell.values() if name in m.robust]
            for column in rows[0] if rows else ():
                share = np.mean([row[column] for row in rows])
                found.setdefault(column, dict.fromkeys(cells, "-"))[of_cell] = f"{100 * share:.1f}"
    return found


# --- corrupted images -----------------------------------------------------------------------------


class Corrupted:
    """A set in CIFAR-10-C's layout: <corruption>.npy, uint8 (5*N, 32, 32, 3), and labels.npy.

    Args:
        data: the Dataset that the networks were trained on.
        limit: look at so many of each severity's images, evenly spaced; None, at all.

    Raises: UserError, where the folder is no such set.
    """

    def __init__(self, folder, data, limit=None):
        folder = pathlib.Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder. --corrupted takes CIFAR-10-C, or what "
                            "data/make_corrupted.py writes")
        labels = folder / "labels.npy"
        if not labels.exists():
            raise UserError(f"{folder}: has no labels.npy, so it is not in CIFAR-10-C's layout")
        y = read_arrays(labels)
        if y.ndim != 1 or y.dtype.kind not in "iu" or len(y) % SEVERITIES or len(y) == 0:
            raise UserError(f"{labels}: one whole number per image of {SEVERITIES} severities is "
                            f"expected, got {y.dtype} {y.shape}")
        if y.min() < 0 or y.max() >= data.num_classes:
            raise UserError(f"{labels}: has classes {y.min()} to {y.max()}, "
                            f"the networks know {data.num_classes}")
        made = folder / "made.json"
        if made.exists():
            # By data/make_corrupted.py, which numbers classes as the data set does.
            if read_json(made)["data_sha256"] != data.lineage()["data_sha256"]:
                raise UserError(f"{folder}: was made from another data set than {data.name}, "
                                f"see {made}")
        else:
            y = renumbered(y, data.class_names, labels)
        self.images, self.y, n = {}, y.astype(np.int64), len(y) // SEVERITIES
        for path in sorted(folder.glob("[!.]*.npy")):
            if path.stem in ("labels", "index"):
                continue
            x = read_arrays(path, mmap_mode="r")
            if x.shape != (len(y), 32, 32, 3) or x.dtype != np.uint8:
                raise UserError(f"{path}: uint8 ({len(y)}, 32, 32, 3) is expected, as labels.npy "
                                f"has it, got {x.dtype} {x.shape}")
            self.images[path.stem] = x
        if not self.images:
            raise UserError(f"{folder}: has no <corruption>.npy beside labels.npy")
        self.rows = figures.spaced(n, limit or n)
        # Some images of every file: all would take minutes.
        sampled = [x[::max(1, len(x) // 50)] for x in self.images.values()]
        names = " ".join(self.images).encode()
        self.fingerprint = sha256(names, self.y, *sampled, self.rows)

    def measure(self, model):
        """{"errors": {corruption: its error, 0..1, at each severity}}: not divided by another's."""
        n, errors = len(self.y) // SEVERITIES, {}
        rows = (np.arange(SEVERITIES)[:, None] * n + self.rows).ravel()
        for name, x in self.images.items():
            wrong = predict(model, x[rows]).argmax(axis=1) != self.y[rows]
            errors[name] = wrong.reshape(SEVERITIES, -1).mean(axis=1).tolist()
        return {"errors": errors}


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


def corrupted_columns(result):
    errors = result["errors"]
    unlike = [name for name in errors if name not in LIKE_RANDAUGMENT]
    found = {"mean corruption error": np.mean(list(errors.values()))}
    if 0 < len(unlike) < len(errors):
        found["of those unlike RandAugment"] = np.mean([errors[name] for name in unlike])
    return found


# --- attacked images ------------------------------------------------------------------------------


def without_scaling(model):
    """The network behind its first layer, up to the logits: float (N, 32, 32, 3) 0..1 -> (N, C)."""
    return keras.Model(model.get_layer("scale").output, model.get_layer("logits").output)


def fgsm(gradient, x, epsilon):
    """Every pixel a step up or down, whichever raises the loss (Goodfellow et al. 2015, section 4).

    Args:
        gradient: of the loss at x, (N, 32, 32, 3). x: uint8 (N, 32, 32, 3). epsilon: in 1/255.
    """
    return np.clip(x + epsilon * np.sign(gradient), 0, 255).astype(np.uint8)


def pgd(network, x, t, epsilon=PGD_EPSILON, steps=PGD_STEPS, seed=0):
    """Small steps uphill, each back into the box of epsilon around x (Madry et al. 2018, eq. (1)).

    Starts at a random place within the box. Returns: uint8 (N, 32, 32, 3).
    """
    near = x + np.random.default_rng(seed).uniform(-epsilon, epsilon, x.shape)
    for _ in range(steps):
        near = np.clip(near, 0, 255)
        step = 2.5 * epsilon / steps * np.sign(loss_gradient(network, near / 255, t))
        near = np.clip(near + step, x - float(epsilon), x + float(epsilon))
    return np.clip(near.round(), 0, 255).astype(np.uint8)


def attack(model, x, t, batch=250):
    """Accuracy under FGSM at every epsilon, and under PGD at PGD_EPSILON.

    If PGD finds no more mistakes than FGSM at the same epsilon, gradients are masked, and neither
    number is to be believed.

    Args:
        x: uint8 (N, 32, 32, 3). t: float32 (N, C), one-hot.

    Returns: {"clean": accuracy, "fgsm": one per epsilon, "pgd": accuracy, "images": N}.
    """
    network = without_scaling(model)
    gradients, near = [], []
    for start in range(0, len(x), batch):
        part = slice(start, start + batch)
        gradients.append(loss_gradient(network, x[part] / 255, t[part]))
        near.append(pgd(network, x[part], t[part], seed=start))
    gradient = np.concatenate(gradients)

    def accuracy(images):
        return float((predict(model, images).argmax(axis=1) == t.argmax(axis=1)).mean())

    return {"clean": accuracy(x), "pgd": accuracy(np.concatenate(near)), "images": len(x),
            "fgsm": [accuracy(fgsm(gradient, x, epsilon)) for epsilon in EPSILONS]}


def adversarial_columns(result):
    found = {}
    for epsilon, accuracy in zip(EPSILONS, result["fgsm"]):
        found[f"FGSM {epsilon}/255"] = accuracy
    return {**found, f"PGD {PGD_EPSILON}/255": result["pgd"]}


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
    part = next(parts[name] for name in ("test", "val", "train") if name in parts)
    if theirs == formats.names_of(range(len(theirs))):
        if len(theirs) > len(class_names):
            raise UserError(f"{path}: classes 0 to {len(class_names) - 1} are expected, "
                            f"it has {len(theirs)}")
        return decode_tests(path, theirs, part._replace(
            labels=renumbered(part.labels, class_names, path)), required=())
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
    for of_name in labellings.values():
        for run in of_name:
            everything[f"pseudo-labelled images in {run.folder}"] = run.arrays("x.npy")
    for number, (what, x) in enumerate(everything.items()):
        exact = exact_copies(data.x_test, x).sum()
        pairs, alike = near_copies(data.x_test, x)
        print(f"of {len(data.x_test):,} test images, {exact:,} are among the {what} pixel for "
              f"pixel, and {len(pairs):,} show the same picture as one of them")
        if len(pairs):
            path = pathlib.Path(out) / f"overlap{number or ''}.png"
            print(f"  pairs to look at: {figures.pairs(data.x_test, x, pairs, alike, path)}")
