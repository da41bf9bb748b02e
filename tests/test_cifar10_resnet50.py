"""The data, the network and the training: what the article meant, and what a kill must not change."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import cifar10_resnet50 as step1

import keras
import numpy as np
import pytest
from conftest import ROOT, TINY
from PIL import Image


# --- the data ---


def test_split_keeps_the_classes_apart_and_even():
    y = np.repeat(np.arange(10), 500)[np.random.default_rng(1).permutation(5000)]
    train, val, rest = step1.split_labels(y, 400, seed=3)
    assert (len(train), len(val), len(rest)) == (360, 40, 4600)
    assert sorted([*train, *val, *rest]) == list(range(5000))  # every image in exactly one
    for index, each in ((train, 36), (val, 4), (rest, 460)):
        assert (np.bincount(y[index]) == each).all()
    assert (step1.split_labels(y, 400, seed=3)[0] == train).all() and (step1.split_labels(y, 400, seed=4)[0] != train).any()


def test_split_keeps_uneven_classes_uneven():
    y = np.array([0] * 900 + [1] * 100)
    train, val, _ = step1.split_labels(y, 500)
    assert np.bincount(y[train]).tolist() == [405, 45] and np.bincount(y[val]).tolist() == [45, 5]


def test_split_holds_out_a_tenth_but_five_thousand_at_most():
    y = np.arange(60_000) % 10
    assert [len(part) for part in step1.split_labels(y)] == [55_000, 5000, 0]
    assert [len(part) for part in step1.split_labels(y, validation="test")] == [60_000, 0, 0]


@pytest.mark.parametrize("num_labeled, text", [(101, "100 training images"), (9, "too few"), (5, "too few"), (10, "no image to train on")])
def test_split_refuses(num_labeled, text):
    with pytest.raises(step1.UserError, match=text):
        step1.split_labels(np.arange(100) % 10, num_labeled)


def test_load_folder(toy):
    data = step1.load_data(str(toy), num_labeled=60)
    assert data.x.shape == (120, 32, 32, 3) and data.x.dtype == np.uint8 and len(data.y_test) == 40
    assert data.class_names == sorted(data.class_names) and len(data.rest) == 60
    assert (data.x[13] == np.array(Image.open(toy / data.names[13]))).all()
    assert data.names[13].split("/")[1] == data.class_names[data.y[13]]
    assert data.lineage() == step1.load_data(str(toy), num_labeled=60).lineage()
    assert data.lineage()["split_sha256"] != step1.load_data(str(toy), num_labeled=60, seed=1).lineage()["split_sha256"]


@pytest.fixture
def small_set(tmp_path):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(10):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


def test_unreadable_training_image_is_named_and_left_out(small_set, capsys):
    (small_set / "train" / "a" / "3.png").write_bytes(b"")
    (small_set / "train" / "b" / "notes.txt").write_text("hello")
    data = step1.load_data(str(small_set))
    out = capsys.readouterr().out
    assert len(data.x) == 19 and np.bincount(data.y).tolist() == [9, 10]
    assert "2 files" in out and "3.png': empty file" in out and "notes.txt': not an image" in out


@pytest.mark.parametrize("spoil, text", [
    (lambda folder: (folder / "test").rename(folder / "tests"), "no folder test/"),
    (lambda folder: (folder / "test" / "a").rename(folder / "test" / "c"), "the same in both"),
    (lambda folder: [path.write_bytes(b"x") for path in (folder / "test" / "b").iterdir()], "no readable image of b"),
])
def test_folder_that_is_no_data_set(small_set, spoil, text):
    spoil(small_set)
    with pytest.raises(step1.UserError, match=text):
        step1.load_data(str(small_set))


def test_missing_folder_and_missing_network(tmp_path, monkeypatch):
    with pytest.raises(step1.UserError, match="no such folder.*make_toy"):
        step1.load_data(str(tmp_path / "nowhere"))

    def offline():
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", offline)
    with pytest.raises(step1.UserError, match="cannot be downloaded.*--data FOLDER"):
        step1.load_data("cifar10")


def test_read_image_modes_sizes_and_turns(tmp_path):
    picture = Image.linear_gradient("L").resize((48, 48))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16"):
        suffix = "tif" if mode in ("CMYK", "I", "F") else "png"
        image = picture.convert("L").convert(mode) if mode != "I;16" else Image.fromarray(np.asarray(picture, np.uint16) * 257)
        image.save(tmp_path / f"a.{suffix}")
        array = step1.read_image(tmp_path / f"a.{suffix}")
        assert array.shape == (32, 32, 3) and array.dtype == np.uint8, mode
        assert abs(float(array.mean()) - 127) < 4, mode
        assert array[-1].mean() - array[0].mean() > 200, mode
    exact = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(exact).save(tmp_path / "b.png")
    assert (step1.read_image(tmp_path / "b.png") == exact).all()  # the right size is not resampled
    turned = Image.fromarray(np.rot90(exact))
    exif = Image.Exif()
    exif[step1.ORIENTATION] = 6  # turn by 90 degrees clockwise to see it upright
    turned.save(tmp_path / "c.png", exif=exif)
    assert (step1.read_image(tmp_path / "c.png") == exact).all()
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(tmp_path / "d.png")
    assert (step1.read_image(tmp_path / "d.png") == 255).all()  # transparent black is seen as white


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    assert abs(step1.read_image(tmp_path / "stripes.png").astype(int) - 127).max() < 12  # not black or white


def test_unreadable_images_say_why(tmp_path, monkeypatch):
    import os

    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a picture")
    os.mkfifo(tmp_path / "pipe.jpg")
    os.symlink(tmp_path / "gone", tmp_path / "link.jpg")
    Image.new("1", (700, 700)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400_000)
    for name, text in (("cut", "(?i)truncated"), ("empty", "empty file"), ("text", "not an image"), ("pipe", "not a regular file"),
                       ("link", "No such file"), ("bomb", "700x700 pixels")):
        with pytest.raises(step1.UserError, match=text):
            step1.read_image(next(tmp_path.glob(f"{name}.*")) if name != "link" else tmp_path / "link.jpg")


# --- the network ---


def test_the_articles_network():
    model = step1.build_resnet()
    assert model.count_params() == 23_590_794
    shapes = [model.get_layer(f"stage{s}_block{b}_relu3").output.shape[1:] for s, b in ((1, 3), (2, 4), (3, 6), (4, 3))]
    assert shapes == [(32, 32, 256), (16, 16, 512), (16, 16, 1024), (8, 8, 2048)]
    assert model.get_layer("scale").count_params() == 0
    assert model.get_layer("stage2_block1_conv3").strides == (2, 2) and model.get_layer("stage2_block1_conv2").strides == (1, 1)
    assert sum(layer.name.endswith("shortcut_conv") for layer in model.layers) == 4


def test_other_depths_and_widths():
    for depth, blocks in step1.BLOCKS_PER_STAGE.items():
        model = step1.build_resnet(depth, 0.05)
        convolutions = sum("_conv" in layer.name and "shortcut" not in layer.name for layer in model.layers)
        assert convolutions + 1 == depth == 3 * sum(blocks) + 2
    assert step1.build_resnet(14, 0.5).get_layer("stage3_block1_conv1").filters == 128


def test_scaling_is_in_the_network():
    model = step1.build_resnet(14, 0.05)
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    first = keras.Model(model.input, model.get_layer("scale").output)
    assert first.predict(x, verbose=0) == pytest.approx(x / 255, abs=1e-7)
    assert model.predict(x, verbose=0).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_score_is_plain_cross_entropy():
    p, t = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), np.array([[1, 0, 0], [0, 1, 0]])
    loss, accuracy = step1.score(p, t)
    assert loss == pytest.approx((np.log(2) + np.log(10)) / 2) and accuracy == 0.5
    assert np.isfinite(step1.score(np.array([[0.0, 1.0]]), np.array([[1, 0]]))[0])


def test_my_eval_leaves_the_l2_term_out(capsys):
    model = step1.build_resnet(14, 0.05)
    model.compile(loss="categorical_crossentropy", metrics=["accuracy"])
    x, t = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8), np.eye(10)[np.arange(300) % 10]
    loss, accuracy = step1.my_eval(model, x, t)
    with_l2 = model.evaluate(x, t, verbose=0)
    assert accuracy == pytest.approx(with_l2[1]) and with_l2[0] - loss == pytest.approx(sum(map(float, model.losses)), rel=1e-2)
    assert f"loss: {loss:.4f}\nacc: {accuracy:.4f}\n" in capsys.readouterr().out


# --- the training ---


def test_what_a_run_leaves_behind(teacher, toy):
    record = step1.read_json(teacher / "run.json")
    assert record["finished"] and record["steps"] == 6
    assert record["cell"] == {"noise": "none", "pseudo": None, "labelling": None, "depth": 14, "width": 0.03}
    assert record["arguments"]["batch_size"] == 16 and record["made_from"] == step1.load_data(str(toy), 80).lineage()
    history = step1.read_history(teacher / "history.csv")
    assert [row["epoch"] for row in history] == [1, 2]
    assert set(history[0]) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"}
    split = np.load(teacher / "split.npz", allow_pickle=False)
    assert [len(split[key]) for key in ("train", "val", "rest")] == [72, 8, 40]
    assert (teacher / "best.keras").exists() and not list(teacher.rglob(".unfinished*"))
    data = step1.load_data(str(toy), 80)
    model, _ = step1.load_model(teacher)
    assert step1.score(model.predict(data.x_test, verbose=0), data.one_hot(data.y_test))[1] == record["test_accuracy"]
    predictions = np.load(teacher / "predictions.npz", allow_pickle=False)  # of these very networks and images
    assert predictions["test"] == pytest.approx(model.predict(data.x_test, verbose=0), abs=1e-6)
    assert predictions["validation"] == pytest.approx(model.predict(data.x[data.val], verbose=0), abs=1e-6)


def test_finished_run_is_not_trained_again_and_another_is_refused(teacher, toy, capsys):
    before = (teacher / "model.keras").stat().st_mtime_ns
    arguments = ["--data", str(toy), "--num-labeled", "80", "--recipe", "fast", "--epochs", "2", *TINY, "--log-dir", str(teacher)]
    step1.main(arguments)
    assert "is finished" in capsys.readouterr().out and (teacher / "model.keras").stat().st_mtime_ns == before
    with pytest.raises(step1.UserError, match="seed 0 there, 1 here"):
        step1.main([*arguments, "--seed", "1"])


def test_killed_run_ends_as_if_it_had_never_been_killed(toy, tmp_path):
    # The article's recipe: the brakes of its second phase have counters that a resumed run must win back.
    arguments = ["--data", str(toy), "--num-labeled", "40", "--epochs", "6", *TINY, "--learning-rate", "0.02", "--log-dir"]
    original = step1.CONSTANT_SHARE
    step1.CONSTANT_SHARE = 1 / 6  # five epochs under ReduceLROnPlateau and EarlyStopping
    try:
        step1.main([*arguments, str(tmp_path / "whole")])
        code = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import cifar10_resnet50 as s; s.CONSTANT_SHARE = 1 / 6; "
                f"s.main({[*arguments, str(tmp_path / 'killed')]!r})")
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        state, deadline = tmp_path / "killed" / "backup" / "state.json", time.monotonic() + 240
        while child.poll() is None and time.monotonic() < deadline:
            if state.exists() and json.loads(state.read_text())["epoch"] >= 3:
                break
            time.sleep(0.002)
        assert child.poll() is None, "the run ended before it could be killed"
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not (tmp_path / "killed" / "model.keras").exists()
        (tmp_path / "killed" / "history.csv").open("a").write("5,1,1,1,1,1\n")  # written, but its backup was not
        step1.main([*arguments, str(tmp_path / "killed")])
    finally:
        step1.CONSTANT_SHARE = original
    assert (tmp_path / "whole" / "history.csv").read_text() == (tmp_path / "killed" / "history.csv").read_text()
    whole, killed = (step1.load_model(tmp_path / name)[0].get_weights() for name in ("whole", "killed"))
    assert all((a == b).all() for a, b in zip(whole, killed))


def test_counters_of_the_brakes_are_won_back():
    losses = [1.0, 0.9, 0.95, 0.96, 0.97, 0.98, 0.99, 1.1, 1.2]

    def run(resume_after):
        model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.1), "mse")
        brakes = [keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.1, patience=3),
                  keras.callbacks.EarlyStopping(monitor="val_loss", patience=6)]
        recorder = step1.Recorder("unused", 0)
        seen = []
        for part in (losses[:resume_after], losses[resume_after:]):
            recorder.history = [{"epoch": i + 1, "val_loss": loss} for i, loss in enumerate(seen)]
            recorder.begin_phase(0, brakes, 0.1)
            for callback in (*brakes, recorder):
                callback.set_model(model)
                callback.on_train_begin()
            for loss in part:
                for callback in brakes:
                    callback.on_epoch_end(len(seen), {"val_loss": loss})
                seen.append(loss)
                if model.stop_training:
                    return len(seen), float(model.optimizer.learning_rate.numpy())
        return None

    whole = run(0)
    assert whole == (8, pytest.approx(0.001))
    assert all(run(k) == whole for k in range(1, 8))


def test_loss_that_is_no_number_stops_and_keeps_the_last_good_state(toy, tmp_path):
    log_dir = tmp_path / "nan"
    with pytest.raises(step1.UserError, match=r"the loss is nan.*lower --learning-rate"):
        step1.main(["--data", str(toy), "--epochs", "6", *TINY, "--learning-rate", "1e30", "--log-dir", str(log_dir)])
    history = step1.read_history(log_dir / "history.csv") if (log_dir / "history.csv").exists() else []
    assert all(np.isfinite(row["loss"]) for row in history) and not (log_dir / "model.keras").exists()


def test_early_stopping_of_the_article_and_without(monkeypatch):
    """Both phases of the article's recipe: how many epochs, and which callbacks in which."""
    calls = []

    class Model:
        layers, stop_training = [], False

        def compile(self, optimizer, **_):
            calls.append(type(optimizer).__name__)

        def fit(self, _, initial_epoch, epochs, callbacks, **__):
            calls.append((initial_epoch, epochs, [type(callback).__name__ for callback in callbacks]))
            callbacks[-1].epoch = epochs

        def save(self, path, **_):
            pathlib.Path(path).write_bytes(b"")

    settings = dict(recipe="article", batch_size=64, epochs=300, steps_per_epoch=10, learning_rate=1e-3, seed=0)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        images, labels = np.zeros((64, 32, 32, 3), np.uint8), np.eye(10, dtype=np.float32)[[0] * 64]
        for patience in (10, 0):
            step1.train(Model(), lambda first: iter([(images, labels)]), (images, labels), folder, early_stopping=patience, **settings)
    assert calls[:3] == ["Adam", (0, 250, ["Recorder"]), (250, 300, ["ReduceLROnPlateau", "EarlyStopping", "Recorder"])]
    assert calls[5] == (250, 300, ["ReduceLROnPlateau", "Recorder"])


