"""How fast is a training step on each backend, against the same network in plain PyTorch?

    pip install -e '.[cpu]' -r benchmarks/requirements.txt     # jax, torch
    python benchmarks/training.py                     # what the CPU or the GPU at hand can do
    python benchmarks/training.py --case "article" --backends jax torch     # some of it

What is not installed is named as absent. On a CPU, JAX is left out: it was not done compiling the
article's training step after an hour on two cores.

Measured is `fit` on one batch that is on the device already, compiled as step 1 compiles, with
oneDNN where step 1 chooses it, in each precision that the device has. FLOP are counted from the
layers' shapes: two for each multiplication of a convolution or matrix product, forward once and
backward twice (once where nothing learns before it, not at all where it does not learn either);
nothing else is counted. The yardstick is one large matrix product in PyTorch: on a GPU what can be
reached, on a CPU no ceiling (MKL, which makes the product of float32, uses AMD's processors less
well than oneDNN, which makes the convolutions).

Writes results/benchmarks/training.md (on a GPU: results/benchmarks/training-gpu.md)
"""

import argparse
import itertools
import math
import os
import pathlib
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from measure import gpu_name, in_turns, spread, table, versions, write

from noisy_student import onednn as kernels
from noisy_student.arguments import BACKENDS

GPU = bool(gpu_name())
PLAIN = "plain PyTorch"


class Network(NamedTuple):
    """kind, width, depth: as step 1's --network, --width and --depth."""

    kind: str
    width: float = 1.0
    depth: int = 50

    def build(self):
        """As step 1 builds it, in Keras."""
        from cifar10_resnet50 import build_resnet
        from small_network import build_small, whiten

        if self.kind != "small":
            return build_resnet(self.depth, self.width)
        model = build_small(self.width)
        whiten(model, one_batch(64)[0])
        return model

    def recipe(self):
        """Whose optimizer trains it, for as long as anybody wants to measure."""
        from cifar10_resnet50 import RECIPES

        if self.kind == "small":
            return replace(RECIPES["sprint"], epochs=1000, steps_per_epoch=100)
        return replace(RECIPES["fast"], learning_rate=1e-3, epochs=1000, steps_per_epoch=100)


# Network, batch sizes, steps per turn.
CASES = {
    "the article's network": (Network("resnet"), (64, 256, 512, 1024, 2048), 20),
    "depth 14, width 1/4": (Network("resnet", 0.25, 14), (512,), 40),
    "the small network": (Network("small"), (64, 256, 512, 1024, 2048), 100),
} if GPU else {
    "the article's network": (Network("resnet"), (16,), 2),
    "depth 14, width 1/4": (Network("resnet", 0.25, 14), (64,), 3),
    "the small network": (Network("small"), (512,), 1),
}


def processor_has_bfloat16():
    """Whether Linux names such instructions. Without them, a step takes minutes."""
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


PRECISIONS = ("float32", "tf32", "bfloat16") if GPU else (
    ("float32", "bfloat16") if processor_has_bfloat16() else ("float32",))


def one_batch(batch):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
    return x, np.eye(10, dtype=np.float32)[rng.integers(0, 10, batch)]


def with_keras(network, batch, steps, name, precision, jit=None, steps_per_execution=1,
               onednn=None, fused=True):
    """Trains on one constant batch.

    Args:
        jit, onednn: None, as step 1 and its choice of kernels decide.
        fused: False normalizes batches as Keras' own layer does, in five operations and more.
    """
    os.environ["KERAS_BACKEND"] = name
    # So that contenders can share a GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if onednn is not None:
        os.environ[kernels.VARIABLE] = str(int(onednn))
    kernels.choose(network.kind, network.width)
    import keras

    from cifar10_resnet50 import optimizer_and_schedule
    from noisy_student import backend, normalization

    backend.prepare(0)
    allow_tf32(name, precision == "tf32")
    if not fused:
        normalization.normalize_batch = backend.normalize_by_operations
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    model = network.build()
    model.compile(optimizer_and_schedule(model, network.recipe())[0], "categorical_crossentropy",
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


def plain_torch(network, batch, steps, precision, compiled):
    """The same network and optimizer in PyTorch alone: channels last, autocast."""
    import torch
    from torch import nn

    os.environ["KERAS_BACKEND"] = "torch"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    allow_tf32("torch", precision == "tf32")
    torch.backends.cudnn.benchmark = True
    if network.kind == "small":
        model = small_in_torch(network, one_batch(64)[0])
    else:
        model = resnet_in_torch(network)
    model.to(device, memory_format=torch.channels_last)
    forward = torch.compile(model) if compiled else model
    optimizer = optimizer_in_torch(model, network)
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


def resnet_in_torch(network):
    """cifar10_resnet50.py's network: (batch, 3, 32, 32), 0..1 -> logits (batch, 10)."""
    import torch
    from torch import nn

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

    inside = round(STEM_FILTERS * network.width)
    parts = [*conv(3, inside, 5), nn.ReLU(True)]
    for (filters, stride), blocks in zip(STAGES, BLOCKS[network.depth]):
        filters = round(filters * network.width)
        for i in range(blocks):
            parts.append(Block(inside, filters, stride if i == 0 else 1))
            inside = 4 * filters
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10))


