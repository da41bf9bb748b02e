"""oneDNN's kernels: on for the networks that bear them, and never against the user."""

import json

import pytest

from noisy_student import onednn


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    # setenv first, so that what a test sets is undone.
    monkeypatch.setenv(onednn.VARIABLE, "")
    monkeypatch.delenv(onednn.VARIABLE)
    monkeypatch.setattr(onednn.platform, "machine", lambda: "x86_64")


def chosen():
    return onednn.os.environ.get(onednn.VARIABLE)


@pytest.mark.parametrize("network, width, value", [
    ("resnet", 1.0, "1"), ("resnet", 0.0625, "1"), ("resnet", 0.05, "0"), ("small", 0.03, "1")])
def test_on_where_no_convolution_of_the_resnet_is_too_narrow(network, width, value):
    onednn.choose(network, width)
    assert chosen() == value


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv(onednn.VARIABLE, "0")
    onednn.choose("small", 1.0)
    assert chosen() == "0"


def test_other_processors_are_left_alone(monkeypatch):
    monkeypatch.setattr(onednn.platform, "machine", lambda: "arm64")
    onednn.choose("small", 1.0)
    assert chosen() is None


@pytest.mark.parametrize("versions, value", [
    ({"onednn": "1"}, "1"), ({"onednn": "0"}, "0"), ({}, "0")])
def test_a_training_goes_on_with_the_kernels_it_was_begun_with(versions, value, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"versions": versions, "results": {}}))
    onednn.choose("small", 1.0, tmp_path)
    assert chosen() == value


@pytest.mark.parametrize("arguments, value", [
    ({"network": "small", "width": 0.5}, "1"), ({"width": 0.03}, "0"), ({"width": 1.0}, "1")])
def test_a_teacher_labels_with_the_kernels_that_its_network_bears(arguments, value, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"arguments": arguments}))
    onednn.choose_for_runs([tmp_path])
    assert chosen() == value


@pytest.mark.parametrize("width, value", [(0.03, "0"), (0.5, "1")])
def test_several_networks_are_asked_with_the_kernels_that_all_of_them_bear(width, value, tmp_path):
    for name, arguments in (("seed0/teacher", {"width": 1.0}), ("seed0/student", {"width": width}),
                            ("seed0/small", {"network": "small", "width": 0.01}),
                            ("seed0/pseudo", {"threshold": 0.5})):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text(json.dumps({"arguments": arguments}))
    onednn.choose_for_runs([tmp_path])
    assert chosen() == value


def test_network_from_elsewhere_is_left_to_tensorflow(tmp_path):
    onednn.choose_for_runs([tmp_path / "own.keras"])
    assert chosen() is None
