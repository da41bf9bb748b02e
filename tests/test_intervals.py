"""What benchmarks/intervals.py says, made again in part."""

import re

import numpy as np
import pytest
from conftest import ROOT, load_benchmark

TABLE = (ROOT / "results" / "benchmarks" / "intervals.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def intervals():
    return load_benchmark("intervals")


def published(seeds, column):
    """What step 5 answers where the truth is no difference."""
    (row,) = re.findall(rf"^\| {seeds} .*both.*$", TABLE.split("points; the more")[0], re.MULTILINE)
    return float(row.split("|")[3 + column])


@pytest.mark.parametrize("seeds, column", [(2, 2), (3, 0), (5, 1)])
def test_as_often_wrong_as_published(intervals, seeds, column):
    again, seeds_alone, _ = intervals.rates(seeds, intervals.DEVIATIONS[column], draws=3000)
    assert again == pytest.approx(published(seeds, column), abs=1.5)
    # A rule that forgot the images would be found out.
    assert column == 2 or seeds_alone > published(seeds, column) + 3


def test_nothing_that_is_published_is_wrong_more_often_than_six_times_in_a_hundred():
    assert max(published(seeds, column) for seeds in (2, 3, 5) for column in range(5)) <= 6


def test_the_drawn_seeds_differ_as_much_as_told(intervals):
    per_seed, covariance = intervals.experiments(3, 2, difference=1.5, draws=4000)
    assert 100 * per_seed.mean() == pytest.approx(1.5, abs=0.1)
    own = covariance[:, 0, 0] - covariance[:, 0, 1]
    over_seeds = 1e4 * per_seed.var(axis=1, ddof=1).mean()
    assert over_seeds == pytest.approx(2**2 + 1e4 * own.mean(), rel=0.05)
    # 28 % of the images disagree, a third of that for all seeds alike.
    assert covariance[:, 0, 1].mean() == pytest.approx(0.33 * 0.28 / 10_000, rel=0.05)
    assert np.allclose(covariance, covariance.swapaxes(1, 2))
