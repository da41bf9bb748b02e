"""What runs where: it is said, it is warned of, and many devices learn what one would."""

import json
import os
import subprocess
import sys

import keras
import pytest
from conftest import PROGRAMS, ROOT

from noisy_student import backend
from noisy_student.files import UserError
from noisy_student.gpu import Card


def begin(program, *words, **environment):
    """Starts a program of tests/programs. Returns: the process, whose outputs are read as text."""
    return subprocess.Popen([sys.executable, PROGRAMS / program, *map(str, words)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=os.environ | {"PYTHONPATH": os.pathsep.join(
                                [str(ROOT), os.environ.get("PYTHONPATH", "")])} | environment)


def lines(process):
    """What a program printed, once it has ended well."""
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    return out.splitlines()


@pytest.fixture
def cards(monkeypatch):
    """A machine with two cards."""
    two = [Card("GeForce GTX 1080 Ti", (6, 1), 11264, "580.95.05"),
           Card("Quadro", (7, 5), 8192, "580.95.05")]
    monkeypatch.setattr(backend, "nvidia_cards", lambda: two)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


def test_card_that_is_not_used_is_warned_of(cards, monkeypatch, capsys):
    monkeypatch.setattr(backend, "gpus", lambda: [])
    backend.describe("float32")
    out, errors = capsys.readouterr()
    assert out == f"{backend.NAME} on the CPU ({os.cpu_count()} cores), float32\n"
    assert errors.startswith(f"WARNING: {backend.NAME} does not use the GeForce GTX 1080 Ti that ")
    assert "a hundred times longer" in errors and errors.count("\n") == 1
    # Whoever hides the card knows.
    for hidden in ("-1", ""):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        backend.describe("float32")
        assert capsys.readouterr().err == ""


def test_card_that_is_used_is_named_and_not_warned_of(cards, monkeypatch, capsys):
    monkeypatch.setattr(backend, "gpus", lambda: [("NVIDIA L4", (8, 9)), ("NVIDIA T4", (7, 5))])
    backend.describe("bfloat16")
    assert capsys.readouterr() == (f"{backend.NAME} on NVIDIA L4, NVIDIA T4, bfloat16\n", "")


@pytest.mark.parametrize("capabilities, bfloat16, jit", [
    ([], False, False), ([(6, 1)], False, False), ([(7, 0)], False, False),
    ([(7, 5)], False, True), ([(8, 0)], True, True), ([(12, 0)], True, True),
    ([(6, 1), (8, 6)], True, False)])
def test_what_a_card_can_do_follows_from_its_capability(capabilities, bfloat16, jit, monkeypatch):
    monkeypatch.setattr(backend, "gpus", lambda: [("a card", c) for c in capabilities])
    assert backend.has_bfloat16() == bfloat16
    if backend.BACKEND != "tensorflow":
        assert backend.jit_compile() == "auto"
        return
    assert backend.jit_compile() is jit
    with backend.on_hardware("float32", "all", 16):
        assert backend.jit_compile() is False


def test_precision_is_what_was_asked_for_and_ends_with_its_network():
    before = keras.config.dtype_policy().name
    for precision, policy in (("float32", "float32"), ("bfloat16", "mixed_bfloat16")):
        with pytest.raises(KeyError), backend.on_hardware(precision, "one", 16):
            assert keras.config.dtype_policy().name == policy
            raise KeyError
        assert keras.config.dtype_policy().name == before


def test_users_own_settings_of_keras_do_not_matter(tmp_path):
    (tmp_path / ".keras").mkdir()
    settings = {"image_data_format": "channels_first", "floatx": "float16", "epsilon": 1e-3,
                "backend": backend.BACKEND}
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(settings))
    said = lines(begin("settings.py", HOME=str(tmp_path), KERAS_HOME=str(tmp_path / ".keras")))
    # 512 * 4 * 0.03 channels are left at the end.
    assert said == ["channels_last float32 float32 60 float32"]


@pytest.mark.parametrize("name", ["tensorflow", "jax"])
def test_two_devices_share_a_batch_and_learn_the_same(name):
    pytest.importorskip(name)
    flags = "--xla_force_host_platform_device_count=2"
    said = lines(begin("two_devices.py", KERAS_BACKEND=name, XLA_FLAGS=flags, JAX_PLATFORMS="cpu"))
    assert "2 devices, 8 images of each batch on each" in said
    assert ("--devices all: 2 devices cannot share a batch of 17 equally; give another "
            "--batch-size") in said
    assert any("cannot share 41 validation images in batches of 256" in line for line in said)
    (one, two), difference = json.loads(said[-1])
    assert len(set(one)) == 6 and one == pytest.approx(two, abs=1e-4) and difference < 1e-3


def test_pytorch_has_no_shared_batches(monkeypatch):
    monkeypatch.setattr(backend, "BACKEND", "torch")
    monkeypatch.setattr(backend, "gpus", lambda: [])
    with pytest.raises(UserError, match="--devices all is for TensorFlow and JAX"):
        with backend.on_hardware("float32", "all", 16):
            pass
