"""Pseudo-labels: the best there is, in whatever order it comes; and the truth only looks on."""

import csv
import dataclasses
import os
import shutil
import tarfile
from types import SimpleNamespace

import keras
import make_toy
import numpy as np
import pytest
from conftest import label
from PIL import Image

import imagenet_dummy_label as step2
from data_generator import refuse_overlap
from noisy_student import labels, record, runs
from noisy_student.data import load_data
from noisy_student.files import UserError, sha256
from noisy_student.images import Picture
from noisy_student.labels import load_data_of
from noisy_student.metrics import with_temperature
from noisy_student.training import BATCH


def select(images, threshold=0.5, **rule):
    """A Selection from three classes that was shown images: (path, label, confidence)."""
    selection = step2.Selection(step2.Rule(threshold, **rule), 3)
    for path, of_class, confidence in images:
        soft = np.full(3, (1 - confidence) / 2, np.float32)
        soft[of_class] = confidence
        picture = Picture("s", path, pixels=np.zeros((32, 32, 3), np.uint8))
        picture.judge(soft, confidence)
        picture.digest = path.encode()
        selection.add(picture)
    return selection


def paths(selection):
    return [picture.path for picture in selection.kept()[0]]


# --- threshold, share, cap and balance ------------------------------------------------------------


def test_threshold_is_exclusive():
    just_above = np.nextafter(np.float32(0.5), np.float32(1))
    assert paths(select([("a", 0, 0.5), ("b", 0, just_above), ("c", 1, 0.4), ("d", 2, 1.0)])) == [
        "b", "d"]
    assert paths(select([("a", 0, 0.9999), ("b", 1, 1.0)], threshold=1.0)) == []
    assert paths(select([("a", 0, 0.4), ("b", 1, 1.0)], threshold=0.0)) == ["a", "b"]


def test_most_confident_are_kept_whatever_the_order():
    rng = np.random.default_rng(0)
    # With ties.
    images = [(f"{i:04d}", int(rng.integers(3)), float(rng.choice(np.linspace(0.4, 1, 40))))
              for i in range(3000)]
    expected = []
    for c in range(3):
        above = [(-np.float32(confidence), path) for path, of_class, confidence in images
                 if of_class == c and np.float32(confidence) > 0.5]
        expected += [path for _, path in sorted(above)[:50]]
    for _ in range(3):
        assert paths(select(images, cap=50)) == expected
        rng.shuffle(images)


def test_memory_is_bounded_by_the_cap():
    selection = select(((f"{i}", 0, 0.6 + i % 100 / 300) for i in range(5000)), cap=10)
    assert max(map(len, selection.candidates)) <= 2 * 10 + BATCH
    # All equally confident: the first by name.
    assert paths(selection) == sorted(f"{i}" for i in range(99, 5000, 100))[:10]


def test_keep_share_is_of_all_that_were_put_into_the_class():
    # Ten of class 0, the last four of them above one half; four of class 1, which is never sure.
    images = [(f"a{i}", 0, 0.41 + i / 60) for i in range(10)]
    images += [(f"b{i}", 1, 0.35 + i / 100) for i in range(4)]
    assert paths(select(images, 0, share=0.3)) == ["a9", "a8", "a7", "b3"]
    assert paths(select(images[::-1], 0, share=0.5)) == [
        "a9", "a8", "a7", "a6", "a5", "b3", "b2"]
    assert len(paths(select(images, 0))) == 14
    assert paths(select(images, 0.5, share=0.5)) == ["a9", "a8", "a7", "a6"]
    assert paths(select(images, 0, cap=2, share=0.3)) == ["a9", "a8", "b3"]


@pytest.mark.parametrize("cap", [None, 1])
def test_equal_pictures_are_one_under_the_first_of_their_names(cap):
    selection = step2.Selection(step2.Rule(share=0.5, threshold=0, cap=cap), 3)
    came_before = []
    for path, digest in (("z", b"1"), ("b", b"2"), ("a", b"1"), ("y", b"1")):
        picture = Picture("s", path, digest=digest, label=0, confidence=0.9)
        came_before.append(selection.add(picture))
    assert came_before == [False, False, True, True]
    # The half of two, not of four.
    assert selection.seen[0] == 2 and paths(selection) == ["a"]


