"""A run: a folder that knows what was asked for, what it was made from, and what came of it."""

import ast
import functools
import inspect
import json
import os
import pathlib
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, field, fields

import keras
import numpy as np

# normalization: its layer must be known to load a network that has it.
from noisy_student import backend, normalization, onednn  # noqa: F401
from noisy_student.files import (
    UserError,
    occupy,
    read_arrays,
    read_json,
    reading,
    sha256,
    whole_file,
    write_arrays,
    write_json,
)

# The state of a training that is under way.
BACKUP = "backup.npz"
# Arguments that do not change what comes of a run.
WHERE = ("log_dir", "out", "data", "pseudo", "teacher", "truth", "workers", "tensorboard", "engine",
         "address", "like", "merge", "allow_empty")
# The kinds of file whose sha256 a run keeps.
KEPT = (".keras", ".npy", ".npz", ".csv")


@dataclass
class Run:
    """run.json, as it is written and read."""

    folder: str
    script: str
    # What was chosen on the command line, without paths, and with the recipe's values filled in.
    arguments: dict
    # sha256 values of its data and split, and of the pseudo-labels that a student learns from.
    made_from: dict
    # How the labels of a student, and their teacher, were made, as far as that is known.
    taught_by: dict = None
    versions: dict = field(default_factory=dict)
    # What came of it, once it is finished, and the sha256 of its files.
    results: dict = field(default_factory=dict)
    sha256: dict = field(default_factory=dict)
    # Digests of the code that defines it: {"network": code_of(...), "recipe": ...}.
    code: dict = field(default_factory=dict)

    @property
    def finished(self):
        return bool(self.results)

    @property
    def trained(self):
        """Whether it is a finished training, and not a labelling."""
        return "test_accuracy" in self.results

    @property
    def labels_sha256(self):
        """What the run of a student keeps as pseudo_sha256, if it learnt from this labelling."""
        return sha256(*(self.sha256.get(f"{name}.npy", "").encode()
                        for name in ("x", "y", "index")))

    def path(self, name):
        return pathlib.Path(self.folder) / name

    def save(self):
        content = asdict(self)
        del content["folder"]
        write_json(self.path("run.json"), content)

    def finish(self, **results):
        """Keeps the results, and the sha256 of every array, network and table in the folder."""
        files = [path for path in sorted(self.path("").iterdir())
                 if path.suffix in KEPT and path.name != BACKUP]
        self.sha256 = {path.name: sha256(path) for path in files}
        self.results = as_json(results)
        self.save()
        self.path(BACKUP).unlink(missing_ok=True)

    def check(self, name):
        """The path of one of its files. Raises: UserError, if it is not the one the run wrote."""
        path = self.path(name)
        if not path.is_file() or sha256(path) != self.sha256.get(name):
            raise UserError(f"{path}: missing, or not the file that its run wrote. "
                            f"Delete {self.folder} and run: python {self.script} ...")
        return path

    def arrays(self, name):
        """The array of a .npy, or {name: array} of a .npz."""
        return read_arrays(self.check(name))

    def model(self):
        """Its final network, in Keras' safe mode."""
        return load_network(self.check("model.keras"))

    def save_predictions(self, **predictions):
        """Keeps what a network says: for each name (probabilities (N, C), classes int (N,))."""
        arrays = {}
        for name, (probabilities, y) in predictions.items():
            arrays[name], arrays[f"y_{name}"] = probabilities.astype(np.float32), y.astype(np.int16)
        write_arrays(self.path("predictions.npz"), **arrays)

    def predictions(self, name):
        """What save_predictions kept: float32 (N, C), int64 (N,). Raises: UserError, for none."""
        arrays = self.arrays("predictions.npz")
        with reading(self.path("predictions.npz")):
            p, y = arrays[name], arrays[f"y_{name}"].astype(np.int64)
            if p.dtype == np.float16:
                # Version 1.0.0 kept logarithms of 16 bits.
                p = np.exp(p.astype(np.float64))
                p = (p / p.sum(axis=1, keepdims=True)).astype(np.float32)
            return p, y


def load_network(path):
    """A .keras file, in Keras' safe mode. Raises: UserError."""
    with reading(path):
        return keras.saving.load_model(path, compile=False, safe_mode=True)


def as_json(content):
    """What a file will give back: lists in place of tuples, and so on."""
    return json.loads(json.dumps(content))


