"""The experiment: which commands make it, in which order, and what is refused before they run."""

import json
import shlex
import time
from dataclasses import replace

import pytest
from conftest import TINY, evaluate, run_in_process

import experiment
from noisy_student import arguments, commands
from noisy_student.files import UserError

ALL = list(experiment.CELLS)


def parsed(*words):
    """The arguments of `experiment.py run`."""
    words = [str(word) for word in ("run", *words)]
    return arguments.experiment("", experiment.EXPERIMENTS, experiment.CELLS, words)


def asked(*words):
    """The Experiment of such a command line."""
    return experiment.asked_for(parsed(*words))


@pytest.fixture
def made(monkeypatch):
    """The titles of the commands that would run, in order; none does."""
    made = []

    def run(command, threads):
        assert command.need is None or command.need in made
        if "--broken" in command.words:
            raise UserError(f"{command.title} failed")
        # Whoever does not wait for it is ahead of it.
        time.sleep(0.002)
        made.append(command.title)

    monkeypatch.setattr(commands, "run", run)
    return made


def test_the_tables_fit_together():
    experiment_of = {**experiment.LABELS, **experiment.CELLS}
    assert len(experiment_of) == len(experiment.LABELS) + len(ALL)
    assert {labels.teacher for labels in experiment.LABELS.values()} <= set(ALL)
    needed = {cell.labels for cell in experiment.CELLS.values()} - {None}
    assert needed == set(experiment.LABELS)
    asked_about = {name for pair in experiment.QUESTIONS.values() for name in pair}
    assert asked_about == set(ALL) and set(experiment.TWO_BY_TWO) < set(experiment.FIVE)
    titles = [cell.title for cell in experiment.CELLS.values()]
    assert len(set(titles)) == len(titles)
    # No two questions are about the same cells.
    assert len(set(experiment.QUESTIONS.values())) == len(experiment.QUESTIONS) == 23
    assert experiment.EIGHT[-1] == "larger_student"
    # demo_all has other cells than the demo, and so another outcome.
    known = experiment.EXPERIMENTS
    assert known["demo"].expected and not known["demo_all"].expected


def test_each_kind_of_cell_has_its_command():
    known = asked("--data", "my set", "--images", "a b.zip", "rest", "--out", "o", "--flags",
                 "--num-labeled 80", "--noise-flags", "--dropout 0.1", "--pseudo-flags",
                 "--labeled-share 0.5", "--label-flags", "--truth 't 1.csv'", "--larger",
                 "--depth 26 --width 2")
    common = ["--data", "my set", "--seed", "3", "--early-stopping", "0", "--num-labeled", "80"]

    def command(name, known=known):
        script, *words = experiment.words_of(name, "o/seed3", 3, known)
        return script, words, experiment.need_of(name)

    assert command("teacher") == (
        "cifar10_resnet50.py", [*common, "--log-dir", "o/seed3/teacher"], None)
    assert command("flip_and_crop") == (
        "data_generator.py", [*common, "--log-dir", "o/seed3/flip_and_crop", "--pseudo", "none",
                              "--like", "none", "--noise", "none", "--flip-and-crop", "always"],
        None)
    assert command("noisy_teacher") == (
        "data_generator.py", [*common, "--log-dir", "o/seed3/noisy_teacher", "--dropout", "0.1",
                              "--pseudo", "none", "--like", "none"], None)
    assert command("student_without_noise") == (
        "data_generator.py", [*common, "--log-dir", "o/seed3/student_without_noise", "--pseudo",
                              "o/seed3/pseudo", "--labeled-share", "0.5", "--noise", "none"],
        "pseudo")
    assert command("larger_student")[1][-4:] == ["--depth", "26", "--width", "2"]
    for flags, depth in (("", "101"), ("--depth=14", "26"), ("--depth 101 --width 2", "152")):
        deeper = replace(known, larger=None, flags=flags)
        assert command("larger_student", deeper)[1][-2:] == ["--depth", depth]
    wider = replace(known, larger=None, flags="--network small --width 0.25")
    assert command("larger_student", wider)[1][-2:] == ["--width", "0.5"]
    with pytest.raises(UserError, match="larger than one of --depth 152. --larger says so"):
        command("larger_student", replace(known, larger=None, flags="--depth 152"))
    assert "--dropout" in command("student")[1] and command("student")[2] == "pseudo"
    assert command("pseudo_calibrated") == (
        "imagenet_dummy_label.py", ["a b.zip", "rest", "--teacher", "o/seed3/noisy_teacher",
                                    "--truth", "t 1.csv", "--calibrate", "--out",
                                    "o/seed3/pseudo_calibrated"], "noisy_teacher")


def test_what_a_cell_needs_comes_before_it_and_once():
    assert experiment.with_needs(["second_generation", "student", "noisy_teacher"]) == [
        "noisy_teacher", "pseudo_of_noisy", "student_of_noisy", "pseudo_of_student",
        "second_generation", "teacher", "pseudo", "student"]
    assert set(experiment.with_needs(ALL)) == {*ALL, *experiment.LABELS}


