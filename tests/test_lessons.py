"""The lessons together, as a user runs them; and what importing them must not do."""

import subprocess
import sys

import make_toy
import numpy as np
import pytest
from conftest import ROOT, TINY, evaluate, label, train_student
from PIL import Image

import predict
from noisy_student import arguments, commands, figures, runs
from noisy_student.data import load_data
from noisy_student.files import UserError, read_json, sha256
from noisy_student.images import read_image
from noisy_student.training import predict as say

LESSONS = ["cifar10_resnet50", "imagenet_dummy_label", "stochastic_resblock", "Rand_Augment",
           "data_generator", "eval", "robustness", "experiment", "predict"]


@pytest.fixture(scope="module")
def common(toy):
    return ["--data", toy, "--num-labeled", 80, *TINY]


@pytest.fixture(scope="module")
def student(common, pseudo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs") / "student"
    train_student(*common, "--pseudo", pseudo, "--log-dir", folder)
    return folder


def test_a_student_knows_what_it_was_made_from(student, teacher, pseudo):
    run, of_teacher, labelling = (runs.finished(folder, "")
                                  for folder in (student, teacher, pseudo))
    assert run.taught_by["labelling"] == labelling.arguments and labelling.arguments["calibrate"]
    assert run.taught_by["teacher"] == {"arguments": of_teacher.arguments, "taught_by": None}
    assert labelling.made_from["teacher_sha256"] == of_teacher.sha256["model.keras"]
    digests = [labelling.sha256[f"{name}.npy"].encode() for name in ("x", "y", "index")]
    assert run.made_from == {**of_teacher.made_from, "pseudo_sha256": sha256(*digests)}
    # Matched, though it has seen more images.
    assert run.results["steps"] == of_teacher.results["steps"] == 6
    assert (student / "batch.png").read_bytes().startswith(b"\x89PNG")


def test_students_and_their_table(student, teacher, toy, tmp_path, capsys):
    evaluate(teacher, student, "--out", tmp_path)
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in (tmp_path / "results.md").read_text().splitlines()]
    accuracies = []
    for folder, title in ((teacher, "teacher: labels alone, no noise"),
                          (student, "student: pseudo-labels, noise")):
        accuracies.append(100 * runs.read(folder).results["test_accuracy"])
        (row,) = (row for row in rows if row[0] == title and row[2] == "6")
        assert row[3].startswith(f"{accuracies[-1]:.2f} (")
    (answer,) = read_json(tmp_path / "results.json")["answers"]
    assert answer["question"] == "Is the noisy student better than its teacher?"
    assert answer["points"] == pytest.approx(accuracies[1] - accuracies[0])
    assert f"{answer['question']}  {answer['answer']}" in capsys.readouterr().out


@pytest.mark.parametrize("words, text", [
    ("--seed 1", "its teacher was trained on another choice of labelled images"),
    ("--pseudo nowhere", "nothing there yet. Run first: python imagenet_dummy_label.py"),
    ("--noise none", "holds another run .noise all there, none here.: choose another --log-dir")])
def test_a_student_of_other_labels_or_in_a_folder_that_is_taken(words, text, common, student,
                                                                pseudo):
    with pytest.raises(UserError, match=text) as error:
        train_student(*common, "--pseudo", pseudo, "--log-dir", student, *words.split())
    assert "\n" not in str(error.value)


def test_a_student_teaches_without_its_noise(student, toy, tmp_path):
    label(toy / "unlabeled", "--teacher", student, "--threshold", 0, "--out", tmp_path)
    x, y = np.load(tmp_path / "x.npy"), np.load(tmp_path / "y.npy")
    model = runs.read(student).model()
    assert model.get_layer("dropout").rate == 0.5
    assert model.get_layer("stage4_block1_survival").p_survival == pytest.approx(0.8)
    assert y == pytest.approx(np.asarray(model(x, training=False)), abs=1e-5)
    assert runs.read(tmp_path).taught_by["taught_by"] == runs.read(student).taught_by


