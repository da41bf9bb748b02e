"""The page: everything in it, nothing that does not belong in it, no network; commands to paste."""

import base64
import html.parser
import os
import shlex
from dataclasses import asdict

import pytest
from browser import look
from PIL import Image

from cifar10_resnet50 import recipe_of
from noisy_student import arguments, report, runs

ANSWERS = ("## The answers\n\nSays.\n\n| question | answer |\n| -- | -- |\n"
           "| Is \\<b>it? | yes & no |\n")
TABLES = "## The cells\n\n| cell | accuracy |\n| -- | -- |\n| 学生 \\| a | 47.97 ± 1.18 |\n"


class Page(html.parser.HTMLParser):
    """Every element's name and attributes, and the text of each."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes), ""))

    def handle_data(self, text):
        if self.found:
            tag, attributes, before = self.found[-1]
            self.found[-1] = tag, attributes, before + text

    def all(self, name):
        return [(attributes, text) for tag, attributes, text in self.found if tag == name]


@pytest.fixture
def write(tmp_path):
    def page(answers=ANSWERS, tables=TABLES, pictures=(), photos=(), commands=()):
        path = report.write_page(tmp_path / "report.html", "my <data>", answers, tables, pictures,
                                 photos, commands)
        return path.read_text(encoding="utf-8")
    return page


@pytest.fixture
def picture(tmp_path):
    def make(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), "red").save(path, format="PNG")
        return path
    return make


def test_answers_come_first_then_pictures_then_tables(write, picture):
    text = write(pictures=[picture("accuracy.png")], photos=[picture("seed0/pseudo/montage.png")],
                 commands=["python x.py"])
    places = [text.index(what) for what in ("The answers", "Accuracy: the share", "The cells",
                                            "What the teacher kept", "python x.py")]
    assert places == sorted(places)


def test_tables_are_tables(write):
    page = Page(write())
    assert [text.strip() for _, text in page.all("td")] == ["Is <b>it?", "yes & no", "学生 | a",
                                                           "47.97 ± 1.18"]


def test_html_is_text_wherever_it_comes_from(write, picture):
    text = write(tables="## <i>cells</i>\n\n<script>alert(1)</script>\n",
                 photos=[picture("<i>x/montage.png")], commands=["a && b <c>"])
    tags = {tag for tag, _, _ in Page(text).found}
    assert not tags & {"b", "i", "script", "c", "data"}
    assert "my &lt;data&gt;" in text and "a &amp;&amp; b &lt;c&gt;" in text


def test_nothing_comes_from_elsewhere(write, picture):
    text = write(pictures=[picture("accuracy.png"), picture("answers.png")])
    assert "http" not in text and "<script" not in text and "@import" not in text


def test_pictures_are_inside_with_words_for_those_who_cannot_see(write, picture):
    paths = [picture("accuracy.png"), picture("made_up.png")]
    images = [attributes for attributes, _ in Page(write(pictures=paths)).all("img")]
    for path, image in zip(paths, images, strict=True):
        kind, data = image["src"].split(",")
        assert kind == "data:image/png;base64" and base64.b64decode(data) == path.read_bytes()
    assert images[0]["alt"] == report.PICTURES["accuracy"][0] and images[1]["alt"] == "made up"


def test_every_picture_of_step_5_has_its_words():
    drawn = {"accuracy", "answers", "learning_curves", "robustness", "pseudo_labels", "confusion",
             "student_mistakes", "batch", "montage", "mistakes"}
    assert drawn <= set(report.PICTURES)


def test_photos_say_which_labelling_they_are_of(write, picture):
    text = write(photos=[picture("seed0/pseudo/montage.png"), picture("seed1/pseudo/mistakes.png")])
    assert "seed0/pseudo: What the teacher kept" in text and "seed1/pseudo: What the" in text


def test_only_regular_png_files_get_into_the_page(write, picture, tmp_path):
    key = tmp_path / "key"
    key.write_text("PRIVATE KEY")
    inside = picture("elsewhere.png")
    (tmp_path / "key.png").write_bytes(key.read_bytes())
    (tmp_path / "folder.png").mkdir()
    names = ["key.png", "folder.png", "absent.png"]
    if os.name == "posix":
        # A link to a key, one to a true picture, a pipe that nobody writes to.
        (tmp_path / "montage.png").symlink_to(key)
        (tmp_path / "link.png").symlink_to(inside)
        os.mkfifo(tmp_path / "pipe.png")
        names += ["montage.png", "link.png", "pipe.png"]
    paths = [tmp_path / name for name in names]
    text = write(pictures=paths, photos=paths)
    assert "<img" not in text and "Pictures" not in text and "learnt from" not in text


def test_names_that_are_no_unicode(write):
    assert "bad ? byte" in write(commands=["bad \udcff byte"])


# --- commands that can be pasted ------------------------------------------------------------------


def words_of(run, *others):
    """The words of a run's command after the script, where others were made, too."""
    lines = report.commands(*([r for r in (run, *others) if r.trained is trained]
                              for trained in (True, False)))
    (line,) = [line for line in lines if line.endswith(shlex.quote(run.folder))]
    python, script, *words = shlex.split(line)
    assert (python, script) == ("python", run.script)
    return words


