"""Measures and trains on a CUDA card in the minutes it can be had, the most telling first.

    python benchmarks/gpu.py --dry-run                # first of all: two steps of each on the CPU
    python benchmarks/gpu.py --pack data-real/cifar10 data-real/imagenet_pool data-real/packed
    python benchmarks/gpu.py --minutes 9 --out logs/gpu
    python benchmarks/gpu.py --table logs/gpu results/gpu

--pack writes a labelled set as four arrays and the unlabelled photos as one archive, so that 60,000
files need not be opened again. The run works down a list of pieces, each a process of its own:

check    python -m noisy_student.check
speed    a training step of the article's network and of the small one, through Keras and in plain
         PyTorch; how long a step of the small one waits for its batch; RandAugment
small    the small network, all labels and the photos, six cells: experiment.py's all-labels
rest     4,000 labels, the small network, what is left without a label as the photos: labels-4000,
         and with five times the steps and averaged weights: long-4000 and, for comparison, long-all
crossing the noisy teacher and its student with fewer labels, and with more: crossing-*
article  the article's ResNet50 with recipe fast: teacher, noisy teacher, student of the latter,
         with as many epochs as there is time for
more     the other precisions and sizes of batches, and how long the article's network waits

--only names some pieces, or how their names begin, and gives each all of the minutes. The small
network leaves much of a card idle: its experiments may run side by side, each with a command of its
own and the same --out.

What a stage leaves of its share of the minutes goes to the next. A piece that takes longer than its
stage has is stopped; what it has finished stays (of an experiment, each cell). Each piece leaves
NAME.json and NAME.log. The same command goes on where it was. --archive keeps a copy of all but
the networks in one small file, written anew after each piece, for a machine that is taken away.

--table reads such a folder, or what --archive kept of it, and writes results/gpu: README.md of the
measurements, and what eval.py says of each experiment.

--dry-run also prints which minutes a card would need. They are computed from FLOP and from what an
H100 reached: see ASSUMED and START.
"""

import argparse
import importlib.util
import json
import math
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from typing import NamedTuple

import numpy as np
from measure import ROOT, gpu_name, in_turns, machine, spread, table, versions
from training import PLAIN, Network, matrix_product, plain_torch, training_flops, with_keras

from experiment import CROSSING, EXPERIMENTS
from noisy_student.arguments import BACKENDS
from noisy_student.files import UserError, run_script, whole_file, write_json

# FLOP of a training step for one image, see training_flops.
FLOPS = {"article": 23.9e9, "small": 0.40e9}
# What a card reaches of it, FLOP per second: an H100 with JAX, in bfloat16 (results/gpu).
ASSUMED = {"article": 225e12, "small": 90e12}
# Seconds until the first step is done there: Python, Keras and the compiler's.
START = {"article": 78, "small": 32}
# Of any other command.
COMMAND = 15
# Images of one turn: a second's work or so.
TURN = {"article": 4096, "small": 65536}
ROUNDS = 2
# Together on the card, three contenders hold three networks: above this batch it is one at a time.
LARGEST_TOGETHER = 512
BATCHES = (512, 64, 256, 1024, 2048)
PRECISIONS = ("bfloat16", "tf32", "float32")
# Of the article's network: large enough for a card, and small enough for AdamW at recipe fast's
# rate. To be tried.
ARTICLE_BATCH = 256
LONG = ("long-4000", "long-all")
THREE = "teacher noisy_teacher student_of_noisy".split()
# Seconds in which some cells of an experiment's first seed can be done.
ONE_SEED = 90
# Images of CIFAR-10 that an epoch trains on.
TRAINED_ON = 45_000
# Folder of what JAX has compiled.
CACHE = "jax-cache"
# Seconds at the end that belong to no piece.
RESERVE = 5


class Piece(NamedTuple):
    """A command: words after python, the seconds that it is expected to take, and what it does."""

    name: str
    words: list
    seconds: float
    note: str = ""
    # Whether it goes on as long as it may. It is worth beginning if there are `seconds`.
    endless: bool = False
    # None: the first of installed().
    backend: str | None = None


