"""What does a trained network say about a picture, and how sure is it?

    python predict.py photo.jpg --model logs/student
    python predict.py *.png --model logs/teacher

Reads   a finished training (steps 1 and 4) and image files of any size, format and mode
"""

from noisy_student import arguments

if __name__ == "__main__":
    # Before Keras is imported, which takes seconds.
    args = arguments.prediction(__doc__)

import numpy as np

# A student's layers must be known to load it.
import stochastic_resblock  # noqa: F401
from noisy_student import backend, runs
from noisy_student.files import UserError, run_script
from noisy_student.images import read_image
from noisy_student.training import predict

# Classes that are named for each picture.
MOST = 3


def main(args):
    backend.prepare(0)
    run = runs.trained(args.model, "python data_generator.py, or cifar10_resnet50.py")
    images, reasons = [], {}
    for path in args.images:
        try:
            images.append(read_image(path))
        except UserError as error:
            reasons[path] = f"left out: {error}"
    answers = iter(predict(run.model(), np.stack(images)) if images else ())
    for path in args.images:
        print(f"{path}: {reasons.get(path) or in_words(next(answers), run.results['class_names'])}")
    # A file that cannot be read costs its own answer alone, but the exit status tells of it.
    return int(bool(reasons))


def in_words(probabilities, class_names):
    best = np.argsort(-probabilities)[:MOST]
    return ", ".join(f"{class_names[c]} {100 * probabilities[c]:.1f} %" for c in best)


if __name__ == "__main__":
    run_script(main, args)