def test_balance_fills_up_to_the_largest_from_the_front():
    hard = np.array([0, 0, 0, 0, 0, 1, 1, 3])
    # Class 2 has none and stays empty.
    assert step2.balance(hard).tolist() == [0, 1, 2, 3, 4, 5, 6, 5, 6, 5, 7, 7, 7, 7, 7]
    assert step2.balance(hard, max_repeats=2).tolist() == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 7]
    assert step2.balance(hard, max_repeats=1).tolist() == list(range(8))
    assert step2.balance(np.array([2])).tolist() == [0]


# --- the script -----------------------------------------------------------------------------------


@pytest.fixture
def label_own(own_network, tmp_path):
    """Step 2 with the network of one layer as the teacher. Returns: its folder."""
    def run(*words, out="pseudo"):
        label(*words, "--teacher", own_network, "--classes", *make_toy.SHAPES,
              "--out", tmp_path / out)
        return tmp_path / out
    return run


@pytest.fixture
def one_image(toy, tmp_path):
    """A folder with one image and a file that is none."""
    folder = tmp_path / "one"
    folder.mkdir()
    shutil.copy(toy / "unlabeled" / "0000.png", folder)
    (folder / "broken.png").write_bytes(b"x")
    return folder


def table(folder):
    with record.open_table(folder / "images.csv") as file:
        return list(csv.DictReader(file))


def test_what_it_leaves_behind(pseudo, teacher, toy):
    assert {path.name for path in pseudo.iterdir()} - {".lock"} == {
        "x.npy", "y.npy", "index.npy", "images.csv", "merge.npz", "run.json", "montage.png",
        "confidence.png", "mistakes.png"}
    run, read = runs.finished(pseudo, ""), labels.load_pseudo(pseudo, load_data(str(toy), 80))
    assert read.x.dtype == np.uint8 and read.y.dtype == np.float32 and read.y.shape == (100, 10)
    # Soft labels.
    assert read.y.sum(axis=1) == pytest.approx(1, abs=1e-5) and (read.y.max(axis=1) < 1).any()
    hard = read.y.argmax(axis=1)
    assert (read.index == step2.balance(hard)).all()
    for c in np.unique(hard):
        # The most confident first.
        assert (np.diff(read.y[hard == c].max(axis=1)) <= 0).all()
    rows = table(pseudo)
    assert len(rows) == 100 and {row["status"] for row in rows} == {"kept"}
    assert {row["source"] for row in rows} == {str(toy / "unlabeled"), "rest"}
    # The truth of both sources is known.
    assert run.results["audit"]["kept"]["truth_known"] == 100
    # Eight validation images call for no other.
    assert run.results["temperature"] == 1
    assert run.made_from["teacher_sha256"] == sha256(teacher / "model.keras")
    assert run.taught_by["arguments"] == runs.read(teacher).arguments


def test_labels_are_the_teachers_without_noise(pseudo, teacher):
    x, y = np.load(pseudo / "x.npy"), np.load(pseudo / "y.npy")
    model = runs.read(teacher).model()
    # In this order: with noise, the running statistics move.
    without, with_noise = (keras.ops.convert_to_numpy(model(x, training=training))
                           for training in (False, True))
    assert y == pytest.approx(without, abs=1e-5) and y != pytest.approx(with_noise, abs=1e-3)


