"""Unlabelled images: the same from a folder and from any archive, and every file accounted for."""

import gzip
import io
import lzma
import os
import shutil
import tarfile
import zipfile

import hostile_archives
import numpy as np
import pytest
from hostile_archives import png
from PIL import Image

from noisy_student import pool
from noisy_student.data import Dataset
from noisy_student.files import UserError
from noisy_student.images import Picture, decode_all
from noisy_student.pool import check_source, find_images

PASSED_OVER = ("hidden", "companion")


@pytest.fixture
def pictures(tmp_path):
    """A folder with files of many kinds."""
    rng, folder = np.random.default_rng(0), tmp_path / "pool"
    (folder / "deep" / "er").mkdir(parents=True)
    for name, mode, size in (("b.png", "RGB", (32, 32)), ("deep/a.jpg", "L", (64, 48)),
                             ("deep/er/c.webp", "RGBA", (200, 90)), ("gif.gif", "P", (20, 31))):
        pixels = rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / name)
    (folder / "cut.jpg").write_bytes((folder / "deep" / "a.jpg").read_bytes()[:200])
    (folder / "empty.png").write_bytes(b"")
    (folder / "Thumbs.db").write_bytes(b"\0" * 100)
    (folder / "directory.jpg").mkdir()
    return folder


def shown(source):
    """{path: pixels or reason}, as step 2 would see them."""
    return {picture.path: picture.reason or picture.pixels
            for picture in decode_all(find_images(str(source)), 1)
            if picture.status not in PASSED_OVER}


def passed_over(source):
    """{path: status} of what is no image, and no mistake."""
    return {picture.path: picture.status for picture in find_images(str(source))
            if picture.status in PASSED_OVER}


