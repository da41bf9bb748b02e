"""Does a run survive what happens to runs? Kills, full disks, hostile files, other users.

    python benchmarks/soak.py                       # everything, about half an hour on two cores
    python benchmarks/soak.py kills --count 10      # one part

kills       a student's training (all noises, the article's recipe), killed at random moments, then finished
labelling   a labelling run, killed at random moments, with other numbers of workers, then finished
disk        training and labelling on a disk that fills up at random points (Linux, as root: it mounts a tmpfs)
images      hostile images by the thousand, in a folder, a tar and a zip archive
loaders     damaged npy, npz, csv, json, keras and archive files (needs hypothesis: benchmarks/requirements.txt)
users       another working directory, odd paths, read-only sources and data, no right to write, two runs at once

Kills are real SIGKILLs to the process, at moments drawn uniformly over the time that an undisturbed run takes. What "the same"
means: every weight, every prediction, every line of history.csv; every array and every line of images.csv, to the bit.

Writes results/reliability.md, a table with a row per part; the rows of parts that were not run are kept.
"""

import argparse
import contextlib
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

os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}

import numpy as np
from measure import ROOT, machine, table
from PIL import Image

PY, KEPT = sys.executable, ROOT / "logs" / "soak"  # rows of earlier calls
TINY = ["--depth", "14", "--width", "0.03", "--batch-size", "16", "--steps-per-epoch", "3"]
ONE_CORE = os.environ | {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


class Scene:
    """A drawn data set, a teacher and its pseudo-labels in a folder, and what undisturbed runs leave behind."""

    def __init__(self, folder):
        self.folder, self.toy = folder, folder / "toy"
        run([PY, ROOT / "data/make_toy.py", self.toy, "--per-class-train", "20", "--per-class-test", "5", "--unlabeled", "600"])
        run([PY, ROOT / "cifar10_resnet50.py", "--data", self.toy, "--epochs", "2", "--recipe", "fast", *TINY, "--log-dir", folder / "teacher"])
        self.label = [PY, ROOT / "imagenet_dummy_label.py", self.toy / "unlabeled", "--teacher", folder / "teacher", "--threshold", "0.1"]
        self.label_seconds = timed([*self.label, "--out", folder / "pseudo"])
        self.train = [PY, ROOT / "data_generator.py", "--data", self.toy, "--pseudo", folder / "pseudo", "--epochs", "12", *TINY,
                      "--learning-rate", "0.01"]
        self.train_seconds = timed([*self.train, "--log-dir", folder / "student"])
        self.trained, self.labelled = what_training_left(folder / "student"), what_labelling_left(folder / "pseudo")


def run(command, status=0, **more):
    """Runs a command to its end. Returns: what it printed, errors included. Raises where its exit status is another."""
    result = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="surrogateescape",
                            env=more.pop("env", ONE_CORE), **more)
    if status is not None and result.returncode != status:
        raise AssertionError(f"{command} ended with {result.returncode}, not {status}:\n{result.stdout[-3000:]}")
    return result.stdout


def timed(command):
    """Seconds that a command takes."""
    begin = time.monotonic()
    run(command)
    return time.monotonic() - begin


def what_training_left(folder):
    """A digest of the weights, the best weights, the predictions and the history."""
    import cifar10_resnet50 as step1
    import stochastic_resblock  # noqa: F401  the student's layers
    import keras

    models = [keras.saving.load_model(folder / name, compile=False) for name in ("model.keras", "best.keras")]
    with np.load(folder / "predictions.npz") as saved:
        predictions = [saved["test"], saved["validation"]]
    return step1.sha256(*(np.ascontiguousarray(w) for model in models for w in model.get_weights()), *predictions,
                        (folder / "history.csv").read_bytes())


def what_labelling_left(folder):
    import cifar10_resnet50 as step1

    return step1.sha256(*(folder / name for name in ("x.npy", "y.npy", "index.npy", "images.csv")))