def test_calibrated_labels_are_as_sure_as_the_validation_images_allow(teacher, toy, capsys):
    network, data = runs.read(teacher).model(), load_data(str(toy), 80)
    # 200 images of random classes: nobody may be sure of them.
    x, t = np.tile(data.x, (2, 1, 1, 1))[:200], np.eye(10)[np.arange(200) * 7 % 10]
    sure = keras.Sequential([network, keras.layers.Lambda(lambda p: p**12 / keras.ops.sum(
        p**12, axis=1, keepdims=True))])
    temperature = step2.calibrate(sure, SimpleNamespace(validation=lambda: (x, t)))
    assert temperature > 5 and f"temperature {temperature:.3f}" in capsys.readouterr().out
    batches = labels.read_batches([str(toy / "unlabeled")], data, size=0)
    (labelled,) = step2.label_images(sure, batches, temperature)
    pixels = np.stack([picture.pixels for picture in labelled])
    expected = with_temperature(keras.ops.convert_to_numpy(sure(pixels)), temperature)
    assert np.stack([picture.soft for picture in labelled]) == pytest.approx(expected, abs=1e-5)
    raw = [picture.raw_confidence for picture in labelled]
    assert (raw > expected.max(axis=1) + 0.01).all()


def test_truth_order_and_workers_change_nothing_that_is_kept(toy, label_own, tmp_path):
    for i, path in enumerate(sorted((toy / "unlabeled").iterdir())):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "ab"[i % 2])
    a, b = tmp_path / "a", tmp_path / "b"
    with open(toy / "truth.csv", newline="") as file:
        names, classes = zip(*csv.reader(file))
    permuted = tmp_path / "permuted.csv"
    permuted.write_text("".join(f"{name},{c}\n" for name, c in zip(names, classes[7:] + classes)))
    common = ["--threshold", 0.6, "--per-class-cap", 3]
    truths, kept = [], []
    for out, words in (("0", [a, b, "--truth", toy / "truth.csv"]),
                       ("1", [b, a, "--truth", permuted, "--workers", 1]),
                       ("2", [a, b, "--workers", 3])):
        folder = label_own(*words, *common, out=out)
        rows = sorted(table(folder), key=lambda row: (row["source"], row["path"]))
        truths.append([row.pop("truth") for row in rows])
        kept.append([rows, *(sha256(folder / f"{name}.npy") for name in ("x", "y", "index"))])
    assert kept[0] == kept[1] == kept[2]
    assert truths[0] != truths[1] and set(truths[0]) == set(truths[1]) > {"none of these"}
    assert set(truths[2]) == {""}
    statuses = [row["status"] for row in rows]
    assert {*statuses} == {"kept", "over the cap", "below threshold"}
    of_kept = [row["label"] for row in rows if row["status"] == "kept"]
    assert len(of_kept) == len(np.load(folder / "x.npy"))
    assert max(of_kept.count(name) for name in of_kept) == 3
    for row in rows:
        assert (float(row["confidence"]) > 0.6) == (row["status"] != "below threshold")


def test_copies_of_validation_and_test_images_are_left_out(toy, teacher, own_network, tmp_path,
                                                          capsys):
    data = load_data_of(runs.read(teacher))
    (tmp_path / "pool").mkdir()
    shutil.copy(toy / data.names[data.val[3]], tmp_path / "pool" / "exact-0.png")
    shutil.copy(toy / data.names[data.train[5]], tmp_path / "pool" / "trained.png")
    for i in range(6):
        Image.fromarray(data.x_test[i]).save(tmp_path / "pool" / f"exact-{i + 1}.png")
    flipped = Image.fromarray(data.x_test[7][:, ::-1]).resize((64, 64), Image.Resampling.BICUBIC)
    flipped.save(tmp_path / "pool" / "near.jpg", quality=90)
    for path in sorted((toy / "unlabeled").iterdir())[:9]:
        shutil.copy(path, tmp_path / "pool" / f"new-{path.name}")
    label(tmp_path / "pool", "--teacher", teacher, "--threshold", 0, "--out", tmp_path / "pseudo")
    rows = {row["path"]: row for row in table(tmp_path / "pseudo")}
    expected = {"exact": "exact copy", "near": "near copy", "new": "kept", "trained": "kept"}
    for name, row in rows.items():
        assert row["status"] == expected[name.split("-")[0].split(".")[0]], name
    assert rows["near.jpg"]["reason"] == "shows test image 7"
    assert rows["exact-0.png"]["reason"] == f"is {data.names[data.val[3]]}, pixel for pixel"
    assert "8 images are left out, which show validation or test images, 7 of them pixel for" in (
        capsys.readouterr().out)
    # No less is refused by the student.
    read = labels.load_pseudo(tmp_path / "pseudo", data)
    assert len(read.x) == 10
    refuse_overlap(read.x, data)
    # Nobody knows what a network from elsewhere was validated on.
    label(tmp_path / "pool", "--teacher", own_network, "--classes", *make_toy.SHAPES,
          "--threshold", 0, "--data", toy, "--out", tmp_path / "own")
    own = {row["path"]: row["status"] for row in table(tmp_path / "own")}
    assert own == {**{name: row["status"] for name, row in rows.items()}, "exact-0.png": "kept"}


