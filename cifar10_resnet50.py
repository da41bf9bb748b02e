"""Step 1: the data, the ResNet50, and the teacher.

    python cifar10_resnet50.py                      # the article's: hours on a GPU
    python cifar10_resnet50.py --network small      # small_network.py: an hour on a laptop

Trains a network on the labelled images alone, without any noise: the teacher. "Article" is the blog
post that these scripts rebuild (docs/article.md).

Reads   a data set: the word cifar10, or a folder train/<class>/*, test/<class>/* of images
Writes  logs/teacher/   model.keras (final weights), best.keras (best on the validation images),
                        history.csv, predictions.npz (what it says about the validation and test
                        images, for step 5) and run.json

Kill it whenever you like: the same command goes on after the last finished epoch.
"""

from noisy_student import arguments

if __name__ == "__main__":
    # Before Keras is imported, which takes seconds.
    args = arguments.teacher(__doc__)

import math
from dataclasses import asdict, dataclass, replace

import keras
import numpy as np
from keras import layers

from noisy_student import backend, commands, runs
from noisy_student.batches import shuffled
from noisy_student.data import load_data
from noisy_student.files import UserError, run_script
from noisy_student.metrics import score
from noisy_student.normalization import BatchNormalization
from noisy_student.training import predict, train
from small_network import build_small, whiten

