"""Training: what a kill must not change, what is learnt from and validated on, and when it ends."""

import itertools
import os
import pathlib
import re
import types
import warnings

import keras
import numpy as np
import pytest

from cifar10_resnet50 import brakes, build_resnet
from noisy_student import backend, runs, training
from noisy_student.batches import shuffled
from noisy_student.files import UserError
from noisy_student.metrics import score

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype(np.float32)
T = np.eye(2, dtype=np.float32)[(X[:, 0] + 0.3 * RNG.normal(size=40) > 0).astype(int)]
HELD_OUT = X[:11], T[:11]


def tiny_network(kind=keras.Sequential, noise=0.3):
    """One layer and a dropout, whose random state must come back, too."""
    keras.utils.set_random_seed(0)
    return kind([keras.layers.Input((4,)), keras.layers.Dropout(noise, seed=1),
                 keras.layers.Dense(2, activation="softmax")])


def batches(first_batch):
    for _, rows in shuffled(np.arange(40), 8, 0, first_batch):
        yield X[rows], T[rows]


def train(folder, model=None, epochs=3, batches=batches, schedule=None, steps=3, averaging=0.0):
    """train() at work for seconds. Returns: the weights, and a row per epoch."""
    model = model or tiny_network()
    chosen = {"epochs": epochs, "steps_per_epoch": steps, "batch_size": 8, "seed": 0}
    run = runs.Run(str(folder), "script.py", chosen, {})
    optimizer = keras.optimizers.Adam(0.05, use_ema=averaging > 0, ema_momentum=averaging)
    history, _ = training.train(model, batches, HELD_OUT, run, optimizer, schedule)
    return model.get_weights(), history


def falling(history):
    """A schedule: the rate falls, and the third epoch never comes."""
    return 0.05 / (1 + len(history)), len(history) == 2


def test_what_a_training_says_writes_and_does_not_warn_of(tmp_path, capsys, monkeypatch):
    # The last batch of the validation images is smaller.
    monkeypatch.setattr(training, "BATCH", 4)
    model, rates = tiny_network(), [0.2, 0.1, 0.5]

    def misleading(first_batch):
        # The third epoch learns the opposite.
        for number, (x, t) in enumerate(batches(first_batch)):
            yield x, t if number < 6 else 1 - t

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, history = train(tmp_path, model, batches=misleading,
                           schedule=lambda past: ([*rates, 0][len(past)], False))
    assert not [str(warning.message) for warning in caught if "ran out" in str(warning.message)]
    lines = capsys.readouterr().out.splitlines()
    for number, (line, row) in enumerate(zip(lines, history, strict=True), 1):
        said = (f"epoch {number} of 3: loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}, "
                f"val_loss {row['val_loss']:.4f}, val_accuracy {row['val_accuracy']:.4f}")
        left = {1: r"; 2 epochs, \d+ seconds? left", 2: r"; 1 epoch, \d+ seconds? left", 3: ""}
        assert re.fullmatch(re.escape(said) + left[number], line)
    assert {path.name for path in tmp_path.iterdir()} == {
        "history.csv", "best.keras", "model.keras", runs.BACKUP}
    assert training.read_history(tmp_path / "history.csv") == history
    assert [row["learning_rate"] for row in history] == pytest.approx(rates)
    x, t = HELD_OUT
    loss, accuracy = score(training.predict(model, x), t)
    assert history[-1]["val_loss"] == pytest.approx(loss, abs=1e-5)
    assert history[-1]["val_accuracy"] == pytest.approx(accuracy)
    best, lowest = runs.load_network(tmp_path / "best.keras"), history[1]["val_loss"]
    assert lowest < min(history[0]["val_loss"], history[2]["val_loss"]) - 0.01
    assert score(training.predict(best, x), t)[0] == pytest.approx(lowest, abs=1e-5)


@pytest.mark.parametrize("images, says", [(300 * 45_000, True), (64, False)])
def test_a_resnet50_on_a_cpu_says_its_hours_at_once(images, says, capsys):
    training.warn_of_hours(build_resnet(50), images)
    hours = re.search(r"about ([\d,]+) hours", capsys.readouterr().out)
    assert bool(hours) == says
    # The article's training: weeks on any CPU of this decade.
    assert not says or 10_000 > int(hours[1].replace(",", "")) > 20


