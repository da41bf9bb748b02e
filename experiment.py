"""The whole experiment: which cells there are, how each is made, and what is asked of them.

    python experiment.py demo                      # on drawn pictures, in minutes, on the CPU
    python experiment.py run --images photos/ rest --seeds 0 1 2 \\
        --flags "--num-labeled 4000 --recipe fast"

A cell of a seed is a folder, logs/experiment/seed0/student, made by one command, which is printed
first. Finished cells are skipped and killed ones go on, so the same command can be given again and
again. At the end, eval.py answers the questions. A new cell or question is a new line here.
"""

import itertools
import os
import shlex
import sys
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from noisy_student import arguments, commands, formats, pool
from noisy_student.commands import Command, otherwise_than
from noisy_student.files import UserError, occupy, run_script


class Labels(NamedTuple):
    """Pseudo-labels: which cell is the teacher, and the flags of step 2."""

    teacher: str
    flags: str = ""


class Cell(NamedTuple):
    """A network: its title, whose labels it learns from (None: labelled images alone), the flags of
    step 4, and the article's accuracy and loss where it has such a cell.
    """

    title: str
    labels: str | None
    flags: str = ""
    article: tuple | None = None


LABELS = {
    "pseudo": Labels("teacher"),
    "pseudo_of_noisy": Labels("noisy_teacher"),
    # By student_of_noisy, not by student: the noisy teacher, its student, and the student's own.
    "pseudo_of_student": Labels("student_of_noisy"),
    "pseudo_of_student_weaker": Labels("student_weaker_noise"),
    "pseudo_calibrated": Labels("noisy_teacher", "--calibrate"),
    "pseudo_low_threshold": Labels("noisy_teacher", "--threshold 0.3"),
    "pseudo_hard": Labels("noisy_teacher", "--hard"),
    "pseudo_unbalanced": Labels("noisy_teacher", "--no-balance"),
}
# Weaker than what a recipe takes, for a student that has many images to learn from.
WEAKER_NOISE = "--augment-ops 1 --augment-magnitude 5"
# The article's losses have the L2 term in them.
CELLS = {
    "teacher": Cell("teacher: labels alone, no noise", None, "--noise none", (0.8839, 0.8177)),
    "flip_and_crop": Cell("labels, flip and crop", None, "--noise none --flip-and-crop always"),
    # Trained under noise. Like every teacher here, it labels without any.
    "noisy_teacher": Cell("noisy teacher: labels alone, noise", None, "", (0.9414, 0.2492)),
    # The cell that the article lacks.
    "student_without_noise": Cell("pseudo-labels, no noise", "pseudo", "--noise none"),
    "student": Cell("student: pseudo-labels, noise", "pseudo", "", (0.9394, 0.2470)),
    "student_of_noisy": Cell("student of the noisy teacher", "pseudo_of_noisy", "",
                             (0.9428, 0.2289)),
    "second_generation": Cell("second generation: the student's student", "pseudo_of_student"),
    # In place of {larger}: what --larger says, or else the next --depth, or twice the --width.
    "larger_student": Cell("larger student", "pseudo_of_noisy", "{larger}"),
    # Ablations: the student of the noisy teacher with one thing changed.
    "student_input_noise": Cell("student, noise on the images alone", "pseudo_of_noisy",
                                "--noise input"),
    "student_model_noise": Cell("student, stochastic depth and dropout alone", "pseudo_of_noisy",
                                "--noise model"),
    "student_weaker_noise": Cell("student, weaker noise: RandAugment N 1, M 5", "pseudo_of_noisy",
                                 WEAKER_NOISE),
    "second_generation_weaker": Cell("second generation, weaker noise",
                                     "pseudo_of_student_weaker", WEAKER_NOISE),
    "student_calibrated": Cell("student, calibrated teacher", "pseudo_calibrated"),
    "student_low_threshold": Cell("student, threshold 0.3", "pseudo_low_threshold"),
    "student_hard": Cell("student, hard labels", "pseudo_hard"),
    "student_unbalanced": Cell("student, classes not balanced", "pseudo_unbalanced"),
    # What the weaker noise does alone.
    "weaker_noise": Cell("labels alone, weaker noise: N 1, M 5", None, WEAKER_NOISE),
}
FIVE = ("teacher", "noisy_teacher", "student_without_noise", "student", "student_of_noisy")
SIX = tuple(CELLS)[:6]
EIGHT = tuple(CELLS)[:8]
# Teacher, noisy teacher, pseudo-labels without noise, student: the article's question in full.
TWO_BY_TWO = FIVE[:4]
# Each is the second cell's accuracy less the first's. It asks which of them is better, and never
# whether both are as good: a difference that is not shown would not show that.
QUESTIONS = {
    "Does noise help, on labels alone?": ("teacher", "noisy_teacher"),
    "Does noise help, with pseudo-labels?": ("student_without_noise", "student"),
    "Do flip and crop help, on labels alone?": ("teacher", "flip_and_crop"),
    "Does noise help, beyond flip and crop?": ("flip_and_crop", "noisy_teacher"),
    "Do pseudo-labels help, without noise?": ("teacher", "student_without_noise"),
    "Do pseudo-labels help, on top of noise?": ("noisy_teacher", "student"),
    "Do a noisy teacher's pseudo-labels help, on top of noise?": ("noisy_teacher",
                                                                  "student_of_noisy"),
    "Is the noisy student better than its teacher?": ("teacher", "student"),
    "Does a noisy teacher teach better than one without noise?": ("student", "student_of_noisy"),
    "Does a second generation help?": ("student_of_noisy", "second_generation"),
    "Does a larger student help?": ("student_of_noisy", "larger_student"),
    "Does leaving out dropout and stochastic depth help?": ("student_of_noisy",
                                                            "student_input_noise"),
    "Does leaving out noise on the images help?": ("student_of_noisy", "student_model_noise"),
    "Does weaker noise help, on labels alone?": ("noisy_teacher", "weaker_noise"),
    "Does weaker noise help the noisy teacher's student?": ("student_of_noisy",
                                                            "student_weaker_noise"),
    "Do a noisy teacher's pseudo-labels help, on top of weaker noise?": ("weaker_noise",
                                                                         "student_weaker_noise"),
    "Is a student under weaker noise better than its noisy teacher?": ("noisy_teacher",
                                                                       "student_weaker_noise"),
    "Does a second generation help, under weaker noise?": ("student_weaker_noise",
                                                           "second_generation_weaker"),
    "Are two generations better than the first noisy teacher?": ("noisy_teacher",
                                                                 "second_generation_weaker"),
    "Does calibrating the teacher help?": ("student_of_noisy", "student_calibrated"),
    "Does the paper's threshold of 0.3 help?": ("student_of_noisy", "student_low_threshold"),
    "Do hard labels help?": ("student_of_noisy", "student_hard"),
    "Does leaving classes unbalanced help?": ("student_of_noisy", "student_unbalanced"),
}


