"""The table and its answers: differences by hand, cells that are told apart, and the whole step."""

import contextlib
import io
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from browser import look
from conftest import TINY, evaluate, train_student

import eval as step5
import experiment
from noisy_student import arguments, cells, figures, files, runs, tables
from noisy_student.data import CIFAR10
from noisy_student.training import write_history

CHOSEN = {"seed": 0, "depth": 14, "width": 1.0, "num_labeled": 100, "validation": "split",
          "recipe": "fast", "batch_size": 8, "epochs": 2, "steps_per_epoch": 5,
          "learning_rate": 0.1, "early_stopping": 0}
NOISE = {"noise": "all", "dropout": 0.5, "p_last": 0.8, "augment_ops": 2, "augment_magnitude": 10,
         "flip_and_crop": "never", "labeled_share": None}
LABELLING = {"threshold": 0.75, "keep_share": None, "images": ["photos", "rest"], "hard": False,
             "calibrate": False, "no_balance": False}


def taught(seed=0, depth=14, **labelling):
    """What run.json says of a student's labels."""
    return {"labelling": LABELLING | labelling,
            "teacher": {"arguments": CHOSEN | {"seed": seed, "depth": depth}, "taught_by": None}}


def as_the_experiment_does(name):
    """What run.json says of a cell: its arguments and how it was taught."""
    def settings(flags):
        words = flags.replace("-", "_").split("__")[1:]
        return dict((word.split() + [True])[:2] for word in words)

    cell = experiment.CELLS[name]
    said = CHOSEN | NOISE | settings(cell.flags) | {"depth": 26 if cell.flags == "{larger}" else 14}
    if not cell.labels:
        return said, None
    labels = experiment.LABELS[cell.labels]
    labelling = LABELLING | settings(labels.flags)
    if "threshold" in labelling:
        labelling["threshold"] = float(labelling["threshold"])
    said_of, taught_by = as_the_experiment_does(labels.teacher)
    return said, {"labelling": labelling, "teacher": {"arguments": said_of, "taught_by": taught_by}}


def a_run(folder, right, seed=0, taught_by=None, class_names=("cat", "dog"), **chosen):
    """The folder of a finished training that is right where `right` is 1, and sure by 0.8."""
    y = np.arange(len(right)) % 2
    answer = np.where(np.asarray(right, dtype=bool), y, 1 - y)
    said = np.full((len(y), len(class_names)), 0.2 / (len(class_names) - 1), dtype=np.float32)
    said[np.arange(len(y)), answer] = 0.8
    noise = {} if folder.name == "teacher" else NOISE
    learnt = {"pseudo_sha256": files.sha256(repr(taught_by).encode())} if taught_by else {}
    run = runs.Run(str(folder), "x.py", CHOSEN | noise | {"seed": seed} | chosen,
                   {"data": "toy", "data_sha256": "of the data", **learnt}, taught_by)
    run.save_predictions(test=(said, y), validation=(said, y))
    write_history(run.path("history.csv"), [
        {"epoch": epoch, "loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5,
         "learning_rate": 0.1} for epoch in (1, 2)])
    run.finish(test_loss=1.0, test_accuracy=float(np.mean(right)), seconds=60.0,
               steps=5 * run.arguments["epochs"], class_names=list(class_names))
    return run


def cells_of(folder):
    """What eval.py makes of the runs below a folder."""
    return cells.load_cells([str(folder)], experiment.CELLS, experiment.LABELS)[0]


