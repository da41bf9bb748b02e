"""Archives that nobody packs by accident: good images, and one member made to do harm."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile

from PIL import Image


def png(value=0):
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def header(name="bad.png", size=0, kind=tarfile.REGTYPE):
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def member(name, content, kind=tarfile.REGTYPE):
    return header(name, len(content), kind) + content + bytes(-len(content) % 512)


def after_pax(content=b"x", **records):
    """A member, and before it a pax header that says more of it."""
    said = b""
    for key, value in records.items():
        line = f" {key.replace('_', '.')}={value}\n".encode()
        said += str(len(line) + len(str(len(line) + 3))).encode() + line
    return member("pax", said, tarfile.XHDTYPE) + member("bad.png", content)


def negative():
    """A header whose member ends before it."""
    changed = bytearray(header())
    changed[124:136] = (-512).to_bytes(12, "big", signed=True)
    changed[148:156] = b" " * 8
    changed[148:156] = f"{sum(changed):06o}\0 ".encode()
    return bytes(changed)


def sparse(name="bad.png", size=32 << 20):
    """A member in GNU's old sparse format: nothing but a hole."""
    changed = bytearray(header(name, kind=tarfile.GNUTYPE_SPARSE))
    changed[386:410] = b"%011o\0%011o\0" % (size, 0)
    changed[483:495] = b"%011o\0" % size
    changed[148:156] = b" " * 8
    changed[148:156] = f"{sum(changed):06o}\0 ".encode()
    return bytes(changed)


GOOD, BOMB = member("a.png", png()), 3 << 30
# What stands between two good images, and how many of these are found all the same.
IN_A_TAR = {
    "claims 2^60 bytes": (header(size=1 << 60), 1),
    "claims less than nothing": (negative(), 1),
    "claims 500 bytes too many": (header(size=500), 1),
    "no number for a size": (after_pax(size="many"), 1),
    "sparse map of letters": (after_pax(GNU_sparse_map="a,b", GNU_sparse_size=9), 2),
    "sparse map without end": (after_pax(
        b"99999999\n" + b"0\n" * 100_000, GNU_sparse_major=1, GNU_sparse_minor=0,
        GNU_sparse_name="bad", GNU_sparse_realsize=9), 2),
    "3,000 long names": (member("long", b"a" * 400, tarfile.GNUTYPE_LONGNAME) * 3000, 1),
    "200,000 letters": (after_pax(path="a" * 200_000), 1),
    "60,000 letters": (after_pax(png(), path="a/" * 30_000), 2),
    "damaged header": (b"x" * 512, 1),
    "sparse": (sparse(), 2),
    "an end, and another tar": (bytes(1024), 2),
    "an end, and no other tar": (bytes(1024) + b"x" * 512, 1),
}
# The same, of bytes that stand where a packed tar goes on for 8 MiB of zeros.
PACKED = {
    "pax bomb": (lzma.compress, GOOD + header("pax", BOMB, tarfile.XHDTYPE), 1),
    "first pax bomb": (lzma.compress, header("pax", BOMB, tarfile.XHDTYPE), 0),
    "bomb": (bz2.compress, GOOD + header(size=BOMB), 1),
    "many zeros": (gzip.compress, GOOD, 1),
}


def put(place, kind, value):
    """A change of one number of what a zip's directory says of a member."""
    return lambda entry: struct.pack_into(f"<{kind}", entry, place, value)


def misname(entry):
    put(8, "H", 0x800)(entry)
    entry[46:53] = b"\xff\xfe.png\0"


IN_A_ZIP = {
    "a name that is no UTF-8": (misname, 0), "of version 20": (put(6, "H", 200), 0),
    "under a password": (put(8, "H", 1), 2), "packed by bzip2": (put(10, "H", 12), 2),
    "claims 4 GB": (put(24, "I", 0xfffffff0), 2), "elsewhere": (put(42, "I", 0x7fffffff), 2),
    "another check sum": (put(16, "I", 7), 2), "on another": (put(42, "I", 0), 1),
}


def archives():
    """Yields: (name, bytes, how many good images can be found)."""
    for name, (content, good) in IN_A_TAR.items():
        tar = GOOD + content + member("c.png", png(2)) + bytes(1024)
        yield f"{name}.tar", tar, good
        yield f"{name}.tar.gz", gzip.compress(tar), good
    for name, (pack, content, good) in PACKED.items():
        yield f"{name}.tar.packed", pack(content + bytes(8 << 20)), good
    for name, (change, good) in IN_A_ZIP.items():
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for member_name in ("a.png", "bad.png", "c.png"):
                archive.writestr(member_name, png())
        content = bytearray(file.getvalue())
        place = content.rindex(b"bad.png") - 46
        entry = content[place:place + 53]
        change(entry)
        content[place:place + 53] = entry
        yield f"{name}.zip", bytes(content), good
