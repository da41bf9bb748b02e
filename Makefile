# make demo         the whole method on drawn pictures, in minutes, on the CPU
# make test         the test suite
# make experiment   all cells of the experiment, on any data:
#                   make experiment DATA=cifar10 IMAGES="photos/ rest" SEED=0 ARGS="--num-labeled 4000 --recipe fast"
#
# make clean        deletes .venv, the drawn data set, and ALL runs in logs/
#
# Each sets up .venv first, once. Whatever is interrupted goes on where it was when it is called again.

PYTHON ?= python3
PY := .venv/bin/python
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

DATA ?= cifar10
IMAGES ?=
SEED ?= 0
# For every training; for the cells with noise; for labelling.
ARGS ?=
NOISE_ARGS ?=
LABEL_ARGS ?=
RUNS ?= logs/experiment/seed$(SEED)
FIGURES ?= $(RUNS)/figures

CELLS := teacher noisy_teacher student_without_noise student student_of_noisy
# Every cell takes the same number of steps, so the article's early stopping is off.
TRAIN = --data $(DATA) --seed $(SEED) --early-stopping 0 $(ARGS) --log-dir $(RUNS)/$@
# With NAMES=1 every line says which cell it is from.
SAY = $(if $(NAMES),2>&1 | awk '{ print "[$@] " $$0; fflush() }')

.PHONY: demo test experiment clean $(CELLS) pseudo pseudo_of_noisy images_named

# Two cells at a time, a core for each: these networks are too small to keep two cores busy.
demo: .venv/ready
	$(PY) data/make_toy.py data/toy
	CUDA_VISIBLE_DEVICES=-1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 OMP_NUM_THREADS=1 \
	$(MAKE) -j2 experiment NAMES=1 DATA=data/toy IMAGES=data/toy/unlabeled RUNS=logs/demo FIGURES=figures/demo \
	    ARGS="--recipe fast --depth 14 --width 0.0625 --batch-size 32 --epochs 10 --steps-per-epoch 28 --learning-rate 0.006" \
	    NOISE_ARGS="--dropout 0.1 --augment-ops 1 --augment-magnitude 5" LABEL_ARGS="--truth data/toy/truth.csv"

test: .venv/ready
	$(PY) -m pytest -q tests

experiment: $(CELLS)
	$(PY) eval.py $(CELLS:%=$(RUNS)/%) --out $(FIGURES)

teacher: .venv/ready images_named
	$(PY) cifar10_resnet50.py $(TRAIN) $(SAY)

noisy_teacher: .venv/ready images_named
	$(PY) data_generator.py --pseudo none $(TRAIN) $(NOISE_ARGS) $(SAY)

pseudo: teacher
	$(PY) imagenet_dummy_label.py $(IMAGES) $(LABEL_ARGS) --teacher $(RUNS)/teacher --out $(RUNS)/pseudo $(SAY)

pseudo_of_noisy: noisy_teacher
	$(PY) imagenet_dummy_label.py $(IMAGES) $(LABEL_ARGS) --teacher $(RUNS)/noisy_teacher --out $(RUNS)/pseudo_of_noisy $(SAY)

student_without_noise: pseudo
	$(PY) data_generator.py --pseudo $(RUNS)/pseudo --noise none $(TRAIN) $(SAY)

student: pseudo
	$(PY) data_generator.py --pseudo $(RUNS)/pseudo $(TRAIN) $(NOISE_ARGS) $(SAY)

student_of_noisy: pseudo_of_noisy
	$(PY) data_generator.py --pseudo $(RUNS)/pseudo_of_noisy $(TRAIN) $(NOISE_ARGS) $(SAY)

images_named:
	@test -n "$(IMAGES)" || { echo 'error: which images? make experiment IMAGES="photos/ rest" (rest needs ARGS="--num-labeled N")'; exit 1; }

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf .venv logs figures data/toy
