"""Images of any kind become what the network is shown, or say why not, in the order they came."""

import gzip
import io
import os
import pickle
import struct
import sys
import types
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, features

from noisy_student import images
from noisy_student.files import UserError
from noisy_student.images import Picture, decode_all, read_image, read_images


def encoded(array, kind):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


# A camera that must be turned by 90 degrees clockwise.
TURNED = Image.Exif()
TURNED[ExifTags.Base.Orientation] = 6


@pytest.mark.parametrize("side", [48, 300])
@pytest.mark.parametrize("mode", "1 L LA P RGB RGBA CMYK I F I;16".split())
def test_every_mode_is_read(mode, side, tmp_path):
    picture = Image.linear_gradient("L").resize((side, side))
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I", "F") else "a.png")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(picture, np.uint16) * 257)
    else:
        image = picture.convert(mode)
    image.save(path)
    array = read_image(path)
    assert array.shape == (32, 32, 3) and array.dtype == np.uint8
    assert abs(float(array.mean()) - 127) < 4
    assert array[-1].mean() - array[0].mean() > 200


def test_right_size_is_not_resampled_and_cameras_are_turned_upright(tmp_path):
    exact = noise(32, 32)
    Image.fromarray(exact).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == exact).all()
    Image.fromarray(np.rot90(exact)).save(tmp_path / "b.png", exif=TURNED)
    assert (read_image(tmp_path / "b.png") == exact).all()


def test_central_square_is_kept():
    wide = np.pad(noise(32, 32), ((0, 0), (16, 16), (0, 0)))
    assert (read_image(io.BytesIO(encoded(wide, "PNG"))) == noise(32, 32)).all()

def test_white_shines_through_what_is_transparent():
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:16] = 50, 60, 70, 255
    read = read_image(io.BytesIO(encoded(pixels, "PNG")))
    assert (read[:16] == [50, 60, 70]).all() and (read[16:] == 255).all()


@pytest.mark.parametrize("side", [32, 300])
def test_bitmap_whose_alpha_nobody_filled_keeps_its_colours(side):
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[..., :3] = 200, 60, 30
    # Bitmap header of version 5, with a mask that says where alpha is.
    header = struct.pack("<IiiHHIIiiII4I", 124, side, side, 1, 32, 3, pixels.nbytes, 0, 0, 0, 0,
                         0xff0000, 0xff00, 0xff, 0xff000000).ljust(124, b"\0")
    content = b"BM" + struct.pack("<III", 138 + pixels.nbytes, 0, 138) + header + pixels.tobytes()
    assert Image.open(io.BytesIO(content)).mode == "RGBA"
    assert (read_image(io.BytesIO(content)) == [30, 60, 200]).all()


@pytest.mark.parametrize("pixels, text", [
    (np.zeros((32, 32, 4), np.uint8), "^wholly transparent"),
    (np.zeros((1, 1, 3), np.uint8), "^1x1 pixels"), (np.zeros((1, 90, 3), np.uint8), "^90x1 pix")])
def test_pictures_of_nothing_are_left_out(pixels, text):
    with pytest.raises(UserError, match=text):
        read_image(io.BytesIO(encoded(pixels, "PNG")))


RAMP = np.tile(np.linspace(0, 1, 32, dtype=np.float32), (32, 1))
PFM = b"Pf\n32 32\n-1.0\n"


@pytest.mark.parametrize("content", [
    encoded(RAMP, "TIFF"), encoded(RAMP * 255, "TIFF"), PFM + RAMP.tobytes(),
    PFM + (RAMP * 255).tobytes(), encoded((RAMP * 255).astype(np.int32), "TIFF"),
    encoded((RAMP * 65535).astype(np.uint16), "PNG"),
    encoded((RAMP * 65535).astype(np.uint16), "TIFF"),
    encoded((RAMP * 65535).astype(np.uint16), "PPM"),
    b"P5\n32 32\n4095\n" + (RAMP * 4095).astype(">u2").tobytes(),
], ids=["float to 1", "float to 255", "PFM to 1", "PFM to 255", "32 bit to 255", "16-bit PNG",
        "16-bit TIFF", "16-bit PGM", "12-bit PGM"])