def as_chosen(run):
    """What its run.json has kept of it."""
    return {key: value for key, value in run.arguments.items() if key != "classes"}


def test_a_teachers_command_asks_for_what_was_made(teacher):
    run = runs.read(teacher)
    again = vars(arguments.teacher("", words_of(run)))
    # Values of the recipe that are no flags come with its name.
    chosen = runs.as_json({**again, **asdict(recipe_of(again, labelled=72))})
    assert {key: chosen[key] for key in as_chosen(run)} == as_chosen(run)
    assert again["data"] == run.made_from["data"] and again["log_dir"] == run.folder


def test_a_labellings_command_asks_for_what_was_made(teacher, pseudo):
    teacher, pseudo = runs.read(teacher), runs.read(pseudo)
    again = vars(arguments.labelling("", words_of(pseudo, teacher)))
    assert {key: again[key] for key in as_chosen(pseudo)} == as_chosen(pseudo)
    assert again["teacher"] == teacher.folder and again["out"] == pseudo.folder


def test_a_labelling_by_share_has_no_threshold_in_its_command(pseudo):
    run = runs.read(pseudo)
    run.arguments |= {"threshold": 0.0, "keep_share": 0.6}
    again = arguments.labelling("", words_of(run))
    assert again.keep_share == 0.6 and again.teacher == "FOLDER"


def test_a_command_comes_after_those_that_it_needs(teacher, pseudo, tmp_path):
    teacher, pseudo = runs.read(teacher), runs.read(pseudo)
    student = runs.Run(str(tmp_path), "data_generator.py", {"noise": "all"},
                       {"data": "toy", "pseudo_sha256": pseudo.labels_sha256}, {"labelling": {}},
                       results={"test_accuracy": 1})
    lines = report.commands([student, teacher], [pseudo])
    assert [shlex.split(line)[-1] for line in lines] == [teacher.folder, pseudo.folder,
                                                         student.folder]


def test_a_students_command_names_its_labels(pseudo, tmp_path):
    pseudo = runs.read(pseudo)
    student = runs.Run(str(tmp_path / "my student"), "data_generator.py",
                       {"noise": "all", "early_stopping": 0, "seed": 0, "width": 0.5,
                        "labeled_share": None},
                       {"data": "a b", "pseudo_sha256": pseudo.labels_sha256},
                       {"labelling": {}}, results={"test_accuracy": 1})
    again = arguments.student("", words_of(student, pseudo))
    assert (again.pseudo, again.data, again.log_dir) == (pseudo.folder, "a b", student.folder)
    # Zeros are not left out.
    assert (again.early_stopping, again.seed, again.width) == (0, 0, 0.5)
    assert arguments.student("", words_of(student)).pseudo == "FOLDER"
    student.taught_by = None
    again = arguments.student("", words_of(student))
    # Or else logs/teacher would be asked for what is left out.
    assert (again.pseudo, again.like) == ("none", "none")


# --- in a browser ---------------------------------------------------------------------------------

def test_the_page_fits_a_desk_and_a_phone_and_shows_all_its_pictures(write, tmp_path):
    cells = " | ".join(["a cell with a long title, and numbers 12.34 ± 5.67"] * 12)
    for name, width in (("accuracy", 900), ("confusion", 2700), ("montage", 1110)):
        Image.new("RGB", (width, 600), "red").save(tmp_path / f"{name}.png")
    write(tables=f"## The cells\n\n| {cells} |\n|{' -- |' * 12}\n| {cells} |\n",
          pictures=[tmp_path / "accuracy.png", tmp_path / "confusion.png"],
          photos=[tmp_path / "montage.png"], commands=[f"python x.py {'--flag value ' * 50}"])
    assert look(tmp_path) == ([[1280, 0, 0], [390, 0, 0]], [])


def test_what_is_wrong_with_a_page_is_seen(tmp_path):
    (tmp_path / "report.html").write_text(
        '<body style="margin: 0"><div style="width: 500px">wide</div>'
        '<img src="data:image/png;base64,AAAA"><script>console.error("bad")</script>')
    found, console = look(tmp_path)
    assert found == [[1280, 0, 1], [390, 110, 1]]
    assert len(console) == 2 and all('"bad"' in line for line in console)
