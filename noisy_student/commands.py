"""Runs an experiment's commands, each after the one it needs, here or on many machines."""

import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from noisy_student.files import UserError

SCRIPTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# On Linux a script dies with the process that started it, and leaves its folder to the next one.
TOGETHER = ("import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])")
# Environment variables that say how many threads a script computes on.
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
# Harmless messages of TensorFlow's start that cannot be switched off; they would stand above every
# command.
GREETINGS = ("WARNING: All log messages before absl::InitializeLog() is called are written",
             "oneDNN custom operations are on.")


# Set for the commands of an experiment, which knows itself what comes next.
WITHIN = "NOISY_STUDENT_EXPERIMENT"


class Command(NamedTuple):
    """A script and its arguments, and the title of the command that has to be done before it."""

    title: str
    words: list
    need: str | None = None


def flags_of(chosen):
    """The flags by which a command line chooses {name: value}, as words."""
    words = []
    for name, value in chosen.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, list):
            words += [flag, *value]
        elif value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words += [flag, str(value)]
    return words


def settings_of(flags):
    """{"noise": "none", "hard": "True"} of "--noise none --hard"."""
    settings, parts = {}, flags.split()
    for flag, value in zip(parts, [*parts[1:], "--"]):
        if flag.startswith("--"):
            settings[flag[2:].replace("-", "_")] = "True" if value.startswith("--") else value
    return settings


def not_followed(settings, arguments, how):
    """In words, which of some settings, {name: text}, the arguments of a run have otherwise."""
    return [f"{how} --{key.replace('_', '-')} {arguments.get(key)}"
            for key, value in settings.items() if str(arguments.get(key)) != value]


def otherwise_than(flags, arguments):
    """In words, which of a cell's flags the arguments of a training have otherwise."""
    # A cell is under all noise where its flags do not say so; step 1 knows none.
    return not_followed({"noise": "all"} | settings_of(flags), {"noise": "none"} | arguments,
                        "with")


def say_next(*words):
    """Prints the command that comes next, to be pasted; not within an experiment."""
    if WITHIN not in os.environ:
        print(f"Next: python {shlex.join(map(str, words))}")


def as_flags(kind, flags):
    """Flags as the user types them: within an experiment after --label-flags, say."""
    return f'--{kind}-flags "{flags}"' if WITHIN in os.environ else flags


def beside(folder, name):
    """The path of another folder beside this one."""
    return os.path.join(os.path.dirname(os.path.normpath(folder)), name)


def trained_beside(folder):
    """The paths of all finished trainings that lie where this one does, itself included."""
    around = os.path.dirname(os.path.normpath(folder))
    names = sorted(os.listdir(around or "."))
    paths = [os.path.join(around, name) for name in names]
    return [path for path in paths if os.path.exists(os.path.join(path, "model.keras"))]


def labels_next(data, teacher):
    """The command by which a teacher labels what its Dataset has without a label."""
    drawn = os.path.join(data.name, "unlabeled")
    images = drawn if os.path.isdir(drawn) else "rest" if len(data.rest) else "photos/"
    name = os.path.basename(os.path.normpath(teacher))
    labels = "pseudo" if name == "teacher" else f"pseudo_of_{name.removesuffix('_teacher')}"
    return ["imagenet_dummy_label.py", images, "--teacher", teacher, "--keep-share", "0.5",
            "--out", beside(teacher, labels)]


def student_next(labels, data=None):
    """The command by which a student learns from labels.

    Args:
        data: the data set, where the labels do not tell.
    """
    name = os.path.basename(os.path.normpath(labels))
    _, _, of = name.partition("_of_")
    student = f"student_of_{of}" if of else "student"
    known = ["--data", data] if data else []
    return ["data_generator.py", "--pseudo", labels, *known, "--log-dir", beside(labels, student)]


def run(command, threads=None):
    """Runs a command, on that many threads, and shows what it prints after its title."""
    title, words, _ = command
    print(f"{title} python {shlex.join(words)}", flush=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", WITHIN: "1"}
    if threads:
        for key in THREADS:
            environment.setdefault(key, str(threads))
    python = [sys.executable, *(["-c", TOGETHER] if sys.platform == "linux" else [])]
    process = subprocess.Popen([*python, os.path.join(SCRIPTS, words[0]), *words[1:]],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="backslashreplace", env=environment)
    for line in process.stdout:
        if not any(greeting in line for greeting in GREETINGS):
            print(f"{title} {line}", end="", flush=True)
    if process.wait():
        raise UserError(f"{title} failed; mend it and give the same command again")


def run_here(commands, jobs):
    """Runs at most `jobs` commands at a time, which share the cores.

    Args:
        commands: a list of them, none before what it needs.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
    done = {}

    def work(command):
        # What it needs was begun before: it is done, or at work.
        if command.need in done:
            done[command.need].result()
        run(command, threads)

    with ThreadPoolExecutor(jobs) as workers:
        try:
            for command in commands:
                done[command.title] = workers.submit(work, command)
            for future in done.values():
                future.result()
        finally:
            workers.shutdown(wait=False, cancel_futures=True)


def in_foreground(name, *words):
    """Runs a script, whose output is shown as it is. Returns: its exit status."""
    return subprocess.run([sys.executable, os.path.join(SCRIPTS, name), *words]).returncode
