"""Batches: a function of seed and number, every image as often as the next, noise where asked."""

import hashlib
import itertools

import numpy as np
import pytest
from conftest import TINY, train_student
from PIL import Image

import data_generator as step4
from noisy_student.batches import shuffled
from noisy_student.data import load_data
from noisy_student.files import UserError
from Rand_Augment import Rand_Augment


def take(count, *args, **options):
    generator = step4.data_generator(*args, **options)
    return [next(generator) for _ in range(count)]


@pytest.fixture
def data(photos):
    """40 images, each of a class of its own."""
    return photos, np.eye(len(photos), dtype=np.float32)


def test_without_noise_an_image_is_the_evaluation_input_bit_for_bit(data):
    x, y = data
    for batch, labels in take(9, x, y, 7, False):
        assert batch.dtype == np.uint8 and (batch == x[labels.argmax(axis=1)]).all()
    # Through Pillow and back: no contrast is stretched.
    image, label = step4.get_random_data(x[0], y[0], True, Rand_Augment(Numbers=0))
    assert (image == x[0]).all() and (label == y[0]).all()
    assert (step4.get_random_data(x[0], y[0], False)[0] == x[0]).all()


def test_each_pass_shows_every_image_once(data):
    x, y = data
    # 40 images in batches of 16: passes end within batches.
    seen = np.concatenate([batch for batch, _ in take(5, x, y, 16, False, seed=3)])
    for begin in (0, 40):
        shown = {image.tobytes() for image in seen[begin:begin + 40]}
        assert shown == {image.tobytes() for image in x}
    assert (seen[:40] != seen[40:]).any()


@pytest.mark.parametrize("data_aug", [False, True])
def test_a_batch_depends_on_seed_and_number_alone(data, data_aug):
    def batches(count, seed, first_batch=0):
        order = shuffled(np.arange(len(data[0])), 16, seed, first_batch)
        generator = step4.noisy_batches(*data, order, data_aug, seed, crop="always")
        return list(itertools.islice(generator, count))

    whole, resumed, other = batches(8, 5), batches(5, 5, first_batch=3), batches(8, 6)
    for a, b in zip(whole[3:], resumed, strict=True):
        assert (a[0] == b[0]).all() and (a[1] == b[1]).all()
    assert any((a[0] != b[0]).any() for a, b in zip(whole, other))


def test_noise_changes_images_and_not_labels(data):
    (plain,), (noisy,) = (take(1, *data, 40, data_aug, seed=1) for data_aug in (False, True))
    assert (plain[1] == noisy[1]).all()
    assert (plain[0] != noisy[0]).any(axis=(1, 2, 3)).mean() > 0.9


def test_augmented_batch_is_the_draw_applied_to_each_image(data):
    augment = Rand_Augment(4, 10)
    ((plain, _),) = take(1, *data, 12, False, seed=9)
    ((noisy, _),) = take(1, *data, 12, True, seed=9, augment=augment)
    draws = augment.draw(12, np.random.default_rng([9, 0, 1]))
    for image, expected, *draw in zip(noisy, plain, *draws):
        assert (image == np.asarray(augment.apply(Image.fromarray(expected), *draw))).all()


@pytest.mark.parametrize("crop, data_aug, moves", [
    ("never", True, False), ("never", False, False), ("with-noise", False, False),
    ("with-noise", True, True), ("always", True, True), ("always", False, True)])
def test_images_are_moved_when_they_should_be(data, crop, data_aug, moves):
    x, y = data
    ((batch, labels),) = take(1, x, y, 40, data_aug, augment=Rand_Augment(Numbers=0), crop=crop)
    moved = (batch != x[labels.argmax(axis=1)]).any(axis=(1, 2, 3))
    assert moved.mean() > 0.9 if moves else not moved.any()


@pytest.fixture
def windows():
    """What flip_and_crop cuts out of an image, 400 times: (top, left, -1 if mirrored or else 1).

    Every pixel of the image is another one, so that a window cannot be taken for another.
    """
    image = np.stack([*np.mgrid[:32, :32], np.zeros((32, 32))], axis=-1).astype(np.uint8)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    places = {padded[top:top + 32, left:left + 32][:, ::way].tobytes(): (top, left, way)
              for top in range(9) for left in range(9) for way in (1, -1)}
    batch = step4.flip_and_crop(np.tile(image, (400, 1, 1, 1)), np.random.default_rng(0))
    return [places[image.tobytes()] for image in batch]


def test_images_are_shifted_by_4_pixels_at_most_each_way(windows):
    tops, lefts, _ = zip(*windows)
    assert set(tops) == set(lefts) == set(range(9))


def test_shifts_down_and_to_the_right_are_independent(windows):
    assert len({(top, left) for top, left, _ in windows}) > 75


def test_half_of_the_images_are_mirrored(windows):
    assert 160 < sum(way == -1 for *_, way in windows) < 240


# From version 1.0.
@pytest.mark.parametrize("crop, data_aug, digest", [
    ("never", True, "1ba3706015bc4835"),
    ("with-noise", True, "78fcf2aced7d2edd"),
    ("always", False, "19b25213190d765d")])
