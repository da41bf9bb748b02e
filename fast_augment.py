"""Step 4, the noise on the image, for a whole batch at once: Rand_Augment.py, compiled.

    augment = Rand_Augment(Numbers=2, max_Magnitude=10)
    noisy = fast_augment.apply(x, *augment.draw(len(x)))           # uint8 (B, 32, 32, 3) -> the same

Read Rand_Augment.py to learn what the operations are; this is how they are done without waiting for them. The
pixels are the same to the bit: tests/test_fast_augment.py holds one against the other. Python's lock is
released, so that a thread makes the next batch while the last one is trained on. numba compiles it when it is
first called (some seconds) and keeps the result on disk; without numba, Pillow does the work.

To the compiled functions an image is a row of 3,072 bytes: red, green, blue of the first pixel, of the second, ...
They are written so that the compiler can turn a loop into vector instructions: no branches, small types.
"""

import functools

import numpy as np
from PIL import Image

from Rand_Augment import LEVELS, OPERATIONS, Rand_Augment

try:
    import numba.extending
    from llvmlite import ir
except ImportError:
    numba = None

# Constants to the compiler, which therefore knows how long every loop is.
SIDE = 32  # pixels, both ways
PIXELS = SIDE * SIDE
ROW = SIDE * 3  # bytes
SIZE = PIXELS * 3
SHIFT = 4  # pixels that flip_and_crop shifts an image at most, as is usual on CIFAR-10
TAPS = 4  # pixels that a bicubic filter looks at
SHEARED = (SIDE + TAPS - 1) * SIDE  # pixels of an image with three columns or rows more
GREYS = 16  # bytes of grey behind an image: what is taken from outside of it

NAMES = list(OPERATIONS)
OPERATION_COUNT = len(NAMES)
(AUTOCONTRAST, EQUALIZE, ROTATE, SOLARIZE, COLOR, POSTERIZE, CONTRAST, BRIGHTNESS, SHARPNESS,
 SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y) = range(len(NAMES))

BYTE_VALUES = np.arange(256.0)


def apply(x, operations, levels, signs, windows=None):
    """Applies a draw of Rand_Augment.draw() to a batch.

    Args:
        x: uint8 (B, 32, 32, 3), 0..255; stays as it is.
        operations, levels, signs: int8 (B, N).
        windows: draw_windows(B, ...), to mirror and shift the images first; None leaves them in place.

    Returns: uint8 (B, 32, 32, 3): each image as flip_and_crop and then Rand_Augment.apply make it.
    """
    if x.dtype != np.uint8 or x.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"x must be uint8 (B, {SIDE}, {SIDE}, 3), got {x.dtype} {x.shape}")
    if not len(x) == len(operations) == len(levels) == len(signs):
        raise ValueError(f"x has {len(x)} images, the draw is for {len(operations)}")
    if numba is None:
        say_that_numba_is_missing()
        return with_pillow(x, operations, levels, signs, windows)
    out = np.empty(x.shape, np.uint8)
    offsets = np.empty((0, 3), np.int64) if windows is None else np.stack(windows, axis=1).astype(np.int64)
    augment_batch(np.ascontiguousarray(x).reshape(-1, SIZE), out.reshape(-1, SIZE), operations, levels, signs, offsets, *tables())
    return out


def draw_windows(batch, rng):
    """Draws where flip_and_crop cuts: top and left, int64 (B,) from 0 to 8, and whether to mirror, bool (B,)."""
    top, left = rng.integers(2 * SHIFT + 1, size=(2, batch))
    return top, left, rng.random(batch) < 0.5


def flip_and_crop(x, top, left, mirrored):
    """Pads each image by 4 pixels of its own reflection, cuts a window of 32x32 out, and mirrors it or not.

    Args:
        x: uint8 (B, 32, 32, 3). top, left, mirrored: of draw_windows.

    Returns: uint8 (B, 32, 32, 3).
    """
    padded = np.pad(x, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="reflect")
    rows = top[:, None] + np.arange(SIDE)  # (B, 32)
    columns = left[:, None] + np.arange(SIDE)
    columns[mirrored] = columns[mirrored, ::-1]
    return padded[np.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None, :]]


