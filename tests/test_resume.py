"""Nothing lost, nothing let in: kills, full disks, two runs at once, damaged files. benchmarks/soak.py is the long version."""

import csv
import errno
import os
import random
import signal
import subprocess
import sys
import time

import cifar10_resnet50 as step1
import imagenet_dummy_label as step2

import keras
import numpy as np
import pytest
from conftest import ROOT, TINY


def start(script, *arguments):
    return subprocess.Popen([sys.executable, str(ROOT / script), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


# --- a crash between any two system calls ---


class Crash(BaseException):
    """What no code catches by accident."""


def crash_at(monkeypatch, number):
    """The number-th call that changes the disk's names or waits for the disk does not come back."""
    calls = []

    def counted(function):
        def call(*args, **kwargs):
            calls.append(function.__name__)
            if len(calls) == number:
                raise Crash
            return function(*args, **kwargs)
        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(step1.os, name, counted(getattr(os, name)))
    monkeypatch.setattr(step1.pathlib.Path, "unlink", counted(step1.pathlib.Path.unlink))
    return calls


def tiny_training(log_dir, epochs, noise=0.3):
    """The Recorder at work on a network of one layer and a dropout, whose random state must come back, too."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dropout(noise), keras.layers.Dense(2, activation="softmax")])
    model.compile(keras.optimizers.Adam(0.01), "categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
    recorder = step1.Recorder(log_dir, seed=0)
    recorder.restore(model)
    if recorder.epoch < epochs:
        recorder.begin_phase(0, [], 0.01)
        rng = np.random.default_rng(1)
        x, t = rng.normal(size=(8, 4)).astype(np.float32), np.eye(2, dtype=np.float32)[rng.integers(0, 2, 8)]
        model.fit(x, t, batch_size=4, shuffle=False, initial_epoch=recorder.epoch, epochs=epochs, validation_data=(x, t),
                  callbacks=[recorder], verbose=0)
    return [np.array(weight) for weight in model.get_weights()], recorder


def test_crash_at_any_moment_of_saving_loses_one_epoch_at_most(tmp_path):
    expected, recorder = tiny_training(tmp_path / "whole", 2)
    assert len(recorder.history) == 2 and not np.array_equal(tiny_training(tmp_path / "quiet", 2, noise=0.0)[0][0], expected[0])
    moments = 0
    for number in range(1, 200):
        log_dir = tmp_path / f"{number}"
        with pytest.MonkeyPatch.context() as patch:
            calls = crash_at(patch, number)
            try:
                tiny_training(log_dir, 2)
            except Crash:
                moments += 1
        if len(calls) < number:
            break  # there are no more moments
        weights, recorder = tiny_training(log_dir, 2)
        assert all(np.array_equal(a, b) for a, b in zip(weights, expected)) and len(recorder.history) == 2
        assert (log_dir / "history.csv").read_text() == (tmp_path / "whole" / "history.csv").read_text()
    assert moments > 20 and {"fsync", "replace", "unlink"} <= set(calls)


def test_file_on_a_full_disk_leaves_the_old_one(tmp_path, monkeypatch):
    step1.write_json(tmp_path / "run.json", {"a": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(step1.os, "fsync", full)
    with pytest.raises(OSError):
        step1.write_json(tmp_path / "run.json", {"a": 2})
    assert step1.read_json(tmp_path / "run.json") == {"a": 1} and [path.name for path in tmp_path.iterdir()] == ["run.json"]


# --- kills ---


def test_labelling_that_is_killed_ends_as_if_it_had_not_been(teacher, toy, tmp_path):
    arguments = [toy / "unlabeled", "--teacher", teacher, "--threshold", "0.1", "--out"]
    assert start("imagenet_dummy_label.py", *arguments, tmp_path / "whole").wait() == 0
    seen = []
    for workers, moment in (("1", "run.json"), ("3", "x.npy")):
        child = start("imagenet_dummy_label.py", *arguments, tmp_path / "killed", "--workers", workers)
        while not (tmp_path / "killed" / moment).exists() and child.poll() is None:
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
        child.wait()
        seen.append((tmp_path / "killed" / "run.json").exists() and step1.read_json(tmp_path / "killed" / "run.json")["finished"])
    assert seen[0] is False
    child = start("imagenet_dummy_label.py", *arguments, tmp_path / "killed")
    assert child.wait() == 0, child.stdout.read()
    for name in ("x.npy", "y.npy", "index.npy", "images.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    assert not list((tmp_path / "killed").glob(".unfinished-*"))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_go_on_to_the_bit_too(backend, toy, tmp_path):
    pytest.importorskip(backend)
    code = """if True:
        import sys
        import cifar10_resnet50 as step1, data_generator as step4

        saved = step1.Recorder.on_epoch_end

        def killed(self, epoch, logs=None):
            saved(self, epoch, logs)
            if epoch == 0:
                raise SystemExit

        if sys.argv.pop(1) == "killed":
            step1.Recorder.on_epoch_end = killed
        step4.main()"""
    arguments = ["--data", str(toy), "--pseudo", "none", "--recipe", "fast", "--epochs", "2", *TINY, "--log-dir"]
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    for how, folder in (("whole", "whole"), ("killed", "again"), ("whole", "again")):
        subprocess.run([sys.executable, "-c", code, how, *arguments, str(tmp_path / folder)], env=environment, check=True, capture_output=True)
        assert len(step1.read_history(tmp_path / folder / "history.csv")) == (1 if how == "killed" else 2)
    whole, again = (np.load(tmp_path / folder / "predictions.npz")["test"] for folder in ("whole", "again"))
    assert np.array_equal(whole, again)


# --- two at once ---


def test_second_run_in_one_folder_is_refused_and_the_first_does_not_mind(toy, tmp_path):
    arguments = ["--data", toy, "--recipe", "fast", "--epochs", "2", *TINY, "--log-dir", tmp_path / "run"]
    first = start("cifar10_resnet50.py", *arguments)
    while not (tmp_path / "run" / "run.json").exists():
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.01)
    with pytest.raises(step1.UserError, match="another run is writing there right now"):
        step1.main([str(argument) for argument in arguments])
    assert first.wait() == 0 and step1.read_json(tmp_path / "run" / "run.json")["finished"]


def test_folder_is_free_again_when_its_run_is_dead_and_is_swept(tmp_path):
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import cifar10_resnet50 as s, time; s.occupy({str(tmp_path / 'run')!r}); "
            f"open({str(tmp_path / 'run')!r} + '/.unfinished-0-model.keras', 'w'); print('has it', flush=True); time.sleep(60)")
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "has it\n"
    with pytest.raises(step1.UserError, match="another run"):
        step1.occupy(tmp_path / "run")
    child.kill()
    child.wait()
    step1.occupy(tmp_path / "run")
    step1.occupy(tmp_path / "run")  # its own, already
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


# --- damaged files ---


def test_every_changed_byte_of_a_record_is_seen(tmp_path):
    path, content = tmp_path / "run.json", {"script": "x", "finished": True, "arguments": {"epochs": 3, "rate": 0.1}, "made_from": {"é": None}}
    step1.write_json(path, content)
    assert step1.read_json(path) == content
    whole, refused = path.read_bytes(), 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 2]) + whole[at + 1:])
        try:
            assert step1.read_json(path) == content  # white space alone
        except step1.UserError:
            refused += 1
    assert refused > len(whole) * 0.7


@pytest.mark.parametrize("change, named", [({"cell": {"noise": 3}}, "cell: noise"), ({"cell": {"noise": "loud"}}, "noise"), ({"steps": "many"}, "steps"),
                                           ({"cell": {"pseudo": {"noise": "all"}}}, "pseudo"), ({"made_from": []}, "made_from")])
def test_record_of_another_shape_is_refused_by_the_name_of_what_is_wrong(change, named, teacher, tmp_path):
    record = step1.read_json(teacher / "run.json")
    step1.write_json(tmp_path / "run.json", record | {key: {**record[key], **value} if isinstance(value, dict) else value
                                                     for key, value in change.items()})
    with pytest.raises(step1.UserError, match=rf"does not describe a run \({named}\)"):
        step1.load_run(tmp_path, "")


def test_history_without_one_of_its_columns_is_refused(teacher, tmp_path):
    text = (teacher / "history.csv").read_text()
    assert step1.read_history(teacher / "history.csv")[0]["epoch"] == 1
    (tmp_path / "history.csv").write_text(text.replace("val_loss", "val_lost"))
    with pytest.raises(step1.UserError, match="damaged.*val_loss"):
        step1.read_history(tmp_path / "history.csv")


def test_backup_that_was_damaged_is_refused(tmp_path):
    tiny_training(tmp_path / "run", 2)
    weights, = (tmp_path / "run" / "backup").glob("*.npy")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(step1.UserError, match="missing, or not what its run wrote. Delete"):
        tiny_training(tmp_path / "run", 3)


@pytest.mark.parametrize("name", ["model.keras", "x.npy", "truth.csv"])
def test_forged_file_is_refused_in_one_line(name, teacher, pseudo, toy, tmp_path):
    """The record vouches for it, as in a stranger's folder, and still nothing but a UserError comes of it."""
    source, folder, rng, refused = {"model.keras": teacher, "x.npy": pseudo, "truth.csv": toy}[name], tmp_path / "stranger", random.Random(0), 0
    folder.mkdir()
    record = step1.read_json(source / "run.json") if name != "truth.csv" else None
    for other in ("y.npy", "index.npy"):
        if name == "x.npy":
            (folder / other).write_bytes((source / other).read_bytes())
    data, whole = step1.load_data(str(toy), 80), (source / name).read_bytes()
    for number in range(40):
        damaged = bytearray(whole[:rng.randrange(len(whole))] if number % 2 else whole)
        for _ in range(number):
            damaged[rng.randrange(min(len(damaged), 2000)) if damaged else 0:][:1] = b"\xff"
            if damaged:
                damaged[rng.randrange(min(len(damaged), 500))] = rng.randrange(256)
        (folder / name).write_bytes(damaged)
        if record and name == "x.npy":
            record["sha256"]["x"] = step1.sha256(folder / name)
        elif record:
            record["model_sha256"] = step1.sha256(folder / name)
        if record:
            step1.write_json(folder / "run.json", record)
        try:
            if name == "model.keras":
                step1.load_model(folder)
            elif name == "x.npy":
                step2.load_pseudo(folder, data)
            else:
                step2.read_truth(folder / name, data.class_names)
        except step1.UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 10


def test_hostile_files_are_all_accounted_for(teacher, tmp_path):
    pool = tmp_path / "pool"
    pool.mkdir()
    step1.Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(pool / "fine.png")
    fine = (pool / "fine.png").read_bytes()
    for name in ("new\nline.png", 'a,"b".png'):
        (pool / name).write_bytes(fine)
    with open(os.fsencode(pool) + b"/\xff\xfe.png", "wb") as file:
        file.write(fine)
    (pool / "huge.png").write_bytes(fine[:16] + b"\x7f\xff\xff\xff\x7f\xff\xff\xff" + fine[24:])
    os.mkfifo(pool / "pipe.png")
    os.symlink("nowhere", pool / "dangling.png")
    os.symlink("/dev/zero", pool / "device.png")
    step2.main([str(pool), "--teacher", str(teacher), "--threshold", "0", "--out", str(tmp_path / "out")])
    with open(tmp_path / "out" / "images.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        status = {row["path"]: row["status"] for row in csv.DictReader(file)}
    readable = {"fine.png", "new\nline.png", 'a,"b".png', "\udcff\udcfe.png"}
    assert status == {**dict.fromkeys(readable, "kept"), **dict.fromkeys(("huge.png", "pipe.png", "dangling.png", "device.png"), "unreadable")}
