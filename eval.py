"""Step 5: what it all was worth, on the test images.

    python eval.py logs/experiment                     # every finished training below it
    python eval.py logs/teacher logs/student           # these two
    python eval.py logs/experiment --report report.html --corrupted data/toy-corrupted --adversarial

Runs that differ in nothing but their seed are one cell of the experiment. Every question of the experiment is a
difference between two cells: how large it is, how sure that is, and the answer in words.

Reads   finished runs of steps 1 and 4 (and 2, for what the pseudo-labels were), and the data they were trained on
Writes  figures/   results.md and results.json (the tables and the answers) and pictures; --report: all in one page
"""

import argparse
import csv
import dataclasses
import functools
import itertools
import math
import operator
import pathlib
import time
from dataclasses import dataclass

import cifar10_resnet50 as step1  # first: it quietens the backend
import imagenet_dummy_label as step2
import overlap
import report
import robustness
import stochastic_resblock  # noqa: F401  the student's layers must be known to load it

import numpy as np

# A cell is told by its noise and by the cell of the teacher whose pseudo-labels it was given; None: labels alone.
TEACHER, NOISY_TEACHER = ("none", None), ("all", None)
QUIET, STUDENT, STUDENT_OF_NOISY = ("none", TEACHER), ("all", TEACHER), ("all", NOISY_TEACHER)
SECOND_GENERATION = ("all", STUDENT)
# Its name, and the article's accuracy and loss. The article's losses include an L2 term.
CELLS = {
    TEACHER: ("teacher: labels alone, no noise", 0.8839, 0.8177),
    NOISY_TEACHER: ("noisy teacher: labels alone, noise", 0.9414, 0.2492),
    QUIET: ("pseudo-labels, no noise", None, None),  # the cell the article lacks
    STUDENT: ("student: pseudo-labels, noise", 0.9394, 0.2470),
    STUDENT_OF_NOISY: ("student of the noisy teacher", 0.9428, 0.2289),
    SECOND_GENERATION: ("second generation: the student's student", None, None),
}
QUESTIONS = (  # each is the second cell's accuracy less the first's
    ("Does noise help, on labels alone?", TEACHER, NOISY_TEACHER),
    ("Does noise help, with pseudo-labels?", QUIET, STUDENT),
    ("Do pseudo-labels help, without noise?", TEACHER, QUIET),
    ("Do pseudo-labels help, on top of noise?", NOISY_TEACHER, STUDENT),
    ("Is the noisy student better than its teacher?", TEACHER, STUDENT),
    ("Does a noisy teacher teach better?", STUDENT, STUDENT_OF_NOISY),
    ("Does a second generation help?", STUDENT, SECOND_GENERATION),
)
TWO_BY_TWO = {  # weights of (teacher, noisy teacher, pseudo-labels without noise, student)
    "noise": (-0.5, 0.5, -0.5, 0.5),
    "pseudo-labels": (-0.5, -0.5, 0.5, 0.5),
    "interaction": (1, -1, -1, 1),  # what pseudo-labels add under noise less what they add without
}
# What two cells must have in common for their difference to mean anything; a larger student differs in the last two.
MATCHED = ("num_labeled", "validation", "recipe", "batch_size", "epochs", "steps_per_epoch", "learning_rate", "early_stopping",
           "depth", "width")
RESAMPLES = 10_000  # of the bootstrap
ECE_BINS = 15  # as Guo et al. 2017
ADVERSARIAL_IMAGES = 1000  # that are attacked, unless told otherwise


# --- statistics ----------------------------------------------------------------------------------


def wilson_interval(right, n, z=1.959964):
    """Wilson's score interval for a share of right answers, 95 % by default.

    Args:
        right: 0..n right answers out of n.

    Returns: (low, high), within 0..1.
    """
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"right must be from 0 to n and n at least 1, got {right} of {n}")
    share = right / n
    centre, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mcnemar(only_first, only_second):
    """McNemar's exact two-sided p: could a fair coin have split the images on which two networks disagree like this?

    Args:
        only_first, only_second: images that the first network alone, and the second alone, has right.
    """
    n, few = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, k) for k in range(few + 1))  # exact: whole numbers of any length
    return min(1.0, 2 * tail / 2**n)