def test_a_seed_makes_the_batches_it_always_made(crop, data_aug, digest):
    """So that a run can be repeated with a later version. Operations occur at all levels."""
    x = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    order = shuffled(np.arange(40), 40, seed=5, first_batch=3)
    generator = step4.noisy_batches(x, np.eye(40), order, data_aug, seed=5, crop=crop)
    batches = list(itertools.islice(generator, 20))
    pixels = np.concatenate([batch for batch, _ in batches])
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == digest


def test_empty_or_unequal_arrays_are_refused(data):
    x, y = data
    with pytest.raises(ValueError, match="40 and 39"):
        take(1, x, y[:39], 4, False)
    with pytest.raises(ValueError, match="at least one"):
        take(1, x[:0], y[:0], 4, False)


def test_a_pool_with_test_images_is_refused(toy):
    data = load_data(str(toy), 80)
    rest = data.x[data.rest]
    step4.refuse_overlap(rest, data)
    for held_out in (data.x_test[:1], data.x[data.val[:1]]):
        with pytest.raises(UserError, match="1 of 41 pseudo-labelled images are test or valid"):
            step4.refuse_overlap(np.concatenate([rest, held_out]), data)


# --- the script -----------------------------------------------------------------------------------


@pytest.fixture
def prepared(toy, tmp_path, monkeypatch):
    """Runs the script up to the training: the student, its batches, and the run's arguments."""
    def prepare(*words):
        seen = {}

        def fit_and_finish(model, batches, data, recipe, run, images, tensorboard):
            seen.update(model=model, batches=batches, data=data, run=run)

        monkeypatch.setattr(step4, "fit_and_finish", fit_and_finish)
        train_student("--data", toy, *words, "--log-dir", tmp_path / "student")
        return seen
    return prepare


@pytest.mark.parametrize("noise, dropout, survival, images", [
    ("all", 0.5, 0.8, True), ("model", 0.5, 0.8, False), ("input", 0.0, 1.0, True),
    ("none", 0.0, 1.0, False)])
def test_each_noise_can_be_taken_away_alone(noise, dropout, survival, images, prepared):
    seen = prepared("--pseudo", "none", "--noise", noise, *TINY)
    assert seen["model"].get_layer("dropout").rate == dropout
    last = seen["model"].get_layer("stage4_block1_survival")
    assert last.p_survival == pytest.approx(survival)
    originals = {image.tobytes() for image in seen["data"].x}
    shown, again = (next(seen["batches"](0))[0] for _ in range(2))
    changed = sum(image.tobytes() not in originals for image in shown)
    assert changed > 10 if images else changed == 0
    assert (shown == again).all()
    assert seen["run"].path("batch.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("words, belongs", [
    ("input", True), ("model", False), ("none", False), ("none --flip-and-crop always", True)])
def test_the_code_of_the_operations_belongs_to_a_run_that_uses_them(words, belongs, prepared):
    seen = prepared("--pseudo", "none", *TINY, "--noise", *words.split())
    assert ("operations" in seen["run"].code) == belongs


@pytest.mark.parametrize("share, count", [("0.25", 4), ("0.8", 13), (None, None)])
def test_labeled_share_is_that_of_every_batch(share, count, pseudo, prepared, capsys):
    network = "--recipe fast --depth 14 --width 0.03 --batch-size 16 --noise none".split()
    words = ["--labeled-share", share] if share else []
    seen = prepared("--num-labeled", 80, "--pseudo", pseudo, *network, *words)
    # As many steps as the teacher took, however many pseudo-labels there are.
    assert seen["run"].arguments["steps_per_epoch"] == 3
    data, x = seen["data"], np.load(pseudo / "x.npy")
    ours, theirs = ({image.tobytes() for image in images} for images in (data.x[data.train], x))
    batches, shown = seen["batches"](0), set()
    counts = []
    for _ in range(60):
        images = [image.tobytes() for image in next(batches)[0]]
        counts.append(sum(image in ours for image in images))
        shown |= set(images)
    assert shown == ours | theirs
    printed = capsys.readouterr().out
    if share:
        assert set(counts) == {count}
        steps = 3 * seen["run"].arguments["epochs"]
        assert f", {steps * count / 72:.1f} over the labelled\n" in printed
    else:
        # As they come: 72 of all that there are after balancing.
        expected = 16 * 72 / (72 + len(np.load(pseudo / "index.npy")))
        assert len(set(counts)) > 2 and np.mean(counts) == pytest.approx(expected, rel=0.1)
        assert "over the labelled" not in printed


@pytest.mark.parametrize("words, text", [
    ("0.5 --pseudo none", "--labeled-share: with --pseudo none all images are labelled"),
    ("1", "--labeled-share must leave images of both kinds in a batch of 16, got 1.0"),
    ("0.01", "--labeled-share must leave images of both kinds in a batch of 16, got 0.01")])
def test_a_share_that_leaves_one_kind_out_is_one_line(words, text, pseudo, prepared):
    with pytest.raises(UserError, match=f"^{text}$"):
        prepared("--num-labeled", 80, *TINY, "--pseudo", pseudo, "--labeled-share", *words.split())
