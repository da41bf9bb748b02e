"""RandAugment: every operation does what it says, by how much it says, as often as it says."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

import Rand_Augment as lesson
from noisy_student import arguments
from noisy_student.files import UserError

GRADED = [name for name in lesson.OPERATIONS if name not in ("autocontrast", "equalize")]


def applied(image, *operation):
    return lesson.Rand_Augment().test_single_operation(image, *operation)


def change(images, *operation):
    return np.mean([np.abs(np.asarray(applied(Image.fromarray(x), *operation), float) - x).mean()
                    for x in images])


@pytest.mark.parametrize("name", GRADED)
@pytest.mark.parametrize("sign", [-1, 1])
def test_stronger_level_is_a_stronger_effect(name, sign, real_images):
    effect = [change(real_images, name, level, sign) for level in range(lesson.LEVELS)]
    # No level does nothing.
    assert effect[0] > 0
    assert all(np.diff(effect) >= 0), effect
    assert effect[-1] > 2 * effect[0], effect


@pytest.mark.parametrize("name", [name for name in GRADED if name != "posterize"])
def test_no_two_levels_are_the_same(name, photos):
    image = Image.fromarray(photos[0])
    results = {applied(image, name, level).tobytes() for level in range(lesson.LEVELS)}
    assert len(results) == lesson.LEVELS and image.tobytes() not in results


def test_equalize_and_strongest_solarize(photos):
    image = Image.fromarray(photos[0])
    assert applied(image, "equalize") == ImageOps.equalize(image) != image
    # Why invert is not drawn.
    assert applied(image, "solarize") == ImageOps.invert(image)


@pytest.mark.parametrize("name", ["rotate", "shearX", "shearY", "translateX", "translateY"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_what_is_uncovered_is_grey(name, sign):
    result = np.asarray(applied(Image.new("RGB", (32, 32), "white"), name, -1, sign))
    corners = result[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 128).all(axis=1).any()
    assert set(np.unique(result[:, :, 0])) >= {128, 255}
    assert (result[..., 0] == result[..., 2]).all()


def test_rotation_goes_both_ways(photos):
    image = Image.fromarray(photos[0])
    for sign in (-1, 1):
        turned = image.rotate(30 * sign, fillcolor=(128, 128, 128))
        assert applied(image, "rotate", 9, sign) == turned


@pytest.mark.parametrize("name, axis", [("translateX", 1), ("translateY", 0)])
def test_translation_is_whole_pixels(name, axis, photos):
    image = np.asarray(applied(Image.fromarray(photos[0]), name, 4, 1)).swapaxes(0, axis)
    assert (image[:27] == photos[0].swapaxes(0, axis)[5:]).all() and (image[27:] == 128).all()


@pytest.mark.parametrize("name, axis", [("shearX", 1), ("shearY", 0)])
def test_a_shear_moves_a_line_by_its_number(name, axis):
    """By 0.3 pixels for each row (or column): a ramp of 8 per pixel tells how far it went."""
    ramp = np.tile(np.arange(32, dtype=np.uint8)[:, None, None] * 8, (1, 32, 3))
    sheared = applied(Image.fromarray(ramp.swapaxes(0, axis)), name, 9, 1)
    moved = np.asarray(sheared, float).swapaxes(0, axis)[12, :20, 0] / 8 - 12
    # The filter and the rounding down are off by a quarter of a pixel at most.
    assert moved == pytest.approx(0.3 * (np.arange(20) + 0.5), abs=0.25)


def test_one_seed_one_stream():
    draws = [lesson.Rand_Augment(2, 10, seed).draw(50) for seed in (1, 1, 2)]
    assert all((a == b).all() for a, b in zip(draws[0], draws[1]))
    assert any((a != b).any() for a, b in zip(draws[0], draws[2]))
    # The global generator plays no part.
    np.random.seed(0)
    assert all((a == b).all() for a, b in zip(lesson.Rand_Augment(2, 10, 1).draw(50), draws[0]))


def test_a_seed_draws_what_it_always_drew():
    """So that a run can be repeated with a later version."""
    augment = lesson.Rand_Augment(2, 10, seed=0)
    operations, levels, signs = augment.draw(3)
    assert [part.dtype for part in (operations, levels, signs)] == [np.int8] * 3
    assert operations.tolist() == [[4, 6], [9, 10], [11, 0]]
    assert levels.tolist() == [[1, 8], [8, 5], [9, 7]]
    assert signs.tolist() == [[1, 1], [1, -1], [1, -1]]
    assert augment.rand_augment() == [("equalize", 7, -1), ("translateY", 1, -1)]
    again = augment.draw(5, np.random.default_rng([9, 0, 1]))
    rng = np.random.default_rng([9, 0, 1])
    expected = (rng.integers(13, size=(5, 2), dtype=np.int8),
                rng.integers(10, size=(5, 2), dtype=np.int8),
                rng.integers(2, size=(5, 2), dtype=np.int8) * 2 - 1)
    assert all((a == b).all() for a, b in zip(again, expected))


def test_calling_is_drawing_and_applying(photos):
    called, drawn, batch = (lesson.Rand_Augment(2, 10, seed=3) for _ in range(3))
    for x in photos[:20]:
        image = Image.fromarray(x)
        result = called(image)
        assert result == drawn.apply(image, *(row[0] for row in drawn.draw(1)))
        assert (np.asarray(result) == batch.apply_batch(x[None], batch.draw(1))[0]).all()


@pytest.mark.parametrize("max_magnitude", [3, 10])
def test_draws_are_uniform(max_magnitude):
    n = 40_000
    operations, levels, signs = lesson.Rand_Augment(2, max_magnitude, seed=0).draw(n)
    assert operations.shape == levels.shape == signs.shape == (n, 2)
    drawn = (operations, range(13)), (levels, range(max_magnitude)), (signs, (-1, 1))
    for values, kinds in drawn:
        counts = np.array([(values == kind).sum() for kind in kinds])
        assert counts.sum() == 2 * n
        expected = 2 * n / len(counts)
        chi_square = ((counts - expected) ** 2 / expected).sum()
        # p = 0.001
        assert chi_square < {13: 32.9, 10: 27.9, 3: 13.8, 2: 10.8}[len(counts)]
    both = np.zeros((13, 13))
    np.add.at(both, (operations[:, 0], operations[:, 1]), 1)
    # The two are independent: 168 degrees of freedom, p = 0.001.
    assert ((both - n / 169) ** 2 / (n / 169)).sum() < 229.7


def test_hardly_any_image_stays_as_it_is(real_images):
    augment = lesson.Rand_Augment(2, 10, seed=0)
    same = [augment(Image.fromarray(x)) == Image.fromarray(x)
            for x in np.tile(real_images, (15, 1, 1, 1))]
    assert np.mean(same) <= 0.012


def test_default_is_half_of_the_operations_and_all_levels():
    augment = lesson.Rand_Augment()
    assert (augment.Numbers, augment.max_Magnitude) == (6, 10)
    assert len(lesson.Rand_Augment(Numbers=4).rand_augment()) == 4


@pytest.mark.parametrize("magnitude", [0, 11, 27, -1])
def test_magnitude_out_of_range(magnitude):
    with pytest.raises(ValueError, match=f"1 to 10, got {magnitude}"):
        lesson.Rand_Augment(2, magnitude)


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match="0 or more, got -2"):
        lesson.Rand_Augment(-2)


def test_unknown_operation_is_named():
    with pytest.raises(ValueError, match="autocontrast.*invert"):
        applied(Image.new("RGB", (4, 4)), "invert")


def test_gallery(tmp_path, photos):
    Image.fromarray(photos[0]).save(tmp_path / "a.png")

    def draw(name, out):
        lesson.main(arguments.augment("", [str(tmp_path / name), "--out", str(tmp_path / out)]))

    draw("a.png", "new/gallery.png")
    assert Image.open(tmp_path / "new" / "gallery.png").width > 800
    (tmp_path / "text.png").write_text("hello")
    # A program for Ghostscript.
    Image.fromarray(photos[0]).save(tmp_path / "program.png", "EPS")
    for bad, text in (("missing.png", "no such file"), ("text.png", "cannot identify"),
                      ("program.png", "cannot identify")):
        with pytest.raises(UserError, match=f"{bad}.*{text}"):
            draw(bad, "x.png")
    assert not (tmp_path / "x.png").exists()


def test_as_a_script(tmp_path):
    """A mistake is one line, and Keras is not waited for."""
    done = subprocess.run([sys.executable, lesson.__file__, str(tmp_path / "missing.png")],
                          capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines() == [f"error: {tmp_path / 'missing.png'}: no such file"]
    script = f"import sys, {lesson.__name__}\nassert 'keras' not in sys.modules, 'Keras'"
    subprocess.run([sys.executable, "-c", script], check=True,
                   cwd=os.path.dirname(lesson.__file__))
