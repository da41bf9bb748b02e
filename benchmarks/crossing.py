"""Where do pseudo-labels pay? What a noisy teacher's student gains, by the number of labels.

    python experiment.py run crossing-250        # and crossing-500, ... crossing-25000
    python benchmarks/crossing.py logs/crossing

Each folder that is given is one series: all experiments below it that have a noisy teacher and its
student. Every network of a series is trained on as many images. Trains nothing.

Writes results/crossing/README.md, gain.png and accuracy.png
"""

import argparse
import pathlib
import shlex

import numpy as np
from measure import ROOT, table

from eval import contrast
from experiment import CELLS, LABELS
from noisy_student import figures
from noisy_student.cells import load_cells
from noisy_student.files import UserError, run_script

PAIR = ("noisy_teacher", "student_of_noisy")


def load_series(folder):
    """All experiments below a folder, those with the fewest labels first.

    Returns: a title, and a list of (number of labels, the two cells, Answer).
    """
    seeds = [path.parent for path in pathlib.Path(folder).rglob("seed*/" + PAIR[1])]
    points, title = [], ""
    for experiment in sorted({path.parent for path in seeds}):
        cells = load_cells([experiment], CELLS, LABELS)[0]
        if not set(PAIR) <= set(cells):
            continue
        pair = [cells[name] for name in PAIR]
        answer = contrast("", (-1, 1), pair)
        if answer:
            run = pair[0][answer.seeds[0]].run
            labels = run.arguments["num_labeled"] or run.results["images"]
            points.append((labels, pair, answer))
            title = f"width {run.arguments['width']:g}"
    if not points:
        raise UserError(f"{folder}: holds no noisy teacher with its student. Run first: "
                        "python experiment.py run crossing-250")
    return title, sorted(points, key=lambda point: point[0])


def row_of(title, labels, pair, answer):
    accuracies = [np.mean([cell[seed].accuracy for seed in answer.seeds]) for cell in pair]
    steps = {measured.run.results["steps"] for cell in pair for measured in cell.values()}
    taught = pair[1][answer.seeds[0]].run
    images = taught.results["steps"] * taught.arguments["batch_size"]
    return [title, f"{labels:,}", ", ".join(map(str, answer.seeds)),
            *(f"{100 * accuracy:.2f}" for accuracy in accuracies), str(answer),
            "/".join(f"{number:,}" for number in sorted(steps)), f"{images:,}",
            f"{images / labels:,.0f}"]


@figures.our_settings
def draw_gain(series, path):
    """The gain against the number of labels, with intervals where there are several seeds."""
    figure, (axes,) = figures.new_figure(4)
    axes.axhline(0, color="black", linewidth=1)
    for i, (title, points) in enumerate(series):
        style = figures.style(i)
        labels = [labels for labels, _, _ in points]
        axes.plot(labels, [answer.points for _, _, answer in points], label=title, **style)
        for number, _, answer in points:
            if len(answer.seeds) > 1:
                axes.plot([number] * 2, [answer.low, answer.high], color=style["color"], alpha=0.5)
            axes.plot([number] * len(answer.seeds), answer.per_seed, ".", color=style["color"],
                      markersize=4)
    axes.set(xscale="log", xlabel="images with a label",
             ylabel="points that pseudo-labels add\non top of noise")
    label_ticks(axes, series)
    axes.legend()
    return figures.save(figure, path)


@figures.our_settings
def draw_accuracy(series, path):
    """Both networks' accuracies against the number of labels."""
    figure, panels = figures.new_figure(3.2 * len(series), len(series), sharex=True)
    for axes, (title, points) in zip(panels, series):
        labels = [labels for labels, _, _ in points]
        for i, name in enumerate(PAIR):
            means = [100 * np.mean([pair[i][seed].accuracy for seed in answer.seeds])
                     for _, pair, answer in points]
            axes.plot(labels, means, label=CELLS[name].title.split(":")[0], **figures.style(i))
        axes.set(xscale="log", title=title, ylabel="test accuracy, %")
        axes.legend()
        label_ticks(axes, series)
    panels[-1].set_xlabel("images with a label")
    return figures.save(figure, path)


def label_ticks(axes, series):
    numbers = sorted({labels for _, points in series for labels, _, _ in points})
    axes.set_xticks(numbers, [f"{number:,}" for number in numbers], rotation=45)
    axes.minorticks_off()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "results" / "crossing")
    args = parser.parse_args()
    series = [load_series(folder) for folder in args.folders]
    rows = [row_of(title, *point) for title, points in series for point in points]
    head = ["small network", "labels", "seeds", "noisy teacher, %", "its student, %",
            "do its labels help?", "steps", "images seen", "passes over the labels"]
    args.out.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join([
        "# Where do pseudo-labels pay?",
        f"`{shlex.join(['python', 'benchmarks/crossing.py', *args.folders])}`",
        "What the labels of a teacher that was trained under noise add for a student under the "
        "same noise, by the number of labelled images. Both see the same number of images, of "
        "which a quarter of the student's are labelled ones. Intervals are over other seeds and "
        "other test images; the small dots are the seeds.",
        "![gain](gain.png)", table(head, rows), "![accuracy](accuracy.png)"])
    (args.out / "README.md").write_text(text + "\n", encoding="utf-8")
    draw_gain(series, args.out / "gain.png")
    draw_accuracy(series, args.out / "accuracy.png")
    print(text)


if __name__ == "__main__":
    run_script(main)
