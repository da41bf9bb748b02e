"""Every picture: each function draws one, writes it whole and returns its path. Imports no Keras.

A picture is six inches wide, in letters of twelve points: at a phone's width it can still be read.
Confusion matrices stand side by side, each as wide as that.
Colours are Okabe and Ito's, which colour-blind readers can tell apart, and what a colour says is
also said by a marker or in words.
"""

import pathlib
import textwrap
import warnings
from functools import partial
from types import SimpleNamespace

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from noisy_student.files import whole_file
from noisy_student.metrics import by_confidence

BLUE, ORANGE, GREEN, GREY, SKY = "#0072b2", "#d55e00", "#009e73", "#6e6e6e", "#56b4e9"
COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#e69f00", SKY, "#000000", "#999999")
MARKERS = "osD^vP*X"
# A chart has at most MAX_LINES: more cannot be told apart.
MAX_LINES = 8
# A montage has at most MAX_CLASSES: nobody looks at more.
MAX_CLASSES = 40
# What networks say is drawn for at most MAX_ROWS images.
MAX_ROWS = 12
# A bin has at least MIN_PER_BIN answers: fewer tell nothing about the share that is right.
MIN_PER_BIN = 20
# Widths in a mosaic, in pixels: the labels at the left, the room between two images, a frame.
LABEL, GAP, FRAME = 230, 14, 5
# Fonts that know Chinese, Japanese and Korean names, on Linux, Windows and macOS.
CJK = ("Noto Sans CJK JP", "WenQuanYi Micro Hei", "Microsoft YaHei", "Malgun Gothic",
       "Hiragino Sans", "Arial Unicode MS")

# Every picture is drawn under these settings, whatever the user's own are. No text is mathematics:
# a class may be called A$_$B.
our_settings = matplotlib.rc_context({
    "font.family": ["DejaVu Sans", *sorted(set(CJK) & set(font_manager.get_font_names()))],
    "font.size": 12, "axes.titlesize": 12, "axes.titlelocation": "left", "axes.axisbelow": True,
    "legend.fontsize": 11, "legend.frameon": False, "text.parse_math": False,
    "text.usetex": False})


def new_figure(height, panels=1, **options):
    """A figure six inches wide and its panels, one below the other."""
    figure = Figure(figsize=(6, height), layout="constrained")
    panels = figure.subplots(panels, 1, squeeze=False, **options)[:, 0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    return figure, panels


def save(figure, path, dpi=150):
    with whole_file(path) as beside, warnings.catch_warnings():
        # A letter that no font here has becomes a box.
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(beside, dpi=dpi, format="png")
    return pathlib.Path(path)


def style(i):
    """Colour and marker of the i-th of MAX_LINES lines."""
    return {"color": COLOURS[i], "marker": MARKERS[i]}


def wrapped(text, width=50, lines=9):
    """Text in lines of at most `width` letters, and at most `lines` of them."""
    text = str(text).encode(errors="replace").decode()
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder="…"))


# --- images in rows ------------------------------------------------------------------------------


@our_settings
def mosaic(rows, columns, side, caption, path):
    """Images in one array in one axes, pixel for pixel: an axes for each would take minutes.

    Args:
        rows: (label, tiles), or None for some room. A tile is an image, uint8 (H, W, 3), the text
            above it, and whether it is framed.
        columns, side: images in a row, and the pixels each is enlarged to.
    """
    width = LABEL + columns * (side + GAP)
    # Ten pixels at the width of a phone.
    letter = width * 0.027
    strips, texts, top = [], [], 0
    for row in rows:
        name, tiles = row or ("", [])
        head = round(1.5 * letter) if any(text for _, text, _ in tiles) else GAP
        strip = np.full((head + side if tiles else GAP, width, 3), 255, np.uint8)
        texts.append((LABEL - GAP, top + head + side / 2, name, "right", "center", "black"))
        for column, (image, text, framed) in enumerate(tiles):
            left, frame = LABEL + column * (side + GAP), FRAME * framed
            # An orange square, and the image on it, smaller where the frame is to be seen.
            strip[head:, left:left + side] = [int(ORANGE[k:k + 2], 16) for k in (1, 3, 5)]
            image = Image.fromarray(np.asarray(image))
            image = image.resize((side - 2 * frame,) * 2, Image.Resampling.NEAREST)
            strip[head + frame:len(strip) - frame, left + frame:left + side - frame] = image
            colour = ORANGE if framed else "black"
            texts.append((left + side / 2, top + head - 3, text, "center", "bottom", colour))
        strips.append(strip)
        top += len(strip)
    caption = wrapped(caption, 60, lines=12)
    texts.append((GAP, top + GAP, caption, "left", "top", "black"))
    below = round(1.35 * letter * (caption.count("\n") + 1)) + 2 * GAP
    sheet = np.vstack([*strips, np.full((below, width, 3), 255, np.uint8)])
    figure = Figure(figsize=(width / 200, len(sheet) / 200))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet, aspect="auto", interpolation="nearest")
    axes.set_axis_off()
    for x, y, text, ha, va, colour in texts:
        axes.text(x, y, text, ha=ha, va=va, color=colour, fontsize=letter * 72 / 200)
    return save(figure, path, dpi=200)


