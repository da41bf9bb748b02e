"""Corrupts a test set in fourteen ways, each from weak (1) to strong (5): a subset in CIFAR-10-C style.

    python data/make_corrupted.py data/toy data/toy-corrupted
    python data/make_corrupted.py cifar10 data/cifar10-corrupted --images 1000 --corruptions fog contrast

A network is trained on clean images; how much does it lose on noisy, blurred, foggy ones? Only the test images are
corrupted: nothing here is to be trained on.

Source: Hendrycks and Dietterich 2019, and the constants of their ImageNet-C/create_c/make_cifar_c.py in
github.com/hendrycks/robustness. The published set is made of 19 corruptions. motion_blur, snow, frost, spatter and
glass_blur are not made here, since they need ImageMagick, OpenCV or photographs of frost (glass_blur a slow loop over
pixels), so numbers on this subset are not to be compared with published ones (mCE).

Reads   a data set: the word cifar10, or a folder train/<class>/*, test/<class>/* of images
Writes  <out>/<corruption>.npy   uint8 (5 * N, 32, 32, 3): all N images at severity 1, then at 2, ... 5
        <out>/labels.npy         the classes, (5 * N,), uint8 (up to 256 classes): the same N, five times
        <out>/index.npy          int64 (N,): which of the test images these are. The published sets have all, and no such file
        <out>/overview.png       what it all looks like
        <out>/made.json          what it was made from

1,000 images take about @@ on one slow core. Kill it whenever you like: the same command goes on with what is missing.
"""

import argparse
import io
import pathlib
import sys
import time

import numpy as np
from PIL import Image
from scipy import ndimage

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # the scripts of the lesson lie one folder up
import cifar10_resnet50 as step1  # noqa: E402

SIZE = step1.IMAGE_SIZE
SEVERITIES = (1, 2, 3, 4, 5)
BATCH = 1000  # images at once, 25 MB in float64. The random numbers follow each other over the batches

# --- the corruptions -----------------------------------------------------------------------------
# All: function(images, constant, rng) with float64 (N, 32, 32, 3), 0..1 -> the same shape, not yet clipped.


def gaussian_noise(images, scale, rng):
    return images + rng.normal(0, scale, images.shape)


def shot_noise(images, photons, rng):
    """Each value is counted in photons, `photons` of them for white: fewer are noisier."""
    return rng.poisson(images * photons) / photons


def impulse_noise(images, share, rng):
    """Salt and pepper: this share of the values (not pixels) becomes 0 or 1, each half of the time."""
    draw = rng.random(images.shape)  # one draw where skimage's random_noise takes two: the same distribution
    return np.where(draw < share, draw < share / 2, images)


def speckle_noise(images, scale, rng):
    """Noise in proportion to the value."""
    return images + images * rng.normal(0, scale, images.shape)


def defocus_blur(images, constants, rng):
    """The mean over a disc, whose own edge is softened by a Gaussian of three taps."""
    radius, edge = constants
    y, x = np.mgrid[-2:3, -2:3]  # the largest disc here is 3 pixels wide, and 5 when softened
    disc = (x**2 + y**2 <= radius**2) / (x**2 + y**2 <= radius**2).sum()
    taps = np.exp(-np.array([1, 0, 1]) / (2 * edge**2))
    kernel = ndimage.correlate(disc, np.outer(taps, taps) / taps.sum() ** 2, mode="constant")
    # SciPy's "mirror" is OpenCV's default border. The original's kernel is float32, and its sum goes through an FFT.
    return ndimage.correlate(images, kernel[None, :, :, None], mode="mirror")


def gaussian_blur(images, sigma, rng):
    """As skimage's gaussian, which calls this with its own defaults: edges repeated, cut at four sigma."""
    return ndimage.gaussian_filter(images, (0, sigma, sigma, 0), mode="nearest", truncate=4)


