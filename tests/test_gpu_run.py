"""benchmarks/gpu.py: what is done in which time, what is kept, and all of it in a few steps."""

import json
import os
import pathlib
import subprocess
import sys
import tarfile
import time
from types import SimpleNamespace

import pytest
from conftest import ROOT, load_benchmark


@pytest.fixture
def gpu():
    return load_benchmark("gpu")


@pytest.fixture
def setting(gpu, tmp_path):
    return gpu.Setting("labelled", "photos.tar", tmp_path)


def done_in_turn(gpu, setting, seconds, monkeypatch, only=None, **stages):
    """Which pieces are done, and in how many seconds at most; each takes what is expected."""
    done, spent = {}, 0

    def do(piece, limit):
        nonlocal spent
        spent += piece.seconds
        done[piece.name] = round(limit)

    def stage_of(name, times):
        return lambda setting, left: (gpu.Piece(f"{name}{time}", [], time) for time in times)

    monkeypatch.setattr(gpu, "STAGES", {
        stage_of(name, times): share for name, (share, times) in stages.items()})
    gpu.work_down(setting, seconds, lambda: spent, do, only)
    return done


def test_what_a_stage_leaves_goes_to_the_next(gpu, setting, monkeypatch):
    done = done_in_turn(gpu, setting, 100, monkeypatch, a=(0.3, [10]), b=(0.5, [60]), c=(0, [5]))
    assert done == {"a10": 30, "b60": 70, "c5": 30}


def test_what_takes_longer_than_there_is_time_is_not_begun(gpu, setting, monkeypatch):
    done = done_in_turn(gpu, setting, 100, monkeypatch, a=(0.3, [31, 20, 11, 10]), b=(0.7, [70]))
    assert done == {"a20": 30, "a10": 10, "b70": 70}


def measured(setting, case, **speeds):
    result = {"rates": {name: [rate] for name, (_, rate) in speeds.items()},
              "preparation": {name: seconds for name, (seconds, _) in speeds.items()}}
    path = setting.out / f"speed-{case}-bfloat16-{setting.batch}.json"
    path.write_text(json.dumps({"result": result}))


def test_only_some_pieces_have_all_of_the_time(gpu, setting, monkeypatch):
    done = done_in_turn(gpu, setting, 100, monkeypatch, a=(0.3, [31, 20]), b=(0.7, [60]),
                        only=["b", "a3"])
    assert done == {"a31": 100, "b60": 69}


def test_a_piece_that_there_is_not_is_named(gpu, setting, monkeypatch):
    with pytest.raises(gpu.UserError, match="--only c: no piece begins so; there are a31, b60"):
        done_in_turn(gpu, setting, 100, monkeypatch, a=(0.3, [31]), b=(0.7, [60]), only=["b", "c"])


def test_the_article_has_the_epochs_that_fit(gpu, setting):
    measured(setting, "article", JAX=(60, 9000), PyTorch=(10, 4500))
    # Two starts, three other commands, and of each of three trainings: 10 + 3 seconds an epoch.
    assert gpu.article_epochs(setting, 106) == (1, 104, "torch")
    assert gpu.article_epochs(setting, 190) == (3, 182, "torch")
    epochs, seconds, backend = gpu.article_epochs(setting, 2000)
    # 120 + 45 + 24 seconds an epoch.
    assert (epochs, seconds, backend) == (76, 1989, "jax")
    # What was begun goes on as it was begun.
    teacher = setting.out / "article" / "seed0" / "teacher"
    teacher.mkdir(parents=True)
    (teacher / "run.json").write_text(json.dumps(
        {"arguments": {"epochs": 3}, "versions": {"backend": "torch"}}))
    assert gpu.article_epochs(setting, 2000) == (3, 2000, "torch")


def test_a_dry_run_and_another_one_are_kept_apart(gpu, tmp_path):
    (tmp_path / "about.json").write_text('{"jpeg": false}')
    args = SimpleNamespace(minutes=1, dry_run=True)
    gpu.describe_machine(args, tmp_path, tmp_path / "machine.json")
    args.dry_run = False
    with pytest.raises(gpu.UserError, match="a dry run and another one do not go together"):
        gpu.describe_machine(args, tmp_path, tmp_path / "machine.json")


