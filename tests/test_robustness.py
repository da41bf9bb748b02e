"""Corrupted, attacked and shifted images: the published layouts, gradients that are right, attacks that stay in their box."""

import cifar10_resnet50 as step1
import robustness

import keras
import numpy as np
import pytest
from PIL import Image

Y = np.array([0, 1, 2, 3, 4, 9])  # the clean test images' classes
N = len(Y)  # images of each severity


@pytest.fixture
def layout(tmp_path):
    """A small folder in CIFAR-10-C's layout, written by hand: the first pixel of each image says what the stub will answer."""
    y, folder = Y, tmp_path / "c"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(y, 5))
    for name, wrong in (("fog", (0, 1, 2, 3, 6)), ("contrast", (0, 0, 0, 0, 3))):
        x = np.zeros((5 * N, 32, 32, 3), np.uint8)
        for severity in range(5):
            answers = y.copy()
            answers[:wrong[severity]] = (answers[:wrong[severity]] + 1) % 10
            x[severity * N:(severity + 1) * N, 0, 0, 0] = answers
        np.save(folder / f"{name}.npy", x)
    return folder


@pytest.fixture
def stub(monkeypatch):
    """A network that answers with the value of the first pixel."""
    monkeypatch.setattr(step1, "predict", lambda model, x: np.eye(10, dtype=np.float32)[x[:, 0, 0, 0] % 10])


def test_corruption_errors_by_hand(layout, stub):
    corrupted = robustness.load_corrupted(layout, Y, 10)
    errors = robustness.corruption_errors(None, corrupted)
    assert errors == {"contrast": [0, 0, 0, 0, 0.5], "fog": pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 1])}
    assert robustness.mean_corruption_error(errors) == pytest.approx((0.5 + 2) / 10)
    assert robustness.mean_corruption_error(errors, without=("contrast",)) == pytest.approx(2 / 5)


def test_a_limit_takes_the_same_images_of_every_severity(layout, stub):
    corrupted = robustness.load_corrupted(layout, Y, 10, limit=2)
    assert corrupted.rows.tolist() == [0, 5]  # the first and the last
    assert robustness.corruption_errors(None, corrupted)["fog"] == [0, 0.5, 0.5, 0.5, 1]
    assert corrupted.clean_rows.tolist() == [0, 5]
    assert corrupted.fingerprint != robustness.load_corrupted(layout, Y, 10).fingerprint
    assert robustness.evenly_spaced(10, 20).tolist() == list(range(10))


def test_which_clean_images_these_are(layout):
    longer = np.concatenate([[7, 7], Y])  # our own sets say it in index.npy
    assert robustness.load_corrupted(layout, longer, 10).clean_rows is None
    np.save(layout / "index.npy", np.arange(2, 8))
    assert robustness.load_corrupted(layout, longer, 10, limit=2).clean_rows.tolist() == [2, 7]


@pytest.mark.parametrize("name, content, message", [
    ("labels.npy", None, "has no labels.npy"),
    ("labels.npy", np.tile(np.arange(100), 5), "has classes 0 to 99, the networks know 10"),
    ("labels.npy", np.arange(7), "one whole number per image of 5 severities"),
    ("labels.npy", np.zeros(30), "one whole number per image"),
    ("labels.npy", np.array([{}] * 30, dtype=object), "damaged, or not a file of numbers"),
    ("labels.npy", b"not an array", "damaged, or not a file of numbers"),
    ("fog.npy", np.zeros((30, 32, 32), np.uint8), r"uint8 \(30, 32, 32, 3\) is expected.*got uint8 \(30, 32, 32\)"),
    ("fog.npy", np.zeros((25, 32, 32, 3), np.uint8), r"got uint8 \(25, 32, 32, 3\)"),
    ("fog.npy", np.zeros((30, 32, 32, 3)), "got float64"),
    ("fog.npy", b"", "damaged"),
])
def test_layouts_that_are_wrong_are_named_in_one_line(layout, name, content, message):
    (layout / name).unlink()
    if isinstance(content, bytes):
        (layout / name).write_bytes(content)
    elif content is not None:
        np.save(layout / name, content)
    with pytest.raises(step1.UserError, match=message) as error:
        robustness.load_corrupted(layout, Y, 10)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_corruptions(tmp_path):
    with pytest.raises(step1.UserError, match="no such folder"):
        robustness.load_corrupted(tmp_path / "nowhere", Y, 10)
    np.save(tmp_path / "labels.npy", np.zeros(5, int))
    with pytest.raises(step1.UserError, match="no <corruption>.npy"):
        robustness.load_corrupted(tmp_path, Y, 10)


