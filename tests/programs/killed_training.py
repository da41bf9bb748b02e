"""Step 1 or 4, killed at an epoch's end: python killed_training.py STEP EPOCH SHARE FLAGS

The line of that epoch is in history.csv then, and its weights are not yet kept.

STEP    teacher or student
EPOCH   of the kill; 0: none
SHARE   of the epochs, in the first phase of the article's recipe
"""

import os
import signal
import sys

import cifar10_resnet50
import data_generator
from noisy_student import arguments
from noisy_student.training import Keeper

step, last, share, *words = sys.argv[1:]
backup = Keeper.backup


def die_or_backup(keeper):
    if len(keeper.history) == int(last):
        os.kill(os.getpid(), signal.SIGKILL)
    backup(keeper)


Keeper.backup = die_or_backup
cifar10_resnet50.CONSTANT_SHARE = float(share)
if step == "teacher":
    cifar10_resnet50.main(arguments.teacher("", words))
else:
    data_generator.main(arguments.student("", words))
