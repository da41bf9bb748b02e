"""Labelled images: every file is accounted for, and who may see which is decided once."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from noisy_student import data
from noisy_student.data import load_data, split_labels
from noisy_student.files import UserError


def test_split_keeps_the_classes_apart_and_even():
    y = np.repeat(np.arange(10), 500)[np.random.default_rng(1).permutation(5000)]
    train, val, rest = split_labels(y, 400, seed=3)
    assert (len(train), len(val), len(rest)) == (360, 40, 4600)
    # Every image is in exactly one.
    assert sorted([*train, *val, *rest]) == list(range(5000))
    for index, each in ((train, 36), (val, 4), (rest, 460)):
        assert (np.bincount(y[index]) == each).all() and (np.diff(index) > 0).all()
    assert (split_labels(y, 400, seed=3)[0] == train).all()
    assert (split_labels(y, 400, seed=4)[0] != train).any()


def test_split_keeps_uneven_classes_uneven():
    y = np.array([0] * 900 + [1] * 100)
    train, val, _ = split_labels(y, 500)
    assert np.bincount(y[train]).tolist() == [405, 45]
    assert np.bincount(y[val]).tolist() == [45, 5]


def test_split_holds_out_a_tenth_but_five_thousand_at_most():
    y = np.arange(60_000) % 10
    assert [len(part) for part in split_labels(y)] == [55_000, 5000, 0]
    assert [len(part) for part in split_labels(y, validation="test")] == [60_000, 0, 0]


@pytest.mark.parametrize("num_labeled, text", [
    (101, "--num-labeled 101: the data set has 100 training images"),
    (9, "--num-labeled 9: too few for 10 classes"), (5, "--num-labeled 5: too few for 10 classes"),
    (10, "--num-labeled 10: too few for 10 classes and a validation set")])
def test_split_refuses(num_labeled, text):
    with pytest.raises(UserError, match=f"^{text}"):
        split_labels(np.arange(100) % 10, num_labeled)


def test_rare_classes_are_trained_on_whatever_the_seed():
    y = np.array([0] * 30 + [1] + [2, 2] + [3] * 7)
    for num_labeled in (None, 10):
        for seed in range(30):
            train, val, rest = split_labels(y, num_labeled, seed=seed)
            assert set(y[train]) == {0, 1, 2, 3} and 30 in train
            assert sorted([*train, *val, *rest]) == list(range(40))
            assert (len(train), len(val)) == ((36, 4) if num_labeled is None else (9, 1))
    # No flag is named that nobody has given.
    with pytest.raises(UserError, match="^2 training images: too few for 2 classes and a valid"):
        split_labels(np.array([0, 1]))


def make_set(folder, *class_names, test_names=None):
    """Ten images of noise in each class; names may be bytes."""
    rng, folder = np.random.default_rng(0), os.fsencode(folder)
    for part, names in ((b"train", class_names), (b"test", test_names or class_names)):
        for name in map(os.fsencode, names):
            place = os.path.join(folder, part, name)
            os.makedirs(place)
            for i in range(10):
                image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
                image.save(os.fsdecode(os.path.join(place, b"%d.png" % i)))


def test_load_folder(toy):
    read = load_data(str(toy), num_labeled=60)
    assert read.x.shape == (120, 32, 32, 3) and read.x.dtype == np.uint8
    assert len(read.x_test) == len(read.y_test) == 40 and len(read.rest) == 60
    assert read.num_classes == 10 and read.class_names == sorted(read.class_names)
    assert (read.x[13] == np.array(Image.open(toy / read.names[13]))).all()
    for name, label in zip(read.names, read.y):
        assert name.split("/")[:2] == ["train", read.class_names[label]]
    assert str(read) == (f"{toy}: 54 labelled training images, 6 validation, 60 without label, "
                         "40 test, 10 classes")


def test_validation_images_are_held_out_or_said_to_be_the_test_images(toy):
    held_out, leak = load_data(str(toy), 60), load_data(str(toy), 60, validation="test")
    x, t = held_out.validation()
    assert (x == held_out.x[held_out.val]).all()
    assert t.dtype == np.float32 and t.tolist() == np.eye(10)[held_out.y[held_out.val]].tolist()
    assert (leak.validation()[0] == leak.x_test).all() and "(the test images!)" in str(leak)
    assert (leak.validation()[1].argmax(axis=1) == leak.y_test).all()


def test_lineage_tells_data_and_splits_apart_and_not_places(toy, tmp_path):
    shutil.copytree(toy, tmp_path / "moved")
    first, moved = load_data(str(toy), 60).lineage(), load_data(str(tmp_path / "moved"), 60)
    assert moved.lineage() == {**first, "data": str(tmp_path / "moved")}
    other_split = load_data(str(toy), 60, seed=1).lineage()
    assert other_split == {**first, "split_sha256": other_split["split_sha256"]} != first
    moved.class_names[0] = "square"
    assert moved.lineage()["data_sha256"] != first["data_sha256"]
    os.remove(tmp_path / "moved" / "test" / "star" / "0000.png")
    assert load_data(str(tmp_path / "moved"), 60).lineage()["data_sha256"] != first["data_sha256"]


def test_unreadable_training_image_is_named_and_left_out(tmp_path, capsys):
    make_set(tmp_path, "a", "b")
    (tmp_path / "train" / "a" / "3.png").write_bytes(b"")
    (tmp_path / "train" / "b" / "notes.txt").write_text("hello")
    read, out = load_data(str(tmp_path)), capsys.readouterr().out
    assert len(read.x) == len(read.names) == 19 and np.bincount(read.y).tolist() == [9, 10]
    assert read.names[3] == "train/a/4.png" and "2 files" in out
    assert "3.png': empty file" in out and "notes.txt': not an image" in out


def test_hidden_files_and_folders_are_neither_class_nor_image(tmp_path, capsys):
    make_set(tmp_path, "a", "b")
    whole = load_data(str(tmp_path))
    for part in ("train", "test"):
        for inside in (".ipynb_checkpoints", "__MACOSX", "a/.ipynb_checkpoints", "b/__MACOSX"):
            shutil.copytree(tmp_path / part / "a", tmp_path / part / inside)
    (tmp_path / "train" / "a" / ".DS_Store").write_bytes(b"x")
    shutil.copy(tmp_path / "train" / "a" / "1.png", tmp_path / "train" / "a" / "._1.png")
    read = load_data(str(tmp_path))
    assert read.names == whole.names and read.lineage() == whole.lineage()
    # In each part two that might be classes, and two within classes; and two files.
    assert capsys.readouterr().out == f"{tmp_path}: 10 hidden files or folders are passed over\n"
    # A folder within a class that is not hidden belongs to it.
    (tmp_path / "train" / "b" / "more").mkdir()
    (tmp_path / "train" / "b" / "0.png").rename(tmp_path / "train" / "b" / "more" / "0.png")
    assert load_data(str(tmp_path)).names[-1] == "train/b/more/0.png"


def test_a_name_is_the_same_class_however_its_accents_are_written(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    make_set(tmp_path, "dog", composed, test_names=["dog", decomposed])
    read = load_data(str(tmp_path))
    assert read.class_names == [composed, "dog"]
    assert np.bincount(read.y_test).tolist() == [10, 10]
    # And side by side, as two systems left them in one folder.
    os.rename(tmp_path / "train" / "dog", tmp_path / "train" / decomposed)
    os.rename(tmp_path / "test" / "dog", tmp_path / "test" / composed)
    make_set(tmp_path / "more", "dog")
    for part in ("train", "test"):
        (tmp_path / "more" / part / "dog").rename(tmp_path / part / "dog")
    assert np.bincount(load_data(str(tmp_path)).y).tolist() == [20, 10]


@pytest.mark.skipif(os.name != "posix", reason="links are a matter of rights there")
def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    make_set(tmp_path / "set", "a", "b")
    (tmp_path / "set" / "train" / "a").rename(tmp_path / "elsewhere")
    (tmp_path / "set" / "train" / "a").mkdir()
    for name, target in (("link", "elsewhere"), ("again", "elsewhere"), ("up", "set/train"),
                         ("self", "set/train/a")):
        (tmp_path / "set" / "train" / "a" / name).symlink_to(tmp_path / target)
    read = load_data(str(tmp_path / "set"))
    assert np.bincount(read.y).tolist() == [10, 10] and read.names[0] == "train/a/again/0.png"


def test_copies_across_the_split_are_counted(tmp_path, capsys):
    make_set(tmp_path, "a", "b")
    for i in range(3):
        shutil.copy(tmp_path / "train" / "a" / f"{i}.png", tmp_path / "test" / "a" / f"{i + 2}.png")
    for i in range(10):
        shutil.copy(tmp_path / "train" / "b" / f"{i}.png", tmp_path / "train" / "b" / f"1{i}.png")
    load_data(str(tmp_path))
    out = capsys.readouterr().out
    assert "3 of 20 test images are among the training images, pixel for pixel" in out
    # Every image of b is there twice, and two of three to validate on are of b.
    assert "2 of 3 validation images are among the other training images, pixel for pixel" in out


def test_names_that_are_not_utf8_are_names(tmp_path):
    make_set(tmp_path, "dog", b"M\xfcnze")
    read = load_data(str(tmp_path))
    assert read.class_names == ["M\udcfcnze", "dog"] and len(read.x) == 20
    os.rename(os.fsencode(tmp_path) + b"/test/M\xfcnze", tmp_path / "test" / "Muenze")
    with pytest.raises(UserError, match="the same in all"):
        load_data(str(tmp_path))
    os.rename(tmp_path / "test" / "Muenze", os.fsencode(tmp_path) + b"/test/M\xf6nze")
    make_set(tmp_path / "2", "dog", b"M\xf6nze")
    other = load_data(str(tmp_path / "2"))
    assert (other.x == read.x).all()
    assert other.lineage()["data_sha256"] != read.lineage()["data_sha256"]


@pytest.mark.parametrize("spoil, text", [
    (lambda folder: (folder / "train").rename(folder / "trained"), "no labelled images to train"),
    (lambda folder: (folder / "test" / "a").rename(folder / "test" / "c"), "the same in all"),
    (lambda folder: [shutil.rmtree(folder / part / "a") for part in ("train", "test")],
     "at least two"),
    (lambda folder: [path.write_bytes(b"x") for path in (folder / "test" / "b").iterdir()],
     "no readable image of b$"),
])
def test_folder_that_is_no_data_set(spoil, text, tmp_path):
    make_set(tmp_path, "a", "b")
    spoil(tmp_path)
    with pytest.raises(UserError, match=text):
        load_data(str(tmp_path))


def test_cifar10_is_what_keras_loads(monkeypatch):
    import keras

    x, y = np.arange(10 * 3072).reshape(10, 32, 32, 3).astype(np.uint8), np.arange(10)[::-1, None]
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: ((x, y), (x[:4], y[:4])))
    read = load_data("cifar10", validation="test")
    assert read.class_names == data.CIFAR10 and read.class_names[3] == "cat"
    assert read.y.dtype == np.int64 and read.y.tolist() == list(range(10))[::-1]
    assert read.y_test.tolist() == [9, 8, 7, 6] and (read.x == x).all()
    assert read.names[7] == "train/00007"


def test_missing_folder_or_network_says_what_to_do_without(monkeypatch, tmp_path):
    import keras

    with pytest.raises(UserError, match="nowhere: no such folder.*make_toy"):
        load_data(str(tmp_path / "nowhere"))

    def offline():
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", offline)
    with pytest.raises(UserError, match="cannot be downloaded.*URL fetch.*--data FOLDER"):
        load_data("cifar10")
