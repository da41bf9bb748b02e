"""Labelled data as people have it is loaded as the public tools write it."""

import io
import json
import lzma
import pickle
import re
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from conftest import TINY, train_teacher
from hostile_archives import header, sparse
from PIL import Image

from noisy_student import formats, runs
from noisy_student.data import CIFAR10, load_data
from noisy_student.files import UserError
from noisy_student.formats import text
from noisy_student.pool import check_source
from noisy_student.record import Truth

# 60 to train on and 20 to test with, of ten classes in turn.
LABELS, TEST_LABELS = np.arange(60) % 10, np.arange(20) % 10


def pixels(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


X, X_TEST = pixels(60, 0), pixels(20, 1)


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def rows(x):
    """As CIFAR's own files hold images: all red values of one, then the green, then the blue."""
    return x.transpose(0, 3, 1, 2).reshape(len(x), 3072)


def write_kaggle(folder):
    (folder / "train").mkdir()
    lines = ["id,label"]
    for i, (image, label) in enumerate(zip(X, LABELS), 1):
        (folder / "train" / f"{i}.png").write_bytes(png(image))
        lines.append(f"{i},{CIFAR10[label]}")
    (folder / "trainLabels.csv").write_text("\n".join(lines) + "\n")
    # Without labels, and there are 300,000.
    (folder / "test").mkdir()
    (folder / "test" / "1.png").write_bytes(png(X_TEST[0]))
    return folder


def write_parquet(folder):
    """As the library datasets does, CIFAR-10's columns and features."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    about = b'{"info": {"features": {"label": {"names": ["%s"], "_type": "ClassLabel"}}}}'
    about = about % b'", "'.join(name.encode() for name in CIFAR10)
    (folder / "data").mkdir()
    for part, x, labels in (("train-00000-of-00002", X[:40], LABELS[:40]),
                            ("train-00001-of-00002", X[40:], LABELS[40:]),
                            ("test-00000-of-00001", X_TEST, TEST_LABELS)):
        table = pyarrow.table({"img": [{"bytes": png(image), "path": None} for image in x],
                               "label": pyarrow.array(labels, pyarrow.int64())})
        parquet.write_table(table.replace_schema_metadata({"huggingface": about}),
                            folder / "data" / f"{part}.parquet", row_group_size=16)
    return folder


def write_batches(folder):
    """cifar-10-batches-py: pickles of dictionaries whose keys are bytes."""
    folder = folder / "cifar-10-batches-py"
    folder.mkdir()
    batches = [(f"data_batch_{i + 1}", X[12 * i:12 * i + 12], LABELS[12 * i:12 * i + 12])
               for i in range(5)]
    for name, x, labels in (*batches, ("test_batch", X_TEST, TEST_LABELS)):
        batch = {b"data": rows(x), b"labels": labels.tolist(), b"batch_label": name.encode()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = {b"label_names": [name.encode() for name in CIFAR10]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))
    (folder / "readme.html").write_text("<html>")
    return folder


def write_archive(folder):
    path = folder / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(write_batches(folder), "cifar-10-batches-py")
    return path


def write_arrays(folder):
    for part, x, labels in (("train", X, LABELS), ("test", X_TEST, TEST_LABELS)):
        np.save(folder / f"x_{part}.npy", x)
        np.save(folder / f"y_{part}.npy", labels[:, None].astype(np.uint8))
    (folder / "classes.txt").write_text("\n".join(CIFAR10) + "\n")
    return folder


def write_folders(folder):
    for part, x, labels in (("train", X, LABELS), ("val", X_TEST, TEST_LABELS)):
        for i, (image, label) in enumerate(zip(x, labels)):
            place = folder / part / CIFAR10[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i:03d}.png")
    return folder


WRITERS = (write_parquet, write_batches, write_archive, write_arrays, write_folders, write_kaggle)


def pairs(x, y):
    return sorted((image.tobytes(), int(label)) for image, label in zip(x, y))


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_images_and_labels(write, tmp_path, capsys):
    data = load_data(str(write(tmp_path)))
    assert data.class_names == CIFAR10 and len(set(data.names)) == len(data.x)
    if write is write_kaggle:
        # Nobody has the labels of its test images: the fifth image of each class is one.
        assert pairs(data.x_test, data.y_test) == pairs(X[40:50], LABELS[40:50])
        rest = np.r_[:40, 50:60]
        assert (data.x == X[rest]).all() and data.y.tolist() == LABELS[rest].tolist()
        assert data.names[40] == "train/51.png"
        assert "every 5th training image of a class is one: 10" in capsys.readouterr().out
        return
    assert pairs(data.x, data.y) == pairs(X, LABELS)
    assert pairs(data.x_test, data.y_test) == pairs(X_TEST, TEST_LABELS)
    said = capsys.readouterr().out
    assert ("its validation images are the test images here" in said) == (write is write_folders)


@pytest.mark.parametrize("write", [write_parquet, write_archive])
def test_a_run_on_it_trains(write, tmp_path):
    data = write(tmp_path)
    train_teacher("--data", data, *TINY, "--epochs", 1, "--log-dir", tmp_path / "teacher")
    assert runs.finished(tmp_path / "teacher", "").made_from["data"] == str(data)


def test_one_parquet_file_with_words_for_labels(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    labels = [("cat", "ant")[label % 2] for label in LABELS]
    parquet.write_table(pyarrow.table({"id": range(60), "image": [png(image) for image in X],
                                       "label": labels}), tmp_path / "any.parquet")
    data = load_data(str(tmp_path / "any.parquet"))
    assert data.class_names == ["ant", "cat"] and (len(data.x), len(data.x_test)) == (48, 12)
    assert (data.x[0] == X[0]).all() and data.y[0] == 1


def test_parquet_without_pyarrow_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    source = tmp_path / "train.parquet"
    source.write_bytes(b"PAR1")
    for read in (load_data, check_source):
        with pytest.raises(UserError, match="python -m pip install pyarrow$"):
            read(str(source))


class Program:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("content, text", [
    (pickle.dumps({b"data": Program()}, protocol=2), r"asks for __builtin__\.print"),
    (b"cos\nsystem\n(S'true'\ntR.", r"asks for os\.system"),
    # A call of what is only there to be named.
    (b"cnumpy\nndarray\n(I1000000000000\ntR.", "damaged, or not what is expected"),
    (pickle.dumps({b"data": X.astype(float), b"labels": [0]}, protocol=2), "holds float64"),
    (pickle.dumps({b"images": X}, protocol=2), "damaged, or not what is expected"),
    (b"no pickle", "damaged, or not what is expected")])
def test_pickles_that_are_more_or_less_than_arrays_are_refused(content, text, tmp_path, capsys):
    folder = write_batches(tmp_path)
    (folder / "data_batch_2").write_bytes(content)
    with pytest.raises(UserError, match=text) as error:
        load_data(str(folder))
    assert "\n" not in str(error.value) and capsys.readouterr().out == ""


def test_pickles_of_python_2_are_read():
    # As CIFAR-10's archive holds them: NumPy's old module, and strings for bytes.
    old = (b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\n"
           b"ndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x06U\x02u1"
           b"K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
           b"\x89U\x02\x07\xc8tbU\x06labelsq\x08]q\x09(K\x03K\x04eu.")
    batch = formats.Unpickler(io.BytesIO(old), encoding="bytes").load()
    assert batch[b"data"].tolist() == [[7, 200]] and batch[b"labels"] == [3, 4]


def test_labels_that_competitions_keep_to_themselves(tmp_path):
    folder = write_arrays(tmp_path)
    np.save(folder / "y_test.npy", np.full(20, -1))
    data = load_data(str(folder))
    assert (len(data.x), len(data.x_test)) == (50, 10)
    np.save(folder / "y_test.npy", np.full(20, 10))
    with pytest.raises(UserError, match="the test images have a class 10, but there are 10"):
        load_data(str(folder))


# --- as people have it ----------------------------------------------------------------------------


def test_parts_are_called_in_many_ways(tmp_path):
    write_folders(tmp_path)
    (tmp_path / "train").rename(tmp_path / "Training")
    (tmp_path / "val").rename(tmp_path / "Testing")
    data = load_data(str(tmp_path))
    assert (len(data.x), len(data.x_test)) == (60, 20)
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="has Training/ and train/, and which one is to train"):
        load_data(str(tmp_path))


def test_files_beside_the_folders_of_classes_are_counted(tmp_path, capsys):
    write_folders(tmp_path)
    (tmp_path / "train" / "stray.png").write_bytes(png(X[0]))
    assert len(load_data(str(tmp_path)).x) == 60
    assert "1 files beside the classes' folders are passed over" in capsys.readouterr().out


def test_arrays_that_are_not_read_are_named(tmp_path, capsys):
    (write_arrays(tmp_path) / "y_test.npy").rename(tmp_path / "labels_test.npy")
    assert len(load_data(str(tmp_path)).x_test) == 10
    assert "no other array belongs to labels_test.npy, x_test.npy, not read" in (
        capsys.readouterr().out)


def test_pixels_that_are_fractions_of_one_are_refused(tmp_path):
    np.save(write_arrays(tmp_path) / "x_train.npy", X // 255)
    with pytest.raises(UserError, match="no pixel is above 1; 0 to 255 are expected"):
        load_data(str(tmp_path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_classes_are_named_without_the_mark_that_editors_write(encoding, tmp_path):
    text = "\r\n".join(["Münze", *CIFAR10[1:]])
    (write_arrays(tmp_path) / "classes.txt").write_text(text, encoding, newline="")
    assert load_data(str(tmp_path)).class_names == ["Münze", *CIFAR10[1:]]


def kaggle_table(folder, change):
    """Changes the text of trainLabels.csv in Kaggle's folder."""
    table = write_kaggle(folder) / "trainLabels.csv"
    table.write_text(change(table.read_text()))
    return str(folder)


def with_index(text):
    header, *lines = text.splitlines()
    return "\n".join([f",{header}", *(f"{i},{line}" for i, line in enumerate(lines))])


@pytest.mark.parametrize("change", [
    lambda text: text.replace(",", ";"), lambda text: text.replace(",", "\t"), with_index,
    lambda text: text.replace("\n", " \r\n").replace(",", ", "),
    lambda text: text.replace("id,label", "Image,LEVEL"),
    lambda text: text.replace(",cat", ".png,cat"), lambda text: "\ufeff" + text + "\n\n",
], ids=["semicolons", "tabs", "index of pandas", "blanks", "other headers", "endings", "mark"])
def test_a_table_of_labels_is_read_as_programs_write_it(change, tmp_path):
    data = load_data(kaggle_table(tmp_path, change))
    assert data.class_names == CIFAR10
    rest = np.r_[:40, 50:60]
    assert (data.x == X[rest]).all() and data.y.tolist() == LABELS[rest].tolist()


def test_images_without_a_label_are_part_of_the_rest(tmp_path, capsys):
    data = load_data(kaggle_table(tmp_path, lambda text: text.replace("\n3,bird\n", "\n3,\n")))
    assert data.class_names == CIFAR10 and data.names[2] == "train/3.png"
    assert data.y[2] == -1 and data.rest.tolist() == [2]
    assert sorted([*data.train, *data.val, 2]) == list(range(len(data.x)))
    assert "1 training images have no label, and are part of the rest" in capsys.readouterr().out
    assert Truth(None, CIFAR10, data).of("rest", "train/3.png") is None


@pytest.mark.parametrize("change, text", [
    (lambda text: text.replace("id,label", "a,b"), "its first line .*; it has a, b$"),
    (lambda text: text.replace("\n", "\n0"), "no line fits a file: it has '01', .* has '1.png'$"),
    (lambda text: text + "3,cat\n", "3 is bird in one line, cat in another$")])
def test_a_table_that_cannot_be_right_is_refused(change, text, tmp_path):
    with pytest.raises(UserError, match=f"trainLabels.csv: {text}"):
        load_data(kaggle_table(tmp_path, change))


def test_lines_and_files_that_do_not_belong_together_are_counted(tmp_path, capsys):
    folder = write_kaggle(tmp_path)
    (folder / "train" / "60.png").rename(folder / "train" / "sixty.png")
    assert len(load_data(str(folder)).x) == 49
    assert "of 60 files and 60 lines of trainLabels.csv, 59 belong together" in (
        capsys.readouterr().out)


@pytest.mark.parametrize("unlabelled", ["", "-1"])
def test_images_of_kaggles_table_without_a_label_are_the_rest(unlabelled, tmp_path, capsys):
    data = load_data(kaggle_table(
        tmp_path, lambda text: text.replace("\n4,cat\n", f"\n4,{unlabelled}\n")))
    assert data.class_names == CIFAR10 and len(data.rest) == 1
    assert "1 training images have no label" in capsys.readouterr().out


def test_a_set_that_leaves_nothing_to_test_with_is_refused(tmp_path):
    np.save(tmp_path / "x_train.npy", X[:8])
    np.save(tmp_path / "y_train.npy", np.arange(8) % 2)
    with pytest.raises(UserError, match="no class has the 5 training images of which one"):
        load_data(str(tmp_path))


def test_a_class_without_an_image_to_test_with_is_named(tmp_path, capsys):
    np.save(tmp_path / "x_train.npy", X[:20])
    np.save(tmp_path / "y_train.npy", np.arange(20) // 16)
    load_data(str(tmp_path))
    assert "of a class is one: 3, none of 1" in capsys.readouterr().out


def test_classes_that_differ_by_capital_letters_are_named(tmp_path, capsys):
    load_data(kaggle_table(tmp_path, lambda text: text.replace("\n4,cat\n", "\n4,Cat\n")))
    assert "1 classes differ from others only by capital letters: Cat, " in capsys.readouterr().out


def test_two_classes_of_one_name_are_refused(tmp_path):
    np.save(tmp_path / "x_train.npy", X)
    np.save(tmp_path / "y_train.npy", np.arange(len(X)) % 3)
    (tmp_path / "classes.txt").write_text("crane\ncat\ncrane\n")
    with pytest.raises(UserError, match="two classes are called 'crane'"):
        load_data(str(tmp_path))


def write_table(path, names=None, **columns):
    """A Parquet file of some columns, with a list of names for its column label."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    about = {"info": {"features": {"label": {"names": names}}}} if names else {}
    table = pyarrow.table(columns)
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), path)


def test_each_parquet_file_numbers_classes_by_its_own_list(tmp_path):
    for part, names, x in (("train", ["cat", "dog"], X), ("test", ["dog", "cat"], X_TEST)):
        write_table(tmp_path / f"{part}.parquet", names, image=[png(image) for image in x],
                    label=[i % 2 for i in range(len(x))])
    data = load_data(str(tmp_path))
    assert [data.class_names[c] for c in data.y[:2]] == ["cat", "dog"]
    assert [data.class_names[c] for c in data.y_test[:2]] == ["dog", "cat"]


@pytest.mark.parametrize("none", [None, -1, float("nan")])
def test_parquet_rows_without_a_label_are_part_of_the_rest(none, tmp_path):
    labels = [i % 2 for i in range(60)]
    labels[7] = none
    write_table(tmp_path / "a.parquet", image=[png(image) for image in X], label=labels)
    data = load_data(str(tmp_path))
    assert data.class_names == ["0", "1"] and data.rest.tolist() == [7] and data.y[6] == 0


@pytest.mark.parametrize("labels, text", [
    ([0.5] * 60, "labels must be words, or whole numbers"),
    (list(range(10**9, 10**9 + 60)), "there is a label 1,000,000,059: classes are expected")])
def test_parquet_columns_that_are_no_classes_are_refused(labels, text, tmp_path):
    write_table(tmp_path / "a.parquet", image=[png(image) for image in X], label=labels)
    with pytest.raises(UserError, match=text):
        load_data(str(tmp_path))


def test_the_parquet_column_called_image_is_read(tmp_path):
    images, others = [png(image) for image in X], [b"x"] * 60
    labels = [i % 2 for i in range(60)]
    write_table(tmp_path / "a.parquet", md5=others, image=images, mask=others, label=labels)
    assert (load_data(str(tmp_path)).x[0] == X[0]).all()
    write_table(tmp_path / "a.parquet", left=images, right=others, label=labels)
    with pytest.raises(UserError, match=r"which column is to be read\? left and right may hold"):
        load_data(str(tmp_path))


@pytest.mark.parametrize("write, missing, text", [
    (write_batches, ["data_batch_3", "data_batch_5"], "2 of 7 .* missing: data_batch_3, data_bat"),
    (write_batches, ["batches.meta"], "1 of 7 files are missing: batches.meta"),
    (write_parquet, ["data/train-00000-of-00002.parquet"], "1 of 3 files are .*: train-00000-of")])
def test_missing_files_of_a_known_set_are_named(write, missing, text, tmp_path, capsys):
    folder = write(tmp_path)
    load_data(str(folder))
    assert "missing" not in capsys.readouterr().out
    for name in missing:
        (folder / name).unlink()
    load_data(str(folder))
    assert re.search(f"warning: {folder}: only a part of a known set: {text}",
                     capsys.readouterr().out)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("labels", [np.array, lambda labels: list(np.array(labels))])
def test_batches_that_somebody_saved_again_are_read(protocol, labels, tmp_path):
    folder = write_batches(tmp_path)
    for path in folder.glob("*batch*"):
        content = {text(key): value for key, value in pickle.loads(path.read_bytes()).items()}
        if "labels" in content:
            content["labels"] = labels(content["labels"])
        content["label_names"] = list(map(text, content.get("label_names", [])))
        path.write_bytes(pickle.dumps(content, protocol))
    data = load_data(str(folder))
    assert data.class_names == CIFAR10 and pairs(data.x, data.y) == pairs(X, LABELS)


def test_batches_in_a_zip_are_read(tmp_path):
    folder = write_batches(tmp_path)
    with zipfile.ZipFile(tmp_path / "cifar.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"cifar-10-batches-py/{path.name}")
    data = load_data(str(tmp_path / "cifar.zip"))
    assert pairs(data.x, data.y) == pairs(X, LABELS)


@pytest.mark.parametrize("content, text", [
    (lzma.compress(header("pax", 1 << 30, tarfile.XHDTYPE) + bytes(1 << 20)), "a header of more"),
    (lzma.compress(header("big", 1 << 30) + bytes(1 << 20)), "it unpacks to more than 100 times"),
    (sparse("data_batch_1"), "data_batch_1: a sparse file: repack the archive")])
def test_archives_of_labelled_data_are_bounded_like_pools(content, text, tmp_path):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match=f"^{tmp_path}/a.tar: {text}"):
        load_data(str(tmp_path / "a.tar"))


def test_archive_of_images_is_to_be_unpacked(tmp_path):
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(write_folders(tmp_path / "set"), "set")
    with pytest.raises(UserError, match="holds none of CIFAR's batches; an archive of images must"):
        load_data(str(tmp_path / "images.tar"))


@pytest.mark.parametrize("begins, text", [(b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it"),
                                          (b"\x04\x22\x4d\x18", "compressed by lz4: unpack it")])
def test_files_that_nothing_here_unpacks_say_what_they_are(begins, text, tmp_path):
    (tmp_path / "a.tar.zst").write_bytes(begins + bytes(600))
    for read in (load_data, check_source):
        with pytest.raises(UserError, match=f"a.tar.zst: neither a folder.*, but {text}"):
            read(str(tmp_path / "a.tar.zst"))


def test_batch_of_more_bytes_than_any_is_not_read(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.size = formats.LARGEST_BATCH + 1
        archive.addfile(member, open("/dev/zero", "rb"))
    with pytest.raises(UserError, match="data_batch_1: 268,435,457 bytes, more than"):
        load_data(str(tmp_path / "a.tar.gz"))


def test_a_new_format_is_a_reader_and_a_line(tmp_path, monkeypatch):
    (tmp_path / "set.raw").write_bytes(X.tobytes())

    def read_raw(path):
        x = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 32, 32, 3)
        return CIFAR10, {"train": formats.Part(x, LABELS, formats.numbered("train", len(x)))}

    reader = (lambda path: path.suffix == ".raw", read_raw)
    monkeypatch.setattr(formats, "READERS", (reader, *formats.READERS))
    assert len(load_data(str(tmp_path / "set.raw")).x) == 50
