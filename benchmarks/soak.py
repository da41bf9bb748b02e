"""Does a run survive what happens to runs? Kills, full disks, hostile files, other users.

    python benchmarks/soak.py                       # everything, about half an hour on two cores
    python benchmarks/soak.py kills --count 10      # one part

kills       a student's training (all noises, the article's recipe), killed at random moments, then
            finished
labelling   a labelling run, killed at random moments, with other numbers of workers, then finished
disk        training and labelling on a disk that fills up at random points (Linux, as root: it
            mounts a tmpfs)
images      hostile images by the thousand, in a folder, a tar and a zip archive
loaders     damaged npy, npz, csv, json, keras and archive files (needs hypothesis:
            benchmarks/requirements.txt)
users       another working directory, odd paths, read-only sources and data, no right to write, two
            runs at once

Kills are real SIGKILLs to the process, at moments drawn uniformly over the time that an undisturbed
run takes. What "the same" means: every weight, every prediction, every line of history.csv; every
array and every line of images.csv, to the bit.

Writes results/reliability.md, a table with a row per part; the rows of parts that were not run are
kept.
"""

import argparse
import contextlib
import csv
import functools
import io
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from concurrent.futures import ThreadPoolExecutor

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np
from measure import ROOT, machine, table
from PIL import Image

PY = sys.executable
# Rows of earlier calls.
KEPT = ROOT / "logs" / "soak"
# Of the kills' moments.
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


# --- hostile images -------------------------------------------------------------------------------

KINDS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "ICO", "TGA", "PCX", "SGI", "EPS",
         "JPEG2000", "DDS")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16",
         "F")
CHANGES = ("cut", "flip", "flips", "swap", "size", "zeros", "junk", "doubled")


def valid_images(rng):
    """{name: bytes} of one picture in every format and mode."""
    pixels = np.frombuffer(rng.randbytes(64 * 48 * 3), np.uint8).reshape(48, 64, 3)
    valid = {}
    for kind in KINDS:
        for mode in MODES:
            data = io.BytesIO()
            image = Image.fromarray(pixels)
            # Not every format knows every mode.
            with contextlib.suppress(Exception):
                image = image.convert("L") if mode == "I;16" else image
                image.convert(mode).save(data, kind)
                valid[f"{kind}-{mode.replace(';', '')}.{kind.lower()}"] = data.getvalue()
    return valid


