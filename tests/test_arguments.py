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
           "data_generator", "eval", "experiment", "predict", "data/make_toy",
           "data/make_corrupted"]


def of_experiment(doc, argv):
    return arguments.experiment(doc, experiment.EIGHT, experiment.CELLS, argv)


@pytest.mark.parametrize("parse, flags", [
    *((arguments.teacher, flags) for flags in (
        "--width 0", "--width nan", "--width 17", "--depth x", "--epochs 0", "--epochs 1.5",
        "--num-labeled -1", "--batch-size x", "--steps-per-epoch 0", "--learning-rate 0",
        "--learning-rate inf", "--seed -1", "--seed 4294967296", "--early-stopping -1",
        "--validation train", "--stem-strides 3", "--precision float16", "--devices two")),
    *((arguments.student, flags) for flags in (
        "--noise loud", "--augment-ops -1", "--augment-magnitude 11", "--augment-magnitude 0",
        "--dropout 1", "--dropout -0.1", "--p-last 0", "--p-last 1.1", "--labeled-share 0",
        "--labeled-share 2", "--flip-and-crop sometimes", "--width 0", "--seed -1")),
    *((arguments.labelling, f"{flags} images") for flags in (
        "--threshold 1.1", "--threshold -0.1", "--keep-share 0", "--per-class-cap 0",
        "--max-repeats 0", "--workers 0")),
    (arguments.survival, "--p-last nan"), (arguments.evaluation, "--robust-images 0 runs"),
    (of_experiment, "--jobs 0 run"), (of_experiment, "--cells pupil -- run")])
def test_flags_out_of_range_are_one_line_that_names_the_flag(parse, flags, capsys):
    with pytest.raises(SystemExit) as ended:
        parse("", flags.split())
    *_, line = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and f"error: argument {flags.split()[0]}: " in line


@pytest.mark.parametrize("flags, says", [
    ("--width -3", "'-3' is not a number above 0 to 16"),
    ("--epochs 1.5", "'1.5' is not a whole number from 1"),
    ("--seed -1", "'-1' is not a whole number from 0 to 4294967295"),
    ("--learning-rate x", "'x' is not a number above 0")])
def test_the_range_is_said(flags, says, capsys):
    with pytest.raises(SystemExit):
        arguments.teacher("", flags.split())
    assert capsys.readouterr().err.endswith(f"error: argument {flags.split()[0]}: {says}\n")


def test_ends_of_the_ranges_are_in_them():
    args = arguments.student("", "--dropout 0 --p-last 1 --augment-ops 0 --augment-magnitude 10 "
                             "--seed 4294967295 --early-stopping 0 --width 16".split())
    assert (args.dropout, args.p_last, args.augment_ops, args.augment_magnitude) == (0, 1, 0, 10)
    assert (args.seed, args.early_stopping, args.width) == (4294967295, 0, 16)
    assert arguments.labelling("", ["x", "--threshold", "0"]).threshold == 0
    assert arguments.labelling("", ["x", "--threshold", "1"]).threshold == 1


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


def test_a_backend_that_cannot_train_or_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for name, text in (("numpy", "networks are trained on tensorflow, jax, torch"),
                       ("jax", "there is no such package in this environment")):
        monkeypatch.setenv("KERAS_BACKEND", name)
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda name: None)
            with pytest.raises(SystemExit) as error:
                arguments.teacher("", [])
        assert str(error.value).startswith(f"error: KERAS_BACKEND chooses {name!r} for Keras")
        assert text in str(error.value) and "\n" not in str(error.value)
    monkeypatch.delenv("KERAS_BACKEND")
    assert arguments.teacher("", []).seed == 0
    for text, refused in (('{"backend": "theano"}', True), ('{"backend": "tensorflow"}', False),
                          ('{"epsilon": 1e-7}', False), ("{damaged", False), ("[]", False)):
        (tmp_path / "keras.json").write_text(text)
        if refused:
            with pytest.raises(SystemExit, match="keras.json chooses 'theano'"):
                arguments.teacher("", [])
        else:
            arguments.teacher("", [])