def test_predict_names_what_the_network_finds_most_probable(student, toy, tmp_path, capsys):
    paths = [toy / "test" / "star" / "0000.png", tmp_path / "large.jpg"]
    Image.open(paths[0]).resize((200, 120)).convert("L").save(paths[1])

    def ask(*images):
        words = [*map(str, images), "--model", str(student)]
        status = predict.main(arguments.prediction("", words))
        return status, capsys.readouterr().out

    run = runs.read(student)
    expected = ""
    for path, p in zip(paths, say(run.model(), np.stack([read_image(path) for path in paths]))):
        best = sorted(zip(p, run.results["class_names"]), reverse=True)[:3]
        expected += f"{path}: {', '.join(f'{name} {100 * share:.1f} %' for share, name in best)}\n"
    assert ask(*paths) == (0, expected)
    notes, absent = tmp_path / "notes.jpg", tmp_path / "absent.png"
    notes.write_text("no picture\nat all\n")
    # What cannot be read costs its own answer alone.
    first, second = expected.splitlines()
    status, out = ask(paths[0], notes, absent, paths[1])
    assert status == 1 and out.splitlines()[::3] == [first, second]
    assert out.splitlines()[1] == f"{notes}: left out: not an image"
    assert "absent.png: left out: " in out and "No such file" in out
    assert ask(notes) == (1, f"{notes}: left out: not an image\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=f"^{empty}: no image there$"):
        ask(empty)


def test_predict_asks_several_networks_about_a_folder(student, teacher, toy, capsys):
    folder = toy / "test" / "star"
    predict.main(arguments.prediction("", [str(folder), "--model", str(teacher), str(student)]))
    lines = capsys.readouterr().out.splitlines()
    paths = [path for path in sorted(folder.iterdir()) for _ in range(2)]
    assert len(lines) == 8
    for line, path, run in zip(lines, paths, [teacher, student] * 4):
        assert line.startswith(f"{path}: {run}: ")


def test_predict_draws_what_it_prints(student, teacher, toy, tmp_path, monkeypatch, capsys):
    rows = []
    monkeypatch.setattr(figures, "answers", lambda given, path: rows.extend(given) or path)
    path = toy / "test" / "star" / "0000.png"
    predict.main(arguments.prediction("", [str(path), "--model", str(teacher), str(student),
                                           "--picture", "answers.png"]))
    *lines, last = capsys.readouterr().out.splitlines()
    ((name, image, answers),) = rows
    assert last == "picture: answers.png"
    assert name == "0000.png" and (image == read_image(path)).all()
    assert lines == [f"{path}: {network}: {', '.join(f'{label} {p:.1f} %' for label, p in best)}"
                     for network, best in answers]


@pytest.mark.parametrize("command, says", [
    ("cifar10_resnet50.py --data nowhere", "nowhere: no such file or folder (--data)"),
    ("imagenet_dummy_label.py nowhere", "nowhere: no such file or folder"),
    ("imagenet_dummy_label.py rest --teacher nowhere",
     "nowhere: nothing there yet. Run first: python cifar10_resnet50.py"),
    ("data_generator.py --pseudo nowhere",
     "nowhere: nothing there yet. Run first: python imagenet_dummy_label.py IMAGES"),
    ("predict.py photo.jpg --model nowhere",
     "nowhere: nothing there yet. Run first: python data_generator.py, or cifar10_resnet50.py")])
def test_what_is_missing_is_said_before_keras_is_imported(command, says, tmp_path):
    code = (f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); "
            "sys.modules['keras'] = None; sys.argv = sys.argv[1:]; "
            "runpy.run_path(sys.argv[0], run_name='__main__')")
    script, *words = command.split()
    result = subprocess.run([sys.executable, "-c", code, ROOT / script, *words], cwd=tmp_path,
                            capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, f"error: {says}\n")


def test_the_next_command_can_be_pasted_and_is_not_said_within_an_experiment(toy, student, capsys,
                                                                            monkeypatch):
    data = load_data(str(toy), 80)
    commands.say_next(*commands.labels_next(data, "logs/noisy_teacher"))
    commands.say_next(*commands.student_next("logs/pseudo_of_noisy"))
    assert capsys.readouterr().out.splitlines() == [
        f"Next: python imagenet_dummy_label.py {toy / 'unlabeled'} --teacher logs/noisy_teacher "
        "--keep-share 0.5 --out logs/pseudo_of_noisy",
        "Next: python data_generator.py --pseudo logs/pseudo_of_noisy "
        "--log-dir logs/student_of_noisy"]
    assert commands.trained_beside(student) == [str(student)]
    monkeypatch.setenv(commands.WITHIN, "1")
    commands.say_next("eval.py", "logs")
    assert capsys.readouterr().out == ""


def test_importing_in_an_empty_folder_does_nothing_and_prints_nothing(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(LESSONS)}"
    result = subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True,
                            text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def test_a_users_mistake_gives_one_line_from_the_shell(tmp_path):
    result = subprocess.run([sys.executable, ROOT / "eval.py", "nowhere"], cwd=tmp_path,
                            capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == ("error: nowhere: no folder (run.json). "
                             "Run first: python cifar10_resnet50.py\n")
    assert not list(tmp_path.iterdir())


def test_toy_set_is_seeded_and_different_pictures(toy, tmp_path, capsys):
    flags = ["--per-class-train", "2", "--per-class-test", "1", "--unlabeled", "9"]
    drawn = []
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        make_toy.main(make_toy.arguments([str(tmp_path / name), "--seed", seed, *flags]))
        paths = sorted((tmp_path / name).rglob("0*.png"))
        drawn.append([np.array(Image.open(path)).tobytes() for path in paths])
    assert len(drawn[0]) == 39 and drawn[0] == drawn[1] and not set(drawn[0]) & set(drawn[2])
    assert len(set(drawn[0])) == 39
    make_toy.main(make_toy.arguments([str(tmp_path / "a"), *flags]))
    assert "is there already" in capsys.readouterr().out
    lines = (toy / "truth.csv").read_text().splitlines()
    assert len(lines) == 60 and 0 < sum(line.endswith("none of these") for line in lines) < 20
