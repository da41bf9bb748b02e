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

# Two of these would be formulas, and the last is none.
NAMES = ["cat", "A$_$B", "猫", "$\\frac{$"]


def measured(accuracy=0.5, seed=0, classes=4, images=400, epochs=6):
    """What step 5 knows of one training; exactly the first images are right."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=images)
    right = np.arange(images) < round(accuracy * images)
    probabilities = rng.uniform(0, 0.2, size=(images, classes)).astype(np.float32)
    probabilities[np.arange(images), np.where(right, y, (y + 1) % classes)] = rng.uniform(
        0.3, 1, size=images)
    history = [{"epoch": epoch, "val_accuracy": 0.1 * epoch, "accuracy": 0.2 * epoch,
                "loss": 3 - 0.2 * epoch - seed} for epoch in range(epochs)]
    errors = {kind: [1 - accuracy + 0.02 * severity + more for severity in range(5)]
              for kind, more in (("fog", 0), ("gaussian_blur", 0.01), ("pixelate", 0.02))}
    attacked = {"clean": accuracy, "epsilons": [1, 2, 4, 8, 16],
                "fgsm": [accuracy / k for k in (2, 3, 4, 5, 6)], "pgd_epsilon": 4, "pgd": 0.07}
    return SimpleNamespace(
        accuracy=accuracy, interval=(accuracy - 0.05, accuracy + 0.04), right=right, y=y,
        probabilities=probabilities, calibrated=probabilities, ece=0.1, calibrated_ece=0.05,
        history=history, steps_per_epoch=10, validation_images=37,
        run=SimpleNamespace(taught_by=None),
        robust={"corrupted": {"errors": errors}, "adversarial": attacked})


def make_cells(count=4, seeds=(0, 1, 2)):
    return {f"cell{i}": {seed: measured(0.4 + 0.05 * i + 0.02 * seed, seed) for seed in seeds}
            for i in range(count)}


def make_answer(points=2.0, low=1.0, high=3.0, shown=True, **given):
    answer = {"per_seed": [low, high], "holm": False} | given
    return SimpleNamespace(question="Does 猫 help $a$?", points=points, low=low, high=high,
                           shown=shown, **answer)


def make_labelling(threshold=0.75):
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, size=900)
    right = (rng.random(900) < confidence).astype(float)
    right[::2] = np.nan
    return SimpleNamespace(
        title=f"by the $teacher, {threshold}", class_names=NAMES, kept=np.arange(4) * 10,
        balanced=np.full(4, 35), threshold=threshold, confidence=confidence, right=right)


@pytest.fixture
def saved(monkeypatch):
    """The figures that were written, in order."""
    figures_saved, save = [], figures.save

    def keep(figure, path, **options):
        figures_saved.append(figure)
        return save(figure, path, **options)

    monkeypatch.setattr(figures, "save", keep)
    return figures_saved


@pytest.fixture
def mosaics(monkeypatch):
    """The (rows, caption) of each mosaic, which is not drawn."""
    rows_and_captions = []
    monkeypatch.setattr(figures, "mosaic", lambda rows, columns, side, caption, path:
                        rows_and_captions.append(([row for row in rows if row], caption)) or path)
    return rows_and_captions


def words(figure):
    """Every text in a figure, in one line."""
    texts = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    return " ".join(" ".join(texts).split())


def plain_images(shades):
    return np.stack([np.full((32, 32, 3), shade, np.uint8) for shade in shades])


def pictures_of(images, labels, confidences, truths):
    """What was kept, as step 2 hands it on."""
    return [SimpleNamespace(pixels=pixels, label=label, confidence=confidence, truth=truth)
            for pixels, label, confidence, truth in zip(images, labels, confidences, truths)]


def shades(tiles):
    """The red of the first pixel of every tile."""
    return [int(np.asarray(image)[0, 0, 0]) for image, _, _ in tiles]


def test_neither_module_imports_keras():
    code = ("import sys, noisy_student.figures, noisy_student.report; "
            "sys.exit(len({'keras', 'tensorflow', 'matplotlib.pyplot'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_no_choice_of_a_notebook_keeps_keras_from_starting(backend):
    code = "import noisy_student, matplotlib; print(matplotlib.rcParams['backend'])"
    result = subprocess.run([sys.executable, "-c", code], env={**os.environ, "MPLBACKEND": backend},
                            cwd=ROOT, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("agg\n", "")


# --- every picture is drawn -----------------------------------------------------------------------


def image_of(path):
    """The pixels of a whole picture."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("their_own", [{}, {"text.usetex": True, "text.parse_math": True}])
