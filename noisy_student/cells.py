"""What finished runs come to: cells of an experiment, and what their networks say."""

import pathlib
from dataclasses import dataclass, field

import numpy as np

from noisy_student import runs
from noisy_student.files import UserError, reading
from noisy_student.metrics import (
    expected_calibration_error,
    fit_temperature,
    score,
    wilson_interval,
    with_temperature,
)
from noisy_student.record import read_table
from noisy_student.training import read_history

# What the two cells of any question may differ in: noise, how batches are mixed, and the seed.
MAY_DIFFER = ("noise", "flip_and_crop", "augment_ops", "augment_magnitude", "dropout",
              "p_last", "labeled_share", "seed")


@dataclass
class Measured:
    """A finished training, and how right and how sure its network is about the test images."""

    run: runs.Run
    # Of the test images, float32 (N, C), and their classes, int (N,).
    probabilities: np.ndarray
    y: np.ndarray
    # What suits the validation images.
    temperature: float = 1.0
    # What robustness.py measured.
    robust: dict = field(default_factory=dict)

    def __post_init__(self):
        t = np.eye(self.probabilities.shape[1])[self.y]
        self.calibrated = with_temperature(self.probabilities, self.temperature)
        self.loss, self.accuracy = score(self.probabilities, t)
        self.calibrated_loss = score(self.calibrated, t)[0]
        self.ece = expected_calibration_error(self.probabilities, self.y)
        self.calibrated_ece = expected_calibration_error(self.calibrated, self.y)
        self.right = self.probabilities.argmax(axis=1) == self.y
        self.interval = wilson_interval(self.right.sum(), len(self.y))
        self.steps_per_epoch = self.run.arguments["steps_per_epoch"]

    @property
    def history(self):
        return read_history(self.run.check("history.csv"))


def measure(run):
    """Raises: UserError, where record and predictions are not what a training writes."""
    with reading(run.path("run.json")):
        probabilities, y = run.predictions("test")
        temperature = 1.0
        # With --validation test, nothing is left to fit a temperature on.
        if run.arguments["validation"] == "split":
            held_out, labels = run.predictions("validation")
            temperature = fit_temperature(held_out, np.eye(held_out.shape[1])[labels])
        return Measured(run, probabilities, y, temperature)


def find(folders, order=()):
    """Every finished run in the folders, or below them; what is left out is named.

    Args:
        order: names of cells that come first.

    Returns: {cell: {seed: Run}} of the trainings, and {name: [Run, ...]} of the labellings.
    """
    cells, labellings = {}, {}
    for folder in folders:
        for path in sorted(pathlib.Path(folder).rglob("run.json")):
            run, name = runs.read(path.parent), path.parent.name
            if not run.finished:
                print(f"left out, not finished: {run.folder}")
            else:
                kind = cells if run.trained else labellings
                add(kind.setdefault(name, {}), run)
    if not cells:
        raise UserError(f"{', '.join(folders)}: no finished training there. "
                        "Run first: python cifar10_resnet50.py")
    names = [name for name in order if name in cells]
    names += [name for name in cells if name not in names]
    labellings = {name: list(of_name.values()) for name, of_name in labellings.items()}
    return {name: cells[name] for name in names}, labellings


def add(cell, run):
    """Runs are one cell if they differ in nothing but their seed, or their teacher's."""
    seed = run.arguments.get("seed")
    if seed is None and run.taught_by:
        seed = run.taught_by["arguments"]["seed"]
    if seed in cell:
        print(f"left out, seed {seed} is there already: {run.folder}, as {cell[seed].folder}")
        return
    for other in cell.values():
        was, now = chosen(other), chosen(run)
        differs = [f"{key} ({was.get(key)} and {now.get(key)})" for key in {**was, **now}
                   if was.get(key) != now.get(key)]
        if differs:
            print(f"left out, not the same cell as {other.folder}: {run.folder} differs in "
                  f"{', '.join(differs)}")
            return
    cell[seed] = run


def chosen(run):
    """Everything that was chosen for a run but its seed, its teachers' included."""
    settings, source, prefix = {}, {"arguments": run.arguments, "taught_by": run.taught_by}, ""
    if not run.trained:
        # A labelling is to its teacher as a student's is to the student's.
        source = {"taught_by": {"labelling": run.arguments, "teacher": run.taught_by}}
    while source:
        arguments_of = source.get("arguments", {})
        settings |= {prefix + key: value for key, value in arguments_of.items() if key != "seed"}
        labels = source.get("taught_by") or {}
        for key, value in labels.get("labelling", {}).items():
            if key == "images":
                value = runs.names_of(value)
            settings[f"{prefix}label {key}"] = value
        source, prefix = labels.get("teacher"), f"teacher {prefix}"
    return settings


def warn_if_unmatched(question, first, second, asked=None):
    """Says where the two cells of a question differ in more than the question asks about.

    Args:
        first, second: {seed: Measured}.
        asked: the flags of both, which the question is about; None, where that is not known.
    """
    if set(first) != set(second):
        print(f"warning: {question} Seeds {sorted(first)} and {sorted(second)}: "
              "only those that both have are compared")
    if asked is None:
        return
    a, b = next(iter(first.values())).run, next(iter(second.values())).run
    asked = asked.replace("{larger}", "--depth --width")
    differs = []
    for key, value in a.arguments.items():
        flag = f"--{key.replace('_', '-')}"
        if key not in MAY_DIFFER and flag not in asked and b.arguments[key] != value:
            differs.append(f"{key} ({value} and {b.arguments[key]})")
    if a.results["steps"] != b.results["steps"]:
        differs.append(f"steps ({a.results['steps']} and {b.results['steps']})")
    if differs:
        print(f"warning: {question} The two cells also differ in {', '.join(differs)}")


class Labelling:
    """What one way of labelling came to, over its seeds."""

    def __init__(self, name, of_name):
        first = of_name[0]
        self.title, self.runs = name, of_name
        self.class_names = first.results["class_names"]
        self.threshold = None if first.arguments["keep_share"] else first.arguments["threshold"]
        self.kept, self.balanced = (
            np.mean([run.results[key] for run in of_name], axis=0)
            for key in ("kept_per_class", "balanced_per_class"))
        # Of runs that were copied without their large files, the counts are all there is.
        columns = [read_table(run.check("images.csv")) for run in of_name
                   if run.path("images.csv").exists()]
        self.confidence, self.right = (np.concatenate(column)
                                       for column in zip(*columns, (np.empty(0), np.empty(0))))
