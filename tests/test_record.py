"""images.csv and the truth beside it: every image accounted for, and counts worked out by hand."""

import csv
import os

import numpy as np
import pytest

from imagenet_dummy_label import Rule
from noisy_student import record
from noisy_student.files import UserError
from noisy_student.images import Picture

NAMES = ["bird", "cat", "dog"]


def truth_of(folder, text):
    (folder / "truth.csv").write_text(text, encoding="utf-8", errors="surrogateescape")
    return record.Truth(str(folder / "truth.csv"), NAMES)


def test_truth_by_the_longest_beginning_of_whole_names(tmp_path):
    truth = truth_of(tmp_path, "n01,cat\nn01/odd.png,dog\nn0,bird\npool/x,bird\nother,teapot\n"
                     "./dot/a.png,cat\nback\\slash.png , dog\n\ndeep/photo,dog\n"
                     "pool/n01/best,bird\n")
    expected = {"n01/a.png": 1, "n01/odd.png": 2, "n01x/a.png": None, "n0/deep/a.png": 0,
                "x/1.png": 0, "other/b.png": -1, "a": None, "dot/a.png": 1, "back/slash.png": 2,
                "deep/photo.jpg": 2, "deep/photo2.jpg": None, "n01.v2/a.png": None,
                "n01/best/a.png": 0, "odd.png": None}
    assert {path: truth.of("/data/pool/", path) for path in expected} == expected
    assert truth.of("elsewhere", "x/1.png") is None
    assert (truth.matched, truth.asked) == (9, 15)


def test_truth_knows_a_source_by_its_name_from_wherever_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "pool").mkdir()
    truth = truth_of(tmp_path, "pool/x,bird\n")
    monkeypatch.chdir(tmp_path / "pool")
    for source in (".", "../pool", "./", str(tmp_path / "pool") + os.sep):
        assert truth.of(source, "x/1.png") == 0


def test_truth_that_matches_nothing_shows_an_example_of_each_side(tmp_path, capsys):
    truth = truth_of(tmp_path, "n01/1.png,cat\nn02,teapot\n")
    assert "1 lines are of none of the classes, 'n02' for one" in capsys.readouterr().out
    truth.of("pool", "images/1.png")
    truth.report()
    line = f"warning: {tmp_path / 'truth.csv'} has 'n01/1.png', and no line for 'images/1.png'\n"
    assert capsys.readouterr().out == f"truth known for 0 of 1 images\n{line}"
    truth.of("pool", "n01/1.png")
    truth.report()
    out = capsys.readouterr().out
    assert "truth known for 1 of 2 images" in out and "warning" not in out
    record.Truth(None, NAMES).report()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("text, says", [
    ("a,b,c\n", "two columns"), ("a,teapot\n", "names none of the classes bird, cat, dog"),
    ("", "names none"), ('a,"cat\n', "damaged"), ("\udcff,cat\n", "damaged")])
def test_truth_that_is_none(text, says, tmp_path):
    with pytest.raises(UserError, match=f"truth.csv: .*{says}") as error:
        truth_of(tmp_path, text)
    assert "\n" not in str(error.value)


def test_audit_counts_by_hand():
    audit = record.Audit(3, threshold=0.5)
    for of_class, truth, raw, confidence in (
            (0, 0, 0.9, 0.8), (0, 1, 0.9, 0.4), (1, 1, 0.4, 0.3), (1, -1, 0.9, 0.6),
            (2, None, 0.6, 0.5), (2, None, 0.9, 0.7), (2, 2, 0.5, 0.6)):
        audit.add(of_class, truth, raw, confidence)
    # With a cap, not all that are above the threshold.
    audit.keep([0, 1, 2], [0, -1, None])
    third = pytest.approx(1 / 3)
    assert audit.summary() == {
        "uncalibrated": {"kept": 5, "truth_known": 3, "right": 1, "precision": third,
                         "recall": 0.25},
        "above_threshold": {"kept": 4, "truth_known": 3, "right": 2,
                            "precision": pytest.approx(2 / 3), "recall": 0.5},
        "kept": {"kept": 3, "truth_known": 2, "right": 1, "precision": 0.5, "recall": 0.25}}
    lines = audit.describe(NAMES, np.array([0, 1, 1]), np.array([0, 0, 1, 2]), None,
                           True).splitlines()
    assert lines[0].startswith("above the threshold without calibration: 5, 33.3 % of the 3 whose")
    assert lines[1].startswith("above the threshold: 4, 66.7 %")
    assert [line.split() for line in lines[4:]] == [
        ["bird", "1", "2", "100.0%", "100.0%"], ["cat", "2", "2", "0.0%", "0.0%"],
        ["dog", "0", "0", "-", "0.0%"]]
    unknown = record.Audit(3, 0.5)
    unknown.keep([0, 0], [None, None])
    assert unknown.summary()["kept"]["precision"] is None
    hard, index = np.array([0, 0]), np.array([0, 1])
    assert "precision" not in unknown.describe(NAMES, hard, index, None, False)
    # A share of each class has no threshold.
    assert unknown.describe(NAMES, hard, index, 0.5, True).startswith("labelled: 0")


HALF = Rule(threshold=0.5)


def labelled(path, confidence, digest, truth=None, source="s"):
    return Picture(source, path, digest=digest, label=1, confidence=confidence,
                   raw_confidence=0.6, truth=truth)


