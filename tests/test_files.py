"""Files are whole or absent, any change of them is seen, and a user's mistake is one line."""

import errno
import hashlib
import os
import stat
import subprocess
import sys
from concurrent.futures import BrokenExecutor

import numpy as np
import pytest
from conftest import PROGRAMS, ROOT

from noisy_student import files
from noisy_student.files import UserError


def refuse_sync(monkeypatch, code, folders=True):
    """fsync fails from now on, of folders or of files."""
    whole = os.fsync

    def fsync(file):
        if stat.S_ISDIR(os.fstat(file).st_mode) == folders:
            raise OSError(code, os.strerror(code))
        whole(file)

    monkeypatch.setattr(os, "fsync", fsync)


def test_file_is_whole_or_absent(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with files.whole_file(target) as path:
        path.write_text("one")
        assert not target.exists() and path.parent == target.parent
    with pytest.raises(KeyError), files.whole_file(target) as path:
        path.write_text("half")
        raise KeyError
    assert target.read_text() == "one" and list(target.parent.iterdir()) == [target]


def test_file_on_a_full_disk_leaves_the_old_one_and_is_named(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    files.write_json(path, {"a": 1})
    refuse_sync(monkeypatch, errno.ENOSPC, folders=False)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_json(path, {"a": 2})
    assert caught.value.filename == str(path)
    assert files.read_json(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_folder_need_not_be_one_that_can_be_synced_but_must_not_fail_to(tmp_path, monkeypatch):
    for code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        with monkeypatch.context() as patch:
            refuse_sync(patch, code)
            files.write_json(tmp_path / "run.json", {"code": code})
        assert files.read_json(tmp_path / "run.json") == {"code": code}
    refuse_sync(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        files.write_json(tmp_path / "run.json", {})


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


def test_every_changed_byte_of_a_record_is_seen(tmp_path):
    path = tmp_path / "run.json"
    content = {"script": "x", "arguments": {"epochs": 3, "rate": 0.1}, "made_from": {"é": None}}
    files.write_json(path, content)
    assert files.read_json(path) == content
    whole, refused = path.read_bytes(), 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 2]) + whole[at + 1:])
        try:
            # White space alone.
            assert files.read_json(path) == content
        except UserError:
            refused += 1
    assert refused > len(whole) * 0.7


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"a": 1}', "\xff", ""])
def test_what_is_no_record_is_refused(text, tmp_path):
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        files.read_json(tmp_path / "run.json")


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
