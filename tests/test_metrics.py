"""Statistics by hand and against SciPy; copies that are found, and other images that are not."""

import io

import numpy as np
import pytest
import scipy.stats
from PIL import Image, ImageEnhance

from noisy_student import figures, metrics


def test_score_by_hand():
    probabilities = np.array([[0.5, 0.5, 0], [0.1, 0.7, 0.2], [0, 0, 1]], dtype=np.float32)
    loss, accuracy = metrics.score(probabilities, np.eye(3)[[0, 2, 2]])
    assert loss == pytest.approx(-(np.log(0.5) + np.log(0.2)) / 3) and accuracy == 2 / 3
    # Soft labels; and a zero where there should be none costs much, not infinitely much.
    soft, _ = metrics.score(probabilities[:1], np.array([[0.25, 0.75, 0]]))
    assert soft == pytest.approx(np.log(2))
    assert metrics.score(probabilities[2:], np.eye(3)[[0]])[0] == pytest.approx(87.34, abs=0.01)


def test_temperature_divides_logits():
    logits = np.random.default_rng(0).normal(size=(50, 4))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for temperature in (0.5, 1, 3):
        cooled = np.exp(logits / temperature)
        expected = cooled / cooled.sum(axis=1, keepdims=True)
        assert metrics.with_temperature(p, temperature) == pytest.approx(expected, abs=1e-6)
    sure = metrics.with_temperature(np.array([[1.0, 0.0]], dtype=np.float32), 20)
    assert sure.dtype == np.float32
    assert sure[0, 0] == pytest.approx(1 / (1 + np.exp(-87.34 / 20)), abs=1e-5)


