"""What finished runs come to: cells of an experiment, and what their networks say."""

import contextlib
import os
import pathlib
from dataclasses import dataclass, field

import numpy as np

from noisy_student import runs
from noisy_student.commands import not_followed, otherwise_than, settings_of
from noisy_student.files import UserError, printable, reading
from noisy_student.metrics import (
    Temperature,
    expected_calibration_error,
    fit_temperature,
    score,
    wilson_interval,
    with_temperature,
)
from noisy_student.record import read_table
from noisy_student.training import read_history

# Settings of the noise on images, and of that on the network.
ON_IMAGES, ON_MODEL = ("augment_ops", "augment_magnitude"), ("dropout", "p_last")


@dataclass
class Measured:
    """A finished training, and how right and how sure its network is about the test images."""

    run: runs.Run
    # What it says of the test images, float32 (N, C), and their classes, int (N,).
    probabilities: np.ndarray
    y: np.ndarray
    # How many images it was validated on.
    validation_images: int
    # The temperature that suits the validation images; None, where there are none.
    fitted: Temperature = None
    # What robustness.py measured, by the name of the test.
    robust: dict = field(default_factory=dict)

    def __post_init__(self):
        t = np.eye(self.probabilities.shape[1])[self.y]
        self.temperature = self.fitted.value if self.fitted else 1.0
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
        held_out, labels = run.predictions("validation")
        temperature = None
        # With --validation test, nothing is left to fit a temperature on.
        if run.arguments["validation"] == "split":
            temperature = fit_temperature(held_out, np.eye(held_out.shape[1])[labels])
        return Measured(run, probabilities, y, len(labels), temperature)


def find(folders, known=None, labels=None):
    """Every finished run in the folders, or below them; what is left out is named.

    Pseudo-labels that a student learnt from belong to it, if they lie beside it.

    Args:
        known, labels: experiment.py's CELLS and LABELS. Known cells come first, and a run that is
            called like one but was trained otherwise is left out.

    Returns: {cell: {seed: Run}} of the trainings, and {name: [Run, ...]} of the labellings.
        Raises: UserError, where a folder holds no run, or none of them a finished training.
    """
    cells, labellings, known, given = {}, {}, known or {}, set()
    for folder in folders:
        paths = sorted(pathlib.Path(folder).rglob("run.json"))
        if not paths:
            raise UserError(f"{folder}: {'holds no run' if os.path.isdir(folder) else 'no folder'}"
                            " (run.json). Run first: python cifar10_resnet50.py")
        for path in paths:
            run, name = runs.read(path.parent), printable(path.parent.name)
            otherwise = []
            if name in known and run.trained:
                otherwise = differs_from(name, run.arguments, run.taught_by, known, labels)
            if not run.finished:
                print(f"left out, not finished: {run.folder}")
            elif otherwise:
                print(f"left out: {run.folder} is called {name}, but was trained "
                      f"{', '.join(otherwise)}. By another name it is a cell of its own")
            else:
                kind = cells if run.trained else labellings
                add(kind.setdefault(name, {}), run)
                given.add(run.labels_sha256)
    for student in [run for cell in cells.values() for run in cell.values() if run.taught_by]:
        run = None if student.made_from.get("pseudo_sha256") in given else labels_beside(student)
        if run:
            add(labellings.setdefault(printable(pathlib.Path(run.folder).name), {}), run)
            given.add(run.labels_sha256)
    if not cells:
        raise UserError(f"{', '.join(folders)}: no finished training there. "
                        "Run first: python cifar10_resnet50.py")
    names = [name for name in known if name in cells]
    names += [name for name in cells if name not in names]
    labellings = {name: list(of_name.values()) for name, of_name in labellings.items()}
    return {name: cells[name] for name in names}, labellings


def labels_beside(student):
    """The labelling that a student learnt from, if it still lies beside the student, or None."""
    for path in sorted(pathlib.Path(student.folder).parent.glob("*/run.json")):
        # What is wrong with other runs there is of no interest.
        with contextlib.suppress(UserError):
            run = runs.read(path.parent)
            if run.labels_sha256 == student.made_from.get("pseudo_sha256"):
                return run
    return None


def load_cells(folders, known=None, labels=None):
    """All finished trainings in the folders, with what their networks say of the test images.

    Args: as find's.

    Returns: {cell: {seed: Measured}}, seeds in order, and {name: [Run, ...]} of the labellings.
        Raises: UserError, as find and measure do, and where trainings are of different data.
    """
    cells, labellings = find(folders, known, labels)
    measured = {name: {seed: measure(run) for seed, run in sorted(cell.items())}
                for name, cell in cells.items()}
    trainings = [m.run for cell in measured.values() for m in cell.values()]
    for run in trainings:
        if run.made_from["data_sha256"] != trainings[0].made_from["data_sha256"]:
            raise UserError(f"{run.folder} was trained on other data than "
                            f"{trainings[0].folder}: their tables do not compare")
    return measured, labellings


def add(cell, run):
    """Runs are one cell if they differ in nothing but their seed, or their teacher's."""
    seed = run.arguments.get("seed")
    if seed is None and run.taught_by:
        seed = run.taught_by["arguments"]["seed"]
    if seed in cell:
        print(f"left out, seed {seed} is there already: {run.folder}, as {cell[seed].folder}")
        return
    for other in cell.values():
        was, now = everything_chosen(other), everything_chosen(run)
        differs = [f"{key} ({was.get(key)} and {now.get(key)})" for key in runs.unequal(was, now)]
        if differs:
            print(f"left out, not the same cell as {other.folder}: {run.folder} differs in "
                  f"{', '.join(differs)}")
            return
    cell[seed] = run


