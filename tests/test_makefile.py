"""make: an environment that works is left alone, and no run is ever deleted."""

import os
import shutil
import subprocess

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="no make here")


@pytest.fixture
def make(tmp_path):
    """Calls make in a folder of its own, where a Python is a script of sh."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name, does in (("old", '[ "$1" != -c ]'), ("good", "exit 0"), ("broken", "exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    # As from a shell, even if make itself runs the tests.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return lambda *words: subprocess.run(["make", *words], cwd=tmp_path, text=True,
                                         env=environment, capture_output=True)


@pytest.mark.parametrize("there, said", [("good", ""), ("broken", "error: Python 3.11 or later")])
def test_only_an_environment_that_does_not_work_is_made_anew(there, said, make, tmp_path):
    shutil.copy(tmp_path / there, tmp_path / ".venv" / "bin" / "python")
    assert make(".venv/ready", "PYTHON=./old").stdout.startswith(said)
    assert (tmp_path / ".venv" / "bin" / "python").exists()
    assert (tmp_path / ".venv" / "ready").exists() == (there == "good")


def test_clean_deletes_no_run(make, tmp_path):
    (tmp_path / "logs" / "teacher").mkdir(parents=True)
    assert make("clean").returncode == 0 and not (tmp_path / ".venv").exists()
    assert (tmp_path / "logs" / "teacher").is_dir()
