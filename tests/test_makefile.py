"""make: an environment that works is left alone, and no run is ever deleted."""

import os
import shutil
import subprocess

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="no make here")


@pytest.fixture
def make(tmp_path):
    """Calls make in a folder whose .venv has a Python of sh: it imports all but what it `lacks`.

    PYTHON, which would make a .venv, is one that is too old. Returns: what make printed.
    """
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    # As from a shell, even if make itself runs the tests.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}

    def call(*words, lacks="nothing"):
        python = tmp_path / ".venv" / "bin" / "python"
        python.write_text(f'#!/bin/sh\ncase "$2" in *{lacks}*) exit 1;; pip) echo "$@";; esac\n')
        (tmp_path / "old").write_text('#!/bin/sh\n[ "$1" != -c ]\n')
        for program in (python, tmp_path / "old"):
            program.chmod(0o755)
        done = subprocess.run(["make", *words, "PYTHON=./old"], cwd=tmp_path, text=True,
                              env=environment, capture_output=True)
        return done.stdout
    return call


def test_an_environment_that_works_is_left_as_it_is(make):
    assert make(".venv/ready") == "touch .venv/ready\n"


def test_an_environment_that_can_train_gets_nothing_but_the_tools_for_tests(make):
    installed, _ = make(".venv/ready", lacks="ruff").splitlines()
    assert installed.endswith(" -e .[dev]")


def test_without_a_python_that_is_new_enough_nothing_is_deleted(make, tmp_path):
    assert make(".venv/ready", lacks="keras").startswith("error: Python 3.11 or later is needed")
    assert (tmp_path / ".venv" / "bin" / "python").exists()


def test_a_later_list_of_packages_is_looked_at_again(make, tmp_path):
    make(".venv/ready")
    os.utime(tmp_path / "pyproject.toml", (2**32, 2**32))
    assert make(".venv/ready", lacks="ruff").count(" -e .[dev]") == 1


def test_clean_deletes_no_run(make, tmp_path):
    (tmp_path / "logs" / "teacher").mkdir(parents=True)
    make("clean")
    assert (tmp_path / "logs" / "teacher").is_dir() and not (tmp_path / ".venv").exists()