# --- the recipe -----------------------------------------------------------------------------------
# How a network is trained. Some values have a flag of the same name; the others change here.


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. learning_rate belongs to batches of batch_size images."""

    batch_size: int
    # Validation runs once per epoch. An epoch has labelled images / batch size steps, unless
    # --steps-per-epoch gives another number.
    epochs: int
    learning_rate: float
    steps_per_epoch: int = None
    # A larger batch averages over more images and bears a larger step: with True, another
    # --batch-size changes the rate in proportion.
    scale_rate: bool = False
    # "adam", "adamw" or "sgd". SGD needs a well-chosen rate; Adam tolerates a wrong one better.
    optimizer: str = "adam"
    # SGD's share of the last step that the next one keeps: with 0.85, steps that agree add up to
    # 6.7 times a single one. Nesterov's form applies it once more, as if it had moved already.
    momentum: float = 0.0
    # AdamW and SGD shrink the weights at each step by this times the rate. The decay is no part of
    # the gradient, so that neither momentum nor Adam's scaling changes it.
    weight_decay: float = 0.0
    # Variables whose name contains one of these do not shrink. A bias only shifts: to pull it to 0
    # does not make a network simpler. ("beta" is the small network's only kind of bias.)
    not_decayed: tuple = ()
    # "brakes": constant, then ReduceLROnPlateau and EarlyStopping (the article's); "one_cycle": a
    # warm-up and half a cosine down to zero; "triangle": up to the peak and down in two lines.
    schedule: str = "brakes"
    # Patience of the article's EarlyStopping, in epochs; 0: never stop.
    early_stopping: int = 10
    # The share of a hard label that is spread evenly over all classes. Without it, the loss of an
    # image that is right already still falls while its logits grow, and the network gets too sure.
    label_smoothing: float = 0.0
    # Memory of batch normalization's running statistics; a short run needs a shorter one.
    bn_momentum: float = 0.99
    # Keeps a running average of the weights (EMA; Polyak and Juditsky 1992) over about the last
    # 1 / (1 - averaging) steps: 0.98 is fifty. The average is validated and saved. Single steps
    # jitter, the more so the higher the rate; their average does not. None: the last weights.
    averaging: float = None
    # Computes in bfloat16 where the GPU can; weights stay float32.
    bfloat16: bool = False
    # Mirrored and shifted images, which the article does not have: "never", "with-noise" or
    # "always". For step 4 alone, since step 1 takes the images as they are.
    flip_and_crop: str = "never"


RECIPES = {
    # Article: Adam at its default rate, for 250 epochs; then up to 50 more, in which
    # ReduceLROnPlateau lowers the rate and EarlyStopping may end them.
    "article": Recipe(batch_size=64, epochs=300, learning_rate=1e-3),
    "fast": Recipe(batch_size=64, epochs=30, learning_rate=3e-3, optimizer="adamw",
                   weight_decay=0.02, schedule="one_cycle", bn_momentum=0.9, bfloat16=True,
                   flip_and_crop="with-noise"),
    # For the small network, after KellerJordan/cifar10-airbench: a rate of 1.5 for 1,024 images,
    # and a decay of 0.0153 a step, which is 0.0153 / 1.5 here, since Keras multiplies it by the
    # rate. (In PyTorch, where momentum changes the decay, too, airbench's weights shrink by 0.0133
    # a step.) Batch, epochs, and biases without decay are not airbench's.
    "sprint": Recipe(batch_size=512, epochs=20, learning_rate=0.75, scale_rate=True,
                     optimizer="sgd", momentum=0.85, weight_decay=0.0102, not_decayed=("beta",),
                     schedule="triangle", label_smoothing=0.2, bn_momentum=0.9, bfloat16=True,
                     flip_and_crop="with-noise"),
}
# The first step's weights may be at most this share of the average.
FIRST_STEP_MOST = 0.05
# The share of the article's epochs that are over when ReduceLROnPlateau and EarlyStopping join.
CONSTANT_SHARE = 250 / 300
# The triangle's rate: 0.2 of the peak at the first step, the peak after 0.23 of all steps, 0.07 of
# the peak at the end. The numbers are airbench's.
TRIANGLE_START, TRIANGLE_PEAK_AT, TRIANGLE_END = 0.2, 0.23, 0.07


def recipe_of(given, labelled):
    """The recipe that a command line asks for.

    Args:
        given: {flag: value} of the command line; None where it says nothing.
        labelled: number of images to train on that have a label.

    Raises: UserError, for a recipe that is not there, and an average over too many steps.
    """
    if given["recipe"] not in RECIPES:
        raise UserError(f"--recipe {given['recipe']}: there are {', '.join(RECIPES)}")
    known = RECIPES[given["recipe"]]
    said = {key: given[key] for key in asdict(known) if given.get(key) is not None}
    recipe = replace(known, **said)
    if known.scale_rate and "learning_rate" not in said:
        scaled = known.learning_rate * recipe.batch_size / known.batch_size
        recipe = replace(recipe, learning_rate=scaled)
    if recipe.steps_per_epoch is None:
        # Every cell of an experiment takes one step per batch of labelled images, however many
        # pseudo-labels it is given. Article: more images, more steps, and nobody knows which
        # helped.
        steps = max(1, labelled // recipe.batch_size)
        recipe = replace(recipe, steps_per_epoch=steps)
    steps = recipe.epochs * recipe.steps_per_epoch
    # The average begins with the first step's weights.
    if recipe.averaging and recipe.averaging**steps > FIRST_STEP_MOST:
        raise UserError(
            f"--averaging {recipe.averaging}: after {steps:,} steps, "
            f"{100 * recipe.averaging**steps:.0f} % of the average would still be the first step's "
            f"weights; at most {math.floor(1000 * FIRST_STEP_MOST ** (1 / steps)) / 1000} here")
    return recipe


def smooth_labels(labels, smoothing):
    """Spreads a share of every hard label evenly over the classes (Szegedy et al. 2016, sec. 7).

    A soft pseudo-label stays as it is: smoothing it again would hide what its teacher says. A
    smoothed teacher costs something: its labels say less about which classes are alike (Müller
    et al. 2019). Hard pseudo-labels are smoothed like the true ones.

    Args:
        labels: float32 (N, C), hard ones and soft ones. smoothing: 0 (nothing changes) to 1.
    """
    # A soft label that is rounded to 1 counts as hard: its teacher has no doubt left.
    hard = labels.max(axis=1, keepdims=True) == 1
    smooth = (1 - smoothing) * labels + smoothing / labels.shape[1]
    return np.where(hard, smooth, labels).astype(np.float32)

# --- the network ----------------------------------------------------------------------------------

# Stage by stage: filters, and the stride of the stage's first block.
# Article: the third stage keeps its resolution (stride 1), since 32x32 images are small already.
STAGES = ((64, 1), (128, 2), (256, 1), (512, 2))
# Blocks in each stage, by the number of layers; 50 is the article's.
BLOCKS = {
    14: (1, 1, 1, 1),
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
STEM_FILTERS = 32


def shortcut_en(x, residual, name=None):
    """Adds a block's residual to its input, which a 1x1 convolution projects where shapes differ.

    Name and L2 are the article's.

    Args:
        x: (batch, h, w, c), the input of the block.
        residual: (batch, h', w', c'), the output of its convolutions.

    Returns: (batch, h', w', c').
    """
    if x.shape != residual.shape:
        strides = (round(x.shape[1] / residual.shape[1]), round(x.shape[2] / residual.shape[2]))
        x = layers.Conv2D(residual.shape[-1], 1, strides=strides, kernel_initializer="he_normal",
                          kernel_regularizer=keras.regularizers.L2(1e-4),
                          name=part(name, "shortcut_conv"))(x)
        x = BatchNormalization(name=part(name, "shortcut_bn"))(x)
    return layers.Add(name=part(name, "add"))([x, residual])


def part(name, suffix):
    """A layer's name within a block: the same in the teacher and in the student."""
    return f"{name}_{suffix}" if name else None


def residual_path(x, filters, strides=1, name=None):
    """1x1, 3x3, 1x1 convolutions: (batch, h, w, c) -> (batch, h/strides, w/strides, 4*filters).

    Article: the stride sits on the last convolution, so a strided block throws three quarters of
    its 3x3 work away. It stays: this is the article's network.
    """
    x = layers.Conv2D(filters, 1, padding="same", name=part(name, "conv1"))(x)
    x = BatchNormalization(name=part(name, "bn1"))(x)
    x = layers.ReLU(name=part(name, "relu1"))(x)
    x = layers.Conv2D(filters, 3, padding="same", name=part(name, "conv2"))(x)
    x = BatchNormalization(name=part(name, "bn2"))(x)
    x = layers.ReLU(name=part(name, "relu2"))(x)
    x = layers.Conv2D(filters * 4, 1, strides=strides, padding="same", name=part(name, "conv3"))(x)
    return BatchNormalization(name=part(name, "bn3"))(x)


def normal_resblock50(data, filters, strides=1, name=None):
    """The teacher's bottleneck block: relu(data + residual).

    (batch, h, w, c) -> (batch, h/strides, w/strides, 4*filters).
    """
    x = residual_path(data, filters, strides, name)
    x = shortcut_en(data, x, name)
    return layers.ReLU(name=part(name, "relu3"))(x)


def blocks_of(depth):
    """Blocks in each stage of a network with `depth` layers. Raises: UserError."""
    if depth not in BLOCKS:
        raise UserError(f"--depth {depth}: there are {', '.join(map(str, BLOCKS))}")
    return BLOCKS[depth]


def build_resnet(depth=50, width=1.0, num_classes=10, block=normal_resblock50, dropout=None,
                 stem_strides=1):
    """The article's ResNet, for 32x32 images.

    Args:
        depth: 14, 26, 50 (the article's: 23,590,794 parameters), 101 or 152.
        width: multiplies every filter count.
        block: called as block(x, filters, strides, name=...); the student brings its own.
        dropout: rate before the classifier; None builds no such layer.
        stem_strides: 1 as in the article. With 2, every later layer sees a quarter of the pixels:
            four times faster, for a machine without a GPU.

    Returns: keras.Model, uint8 (batch, 32, 32, 3) 0..255 -> probabilities, float32 (batch, C).
    """
    def scaled(filters):
        return max(1, round(filters * width))

    inputs = layers.Input((32, 32, 3), dtype="uint8", name="image")
    # A layer of the network, so that no script can forget it or do it twice.
    x = layers.Rescaling(1 / 255, name="scale")(inputs)
    x = layers.Conv2D(scaled(STEM_FILTERS), 5, strides=stem_strides, padding="same",
                      name="stem_conv")(x)
    x = BatchNormalization(name="stem_bn")(x)
    # (batch, 32, 32, 32)
    x = layers.ReLU(name="stem_relu")(x)
    for stage, ((filters, strides), blocks) in enumerate(zip(STAGES, blocks_of(depth)), 1):
        for i in range(1, blocks + 1):
            name = f"stage{stage}_block{i}"
            x = block(x, scaled(filters), strides if i == 1 else 1, name=name)
    # (batch, 8, 8, 2048) -> (batch, 2048)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    if dropout is not None:
        # Any seed will do, since every epoch sets its own. Without one, Keras takes PyTorch's own
        # dropout, which no epoch could repeat.
        x = layers.Dropout(dropout, seed=0, name="dropout")(x)
    x = layers.Dense(num_classes, name="logits")(x)
    outputs = layers.Activation("softmax", dtype="float32", name="probabilities")(x)
    return keras.Model(inputs, outputs, name=f"resnet{depth}")


# --- the training ---------------------------------------------------------------------------------


class Triangle(keras.optimizers.schedules.LearningRateSchedule):
    """Up to the peak in a straight line, and down to nearly nothing in another.

    The way up is short, and begins at a fifth of the peak: in the first steps gradients change
    quickly, and a full step would overshoot. On the way down the noise of the steps dies away.
    """

    def __init__(self, peak, steps):
        self.peak, self.steps = peak, steps

    def __call__(self, step):
        share = keras.ops.cast(step, "float32") / self.steps
        up = TRIANGLE_START + (1 - TRIANGLE_START) * share / TRIANGLE_PEAK_AT
        down = 1 - (1 - TRIANGLE_END) * (share - TRIANGLE_PEAK_AT) / (1 - TRIANGLE_PEAK_AT)
        return self.peak * keras.ops.minimum(up, down)

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps}


def optimizer_and_schedule(model, recipe):
    """The optimizer, and for the article's schedule a function: history -> (learning rate, stop).

    Sets the recipe's memory of batch normalization, too. Raises: UserError, where the recipe names
    an optimizer or a schedule that is not there.
    """
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            # Averaged weights need running statistics of at least as many steps.
            layer.momentum = max(recipe.bn_momentum, recipe.averaging or 0)
    rate, schedule, steps = recipe.learning_rate, None, recipe.epochs * recipe.steps_per_epoch
    if recipe.schedule == "brakes":
        def schedule(history):
            return brakes(history, recipe)
    elif recipe.schedule == "one_cycle":
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, steps - steps // 10, warmup_target=rate, warmup_steps=steps // 10)
    elif recipe.schedule == "triangle":
        rate = Triangle(rate, steps)
    else:
        raise UserError(f"the recipe's schedule is {recipe.schedule!r}: "
                        "there are brakes, one_cycle, triangle")
    averaged = {"use_ema": bool(recipe.averaging), "ema_momentum": recipe.averaging or 0}
    if recipe.optimizer == "adam":
        optimizer = keras.optimizers.Adam(rate, **averaged)
    elif recipe.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay, **averaged)
    elif recipe.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(rate, recipe.momentum, nesterov=recipe.momentum > 0,
                                         weight_decay=recipe.weight_decay or None, **averaged)
    else:
        raise UserError(f"the recipe's optimizer is {recipe.optimizer!r}: "
                        "there are adam, adamw, sgd")
    if recipe.not_decayed:
        optimizer.exclude_from_weight_decay(var_names=list(recipe.not_decayed))
    return optimizer, schedule


