"""Corrupted test sets: the published layout and formulas, one seed, and one set per folder."""

import io
import os
import shutil
import subprocess
import sys

import make_corrupted
import numpy as np
import pytest
from conftest import ROOT
from make_corrupted import CORRUPTIONS, SEVERITIES, corrupt
from PIL import Image
from scipy import ndimage

from noisy_student.data import load_data
from noisy_student.files import UserError, read_json
from noisy_student.robustness import LIKE_RANDAUGMENT

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
    return [np.abs(corrupt(images, name, severity) - images.astype(float)).mean()
            for severity in SEVERITIES]


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """Every corruption of the drawn data set's 40 test pictures."""
    out = tmp_path_factory.mktemp("corrupted") / "toy"
    make(toy, out)
    return out


# --- the files ------------------------------------------------------------------------------------


def test_layout(whole, toy):
    data = load_data(toy)
    others = {".lock", "labels.npy", "index.npy", "overview.png", "made.json"}
    names = {path.name for path in whole.iterdir()}
    assert names == others | {f"{name}.npy" for name in CORRUPTIONS}
    for name in CORRUPTIONS:
        images = np.load(whole / f"{name}.npy")
        assert images.shape == (5 * 40, 32, 32, 3) and images.dtype == np.uint8
        for severity in SEVERITIES:
            expected = corrupt(data.x_test, name, severity)
            assert (images[40 * (severity - 1):40 * severity] == expected).all()
    labels, index = np.load(whole / "labels.npy"), np.load(whole / "index.npy")
    assert labels.dtype == np.uint8 and (labels.reshape(5, 40) == data.y_test).all()
    assert index.dtype == np.int64 and (index == np.arange(40)).all()
    assert read_json(whole / "made.json")["data_sha256"] == data.lineage()["data_sha256"]
    with Image.open(whole / "overview.png") as picture:
        assert picture.height > picture.width > 500


def test_a_subset_is_the_same_bytes(whole, toy, tmp_path):
    names = ["elastic_transform", "fog", "gaussian_noise", "shot_noise", "jpeg_compression"]
    make(toy, tmp_path / "few", "--corruptions", *names)
    files = {path.stem: path for path in (tmp_path / "few").glob("*.npy")}
    assert set(files) == {*names, "labels", "index"}
    for path in files.values():
        assert path.read_bytes() == (whole / path.name).read_bytes()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_another_seed_is_another_noise(name, photos):
    one, other = (corrupt(photos[:4], name, 5, seed) for seed in (1, 2))
    assert (one != other).any() == (name in RANDOM)


def test_severities_and_corruptions_draw_their_own_noise():
    grey = np.full((4, 32, 32, 3), 127, np.uint8)
    drawn = [corrupt(grey, name, severity).astype(float).ravel()
             for name in ("gaussian_noise", "speckle_noise") for severity in (1, 2)]
    assert abs(np.corrcoef(drawn) - np.eye(4)).max() < 0.05


@pytest.mark.parametrize("name", ["gaussian_noise", "gaussian_blur", "jpeg_compression"])
def test_batches_do_not_show(name, photos, monkeypatch):
    at_once = corrupt(photos, name, 3)
    monkeypatch.setattr(make_corrupted, "BATCH", 7)
    assert (corrupt(photos, name, 3) == at_once).all()


def test_images(toy, tmp_path, capsys):
    make(toy, tmp_path / "few", "--images", 13, "--corruptions", "contrast")
    data, index = load_data(toy), np.load(tmp_path / "few" / "index.npy")
    assert len(index) == 13 and (np.diff(index) > 0).all()
    assert set(np.bincount(data.y_test[index])) == {1, 2}
    labels, images = (np.load(tmp_path / "few" / f"{name}.npy") for name in ("labels", "contrast"))
    assert (labels == np.tile(data.y_test[index], 5)).all()
    assert (images[:13] == corrupt(data.x_test[index], "contrast", 1)).all()
    one, other = capsys.readouterr().out.splitlines()
    assert one.startswith("contrast: 13 images x 5 severities, ") and "13 of 40" in other


