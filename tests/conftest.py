"""What the tests share: a tiny data set on disk, a trained teacher, and real images where they are at hand."""

import os
import pathlib
import sys
import tarfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data")]
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np  # noqa: E402

TINY = ["--depth", "14", "--width", "0.03", "--batch-size", "16", "--steps-per-epoch", "3"]


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A folder data set of 10 x 12 training and 10 x 4 test pictures, and 60 unlabelled ones."""
    import make_toy

    folder = tmp_path_factory.mktemp("data") / "toy"
    make_toy.draw_set(folder, per_class_train=12, per_class_test=4, unlabeled=60, seed=0)
    return folder


@pytest.fixture(scope="session")
def teacher(toy, tmp_path_factory):
    """The folder of a finished teacher, of 80 labels. It has learnt next to nothing."""
    import cifar10_resnet50 as step1

    log_dir = tmp_path_factory.mktemp("logs") / "teacher"
    step1.main(["--data", str(toy), "--num-labeled", "80", "--recipe", "fast", "--epochs", "2", *TINY, "--log-dir", str(log_dir)])
    return log_dir


@pytest.fixture(scope="session")
def pseudo(toy, teacher, tmp_path_factory):
    """The folder of pseudo-labels for the unlabelled pictures and the rest of the training images."""
    import imagenet_dummy_label as step2

    out = tmp_path_factory.mktemp("logs") / "pseudo"
    step2.main([str(toy / "unlabeled"), "rest", "--teacher", str(teacher), "--threshold", "0", "--out", str(out),
                "--truth", str(toy / "truth.csv"), "--calibrate"])
    return out


@pytest.fixture(scope="session")
def real_images():
    """96 real CIFAR-10 photos, uint8 (96, 32, 32, 3), from a folder or archive beside the checkout."""
    from PIL import Image

    folder = ROOT / "data-real" / "cifar10" / "test"
    if folder.is_dir():
        paths = [path for name in sorted(folder.iterdir()) for path in sorted(name.iterdir())[:10]]
        return np.stack([np.array(Image.open(path).convert("RGB")) for path in paths])[:96]
    archive = ROOT.parent / "shared" / "data" / "cifar10_jpeg.tar.xz"
    if not archive.exists():
        pytest.skip("no real images beside this checkout (data-real/cifar10)")
    images = []
    with tarfile.open(archive, mode="r|xz") as tar:
        for member in tar:
            if member.isreg():
                images.append(np.array(Image.open(tar.extractfile(member)).convert("RGB")))
                if len(images) == 96:
                    return np.stack(images)


@pytest.fixture
def photos():
    """Natural-looking noise where real photos are not needed: smooth, full range, uint8 (40, 32, 32, 3)."""
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(40, 32, 32, 3)).cumsum(axis=1).cumsum(axis=2)
    low, high = waves.min(axis=(1, 2), keepdims=True), waves.max(axis=(1, 2), keepdims=True)
    return (20 + 210 * (waves - low) / (high - low)).astype(np.uint8)
