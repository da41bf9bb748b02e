"""Files are whole or absent, any change of them is seen, and a user's mistake is one line."""

import errno
import hashlib
import os
import subprocess
import sys
from concurrent.futures import BrokenExecutor

import numpy as np
import pytest
from conftest import PROGRAMS, ROOT

from noisy_student import files
from noisy_student.files import UserError


def test_file_is_whole_or_absent(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with files.whole_file(target) as path:
        path.write_text("one")
        assert not target.exists() and path.parent == target.parent
    with pytest.raises(KeyError), files.whole_file(target) as path:
        path.write_text("half")
        raise KeyError
    assert target.read_text() == "one" and list(target.parent.iterdir()) == [target]


@pytest.mark.skipif(os.name != "posix", reason="no links")
def test_what_a_killed_run_or_a_stranger_left_is_not_written_through(tmp_path, monkeypatch):
    (tmp_path / "mine").write_text("thesis")
    monkeypatch.setattr(files, "OCCUPIED", {tmp_path.resolve(): None})
    (tmp_path / ".unfinished-a.txt").symlink_to(tmp_path / "mine")
    with files.whole_file(tmp_path / "a.txt") as path:
        path.write_text("one")
    assert (tmp_path / "mine").read_text() == "thesis" and not (tmp_path / "a.txt").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "a.txt"}


def test_two_processes_that_write_one_file_do_not_meet(tmp_path):
    with files.whole_file(tmp_path / "a.txt") as ours:
        ours.write_text("ours")
        with files.whole_file(tmp_path / "a.txt") as theirs:
            theirs.write_text("theirs")
        assert (tmp_path / "a.txt").read_text() == "theirs"
    assert (tmp_path / "a.txt").read_text() == "ours"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_file_on_a_full_disk_leaves_the_old_one_and_is_named(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    files.write_json(path, {"a": 1})

    def fsync(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_json(path, {"a": 2})
    assert caught.value.filename == str(path)
    assert files.read_json(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_sha256_of_files_and_values_one_after_the_other(tmp_path):
    content = np.random.default_rng(0).bytes((1 << 20) + 5)
    (tmp_path / "a").write_bytes(content)
    array = np.arange(12, dtype=np.int16).reshape(3, 4)
    expected = hashlib.sha256(content + array.T.tobytes() + b"end").hexdigest()
    assert files.sha256(tmp_path / "a", array.T, b"end") == expected
    assert files.sha256(str(tmp_path / "a"), array, b"end") != expected


def test_arrays_come_back_as_they_were(tmp_path):
    x, text = np.random.default_rng(0).normal(size=(5, 3)), np.array('{"é": 1}')
    files.write_arrays(tmp_path / "x.npy", x)
    files.write_arrays(tmp_path / "all.npz", x=x, text=text)
    assert np.array_equal(files.read_arrays(tmp_path / "x.npy"), x)
    assert isinstance(files.read_arrays(tmp_path / "x.npy", mmap_mode="r"), np.memmap)
    read = files.read_arrays(tmp_path / "all.npz")
    assert list(read) == ["x", "text"] and read["text"] == text and np.array_equal(read["x"], x)


def test_pickles_and_other_files_are_refused_by_name(tmp_path):
    forbidden = np.array([{"a": 1}], dtype=object)
    np.save(tmp_path / "object.npy", forbidden, allow_pickle=True)
    np.savez(tmp_path / "object.npz", a=forbidden)
    files.write_arrays(tmp_path / "archive.npz", a=np.ones(3))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npy").write_text("hello")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UserError, match=f"^{path}: ") as caught:
            files.read_arrays(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="allow_pickle"):
        files.write_arrays(tmp_path / "mine.npy", forbidden)


@pytest.mark.parametrize("text", ["[1]", "3", "{", "\xff", "", "[" * 9999])
def test_what_is_no_record_is_refused(text, tmp_path):
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        files.read_json(tmp_path / "run.json")


def test_key_that_a_record_lacks_is_a_users_mistake(tmp_path):
    files.write_json(tmp_path / "run.json", content := {"é": {"a": [None, {"b": 1.5}]}})
    read = files.read_json(tmp_path / "run.json")
    assert read == content
    for lacks in (lambda: read["c"], lambda: read["é"]["a"][1]["c"]):
        with pytest.raises(UserError, match=r"run\.json: damaged, or .* it has no 'c'"):
            lacks()


@pytest.mark.parametrize("error, text, status", [
    (UserError("give a folder"), "error: give a folder", 1),
    (OSError(28, "No space left on device", "logs/x"), "error: logs/x: No space left on device", 1),
    (OSError("32 requested and 8 written"), "32 requested and 8 written (is the disk full?)", 1),
    (BrokenExecutor("a process\ndied"), "with --workers 1 needs less", 1),
    (KeyboardInterrupt(), "the same command goes on", 130),
])
def test_a_users_mistake_is_one_line(error, text, status, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        files.run_script(main)
    said = end.value.code
    if status != 1:
        assert said == status
        said = capsys.readouterr().err.strip()
    assert text in said and "\n" not in said


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError):
        files.run_script({}.__getitem__, "bug")


def test_console_that_does_not_know_a_letter_shows_its_number():
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "cp1252"}
    result = subprocess.run([sys.executable, PROGRAMS / "console.py"], env=environment,
                            capture_output=True, text=True, encoding="cp1252")
    assert (result.returncode, result.stdout) == (1, "class \\u732b\n")
    assert result.stderr == "error: no image of \\u732b\n"
