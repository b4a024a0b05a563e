"""Attention as onnxruntime fuses it: with the projections, biases and masks of BERT and GPT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.errors import InvalidModelError, UnsupportedModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard.attention import merge_heads, split_heads

__all__ = ["attend", "padding_bias"]

_DOMAIN = "com.microsoft"


@operator("Attention", domain=_DOMAIN, python_only=("outputs",))
def attention(
    input: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    mask_index: Tensor | None = None,
    past: Tensor | None = None,
    attention_bias: Tensor | None = None,
    past_sequence_length: Tensor | None = None,
    *,
    do_rotary: int = 0,
    mask_filter_value: float = -10000.0,
    num_heads: int,
    past_present_share_buffer: int = 0,
    qkv_hidden_sizes: Sequence[int] | None = None,
    rotary_embedding_dim: int | None = None,
    scale: float | None = None,
    unidirectional: int = 0,
    outputs: int = 1,
) -> Any:
    """Returns the attention of input @ weights + bias, split into queries, keys and values.

    Args:
        input: (N, L, I).
        weights: (I, C + C + Cv).
        bias: (C + C + Cv,).
        mask_index: which keys count, see `padding_bias`.
        past: (2, N, H, P, C / H), earlier keys and values.
        attention_bias: (N or 1, H or 1, L, P + L), added to the scores.
        past_sequence_length: for a shared buffer, which is not supported.
        do_rotary: only 0 is supported.
        mask_filter_value: what masked scores get added.
        num_heads: H.
        past_present_share_buffer: only 0 is supported.
        qkv_hidden_sizes: C, C and Cv; equal parts where absent.
        rotary_embedding_dim: for do_rotary.
        scale: 1 / sqrt(C / H) where absent.
        unidirectional: 1 hides later keys.
        outputs: 2: also the keys and values of past and present, (2, N, H, P + L, C / H).

    Returns: (N, L, Cv).

    Raises:
        UnsupportedModelError: do_rotary or past_present_share_buffer.

    Source: onnxruntime Attention-1.
    """
    if do_rotary or past_present_share_buffer:
        raise UnsupportedModelError("Attention with do_rotary or past_present_share_buffer is not supported")
    projected = torch.matmul(input, weights)
    projected = projected if bias is None else projected + bias
    sizes = list(qkv_hidden_sizes) if qkv_hidden_sizes else [projected.shape[-1] // 3] * 3
    q, k, v = (split_heads(part, num_heads) for part in projected.split(sizes, -1))
    if past is not None:
        k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
    masked = padding_bias(mask_index, q, k, mask_filter_value)
    before = 0 if past is None else past.shape[3]
    y, _ = attend(q, k, v, masked, attention_bias, scale, causal=bool(unidirectional), past=before)
    y = merge_heads(y)
    return y if outputs == 1 else (y, torch.stack((k, v)))


@operator("MultiHeadAttention", domain=_DOMAIN, python_only=("outputs",))
def multi_head_attention(
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    attention_bias: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    past_sequence_length: Tensor | None = None,
    cache_indirection: Tensor | None = None,
    *,
    mask_filter_value: float = -10000.0,
    num_heads: int,
    scale: float | None = None,
    unidirectional: int = 0,
    outputs: int = 1,
) -> Any:
    """Returns the attention of queries, keys and values, to which a bias may be added first.

    Args:
        query: (N, L, C), or (N, L, H, 3, E) with keys and values.
        key: (N, S, C), or (N, S, H, 2, E) with the values, or (N, H, S, E).
        value: (N, S, Cv), or (N, H, S, Ev).
        bias: (C + C + Cv,); keys and values with four dimensions have theirs already.
        key_padding_mask: which keys count, see `padding_bias`.
        attention_bias: (N or 1, H or 1, L, P + S), added to the scores.
        past_key: (N, H, P, E).
        past_value: (N, H, P, Ev).
        past_sequence_length: for a shared buffer, which is not supported.
        cache_indirection: for a search over beams, which is not supported.
        mask_filter_value: what masked scores get added.
        num_heads: H.
        scale: 1 / sqrt(E) where absent.
        unidirectional: 1 hides later keys.
        outputs: number of outputs: the result; keys and values of past and present (N, H, P + S, E) and
            (N, H, P + S, Ev); the scores with what is added to them (N, H, L, P + S).

    Returns: (N, L, Cv).

    Raises:
        UnsupportedModelError: past_sequence_length or cache_indirection.
        InvalidModelError: keys without values.

    Source: onnxruntime MultiHeadAttention-1.
    """
    if past_sequence_length is not None or cache_indirection is not None:
        raise UnsupportedModelError("MultiHeadAttention with a shared buffer or beams is not supported")
    q, k, v = _separate(query, key, value, bias, num_heads)
    if past_key is not None and past_value is not None:
        k, v = torch.cat((past_key, k), 2), torch.cat((past_value, v), 2)
    masked = padding_bias(key_padding_mask, q, k, mask_filter_value)
    past = 0 if past_key is None else past_key.shape[2]
    y, scores = attend(q, k, v, masked, attention_bias, scale, causal=bool(unidirectional), past=past)
    y = merge_heads(y)
    return y if outputs == 1 else (y, k, v, scores)[:outputs]


def _separate(
    query: Tensor, key: Tensor | None, value: Tensor | None, bias: Tensor | None, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns queries, keys and values as (N, H, L, E), with their biases."""
    if query.dim() == 5:
        q, k, v = (part.flatten(2) for part in query.unbind(3))
    elif key is not None and key.dim() == 5:
        q, (k, v) = query, (part.flatten(2) for part in key.unbind(3))
    elif key is None or value is None:
        raise InvalidModelError("MultiHeadAttention: keys and values must be given together")
    else:
        q, k, v = query, key, value
    if bias is not None:
        values = bias.shape[0] - 2 * q.shape[-1]
        own = bias.split([q.shape[-1], q.shape[-1], values])
        q = q + own[0]
        k, v = (x + b if x.dim() == 3 else x for x, b in ((k, own[1]), (v, own[2])))
    return tuple(split_heads(x, heads) if x.dim() == 3 else x for x in (q, k, v))  # type: ignore[return-value]