class Setting(NamedTuple):
    """Where data come from and results go, and how large everything is."""

    data: str
    photos: str
    out: pathlib.Path
    # True: two steps of everything.
    dry: bool = False
    # How many cells are made at a time. The small network leaves a card idle most of the time.
    jobs: int = 2

    def network(self, case):
        if self.dry:
            return Network("small", 1 / 16) if case == "small" else Network("resnet", 1 / 16, 14)
        return Network("small") if case == "small" else Network("resnet")

    @property
    def batch(self):
        """Of what is measured first."""
        return 16 if self.dry else BATCHES[0]

    def images(self, case):
        """Of one turn."""
        return 32 if self.dry else TURN[case]


# --- what there is to do --------------------------------------------------------------------------


def check(setting, left):
    # PyTorch compiles nothing and is done in seconds; the others follow at the end.
    yield check_of("torch" if "torch" in installed() else installed()[0])


def check_of(name):
    return Piece(f"check-{name}", ["-m", "noisy_student.check"], 2 * COMMAND, backend=name)


def speed(setting, left):
    for case in FLOPS:
        yield speed_of(setting, case, PRECISIONS[2 if setting.dry else 0], setting.batch)
    yield stall_of(setting, "small")
    yield measurement("rand_augment", {"data": setting.data}, setting, COMMAND, "on one core")


def small(setting, left):
    yield known("all-labels", setting, 20 * TRAINED_ON, setting.photos)


def rest(setting, left):
    yield known("labels-4000", setting, 8 * 44 * 512)
    for name in LONG:
        yield known(name, setting, 40 * 44 * 512)


def crossing(setting, left):
    for labelled in CROSSING:
        name = f"crossing-{labelled}"
        # A card is fast enough for the full width.
        flags = EXPERIMENTS[name].flags.replace(" --width 0.25", "")
        yield known(name, setting, 8 * 44 * 512, flags=flags)


def article(setting, left):
    epochs, seconds, backend = article_epochs(setting, left())
    if not epochs and not setting.dry:
        print(f"article: no time for an epoch each, {seconds:.0f} seconds are expected", flush=True)
        return
    flags = f"--recipe fast --batch-size {ARTICLE_BATCH} --epochs {epochs}"
    # The teacher and the noisy teacher side by side: one computes while the other starts.
    words = ["--data", setting.data, "--images", setting.photos, "--seeds", "0", "--cells", *THREE,
             "--flags", tiny(flags) if setting.dry else flags]
    yield experiment("article", setting, words, seconds, f"{epochs} epochs each", backend, jobs=2)


def more(setting, left):
    if setting.dry:
        yield speed_of(setting, "small", "bfloat16", 8)
        return
    yield stall_of(setting, "article")
    for precision in PRECISIONS[1:]:
        for case in FLOPS:
            yield speed_of(setting, case, precision, BATCHES[0])
    for case in FLOPS:
        yield speed_of(setting, case, PRECISIONS[0], BATCHES[0], compiled=True)
    for batch in BATCHES[1:]:
        for precision in PRECISIONS[::2]:
            for case in FLOPS:
                yield speed_of(setting, case, precision, batch)
    for name in installed():
        yield check_of(name)


# The stages, and their shares of the minutes. The last ones have what the others leave.
STAGES = {check: 0.06, speed: 0.24, small: 0.3, rest: 0.1, crossing: 0.15, article: 0.15, more: 0}


def speed_of(setting, case, precision, batch, compiled=False):
    name = f"speed-{case}-{precision}-{batch}{'-compiled' if compiled else ''}"
    words = {"case": case, "precision": precision, "batch": batch, "compiled": compiled}
    turns = 4 * (ROUNDS + 1) * TURN[case] * FLOPS[case] / ASSUMED[case]
    return measurement("speed", words, setting, START[case] + turns, name=name)


def stall_of(setting, case):
    words = {"data": setting.data, "case": case, "batch": setting.batch}
    return measurement("stall", words, setting, START[case] + COMMAND, name=f"stall-{case}")


def measurement(what, words, setting, seconds, note="", name=None):
    """A Piece that one of MEASUREMENTS makes, in a process of this script's."""
    words = {**words, "dry": setting.dry}
    command = ["benchmarks/gpu.py", "--measure", what, json.dumps(words)]
    return Piece(name or what, command, seconds, note)