def drawn(count, seed=1):
    """Probabilities that mean what they say, and labels drawn from them: (count, 5), (count, 5)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 5)) * 2
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return p, np.eye(5)[[rng.choice(5, p=row) for row in p]]


@pytest.mark.parametrize("wrong_by", [0.4, 2.5])
def test_the_temperature_that_was_taken_away_is_found(wrong_by):
    p, t = drawn(4000)
    # Overconfident where it is above 1.
    said = metrics.with_temperature(p, 1 / wrong_by)
    found = metrics.fit_temperature(said, t)
    assert found.value == pytest.approx(wrong_by, rel=0.06)
    assert found.low < wrong_by < found.high < 1.2 * found.low and not found.at_bound
    after = metrics.with_temperature(said, found.value)
    assert metrics.score(after, t)[0] < metrics.score(said, t)[0]
    assert (after.argmax(axis=1) == said.argmax(axis=1)).all()


def test_temperature_of_coins_by_hand():
    # Right 6 times of 10 where 0.8 is said: a temperature of log 4 / log 1.5 says 0.6.
    said, t = np.tile([0.8, 0.2], (10, 1)), np.eye(2)[[0] * 6 + [1] * 4]
    found = metrics.fit_temperature(np.tile(said, (40, 1)), np.tile(t, (40, 1)))
    assert found.value == pytest.approx(np.log(4) / np.log(1.5), rel=1e-3)
    for end in (found.low, found.high):
        # By definition of the interval.
        p = 0.8 ** (1 / end) / (0.8 ** (1 / end) + 0.2 ** (1 / end))
        worse = 240 * np.log(0.6 / p) + 160 * np.log(0.4 / (1 - p))
        assert worse == pytest.approx(scipy.stats.chi2.isf(0.05, 1) / 2, rel=1e-3)
    # Ten images do not tell that from 1.
    few = metrics.fit_temperature(said, t)
    assert few.low < 1 < few.value + 1e-9 < few.high and few.value == 1


def test_a_temperature_at_the_end_of_the_search_is_not_believed():
    # No more right than by chance, and quite sure: any high temperature will do.
    said, t = np.tile([0.99, 0.01], (16, 1)), np.eye(2)[[0, 1] * 8]
    high = metrics.fit_temperature(said, t)
    assert high.at_bound and high.high == pytest.approx(20) and 1 < high.value == high.low < 10
    assert "do not determine it" in str(high)
    # All right, and unsure: any low one.
    low = metrics.fit_temperature(np.tile([0.6, 0.4], (16, 1)), np.eye(2)[[0] * 16])
    assert low.at_bound and low.low == pytest.approx(0.05) and 0.1 < low.value == low.high < 1


def test_few_images_make_nothing_surer():
    p, t = drawn(15, seed=3)
    found = metrics.fit_temperature(metrics.with_temperature(p, 1.3), t)
    assert found.low < 0.8 and found.value == 1 and "ask for no other" in str(found)


def test_by_confidence_by_hand():
    # Bins are (low, high]: 0.5 is in the fifth, 1 in the last, and 0 in the first.
    confidence, right = [0.95, 0.93, 0.55, 1.0, 0.5, 0.0], [1, 0, 1, 1, 0, 0]
    count, mean, accuracy = metrics.by_confidence(confidence, right)
    assert count.tolist() == [1, 0, 0, 0, 1, 1, 0, 0, 0, 3]
    assert accuracy[[0, 4, 5, 9]] == pytest.approx([0, 0, 1, 2 / 3])
    assert mean[[0, 4, 5, 9]] == pytest.approx([0, 0.5, 0.55, 2.88 / 3])
    assert np.isnan(accuracy[[1, 2, 3, 6, 7, 8]]).all() and np.isnan(mean[1])


def test_expected_calibration_error_by_hand():
    p = np.array([[0.95, 0.05], [0.93, 0.07], [0.61, 0.39], [0.4, 0.6]])
    # Right, wrong, right, wrong, each in a bin of its own: (14/15, 1], (13/15, 14/15],
    # (9/15, 10/15], (8/15, 9/15].
    y = np.array([0, 1, 0, 0])
    error = metrics.expected_calibration_error(p, y)
    assert error == pytest.approx((0.05 + 0.93 + 0.39 + 0.6) / 4)
    count, confidence, accuracy = metrics.by_confidence(p.max(axis=1), [1, 0, 1, 0], 15)
    assert count[[8, 9, 13, 14]].tolist() == [1, 1, 1, 1] and count.sum() == 4
    assert (confidence[14], accuracy[14]) == (pytest.approx(0.95), 1) and np.isnan(accuracy[0])
    sure = np.array([[1.0, 0.0]] * 4)
    assert metrics.expected_calibration_error(sure, np.zeros(4, int)) == 0
    # 100 answers at 0.7 of which 70 are right are calibrated; at 0.9 they are off by 0.2.
    y = np.repeat([0, 1], [70, 30])
    for said, expected in ((0.7, 0), (0.9, 0.2)):
        p = np.tile([said, 1 - said], (100, 1))
        assert metrics.expected_calibration_error(p, y) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("right, n, low, high", [
    # Newcombe 1998, table I.
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718)])
def test_wilson_interval_by_hand(right, n, low, high):
    assert metrics.wilson_interval(right, n) == pytest.approx((low, high), abs=6e-5)
    # Wrong answers have the mirrored interval.
    mirrored = (pytest.approx(1 - high, abs=6e-5), pytest.approx(1 - low, abs=6e-5))
    assert metrics.wilson_interval(n - right, n) == mirrored


def test_wilson_interval_of_what_cannot_be():
    assert metrics.wilson_interval(20, 20)[1] == 1
    for right, n in ((5, 4), (-1, 4), (0, 0)):
        with pytest.raises(ValueError):
            metrics.wilson_interval(right, n)


def test_mcnemar_by_hand():
    # 10 coins: none or one of the rarer side, twice.
    assert metrics.mcnemar(1, 9) == metrics.mcnemar(9, 1) == pytest.approx(2 * (1 + 10) / 1024)
    assert metrics.mcnemar(0, 5) == metrics.mcnemar(5, 0) == pytest.approx(2 / 32)
    assert metrics.mcnemar(3, 11) == pytest.approx(2 * (1 + 14 + 91 + 364) / 2**14)
    assert metrics.mcnemar(0, 0) == metrics.mcnemar(4, 4) == 1
    # With thousands of them, the normal distribution tells nearly the same.
    z = (1731 - 1500 - 1) / np.sqrt(1500 + 1731)
    assert metrics.mcnemar(1500, 1731) == pytest.approx(2 * scipy.stats.norm.sf(z), rel=0.01)


def test_the_articles_table_shows_no_effect_of_pseudo_labels():
    # 94.14 -> 94.28 % of 10,000: 14 images more. Even if the two networks disagreed on only 300
    # images, a coin does that.
    assert metrics.mcnemar(143, 157) == pytest.approx(0.45, abs=0.01)
    assert metrics.mcnemar(693, 707) > 0.7


def test_interval_of_one_seed_is_that_of_its_images():
    differences = np.random.default_rng(1).choice([-1.0, 0, 1], p=[0.08, 0.8, 0.12], size=(1, 2000))
    low, high, p = metrics.paired_interval(differences)
    scipys = scipy.stats.bootstrap((differences[0],), np.mean, n_resamples=5000, batch=500, rng=0,
                                   method="percentile").confidence_interval
    assert (low, high) == pytest.approx((scipys.low, scipys.high), abs=0.001)
    half, mean = 1.96 * differences.std() / np.sqrt(2000), differences.mean()
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=2e-5)
    assert p == pytest.approx(scipy.stats.ttest_1samp(differences[0], 0).pvalue, rel=0.1)


def test_images_that_all_say_the_same_are_not_certain():
    # By hand: half an image more each way, so a variance of 1 / 6^2.
    interval = metrics.paired_interval(np.zeros((1, 4)))
    assert interval == pytest.approx((-1.96 / 6, 1.96 / 6, 1), abs=1e-4)


def in_blocks(*shares, images=100_000):
    """Differences of seeds that disagree on no image: (S, images), and hardly a share of any."""
    rows = np.zeros((len(shares), images))
    for row, share in zip(rows, shares):
        row[:round(share * images)] = 1
    return rows


def test_where_seeds_differ_the_interval_is_students():
    seeds = in_blocks(0.02, 0.05, 0.09)
    expected = scipy.stats.ttest_1samp([0.02, 0.05, 0.09], 0)
    interval = expected.confidence_interval(0.95)
    low, high, p = metrics.paired_interval(seeds)
    assert (low, high) == pytest.approx((interval.low, interval.high), rel=0.01)
    assert low > interval.low - 0.001 and p == pytest.approx(expected.pvalue, rel=0.01)


def test_seeds_that_agree_by_chance_do_not_narrow_the_interval():
    # All seeds say the same of the same images: that is the images of one seed.
    one = np.random.default_rng(2).choice([-1.0, 0.0, 1.0], size=(1, 400))
    alone = metrics.paired_interval(one)
    assert metrics.paired_interval(np.repeat(one, 3, axis=0)) == pytest.approx(alone, rel=1e-3)


def test_many_seeds_do_not_outvote_the_images_that_they_share():
    rng = np.random.default_rng(3)
    shared = rng.choice([-1.0, 0.0, 1.0], size=500)
    # Each seed has a third of the images for itself.
    seeds = np.array([np.where(rng.random(500) < 1 / 3, rng.choice([-1.0, 0.0, 1.0], size=500),
                               shared) for _ in range(50)])
    low, high, _ = metrics.paired_interval(seeds)
    within_seeds = np.diff(scipy.stats.ttest_1samp(seeds.mean(axis=1), 0).confidence_interval(0.95))
    # The shared 4/9 of the variance of 2/3, over 500 images.
    assert high - low > 2 * 1.96 * np.sqrt(4 / 9 * 2 / 3 / 500) * 0.9 > 2 * within_seeds


def test_holm_by_hand():
    # 0.01 < 0.05 / 4 and 0.015 < 0.05 / 3, but 0.03 > 0.05 / 2, so that 0.04 < 0.05 comes too late.
    assert metrics.holm([0.03, 0.01, 0.04, 0.015]) == [False, True, False, True]
    assert metrics.holm([]) == [] and metrics.holm([0.05]) == [True]
    assert metrics.holm([0.02] * 3) == [False] * 3


# --- the same image twice -------------------------------------------------------------------------


def pictures(count, seed):
    """Smooth random pictures, no two alike: uint8 (count, 32, 32, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC))
                     for image in small])


