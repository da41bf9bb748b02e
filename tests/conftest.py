"""What the tests share: a tiny data set on disk, a trained teacher, real images where there are."""

import importlib
import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "tests" / "programs"
sys.path[:0] = [str(ROOT), str(ROOT / "data")]
os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_NUM_INTRAOP_THREADS": "1"}
# Where TensorFlow uses oneDNN's kernels by itself, it says so at every start, on standard error.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np  # noqa: E402

from noisy_student import arguments  # noqa: E402

# The smallest network that is one, and a training of seconds.
TINY = ["--depth", "14", "--width", "0.03", "--batch-size", "16", "--steps-per-epoch", "3",
        "--recipe", "fast", "--epochs", "2"]


def pytest_collection_modifyitems(items):
    """The files that take minutes come first, so that no process waits for them at the end."""
    items.sort(key=lambda item: item.path.name not in ("test_readme.py", "test_resume.py"))


def train_teacher(*words):
    """Step 1, as its command line would."""
    import cifar10_resnet50

    cifar10_resnet50.main(arguments.teacher("", [str(word) for word in words]))


def label(*words):
    """Step 2."""
    import imagenet_dummy_label

    imagenet_dummy_label.main(arguments.labelling("", [str(word) for word in words]))


def train_student(*words):
    """Step 4."""
    import data_generator

    data_generator.main(arguments.student("", [str(word) for word in words]))


def run_in_process(command, threads=None):
    """noisy_student.commands.run, where Keras is at hand already."""
    script, *words = command.words
    {"cifar10_resnet50.py": train_teacher, "data_generator.py": train_student,
     "imagenet_dummy_label.py": label}[script](*words)


def load_benchmark(name):
    """A script of benchmarks/ as a module, which finds the others there."""
    folder = str(ROOT / "benchmarks")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def evaluate(*words):
    """Step 5."""
    import eval as step5

    step5.main(arguments.evaluation("", [str(word) for word in words]))


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A data set of 10 x 12 training and 10 x 4 test pictures, and 60 unlabelled ones."""
    import make_toy

    folder = tmp_path_factory.mktemp("data") / "toy"
    make_toy.draw_set(folder, per_class_train=12, per_class_test=4, unlabeled=60, seed=0)
    return folder


@pytest.fixture(scope="session")
def teacher(toy, tmp_path_factory):
    """The folder of a finished teacher, of 80 labels. It has learnt next to nothing."""
    folder = tmp_path_factory.mktemp("logs") / "teacher"
    train_teacher("--data", toy, "--num-labeled", 80, *TINY, "--log-dir", folder)
    return folder


@pytest.fixture(scope="session")
def pseudo(toy, teacher, tmp_path_factory):
    """The folder of pseudo-labels for the unlabelled pictures and the rest of the training set."""
    folder = tmp_path_factory.mktemp("logs") / "pseudo"
    label(toy / "unlabeled", "rest", "--teacher", teacher, "--threshold", 0, "--out", folder,
          "--truth", toy / "truth.csv", "--calibrate")
    return folder


@pytest.fixture(scope="session")
def own_network(tmp_path_factory):
    """A .keras file of somebody's own: one layer that tells the toy's ten classes apart, by chance.

    Its dropout would be seen in the labels, if it were left on.
    """
    import keras

    rng = np.random.default_rng(0)
    kernel = 2 * rng.normal(size=(48, 10))
    model = keras.Sequential([
        keras.layers.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255),
        keras.layers.AveragePooling2D(8), keras.layers.Flatten(), keras.layers.Dropout(0.5),
        keras.layers.Dense(10, "softmax", name="classes")])
    model.get_layer("classes").set_weights([kernel, -0.35 * kernel.sum(axis=0)])
    path = tmp_path_factory.mktemp("own") / "network.keras"
    model.save(path)
    return path


@pytest.fixture(scope="session")
def real_images():
    """96 real photos, uint8 (96, 32, 32, 3)."""
    from PIL import Image

    folder = os.environ.get("NOISY_STUDENT_IMAGES")
    if not folder:
        pytest.skip("NOISY_STUDENT_IMAGES names no folder of real images of 32x32 pixels")
    paths = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return np.stack([np.array(Image.open(path).convert("RGB"))
                     for path in paths[::len(paths) // 96][:96]])


@pytest.fixture
def photos():
    """Smooth noise of full range where no real photos are needed: uint8 (40, 32, 32, 3)."""
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(40, 32, 32, 3)).cumsum(axis=1).cumsum(axis=2)
    low, high = waves.min(axis=(1, 2), keepdims=True), waves.max(axis=(1, 2), keepdims=True)
    return (20 + 210 * (waves - low) / (high - low)).astype(np.uint8)
