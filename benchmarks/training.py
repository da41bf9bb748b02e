"""How fast is a training step on each backend, against the same network in plain PyTorch?

    pip install -e '.[cpu]' -r benchmarks/requirements.txt     # jax, torch
    python benchmarks/training.py                     # what the CPU or the GPU at hand can do
    python benchmarks/training.py --case "article" --backends jax torch     # some of it

What is not installed is named as absent. On a CPU, JAX is left out: it was not done compiling the
article's training step after an hour on two cores.

Measured is `fit` on one batch that is on the device already, compiled as step 1 compiles, in each
precision. FLOP are counted from the layers' shapes: two for each multiplication of a convolution or
matrix product, forward once and backward twice (once where the input is the image); nothing else is
counted. The yardstick is one large matrix product in PyTorch: on a GPU what can be reached, on a
CPU no ceiling (MKL, which makes the product of float32, uses AMD's processors less well than
oneDNN, which makes the convolutions).

Writes results/benchmarks/training.md (on a GPU: results/benchmarks/training-gpu.md)
"""

import argparse
import itertools
import math
import os
from dataclasses import replace

import numpy as np
from measure import gpu_name, in_turns, spread, table, versions, write

from noisy_student.arguments import BACKENDS

GPU = bool(gpu_name())
PLAIN = "plain PyTorch"
# Depth, width, batch sizes, steps per turn.
CASES = {
    "the article's network": (50, 1.0, (64, 256, 512, 1024, 2048), 20),
    "depth 14, width 1/4": (14, 0.25, (512,), 40),
} if GPU else {
    "the article's network": (50, 1.0, (16,), 2),
    "depth 14, width 1/4": (14, 0.25, (64,), 3),
}
PRECISIONS = ("float32", "tf32", "bfloat16") if GPU else ("float32", "bfloat16")


def one_batch(batch):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
    return x, np.eye(10, dtype=np.float32)[rng.integers(0, 10, batch)]


def with_keras(depth, width, batch, steps, name, precision, jit=None, steps_per_execution=1,
               onednn=None):
    """Trains on one constant batch. jit, onednn: None, as step 1 and TensorFlow decide."""
    os.environ["KERAS_BACKEND"] = name
    if onednn is not None:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(onednn))
    import keras

    from cifar10_resnet50 import RECIPES, build_resnet, optimizer_and_schedule
    from noisy_student import backend

    backend.prepare(0)
    allow_tf32(name, precision == "tf32")
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    model = build_resnet(depth, width)
    recipe = replace(RECIPES["fast"], learning_rate=1e-3, epochs=1000, steps_per_epoch=100)
    model.compile(optimizer_and_schedule(model, recipe)[0], "categorical_crossentropy",
                  metrics=["accuracy"], steps_per_execution=steps_per_execution,
                  jit_compile=backend.jit_compile() if jit is None else jit)
    constant = tuple(map(keras.ops.convert_to_tensor, one_batch(batch)))
    batches = backend.feed(lambda: itertools.repeat(constant), batch)

    def work():
        model.fit(batches, steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0)
        return steps * batch
    return work


def allow_tf32(backend, allow):
    """Whether float32 products on the GPU may round their inputs to 19 bits (10 of mantissa).

    Tensor cores want them so.
    """
    if backend == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_tensor_float_32_execution(allow)
    elif backend == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "tensorfloat32" if allow else "highest")
    else:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allow


def plain_torch(depth, width, batch, steps, precision, compiled):
    """The article's network and AdamW in PyTorch alone: channels last, autocast."""
    import torch
    from torch import nn

    os.environ["KERAS_BACKEND"] = "torch"
    from cifar10_resnet50 import BLOCKS, STAGES, STEM_FILTERS

    def conv(inside, outside, kernel, stride=1):
        return [nn.Conv2d(inside, outside, kernel, stride, kernel // 2), nn.BatchNorm2d(outside)]

    class Block(nn.Module):
        def __init__(self, inside, filters, stride):
            super().__init__()
            self.residual = nn.Sequential(
                *conv(inside, filters, 1), nn.ReLU(True), *conv(filters, filters, 3), nn.ReLU(True),
                *conv(filters, 4 * filters, 1, stride))
            self.shortcut = nn.Identity()
            if stride != 1 or inside != 4 * filters:
                self.shortcut = nn.Sequential(*conv(inside, 4 * filters, 1, stride))

        def forward(self, x):
            return torch.relu(self.shortcut(x) + self.residual(x))

    inside = round(STEM_FILTERS * width)
    parts = [*conv(3, inside, 5), nn.ReLU(True)]
    for (filters, stride), blocks in zip(STAGES, BLOCKS[depth]):
        filters = round(filters * width)
        for i in range(blocks):
            parts.append(Block(inside, filters, stride if i == 0 else 1))
            inside = 4 * filters
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10)]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    allow_tf32("torch", precision == "tf32")
    torch.backends.cudnn.benchmark = True
    model = nn.Sequential(*parts).to(device, memory_format=torch.channels_last)
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.02, fused=True)
    x, t = (torch.from_numpy(array).to(device) for array in one_batch(batch))

    def work():
        for _ in range(steps):
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
                images = x.permute(0, 3, 1, 2) / 255
                images = images.contiguous(memory_format=torch.channels_last)
                loss = nn.functional.cross_entropy(forward(images), t)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        # Waits for the device.
        loss.item()
        return steps * batch
    return work


