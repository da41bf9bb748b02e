"""The pictures say what was measured, whatever it was, and are whole files."""

import os
import subprocess
import sys
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from noisy_student import figures

NAMES = ["cat", "A$_$B", "猫", "dog"]
KINDS = ["fog", "gaussian_blur", "pixelate"]


def measured(accuracy=0.5, seed=0, classes=4, images=400, epochs=6):
    """What step 5 knows of one training; exactly the first images are right."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=images)
    right = np.arange(images) < round(accuracy * images)
    probabilities = rng.uniform(0, 0.2, size=(images, classes)).astype(np.float32)
    probabilities[np.arange(images), np.where(right, y, (y + 1) % classes)] = rng.uniform(
        0.3, 1, size=images)
    history = [{"epoch": epoch, "val_accuracy": 0.1 * epoch, "loss": 3 - 0.2 * epoch - seed}
               for epoch in range(epochs)]
    errors = {kind: [1 - accuracy + 0.02 * s + 0.01 * k for s in range(5)]
              for k, kind in enumerate(KINDS)}
    attacked = {"clean": accuracy, "fgsm": [accuracy / k for k in (2, 3, 4, 5, 6)], "pgd": 0.07}
    return SimpleNamespace(
        accuracy=accuracy, interval=(accuracy - 0.05, accuracy + 0.04), right=right, y=y,
        probabilities=probabilities, calibrated=probabilities, ece=0.1, calibrated_ece=0.05,
        history=history, steps_per_epoch=10,
        robust={"corrupted": {"errors": errors}, "adversarial": attacked})


def make_cells(count=4, seeds=(0, 1, 2)):
    return {f"cell{i}": {seed: measured(0.4 + 0.05 * i + 0.02 * seed, seed) for seed in seeds}
            for i in range(count)}


def make_answer(points=2.0, low=1.0, high=3.0, shown=True, **given):
    answer = {"per_seed": [low, high], "holm": False} | given
    return SimpleNamespace(question="Does 猫 help $a$?", points=points, low=low, high=high,
                           shown=shown, **answer)


def make_labelling(threshold=0.75, known=True, names=NAMES):
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.3, 1, size=900)
    right = (rng.random(900) < sure).astype(float)
    right[::2] = np.nan
    return SimpleNamespace(
        title=f"by the $teacher, {threshold}", class_names=names, kept=np.arange(len(names)) * 10,
        balanced=np.full(len(names), 35), threshold=threshold, confidence=sure,
        right=right if known else np.full(900, np.nan))


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written, in order."""
    found, save = [], figures.save

    def keep(figure, path, *rest, **options):
        found.append(figure)
        return save(figure, path, *rest, **options)

    monkeypatch.setattr(figures, "save", keep)
    return found


def words(figure):
    """Every text in a figure."""
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def says(figure, phrase):
    return phrase in " ".join(" ".join(words(figure)).split())


def thick(axes):
    """The lines with markers of a panel, one for each cell."""
    return [line for line in axes.lines if line.get_marker() in tuple(figures.MARKERS)
            and len(line.get_xdata()) > 1]


def sheet(figure):
    """The pixels of a mosaic: uint8 (H, W, 3)."""
    (axes,) = figure.axes
    (image,) = axes.images
    return np.asarray(image.get_array())


def plain_images(shades):
    return np.stack([np.full((32, 32, 3), shade, np.uint8) for shade in shades])


def shades_of(figure, row):
    """What stands in the middle of every tile of a mosaic's row: the red of its pixels."""
    heights = [text.get_position()[1] for text in figure.axes[0].texts
               if text.get_ha() == "right" and text.get_text()]
    line = sheet(figure)[round(heights[row]), figures.LABEL:]
    pitch = 96 + figures.GAP
    return [int(line[x, 0]) for x in range(48, len(line), pitch) if line[x, 0] != 255]


# --- in general ----------------------------------------------------------------------------------


