"""How many images a second are labelled, and what holds it up: the decoder or the teacher?

    python benchmarks/labelling.py data/toy/unlabeled           # any folder of small images

Measured from files to labels (find, decode, resize, predict, select), against

- the teacher alone, on images that are in memory, in batches of 256 (model.predict itself is
  slower: on TensorFlow it often waits, at its end, for a thread of tf.data that has nothing to do
  any more);
- the decoder alone, on all cores;
- the article's loop: every image read in turn, then model.predict on one image at a time.

Labelling can be as fast as the slower of the first two where the teacher has a GPU. Where all work
is done by the same cores, it can only be as fast as both one after the other. Both ratios are
given.

Writes results/benchmarks/labelling.md
"""

import argparse
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy as np
from measure import ROOT, in_turns, show, spread, table, versions, write
from PIL import Image

# Pixels of a camera's photo.
MOSAIC = (2048, 1536)
# Pool, network (depth, width), how many images.
CASES = {
    "64x64, the article's network": ("small", (50, 1.0), 256),
    "64x64, depth 14, width 1/16": ("small", (14, 0.0625), 4096),
    f"{MOSAIC[0]}x{MOSAIC[1]}, depth 14, width 1/16": ("large", (14, 0.0625), 512),
}


def network(size):
    from cifar10_resnet50 import build_resnet
    from noisy_student import backend

    backend.prepare(0)
    return build_resnet(*size, num_classes=10)


def label(folder, size):
    from imagenet_dummy_label import Rule, Selection, label_images
    from noisy_student import labels, pool
    from noisy_student.batches import made_ahead

    teacher = network(size)

    def work():
        selection, files = Selection(Rule(), 10), 0
        batches = labels.read_batches([folder], None, pool.check_sources([folder]))
        for batch in made_ahead(label_images(teacher, batches)):
            for picture in batch:
                selection.add(picture)
            files += len(batch)
        return files
    return work

def predict(folder, size):
    from noisy_student import training
    from noisy_student.images import read_images

    teacher = network(size)
    x, _ = read_images(sorted(pathlib.Path(folder).iterdir()))

    def work():
        return len(training.predict(teacher, x))
    return work


def decode(folder, size):
    from noisy_student import images, pool

    return lambda: sum(1 for _ in images.decode_all(pool.find_images(folder)))


def articles_loop(folder, size):
    """Its images were resized by hand beforehand; here that is part of reading them.

    At most 64 images: it takes its time.
    """
    from keras.utils import img_to_array, load_img

    teacher = network(size)
    paths = sorted(pathlib.Path(folder).iterdir())[:64]

    def work():
        x = np.array([img_to_array(load_img(path, target_size=(32, 32))) for path in paths])
        labels = []
        for i in range(len(x)):
            labels.extend(teacher.predict(x[i:i + 1].astype(np.uint8), verbose=0))
        return len(labels)
    return work


CONTENDERS = {"labelled": label, "teacher alone": predict, "decoder alone": decode,
              "the article's loop": articles_loop}


def make_pool(paths, kind, count, folder):
    """`count` JPEGs of 64x64, or of a camera's size, made of the images at `paths`."""
    folder.mkdir()
    across, down = (1, 1) if kind == "small" else (MOSAIC[0] // 64, MOSAIC[1] // 64)
    tiles = [Image.open(path).convert("RGB").resize((64, 64))
             for path in random.Random(0).sample(paths, min(len(paths), 1000))]
    for i in range(count):
        picture = Image.new("RGB", (across * 64, down * 64))
        for y in range(down):
            for x in range(across):
                again, number = divmod(i + y * across + x, len(tiles))
                # Equal pictures would count once.
                tile = Image.blend(tiles[number], tiles[again % len(tiles)], 0.3)
                picture.paste(tile, (x * 64, y * 64))
        picture.save(folder / f"{i:05d}.jpg", quality=90)
    return folder


def peak_memory(pool, teacher, out):
    """Runs the script on a pool.

    Returns: images seen, and the largest memory of its process in MiB.
    """
    command = [sys.executable, ROOT / "imagenet_dummy_label.py", pool,
               "--teacher", teacher, "--threshold", "0", "--per-class-cap", "500", "--out", out]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"error: labelling failed: {text}")
    line = next(line for line in text.splitlines() if line.startswith("labelled"))
    return int(line.split()[1].replace(",", "")), usage.ru_maxrss / 1024


def memories(paths, scratch):
    """peak_memory of a small pool, and of one twelve times as large."""
    show("memory")
    toy, teacher = scratch / "toy", scratch / "teacher"
    for words in (["data/make_toy.py", toy, "--unlabeled", "10"],
                  ["cifar10_resnet50.py", "--data", toy, "--depth", "14", "--width", "0.0625",
                   "--recipe", "fast", "--epochs", "1", "--steps-per-epoch", "1",
                   "--log-dir", teacher]):
        subprocess.run([sys.executable, ROOT / words[0], *words[1:]], check=True,
                       stdout=subprocess.DEVNULL)
    peaks = [peak_memory(make_pool(paths, "small", count, scratch / f"pool-{count}"), teacher,
                         scratch / f"out-{count}") for count in (8_000, 100_000)]
    show("")
    return peaks


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="a folder of images, any nesting")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    paths = sorted(path for path in pathlib.Path(args.images).rglob("*") if path.is_file())
    if not paths:
        sys.exit(f"error: {args.images}: no images in there "
                 "(python data/make_toy.py data/toy draws some)")

    rows, ratios = [], []
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        for number, (case, (kind, size, count)) in enumerate(CASES.items()):
            pool = str(make_pool(paths, kind, count, scratch / f"pool{number}"))
            contenders = {name: (contender, pool, size) for name, contender in CONTENDERS.items()}
            rates, absent = in_turns(contenders, args.rounds, seconds=0)
            if absent:
                sys.exit(f"error: {absent}")
            ours, teacher, decoder, articles = (rates[name] for name in CONTENDERS)
            rows.append([case, *(spread(rates[name]) for name in CONTENDERS)])
            ratios.append([case, spread(ours / articles),
                           spread(ours / np.minimum(teacher, decoder)),
                           spread(ours * (1 / teacher + 1 / decoder))])
        memory = memories(paths, scratch)

    write("labelling", "Labelling, from files to pseudo-labels",
          f"Images per second: median (range) of {args.rounds} rounds in turns.",
          table(["JPEGs, teacher", *CONTENDERS], rows),
          table(["labelled ÷", "the article's loop", "the slower of teacher and decoder (0.9)",
                 "both one after the other, same cores"], ratios),
          "Largest memory of the labelling process, at most 500 images kept per class:",
          table(["images looked at", "MiB"], [[f"{seen:,}", f"{peak:,.0f}"]
                                              for seen, peak in memory]),
          versions("keras", "tensorflow-cpu", "pillow", "numpy"))


if __name__ == "__main__":
    main()
