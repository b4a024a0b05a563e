"""Attention of groups of heads with a cache of keys and values, as onnxruntime's model builders write it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard.attention import merge_heads, repeat_heads, rotate, split_heads

__all__: list[str] = []


@operator(
    "GroupQueryAttention",
    domain="com.microsoft",
    static=("total_sequence_length",),
    python_only=("outputs",),
)
def group_query_attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    seqlens_k: Tensor,
    total_sequence_length: int,
    cos_cache: Tensor | None = None,
    sin_cache: Tensor | None = None,
    position_ids: Tensor | None = None,
    attention_bias: Tensor | None = None,
    head_sink: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    q_norm_weight: Tensor | None = None,
    k_norm_weight: Tensor | None = None,
    query_seqlens: Tensor | None = None,
    *,
    causal: int = 1,
    do_rotary: int = 0,
    k_norm_epsilon: float | None = None,
    k_quant_type: str = "NONE",
    kv_cache_bit_width: int = 0,
    kv_num_heads: int,
    local_window_size: int = -1,
    num_heads: int,
    q_norm_epsilon: float | None = None,
    qk_norm_epsilon: float = 1e-6,
    qk_output: int = 0,
    rotary_interleaved: int = 0,
    scale: float | None = None,
    sliding_window_cache: int = 0,
    smooth_softmax: int = 0,
    softcap: float = 0.0,
    v_quant_type: str = "NONE",
    outputs: int = 1,
) -> Any:
    """Returns the attention of new queries over cached and new keys and values.

    The new keys of sample n stand at positions seqlens_k[n] + 1 - L and on (0 and on for a first prompt,
    where total_sequence_length = L). A query sees the keys up to its position, the last local_window_size of
    them, that exist (position <= seqlens_k[n]).

    Args:
        query: (N, L, H E), or (N, L, (H + 2 G) E) with keys and values.
        key: (N, L, G E).
        value: (N, L, G E).
        past_key: (N, G, P, E), its first positions filled.
        past_value: the same.
        seqlens_k: (N,), number of keys of each sample, less 1.
        total_sequence_length: largest number of keys, T.
        cos_cache: (positions, R / 2), for do_rotary.
        sin_cache: the same.
        position_ids: (N, L), of the new queries and keys for do_rotary; as above where absent.
        attention_bias: (N or 1, H or 1, L, T), added to the scores.
        head_sink: (H,), a further score of each head that no value goes with.
        k_scale: of a quantized cache, which is not supported.
        v_scale: the same.
        q_norm_weight: (E,): queries are divided by their root mean square, times this.
        k_norm_weight: (E,), the same of the keys.
        query_seqlens: not supported.
        causal: 0 shows later keys too.
        do_rotary: 1 rotates queries and keys by their position.
        k_norm_epsilon: with k_norm_weight.
        k_quant_type: only NONE is supported.
        kv_cache_bit_width: of a quantized cache.
        kv_num_heads: G, which divides H.
        local_window_size: keys that a query sees; -1 for all.
        num_heads: H.
        q_norm_epsilon: with q_norm_weight.
        qk_norm_epsilon: both, where they are absent.
        qk_output: what the fourth output has: 1 the scores, 2 the probabilities.
        rotary_interleaved: 1 has the elements of a rotated pair side by side.
        scale: 1 / sqrt(E) where absent.
        sliding_window_cache: only 0 is supported.
        smooth_softmax: 1 adds a score of 0 that no value goes with.
        softcap: c tanh(score / c); 0 for none.
        v_quant_type: only NONE is supported.
        outputs: number of outputs: the result (N, L, H E), the caches (N, G, max(P, T), E), the scores.

    Raises:
        UnsupportedModelError: a quantized or sliding cache, or query_seqlens.

    Source: onnxruntime GroupQueryAttention-1.
    """
    if sliding_window_cache or query_seqlens is not None or k_scale is not None or v_scale is not None:
        raise UnsupportedModelError("GroupQueryAttention with a quantized or sliding cache is not supported")
    q, k, v = _heads(query, key, value, num_heads, kv_num_heads)
    q = _normed(q, q_norm_weight, qk_norm_epsilon if q_norm_epsilon is None else q_norm_epsilon)
    k = _normed(k, k_norm_weight, qk_norm_epsilon if k_norm_epsilon is None else k_norm_epsilon)
    length = q.shape[2]
    (total,) = total_sequence_length if isinstance(total_sequence_length, tuple) else (total_sequence_length,)
    ends = seqlens_k.reshape(-1).to(torch.int64) + 1  # (N,)
    starts = torch.zeros_like(ends) if total == length else ends - length
    places = starts[:, None] + torch.arange(length, device=q.device)  # (N, L)
    if do_rotary and cos_cache is not None and sin_cache is not None:
        position = places if position_ids is None else position_ids
        cos, sin = (cache[position.clamp(min=0)].unsqueeze(1) for cache in (cos_cache, sin_cache))
        size = 2 * cos_cache.shape[-1]
        q, k = (rotate(x, cos, sin, size, bool(rotary_interleaved)) for x in (q, k))
    keys, values = _cached(past_key, k, places, total), _cached(past_value, v, places, total)
    seen = _seen(places, ends, total, local_window_size, bool(causal))
    scores = torch.matmul(q, repeat_heads(keys[:, :, :total], num_heads).transpose(-1, -2))
    scores = scores * (scale or q.shape[-1] ** -0.5)
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    scores = scores if attention_bias is None else scores + attention_bias
    seen = seen | ~seen.any(-1, keepdim=True)  # what a query without keys gives is open, but no NaN
    scores = torch.where(seen, scores, -torch.inf)
    sink = head_sink.reshape(1, -1, 1, 1) if head_sink is not None else None
    probabilities = _softmax(scores, sink, bool(smooth_softmax))
    y = merge_heads(torch.matmul(probabilities, repeat_heads(values[:, :, :total], num_heads)))
    shown = scores if qk_output == 1 else probabilities
    return y if outputs == 1 else (y, keys, values, shown)[:outputs]


def _heads(
    query: Tensor, key: Tensor | None, value: Tensor | None, heads: int, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns queries (N, H, L, E), keys and values (N, G, L, E)."""
    if key is None or value is None:
        size = query.shape[-1] // (heads + 2 * groups)
        query, key, value = query.split([heads * size, groups * size, groups * size], -1)
    return split_heads(query, heads), split_heads(key, groups), split_heads(value, groups)


