"""Fine-tunes an imported QONNX model to fewer bits in a plain PyTorch loop, and exports what was learned.

    python examples/finetune_qonnx.py [--out FILE]

The demo model comes with 4 bits per weight. Here its weights get 2 bits, which costs accuracy;
the scales are then set anew from the weights, and training brings the accuracy back. What is learned of the
scales is kept in a parameter group of its own, without weight decay. The exported file holds plain scales,
zero points and bit widths, and is verified against onnxruntime, layer by layer.
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
EPOCHS = 6


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

    # Import: how the quantizers train is chosen here, and can be changed later with qt.configure_training.
    training = qt.TrainingConfig(
        weights=qt.QuantizerTraining(gradient="lsq", scale="step"),
        activations=qt.QuantizerTraining(gradient="lsq", scale="step"),
    )
    model = qt.import_model(HERE / "digits_w4a4.onnx", batch="dynamic", training=training)
    print(f"as imported, 4 bits per weight: accuracy {accuracy(model, x_test, y_test):.2%}")

    # Fewer bits: the quantizers are modules, found like any others.
    for name, quantizer in model.named_modules():
        if isinstance(quantizer, qt.nn.Quant) and "weight" in name:
            quantizer.set_bit_width(2)
    qt.calibrate_weights(model, method="mse")
    qt.calibrate(model, loader, method="mse", steps=10)
    before = accuracy(model, x_test, y_test)
    print(f"2 bits per weight, calibrated: accuracy {before:.2%}")

    # Train: an ordinary loop.
    optimizer = torch.optim.AdamW(qt.parameter_groups(model, weight_decay=1e-3, quantizer_lr=5e-4), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=[4e-3, 1e-3], total_steps=EPOCHS * len(loader)
    )
    for epoch in range(EPOCHS):
        model.train()
        if epoch == EPOCHS - 1:
            qt.freeze_batch_normalization(model)  # the last epoch trains what the file will compute
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            schedule.step()
    after = accuracy(model, x_test, y_test)
    print(f"after {EPOCHS} epochs: accuracy {after:.2%}")

    with tempfile.TemporaryDirectory() as scratch:
        path = out or Path(scratch) / "digits_w2a4.onnx"
        qt.export_qonnx(model, path)
        report = qt.verify(qt.import_model(path), x_test[:32], reference="onnxruntime")
        print(f"exported; against onnxruntime: {report.summary()}")
        assert report.passed, report.table()
        assert accuracy(qt.import_model(path), x_test, y_test) == after, "the file computes something else"
    assert after > max(before, 0.97), f"accuracy {before:.2%} -> {after:.2%}"


if __name__ == "__main__":
    main()
