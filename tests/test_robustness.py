"""Corrupted, attacked, shifted images: published layouts, right gradients, attacks in their box."""

import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

from noisy_student import arguments, robustness, runs
from noisy_student.backend import loss_gradient
from noisy_student.data import CIFAR10, Dataset
from noisy_student.files import UserError, write_json
from noisy_student.labels import load_data_of
from noisy_student.metrics import exact_copies, score
from noisy_student.training import predict

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
    """A small folder in CIFAR-10-C's layout: an image's first pixel is what the stub answers."""
    folder = tmp_path / "c"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(Y, 5))
    for name, wrong in (("fog", (0, 1, 2, 3, 6)), ("contrast", (0, 0, 0, 0, 3))):
        x = np.zeros((5 * N, 32, 32, 3), np.uint8)
        for severity in range(5):
            answers = Y.copy()
            answers[:wrong[severity]] = (answers[:wrong[severity]] + 1) % 10
            x[severity * N:(severity + 1) * N, 0, 0, 0] = answers
        np.save(folder / f"{name}.npy", x)
    return folder


@pytest.fixture
def stub(monkeypatch):
    """A network that answers with the value of the first pixel."""
    monkeypatch.setattr(robustness, "predict", lambda model, x: np.eye(12)[x[:, 0, 0, 0] % 12])


# --- corrupted images -----------------------------------------------------------------------------


def test_corruption_errors_by_hand(layout, stub):
    result = robustness.Corrupted(layout, a_data_set()).measure(None)
    assert result["errors"] == {"contrast": [0, 0, 0, 0, 0.5],
                                "fog": pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 1])}
    assert robustness.corrupted_columns(result) == {
        "mean corruption error": pytest.approx((0.5 + 2) / 10),
        "of those unlike RandAugment": pytest.approx(2 / 5)}