def changed(how, whole, other, rng):
    """A file's bytes after one of CHANGES. other: the bytes of another file."""
    data = bytearray(whole)
    if how == "cut":
        some = (1, 2, 4, 8, 16, 32, 64, 128, len(data) // 4, len(data) // 2, len(data) - 1)
        data = data[:rng.choice(some)]
    elif how in ("flip", "flips"):
        for _ in range(1 if how == "flip" else 40):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif how == "swap":
        data[:32] = other[:32]
    elif how == "size":
        # Huge numbers where sizes are declared.
        at = rng.randrange(4, min(len(data), 64))
        data[at:at + 4] = b"\xff\xff\xff\x7f"
    elif how == "zeros":
        at = rng.randrange(len(data))
        data[at:at + 100] = bytes(100)
    elif how == "junk":
        data += rng.randbytes(1000)
    else:
        data = data + data
    return bytes(data)


def hostile_images(folder, count, rng):
    """Writes about `count` files, valid and not. Returns: how many."""
    valid = valid_images(rng)
    names, contents = sorted(valid), dict(valid)
    fine = valid["PNG-RGB.png"]
    while len(contents) < count - 12:
        name, how = rng.choice(names), rng.choice(CHANGES)
        content = changed(how, valid[name], valid[rng.choice(names)], rng)
        contents[f"{how}-{len(contents):05d}-{name}"] = content
    contents |= {"empty.jpg": b"", "text.png": b"hello", "new\nline.png": fine,
                 'comma, and "quote".png': fine, "forbidden.png": fine,
                 os.fsdecode(b"not-utf8-\xff\xfe.png"): fine}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (folder / "forbidden.png").chmod(0)
    (folder / "directory.jpg").mkdir()
    (folder / "directory.jpg" / "inside.png").write_bytes(fine)
    os.mkfifo(folder / "pipe.jpg")
    os.symlink("nowhere", folder / "dangling.jpg")
    os.symlink("/dev/zero", folder / "device.jpg")
    return len(contents) + 4


def images(scene, count):
    """Labels them as a folder, a tar and a zip; all must be in images.csv, for the same reasons."""
    folder = scene.folder / "hostile"
    folder.mkdir()
    number = hostile_images(folder, count or 2000, random.Random(2))
    sources = [folder, scene.folder / "hostile.tar", scene.folder / "hostile.zip"]
    with tarfile.open(sources[1], "w") as tar, zipfile.ZipFile(sources[2], "w") as archive:
        for path in sorted(folder.rglob("*"), key=os.fsencode):
            if path.is_file() and os.access(path, os.R_OK):
                tar.add(path, path.relative_to(folder))
                # A zip's names are UTF-8.
                with contextlib.suppress(UnicodeEncodeError):
                    archive.write(path, path.relative_to(folder))
    seen, seconds, peak = [], [], 0
    for source in sources:
        out, begin = scene.folder / f"of-{source.name}", time.monotonic()
        process = start([PY, ROOT / "imagenet_dummy_label.py", source, "--teacher", scene.teacher,
                         "--threshold", "0", "--out", out], stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT, text=True, errors="replace")
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0 and "Traceback" not in output, output[-3000:]
        seconds.append(time.monotonic() - begin)
        peak = max(peak, usage.ru_maxrss / 1024)
        with open(out / "images.csv", newline="", encoding="utf-8",
                  errors="surrogateescape") as file:
            seen.append({row["path"]: row for row in csv.DictReader(file)})
    in_all = set.intersection(*map(set, seen))
    same = True
    for path in in_all:
        rows = [of_source[path] for of_source in seen]
        same &= len({(row["status"], row["label"], row["reason"]) for row in rows}) == 1
        same &= np.ptp([float(row["confidence"] or 0) for row in rows]) < 1e-6
    readable = sum(row["status"] != "unreadable" for row in seen[0].values())
    print(f"images: {number} made, {len(seen[0])} accounted for, {readable} readable, "
          f"{len(in_all)} in all three sources, the same: {same}")
    return [f"{number:,} files, in a folder, a tar and a zip",
            f"{len(seen[0]):,} accounted for, {readable:,} of them readable; largest memory "
            f"{peak:,.0f} MiB, {max(seconds):.0f} s",
            "no crash, no hang, the same answer from all three (confidences within 1e-6: they "
            "depend on the batch in the last bit)"], len(seen[0]) == number and bool(same)


# --- damaged files --------------------------------------------------------------------------------

WORDS = [b"null", b"[]", b"{}", b"-1", b"1e999", b"NaN", b'""', b",", b"\n", b"\0", b"\xff" * 8,
         b"object", b"../x"]


def damaged(whole):
    """Hypothesis' strategy for what may become of a file's bytes."""
    from hypothesis import strategies as st

    def with_bits(bits):
        content = bytearray(whole)
        for at, bit in bits:
            content[at] ^= 1 << bit
        return bytes(content)

    def with_bytes(values):
        content = bytearray(whole)
        for at, value in values:
            content[at] = value
        return bytes(content)

    def with_other(place):
        begin, length, other = place
        return whole[:begin] + other + whole[begin + length:]

    at, head = st.integers(0, len(whole) - 1), st.integers(0, min(len(whole), 400) - 1)
    other = st.one_of(st.sampled_from(WORDS), st.binary(max_size=200))
    bits = st.lists(st.tuples(at, st.integers(0, 7)), min_size=1, max_size=8)
    values = st.lists(st.tuples(head, st.integers(0, 255)), min_size=1, max_size=30)
    return st.one_of(
        at.map(lambda n: whole[:n]), bits.map(with_bits), values.map(with_bytes),
        st.tuples(at, st.integers(0, 200), other).map(with_other),
        st.binary(max_size=300),
        st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    )


class Damaged:
    """A copy of the scene's files, each of which a later step reads, and what reads it."""

    def __init__(self, scene):
        import keras

        from noisy_student import training
        from noisy_student.data import load_data
        from noisy_student.files import write_json
        from noisy_student.runs import Run

        self.folder, self.data = scene.folder / "damaged", load_data(str(scene.toy))
        shutil.copytree(scene.student, self.folder / "student")
        shutil.copytree(scene.pseudo, self.folder / "pseudo")
        # What a killed training leaves.
        run = Run(str(self.folder / "student"), "data_generator.py", {}, {})
        self.student = self.run_of("student").model()
        self.student.compile(keras.optimizers.Adam(1e-3))
        self.keeper = training.Keeper(run, seed=0, epochs=12)
        self.keeper.set_model(self.student)
        self.keeper.history = training.read_history(run.path("history.csv"))
        self.keeper.backup()
        corrupted = self.folder / "corrupted"
        corrupted.mkdir()
        np.save(corrupted / "labels.npy", np.tile(self.data.y_test, 5))
        np.save(corrupted / "fog.npy", np.tile(self.data.x_test, (5, 1, 1, 1)))
        write_json(corrupted / "made.json", self.data.lineage())
        shutil.copy(scene.toy / "truth.csv", self.folder)
        with (tarfile.open(self.folder / "pool.tar.gz", "w:gz") as tar,
              zipfile.ZipFile(self.folder / "pool.zip", "w") as archive):
            for path in sorted((scene.toy / "unlabeled").iterdir())[:5]:
                tar.add(path, path.name)
                archive.write(path, path.name)
        self.whole = {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}

    def run_of(self, name):
        from noisy_student import runs

        return runs.read(self.folder / name)

    def vouch_for(self, path):
        """Makes the record vouch for a damaged file: what a stranger's folder would look like."""
        from noisy_student.files import sha256

        run = self.run_of(path.parent.name)
        if path.name in run.sha256:
            run.sha256[path.name] = sha256(path)
            run.save()

    def load_runs(self):
        from noisy_student import cells

        found, labellings = cells.find([self.folder / "student", self.folder / "pseudo"])
        for run in found["student"].values():
            # The history is read when it is asked for.
            assert isinstance(cells.measure(run).history, list)
        for name, of_name in labellings.items():
            cells.Labelling(name, of_name)

    def load_labels(self):
        from noisy_student import labels

        labels.load_pseudo(self.folder / "pseudo", self.data)

    def load_archive(self, name):
        from noisy_student import images, pool

        pool.check_source(str(self.folder / name))
        for found in pool.find_images(str(self.folder / name)):
            images.read_or_reason(found.content)

    def loads(self):
        """{path below the folder: function that reads it}."""
        from noisy_student import labels, robustness

        def corrupted():
            robustness.Corrupted(self.folder / "corrupted", self.data)

        def truth():
            labels.Truth(str(self.folder / "truth.csv"), self.data.class_names)

        return {
            "student/run.json": self.load_runs, "student/history.csv": self.load_runs,
            "student/predictions.npz": self.load_runs,
            "student/model.keras": lambda: self.run_of("student").model(),
            "student/backup.npz": lambda: self.keeper.restore(self.student),
            "pseudo/run.json": self.load_labels, "pseudo/x.npy": self.load_labels,
            "pseudo/y.npy": self.load_labels, "pseudo/index.npy": self.load_labels,
            "pseudo/images.csv": self.load_runs,
            "corrupted/labels.npy": corrupted, "corrupted/fog.npy": corrupted,
            "corrupted/made.json": corrupted, "truth.csv": truth,
            "pool.tar.gz": lambda: self.load_archive("pool.tar.gz"),
            "pool.zip": lambda: self.load_archive("pool.zip"),
        }

    def try_out(self, target, load, content):
        """Whether a damaged file is refused, in one line; loading raises where it crashes."""
        from noisy_student.files import UserError

        path = self.folder / target
        path.write_bytes(content)
        record = path.parent / "run.json"
        try:
            if record.exists() and path != record:
                self.vouch_for(path)
            with contextlib.redirect_stdout(io.StringIO()):
                load()
        except UserError as error:
            assert "\n" not in str(error), error
            return True
        finally:
            for file in {path, record} & set(self.whole):
                file.write_bytes(self.whole[file])
        return False


def try_many(count, contents, try_out):
    """Calls try_out with `count` examples of a strategy, and with smaller ones where it raises."""
    import hypothesis

    settings = hypothesis.settings(
        max_examples=count, deadline=None, database=None, derandomize=True, print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck))
    settings(hypothesis.given(contents)(lambda content: try_out(content)))()