def paired_bootstrap(differences, resamples=RESAMPLES, seed=0):
    """A 95 % interval for a mean difference, over other test images and other seeds.

    Draws images with replacement, and seeds with replacement, each image with all its seeds: the same images met
    every network. With three seeds the part of the seeds is a rough guess, and rather too narrow than too wide.

    Args:
        differences: float (S, N), for each seed and test image, say 1 where only the second network was right,
            -1 where only the first was, 0 otherwise.

    Returns: (low, high).
    """
    rng = np.random.default_rng(seed)
    seeds, images = differences.shape
    # Few different columns exist, so to draw N images is to draw how often each kind of column comes.
    columns, counts = np.unique(differences, axis=1, return_counts=True)  # (S, K), (K,)
    drawn = rng.multinomial(images, counts / images, size=resamples) / images  # (R, K)
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds  # (R, S)
    means = ((drawn @ columns.T) * weights).sum(axis=1)
    return tuple(float(bound) for bound in np.quantile(means, (0.025, 0.975)))


def expected_calibration_error(probabilities, y, bins=ECE_BINS):
    """ECE of Guo et al. 2017: how far confidence is from accuracy, averaged over bins of equal width.

    Args:
        probabilities: (N, C). y: int (N,).

    Returns: the error, 0..1, and for each bin (low, high]: images, mean confidence, accuracy (NaN where empty).
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == y
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(number, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(number, confidence, bins) / count
        accuracy = np.bincount(number, right, bins) / count
    gap = np.nan_to_num(np.abs(accuracy - mean_confidence))
    return float((count * gap).sum() / len(y)), (count, mean_confidence, accuracy)


# --- runs and cells ------------------------------------------------------------------------------


@dataclass
class Run:
    """One finished training, and what its network says about the images it was not trained on."""

    folder: pathlib.Path
    record: dict  # run.json
    history: list  # history.csv
    probabilities: np.ndarray  # of the test images, float32 (N, C)
    calibrated: np.ndarray  # the same at the temperature that suits the validation images
    temperature: float
    y: np.ndarray  # the test images' classes, int (N,)
    split: dict = None  # split.npz: int indices train, val, rest

    def __post_init__(self):
        self.seed = self.record["arguments"]["seed"]
        self.right = self.probabilities.argmax(axis=1) == self.y  # bool (N,)
        self.accuracy = float(self.right.mean())
        self.interval = wilson_interval(int(self.right.sum()), len(self.y))
        t = np.eye(self.probabilities.shape[1])[self.y]
        both = self.probabilities, self.calibrated
        self.cross_entropy, self.calibrated_cross_entropy = (step1.score(p, t)[0] for p in both)
        self.ece, self.calibrated_ece = (expected_calibration_error(p, self.y)[0] for p in both)
        self.tests = {}  # of its robustness


@dataclass
class Cell:
    """Runs that differ in nothing but the seed: one row of the table."""

    key: tuple  # of CELLS
    settings: dict  # everything that was chosen for it
    runs: dict  # seed -> Run
    unusual: dict = None  # those settings that most other cells have otherwise, in words
    name: str = ""

    def mean(self, what):
        """Mean and standard deviation over the seeds (NaN for one) of what(run)."""
        values = [what(run) for run in self.runs.values()]
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def find_runs(folders):
    """Every training and labelling in the folders, or below them. Returns: (folder, record) pairs of each kind."""
    trainings, labellings = [], []
    for folder in map(pathlib.Path, folders):
        single = (folder / "run.json").exists() or not folder.is_dir()
        for found in [folder] if single else sorted(path.parent for path in folder.rglob("run.json")):
            if single:
                record = step1.load_run(found, "python cifar10_resnet50.py, or data_generator.py")
            else:
                record = step1.read_record(found / "run.json")
                if not record["finished"]:
                    print(f"left out, not finished: {found}")
                    continue
            (trainings if "cell" in record else labellings).append((found, record))
    if not trainings:
        raise step1.UserError(f"{', '.join(map(str, folders))}: no finished training there. Run: python cifar10_resnet50.py")
    return trainings, labellings


def cell_key(cell):
    """A run's cell as run.json has it -> a key of CELLS, nested as deep as there were teachers."""
    return (cell["noise"], cell["pseudo"] and cell_key(cell["pseudo"]))


