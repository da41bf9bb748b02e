"""What the documents say is so: the lesson's commands and numbers, and the tables of results/."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import PROGRAMS, ROOT, evaluate

from noisy_student import figures

sys.path.append(str(ROOT / "docs"))
import make_notebook  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")
LESSON = (ROOT / "docs" / "lesson.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*")


def commands_of(document):
    """The python commands in a document's blocks, each with the lines that it should print.

    Those of an exercise, in blocks of sh, are not among them.
    """
    expected, command = {}, None
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", document,
                                      flags=re.DOTALL | re.MULTILINE):
        lines = block.replace("\\\n", " ").splitlines()
        if language == "text":
            expected[command] = lines
        elif not language:
            for line in lines:
                command = " ".join(line.split(" #")[0].split())
                if command.startswith("python "):
                    expected[command] = []
    return expected


def close(line, printed):
    """Whether a line was printed, with numbers that another processor may come to."""
    if NUMBER.sub("#", line) != NUMBER.sub("#", printed):
        return False
    hundredths = "%" in line or "points" in line
    for number, other in zip(NUMBER.findall(line), NUMBER.findall(printed)):
        a, b = (float(text.replace(",", "")) for text in (number, other))
        # A network's accuracy after 160 steps differs by a few points.
        allowed = 0.2 * a if "." not in number else 8 if hundredths else 0.2
        if abs(a - b) > abs(allowed):
            return False
    return True


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What each command of the lesson prints: {command: text}."""
    folder = tmp_path_factory.mktemp("lesson")
    for path in (*ROOT.glob("*.py"), *ROOT.glob("data/*.py"), *ROOT.glob("noisy_student/*.py")):
        (folder / path.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(path, folder / path.relative_to(ROOT))
    commands = list(commands_of(LESSON))
    # With the kernels that a user has, on one thread: several wait for each other.
    environment = {key: value for key, value in os.environ.items()
                   if key != "TF_ENABLE_ONEDNN_OPTS"}
    result = subprocess.run([sys.executable, PROGRAMS / "lesson.py"], cwd=folder, text=True,
                            input="".join(f"{command}\n" for command in commands),
                            env=environment | {"PYTHONPATH": str(folder)}, capture_output=True)
    assert result.returncode == 0, result.stderr
    # No warning that is none.
    assert "Warning" not in result.stderr
    return dict(zip(commands, json.loads(result.stdout)))


def test_the_lesson_prints_what_it_says(printed):
    for command, lines in commands_of(LESSON).items():
        for line in lines:
            assert any(close(line, other) for other in printed[command].splitlines()), (
                f"{command}\nshould print {line}\nbut printed\n{printed[command]}")


def test_the_readmes_lesson_has_commands_of_the_lesson():
    section = README.split("\n## The lesson\n")[1].split("\n## ")[0]
    commands = commands_of(section)
    assert len(commands) > 5 and set(commands) <= set(commands_of(LESSON))
    # And the accuracies of the lesson.
    for number in re.findall(r"\d+\.\d+ %", section):
        assert number in LESSON


def test_the_order_of_the_cells_is_what_the_lesson_concludes_from(printed):
    text = "".join(printed.values())
    accuracies = [float(re.search(rf"logs/{name}: test accuracy ([\d.]+) %", text)[1])
                  for name in ("teacher", "student", "noisy_teacher", "student_of_noisy")]
    assert accuracies == sorted(accuracies)


def test_the_notebook_is_made_from_the_lesson():
    made = (ROOT / "docs" / "lesson.ipynb").read_text(encoding="utf-8")
    assert made == make_notebook.notebook(LESSON), "stale: run python docs/make_notebook.py"


def test_the_notebook_has_every_command_of_the_lesson():
    cells = json.loads(make_notebook.notebook(LESSON))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    run = [" ".join(source.removeprefix("!").replace("\\\n", " ").split())
           for source in code if source.startswith("!python ")]
    assert run == list(commands_of(LESSON))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_picture_and_link_of_a_document_is_there(path):
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", text)
    for target in links + re.findall(r'<img src="([^"]+)"', text):
        assert (path.parent / target).exists(), target


RESULTS = ROOT / "results"


@pytest.mark.parametrize("runs, kept", [("real/runs/500-labels", "real/500-labels"),
                                        ("labels-4000/runs", "labels-4000"),
                                        ("gpu/runs/all-labels", "gpu/all-labels")])
def test_published_tables_are_what_their_runs_say(runs, kept, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "draw_all", lambda *_: [])
    evaluate(RESULTS / runs, "--out", tmp_path)
    made = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert made == (RESULTS / kept / "results.md").read_text(encoding="utf-8")


def test_the_tables_of_the_documents_are_the_published_ones():
    few = (RESULTS / "real" / "500-labels" / "results.md").read_text(encoding="utf-8")
    many = (RESULTS / "gpu" / "all-labels" / "results.md").read_text(encoding="utf-8")
    table = README.split("\n| CIFAR-10 ")[1].split("\n| | ")[0].splitlines()[2:]
    assert len(table) == 6
    for line in table:
        title, with_500, with_all, _ = line.strip("| ").split(" | ")
        for made, accuracy in ((few, with_500), (many, with_all)):
            row = next(row for row in made.splitlines() if row.startswith(f"| {title} "))
            assert f" {accuracy} " in row
    real = (RESULTS / "real" / "README.md").read_text(encoding="utf-8")
    numbers = re.findall(r"\d+\.\d\d", re.search(r"\n(\| --- .*?)\n\n", real, re.DOTALL)[1])
    assert len(numbers) > 5 and all(number in few for number in numbers)
    answers = real.split("\n| question ")[1].split("\n\n")[0].splitlines()[2:]
    for line in answers:
        question, answer = line.strip("| ").split(" | ")
        assert f"| {question} " in few and f" {answer} " in few


def test_the_crossing_is_what_its_runs_say(tmp_path):
    folder = RESULTS / "crossing"
    text = (folder / "README.md").read_text(encoding="utf-8")
    command = re.search(r"`(python benchmarks/crossing.py .*)`", text)[1].split()
    subprocess.run([sys.executable, *command[1:], "--out", tmp_path], cwd=ROOT, check=True)
    made = (tmp_path / "README.md").read_text(encoding="utf-8")
    # All but the command.
    assert made.split("\n\n", 2)[2] == text.split("\n\n", 2)[2]


def test_the_first_screen_has_the_intervals_of_published_tables():
    said = README.split("\n## Does it help?\n")[1].split("\n| CIFAR-10")[0].replace("\n", " ")
    tables = "".join((RESULTS / path).read_text(encoding="utf-8") for path in (
        "crossing/README.md", "real/500-labels/results.md", "gpu/all-labels/results.md",
        "gpu/labels-4000/results.md", "labels-4000/results.md"))
    intervals = re.findall(r"([-+]?\d+\.\d+) to ([-+]?\d+\.\d+)", said)
    assert len(intervals) > 5
    for low, high in intervals:
        assert f"({low} to {high})" in tables
    accuracies = re.findall(r"\d\d\.\d\d", said)
    assert len(accuracies) > 1 and all(accuracy in tables for accuracy in accuracies)
