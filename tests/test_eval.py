"""The table and its answers: statistics by hand and against SciPy, cells that are recognised, networks that look once."""

import pathlib
import re

import eval as step5

import cifar10_resnet50 as step1
import data_generator as step4

import numpy as np
import pytest
import scipy.stats
from conftest import TINY

TEACHER = {"noise": "none", "pseudo": None, "labelling": None, "depth": 14, "width": 1.0}
LABELLING = {"threshold": 0.75, "calibrate": False, "hard": False, "images": ["photos", "rest"]}


def cell_of(noise, teacher=None, **labelling):
    """What run.json says of a cell."""
    return {"noise": noise, "pseudo": teacher, "labelling": LABELLING | labelling if teacher else None, "depth": 14, "width": 1.0}


STUDENT = cell_of("all", TEACHER)


def a_run(cell, right, seed=0, **arguments):
    """A run whose network is right on the images where `right` is 1, and says so with confidence 0.8."""
    y = np.arange(len(right)) % 2
    answer = np.where(np.asarray(right, bool), y, 1 - y)
    probabilities = np.where(np.eye(2)[answer] == 1, 0.8, 0.2).astype(np.float32)
    arguments = {"seed": seed, "depth": 14, "width": 1.0, "dropout": 0.5, "p_last": 0.8, "augment_ops": 2, "augment_magnitude": 10,
                 "num_labeled": 100, "validation": "split", "recipe": "fast", "batch_size": 8, "epochs": 2, "steps_per_epoch": 5,
                 "learning_rate": 0.1, "early_stopping": 0} | arguments
    record = {"arguments": arguments, "cell": cell, "steps": arguments["epochs"] * 5, "wall_seconds": 60.0}
    history = [{"epoch": epoch, "val_accuracy": 0.5, "loss": 1.0} for epoch in (1, 2)]
    return step5.Run(pathlib.Path("logs/x"), record, history, probabilities, probabilities, 1.0, y)


# --- statistics ----------------------------------------------------------------------------------


def test_wilson_interval_by_hand_and_scipy():
    # Newcombe 1998, table I: 81 of 263 and 15 of 148; 0 of 20 and 1 of 29
    for right, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):
        assert step5.wilson_interval(right, n) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))
        scipys = scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
        assert step5.wilson_interval(right, n) == pytest.approx((scipys.low, scipys.high), abs=1e-7)
    assert step5.wilson_interval(20, 20)[1] == 1
    for right, n in ((5, 4), (-1, 4), (0, 0)):
        with pytest.raises(ValueError):
            step5.wilson_interval(right, n)


def test_mcnemar_by_hand_and_scipy():
    assert step5.mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 1024)  # 10 coins: none or one of the rarer side, twice
    assert step5.mcnemar(0, 5) == step5.mcnemar(5, 0) == pytest.approx(2 / 32)
    assert step5.mcnemar(0, 0) == step5.mcnemar(4, 4) == 1
    for first, second in ((3, 11), (120, 161), (1500, 1731)):
        assert step5.mcnemar(first, second) == pytest.approx(scipy.stats.binomtest(first, first + second).pvalue, rel=1e-9)


def test_the_articles_table_shows_no_effect_of_pseudo_labels():
    # 94.14 -> 94.28 % of 10,000: 14 images more. Even if the two networks disagreed on only 300 images, a coin does that
    assert step5.mcnemar(143, 157) == pytest.approx(0.45, abs=0.01)
    assert step5.mcnemar(693, 707) > 0.7


def test_bootstrap_over_images_agrees_with_scipy_and_the_normal_interval():
    differences = np.random.default_rng(1).choice([-1.0, 0.0, 1.0], p=[0.08, 0.8, 0.12], size=(1, 2000))
    low, high = step5.paired_bootstrap(differences)
    scipys = scipy.stats.bootstrap((differences[0],), np.mean, n_resamples=5000, method="percentile", rng=0, batch=500).confidence_interval
    assert (low, high) == (pytest.approx(scipys.low, abs=0.002), pytest.approx(scipys.high, abs=0.002))
    half = 1.96 * differences.std() / np.sqrt(2000)
    assert (low, high) == (pytest.approx(differences.mean() - half, abs=0.001), pytest.approx(differences.mean() + half, abs=0.001))


