"""Batches: a function of seed and number, every row as often as the next, and made in time."""

import itertools
import time

import numpy as np
import pytest

from noisy_student.batches import made_ahead, mixed, shuffled
from noisy_student.files import UserError

# Forty rows in batches of 16: passes end within batches. The first row is there three times.
ROWS = np.array([100, 100, 100, *range(200, 237)])


def take(generator, count):
    return list(itertools.islice(generator, count))


def drawn(generator, count):
    return np.concatenate([rows for _, rows in take(generator, count)])


def test_each_pass_draws_every_row_once():
    seen = drawn(shuffled(ROWS, 16, seed=3), 5)
    assert sorted(seen[:40]) == sorted(seen[40:]) == sorted(ROWS)
    assert (seen[:40] != seen[40:]).any() and seen.dtype == np.int64
    # A batch may be larger than a pass.
    assert sorted(drawn(shuffled(ROWS[:5], 32), 1)[:30].tolist()) == sorted([*ROWS[:5]] * 6)


@pytest.mark.parametrize("make", [
    lambda *words: shuffled(ROWS, 16, *words),
    lambda *words: mixed(ROWS, ROWS[::2], 16, 0.3, *words)], ids=["shuffled", "mixed"])
def test_a_batch_depends_on_seed_and_number_alone(make):
    whole, again, other = (take(make(seed), 9) for seed in (5, 5, 6))
    assert [number for number, _ in whole] == list(range(9))
    for k in (1, 2, 3, 7):
        resumed = take(make(5, k), 9 - k)
        for (number, rows), (same_number, same_rows) in zip(whole[k:], resumed):
            assert number == same_number and (rows == same_rows).all()
    assert all((a == b).all() for (_, a), (_, b) in zip(whole, again))
    assert all((a != b).any() for (_, a), (_, b) in zip(whole, other))


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_the_order_of_a_seed_stays_what_it_was(seed):
    expected = [ROWS[np.random.default_rng([seed, number]).permutation(40)] for number in range(3)]
    assert (drawn(shuffled(ROWS, 8, seed), 15) == np.concatenate(expected)).all()


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="at least one row"):
        next(shuffled(ROWS[:0], 4))


@pytest.mark.parametrize("share, count", [(0.25, 4), (1 / 6, 3), (0.9, 14)])
def test_mixed_has_the_exact_share_in_every_batch(share, count):
    labeled, pseudo = np.arange(30), 1000 + np.arange(50)
    seen = np.stack([rows for _, rows in take(mixed(labeled, pseudo, 16, share), 50)])
    assert ((seen < 1000).sum(axis=1) == count).all()
    # Each kind is gone through before any of it comes again.
    ours, theirs = seen[seen < 1000], seen[seen >= 1000]
    assert sorted(ours[:30]) == labeled.tolist() and sorted(theirs[:50]) == pseudo.tolist()


def test_the_two_streams_of_mixed_are_independent():
    rows = np.arange(40)
    seen = np.stack([batch for _, batch in take(mixed(rows, rows, 16, 0.5, seed=1), 10)])
    ours, theirs = seen[:, :8].ravel(), seen[:, 8:].ravel()
    assert (ours == drawn(shuffled(rows, 8, seed=1), 10)).all()
    # Not the same order, nor the same one later on.
    assert max((np.roll(theirs, shift) == ours).mean() for shift in range(80)) < 0.2


def test_share_that_leaves_one_kind_out_is_refused():
    for share in (0.0, 0.01, 0.99, 1.0):
        with pytest.raises(UserError, match=f"both kinds in a batch of 16, got {share}$"):
            next(mixed(ROWS, ROWS, 16, share))


def test_made_ahead_gives_the_same_items_and_their_error():
    def numbers():
        yield from range(100)
        raise ValueError("at the end")

    seen = []
    with pytest.raises(ValueError, match="at the end"):
        for number in made_ahead(numbers()):
            seen.append(number)
    assert seen == list(range(100)) and list(made_ahead(iter([1, 2]))) == [1, 2]


def test_made_ahead_is_ahead_but_not_by_more_than_asked_for():
    made = []
    ahead = made_ahead((made.append(i) or i for i in range(100)), ahead=3)
    assert next(ahead) == 0
    while len(made) < 4:
        time.sleep(0.001)
    time.sleep(0.02)
    # The one in use and three more.
    assert made == [0, 1, 2, 3]
    ahead.close()


def test_made_ahead_ends_with_whoever_used_it():
    made = []
    for _ in made_ahead(made.append(i) or i for i in itertools.count()):
        break
    made_by_then = len(made)
    time.sleep(0.02)
    assert len(made) == made_by_then < 10
