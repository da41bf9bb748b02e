"""Batch normalization in one kernel: the numbers of Keras' own layer, whatever is normalized."""

import keras
import numpy as np
import pytest

from noisy_student.normalization import BatchNormalization
from small_network import FastBiasNormalization

RNG = np.random.default_rng(0)
# A batch whose channels differ in mean and spread, and so few values in each that a variance
# divided by n - 1 would be seen.
IMAGES = (RNG.normal(size=(3, 2, 2, 5)) * [0.5, 1, 2, 3, 4] + [0.5, 0, -1, 3, 1]).astype(np.float32)
UPSTREAM = RNG.normal(size=IMAGES.shape).astype(np.float32)


def trained_once(layer, dtype="float32"):
    """Two steps of SGD on one layer, and the images' way through it.

    Returns: outputs in training, weights after it, and outputs at inference.
    """
    inputs = keras.layers.Input(IMAGES.shape[1:])
    # What the layer sends back through its input ends up in this weight.
    scaled = keras.layers.Dense(5, use_bias=False, kernel_initializer="identity")(inputs)
    model = keras.Model(inputs, layer(scaled))
    # TensorFlow's optimizer of graphs gives Keras' own layer a wrong gradient in one of ten runs.
    eagerly = type(layer) is keras.layers.BatchNormalization
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False, run_eagerly=eagerly,
                  loss=lambda y, p: keras.ops.sum(y * keras.ops.cast(p, "float32")) / 3)
    before = keras.ops.convert_to_numpy(keras.ops.cast(model(IMAGES, training=True), "float32"))
    for _ in range(2):
        model.train_on_batch(IMAGES, UPSTREAM)
    after = keras.ops.convert_to_numpy(keras.ops.cast(model(IMAGES), "float32"))
    return [before, *model.get_weights(), after]


@pytest.mark.parametrize("settings", [{}, {"scale": False}, {"momentum": 0.5, "epsilon": 1e-2}])
def test_outputs_gradients_and_statistics_are_keras(settings):
    theirs = trained_once(keras.layers.BatchNormalization(**settings))
    ours = trained_once(BatchNormalization(**settings))
    assert len(theirs) == len(ours)
    for their, our in zip(theirs, ours):
        assert our == pytest.approx(their, rel=2e-4, abs=2e-5)


def test_bfloat16_is_normalized_with_statistics_in_float32():
    theirs = trained_once(keras.layers.BatchNormalization(dtype="mixed_bfloat16"))
    ours = trained_once(BatchNormalization(dtype="mixed_bfloat16"))
    # moving_mean and moving_variance: of inputs that were rounded to 8 bits.
    for their, our in zip(theirs[-3:-1], ours[-3:-1]):
        assert our.dtype == np.float32 and our == pytest.approx(their, rel=2e-3, abs=2e-3)
    assert ours[0] == pytest.approx(theirs[0], abs=0.03)


def test_fast_bias_learns_64_times_as_fast():
    slow = trained_once(keras.layers.BatchNormalization(scale=False, epsilon=1e-5))
    fast = trained_once(FastBiasNormalization())
    # The bias as it is added, after the same two steps of a gradient that does not depend on it.
    assert 8 * fast[2] == pytest.approx(64 * slow[2], rel=1e-3)


def test_each_layer_loads_the_others_weights_and_a_saved_one_loads_safely(tmp_path):
    network = keras.Sequential([keras.layers.Input((2, 2, 5)), BatchNormalization(momentum=0.7)])
    of_keras = keras.Sequential([keras.layers.Input((2, 2, 5)),
                                 keras.layers.BatchNormalization(momentum=0.7)])
    network.set_weights([RNG.uniform(1, 2, size=5) for _ in range(4)])
    of_keras.set_weights(network.get_weights())
    assert of_keras.predict(IMAGES, verbose=0) == pytest.approx(
        network.predict(IMAGES, verbose=0), rel=1e-5)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    assert isinstance(loaded.layers[-1], BatchNormalization) and loaded.layers[-1].momentum == 0.7
    assert (loaded.predict(IMAGES, verbose=0) == network.predict(IMAGES, verbose=0)).all()


def test_frozen_layer_keeps_its_statistics():
    layer = BatchNormalization()
    layer.build(IMAGES.shape)
    layer.trainable = False
    frozen = keras.ops.convert_to_numpy(layer(IMAGES, training=True))
    assert frozen == pytest.approx(IMAGES / np.sqrt(1 + 1e-3), rel=1e-5)
    assert (keras.ops.convert_to_numpy(layer.moving_mean) == 0).all()