def title(name):
    """What tables call a cell: a folder's own name, where it is none of CELLS."""
    return CELLS[name].title if name in CELLS else name


# The next larger network's depth, by depth.
DEEPER = {14: 26, 26: 50, 50: 101, 101: 152}


@dataclass(frozen=True)
class Experiment:
    """What is made with one command: which cells, for which seeds, and the flags they share."""

    data: str = "cifar10"
    # What step 2 labels.
    images: tuple = ()
    seeds: tuple = (0,)
    cells: tuple = EIGHT
    # Flags of every training, of the cells with noise, of those with pseudo-labels, of every
    # labelling, and of eval.py.
    flags: str = ""
    noise_flags: str = ""
    pseudo_flags: str = ""
    label_flags: str = ""
    eval_flags: str = ""
    # Flags of the larger student.
    larger: str = None
    out: str = "logs/experiment"
    # How many cells are made at a time.
    jobs: int = 1
    # What came of it where it was made, and in which time.
    expected: str = ""


# Most tables in results/ come of these (docs/experiments.md names the others):
# python experiment.py run NAME
EXPERIMENTS = {
    # Few labels and weak noise: strong noise needs more steps than a demo has. The settings were
    # chosen on seeds 0 to 2, so that seeds 3 to 5 can show what they are worth.
    "demo": Experiment(
        data="data/toy", images=("data/toy/unlabeled",), seeds=(3, 4, 5), cells=FIVE,
        out="logs/demo", jobs=2,
        flags="--network small --width 0.25 --num-labeled 375 --batch-size 128 --epochs 4 "
              "--steps-per-epoch 40",
        noise_flags="--flip-and-crop never --augment-ops 1 --augment-magnitude 4 --dropout 0 "
                    "--p-last 1",
        label_flags="--keep-share 0.6 --truth data/toy/truth.csv",
        pseudo_flags="--labeled-share 0.25",
        eval_flags="--out figures/demo --report figures/demo/report.html",
        expected="39.0, 89.2, 52.5, 76.4 and 93.7 % on 1,000 test images; 4:39 on two cores"),
}


