"""RandAugment for a whole batch, compiled by numba: the pixels of Rand_Augment.py, to the bit.

Read Rand_Augment.py to learn what the operations are; this is how they are done without waiting
for Pillow. Some need no code here. Pillow gets a picture whose colours are *places*, and its answer
says where each pixel comes from; or it gets all *values*, and its answer is a lookup table. The
others are written out below.

An operation is known by its name. One that has no line in KINDS, or whose pixels turn out not to be
Rand_Augment's own, is left to Pillow: operations can be added and changed there alone.

Python's lock is released, so that a thread can make the next batch meanwhile. numba compiles when
it is first called (some seconds) and keeps the result on disk.
"""

import functools
from typing import NamedTuple

import numba
import numpy as np
from PIL import Image

(LEFT_TO_PILLOW, POINTWISE, NEAREST, AUTOCONTRAST, EQUALIZE, COLOR, CONTRAST, SHARPNESS, SHEAR_X,
 SHEAR_Y) = range(10)
# How each operation is done. NEAREST: every pixel is some pixel of the image, or grey. POINTWISE:
# a table says what becomes of every value. A new operation of these two kinds is one entry here.
KINDS = {
    "autocontrast": AUTOCONTRAST, "equalize": EQUALIZE, "rotate": NEAREST, "solarize": POINTWISE,
    "color": COLOR, "posterize": POINTWISE, "contrast": CONTRAST, "brightness": POINTWISE,
    "sharpness": SHARPNESS, "shearX": SHEAR_X, "shearY": SHEAR_Y, "translateX": NEAREST,
    "translateY": NEAREST,
}

# An image has SIDE x SIDE pixels, ROW bytes in a row and SIZE bytes in all.
SIDE = 32
PIXELS = SIDE * SIDE
ROW = SIDE * 3
SIZE = PIXELS * 3
# A bicubic filter looks at TAPS pixels. So an image that it goes over has three columns or rows
# more, SHEARED pixels in all.
TAPS = 4
SHEARED = (SIDE + TAPS - 1) * SIDE
# Working memory holds an image and, after it, a grey pixel that stands for all that is outside.
GREY = SIZE + 4
MEMORY = 3 * SHEARED + 32
# A pixel and the byte after it are copied as one word, wherever they begin.
WORD = np.dtype([("bytes", np.uint8, 4)])
# What Pillow gets: all values, in grey; and each pixel's row in red and column in green.
VALUES = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
PLACES = np.moveaxis([*np.mgrid[:SIDE, :SIDE], np.zeros((SIDE, SIDE))], 0, -1).astype(np.uint8)
# (Operations, what make_tables() returned for them) of all that have been asked for.
CACHE = []


def apply(reference, x, draw):
    """Applies a draw to a batch.

    Args:
        reference: the Rand_Augment whose operations are applied.
        x: uint8 (B, 32, 32, 3), 0..255; stays as it is.
        draw: operations, levels and signs, int8 (B, N), of reference.draw(B).

    Returns: uint8 (B, 32, 32, 3): each image as reference.apply makes it.

    Raises: ValueError, where x or the draw is of another shape or range.
    """
    table = [(name, reference.operation(name)) for name in reference.transforms]
    check(table, x, *draw)
    tables, left = tables_of(reference, table)
    out = run_compiled(tables, x, draw)
    if left:
        names = ", ".join(reference.transforms[o] for o in left)
        say_once(f"{names}: not compiled, done by Pillow, many times slower")
        some = np.isin(draw[0], left).any(axis=1)
        out[some] = with_pillow(reference, x[some], [numbers[some] for numbers in draw])
    return out


@functools.cache
def say_once(text):
    print(text)


def check(table, x, operations, levels, signs):
    """Raises: ValueError. Compiled functions do not look whether a place is inside an array."""
    if x.dtype != np.uint8 or x.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"x must be uint8 (B, {SIDE}, {SIDE}, 3), got {x.dtype} {x.shape}")
    shapes = operations.shape, levels.shape, signs.shape
    if len(x) != len(operations) or len({*shapes}) != 1 or operations.ndim != 2:
        raise ValueError(f"x has {len(x)} images, the draw is for {len(operations)}: {shapes}")
    strongest = min([len(operation.magnitudes) for _, operation in table]) - 1
    if not (within(operations, 0, len(table) - 1) and within(levels, 0, strongest)
            and within(np.abs(signs), 1, 1)):
        raise ValueError(f"no such operation or level: operations go from 0 to {len(table) - 1}, "
                         f"levels to {strongest}, signs are -1 and 1; got {np.unique(operations)}, "
                         f"{np.unique(levels)} and {np.unique(signs)}")