def known(name, setting, images, photos=None, flags=None):
    """A Piece that is one of experiment.py's, whose finished cells are there even if it is stopped.

    Args:
        images: number of those that a cell trains on. photos, flags: None: the experiment's own.
    """
    entry = EXPERIMENTS[name]
    seeds = [0] if setting.dry else entry.seeds
    words = [name, "--data", setting.data, "--seeds", *map(str, seeds)]
    words += ["--images", photos] if photos else []
    if setting.dry:
        flags = tiny(flags or entry.flags)
    words += ["--flags", flags] if flags else []
    cells = len(entry.cells) * len(entry.seeds)
    cost = cells * training_seconds("small", images, setting)
    return experiment(name, setting, words, ONE_SEED, f"{cost:.0f} seconds, one cell after another",
                      installed()[0], setting.jobs, endless=True)


def experiment(name, setting, words, seconds, note, backend, jobs, endless=False):
    place = from_root(setting.out / name)
    if setting.dry:
        # Next to nothing has been learnt, so that no teacher is confident.
        words = [*words, "--label-flags", "--threshold 0"]
    words = ["experiment.py", "run", *words, "--jobs", str(jobs), "--out", place,
             "--eval-flags", f"--out {shlex.quote(place)}/figures"]
    return Piece(name, words, seconds, note, endless, backend)


def from_root(path):
    """A path as the commands have it, which run in the folder of the scripts."""
    return os.path.relpath(path, ROOT)


def tiny(flags):
    """The flags of an experiment, of whose network and steps next to nothing is left."""
    words = [] if "--network small" in flags else ["--depth", "14"]
    labelled = ["--num-labeled", "80"] if "--num-labeled" in flags else []
    kept = shlex.split(flags.partition(" --num-labeled")[0].partition(" --batch-size")[0])
    # Two steps are too few for an average.
    return shlex.join([*kept, *words, *labelled, "--width", "0.0625", "--batch-size", "16",
                       "--epochs", "1", "--steps-per-epoch", "2", "--averaging", "0"])


# --- how long it takes ----------------------------------------------------------------------------


def installed():
    """The backends of this environment, the fastest first.

    An H100 trains the small network 14 times as fast with JAX as with PyTorch, both through Keras.
    What JAX compiles in half a minute, other processes find in its cache.
    """
    return [name for name in ("jax", "torch", "tensorflow") if importlib.util.find_spec(name)]


def measured_speeds(setting, case):
    """{backend: (seconds until the first step is done, images per second)}, in the best precision.

    Empty where nothing has been measured.
    """
    for precision in PRECISIONS:
        path = setting.out / f"speed-{case}-{precision}-{setting.batch}.json"
        result = path.exists() and json.loads(path.read_text())["result"]
        if result:
            return {key: (result["preparation"][name], float(np.median(result["rates"][name])))
                    for key, name in BACKENDS.items() if name in result["rates"]}
    return {}


def training_seconds(case, images, setting=None):
    """Of one training: by what has been measured, or else by what is assumed."""
    speeds = measured_speeds(setting, case) if setting else {}
    speeds = speeds or {"assumed": (START[case], ASSUMED[case] / FLOPS[case])}
    return min(start + images / rate for start, rate in speeds.values())


def article_epochs(setting, seconds):
    """How many epochs each training of the article's network can have, in so many seconds for all.

    Returns: epochs, the seconds that are expected for them (for one, if there are none), and the
        backend that has time for the most.
    """
    begun = setting.out / "article" / "seed0" / "teacher" / "run.json"
    if begun.exists():
        # What was begun goes on as it was begun.
        run = json.loads(begun.read_text())
        return run["arguments"]["epochs"], seconds, run["versions"]["backend"]
    speeds = measured_speeds(setting, "article") or {
        installed()[0]: (START["article"], ASSUMED["article"] / FLOPS["article"])}

    def all_of(epochs, start, rate):
        # Two of three starts are one after the other. An epoch also validates and saves its state.
        return 2 * start + 3 * COMMAND + len(THREE) * epochs * (TRAINED_ON / rate + 3)

    def most(start, rate):
        return sum(all_of(epochs, start, rate) < seconds for epochs in range(1, 301))

    backend = max(speeds, key=lambda name: most(*speeds[name]))
    epochs = most(*speeds[backend])
    return epochs, all_of(max(1, epochs), *speeds[backend]), backend


