"""What the benchmarks share: contenders measured in turns, tables, and which machine it was.

Machines differ and are disturbed. What is compared is therefore measured in one run, all contenders
once per round, and the ratios are those of one round; tables give the median of the rounds and, in
brackets, their range.
"""

import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from noisy_student.files import write_json  # noqa: E402

# Before a benchmark imports Keras, here and in the process of a contender.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# A notebook's choice may be a module that is not there.
os.environ["MPLBACKEND"] = "agg"


def in_turns(contenders, rounds=5, seconds=0.5, preparation=None):
    """Runs every contender for a while, then all of them again, `rounds` times.

    Each lives in a process of its own, so that libraries do not disturb each other, and waits while
    another has its turn.

    Args:
        contenders: {name: (prepare, *arguments)}, all picklable; prepare(*arguments) gives a
            function that does some work and returns how many images that was.
        seconds: how long at least a turn takes; 0: the work is done once.
        preparation: a dictionary, which is given the seconds until each had worked once.

    Returns: {name: float array (rounds,) of images per second}, and {name: why} of those that could
        not run.
    """
    context = multiprocessing.get_context("spawn")
    runners, rates, absent = {}, {}, {}
    try:
        for name, contender in contenders.items():
            show(f"preparing: {name}")
            runners[name], there = context.Pipe()
            context.Process(target=and_end, args=(take_turns, there, *contender)).start()
            there.close()
            rates[name] = []
        # The first round is only whether it works.
        for number in range(rounds + 1):
            for name in list(rates):
                show(f"round {number} of {rounds}: {name}")
                try:
                    runners[name].send(seconds if number else None)
                    answer = runners[name].recv()
                except (EOFError, OSError):
                    answer = "crashed"
                if isinstance(answer, str):
                    absent[name] = answer
                    del rates[name]
                elif number:
                    rates[name].append(answer)
                elif preparation is not None:
                    preparation[name] = answer
    finally:
        for runner in runners.values():
            # At which its process ends.
            runner.close()
    show("")
    return {name: np.array(values) for name, values in rates.items()}, absent


def and_end(function, *arguments):
    """Calls a function in a process of its own, and ends it at once.

    At its end, a child of multiprocessing would wait for joblib's workers, which idle for a minute.
    """
    function(*arguments)
    os._exit(0)


def take_turns(pipe, prepare, *arguments):
    """The life of a contender's process.

    Whenever a number of seconds comes in, it works so long and answers with images per second; to
    None, with how many seconds it took until it had worked once.
    """
    begin = time.perf_counter()
    try:
        work = prepare(*arguments)
        # Compiles, and fills caches.
        work()
        prepared = time.perf_counter() - begin
    except Exception as error:
        # Whatever stands in the way of a contender is told, not hidden.
        said = (str(error).splitlines() or [""])[0][:60]
        work, trouble = None, f"{type(error).__name__}: {said}"
    while True:
        try:
            seconds = pipe.recv()
        except EOFError:
            return
        if work is None:
            pipe.send(trouble)
            return
        if seconds is None:
            # It works.
            pipe.send(prepared)
            continue
        if seconds:
            # Back into the processor's caches.
            work()
        images, begin, elapsed = 0, time.perf_counter(), 0.0
        while elapsed <= seconds:
            images += work()
            elapsed = time.perf_counter() - begin
        pipe.send(images / elapsed)


def peak_memory(prepare, *arguments):
    """The largest resident memory, in MiB, of a process that lets a contender work twice."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=and_end,
                    args=(report_peak, there, prepare, *arguments)).start()
    there.close()
    return here.recv()


def report_peak(pipe, prepare, *arguments):
    import resource

    work = prepare(*arguments)
    work()
    work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    pipe.send(peak / (1024 if sys.platform == "linux" else 2**20))


def remembered(path, key, make):
    """What a JSON file keeps under a key; made and kept first, where it is not there yet."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if key not in kept:
        kept[key] = make()
        write_json(path, kept)
    return kept[key]


def show(text):
    """One line that is overwritten by the next, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r{text:79.79}", end="" if text else "\r", file=sys.stderr, flush=True)


def spread(values, digits=None):
    """Median and range of an array as text."""
    low, middle, high = np.min(values), np.median(values), np.max(values)
    if digits is None:
        digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def table(head, rows):
    """A Markdown table that can be read as plain text too."""
    rows = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        lines.append(f"| {' | '.join(cells)} |")
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def write(name, title, *parts):
    """Prints the parts, and writes them to results/benchmarks/<name>.md.

    The command and the machine stand above them.
    """
    words = [f"benchmarks/{pathlib.Path(sys.argv[0]).name}", *sys.argv[1:]]
    text = "\n\n".join([f"# {title}", f"`python {shlex.join(words)}`, on {machine()}.", *parts])
    print(text)
    path = ROOT / "results" / "benchmarks" / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"\nwritten: {path.relative_to(ROOT)}")


def machine():
    """Processor, cores, memory, system and Python in one line."""
    memory = 0
    if hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    facts = [processor(), f"{os.cpu_count()} cores", f"{memory:.0f} GiB", platform.system(),
             f"Python {platform.python_version()}", gpu_name()]
    return ", ".join(fact for fact in facts if fact)


def processor():
    """Its name; where a virtual machine hides the model, its family and model number too."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict([part.strip() for part in line.split(":", 1)] for line in lines if ":" in line)
    name = facts.get("model name", platform.machine())
    return f"{name} (family {facts.get('cpu family')}, model {facts.get('model')})"


def gpu_name():
    """The name of the first NVIDIA card; empty, where there is none."""
    try:
        answer = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
                                capture_output=True, text=True)
    except OSError:
        return ""
    return answer.stdout.splitlines()[0] if answer.returncode == 0 else ""


def versions(*packages):
    """Their versions as text; those that are not installed are named as absent."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} absent")
    return ", ".join(found)