def with_pillow(reference, x, draw):
    """What apply() does, by the reference itself, one image after the other."""
    out = np.empty(x.shape, np.uint8)
    for i, (image, *drawn) in enumerate(zip(x, *draw)):
        out[i] = reference.apply(Image.fromarray(image), *drawn)
    return out


def run_compiled(tables, x, draw):
    """What apply() does, but for operations LEFT_TO_PILLOW: these do nothing."""
    out = np.empty(x.shape, np.uint8)
    draw = tuple([np.ascontiguousarray(numbers, np.int8) for numbers in draw])
    memory = np.empty((3, MEMORY), np.uint8)
    words = np.ndarray((3, MEMORY - 3), WORD, memory, strides=(MEMORY, 1))
    augment_batch(np.ascontiguousarray(x).reshape(-1, SIZE), out.reshape(-1, SIZE), draw, tables,
                  memory, words)
    return out


# --- tables: all that does not depend on the image ------------------------------------------------


class Tables(NamedTuple):
    """What the compiled operations look up; for K operations, 10 levels and 2 directions (-1, 1).

    kinds: int8 (K,), of KINDS.
    strengths: float32 (K, 10, 2), what ImageEnhance is given: 1 more than the magnitude.
    lookups: uint8 (K, 10, 2, 3, 256), for POINTWISE what becomes of each colour's values.
    sources: uint16 (K, 10, 2, 1120), for NEAREST and shears the byte at which the source of each
        pixel begins; GREY, where that is outside.
    fractions: float64 (K, 10, 2, 3072), for shears the rest of the movement, 0..1, at each byte;
        -1, where the source is outside.
    """

    kinds: object
    strengths: object
    lookups: object
    sources: object
    fractions: object


def tables_of(reference, table):
    """make_tables(), once for the same operations. table: [(name, Operation)]."""
    for operations, tables in CACHE:
        if operations == table:
            return tables
    CACHE.append((table, make_tables(reference, table)))
    return CACHE[-1][1]


def make_tables(reference, table):
    """Returns: Tables, and a list of the operations that are left to Pillow."""
    shape = len(table), min(len(operation.magnitudes) for _, operation in table), 2
    kinds = np.array([KINDS.get(name, LEFT_TO_PILLOW) for name, _ in table], np.int8)
    strengths, fractions = np.zeros(shape, np.float32), np.zeros((*shape, SIZE))
    lookups = np.zeros((*shape, 3, 256), np.uint8)
    sources = np.zeros((*shape, SHEARED), np.uint16)
    for at in np.ndindex(shape):
        name, level, sign = table[at[0]][0], at[1], (-1, 1)[at[2]]
        kind, magnitude = kinds[at[0]], reference.magnitude(name, level, sign)
        if kind == POINTWISE:
            answer = reference.test_single_operation(Image.fromarray(VALUES), name, level, sign)
            lookups[at] = np.asarray(answer).reshape(256, 3).T
        elif kind == NEAREST:
            answer = reference.test_single_operation(Image.fromarray(PLACES), name, level, sign)
            sources[at][:PIXELS] = sources_in(np.asarray(answer))
        elif kind in (SHEAR_X, SHEAR_Y):
            sources[at], fractions[at] = shear_tables(magnitude, kind == SHEAR_X)
        elif kind in (COLOR, CONTRAST, SHARPNESS):
            strengths[at] = 1 + magnitude
    tables = Tables(kinds, strengths, lookups, sources, fractions)
    # Every compiled operation is tried at every level. Where pixels differ, somebody has changed it
    # in Rand_Augment.py, or Pillow's makers have.
    every = np.indices(shape, np.int8)[:, kinds != LEFT_TO_PILLOW].reshape(3, -1, 1)
    draw = every[0], every[1], 2 * every[2] - 1
    x = np.random.default_rng(0).integers((0, 40, 80), (256, 200, 160), (every.shape[1], PIXELS, 3))
    x = x.astype(np.uint8).reshape(-1, SIDE, SIDE, 3)
    same = run_compiled(tables, x, draw) == with_pillow(reference, x, draw)
    kinds[draw[0][~same.all(axis=(1, 2, 3))]] = LEFT_TO_PILLOW
    return tables, np.flatnonzero(kinds == LEFT_TO_PILLOW).tolist()


def sources_in(picture):
    """Where in PLACES the pixels of uint8 (..., 32, 32, 3) come from, uint16 (..., 1024)."""
    row, column, blue = np.moveaxis(picture.astype(np.uint16), -1, 0)
    sources = np.where(blue == 0, row * ROW + column * 3, GREY)
    return np.minimum(sources, GREY).reshape(*sources.shape[:-2], PIXELS)