def cell_name(key):
    if key in CELLS:
        return CELLS[key][0]
    noise, taught_by = key
    if (("all", taught_by) in CELLS or taught_by is None) and noise in ("input", "model"):
        return f"{CELLS[('all', taught_by)][0]} on the {noise} alone"
    return f"noise {noise}" + (f", taught by [{cell_name(taught_by)}]" if taught_by else ", labels alone")


def settings_of(record):
    """Everything that was chosen for a run but its seed, and without what its kind of noise does not use."""
    unused = {"none": ("dropout", "p_last", "augment_ops", "augment_magnitude"), "input": ("dropout", "p_last"),
              "model": ("augment_ops", "augment_magnitude"), "all": ()}[record["cell"]["noise"]]
    settings = {key: value for key, value in record["arguments"].items() if key not in ("seed", "noise", *unused)}
    teacher = record["cell"]
    for place in itertools.count():  # its labelling, its teacher's size, its teacher's labelling, ...
        settings |= {f"{'teacher ' * place}{key}": value for key, value in (teacher.get("labelling") or {}).items()}
        teacher = teacher["pseudo"]
        if teacher is None:
            return settings
        settings |= {f"{'teacher ' * (place + 1)}{key}": teacher.get(key) for key in ("depth", "width")}


def group(runs):
    """Runs -> cells, named. What sets a cell apart from most others is part of its name."""
    cells = {}
    for run in runs:
        key, settings = cell_key(run.record["cell"]), settings_of(run.record)
        cell = cells.setdefault((key, repr(sorted(settings.items()))), Cell(key, settings, {}))
        if run.seed in cell.runs:
            print(f"warning: {run.folder} and {cell.runs[run.seed].folder} are the same cell and seed; the latter is left out")
        cell.runs[run.seed] = run
    cells = list(cells.values())
    usual = {}
    for name in {name for cell in cells for name in cell.settings}:
        values = [cell.settings[name] for cell in cells if name in cell.settings]
        usual[name] = max(values, key=values.count)  # of equally usual ones, the first
    for cell in cells:
        apart = {name: value for name, value in cell.settings.items() if value != usual[name]}
        cell.unusual = {name: f"{name.replace('_', ' ')} {' '.join(map(str, value)) if isinstance(value, list) else value}"
                        for name, value in apart.items()}
        cell.name = ", ".join([cell_name(cell.key), *cell.unusual.values()]).replace(" True", "")
    return cells


def in_order(cells):
    """The article's order, and then as they were given."""
    order = list(CELLS)
    return sorted(cells, key=lambda cell: (order.index(cell.key) if cell.key in order else len(order), len(cell.unusual)))


def load_runs(trainings):
    """The trainings with their predictions, and the data they share. Raises: UserError where they do not compare."""
    data, runs = None, []
    for folder, record in trainings:
        made_from = record["made_from"]
        if data is None:
            data, first = step1.load_data(made_from["data"]), folder
            if data.fingerprint() != made_from["data_sha256"]:
                raise step1.UserError(f"{made_from['data']} has changed since {folder} was trained on it")
        if made_from["data_sha256"] != trainings[0][1]["made_from"]["data_sha256"]:
            raise step1.UserError(f"{folder} was trained on other data than {first}: their tables do not compare")
        try:
            parts = step1.read_arrays(folder / "split.npz")
            with_split = dataclasses.replace(data, **{name: parts[name] for name in ("train", "val", "rest")})
            intact = with_split.lineage()["split_sha256"] == made_from["split_sha256"]
        except (step1.UserError, KeyError, TypeError, ValueError):
            intact = False
        if not intact:
            raise step1.UserError(f"{folder / 'split.npz'}: not the one its run wrote. Delete {folder} and train again")
        predictions = read_predictions(folder, record, with_split)
        temperature = 1.0  # --validation test leaves no images to fit one on
        if len(with_split.val):
            temperature = step2.fit_temperature(predictions["validation"], with_split.validation()[1])
        runs.append(Run(folder, record, step1.read_history(folder / "history.csv"), predictions["test"],
                        step2.with_temperature(predictions["test"], temperature), temperature, data.y_test, parts))
    return runs, data


