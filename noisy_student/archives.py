"""Tar and zip archives from anywhere, read member by member; nothing is unpacked to disk.

What only makes an archive small is refused by name: sparse members, and entries of a zip that
share their bytes. What it unpacks to in all is bounded by its own size. So a small file cannot
keep a labelling busy for hours, and no header fills the memory.
"""

import bz2
import gzip
import lzma
import os
import tarfile
import zipfile
from typing import NamedTuple

from noisy_student.files import UserError, first_line

# An archive may unpack to this many bytes, or to this many times its size. Pictures are packed
# already: even bitmaps of drawings seldom come to fifty times their archive.
LEAST, RATIO = 64 << 20, 100
# Deflate packs no better than that.
LARGEST_DEFLATED = 1032
# Bytes of all that a tar says of one member.
LARGEST_HEADER = 64 << 10
# How a tar may be packed; most are not.
UNPACK = (gzip.open, bz2.open, lzma.open, lambda file: file)


class Member(NamedTuple):
    """A file in an archive: its content, bytes, or the reason why there is none."""

    name: str
    content: bytes
    reason: str
    # Bytes of the archive that it takes.
    packed: int


def kind(path):
    """zip or tar, however that is packed; None for all else.

    A file's beginning decides: a tar that ends with a zip is a tar.
    """
    if os.path.isfile(path):
        with open(path, "rb") as file:
            if file.read(4) == b"PK\3\4":
                return "zip"
            try:
                if open_tar(file):
                    return "tar"
            except UserError:
                # It is one, but cannot be read, which from_tar() says.
                return "tar"
        # Programs that unpack themselves begin with something else.
        if zipfile.is_zipfile(path):
            return "zip"
    return None


def members(path, most, wanted=lambda name: True):
    """All files in an archive, in an order that does not depend on the machine.

    Args:
        most: bytes of a member; a larger one is not read. wanted: tells by a name whether to read
            what is called so; other members come without content.

    Yields: Members. Raises: UserError, or what zipfile and tarfile raise, where it cannot be read
        on, or where something follows that is not read.
    """
    return {"zip": from_zip, "tar": from_tar}[kind(path)](path, most, wanted)


def attempt(read, *arguments):
    """What read() returns, and ""; or None, and the reason why it fails."""
    try:
        return read(*arguments), ""
    except Exception as error:
        return None, first_line(error)


def check_size(size, most):
    if size > most:
        raise UserError(f"{size:,} bytes, more than {most:,}")


def check_total(size, archive_size):
    if size > max(LEAST, RATIO * archive_size):
        raise UserError(f"it unpacks to more than {RATIO} times its size; if you trust it, unpack "
                        "it and name the folder")


# --- zip ------------------------------------------------------------------------------------------


def from_zip(path, most, wanted):
    """A zip can be read on after a damaged member."""
    with zipfile.ZipFile(path) as archive:
        total, size = 0, os.path.getsize(path)
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        ends = [*(entry.header_offset for entry in entries[1:]), archive.start_dir]
        overlapping = {id(entry) for entry, end in zip(entries, ends) if end < (
            entry.header_offset + zipfile.sizeFileHeader + entry.compress_size)}
        for entry in sorted(entries, key=lambda entry: entry.filename):
            content, reason = None, ""
            if id(entry) in overlapping:
                reason = "overlaps another entry, or the archive's end: repack the archive"
            elif wanted(entry.filename):
                total += min(entry.file_size, LARGEST_DEFLATED * entry.compress_size)
                check_total(total, size)
                content, reason = attempt(read_entry, archive, entry, most)
            if not entry.is_dir():
                yield Member(entry.filename, content, reason, entry.compress_size)
        before = entries[0].header_offset if entries else 0
    if unread := before or bytes_after_zip(path):
        raise UserError(f"{unread:,} bytes {'before' if before else 'after'} the archive are not "
                        "read: perhaps another archive")


def read_entry(archive, entry, most):
    # What else a zip may be packed with is unpacked in pieces of any size.
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"packed by method {entry.compress_type}: repack the archive")
    check_size(entry.file_size, most)
    with archive.open(entry) as file:
        return file.read(most)


def bytes_after_zip(path):
    """How many bytes follow a zip's last record, which zipfile looks for from the file's end."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - (1 << 16) - zipfile.sizeEndCentDir))
        tail = file.read()
    end = tail.rindex(b"PK\5\6") + zipfile.sizeEndCentDir
    return len(tail) - end - int.from_bytes(tail[end - 2:end], "little")


# --- tar ------------------------------------------------------------------------------------------


class Header(tarfile.TarInfo):
    """What a tar says of a member, where there must be such a header."""

    @classmethod
    def fromtarfile(cls, archive):
        archive.fileobj.left = LARGEST_HEADER
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError("what follows is no header") from error


class Stream:
    """What tarfile reads headers from: forwards, and at most `left` bytes for one of them."""

    def __init__(self, file, archive_size):
        self.file, self.archive_size, self.left = file, archive_size, 0
        self.tell = file.tell

    def read(self, size):
        self.left -= size
        if self.left < 0:
            raise UserError(f"a header of more than {LARGEST_HEADER:,} bytes")
        return self.content(size)

    def seek(self, place):
        if place < self.tell():
            raise UserError("it leads nowhere")
        check_total(place, self.archive_size)
        self.file.seek(place)
        # tarfile reads a byte to see whether the file goes on.
        self.left = 1

    def content(self, size):
        if size < 0:
            raise UserError("a negative size")
        check_total(self.tell() + size, self.archive_size)
        return self.file.read(size)


def open_tar(file):
    """A TarFile of a binary file, however it is packed; None, if it is no tar. Raises: UserError"""
    size = os.path.getsize(file.name)
    for unpack in UNPACK:
        file.seek(0)
        try:
            stream = Stream(unpack(file), size)
            # Another tar may follow after the zeros that end one.
            return tarfile.TarFile(fileobj=stream, tarinfo=Header, ignore_zeros=True)
        except UserError:
            raise
        except Exception:
            continue
    return None


def from_tar(path, most, wanted):
    """A tar can be read on after a damaged member whose size is known."""
    with open(path, "rb") as file:
        archive, place, before = open_tar(file), 0, 0
        while True:
            entry, reason = attempt(archive.next)
            # Neither is needed, and both would grow with every member.
            archive.members.clear()
            archive.pax_headers.clear()
            if reason and archive.offset <= place:
                raise UserError(reason)
            if not reason and entry is None:
                # Zeros follow the last member.
                if place and archive.offset == place:
                    raise UserError("it has no end, and may be cut off")
                break
            place, content = archive.offset, None
            if entry and wanted(entry.name):
                content, reason = attempt(read_file, archive.fileobj, entry, most)
            if not entry or not entry.isdir():
                packed, before = file.tell() - before, file.tell()
                yield Member(entry.name if entry else "", content, reason, packed)
        if unread := os.path.getsize(path) - file.tell():
            raise UserError(f"{unread:,} bytes after the archive are not read")


def read_file(stream, entry, most):
    if entry.issparse():
        raise UserError("a sparse file: repack the archive without --sparse")
    if not entry.isreg():
        raise UserError("a link or a device, not a file")
    check_size(entry.size, most)
    content = stream.content(entry.size)
    if len(content) < entry.size:
        raise UserError("unexpected end of data")
    return content
