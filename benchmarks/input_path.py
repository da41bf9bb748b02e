"""Does a training step wait for its batch? And how much memory does feeding it take?

    python benchmarks/input_path.py data/toy           # any data set of step 1

Measured is `fit` as the student is trained: labelled and pseudo-labelled images joined, shuffled, mirrored and shifted, under
RandAugment. Against it stands `fit` on one batch that is on the device already, again and again.

Writes results/benchmarks/input_path.md (on a GPU: results/benchmarks/input_path-gpu.md)
"""

import argparse
import itertools
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
from measure import gpu_name, in_turns, peak_memory, spread, table, versions, write

PSEUDO, POOL = 20_000, 8_000  # drawn from so many pseudo-labelled images
GPU = bool(gpu_name())
CASES = {  # depth, width, batch size, steps per round
    "the article's network, batch 512": (50, 1.0, 512, 40),
    "depth 14, width 1/4, batch 512": (14, 0.25, 512, 200),
} if GPU else {
    "the article's network, batch 8": (50, 1.0, 8, 4),
    "depth 14, width 1/4, batch 64": (14, 0.25, 64, 16),
    "depth 14, width 1/16, batch 64": (14, 0.0625, 64, 64),
}


def student(depth, width, classes, steps):
    import cifar10_resnet50 as step1
    import keras
    from stochastic_resblock import build_student

    if step1.has_bfloat16():  # as --recipe fast would
        keras.config.set_dtype_policy("mixed_bfloat16")
    model = build_student(depth, width, classes)
    step1.compile_model(model, step1.RECIPES["fast"], learning_rate=1e-3, steps=1000 * steps)
    return model


def endless_fit(model, batches, batch_size, steps):
    """A function that trains `steps` steps on, and returns how many images those were."""
    def work():
        model.fit(batches, steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0)
        return steps * batch_size
    return work


def fed_by_generator(folder, depth, width, batch_size, steps):
    import cifar10_resnet50 as step1
    from data_generator import data_generator

    step1.prepare_backend(0)
    data, rng = step1.load_data(folder), np.random.default_rng(0)
    pool = rng.integers(0, 256, (POOL, 32, 32, 3), dtype=np.uint8)
    soft = rng.dirichlet(np.ones(data.num_classes), POOL).astype(np.float32)
    index = rng.integers(0, POOL, PSEUDO)
    x = step1.JoinedRows((data.x, data.train), (pool, index))
    y = step1.JoinedRows((data.one_hot(data.y), data.train), (soft, index))

    def batches():
        return data_generator(x, y, batch_size, True, flip_and_crop=True)
    return endless_fit(student(depth, width, data.num_classes, steps), step1.feed(batches, batch_size), batch_size, steps)


def fed_by_constant(classes, depth, width, batch_size, steps):
    import cifar10_resnet50 as step1
    import keras

    step1.prepare_backend(0)
    model, rng = student(depth, width, classes, steps), np.random.default_rng(0)
    batch = (keras.ops.convert_to_tensor(rng.integers(0, 256, (batch_size, 32, 32, 3), dtype=np.uint8)),
             keras.ops.convert_to_tensor(np.eye(classes, dtype=np.float32)[rng.integers(0, classes, batch_size)]))
    return endless_fit(model, step1.feed(lambda: itertools.repeat(batch), batch_size), batch_size, steps)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="cifar10, or a folder train/<class>/*, test/<class>/*")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)

    import cifar10_resnet50 as step1

    data = step1.load_data(args.data)
    arrays = (data.x.nbytes + data.x_test.nbytes + POOL * 32 * 32 * 3 + (len(data.y) + POOL) * data.num_classes * 4) / 2**20
    rows, memory = [], []
    for case, numbers in CASES.items():
        contenders = {"generator": (fed_by_generator, args.data, *numbers), "constant": (fed_by_constant, data.num_classes, *numbers)}
        rates, absent = in_turns(contenders, args.rounds, seconds=0)
        if absent:
            raise SystemExit(f"error: {absent}")
        *_, batch_size, _ = numbers
        step_time = {name: 1000 * batch_size / rate for name, rate in rates.items()}
        rows.append([case, *(spread(step_time[name]) for name in contenders), spread(step_time["generator"] / step_time["constant"], 3)])
        generator, constant = (peak_memory(*contender) for contender in contenders.values())
        memory.append([case, f"{constant:,.0f}", f"{arrays:,.0f}", f"{generator:,.0f}", f"{generator - constant - arrays:,.0f}"])
    write("input_path-gpu" if GPU else "input_path", "What a training step waits for",
          f"Milliseconds per step: median (range) of {args.rounds} rounds in turns, {len(data.train):,} labelled images and {PSEUDO:,} draws "
          f"of {POOL:,} pseudo-labelled ones.",
          table(["student", "fed by the generator", "fed one constant batch", "ratio, at most 1.03"], rows),
          "Largest memory of the process, MiB:",
          table(["student", "constant batch", "the arrays", "generator", "more than both, at most 300"], memory),
          versions("keras", "tensorflow-cpu", "jax", "torch", "numba", "numpy"))


if __name__ == "__main__":
    main()
