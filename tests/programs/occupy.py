"""Keeps the folder that is named, and waits to be killed."""

import pathlib
import sys

from noisy_student.files import occupy

folder = pathlib.Path(sys.argv[1])
occupy(folder)
print("has it", flush=True)
sys.stdin.read()