def read_predictions(folder, record, data):
    """What the training's end left in predictions.npz; the network runs again only where that is missing or damaged."""
    path, expected = folder / "predictions.npz", step1.predictions_key(record["model_sha256"], record["made_from"])
    if path.exists():
        try:
            saved = step1.read_arrays(path)
            shapes = {"test": (len(data.x_test), data.num_classes), "validation": (len(data.validation()[0]), data.num_classes)}
            if str(saved["made_from"]) == expected and all(saved[name].shape == shape for name, shape in shapes.items()):
                return {name: saved[name] for name in shapes}
            print(f"warning: {path} is of another network and is made again")
        except (step1.UserError, KeyError):
            print(f"warning: {path} is damaged and is made again")
    return step1.save_predictions(folder, step1.load_model(folder)[0], data)


# --- questions and answers -----------------------------------------------------------------------


@dataclass
class Answer:
    """A difference of accuracies in points (hundredths), its 95 % interval, and whether it is shown."""

    question: str
    cells: tuple
    seeds: list
    points: float
    low: float
    high: float
    per_seed: list
    p: list  # McNemar's, per seed; empty for what is not a difference of two networks

    @property
    def shown(self):
        """The interval is off zero, and no seed points the other way."""
        return (self.low > 0 and min(self.per_seed) > 0) or (self.high < 0 and max(self.per_seed) < 0)

    def in_words(self):
        if not self.shown:
            return f"not shown: {self.points:+.1f} points ({self.low:+.1f} to {self.high:+.1f})"
        if self.points > 0:
            return f"yes, by {self.points:.1f} points ({self.low:.1f} to {self.high:.1f})"
        return f"no, it costs {-self.points:.1f} points ({-self.high:.1f} to {-self.low:.1f})"


def contrast(question, weighted_cells):
    """The weighted sum of the cells' accuracies, over the seeds that all have.

    Args:
        weighted_cells: (weight, Cell) pairs.

    Returns: an Answer, or None where no seed is common to all.
    """
    cells = tuple(cell for _, cell in weighted_cells)
    seeds = sorted(set.intersection(*(set(cell.runs) for cell in cells)))
    if not seeds:
        return None
    differences = sum(weight * np.stack([cell.runs[seed].right for seed in seeds]).astype(np.float64)
                      for weight, cell in weighted_cells)  # (S, N)
    low, high = paired_bootstrap(differences)
    p = []
    if sorted(weight for weight, _ in weighted_cells) == [-1, 1]:
        p = [mcnemar(int((row < 0).sum()), int((row > 0).sum())) for row in differences]
    return Answer(question, cells, seeds, 100 * differences.mean(), 100 * low, 100 * high,
                  (100 * differences.mean(axis=1)).tolist(), p)


def usual_cells(cells):
    """For each kind of cell, the one with the fewest unusual settings: what the questions compare."""
    usual = {}
    for cell in cells:
        if cell.key not in usual or len(cell.unusual) < len(usual[cell.key].unusual):
            usual[cell.key] = cell
    return usual


def ask(cells):
    """Puts QUESTIONS to the usual cells, and compares every other cell with the usual one of its kind."""
    usual, answers = usual_cells(cells), []
    for question, first, second in QUESTIONS:
        if first in usual and second in usual:
            answers.append(contrast(question, [(-1, usual[first]), (1, usual[second])]))
    for cell in cells:
        rival = usual[cell.key] if cell.key in CELLS else usual.get(("all", cell.key[1]))
        if rival is None or rival is cell:
            continue
        size, rivals_size = ((of.settings["depth"], of.settings["width"]) for of in (cell, rival))
        if set(cell.unusual) ^ set(rival.unusual) <= {"depth", "width"} and size > rivals_size:
            question = f"Does a larger {'student' if cell.key[1] else 'network'} help ({', '.join(cell.unusual.values())})?"
        else:
            question = f"Is [{cell.name}] better than [{rival.name}]?"
        answers.append(contrast(question, [(-1, rival), (1, cell)]))
    return [answer for answer in answers if answer]


