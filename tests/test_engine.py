"""Many machines: the same results as one, whatever dies in the middle; and mistakes in a line."""

import os
import shlex
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import TINY, label, train_student, train_teacher

import experiment
from noisy_student import arguments
from noisy_student.files import UserError, occupy

# Two machines and the others of this suite are too much for two cores otherwise.
os.environ |= {"RAY_worker_niceness": "0", "RAY_COLOR_PREFIX": "0"}
ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

from noisy_student import engine  # noqa: E402

SMALL = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def machines():
    """A cluster of a machine that only coordinates and one of one core."""
    head = SMALL | {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(**SMALL)
    yield cluster
    cluster.shutdown()


def while_its_machine_dies(machines, path, work):
    """Kills the machine that works as soon as a path exists; another one joins.

    Args:
        work: what is to be done meanwhile. Returns: what it returns.
    """
    with ThreadPoolExecutor(1) as driver:
        done = driver.submit(work)
        while not path.exists():
            assert not done.done(), done.result()
            time.sleep(0.02)
        (machine,) = machines.worker_nodes
        machines.remove_node(machine, allow_graceful=False)
        machines.add_node(**SMALL)
        return done.result()


def asked(*words):
    """The arguments of `experiment.py run`."""
    words = [str(word) for word in ("run", *words)]
    return arguments.experiment("", experiment.EIGHT, experiment.CELLS, words)


# --- the experiment -------------------------------------------------------------------------------


def test_an_experiment_whose_machine_dies_is_that_of_one_machine(machines, toy, tmp_path, capfd,
                                                                 monkeypatch):
    def words(out):
        return ["--data", toy, "--images", toy / "unlabeled", "rest", "--out", tmp_path / out,
                "--cells", "student_without_noise", "teacher", "--label-flags", "--threshold 0",
                "--flags", shlex.join([*TINY, "--num-labeled", "80", "--epochs", "20"])]

    def make(name, folder, seed, args, threads):
        script, *words = experiment.command(name, folder, seed, args)[0]
        {"cifar10_resnet50.py": train_teacher, "data_generator.py": train_student,
         "imagenet_dummy_label.py": label}[script](*words)

    order = experiment.with_needs(asked(*words("one")).cells)
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "make", make)
        experiment.run_all(order, asked(*words("one")))
    while_its_machine_dies(
        machines, tmp_path / "many" / "seed0" / "teacher" / "backup.npz",
        lambda: experiment.run_on_cluster(order, asked(*words("many"), "--engine", "ray",
                                                       "--address", machines.address)))
    for name in order:
        one, many = (tmp_path / out / "seed0" / name for out in ("one", "many"))
        names = sorted(path.name for path in one.iterdir())
        assert names == sorted(path.name for path in many.iterdir())
        for array in one.glob("*.np?"):
            assert array.read_bytes() == (many / array.name).read_bytes()
    said = capfd.readouterr().out
    # Of three one was begun twice, and went on.
    assert said.count("] python ") == 4 and "] resuming " in said
    assert [line for line in said.splitlines() if line.endswith("] done")] == [
        f"[seed 0 {name}] done" for name in order]
