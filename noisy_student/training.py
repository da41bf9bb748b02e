"""fit(), such that a killed training goes on as if it had not been killed."""

import csv
import importlib.util
import json
import math
import os
import sys
import time

import keras
import numpy as np

from noisy_student import backend
from noisy_student.files import (
    UserError,
    interrupted_at_once,
    read_arrays,
    reading,
    whole_file,
    write_arrays,
)
from noisy_student.runs import BACKUP, save_network

# Images that a network looks at together when it does not learn.
BATCH = 256
# Multiply-adds that one core of a laptop trains with in a second, roughly.
CORE = 2e10
# A warning is worth a line from here on.
MANY_HOURS = 3


def train(model, batches, held_out, run, optimizer, schedule=None, tensorboard=False):
    """Trains to the end, from the last finished epoch on if there is one.

    Args:
        model: as built; train() compiles it.
        batches: batches(first_batch) -> an endless generator of (images, labels) from that one on.
        held_out: (images, labels) to validate on, never the ones trained on.
        run: Run; its arguments say for how many epochs, and its folder gets history.csv, best.keras
            and backup.npz after every epoch, and model.keras at the end.
        schedule: schedule(history) -> (learning rate, whether to stop), before every epoch; None
            leaves both to the optimizer.
        tensorboard: whether to write Keras' own logs for TensorBoard, too.

    Returns: a row per epoch, and seconds. Raises: UserError, when the loss is no longer a number.
    """
    model.compile(optimizer, loss="categorical_crossentropy", metrics=["accuracy"],
                  jit_compile=backend.jit_compile())
    # Built here, and not within the first step, which TensorFlow would then trace twice.
    model.optimizer.build(model.trainable_variables)
    labels = held_out[1][:1]
    model.compute_loss(y=labels, y_pred=labels)
    model.compute_metrics(None, labels, labels)
    epochs, steps_per_epoch, batch_size, seed = (
        run.arguments[key] for key in ("epochs", "steps_per_epoch", "batch_size", "seed"))
    keeper = Keeper(run, seed, epochs, schedule)
    first = keeper.restore(model)
    if first:
        print(f"resuming {run.folder} after epoch {first} of {epochs}")
    if first < epochs and not keeper.stopped:
        warn_of_hours(model, (epochs - first) * steps_per_epoch * batch_size)
        fed = backend.feed(lambda: batches(first * steps_per_epoch), batch_size)
        callbacks = [*tensorboard_callbacks(run, tensorboard), keeper]
        with interrupted_at_once():
            model.fit(fed, epochs=epochs, initial_epoch=first, steps_per_epoch=steps_per_epoch,
                      shuffle=False, validation_data=backend.validation_feed(*held_out, BATCH),
                      validation_batch_size=BATCH, verbose=1 if sys.stdout.isatty() else 0,
                      callbacks=callbacks)
    # Averaged weights become the network. fit() has done this; a resumed run with no epoch left has
    # not.
    model.optimizer.finalize_variable_values(model.trainable_variables)
    save_network(model, run.path("model.keras"))
    return keeper.history, round(keeper.seconds, 1)


