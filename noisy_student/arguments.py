"""The command lines of all scripts. Imports no Keras: --help and a wrong flag answer at once."""

import argparse
import contextlib
import importlib.util
import json
import math
import os
import pathlib
import shlex
import sys

from noisy_student import commands, onednn


def number(kind, low, high=math.inf, open_low=False):
    """An argparse type: an int or float in a range, or one line that says which."""
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        inside = low < value if open_low else low <= value
        if not inside or not value <= high or not math.isfinite(value):
            limits = f"{'above' if open_low else 'from'} {low}"
            limits += f" to {high}" if high < math.inf else ""
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} {limits}")
        return value
    return parse


COUNT = number(int, 1)
SHARE = number(float, 0, 1)
PROBABILITY = number(float, 0, 1, open_low=True)
WIDTH = number(float, 0, 16, open_low=True)
# Keras' name for each, and its own. Keras knows more, which cannot train.
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
# What the command line need not say where there is no teacher to ask: the article's.
ARTICLE = {"data": "cifar10", "validation": "split", "network": "resnet", "width": 1.0, "seed": 0}
# The teacher that step 4 takes after where nobody names one; there need not be one.
LIKE = "logs/teacher"
# Each network, and its recipe where --recipe names no other.
NETWORKS = {"resnet": "article", "small": "sprint"}


class Parser(argparse.ArgumentParser):
    """Exits, before Keras is imported, where its backend is not supported or not installed."""

    def parse_args(self, argv=None):
        args = super().parse_args(argv)
        home = os.environ.get("KERAS_HOME", os.path.expanduser("~/.keras"))
        settings, said_by = os.path.join(home, "keras.json"), "KERAS_BACKEND"
        backend = os.environ.get("KERAS_BACKEND")
        if not backend:
            said_by = settings
            # Keras takes a damaged file for none.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                with open(settings, encoding="utf-8") as file:
                    backend = json.load(file).get("backend")
        if not backend:
            said_by, backend = "without KERAS_BACKEND, Keras itself", "tensorflow"
        if backend not in BACKENDS:
            sys.exit(f"error: {said_by} chooses {backend!r} for Keras to compute on; networks are "
                     f"trained on {', '.join(BACKENDS)}")
        if importlib.util.find_spec(backend) is None:
            sys.exit(f"error: {said_by} chooses {backend!r} for Keras to compute on, and there is "
                     "no such package in this environment")
        return args


def refuse_missing(**paths):
    """Ends with one line where a file or folder that a flag names is not there.

    Args:
        paths: {flag: path or None}; "images" are those without a flag.
    """
    for flag, path in paths.items():
        if path is not None and not os.path.exists(path):
            said_by = "" if flag == "images" else f" (--{flag})"
            sys.exit(f"error: {path}: no such file or folder{said_by}")


def refuse_unmade(folder, made_by):
    """Ends with the command that has to come first, where it has not left its run.json."""
    if not os.path.exists(os.path.join(folder, "run.json")):
        sys.exit(f"error: {folder}: nothing there yet. Run first: {made_by}")


def parser(doc):
    return Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_network(flags):
    flags.add_argument("--network", choices=NETWORKS,
                       help="resnet: the article's, the default; small: small_network.py")
    flags.add_argument("--depth", type=int,
                       help="of the resnet: 14, 26, 50 (the article's), 101, 152")
    flags.add_argument("--width", type=WIDTH, help="multiplies every filter count (1)")


def parse_with_network(flags, argv):
    """Parses, and fills in what the command line does not say of the network.

    Ends with one line, where it says something that the network has not.
    """
    args = flags.parse_args(argv)
    settings = settings_of_teacher(vars(args)) if hasattr(args, "like") else {}
    # The teacher's settings go before the article's.
    for name, value in {**ARTICLE, **settings}.items():
        if getattr(args, name, value) is None:
            setattr(args, name, value)
    for name, article in (("depth", 50), ("stem_strides", 1)):
        if args.network == "resnet" and getattr(args, name, article) is None:
            setattr(args, name, article)
        elif args.network != "resnet" and getattr(args, name, None) is not None:
            flags.error(f"--{name.replace('_', '-')} is for --network resnet; "
                         "the size of the small one is its --width")
    if getattr(args, "recipe", "") is None:
        args.recipe = NETWORKS[args.network]
    if argv is None:
        # This process is going to train it.
        if getattr(args, "data", "cifar10") != "cifar10":
            refuse_missing(data=args.data)
        if getattr(args, "pseudo", "none") != "none":
            refuse_unmade(args.pseudo, "python imagenet_dummy_label.py IMAGES")
        onednn.choose(args.network, args.width, getattr(args, "log_dir", None))
    return args


