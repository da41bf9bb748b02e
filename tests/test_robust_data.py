"""Corrupted, shifted and copied images: published layouts, the numbers of classes, kept results."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from noisy_student import robust_data, runs
from noisy_student.data import CIFAR10, Dataset
from noisy_student.files import UserError, write_json
from noisy_student.labels import load_data_of
from noisy_student.metrics import exact_copies

# The clean test images' classes, and so the images of each severity.
Y = np.array([0, 1, 2, 3, 4, 9])
N = len(Y)


def a_data_set(y_test=Y, class_names=CIFAR10):
    x = np.zeros((10, 32, 32, 3), np.uint8)
    x_test = np.arange(len(y_test), dtype=np.uint8).repeat(32 * 32 * 3).reshape(-1, 32, 32, 3)
    none = np.arange(0)
    return Dataset("d", class_names, x, np.arange(10), [], x_test, y_test, none, none, none)


@pytest.fixture
def layout(tmp_path):
    """A small folder in CIFAR-10-C's layout."""
    folder = tmp_path / "c"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(Y, 5))
    for value, name in enumerate(("fog", "contrast")):
        np.save(folder / f"{name}.npy", np.full((5 * N, 32, 32, 3), value, np.uint8))
    return folder


# --- corrupted images -----------------------------------------------------------------------------


def test_rows_are_all_images_of_every_severity(layout):
    corrupted = robust_data.load_corrupted(layout, a_data_set())
    assert (corrupted.rows == np.arange(5 * N).reshape(5, N)).all()
    assert list(corrupted.images) == ["contrast", "fog"] and (corrupted.y == np.tile(Y, 5)).all()


def test_a_limit_takes_the_same_images_of_every_severity(layout):
    corrupted = robust_data.load_corrupted(layout, a_data_set(), most=2)
    # The first and the last.
    assert corrupted.rows.tolist() == [[0, 5], [6, 11], [12, 17], [18, 23], [24, 29]]
    everything = robust_data.load_corrupted(layout, a_data_set())
    assert corrupted.key != everything.key
    assert (robust_data.load_corrupted(layout, a_data_set(), most=99).rows == everything.rows).all()


def test_each_image_that_is_looked_at_is_in_the_key(layout):
    before = [robust_data.load_corrupted(layout, a_data_set(), most).key for most in (None, 2)]
    fog = np.load(layout / "fog.npy")
    # The second image of the last severity, which two of six do not show.
    fog[25, 0, 0, 0] += 1
    np.save(layout / "fog.npy", fog)
    after = [robust_data.load_corrupted(layout, a_data_set(), most).key for most in (None, 2)]
    assert before[0] != after[0] and before[1] == after[1]


@pytest.mark.parametrize("name, content, message", [
    ("labels.npy", None, "has no labels.npy"),
    ("labels.npy", np.tile(np.arange(100), 5), "has classes 0 to 99, the networks know 10"),
    ("labels.npy", np.arange(7), "one whole number per image of 5 severities"),
    ("labels.npy", np.zeros(30), "one whole number per image"),
    ("labels.npy", np.array([{}] * 30, dtype=object), "damaged, or not what is expected"),
    ("labels.npy", b"not an array", "damaged, or not what is expected"),
    ("made.json", b"{}", "damaged, or not what is expected"),
    ("fog.npy", np.zeros((30, 32, 32), np.uint8),
     r"uint8 \(30, 32, 32, 3\) is expected.*got uint8 \(30, 32, 32\)"),
    ("fog.npy", np.zeros((25, 32, 32, 3), np.uint8), r"got uint8 \(25, 32, 32, 3\)"),
    ("fog.npy", np.zeros((30, 32, 32, 3)), "got float64"), ("fog.npy", b"", "damaged")])
def test_layouts_that_are_wrong_are_named_in_one_line(layout, name, content, message):
    (layout / name).unlink(missing_ok=True)
    if isinstance(content, bytes):
        (layout / name).write_bytes(content)
    elif content is not None:
        np.save(layout / name, content)
    with pytest.raises(UserError, match=message) as error:
        robust_data.load_corrupted(layout, a_data_set())
    assert name in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such folder. --corrupted takes CIFAR-10-C"):
        robust_data.load_corrupted(tmp_path / "nowhere", a_data_set())


