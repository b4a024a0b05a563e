"""Continues a Brevitas training here: the same file, the same batches, the two loss curves side by side.

    python benchmarks/continue_brevitas.py [--steps 100] [--lr 1e-3] [--json FILE]

The demo network (examples/digits, trained and exported by Brevitas) is imported, and the same numbers are
put into the Brevitas network of the same definition. Both then train in `train()` for some steps, with
Adam, on the same batches. Three ways to treat the scales:

  frozen      weights and activations keep the file's scales (Brevitas: parameters that need no gradient)
  learned     the ends of the ranges of weights and activations are learned (Brevitas: PARAMETER)
  default     Brevitas' default quantizers: weights by their statistics, activations learned

Shown are the largest relative difference of the loss, the first step at which an integer of a quantizer
differs between the two (a rounding that fell on the other side: from there on the trainings are two), the
largest difference before it, and the accuracies on the test images at the end. Exit status 1 where a
difference before the first flip is above 1e-4.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from _digits import MODEL, BrevitasDigits, accuracy, data, train_step, training_batches
from rich.console import Console
from rich.table import Table
from torch import Tensor, fx, nn

import qonnx_torch as qt

LIMIT = 1e-4
CONFIGURATIONS = {
    "frozen": qt.TrainingConfig(qt.QuantizerTraining("ste"), qt.QuantizerTraining("ste")),
    "learned": qt.TrainingConfig(
        qt.QuantizerTraining("ste", scale="threshold"), qt.QuantizerTraining("ste", scale="threshold")
    ),
    "default": qt.TrainingConfig(
        qt.QuantizerTraining("pass", scale="statistics"), qt.QuantizerTraining("ste", scale="threshold")
    ),
}


@dataclass
class Result:
    """What one configuration gave."""

    scales: str
    steps: int
    equal_losses: int
    largest_difference: float
    first_flip: int | None
    before_first_flip: float
    accuracy: float
    accuracy_brevitas: float
    losses: list[float]
    losses_brevitas: list[float]


def ours(scales: str) -> fx.GraphModule:
    """Returns the imported network."""
    return qt.import_model(MODEL, batch="dynamic", training=CONFIGURATIONS[scales])


def theirs(scales: str) -> nn.Module:
    """Returns the Brevitas network with the numbers of the file."""
    module = qt.import_model(MODEL, batch="dynamic")
    network = BrevitasDigits(4, 4, learned_weight_scale=scales != "default")
    state = module.state_dict()
    with torch.no_grad():
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            if name in state:
                tensor.copy_(state[name])
    places = {
        "quant_in_act": network.quant_in.act_quant.fused_activation_quant_proxy.tensor_quant,
        "act1_act": network.act1.act_quant.fused_activation_quant_proxy.tensor_quant,
        "act2_act": network.act2.act_quant.fused_activation_quant_proxy.tensor_quant,
        "conv1_weight": network.conv1.weight_quant.tensor_quant,
        "conv2_weight": network.conv2.weight_quant.tensor_quant,
        "fc_weight": network.fc.weight_quant.tensor_quant,
    }
    for place, quantizer in places.items():
        scale = state[f"{place}_quant_export_handler_Quant.scale"]
        _set_scale(quantizer, scale, learned=scales != "frozen")
    return network


def _set_scale(quantizer: Any, scale: Tensor, *, learned: bool) -> None:
    """Sets a Brevitas scale parameter: its value is the end of the range, scale * 15, 7 or 128."""
    implementation = quantizer.scaling_impl
    if not hasattr(implementation, "value"):
        return  # by the statistics of the weights
    threshold = quantizer.int_scaling_impl(quantizer.msb_clamp_bit_width_impl())
    with torch.no_grad():
        value = implementation.value
        wanted = scale.reshape(value.shape)
        value.copy_(wanted * threshold)
        for direction in (-torch.inf, torch.inf):  # the neighbour that divides back to the scale exactly
            near = torch.nextafter(value, torch.full_like(value, direction))
            better = (value / threshold != wanted) & (near / threshold == wanted)
            value.copy_(torch.where(better, near, value))
        value.requires_grad_(learned)
    if hasattr(implementation, "counter"):  # no statistics are collected any more
        implementation.counter = implementation.collect_stats_steps + 1
    if hasattr(implementation, "init_done"):
        implementation.init_done = True


def _integers(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[Tensor]:
    """Hooks all quantizers of a model; the list is filled with their outputs in each forward."""
    found: list[Tensor] = []

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output).detach())

    for module in model.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(hook)
    return found


def _flipped(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether any value of any quantizer differs by more than rounding: half of a 256th of its range."""
    a, b = (sorted(values, key=lambda t: tuple(t.shape)) for values in (a, b))
    return any(
        bool(((x - y.reshape(x.shape)).abs() > x.abs().max() / 512).any()) for x, y in zip(a, b, strict=True)
    )