def brakes(history, recipe):
    """ReduceLROnPlateau(factor=0.1, patience=3) and EarlyStopping in the last 50 of 300 epochs.

    Counted anew from the history, so that a resumed training brakes where it would have braked.

    Args:
        history: a row per finished epoch, a dictionary with its val_loss.

    Returns: the learning rate of the next epoch, and whether the training ends here.
    """
    losses = [row["val_loss"] for row in history[round(recipe.epochs * CONSTANT_SHARE):]]
    rate, plateau, waited = recipe.learning_rate, np.inf, 0
    best, since_best = np.inf, 0
    for loss in losses:
        # ReduceLROnPlateau: an improvement by less than 1e-4 does not count.
        plateau, waited = (loss, 0) if loss < plateau - 1e-4 else (plateau, waited + 1)
        if waited == 3:
            # The optimizer keeps its rate in 32 bits.
            rate, waited = float(np.float32(rate)) * 0.1, 0
        # EarlyStopping: every improvement counts.
        best, since_best = (loss, 0) if loss < best else (best, since_best + 1)
    return rate, bool(recipe.early_stopping and since_best >= recipe.early_stopping)


def my_eval(model, x, t, probabilities=None):
    """Prints and returns plain cross-entropy (nats per image) and accuracy (0..1).

    Article: its loss is model.evaluate's, which adds the L2 term of the shortcuts.

    Args:
        x: uint8 (N, 32, 32, 3). t: one-hot or soft labels, (N, C).
        probabilities: what the model says about x, (N, C), where that is known already.
    """
    loss, accuracy = score(predict(model, x) if probabilities is None else probabilities, t)
    print(f"loss: {loss:.4f}")
    print(f"acc: {accuracy:.4f}")
    return loss, accuracy