def test_a_folder_without_corruptions(tmp_path):
    np.save(tmp_path / "labels.npy", np.zeros(5, int))
    with pytest.raises(UserError, match="no <corruption>.npy"):
        robust_data.load_corrupted(tmp_path, a_data_set())


def test_classes_of_a_set_made_here_are_numbered_as_the_data_sets(layout):
    data = a_data_set(class_names=list("abcdefghij"))
    write_json(layout / "made.json", {"data_sha256": data.lineage()["data_sha256"]})
    assert (robust_data.load_corrupted(layout, data).y == np.tile(Y, 5)).all()


def test_a_set_that_was_made_from_other_data_is_refused(layout):
    write_json(layout / "made.json", {"data_sha256": "of other data"})
    with pytest.raises(UserError, match="was made from another data set than d"):
        robust_data.load_corrupted(layout, a_data_set())


# --- the numbers of classes -----------------------------------------------------------------------


def test_numbers_stand_for_folders_that_are_named_by_numbers():
    numbers = sorted(map(str, range(12)))
    # As folders are sorted, the third class is 10.
    assert numbers[2] == "10"
    y = np.array([0, 1, 2, 11])
    assert robust_data.renumbered(y, numbers, "labels.npy").tolist() == [0, 1, 4, 3]


def test_numbers_stand_for_cifar10s_classes(layout):
    assert robust_data.renumbered(np.arange(3), CIFAR10[::-1], "").tolist() == [9, 8, 7]
    data = a_data_set(class_names=CIFAR10[::-1])
    assert robust_data.load_corrupted(layout, data).y[0] == 9


def test_numbers_of_unknown_classes_are_refused(layout):
    renamed = ["plane", "car", *CIFAR10[2:]]
    with pytest.raises(UserError, match="labels.npy: numbers its classes, which are taken for "
                                        "airplane, .* the networks know plane, car, bir"):
        robust_data.load_corrupted(layout, a_data_set(class_names=renamed))


def test_the_same_images_are_as_right_as_a_folder_and_as_two_files(tmp_path):
    numbers, x = sorted(map(str, range(12))), np.zeros((12, 32, 32, 3), np.uint8)
    for number in range(12):
        x[number] = 255 - number
        (tmp_path / "folder" / str(number)).mkdir(parents=True)
        Image.fromarray(x[number]).save(tmp_path / "folder" / str(number) / "1.png")
    np.save(tmp_path / "x_data.npy", x)
    np.save(tmp_path / "x_labels.npy", np.arange(12))
    ours = {}
    for name in (".", "folder"):
        for image, label in zip(*robust_data.load_shifted(tmp_path / name, numbers)):
            ours.setdefault(image[0, 0, 0], set()).add(numbers[label])
    assert ours == {255 - number: {str(number)} for number in range(12)}


# --- other images of the same classes -------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    """A cat and a dog: below a/test, and below b alone."""
    for name, value in (("cat", 10), ("dog", 200)):
        for part in ("a/test", "b"):
            (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 32), (value,) * 3).save(tmp_path / part / name / "1.png")
    return tmp_path


@pytest.mark.parametrize("part", ["a", "b"])
def test_other_images_of_the_same_classes(part, folders):
    x, y = robust_data.load_shifted(folders / part, ["cat", "dog"])
    assert x.shape == (2, 32, 32, 3) and x[:, 0, 0, 0].tolist() == [10, 200]
    assert y.tolist() == [0, 1]


def test_a_class_without_an_image_is_named(folders):
    with pytest.raises(UserError, match="no readable image of ship"):
        robust_data.load_shifted(folders / "b", ["cat", "ship"])


def test_other_images_without_classes_or_that_none_can_read(tmp_path):
    (tmp_path / "flat.png").write_bytes(b"x")
    with pytest.raises(UserError, match="has no labelled images, such as <class>/<images>"):
        robust_data.load_shifted(str(tmp_path), CIFAR10)
    for number in range(10):
        folder = tmp_path / "numbered" / str(number)
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(b"x")
    with pytest.raises(UserError, match="numbered: no image there can be read"):
        robust_data.load_shifted(str(tmp_path / "numbered"), CIFAR10)