def like(name, **changes):
    """The Experiment of that name with some changes. Its outcome is not that of the first."""
    return replace(EXPERIMENTS[name], **{"expected": "", **changes})


# A ResNet14 of 133,530 parameters, 10,000 steps for every cell: 17 to 29 minutes of two cores each.
EXPERIMENTS["labels-500"] = Experiment(
    images=("rest",), seeds=(0, 1, 2), out="logs/500-labels", jobs=2,
    cells=SIX,
    flags="--num-labeled 500 --recipe fast --depth 14 --width 0.125 --stem-strides 2 "
          "--batch-size 64 --epochs 50 --steps-per-epoch 200",
    label_flags="--calibrate --keep-share 0.7",
    pseudo_flags="--labeled-share 0.25",
    eval_flags="--out figures/labels-500",
    expected="28.3, 39.2, 48.4, 31.6, 47.5 and 51.8 % (results/real/README.md)")
# The small network at full width. Every cell sees 180,000 images, 10 to 17 minutes of two cores.
EXPERIMENTS["labels-4000"] = Experiment(
    images=("rest",), seeds=(0, 1, 2), out="logs/labels-4000",
    cells=(*SIX, "second_generation"),
    flags="--network small --num-labeled 4000 --epochs 8 --steps-per-epoch 44",
    noise_flags="--dropout 0 --p-last 1",
    label_flags="--calibrate --keep-share 0.7",
    pseudo_flags="--labeled-share 0.25",
    eval_flags="--out figures/labels-4000")
# The article's data, with the small network: every label, and photos that --images names (the
# article: ImageNet's).
EXPERIMENTS["all-labels"] = Experiment(
    seeds=(0, 1, 2), out="logs/all-labels",
    cells=SIX,
    flags="--network small --epochs 30",
    noise_flags="--dropout 0 --p-last 1",
    label_flags="--calibrate --keep-share 0.3",
    eval_flags="--out figures/all-labels",
    expected="85.3, 87.6, 86.5, 85.3, 85.9 and 86.6 %; 4 minutes of an H100 (results/gpu)")
# Where do pseudo-labels pay? The same at a quarter of the width, where a cell takes two minutes of
# two cores, for few labels and for many. benchmarks/crossing.py draws what comes of it.
CROSSING = (250, 500, 1000, 4000, 10000, 25000)
for labelled in CROSSING:
    EXPERIMENTS[f"crossing-{labelled}"] = like(
        "labels-4000", cells=("noisy_teacher", "student_of_noisy"),
        flags=f"--network small --width 0.25 --num-labeled {labelled} --epochs 8 "
              "--steps-per-epoch 44",
        out=f"logs/crossing/{labelled}-labels", eval_flags=f"--out figures/crossing-{labelled}")
# The ceiling: what the true label of every image teaches in as many steps.
EXPERIMENTS["crossing-all"] = like(
    "crossing-250", images=(), cells=("noisy_teacher",),
    flags=EXPERIMENTS["crossing-250"].flags.replace(" --num-labeled 250", ""),
    out="logs/crossing/all-labels", eval_flags="--out figures/crossing-all")
# The same with averaged weights: about the last fifty steps' mean.
AVERAGED = "--averaging 0.98"
for labelled in (250, 1000, 4000, "all"):
    experiment = EXPERIMENTS[f"crossing-{labelled}"]
    EXPERIMENTS[f"averaged-{labelled}"] = like(
        f"crossing-{labelled}", flags=f"{experiment.flags} {AVERAGED}",
        out=experiment.out.replace("crossing", "averaged"),
        eval_flags=experiment.eval_flags.replace("crossing", "averaged"))
