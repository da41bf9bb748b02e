"""What many machines cost beside one, and what grows with the pool: --engine ray against local.

    python benchmarks/engine.py data-real/imagenet_pool         # any folder of small images

Both engines on this machine, on the same number of cores, in turns:

- two cells of the experiment, the smallest networks there are, drawn pictures;
- a pool of all the images, and of 2, 4 and 8 times as many under other names, in parts of about a
  thousand images: seconds, images kept, the largest memory of the command's own process, and the
  bytes that reach it from the workers.

Seconds are those of whole commands: starting Ray, and Keras in every worker, are part of them.

Writes results/benchmarks/engine.md
"""

import argparse
import multiprocessing
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from measure import ROOT, and_end, show, spread, table, versions, write

PART = 1000
# Images/s of two cores, small photos, of results/benchmarks/labelling.md.
LABELLED = (48.5, 3673)
SMALLEST = ("--recipe fast --depth 14 --width 0.03 --batch-size 16 --epochs 2 --steps-per-epoch 3 "
            "--num-labeled 200").split()


def run(*words, out):
    """Seconds that a script takes; what it prints is kept beside what it makes."""
    started = time.perf_counter()
    with open(f"{out}.log", "w") as log:
        done = subprocess.run([sys.executable, ROOT / words[0], *map(str, words[1:])], stdout=log,
                              stderr=log)
    if done.returncode:
        sys.exit(f"error: {pathlib.Path(f'{out}.log').read_text()[-3000:]}")
    return time.perf_counter() - started


def matrix(toy, out, engine):
    """Seconds of two cells at a time, a core each."""
    at_a_time = ["--jobs", 2] if engine == "local" else ["--engine", "ray"]
    return run("experiment.py", "run", "--data", toy, "--out", out, "--cells", "teacher",
               "noisy_teacher", "--flags", " ".join(SMALLEST), "--eval-flags",
               f"--out {out}-figures", *at_a_time, out=out)


def spread_out(paths, times, folder):
    """A pool of the images at `paths`, so many times: folders of links, PART images each."""
    names = [(i, path) for i in range(times) for path in paths]
    for start in range(0, len(names), PART):
        part = folder / f"{start // PART:04}"
        part.mkdir(parents=True)
        for i, path in names[start:start + PART]:
            (part / f"{i}-{path.name}").symlink_to(path.resolve())
    return sorted(map(str, folder.iterdir()))


def label(sources, teacher, out, engine, cap):
    """Labels a pool in a process of its own. Returns: seconds, kept, MiB of memory, MB received."""
    started, (here, there) = time.perf_counter(), multiprocessing.Pipe()
    words = [*sources, "--teacher", str(teacher), "--threshold", "0", "--per-class-cap", str(cap),
             "--out", str(out), "--engine", engine]
    process = multiprocessing.get_context("spawn").Process(target=and_end,
                                                           args=(labelling, there, words))
    process.start()
    there.close()
    kept, memory, received = here.recv()
    process.join()
    return time.perf_counter() - started, kept, memory, received / 1e6


def labelling(pipe, words):
    """The command itself, which also counts what it is given back."""
    from noisy_student import arguments, parts, runs

    received, add = [], parts.add

    def counted(part, *others):
        received.append(sum(array.nbytes for array in part.values()))
        add(part, *others)

    parts.add, args = counted, arguments.labelling("", words)
    import imagenet_dummy_label

    imagenet_dummy_label.main(args)
    # In KiB on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pipe.send((runs.read(args.out).results["kept"], peak, sum(received)))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="a folder of images, any nesting")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--cap", type=int, default=100, help="images kept per class (100)")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    paths = sorted(path for path in pathlib.Path(args.images).rglob("*") if path.is_file())
    if not paths:
        sys.exit(f"error: {args.images}: no images in there")
    load = os.getloadavg()[0]

    cells, pools, seconds = [], [], {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        toy, teacher = scratch / "toy", scratch / "teacher"
        run("data/make_toy.py", toy, "--unlabeled", 10, out=toy)
        run("cifar10_resnet50.py", "--data", toy, *SMALLEST, "--log-dir", teacher, out=teacher)
        for number in range(args.rounds):
            show(f"experiment, round {number + 1} of {args.rounds}")
            cells.append([matrix(toy, scratch / f"{engine}{number}", engine)
                          for engine in ("local", "ray")])
        for times in args.times:
            sources = spread_out(paths, times, scratch / f"pool{times}")
            for engine in ("local", "ray"):
                show(f"{times} times the pool, {engine}")
                out = scratch / f"{engine}-{times}"
                seconds[engine, times], kept, memory, sent = label(sources, teacher, out, engine,
                                                                   args.cap)
                pools.append([f"{times * len(paths):,}", engine, f"{seconds[engine, times]:.1f}",
                              f"{kept:,}", f"{memory:,.0f}", f"{sent:,.2f}" if sent else "-"])
        same = all((scratch / f"local-{times}" / name).read_bytes()
                   == (scratch / f"ray-{times}" / name).read_bytes()
                   for times in args.times for name in ("x.npy", "y.npy", "index.npy"))
    show("")
    local, ray = np.array(cells).T
    # Of Ray, from the smallest pool to the largest: kept, memory, received.
    first, last = (np.array([float(cell.replace(",", "")) for cell in row[3:]])
                   for row in (pools[1], pools[-1]))
    hours = [1e8 / (100 * rate / 2) / 3600 for rate in LABELLED]
    write("engine", "Ray beside the local engine",
          f"Load of the machine at the beginning: {load:.1f} on {os.cpu_count()} cores. Where that "
          "is much, seconds are mostly those of other programs, and a ratio of few rounds says no "
          "more than that neither engine takes many times as long as the other.",
          f"Two cells, seconds of the whole command, rounds in turns: {args.rounds}",
          table(["local", "Ray", "Ray ÷ local"], [[spread(local), spread(ray),
                                                  spread(ray / local)]]),
          f"A pool, parts of {PART:,} images, at most {args.cap} kept per class; the labels of "
          f"both engines are {'the same to the bit' if same else 'NOT THE SAME'}:",
          table(["images", "engine", "seconds", "kept", "command's memory, MiB",
                 "received from workers, MB"], pools),
          "Ray ÷ local, seconds: " + ", ".join(
              f"{seconds['ray', times] / seconds['local', times]:.2f} ({times} times)"
              for times in args.times) + ".",
          "With Ray, from the smallest pool to the largest, images kept, memory and bytes received "
          f"grow to {' and '.join(f'{x:.2f}' for x in last / first)} times what they were. By "
          "its code, the command holds at most 2 x cap + 256 images of a class: 8 GB at the "
          "paper's cap of 130,000 and ten classes.",
          "10^8 photos are not measured here. From results/benchmarks/labelling.md (two idle "
          f"cores, before copies of test images were looked for), {LABELLED[0]} images/s with the "
          f"article's network and {LABELLED[1]:,} with one of depth 14, width 1/16, follow "
          f"{hours[0]:.1f} and {hours[1]:.2f} hours for 100 workers of one such core, if nothing "
          "but labelling holds them up. No card was measured.",
          versions("ray", "keras", "tensorflow-cpu", "numpy"))


if __name__ == "__main__":
    main()
