"""Step 5: what it all was worth, on the test images.

    python eval.py logs/teacher logs/noisy logs/quiet logs/student
    python eval.py logs/student --out figures/student

Reads   finished runs of steps 1 and 4, and the test images of the data they were trained on
Writes  figures/   results.md and results.json (the table), accuracy.png, learning_curves.png, confusion.png;
        and predictions.npz into each run, so that another table with it takes a second
"""

import argparse
import math
import pathlib
import zipfile
import zlib

import cifar10_resnet50 as step1  # first: it quietens the backend
import stochastic_resblock  # noqa: F401  the student's layers must be known to load it

import numpy as np

# The cells of the experiment: (noise, teacher's cell) -> its name, and the article's accuracy and loss.
# A cell's second entry is None where there are no pseudo-labels. The article's losses include an L2 term.
TEACHER, NOISY_TEACHER = ("none", None), ("all", None)
CELLS = {
    TEACHER: ("teacher: labels alone, no noise", 0.8839, 0.8177),
    NOISY_TEACHER: ("noisy teacher: labels alone, noise", 0.9414, 0.2492),
    ("none", TEACHER): ("pseudo-labels, no noise", None, None),  # the cell the article lacks
    ("all", TEACHER): ("student: pseudo-labels, noise", 0.9394, 0.2470),
    ("all", NOISY_TEACHER): ("student of the noisy teacher", 0.9428, 0.2289),
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")  # Okabe and Ito's


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


def cell_key(cell):
    """A run's cell as run.json has it -> a key of CELLS, nested as deep as there were teachers."""
    return (cell["noise"], cell["pseudo"] and cell_key(cell["pseudo"]))


def cell_name(key):
    if key in CELLS:
        return CELLS[key][0]
    noise, taught_by = key
    return f"noise {noise}" + (f", taught by [{cell_name(taught_by)}]" if taught_by else ", labels alone")


def predict(log_dir, data):
    """The run's probabilities for the test images, float32 (N, C), from predictions.npz where they are there."""
    record = step1.load_run(log_dir, "python cifar10_resnet50.py, or data_generator.py")
    path = pathlib.Path(log_dir) / "predictions.npz"
    made_from = step1.sha256(record["model_sha256"].encode(), record["made_from"]["data_sha256"].encode())
    if path.exists():
        try:
            with np.load(path, allow_pickle=False) as saved:
                if str(saved["made_from"]) == made_from:
                    return saved["probabilities"]
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            print(f"warning: {path} is damaged and is made again")
    model, _ = step1.load_model(log_dir)
    probabilities = model.predict(data.x_test, batch_size=256, verbose=0)
    with step1.whole_file(path) as beside, open(beside, "wb") as file:
        np.savez_compressed(file, probabilities=probabilities, made_from=made_from)
    return probabilities


def evaluate(log_dirs):
    """Every run on the test images. Returns: a list of rows (dictionaries), their predictions, and the data."""
    data, rows, predictions = None, [], []
    short = [pathlib.Path(log_dir).name for log_dir in log_dirs]
    names = {log_dir: str(log_dir) if short.count(name) > 1 else name for log_dir, name in zip(log_dirs, short)}
    for log_dir in log_dirs:
        record = step1.load_run(log_dir, "python cifar10_resnet50.py, or data_generator.py")
        if "cell" not in record:
            raise step1.UserError(f"{log_dir}: not a training run (made by {record['script']})")
        made_from = record["made_from"]
        if data is None:
            data, sha = step1.load_data(made_from["data"]), made_from["data_sha256"]
            if data.fingerprint() != sha:
                raise step1.UserError(f"{made_from['data']} has changed since {log_dir} was trained on it")
        if made_from["data_sha256"] != sha:
            raise step1.UserError(f"{log_dir} was trained on other data than {log_dirs[0]}: their tables do not compare")
        probabilities = predict(log_dir, data)
        loss, accuracy = step1.score(probabilities, data.one_hot(data.y_test))
        key = cell_key(record["cell"])
        rows.append({
            "run": names[log_dir], "cell": cell_name(key), "seed": record["arguments"]["seed"],
            "steps": record["steps"], "accuracy": accuracy, "cross_entropy": loss,
            "interval": wilson_interval(round(accuracy * len(data.y_test)), len(data.y_test)),
            "article_accuracy": CELLS.get(key, (None,) * 3)[1], "article_loss": CELLS.get(key, (None,) * 3)[2],
            "minutes": record["wall_seconds"] / 60,
            "history": step1.read_history(pathlib.Path(log_dir) / "history.csv"),
            "steps_per_epoch": record["arguments"]["steps_per_epoch"],
        })
        predictions.append(probabilities)
    return rows, predictions, data


def as_table(rows):
    """The rows as Markdown, right to print and to paste."""
    head = ["run", "cell", "seed", "steps", "minutes", "accuracy (95 % interval)", "cross-entropy", "article"]
    lines = [[row["run"], row["cell"], str(row["seed"]), f"{row['steps']:,}", f"{row['minutes']:.1f}",
              f"{100 * row['accuracy']:.2f} % ({100 * row['interval'][0]:.2f} to {100 * row['interval'][1]:.2f})",
              f"{row['cross_entropy']:.4f}",
              f"{100 * row['article_accuracy']:.2f} %, {row['article_loss']:.4f}" if row["article_accuracy"] else "-"]
             for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *lines)]
    rule = ["-" * width for width in widths]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
                     for line in (head, rule, *lines))