def test_a_limit_takes_the_same_images_of_every_severity(layout, stub):
    corrupted = robustness.Corrupted(layout, a_data_set(), limit=2)
    # The first and the last.
    assert corrupted.rows.tolist() == [0, 5]
    assert corrupted.measure(None)["errors"]["fog"] == [0, 0.5, 0.5, 0.5, 1]
    assert corrupted.fingerprint != robustness.Corrupted(layout, a_data_set()).fingerprint
    assert robustness.Corrupted(layout, a_data_set(), limit=99).rows.tolist() == list(range(6))


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
        robustness.Corrupted(layout, a_data_set())
    assert name in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_corruptions(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        robustness.Corrupted(tmp_path / "nowhere", a_data_set())
    np.save(tmp_path / "labels.npy", np.zeros(5, int))
    with pytest.raises(UserError, match="no <corruption>.npy"):
        robustness.Corrupted(tmp_path, a_data_set())


def test_a_set_that_was_made_from_other_data_is_refused(layout, stub):
    # data/make_corrupted.py numbers classes as the data set does, whatever they are called.
    data = a_data_set(class_names=list("abcdefghij"))
    write_json(layout / "made.json", {"data_sha256": data.lineage()["data_sha256"]})
    assert robustness.Corrupted(layout, data).measure(None)["errors"]["fog"][0] == 0
    with pytest.raises(UserError, match="was made from another data set than d"):
        robustness.Corrupted(layout, a_data_set())


# --- the numbers of classes -----------------------------------------------------------------------


def test_numbers_stand_for_cifar10s_classes_or_for_folders_named_by_numbers(layout, stub):
    numbers = sorted(map(str, range(12)))
    # As folders are sorted, the third class is 10.
    assert numbers[2] == "10"
    y = np.array([0, 1, 2, 11])
    assert robustness.renumbered(y, numbers, "labels.npy").tolist() == [0, 1, 4, 3]
    assert robustness.renumbered(y[:3], CIFAR10[::-1], "labels.npy").tolist() == [9, 8, 7]
    renamed = ["plane", "car", *CIFAR10[2:]]
    with pytest.raises(UserError, match="taken for airplane, .* the networks know plane, car, bir"):
        robustness.renumbered(y, renamed, "labels.npy")
    with pytest.raises(UserError, match="labels.npy: numbers its classes"):
        robustness.Corrupted(layout, a_data_set(class_names=renamed))
    assert robustness.Corrupted(layout, a_data_set(class_names=CIFAR10[::-1])).y[0] == 9


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
        for image, label in zip(*robustness.load_shifted(tmp_path / name, numbers)):
            ours.setdefault(image[0, 0, 0], set()).add(numbers[label])
    assert ours == {255 - number: {str(number)} for number in range(12)}


# --- attacked images ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    """A linear classifier on pixels; its gradient can be written down."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255, name="scale")(inputs))
    x = keras.layers.Dense(10, name="logits", kernel_initializer="random_normal")(x)
    return keras.Model(inputs, keras.layers.Softmax()(x))


def test_gradient_is_the_one_written_down(network, photos):
    x, t = photos[:8], np.eye(10, dtype=np.float32)[np.arange(8)]
    weights = keras.ops.convert_to_numpy(network.get_layer("logits").kernel)
    # Of softmax cross-entropy: (p - t) W.
    expected = ((predict(network, x) - t) @ weights.T).reshape(x.shape)
    gradient = loss_gradient(robustness.without_scaling(network), x / 255, t)
    assert gradient == pytest.approx(expected, abs=1e-5) and np.abs(expected).max() > 0.005


def test_the_network_behind_the_scaling_is_the_same_network(teacher, photos):
    model = runs.read(teacher).model()
    logits = robustness.without_scaling(model).predict(photos / np.float32(255), verbose=0)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = predict(model, photos)
    assert p / p.sum(axis=1, keepdims=True) == pytest.approx(expected, abs=1e-5)


def test_fgsm_moves_every_pixel_by_epsilon_uphill():
    x = np.array([0, 100, 255, 100, 254], np.uint8).reshape(1, 1, 5, 1)
    gradient = np.array([-1, 0.3, 0.1, -1e-9, 5.0]).reshape(1, 1, 5, 1)
    moved = robustness.fgsm(gradient, x, 4)
    assert moved.ravel().tolist() == [0, 104, 255, 96, 255] and moved.dtype == np.uint8


def test_pgd_stays_in_its_box_and_finds_more_than_chance(network, photos):
    t = np.eye(10, dtype=np.float32)[predict(network, photos).argmax(axis=1)]
    near = robustness.pgd(robustness.without_scaling(network), photos, t, epsilon=4)
    assert near.dtype == np.uint8 and np.abs(near.astype(int) - photos).max() == 4
    random = photos + np.random.default_rng(0).integers(-4, 5, photos.shape)
    clean, noisy, attacked = (score(predict(network, x), t)[0] for x in (
        photos, np.clip(random, 0, 255).astype(np.uint8), near))
    assert attacked > clean + 5 * abs(noisy - clean)


def test_an_attack_on_a_linear_network_is_as_strong_as_it_can_be(network, photos):
    t = np.eye(10, dtype=np.float32)[predict(network, photos).argmax(axis=1)]
    found = robustness.attack(network, photos, t, batch=16)
    assert found["clean"] == 1 and found["images"] == 40 and len(found["fgsm"]) == 5
    assert (np.diff([1, *found["fgsm"]]) <= 0).all() and found["fgsm"][-1] < 0.3
    # Gradients are not masked.
    at_epsilon = found["fgsm"][robustness.EPSILONS.index(robustness.PGD_EPSILON)]
    assert found["pgd"] <= at_epsilon + 0.05
    columns = robustness.adversarial_columns(found)
    assert columns["FGSM 4/255"] == at_epsilon and columns["PGD 4/255"] == found["pgd"]


# --- other images of the same classes -------------------------------------------------------------


def test_other_images_of_the_same_classes(tmp_path):
    for name, value in (("cat", 10), ("dog", 200)):
        for part in ("a/test", "b"):
            (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 32), (value,) * 3).save(tmp_path / part / name / "1.png")
    for part in ("a", "b"):
        x, y = robustness.load_shifted(tmp_path / part, ["cat", "dog"])
        assert x.shape == (2, 32, 32, 3) and x[:, 0, 0, 0].tolist() == [10, 200]
        assert y.tolist() == [0, 1]
    with pytest.raises(UserError, match="no readable image of ship"):
        robustness.load_shifted(tmp_path / "b", ["cat", "ship"])
    with pytest.raises(UserError, match="no such folder"):
        robustness.load_shifted(tmp_path / "c", ["cat"])


def test_the_two_files_of_cifar10_1(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "cifar10.1_v6_data.npy", x)
    np.save(tmp_path / "cifar10.1_v6_labels.npy", np.arange(7, dtype=np.int32))
    read, y = robustness.load_shifted(tmp_path, CIFAR10)
    assert (read == x).all() and y.tolist() == list(range(7))
    with pytest.raises(UserError, match="classes 0 to 2 are expected"):
        robustness.load_shifted(tmp_path, list("abc"))
    np.save(tmp_path / "cifar10.1_v4_data.npy", x)
    np.save(tmp_path / "cifar10.1_v4_labels.npy", np.arange(7, dtype=np.int32))
    with pytest.raises(UserError, match="several sets"):
        robustness.load_shifted(tmp_path, CIFAR10)