def small_in_torch(network, images):
    """small_network.py's network: (batch, 3, 32, 32), 0..1 -> logits (batch, 10).

    images: uint8 (N, 32, 32, 3), what its first layer is whitened for.
    """
    import torch
    from torch import nn

    from small_network import GROUPS, LOGIT_SCALE, PATCH, principal_components

    def conv(inside, outside):
        layer = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        nn.init.dirac_(layer.weight[:inside])
        return layer

    def norm(filters):
        # Its bias is fast by its learning rate: see optimizer_in_torch.
        layer = nn.BatchNorm2d(filters, eps=1e-5)
        layer.weight.requires_grad = False
        return layer

    class Group(nn.Module):
        def __init__(self, inside, filters):
            super().__init__()
            self.begin = nn.Sequential(conv(inside, filters), nn.MaxPool2d(2), norm(filters),
                                       nn.GELU())
            self.residual = nn.Sequential(conv(filters, filters), norm(filters), nn.GELU(),
                                          conv(filters, filters), norm(filters))

        def forward(self, x):
            x = self.begin(x)
            return nn.functional.gelu(x + self.residual(x))

    components, mean = principal_components(images)
    kernel = np.concatenate([components, -components], axis=3)
    whiten = nn.Conv2d(3, kernel.shape[3], PATCH)
    whiten.weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    whiten.bias.data = torch.from_numpy(-np.tensordot(mean, kernel, axes=3)).float()
    whiten.requires_grad_(False)
    filters = [round(network.width * full) for full in GROUPS]
    classifier = nn.Linear(filters[-1], 10, bias=False)
    # As Keras' own layer begins.
    nn.init.xavier_uniform_(classifier.weight)

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                whiten, nn.GELU(), *map(Group, (kernel.shape[3], *filters), filters),
                nn.MaxPool2d(3), nn.Flatten(), classifier)

        def forward(self, x):
            return self.body(x) / LOGIT_SCALE

    return Small()


def optimizer_in_torch(model, network):
    """What network.recipe() trains with; the first step's rate is that of all."""
    import torch

    from small_network import BIAS_FACTOR

    recipe, parameters = network.recipe(), [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, recipe.learning_rate, fused=True,
                                 weight_decay=recipe.weight_decay)
    # PyTorch lets the momentum carry what it shrinks. Biases are not shrunk, but are fast.
    decay = recipe.weight_decay * (1 - recipe.momentum)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim == 1],
         "lr": recipe.learning_rate * BIAS_FACTOR**2}]
    return torch.optim.SGD(groups, recipe.learning_rate, recipe.momentum, nesterov=True, fused=True)


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


def training_flops(network):
    """FLOP of one training step for one image, of a Network."""
    return flops_of(network.build())


def flops_of(model):
    """FLOP of one training step for one image, counted from the shapes of a model's layers."""
    total, learns = 0, False
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            forward = 2 * math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
            # Forward, for its own weights, and for those of the layers before it.
            total += forward * (1 + layer.trainable + learns)
            learns |= layer.trainable
    return total


def contenders_of(case, backends):
    """{(who, precision, batch, setting): (prepare, *arguments)} of one case."""
    network, batch_sizes, steps = CASES[case]
    contenders = {}
    if not GPU:
        # XLA was not done compiling after an hour.
        backends = [backend for backend in backends if backend != "jax"]
    for batch in batch_sizes:
        for precision in PRECISIONS:
            for backend in backends:
                if backend in BACKENDS:
                    name = BACKENDS[backend], precision, batch, ""
                    contenders[name] = with_keras, network, batch, steps, backend, precision
            if PLAIN in backends:
                for setting in ("", "compiled") if GPU else ("",):
                    name = PLAIN, precision, batch, setting
                    contenders[name] = (plain_torch, network, batch, steps, precision,
                                        bool(setting))
    best, batch = "bfloat16" if GPU else "float32", batch_sizes[len(batch_sizes) // 2]
    for backend, settings in settings_of(network).items():
        for setting, chosen in settings.items() if backend in backends else ():
            # The arguments of with_keras from jit on.
            words = {"jit": None, "steps_per_execution": 1, "onednn": None, "fused": True} | chosen
            name = BACKENDS[backend], best, batch, setting
            contenders[name] = (with_keras, network, batch, steps, backend, best, *words.values())
    return contenders


def settings_of(network):
    """{backend: {setting: arguments of with_keras}}, other than those that step 1 chooses."""
    own_layer, more_steps = {"Keras' own batch norm": {"fused": False}}, {
        "8 steps per execution": {"steps_per_execution": 8}}
    if GPU:
        return {"jax": more_steps, "torch": own_layer,
                "tensorflow": {**more_steps, **own_layer, "without jit": {"jit": False}}}
    settings = {"torch": own_layer,
                "tensorflow": {**own_layer, "without oneDNN": {"onednn": False}}}
    if network != Network("resnet"):
        # Which XLA compiles for too long, and of which 8 steps take a minute.
        settings["tensorflow"] |= {**more_steps, "jit": {"jit": True}}
    return settings


def measured(case, backends, rounds, peaks):
    """The parts of the page that are about one case. peaks: {precision: 1e12 FLOP/s}."""
    network, batch_sizes, _ = CASES[case]
    flops, contenders = training_flops(network), contenders_of(case, backends)
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