def with_pillow(x, operations, levels, signs, windows=None):
    """What apply() does, by Rand_Augment itself."""
    augment, out = Rand_Augment(), np.empty(x.shape, np.uint8)
    x = x if windows is None else flip_and_crop(x, *windows)
    for i, image in enumerate(x):
        out[i] = augment.apply(Image.fromarray(image), operations[i], levels[i], signs[i])
    return out


@functools.cache
def say_that_numba_is_missing():
    print("numba is not installed: RandAugment runs on Pillow, many times slower (pip install -r requirements.txt)")


# --- tables: all that does not depend on the image ---------------------------------------------------


@functools.cache
def tables():
    """What the compiled operations look up; the last axis but one is the level, the last the direction, -1 or 1.

    Returns:
        strengths: float32 (13, 10, 2), an operation's magnitude as its function below takes it.
        sources: uint16 (13, 10, 2, 1120), for operations that move pixels the byte at which the source of each
            begins; SIZE, where the grey is, if that is outside.
        fractions: float64 (13, 10, 2, 3072), for shears the rest of the movement at each byte, 0..1.
        inside: uint8 (13, 10, 2, 3072), for shears 255 where the source is inside the image, else 0.
        reflected: int32 (40,), the row or column that stands at each place of a padded image.
    """
    strengths = np.zeros((len(NAMES), LEVELS, 2), np.float32)
    sources = np.zeros((len(NAMES), LEVELS, 2, SHEARED), np.uint16)
    fractions = np.zeros((len(NAMES), LEVELS, 2, SIZE))
    inside = np.zeros(fractions.shape, np.uint8)
    for op, name in enumerate(NAMES):
        for level, m in enumerate(OPERATIONS[name][1]):
            for direction, sign in enumerate((-1, 1)):
                at = op, level, direction
                if op in (COLOR, CONTRAST, BRIGHTNESS, SHARPNESS):
                    strengths[at] = 1 + m * sign
                elif op in (SOLARIZE, POSTERIZE):
                    strengths[at] = m
                elif op in (ROTATE, TRANSLATE_X, TRANSLATE_Y):
                    sources[at][:PIXELS] = sources_of_pixels(name, level, sign)
                elif op in (SHEAR_X, SHEAR_Y):
                    sources[at], fractions[at], inside[at] = sources_of_shear(m * sign, op == SHEAR_X)
    return strengths, sources, fractions, inside, np.pad(np.arange(SIDE, dtype=np.int32), SHIFT, mode="reflect")


def sources_of_pixels(name, level, sign):
    """Where Pillow takes each pixel from, found by showing it an image whose colours are the pixels' places.

    Returns: uint16 (1024,).
    """
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.uint8)
    places = Image.fromarray(np.stack([rows, columns, 0 * rows], axis=-1))
    row, column, grey = np.moveaxis(np.asarray(Rand_Augment().test_single_operation(places, name, level, sign), np.uint16), -1, 0)
    return np.where(grey, SIZE, row * ROW + column * 3).ravel()