def altered(image):
    """Darker, mirrored and compressed."""
    image = ImageEnhance.Brightness(Image.fromarray(image[:, ::-1])).enhance(0.8)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, subsampling=0)
    return np.asarray(Image.open(file))


def test_exact_copies_are_found():
    x_test, x = pictures(20, 0), pictures(50, 1)
    assert not metrics.exact_copies(x_test, x).any()
    x[[3, 7, 8]] = x_test[[5, 6, 6]]
    # Test images, however often they are there.
    assert np.flatnonzero(metrics.exact_copies(x_test, x)).tolist() == [5, 6]
    assert metrics.exact_copies(x_test[:0], x).shape == (0,)


def test_altered_copies_are_found_and_others_are_not(tmp_path):
    x_test, x = pictures(20, 0), pictures(300, 1)
    assert len(metrics.near_copies(x_test, x)[0]) == 0
    x[40], x[41], x[42] = x_test[2], altered(x_test[9]), altered(altered(x_test[11]))
    pairs, alike = metrics.near_copies(x_test, x)
    assert sorted(map(tuple, pairs.tolist())) == [(2, 40), (9, 41), (11, 42)]
    assert (np.diff(alike) <= 0).all() and alike[0] > 0.9999 and tuple(pairs[0]) == (2, 40)
    drawn = figures.pairs(x_test, x, pairs, alike, tmp_path / "pairs.png")
    assert Image.open(drawn).width > 100


