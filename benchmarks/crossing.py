"""Where do pseudo-labels pay? What a noisy teacher's labels add, by the number of true ones.

    python experiment.py run crossing-250        # and crossing-500, ... crossing-all
    python experiment.py run averaged-250        # and averaged-1000, -4000 and -all
    python benchmarks/crossing.py logs/crossing logs/averaged

All experiments below the folders that have both networks of one of PAIRS are read, and drawn as
one series for each kind of network. One with a noisy teacher alone is the ceiling: crossing-all has
the true label of every image, in as many steps. What a folder's own notes.md says goes into the
page. Trains nothing.

Writes results/crossing/README.md, gain.png and accuracy.png
"""

import argparse
import pathlib
import shlex
from typing import NamedTuple

import numpy as np
from measure import ROOT, table

from eval import Answer, contrast
from experiment import CELLS, LABELS
from noisy_student import figures
from noisy_student.cells import load_cells
from noisy_student.files import UserError, run_script
from noisy_student.tables import mean

# Labels alone, and with pseudo-labels under the same noise. A series' name ends so.
PAIRS = {"": ("noisy_teacher", "student_of_noisy"),
         ", weaker noise": ("weaker_noise", "student_weaker_noise")}


class Point(NamedTuple):
    """One experiment: its number of labels, the cells of one of PAIRS, {seed: Measured} each, and
    by how much the second is better.
    """

    labels: int
    pair: list
    answer: Answer

    @property
    def run(self):
        """A training with labels alone."""
        return self.pair[0][self.answer.seeds[0]].run

    @property
    def steps(self):
        return self.run.results["steps"]

    @property
    def accuracies(self):
        """Of either cell, in %, the mean over the seeds that both have."""
        return [100 * np.mean([cell[seed].accuracy for seed in self.answer.seeds])
                for cell in self.pair]


class Ceiling(NamedTuple):
    """Noisy teachers that have the true label of every image, {seed: Measured}."""

    teachers: dict

    @property
    def accuracy(self):
        """In %, the mean over the seeds."""
        return 100 * np.mean([teacher.accuracy for teacher in self.teachers.values()])

    @property
    def steps(self):
        return next(iter(self.teachers.values())).run.results["steps"]


def points_of(cells):
    """{series: Point}, for each of PAIRS that an experiment's cells have with a common seed."""
    points = {}
    for ending, names in PAIRS.items():
        pair = [cells.get(name, {}) for name in names]
        answer = contrast("", (-1, 1), pair)
        if answer:
            run = pair[0][answer.seeds[0]].run
            # Without those that validate.
            labels = run.results.get("images") or run.arguments["num_labeled"]
            points[network_of(run) + ending] = Point(labels, pair, answer)
    return points


def load_series(folders):
    """All experiments below some folders, those with the fewest labels first.

    Returns: {network: [Point, ...]}, and {network: Ceiling} of those with the true label of every
        image.
    """
    series, ceilings = {}, {}
    for folder in folders:
        teachers = pathlib.Path(folder).rglob("seed*/noisy_teacher/history.csv")
        for experiment in sorted({path.parents[2] for path in teachers}):
            cells = load_cells([experiment], CELLS, LABELS)[0]
            for title, point in points_of(cells).items():
                series.setdefault(title, []).append(point)
            teacher = cells.get("noisy_teacher")
            if teacher and "student_of_noisy" not in cells:
                run = next(iter(teacher.values())).run
                if run.arguments["num_labeled"] is None:
                    ceilings[network_of(run)] = Ceiling(teacher)
    if not series:
        raise UserError(f"{', '.join(map(str, folders))}: no noisy teacher with its student there. "
                        "Run first: python experiment.py run crossing-250")
    series = {network: sorted(points, key=lambda point: point.labels)
              for network, points in series.items()}
    for network in set(ceilings) & set(series):
        if ceilings[network].steps != series[network][0].steps:
            raise UserError(f"{network}: all true labels were learnt in {ceilings[network].steps} "
                            f"steps, few in {series[network][0].steps}; leave one of them out")
    return series, ceilings


def network_of(run):
    """What the series of a training is called."""
    kind = run.arguments.get("network", "resnet")
    averaged = ", averaged weights" if run.arguments.get("averaging") else ""
    return f"{kind}, width {run.arguments['width']:g}{averaged}"


def row_of(title, point):
    images = point.steps * point.run.arguments["batch_size"]
    return [title, f"{point.labels:,}", ", ".join(map(str, point.answer.seeds)),
            *(f"{accuracy:.2f}" for accuracy in point.accuracies), str(point.answer),
            f"{point.steps:,}", f"{images:,}", f"{images / point.labels:,.0f}"]


