"""Step 4: batches, and training the student on labelled + pseudo-labelled images, under noise.

    python data_generator.py                                     # the student of logs/pseudo
    python data_generator.py --noise none --log-dir logs/quiet   # pseudo-labels alone
    python data_generator.py --pseudo none --log-dir logs/noisy  # noise alone: the article's noisy teacher

With step 1's teacher these are the four cells of the experiment. --noise input is RandAugment alone,
--noise model is stochastic depth and dropout alone.

Reads   the data set of step 1, logs/pseudo/ (step 2)
Writes  logs/student/   the same files as step 1

Kill it whenever you like: the same command goes on after the last finished epoch.
"""

import argparse

import cifar10_resnet50 as step1  # first: it quietens the backend
import fast_augment
import imagenet_dummy_label as step2
import overlap
from Rand_Augment import LEVELS, Rand_Augment
from stochastic_resblock import add_model_noise_arguments, build_student

import numpy as np
from PIL import Image


def get_random_data(x_train_i, y_train_i, data_aug, augment=None):
    """One training image and its label, with noise if data_aug.

    Article: array_to_img stretched the contrast of every training image and of no test image.

    Args:
        x_train_i: uint8 (32, 32, 3), 0..255. y_train_i: float32 (C,).
        augment: Rand_Augment; default, the article's: N = 2, M = 10.

    Returns: uint8 (32, 32, 3) and the label as it was; the scaling to 0..1 is the network's first layer.
    """
    if not data_aug:
        return x_train_i, y_train_i
    augment = augment or Rand_Augment(Numbers=2, max_Magnitude=LEVELS)
    return np.asarray(augment(Image.fromarray(x_train_i))), y_train_i


def data_generator(x_train, y_train, batch_size, data_aug, seed=0, first_batch=0, augment=None, flip_and_crop=False):
    """Endless shuffled batches, with RandAugment if data_aug.

    What batch number k holds depends on the seed and on k alone, noise included.

    Args:
        x_train: uint8 (N, 32, 32, 3), or step1.JoinedRows of such. y_train: float32 (N, C), likewise.
        first_batch: number of the first batch, where a resumed run goes on.
        augment: Rand_Augment; default, the article's: N = 2, M = 10.
        flip_and_crop: mirror half of the images and shift all by up to 4 pixels first.

    Yields: uint8 (batch_size, 32, 32, 3), float32 (batch_size, C).
    """
    augment = augment or Rand_Augment(Numbers=2, max_Magnitude=LEVELS)
    for number, x, y in step1.shuffled_batches(x_train, y_train, batch_size, seed, first_batch):
        if data_aug:
            rng = np.random.default_rng([seed, number, 1])
            windows = fast_augment.draw_windows(len(x), rng) if flip_and_crop else None
            x = fast_augment.apply(x, *augment.draw(len(x), rng), windows)  # get_random_data, for the whole batch
        yield x, y


def refuse_overlap(x, data):
    """Raises: UserError if pseudo-labelled images x, uint8 (K, 32, 32, 3), are validation or test images."""
    if copies := overlap.exact_copies(x, (*data.validation()[0], *data.x_test)):
        raise step1.UserError(f"{copies:,} of {len(x):,} pseudo-labelled images are test or validation images, and the table "
                              "would mean nothing: label other images")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pseudo", default="logs/pseudo", help="folder of step 2, or none: labelled images alone")
    parser.add_argument("--noise", choices=step1.NOISES, default="all")
    parser.add_argument("--augment-ops", type=step1.number(int, 0), default=2, metavar="N", help="RandAugment's N (2)")
    parser.add_argument("--augment-magnitude", type=step1.number(int, 1, LEVELS), default=LEVELS, metavar="M", help="RandAugment's M (10)")
    add_model_noise_arguments(parser)
    step1.add_training_arguments(parser, log_dir="logs/student")
    args = parser.parse_args(argv)
    step1.prepare_backend(args.seed)

    # The data: labelled images, and the teacher's
    data = step1.load_data(args.data, args.num_labeled, args.validation, args.seed)
    step1.describe(data)
    settings, made_from, cell = step1.fill_in(args, data), data.lineage(), {"noise": args.noise, "pseudo": None, "labelling": None}
    x_train = step1.JoinedRows((data.x, data.train))
    y_train = step1.JoinedRows((data.one_hot(data.y), data.train))
    if args.pseudo != "none":
        pseudo = step2.load_pseudo(args.pseudo, data)
        refuse_overlap(pseudo.x, data)
        x_train = step1.JoinedRows((data.x, data.train), (pseudo.x, pseudo.index))
        y_train = step1.JoinedRows((data.one_hot(data.y), data.train), (pseudo.y, pseudo.index))
        cell |= {"pseudo": pseudo.record["teacher_cell"], "labelling": pseudo.record["arguments"]}
        made_from |= {"pseudo_sha256": step1.sha256(*step2.array_files(args.pseudo)),
                      "pseudo_of": pseudo.record["made_from"]["teacher_sha256"]}
        print(f"{args.pseudo}: {len(pseudo.x):,} images with pseudo-labels, {len(pseudo.index):,} after balancing")
    record = step1.begin_training(args.log_dir, "data_generator.py", settings, made_from, data)
    if not record:
        return
    if args.pseudo != "none":
        record["pseudo_folder"] = args.pseudo  # where step 5 may look for them

    steps, batch_size = settings["epochs"] * settings["steps_per_epoch"], settings["batch_size"]
    with step1.on_hardware(settings["precision"], args.devices, batch_size):
        # The student, with the noise on the model
        model_noise = args.noise in ("all", "model")
        student = build_student(args.depth, args.width, data.num_classes, p_last=args.p_last if model_noise else 1.0,
                                dropout=args.dropout if model_noise else 0.0)
        print(f"ResNet{args.depth}, width {args.width}: {student.count_params():,} parameters; noise: {args.noise}")

        # The training, with the noise on the image
        print(f"{steps:,} steps of {batch_size}: {steps * batch_size / len(x_train):.1f} passes over {len(x_train):,} images")
        augment = Rand_Augment(Numbers=args.augment_ops, max_Magnitude=args.augment_magnitude)

        def batches(first_batch):
            return data_generator(x_train, y_train, batch_size, args.noise in ("all", "input"), args.seed, first_batch,
                                  augment, step1.RECIPES[args.recipe].flip_and_crop)

        recorder = step1.train(student, batches, data.validation(), args.log_dir, **settings)

        # What the student knows: the test set is read here, once
        predictions = step1.save_predictions(args.log_dir, student, data)
    loss, accuracy = step1.my_eval(student, data.x_test, data.one_hot(data.y_test), predictions["test"])
    step1.finish_training(args.log_dir, record, recorder, data, loss, accuracy, cell)


if __name__ == "__main__":
    step1.run_script(main)