def test_shifted_images_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        robust_data.load_shifted(tmp_path / "c", ["cat"])


@pytest.fixture
def cifar10_1(tmp_path):
    """The two files of CIFAR-10.1, and the images in them."""
    x = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "cifar10.1_v6_data.npy", x)
    np.save(tmp_path / "cifar10.1_v6_labels.npy", np.arange(7, dtype=np.int32))
    return tmp_path, x


def test_the_two_files_of_cifar10_1(cifar10_1):
    folder, x = cifar10_1
    read, y = robust_data.load_shifted(folder, CIFAR10)
    assert (read == x).all() and y.tolist() == list(range(7))


def test_more_classes_than_the_networks_know(cifar10_1):
    with pytest.raises(UserError, match="classes 0 to 2 are expected"):
        robust_data.load_shifted(cifar10_1[0], list("abc"))


def test_both_versions_of_cifar10_1_are_several_sets(cifar10_1):
    folder, x = cifar10_1
    np.save(folder / "cifar10.1_v4_data.npy", x)
    np.save(folder / "cifar10.1_v4_labels.npy", np.arange(7, dtype=np.int32))
    with pytest.raises(UserError, match="several sets"):
        robust_data.load_shifted(folder, CIFAR10)


@pytest.mark.parametrize("names", [None, "\n".join(CIFAR10)])
def test_shifted_images_without_a_label_are_left_out(names, tmp_path, capsys):
    x, y = np.arange(12 * 3072).reshape(12, 32, 32, 3).astype(np.uint8), np.arange(12) % 10
    y[1] = -1
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    if names:
        (tmp_path / "classes.txt").write_text(names)
    read, labels = robust_data.load_shifted(tmp_path, CIFAR10)
    assert labels.tolist() == np.delete(y, 1).tolist() and (read == np.delete(x, 1, axis=0)).all()
    assert "1 test images have no label, and are left out" in capsys.readouterr().out


def test_shifted_images_that_were_trained_or_tested_on_are_counted(tmp_path, monkeypatch, capsys):
    # A network that answers with an image's first pixel.
    monkeypatch.setattr(robust_data, "predict", lambda model, x: np.eye(12)[x[:, 0, 0, 0] % 12])
    data = a_data_set()
    data.x[0] = 77
    # One is black, as nine images to train on are; one is a test image; one is new.
    x = np.stack([data.x[1], data.x_test[3], np.full((32, 32, 3), 200, np.uint8)])
    np.save(tmp_path / "data.npy", x)
    np.save(tmp_path / "labels.npy", np.array([0, 3, 9]))
    test = robust_data.shifted(tmp_path, data)
    # The first test image is black, too.
    assert (f"{tmp_path}: of 3 images, 1 are among the training images pixel for pixel, "
            "and 2 among the test images") in capsys.readouterr().out
    result = test.measure(None)
    assert result == {"right": 2, "images": 3}
    assert test.columns(result) == {f"accuracy on {tmp_path}": 2 / 3}


# --- tests, remembered ----------------------------------------------------------------------------


def a_run(folder):
    return SimpleNamespace(folder=folder, path=lambda name: folder / name, model=lambda: "network",
                           sha256={"model.keras": "of the network"})


def a_test(key="images"):
    """A Test that counts how often it was made."""
    calls = []

    def measure(model):
        calls.append(model)
        return {"right": len(calls)}

    return robust_data.Test(key, measure, lambda result: {"my column": result["right"] / 4}), calls


def test_what_is_kept_is_not_measured_again(tmp_path):
    run, (test, calls) = a_run(tmp_path), a_test()
    assert [robust_data.remembered(run, "mine", test) for _ in range(2)] == [{"right": 1}] * 2
    assert calls == ["network"]


def test_other_images_are_measured(tmp_path):
    run, (test, _) = a_run(tmp_path), a_test()
    robust_data.remembered(run, "mine", test)
    assert robust_data.remembered(run, "mine", test._replace(key="b")) == {"right": 2}


def test_another_network_is_measured(tmp_path):
    run, (test, _) = a_run(tmp_path), a_test()
    robust_data.remembered(run, "mine", test)
    run.sha256["model.keras"] = "of another"
    assert robust_data.remembered(run, "mine", test) == {"right": 2}


