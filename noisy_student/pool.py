"""Unlabelled images from anywhere: folders, tar and zip archives, Parquet. Imports no Keras.

A new format is a generator of Pictures and a line in READERS. Nothing is ever unpacked to disk.
"""

import os
import pathlib
import unicodedata
from collections import Counter

from noisy_student import archives
from noisy_student.files import UserError, first_line
from noisy_student.formats import hidden, is_parquet, parquet_images, visible_files
from noisy_student.images import Picture, file_size, what_it_is

# Bytes of a member of an archive: a larger one is not read.
LARGEST_MEMBER = 32 << 20
# Letters of a path: as many as Linux knows. A longer one is cut, and its file is not read.
LONGEST_PATH = 4096
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


def from_archive(source):
    for name, content, reason, packed in archives.members(
            source, LARGEST_MEMBER, lambda name: not passed_over(name)):
        picture = Picture(source, name, content, packed)
        if passed := passed_over(name):
            picture.leave_out(*passed)
        elif reason:
            picture.leave_out(reason)
        yield picture


def from_parquet(source):
    for row, content in enumerate(parquet_images(source)):
        yield Picture(source, f"{row:07d}", content, file_size(content))


# How a source is recognised, by its beginning, and what reads it.
READERS = (
    (os.path.isdir, from_folder),
    (is_parquet, from_parquet),
    (archives.kind, from_archive),
)


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
    """The size of a source in bytes, as the Pictures' sizes add up to it, nearly.

    Raises: UserError, if it is not a source, or cannot even be begun to be read.
    """
    if source == "rest":
        return data.x[:1].nbytes * len(data.rest)
    if not os.path.exists(source):
        raise UserError(f"{source}: no such folder or archive")
    try:
        next(reader_of(source)(source), None)
    except Exception as error:
        raise UserError(f"{source}: {first_line(error)}") from error
    if os.path.isdir(source):
        return sum(map(file_size, visible_files(source)))
    return os.path.getsize(source)


def reader_of(source):
    """What reads a source. Raises: UserError."""
    for recognises, read in READERS:
        if recognises(source):
            return read
    raise UserError("neither a folder, nor a tar or zip archive, nor a Parquet file, "
                    f"nor the word rest, but {what_it_is(source)}")


def check_sources(sources, data=None):
    """The size of all sources in bytes. Raises: UserError, where one is none, or within another."""
    places = {}
    for source in sources:
        place = pathlib.Path(source if source == "rest" else os.path.realpath(source))
        if place in places:
            raise UserError(f"{source}: named twice, and {places[place]} is the same place")
        places[place] = source
    for place, source in places.items():
        # An archive in a folder is read only if it is named by itself.
        around = [places[parent] for parent in place.parents if parent in places]
        if around and place.is_dir():
            raise UserError(f"{source}: lies within {around[0]}, which is named, too, and is read "
                            "with it; name one of them")
    return sum(check_source(source, data) for source in sources)


def find_images(source, data=None):
    """All files of one source, in an order that does not depend on the file system.

    An archive that breaks off in the middle is one more unreadable file.

    Args:
        source: a folder, an archive, or "rest": what `data` (a Dataset) left without label.

    Yields: Pictures, with their content, or with the reason why they cannot be read.
    """
    if source == "rest":
        for i in data.rest:
            yield Picture(source, tidy(data.names[i]), data.x[i], data.x[i].nbytes)
        return
    # How often a name came; other than an archive, a folder cannot hold one twice.
    times, archive = Counter(), not os.path.isdir(source)
    try:
        for picture in reader_of(source)(source):
            path = tidy(picture.path)
            picture.path = path[:LONGEST_PATH]
            if len(path) > LONGEST_PATH:
                picture.leave_out(f"a path of {len(path):,} letters")
            if archive and picture.path:
                times[picture.path] += 1
                if times[picture.path] > 1:
                    picture.path += f" ({times[picture.path]})"
            yield picture
    except Exception as error:
        # A broken archive raises almost anything.
        reason = f"the archive is not read from here on: {first_line(error)}"
        yield Picture(source, "").leave_out(reason)
