"""Tables: {heading: (what it says, head, rows)}, as Markdown and as numbers."""

import pathlib
import re
from dataclasses import asdict

import numpy as np

from noisy_student.data import CIFAR10
from noisy_student.files import printable

ANSWERS_SAY = (
    "Each answer is a difference of accuracies, in points, with its 95 % interval over other seeds "
    "and other test images (Student's t, widened by the images that all seeds share). It is shown "
    "if that interval does not include 0. 'Not shown' does not mean 'no effect': the interval says "
    "how large one may still be. One seed shows nothing about a method, since its interval is over "
    "test images alone. An interval misses the truth one time in twenty: of the tables of ten "
    "questions whose true answer is 'no effect', two in five show one all the same. 'With Holm "
    "too' marks the answers that stand together: in nineteen tables of twenty, none of them is "
    "wrong in this way. McNemar's exact p is about these very networks; the largest of all seeds "
    "stands here.")
EFFECTS_SAY = (
    " The last three are about the two by two of noise and pseudo-labels: what either does, "
    "averaged over the other, and what pseudo-labels add under noise less what they add without.")


def mean(cell, what, scale=1.0, digits=2):
    """Mean ± standard deviation over the seeds of what(Measured), as text."""
    values = scale * np.array([what(measured) for measured in cell.values()], dtype=float)
    deviation = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{deviation}"


def tables(cells, known, title, answers, effects, labellings, robust):
    """All tables of step 5: {heading: (what it says, head, rows)}.

    Args:
        cells: {name: {seed: Measured}}. known: experiment.py's CELLS. title: of a cell by its
            name. robust: tables of step 6, which stand in the middle.
    """
    text = {"The answers": answer_table(answers, effects)} if answers or effects else {}
    text |= {"The cells": cell_table(cells, known, title),
             "The classes": class_table(cells),
             "Calibration": calibration_table(cells, title), **robust}
    if labellings:
        text["The pseudo-labels"] = label_table(labellings)
    text["Every run"] = run_table(cells)
    return text


def answer_table(answers, effects):
    head = ["question", "answer", "seed", "each seed", "p", "McNemar's p"]
    rows = []
    for answer in answers + effects:
        rows.append([answer.question, str(answer), ", ".join(map(str, answer.seeds)),
                     ", ".join(f"{value:+.1f}" for value in answer.per_seed),
                     f"{answer.p:.2g}" if len(answer.seeds) > 1 else "-",
                     f"{max(answer.mcnemar):.2g}" if answer.mcnemar else "-"])
    return ANSWERS_SAY + EFFECTS_SAY * bool(effects), head, rows


def accuracy(cell):
    """The mean and deviation of several seeds, or the interval of one, in %, as text."""
    if len(cell) > 1:
        return mean(cell, lambda m: m.accuracy, 100)
    (measured,) = cell.values()
    low, high = measured.interval
    return f"{100 * measured.accuracy:.2f} ({100 * low:.2f} to {100 * high:.2f})"


def cell_table(cells, known, title):
    first = next(iter(next(iter(cells.values())).values()))
    says = (f"{len(first.y):,} test images, final weights. Over several seeds: mean ± standard "
            "deviation; for one: Wilson's 95 % interval.")
    trainings = [measured.run for cell in cells.values() for measured in cell.values()]
    says += f" Each network was shown {span(map(shown, trainings))} images"
    if all("images" in run.results for run in trainings):
        passes = [round(shown(run) / run.results["images"]) for run in trainings]
        says += f", in {span(passes)} passes over its own"
    says += "."
    head = ["cell", "seed", "steps", "accuracy, %", "cross-entropy", "minutes"]
    rows = []
    for name, cell in cells.items():
        steps = span(measured.run.results["steps"] for measured in cell.values())
        rows.append([title(name), ", ".join(map(str, sorted(cell))), steps, accuracy(cell),
                     mean(cell, lambda m: m.loss, digits=3),
                     mean(cell, lambda m: m.run.results["seconds"] / 60, digits=1)])
    if first.run.results["class_names"] == CIFAR10:
        says += " The article's column is its full ResNet50 on all 50,000 labels of CIFAR-10."
        head.append("article")
        for row, name in zip(rows, cells):
            article = known[name].article if name in known else None
            row.append(f"{100 * article[0]:.2f} %, {article[1]}" if article else "-")
    return says, head, rows


def class_table(cells):
    first = next(iter(next(iter(cells.values())).values()))
    rows = []
    for c, name in enumerate(first.run.results["class_names"]):
        here = first.y == c
        shares = ["-"] * len(cells)
        if here.any():
            shares = [f"{100 * np.mean([m.right[here].mean() for m in cell.values()]):.1f}"
                      for cell in cells.values()]
        rows.append([name, f"{here.sum():,}", *shares])
    says = "Accuracy on the test images of each class, %: means over the seeds."
    return says, ["class", "images", *(name.replace("_", " ") for name in cells)], rows


