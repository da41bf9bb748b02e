"""noisy_student/gpu.py and check.py, with cards, drivers and libraries of our own making."""

import shutil
import sys
from types import SimpleNamespace

import pynvml
import pytest

from cifar10_resnet50 import RECIPES
from noisy_student import check, gpu
from noisy_student.gpu import Card, missing

GTX = Card("NVIDIA GeForce GTX 1080 Ti", (6, 1), 11264, "580.95.05")
RTX = Card("NVIDIA GeForce RTX 3060", (8, 6), 12288, "575.64.03")
LARGE = Card("NVIDIA GeForce RTX 4090", (8, 9), 24564, "580.95.05")


class Driver:
    """Answers as NVIDIA's library does for two cards of one driver."""

    NVMLError = pynvml.NVMLError
    cards = GTX, RTX

    def nvmlInit(self):
        pass

    def nvmlSystemGetDriverVersion(self):
        return "580.95.05"

    def nvmlDeviceGetCount(self):
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, i):
        return self.cards[i]

    def nvmlDeviceGetName(self, card):
        return card.name

    def nvmlDeviceGetCudaComputeCapability(self, card):
        return list(card.capability)

    def nvmlDeviceGetMemoryInfo(self, card):
        return SimpleNamespace(total=card.memory_mib * 2**20)


def test_cards_as_the_driver_tells_them(monkeypatch):
    monkeypatch.setattr(gpu, "pynvml", Driver())
    assert gpu.nvidia_cards() == [GTX, Card(RTX.name, (8, 6), 12288, "580.95.05")]


def test_our_driver_answers_only_what_there_is_to_ask():
    assert all(hasattr(pynvml, name) for name in vars(Driver) if name.startswith("nvml"))


@pytest.mark.parametrize("question", ["nvmlInit", "nvmlDeviceGetCount"])
def test_a_driver_that_fails_shows_no_card(question, monkeypatch):
    def fail(*_):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    monkeypatch.setattr(gpu, "pynvml", Driver())
    monkeypatch.setattr(gpu.pynvml, question, fail)
    assert gpu.nvidia_cards() == []


def test_cards_on_the_bus(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PCI", tmp_path)
    # The card, its sound, another maker's card.
    for name, vendor, kind in (("a", "0x10de", "0x030000"), ("b", "0x10de", "0x040300"),
                               ("c", "0x8086", "0x030000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert gpu.cards_on_the_bus() == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the CUDA wheels are Linux's")
def test_libraries_of_the_cuda_wheels_are_loaded(tmp_path, monkeypatch):
    folder = tmp_path / "nvidia" / "cusolver" / "lib"
    folder.mkdir(parents=True)
    standing_in = next(line.split()[-1] for line in open("/proc/self/maps") if "libm.so" in line)
    shutil.copy(standing_in, folder / "libcusolver.so.11")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert gpu.load_cuda_libraries() == [folder / "libcusolver.so.11"]


PASCAL, LATER = "-e '.[gpu-pascal]'", "-e '.[gpu]'"


@pytest.mark.parametrize("command, situation", [
    # A card that the backend does not use.
    (PASCAL, {"cards": [GTX], "used": []}),
    (LATER, {"cards": [RTX], "used": []}),
    ("-e '.[jax-gpu-pascal]'", {"backend": "jax", "cards": [GTX], "used": []}),
    ("torch==2.7.1", {"backend": "torch", "cards": [GTX], "used": []}),
    ("unset CUDA_VISIBLE_DEVICES", {"cards": [GTX], "used": [], "hidden": "-1"}),
    ("nvidia-driver-580", {"cards": [Card("GTX", (6, 1), 11264, "470.2")], "used": []}),
    # No driver that knows the card.
    ("nvidia-driver-580", {"cards": [], "used": [], "on_the_bus": 1}),
    # A card that is used, and would fail.
    (PASCAL, {"cards": [GTX], "used": [(6, 1)], "cudnn": (9, 24, 0)}),
    (PASCAL, {"cards": [GTX, RTX], "used": [(6, 1), (8, 6)], "cudnn": (9, 11, 0)}),
    (LATER, {"cards": [RTX], "used": [(8, 6)], "packages": ["tensorflow", "tensorflow-cpu"]}),
    ("none", {"cards": [Card("GTX 980", (5, 2), 4096, "580.1")], "used": []}),
])
def test_what_is_missing(command, situation):
    _, remedy = missing(**{"backend": "tensorflow"} | situation)
    assert remedy.split("#")[0].strip().endswith(command)


@pytest.mark.parametrize("situation", [
    {"cards": [], "used": []},
    {"cards": [GTX], "used": [(6, 1)], "cudnn": (9, 10, 2)},
    {"cards": [RTX], "used": [(8, 6)], "cudnn": (9, 24, 0)},
    {"cards": [GTX], "used": [(6, 1)], "cudnn": (9, 24, 0), "backend": "torch"},
])
def test_nothing_is_missing(situation):
    assert missing(**{"backend": "tensorflow"} | situation) is None


# --- python -m noisy_student.check ----------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """A machine without a card, and one convolution where the article's network takes minutes."""
    monkeypatch.setattr(gpu, "nvidia_cards", list)
    monkeypatch.setattr(gpu, "cards_on_the_bus", int)
    monkeypatch.setattr(check, "article_network", check.one_convolution)


def test_a_cpu_trains_and_the_hours_of_each_recipe_are_told(small, capsys):
    assert check.main() == 0
    printed = capsys.readouterr().out
    assert "a convolution with a bias trains in float32: yes" in printed
    assert all(f"--recipe {name}: {check.EPOCHS[name]} epochs" in printed for name in check.EPOCHS)


def test_what_does_not_train_is_named_with_what_should_mend_it(small, monkeypatch, capsys):
    def no_kernel():
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(check, "one_convolution", no_kernel)
    assert check.main() == 1
    *_, problem, _, command = capsys.readouterr().out.splitlines()
    assert problem.endswith("PROBLEM: RuntimeError: no kernel image is available")
    assert command == "    python -m pip install -e '.[cpu]'"


def test_a_card_that_is_not_used_is_told(small, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "nvidia_cards", lambda: [GTX])
    monkeypatch.setattr(check, "complaints", list)
    assert check.main() == 1
    printed = capsys.readouterr().out
    assert "card: NVIDIA GeForce GTX 1080 Ti, compute capability 6.1, memory 11,264 MiB" in printed


def test_the_epochs_are_those_of_the_recipes():
    assert check.EPOCHS == {name: RECIPES[name].epochs for name in check.EPOCHS}


@pytest.mark.parametrize("cards, batch", [([GTX], 128), ([LARGE], 256), ([LARGE, GTX], 128)])
def test_a_batch_fits_into_the_smallest_card(cards, batch):
    assert check.batch_that_fits(cards) == batch