def shear_tables(m, along_x):
    """A shear as a movement of every row by whole pixels, and a bicubic filter for the rest.

    Args:
        m: pixels to move by, per pixel. along_x: rows move (shearX); if not, columns (shearY).

    Returns: sources, uint16 (1120,), of the image moved by whole pixels, 32 rows of 35 or 35 rows
        of 32, the edges repeated; and fractions, float64 (3072,).
    """
    # A pixel's middle has a place on the line that moves, and a place across it.
    along, across = np.mgrid[:SIDE, :SIDE] + 0.5
    # In double precision as in Pillow: the last bit decides how a value is rounded down.
    place = along + m * across
    rest = place - 0.5 - np.floor(place - 0.5)
    fractions = np.where((place >= 0) & (place < SIDE), rest, -1)
    # One movement per line, and from there the places of all neighbours on it, (35, 32).
    shift = np.floor(m * across[0]).astype(int)
    taken = np.clip(np.arange(-1, SIDE + TAPS - 2)[:, None] + shift, 0, SIDE - 1)
    sources = taken * ROW + np.arange(SIDE) * 3
    if along_x:
        sources, fractions = (taken * 3 + np.arange(SIDE) * ROW).T, fractions.T
    return sources.ravel(), fractions.repeat(3)


# --- the operations, compiled ---------------------------------------------------------------------
# An image is a row of 3,072 bytes here: red, green, blue of the first pixel, of the second, ...
# Each operation reads src and writes dst. They are written so that the compiler can turn a loop
# into vector instructions: no branches, small types, lengths that are constants.


def compiled(function):
    """numba's njit, kept on disk where that can be written to."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # There is no folder to keep it in.
        return numba.njit(**options)(function)


@compiled
def within(values, low, high):
    for value in values.flat:
        if not low <= value <= high:
            return False
    return True


@compiled
def to_byte(value):
    """float32 or float64 -> uint8, cut off as Pillow does: no rounding."""
    return np.uint8(min(max(np.int32(value), np.int32(0)), np.int32(255)))


@compiled
def to_grey(red, green, blue):
    """Pillow's luminance, in its integers."""
    return np.uint8((np.uint32(19595) * np.uint32(red) + np.uint32(38470) * np.uint32(green)
                     + np.uint32(7471) * np.uint32(blue) + np.uint32(32768)) >> np.uint32(16))


@compiled
def blend(towards, value, strength):
    """Pillow's ImageEnhance, in float32 as there: strength 0 gives `towards`, 1 the value."""
    return to_byte(towards + strength * (np.float32(np.int32(value)) - towards))


@compiled
def copy(src, dst):
    """A slice assignment would first make sure that the two do not overlap."""
    for i in range(SIZE):
        dst[i] = src[i]


@compiled
def look_up(src, dst, table):
    """table: uint8 (3, 256), one row per colour."""
    for i in range(0, SIZE, 3):
        for colour in range(3):
            dst[i + colour] = table[colour, src[i + colour]]


@compiled
def move(src, dst, sources, pixels):
    """Pixel i of dst is the one that begins at byte sources[i] of src. src, dst: as WORDs.

    A word's fourth byte falls on the pixel after it, which is copied next.
    """
    for i in range(pixels):
        dst[3 * i] = src[np.intp(sources[i])]


@compiled
def autocontrast(src, dst):
    table = np.empty((3, 256), np.uint8)
    for colour in range(3):
        low, high = np.uint8(255), np.uint8(0)
        for i in range(colour, SIZE, 3):
            low, high = min(low, src[i]), max(high, src[i])
        low, high = np.int32(low), np.int32(high)
        scale = 255.0 / (high - low) if high > low else 1.0
        offset = -low * scale if high > low else 0.0
        for value in range(256):
            table[colour, value] = to_byte(np.float64(np.int32(value)) * scale + offset)
    look_up(src, dst, table)


@compiled
def equalize(src, dst):
    table, counts = np.empty((3, 256), np.uint8), np.zeros((3, 256), np.uint32)
    for i in range(0, SIZE, 3):
        for colour in range(3):
            counts[colour, src[i + colour]] += np.uint32(1)
    for colour in range(3):
        brightest = 255
        while counts[colour, brightest] == 0:
            brightest -= 1
        step = (np.uint32(PIXELS) - counts[colour, brightest]) // np.uint32(255)
        if step == 0:
            for value in range(256):
                table[colour, value] = value
            continue
        # below // step by a multiplication, which is right up to 1026 // 4.
        below, inverse = step // np.uint32(2), (np.uint32(65535) + step) // step
        for value in range(256):
            table[colour, value] = min((below * inverse) >> np.uint32(16), np.uint32(255))
            below += counts[colour, value]
    look_up(src, dst, table)