def sources_of_shear(m, along_x):
    """A shear as a movement of every row by whole pixels, and a bicubic filter for the rest (or every column).

    Args:
        m: pixels to move by, per pixel. along_x: rows move (shearX); if not, columns (shearY).

    Returns: uint16 (1120,), the sources of the image moved by whole pixels: 32 rows of 35, or 35 rows of 32,
        the edges repeated; float64 (3072,), the rest; uint8 (3072,), 255 where the source is inside the image, else 0.
    """
    along, across = np.mgrid[:SIDE, :SIDE] + 0.5  # of a pixel's middle: its place on its line, and which line that is
    place = along + m * across  # in double precision as in Pillow: the last bit decides how a value is rounded down
    rest = place - 0.5 - np.floor(place - 0.5)
    inside = np.where((place >= 0) & (place < SIDE), 255, 0).astype(np.uint8)
    shift = np.floor(m * across[0]).astype(int)  # one per line
    taken = np.clip(np.arange(-1, SIDE + TAPS - 2)[:, None] + shift, 0, SIDE - 1)  # (35, 32)
    sources = taken * ROW + np.arange(SIDE) * 3
    if along_x:
        sources, rest, inside = (taken * 3 + np.arange(SIDE) * ROW).T, rest.T, inside.T
    return sources.ravel(), np.repeat(rest, 3), np.repeat(inside, 3)


# --- the operations, each from src, uint8 (3072,), to dst, the same -------------------------------------


def compiled(function):
    """numba's njit, kept on disk where that can be written to."""
    if numba is None:
        return function
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in
        return numba.njit(**options)(function)


if numba:
    @numba.extending.intrinsic
    def copy_four_bytes(typing, src, i, dst, k):
        """src[i:i + 4] to dst[k:k + 4] as one machine word, wherever it begins: for arrays numba knows only bytes."""
        def generate(context, builder, signature, values):
            def word(array, place):
                data = context.make_array(signature.args[array])(context, builder, values[array]).data
                return builder.bitcast(builder.gep(data, [values[place]]), ir.IntType(32).as_pointer())
            copied = builder.load(word(0, 1))
            copied.align = 1
            builder.store(copied, word(2, 3)).align = 1
            return context.get_dummy_value()
        return numba.types.void(src, numba.types.intp, dst, numba.types.intp), generate


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
    """Pillow's ImageEnhance: strength 0 gives `towards`, 1 the value, more leads away. In float32, as there."""
    return to_byte(towards + strength * (np.float32(np.int32(value)) - towards))


@compiled
def copy(src, dst):
    """The first 3,072 bytes; a slice assignment would first make sure that the two do not overlap."""
    for i in range(SIZE):
        dst[i] = src[i]


@compiled
def look_up(src, dst, table):
    """table: uint8 (3, 256), one row per colour."""
    for i in range(0, SIZE, 3):
        dst[i] = table[0, src[i]]
        dst[i + 1] = table[1, src[i + 1]]
        dst[i + 2] = table[2, src[i + 2]]


@compiled
def autocontrast(src, dst, table):
    darkest, brightest = np.empty(ROW, np.uint8), np.empty(ROW, np.uint8)  # of each column
    for i in range(ROW):
        darkest[i] = brightest[i] = src[i]
    for row in range(ROW, SIZE, ROW):
        for i in range(ROW):
            value = src[row + i]
            darkest[i] = value if value < darkest[i] else darkest[i]
            brightest[i] = value if value > brightest[i] else brightest[i]
    for colour in range(3):
        low, high = np.int32(255), np.int32(0)
        for i in range(colour, ROW, 3):
            low, high = min(low, np.int32(darkest[i])), max(high, np.int32(brightest[i]))
        scale = 255.0 / (high - low) if high > low else 1.0
        offset = -low * scale if high > low else 0.0
        for value in range(256):
            table[colour, value] = to_byte(BYTE_VALUES[value] * scale + offset)
    look_up(src, dst, table)


