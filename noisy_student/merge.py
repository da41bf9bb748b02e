"""Finished labellings -> the one that all their sources together would have become.

The most confident of several choices are the most confident of all, so that a merge needs no
teacher and no source: of each labelling what it keeps, a table of what it has seen, and merge.npz,
which holds a digest of every picture, and with a share what would be kept of a larger one.
"""

import csv
import math

import numpy as np

from noisy_student import runs
from noisy_student.commands import Command, flags_of
from noisy_student.files import UserError, read_arrays, reading, write_arrays
from noisy_student.images import Picture
from noisy_student.record import SAME_PICTURE, open_table, truth_number

# What may differ between two labellings that are merged: what they label, and where things are.
MAY_DIFFER = ("images", "pool_bytes", "data", "require_all_classes")
# What the command line for all sources says, and that for one of them does not.
NOT_OF_A_PART = ("images", "merge", "engine", "address", "out", "require_all_classes")


def keep(run, seen, spare):
    """Writes what a later merge needs.

    Args:
        seen: what Record.write_table returns. spare: Pictures that a larger share would keep.
    """
    x = np.array([picture.pixels for picture in spare], np.uint8)
    y = np.array([picture.soft for picture in spare], np.float32)
    write_arrays(run.path("merge.npz"), **seen, x=x, y=y)


class Parts:
    """Finished labellings that belong together.

    Raises: UserError, where they were not made by one teacher, one temperature and one rule.
    """

    def __init__(self, folders):
        self.runs = [runs.finished(folder, "python imagenet_dummy_label.py IMAGES")
                     for folder in folders]
        first = self.runs[0]
        for run in self.runs:
            if run.trained:
                raise UserError(f"{run.folder}: holds no pseudo-labels but what {run.script} made")
            refuse_stranger(run, first)
        self.class_names = first.results["class_names"]
        self.temperature = first.results["temperature"]
        self.taught_by = first.taught_by
        self.arguments = {**first.arguments, "images": sum(
            (run.arguments["images"] for run in self.runs), [])}
        self.made_from = {**first.made_from, "pool_bytes": sum(
            run.made_from["pool_bytes"] for run in self.runs)}

    def pictures(self):
        """Yields: the Pictures of all parts, with their pixels where a part has them."""
        for run in self.runs:
            yield from pictures_of(run)


def refuse_stranger(run, first):
    """Raises: UserError, where two labellings were not made in the same way."""
    one, other = ({**each.made_from, **each.arguments, "classes": each.results["class_names"]}
                  for each in (run, first))
    differs = [f"{key} {one.get(key)} and {other.get(key)}" for key in runs.unequal(one, other)
               if key not in MAY_DIFFER]
    here, there = (each.results["temperature"] for each in (run, first))
    # Two machines may fit one temperature with other last digits.
    if not math.isclose(here, there, rel_tol=1e-3):
        differs.append(f"temperature {here:.3f} and {there:.3f}")
    if differs:
        raise UserError(f"{run.folder} and {first.folder} are not parts of one labelling: "
                        f"{'; '.join(differs)}")


def pictures_of(run):
    """Yields: every Picture that a finished labelling has seen, as it was seen."""
    class_names, seen = run.results["class_names"], run.arrays("merge.npz")
    x, y = (read_arrays(run.check(f"{name}.npy"), mmap_mode="r") for name in "xy")
    known = zip(seen["digest"], seen["raw_confidence"].tolist(), seen["place"].tolist())
    path = run.check("images.csv")
    with reading(path), open_table(path) as file:
        for row in csv.DictReader(file):
            picture = Picture(row["source"], row["path"])
            if row["label"] or row["status"] == SAME_PICTURE:
                digest, picture.raw_confidence, place = next(known)
                picture.digest = digest.tobytes()
            if row["label"]:
                picture.label = class_names.index(row["label"])
                picture.confidence = float(row["confidence"])
                picture.truth = truth_number(row["truth"], class_names)
                # Copies, so that no file stays open for a row of it.
                if place >= len(x):
                    picture.pixels = seen["x"][place - len(x)].copy()
                    picture.soft = seen["y"][place - len(x)].copy()
                elif place >= 0:
                    picture.pixels, picture.soft = np.array(x[place]), np.array(y[place])
            else:
                picture.leave_out(row["reason"], row["status"])
            yield picture


def label_apart(chosen, folder):
    """Labels every source by itself, on as many machines as Ray has.

    Args:
        chosen: what the command line says, {name: value}. folder: gets a labelling per source.

    Returns: Parts.
    """
    from noisy_student import engine

    same = {key: value for key, value in chosen.items() if key not in NOT_OF_A_PART}
    same |= {"allow_empty": True, "workers": chosen["workers"] or 1}
    if chosen["keep_share"]:
        # It replaces the threshold.
        same["threshold"] = None
    folders = [f"{folder}/{number:05}" for number in range(len(chosen["images"]))]
    order = [Command(f"[{source}]", ["imagenet_dummy_label.py", source, *flags_of(same),
                                     "--out", part])
             for source, part in zip(chosen["images"], folders)]
    engine.run_all(order, [chosen["out"], chosen["teacher"]], chosen["address"], same["workers"])
    return Parts(folders)
