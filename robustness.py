"""Step 6: what the networks make of images that are corrupted, or changed to mislead them.

    python robustness.py logs/teacher logs/student --adversarial
    python robustness.py logs/teacher logs/student --corrupted data/toy-corrupted

The test images of step 5 come from where the training images come from, and tell nothing of fog, a
poor camera, or somebody who wants a wrong answer. Noisy Student's paper claims robustness above all
(on ImageNet-C, its mean corruption error falls from 45.7 to 28.3); the article did not look.

Why should noise help? A network that only ever sees clean images may go by whatever tells their
classes apart: a texture, a shade, a few pixels at the edge. RandAugment spoils such clues at random
and keeps the label, so that only what survives it is worth learning. Pseudo-labels ask for the same
on many more images than have labels. So the student should stand changes that it practised, and the
question is whether it stands others, too: the tables tell the two apart.

Reads   finished runs of steps 1 and 4, and a folder in CIFAR-10-C's layout
Writes  figures/   robustness.md, and robustness.png unless --shifted stands alone; what a network
        answered is kept in its run folder, where eval.py finds it when it is given the same flags
"""

from noisy_student import arguments

if __name__ == "__main__":
    # Before Keras is imported, which takes seconds.
    args = arguments.robustness(__doc__)

import pathlib

import keras
import numpy as np

# A student's layers must be known to load it.
import stochastic_resblock  # noqa: F401
from experiment import CELLS, LABELS, title
from noisy_student import backend, figures, robust_data
from noisy_student.backend import loss_gradient
from noisy_student.cells import load_cells
from noisy_student.files import run_script, sha256, whole_file
from noisy_student.labels import load_data_of
from noisy_student.robust_data import Test, run_tests
from noisy_student.tables import markdown, sections
from noisy_student.training import predict

# Corruptions that operations of Rand_Augment.py resemble: a student under noise has practised them.
# brightness, contrast and saturate are its brightness, contrast and color by other formulas; its
# sharpness, the weak way, is a 3x3 blur; rotate, shear and translate are affine maps. Noise, JPEG
# and fog are new to it. (motion_blur, glass_blur, zoom_blur and pixelate soften, too, and count as
# new: where to draw the line is our choice.)
LIKE_RANDAUGMENT = ("brightness", "contrast", "saturate", "defocus_blur", "gaussian_blur",
                    "elastic_transform")
# How far FGSM moves each value of a pixel, of 255: 1 is the least that a file can hold, 16 is easy
# to see.
EPSILONS = (1, 2, 4, 8, 16)
# PGD checks FGSM at one of them, where networks that were not trained for it begin to fail.
PGD_EPSILON = 4
# As many steps as in the paper's own test.
PGD_STEPS = 10
# PGD asks for ten gradients of every image. 1,000 images tell an accuracy to 1.6 points or better
# (one standard error).
ADVERSARIAL_IMAGES = 1000
EXPLANATION = (
    "Means over the seeds that were tested, in %. Mean corruption error: over corruptions and "
    "severities, not divided by another network's; lower is better. "
    f"{', '.join(LIKE_RANDAUGMENT).replace('_', ' ')} resemble operations of RandAugment, which a "
    "student under noise has practised. FGSM and PGD: accuracy when every pixel may move so far; "
    "higher is better. PGD above FGSM at the same distance would mean masked gradients.")


# --- corrupted images -----------------------------------------------------------------------------
#
# Why severities? A little fog misleads no network, and in thick fog all of them guess. They differ
# in between, and where that is depends on the corruption and on the network. So each corruption is
# shown at five severities, and the mean error is the area under a curve from weak to strong.
#
# Paper: each corruption's error on ImageNet is divided by AlexNet's, so that hard ones do not
# outweigh the others. Here: a plain mean, as is usual for images of 32x32 pixels.


def corruption_errors(model, corrupted):
    """{"errors": {corruption: its error, 0..1, at each severity from weak to strong}}.

    Args:
        corrupted: a robust_data.CorruptedSet.
    """
    y, errors = corrupted.y[corrupted.rows], {}
    for name, images in corrupted.images.items():
        answers = predict(model, images[corrupted.rows.ravel()]).argmax(axis=1)
        errors[name] = (answers.reshape(y.shape) != y).mean(axis=1).tolist()
    return {"errors": errors}


def mean_corruption_error(result):
    """The mean of all errors, 0..1, and of those at corruptions that are new to a student."""
    errors = result["errors"]
    unlike = [name for name in errors if name not in LIKE_RANDAUGMENT]
    columns = {"mean corruption error": np.mean(list(errors.values()))}
    if 0 < len(unlike) < len(errors):
        columns["of those unlike RandAugment"] = np.mean([errors[name] for name in unlike])
    return columns


# --- attacked images ------------------------------------------------------------------------------
#
# Why does the sign of a gradient find the worst small change? Close to an image x, the loss is
# nearly a plane: L(x + d) = L(x) + d . g, with g its gradient. Each of the 3,072 values of x may
# move by epsilon at most. The sum is largest if each term is, so each value moves all the way, in
# the direction of its g: d = epsilon sign(g). Each changes only a little, but all 3,072 pull the
# same way: that is why it works at all, and why random noise of the same size does next to nothing.


def logits_of_pixels(model):
    """The network from its second layer to its logits: float (N, 32, 32, 3) 0..1 -> (N, C).

    uint8 has no gradient, so the first layer, which scales, is left out. The last one, softmax,
    is too: where a network is sure, its gradient rounds to zero.
    """
    return keras.Model(model.get_layer("scale").output, model.get_layer("logits").output)