def warn_of_unmatched(answers):
    """Says where two cells of a question differ in more than the question asks about."""
    for answer in answers:
        first, second = (cell.settings for cell in answer.cells[:2])
        asked = ("depth", "width") if "larger" in answer.question else ()
        differ = [f"{name} ({first[name]} and {second[name]})" for name in MATCHED
                  if name not in asked and first[name] != second[name]]
        steps = [sorted({run.record["steps"] for run in cell.runs.values()}) for cell in answer.cells[:2]]
        if steps[0] != steps[1]:
            differ.append(f"steps ({steps[0]} and {steps[1]})")
        if differ and not answer.question.startswith("Is ["):
            print(f"warning: {answer.question} The two cells also differ in {', '.join(differ)}")


def effects(cells):
    """Main effects and interaction of the 2x2, each an Answer; nothing where a cell of the four is missing."""
    usual = usual_cells(cells)
    four = [usual.get(key) for key in (TEACHER, NOISY_TEACHER, QUIET, STUDENT)]
    return [] if None in four else [answer for name, weights in TWO_BY_TWO.items()
                                    if (answer := contrast(name, list(zip(weights, four))))]


# --- robustness, calibration, and what the pseudo-labels were ---------------------------------------


def measure_robustness(cells, data, args):
    """Fills run.tests of the runs asked for, with what robustness.py measures."""
    tests = {}  # what is measured: (its file in the run's folder, what it was measured on, measure(model))
    if args.corrupted:
        corrupted = robustness.load_corrupted(args.corrupted, data.y_test, data.num_classes, args.robust_images)
        tests["corrupted"] = "corrupted", corrupted.fingerprint, lambda model: robustness.corruption_errors(model, corrupted)
    if args.adversarial:
        rows = robustness.evenly_spaced(len(data.y_test), args.robust_images or ADVERSARIAL_IMAGES)
        x, t = data.x_test[rows], data.one_hot(data.y_test[rows])
        tests["adversarial"] = "adversarial", step1.sha256(x, t), lambda model: robustness.attack(model, x, t)
    for folder in args.shifted:
        images, y = robustness.load_shifted(folder, data.class_names)
        key = step1.sha256(images, y)
        tests[f"shifted {folder}"] = f"shifted-{key[:8]}", key, functools.partial(right_of, images=images, y=y)

    runs = [run for cell in cells for run in list(cell.runs.values())[:args.robust_seeds]] if tests else []
    started = time.monotonic()
    for done, run in enumerate(runs, 1):
        network = functools.cache(lambda folder=run.folder: step1.load_model(folder)[0])  # loaded once, and only if needed
        for name, (file, key, measure) in tests.items():
            run.tests[name] = robustness.remembered(run.folder, file, f"{run.record['model_sha256']} {key}",
                                                    lambda measure=measure, network=network: measure(network()))
        if args.corrupted:  # beside the errors: that on the same images, clean
            clean = None if corrupted.clean_rows is None else 1 - float(run.right[corrupted.clean_rows].mean())
            run.tests["corrupted"] = {"clean": clean, "errors": run.tests["corrupted"]}
        left = (time.monotonic() - started) * (len(runs) / done - 1)
        print(f"robustness: {done} of {len(runs)} runs, {left:.0f} s left", flush=True)


def right_of(model, images, y):
    right = int((step1.predict(model, images).argmax(axis=1) == y).sum())
    return {"right": right, "images": len(y), "interval": wilson_interval(right, len(y))}


@dataclass
class Labels:
    """What one way of labelling came to, over its seeds."""

    name: str
    records: list  # run.json of step 2, one per seed
    class_names: list
    rows: list  # of images.csv, all seeds: (confidence, right: True, False or None where the truth is not known)

    def mean(self, what):
        values = [value for record in self.records if (value := what(record)) is not None]
        return float(np.mean(values)) if values else None

    def precision_by_confidence(self, bins=10):
        """Bins of equal width: (images, precision) of those whose truth is known, NaN where there are none."""
        known = np.array([row for row in self.rows if row[1] is not None], dtype=np.float64).reshape(-1, 2)
        number = np.clip((known[:, 0] * bins).astype(int), 0, bins - 1)
        count = np.bincount(number, minlength=bins)
        with np.errstate(invalid="ignore"):
            return count, np.bincount(number, known[:, 1], bins) / count