@pytest.fixture(scope="module")
def network():
    """A linear classifier on pixels; its gradient can be written down."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255, name="scale")(inputs)
    x = keras.layers.Dense(10, name="logits", kernel_initializer="random_normal")(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Softmax()(x))


def test_gradient_is_the_one_written_down(network, photos):
    x, t = photos[:8], np.eye(10, dtype=np.float32)[np.arange(8)]
    weights, _ = (keras.ops.convert_to_numpy(w) for w in network.get_layer("logits").weights)
    expected = ((step1.predict(network, x) - t) @ weights.T).reshape(x.shape)  # of softmax cross-entropy: (p - t) W
    gradient = step1.loss_gradient(robustness.without_scaling(network), x / 255, t)
    assert gradient == pytest.approx(expected, abs=1e-5) and np.abs(expected).max() > 0.005


def test_the_network_behind_the_scaling_is_the_same_network(teacher, photos):
    model, _ = step1.load_model(teacher)
    logits = robustness.without_scaling(model).predict(photos / np.float32(255), verbose=0)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert p / p.sum(axis=1, keepdims=True) == pytest.approx(step1.predict(model, photos), abs=1e-5)


def test_fgsm_moves_every_pixel_by_epsilon_uphill():
    x = np.array([0, 100, 255, 100, 254], np.uint8).reshape(1, 1, 5, 1)
    gradient = np.array([-1, 0.3, 0.1, -1e-9, 5.0]).reshape(1, 1, 5, 1)
    assert robustness.fgsm(gradient, x, 4).ravel().tolist() == [0, 104, 255, 96, 255]
    assert robustness.fgsm(gradient, x, 4).dtype == np.uint8


def test_pgd_stays_in_its_box_and_finds_more_than_chance(network, photos):
    t = np.eye(10, dtype=np.float32)[step1.predict(network, photos).argmax(axis=1)]
    near = robustness.pgd(robustness.without_scaling(network), photos, t, epsilon=4)
    moved = near.astype(int) - photos
    assert near.dtype == np.uint8 and np.abs(moved).max() == 4
    random = np.clip(photos + np.random.default_rng(0).integers(-4, 5, photos.shape), 0, 255).astype(np.uint8)
    loss = {name: step1.score(step1.predict(network, x), t)[0] for name, x in (("clean", photos), ("random", random), ("pgd", near))}
    assert loss["pgd"] > loss["clean"] + 5 * abs(loss["random"] - loss["clean"])


def test_an_attack_on_a_linear_network_is_as_strong_as_it_can_be(network, photos):
    t = np.eye(10, dtype=np.float32)[step1.predict(network, photos).argmax(axis=1)]
    found = robustness.attack(network, photos, t, batch=16)
    assert found["clean"] == 1 and found["images"] == 40 and len(found["fgsm"]) == 5
    assert all(a >= b for a, b in zip([1, *found["fgsm"]], found["fgsm"])) and found["fgsm"][-1] < 0.3
    assert found["pgd"] <= found["fgsm"][robustness.EPSILONS.index(robustness.PGD_EPSILON)] + 0.05  # gradients are not masked


def test_other_images_of_the_same_classes(tmp_path):
    for name, value in (("cat", 10), ("dog", 200)):
        for part in ("a/test", "b"):
            (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 32), (value,) * 3).save(tmp_path / part / name / "1.png")
    for part in ("a", "b"):
        x, y = robustness.load_shifted(tmp_path / part, ["cat", "dog"])
        assert x.shape == (2, 32, 32, 3) and x[:, 0, 0, 0].tolist() == [10, 200] and y.tolist() == [0, 1]
    with pytest.raises(step1.UserError, match="no readable image of ship"):
        robustness.load_shifted(tmp_path / "b", ["cat", "ship"])
    with pytest.raises(step1.UserError, match="no such folder"):
        robustness.load_shifted(tmp_path / "c", ["cat"])


def test_the_two_files_of_cifar10_1(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "cifar10.1_v6_data.npy", x)
    np.save(tmp_path / "cifar10.1_v6_labels.npy", np.arange(7, dtype=np.int32))
    read, y = robustness.load_shifted(tmp_path, list("abcdefghij"))
    assert (read == x).all() and y.tolist() == list(range(7))
    with pytest.raises(step1.UserError, match="classes 0 to 2 are expected"):
        robustness.load_shifted(tmp_path, list("abc"))
    np.save(tmp_path / "cifar10.1_v4_data.npy", x)
    with pytest.raises(step1.UserError, match="several sets"):
        robustness.load_shifted(tmp_path, list("abcdefghij"))


def test_what_is_known_is_not_measured_again(tmp_path, capsys):
    calls = []

    def measure():
        calls.append(1)
        return {"right": len(calls)}

    for key, expected in (("a", 1), ("a", 1), ("b", 2)):
        assert robustness.remembered(tmp_path, "corrupted", key, measure) == {"right": expected}
    (tmp_path / "corrupted.json").write_text("{broken")
    assert robustness.remembered(tmp_path, "corrupted", "b", measure) == {"right": 3} and "damaged" in capsys.readouterr().out