def settings_of_teacher(given):
    """What the command line of step 4 leaves out and its teacher was trained with; printed.

    The teacher is the one that made the pseudo-labels, or without these that of --like. Whoever
    asks for another network or recipe gets its own settings in place of the teacher's.

    Args:
        given: {name: value} of the command line; None where it says nothing.
    """
    folder = given["like"] if given["pseudo"] == "none" else given["pseudo"]
    run = onednn.read_json(pathlib.Path(folder, "run.json"))
    chosen = run.get("arguments", {})
    if given["pseudo"] != "none":
        # A teacher from elsewhere has no settings that are known.
        chosen = (run.get("taught_by") or {}).get("arguments", {})
    if given["pseudo"] == "none" and folder not in ("none", LIKE):
        refuse_unmade(folder, "python cifar10_resnet50.py")
    elif not chosen:
        return {}
    if "recipe" not in chosen:
        sys.exit(f"error: --like {folder}: holds no training")
    names = ["num_labeled", "validation", "seed"]
    if given["network"] in (None, chosen.get("network", "resnet")):
        names += ["network", "depth", "width", "stem_strides"]
        if given["recipe"] in (None, chosen["recipe"]):
            names += ["recipe", "epochs", "label_smoothing", "averaging", "early_stopping",
                      "batch_size"]
            if given["batch_size"] in (None, chosen.get("batch_size")):
                names += ["steps_per_epoch", "learning_rate"]
    known = {"data": run.get("made_from", {}).get("data")}
    known |= {name: chosen.get(name) for name in names}
    taken = {name: value for name, value in known.items()
             if given[name] is None and value is not None}
    if taken:
        print(f"as the teacher of {folder}: {shlex.join(commands.flags_of(taken))}")
    return taken


def add_model_noise(flags):
    flags.add_argument("--p-last", type=PROBABILITY, default=0.8, metavar="P",
                       help="survival probability of the last block (0.8)")
    flags.add_argument("--dropout", type=number(float, 0, 0.99), default=0.5, metavar="P",
                       help="rate before the classifier (0.5)")


def add_training(flags, log_dir):
    """The flags that step 1 and step 4 share."""
    flags.add_argument("--data", help="cifar10, the default, or a folder train/<class>/*, "
                       "test/<class>/*; docs/data.md names more formats")
    flags.add_argument("--num-labeled", type=COUNT, metavar="N",
                       help="training images that keep their label (all)")
    flags.add_argument("--validation", choices=("split", "test"),
                       help="split, the default: a tenth of the labelled images; test: the "
                       "article's choice, a leak")
    flags.add_argument("--recipe",
                       help="article: 300 epochs of Adam; fast: 30 of AdamW in one cycle; sprint: "
                       "20 of SGD, for the small network, whose default it is")
    add_network(flags)
    flags.add_argument("--stem-strides", type=int, choices=(1, 2),
                       help="of the resnet; 2: four times fewer pixels in all layers, and four "
                       "times faster")
    flags.add_argument("--epochs", type=COUNT, metavar="N", help="default: the recipe's")
    flags.add_argument("--steps-per-epoch", type=COUNT, metavar="N",
                       help="default: labelled images / batch size")
    flags.add_argument("--batch-size", type=COUNT, metavar="N", help="default: the recipe's")
    flags.add_argument("--learning-rate", type=number(float, 0, open_low=True), metavar="X",
                       help="default: the recipe's")
    flags.add_argument("--label-smoothing", type=SHARE, metavar="S", help="default: the recipe's")
    flags.add_argument("--averaging", type=number(float, 0, 0.9999), metavar="X",
                       help="keep a running average of the weights, over about the last "
                       "1 / (1 - X) steps: 0.98 is fifty (default: the recipe's; 0: the last "
                       "weights)")
    flags.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto",
                       help="auto: bfloat16 with fast and sprint, where the GPU has it")
    flags.add_argument("--devices", choices=("one", "all"), default="one",
                       help="all: every GPU takes its share of a batch")
    flags.add_argument("--early-stopping", type=number(int, 0), metavar="N",
                       help="patience of the article's second phase, in epochs (10); 0: never stop")
    flags.add_argument("--seed", type=number(int, 0, 2**32 - 1), help="0, where nothing is said")
    flags.add_argument("--tensorboard", action="store_true",
                       help="also write logs for TensorBoard (pip install tensorboard)")
    flags.add_argument("--log-dir", default=log_dir,
                       help=f"folder that the run is written to ({log_dir}), whose name is the "
                       "cell's")


