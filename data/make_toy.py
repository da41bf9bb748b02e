"""Draws a small data set: ten kinds of shapes, 32x32 pixels, in ordinary image folders.

    python data/make_toy.py data/toy

Every picture differs in place, size, turn, outline, colours, background, scribble and noise; a small
network makes honest mistakes on them. The unlabelled pictures are of the same kind, and about one in eight
of them shows something else, as photos from the internet would.

Writes  data/toy/train/<class>/*.png   1,000 to learn from
        data/toy/test/<class>/*.png    1,000 to measure with
        data/toy/unlabeled/*.png       3,000 without label; truth.csv knows them, to audit with
        data/toy/overview.png          what it all looks like
"""

import argparse
import csv
import os
import pathlib
import shutil
import sys

import numpy as np
from PIL import Image, ImageDraw

SIZE, SCALE = 32, 4  # drawn four times as large, then shrunk: smooth edges


def turned(points, angle):
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


def regular(corners, turn=0.0):
    """A regular polygon with radius 1."""
    angle = np.arange(corners) * 2 * np.pi / corners + turn
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def star(points, inner):
    outline = regular(2 * points)
    outline[1::2] *= inner
    return outline


# Outlines within radius 1. A ring and a frame have a hole, a second outline.
CROSS = np.array([(-.35, -1), (.35, -1), (.35, -.35), (1, -.35), (1, .35), (.35, .35), (.35, 1), (-.35, 1), (-.35, .35),
                  (-1, .35), (-1, -.35), (-.35, -.35)]) * 0.9
ARROW = np.array([(-1, -.28), (.1, -.28), (.1, -.75), (1, 0), (.1, .75), (.1, .28), (-1, .28)])
T = np.linspace(0, 2 * np.pi, 40, endpoint=False)
HEART = np.stack([16 * np.sin(T) ** 3, -(13 * np.cos(T) - 5 * np.cos(2 * T) - 2 * np.cos(3 * T) - np.cos(4 * T))], 1) / 17
CRESCENT = np.concatenate([regular(40)[5:36], (regular(40) * 0.78 + (0.45, 0))[31:9:-1]])
SHAPES = {
    "arrow": (ARROW,),
    "circle": (regular(40),),
    "crescent": (CRESCENT,),
    "cross": (CROSS,),
    "frame": (regular(4, np.pi / 4) * 1.1, regular(4, np.pi / 4) * 0.62),
    "heart": (HEART,),
    "ring": (regular(40), regular(40) * 0.58),
    "square": (regular(4, np.pi / 4) * 1.1,),
    "star": (star(5, 0.45),),
    "triangle": (regular(3, -np.pi / 2) * 1.1,),
}


def colour(rng, brightness):
    """A random colour of a given mean brightness, 0..255."""
    tint = rng.uniform(-40, 40, 3)
    return brightness + tint - tint.mean()


def covered(draw_on):
    """Draws on a large mask and shrinks it: how much of each pixel is covered, 0..1, (32, 32, 1)."""
    mask = Image.new("L", (SIZE * SCALE, SIZE * SCALE))
    draw_on(ImageDraw.Draw(mask))
    return np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float64)[..., None] / 255


