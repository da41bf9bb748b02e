"""Step 5, continued: test images that are corrupted, attacked, or from elsewhere. `eval.py` calls this.

    python eval.py logs/experiment --corrupted CIFAR-10-C            # the published set, or data/make_corrupted.py's
    python eval.py logs/experiment --adversarial
    python eval.py logs/experiment --shifted CIFAR-10.1 cinic-10     # other labelled images of the same classes

Noisy Student's paper claims robustness above all (its ImageNet-A, -C, -P). The article was too exhausted to look.
Every measurement is kept in the run's folder: another table with it takes a second.
"""

import pathlib
from dataclasses import dataclass

import cifar10_resnet50 as step1  # first: it quietens the backend

import keras
import numpy as np

SEVERITIES = 5  # of each corruption, in the files one after the other
EPSILONS = (1, 2, 4, 8, 16)  # of FGSM: how far a pixel may be moved, of 255
PGD_EPSILON, PGD_STEPS = 4, 10
# Corruptions that Rand_Augment.py's OPERATIONS resemble: a student under noise has practised them. brightness, contrast and
# saturate are its brightness, contrast and color by other formulas; its sharpness, the weak way, is a 3x3 blur; rotate, shear
# and translate are affine maps. Noise, JPEG and clouds are new to it. (zoom_blur and pixelate soften too; the line is ours.)
LIKE_RANDAUGMENT = ("brightness", "contrast", "saturate", "defocus_blur", "gaussian_blur", "elastic_transform")


# --- corrupted images ------------------------------------------------------------------------------


@dataclass
class Corrupted:
    """A set in CIFAR-10-C's layout: {corruption: uint8 (5*N, 32, 32, 3), on disk}, and int (5*N,) classes."""

    images: dict
    y: np.ndarray
    rows: np.ndarray  # int (M,): which of the N images of each severity to look at
    clean_rows: np.ndarray  # int (M,): which test images these are; None where that cannot be told
    fingerprint: str


def load_corrupted(folder, y_test, num_classes, limit=None):
    """Opens a folder of <corruption>.npy and labels.npy. Raises: UserError where it is not one.

    Args:
        y_test: int (T,), the classes of the clean test images.
        limit: look at so many of each severity's images, evenly spaced; default, at all.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise step1.UserError(f"{folder}: no such folder. --corrupted takes CIFAR-10-C, or what data/make_corrupted.py writes")
    if not (folder / "labels.npy").exists():
        raise step1.UserError(f"{folder}: has no labels.npy, so it is not in CIFAR-10-C's layout")
    y = step1.read_arrays(folder / "labels.npy")
    if y.ndim != 1 or y.dtype.kind not in "iu" or len(y) % SEVERITIES or len(y) == 0:
        raise step1.UserError(f"{folder / 'labels.npy'}: one whole number per image of {SEVERITIES} severities is expected, "
                              f"got {y.dtype} {y.shape}")
    if y.min() < 0 or len(np.unique(y)) > num_classes or y.max() >= num_classes:
        raise step1.UserError(f"{folder / 'labels.npy'}: has classes {y.min()} to {y.max()}, the networks know {num_classes}")
    images = {path.stem: step1.read_arrays(path, mmap_mode="r") for path in sorted(folder.glob("[!.]*.npy"))
              if path.stem not in ("labels", "index")}
    if not images:
        raise step1.UserError(f"{folder}: has no <corruption>.npy beside labels.npy")
    for name, x in images.items():
        if x.shape != (len(y), step1.IMAGE_SIZE, step1.IMAGE_SIZE, 3) or x.dtype != np.uint8:
            raise step1.UserError(f"{folder / f'{name}.npy'}: uint8 ({len(y)}, 32, 32, 3) is expected, as labels.npy has it, "
                                  f"got {x.dtype} {x.shape}")
    n = len(y) // SEVERITIES
    rows = evenly_spaced(n, limit)
    index = step1.read_arrays(folder / "index.npy") if (folder / "index.npy").exists() else np.arange(n)
    same = index.shape == (n,) and n <= len(y_test) and np.array_equal(y_test[index % len(y_test)], y[:n])
    sampled = [x[:: max(1, len(x) // 50)].tobytes() for x in images.values()]  # some of every file: all would take minutes
    fingerprint = step1.sha256(" ".join(images).encode(), y.astype("<i8").tobytes(), *sampled, rows.astype("<i8").tobytes())
    return Corrupted(images, y.astype(np.int64), rows, index[rows] if same else None, fingerprint)


def evenly_spaced(n, limit):
    """limit of n indices, evenly spaced; all of them where limit is None or n at most."""
    return np.arange(n) if limit is None or limit >= n else np.linspace(0, n - 1, limit).round().astype(np.int64)


def corruption_errors(model, corrupted):
    """{corruption: its error, 0..1, at each of the five severities}, not divided by another network's, as on CIFAR."""
    n, errors = len(corrupted.y) // SEVERITIES, {}
    rows = (np.arange(SEVERITIES)[:, None] * n + corrupted.rows).ravel()
    for name, x in corrupted.images.items():
        wrong = step1.predict(model, x[rows]).argmax(axis=1) != corrupted.y[rows]
        errors[name] = wrong.reshape(SEVERITIES, -1).mean(axis=1).tolist()
    return errors