def test_a_damaged_result_is_measured_again(tmp_path, capsys):
    run, (test, _) = a_run(tmp_path), a_test()
    robust_data.remembered(run, "mine", test)
    (kept,) = tmp_path.iterdir()
    kept.write_text("{broken")
    assert robust_data.remembered(run, "mine", test) == {"right": 2}
    assert f"warning: {kept} is damaged and is made again\n" == capsys.readouterr().out


def test_a_result_that_somebody_changed_is_measured_again(tmp_path, capsys):
    run, (test, calls) = a_run(tmp_path), a_test()
    assert robust_data.remembered(run, "mine", test) == {"right": 1}
    (kept,) = tmp_path.iterdir()
    kept.write_text(kept.read_text().replace('"right": 1', '"right": 9'))
    assert robust_data.remembered(run, "mine", test) == {"right": 2}
    assert "damaged" in capsys.readouterr().out and len(calls) == 2


def test_a_run_folder_that_may_only_be_read_is_a_warning(tmp_path, capsys, monkeypatch):
    def write(path, content):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(robust_data, "write_json", write)
    assert robust_data.remembered(a_run(tmp_path), "mine", a_test()[0]) == {"right": 1}
    assert "cannot be kept ([Errno 30] Read-only file system)" in capsys.readouterr().out


@pytest.fixture
def cells(tmp_path):
    """Teacher and student, three seeds each."""
    cells = {}
    for name in ("teacher", "student"):
        cells[name] = {}
        for seed in (0, 1, 2):
            folder = tmp_path / name / str(seed)
            folder.mkdir(parents=True)
            cells[name][seed] = SimpleNamespace(run=a_run(folder), robust={})
    return cells


def test_only_the_first_seeds_are_asked(cells):
    test, calls = a_test()
    robust_data.run_tests(cells, {"mine": test}, seeds=2)
    assert len(calls) == 4 and cells["teacher"][2].robust == cells["student"][2].robust == {}


def test_means_are_over_the_seeds_that_were_asked(cells):
    test, _ = a_test()
    robust_data.run_tests(cells, {"mine": test}, seeds=2)
    cells["nobody"] = {2: cells["student"][2]}
    # 1 and 2 of 4; 3 and 4 of 4.
    assert robust_data.means(cells, {"mine": test}) == {
        "my column": {"teacher": "37.5", "student": "87.5", "nobody": "-"}}


def test_each_corruption_has_a_row_and_each_cell_a_column():
    def a_seed(fog, frost):
        return SimpleNamespace(robust={"corrupted": {"errors": {"fog_x": fog, "frost": frost}}})

    cells = {"teacher": {0: a_seed([0.2] * 5, [0.4] * 5), 1: a_seed([0.3] * 5, [0.8] * 5)},
             "nobody": {0: SimpleNamespace(robust={})}, "student": {0: a_seed([0] * 5, [0.1] * 5)}}
    text = robust_data.tables(cells, {}, str.upper, "")
    assert list(text) == ["Each corruption"]
    assert text["Each corruption"][1:] == (["corruption", "TEACHER", "STUDENT"], [
        ["fog x", "25.0", "0.0"], ["frost", "60.0", "10.0"]])


# --- images that were trained on ------------------------------------------------------------------


def test_overlap_is_looked_for_in_all_that_was_learnt_from(teacher, pseudo, tmp_path, capsys):
    trained, labels = runs.read(teacher), runs.read(pseudo)
    data, x = load_data_of(trained), labels.arrays("x.npy")
    # Three of the unlabelled pictures, which are not in the data set.
    data.x_test[:3] = x[~exact_copies(x, data.x)][:3]
    data.x_test[3] = data.x[5][:, ::-1]
    robust_data.check_overlap({"pseudo": [labels]}, data, tmp_path)
    found = re.findall(r"of 40 test images, (\d+) are among the (training|pseudo).* pixel for "
                       r"pixel, and (\d+) show the same", capsys.readouterr().out)
    (exact, _, near), (exact_pseudo, _, near_pseudo) = found
    assert (exact, exact_pseudo) == ("0", "3") and int(near) >= 1 and int(near_pseudo) >= 3
    for name in ("overlap.png", "overlap1.png"):
        assert Image.open(tmp_path / name).width > 100
