"""Who labels, and what step 4 reads of the labels: all of it, or one line why not."""

import dataclasses
import shutil
from types import SimpleNamespace

import keras
import make_toy
import numpy as np
import pytest
from conftest import TINY, label, train_student
from PIL import Image

import data_generator
import imagenet_dummy_label as step2
from noisy_student import commands, labels, record, runs
from noisy_student.data import load_data
from noisy_student.files import UserError, sha256
from noisy_student.training import predict

NAMES = ["bird", "cat", "dog"]


def one_line(error):
    assert "\n" not in str(error.value)
    return True


def test_nothing_kept_says_how_confident_the_teacher_was():
    histogram = np.zeros(record.BINS, dtype=int)
    # A hundred images, from 0.34 to 0.439.
    histogram[340:440] = 1
    rule, sources = step2.Rule(threshold=0.9), ["a", "b"]
    assert labels.nothing_kept(rule, sources, histogram) == (
        "no image is above --threshold 0.9. Of 100 images, a tenth has a confidence below 0.35, "
        "half below 0.39, nine tenths below 0.43, all below 0.44. Try --threshold 0.42")
    assert labels.nothing_kept(rule, sources, 0 * histogram).startswith("a, b: no readable image")


def test_within_an_experiment_what_to_try_is_one_of_its_own_flags(monkeypatch):
    monkeypatch.setenv(commands.WITHIN, "1")
    histogram = np.zeros(record.BINS, dtype=int)
    histogram[500] = 1
    assert labels.nothing_kept(step2.Rule(threshold=0.75), ["a"], histogram).endswith(
        'Try --label-flags "--threshold 0.49"')


# --- what step 4 reads ----------------------------------------------------------------------------


def test_pseudo_labels_of_other_data_are_refused(pseudo, teacher, toy):
    data = load_data(str(toy), 80)
    other_split = load_data(str(toy), 80, seed=1)
    other_data = dataclasses.replace(data, x_test=data.x_test[1:], y_test=data.y_test[1:])
    for other, text in ((other_split, "another choice of labelled images"),
                        (other_data, "another data set")):
        with pytest.raises(UserError, match=text):
            labels.load_pseudo(pseudo, other)
    with pytest.raises(UserError, match="holds no pseudo-labels but what cifar10_resnet50.py made"):
        labels.load_pseudo(teacher, data)


@pytest.fixture
def forged(pseudo, toy, tmp_path):
    """Changes an array in a copy of the labels, whose run.json vouches for it; reads them."""
    folder, data = tmp_path / "forged", load_data(str(toy), 80)
    shutil.copytree(pseudo, folder)

    def forge(name, change):
        path, run = folder / f"{name}.npy", runs.read(folder)
        whole = path.read_bytes()
        np.save(path, change(np.load(path)))
        run.sha256[path.name] = sha256(path)
        run.save()
        try:
            return labels.load_pseudo(folder, data)
        finally:
            path.write_bytes(whole)
            run.sha256[path.name] = sha256(path)
            run.save()
    return forge


@pytest.mark.parametrize("name, change", [
    ("x", lambda x: x.astype(np.float32)), ("x", lambda x: x[:-1]), ("x", lambda x: x[:, :16]),
    ("x", lambda x: x[0, 0, 0, 0]), ("y", lambda y: y[:, :9]), ("y", lambda y: y > 0.5),
    ("y", lambda y: y.astype(np.float64)), ("index", lambda index: index + 1),
    ("index", lambda index: index - 1), ("index", lambda index: index[None]),
    ("index", lambda index: index.astype(np.float64))])
def test_arrays_that_do_not_fit_together_are_refused_in_one_line(name, change, forged):
    assert len(forged(name, lambda array: array).x) == 100
    with pytest.raises(UserError, match="do not fit together. Delete it and label again") as error:
        forged(name, change)
    assert one_line(error)


@pytest.mark.parametrize("change, text", [
    (lambda y: y * np.float32(2), "add up to 2.00 to 2.00, not to 1"),
    (lambda y: y - np.float32(0.5), "go from -0.4. to"),
    (lambda y: y * np.float32(np.nan), "are not numbers for 100 of 100 images")])
def test_labels_that_are_no_distributions_are_refused(change, text, forged):
    with pytest.raises(UserError, match=f"its labels .*{text}.* Delete it and label again"):
        forged("y", change)


