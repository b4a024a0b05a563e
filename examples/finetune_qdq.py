"""Fine-tunes a model that onnxruntime has quantized, and exports it as QONNX.

    python examples/finetune_qdq.py [--out FILE]

A float network is trained for a moment, written as ONNX, and quantized after training by onnxruntime: weights
to 4 bits, activations to 8, as QuantizeLinear and DequantizeLinear nodes. That costs accuracy. Imported, each
pair is a quantizer and the integer weights are float parameters, so an ordinary loop brings it back. The
exported file has QONNX's quantizers, and standard nodes where a zero point makes QONNX compute other numbers;
it is verified against qonnx and onnxruntime, layer by layer.
"""

from __future__ import annotations

import argparse
import collections
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import qonnx_torch as qt

try:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
except ImportError:
    raise SystemExit("this example needs onnxruntime: pip install onnxruntime onnx") from None

HERE = Path(__file__).parent / "digits"
EPOCHS = 8


class Network(nn.Module):
    """Two convolutions and a classifier, float."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.fc = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Maps images (N, 1, 8, 8) to logits (N, 10)."""
        x = F.max_pool2d(torch.relu(self.conv2(torch.relu(self.conv1(image)))), 2)
        return self.fc(torch.flatten(x, 1))


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Returns the share of images whose largest logit is the label's."""
    model.eval()
    return (model(x).argmax(1) == y).float().mean().item()


def train(model: nn.Module, loader: DataLoader[Any], optimizer: torch.optim.Optimizer, epochs: int) -> None:
    """The loop, the same before and after the quantization."""
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    model.train()
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()


class Reader(CalibrationDataReader):
    """The images from which onnxruntime takes the ranges of activations."""

    def __init__(self, images: Tensor) -> None:
        self.batches: Iterator[Tensor] = iter(images.split(32))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Returns the next batch, or None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch.numpy()}


def write_float(model: nn.Module, path: Path, example: Tensor) -> None:
    """Writes a module by torch's exporter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            opset_version=21,
            input_names=["image"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    program.save(path)


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to keep the exported file")
    out: Path | None = parser.parse_args().out
    logging.disable(logging.WARNING)  # onnxruntime advises another preparation of the model
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = np.load(HERE / "digits.npz")
    x_train, x_test = (torch.from_numpy(data[k].astype(np.float32) / 16) for k in ("x_train", "x_test"))
    y_train, y_test = (torch.from_numpy(data[k].astype(np.int64)) for k in ("y_train", "y_test"))
    loader = DataLoader(TensorDataset(x_train, y_train), batch_size=32, shuffle=True)

    network = Network()
    train(network, loader, torch.optim.Adam(network.parameters(), 3e-3), EPOCHS)
    print(f"float: accuracy {accuracy(network.eval(), x_test, y_test):.2%}")

    with tempfile.TemporaryDirectory() as scratch:
        floats, integers = Path(scratch) / "float.onnx", Path(scratch) / "quantized.onnx"
        write_float(network, floats, x_train[:2])
        quantize_static(
            floats,
            integers,
            Reader(x_train[:256]),
            weight_type=QuantType.QInt4,
            activation_type=QuantType.QUInt8,
        )
        counts = collections.Counter(node.op_type for node in onnx.load(integers).graph.node)
        print(f"quantized by onnxruntime: {counts['DequantizeLinear']} DequantizeLinear")

        # Import: pairs become quantizers. How they train is chosen here.
        training = qt.TrainingConfig(
            weights=qt.QuantizerTraining(gradient="lsq", scale="log2"),
            activations=qt.QuantizerTraining(gradient="lsq", scale="log2"),
        )
        model = qt.import_model(integers, training=training)
        kinds = collections.Counter(
            type(m).__name__ for m in model.modules() if isinstance(m, qt.nn.Quantizer)
        )
        print("imported:", ", ".join(f"{n} {name}" for name, n in sorted(kinds.items())))
        assert sum(kinds.values()) == counts["DequantizeLinear"]
        before = accuracy(model, x_test, y_test)
        print(f"after quantization: accuracy {before:.2%}")

        train(model, loader, torch.optim.Adam(qt.parameter_groups(model, quantizer_lr=2e-3), 1e-3), EPOCHS)
        after = accuracy(model, x_test, y_test)
        print(f"after {EPOCHS} epochs: accuracy {after:.2%}")

        path = out or Path(scratch) / "finetuned.onnx"
        qt.export_qonnx(model, path)
        again = qt.import_model(path)
        assert accuracy(again, x_test, y_test) == after, "the file computes something else"
        for reference, images in (("onnxruntime", x_test[:64]), ("qonnx", x_test[:8])):
            report = qt.verify(again, images, reference=reference)
            print(f"exported; against {reference}: {report.summary()}")
            assert report.passed, report.table()
    assert after > max(before + 0.01, 0.95), f"accuracy {before:.2%} -> {after:.2%}"


if __name__ == "__main__":
    main()