def loaders(scene, count):
    """Damages every file that a later step reads.

    Loading must succeed or end in a UserError of one line, never in anything else; a record whose
    seal is broken must always be refused.
    """
    files = Damaged(scene)
    loads = files.loads()
    each, done, refused, crashed = (count or 2000) // len(loads), 0, 0, []

    def try_out(target, load, content):
        nonlocal done, refused
        done += 1
        said_no = files.try_out(target, load, content)
        refused += said_no
        if target.endswith(".json") and not said_no:
            # White space alone.
            assert json.loads(content) == json.loads(files.whole[files.folder / target])

    for target, load in loads.items():
        contents = damaged(files.whole[files.folder / target])
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                load()
            try_many(each, contents, functools.partial(try_out, target, load))
        except Exception as error:
            # The smallest example that hypothesis found.
            crashed.append(f"{target}: {type(error).__name__}: {error}")
            traceback.print_exception(error, limit=-3)
        print(f"loaders: {target}: {done:,} files so far, {refused:,} refused, "
              f"{len(crashed)} crashes {crashed[-1:]}", flush=True)
    return [f"{done:,} damaged files of {len(loads)} kinds",
            f"{refused:,} refused in one line, the others harmless",
            f"{len(crashed)} kinds ended in anything else"], not crashed


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


PARTS = {"kills": kills, "labelling": labelling, "disk": disk, "images": images,
         "loaders": loaders, "users": users}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART",
                        help=f"{', '.join(PARTS)}; all, if none is named")
    parser.add_argument("--count", type=int, help="how many kills, sizes, images or mutations")
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