def test_hash_does_not_mind_brightness():
    x = pictures(10, 2)
    ours, theirs = metrics.perceptual_hash(x), metrics.perceptual_hash((x * 0.7).astype(np.uint8))
    apart = np.bitwise_count(ours[:, None] ^ theirs[None])
    assert apart.diagonal().max() <= 4 < apart[~np.eye(10, dtype=bool)].min()


def test_correlation_by_hand():
    ramp = np.tile(np.arange(32, dtype=np.uint8)[:, None, None], (1, 1, 32, 3))
    found = metrics.correlation(np.concatenate([ramp] * 3),
                                np.concatenate([5 * ramp, 255 - ramp, ramp.swapaxes(1, 2)]))
    assert found == pytest.approx([1, -1, 0], abs=1e-6)


def smooth(rng, count):
    """Pictures of slow waves, float (count, 32, 32, 3), 0..1."""
    waves = rng.normal(size=(count, 32, 32, 3)).cumsum(axis=1).cumsum(axis=2)
    low, high = waves.min(axis=(1, 2), keepdims=True), waves.max(axis=(1, 2), keepdims=True)
    return (waves - low) / (high - low)


def test_pictures_that_resemble_each_other_are_no_copies_of_each_other():
    rng = np.random.default_rng(0)
    # Different pictures of one kind, as digits are.
    pictures = (20 + 210 * (0.7 * smooth(rng, 1) + 0.3 * smooth(rng, 400))).astype(np.uint8)
    known, others = pictures[:200], pictures[200:]
    hashes = metrics.perceptual_hash(known)
    alike, share = metrics.alike_from(known, hashes)
    assert share > 0.9 and len(metrics.near_copies(others, known)[0]) > 180
    assert len(metrics.near_copies(others, known, hashes, alike)[0]) <= 4
    copies = (known + rng.integers(-3, 4, known.shape)).astype(np.uint8)
    assert len(metrics.near_copies(copies, known, hashes, alike)[0]) == 200


def test_a_few_copies_among_the_known_change_nothing_of_what_a_copy_is():
    known = (20 + 210 * smooth(np.random.default_rng(0), 200)).astype(np.uint8)
    known[1:4:2] = known[0:3:2] + 1
    assert metrics.alike_from(known, metrics.perceptual_hash(known)) == (metrics.ALIKE, 0.02)