def work_down(setting, seconds, clock, do, only=None):
    """Goes through all stages.

    Args:
        seconds: for all of it. clock: clock() says how many seconds have passed.
        do: do(piece, limit) does a piece in so many seconds at most.
        only: how the names of the pieces begin that are done; None: all.

    Raises: UserError: No piece begins as one of `only` says.
    """
    end, names = 0.0, []
    for stage, share in STAGES.items():
        end = seconds if only or not share else end + share * seconds

        def left(end=end):
            return end - clock()
        for piece in stage(setting, left):
            names.append(piece.name)
            if only and not piece.name.startswith(tuple(only)):
                continue
            if setting.dry:
                # A busy CPU may take long, but not for ever.
                do(piece, 3600)
            elif piece.seconds <= left():
                do(piece, left())
            elif stage is not more:
                print(f"{piece.name}: no time, {piece.seconds:.0f} seconds are expected, "
                      f"{left():.0f} are left", flush=True)
    for name in only or []:
        if not any(each.startswith(name) for each in names):
            raise UserError(f"--only {name}: no piece begins so; there are {', '.join(names)}")


def print_expectation(setting, minutes):
    """Prints which pieces a card would do in so many minutes, if it is as fast as is assumed."""
    rows, spent = [], 0.0

    def pretend(piece, limit):
        nonlocal spent
        seconds = limit if piece.endless else piece.seconds
        spent += seconds
        rows.append([piece.name, f"{seconds / 60:.1f}", f"{spent / 60:.1f}", piece.note])

    print(f"Expected of a card in {minutes:g} minutes, if it trains the article's network at "
          f"{ASSUMED['article'] / 1e12:.0f} TFLOP/s and the small one at "
          f"{ASSUMED['small'] / 1e12:.0f}, as an H100 does:\n")
    work_down(setting, 60 * minutes - RESERVE, lambda: spent, pretend)
    print("\n" + table(["piece", "minutes", "done after", ""], rows) + "\n", flush=True)


# --- one piece ------------------------------------------------------------------------------------