def zoom_blur(images, end, rng):
    """The mean of the image and of its centre enlarged by 1, 1.01, 1.02, ... up to `end`.

    Each enlargement is bilinear and in rows as in columns: a 32x32 matrix W, applied as W @ image @ W.T. Their mean is
    one matrix of 1024x1024 for the whole image. The original adds enlarged images in float32, so that a value on the
    edge between two levels of 255 can fall to the other side.
    """
    factors = np.arange(1, end, 0.01)
    blur = np.eye(SIZE * SIZE)
    for factor in factors:
        side = int(np.ceil(SIZE / factor))
        rows = np.eye(SIZE)[(SIZE - side) // 2:][:side]  # the crop, (side, 32)
        larger = ndimage.zoom(rows, (factor, 1), order=1)  # 32 rows or a few more
        larger = larger[(len(larger) - SIZE) // 2:][:SIZE]
        blur += np.kron(larger, larger)
    flat = images.transpose(0, 3, 1, 2).reshape(-1, SIZE * SIZE) @ (blur.T / (len(factors) + 1))
    return flat.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)


def plasma(count, decay, rng):
    """Clouds: the diamond-square fractal on a square whose opposite edges meet, float64 (count, 32, 32), each 0..1.

    From one point on, each round puts a point into the middle of every four: their mean plus noise.
    """
    height = np.zeros((count, SIZE, SIZE))
    step, spread = SIZE, 100.0
    while step > 1:
        half, noise = step // 2, spread**2  # squared in the original as well: decay works twice per round

        def middle(four):
            return four / 4 + rng.uniform(-noise, noise, four.shape)

        corners = height[:, ::step, ::step]
        across, down = corners + np.roll(corners, -1, axis=2), corners + np.roll(corners, -1, axis=1)
        centres = middle(across + np.roll(across, -1, axis=1))
        height[:, half::step, half::step] = centres  # the squares; then the diamonds between two corners and two centres
        height[:, ::step, half::step] = middle(across + centres + np.roll(centres, 1, axis=1))
        height[:, half::step, ::step] = middle(down + centres + np.roll(centres, 1, axis=2))
        step, spread = half, spread / decay
    height -= height.min(axis=(1, 2), keepdims=True)
    return height / height.max(axis=(1, 2), keepdims=True)


def fog(images, constants, rng):
    """Adds clouds, and darkens the sum so that the image's brightest value could just be reached again."""
    thickness, decay = constants
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    clouds = plasma(len(images), decay, rng)[..., None]
    return (images + thickness * clouds) * brightest / (brightest + thickness)


def brightness(images, shift, rng):
    """Raises HSV's value."""
    return in_hsv(images, lambda h, s, v: (h, s, np.clip(v + shift, 0, 1)))


def contrast(images, factor, rng):
    """Draws every value towards the mean of its own channel in its own image."""
    mean = images.mean(axis=(1, 2), keepdims=True)
    return (images - mean) * factor + mean


def saturate(images, constants, rng):
    """Scales HSV's saturation. As in the original, the offset turns grey reddish: the hue of grey counts as 0."""
    factor, offset = constants
    return in_hsv(images, lambda h, s, v: (h, np.clip(s * factor + offset, 0, 1), v))


def in_hsv(images, change):
    from matplotlib.colors import hsv_to_rgb, rgb_to_hsv  # the same formulas as skimage's rgb2hsv and hsv2rgb

    return hsv_to_rgb(np.stack(change(*np.moveaxis(rgb_to_hsv(images), -1, 0)), axis=-1))


def pixelate(images, scale, rng):
    small = (int(SIZE * scale),) * 2
    return in_pillow(images, lambda image: image.resize(small, Image.Resampling.BOX).resize((SIZE, SIZE), Image.Resampling.BOX))


def jpeg_compression(images, quality, rng):
    """Pillow's own JPEG. Which library it was built with can change a few pixels."""
    def through_jpeg(image):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return in_pillow(images, through_jpeg)


def in_pillow(images, change):
    """Image by image, in the 8 bits they came in."""
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in np.uint8(np.round(images * 255))]) / 255