def test_labelling_that_is_killed_ends_as_if_it_had_not_been(toy, label_own, monkeypatch,
                                                             tmp_path):
    def killed(path, array):
        path.write_bytes(b"half")
        (tmp_path / "killed" / ".unfinished-images.csv").touch()
        raise KeyboardInterrupt

    words = (toy / "unlabeled", "--threshold", 0.5)
    whole = label_own(*words, out="whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(labels, "write_arrays", killed)
        label_own(*words, out="killed")
    assert not runs.read(tmp_path / "killed").finished
    again = label_own(*words, out="killed")
    assert {path.name for path in again.iterdir()} == {path.name for path in whole.iterdir()}
    for name in ("x.npy", "y.npy", "index.npy", "images.csv"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()


def test_keep_share_hard_labels_and_no_balance(toy, label_own):
    folder = label_own(toy / "unlabeled", "--keep-share", 0.5, "--hard", "--no-balance")
    x, y, index = (np.load(folder / f"{name}.npy") for name in ("x", "y", "index"))
    assert set(np.unique(y)) == {0, 1} and (y.sum(axis=1) == 1).all()
    assert index.tolist() == list(range(len(x)))
    put_into = {name: 0 for name in make_toy.SHAPES}
    for row in table(folder):
        put_into[row["label"]] += 1
    assert y.sum(axis=0).tolist() == [round(count / 2) for count in put_into.values()]
    assert sum(put_into.values()) == 60 and max(put_into.values()) > 6
    assert {row["status"] for row in table(folder)} == {"kept", "beyond the share"}


@pytest.mark.parametrize("words, text", [
    ("--threshold 0.9999", "no image is above --threshold 0.9999.*Try --threshold 0"),
    ("--keep-share 0.01", "--keep-share 0.01: keeps none of 1 images"),
    ("--require-all-classes --threshold 0", "-classes: no pseudo-label for (.*, ){8}")])
def test_too_little_is_an_error_that_leaves_no_labels(words, text, one_image, label_own, tmp_path):
    with pytest.raises(UserError, match=text) as error:
        label_own(one_image, *words.split())
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "pseudo").glob("*.npy"))
    assert not runs.read(tmp_path / "pseudo").finished


def test_missing_classes_are_named_and_recorded(one_image, label_own, capsys, tmp_path):
    with pytest.raises(UserError):
        label_own(one_image, "--threshold", 1)
    # Nothing worth keeping is there, so another threshold is welcome.
    run = runs.finished(label_own(one_image, "--threshold", 0), "")
    out = capsys.readouterr().out
    (row,) = (row for row in table(tmp_path / "pseudo") if row["label"])
    missing = [name for name in make_toy.SHAPES if name != row["label"]]
    assert f"warning: no pseudo-label for {', '.join(missing)};" in out
    assert "1 files are not readable images" in out and "broken.png': not an image" in out
    assert sorted(run.results["kept_per_class"]) == [0] * 9 + [1]
    assert (run.results["seen"], run.results["left_out"]) == (1, {"unreadable": 1})
    # And now there is.
    with pytest.raises(UserError, match="threshold 0.0 there, 0.05 here"):
        label_own(one_image, "--threshold", 0.05)
    label_own(one_image, "--threshold", 0)
    assert "is finished: 1 of 1 images kept" in capsys.readouterr().out


