"""Corrupted test sets: the published layout and formulas, one seed, and one set per folder."""

import io
import shutil

import make_corrupted
import numpy as np
import pytest
from make_corrupted import CORRUPTIONS, SEVERITIES, corrupt
from PIL import Image
from scipy import ndimage

from noisy_student import figures
from noisy_student.data import load_data
from noisy_student.files import UserError
from robustness import LIKE_RANDAUGMENT

RANDOM = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "fog",
          "elastic_transform")
# Tests of their own say what they do instead.
NOT_GROWING = ("saturate", "elastic_transform")


def make(*words):
    """data/make_corrupted.py, as its command line would."""
    make_corrupted.main(make_corrupted.arguments([str(word) for word in words]))


def apply(name, images, severity, seed=0):
    """The corruption before it is clipped and truncated: float64 in, float64 out."""
    function, constants = CORRUPTIONS[name]
    return function(images, constants[severity - 1], np.random.default_rng(seed))


def flat(value, count=4):
    return np.full((count, 32, 32, 3), value)


def change(images, name):
    """Mean absolute difference in levels of 255, by severity."""
    return np.array([np.abs(corrupt(images, name, severity) - images.astype(float)).mean()
                     for severity in SEVERITIES])


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """Every corruption of the drawn data set's 40 test pictures."""
    out = tmp_path_factory.mktemp("corrupted") / "toy"
    make(toy, out)
    return out


# --- the files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_file_has_all_images_at_severity_1_then_2_to_5(name, whole, toy):
    images, x = np.load(whole / f"{name}.npy"), load_data(toy).x_test
    expected = np.concatenate([corrupt(x, name, severity) for severity in SEVERITIES])
    assert images.dtype == np.uint8 and (images == expected).all()


def test_the_overview_has_a_row_per_corruption(whole):
    with Image.open(whole / "overview.png") as picture:
        assert picture.height > 14 * 96 and picture.width > 6 * 96


def test_a_subset_is_the_same_bytes(whole, toy, tmp_path):
    names = ["elastic_transform", "fog", "gaussian_noise", "jpeg_compression"]
    make(toy, tmp_path, "--corruptions", *names)
    for name in (*names, "labels", "index"):
        assert (tmp_path / f"{name}.npy").read_bytes() == (whole / f"{name}.npy").read_bytes()
    assert len(list(tmp_path.glob("*.npy"))) == 6


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_another_seed_is_another_noise(name, photos):
    one, other = (corrupt(photos[:4], name, 5, seed) for seed in (1, 2))
    assert (one != other).any() == (name in RANDOM)


def test_severities_and_corruptions_draw_their_own_noise():
    grey = np.full((4, 32, 32, 3), 127, np.uint8)
    noise = [corrupt(grey, name, severity).astype(float).ravel()
             for name in ("gaussian_noise", "speckle_noise") for severity in (1, 2)]
    assert abs(np.corrcoef(noise) - np.eye(4)).max() < 0.05


@pytest.mark.parametrize("name", ["gaussian_noise", "gaussian_blur", "jpeg_compression"])
def test_batches_do_not_show(name, photos, monkeypatch):
    at_once = corrupt(photos, name, 3)
    monkeypatch.setattr(make_corrupted, "BATCH", 7)
    assert (corrupt(photos, name, 3) == at_once).all()


def test_some_images_stand_beside_their_labels_and_numbers(toy, tmp_path):
    make(toy, tmp_path, "--images", 13, "--corruptions", "contrast")
    images, labels, index = (np.load(tmp_path / f"{name}.npy")
                             for name in ("contrast", "labels", "index"))
    data = load_data(toy)
    assert (labels == np.tile(data.y_test[index], 5)).all()
    assert (images[:13] == corrupt(data.x_test[index], "contrast", 1)).all()
    assert (labels.dtype, index.dtype, len(index)) == (np.uint8, np.int64, 13)


@pytest.mark.parametrize("count, chosen", [
    (113, [*range(113)]), (6, [0, 5, 10, 11, 13, 63]), (1, [10])])
