"""Corrupted test sets: the published layout, the published formulas, one seed, and one set per folder."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import cifar10_resnet50 as step1
import make_corrupted
import robustness
from make_corrupted import CORRUPTIONS, SEVERITIES, corrupt

RANDOM = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "fog", "elastic_transform")
NOT_GROWING = ("saturate", "elastic_transform")  # a test of their own says what they do instead


def apply(name, images, severity, seed=0):
    """The corruption before it is clipped and truncated: float64 in, float64 out."""
    function, constants = CORRUPTIONS[name]
    return function(images, constants[severity - 1], np.random.default_rng(seed))


def flat(value, count=4):
    return np.full((count, 32, 32, 3), value)


def change(images, name):
    """Mean absolute difference in levels of 255, by severity."""
    return [np.abs(corrupt(images, name, severity) - images.astype(float)).mean() for severity in SEVERITIES]


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """Every corruption of the drawn data set's 40 test pictures."""
    out = tmp_path_factory.mktemp("corrupted") / "toy"
    make_corrupted.main([str(toy), str(out)])
    return out


# --- the files -----------------------------------------------------------------------------------


def test_layout(whole, toy):
    data = step1.load_data(str(toy))
    others = {".lock", "labels.npy", "index.npy", "overview.png", "made.json"}
    assert {path.name for path in whole.iterdir()} == others | {f"{name}.npy" for name in CORRUPTIONS}
    for name in CORRUPTIONS:
        images = np.load(whole / f"{name}.npy")
        assert images.shape == (5 * 40, 32, 32, 3) and images.dtype == np.uint8
        for severity in SEVERITIES:
            assert (images[40 * (severity - 1):40 * severity] == corrupt(data.x_test, name, severity)).all()
    labels, index = np.load(whole / "labels.npy"), np.load(whole / "index.npy")
    assert labels.dtype == np.uint8 and (labels.reshape(5, 40) == data.y_test).all()
    assert index.dtype == np.int64 and (index == np.arange(40)).all()
    assert json.loads((whole / "made.json").read_text())["data_sha256"] == data.fingerprint()
    with Image.open(whole / "overview.png") as picture:
        assert picture.height > picture.width > 500


def test_a_subset_is_the_same_bytes(whole, toy, tmp_path):
    names = ["elastic_transform", "fog", "gaussian_noise", "shot_noise", "jpeg_compression"]
    make_corrupted.main([str(toy), str(tmp_path / "few"), "--corruptions", *names])
    assert {path.stem for path in (tmp_path / "few").glob("*.npy")} == {*names, "labels", "index"}
    for name in [*names, "labels", "index"]:
        assert (tmp_path / "few" / f"{name}.npy").read_bytes() == (whole / f"{name}.npy").read_bytes()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_another_seed_is_another_noise(name, photos):
    assert (corrupt(photos[:4], name, 5, seed=1) != corrupt(photos[:4], name, 5, seed=2)).any() == (name in RANDOM)