def pack(path, files):
    """Writes {name: bytes} to a .zip or a .tar, compressed as its name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                # ZipInfo() would turn \ into /, where that parts folders.
                member = zipfile.ZipInfo("x")
                member.filename, member.compress_type = name, zipfile.ZIP_DEFLATED
                archive.writestr(member, content)
        return path
    mode = "w" if path.suffix == ".tar" else f"w:{path.suffix[1:]}"
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_folder_tar_and_zip_give_the_same(pictures, tmp_path):
    folder = shown(pictures)
    assert list(folder) == ["Thumbs.db", "b.png", "cut.jpg", "deep/a.jpg", "deep/er/c.webp",
                            "empty.png", "gif.gif"]
    reasons = {path: image for path, image in folder.items() if isinstance(image, str)}
    assert set(reasons) == {"Thumbs.db", "cut.jpg", "empty.png"}
    assert reasons["Thumbs.db"] == "not an image" and reasons["empty.png"] == "empty file"
    files = {path: (pictures / path).read_bytes() for path in folder}
    for name in ("pool.tar", "pool.tar.gz", "pool.tar.xz", "pool.zip"):
        members = shown(pack(tmp_path / name, files))
        assert list(members) == list(folder)
        for path, image in folder.items():
            if path in reasons:
                assert members[path] == reasons[path]
            else:
                assert (members[path] == image).all()


def test_a_folder_that_cannot_be_read_costs_no_other(pictures, monkeypatch):
    def scandir(folder, scandir=os.scandir):
        if os.fspath(folder).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    names = [picture.path for picture in find_images(str(pictures))]
    monkeypatch.setattr(os, "scandir", scandir)
    found = {picture.path: picture for picture in decode_all(find_images(str(pictures)), 1)}
    assert list(found) == [*(name for name in names if name < "deep"), "deep",
                           *(name for name in names if name > "deep/z")]
    assert found["deep"].status == "unreadable"


def test_archives_write_nothing_and_follow_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "LARGEST_MEMBER", 1000)
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        for name, kind, size in (("../../up.png", tarfile.REGTYPE, 10),
                                 ("/etc/root.png", tarfile.REGTYPE, 10),
                                 ("link.png", tarfile.SYMTYPE, 0), ("hard.png", tarfile.LNKTYPE, 0),
                                 ("pipe.png", tarfile.FIFOTYPE, 0),
                                 ("large.png", tarfile.REGTYPE, 2000)):
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, size, "/etc/passwd"
            tar.addfile(member, io.BytesIO(b"x" * size))
    pack(tmp_path / "evil.zip", {"../up.png": b"x" * 10, "large.png": b"x" * 2000})
    before = set(tmp_path.parent.rglob("*"))
    no_file, large = "a link or a device, not a file", "2,000 bytes, more than 1,000"
    assert shown(tmp_path / "evil.tar") == {
        "../../up.png": "not an image", "etc/root.png": "not an image", "link.png": no_file,
        "hard.png": no_file, "pipe.png": no_file, "large.png": large}
    assert shown(tmp_path / "evil.zip") == {
        "../up.png": "not an image", "large.png": large}
    assert set(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_tar_that_breaks_off_is_read_up_to_there(name, tmp_path):
    noise = np.random.default_rng(0)
    whole = pack(tmp_path / name, {f"{i:02d}.png": noise.bytes(3000) for i in range(30)})
    # Within a file.
    whole.write_bytes(whole.read_bytes()[:whole.stat().st_size // 2 + 700])
    *found, half, end = find_images(str(tmp_path / name))
    assert 1 < len(found) < 29 and all(isinstance(image.content, bytes) for image in found)
    assert half.status == "unreadable" and "not read from here on" in end.reason


@pytest.mark.parametrize("name, content, good", [
    pytest.param(*archive, id=archive[0]) for archive in hostile_archives.archives()])
def test_hostile_archive_is_good_images_and_one_line(name, content, good, tmp_path):
    """For each the number of good images that are found; whatever else there is says why not."""
    (tmp_path / name).write_bytes(content)
    try:
        check_source(str(tmp_path / name))
    except UserError as error:
        assert good == 0 and "\n" not in str(error)
        return
    pictures = list(decode_all(find_images(str(tmp_path / name)), 1))
    reasons = [picture.reason for picture in pictures if picture.pixels is None]
    assert len(pictures) - len(reasons) == good > 0 and len(reasons) <= 2
    assert all(reason and "\n" not in reason for reason in reasons)
    assert max(len(picture.path) for picture in pictures) <= 4096


def test_tar_that_ends_with_a_member_is_said_to_have_no_end(tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (32, 32)).save(content, "PNG")
    path = pack(tmp_path / "pool.tar", {f"{i}.png": content.getvalue() for i in range(4)})
    # A header and the content, in blocks.
    member = 512 + -(-len(content.getvalue()) // 512) * 512
    os.truncate(path, 2 * member)
    found = shown(path)
    assert list(found) == ["0.png", "1.png", ""]
    assert found[""].endswith("it has no end, and may be cut off")


def test_a_link_that_leads_nowhere_costs_no_other(pictures):
    (pictures / "loop").symlink_to(pictures / "loop")
    assert check_source(str(pictures)) > 0
    found = shown(pictures)
    assert len(found) == 8 and isinstance(found["loop"], str)


def test_the_rest_is_named_as_truths_name_it():
    decomposed = "cafe\u0301"
    data = Dataset("d", ["café"], np.zeros((1, 32, 32, 3)), None, [f"train/{decomposed}/1.png"],
                   None, None, rest=np.array([0]))
    (picture,) = find_images("rest", data)
    assert picture.path == "train/caf\u00e9/1.png"


@pytest.mark.parametrize("unpack", [lambda content: content, gzip.compress, lzma.compress])
def test_tars_written_one_after_the_other_are_read(unpack, tmp_path):
    tars = [pack(tmp_path / "a.tar", {f"{name}.png": png()}).read_bytes() for name in "abc"]
    (tmp_path / "all.tar").write_bytes(b"".join(map(unpack, tars)))
    assert list(shown(tmp_path / "all.tar")) == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize("before, after, text", [
    (b"", b"x" * 9999, "9,999 bytes after the archive are not read"),
    (b"x" * 9999, b"", "9,999 bytes before the archive are not read")])
def test_what_is_not_read_of_a_zip_is_said(before, after, text, tmp_path):
    whole = pack(tmp_path / "a.zip", {"a.png": png()}).read_bytes()
    (tmp_path / "a.zip").write_bytes(before + whole + after)
    image, end = find_images(str(tmp_path / "a.zip"))
    assert image.content == png() and text in end.reason


def test_what_follows_a_packed_tar_and_is_not_read_is_said(tmp_path):
    whole = pack(tmp_path / "a.tar.xz", {"a.png": png()}).read_bytes()
    (tmp_path / "a.tar.xz").write_bytes(whole + b"x" * 99_999)
    image, end = find_images(str(tmp_path / "a.tar.xz"))
    assert image.content == png() and "bytes after the archive are not read" in end.reason


def test_an_archive_is_what_it_begins_with(tmp_path):
    inner = pack(tmp_path / "inner.zip", {"inner.png": png()}).read_bytes()
    tar = pack(tmp_path / "a.tar", {"outer.png": png(), "inner.zip": inner})
    # Which only looks for its end.
    assert zipfile.is_zipfile(tar)
    assert list(shown(tar)) == ["outer.png", "inner.zip"]


@pytest.mark.parametrize("name", ["a.tar.xz", "a.zip"])
def test_an_archive_that_unpacks_to_too_much_is_read_up_to_there(name, tmp_path):
    source = pack(tmp_path / name, {f"{i:02d}.png": bytes(1 << 20) for i in range(70)})
    *pictures, end = find_images(str(source))
    assert 60 < sum(picture.content is not None for picture in pictures) <= 64
    assert "it unpacks to more than 100 times its size" in end.reason


@pytest.mark.parametrize("name, text", [("nowhere", "nowhere: no such folder or archive"),
                                        ("note.txt", "note.txt: neither a folder, nor")])
def test_source_that_is_none(name, text, tmp_path):
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(UserError, match=text):
        check_source(str(tmp_path / name))


def test_paths_are_written_in_one_way_however_an_archive_was_packed(tmp_path):
    for path, tidied in (("/a//b.png", "a/b.png"), ("..\\a.png", "../a.png"),
                         ("a/./.b.png", "a/.b.png"), ("cafe\u0301/", "caf\u00e9")):
        assert pool.tidy(path) == tidied
    pack(tmp_path / "dot.tar", {"./n1/0.png": png(), "./n1/cafe\u0301.png": png()})
    pack(tmp_path / "windows.zip", {"n1\\0.png": png(), "n1\\caf\u00e9.png": png()})
    for source in ("dot.tar", "windows.zip"):
        assert list(shown(tmp_path / source)) == ["n1/0.png", "n1/caf\u00e9.png"]


def test_members_of_one_name_are_told_apart(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in (("a.png", png(1)), ("b.png", png(2)), ("./a.png", png(3))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    images = shown(tmp_path / "a.tar")
    assert {path: int(image[0, 0, 0]) for path, image in images.items()} == {
        "a.png": 1, "b.png": 2, "a.png (2)": 3}


def test_a_source_within_another_is_refused(tmp_path, monkeypatch):
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    pack(tmp_path / "photos" / "more.zip", {"1.png": png()})
    monkeypatch.chdir(tmp_path)
    for sources, text in ((["photos", "./photos/"], "photos/: named twice, and photos is the same"),
                          (["link", "photos"], "photos: named twice, and link is the same place"),
                          (["photos/cats", "photos"], "photos/cats: lies within photos, which is")):
        with pytest.raises(UserError, match=text):
            pool.check_sources(sources)
    # A folder's archive is not read with it.
    assert pool.check_sources(["photos", "photos/more.zip"]) > 0


def test_hidden_members_are_skipped_and_links_not_followed(tmp_path):
    names = ["./a/1.png", "a/.DS_Store", "__MACOSX/a/._1.png", ".thumbs/1.png", "../2.png"]
    files = dict.fromkeys(names, png())
    for name in ("a.tar", "a.zip"):
        assert set(shown(pack(tmp_path / name, files))) == {"a/1.png", "../2.png"}
        assert passed_over(tmp_path / name) == dict.fromkeys(names[1:4], "hidden")
    for name in names[:-1]:
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(png())
    # A folder that holds itself.
    os.symlink(tmp_path / "folder", tmp_path / "folder" / "a" / "more")
    assert list(shown(tmp_path / "folder")) == ["a/1.png"]
    os.remove(tmp_path / "folder" / "a" / "more")
    assert passed_over(tmp_path / "folder") == dict.fromkeys(
        ("a/.DS_Store", "__MACOSX", ".thumbs"), "hidden")
    # What the user names is read, whatever its name.
    shutil.copytree(tmp_path / "folder" / "a", tmp_path / ".hidden" / "a")
    assert list(shown(tmp_path / ".hidden")) == ["a/1.png"]


def test_texts_beside_images_in_webdatasets_are_companions(tmp_path):
    files = {f"000{i}.{kind}": content for i in range(3)
             for kind, content in (("cls", b"3"), ("jpg", png(i)), ("json", b"{}"), ("txt", b"a"))}
    for name in ("shard.tar", "shard.zip"):
        images = shown(pack(tmp_path / name, files))
        assert [int(images[f"000{i}.jpg"][0, 0, 0]) for i in range(3)] == [0, 1, 2]
        assert len(images) == 3 and len(passed_over(tmp_path / name)) == 9
        assert set(passed_over(tmp_path / name).values()) == {"companion"}


def test_parquet_files_of_hugging_face(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [{"bytes": png(i), "path": "same.png"} for i in range(100)]
    images[7] = {"bytes": None, "path": "elsewhere.png"}
    for name, column in (("a", images), ("b", [image["bytes"] for image in images])):
        source = tmp_path / f"{name}.parquet"
        parquet.write_table(pyarrow.table({"text": ["x"] * 100, "image": column}), source)
        found = shown(source)
        assert found.pop("0000007") == "no bytes"
        assert {path: int(image[0, 0, 0]) for path, image in found.items()} == {
            f"{i:07d}": i for i in range(100) if i != 7}
        assert check_source(str(source)) == source.stat().st_size


def test_what_is_no_source_says_what_it_is(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(UserError, match="nor the word rest, but a NumPy array: save its images"):
        check_source(str(tmp_path / "x.npy"))
    np.savez(tmp_path / "x.npz", image=np.zeros(3))
    inner = pack(tmp_path / "inner.tar", {"1.png": png()}).read_bytes()
    for source, name, text in ((tmp_path / "x.npz", "image.npy", "a NumPy array: save its images"),
                               (pack(tmp_path / "outer.tar", {"in.tar": inner}), "in.tar",
                                "a tar archive: unpack it, or name it by itself")):
        assert shown(source)[name].startswith(text)


def test_rest_is_what_the_data_set_leaves_without_label():
    x = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    y = np.array([0, 1] * 3)
    data = Dataset("set", ["a", "b"], x, y, [f"train/{i}" for i in range(6)], x, y,
                   rest=np.array([5, 2]))
    found = list(find_images("rest", data))
    assert [image.name for image in found] == [("rest", "train/5"), ("rest", "train/2")]
    assert (np.stack([image.content for image in found]) == x[[5, 2]]).all()
    assert sum(image.size for image in found) == check_source("rest", data) == 2 * 3072


@pytest.mark.parametrize("workers", [1, 2])
def test_every_image_is_decoded_once_with_its_own_pixels(workers):
    pictures = [Picture("s", f"{i}", (png(i % 256), np.full((32, 32, 3), i % 256, np.uint8))[i % 2])
                for i in range(775)]
    for i in range(0, 775, 3):
        pictures[i].leave_out(f"number {i}")
    decoded = list(decode_all(iter(pictures), workers))
    assert [picture.path for picture in decoded] == [f"{i}" for i in range(775)]
    for i, picture in enumerate(decoded):
        assert picture.content is None
        assert picture.reason == f"number {i}" if i % 3 == 0 else picture.pixels[0, 0, 0] == i % 256


def test_a_new_format_is_a_generator_and_a_line(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    source = str(tmp_path / "images.npy")
    with pytest.raises(UserError, match="neither a folder"):
        check_source(source)

    def from_npy(source):
        for i, image in enumerate(np.load(source)):
            yield Picture(source, f"{i}", image, image.nbytes)

    reader = (lambda source: source.endswith(".npy"), from_npy)
    monkeypatch.setattr(pool, "READERS", (*pool.READERS, reader))
    assert check_source(source) == os.path.getsize(source)
    decoded = list(decode_all(find_images(source), 1))
    assert [picture.path for picture in decoded] == list("01234")
    assert (np.stack([picture.pixels for picture in decoded]) == images).all()
