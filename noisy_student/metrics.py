"""Accuracy, calibration, confidence intervals, and copies of images. Imports no Keras.

SciPy takes a second or two to import, so that only what needs it does.
"""

from typing import NamedTuple

import numpy as np

# The search for a temperature stays between these.
COLDEST, HOTTEST = 0.05, 20
# Bins of the expected calibration error, as in Guo et al. 2017.
ECE_BINS = 15
# Two images show the same picture if their perceptual hashes differ in at most BITS_APART of 63
# bits and their pixels correlate by ALIKE or more. Both were set by looking at pairs of CIFAR-10's
# test and training images: all but about seven of the 192 pairs show the same picture. With more
# bits, different aeroplanes in plain skies match. Most pairs that correlate less are copies, too:
# these are missed.
BITS_APART, ALIKE = 10, 0.9
# Among images that were labelled one by one, copies are at most this share, or few; and where they
# seem to be more, this share of them may still pass for copies.
PLAUSIBLE, FEW_COPIES, RARE = 0.02, 5, 0.005


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


class Temperature(NamedTuple):
    """What makes a network as sure as it may be, and from where to where it may as well lie."""

    value: float
    # A 95 % interval by likelihood.
    low: float
    high: float

    @property
    def at_bound(self):
        # Logarithm and exponential do not give an end back exactly.
        return self.low < 1.001 * COLDEST or self.high > 0.999 * HOTTEST

    def __str__(self):
        interval = f"{self.low:.2f} to {self.high:.2f}"
        if self.low <= 1 <= self.high:
            return f"temperature 1: the validation images ask for no other ({interval})"
        if self.at_bound:
            return (f"temperature {self.value:.3f}: the validation images do not determine it "
                    f"({interval}, an end of the search), so the end nearest to 1 is taken")
        return f"temperature {self.value:.3f} ({interval})"


def fit_temperature(probabilities, t):
    """The temperature that minimises cross-entropy on labels t (Guo et al. 2017), as far as known.

    An over-confident network gets more than 1. Its most probable class never changes. Few images
    hardly determine a temperature. All those whose likelihood is not much worse than the best one's
    are its interval (half of a chi-squared's 95 % quantile, in nats). If 1 is among them, it is 1,
    so that nothing becomes surer but what the images call for; if they reach the end of what is
    searched, COLDEST to HOTTEST, it is the one nearest to 1.

    Args:
        probabilities: (N, C). t: (N, C), one-hot or soft.

    Returns: a Temperature.
    """
    from scipy import optimize, stats

    def loss(log_temperature):
        return len(t) * score(with_temperature(probabilities, np.exp(log_temperature)), t)[0]

    ends = np.log((COLDEST, HOTTEST))
    best = optimize.minimize_scalar(loss, bounds=ends, method="bounded")

    def too_much(log_temperature):
        return loss(log_temperature) - best.fun - stats.chi2.isf(0.05, df=1) / 2

    interval = [end if too_much(end) <= 0 else optimize.brentq(too_much, best.x, end)
                for end in ends]
    value, low, high = map(float, np.exp([best.x, *interval]))
    if low <= 1 <= high:
        value = 1.0
    elif Temperature(value, low, high).at_bound:
        value = high if high < 1 else low
    return Temperature(value, low, high)


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


def covariance_over_images(means, products, images):
    """Covariance between seeds of their mean differences, if other images were tested.

    It adds half an image that only the first network has right, and half a one that only the second
    has, as in Agresti and Min 2005: networks that agree on a few images need not be the same.

    Args:
        means: float (..., S), each seed's mean difference. products: float (..., S, S), the mean
            over images of the product of two seeds' differences. images: how many were tested.

    Returns: float (..., S, S).
    """
    covariance = products - means[..., :, None] * means[..., None, :]
    return (images * covariance + 1) / (images + 2) ** 2


def interval_over_seeds(per_seed, covariance):
    """95 % intervals for what other seeds and other test images would give: the widest of three.

    Student's t over the seeds allows for the few there are, but not for the test images that they
    share. The variance of these is added to that over seeds, with Satterthwaite's degrees of
    freedom. And where few seeds agree by chance, other images alone would change more.
    benchmarks/intervals.py measures how often all that is right. One seed has an interval over
    images alone: it says nothing about other seeds.

    Args:
        per_seed: float (..., S), each seed's difference. covariance: covariance_over_images.

    Returns: low, high and the two-sided p, each (...).
    """
    from scipy import stats

    mean, seeds = per_seed.mean(axis=-1), per_seed.shape[-1]
    over_images = covariance.mean(axis=(-1, -2))
    # Variance and degrees of freedom.
    candidates = [(over_images, np.inf)]
    if seeds > 1:
        # Where all seeds agree, the variance is 0, and it is divided by.
        over_seeds = np.maximum(per_seed.var(axis=-1, ddof=1) / seeds, 1e-12)
        own = np.trace(covariance, axis1=-2, axis2=-1) / seeds
        shared = np.maximum(0, (seeds * over_images - own) / (seeds - 1))
        both = over_seeds + shared
        candidates += [(over_seeds, seeds - 1), (both, (seeds - 1) * (both / over_seeds) ** 2)]
    half = np.max([stats.t.isf(0.025, freedom) * np.sqrt(variance)
                   for variance, freedom in candidates], axis=0)
    p = np.max([2 * stats.t.sf(abs(mean) / np.sqrt(variance), freedom)
                for variance, freedom in candidates], axis=0)
    return mean - half, mean + half, p


