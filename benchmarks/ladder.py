"""What is each idea of the small network worth? One is taken away at a time.

    python benchmarks/ladder.py --data data-real/cifar10       # any data set of step 1

All labels, flip and crop, no other noise; every row takes the same steps on the same batches. What
is read is the accuracy on the test images at the end of each: a yardstick, which chooses nothing.
Rows that are finished are kept in results/small_network.json, so that the same command goes on.

Writes results/small_network.md
"""

import argparse
import contextlib
import functools
import pathlib
import time
from dataclasses import replace
from unittest import mock

import numpy as np
from measure import ROOT, machine, remembered, table, versions
from scipy.stats import t

from noisy_student import onednn

onednn.choose("small", 1.0)

import keras

import small_network
from cifar10_resnet50 import RECIPES, optimizer_and_schedule, smooth_labels
from data_generator import data_generator
from noisy_student import backend
from noisy_student.data import load_data
from noisy_student.training import predict, seed_generators


def without_residual(x, filters, name, survive=None):
    """small_network.group, in which nothing is led around the second and third convolution."""
    x = small_network.convolution(x, filters, f"{name}_conv1")
    x = keras.layers.MaxPooling2D(2)(x)
    for i in (1, 2, 3):
        if i > 1:
            x = small_network.convolution(x, filters, f"{name}_conv{i}")
        x = small_network.FastBiasNormalization(name=f"{name}_bn{i}")(x)
        x = keras.layers.Activation("gelu")(x)
    return x


def random_beginning():
    """Keras' own for a GELU, in place of small_network.Identity."""
    return keras.initializers.HeNormal()


def not_whitened(model, images):
    """In place of small_network.whiten(): the first convolution begins at random, and learns."""
    model.get_layer("whiten").trainable = True


# Each row: what is changed in small_network.py, and in the recipe.
ROWS = {
    "all of it": ({}, {}),
    "without whitening": ({"whiten": not_whitened}, {}),
    "without identity initialisation": ({"Identity": random_beginning}, {}),
    "without residuals": ({"group": without_residual}, {}),
    "without fast biases": ({"BIAS_FACTOR": 1}, {}),
    "without label smoothing": ({}, {"label_smoothing": 0.0}),
    "without the triangle: a constant rate": ({}, {"schedule": "brakes", "early_stopping": 0}),
    "AdamW in one cycle, as recipe fast": ({}, {
        "optimizer": "adamw", "schedule": "one_cycle", "weight_decay": 0.02, "not_decayed": (),
        "learning_rate": 3e-3}),
    "without flip and crop": ({}, {"flip_and_crop": "never"}),
}


def train(model, data, recipe, seed, when=None):
    """Trains in one go. Returns: the CPU seconds that it took, of all threads together.

    Args:
        when: when(images seen, CPU seconds) is called after each epoch; its own do not count.
    """
    optimizer, _ = optimizer_and_schedule(model, recipe)
    model.compile(optimizer, "categorical_crossentropy", jit_compile=backend.jit_compile())
    labels = smooth_labels(data.one_hot(data.y), recipe.label_smoothing)
    x, y = data.x[data.train], labels[data.train]
    moved = "always" if recipe.flip_and_crop != "never" else "never"

    def batches():
        return data_generator(x, y, recipe.batch_size, False, seed, crop=moved)

    def after_epoch(epoch, logs):
        nonlocal not_counted
        if when:
            now = time.process_time()
            when((epoch + 1) * recipe.steps_per_epoch * recipe.batch_size,
                 now - started - not_counted)
            not_counted += time.process_time() - now

    seed_generators(model, np.random.default_rng(seed))
    started, not_counted = time.process_time(), 0.0
    model.fit(backend.feed(batches, recipe.batch_size), epochs=recipe.epochs, verbose=0,
              steps_per_epoch=recipe.steps_per_epoch, shuffle=False,
              callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=after_epoch)])
    return time.process_time() - started - not_counted


def accuracy(model, data):
    return float((predict(model, data.x_test).argmax(axis=1) == data.y_test).mean())


def measure_row(name, data, seed, width, passes):
    """One row for one seed: {accuracy, CPU seconds, images}."""
    patches, changes = ROWS[name]
    steps = passes * len(data.train) // RECIPES["sprint"].batch_size
    recipe = replace(RECIPES["sprint"], epochs=1, steps_per_epoch=steps, **changes)
    keras.utils.set_random_seed(seed)
    with contextlib.ExitStack() as stack:
        for key, value in patches.items():
            stack.enter_context(mock.patch.object(small_network, key, value))
        model = small_network.build_small(width, data.num_classes)
        small_network.whiten(model, data.x[data.train])
        seconds = train(model, data, recipe, seed)
        return {"accuracy": accuracy(model, data), "seconds": seconds,
                "images": steps * recipe.batch_size}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    backend.prepare(0)
    path = ROOT / "results" / "small_network.json"
    # Not loaded where all rows are finished.
    data = functools.cache(lambda: load_data(args.data))
    kept = {}
    for seed in args.seeds:
        for name in ROWS:
            key = f"{name}, width {args.width:g}, {args.passes} passes, seed {seed}"
            row = kept[name, seed] = remembered(path, key, lambda name=name, seed=seed: measure_row(
                name, data(), seed, args.width, args.passes))
            print(f"{key}: {100 * row['accuracy']:.2f} %, {row['seconds'] / 60:.1f} CPU minutes",
                  flush=True)
    rows = []
    base = np.array([kept["all of it", seed]["accuracy"] for seed in args.seeds])
    for name in ROWS:
        runs = [kept[name, seed] for seed in args.seeds]
        values = np.array([run["accuracy"] for run in runs])
        mean = each = ""
        if name != "all of it":
            differences = 100 * (values - base)
            mean = f"{differences.mean():+.1f}"
            each = ", ".join(f"{difference:+.1f}" for difference in differences)
            if len(differences) > 1:
                low, high = t.interval(0.95, len(differences) - 1, differences.mean(),
                                       differences.std(ddof=1) / len(differences) ** 0.5)
                mean += f" ({low:+.1f} to {high:+.1f})"
        minutes = np.mean([run["seconds"] for run in runs]) / 60
        rows.append([name, f"{100 * values.mean():.2f}", mean, each, f"{minutes:.1f}"])
    images = kept["all of it", args.seeds[0]]["images"]
    text = "\n\n".join([
        "# What each idea of the small network is worth",
        f"`python benchmarks/ladder.py --width {args.width:g} --passes {args.passes} --seeds "
        f"{' '.join(map(str, args.seeds))}`, on {machine()}.",
        f"Width {args.width:g}, all labels, flip and crop, {images:,} images seen ({args.passes} "
        f"passes) in batches of {RECIPES['sprint'].batch_size}. Accuracy on the test images, % "
        f"(mean over seeds {', '.join(map(str, args.seeds))}), and the points that are lost or won "
        "without the idea, with Student's 95 % interval over the seeds."
        + (" One seed is a pilot: it shows nothing." if len(args.seeds) == 1 else ""),
        table(["", "accuracy, %", "difference", "for each seed", "CPU minutes"], rows),
        versions("keras", "tensorflow-cpu", "tensorflow", "numpy")])
    pathlib.Path(ROOT, "results", "small_network.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
