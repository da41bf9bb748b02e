"""RandAugment: every operation does what it says, by how much it says, as often as it says."""

import numpy as np
import pytest
from PIL import Image, ImageOps

import Rand_Augment as step4
from Rand_Augment import LEVELS, OPERATIONS, Rand_Augment

GRADED = [name for name in OPERATIONS if name not in ("autocontrast", "equalize")]


def change(images, name, level, sign):
    augment = Rand_Augment()
    return np.mean([np.abs(np.asarray(augment.test_single_operation(Image.fromarray(x), name, level, sign), float) - x).mean()
                    for x in images])


@pytest.mark.parametrize("name", GRADED)
@pytest.mark.parametrize("sign", [-1, 1])
def test_stronger_level_is_a_stronger_effect(name, sign, real_images):
    effect = [change(real_images, name, level, sign) for level in range(LEVELS)]
    assert effect[0] > 0  # no level does nothing
    assert all(np.diff(effect) >= 0), effect
    assert effect[-1] > 2 * effect[0], effect


@pytest.mark.parametrize("name", [name for name in GRADED if name != "posterize"])
def test_no_two_levels_are_the_same(name, photos):
    image = Image.fromarray(photos[0])
    results = {np.asarray(Rand_Augment().test_single_operation(image, name, level)).tobytes() for level in range(LEVELS)}
    assert len(results) == LEVELS and image.tobytes() not in results


def test_ranges():
    assert [OPERATIONS["posterize"][1][0], OPERATIONS["posterize"][1][-1]] == [7, 4]
    assert all(type(bits) is int for bits in OPERATIONS["posterize"][1])
    assert OPERATIONS["solarize"][1][-1] == 0
    assert OPERATIONS["rotate"][1] == pytest.approx(np.arange(3, 31, 3))
    assert np.multiply(OPERATIONS["translateX"][1], 32) == pytest.approx(np.arange(1, 11))


def test_equalize_and_strongest_solarize(photos):
    image = Image.fromarray(photos[0])
    assert Rand_Augment().test_single_operation(image, "equalize") == ImageOps.equalize(image) != image
    assert Rand_Augment().test_single_operation(image, "solarize") == ImageOps.invert(image)  # why invert is not drawn


@pytest.mark.parametrize("name", ["rotate", "shearX", "shearY", "translateX", "translateY"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_what_is_uncovered_is_grey(name, sign):
    white = Image.new("RGB", (32, 32), "white")
    result = np.asarray(Rand_Augment().test_single_operation(white, name, -1, sign))
    corners = result[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 128).all(axis=1).any()
    assert set(np.unique(result[:, :, 0])) >= {128, 255} and (result[..., 0] == result[..., 2]).all()


def test_rotation_goes_both_ways(photos):
    image = Image.fromarray(photos[0])
    left, right = (Rand_Augment().test_single_operation(image, "rotate", 9, sign) for sign in (-1, 1))
    assert left == image.rotate(-30, fillcolor=(128,) * 3) and right == image.rotate(30, fillcolor=(128,) * 3)


def test_translation_is_whole_pixels(photos):
    image = Rand_Augment().test_single_operation(Image.fromarray(photos[0]), "translateX", 4, 1)
    assert (np.asarray(image)[:, :27] == photos[0][:, 5:]).all() and (np.asarray(image)[:, 27:] == 128).all()


def test_one_seed_one_stream():
    draws = [Rand_Augment(2, 10, seed).draw(50) for seed in (1, 1, 2)]
    assert all((a == b).all() for a, b in zip(draws[0], draws[1]))
    assert any((a != b).any() for a, b in zip(draws[0], draws[2]))
    np.random.seed(0)  # the global generator plays no part
    assert all((a == b).all() for a, b in zip(Rand_Augment(2, 10, 1).draw(50), draws[0]))


def test_calling_is_drawing_and_applying(photos):
    called, drawn = Rand_Augment(2, 10, seed=3), Rand_Augment(2, 10, seed=3)
    for x in photos[:20]:
        image = Image.fromarray(x)
        assert called(image) == drawn.apply(image, *(row[0] for row in drawn.draw(1)))


@pytest.mark.parametrize("max_magnitude", [3, 10])
def test_draws_are_uniform(max_magnitude):
    n = 40_000
    operations, levels, signs = Rand_Augment(2, max_magnitude, seed=0).draw(n)
    assert operations.shape == levels.shape == signs.shape == (n, 2)
    for values, kinds in ((operations, range(13)), (levels, range(max_magnitude)), (signs, (-1, 1))):
        counts = np.array([(values == kind).sum() for kind in kinds])
        assert counts.sum() == 2 * n
        expected = 2 * n / len(counts)
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert chi_square < {13: 32.9, 10: 27.9, 3: 13.8, 2: 10.8}[len(counts)]  # p = 0.001
    both = np.zeros((13, 13))
    np.add.at(both, (operations[:, 0], operations[:, 1]), 1)
    assert ((both - n / 169) ** 2 / (n / 169)).sum() < 229.7  # the two are independent: 168 degrees, p = 0.001


def test_hardly_any_image_stays_as_it_is(real_images):
    augment = Rand_Augment(2, 10, seed=0)
    same = [augment(Image.fromarray(x)) == Image.fromarray(x) for x in np.tile(real_images, (15, 1, 1, 1))]
    assert np.mean(same) <= 0.012


def test_default_is_half_of_the_operations_and_all_levels():
    assert (Rand_Augment().Numbers, Rand_Augment().max_Magnitude) == (6, 10)
    assert len(Rand_Augment(Numbers=4).rand_augment()) == 4


@pytest.mark.parametrize("magnitude", [0, 11, 27, -1])
def test_magnitude_out_of_range(magnitude):
    with pytest.raises(ValueError, match=f"1 to 10, got {magnitude}"):
        Rand_Augment(2, magnitude)


def test_unknown_operation_is_named():
    with pytest.raises(ValueError, match="autocontrast.*invert"):
        Rand_Augment().test_single_operation(Image.new("RGB", (4, 4)), "invert")


def test_gallery(tmp_path, photos):
    Image.fromarray(photos[0]).save(tmp_path / "a.png")
    step4.main([str(tmp_path / "a.png"), "--out", str(tmp_path / "new" / "gallery.png")])
    assert Image.open(tmp_path / "new" / "gallery.png").width > 800
    for bad, text in (("missing.png", "no such file"), ("text.png", "cannot identify")):
        (tmp_path / "text.png").write_text("hello")
        with pytest.raises(SystemExit, match=f"{bad}.*{text}"):
            step4.main([str(tmp_path / bad), "--out", str(tmp_path / "x.png")])
    assert not (tmp_path / "x.png").exists()
