"""Batches that depend on a seed and their number alone, made while the last one is trained on."""

import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from noisy_student.files import UserError


def shuffled(rows, batch_size, seed=0, first_batch=0, stream=0):
    """Endless batches of `rows`, shuffled anew in every pass; a pass may end within a batch.

    Batch number k depends on the seed and on k alone. A resumed run starts at the batch where it
    was killed, and sees what it would have seen.

    Args:
        rows: int (N,), what to draw from; a row that is there three times is drawn three times.
        first_batch: number of the first batch to yield.
        stream: tells streams of one seed apart.

    Yields: (number, int64 (batch_size,)).
    """
    if len(rows) == 0:
        raise ValueError("rows must hold at least one row")
    number, current, order = first_batch, None, None
    while True:
        position = np.arange(number * batch_size, (number + 1) * batch_size)
        batch = np.empty(batch_size, dtype=np.int64)
        for this_pass in np.unique(position // len(rows)):
            if this_pass != current:
                rng = np.random.default_rng([seed, this_pass, 0, stream])
                current, order = this_pass, rows[rng.permutation(len(rows))]
            inside = position // len(rows) == this_pass
            batch[inside] = order[position[inside] % len(rows)]
        yield number, batch
        number += 1


def labeled_in_batch(batch_size, labeled_share):
    """How many images of a batch are labelled ones: the share, rounded to whole images.

    Raises: UserError, where that leaves no images of one kind.
    """
    count = round(labeled_share * batch_size)
    if not 0 < count < batch_size:
        raise UserError(f"--labeled-share must leave images of both kinds in a batch of "
                        f"{batch_size}, got {labeled_share}")
    return count


def mixed(labeled, pseudo, batch_size, labeled_share, seed=0, first_batch=0):
    """The same, where a fixed share of every batch is drawn from the labelled images.

    As in the paper's own code (one labelled image to five others) and FixMatch (one to seven).

    Args:
        labeled, pseudo: int arrays, the rows of either kind.
        labeled_share: in (0, 1), of each batch; see labeled_in_batch.
    """
    count = labeled_in_batch(batch_size, labeled_share)
    ours = shuffled(labeled, count, seed, first_batch)
    theirs = shuffled(pseudo, batch_size - count, seed, first_batch, stream=1)
    for (number, a), (_, b) in zip(ours, theirs):
        yield number, np.concatenate([a, b])


def in_batches(items, size):
    """Lists of `size` items each, the last one of what is left."""
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def made_ahead(items, ahead=2):
    """The same items in the same order; the next are made in a thread while the last is used.

    Args:
        items: an iterator, endless or not, that never yields None.
    """
    maker = ThreadPoolExecutor(1)
    try:
        waiting = deque(maker.submit(next, items, None) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(maker.submit(next, items, None))
            yield item
    finally:
        maker.shutdown(cancel_futures=True)
