"""Step 3: the student's network: stochastic depth and dropout, the noise on the model.

    python stochastic_resblock.py                  # the survival probabilities beside the network
    python stochastic_resblock.py --p-last 0.5 --depth 26

The student is the teacher's network, with two additions. Stochastic depth (Huang et al. 2016) lets
each block's residual survive a training step with a probability that falls from 1 at the input to
p_last at the last block; a block that does not survive passes on its input alone. Dropout sits
before the classifier. At inference both are gone, and each residual is scaled by its survival
probability.

Writes  figures/survival.png
"""

from noisy_student import arguments

if __name__ == "__main__":
    # Before Keras is imported, which takes seconds.
    args = arguments.survival(__doc__)

import keras
from keras import layers

from cifar10_resnet50 import blocks_of, build_resnet, part, residual_path, shortcut_en
from noisy_student.files import run_script
from small_network import GROUPS, build_small


def get_p_survival(l, L, pl):
    """Survival probability of block l of L: 1 - l/L (1 - pl), eq. (4) of Huang et al. 2016.

    Args:
        l: 0 (the input, which always survives) to L (the last block).
        pl: survival probability of the last block, in (0, 1]; Noisy Student and the article: 0.8.
    """
    return 1 - (l / L) * (1 - pl)


@keras.saving.register_keras_serializable(package="noisy_student")
class StochasticSurvival(layers.Layer):
    """Keeps its input with probability `p_survival` in training, else gives zeros.

    At inference it gives p_survival times the input (eq. (5) of Huang et al. 2016), which is what
    training gives on average.

    Article: a Lambda on K.in_test_phase, which Keras 3 no longer has, and no Lambda can be loaded
    safely.

    Args:
        p_survival: in (0, 1].
        seed: int or None.
        per_sample: draws once per image, as the official Noisy Student code does (which divides by
            p_survival in training instead), not once per batch, as Huang et al., the article and
            these scripts.
    """

    def __init__(self, p_survival, seed=None, per_sample=False, **kwargs):
        super().__init__(**kwargs)
        if not 0 < p_survival <= 1:
            raise ValueError(f"p_survival must be above 0 and at most 1, got {p_survival}")
        self.p_survival, self.seed, self.per_sample = p_survival, seed, per_sample
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=False):
        if self.p_survival == 1:
            # The teacher's block, to the bit.
            return inputs
        if not training:
            return inputs * self.p_survival
        draws = keras.ops.shape(inputs)[0] if self.per_sample else 1
        shape = (draws,) + (1,) * (len(inputs.shape) - 1)
        draw = keras.random.uniform(shape, seed=self.seed_generator)
        return inputs * keras.ops.cast(draw < self.p_survival, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = {"p_survival": self.p_survival, "seed": self.seed, "per_sample": self.per_sample}
        return {**super().get_config(), **config}


def stochastic_resblock(data, filters, strides, depth_num, p_list, name=None, per_sample=False):
    """The teacher's block, whose residual survives with probability p_list[depth_num].

    Args:
        data: (batch, h, w, c).
        depth_num: number of the block, from 1: p_list[0] belongs to the input.
        p_list: survival probabilities, one more than there are blocks.

    Returns: (batch, h/strides, w/strides, 4*filters), and the number of the next block.
    """
    p_survival = p_list[depth_num]
    x = residual_path(data, filters, strides, name)
    # Without a seed of its own: every epoch of a training sets one (noisy_student/training.py).
    x = StochasticSurvival(p_survival, per_sample=per_sample, name=part(name, "survival"))(x)
    x = shortcut_en(data, x, name)
    x = layers.ReLU(name=part(name, "relu3"))(x)
    return x, depth_num + 1


def survival_list(depth, p_last):
    """p_list for stochastic_resblock: entry l belongs to block l, entry 0 to the input."""
    L = sum(blocks_of(depth))
    return [get_p_survival(l, L, p_last) for l in range(L + 1)]


def build_student(depth=50, width=1.0, num_classes=10, p_last=0.8, dropout=0.5, per_sample=False,
                  stem_strides=1):
    """The teacher's network with the noise on the model.

    Its other layers have the teacher's names and shapes.

    Args:
        p_last: survival probability of the last block, in (0, 1]; 1 is no stochastic depth.
        dropout: rate before the classifier, in [0, 1); 0 is no dropout.

    Returns: keras.Model, uint8 (batch, 32, 32, 3) 0..255 -> probabilities, float32 (batch, C).
    """
    p_list = survival_list(depth, p_last)
    # The article's block takes its number and returns the next one's. Block 0 is the input.
    depth_num = 1

    def block(x, filters, strides, name):
        nonlocal depth_num
        x, depth_num = stochastic_resblock(x, filters, strides, depth_num, p_list, name, per_sample)
        return x

    return build_resnet(depth, width, num_classes, block, dropout, stem_strides)


def build_small_student(width=1.0, num_classes=10, p_last=0.8, dropout=0.5, per_sample=False):
    """small_network.py's network with the noise on the model, on the residual of each group.

    Its other layers have the teacher's names and shapes. small_network.whiten() sets the first.

    Args: as build_student's.
    """
    L = len(GROUPS)
    survivals = [StochasticSurvival(get_p_survival(l, L, p_last), per_sample=per_sample,
                                    name=f"group{l}_survival") for l in range(1, L + 1)]
    return build_small(width, num_classes, dropout, survivals)


def main(args):
    from noisy_student import figures

    if args.network == "small":
        student = build_small_student(args.width, p_last=args.p_last, dropout=args.dropout)
        stages = (1,) * len(GROUPS)
    else:
        student = build_student(args.depth, args.width, p_last=args.p_last, dropout=args.dropout)
        stages = blocks_of(args.depth)
    survivals = [layer for layer in student.layers if isinstance(layer, StochasticSurvival)]
    print("block  layer                    output          survives with p")
    for number, layer in enumerate(survivals, 1):
        name = layer.name.removesuffix("_survival")
        shape = "x".join(map(str, layer.output.shape[1:]))
        print(f"{number:5}  {name:23}  {shape:14}  {layer.p_survival:.4f}")
    probabilities = [layer.p_survival for layer in survivals]
    print(f"{len(survivals)} blocks, {sum(probabilities):.1f} of them alive in an average training "
          f"step; dropout {args.dropout} before the classifier; {student.count_params():,} "
          "parameters, as many as the teacher")
    print(f"picture: {figures.survival(probabilities, stages, args.out)}")


if __name__ == "__main__":
    run_script(main, args)