def padding_bias(mask: Tensor | None, q: Tensor, k: Tensor, value: float) -> Tensor | None:
    """Returns what hides the keys that do not count, broadcastable to (N, H, L, T).

    Args:
        mask: (N,), how many keys count; (2 N,), where they end and then where they begin; (3 N + 2,), how
            many count and more; (N, T), (N, L, T) or (N, 1, M, M) with M of at least T: not 0 where they
            count.
        q: (N, H, L, E).
        k: (N, H, T, E).
        value: what hidden ones get.
    """
    if mask is None:
        return None
    count, keys = q.shape[0], torch.arange(k.shape[2], device=q.device)
    if mask.dim() == 1:
        seen = keys < mask[:count, None]
        if mask.shape[0] == 2 * count:
            seen = seen & (keys >= mask[count:, None])
        seen = seen[:, None, None]
    elif mask.dim() == 2:
        seen = mask[:, None, None] != 0
    elif mask.dim() == 3:
        seen = mask[:, None] != 0
    else:
        past = k.shape[2] - q.shape[2]
        seen = mask[:, :, past : k.shape[2], : k.shape[2]] != 0
    return torch.where(seen, 0.0, value).to(q.dtype)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    attention_bias: Tensor | None,
    scale: float | None,
    *,
    causal: bool,
    past: int,
) -> tuple[Tensor, Tensor]:
    """Returns the attention (N, H, L, Ev) and its scores (N, H, L, T); the queries stand behind the past."""
    scores = torch.matmul(q, k.transpose(-1, -2)) * (scale or q.shape[-1] ** -0.5)
    for bias in (mask, attention_bias):
        scores = scores if bias is None else scores + bias
    if causal:
        keys = torch.arange(k.shape[2], device=q.device)
        rows = torch.arange(q.shape[2], device=q.device)[:, None]
        seen = (keys <= rows + past) | (rows == q.shape[2] - 1)  # onnxruntime hides nothing from the last one
        scores = torch.where(seen, scores, -torch.inf)
    return torch.matmul(F.softmax(scores, -1), v), scores
