"""Step 5, continued: the pictures, and the page that holds them all. `eval.py` calls this.

    python eval.py logs/experiment --out figures --report report.html

Every function draws one picture from cells, runs and answers as eval.py has them. Colours are Okabe and Ito's, which
colour-blind readers can tell apart; where lines meet, their markers differ too.
"""

import base64
import html
import math
import pathlib

import cifar10_resnet50 as step1  # first: it quietens the backend
import robustness

import numpy as np

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
MARKERS = "osD^vP*X"
DPI = 110


def new_figure(width, height, columns=1):
    """A figure in inches, and its panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(1, columns, squeeze=False)[0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    return figure, panels


def save(figure, path):
    with step1.whole_file(path) as beside:
        figure.savefig(beside, dpi=DPI)
    return path


def style(i):
    """Of the i-th line: colour, marker and dashes, all different for sixteen lines."""
    return {"color": COLOURS[i % 8], "marker": MARKERS[i % 8], "linestyle": ("-", "--")[i // 8 % 2]}


def legend_below(figure, panels, columns=2):
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


# --- the table and the answers as pictures ---------------------------------------------------------


def draw_accuracy(cells, path):
    """A row per cell: every seed with its Wilson interval, and the mean."""
    figure, (axes,) = new_figure(9, 0.9 + 0.5 * len(cells))
    for i, cell in enumerate(cells):
        runs = list(cell.runs.values())
        heights = i + (np.arange(len(runs)) - (len(runs) - 1) / 2) * 0.22
        for y, run in zip(heights, runs):
            axes.plot([100 * bound for bound in run.interval], [y, y], color=COLOURS[i % 8], linewidth=2, alpha=0.45, solid_capstyle="butt")
            axes.plot(100 * run.accuracy, y, ".", color=COLOURS[i % 8], markersize=7)
        mean = 100 * cell.mean(lambda run: run.accuracy)[0]
        axes.plot([mean, mean], [i - 0.4, i + 0.4], color=COLOURS[i % 8], linewidth=3)
        axes.annotate(f"{mean:.1f}", (100 * max(run.interval[1] for run in runs), i), xytext=(8, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(cells)), [wrapped(cell.name) for cell in cells], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("accuracy on the test images, %: each seed with its 95 % interval; bar: mean over seeds")
    return save(figure, path)


def wrapped(text, width=44):
    """Text broken after width characters at most, at spaces."""
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


def draw_answers(answers, path):
    """A row per question: the difference, its interval, each seed's, and whether it is shown."""
    figure, (axes,) = new_figure(9, 1 + 0.55 * len(answers))
    for i, answer in enumerate(answers):
        colour = COLOURS[7] if not answer.shown else COLOURS[2] if answer.points > 0 else COLOURS[1]
        axes.plot([answer.low, answer.high], [i, i], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot(answer.points, i, "o", color=colour, markersize=9)
        axes.plot(answer.per_seed, [i + 0.25] * len(answer.per_seed), "|", color="black", markersize=7)
        axes.annotate(answer.in_words().split(" (")[0].split(":")[0].split(",")[0], (max(answer.high, *answer.per_seed, 0), i),
                      xytext=(8, 0), textcoords="offset points", va="center", fontsize=9)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(answers)), [wrapped(answer.question, 50) for answer in answers], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("difference in accuracy, points, with its 95 % interval; ticks: each seed")
    return save(figure, path)


def draw_interaction(four, path):
    """The 2x2: what noise does with pseudo-labels and without. Parallel lines would mean: they do not interact.

    Args:
        four: cells: teacher, noisy teacher, pseudo-labels without noise, student.
    """
    figure, (axes,) = new_figure(6, 4)
    for i, (name, pair) in enumerate((("labels alone", four[:2]), ("with pseudo-labels", four[2:]))):
        means = [100 * cell.mean(lambda run: run.accuracy)[0] for cell in pair]
        axes.plot([0, 1], means, label=name, linewidth=2.5, markersize=9, **style(i))
        for x, cell in enumerate(pair):
            values = [100 * run.accuracy for run in cell.runs.values()]
            axes.plot([x + (0.04, -0.04)[x == 1]] * len(values), values, ".", color=COLOURS[i], alpha=0.6)
    axes.legend(frameon=False)
    axes.set(xticks=[0, 1], xticklabels=["no noise", "noise"], xlim=(-0.25, 1.25), ylabel="accuracy on the test images, %")
    axes.set_title("means over seeds; dots: each seed", fontsize=9)
    return save(figure, path)


