"""Are test images among those that were trained on? If so, a table flatters.

Used by data_generator.py and eval.py. Exact copies are looked for always; copies that were cropped, recoloured, compressed or mirrored with
--check-overlap. CIFAR-10 is known for some of both (Barz and Denzler 2020, "Do we train on test data?").
"""

import math

import cifar10_resnet50 as step1  # first: it quietens the backend
import imagenet_dummy_label as step2

import numpy as np

# Both were set by looking at pairs of CIFAR-10's test and training images: of 192 found so, all but about seven show the same
# picture. More bits bring in plain skies with an aeroplane each; of those from 0.85 to 0.9 most are the same picture, too.
BITS_APART = 10  # of 63: hashes that differ in more are of different images
LIKE = 0.9  # correlation of two images' pixels from which on they count as the same picture


def trained_on(runs, data):
    """{what: uint8 (K, 32, 32, 3)} of all images that any of the runs learnt from, and the folders that are gone."""
    labelled = np.unique(np.concatenate([run.split["train"] for run in runs]))
    images, gone = {"training images": data.x[labelled]}, []
    for folder, expected in {(run.record["pseudo_folder"], run.record["made_from"]["pseudo_sha256"])
                             for run in runs if "pseudo_folder" in run.record}:
        files = step2.array_files(folder)
        if all(path.exists() for path in files) and step1.sha256(*files) == expected:
            images[f"pseudo-labelled images in {folder}"] = step1.read_arrays(files[0])
        else:
            gone.append(folder)
    return images, sorted(gone)


def exact_copies(x_test, x):
    """How many of x_test, uint8 (N, 32, 32, 3), are in x, uint8 (K, 32, 32, 3), pixel for pixel."""
    known = {image.tobytes() for image in x}
    return sum(image.tobytes() in known for image in x_test)


def perceptual_hash(x):
    """Which of an image's 63 slowest waves are stronger than their median: uint64 (N,).

    Args:
        x: uint8 (N, 32, 32, 3).
    """
    size = x.shape[1]
    waves = np.cos(np.pi / size * np.outer(np.arange(8), np.arange(size) + 0.5)).astype(np.float32)  # a DCT's, slowest first
    hashes = np.empty(len(x), np.uint64)
    for start in range(0, len(x), 4096):
        grey = x[start:start + 4096].mean(axis=3, dtype=np.float32)
        strength = (waves @ grey @ waves.T).reshape(len(grey), 64)[:, 1:]  # without the mean brightness
        bits = strength > np.median(strength, axis=1, keepdims=True)
        hashes[start:start + 4096] = (bits * (np.uint64(1) << np.arange(63, dtype=np.uint64))).sum(axis=1, dtype=np.uint64)
    return hashes


def correlation(a, b):
    """Of the pixels of pairs of images, uint8 (P, 32, 32, 3) each: float (P,), 1 where they differ in contrast alone."""
    a, b = (x.reshape(len(x), math.prod(x.shape[1:])).astype(np.float64) for x in (a, b))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1) + 1e-9)


def near_copies(x_test, x):
    """Test images that show the same picture as one of x, mirrored or not.

    A perceptual hash finds the candidates, and correlation decides.

    Args:
        x_test: uint8 (N, 32, 32, 3). x: uint8 (K, 32, 32, 3).

    Returns: int (M, 2) pairs of indices into x_test and x, one per test image found, and their correlations, float (M,),
        the most alike first.
    """
    best, theirs = {}, perceptual_hash(x)
    for mirrored in (False, True):
        shown = x_test[:, :, ::-1] if mirrored else x_test
        ours = perceptual_hash(shown)
        for start in range(0, len(ours), 100):
            apart = np.bitwise_count(ours[start:start + 100, None] ^ theirs[None])
            i, j = np.nonzero(apart <= BITS_APART)
            for a, b, like in zip(i + start, j, correlation(shown[i + start], x[j])):
                if like >= LIKE and like > best.get(a, (0, 0))[0]:
                    best[a] = like, b
    found = sorted(((like, a, b) for a, (like, b) in best.items()), reverse=True)
    return np.array([(a, b) for _, a, b in found], dtype=np.int64).reshape(-1, 2), np.array([like for like, _, _ in found])


def draw_pairs(x_test, x, pairs, alike, path, columns=10):
    """The pairs that are least alike of those found, for the eye to decide: test image above, its like below."""
    from matplotlib.figure import Figure

    chosen = np.linspace(0, len(pairs) - 1, min(len(pairs), 3 * columns)).round().astype(int)
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(columns * 0.9, rows * 2.2 + 0.4), layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for place, number in enumerate(chosen):
        row, column = divmod(place, columns)
        above, below = grid[2 * row, column], grid[2 * row + 1, column]
        above.imshow(x_test[pairs[number, 0]])
        above.set_title(f"{alike[number]:.3f}", fontsize=8, pad=2)
        below.imshow(x[pairs[number, 1]])
    figure.supxlabel("above: test images; below: what was trained on; the correlation of their pixels", fontsize=9)
    with step1.whole_file(path) as beside:
        figure.savefig(beside, dpi=100)


def check(runs, data, thoroughly, out):
    """Warns of test images that were trained on. With `thoroughly`, of near copies too, with a picture in `out`."""
    images, gone = trained_on(runs, data)
    for what, x in images.items():
        if copies := exact_copies(data.x_test, x):
            print(f"warning: {copies:,} of {len(data.x_test):,} test images are among the {what}, pixel for pixel")
        if thoroughly:
            pairs, alike = near_copies(data.x_test, x)
            print(f"{len(pairs):,} of {len(data.x_test):,} test images show the same picture as one of the {what}")
            if len(pairs):
                path = out / f"overlap{'_pseudo' * (x is not images['training images'])}.png"
                draw_pairs(data.x_test, x, pairs, alike, path)
                print(f"  pairs to look at: {path}")
    if gone:
        print(f"not compared with the test images, since they have changed or are gone: {', '.join(gone)}")