def test_an_array_that_its_run_did_not_write_is_refused(pseudo, toy, tmp_path):
    shutil.copytree(pseudo, tmp_path / "p")
    np.save(tmp_path / "p" / "y.npy", np.load(pseudo / "y.npy")[::-1])
    with pytest.raises(UserError, match=r"y.npy: missing, or not the file that its run wrote"):
        labels.load_pseudo(tmp_path / "p", load_data(str(toy), 80))


# --- a teacher of the user's own ------------------------------------------------------------------


def test_own_network_teaches_from_end_to_end(own_network, toy, tmp_path, monkeypatch):
    label(toy / "unlabeled", "--teacher", own_network, "--classes", *make_toy.SHAPES,
          "--threshold", 0, "--out", tmp_path / "pseudo")
    made_from = runs.read(tmp_path / "pseudo").made_from
    assert made_from["teacher_sha256"] == sha256(own_network)
    assert set(made_from) == {"teacher_sha256", "pool_bytes"}
    x, y = (np.load(tmp_path / "pseudo" / f"{name}.npy") for name in "xy")
    # Without its dropout.
    assert y == pytest.approx(predict(keras.saving.load_model(own_network), x), abs=1e-6)
    seen = {}

    def fit_and_finish(model, batches, data, recipe, run, images, tensorboard):
        images, soft = next(batches(0))
        seen.update(run=run, data=data)
        seen.update((image.tobytes(), row) for image, row in zip(images, soft))

    monkeypatch.setattr(data_generator, "fit_and_finish", fit_and_finish)
    train_student("--data", toy, "--num-labeled", 20, "--pseudo", tmp_path / "pseudo", *TINY,
                  "--noise", "none", "--log-dir", tmp_path / "student")
    taught = [(seen[image.tobytes()] == row).all() for image, row in zip(x, y)
              if image.tobytes() in seen]
    assert len(taught) > 5 and all(taught)
    taught_by = seen["run"].taught_by
    assert taught_by["teacher"] is None
    assert taught_by["labelling"]["classes"] == list(make_toy.SHAPES)
    # The same classes in another order are the same classes.
    turned = dataclasses.replace(seen["data"], class_names=seen["data"].class_names[::-1])
    assert (labels.load_pseudo(tmp_path / "pseudo", turned).y == y[:, ::-1]).all()
    other = dataclasses.replace(seen["data"], class_names=[*"abcdefghij"])
    with pytest.raises(UserError, match=r"its classes are \['arrow', .* those of .* are \['a', "):
        labels.load_pseudo(tmp_path / "pseudo", other)


@pytest.mark.parametrize("whose, data, known", [
    ("own", "--data {toy}", "--data {toy} "), ("own", "", "--data FOLDER "),
    # The labels tell it, where it has not moved.
    ("teacher", "", ""), ("teacher", "--data {toy}", "--data {toy} ")])
def test_the_next_command_names_a_data_set_that_the_labels_do_not_tell(
        whose, data, known, own_network, teacher, toy, tmp_path, capsys):
    path = own_network if whose == "own" else teacher
    classes = ["--classes", *make_toy.SHAPES] if whose == "own" else []
    label(toy / "unlabeled", "--teacher", path, *classes, *data.format(toy=toy).split(),
          "--threshold", 0, "--out", tmp_path / "pseudo")
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"Next: python data_generator.py --pseudo {tmp_path / 'pseudo'} {known.format(toy=toy)}"
        f"--log-dir {tmp_path / 'student'}")


def test_labels_of_another_choice_of_test_images_are_other_labels(own_network, toy, tmp_path):
    def label_own(*words):
        label(toy / "unlabeled", "--teacher", own_network, "--classes", *make_toy.SHAPES,
              "--threshold", 0, *words, "--out", tmp_path / "out")

    label_own()
    # With them, their copies would be left out.
    with pytest.raises(UserError, match="data_sha256 None there, "):
        label_own("--data", toy)
    shutil.rmtree(tmp_path / "out")
    label_own("--data", toy)
    data = load_data(str(toy))
    assert labels.load_pseudo(tmp_path / "out", data).taught_by["teacher"] is None
    with pytest.raises(UserError, match="the test images of another data set are left out"):
        other = dataclasses.replace(data, x_test=data.x_test[1:], y_test=data.y_test[1:])
        labels.load_pseudo(tmp_path / "out", other)


