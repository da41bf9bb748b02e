"""Corrupts a test set in fourteen ways, each from weak (1) to strong (5): CIFAR-10-C's, in part.

    python data/make_corrupted.py data/toy data/toy-corrupted
    python data/make_corrupted.py cifar10 data/cifar10-corrupted --images 1000 --corruptions fog

A network has learnt from clean images; how much does it lose on noisy, blurred, foggy ones? Only
test images are corrupted: nothing here is to be trained on.

After Hendrycks and Dietterich 2019, with the constants of ImageNet-C/create_c/make_cifar_c.py in
their repository hendrycks/robustness, which makes 19 corruptions. Five are not made here:
motion_blur and snow need ImageMagick, spatter needs OpenCV, frost photographs of frost, and
glass_blur swaps single pixels one after the other. So numbers on this subset are not to be compared
with published ones (mCE).

Reads   a data set: the word cifar10, or a folder train/<class>/*, test/<class>/* of images
Writes  <out>/<corruption>.npy   uint8 (5 * N, 32, 32, 3): all N images at severity 1, then 2, ... 5
        <out>/labels.npy         uint8 (5 * N,), more bits for more than 256 classes: the same N
                                 classes five times
        <out>/index.npy          int64 (N,), which test images these are. Ours: the published sets
                                 have all, in order
        <out>/overview.png, and made.json, what it was made from

1,000 images take about 20 seconds. Kill it whenever you like: the same command goes on with the
missing corruptions.
"""

import pathlib
import sys

# The package lies one folder up.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from noisy_student.arguments import COUNT, number, parser


def arguments(argv=None):
    flags = parser(__doc__)
    flags.add_argument("data", help="cifar10, or a folder train/<class>/*, test/<class>/*")
    flags.add_argument("out", type=pathlib.Path, help="the folder to write")
    flags.add_argument("--images", type=COUNT, metavar="N", help="test images to take (all)")
    flags.add_argument("--corruptions", nargs="+", metavar="NAME", help="(all)")
    flags.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=0)
    return flags.parse_args(argv)


if __name__ == "__main__":
    # Before what takes longer to import.
    args = arguments()

import io
import time

import numpy as np
from PIL import Image
from scipy import ndimage

from noisy_student import figures
from noisy_student.data import load_data
from noisy_student.files import (
    LOCK,
    UNFINISHED,
    UserError,
    occupy,
    read_json,
    run_script,
    write_arrays,
    write_json,
)
from noisy_student.images import IMAGE_SIZE as SIZE

SEVERITIES = (1, 2, 3, 4, 5)
# Images at once, 25 MB as float64; one stream of random numbers runs through all batches.
BATCH = 1000


# --- the corruptions: function(images, constant, rng) ---------------------------------------------
# float64 (N, 32, 32, 3) 0..1 -> the same shape, not yet clipped.


def gaussian_noise(images, scale, rng):
    return images + rng.normal(0, scale, images.shape)


def shot_noise(images, photons, rng):
    """Each value is a count of photons around its mean; white is `photons` of them."""
    return rng.poisson(images * photons) / photons


def impulse_noise(images, share, rng):
    """Salt and pepper: a share of all values (not pixels) becomes 0 or 1, each as often.

    One draw where skimage's random_noise takes two: the same distribution.
    """
    draw = rng.random(images.shape)
    return np.where(draw < share, draw < share / 2, images)


def speckle_noise(images, scale, rng):
    return images * (1 + rng.normal(0, scale, images.shape))


def defocus_blur(images, constants, rng):
    """The mean over a disc, whose own edge is softened by a Gaussian of 3x3 pixels."""
    radius, sigma = constants
    # The largest disc here is 3 pixels wide, and 5 when softened.
    y, x = np.mgrid[-2:3, -2:3]
    disc = np.float64(x**2 + y**2 <= radius**2)
    taps = np.exp(-np.array([1, 0, 1]) / (2 * sigma**2))
    softening = np.outer(taps, taps) / taps.sum() ** 2
    kernel = ndimage.correlate(disc / disc.sum(), softening, mode="constant")
    # SciPy's "mirror" is OpenCV's default border. OpenCV is given a float32 kernel, and sums in
    # another order.
    return ndimage.correlate(images, kernel[None, :, :, None], mode="mirror")