def test_choose():
    y = np.array([2] * 10 + [0] * 3 + [1] * 100)
    assert (make_corrupted.choose(y, 113) == np.arange(113)).all()
    # Two of each, evenly through each.
    assert make_corrupted.choose(y, 6).tolist() == [0, 5, 10, 11, 13, 63]
    # A class with three gives three.
    assert np.bincount(y[make_corrupted.choose(y, 20)]).tolist() == [3, 9, 8]
    assert make_corrupted.choose(y, 1).tolist() == [10]


# --- how much is changed --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in NOT_GROWING])
def test_stronger_severity_is_a_stronger_effect(name, photos):
    effect = change(photos, name)
    assert effect[0] > 0.5 and (np.diff(effect) > 0).all(), effect


def test_saturate_takes_colour_away_then_adds_it(photos):
    effect = change(photos, "saturate")
    assert effect[0] < effect[1] and effect[2] < effect[3] < effect[4]
    assert min(effect) == effect[2] > 5
    colour = [np.ptp(corrupt(photos, "saturate", severity), axis=-1).mean()
              for severity in SEVERITIES]
    original = np.ptp(photos, axis=-1).mean()
    assert colour[1] < colour[0] < original < colour[2] < colour[3] < colour[4]


def test_elastic_moves_least_where_it_bends_most(photos):
    """The published constants trade an affine map, which moves much, for a field that bends."""
    effect = change(photos, "elastic_transform")
    assert (np.diff(effect) < 0).all() and effect[-1] > 5, effect


@pytest.mark.parametrize("name", ["defocus_blur", "gaussian_blur", "zoom_blur", "contrast",
                                  "elastic_transform", "pixelate", "jpeg_compression"])
def test_a_flat_image_stays(name):
    grey = np.full((3, 32, 32, 3), 128, np.uint8)
    # What is computed can come out a hair below 128, and is then truncated, as in the original.
    allowed = {128} if name in ("pixelate", "jpeg_compression") else {127, 128}
    for severity in (1, 5):
        assert abs(apply(name, flat(128 / 255, 1), severity) - 128 / 255).max() < 1e-12
        assert set(np.unique(corrupt(grey, name, severity))) <= allowed


# --- the formulas ---------------------------------------------------------------------------------


def test_the_end_is_truncated_and_every_value_survives_the_way_back(monkeypatch):
    shift = (lambda images, shift, rng: images + shift / 255, (0.9, -0.1, 1.1, -300, 300))
    monkeypatch.setitem(CORRUPTIONS, "shift", shift)
    grey = np.full((1, 32, 32, 3), 100, np.uint8)
    after = [int(corrupt(grey, "shift", severity)[0, 0, 0, 0]) for severity in SEVERITIES]
    assert after == [100, 99, 101, 0, 255]
    monkeypatch.setitem(CORRUPTIONS, "nothing", (lambda images, constant, rng: images, (0,) * 5))
    values = np.arange(256, dtype=np.uint8).repeat(12).reshape(1, 32, 32, 3)
    assert (corrupt(values, "nothing", 1) == values).all()


def test_contrast_by_hand():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    # Half of the image, so the channels' means are 100, 50 and 20.
    image[:, :16] = (200, 100, 40)
    # 0.4: 100 +- 40, 50 +- 20, 20 +- 8.
    after = corrupt(image, "contrast", 3).astype(int)
    assert abs(after[0, 0, 0] - (140, 70, 28)).max() <= 1
    assert abs(after[0, 31, 0] - (60, 30, 12)).max() <= 1


@pytest.mark.parametrize("severity, std", [(1, 0.04), (2, 0.06), (3, 0.08), (4, 0.09), (5, 0.1)])
def test_gaussian_noise_by_its_deviation(severity, std):
    grey = np.full((20, 32, 32, 3), 127, np.uint8)
    levels = corrupt(grey, "gaussian_noise", severity) - 127.0
    assert levels.std() == pytest.approx(255 * std, rel=0.02)
    # Truncating takes half a level, on average.
    assert levels.mean() == pytest.approx(-0.5, abs=0.35)


def test_shot_and_speckle_noise_grow_with_the_value():
    for value in (0.2, 0.8):
        # Poisson's variance.
        assert apply("shot_noise", flat(value, 20), 3).var() == pytest.approx(value / 100, rel=0.03)
        spread = apply("speckle_noise", flat(value, 20), 5).std()
        assert spread == pytest.approx(0.2 * value, rel=0.03)
    for name in ("shot_noise", "speckle_noise"):
        assert (apply(name, flat(0.0), 5) == 0).all()