def fit_and_finish(model, batches, data, recipe, run, images, tensorboard=False):
    """Trains, then reads the test images, once, and keeps what the network says about them.

    With --validation test, which is the article's choice, they are read after every epoch, too.

    Args:
        images: how many different images there are to learn from.
        batches: batches(k) yields batch k and all that come after it, without end, so that a
            killed training goes on with the batch it would have had.
    """
    optimizer, schedule = optimizer_and_schedule(model, recipe)
    # noisy_student/training.py: model.compile() with the cross-entropy to the labels, hard or soft,
    # and model.fit(), with a backup after every epoch.
    history, seconds = train(model, batches, data.validation(), run, optimizer, schedule,
                             tensorboard)
    x_val, t_val = data.validation()
    p_test, p_val = predict(model, data.x_test), predict(model, x_val)
    run.save_predictions(test=(p_test, data.y_test), validation=(p_val, t_val.argmax(axis=1)))
    loss, accuracy = my_eval(model, data.x_test, data.one_hot(data.y_test), p_test)
    run.finish(test_loss=loss, test_accuracy=accuracy, seconds=seconds,
               steps=len(history) * recipe.steps_per_epoch, images=images,
               class_names=data.class_names)
    print(f"{run.folder}: test accuracy {100 * accuracy:.2f} %")


