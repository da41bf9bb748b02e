"""Runs that are killed or interrupted. benchmarks/soak.py is the long version."""

import contextlib
import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import make_toy
import pytest
from conftest import PROGRAMS, ROOT, TINY, label, train_teacher

import cifar10_resnet50 as step1

# A student's layers must be known to load it.
import stochastic_resblock  # noqa: F401
from noisy_student import runs
from noisy_student.files import sha256
from noisy_student.training import read_history

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


# --- a training that is killed --------------------------------------------------------------------


def kill_training(step, epoch, share, *words, backend="tensorflow"):
    """Runs the program until it kills itself after `epoch`; 0: until it is done."""
    environment = ENVIRONMENT | {"KERAS_BACKEND": backend}
    words = [str(word) for word in (step, epoch, share, *words)]
    result = subprocess.run([sys.executable, PROGRAMS / "killed_training.py", *words],
                            env=environment, capture_output=True, text=True)
    assert result.returncode == (-signal.SIGKILL if epoch else 0), result.stderr[-3000:]
    return result.stdout


def what_is_left(folder):
    """All that a training must leave the same, however often it was killed."""
    networks = [runs.load_network(folder / name) for name in ("model.keras", "best.keras")]
    weights = [weight for network in networks for weight in network.get_weights()]
    assert runs.read(folder).finished and not (folder / runs.BACKUP).exists()
    return [sha256(*weights), (folder / "history.csv").read_text(),
            sha256(folder / "predictions.npz")]


def test_training_that_is_killed_ends_as_if_it_had_not_been(toy, tmp_path, monkeypatch, capsys):
    words = ["--data", toy, "--num-labeled", 80, *TINY, "--recipe", "article", "--epochs", 8,
             "--learning-rate", 0.02, "--log-dir"]
    monkeypatch.setattr(step1, "CONSTANT_SHARE", 1 / 8)
    train_teacher(*words, tmp_path / "whole")
    kill_training("teacher", 5, 1 / 8, *words, tmp_path / "killed")
    # One epoch ahead of the weights.
    assert len(read_history(tmp_path / "killed" / "history.csv")) == 5
    assert not (tmp_path / "killed" / "model.keras").exists()
    capsys.readouterr()
    train_teacher(*words, tmp_path / "killed")
    assert "after epoch 4 of 8" in capsys.readouterr().out
    assert what_is_left(tmp_path / "killed") == what_is_left(tmp_path / "whole")
    rates = [row["learning_rate"] for row in read_history(tmp_path / "killed" / "history.csv")]
    # The brakes had counted before the kill, and went on counting after it.
    assert len(rates) == 8 and rates[4] == rates[0] > rates[-1]


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_go_on_to_the_bit_too(backend, toy, tmp_path):
    pytest.importorskip(backend)
    # With one channel, a convolution of PyTorch's oneDNN writes past the end of its memory.
    words = ["--data", toy, "--pseudo", "none", *TINY, "--width", 0.0625, "--averaging", 0.1,
             "--log-dir"]
    kill_training("student", 0, 1, *words, tmp_path / "whole", backend=backend)
    kill_training("student", 2, 1, *words, tmp_path / "killed", backend=backend)
    said = kill_training("student", 0, 1, *words, tmp_path / "killed", backend=backend)
    assert "after epoch 1 of 2" in said
    assert runs.read(tmp_path / "killed").versions["backend"] == backend
    assert what_is_left(tmp_path / "killed") == what_is_left(tmp_path / "whole")


# --- a labelling that is killed or interrupted ----------------------------------------------------


def living(group):
    """Processes of a process group that are alive, workers and all."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rsplit(")", 1)[1].split()[:3]
            if int(its_group) == group and state not in "ZX":
                found.append(int(path.parent.name))
    return found


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def labelling(toy, own_network, tmp_path):
    """Words of step 2 for 9,000 files: the 60 pictures, 150 times."""
    if not os.path.isdir("/proc"):
        pytest.skip("there is no /proc to see processes in")
    (tmp_path / "pool").mkdir()
    for path in (toy / "unlabeled").iterdir():
        for i in range(150):
            (tmp_path / "pool" / f"{i}-{path.name}").symlink_to(path)
    return [tmp_path / "pool", "--threshold", 0.5, "--per-class-cap", 40,
            "--teacher", own_network, "--classes", *make_toy.SHAPES, "--out"]


def start_labelling(*words):
    """Begins step 2 in a process group of its own."""
    words = [sys.executable, ROOT / "imagenet_dummy_label.py", *map(str, words)]
    # A process that was begun in the background would ignore the interrupt.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(words, env=ENVIRONMENT, text=True, start_new_session=True,
                            preexec_fn=heed,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def first_labels(folder):
    """Whether some images are labelled."""
    with contextlib.suppress(OSError):
        return (folder / ".unfinished-seen.csv").stat().st_size > 0


def kill_labelling(folder, *words):
    """Kills step 2 at its first labels, and waits for its workers to end by themselves.

    Returns: how many processes there were.
    """
    process = start_labelling(*words)
    wait_until(lambda: first_labels(folder) or process.poll() is not None)
    at_work = len(living(process.pid))
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL and not runs.read(folder).finished
    wait_until(lambda: not living(process.pid), seconds=15)
    return at_work


def test_labelling_that_is_killed_ends_as_if_it_had_not_been(labelling, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert kill_labelling(killed, *labelling, killed, "--workers", 3) > 3
    assert kill_labelling(killed, *labelling, killed, "--workers", 1) == 1
    label(*labelling, killed, "--workers", 2)
    label(*labelling, whole)
    for name in ("x.npy", "y.npy", "index.npy", "images.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.parametrize("moment", ["workers start", "workers work"])
def test_ctrl_c_is_one_line(moment, labelling, tmp_path):
    process = start_labelling(*labelling, tmp_path / "out", "--workers", 2)
    if moment == "workers start":
        # The script, two processes that clean up after workers, and a worker that has not begun.
        wait_until(lambda: len(living(process.pid)) >= 4)
        time.sleep(0.1)
    else:
        wait_until(lambda: first_labels(tmp_path / "out"))
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert said == ("\ninterrupted; the same command goes on (a training after its last finished "
                    "epoch)\n")
    assert process.returncode == 130
    wait_until(lambda: not living(process.pid), seconds=15)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", "run.json"}
