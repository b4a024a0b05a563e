"""Layer normalization with what stands before it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._precision import wide

__all__: list[str] = []

_DOMAIN = "com.microsoft"


@operator("SimplifiedLayerNormalization", python_only=("outputs",))
def simplified_layer_normalization(
    X: Tensor,
    scale: Tensor,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    outputs: int = 1,
) -> Any:
    """Returns X / sqrt(mean(X^2) + epsilon) * scale over the dimensions from `axis` on.

    onnxruntime writes it into the domain ai.onnx.

    Args:
        X: any shape.
        scale: (the normalized dimensions).
        axis: first of the dimensions that are normalized.
        epsilon: added to the mean of the squares.
        stash_type: element type of the second output; float32.
        outputs: 2: also 1 / sqrt(mean(X^2) + epsilon), with the normalized dimensions kept as 1.

    Source: onnxruntime SimplifiedLayerNormalization-1.
    """
    y, factor = _scaled(X, scale, epsilon, list(range(axis % X.dim(), X.dim())))
    return (y, factor) if outputs > 1 else y


@operator("SkipLayerNormalization", domain=_DOMAIN, python_only=("outputs",))
def skip_layer_normalization(
    input: Tensor,
    skip: Tensor,
    gamma: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    outputs: int = 1,
) -> Any:
    """Returns the layer normalization of s = input + skip + bias over the last dimension.

    Args:
        input: (N, L, C) or (tokens, C).
        skip: the same, or broadcastable to it.
        gamma: (C,), factor.
        beta: (C,), added behind the normalization.
        bias: (C,).
        epsilon: added to the variance.
        outputs: number of outputs: the result, the mean, 1 / sqrt(var + epsilon), s.

    Source: onnxruntime SkipLayerNormalization-1.
    """
    total = input + skip if bias is None else input + skip + bias
    x = total.to(wide(total.dtype))
    y = F.layer_norm(x, x.shape[-1:], gamma.to(x.dtype), None if beta is None else beta.to(x.dtype), epsilon)
    if outputs == 1:
        return y.to(input.dtype)
    var, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return (y.to(input.dtype), mean, torch.rsqrt(var + epsilon), total)[:outputs]


@operator("SkipSimplifiedLayerNormalization", domain=_DOMAIN, python_only=("outputs",))
def skip_simplified_layer_normalization(
    input: Tensor,
    skip: Tensor,
    gamma: Tensor,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    outputs: int = 1,
) -> Any:
    """Returns s / sqrt(mean(s^2) + epsilon) * gamma over the last dimension, with s = input + skip + bias.

    Args:
        input: (N, L, C) or (tokens, C).
        skip: the same, or broadcastable to it.
        gamma: (C,), factor.
        bias: (C,).
        epsilon: added to the mean of the squares.
        outputs: number of outputs: the result, the mean, 1 / sqrt(mean(s^2) + epsilon), s.

    Source: onnxruntime SkipSimplifiedLayerNormalization-1.
    """
    total = input + skip if bias is None else input + skip + bias
    y, factor = _scaled(total, gamma, epsilon, [-1])
    if outputs == 1:
        return y
    return (y, total.to(wide(total.dtype)).mean(-1, keepdim=True), factor, total)[:outputs]


@operator("EmbedLayerNormalization", domain=_DOMAIN, python_only=("outputs",))
def embed_layer_normalization(
    input_ids: Tensor,
    segment_ids: Tensor | None,
    word_embedding: Tensor,
    position_embedding: Tensor,
    segment_embedding: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int | None = None,
    outputs: int = 1,
) -> Any:
    """Returns the layer normalization of the sum of word, position and segment embeddings.

    Args:
        input_ids: (N, L), rows of word_embedding.
        segment_ids: (N, L), rows of segment_embedding.
        word_embedding: (words, C).
        position_embedding: (positions, C).
        segment_embedding: (segments, C).
        gamma: (C,), factor.
        beta: (C,), added behind the normalization.
        mask: (N, L), 1 where a word counts.
        position_ids: (N, L) or (1, L), rows of position_embedding; 0, 1, ... where absent.
        epsilon: added to the variance.
        mask_index_type: whether the second output means something.
        outputs: number of outputs: the result (N, L, C); the number of words that count (N,) int32, 0
            without a mask; the sum of the embeddings.

    Source: onnxruntime EmbedLayerNormalization-1.
    """
    place = slice(input_ids.shape[1]) if position_ids is None else position_ids
    total = word_embedding[input_ids] + position_embedding[place]
    if segment_ids is not None and segment_embedding is not None:
        total = total + segment_embedding[segment_ids]
    y = F.layer_norm(total, total.shape[-1:], gamma, beta, epsilon)
    if outputs == 1:
        return y
    counted = torch.zeros_like(input_ids) if mask is None else (mask == 1)
    return (y, counted.sum(-1).to(torch.int32), total)[:outputs]


def _scaled(x: Tensor, scale: Tensor, epsilon: float, axes: list[int]) -> tuple[Tensor, Tensor]:
    """Returns x / sqrt(mean(x^2) + epsilon) * scale, and the factor 1 / sqrt(...)."""
    y = x.to(wide(x.dtype))
    factor = torch.rsqrt(y.square().mean(axes, keepdim=True) + epsilon)
    return (y * factor * scale).to(scale.dtype), factor