def unfinished(folder):
    return list(pathlib.Path(folder).rglob(".unfinished-*"))


def killed_and_finished(command, flag, folder, seconds, kills, rng, variants=((),)):
    """Starts a command, kills it at a random moment, and again; then lets it finish. Returns: how often it was killed."""
    done, tries = 0, 0
    while done < kills and tries < 10 * kills:
        tries += 1
        process = subprocess.Popen(list(map(str, [*command, *rng.choice(variants), flag, folder])), env=ONE_CORE,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            done += 1
        process.wait()
        if (folder / "run.json").exists() and json.loads((folder / "run.json").read_text())["finished"]:
            break
    run([*command, *rng.choice(variants), flag, folder])
    return done


def kill_many(scene, name, command, flag, seconds, count, per_run, left, expected, variants=((),)):
    """Rows for a table: `count` kills, spread over runs that are each killed up to `per_run` times, two at a time."""
    seed, same, runs, killed = 20261124, 0, 0, 0

    def one(number):
        folder = scene.folder / f"{name}{number}"
        return killed_and_finished(command, flag, folder, seconds, per_run, random.Random(seed + number), variants), folder

    with ThreadPoolExecutor(2) as pool:
        while killed < count:
            for kills, folder in pool.map(one, range(runs, runs + 2)):
                killed, runs = killed + kills, runs + 1
                same += left(folder) == expected and not unfinished(folder)
                shutil.rmtree(folder)
                print(f"{name}: {killed} kills, {runs} runs, {same} the same", flush=True)
    return [f"{killed} kills over {runs} runs, seeds from {seed}", f"{runs} finished", f"{same} of {runs} the same to the bit"], same == runs


def kills(scene, count):
    return kill_many(scene, "kills", scene.train, "--log-dir", scene.train_seconds, count or 100, 4, what_training_left, scene.trained)


def labelling(scene, count):
    return kill_many(scene, "labelling", scene.label, "--out", scene.label_seconds, count or 50, 2, what_labelling_left, scene.labelled,
                     ((), ("--workers", "1"), ("--workers", "5")))


def disk(scene, count):
    """A tmpfs with some room less than is needed; after the failure it is enlarged, and the same command goes on."""
    count, rng, clear, same = count or 20, random.Random(1), 0, 0
    place = scene.folder / "disk"
    place.mkdir()
    need = {"training": sum(p.stat().st_size for p in (scene.folder / "student").rglob("*")) + 1_500_000,
            "labelling": sum(p.stat().st_size for p in (scene.folder / "pseudo").rglob("*")) + 300_000}
    for number in range(count):
        what = ("training", "labelling")[number % 2]
        command, flag = (scene.train, "--log-dir") if what == "training" else (scene.label, "--out")
        left, expected = (what_training_left, scene.trained) if what == "training" else (what_labelling_left, scene.labelled)
        output, size = "", need[what]
        while "error:" not in output:  # until it is really too small
            size = rng.randrange(1, size) // 4096 * 4096 + 4096
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], check=True)
            output = run([*command, flag, place / "run"], status=None)
            if "error:" not in output:
                subprocess.run(["umount", place], check=True)
        message = output[output.rindex("error:"):].strip()
        ok = "Traceback" not in output and message.count("\n") == 0 and not unfinished(place)
        clear += ok
        subprocess.run(["mount", "-o", "remount,size=200m", place], check=True)
        run([*command, flag, place / "run"])
        same += left(place / "run") == expected
        subprocess.run(["umount", place], check=True)
        print(f"disk: {what} with {size:,} bytes: {message if ok else output[-2000:]}; {clear} clear, {same} the same of {number + 1}", flush=True)
    return [f"{count} sizes of the disk, below what is needed", f"{clear} one clear line, nothing half-written",
            f"{same} of {count} the same to the bit once there was room"], clear == same == count


# --- hostile images --------------------------------------------------------------------------------


