"""Files are whole or absent, any change of them is seen, and a user's mistake is one line."""

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
from concurrent.futures import BrokenExecutor

import keras
import numpy as np
import pytest
from conftest import PROGRAMS, ROOT

from noisy_student import files, record, runs, training
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


def test_a_folder_in_a_files_place_is_a_users_mistake(tmp_path):
    for path in (tmp_path, "."):
        with pytest.raises(UserError, match="is a folder, and a file is to be written there"):
            with files.whole_file(path):
                pass


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


def test_nothing_is_written_as_a_pickle(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        files.write_arrays(tmp_path / "mine.npy", np.array([{"a": 1}], dtype=object))


def test_key_that_a_record_lacks_is_a_users_mistake(tmp_path):
    files.write_json(tmp_path / "run.json", content := {"é": {"a": [None, {"b": 1.5}]}})
    read = files.read_json(tmp_path / "run.json")
    assert read == content
    for lacks in (lambda: read["c"], lambda: read["é"]["a"][1]["c"]):
        with pytest.raises(UserError, match=r"run\.json: damaged, or .* it has no 'c'"):
            lacks()


# --- damaged files --------------------------------------------------------------------------------


def write_network(path):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Input((4,)), keras.layers.Dense(3, "softmax")]
    runs.save_network(keras.Sequential(layers), path)


ARRAY = np.random.default_rng(0).random((20, 3)).astype(np.float32)


def write_predictions(path):
    runs.Run(str(path.parent), "", {}, {}).save_predictions(test=(ARRAY, np.arange(20) % 3))


def read_predictions(path):
    """As of a run whose record vouches for whatever is in the file."""
    run = runs.Run(str(path.parent), "", {}, {}, sha256={path.name: files.sha256(path)})
    return run.predictions("test")


def write_history(path):
    training.write_history(path, [{"epoch": 1, "loss": 0.123456789, "accuracy": 0.123456789,
                                   "val_loss": 0.123456789}])


# Every file that is read back: what writes a whole one, and what reads it.
READERS = {
    "run.json": (lambda path: files.write_json(path, {"a": [1, {"b": 0.5}]}), files.read_json),
    "x.npy": (lambda path: files.write_arrays(path, ARRAY), files.read_arrays),
    "backup.npz": (lambda path: files.write_arrays(path, a=ARRAY, b=ARRAY), files.read_arrays),
    "predictions.npz": (write_predictions, read_predictions),
    "history.csv": (write_history, training.read_history),
    "truth.csv": (lambda path: path.write_text('a/1.png,"cat"\na/2.png,"dog"\n'),
                  lambda path: record.Truth(str(path), ["cat", "dog"])),
    "model.keras": (write_network, runs.load_network),
}
# Whole files that are something else, for whoever reads arrays or networks.
OTHERS = {
    "pickle.npy": lambda path: np.save(path, np.array([{"a": 1}], dtype=object)),
    "pickle.npz": lambda path: np.savez(path, a=np.array([{"a": 1}], dtype=object)),
    "archive.npy": lambda path: np.savez(open(path, "wb"), a=ARRAY),
    "lambda.keras": lambda path: keras.Sequential([
        keras.layers.Input((4,)), keras.layers.Lambda(lambda x: x)]).save(path),
}


@pytest.fixture(params=READERS)
def whole(request, tmp_path):
    """The path of a whole file, and what reads it."""
    write, read = READERS[request.param]
    path = tmp_path / request.param
    write(path)
    return path, read


def test_a_whole_file_is_read(whole):
    path, read = whole
    assert read(path) is not None


@pytest.mark.parametrize("damage", [
    lambda content: content[:2 * len(content) // 3],
    lambda content: b"\x80" + content[1:-6] + b"\xff" * 6,
    lambda content: b"\x89PNG\r\n\x1a\n\0\0"], ids=["cut", "both ends", "a picture"])
def test_a_damaged_file_is_one_line_that_names_it(damage, whole):
    path, read = whole
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_what_chance_makes_of_a_file_is_read_or_is_one_line(whole):
    path, read = whole
    content, rng, refused = path.read_bytes(), random.Random(0), 0
    for number in range(1, 21):
        damaged = bytearray(content)
        for _ in range(number):
            damaged[rng.randrange(min(len(damaged), 500))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 5


@pytest.mark.parametrize("name", OTHERS)
def test_pickles_and_code_are_refused(name, tmp_path):
    path = tmp_path / name
    OTHERS[name](path)
    read = runs.load_network if path.suffix == ".keras" else files.read_arrays
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[1]", "3", "{", "\xff", "", "[" * 9999])
def test_what_is_no_record_is_refused(text, tmp_path):
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        files.read_json(tmp_path / "run.json")


# --- a user's mistakes ----------------------------------------------------------------------------


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


def test_ctrl_c_does_not_wait_for_a_call_to_return():
    result = subprocess.run([sys.executable, PROGRAMS / "interrupted.py"], capture_output=True,
                            env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True)
    assert (result.stdout, result.stderr) == ("", f"{files.INTERRUPTED}\n")
    assert result.returncode == 130


def test_after_that_ctrl_c_is_pythons_own_again():
    before = signal.getsignal(signal.SIGINT)
    with files.interrupted_at_once():
        pass
    assert signal.getsignal(signal.SIGINT) == before and signal.set_wakeup_fd(-1) == -1


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError):
        files.run_script({}.__getitem__, "bug")


def test_console_that_does_not_know_a_letter_shows_its_number():
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "cp1252"}
    result = subprocess.run([sys.executable, PROGRAMS / "console.py"], env=environment,
                            capture_output=True, text=True, encoding="cp1252")
    assert (result.returncode, result.stdout) == (1, "class \\u732b\n")
    assert result.stderr == "error: no image of \\u732b\n"
