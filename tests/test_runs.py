"""A run's folder: one run at a time, of one kind, and only what that run wrote is read."""

import errno
import fcntl
import inspect
import io
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import filelock
import h5py
import keras
import numpy as np
import pytest
from conftest import PROGRAMS, ROOT

from cifar10_resnet50 import build_resnet, optimizer_and_schedule, smooth_labels
from data_generator import noisy_batches
from noisy_student import backend, runs
from noisy_student.files import UserError, read_json, write_arrays, write_json
from small_network import build_small, whiten
from stochastic_resblock import build_small_student, build_student

FROM = {"data": "data/toy", "data_sha256": "abc", "split_sha256": "def"}


def start(folder, script="cifar10_resnet50.py", made_from=FROM, flag="--log-dir", code=None,
          **words):
    arguments = {"seed": 0, "epochs": 30, "data": "data/toy", "log_dir": str(folder), "workers": 2}
    return runs.start(script, folder, {**arguments, **words}, made_from, flag=flag, code=code)


def test_a_killed_run_does_not_go_on_with_another_backend(tmp_path, monkeypatch):
    run = start(tmp_path)
    run.path(runs.BACKUP).touch()
    mine = keras.backend.backend()
    monkeypatch.setattr(keras.backend, "backend", lambda: "another")
    with pytest.raises(UserError, match=f"holds another run .backend {mine} there, another here"):
        start(tmp_path)
    # What is finished is only read.
    run.finish(test_accuracy=0.5)
    assert start(tmp_path).finished


def test_unfinished_run_without_a_backup_gives_way(tmp_path):
    start(tmp_path)
    assert start(tmp_path, seed=1).arguments == {"seed": 1, "epochs": 30}
    assert runs.read(tmp_path).arguments["seed"] == 1
    # Another script's folder stays, whatever is in it.
    with pytest.raises(UserError, match=r"\(script cifar10_resnet50.py there, eval.py here;"):
        start(tmp_path, "eval.py")


def test_a_run_knows_its_hardware_and_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "gpus", lambda: [("A card", (6, 1)), ("B card", (8, 0))])
    versions = start(tmp_path / "a").versions
    assert versions["hardware"] == "A card, B card" and versions["commit"] == runs.commit()
    monkeypatch.setattr(backend, "gpus", lambda: [])
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    cores = f", {os.cpu_count()} cores"
    assert start(tmp_path / "b").versions["hardware"].endswith(cores)
    # As two cells at a time have it, which then come to other last digits.
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    assert start(tmp_path / "c").versions["hardware"].endswith(f"{cores}, threads: 1")


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_a_commit_says_whether_there_are_changes(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a", *words], cwd=project,
                       check=True, capture_output=True)

    project = tmp_path / "mine"
    module = project / "noisy_student" / "runs.py"
    module.parent.mkdir(parents=True)
    module.write_text("1")
    monkeypatch.setattr(runs, "__file__", str(module))
    assert runs.commit() == "-"
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    clean = runs.commit()
    module.write_text("2")
    assert len(clean) >= 7 and runs.commit() == f"{clean}-dirty"


@pytest.fixture(params=["finished", "under way"])
def worth_keeping(request, tmp_path):
    """A run that must not be lost."""
    run = start(tmp_path)
    write_arrays(tmp_path / runs.BACKUP, a=np.ones(1))
    if request.param == "finished":
        run.finish(test_accuracy=0.5)
    return run


def test_a_finished_run_has_no_backup(tmp_path):
    run = start(tmp_path)
    write_arrays(tmp_path / runs.BACKUP, a=np.ones(1))
    run.finish(test_accuracy=0.5)
    assert not (tmp_path / runs.BACKUP).exists()


def test_other_arguments_are_refused_by_name(worth_keeping, tmp_path):
    with pytest.raises(UserError) as caught:
        start(tmp_path, seed=1, epochs=None, flag="--out")
    assert str(caught.value) == (
        f"{tmp_path} holds another run (seed 0 there, 1 here; epochs 30 there, None here): "
        "choose another --out, or delete that folder")


@pytest.mark.parametrize("different, text", [
    ({"made_from": {**FROM, "data_sha256": "xyz"}}, "data_sha256 abc there, xyz here"),
    ({"made_from": {**FROM, "pseudo_sha256": "p"}}, "pseudo_sha256 None there, p here"),
    ({"noise": "all"}, "noise None there, all here")])
def test_other_data_labels_and_flags_are_refused_by_name(different, text, worth_keeping, tmp_path):
    with pytest.raises(UserError, match=rf"\({text}\)"):
        start(tmp_path, **different)


def test_data_that_moved_and_more_workers_are_the_same_run(worth_keeping, tmp_path):
    moved = {**FROM, "data": "/mnt/toy"}
    same = start(tmp_path, made_from=moved, data="/mnt/toy", workers=7, log_dir="elsewhere")
    assert same.results == worth_keeping.results and same.made_from == FROM


# --- other code -----------------------------------------------------------------------------------