def fgsm(gradient, x, epsilon):
    """Every pixel a step up or down, whichever raises the loss (Goodfellow et al. 2015, section 4).

    Args:
        gradient: of the loss at x, (N, 32, 32, 3). x: uint8 (N, 32, 32, 3). epsilon: in 1/255.
    """
    return np.clip(x + epsilon * np.sign(gradient), 0, 255).astype(np.uint8)


# Why does PGD check FGSM? The plane is a guess from one point. A network may be flat there, or
# bumpy, with its mistakes a little further on: FGSM then steps the wrong way, and the network only
# looks robust ("masked gradients"). PGD begins at a random place, takes ten small steps, and asks
# for the gradient anew at each. It searches the same box around x with more care. If it finds fewer
# mistakes than FGSM, the gradients lead nowhere, and neither number is to be believed.


def pgd(network, x, t, epsilon=PGD_EPSILON, steps=PGD_STEPS, seed=0):
    """Small steps uphill, each back into the box of epsilon around x (Madry et al. 2018, eq. (1)).

    Args:
        network: what logits_of_pixels() gives. x: uint8 (N, 32, 32, 3). t: float32 (N, C), one-hot.
        epsilon: in 1/255.

    Returns: uint8 (N, 32, 32, 3).
    """
    images = x + np.random.default_rng(seed).uniform(-epsilon, epsilon, x.shape)
    # All steps together are long enough to cross the box from any place.
    size = 2.5 * epsilon / steps
    for _ in range(steps):
        images = np.clip(images, 0, 255)
        step = size * np.sign(loss_gradient(network, images / 255, t))
        images = np.clip(images + step, x - float(epsilon), x + float(epsilon))
    return np.clip(images.round(), 0, 255).astype(np.uint8)


def attack(model, x, t, batch=250):
    """Accuracy under FGSM at every epsilon, and under PGD at PGD_EPSILON.

    Args:
        x: uint8 (N, 32, 32, 3). t: float32 (N, C), one-hot. batch: images at a time.

    Returns: {"clean": accuracy, "epsilons": EPSILONS, "fgsm": an accuracy for each, "pgd_epsilon":
        PGD_EPSILON, "pgd": accuracy, "images": N}.
    """
    network = logits_of_pixels(model)
    gradients, pgd_images = [], []
    for start in range(0, len(x), batch):
        rows = slice(start, start + batch)
        gradients.append(loss_gradient(network, x[rows] / 255, t[rows]))
        pgd_images.append(pgd(network, x[rows], t[rows], seed=start))
    gradient = np.concatenate(gradients)

    def accuracy(images):
        return float((predict(model, images).argmax(axis=1) == t.argmax(axis=1)).mean())

    return {"clean": accuracy(x), "images": len(x), "epsilons": list(EPSILONS),
            "fgsm": [accuracy(fgsm(gradient, x, epsilon)) for epsilon in EPSILONS],
            "pgd_epsilon": PGD_EPSILON, "pgd": accuracy(np.concatenate(pgd_images))}


def accuracy_by_attack(result):
    """{column of the table: accuracy, 0..1}."""
    columns = {f"FGSM {epsilon}/255": accuracy
               for epsilon, accuracy in zip(result["epsilons"], result["fgsm"])}
    return {**columns, f"PGD {result['pgd_epsilon']}/255": result["pgd"]}


# --- the tests ------------------------------------------------------------------------------------


def make_tests(data, corrupted=None, adversarial=False, shifted=(), most=None):
    """{name: Test} of what is asked for.

    Args:
        data: the Dataset that the networks were trained on. corrupted: a folder, or None.
        shifted: labelled images from elsewhere, as --data takes them.
        most: at most this many images of each severity, and under attack.
    """
    tests = {}
    # With __file__ in its key, a test is made anew after a change of this file.
    if corrupted:
        images = robust_data.load_corrupted(corrupted, data, most)
        key = sha256(images.key.encode(), __file__)
        tests["corrupted"] = Test(key, lambda model: corruption_errors(model, images),
                                  mean_corruption_error)
    if adversarial:
        rows = figures.spaced(len(data.y_test), most or ADVERSARIAL_IMAGES)
        x, t = data.x_test[rows], data.one_hot(data.y_test[rows])
        tests["adversarial"] = Test(sha256(x, t, __file__), lambda model: attack(model, x, t),
                                    accuracy_by_attack)
    for folder in shifted:
        tests[f"shifted {folder}"] = robust_data.shifted(folder, data)
    return tests


def main(args):
    backend.prepare(0)
    cells, _ = load_cells(args.runs, CELLS, LABELS)
    first = next(iter(next(iter(cells.values())).values()))
    data = load_data_of(first.run, args.data)
    tests = make_tests(data, args.corrupted, args.adversarial, args.shifted, args.robust_images)
    run_tests(cells, tests, args.robust_seeds)
    text, out = robust_data.tables(cells, tests, title, EXPLANATION), pathlib.Path(args.out)
    for name, (_, head, rows) in text.items():
        print(f"\n{name}\n{markdown(head, rows)}")
    with whole_file(out / "robustness.md") as path:
        path.write_text(sections(text), encoding="utf-8")
    print(f"\nin {out}: robustness.md")
    if args.corrupted or args.adversarial:
        print(f"picture: {figures.robustness(cells, title, out / 'robustness.png')}")
    else:
        # It would be of other numbers.
        (out / "robustness.png").unlink(missing_ok=True)


if __name__ == "__main__":
    run_script(main, args)
