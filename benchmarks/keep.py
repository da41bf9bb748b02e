"""Copies from each finished run what results/ keeps: arguments, learning curve, answers.

    python benchmarks/keep.py logs/crossing results/crossing/runs

Networks, pseudo-labels and pictures stay behind, and unfinished runs. Probabilities become their
logarithms in 16 bits, compressed: a third of the size, and the same classes.
"""

import argparse
import pathlib
import shutil

import measure  # noqa: F401  finds the package
import numpy as np

from noisy_student import runs
from noisy_student.files import read_json, run_script, sha256, whole_file, write_json


def keep(folder, target):
    """Copies one finished run. Raises: UserError, where its files are not what it wrote."""
    target.mkdir(parents=True, exist_ok=True)
    run, record = runs.read(folder), read_json(folder / "run.json")
    if run.trained:
        shutil.copy(run.check("history.csv"), target)
        arrays = dict(run.arrays("predictions.npz"))
        for name in ("test", "validation"):
            p = arrays.get(name)
            if p is not None and p.dtype == np.float32:
                logs = np.log(np.maximum(p, 1e-7)).astype(np.float16)
                # Two classes may be as likely in 16 bits. The likelier one gets the next number.
                rows, classes = np.arange(len(p)), p.argmax(axis=1)
                tied = logs.argmax(axis=1) != classes
                above = np.nextafter(logs.max(axis=1), np.float16(np.inf))
                logs[rows[tied], classes[tied]] = above[tied]
                arrays[name] = logs
        with whole_file(target / "predictions.npz") as beside, open(beside, "wb") as file:
            np.savez_compressed(file, **arrays)
        record["sha256"]["predictions.npz"] = sha256(target / "predictions.npz")
    write_json(target / "run.json", record)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("target", type=pathlib.Path)
    args = parser.parse_args()
    for path in sorted(args.folder.rglob("run.json")):
        if read_json(path).get("results"):
            keep(path.parent, args.target / path.parent.relative_to(args.folder))
            print(path.parent)


if __name__ == "__main__":
    run_script(main)