def load_labels(labellings):
    """Finished labellings -> one Labels for each teacher's cell and set of arguments."""
    found = {}
    for folder, record in labellings:
        rows = []
        try:
            with open(folder / "images.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
                for row in csv.DictReader(file):
                    if row["confidence"]:
                        truth = row.get("truth")
                        rows.append((float(row["confidence"]), row["label"] == truth if truth else None))
        except (OSError, KeyError, ValueError, csv.Error) as error:
            print(f"warning: {folder / 'images.csv'} is damaged ({error}) and is left out")
            continue
        settings = record["arguments"]
        key = repr((record["teacher_cell"], sorted(settings.items())))
        if key not in found:
            taught_by = cell_name(cell_key(record["teacher_cell"])).split(":")[0]
            said = [f"{name.replace('_', ' ')} {value}".replace(" True", "") for name, value in settings.items()
                    if name != "images" and value not in (None, False)]
            name = ", ".join([f"{' '.join(settings['images'])} by the {taught_by}", *said])
            found[key] = Labels(name, [], record["class_names"], [])
        found[key].records.append(record)
        found[key].rows += rows
    return list(found.values())


# --- tables ----------------------------------------------------------------------------------------


def markdown(head, lines):
    """A table in Markdown, right to print and to paste."""
    widths = [max(map(len, column)) for column in zip(head, *lines)]
    rule = ["-" * width for width in widths]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
                     for line in (head, rule, *lines))


def percent(share, digits=2):
    return "-" if share is None or math.isnan(share) else f"{100 * share:.{digits}f} %"


def spread(mean, deviation, digits):
    return f"{mean:.{digits}f}" + ("" if math.isnan(deviation) else f" ± {deviation:.{digits}f}")


def article(cell):
    """The cell's row of CELLS, or Nones where the article has nothing like it."""
    return CELLS[cell.key] if cell.key in CELLS and not cell.unusual else (None, None, None)


def as_p(p):
    return "-" if not p else "below 1e-6" if max(p) < 1e-6 else f"{max(p):.2g}"


