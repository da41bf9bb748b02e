"""Step 4, the noise on the image: RandAugment (Cubuk et al. 2020), one image at a time, in Pillow.

    python Rand_Augment.py photo.jpg               # the gallery of all operations on one picture
    python Rand_Augment.py                         # on a picture drawn here

RandAugment draws N (Numbers) of thirteen operations, each with a random level below M
(max_Magnitude; in the paper, every one has strength M) and a random direction, and applies them one
after the other. A class survives all of them: a cat that is turned and pale is a cat. So the label
still holds, and a student that has to give it for every version of an image cannot rely on pixels;
it has to learn what the versions share.

noisy_student/compiled_augment.py does the same to a whole batch, without waiting for Pillow.

Writes  figures/rand_augment.png, the gallery
"""

from noisy_student import arguments

if __name__ == "__main__":
    # Before numba is imported, which takes a second.
    args = arguments.augment(__doc__)

import os
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from noisy_student import compiled_augment
from noisy_student.files import UserError, reading, run_script
from noisy_student.images import FORMATS

# What a turned or shifted image leaves uncovered. Article: 128, which is dark red. Here: grey.
GREY = (128, 128, 128)
# Level 0 is a tenth of an operation's strongest effect, and 9 all of it, so that even level 0 does
# something. autocontrast and equalize have one strength; posterize keeps whole bits.
LEVELS = 10


def enhance(what, image, m):
    """what: a class of ImageEnhance; its effect is weakened by m below 0, strengthened above."""
    return what(image).enhance(1 + m)


def affine(image, coefficients, resample=Image.Resampling.NEAREST):
    """Pixel (x, y) comes from (a x + b y + c, d x + e y + f); coefficients: (a, b, c, d, e, f)."""
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, resample,
                           fillcolor=GREY)


def shear(image, x, y):
    return affine(image, (1, x, 0, y, 1, 0), Image.Resampling.BICUBIC)


def translate(image, x, y):
    return affine(image, (1, 0, round(x * image.width), 0, 1, round(y * image.height)))


class Operation(NamedTuple):
    """function(image, magnitude), ten magnitudes from weak to strong, and whether -m is one too."""

    function: object
    magnitudes: tuple
    two_ways: bool = False


def up_to(strongest):
    """Ten magnitudes in equal steps, the last the strongest."""
    return tuple(strongest * k / LEVELS for k in range(1, LEVELS + 1))


# A new operation is a new line: its function, ten magnitudes, and True if it has two directions.
# The ranges are the article's, unless a comment says otherwise.
OPERATIONS = {
    "autocontrast": Operation(lambda image, m: ImageOps.autocontrast(image), (0,) * LEVELS),
    # Article: gives the image back as it was. Here: equalizes.
    "equalize": Operation(lambda image, m: ImageOps.equalize(image), (0,) * LEVELS),
    # Degrees. Article: 0..360, one way only, so that the strongest is a full turn, that is none at
    # all. Here: up to 30, either way.
    "rotate": Operation(lambda image, m: image.rotate(m, fillcolor=GREY), up_to(30), True),
    # Pixels from this value on are inverted. Article: 256..231, which leaves nearly all as they
    # are. Here: the strongest inverts all.
    "solarize": Operation(ImageOps.solarize, tuple(round(256 - m) for m in up_to(256))),
    "color": Operation(partial(enhance, ImageEnhance.Color), up_to(0.9), True),
    # Bits kept, as plain int: Pillow takes 40 times longer with NumPy's. Article: the first two
    # levels keep all 8. Here: none does.
    "posterize": Operation(ImageOps.posterize, (7, 7, 6, 6, 6, 5, 5, 4, 4, 4)),
    "contrast": Operation(partial(enhance, ImageEnhance.Contrast), up_to(0.5), True),
    "brightness": Operation(partial(enhance, ImageEnhance.Brightness), up_to(0.3), True),
    "sharpness": Operation(partial(enhance, ImageEnhance.Sharpness), up_to(0.9), True),
    "shearX": Operation(lambda image, m: shear(image, m, 0), up_to(0.3), True),
    "shearY": Operation(lambda image, m: shear(image, 0, m), up_to(0.3), True),
    # A share of the side. Article: up to 0.2 in parts of pixels, rounded by the resampling, so that
    # neighbouring levels are the same. Here: 1..10 whole pixels of 32, RandAugment's own range.
    "translateX": Operation(lambda image, m: translate(image, m, 0), up_to(10 / 32), True),
    "translateY": Operation(lambda image, m: translate(image, 0, m), up_to(10 / 32), True),
}
# Article: `invert` is defined and never drawn. Here: it is gone; the strongest solarize is it.


class Rand_Augment:
    """RandAugment. Drawing and applying are apart: the same draw must always give the same pixels.

    Args:
        Numbers: operations per image, N. Default: half of those there are; the article uses 2.
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
        """Draws for `batch` images, independently for each, from rng or else from self.rng.

        Returns: three int8 arrays (batch, Numbers): operation (index into self.transforms), level
            (0..9) and sign (-1 or 1).
        """
        rng = rng or self.rng
        shape = (batch, self.Numbers)
        operations = rng.integers(len(self.transforms), size=shape, dtype=np.int8)
        levels = rng.integers(self.max_Magnitude, size=shape, dtype=np.int8)
        signs = rng.integers(2, size=shape, dtype=np.int8) * 2 - 1
        return operations, levels, signs

    def rand_augment(self):
        """Draws for one image: a list of (operation name, level 0..9, sign -1 or 1)."""
        row = zip(*(numbers[0].tolist() for numbers in self.draw(1)))
        return [(self.transforms[o], level, sign) for o, level, sign in row]

    def __call__(self, image):
        """RGB Pillow image -> RGB Pillow image of the same size, by a draw of its own."""
        for op_name, level, sign in self.rand_augment():
            image = self.test_single_operation(image, op_name, level, sign)
        return image

    def apply(self, image, operations, levels, signs):
        """Applies one image's row of a draw: three sequences of length Numbers."""
        for o, level, sign in zip(operations, levels, signs):
            image = self.test_single_operation(image, self.transforms[o], level, sign)
        return image

    def apply_batch(self, x, draw):
        """Applies a draw to uint8 (B, 32, 32, 3), and returns such, by compiled code."""
        return compiled_augment.apply(self, x, draw)

    def operation(self, op_name):
        """Raises: ValueError, where there is none of that name."""
        if op_name not in OPERATIONS:
            raise ValueError(f"op_name must be one of {', '.join(OPERATIONS)}; got {op_name!r}")
        return OPERATIONS[op_name]

    def magnitude(self, op_name, level, sign):
        _, magnitudes, two_ways = self.operation(op_name)
        return magnitudes[level] * int(sign) if two_ways else magnitudes[level]

    def test_single_operation(self, image, op_name, M=-1, sign=1):
        """Applies one operation at level M (0..9; -1 is the strongest), in direction `sign`."""
        return self.operation(op_name).function(image, self.magnitude(op_name, M, sign))


def main(args):
    from noisy_student import figures

    image = figures.little_house()
    if args.image:
        if not os.path.isfile(args.image):
            raise UserError(f"{args.image}: no such file")
        with reading(args.image), Image.open(args.image, formats=FORMATS) as opened:
            # The middle square of it, upright.
            image = ImageOps.exif_transpose(opened).convert("RGB")
            image = ImageOps.fit(image, (min(image.size),) * 2)
    figures.gallery(image, Rand_Augment(), OPERATIONS, args.out)
    print(f"picture: {args.out}")


if __name__ == "__main__":
    run_script(main, args)