def class_rows(labels, confidences, class_names, what, choose, tile):
    """A row of a mosaic for every class that has any images, the most confident first.

    Args:
        what: the word for those counted. choose(n): which of n images in order are drawn.
        tile: makes one of an image's number.

    Returns: the rows, and what to say of the classes that are left out.
    """
    labels, confidences, rows = np.asarray(labels), np.asarray(confidences), []
    for c, name in enumerate(class_names):
        members = np.flatnonzero(labels == c)
        members = members[np.argsort(-confidences[members], kind="stable")]
        if len(members):
            label = f"{wrapped(name, 13, lines=2)}\n{len(members):,} {what}"
            rows.append((label, [tile(i) for i in members[choose(len(members))]]))
    more = len(rows) - MAX_CLASSES
    return rows[:MAX_CLASSES], f" {more:,} more classes are not drawn." if more > 0 else ""


def spaced(count, most):
    """At most `most` of `count` things in order, evenly spaced: int (M,)."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int)


def is_wrong(picture):
    """Whether the label of an image is known to be wrong."""
    return picture.truth not in (None, picture.label)


def montage(kept, class_names, path):
    """A row per class, from the most to the least confident of those kept; wrong ones are framed.

    Args:
        kept: with .pixels, uint8 (H, W, 3), .label, .confidence, 0..1, and .truth, a class, -1 for
            none of them, or None where it is unknown.
    """
    def tile(i):
        return kept[i].pixels, f"{kept[i].confidence:.3f}", is_wrong(kept[i])

    labels = [picture.label for picture in kept]
    rows, more = class_rows(labels, [picture.confidence for picture in kept], class_names, "kept",
                            lambda n: spaced(n, 8), tile)
    caption = "Each row: kept images, from the most to the least confident."
    if any(picture.truth is not None for picture in kept):
        caption += " Framed: wrong, as far as the truth is known."
    classes = set(labels)
    none = [str(name) for c, name in enumerate(class_names) if c not in classes]
    if none:
        caption += f" None kept: {', '.join(none[:12])}"
        caption += f" and {len(none) - 12:,} more." if len(none) > 12 else "."
    return mosaic(rows, 8, 96, caption + more, path)


def mistakes(kept, class_names, path, who="the teacher"):
    """The most confident wrong ones of each class that has any.

    Args: as montage's. who: whose mistakes they are.

    Returns: the path, or None where no label is known to be wrong.
    """
    wrong = [picture for picture in kept if is_wrong(picture)]

    def tile(i):
        truth = class_names[wrong[i].truth] if wrong[i].truth >= 0 else "none"
        return wrong[i].pixels, wrapped(truth, 10, lines=1), False

    rows, more = class_rows([picture.label for picture in wrong],
                            [picture.confidence for picture in wrong], class_names, "wrong",
                            lambda n: slice(5), tile)
    caption = f"Left: what {who} takes them for. Above: what they are"
    if any(picture.truth < 0 for picture in wrong):
        caption += "; none: none of the classes"
    caption += ". The most confident first."
    return mosaic(rows, 5, 160, caption + more, path) if rows else None


def batch(plain, noisy, noise, crop, path):
    """What the student sees: images as they are, and below them under the noise on images.

    Args:
        plain, noisy: uint8 (B, 32, 32, 3), the same images without and with noise.
        noise, crop: what --noise and --flip-and-crop say.
    """
    augmented = noise in ("all", "input")
    done = ["flip and crop"] if crop == "always" or (crop == "with-noise" and augmented) else []
    done += ["RandAugment"] if augmented else []
    rows = []
    for start in range(0, min(len(plain), 32), 8):
        for name, some in (("as it is", plain), ("for the\nstudent", noisy)):
            rows.append((name, [(image, "", False) for image in some[start:start + 8]]))
        rows.append(None)
    below = f"under {', then '.join(done)}" if done else "the same, since they get no noise"
    caption = f"Above: images as they are. Below: {below}."
    return mosaic(rows, 8, 96, caption, path)


def pairs(x_test, x, pairs, correlations, path):
    """Near copies for the eye to decide, from the most to the least alike of those found.

    Args:
        x_test, x: uint8 (N, H, W, 3). pairs: int (P, 2), indices into both, the most alike first.
        correlations: (P,), of their pixels.
    """
    rows, chosen = [], spaced(len(pairs), 24)
    for start in range(0, len(chosen), 8):
        some = chosen[start:start + 8]
        tested = [(x_test[pairs[k][0]], f"{correlations[k]:.3f}", False) for k in some]
        trained = [(x[pairs[k][1]], "", False) for k in some]
        rows += [("tested on", tested), ("trained on", trained), None]
    caption = f"{len(chosen)} of {len(pairs):,} pairs. Numbers: the correlation of their pixels."
    return mosaic(rows, 8, 96, caption, path)


def gallery(image, augment, operations, path):
    """Every operation from weak to strong, with a second row where it works in two directions.

    Args:
        image: a Pillow image. augment: has test_single_operation(image, name, level, sign).
        operations: {name: object with .magnitudes and .two_ways}.
    """
    image, rows = image.resize((64, 64)), []
    for name, operation in operations.items():
        levels = range(len(operation.magnitudes))
        for sign in (1, -1) if operation.two_ways else (1,):
            tiles = [(image, "" if rows else "as is", False)]
            for M in levels:
                noisy = augment.test_single_operation(image, name, M, sign)
                tiles.append((noisy, "" if rows else str(M), False))
            rows.append((name if sign > 0 else "other way", tiles))
    return mosaic(rows, len(levels) + 1, 64, "Numbers: the level, 0 the weakest.", path)


def little_house():
    """A house under a sun, Pillow RGB 64x64: something to look at without any file."""
    image = Image.new("RGB", (64, 64), (120, 170, 220))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 44, 64, 64), fill=(90, 150, 70))
    draw.ellipse((44, 4, 58, 18), fill=(250, 220, 90))
    draw.rectangle((14, 28, 42, 54), fill=(200, 150, 110))
    draw.polygon([(10, 28), (28, 10), (46, 28)], fill=(150, 50, 40))
    draw.rectangle((24, 38, 32, 54), fill=(80, 50, 40))
    return image


# --- steps 2 and 3 -------------------------------------------------------------------------------


@our_settings
def confidence(histogram, threshold, path):
    """How confident the teacher was about all images, and where the threshold cuts.

    Args:
        histogram: int (1000,), of confidences 0..1. threshold: None where a share was kept by rank.
    """
    figure, (axes,) = new_figure(3.4)
    bars, total = np.reshape(histogram, (50, 20)).sum(axis=1), int(np.sum(histogram))
    axes.stairs(bars, np.linspace(0, 100, 51), fill=True, color=SKY)
    title = f"{total:,} images"
    if threshold is not None:
        above = np.sum(histogram[round(threshold * 1000):]) / max(total, 1)
        axes.axvline(100 * threshold, color=ORANGE, linewidth=2.5)
        title = f"{100 * above:.0f} % of {title} are above the threshold, {100 * threshold:g} %"
    axes.set(xlabel="the teacher's confidence, %", ylabel="images", xlim=(0, 100), title=title)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    return save(figure, path)


@our_settings
def survival(probabilities, blocks, path):
    """A bar per residual block, a shade per stage.

    Args:
        probabilities: of survival, one for each block. blocks: how many each stage has, of which
            there are four at most.
    """
    figure, (axes,) = new_figure(3.8)
    shades = np.repeat(["#c6dbef", "#85bcdc", "#3182bd", "#08519c"][:len(blocks)], blocks)
    for number, (p, shade) in enumerate(zip(probabilities, shades), 1):
        axes.bar(number, p, color=shade)
        # More bars than that leave no room for numbers.
        if len(shades) <= 17:
            axes.text(number, p / 2, f"{p:.3f}", rotation=90, ha="center", va="center",
                      color="black" if shade in shades[:sum(blocks[:2])] else "white")
    axes.set_title(f"{sum(probabilities):.1f} of {len(shades)} blocks alive in an average step")
    axes.set(xlabel="residual block (a shade per stage)", ylabel="survival probability")
    return save(figure, path)


@our_settings
def answers(rows, path):
    """What networks say about images: a row per image, and beside it a panel per network.

    Args:
        rows: (name, uint8 (32, 32, 3), [(network, [(class, its probability in %), ...]), ...]) of
            each image. Beyond MAX_ROWS none is drawn.
    """
    count, networks = min(len(rows), MAX_ROWS), len(rows[0][2])
    figure = Figure(figsize=(6, 0.8 + 1.4 * count), layout="constrained")
    for (left, *panels), (name, image, said) in zip(
            figure.subplots(count, 1 + networks, squeeze=False), rows):
        left.imshow(image)
        left.set_axis_off()
        left.set_title(wrapped(name, 16, lines=1), fontsize=10)
        for axes, (network, best) in zip(panels, said):
            axes.barh(range(len(best)), [p for _, p in best], color=SKY)
            for place, (label, p) in enumerate(best):
                axes.text(2, place, f"{wrapped(label, 12, lines=1)} {p:.0f} %", va="center")
            axes.set(xlim=(0, 100), xticks=[], yticks=[])
            axes.set_title(wrapped(network, 44 // networks, lines=3), fontsize=10)
            axes.invert_yaxis()
    if more := len(rows) - count:
        figure.supxlabel(f"{more:,} more not drawn", fontsize=11)
    return save(figure, path)


# --- step 5: cells is {name: {seed: measured}} ---------------------------------------------------


def signed(points):
    """+0.0 where -0.04 would become -0.0."""
    return f"{round(points, 1) + 0:+.1f}"


def mean(cell, name):
    """The mean over a cell's seeds of a number that each has, times 100."""
    return 100 * np.mean([getattr(measured, name) for measured in cell.values()])


