"""What do trained networks say about a picture, and how sure are they?

    python predict.py photo.jpg                                     # the student's answer
    python predict.py photos/ *.png --model logs/teacher logs/student    # one below the other
    python predict.py photo.jpg --picture answers.png               # drawn, too

Reads   finished trainings (steps 1 and 4); image files of any size, format and mode, and folders
        of them
"""

from noisy_student import arguments

if __name__ == "__main__":
    # Before Keras is imported, which takes seconds.
    args = arguments.prediction(__doc__)

import os

import numpy as np

# A student's layers must be known to load it.
import stochastic_resblock  # noqa: F401
from noisy_student import backend, runs
from noisy_student.files import UserError, run_script
from noisy_student.formats import visible_files
from noisy_student.images import read_image
from noisy_student.training import predict

# Classes that are named for each picture.
MOST = 3


def main(args):
    backend.prepare(0)
    made_by = "python data_generator.py, or cifar10_resnet50.py"
    networks = [runs.trained(folder, made_by) for folder in args.model]
    # {path: pixels} of what can be read; {path: why not, or None} of every file, in order.
    images, reasons = {}, {}
    for path in files_of(args.images):
        # A file that cannot be read costs its own answer alone, but the exit status tells of it.
        try:
            images[path], reasons[path] = read_image(path), None
        except UserError as error:
            reasons[path] = f"left out: {error}"
    if not reasons:
        raise UserError(f"{', '.join(args.images)}: no image there")
    x = np.stack(list(images.values())) if images else None
    answers = [dict(zip(images, predict(run.model(), x))) if images else {} for run in networks]
    rows = []
    for path, reason in reasons.items():
        if reason:
            print(f"{path}: {reason}")
            continue
        best = [(run.folder, likeliest(of_run[path], run.results["class_names"]))
                for run, of_run in zip(networks, answers)]
        for folder, classes in best:
            # Whose answer it is goes without saying where one network is asked.
            who = f"{folder}: " if len(networks) > 1 else ""
            print(f"{path}: {who}{', '.join(f'{name} {p:.1f} %' for name, p in classes)}")
        rows.append((os.path.basename(path), images[path], best))
    if args.picture and rows:
        from noisy_student import figures

        print(f"picture: {figures.answers(rows, args.picture)}")
    return int(any(reasons.values()))


def files_of(paths):
    """Image files as they are, and of folders every file below them that is not hidden."""
    for path in paths:
        if os.path.isdir(path):
            yield from map(str, visible_files(path))
        else:
            yield path


def likeliest(probabilities, class_names):
    """[(class, probability in %)], the most probable first."""
    best = np.argsort(-probabilities)[:MOST]
    return [(class_names[c], 100 * probabilities[c]) for c in best]


if __name__ == "__main__":
    run_script(main, args)
