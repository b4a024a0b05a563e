"""BatchNormalization and Dropout: `eval()` computes the file, `train()` trains as torch does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qonnx_torch.nn as qnn

X = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(0)) * 2 + 1


def tensors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scale, bias = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.1, 0.0, -3.0])
    return scale, bias, torch.tensor([0.3, 1.0, -1.0]), torch.tensor([1.0, 0.2, 4.0])


def torch_batch_norm() -> nn.BatchNorm1d:
    module = nn.BatchNorm1d(3, eps=1e-3, momentum=0.2)
    with torch.no_grad():
        for own, value in zip(
            (module.weight, module.bias, module.running_mean, module.running_var), tensors(), strict=True
        ):
            own.copy_(value)
    return module


@pytest.mark.parametrize("last", [False, True])
def test_batch_normalization_equals_torch(last: bool) -> None:
    ours = (qnn.BatchNormalizationChannelsLast if last else qnn.BatchNormalization)(
        epsilon=1e-3, momentum=0.8
    )
    reference = torch_batch_norm()
    scale, bias, mean, var = tensors()
    x = X.movedim(1, -1) if last else X

    def run() -> Tensor:
        y = ours(x, scale, bias, mean, var)
        return y.movedim(-1, 1) if last else y

    ours.eval()
    reference.eval()
    torch.testing.assert_close(run(), reference(X), rtol=1e-6, atol=1e-6)  # the order is onnxruntime's
    ours.train()
    reference.train()
    for _ in range(3):
        assert torch.equal(run(), reference(X))
    assert torch.equal(mean, reference.running_mean)
    assert torch.equal(var, reference.running_var)
    assert not torch.equal(mean, tensors()[2])


def test_training_mode_of_the_file_gives_the_new_statistics() -> None:
    module = qnn.BatchNormalization(momentum=0.5, training_mode=1).eval()
    scale, bias, mean, var = tensors()
    y, new_mean, new_var = module(X, scale, bias, mean, var)
    torch.testing.assert_close(new_mean, mean * 0.5 + X.mean((0, 2)) * 0.5)
    torch.testing.assert_close(new_var, var * 0.5 + X.var((0, 2), correction=0) * 0.5)
    assert torch.equal(mean, tensors()[2])  # the given ones stay
    torch.testing.assert_close(y.mean((0, 2)), bias, atol=1e-5, rtol=0)


def test_dropout_acts_only_in_training() -> None:
    module = qnn.Dropout().eval()
    x = torch.ones(10_000)
    assert module(x, 0.25) is x
    torch.manual_seed(0)
    y = module.train()(x, 0.25)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