CODE = {"operations": (noisy_batches,), "recipe": (optimizer_and_schedule, smooth_labels),
        "resnet": (build_resnet,), "its student": (build_student,),
        "small": (build_small, whiten), "small student": (build_small_student, whiten)}


@pytest.fixture
def edit(tmp_path, monkeypatch):
    """Copies of the scripts stand in for them; edit(script, old, new) changes one."""
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    original = inspect.getsourcefile
    monkeypatch.setattr(inspect, "getsourcefile",
                        lambda thing: tmp_path / pathlib.Path(original(thing)).name)

    def edit(script, old, new):
        text = (tmp_path / script).read_text()
        assert text.count(old) == 1
        (tmp_path / script).write_text(text.replace(old, new))
    return edit


@pytest.mark.parametrize("script, old, new, changes", [
    ("Rand_Augment.py", "(7, 7, 6, 6, 6,", "(7, 7, 6, 6, 5,", ["operations"]),
    ("Rand_Augment.py", "image.rotate(m, fillcolor", "image.rotate(-m, fillcolor", ["operations"]),
    # What an operation uses.
    ("Rand_Augment.py", "GREY = (128, 128", "GREY = (128, 127", ["operations"]),
    ("data_generator.py", "rng.integers(9,", "rng.integers(5,", ["operations"]),
    ("cifar10_resnet50.py", "TRIANGLE_END = 0.2, 0.23, 0.07", "TRIANGLE_END = 0.2, 0.23, 0.0",
     ["recipe"]),
    ("cifar10_resnet50.py", "(1 - smoothing) * labels +", "(1 - smoothing) * labels -", ["recipe"]),
    ("cifar10_resnet50.py", "Conv2D(filters, 3, padding", "Conv2D(filters, 5, padding",
     ["resnet", "its student"]),
    ("stochastic_resblock.py", "return inputs * self.p_survival", "return inputs",
     ["its student", "small student"]),
    ("small_network.py", "BIAS_FACTOR = 8", "BIAS_FACTOR = 1", ["small", "small student"]),
    ("small_network.py", "WHITENING_EPSILON = 5e-4", "WHITENING_EPSILON = 5e-3",
     ["small", "small student"]),
    # A recipe's values are compared by name, among the arguments.
    ("cifar10_resnet50.py", "learning_rate=0.75", "learning_rate=0.5", []),
    ("Rand_Augment.py", "# Degrees. Article: 0..360,", "# In degrees (article: 0..360),", []),
    ("Rand_Augment.py", "Ten magnitudes in equal steps", "Magnitudes in equal steps", []),
    ("data_generator.py", "for number, rows in order:", "for number, rows in  order:", []),
    ("data_generator.py", 'print(data)', 'print(f"{data}")', [])])
def test_what_an_edit_changes(script, old, new, changes, edit):
    before = {what: runs.code_of(*things) for what, things in CODE.items()}
    edit(script, old, new)
    assert [what for what in CODE if runs.code_of(*CODE[what]) != before[what]] == changes


def test_a_run_of_other_code_is_refused_by_what_has_changed(edit, tmp_path):
    folder, code = tmp_path / "run", {"network": (build_small,), "operations": (noisy_batches,)}
    start(folder, code=code).finish(test_accuracy=0.5)
    assert start(folder, code=code).finished
    edit("Rand_Augment.py", "up_to(30), True", "up_to(45), True")
    with pytest.raises(UserError) as caught:
        start(folder, code=code)
    assert str(caught.value) == (f"{folder}: the code of the operations has changed since: "
                                 "choose another --log-dir, or delete that folder")
    edit("small_network.py", "LOGIT_SCALE = 9", "LOGIT_SCALE = 8")
    with pytest.raises(UserError, match="the code of the network and the operations has changed"):
        start(folder, code=code)


def test_a_run_of_before_that_does_not_know_its_code_is_taken_as_it_is(worth_keeping, tmp_path):
    content = read_json(tmp_path / "run.json")
    del content["code"]
    write_json(tmp_path / "run.json", content)
    assert start(tmp_path, code=CODE).results == worth_keeping.results
    assert runs.read(tmp_path).code == {}


def test_folder_of_a_living_process_is_refused_and_that_of_a_dead_one_is_free(tmp_path):
    child = subprocess.Popen([sys.executable, PROGRAMS / "occupy.py", tmp_path], text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert child.stdout.readline() == "has it\n"
    with pytest.raises(UserError, match="another run is writing there right now.*another --out"):
        start(tmp_path, flag="--out")
    assert not (tmp_path / "run.json").exists() and child.poll() is None
    child.kill()
    child.communicate()
    start(tmp_path)
    # Its own, already.
    start(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "run.json"}


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"),
                                   OSError(errno.EOPNOTSUPP, "Operation not supported"),
                                   NotImplementedError("flock is not supported")])
def test_file_system_without_locks_is_warned_of(error, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise error

    if isinstance(error, OSError):
        monkeypatch.setattr(fcntl, "flock", refuse)
    else:
        monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    start(tmp_path)
    out = capsys.readouterr().out
    assert f"cannot be locked ({error})" in out and str(tmp_path) in out and out.count("\n") == 1
    assert runs.read(tmp_path).made_from == FROM


def tiny_network():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3, "softmax")])