def sentence_of(title, ceiling, points):
    """What the true label of every image gives, and by how much that is more than the most labels
    of a series give.
    """
    accuracy = mean(ceiling.teachers, lambda teacher: teacher.accuracy, 100)
    sentence = (f"With the true label of every image, a noisy teacher ({title}, seeds "
                f"{', '.join(map(str, sorted(ceiling.teachers)))}) reaches {accuracy} % in as many "
                "steps.")
    more = contrast("", (-1, 1), [points[-1].pair[0], ceiling.teachers])
    if more:
        sentence += (f" Is that more than with {points[-1].labels:,} labels alone? "
                     f"{str(more).capitalize()}. Pseudo-labels that were all right could add about "
                     "as much, under this noise and in these steps.")
    return sentence


def draw_points(axes, points, places, values, label, style):
    """A mark for each Point, and a line through those of as many steps as the first.

    What takes other steps is another experiment.
    """
    joined = [n for n, point in enumerate(points) if point.steps == points[0].steps]
    axes.plot([places[n] for n in joined], [values[n] for n in joined], color=style["color"])
    axes.plot(places, values, label=label, linestyle="none", **style)


@figures.our_settings
def draw_gain(series, path):
    """The gain against the number of labels, with intervals where there are several seeds."""
    figure, (axes,) = figures.new_figure(3.7 + 0.23 * len(series))
    axes.axhline(0, color="black", linewidth=1)
    for i, (title, points) in enumerate(series.items()):
        style = figures.style(i)
        # Beside each other, where two networks have as many labels.
        places = [point.labels * 1.06**i for point in points]
        gains = [point.answer.points for point in points]
        draw_points(axes, points, places, gains, title, style)
        for place, point in zip(places, points):
            answer = point.answer
            if len(answer.seeds) > 1:
                axes.plot([place] * 2, [answer.low, answer.high], color=style["color"], alpha=0.5)
                axes.plot([place] * len(answer.seeds), answer.per_seed, "_", color=style["color"])
            else:
                axes.plot(place, answer.points, **style, markerfacecolor="white")
    axes.set(xscale="log", xlabel="images with a label",
             ylabel="points that pseudo-labels add\non top of noise")
    label_ticks(axes, series)
    figure.legend(loc="outside upper left")
    return figures.save(figure, path)


@figures.our_settings
def draw_accuracy(series, ceilings, path):
    """Both networks' accuracies against the number of labels, and what all labels would give.

    Series of one number of labels are left out where others have several.
    """
    series = {title: points for title, points in series.items() if len(points) > 1} or series
    figure, panels = figures.new_figure(3.2 * len(series), len(series), sharex=True)
    for axes, (title, points) in zip(panels, series.items()):
        labels = [point.labels for point in points]
        for i, name in enumerate(("labels alone", "with pseudo-labels")):
            accuracies = [point.accuracies[i] for point in points]
            draw_points(axes, points, labels, accuracies, name, figures.style(i))
        if title in ceilings:
            axes.axhline(ceilings[title].accuracy, color="black", linestyle=":",
                         label="all true labels, as many steps")
        axes.set(xscale="log", title=title, ylabel="test accuracy, %")
        axes.legend()
        label_ticks(axes, series)
    panels[-1].set_xlabel("images with a label")
    return figures.save(figure, path)


def label_ticks(axes, series):
    numbers = sorted({point.labels for points in series.values() for point in points})
    axes.set_xticks(numbers, [f"{number:,}" for number in numbers], rotation=45)
    axes.minorticks_off()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "results" / "crossing")
    args = parser.parse_args()
    series, ceilings = load_series(args.folders)
    rows = [row_of(title, point) for title, points in series.items() for point in points]
    head = ["network", "labels", "seeds", "labels alone, %", "with pseudo-labels, %",
            "what pseudo-labels add", "steps", "images seen", "images seen / labels"]
    args.out.mkdir(parents=True, exist_ok=True)
    notes = [pathlib.Path(folder, "notes.md") for folder in args.folders]
    notes = [path.read_text(encoding="utf-8").strip() for path in notes if path.exists()]
    text = "\n\n".join([
        "# Where do pseudo-labels pay?",
        f"`{shlex.join(['python', 'benchmarks/crossing.py', *args.folders])}`",
        "A network that was trained under noise labels images. A student learns from them and from "
        "the labelled images, under noise. By how many points is it better than a network that has "
        "the labelled images alone, under the same noise, and sees as many images? Of the "
        "student's, a quarter are labelled ones.", *notes,
        "Labels are counted without those of validation images. Means are over the seeds that have "
        "both networks; intervals are over other seeds and other test images. In the picture, a "
        "tick is one seed, and a hollow mark has only one.",
        "![gain](gain.png)", table(head, rows),
        *(sentence_of(title, ceiling, series[title]) for title, ceiling in ceilings.items()
          if title in series),
        "![accuracy](accuracy.png)"])
    (args.out / "README.md").write_text(text + "\n", encoding="utf-8")
    draw_gain(series, args.out / "gain.png")
    draw_accuracy(series, ceilings, args.out / "accuracy.png")
    print(text)


if __name__ == "__main__":
    run_script(main)
