"""Small networks trained on digits, quantized by onnxruntime and by Brevitas into files of their dialects."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_dynamic,
    quantize_static,
)
from torch import Tensor, nn

__all__ = [
    "DYNAMIC",
    "NETWORKS",
    "STATIC",
    "brevitas_file",
    "data",
    "dynamic_file",
    "float_file",
    "static_file",
]

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "digits"

_UNSIGNED = {"activation_type": QuantType.QUInt8}
_SIGNED = {"activation_type": QuantType.QInt8}
_BY_OPERATOR = {"quant_format": QuantFormat.QOperator}

STATIC: dict[str, dict[str, Any]] = {
    "qdq_u8s8": _UNSIGNED,
    "qdq_u8u8": {**_UNSIGNED, "weight_type": QuantType.QUInt8},
    "qdq_s8s8_per_channel": {**_SIGNED, "per_channel": True},
    "qdq_s8s8_symmetric": {
        **_SIGNED,
        "per_channel": True,
        "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True},
    },
    "qdq_a16s8": {"activation_type": QuantType.QUInt16},
    "qdq_a16s4": {"activation_type": QuantType.QInt16, "weight_type": QuantType.QInt4, "per_channel": True},
    "qdq_float_weights": {
        **_UNSIGNED,
        "extra_options": {"AddQDQPairToWeight": True, "DedicatedQDQPair": True},
    },
    "qoperator_u8s8": {**_UNSIGNED, **_BY_OPERATOR},
    "qoperator_u8u8": {**_UNSIGNED, **_BY_OPERATOR, "weight_type": QuantType.QUInt8},
    "qoperator_s8s8_per_channel": {**_SIGNED, **_BY_OPERATOR, "per_channel": True},
}
"""Kind of file -> the arguments of `quantize_static` that make it."""

DYNAMIC: dict[str, dict[str, Any]] = {
    "dynamic_u8": {"weight_type": QuantType.QUInt8},
    "dynamic_s8_per_channel": {"weight_type": QuantType.QInt8, "per_channel": True},
}
"""Kind of file -> the arguments of `quantize_dynamic` that make it."""


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns x_train, y_train, x_test and y_test; pixels in [0, 1]."""
    arrays = np.load(FOLDER / "digits.npz")
    x_train, x_test = (torch.from_numpy(arrays[k] / np.float32(16)) for k in ("x_train", "x_test"))
    y_train, y_test = (torch.from_numpy(arrays[k].astype(np.int64)) for k in ("y_train", "y_test"))
    return x_train, y_train, x_test, y_test


class Convolutional(nn.Module):
    """Convolutions with a residual connection, a concatenation, two kinds of pooling, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 16, 1)
        self.wide = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.fc = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Maps images (N, 1, 8, 8) to logits (N, 10)."""
        x = torch.relu(self.norm(self.stem(image)))
        y = x + torch.relu(self.pointwise(F.leaky_relu(self.depthwise(x), 0.1)))
        z = torch.relu(self.wide(torch.cat([x, y], 1)))
        z = F.max_pool2d(z, 2) * torch.sigmoid(F.avg_pool2d(z, 2))
        return self.fc(z.mean((2, 3)))


class Perceptron(nn.Module):
    """Three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 48), nn.Linear(48, 32), nn.Linear(32, 10)])

    def forward(self, image: Tensor) -> Tensor:
        """Maps images (N, 1, 8, 8) to logits (N, 10)."""
        x = torch.flatten(image, 1)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


class Transformer(nn.Module):
    """One block of self-attention over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.place = nn.Parameter(torch.randn(8, 32) * 0.1)
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.query, self.key, self.value = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.out = nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.fc = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Maps images (N, 1, 8, 8) to logits (N, 10)."""
        x = self.embed(image.squeeze(1)) + self.place
        h = self.norm1(x)
        scores = self.query(h) @ self.key(h).transpose(1, 2) * 32**-0.5
        x = x + self.out(torch.softmax(scores, -1) @ self.value(h))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.fc(x.mean(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutional": Convolutional,
    "perceptron": Perceptron,
    "transformer": Transformer,
}


def train(model: nn.Module, epochs: int, seed: int = 0) -> None:
    """Trains a network on the digits; leaves it in `eval()`."""
    x, y, _, _ = data()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for index in torch.randperm(len(x), generator=generator).split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
    model.eval()


def float_file(network: str, path: Path, epochs: int = 3, opset: int = 21) -> nn.Module:
    """Trains a network, writes it as ONNX with a dynamic batch, and returns it."""
    torch.manual_seed(0)
    model = NETWORKS[network]()
    train(model, epochs)
    x = data()[0][:2]
    with _quiet():
        program = torch.onnx.export(
            model,
            (x,),
            dynamo=True,
            opset_version=opset,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
        assert program is not None
        program.save(path)
        quant_pre_process(path, path, skip_symbolic_shape=True, verbose=0)
    return model


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.batches: Iterator[Tensor] = iter(data()[0][:256].split(32))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch.numpy()}


def static_file(kind: str, source: Path, path: Path) -> None:
    """Quantizes a float file with calibration data, by onnxruntime."""
    with _quiet():
        quantize_static(source, path, _Reader(), **STATIC[kind])


def dynamic_file(kind: str, source: Path, path: Path) -> None:
    """Quantizes the weights of a float file, by onnxruntime; activations are quantized as they come."""
    with _quiet():
        quantize_dynamic(source, path, **DYNAMIC[kind])


def brevitas_file(path: Path, weight_bits: int, activation_bits: int) -> nn.Module:
    """Trains a small Brevitas network for an epoch, and writes it as QCDQ; returns it."""
    with _quiet():
        import brevitas.nn as bnn
        from brevitas.export import export_onnx_qcdq
        from brevitas.export.onnx import manager
        from brevitas.quant import Int8ActPerTensorFloat, ShiftedUint8ActPerTensorFloat

        # It asks for onnxoptimizer, which the exporter that is chosen here does not use.
        manager.onnx, manager.opt = onnx, manager.opt or object()

        torch.manual_seed(0)
        model = nn.Sequential(
            bnn.QuantIdentity(act_quant=Int8ActPerTensorFloat),
            bnn.QuantConv2d(
                1, 8, 3, padding=1, weight_bit_width=weight_bits, weight_scaling_per_output_channel=True
            ),
            nn.BatchNorm2d(8),
            bnn.QuantReLU(bit_width=activation_bits),
            bnn.QuantConv2d(8, 8, 3, stride=2, padding=1, weight_bit_width=weight_bits),
            bnn.QuantIdentity(act_quant=ShiftedUint8ActPerTensorFloat, bit_width=activation_bits),
            nn.Flatten(),
            bnn.QuantLinear(128, 10, bias=True, weight_bit_width=weight_bits),
        )
        train(model, 1)
        export_onnx_qcdq(
            model, args=data()[0][:1], export_path=str(path), dynamo=True, optimize=True, verbose=False
        )
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporters and quantizers say about themselves."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