@pytest.mark.parametrize("names", [None, "\n".join(CIFAR10)])
def test_shifted_images_without_a_label_are_left_out(names, tmp_path, capsys):
    x, y = np.arange(12 * 3072).reshape(12, 32, 32, 3).astype(np.uint8), np.arange(12) % 10
    y[1] = -1
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    if names:
        (tmp_path / "classes.txt").write_text(names)
    read, labels = robustness.load_shifted(tmp_path, CIFAR10)
    assert labels.tolist() == np.delete(y, 1).tolist() and (read == np.delete(x, 1, axis=0)).all()
    assert "1 test images have no label, and are left out" in capsys.readouterr().out


def test_shifted_images_that_were_trained_or_tested_on_are_counted(tmp_path, stub, capsys):
    data = a_data_set()
    data.x[0] = 77
    # Of three images one is black, as nine to train on are; one is a test image; one is new.
    x = np.stack([data.x[1], data.x_test[3], np.full((32, 32, 3), 200, np.uint8)])
    np.save(tmp_path / "data.npy", x)
    np.save(tmp_path / "labels.npy", np.array([0, 3, 9]))
    test = robustness.shifted(tmp_path, data)
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

    return robustness.Test(key, measure, lambda result: {"my column": result["right"] / 4}), calls


def test_what_is_known_is_not_measured_again(tmp_path, capsys):
    run, (test, calls) = a_run(tmp_path), a_test()
    for key, expected in (("a", 1), ("a", 1), ("b", 2)):
        assert robustness.remembered(run, "mine", test._replace(key=key)) == {"right": expected}
    # Another network.
    run.sha256["model.keras"] = "of another"
    assert robustness.remembered(run, "mine", test._replace(key="b")) == {"right": 3}
    assert capsys.readouterr().out == ""
    (kept,) = tmp_path.iterdir()
    kept.write_text("{broken")
    assert robustness.remembered(run, "mine", test._replace(key="b")) == {"right": 4}
    assert "damaged" in capsys.readouterr().out and calls == ["network"] * 4


def test_a_result_that_somebody_changed_is_measured_again(tmp_path, capsys):
    run, (test, calls) = a_run(tmp_path), a_test()
    assert robustness.remembered(run, "mine", test) == {"right": 1}
    (kept,) = tmp_path.iterdir()
    kept.write_text(kept.read_text().replace('"right": 1', '"right": 9'))
    assert robustness.remembered(run, "mine", test) == {"right": 2}
    assert "damaged" in capsys.readouterr().out and len(calls) == 2


def test_a_run_folder_that_may_only_be_read_is_a_warning(tmp_path, capsys, monkeypatch):
    def write(path, content):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(robustness, "write_json", write)
    assert robustness.remembered(a_run(tmp_path), "mine", a_test()[0]) == {"right": 1}
    assert "cannot be kept ([Errno 30] Read-only file system)" in capsys.readouterr().out


def test_a_test_is_one_line_and_its_column_is_in_the_table(tmp_path):
    cells, (test, calls) = {}, a_test()
    for name in ("teacher", "student"):
        cells[name] = {}
        for seed in (0, 1, 2):
            folder = tmp_path / name / str(seed)
            folder.mkdir(parents=True)
            cells[name][seed] = SimpleNamespace(run=a_run(folder), robust={})
    robustness.measure(cells, {"mine": test}, seeds=2)
    assert len(calls) == 4 and cells["teacher"][2].robust == {}
    cells["nobody"] = {2: cells["student"][2]}
    # 1 and 2 of 4; 3 and 4 of 4.
    assert robustness.columns(cells, {"mine": test}) == {
        "my column": {"teacher": "37.5", "student": "87.5", "nobody": "-"}}


def test_tests_are_what_was_asked_for(layout):
    data = a_data_set()
    asked = arguments.evaluation("", ["logs", "--corrupted", str(layout), "--adversarial"])
    assert list(robustness.tests(asked, data)) == ["corrupted", "adversarial"]
    assert robustness.tests(arguments.evaluation("", ["logs"]), data) == {}


# --- images that were trained on ------------------------------------------------------------------


def test_overlap_is_looked_for_in_all_that_was_learnt_from(teacher, pseudo, tmp_path, capsys):
    trained, labels = runs.read(teacher), runs.read(pseudo)
    data, x = load_data_of(trained), labels.arrays("x.npy")
    # Of the folder of unlabelled pictures, which are not in the data set.
    data.x_test[:3] = x[~exact_copies(x, data.x)][:3]
    data.x_test[3] = data.x[5][:, ::-1]
    robustness.check_overlap({"pseudo": [labels]}, data, tmp_path)
    found = re.findall(r"of 40 test images, (\d+) are among the (training|pseudo).* pixel for "
                       r"pixel, and (\d+) show the same", capsys.readouterr().out)
    (exact, _, near), (exact_pseudo, _, near_pseudo) = found
    assert (exact, exact_pseudo) == ("0", "3") and int(near) >= 1 and int(near_pseudo) >= 3
    for name in ("overlap.png", "overlap1.png"):
        assert Image.open(tmp_path / name).width > 100