def test_choose(count, chosen):
    """Evenly through each class, as often from each as it goes."""
    y = np.array([2] * 10 + [0] * 3 + [1] * 100)
    assert make_corrupted.choose(y, count).tolist() == chosen


# --- how much is changed --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in NOT_GROWING])
def test_stronger_severity_is_a_stronger_effect(name, photos):
    effect = change(photos, name)
    assert effect[0] > 0.5 and (np.diff(effect) > 0).all(), effect


def test_saturate_takes_colour_away_then_adds_it(photos):
    colour = [np.ptp(images, axis=-1).mean() for images in (
        photos, *(corrupt(photos, "saturate", severity) for severity in SEVERITIES))]
    assert np.argsort(colour).tolist() == [2, 1, 0, 3, 4, 5], colour


def test_elastic_moves_least_where_it_bends_most(photos):
    """The published constants trade an affine map, which moves much, for a field that bends."""
    effect = change(photos, "elastic_transform")
    assert (np.diff(effect) < 0).all() and effect[-1] > 5, effect


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize("name", ["defocus_blur", "gaussian_blur", "zoom_blur", "contrast",
                                  "elastic_transform", "pixelate", "jpeg_compression"])
def test_a_flat_image_stays(name, severity):
    assert apply(name, flat(128 / 255, 1), severity) == pytest.approx(128 / 255, abs=1e-12)


# --- the formulas ---------------------------------------------------------------------------------


def test_the_end_is_truncated(monkeypatch):
    shift = (lambda images, shift, rng: images + shift / 255, (0.9, -0.1, 1.1, -300, 300))
    monkeypatch.setitem(CORRUPTIONS, "shift", shift)
    grey = np.full((1, 32, 32, 3), 100, np.uint8)
    after = [int(corrupt(grey, "shift", severity)[0, 0, 0, 0]) for severity in SEVERITIES]
    assert after == [100, 99, 101, 0, 255]


def test_every_value_survives_the_way_to_floats_and_back(monkeypatch):
    monkeypatch.setitem(CORRUPTIONS, "nothing", (lambda images, constant, rng: images, (0,) * 5))
    values = np.arange(256, dtype=np.uint8).repeat(12).reshape(1, 32, 32, 3)
    assert (corrupt(values, "nothing", 1) == values).all()


def test_contrast_by_hand():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    # Half of the image, so the channels' means are 100, 50 and 20.
    image[:, :16] = (200, 100, 40)
    # 0.4: 100 +- 40, 50 +- 20, 20 +- 8.
    after = corrupt(image, "contrast", 3).astype(int)
    assert abs(after[0, [0, 31], 0] - [(140, 70, 28), (60, 30, 12)]).max() <= 1


@pytest.mark.parametrize("severity, std", [(1, 0.04), (2, 0.06), (3, 0.08), (4, 0.09), (5, 0.1)])
def test_gaussian_noise_by_its_deviation(severity, std):
    noise = apply("gaussian_noise", flat(0.5, 20), severity) - 0.5
    assert noise.std() == pytest.approx(std, rel=0.02) and abs(noise.mean()) < 0.05 * std


@pytest.mark.parametrize("value", [0, 0.2, 0.8])
def test_shot_and_speckle_noise_grow_with_the_value(value):
    # Poisson's variance, and a deviation of a fifth.
    assert apply("shot_noise", flat(value, 20), 3).var() == pytest.approx(value / 100, rel=0.03)
    assert apply("speckle_noise", flat(value, 20), 5).std() == pytest.approx(0.2 * value, rel=0.03)


def test_impulse_noise_counts():
    after = apply("impulse_noise", flat(0.3, 30), 5)
    shares = [(after == value).mean() for value in (0, 1, 0.3)]
    assert shares == pytest.approx([0.035, 0.035, 0.93], rel=0.06)
    # Single values of a pixel, not whole pixels.
    assert 0.03 < (after != 0.3).any(axis=-1).mean() - 0.07


