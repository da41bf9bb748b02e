"""Commands on many machines, by Ray: an experiment's cells, a pool's sources. Imports no Keras.

Where a command runs, what it waits for, and that another machine takes it up when its own one dies,
is Ray's business. All machines must see one file system, under the same paths, and have the same
packages.
"""

import contextlib
import os
import socket

from noisy_student import commands
from noisy_student.commands import THREADS
from noisy_student.files import UserError, first_line

# Every line of every task is shown as it was printed, and nothing is told to Ray's makers.
for key, value in {"RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0",
                   "RAY_USAGE_STATS_ENABLED": "0"}.items():
    os.environ.setdefault(key, value)
try:
    import ray
except ImportError as error:
    raise UserError(f"--engine ray: {error}. Run: python -m pip install -e '.[ray]'") from None

# How often a command is begun again whose machine or process has died. Mistakes are not repeated.
RETRIES = 5
# The beginnings of environment variables that say how a network computes: the same everywhere.
SETTINGS = ("KERAS_", "TF_", "XLA_", "JAX_")


@ray.remote(max_retries=RETRIES)
def task(folder, paths, environment, command, *needed):
    """Runs a Command on some machine, once what it needs is done.

    Args:
        folder, environment: where the whole was begun, and what is set there.
        paths: what this machine must see as that one does.

    Raises: UserError, if it does not.
    """
    for path in (folder, *paths):
        if not os.path.exists(os.path.join(folder, path)):
            raise UserError(f"{path}: the machine {ray.util.get_node_ip_address()} does not "
                            "see it; all need one file system, under the same paths")
    os.chdir(folder)
    os.environ.update(environment)
    commands.run(command)


def run_all(order, paths, address=None, cpus=1):
    """Runs Commands on as many machines as there are, each after the one that it needs.

    Args:
        order: a list of Commands, none before what it needs.
        paths: files and folders that every machine must see.
        address, cpus: of cluster().

    Raises: the first error, once all is made that does not need what failed.
    """
    settings = {key: os.environ[key] for key in os.environ if key.startswith(SETTINGS)}
    with cluster(address, cpus) as asked:
        if not asked["num_gpus"]:
            # As many threads as cores.
            settings = dict.fromkeys(THREADS, str(cpus)) | settings
        tasks = {}
        for command in order:
            needed = [tasks[command.need]] if command.need in tasks else []
            tasks[command.title] = task.options(**asked).remote(
                os.getcwd(), paths, settings, command, *needed)
        all_of(tasks)


@contextlib.contextmanager
def cluster(address, cpus):
    """The cluster at an address, or this machine alone. Gives: what a command asks of it.

    Args:
        address: "auto", host:port, or None. cpus: how many cores a command asks for; where there
            are GPUs, it asks for one of them, too.

    Raises: UserError, if nobody answers there, or no machine has as many cores.
    """
    try:
        if address and address != "auto":
            # Ray itself would try for two minutes, and end this process.
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        alone = {} if address else {"num_cpus": os.cpu_count(), "include_dashboard": False}
        ray.init(address=address or "local", logging_level="warning", **alone)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"--address {address}: no Ray cluster of the same versions answers there "
                        f"({first_line(error)}). Begin one with: ray start --head") from None
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0) > 0)
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        most = max(has.get("CPU", 0) for has in machines if has.get("GPU", 0) >= gpus)
        if cpus > most:
            raise UserError(f"{cpus} cores for a command: no machine of the cluster"
                            f"{' with a GPU' if gpus else ''} has more than {most:.0f}")
        yield {"num_cpus": cpus, "num_gpus": gpus}
    finally:
        ray.shutdown()


def result(done):
    """What a finished task has said. Raises: what it has raised; UserError, if it could not run."""
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        # Without the traceback of the other machine.
        if isinstance(error.cause, (UserError, OSError)):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise UserError(f"a task failed {RETRIES + 1} times, or could not begin: {lines[0]} "
                        f"{lines[-1]}; the same command goes on") from None


def all_of(tasks):
    """Waits for tasks, {title: task}, and says of each that it is done.

    Raises: the first error, once everything is made that does not need what failed.
    """
    titles, failed = {ref: title for title, ref in tasks.items()}, None
    waiting = list(titles)
    while waiting:
        (done,), waiting = ray.wait(waiting)
        try:
            result(done)
            print(f"{titles[done]} done", flush=True)
        except (UserError, OSError) as error:
            failed = failed or error
    if failed:
        raise failed
