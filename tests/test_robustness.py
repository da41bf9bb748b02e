"""Step 6: errors and attacks by hand, attacks in their box, and the whole step."""

import shutil

import keras
import numpy as np
import pytest
from conftest import evaluate

import robustness
from noisy_student import arguments, figures, files, runs
from noisy_student.backend import loss_gradient
from noisy_student.data import load_data
from noisy_student.metrics import score
from noisy_student.robust_data import CorruptedSet
from noisy_student.training import predict
from robustness import EPSILONS, PGD_EPSILON, attack, fgsm, logits_of_pixels, pgd

# --- corrupted images -----------------------------------------------------------------------------


def test_corruption_errors_by_hand(monkeypatch):
    y = np.tile([0, 1, 2, 3], 5)
    images = {}
    # How many of the four answers are wrong, from weak to strong.
    for name, wrong in (("fog", (0, 1, 2, 3, 4)), ("contrast", (0, 0, 0, 0, 2))):
        answers = y.copy()
        for severity, count in enumerate(wrong):
            answers[4 * severity:4 * severity + count] += 1
        images[name] = np.zeros((20, 32, 32, 3), np.uint8) + answers[:, None, None, None]
    everything = CorruptedSet(images, y, np.arange(20).reshape(5, 4), "key")
    # A network that answers with an image's first pixel.
    monkeypatch.setattr(robustness, "predict", lambda model, x: np.eye(5)[x[:, 0, 0, 0]])
    assert robustness.corruption_errors(None, everything) == {"errors": {
        "fog": [0, 1 / 4, 2 / 4, 3 / 4, 1], "contrast": [0, 0, 0, 0, 1 / 2]}}
    # The second and the last image of each severity.
    some = everything._replace(rows=np.arange(20).reshape(5, 4)[:, [1, 3]])
    assert robustness.corruption_errors(None, some)["errors"]["fog"] == [0, 0, 1 / 2, 1 / 2, 1]


def test_mean_corruption_error_tells_what_was_practised_from_what_was_not():
    result = {"errors": {"fog": [0, 0.25, 0.5, 0.75, 1], "contrast": [0, 0, 0, 0, 0.5]}}
    assert robustness.mean_corruption_error(result) == {
        "mean corruption error": pytest.approx((2.5 + 0.5) / 10),
        "of those unlike RandAugment": pytest.approx(2.5 / 5)}


def test_mean_corruption_error_of_one_kind_alone_is_one_column():
    for name in ("fog", "contrast"):
        assert list(robustness.mean_corruption_error({"errors": {name: [0.5] * 5}})) == [
            "mean corruption error"]


# --- attacked images ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    """A linear classifier of pixels, whose gradient can be written down."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255, name="scale")(inputs))
    x = keras.layers.Dense(10, name="logits", kernel_initializer="random_normal")(x)
    return keras.Model(inputs, keras.layers.Softmax()(x))


def test_gradient_is_the_one_written_down(network, photos):
    x, t = photos[:8], np.eye(10, dtype=np.float32)[np.arange(8)]
    weights = keras.ops.convert_to_numpy(network.get_layer("logits").kernel)
    # The gradient of softmax and cross-entropy is (p - t) W.
    expected = ((predict(network, x) - t) @ weights.T).reshape(x.shape)
    gradient = loss_gradient(logits_of_pixels(network), x / 255, t)
    assert gradient == pytest.approx(expected, abs=1e-5) and np.abs(expected).max() > 0.005


def test_the_network_after_the_scaling_is_the_same_network(teacher, photos):
    model = runs.read(teacher).model()
    logits = logits_of_pixels(model).predict(photos / np.float32(255), verbose=0)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = predict(model, photos)
    assert p / p.sum(axis=1, keepdims=True) == pytest.approx(expected, abs=1e-5)


def test_fgsm_moves_every_pixel_by_epsilon_uphill():
    x = np.array([0, 100, 255, 100, 254], np.uint8).reshape(1, 1, 5, 1)
    gradient = np.array([-1, 0.3, 0.1, -1e-9, 5.0]).reshape(1, 1, 5, 1)
    moved = fgsm(gradient, x, 4)
    assert moved.ravel().tolist() == [0, 104, 255, 96, 255] and moved.dtype == np.uint8


@pytest.fixture
def taken_for(network, photos):
    """What the network takes the photos for, one-hot: without an attack, it is always right."""
    return np.eye(10, dtype=np.float32)[predict(network, photos).argmax(axis=1)]


def test_pgd_stays_in_its_box_and_reaches_its_ends(network, photos, taken_for):
    near = pgd(logits_of_pixels(network), photos, taken_for, epsilon=4)
    assert near.dtype == np.uint8 and np.abs(near.astype(int) - photos).max() == 4