# Five pixels, hardly softened, for radius 1; nine for radius 1.5; a Gaussian that ends at 4 sigma.
CROSS, SQUARE = np.array([(0, 1, 0), (1, 1, 1), (0, 1, 0)]), np.ones((3, 3))
BELL = np.exp(-np.add.outer(np.arange(-4, 5) ** 2, np.arange(-4, 5) ** 2) / 2)


@pytest.mark.parametrize("name, severity, kernel", [
    ("defocus_blur", 4, CROSS / 5), ("defocus_blur", 5, SQUARE / 9),
    ("gaussian_blur", 5, BELL / BELL.sum())])
def test_blurs_of_one_white_pixel(name, severity, kernel):
    image = np.zeros((1, 32, 32, 3))
    image[0, 16, 16] = 1
    reach = len(kernel) // 2
    expected = np.pad(kernel, [(16 - reach, 15 - reach)] * 2)
    assert apply(name, image, severity)[0, ..., 1] == pytest.approx(expected, abs=1e-5)


def test_zoom_blur_is_a_mean_of_enlargements(photos):
    image, expected = photos[0] / 255, photos[0] / 255
    for factor in np.arange(1, 1.11, 0.01):
        side = int(np.ceil(32 / factor))
        top = (32 - side) // 2
        crop = image[top:top + side, top:top + side]
        larger = ndimage.zoom(crop, (factor, factor, 1), order=1)
        rim = (len(larger) - 32) // 2
        expected = expected + larger[rim:rim + 32, rim:rim + 32]
    assert apply("zoom_blur", image[None], 2)[0] == pytest.approx(expected / 13, abs=1e-12)


@pytest.mark.parametrize("severity, side", [*zip(SEVERITIES, (30, 28, 27, 24, 20))])
def test_pillow_does_pixelate(severity, side, photos):
    box = Image.Resampling.BOX
    expected = Image.fromarray(photos[0]).resize((side, side), box).resize((32, 32), box)
    assert (corrupt(photos[:1], "pixelate", severity)[0] == np.asarray(expected)).all()


@pytest.mark.parametrize("severity, quality", [*zip(SEVERITIES, (80, 65, 58, 50, 40))])
def test_pillow_does_jpeg(severity, quality, photos):
    file = io.BytesIO()
    Image.fromarray(photos[0]).save(file, "JPEG", quality=quality)
    after = corrupt(photos[:1], "jpeg_compression", severity)[0]
    assert (after == np.asarray(Image.open(file))).all()


@pytest.mark.parametrize("name, severity, before, after", [
    # Value 0.4 becomes 0.6, and the others with it.
    ("brightness", 4, (0.4, 0.2, 0.1), (0.6, 0.3, 0.15)),
    # 0.3 times as far below the value.
    ("saturate", 1, (0.4, 0.2, 0.1), (0.4, 0.34, 0.31)),
    # Grey counts as red.
    ("saturate", 4, (0.5, 0.5, 0.5), (0.5, 0.45, 0.45))])
def test_brightness_and_saturate_by_hand(name, severity, before, after):
    assert apply(name, flat(before), severity)[0, 0, 0] == pytest.approx(after)


@pytest.mark.parametrize("decay", [3, 2.5, 2, 1.75])
def test_opposite_edges_of_clouds_meet(decay):
    clouds = make_corrupted.plasma(200, decay, np.random.default_rng(0))
    assert (clouds.min(axis=(1, 2)) == 0).all() and (clouds.max(axis=(1, 2)) == 1).all()
    # From the last row or column to the first it is no further than between others.
    for axis in (1, 2):
        steps = np.abs(clouds - np.roll(clouds, -1, axis=axis)).mean(axis=(0, 3 - axis))
        assert steps[-1] < 1.2 * steps.max()


def test_fog_by_hand():
    # (0.5 + clouds) * 0.5 / 1.5, with clouds from 0 to 1 and the same for all channels.
    grey = apply("fog", flat(0.5), 4)
    assert (grey.min(), grey.max()) == pytest.approx((1 / 6, 1 / 2))
    assert np.ptp(grey, axis=-1).max() == 0


