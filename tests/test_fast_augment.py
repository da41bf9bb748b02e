"""The compiled batch and the Pillow image: the same draw, the same pixels, to the bit."""

import threading
import time

import fast_augment
import numpy as np
import pytest

from Rand_Augment import LEVELS, OPERATIONS, Rand_Augment

compiled_only = pytest.mark.skipif(fast_augment.numba is None, reason="numba is not installed")
KINDS = ("photos", "noise", "flat", "two values", "ramps")


@pytest.fixture
def images(photos):
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    ramps = [np.stack([a * rows + b * columns + c * 40 for c in range(3)], axis=-1) for a, b in ((1, 0), (0, 3), (2, 5), (8, 0))]
    return {"photos": photos[:16], "noise": rng.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8),
            "flat": np.full((16, 32, 32, 3), rng.integers(0, 256, (16, 1, 1, 3)), np.uint8),
            "two values": np.where(rng.random((16, 32, 32, 3)) < 0.5, *rng.integers(0, 256, (2, 16, 1, 1, 3))).astype(np.uint8),
            "ramps": np.array(ramps).astype(np.uint8)}


def same_draw(x, op, level, sign):
    return [np.full((len(x), 1), value, np.int8) for value in (op, level, sign)]


def check_operation(x, name):
    op = list(OPERATIONS).index(name)
    for level in range(LEVELS):
        for sign in (-1, 1):
            draw = same_draw(x, op, level, sign)
            np.testing.assert_array_equal(fast_augment.apply(x, *draw), fast_augment.with_pillow(x, *draw), f"{name} {level} {sign}")


@compiled_only
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_level_and_direction_is_pillows_to_the_bit(name, images):
    for kind in KINDS:
        check_operation(images[kind], name)


@compiled_only
@pytest.mark.parametrize("name", OPERATIONS)
def test_on_real_photos_too(name, real_images):
    check_operation(real_images, name)


@compiled_only
@pytest.mark.parametrize("numbers", [0, 1, 2, 4])
@pytest.mark.parametrize("shifted", [False, True])
def test_whole_pipelines_are_the_same(numbers, shifted, images):
    x = np.concatenate([np.tile(images[kind], (8, 1, 1, 1)) for kind in KINDS])
    draw = Rand_Augment(numbers, 10, seed=numbers).draw(len(x))
    windows = fast_augment.draw_windows(len(x), np.random.default_rng(1)) if shifted else None
    before = x.copy()
    out = fast_augment.apply(x, *draw, windows)
    np.testing.assert_array_equal(out, fast_augment.with_pillow(x, *draw, windows))
    np.testing.assert_array_equal(x, before)
    assert numbers == 0 or (out != x).any(axis=(1, 2, 3)).mean() > 0.8


@compiled_only
def test_real_photos_through_whole_pipelines(real_images):
    x = np.tile(real_images, (20, 1, 1, 1))
    for numbers in (2, 4):
        draw = Rand_Augment(numbers, 10, seed=numbers).draw(len(x))
        np.testing.assert_array_equal(fast_augment.apply(x, *draw), fast_augment.with_pillow(x, *draw))


def test_flip_and_crop():
    """Every window and its mirror image occurs, and nothing else."""
    x = np.broadcast_to(np.arange(32 * 32).reshape(32, 32, 1) % 251, (400, 32, 32, 3)).astype(np.uint8)
    nothing = np.empty((3, 400, 0), np.int8)
    windows = fast_augment.draw_windows(400, np.random.default_rng(0))
    out = fast_augment.apply(x, *nothing, windows)
    padded = np.pad(x[0], ((4, 4), (4, 4), (0, 0)), mode="reflect")
    for image, top, left, mirrored in zip(out, *windows):
        window = padded[top:top + 32, left:left + 32]
        np.testing.assert_array_equal(image, window[:, ::-1] if mirrored else window)
    assert set(windows[0]) == set(windows[1]) == set(range(9))
    assert 140 < windows[2].sum() < 260


def test_batches_in_any_memory_order(photos):
    draw = Rand_Augment(2, 10, seed=0).draw(20)
    every_second = photos[::2]
    np.testing.assert_array_equal(fast_augment.apply(every_second, *draw), fast_augment.apply(every_second.copy(), *draw))
    assert fast_augment.apply(photos[:0], *Rand_Augment(2).draw(0)).shape == (0, 32, 32, 3)


@compiled_only
def test_python_goes_on_meanwhile():
    """Another thread runs while a batch is made: at many moments between its beginning and its end."""
    x, span, moments = np.zeros((20_000, 32, 32, 3), np.uint8), [], []
    draw = Rand_Augment(2, 10, seed=0).draw(len(x))
    fast_augment.apply(x[:1], *(part[:1] for part in draw))  # compiled by now

    def work():
        span.append(time.perf_counter())
        fast_augment.apply(x, *draw)
        span.append(time.perf_counter())

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        moments.append(time.perf_counter())
    begin, end = span
    middle = [m for m in moments if begin + (end - begin) / 4 < m < end - (end - begin) / 4]
    assert len(middle) > 100


def test_without_numba_pillow_does_it_and_says_so_once(photos, monkeypatch, capsys):
    draw = Rand_Augment(2, 10, seed=0).draw(len(photos))
    windows = fast_augment.draw_windows(len(photos), np.random.default_rng(1))
    expected = fast_augment.apply(photos, *draw, windows)
    fast_augment.say_that_numba_is_missing.cache_clear()
    capsys.readouterr()
    monkeypatch.setattr(fast_augment, "numba", None)
    for _ in range(2):
        np.testing.assert_array_equal(fast_augment.apply(photos, *draw, windows), expected)
    assert capsys.readouterr().out.count("numba is not installed") == 1


def test_what_does_not_fit_is_refused(photos):
    draw = Rand_Augment(2, 10, seed=0).draw(len(photos))
    with pytest.raises(ValueError, match="float32"):
        fast_augment.apply(photos.astype(np.float32), *draw)
    with pytest.raises(ValueError, match="16, 16"):
        fast_augment.apply(photos[:, :16, :16], *draw)
    with pytest.raises(ValueError, match="7 images, the draw is for 40"):
        fast_augment.apply(photos[:7], *draw)


@compiled_only
@pytest.mark.parametrize("op, level", [(13, 0), (-1, 0), (0, 10), (0, -1)])
def test_a_draw_of_something_else_is_refused(op, level, photos):
    with pytest.raises(ValueError, match="no such operation or level"):
        fast_augment.apply(photos, *same_draw(photos, op, level, 1))