def hostile_images(folder, count, rng):
    """Writes about `count` files, valid and not. Returns: how many."""
    pixels = np.frombuffer(rng.randbytes(64 * 48 * 3), np.uint8).reshape(48, 64, 3)
    valid = {}
    for kind in ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "ICO", "TGA", "PCX", "SGI", "EPS", "JPEG2000", "DDS"):
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F"):
            data = io.BytesIO()
            try:
                Image.fromarray(pixels).convert("L" if mode in ("I;16",) else mode).convert(mode).save(data, kind)
            except Exception:  # not every format knows every mode
                continue
            valid[f"{kind}-{mode.replace(';', '')}.{kind.lower()}"] = data.getvalue()
    contents = dict(valid)
    names = sorted(valid)
    while len(contents) < count - 12:
        name = rng.choice(names)
        data, how = bytearray(valid[name]), rng.choice(("cut", "flip", "flips", "swap", "size", "zeros", "junk", "doubled"))
        if how == "cut":
            data = data[:rng.choice((1, 2, 4, 8, 16, 32, 64, 128, len(data) // 4, len(data) // 2, len(data) - 1))]
        elif how in ("flip", "flips"):
            for _ in range(1 if how == "flip" else 40):
                data[rng.randrange(len(data))] = rng.randrange(256)
        elif how == "swap":
            other = valid[rng.choice(names)]
            data[:32] = other[:32]
        elif how == "size":  # huge numbers where sizes are declared
            at = rng.randrange(4, min(len(data), 64))
            data[at:at + 4] = b"\xff\xff\xff\x7f"
        elif how == "zeros":
            at = rng.randrange(len(data))
            data[at:at + 100] = bytes(100)
        elif how == "junk":
            data += rng.randbytes(1000)
        else:
            data = data + data
        contents[f"{how}-{len(contents):05d}-{name}"] = bytes(data)
    contents |= {"empty.jpg": b"", "text.png": b"hello", "new\nline.png": valid["PNG-RGB.png"], "comma, and \"quote\".png": valid["PNG-RGB.png"]}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (folder / "directory.jpg").mkdir()
    (folder / "directory.jpg" / "inside.png").write_bytes(valid["PNG-RGB.png"])
    os.mkfifo(folder / "pipe.jpg")
    os.symlink("nowhere", folder / "dangling.jpg")
    os.symlink("/dev/zero", folder / "device.jpg")
    with open(os.fsencode(folder) + b"/not-utf8-\xff\xfe.png", "wb") as file:
        file.write(valid["PNG-RGB.png"])
    (folder / "forbidden.png").write_bytes(valid["PNG-RGB.png"])
    (folder / "forbidden.png").chmod(0)
    return len(contents) + 6


def images(scene, count):
    """Labels them as a folder, a tar and a zip; every one must be in images.csv, and the reasons the same."""
    import csv

    folder = scene.folder / "hostile"
    folder.mkdir()
    number = hostile_images(folder, count or 2000, random.Random(2))
    with tarfile.open(scene.folder / "hostile.tar", "w") as tar, zipfile.ZipFile(scene.folder / "hostile.zip", "w") as archive:
        for path in sorted(folder.rglob("*"), key=os.fsencode):
            if path.is_file() and os.access(path, os.R_OK):
                tar.add(path, path.relative_to(folder))
                try:
                    archive.write(path, path.relative_to(folder))
                except UnicodeEncodeError:
                    pass  # a zip's names are UTF-8
    seen, seconds = [], []
    for source in (folder, scene.folder / "hostile.tar", scene.folder / "hostile.zip"):
        out, begin = scene.folder / f"of-{source.name}", time.monotonic()
        process = subprocess.Popen(list(map(str, [PY, ROOT / "imagenet_dummy_label.py", source, "--teacher", scene.folder / "teacher", "--threshold",
                                                  "0", "--out", out])), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0 and "Traceback" not in output, output[-3000:]
        seconds.append(time.monotonic() - begin)
        with open(out / "images.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
            seen.append({row["path"]: row for row in csv.DictReader(file)})
        peak = usage.ru_maxrss / 1024
    in_all = set.intersection(*map(set, seen))
    same = all(len({(s[path]["status"], s[path]["label"], s[path]["reason"]) for s in seen}) == 1
               and np.ptp([float(s[path]["confidence"] or 0) for s in seen]) < 1e-6 for path in in_all)
    readable = sum(row["status"] != "unreadable" for row in seen[0].values())
    print(f"images: {number} made, {len(seen[0])} accounted for, {readable} readable, {len(in_all)} in all three sources, the same: {same}")
    return [f"{number:,} files, in a folder, a tar and a zip", f"{len(seen[0]):,} accounted for, {readable:,} of them readable; largest memory "
            f"{peak:,.0f} MiB, {max(seconds):.0f} s", "no crash, no hang, the same answer from all three (confidences within 1e-6: they depend on the batch in the last bit)"], len(seen[0]) == number and same


# --- damaged files ---------------------------------------------------------------------------------


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

    at, head = st.integers(0, len(whole) - 1), st.integers(0, min(len(whole), 400) - 1)
    words = st.sampled_from([b"null", b"[]", b"{}", b"-1", b"1e999", b"NaN", b'""', b",", b"\n", b"\0", b"\xff" * 8, b"object", b"../x"])
    return st.one_of(
        at.map(lambda n: whole[:n]),
        st.lists(st.tuples(at, st.integers(0, 7)), min_size=1, max_size=8).map(with_bits),
        st.lists(st.tuples(head, st.integers(0, 255)), min_size=1, max_size=30).map(with_bytes),
        st.tuples(at, st.integers(0, 200), st.one_of(words, st.binary(max_size=200))).map(lambda t: whole[:t[0]] + t[2] + whole[t[0] + t[1]:]),
        st.binary(max_size=300),
        st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    )


def other_values(record):
    """Hypothesis' strategy for a record with one value, however deep, gone or replaced."""
    from hypothesis import strategies as st

    def places(content, path=()):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield (*path, key)
            if isinstance(value, (dict, list)):
                yield from places(value, (*path, key))

    def changed(choice):
        path, value, gone = choice
        content = json.loads(json.dumps(record))
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        if gone:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        return content

    plain = st.one_of(st.none(), st.booleans(), st.integers(-2, 2**70), st.floats(), st.text(max_size=5))
    value = st.recursive(plain, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=3), inside, max_size=2), max_leaves=5)
    return st.tuples(st.sampled_from(list(places(record))), value, st.booleans()).map(changed)


def loaders(scene, count):
    """Damages every file that a later step reads. Loading must succeed or end in a UserError of one line, never in anything else."""
    import cifar10_resnet50 as step1
    import eval as step5
    import hypothesis
    import imagenet_dummy_label as step2
    import robustness

    data = step1.load_data(str(scene.toy))
    copy = scene.folder / "damaged"
    shutil.copytree(scene.folder / "student", copy / "student")
    shutil.copytree(scene.folder / "pseudo", copy / "pseudo")
    (copy / "corrupted").mkdir()
    np.save(copy / "corrupted/labels.npy", np.tile(data.y_test, 5))
    np.save(copy / "corrupted/fog.npy", np.tile(data.x_test, (5, 1, 1, 1)))
    (copy / "truth.csv").write_text((scene.toy / "truth.csv").read_text())
    with tarfile.open(copy / "pool.tar.gz", "w:gz") as tar, zipfile.ZipFile(copy / "pool.zip", "w") as archive:
        for path in sorted((scene.toy / "unlabeled").iterdir())[:5]:
            tar.add(path, path.name)
            archive.write(path, path.name)
    whole = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    student, _ = step1.load_model(copy / "student")
    step1.compile_model(student, step1.RECIPES["article"], 1e-3, 1)

    def vouched_for(folder, **sums):
        """A record that vouches for the damaged file: what a stranger's folder would look like."""
        record = step1.read_json(folder / "run.json")
        record.update({key: record[key] | value if isinstance(value, dict) else value for key, value in sums.items()})
        step1.write_json(folder / "run.json", record)

    def model():
        vouched_for(copy / "student", model_sha256=step1.sha256(copy / "student/model.keras"))
        step1.load_model(copy / "student")

    def labels(name=None):
        if name:
            vouched_for(copy / "pseudo", sha256={name: step1.sha256(copy / "pseudo" / f"{name}.npy")})
        step2.load_pseudo(copy / "pseudo", data)

    def archive(path):
        step2.check_source(str(path))
        for found in step2.all_of(str(path), None):
            step2.decode(found.content)

    def corrupted():
        robustness.load_corrupted(copy / "corrupted", data.y_test, data.num_classes)

    def runs():
        step5.group(step5.load_runs(step5.find_runs([copy / "student"])[0])[0])

    def resumed():
        step1.Recorder(copy / "student", seed=0).restore(student)

    loads = {
        "student/run.json": runs, "student/split.npz": runs, "student/history.csv": runs, "student/predictions.npz": runs,
        "student/model.keras": model, "student/backup/state.json": resumed, "pseudo/run.json": labels,
        "pseudo/x.npy": lambda: labels("x"), "pseudo/y.npy": lambda: labels("y"), "pseudo/index.npy": lambda: labels("index"),
        "corrupted/labels.npy": corrupted, "corrupted/fog.npy": corrupted,
        "truth.csv": lambda: step2.read_truth(copy / "truth.csv", data.class_names),
        "pool.tar.gz": lambda: archive(copy / "pool.tar.gz"), "pool.zip": lambda: archive(copy / "pool.zip"),
    }
    tests = [(target, load, damaged(whole[copy / target])) for target, load in loads.items()]
    tests += [(f"{target}, sealed again", load, other_values(step1.read_json(copy / target)))
              for target, load in loads.items() if target.endswith(".json")]
    each, done, refused, crashed = (count or 2000) // len(tests), 0, 0, []

    def try_out(path, load, content):
        nonlocal done, refused
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            step1.write_json(path, content)
        done += 1
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                load()
        except step1.UserError as error:
            refused += 1
            assert "\n" not in str(error), error
        finally:
            for other, content in whole.items():
                if other in (path, *(copy / name / "run.json" for name in ("student", "pseudo")), copy / "student/predictions.npz"):
                    other.write_bytes(content)

    for target, load, contents in tests:
        path = copy / target.split(",")[0]
        one = hypothesis.given(contents)(lambda content: try_out(path, load, content))
        one = hypothesis.settings(max_examples=each, deadline=None, database=None, derandomize=True, print_blob=False,
                                  suppress_health_check=list(hypothesis.HealthCheck))(one)
        try:
            one()
        except Exception as error:  # the smallest example that hypothesis found
            crashed.append(f"{target}: {type(error).__name__}: {error}")
            if not isinstance(error, step1.UserError):
                traceback.print_exception(error, limit=-3)
        print(f"loaders: {target}: {done:,} files so far, {refused:,} refused, {len(crashed)} crashes {crashed[-1:]}", flush=True)
    return [f"{done:,} damaged files of {len(tests)} kinds", f"{refused:,} refused in one line, the others harmless",
            f"{len(crashed)} kinds ended in anything else"], not crashed


# --- other users -----------------------------------------------------------------------------------


def users(scene, count):
    """The pipeline as somebody else, elsewhere, without rights, and twice at once."""
    results, nobody = [], 65534
    home = scene.folder / "Zoë's own folder, ünïcode"
    home.mkdir()
    source, toy = home / "the source", home / "data set"
    shutil.copytree(ROOT, source, ignore=lambda folder, names: [n for n in names if n not in os.listdir(ROOT) or n.startswith((".", "logs", "data-real",
                    "results", "__pycache__", "figures"))])
    shutil.copytree(scene.toy, toy)
    for path in [*source.rglob("*"), *toy.rglob("*"), source, toy]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    os.chmod(scene.folder, 0o755)
    os.chown(home, nobody, nobody)
    me = {"env": ONE_CORE | {"HOME": "/nonexistent", "NUMBA_CACHE_DIR": ""}, "cwd": home}
    if os.geteuid() == 0:
        me |= {"user": nobody, "group": nobody, "extra_groups": []}
        try:
            run([PY, "-c", ""], **me)
        except PermissionError:
            sys.exit(f"error: {PY} cannot be started by another user; let its folders be entered (chmod o+x) for this part")
    flags = ["--data", "data set", *TINY, "--recipe", "fast", "--epochs", "1"]
    for command in (["cifar10_resnet50.py", *flags, "--log-dir", "läufe/teacher"],
                    ["imagenet_dummy_label.py", "data set/unlabeled", "--teacher", "läufe/teacher", "--threshold", "0.1", "--out", "läufe/pseudo"],
                    ["data_generator.py", *flags, "--pseudo", "läufe/pseudo", "--log-dir", "läufe/student"],
                    ["eval.py", "läufe", "--report", "report.html", "--check-overlap"]):
        output = run([PY, source / command[0], *command[1:]], **me)
        results.append("Traceback" not in output)
    print("users: another user, folder and path:", results, flush=True)

    output = run([PY, source / "cifar10_resnet50.py", *flags, "--log-dir", source / "logs"], status=1, **me)
    results.append(output.startswith("error: ") and output.count("\n") == 1 or "\nerror: " in output and "Traceback" not in output)
    print("users: no right to write:", output.splitlines()[-1], flush=True)

    first = subprocess.Popen(list(map(str, [*scene.train, "--log-dir", scene.folder / "twice"])), env=ONE_CORE, stdout=subprocess.DEVNULL)
    while not (scene.folder / "twice" / "run.json").exists():
        time.sleep(0.05)
    output = run([*scene.train, "--log-dir", scene.folder / "twice"], status=1)
    results.append("another run is writing there right now" in output and "Traceback" not in output)
    print("users: twice at once:", output.splitlines()[-1], flush=True)
    results.append(first.wait() == 0 and what_training_left(scene.folder / "twice") == scene.trained)
    return ["another user, folder, odd path, read-only source and data; no right to write; twice at once",
            f"{sum(results)} of {len(results)} as they should be", "the second run refuses, the first is the same to the bit"], all(results)


PARTS = {"kills": kills, "labelling": labelling, "disk": disk, "images": images, "loaders": loaders, "users": users}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all, if none is named")
    parser.add_argument("--count", type=int, help="how many kills, sizes, images or mutations")
    args = parser.parse_args(argv)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    KEPT.mkdir(parents=True, exist_ok=True)
    fine = True
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(pathlib.Path(folder))
        for name in args.parts or PARTS:
            begin = time.monotonic()
            row, good = PARTS[name](scene, args.count)
            fine &= good
            command = f"python benchmarks/soak.py {name}" + (f" --count {args.count}" if args.count else "")
            (KEPT / f"{name}.json").write_text(json.dumps([f"`{command}`", *row, f"{(time.monotonic() - begin) / 60:.0f} min"]))
    rows = [json.loads((KEPT / f"{name}.json").read_text()) for name in PARTS if (KEPT / f"{name}.json").exists()]
    text = f"# What happens to runs\n\nOn {machine()}.\n\n" + table(["command", "what was done", "what came of it", "", "took"], rows) + "\n"
    (ROOT / "results" / "reliability.md").write_text(text, encoding="utf-8")
    print(text)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
