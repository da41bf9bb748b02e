"""Trains its share of each batch as one process of several: prints a loss per epoch.

    python two_processes.py PROCESSES PROCESS PORT
"""

import sys

import keras
import numpy as np

import cifar10_resnet50 as step1
from noisy_student import arguments, backend
from noisy_student.batches import made_ahead, shuffled

processes, process, port = map(int, sys.argv[1:])
if processes > 1:
    keras.distribution.initialize(f"localhost:{port}", processes, process)
backend.prepare(0)
# The shortest network that has every kind of layer.
step1.BLOCKS[5] = (1, 0, 0, 0)
rng = np.random.default_rng(0)
x = rng.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
t = np.eye(10, dtype=np.float32)[rng.integers(0, 10, 64)]
words = "--recipe fast --epochs 3 --steps-per-epoch 4 --learning-rate 1e-3".split()
mine = slice(process * 16 // processes, (process + 1) * 16 // processes)
batches = ((x[rows[mine]], t[rows[mine]]) for _, rows in shuffled(np.arange(64), 16))
with backend.on_hardware("float32", "all", 16):
    model = step1.build_resnet(5, 0.125)
    optimizer, _ = step1.optimizer_and_schedule(model, arguments.teacher("", words))
    model.compile(optimizer, "categorical_crossentropy", jit_compile=backend.jit_compile())
    fit = model.fit(made_ahead(batches), steps_per_epoch=4, epochs=3, shuffle=False, verbose=0)
print(*fit.history["loss"])
