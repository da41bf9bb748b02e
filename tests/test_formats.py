"""Labelled data as people have it is loaded as the public tools write it."""

import io
import pickle
import sys
import tarfile

import numpy as np
import pytest
from conftest import TINY, train_teacher
from PIL import Image

from noisy_student import formats, runs
from noisy_student.data import CIFAR10, load_data
from noisy_student.files import UserError
from noisy_student.pool import check_source

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
    for name, x, labels in (("data_batch_1", X[:30], LABELS[:30]),
                            ("data_batch_2", X[30:], LABELS[30:]),
                            ("test_batch", X_TEST, TEST_LABELS)):
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


def test_kaggles_lines_and_files_that_do_not_belong_together_are_counted(tmp_path, capsys):
    folder = write_kaggle(tmp_path)
    (folder / "train" / "60.png").rename(folder / "train" / "sixty.png")
    assert len(load_data(str(folder)).x) == 49
    assert "of 60 files and 60 lines of trainLabels.csv, 59 belong together" in (
        capsys.readouterr().out)


def test_archive_of_images_is_to_be_unpacked(tmp_path):
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(write_folders(tmp_path / "set"), "set")
    with pytest.raises(UserError, match="holds none of CIFAR's batches; an archive of images must"):
        load_data(str(tmp_path / "images.tar"))


def test_batch_of_more_bytes_than_any_is_not_read(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.size = formats.LARGEST_BATCH + 1
        archive.addfile(member, open("/dev/zero", "rb"))
    with pytest.raises(UserError, match="data_batch_1 would have 268,435,457 bytes, which no"):
        load_data(str(tmp_path / "a.tar.gz"))


def test_a_new_format_is_a_reader_and_a_line(tmp_path, monkeypatch):
    (tmp_path / "set.raw").write_bytes(X.tobytes())

    def read_raw(path):
        x = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 32, 32, 3)
        return CIFAR10, {"train": formats.Part(x, LABELS, formats.numbered("train", len(x)))}

    reader = (lambda path: path.suffix == ".raw", read_raw)
    monkeypatch.setattr(formats, "READERS", (reader, *formats.READERS))
    assert len(load_data(str(tmp_path / "set.raw")).x) == 50