@pytest.mark.parametrize("jobs", [1, 3])
def test_everything_is_made_once_for_every_seed_after_what_it_needs(jobs, made):
    order = experiment.with_needs(ALL)
    commands.run_here(experiment.commands_of(order, asked("--seeds", 0, 1)), jobs)
    everything = [f"[seed {seed} {name}]" for seed in (0, 1) for name in order]
    assert sorted(made) == sorted(everything) and (jobs > 1 or made == everything)


def test_what_needs_a_cell_that_failed_is_not_made(made):
    all_of_them = [commands.Command("a", ["--broken"]), commands.Command("b", [], "a")]
    with pytest.raises(UserError, match="a failed"):
        commands.run_here(all_of_them, jobs=2)
    assert made == []


@pytest.mark.parametrize("words, message", [
    ([], "which images. --images photos/ rest"),
    (["--images", "{toy}/unlabeled", "--data", "{toy}/nowhere"], "nowhere: no such folder or file"),
    (["--images", "{toy}/nowhere"], "nowhere: no such folder or archive"),
    (["--images", "{toy}/truth.csv"], "neither a folder, nor a tar or zip archive"),
    (["--images", "rest"], "rest: every image has a label; --flags '--num-labeled N' hides some"),
    (["--images", "rest", "--cells", "student_of_noisy"], "rest: every image has a label"),
    (["--cells", "teacher", "--flags", "--depth 'a"], "--depth 'a: No closing quotation"),
    (["--cells", "teacher", "--eval-flags", "--out 'a"], "--out 'a: No closing quotation"),
    (["--cells", "teacher", "--flags", "--seed 0"], "a seed: that is for --data and --seeds"),
    (["--cells", "teacher", "--flags", "--data other"], "data or a seed: that is for --data"),
    (["--cells", "noisy_teacher", "--noise-flags", "--noise input"],
     "would train noisy_teacher with --noise input, which is another cell"),
    (["--cells", "student_of_noisy", "--images", "{toy}/unlabeled", "--pseudo-flags",
      "--noise none"], "would train student_of_noisy with --noise none")])
def test_mistakes_are_found_before_anything_is_trained(words, message, toy, made):
    with pytest.raises(UserError, match=message):
        experiment.main(parsed("--data", toy, *(word.format(toy=toy) for word in words)))
    assert made == []


def test_the_rest_may_be_what_a_data_set_has_no_label_for(tmp_path, toy, made):
    (tmp_path / "trainLabels.csv").write_text("id,label\n")
    order = experiment.with_needs(["student_of_noisy"])
    experiment.check(order, asked("--images", "rest", "--data", tmp_path))
    # Nobody needs the rest.
    experiment.check(["noisy_teacher"], asked("--images", "rest", "--data", toy))


def test_a_misspelt_cell_is_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        asked("--cells", "teacher", "studnet")
    assert stopped.value.code == 2 and "'studnet'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [
    ["--flags", "--widht 2"], ["--flags", "--epochs none"], ["--noise-flags", "--dropuot 0.1"],
    ["--pseudo-flags", "--labelled-share 1"], ["--label-flags", "--treshold 0.5"],
    ["--larger", "--deepness 101"]])
def test_a_misspelt_flag_is_named_before_anything_is_trained(words, toy, made, capsys):
    with pytest.raises(SystemExit) as stopped:
        experiment.main(parsed("--data", toy, "--images", toy / "unlabeled", *words))
    assert stopped.value.code == 2 and made == []
    assert words[1].split()[0] in capsys.readouterr().err


def test_cells_without_pseudo_labels_need_no_images(toy):
    experiment.check(["teacher", "flip_and_crop"], asked("--data", toy))
    experiment.check(experiment.with_needs(ALL),
                     asked("--data", toy, "--images", "rest", "--flags", "--num-labeled 80"))


# --- the processes --------------------------------------------------------------------------------


@pytest.fixture
def stubs(tmp_path, monkeypatch):
    """Scripts that write down what they were given, in place of the real ones."""
    folder = tmp_path / "my scripts"
    folder.mkdir()
    for name in ("cifar10_resnet50", "data_generator", "imagenet_dummy_label", "eval"):
        (folder / f"{name}.py").write_text(
            "import json, os, sys\n"
            "with open(os.path.join(os.path.dirname(__file__), 'log'), 'a') as file:\n"
            "    threads = os.environ.get('TF_NUM_INTRAOP_THREADS')\n"
            "    file.write(json.dumps([*sys.argv, threads]) + '\\n')\n"
            "print('one\\nI0000 port.cc] oneDNN custom operations are on. You\\ntwo',"
            "      file=sys.stderr)\n"
            "sys.exit(7 * ('--dropout' in sys.argv))\n")
    monkeypatch.setattr(commands, "SCRIPTS", str(folder))
    return folder