# And at full width, with 4,000 labels: 11 minutes of two idle cores for a cell. The student has
# many more images to learn from than its teacher, and so less need of strong noise.
EXPERIMENTS["averaged-4000-full"] = like(
    "labels-4000", cells=("noisy_teacher", "student_of_noisy", "student_weaker_noise",
                          "second_generation_weaker", "weaker_noise"),
    flags=f"{EXPERIMENTS['labels-4000'].flags} {AVERAGED}",
    out="logs/averaged/4000-labels-full", eval_flags="--out figures/averaged-4000-full",
    expected="76.3, 76.7, 78.1, 78.3 and 75.3 %; three hours of two cores (results/labels-4000)")
# Every label, at full width: 55 minutes of two idle cores for a cell.
EXPERIMENTS["averaged-all-full"] = like(
    "all-labels", cells=("flip_and_crop", "noisy_teacher", "weaker_noise"),
    flags=f"--network small --epochs 20 {AVERAGED}",
    out="logs/averaged/all-labels-full", eval_flags="--out figures/averaged-all-full",
    expected="weaker_noise 88.5 % (results/all-labels-averaged); the others have not been run")
# Five times the steps, at full width: do pseudo-labels pay with 4,000 labels then? For a GPU.
EXPERIMENTS["long-4000"] = like(
    "labels-4000", cells=("noisy_teacher", "student_of_noisy", "second_generation"),
    flags=f"--network small {AVERAGED} --num-labeled 4000 --epochs 40 --steps-per-epoch 44",
    out="logs/long/4000-labels", eval_flags="--out figures/long-4000")
EXPERIMENTS["long-all"] = like(
    "long-4000", images=(), cells=("noisy_teacher",),
    flags=EXPERIMENTS["long-4000"].flags.replace(" --num-labeled 4000", ""),
    out="logs/long/all-labels", eval_flags="--out figures/long-all")
EXPERIMENTS["demo_all"] = like(
    "demo", cells=EIGHT, eval_flags=EXPERIMENTS["demo"].eval_flags
    + " --corrupted data/toy-corrupted --adversarial --robust-images 200")
# What has to be drawn first.
DRAWN = {
    "demo": [["make_toy.py", "data/toy"]],
    "demo_all": [["make_toy.py", "data/toy"],
                 ["make_corrupted.py", "data/toy", "data/toy-corrupted", "--images", "200"]],
}


def need_of(name):
    """The name of the folder that has to be there before this one is made, or None."""
    return LABELS[name].teacher if name in LABELS else CELLS[name].labels


def split(flags):
    """The words of some flags. Raises: UserError, where a quotation mark has no second one."""
    try:
        return shlex.split(flags)
    except ValueError as error:
        raise UserError(f"{flags}: {error}") from error


def words_of(name, folder, seed, experiment):
    """How one folder is made: a script and its arguments."""
    flags = split((LABELS if name in LABELS else CELLS)[name].flags)
    if flags == ["{larger}"]:
        flags = split(experiment.larger or deeper(experiment.flags))
    if name in LABELS:
        return ["imagenet_dummy_label.py", *experiment.images,
                "--teacher", f"{folder}/{need_of(name)}",
                *split(experiment.label_flags), *flags, "--out", f"{folder}/{name}"]
    # The article's early stopping is off: every cell takes the same number of steps.
    words = ["--data", experiment.data, "--seed", str(seed), "--early-stopping", "0",
             *split(experiment.flags), "--log-dir", f"{folder}/{name}"]
    if name == "teacher":
        # Step 1 knows no noise: the teacher's flags only say so.
        return ["cifar10_resnet50.py", *words]
    if "none" not in flags:
        # How strong the noise is, where there is any.
        words += split(experiment.noise_flags)
    if need_of(name):
        words += ["--pseudo", f"{folder}/{need_of(name)}", *split(experiment.pseudo_flags)]
    else:
        words += ["--pseudo", "none", "--like", "none"]
    return ["data_generator.py", *words, *flags]


