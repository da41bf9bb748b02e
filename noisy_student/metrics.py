"""How right, how sure, and how sure of that. Imports no Keras.

SciPy takes a second or two to import, so that only what needs it does.
"""

import numpy as np

# Of the bootstrap.
RESAMPLES = 10_000
# As Guo et al. 2017.
ECE_BINS = 15
# Two images show the same picture if their perceptual hashes differ in so few of 63 bits and their
# pixels correlate so well. Both were set by looking at pairs of CIFAR-10's test and training
# images: of 192 found so, all but about seven show the same picture. More bits bring in plain skies
# with an aeroplane each; of those that correlate less, most are the same picture, too.
BITS_APART, ALIKE = 10, 0.9


def score(probabilities, t):
    """Plain cross-entropy (nats per image) and accuracy (0..1) of predictions against labels.

    Article: its loss is model.evaluate's, which adds the L2 term of the shortcuts.

    Args:
        probabilities, t: (N, C); t is one-hot or soft.
    """
    tiny = np.finfo(np.float32).tiny
    log_p = np.log(np.maximum(probabilities.astype(np.float64), tiny))
    loss = -(t * log_p).sum(axis=1).mean()
    return float(loss), float((probabilities.argmax(axis=1) == t.argmax(axis=1)).mean())


def with_temperature(probabilities, temperature):
    """softmax(logits / temperature), from probabilities (N, C) alone.

    Above 1 it makes a network less sure. Returns: float32 (N, C).
    """
    tiny = np.finfo(np.float32).tiny
    log_p = np.log(np.maximum(probabilities, tiny), dtype=np.float64) / temperature
    p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)).astype(np.float32)


def fit_temperature(probabilities, t):
    """The temperature that minimises cross-entropy on labels t (Guo et al. 2017), in 0.05..20.

    An over-confident network gets more than 1. Its most probable class never changes.
    """
    from scipy import optimize

    def loss(log_temperature):
        return score(with_temperature(probabilities, np.exp(log_temperature)), t)[0]

    found = optimize.minimize_scalar(loss, bounds=np.log((0.05, 20)), method="bounded")
    return float(np.exp(found.x))