def test_pgd_finds_more_than_chance(network, photos, taken_for):
    near = pgd(logits_of_pixels(network), photos, taken_for, epsilon=4)
    random = photos + np.random.default_rng(0).integers(-4, 5, photos.shape)
    clean, noisy, attacked = (score(predict(network, x), taken_for)[0] for x in (
        photos, np.clip(random, 0, 255).astype(np.uint8), near))
    assert attacked > clean + 5 * abs(noisy - clean)


def test_an_attack_on_a_linear_network_is_as_strong_as_it_can_be(network, photos, taken_for):
    result = attack(network, photos, taken_for, batch=16)
    assert result["clean"] == 1 and result["images"] == 40 and len(result["fgsm"]) == 5
    assert (np.diff([1, *result["fgsm"]]) <= 0).all() and result["fgsm"][-1] < 0.3
    # Its gradients are not masked.
    assert result["pgd"] <= result["fgsm"][EPSILONS.index(PGD_EPSILON)] + 0.05


def test_columns_name_each_attack():
    columns = robustness.accuracy_by_attack({"epsilons": [1, 8], "fgsm": [0.5, 0.2],
                                             "pgd_epsilon": 4, "pgd": 0.25})
    assert columns == {"FGSM 1/255": 0.5, "FGSM 8/255": 0.2, "PGD 4/255": 0.25}


# --- the tests ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layout(toy, tmp_path_factory):
    """The drawn test images in negative, at five severities that are all the same."""
    folder, data = tmp_path_factory.mktemp("corrupted"), load_data(str(toy))
    files.write_arrays(folder / "labels.npy", np.tile(data.y_test, 5))
    files.write_arrays(folder / "fog.npy", np.tile(255 - data.x_test, (5, 1, 1, 1)))
    files.write_json(folder / "made.json", data.lineage())
    return folder


def test_tests_are_what_is_asked_for(toy, layout):
    data = load_data(str(toy))
    assert list(robustness.make_tests(data, corrupted=layout, adversarial=True)) == [
        "corrupted", "adversarial"]
    assert robustness.make_tests(data) == {}


def test_a_changed_test_is_asked_anew(toy, layout, tmp_path, monkeypatch):
    data = load_data(str(toy))

    def keys():
        tests = robustness.make_tests(data, corrupted=layout, adversarial=True)
        return {test.key for test in tests.values()}

    before = keys()
    assert len(before) == 2 and keys() == before
    changed = tmp_path / "robustness.py"
    changed.write_text("EPSILONS = (1, 2)")
    monkeypatch.setattr(robustness, "__file__", str(changed))
    assert not keys() & before


def test_without_a_test_there_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        arguments.robustness("", ["logs"])
    assert ended.value.code == 2
    assert "which test? --adversarial, --corrupted DIR or" in capsys.readouterr().err


@pytest.fixture(scope="module")
def asked(teacher, layout, tmp_path_factory):
    """The folders of a teacher that was tested, and of the tables of step 6."""
    folder, out = tmp_path_factory.mktemp("logs") / "teacher", tmp_path_factory.mktemp("figures")
    shutil.copytree(teacher, folder)
    words = [folder, "--adversarial", "--corrupted", layout, "--robust-images", 8, "--out", out]
    robustness.main(arguments.robustness("", [str(word) for word in words]))
    return folder, out


def test_the_tables_are_what_the_network_answers(asked, toy):
    folder, out = asked
    data, model = load_data(str(toy)), runs.read(folder).model()
    rows = figures.spaced(40, 8)
    right = (predict(model, data.x_test[rows]).argmax(axis=1) == data.y_test[rows]).mean()
    wrong = (predict(model, 255 - data.x_test[rows]).argmax(axis=1) != data.y_test[rows]).mean()
    table, each = (out / "robustness.md").read_text().split("## Each corruption")
    assert "| teacher: labels alone, no noise | " + f"{100 * wrong:.1f} " in table
    assert f"| fog        | {100 * wrong:.1f} " in each
    kept = [files.read_json(path)["result"] for path in folder.glob("robust-*.json")]
    (clean,) = [result["clean"] for result in kept if "clean" in result]
    assert clean == right


def test_the_picture_is_drawn(asked):
    assert (asked[1] / "robustness.png").read_bytes().startswith(b"\x89PNG")


def test_eval_takes_over_what_is_kept(asked, layout, tmp_path, monkeypatch, capsys):
    def never(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(robustness, "attack", never)
    monkeypatch.setattr(robustness, "corruption_errors", never)
    monkeypatch.setattr(figures, "draw_all", lambda *_: [])
    folder, out = asked
    evaluate(folder, "--adversarial", "--corrupted", layout, "--robust-images", 8,
             "--out", tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert (out / "robustness.md").read_text().strip() in text
    assert "## Robustness" in text.split("## Calibration")[1]