def test_bootstrap_over_seeds_by_hand():
    # two seeds, on every image no difference or one: a resample's mean is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4
    assert step5.paired_bootstrap(np.array([[0.0] * 50, [1.0] * 50])) == (0, 1)
    # the same images in both seeds: to draw the seeds adds nothing; to draw images for each seed alone would narrow it
    one = np.random.default_rng(2).choice([-1.0, 0.0, 1.0], size=(1, 400))
    low, high = step5.paired_bootstrap(one)
    low2, high2 = step5.paired_bootstrap(np.repeat(one, 2, axis=0))
    assert high2 - low2 == pytest.approx(high - low, rel=0.05)


def test_expected_calibration_error_by_hand():
    p = np.array([[0.95, 0.05], [0.93, 0.07], [0.61, 0.39], [0.4, 0.6]])
    y = np.array([0, 1, 0, 0])  # right, wrong, right, wrong
    # bin (14/15, 1]: 0.95 right; bin (13/15, 14/15]: 0.93 wrong; bin (9/15, 10/15]: 0.61 right; bin (8/15, 9/15]: 0.6 wrong
    error, (count, confidence, accuracy) = step5.expected_calibration_error(p, y)
    assert error == pytest.approx((0.05 + 0.93 + 0.39 + 0.6) / 4)
    assert count[[8, 9, 13, 14]].tolist() == [1, 1, 1, 1] and count.sum() == 4
    assert (confidence[14], accuracy[14]) == (pytest.approx(0.95), 1) and np.isnan(accuracy[0])
    assert step5.expected_calibration_error(np.array([[1.0, 0.0]] * 4), np.zeros(4, int))[0] == 0
    # 100 answers at 0.7 of which 70 are right are calibrated; at 0.9 they are off by 0.2
    y = np.repeat([0, 1], [70, 30])
    assert step5.expected_calibration_error(np.tile([0.7, 0.3], (100, 1)), y)[0] == pytest.approx(0, abs=1e-9)
    assert step5.expected_calibration_error(np.tile([0.9, 0.1], (100, 1)), y)[0] == pytest.approx(0.2)


# --- cells and answers ---------------------------------------------------------------------------


def test_cells_and_the_articles_numbers():
    assert step5.CELLS[step5.cell_key(TEACHER)][1:] == (0.8839, 0.8177)
    assert step5.CELLS[step5.cell_key(STUDENT)][1:] == (0.9394, 0.2470)
    assert step5.CELLS[step5.cell_key(cell_of("all", cell_of("all")))][1:] == (0.9428, 0.2289)
    assert step5.CELLS[step5.cell_key(cell_of("none", TEACHER))][1:] == (None, None)
    assert step5.cell_name(step5.cell_key(cell_of("all", STUDENT))).startswith("second generation")
    third = step5.cell_key(cell_of("all", cell_of("all", STUDENT)))
    assert third not in step5.CELLS and "second generation" in step5.cell_name(third)
    assert step5.cell_name(("input", None)) == "noisy teacher: labels alone, noise on the input alone"


def test_runs_that_differ_only_in_their_seed_are_one_cell(capsys):
    runs = [a_run(STUDENT, [1, 0], seed) for seed in (0, 1, 2)] + [a_run(STUDENT, [1, 1], dropout=0.1), a_run(TEACHER, [1, 1], dropout=0.1)]
    cells = step5.group(runs)
    assert [sorted(cell.runs) for cell in cells] == [[0, 1, 2], [0], [0]]
    assert [cell.name for cell in cells] == ["student: pseudo-labels, noise", "student: pseudo-labels, noise, dropout 0.1",
                                             "teacher: labels alone, no noise"]  # dropout means nothing to a teacher
    calibrated = step5.group([runs[0], a_run(cell_of("all", TEACHER, calibrate=True, images=["rest"]), [1, 1])])[1]
    assert calibrated.name == "student: pseudo-labels, noise, calibrate, images rest"
    step5.group([runs[0], a_run(STUDENT, [1, 1], 0)])
    assert "same cell and seed" in capsys.readouterr().out