def run_piece(piece, setting, limit, archive=None):
    """Runs a piece, unless it is done already, and writes what came of it.

    Args:
        limit: seconds after which it is stopped. archive: as --archive.
    """
    path, log = setting.out / f"{piece.name}.json", setting.out / f"{piece.name}.log"
    if path.exists() and json.loads(path.read_text())["ended"] == "done":
        return
    backend = piece.backend or installed()[0]
    command = ["python", *piece.words]
    # Several processes share the card, and what JAX compiles for one of them.
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONUNBUFFERED": "1",
                                "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if "--measure" not in piece.words:
        environment |= {"JAX_COMPILATION_CACHE_DIR": str(setting.out / CACHE),
                        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    print(f"{piece.name}, {BACKENDS[backend]}, at most {limit:.0f} seconds", flush=True)
    started = time.monotonic()
    with open(log, "w") as file:
        process = subprocess.Popen([sys.executable, *piece.words], stdout=file, cwd=ROOT,
                                   stderr=subprocess.STDOUT, env=environment, process_group=0)
        try:
            status = process.wait(limit)
            ended = "failed" if status else "done"
        except subprocess.TimeoutExpired:
            ended = "stopped"
        finally:
            # With all that it has started.
            kill_group(process)
    seconds = time.monotonic() - started
    lines = log.read_text(errors="replace").splitlines()
    write_json(path, {"piece": piece.name, "command": shlex.join(command), "backend": backend,
                      "ended": ended, "seconds": round(seconds, 1), "expected": piece.seconds,
                      "result": result_of(lines) if ended == "done" else None,
                      "last_lines": lines[-40:]})
    if archive:
        keep_copy(setting.out, archive)
    print(f"{piece.name}: {ended} after {seconds:.0f} seconds"
          + (f": {lines[-1][:200]}" if ended == "failed" and lines else ""), flush=True)


def kill_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        # All have ended by themselves.
        pass
    process.wait()


def result_of(lines):
    """The last line of a measurement that is JSON; None, where there is none."""
    for line in reversed(lines):
        if line.startswith("{"):
            return json.loads(line)
    return None


def keep_copy(folder, archive):
    """All of a folder but networks and what is needed to go on, as one .tar.gz."""
    large = (".keras", "backup.npz", "x.npy", "y.npy", "merge.npz", ".lock")

    def small_one(member):
        left_out = member.name.endswith(large) or "/toy" in member.name or CACHE in member.name
        return None if left_out else member

    with whole_file(archive) as beside, tarfile.open(beside, "w:gz", compresslevel=3) as file:
        file.add(folder, folder.name, filter=small_one)


# --- the measurements -----------------------------------------------------------------------------


def measure_speed(case, precision, batch, compiled, dry):
    """All contenders on one network: {"rates": {who: images/s}, "preparation": {who: seconds}}."""
    setting = Setting("", "", None, dry)
    network, steps = setting.network(case), max(2, setting.images(case) // batch)
    contenders = {"matrix product": (matrix_product, precision)}
    if compiled:
        contenders[f"{PLAIN}, compiled"] = plain_torch, network, batch, steps, precision, True
    else:
        contenders[PLAIN] = plain_torch, network, batch, steps, precision, False
        for backend in installed():
            # On a CPU, JAX compiles a ResNet for hours.
            if backend != "jax" or gpu_name() or case == "small":
                contenders[BACKENDS[backend]] = (with_keras, network, batch, steps, backend,
                                                 precision)
    together = [contenders] if batch <= LARGEST_TOGETHER else [
        {name: contender} for name, contender in contenders.items()]
    rates, absent, preparation = {}, {}, {}
    for some in together:
        fresh, why = in_turns(some, 1 if dry else ROUNDS, 0, preparation)
        rates, absent = rates | fresh, absent | why
    return {"case": case, "precision": precision, "batch": batch, "network": list(network),
            "rates": as_lists(rates), "absent": absent, "preparation": preparation}


def measure_stall(data, case, batch, dry):
    """{"milliseconds": {"generator" or "constant": of a step, in each round}}."""
    from input_path import fed_by_constant, fed_by_generator

    setting = Setting("", "", None, dry)
    network, steps = setting.network(case), max(2, 3 * setting.images(case) // batch)
    rates, absent = in_turns({"generator": (fed_by_generator, data, network, batch, steps),
                              "constant": (fed_by_constant, 10, network, batch, steps)},
                             1 if dry else ROUNDS, 0)
    if absent:
        raise UserError(str(absent))
    return {"case": case, "batch": batch, "milliseconds": {
        name: (1000 * batch / of_one).tolist() for name, of_one in rates.items()}}


def measure_rand_augment(data, dry):
    """{"rates": {what: images/s on one core}}."""
    from rand_augment import FLOOR, floor, ours, timm, torchvision_pillow

    x = np.load(pathlib.Path(data, "x_test.npy"))[:4096]
    contenders = {"compiled_augment, batch 512": (ours, x, 512), FLOOR: (floor, x, 512),
                  "timm rand-m9-n2, p 1 (Pillow)": (timm, x),
                  "torchvision v2 (Pillow)": (torchvision_pillow, x)}
    rates, absent = in_turns(contenders, 1 if dry else ROUNDS, 0 if dry else 0.3)
    return {"rates": as_lists(rates), "absent": absent}


def as_lists(arrays):
    return {name: array.tolist() for name, array in arrays.items()}


MEASUREMENTS = {"speed": measure_speed, "stall": measure_stall,
                "rand_augment": measure_rand_augment}


# --- data -----------------------------------------------------------------------------------------


def pack(labelled, photos, folder):
    """A labelled set as four arrays, whose classes keep their names, and photos as one archive."""
    from noisy_student.data import load_data

    data = load_data(labelled)
    place = pathlib.Path(folder, "labelled")
    place.mkdir(parents=True, exist_ok=True)
    for name in ("x", "y", "x_test", "y_test"):
        part = name if name.endswith("test") else f"{name}_train"
        np.save(place / f"{part}.npy", getattr(data, name))
    (place / "classes.txt").write_text("\n".join(data.class_names) + "\n", encoding="utf-8")
    write_json(pathlib.Path(folder, "about.json"),
               {"jpeg": data.names[0].lower().endswith((".jpg", ".jpeg"))})
    archive = pathlib.Path(folder, "photos.tar")
    with whole_file(archive) as beside, tarfile.open(beside, "w") as file:
        file.add(photos, "photos")
    print(f"{place}: {len(data.x):,} training and {len(data.x_test):,} test images; {archive}")


def draw_and_pack(folder):
    """Drawn pictures, where the real ones are not to be had. Returns: where they are."""
    toy = folder / "toy"
    if not (toy / "packed" / "photos.tar").exists():
        subprocess.run([sys.executable, str(ROOT / "data" / "make_toy.py"), str(toy / "drawn"),
                        "--per-class-train", "30", "--per-class-test", "20", "--unlabeled", "200"],
                       check=True)
        pack(toy / "drawn", toy / "drawn" / "unlabeled", toy / "packed")
    return toy / "packed"


# --- results/gpu ----------------------------------------------------------------------------------


def make_tables(folder, place):
    """Writes README.md of a run's folder, and what eval.py says of its experiments, to `place`."""
    pieces = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    about = [piece for piece in pieces if "machine" in piece]
    pieces = [piece for piece in pieces if "piece" in piece]
    if not about or not pieces:
        raise UserError(f"{folder}: nothing there yet. Run: python benchmarks/gpu.py --out "
                        f"{folder}")
    experiments = []
    crossings = [f"crossing-{labelled}" for labelled in CROSSING]
    for name in ("all-labels", "labels-4000", *LONG, *crossings, "article"):
        if list(folder.glob(f"{name}/seed*/*/predictions.npz")):
            subprocess.run([sys.executable, str(ROOT / "eval.py"), str(folder / name),
                            "--out", str(place / name)], check=True)
            cells = (place / name / "results.md").read_text(encoding="utf-8")
            # The table alone: what it means is said once, on the other page.
            rows = [line for line in cells.partition("## The cells")[2].partition("## ")[0]
                    .splitlines() if line.startswith("|")]
            experiments += [f"### {name}", "\n".join(rows),
                            f"[All tables and answers]({name}/results.md)"]
    about = about[0]
    # What is to be said of a run besides.
    notes = [path.read_text(encoding="utf-8").strip() for path in folder.glob("notes.md")]
    if about["jpeg"]:
        experiments.append("The images are a JPEG copy of CIFAR-10, with which others report 2 to "
                           "3 points less than with its own files.")
    parts = ["# On a CUDA card",
             "\n".join(f"    {command}" for command in about["commands"]),
             f"On {about['machine']}. {about['card']}. {about['versions']}.",
             *notes,
             "## Accuracy", *(experiments or ["No training is finished."]),
             "## A training step",
             "JAX and PyTorch are those of Keras. Images per second: median (range) of the rounds.",
             speed_table(pieces), "## What a step waits for",
             *stall_lines(pieces), "## RandAugment on one core", *augment_lines(pieces),
             "## Minutes of each piece", piece_table(pieces)]
    place.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(parts) + "\n"
    (place / "README.md").write_text(text, encoding="utf-8")
    print(text)


def speed_table(pieces):
    rows = []
    for result in (piece["result"] for piece in pieces if piece["piece"].startswith("speed-")):
        if not result:
            continue
        # Counted anew, from the shapes of the network that was trained.
        flops = training_flops(Network(*result["network"]))
        product = np.median(result["rates"].get("matrix product", math.nan))
        for who, rates in result["rates"].items():
            if who != "matrix product":
                reached = np.median(rates) * flops / 1e12
                share = "" if math.isnan(product) else f"{100 * reached / product:.0f} %"
                rows.append([result["case"], result["precision"], result["batch"], who,
                             spread(rates), f"{reached:.3g}", share,
                             f"{result['preparation'][who]:.0f}"])
        for who, why in result["absent"].items():
            rows.append([result["case"], result["precision"], result["batch"], who,
                         f"absent: {why}", "", "", ""])
    return table(["network", "precision", "batch", "through", "images/s", "10^12 FLOP/s",
                  "of a large matrix product's", "seconds until the first step is done"], rows)


def stall_lines(pieces):
    rows = []
    for piece in pieces:
        if piece["piece"].startswith("stall") and piece["result"]:
            result, times = piece["result"], piece["result"]["milliseconds"]
            ratio = np.array(times["generator"]) / np.array(times["constant"])
            rows.append([result["case"], BACKENDS[piece["backend"]], result["batch"],
                         *(spread(times[name]) for name in ("generator", "constant")),
                         spread(ratio, 3)])
    if not rows:
        return ["Not measured."]
    return ["Milliseconds per step.", table(["network", "", "batch", "fed by the generator",
                                             "fed one constant batch", "ratio, at most 1.02"],
                                            rows)]


def augment_lines(pieces):
    for piece in pieces:
        if piece["piece"] == "rand_augment" and piece["result"]:
            rows = [[who, spread(rates)] for who, rates in piece["result"]["rates"].items()]
            rows += [[who, f"absent: {why}"] for who, why in piece["result"]["absent"].items()]
            return [table(["", "images/s"], rows)]
    return ["Not measured."]


def piece_table(pieces):
    rows = [[piece["piece"], BACKENDS[piece["backend"]], piece["ended"],
             f"{piece['seconds'] / 60:.1f}", f"{piece['expected'] / 60:.1f}",
             f"`{piece['command']}`"] for piece in pieces]
    return table(["piece", "backend", "", "minutes", "expected", "command"], rows)


# --- the command line -----------------------------------------------------------------------------


def describe_machine(args, data, path):
    from noisy_student.gpu import cudnn_version, dotted, nvidia_cards

    cards = [f"{card.name}, compute capability {dotted(card.capability)}, "
             f"{card.memory_mib:,} MiB, driver {card.driver}" for card in nvidia_cards()]
    cudnn = cudnn_version()
    known = json.loads(path.read_text()) if path.exists() else {"commands": []}
    if known.get("dry", args.dry_run) != args.dry_run:
        raise UserError(f"{path.parent}: a dry run and another one do not go together; "
                        "choose another --out")
    before = known["commands"]
    command = shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]])
    write_json(path, {
        **json.loads((data / "about.json").read_text()), "minutes": args.minutes,
        "dry": args.dry_run,
        "machine": machine(), "card": "; ".join(cards) or "No card",
        # Of --only, several may have made what is there.
        "commands": before + [command] * (command not in before),
        "versions": versions("keras", "jax", "torch", "tensorflow", "tensorflow-cpu", "numba",
                             "numpy", "pillow")
        + f", cuDNN {dotted(cudnn) if cudnn else 'not found'}"})


