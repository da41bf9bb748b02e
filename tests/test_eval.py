"""The table: intervals that are right, cells that are recognised, and a network that looks once."""

import eval as step5

import cifar10_resnet50 as step1

import numpy as np
import pytest


def test_wilson_interval_by_hand():
    # Newcombe 1998, table I: 81 of 263 and 15 of 148; 0 of 20 and 1 of 29
    for right, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):
        assert step5.wilson_interval(right, n) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))
    assert step5.wilson_interval(20, 20)[1] == 1
    for right, n in ((5, 4), (-1, 4), (0, 0)):
        with pytest.raises(ValueError):
            step5.wilson_interval(right, n)


def test_cells_and_the_articles_numbers():
    teacher = {"noise": "none", "pseudo": None}
    student = {"noise": "all", "pseudo": teacher}
    assert step5.CELLS[step5.cell_key(teacher)][1:] == (0.8839, 0.8177)
    assert step5.CELLS[step5.cell_key(student)][1:] == (0.9394, 0.2470)
    assert step5.CELLS[step5.cell_key({"noise": "all", "pseudo": {"noise": "all", "pseudo": None}})][1:] == (0.9428, 0.2289)
    assert step5.CELLS[step5.cell_key({"noise": "none", "pseudo": teacher})][1:] == (None, None)
    second = step5.cell_key({"noise": "all", "pseudo": student})
    assert second not in step5.CELLS and "student: pseudo-labels, noise" in step5.cell_name(second)
    assert step5.cell_name(("input", None)) == "noise input, labels alone"


def test_table_and_pictures(teacher, toy, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    step5.main([str(teacher), "--out", str(tmp_path / "figures")])
    out, row = capsys.readouterr().out, step1.read_json(tmp_path / "figures" / "results.json")[0]
    record = step1.read_json(teacher / "run.json")
    assert row["accuracy"] == record["test_accuracy"] and row["cross_entropy"] == pytest.approx(record["test_loss"], rel=1e-5)
    assert "88.39 %, 0.8177" in out and f"{100 * row['accuracy']:.2f} %" in out
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "results.md", "results.json", "accuracy.png", "learning_curves.png", "confusion.png"}

    def load_model(*_):
        raise AssertionError("the network ran a second time")

    monkeypatch.setattr(step1, "load_model", load_model)
    step5.main([str(teacher), "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "results.md").read_text() == (tmp_path / "figures" / "results.md").read_text()


def test_damaged_predictions_are_made_again(teacher, toy, tmp_path, capsys):
    data = step1.load_data(str(toy))
    whole = step5.predict(teacher, data)
    (teacher / "predictions.npz").write_bytes(b"PK\x03\x04 broken")
    assert (step5.predict(teacher, data) == whole).all() and "damaged" in capsys.readouterr().out
    assert whole.shape == (40, 10) and whole.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_runs_that_do_not_compare(teacher, pseudo, tmp_path):
    with pytest.raises(step1.UserError, match="not a training run"):
        step5.evaluate([pseudo])
    with pytest.raises(step1.UserError, match="Run first"):
        step5.evaluate([tmp_path / "nothing"])
    other = tmp_path / "other"
    record = step1.read_json(teacher / "run.json")
    record["made_from"]["data_sha256"] = "0" * 64
    step1.write_json(other / "run.json", record)
    with pytest.raises(step1.UserError, match="other data than"):
        step5.evaluate([teacher, other])


def test_confusion_counts(tmp_path, toy, teacher):
    data = step1.load_data(str(toy))
    perfect = np.eye(10, dtype=np.float32)[data.y_test]
    rows = [{"run": "r", "accuracy": 1.0}]
    step5.draw_confusion(rows, [perfect], data, tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 5000