def student_of(cells):
    """The name of the cell that is looked at closely: the student, or what comes next to it."""
    taught = [name for name, cell in cells.items()
              if any(measured.run.taught_by for measured in cell.values())]
    names = [name for name in ("student", "student_of_noisy") if name in taught]
    return [*names, *taught, *reversed(cells)][0]


def headed_rows(headings, room, xlabel, note):
    """A chart with a heading above each row: beside them, at a phone's width, nothing else fits.

    Returns: figure, axes, and where each row's heading and its own room begin, in lines of text.
    """
    headings, starts, y = [wrapped(heading, 46) for heading in headings], [], 0
    for heading in headings:
        below = y + heading.count("\n") + 1
        starts.append((y, below))
        y = below + room
    figure, (axes,) = new_figure(1.2 + 0.2 * y)
    for heading, (top, _) in zip(headings, starts):
        axes.text(0, top, heading, va="top", transform=axes.get_yaxis_transform(),
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.set(ylim=(y, -0.3), yticks=[], xlabel=xlabel)
    axes.set_title(note, fontsize=11)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    return figure, axes, starts


@our_settings
def accuracies(cells, title, path):
    """A row per cell: the mean with its value beside it, and every seed with its interval."""
    seeds = max(map(len, cells.values()))
    figure, axes, starts = headed_rows(
        [title(name) for name in cells], 1.7 + 0.6 * seeds, "accuracy on the test images, %",
        "diamonds: means; dots: seeds, with 95 % intervals\ndotted: the first mean")
    means = [mean(cell, "accuracy") for cell in cells.values()]
    axes.axvline(means[0], color=GREY, linestyle=":", zorder=0)
    for (_, y), middle, cell in zip(starts, means, cells.values()):
        axes.plot(middle, y + 0.6, "D", color=BLUE, markersize=9)
        axes.annotate(f"{middle:.1f}", (middle, y + 0.6), xytext=(9, 0), va="center",
                      textcoords="offset points", fontweight="bold", color=BLUE)
        for k, measured in enumerate(cell.values()):
            at = y + 1.4 + 0.6 * k
            axes.plot([100 * bound for bound in measured.interval], [at, at], color=SKY)
            axes.plot(100 * measured.accuracy, at, "o", color=BLUE, markersize=4)
    return save(figure, path)


def verdict(answer):
    """An answer in a word, its colour and its marker."""
    if not answer.shown:
        return "one seed" if len(answer.per_seed) == 1 else "not shown", GREY, "o"
    return ("yes", GREEN, "^") if answer.points > 0 else ("no", ORANGE, "v")


@our_settings
def differences(answers, path):
    """A row per question: its answer, the difference with its interval, and each seed's."""
    figure, axes, starts = headed_rows([answer.question for answer in answers], 2,
                                       "difference in accuracy, points",
                                       "bars: 95 % intervals; ticks: each seed\n"
                                       "one seed: an interval over test images alone\n"
                                       "*: stands together with the others (Holm)")
    axes.axvline(0, color="black", linewidth=1, zorder=0)
    for (top, y), answer in zip(starts, answers):
        word, colour, marker = verdict(answer)
        axes.plot([answer.low, answer.high], [y + 0.6] * 2, color=colour, linewidth=3)
        axes.plot(answer.points, y + 0.6, marker, color=colour, markersize=10)
        axes.plot(answer.per_seed, [y + 1.25] * len(answer.per_seed), "|", color="black")
        axes.text(1, top, f"{word}{'*' * answer.holm} {signed(answer.points)}", ha="right",
                  va="top", color=colour, fontweight="bold", transform=axes.get_yaxis_transform())
    return save(figure, path)


def line_charts(names, panels, **options):
    """Panels one below the other with a line per name, and one legend for all.

    Args:
        panels: (title, curves) of each; curves has for each name a list of (x, y): first its line,
            then what is drawn thin or, where it is one point, hollow.

    Returns: the figure, and the axes of each panel.
    """
    more, names = len(names) - MAX_LINES, [wrapped(name) for name in names[:MAX_LINES]]
    legend = 0.4 + 0.21 * sum(name.count("\n") + 1 for name in names)
    figure, all_axes = new_figure(3.2 * len(panels) + legend, len(panels), **options)
    lines = {}
    for axes, (title, curves) in zip(all_axes, panels):
        axes.set_title(title)
        for i, of_name in enumerate(curves[:MAX_LINES]):
            for x, y in of_name[:1]:
                lines[i], = axes.plot(x, y, markevery=max(1, len(x) // 8), **style(i))
            for x, y in of_name[1:]:
                axes.plot(x, y, color=COLOURS[i], linewidth=0.8, alpha=0.4 if len(x) > 1 else 1,
                          marker=MARKERS[i] if len(x) == 1 else "", markerfacecolor="white")
    drawn = sorted(lines)
    figure.legend([lines[i] for i in drawn], [names[i] for i in drawn], loc="outside lower left",
                  title=f"{more} more not drawn" if more > 0 else None, alignment="left")
    return figure, all_axes


@our_settings
def learning_curves(cells, title, path):
    """Accuracies and training loss: each run to its own end, the mean while all ran."""
    def curves(cell, key, scale):
        seeds = []
        for m in cell.values():
            y = np.array([scale * float(row.get(key, np.nan)) for row in m.history])
            seeds.append((m.steps_per_epoch * np.arange(1, len(y) + 1), y))
        common = min(len(y) for _, y in seeds)
        steps = seeds[0][0][:common]
        return [(steps, np.mean([y[:common] for _, y in seeds], axis=0)), *seeds]

    held_out = {m.validation_images for cell in cells.values() for m in cell.values()}
    held_out = " or ".join(f"{images:,}" for images in sorted(held_out))
    panels = []
    for head, key, scale in ((f"accuracy on {held_out} validation images, %", "val_accuracy", 100),
                             ("accuracy in training, under its noise, %", "accuracy", 100),
                             ("loss in training, under its noise, nats", "loss", 1)):
        panels.append((head, [curves(cell, key, scale) for cell in cells.values()]))
    figure, axes = line_charts(list(map(title, cells)), panels, sharex=True)
    axes[-1].set_xlabel("optimizer steps; thick: means; thin: each seed")
    axes[-1].xaxis.set_major_formatter("{x:,.0f}")
    return save(figure, path)


def binned(confidence, right):
    """Mean confidence and share of right answers, %, of every bin that has enough of them."""
    count, confidence, accuracy = by_confidence(confidence, right)
    return 100 * confidence[count >= MIN_PER_BIN], 100 * accuracy[count >= MIN_PER_BIN]


def tested(cell, kind):
    """The results of one kind of robustness test, of the seeds that have them."""
    return [m.robust[kind] for m in cell.values() if m.robust.get(kind)]


def kinds_of(cells):
    """The kinds of robustness test that robustness() draws, and that any cell has results of."""
    return [kind for kind in ("corrupted", "adversarial")
            if any(tested(cell, kind) for cell in cells.values())]


@our_settings
def robustness(cells, title, path):
    """Accuracy by severity of corruption and by strength of attack, means over seeds."""
    panels, ticks, labels = [], [], []
    kinds = kinds_of(cells)
    if "corrupted" in kinds:
        panels.append(("corrupted images: accuracy, %",
                       [corrupted_curves(tested(cell, "corrupted")) for cell in cells.values()]))
        ticks.append((range(1, 6), range(1, 6)))
        labels.append("severity, mean over the corruptions")
    if "adversarial" in kinds:
        results = [tested(cell, "adversarial") for cell in cells.values()]
        middle = (min(len(results), MAX_LINES) - 1) / 2
        panels.append(("attacked images: accuracy, % (hollow: PGD)",
                       [attacked_curves(seeds, 0.09 * (i - middle))
                        for i, seeds in enumerate(results)]))
        epsilons = next(seeds for seeds in results if seeds)[0]["epsilons"]
        ticks.append((range(len(epsilons) + 1), ["clean", *epsilons]))
        labels.append("FGSM: how far each pixel may move, of 255")
    figure, all_axes = line_charts(list(map(title, cells)), panels)
    for axes, (places, names), label in zip(all_axes, ticks, labels):
        axes.set_xticks(places, names)
        axes.set_xlabel(label)
    return save(figure, path)


def corrupted_curves(results):
    """Accuracy, %, at each severity: the mean over seeds and corruptions."""
    if not results:
        return []
    errors = np.mean([list(result["errors"].values()) for result in results], axis=(0, 1))
    return [(range(1, 6), 100 - 100 * errors)]


def attacked_curves(results, aside):
    """Accuracy, %, without and under FGSM, and under PGD: means over the seeds of a cell.

    Args:
        aside: how far PGD's point is moved: those of several cells would hide each other.
    """
    if not results:
        return []
    fgsm = np.mean([[result["clean"], *result["fgsm"]] for result in results], axis=0)
    pgd = np.mean([result["pgd"] for result in results])
    epsilons = [0, *results[0]["epsilons"]]
    place = np.interp(results[0]["pgd_epsilon"], epsilons, range(len(epsilons)))
    return [(range(len(epsilons)), 100 * fgsm), ([place + aside], [100 * pgd])]


@our_settings
def pseudo_labels(labellings, path):
    """How many of each class were kept by the first labelling, and how right all of them are.

    Args:
        labellings: with .title, .class_names (C), .kept and .balanced (C,) images per class,
            .threshold (None where a share was kept by rank), .confidence (M,) of every image seen,
            and .right (M,), NaN where the truth is unknown.
    """
    first, curves = labellings[0], []
    for labelling in labellings:
        known = ~np.isnan(labelling.right)
        curves.append([binned(labelling.confidence[known], labelling.right[known])]
                      if known.any() else [])
    # Bars are drawn into the first panel below.
    panels = [(wrapped(f"images per class: {first.title}", 46) + "\n", [])]
    if any(curves[:MAX_LINES]):
        panels.append(("of these right, %, where the truth is known", curves))
    figure, (counts, *others) = line_charts([labelling.title for labelling in labellings], panels)
    bars = range(len(first.class_names))
    counts.bar(bars, first.balanced, width=0.85, color="#b5d4e9", label="after balancing")
    counts.bar(bars, first.kept, width=0.5, color=BLUE, label="kept")
    counts.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=2)
    name_classes(counts.set_xticks, first.class_names, rotation=45, ha="right",
                 rotation_mode="anchor")
    counts.yaxis.set_major_formatter("{x:,.0f}")
    for axes in others:
        axes.plot([0, 100], [0, 100], color="black", linewidth=1)
        thresholds = {labelling.threshold for labelling in labellings[:MAX_LINES]} - {None}
        for k, threshold in enumerate(sorted(thresholds)):
            axes.axvline(100 * threshold, color=GREY, linestyle=":", linewidth=2)
            axes.annotate(f"threshold {100 * threshold:g} %", (100 * threshold, 3 + 11 * k),
                          xytext=(4 - 8 * (threshold > 0.5), 0), textcoords="offset points",
                          ha="right" if threshold > 0.5 else "left", color=GREY)
        axes.set(xlabel="the teacher's confidence, %", xlim=(0, 100), ylim=(0, 100))
    return save(figure, path)


def name_classes(set_ticks, class_names, **options):
    """Writes the classes along an axis, unless there are too many to be read."""
    if len(class_names) <= MAX_CLASSES:
        names = [wrapped(name, 14, lines=1) for name in class_names]
        set_ticks(range(len(names)), names, fontsize=12 if len(names) <= 20 else 7, **options)


@our_settings
def confusion(cells, title, class_names, path):
    """Which class is taken for which, over all seeds, by the first cell, student and the best."""
    average = {name: mean(cell, "accuracy") for name, cell in cells.items()}
    best = max(average, key=average.get)
    names = list(dict.fromkeys([next(iter(cells)), student_of(cells), best]))
    figure = Figure(figsize=(6 * len(names), 6.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names):
        counts = np.zeros((len(class_names),) * 2)
        for measured in cells[name].values():
            np.add.at(counts, (measured.y, measured.probabilities.argmax(axis=1)), 1)
        share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
        for (r, c), value in np.ndenumerate(share if len(class_names) <= 12 else share[:0]):
            axes.text(c, r, f"{value:.0f}", ha="center", va="center",
                      color="white" if value > 55 else "black")
        name_classes(axes.set_xticks, class_names, rotation=45, ha="right", rotation_mode="anchor")
        name_classes(axes.set_yticks, class_names)
        axes.set(xlabel="taken for", ylabel="truth; rows in %",
                 title=wrapped(f"{average[name]:.1f} % right: {title(name)}", 46))
    return save(figure, path)


def student_mistakes(cells, class_names, x_test, path):
    """The test images that the student's first seed is surest of, and wrong.

    Args:
        x_test: uint8 (N, 32, 32, 3), in the order of the cells' predictions.
    """
    name = student_of(cells)
    seed, measured = next(iter(cells[name].items()))
    wrong = [SimpleNamespace(pixels=x_test[i], label=measured.probabilities[i].argmax(),
                             confidence=measured.probabilities[i].max(), truth=measured.y[i])
             for i in np.flatnonzero(~measured.right)]
    return mistakes(wrong, class_names, path, f"{name} (seed {seed})")


def drawn(draw, *arguments):
    """[path] of a picture, or [], and a warning, where it fails: no work is lost for a picture.

    Args:
        draw: a function whose last argument is the path. It returns the path, or None where there
            is nothing to draw.
    """
    try:
        path = draw(*arguments)
        return [path] if path else []
    except Exception as error:
        print(f"warning: {arguments[-1]} is not drawn ({type(error).__name__}: {error})")
        return []


def draw_labels(folder, kept, class_names, histogram, threshold):
    """The pictures of step 2. Returns: their paths.

    Args: as montage's and confidence's.
    """
    pictures = {"montage": partial(montage, kept, class_names),
                "confidence": partial(confidence, histogram, threshold),
                "mistakes": partial(mistakes, kept, class_names)}
    return [path for name, draw in pictures.items()
            for path in drawn(draw, pathlib.Path(folder) / f"{name}.png")]


def draw_all(cells, title, answers, labellings, class_names, out, x_test=None):
    """The pictures of step 5, as far as there is something to draw. Returns: their paths.

    Args:
        x_test: the test images, uint8 (N, 32, 32, 3); None, where they are not to be shown.
    """
    pictures = {"accuracy": partial(accuracies, cells, title),
                "answers": partial(differences, answers) if answers else None,
                "learning_curves": partial(learning_curves, cells, title),
                "robustness": partial(robustness, cells, title) if kinds_of(cells) else None,
                "pseudo_labels": partial(pseudo_labels, labellings) if labellings else None,
                "confusion": partial(confusion, cells, title, class_names),
                "student_mistakes": None if x_test is None else
                partial(student_mistakes, cells, class_names, x_test)}
    out = pathlib.Path(out)
    # None of other tables may stand beside these. Step 6 has a table of its own.
    old = {*out.glob("overlap*.png"), *(out / f"{name}.png" for name in pictures)}
    if (out / "robustness.md").exists():
        old.discard(out / "robustness.png")
    for path in old:
        path.unlink(missing_ok=True)
    return [path for name, draw in pictures.items() if draw
            for path in drawn(draw, out / f"{name}.png")]
