"""How soon does a network reach 80, 85 and 90 % on CIFAR-10?

    python benchmarks/time_to_accuracy.py --data data-real/cifar10 --passes 8

All labels, flip and crop, no other noise. The small network with its recipe is beside the article's
kind of network (ResNet14, width 1/4) with the article's recipe at the same FLOP, and beside the
same network and recipe as a plain PyTorch program (pip install -r benchmarks/requirements.txt); a
second small network averages its weights (--averaging of step 1), and the average is looked at. The
test images are looked at after every pass, as a yardstick of speed: they choose nothing, and the
seconds that it takes do not count. Contenders that are finished are kept in
results/time_to_accuracy.json.

Writes results/time_to_accuracy.md
"""

import argparse
import functools
import shlex
import sys
import time
from dataclasses import replace

from measure import ROOT, machine, remembered, table, versions

from noisy_student import onednn

onednn.choose("small", 1.0)

import keras
import numpy as np
from ladder import accuracy, train
from training import Network, flops_of, optimizer_in_torch, small_in_torch

from cifar10_resnet50 import RECIPES, Triangle, build_resnet, smooth_labels
from data_generator import data_generator
from noisy_student import backend
from noisy_student.batches import made_ahead
from noisy_student.data import load_data
from small_network import build_small, whiten

GOALS = (0.80, 0.85, 0.90)
# An average of about the last fifty of the 87 steps of a pass.
AVERAGING = 0.98


def sprint(data, passes):
    """The small network's recipe, for so many passes over the labelled images."""
    steps = len(data.train) // RECIPES["sprint"].batch_size
    return replace(RECIPES["sprint"], epochs=passes, steps_per_epoch=steps)


def small(data, passes):
    """The small network, and its recipe."""
    model = build_small(1.0, data.num_classes)
    whiten(model, data.x[data.train])
    return model, sprint(data, passes)


def averaged(data, passes):
    """The small network, and its recipe with averaged weights."""
    model, recipe = small(data, passes)
    return model, replace(recipe, averaging=AVERAGING)


def resnet14(data, passes):
    """ResNet14, width 1/4, and the article's recipe, for as many FLOP as the small network."""
    model = build_resnet(14, 0.25, data.num_classes)
    share = flops_of(build_small(1.0, data.num_classes)) / flops_of(model)
    recipe = RECIPES["article"]
    steps = round(share * len(data.train) / recipe.batch_size)
    # Flip and crop, which the article does not have, so that only network and recipe differ.
    return model, replace(recipe, epochs=passes, steps_per_epoch=steps, flip_and_crop="always")


def with_keras(build, data, seed, passes, look):
    """Trains build(data, passes). Returns: FLOP an image."""
    keras.utils.set_random_seed(seed)
    model, recipe = build(data, passes)
    averages = keras.callbacks.SwapEMAWeights() if recipe.averaging else keras.callbacks.Callback()
    averages.set_model(model)

    def when(images, seconds):
        averages.on_test_begin()
        look(images, seconds, accuracy(model, data))
        averages.on_test_end()

    train(model, data, recipe, seed, when)
    return flops_of(model)


def with_torch(data, seed, passes, look):
    """Trains the small network without Keras, on the same batches. Returns: FLOP an image.

    PyTorch's momentum is multiplied by the rate of each step, Keras' holds that of earlier ones.
    """
    import torch

    torch.manual_seed(seed)
    network, recipe = Network("small"), sprint(data, passes)
    model = small_in_torch(network, data.x[data.train]).to(memory_format=torch.channels_last)
    optimizer = optimizer_in_torch(model, network)
    rates = [group["lr"] for group in optimizer.param_groups]
    shape = Triangle(1.0, recipe.epochs * recipe.steps_per_epoch)
    labels = smooth_labels(data.one_hot(data.y), recipe.label_smoothing)

    def as_floats(images):
        return torch.from_numpy(images).permute(0, 3, 1, 2) / 255

    batches = made_ahead(data_generator(data.x[data.train], labels[data.train], recipe.batch_size,
                                        False, seed, crop="always"))
    seconds, began = 0.0, time.process_time()
    for step in range(recipe.epochs * recipe.steps_per_epoch):
        x, t = next(batches)
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * float(shape(step))
        loss = torch.nn.functional.cross_entropy(model(as_floats(x)), torch.from_numpy(t))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (step + 1) % recipe.steps_per_epoch == 0:
            seconds += time.process_time() - began
            model.eval()
            with torch.no_grad():
                said = [model(as_floats(part)).argmax(1).numpy()
                        for part in np.array_split(data.x_test, 20)]
            model.train()
            look((step + 1) * recipe.batch_size, seconds,
                 float((np.concatenate(said) == data.y_test).mean()))
            began = time.process_time()
    batches.close()
    return flops_of(build_small(1.0, data.num_classes))


# Each trains, calls look(images, CPU seconds, accuracy) after every pass, and returns its FLOP.
CONTENDERS = {
    "small network, recipe sprint": functools.partial(with_keras, small),
    f"averaged weights ({AVERAGING}): small network, recipe sprint":
        functools.partial(with_keras, averaged),
    "ResNet14 of width 1/4, recipe article": functools.partial(with_keras, resnet14),
    "plain PyTorch: small network, recipe sprint": with_torch,
}


def run(train_one, data, seed, passes):
    """Trains one contender. Returns: after each pass images, CPU seconds and accuracy; and FLOP."""
    rows = []

    def look(images, seconds, right):
        rows.append((images, seconds, right))
        print(f"{images:,} images, {seconds / 60:.1f} CPU minutes: {100 * right:.2f} %", flush=True)

    flops = train_one(data, seed, passes, look)
    return {"rows": rows, "flops": flops, "passes": passes}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--passes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME",
                        help="contenders whose names begin with one of these")
    args = parser.parse_args()
    backend.prepare(0)
    path = ROOT / "results" / "time_to_accuracy.json"
    # Not loaded where all contenders are finished.
    data, kept = functools.cache(lambda: load_data(args.data)), {}
    for name, train_one in CONTENDERS.items():
        if not name.startswith(tuple(args.only)):
            continue
        key = f"{name}, {args.passes} passes, seed {args.seed}"
        print(key)
        kept[name] = remembered(path, key, lambda train_one=train_one: run(
            train_one, data(), args.seed, args.passes))
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
        f"`{shlex.join(['python', 'benchmarks/time_to_accuracy.py', *sys.argv[1:]])}`, on "
        f"{machine()}.",
        "All labels, flip and crop, one seed. CPU minutes are those of all threads together: of two"
        " idle cores, half as many minutes.",
        table(head, lines), versions("keras", "tensorflow-cpu", "tensorflow", "torch", "numpy")])
    (ROOT / "results" / "time_to_accuracy.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
