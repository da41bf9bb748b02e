"""Labellings that are merged: the same labels as of all sources at once, however they were cut."""

import csv
import json
import random
import shutil
from types import SimpleNamespace

import make_toy
import numpy as np
import pytest
from conftest import label, run_in_process

import imagenet_dummy_label as step2
import noisy_student
from noisy_student import labels, runs
from noisy_student.data import load_data
from noisy_student.files import UserError

CAP = ["--threshold", 0.3, "--per-class-cap", 2]


def cut_up(toy, folder, count):
    """The toy's unlabelled pictures in `count` folders, with equal ones and files that are none.

    Returns: the folders.
    """
    sources = [folder / f"part{count}-{i}" for i in range(count)]
    for i, path in enumerate(sorted((toy / "unlabeled").iterdir())):
        sources[i % count].mkdir(exist_ok=True)
        shutil.copy(path, sources[i % count])
        if i % 7 == 0:
            shutil.copy(path, sources[i % 3 % count] / f"again-{path.name}")
        if i % 20 == 0:
            (sources[i % count] / f"{i}.png").write_bytes(b"")
    return sources


def rows(folder):
    with open(folder / "images.csv", newline="") as file:
        return sorted(json.dumps(row) for row in csv.DictReader(file))


def assert_same(one, other):
    for name in ("x.npy", "y.npy", "index.npy"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert rows(one) == rows(other)
    one, other = runs.read(one), runs.read(other)
    assert one.results == other.results
    assert one.made_from == other.made_from


@pytest.fixture
def label_own(own_network, toy, tmp_path, monkeypatch):
    # So that choices are narrowed down on the way.
    monkeypatch.setattr(step2, "BATCH", 4)
    monkeypatch.setattr(labels, "BATCH", 4)

    def run(*words, out):
        label(*words, "--teacher", own_network, "--classes", *make_toy.SHAPES, "--truth",
              toy / "truth.csv", "--out", tmp_path / out)
        return tmp_path / out
    return run


def label_parts(label_own, sources, *flags):
    return [label_own(source, *flags, "--allow-empty", out=f"{source.name}-labels")
            for source in sources]


@pytest.mark.parametrize("flags", [
    CAP, ["--threshold", 0.5], ["--keep-share", 0.4], ["--keep-share", 0.4, "--per-class-cap", 3],
    [*CAP, "--hard", "--max-repeats", 2], ["--threshold", 0.5, "--no-balance"]],
    ids=lambda flags: " ".join(map(str, flags)))
def test_parts_in_any_order_are_the_whole(flags, toy, label_own, tmp_path):
    sources = cut_up(toy, tmp_path, 5)
    whole = label_own(*sources, *flags, out="whole")
    assert len(np.load(whole / "x.npy")) > 10
    assert runs.read(whole).results["left_out"] == {"unreadable": 3, "same picture": 9}
    parts = label_parts(label_own, sources, *flags)
    label("--merge", *parts, "--out", tmp_path / "merged")
    assert_same(whole, tmp_path / "merged")
    assert (whole / "images.csv").read_bytes() == (tmp_path / "merged/images.csv").read_bytes()
    # Two at first, and the others to what came of them.
    label("--merge", parts[3], parts[0], "--out", tmp_path / "two")
    label("--merge", parts[4], tmp_path / "two", *parts[1:3], "--out", tmp_path / "shuffled")
    assert_same(whole, tmp_path / "shuffled")


def test_a_labelling_merged_with_itself_is_itself(toy, label_own, tmp_path):
    (source,) = cut_up(toy, tmp_path, 1)
    whole = label_own(source, *CAP, out="whole")
    label("--merge", whole, whole, "--out", tmp_path / "twice")
    for name in ("x.npy", "y.npy", "index.npy"):
        assert (whole / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()
    assert runs.read(whole).results["audit"] == runs.read(tmp_path / "twice").results["audit"]


def test_a_part_without_a_kept_image_counts_and_teaches_nobody(toy, label_own, tmp_path):
    sources = cut_up(toy, tmp_path, 2)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "broken.png").write_bytes(b"x")
    whole = label_own(*sources, tmp_path / "none", *CAP, out="whole")
    with pytest.raises(UserError, match="none: no readable image found"):
        label_own(tmp_path / "none", *CAP, out="none-labels")
    *parts, empty = label_parts(label_own, [*sources, tmp_path / "none"], *CAP)
    label("--merge", *parts, empty, "--out", tmp_path / "merged")
    assert_same(whole, tmp_path / "merged")
    with pytest.raises(UserError, match="none-labels: keeps no image; it is there to be merged"):
        labels.load_pseudo(empty, load_data(str(toy), 80))


@pytest.mark.parametrize("change, text", [
    (lambda run: run.arguments.update(threshold=0.4), "threshold 0.4 and 0.3"),
    (lambda run: run.arguments.update(keep_share=0.4), "keep_share 0.4 and None"),
    (lambda run: run.made_from.update(teacher_sha256="0"), "teacher_sha256 0 and "),
    (lambda run: run.results.update(temperature=1.01), "temperature 1.010 and 1.000")])
def test_parts_that_were_made_otherwise_are_refused(change, text, toy, label_own, tmp_path):
    parts = label_parts(label_own, cut_up(toy, tmp_path, 2), *CAP)
    run = runs.read(parts[1])
    change(run)
    run.save()
    with pytest.raises(UserError, match=f"1-labels and .*0-labels are not parts of one.*: {text}"):
        label("--merge", *parts, "--out", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_what_is_no_labelling_is_refused(teacher, tmp_path):
    with pytest.raises(UserError, match="holds no pseudo-labels but what cifar10_resnet50.py made"):
        label("--merge", teacher, "--out", tmp_path / "merged")


def test_a_flag_that_a_merge_takes_from_its_parts_is_refused(capsys):
    for words in (["--threshold", "0.5"], ["pool"]):
        with pytest.raises(SystemExit):
            label(*words, "--merge", "a", "b")
        assert "from the labellings that it merges" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--threshold", 0.12, "--per-class-cap", 2],
                                   ["--keep-share", 0.4, "--calibrate"]], ids=["cap", "share"])
def test_labelling_on_many_machines_is_that_of_one(flags, toy, teacher, tmp_path, monkeypatch):
    begun = []

    def run_all(order, paths, address, cpus):
        begun.extend(order)
        for command in random.Random(0).sample(order, len(order)):
            run_in_process(command)

    monkeypatch.setattr(noisy_student, "engine", SimpleNamespace(run_all=run_all), raising=False)
    sources = cut_up(toy, tmp_path, 3)
    words = [*sources, "rest", "--teacher", teacher, *flags, "--out"]
    label(*words, tmp_path / "one")
    label(*words, tmp_path / "many", "--engine", "ray")
    assert [command.title for command in begun] == [f"[{source}]" for source in [*sources, "rest"]]
    assert_same(tmp_path / "one", tmp_path / "many")
    assert not (tmp_path / "many" / "parts").exists()
    # Once more, and nothing is begun.
    label(*words, tmp_path / "many", "--engine", "ray")
    assert len(begun) == 4
