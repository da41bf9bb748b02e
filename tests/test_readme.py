"""The lesson's commands, typed as the README prints them, one after the other."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, evaluate

from noisy_student import figures

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(heading):
    """All python commands in the code blocks of a section of the README."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("python ")]


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What each command of the lesson printed, in order: {command: text}."""
    folder = tmp_path_factory.mktemp("lesson")
    for path in (*ROOT.glob("*.py"), *ROOT.glob("data/*.py"), *ROOT.glob("noisy_student/*.py")):
        (folder / path.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(path, folder / path.relative_to(ROOT))
    said = {}
    for command in commands("The lesson"):
        words = [sys.executable, *shlex.split(command)[1:]]
        result = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        # Nothing but what a user wants to know, and no warning that is none.
        assert "Warning" not in result.stderr, f"{command}\n{result.stderr}"
        said[command] = result.stdout
    return said


def accuracy(text):
    return float(re.search(r"test accuracy ([\d.]+) %", text)[1])


def test_every_script_of_the_lesson_is_among_them(printed):
    scripts = {command.split()[1] for command in printed}
    assert scripts >= {"data/make_toy.py", "cifar10_resnet50.py", "imagenet_dummy_label.py",
                       "stochastic_resblock.py", "Rand_Augment.py", "data_generator.py", "eval.py",
                       "predict.py", "data/make_corrupted.py", "robustness.py"}


def test_the_lesson_ends_with_a_student_above_its_teacher(printed):
    teacher, = (text for command, text in printed.items() if "cifar10_resnet50" in command)
    student, = (text for command, text in printed.items() if "data_generator" in command)
    # Noise alone is worth far more than that with so few labels.
    assert accuracy(student) > accuracy(teacher) + 10
    answers, = (text for command, text in printed.items() if "--report" in command)
    # One seed shows nothing about the method.
    assert "Is the noisy student better than its teacher?  one seed" in answers


def test_every_picture_and_link_of_the_readme_is_there():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    for target in links + re.findall(r'<img src="([^"]+)"', README):
        assert (ROOT / target).exists(), target


def test_the_real_tables_are_what_their_runs_say(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "draw_all", lambda *_: [])
    evaluate(ROOT / "results" / "real" / "runs" / "500-labels", "--out", tmp_path)
    made = (tmp_path / "results.md").read_text(encoding="utf-8")
    kept = ROOT / "results" / "real" / "500-labels" / "results.md"
    assert made == kept.read_text(encoding="utf-8")
    for document in (README, (ROOT / "results" / "real" / "README.md").read_text(encoding="utf-8")):
        table = document.split("\n| cell ")[1].split("\n\n")[0]
        numbers = re.findall(r"\d+\.\d\d", table)
        assert len(numbers) > 5 and all(number in made for number in numbers)
        answers = document.split("\n| question ")[1].split("\n\n")[0].splitlines()[2:]
        for line in answers:
            question, answer = line.strip("| ").split(" | ")
            assert f"| {question} " in made and f" {answer} " in made