def draw_learning_curves(cells, path):
    """Validation accuracy and training loss over the optimizer steps: the mean of the seeds, in a band of all of them."""
    figure, panels = new_figure(10, 4.2 + 0.2 * math.ceil(len(cells) / 2), columns=2)
    for axes, key, scale, label in ((panels[0], "val_accuracy", 100, "accuracy on the validation images, %"),
                                    (panels[1], "loss", 1, "training loss, nats per image")):
        for i, cell in enumerate(cells):
            runs = list(cell.runs.values())
            epochs = min(len(run.history) for run in runs)
            values = scale * np.array([[row[key] for row in run.history[:epochs]] for run in runs])
            steps = np.arange(1, epochs + 1) * runs[0].record["arguments"]["steps_per_epoch"]
            axes.plot(steps, values.mean(axis=0), label=cell.name, markersize=4, markevery=max(1, epochs // 8), **style(i))
            if len(runs) > 1:
                axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=COLOURS[i % 8], alpha=0.15, linewidth=0)
        axes.set(xlabel="optimizer steps", ylabel=label)
    legend_below(figure, panels)
    return save(figure, path)


def draw_confusion(cells, data, path):
    """Which class is taken for which: the first cell beside the most accurate one, over all seeds."""
    best = max(cells, key=lambda cell: cell.mean(lambda run: run.accuracy)[0])
    shown = [cells[0]] + [best] * (best is not cells[0])
    figure, panels = new_figure(6 * len(shown), 5.6, columns=len(shown))
    for axes, cell in zip(panels, shown):
        counts = np.zeros((data.num_classes, data.num_classes))
        for run in cell.runs.values():
            np.add.at(counts, (run.y, run.probabilities.argmax(axis=1)), 1)
        share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
        axes.grid(visible=False)
        if data.num_classes <= 20:  # beyond that, numbers are too small to read
            for (r, c), value in np.ndenumerate(share):
                axes.text(c, r, f"{value:.0f}", ha="center", va="center", fontsize=8, color="white" if value > 55 else "black")
        ticks = range(data.num_classes)
        axes.set_xticks(ticks, data.class_names, rotation=45, ha="right")
        axes.set_yticks(ticks, data.class_names)
        axes.set(xlabel="predicted", ylabel="true, rows in %")
        axes.set_title(f"{wrapped(cell.name, 50)}: {100 * cell.mean(lambda run: run.accuracy)[0]:.1f} % right", fontsize=10)
    return save(figure, path)


def draw_reliability(cells, path):
    """Of the answers given with so much confidence, how many are right? On the diagonal: confidence means what it says."""
    figure, panels = new_figure(10, 4.6 + 0.2 * math.ceil(len(cells) / 2), columns=2)
    for axes, which, ece, title in ((panels[0], "probabilities", "ece", "as trained"),
                                    (panels[1], "calibrated", "calibrated_ece", "at the fitted temperature")):
        axes.plot([0, 100], [0, 100], color="black", linewidth=1)
        for i, cell in enumerate(cells):
            p = np.concatenate([getattr(run, which) for run in cell.runs.values()])
            y = np.concatenate([run.y for run in cell.runs.values()])
            confidence, right = p.max(axis=1), p.argmax(axis=1) == y
            number = np.minimum((confidence * 10).astype(int), 9)
            bins = [b for b in range(10) if (number == b).sum() >= 20]  # fewer tell nothing
            axes.plot([100 * confidence[number == b].mean() for b in bins], [100 * right[number == b].mean() for b in bins],
                      label=cell.name, markersize=5, **style(i))
        mean = np.mean([cell.mean(lambda run: getattr(run, ece))[0] for cell in cells])
        axes.set(xlabel="confidence, %", ylabel="of these right, %", xlim=(0, 100), ylim=(0, 100), aspect="equal")
        axes.set_title(f"{title}: mean ECE {100 * mean:.1f} %", fontsize=10)
    legend_below(figure, panels)
    return save(figure, path)


# --- robustness ------------------------------------------------------------------------------------


def draw_robustness(cells, path):
    """Error by severity of corruption, and accuracy by strength of attack; means over the seeds that were tested."""
    kinds = [name for name in ("corrupted", "adversarial") if any(name in run.tests for cell in cells for run in cell.runs.values())]
    figure, panels = new_figure(5 * max(len(kinds), 1.4), 4.2 + 0.2 * math.ceil(len(cells) / 2), columns=len(kinds))
    for axes, kind in zip(panels, kinds):
        for i, cell in enumerate(cells):
            tests = [run.tests[kind] for run in cell.runs.values() if kind in run.tests]
            if not tests:
                continue
            if kind == "corrupted":
                by_severity = [np.mean([list(test["errors"].values()) for test in tests], axis=(0, 1))]
                if tests[0]["clean"] is not None:
                    by_severity.insert(0, [np.mean([test["clean"] for test in tests])])
                curve = 100 * np.concatenate(by_severity)
                axes.plot(range(robustness.SEVERITIES + 1)[-len(curve):], curve, label=cell.name, **style(i))
            else:
                clean, curve = np.mean([test["clean"] for test in tests]), np.mean([test["fgsm"] for test in tests], axis=0)
                axes.plot(range(len(curve) + 1), 100 * np.array([clean, *curve]), label=cell.name, **style(i))
                axes.plot(robustness.EPSILONS.index(robustness.PGD_EPSILON) + 1, 100 * np.mean([test["pgd"] for test in tests]), "x",
                          color=COLOURS[i % 8], markersize=10, markeredgewidth=2)
        if kind == "corrupted":
            axes.set(xlabel="severity of corruption (0: the same images, clean)", ylabel="error, mean over corruptions, %")
        else:
            axes.set(xlabel="FGSM: how far each pixel may move, of 255 (x: PGD)", ylabel="accuracy, %", ylim=(0, None))
            axes.set_xticks(range(len(robustness.EPSILONS) + 1), [0, *robustness.EPSILONS])
    legend_below(figure, panels)
    return save(figure, path)


def draw_corruptions(cells, path):
    """Error of every cell under every corruption, mean over severities and seeds."""
    cells = [cell for cell in cells if any("corrupted" in run.tests for run in cell.runs.values())]
    tests = [[run.tests["corrupted"]["errors"] for run in cell.runs.values() if run.tests] for cell in cells]
    names = list(tests[0][0])
    errors = 100 * np.array([[np.mean([test[name] for test in of_cell]) for name in names] for of_cell in tests])
    figure, (axes,) = new_figure(10, 2.4 + 0.42 * len(cells))
    axes.imshow(errors, cmap="Oranges", aspect="auto", vmin=errors.min() - 5)
    axes.grid(visible=False)
    for (r, c), value in np.ndenumerate(errors):
        axes.text(c, r, f"{value:.0f}", ha="center", va="center", fontsize=9)
    axes.set_xticks(range(len(names)), [name.replace("_", " ") + (" *" if name in robustness.LIKE_RANDAUGMENT else "") for name in names],
                    rotation=40, ha="right")
    axes.set_yticks(range(len(cells)), [wrapped(cell.name) for cell in cells], fontsize=9)
    axes.set_title("error, %, mean over five severities; * resembles an operation of RandAugment", fontsize=10)
    return save(figure, path)


# --- the pseudo-labels -----------------------------------------------------------------------------


def draw_pseudo_labels(labels, path):
    """Class counts before and after balancing for the first labelling, and precision by confidence for all."""
    figure, panels = new_figure(11, 4.4 + 0.22 * len(labels), columns=2)
    first, bars = labels[0], np.arange(len(labels[0].class_names))
    kept = np.mean([record["kept_per_class"] for record in first.records], axis=0)
    balanced = np.where(kept > 0, first.mean(lambda record: record["balanced"]) / max((kept > 0).sum(), 1), 0)
    panels[0].bar(bars, balanced, color="#c6dbef", label="after balancing (repeats)")
    panels[0].bar(bars, kept, color=COLOURS[0], label="kept")
    panels[0].set_xticks(bars, first.class_names, rotation=45, ha="right")
    panels[0].set(ylabel="images")
    panels[0].set_title(wrapped(first.name, 52), fontsize=9)
    panels[0].legend(fontsize=8)
    panels[1].plot([0, 100], [0, 100], color="black", linewidth=1)
    for i, of in enumerate(labels):
        count, precision = of.precision_by_confidence()
        enough = count >= 20
        panels[1].plot((np.arange(len(count)) * 10 + 5)[enough], 100 * precision[enough], label=of.name, markersize=5, **style(i))
    panels[1].set(xlabel="the teacher's confidence, %", ylabel="of these right, %, where the truth is known", xlim=(0, 100), ylim=(0, 100))
    handles, names = panels[1].get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=1, fontsize=8, frameon=False)
    return save(figure, path)