def calibration_table(cells, title):
    says = ("Expected calibration error (15 bins of equal width) and negative log-likelihood "
            "(nats), as trained and at the temperature fitted on the validation images: 1, if "
            "their 95 % interval has it, and its end nearest to 1, if they do not determine it.")
    head = ["cell", "ECE, %", "calibrated", "NLL", "calibrated", "temperature"]
    rows = []
    for name, cell in cells.items():
        # Whether a seed's validation images leave open how high or low its temperature is.
        undetermined = any(m.fitted and m.fitted.at_bound for m in cell.values())
        rows.append([title(name), mean(cell, lambda m: m.ece, 100, 1),
                     mean(cell, lambda m: m.calibrated_ece, 100, 1),
                     mean(cell, lambda m: m.loss, digits=3),
                     mean(cell, lambda m: m.calibrated_loss, digits=3),
                     mean(cell, lambda m: m.temperature) + " (undetermined)" * undetermined])
    return says, head, rows


def label_table(labellings):
    says = ("Means over seeds. Precision: of the kept images whose truth is known, the share that "
            "is right. Recall: of all images of a class, the share kept under it.")
    head = ["labels", "seed", "images", "kept", "precision, %", "recall, %", "temperature",
            "rarest and most frequent class"]
    return says, head, [label_row(label) for label in labellings]


def label_row(label):
    def over_seeds(what, digits=0, scale=1):
        values = [scale * value for run in label.runs if (value := what(run.results)) is not None]
        return f"{np.mean(values):,.{digits}f}" if values else "-"

    # A network from elsewhere has none that is known.
    seeds = [str(run.taught_by["arguments"]["seed"]) for run in label.runs if run.taught_by]
    return [label.title, ", ".join(seeds) or "-", over_seeds(lambda r: r["seen"]),
            over_seeds(lambda r: r["kept"]),
            over_seeds(lambda r: r["audit"]["kept"]["precision"], 1, 100),
            over_seeds(lambda r: r["audit"]["kept"]["recall"], 1, 100),
            over_seeds(lambda r: r["temperature"], 2),
            f"{over_seeds(lambda r: min(r['kept_per_class']))} and "
            f"{over_seeds(lambda r: max(r['kept_per_class']))}"]


def run_table(cells):
    rows = []
    for name, cell in cells.items():
        for seed, m in cell.items():
            rows.append([f"{pathlib.Path(m.run.folder).parent.name}/{name}", str(seed),
                         accuracy({seed: m}), f"{m.loss:.4f}"])
    return ("Accuracy with Wilson's 95 % interval, and plain cross-entropy.",
            ["run", "seed", "accuracy, %", "cross-entropy"], rows)


def made_table(cells, title):
    """With what each cell was made, as far as its runs have kept it."""
    rows = []
    for name, cell in cells.items():
        trainings = [m.run for m in cell.values()]
        versions = [dict(run.versions) for run in trainings]
        made = [[each.pop(key, "-") for each in versions] for key in ("hardware", "commit")]
        made.append([", ".join(f"{key} {value}" for key, value in each.items())
                     for each in versions])
        rows.append([title(name), span([run.results.get("images") for run in trainings]),
                     span(map(shown, trainings)),
                     *("; ".join(dict.fromkeys(each)) for each in made)])
    return ("Different images: how many there were to learn from, each counted once. Shown: how "
            "many were in all batches together. A commit that is called dirty had changes. On a "
            "CPU, the commands below give the same numbers to the last digit on the same "
            "processor, with as many threads.",
            ["cell", "different images", "shown", "hardware", "commit", "versions"], rows)


def shown(run):
    """How many images were in all batches of a training together."""
    return run.results["steps"] * run.arguments["batch_size"]


def span(counts):
    """The least and the most of some counts, as text; None is one that is not known."""
    counts = list(counts)
    if None in counts:
        return "-"
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


def markdown(head, lines):
    """A table in Markdown, right to print and to paste; text is text, whatever it looks like."""
    head, *lines = [[as_text(cell) for cell in line] for line in (head, *lines)]
    widths = [max(map(len, column)) for column in zip(head, *lines)]
    rows = []
    for line in (head, ["-" * width for width in widths], *lines):
        rows.append("| " + " | ".join(text.ljust(w) for text, w in zip(line, widths)) + " |")
    return "\n".join(rows)


def sections(tables):
    """Tables as tables() gives them, each with its heading and what it says, in Markdown."""
    return "\n\n".join(f"## {name}\n\n{says}\n\n{markdown(head, lines)}"
                       for name, (says, head, lines) in tables.items()) + "\n"


def as_text(cell):
    """What Markdown shows as it is: a folder's name must write no column, link or HTML."""
    return re.sub(r"([\\|`\[<])", r"\\\1", printable(cell))


def as_json(cells, answers, effects):
    """Everything in the tables, as numbers."""
    numbers = ("accuracy", "interval", "loss", "calibrated_loss", "ece", "calibrated_ece",
               "temperature", "robust")
    measured = {}
    for name, cell in cells.items():
        measured[name] = []
        for seed, m in cell.items():
            of_run = {key: getattr(m, key) for key in numbers}
            of_run["temperature_interval"] = m.fitted and (m.fitted.low, m.fitted.high)
            measured[name].append({"seed": seed, "steps": m.run.results["steps"], **of_run})
    answered = [asdict(answer) | {"shown": answer.shown, "answer": str(answer)}
                for answer in answers + effects]
    return {"cells": measured, "answers": answered}