def main(args):
    backend.prepare(args.seed)

    # The data
    data = load_data(args.data, args.num_labeled, args.validation, args.seed)
    print(data)
    recipe = recipe_of(vars(args), len(data.train))
    if recipe.flip_and_crop == "always":
        raise UserError(f"--recipe {args.recipe}: flips and crops always, and step 1 never does. "
                        "python data_generator.py --pseudo none --noise none does")
    precision = backend.precision(args.precision, recipe.bfloat16)
    chosen = {**vars(args), **asdict(recipe), "precision": precision}
    # If these functions have changed since, the same command does not go on with the run.
    network = (build_small, whiten) if args.network == "small" else (build_resnet,)
    code = {"network": network, "recipe": (optimizer_and_schedule, smooth_labels)}
    run = runs.start("cifar10_resnet50.py", args.log_dir, chosen, data.lineage(), code=code)
    if run.finished:
        print(f"{args.log_dir} is finished: test accuracy {run.results['test_accuracy']:.4f}")
        return

    with backend.on_hardware(precision, args.devices, recipe.batch_size):
        # The network
        if args.network == "small":
            model = build_small(args.width, data.num_classes)
            whiten(model, data.x[data.train])
        else:
            model = build_resnet(args.depth, args.width, data.num_classes,
                                 stem_strides=args.stem_strides)
        print(f"{model.name}, width {args.width}: {model.count_params():,} parameters")

        # The training, without noise; data.train are the rows of data.x that may be trained on
        labels = smooth_labels(data.one_hot(data.y), recipe.label_smoothing)

        def batches(first_batch):
            for _, rows in shuffled(data.train, recipe.batch_size, args.seed, first_batch):
                yield data.x[rows], labels[rows]

        fit_and_finish(model, batches, data, recipe, run, len(data.train), args.tensorboard)
    commands.say_next(*commands.labels_next(data, args.log_dir))


if __name__ == "__main__":
    run_script(main, args)
