"""Step 3: the student's network: stochastic depth and dropout, the noise on the model.

    python stochastic_resblock.py                  # the survival probabilities beside the network
    python stochastic_resblock.py --p-last 0.5 --depth 26

The student is the teacher's network, with two additions. Stochastic depth (Huang et al. 2016) lets each
block's residual survive a training step with a probability that falls from 1 at the first layer to
p_last at the last; a block that does not survive passes its input on unchanged. Dropout sits before
the classifier. At inference both are gone, and each residual is scaled by its survival probability.

Writes  figures/survival.png
"""

import argparse
import pathlib

import cifar10_resnet50 as step1  # first: it quietens the backend

import keras
from keras import layers


def get_p_survival(l, L, pl):
    """Survival probability of block l of L: 1 - l/L (1 - pl), eq. (4) of Huang et al. 2016, article step 3.

    Args:
        l: 0 (the input, which always survives) to L (the last block).
        pl: survival probability of the last block, in (0, 1]; Noisy Student and the article: 0.8.
    """
    return 1 - (l / L) * (1 - pl)


@keras.saving.register_keras_serializable(package="noisy_student")
class StochasticSurvival(layers.Layer):
    """Keeps its input with probability `p_survival` in training, else gives zeros; scales it at inference.

    In training the output is the input or zero; at inference it is p_survival times the input (eq. (5) of
    Huang et al. 2016), which is what training gives on average.

    Article: a Lambda on K.in_test_phase, which Keras 3 no longer has, and no Lambda can be loaded safely.

    Args:
        p_survival: in (0, 1].
        seed: int or None.
        per_sample: draw for every image of a batch (as the official Noisy Student code does) rather
            than once per batch (as the first paper and the article do).
    """

    def __init__(self, p_survival, seed=None, per_sample=False, **kwargs):
        super().__init__(**kwargs)
        if not 0 < p_survival <= 1:
            raise ValueError(f"p_survival must be above 0 and at most 1, got {p_survival}")
        self.p_survival, self.seed, self.per_sample = p_survival, seed, per_sample
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=False):
        if self.p_survival == 1:  # the teacher's block, to the bit
            return inputs
        if not training:
            return inputs * self.p_survival
        draws = keras.ops.shape(inputs)[0] if self.per_sample else 1
        draw = keras.random.uniform((draws,) + (1,) * (len(inputs.shape) - 1), seed=self.seed_generator)
        return inputs * keras.ops.cast(draw < self.p_survival, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "p_survival": self.p_survival, "seed": self.seed, "per_sample": self.per_sample}


def stochastic_resblock(data, filters, strides, depth_num, p_list, name=None, per_sample=False):
    """The teacher's block, whose residual survives with probability p_list[depth_num].

    Args:
        data: (batch, h, w, c).
        depth_num: number of the block, from 1: p_list[0] belongs to the input.
        p_list: survival probabilities, one more than there are blocks.

    Returns: (batch, h/strides, w/strides, 4*filters), and the number of the next block.
    """
    x = step1.residual_path(data, filters, strides, name)
    x = StochasticSurvival(p_list[depth_num], per_sample=per_sample, name=step1.part(name, "survival"))(x)
    x = step1.shortcut_en(data, x, name)
    x = layers.ReLU(name=step1.part(name, "relu3"))(x)
    return x, depth_num + 1


def survival_list(depth, p_last):
    """p_list for stochastic_resblock: entry l belongs to block l, entry 0 to the input."""
    L = sum(step1.BLOCKS_PER_STAGE[depth])
    return [get_p_survival(l, L, p_last) for l in range(L + 1)]


def build_student(depth=50, width=1.0, num_classes=10, p_last=0.8, dropout=0.5, per_sample=False):
    """The teacher's network with the noise on the model; its other layers have the teacher's names and shapes.

    Args:
        p_last: survival probability of the last block, in (0, 1]; 1 is no stochastic depth.
        dropout: rate before the classifier, in [0, 1); 0 is no dropout.

    Returns: keras.Model, uint8 (batch, 32, 32, 3) 0..255 -> probabilities, float32 (batch, num_classes).
    """
    p_list = survival_list(depth, p_last)
    depth_num = 1  # block 0 is the input

    def block(x, filters, strides, name):
        nonlocal depth_num
        x, depth_num = stochastic_resblock(x, filters, strides, depth_num, p_list, name, per_sample)
        return x

    return step1.build_resnet(depth, width, num_classes, block, dropout)


def add_model_noise_arguments(parser):
    """The flags of the noise on the model; step 4 takes them too."""
    parser.add_argument("--p-last", type=step1.number(float, 0, 1, open_low=True), default=0.8, metavar="P",
                        help="survival probability of the last block (0.8)")
    parser.add_argument("--dropout", type=step1.number(float, 0, 0.99), default=0.5, metavar="P",
                        help="rate before the classifier (0.5)")


def draw_survival(p_list, depth, path):
    """A bar per block, one shade per stage."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    first = 1
    for stage, blocks in enumerate(step1.BLOCKS_PER_STAGE[depth], 1):
        numbers = range(first, first + blocks)
        axes.bar(numbers, [p_list[l] for l in numbers], color=("#9ecae1", "#6baed6", "#3182bd", "#08519c")[stage - 1],
                 label=f"stage {stage}")
        first += blocks
    if first <= 17:  # more bars than that leave no room for numbers
        for l in range(1, first):
            axes.text(l, p_list[l] + 0.01, f"{p_list[l]:.3f}".lstrip("0"), ha="center", fontsize=8)
    axes.set(xlabel="residual block", ylabel="survival probability", ylim=(0, 1.1), xticks=range(1, first, 1 if first <= 17 else 5))
    axes.legend(ncols=4, loc="lower center", framealpha=1)
    with step1.whole_file(path) as beside:
        figure.savefig(beside, dpi=110, format="png")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, choices=step1.BLOCKS_PER_STAGE, default=50)
    parser.add_argument("--width", type=step1.number(float, 0, 16, open_low=True), default=1.0)
    add_model_noise_arguments(parser)
    parser.add_argument("--out", default="figures/survival.png")
    args = parser.parse_args(argv)

    p_list = survival_list(args.depth, args.p_last)
    student = build_student(args.depth, args.width, p_last=args.p_last, dropout=args.dropout)
    print("block  layer                    output          survives with p")
    survivals = [layer for layer in student.layers if isinstance(layer, StochasticSurvival)]
    for l, layer in enumerate(survivals, 1):
        print(f"{l:5}  {layer.name.removesuffix('_survival'):23}  {'x'.join(map(str, layer.output.shape[1:])):14}  {p_list[l]:.4f}")
    expected = sum(p_list[1:])
    print(f"{len(survivals)} blocks, {expected:.1f} of them alive in an average training step; "
          f"dropout {args.dropout} before the classifier; {student.count_params():,} parameters, as many as the teacher")
    draw_survival(p_list, args.depth, pathlib.Path(args.out))
    print(f"picture: {args.out}")


if __name__ == "__main__":
    step1.run_script(main)
