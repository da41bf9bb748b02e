"""How fast is a training step, on each backend, in each precision, and against the same network in plain PyTorch?

    pip install -r requirements.txt -r benchmarks/requirements.txt     # jax, torch; those that are absent are named
    python benchmarks/training.py                                      # what the CPU or the GPU at hand can do
    python benchmarks/training.py --case "article" --backends jax torch     # some of it

On a CPU, JAX is left out: it was not done compiling the article's training step after an hour on two cores.

Measured is `fit` on one batch that is on the device already, compiled as step 1 compiles. FLOP are counted from the layers'
shapes: two for each multiplication of a convolution or matrix product, forward once and backward twice (once where the input
is the image); nothing else is counted. The yardstick is one large matrix product in PyTorch: on a GPU what can be reached, on a
CPU no ceiling (MKL, which makes the product of float32, uses AMD's processors less well than oneDNN, which makes the convolutions).

Writes results/benchmarks/training.md (on a GPU: results/benchmarks/training-gpu.md)
"""

import argparse
import itertools
import math
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
from measure import gpu_name, in_turns, spread, table, versions, write

GPU = bool(gpu_name())
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
PLAIN = "plain PyTorch"
CASES = {  # depth, width, batch sizes, steps per turn
    "the article's network": (50, 1.0, (64, 256, 512, 1024, 2048) if GPU else (16,), 20 if GPU else 2),
    "depth 14, width 1/4": (14, 0.25, (512,) if GPU else (64,), 40 if GPU else 3),
}
PRECISIONS = ("float32", "tf32", "bfloat16") if GPU else ("float32", "bfloat16")


def one_batch(batch):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8), np.eye(10, dtype=np.float32)[rng.integers(0, 10, batch)]


def with_keras(depth, width, batch, steps, backend, precision, jit=None, steps_per_execution=1):
    """Trains on one constant batch. jit: None, as step 1 decides."""
    os.environ["KERAS_BACKEND"] = backend
    import cifar10_resnet50 as step1
    import keras

    step1.prepare_backend(0)
    allow_tf32(backend, precision == "tf32")
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    model = step1.build_resnet(depth, width)
    step1.compile_model(model, step1.RECIPES["fast"], learning_rate=1e-3, steps=100_000)
    model.steps_per_execution = steps_per_execution
    model.jit_compile = model.jit_compile if jit is None else jit
    constant = tuple(map(keras.ops.convert_to_tensor, one_batch(batch)))
    batches = step1.feed(lambda: itertools.repeat(constant), batch)

    def work():
        model.fit(batches, steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0)
        return steps * batch
    return work


def allow_tf32(backend, allow):
    """Whether float32 products on the GPU may round their inputs to 19 bits (10 of mantissa), as tensor cores want."""
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
    """The article's network and AdamW in PyTorch alone: channels last, autocast, compiled where that is asked for."""
    import torch
    from torch import nn

    os.environ["KERAS_BACKEND"] = "torch"
    from cifar10_resnet50 import BLOCKS_PER_STAGE, STAGES, STEM_FILTERS

    def conv(inside, outside, kernel, stride=1):
        return [nn.Conv2d(inside, outside, kernel, stride, kernel // 2), nn.BatchNorm2d(outside)]

    class Block(nn.Module):
        def __init__(self, inside, filters, stride):
            super().__init__()
            self.residual = nn.Sequential(*conv(inside, filters, 1), nn.ReLU(True), *conv(filters, filters, 3), nn.ReLU(True),
                                          *conv(filters, 4 * filters, 1, stride))
            same = stride == 1 and inside == 4 * filters
            self.shortcut = nn.Identity() if same else nn.Sequential(*conv(inside, 4 * filters, 1, stride))

        def forward(self, x):
            return torch.relu(self.shortcut(x) + self.residual(x))

    parts, inside = [*conv(3, round(STEM_FILTERS * width), 5), nn.ReLU(True)], round(STEM_FILTERS * width)
    for (filters, stride), blocks in zip(STAGES, BLOCKS_PER_STAGE[depth]):
        filters = round(filters * width)
        for i in range(blocks):
            parts.append(Block(inside, filters, stride if i == 0 else 1))
            inside = 4 * filters
    device = "cuda" if torch.cuda.is_available() else "cpu"
    allow_tf32("torch", precision == "tf32")
    torch.backends.cudnn.benchmark = True
    model = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10)).to(device, memory_format=torch.channels_last)
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.02, fused=True)
    x, t = (torch.from_numpy(array).to(device) for array in one_batch(batch))

    def work():
        for _ in range(steps):
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
                images = (x.permute(0, 3, 1, 2) / 255).contiguous(memory_format=torch.channels_last)
                loss = nn.functional.cross_entropy(forward(images), t)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss.item()  # waits for the device
        return steps * batch
    return work


