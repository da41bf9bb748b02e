"""The small network: whitening, identity initialisation, and a student that adds noise alone."""

import keras
import numpy as np
import pytest

import small_network
from noisy_student import arguments
from noisy_student.files import UserError
from noisy_student.training import predict, seed_generators
from robustness import logits_of_pixels
from stochastic_resblock import StochasticSurvival, build_small_student


def weights_of(model):
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}


def test_parameters_and_shapes():
    model = small_network.build_small()
    assert model.count_params() == 903_032
    shapes = [model.get_layer(f"group{g}_gelu3").output.shape[1:] for g in (1, 2, 3)]
    assert shapes == [(15, 15, 64), (7, 7, 128), (3, 3, 128)]
    assert small_network.build_small(0.5, 7).output.shape == (None, 7)


def test_whitened_patches_vary_equally_and_independently(photos):
    model = small_network.build_small(1 / 32)
    small_network.whiten(model, photos)
    layer = keras.Model(model.input, model.get_layer("whiten").output)
    responses = layer.predict(photos, verbose=0).reshape(-1, 24)
    first, second = responses[:, :12], responses[:, 12:]
    assert second == pytest.approx(-first, abs=1e-4)
    assert first.mean(axis=0) == pytest.approx(0, abs=1e-3)
    covariance = np.cov(first.T)
    assert covariance - np.diag(np.diag(covariance)) == pytest.approx(0, abs=0.02)
    # The strongest have a variance of 1; those that hardly vary are not amplified that far.
    assert np.diag(covariance)[:3] == pytest.approx(1, abs=0.02)
    assert (np.diag(covariance) < 1.02).all()


def test_whitening_looks_at_the_last_class_of_a_folder_too():
    # Grey images, then as many red ones.
    images = np.full((1800, 32, 32, 3), 128, np.uint8)
    images[900:] = (200, 0, 0)
    _, mean = small_network.principal_components(images)
    assert mean[0, 0] == pytest.approx(np.array([164, 64, 64]) / 255, abs=1e-6)


def test_whitening_of_images_of_one_colour_is_finite():
    grey = np.full((4, 32, 32, 3), 128, np.uint8)
    components, mean = small_network.principal_components(grey)
    assert np.isfinite(components).all() and mean == pytest.approx(128 / 255)


def test_whitening_is_not_trained(photos):
    model = small_network.build_small(1 / 32)
    small_network.whiten(model, photos)
    before = weights_of(model)
    model.compile(keras.optimizers.SGD(0.1), "categorical_crossentropy")
    model.train_on_batch(photos, np.eye(10)[np.arange(len(photos)) % 10])
    changed = {path for path, value in weights_of(model).items() if (value != before[path]).any()}
    assert not {path for path in changed if "whiten" in path}
    assert {path for path in changed if path.endswith("kernel")} == {
        path for path in before if path.endswith("kernel") and "whiten" not in path}


def test_convolutions_begin_by_copying_their_inputs():
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 6)).astype(np.float32)
    more = small_network.convolution(keras.Input((5, 5, 6)), 9, "more")
    copied = keras.Model(more._keras_history.operation.input, more)
    y = copied.predict(x, verbose=0)
    assert y[..., :6] == pytest.approx(x, abs=1e-6)
    assert abs(y[..., 6:]).max() > 0.1
    fewer = small_network.convolution(keras.Input((5, 5, 6)), 4, "fewer")
    assert keras.Model(fewer._keras_history.operation.input, fewer).predict(
        x, verbose=0) == pytest.approx(x[..., :4], abs=1e-6)


def test_random_filters_differ_and_the_seed_repeats_them():
    kernels = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(seed)
        model = small_network.build_small(1 / 8)
        kernels.append([model.get_layer(f"group{g}_conv1").get_weights()[0] for g in (1, 2)])
    assert all((a == b).all() for a, b in zip(kernels[0], kernels[1]))
    assert (kernels[0][1] != kernels[2][1]).any()


def test_student_without_noise_is_the_teacher_to_the_bit(photos):
    teacher = small_network.build_small(1 / 8)
    student = build_small_student(1 / 8, p_last=1.0, dropout=0.0)
    small_network.whiten(teacher, photos)
    student.set_weights(teacher.get_weights())
    t = np.eye(10)[np.arange(len(photos)) % 10]
    for model in (teacher, student):
        model.compile(keras.optimizers.SGD(0.1), "categorical_crossentropy", jit_compile=False)
        for _ in range(3):
            model.train_on_batch(photos, t)
    assert (predict(teacher, photos) == predict(student, photos)).all()


def test_student_has_stochastic_depth_on_its_residuals_by_equation_4():
    student = build_small_student(1 / 8, p_last=0.4, dropout=0.3)
    survivals = [layer.p_survival for layer in student.layers
                 if isinstance(layer, StochasticSurvival)]
    assert survivals == pytest.approx([0.8, 0.6, 0.4])
    assert student.get_layer("dropout").rate == 0.3
    # In training the noise differs from epoch to epoch; at inference there is none.
    x = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    answers = []
    for seed in (0, 0, 1):
        seed_generators(student, np.random.default_rng(seed))
        answers.append(keras.ops.convert_to_numpy(student(x, training=True)))
    assert (answers[0] == answers[1]).all() and (answers[0] != answers[2]).any()
    assert (predict(student, x) == predict(student, x)).all()


def test_saved_student_loads_in_safe_mode_and_says_the_same(photos, tmp_path):
    student = build_small_student(1 / 16)
    small_network.whiten(student, photos)
    student.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras", safe_mode=True)
    assert (predict(loaded, photos) == predict(student, photos)).all()


def test_attacks_find_its_logits(photos):
    model = small_network.build_small(1 / 16)
    logits = logits_of_pixels(model).predict(photos / 255, verbose=0)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert p / p.sum(axis=1, keepdims=True) == pytest.approx(predict(model, photos), abs=1e-5)


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--depth 50", "--stem-strides 2"])
def test_flags_of_the_resnet_are_refused(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        arguments.teacher("", ["--network", "small", *flag.split()])
    assert ended.value.code == 2
    assert f"{flag.split()[0]} is for --network resnet" in capsys.readouterr().err


def test_width_that_leaves_a_group_without_filters():
    with pytest.raises(UserError, match=r"^--width 0.007: leaves a group of 64 filters without "
                                        r"any; it must be above 0.0078$"):
        small_network.build_small(0.007)