def test_one_picture_in_many_files_counts_once(toy, label_own, tmp_path, capsys):
    pool = tmp_path / "pool"
    shutil.copytree(toy / "unlabeled", pool)
    for i in range(100):
        Image.new("RGB", (500, 374), (238, 238, 238)).save(pool / f"gone{i}.jpg")
    folder = label_own(pool, "--keep-share", 0.5)
    assert "99 files show the same picture as another one" in capsys.readouterr().out
    x = np.load(folder / "x.npy")
    assert len(x) == len({image.tobytes() for image in x}) < 40
    rows = {row["path"]: row for row in table(folder)}
    assert rows["gone0.jpg"]["status"] in ("kept", "beyond the share")
    assert rows["gone99.jpg"]["status"] == "same picture"
    assert rows["gone99.jpg"]["reason"] == f"is {pool}/gone0.jpg, pixel for pixel"


def test_members_of_one_name_each_have_their_own_row(toy, label_own, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for path in sorted((toy / "unlabeled").iterdir())[:8]:
            archive.add(path, "same.png")
    folder = label_own(tmp_path / "a.tar", "--keep-share", 0.5)
    rows = table(folder)
    assert len({row["path"] for row in rows}) == 8
    assert sum(row["status"] == "kept" for row in rows) == len(np.load(folder / "x.npy")) < 8


def test_pool_may_move_but_not_change(one_image, label_own, capsys):
    label_own(one_image, "--threshold", 0)
    moved = one_image.parent / "disk" / "one"
    moved.parent.mkdir()
    one_image.rename(moved)
    label_own(moved, "--threshold", 0)
    assert "pseudo is finished: 1 of 1 images kept" in capsys.readouterr().out
    (moved / "broken.png").write_bytes(b"xy")
    with pytest.raises(UserError, match="holds another run .pool_bytes [0-9]+ there"):
        label_own(moved, "--threshold", 0)


def test_names_and_files_of_any_kind_are_accounted_for(one_image, toy, label_own):
    fine = (one_image / "0000.png").read_bytes()
    names = ["0000.png", "new\nline.png", 'a,"b".png']
    if os.name == "posix":
        names.append(os.fsdecode(b"\xff\xfe.png"))
        os.mkfifo(one_image / "pipe.png")
        (one_image / "dangling.png").symlink_to("nowhere")
        (one_image / "device.png").symlink_to("/dev/zero")
    for i, name in enumerate(names[1:], 1):
        shutil.copy(toy / "unlabeled" / f"000{i}.png", one_image / name)
    (one_image / "huge.png").write_bytes(fine[:16] + b"\x7f\xff\xff\xff" * 2 + fine[24:])
    others = {path.name for path in one_image.iterdir()} - set(names)
    rows = table(label_own(one_image, "--threshold", 0))
    assert {row["path"]: row["status"] for row in rows} == {
        **dict.fromkeys(names, "kept"), **dict.fromkeys(others, "unreadable")}
    assert all(row["reason"] for row in rows if row["status"] == "unreadable")


def test_empty_folder_and_nobody_to_teach(label_own, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no readable image found"):
        label_own(tmp_path / "empty")
    with pytest.raises(UserError, match="nothing there yet. Run first: python cifar10_resnet50.py"):
        label(tmp_path / "empty", "--teacher", tmp_path / "nobody")


@pytest.mark.parametrize("taken, words, text", [
    ("rest", ["rest"], "rest: .* was given every label; train it with --num-labeled N"),
    ("val", ["rest", "--calibrate"], "--calibrate: .* was validated on the test images")])
def test_rest_and_calibration_need_what_the_teacher_left(taken, words, text, teacher, toy, tmp_path,
                                                         monkeypatch):
    nothing = {taken: np.empty(0, dtype=np.int64)}
    data = dataclasses.replace(load_data(str(toy), 80), **nothing)
    monkeypatch.setattr(labels, "load_data_of", lambda *_: data)
    with pytest.raises(UserError, match=text):
        label(*words, "--teacher", teacher, "--out", tmp_path / "p")