def start(script, folder, arguments, made_from, taught_by=None, flag="--log-dir", code=None):
    """A new run in a folder, or the run that the folder holds already, finished or not.

    The folder belongs to this process until it ends, however it ends.

    Args:
        arguments: what was chosen, {flag: value}; paths and the like are left out.
        flag: by which the user chooses the folder.
        code: {"network": the functions that define it, ...}, of scripts.

    Raises: UserError, where the folder holds a run made with other arguments, from other data or
        by other code, or where another process is at work.
    """
    chosen = {key: value for key, value in arguments.items() if key not in WHERE}
    versions = {"python": platform.python_version(), "keras": keras.__version__,
                "numpy": np.__version__, "backend": keras.backend.backend(),
                "hardware": backend.hardware(), "commit": commit()}
    if keras.backend.backend() == "tensorflow":
        # Other kernels round otherwise.
        versions["onednn"] = os.environ.get(onednn.VARIABLE, "as TensorFlow decides")
    run = Run(str(folder), script, as_json(chosen), as_json(made_from), as_json(taught_by),
              versions, code={what: code_of(*things) for what, things in (code or {}).items()})
    occupy(folder, flag)
    if (pathlib.Path(folder) / "run.json").exists():
        old = read(folder)
        worth_keeping = old.finished or old.path(BACKUP).exists() or old.script != script
        differs = differences(old, run)
        there, here = old.versions.get("backend"), versions["backend"]
        if not old.finished and there != here:
            # Its weights would be neither's.
            differs.append(f"backend {there} there, {here} here")
        if worth_keeping and differs:
            raise UserError(f"{folder} holds another run ({'; '.join(differs)}): "
                            f"choose another {flag}, or delete that folder")
        # Whoever edits an operation and runs the same command must not be shown the old numbers.
        changed = [what for what, now in run.code.items() if old.code.get(what, now) != now]
        if worth_keeping and changed:
            raise UserError(f"{folder}: the code of the {' and the '.join(changed)} has changed "
                            f"since: choose another {flag}, or delete that folder")
        if worth_keeping:
            return old
    run.save()
    return run


def commit():
    """The commit of this project, and whether there are changes since: "3564fa3-dirty", or "-"."""
    project = pathlib.Path(__file__).parent.parent
    # Where somebody keeps a copy within a repository of his own, that one's commit says nothing.
    if not (project / ".git").exists():
        return "-"
    try:
        return subprocess.run(["git", "describe", "--always", "--dirty"], cwd=project, check=True,
                              capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "-"


@functools.cache
def definitions(script):
    """{name: syntax tree} of what a script's text defines or imports at its top, no docstrings."""
    tree, trees = ast.parse(script), {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    for node in tree.body:
        names = [getattr(node, "name", None), *(alias.name for alias in getattr(node, "names", ()))]
        for target in getattr(node, "targets", ()):
            names += [leaf.id for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]
        trees |= dict.fromkeys(names, node)
    return trees


def code_of(*things):
    """Eight digits of the code of functions and classes, and of all that it uses of the scripts.

    Names are followed within a script and into those that it imports from, not into the package:
    what is worth points stands in scripts. Comments, docstrings and layout do not count.
    """
    names = [(pathlib.Path(inspect.getsourcefile(thing)), thing.__name__) for thing in things]
    code = {}
    while names:
        path, name = names.pop()
        node = definitions(path.read_text(encoding="utf-8")).get(name)
        if isinstance(node, ast.ImportFrom):
            other = path.with_name(f"{node.module}.py")
            names += [(other, name)] if other.exists() else []
        elif node and (path.name, name) not in code:
            code[path.name, name] = ast.unparse(node)
            names += [(path, leaf.id) for leaf in ast.walk(node) if isinstance(leaf, ast.Name)]
    return sha256(repr(sorted(code.items())).encode())[:8]


def names_of(sources):
    """What the sources of a pool are called, wherever they lie: that differs between machines."""
    return [os.path.basename(os.path.abspath(source)) for source in sources]


def unequal(one, other):
    """The keys whose values differ between two dictionaries, or that only one has, in order."""
    return [key for key in {**one, **other} if one.get(key) != other.get(key)]


def differences(old, new):
    """What two runs were made with or from, where it differs, in words.

    A data set may move, and so may what is labelled, whose name and size stay.
    """
    was, now = ({"script": run.script, **run.made_from, **run.arguments} for run in (old, new))
    for run in (was, now):
        if "images" in run:
            run["images"] = names_of(run["images"])
    return [f"{key} {short(was.get(key))} there, {short(now.get(key))} here"
            for key in unequal(was, now) if key != "data"]


def short(value):
    """A value as a person compares it: of a sha256, which has 64 digits, the first eight."""
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1...", str(value))


def read(folder):
    """The run in a folder, finished or not."""
    path = pathlib.Path(folder) / "run.json"
    content = read_json(path)
    content["folder"] = str(folder)
    # Version 1.0.0 did not keep it.
    content.setdefault("code", {})
    # Another version may have written more.
    return Run(**{known.name: content[known.name] for known in fields(Run)})


def finished(folder, made_by):
    """The finished run in a folder. Raises: UserError, with the command to run first."""
    if not (pathlib.Path(folder) / "run.json").exists():
        raise UserError(f"{folder}: nothing there yet. Run first: {made_by}")
    run = read(folder)
    if not run.finished:
        raise UserError(f"{folder}: not finished. The command that began it goes on: "
                        f"python {run.script} ...")
    return run


def trained(folder, made_by):
    """The finished training in a folder. Raises: UserError, with the command to run first."""
    run = finished(folder, made_by)
    if not run.trained:
        raise UserError(f"{folder}: holds no network but what {run.script} made. Run: {made_by}")
    return run


def save_network(model, path):
    """Writes a network without its optimizer, whose state would double or treble the file.

    Keras' include_optimizer=False says so and, for a .keras file, does nothing.
    """
    # One that is not compiled has none.
    optimizer, model.optimizer = getattr(model, "optimizer", None), None
    try:
        with whole_file(path) as beside:
            # Keras tells a file's format by its ending.
            model.save(beside)
    finally:
        model.optimizer = optimizer