def test_time_left_is_that_of_the_epochs_after_the_first(capsys, monkeypatch):
    clock = iter([0, 0, 1000, 1100, 1300])
    monkeypatch.setattr(training, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    keeper = training.Keeper(run=None, seed=0, epochs=40)
    keeper.on_train_begin()
    row = dict.fromkeys(["loss", "accuracy", "val_loss", "val_accuracy"], 1.0)
    with pytest.raises(StopIteration):
        for epoch in itertools.count(1):
            keeper.say({**row, "epoch": epoch})
    assert [line.split("; ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "39 epochs, 10.8 hours left", "38 epochs, 1.1 hours left", "37 epochs, 1.5 hours left"]
    assert [training.duration(s) for s in (1, 59, 60, 3599)] == ["1 second", "59 seconds",
                                                                "1.0 minutes", "60.0 minutes"]


def test_loss_that_is_no_number_stops_and_keeps_the_last_good_state(tmp_path):
    def spoilt(first_batch):
        for number, (x, t) in enumerate(batches(first_batch), first_batch):
            yield x * (np.nan if number == 4 else 1), t

    with pytest.raises(UserError, match=r"the loss is nan.*in epoch 2: stopped.*after epoch 1; "
                                        "try a lower --learning-rate"):
        train(tmp_path / "nan", batches=spoilt)
    history = training.read_history(tmp_path / "nan" / "history.csv")
    assert len(history) == 1 and np.isfinite(history[0]["loss"])
    assert not (tmp_path / "nan" / "model.keras").exists()
    # From there on with other batches, as if nothing had been.
    (good, _), (resumed, history) = train(tmp_path / "good"), train(tmp_path / "nan")
    assert len(history) == 3 and all((a == b).all() for a, b in zip(resumed, good))


@pytest.mark.parametrize("count", [1, 5, 6, 20])
def test_every_image_is_predicted_and_validated_on_once(count, monkeypatch):
    monkeypatch.setattr(training, "BATCH", 6)
    model = keras.Sequential([
        keras.layers.Input((32, 32, 3), dtype="uint8"), keras.layers.Rescaling(1 / 255),
        keras.layers.Flatten(), keras.layers.Dense(10, "softmax", kernel_regularizer="l2")])
    model.compile(loss="categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    t = rng.dirichlet(np.ones(10), count).astype(np.float32)
    one_by_one = np.concatenate([model(x[i:i + 1]) for i in range(count)])
    assert training.predict(model, x) == pytest.approx(one_by_one, abs=1e-6)
    assert len(np.unique(one_by_one, axis=0)) == count
    fed = backend.validation_feed(x, t, 6)
    # A second epoch validates on all of them again.
    for _ in range(2):
        loss, accuracy = (model.evaluate(*fed, batch_size=6, verbose=0) if type(fed) is tuple
                          else model.evaluate(fed, verbose=0))
        expected = score(one_by_one, t)
        assert loss - float(sum(model.losses)) == pytest.approx(expected[0], abs=1e-4)
        assert accuracy == pytest.approx(expected[1], abs=1e-6)


def test_training_is_fed_each_batch_once_from_the_first_on():
    x, t = np.arange(12, dtype=np.float32)[:, None], np.ones((12, 1), np.float32)

    class Digits(keras.layers.Layer):
        def build(self, shape):
            self.total = self.add_weight(shape=(), initializer="zeros")

        def call(self, x):
            self.total.assign(10 * self.total + keras.ops.sum(x))
            return x + 0 * self.total

    model = keras.Sequential([keras.layers.Input((1,)), Digits(trainable=False)])
    model.compile("sgd", "mse", run_eagerly=True)
    model.layers[0].total.assign(0)
    fed, totals = backend.feed(lambda: ((x[i:i + 1], t[i:i + 1]) for i in range(1, 9)), 1), []
    seen = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: totals.append(float(model.layers[0].total)))
    model.fit(fed, steps_per_epoch=3, epochs=2, shuffle=False, verbose=0, callbacks=[seen])
    assert totals == [123, 123456]


class Crash(BaseException):
    """What no code catches by accident."""


def crash_at(monkeypatch, number):
    """The number-th call that changes the disk's names or waits for the disk does not come back."""
    calls = []

    def counted(function):
        def call(*args, **kwargs):
            calls.append(function.__name__)
            if len(calls) == number:
                raise Crash
            return function(*args, **kwargs)
        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    monkeypatch.setattr(pathlib.Path, "unlink", counted(pathlib.Path.unlink))
    return calls


class ByHand(keras.Sequential):
    """Softmax regression under dropout, without the second that fit() takes to begin."""

    def fit(self, fed, epochs, initial_epoch, steps_per_epoch, callbacks, **_):
        keeper, = callbacks
        keeper.set_model(self)
        keeper.on_train_begin()
        for epoch in range(initial_epoch, epochs):
            keeper.on_epoch_begin(epoch)
            for x, t in itertools.islice(fed, steps_per_epoch):
                noisy = keras.ops.convert_to_numpy(self.layers[0](x, training=True))
                error = keras.ops.convert_to_numpy(self.layers[1](noisy)) - t
                gradients = noisy.T @ error, error.sum(axis=0)
                gradients = [keras.ops.convert_to_tensor(g) for g in gradients]
                self.optimizer.apply(gradients, self.trainable_variables)
            loss, accuracy = score(keras.ops.convert_to_numpy(self(HELD_OUT[0])), HELD_OUT[1])
            keeper.on_epoch_end(epoch, {"loss": 1.0, "accuracy": 0.5, "val_loss": loss,
                                        "val_accuracy": accuracy})
            if self.stop_training:
                return


@pytest.fixture
def by_hand(monkeypatch):
    monkeypatch.setattr(backend, "feed", lambda batches, _: batches())
    monkeypatch.setattr(backend, "validation_feed", lambda *_: None)


def test_crash_at_any_moment_of_saving_loses_one_epoch_at_most(by_hand, tmp_path):
    expected, history = train(tmp_path / "whole", tiny_network(ByHand), schedule=falling, steps=1,
                              averaging=0.5)
    assert [row["learning_rate"] for row in history] == pytest.approx([0.05, 0.025])
    last, _ = train(tmp_path / "last", tiny_network(ByHand), schedule=falling, steps=1)
    assert not np.array_equal(last[0], expected[0])
    quiet, _ = train(tmp_path / "quiet", tiny_network(ByHand, 0.0), schedule=falling, steps=1)
    assert not np.array_equal(quiet[0], expected[0])
    # How many epochs are finished, whenever the schedule is asked.
    asked = []

    def watched(history):
        asked.append(len(history))
        return falling(history)

    for number in itertools.count(1):
        folder = tmp_path / f"{number}"
        with pytest.MonkeyPatch.context() as patch:
            calls = crash_at(patch, number)
            try:
                train(folder, tiny_network(ByHand), schedule=watched, steps=1, averaging=0.5)
                break
            except Crash:
                pass
        crashed = asked[-1]
        asked.clear()
        weights, history = train(folder, tiny_network(ByHand), schedule=watched, steps=1,
                                 averaging=0.5)
        # Nothing is asked where all is done.
        assert min([*asked, 2]) >= crashed - 1
        assert all((a == b).all() for a, b in zip(weights, expected)) and len(history) == 2
        assert (folder / "best.keras").exists() and (folder / "model.keras").exists()
        texts = {(path / "history.csv").read_text() for path in (folder, tmp_path / "whole")}
        assert len(texts) == 1
    # There are no more moments; in two epochs, seven files appeared whole.
    assert number > 20 and {"fsync", "replace", "unlink"} <= set(calls)
    assert history[1]["val_loss"] < history[0]["val_loss"] and calls.count("replace") == 7


def test_damaged_backup_is_refused_or_says_the_same(by_hand, tmp_path):
    train(tmp_path, tiny_network(ByHand), epochs=1)
    path, model = tmp_path / runs.BACKUP, tiny_network()
    model.compile(keras.optimizers.Adam(0.05))

    def restored():
        keeper = training.Keeper(runs.Run(str(tmp_path), "", {}, {}), 0, 3)
        keeper.restore(model)
        state = [keras.ops.convert_to_numpy(v).tolist() for v in keeper.variables(model)]
        return keeper.history, keeper.seconds, keeper.stopped, state

    whole, expected, refused = path.read_bytes(), restored(), 0
    places = range(0, len(whole), 17)
    for at in places:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
        try:
            # A date, say.
            assert restored() == expected
        except UserError as error:
            assert str(error).startswith(f"{path}: damaged") and "\n" not in str(error)
            refused += 1
    assert refused > len(places) / 2
    path.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        train(tmp_path, tiny_network(ByHand))


def test_averaged_weights_are_validated_and_kept(tmp_path, monkeypatch):
    steps, backup = [], training.Keeper.backup

    def watched(keeper):
        steps.append(keeper.model.get_weights())
        backup(keeper)

    monkeypatch.setattr(training.Keeper, "backup", watched)
    weights, history = train(tmp_path, tiny_network(noise=0.0), epochs=4, steps=1, averaging=0.75)
    judge, average, losses = tiny_network(noise=0.0), steps[0], []
    for step in steps:
        average = [0.75 * a + 0.25 * b for a, b in zip(average, step)]
        judge.set_weights(average)
        losses.append(score(training.predict(judge, HELD_OUT[0]), HELD_OUT[1])[0])
    assert [row["val_loss"] for row in history] == pytest.approx(losses, rel=1e-5)
    for kept in (weights, runs.load_network(tmp_path / "model.keras").get_weights()):
        for one, other in zip(kept, average):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert np.abs(steps[-1][0] - average[0]).max() > 0.01
    # The loss falls throughout.
    best = runs.load_network(tmp_path / "best.keras").get_weights()
    np.testing.assert_allclose(best[0], weights[0], rtol=1e-6)


def test_brakes_are_keras_own(tmp_path):
    rng, model, lengths = np.random.default_rng(0), keras.Sequential([keras.layers.Input((1,))]), []
    # A fall of the loss before the brakes are on does not count.
    before = [{"val_loss": 0.0}] * 100
    for number in range(100):
        patience = (0, 4, 8)[number % 3]
        args = types.SimpleNamespace(epochs=120, early_stopping=patience,
                                     learning_rate=10.0 ** rng.uniform(-4, -1))
        model.compile(keras.optimizers.SGD(args.learning_rate), "mse")
        model.stop_training, history = False, list(before)
        callbacks = [keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.1, patience=3),
                     keras.callbacks.EarlyStopping("val_loss", patience=patience)]
        callbacks = callbacks[:2 if patience else 1]
        for callback in callbacks:
            callback.set_model(model)
            callback.on_train_begin()
        slope, noise = rng.uniform(0, 0.02), rng.choice([1e-4, 0.02, 0.2])
        while len(history) < 120 and not model.stop_training:
            fallen = 1 - slope * (len(history) - 100)
            history.append({"val_loss": fallen + rng.uniform(0, noise)})
            for callback in callbacks:
                callback.on_epoch_end(len(history) - 1, history[-1])
            rate, stop = brakes(history, args)
            kept = keras.ops.convert_to_numpy(model.optimizer.learning_rate)
            # To the last of 32 bits.
            assert np.float32(rate) == kept and stop == model.stop_training
        lengths.append(len(history))
    assert len(set(lengths)) > 5 and 120 in lengths
    args = types.SimpleNamespace(epochs=6, early_stopping=6, learning_rate=0.1)
    losses = [1, 1, 1, 1, 1, 1.0, 0.9, 0.95, 0.96, 0.97, 0.98, 0.99, 1.1, 1.2]
    history = [{"val_loss": loss} for loss in losses]
    assert brakes(history[:12], args) == (pytest.approx(0.01), False)
    assert brakes(history[:13], args) == (pytest.approx(0.001), True)
