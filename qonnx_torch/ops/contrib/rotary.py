"""Rotary embeddings by position."""

from __future__ import annotations

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard.attention import merge_heads, rotate, split_heads

__all__: list[str] = []


@operator("RotaryEmbedding", domain="com.microsoft")
def rotary_embedding(
    input: Tensor,
    position_ids: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    *,
    interleaved: int = 0,
    is_packed_batching: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
) -> Tensor:
    """Returns the input with the pairs of elements of each head rotated by angles of their position.

    Args:
        input: (N, H, L, E), or (N, L, H E).
        position_ids: (N, L), rows of the caches, or (1,), that of the first token.
        cos_cache: (positions, R / 2).
        sin_cache: the same.
        interleaved: 1 has the elements of a pair side by side; else they are R / 2 apart.
        is_packed_batching: whether batches are ragged; changes nothing here.
        num_heads: H; told by R = E where 0.
        rotary_embedding_dim: R, elements of a head that are rotated; all where 0.
        scale: of the result; 1.

    Returns: the shape of the input.

    Raises:
        InvalidModelError: scale is not 1, which onnxruntime leaves out.

    Source: onnxruntime RotaryEmbedding-1.
    """
    if scale != 1.0:
        raise InvalidModelError(f"RotaryEmbedding: scale {scale} has no defined meaning; it must be 1")
    packed = input.dim() == 3
    heads = num_heads or input.shape[-1] // (2 * cos_cache.shape[-1])
    x = split_heads(input, heads) if packed else input
    if position_ids.dim() == 1:
        position_ids = position_ids + torch.arange(x.shape[2], device=x.device)  # (L,)
    cos, sin = cos_cache[position_ids], sin_cache[position_ids]
    if cos.dim() == 3:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    y = rotate(x, cos, sin, rotary_embedding_dim or 2 * cos_cache.shape[-1], bool(interleaved))
    return merge_heads(y) if packed else y