def test_a_difference_by_hand():
    first = step5.group([a_run(TEACHER, [1, 1, 0, 0, 0, 0, 0, 0], 0), a_run(TEACHER, [1, 0, 0, 0, 0, 0, 0, 0], 1)])[0]
    second = step5.group([a_run(STUDENT, [1, 0, 1, 1, 1, 0, 0, 0], 0), a_run(STUDENT, [1, 1, 1, 0, 0, 0, 0, 0], 1),
                          a_run(STUDENT, [1] * 8, 2)])[0]
    answer = step5.contrast("?", [(-1, first), (1, second)])
    assert answer.seeds == [0, 1]  # what only one of them has is not compared
    assert answer.per_seed == [pytest.approx(100 * 2 / 8), pytest.approx(100 * 2 / 8)] and answer.points == pytest.approx(25)
    assert answer.p == [pytest.approx(2 * (1 + 4) / 16), pytest.approx(2 / 4)]  # 1 against 3, 0 against 2
    assert answer.low < 25 < answer.high
    assert step5.contrast("?", [(-1, first), (1, step5.group([a_run(STUDENT, [1] * 8, 7)])[0])]) is None


def test_two_by_two_by_hand():
    accuracies = {"none": (0.5, 0.7), "all": (0.6, 0.9)}  # noise -> labels alone, with pseudo-labels
    runs = [a_run(cell_of(noise, teacher), [1] * round(10 * accuracies[noise][i]) + [0] * round(10 - 10 * accuracies[noise][i]))
            for noise in accuracies for i, teacher in enumerate((None, TEACHER))]
    noise, pseudo, interaction = step5.effects(step5.group(runs))
    assert noise.points == pytest.approx(100 * ((0.6 - 0.5) + (0.9 - 0.7)) / 2)
    assert pseudo.points == pytest.approx(100 * ((0.7 - 0.5) + (0.9 - 0.6)) / 2)
    assert interaction.points == pytest.approx(100 * ((0.9 - 0.6) - (0.7 - 0.5))) and interaction.p == []
    assert step5.effects(step5.group(runs[:3])) == []


@pytest.mark.parametrize("points, low, high, per_seed, words", [
    (2.1, 1.6, 2.7, [2.0, 2.2], "yes, by 2.1 points (1.6 to 2.7)"),
    (-2.1, -2.7, -1.6, [-2.0, -2.2], "no, it costs 2.1 points (1.6 to 2.7)"),
    (0.3, -0.4, 1.0, [0.1, 0.5], "not shown: +0.3 points (-0.4 to +1.0)"),
    (2.1, 0.1, 3.9, [4.3, -0.1], "not shown: +2.1 points (+0.1 to +3.9)"),  # one seed says otherwise
])
def test_answers_in_words(points, low, high, per_seed, words):
    assert step5.Answer("?", (), [0], points, low, high, per_seed, []).in_words() == words


def test_every_question_and_every_ablation_is_asked(capsys):
    cells = {"teacher": TEACHER, "noisy": cell_of("all"), "quiet": cell_of("none", TEACHER), "student": STUDENT,
             "of_noisy": cell_of("all", cell_of("all")), "second": cell_of("all", STUDENT), "hard": cell_of("all", TEACHER, hard=True),
             "input": cell_of("input", TEACHER)}
    runs = [a_run(cell, np.arange(200) % 10 < 5 + (i % 3), seed) for i, cell in enumerate(cells.values()) for seed in (0, 1)]
    runs += [a_run(STUDENT | {"depth": 26}, [1] * 200, 0, depth=26), a_run(cell_of("all"), [1] * 200, 1, epochs=9)]
    answers = step5.ask(step5.in_order(step5.group(runs)))
    questions = [answer.question for answer in answers]
    assert questions[:7] == [question for question, *_ in step5.QUESTIONS]
    assert set(questions[7:]) == {"Is [noisy teacher: labels alone, noise, epochs 9] better than [noisy teacher: labels alone, noise]?",
                             "Does a larger student help (depth 26)?",
                             "Is [student: pseudo-labels, noise, hard] better than [student: pseudo-labels, noise]?",
                             "Is [student: pseudo-labels, noise on the input alone] better than [student: pseudo-labels, noise]?"}
    step5.warn_of_unmatched(answers)
    assert capsys.readouterr().out == ""
    unmatched = [a_run(TEACHER, [1, 0] * 9), a_run(cell_of("all"), [1, 1] * 9, num_labeled=50, epochs=3)]
    step5.warn_of_unmatched(step5.ask(step5.group(unmatched)))
    assert "also differ in num_labeled (100 and 50), epochs (2 and 3), steps ([10] and [15])" in capsys.readouterr().out