def test_what_a_pixel_means_follows_from_its_type(content):
    assert read_image(io.BytesIO(content))[0, [0, 16, 31], 0].tolist() == [0, 131, 255]


@pytest.mark.parametrize("top, seen", [(255, 0), (256, 0), (257, 1), (65535, 255)])
def test_dark_images_of_16_bits_stay_dark(top, seen):
    content = encoded(np.linspace(0, top, 1024).astype(np.uint16).reshape(32, 32), "PNG")
    assert read_image(io.BytesIO(content)).max() == seen


@pytest.mark.parametrize("pixels, limits", [
    (RAMP * 300, "from 0 to 300"), (RAMP - 1, "from -1 to 0"), (RAMP * np.nan, "from nan to nan"),
    ((RAMP * 2**24).astype(np.int32), r"from 0 to 1\.67772e\+07")])
def test_other_ranges_are_refused_with_their_limits(pixels, limits):
    with pytest.raises(UserError, match=f"{limits}: 0 to 255, or fractions up to 1, are expected"):
        images.to_rgb(Image.fromarray(pixels))


@pytest.mark.parametrize("kind, text", [
    ("JPEG2000", "^a JPEG 2000 image: convert it"), ("ICO", "^an icon: convert it"),
    ("PDF", "^a PostScript or PDF document: convert it"), ("TGA", "^not an image$")])
def test_what_is_not_decoded_says_what_it_is(kind, text):
    with pytest.raises(UserError, match=text):
        read_image(io.BytesIO(encoded(noise(32, 32), kind)))


@pytest.mark.parametrize("content, text", [
    (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC image"), (b"\0\0\0\x20ftypisom", "a video"),
    (b'<?xml version="1.0"?>\n<svg>', "an SVG drawing"), (b"<!DOCTYPE html>", "a web page"),
    (gzip.compress(b"x", mtime=0), "compressed"), (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"\x04\x22\x4d\x18", "compressed by lz4"), (pickle.dumps([1], protocol=2), "a pickle")])
def test_what_is_no_image_says_what_it_is(content, text):
    with pytest.raises(UserError, match=f"^{text}"):
        read_image(io.BytesIO(content))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow cannot decode AVIF")
def test_avif_is_decoded():
    red = np.full((64, 64, 3), (200, 60, 60), np.uint8)
    assert np.abs(read_image(io.BytesIO(encoded(red, "AVIF"))).astype(int) - red[0, 0]).max() < 8


WHOLE = {kind: encoded(np.repeat(np.repeat(noise(8, 8), 8, 0), 8, 1), kind)
         for kind in ("PNG", "JPEG")}


def with_chunk(kind, content, checksum=None):
    """A PNG with a chunk of metadata."""
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    return WHOLE["PNG"][:33] + chunk + WHOLE["PNG"][33:]


def with_exif(tag, kind, value):
    """A JPEG turned by 180 degrees, and with another entry."""
    entries = struct.pack("<HHHIHxx", 2, 0x112, 3, 1, 3) + struct.pack("<HHI", tag, kind, 1) + value
    exif = b"Exif\0\0II*\0\x08\0\0\0" + entries + bytes(4)
    return WHOLE["JPEG"][:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + (
        WHOLE["JPEG"][2:])


@pytest.mark.parametrize("content", [
    with_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2_000_000))),
    with_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2_000_000))),
    with_chunk(b"eXIf", b"garbage"), with_chunk(b"tEXt", b"a\0bcd", checksum=0),
    with_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n   10\nnothex!!\n"),
    with_chunk(b"pHYs", b"abc"), with_chunk(b"gAMA", b""), with_chunk(b"cHRM", b"abc"),
    with_chunk(b"sRGB", b""), WHOLE["PNG"][:-12], WHOLE["JPEG"][:-2], WHOLE["JPEG"][:-1],
], ids=["profile", "text", "EXIF", "checksum", "EXIF in letters", "resolution", "gamma",
        "primaries", "sRGB", "PNG without end", "JPEG without end", "JPEG with half an end"])
def test_no_image_is_lost_for_its_metadata(content):
    whole = WHOLE["PNG" if content.startswith(images.PNG) else "JPEG"]
    assert (read_image(io.BytesIO(content)) == read_image(io.BytesIO(whole))).all()


