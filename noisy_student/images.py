"""Image files of any kind -> uint8 (32, 32, 3). Imports no Keras: workers start at once."""

import contextlib
import io
import itertools
import math
import os
import pathlib
import pickle
import re
import signal
import stat
import threading
import time
import warnings
import zlib
from collections import deque
from dataclasses import dataclass
from hashlib import blake2b
from multiprocessing import resource_tracker

import numpy as np
from joblib.externals import loky
from PIL import Image, ImageOps

from noisy_student.files import UserError, first_line

# Pixels, both ways: CIFAR-10's.
IMAGE_SIZE = 32
# A large image is first made no smaller than so many times IMAGE_SIZE, a JPEG while it is decoded,
# in a fraction of time and memory. At four times, the result differs by less than it does between
# two good resizing filters.
DETAIL = 4
# The decoders that files from anywhere may reach.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# What else there may be, by how it begins, and what to do about it.
CONVERT, NAME_IT = "convert it to PNG or JPEG", "unpack it, or name it by itself"
UNPACK = "unpack it"
OTHERS = (
    (rb"....ftyp(avif|avis)", "an AVIF image, which this Pillow cannot decode", CONVERT),
    (rb"....ftyp(hei|hev|mif1|msf1)", "a HEIC image", CONVERT),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 image", CONVERT),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "a JPEG XL image", CONVERT),
    (rb"8BPS", "a Photoshop image", CONVERT),
    (rb"\0\0\x01\0", "an icon", CONVERT),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", "an SVG drawing",
     CONVERT),
    (rb"%!PS|%PDF", "a PostScript or PDF document", CONVERT),
    (rb"....ftyp|RIFF....AVI |\x1aE\xdf\xa3", "a video", "extract its frames"),
    (rb"(?i)\s*<(!doctype )?html", "a web page", "the download went wrong"),
    (rb"version https://git-lfs", "a Git LFS pointer", "git lfs pull fetches the file"),
    (rb"PK\x03\x04", "a zip archive or .npz", NAME_IT),
    (rb".{257}ustar", "a tar archive", NAME_IT),
    (rb"\x1f\x8b|BZh|\xfd7zXZ", "compressed (gzip, bzip2 or xz)",
     "unpack it, or, if it is a tar, name it by itself"),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd", UNPACK),
    (rb"\x04\x22\x4d\x18", "compressed by lz4", UNPACK),
    (rb"7z\xbc\xaf|Rar!", "a 7z or RAR archive", UNPACK),
    (rb"PAR1", "a Parquet file", "name it by itself"),
    (rb"\x93NUMPY", "a NumPy array", "save its images as PNG"),
    (rb"\x80[\x02-\x05]", "a pickle", "which could run any program: save its images as PNG"),
    (rb"\x89HDF", "an HDF5 file", "save its images as PNG"),
)
# A worker is given so many files at a time, and no more bytes of archived files than this; and no
# more bytes wait for all of them, in chunks that are on their way.
CHUNK, CHUNK_BYTES, WAITING_BYTES = 64, 4 << 20, 32 << 20
# Seconds after which a worker that has nothing to do ends. A slow teacher keeps it waiting.
IDLE = 60
# So few bytes of files are decoded sooner than worker processes start.
FEW_BYTES = 8 << 20

# How files begin, and what a PNG's picture is made of.
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
PICTURE_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")

# There are thousands of them in a bad folder, and what cannot be read is reported by name.
warnings.filterwarnings("ignore", module=r"PIL\.")


def what_it_is(file):
    """What a path or binary file that is no image really is, by its beginning; and the way out."""
    try:
        if isinstance(file, (str, os.PathLike)):
            with open(file, "rb") as opened:
                return what_it_is(opened)
        file.seek(0)
        head = file.read(512)
    except OSError:
        head = b""
    for begins, kind, advice in OTHERS:
        if re.match(begins, head, re.DOTALL):
            return f"{kind}: {advice}"
    return "not an image"