# --- the script ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def experiment(toy, teacher, pseudo, tmp_path_factory):
    """A folder of the teacher, a quiet and a noisy student, and their pseudo-labels, as make experiment leaves them."""
    logs = tmp_path_factory.mktemp("experiment") / "seed0"
    logs.mkdir()
    (logs / "teacher").symlink_to(teacher)
    (logs / "pseudo").symlink_to(pseudo)
    common = ["--data", str(toy), "--num-labeled", "80", "--recipe", "fast", "--epochs", "2", *TINY]
    step4.main([*common, "--pseudo", str(pseudo), "--noise", "none", "--log-dir", str(logs / "student_without_noise")])
    return logs


def folders(experiment):
    return [str(path) for path in sorted(experiment.iterdir())]


def test_overlap_is_looked_for_in_all_that_was_learnt_from(experiment, teacher, tmp_path, capsys, monkeypatch):
    data = step1.load_data(step1.read_json(teacher / "run.json")["made_from"]["data"])
    planted = np.load(experiment / "pseudo" / "x.npy")[:3]
    runs, _ = step5.load_runs(step5.find_runs(folders(experiment))[0])
    data.x_test = np.concatenate([planted, data.x_test[3:]])
    step5.overlap.check(runs, data, True, tmp_path)
    out = capsys.readouterr().out
    assert "3 of 40 test images are among the pseudo-labelled images in" in out and "among the training images, pixel" not in out
    found = {what: int(n) for n, what in re.findall(r"(\d+) of 40 test images show the same picture as one of the (training|pseudo)", out)}
    assert found["pseudo"] >= 3 and (tmp_path / "overlap_pseudo.png").exists() == bool(found["pseudo"])
    assert (tmp_path / "overlap.png").exists() == bool(found["training"])
    step5.main([str(teacher), "--check-overlap", "--out", str(tmp_path / "figures")])
    assert "of 40 test images show the same picture as one of the training images" in capsys.readouterr().out


def test_tables_pictures_and_page(experiment, teacher, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    step5.main([*folders(experiment), "--out", "figures", "--report", "page.html"])
    out, results = capsys.readouterr().out, step1.read_json(tmp_path / "figures" / "results.json")
    record, run = step1.read_json(teacher / "run.json"), results["cells"][0]["runs"][0]
    assert run["accuracy"] == record["test_accuracy"] and run["cross_entropy"] == pytest.approx(record["test_loss"], rel=1e-5)
    assert "88.39 %, 0.8177" in out and f"{100 * run['accuracy']:.2f} %" in out and "Do pseudo-labels help, without noise?  " in out
    labels = step1.read_json(experiment / "pseudo" / "run.json")
    assert results["pseudo_labels"][0]["runs"][0]["audit"] == labels["audit"]
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"results.md", "results.json", "accuracy.png", "answers.png", "learning_curves.png", "confusion.png",
                     "reliability.png", "pseudo_labels.png"}
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 6 + 1 + (experiment / "pseudo" / "mistakes.png").exists()
    assert "http" not in page and "viewport" in page and "Do pseudo-labels help, without noise?" in page

    def load_model(*_):
        raise AssertionError("the network ran a second time")

    monkeypatch.setattr(step1, "load_model", load_model)
    step5.main([*folders(experiment), "--out", "again", "--report", "again.html", "--no-photos"])
    assert (tmp_path / "again" / "results.md").read_text() == (tmp_path / "figures" / "results.md").read_text()
    assert (tmp_path / "again.html").read_text().count("data:image/png;base64,") == 6