def tables(cells, answers, effects_, labels, data):
    """All tables of the report: {title: (what it says, head, lines)}."""
    found = {}
    lines = []
    for cell in cells:
        runs = list(cell.runs.values())
        low, high = runs[0].interval
        accuracy = spread(*(100 * value for value in cell.mean(lambda run: run.accuracy)), 2) + " %"
        _, article_accuracy, article_loss = article(cell)
        lines.append([
            cell.name, str(len(runs)), f"{runs[0].record['steps']:,}",
            accuracy + (f" ({100 * low:.2f} to {100 * high:.2f})" if len(runs) == 1 else ""),
            spread(*cell.mean(lambda run: run.cross_entropy), 3),
            f"{cell.mean(lambda run: run.record['wall_seconds'] / 60)[0]:.1f}",
            f"{percent(article_accuracy)}, {article_loss:.4f}" if article_accuracy else "-"])
    found["The cells"] = (
        f"{len(data.y_test):,} test images, final weights. Over several seeds: mean ± standard deviation; for one: Wilson's 95 % "
        "interval. The article's column is its full ResNet50 on all of CIFAR-10.",
        ["cell", "seeds", "steps", "accuracy", "cross-entropy", "minutes", "article"], lines)

    found["The answers"] = (
        "Differences of accuracy with 95 % intervals (paired bootstrap over test images and seeds). 'Shown' means: the interval is "
        "off zero and no seed points the other way. 'Not shown' is not 'no effect': the interval tells how large one may still be. "
        "McNemar's exact p is the largest of the seeds. Of twenty such intervals one misses by chance.",
        ["question", "answer", "each seed", "p"],
        [[answer.question, answer.in_words(), ", ".join(f"{value:+.1f}" for value in answer.per_seed), as_p(answer.p)]
         for answer in answers])

    if effects_:
        found["The 2x2"] = (
            "Main effects are averages over the other factor; the interaction is what pseudo-labels add under noise less what they "
            "add without.",
            ["effect", "points", "95 % interval", "each seed"],
            [[effect.question, f"{effect.points:+.2f}", f"{effect.low:+.2f} to {effect.high:+.2f}",
              ", ".join(f"{value:+.1f}" for value in effect.per_seed)] for effect in effects_])

    found["Calibration"] = (
        f"Expected calibration error ({ECE_BINS} bins of equal width) and negative log-likelihood (nats), as trained and at the "
        "temperature fitted on the validation images.",
        ["cell", "ECE", "ECE calibrated", "NLL", "NLL calibrated", "temperature"],
        [[cell.name,
          *(spread(*(100 * value for value in cell.mean(operator.attrgetter(name))), 1) + " %" for name in ("ece", "calibrated_ece")),
          *(spread(*cell.mean(operator.attrgetter(name)), 3) for name in ("cross_entropy", "calibrated_cross_entropy")),
          spread(*cell.mean(lambda run: run.temperature), 2)] for cell in cells])

    tested = [cell for cell in cells if any(run.tests for run in cell.runs.values())]
    if tested:
        found["Robustness"] = robustness_table(tested)
    if labels:
        found["The pseudo-labels"] = (
            "Means over seeds. Precision: of the kept images whose truth is known, the share that is right; a photo of none of the "
            "classes is never right. Recall: of all images of a class, the share kept under it.",
            ["labels", "seeds", "images", "kept", "precision", "recall", "temperature", "rarest and most frequent class"],
            [[of.name, str(len(of.records)), f"{of.mean(lambda r: r['seen']):,.0f}", f"{of.mean(lambda r: r['kept']):,.0f}",
              *(percent(of.mean(lambda r: r["audit"]["kept"][name]), 1) for name in ("precision", "recall")),
              f"{of.mean(lambda r: r['temperature']):.2f}",
              f"{of.mean(lambda r: min(r['kept_per_class'])):,.0f} and {of.mean(lambda r: max(r['kept_per_class'])):,.0f}"]
             for of in labels])
    found["Every run"] = (
        "Accuracy with Wilson's 95 % interval, and plain cross-entropy.",
        ["run", "cell", "seed", "accuracy", "cross-entropy"],
        [["/".join(run.folder.parts[-2:]), cell.name, str(run.seed),
          f"{percent(run.accuracy)} ({100 * run.interval[0]:.2f} to {100 * run.interval[1]:.2f})", f"{run.cross_entropy:.4f}"]
         for cell in cells for run in cell.runs.values()])
    return found


def robustness_table(cells):
    """One row per cell, a column per test, means over the seeds that were tested."""
    columns, like = {}, robustness.LIKE_RANDAUGMENT
    tests = {name: run.tests[name] for cell in cells for run in cell.runs.values() for name in run.tests}
    if "corrupted" in tests:
        errors = tests["corrupted"]["errors"]
        if tests["corrupted"]["clean"] is not None:
            columns["error, clean"] = lambda run: run.tests["corrupted"]["clean"]
        columns["mean corruption error"] = lambda run: robustness.mean_corruption_error(run.tests["corrupted"]["errors"])
        if 0 < len(set(errors) & set(like)) < len(errors):
            columns["of those unlike RandAugment"] = (
                lambda run: robustness.mean_corruption_error(run.tests["corrupted"]["errors"], like))
    if "adversarial" in tests:
        for i, epsilon in enumerate(robustness.EPSILONS):
            columns[f"FGSM {epsilon}/255"] = lambda run, i=i: run.tests["adversarial"]["fgsm"][i]
        columns[f"PGD {robustness.PGD_EPSILON}/255"] = lambda run: run.tests["adversarial"]["pgd"]
    for name in sorted(set(tests) - {"corrupted", "adversarial"}):
        columns[name.replace("shifted ", "accuracy on ")] = (
            lambda run, name=name: run.tests[name]["right"] / run.tests[name]["images"])

    def mean(cell, what):
        values = [what(run) for run in cell.runs.values() if run.tests]
        return percent(np.mean(values), 1)

    return ("Mean corruption error: over corruptions and severities, not divided by another network's; lower is better. "
            f"{', '.join(like).replace('_', ' ')} resemble operations of RandAugment, which a student under noise has practised. "
            "FGSM and PGD: accuracy "
            "when every pixel may move so far; higher is better. PGD above FGSM at the same distance would mean masked gradients.",
            ["cell", *columns], [[cell.name, *(mean(cell, what) for what in columns.values())] for cell in cells])