def test_severities_and_corruptions_draw_their_own_noise(photos):
    noise = [apply("gaussian_noise", flat(0.5), 1, [0, number, severity]) for number in (0, 3) for severity in (1, 2)]
    drawn = [corrupt(photos[:4], "gaussian_noise", severity).astype(float) - photos[:4] for severity in (1, 2)]
    assert abs(np.corrcoef([field.ravel() for field in noise]) - np.eye(4)).max() < 0.05
    assert abs(np.corrcoef(drawn[0].ravel(), drawn[1].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("name", ["gaussian_noise", "gaussian_blur", "jpeg_compression"])
def test_batches_do_not_show(name, photos, monkeypatch):
    at_once = corrupt(photos, name, 3)
    monkeypatch.setattr(make_corrupted, "BATCH", 7)
    assert (corrupt(photos, name, 3) == at_once).all()


def test_images(toy, tmp_path, capsys):
    make_corrupted.main([str(toy), str(tmp_path / "few"), "--images", "13", "--corruptions", "contrast"])
    data, index = step1.load_data(str(toy)), np.load(tmp_path / "few" / "index.npy")
    assert len(index) == 13 and (np.diff(index) > 0).all() and set(np.bincount(data.y_test[index])) == {1, 2}
    assert (np.load(tmp_path / "few" / "labels.npy") == np.tile(data.y_test[index], 5)).all()
    assert (np.load(tmp_path / "few" / "contrast.npy")[:13] == corrupt(data.x_test[index], "contrast", 1)).all()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("contrast: 13 images x 5 severities, ") and "13 of 40" in lines[1]


def test_choose():
    y = np.array([2] * 10 + [0] * 3 + [1] * 100)
    assert (make_corrupted.choose(y, 113) == np.arange(113)).all()
    assert make_corrupted.choose(y, 6).tolist() == [0, 5, 10, 11, 13, 63]  # two of each, evenly through each
    assert np.bincount(y[make_corrupted.choose(y, 20)]).tolist() == [3, 9, 8]  # a class with three gives three
    assert make_corrupted.choose(y, 1).tolist() == [10]


# --- how much is changed -------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in NOT_GROWING])
def test_stronger_severity_is_a_stronger_effect(name, photos):
    effect = change(photos, name)
    assert effect[0] > 0.5 and (np.diff(effect) > 0).all(), effect


def test_saturate_takes_colour_away_then_adds_it(photos):
    effect = change(photos, "saturate")
    assert effect[0] < effect[1] and effect[2] < effect[3] < effect[4] and min(effect) == effect[2] > 5
    colour = [np.ptp(corrupt(photos, "saturate", severity), axis=-1).mean() for severity in SEVERITIES]
    assert colour[1] < colour[0] < np.ptp(photos, axis=-1).mean() < colour[2] < colour[3] < colour[4]


def test_elastic_moves_least_where_it_bends_most(photos):
    """The published constants trade the affine map, which moves many pixels far, for a field that bends few of them a little."""
    effect = change(photos, "elastic_transform")
    assert (np.diff(effect) < 0).all() and effect[-1] > 5, effect


@pytest.mark.parametrize("name", ["defocus_blur", "gaussian_blur", "zoom_blur", "contrast", "elastic_transform", "pixelate",
                                  "jpeg_compression"])
def test_a_flat_image_stays(name):
    grey = np.full((3, 32, 32, 3), 128, np.uint8)
    for severity in (1, 5):
        assert abs(apply(name, flat(128 / 255, 1), severity) - 128 / 255).max() < 1e-12
        # What is computed can come out a hair below 128, and is then truncated to 127, as in the original.
        allowed = {128} if name in ("pixelate", "jpeg_compression") else {127, 128}
        assert set(np.unique(corrupt(grey, name, severity))) <= allowed


# --- the formulas --------------------------------------------------------------------------------


def test_the_end_is_truncated(monkeypatch):
    monkeypatch.setitem(CORRUPTIONS, "shift", (lambda images, shift, rng: images + shift / 255, (0.9, -0.1, 1.1, -300, 300)))
    grey = np.full((1, 32, 32, 3), 100, np.uint8)
    assert [int(corrupt(grey, "shift", severity)[0, 0, 0, 0]) for severity in SEVERITIES] == [100, 99, 101, 0, 255]


def test_every_value_survives_the_way_there_and_back(monkeypatch):
    monkeypatch.setitem(CORRUPTIONS, "nothing", (lambda images, constant, rng: images, (0,) * 5))
    values = np.arange(256, dtype=np.uint8).repeat(12).reshape(1, 32, 32, 3)
    assert (corrupt(values, "nothing", 1) == values).all()


def test_contrast_by_hand():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[:, :16] = (200, 100, 40)  # half of the image, so the channels' means are 100, 50 and 20
    after = corrupt(image, "contrast", 3)  # 0.4: 100 +- 40, 50 +- 20, 20 +- 8
    assert abs(after[0, 0, 0].astype(int) - (140, 70, 28)).max() <= 1 and abs(after[0, 31, 0] - (60., 30, 12)).max() <= 1


@pytest.mark.parametrize("severity, std", [(1, 0.04), (2, 0.06), (3, 0.08), (4, 0.09), (5, 0.10)])
def test_gaussian_noise_by_its_deviation(severity, std):
    levels = corrupt(np.full((20, 32, 32, 3), 127, np.uint8), "gaussian_noise", severity) - 127.0
    assert levels.std() == pytest.approx(255 * std, rel=0.02)
    assert levels.mean() == pytest.approx(-0.5, abs=0.35)  # truncating takes half a level, on average


def test_shot_and_speckle_noise_grow_with_the_value():
    for value in (0.2, 0.8):
        assert apply("shot_noise", flat(value, 20), 3).var() == pytest.approx(value / 100, rel=0.03)  # Poisson's variance
        assert apply("speckle_noise", flat(value, 20), 5).std() == pytest.approx(0.2 * value, rel=0.03)
    assert (apply("shot_noise", flat(0.0), 5) == 0).all() and (apply("speckle_noise", flat(0.0), 5) == 0).all()


def test_impulse_noise_counts():
    after = apply("impulse_noise", flat(0.3, 30), 5)
    assert [(after == value).mean() for value in (0, 1, 0.3)] == pytest.approx([0.035, 0.035, 0.93], rel=0.06)
    assert 0.03 < (after != 0.3).any(axis=-1).mean() - 0.07  # single values of a pixel, not whole pixels


def test_blurs_of_one_white_pixel():
    image = np.zeros((1, 32, 32, 3))
    image[0, 16, 16] = 1
    taps = np.exp(-np.arange(-4, 5) ** 2 / 2)  # sigma 1, cut at four sigma
    kernel = np.zeros((32, 32))
    kernel[12:21, 12:21] = np.outer(taps, taps) / taps.sum() ** 2
    assert apply("gaussian_blur", image, 5)[0, ..., 1] == pytest.approx(kernel, abs=1e-12)
    cross = np.zeros((32, 32))  # a disc of radius 1: five pixels, hardly softened
    cross[15:18, 16] = cross[16, 15:18] = 0.2
    assert apply("defocus_blur", image, 4)[0, ..., 1] == pytest.approx(cross, abs=1e-5)
    square = np.zeros((32, 32))  # of radius 1.5: nine
    square[15:18, 15:18] = 1 / 9
    assert apply("defocus_blur", image, 5)[0, ..., 1] == pytest.approx(square, abs=1e-12)


def test_zoom_blur_is_a_mean_of_enlargements(photos):
    image, expected = photos[0] / 255, photos[0] / 255
    for factor in np.arange(1, 1.11, 0.01):
        side = int(np.ceil(32 / factor))
        top = (32 - side) // 2
        larger = ndimage.zoom(image[top:top + side, top:top + side], (factor, factor, 1), order=1)
        rim = (len(larger) - 32) // 2
        expected = expected + larger[rim:rim + 32, rim:rim + 32]
    assert apply("zoom_blur", image[None], 2)[0] == pytest.approx(expected / 13, abs=1e-12)


def test_pillow_does_pixelate_and_jpeg(photos):
    for severity, side in zip(SEVERITIES, (30, 28, 27, 24, 20)):
        expected = Image.fromarray(photos[0]).resize((side, side), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)
        assert (corrupt(photos[:1], "pixelate", severity)[0] == np.asarray(expected)).all()
    for severity, quality in zip(SEVERITIES, (80, 65, 58, 50, 40)):
        file = io.BytesIO()
        Image.fromarray(photos[0]).save(file, "JPEG", quality=quality)
        assert (corrupt(photos[:1], "jpeg_compression", severity)[0] == np.asarray(Image.open(file))).all()


def test_brightness_and_saturate_by_hand():
    pixel = flat(np.array([0.4, 0.2, 0.1]))  # value 0.4, saturation 0.75
    assert apply("brightness", pixel, 4)[0, 0, 0] == pytest.approx([0.6, 0.3, 0.15])  # value 0.6
    assert apply("saturate", pixel, 1)[0, 0, 0] == pytest.approx([0.4, 0.34, 0.31])  # 0.3 times as far below the value
    assert apply("saturate", flat(0.5), 4)[0, 0, 0] == pytest.approx([0.5, 0.45, 0.45])  # grey counts as red


def test_clouds():
    for decay in (3, 2.5, 2, 1.75):
        clouds = make_corrupted.plasma(200, decay, np.random.default_rng(0))
        assert (clouds.min(axis=(1, 2)) == 0).all() and (clouds.max(axis=(1, 2)) == 1).all()
        for axis in (1, 2):  # opposite edges meet: from the last row to the first it is no further than between others
            steps = np.abs(clouds - np.roll(clouds, -1, axis=axis)).mean(axis=(0, 3 - axis))
            assert steps[-1] < 1.2 * steps.max()
    rough = [np.abs(np.diff(make_corrupted.plasma(200, decay, np.random.default_rng(0)), axis=1)).mean() for decay in (3, 1.75)]
    assert rough[1] > 1.2 * rough[0]


def test_fog_stays_below_the_brightest(photos):
    images = photos / 255
    after = apply("fog", images, 5)
    assert (after.max(axis=(1, 2, 3)) <= images.max(axis=(1, 2, 3)) + 1e-12).all() and after.min() >= 0
    grey = apply("fog", flat(0.5), 4)  # (0.5 + clouds) * 0.5 / 1.5, with clouds from 0 to 1 and the same for all channels
    assert (grey.min(), grey.max()) == pytest.approx((1 / 6, 1 / 2)) and np.ptp(grey, axis=-1).max() == 0


def test_elastic_severity_one_is_affine():
    y, x = np.mgrid[:32, :32] / 64
    ramp = np.repeat(np.stack([x, y, x + y], axis=-1)[None], 8, axis=0)
    after = apply("elastic_transform", ramp, 1)[:, 8:24, 8:24]  # far from the border, which is mirrored
    assert abs(np.diff(after, 2, axis=1)).max() < 1e-9 and abs(np.diff(after, 2, axis=2)).max() < 1e-9
    moved = (after - ramp[:, 8:24, 8:24])[..., :2] * 64  # pixels, (x, y)
    assert 0.3 < abs(moved).mean() < 2.56 and abs(moved.mean(axis=(1, 2))).min() > 0
    bent = apply("elastic_transform", ramp, 5)[:, 8:24, 8:24]
    assert abs(np.diff(bent, 2, axis=1)).max() > 1e-3


def test_overlap_names_are_corruptions():
    assert set(robustness.LIKE_RANDAUGMENT) < set(CORRUPTIONS)
    assert all(len(constants) == 5 for _, constants in CORRUPTIONS.values())


# --- mistakes, and going on ----------------------------------------------------------------------


@pytest.mark.parametrize("arguments, message", [
    (["--corruptions", "fog", "smoke"], "no corruption called smoke; there are gaussian_noise, "),
    (["--images", "41"], "--images 41: the data set has 40 test images"),
])
def test_wrong_arguments(arguments, message, toy, tmp_path):
    with pytest.raises(step1.UserError, match=message):
        make_corrupted.main([str(toy), str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--images", "0"], ["--images", "few"], ["--seed", "-1"]])
def test_wrong_numbers(arguments, toy, tmp_path):
    with pytest.raises(SystemExit):
        make_corrupted.main([str(toy), str(tmp_path / "out"), *arguments])


def test_wrong_folders(toy, tmp_path):
    with pytest.raises(step1.UserError, match="no such folder"):
        make_corrupted.main([str(tmp_path / "nothing"), str(tmp_path / "out")])
    before = sorted(toy.rglob("*"))
    with pytest.raises(step1.UserError, match="has not made"):  # the data set itself
        make_corrupted.main([str(toy), str(toy)])
    assert sorted(toy.rglob("*")) == before


def test_other_arguments_are_refused_the_same_go_on(toy, tmp_path, capsys):
    out = tmp_path / "out"
    command = [str(toy), str(out), "--images", "10", "--corruptions", "fog", "contrast"]
    make_corrupted.main(command)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    for other in (["--seed", "1"], ["--images", "9"], ["--corruptions", "fog"]):
        with pytest.raises(step1.UserError, match=f"other arguments .see {other[0][2:]} in "):
            make_corrupted.main([*command, *other])
    capsys.readouterr()
    make_corrupted.main([str(toy), str(out), "--images", "10", "--corruptions", "contrast", "fog"])  # in any order
    assert "is there already" in capsys.readouterr().out
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()} == before

    (out / "fog.npy").unlink()
    (out / ".unfinished-fog.npy").write_bytes(b"half")
    make_corrupted.main(command)
    printed = capsys.readouterr().out
    assert "fog: 10 images" in printed and "contrast: " not in printed
    assert {path.name for path in out.iterdir()} == set(before)
    assert (out / "fog.npy").read_bytes() == before["fog.npy"][0]
    assert (out / "contrast.npy").stat().st_mtime_ns == before["contrast.npy"][1]


def test_half_a_set_has_no_labels(toy, tmp_path, monkeypatch, capsys):
    command = [str(toy), str(tmp_path), "--images", "10", "--corruptions", "fog", "contrast"]

    def full_disk(images, constant, rng):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setitem(CORRUPTIONS, "contrast", (full_disk, (0,) * 5))
        with pytest.raises(OSError):
            make_corrupted.main(command)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "made.json", "index.npy", "fog.npy"}
    capsys.readouterr()
    make_corrupted.main(command)
    assert "fog: " not in capsys.readouterr().out and (tmp_path / "labels.npy").exists()


def test_interrupted_before_anything_was_made(toy, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".unfinished-made.json").write_text("{")
    make_corrupted.main([str(toy), str(tmp_path / "out"), "--images", "10", "--corruptions", "contrast"])
    assert (tmp_path / "out" / "contrast.npy").exists()
