"""Files that are whole or absent, and users' mistakes that are one line. Imports no Keras."""

import codecs
import contextlib
import csv
import hashlib
import io
import json
import os
import pathlib
import secrets
import signal
import socket
import sys
import threading
from concurrent.futures import BrokenExecutor

import filelock
import numpy as np

# Begins the name of a file that is being written.
UNFINISHED = ".unfinished-"
# The file that keeps a folder for one process.
LOCK = ".lock"
# Folders that this process writes to, and the locks that keep them.
OCCUPIED = {}
INTERRUPTED = "\ninterrupted; the same command goes on (a training after its last finished epoch)"


class UserError(ValueError):
    """Something the user can put right: shown as one line, without a traceback."""


def printable(text):
    """Text in one line: whatever moves a cursor or a line, or is no character, is a question mark.

    A folder's name may hold such bytes, and would write lines of its own.
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def first_line(error):
    """What an exception says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def reading(path):
    """Turns whatever goes wrong while a file is read into one line that names it.

    Raises: UserError. Decoders that are fed with broken bytes raise almost anything else.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: damaged, or not what is expected "
                        f"({type(error).__name__}: {first_line(error)})") from error


@contextlib.contextmanager
def whole_file(path):
    """Gives a path beside `path` to write to, and renames it once all of it is on the disk.

    Two processes may write the same file, where neither occupies its folder: the last one's stays.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, and a file is to be written there")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{UNFINISHED}{path.name}")
    if not OCCUPIED.keys() & set(path.resolve().parents):
        beside = path.with_name(f"{UNFINISHED}{secrets.token_hex(4)}-{path.name}")
    # What a killed run left, or a link that somebody put there.
    beside.unlink(missing_ok=True)
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        # A full disk does not say which file it had no room for.
        error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)


def occupy(folder, flag="--log-dir"):
    """Keeps a folder for this process."""
    folder = pathlib.Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK, is_singleton=True)
    try:
        # The system frees it when the process ends, however it ends.
        lock.acquire(timeout=0.5)
    except filelock.Timeout:
        raise UserError(f"{folder}: another run is writing there right now; let it finish, "
                        f"or choose another {flag}") from None
    except (NotImplementedError, OSError) as error:
        if not os.access(folder, os.W_OK):
            raise
        print(f"warning: {folder} cannot be locked ({error}): "
              "see to it yourself that no other run writes there")
    OCCUPIED[folder] = lock


def sha256(*parts):
    """The sha256 of files (paths) and of values (bytes, arrays), one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, (str, pathlib.Path)):
            with open(part, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        else:
            digest.update(np.ascontiguousarray(part) if isinstance(part, np.ndarray) else part)
    return digest.hexdigest()


def write_arrays(path, *array, **arrays):
    """Writes one array to a .npy, or named ones to a .npz."""
    content = io.BytesIO()
    if array:
        np.save(content, *array, allow_pickle=False)
    else:
        np.savez(content, **arrays)
    # In memory first: a zip archive that meets a full disk complains more than once.
    with whole_file(path) as beside:
        beside.write_bytes(content.getbuffer())


def read_arrays(path, mmap_mode=None):
    """The array in a .npy, or {name: array} of a .npz: numbers only, no pickles.

    Raises: UserError, for anything else.
    """
    with reading(path):
        arrays = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
        if pathlib.Path(path).suffix == ".npz":
            with arrays:
                return dict(arrays)
        if not isinstance(arrays, np.ndarray):
            raise UserError(f"{path}: an archive, where one array is expected")
        return arrays


class Record(dict):
    """A dictionary from a file, in which a key that is missing is a UserError."""

    def __init__(self, items, path=None):
        super().__init__(items)
        self.path = path

    def __missing__(self, key):
        raise UserError(f"{self.path}: damaged, or not what is expected of this version: "
                        f"it has no {key!r}")


def write_json(path, content):
    """Writes a dictionary."""
    with whole_file(path) as beside:
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_text(path):
    """A text as editors save it: UTF-8, or UTF-16 after a byte order mark, which is cut."""
    content = pathlib.Path(path).read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def read_csv(path):
    """The rows of a table, without empty ones, and without blanks around cells.

    Spreadsheets write semicolons in many countries: the first line tells what parts its cells.
    """
    text = read_text(path)
    delimiter = max(",;\t|", key=(text.splitlines() or [""])[0].count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    return [[cell.strip() for cell in row] for row in rows if any(map(str.strip, row))]


def read_json(path):
    """The dictionary in a JSON file, a Record. Raises: UserError, where there is none."""
    with reading(path):
        text = pathlib.Path(path).read_text(encoding="utf-8")
        return Record(json.loads(text, object_hook=lambda items: Record(items, path)), path)


def run_script(main, *arguments):
    """Runs a script's main(). A user's mistake becomes one line and exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        # A file's name or a class's may hold letters that this console does not know.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        sys.exit(main(*arguments))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(130)
    except BrokenExecutor:
        sys.exit("error: a process that decodes images was killed, perhaps for want of memory; "
                 "the same command begins anew, and with --workers 1 needs less")
    except OSError as error:
        # NumPy only counts what it wrote when a disk is full.
        reason = error.strerror or f"{first_line(error)} (is the disk full?)"
        name = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {name}{reason}. Nothing half-written is left; "
                 "the same command goes on once that is put right")


@contextlib.contextmanager
def interrupted_at_once():
    """Within, Ctrl-C ends this process at once: for what leaves whole files, however it ends.

    Python itself heeds it when a call returns, and TensorFlow returns after a step of training:
    with the article's network on two cores, after 14 to 28 s.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    ours, signals = socket.socketpair()
    signals.setblocking(False)

    def wait():
        while number := ours.recv(1):
            if number[0] == signal.SIGINT:
                print(INTERRUPTED, file=sys.stderr, flush=True)
                os._exit(130)

    threading.Thread(target=wait, daemon=True).start()
    # The number of a signal is written to the socket only if something handles it.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.set_wakeup_fd(signals.fileno())
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signals.close()
