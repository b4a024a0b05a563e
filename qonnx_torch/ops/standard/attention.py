"""Scaled dot-product attention and rotary embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator

__all__ = ["merge_heads", "repeat_heads", "rotate", "split_heads"]


@operator("Attention", since_version=23, python_only=("outputs",))
def attention(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    attn_mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    nonpad_kv_seqlen: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    outputs: int = 1,
) -> Any:
    """Returns softmax(cap(scale * Q K^T) + bias) V.

    The keys and values are those of the past followed by K and V. The bias is -inf where a query at position
    p = offset + its index may not see a key at position j, 0 elsewhere, plus the mask: j > p where is_causal,
    j < p - left_window_size, j > p + right_window_size, j >= nonpad_kv_seqlen. The offset is the length of
    the past, or nonpad_kv_seqlen - L. A query that sees no key gives zeros.

    Args:
        Q: (N, H, L, E), or (N, L, H E) with q_num_heads.
        K: (N, G, S, E), or (N, S, G E) with kv_num_heads; G divides H.
        V: (N, G, S, Ev), or (N, S, G Ev).
        attn_mask: broadcastable to (N, H, L, T), or with a shorter last dimension, which is padded as
            disallowed; bool (True takes part) or added. T = P + S.
        past_key: (N, G, P, E).
        past_value: (N, G, P, Ev).
        nonpad_kv_seqlen: (N,), keys of each sample that count.
        is_causal: 1 hides later keys.
        kv_num_heads: G.
        left_window_size: number of earlier keys that are seen; -1 for all.
        q_num_heads: H.
        qk_matmul_output_mode: what the fourth output has: 0 the product, 1 behind the cap, 2 behind the
            bias, 3 behind the softmax.
        right_window_size: number of later keys that are seen; -1 for all.
        scale: 1 / sqrt(E) where absent.
        softcap: cap(x) = softcap * tanh(x / softcap); 0 for none.
        softmax_precision: ONNX element type in which the softmax computes.
        outputs: number of outputs.

    Returns:
        Y (N, H, L, Ev), or (N, L, H Ev); then present_key (N, G, T, E), present_value (N, G, T, Ev) and
        qk_matmul_output (N, H, L, T).

    Raises:
        InvalidModelError: 3-D inputs without numbers of heads; a past of keys without one of values.

    Source: ONNX Attention-25.
    """
    if (past_key is None) != (past_value is None):
        raise InvalidModelError("Attention: past_key and past_value must be given together")
    packed = Q.dim() == 3
    if packed:
        if not q_num_heads or not kv_num_heads:
            raise InvalidModelError("Attention: 3-D inputs need q_num_heads and kv_num_heads")
        Q, K, V = split_heads(Q, q_num_heads), split_heads(K, kv_num_heads), split_heads(V, kv_num_heads)
    past = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        K, V = torch.cat((past_key, K), 2), torch.cat((past_value, V), 2)
    windows = (left_window_size, right_window_size)
    plain = attn_mask is None and nonpad_kv_seqlen is None and windows == (-1, -1)
    wide = Q.dtype in (torch.float32, torch.float64)
    if (
        wide
        and plain
        and outputs < 4
        and not softcap
        and softmax_precision is None
        and not (is_causal and past)
    ):
        keys, values = repeat_heads(K, Q.shape[1]), repeat_heads(V, Q.shape[1])
        y = F.scaled_dot_product_attention(Q, keys, values, is_causal=bool(is_causal), scale=scale)
        scores = None
    else:
        offset: Any = past if nonpad_kv_seqlen is None else nonpad_kv_seqlen.reshape(-1, 1, 1, 1) - Q.shape[2]
        bias = _bias(Q, K, attn_mask, nonpad_kv_seqlen, offset, bool(is_causal), windows)
        y, scores = _attend(Q, K, V, bias, scale, softcap, softmax_precision, qk_matmul_output_mode)
    y = merge_heads(y) if packed else y
    return y if outputs == 1 else (y, K, V, scores)[:outputs]


@operator("FlexAttention", domain="ai.onnx.preview")
def flex_attention(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    *,
    prob_mod: Callable[[Tensor], Tensor] | None = None,
    scale: float | None = None,
    score_mod: Callable[[Tensor], Tensor] | None = None,
    softmax_precision: int | None = None,
) -> Tensor:
    """Returns prob_mod(softmax(score_mod(scale * Q K^T))) V.

    Args:
        Q: (N, H, L, E).
        K: (N, G, S, E); G divides H.
        V: (N, G, S, Ev).
        prob_mod: (N, H, L, S) -> the same, on the probabilities.
        scale: 1 / sqrt(E) where absent.
        score_mod: (N, H, L, S) -> the same, on the scores.
        softmax_precision: ONNX element type of scores and probabilities; float32 where absent, float64 for
            such inputs.

    Returns: (N, H, L, Ev).

    Source: ONNX FlexAttention-1 (ai.onnx.preview).
    """
    K, V = repeat_heads(K, Q.shape[1]), repeat_heads(V, Q.shape[1])
    widened = torch.float64 if Q.dtype == torch.float64 else torch.float32
    dtype = widened if softmax_precision is None else torch_dtype(softmax_precision)
    scores = _scaled_product(Q, K, scale).to(dtype)
    scores = scores if score_mod is None else score_mod(scores)
    probabilities = torch.softmax(scores, -1)
    probabilities = probabilities if prob_mod is None else prob_mod(probabilities)
    y: Tensor = torch.matmul(probabilities, V.to(dtype)).to(V.dtype)
    return y


@operator("RotaryEmbedding", since_version=23)
def rotary_embedding(
    X: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    position_ids: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int | None = None,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Returns X with the pairs of elements of each head rotated by angles that depend on the position.

    Args:
        X: (N, H, L, E), or (N, L, H E) with num_heads.
        cos_cache: (positions, R / 2) with position_ids, else (N, L, R / 2).
        sin_cache: the same.
        position_ids: (N, L), rows of the caches.
        interleaved: 1 has the elements of a pair side by side; else they are R / 2 apart.
        num_heads: H.
        rotary_embedding_dim: R, elements of a head that are rotated; all where 0.

    Returns: the shape of X.

    Raises:
        InvalidModelError: a 3-D input without num_heads.

    Source: ONNX RotaryEmbedding-23.
    """
    packed = X.dim() == 3
    if packed and not num_heads:
        raise InvalidModelError("RotaryEmbedding: a 3-D input needs num_heads")
    x = split_heads(X, num_heads or 0) if packed else X
    if position_ids is not None:
        cos_cache, sin_cache = cos_cache[position_ids], sin_cache[position_ids]
    y = rotate(x, cos_cache.unsqueeze(1), sin_cache.unsqueeze(1), rotary_embedding_dim, bool(interleaved))
    return merge_heads(y) if packed else y