class Keeper(keras.callbacks.Callback):
    """Makes every epoch a function of the seed, the weights and the history, and keeps these.

    Keras' BackupAndRestore keeps the weights, but neither the draws of dropout and stochastic depth
    (here set anew from seed and epoch) nor what ReduceLROnPlateau and EarlyStopping have counted
    (`schedule` counts anew from the history). Must be the last callback: it saves what others did.
    """

    def __init__(self, run, seed, epochs, schedule=None):
        super().__init__()
        self.run, self.seed, self.epochs, self.schedule = run, seed, epochs, schedule
        self.history, self.seconds, self.stopped, self.left = [], 0.0, False, ""

    def variables(self, model):
        """All that a training changes: weights, running statistics, the optimizer's moments."""
        return [*model.variables, *model.optimizer.variables]

    def restore(self, model):
        """Loads the state after the last finished epoch. Returns: how many are finished."""
        path = self.run.path(BACKUP)
        if path.exists():
            saved = read_arrays(path)
            with reading(path):
                kept = json.loads(str(saved["kept"]))
                self.history, self.seconds = kept["history"], kept["seconds"]
                self.stopped = kept["stopped"]
                for i, variable in enumerate(self.variables(model)):
                    variable.assign(saved[f"variable{i}"])
        return len(self.history)

    def on_train_begin(self, logs=None):
        self.started = time.monotonic() - self.seconds
        # When this process began, and when each of its epochs ended.
        self.ends = [time.monotonic()]

    def set_model(self, model):
        super().set_model(model)
        # Puts averaged weights into the network, and back again (with TensorFlow, to rounding).
        averages = model.optimizer.use_ema
        self.averages = keras.callbacks.SwapEMAWeights() if averages else keras.callbacks.Callback()
        self.averages.set_model(model)

    def on_test_begin(self, logs=None):
        self.averages.on_test_begin()

    def on_test_end(self, logs=None):
        self.averages.on_test_end()

    def on_epoch_begin(self, epoch, logs=None):
        if self.left and sys.stdout.isatty():
            print(self.left)
        seed_generators(self.model, np.random.default_rng([self.seed, epoch]))
        if self.schedule:
            self.model.optimizer.learning_rate = self.schedule(self.history)[0]
        self.rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]) or not math.isfinite(logs["val_loss"]):
            raise UserError(
                f"the loss is {logs['loss']} (validation {logs['val_loss']}) in epoch "
                f"{epoch + 1}: stopped. {self.run.folder} keeps the state after epoch {epoch}; "
                "try a lower --learning-rate in a new --log-dir")
        row = {"epoch": epoch + 1}
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            row[name] = float(logs[name])
        best_so_far = min((past["val_loss"] for past in self.history), default=math.inf)
        self.history.append(row | {"learning_rate": self.rate})
        write_history(self.run.path("history.csv"), self.history)
        if row["val_loss"] < best_so_far:
            self.averages.on_test_begin()
            save_network(self.model, self.run.path("best.keras"))
            self.averages.on_test_end()
        if self.schedule and self.schedule(self.history)[1]:
            self.model.stop_training = self.stopped = True
        self.seconds = time.monotonic() - self.started
        self.backup()
        self.say(row)

    def backup(self):
        """One file, so that weights and history cannot belong to different epochs."""
        kept = {"history": self.history, "seconds": self.seconds, "stopped": self.stopped}
        arrays = {"kept": np.array(json.dumps(kept))}
        for i, variable in enumerate(self.variables(self.model)):
            arrays[f"variable{i}"] = keras.ops.convert_to_numpy(variable)
        write_arrays(self.run.path(BACKUP), **arrays)

    def say(self, row):
        """One line per epoch: how it went, and how long still."""
        self.ends.append(time.monotonic())
        # The first epoch of a process also compiles: it counts only while it is the only one.
        ends = self.ends[1:] if len(self.ends) > 2 else self.ends
        per_epoch = (ends[-1] - ends[0]) / (len(ends) - 1)
        to_go = self.epochs - row["epoch"]
        self.left = ""
        if to_go:
            epochs = "1 epoch" if to_go == 1 else f"{to_go} epochs"
            self.left = f"{epochs}, {duration(per_epoch * to_go)} left"
        if sys.stdout.isatty():
            # Keras' own progress bar says the rest, and ends its line after this.
            return
        print(f"epoch {row['epoch']} of {self.epochs}: loss {row['loss']:.4f}, "
              f"accuracy {row['accuracy']:.4f}, val_loss {row['val_loss']:.4f}, "
              f"val_accuracy {row['val_accuracy']:.4f}{'; ' if to_go else ''}{self.left}",
              flush=True)


def warn_of_hours(model, images):
    """Says at once where a machine without a GPU would train for many hours.

    Args:
        images: how many the network is going to see, repetitions included.
    """
    multiply_adds = 0
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            places = math.prod(layer.output.shape[1:-1])
            multiply_adds += math.prod(layer.kernel.shape) * places
    # The gradients cost twice what the answer does.
    per_second = CORE * (os.cpu_count() or 1)
    hours = 3 * multiply_adds * images / per_second / 3600
    if hours > MANY_HOURS and not backend.gpus():
        print(f"on this CPU that takes about {hours:,.0f} hours. Ctrl-C ends it; --network small "
              "and fewer --epochs take fewer")


def seed_generators(model, rng):
    """Sets the state of every random layer of a network from a NumPy Generator."""
    for layer in model._flatten_layers():
        generators = {}
        for value in vars(layer).values():
            if isinstance(value, keras.random.SeedGenerator):
                generators[id(value)] = value
        for generator in generators.values():
            generator.state.assign(rng.integers(2**31, size=2, dtype=np.uint32))


def duration(seconds):
    """A length of time, in the unit a person would take."""
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    seconds = round(seconds)
    return "1 second" if seconds == 1 else f"{seconds} seconds"


def tensorboard_callbacks(run, wanted):
    if not wanted:
        return []
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise UserError("--tensorboard: it is not installed. Run: python -m pip install "
                        "tensorboard") from None
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError("--tensorboard: Keras writes these logs with TensorFlow, which is not "
                        "installed")
    return [keras.callbacks.TensorBoard(run.path("tensorboard"))]


def write_history(path, rows):
    with whole_file(path) as beside, open(beside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def read_history(path):
    """history.csv as a list of dictionaries of numbers. Raises: UserError, where it is damaged."""
    with reading(path), open(path, newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()}
                for row in csv.DictReader(file, strict=True)]


def predict(model, x):
    """uint8 (N, 32, 32, 3) -> the network's probabilities, float32 (N, C)."""
    size = min(BATCH, len(x))
    # All devices get as many.
    size += -size % backend.sharing()
    count = -(-len(x) // size)
    # The last batch is filled up: each size would be compiled anew.
    batches = np.resize(x, (count, size, *x.shape[1:]))
    answers = [model.predict_on_batch(batch)[:size] for batch in batches]
    return np.concatenate(answers)[:len(x)]
