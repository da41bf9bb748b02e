# make demo         the whole method on drawn pictures, in minutes, on the CPU
# make demo_all     the same with a second generation, a larger student, corrupted and attacked images: a quarter of an hour
# make test         the test suite
# make experiment   all cells of the experiment, for every seed, on any data, and what they show:
#                   make experiment DATA=cifar10 IMAGES="photos/ rest" SEEDS="0 1 2" ARGS="--num-labeled 4000 --recipe fast"
#                   make experiment ... ABLATIONS="student_calibrated student_input_noise"       these too
#
# make clean        deletes .venv, the drawn data sets, and ALL runs in logs/
#
# Each sets up .venv first, once. Whatever is interrupted goes on where it was when it is called again.

PYTHON ?= python3
PY := .venv/bin/python
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

DATA ?= cifar10
IMAGES ?=
SEEDS ?= 0
# For every training; for the cells with noise; for labelling; for eval.py.
ARGS ?=
NOISE_ARGS ?=
LABEL_ARGS ?=
EVAL_ARGS ?=
# The larger student: one step of --depth (14, 26, 50, 101, 152) above the others.
LARGER ?= --depth $(or $(if $(findstring --depth 14,$(ARGS)),26),$(if $(findstring --depth 26,$(ARGS)),50),$\
                       $(if $(findstring --depth 101,$(ARGS)),152),101)
LOGS ?= logs/experiment
FIGURES ?= $(LOGS)/figures

CELLS := teacher noisy_teacher student_without_noise student student_of_noisy second_generation larger_student
ABLATIONS ?=
# Known ablations, each a student with one thing changed:
#   student_input_noise student_model_noise      RandAugment alone; stochastic depth and dropout alone
#   student_article_noise                        the article's noise, whatever NOISE_ARGS says
#   student_calibrated student_low_threshold student_hard student_unbalanced     other pseudo-labels
#   student_of_rest student_of_photos            one pool alone: what `rest` holds, or what is not `rest`
#   student_of_noisy_low                         the noisy teacher's, at the lower threshold

# One seed is one call of make, with RUNS and SEED set. Every cell takes the same number of steps, so the article's
# early stopping is off.
TRAIN = --data $(DATA) --seed $(SEED) --early-stopping 0 $(ARGS) --log-dir $(RUNS)/$@
LABEL = $(PY) imagenet_dummy_label.py $(POOL) $(LABEL_ARGS) $(LABEL_MORE) --out $(RUNS)/$@ --teacher $(RUNS)
STUDENT = $(PY) data_generator.py $(TRAIN) $(NOISE) --pseudo $(RUNS)
POOL = $(IMAGES)
NOISE = $(NOISE_ARGS)
# With NAMES=1 every line says which cell it is from.
SAY = $(if $(NAMES),2>&1 | awk '{ print "[seed $(SEED) $@] " $$0; fflush() }')

.PHONY: demo demo_all test experiment one_seed clean images_named $(CELLS) $(ABLATIONS)

# Two cells at a time, a core for each: these networks are too small to keep two cores busy.
TOY := CUDA_VISIBLE_DEVICES=-1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 OMP_NUM_THREADS=1 \
	$(MAKE) -j2 experiment NAMES=1 DATA=data/toy IMAGES=data/toy/unlabeled LOGS=logs/demo FIGURES=figures/demo \
	    ARGS="--recipe fast --depth 14 --width 0.0625 --batch-size 32 --epochs 10 --steps-per-epoch 28 --learning-rate 0.006" \
	    NOISE_ARGS="--dropout 0.1 --augment-ops 1 --augment-magnitude 5" LABEL_ARGS="--truth data/toy/truth.csv"

demo: data/toy/truth.csv
	$(TOY) CELLS="teacher noisy_teacher student_without_noise student student_of_noisy" EVAL_ARGS="--report figures/demo/report.html"

demo_all: data/toy/truth.csv data/toy-corrupted/labels.npy
	$(TOY) EVAL_ARGS="--report figures/demo/report.html --corrupted data/toy-corrupted --adversarial --robust-images 200"

data/toy/truth.csv: .venv/ready
	$(PY) data/make_toy.py data/toy

data/toy-corrupted/labels.npy: data/toy/truth.csv
	$(PY) data/make_corrupted.py data/toy data/toy-corrupted --images 200

test: .venv/ready
	$(PY) -m pytest -q tests

experiment: .venv/ready images_named
	for seed in $(SEEDS); do $(MAKE) one_seed SEED=$$seed RUNS=$(LOGS)/seed$$seed; done
	$(PY) eval.py $(SEEDS:%=$(LOGS)/seed%) --out $(FIGURES) $(EVAL_ARGS)

one_seed: $(CELLS) $(ABLATIONS)

teacher:
	$(PY) cifar10_resnet50.py $(TRAIN) $(SAY)

noisy_teacher:
	$(PY) data_generator.py --pseudo none $(TRAIN) $(NOISE) $(SAY)

pseudo pseudo_calibrated pseudo_low_threshold pseudo_hard pseudo_unbalanced pseudo_rest pseudo_photos: teacher
	$(LABEL)/teacher $(SAY)

pseudo_of_noisy pseudo_of_noisy_low: noisy_teacher
	$(LABEL)/noisy_teacher $(SAY)

pseudo_of_student: student
	$(LABEL)/student $(SAY)

student_without_noise: pseudo
	$(STUDENT)/pseudo --noise none $(SAY)

student student_article_noise: pseudo
	$(STUDENT)/pseudo $(SAY)

student_of_noisy: pseudo_of_noisy
	$(STUDENT)/pseudo_of_noisy $(SAY)

second_generation: pseudo_of_student
	$(STUDENT)/pseudo_of_student $(SAY)

larger_student: pseudo
	$(STUDENT)/pseudo $(LARGER) $(SAY)

student_input_noise: pseudo
	$(STUDENT)/pseudo --noise input $(SAY)

student_model_noise: pseudo
	$(STUDENT)/pseudo --noise model $(SAY)

# student_calibrated learns from pseudo_calibrated, and so on.
student_calibrated student_low_threshold student_hard student_unbalanced: student_%: pseudo_%
	$(STUDENT)/$< $(SAY)

student_of_rest student_of_photos: student_of_%: pseudo_%
	$(STUDENT)/$< $(SAY)

student_of_noisy_low: pseudo_of_noisy_low
	$(STUDENT)/$< $(SAY)

student_article_noise: NOISE =
pseudo_calibrated: LABEL_MORE = --calibrate
pseudo_low_threshold pseudo_of_noisy_low: LABEL_MORE = --threshold 0.3
pseudo_hard: LABEL_MORE = --hard
pseudo_unbalanced: LABEL_MORE = --no-balance
pseudo_rest: POOL = rest
pseudo_photos: POOL = $(filter-out rest,$(IMAGES))

images_named:
	@test -n "$(IMAGES)" || { echo 'error: which images? make experiment IMAGES="photos/ rest" (rest needs ARGS="--num-labeled N")'; exit 1; }

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf .venv logs figures data/toy data/*-corrupted
