"""The steps together, as a user runs them; and what importing them must not do."""

import os
import subprocess
import sys

import cifar10_resnet50 as step1
import data_generator as step4
import eval as step5
import make_toy

import numpy as np
import pytest
from conftest import ROOT, TINY
from PIL import Image

SCRIPTS = ["cifar10_resnet50", "imagenet_dummy_label", "stochastic_resblock", "Rand_Augment", "data_generator", "eval"]


def test_students_and_their_table(toy, teacher, pseudo, tmp_path, capsys):
    common = ["--data", str(toy), "--num-labeled", "80", "--recipe", "fast", "--epochs", "2", *TINY]
    step4.main([*common, "--pseudo", str(pseudo), "--log-dir", str(tmp_path / "student")])
    out = capsys.readouterr().out
    balanced = len(np.load(pseudo / "index.npy"))
    assert f"100 images with pseudo-labels, {balanced} after balancing" in out and f"over {72 + balanced} images" in out
    record = step1.read_json(tmp_path / "student" / "run.json")
    assert step5.cell_key(record["cell"]) == step5.STUDENT and record["cell"]["labelling"]["calibrate"]
    assert record["steps"] == step1.read_json(teacher / "run.json")["steps"]  # matched
    assert record["made_from"]["pseudo_of"] == step1.read_json(teacher / "run.json")["model_sha256"]
    model, _ = step1.load_model(tmp_path / "student")
    assert [layer.rate for layer in model.layers if layer.name == "dropout"] == [0.5]

    runs, _ = step5.load_runs(step5.find_runs([teacher, tmp_path / "student"])[0])
    assert [cell.name for cell in step5.group(runs)] == ["teacher: labels alone, no noise", "student: pseudo-labels, noise"]
    with pytest.raises(step1.UserError, match="choice of labelled images"):
        step4.main([*common, "--seed", "1", "--pseudo", str(pseudo), "--log-dir", str(tmp_path / "x")])
    with pytest.raises(step1.UserError, match="Run first: python imagenet_dummy_label.py"):
        step4.main([*common, "--pseudo", str(tmp_path / "nowhere"), "--log-dir", str(tmp_path / "x")])
    with pytest.raises(step1.UserError, match="holds another run"):
        step4.main([*common, "--pseudo", str(pseudo), "--noise", "none", "--log-dir", str(tmp_path / "student")])


@pytest.mark.parametrize("noise, dropout, survival, images", [("all", 0.5, 0.8, True), ("model", 0.5, 0.8, False),
                                                              ("input", 0.0, 1.0, True), ("none", 0.0, 1.0, False)])
def test_each_noise_can_be_taken_away_alone(noise, dropout, survival, images, toy, tmp_path, monkeypatch):
    seen = {}

    def train(model, batches, held_out, log_dir, **_):
        seen.update(model=model, x=next(batches(0))[0], again=next(batches(0))[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(step1, "train", train)
    with pytest.raises(KeyboardInterrupt):
        step4.main(["--data", str(toy), "--pseudo", "none", "--noise", noise, *TINY, "--log-dir", str(tmp_path)])
    assert seen["model"].get_layer("dropout").rate == dropout
    assert seen["model"].get_layer("stage4_block1_survival").p_survival == pytest.approx(survival)
    data = step1.load_data(str(toy))
    originals = {image.tobytes() for image in data.x}
    assert (sum(image.tobytes() not in originals for image in seen["x"]) > 10) == images
    assert (seen["x"] == seen["again"]).all()


def test_matched_steps_do_not_grow_with_pseudo_labels(toy):
    class Arguments:
        recipe, epochs, batch_size, learning_rate, steps_per_epoch = "article", None, None, None, None
        log_dir = data = pseudo = ""
        precision, devices = "auto", "one"

    arguments, data = Arguments(), step1.load_data(str(toy))
    arguments.__dict__.update({key: getattr(Arguments, key) for key in vars(Arguments) if not key.startswith("_")})
    settings = step1.fill_in(arguments, data)
    assert settings["steps_per_epoch"] == 108 // 64 and settings["epochs"] == 300 and settings["learning_rate"] == 1e-3
    assert settings["precision"] == "float32"  # the article's recipe, whatever the hardware


def test_importing_in_an_empty_folder_does_nothing_and_prints_nothing(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join([*SCRIPTS, 'report', 'robustness'])}"
    result = subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", [*SCRIPTS, "data/make_toy", "data/make_corrupted"])
def test_every_script_explains_itself(script, capsys):
    import importlib

    with pytest.raises(SystemExit) as exit:
        importlib.import_module(script.split("/")[-1]).main(["--help"])
    out = capsys.readouterr().out
    assert exit.value.code == 0 and f"python {script}.py" in out


@pytest.mark.parametrize("script", [*SCRIPTS, "data/make_toy", "data/make_corrupted"])
def test_help_imports_nothing_that_takes_seconds(script, tmp_path):
    for name in ("keras", "tensorflow", "numba"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    command, environment = [sys.executable, str(ROOT / f"{script}.py")], os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run([*command, "--help"], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "") and f"python {script}.py" in result.stdout


def test_a_users_mistake_gives_one_line_from_the_shell(tmp_path):
    result = subprocess.run([sys.executable, str(ROOT / "eval.py"), "nowhere"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.startswith("error: nowhere: nothing there yet") and result.stderr.count("\n") == 1


def test_toy_set_is_seeded_and_different_pictures(toy, tmp_path, capsys):
    flags = ["--per-class-train", "2", "--per-class-test", "1", "--unlabeled", "9"]
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        make_toy.main([str(tmp_path / name), "--seed", seed, *flags])
    a, b, c = ([np.array(Image.open(path)) for path in sorted((tmp_path / name).rglob("0*.png"))] for name in "abc")
    assert len(a) == 39 and all((x == y).all() for x, y in zip(a, b)) and any((x != y).any() for x, y in zip(a, c))
    assert len({image.tobytes() for image in a}) == 39
    make_toy.main([str(tmp_path / "a"), *flags])
    assert "is there already" in capsys.readouterr().out
    assert sum(line.endswith("none of these") for line in (toy / "truth.csv").read_text().splitlines()) > 0
