"""Step 4: batches under noise, and the student that is trained on them.

    python data_generator.py                                                    # the student
    python data_generator.py --noise none --log-dir logs/student_without_noise
    python data_generator.py --pseudo none --log-dir logs/noisy_teacher

With step 1's teacher these are four cells of the experiment, which step 5 knows by their folders'
names: with and without pseudo-labels (logs/pseudo), with and without noise. --noise input is the
noise on the images alone: RandAugment and, with the recipes fast and sprint, flip and crop. --noise
model is stochastic depth and dropout alone.

Reads   the data set of step 1, logs/pseudo/ (step 2)
Writes  logs/student/   the same files as step 1, and batch.png: what the student is shown

Kill it whenever you like: the same command goes on after the last finished epoch.
"""

from noisy_student import arguments

if __name__ == "__main__":
    # Before Keras is imported, which takes seconds.
    args = arguments.student(__doc__)

from dataclasses import asdict

import numpy as np
from PIL import Image

from cifar10_resnet50 import fit_and_finish, optimizer_and_schedule, recipe_of, smooth_labels
from noisy_student import backend, commands, figures, runs
from noisy_student.batches import labeled_in_batch, mixed, shuffled
from noisy_student.data import load_data
from noisy_student.files import UserError, run_script
from noisy_student.labels import load_pseudo
from noisy_student.metrics import exact_copies
from Rand_Augment import Rand_Augment
from small_network import whiten
from stochastic_resblock import build_small_student, build_student


def get_random_data(x_train_i, y_train_i, data_aug, augment=None):
    """One training image and its label, with noise if data_aug: the article's. noisy_batches does
    the same to batches, and is what trains.

    Article: array_to_img stretched the contrast of each image with noise, and of no test image.

    Args:
        x_train_i: uint8 (32, 32, 3), 0..255. y_train_i: float32 (C,).
        augment: Rand_Augment; default, the article's: N = 2, M = 10.

    Returns: uint8 (32, 32, 3) and the label as it was; the network's first layer scales to 0..1.
    """
    if not data_aug:
        return x_train_i, y_train_i
    augment = augment or Rand_Augment(Numbers=2, max_Magnitude=10)
    return np.asarray(augment(Image.fromarray(x_train_i))), y_train_i


def flip_and_crop(x, rng):
    """Mirrors half of the images and shifts each by at most 4 pixels, independently.

    Alone, this adds 11 of the 20 points that all noise adds with 500 labels (results/real). A
    mirrored or shifted cat is still a cat, but to the network every pixel of it is new, which makes
    the few labelled images harder to learn by heart.

    x: uint8 (B, 32, 32, 3), as is what it returns. What is uncovered reflects the image.
    """
    top, left = rng.integers(9, size=(2, len(x)))
    mirrored = rng.random(len(x)) < 0.5
    padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    out = np.empty_like(x)
    for i in range(len(x)):
        window = padded[i, top[i]:top[i] + 32, left[i]:left[i] + 32]
        out[i] = window[:, ::-1] if mirrored[i] else window
    return out


def data_generator(x_train, y_train, batch_size, data_aug, seed=0, augment=None, crop="never"):
    """Endless noisy_batches of all images, shuffled in each pass: the article's, for its readers.

    Args: as noisy_batches'. Yields: uint8 (batch_size, 32, 32, 3), float32 (batch_size, C).
    """
    order = shuffled(np.arange(len(x_train)), batch_size, seed)
    return noisy_batches(x_train, y_train, order, data_aug, seed, augment, crop)


def noisy_batches(x_train, y_train, order, data_aug, seed=0, augment=None, crop="never"):
    """Batches in a given order, with RandAugment if data_aug.

    The noise of batch number k depends on the seed and on k alone.

    Args:
        x_train, y_train: uint8 (N, 32, 32, 3), float32 (N, C).
        order: yields (number of the batch, the B rows of x_train that it takes).
        augment: Rand_Augment; default, the article's: N = 2, M = 10.
        crop: when flip_and_crop comes first: "never", "with-noise" (if data_aug), or "always".

    Yields: uint8 (B, 32, 32, 3), float32 (B, C).
    """
    if len(x_train) != len(y_train):
        raise ValueError(f"x_train and y_train must have the same length, "
                         f"got {len(x_train)} and {len(y_train)}")
    augment = augment or Rand_Augment(Numbers=2, max_Magnitude=10)
    for number, rows in order:
        x = x_train[rows]
        # The 1 keeps these draws apart from those that shuffle, which have a 0 there.
        rng = np.random.default_rng([seed, number, 1])
        if crop == "always" or (crop == "with-noise" and data_aug):
            x = flip_and_crop(x, rng)
        if data_aug:
            x = augment.apply_batch(x, augment.draw(len(x), rng))
        yield x, y_train[rows]