def add_engine(flags):
    flags.add_argument("--engine", choices=("local", "ray"), default="local",
                       help="ray: on many machines (pip install -e '.[ray]')")
    flags.add_argument("--address", help="of a Ray cluster: auto, or host:port (this machine)")


def add_robustness(flags):
    """The flags that step 5 and step 6 share."""
    flags.add_argument("--data", help="where the data set is now, if it has moved")
    flags.add_argument("--corrupted", metavar="DIR", help="a set in CIFAR-10-C's layout")
    flags.add_argument("--adversarial", action="store_true",
                       help="attack the networks: FGSM, and PGD as a check")
    flags.add_argument("--shifted", nargs="+", default=[], metavar="DIR",
                       help="other labelled images of the same classes")
    flags.add_argument("--robust-images", type=COUNT, metavar="N", help="corrupted: of each "
                       "severity (all); adversarial: test images (1000)")
    flags.add_argument("--robust-seeds", type=COUNT, metavar="N",
                       help="test the first N seeds of each cell (all)")


def teacher(doc, argv=None):
    """The command line of step 1, cifar10_resnet50.py."""
    flags = parser(doc)
    add_training(flags, log_dir="logs/teacher")
    return parse_with_network(flags, argv)


def small(doc, argv=None):
    """The command line of small_network.py."""
    flags = parser(doc)
    flags.add_argument("--width", type=WIDTH, default=1.0, help="multiplies every filter count (1)")
    return flags.parse_args(argv)


