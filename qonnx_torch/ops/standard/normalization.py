"""Normalization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._precision import wide

__all__ = ["batch_normalization", "group_normalization_per_group"]


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
    saved_statistics: int = 0,
    update_statistics: bool = False,
) -> Any:
    """Returns (X - mean) / sqrt(var + epsilon) * scale + B per channel.

    Args:
        X: (N, C, ...), or (N,) of one channel.
        scale: (C,), or (C, ...) where each feature is normalized for itself (spatial = 0 of older versions).
        B: of scale's shape.
        input_mean: running mean, of scale's shape.
        input_var: running variance, of scale's shape.
        epsilon: added to the variance.
        momentum: share of the running statistics that stays.
        training_mode: 1: normalize by the batch and return also the new running mean and variance.
        saved_statistics: 1: training_mode returns also the mean and variance of the batch, as outputs 4 and
            5 of the versions below 14.
        update_statistics: normalize by the batch and update input_mean and input_var in place.

    Returns:
        Y of X's shape; with training_mode 1 the tuple (Y, running mean, running variance), with
        saved_statistics (Y, running mean, running variance, mean, variance).

    Source: ONNX BatchNormalization-15 (the running variance of training_mode is the biased one).
    """
    if X.dim() == 1 or scale.dim() > 1:  # one channel, or every feature is one
        shape, flat = scale.shape, [t.reshape(-1) for t in (scale, B, input_mean, input_var)]
        found = batch_normalization(
            X.reshape(X.shape[0], -1), *flat, epsilon=epsilon, momentum=momentum, training_mode=training_mode,
            saved_statistics=saved_statistics, update_statistics=update_statistics,
        )  # fmt: skip
        if not training_mode:
            return found.reshape(X.shape)
        return (found[0].reshape(X.shape), *(s.reshape(shape) for s in found[1:]))
    if training_mode:
        axes = [d for d in range(X.dim()) if d != 1]
        x = X.to(wide(X.dtype))
        mean, var = x.mean(axes), x.var(axes, correction=0)
        y = _normalize(X, scale, B, mean, var, epsilon)
        pairs = ((input_mean, mean), (input_var, var))
        running = [(o * momentum + n * (1 - momentum)).to(o.dtype) for o, n in pairs]
        return (y, *running, *(n.to(o.dtype) for o, n in pairs if saved_statistics))
    if update_statistics:
        return F.batch_norm(X, input_mean, input_var, scale, B, True, 1 - momentum, epsilon)
    return _normalize(X, scale, B, input_mean, input_var, epsilon)


def _normalize(X: Tensor, scale: Tensor, B: Tensor, mean: Tensor, var: Tensor, epsilon: float) -> Tensor:
    # Written out, in this order, it gives the bits of onnxruntime, on which the reference runs; torch's own
    # batch_norm differs by a rounding in a third of the elements, enough to flip a quantizer behind it.
    scale, B, mean, var = (t.to(wide(t.dtype)) for t in (scale, B, mean, var))
    factor = scale * torch.rsqrt(var + epsilon)
    offset = B - mean * factor
    view = (-1, *[1] * (X.dim() - 2))
    return (X * factor.reshape(view) + offset.reshape(view)).to(X.dtype)


@operator("InstanceNormalization")
def instance_normalization(input: Tensor, scale: Tensor, B: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Returns each sample and channel of (N, C, ...) normalized, times scale plus B. Source: ONNX-22."""
    if input.dim() < 3:
        return B.expand(input.shape).to(input.dtype)
    x = input.to(wide(input.dtype))
    scale, B = scale.to(x.dtype), B.to(x.dtype)
    # The kernel itself: functional.instance_norm refuses channels of one element, which become B here.
    y = torch.instance_norm(x, scale, B, None, None, True, 0.0, epsilon, torch.backends.cudnn.enabled)
    return y.to(input.dtype)


def _first_stage(x: Tensor, stash_type: int) -> tuple[Tensor, torch.dtype]:
    """Returns x in the dtype of a normalization's first stage, and the dtype of its statistics.

    That is the one of stash_type, or the wider one of x: nothing is rounded away.
    """
    stash = torch_dtype(stash_type)
    return x.to(torch.promote_types(x.dtype, stash)), stash


