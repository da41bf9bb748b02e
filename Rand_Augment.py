"""Step 4, the noise on the image: RandAugment (Cubuk et al. 2020), one image at a time, in Pillow.

    python Rand_Augment.py photo.jpg               # the gallery of all operations on one picture
    python Rand_Augment.py                         # on a picture drawn here

Of thirteen operations, RandAugment draws N (Numbers), each with a random strength below M
(max_Magnitude) and a random direction, and applies them one after the other.

Writes  figures/rand_augment.png, the gallery
"""

import argparse
import os
import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

GREY = (128, 128, 128)  # what a turned or shifted image leaves uncovered. Article: 128, which is dark red
LEVELS = 10  # level 0..9 is 1/10..10/10 of an operation's strongest effect; no level does nothing


def affine(image, coefficients, resample=Image.Resampling.NEAREST):
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, resample, fillcolor=GREY)


def shear_x(image, m):
    return affine(image, (1, m, 0, 0, 1, 0), Image.Resampling.BICUBIC)


def shear_y(image, m):
    return affine(image, (1, 0, 0, m, 1, 0), Image.Resampling.BICUBIC)


def translate_x(image, m):
    return affine(image, (1, 0, round(m * image.width), 0, 1, 0))


def translate_y(image, m):
    return affine(image, (1, 0, 0, 0, 1, round(m * image.height)))


def rotate(image, m):
    return image.rotate(m, fillcolor=GREY)


def up_to(strongest):
    """Ten magnitudes in equal steps, the last the strongest."""
    return tuple(strongest * k / LEVELS for k in range(1, LEVELS + 1))