def picture(shape, rng):
    """One picture, uint8 (32, 32, 3). A shape of None draws something that is of no class."""
    side = SIZE * SCALE
    # The ground: dark, brighter to one side, with waves.
    yy, xx = np.mgrid[0:SIZE, 0:SIZE] / SIZE - 0.5
    angle, frequency = rng.uniform(0, 2 * np.pi, 2), rng.uniform(2, 6)
    slope = (xx * np.cos(angle[0]) + yy * np.sin(angle[0])) + rng.uniform(0, 0.3) * np.sin(
        frequency * 2 * np.pi * (xx * np.cos(angle[1]) + yy * np.sin(angle[1])))
    pixels = colour(rng, rng.uniform(40, 100)) + slope[..., None] * rng.uniform(10, 60)

    def scribble(lines):
        nonlocal pixels
        for _ in range(lines):
            points, width = rng.uniform(0, side, (2, 2)), int(rng.integers(3, 8))
            cover = covered(lambda draw: draw.line([tuple(point) for point in points], fill=255, width=width))
            pixels = pixels + cover * (colour(rng, rng.uniform(40, 190)) - pixels)

    # The shape, brighter than the ground, between scribbles below and above it.
    scribble(rng.integers(0, 3))
    centre, radius, turn = side / 2 + rng.uniform(-20, 20, 2), rng.uniform(26, 50), rng.uniform(-0.5, 0.5)
    if shape is None:  # a heap of random corners
        outlines = [rng.uniform(-1, 1, (4, 2)) for _ in range(rng.integers(2, 5))]
    else:
        outlines = [outline * (rng.uniform(0.8, 1), 1) + rng.normal(0, 0.04, outline.shape) * (len(outline) < 20)
                    for outline in SHAPES[shape]]

    def draw_shape(draw):
        for number, outline in enumerate(outlines):
            points = [tuple(point) for point in turned(outline, turn) * radius + centre]
            draw.polygon(points, fill=0 if shape and number else 255)  # the second outline of a shape is its hole

    pixels = pixels + covered(draw_shape) * (colour(rng, rng.uniform(120, 220)) - pixels)
    scribble(rng.integers(0, 2))
    return np.clip(pixels + rng.normal(0, rng.uniform(4, 20), pixels.shape), 0, 255).round().astype(np.uint8)


def draw_set(folder, per_class_train, per_class_test, unlabeled, seed):
    """Writes the whole data set below `folder`."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", per_class_train), ("test", per_class_test)):
        for shape in SHAPES:
            (folder / part / shape).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(picture(shape, rng)).save(folder / part / shape / f"{i:04d}.png", compress_level=1)
    (folder / "unlabeled").mkdir()
    with open(folder / "truth.csv", "w", newline="", encoding="utf-8") as file:
        truth = csv.writer(file)
        for i in range(unlabeled):
            shape = None if rng.random() < 1 / 8 else list(SHAPES)[rng.integers(len(SHAPES))]
            Image.fromarray(picture(shape, rng)).save(folder / "unlabeled" / f"{i:04d}.png", compress_level=1)
            truth.writerow([f"{i:04d}.png", shape or "none of these"])


def overview(folder):
    """A row of training pictures per class, and the unlabelled ones below."""
    rows = [sorted((folder / "train" / shape).iterdir()) for shape in SHAPES] + [sorted((folder / "unlabeled").iterdir())]
    sheet = Image.new("RGB", (16 * 34, len(rows) * 34), "white")
    for r, paths in enumerate(rows):
        for c, path in enumerate(paths[:16]):
            sheet.paste(Image.open(path), (c * 34, r * 34))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(folder / "overview.png")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--per-class-train", type=int, default=100)
    parser.add_argument("--per-class-test", type=int, default=100)
    parser.add_argument("--unlabeled", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if min(args.per_class_train, args.per_class_test, args.unlabeled) < 1 or args.seed < 0:
        parser.error("numbers of pictures must be 1 or more, and the seed 0 or more")
    if args.folder.exists():
        print(f"{args.folder} is there already; delete it to draw another")
        return
    beside = args.folder.with_name(f".unfinished-{args.folder.name}")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        draw_set(beside, args.per_class_train, args.per_class_test, args.unlabeled, args.seed)
        overview(beside)
        os.replace(beside, args.folder)  # the data set appears whole or not at all
    except OSError as error:
        sys.exit(f"error: {error.filename or beside}: {error.strerror}")
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print(f"{args.folder}: {10 * args.per_class_train:,} training, {10 * args.per_class_test:,} test and "
          f"{args.unlabeled:,} unlabelled pictures; look at {args.folder / 'overview.png'}")


if __name__ == "__main__":
    main()