@dataclass(slots=True)
class Picture:
    """One image on its way from a file to a label: every step fills in what it finds out.

    source, path    the source as named on the command line, and the path within it, with /
                    between folders
    content         a path, bytes, or a uint8 (32, 32, 3) array; None once it is decoded
    size            its share of the work, in bytes
    pixels          uint8 (32, 32, 3), and a digest, 16 bytes, that equal pictures share
    soft            float32 (C,): what the teacher says, at the temperature
    label           the most probable class
    confidence      its probability, and raw_confidence that without the temperature
    truth           what it really shows: a class; -1, none of them; None, not known
    status, reason  of a picture that is left out: what images.csv calls that, and why
    """

    source: str
    path: str
    content: object = None
    size: int = 0
    pixels: np.ndarray = None
    digest: bytes = b""
    soft: np.ndarray = None
    label: int = None
    confidence: float = None
    raw_confidence: float = None
    truth: int = None
    status: str = ""
    reason: str = ""

    @property
    def name(self):
        return self.source, self.path

    def judge(self, soft, raw_confidence):
        """Takes down what a teacher says: float32 (C,), and its confidence before calibration."""
        self.digest = blake2b(self.pixels, digest_size=16).digest()
        self.soft, self.label, self.confidence = soft, int(soft.argmax()), float(soft.max())
        self.raw_confidence = float(raw_confidence)

    def leave_out(self, reason, status="unreadable"):
        """Says why the picture is no image to learn from. Returns: the picture."""
        self.content, self.pixels, self.status, self.reason = None, None, status, reason
        return self


def read_image(file):
    """Any image, any size, any mode -> uint8 (32, 32, 3), 0..255.

    Turned upright (EXIF), cropped to its central square, resized with an antialiasing filter.
    Article: images had to be resized by hand, and one grey image stopped the script.

    Args:
        file: a path or a binary file object.

    Raises: UserError, with the reason, for whatever is not a readable image.
    """
    try:
        if isinstance(file, (str, pathlib.Path)):
            status = os.stat(file)
            # Opening a pipe would wait for ever.
            if not stat.S_ISREG(status.st_mode):
                raise UserError("not a regular file")
            if status.st_size == 0:
                raise UserError("empty file")
        return decode(file)
    except UserError:
        raise
    except Exception as error:
        # A decoder fed with broken bytes raises almost anything.
        with contextlib.suppress(Exception):
            return decode_picture_alone(file)
        if isinstance(error, Image.UnidentifiedImageError):
            raise UserError(what_it_is(file)) from error
        raise UserError(f"{type(error).__name__}: {first_line(error)}") from error


def decode(file):
    """A path or a binary file object -> uint8 (32, 32, 3). Raises: whatever a decoder raises."""
    with Image.open(file, formats=FORMATS) as image:
        if min(image.size) == 1:
            raise UserError("{}x{} pixels, as pages count their visitors by".format(*image.size))
        scale = DETAIL * IMAGE_SIZE / min(image.size)
        image.draft(None, [math.ceil(side * scale) for side in image.size])
        # After draft(), which only JPEG knows: a bomb is what would be decoded.
        if image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise UserError(f"{image.width}x{image.height} pixels, "
                            f"more than {Image.MAX_IMAGE_PIXELS} (a bomb?)")
        image.load()
        # Damaged metadata are no reason to lose an image.
        with contextlib.suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
        if image.format == "BMP" and wholly_transparent(image):
            # Programs write such an alpha channel and do not fill it; every viewer ignores it.
            image = image.convert("RGB")
        image = to_rgb(smaller(image))
        if image.size != (IMAGE_SIZE, IMAGE_SIZE):
            size = (IMAGE_SIZE, IMAGE_SIZE)
            image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
        return np.array(image)


