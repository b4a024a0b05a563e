"""From an ordinary float network to a QONNX file with 2-bit weights and activations, by LSQ.

    python examples/qat_from_float.py [--out FILE]

A plain `nn.Module` is trained, `qt.quantize` puts quantizers into it by a declarative configuration, a few
batches set their first scales, and quantization-aware training (LSQ, Esser et al. 2019, arXiv:1902.08153)
learns the rest. The first and the last layer's weights keep 8 bits, as in the paper. What is exported is
verified in onnxruntime.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import qonnx_torch as qt

HERE = Path(__file__).parent / "digits"
FLOAT_EPOCHS, EPOCHS = 8, 10


class Digits(nn.Module):
    """A small convolutional network for 8x8 images, without a word of quantization in it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(image)))
        x = self.pool(torch.relu(self.bn2(self.conv2(x))))
        return self.fc(torch.flatten(x, 1))


def train(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, epochs: int) -> None:
    """Trains a model, float or quantized: the loop is the same."""
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    model.train()
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Returns the share of images whose largest logit is the label's."""
    model.eval()
    return (model(x).argmax(1) == y).float().mean().item()


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to keep the exported file")
    out: Path | None = parser.parse_args().out
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = np.load(HERE / "digits.npz")
    x_train, x_test = (torch.from_numpy(data[k].astype(np.float32) / 16) for k in ("x_train", "x_test"))
    y_train, y_test = (torch.from_numpy(data[k].astype(np.int64)) for k in ("y_train", "y_test"))
    loader = DataLoader(TensorDataset(x_train, y_train), batch_size=32, shuffle=True)

    network = Digits()
    train(network, loader, torch.optim.Adam(network.parameters(), lr=4e-3), FLOAT_EPOCHS)
    float_accuracy = accuracy(network, x_test, y_test)
    print(f"float: accuracy {float_accuracy:.2%}")

    # scale="lsq" starts at the paper's first step size and brings its gradient and learned step along.
    two_bits = qt.QuantizerConfig(2, scale="lsq")
    eight_bits = qt.QuantizerConfig(8, scale="lsq")
    config = qt.QuantizationConfig(
        weights=two_bits,
        activations=two_bits,
        inputs=eight_bits,
        rules=(
            qt.QuantizationRule(layers="first", weights=eight_bits),
            qt.QuantizationRule(layers="last", weights=eight_bits),
        ),
    )
    model = qt.quantize(network, config, args=x_train[:32], calibration=loader)
    for name, quantizer in model.named_modules():
        if isinstance(quantizer, qt.nn.Quantizer):
            print(f"  {name}: {quantizer}")
    before = accuracy(model, x_test, y_test)
    print(f"quantized, not yet trained: accuracy {before:.2%}")

    groups = qt.parameter_groups(model, weight_decay=1e-4, quantizer_lr=2e-4)
    train(model, loader, torch.optim.AdamW(groups, lr=2e-3), EPOCHS)
    after = accuracy(model, x_test, y_test)
    print(f"after {EPOCHS} epochs of quantization-aware training: accuracy {after:.2%}")

    with tempfile.TemporaryDirectory() as scratch:
        path = out or Path(scratch) / "digits_w2a2.onnx"
        qt.export_qonnx(model, path)
        report = qt.verify(qt.import_model(path), x_test[:32], reference="onnxruntime")
        print(f"exported; against onnxruntime: {report.summary()}")
        assert report.passed, report.table()
    assert after > max(before, 0.97), f"accuracy {before:.2%} -> {after:.2%}"


if __name__ == "__main__":
    main()
