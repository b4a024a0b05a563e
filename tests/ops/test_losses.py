"""Losses: every reduction, weights, what is ignored, any number of dimensions; gradients."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import qonnx_torch as qt
from qonnx_torch.ops.standard.losses import negative_log_likelihood_loss, softmax_cross_entropy_loss

GENERATOR = np.random.default_rng(0)
SHAPES = [(), (3,), (2, 3), (1, 2, 2, 2, 2)]


@pytest.mark.parametrize("ignore", [None, 1, -1, 7])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_references(
    shape, reduction: str, weighted: bool, ignore: int | None, check_node
) -> None:
    scores = GENERATOR.normal(size=(4, 5, *shape)).astype(np.float32)
    labels = GENERATOR.integers(0, 5, (4, *shape))
    if ignore is not None:
        labels.reshape(-1)[::3] = ignore
    weights = [GENERATOR.uniform(0.5, 2, 5).astype(np.float32)] if weighted else []
    options: dict[str, Any] = {"reduction": reduction, "tolerance": 2e-6}
    options |= {} if ignore is None else {"ignore_index": ignore}
    if ignore != -1:  # which the reference takes for none
        check_node("NegativeLogLikelihoodLoss", scores, labels, *weights, **options)
    runtime = {**options, "opset": 13, "source": "onnxruntime"}
    check_node("NegativeLogLikelihoodLoss", scores, labels.astype(np.int32), *weights, **runtime)
    for outputs in (1, 2):
        check_node("SoftmaxCrossEntropyLoss", scores, labels, *weights, outputs=outputs, **options)
    check_node("SoftmaxCrossEntropyLoss", scores, labels, *weights, **runtime)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64], ids=str)
def test_types(dtype: Any, check_node) -> None:
    scores, labels = GENERATOR.normal(size=(4, 5)).astype(dtype), np.array([0, 4, 2, 2])
    tolerance = 1e-12 if dtype is np.float64 else 4e-2
    check_node("NegativeLogLikelihoodLoss", scores, labels, tolerance=tolerance)
    check_node("SoftmaxCrossEntropyLoss", scores, labels, tolerance=tolerance)


def test_gradients_are_those_of_torch() -> None:
    scores = torch.from_numpy(GENERATOR.normal(size=(4, 5, 3))).requires_grad_()
    labels, weight = torch.from_numpy(GENERATOR.integers(0, 5, (4, 3))), torch.rand(5, dtype=torch.float64)
    labels[0, 0] = 9
    for ours, theirs in (
        (softmax_cross_entropy_loss, F.cross_entropy),
        (negative_log_likelihood_loss, F.nll_loss),
    ):
        expected = torch.autograd.grad(theirs(scores, labels, weight, ignore_index=9), scores)[0]
        actual = torch.autograd.grad(ours(scores, labels, weight, ignore_index=9), scores)[0]
        torch.testing.assert_close(actual, expected)


def test_what_is_ignored_may_be_infinite() -> None:
    scores = torch.tensor([[0.0, -torch.inf], [-1.0, -2.0]], requires_grad=True)
    loss = negative_log_likelihood_loss(scores, torch.tensor([1, 0]), ignore_index=1)
    loss.backward()
    assert loss.item() == 1.0
    assert scores.grad.tolist() == [[0.0, 0.0], [-1.0, 0.0]]


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(qt.InvalidModelError, match="'max' is none of 'none', 'sum', 'mean'"):
        negative_log_likelihood_loss(torch.zeros(1, 2), torch.tensor([0]), reduction="max")
