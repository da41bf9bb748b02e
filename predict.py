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
    images = []
    for path in args.images:
        try:
            images.append(read_image(path))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    class_names = run.results["class_names"]
    for path, probabilities in zip(args.images, predict(run.model(), np.stack(images))):
        best = np.argsort(-probabilities)[:MOST]
        said = ", ".join(f"{class_names[c]} {100 * probabilities[c]:.1f} %" for c in best)
        print(f"{path}: {said}")


if __name__ == "__main__":
    run_script(main, args)
