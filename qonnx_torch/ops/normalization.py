"""Normalization."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.ops._operator import operator

__all__ = ["batch_normalization"]


@operator("BatchNormalization", python_only=("update_statistics",))
def batch_normalization(
    X: Tensor,
    scale: Tensor,
    B: Tensor,
    input_mean: Tensor,
    input_var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    update_statistics: bool = False,
) -> Any:
    """Returns (X - mean) / sqrt(var + epsilon) * scale + B per channel.

    Args:
        X: (N, C, ...).
        scale: (C,).
        B: (C,).
        input_mean: (C,), running mean.
        input_var: (C,), running variance.
        epsilon: added to the variance.
        momentum: share of the running statistics that stays.
        training_mode: 1: normalize by the batch and return also the new running mean and variance.
        update_statistics: normalize by the batch and update input_mean and input_var in place.

    Returns:
        Y of X's shape; with training_mode 1 the tuple (Y, running mean, running variance).

    Source: ONNX BatchNormalization-15 (the running variance of training_mode is the biased one).
    """
    if training_mode:
        axes = [d for d in range(X.dim()) if d != 1]
        mean, var = X.mean(axes), X.var(axes, correction=0)
        y = _normalize(X, scale, B, mean, var, epsilon)
        running = (o * momentum + n * (1 - momentum) for o, n in ((input_mean, mean), (input_var, var)))
        return (y, *running)
    if update_statistics:
        return F.batch_norm(X, input_mean, input_var, scale, B, True, 1 - momentum, epsilon)
    return _normalize(X, scale, B, input_mean, input_var, epsilon)


def _normalize(X: Tensor, scale: Tensor, B: Tensor, mean: Tensor, var: Tensor, epsilon: float) -> Tensor:
    # Written out, in this order, it gives the bits of onnxruntime, on which the reference runs; torch's own
    # batch_norm differs by a rounding in a third of the elements, enough to flip a quantizer behind it.
    factor = scale * torch.rsqrt(var + epsilon)
    offset = B - mean * factor
    view = (-1, *[1] * (X.dim() - 2))
    return (X * factor.reshape(view) + offset.reshape(view)).to(X.dtype)


@operator("InstanceNormalization")
def instance_normalization(input: Tensor, scale: Tensor, B: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Returns each sample and channel of (N, C, ...) normalized, times scale plus B. Source: ONNX-6."""
    return F.instance_norm(input, weight=scale, bias=B, eps=epsilon)


@operator("LayerNormalization", since_version=17)
def layer_normalization(
    X: Tensor,
    Scale: Tensor,
    B: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    """Returns (X - mean) / sqrt(var + epsilon) * Scale + B over the dimensions from `axis` on.

    Only the first output is available. Source: ONNX LayerNormalization-17.
    """
    shape = X.shape[axis:] if axis < 0 else X.shape[axis % X.dim() :]
    if Scale.shape == shape and (B is None or B.shape == shape):
        return F.layer_norm(X, shape, Scale, B, epsilon)
    y = F.layer_norm(X, shape, eps=epsilon) * Scale
    return y if B is None else y + B


@operator("GroupNormalization", since_version=21)
def group_normalization(
    X: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Returns X (N, C, ...) normalized within groups of channels. Source: ONNX GroupNormalization-21."""
    return F.group_norm(X, num_groups, scale, bias, epsilon)


@operator("RMSNormalization", since_version=23)
def rms_normalization(
    X: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Returns X / sqrt(mean(X^2) + epsilon) * scale over the dimensions from `axis` on. Source: ONNX-23."""
    dims = list(range(axis % X.dim(), X.dim()))
    return X * torch.rsqrt(X.pow(2).mean(dims, keepdim=True) + epsilon) * scale


@operator("LpNormalization")
def lp_normalization(input: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Returns the input divided by its p-norm along an axis (0 where the norm is 0). Source: ONNX-22."""
    norm = torch.linalg.vector_norm(input, p, dim=axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(input), input / norm)


@operator("LRN")
def lrn(X: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """Returns X (N, C, ...) divided by (bias + alpha / size * sum of squares over `size` channels) ^ beta.

    Of an even size the larger half lies after the channel (torch puts it before). Source: ONNX LRN-13.
    """
    before, after = (size - 1) // 2, size // 2
    squares = F.pad(X.square().movedim(1, -1), (before, after))
    total = squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return X / (bias + alpha / size * total).pow(beta)
