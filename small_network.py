"""A small network that learns in an hour on a laptop, the article's in weeks: --network small.

    python cifar10_resnet50.py --network small        # the teacher, with this network
    python small_network.py                           # prints its layers and what they cost

The article's ResNet50 computes 23.9 GFLOP for every image that it is trained on: 300 epochs are
five weeks of a laptop. What makes a network learn fast has been collected by people who train
CIFAR-10 against the clock (David Page's series, tysam-code/hlb-CIFAR10,
KellerJordan/cifar10-airbench). This is a residual relative of theirs with 903,032 parameters and
0.40 GFLOP an image. Four ideas: whitening, identity (Dirac) initialisation, a residual after each
pooling, and fast biases. What each is worth is measured by benchmarks/ladder.py:
results/small_network.md.

Step 1 builds it for the teacher, step 3 adds stochastic depth and dropout for the student.
"""

from noisy_student import arguments

if __name__ == "__main__":
    # Before Keras is imported, which takes seconds.
    args = arguments.small(__doc__)

import math

import keras
import numpy as np
from keras import layers, ops

from noisy_student.files import UserError, run_script
from noisy_student.normalization import BatchNormalization

# Filters of the three groups, each of which sees half the height and width of the one before.
GROUPS = (64, 128, 128)
# Side of the patches that are whitened, in pixels.
PATCH = 2
# The whitening is computed from at most so many images: a thousand hold 961,000 patches.
WHITENING_IMAGES = 1000
# Added to each variance, as a share of the average one. Directions that hardly vary hold the noise
# of camera and JPEG, and to divide by their small deviation would amplify it. Airbench's value.
WHITENING_EPSILON = 5e-4
# Multiplies a bias. Under SGD its steps then grow with the square: 64 times, airbench's factor.
# Under Adam, whose steps do not depend on the gradient's size, they grow 8 times.
BIAS_FACTOR = 8
# Divides the logits, which would otherwise be so far apart that the first softmax is nearly
# one-hot. Airbench's value.
LOGIT_SCALE = 9


# --- whitening ------------------------------------------------------------------------------------
# Neighbouring pixels are nearly the same, so that inputs are strongly correlated, and SGD is slow
# in directions that vary little. Directions that are uncorrelated and vary alike are known without
# a label: the principal components of small patches, each divided by its standard deviation. They
# are computed once and stay as they are, so that no gradient has to flow below the first group.
# Without it, accuracy is 3.1 points lower (1.6 to 4.6), after two passes at a quarter of the width.


def principal_components(images):
    """The directions in which 2x2 patches vary, scaled to a variance of 1 (less for the weakest).

    Args:
        images: uint8 (N, 32, 32, 3).

    Returns: float32 (2, 2, 3, 12), the most varying first, and the mean patch (2, 2, 3), 0..1.
    """
    # From first to last, since the images of a folder come class by class.
    spaced = images[::math.ceil(len(images) / WHITENING_IMAGES)]
    x = spaced.astype(np.float32) / 255
    size = x.shape[1] - PATCH + 1
    # (N, 31, 31, 4, 3) -> (patches, 12)
    patches = np.stack([x[:, top:top + size, left:left + size]
                        for top in range(PATCH) for left in range(PATCH)], axis=3)
    patches = patches.reshape(-1, PATCH * PATCH * 3).astype(np.float64)
    mean = patches.mean(axis=0)
    covariance = patches.T @ patches / len(patches) - np.outer(mean, mean)
    variances, directions = np.linalg.eigh(covariance)
    # eigh gives the smallest first.
    variances, directions = variances[::-1], directions[:, ::-1]
    # The 1e-12 keeps images of one colour from a division by zero.
    epsilon = WHITENING_EPSILON * variances.mean() + 1e-12
    components = directions / np.sqrt(np.maximum(variances, 0) + epsilon)
    shape = (PATCH, PATCH, 3)
    return components.reshape(*shape, -1).astype(np.float32), mean.reshape(shape)


def whiten(model, images):
    """Sets the network's first convolution, which is never trained, from images.

    It does not look at their labels.

    A GELU damps negative values to nearly 0, so each component is there twice, with either sign.

    Args:
        images: uint8 (N, 32, 32, 3), those that are trained on.
    """
    components, mean = principal_components(images)
    kernel = np.concatenate([components, -components], axis=3)
    bias = -np.tensordot(mean, kernel, axes=3)
    model.get_layer("whiten").set_weights([kernel, bias])


# --- identity initialisation ----------------------------------------------------------------------
# A convolution with random weights mixes its inputs, and a deep stack has to unlearn that first.
# One that begins as the identity (Dirac initialisation) passes its inputs on from the first step,
# and training only has to find out what to change. Without it: 3.8 points lower, but three seeds do
# not show that (-1.2 to 8.8).