def gaussian_blur(images, sigma, rng):
    """The border and the cut, at four sigma, are skimage's defaults; it calls the same function."""
    return ndimage.gaussian_filter(images, (0, sigma, sigma, 0), mode="nearest", truncate=4)


def zoom_blur(images, end, rng):
    """The mean of the image and of its centre enlarged by 1, 1.01, 1.02, ... to `end`, bilinearly.

    Enlarging is a 32x32 matrix W, for rows as for columns: W @ image @ W.T. So the mean of many is
    one 1024x1024 matrix. The original sums in float32: a value at the border between two levels of
    255 may fall the other way.
    """
    factors = np.arange(1, end, 0.01)
    blur = np.eye(SIZE * SIZE)
    for factor in factors:
        side = int(np.ceil(SIZE / factor))
        crop = np.eye(SIZE)[(SIZE - side) // 2:][:side]
        # 32 rows, or one more.
        W = ndimage.zoom(crop, (factor, 1), order=1)
        W = W[(len(W) - SIZE) // 2:][:SIZE]
        blur += np.kron(W, W)
    pixels = images.transpose(0, 3, 1, 2).reshape(-1, SIZE * SIZE) @ blur.T / (len(factors) + 1)
    return pixels.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)


def plasma(count, decay, rng):
    """Clouds, the diamond-square fractal on a square whose opposite edges meet.

    Starts with one point. Each round puts a new one in the middle of every four: their mean, and
    noise.

    Returns: float64 (count, 32, 32), each 0..1.
    """
    height = np.zeros((count, SIZE, SIZE))
    step, noise = SIZE, 100.0**2

    def middle(sum_of_four):
        return sum_of_four / 4 + rng.uniform(-noise, noise, sum_of_four.shape)

    while step > 1:
        half, corners = step // 2, height[:, ::step, ::step]
        across = corners + np.roll(corners, -1, axis=2)
        down = corners + np.roll(corners, -1, axis=1)
        # First the middles of squares, then those of diamonds: two corners and two centres each.
        centres = middle(across + np.roll(across, -1, axis=1))
        height[:, half::step, half::step] = centres
        height[:, ::step, half::step] = middle(across + centres + np.roll(centres, 1, axis=1))
        height[:, half::step, ::step] = middle(down + centres + np.roll(centres, 1, axis=2))
        # Squared: the original multiplies by its spread twice.
        step, noise = half, noise / decay**2
    height -= height.min(axis=(1, 2), keepdims=True)
    return height / height.max(axis=(1, 2), keepdims=True)


def fog(images, constants, rng):
    """Adds clouds, and darkens the sum so that it stays below the image's brightest value."""
    thickness, decay = constants
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    clouded = images + thickness * plasma(len(images), decay, rng)[..., None]
    return clouded * brightest / (brightest + thickness)


def contrast(images, factor, rng):
    """Draws every value towards the mean of its own channel of its own image."""
    mean = images.mean(axis=(1, 2), keepdims=True)
    return (images - mean) * factor + mean


def change_hsv(images, channel, factor, offset):
    """Scales and shifts one of hue, saturation, value (0, 1, 2).

    Grey has hue 0, as in skimage: more saturation reddens it.
    """
    from matplotlib.colors import hsv_to_rgb, rgb_to_hsv

    hsv = rgb_to_hsv(images)
    hsv[..., channel] = np.clip(hsv[..., channel] * factor + offset, 0, 1)
    return hsv_to_rgb(hsv)


def brightness(images, shift, rng):
    return change_hsv(images, 2, 1, shift)


def saturate(images, scale_and_shift, rng):
    return change_hsv(images, 1, *scale_and_shift)


def in_pillow(images, change):
    """What a function of a Pillow image makes of each, in 8 bits."""
    levels = np.uint8(np.round(images * 255))
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in levels]) / 255