@pytest.mark.parametrize("entry", [(0x103, 9, struct.pack("<i", -5)),
                                   (0x100, 11, struct.pack("<f", 1.5))])
def test_cameras_are_turned_upright_whatever_else_they_say(entry):
    turned = read_image(io.BytesIO(with_exif(*entry)))
    assert (turned == read_image(io.BytesIO(WHOLE["JPEG"]))[::-1, ::-1]).all()


def test_a_damaged_note_does_not_hide_how_the_camera_was_turned(tmp_path):
    Image.fromarray(noise(32, 32)).save(tmp_path / "a.png", exif=TURNED)
    content = (tmp_path / "a.png").read_bytes()
    damaged = with_chunk(b"pHYs", b"abc")[33:48]
    (tmp_path / "a.png").write_bytes(content[:33] + damaged + content[33:])
    assert (read_image(tmp_path / "a.png") == np.rot90(noise(32, 32), -1)).all()


@pytest.mark.parametrize("content", [WHOLE["JPEG"][:-40], WHOLE["PNG"][:-60]])
def test_a_picture_of_which_a_part_is_missing_is_left_out(content):
    with pytest.raises(UserError, match="truncated"):
        read_image(io.BytesIO(content))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation, undone", [
    (1, lambda x: x), (2, np.fliplr), (3, lambda x: np.rot90(x, 2)), (4, np.flipud),
    (5, lambda x: x.swapaxes(0, 1)), (6, lambda x: np.rot90(x, -1)),
    (7, lambda x: np.rot90(x.swapaxes(0, 1), 2)), (8, np.rot90)])
def test_every_orientation_is_undone_once(orientation, undone, kind):
    file, held = io.BytesIO(), Image.Exif()
    held[ExifTags.Base.Orientation] = orientation
    Image.fromarray(noise(32, 32)).save(file, kind, exif=held)
    assert (read_image(file) == undone(noise(32, 32))).all()


def test_shrinking_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    # Neither black nor white.
    shrunk = read_image(io.BytesIO(encoded(stripes, "PNG"))).astype(int)
    assert abs(shrunk - 127).max() < 12


def test_large_image_is_averaged_before_it_is_anything_else(monkeypatch):
    seen, to_rgb = [], images.to_rgb
    monkeypatch.setattr(images, "to_rgb", lambda image: seen.append(image.size) or to_rgb(image))
    grey = np.zeros((900, 1300), np.uint16)
    grey[::2] = 65535
    assert abs(read_image(io.BytesIO(encoded(grey, "PNG"))).astype(int) - 127).max() <= 2
    assert seen == [(185, 128)]
    # Every other pixel is transparent, and black beneath: white shines through.
    file, image = io.BytesIO(), Image.fromarray(np.indices((600, 600)).sum(axis=0).astype("u1") % 2)
    image.putpalette([0, 0, 0, 200, 200, 200])
    image.save(file, "PNG", transparency=0)
    assert abs(read_image(file).astype(int) - 228).max() <= 2
    # The same with 16 bits, though nobody sees it there.
    Image.fromarray(grey).save(file := io.BytesIO(), "PNG", transparency=0)
    assert abs(read_image(file).astype(int) - 127).max() <= 2


def test_unreadable_images_say_why(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("not a picture")
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "gone", tmp_path / "link")
    Image.new("1", (700, 700)).save(tmp_path / "bomb", "PNG")
    # A program for Ghostscript.
    Image.new("RGB", (64, 64)).save(tmp_path / "program", "EPS")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400_000)
    for name, text in (("cut", "(?i)truncated"), ("empty", "^empty file"), ("link", "No such file"),
                       ("text", "^not an image"), ("pipe", "^not a regular file"),
                       ("program", "^a PostScript or PDF document"),
                       ("bomb", "^700x700 pixels, more than 400000")):
        with pytest.raises(UserError, match=text):
            read_image(tmp_path / name)


@pytest.mark.parametrize("number, size", [(0, (500, 375)), (1, (333, 1000)), (2, (1600, 1200)),
                                          (3, (160, 160))])
