"""Trains the same network on one device and on two: prints losses, and how far weights differ."""

import json
import tempfile
from dataclasses import replace

import keras
import numpy as np

import cifar10_resnet50 as step1
from noisy_student import backend
from noisy_student.batches import shuffled
from noisy_student.files import UserError
from noisy_student.runs import Run
from noisy_student.training import BATCH, predict, train


class NoNorm(keras.layers.Identity):
    """Batch normalization's statistics differ from backend to backend."""


step1.BatchNormalization = NoNorm
# The shortest network that has every kind of layer.
step1.BLOCKS[5] = (1, 0, 0, 0)
if backend.BACKEND == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0],
                                               [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
x = rng.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
t = np.eye(10, dtype=np.float32)[rng.integers(0, 10, 64)]
recipe = replace(step1.RECIPES["fast"], epochs=3, steps_per_epoch=4, learning_rate=1e-3)
chosen = {"epochs": 3, "steps_per_epoch": 4, "batch_size": 16, "seed": 0}


def batches(first_batch):
    for _, rows in shuffled(np.arange(64), 16, 0, first_batch):
        yield x[rows], t[rows]


losses, weights = [], []
for devices in ("one", "all"):
    backend.prepare(0)
    with backend.on_hardware("float32", devices, 16), tempfile.TemporaryDirectory() as folder:
        model = step1.build_resnet(5, 0.125)
        optimizer, _ = step1.optimizer_and_schedule(model, recipe)
        history, _ = train(model, batches, (x[:40], t[:40]), Run(folder, "", chosen, {}), optimizer)
        assert np.allclose(predict(model, x[:41]), model(x[:41]), atol=1e-6)
        losses.append([row[name] for row in history for name in ("loss", "val_loss")])
        weights.append(np.concatenate([np.ravel(w) for w in model.get_weights()]))
with backend.on_hardware("float32", "one", 17):
    pass
for batch_size, count in ((17, 40), (16, 41)):
    try:
        with backend.on_hardware("float32", "all", batch_size):
            backend.validation_feed(x[:count], t[:count], BATCH)
    except UserError as error:
        print(error)
print(json.dumps([losses, float(np.abs(weights[0] - weights[1]).max())]))
