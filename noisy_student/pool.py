"""Unlabelled images from anywhere: folders, tar and zip archives, Parquet. Imports no Keras.

A new format is a generator of Pictures and a line in READERS. Nothing is ever unpacked to disk.
"""

import bz2
import contextlib
import gzip
import lzma
import os
import tarfile
import unicodedata
import zipfile

from noisy_student.files import UserError, first_line
from noisy_student.formats import hidden, parquet_file, parquet_images, visible_files
from noisy_student.images import Picture, file_size, what_it_is

# Bytes of a member of an archive, and of all that a tar says about one: a larger one is not read.
LARGEST_MEMBER, LARGEST_HEADER = 32 << 20, 64 << 10
# Letters of a path: as many as Linux knows. A longer one is cut, and its file is not read.
LONGEST_PATH = 4096
# A tar that claims to be larger than both is a bomb: so many bytes, and so many times its file.
LARGEST_TAR, LARGEST_RATIO = 256 << 20, 1000
# Why a file is passed over, and what images.csv calls that; companions are as WebDataset has them.
HIDDEN = "a program put it there for itself", "hidden"
COMPANION = "says something about an image", "companion"


def from_folder(folder):
    passed = []
    for path in visible_files(folder, passed):
        picture = Picture(folder, os.path.relpath(path, folder), path, file_size(path))
        if reason := passed_over(path.name):
            picture.leave_out(*reason)
        yield picture
    for path in passed:
        yield Picture(folder, os.path.relpath(path, folder)).leave_out(*HIDDEN)


def size_of_folder(folder):
    return sum(map(file_size, visible_files(folder)))


def from_zip(source):
    """A zip can be read on behind a damaged member, which is one unreadable file."""
    with zipfile.ZipFile(source) as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            if member.is_dir():
                continue
            picture = Picture(source, member.filename, size=member.compress_size)
            try:
                if reason := passed_over(member.filename):
                    picture.leave_out(*reason)
                # What else a zip may be packed with is unpacked in pieces of any size.
                elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise UserError(f"packed by method {member.compress_type}: repack the archive")
                else:
                    picture.content = read_member(archive.open, member, member.file_size)
            except Exception as error:
                picture.leave_out(first_line(error))
            yield picture


def size_of_zip(source):
    with zipfile.ZipFile(source) as archive:
        return sum(member.compress_size for member in archive.infolist())


class Stream:
    """A file that gives no more than `left` bytes, so that no header can fill the memory."""

    def __init__(self, file):
        self.file, self.left, self.last = file, LARGEST_HEADER, b""
        self.seek, self.tell = file.seek, file.tell

    def read(self, size=-1):
        self.left -= size
        if size < 0 or self.left < 0:
            raise UserError(f"a header of more than {LARGEST_HEADER:,} bytes")
        self.last = self.file.read(size)
        return self.last


def open_tar(file):
    """A TarFile of a binary file, however it is packed; None, if it is no tar."""
    for unpacked in (gzip.open, bz2.open, lzma.open, lambda file: file):
        file.seek(0)
        with contextlib.suppress(Exception):
            return tarfile.TarFile(fileobj=Stream(unpacked(file)))


def is_tar(source):
    with open(source, "rb") as file:
        return open_tar(file) is not None


def from_tar(source):
    """A tar can be read on behind a damaged member as long as it is known where that ends."""
    with open(source, "rb") as file:
        archive, place, before = open_tar(file), 0, 0
        end = max(LARGEST_TAR, LARGEST_RATIO * os.path.getsize(source))
        while True:
            picture, folder = Picture(source, ""), False
            try:
                archive.fileobj.left = LARGEST_HEADER
                member = archive.next()
                # They are not kept for those who go back.
                archive.members.clear()
                if member is None:
                    break
                picture.path, folder = member.name, member.isdir()
                if reason := passed_over(member.name):
                    picture.leave_out(*reason)
                elif member.isreg():
                    archive.fileobj.left = member.size
                    picture.content = read_member(archive.extractfile, member, member.size)
                else:
                    picture.leave_out("a link or a device, not a file")
            except Exception as error:
                picture.leave_out(first_line(error))
            if not place < archive.offset <= end:
                raise UserError(picture.reason or "it leads nowhere")
            place = archive.offset
            if not folder:
                picture.size, before = file.tell() - before, file.tell()
                yield picture
        # A tar ends with zeros or with the file; tarfile also ends at what is no header.
        if archive.fileobj.last.strip(b"\0"):
            raise UserError("what follows is no header")


def from_parquet(source):
    for row, content in enumerate(parquet_images(source)):
        yield Picture(source, f"{row:07d}", content, file_size(content))


def size_of_parquet(source):
    # Whether it can be read at all is known before the teacher is asked.
    parquet_file(source)
    return os.path.getsize(source)


# How a source is recognised, what reads it, and its size in bytes as a Picture's counts.
READERS = (
    (os.path.isdir, from_folder, size_of_folder),
    (zipfile.is_zipfile, from_zip, size_of_zip),
    (is_tar, from_tar, os.path.getsize),
    (lambda source: source.endswith(".parquet"), from_parquet, size_of_parquet),
)


def read_member(open_member, member, size):
    """The bytes of an archive's member. Raises: UserError, where they are too many."""
    if size > LARGEST_MEMBER:
        raise UserError(f"{size:,} bytes, more than {LARGEST_MEMBER:,}")
    with open_member(member) as file:
        return file.read(LARGEST_MEMBER)


def passed_over(path):
    """Why a file that is hidden, or says something about an image, is passed over; else None."""
    if any(hidden(name) for name in tidy(path).split("/")):
        return HIDDEN
    return COMPANION if os.path.splitext(path)[1] in (".cls", ".json", ".txt") else None


def tidy(path):
    """A path as all tables and truths have it: / between folders, no ./ before, NFC."""
    names = unicodedata.normalize("NFC", path.replace("\\", "/")).split("/")
    return "/".join(name for name in names if name not in ("", "."))


def check_source(source, data=None):
    """The size of a source in bytes. Raises: UserError, if it is not a source."""
    if source == "rest":
        return data.x[:1].nbytes * len(data.rest)
    if not os.path.exists(source):
        raise UserError(f"{source}: no such folder or archive")
    try:
        for recognises, _, size in READERS:
            if recognises(source):
                return size(source)
    except Exception as error:
        raise UserError(f"{source}: {first_line(error)}") from error
    raise UserError(f"{source}: neither a folder, nor a tar or zip archive, nor a Parquet file, "
                    f"nor the word rest, but {what_it_is(source)}")


def find_images(source, data=None):
    """All files of one source, in an order that does not depend on the file system.

    An archive that breaks off in the middle is one more unreadable file.

    Args:
        source: a folder, an archive, or "rest": what `data` (a Dataset) left without label.

    Yields: Pictures, with their content, or with the reason why they cannot be read.
    """
    if source == "rest":
        for i in data.rest:
            yield Picture(source, data.names[i], data.x[i], data.x[i].nbytes)
        return
    try:
        for recognises, read, _ in READERS:
            if recognises(source):
                for picture in read(source):
                    path = tidy(picture.path)
                    picture.path = path[:LONGEST_PATH]
                    if len(path) > LONGEST_PATH:
                        picture.leave_out(f"a path of {len(path):,} letters")
                    yield picture
                return
    except Exception as error:
        # A broken archive raises almost anything.
        reason = f"the archive is damaged from here on: {first_line(error)}"
        yield Picture(source, "").leave_out(reason)
