"""The page: everything in it, each once, nothing that does not belong in it, no network."""

import base64
import html
import html.parser
import os
from types import SimpleNamespace

import pytest
from PIL import Image

from noisy_student import report


class Answer(SimpleNamespace):
    def __str__(self):
        return self.words


ANSWERS = [
    Answer(question="Does noise help?", words="yes, by 2.1 points (1.6 to 2.7)", points=2.1,
           per_seed=[1.9, 2.3], shown=True),
    Answer(question="Is <b>it</b> worth it?", words="no, it costs 3.0 points", points=-3.0,
           per_seed=[-3.0], shown=True),
    Answer(question="And then?", words="not shown: +0.1 points, p < 1", points=0.1,
           per_seed=[0.1, -0.2], shown=False)]
SECTIONS = {"The cells": ("Means & deviations.", ["cell", "accuracy", "article"],
                          [["teacher \"1\"", "47.97 ± 1.18 %", "88.39 %"], ["学生", "46 %", "-"]])}


class Tags(html.parser.HTMLParser):
    """Every element's name and attributes, and those that are open in the end."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, name):
        return [attributes for tag, attributes in self.found if tag == name]


@pytest.fixture
def write(tmp_path):
    def page(answers=ANSWERS, sections=SECTIONS, pictures=(), photos=(), conditions=()):
        path = report.write_page(tmp_path / "report.html", "my <data>", answers, sections, pictures,
                                 photos, conditions)
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


def test_the_answers_come_first_in_words_and_once(write, picture):
    text = write(pictures=[picture("accuracy.png")])
    for answer in ANSWERS:
        assert text.count(html.escape(str(answer))) == 1
    assert text.index("no, it costs") < text.index("<img") < text.index("<table")
    assert '<dd class="yes">yes, by' in text and '<dd class="no">no, it' in text
    assert '<dd class="open">not shown' in text
    assert "each seed: +1.9, +2.3" in text


def test_all_text_is_escaped_and_all_elements_are_closed(write, picture):
    text = write(conditions=[("by <me>", "a && b <c>")], photos=[picture("<i>x/montage.png")])
    assert "<b>" not in text and "<i>" not in text and "<c>" not in text
    for escaped in ("my &lt;data&gt;", "&lt;b&gt;it", "Means &amp; dev", "teacher &quot;1&quot;",
                    "p &lt; 1", "by &lt;me&gt;", "a &amp;&amp; b &lt;c&gt;", "&lt;i&gt;x"):
        assert escaped in text
    assert Tags(text).open == []
    assert "学生" in text


def test_nothing_comes_from_elsewhere(write, picture):
    text = write(pictures=[picture("accuracy.png"), picture("answers.png")])
    assert "http" not in text and "<script" not in text and "@import" not in text
    for link in Tags(text).all("a"):
        assert link["href"].startswith("#")


def test_pictures_are_inside_with_words_for_those_who_cannot_see(write, picture):
    paths = [picture("accuracy.png"), picture("made_up.png")]
    images = Tags(write(pictures=paths)).all("img")
    for path, image in zip(paths, images, strict=True):
        kind, data = image["src"].split(",")
        assert kind == "data:image/png;base64" and base64.b64decode(data) == path.read_bytes()
    assert images[0]["alt"] == report.PICTURES["accuracy"][0] and images[1]["alt"] == "made up"


def test_every_picture_of_step_5_has_its_words():
    drawn = {"accuracy", "answers", "learning_curves", "robustness", "pseudo_labels",
             "confusion", "montage", "mistakes"}
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
    assert "<img" not in text and base64.b64encode(b"PRIVATE KEY").decode() not in text
    assert "Pictures" not in text and "Pseudo-labelled" not in text


def test_tables_become_label_and_value_on_a_phone(write):
    text = write()
    cells = Tags(text).all("td")
    assert [cell["data-label"] for cell in cells] == ["cell", "accuracy", "article"] * 2
    narrow = text[text.index("@media"):]
    assert "attr(data-label)" in narrow and "display: block" in narrow
    assert '<td data-label="accuracy">47.97 ± 1.18 %</td>' in text


def test_names_that_are_no_unicode(write):
    assert "bad ? byte" in write(conditions=[("File", "bad \udcff byte")])