def test_pictures_of_step_5_are_drawn_whatever_names_there_are(their_own, tmp_path, capsys):
    cells = {name: {0: measured()} for name in (*NAMES, "bad \udcff byte")}
    with matplotlib.rc_context(their_own):
        pictures = figures.draw_all(cells, "title of {}".format, [make_answer()],
                                    [make_labelling()], NAMES, tmp_path / "new",
                                    plain_images([7] * 400))
    assert capsys.readouterr().out == ""
    assert [path.stem for path in pictures] == [
        "accuracy", "answers", "learning_curves", "robustness", "pseudo_labels", "confusion",
        "student_mistakes"]
    assert {image_of(path).shape[1] for path in pictures[:5]} == {900}
    assert sorted(tmp_path.glob("new/*")) == sorted(pictures)


def test_no_picture_of_other_tables_stays(tmp_path):
    old = [tmp_path / name for name in ("robustness.png", "student_mistakes.png", "overlap1.png")]
    mine = tmp_path / "survival.png"
    for path in (*old, mine):
        path.touch()
    cells = make_cells(1, seeds=[0])
    cells["cell0"][0].robust = {}
    figures.draw_all(cells, str, [], [], NAMES, tmp_path)
    assert mine.exists() and not any(path.exists() for path in old)


def test_the_picture_of_step_6_stays_beside_its_table(tmp_path):
    for name in ("robustness.md", "robustness.png"):
        (tmp_path / name).touch()
    cells = make_cells(1, seeds=[0])
    cells["cell0"][0].robust = {}
    figures.draw_all(cells, str, [], [], NAMES, tmp_path)
    assert (tmp_path / "robustness.png").exists()


@pytest.mark.filterwarnings("error")
def test_pictures_of_step_2_are_drawn_whatever_names_there_are(tmp_path, capsys):
    kept = pictures_of(plain_images(range(8)), np.arange(8) % 4, np.ones(8),
                       [0, 1, 2, 3, 3, 2, 1, 0])
    pictures = figures.draw_labels(tmp_path, kept, NAMES, np.ones(1000, int), 0.75)
    assert capsys.readouterr().out == ""
    assert [path.stem for path in pictures] == ["montage", "confidence", "mistakes"]
    assert all(image_of(path).std() > 0 for path in pictures)


def test_step_2_has_no_picture_of_mistakes_where_no_truth_is_known(tmp_path, capsys):
    kept = pictures_of(plain_images(range(8)), np.arange(8) % 4, np.ones(8), [None] * 8)
    pictures = figures.draw_labels(tmp_path, kept, NAMES, np.ones(1000, int), 0.75)
    assert [path.name for path in pictures] == ["montage.png", "confidence.png"]
    assert capsys.readouterr().out == ""


def test_a_picture_that_fails_is_a_warning_and_the_others_are_drawn(tmp_path, capsys):
    cells = make_cells(2)
    cells["cell1"][0].history = None
    pictures = figures.draw_all(cells, str, [], [], NAMES, tmp_path)
    assert [path.stem for path in pictures] == ["accuracy", "robustness", "confusion"]
    printed = capsys.readouterr().out
    assert printed.count("warning") == 1 and "learning_curves.png is not drawn" in printed


# --- images in rows -------------------------------------------------------------------------------


def test_the_pixels_of_an_image_are_in_the_file(tmp_path):
    image = np.random.default_rng(0).integers(256, size=(1, 32, 32, 3), dtype=np.uint8)
    kept = pictures_of(image, [0], [0.9], [None])
    pixels = image_of(figures.montage(kept, ["cat"], tmp_path / "a.png"))
    enlarged = image[0].repeat(3, axis=0).repeat(3, axis=1)
    column = pixels[:, figures.LABEL:figures.LABEL + 96]
    assert any((column[top:top + 96] == enlarged).all() for top in range(len(pixels) - 96))


def test_an_image_that_is_wrong_has_an_orange_frame(tmp_path):
    kept = pictures_of(plain_images([10] * 2), [0, 0], [0.9, 0.8], [0, 3])
    path = figures.montage(kept, NAMES, tmp_path / "a.png")
    _, xs = np.nonzero((image_of(path) == [0xd5, 0x5e, 0]).all(axis=2))
    second = figures.LABEL + 96 + figures.GAP
    assert (xs.min(), xs.max()) == (second, second + 95)


