"""The command lines: what is out of range is one line, and --help answers at once."""

import ast
import importlib.util
import json
import subprocess
import sys

import pytest
from conftest import PROGRAMS, ROOT

import experiment
from noisy_student import arguments

SCRIPTS = ["cifar10_resnet50", "imagenet_dummy_label", "stochastic_resblock", "Rand_Augment",
           "data_generator", "small_network", "eval", "robustness", "experiment", "predict",
           "data/make_toy", "data/make_corrupted"]


def experiments(doc, argv):
    return arguments.experiment(doc, experiment.EIGHT, experiment.CELLS, argv)


@pytest.mark.parametrize("parse, flags, says", [
    (arguments.teacher, "--width nan", "'nan' is not a number above 0 to 16"),
    (arguments.teacher, "--epochs 1.5", "'1.5' is not a whole number from 1"),
    (arguments.teacher, "--seed 4294967296", "is not a whole number from 0 to 4294967295"),
    (arguments.student, "--dropout 1", "'1' is not a number from 0 to 0.99"),
    (arguments.student, "--noise loud", "invalid choice: 'loud'"),
    (experiments, "--cells pupil -- run", "invalid choice: 'pupil'")])
def test_a_flag_out_of_range_is_one_line_that_says_the_range(parse, flags, says, capsys):
    with pytest.raises(SystemExit) as ended:
        parse("", flags.split())
    *_, line = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and f"error: argument {flags.split()[0]}: " in line
    assert says in line


@pytest.mark.parametrize("parse, flags", [
    (arguments.student, "--dropout 0 --p-last 1 --augment-ops 0 --augment-magnitude 10 --width 16"),
    (arguments.student, "--seed 4294967295 --early-stopping 0 --noise none"),
    (arguments.labelling, "photos --threshold 0"), (arguments.labelling, "photos --threshold 1")])
def test_ends_of_the_ranges_are_in_them(parse, flags):
    args, (*_, flag, last) = parse("", flags.split()), flags.split()
    assert str(vars(args)[flag[2:]]).removesuffix(".0") == last


def test_every_script_explains_itself_and_imports_nothing_that_takes_seconds(tmp_path):
    paths = {script: str(ROOT / f"{script}.py") for script in SCRIPTS}
    result = subprocess.run([sys.executable, PROGRAMS / "help.py", *paths.values()], cwd=tmp_path,
                            capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    said = json.loads(result.stdout)
    for script, path in paths.items():
        status, out = said[path]
        assert status == 0, script
        with open(path, encoding="utf-8") as file:
            doc = ast.get_docstring(ast.parse(file.read()), clean=False)
        assert doc.strip() in out and f"python {script}.py" in doc
    assert not list(tmp_path.iterdir())


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Writes the user's own settings of Keras, where no environment variable overrules them."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    return (tmp_path / "keras.json").write_text


def test_a_backend_that_cannot_train_is_one_line(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    with pytest.raises(SystemExit, match="^error: KERAS_BACKEND chooses 'numpy' for Keras to "
                                         "compute on; networks are trained on tensorflow, jax, "):
        arguments.teacher("", [])


def test_a_backend_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="^error: KERAS_BACKEND chooses 'jax' .* no such package"):
        arguments.teacher("", [])


def test_a_backend_that_nobody_chooses_is_to_be_installed(settings, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="^error: without KERAS_BACKEND, Keras itself chooses "
                                         "'tensorflow' .* no such package"):
        arguments.teacher("", [])


def test_the_file_that_chooses_such_a_backend_is_named(settings):
    settings('{"backend": "theano"}')
    with pytest.raises(SystemExit, match="keras.json chooses 'theano'"):
        arguments.teacher("", [])


@pytest.mark.parametrize("text", [
    '{"backend": "tensorflow"}', '{"epsilon": 1e-7}', "{damaged", "[]"])
def test_other_settings_of_keras_are_none_of_our_business(text, settings):
    settings(text)
    assert arguments.teacher("", []).seed == 0


# --- flags that are typed once --------------------------------------------------------------------


TEACHER = {"data": None, "num_labeled": 80, "validation": "split", "seed": 3, "network": "small",
           "width": 0.25, "depth": None, "stem_strides": None, "recipe": "sprint", "epochs": 4,
           "steps_per_epoch": 40, "batch_size": 128, "learning_rate": 0.1875,
           "label_smoothing": 0.2, "averaging": 0.98, "early_stopping": 10}


@pytest.fixture
def trained(tmp_path):
    """Folders of a teacher and of its pseudo-labels, with no more in them than is read here."""
    for name, content in (
            ("teacher", {"arguments": TEACHER, "made_from": {"data": "data/toy"}}),
            ("pseudo", {"arguments": {"seed": 9}, "taught_by": {"arguments": TEACHER},
                        "made_from": {"data": "data/toy"}})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("words", ["--pseudo {}/pseudo", "--pseudo none --like {}/teacher"])
def test_student_is_trained_as_the_teacher_was_where_nothing_is_said(words, trained, capsys):
    args = arguments.student("", words.format(trained, trained).split())
    expected = {**TEACHER, "data": "data/toy"}
    assert {name: getattr(args, name) for name in expected} == expected
    assert "--data data/toy --num-labeled 80" in capsys.readouterr().out


@pytest.mark.parametrize("flags, differs", [
    ("--data other --seed 1", {"data": "other", "seed": 1}),
    # The rate follows the batch, and steps are counted anew.
    ("--batch-size 64", {"batch_size": 64, "learning_rate": None, "steps_per_epoch": None}),
    ("--recipe fast", {"recipe": "fast", "epochs": None, "batch_size": None, "learning_rate": None,
                       "steps_per_epoch": None, "label_smoothing": None, "averaging": None,
                       "early_stopping": None}),
    ("--network resnet", {"network": "resnet", "recipe": "article", "width": 1.0, "depth": 50,
                          "stem_strides": 1, "epochs": None, "batch_size": None,
                          "learning_rate": None, "steps_per_epoch": None,
                          "label_smoothing": None, "averaging": None, "early_stopping": None})])
def test_what_is_said_goes_before_what_the_teacher_had(flags, differs, trained):
    args = arguments.student("", ["--pseudo", str(trained / "pseudo"), *flags.split()])
    expected = {**TEACHER, "data": "data/toy", **differs}
    assert {name: getattr(args, name) for name in expected} == expected


@pytest.mark.parametrize("folder, says", [("pseudo", "holds no training"),
                                          ("damaged", "holds no training"),
                                          ("nowhere", "nothing there yet")])
def test_who_is_to_be_like_a_folder_without_a_training_is_told(folder, says, trained):
    (trained / "damaged").mkdir()
    (trained / "damaged" / "run.json").write_text("{")
    with pytest.raises(SystemExit) as stopped:
        arguments.student("", ["--pseudo", "none", "--like", str(trained / folder)])
    assert f"{trained / folder}: {says}" in stopped.value.code


def test_without_a_teacher_to_ask_the_defaults_are_the_articles(tmp_path):
    args = arguments.student("", ["--pseudo", "none", "--like", "none"])
    assert (args.data, args.network, args.depth, args.width, args.recipe, args.seed) == (
        "cifar10", "resnet", 50, 1.0, "article", 0)