def decode_picture_alone(file):
    """Decodes what is to be seen, where a file's metadata or its end mark are damaged.

    Raises: whatever a decoder raises, where the picture is damaged, too.
    """
    content = file.getvalue() if isinstance(file, io.BytesIO) else pathlib.Path(file).read_bytes()
    if content.startswith(PNG):
        return decode(io.BytesIO(picture_chunks(content)))
    if not content.startswith(JPEG):
        raise ValueError("a format of which no part can be left out")
    # Nothing but its end is missing, if the picture does not depend on what follows.
    end, noise = b"\xff\xd9", content.replace(b"\xff", b"")
    first, second = (decode(io.BytesIO(content.rstrip(b"\xff") + more))
                     for more in (end, noise + end))
    if (first != second).any():
        raise ValueError("a part of the picture is missing")
    return first


def picture_chunks(content):
    """A PNG's content without metadata, but for an intact note of how the camera was turned."""
    kept, place = [PNG], len(PNG)
    while place < len(content):
        end = place + 12 + int.from_bytes(content[place:place + 4], "big")
        kind, checksum = content[place + 4:place + 8], content[end - 4:end]
        intact = zlib.crc32(content[place + 4:end - 4]) == int.from_bytes(checksum, "big")
        if kind in PICTURE_CHUNKS or (kind == b"eXIf" and intact):
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


