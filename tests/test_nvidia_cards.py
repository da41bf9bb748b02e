"""noisy_student/nvidia_cards.py, with an nvidia-smi and folders of our own making."""

import pytest

from noisy_student import nvidia_cards
from noisy_student.nvidia_cards import Card, cards, missing

GTX = Card("NVIDIA GeForce GTX 1080 Ti", (6, 1), 11264, "580.95.05")
RTX = Card("NVIDIA GeForce RTX 3060", (8, 6), 12288, "575.64.03")
ASKED_FOR_ALL = 'case "$1" in --query-gpu=*) '


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes a machine: of an nvidia-smi (sh) and of files that Linux shows."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(nvidia_cards, "DRIVER", tmp_path / "driver")
    monkeypatch.setattr(nvidia_cards, "PCI", tmp_path / "pci")

    def make(smi="exit 9", **files):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return make


def test_cards_as_nvidia_smi_tells_them(machine):
    machine('echo "NVIDIA GeForce GTX 1080 Ti, 6.1, 11264, 580.95.05"\n'
            'echo "NVIDIA GeForce RTX 3060, 8.6, 12288, 575.64.03"')
    assert cards() == [GTX, RTX]
    assert nvidia_cards.nvidia_cards() == [GTX.name, RTX.name]


def test_what_nvidia_smi_does_not_know_is_none(machine):
    machine('echo "NVIDIA A100 MIG 1g.5gb, [N/A], [N/A], 580.95.05"')
    assert cards() == [Card("NVIDIA A100 MIG 1g.5gb", driver="580.95.05")]


def test_an_old_nvidia_smi_is_asked_again(machine):
    machine(ASKED_FOR_ALL + 'echo Field "compute_cap" is not a valid field to query.; exit 2;;\n'
            '-L) echo "GPU 0: GeForce GTX 1080 Ti (UUID: GPU-1)";; esac',
            driver__version="NVRM version: NVIDIA UNIX x86_64 Kernel Module  460.91.03  Fri\n")
    assert cards() == [Card("GeForce GTX 1080 Ti", driver="460.91.03")]


def test_without_nvidia_smi_linux_is_asked(machine):
    machine(driver__version="NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  R",
            **{"driver__gpus__0000:01:00.0__information":
               "Model: \t\t NVIDIA GeForce GTX 1080 Ti\nIRQ:   \t\t 33\n"})
    assert cards() == [Card(GTX.name, driver="580.95.05")]


@pytest.mark.parametrize("smi", ["exit 9", "echo No devices were found", "echo a, b, c, d; exit 1"])
def test_no_card(machine, smi):
    machine(smi)
    assert cards() == [] and nvidia_cards.driver_version() is None
    assert nvidia_cards.cards_on_the_bus() == 0


def test_an_nvidia_smi_that_does_not_answer(machine, monkeypatch):
    monkeypatch.setattr(nvidia_cards, "PATIENCE", 0.2)
    machine("exec sleep 5")
    assert cards() == []


def test_cards_on_the_bus(machine):
    machine(pci__a__vendor="0x10de\n", pci__a__class="0x030000\n",  # the card
            pci__b__vendor="0x10de\n", pci__b__class="0x040300\n",  # its sound
            pci__c__vendor="0x8086\n", pci__c__class="0x030000\n")  # another maker's
    assert nvidia_cards.cards_on_the_bus() == 1


PASCAL, LATER = "-e '.[gpu-pascal]'", "-e '.[gpu]'"


@pytest.mark.parametrize("command, situation", [
    # A card that the backend does not use.
    (PASCAL, {"found": [GTX], "used": []}),
    (LATER, {"found": [RTX], "used": []}),
    (LATER, {"found": [Card("a card of an old nvidia-smi")], "used": []}),
    ("-e '.[jax-gpu-pascal]'", {"name": "jax", "found": [GTX], "used": []}),
    ("torch==2.7.1", {"name": "torch", "found": [GTX], "used": []}),
    ("unset CUDA_VISIBLE_DEVICES", {"found": [GTX], "used": [], "hidden": "-1"}),
    ("nvidia-driver-580", {"found": [Card("GTX", (6, 1), 11264, "470.2")], "used": []}),
    # No driver that knows the card.
    ("nvidia-driver-580", {"found": [], "used": [], "on_the_bus": 1}),
    # A card that is used, and would fail.
    (PASCAL, {"found": [GTX], "used": [(6, 1)], "cudnn": (9, 24, 0)}),
    (PASCAL, {"found": [GTX, RTX], "used": [(6, 1), (8, 6)], "cudnn": (9, 11, 0)}),
    (LATER, {"found": [RTX], "used": [(8, 6)], "packages": ["tensorflow", "tensorflow-cpu"]}),
    ("none", {"found": [Card("GTX 980", (5, 2), 4096, "580.1")], "used": []}),
])
def test_what_is_missing(command, situation):
    _, told = missing(**{"name": "tensorflow", "cudnn": None} | situation)
    assert told.split("#")[0].strip().endswith(command)


@pytest.mark.parametrize("situation", [
    {"found": [], "used": []},
    {"found": [GTX], "used": [(6, 1)], "cudnn": (9, 10, 2)},
    {"found": [RTX], "used": [(8, 6)], "cudnn": (9, 24, 0)},
    {"found": [GTX], "used": [(6, 1)], "cudnn": (9, 24, 0), "name": "torch"},
])
def test_nothing_is_missing(situation):
    assert missing(**{"name": "tensorflow", "cudnn": None} | situation) is None