def elastic_transform(images, constants, rng):
    """Moves three points at random, the image with them (affine), then every pixel by a smooth random field.

    OpenCV, in the original, rounds coordinates of the affine step to 1/32 pixel; SciPy does not. Their borders are the same.
    """
    strength, smoothness, shift = SIZE * np.array(constants)  # in pixels
    points = np.array([(26.0, 26.0), (26.0, 6.0), (6.0, 6.0)])  # (x, y): 10 pixels around the centre, three corners
    moved = points + rng.uniform(-shift, shift, (len(images), 3, 2))
    # For every pixel of the result, where it comes from: the affine map that takes the moved points back.
    back = np.linalg.solve(np.concatenate([moved, np.ones((len(images), 3, 1))], axis=2), points)  # (N, 3, 2)
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    source = np.stack([x, y, np.ones_like(x)], axis=-1) @ back[:, None]  # (N, 32, 32, 2)
    field = rng.uniform(-1, 1, (2, len(images), SIZE, SIZE))
    dx, dy = strength * ndimage.gaussian_filter(field, (0, 0, smoothness, smoothness), mode="reflect", truncate=3)

    def taken(image, y, x, mode):
        return np.stack([ndimage.map_coordinates(image[..., c], (y, x), order=1, mode=mode) for c in range(3)], axis=-1)

    turned = (taken(image, at[..., 1], at[..., 0], "mirror") for image, at in zip(images, source))
    return np.stack([taken(image, y + dy[i], x + dx[i], "reflect") for i, image in enumerate(turned)])


# Name: function, and its constant at severities 1 to 5. A corruption's place in this table is part of its seed.
CORRUPTIONS = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "speckle_noise": (speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2)),
    "defocus_blur": (defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1)),
    "zoom_blur": (zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "fog": (fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    # Severities 1 and 2 take colour away, 3 to 5 add it: 3 changes an image least.
    "saturate": (saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (jpeg_compression, (80, 65, 58, 50, 40)),
    # Parts of the side. Severity 1 is the affine step alone, and the strongest such step.
    "elastic_transform": (elastic_transform, ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05),
                                              (0.1, 0.03, 0.03))),
}

# What a student has met in training, under Rand_Augment.py's OPERATIONS, or something like it: brightness, contrast and
# saturate are its brightness, contrast and color by another formula; weakened sharpness is a blur of 3x3 pixels; shear,
# rotate and translate make up an affine map. Its list has no noise, no compression and no clouds. The line is ours to
# draw: fog lowers contrast as well, pixelate and zoom_blur soften as well, and posterize coarsens values as JPEG does.
OVERLAP_WITH_RANDAUGMENT = ("brightness", "contrast", "saturate", "defocus_blur", "gaussian_blur", "elastic_transform")


def corrupt(images, name, severity, seed=0):
    """uint8 (N, 32, 32, 3) -> uint8 of the same shape, the corruption `name` at severity 1 to 5.

    One seed, one result, whatever else is made. As the original does, the end is cut off, not rounded, to 8 bits.
    """
    function, constants = CORRUPTIONS[name]
    rng = np.random.default_rng([seed, list(CORRUPTIONS).index(name), severity])
    batches = [function(images[start:start + BATCH] / 255, constants[severity - 1], rng)
               for start in range(0, len(images), BATCH)]
    return np.concatenate([np.uint8(np.clip(batch, 0, 1) * 255) for batch in batches])


# --- the files -----------------------------------------------------------------------------------