def as_json(cells, answers, effects_, labels):
    """Everything in the tables and pictures, as numbers."""
    def plain(answer):
        return {"question": answer.question, "answer": answer.in_words(), "cells": [cell.name for cell in answer.cells],
                **{name: getattr(answer, name) for name in ("points", "low", "high", "shown", "seeds", "per_seed", "p")}}

    of_run = ("seed", "accuracy", "interval", "cross_entropy", "calibrated_cross_entropy", "ece", "calibrated_ece", "temperature", "tests")
    of_labels = ("seen", "kept", "balanced", "temperature", "audit", "kept_per_class")
    return {
        "cells": [{
            "cell": cell.name, "article_accuracy": article(cell)[1], "article_loss": article(cell)[2],
            "accuracy": cell.mean(lambda run: run.accuracy)[0], "settings": cell.settings,
            "runs": [{"run": "/".join(run.folder.parts[-2:]), "steps": run.record["steps"], "minutes": run.record["wall_seconds"] / 60,
                      **{name: getattr(run, name) for name in of_run}} for run in cell.runs.values()]} for cell in cells],
        "answers": [plain(answer) for answer in answers],
        "two_by_two": [plain(effect) for effect in effects_],
        "pseudo_labels": [{"labels": of.name, "runs": [{name: record[name] for name in of_labels} for record in of.records]}
                          for of in labels]}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders of finished runs, or folders that hold such, in the order of the table")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("figures"))
    parser.add_argument("--report", type=pathlib.Path, metavar="HTML", help="one page with the tables, the answers and the pictures inside")
    parser.add_argument("--no-photos", action="store_true", help="leave the montages of pseudo-labelled images out of the report")
    parser.add_argument("--corrupted", metavar="DIR", help="a set in CIFAR-10-C's layout")
    parser.add_argument("--adversarial", action="store_true", help="attack the networks: FGSM, and PGD as a check")
    parser.add_argument("--shifted", nargs="+", default=[], metavar="DIR", help="other labelled images of the same classes")
    parser.add_argument("--robust-images", type=step1.number(int, 1), metavar="N",
                        help=f"corrupted: of each severity (all); adversarial: test images ({ADVERSARIAL_IMAGES})")
    parser.add_argument("--robust-seeds", type=step1.number(int, 1), metavar="N", help="test the first N seeds of each cell (all)")
    parser.add_argument("--check-overlap", action="store_true",
                        help="look for near copies of test images among the images trained on, too")
    args = parser.parse_args(argv)
    step1.prepare_backend(0)

    # The runs, as cells
    trainings, labellings = find_runs(args.runs)
    runs, data = load_runs(trainings)
    overlap.check(runs, data, args.check_overlap, args.out)
    cells = in_order(group(runs))

    # The answers
    answers, two_by_two = ask(cells), effects(cells)
    warn_of_unmatched(answers)
    measure_robustness(cells, data, args)
    labels = load_labels(labellings)

    # What to read
    found = tables(cells, answers, two_by_two, labels, data)
    text = {title: markdown(head, lines) for title, (_, head, lines) in found.items()}
    for title in ("The cells", "The 2x2", "Robustness", "The pseudo-labels"):
        if title in text:
            print(f"\n{title}\n{text[title]}")
    if answers:
        print()
    for answer in answers:
        print(f"{answer.question}  {answer.in_words()}")
    with step1.whole_file(args.out / "results.md") as path:
        path.write_text("\n\n".join(f"## {title}\n\n{found[title][0]}\n\n{text[title]}" for title in found) + "\n", encoding="utf-8")
    step1.write_json(args.out / "results.json", as_json(cells, answers, two_by_two, labels))

    # What to look at
    pictures = report.draw_all(cells, usual_cells(cells), answers, labels, data, args.out)
    print(f"\nin {args.out}: results.md, results.json, {', '.join(path.name for path in pictures)}")
    if args.report:
        photos = [] if args.no_photos else [folder / name for folder, _ in labellings for name in ("montage.png", "mistakes.png")]
        report.write_page(args.report, data.name, found, answers, pictures, photos)
        print(f"open in a browser: {args.report}")


if __name__ == "__main__":
    step1.run_script(main)
