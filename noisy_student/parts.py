"""A pool labelled source by source, on many machines. Nothing here knows how a task gets to one.

Each source leaves two files in the labelling's parts/ folder, whole or not at all: what it comes to
(.npz), so that a finished source is not labelled again, and a row for each of its images (.seen).
What two sources come to adds up in any order: counts are summed, and the most confident of two
choices are the most confident of all.
"""

import argparse
import contextlib
import copy
import csv
import importlib
import json
import os
import pathlib
import platform
import shutil
import time

import numpy as np

from noisy_student import backend, pool
from noisy_student.files import (
    UserError,
    read_arrays,
    read_json,
    sha256,
    whole_file,
    write_arrays,
    write_json,
)
from noisy_student.images import Picture
from noisy_student.labels import load_teacher
from noisy_student.record import Record, Truth, open_table, write_statuses
from noisy_student.runs import as_json
from noisy_student.training import duration

AUDITED = ("uncalibrated", "above")
# Of the progress of a pool, in seconds.
EVERY = 60


def check(args):
    """Finds mistakes before the teacher is loaded. Raises: UserError."""
    if not args.per_class_cap:
        raise UserError("--engine ray: one machine holds all that is kept, so --per-class-cap N "
                        "is needed (the paper: 130000)")
    for source in args.images:
        if source != "rest" and not os.path.exists(source):
            raise UserError(f"{source}: no such folder or archive")


def size_of(sources, data):
    """Bytes of all sources. One that cannot be read has none: whoever gets it will say so."""
    size = 0
    for source in sources:
        with contextlib.suppress(UserError):
            size += pool.check_source(source, data)
    return size


# --- one source, on some machine ------------------------------------------------------------------


def loaded(args, digest, kept={}):  # noqa: B006
    """The teacher and the truth, which this process keeps from source to source.

    Raises: UserError, if it is not the teacher with this sha256.
    """
    rest = "rest" in args.images
    if (digest, rest) not in kept:
        backend.prepare(0)
        teacher = load_teacher(args)
        if teacher.made_from["teacher_sha256"] != digest:
            raise UserError(f"{args.teacher}: on the machine {platform.node()} it is another "
                            "network than where the command was given")
        truth = Truth(args.truth, teacher.class_names, teacher.data if rest else None)
        kept[digest, rest] = teacher, truth
    return kept[digest, rest]


def fitted_temperature(args, digest):
    teacher, _ = loaded(args, digest)
    return step2().calibrate(teacher.model, teacher.data)


def step2():
    """The script, known by its name: noisy_student imports none."""
    return importlib.import_module("imagenet_dummy_label")


def label_source(args, number, temperature, digest, bounds):
    """Labels one source, and leaves its two files.

    Args:
        args: of step 2, with this source as the only one; it has that number among all of them.
        digest: sha256 of the teacher.
        bounds: of each class the rank beyond which nothing will be kept, or None.

    Returns: the number, and what the source comes to, {name: array}. Raises: UserError.
    """
    teacher, truth = loaded(args, digest)
    (source,), data = args.images, teacher.data
    selection = step2().Selection(args.threshold, args.per_class_cap, len(teacher.class_names))
    with whole_file(path_of(args, number, "seen")) as beside, open_table(beside, "w") as file:
        record = Record(file, teacher.class_names, args.threshold, copy.copy(truth))
        try:
            pool.check_source(source, data)
        except UserError as error:
            record.add(Picture(source, "").leave_out(str(error)))
        else:
            labelled = step2().label_images(teacher.model, [source], data, temperature,
                                            args.workers or 1)
            step2().choose_and_record(labelled, selection, record)
    part = packed(selection, bounds, record)
    write_arrays(path_of(args, number, "npz"), **part)
    return number, part


def path_of(args, number, ending):
    return pathlib.Path(args.out) / "parts" / f"{number:05}.{ending}"


def packed(selection, bounds, record):
    """What was found in one source: {name: array}."""
    pictures = []
    for of_class, bound in zip(selection.candidates, bounds):
        best = step2().most_confident(of_class, selection.cap)
        pictures += [picture for picture in best if not bound or step2().rank(picture) <= bound]
    part = {"x": np.array([picture.pixels for picture in pictures], dtype=np.uint8),
            "y": np.array([picture.soft for picture in pictures], dtype=np.float32),
            "seen": selection.seen, "histogram": selection.histogram}
    for kind in AUDITED:
        part |= {f"{kind}_{name}": np.array(value)
                 for name, value in vars(getattr(record.audit, kind)).items()}
    truth = record.truth
    rest = {"paths": [picture.path for picture in pictures], "left_out": record.counts,
            "examples": record.examples, "truth": [truth.matched, truth.asked, truth.example]}
    return part | {"rest": np.array(json.dumps(rest))}