def write_table(folder, pictures, kept, rule=HALF, spare=()):
    """Returns: the Record, the rows of its table, and what is for a merge."""
    with record.open_table(folder / "seen", "w+") as file:
        seen, digests = record.Record(file, NAMES, rule), set()
        for picture in pictures:
            seen.add(picture, picture.digest in digests)
            digests |= {picture.digest} - {b""}
        arrays = seen.write_table(folder / "images.csv", kept, spare)
    with record.open_table(folder / "images.csv") as file:
        head, *rows = csv.reader(file)
    assert tuple(head) == record.COLUMNS
    return seen, rows, arrays


def test_image_table_says_what_became_of_each(tmp_path, capsys):
    pictures = [labelled("a", 0.9, b"a" * 16, 1), labelled('b,"\n', 0.8, b"b" * 16),
                labelled("\udcff", 0.3, b"c" * 16, -1)]
    bad = [Picture("s", "d").leave_out("empty file") for _ in range(7)]
    seen, rows, arrays = write_table(tmp_path, pictures + bad, pictures[:1])
    assert rows[:4] == [
        ["s", "a", "cat", "0.9", "kept", "", "cat"],
        ["s", 'b,"\n', "cat", "0.8", "over the cap", "", ""],
        ["s", "\udcff", "cat", "0.3", "below threshold", "", "none of these"],
        ["s", "d", "", "", "unreadable", "empty file", ""]]
    assert arrays["place"].tolist() == [0, -1, -1]
    assert arrays["digest"].tobytes() == b"a" * 16 + b"b" * 16 + b"c" * 16
    seen.report()
    out = capsys.readouterr().out
    assert "7 files are not readable" in out and out.count("'s/d': empty file") == record.EXAMPLES
    confidences, right = record.read_table(tmp_path / "images.csv")
    assert confidences.tolist() == [0.9, 0.8, 0.3]
    assert np.array_equal(right, [1, np.nan, 0], equal_nan=True)


def test_equal_pictures_count_once_under_the_first_of_their_names(tmp_path, capsys):
    pictures = [labelled("z", 0.9, b"a" * 16, 0), labelled("b", 0.9, b"b" * 16, 1),
                labelled("c", 0.9, b"a" * 16, 1), labelled("y", 0.9, b"a" * 16, 0)]
    seen, rows, _ = write_table(tmp_path, pictures, [pictures[2], pictures[1]])
    assert [row[4] for row in rows] == ["same picture", "kept", "kept", "same picture"]
    assert rows[0] == ["s", "z", "", "", "same picture", "is s/c, pixel for pixel", ""]
    assert seen.histogram.sum() == 2 and seen.counts == {"same picture": 2}
    # As the truth has it of that name.
    assert seen.audit.above.right.tolist() == [0, 2, 0]
    seen.report()
    assert "2 files show the same picture as another one" in capsys.readouterr().out


def test_equal_pictures_count_under_the_name_that_a_larger_share_would_keep(tmp_path):
    # They differ in their last bits: the place in a batch may do that.
    pictures = [labelled("a", 0.8, b"a" * 16), labelled("b", 0.80000005, b"a" * 16),
                labelled("c", 0.9, b"c" * 16)]
    _, rows, arrays = write_table(tmp_path, pictures, pictures[2:], Rule(0.0, share=0.5),
                                  pictures[1:2])
    assert [row[4] for row in rows] == ["same picture", "beyond the share", "kept"]
    # Its pixels are kept for a merge, and are to be found there.
    assert arrays["place"].tolist() == [-1, 1, 0]


def test_a_picture_that_another_labelling_left_out_stays_left_out(tmp_path):
    # A merge: in a part of it, b was kept, and a was the same picture.
    seen = Picture("s", "a", digest=b"a" * 16)
    seen.leave_out("is s/b, pixel for pixel", record.SAME_PICTURE)
    pictures = [seen, labelled("b", 0.8, b"a" * 16), labelled("c", 0.9, b"c" * 16)]
    seen, rows, _ = write_table(tmp_path, pictures, pictures[2:], Rule(0.5, cap=1))
    assert [row[4] for row in rows] == ["same picture", "over the cap", "kept"]
    assert seen.histogram.sum() == 2


@pytest.mark.parametrize("rule, status", [
    (Rule(0.5, cap=1), "over the cap"), (Rule(0.0, share=0.5), "beyond the share"),
    (Rule(0.0, share=0.5, cap=1), "beyond the share or cap"), (Rule(0.95), "below threshold")])
def test_what_is_not_kept_says_for_which_rule(rule, status, tmp_path):
    _, rows, _ = write_table(tmp_path, [labelled("a", 0.9, b"a" * 16)], [], rule)
    assert rows[0][4] == status


@pytest.mark.parametrize("near, warns", [(1, False), (2, True)])
def test_many_near_copies_are_strange(near, warns, tmp_path, capsys):
    pictures = [labelled(f"{i}", 0.9, bytes([i] * 16)) for i in range(20)]
    pictures += [Picture("s", f"near{i}").leave_out("shows 7", "near copy") for i in range(near)]
    seen, _, _ = write_table(tmp_path, pictures, pictures[:20])
    seen.report()
    assert ("near copies are many" in capsys.readouterr().out) == warns