def pixelate(images, scale, rng):
    small, whole, box = (int(SIZE * scale),) * 2, (SIZE, SIZE), Image.Resampling.BOX
    return in_pillow(images, lambda image: image.resize(small, box).resize(whole, box))


def jpeg_compression(images, quality, rng):
    """Pillow's JPEG, whose values may differ a little with the JPEG library it was built with."""
    def there_and_back(image):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return in_pillow(images, there_and_back)


def elastic_transform(images, constants, rng):
    """Moves three points at random, and the image with them; then each pixel by a smooth field."""
    # In pixels.
    strength, smoothness, shift = SIZE * np.array(constants)
    # (x, y): 10 pixels from the centre, (16, 16), both ways.
    points = np.array([(26.0, 26.0), (26.0, 6.0), (6.0, 6.0)])
    moved = points + rng.uniform(-shift, shift, (len(images), 3, 2))
    # The affine map back, (N, 3, 2).
    ones = np.ones((len(images), 3, 1))
    back = np.linalg.solve(np.concatenate([moved, ones], axis=2), points)
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    # Where each pixel comes from, (N, 32, 32, 2).
    source = np.stack([x, y, np.ones_like(x)], axis=-1) @ back[:, None]
    field = rng.uniform(-1, 1, (2, len(images), SIZE, SIZE))
    smooth = (0, 0, smoothness, smoothness)
    dx, dy = strength * ndimage.gaussian_filter(field, smooth, mode="reflect", truncate=3)

    def taken(image, x, y, border):
        channels = [ndimage.map_coordinates(image[..., c], (y, x), order=1, mode=border)
                    for c in range(3)]
        return np.stack(channels, axis=-1)

    # OpenCV, the original's affine step, rounds coordinates to 1/32 of a pixel; SciPy does not.
    # "mirror" is its border.
    affine = (taken(image, at[..., 0], at[..., 1], "mirror") for image, at in zip(images, source))
    return np.stack([taken(image, x + dx[i], y + dy[i], "reflect")
                     for i, image in enumerate(affine)])


# Name: function, and its constant at severities 1 to 5. A corruption's place in this table is part
# of its seed.
CORRUPTIONS = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.1)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "speckle_noise": (speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2)),
    "defocus_blur": (defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1)),
    "zoom_blur": (zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "fog": (fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    # Severities 1 and 2 take colour away, 3 to 5 add it.
    "saturate": (saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (jpeg_compression, (80, 65, 58, 50, 40)),
    # Parts of the side. Severity 1 is an affine map alone, and the widest.
    "elastic_transform": (elastic_transform, ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06),
                                              (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))),
}


def corrupt(images, name, severity, seed=0):
    """uint8 (N, 32, 32, 3) -> the same shape, under the corruption `name` at severity 1 to 5.

    Depends on nothing else: not on what is made besides. As in the original, 8 bits are reached by
    truncating.
    """
    function, constants = CORRUPTIONS[name]
    rng = np.random.default_rng([seed, list(CORRUPTIONS).index(name), severity])
    results = []
    for start in range(0, len(images), BATCH):
        corrupted = function(images[start:start + BATCH] / 255, constants[severity - 1], rng)
        results.append((np.clip(corrupted, 0, 1) * 255).astype(np.uint8))
    return np.concatenate(results)


# --- the files ------------------------------------------------------------------------------------