def deeper(flags):
    """The flags of the next larger network. Raises: UserError, where there is none."""
    chosen = arguments.teacher("", split(flags))
    if chosen.network == "small":
        return f"--width {2 * chosen.width:g}"
    depth = chosen.depth
    if depth not in DEEPER:
        raise UserError(f"which network is larger than one of --depth {depth}? --larger says so")
    return f"--depth {DEEPER[depth]}"


def with_needs(cells):
    """The cells and what they need, each after what it needs."""
    order = []

    def add(name):
        need = need_of(name)
        if need:
            add(need)
        if name not in order:
            order.append(name)

    for name in cells:
        add(name)
    return order


def check(order, experiment):
    """Finds mistakes before anything is trained. Raises: UserError."""
    if not experiment.images and set(order) & set(LABELS):
        raise UserError("which images? --images photos/ rest "
                        "(rest needs --flags '--num-labeled N')")
    if experiment.data != "cifar10" and not os.path.exists(experiment.data):
        raise UserError(f"{experiment.data}: no such folder or file (--data)")
    for source in experiment.images:
        if source != "rest":
            pool.check_source(source)
    # Where a data set has a label for each image, the rest is what --num-labeled hides.
    must_hide = ("rest" in experiment.images and set(order) & set(LABELS)
                 and (experiment.data == "cifar10" or formats.labels_all(experiment.data)))
    # A wrong flag of eval.py is to be found now, and not after all trainings.
    arguments.evaluation("", [experiment.out, *split(experiment.eval_flags)])
    parsers = {"cifar10_resnet50.py": arguments.teacher, "data_generator.py": arguments.student,
               "imagenet_dummy_label.py": arguments.labelling}
    # Two seeds are tried: a --seed among the flags may be the one, but not both.
    for name, seed in itertools.product(order, (0, 1)):
        script, *words = words_of(name, experiment.out, seed, experiment)
        chosen = parsers[script]("", words)
        if name in LABELS:
            continue
        if (chosen.data, chosen.seed) != (experiment.data, seed):
            raise UserError("the flags name data or a seed: that is for --data and --seeds")
        if must_hide and not chosen.num_labeled:
            raise UserError("rest: every image has a label; --flags '--num-labeled N' hides some")
        if otherwise := otherwise_than(CELLS[name].flags, vars(chosen)):
            raise UserError(f"the flags would train {name} {', '.join(otherwise)}, "
                            "which is another cell")


def commands_of(order, experiment):
    """A Command for every folder of every seed, each after the one it needs."""
    made = []
    for seed in experiment.seeds:
        for name in order:
            words = words_of(name, f"{experiment.out}/seed{seed}", seed, experiment)
            need = need_of(name) and f"[seed {seed} {need_of(name)}]"
            made.append(Command(f"[seed {seed} {name}]", words, need))
    return made


def asked_for(args):
    """The Experiment of a command line: what it gives takes the place of what the named one has."""
    known = EXPERIMENTS.get(args.name, Experiment())
    given = {key: value for key, value in vars(args).items()
             if key in asdict(known) and value is not None}
    return replace(known, **given)


def main(args):
    experiment = asked_for(args)
    for script, *words in DRAWN.get(args.name, ()):
        # What is there already is not drawn again.
        if status := commands.in_foreground(f"data/{script}", *words):
            sys.exit(status)
    order = with_needs(experiment.cells)
    check(order, experiment)
    if args.engine == "ray":
        from noisy_student import engine

        occupy(experiment.out, "--out")
        paths = [path for path in (experiment.data, *experiment.images)
                 if path not in ("cifar10", "rest")]
        engine.run_all(commands_of(order, experiment), [experiment.out, *paths], args.address,
                       args.cpus_per_cell)
    else:
        commands.run_here(commands_of(order, experiment), experiment.jobs)
    folders = [f"{experiment.out}/seed{seed}" for seed in experiment.seeds]
    sys.exit(commands.in_foreground("eval.py", *folders, *split(experiment.eval_flags)))


if __name__ == "__main__":
    run_script(main, arguments.experiment(__doc__, EXPERIMENTS, CELLS))