def test_a_montage_goes_from_the_most_to_the_least_confident(mosaics):
    kept = pictures_of(plain_images([10, 20, 30, 40, 50]), [3, 0, 3, 0, 3],
                       [0.8, 0.9, 0.99, 0.95, 0.7], [None] * 5)
    figures.montage(kept, NAMES, "a.png")
    ((rows, caption),) = mosaics
    assert [(label, shades(tiles)) for label, tiles in rows] == [
        ("cat\n2 kept", [40, 20]), ("$\\frac{$\n3 kept", [30, 10, 50])]
    assert [word for _, word, _ in rows[1][1]] == ["0.990", "0.800", "0.700"]
    assert "None kept: A$_$B, 猫." in caption and "Framed" not in caption


def test_a_montage_frames_what_is_known_to_be_wrong(mosaics):
    kept = pictures_of(plain_images([10] * 4), [0] * 4, [0.9, 0.8, 0.7, 0.6], [0, 3, None, -1])
    figures.montage(kept, NAMES, "a.png")
    (((_, tiles),), caption), = mosaics
    assert [framed for *_, framed in tiles] == [False, True, False, True]
    assert "Framed: wrong" in caption


def test_a_montage_of_many_classes_says_what_it_leaves_out(mosaics):
    labels, images = np.arange(2000) % 1000, np.zeros((2000, 1, 1, 3), np.uint8)
    kept = pictures_of(images, labels, np.linspace(1, 0, 2000), labels)
    figures.montage(kept, [f"class {c}" for c in range(1010)], "a.png")
    ((rows, caption),) = mosaics
    assert len(rows) == 40 and "960 more classes are not drawn" in caption


def test_mistakes_are_the_most_confident_wrong_ones_under_what_they_are(mosaics):
    kept = pictures_of(plain_images([1, 2, 3, 4, 5, 6, 7]), [0, 0, 0, 0, 1, 1, 1],
                       [0.9, 0.8, 0.85, 1, 1, 0.7, 0.6], [0, 2, -1, None, 1, 0, 0])
    figures.mistakes(kept, NAMES, "a.png")
    ((rows, caption),) = mosaics
    assert "what the teacher takes them for" in caption and "none of the classes" in caption
    assert [label for label, _ in rows] == ["cat\n2 wrong", "A$_$B\n2 wrong"]
    assert [(shade, word) for _, tiles in rows for shade, (_, word, _) in zip(
        shades(tiles), tiles)] == [(3, "none"), (2, "猫"), (6, "cat"), (7, "cat")]


def test_mistakes_of_the_student_are_test_images_of_its_first_seed(mosaics):
    cells = make_cells(2, seeds=[3, 4])
    one = cells["cell1"][3]
    one.run.taught_by = {"teacher": None}
    # Of 400 images, exactly the first are right.
    x_test = plain_images([0] * 400)
    wrong = np.flatnonzero(~one.right)
    sure = wrong[one.probabilities[wrong].max(axis=1).argmax()]
    x_test[sure] = 200
    figures.student_mistakes(cells | {"later": make_cells(1)["cell0"]}, NAMES, x_test, "a.png")
    ((rows, caption),) = mosaics
    assert "what cell1 (seed 3) takes them for" in caption and "none of" not in caption
    taken, true = one.probabilities[sure].argmax(), one.y[sure]
    tiles = dict((label.split("\n")[0], tiles) for label, tiles in rows)[NAMES[taken]]
    assert shades(tiles)[0] == 200 and tiles[0][1] == NAMES[true]


@pytest.mark.parametrize("noise, crop, words", [
    ("all", "with-noise", "under flip and crop, then RandAugment."),
    ("input", "never", "under RandAugment."), ("model", "with-noise", "they get no noise."),
    ("none", "always", "under flip and crop.")])
def test_a_batch_names_the_noise_it_is_under_and_no_other(noise, crop, words, mosaics):
    figures.batch(plain_images([1]), plain_images([2]), noise, crop, "a.png")
    ((_, caption),) = mosaics
    assert caption.endswith(words)


def test_a_batch_has_every_image_as_it_is_and_below_it_as_the_student_sees_it(mosaics):
    figures.batch(plain_images(range(40)), plain_images(range(100, 140)), "all", "never", "a.png")
    ((rows, _),) = mosaics
    assert [shades(tiles) for _, tiles in rows] == [
        [*range(first + start, first + start + 8)] for start in (0, 8, 16, 24)
        for first in (0, 100)]


def test_pairs_stand_above_each_other(mosaics):
    figures.pairs(plain_images(range(10)), plain_images([50, 51, 52]),
                  np.array([(5, 0), (3, 2), (1, 1)]), [0.99, 0.95, 0.91], "a.png")
    ((rows, _),) = mosaics
    assert [shades(tiles) for _, tiles in rows] == [[5, 3, 1], [50, 52, 51]]
    assert [word for _, word, _ in rows[0][1]] == ["0.990", "0.950", "0.910"]


