"""Step 5: what it all was worth, on the test images.

    python eval.py logs/experiment                     # every finished training below it
    python eval.py logs/teacher logs/student           # these two
    python eval.py logs/demo --report report.html --corrupted data/toy-corrupted --adversarial

Folders of one name are one cell of the experiment, each of another seed. Every question of
experiment.py is a difference between two cells: how large it is, how sure that is, and the answer
in words.

Reads   finished runs of steps 1 and 4 (and 2, for what the pseudo-labels were: those that lie
        beside their student are found); the data set, for --report's test images, and for what
        step 6 asks
Writes  figures/   results.md, results.json (the tables and the answers) and pictures;
        --report   all of it in one page
"""

from noisy_student import arguments

if __name__ == "__main__":
    # Before Keras is imported, which takes seconds.
    args = arguments.evaluation(__doc__)

import pathlib
from dataclasses import dataclass

import numpy as np

import robustness

# A student's layers must be known to load it.
import stochastic_resblock  # noqa: F401
from experiment import CELLS, LABELS, QUESTIONS, TWO_BY_TWO, title
from noisy_student import backend, figures, report, robust_data
from noisy_student.cells import Labelling, load_cells, warn_if_unmatched
from noisy_student.files import UserError, run_script, whole_file, write_json
from noisy_student.labels import load_data_of
from noisy_student.metrics import holm, mcnemar, paired_interval
from noisy_student.tables import as_json, made_table, markdown, sections, tables

# Weights of the four cells of TWO_BY_TWO: teacher, noisy teacher, student without noise, student.
# The last, the interaction, is what pseudo-labels add under noise less what they add without.
EFFECTS = {
    "Does noise help, averaged over labels and pseudo-labels?": (-0.5, 0.5, -0.5, 0.5),
    "Do pseudo-labels help, averaged over noise and no noise?": (-0.5, -0.5, 0.5, 0.5),
    "Do pseudo-labels help more under noise than without?": (1, -1, -1, 1),
}


# --- questions and answers ------------------------------------------------------------------------


@dataclass
class Answer:
    """A difference of accuracies in points (hundredths), its 95 % interval, and what it means."""

    question: str
    seeds: list
    points: float
    # Over seeds and test images; for one seed, over test images alone.
    low: float
    high: float
    # How probable so large a difference is by chance, where there is none.
    p: float
    per_seed: list
    # The same for the networks themselves, by McNemar's exact test, one for each seed; empty for
    # what is not a difference of two.
    mcnemar: list
    # Whether it is still shown after Holm's correction for all answers of its table.
    holm: bool = False

    @property
    def shown(self):
        """Whether the interval does not include 0. One seed shows nothing about a method."""
        return len(self.seeds) > 1 and (self.low > 0 or self.high < 0)

    def interval(self, sign):
        """The interval in words: tenths of points, and hundredths of what would read as 0.

        Args:
            sign: "+" writes that of positive numbers, too; "-" does not.
        """
        bounds = [f"{bound:{sign}.{2 if abs(bound) < 0.05 else 1}f}"
                  for bound in (self.low, self.high)]
        return " to ".join(bounds)

    def __str__(self):
        signed = f"{self.points:+.1f} points ({self.interval('+')})"
        if len(self.seeds) == 1:
            return f"one seed, so nothing is shown: these networks differ by {signed}"
        if not self.shown:
            return f"not shown: {signed}"
        stands = ", with Holm too" if self.holm else ""
        if self.points > 0:
            return f"yes, by {self.points:.1f} points ({self.interval('-')}){stands}"
        return f"no, the opposite: {signed}{stands}"


def contrast(question, weights, cells):
    """The weighted sum of some cells' accuracies, over the seeds that all of them have.

    Args:
        weights: one for each cell. cells: a list of {seed: Measured}.

    Returns: an Answer, or None where no seed is common to all.
    """
    seeds = sorted(set.intersection(*map(set, cells)))
    if not seeds:
        return None
    # (cells, seeds, images) -> (seeds, images)
    right = np.array([[cell[seed].right for seed in seeds] for cell in cells], dtype=float)
    differences = np.tensordot(weights, right, axes=1)
    low, high, p = paired_interval(differences)
    of_two = []
    if tuple(weights) == (-1, 1):
        of_two = [mcnemar((row < 0).sum(), (row > 0).sum()) for row in differences]
    per_seed = (100 * differences.mean(axis=1)).tolist()
    return Answer(question, seeds, float(100 * differences.mean()), 100 * low, 100 * high, p,
                  per_seed, of_two)


