"""What many machines cost beside one: --engine ray against local.

    python benchmarks/engine.py data-real/imagenet_pool         # any folder of small images

Both engines on this machine, on the same number of cores, in turns:

- two cells of the experiment, the smallest networks there are, drawn pictures;
- a pool of all the images, in sources of about a thousand.

Seconds are those of whole commands: starting Ray, and Keras for every cell and source, are part of
them.

Writes results/benchmarks/engine.md
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from measure import ROOT, show, spread, table, versions, write

SOURCE = 1000
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


def spread_out(paths, folder):
    """A pool of the images at `paths`: folders of links, SOURCE images each."""
    for start in range(0, len(paths), SOURCE):
        source = folder / f"{start // SOURCE:04}"
        source.mkdir(parents=True)
        for i, path in enumerate(paths[start:start + SOURCE]):
            (source / f"{i}-{path.name}").symlink_to(path.resolve())
    return sorted(folder.iterdir())


def label(sources, teacher, out, engine):
    """Seconds in which a pool is labelled."""
    return run("imagenet_dummy_label.py", *sources, "--teacher", teacher, "--threshold", 0,
               "--per-class-cap", 100, "--engine", engine, "--out", out, out=out)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="a folder of images, any nesting")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    paths = sorted(path for path in pathlib.Path(args.images).rglob("*") if path.is_file())
    if not paths:
        sys.exit(f"error: {args.images}: no images in there")
    load = os.getloadavg()[0]

    cells, pools = [], []
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        toy, teacher = scratch / "toy", scratch / "teacher"
        run("data/make_toy.py", toy, "--unlabeled", 10, out=toy)
        run("cifar10_resnet50.py", "--data", toy, *SMALLEST, "--log-dir", teacher, out=teacher)
        sources = spread_out(paths, scratch / "pool")
        for number in range(args.rounds):
            show(f"round {number + 1} of {args.rounds}")
            outs = {engine: scratch / f"{engine}{number}" for engine in ("local", "ray")}
            cells.append([matrix(toy, out, engine) for engine, out in outs.items()])
            outs = {engine: scratch / f"{engine}-pool{number}" for engine in outs}
            pools.append([label(sources, teacher, out, engine) for engine, out in outs.items()])
            same = all((outs["local"] / name).read_bytes() == (outs["ray"] / name).read_bytes()
                       for name in ("x.npy", "y.npy", "index.npy"))
    show("")
    rows = []
    for what, seconds in (("two cells", cells), (f"{len(paths):,} images", pools)):
        local, ray = np.array(seconds).T
        rows.append([what, spread(local), spread(ray), spread(ray / local)])
    write("engine", "Ray beside the local engine",
          f"Load of the machine at the beginning: {load:.1f} on {os.cpu_count()} cores. Where that "
          "is much, seconds are mostly those of other programs, and a ratio of few rounds says no "
          "more than that neither engine takes many times as long as the other.",
          f"Seconds of the whole command, rounds in turns: {args.rounds}; the labels of both "
          f"engines are {'the same to the bit' if same else 'NOT THE SAME'}:",
          table(["", "local", "Ray", "Ray ÷ local"], rows),
          versions("ray", "keras", "tensorflow-cpu", "numpy"))


if __name__ == "__main__":
    main()