def everything_chosen(run):
    """All settings of a run and of its teachers, but no seed."""
    if run.trained:
        return chosen(run.arguments, run.taught_by)
    return chosen({}, {"labelling": run.arguments, "teacher": run.taught_by})


def chosen(arguments, taught_by, whose=""):
    """{setting: value} of what run.json says, without seeds: {"depth": 14, "teacher depth": 50}.

    Args:
        whose: begins the names, "teacher " for those of a teacher.
    """
    settings = {f"{whose}{key}": value for key, value in arguments.items() if key != "seed"}
    if taught_by:
        labelling, teacher = taught_by["labelling"], taught_by["teacher"]
        for key, value in labelling.items():
            settings[f"{whose}label {key}"] = runs.names_of(value) if key == "images" else value
        # A network from elsewhere has nothing that is known.
        if teacher:
            settings |= chosen(teacher["arguments"], teacher["taught_by"], f"teacher {whose}")
    return settings


# --- what a cell is, and what it is called --------------------------------------------------------


def differs_from(name, arguments, taught_by, cells, labels):
    """How a training differs from a cell of the experiment, in words, its teachers included.

    Args:
        name: of the cell. arguments, taught_by: of a run. cells, labels: experiment.py's.
    """
    cell, differences = cells[name], []
    if bool(taught_by) != bool(cell.labels):
        differences.append("with pseudo-labels" if taught_by else "with --pseudo none")
    differences += otherwise_than(cell.flags, arguments)
    if taught_by and cell.labels:
        right, teacher = labels[cell.labels], taught_by["teacher"]
        differences += not_followed(settings_of(right.flags), taught_by["labelling"],
                                    "on labels with")
        if teacher:
            of_teacher = differs_from(right.teacher, teacher["arguments"], teacher["taught_by"],
                                      cells, labels)
            differences += [f"on labels of a teacher {one}" for one in of_teacher]
    return differences


def as_trained(arguments):
    """The settings of a training as far as they had an effect, and what step 1 leaves unsaid."""
    settings = {"noise": "none", "flip_and_crop": "never", "labeled_share": None} | arguments
    noise = settings["noise"]
    on_images, on_model = noise in ("all", "input"), noise in ("all", "model")
    moved = ("always", "with-noise") if on_images else ("always",)
    settings["flip_and_crop"] = settings["flip_and_crop"] in moved
    without_effect = (() if on_images else ON_IMAGES) + (() if on_model else ON_MODEL)
    return settings | dict.fromkeys(without_effect)


def as_labelled(run):
    """The settings that a student's pseudo-labels were made with, {"label threshold": 0.75}."""
    return {key: value for key, value in chosen({}, run.taught_by).items()
            if key.startswith("label ")}


def warn_if_unmatched(question, first, second, asked=None, labels=None):
    """Says where the two cells of a question differ in more than the question asks about.

    Args:
        first, second: {seed: Measured}.
        asked: both in experiment.py's CELLS; None, where one is the user's own.
        labels: experiment.py's LABELS.
    """
    if set(first) != set(second):
        print(f"warning: {question} Seeds {sorted(first)} and {sorted(second)}: "
              "only those that both have are compared")
    both = sorted(set(first) & set(second))
    if asked is None or not both:
        return
    a, b = first[both[0]].run, second[both[0]].run
    differs = {}
    was, now = ({**as_trained(run.arguments), **as_labelled(run)} for run in (a, b))
    for key in [key for key in was if key in now and was[key] != now[key]]:
        differs[key] = f"{key} ({was[key]} and {now[key]})"
    if a.results["steps"] != b.results["steps"]:
        differs["steps"] = f"steps ({a.results['steps']} and {b.results['steps']})"
    if a.made_from.get("split_sha256") != b.made_from.get("split_sha256"):
        differs["split"] = "which images are labelled"
    alike = a.made_from.get("pseudo_sha256") == b.made_from.get("pseudo_sha256")
    if asked[0].labels == asked[1].labels and not alike:
        differs["pseudo"] = "their pseudo-labels"
    if alike and not differs:
        print(f"warning: {question} The two cells were trained alike")
    more = [text for key, text in differs.items() if key not in asked_about(*asked, labels)]
    if more:
        print(f"warning: {question} The two cells also differ in {', '.join(more)}")


def asked_about(first, second, labels):
    """The settings that two cells of the experiment differ in by their flags or their labels'."""
    of_cells = [{"noise": "all"} | settings_of(cell.flags) for cell in (first, second)]
    settings = set(runs.unequal(*of_cells))
    if "noise" in settings:
        settings |= {"flip_and_crop", *ON_IMAGES, *ON_MODEL}
    if bool(first.labels) != bool(second.labels):
        settings.add("labeled_share")
    elif first.labels:
        of_labels = [settings_of(labels[cell.labels].flags) for cell in (first, second)]
        settings |= {f"label {key}" for key in runs.unequal(*of_labels)}
    if "{larger}" in (first.flags, second.flags):
        settings |= {"depth", "width"}
    return settings


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
        confidences, rights = [np.empty(0)], [np.empty(0)]
        for run in of_name:
            # Runs that were copied without their large files have their counts alone.
            if run.path("images.csv").exists():
                confidence, right = read_table(run.check("images.csv"))
                confidences.append(confidence)
                rights.append(right)
        self.confidence, self.right = np.concatenate(confidences), np.concatenate(rights)