def test_impulse_noise_counts():
    after = apply("impulse_noise", flat(0.3, 30), 5)
    shares = [(after == value).mean() for value in (0, 1, 0.3)]
    assert shares == pytest.approx([0.035, 0.035, 0.93], rel=0.06)
    # Single values of a pixel, not whole pixels.
    assert 0.03 < (after != 0.3).any(axis=-1).mean() - 0.07


def test_blurs_of_one_white_pixel():
    image = np.zeros((1, 32, 32, 3))
    image[0, 16, 16] = 1
    # Sigma 1, cut at four sigma.
    taps, kernel = np.exp(-np.arange(-4, 5) ** 2 / 2), np.zeros((32, 32))
    kernel[12:21, 12:21] = np.outer(taps, taps) / taps.sum() ** 2
    assert apply("gaussian_blur", image, 5)[0, ..., 1] == pytest.approx(kernel, abs=1e-12)
    # A disc of radius 1: five pixels, hardly softened; of radius 1.5: nine.
    cross, square = np.zeros((2, 32, 32))
    cross[15:18, 16] = cross[16, 15:18] = 0.2
    assert apply("defocus_blur", image, 4)[0, ..., 1] == pytest.approx(cross, abs=1e-5)
    square[15:18, 15:18] = 1 / 9
    assert apply("defocus_blur", image, 5)[0, ..., 1] == pytest.approx(square, abs=1e-12)


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


def test_pillow_does_pixelate_and_jpeg(photos):
    image, box = Image.fromarray(photos[0]), Image.Resampling.BOX
    for severity, side in zip(SEVERITIES, (30, 28, 27, 24, 20)):
        expected = image.resize((side, side), box).resize((32, 32), box)
        assert (corrupt(photos[:1], "pixelate", severity)[0] == np.asarray(expected)).all()
    for severity, quality in zip(SEVERITIES, (80, 65, 58, 50, 40)):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        after = corrupt(photos[:1], "jpeg_compression", severity)[0]
        assert (after == np.asarray(Image.open(file))).all()


def test_brightness_and_saturate_by_hand():
    # Value 0.4, saturation 0.75; then value 0.6; then 0.3 times as far below the value.
    pixel = flat(np.array([0.4, 0.2, 0.1]))
    assert apply("brightness", pixel, 4)[0, 0, 0] == pytest.approx([0.6, 0.3, 0.15])
    assert apply("saturate", pixel, 1)[0, 0, 0] == pytest.approx([0.4, 0.34, 0.31])
    # Grey counts as red.
    assert apply("saturate", flat(0.5), 4)[0, 0, 0] == pytest.approx([0.5, 0.45, 0.45])


def test_clouds():
    rough = {}
    for decay in (3, 2.5, 2, 1.75):
        clouds = make_corrupted.plasma(200, decay, np.random.default_rng(0))
        assert (clouds.min(axis=(1, 2)) == 0).all() and (clouds.max(axis=(1, 2)) == 1).all()
        # Opposite edges meet: from the last row to the first it is no further than between others.
        for axis in (1, 2):
            steps = np.abs(clouds - np.roll(clouds, -1, axis=axis)).mean(axis=(0, 3 - axis))
            assert steps[-1] < 1.2 * steps.max()
        rough[decay] = np.abs(np.diff(clouds, axis=1)).mean()
    assert rough[1.75] > 1.2 * rough[3]


def test_fog_stays_below_the_brightest(photos):
    images = photos / 255
    after, most = apply("fog", images, 5), images.max(axis=(1, 2, 3))
    assert (after.max(axis=(1, 2, 3)) <= most + 1e-12).all() and after.min() >= 0
    # (0.5 + clouds) * 0.5 / 1.5, with clouds from 0 to 1 and the same for all channels.
    grey = apply("fog", flat(0.5), 4)
    assert (grey.min(), grey.max()) == pytest.approx((1 / 6, 1 / 2))
    assert np.ptp(grey, axis=-1).max() == 0