def test_names_with_spaces_and_lines_with_their_cells_name(stubs, tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setattr(commands.os, "cpu_count", lambda: 8)
    images, out = tmp_path / "my photos", tmp_path / "my logs"
    images.mkdir()
    with pytest.raises(SystemExit) as ended:
        experiment.main(parsed("--data", images, "--images", images, "--out", out, "--jobs", 2,
                              "--cells", "student_without_noise", "--eval-flags", "--out 'a b'"))
    assert ended.value.code == 0
    lines = [json.loads(line) for line in (stubs / "log").read_text().splitlines()]
    teacher, labels, student, answers = ([word.removeprefix(f"{stubs}/") for word in line[:-1]]
                                         for line in lines)
    assert teacher[:3] == ["cifar10_resnet50.py", "--data", str(images)]
    assert labels[:4] == ["imagenet_dummy_label.py", str(images), "--teacher",
                          f"{out}/seed0/teacher"]
    assert student[-4:-2] == ["--pseudo", f"{out}/seed0/pseudo"]
    assert answers == ["eval.py", f"{out}/seed0", "--out", "a b"]
    # Two at a time share eight cores; the last has them all.
    assert [line[-1] for line in lines] == ["4", "4", "4", None]
    said = capfd.readouterr().out.splitlines()
    assert said[0] == f"[seed 0 teacher] python {shlex.join(teacher)}"
    assert said[1:3] == ["[seed 0 teacher] one", "[seed 0 teacher] two"]
    assert said[4] == "[seed 0 pseudo] one" and len(said) == 9


def test_a_script_that_fails_ends_it_with_its_name(stubs, tmp_path):
    with pytest.raises(UserError, match=r"^\[seed 0 noisy_teacher\] failed; mend it and give the"):
        experiment.main(parsed("--data", tmp_path, "--cells", "noisy_teacher", "teacher",
                              "--noise-flags", "--dropout 0.1"))
    assert "eval.py" not in (stubs / "log").read_text()


@pytest.mark.parametrize("what, cells, drawn", [
    ("demo", experiment.FIVE, ["make_toy.py"]),
    ("demo_all", experiment.EIGHT, ["make_toy.py", "make_corrupted.py"])])
def test_the_demo_draws_its_data_first(what, cells, drawn, tmp_path, monkeypatch):
    (tmp_path / "data" / "toy" / "unlabeled").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    started, args = [], arguments.experiment("", experiment.EXPERIMENTS, experiment.CELLS, [what])
    monkeypatch.setattr(commands, "run_here", lambda made, jobs: started.append(
        [command.title[8:-1] for command in made]))

    def in_foreground(*words):
        started.append([word.split("/")[-1] for word in words])
        return 0

    monkeypatch.setattr(commands, "in_foreground", in_foreground)
    with pytest.raises(SystemExit):
        experiment.main(args)
    *first, order, answers = started
    assert [words[0] for words in first] == drawn and set(cells) <= set(order)
    assert answers[:4] == ["eval.py", "seed3", "seed4", "seed5"] and "report.html" in answers
    corrupted = "make_corrupted.py" in drawn
    assert ("toy-corrupted" in answers) == ("--adversarial" in answers) == corrupted
    assert arguments.evaluation("", answers[1:]).robust_images == (200 if corrupted else None)


def test_a_real_experiment_and_the_same_command_again(toy, tmp_path, capsys, monkeypatch):
    out = tmp_path / "my logs"
    args = parsed("--data", toy, "--images", toy / "unlabeled", "rest", "--out", out,
                  "--cells", "teacher", "student_without_noise", "--flags",
                  shlex.join([*TINY, "--num-labeled", "80"]), "--label-flags", "--threshold 0",
                  "--eval-flags", f"--out '{tmp_path / 'my figures'}'")

    # Step 5 in this process, where Keras is at hand already, and the second time all steps.
    def in_foreground(name, *words):
        assert name == "eval.py"
        evaluate(*words)
        return 0

    monkeypatch.setattr(commands, "in_foreground", in_foreground)
    with pytest.raises(SystemExit) as ended:
        experiment.main(args)
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for name in ("teacher", "pseudo", "student_without_noise"):
        (command,) = [line for line in said.splitlines()
                      if line.startswith(f"[seed 0 {name}] python ")]
        assert f"'{out}/seed0/{name}'" in command
    assert "[seed 0 teacher] epoch 2 of 2: loss" in said
    results = (tmp_path / "my figures" / "results.md").read_text()
    assert "| Do pseudo-labels help, without noise? " in results
    assert "| pseudo-labels, no noise " in results and "| pseudo " in results

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    monkeypatch.setattr(commands, "run", run_in_process)
    known = experiment.asked_for(args)
    commands.run_here(experiment.commands_of(experiment.with_needs(known.cells), known), jobs=1)
    again = capsys.readouterr().out
    assert again.count("is finished: ") == 3 and "epoch" not in again
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