@pytest.mark.parametrize("severity, bends", [(1, False), (5, True)])
def test_elastic_severity_one_is_affine(severity, bends):
    y, x = np.mgrid[:32, :32] / 64
    ramp = np.repeat(np.stack([x, y, x + y], axis=-1)[None], 8, axis=0)
    # Far from the border, which is mirrored.
    after = apply("elastic_transform", ramp, severity)[:, 8:24, 8:24]
    assert (abs(np.diff(after, 2, axis=1)).max() > 1e-9) == bends
    # In pixels: each image is moved, by 2.56 at most where the map is affine.
    moved = 64 * (after - ramp[:, 8:24, 8:24])[..., :2]
    assert abs(moved.mean(axis=(1, 2))).min() > 0 and 0.3 < abs(moved).mean() < 2.56


def test_what_is_like_randaugment_is_made_here():
    assert set(LIKE_RANDAUGMENT) < set(CORRUPTIONS)


# --- mistakes, and going on -----------------------------------------------------------------------


@pytest.mark.parametrize("words, message", [
    (["--corruptions", "fog", "smoke"], "no corruption called smoke; there are gaussian_noise, "),
    (["--images", "41"], "--images 41: the data set has 40 test images")])
def test_wrong_arguments(words, message, toy, tmp_path):
    with pytest.raises(UserError, match=message):
        make(toy, tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_as_it_is(toy):
    before = sorted(toy.rglob("*"))
    with pytest.raises(UserError, match="has not made"):
        make(toy, toy)
    assert sorted(toy.rglob("*")) == before


@pytest.fixture
def two(toy, tmp_path):
    """The words that made a set of two corruptions, its folder, and what was in there."""
    words = [toy, tmp_path / "out", "--images", 10, "--corruptions", "fog", "contrast"]
    make(*words)
    return words, tmp_path / "out", content(tmp_path / "out")


def content(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.mark.parametrize("other", [["--seed", 1], ["--images", 9], ["--corruptions", "fog"]])
def test_other_arguments_are_refused(other, two):
    words, out, before = two
    with pytest.raises(UserError, match=f"other arguments .see {other[0][2:]} in "):
        make(*words, *other)
    assert content(out) == before


def test_the_same_arguments_find_it_made_from_wherever_the_data_set_is(two, toy, tmp_path):
    words, out, before = two
    shutil.copytree(toy, tmp_path / "moved")
    make(tmp_path / "moved", *words[1:-2], "contrast", "fog")
    assert content(out) == before


def test_a_missing_file_is_made_again_and_no_other(two):
    words, out, before = two
    (out / "fog.npy").unlink()
    (out / ".unfinished-fog.npy").write_bytes(b"half")
    make(*words)
    after = content(out)
    assert set(after) == set(before) and after["contrast.npy"] == before["contrast.npy"]
    assert after["fog.npy"][0] == before["fog.npy"][0]


def test_a_picture_that_fails_costs_no_labels(toy, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr(figures, "mosaic", fail)
    make(toy, tmp_path, "--images", 10, "--corruptions", "fog")
    assert (tmp_path / "labels.npy").exists() and not (tmp_path / "overview.png").exists()
    assert "overview.png is not drawn (RuntimeError: no font)" in capsys.readouterr().out


def test_half_a_set_has_no_labels(toy, tmp_path, monkeypatch):
    def full_disk(images, constant, rng):
        raise OSError(28, "No space left on device")

    # From before, interrupted before anything was made.
    (tmp_path / ".unfinished-made.json").write_text("{")
    (tmp_path / ".lock").touch()
    monkeypatch.setitem(CORRUPTIONS, "contrast", (full_disk, (0,) * 5))
    with pytest.raises(OSError):
        make(toy, tmp_path, "--images", 10, "--corruptions", "fog", "contrast")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".lock", "made.json", "index.npy", "fog.npy"}