def choose(y, count):
    """Which test images: the same number of each class, as far as that goes, evenly spaced in it.

    Classes, int (M,) -> int64 (count,), ascending indices into them.
    """
    members = [np.flatnonzero(y == c) for c in np.unique(y)]
    # One of each class, again and again.
    turns = sorted((place, c) for c, m in enumerate(members) for place in range(len(m)))
    shares = np.bincount([c for _, c in turns[:count]], minlength=len(members))
    chosen = [m[np.arange(share) * len(m) // share] for m, share in zip(members, shares)]
    return np.sort(np.concatenate(chosen))


def claim(out, settings):
    """Takes the folder for a set with these settings.

    Raises: UserError, where it holds anything else.
    """
    made = out / "made.json"
    if made.exists():
        held = read_json(made)
        # A data set may have moved.
        other = [key for key in settings if key != "data" and held.get(key) != settings[key]]
        if other:
            raise UserError(f"{out} holds a set made with other arguments (see {', '.join(other)} "
                            f"in {made}). Give another folder, or delete it")
    elif out.is_dir() and any(path.name != LOCK and not path.name.startswith(UNFINISHED)
                              for path in out.iterdir()):
        raise UserError(f"{out} holds something that this script has not made. Give another folder")
    occupy(out, flag="folder")
    if not made.exists():
        write_json(made, settings)


def overview(names, original, path):
    """One picture, a row per corruption: an image as it is, and at severities 1 to 5.

    Returns: its path.
    """
    rows = []
    for name in names:
        corrupted = np.load(path.parent / f"{name}.npy", mmap_mode="r")
        images = original, *corrupted[::len(corrupted) // len(SEVERITIES)]
        heads = [""] * len(images) if rows else ["as it is", *map(str, SEVERITIES)]
        rows.append((name.replace("_", "\n"), [(image, head, False)
                                               for image, head in zip(images, heads)]))
    return figures.mosaic(rows, len(images), 96, "Numbers: the severity.", path)


def main(args):
    wanted = args.corruptions or list(CORRUPTIONS)
    unknown = [name for name in wanted if name not in CORRUPTIONS]
    if unknown:
        raise UserError(f"no corruption called {', '.join(unknown)}; "
                        f"there are {', '.join(CORRUPTIONS)}")
    names, out = [name for name in CORRUPTIONS if name in wanted], args.out

    # Nothing is trained, so nothing need be held out.
    data = load_data(args.data, validation="test")
    count = args.images or len(data.x_test)
    if count > len(data.x_test):
        raise UserError(f"--images {count}: the data set has {len(data.x_test)} test images")
    claim(out, {"data": data.name, "data_sha256": data.lineage()["data_sha256"], "images": count,
                "corruptions": names, "seed": args.seed})
    files = ["index.npy", "labels.npy", "overview.png", *(f"{name}.npy" for name in names)]
    if all((out / file).exists() for file in files):
        print(f"{out} is there already, made with these arguments; delete it to make it again")
        return

    index = choose(data.y_test, count)
    images = data.x_test[index]
    labels = data.y_test[index].astype(np.min_scalar_type(data.num_classes - 1))
    write_arrays(out / "index.npy", index)
    for name in names:
        path, begin = out / f"{name}.npy", time.perf_counter()
        if not path.exists():
            corrupted = [corrupt(images, name, severity, args.seed) for severity in SEVERITIES]
            write_arrays(path, np.concatenate(corrupted))
            print(f"{name}: {count:,} images x {len(SEVERITIES)} severities, "
                  f"{time.perf_counter() - begin:.1f} s", flush=True)
    # Last: without it, nobody takes half a set for a whole.
    write_arrays(out / "labels.npy", np.tile(labels, len(SEVERITIES)))
    print(f"{out}: {len(names)} corruptions x {len(SEVERITIES)} severities of {count:,} of "
          f"{len(data.x_test):,} test images from {data.name}")
    for picture in figures.drawn(overview, names, images[0], out / "overview.png"):
        print(f"look at {picture}")


if __name__ == "__main__":
    run_script(main, args)