def test_the_gallery_shows_every_level_in_each_direction_there_is(mosaics):
    class Augment:
        def test_single_operation(self, image, name, level, sign):
            return Image.new("RGB", image.size, (100 + 10 * level + (sign > 0), 0, 0))

    operations = {"twist": SimpleNamespace(magnitudes=range(10), two_ways=True),
                  "invert": SimpleNamespace(magnitudes=range(10), two_ways=False)}
    figures.gallery(Image.new("RGB", (9, 9)), Augment(), operations, "a.png")
    ((rows, _),) = mosaics
    assert [(label, shades(tiles)) for label, tiles in rows] == [
        ("twist", [0, *range(101, 201, 10)]), ("other way", [0, *range(100, 200, 10)]),
        ("invert", [0, *range(101, 201, 10)])]


# --- numbers in charts ----------------------------------------------------------------------------


def test_confidence_says_how_many_are_above_the_threshold(tmp_path, saved):
    histogram = np.zeros(1000, int)
    histogram[[100, 749, 750, 999]] = 1, 1, 1, 5
    figures.confidence(histogram, 0.75, tmp_path / "a.png")
    assert "75 % of 8 images are above the threshold, 75 %" in words(saved[0])


@pytest.mark.filterwarnings("error")
def test_what_networks_say_are_bars_beside_the_image(tmp_path, saved):
    said = [(name, [("猫", 70), ("A$_$B", 20), ("dog", 5)]) for name in ("a/teacher", "$\\frac{$")]
    rows = [(f"{shade}.png", image, said) for shade, image in enumerate(plain_images(range(14)))]
    assert image_of(figures.answers(rows, tmp_path / "a.png")).shape[1] == 900
    image, *panels = saved[0].axes[3:6]
    assert (image.images[0].get_array() == 1).all()
    assert [[bar.get_width() for bar in axes.patches] for axes in panels] == [[70, 20, 5]] * 2
    # The likeliest is above the others.
    assert panels[0].yaxis_inverted()
    assert len(saved[0].axes) == 3 * 12 and "2 more not drawn" in words(saved[0])


def test_survival_has_a_bar_per_block(tmp_path, saved):
    probabilities = np.linspace(1, 0.8, 16).tolist()
    figures.survival(probabilities, [3, 4, 6, 3], tmp_path / "a.png")
    assert [bar.get_height() for bar in saved[0].axes[0].patches] == probabilities


def test_accuracies_have_each_mean_as_a_number(tmp_path, saved):
    figures.accuracies(make_cells(11), "cell {}".format, tmp_path / "a.png")
    # 40, 42 and 44 % of the first cell's seeds, 5 more of each other's.
    assert all(f" {42 + 5 * i:.1f} " in f" {words(saved[0])} " for i in range(11))


@pytest.mark.parametrize("answer, word", [
    (make_answer(holm=True), "yes* +2.0"), (make_answer(-2, -3, -1), "no -2.0"),
    (make_answer(0.04, -1, 1, shown=False), "not shown +0.0"),
    (make_answer(-0.04, -1, 1, shown=False, per_seed=[-0.04]), "one seed +0.0")])
def test_an_answer_is_a_word_and_its_points(answer, word, tmp_path, saved):
    figures.differences([answer], tmp_path / "a.png")
    assert word in words(saved[0])


def test_a_learning_curve_is_the_mean_while_all_seeds_ran(tmp_path, saved):
    cell = {0: measured(seed=0, epochs=6), 1: measured(seed=1, epochs=3)}
    figures.learning_curves({"a": cell}, str, tmp_path / "a.png")
    mean, first, second = saved[0].axes[2].lines
    # The losses are 3 and 2, less 0.2 in every epoch of ten steps.
    assert mean.get_xydata() == pytest.approx(np.array([(10, 2.5), (20, 2.3), (30, 2.1)]))
    assert (len(first.get_xydata()), len(second.get_xydata())) == (6, 3)


def test_learning_curves_say_on_how_many_images_they_rest_and_show_training_too(tmp_path, saved):
    cell = {0: measured(), 1: measured()}
    cell[1].validation_images = 1041
    figures.learning_curves({"a": cell}, str, tmp_path / "a.png")
    assert "accuracy on 37 or 1,041 validation images, %" in words(saved[0])
    held_out, training = (axes.lines[0].get_ydata() for axes in saved[0].axes[:2])
    assert held_out[-1] == pytest.approx(50) and training[-1] == pytest.approx(100)


