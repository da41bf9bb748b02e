"""A run's folder: one run at a time, of one kind, and only what that run wrote is read."""

import errno
import fcntl
import os
import random
import subprocess
import sys

import filelock
import keras
import numpy as np
import pytest
from conftest import PROGRAMS, ROOT

from noisy_student import runs
from noisy_student.files import UserError, read_json, sha256, write_arrays, write_json

FROM = {"data": "data/toy", "data_sha256": "abc", "split_sha256": "def"}


def start(folder, script="cifar10_resnet50.py", made_from=FROM, flag="--log-dir", **words):
    arguments = {"seed": 0, "epochs": 30, "data": "data/toy", "log_dir": str(folder), "workers": 2}
    return runs.start(script, folder, {**arguments, **words}, made_from, flag=flag)


def test_unfinished_run_without_a_backup_gives_way(tmp_path):
    start(tmp_path)
    assert start(tmp_path, seed=1).arguments == {"seed": 1, "epochs": 30}
    assert runs.read(tmp_path).arguments["seed"] == 1
    # Another script's folder stays, whatever is in it.
    with pytest.raises(UserError, match=r"\(script cifar10_resnet50.py there, eval.py here;"):
        start(tmp_path, "eval.py")


@pytest.mark.parametrize("finished", [False, True])
def test_run_worth_keeping_is_returned_or_refused_by_name_of_what_differs(finished, tmp_path):
    run = start(tmp_path)
    write_arrays(tmp_path / runs.BACKUP, a=np.ones(1))
    if finished:
        run.finish(test_accuracy=0.5)
        assert not (tmp_path / runs.BACKUP).exists()
    with pytest.raises(UserError) as caught:
        start(tmp_path, seed=1, epochs=None, flag="--out")
    assert str(caught.value) == (
        f"{tmp_path} holds another run (seed 0 there, 1 here; epochs 30 there, None here): "
        "choose another --out, or delete that folder")
    with pytest.raises(UserError, match=r"\(data_sha256 abc there, xyz here\)"):
        start(tmp_path, made_from={**FROM, "data_sha256": "xyz"})
    with pytest.raises(UserError, match=r"\(pseudo_sha256 None there, p here\)"):
        start(tmp_path, made_from={**FROM, "pseudo_sha256": "p"})
    with pytest.raises(UserError, match=r"\(noise None there, all here\)"):
        start(tmp_path, noise="all")
    # The same data at another place, and another number of workers, are the same run.
    moved = {**FROM, "data": "/mnt/toy"}
    same = start(tmp_path, made_from=moved, data="/mnt/toy", workers=7, log_dir="elsewhere")
    assert same.results == ({"test_accuracy": 0.5} if finished else {})
    assert same.finished == finished and same.made_from == FROM


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


def test_missing_unfinished_damaged_or_forged_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="nothing there yet. Run first: python step1.py$"):
        runs.finished(tmp_path / "nowhere", "python step1.py")
    run = start(tmp_path)
    with pytest.raises(UserError, match="not finished.*goes on: python cifar10_resnet50.py"):
        runs.finished(tmp_path, "")
    runs.save_network(tiny_network(), run.path("model.keras"))
    write_arrays(run.path("x.npy"), np.arange(6))
    run.path("notes.txt").write_text("mine")
    run.finish(steps=(1, 2))
    run = runs.finished(tmp_path, "")
    assert set(run.sha256) == {"model.keras", "x.npy"} and run.results == {"steps": [1, 2]}
    assert run.arrays("x.npy").tolist() == list(range(6)) and run.check("x.npy").exists()
    weights = tiny_network().get_weights()
    assert all((a == b).all() for a, b in zip(run.model().get_weights(), weights))
    for name, read in (("x.npy", lambda: run.arrays("x.npy")), ("model.keras", run.model)):
        content = bytearray(run.path(name).read_bytes())
        content[-9] ^= 1
        run.path(name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: missing, or not the file that its run wrote"):
            read()
        run.path(name).unlink()
        with pytest.raises(UserError, match=f"{name}: missing"):
            read()
    record = read_json(tmp_path / "run.json")
    write_json(tmp_path / "run.json", {**record, "of a later version": 1})
    assert runs.finished(tmp_path, "").results == {"steps": [1, 2]}
    write_json(tmp_path / "run.json", {"script": "x"})
    with pytest.raises(UserError, match="run.json: damaged, or not what .*: it has no 'arguments'"):
        runs.finished(tmp_path, "")


def test_forged_network_is_refused_in_one_line(tmp_path):
    """As in a stranger's folder: its record vouches for it, and still it can do nothing."""
    run, rng, refused = start(tmp_path), random.Random(0), 0
    path = run.path("model.keras")
    runs.save_network(tiny_network(), path)
    whole = path.read_bytes()
    for number in range(40):
        damaged = bytearray(whole[:rng.randrange(1, len(whole))] if number % 2 else whole)
        for _ in range(number):
            damaged[rng.randrange(min(len(damaged), 2000))] = rng.randrange(256)
        path.write_bytes(damaged)
        run.sha256["model.keras"] = sha256(path)
        try:
            run.model()
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            refused += 1
    assert refused > 30
    layer = keras.layers.Lambda(lambda x: x)
    keras.Sequential([keras.layers.Input((4,)), layer]).save(path)
    with pytest.raises(UserError, match="model.keras: .*Lambda"):
        runs.load_network(path)


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