@operator("LayerNormalization", python_only=("outputs",))
def layer_normalization(
    X: Tensor,
    Scale: Tensor,
    B: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    outputs: int = 1,
) -> Any:
    """Returns (X - mean) / sqrt(var + epsilon) * Scale + B over the dimensions from `axis` on.

    Args:
        X: any shape.
        Scale: broadcastable to X.
        B: broadcastable to X.
        axis: first of the dimensions that are normalized.
        epsilon: added to the variance.
        stash_type: element type of the statistics; the normalization computes in it, or in X's wider one.
        outputs: 2: also the mean, 3: also 1 / sqrt(var + epsilon), with the normalized dimensions kept as 1.

    Source: ONNX LayerNormalization-17, which onnxruntime writes into older operator sets too.
    """
    shape = X.shape[axis:] if axis < 0 else X.shape[axis % X.dim() :]
    x, stash = _first_stage(X, stash_type)
    if outputs > 1:
        var, mean = torch.var_mean(x, list(range(-len(shape), 0)), correction=0, keepdim=True)
        inverse = torch.rsqrt(var + epsilon)
        y = ((x - mean) * inverse).to(X.dtype) * Scale
        return (y if B is None else y + B, mean.to(stash), inverse.to(stash))[:outputs]
    if x.dtype == X.dtype and Scale.shape == shape and (B is None or B.shape == shape):
        return F.layer_norm(X, shape, Scale, B, epsilon)
    y = F.layer_norm(x, shape, eps=epsilon).to(X.dtype) * Scale
    return y if B is None else y + B


@operator("GroupNormalization", since_version=21)
def group_normalization(
    X: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Returns X (N, C, ...) normalized within groups of channels, times scale (C,) plus bias (C,).

    stash_type as of LayerNormalization. Source: ONNX GroupNormalization-21.
    """
    x, _ = _first_stage(X, stash_type)
    if x.dtype == X.dtype:
        return torch.group_norm(X, num_groups, scale, bias, epsilon, torch.backends.cudnn.enabled)
    y = torch.group_norm(x, num_groups, None, None, epsilon, torch.backends.cudnn.enabled).to(X.dtype)
    view = (-1, *[1] * (X.dim() - 2))
    return y * scale.reshape(view) + bias.reshape(view)


@operator("GroupNormalization", since_version=18)
def group_normalization_per_group(
    X: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5
) -> Tensor:
    """Returns X (N, C, ...) normalized within groups of channels, times scale (G,) plus bias (G,).

    Source: ONNX GroupNormalization-18, where scale and bias have one element per group.
    """
    if X.shape[1] % num_groups:
        raise InvalidModelError(f"GroupNormalization: {X.shape[1]} channels in {num_groups} groups")
    per_channel = [t.repeat_interleave(X.shape[1] // num_groups) for t in (scale, bias)]
    result: Tensor = group_normalization(X, *per_channel, num_groups=num_groups, epsilon=epsilon)
    return result


@operator("RMSNormalization", since_version=23)
def rms_normalization(
    X: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Returns X / sqrt(mean(X^2) + epsilon) * scale over the dimensions from `axis` on, of scale's dtype.

    stash_type as of LayerNormalization. Source: ONNX RMSNormalization-23.
    """
    x, _ = _first_stage(X, stash_type)
    dims = list(range(axis % X.dim(), X.dim()))
    y = x * torch.rsqrt(x.square().mean(dims, keepdim=True) + epsilon)
    return (y.to(X.dtype) * scale).to(scale.dtype)


@operator("LpNormalization")
def lp_normalization(input: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Returns the input divided by its p-norm along an axis (0 where the norm is 0). Source: ONNX-22."""
    x = input.to(wide(input.dtype))
    norm: Tensor = torch.linalg.vector_norm(x, p, dim=axis, keepdim=True)
    return (x / norm.masked_fill(norm == 0, 1.0)).to(input.dtype)


@operator("LRN")
def lrn(X: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """Returns X (N, C, ...) divided by (bias + alpha / size * sum of squares over `size` channels) ^ beta.

    Of an even size the larger half lies after the channel (torch puts it before). Source: ONNX LRN-13.
    """
    before, after = (size - 1) // 2, size // 2
    x = X.to(wide(X.dtype))
    squares = F.pad(x.square().movedim(1, -1), (before, after))
    total = squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return (x / (bias + alpha / size * total).pow(beta)).to(X.dtype)


@operator("MeanVarianceNormalization", since_version=9)
def mean_variance_normalization(X: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    """Returns (X - mean) / (standard deviation + 1e-9) over the axes.

    The 1e-9 is that of the specification's function. Source: ONNX MeanVarianceNormalization-13.
    """
    x = X.to(wide(X.dtype))
    dims = [a % X.dim() for a in axes]
    centered = x - x.mean(dims, keepdim=True)
    # The norm has the gradient 0 where sqrt(variance) has none: where all elements are equal.
    count = math.prod([X.shape[d] for d in dims])
    deviation: Tensor = torch.linalg.vector_norm(centered, dim=dims, keepdim=True) / count**0.5
    return (centered / (deviation + 1e-9)).to(X.dtype)