def labelling(doc, argv=None):
    """The command line of step 2, imagenet_dummy_label.py."""
    flags = parser(doc)
    flags.add_argument("images", nargs="*", help="folders, tar or zip archives, Parquet "
                       "files, or the word rest")
    flags.add_argument("--merge", nargs="+", metavar="FOLDER",
                       help="in place of images: finished labellings, made with the same flags, "
                       "which become that of all their images")
    flags.add_argument("--teacher", default="logs/teacher",
                       help="folder of a finished training, or a .keras file (with --classes)")
    flags.add_argument("--classes", nargs="+", metavar="NAME",
                       help="what the outputs of a .keras file stand for, in order")
    either = flags.add_mutually_exclusive_group()
    either.add_argument("--threshold", type=SHARE, default=0.75,
                        help="keep what is above (0.75; the paper: 0.3)")
    either.add_argument("--keep-share", type=PROBABILITY, metavar="S",
                        help="in place of the threshold: keep this share of each class, "
                        "the most confident")
    flags.add_argument("--calibrate", action="store_true",
                       help="fit a temperature on the teacher's validation images first")
    flags.add_argument("--per-class-cap", type=COUNT, metavar="N",
                       help="keep at most N per class (the paper: 130000)")
    flags.add_argument("--max-repeats", type=COUNT, metavar="N",
                       help="use an image at most N times when small classes are filled up")
    flags.add_argument("--require-all-classes", action="store_true",
                       help="a class without a pseudo-label is an error")
    flags.add_argument("--allow-empty", action="store_true",
                       help="to keep no image at all is no error, for a labelling to be merged")
    flags.add_argument("--hard", action="store_true", help="one-hot labels in place of soft ones")
    flags.add_argument("--no-balance", action="store_true", help="do not fill small classes up")
    flags.add_argument("--truth", metavar="CSV",
                       help="path prefix, class: measures precision and recall, decides nothing")
    flags.add_argument("--data", help="where the teacher's data set is now, if it has moved; of a "
                       ".keras file, whose test images are left out")
    flags.add_argument("--workers", type=COUNT, metavar="N",
                       help="how many decode at a time (one per core); with Ray: cores of a "
                       "source, beside its GPU where there are GPUs (1)")
    add_engine(flags)
    flags.add_argument("--out", default="logs/pseudo",
                       help="folder that the labels are written to (logs/pseudo)")
    args = flags.parse_args(argv)
    if args.merge:
        chosen = [name for name, value in vars(args).items() if value != flags.get_default(name)
                  and name not in ("merge", "out", "require_all_classes", "allow_empty", "images")]
        if args.images or chosen:
            named = "images" if args.images else f"--{chosen[0].replace('_', '-')}"
            flags.error(f"--merge takes {named} from the labellings that it merges")
    elif not args.images:
        flags.error("which images? folders, archives, or the word rest")
    if argv is None:
        for source in args.images:
            if source != "rest":
                refuse_missing(images=source)
        refuse_missing(truth=args.truth)
        if args.teacher.endswith(".keras"):
            refuse_missing(teacher=args.teacher)
        elif not args.merge:
            refuse_unmade(args.teacher, "python cifar10_resnet50.py")
        onednn.choose_for_runs([args.teacher])
    return args


def survival(doc, argv=None):
    """The command line of step 3, stochastic_resblock.py."""
    flags = parser(doc)
    add_network(flags)
    add_model_noise(flags)
    flags.add_argument("--out", default="figures/survival.png",
                       help="picture that is written (figures/survival.png)")
    return parse_with_network(flags, argv)


def augment(doc, argv=None):
    """The command line of step 4, Rand_Augment.py."""
    flags = parser(doc)
    flags.add_argument("image", nargs="?", help="an image file; default: a picture drawn here")
    flags.add_argument("--out", default="figures/rand_augment.png",
                       help="picture that is written (figures/rand_augment.png)")
    return flags.parse_args(argv)


def student(doc, argv=None):
    """The command line of step 4, data_generator.py."""
    flags = parser(doc)
    flags.add_argument("--pseudo", default="logs/pseudo",
                       help="folder of step 2, or none: labelled images alone")
    flags.add_argument("--like", default=LIKE, metavar="FOLDER",
                       help="with --pseudo none: the teacher whose data, network and recipe are "
                       "taken where the command line is silent (logs/teacher; none: nobody's)")
    flags.add_argument("--labeled-share", type=number(float, 0, 1, open_low=True), metavar="S",
                       help="of each batch that is labelled images (default: as they come)")
    flags.add_argument("--noise", choices=("all", "none", "input", "model"), default="all",
                       help="input: RandAugment, flip and crop alone; model: stochastic depth and "
                       "dropout alone; all, the default: both")
    flags.add_argument("--augment-ops", type=number(int, 0), default=2, metavar="N",
                       help="RandAugment's N (2)")
    flags.add_argument("--augment-magnitude", type=number(int, 1, 10), default=10, metavar="M",
                       help="RandAugment's M (10)")
    flags.add_argument("--flip-and-crop", choices=("never", "with-noise", "always"),
                       help="default: with-noise (recipes fast and sprint), never (article)")
    add_model_noise(flags)
    add_training(flags, log_dir="logs/student")
    return parse_with_network(flags, argv)