# --- files and mistakes ---


def test_file_is_whole_or_absent(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with step1.whole_file(target) as path:
        path.write_text("one")
    with pytest.raises(OSError, match="No space left"):
        with step1.whole_file(target) as path:
            path.write_text("half")
            raise OSError(28, "No space left on device")
    assert target.read_text() == "one" and [p.name for p in target.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error, text, status", [
    (step1.UserError("give a folder"), "error: give a folder", 1),
    (OSError(28, "No space left on device", "logs/x"), "error: logs/x: No space left on device", 1),
    (KeyboardInterrupt(), "the same command goes on", 130),
])
def test_a_users_mistake_is_one_line(error, text, status, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as exit:
        step1.run_script(main)
    said = exit.value.code if isinstance(exit.value.code, str) else capsys.readouterr().err.strip()
    assert text in said and "\n" not in said
    assert status == (1 if isinstance(exit.value.code, str) else exit.value.code)


def test_a_bug_keeps_its_traceback():
    def main():
        raise KeyError("bug")

    with pytest.raises(KeyError):
        step1.run_script(main)


@pytest.mark.parametrize("validation", ["split", "test"])
def test_nothing_but_the_labelled_images_trains_or_chooses(validation, toy, tmp_path, monkeypatch):
    seen = {}

    def train(model, batches, held_out, log_dir, **_):
        endless = batches(0)
        seen.update(train={x.tobytes() for _ in range(12) for x in next(endless)[0]}, val={x.tobytes() for x in held_out[0]})
        raise KeyboardInterrupt

    monkeypatch.setattr(step1, "train", train)
    with pytest.raises(KeyboardInterrupt):
        step1.main(["--data", str(toy), "--num-labeled", "80", "--validation", validation, *TINY, "--log-dir", str(tmp_path)])
    data = step1.load_data(str(toy), 80, validation)
    assert seen["train"] == {x.tobytes() for x in data.x[data.train]} and len(seen["train"]) == (72 if validation == "split" else 80)
    assert seen["val"] == {x.tobytes() for x in (data.x[data.val] if validation == "split" else data.x_test)}
    others = {x.tobytes() for x in data.x_test} | {x.tobytes() for x in data.x[data.rest]} | {x.tobytes() for x in data.x[data.val]}
    assert not seen["train"] & others


@pytest.mark.parametrize("flags", ["--width 0", "--width nan", "--depth 20", "--epochs 0", "--num-labeled -1", "--batch-size x",
                                   "--learning-rate 0", "--seed -1", "--seed 4294967296", "--recipe slow", "--early-stopping -1"])
def test_flags_out_of_range(flags, capsys):
    with pytest.raises(SystemExit) as exit:
        step1.main(flags.split())
    assert exit.value.code == 2 and flags.split()[0] in capsys.readouterr().err.splitlines()[-1]


def test_missing_damaged_or_changed_earlier_step(teacher, tmp_path):
    import shutil

    with pytest.raises(step1.UserError, match="Run first: python cifar10_resnet50.py"):
        step1.load_model(tmp_path / "nowhere")
    shutil.copytree(teacher, tmp_path / "t")
    (tmp_path / "t" / "model.keras").write_bytes(b"something else")
    with pytest.raises(step1.UserError, match="not the file that its run wrote"):
        step1.load_model(tmp_path / "t")
    record = step1.read_json(tmp_path / "t" / "run.json")
    step1.write_json(tmp_path / "t" / "run.json", {**record, "model_sha256": step1.sha256(b"something else")})
    with pytest.raises(step1.UserError, match="cannot be loaded"):
        step1.load_model(tmp_path / "t")
    step1.write_json(tmp_path / "t" / "run.json", {**record, "finished": False})
    with pytest.raises(step1.UserError, match="not finished"):
        step1.load_model(tmp_path / "t")
    with pytest.raises(step1.UserError, match="holds another run"):
        step1.open_run(tmp_path / "t", "imagenet_dummy_label.py", {}, {}, resumable=False)  # an unfinished training stays
    (tmp_path / "t" / "run.json").write_text("[]")
    with pytest.raises(step1.UserError, match="damaged, or of another program"):
        step1.load_model(tmp_path / "t")
    (tmp_path / "t" / "run.json").write_text("{")
    with pytest.raises(step1.UserError, match="not JSON"):
        step1.load_model(tmp_path / "t")


# --- many files, and batches made ahead ---


def test_many_files_are_read_in_order_whatever_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(step1, "CHUNK", 3)
    rng, paths = np.random.default_rng(0), []
    for i in range(23):
        paths.append(tmp_path / f"{i:02d}.png")
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(paths[-1])
    expected = {path: np.array(Image.open(path)) for path in paths}
    for i in (0, 7, 22):
        paths[i].write_bytes(b"not this one")
    images, unreadable = step1.read_images(paths)
    assert unreadable == [(paths[i], "not an image") for i in (0, 7, 22)]
    assert (images == [expected[path] for i, path in enumerate(paths) if i not in (0, 7, 22)]).all()


def test_large_jpeg_at_reduced_scale_looks_the_same(tmp_path, photos, monkeypatch):
    for i, size in enumerate(((500, 375), (333, 1000), (1600, 1200), (160, 160))):
        image = Image.fromarray(photos[i]).resize(size, Image.Resampling.BICUBIC)
        texture = np.random.default_rng(i).normal(0, 8, (size[1], size[0], 3))
        image = Image.fromarray(np.clip(np.asarray(image) + texture, 0, 255).astype(np.uint8))
        exif = Image.Exif()
        exif[step1.ORIENTATION] = 6  # and turned
        image.save(tmp_path / "photo.jpg", quality=90, exif=exif)
        sizes, to_rgb = [], step1.to_rgb
        monkeypatch.setattr(step1, "to_rgb", lambda image: sizes.append(image.size) or to_rgb(image))
        reduced = step1.read_image(tmp_path / "photo.jpg").astype(int)
        monkeypatch.setattr(step1, "JPEG_DETAIL", 1000)
        whole = step1.read_image(tmp_path / "photo.jpg").astype(int)
        monkeypatch.undo()
        assert sizes[1] == size[::-1] and min(sizes[0]) >= 4 * 32 and (size == (160, 160) or sizes[0][0] <= sizes[1][0] / 2 + 1)
        assert np.abs(reduced - whole).mean() < 1 and np.abs(reduced - whole).max() < 16


def test_made_ahead_gives_the_same_items_and_their_error():
    def numbers():
        yield from range(100)
        raise ValueError("at the end")

    seen = []
    with pytest.raises(ValueError, match="at the end"):
        for number in step1.made_ahead(numbers()):
            seen.append(number)
    assert seen == list(range(100)) and list(step1.made_ahead(iter([1, 2]))) == [1, 2]


def test_made_ahead_is_ahead_but_not_by_more_than_asked_for():
    made = []
    ahead = step1.made_ahead((made.append(i) or i for i in range(100)), ahead=3)
    assert next(ahead) == 0
    while len(made) < 4:
        time.sleep(0.001)
    time.sleep(0.02)
    assert made == [0, 1, 2, 3]  # the one in use and three more
    ahead.close()


@pytest.mark.parametrize("count", [1, 5, 6, 20])
def test_every_image_is_predicted_and_validated_on_once(count, monkeypatch):
    monkeypatch.setattr(step1, "BATCH", 6)
    model = step1.build_resnet(14, 0.03)
    model.compile(loss="categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(0)
    x, t = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), rng.dirichlet(np.ones(10), count).astype(np.float32)
    one_by_one = np.concatenate([model(x[i:i + 1]) for i in range(count)])
    assert step1.predict(model, x) == pytest.approx(one_by_one, abs=1e-6) and len(np.unique(one_by_one, axis=0)) == count
    for _ in range(2):  # a second epoch validates on all of them again
        loss, accuracy = model.evaluate(step1.in_batches(x, t), verbose=0) if keras.backend.backend() == "tensorflow" else (
            model.evaluate(x, t, batch_size=6, verbose=0))
        assert loss - float(sum(model.losses)) == pytest.approx(step1.score(one_by_one, t)[0], abs=1e-4)
        assert accuracy == pytest.approx(step1.score(one_by_one, t)[1], abs=1e-6)


def test_training_is_fed_each_batch_once_from_the_first_on():
    x, t = np.arange(12, dtype=np.float32)[:, None], np.ones((12, 1), np.float32)

    class Sum(keras.layers.Layer):
        def build(self, shape):
            self.total = self.add_weight(shape=(), initializer="zeros")

        def call(self, x):
            self.total.assign(10 * self.total + keras.ops.sum(x))
            return x + 0 * self.total

    model = keras.Sequential([keras.layers.Input((1,)), Sum(trainable=False)])
    model.compile("sgd", "mse", run_eagerly=True)
    model.layers[0].total.assign(0)
    fed = step1.feed(lambda: ((x[i:i + 1], t[i:i + 1]) for i in range(1, 9)), 1)
    seen = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: totals.append(float(model.layers[0].total)))
    totals = []
    model.fit(fed, steps_per_epoch=3, epochs=2, shuffle=False, verbose=0, callbacks=[seen])
    assert totals == [123, 123456]


