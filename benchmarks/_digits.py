"""The digits network in Brevitas and in plain torch, and how to train either: what several scripts share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import brevitas.nn as bnn
    from brevitas.inject.enum import QuantType, ScalingImplType, StatsOp
    from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat, Uint8ActPerTensorFloat

__all__ = [
    "MODEL",
    "BrevitasDigits",
    "FloatDigits",
    "accuracy",
    "copy_float_weights",
    "data",
    "train_step",
    "training_batches",
]

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "digits"
MODEL = FOLDER / "digits_w4a4.onnx"
BATCH_SIZE = 32


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns x_train, y_train, x_test and y_test; pixels in [0, 1]."""
    arrays = np.load(FOLDER / "digits.npz")
    x_train, x_test = (torch.from_numpy(arrays[k] / np.float32(16)) for k in ("x_train", "x_test"))
    y_train, y_test = (torch.from_numpy(arrays[k].astype(np.int64)) for k in ("y_train", "y_test"))
    return x_train, y_train, x_test, y_test


class FloatDigits(nn.Module):
    """Two convolutions with batch normalization, and a classifier: the network of examples/digits, float."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Maps images (N, 1, 8, 8) to logits (N, 10)."""
        x = torch.relu(self.bn1(self.conv1(image)))
        x = self.pool(torch.relu(self.bn2(self.conv2(x))))
        return self.fc(torch.flatten(x, 1))


class BinaryWeight(Int8WeightPerTensorFloat):
    """Brevitas' binary weights with the mean of |w| per output channel as scale."""

    quant_type = QuantType.BINARY
    bit_width = 1
    scaling_stats_op = StatsOp.AVE


class LearnedWeight(Int8WeightPerTensorFloat):
    """Brevitas' weight quantizer with a learned scale that starts at the statistics."""

    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS


class BrevitasDigits(nn.Module):
    """The same network in Brevitas: input 8 bits; weights per channel (the classifier's too where asked)."""

    def __init__(self, weight_bits: int, activation_bits: int, *, learned_weight_scale: bool = False) -> None:
        super().__init__()
        quantizer = LearnedWeight if learned_weight_scale else Int8WeightPerTensorFloat
        weights: dict[str, Any] = {
            "weight_quant": BinaryWeight if weight_bits == 1 else quantizer,
            "weight_bit_width": weight_bits,
        }
        per_channel = {"weight_scaling_per_output_channel": True}
        activations = {"act_quant": Uint8ActPerTensorFloat, "bit_width": activation_bits}
        self.quant_in = bnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=8)
        self.conv1 = bnn.QuantConv2d(1, 16, 3, padding=1, bias=False, **weights, **per_channel)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = bnn.QuantReLU(**activations)
        self.conv2 = bnn.QuantConv2d(16, 32, 3, stride=2, padding=1, bias=False, **weights, **per_channel)
        self.bn2 = nn.BatchNorm2d(32)
        self.act2 = bnn.QuantReLU(**activations)
        self.pool = nn.MaxPool2d(2)
        self.fc = bnn.QuantLinear(128, 10, bias=True, **weights)

    def forward(self, image: Tensor) -> Tensor:
        """Maps images (N, 1, 8, 8) to logits (N, 10)."""
        x = self.act1(self.bn1(self.conv1(self.quant_in(image))))
        x = self.pool(self.act2(self.bn2(self.conv2(x))))
        return self.fc(torch.flatten(x, 1))


def copy_float_weights(source: nn.Module, target: nn.Module) -> None:
    """Copies the weights and the statistics that both networks have under the same names."""
    state, own = source.state_dict(), target.state_dict()
    with torch.no_grad():
        for name in own.keys() & state.keys():
            own[name].copy_(state[name])


def training_batches(count: int, epochs: int, seed: int) -> Iterator[tuple[int, Tensor]]:
    """Yields (epoch, indices) of shuffled batches; the same ones for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        for index in torch.randperm(count, generator=generator).split(BATCH_SIZE):
            if len(index) == BATCH_SIZE:
                yield epoch, index


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    """Takes one step on a batch and returns its loss."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Returns the share of images whose largest logit is the label's; leaves the model in `eval()`."""
    model.eval()
    return (model(x).argmax(1) == y).float().mean().item()
