"""Does a training step wait for its batch? And how much memory does feeding it take?

    python benchmarks/input_path.py data/toy           # any data set of step 1

Measured is `fit` as the student is trained: labelled and pseudo-labelled images joined, shuffled,
mirrored and shifted, under RandAugment. Against it stands `fit` on one batch that is on the device
already, again and again.

Writes results/benchmarks/input_path.md (on a GPU: results/benchmarks/input_path-gpu.md)
"""

import argparse
import itertools

import numpy as np
from measure import gpu_name, in_turns, peak_memory, spread, table, versions, write
from training import Network

from noisy_student import onednn

# So many pseudo-labelled images, and draws from them.
POOL, PSEUDO = 8_000, 20_000
GPU = bool(gpu_name())
# Network, batch size, steps per round.
CASES = {
    "the article's network, batch 512": (Network("resnet"), 512, 40),
    "depth 14, width 1/4, batch 512": (Network("resnet", 0.25, 14), 512, 200),
    "the small network, batch 512": (Network("small"), 512, 200),
} if GPU else {
    "the article's network, batch 8": (Network("resnet"), 8, 4),
    "depth 14, width 1/4, batch 64": (Network("resnet", 0.25, 14), 64, 16),
    "depth 14, width 1/16, batch 64": (Network("resnet", 0.0625, 14), 64, 64),
    "the small network, batch 64": (Network("small"), 64, 16),
}


def endless_fit(network, classes, batches, batch_size, steps):
    """A function that trains a student `steps` steps on, and returns how many images those were."""
    import keras

    from cifar10_resnet50 import optimizer_and_schedule
    from noisy_student import backend
    from stochastic_resblock import build_small_student, build_student

    if backend.has_bfloat16():
        # As the recipes would.
        keras.config.set_dtype_policy("mixed_bfloat16")
    if network.kind == "small":
        model = build_small_student(network.width, classes)
    else:
        model = build_student(network.depth, network.width, classes)
    model.compile(optimizer_and_schedule(model, network.recipe())[0], "categorical_crossentropy",
                  metrics=["accuracy"], jit_compile=backend.jit_compile())
    fed = backend.feed(batches, batch_size)

    def work():
        model.fit(fed, steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0)
        return steps * batch_size
    return work


def fed_by_generator(folder, network, batch_size, steps):
    onednn.choose(network.kind, network.width)
    from data_generator import noisy_batches
    from noisy_student import backend
    from noisy_student.batches import shuffled
    from noisy_student.data import load_data

    backend.prepare(0)
    data, rng = load_data(folder), np.random.default_rng(0)
    pool = rng.integers(0, 256, (POOL, 32, 32, 3), dtype=np.uint8)
    soft = rng.dirichlet(np.ones(data.num_classes), POOL).astype(np.float32)
    x, y = np.concatenate([data.x, pool]), np.concatenate([data.one_hot(data.y), soft])
    rows = np.concatenate([data.train, len(data.x) + rng.integers(0, POOL, PSEUDO)])

    def batches():
        return noisy_batches(x, y, shuffled(rows, batch_size), True, crop="always")

    work = endless_fit(network, data.num_classes, batches, batch_size, steps)
    # The script, too, keeps what it has joined.
    work.keeps = data, pool, soft
    return work


def fed_by_constant(classes, network, batch_size, steps):
    onednn.choose(network.kind, network.width)
    import keras

    from noisy_student import backend

    backend.prepare(0)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (batch_size, 32, 32, 3), dtype=np.uint8)
    t = np.eye(classes, dtype=np.float32)[rng.integers(0, classes, batch_size)]
    batch = keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(t)
    return endless_fit(network, classes, lambda: itertools.repeat(batch), batch_size, steps)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="cifar10, or a folder train/<class>/*, test/<class>/*")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)

    from noisy_student.data import load_data

    data = load_data(args.data)
    arrays = data.x.nbytes + data.x_test.nbytes + POOL * 32 * 32 * 3
    arrays += (len(data.y) + POOL) * data.num_classes * 4
    arrays /= 2**20
    rows, memory = [], []
    for case, numbers in CASES.items():
        contenders = {"generator": (fed_by_generator, args.data, *numbers),
                      "constant": (fed_by_constant, data.num_classes, *numbers)}
        rates, absent = in_turns(contenders, args.rounds, seconds=0)
        if absent:
            raise SystemExit(f"error: {absent}")
        batch_size = numbers[1]
        step_time = {name: 1000 * batch_size / rate for name, rate in rates.items()}
        ratio = spread(step_time["generator"] / step_time["constant"], 3)
        rows.append([case, *(spread(step_time[name]) for name in contenders), ratio])
        generator, constant = (peak_memory(*contender) for contender in contenders.values())
        memory.append([case, *(f"{size:,.0f}" for size in (
            constant, arrays, generator, generator - constant - arrays))])
    write("input_path-gpu" if GPU else "input_path", "What a training step waits for",
          f"Milliseconds per step: median (range) of {args.rounds} rounds in turns, "
          f"{len(data.train):,} labelled images and {PSEUDO:,} draws of {POOL:,} pseudo-labelled "
          "ones.",
          table(["student", "fed by the generator", "fed one constant batch",
                 "ratio, at most 1.03"], rows),
          "Largest memory of the process, MiB:",
          table(["student", "constant batch", "the arrays", "generator",
                 "more than both, at most 300"], memory),
          versions("keras", "tensorflow-cpu", "jax", "torch", "numba", "numpy"))


if __name__ == "__main__":
    main()
