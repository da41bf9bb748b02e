"""Unlabelled images from anywhere: folders, tar and zip archives, Parquet. Imports no Keras.

A new format is a generator of Found and a line in READERS. Nothing is ever unpacked to disk.
"""

import os
import tarfile
import unicodedata
import zipfile
from collections import deque
from typing import NamedTuple

from noisy_student.files import UserError, first_line
from noisy_student.formats import hidden, parquet_file, parquet_images, visible_files
from noisy_student.images import LeftOut, decode_all, file_size, what_it_is

# Bytes; what a member of an archive claims beyond that is not unpacked.
LARGEST_MEMBER = 256 << 20
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
                content = passed_over(member.filename) or read_member(
                    archive.open, member, member.file_size)
            except Exception as error:
                content = UserError(first_line(error))
            yield Found(source, member.filename, content, member.compress_size)


def size_of_zip(source):
    with zipfile.ZipFile(source) as archive:
        return sum(member.compress_size for member in archive.infolist())


def from_tar(source):
    with open(source, "rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as archive:
        before = 0
        for member in archive:
            if member.isdir():
                continue
            content = passed_over(member.name) or UserError("a link or a device, not a file")
            if member.isreg() and not isinstance(content, LeftOut):
                content = read_member(archive.extractfile, member, member.size)
            yield Found(source, member.name, content, raw.tell() - before)
            before = raw.tell()


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
    (tarfile.is_tarfile, from_tar, os.path.getsize),
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
                    yield found._replace(path=tidy(found.path))
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
