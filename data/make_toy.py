"""Draws a small data set: ten kinds of shapes, 32x32 pixels, in ordinary image folders.

    python data/make_toy.py data/toy

Every picture differs in place, size, turn, outline, colours, background, scribble and noise; a small
network makes honest mistakes on them. The unlabelled pictures are of the same kind, and about one in eight
of them shows something else, as photos from the internet would.

Writes  data/toy/train/<class>/*.png   1,000 to learn from
        data/toy/test/<class>/*.png    2,000 to measure with
        data/toy/unlabeled/*.png       4,000 without label; truth.csv knows them, to audit with
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
    tint = rng.uniform(-45, 45, 3)
    return np.clip(brightness + tint - tint.mean(), 0, 255)


def picture(shape, rng):
    """One picture, uint8 (32, 32, 3). A shape of None draws something that is of no class."""
    side = SIZE * SCALE
    # A background that changes from one side to the other, with waves in it.
    yy, xx = np.mgrid[0:side, 0:side] / side - 0.5
    angle, frequency = rng.uniform(0, 2 * np.pi, 2), rng.uniform(2, 9)
    slope = (xx * np.cos(angle[0]) + yy * np.sin(angle[0])) + rng.uniform(0, 0.35) * np.sin(
        frequency * 2 * np.pi * (xx * np.cos(angle[1]) + yy * np.sin(angle[1])))
    dark, bright = rng.uniform(50, 110), rng.uniform(125, 215)
    if rng.random() < 0.3:  # a dark shape on a bright ground is the rarer case
        dark, bright = bright, dark
    ground = colour(rng, dark) + slope[..., None] * rng.uniform(-60, 60, 3)
    image = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)

    def scribble(lines):
        for _ in range(lines):
            draw.line([tuple(point) for point in rng.uniform(0, side, (3, 2))], width=int(rng.integers(2, 9)),
                      fill=tuple(int(v) for v in colour(rng, rng.uniform(40, 215))))

    scribble(rng.integers(0, 4))
    centre, radius, turn = side / 2 + rng.uniform(-26, 26, 2), rng.uniform(22, 50), rng.uniform(-0.9, 0.9)
    stretch = np.array([rng.uniform(0.75, 1), 1])
    fill = tuple(int(v) for v in colour(rng, bright))
    if shape is None:
        for _ in range(rng.integers(2, 6)):  # a heap of random corners
            draw.polygon([tuple(point) for point in centre + rng.uniform(-radius, radius, (4, 2))], fill=fill)
    else:
        mask = Image.new("L", image.size)
        for level, outline in zip((255, 0), SHAPES[shape]):
            outline = outline + rng.normal(0, 0.05, outline.shape) * (len(outline) < 20)
            points = turned(outline * stretch, turn) * radius + centre
            ImageDraw.Draw(mask).polygon([tuple(point) for point in points], fill=level)
        image.paste(fill, mask=mask)
    scribble(rng.integers(0, 3))
    small = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float64)
    return np.clip(small + rng.normal(0, rng.uniform(4, 22), small.shape), 0, 255).round().astype(np.uint8)


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
    parser.add_argument("--per-class-test", type=int, default=200)
    parser.add_argument("--unlabeled", type=int, default=4000)
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