def rotate(x: Tensor, cos: Tensor, sin: Tensor, size: int, interleaved: bool) -> Tensor:
    """Returns x with its pairs rotated.

    Args:
        x: (..., E).
        cos: broadcastable to (..., size / 2).
        sin: the same.
        size: elements that are rotated, the others stay; all where 0.
        interleaved: whether the elements of a pair stand side by side.
    """
    size = size or x.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        y = torch.stack((cos * a - sin * b, sin * a + cos * b), -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        y = torch.cat((cos * a - sin * b, sin * a + cos * b), -1)
    return torch.cat((y, rest), -1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Returns (N, L, H E) as (N, H, L, E)."""
    y: Tensor = x.unflatten(-1, (heads, -1))
    return y.transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Returns (N, H, L, E) as (N, L, H E)."""
    return x.transpose(1, 2).flatten(2)


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """Returns (N, G, S, E) as (N, heads, S, E): each head serves heads / G queries in a row."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _scaled_product(Q: Tensor, K: Tensor, scale: float | None) -> Tensor:
    """Returns scale * Q K^T, each scaled by the root of it, so that float16 does not overflow."""
    number = (Q.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    root = torch.full((), number, dtype=Q.dtype, device=Q.device)  # rounded to the dtype, as a Cast does
    return torch.matmul(Q * root, (K * root).transpose(-1, -2))


def _bias(
    Q: Tensor,
    K: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    offset: Any,
    causal: bool,
    windows: tuple[int, int],
) -> Tensor | None:
    """Returns what is added to the scores, broadcastable to (N, H, L, T)."""
    keys = torch.arange(K.shape[2], device=Q.device)
    positions = torch.arange(Q.shape[2], device=Q.device)[:, None] + offset
    allowed = [keys <= positions] if causal else []
    left, right = windows
    if left >= 0:
        allowed.append(keys >= positions - left)
    if right >= 0:
        allowed.append(keys <= positions + right)
    if lengths is not None:
        allowed.append(keys < lengths.reshape(-1, 1, 1, 1))
    bias = None
    if mask is not None:
        missing = K.shape[2] - mask.shape[-1]
        if mask.dtype == torch.bool:
            allowed.append(F.pad(mask, (0, missing), value=False))
        else:
            bias = F.pad(mask.to(Q.dtype), (0, missing), value=-torch.inf)
    for seen in allowed:
        hidden = torch.where(seen, 0.0, -torch.inf).to(Q.dtype)
        bias = hidden if bias is None else bias + hidden
    return bias


def _attend(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    bias: Tensor | None,
    scale: float | None,
    softcap: float,
    softmax_precision: int | None,
    mode: int,
) -> tuple[Tensor, Tensor]:
    """Returns the attention (N, H, L, Ev) and what stands at a stage of its scores (N, H, L, T)."""
    stages = [_scaled_product(Q, repeat_heads(K, Q.shape[1]), scale)]
    stages.append(softcap * torch.tanh(stages[0] / softcap) if softcap > 0 else stages[0])
    stages.append(stages[1] if bias is None else stages[1] + bias)
    scores = stages[2] if softmax_precision is None else stages[2].to(torch_dtype(softmax_precision))
    if bias is not None:
        # A row without keys would be 0 / 0, forward and backward: its scores are replaced, its result is 0.
        empty = (bias == -torch.inf).all(-1, keepdim=True)
        probabilities = _softmax(torch.where(empty, 0.0, scores))
        probabilities = torch.where(empty, 0.0, probabilities)
    else:
        probabilities = _softmax(scores)
    stages.append(probabilities.to(Q.dtype))
    y = torch.matmul(stages[3].to(V.dtype), repeat_heads(V, Q.shape[1]))
    return y, stages[mode].to(Q.dtype)


def _softmax(x: Tensor) -> Tensor:
    """Returns the softmax over the last dimension; 16-bit types are rounded at each step, as ONNX does it."""
    if x.dtype not in (torch.float16, torch.bfloat16):
        return torch.softmax(x, -1)
    powers = (x - x.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)