def a_cell(*right):
    """{seed: Measured}, as far as contrast() looks."""
    return {seed: SimpleNamespace(right=np.array(row, dtype=bool))
            for seed, row in enumerate(right)}


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing them takes seconds."""
    monkeypatch.setattr(figures, "draw_all", lambda *_: [])


# --- answers --------------------------------------------------------------------------------------


def test_a_difference_by_hand():
    first = a_cell([1, 1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0])
    second = a_cell([1, 0, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0], [1] * 8)
    answer = step5.contrast("?", (-1, 1), [first, second])
    # What only one of them has is not compared.
    assert answer.seeds == [0, 1]
    assert answer.per_seed == pytest.approx([25, 25]) and answer.points == pytest.approx(25)
    # 1 against 3, 0 against 2.
    assert answer.mcnemar == pytest.approx([2 * (1 + 4) / 16, 2 / 4])
    assert answer.low < 25 < answer.high and answer.high - answer.low > 25
    assert step5.contrast("?", (-1, 1), [first, {7: second[2]}]) is None


def test_two_by_two_by_hand(tmp_path):
    right = {"teacher": 5, "noisy_teacher": 6, "student_without_noise": 7, "student": 9}
    for name, count in right.items():
        said, taught_by = as_the_experiment_does(name)
        a_run(tmp_path / name, [1] * count + [0] * (10 - count), taught_by=taught_by, **said)
    _, (noise, pseudo, interaction) = step5.ask(cells_of(tmp_path))
    assert noise.points == pytest.approx(((60 - 50) + (90 - 70)) / 2)
    assert pseudo.points == pytest.approx(((70 - 50) + (90 - 60)) / 2)
    assert interaction.points == pytest.approx((90 - 60) - (70 - 50)) and interaction.mcnemar == []
    shutil.rmtree(tmp_path / "student")
    assert step5.ask(cells_of(tmp_path))[1] == []


@pytest.mark.parametrize("points, low, high, seeds, holm, words", [
    (2.1, 1.6, 2.7, 2, True, "yes, by 2.1 points (1.6 to 2.7), with Holm too"),
    (2.1, 1.6, 2.7, 2, False, "yes, by 2.1 points (1.6 to 2.7)"),
    (-2.1, -2.7, -1.6, 3, False, "no, the opposite: -2.1 points (-2.7 to -1.6)"),
    (0.3, -0.4, 1.0, 2, False, "not shown: +0.3 points (-0.4 to +1.0)"),
    # What is just off 0 does not read as 0.
    (0.4, 0.02, 0.8, 3, False, "yes, by 0.4 points (0.02 to 0.8)"),
    (-0.4, -0.8, -0.02, 3, False, "no, the opposite: -0.4 points (-0.8 to -0.02)"),
    (2.1, 1.6, 2.7, 1, False, "one seed, so nothing is shown: these networks differ by "
                              "+2.1 points (+1.6 to +2.7)")])
def test_answers_in_words(points, low, high, seeds, holm, words):
    answer = step5.Answer("?", [*range(seeds)], points, low, high, 0.01, [points] * seeds, [], holm)
    assert str(answer) == words and answer.shown == words.startswith(("yes", "no,"))


def test_accuracy_of_each_class_is_a_mean_over_seeds(tmp_path):
    # Cats are the even images.
    a_run(tmp_path / "0" / "teacher", [1, 0, 1, 0, 0, 1, 1, 1])
    a_run(tmp_path / "1" / "teacher", [1, 0, 1, 1, 1, 1, 1, 1], seed=1)
    a_run(tmp_path / "noisy_teacher", [1, 1, 1, 1, 1, 1, 1, 0])
    _, head, rows = tables.class_table(cells_of(tmp_path))
    assert head == ["class", "images", "teacher", "noisy teacher"]
    assert rows == [["cat", "4", "87.5", "100.0"], ["dog", "4", "62.5", "75.0"]]


def test_a_class_without_test_images_has_no_accuracy(tmp_path):
    a_run(tmp_path / "teacher", [1, 0], class_names=("cat", "dog", "eel"))
    assert tables.class_table(cells_of(tmp_path))[2][2] == ["eel", "0", "-"]


def test_what_a_cell_was_made_with_is_what_its_runs_say(tmp_path):
    for seed, (images, commit) in enumerate([(90, "abc"), (88, "def-dirty")]):
        run = a_run(tmp_path / f"{seed}" / "teacher", [1, 0], seed)
        run.versions = {"keras": "3", "commit": commit, "hardware": "my card"}
        run.results["images"] = images
        run.save()
    # Of older runs less is known.
    a_run(tmp_path / "noisy_teacher", [1, 0])
    _, head, rows = tables.made_table(cells_of(tmp_path), str)
    # Two epochs of five batches of eight.
    assert [row[1:] for row in rows] == [
        ["88 to 90", "80", "my card", "abc; def-dirty", "keras 3"], ["-", "80", "-", "-", ""]]


@pytest.mark.parametrize("gains, stands", [((0.20, 0.21, 0.20), True),
                                           # p is 0.04: enough for one question, not for three.
                                           ((0.10, 0.12, 0.19), False)])
def test_answers_that_stand_together_are_marked(gains, stands, tmp_path):
    images = np.random.default_rng(0).permutation(2000)
    for seed, gain in enumerate(gains):
        a_run(tmp_path / f"{seed}" / "teacher", images < 800, seed)
        a_run(tmp_path / f"{seed}" / "noisy_teacher", images < 800 + 2000 * gain, seed)
        a_run(tmp_path / f"{seed}" / "student", images < 800 + 4000 * gain, seed, taught(seed))
    answers, _ = step5.ask(cells_of(tmp_path))
    assert [answer.shown for answer in answers] == [True] * 3
    assert [answer.holm for answer in answers] == [stands] * 3


def test_one_seed_is_neither_shown_nor_counted(tmp_path):
    for name, share in (("teacher", 0), ("noisy_teacher", 0.9)):
        a_run(tmp_path / name, np.arange(1000) < 1000 * share)
    (answer,), _ = step5.ask(cells_of(tmp_path))
    assert answer.low > 80 and not answer.shown and not answer.holm


def test_calibration_by_hand(tmp_path):
    # 0.6 are right where 0.8 is said: a temperature of log 4 / log 1.5 says 0.6.
    measured = cells.measure(a_run(tmp_path / "teacher", [1, 1, 1, 0, 0] * 80))
    assert measured.temperature == pytest.approx(np.log(4) / np.log(1.5), rel=0.01)
    assert measured.ece == pytest.approx(0.2, abs=1e-3)
    assert measured.calibrated_ece == pytest.approx(0, abs=2e-3)
    assert measured.loss == pytest.approx(-0.6 * np.log(0.8) - 0.4 * np.log(0.2), abs=1e-3)
    assert measured.calibrated_loss < measured.loss
    # Nothing is left to fit a temperature on.
    leaky = a_run(tmp_path / "leaky", [1, 1, 1, 0, 0], validation="test")
    assert cells.measure(leaky).fitted is None and cells.measure(leaky).temperature == 1


def test_a_temperature_that_is_not_determined_is_marked(tmp_path, no_pictures):
    # Half of the answers are right, or three quarters, where 0.8 is said.
    for right, marked in (([1, 1, 0, 0], True), ([1, 1, 1, 0], False)):
        a_run(tmp_path / "teacher", right * 50)
        evaluate(tmp_path / "teacher", "--out", tmp_path)
        assert ("(undetermined)" in (tmp_path / "results.md").read_text()) == marked


def test_every_question_is_asked_in_order_and_none_warns(tmp_path, capsys):
    for name in experiment.CELLS:
        said, taught_by = as_the_experiment_does(name)
        a_run(tmp_path / name, [1, 0], taught_by=taught_by, **said)
    answers, effects = step5.ask(cells_of(tmp_path))
    assert [answer.question for answer in answers] == list(experiment.QUESTIONS)
    assert [effect.question for effect in effects] == list(step5.EFFECTS)
    assert capsys.readouterr().out == ""


def test_a_question_is_one_line_and_a_cell_too(tmp_path, monkeypatch, no_pictures):
    for name, right in (("teacher", [1, 0, 1, 0]), ("mine", [1, 1, 1, 1])):
        a_run(tmp_path / name, right)
    monkeypatch.setitem(experiment.CELLS, "mine", experiment.Cell("my own network", None))
    monkeypatch.setitem(experiment.QUESTIONS, "Is mine better?", ("teacher", "mine"))
    evaluate(tmp_path, "--out", tmp_path / "out")
    said = (tmp_path / "out" / "results.md").read_text()
    assert "| Is mine better? " in said and "| my own network " in said and "+50.0" in said


def test_a_users_own_cell_is_compared_with_its_like(tmp_path):
    a_run(tmp_path / "student", [1, 0, 0, 0], taught_by=taught())
    a_run(tmp_path / "noisy_teacher", [1, 1, 0, 0])
    a_run(tmp_path / "wide", [1, 1, 1, 0], taught_by=taught(), width=2.0)
    a_run(tmp_path / "plain", [1, 1, 1, 1])
    answers, _ = step5.ask(cells_of(tmp_path))
    found = {answer.question: answer.points for answer in answers}
    assert found["Is wide better than the student?"] == pytest.approx(50)
    assert found["Is plain better than the noisy teacher?"] == pytest.approx(50)
    assert len(found) == 3


def test_cells_that_differ_in_more_than_is_asked_are_warned_of(tmp_path, capsys):
    a_run(tmp_path / "teacher", [1, 0])
    a_run(tmp_path / "noisy_teacher", [1, 1], num_labeled=50, epochs=3, dropout=0.1)
    step5.ask(cells_of(tmp_path))
    out = capsys.readouterr().out
    assert "warning: Does noise help, on labels alone? The two cells also differ in " in out
    assert "num_labeled (100 and 50), epochs (2 and 3), steps (10 and 15)" in out
    # It is part of the noise that is asked about.
    assert "dropout" not in out


@pytest.mark.parametrize("changed, words", [
    ({"augment_magnitude": 3}, "also differ in augment_magnitude (10 and 3)"),
    ({"flip_and_crop": "with-noise"}, "also differ in flip_and_crop (False and True)"),
    # A matter of pseudo-labels.
    ({"labeled_share": 0.3}, None)])
def test_noise_is_not_to_differ_where_it_is_not_asked_about(changed, words, tmp_path, capsys):
    a_run(tmp_path / "noisy_teacher", [1, 0])
    a_run(tmp_path / "student", [1, 1], taught_by=taught(), **changed)
    step5.ask(cells_of(tmp_path))
    out = capsys.readouterr().out
    assert words in out if words else out == ""


def test_flags_without_effect_are_no_difference(tmp_path, capsys):
    a_run(tmp_path / "teacher", [1, 0])
    # With-noise, but there is none.
    a_run(tmp_path / "student_without_noise", [1, 1], taught_by=taught(), noise="none",
          flip_and_crop="with-noise", dropout=0.1)
    step5.ask(cells_of(tmp_path))
    assert capsys.readouterr().out == ""


def test_cells_that_do_not_differ_are_warned_of(tmp_path, capsys):
    for name in ("student_of_noisy", "larger_student"):
        said, taught_by = as_the_experiment_does("student_of_noisy")
        a_run(tmp_path / name, [1, 0], taught_by=taught_by, **said)
    step5.ask(cells_of(tmp_path))
    assert "Does a larger student help? The two cells were trained alike" in capsys.readouterr().out


def test_labels_that_do_not_differ_are_warned_of(tmp_path, capsys):
    # All labels are calibrated anyway.
    said, taught_by = as_the_experiment_does("student_calibrated")
    for name in ("student_of_noisy", "student_calibrated"):
        a_run(tmp_path / name, [1, 0], taught_by=taught_by, **said)
    step5.ask(cells_of(tmp_path))
    out = capsys.readouterr().out
    assert "Does calibrating the teacher help? The two cells were trained alike" in out


def test_labels_that_differ_in_more_than_is_asked_are_warned_of(tmp_path, capsys):
    for name, share in (("student_of_noisy", 0.7), ("student_calibrated", None)):
        said, taught_by = as_the_experiment_does(name)
        taught_by["labelling"] = taught_by["labelling"] | {"keep_share": share}
        a_run(tmp_path / name, [1, 0], taught_by=taught_by, **said)
    step5.ask(cells_of(tmp_path))
    out = capsys.readouterr().out
    assert "teacher help? The two cells also differ in label keep_share (0.7 and None)\n" in out
    assert "calibrate (" not in out


def test_cells_of_other_seeds_the_answer_names_those_compared(tmp_path, capsys, no_pictures):
    # The teacher's seeds 0 and 1 happen to be bad ones, and the student's others are missing.
    for seed, share in enumerate((7, 7, 8, 8, 8)):
        a_run(tmp_path / f"seed{seed}" / "teacher", [1] * share + [0] * (10 - share), seed)
    for seed in (0, 1):
        a_run(tmp_path / f"seed{seed}" / "student", [1] * 7 + [0, 1, 0], seed, taught(seed))
    evaluate(tmp_path, "--out", tmp_path)
    out = capsys.readouterr().out
    assert ("warning: Is the noisy student better than its teacher? Seeds [0, 1, 2, 3, 4] and "
            "[0, 1]: only those that both have are compared") in out
    (answer,) = files.read_json(tmp_path / "results.json")["answers"]
    assert answer["seeds"] == [0, 1] and answer["per_seed"] == pytest.approx([10, 10])
    lines = (tmp_path / "results.md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith("| Is the noisy student")]
    assert row.split("|")[3].strip() == "0, 1"
    assert any("| 0, 1, 2, 3, 4 | 10 " in line and "76.00 ± 5.48" in line for line in lines)


# --- cells ----------------------------------------------------------------------------------------


def test_runs_that_differ_only_in_their_seed_are_one_cell(tmp_path, capsys):
    for seed in (2, 0, 1):
        # Where a pool lies may differ from machine to machine.
        a_run(tmp_path / f"seed{seed}" / "student", [1, 0], seed,
              taught(seed, images=[f"{seed}/p"]))
    a_run(tmp_path / "mine" / "first", [1, 0])
    a_run(tmp_path / "seed0" / "teacher", [1, 0])
    cells = cells_of(tmp_path)
    # The experiment's cells in its order, then the user's own.
    assert {name: sorted(cell) for name, cell in cells.items()} == {
        "teacher": [0], "student": [0, 1, 2], "first": [0]}
    assert list(cells) == ["teacher", "student", "first"] and capsys.readouterr().out == ""


@pytest.mark.parametrize("changed, reason", [
    ({"dropout": 0.1}, "differs in dropout (0.5 and 0.1)"),
    ({"taught_by": taught(depth=26)}, "differs in teacher depth (14 and 26)"),
    ({"taught_by": taught(threshold=0.3)}, "differs in label threshold (0.75 and 0.3)"),
    ({"taught_by": taught(images=["rest"])}, "label images (['photos', 'rest'] and ['rest'])"),
    ({"seed": 0}, "left out, seed 0 is there already")])
def test_what_is_left_out_of_a_cell_is_named(changed, reason, tmp_path, capsys):
    a_run(tmp_path / "a" / "student", [1, 0], taught_by=taught())
    other = a_run(tmp_path / "b" / "student", [1, 1],
                  **{"seed": 1, "taught_by": taught(seed=1), **changed})
    assert sorted(cells_of(tmp_path)["student"]) == [0]
    out = capsys.readouterr().out
    assert reason in out and other.folder in out and out.count("\n") == 1


def test_unfinished_runs_are_left_out_aloud(tmp_path, capsys):
    a_run(tmp_path / "teacher", [1, 0])
    half = runs.Run(str(tmp_path / "seed1" / "teacher"), "x.py", CHOSEN | {"seed": 1}, {})
    half.save()
    assert sorted(cells_of(tmp_path)["teacher"]) == [0]
    assert capsys.readouterr().out == f"left out, not finished: {half.folder}\n"
    with pytest.raises(files.UserError, match="no finished training there. Run first: python"):
        cells.find([str(tmp_path / "seed1")], experiment.CELLS)


def test_a_misspelt_folder_beside_a_good_one_is_one_line(tmp_path):
    a_run(tmp_path / "teacher", [1, 0])
    (tmp_path / "empty").mkdir()
    for name, words in (("studnt", "no folder"), ("empty", "holds no run")):
        args = arguments.evaluation("", [str(tmp_path / "teacher"), str(tmp_path / name)])
        with pytest.raises(SystemExit, match=rf"^error: \S*{name}: {words} \(run.json\)[^\n]*$"):
            files.run_script(step5.main, args)


@pytest.mark.parametrize("name, chosen, taught_by, words", [
    ("student", {"noise": "none"}, None, "with --pseudo none, with --noise none"),
    ("student_without_noise", {}, taught(), "with --noise all"),
    ("noisy_teacher", {}, taught(), "with pseudo-labels"),
    ("teacher", NOISE, None, "with --noise all"),
    ("flip_and_crop", {"noise": "none"}, None, "with --flip-and-crop never"),
    ("student_of_noisy", {}, taught(), "on labels of a teacher with --noise none"),
    ("student_hard", {}, as_the_experiment_does("student")[1], "on labels with --hard False"),
    ("second_generation", {}, as_the_experiment_does("student_of_noisy")[1],
     "on labels of a teacher with --pseudo none")])
def test_a_run_that_is_not_what_its_folder_is_called_is_left_out(name, chosen, taught_by, words,
                                                                 tmp_path, capsys):
    a_run(tmp_path / "mine", [1, 0])
    a_run(tmp_path / name, [1, 0], taught_by=taught_by, **chosen)
    assert list(cells_of(tmp_path)) == ["mine"]
    out = capsys.readouterr().out
    assert f"{name} is called {name}, but was trained " in out and words in out


def test_labels_of_a_network_from_elsewhere_are_a_students(tmp_path, capsys):
    a_run(tmp_path / "student", [1, 0], taught_by=taught() | {"teacher": None})
    assert list(cells_of(tmp_path)) == ["student"] and capsys.readouterr().out == ""


def test_labellings_of_one_name_are_merged_only_if_they_are_one(tmp_path, capsys):
    a_run(tmp_path / "teacher", [1, 0])
    for seed, threshold in ((0, 0.75), (1, 0.75), (2, 0.3)):
        run = runs.Run(str(tmp_path / f"seed{seed}" / "pseudo"), "imagenet_dummy_label.py",
                       LABELLING | {"threshold": threshold}, {}, taught(seed)["teacher"])
        run.path("").mkdir(parents=True)
        run.finish(kept=1)
    _, labellings = cells.find([str(tmp_path)])
    assert [run.folder[-12:] for run in labellings["pseudo"]] == ["seed0/pseudo", "seed1/pseudo"]
    assert "seed2/pseudo differs in label threshold (0.75 and 0.3)" in capsys.readouterr().out


def test_runs_on_other_data_are_refused(tmp_path):
    a_run(tmp_path / "teacher", [1, 0])
    other = a_run(tmp_path / "student", [1, 0], taught_by=taught())
    other.made_from["data_sha256"] = "of other data"
    other.save()
    with pytest.raises(files.UserError, match="student was trained on other data than .*teacher"):
        evaluate(tmp_path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name != "posix", reason="such names are for other systems")
def test_a_folders_name_writes_nothing_but_itself(tmp_path, no_pictures, capsys):
    a_run(tmp_path / "noisy_teacher", [1, 0])
    forged = "mine\n| Does noise help? | yes | <img src=x> [a](b) \x1b[2J"
    a_run(tmp_path / forged, [1, 1])
    evaluate(tmp_path, "--out", tmp_path / "out")
    said = (tmp_path / "out" / "results.md").read_text()
    shown = "mine?\\| Does noise help? \\| yes \\| \\<img src=x> \\[a](b) ?\\[2J"
    assert f"| {shown} " in said and "\n| Does noise help" not in said
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("name, damaged", [
    ("predictions.npz", True), ("history.csv", True), ("run.json", True),
    ("predictions.npz", False), ("history.csv", False)])
def test_damaged_files_and_other_runs_files_are_refused_in_one_line(name, damaged, tmp_path):
    run = a_run(tmp_path / "teacher", [1, 0])
    content = run.path(name).read_bytes()
    run.path(name).write_bytes(content[:-20])
    if not damaged:
        other = a_run(tmp_path / "elsewhere", [1, 1])
        write_history(other.path("history.csv"), [{"epoch": 1, "loss": 2.0}])
        run.path(name).write_bytes(other.path(name).read_bytes())
    with pytest.raises(files.UserError, match=name) as error:
        for measured in cells_of(tmp_path)["teacher"].values():
            assert measured.history
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["arguments", "test_accuracy", "steps", "seconds", "class_names",
                                 "validation", "data_sha256"])
def test_record_that_lacks_a_key_is_one_line(key, tmp_path):
    path = a_run(tmp_path / "teacher", [1, 0]).path("run.json")
    path.write_text(path.read_text().replace(f'"{key}"', f'"{key}s"'))
    with pytest.raises(files.UserError, match="run.json: damaged, or .* no '|no finished training"):
        evaluate(tmp_path, "--out", tmp_path / "out")


def test_the_articles_column_is_for_cifar10_alone(tmp_path, no_pictures):
    for names in (CIFAR10, CIFAR10[::-1]):
        a_run(tmp_path / "teacher", [1, 0, 1], class_names=names)
        evaluate(tmp_path, "--out", tmp_path / "out")
        said = (tmp_path / "out" / "results.md").read_text()
        assert ("88.39 %, 0.8177" in said) == ("| article" in said) == (names == CIFAR10)
        shutil.rmtree(tmp_path / "teacher")


def test_pseudo_labels_that_lie_beside_their_student_need_not_be_named(tmp_path, capsys):
    labels = runs.Run(str(tmp_path / "mine"), "imagenet_dummy_label.py", LABELLING, {}, None)
    other = runs.Run(str(tmp_path / "another"), "imagenet_dummy_label.py", LABELLING, {}, None)
    for run, number in ((labels, 1), (other, 2)):
        files.write_arrays(run.path("y.npy"), np.array(number))
        run.finish(kept=1)
    (tmp_path / "zebra").mkdir()
    (tmp_path / "zebra" / "run.json").write_text("damaged")
    student = a_run(tmp_path / "student", [1, 0], taught_by=taught())
    student.made_from["pseudo_sha256"] = labels.labels_sha256
    student.save()
    for folders in ([student.folder], [labels.folder, student.folder]):
        _, labellings = cells.find(folders)
        assert {name: [run.folder for run in made] for name, made in labellings.items()} == {
            "mine": [labels.folder]}
    labels.path("run.json").unlink()
    assert cells.find([student.folder])[1] == {} and capsys.readouterr().out == ""


# --- the whole step -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logs(toy, teacher, pseudo, tmp_path_factory):
    """Teacher, pseudo-labels and a quiet student, copied from elsewhere without the networks."""
    logs = tmp_path_factory.mktemp("experiment")
    quiet = logs / "seed0" / "student_without_noise"
    train_student("--data", toy, "--num-labeled", 80, *TINY, "--pseudo", pseudo,
                  "--noise", "none", "--log-dir", quiet)
    for folder in (teacher, pseudo):
        shutil.copytree(folder, logs / "seed0" / folder.name)
    for path in logs.rglob("*.keras"):
        path.unlink()
    return logs


# Those that need no images, and all.
CHARTS = {"accuracy.png", "answers.png", "learning_curves.png", "confusion.png",
          "pseudo_labels.png"}
PICTURES = {*CHARTS, "student_mistakes.png"}


@pytest.fixture(scope="module")
def step(logs, tmp_path_factory):
    """A folder with figures/ and page.html, and what was printed."""
    out = tmp_path_factory.mktemp("step5")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluate(logs, "--out", out / "figures", "--report", out / "page.html")
    return out, printed.getvalue()


def test_the_numbers_are_those_of_the_training(step, teacher):
    (of_teacher,), (quiet,) = files.read_json(step[0] / "figures/results.json")["cells"].values()
    results = runs.read(teacher).results
    assert of_teacher["accuracy"] == results["test_accuracy"]
    assert of_teacher["loss"] == pytest.approx(results["test_loss"], rel=1e-6)
    # The student takes as many steps, though it has more images.
    assert quiet["steps"] == of_teacher["steps"] == 6


def test_the_tables_are_printed(step, teacher, pseudo):
    accuracy = runs.read(teacher).results["test_accuracy"]
    audit = runs.read(pseudo).results["audit"]["kept"]
    assert f"{100 * accuracy:.2f} (" in step[1]
    assert f"| {100 * audit['precision']:.1f} " in step[1]
    assert f"| {100 * audit['recall']:.1f} " in step[1]


def test_the_answer_is_printed_without_a_warning(step):
    assert "Do pseudo-labels help, without noise?  " in step[1]
    assert "warning" not in step[1] and "left out" not in step[1]


def test_all_pictures_are_drawn(step):
    names = {path.name for path in (step[0] / "figures").iterdir()}
    assert names == {"results.md", "results.json", *PICTURES}


def test_the_page_holds_pictures_and_photos_and_needs_no_network(step, pseudo):
    page, photos = (step[0] / "page.html").read_text(), 1 + (pseudo / "mistakes.png").exists()
    assert page.count("data:image/png;base64,") == len(PICTURES) + photos
    assert "http" not in page and "Do pseudo-labels help, without noise?" in page


def test_the_page_fits_a_desk_and_a_phone(step, tmp_path):
    shutil.copy(step[0] / "page.html", tmp_path / "report.html")
    assert look(tmp_path) == ([[1280, 0, 0], [390, 0, 0]], [])


def test_the_same_again_without_photos(step, logs, tmp_path):
    # What was drawn of other tables does not stay beside these.
    (tmp_path / "robustness.png").touch()
    evaluate(logs, "--out", tmp_path, "--report", tmp_path / "page.html", "--no-photos")
    assert not (tmp_path / "robustness.png").exists()
    assert (tmp_path / "results.md").read_text() == (step[0] / "figures/results.md").read_text()
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == len(CHARTS)


def test_robustness_of_a_network_that_is_missing(logs, tmp_path):
    with pytest.raises(files.UserError, match="model.keras: missing"):
        evaluate(logs, "--out", tmp_path, "--adversarial", "--robust-images", 8)


def test_what_a_labelling_came_to(pseudo):
    run = runs.read(pseudo)
    label = step5.Labelling("pseudo", [run, run])
    kept, known = run.results["kept_per_class"], run.results["audit"]["above_threshold"]
    assert label.kept.tolist() == kept and sum(kept) == 100 and label.threshold == 0
    assert len(label.confidence) == len(label.right) == 200
    assert np.nansum(label.right) == 2 * known["right"]
    assert tables.label_row(label)[:4] == ["pseudo", "0, 0", "100", "100"]