@compiled
def equalize(src, dst, table, counts):
    """counts: uint32 (6, 256), three colours of even pixels and of odd ones: one count need not wait for the last."""
    counts[:] = 0
    for i in range(0, SIZE, 6):
        counts[0, src[i]] += np.uint32(1)
        counts[1, src[i + 1]] += np.uint32(1)
        counts[2, src[i + 2]] += np.uint32(1)
        counts[3, src[i + 3]] += np.uint32(1)
        counts[4, src[i + 4]] += np.uint32(1)
        counts[5, src[i + 5]] += np.uint32(1)
    for colour in range(3):
        last = np.uint32(0)  # how many pixels have the brightest value
        for value in range(256):
            counts[colour, value] += counts[colour + 3, value]
            last = counts[colour, value] if counts[colour, value] else last
        step = (np.uint32(PIXELS) - last) // np.uint32(255)
        if step == 0:
            for value in range(256):
                table[colour, value] = value
            continue
        below, inverse = step // np.uint32(2), (np.uint32(1 << 16) + step - np.uint32(1)) // step
        for value in range(256):
            level = (below * inverse) >> np.uint32(16)  # below // step, up to 1026 // 4
            table[colour, value] = level if level < 255 else 255
            below += counts[colour, value]
    look_up(src, dst, table)


@compiled
def solarize(src, dst, threshold):
    for i in range(SIZE):
        dst[i] = src[i] if src[i] < threshold else np.uint8(255 - src[i])


@compiled
def posterize(src, dst, bits):
    mask = np.uint8(256 - (1 << (8 - bits)))
    for i in range(SIZE):
        dst[i] = src[i] & mask


@compiled
def brightness(src, dst, strength):
    for i in range(SIZE):
        dst[i] = blend(np.float32(0), src[i], strength)


@compiled
def contrast(src, dst, strength, grey):
    """grey: uint8 (1024,), for its own use."""
    for i in range(PIXELS):
        grey[i] = to_grey(src[3 * i], src[3 * i + 1], src[3 * i + 2])
    total = np.uint32(0)
    for i in range(PIXELS):
        total += np.uint32(grey[i])
    mean = np.float32(np.int32(np.float64(total) / PIXELS + 0.5))
    for i in range(SIZE):
        dst[i] = blend(mean, src[i], strength)


@compiled
def color(src, dst, strength):
    for i in range(0, SIZE, 3):
        grey = np.float32(np.int32(to_grey(src[i], src[i + 1], src[i + 2])))
        dst[i] = blend(grey, src[i], strength)
        dst[i + 1] = blend(grey, src[i + 1], strength)
        dst[i + 2] = blend(grey, src[i + 2], strength)


@compiled
def sharpness(src, dst, strength, column):
    """Away from the 3x3 mean with five-fold weight on the middle; the rim stays. column: uint16 (96,), for its own use."""
    copy(src, dst)
    for row in range(ROW, SIZE - ROW, ROW):
        for i in range(ROW):
            column[i] = np.uint16(src[row + i - ROW]) + np.uint16(src[row + i]) + np.uint16(src[row + i + ROW])
        for i in range(3, ROW - 3):
            total = np.uint16(column[i - 3] + column[i] + column[i + 3] + np.uint16(4) * np.uint16(src[row + i]) + np.uint16(6))
            smooth = np.uint16((np.uint32(total) * np.uint32(5042)) >> np.uint32(16))  # total // 13, up to 13 * 255 + 6
            dst[row + i] = blend(np.float32(np.int32(smooth)), src[row + i], strength)


@compiled
def move(src, dst, sources, pixels):
    """Pixel i of dst is the one that begins at byte sources[i] of src. Four bytes at a time: the next pixel mends the last."""
    for i in range(pixels - 1):
        copy_four_bytes(src, np.intp(sources[i]), dst, 3 * i)
    for colour in range(3):
        dst[3 * pixels - 3 + colour] = src[sources[pixels - 1] + np.uint16(colour)]