def python(gpu, program, name="piece"):
    return gpu.Piece(name, ["-c", program], 1, backend="tensorflow")


def test_a_finished_piece_says_what_it_measured_and_is_not_done_again(gpu, setting):
    for value in (1, 2):
        # Python's own warnings may come last.
        program = f'''print("hello"); print('{{"value": {value}}}'); print("warning")'''
        gpu.run_piece(python(gpu, program), setting, 60)
    kept = json.loads((setting.out / "piece.json").read_text())
    assert (kept["ended"], kept["result"]) == ("done", {"value": 1})
    assert kept["last_lines"] == ["hello", '{"value": 1}', "warning"]


def test_a_piece_that_fails_is_kept_as_failed_and_tried_again(gpu, setting):
    for program, ended in (("raise SystemExit('no memory')", "failed"), ("print(1)", "done")):
        gpu.run_piece(python(gpu, program), setting, 60)
        assert json.loads((setting.out / "piece.json").read_text())["ended"] == ended


def test_a_piece_is_stopped_with_all_it_has_started(gpu, setting, monkeypatch):
    pid = setting.out / "pid"

    class Impatient(subprocess.Popen):
        """Its time is over as soon as it has started a process of its own."""

        def wait(self, timeout=None):
            if timeout is None:
                return super().wait()
            while not pid.exists():
                assert self.poll() is None
                time.sleep(0.01)
            raise subprocess.TimeoutExpired(self.args, timeout)

    monkeypatch.setattr(gpu.subprocess, "Popen", Impatient)
    gpu.run_piece(python(gpu, "import os, pathlib, subprocess, time\n"
                         "child = subprocess.Popen(['sleep', '600'])\n"
                         f"pathlib.Path({str(pid)!r} + '.new').write_text(str(child.pid))\n"
                         f"os.rename({str(pid)!r} + '.new', {str(pid)!r})\n"
                         "time.sleep(600)"), setting, 1)
    assert json.loads((setting.out / "piece.json").read_text())["ended"] == "stopped"
    state = pathlib.Path("/proc", pid.read_text(), "stat")

    def alive():
        try:
            return state.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
        except OSError:
            return False

    # A signal takes its moment.
    for _ in range(500):
        if alive():
            time.sleep(0.02)
    assert not alive()


def test_the_archive_holds_all_but_networks_and_images(gpu, setting, tmp_path):
    run = setting.out / "article" / "seed0" / "teacher"
    run.mkdir(parents=True)
    for name in ("run.json", "history.csv", "predictions.npz", "model.keras", "backup.npz"):
        (run / name).write_text(name)
    archive = tmp_path.parent / f"{tmp_path.name}.tgz"
    gpu.run_piece(python(gpu, "print(1)"), setting, 60, archive)
    with tarfile.open(archive) as file:
        files = {pathlib.Path(member.name).name for member in file if member.isfile()}
    assert files == {"run.json", "history.csv", "predictions.npz", "piece.json", "piece.log"}


@pytest.mark.slow
def test_dry_run_finishes_every_piece_and_makes_its_tables(tmp_path):
    out, results = tmp_path / "gpu", tmp_path / "results"
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py"]
    said = subprocess.run([*command, "--dry-run", "--out", out], text=True, check=True,
                          stdout=subprocess.PIPE, env=os.environ | {"KERAS_HOME": str(tmp_path)})
    assert "| article" in said.stdout.partition("Expected of a card in 9 minutes")[2]
    pieces = [json.loads(path.read_text()) for path in out.glob("*.json")]
    ended = {piece["piece"]: piece["ended"] for piece in pieces if "piece" in piece}
    assert {"rand_augment", "stall-small", "all-labels", "article", "labels-4000"} < ended.keys()
    assert set(ended.values()) == {"done"}
    subprocess.run([*command, "--table", out, results], check=True)
    for name in ("all-labels", "article", "labels-4000"):
        assert "student of the noisy teacher" in (results / name / "results.md").read_text()
    assert "of a large matrix product's" in (results / "README.md").read_text()
