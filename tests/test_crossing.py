"""benchmarks/crossing.py and keep.py, on the published runs with 500 labels."""

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import ROOT, load_benchmark

from noisy_student import runs
from noisy_student.files import UserError, sha256


@pytest.fixture
def crossing():
    return load_benchmark("crossing")


def test_a_series_has_the_gain_that_the_published_table_has(crossing, tmp_path):
    series, ceilings = crossing.load_series([ROOT / "results" / "real" / "runs"])
    assert not ceilings
    (title, [point]), = series.items()
    labels, pair, answer = point
    assert (title, labels, sorted(pair[0])) == ("resnet, width 0.125", 500, [0, 1, 2])
    # results/real/README.md: by 3.5 points (1.7 to 5.2).
    rounded = [round(value, 1) for value in (answer.points, answer.low, answer.high)]
    assert rounded == [3.5, 1.7, 5.2]
    row = crossing.row_of(title, point)
    # 10,000 steps of 64 images.
    assert row[-3:] == ["10,000", "640,000", "1,280"]
    assert crossing.draw_gain(series, tmp_path / "gain.png").exists()


def test_all_true_labels_are_the_ceiling_of_as_many_steps(crossing):
    runs = ROOT / "results" / "crossing" / "runs"
    series, ceilings = crossing.load_series([runs / "4000-labels", runs / "all-labels"])
    assert set(series) == set(ceilings) == {"small, width 0.25"}
    ceiling = ceilings["small, width 0.25"]
    # 68.75, 62.01 and 67.24 %.
    assert (round(ceiling.accuracy, 2), ceiling.steps) == (66.0, 352)
    assert sorted(ceiling.teachers) == [0, 1, 2]
    # 65.65 % with 3,600 labels.
    sentence = crossing.sentence_of("small", ceiling, series["small, width 0.25"])
    assert "66.00 ± 3.54 %" in sentence and "3,600 labels alone? Not shown: +0.3" in sentence


def test_a_noisy_teacher_with_few_labels_is_no_ceiling(crossing, tmp_path):
    kept = ROOT / "results" / "crossing" / "runs" / "1000-labels"
    shutil.copytree(kept / "seed0" / "noisy_teacher", tmp_path / "seed0" / "noisy_teacher")
    series, ceilings = crossing.load_series([kept, tmp_path])
    (points,) = series.values()
    assert len(points) == 1 and not ceilings


def test_a_folder_without_the_two_cells_is_named(crossing, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: no noisy teacher with its student"):
        crossing.load_series([tmp_path])


def test_a_run_that_is_kept_says_the_same_in_less_room(tmp_path):
    kept = ROOT / "results" / "real" / "runs" / "500-labels" / "seed0" / "teacher"
    run = runs.read(kept)
    before = tmp_path / "logs" / "seed0" / "teacher"
    before.mkdir(parents=True)
    (before / "history.csv").write_bytes((kept / "history.csv").read_bytes())
    (before / "model.keras").write_bytes(b"large")
    copy = replace(run, folder=str(before), sha256={
        "history.csv": sha256(before / "history.csv")})
    copy.save_predictions(test=run.predictions("test"), validation=run.predictions("validation"))
    copy.sha256["predictions.npz"] = sha256(before / "predictions.npz")
    copy.save()
    subprocess.run([sys.executable, ROOT / "benchmarks" / "keep.py", tmp_path / "logs",
                    tmp_path / "kept"], check=True)
    after = tmp_path / "kept" / "seed0" / "teacher"
    assert sorted(path.name for path in after.iterdir()) == [
        "history.csv", "predictions.npz", "run.json"]
    assert (after / "predictions.npz").stat().st_size * 1.5 < (
        before / "predictions.npz").stat().st_size
    p, y = runs.read(after).predictions("test")
    q, t = copy.predictions("test")
    assert (y == t).all() and (p.argmax(axis=1) == q.argmax(axis=1)).all()
    assert abs(p - q).max() < 1e-3
    # What is not what the run wrote is not kept as if it were.
    (before / "predictions.npz").write_bytes(b"others")
    again = subprocess.run([sys.executable, ROOT / "benchmarks" / "keep.py", tmp_path / "logs",
                            tmp_path / "again"], capture_output=True, text=True)
    assert again.returncode == 1 and "predictions.npz" in again.stderr
    assert not list(tmp_path.glob("again/**/run.json"))
