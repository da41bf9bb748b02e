"""The NVIDIA cards and the driver of this machine, and what they need. Imports no Keras."""

import pathlib
import re
import subprocess
from dataclasses import dataclass

# What the driver shows of itself and of its cards, and what the kernel shows of any card.
DRIVER = pathlib.Path("/proc/driver/nvidia")
PCI = pathlib.Path("/sys/bus/pci/devices")
NVIDIA, DISPLAY = "0x10de", "0x03"
# Seconds that nvidia-smi may take; on a machine with many cards it takes some.
PATIENCE = 20
# Compute capabilities: below the first no backend has code, below the second the stack is an older
# one.
OLDEST, TURING = (6, 0), (7, 5)
# The first cuDNN without code for cards before Turing.
CUDNN_SINCE_TURING = (9, 11)
# The oldest driver that CUDA 12 takes, and the last that knows cards before Turing.
OLDEST_DRIVER, LAST_DRIVER = 525, 580
# What to install, by backend: for cards before Turing, and for others.
INSTALL = {
    "tensorflow": ("-e '.[gpu-pascal]'", "-e '.[gpu]'"),
    "jax": ("-e '.[jax-gpu-pascal]'", "-e '.[jax-gpu]'"),
    "torch": ("-e . torch==2.7.1", "-e . torch"),
}


@dataclass(frozen=True)
class Card:
    """A card, as the driver describes it; None is what it does not say."""

    name: str
    capability: tuple[int, int] | None = None
    memory_mib: int | None = None
    driver: str | None = None


def nvidia_cards():
    """The names of the cards that the driver shows, whether a backend uses them or not."""
    return [card.name for card in cards()]


def cards():
    """A Card for each that the driver shows: by nvidia-smi, or else by what Linux says of it."""
    columns = "name,compute_cap,memory.total,driver_version"
    rows = ask(f"--query-gpu={columns}", "--format=csv,noheader,nounits")
    found = [card_of(row) for row in rows if row.count(",") == 3]
    if found:
        return found
    # An nvidia-smi of before 2022 knows no compute_cap.
    names = [name for row in ask("-L") for name in re.findall(r"^GPU \d+: (.*?) \(UUID", row)]
    if not names:
        texts = (read(path) for path in sorted(DRIVER.glob("gpus/*/information")))
        names = [name for text in texts for name in re.findall(r"^Model:\s*(.+?)\s*$", text, re.M)]
    driver = driver_version()
    return [Card(name, driver=driver) for name in names]


def card_of(row):
    """The Card in one row of nvidia-smi's table, where a number may be [N/A]."""
    name, capability, memory, driver = (value.strip() for value in row.split(","))
    version = re.fullmatch(r"(\d+)\.(\d+)", capability)
    return Card(name, tuple(map(int, version.groups())) if version else None,
                int(memory) if memory.isdecimal() else None,
                driver if re.match(r"\d", driver) else None)


def driver_version():
    """The version of the driver that the kernel has loaded, like "580.95.05", or None."""
    version = re.search(r"\s(\d{3,}\.[\d.]+\d)\s", read(DRIVER / "version"))
    return version[1] if version else None


def cards_on_the_bus():
    """How many NVIDIA cards are in the machine, with or without a driver that knows them."""
    devices = [path.parent for path in PCI.glob("*/vendor") if read(path).strip() == NVIDIA]
    return sum(read(device / "class").startswith(DISPLAY) for device in devices)


def ask(*question):
    """The lines that nvidia-smi answers; none where it is absent, fails, or does not answer."""
    try:
        answer = subprocess.run(["nvidia-smi", *question], capture_output=True, timeout=PATIENCE)
    except (OSError, subprocess.SubprocessError):
        return []
    if answer.returncode:
        return []
    return answer.stdout.decode(errors="replace").splitlines()


def read(path):
    """A small file's text, or nothing."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def missing(name, found, used, cudnn, packages=(), on_the_bus=0, hidden=None):
    """(What keeps a GPU from training, the command that mends it), or None if nothing is known to.

    Args:
        name: the backend's. found: the Cards that the driver shows.
        used: the compute capabilities of the GPUs that the backend uses.
        cudnn: its version, like (9, 10, 2), or None. packages: the names of the installed ones.
        on_the_bus: how many NVIDIA cards are in the machine. hidden: CUDA_VISIBLE_DEVICES.
    """
    new_driver = f"sudo apt install nvidia-driver-{LAST_DRIVER}  # Ubuntu's name; then restart"
    if not found and not used:
        return (f"no driver shows the NVIDIA card that is in this machine ({LAST_DRIVER} is the "
                "last that knows GTX 10xx and V100; a container needs --gpus all)",
                new_driver) if on_the_bus else None
    capability = min((c for c in used or [card.capability for card in found] if c), default=TURING)
    remedy = environment_for(name, capability)
    if capability < OLDEST:
        return f"no backend has code for compute capability {dotted(capability)}", "none"
    if hidden in ("", "-1") and not used:
        return f"CUDA_VISIBLE_DEVICES='{hidden}' hides the card", "unset CUDA_VISIBLE_DEVICES"
    if name == "tensorflow" and {"tensorflow", "tensorflow-cpu"} <= set(packages):
        return "tensorflow and tensorflow-cpu are both installed, one over the other", remedy
    driver = next((card.driver for card in found if card.driver), None)
    if driver and int(driver.split(".")[0]) < OLDEST_DRIVER and not used:
        return f"driver {driver} is too old: CUDA 12 needs {OLDEST_DRIVER} or later", new_driver
    if not used:
        return f"the {name} that is installed here does not use the card", remedy
    if name != "torch" and capability < TURING and cudnn and cudnn >= CUDNN_SINCE_TURING:
        return f"cuDNN {dotted(cudnn)} has no code for this card", remedy
    return None


def environment_for(name, capability):
    """The command that makes an environment in which a backend trains on such a card."""
    what = INSTALL[name][capability >= TURING]
    return f"python -m venv .venv-gpu && .venv-gpu/bin/python -m pip install {what}"


def dotted(version):
    return ".".join(map(str, version))