def add(part, source, selection, record):
    """Adds what one source comes to."""
    rest = json.loads(str(part["rest"]))
    for path, pixels, soft in zip(rest["paths"], part["x"], part["y"]):
        # Copies: nothing else of the part is kept.
        picture = Picture(source, path, pixels=pixels.copy())
        picture.judge(soft.copy(), 0)
        selection.take(picture)
    selection.seen += part["seen"]
    selection.histogram += part["histogram"]
    for kind in AUDITED:
        count = getattr(record.audit, kind)
        for name, value in vars(count).items():
            more = part[f"{kind}_{name}"]
            setattr(count, name, value + (more if more.ndim else int(more)))
    truth = record.truth
    record.counts.update(rest["left_out"])
    for path, example in rest["examples"]:
        record.name(path, example)
    matched, asked, example = rest["truth"]
    truth.matched, truth.asked = truth.matched + matched, truth.asked + asked
    truth.example = truth.example or example


# --- all of them ----------------------------------------------------------------------------------


def on_cluster(args, run, selection, record):
    """Labels every source of a pool, on as many machines as there are.

    Returns: what is kept, and the temperature.
    """
    from noisy_student import engine

    with engine.cluster(args.address, args.workers or 1) as cluster:
        temperature = 1.0
        if args.calibrate:
            # Not here: the command itself leaves the GPUs to the others.
            words = of_one(args, args.images[0]), run.made_from["teacher_sha256"]
            (temperature,) = cluster.each("noisy_student.parts:fitted_temperature", [(words, [])])
        forget_another(args, run, temperature)
        label_all(cluster, args, run, temperature, selection, record)
        kept = selection.kept()
        write_tables(cluster, args, run, kept)
    return kept, temperature


def of_one(args, source):
    """The arguments of step 2 for one source of many."""
    return argparse.Namespace(**vars(args) | {"images": [source]})


def forget_another(args, run, temperature):
    """Deletes what a killed labelling has left that was made with something else."""
    path = path_of(args, 0, "json")
    made_with = as_json([run.arguments, run.made_from, temperature,
                         args.truth and sha256(args.truth)])
    if path.exists() and read_json(path)["made_with"] != made_with:
        shutil.rmtree(path.parent)
    write_json(path, {"made_with": made_with})


def label_all(cluster, args, run, temperature, selection, record):
    """Labels every source that is not labelled yet, and adds up what they come to."""
    def tasks():
        for number in todo:
            source = args.images[number]
            seen = [path for path in (source, args.truth) if path and path != "rest"]
            yield ((of_one(args, source), number, temperature, run.made_from["teacher_sha256"],
                    selection.bounds), [run.path("run.json"), *seen])

    def parts():
        for number in ready:
            yield number, read_arrays(path_of(args, number, "npz"))
        yield from cluster.each("noisy_student.parts:label_source", tasks())

    todo, ready = [], []
    for number in range(len(args.images)):
        (ready if path_of(args, number, "npz").exists() else todo).append(number)
    if ready:
        print(f"{len(ready):,} of {len(args.images):,} sources are labelled already")
    started = said = time.monotonic()
    for done, (number, part) in enumerate(parts(), 1):
        add(part, args.images[number], selection, record)
        now, left = time.monotonic(), len(args.images) - done
        if done > len(ready) and (now - said > EVERY or not left):
            said, per_source = now, (now - started) / (done - len(ready))
            print(f"{done:,} of {len(args.images):,} sources, {selection.seen.sum():,} images "
                  f"labelled; {duration(per_source * left)} left", flush=True)


def write_tables(cluster, args, run, kept):
    """Writes each source's table, once it is known what is kept, and images.csv, their index.

    Args:
        kept: a list of Pictures.
    """
    of_source = {source: set() for source in args.images}
    for picture in kept:
        of_source[picture.source].add(picture.name)
    tasks = (((of_one(args, source), number, of_source[source]), [run.path("run.json")])
             for number, source in enumerate(args.images))
    rows = sorted(cluster.each("noisy_student.parts:write_table", tasks))
    with whole_file(run.path("images.csv")) as beside, open_table(beside, "w") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "part", "images", "sha256"])
        writer.writerows([args.images[number], *row] for number, *row in rows)
    for ending in ("npz", "seen", "json"):
        for path in path_of(args, 0, ending).parent.glob(f"*.{ending}"):
            path.unlink()


def write_table(args, number, kept):
    """The table of one source: its number, its name in the folder, its rows, its sha256."""
    path = path_of(args, number, "csv")
    with open_table(path_of(args, number, "seen")) as file:
        images = write_statuses(path, csv.reader(file), kept, args)
    return number, f"parts/{path.name}", images, sha256(path)
