"""Stochastic depth: right on average, drawn as often as it should be, and the teacher where it is switched off."""

import cifar10_resnet50 as step1
import stochastic_resblock as step3

import keras
import numpy as np
import pytest


def test_survival_probabilities_of_the_article():
    p_list = step3.survival_list(50, 0.8)
    assert len(p_list) == 17 and p_list[0] == 1 and p_list[16] == pytest.approx(0.8) and p_list[8] == pytest.approx(0.9)
    assert step3.get_p_survival(3, 4, 0.2) == pytest.approx(0.4)
    assert all(np.diff(p_list) < 0)


@pytest.mark.parametrize("p", [0.8, 0.3])
@pytest.mark.parametrize("per_sample", [False, True])
def test_training_gives_on_average_what_inference_gives(p, per_sample):
    layer = step3.StochasticSurvival(p, seed=1, per_sample=per_sample)
    x = np.full((8, 2, 2, 3), 2.0, np.float32)
    draws = np.stack([keras.ops.convert_to_numpy(layer(x, training=True)) for _ in range(400)])
    assert set(np.unique(draws)) == {0.0, 2.0}  # kept whole or dropped whole, never scaled
    assert (draws == draws[:, :, :1, :1, :1]).all()
    alive = draws[:, :, 0, 0, 0] > 0
    inference = keras.ops.convert_to_numpy(layer(x, training=False))
    assert inference == pytest.approx(2 * p)
    independent = alive.size if per_sample else len(alive)
    assert abs(alive.mean() - p) < 4 * np.sqrt(p * (1 - p) / independent)
    assert (alive == alive[:, :1]).all() != per_sample  # one draw for a batch, or one for each image


@pytest.mark.parametrize("p", [0, -0.1, 1.1])
def test_probability_out_of_range(p):
    with pytest.raises(ValueError, match=str(p)):
        step3.StochasticSurvival(p)


def test_all_blocks_surviving_is_the_teacher():
    teacher = step1.build_resnet(14, 0.125)
    student = step3.build_student(14, 0.125, p_last=1.0, dropout=0.0)
    for layer in teacher.layers:
        student.get_layer(layer.name).set_weights([w + 0.01 for w in layer.get_weights()])
        layer.set_weights([w + 0.01 for w in layer.get_weights()])
    x = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    assert (student.predict(x, verbose=0) == teacher.predict(x, verbose=0)).all()
    noisy = step3.build_student(14, 0.125, p_last=0.5)
    for layer in teacher.layers:
        noisy.get_layer(layer.name).set_weights(layer.get_weights())
    assert (noisy.predict(x, verbose=0) != teacher.predict(x, verbose=0)).any()  # and only then


def test_student_has_the_teachers_parameters_and_a_survival_per_block():
    student = step3.build_student(50)
    assert student.count_params() == 23_590_794
    p = [layer.p_survival for layer in student.layers if isinstance(layer, step3.StochasticSurvival)]
    assert p == step3.survival_list(50, 0.8)[1:] and len(p) == 16


def test_reloads_in_safe_mode_with_the_same_answers(tmp_path):
    student = step3.build_student(14, 0.05, p_last=0.3, per_sample=True)
    student.save(tmp_path / "student.keras")
    again = keras.saving.load_model(tmp_path / "student.keras", safe_mode=True)
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    assert (again.predict(x, verbose=0) == student.predict(x, verbose=0)).all()
    assert again.get_layer("stage4_block1_survival").get_config()["per_sample"] is True


def test_script_prints_and_draws(tmp_path, capsys):
    step3.main(["--width", "0.05", "--out", str(tmp_path / "survival.png")])
    out = capsys.readouterr().out
    assert "16  stage4_block3" in out and "0.8000" in out and (tmp_path / "survival.png").exists()


def test_noise_goes_on_after_the_first_epoch_and_is_the_same_when_resumed(tmp_path):
    """Validation between epochs must not leave the layer in inference mode, nor a restart repeat its draws."""
    def outputs(first_epoch):
        model = keras.Sequential([keras.layers.Input((1,)), step3.StochasticSurvival(0.5, per_sample=True, seed=0)])
        seen = []

        def loss(y, p):
            return keras.ops.mean(p, axis=-1)  # the share of images that survived

        model.compile("sgd", loss, metrics=["accuracy"])
        recorder = step1.Recorder(tmp_path / str(first_epoch), seed=7)
        recorder.epoch = first_epoch
        recorder.begin_phase(0, [], 0.1)
        recorder.on_epoch_end = lambda epoch, logs: seen.append(logs["loss"])
        x = np.ones((1000, 1), np.float32)
        model.fit(x, x, epochs=4, initial_epoch=first_epoch, batch_size=1000, validation_data=(x, x), verbose=0, callbacks=[recorder])
        return seen

    whole = outputs(0)
    assert all(0.4 < share < 0.6 and share != 0.5 for share in whole) and len(set(whole)) > 1
    assert outputs(2) == whole[2:]