def matrix_product(precision):
    """FLOP per second, in units of 1e12, of one large matrix product."""
    import torch

    device, dtype = "cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16 if precision == "bfloat16" else torch.float32
    allow_tf32("torch", precision == "tf32")
    side = 8192 if device == "cuda" else 2048
    a, b = torch.randn(2, side, side, device=device).to(dtype)

    def work():
        for _ in range(10):
            product = a @ b
        product[0, 0].item()
        return 10 * 2 * side**3 / 1e12
    return work


def training_flops(depth, width):
    """FLOP of one training step for one image, counted from the layers' shapes."""
    import cifar10_resnet50 as step1
    import keras

    total = 0
    for layer in step1.build_resnet(depth, width).layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            forward = 2 * math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
            total += forward * (2 if layer.name == "stem_conv" else 3)
    return total


def contenders_of(case, backends):
    """{name: (prepare, *arguments)} of one case."""
    depth, width, batch_sizes, steps = CASES[case]
    contenders = {}
    if not GPU:  # XLA was not done compiling after an hour
        backends = [backend for backend in backends if backend != "jax"]
    for batch in batch_sizes:
        for precision in PRECISIONS:
            for backend in backends:
                if backend in BACKENDS:
                    contenders[BACKENDS[backend], precision, batch, ""] = with_keras, depth, width, batch, steps, backend, precision
            if PLAIN in backends:
                contenders[PLAIN, precision, batch, ""] = plain_torch, depth, width, batch, steps, precision, False
                if GPU:
                    contenders[PLAIN, precision, batch, "compiled"] = plain_torch, depth, width, batch, steps, precision, True
    if (depth, width) != (50, 1.0) or GPU:
        best, batch = ("bfloat16" if GPU else "float32"), batch_sizes[len(batch_sizes) // 2]
        for backend in sorted({*backends} & {"tensorflow", "jax"}):
            settings = depth, width, batch, steps, backend, best
            contenders[BACKENDS[backend], best, batch, "8 steps per execution"] = with_keras, *settings, None, 8
        if "tensorflow" in backends:
            contenders["TensorFlow", best, batch, "without jit" if GPU else "jit"] = with_keras, depth, width, batch, steps, "tensorflow", best, not GPU
    return contenders


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", help=f"only cases whose name holds this: {', '.join(CASES)}")
    parser.add_argument("--backends", nargs="+", choices=(*BACKENDS, PLAIN), default=(*BACKENDS, PLAIN))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)

    peaks, no_peak = in_turns({precision: (matrix_product, precision) for precision in PRECISIONS}, args.rounds, 0.5)
    parts = ["FLOP/s of a large matrix product, in units of 10^12: " + ", ".join(
        f"{precision} {spread(peaks[precision]) if precision in peaks else f'absent ({no_peak[precision]})'}" for precision in PRECISIONS) + "."]
    for case in (case for case in CASES if args.case in case):
        depth, width, batch_sizes, _ = CASES[case]
        flops, rows = training_flops(depth, width), []
        contenders = contenders_of(case, args.backends)
        rates, absent = {}, {}
        for batch in batch_sizes:  # not all at once: each holds its own network on the device
            some, why = in_turns({name: contender for name, contender in contenders.items() if name[2] == batch}, args.rounds, seconds=0)
            rates, absent = rates | some, absent | why
        for name in contenders:
            backend, precision, batch, setting = name
            if name in absent:
                rows.append([backend, precision, batch, setting, f"absent: {absent[name]}", "", ""])
                continue
            share = f"{100 * np.median(rates[name]) * flops / 1e12 / np.median(peaks[precision]):.0f} %" if precision in peaks else ""
            rows.append([backend, precision, batch, setting, spread(rates[name]), f"{np.median(rates[name]) * flops / 1e12:.3g}", share])
        parts += [f"## {case[0].upper()}{case[1:]}", f"{flops / 1e9:.2f} GFLOP per image. Images per second: median (range) of {args.rounds} "
                  "rounds in turns.", table(["", "precision", "batch", "", "images/s", "10^12 FLOP/s", "of the matrix product's"], rows)]
    write("training-gpu" if GPU else "training", "A training step", *parts, versions("keras", "tensorflow-cpu", "tensorflow", "jax", "torch", "numpy"))


if __name__ == "__main__":
    main()