def draw_accuracy(rows, path):
    """A dot and its Wilson interval per run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.9 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for i, row in enumerate(rows):
        low, high = (100 * bound for bound in row["interval"])
        axes.plot([low, high], [i, i], color=COLOURS[i % 8], linewidth=3, solid_capstyle="butt")
        axes.plot(100 * row["accuracy"], i, "o", color=COLOURS[i % 8], markersize=8)
        axes.text(high, i, f"  {100 * row['accuracy']:.1f}", va="center")
    cells = [row["cell"] for row in rows]
    axes.set_yticks(range(len(rows)), [row["cell"] if cells.count(row["cell"]) == 1 else row["run"] for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("accuracy on the test images, %, with 95 % intervals")
    axes.grid(axis="x", alpha=0.3)
    save(figure, path)


def draw_learning_curves(rows, path):
    """Validation accuracy and training loss of every run over its optimizer steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, key, scale, label in ((panels[0], "val_accuracy", 100, "accuracy on the validation images, %"),
                                    (panels[1], "loss", 1, "training loss, nats per image")):
        for i, row in enumerate(rows):
            steps = [epoch["epoch"] * row["steps_per_epoch"] for epoch in row["history"]]
            axes.plot(steps, [scale * epoch[key] for epoch in row["history"]], color=COLOURS[i % 8], label=row["run"],
                      linestyle=("-", "--")[i // 8 % 2])
        axes.set(xlabel="optimizer steps", ylabel=label)
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    save(figure, path)


def draw_confusion(rows, predictions, data, path):
    """Which class is taken for which: the first run beside the most accurate one."""
    from matplotlib.figure import Figure

    best = int(np.argmax([row["accuracy"] for row in rows]))
    shown = [0, best] if best else [0]
    figure = Figure(figsize=(6 * len(shown), 5.6), layout="constrained")
    for axes, i in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown):
        counts = np.zeros((data.num_classes, data.num_classes))
        np.add.at(counts, (data.y_test, predictions[i].argmax(1)), 1)
        share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
        if data.num_classes <= 20:  # beyond that, numbers are too small to read
            for (r, c), value in np.ndenumerate(share):
                axes.text(c, r, f"{value:.0f}", ha="center", va="center", fontsize=8, color="white" if value > 55 else "black")
        ticks = range(data.num_classes)
        axes.set_xticks(ticks, data.class_names, rotation=45, ha="right")
        axes.set_yticks(ticks, data.class_names)
        axes.set(xlabel="predicted", ylabel="true", title=f"{rows[i]['run']}: {100 * rows[i]['accuracy']:.1f} % right (rows in %)")
    save(figure, path)


def save(figure, path):
    with step1.whole_file(path) as beside:
        figure.savefig(beside, dpi=110)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders of finished runs, in the order of the table")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("figures"))
    args = parser.parse_args(argv)
    step1.prepare_backend(0)

    rows, predictions, data = evaluate(args.runs)
    table = as_table(rows)
    print(f"{data.name}: {len(data.y_test):,} test images, final weights\n\n{table}\n\n"
          "The article's numbers are those of its full ResNet50 on all of CIFAR-10.\n")
    if len({row["steps"] for row in rows}) > 1:
        print("warning: the runs took different numbers of steps; what differs may be the training time alone")

    with step1.whole_file(args.out / "results.md") as path:
        path.write_text(table + "\n", encoding="utf-8")
    step1.write_json(args.out / "results.json", [{key: row[key] for key in row if key != "history"} for row in rows])
    draw_accuracy(rows, args.out / "accuracy.png")
    draw_learning_curves(rows, args.out / "learning_curves.png")
    draw_confusion(rows, predictions, data, args.out / "confusion.png")
    print("pictures: " + ", ".join(str(args.out / name) for name in ("accuracy.png", "learning_curves.png", "confusion.png")))


if __name__ == "__main__":
    step1.run_script(main)