# --- precision and devices ---


def test_bfloat16_trains_and_its_network_reads_like_any_other(toy, tmp_path):
    step1.main(["--data", str(toy), "--recipe", "fast", "--epochs", "2", "--precision", "bfloat16", *TINY, "--log-dir", str(tmp_path / "t")])
    assert keras.config.dtype_policy().name == "float32"  # as before
    model, record = step1.load_model(tmp_path / "t")
    assert record["arguments"]["precision"] == "bfloat16"
    convolution = model.get_layer("stage1_block1_conv2")
    assert convolution.compute_dtype == "bfloat16" and convolution.kernel.dtype == "float32"
    probabilities = step1.predict(model, step1.load_data(str(toy)).x_test)
    assert probabilities.dtype == np.float32 and probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert (np.load(tmp_path / "t" / "predictions.npz")["test"] == probabilities).all()


ON_TWO_DEVICES = """
import sys
sys.path.insert(0, {root!r})
import cifar10_resnet50 as step1
import keras
import numpy as np

class NoNorm(keras.layers.Identity):  # batch normalization's statistics differ from engine to engine
    pass

keras.layers.BatchNormalization = NoNorm
if keras.backend.backend() == "tensorflow":
    import tensorflow
    tensorflow.config.set_logical_device_configuration(
        tensorflow.config.list_physical_devices("CPU")[0], [tensorflow.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
x, t = rng.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8), np.eye(10, dtype=np.float32)[rng.integers(0, 10, 64)]
losses, weights = [], []
for devices in ("one", "all"):
    step1.prepare_backend(0)
    with step1.on_hardware("float32", devices, 16):
        model = step1.build_resnet(14, 0.0625)
        step1.compile_model(model, step1.RECIPES["fast"], 1e-3, 12)
        def batches():
            return ((images, labels) for _, images, labels in step1.shuffled_batches(x, t, 16))

        fit = model.fit(step1.feed(batches, 16), steps_per_epoch=4, epochs=3, shuffle=False, validation_data=step1.in_batches(x[:40], t[:40]),
                        verbose=0)
        assert np.allclose(step1.predict(model, x[:40]), model(x[:40]), atol=1e-6)
        losses.append([*fit.history["loss"], *fit.history["val_loss"]])
        weights.append(np.concatenate([np.ravel(w) for w in model.get_weights()]))
assert len(set(losses[0])) == 6 and np.abs(np.subtract(*losses)).max() < 1e-4, losses
assert np.abs(weights[0] - weights[1]).max() < 1e-3
with step1.on_hardware("float32", "one", 16):
    pass
try:
    with step1.on_hardware("float32", "all", 17):
        pass
except step1.UserError as error:
    print(error)
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_share_a_batch_and_learn_the_same(backend):
    pytest.importorskip(backend)
    environment = os.environ | {"KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run([sys.executable, "-c", ON_TWO_DEVICES.format(root=str(ROOT))], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "2 devices, 8 images of each batch on each" in result.stdout
    assert "2 devices cannot share a batch of 17 equally" in result.stdout


TWO_PROCESSES = """
import sys
sys.path.insert(0, {root!r})
import cifar10_resnet50 as step1
import keras
import numpy as np