def by_confidence(confidence, right, bins=10):
    """Answers in bins (low, high] of equal width by the confidence they were given with.

    Args:
        confidence: (N,), 0..1. right: (N,), whether the answer was right.

    Returns: for each bin the number of answers, their mean confidence, and the share that was
        right, float (bins,); NaN where there are none.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(number, minlength=bins).astype(np.float64)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(number, confidence, bins) / count
        accuracy = np.bincount(number, right, bins) / count
    return count, mean_confidence, accuracy


def expected_calibration_error(probabilities, y):
    """How far confidence is from accuracy, averaged over bins of equal width (Guo et al. 2017).

    Args:
        probabilities: (N, C). y: int (N,).

    Returns: 0..1.
    """
    right = probabilities.argmax(axis=1) == y
    count, confidence, accuracy = by_confidence(probabilities.max(axis=1), right, ECE_BINS)
    return float((count * np.nan_to_num(np.abs(accuracy - confidence))).sum() / len(y))


def wilson_interval(right, n):
    """Wilson's 95 % interval for a share of right answers: (low, high), within 0..1."""
    from scipy import stats

    interval = stats.binomtest(int(right), int(n)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(only_first, only_second):
    """McNemar's exact two-sided p: is the split of the disagreements that of a fair coin?

    Args:
        only_first, only_second: images that the first network alone, and the second alone, has
            right.
    """
    from scipy import stats

    n = only_first + only_second
    return float(stats.binomtest(int(only_first), int(n)).pvalue) if n else 1.0


def paired_bootstrap(differences, resamples=RESAMPLES, seed=0):
    """A 95 % interval for a mean difference, over other test images and other seeds.

    Draws images with replacement, and seeds with replacement, each image with all its seeds: the
    same images met every network. With three seeds the part of the seeds is a rough guess, and
    rather too narrow than too wide.

    Args:
        differences: float (S, N), for each seed and test image, say 1 where only the second network
            was right, -1 where only the first was, 0 otherwise.

    Returns: (low, high).
    """
    rng = np.random.default_rng(seed)
    seeds, images = differences.shape
    # Few different columns exist, so to draw N images is to draw how often each kind comes.
    columns, counts = np.unique(differences, axis=1, return_counts=True)
    drawn = rng.multinomial(images, counts / images, size=resamples) / images
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    means = ((drawn @ columns.T) * weights).sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


# --- the same image twice -------------------------------------------------------------------------


def exact_copies(x, known):
    """Which images of x are among the known ones, pixel for pixel: bool (N,).

    Args:
        x, known: uint8 (N, 32, 32, 3), (K, 32, 32, 3).
    """
    pixels = {image.tobytes() for image in known}
    return np.array([image.tobytes() in pixels for image in x], dtype=bool)


def perceptual_hash(x):
    """Which of an image's 63 slowest waves are stronger than their median: uint64 (N,).

    Args:
        x: uint8 (N, 32, 32, 3).
    """
    size = x.shape[1]
    # The waves of a discrete cosine transform, the slowest first.
    phase = np.outer(np.arange(8), np.arange(size) + 0.5)
    waves = np.cos(np.pi / size * phase).astype(np.float32)
    bit = np.uint64(1) << np.arange(63, dtype=np.uint64)
    hashes = np.empty(len(x), np.uint64)
    for start in range(0, len(x), 512):
        # mean(axis=3) would take ten times as long.
        red, green, blue = x[start:start + 512].transpose(3, 0, 1, 2).astype(np.float32)
        grey = (red + green + blue) / 3
        # Without the first, which is the mean brightness.
        strength = (waves @ grey @ waves.T).reshape(len(grey), 64)[:, 1:]
        above = strength > np.median(strength, axis=1, keepdims=True)
        hashes[start:start + 512] = (above * bit).sum(axis=1, dtype=np.uint64)
    return hashes


def correlation(a, b):
    """Of the pixels of pairs of images, uint8 (P, 32, 32, 3) each: float (P,)."""
    a = a.reshape(len(a), a[0].size if len(a) else 1).astype(np.float64)
    b = b.reshape(a.shape).astype(np.float64)
    a -= a.mean(axis=1, keepdims=True)
    b -= b.mean(axis=1, keepdims=True)
    return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1) + 1e-9)


def near_copies(x, known, hashes=None):
    """Images of x that show the same picture as a known one, mirrored or not.

    A perceptual hash finds the candidates, and correlation decides.

    Args:
        x, known: uint8 (N, 32, 32, 3), (K, 32, 32, 3).
        hashes: perceptual_hash(known), for whoever asks often.

    Returns: int (M, 2) pairs of indices into x and known, one per image of x that has any, and
        their correlations, float (M,), the most alike first.
    """
    best, theirs = {}, perceptual_hash(known) if hashes is None else hashes
    for mirrored in (False, True):
        shown = x[:, :, ::-1] if mirrored else x
        ours = perceptual_hash(shown)
        # So few at a time stay in the processor's cache.
        for start in range(0, len(ours), 16):
            close = np.bitwise_count(ours[start:start + 16, None] ^ theirs[None]) <= BITS_APART
            if not close.any():
                continue
            i, j = np.nonzero(close)
            i += start
            for a, b, like in zip(i, j, correlation(shown[i], known[j])):
                if like >= ALIKE and like > best.get(a, (0, 0))[0]:
                    best[a] = like, b
    found = sorted(((like, a, b) for a, (like, b) in best.items()), reverse=True)
    pairs = np.array([(a, b) for _, a, b in found], dtype=np.int64).reshape(-1, 2)
    return pairs, np.array([like for like, _, _ in found])