@pytest.mark.parametrize("draw", [figures.learning_curves, figures.robustness])
def test_a_chart_has_eight_lines_and_says_what_it_leaves_out(draw, tmp_path, saved):
    draw(make_cells(11), "[{}]".format, tmp_path / "a.png")
    assert words(saved[0]).count("[cell") == 8 and "3 more not drawn" in words(saved[0])


def test_robustness_is_the_mean_accuracy_over_corruptions(tmp_path, saved):
    figures.robustness(make_cells(1, seeds=[0]), str, tmp_path / "a.png")
    (line,) = saved[0].axes[0].lines
    assert line.get_ydata() == pytest.approx([39, 37, 35, 33, 31])


def test_robustness_is_the_accuracy_under_each_attack(tmp_path, saved):
    figures.robustness(make_cells(1, seeds=[0]), str, tmp_path / "a.png")
    fgsm, pgd = saved[0].axes[1].lines
    assert fgsm.get_ydata() == pytest.approx([40, 20, 40 / 3, 10, 8, 40 / 6])
    assert pgd.get_ydata() == pytest.approx([7])


def test_a_lesson_with_other_attacks_has_its_own_axis(tmp_path, saved):
    cells = make_cells(1, seeds=[0])
    cells["cell0"][0].robust = {"adversarial": {
        "clean": 0.5, "epsilons": [2, 6], "fgsm": [0.4, 0.3], "pgd_epsilon": 4, "pgd": 0.2}}
    figures.robustness(cells, str, tmp_path / "a.png")
    (axes,) = saved[0].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["clean", "2", "6"]
    # Half way between 2 and 6.
    assert axes.lines[1].get_xdata() == pytest.approx([1.5])


@pytest.mark.parametrize("count", [2, 3, 11])
def test_points_of_pgd_stand_apart_around_how_far_pixels_moved(count, tmp_path, saved):
    figures.robustness(make_cells(count, seeds=[0]), str, tmp_path / "a.png")
    places = [line.get_xdata()[0] for line in saved[0].axes[1].lines[1::2]]
    assert len(places) == min(count, 8)
    # The epsilons are 1, 2, 4, 8 and 16, and PGD's is 4.
    assert np.mean(places) == pytest.approx(3) and np.diff(places) == pytest.approx(0.09)


def test_pseudo_labels_are_as_right_as_they_are(tmp_path, saved):
    labelling = make_labelling()
    figures.pseudo_labels([labelling], tmp_path / "a.png")
    last = ~np.isnan(labelling.right) & (labelling.confidence > 0.9)
    expected = 100 * labelling.confidence[last].mean(), 100 * labelling.right[last].mean()
    assert saved[0].axes[1].lines[0].get_xydata()[-1] == pytest.approx(expected)


def test_confusion_is_of_the_first_cell_the_student_and_the_best_side_by_side(tmp_path, saved):
    cells = make_cells(4)
    for name in ("cell1", "cell2"):
        cells[name][0].run.taught_by = {"teacher": None}
    cells["student"] = cells.pop("cell2")
    figures.confusion(cells, str, NAMES, tmp_path / "a.png")
    panels = saved[0].axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "42.0 % right: cell0", "52.0 % right: student", "57.0 % right: cell3"]
    assert len({axes.get_position().y0.round(6) for axes in panels}) == 1


@pytest.mark.parametrize("taught, student", [
    (["student_without_noise", "student", "mine"], "student"), (["mine", "yours"], "mine"),
    (["student_without_noise", "student_of_noisy"], "student_of_noisy"), ([], "last")])
def test_the_student_is_the_cell_of_that_name_or_another_that_was_taught(taught, student):
    cells = {"teacher": {0: measured(images=4)}}
    for name in (*taught, "last"):
        cells[name] = {0: measured(images=4)}
        cells[name][0].run.taught_by = {} if name == "last" else {"teacher": None}
    assert figures.student_of(cells) == student


def test_confusion_is_the_share_of_each_true_class(tmp_path, saved):
    one = measured()
    # No image of the last class.
    one.y = one.y % 3
    figures.confusion({"a": {0: one}}, str, NAMES, tmp_path / "a.png")
    shares = np.asarray(saved[0].axes[0].images[0].get_array())
    taken = one.probabilities.argmax(axis=1)
    assert shares[1, 2] == pytest.approx(100 * (taken[one.y == 1] == 2).mean())
    assert shares.sum(axis=1) == pytest.approx([100, 100, 100, 0])