def _normed(x: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    """Returns x (..., E) divided by its root mean square, times the weight, if there is one."""
    if weight is None:
        return x
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    factor = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (wide * factor).to(x.dtype) * weight


def _cached(past: Tensor | None, new: Tensor, places: Tensor, total: int) -> Tensor:
    """Returns the cache (N, G, max(P, total), E) with the new entries at their places."""
    held = 0 if past is None else past.shape[2]
    cache = new.new_zeros((*new.shape[:2], max(held, total), new.shape[3]))
    if past is not None:
        cache = torch.cat((past, cache[:, :, held:]), 2)
    index = places[:, None, :, None].expand_as(new)
    return cache.scatter(2, index, new)


def _seen(places: Tensor, ends: Tensor, total: int, window: int, causal: bool) -> Tensor:
    """Returns which keys each query sees, (N, 1, L, total)."""
    keys = torch.arange(total, device=places.device)
    seen = (keys < ends[:, None])[:, None]
    if causal:
        seen = seen & (keys <= places[:, :, None])
    if window > 0:
        seen = seen & (keys > places[:, :, None] - window)
    return seen.unsqueeze(1)


def _softmax(scores: Tensor, sink: Tensor | None, smooth: bool) -> Tensor:
    """Returns the softmax over the last dimension, with one more score that is dropped again."""
    if sink is None and not smooth:
        return torch.softmax(scores, -1)
    extra = torch.zeros_like(scores[..., :1]) if sink is None else sink.to(scores.dtype)
    extra = extra.expand_as(scores[..., :1])
    return torch.softmax(torch.cat((scores, extra), -1), -1)[..., :-1]