@pytest.fixture
def finished(tmp_path):
    """A finished run that has written a network and an array."""
    run = start(tmp_path)
    runs.save_network(tiny_network(), run.path("model.keras"))
    write_arrays(run.path("x.npy"), np.arange(6))
    run.path("notes.txt").write_text("mine")
    run.finish(steps=(1, 2))
    return runs.finished(tmp_path, "")


def test_a_run_that_is_not_there_says_what_to_run_first(tmp_path):
    with pytest.raises(UserError, match="nothing there yet. Run first: python step1.py$"):
        runs.finished(tmp_path / "nowhere", "python step1.py")


def test_an_unfinished_run_says_which_command_goes_on(tmp_path):
    start(tmp_path)
    with pytest.raises(UserError, match="not finished.*goes on: python cifar10_resnet50.py"):
        runs.finished(tmp_path, "")


def test_a_finished_run_keeps_its_results_and_its_files(finished):
    assert set(finished.sha256) == {"model.keras", "x.npy"}
    assert finished.results == {"steps": [1, 2]}
    assert finished.arrays("x.npy").tolist() == list(range(6))
    weights = tiny_network().get_weights()
    assert all((a == b).all() for a, b in zip(finished.model().get_weights(), weights))


@pytest.mark.parametrize("name, read", [
    ("x.npy", lambda run: run.arrays("x.npy")), ("model.keras", runs.Run.model)])
@pytest.mark.parametrize("change", ["another byte", "no file"])
def test_a_file_that_its_run_did_not_write_is_refused(name, read, change, finished):
    content = bytearray(finished.path(name).read_bytes())
    content[-9] ^= 1
    finished.path(name).unlink()
    if change == "another byte":
        finished.path(name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: missing, or not the file that its run wrote"):
        read(finished)


def test_a_record_of_a_later_version_is_read(finished, tmp_path):
    content = read_json(tmp_path / "run.json")
    write_json(tmp_path / "run.json", {**content, "of a later version": 1})
    assert runs.finished(tmp_path, "").results == {"steps": [1, 2]}


def test_a_record_that_lacks_a_key_is_one_line(tmp_path):
    write_json(tmp_path / "run.json", {"script": "x"})
    with pytest.raises(UserError, match="run.json: damaged, or not what .*: it has no 'arguments'"):
        runs.finished(tmp_path, "")


@pytest.fixture
def answers():
    """Probabilities of ten classes, float32, some of them next to none, and classes."""
    p = np.random.default_rng(0).dirichlet(np.full(10, 0.3), 3000)
    p[:100] = np.eye(10)[3]
    return p.astype(np.float32), np.arange(3000) % 10


def test_predictions_come_back_to_the_bit(answers, tmp_path):
    p, y = answers
    run = start(tmp_path)
    run.save_predictions(test=(p, y), validation=(p[::-1], y[::-1]))
    run.finish()
    back, classes = runs.read(tmp_path).predictions("test")
    assert back.dtype == np.float32 and (back == p).all()
    assert classes.dtype == np.int64 and (classes == y).all()
    assert (runs.read(tmp_path).predictions("validation")[0] == p[::-1]).all()


def test_predictions_that_were_not_kept_are_one_line(answers, tmp_path):
    run = start(tmp_path)
    run.save_predictions(test=answers)
    run.finish()
    with pytest.raises(UserError, match="predictions.npz: damaged"):
        run.predictions("validation")


def test_logarithms_of_version_1_are_read_as_probabilities(answers, tmp_path):
    p, y = answers
    run = start(tmp_path)
    tiny = np.finfo(np.float32).tiny
    write_arrays(run.path("predictions.npz"), test=np.log(np.maximum(p, tiny)).astype(np.float16),
                 y_test=y.astype(np.int16))
    run.finish()
    back, classes = run.predictions("test")
    assert back.dtype == np.float32 and np.abs(back - p).max() < 1e-3 and (classes == y).all()
    assert back.sum(axis=1) == pytest.approx(1, abs=1e-6)


def test_of_a_sha256_a_person_is_shown_eight_digits():
    assert runs.short("0123abcd" * 8) == "0123abcd..." and runs.short("0123abcd") == "0123abcd"


def test_a_network_is_kept_without_its_optimizer_which_goes_on(tmp_path):
    model = tiny_network()
    model.compile(keras.optimizers.Adam(0.1), "categorical_crossentropy")
    x, y = np.ones((8, 4)), np.eye(3)[[0] * 8]
    model.fit(x, y, verbose=0)
    runs.save_network(model, tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        weights = io.BytesIO(file.read("model.weights.h5"))
    with h5py.File(weights) as file:
        assert "layers" in file and "optimizer" not in file
    kept = runs.load_network(tmp_path / "model.keras")
    assert (kept.predict(x, verbose=0) == model.predict(x, verbose=0)).all()
    model.fit(x, y, verbose=0)
    assert int(model.optimizer.iterations) == 2
