"""What the benchmarks share: contenders measured in turns, tables, and which machine it was.

Machines differ and are disturbed. What is compared is therefore measured in one run, all contenders once per round, and the
ratios are those of one round; tables give the median of the rounds and, in brackets, their range.
"""

import importlib.metadata
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


def in_turns(contenders, rounds=5, seconds=0.5):
    """Runs every contender for a while, then all of them again, `rounds` times. With 0 seconds, once each.

    Each lives in a process of its own, so that libraries do not disturb each other, and waits while another has its turn.

    Args:
        contenders: {name: (prepare, *arguments)}, all picklable; prepare(*arguments) gives a function that does some
            work and returns how many images that was.

    Returns: {name: float array (rounds,) of images per second}, and {name: why} of those that could not run.
    """
    context = multiprocessing.get_context("spawn")
    runners, rates, absent = {}, {}, {}
    try:
        for name, contender in contenders.items():
            show(f"preparing: {name}")
            runners[name], there = context.Pipe()
            context.Process(target=take_turns, args=(there, *contender)).start()
            there.close()
            rates[name] = []
        for number in range(rounds + 1):  # the first is only whether it works
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
    finally:
        for runner in runners.values():
            runner.close()  # at which its process ends
    show("")
    return {name: np.array(values) for name, values in rates.items()}, absent


def take_turns(pipe, prepare, *arguments):
    """The life of a contender's process: whenever a number of seconds comes in, works so long and answers images per second."""
    try:
        work = prepare(*arguments)
        work()  # compiles, fills caches
    except Exception as error:  # whatever stands in the way of a contender is told, not hidden
        work, trouble = None, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:60]}"
    while True:
        try:
            seconds = pipe.recv()
        except EOFError:
            return
        if work is None:
            pipe.send(trouble)
            return
        if seconds is None:  # only whether it works
            pipe.send(0.0)
            continue
        if seconds:
            work()  # back into the processor's caches
        images, begin, elapsed = 0, time.perf_counter(), 0.0
        while elapsed <= seconds:
            images += work()
            elapsed = time.perf_counter() - begin
        pipe.send(images / elapsed)


def peak_memory(prepare, *arguments):
    """The largest resident memory, in MiB, of a process of its own that prepares a contender and lets it work twice."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=report_peak, args=(there, prepare, *arguments)).start()
    there.close()
    return here.recv()


def report_peak(pipe, prepare, *arguments):
    import resource

    work = prepare(*arguments)
    work()
    work()
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20))


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
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def write(name, title, *parts):
    """Prints the parts, and writes them to results/benchmarks/<name>.md with the command and the machine."""
    command = f"python benchmarks/{pathlib.Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}".strip()
    text = "\n\n".join([f"# {title}", f"`{command}`, on {machine()}.", *parts]) + "\n"
    print(text)
    path = ROOT / "results" / "benchmarks" / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"written: {path.relative_to(ROOT)}")


def machine():
    """Processor, cores, memory, system and Python in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0
    return (f"{processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"
            + (f", {gpu}" if (gpu := gpu_name()) else ""))


def processor():
    """Its name; where a virtual machine hides the model, its family and model number too."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict([part.strip() for part in line.split(":", 1)] for line in lines if ":" in line)
    return f"{facts.get('model name', platform.machine())} (family {facts.get('cpu family')}, model {facts.get('model')})"


def gpu_name():
    try:
        answer = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
        return answer.stdout.splitlines()[0] if answer.returncode == 0 else ""
    except OSError:
        return ""


def versions(*packages):
    """Their versions as text; those that are not installed are named as absent."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} absent")
    return ", ".join(found)