def test_neither_module_imports_keras():
    code = ("import sys, noisy_student.figures, noisy_student.report; "
            "sys.exit(len({'keras', 'tensorflow', 'matplotlib.pyplot'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.filterwarnings("error")
def test_every_picture_is_drawn_whatever_names_there_are(tmp_path, drawn):
    cells = {name: {0: measured()} for name in (*NAMES, "$\\frac{", "bad \udcff byte")}
    images, truths = plain_images(range(8)), [0, 1, 2, 3, 3, 2, 1, 0]
    # Even where the user's own settings ask for TeX.
    with matplotlib.rc_context({"text.usetex": True, "text.parse_math": True}):
        figures.montage(images, np.arange(8) % 4, np.ones(8), truths, NAMES, tmp_path / "1.png")
        figures.mistakes(images, np.arange(8) % 4, np.ones(8), truths, NAMES, tmp_path / "2.png")
        pictures = figures.draw_all(cells, "title of {}".format, [make_answer()],
                                    [make_labelling()], NAMES, tmp_path / "new")
    assert [path.stem for path in pictures] == [
        "accuracy", "answers", "learning_curves", "robustness", "pseudo_labels", "confusion"]
    assert sorted(tmp_path.glob("new/*")) == sorted(pictures)
    for path in pictures:
        with Image.open(path) as image:
            assert image.format == "PNG" and image.width == 900
    # No name is mathematics.
    for figure in drawn:
        for text in figure.findobj(matplotlib.text.Text):
            assert not text.get_usetex()
            assert not text.get_parse_math() or "$" not in text.get_text()
    assert says(drawn[0], "A$_$B") and says(drawn[0], "猫")


# --- images in rows ------------------------------------------------------------------------------


def test_montage_goes_from_the_most_to_the_least_confident(tmp_path, drawn):
    images = plain_images([10, 20, 30, 40, 50])
    figures.montage(images, [3, 0, 3, 0, 3], [0.8, 0.9, 0.99, 0.95, 0.7], [None] * 5, NAMES,
                    tmp_path / "montage.png")
    assert shades_of(drawn[0], 0) == [40, 20]
    assert shades_of(drawn[0], 1) == [30, 10, 50]
    assert [word for word in words(drawn[0]) if word.startswith("0.")] == [
        "0.950", "0.900", "0.990", "0.800", "0.700"]
    assert says(drawn[0], "cat 2 kept") and says(drawn[0], "dog 3 kept")
    assert says(drawn[0], "None kept: A$_$B, 猫.")
    assert not says(drawn[0], "Framed")


def test_montage_of_many_classes_says_what_it_leaves_out(tmp_path, drawn):
    labels, images = np.arange(2000) % 1000, np.zeros((2000, 32, 32, 3), np.uint8)
    figures.montage(images, labels, np.linspace(1, 0, 2000), labels.tolist(),
                    [f"class {c}" for c in range(1010)], tmp_path / "montage.png")
    assert says(drawn[0], "960 more classes are not drawn")
    assert sum("2 kept" in word for word in words(drawn[0])) == 40


def test_montage_frames_what_is_known_to_be_wrong(tmp_path, drawn):
    figures.montage(plain_images([10] * 4), np.zeros(4, int), [0.9, 0.8, 0.7, 0.6],
                    [0, 3, None, -1], NAMES, tmp_path / "montage.png")
    pixels = sheet(drawn[0])
    orange = (pixels == [0xd5, 0x5e, 0]).all(axis=2)
    framed = [orange[:, figures.LABEL + k * (96 + figures.GAP):][:, :96].any() for k in range(4)]
    assert framed == [False, True, False, True]
    assert says(drawn[0], "Framed: wrong")


def test_the_pixels_of_an_image_are_in_the_file(tmp_path):
    image = np.random.default_rng(0).integers(256, size=(1, 32, 32, 3), dtype=np.uint8)
    path = figures.montage(image, [0], [0.9], [None], ["cat"], tmp_path / "montage.png")
    with Image.open(path) as opened:
        found = np.asarray(opened.convert("RGB"))
    enlarged = image[0].repeat(3, axis=0).repeat(3, axis=1)
    column = found[:, figures.LABEL:figures.LABEL + 96]
    assert any((column[top:top + 96] == enlarged).all() for top in range(len(found) - 96))


def test_mistakes_are_the_most_confident_wrong_ones_under_what_they_are(tmp_path, drawn):
    truths = [0, 3, -1, None, 1, 0, 0]
    labels = [0, 0, 0, 0, 1, 1, 1]
    figures.mistakes(plain_images([1, 2, 3, 4, 5, 6, 7]), labels, [0.9, 0.8, 0.85, 1, 1, 0.7, 0.6],
                     truths, NAMES, tmp_path / "mistakes.png")
    assert [word for word in words(drawn[0]) if "\n" not in word] == ["none", "dog", "cat", "cat"]
    assert says(drawn[0], "cat 2 wrong") and says(drawn[0], "A$_$B 2 wrong")
    # Classes without a mistake have no row.
    assert not says(drawn[0], "猫") and not says(drawn[0], "dog 0")


def test_batch_has_every_image_as_it_is_and_below_it_as_the_student_sees_it(tmp_path, drawn):
    figures.batch(plain_images(range(40)), plain_images(range(100, 140)), tmp_path / "batch.png")
    for pair in range(4):
        assert shades_of(drawn[0], 2 * pair) == [*range(8 * pair, 8 * pair + 8)]
        assert shades_of(drawn[0], 2 * pair + 1) == [*range(100 + 8 * pair, 108 + 8 * pair)]


def test_pairs_stand_above_each_other(tmp_path, drawn):
    found = np.array([(5, 0), (3, 2), (1, 1)])
    figures.pairs(plain_images(range(10)), plain_images([50, 51, 52]), found, [0.99, 0.95, 0.91],
                  tmp_path / "pairs.png")
    assert shades_of(drawn[0], 0) == [5, 3, 1] and shades_of(drawn[0], 1) == [50, 52, 51]
    assert [word for word in words(drawn[0]) if word.startswith("0.")] == [
        "0.990", "0.950", "0.910"]


def test_gallery_shows_every_level_in_both_directions(tmp_path, drawn):
    asked = []

    class Augment:
        def test_single_operation(self, image, name, level, sign):
            asked.append((name, level, sign))
            return Image.new("RGB", image.size, (100 + 10 * level + (sign > 0), 0, 0))

    operations = {"twist": SimpleNamespace(magnitudes=range(10), two_ways=True),
                  "invert": SimpleNamespace(magnitudes=range(10), two_ways=False)}
    figures.gallery(figures.little_house(), Augment(), operations, tmp_path / "gallery.png")
    assert len(asked) == 30 and ("invert", 3, -1) not in asked
    line = sheet(drawn[0])[:, figures.LABEL + 32::64 + figures.GAP, 0]
    rows = [row[1:] for row in line.tolist() if row[1] in (100, 101)]
    assert rows[0] == [101 + 10 * level for level in range(10)]
    assert [100 + 10 * level for level in range(10)] in rows
    assert words(drawn[0])[1:12] == ["as is", *map(str, range(10))]


# --- steps 2 and 3 -------------------------------------------------------------------------------


def test_confidence_says_how_many_are_above_the_threshold(tmp_path, drawn):
    histogram = np.zeros(1000, int)
    histogram[[100, 749, 750, 999]] = 1, 1, 1, 5
    figures.confidence(histogram, 0.75, tmp_path / "confidence.png")
    (axes,) = drawn[0].axes
    assert axes.get_title(loc="left") == "75 % of 8 images are above the threshold, 75 %"
    assert [line.get_xdata()[0] for line in axes.lines] == [75]
    bars = axes.patches[0].get_data().values
    assert len(bars) == 50 and bars.sum() == 8 and bars[5] == 1 and bars[49] == 5


@pytest.mark.parametrize("blocks", [[3, 4, 6, 3], [3, 4, 23, 3], [1, 0, 0, 0]])
def test_survival_has_a_bar_per_block(tmp_path, drawn, blocks):
    probabilities = np.linspace(1, 0.8, sum(blocks)).tolist()
    figures.survival(probabilities, blocks, tmp_path / "survival.png")
    bars = drawn[0].axes[0].patches
    assert [bar.get_height() for bar in bars] == probabilities
    assert len({bar.get_facecolor() for bar in bars}) == np.count_nonzero(blocks)
    assert says(drawn[0], f"{sum(probabilities):.1f} of {sum(blocks)} blocks")


# --- step 5 --------------------------------------------------------------------------------------


def test_accuracies_have_each_mean_with_its_value_beside_it(tmp_path, drawn):
    cells = make_cells(11)
    figures.accuracies(cells, "cell {}".format, tmp_path / "accuracy.png")
    (axes,) = drawn[0].axes
    diamonds = [line for line in axes.lines if line.get_marker() == "D"]
    values = [text for text in axes.texts if hasattr(text, "xy")]
    assert len(diamonds) == len(values) == 11
    for cell, diamond, value in zip(cells.values(), diamonds, values):
        mean = 100 * np.mean([m.accuracy for m in cell.values()])
        assert diamond.get_xdata()[0] == pytest.approx(mean)
        assert value.xy == (diamond.get_xdata()[0], diamond.get_ydata()[0])
        assert value.get_text() == f"{mean:.1f}"
    intervals = [line.get_xdata() for line in axes.lines if line.get_color() == figures.SKY]
    assert len(intervals) == 33 and np.allclose(intervals[0], [35, 44])
    # Rows have no colours of their own, so none can be used twice.
    assert len({line.get_color() for line in diamonds}) == 1


def test_answers_are_words_colours_and_markers(tmp_path, drawn):
    figures.answers([make_answer(holm=True), make_answer(-2, -3, -1),
                     make_answer(0.04, -1, 1, shown=False),
                     make_answer(-0.04, -1, 1, shown=False, per_seed=[-0.04])],
                    tmp_path / "answers.png")
    (axes,) = drawn[0].axes
    found = [text for text in axes.texts if text.get_ha() == "right"]
    assert [text.get_text() for text in found] == ["yes* +2.0", "no -2.0", "not shown +0.0",
                                                   "one seed +0.0"]
    assert [text.get_color() for text in found[:3]] == [figures.GREEN, figures.ORANGE, figures.GREY]
    marked = [line for line in axes.lines if line.get_marker() in tuple("^vo")]
    assert [line.get_marker() for line in marked] == ["^", "v", "o", "o"]
    assert [line.get_xdata()[0] for line in marked] == [2, -2, 0.04, -0.04]


def test_learning_curves_of_unequal_length(tmp_path, drawn):
    cell = {0: measured(seed=0, epochs=6), 1: measured(seed=1, epochs=3)}
    figures.learning_curves({"a": cell}, str, tmp_path / "curves.png")
    for axes in drawn[0].axes:
        (mean,) = thick(axes)
        assert mean.get_xdata().tolist() == [10, 20, 30]
        thin = [line for line in axes.lines if line is not mean]
        assert [line.get_xdata()[-1] for line in thin] == [60, 30]
    # The losses are 3 and 2, less 0.2 in every epoch.
    assert np.allclose(thick(drawn[0].axes[1])[0].get_ydata(), [2.5, 2.3, 2.1])
    assert np.allclose(drawn[0].axes[0].lines[1].get_ydata(), [0, 10, 20, 30, 40, 50])


@pytest.mark.parametrize("draw", ["learning_curves", "robustness"])
def test_a_chart_has_eight_lines_and_says_what_it_leaves_out(tmp_path, drawn, draw):
    getattr(figures, draw)(make_cells(11), str, tmp_path / "chart.png")
    assert all(len(thick(axes)) == 8 for axes in drawn[0].axes)
    assert says(drawn[0], "3 more not drawn")
    getattr(figures, draw)(make_cells(8), str, tmp_path / "chart.png")
    assert not says(drawn[1], "not drawn")
    looks = {(line.get_color(), line.get_marker()) for line in thick(drawn[1].axes[0])}
    assert len(looks) == 8


def test_robustness_is_accuracy_in_both_panels(tmp_path, drawn):
    cells = make_cells(3, seeds=[0])
    cells["cell1"][0].robust = {}
    figures.robustness(cells, str, tmp_path / "robustness.png")
    corrupted, attacked = drawn[0].axes
    assert np.allclose(thick(corrupted)[0].get_ydata(), [39, 37, 35, 33, 31])
    assert np.allclose(thick(attacked)[0].get_ydata(), [40, 20, 40 / 3, 10, 8, 40 / 6])
    hollow = [line for line in attacked.lines if len(line.get_xdata()) == 1]
    assert [line.get_ydata()[0] for line in hollow] == pytest.approx([7, 7])
    # A cell keeps its look in every chart, whether or not others were tested.
    assert [line.get_color() for line in thick(corrupted)] == list(figures.COLOURS[0:3:2])
    assert not says(drawn[0], "cell1")


def test_pseudo_labels_have_thresholds_and_no_legend_over_the_bars(tmp_path, drawn):
    labellings = [make_labelling(), make_labelling(0.3), make_labelling(None), make_labelling()]
    figures.pseudo_labels(labellings, tmp_path / "pseudo_labels.png")
    bars, curves = drawn[0].axes
    dotted = [line.get_xdata()[0] for line in curves.lines if line.get_linestyle() == ":"]
    assert dotted == [30, 75] and says(drawn[0], "threshold 30 %")
    assert [bar.get_height() for bar in bars.patches] == [35] * 4 + [0, 10, 20, 30]
    assert bars.get_legend().get_window_extent().y0 >= bars.get_window_extent().y1 - 1
    known = ~np.isnan(labellings[0].right)
    sure = labellings[0].confidence[known]
    last = sure > 0.9
    x, y = thick(curves)[0].get_xydata()[-1]
    assert x == pytest.approx(100 * sure[last].mean())
    assert y == pytest.approx(100 * labellings[0].right[known][last].mean())


def test_confusion_is_the_first_cell_beside_the_most_accurate(tmp_path, drawn):
    cells = make_cells(3)
    for m in cells["cell0"].values():
        # No image of the last class.
        m.y = m.y % 3
    figures.confusion(cells, str, NAMES, tmp_path / "confusion.png")
    first, best = drawn[0].axes
    assert first.get_title(loc="left") == "cell0: 42.0 % right"
    assert best.get_title(loc="left") == "cell2: 52.0 % right"
    shares = np.asarray(first.images[0].get_array())
    assert np.allclose(shares.sum(axis=1), [100, 100, 100, 0])
    counts = np.zeros((4, 4))
    for m in cells["cell2"].values():
        for truth, taken in zip(m.y, m.probabilities.argmax(axis=1)):
            counts[truth, taken] += 100
    assert np.allclose(best.images[0].get_array(), counts / counts.sum(axis=1, keepdims=True) * 100)


def test_a_picture_that_fails_is_a_warning_and_the_others_are_drawn(tmp_path, capsys):
    cells = make_cells(2)
    cells["cell1"][0].history = None
    pictures = figures.draw_all(cells, str, [], [], NAMES, tmp_path)
    assert [path.stem for path in pictures] == ["accuracy", "robustness", "confusion"]
    printed = capsys.readouterr().out
    assert printed.count("warning") == 1 and "learning_curves.png is not drawn" in printed


def test_step_2_has_no_picture_of_mistakes_where_no_truth_is_known(tmp_path, capsys):
    kept = plain_images([1, 2]), [0, 1], [0.9, 0.8], [None, None], NAMES
    pictures = figures.draw_labels(tmp_path, *kept, np.ones(1000, int), 0.75)
    assert [path.name for path in pictures] == ["montage.png", "confidence.png"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_no_choice_of_a_notebook_keeps_keras_from_starting(backend):
    code = "import noisy_student, matplotlib; print(matplotlib.rcParams['backend'])"
    result = subprocess.run([sys.executable, "-c", code], env={**os.environ, "MPLBACKEND": backend},
                            cwd=ROOT, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("agg\n", "")