def test_precision_by_confidence_by_hand():
    labels = step5.Labels("x", [], [], [(0.95, True), (0.93, False), (0.55, True), (1.0, True), (0.5, None)])
    count, precision = labels.precision_by_confidence()
    assert count.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 3] and precision[9] == pytest.approx(2 / 3) and precision[5] == 1


def test_damaged_or_missing_predictions_are_made_again(teacher, toy, capsys):
    (run,), data = step5.load_runs(step5.find_runs([teacher])[0])
    (teacher / "predictions.npz").write_bytes(b"PK\x03\x04 broken")
    (again,), _ = step5.load_runs(step5.find_runs([teacher])[0])
    assert (again.probabilities == run.probabilities).all() and again.temperature == run.temperature
    assert "damaged" in capsys.readouterr().out
    assert run.probabilities.shape == (40, 10) and run.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    np.savez(teacher / "predictions.npz", test=run.probabilities[::-1], validation=run.probabilities, made_from="other")
    assert (step5.load_runs(step5.find_runs([teacher])[0])[0][0].probabilities == run.probabilities).all()
    assert "another network" in capsys.readouterr().out


def test_runs_are_found_below_folders(teacher, pseudo, tmp_path, capsys):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "teacher").symlink_to(teacher)
    step1.write_json(tmp_path / "a" / "half" / "run.json", {"script": "x", "finished": False, "arguments": {}, "made_from": {}})
    trainings, labellings = step5.find_runs([tmp_path / "a" / "teacher", pseudo])
    assert len(trainings) == len(labellings) == 1
    for folder, message in ((tmp_path / "nothing", "Run first"), (tmp_path / "a" / "b", "no finished training"),
                            (tmp_path / "a" / "half", "not finished")):
        with pytest.raises(step1.UserError, match=message):
            step5.find_runs([folder])
    with pytest.raises(step1.UserError, match="no finished training"):
        step5.find_runs([pseudo])


def test_unfinished_runs_below_a_folder_are_left_out_aloud(teacher, tmp_path, capsys):
    import shutil

    shutil.copytree(teacher, tmp_path / "logs" / "teacher")
    step1.write_json(tmp_path / "logs" / "half" / "run.json", {"script": "x", "finished": False, "arguments": {}, "made_from": {}})
    assert len(step5.find_runs([tmp_path / "logs"])[0]) == 1
    assert "left out, not finished" in capsys.readouterr().out


def test_runs_that_do_not_compare(teacher, tmp_path):
    record = step1.read_json(teacher / "run.json")
    record["made_from"]["data_sha256"] = "0" * 64
    with pytest.raises(step1.UserError, match="other data than"):
        step5.load_runs([*step5.find_runs([teacher])[0], (tmp_path / "other", record)])


def test_damaged_files_are_named_in_one_line(teacher, tmp_path):
    import shutil

    for name, content, message in (("split.npz", b"PK\x03\x04", "damaged"), ("history.csv", b"epoch,loss\n1,x\n", "damaged")):
        shutil.copytree(teacher, tmp_path / name / "teacher")
        (tmp_path / name / "teacher" / name).write_bytes(content)
        with pytest.raises(step1.UserError, match=message) as error:
            step5.load_runs(step5.find_runs([tmp_path / name])[0])
        assert name in str(error.value)
    shutil.copytree(teacher, tmp_path / "other" / "teacher")
    np.savez(tmp_path / "other" / "teacher" / "split.npz", train=np.arange(72), val=np.arange(8), rest=np.arange(40))
    with pytest.raises(step1.UserError, match="not the one its run wrote"):
        step5.load_runs(step5.find_runs([tmp_path / "other"])[0])


def test_every_line_of_the_pictures_looks_different():
    import report

    assert len({tuple(report.style(i).values()) for i in range(16)}) == 16
    assert len(set(report.COLOURS)) == len(set(report.MARKERS)) == 8