def refuse_overlap(x, data):
    """Raises: UserError, if pseudo-labelled images, uint8 (K, 32, 32, 3), are to be tested on."""
    held_out = np.concatenate([data.validation()[0], data.x_test])
    copies = exact_copies(x, held_out).sum()
    if copies:
        raise UserError(f"{copies:,} of {len(x):,} pseudo-labelled images are test or validation "
                        "images, and the table would mean nothing: label other images")


def main(args):
    backend.prepare(args.seed)

    # The labelled images
    data = load_data(args.data, args.num_labeled, args.validation, args.seed)
    print(data)
    recipe = recipe_of(vars(args), len(data.train))
    x, y = data.x, data.one_hot(data.y)
    labelled_rows, pseudo_rows = data.train, np.empty(0, dtype=np.int64)
    # What run.json says of the images, and of the teacher.
    made_from, taught_by = data.lineage(), None

    # And those that a teacher has labelled
    if args.pseudo != "none":
        pseudo = load_pseudo(args.pseudo, data)
        refuse_overlap(pseudo.x, data)
        # Their rows come after all those of data.x.
        pseudo_rows = len(x) + pseudo.index
        x, y = np.concatenate([x, pseudo.x]), np.concatenate([y, pseudo.y])
        made_from["pseudo_sha256"], taught_by = pseudo.sha256, pseudo.taught_by
        print(f"{args.pseudo}: {len(pseudo.x):,} images with pseudo-labels, "
              f"{len(pseudo.index):,} after balancing")
    elif args.labeled_share:
        raise UserError("--labeled-share: with --pseudo none all images are labelled")
    y = smooth_labels(y, recipe.label_smoothing)

    precision = backend.precision(args.precision, recipe.bfloat16)
    chosen = {**vars(args), **asdict(recipe), "precision": precision}
    noise_on_input = args.noise in ("all", "input")
    # If these functions have changed since, the same command does not go on with the run.
    network = (build_small_student, whiten) if args.network == "small" else (build_student,)
    code = {"network": network, "recipe": (optimizer_and_schedule, smooth_labels)}
    if noise_on_input or recipe.flip_and_crop == "always":
        code["operations"] = (noisy_batches,)
    run = runs.start("data_generator.py", args.log_dir, chosen, made_from, taught_by, code=code)
    if run.finished:
        print(f"{args.log_dir} is finished: test accuracy {run.results['test_accuracy']:.4f}")
        return

    augment = Rand_Augment(Numbers=args.augment_ops, max_Magnitude=args.augment_magnitude)

    def order(first_batch):
        if args.labeled_share:
            return mixed(labelled_rows, pseudo_rows, recipe.batch_size, args.labeled_share,
                         args.seed, first_batch)
        # Article: labelled and pseudo-labelled images as they come.
        everything = np.concatenate([labelled_rows, pseudo_rows])
        return shuffled(everything, recipe.batch_size, args.seed, first_batch)

    def batches(first_batch):
        return noisy_batches(x, y, order(first_batch), noise_on_input, args.seed, augment,
                             recipe.flip_and_crop)

    # What the student sees: the first batch as it is, and under noise
    _, first = next(order(0))
    noisy, _ = next(batches(0))
    figures.drawn(figures.batch, x[first], noisy, args.noise, recipe.flip_and_crop,
                  run.path("batch.png"))

    with backend.on_hardware(precision, args.devices, recipe.batch_size):
        # The student, with the noise on the model
        noise_on_model = args.noise in ("all", "model")
        p_last = args.p_last if noise_on_model else 1.0
        dropout = args.dropout if noise_on_model else 0.0
        if args.network == "small":
            student = build_small_student(args.width, data.num_classes, p_last, dropout)
            # From the same images as the teacher's, so that both have the same first layer.
            whiten(student, data.x[data.train])
        else:
            student = build_student(args.depth, args.width, data.num_classes, p_last, dropout,
                                    stem_strides=args.stem_strides)
        print(f"{student.name}, width {args.width}: {student.count_params():,} parameters; "
              f"noise: {args.noise}")

        # The training, with the noise on the image
        steps = recipe.epochs * recipe.steps_per_epoch
        images = len(labelled_rows) + len(pseudo_rows)
        passes = f"{steps * recipe.batch_size / images:.1f} passes over {images:,} images"
        if args.labeled_share:
            labelled = steps * labeled_in_batch(recipe.batch_size, args.labeled_share)
            passes += f", {labelled / len(labelled_rows):.1f} over the labelled"
        print(f"{steps:,} steps of {recipe.batch_size}: {passes}")
        different = len(labelled_rows) + len(np.unique(pseudo_rows))
        fit_and_finish(student, batches, data, recipe, run, different, args.tensorboard)
    if args.pseudo == "none":
        commands.say_next(*commands.labels_next(data, args.log_dir))
    else:
        commands.say_next("eval.py", *commands.trained_beside(args.log_dir))


if __name__ == "__main__":
    run_script(main, args)
