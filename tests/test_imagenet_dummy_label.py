"""Pseudo-labels: what is kept is the best there is, whatever order it comes in, and the truth only looks on."""

import csv
import io
import os
import shutil
import tarfile
import zipfile

import cifar10_resnet50 as step1
import imagenet_dummy_label as step2

import numpy as np
import pytest
from PIL import Image


def soft(label, confidence, classes=3):
    row = np.full(classes, (1 - confidence) / (classes - 1), np.float32)
    row[label] = confidence
    return row


def select(images, threshold=0.5, cap=None, classes=3):
    """images: (path, label, confidence)."""
    selection = step2.Selection(threshold, cap, classes)
    for path, label, confidence in images:
        selection.add("s", path, np.zeros((32, 32, 3), np.uint8), soft(label, confidence, classes))
    return selection


# --- threshold, cap and balance ---


def test_threshold_is_exclusive():
    kept = select([("a", 0, 0.5), ("b", 0, np.nextafter(np.float32(0.5), np.float32(1))), ("c", 1, 0.4), ("d", 2, 1.0)]).kept()
    assert [candidate.rank[2] for candidate in kept] == ["b", "d"]
    assert select([("a", 0, 0.9999), ("b", 1, 1.0)], threshold=1.0).kept() == []
    assert len(select([("a", 0, 0.4), ("b", 1, 1.0)], threshold=0.0).kept()) == 2


def test_most_confident_are_kept_whatever_the_order():
    rng = np.random.default_rng(0)
    images = [(f"{i:04d}", int(rng.integers(3)), float(rng.choice(np.linspace(0.4, 1, 40)))) for i in range(3000)]  # with ties
    expected = [path for label in range(3) for path, *_ in sorted(
        (image for image in images if image[1] == label and np.float32(image[2]) > 0.5), key=lambda image: (-np.float32(image[2]), image[0]))[:50]]
    for _ in range(3):
        assert [candidate.rank[2] for candidate in select(images, cap=50).kept()] == expected
        rng.shuffle(images)


def test_memory_is_bounded_by_the_cap():
    selection = select(((f"{i}", 0, 0.6 + i % 100 / 300) for i in range(5000)), cap=10)
    assert max(map(len, selection.candidates)) <= 2 * 10 + step1.BATCH and len(selection.kept()) == 10


def test_balance_fills_up_to_the_largest_from_the_front():
    index = step2.balance(np.array([0, 0, 0, 0, 0, 1, 1, 3]))
    assert index.tolist() == [0, 1, 2, 3, 4, 5, 6, 5, 6, 5, 7, 7, 7, 7, 7]  # class 2 has none and stays empty
    assert step2.balance(np.array([2])).tolist() == [0]


def test_nothing_above_the_threshold_says_how_confident_the_teacher_was():
    text = select([(str(i), 0, 0.34 + i / 1000) for i in range(100)], threshold=0.9).nothing_kept()
    assert "--threshold 0.9" in text and "half below 0.39" in text and "Try --threshold 0.4" in text


# --- temperature ---