@pytest.fixture
def a_network(tmp_path):
    """Saves a network of ten classes that ends in `activation`: its path."""
    def save(activation, dtype="float32", bias=0.0):
        last = keras.layers.Dense(10, activation, kernel_initializer="random_normal", dtype=dtype,
                                  bias_initializer=keras.initializers.Constant(bias))
        keras.Sequential([keras.layers.Input((32, 32, 3)), keras.layers.AveragePooling2D(16),
                          keras.layers.Flatten(), last]).save(tmp_path / "own.keras")
        return tmp_path / "own.keras"
    return save


@pytest.mark.parametrize("activation, bias, text", [
    ("linear", 0.0, "add up to .*, not to 1"), ("sigmoid", 1.0, "add up to .*, not to 1"),
    ("softmax", np.nan, "are not numbers for 256 of 256 images")])
def test_network_that_does_not_answer_with_probabilities_labels_nothing(
        activation, bias, text, a_network, toy, tmp_path):
    path = a_network(activation, bias=bias)
    with pytest.raises(UserError, match=f"^{path}: its answers .*{text}.*: end it in a softmax"):
        label(toy / "unlabeled", "--teacher", path, "--classes", *"abcdefghij", "--out",
              tmp_path / "out")


def test_an_answer_that_is_not_a_number_costs_its_own_image_alone(tmp_path):
    for i in range(3):
        Image.new("RGB", (32, 32), (0, 0, 9 * i)).save(tmp_path / f"{i}.png")

    def answer(x):
        y = np.full((len(x), 2), 0.5, np.float32)
        y[x[:, 0, 0, 2] == 9, 0] = np.inf
        return y

    network = labels.Network(SimpleNamespace(predict_on_batch=answer), "own.keras")
    batches = labels.read_batches([str(tmp_path)], None, size=0)
    (pictures,) = step2.label_images(network, batches)
    assert [picture.reason for picture in pictures] == [
        "", "the teacher's answer is not a number", ""]
    assert [picture.confidence for picture in pictures] == [0.5, None, 0.5]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_network_in_half_precision_teaches_in_float32(dtype, a_network, toy, tmp_path):
    label(toy / "unlabeled", "--teacher", a_network("softmax", dtype), "--classes", *"abcdefghij",
          "--threshold", 0, "--out", tmp_path / "out")
    y = np.load(tmp_path / "out" / "y.npy")
    assert y.dtype == np.float32 and abs(y.sum(axis=1) - 1).max() < 1e-6


@pytest.mark.parametrize("words, text", [
    ("pool", r"takes \(None, 32, 32, 3\), gives \(None, 10\);.* 10 names after --classes"),
    ("pool --classes a b c", ".* 10 names after --classes"),
    ("pool --classes a b c d e f g h i i", "two are called 'i'"),
    ("rest --classes a b c d e f g h i j", "its training data are not known"),
    ("pool --calibrate --classes a b c d e f g h i j", "its training data are not known")])
def test_own_network_without_what_it_needs_is_one_line(words, text, own_network, tmp_path):
    (tmp_path / "pool").mkdir()
    with pytest.raises(UserError, match=f"^({own_network}|--classes): {text}"):
        label(*words.replace("pool", str(tmp_path / "pool")).split(), "--teacher", own_network,
              "--out", tmp_path / "out")


def test_network_of_another_shape_or_none_is_one_line(tmp_path):
    model = keras.Sequential([keras.layers.Input((64, 64, 3)), keras.layers.Flatten(),
                              keras.layers.Dense(2)])
    model.save(tmp_path / "large.keras")
    keras.Sequential([keras.layers.Input((32, 32, 3)), keras.layers.AveragePooling2D(32),
                      keras.layers.Conv2D(2, 1)]).save(tmp_path / "map.keras")
    (tmp_path / "text.keras").write_text("no network")
    for name, text in (("large", r"takes \(None, 64, 64, 3\)"), ("text", "damaged, or not what"),
                       ("map", r"takes .*, gives \(None, 1, 1, 2\)"),
                       ("absent", "no such file")):
        with pytest.raises(UserError, match=f"{name}.keras: {text}") as error:
            label(tmp_path, "--teacher", tmp_path / f"{name}.keras", "--classes", "a", "b")
        assert one_line(error)
