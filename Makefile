# make demo         the whole method on drawn pictures, in minutes
# make test         the test suite
# make experiment   all cells of the experiment, on any data
#
# Each sets up .venv first, once.

PYTHON ?= python3
PY := .venv/bin/python

DATA ?= cifar10
IMAGES ?= rest
SEED ?= 0
ARGS ?=
LABEL_ARGS ?=
RUNS ?= logs/experiment/seed$(SEED)
FIGURES ?= $(RUNS)/figures

.PHONY: demo test experiment clean

demo: .venv/ready
	$(PY) data/make_toy.py data/toy
	$(MAKE) experiment DATA=data/toy IMAGES=data/toy/unlabeled RUNS=logs/demo FIGURES=figures/demo \
	    ARGS="--recipe fast --depth 14 --width 0.0625" LABEL_ARGS="--truth data/toy/truth.csv"

test: .venv/ready
	$(PY) -m pytest -q tests

# Every cell takes the same number of steps, so the article's early stopping is off.
TRAIN = --data $(DATA) --seed $(SEED) --early-stopping 0 $(ARGS)

experiment: .venv/ready
	$(PY) cifar10_resnet50.py $(TRAIN) --log-dir $(RUNS)/teacher
	$(PY) data_generator.py $(TRAIN) --pseudo none --log-dir $(RUNS)/noisy_teacher
	$(PY) imagenet_dummy_label.py $(IMAGES) $(LABEL_ARGS) --teacher $(RUNS)/teacher --out $(RUNS)/pseudo
	$(PY) data_generator.py $(TRAIN) --pseudo $(RUNS)/pseudo --noise none --log-dir $(RUNS)/student_without_noise
	$(PY) data_generator.py $(TRAIN) --pseudo $(RUNS)/pseudo --log-dir $(RUNS)/student
	$(PY) imagenet_dummy_label.py $(IMAGES) $(LABEL_ARGS) --teacher $(RUNS)/noisy_teacher --out $(RUNS)/pseudo_of_noisy
	$(PY) data_generator.py $(TRAIN) --pseudo $(RUNS)/pseudo_of_noisy --log-dir $(RUNS)/student_of_noisy
	$(PY) eval.py $(RUNS)/teacher $(RUNS)/noisy_teacher $(RUNS)/student_without_noise $(RUNS)/student \
	    $(RUNS)/student_of_noisy --out $(FIGURES)

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf .venv logs figures data/toy
