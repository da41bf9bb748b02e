"""Step 1: the article's network, what it is trained with and on, and what a run leaves behind."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import TINY, train_teacher

import cifar10_resnet50 as step1
import small_network
from noisy_student import arguments, backend, runs
from noisy_student.data import load_data
from noisy_student.files import UserError
from noisy_student.metrics import score
from noisy_student.training import predict, read_history
from stochastic_resblock import build_student


def noise(count):
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


# --- the network ----------------------------------------------------------------------------------


def test_the_articles_network():
    model = step1.build_resnet()
    assert model.count_params() == 23_590_794
    shapes = [model.get_layer(f"stage{stage}_block{block}_relu3").output.shape[1:]
              for stage, block in ((1, 3), (2, 4), (3, 6), (4, 3))]
    assert shapes == [(32, 32, 256), (16, 16, 512), (16, 16, 1024), (8, 8, 2048)]
    assert model.get_layer("scale").count_params() == 0
    assert model.get_layer("stage2_block1_conv3").strides == (2, 2)
    assert model.get_layer("stage2_block1_conv2").strides == (1, 1)
    assert sum(layer.name.endswith("shortcut_conv") for layer in model.layers) == 4


def test_other_depths_and_widths():
    def cheap(x, filters, strides, name):
        names.append(name)
        return keras.layers.AveragePooling2D(strides)(x)

    for depth, blocks in step1.BLOCKS.items():
        names = []
        step1.build_resnet(depth, block=cheap)
        assert [sum(name.startswith(f"stage{stage}_") for name in names)
                for stage in range(1, 5)] == list(blocks) and len(names) == sum(blocks)
        # Three convolutions in each, one before them, and the classifier.
        assert depth == 3 * sum(blocks) + 2
    names = [layer.name for layer in step1.build_resnet(26, 0.05).layers]
    assert sum("_conv" in name and "shortcut" not in name for name in names) + 1 == 26
    assert step1.build_resnet(14, 0.5).get_layer("stage3_block1_conv1").filters == 128


def test_stem_strides_halve_every_resolution_and_leave_the_parameters():
    plain, strided = (step1.build_resnet(14, 0.05, stem_strides=strides) for strides in (1, 2))
    assert [w.shape for w in plain.weights] == [w.shape for w in strided.weights]
    sides = [[model.get_layer(f"stage{stage}_block1_relu3").output.shape[1]
              for stage in range(1, 5)] for model in (plain, strided)]
    assert sides == [[32, 16, 16, 8], [16, 8, 8, 4]]


@pytest.mark.parametrize("build", [step1.build_resnet, build_student])
def test_unknown_depth_is_one_line(build):
    with pytest.raises(UserError, match=r"^--depth 20: there are 14, 26, 50, 101, 152$"):
        build(20)


def test_scaling_is_in_the_network():
    model, x = step1.build_resnet(14, 0.05), noise(4)
    first = keras.Model(model.input, model.get_layer("scale").output)
    assert first.predict(x, verbose=0) == pytest.approx(x / 255, abs=1e-7)
    assert model.predict(x, verbose=0).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_my_eval_leaves_the_l2_term_out(capsys):
    model = step1.build_resnet(14, 0.05)
    model.compile(loss="categorical_crossentropy", metrics=["accuracy"])
    x, t = noise(300), np.eye(10)[np.arange(300) % 10]
    loss, accuracy = step1.my_eval(model, x, t)
    assert f"loss: {loss:.4f}\nacc: {accuracy:.4f}\n" in capsys.readouterr().out
    with_l2, same = model.evaluate(x, t, verbose=0)
    assert accuracy == pytest.approx(same)
    assert with_l2 - loss == pytest.approx(sum(map(float, model.losses)), rel=1e-2)
    assert step1.my_eval(None, x, t, predict(model, x)) == (loss, accuracy)


# --- the recipes ----------------------------------------------------------------------------------


def recipe_of(data, *words, of=arguments.teacher):
    return step1.recipe_of(vars(of("", list(words))), len(data.train))


def test_recipes_fill_in_what_the_command_line_leaves_out(toy):
    data = load_data(str(toy))
    article, fast = recipe_of(data), recipe_of(data, "--recipe", "fast")
    assert (article.epochs, article.batch_size, article.learning_rate) == (300, 64, 1e-3)
    assert (fast.epochs, fast.batch_size, fast.learning_rate) == (30, 64, 3e-3)
    own = recipe_of(data, *"--epochs 7 --batch-size 8 --learning-rate 0.5".split())
    assert (own.epochs, own.batch_size, own.learning_rate) == (7, 8, 0.5)
    # There are 108 labelled images; a pseudo-label more or less does not matter.
    assert (article.steps_per_epoch, own.steps_per_epoch) == (1, 13)
    assert recipe_of(data, "--batch-size", "8", of=arguments.student).steps_per_epoch == 13
    assert recipe_of(data, "--steps-per-epoch", "5").steps_per_epoch == 5
    assert recipe_of(load_data(str(toy), 40)).steps_per_epoch == 1


def test_recipe_that_is_not_there(toy):
    with pytest.raises(UserError, match=r"^--recipe slow: there are article, fast, sprint$"):
        recipe_of(load_data(str(toy)), "--recipe", "slow")


def test_small_network_has_its_own_recipe_whose_rate_follows_the_batch(toy):
    data = load_data(str(toy))
    sprint = recipe_of(data, "--network", "small")
    assert (sprint.optimizer, sprint.batch_size, sprint.learning_rate) == ("sgd", 512, 0.75)
    assert recipe_of(data, *"--network small --batch-size 128".split()).learning_rate == 0.1875
    given = recipe_of(data, *"--network small --batch-size 128 --learning-rate 0.5".split())
    assert given.learning_rate == 0.5
    # Those of the other recipes do not.
    assert recipe_of(data, "--batch-size", "8").learning_rate == 1e-3
    assert recipe_of(data, *"--network small --recipe fast".split()).optimizer == "adamw"


def test_an_average_that_is_still_the_first_step_is_refused(toy):
    data = load_data(str(toy), 80)
    words = "--network small --epochs 8 --steps-per-epoch 44 --averaging".split()
    assert recipe_of(data, *words, "0.98").averaging == 0.98
    # 0.991 ** 352 is 0.04.
    assert recipe_of(data, *words, "0.991").averaging == 0.991
    with pytest.raises(UserError, match="after 352 steps, 70 % of .*; at most 0.991 here"):
        recipe_of(data, *words, "0.999")


def test_a_recipe_that_always_flips_is_not_for_step_1(toy, tmp_path, monkeypatch):
    always = replace(step1.RECIPES["fast"], flip_and_crop="always")
    monkeypatch.setitem(step1.RECIPES, "fast", always)
    with pytest.raises(UserError, match="^--recipe fast: flips and crops always"):
        train_teacher("--data", toy, "--num-labeled", 80, *TINY, "--log-dir", tmp_path / "t")


def test_precision_is_bfloat16_where_recipe_and_device_have_it(monkeypatch):
    assert backend.precision("auto", True) == "float32"
    monkeypatch.setattr(backend, "has_bfloat16", lambda: True)
    assert backend.precision("auto", True) == "bfloat16"
    # The article's recipe, whatever the hardware.
    assert backend.precision("auto", step1.RECIPES["article"].bfloat16) == "float32"
    assert backend.precision("float32", True) == "float32"


@pytest.mark.parametrize("field, line", [
    ("optimizer", "the recipe's optimizer is 'lion': there are adam, adamw, sgd"),
    ("schedule", "the recipe's schedule is 'lion': there are brakes, one_cycle, triangle")])
def test_recipe_that_names_what_is_not_there(field, line):
    recipe = replace(step1.RECIPES["article"], steps_per_epoch=1, **{field: "lion"})
    with pytest.raises(UserError, match=f"^{line}$"):
        step1.optimizer_and_schedule(step1.build_resnet(14, 0.03), recipe)


def test_hard_labels_are_smoothed_and_soft_ones_are_not():
    labels = np.float32([[0, 1, 0, 0], [0.7, 0.1, 0.1, 0.1]])
    smooth = step1.smooth_labels(labels, 0.2)
    assert smooth == pytest.approx(np.float32([[0.05, 0.85, 0.05, 0.05], [0.7, 0.1, 0.1, 0.1]]))
    assert (step1.smooth_labels(labels, 0) == labels).all()


def rate(optimizer):
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def test_fast_recipe_is_one_cycle_and_the_articles_is_constant(toy):
    model, data = step1.build_resnet(14, 0.03), load_data(str(toy))
    recipe = recipe_of(data, *"--recipe fast --epochs 10 --steps-per-epoch 10".split())
    optimizer, schedule = step1.optimizer_and_schedule(model, recipe)
    assert isinstance(optimizer, keras.optimizers.AdamW) and optimizer.weight_decay == 0.02
    assert schedule is None and model.get_layer("stem_bn").momentum == 0.9
    rates = []
    for step in (0, 5, 10, 55, 100):
        optimizer.iterations.assign(step)
        rates.append(rate(optimizer))
    assert rates == pytest.approx([0, 0.0015, 0.003, 0.0015, 0], abs=1e-7)
    optimizer, schedule = step1.optimizer_and_schedule(model, recipe_of(data))
    assert type(optimizer) is keras.optimizers.Adam and rate(optimizer) == pytest.approx(1e-3)
    assert model.get_layer("stem_bn").momentum == 0.99
    assert schedule([{"val_loss": 1.0}] * 250) == (1e-3, False)


def test_sprint_is_a_triangle_and_leaves_biases_undecayed():
    model = small_network.build_small(1 / 32)
    recipe = replace(step1.RECIPES["sprint"], epochs=10, steps_per_epoch=10)
    optimizer, schedule = step1.optimizer_and_schedule(model, recipe)
    assert schedule is None and model.get_layer("group1_bn1").momentum == 0.9
    assert (optimizer.momentum, optimizer.nesterov) == (0.85, True)
    rates = []
    for step in (0, 23, 100):
        optimizer.iterations.assign(step)
        rates.append(rate(optimizer))
    assert rates == pytest.approx([0.2 * 0.75, 0.75, 0.07 * 0.75])
    # Without a gradient, a weight shrinks by rate times decay, and a bias stays.
    bias = model.get_layer("group1_bn1").beta
    bias.assign(np.ones(2))
    optimizer.iterations.assign(23)
    kernel = model.get_layer("classifier").kernel
    before = keras.ops.convert_to_numpy(kernel)
    optimizer.apply([keras.ops.zeros_like(v) for v in model.trainable_variables],
                    model.trainable_variables)
    assert keras.ops.convert_to_numpy(kernel) == pytest.approx(before * (1 - 0.75 * 0.0102))
    assert keras.ops.convert_to_numpy(bias) == pytest.approx(np.ones(2), abs=0)


# --- the training ---------------------------------------------------------------------------------


def test_what_a_run_leaves_behind(teacher, toy):
    assert {path.name for path in teacher.iterdir()} - {".lock"} == {
        "model.keras", "best.keras", "history.csv", "predictions.npz", "run.json"}
    run, data = runs.finished(teacher, ""), load_data(str(toy), 80)
    assert (run.script, run.results["steps"], run.taught_by) == ("cifar10_resnet50.py", 6, None)
    assert run.results["images"] == 72
    assert run.arguments["batch_size"] == 16 and run.arguments["learning_rate"] == 3e-3
    assert run.made_from == data.lineage() and run.results["class_names"] == data.class_names
    history = read_history(teacher / "history.csv")
    assert set(history[0]) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy",
                               "learning_rate"}
    assert [row["epoch"] for row in history] == [1, 2]
    assert [row["learning_rate"] for row in history] == pytest.approx([0.003, 0.0015])
    model = run.model()
    for name, (x, t) in (("test", (data.x_test, data.one_hot(data.y_test))),
                         ("validation", data.validation())):
        probabilities, y = run.predictions(name)
        said = predict(model, x)
        assert probabilities == pytest.approx(said, abs=1e-6)
        assert (probabilities.argmax(1) == said.argmax(1)).all() and (y == t.argmax(1)).all()
        if name == "test":
            assert (run.results["test_loss"], run.results["test_accuracy"]) == score(said, t)
    best = runs.load_network(teacher / "best.keras")
    x, t = data.validation()
    val_loss = score(predict(best, x), t)[0] + sum(map(float, best.losses))
    assert val_loss == pytest.approx(min(row["val_loss"] for row in history), abs=1e-4)


def test_finished_run_is_not_trained_again_and_another_is_refused(teacher, toy, capsys,
                                                                  monkeypatch):
    before = (teacher / "model.keras").stat().st_mtime_ns
    words = ["--data", toy, "--num-labeled", 80, *TINY, "--log-dir", teacher]
    train_teacher(*words)
    assert "is finished: test accuracy 0." in capsys.readouterr().out
    assert (teacher / "model.keras").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="seed 0 there, 1 here"):
        train_teacher(*words, "--seed", 1)
    with monkeypatch.context() as patch:
        # Another file defines the network.
        patch.setattr(step1, "build_resnet", build_student)
        with pytest.raises(UserError, match="the code of the network has changed since"):
            train_teacher(*words)


@pytest.mark.parametrize("validation", ["split", "test"])
def test_nothing_but_the_labelled_images_trains_or_chooses(validation, toy, tmp_path, monkeypatch):
    seen = {}

    def pixels(images):
        return {image.tobytes() for image in images}

    def train(model, batches, held_out, run, *_):
        endless = batches(0)
        seen["train"] = set().union(*(pixels(next(endless)[0]) for _ in range(12)))
        seen["validation"] = pixels(held_out[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(step1, "train", train)
    with pytest.raises(KeyboardInterrupt):
        train_teacher("--data", toy, "--num-labeled", 80, "--validation", validation, *TINY,
                      "--log-dir", tmp_path)
    data = load_data(str(toy), 80, validation)
    assert seen["train"] == pixels(data.x[data.train])
    assert len(seen["train"]) == (72 if validation == "split" else 80)
    assert seen["validation"] == pixels(data.x[data.val] if validation == "split" else data.x_test)
    others = pixels(data.x_test) | pixels(data.x[data.rest]) | pixels(data.x[data.val])
    assert not seen["train"] & others


def test_bfloat16_run_reads_like_any_other(toy, tmp_path, monkeypatch):
    # A network of one block: a new depth is a new line in BLOCKS.
    monkeypatch.setitem(step1.BLOCKS, 5, (1, 0, 0, 0))
    train_teacher("--data", toy, *TINY, "--depth", 5, "--precision", "bfloat16",
                  "--log-dir", tmp_path)
    # As before.
    assert keras.config.dtype_policy().name == "float32"
    run, data = runs.finished(tmp_path, ""), load_data(str(toy))
    assert run.arguments["precision"] == "bfloat16"
    convolution = run.model().get_layer("stage1_block1_conv2")
    assert convolution.compute_dtype == "bfloat16" and convolution.kernel.dtype == "float32"
    said = predict(run.model(), data.x_test)
    assert said.dtype == np.float32 and said.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert run.predictions("test")[0] == pytest.approx(said, abs=1e-6)
    assert run.results["test_accuracy"] == score(said, data.one_hot(data.y_test))[1]


def test_all_devices_are_a_training_like_any_other(teacher, toy, tmp_path, capsys):
    train_teacher("--data", toy, "--num-labeled", 80, *TINY, "--devices", "all",
                  "--log-dir", tmp_path)
    assert "1 devices, 16 images of each batch on each" in capsys.readouterr().out
    run, alone = runs.finished(tmp_path, ""), runs.finished(teacher, "")
    assert run.arguments["devices"] == "all"
    assert run.predictions("test")[0] == pytest.approx(alone.predictions("test")[0], abs=5e-3)