def matrix_product(precision):
    """FLOP per second, in units of 1e12, of one large matrix product."""
    import torch

    device, side = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 2048)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    allow_tf32("torch", precision == "tf32")
    a, b = torch.randn(2, side, side, device=device).to(dtype)

    def work():
        for _ in range(10):
            product = a @ b
        product[0, 0].item()
        return 10 * 2 * side**3 / 1e12
    return work


def training_flops(depth, width):
    """FLOP of one training step for one image, counted from the layers' shapes."""
    import keras

    from cifar10_resnet50 import build_resnet

    total = 0
    for layer in build_resnet(depth, width).layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            forward = 2 * math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
            total += forward * (2 if layer.name == "stem_conv" else 3)
    return total


def contenders_of(case, backends):
    """{(who, precision, batch, setting): (prepare, *arguments)} of one case."""
    depth, width, batch_sizes, steps = CASES[case]
    contenders = {}
    if not GPU:
        # XLA was not done compiling after an hour.
        backends = [backend for backend in backends if backend != "jax"]
    for batch in batch_sizes:
        network = depth, width, batch, steps
        for precision in PRECISIONS:
            for backend in backends:
                if backend in BACKENDS:
                    name = BACKENDS[backend], precision, batch, ""
                    contenders[name] = with_keras, *network, backend, precision
            if PLAIN in backends:
                for setting in ("", "compiled") if GPU else ("",):
                    name = PLAIN, precision, batch, setting
                    contenders[name] = plain_torch, *network, precision, bool(setting)
    if (depth, width) != (50, 1.0) or GPU:
        best, batch = "bfloat16" if GPU else "float32", batch_sizes[len(batch_sizes) // 2]
        network = depth, width, batch, steps
        for backend in sorted({*backends} & {"tensorflow", "jax"}):
            name = BACKENDS[backend], best, batch, "8 steps per execution"
            contenders[name] = with_keras, *network, backend, best, None, 8
        if "tensorflow" in backends:
            name = "TensorFlow", best, batch, "without jit" if GPU else "jit"
            contenders[name] = with_keras, *network, "tensorflow", best, not GPU
        if "tensorflow" in backends and not GPU:
            for setting, onednn in (("oneDNN", True), ("without oneDNN", False)):
                name = "TensorFlow", best, batch, setting
                contenders[name] = with_keras, *network, "tensorflow", best, None, 1, onednn
    return contenders


def measured(case, backends, rounds, peaks):
    """The parts of the page that are about one case. peaks: {precision: 1e12 FLOP/s}."""
    depth, width, batch_sizes, _ = CASES[case]
    flops, contenders = training_flops(depth, width), contenders_of(case, backends)
    rates, absent, rows = {}, {}, []
    for batch in batch_sizes:
        # Not all at once: each holds its own network on the device.
        some = {name: contender for name, contender in contenders.items() if name[2] == batch}
        fresh, why = in_turns(some, rounds, seconds=0)
        rates, absent = rates | fresh, absent | why
    for name in contenders:
        if name in absent:
            rows.append([*name, f"absent: {absent[name]}", "", ""])
            continue
        speed, precision = np.median(rates[name]) * flops / 1e12, name[1]
        share = ""
        if precision in peaks:
            share = f"{100 * speed / np.median(peaks[precision]):.0f} %"
        rows.append([*name, spread(rates[name]), f"{speed:.3g}", share])
    return [f"## {case[0].upper()}{case[1:]}",
            f"{flops / 1e9:.2f} GFLOP per image. Images per second: median (range) of {rounds} "
            "rounds in turns.",
            table(["", "precision", "batch", "", "images/s", "10^12 FLOP/s",
                   "of the matrix product's"], rows)]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="",
                        help=f"only cases whose name holds this: {', '.join(CASES)}")
    parser.add_argument("--backends", nargs="+", choices=(*BACKENDS, PLAIN),
                        default=(*BACKENDS, PLAIN))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)

    products = {precision: (matrix_product, precision) for precision in PRECISIONS}
    peaks, no_peak = in_turns(products, args.rounds, 0.5)
    said = [f"{precision} {spread(peaks[precision])}" if precision in peaks
            else f"{precision} absent ({no_peak[precision]})" for precision in PRECISIONS]
    parts = [f"FLOP/s of a large matrix product, in units of 10^12: {', '.join(said)}."]
    for case in CASES:
        if args.case in case:
            parts += measured(case, args.backends, args.rounds, peaks)
    write("training-gpu" if GPU else "training", "A training step", *parts,
          versions("keras", "tensorflow-cpu", "tensorflow", "jax", "torch", "numpy"))


if __name__ == "__main__":
    main()
