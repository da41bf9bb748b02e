"""Many machines: the same results as one, whatever dies in the middle; and mistakes in a line."""

import importlib
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import make_toy
import pytest
from conftest import PROGRAMS, ROOT, TINY, label, run_in_process
from test_merge import CAP, assert_same, cut_up

import experiment
from noisy_student import arguments, commands
from noisy_student.files import UserError

# Ray's processes give way to nobody here, and lines have no colours.
os.environ |= {"RAY_worker_niceness": "0", "RAY_COLOR_PREFIX": "0"}
SMALL = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def machines():
    """A cluster of a machine that only coordinates and one of one core."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    head = SMALL | {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(**SMALL)
    yield cluster
    cluster.shutdown()


def while_its_machine_dies(machines, folder, pattern, work):
    """Kills the machine that works as soon as such a file is in the folder; another one joins.

    Args:
        work: what is to be done meanwhile.
    """
    with ThreadPoolExecutor(1) as driver:
        done = driver.submit(work)
        while not list(folder.glob(pattern)):
            assert not done.done(), done.result()
            time.sleep(0.02)
        (machine,) = machines.worker_nodes
        machines.remove_node(machine, allow_graceful=False)
        machines.add_node(**SMALL)
        done.result()


def parsed(*words):
    """The arguments of `experiment.py run`."""
    words = [str(word) for word in ("run", *words)]
    return arguments.experiment("", experiment.EXPERIMENTS, experiment.CELLS, words)


def asked(*words):
    """The Experiment of such a command line."""
    return experiment.asked_for(parsed(*words))


def run_all(*words):
    """engine.run_all, imported only where Ray is there."""
    from noisy_student import engine

    engine.run_all(*words)


# --- the experiment -------------------------------------------------------------------------------


def test_an_experiment_whose_machine_dies_is_that_of_one_machine(machines, toy, tmp_path, capfd,
                                                                 monkeypatch):
    def words(out):
        return ["--data", toy, "--images", toy / "unlabeled", "rest", "--out", tmp_path / out,
                "--cells", "student_without_noise", "teacher", "--label-flags", "--threshold 0",
                "--flags", shlex.join([*TINY, "--num-labeled", "80", "--epochs", "20"])]

    order = experiment.with_needs(asked(*words("one")).cells)
    with monkeypatch.context() as patch:
        patch.setattr(commands, "run", run_in_process)
        commands.run_here(experiment.commands_of(order, asked(*words("one"))), jobs=1)
    many = experiment.commands_of(order, asked(*words("many")))
    while_its_machine_dies(
        machines, tmp_path / "many" / "seed0" / "teacher", "backup.npz",
        lambda: run_all(many, [tmp_path], machines.address))
    for name in order:
        one, many = (tmp_path / out / "seed0" / name for out in ("one", "many"))
        names = sorted(path.name for path in one.iterdir())
        assert names == sorted(path.name for path in many.iterdir())
        for array in one.glob("*.np?"):
            assert array.read_bytes() == (many / array.name).read_bytes()
    said = capfd.readouterr().out
    # One of the three was begun twice, and went on.
    assert said.count("] python ") == 4 and "] resuming " in said
    assert [line for line in said.splitlines() if line.endswith("] done")] == [
        f"[seed 0 {name}] done" for name in order]


# --- a pool ---------------------------------------------------------------------------------------


def test_labels_of_a_machine_that_dies_are_those_of_one_machine(machines, toy, own_network,
                                                                tmp_path):
    words = [*cut_up(toy, tmp_path, 3), *CAP, "--teacher", own_network, "--classes",
             *make_toy.SHAPES, "--truth", toy / "truth.csv", "--out"]
    label(*words, tmp_path / "one")
    while_its_machine_dies(
        machines, tmp_path / "many" / "parts", "*/.unfinished-seen.csv",
        lambda: label(*words, tmp_path / "many", "--engine", "ray",
                      "--address", machines.address))
    assert_same(tmp_path / "one", tmp_path / "many")


# --- mistakes -------------------------------------------------------------------------------------


def test_mistakes_are_a_line_each(machines, tmp_path):
    command = commands.Command("[x]", ["predict.py", "x.png", "--model", str(tmp_path)])
    with pytest.raises(UserError, match="--address 127.0.0.1:1: no Ray cluster .* answers there"):
        run_all([command], [], "127.0.0.1:1")
    with pytest.raises(UserError, match="99 cores for a command: no machine .* has more than 1$"):
        run_all([command], [], machines.address, 99)
    with pytest.raises(UserError, match="nowhere: the machine .* does not see it; all need"):
        run_all([command], ["nowhere"], machines.address)
    with pytest.raises(UserError, match=r"^\[x\] failed; mend it and give the same command again"):
        run_all([command], [tmp_path], machines.address)


def test_second_driver_is_refused(tmp_path):
    pytest.importorskip("ray")
    first = subprocess.Popen([sys.executable, PROGRAMS / "occupy.py", tmp_path], text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             env=os.environ | {"PYTHONPATH": str(ROOT)})
    first.stdout.readline()
    with pytest.raises(UserError, match="another run is writing there right now.*another --out"):
        experiment.main(parsed("--out", tmp_path, "--engine", "ray", "--images", tmp_path,
                              "--cells", "student"))
    first.communicate()


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "noisy_student.engine", raising=False)
    with pytest.raises(UserError, match=r"^--engine ray: .*pip install -e '.\[ray\]'$"):
        importlib.import_module("noisy_student.engine")
