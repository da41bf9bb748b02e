"""A pool in parts: the same labels, however it is cut up, and in whatever order parts are done."""

import csv
import importlib
import json
import random
import shutil
from contextlib import contextmanager
from types import SimpleNamespace

import make_toy
import numpy as np
import pytest
from conftest import label

import imagenet_dummy_label as step2
import noisy_student
from noisy_student import parts, record, runs
from noisy_student.files import UserError

FLAGS = ["--threshold", 0.3, "--per-class-cap", 2]


def cut_up(toy, folder, count):
    """The toy's unlabelled pictures in so many folders: their paths, as command-line words."""
    sources = [folder / f"part{count}-{i}" for i in range(count)]
    for i, path in enumerate(sorted((toy / "unlabeled").iterdir())):
        sources[i % count].mkdir(exist_ok=True)
        shutil.copy(path, sources[i % count])
    return sources


def rows(folder):
    """Of images.csv, or of all that it is the index of."""
    with open(folder / "images.csv", newline="") as file:
        table = list(csv.DictReader(file))
    if "part" in table[0]:
        table = [row for line in table
                 for row in csv.DictReader((folder / line["part"]).open(newline=""))]
    return sorted(json.dumps(row) for row in table)


@pytest.fixture
def cluster(monkeypatch):
    """A cluster that does tasks here, two at a time, and gives back the later one first."""
    done = []

    def each(function, words):
        module, name = function.split(":")
        words = list(words)
        random.Random(cluster.order).shuffle(words)
        for arguments, _ in words:
            if len(done) == cluster.dies_after:
                raise KeyboardInterrupt
            done.append(name)
            yield getattr(importlib.import_module(module), name)(*arguments)

    @contextmanager
    def connected(address, cpus):
        yield cluster

    cluster = SimpleNamespace(each=each, done=done, dies_after=None, order=0)
    monkeypatch.setattr(noisy_student, "engine", SimpleNamespace(cluster=connected), raising=False)
    # So that choices are narrowed down on the way.
    monkeypatch.setattr(step2, "BATCH", 4)
    return cluster


@pytest.fixture
def label_own(own_network, toy, tmp_path):
    def run(*words, out):
        label(*words, *FLAGS, "--teacher", own_network, "--classes", *make_toy.SHAPES, "--truth",
              toy / "truth.csv", "--out", tmp_path / out)
        return tmp_path / out
    return run


def assert_same(one, other):
    for name in ("x.npy", "y.npy", "index.npy"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert rows(one) == rows(other)
    assert runs.read(one).results == runs.read(other).results
    assert runs.read(one).made_from == runs.read(other).made_from


@pytest.mark.parametrize("count", [1, 2, 5])
def test_parts_in_any_order_are_the_whole(count, toy, label_own, cluster, tmp_path):
    sources = cut_up(toy, tmp_path, count)
    whole = label_own(*sources, out="whole")
    assert len(np.load(whole / "x.npy")) > 10
    for cluster.order in range(3 if count == 5 else 1):
        assert_same(whole, label_own(*sources, "--engine", "ray", out=f"parts{cluster.order}"))
    tables = [record.read_table(tmp_path / out / "images.csv") for out in ("whole", "parts0")]
    (one, right), (other, as_right) = ([np.sort(column) for column in table] for table in tables)
    assert (one == other).all() and np.array_equal(right, as_right, equal_nan=True)


def test_finished_parts_are_not_labelled_again_unless_otherwise(toy, label_own, cluster, tmp_path,
                                                                capsys):
    sources = cut_up(toy, tmp_path, 5)
    words = [*sources, "--engine", "ray"]
    whole = label_own(*words, out="whole")
    cluster.done.clear()
    for cluster.dies_after, flags in ((3, ["--no-balance"]), (6, []), (None, [])):
        if cluster.dies_after:
            with pytest.raises(KeyboardInterrupt):
                label_own(*words, *flags, out="again")
    again = label_own(*words, out="again")
    # Three of other labels, three and two of these, and five tables.
    assert cluster.done == ["label_source"] * 8 + ["write_table"] * 5
    assert "3 of 5 sources are labelled already" in capsys.readouterr().out
    assert_same(whole, again)
    assert {path.suffix for path in (again / "parts").iterdir()} == {".csv"}


def test_source_that_cannot_be_read_is_named_and_the_others_go_on(toy, label_own, cluster,
                                                                  tmp_path, capsys):
    sources = cut_up(toy, tmp_path, 2)
    whole = label_own(*sources, out="whole")
    (tmp_path / "broken.tar").write_bytes(b"no archive")
    others = label_own(sources[0], tmp_path / "broken.tar", sources[1], "--engine", "ray",
                       out="others")
    assert "broken.tar/': " in capsys.readouterr().out
    assert runs.read(others).results["left_out"] == {"unreadable": 1}
    assert (whole / "x.npy").read_bytes() == (others / "x.npy").read_bytes()


def test_another_teacher_than_the_commands_own_is_refused(own_network):
    args = SimpleNamespace(teacher=str(own_network), classes=[*make_toy.SHAPES], data=None,
                           calibrate=False, images=[])
    with pytest.raises(UserError, match="network.keras: on the machine .* it is another network"):
        parts.loaded(args, "0")


def test_what_is_kept_must_have_a_limit_and_sources_must_be_there(toy, own_network, tmp_path):
    words = [toy / "unlabeled", tmp_path / "nowhere", "--engine", "ray", "--teacher", own_network]
    with pytest.raises(UserError, match="--per-class-cap N is needed"):
        label(*words)
    with pytest.raises(UserError, match="nowhere: no such folder or archive"):
        label(*words, "--per-class-cap", 9)