@compiled
def color(src, dst, strength):
    for i in range(0, SIZE, 3):
        grey = np.float32(np.int32(to_grey(src[i], src[i + 1], src[i + 2])))
        for k in range(i, i + 3):
            dst[k] = blend(grey, src[k], strength)


@compiled
def contrast(src, dst, strength):
    total = np.uint32(0)
    for i in range(0, SIZE, 3):
        total += np.uint32(to_grey(src[i], src[i + 1], src[i + 2]))
    mean = np.float32(np.int32(np.float64(total) / PIXELS + 0.5))
    for i in range(SIZE):
        dst[i] = blend(mean, src[i], strength)


@compiled
def sharpness(src, dst, strength):
    """Away from the 3x3 mean with five-fold weight on the middle; the rim stays."""
    # Sums over three rows.
    column = np.empty(ROW, np.uint16)
    copy(src, dst)
    for row in range(ROW, SIZE - ROW, ROW):
        for i in range(ROW):
            column[i] = (np.uint16(src[row + i - ROW]) + np.uint16(src[row + i])
                         + np.uint16(src[row + i + ROW]))
        for i in range(3, ROW - 3):
            total = np.uint16(column[i - 3] + column[i] + column[i + 3]
                              + np.uint16(4) * np.uint16(src[row + i]) + np.uint16(6))
            mean = np.float32(np.int32(np.uint32(total) // np.uint32(13)))
            dst[row + i] = blend(mean, src[row + i], strength)


@compiled
def shear(moved, dst, fractions, row, tap):
    """Pillow's bicubic filter over four neighbours v1..v4, in double precision as there.

    At d from v2 to v3 the value is v2 + d (t1 + d (t2 + d t3)).

    Args:
        moved: uint8 (3360,), src moved by whole pixels. fractions: of make_tables().
        row, tap: bytes from one row of `moved` to the next, from one neighbour to the next.
    """
    terms, values = np.empty((4, ROW), np.float32), np.empty(ROW, np.int32)
    for y in range(SIDE):
        first, second = moved[y * row:][:ROW], moved[y * row + tap:][:ROW]
        third, fourth = moved[y * row + 2 * tap:][:ROW], moved[y * row + 3 * tap:][:ROW]
        # Three loops with few types each: the compiler makes better use of vectors.
        for i in range(ROW):
            v1, v2 = np.float32(first[i]), np.float32(second[i])
            v3, v4 = np.float32(third[i]), np.float32(fourth[i])
            terms[0, i], terms[1, i] = v2, v3 - v1
            terms[2, i] = (v1 - v2) + (v1 - v2) + (v3 - v4)
            terms[3, i] = (v2 - v1) - (v3 - v4)
        line, d = dst[y * ROW:][:ROW], fractions[y * ROW:][:ROW]
        for i in range(ROW):
            value = np.float64(terms[2, i]) + d[i] * np.float64(terms[3, i])
            value = np.float64(terms[1, i]) + d[i] * value
            value = np.float64(terms[0, i]) + d[i] * value
            values[i] = np.int32(value if d[i] >= 0 else 128.0)
        for i in range(ROW):
            line[i] = min(max(values[i], np.int32(0)), np.int32(255))


@compiled
def augment_batch(x, out, draw, tables, memory, words):
    """run_compiled(), on images as rows of bytes.

    Args:
        memory: uint8 (3, MEMORY): the image before and after an operation, in turns, and the one
            that a shear moves. words: the same memory, as a WORD from each byte on.
    """
    operations, levels, signs = draw
    kinds, strengths, lookups, sources, fractions = tables
    memory[:, SIZE:] = 128
    for i in range(len(x)):
        here, there = 0, 1
        copy(x[i], memory[here])
        for n in range(operations.shape[1]):
            src, dst = memory[here], memory[there]
            at = operations[i, n], levels[i, n], np.int8(signs[i, n] > 0)
            kind, strength = kinds[at[0]], strengths[at]
            if kind == LEFT_TO_PILLOW:
                continue
            if kind == POINTWISE:
                look_up(src, dst, lookups[at])
            elif kind == NEAREST:
                move(words[here], words[there], sources[at], PIXELS)
            elif kind == AUTOCONTRAST:
                autocontrast(src, dst)
            elif kind == EQUALIZE:
                equalize(src, dst)
            elif kind == COLOR:
                color(src, dst, strength)
            elif kind == CONTRAST:
                contrast(src, dst, strength)
            elif kind == SHARPNESS:
                sharpness(src, dst, strength)
            else:
                move(words[here], words[2], sources[at], SHEARED)
                row, tap = (ROW + 3 * (TAPS - 1), 3) if kind == SHEAR_X else (ROW, ROW)
                shear(memory[2], dst, fractions[at], row, tap)
            here, there = there, here
        copy(memory[here], out[i])
