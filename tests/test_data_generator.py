"""Batches: the same for the same seed and place, every image as often as the next, and noise only where asked for."""

import data_generator as step4

import cifar10_resnet50 as step1

import numpy as np
import pytest

from Rand_Augment import Rand_Augment


def take(generator, n):
    return [next(generator) for _ in range(n)]


@pytest.fixture
def data(photos):
    return photos, np.eye(10, dtype=np.float32)[np.arange(len(photos)) % 10]


def test_without_noise_an_image_is_the_evaluation_input_bit_for_bit(data):
    x, y = data
    for batch, labels in take(step4.data_generator(x, y, 7, False), 9):
        assert batch.dtype == np.uint8
        for image, label in zip(batch, labels):
            same = np.flatnonzero((x == image).all(axis=(1, 2, 3)))
            assert len(same) == 1 and (y[same[0]] == label).all()
    image, _ = step4.get_random_data(x[0], y[0], True, Rand_Augment(Numbers=0))
    assert (image == x[0]).all()  # through Pillow and back: no contrast is stretched


def test_each_pass_shows_every_image_once(data):
    x, y = data  # 40 images, batches of 16: passes end within batches
    seen = np.concatenate([batch for batch, _ in take(step4.data_generator(x, y, 16, False, seed=3), 5)])
    for begin in (0, 40):
        assert {image.tobytes() for image in seen[begin:begin + 40]} == {image.tobytes() for image in x}
    assert (seen[:40] != seen[40:]).any()


@pytest.mark.parametrize("data_aug", [False, True])
def test_a_batch_depends_on_seed_and_number_alone(data, data_aug):
    whole = take(step4.data_generator(*data, 16, data_aug, seed=5, flip_and_crop=True), 8)
    resumed = take(step4.data_generator(*data, 16, data_aug, seed=5, first_batch=3, flip_and_crop=True), 5)
    assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(whole[3:], resumed))
    other = take(step4.data_generator(*data, 16, data_aug, seed=6, flip_and_crop=True), 8)
    assert any((a[0] != b[0]).any() for a, b in zip(whole, other))


def test_noise_changes_images_and_not_labels(data):
    plain, noisy = (take(step4.data_generator(*data, 40, data_aug, seed=1), 1)[0] for data_aug in (False, True))
    assert (plain[1] == noisy[1]).all()
    assert (plain[0] != noisy[0]).any(axis=(1, 2, 3)).mean() > 0.9


def test_augmented_batch_is_the_draw_applied_to_each_image(data):
    from PIL import Image

    x, y = data
    augment = Rand_Augment(4, 10)
    plain, _ = next(step4.data_generator(x, y, 12, False, seed=9))
    noisy, _ = next(step4.data_generator(x, y, 12, True, seed=9, augment=augment))
    draws = augment.draw(12, np.random.default_rng([9, 0, 1]))
    for i in range(12):
        assert (np.asarray(augment.apply(Image.fromarray(plain[i]), *(row[i] for row in draws))) == noisy[i]).all()


def test_joined_rows_read_as_one_array():
    a, b = np.arange(20).reshape(10, 2), np.arange(100, 108).reshape(4, 2)
    joined = step1.JoinedRows((a, np.array([9, 0])), (b, np.array([1, 1, 3])))
    whole = np.concatenate([a[[9, 0]], b[[1, 1, 3]]])
    assert len(joined) == 5
    for indices in ([0], [4, 0, 2, 2], [3, 1], []):
        assert (joined[np.array(indices, int)] == whole[np.array(indices, int)]).all()


def test_empty_or_unequal_arrays_are_refused(data):
    x, y = data
    with pytest.raises(ValueError, match="40 and 39"):
        next(step4.data_generator(x, y[:39], 4, False))
    with pytest.raises(ValueError, match="0 and 0"):
        next(step4.data_generator(x[:0], y[:0], 4, False))


def test_a_pool_with_test_images_is_refused(toy):
    data = step1.load_data(str(toy), 80)
    step4.refuse_overlap(data.x[data.rest], data)
    for held_out in (data.x_test[:1], data.x[data.val[:1]]):
        with pytest.raises(step1.UserError, match="1 of 41 pseudo-labelled images are test or validation"):
            step4.refuse_overlap(np.concatenate([data.x[data.rest], held_out]), data)
