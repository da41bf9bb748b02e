"""How often does step 5 say "shown" where nothing is there to be shown?

    python benchmarks/intervals.py          # a minute on one core

Draws experiments whose truth is known. Two networks of each seed see the same test images and
disagree on 28 % of them, a third of which is the same for all seeds: as in results/real. How much
better the second one truly is differs between seeds by a standard deviation of 0 to 2 points; there
it is 0.2 to 2.4.

Writes results/benchmarks/intervals.md
"""

import argparse
import itertools

import numpy as np
from measure import table, write

from noisy_student.metrics import covariance_over_images, interval_over_seeds

IMAGES = 10_000
# Each of two networks alone is right on this share of the images; and how much of that is the same
# for all seeds.
DISAGREE, SHARED = 0.14, 0.33
SEEDS, DEVIATIONS = (1, 2, 3, 5), (0, 0.5, 1, 1.5, 2)
# At 5 %, 10,000 draws are within 0.4 points.
DRAWS = 10_000


def experiments(seeds, deviation, difference=0.0, draws=DRAWS, rng=None):
    """Draws of what all seeds' networks say about the test images.

    Args:
        deviation, difference: standard deviation over seeds, and mean, of the true difference
            between two networks, points.

    Returns: each seed's measured difference, 0..1, float (draws, seeds), and their
        covariance_over_images (draws, seeds, seeds).
    """
    rng = rng or np.random.default_rng(1)
    # An image is described by who alone is right about it with each seed: the second, the first
    # (-1), or neither.
    kinds = np.array(list(itertools.product((-1, 0, 1), repeat=seeds)))
    # The part of the seeds' own has to make up for what is the same for all.
    shift = rng.normal(difference, deviation, (draws, seeds)) / 100 / (1 - SHARED) / 2
    own = np.stack([DISAGREE - shift, np.full_like(shift, 1 - 2 * DISAGREE), DISAGREE + shift])
    probability = np.ones((draws, len(kinds)))
    for seed in range(seeds):
        probability *= own[kinds[:, seed] + 1, :, seed].T
    probability *= 1 - SHARED
    for value, share in ((-1, DISAGREE), (0, 1 - 2 * DISAGREE), (1, DISAGREE)):
        probability[:, (kinds == value).all(axis=1)] += SHARED * share
    counts = rng.multinomial(IMAGES, probability) / IMAGES
    means = counts @ kinds
    products = np.einsum("dk,ki,kj->dij", counts, kinds, kinds, optimize=True)
    return means, covariance_over_images(means, products, IMAGES)


def shown(per_seed, covariance):
    """How many in a hundred of the experiments show a difference."""
    low, high, _ = interval_over_seeds(per_seed, covariance)
    return 100 * float(((low > 0) | (high < 0)).mean())


def rates(seeds, deviation, difference=0.0, draws=DRAWS):
    """How many in a hundred show a difference: by step 5, by the seeds and by the images alone."""
    per_seed, covariance = experiments(seeds, deviation, difference, draws)
    # As if all images there are had been tested; and as if one seed were all.
    no_images = np.zeros_like(covariance)
    mean, of_mean = per_seed.mean(axis=1, keepdims=True), covariance.mean(axis=(1, 2))
    return (shown(per_seed, covariance), shown(per_seed, no_images + np.finfo(float).tiny),
            shown(mean, of_mean[:, None, None]))


def rows(difference):
    """For each number of seeds and each rule, its rates at all deviations."""
    found = []
    for seeds in SEEDS:
        of_rule = zip(*(rates(seeds, deviation, difference) for deviation in DEVIATIONS))
        for name, values in zip(("**both: step 5**", "seeds alone", "images alone"), of_rule):
            # One seed has no interval over seeds, and by that over images nothing is called shown.
            if seeds > 1 or name == "images alone":
                found.append([seeds, name, *(f"{value:.1f}" for value in values)])
    return found


def main():
    argparse.ArgumentParser(description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    head = ["seeds", "interval over", *(f"sd {deviation:g}" for deviation in DEVIATIONS)]
    write("intervals", "How often is a difference shown?",
          f"Of {DRAWS:,} drawn experiments each, in %, with {IMAGES:,} test images; sd: standard "
          "deviation over seeds of the true difference, points. From one seed, step 5 calls "
          "nothing shown.",
          "Where the truth is no difference; 5 would be right:", table(head, rows(0)),
          "Where the truth is a difference of 3 points; the more the better:",
          table(head, rows(3)))


if __name__ == "__main__":
    main()
