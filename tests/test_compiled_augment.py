"""The compiled batch and the Pillow image: the same draw, the same pixels, to the bit."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

import Rand_Augment as lesson
from noisy_student import compiled_augment

KINDS = ("photos", "noise", "flat", "two values", "ramps")


@pytest.fixture
def images(photos):
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    ramps = [np.stack([a * rows + b * columns + c * 40 for c in range(3)], axis=-1)
             for a, b in ((1, 0), (0, 3), (2, 5), (8, 0))]
    two_values = rng.integers(0, 256, (2, 16, 1, 1, 3))
    return {"photos": photos[:16],
            "noise": rng.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8),
            "flat": np.full((16, 32, 32, 3), rng.integers(0, 256, (16, 1, 1, 3)), np.uint8),
            "two values": np.where(rng.random((16, 32, 32, 3)) < 0.5, *two_values).astype(np.uint8),
            "ramps": np.array(ramps).astype(np.uint8)}


def same_draw(x, op, level, sign):
    return [np.full((len(x), 1), value, np.int8) for value in (op, level, sign)]


def check_draw(augment, x, draw, message=""):
    out = augment.apply_batch(x, draw)
    np.testing.assert_array_equal(out, compiled_augment.with_pillow(augment, x, draw), message)
    return out


def check_operation(x, name):
    augment = lesson.Rand_Augment()
    for level in range(lesson.LEVELS):
        for sign in (-1, 1):
            draw = same_draw(x, augment.transforms.index(name), level, sign)
            check_draw(augment, x, draw, f"{name} {level} {sign}")


def left_to_pillow(augment):
    """The names of the operations that are not compiled."""
    table = [(name, augment.operation(name)) for name in augment.transforms]
    _, left = compiled_augment.tables_of(augment, table)
    return [augment.transforms[o] for o in left]


@pytest.mark.parametrize("name", lesson.OPERATIONS)
def test_every_operation_level_and_direction_is_pillows_to_the_bit(name, images):
    for kind in KINDS:
        check_operation(images[kind], name)


@pytest.mark.parametrize("name", lesson.OPERATIONS)
def test_on_real_photos_too(name, real_images):
    check_operation(real_images, name)


def test_all_of_them_are_compiled(photos, capsys):
    """Otherwise the tests above would hold Pillow against itself."""
    assert left_to_pillow(lesson.Rand_Augment()) == []
    compiled_augment.say_once.cache_clear()
    lesson.Rand_Augment(2, 10, seed=0).apply_batch(photos, lesson.Rand_Augment(2).draw(len(photos)))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("numbers", [0, 1, 2, 4])
def test_whole_pipelines_are_the_same(numbers, images):
    x = np.concatenate([np.tile(images[kind], (8, 1, 1, 1)) for kind in KINDS])
    augment = lesson.Rand_Augment(numbers, 10, seed=numbers)
    draw = augment.draw(len(x))
    before = x.copy()
    out = check_draw(augment, x, draw)
    np.testing.assert_array_equal(x, before)
    assert numbers == 0 or (out != x).any(axis=(1, 2, 3)).mean() > 0.8


def test_batches_in_any_memory_order(photos):
    augment = lesson.Rand_Augment(2, 10, seed=0)
    draw = augment.draw(20)
    every_second, upright = photos[::2], np.asfortranarray(photos[:20])
    assert not every_second.flags.c_contiguous and not upright.flags.c_contiguous
    for x in (every_second, upright):
        np.testing.assert_array_equal(augment.apply_batch(x, draw),
                                      augment.apply_batch(x.copy("C"), draw))
    nothing = lesson.Rand_Augment(2).draw(0)
    assert augment.apply_batch(photos[:0], nothing).shape == (0, 32, 32, 3)


def run_beside(folder, script):
    """Runs a script with `folder` before this project on the path."""
    path = os.pathsep.join((str(folder), os.path.dirname(lesson.__file__)))
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_compiled_is_kept_on_disk(tmp_path):
    shutil.copy(compiled_augment.__file__, tmp_path / "copied.py")
    script = "import copied\nprint(copied.within(copied.PLACES[0], 0, 31))\n"
    assert run_beside(tmp_path, script) == "True\n"
    assert list((tmp_path / "__pycache__").glob("copied.within*.nbi"))


def test_without_a_folder_for_it_nothing_is_kept(monkeypatch):
    """numba raises a RuntimeError where it finds no folder that it may write to."""
    def no_folder(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available for file")
        return njit(**options)

    njit = compiled_augment.numba.njit
    monkeypatch.setattr(compiled_augment.numba, "njit", no_folder)
    assert compiled_augment.compiled(lambda value: value + 1)(2) == 3


def test_an_operation_is_added_with_one_line(photos, monkeypatch, capsys):
    """It works at once, through Pillow; the images that do not draw it stay compiled."""
    def blur(image, m):
        return image.filter(ImageFilter.GaussianBlur(m))

    monkeypatch.setitem(lesson.OPERATIONS, "blur", lesson.Operation(blur, lesson.up_to(3)))
    compiled_augment.say_once.cache_clear()
    augment = lesson.Rand_Augment(2, 10, seed=0)
    assert len(augment.transforms) == 14
    draw = augment.draw(len(photos))
    drawn = (draw[0] == 13).any(axis=1)
    assert 0 < drawn.sum() < len(photos)
    check_draw(augment, photos, draw)
    blurred = augment.apply_batch(photos, same_draw(photos, 13, 9, 1))
    np.testing.assert_array_equal(blurred[0], np.asarray(blur(Image.fromarray(photos[0]), 3)))
    assert capsys.readouterr().out.count("blur: not compiled") == 1
    assert left_to_pillow(augment) == ["blur"]


@pytest.mark.parametrize("name, kind, operation", [
    ("invert", "POINTWISE", lesson.Operation(lambda image, m: ImageOps.invert(image), (0,) * 10)),
    ("inverted red", "POINTWISE", lesson.Operation(
        lambda image, m: image.point([*range(255, -1, -1), *range(256), *[7] * 256]), (0,) * 10)),
    ("turned", "NEAREST", lesson.Operation(
        lambda image, m: image.transpose(Image.Transpose.ROTATE_90), (0,) * 10)),
])
def test_it_is_compiled_once_its_name_has_a_kind(name, kind, operation, images, monkeypatch):
    monkeypatch.setitem(lesson.OPERATIONS, name, operation)
    assert left_to_pillow(lesson.Rand_Augment()) == [name]
    monkeypatch.setitem(compiled_augment.KINDS, name, getattr(compiled_augment, kind))
    monkeypatch.setattr(compiled_augment, "CACHE", [])
    assert left_to_pillow(lesson.Rand_Augment()) == []
    for kind in KINDS:
        check_operation(images[kind], name)


def test_the_order_of_the_table_does_not_matter(photos, monkeypatch):
    backwards = dict(reversed(lesson.OPERATIONS.items()))
    in_order = lesson.Rand_Augment(4, 10, seed=2)
    draw = operations, levels, signs = in_order.draw(len(photos))
    expected = in_order.apply_batch(photos, draw)
    monkeypatch.setattr(lesson, "OPERATIONS", backwards)
    augment = lesson.Rand_Augment()
    assert augment.transforms == in_order.transforms[::-1]
    out = check_draw(augment, photos, (12 - operations, levels, signs))
    np.testing.assert_array_equal(out, expected)
    # An instance from before goes on as it was.
    np.testing.assert_array_equal(in_order.apply_batch(photos, draw), expected)
    assert left_to_pillow(augment) == []


@pytest.mark.parametrize("name", lesson.OPERATIONS)
def test_an_operation_that_is_changed_is_changed_here_too(name, photos, monkeypatch):
    """By another function, under the old name, in an instance that has been used before."""
    augment = lesson.Rand_Augment(2, 10, seed=0)
    draw = same_draw(photos, augment.transforms.index(name), 9, 1)
    before = augment.apply_batch(photos, draw)
    blur = lesson.Operation(lambda image, m: image.filter(ImageFilter.BLUR), (0,) * 10)
    monkeypatch.setitem(lesson.OPERATIONS, name, blur)
    changed = check_draw(augment, photos, draw)
    assert (changed != before).any(axis=(1, 2, 3)).all()
    monkeypatch.undo()
    np.testing.assert_array_equal(augment.apply_batch(photos, draw), before)


@pytest.mark.parametrize("name, strongest", [
    ("rotate", 90), ("color", 3), ("contrast", 2), ("brightness", 2), ("sharpness", 5),
    ("shearX", 2), ("shearY", 1), ("translateX", 1), ("translateY", 2)])
def test_other_magnitudes_are_compiled_as_well(name, strongest, images, monkeypatch):
    wider = lesson.OPERATIONS[name]._replace(magnitudes=lesson.up_to(strongest))
    monkeypatch.setitem(lesson.OPERATIONS, name, wider)
    assert left_to_pillow(lesson.Rand_Augment()) == []
    for kind in ("photos", "noise"):
        check_operation(images[kind], name)


def test_what_does_not_fit_is_refused(photos):
    augment = lesson.Rand_Augment(2, 10, seed=0)
    draw = augment.draw(len(photos))
    with pytest.raises(ValueError, match="float32"):
        augment.apply_batch(photos.astype(np.float32), draw)
    with pytest.raises(ValueError, match="16, 16"):
        augment.apply_batch(photos[:, :16, :16], draw)
    with pytest.raises(ValueError, match="7 images, the draw is for 40"):
        augment.apply_batch(photos[:7], draw)
    operations, levels, signs = draw
    for uneven in ((operations, levels[:, :1], signs), (operations, levels, signs[:7]),
                   (operations[:, 0], levels[:, 0], signs[:, 0])):
        with pytest.raises(ValueError, match="the draw is for 40"):
            augment.apply_batch(photos, uneven)


@pytest.mark.parametrize("op, level, sign", [
    (13, 0, 1), (-1, 0, 1), (0, 10, 1), (0, -1, 1), (3, 4, 0), (3, 4, 127), (3, 4, -128)])
def test_a_draw_of_something_else_is_refused(op, level, sign, photos):
    with pytest.raises(ValueError, match="no such operation or level"):
        lesson.Rand_Augment().apply_batch(photos, same_draw(photos, op, level, sign))
