"""Loss functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator

__all__: list[str] = []


def _negative_log_likelihood(
    scores: Tensor, labels: Tensor, weights: Tensor | None, reduction: str, ignore_index: int | None
) -> Tensor:
    """Returns -weights[label] * scores[label] of each sample, reduced; the mean is one by weight."""
    labels = labels.to(torch.int64)
    kept = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
    index = torch.where(kept, labels, 0)
    index = torch.where(index < 0, index + scores.shape[1], index)
    picked = scores.gather(1, index.unsqueeze(1)).squeeze(1)
    weight = torch.ones_like(picked) if weights is None else weights[index]
    weight = torch.where(kept, weight, 0)
    loss = torch.where(kept, -picked * weight, 0)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction != "mean":
        raise InvalidModelError(f"reduction {reduction!r} is none of 'none', 'sum', 'mean'")
    return loss.sum() / weight.sum()


@operator("NegativeLogLikelihoodLoss", since_version=12)
def negative_log_likelihood_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Returns -weight[target] * input[target], input being log-probabilities.

    Args:
        input: (N, C, d1, ..., dk).
        target: (N, d1, ..., dk), classes.
        weight: (C,); 1 where absent.
        ignore_index: a target that counts as nothing.
        reduction: none: (N, d1, ..., dk); sum; mean: divided by the sum of the weights.

    Raises: InvalidModelError for another reduction. Source: ONNX NegativeLogLikelihoodLoss-22.
    """
    return _negative_log_likelihood(input, target, weight, reduction, ignore_index)


@operator("SoftmaxCrossEntropyLoss", since_version=12, python_only=("outputs",))
def softmax_cross_entropy_loss(
    scores: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
    outputs: int = 1,
) -> Any:
    """Returns the negative log-likelihood of the softmax of scores over axis 1.

    Args:
        scores: (N, C, d1, ..., dk), logits.
        labels: (N, d1, ..., dk), classes.
        weights: (C,); 1 where absent.
        ignore_index: a label that counts as nothing.
        reduction: none: (N, d1, ..., dk); sum; mean: divided by the sum of the weights.
        outputs: 2 also returns the log-probabilities, (N, C, d1, ..., dk).

    Raises: InvalidModelError for another reduction. Source: ONNX SoftmaxCrossEntropyLoss-13.
    """
    log_prob = torch.log_softmax(scores, 1)
    loss = _negative_log_likelihood(log_prob, labels, weights, reduction, ignore_index)
    return loss if outputs == 1 else (loss, log_prob)