processes, process, port = map(int, sys.argv[1:])
if processes > 1:
    keras.distribution.initialize(f"localhost:{{port}}", processes, process)
step1.prepare_backend(0)
rng = np.random.default_rng(0)
x, t = rng.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8), np.eye(10, dtype=np.float32)[rng.integers(0, 10, 64)]
with step1.on_hardware("float32", "all", 16):
    model = step1.build_resnet(14, 0.0625)
    step1.compile_model(model, step1.RECIPES["fast"], 1e-3, 12)
    mine = slice(process * 16 // processes, (process + 1) * 16 // processes)  # of each batch
    batches = ((images[mine], labels[mine]) for _, images, labels in step1.shuffled_batches(x, t, 16))
    fit = model.fit(step1.made_ahead(batches), steps_per_epoch=4, epochs=3, shuffle=False, verbose=0)
print(*fit.history["loss"])
"""


def test_two_processes_share_a_batch_and_learn_the_same():
    pytest.importorskip("jax")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    def run(*numbers):
        return subprocess.Popen([sys.executable, "-c", TWO_PROCESSES.format(root=str(ROOT)), *map(str, numbers)], stdout=subprocess.PIPE,
                                text=True, env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"})

    alone, *two = run(1, 0, 0), run(2, 0, port), run(2, 1, port)
    losses = [[float(word) for word in process.communicate(timeout=300)[0].splitlines()[-1].split()] for process in (alone, *two)]
    assert len(set(losses[0])) == 3 and losses[1] == losses[2] and losses[1] == pytest.approx(losses[0], abs=1e-4)


def test_all_devices_is_a_training_like_any_other(toy, tmp_path):
    step1.main(["--data", str(toy), "--recipe", "fast", "--epochs", "1", "--devices", "all", *TINY, "--log-dir", str(tmp_path / "t")])
    model, record = step1.load_model(tmp_path / "t")
    assert record["arguments"]["devices"] == "all" and 0 <= record["test_accuracy"] <= 1