def mean_corruption_error(errors, without=()):
    """The mean over corruptions and severities."""
    return float(np.mean([of for name, of in errors.items() if name not in without]))


# --- attacked images -------------------------------------------------------------------------------


def without_scaling(model):
    """The network behind its first layer, up to the logits: float (N, 32, 32, 3) in 0..1 -> (N, C)."""
    return keras.Model(model.get_layer("scale").output, model.get_layer("logits").output)


def fgsm(gradient, x, epsilon):
    """Every pixel one step of epsilon up or down, whichever raises the loss (Goodfellow et al. 2015, section 4).

    Args:
        gradient: of the loss at x, (N, 32, 32, 3). x: uint8 (N, 32, 32, 3). epsilon: in 1/255.
    """
    return np.clip(x + epsilon * np.sign(gradient), 0, 255).astype(np.uint8)


def pgd(network, x, t, epsilon=PGD_EPSILON, steps=PGD_STEPS, seed=0):
    """Small steps uphill, each back into the box of epsilon around x (Madry et al. 2018, eq. (1) of section 2.1).

    Starts at a random place within the box. Returns: uint8 (N, 32, 32, 3).
    """
    near = x + np.random.default_rng(seed).uniform(-epsilon, epsilon, x.shape)
    for _ in range(steps):
        near = np.clip(near, 0, 255)
        step = 2.5 * epsilon / steps * np.sign(step1.loss_gradient(network, near / 255, t))
        near = np.clip(near + step, x - float(epsilon), x + float(epsilon))
    return np.clip(near.round(), 0, 255).astype(np.uint8)


def attack(model, x, t, batch=250):
    """Accuracy under FGSM at every epsilon, and under PGD at PGD_EPSILON.

    If PGD finds no more mistakes than FGSM at the same epsilon, gradients are masked, and neither number is to be believed.

    Args:
        x: uint8 (N, 32, 32, 3). t: float32 (N, C), one-hot.

    Returns: {"clean": accuracy, "fgsm": one per epsilon, "pgd": accuracy, "images": N}.
    """
    network = without_scaling(model)
    parts = [slice(i, i + batch) for i in range(0, len(x), batch)]
    gradient = np.concatenate([step1.loss_gradient(network, x[part] / 255, t[part]) for part in parts])
    near = np.concatenate([pgd(network, x[part], t[part], seed=part.start) for part in parts])

    def accuracy(images):
        return float((step1.predict(model, images).argmax(axis=1) == t.argmax(axis=1)).mean())

    return {"clean": accuracy(x), "fgsm": [accuracy(fgsm(gradient, x, epsilon)) for epsilon in EPSILONS],
            "pgd": accuracy(near), "images": len(x)}


# --- other images of the same classes --------------------------------------------------------------


def load_shifted(folder, class_names):
    """Labelled images from elsewhere: a folder <class>/* (or test/<class>/*), or CIFAR-10.1's two .npy files.

    Returns: uint8 (N, 32, 32, 3), int64 (N,). Raises: UserError where its classes are others.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise step1.UserError(f"{folder}: no such folder")
    arrays = {kind: sorted(folder.glob(f"*{kind}.npy")) for kind in ("data", "labels")}
    if all(arrays.values()):
        if len(arrays["data"]) > 1 or len(arrays["labels"]) > 1:
            raise step1.UserError(f"{folder}: holds several sets ({', '.join(path.name for path in arrays['data'])}); "
                                  "give a folder with one *data.npy and its *labels.npy")
        x, y = (step1.read_arrays(paths[0]) for paths in arrays.values())
        if x.dtype != np.uint8 or x.shape != (len(y), step1.IMAGE_SIZE, step1.IMAGE_SIZE, 3) or y.ndim != 1:
            raise step1.UserError(f"{folder}: uint8 (N, 32, 32, 3) and N labels are expected, got {x.dtype} {x.shape}, {y.shape}")
        if y.dtype.kind not in "iu" or len(y) == 0 or y.min() < 0 or y.max() >= len(class_names):
            raise step1.UserError(f"{arrays['labels'][0]}: classes 0 to {len(class_names) - 1} are expected")
        return np.array(x), y.astype(np.int64)
    folder = folder / "test" if (folder / "test").is_dir() else folder
    return step1.read_classes(folder, class_names)[:2]


# --- what is known is not measured again -----------------------------------------------------------


def remembered(run_folder, name, key, measure):
    """measure(), or what it gave the last time with this key: `name`.json in the run's folder."""
    path = pathlib.Path(run_folder) / f"{name}.json"
    if path.exists():
        try:
            kept = step1.read_json(path)
            if kept["key"] == key:
                return kept["result"]
        except (step1.UserError, KeyError, TypeError):
            print(f"warning: {path} is damaged and is made again")
    result = measure()
    step1.write_json(path, {"key": key, "result": result})
    return result