def paired_interval(differences):
    """A 95 % interval for a mean difference, over other seeds and other test images.

    Args:
        differences: float (S, N), for each seed and test image, say 1 where only the second network
            was right, -1 where only the first was, 0 otherwise.

    Returns: low, high, and the two-sided p, which is below 0.05 where the interval is off 0.
    """
    images, per_seed = differences.shape[1], differences.mean(axis=1)
    products = differences @ differences.T / images
    covariance = covariance_over_images(per_seed, products, images)
    return tuple(map(float, interval_over_seeds(per_seed, covariance)))


def holm(p, level=0.05):
    """Which of several answers stand together, by Holm 1979: list of bool.

    With a probability of at most `level`, one or more of them stand where the truth is "nothing".

    Args:
        p: one for each answer.
    """
    stand = [False] * len(p)
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[i] > level / (len(p) - rank):
            break
        stand[i] = True
    return stand


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
        # The first wave is left out: it is the mean brightness.
        strength = (waves @ grey @ waves.T).reshape(len(grey), 64)[:, 1:]
        above = strength > np.median(strength, axis=1, keepdims=True)
        hashes[start:start + 512] = (above * bit).sum(axis=1, dtype=np.uint64)
    return hashes


def correlation(a, b):
    """Pearson's correlation of the pixels of pairs of images, uint8 (P, 32, 32, 3): float (P,)."""
    a = a.reshape(len(a), a[0].size if len(a) else 1).astype(np.float64)
    b = b.reshape(a.shape).astype(np.float64)
    a -= a.mean(axis=1, keepdims=True)
    b -= b.mean(axis=1, keepdims=True)
    return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1) + 1e-9)


def alike_from(known, hashes):
    """From which correlation on two images of this kind show the same picture.

    Handwritten digits look more like each other than photos do. Images that were labelled one by
    one are nearly all different pictures: where more of them than PLAUSIBLE pass for copies of
    others, the limit is the correlation that only a RARE one of them reaches, and not ALIKE.

    Args:
        known: uint8 (K, 32, 32, 3), labelled images, and perceptual_hash(known).

    Returns: the correlation, and the share of images that would pass for copies at ALIKE.
    """
    rows = np.arange(0, len(known), max(1, len(known) // 1000))
    _, alike = near_copies(known[rows], known, hashes, own=rows)
    share = len(alike) / max(len(rows), 1)
    if len(alike) < FEW_COPIES or share <= PLAUSIBLE:
        return ALIKE, share
    return float(alike[int(RARE * len(rows))]), share


def near_copies(x, known, hashes=None, alike=ALIKE, own=None):
    """Images of x that show the same picture as a known one, mirrored or not.

    A perceptual hash finds the candidates, and correlation decides.

    Args:
        x, known: uint8 (N, 32, 32, 3), (K, 32, 32, 3).
        hashes: perceptual_hash(known), for whoever asks often.
        alike: the least correlation of two copies.
        own: int (N,), where each image of x is among the known ones: it is no copy of itself.

    Returns: int (M, 2) pairs of indices into x and known, one per image of x that has any, and
        their correlations, float (M,), the most alike first.
    """
    best, theirs = {}, perceptual_hash(known) if hashes is None else hashes
    for mirrored in (False, True):
        images = x[:, :, ::-1] if mirrored else x
        ours = perceptual_hash(images)
        # 16 at a time stay in the processor's cache.
        for start in range(0, len(ours), 16):
            close = np.bitwise_count(ours[start:start + 16, None] ^ theirs[None]) <= BITS_APART
            if not close.any():
                continue
            i, j = np.nonzero(close)
            i += start
            if own is not None:
                i, j = i[own[i] != j], j[own[i] != j]
            for a, b, like in zip(i, j, correlation(images[i], known[j])):
                if like >= alike and like > best.get(a, (0, 0))[0]:
                    best[a] = like, b
    copies = sorted(((like, a, b) for a, (like, b) in best.items()), reverse=True)
    pairs = np.array([(a, b) for _, a, b in copies], dtype=np.int64).reshape(-1, 2)
    return pairs, np.array([like for like, _, _ in copies])