def test_elastic_severity_one_is_affine():
    y, x = np.mgrid[:32, :32] / 64
    ramp = np.repeat(np.stack([x, y, x + y], axis=-1)[None], 8, axis=0)
    # Far from the border, which is mirrored.
    after, bent = (apply("elastic_transform", ramp, severity)[:, 8:24, 8:24] for severity in (1, 5))
    for axis in (1, 2):
        assert abs(np.diff(after, 2, axis=axis)).max() < 1e-9
    # Pixels, (x, y).
    moved = (after - ramp[:, 8:24, 8:24])[..., :2] * 64
    assert 0.3 < abs(moved).mean() < 2.56 and abs(moved.mean(axis=(1, 2))).min() > 0
    assert abs(np.diff(bent, 2, axis=1)).max() > 1e-3


def test_names_that_other_modules_know():
    assert set(LIKE_RANDAUGMENT) < set(CORRUPTIONS)
    assert all(len(constants) == 5 for _, constants in CORRUPTIONS.values())


# --- mistakes, and going on -----------------------------------------------------------------------


@pytest.mark.parametrize("words, message", [
    (["--corruptions", "fog", "smoke"], "no corruption called smoke; there are gaussian_noise, "),
    (["--images", "41"], "--images 41: the data set has 40 test images")])
def test_wrong_arguments(words, message, toy, tmp_path):
    with pytest.raises(UserError, match=message):
        make(toy, tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["--images", "0"], ["--images", "few"], ["--seed", "-1"]])
def test_wrong_numbers(words, capsys):
    with pytest.raises(SystemExit):
        make("toy", "out", *words)
    said = f"argument {words[0]}: '{words[1]}' is not a whole number from"
    assert said in capsys.readouterr().err


def test_wrong_folders(toy, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        make(tmp_path / "nothing", tmp_path / "out")
    before = sorted(toy.rglob("*"))
    # The data set itself.
    with pytest.raises(UserError, match="has not made"):
        make(toy, toy)
    assert sorted(toy.rglob("*")) == before


def test_other_arguments_are_refused_the_same_go_on(toy, tmp_path, capsys):
    def content():
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}

    out = tmp_path / "out"
    words = [toy, out, "--images", 10, "--corruptions", "fog", "contrast"]
    make(*words)
    before = content()
    for other in (["--seed", 1], ["--images", 9], ["--corruptions", "fog"]):
        with pytest.raises(UserError, match=f"other arguments .see {other[0][2:]} in "):
            make(*words, *other)
    capsys.readouterr()
    # In any order, and from wherever the data set has moved to.
    shutil.copytree(toy, tmp_path / "moved")
    make(tmp_path / "moved", *words[1:-2], "contrast", "fog")
    assert "is there already" in capsys.readouterr().out and content() == before

    (out / "fog.npy").unlink()
    (out / ".unfinished-fog.npy").write_bytes(b"half")
    make(*words)
    printed, after = capsys.readouterr().out, content()
    assert "fog: 10 images" in printed and "contrast: " not in printed
    assert set(after) == set(before) and after["fog.npy"][0] == before["fog.npy"][0]
    assert after["contrast.npy"] == before["contrast.npy"]


def test_half_a_set_has_no_labels(toy, tmp_path, monkeypatch, capsys):
    # Interrupted before anything was made.
    (tmp_path / ".unfinished-made.json").write_text("{")
    words = [toy, tmp_path, "--images", 10, "--corruptions", "fog", "contrast"]

    def full_disk(images, constant, rng):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setitem(CORRUPTIONS, "contrast", (full_disk, (0,) * 5))
        with pytest.raises(OSError):
            make(*words)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".lock", "made.json", "index.npy", "fog.npy"}
    capsys.readouterr()
    make(*words)
    assert "fog: " not in capsys.readouterr().out and (tmp_path / "labels.npy").exists()


# --- the two scripts ------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["make_toy", "make_corrupted"])
def test_help_imports_nothing_that_takes_seconds(script, tmp_path):
    for name in ("keras", "tensorflow", "numba", "scipy", "joblib", "matplotlib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    result = subprocess.run([sys.executable, ROOT / "data" / f"{script}.py", "--help"], text=True,
                            env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"python data/{script}.py data/toy" in result.stdout
