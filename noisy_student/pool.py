"""Unlabelled images from anywhere: folders, tar and zip archives, Parquet. Imports no Keras.

A new format is a generator of Found and a line in READERS. Nothing is ever unpacked to disk.
"""

import bz2
import contextlib
import gzip
import lzma
import os
import tarfile
import unicodedata
import zipfile
from collections import deque
from typing import NamedTuple

from noisy_student.files import UserError, first_line
from noisy_student.formats import hidden, parquet_file, parquet_images, visible_files
from noisy_student.images import LeftOut, decode_all, file_size, what_it_is

# Bytes of a member of an archive, and of all that a tar says about one: a larger one is not read.
LARGEST_MEMBER, LARGEST_HEADER = 32 << 20, 64 << 10
# Letters of a path: as many as Linux knows. A longer one is cut, and its file is not read.
LONGEST_PATH = 4096
# A tar that claims to be larger than both is a bomb: so many bytes, and so many times its file.
LARGEST_TAR, LARGEST_RATIO = 256 << 20, 1000
HIDDEN = LeftOut("hidden", "a program put it there for itself")
# As WebDataset has them.
COMPANION = LeftOut("companion", "says something about an image")


class Found(NamedTuple):
    """An image before it is decoded."""

    # As named on the command line, and the path within it, with / between folders.
    source: str
    path: str
    # A path, bytes, a uint8 (32, 32, 3) array, or a UserError that says why it cannot be read.
    content: object
    # Its share of the work, in bytes.
    size: int


def from_folder(folder):
    passed = []
    for path in visible_files(folder, passed):
        content = passed_over(path.name) or path
        yield Found(folder, os.path.relpath(path, folder), content, file_size(path))
    for path in passed:
        yield Found(folder, os.path.relpath(path, folder), HIDDEN, 0)


def size_of_folder(folder):
    return sum(map(file_size, visible_files(folder)))


def from_zip(source):
    """A zip can be read on behind a damaged member, which is one unreadable file."""
    with zipfile.ZipFile(source) as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            if member.is_dir():
                continue
            try:
                content = passed_over(member.filename)
                # What else a zip may be packed with is unpacked in pieces of any size.
                if not content and member.compress_type not in (zipfile.ZIP_STORED,
                                                                zipfile.ZIP_DEFLATED):
                    raise UserError(f"packed by method {member.compress_type}: repack the archive")
                content = content or read_member(archive.open, member, member.file_size)
            except Exception as error:
                content = UserError(first_line(error))
            yield Found(source, member.filename, content, member.compress_size)


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
            name, content = "", UserError("a link or a device, not a file")
            try:
                archive.fileobj.left = LARGEST_HEADER
                member = archive.next()
                # They are not kept for those who go back.
                archive.members.clear()
                if member is None:
                    break
                name = member.name
                content = passed_over(name) or content
                if member.isreg() and not isinstance(content, LeftOut):
                    archive.fileobj.left = member.size
                    content = read_member(archive.extractfile, member, member.size)
            except Exception as error:
                content = UserError(first_line(error))
            if not place < archive.offset <= end:
                raise content if isinstance(content, UserError) else UserError("it leads nowhere")
            place = archive.offset
            if not name or not member.isdir():
                yield Found(source, name, content, file.tell() - before)
                before = file.tell()
        # A tar ends with zeros or with the file; tarfile also ends at what is no header.
        if archive.fileobj.last.strip(b"\0"):
            raise UserError("what follows is no header")


def from_parquet(source):
    for row, content in enumerate(parquet_images(source)):
        yield Found(source, f"{row:07d}", content, file_size(content))


def size_of_parquet(source):
    # Whether it can be read at all is known before the teacher is asked.
    parquet_file(source)
    return os.path.getsize(source)


# How a source is recognised, what reads it, and its size in bytes as Found counts it.
READERS = (
    (os.path.isdir, from_folder, size_of_folder),
    (zipfile.is_zipfile, from_zip, size_of_zip),
    (is_tar, from_tar, os.path.getsize),
    (lambda source: source.endswith(".parquet"), from_parquet, size_of_parquet),
)


def read_member(open_member, member, size):
    """The bytes of an archive's member, or the UserError that says why not."""
    if size > LARGEST_MEMBER:
        return UserError(f"{size:,} bytes, more than {LARGEST_MEMBER:,}")
    with open_member(member) as file:
        return file.read(LARGEST_MEMBER)


def passed_over(path):
    """The LeftOut of what is hidden, or is said about an image beside it; None of all else."""
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

    Yields: Found.
    """
    if source == "rest":
        for i in data.rest:
            yield Found(source, data.names[i], data.x[i], data.x[i].nbytes)
        return
    try:
        for recognises, read, _ in READERS:
            if recognises(source):
                for found in read(source):
                    path = tidy(found.path)
                    if len(path) > LONGEST_PATH:
                        reason = UserError(f"a path of {len(path):,} letters")
                        found = found._replace(content=reason)
                    yield found._replace(path=path[:LONGEST_PATH])
                return
    except Exception as error:
        # A broken archive raises almost anything.
        reason = UserError(f"the archive is damaged from here on: {first_line(error)}")
        yield Found(source, "", reason, 0)


def decoded(found, workers=None):
    """Decodes Found images in order, later ones while the first are used.

    Args:
        workers: processes that decode; 1: this process does; default, one per core.

    Yields: (Found, its pixels, uint8 (32, 32, 3), or the UserError that says why there are none).
    """
    waiting = deque()

    def contents():
        for image in found:
            # Only what tells one image from another is kept while its content is decoded.
            waiting.append(image._replace(content=None))
            yield image.content

    for pixels in decode_all(contents(), workers):
        yield waiting.popleft(), pixels
