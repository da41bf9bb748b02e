"""Stochastic depth: right on average, drawn as often as it should be, the teacher without it."""

import keras
import numpy as np
import pytest

import cifar10_resnet50 as step1
import stochastic_resblock as step3
from noisy_student import arguments
from noisy_student.training import Keeper


def test_survival_probabilities_of_the_article():
    p_list = step3.survival_list(50, 0.8)
    assert len(p_list) == 17 and p_list[0] == 1 and p_list[16] == pytest.approx(0.8)
    assert p_list[8] == pytest.approx(0.9) and all(np.diff(p_list) < 0)
    assert step3.get_p_survival(3, 4, 0.2) == pytest.approx(0.4)


@pytest.mark.parametrize("p", [0.8, 0.3])
@pytest.mark.parametrize("per_sample", [False, True])
def test_training_gives_on_average_what_inference_gives(p, per_sample):
    layer = step3.StochasticSurvival(p, seed=1, per_sample=per_sample)
    x = np.full((8, 2, 2, 3), 2.0, np.float32)
    draws = np.stack([keras.ops.convert_to_numpy(layer(x, training=True)) for _ in range(400)])
    # Kept whole or dropped whole, never scaled.
    assert set(np.unique(draws)) == {0.0, 2.0}
    assert (draws == draws[:, :, :1, :1, :1]).all()
    assert keras.ops.convert_to_numpy(layer(x, training=False)) == pytest.approx(2 * p)
    alive = draws[:, :, 0, 0, 0] > 0
    independent = alive.size if per_sample else len(alive)
    assert abs(alive.mean() - p) < 4 * np.sqrt(p * (1 - p) / independent)
    # One draw for a batch, or one for each image.
    assert (alive == alive[:, :1]).all() != per_sample


@pytest.mark.parametrize("p", [0, -0.1, 1.1])
def test_probability_out_of_range(p):
    with pytest.raises(ValueError, match=str(p)):
        step3.StochasticSurvival(p)


def test_all_blocks_surviving_is_the_teacher():
    teacher = step1.build_resnet(14, 0.125)
    student = step3.build_student(14, 0.125, p_last=1.0, dropout=0.0)
    noisy = step3.build_student(14, 0.125, p_last=0.5)
    for layer in teacher.layers:
        layer.set_weights([w + 0.01 for w in layer.get_weights()])
        for other in (student, noisy):
            other.get_layer(layer.name).set_weights(layer.get_weights())
    x = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    said = teacher.predict(x, verbose=0)
    assert (student.predict(x, verbose=0) == said).all()
    # And only then.
    assert (noisy.predict(x, verbose=0) != said).any()


def test_student_has_the_teachers_parameters_and_a_survival_per_block():
    student = step3.build_student(50)
    assert student.count_params() == 23_590_794
    survivals = [layer for layer in student.layers if isinstance(layer, step3.StochasticSurvival)]
    assert [layer.p_survival for layer in survivals] == step3.survival_list(50, 0.8)[1:]
    assert len(survivals) == 16 and student.get_layer("dropout").rate == 0.5


def test_reloads_in_safe_mode_with_the_same_answers(tmp_path):
    student = step3.build_student(14, 0.05, p_last=0.3, per_sample=True)
    student.save(tmp_path / "student.keras")
    again = keras.saving.load_model(tmp_path / "student.keras", safe_mode=True)
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    assert (again.predict(x, verbose=0) == student.predict(x, verbose=0)).all()
    assert again.get_layer("stage4_block1_survival").get_config()["per_sample"] is True


def test_script_prints_and_draws(tmp_path, capsys):
    picture = tmp_path / "survival.png"
    step3.main(arguments.survival("", ["--width", "0.05", "--out", str(picture)]))
    out = capsys.readouterr().out
    assert "16  stage4_block3" in out and "0.8000" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_script_draws_the_small_network_too(tmp_path):
    picture = tmp_path / "survival.png"
    step3.main(arguments.survival("", ["--network", "small", "--out", str(picture)]))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_noise_goes_on_after_the_first_epoch_and_is_the_same_when_resumed():
    """Validation must not leave the layer in inference mode, nor a restart repeat its draws."""
    def outputs(first_epoch):
        layer = step3.StochasticSurvival(0.5, per_sample=True, seed=0)
        model = keras.Sequential([keras.layers.Input((1,)), layer])
        seen = []

        def loss(y, p):
            # The share of images that survived.
            return keras.ops.mean(p, axis=-1)

        model.compile("sgd", loss, metrics=["accuracy"])
        keeper = Keeper(run=None, seed=7, epochs=4)
        keeper.on_epoch_end = lambda epoch, logs: seen.append(logs["loss"])
        x = np.ones((1000, 1), np.float32)
        model.fit(x, x, epochs=4, initial_epoch=first_epoch, batch_size=1000,
                  validation_data=(x, x), verbose=0, callbacks=[keeper])
        return seen

    whole = outputs(0)
    assert all(0.4 < share < 0.6 and share != 0.5 for share in whole) and len(set(whole)) > 1
    assert outputs(2) == whole[2:]
