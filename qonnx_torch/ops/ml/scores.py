"""What classifiers and regressors do with their scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError, UnsupportedModelError

__all__ = ["as_floats", "as_rows", "post_transform", "refuse_strings"]


def as_rows(X: Tensor) -> Tensor:
    """Returns X as a matrix of floats: (F,) is one row; integers become float32."""
    x = X.reshape(1, -1) if X.dim() == 1 else X.flatten(1)
    return x if x.dtype == torch.float64 else x.float()


def as_floats(values: Sequence[float] | Tensor, like: Tensor) -> Tensor:
    """Returns the numbers of an attribute, or the parameter that holds them, as a tensor like another."""
    if isinstance(values, Tensor):
        return values.to(like.dtype)
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def refuse_strings(name: str, values: Sequence[str] | None) -> None:
    """Raises UnsupportedModelError where an attribute has strings."""
    if values:
        raise UnsupportedModelError(
            f"attribute {name} has strings, for which torch has no tensors: number the classes in the file"
        )


def post_transform(scores: Tensor, name: str) -> Tensor:
    """Returns transformed scores.

    Args:
        scores: (N, C).
        name: NONE, LOGISTIC, SOFTMAX, SOFTMAX_ZERO (a softmax that leaves out scores of 0) or PROBIT (the
            inverse of the normal distribution, in onnxruntime's approximation).

    Raises:
        InvalidModelError: another name.
    """
    if name == "NONE":
        return scores
    if name == "LOGISTIC":
        return torch.sigmoid(scores)
    if name == "SOFTMAX":
        return torch.softmax(scores, -1)
    if name == "SOFTMAX_ZERO":
        return _softmax_zero(scores)
    if name == "PROBIT":
        return _probit(scores)
    raise InvalidModelError(
        f"post_transform {name!r} is none of NONE, LOGISTIC, SOFTMAX, SOFTMAX_ZERO, PROBIT"
    )


def _softmax_zero(scores: Tensor) -> Tensor:
    largest = scores.amax(-1, keepdim=True)
    counted = scores.abs() > 1e-7
    powers = torch.where(counted, (scores - largest).exp(), scores * (-largest).exp())
    total = powers.sum(-1, keepdim=True)
    return torch.where(total == 0, 0.5, powers / torch.where(total == 0, 1.0, total))


def _probit(scores: Tensor) -> Tensor:
    x = 2 * scores - 1
    log = torch.log((1 - x) * (1 + x))
    v = 2 / (torch.pi * 0.147) + 0.5 * log
    return 1.41421356 * x.sign() * torch.sqrt(torch.sqrt(v * v - log / 0.147) - v)
