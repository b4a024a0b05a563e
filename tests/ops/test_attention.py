"""Attention, rotary embeddings and linear attention against the onnx package's reference."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops.standard.attention import attention, flex_attention, rotary_embedding
from qonnx_torch.ops.standard.linear_attention import linear_attention

N, H, G, L, S, E, EV = 2, 4, 2, 3, 5, 6, 4


def numbers(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def heads(dtype: Any = np.float32) -> list[Any]:
    shapes = (N, H, L, E), (N, G, S, E), (N, G, S, EV)
    return [numbers(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]


def packed() -> list[Any]:
    return [x.transpose(0, 2, 1, 3).reshape(N, x.shape[2], -1) for x in heads()]


PAST = [numbers(N, G, 2, E, seed=4), numbers(N, G, 2, EV, seed=5)]
SEEN = np.random.default_rng(0).random((L, S)) < 0.6
ADDED = np.where(SEEN, numbers(L, S), -np.inf).astype(np.float32)
LENGTHS = np.array([5, 2])

ROWS: list[tuple[list[Any], dict[str, Any]]] = [
    (heads(), {}),
    (heads(), {"is_causal": 1}),
    (packed(), {"q_num_heads": H, "kv_num_heads": G}),
    (packed(), {"q_num_heads": H, "kv_num_heads": G, "is_causal": 1, "scale": 0.3}),
    ([*heads(), SEEN], {}),
    ([*heads(), SEEN[None]], {"is_causal": 1}),
    ([*heads(), np.broadcast_to(SEEN, (N, 1, L, S))], {"softcap": 2.0}),
    ([*heads(), ADDED], {"softcap": 2.0, "is_causal": 1}),
    ([*heads(), ADDED[:, :3]], {}),  # the other keys are hidden
    ([*heads(), SEEN[:, :2]], {"is_causal": 1}),
    ([*heads(), None, *PAST], {"is_causal": 1}),
    ([*heads(), numbers(L, S + 2), *PAST], {"softmax_precision": 11}),
    ([*heads(), None, None, None, LENGTHS], {}),
    ([*heads(), None, None, None, LENGTHS], {"is_causal": 1}),  # some queries see no key
    ([*heads(), SEEN, None, None, LENGTHS], {"is_causal": 1}),
    (heads(), {"left_window_size": 1, "right_window_size": 0}),
    ([*heads(), ADDED, None, None, LENGTHS], {"left_window_size": 2, "right_window_size": 1}),
    ([*heads(), None, *PAST], {"left_window_size": 1, "is_causal": 1}),
    ([heads()[0][:, :G], *heads()[1:]], {}),  # as many queries as keys
]


@pytest.mark.parametrize(("inputs", "attributes"), ROWS)
def test_attention(inputs: list[Any], attributes: dict[str, Any], check_node) -> None:
    check_node("Attention", *inputs, tolerance=1e-5, **attributes)
    if len(inputs) < 7:  # present keys and lengths exclude each other
        check_node("Attention", *inputs, outputs=3, tolerance=1e-5, **attributes)


@pytest.mark.parametrize("mode", [1, 2, 3])
def test_stages_of_the_scores(mode: int, check_node) -> None:
    check_node("Attention", *heads(), ADDED, *[None] * 2, outputs=4, tolerance=1e-5, softcap=2.0,
               qk_matmul_output_mode=mode)  # fmt: skip


def test_the_raw_product_is_not_capped() -> None:
    q, k, v = map(torch.from_numpy, heads())
    *_, raw = attention(q, k, v, softcap=0.5, scale=0.25, outputs=4)
    torch.testing.assert_close(raw, 0.25 * q @ k.repeat_interleave(2, 1).transpose(2, 3))


@pytest.mark.parametrize("opset", [23, 24])
def test_versions(opset: int, check_node) -> None:
    check_node("Attention", *heads(), SEEN, opset=opset, tolerance=1e-5, is_causal=1)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 1e-9), (np.float16, 4e-3), (ml_dtypes.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("causal", [0, 1])
def test_other_dtypes(dtype: Any, tolerance: float, causal: int, check_node) -> None:
    check_node("Attention", *heads(dtype), SEEN, tolerance=tolerance, is_causal=causal)


def test_queries_without_keys_give_zeros_and_finite_gradients() -> None:
    q, k, v = (torch.from_numpy(x).requires_grad_() for x in heads())
    mask = torch.tensor([False, True, False])[:, None].expand(L, S)
    for given in (mask, torch.where(mask, 0.0, -torch.inf)):
        y = attention(q, k, v, given)
        assert not y[:, :, [0, 2]].any()
        assert y[:, :, 1].all()
        for gradient in torch.autograd.grad(y.square().sum(), (q, k, v)):
            assert gradient.isfinite().all()


def test_attention_errors() -> None:
    q, k, v = map(torch.from_numpy, packed())
    with pytest.raises(InvalidModelError, match="3-D inputs need q_num_heads"):
        attention(q, k, v)
    with pytest.raises(InvalidModelError, match="past_key and past_value must be given together"):
        attention(*map(torch.from_numpy, heads()), None, torch.from_numpy(PAST[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_flex_attention(dtype: torch.dtype) -> None:
    q, k, v = (torch.from_numpy(x).to(dtype) for x in heads())
    seen = []

    def halved(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.dtype)
        return x / 2

    y = flex_attention(q, k, v, score_mod=halved, prob_mod=halved)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert (y.dtype, seen) == (dtype, [wide, wide])
    q, k, v = (x.double() for x in (q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)))
    expected = torch.softmax(q @ k.transpose(2, 3) / 2 / E**0.5, -1) / 2 @ v
    torch.testing.assert_close(y.double(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("interleaved", "size", "packs", "positions"),
    list(itertools.product([0, 1], [0, 4], [False, True], [0, 1])),
)
def test_rotary_embedding(interleaved: int, size: int, packs: bool, positions: int, check_node) -> None:
    x = packed()[0] if packs else heads()[0]
    half = (size or E) // 2
    shape = (7, half) if positions else (N, L, half)
    ids = [np.random.default_rng(0).integers(0, 7, (N, L))] if positions else []
    given = {"num_heads": H} if packs else {}
    check_node("RotaryEmbedding", x, numbers(*shape), numbers(*shape, seed=1), *ids, tolerance=1e-6,
               interleaved=interleaved, rotary_embedding_dim=size, **given)  # fmt: skip


def test_rotary_embedding_needs_the_number_of_heads() -> None:
    x, cache = torch.zeros(1, 2, 8), torch.zeros(1, 2, 4)
    with pytest.raises(InvalidModelError, match="a 3-D input needs num_heads"):
        rotary_embedding(x, cache, cache)


RULES = [
    ("linear", None, None),
    ("gated", G * E, None),
    ("gated", G, None),
    ("delta", None, G),
    ("delta", None, 1),
    ("gated_delta", G, G),
    ("gated_delta", G * E, 1),
]


@pytest.mark.parametrize(("rule", "decay", "beta"), RULES)
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_linear_attention(
    rule: str, decay: int | None, beta: int | None, state: bool, dtype: Any, check_node
) -> None:
    q, k, v = (numbers(N, L, n, seed=i, dtype=dtype) for i, n in enumerate((H * E, G * E, G * EV)))
    inputs = [
        q, k / 3, v,
        numbers(N, G, E, EV) if state else None,
        None if decay is None else -abs(numbers(N, L, decay, dtype=dtype)),
        None if beta is None else abs(numbers(N, L, beta, dtype=dtype)) / 2,
    ]  # fmt: skip
    check_node("LinearAttention", *inputs, outputs=2, tolerance=1e-5 if dtype is np.float32 else 2e-3,
               q_num_heads=H, kv_num_heads=G, update_rule=rule, scale=0.4 if state else 0.0)  # fmt: skip


def test_linear_attention_errors() -> None:
    q, k, v = (torch.zeros(1, 2, n) for n in (4, 4, 4))
    with pytest.raises(InvalidModelError, match="update_rule 'gated' needs input decay"):
        linear_attention(q, k, v, q_num_heads=2, kv_num_heads=2, update_rule="gated")
    with pytest.raises(InvalidModelError, match="update_rule 'linear' has no input beta"):
        linear_attention(
            q, k, v, None, None, q[:, :, :2], q_num_heads=2, kv_num_heads=2, update_rule="linear"
        )
    with pytest.raises(InvalidModelError, match="update_rule 'none' is none of"):
        linear_attention(q, k, v, q_num_heads=2, kv_num_heads=2, update_rule="none")
