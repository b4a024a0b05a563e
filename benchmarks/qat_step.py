"""Times one quantization-aware training step of CNV (2-bit weights and activations) beside Brevitas and
float.

    python benchmarks/qat_step.py [--rounds 7] [--batch 64] [--no-compile] [--json FILE]

CNV is Brevitas' example network (6 convolutions, 3 linear layers, BatchNormalization behind each; 59.5
million multiplications per image). The contenders have the same weights and the same batch of 32x32 images:

  float       the network in plain torch, without quantizers and without any activation function in their
              place
  Brevitas    `brevitas_examples.bnn_pynq.models.CNV` (constant scales), without the normalization of its
              logits
  ours        the float network through `qt.quantize`, with the scales, widths and gradients of Brevitas

One step is zero_grad, forward, cross entropy, backward and SGD. All take turns in every round, on one
thread; CPU time of this process; ratios are taken within a round, and their medians are shown. Contiguous
and channels-last memory format are compared apart, eager and under `torch.compile`. That ours computes what
Brevitas computes is checked before: the loss and every gradient agree.
"""

from __future__ import annotations

import os

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import argparse
import copy
import json
import statistics
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from _timing import interleaved, median_ratio
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import qonnx_torch as qt

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from brevitas_examples.bnn_pynq.models import CNV

BITS = 2
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
Step = Callable[[], Tensor]


class FloatCNV(nn.Module):
    """CNV without quantizers; the modules are numbered as Brevitas numbers them."""

    def __init__(self) -> None:
        super().__init__()
        features: list[nn.Module] = [nn.Identity()]
        channels = 3
        for out, pooled in ((64, False), (64, True), (128, False), (128, True), (256, False), (256, False)):
            features += [
                nn.Conv2d(channels, out, 3, bias=False),
                nn.BatchNorm2d(out, eps=1e-4),
                nn.Identity(),
            ]
            features += [nn.MaxPool2d(2)] if pooled else []
            channels = out
        linear: list[nn.Module] = []
        for inputs in (256, 512):
            linear += [nn.Linear(inputs, 512, bias=False), nn.BatchNorm1d(512, eps=1e-4), nn.Identity()]
        self.conv_features = nn.Sequential(*features)
        self.linear_features = nn.Sequential(*linear, nn.Linear(512, 10, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, 3, 32, 32) in [0, 1] to logits (N, 10)."""
        return self.linear_features(self.conv_features(2.0 * x - 1.0).flatten(1))


def networks() -> dict[str, nn.Module]:
    """Returns the contenders, with the same weights."""
    torch.manual_seed(0)
    brevitas, plain = CNV.CNV(10, BITS, BITS, 8, 3), FloatCNV()
    brevitas.linear_features[-1] = nn.Identity()  # TensorNorm, which branches in Python by self.training
    plain.load_state_dict(brevitas.state_dict(), strict=False)
    two_bits = qt.QuantizerConfig(BITS, signed=True, narrow=True, scale=1.0)
    config = qt.QuantizationConfig(
        weights=qt.QuantizerConfig(BITS, narrow=True, scale=1.0, training=qt.QuantizerTraining("pass")),
        activations=two_bits,
        inputs=two_bits,
        rules=(
            qt.QuantizationRule(
                layers="first", activations=qt.QuantizerConfig(8, signed=True, scale=2.0**-7)
            ),
        ),
    )
    ours = qt.quantize(plain, config, args=torch.rand(2, 3, 32, 32))
    return {"float": plain, "Brevitas": brevitas, "ours": ours}


def check(models: dict[str, nn.Module], x: Tensor, y: Tensor) -> str:
    """Checks that ours and Brevitas' have the same loss and gradients; returns how close they are."""
    pair = [copy.deepcopy(models[name]).train() for name in ("ours", "Brevitas")]
    losses = [F.cross_entropy(m(x), y) for m in pair]
    for loss in losses:
        loss.backward()
    theirs = dict(pair[1].named_parameters())
    largest = 0.0
    for name, p in pair[0].named_parameters():
        q = theirs[name]
        assert p.grad is not None, name
        assert q.grad is not None, name
        largest = max(largest, ((p.grad - q.grad).norm() / q.grad.norm()).item())
    difference = abs(losses[0].item() - losses[1].item())
    assert max(difference, largest) < 1e-4, (difference, largest)
    return (
        f"before timing: loss {losses[0].item():.6f}, Brevitas' differs by {difference:.1g}; "
        f"gradients differ by at most {largest:.1g} of their norm"
    )


def step_of(
    model: nn.Module, x: Tensor, y: Tensor, memory_format: torch.memory_format, compiled: bool
) -> Step:
    """Returns one training step."""
    model = copy.deepcopy(model).train().to(memory_format=memory_format)
    x = x.to(memory_format=memory_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    call = torch.compile(model, dynamic=False) if compiled else model

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(call(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def main() -> int:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="rounds in which all contenders take turns")
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console = Console(width=max(Console().width, 120))
    models = networks()
    x, y = torch.rand(options.batch, 3, 32, 32), torch.randint(0, 10, (options.batch,))
    console.print(check(models, x, y))

    steps: dict[tuple[str, str, str], Step] = {}
    for how in ("eager",) if options.no_compile else ("eager", "compiled"):
        for layout, memory_format in FORMATS.items():
            for name, model in models.items():
                with console.status(f"{name}, {layout}, {how}: preparing"):
                    torch._dynamo.reset()
                    step = step_of(model, x, y, memory_format, how == "compiled")
                    step()
                    steps[how, layout, name] = step
    with console.status(f"{options.rounds} rounds"):
        times = interleaved(steps, options.rounds)

    table = Table(title=f"One training step of CNV 2W2A, batch {options.batch}: CPU milliseconds, one thread")
    columns = ("", "float", "Brevitas", "ours", "ours / float", "Brevitas / ours")
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    rows = []
    for how, layout in dict.fromkeys(key[:2] for key in times):
        taken = [times[how, layout, name] for name in models]
        plain, brevitas, ours = taken
        float_ratio, brevitas_ratio = median_ratio(ours, plain), median_ratio(brevitas, ours)
        medians = [1e3 * statistics.median(t) for t in taken]
        table.add_row(
            f"{how}, {layout}", *(f"{m:.0f}" for m in medians), f"{float_ratio:.2f}", f"{brevitas_ratio:.2f}"
        )
        rows.append(
            {
                "how": how,
                "layout": layout,
                "milliseconds": dict(zip(models, medians, strict=True)),
                "ours_per_float": float_ratio,
                "brevitas_per_ours": brevitas_ratio,
            }
        )
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