def evaluation(doc, argv=None):
    """The command line of step 5, eval.py."""
    flags = parser(doc)
    flags.add_argument("runs", nargs="+", help="folders of finished runs, or that hold such")
    flags.add_argument("--out", default="figures",
                       help="folder that tables and pictures are written to (figures)")
    flags.add_argument("--report", metavar="HTML", help="one page with all of it")
    flags.add_argument("--no-photos", action="store_true",
                       help="leave montages of pseudo-labelled images out of the report")
    add_robustness(flags)
    flags.add_argument("--check-overlap", action="store_true",
                       help="look for near copies of test images among those trained on, too")
    args = flags.parse_args(argv)
    if argv is None:
        for folder in args.runs:
            if not os.path.exists(folder):
                sys.exit(f"error: {folder}: no folder (run.json). "
                         "Run first: python cifar10_resnet50.py")
        refuse_missing(corrupted=args.corrupted)
        onednn.choose_for_runs(args.runs)
    return args


def robustness(doc, argv=None):
    """The command line of step 6, robustness.py."""
    flags = parser(doc)
    flags.add_argument("runs", nargs="+", help="folders of finished runs, or that hold such")
    flags.add_argument("--out", default="figures")
    add_robustness(flags)
    args = flags.parse_args(argv)
    if not (args.corrupted or args.adversarial or args.shifted):
        flags.error("which test? --adversarial, --corrupted DIR or --shifted DIR")
    if argv is None:
        onednn.choose_for_runs(args.runs)
    return args


def flags_of(script):
    """The names of the flags of step 1, 2 or 4, given its script, as a run keeps them."""
    parse, least = {"cifar10_resnet50.py": (teacher, ""),
                    "imagenet_dummy_label.py": (labelling, "rest"),
                    "data_generator.py": (student, "--pseudo none --like none")}[script]
    return set(vars(parse("", least.split())))


def prediction(doc, argv=None):
    """The command line of predict.py."""
    flags = parser(doc)
    flags.add_argument("images", nargs="+", help="image files, and folders of them")
    flags.add_argument("--model", nargs="+", default=["logs/student"], metavar="FOLDER",
                       help="finished trainings, whose answers are printed one below the other "
                       "(logs/student)")
    flags.add_argument("--picture", metavar="PNG", help="draw the answers, too, side by side")
    args = flags.parse_args(argv)
    if argv is None:
        for folder in args.model:
            refuse_unmade(folder, "python data_generator.py, or cifar10_resnet50.py")
        onednn.choose_for_runs(args.model)
    return args


def experiment(doc, named, cells, argv=None):
    """The command line of experiment.py.

    Args:
        named: the names of the published experiments. cells: those of all cells.
    """
    flags = parser(doc)
    flags.add_argument("what", choices=("run", "demo", "demo_all"),
                       help="demo and demo_all stand for: run demo, run demo_all")
    flags.add_argument("name", nargs="?", choices=named, metavar="NAME",
                       help=f"a published experiment, whose flags are known: {', '.join(named)}")
    flags.add_argument("--data", help="cifar10 (the default), or what step 1 takes")
    flags.add_argument("--images", nargs="+", metavar="SOURCE", help="what step 2 labels")
    flags.add_argument("--seeds", nargs="+", type=number(int, 0), metavar="SEED",
                       help="whole numbers: each is another split, other weights and other noise, "
                       "and makes all cells once (0); one seed shows nothing about the method")
    flags.add_argument("--cells", nargs="+", choices=cells, metavar="CELL",
                       help=f"of {', '.join(cells)} (the first eight)")
    flags.add_argument("--flags", help="of every training")
    flags.add_argument("--noise-flags", help="of the cells with noise")
    flags.add_argument("--pseudo-flags", help="of the cells with pseudo-labels")
    flags.add_argument("--label-flags", help="of every labelling")
    flags.add_argument("--larger", help="flags of the larger student (default: the next --depth, "
                       "or twice the --width of the small network)")
    flags.add_argument("--eval-flags", help="of eval.py")
    flags.add_argument("--out", help="where the runs go (logs/experiment)")
    flags.add_argument("--jobs", type=COUNT, help="cells at a time (1)")
    add_engine(flags)
    flags.add_argument("--cpus-per-cell", type=COUNT, default=1, metavar="N",
                       help="with Ray: cores of a cell, beside its GPU where there are GPUs (1)")
    args = flags.parse_args(argv)
    if args.what != "run":
        args.name = args.what
    return args
