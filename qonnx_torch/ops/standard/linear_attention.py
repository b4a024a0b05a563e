"""Linear attention: a recurrent state in place of the keys and values of the past."""

from __future__ import annotations

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard.attention import merge_heads, split_heads

__all__: list[str] = []

_RULES = {
    "linear": (False, False),
    "gated": (True, False),
    "delta": (False, True),
    "gated_delta": (True, True),
}
"""Update rule -> whether the state decays, and whether what it already returns for a key is taken off."""


@operator("LinearAttention", since_version=27, outputs=2)
def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_state: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    chunk_size: int = 64,
    kv_num_heads: int,
    q_num_heads: int,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
) -> tuple[Tensor, Tensor]:
    """Returns o_t = scale * S_t^T q_t for each step, and the last state.

    S_t = D S_(t-1) + k_t u_t^T with u_t = v_t (linear, gated) or beta_t (v_t - (D S_(t-1))^T k_t) (delta,
    gated_delta); D = exp(decay_t) (gated, gated_delta) or 1.

    Args:
        query: (N, T, H E).
        key: (N, T, G E); G divides H.
        value: (N, T, G Ev).
        past_state: (N, G, E, Ev); zeros where absent.
        decay: (N, T, G E) or (N, T, G), logarithms.
        beta: (N, T, G) or (N, T, 1).
        chunk_size: a hint for other implementations.
        kv_num_heads: G.
        q_num_heads: H.
        scale: 1 / sqrt(E) where 0.
        update_rule: linear, gated, delta or gated_delta.

    Returns:
        (N, T, H Ev) of the query's dtype and (N, G, E, Ev) of the past state's; computed in float32 at least.

    Raises:
        InvalidModelError: an unknown rule, or decay and beta do not suit it.

    Source: ONNX LinearAttention-27.
    """
    if update_rule not in _RULES:
        raise InvalidModelError(f"update_rule {update_rule!r} is none of {sorted(_RULES)}")
    for name, wanted, given in zip(("decay", "beta"), _RULES[update_rule], (decay, beta), strict=True):
        if wanted != (given is not None):
            text = "needs" if wanted else "has no"
            raise InvalidModelError(f"LinearAttention: update_rule {update_rule!r} {text} input {name}")
    dtype = torch.promote_types(query.dtype, torch.float32)
    q, k = split_heads(query.to(dtype), q_num_heads), split_heads(key.to(dtype), kv_num_heads)
    v = split_heads(value.to(dtype), kv_num_heads)
    g = None if decay is None else split_heads(decay.to(dtype), kv_num_heads)
    b = None if beta is None else split_heads(beta.to(dtype), beta.shape[-1])
    size = q.shape[-1]
    state = k.new_zeros((*k.shape[:2], size, v.shape[-1])) if past_state is None else past_state.to(dtype)
    q = q.unflatten(1, (kv_num_heads, -1))  # (N, H, T, E) -> (N, G, H / G, T, E)
    results = []
    for t in range(q.shape[3]):
        if g is not None:
            state = state * g[:, :, t].exp().unsqueeze(-1)
        update = v[:, :, t]
        if b is not None:
            known = torch.einsum("ngde,ngd->nge", state, k[:, :, t])
            update = b[:, :, t] * (update - known)
        state = state + k[:, :, t].unsqueeze(-1) * update.unsqueeze(-2)
        results.append(torch.matmul(q[:, :, :, t], state))  # (N, G, H / G, Ev)
    y = torch.stack(results, 3) if results else q.new_zeros((*q.shape[:4], v.shape[-1]))
    y = (scale or size**-0.5) * merge_heads(y.flatten(1, 2))
    return y.to(query.dtype), state.to(query.dtype if past_state is None else past_state.dtype)
