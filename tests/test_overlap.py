"""Copies of test images are found, exact and altered; other images are not."""

import io

import numpy as np
import overlap
from PIL import Image, ImageEnhance


def pictures(count, seed):
    """Smooth random pictures, no two alike: uint8 (count, 32, 32, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)) for image in small])


def altered(image):
    """Darker, mirrored and compressed."""
    image = ImageEnhance.Brightness(Image.fromarray(image[:, ::-1])).enhance(0.8)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, subsampling=0)
    return np.asarray(Image.open(file))


def test_exact_copies_are_counted():
    x_test, x = pictures(20, 0), pictures(50, 1)
    assert overlap.exact_copies(x_test, x) == 0
    x[[3, 7, 8]] = x_test[[5, 6, 6]]
    assert overlap.exact_copies(x_test, x) == 2  # test images, however often they are there


def test_altered_copies_are_found_and_others_are_not(tmp_path):
    x_test, x = pictures(20, 0), pictures(300, 1)
    assert len(overlap.near_copies(x_test, x)[0]) == 0
    x[40], x[41], x[42] = x_test[2], altered(x_test[9]), altered(altered(x_test[11]))
    pairs, alike = overlap.near_copies(x_test, x)
    assert sorted(map(tuple, pairs.tolist())) == [(2, 40), (9, 41), (11, 42)]
    assert (np.diff(alike) <= 0).all() and alike[0] > 0.9999 and tuple(pairs[0]) == (2, 40)
    overlap.draw_pairs(x_test, x, pairs, alike, tmp_path / "pairs.png")
    assert Image.open(tmp_path / "pairs.png").width > 100


def test_hash_does_not_mind_brightness():
    x = pictures(10, 2)
    darker = (x * 0.7).astype(np.uint8)
    apart = np.bitwise_count(overlap.perceptual_hash(x)[:, None] ^ overlap.perceptual_hash(darker)[None])
    assert apart.diagonal().max() <= 4 < apart[~np.eye(10, dtype=bool)].min()
