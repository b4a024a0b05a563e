"""Times one quantizer over a large activation, forward and with its gradient, beside its peers.

    python benchmarks/quantizer_speed.py [--rounds 9] [--quick] [--no-compile] [--json FILE]

x has the shape 64x256x32x32 (16.8 million float32; --quick: 8x64x32x32), 4 signed bits, one scale.

  clone, x * 1       what just moving the data costs, the yardsticks of the forward and of the backward
  ours               `qonnx_torch.ops.quant`, with each of the gradients
  Brevitas           `IntQuant` with TensorClamp, whose gradient is our `ste`; without the modules around it
                     that make the scale and the bit width, so at its fastest
  fake_quantize      `torch.fake_quantize_per_tensor_affine`, which learns nothing and multiplies by 1 / scale
  learnable          `torch._fake_quantize_learnable_per_tensor_affine`, which always computes all gradients

Per contender the forward (under no_grad) and forward + backward, with the scale frozen and learned, eager and
under `torch.compile`. All take turns in every round, on one thread; CPU time of this process; a ratio is
taken within a round, and the medians over the rounds are shown.
"""

from __future__ import annotations

import os

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import argparse
import json
import platform
import statistics
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _timing import interleaved, median_ratio
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from qonnx_torch import ops

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from brevitas.core.function_wrapper import TensorClamp
    from brevitas.core.quant import IntQuant

BITS, SCALE = 4.0, 0.1
MODES = ("forward", "frozen", "learned")
Quantizer = Callable[[Tensor, Tensor], Tensor]


def contenders() -> dict[str, Quantizer]:
    """Returns the quantizers by name, as functions of x and scale."""
    zero, bits = torch.tensor(0.0), torch.tensor(BITS)
    low, high = -int(2 ** (BITS - 1)), int(2 ** (BITS - 1)) - 1
    brevitas = IntQuant(
        narrow_range=False, signed=True, input_view_impl=nn.Identity(), tensor_clamp_impl=TensorClamp()
    )

    def ours(gradient: str) -> Quantizer:
        return lambda x, s: ops.quant(x, s, zero, bits, signed=True, one_bit=False, gradient=gradient)

    return {
        **{f"ours, {name}": ours(name) for name in ops.GRADIENTS},
        "Brevitas IntQuant": lambda x, s: brevitas(s, zero, bits, x),
        "fake_quantize": lambda x, s: torch.fake_quantize_per_tensor_affine(x, SCALE, 0, low, high),
        "learnable": lambda x, s: torch._fake_quantize_learnable_per_tensor_affine(
            x, s.reshape(1), zero.reshape(1), low, high, 1.0
        ),
    }


def run_of(quantizer: Quantizer, mode: str, x: Tensor, grad: Tensor) -> Callable[[], Any]:
    """Returns what is timed: the forward, or forward and backward with a frozen or a learned scale."""
    scale = torch.tensor(SCALE, requires_grad=mode == "learned")

    def forward() -> Tensor:
        with torch.no_grad():
            return quantizer(x, scale)

    def forward_and_backward() -> None:
        x.grad = None
        quantizer(x, scale).backward(grad)

    return forward if mode == "forward" else forward_and_backward


def measure(mode: str, compiled: bool, rounds: int, x: Tensor, grad: Tensor, console: Console) -> list[dict]:
    """Returns one row per contender: milliseconds, and the ratio to the yardstick."""
    yardstick = "clone" if mode == "forward" else "x * 1"
    runs = {yardstick: run_of(lambda x, s: x.clone() if mode == "forward" else x * 1, mode, x, grad)}
    for name, quantizer in contenders().items():
        if name == "fake_quantize" and mode == "learned":
            continue
        if compiled:
            torch._dynamo.reset()
            quantizer = torch.compile(quantizer)
        run = run_of(quantizer, mode, x, grad)
        try:
            run()
        except Exception as error:  # a peer that cannot be compiled is no fault of this script
            console.print(f"{name}, {mode}, compiled: {type(error).__name__}")
            continue
        runs[name] = run
    seconds = interleaved(runs, rounds)
    return [
        {
            "contender": name,
            "mode": mode,
            "compiled": compiled,
            "milliseconds": 1e3 * statistics.median(taken),
            "yardstick": yardstick,
            "ratio": median_ratio(taken, seconds[yardstick]),
        }
        for name, taken in seconds.items()
    ]


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Prints the table: milliseconds and (ratio to the yardstick)."""
    table = Table(
        title="CPU milliseconds, and (ratio) to clone for the forward, to x * 1 with its gradient else"
    )
    table.add_column("contender")
    columns = [(how, mode) for how in (False, True) for mode in MODES]
    for how, mode in columns:
        table.add_column(f"{'compiled' if how else 'eager'} {mode}", justify="right")
    cells = {
        (r["contender"], r["compiled"], r["mode"]): f"{r['milliseconds']:.1f} ({r['ratio']:.2f})"
        for r in rows
    }
    for name in dict.fromkeys(r["contender"] for r in rows):
        table.add_row(name, *(cells.get((name, *column), "-") for column in columns))
    console.print(table)


def main() -> int:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="rounds in which all contenders take turns")
    parser.add_argument(
        "--quick", action="store_true", help="an activation of 0.5 million elements, 3 rounds"
    )
    parser.add_argument("--no-compile", action="store_true", help="only eager")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console = Console(width=max(Console().width, 140))
    shape = (8, 64, 32, 32) if options.quick else (64, 256, 32, 32)
    rounds = 3 if options.quick else options.rounds
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).mul_(0.3).requires_grad_()
    grad = torch.randn(shape, generator=generator)
    rows = []
    for compiled in (False,) if options.no_compile else (False, True):
        for mode in MODES:
            with console.status(f"{mode}, {'compiled' if compiled else 'eager'}"):
                rows += measure(mode, compiled, rounds, x, grad, console)
    show(rows, console)
    if options.json:
        environment = {"torch": torch.__version__, "python": platform.python_version()}
        document = {"environment": environment, "shape": shape, "rounds": rounds, "rows": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
