"""How many images a second does RandAugment make on one core, against what else could be used?

    pip install -e '.[cpu]' -r benchmarks/requirements.txt     # the peers
    python benchmarks/rand_augment.py data/toy/test                    # any folder of images

Everything runs on one core, on the same images of 32x32, two operations per image, and begins and
ends with what a training needs: uint8 arrays in, uint8 arrays out (the article's: float32 in,
float32 in 0..1 out). Drawing the operations is included. "One pair per batch" marks augmentations
that treat all images of a batch alike: a weaker noise, and no peer in kind. Peers that are not
installed are named as absent.

Writes results/benchmarks/rand_augment.md
"""

import argparse
import os
import pathlib
import random
import sys

os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1",
               "NO_ALBUMENTATIONS_UPDATE": "1"}
if hasattr(os, "sched_setaffinity"):
    # One core, whatever a library thinks.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import numpy as np
from measure import in_turns, spread, table, versions, write
from PIL import Image

from noisy_student.images import read_images
from Rand_Augment import Rand_Augment


def ours(x, batch):
    augment = Rand_Augment(2, 10, seed=0)
    x = np.resize(x, (batch, *x.shape[1:]))

    def make():
        return len(augment.apply_batch(x, augment.draw(batch)))
    return make


def floor(x, batch):
    """No augmentation: the least that happens to a batch whose pixels are scaled on the CPU."""
    x = np.resize(x, (batch, *x.shape[1:]))
    out = np.empty(x.shape, np.float32)

    def make():
        np.multiply(x, np.float32(1 / 255), out=out)
        return batch
    return make


def articles_generator(x):
    """The article's step 4, on a RandAugment without its defects: float32 images, one by one."""
    from keras.utils import array_to_img, img_to_array

    augment = Rand_Augment(2, 10, seed=0)
    x = x[:64].astype(np.float32)

    def make():
        batch = [img_to_array(augment(array_to_img(image))) / 255 for image in x]
        return len(np.array(batch))
    return make


def one_by_one(x, transform, wrap=Image.fromarray):
    """A transform of single images, and their way from and to an array."""
    x = x[:64]

    def make():
        return len(np.stack([np.asarray(transform(wrap(image))) for image in x]))
    return make


def pillow_class(x):
    return one_by_one(x, Rand_Augment(2, 10, seed=0))


def timm(x):
    from timm.data.auto_augment import rand_augment_transform

    settings = {"translate_const": 10, "img_mean": (128,) * 3}
    return one_by_one(x, rand_augment_transform("rand-m9-n2-p1.0", settings))


def torchvision_pillow(x):
    from torchvision.transforms import v2

    return one_by_one(x, v2.RandAugment(num_ops=2, magnitude=9, fill=128))


def torchvision_tensor(x):
    import torch
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    transform = v2.RandAugment(num_ops=2, magnitude=9, fill=128)
    return one_by_one(x, transform, lambda image: torch.from_numpy(image).permute(2, 0, 1))


def torch_batch(x):
    """uint8 (256, 3, 32, 32)."""
    import torch

    torch.set_num_threads(1)
    return torch.from_numpy(np.resize(x, (256, 32, 32, 3))).permute(0, 3, 1, 2)


def torchvision_batch(x):
    from torchvision.transforms import v2

    transform, x = v2.RandAugment(num_ops=2, magnitude=9, fill=128), torch_batch(x)
    return lambda: len(transform(x))


def kornia(x):
    from kornia.augmentation.auto import RandAugment

    augment, x = RandAugment(n=2, m=9), torch_batch(x)
    return lambda: len(augment(x.float() / 255))


def keras_layer(x):
    import keras
    import tensorflow as tf

    augment = keras.layers.RandAugment(value_range=(0, 255), num_ops=2, factor=0.9, seed=0)
    compiled = tf.function(lambda batch: augment(batch, training=True))
    x = np.resize(x, (256, 32, 32, 3))
    return lambda: len(compiled(tf.cast(x, tf.float32)).numpy())


def keras_per_image(x):
    import keras
    import tensorflow as tf

    augment = keras.layers.RandAugment(value_range=(0, 255), num_ops=2, factor=0.9, seed=0)

    def alone(image):
        return augment(tf.cast(image, tf.float32)[None], training=True)[0]

    dataset = tf.data.Dataset.from_tensor_slices(x).repeat().map(alone).batch(64)
    images = dataset.as_numpy_iterator()
    return lambda: len(next(images))