@keras.saving.register_keras_serializable(package="noisy_student")
class Identity(keras.initializers.Initializer):
    """Initialises a convolution such that it copies its inputs (torch.nn.init.dirac_).

    Filters beyond the inputs begin at random. With fewer filters, the last inputs are not copied.
    """

    def __call__(self, shape, dtype=None):
        """Args: shape: (h, w, inputs, filters), h and w odd. Returns: a kernel of that shape."""
        height, width, inputs, filters = shape
        copied = min(inputs, filters)
        identity = np.zeros(shape, np.float32)
        identity[height // 2, width // 2, :copied, :copied] = np.eye(copied)
        # PyTorch's default, uniform within 1/sqrt(fan_in): the recipe's rate was tuned with it.
        random = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        beyond = (np.arange(filters) >= copied).astype(np.float32)
        kernel = ops.add(identity, ops.multiply(random(shape), beyond))
        return ops.cast(kernel, dtype or "float32")


# --- fast biases ----------------------------------------------------------------------------------
# Batch normalization gives every channel the same spread, and its bias then decides how much of the
# channel a GELU lets through: one number per channel with a large effect. People who train against
# the clock let it learn 64 times as fast as the weights. Here the layer multiplies it by 8: its
# gradient and its effect are each 8 times as large, so that a step of SGD moves it 64 times as far.
# Two passes do not show that it helps (without it 0.8 points higher, -1.4 to 3.0). The network that
# it was made for reached 94 % after 13.5 epochs in place of 18 (cifar10-zoo's ladder).


@keras.saving.register_keras_serializable(package="noisy_student")
class FastBiasNormalization(BatchNormalization):
    """Batch normalization without a scale, whose bias learns 64 times as fast under SGD."""

    def __init__(self, scale=False, epsilon=1e-5, **kwargs):
        super().__init__(scale=scale, epsilon=epsilon, **kwargs)

    def offset(self):
        return BIAS_FACTOR * self.beta


# --- the network ----------------------------------------------------------------------------------
# Three groups. The first convolution of each is followed by a max pooling at once, so that the two
# others work on a quarter of the pixels; these two are a residual, which is where step 3 puts
# stochastic depth. Without the residual: 1.3 points lower, but three seeds do not show that (-1.8
# to 4.4).


def convolution(x, filters, name):
    """A 3x3 convolution without bias, since batch normalization has one: (batch, h, w, filters)."""
    return layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer=Identity(),
                         name=name)(x)


def group(x, filters, name, survive=None):
    """One group of the network: (batch, h, w, c) -> (batch, h // 2, w // 2, filters).

    Args:
        survive: applied to the residual, (batch, h // 2, w // 2, filters); step 3 brings it.
    """
    x = convolution(x, filters, f"{name}_conv1")
    x = layers.MaxPooling2D(2, name=f"{name}_pool")(x)
    x = FastBiasNormalization(name=f"{name}_bn1")(x)
    x = layers.Activation("gelu", name=f"{name}_gelu1")(x)
    residual = convolution(x, filters, f"{name}_conv2")
    residual = FastBiasNormalization(name=f"{name}_bn2")(residual)
    residual = layers.Activation("gelu", name=f"{name}_gelu2")(residual)
    residual = convolution(residual, filters, f"{name}_conv3")
    residual = FastBiasNormalization(name=f"{name}_bn3")(residual)
    if survive is not None:
        residual = survive(residual)
    x = layers.Add(name=f"{name}_add")([x, residual])
    return layers.Activation("gelu", name=f"{name}_gelu3")(x)


def build_small(width=1.0, num_classes=10, dropout=None, survivals=None):
    """The small network, for 32x32 images. whiten() sets its first layer.

    Args:
        width: multiplies the filters of the groups.
        dropout: rate before the classifier; None builds no such layer.
        survivals: for each group, what is applied to its residual; None: nothing.

    Returns: keras.Model, uint8 (batch, 32, 32, 3) 0..255 -> probabilities, float32 (batch, C).
    Raises: UserError, where a group has no filters.
    """
    filters = [round(width * full) for full in GROUPS]
    if min(filters) < 1:
        raise UserError(f"--width {width}: leaves a group of {GROUPS[filters.index(min(filters))]} "
                        f"filters without any; it must be above {0.5 / min(GROUPS):.4f}")
    inputs = layers.Input((32, 32, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255, name="scale")(inputs)
    x = layers.Conv2D(2 * PATCH * PATCH * 3, PATCH, trainable=False, name="whiten")(x)
    # (batch, 31, 31, 24)
    x = layers.Activation("gelu", name="whiten_gelu")(x)
    for i, survive in enumerate(survivals or [None] * len(GROUPS)):
        x = group(x, filters[i], f"group{i + 1}", survive)
    # (batch, 3, 3, 128) -> (batch, 128): the maximum, since one place that shows a wheel is enough.
    x = layers.MaxPooling2D(3, name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    if dropout is not None:
        x = layers.Dropout(dropout, seed=0, name="dropout")(x)
    x = layers.Dense(num_classes, use_bias=False, name="classifier")(x)
    x = layers.Rescaling(1 / LOGIT_SCALE, name="logits")(x)
    outputs = layers.Activation("softmax", dtype="float32", name="probabilities")(x)
    return keras.Model(inputs, outputs, name="small")


def main(args):
    """Prints each layer's cost.

    Training takes 6 FLOP per multiply-add: 2 forward, 2 for the layer's own gradient, and 2 for
    that of the layers before it. `whiten`, which is fixed, takes 2, and group1_conv1 takes 4.
    """
    model = build_small(args.width)
    print("layer            output        million multiply-adds")
    total = 0
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            cost = layer.kernel.shape[-1] * np.prod(layer.kernel.shape[:-1])
            cost *= np.prod(layer.output.shape[1:-1])
            total += cost
            shape = "x".join(map(str, layer.output.shape[1:]))
            print(f"{layer.name:15}  {shape:12}  {cost / 1e6:6.1f}")
    print(f"{total / 1e6:.0f} million in all, {model.count_params():,} parameters")


if __name__ == "__main__":
    run_script(main, args)