def measure(scales: str, steps: int, lr: float) -> Result:
    """Trains both and compares."""
    from brevitas.core.quant import RescalingIntQuant

    x_train, y_train, x_test, y_test = data()
    models = [ours(scales), theirs(scales)]
    with torch.no_grad():
        first = [m.eval()(x_test) for m in models]
    assert torch.equal(*first), "the two networks do not start with the same numbers"
    quantized = [_integers(models[0], (qt.nn.Quant,)), _integers(models[1], (RescalingIntQuant,))]
    optimizers = [torch.optim.Adam([p for p in m.parameters() if p.requires_grad], lr=lr) for m in models]
    curves: list[list[float]] = [[], []]
    first_flip = None
    for step, (_, index) in zip(range(steps), training_batches(len(x_train), 1000, seed=0), strict=False):
        for model, optimizer, curve, values in zip(models, optimizers, curves, quantized, strict=True):
            values.clear()
            curve.append(train_step(model.train(), optimizer, x_train[index], y_train[index]))
        if first_flip is None and _flipped(*quantized):
            first_flip = step
    differences = [abs(a - b) / abs(b) for a, b in zip(*curves, strict=True)]
    return Result(
        scales=scales,
        steps=steps,
        equal_losses=sum(a == b for a, b in zip(*curves, strict=True)),
        largest_difference=max(differences),
        first_flip=first_flip,
        before_first_flip=max(differences[:first_flip], default=0.0),
        accuracy=accuracy(models[0], x_test, y_test),
        accuracy_brevitas=accuracy(models[1], x_test, y_test),
        losses=curves[0],
        losses_brevitas=curves[1],
    )


def show(results: list[Result], console: Console) -> None:
    """Prints the table."""
    table = Table(title="Training continued here and in Brevitas")
    table.add_column("scales")
    for column in ("steps", "equal losses", "largest rel. difference", "first flip", "before it"):
        table.add_column(column, justify="right")
    table.add_column("accuracy", justify="right")
    table.add_column("Brevitas", justify="right")
    for r in results:
        flip = "none" if r.first_flip is None else f"step {r.first_flip}"
        cells = [
            str(r.steps),
            str(r.equal_losses),
            f"{r.largest_difference:.2g}",
            flip,
            f"{r.before_first_flip:.2g}",
        ]
        table.add_row(r.scales, *cells, f"{r.accuracy:.4f}", f"{r.accuracy_brevitas:.4f}")
    console.print(table)


def main() -> int:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=100, help="training steps")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of Adam")
    parser.add_argument("--json", type=Path, help="also write the figures and both curves to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results = [measure(scales, options.steps, options.lr) for scales in CONFIGURATIONS]
    show(results, Console(width=max(Console().width, 120)))
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
    return int(any(r.before_first_flip > LIMIT for r in results))


if __name__ == "__main__":
    sys.exit(main())
