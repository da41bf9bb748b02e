"""How soon does a network reach 80, 85 and 90 % on CIFAR-10?

    python benchmarks/time_to_accuracy.py --data data-real/cifar10 --passes 8

All labels, flip and crop, no other noise. The small network with its recipe is beside the article's
kind of network (ResNet14, width 1/4) with the article's recipe at the same FLOP. The test images
are looked at after every pass, as a yardstick of speed: they choose nothing, and the seconds that
it takes do not count. Contenders that are finished are kept in results/time_to_accuracy.json.

Writes results/time_to_accuracy.md
"""

import argparse
import functools
from dataclasses import replace

from measure import ROOT, machine, remembered, table, versions

from noisy_student import onednn

onednn.choose("small", 1.0)

import keras
from ladder import accuracy, train
from training import flops_of

from cifar10_resnet50 import RECIPES, build_resnet
from noisy_student import backend
from noisy_student.data import load_data
from small_network import build_small, whiten

GOALS = (0.80, 0.85, 0.90)


def small(data, passes):
    """The small network with its recipe: the network, the recipe, and its FLOP an image."""
    model = build_small(1.0, data.num_classes)
    whiten(model, data.x[data.train])
    steps = len(data.train) // RECIPES["sprint"].batch_size
    return model, replace(RECIPES["sprint"], epochs=passes, steps_per_epoch=steps)


def resnet14(data, passes):
    """ResNet14, width 1/4, with the article's recipe, for as many FLOP as the small network."""
    model = build_resnet(14, 0.25, data.num_classes)
    share = flops_of(build_small(1.0, data.num_classes)) / flops_of(model)
    recipe = RECIPES["article"]
    steps = round(share * len(data.train) / recipe.batch_size)
    # Flip and crop, which the article does not have, so that only network and recipe differ.
    return model, replace(recipe, epochs=passes, steps_per_epoch=steps, flip_and_crop="always")


CONTENDERS = {"small network, recipe sprint": small,
              "ResNet14 of width 1/4, recipe article": resnet14}


def run(build, data, seed, passes):
    """Trains one contender. Returns: after each pass images, CPU seconds and accuracy; and FLOP."""
    keras.utils.set_random_seed(seed)
    model, recipe = build(data, passes)
    rows = []

    def look(images, seconds):
        rows.append((images, seconds, accuracy(model, data)))
        print(f"{images:,} images, {seconds / 60:.1f} CPU minutes: {100 * rows[-1][2]:.2f} %",
              flush=True)

    train(model, data, recipe, seed, look)
    return {"rows": rows, "flops": flops_of(model), "passes": passes}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--passes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="contenders whose name begins with this")
    args = parser.parse_args()
    backend.prepare(0)
    path = ROOT / "results" / "time_to_accuracy.json"
    # Not loaded where all contenders are finished.
    data, kept = functools.cache(lambda: load_data(args.data)), {}
    for name, build in CONTENDERS.items():
        if not name.startswith(args.only):
            continue
        key = f"{name}, {args.passes} passes, seed {args.seed}"
        print(key)
        kept[name] = remembered(path, key, lambda build=build: run(
            build, data(), args.seed, args.passes))
    head = ["", "GFLOP an image", "images", "CPU minutes", "accuracy at the end, %",
            *(f"{100 * goal:.0f} % after" for goal in GOALS)]
    lines = []
    for name, result in kept.items():
        images, seconds, last = result["rows"][-1]
        line = [name, f"{result['flops'] / 1e9:.2f}", f"{images:,}", f"{seconds / 60:.0f}",
                f"{100 * last:.2f}"]
        for goal in GOALS:
            reached = [row for row in result["rows"] if row[2] >= goal]
            if not reached:
                line.append("not reached")
                continue
            images, seconds, _ = reached[0]
            line.append(f"{images:,} images, {images * result['flops'] / 1e12:.0f} TFLOP, "
                        f"{seconds / 60:.0f} CPU minutes")
        lines.append(line)
    text = "\n\n".join([
        "# Time to accuracy",
        f"`python benchmarks/time_to_accuracy.py --passes {args.passes} --seed {args.seed}"
        f"{f' --only {args.only}' if args.only else ''}`, on {machine()}.",
        "All labels, flip and crop, one seed. CPU minutes are those of all threads together: of two"
        " idle cores, half as many minutes.",
        table(head, lines), versions("keras", "tensorflow-cpu", "tensorflow", "numpy")])
    (ROOT / "results" / "time_to_accuracy.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