def main():
    flags = argparse.ArgumentParser(description=__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--minutes", type=float, default=9, help="for all of it (9)")
    flags.add_argument("--out", type=pathlib.Path,
                       help="(logs/gpu, and of a dry run logs/gpu-dry)")
    flags.add_argument("--data", type=pathlib.Path, default="data-real/packed",
                       help="a folder that --pack has written (data-real/packed)")
    flags.add_argument("--archive", type=pathlib.Path, help="a .tar.gz of all but the networks")
    flags.add_argument("--only", nargs="+", metavar="PIECE", help="some of the pieces")
    flags.add_argument("--jobs", type=int, default=max(1, 3 * (os.cpu_count() or 1) // 8),
                       help="how many cells of the small network are made at a time (3/8 of the "
                            "cores)")
    flags.add_argument("--dry-run", action="store_true")
    flags.add_argument("--pack", nargs=3, metavar=("SET", "PHOTOS", "FOLDER"))
    flags.add_argument("--table", nargs=2, type=pathlib.Path, metavar=("FOLDER", "RESULTS"))
    # Of the processes that this one starts.
    flags.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = flags.parse_args()
    if args.measure:
        print(json.dumps(MEASUREMENTS[args.measure[0]](**json.loads(args.measure[1]))))
    elif args.pack:
        pack(*args.pack)
    elif args.table:
        make_tables(*(path.resolve() for path in args.table))
    else:
        run(args)


def run(args):
    started = time.monotonic()
    out = (args.out or ROOT / "logs" / ("gpu-dry" if args.dry_run else "gpu")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    data = draw_and_pack(out) if args.dry_run else args.data.resolve()
    if not (data / "photos.tar").is_file():
        raise UserError(f"{data}: holds no photos.tar; make it first: "
                        "python benchmarks/gpu.py --pack SET PHOTOS FOLDER")
    describe_machine(args, data, out / "machine.json")
    setting = Setting(from_root(data / "labelled"), from_root(data / "photos.tar"), out,
                      args.dry_run, 2 if args.dry_run else args.jobs)
    if args.dry_run:
        # As if nothing had been measured, and all were of full size.
        print_expectation(setting._replace(out=out / "nothing", dry=False), args.minutes)
    work_down(setting, 60 * args.minutes - RESERVE, lambda: time.monotonic() - started,
              lambda piece, limit: run_piece(piece, setting, limit, args.archive),
              args.only)


if __name__ == "__main__":
    run_script(main)