@compiled
def shear(moved, dst, fractions, inside, row, tap, terms):
    """Pillow's bicubic filter over four neighbours: v2 + d (t1 + d (t2 + d t3)), in double precision, as there.

    Args:
        moved: uint8 (3360,), src moved by whole pixels. row, tap: bytes from a row to the next, from a neighbour to the next.
        fractions, inside: float64, uint8 (3072,), of tables().
        terms: float32 (4, 96), for its own use.
    """
    for y in range(SIDE):
        first, second = moved[y * row:][:ROW], moved[y * row + tap:][:ROW]
        third, fourth = moved[y * row + 2 * tap:][:ROW], moved[y * row + 3 * tap:][:ROW]
        for i in range(ROW):
            v1, v2, v3, v4 = np.float32(first[i]), np.float32(second[i]), np.float32(third[i]), np.float32(fourth[i])
            terms[0, i], terms[1, i] = v2, v3 - v1
            terms[2, i], terms[3, i] = (v1 - v2) + (v1 - v2) + (v3 - v4), (v2 - v1) - (v3 - v4)
        line, d = dst[y * ROW:][:ROW], fractions[y * ROW:][:ROW]
        for i in range(ROW):
            line[i] = to_byte(np.float64(terms[0, i]) + d[i] * (np.float64(terms[1, i]) + d[i] * (
                np.float64(terms[2, i]) + d[i] * np.float64(terms[3, i]))))
    for i in range(SIZE):
        dst[i] = (dst[i] & inside[i]) | (np.uint8(128) & ~inside[i])


@compiled
def sources_of_window(sources, top, left, mirrored, reflected):
    """flip_and_crop as `move` takes it. sources: uint16 (1024,) or more, written. reflected: of tables()."""
    for y in range(SIDE):
        row, line = reflected[top + y] * ROW, sources[y * SIDE:][:SIDE]
        for x in range(SIDE):
            line[x] = row + 3 * reflected[left + (SIDE - 1 - x if mirrored else x)]


@compiled
def augment_batch(x, out, operations, levels, signs, windows, strengths, sources, fractions, inside, reflected):
    """apply(), on images as rows of bytes. windows: int64 (B, 3), or (0, 3) for none."""
    table, counts = np.empty((3, 256), np.uint8), np.empty((6, 256), np.uint32)
    grey, column, window = np.empty(PIXELS, np.uint8), np.empty(ROW, np.uint16), np.empty(PIXELS, np.uint16)
    moved, terms = np.empty(3 * SHEARED, np.uint8), np.empty((4, ROW), np.float32)
    padded = np.full(SIZE + GREYS, 128, np.uint8)  # the image on its way through the operations, and grey behind it
    src = padded[:SIZE]
    for i in range(len(x)):
        dst = out[i]
        if len(windows):
            copy(x[i], src)
            sources_of_window(window, windows[i, 0], windows[i, 1], windows[i, 2], reflected)
            move(padded, dst, window, PIXELS)
        else:
            copy(x[i], dst)
        for n in range(operations.shape[1]):
            copy(dst, src)
            op = operations[i, n]
            at = op, levels[i, n], 1 if signs[i, n] > 0 else 0
            if not (0 <= op < OPERATION_COUNT and 0 <= levels[i, n] < LEVELS):
                raise ValueError("no such operation or level")  # there is no bounds check behind this one
            strength = strengths[at]
            if op == AUTOCONTRAST:
                autocontrast(src, dst, table)
            elif op == EQUALIZE:
                equalize(src, dst, table, counts)
            elif op == SOLARIZE:
                solarize(src, dst, np.uint8(strength))
            elif op == POSTERIZE:
                posterize(src, dst, np.int64(strength))
            elif op == BRIGHTNESS:
                brightness(src, dst, strength)
            elif op == CONTRAST:
                contrast(src, dst, strength, grey)
            elif op == COLOR:
                color(src, dst, strength)
            elif op == SHARPNESS:
                sharpness(src, dst, strength, column)
            elif op == SHEAR_X:
                move(src, moved, sources[at], SHEARED)
                shear(moved, dst, fractions[at], inside[at], ROW + 3 * (TAPS - 1), 3, terms)
            elif op == SHEAR_Y:
                move(src, moved, sources[at], SHEARED)
                shear(moved, dst, fractions[at], inside[at], ROW, ROW, terms)
            else:
                move(padded, dst, sources[at], PIXELS)
