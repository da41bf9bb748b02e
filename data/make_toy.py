"""Draws a small data set: ten kinds of shapes, 32x32 pixels, in ordinary image folders.

    python data/make_toy.py data/toy

Every picture differs in place, size, turn, outline, colours, background, scribble and noise; a
small network makes honest mistakes on them. The unlabelled pictures are of the same kind, and about
one in eight of them shows something else, as photos from the internet would.

Writes  data/toy/train/<class>/*.png   1,000 to learn from
        data/toy/test/<class>/*.png    1,000 to measure with
        data/toy/unlabeled/*.png       3,000 without label; truth.csv knows them, to audit with
        data/toy/overview.png          what it all looks like
"""

import csv
import os
import pathlib
import shutil
import sys

import numpy as np
from PIL import Image, ImageDraw

# The package lies one folder up.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from noisy_student.arguments import COUNT, number, parser
from noisy_student.files import UNFINISHED, run_script

# Drawn four times as large, then shrunk: smooth edges.
SIZE, SCALE = 32, 4


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
CROSS = np.array([(-.35, -1), (.35, -1), (.35, -.35), (1, -.35), (1, .35), (.35, .35), (.35, 1),
                  (-.35, 1), (-.35, .35), (-1, .35), (-1, -.35), (-.35, -.35)]) * 0.9
ARROW = np.array([(-1, -.28), (.1, -.28), (.1, -.75), (1, 0), (.1, .75), (.1, .28), (-1, .28)])
T = np.linspace(0, 2 * np.pi, 40, endpoint=False)
LOBES = 13 * np.cos(T) - 5 * np.cos(2 * T) - 2 * np.cos(3 * T) - np.cos(4 * T)
HEART = np.stack([16 * np.sin(T) ** 3, -LOBES], 1) / 17
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
    """Draws on a large mask and shrinks it: how much of each pixel is covered, (32, 32, 1) 0..1."""
    mask = Image.new("L", (SIZE * SCALE, SIZE * SCALE))
    draw_on(ImageDraw.Draw(mask))
    mask = mask.resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(mask, dtype=np.float64)[..., None] / 255


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
            line = [tuple(point) for point in points]

            def draw_line(draw, line=line, width=width):
                draw.line(line, fill=255, width=width)

            cover = covered(draw_line)
            pixels = pixels + cover * (colour(rng, rng.uniform(40, 190)) - pixels)

    # The shape, brighter than the ground, between scribbles below and above it.
    scribble(rng.integers(0, 3))
    centre = side / 2 + rng.uniform(-20, 20, 2)
    radius, turn = rng.uniform(26, 50), rng.uniform(-0.5, 0.5)
    if shape is None:
        # A heap of random corners.
        outlines = [rng.uniform(-1, 1, (4, 2)) for _ in range(rng.integers(2, 5))]
    else:
        outlines = []
        for outline in SHAPES[shape]:
            narrowed = outline * (rng.uniform(0.8, 1), 1)
            shaken = rng.normal(0, 0.04, outline.shape) * (len(outline) < 20)
            outlines.append(narrowed + shaken)

    def draw_shape(draw):
        for place, outline in enumerate(outlines):
            points = [tuple(point) for point in turned(outline, turn) * radius + centre]
            # The second outline of a shape is its hole.
            draw.polygon(points, fill=0 if shape and place else 255)

    pixels = pixels + covered(draw_shape) * (colour(rng, rng.uniform(120, 220)) - pixels)
    scribble(rng.integers(0, 2))
    pixels = pixels + rng.normal(0, rng.uniform(4, 20), pixels.shape)
    return np.clip(pixels, 0, 255).round().astype(np.uint8)


def save(path, shape, rng):
    Image.fromarray(picture(shape, rng)).save(path, compress_level=1)


def draw_set(folder, per_class_train, per_class_test, unlabeled, seed):
    """Writes the whole data set below `folder`."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", per_class_train), ("test", per_class_test)):
        for shape in SHAPES:
            (folder / part / shape).mkdir(parents=True)
            for i in range(count):
                save(folder / part / shape / f"{i:04d}.png", shape, rng)
    (folder / "unlabeled").mkdir()
    with open(folder / "truth.csv", "w", newline="", encoding="utf-8") as file:
        truth = csv.writer(file)
        for i in range(unlabeled):
            shape = None if rng.random() < 1 / 8 else list(SHAPES)[rng.integers(len(SHAPES))]
            save(folder / "unlabeled" / f"{i:04d}.png", shape, rng)
            truth.writerow([f"{i:04d}.png", shape or "none of these"])


def overview(folder):
    """A row of training pictures per class, and the unlabelled ones below."""
    folders = [folder / "train" / shape for shape in SHAPES] + [folder / "unlabeled"]
    rows = [sorted(pictures.iterdir()) for pictures in folders]
    sheet = Image.new("RGB", (16 * 34, len(rows) * 34), "white")
    for r, paths in enumerate(rows):
        for c, path in enumerate(paths[:16]):
            sheet.paste(Image.open(path), (c * 34, r * 34))
    sheet = sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST)
    sheet.save(folder / "overview.png")


def arguments(argv=None):
    flags = parser(__doc__)
    flags.add_argument("folder", type=pathlib.Path)
    flags.add_argument("--per-class-train", type=COUNT, default=100)
    flags.add_argument("--per-class-test", type=COUNT, default=100)
    flags.add_argument("--unlabeled", type=COUNT, default=3000)
    flags.add_argument("--seed", type=number(int, 0), default=0)
    return flags.parse_args(argv)


def main(args):
    if args.folder.exists():
        print(f"{args.folder} is there already; delete it to draw another")
        return
    beside = args.folder.with_name(f"{UNFINISHED}{args.folder.name}")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        draw_set(beside, args.per_class_train, args.per_class_test, args.unlabeled, args.seed)
        overview(beside)
        # The data set appears whole or not at all.
        os.replace(beside, args.folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print(f"{args.folder}: {10 * args.per_class_train:,} training, {10 * args.per_class_test:,} "
          f"test and {args.unlabeled:,} unlabelled pictures; "
          f"look at {args.folder / 'overview.png'}")


if __name__ == "__main__":
    run_script(main, arguments())