def draw_all(cells, usual, answers, labels, data, out):
    """Every picture there is something to show for. Returns: their paths.

    Args:
        usual: {key: cell} of the cells that the questions compare.
    """
    main = list(usual.values())[:8]  # more lines than that cannot be told apart
    four = [usual.get(key) for key in (("none", None), ("all", None), ("none", ("none", None)), ("all", ("none", None)))]
    tests = {name for cell in cells for run in cell.runs.values() for name in run.tests}
    pictures = [draw_accuracy(cells, out / "accuracy.png")]
    if answers:
        pictures.append(draw_answers(answers, out / "answers.png"))
    if None not in four:
        pictures.append(draw_interaction(four, out / "interaction.png"))
    pictures += [draw_learning_curves(main, out / "learning_curves.png"), draw_reliability(main, out / "reliability.png")]
    if tests & {"corrupted", "adversarial"}:
        pictures.append(draw_robustness(main, out / "robustness.png"))
    if "corrupted" in tests:
        pictures.append(draw_corruptions(cells, out / "corruptions.png"))
    if labels:
        pictures.append(draw_pseudo_labels(labels, out / "pseudo_labels.png"))
    return [*pictures, draw_confusion(cells, data, out / "confusion.png")]


# --- the page --------------------------------------------------------------------------------------

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 70rem; margin: auto; padding: 1rem; }}
h1 {{ font-size: 1.6rem; line-height: 1.2; }} h2 {{ font-size: 1.2rem; margin-top: 2.5rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .85rem; }}
th, td {{ text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid #ddd; vertical-align: top; min-width: 4rem; }}
th {{ border-bottom: 2px solid #888; }} td:first-child {{ min-width: 11rem; }}
img {{ max-width: max(100%, 38rem); height: auto; }}
figure {{ margin: 1.5rem 0; overflow-x: auto; }} figcaption {{ font-size: .85rem; color: #555; }}
dl {{ margin: 0; }} dt {{ font-weight: 600; margin-top: .7rem; }} dd {{ margin: 0; }}
.yes {{ color: #00664b; }} .no {{ color: #a34700; }} .open {{ color: #555; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""
PICTURE_OF = {  # where in the page a picture goes, and what it says to those who cannot see it
    "accuracy": ("The cells", "Accuracy of every cell and seed with 95 % intervals"),
    "learning_curves": ("The cells", "Validation accuracy and training loss over the steps; bands: all seeds"),
    "answers": ("The answers", "Differences in accuracy with 95 % intervals"),
    "interaction": ("The 2x2", "Accuracy without and with noise, for labels alone and with pseudo-labels"),
    "reliability": ("Calibration", "Share of right answers by confidence, as trained and calibrated"),
    "robustness": ("Robustness", "Error by severity of corruption, and accuracy by strength of attack"),
    "corruptions": ("Robustness", "Error of every cell under every corruption"),
    "pseudo_labels": ("The pseudo-labels", "Class counts before and after balancing; precision by confidence"),
    "confusion": ("Every run", "Which class is taken for which"),
}


def write_page(path, data_name, tables, answers, pictures, photos=()):
    """One HTML file with everything inside; it needs no network.

    Args:
        tables: {title: (what it says, head, lines)}, in order.
        photos: pictures to show as they are, montages of images; those that are not there are left out.
    """
    parts = []
    for title, (says, head, lines) in tables.items():
        parts.append(f"<h2>{html.escape(title)}</h2>\n<p>{html.escape(says)}</p>")
        if title == "The answers":
            parts.append("<dl>" + "".join(
                f"<dt>{html.escape(answer.question)}</dt>"
                f'<dd class="{"open" if not answer.shown else "yes" if answer.points > 0 else "no"}">{html.escape(answer.in_words())}</dd>'
                for answer in answers) + "</dl>")
        parts += [as_figure(picture, PICTURE_OF[picture.stem][1]) for picture in pictures if PICTURE_OF[picture.stem][0] == title]
        rows = [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines]
        parts.append(f'<div class="wide"><table><thead><tr>{"".join(f"<th>{html.escape(name)}</th>" for name in head)}</tr></thead>'
                     f"<tbody>{''.join(rows)}</tbody></table></div>")
    there = [pathlib.Path(photo) for photo in photos if pathlib.Path(photo).exists()]
    if there:
        parts.append("<h2>Pseudo-labelled images</h2>")
        parts += [as_figure(photo, f"{photo.parent.name}: " + (
            "the most confident mistakes" if photo.stem == "mistakes" else "kept images, by confidence; framed: wrong")) for photo in there]
    with step1.whole_file(path) as beside:
        beside.write_text(PAGE.format(title=html.escape(f"Noisy Student on {data_name}: what it was worth"), body="\n".join(parts)),
                          encoding="utf-8")


def as_figure(path, caption):
    image, caption = base64.b64encode(path.read_bytes()).decode("ascii"), html.escape(caption)
    return (f'<figure><img src="data:image/png;base64,{image}" alt="{caption}" loading="lazy">'
            f"<figcaption>{caption}</figcaption></figure>")
