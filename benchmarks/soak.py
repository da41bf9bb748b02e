"""Does a run survive what happens to runs? Kills, full disks, other users.

    python benchmarks/soak.py                       # everything, about 25 minutes on two cores
    python benchmarks/soak.py kills --count 10      # one part

kills       a student's training (all noises, the recipe fast), killed at random moments, then
            finished
labelling   a labelling run, killed at random moments, with other numbers of workers, then finished
disk        training and labelling on a disk that fills up at random points (Linux, as root: it
            mounts a tmpfs)
users       another working directory, odd paths, read-only sources and data, no right to write, two
            runs at once

Kills are real SIGKILLs to the process, at moments drawn uniformly over the time that an undisturbed
run takes. What "the same" means: every weight, every prediction, every line of history.csv; every
array and every line of images.csv, to the bit.

Writes results/reliability.md, a table with a row per part; the rows of parts that were not run are
kept.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

from measure import ROOT, machine, table

PY = sys.executable
# Rows of earlier calls.
KEPT = ROOT / "logs" / "soak"
# Draws the moments of the kills.
SEED = 20261124
TINY = ["--depth", "14", "--width", "0.03", "--batch-size", "16", "--steps-per-epoch", "3"]
ONE_CORE = os.environ | {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


class Scene:
    """A drawn data set, a teacher and its pseudo-labels, and what undisturbed runs leave behind."""

    def __init__(self, folder):
        self.folder, self.toy = folder, folder / "toy"
        self.teacher, self.pseudo = folder / "teacher", folder / "pseudo"
        self.student = folder / "student"
        run([PY, ROOT / "data/make_toy.py", self.toy, "--per-class-train", "20",
             "--per-class-test", "5", "--unlabeled", "600"])
        run([PY, ROOT / "cifar10_resnet50.py", "--data", self.toy, "--epochs", "2",
             "--recipe", "fast", *TINY, "--log-dir", self.teacher])
        self.label = [PY, ROOT / "imagenet_dummy_label.py", self.toy / "unlabeled",
                      "--teacher", self.teacher, "--threshold", "0.1"]
        self.label_seconds = timed([*self.label, "--out", self.pseudo])
        self.train = [PY, ROOT / "data_generator.py", "--data", self.toy, "--pseudo", self.pseudo,
                      "--epochs", "12", *TINY, "--learning-rate", "0.01"]
        self.train_seconds = timed([*self.train, "--log-dir", self.student])
        self.trained = what_training_left(self.student)
        self.labelled = what_labelling_left(self.pseudo)


def run(command, status=0, **more):
    """Runs a command to its end.

    Returns: what it printed, errors included. Raises, where its exit status is another.
    """
    result = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, errors="surrogateescape",
                            env=more.pop("env", ONE_CORE), **more)
    if status is not None and result.returncode != status:
        raise AssertionError(f"{command} ended with {result.returncode}, not {status}:\n"
                             f"{result.stdout[-3000:]}")
    return result.stdout


def start(command, **more):
    return subprocess.Popen(list(map(str, command)), env=ONE_CORE, **more)


def timed(command):
    """Seconds that a command takes."""
    begin = time.monotonic()
    run(command)
    return time.monotonic() - begin


def what_training_left(folder):
    """A digest of the weights, the best weights, the predictions and the history."""
    # The student's layers.
    import stochastic_resblock  # noqa: F401
    from noisy_student import runs
    from noisy_student.files import read_arrays, sha256

    networks = [runs.load_network(folder / name) for name in ("model.keras", "best.keras")]
    weights = [weight for network in networks for weight in network.get_weights()]
    predictions = read_arrays(folder / "predictions.npz")
    return sha256(*weights, *predictions.values(), folder / "history.csv")


def what_labelling_left(folder):
    from noisy_student.files import sha256

    return sha256(*(folder / name for name in ("x.npy", "y.npy", "index.npy", "images.csv")))


def unfinished(folder):
    return list(pathlib.Path(folder).rglob(".unfinished-*"))


# --- kills ----------------------------------------------------------------------------------------


def killed_and_finished(command, flag, folder, seconds, kills, rng, variants):
    """Starts a command, kills it at a random moment, and again; then lets it finish.

    Returns: how often it was killed.
    """
    from noisy_student import runs

    done, tries = 0, 0
    while done < kills and tries < 10 * kills:
        tries += 1
        process = start([*command, *rng.choice(variants), flag, folder],
                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            done += 1
        process.wait()
        if (folder / "run.json").exists() and runs.read(folder).finished:
            break
    run([*command, *rng.choice(variants), flag, folder])
    return done


def kill_many(scene, name, command, flag, seconds, count, per_run, left, expected, variants):
    """Spreads `count` kills over runs that are each killed up to `per_run` times, two at a time.

    Args:
        left: gives a digest of a folder, to compare with `expected`.

    Returns: the cells of a row, and whether all is well.
    """
    same = runs = killed = 0

    def one(number):
        folder, rng = scene.folder / f"{name}{number}", random.Random(SEED + number)
        return killed_and_finished(command, flag, folder, seconds, per_run, rng, variants), folder

    with ThreadPoolExecutor(2) as pool:
        while killed < count:
            for kills, folder in pool.map(one, range(runs, runs + 2)):
                killed, runs = killed + kills, runs + 1
                same += left(folder) == expected and not unfinished(folder)
                shutil.rmtree(folder)
                print(f"{name}: {killed} kills, {runs} runs, {same} the same", flush=True)
    return [f"{killed} kills over {runs} runs, seeds from {SEED}", f"{runs} finished",
            f"{same} of {runs} the same to the bit"], same == runs


def kills(scene, count):
    return kill_many(scene, "kills", scene.train, "--log-dir", scene.train_seconds, count or 100, 4,
                     what_training_left, scene.trained, [()])


def labelling(scene, count):
    variants = [(), ("--workers", "1"), ("--workers", "5")]
    return kill_many(scene, "labelling", scene.label, "--out", scene.label_seconds, count or 50, 2,
                     what_labelling_left, scene.labelled, variants)


# --- full disks -----------------------------------------------------------------------------------


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*"))


def mount(options, *where):
    subprocess.run(["mount", *options, *where], check=True)


def disk(scene, count):
    """A tmpfs with less room than is needed; then it is enlarged, and the same command goes on."""
    count, rng, clear, same = count or 20, random.Random(1), 0, 0
    place = scene.folder / "disk"
    place.mkdir()
    kinds = [
        ("training", [*scene.train, "--log-dir"], size_of(scene.student) + 1_500_000,
         what_training_left, scene.trained),
        ("labelling", [*scene.label, "--out"], size_of(scene.pseudo) + 300_000,
         what_labelling_left, scene.labelled),
    ]
    for number in range(count):
        what, command, size, left, expected = kinds[number % 2]
        output = ""
        # Until it is really too small.
        while "error:" not in output:
            size = rng.randrange(1, size) // 4096 * 4096 + 4096
            mount(["-t", "tmpfs", "-o", f"size={size}", "none"], place)
            output = run([*command, place / "run"], status=None)
            if "error:" not in output:
                subprocess.run(["umount", place], check=True)
        message = output[output.rindex("error:"):].strip()
        fine = "Traceback" not in output and "\n" not in message and not unfinished(place)
        clear += fine
        mount(["-o", "remount,size=200m"], place)
        run([*command, place / "run"])
        same += left(place / "run") == expected
        subprocess.run(["umount", place], check=True)
        print(f"disk: {what} with {size:,} bytes: {message if fine else output[-2000:]}; "
              f"{clear} clear, {same} the same of {number + 1}", flush=True)
    return [f"{count} sizes of the disk, below what is needed",
            f"{clear} one clear line, nothing half-written",
            f"{same} of {count} the same to the bit once there was room"], clear == same == count


# --- other users ----------------------------------------------------------------------------------


def somebody_else(home):
    """How run() runs a command as a user without rights, whose home is `home`."""
    nobody = 65534
    os.chown(home, nobody, nobody)
    me = {"env": ONE_CORE | {"HOME": "/nonexistent", "NUMBA_CACHE_DIR": ""}, "cwd": home}
    if os.geteuid() == 0:
        me |= {"user": nobody, "group": nobody, "extra_groups": []}
        try:
            run([PY, "-c", ""], **me)
        except PermissionError:
            sys.exit(f"error: {PY} cannot be started by another user; let its folders be entered "
                     "(chmod o+x) for this part")
    return me


def users(scene, count):
    """The pipeline as somebody else, elsewhere, without rights, and twice at once."""
    home, results = scene.folder / "Zoë's own folder, ünïcode", []
    home.mkdir()
    source, toy = home / "the source", home / "data set"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "data", "data-real", "logs", "figures",
                                      "results")
    shutil.copytree(ROOT, source, ignore=left_out)
    shutil.copytree(scene.toy, toy)
    for path in [*source.rglob("*"), *toy.rglob("*"), source, toy]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    scene.folder.chmod(0o755)
    me = somebody_else(home)
    flags = ["--data", "data set", *TINY, "--recipe", "fast", "--epochs", "1"]
    for script, *words in (
            ["cifar10_resnet50.py", *flags, "--log-dir", "läufe/teacher"],
            ["imagenet_dummy_label.py", "data set/unlabeled", "--teacher", "läufe/teacher",
             "--threshold", "0.1", "--out", "läufe/pseudo"],
            ["data_generator.py", *flags, "--pseudo", "läufe/pseudo", "--log-dir", "läufe/student"],
            ["eval.py", "läufe", "--report", "report.html", "--check-overlap"]):
        results.append("Traceback" not in run([PY, source / script, *words], **me))
    print("users: another user, folder and path:", results, flush=True)

    output = run([PY, source / "cifar10_resnet50.py", *flags, "--log-dir", source / "logs"],
                 status=1, **me)
    results.append("error: " in output.splitlines()[-1] and "Traceback" not in output)
    print("users: no right to write:", output.splitlines()[-1], flush=True)

    twice = [*scene.train, "--log-dir", scene.folder / "twice"]
    first = start(twice, stdout=subprocess.DEVNULL)
    while not (scene.folder / "twice" / "run.json").exists():
        time.sleep(0.05)
    output = run(twice, status=1)
    results.append("another run is writing there right now" in output
                   and "Traceback" not in output)
    print("users: twice at once:", output.splitlines()[-1], flush=True)
    results.append(first.wait() == 0 and what_training_left(twice[-1]) == scene.trained)
    return ["another user, folder, odd path, read-only source and data; no right to write; twice "
            "at once", f"{sum(results)} of {len(results)} as they should be",
            "the second run refuses, the first is the same to the bit"], all(results)


PARTS = {"kills": kills, "labelling": labelling, "disk": disk, "users": users}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART",
                        help=f"{', '.join(PARTS)}; all, if none is named")
    parser.add_argument("--count", type=int, help="how many kills or sizes")
    args = parser.parse_args(argv)
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}")
    KEPT.mkdir(parents=True, exist_ok=True)
    fine = True
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(pathlib.Path(folder))
        for name in args.parts or PARTS:
            begin = time.monotonic()
            row, good = PARTS[name](scene, args.count)
            fine &= good
            count = f" --count {args.count}" if args.count else ""
            cells = [f"`python benchmarks/soak.py {name}{count}`", *row,
                     f"{(time.monotonic() - begin) / 60:.0f} min"]
            (KEPT / f"{name}.json").write_text(json.dumps(cells))
    rows = [json.loads((KEPT / f"{name}.json").read_text()) for name in PARTS
            if (KEPT / f"{name}.json").exists()]
    head = ["command", "what was done", "what came of it", "", "took"]
    text = f"# What happens to runs\n\nOn {machine()}.\n\n{table(head, rows)}\n"
    (ROOT / "results" / "reliability.md").write_text(text, encoding="utf-8")
    print(text)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
