"""Accuracy of quantization-aware training from float on the digits, here and in Brevitas.

    python benchmarks/digits_accuracy.py [--seeds 3] [--epochs 20] [--json FILE]

One float network per seed is trained; its weights start every quantized one. All train with Adam on the
same batches for the same number of epochs, the learning rate following a cosine, input 8 bits and every
layer's weights at the same width (WxAy: x bits per weight, y per activation). The recipes:

  Brevitas    its default quantizers: weights by their statistics (binary: mean |w|), activations by
              statistics of the first 300 steps, and learned from then on
  default     here, the defaults of `qt.quantize`: calibrated by the least squared error, ranges learned
  LSQ         here, with gradient "lsq" and learned steps, as in its paper

Exit status 1 where the mean of the default recipe is below that of Brevitas.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import warnings
from pathlib import Path

import torch
from _digits import (
    BrevitasDigits,
    FloatDigits,
    accuracy,
    copy_float_weights,
    data,
    train_step,
    training_batches,
)
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import qonnx_torch as qt

WIDTHS = ((4, 4), (2, 2), (1, 2))
FLOAT_RATE, RATE = 4e-3, 2e-3


def train(model: nn.Module, epochs: int, seed: int, rate: float) -> float:
    """Trains a model; returns its accuracy on the test images."""
    x_train, y_train, x_test, y_test = data()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    model.train()
    last = 0
    for epoch, index in training_batches(len(x_train), epochs, seed):
        if epoch != last:
            schedule.step()
            last = epoch
        train_step(model, optimizer, x_train[index], y_train[index])
    return accuracy(model, x_test, y_test)


def quantized(network: nn.Module, weight_bits: int, activation_bits: int, recipe: str) -> nn.Module:
    """Returns the float network with quantizers, calibrated on training images."""
    scale = "mse" if recipe == "default" else "lsq"
    config = qt.QuantizationConfig(
        weights=qt.QuantizerConfig(weight_bits, granularity="per_channel", scale=scale),
        activations=qt.QuantizerConfig(activation_bits, scale=scale),
        inputs=qt.QuantizerConfig(8, signed=True, scale=scale),
        rules=(qt.QuantizationRule(layers="last", weights=qt.QuantizerConfig(weight_bits, scale=scale)),),
    )
    x_train = data()[0]
    return qt.quantize(network, config, args=x_train[:32], calibration=x_train.split(32)[:20], progress=False)


def main() -> int:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument(
        "--epochs", type=int, default=20, help="epochs, of the float network and of each other"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console = Console(width=max(Console().width, 100))
    recipes = ("Brevitas", "default", "LSQ")
    found: dict[str, list[float]] = {"float": []}
    found |= {f"W{w}A{a} {recipe}": [] for w, a in WIDTHS for recipe in recipes}
    for seed in track(range(options.seeds), description="seeds", console=console):
        torch.manual_seed(seed)
        network = FloatDigits()
        found["float"].append(train(network, options.epochs, seed, FLOAT_RATE))
        for w, a in WIDTHS:
            theirs = BrevitasDigits(w, a)
            copy_float_weights(network, theirs)
            found[f"W{w}A{a} Brevitas"].append(train(theirs, options.epochs, seed, RATE))
            for recipe in recipes[1:]:
                ours = quantized(network, w, a, recipe)
                found[f"W{w}A{a} {recipe}"].append(train(ours, options.epochs, seed, RATE))

    table = Table(title=f"Test accuracy, {options.seeds} seeds, {options.epochs} epochs: mean (each)")
    table.add_column("network")
    for column in recipes:
        table.add_column(column, justify="right")
    below = False
    table.add_row("float", _cell(found["float"]), "", "")
    for w, a in WIDTHS:
        means = [statistics.mean(found[f"W{w}A{a} {recipe}"]) for recipe in recipes]
        below = below or means[1] < means[0]
        table.add_row(f"W{w}A{a}", *(_cell(found[f"W{w}A{a} {recipe}"]) for recipe in recipes))
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(below)


def _cell(values: list[float]) -> str:
    return f"{statistics.mean(values):.2%} ({', '.join(f'{100 * v:.1f}' for v in values)})"


if __name__ == "__main__":
    sys.exit(main())