# Name: function(image, magnitude), ten magnitudes from weak to strong, and whether it has two directions.
# Article's ranges, unless a line says otherwise.
OPERATIONS = {
    "autocontrast": (lambda image, m: ImageOps.autocontrast(image), (0,) * LEVELS, False),
    # Article: the identity.
    "equalize": (lambda image, m: ImageOps.equalize(image), (0,) * LEVELS, False),
    # Degrees. Article: 0..360, one way only: its strongest level is a full turn, that is none at all.
    "rotate": (rotate, up_to(30), True),
    # Pixels from this value on are inverted. Article: 256..231, which leaves nearly all as they are.
    "solarize": (ImageOps.solarize, tuple(round(256 - m) for m in up_to(256)), False),
    "color": (lambda image, m: ImageEnhance.Color(image).enhance(1 + m), up_to(0.9), True),
    # Bits kept, as plain int: Pillow takes 40 times longer with NumPy's. Article: its first two levels keep all 8.
    "posterize": (ImageOps.posterize, tuple(8 - (4 * k + 9) // LEVELS for k in range(1, LEVELS + 1)), False),
    "contrast": (lambda image, m: ImageEnhance.Contrast(image).enhance(1 + m), up_to(0.5), True),
    "brightness": (lambda image, m: ImageEnhance.Brightness(image).enhance(1 + m), up_to(0.3), True),
    "sharpness": (lambda image, m: ImageEnhance.Sharpness(image).enhance(1 + m), up_to(0.9), True),
    "shearX": (shear_x, up_to(0.3), True),
    "shearY": (shear_y, up_to(0.3), True),
    # Of the side: 1..10 whole pixels of 32, RandAugment's own range on CIFAR. Article: parts of pixels up
    # to 0.2 of the side, rounded by the resampling, so that neighbouring levels are the same.
    "translateX": (translate_x, up_to(10 / 32), True),
    "translateY": (translate_y, up_to(10 / 32), True),
}
# Article: `invert` is defined and never drawn. Here it is gone: solarize at its strongest is the same.


class Rand_Augment:
    """RandAugment for one Pillow image.

    Drawing and applying are apart: `draw` says what to do with a whole batch of images, `apply` does it to
    one image. Whoever applies the same draw in another way must get the same pixels.

    Args:
        Numbers: operations per image, N. Default: half of the operations there are; the article uses 2.
        max_Magnitude: levels 0..max_Magnitude-1 are drawn, M. From 1 to 10, the default.
        seed: of the one random generator this instance draws from.
    """

    def __init__(self, Numbers=None, max_Magnitude=None, seed=None):
        self.transforms = list(OPERATIONS)
        self.Numbers = len(self.transforms) // 2 if Numbers is None else Numbers
        self.max_Magnitude = LEVELS if max_Magnitude is None else max_Magnitude
        if self.Numbers < 0:
            raise ValueError(f"Numbers must be 0 or more, got {Numbers}")
        if not 1 <= self.max_Magnitude <= LEVELS:
            raise ValueError(f"max_Magnitude must be from 1 to {LEVELS}, got {max_Magnitude}")
        self.rng = np.random.default_rng(seed)

    def draw(self, batch, rng=None):
        """Draws operations for `batch` images, independently for each.

        Args:
            rng: NumPy Generator; default, this instance's own.

        Returns: three int8 arrays (batch, Numbers): operation (index into self.transforms), level (0..9)
            and sign (-1 or 1).
        """
        rng = rng or self.rng
        shape = (batch, self.Numbers)
        operations = rng.integers(len(self.transforms), size=shape, dtype=np.int8)
        levels = rng.integers(self.max_Magnitude, size=shape, dtype=np.int8)
        signs = rng.integers(2, size=shape, dtype=np.int8) * 2 - 1
        return operations, levels, signs

    def rand_augment(self):
        """Draws for one image: a list of (operation name, level 0..9, sign -1 or 1)."""
        operations, levels, signs = self.draw(1)
        return [(self.transforms[o], int(m), int(s)) for o, m, s in zip(operations[0], levels[0], signs[0])]

    def __call__(self, image):
        """RGB Pillow image -> RGB Pillow image of the same size."""
        for op_name, M, sign in self.rand_augment():
            image = self.test_single_operation(image, op_name, M, sign)
        return image

    def apply(self, image, operations, levels, signs):
        """Applies one image's row of a draw: three sequences of length Numbers."""
        for o, m, s in zip(operations, levels, signs):
            image = self.test_single_operation(image, self.transforms[o], m, s)
        return image

    def test_single_operation(self, image, op_name, M=-1, sign=1):
        """Applies one operation at level M (0..9; -1, the default, is the strongest), in direction `sign`."""
        if op_name not in OPERATIONS:
            raise ValueError(f"op_name must be one of {', '.join(OPERATIONS)}; got {op_name!r}")
        function, magnitudes, two_ways = OPERATIONS[op_name]
        return function(image, magnitudes[M] * int(sign) if two_ways else magnitudes[M])


def gallery(image, path):
    """Draws every operation in a row: the image in the middle, stronger and stronger to either side."""
    from matplotlib.figure import Figure

    side, gap = 48, 4
    image = image.resize((side, side), Image.Resampling.NEAREST if max(image.size) <= side else Image.Resampling.LANCZOS)
    augment = Rand_Augment()
    sheet = Image.new("RGB", ((2 * LEVELS + 1) * (side + gap), len(OPERATIONS) * (side + gap)), "white")
    for row, (name, (_, _, two_ways)) in enumerate(OPERATIONS.items()):
        sheet.paste(image, (LEVELS * (side + gap), row * (side + gap)))
        for level in range(LEVELS):
            for sign in (-1, 1) if two_ways else (1,):
                column = LEVELS + sign * (level + 1)
                sheet.paste(augment.test_single_operation(image, name, level, sign),
                            (column * (side + gap), row * (side + gap)))
    figure = Figure(figsize=(sheet.width / 100 + 1.2, sheet.height / 100 + 0.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="nearest")
    axes.set_xticks([(i + 0.5) * (side + gap) for i in range(2 * LEVELS + 1)],
                    [*(f"-{9 - i}" for i in range(LEVELS)), "as is", *range(LEVELS)])
    axes.set_yticks([(i + 0.5) * (side + gap) for i in range(len(OPERATIONS))], OPERATIONS)
    axes.set_xlabel("level, 0 the weakest; to the left the other direction, where there is one")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".unfinished-{path.name}")  # the picture appears whole or not at all
    try:
        figure.savefig(beside, dpi=100, format="png")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def drawn_picture():
    """A small house under a sun: something to look at without any file."""
    image = Image.new("RGB", (64, 64), (120, 170, 220))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 44, 64, 64), fill=(90, 150, 70))
    draw.ellipse((44, 4, 58, 18), fill=(250, 220, 90))
    draw.rectangle((14, 28, 42, 54), fill=(200, 150, 110))
    draw.polygon([(10, 28), (28, 10), (46, 28)], fill=(150, 50, 40))
    draw.rectangle((24, 38, 32, 54), fill=(80, 50, 40))
    return image


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", help="an image file")
    parser.add_argument("--out", default="figures/rand_augment.png")
    args = parser.parse_args(argv)
    try:
        image = drawn_picture()
        if args.image:
            if not os.path.isfile(args.image):
                sys.exit(f"error: {args.image}: no such file")
            with Image.open(args.image) as opened:
                image = ImageOps.fit(ImageOps.exif_transpose(opened).convert("RGB"), (min(opened.size),) * 2)
        gallery(image, args.out)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        sys.exit(f"error: {args.image or args.out}: {error}")
    print(f"picture: {args.out}")


if __name__ == "__main__":
    main()