def test_temperature_is_that_of_the_logits():
    logits = np.random.default_rng(0).normal(size=(50, 10)) * 4
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(axis=1, keepdims=True)
    assert step2.with_temperature(p.astype(np.float32), 2.5) == pytest.approx(expected, abs=1e-5)
    assert (step2.with_temperature(p, 2.5).argmax(1) == p.argmax(1)).all()


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_fit_finds_the_temperature(true_temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5)) * 2
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (honest.cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    claimed = step2.with_temperature(honest, 1 / true_temperature)  # too sure of itself by this factor
    assert step2.fit_temperature(claimed, np.eye(5)[labels]) == pytest.approx(true_temperature, rel=0.05)


# --- images ---


@pytest.fixture
def pictures(tmp_path):
    """A folder with files of many kinds, and what becomes of each."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pool"
    (folder / "deep" / "er").mkdir(parents=True)
    for name, mode, size in (("b.png", "RGB", (32, 32)), ("deep/a.jpg", "L", (64, 48)), ("deep/er/c.webp", "RGBA", (200, 90)),
                             ("gif.gif", "P", (20, 31))):
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode).save(folder / name)
    whole = (folder / "deep" / "a.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[:200])
    (folder / "empty.png").write_bytes(b"")
    (folder / "Thumbs.db").write_bytes(b"\0" * 100)
    (folder / "directory.jpg").mkdir()
    return folder


def shown(source):
    """Path -> pixels or reason, as label_images would see them."""
    return {image.path: step2.decode(image.content) for image in step2.find_images(str(source))}


def test_folder_tar_and_zip_give_the_same(pictures, tmp_path):
    folder = shown(pictures)
    assert list(folder) == ["Thumbs.db", "b.png", "cut.jpg", "deep/a.jpg", "deep/er/c.webp", "empty.png", "gif.gif"]
    reasons = {path: str(image) for path, image in folder.items() if not isinstance(image, np.ndarray)}
    assert set(reasons) == {"Thumbs.db", "cut.jpg", "empty.png"}
    assert reasons["Thumbs.db"] == "not an image" and reasons["empty.png"] == "empty file"
    with tarfile.open(tmp_path / "pool.tar.gz", "w:gz") as tar, zipfile.ZipFile(tmp_path / "pool.zip", "w") as archive:
        for path in folder:
            tar.add(pictures / path, path)
            archive.write(pictures / path, path)
    for packed in ("pool.tar.gz", "pool.zip"):
        members = shown(tmp_path / packed)
        assert set(members) == set(folder)
        for path, image in folder.items():
            assert np.array_equal(members[path], image) if isinstance(image, np.ndarray) else str(members[path]) == reasons[path]


def test_archives_write_nothing_and_follow_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(step2, "LARGEST_MEMBER", 1000)
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        for name, kind, size in (("../../up.png", tarfile.REGTYPE, 10), ("link.png", tarfile.SYMTYPE, 0), ("pipe.png", tarfile.FIFOTYPE, 0),
                                 ("large.png", tarfile.REGTYPE, 2000)):
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, size, "/etc/passwd"
            tar.addfile(member, io.BytesIO(b"x" * size))
    before = set(tmp_path.parent.rglob("*"))
    reasons = {path: str(image) for path, image in shown(tmp_path / "evil.tar").items()}
    assert reasons == {"../../up.png": "not an image", "link.png": "a link or a device, not a file",
                       "pipe.png": "a link or a device, not a file", "large.png": "2,000 bytes, more than 1,000"}
    assert set(tmp_path.parent.rglob("*")) == before


def test_broken_archive_is_one_unreadable_file(pictures, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(30):
            tar.add(pictures / "b.png", f"{i:02d}.png")
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:len(whole) // 2 + 700])  # within a file
    found = list(step2.all_of(str(tmp_path / "a.tar"), None))
    assert 1 < len(found) < 31 and "damaged from here on" in str(found[-1].content)


@pytest.mark.parametrize("name, text", [("nowhere", "no such folder or archive"), ("note.txt", "neither a folder, nor")])
def test_source_that_is_none(name, text, tmp_path):
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(step1.UserError, match=text):
        step2.check_source(str(tmp_path / name))


def test_batches_hold_every_image_once_in_order():
    images = [step2.Found("s", f"{i}", np.full((32, 32, 3), i % 256, np.uint8), 1) for i in range(step1.BATCH * 3 + 7)]
    batches = list(step2.batches_of(step2.decoded(images, workers=3)))
    assert [len(batch) for batch in batches] == [step1.BATCH] * 3 + [7]
    assert [image.path for batch in batches for image, _ in batch] == [image.path for image in images]
    assert all((pixels == int(image.path) % 256).all() for batch in batches for image, pixels in batch)


# --- the truth ---


def test_truth_by_the_longest_prefix_of_whole_names(tmp_path):
    (tmp_path / "truth.csv").write_text("n01,cat\nn01/odd.png,dog\nn0,bird\npool/x,bird\nother,teapot\n")
    truth = step2.read_truth(tmp_path / "truth.csv", ["bird", "cat", "dog"])
    expected = {"n01/a.png": 1, "n01/odd.png": 2, "n01x/a.png": None, "n0/deep/a.png": 0, "x/1.png": 0, "other/b.png": -1, "a": None}
    assert {path: step2.true_class(truth, "/data/pool/", path) for path in expected} == expected


@pytest.mark.parametrize("content, text", [("a,b,c\n", "two columns"), ("a,teapot\n", "names none of the classes"), ("", "names none")])
def test_truth_that_is_none(tmp_path, content, text):
    (tmp_path / "truth.csv").write_text(content)
    with pytest.raises(step1.UserError, match=text):
        step2.read_truth(tmp_path / "truth.csv", ["cat", "dog"])


def test_audit_counts_by_hand():
    audit = step2.Audit(3)
    for label, truth, kept in ((0, 0, True), (0, 1, True), (1, 1, False), (1, -1, True), (2, None, True), (2, 2, True)):
        audit.add(label, truth, kept)
    assert audit.summary() == {"kept": 5, "truth_known": 4, "right": 2, "precision": 0.5, "recall": 0.5}


# --- the script ---


def test_what_it_leaves_behind(pseudo, teacher, toy):
    data = step1.load_data(str(toy), 80)
    read = step2.load_pseudo(pseudo, data)
    assert read.x.dtype == np.uint8 and read.y.dtype == np.float32 and read.y.shape == (100, 10)
    assert read.y.sum(axis=1) == pytest.approx(1, abs=1e-5) and (read.y.max(axis=1) < 1).any()  # soft
    hard = read.y.argmax(axis=1)
    assert (read.index == step2.balance(hard)).all()
    for c in np.unique(hard):
        assert (np.diff(read.y[hard == c].max(axis=1)) <= 0).all()  # the most confident first
    rows = list(csv.DictReader(open(pseudo / "images.csv", newline="")))
    assert len(rows) == 100 and {row["status"] for row in rows} == {"kept"} and {row["source"] for row in rows} == {str(toy / "unlabeled"), "rest"}
    assert {path.name for path in pseudo.iterdir() if path.name != ".lock"} == {"x.npy", "y.npy", "index.npy", "images.csv", "run.json", "montage.png", "confidence.png",
                                                        "mistakes.png"}
    record = step1.read_json(pseudo / "run.json")
    assert record["audit"]["kept"]["truth_known"] == 100 and record["temperature"] != 1


def test_labels_are_the_teachers_without_noise(teacher, toy, tmp_path):
    step2.main([str(toy / "unlabeled"), "--teacher", str(teacher), "--threshold", "0", "--out", str(tmp_path / "p")])
    model, _ = step1.load_model(teacher)
    read = step2.load_pseudo(tmp_path / "p", step1.load_data(str(toy), 80))
    assert read.y == pytest.approx(step1.keras.ops.convert_to_numpy(model(read.x, training=False)), abs=1e-5)
    assert read.y != pytest.approx(step1.keras.ops.convert_to_numpy(model(read.x, training=True)), abs=1e-3)


def test_truth_and_order_and_workers_change_nothing_that_is_kept(teacher, toy, tmp_path):
    pool = tmp_path / "pool"
    shutil.copytree(toy / "unlabeled", pool)
    rows = list(csv.reader(open(toy / "truth.csv", newline="")))
    labels = [label for _, label in rows]
    (tmp_path / "permuted.csv").write_text("".join(f"{path},{label}\n" for (path, _), label in zip(rows, labels[7:] + labels[:7])))
    kept = []
    for i, extra in enumerate((["--truth", str(toy / "truth.csv")], ["--truth", str(tmp_path / "permuted.csv"), "--workers", "1"], ["--workers", "5"])):
        out = tmp_path / f"p{i}"
        step2.main([str(pool), "--teacher", str(teacher), "--threshold", "0.1", "--per-class-cap", "4", "--out", str(out), *extra])
        rows = list(csv.DictReader(open(out / "images.csv", newline="")))
        truths = [row.pop("truth") for row in rows]
        assert any(truths) == ("--truth" in extra) and {"none of these", ""} > set(truths) - set(labels)
        kept.append([rows, *(step1.sha256(out / name) for name in ("x.npy", "y.npy", "index.npy"))])
    assert kept[0] == kept[1] == kept[2]
    statuses = [row["status"] for row in rows]
    assert "over the cap" in statuses and statuses.count("kept") == len(np.load(tmp_path / "p0" / "x.npy"))


def test_hard_labels_and_no_balance(teacher, toy, tmp_path):
    step2.main([str(toy / "unlabeled"), "--teacher", str(teacher), "--threshold", "0", "--hard", "--no-balance", "--out", str(tmp_path / "p")])
    y, index = np.load(tmp_path / "p" / "y.npy"), np.load(tmp_path / "p" / "index.npy")
    assert set(np.unique(y)) == {0, 1} and index.tolist() == list(range(60))


@pytest.mark.parametrize("arguments, text", [
    (["--threshold", "0.999"], "no image is above --threshold 0.999.*Try --threshold"),
    (["--require-all-classes", "--threshold", "0.1"], "no image above --threshold 0.1 for: "),
])
def test_too_little_is_an_error_that_leaves_no_labels(teacher, toy, tmp_path, arguments, text):
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(toy / "unlabeled" / "0000.png", one)
    with pytest.raises(step1.UserError, match=text):
        step2.main([str(one), "--teacher", str(teacher), "--out", str(tmp_path / "p"), *arguments])
    assert not (tmp_path / "p" / "x.npy").exists() and not step1.read_json(tmp_path / "p" / "run.json")["finished"]
    again = [str(one), "--teacher", str(teacher), "--out", str(tmp_path / "p"), "--threshold", "0"]
    step2.main(again)  # nothing worth keeping is there, so another threshold is welcome
    with pytest.raises(step1.UserError, match="threshold 0.0 there, 0.05 here"):
        step2.main([*again, "--threshold", "0.05"])  # and now there is


def test_missing_classes_are_named_and_recorded(teacher, toy, tmp_path, capsys):
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(toy / "unlabeled" / "0000.png", one)
    (one / "broken.png").write_bytes(b"x")
    step2.main([str(one), "--teacher", str(teacher), "--threshold", "0", "--out", str(tmp_path / "p")])
    out = capsys.readouterr().out
    assert "warning: no pseudo-label for " in out and "1 of 2 files are not readable" in out
    record = step1.read_json(tmp_path / "p" / "run.json")
    assert sorted(record["kept_per_class"]) == [0] * 9 + [1] and record["unreadable"] == 1


def test_empty_folder_and_rest_without_rest(teacher, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(step1.UserError, match="no readable image found"):
        step2.main([str(tmp_path / "empty"), "--teacher", str(teacher), "--out", str(tmp_path / "p")])
    with pytest.raises(step1.UserError, match="Run first: python cifar10_resnet50.py"):
        step2.main([str(tmp_path / "empty"), "--teacher", str(tmp_path / "nobody")])


def test_rest_and_calibration_need_what_the_teacher_left(teacher, toy, tmp_path, monkeypatch):
    data = step1.load_data(str(toy), 80)
    data.rest = data.rest[:0]
    record = step1.read_json(teacher / "run.json")
    monkeypatch.setattr(step2, "load_teacher", lambda *_, **__: (None, record, data))
    with pytest.raises(step1.UserError, match="rest: .* was given every label"):
        step2.main(["rest", "--teacher", str(teacher), "--out", str(tmp_path / "p")])
    data.val = data.val[:0]
    with pytest.raises(step1.UserError, match="--calibrate: .* validated on the test images"):
        step2.main([str(toy / "unlabeled"), "--calibrate", "--teacher", str(teacher), "--out", str(tmp_path / "p")])


def test_one_damaged_member_of_a_zip_is_one_unreadable_file(pictures, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in "abc":
            archive.writestr(f"{name}.png", (pictures / "b.png").read_bytes())
    content = bytearray((tmp_path / "a.zip").read_bytes())
    place = content.index(b"b.png") + 5
    content[place:place + 40] = b"\xff" * 40
    (tmp_path / "a.zip").write_bytes(content)
    members = shown(tmp_path / "a.zip")
    assert [isinstance(members[f"{name}.png"], np.ndarray) for name in "abc"] == [True, False, True]


def test_pseudo_labels_of_other_data_are_refused(pseudo, toy, tmp_path):
    with pytest.raises(step1.UserError, match="another choice of labelled images"):
        step2.load_pseudo(pseudo, step1.load_data(str(toy), 80, seed=1))
    shutil.copytree(toy, tmp_path / "toy")
    os.remove(tmp_path / "toy" / "test" / "star" / "0000.png")
    with pytest.raises(step1.UserError, match="another data set"):
        step2.load_pseudo(pseudo, step1.load_data(str(tmp_path / "toy"), 80))
    shutil.copytree(pseudo, tmp_path / "p")
    np.save(tmp_path / "p" / "y.npy", np.load(pseudo / "y.npy")[::-1])
    with pytest.raises(step1.UserError, match="y.npy.*not the file that its run wrote"):
        step2.load_pseudo(tmp_path / "p", step1.load_data(str(toy), 80))