def pairs_of(cells):
    """{question: (first cell, second cell)} of all that can be asked of these cells."""
    questions = {question: pair for question, pair in QUESTIONS.items() if set(pair) <= set(cells)}
    for name, cell in cells.items():
        # A cell of the user's own is compared with its like in the experiment.
        taught = next(iter(cell.values())).run.taught_by
        rival = "student" if taught else "noisy_teacher"
        if name not in CELLS and rival in cells:
            questions[f"Is {name} better than the {title(rival).split(':')[0]}?"] = (rival, name)
    return questions


def ask(cells):
    """The answers to all questions, and the effects of the 2x2 where it is complete."""
    answers = []
    for question, pair in pairs_of(cells).items():
        answers.append(contrast(question, (-1, 1), [cells[name] for name in pair]))
        # Two cells are to differ in nothing but what the question asks about.
        asked = None
        if set(pair) <= set(CELLS):
            asked = [CELLS[name] for name in pair]
        warn_if_unmatched(question, *(cells[name] for name in pair), asked, LABELS)
    effects = []
    if set(TWO_BY_TWO) <= set(cells):
        four = [cells[name] for name in TWO_BY_TWO]
        effects = [contrast(name, weights, four) for name, weights in EFFECTS.items()]
    answers, effects = ([answer for answer in some if answer] for some in (answers, effects))
    # Answers of one seed show nothing, and do not count in Holm's correction.
    counted = [answer for answer in answers + effects if len(answer.seeds) > 1]
    for answer, stands in zip(counted, holm([answer.p for answer in counted])):
        answer.holm = stands
    return answers, effects


# --- what to look at ------------------------------------------------------------------------------


def load_if_there(run, moved_to):
    """The Dataset that a run was trained on, or None, and a line that says why."""
    try:
        return load_data_of(run, moved_to)
    except UserError as error:
        print(f"no test image is shown: {error}")
        return None


def photos_of(cells, labellings):
    """Paths of pictures in the runs' folders: what a student is shown, and what teachers kept."""
    student = cells[figures.student_of(cells)]
    noisy = [m.run for cell in (student, *cells.values()) for m in cell.values()
             if m.run.arguments.get("noise") in ("all", "input")]
    return [*(run.path("batch.png") for run in noisy[:1]),
            *(run.path(name) for run in labellings for name in ("montage.png", "mistakes.png"))]


def main(args):
    backend.prepare(0)
    cells, labelled = load_cells(args.runs, CELLS, LABELS)
    trainings = [measured.run for cell in cells.values() for measured in cell.values()]
    first = trainings[0]
    labellings = [Labelling(name, runs) for name, runs in labelled.items()]

    # More questions to the networks, which need the images
    robust, data, photos = {}, None, args.report and not args.no_photos
    if args.corrupted or args.adversarial or args.shifted or args.check_overlap:
        data = load_data_of(first, args.data)
        tests = robustness.make_tests(data, args.corrupted, args.adversarial, args.shifted,
                                 args.robust_images)
        robust_data.run_tests(cells, tests, args.robust_seeds)
        robust = robust_data.tables(cells, tests, title, robustness.EXPLANATION)
    elif photos:
        data = load_if_there(first, args.data)

    # The answers
    answers, effects = ask(cells)
    text = tables(cells, CELLS, title, answers, effects, labellings, robust)
    for name in ("The cells", "Robustness", "The pseudo-labels"):
        if name in text:
            _, head, lines = text[name]
            print(f"\n{name}\n{markdown(head, lines)}")
    print()
    for answer in answers:
        print(f"{answer.question}  {answer}")
    out = pathlib.Path(args.out)
    with whole_file(out / "results.md") as path:
        path.write_text(sections(text), encoding="utf-8")
    write_json(out / "results.json", as_json(cells, answers, effects))

    # What to look at
    pictures = figures.draw_all(cells, title, answers, labellings, first.results["class_names"],
                                out, data.x_test if photos and data else None)
    print(f"\nin {out}: results.md, results.json, {', '.join(path.name for path in pictures)}")
    if args.check_overlap:
        robust_data.check_overlap(labelled, data, args.out)
    if args.report:
        labelling_runs = [run for runs in labelled.values() for run in runs]
        # The page begins with the answers and their picture.
        answered = {name: text.pop(name) for name in ("The answers",) if name in text}
        text["What each cell was made with"] = made_table(cells, title)
        report.write_page(args.report, first.made_from["data"], sections(answered),
                          sections(text), pictures,
                          photos_of(cells, labelling_runs) if photos else [],
                          report.commands(trainings, labelling_runs))
        print(f"open in a browser: {args.report}")


if __name__ == "__main__":
    run_script(main, args)