def albumentations(x):
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)
    plain = dict(brightness_range=(1, 1), contrast_range=(1, 1), saturation_range=(1, 1),
                 hue_range=(0, 0), p=1)
    affine = dict(fill=128, p=1)
    augment = A.SomeOf([
        A.AutoContrast(p=1),
        A.Equalize(p=1),
        A.Affine(rotate=(-30, 30), **affine),
        A.Solarize(threshold_range=(0, 1), p=1),
        A.ColorJitter(**plain | {"saturation_range": (0.1, 1.9)}),
        A.Posterize(num_bits=(4, 7), p=1),
        A.ColorJitter(**plain | {"contrast_range": (0.5, 1.5)}),
        A.ColorJitter(**plain | {"brightness_range": (0.7, 1.3)}),
        A.Sharpen(p=1),
        A.Affine(shear={"x": (-17, 17), "y": (0, 0)}, **affine),
        A.Affine(shear={"x": (0, 0), "y": (-17, 17)}, **affine),
        A.Affine(translate_px={"x": (-10, 10), "y": (0, 0)}, **affine),
        A.Affine(translate_px={"x": (0, 0), "y": (-10, 10)}, **affine),
    ], n=2, replace=True)
    return one_by_one(x, lambda image: augment(image=image)["image"], lambda image: image)


def dali(x):
    from nvidia.dali import fn, pipeline_def
    from nvidia.dali.auto_aug import rand_augment

    x = np.resize(x, (64, 32, 32, 3))

    @pipeline_def(enable_conditionals=True, batch_size=64, num_threads=1, device_id=None, seed=0)
    def pipeline():
        images = fn.external_source(lambda: list(x), batch=True, layout="HWC")
        return rand_augment.rand_augment(images, n=2, m=9, num_magnitude_bins=10,
                                         max_translate_abs=10)

    running = pipeline()
    running.build()
    return lambda: len(running.run()[0].as_array())


PEERS = {
    "the article's generator": articles_generator,
    "Rand_Augment, the Pillow class": pillow_class,
    "timm rand-m9-n2, p 1 (Pillow)": timm,
    "torchvision v2 (Pillow)": torchvision_pillow,
    "torchvision v2 (uint8 tensor)": torchvision_tensor,
    "AlbumentationsX, SomeOf of 13": albumentations,
    "DALI on the CPU, 1 thread": dali,
    "keras.layers.RandAugment, tf.data": keras_per_image,
    "keras.layers.RandAugment, batch 256, one pair per batch": keras_layer,
    "kornia, batch 256, one pair per batch": kornia,
    "torchvision v2, batch 256, one pair per batch": torchvision_batch,
}
REFERENCE, FLOOR = "compiled_augment, batch 256", "floor: uint8 -> float32 / 255"
BARS = {
    "the article's generator": 35,
    "timm rand-m9-n2, p 1 (Pillow)": 25,
    "torchvision v2 (Pillow)": 25,
    "Rand_Augment, the Pillow class": 20,
    "kornia, batch 256, one pair per batch": 5,
    FLOOR: 0.1,
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="a folder of images, any nesting")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="per contender and round")
    args = parser.parse_args(argv)

    paths = sorted(path for path in pathlib.Path(args.images).rglob("*") if path.is_file())
    random.Random(0).shuffle(paths)
    x, _ = read_images(paths[:4096])
    if not len(x):
        sys.exit(f"error: {args.images}: no readable image in there "
                 "(python data/make_toy.py data/toy draws some)")

    contenders = {f"compiled_augment, batch {batch}": (ours, x, batch) for batch in (64, 256, 4096)}
    contenders |= {name: (peer, x) for name, peer in PEERS.items()}
    contenders[FLOOR] = floor, x, 256
    rates, absent = in_turns(contenders, args.rounds, args.seconds)

    rows = []
    for name in contenders:
        if name in absent:
            rows.append([name, f"absent: {absent[name]}", "", ""])
            continue
        ratio = spread(rates[REFERENCE] / rates[name])
        rows.append([name, spread(rates[name]), ratio, BARS.get(name, "")])
    write("rand_augment", "RandAugment on one core",
          f"Images per second: median (range) of {args.rounds} rounds in turns, on {len(x):,} "
          "images of 32x32, two operations each.",
          table(["", "images/s", f"{REFERENCE} ÷ it", "bar, at least"], rows),
          versions("numba", "pillow", "numpy", "keras", "tensorflow-cpu", "timm", "torch",
                   "torchvision", "kornia", "albumentationsx", "nvidia-dali-cuda120"))


if __name__ == "__main__":
    main()
