"""Train, export and execute the digits demo model: a small 4-bit Brevitas convolutional network.

The script writes four files into ``--out`` (default: the folder of this script):

``digits.npz``
    scikit-learn's 8x8 handwritten digits, split once and for all: ``x_train`` (1437, 1, 8, 8), ``y_train``,
    ``x_test`` (360, 1, 8, 8), ``y_test``. Pixels are uint8 in 0..16; the network takes ``pixel / 16``.
``digits_w4a4.onnx``
    the trained network exactly as ``brevitas.export.export_qonnx`` wrote it (batch 1, input ``image``, output
    ``logits``), not cleaned up and not touched afterwards.
``golden.npz``
    ``logits`` float32 (360, 10): the file above executed with qonnx (``cleanup_model``, then
    ``execute_onnx``) on every test image, one image at a time, because the file has a fixed batch of 1.

Everything is seeded and runs on one thread, so a second run writes the same weights and logits (given the
same versions of torch, Brevitas and qonnx on the same kind of CPU).

It needs torch, brevitas, qonnx, scikit-learn and, for Brevitas' exporter, onnxoptimizer.
"""

from __future__ import annotations

import argparse
import time
from importlib.metadata import version
from pathlib import Path

import brevitas.nn as qnn
import numpy as np
import onnx
import torch
from brevitas.export import export_qonnx
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat, Uint8ActPerTensorFloat
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.util.cleanup import cleanup_model
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

SEED = 2026
TEST_SIZE = 360
BATCH_SIZE = 32
LEARNING_RATE = 4e-3


class DigitsNet(nn.Module):
    """Two quantized convolutions and a quantized classifier, 4-bit weights and activations, 8-bit input."""

    def __init__(self, bits: int = 4) -> None:
        super().__init__()
        conv = {"kernel_size": 3, "padding": 1, "bias": False, "weight_bit_width": bits}
        conv |= {"weight_quant": Int8WeightPerTensorFloat, "weight_scaling_per_output_channel": True}
        self.quant_in = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=8)
        self.conv1 = qnn.QuantConv2d(1, 16, **conv)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, bit_width=bits)
        self.conv2 = qnn.QuantConv2d(16, 32, stride=2, **conv)
        self.bn2 = nn.BatchNorm2d(32)
        self.act2 = qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, bit_width=bits)
        self.pool = nn.MaxPool2d(2)
        self.fc = qnn.QuantLinear(
            32 * 2 * 2, 10, bias=True, weight_quant=Int8WeightPerTensorFloat, weight_bit_width=bits
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map a batch of images, values in [0, 1], to ten logits each."""
        x = self.act1(self.bn1(self.conv1(self.quant_in(image))))
        x = self.pool(self.act2(self.bn2(self.conv2(x))))
        return self.fc(torch.flatten(x, 1))


def load_split() -> dict[str, np.ndarray]:
    """Return the digits as uint8 images with a channel axis, split with stratification and a fixed seed."""
    data = load_digits()
    images = data.images.astype(np.uint8)[:, None]
    labels = data.target.astype(np.uint8)
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=TEST_SIZE, stratify=labels, random_state=SEED
    )
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def as_input(pixels: np.ndarray) -> Tensor:
    """Scale uint8 pixels in 0..16 to float32 in [0, 1]; exact, since 16 is a power of two."""
    return torch.from_numpy(pixels.astype(np.float32) / 16)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the fraction of images whose largest logit is the label's."""
    model.eval()
    return (model(x).argmax(1) == y).float().mean().item()


def train(split: dict[str, np.ndarray], epochs: int) -> DigitsNet:
    """Train from scratch, quantized from the first step on; the learning rate follows a cosine."""
    torch.manual_seed(SEED)
    model = DigitsNet()
    x, y = as_input(split["x_train"]), torch.from_numpy(split["y_train"].astype(np.int64))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    generator = torch.Generator().manual_seed(SEED)
    for epoch in range(epochs):
        model.train()
        for index in torch.randperm(len(x), generator=generator).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[index]), y[index])
            loss.backward()
            optimizer.step()
        schedule.step()
        if epoch % 5 == 4:
            print(f"epoch {epoch + 1:3d}  train accuracy {accuracy(model, x, y):.4f}")
    return model.eval()


def export(model: DigitsNet, path: Path) -> None:
    """Write the QONNX file with Brevitas' TorchScript-based exporter.

    The dynamo-based one also works, but loses the weights' names (``slice_1``) and stores stack traces with
    the local paths of the exporting machine; this one keeps ``conv1.weight`` and so on.
    """
    export_qonnx(
        model,
        args=torch.zeros(1, 1, 8, 8),
        export_path=str(path),
        input_names=["image"],
        output_names=["logits"],
        dynamo=False,
    )


def golden_logits(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Execute the exported file with qonnx, one image at a time, and stack the logits."""
    model = cleanup_model(ModelWrapper(str(path)))
    source, sink = model.graph.input[0].name, model.graph.output[0].name
    images = pixels.astype(np.float32) / 16
    return np.concatenate([execute_onnx(model, {source: image[None]})[sink] for image in images])


def main() -> None:
    """Run the four steps and print what the README reports."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="output folder")
    parser.add_argument("--epochs", type=int, default=30, help="training epochs (default: 30)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    split = load_split()
    np.savez_compressed(arguments.out / "digits.npz", **split)

    start = time.perf_counter()
    model = train(split, arguments.epochs)
    print(f"trained in {time.perf_counter() - start:.0f} s")
    labels = torch.from_numpy(split["y_test"].astype(np.int64))
    print(f"test accuracy, Brevitas: {accuracy(model, as_input(split['x_test']), labels):.4f}")

    path = arguments.out / "digits_w4a4.onnx"
    export(model, path)
    proto = onnx.load(path)
    print(
        f"{path.name}: producer {proto.producer_name} {proto.producer_version}, IR {proto.ir_version}, opsets"
    )
    print({entry.domain or "onnx": entry.version for entry in proto.opset_import})

    logits = golden_logits(path, split["x_test"])
    np.savez_compressed(arguments.out / "golden.npz", logits=logits)
    with torch.no_grad():
        difference = np.abs(logits - model(as_input(split["x_test"])).numpy())
    print(f"test accuracy, qonnx: {(logits.argmax(1) == split['y_test']).mean():.4f}")
    print(f"largest difference Brevitas - qonnx: {difference.max():.3g}; rows > 1e-4:", end=" ")
    print(int((difference.max(axis=1) > 1e-4).sum()))
    for package in ("torch", "brevitas", "qonnx", "onnx", "onnxruntime", "scikit-learn"):
        print(f"{package} {version(package)}", end="  ")
    print()


if __name__ == "__main__":
    main()
