"""Distils a network into its own quantized form: the teacher is the same graph with its quantizers off.

    python examples/knowledge_distillation.py

The demo model is imported once. A copy with `qt.disable_quantization` is the float teacher; the student's
weights and activations get 2 bits. The student learns the teacher's softened outputs beside the labels
(Hinton et al. 2015, arXiv:1503.02531), and quantization starts after a few steps (`after_steps`), so that
it starts as its teacher.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import qonnx_torch as qt

HERE = Path(__file__).parent / "digits"
EPOCHS = 8
TEMPERATURE = 3.0


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Returns the share of images whose largest logit is the label's."""
    model.eval()
    return (model(x).argmax(1) == y).float().mean().item()


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Returns half the cross entropy with the labels, half with the teacher at a temperature."""
    soft = F.kl_div(
        F.log_softmax(student / TEMPERATURE, 1),
        F.log_softmax(teacher / TEMPERATURE, 1),
        log_target=True,
        reduction="batchmean",
    )
    return 0.5 * F.cross_entropy(student, labels) + 0.5 * TEMPERATURE**2 * soft


def main() -> None:
    """Runs the example."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = np.load(HERE / "digits.npz")
    x_train, x_test = (torch.from_numpy(data[k].astype(np.float32) / 16) for k in ("x_train", "x_test"))
    y_train, y_test = (torch.from_numpy(data[k].astype(np.int64)) for k in ("y_train", "y_test"))
    loader = DataLoader(TensorDataset(x_train, y_train), batch_size=32, shuffle=True)

    learned = qt.QuantizerTraining(gradient="lsq", scale="step")
    student = qt.import_model(
        HERE / "digits_w4a4.onnx", batch="dynamic", training=qt.TrainingConfig(learned, learned)
    )
    teacher = copy.deepcopy(student).eval()
    qt.disable_quantization(teacher)
    print(f"teacher, the same graph without quantization: accuracy {accuracy(teacher, x_test, y_test):.2%}")

    for name, quantizer in student.named_modules():
        if isinstance(quantizer, qt.nn.Quant) and "quant_in" not in name:
            quantizer.set_bit_width(2)
    qt.calibrate_weights(student, method="mse")
    qt.calibrate(student, loader, method="mse", steps=10)
    before = accuracy(student, x_test, y_test)
    print(f"student, 2 bits per weight and activation, calibrated: accuracy {before:.2%}")

    qt.enable_quantization(student, after_steps=len(loader) // 2)
    optimizer = torch.optim.Adam(qt.parameter_groups(student, quantizer_lr=1e-3), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    for _ in range(EPOCHS):
        student.train()
        for x, y in loader:
            with torch.no_grad():
                target = teacher(x)
            optimizer.zero_grad()
            distillation_loss(student(x), target, y).backward()
            optimizer.step()
            schedule.step()
    after = accuracy(student, x_test, y_test)
    print(f"student after {EPOCHS} epochs: accuracy {after:.2%}")
    assert after > max(before, 0.96), f"accuracy {before:.2%} -> {after:.2%}"


if __name__ == "__main__":
    main()