def test_large_jpeg_at_reduced_scale_looks_the_same(number, size, photos, monkeypatch):
    photo = Image.fromarray(photos[number]).resize(size, Image.Resampling.BICUBIC)
    texture = np.random.default_rng(number).normal(0, 8, (size[1], size[0], 3))
    photo = Image.fromarray(np.clip(np.asarray(photo) + texture, 0, 255).astype(np.uint8))
    file, sizes, to_rgb = io.BytesIO(), [], images.to_rgb
    photo.save(file, "JPEG", quality=90, exif=TURNED)
    monkeypatch.setattr(images, "to_rgb", lambda image: sizes.append(image.size) or to_rgb(image))
    reduced = read_image(file).astype(int)
    monkeypatch.setattr(images, "DETAIL", 1000)
    whole = read_image(file).astype(int)
    assert sizes[1] == size[::-1] and min(sizes[0]) >= 4 * 32
    assert size == (160, 160) or sizes[0][0] <= sizes[1][0] / 2 + 1
    assert np.abs(reduced - whole).mean() < 1 and np.abs(reduced - whole).max() < 16


def test_photo_of_108_megapixels_is_read():
    file, photo = io.BytesIO(), Image.new("L", (12000, 9000), 40)
    photo.paste(200, (0, 0, 12000, 4500))
    photo.save(file, "JPEG")
    seen = read_image(file).astype(int)
    assert abs(seen[:15] - 200).max() < 4 and abs(seen[17:] - 40).max() < 4


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [0, 1, 3, 23])
def test_many_are_decoded_in_order_and_what_is_left_out_passes_through(number, workers, tmp_path,
                                                                       monkeypatch):
    monkeypatch.setattr(images, "CHUNK", 3)
    expected, pictures = noise(number, 32, 32), []
    for i, array in enumerate(expected):
        content = encoded(array, "PNG")
        (tmp_path / f"{i}").write_bytes(content)
        picture = Picture("", f"{i}", (tmp_path / f"{i}", content, array, content, b"")[i % 5])
        pictures.append(picture.leave_out(f"number {i}") if i % 5 == 3 else picture)
    answers = list(decode_all(iter(pictures), workers))
    assert len(answers) == number
    for i, answer in enumerate(answers):
        if i % 5 < 3:
            assert (answer.pixels == expected[i]).all() and not answer.reason
        else:
            assert answer.reason == (f"number {i}" if i % 5 == 3 else "empty file")


@pytest.mark.parametrize("few_bytes", [0, 1 << 30])
def test_files_that_cannot_be_read_are_named(few_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "FEW_BYTES", few_bytes)
    expected, paths, bad = noise(23, 32, 32), [], (0, 7, 22)
    for i, array in enumerate(expected):
        paths.append(tmp_path / f"{i}.png")
        paths[i].write_bytes(b"not this one" if i in bad else encoded(array, "PNG"))
    read, unreadable = read_images(iter(paths), len(paths))
    assert unreadable == dict.fromkeys(bad, "not an image")
    assert (read == np.delete(expected, bad, axis=0)).all()


class Whereabouts:
    """Turns, in the process that is to decode it, into numbers of that process and its modules."""

    def __reduce__(self):
        return eval, ("__import__('numpy').array([__import__('os').getpid(), "
                      "len({'keras', 'tensorflow', 'jax', 'torch'}"
                      ".intersection(__import__('sys').modules))])",)


def test_workers_begin_afresh_without_keras(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", sys.modules.get("keras", types.ModuleType("keras")))
    pictures = [Picture("", f"{i}", Whereabouts()) for i in range(200)]
    told = np.stack([picture.pixels for picture in decode_all(pictures, 2)])
    assert len(told) == 200 and os.getpid() not in told[:, 0]
    assert (told[:, 1] == 0).all()


def test_without_semaphores_one_process_decodes(monkeypatch, capsys):
    def no_semaphore(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(images.loky.backend.synchronize, "_SemLock", no_semaphore)
    monkeypatch.setattr(images.loky.reusable_executor, "_executor", None)
    pictures = [Picture("s", "a", encoded(noise(32, 32), "PNG"))]
    assert (next(decode_all(pictures, 2)).pixels == noise(32, 32)).all()
    assert "images are decoded by one process, since none can be added" in capsys.readouterr().out