def smaller(image):
    """A large image of any mode, averaged over squares before anything costs more memory."""
    factor = min(image.size) // (DETAIL * IMAGE_SIZE)
    if factor < 2:
        return image
    (columns, rows), small = (side // factor for side in image.size), None
    left, top = (side % factor // 2 for side in image.size)
    # A row of squares at a time: nothing but the image is ever there in full.
    for y in range(top, top + rows * factor, factor):
        band = image.crop((left, y, left + columns * factor, y + factor))
        # Numbers of colours, and a colour that stands for none, have no average.
        if band.mode in ("1", "P") or (band.mode in ("L", "RGB") and band.has_transparency_data):
            band = band.convert("RGBA" if band.has_transparency_data else "RGB")
        small = small or Image.new(band.mode, (columns, rows))
        small.paste(band.resize((columns, 1), Image.Resampling.BOX), (0, y // factor))
    small.format = image.format
    return small


def to_rgb(image):
    """A Pillow image of any mode -> RGB. Transparency is shown on white.

    What a pixel's values mean follows from its type: 16 bits are divided by 257, floats up to 1
    are multiplied by 255, and all others count as 0..255.

    Raises: UserError, where values are outside of that range, or where there is nothing to see.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = np.asarray(image, dtype=np.float64)
        low, high = grey.min(), grey.max()
        # Pillow reads a PGM of 16 bits as 32-bit integers.
        if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
            grey = grey / 257
        elif image.mode == "F" and high <= 1:
            grey = grey * 255
        if not (grey.min() >= 0 and grey.max() <= 255):
            raise UserError(f"32-bit pixels from {low:g} to {high:g}: "
                            "0 to 255, or fractions up to 1, are expected")
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if wholly_transparent(image):
            raise UserError("wholly transparent: there is nothing to see")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def wholly_transparent(image):
    return image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)


def pixels_or_reason(content):
    """Decodes the content of a Picture.

    Returns: uint8 (32, 32, 3) and "", or None and the reason why there are no pixels.
    """
    if isinstance(content, np.ndarray):
        return content, ""
    if content is None:
        return None, "no bytes"
    if isinstance(content, bytes):
        if not content:
            return None, "empty file"
        content = io.BytesIO(content)
    try:
        return read_image(content), ""
    except UserError as error:
        return None, str(error)


def read_chunk(chunk):
    """What a worker does. Chunks travel pickled: loky's own pickling looks at every single item."""
    return pickle.dumps([pixels_or_reason(content) for content in pickle.loads(chunk)])


def chunks(pictures):
    """Lists of at most CHUNK pictures, and of no more bytes than a worker is sent at once."""
    chunk, size = [], 0
    for picture in pictures:
        chunk.append(picture)
        size += len(picture.content) if isinstance(picture.content, bytes) else 0
        if len(chunk) == CHUNK or size > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def decode_all(pictures, workers=None):
    """Decodes Pictures in order, later ones while the first are used.

    Args:
        pictures: an iterable; it is drawn from as fast as the images are taken.
        workers: processes that decode; 1: this process does; default, one per core. They begin
            afresh: a fork would copy TensorFlow's or JAX's threads in whatever state they are.

    Yields: the Pictures, with pixels or with the reason why there are none.
    """
    workers = workers or loky.cpu_count()
    pool = start_workers(workers) if workers > 1 else None
    if pool is None:
        for picture in pictures:
            yield decoded(picture, *pixels_or_reason(picture.content))
        return
    waiting, sizes = deque(), deque()
    for chunk in chunks(pictures):
        contents = pickle.dumps([picture.content for picture in chunk])
        full = WAITING_BYTES - len(contents)
        # Those on their way are waited for before they and this one are too many.
        while waiting and (len(waiting) > 3 * workers or sum(sizes) > full):
            sizes.popleft()
            yield from results(*waiting.popleft())
        for picture in chunk:
            # Only what tells one picture from another is kept while a worker decodes it.
            picture.content = None
        with no_interrupts():
            waiting.append((chunk, pool.submit(read_chunk, contents)))
        sizes.append(len(contents))
    for chunk, future in waiting:
        yield from results(chunk, future)


def start_workers(count):
    """The processes that decode; None, where the system has no semaphores for them."""
    try:
        return loky.get_reusable_executor(count, timeout=IDLE, initializer=live_and_die_with_parent,
                                          initargs=(os.getpid(),))
    except (ImportError, NotImplementedError, OSError) as error:
        print(f"images are decoded by one process, since none can be added ({first_line(error)})")
        return None


def results(chunk, future):
    """Yields: the Pictures of a chunk, once a worker has decoded them."""
    for picture, (pixels, reason) in zip(chunk, pickle.loads(future.result())):
        yield decoded(picture, pixels, reason)


def decoded(picture, pixels, reason):
    """Fills in what came of decoding, unless the picture was left out before."""
    if not picture.reason:
        picture.content, picture.pixels = None, pixels
        if reason:
            picture.leave_out(reason)
    return picture


@contextlib.contextmanager
def no_interrupts():
    """A process that is started within does not hear Ctrl-C, not even while it starts."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Were it not running, it would be started within, and let interrupts through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def live_and_die_with_parent(parent):
    """A worker leaves Ctrl-C to the script, and does not outlive it, however it ends.

    Args:
        parent: its process number.
    """
    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()


def read_images(files, count=None):
    """Decodes many files, on all cores where there are many bytes.

    Args:
        files: a list, or an iterable of `count` of them: what the content of a Picture may be.

    Returns: uint8 (N, 32, 32, 3) of those that can be read, in the order given, and {place in that
        order: the reason} of those that cannot.
    """
    count = len(files) if count is None else count
    images, unreadable = np.empty((count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8), {}
    pictures = (Picture("", "", content, file_size(content)) for content in files)
    first, size = [], 0
    while size <= FEW_BYTES and (picture := next(pictures, None)) is not None:
        first.append(picture)
        size += picture.size
    workers = None if size > FEW_BYTES else 1
    for i, picture in enumerate(decode_all(itertools.chain(first, pictures), workers)):
        if picture.reason:
            unreadable[i] = picture.reason
        else:
            images[i - len(unreadable)] = picture.pixels
    return images[:count - len(unreadable)], unreadable


def file_size(file):
    """The size of a path or of bytes; 0 where it cannot be told, or nothing is to be decoded."""
    if isinstance(file, bytes):
        return len(file)
    try:
        return os.stat(file).st_size if isinstance(file, (str, os.PathLike)) else 0
    except OSError:
        return 0