def choose(y, count):
    """Which test images to take: the same number of each class as far as that goes, evenly spaced through each.

    Args:
        y: int (M,), the classes of all test images.

    Returns: int64 (count,), ascending indices into y.
    """
    place = np.empty(len(y), np.int64)  # of an image within its class: by it, the classes take turns
    for c in np.unique(y):
        place[y == c] = np.arange((y == c).sum())
    taken = y[np.argsort(place, kind="stable")[:count]]
    chosen = []
    for c in np.unique(taken):
        members, share = np.flatnonzero(y == c), (taken == c).sum()
        chosen.append(members[np.arange(share) * len(members) // share])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def claim(out, settings):
    """Takes the folder for a set made with these settings. Raises: UserError where it holds anything else."""
    made = out / "made.json"
    if made.exists():
        held = step1.read_json(made)
        other = [key for key in settings if key != "data" and held.get(key) != settings[key]]  # a folder may have moved
        if other:
            raise step1.UserError(f"{out} holds a set made with other arguments (different: {', '.join(other)}; see {made}). "
                                  "Give another folder, or delete it")
    elif out.is_dir() and any(not path.name.startswith(".unfinished-") for path in out.iterdir()):
        raise step1.UserError(f"{out} is there already and was not made by this script; give another folder")
    else:
        step1.write_json(made, settings)


def save(path, array):
    with step1.whole_file(path) as beside, open(beside, "wb") as file:
        np.save(file, array)


def overview(out, names, original, path):
    """A row per corruption, one image: as it is, then severities 1 to 5."""
    from matplotlib.figure import Figure

    gap, side = 2, SIZE + 2
    sheet = np.full((len(names) * side - gap, (1 + len(SEVERITIES)) * side - gap, 3), 255, np.uint8)
    for row, name in enumerate(names):
        corrupted = np.load(out / f"{name}.npy", mmap_mode="r")
        for column, image in enumerate([original, *corrupted[::len(corrupted) // len(SEVERITIES)]]):
            sheet[row * side:row * side + SIZE, column * side:column * side + SIZE] = image
    figure = Figure(figsize=(8, 0.7 + 1.1 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="nearest")
    axes.set_yticks([row * side + SIZE / 2 for row in range(len(names))], [name.replace("_", "\n") for name in names])
    axes.set_xticks([column * side + SIZE / 2 for column in range(1 + len(SEVERITIES))], ["original", *SEVERITIES])
    axes.set_title("severity", fontsize=10)
    axes.tick_params(length=0, top=True, labeltop=True)
    axes.spines[:].set_visible(False)
    with step1.whole_file(path) as beside:
        figure.savefig(beside, dpi=100, format="png")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="cifar10, or a folder train/<class>/*, test/<class>/*")
    parser.add_argument("out", type=pathlib.Path, help="the folder to write")
    parser.add_argument("--images", type=step1.number(int, 1), metavar="N", help="test images to take (all)")
    parser.add_argument("--corruptions", nargs="+", default=list(CORRUPTIONS), metavar="NAME", help=", ".join(CORRUPTIONS))
    parser.add_argument("--seed", type=step1.number(int, 0, 2**32 - 1), default=0)
    args = parser.parse_args(argv)
    unknown = [name for name in args.corruptions if name not in CORRUPTIONS]
    if unknown:
        raise step1.UserError(f"no corruption called {', '.join(unknown)}; there are {', '.join(CORRUPTIONS)}")
    names = [name for name in CORRUPTIONS if name in args.corruptions]

    data = step1.load_data(args.data, validation="test")  # no training here: no images need be held out
    count = len(data.y_test) if args.images is None else args.images
    if count > len(data.y_test):
        raise step1.UserError(f"--images {count}: the data set has {len(data.y_test)} test images")
    claim(args.out, {"data": data.name, "data_sha256": data.fingerprint(), "images": count, "corruptions": names,
                     "seed": args.seed})

    index = choose(data.y_test, count)
    images, labels = data.x_test[index], data.y_test[index].astype(np.min_scalar_type(data.num_classes - 1))
    files = {"index": lambda: index, "labels": lambda: np.tile(labels, len(SEVERITIES))}
    for name in names:
        files[name] = lambda name=name: np.concatenate([corrupt(images, name, s, args.seed) for s in SEVERITIES])
    missing = [name for name in files if not (args.out / f"{name}.npy").exists()]
    picture = args.out / "overview.png"
    if not missing and picture.exists():
        print(f"{args.out} is there already, made with these arguments; delete it to make it again")
        return
    for name in missing:
        begin = time.perf_counter()
        save(args.out / f"{name}.npy", files[name]())
        if name in CORRUPTIONS:
            print(f"{name}: {count:,} images x {len(SEVERITIES)} severities, {time.perf_counter() - begin:.1f} s", flush=True)
    overview(args.out, names, images[0], picture)
    print(f"{args.out}: {len(names)} corruptions x {len(SEVERITIES)} severities of {count:,} of the {len(data.y_test):,} test "
          f"images in {data.name}; look at {picture}")


if __name__ == "__main__":
    step1.run_script(main)
