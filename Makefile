# make demo       the method on drawn pictures, in minutes, on the CPU
# make demo_all   the same with a second generation, a larger student, corrupted images, attacks
# make test       the linter, then the test suite
# make clean      deletes .venv and the drawn data sets; runs stay
#
# Each sets up .venv first, once. What is interrupted goes on when it is called again.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo demo_all test clean

demo demo_all: .venv/ready
	$(PY) experiment.py $@

test: .venv/ready
	$(PY) -m ruff check .
	$(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# A .venv that works is left as it is: it may hold what its user chose, for a GPU say.
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check
.venv/ready: pyproject.toml
	@$(PY) -c 'import keras, numba' 2> /dev/null || { \
	    $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	        echo 'error: Python 3.11 or later is needed: make PYTHON=python3.11 ...'; exit 1; }; \
	    $(PYTHON) -m venv --clear .venv && $(INSTALL) -e '.[cpu,dev]'; }
	@$(PY) -c 'import pynvml, pytest, ruff, xdist' 2> /dev/null || $(INSTALL) -e '.[dev]'
	touch $@

clean:
	rm -rf .venv data/toy data/toy-corrupted
