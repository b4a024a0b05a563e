"""Operators that onnxruntime's optimizer writes, against onnxruntime."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

import qonnx_torch as qt
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError
from qonnx_torch.ops.contrib.activation import bias_add, bias_softmax, bias_split_gelu
from qonnx_torch.ops.contrib.attention import attention, multi_head_attention
from qonnx_torch.ops.contrib.block_quantized import gather_block_quantized, mat_mul_n_bits
from qonnx_torch.ops.contrib.grouped_attention import group_query_attention
from qonnx_torch.ops.contrib.products import c_dist
from qonnx_torch.ops.contrib.quantized_layers import nhwc_conv
from qonnx_torch.ops.contrib.rotary import rotary_embedding

F32 = np.float32


@pytest.fixture
def check(check_node):
    return partial(check_node, domain="com.microsoft", source="onnxruntime", tolerance=1e-5)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(F32)


def integers(high: int, *shape: int, seed: int = 0, dtype: Any = np.int64) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(0, high, shape).astype(dtype)


X = numbers(2, 3, 8)


def test_activations(check) -> None:
    check("Gelu", X)
    check("FastGelu", X)
    check("FastGelu", X, numbers(8))
    check("BiasGelu", X, numbers(8))
    check("QuickGelu", X)
    check("QuickGelu", X, alpha=0.7)
    check("ScaledSiLU", X, np.array(1.5, F32))
    check("ScaledSiLU", X, alpha=0.7)


def test_activations_that_onnxruntime_has_on_gpus_only() -> None:
    x, bias = torch.from_numpy(X), torch.from_numpy(numbers(8))
    left, right = (x + bias)[..., :4], (x + bias)[..., 4:]
    torch.testing.assert_close(bias_split_gelu(x, bias), left * torch.nn.functional.gelu(right))
    torch.testing.assert_close(bias_add(x, bias, x), 2 * x + bias)
    y = bias_softmax(x, torch.from_numpy(X[0]), axis=1, is_inner_broadcast=0)
    torch.testing.assert_close(y.sum((1, 2)), torch.ones(2))
    inner = torch.from_numpy(numbers(2, 8))
    y = bias_softmax(x, inner, axis=2, is_inner_broadcast=1)
    torch.testing.assert_close(y, torch.softmax(x + inner[:, None], -1))


@pytest.mark.parametrize(("left", "right"), [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("batch", [0, 1])
def test_fused_mat_mul(left: int, right: int, batch: int, check) -> None:
    a, b = numbers(4, 5, 2, 3), numbers(4, 5, 3, 6)
    a, b = (a.swapaxes(2, 3) if left else a), (b.swapaxes(2, 3) if right else b)
    if batch:  # the first dimension of each matrix stands in front
        a, b = np.moveaxis(a, 2, 0), np.moveaxis(b, 2, 0)
    check("FusedMatMul", np.ascontiguousarray(a), np.ascontiguousarray(b), alpha=0.5, transA=left,
          transB=right, transBatchA=batch, transBatchB=batch)  # fmt: skip
    if not batch:
        check("TransposeMatMul", a, b, alpha=0.5, transA=left, transB=right)


def test_vectors_are_not_transposed(check) -> None:
    check("FusedMatMul", numbers(3), numbers(4, 3), transA=1, transB=1)


GEMM_ACTIVATIONS = [
    ("Relu", {}),
    ("LeakyRelu", {"activation_alpha": 0.3}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("HardSigmoid", {"activation_alpha": 0.3, "activation_beta": 0.4}),
    ("Softplus", {}),
    ("Softsign", {}),
    ("Elu", {"activation_alpha": 0.5}),
    ("ThresholdedRelu", {"activation_alpha": 0.5}),
]


@pytest.mark.parametrize(("activation", "attributes"), GEMM_ACTIVATIONS)
def test_fused_gemm(activation: str, attributes: dict[str, float], check) -> None:
    check("FusedGemm", numbers(3, 2), numbers(3, 4), numbers(4), transA=1, alpha=0.7, beta=1.5,
          activation=activation, **attributes)  # fmt: skip


CONV_ACTIVATIONS = [
    ("Relu", ()),
    ("Tanh", ()),
    ("Sigmoid", ()),
    ("LeakyRelu", (0.2,)),
    ("Clip", (-0.5, 1.0)),
    ("HardSigmoid", (0.3, 0.4)),
]


@pytest.mark.parametrize(("activation", "params"), CONV_ACTIVATIONS)
@pytest.mark.parametrize("added", [False, True])
def test_fused_conv(activation: str, params: tuple[float, ...], added: bool, check) -> None:
    z = numbers(2, 5, 6, 4) if added else None
    given = {"activation_params": params} if params else {}
    check("FusedConv", numbers(2, 4, 6, 4), numbers(5, 4, 3, 3), numbers(5), z, activation=activation,
          kernel_shape=[3, 3], pads=[1, 1, 1, 1], **given)  # fmt: skip


def test_fused_conv_with_an_unknown_activation(run_node) -> None:
    with pytest.raises(InvalidModelError, match="activation 'Cube' is not known"):
        run_node(
            "FusedConv", numbers(1, 1, 3, 3), numbers(1, 1, 1, 1), domain="com.microsoft", activation="Cube"
        )


@pytest.mark.parametrize(
    ("bits", "zeros"),
    [*((bits, zeros) for bits in (2, 4, 8) for zeros in ("none", "packed")), (2, "floats"), (4, "floats")],
)
@pytest.mark.parametrize(("size", "columns"), [(16, 40), (32, 20), (16, 32)])
def test_mat_mul_n_bits(bits: int, size: int, columns: int, zeros: str, check_node) -> None:
    """onnxruntime wants the weights as constants; its products differ by more than float32 rounds."""
    rows, blocks = 3, -(-columns // size)
    packed = integers(256, rows, blocks, size * bits // 8, dtype=np.uint8)
    scales = np.abs(numbers(rows, blocks)) / 10
    zero = {
        "none": None,
        "packed": integers(256, rows, -(-blocks * bits // 8), dtype=np.uint8),
        "floats": integers(4, rows, blocks).astype(F32),
    }[zeros]
    inputs = {"a": numbers(2, 4, columns)}
    constants = {"b": packed, "s": scales, "z": zero, "bias": numbers(rows)}
    names = ["a", "b", "s", "z" if zero is not None else "", "", "bias"]
    node = helper.make_node("MatMulNBits", names, ["y"], domain="com.microsoft", K=columns, N=rows,
                            bits=bits, block_size=size)  # fmt: skip
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("a", 1, inputs["a"].shape)],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items() if v is not None],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, inputs)
    actual = qt.import_model(model)(torch.from_numpy(inputs["a"]))
    np.testing.assert_allclose(actual.detach().numpy(), expected, atol=1e-4)


def test_columns_of_mat_mul_n_bits_in_another_order() -> None:
    packed = torch.from_numpy(integers(256, 2, 2, 8, dtype=np.uint8))
    scales = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    a, order = torch.eye(20), torch.arange(20) % 2
    given = {"K": 20, "N": 2, "block_size": 16}
    y = mat_mul_n_bits(a, packed, scales, None, order, **given)
    plain = mat_mul_n_bits(a, packed, torch.ones(2, 2), **given)
    torch.testing.assert_close(y, plain * scales[:, order].t())
    assert not mat_mul_n_bits(a, packed[:0], scales, **given).any()
    with pytest.raises(InvalidModelError, match="weight_prepacked 1, 4 bits"):
        mat_mul_n_bits(a, packed, scales, weight_prepacked=1, **given)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("rows", "axis"), [((5,), 1), ((3, 4), 2)])
def test_gather_block_quantized(rows: tuple[int, ...], axis: int, bits: int, zeros: bool, check) -> None:
    size, blocks = 16, 3
    data = integers(256, *rows, size * blocks * bits // 8, dtype=np.uint8)
    zero = integers(256, *rows, -(-blocks * bits // 8), dtype=np.uint8) if zeros else None
    for indices in (np.array([[1, -1], [0, 2]]), np.array(1)):
        check("GatherBlockQuantized", data, indices, numbers(*rows, blocks), zero, bits=bits, block_size=size,
              gather_axis=0, quantize_axis=axis)  # fmt: skip


def test_gather_block_quantized_of_narrow_types() -> None:
    """As they are held: one value in an element."""
    data = torch.from_numpy(integers(16, 4, 32, dtype=np.int8)) - 8
    scales, zero = torch.from_numpy(numbers(4, 2)), torch.tensor([[1], [2], [3], [4]], dtype=torch.int8)
    values = (data - zero) * scales.repeat_interleave(16, 1)
    index = torch.tensor([3, -4, 7])
    picked = torch.stack((values[3], values[0], torch.zeros(32)))
    given = {"block_size": 16, "quantize_axis": 1}
    zeros = zero.expand(4, 2)
    torch.testing.assert_close(gather_block_quantized(data, index, scales, zeros, **given), picked)
    columns = gather_block_quantized(data, torch.tensor([[31]]), scales, zeros, gather_axis=1, **given)
    torch.testing.assert_close(columns, values[:, 31:].unsqueeze(-1))
    unsigned = (data + 8).to(torch.uint8)
    torch.testing.assert_close(
        gather_block_quantized(unsigned, index[:1], scales, **given, packed=False),
        (unsigned * scales.repeat_interleave(16, 1))[3:],
    )


@pytest.mark.parametrize("element_type", [onnx.TensorProto.UINT4, onnx.TensorProto.UINT8])
def test_gather_block_quantized_of_less_than_a_block(element_type: int) -> None:
    """Bytes of two values and UINT4 look alike in torch; the file tells them apart."""
    narrow = element_type == onnx.TensorProto.UINT4
    data = helper.make_tensor("d", element_type, (5, 8), integers(16 if narrow else 256, 40).tolist())
    zero = helper.make_tensor("z", element_type, (5, 1), [3] * 5)
    graph = helper.make_graph(
        [helper.make_node("GatherBlockQuantized", ["d", "i", "s", "z"], ["y"], domain="com.microsoft",
                          block_size=16)],
        "g",
        [helper.make_tensor_value_info("i", onnx.TensorProto.INT64, [2])],
        [helper.make_tensor_value_info("y", 1, None)],
        [data, numpy_helper.from_array(numbers(5, 1), "s"), zero],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"i": np.array([4, 0])})
    assert expected.shape == (2, 8 if narrow else 16)
    module = qt.import_model(model)
    for own in (module, qt.import_model(qt.export_qonnx(module))):
        np.testing.assert_allclose(own(torch.tensor([4, 0])).detach(), expected)


@pytest.mark.parametrize("skip", [(2, 3, 8), (1, 3, 8), (3, 8)])
@pytest.mark.parametrize("outputs", [1, 4])
def test_skip_layer_normalization(skip: tuple[int, ...], outputs: int, run_node, check) -> None:
    gamma, beta, bias = numbers(8), numbers(8, seed=1), numbers(8, seed=2)
    if outputs == 1:
        check("SkipLayerNormalization", X, numbers(*skip), gamma)
        check("SkipLayerNormalization", X, numbers(*skip), gamma, beta, bias, epsilon=1e-3)
        check("SkipSimplifiedLayerNormalization", X, numbers(*skip), gamma, bias, epsilon=1e-3)
        return
    results = run_node("SkipLayerNormalization", X, numbers(*skip), gamma, beta, bias, outputs=4,
                       domain="com.microsoft", epsilon=1e-3)  # fmt: skip
    total = X + numbers(*skip) + bias
    mean, factor = total.mean(-1, keepdims=True), 1 / np.sqrt(total.var(-1, keepdims=True) + 1e-3)
    for actual, expected in zip(
        results, ((total - mean) * factor * gamma + beta, mean, factor, total), strict=True
    ):
        np.testing.assert_allclose(actual, expected, atol=1e-5)
    results = run_node("SkipSimplifiedLayerNormalization", X, numbers(*skip), gamma, bias, outputs=4,
                       domain="com.microsoft", epsilon=1e-3)  # fmt: skip
    factor = 1 / np.sqrt((total**2).mean(-1, keepdims=True) + 1e-3)
    for actual, expected in zip(results, (total * factor * gamma, mean, factor, total), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("outputs", [1, 2])
def test_simplified_layer_normalization(outputs: int, check_node) -> None:
    check_node("SimplifiedLayerNormalization", X, numbers(8), opset=17, source="onnxruntime", tolerance=1e-5,
               outputs=outputs, epsilon=1e-3)  # fmt: skip


def test_layer_normalization_in_older_operator_sets(check_node) -> None:
    check_node("LayerNormalization", X, numbers(8), numbers(8, seed=1), opset=11, source="onnxruntime",
               tolerance=1e-5)  # fmt: skip


@pytest.mark.parametrize("outputs", [2, 3])
def test_embed_layer_normalization(outputs: int, check) -> None:
    ids, segments = integers(7, 2, 5, dtype=np.int32), integers(2, 2, 5, dtype=np.int32)
    tables = numbers(7, 8), numbers(6, 8), numbers(2, 8)
    scale = numbers(8), numbers(8, seed=1)
    mask = (integers(3, 2, 5) > 0).astype(np.int32)
    check("EmbedLayerNormalization", ids, segments, *tables, *scale, mask, outputs=outputs)
    check("EmbedLayerNormalization", ids, None, *tables[:2], None, *scale, outputs=outputs)
    check("EmbedLayerNormalization", ids, segments, *tables, *scale, None, integers(6, 2, 5, dtype=np.int32),
          outputs=outputs, epsilon=1e-3)  # fmt: skip


N, H, L, P, E = 2, 2, 3, 2, 4
C = H * E
MASKS = {
    "none": None,
    "lengths": np.array([3, 2], np.int32),
    "ends and begins": np.array([3, 2, 1, 0], np.int32),
    "keys": np.array([[1, 1, 0], [0, 1, 1]], np.int32),
    "queries and keys": (integers(3, N, L, L) > 0).astype(np.int32),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("unidirectional", [0, 1])
def test_attention(mask: str, unidirectional: int, check) -> None:
    weights, bias = numbers(6, 3 * C), numbers(3 * C)
    check("Attention", numbers(N, L, 6), weights, bias, MASKS[mask], num_heads=H,
          unidirectional=unidirectional)  # fmt: skip
    check("Attention", numbers(N, L, 6), weights, None, MASKS[mask], None, numbers(1, H, L, L), num_heads=H,
          unidirectional=unidirectional, scale=0.3, mask_filter_value=-50.0)  # fmt: skip


def test_attention_with_a_past_and_other_values(check) -> None:
    x, weights, bias = numbers(N, L, 6), numbers(6, 3 * C), numbers(3 * C)
    past = numbers(2, N, H, P, E)
    check("Attention", x, weights, bias, None, past, outputs=2, num_heads=H, unidirectional=1)
    check("Attention", x, numbers(6, 2 * C + 6), numbers(2 * C + 6), num_heads=H, qkv_hidden_sizes=[C, C, 6])
    with pytest.raises(UnsupportedModelError, match="do_rotary"):
        attention(*map(torch.from_numpy, (x, weights, bias)), num_heads=H, do_rotary=1)


@pytest.mark.parametrize("mask", ["none", "lengths", "keys", "queries and keys"])
@pytest.mark.parametrize("unidirectional", [0, 1])
def test_multi_head_attention(mask: str, unidirectional: int, check) -> None:
    q, k, v = (numbers(N, L, n, seed=n) for n in (C, C, 6))
    given = {"num_heads": H, "unidirectional": unidirectional, "tolerance": 2e-4}  # masked scores are rounded
    check("MultiHeadAttention", q, k, v, numbers(2 * C + 6), MASKS[mask], numbers(N, 1, L, L), **given)
    keys, values = (numbers(N, H, L, E, seed=s) for s in (4, 5))
    check("MultiHeadAttention", q, keys, values, None, MASKS[mask], **given)
    check("MultiHeadAttention", q, keys[:, :, :2], values[:, :, :2], num_heads=H, scale=0.3)


def test_multi_head_attention_with_a_past(check) -> None:
    q, k, v = (numbers(N, L, C, seed=i) for i in range(3))
    past = [numbers(N, H, P, E, seed=i) for i in range(2)]
    check("MultiHeadAttention", q, k, v, None, None, None, *past, outputs=3, num_heads=H, unidirectional=1)


def test_packed_queries_keys_and_values() -> None:
    q, k, v = (torch.from_numpy(numbers(N, L, C, seed=i)) for i in range(3))
    expected = multi_head_attention(q, k, v, num_heads=H)
    keys = torch.stack([x.unflatten(-1, (H, E)) for x in (k, v)], 3)
    torch.testing.assert_close(multi_head_attention(q, keys, num_heads=H), expected)
    everything = torch.stack([x.unflatten(-1, (H, E)) for x in (q, k, v)], 3)
    torch.testing.assert_close(multi_head_attention(everything, num_heads=H), expected)
    with pytest.raises(InvalidModelError, match="keys and values must be given together"):
        multi_head_attention(q, k, num_heads=H)
    with pytest.raises(UnsupportedModelError, match="shared buffer or beams"):
        multi_head_attention(q, k, v, past_sequence_length=torch.tensor(1), num_heads=H)


SIZE, GROUPS = 16, 1
VARIANTS: list[dict[str, Any]] = [
    {},
    {"do_rotary": 1},
    {"do_rotary": 1, "rotary_interleaved": 1},
    {"local_window_size": 2},
    {"softcap": 2.0, "scale": 0.2},
    {"smooth_softmax": 1},
]


def grouped(length: int, past: int, room: int, attributes: dict[str, Any]) -> list[Any]:
    """The inputs of GroupQueryAttention, with a cache of `past` keys and room for more."""
    q, k, v = (numbers(N, length, n * SIZE, seed=i) for i, n in enumerate((H, GROUPS, GROUPS)))
    held = [
        np.pad(numbers(N, GROUPS, past, SIZE, seed=i), [(0, 0)] * 2 + [(0, room), (0, 0)]) for i in (3, 4)
    ]
    caches = [numbers(8, SIZE // 2, seed=i) for i in range(2)] if "do_rotary" in attributes else []
    lengths, total = np.full(N, past + length - 1, np.int32), np.array([past + length], np.int32)
    return [q, k, v, *held, lengths, total, *caches]


@pytest.mark.parametrize("attributes", VARIANTS)
@pytest.mark.parametrize("stage", ["prompt", "next token", "packed"])
def test_group_query_attention(stage: str, attributes: dict[str, Any], check) -> None:
    inputs = grouped(L, 0, 0, attributes) if stage == "prompt" else grouped(1, P, 0, attributes)
    if stage == "packed":
        inputs[:3] = np.concatenate(inputs[:3], -1), None, None
    check("GroupQueryAttention", *inputs, tolerance=2e-4, outputs=3, num_heads=H, kv_num_heads=GROUPS,
          **attributes)  # fmt: skip


@pytest.mark.parametrize("attributes", VARIANTS)
def test_a_cache_with_room(attributes: dict[str, Any], run_node) -> None:
    given = {"domain": "com.microsoft", "outputs": 3, "num_heads": H, "kv_num_heads": GROUPS, **attributes}
    y, *caches = run_node("GroupQueryAttention", *grouped(1, P, 0, attributes), **given)
    y_with_room, *held = run_node("GroupQueryAttention", *grouped(1, P, 4, attributes), **given)
    np.testing.assert_allclose(y_with_room, y, atol=1e-6)
    for ours, theirs in zip(held, caches, strict=True):
        assert ours.shape[2] == P + 4
        np.testing.assert_array_equal(ours[:, :, : P + 1], theirs)


def test_group_query_attention_of_other_inputs(check) -> None:
    q, k, v = numbers(N, L, H * SIZE), numbers(N, L, GROUPS * SIZE), numbers(N, L, GROUPS * SIZE, seed=1)
    empty = [np.zeros((N, GROUPS, 0, SIZE), F32)] * 2
    lengths, total = np.array([L - 1, 0], np.int32), np.array([L], np.int32)
    given = {"num_heads": H, "kv_num_heads": GROUPS, "tolerance": 2e-4}
    check(
        "GroupQueryAttention", q, k, v, *empty, lengths, total, None, None, None, numbers(1, H, L, L), **given
    )
    check("GroupQueryAttention", q, k, v, *empty, lengths, total, *[None] * 4, numbers(H), **given)


def test_group_query_attention_against_its_parts() -> None:
    q, k, v = (torch.from_numpy(numbers(1, L, SIZE, seed=i)) for i in range(3))
    lengths = torch.tensor([L - 1])
    given = {"num_heads": 1, "kv_num_heads": 1, "outputs": 4, "qk_output": 1, "causal": 0}
    weight = torch.from_numpy(numbers(SIZE))
    *_, scores = group_query_attention(
        q, k, v, None, None, lengths, L, *[None] * 7, weight, weight, **given
    )  # fmt: skip
    q, k = (x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight for x in (q, k))
    torch.testing.assert_close(scores[0], q @ k.transpose(1, 2) / 4, rtol=1e-4, atol=1e-4)
    with pytest.raises(UnsupportedModelError, match="a quantized or sliding cache"):
        group_query_attention(
            q, k, v, None, None, lengths, L, num_heads=1, kv_num_heads=1, sliding_window_cache=1
        )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("size", [0, 4])
def test_rotary_embedding(packed: bool, interleaved: int, size: int, check) -> None:
    x = numbers(N, L, H * 6) if packed else numbers(N, H, L, 6)
    caches = [numbers(9, (size or 6) // 2, seed=i) for i in range(2)]
    given = {"rotary_embedding_dim": size, "num_heads": H} if size else {}
    for positions in (np.array([3]), integers(9, N, L)):
        check("RotaryEmbedding", x, positions, *caches, interleaved=interleaved, **given)
    with pytest.raises(InvalidModelError, match=r"scale 2\.0 has no defined meaning"):
        rotary_embedding(*map(torch.from_numpy, (x, positions, *caches)), scale=2.0)


def test_older_spellings(check) -> None:
    check("Trilu", X, np.array(-1, np.int64), upper=0)
    for mode in ("bilinear", "nearest", "bicubic"):
        grid = np.random.default_rng(0).uniform(-1.2, 1.2, (2, 3, 4, 2)).astype(F32)
        check("GridSample", numbers(2, 3, 5, 6), grid, mode=mode, align_corners=1, tolerance=1e-4)
    for pads in ((1, 0, 2, 1), ((1, 0, 2, 1),)):
        check("Pad", numbers(3, 4), pads, np.array([0.5], F32))
        check("Pad", numbers(3, 4), pads, mode="reflect")
    check("Unique", np.array([2, 1, 1, 3, 4, 3], F32), outputs=3)
    check("ExpandDims", X, np.array(-2, np.int32))
    check("GatherND", numbers(3, 4, 5), integers(3, 2, 2))


def test_inverse_and_distances(check) -> None:
    check("Inverse", numbers(2, 3, 3) + 3 * np.eye(3, dtype=F32), tolerance=1e-4)
    for metric in ("euclidean", "sqeuclidean"):
        check("CDist", numbers(3, 4), numbers(5, 4), metric=metric, tolerance=1e-4)
    with pytest.raises(InvalidModelError, match="metric 'cosine' is not euclidean"):
        c_dist(torch.zeros(1, 1), torch.zeros(1, 1), metric="cosine")


def test_an_optimized_model(tmp_path) -> None:
    """What onnxruntime makes of a small network, written by it and read back."""

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)
            self.norm = torch.nn.LayerNorm(8)
            self.conv = torch.nn.Conv1d(8, 8, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(x + self.second(torch.nn.functional.gelu(self.first(x))))
            scores = torch.softmax(x @ x.transpose(1, 2) / 4, -1)
            return torch.relu(self.conv((scores @ x).transpose(1, 2)))

    x = torch.from_numpy(X)
    source, optimized = tmp_path / "source.onnx", tmp_path / "optimized.onnx"
    torch.onnx.export(Block().eval(), (x,), str(source), dynamo=True, opset_version=18, verbose=False)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(str(source), options, ["CPUExecutionProvider"])
    (expected,) = session.run(None, {session.get_inputs()[0].name: X})
    found = {n.op_type for n in onnx.load(optimized).graph.node if n.domain == "com.microsoft"}
    assert {"FusedMatMul", "SkipLayerNormalization", "FusedConv"} <= found
    module = qt.import_model(optimized)
    np.testing.assert_allclose(module(x).detach().numpy(), expected, atol=1e-5)


def test_nhwc_conv_takes_the_channels_last_where_both_orders_fit() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(1, 5, 5, 3, generator=generator), torch.randn(2, 3, 3, 3, generator=generator)
    expected = torch.nn.functional.conv2d(x.movedim(-1, 1), w.movedim(-1, 1)).movedim(1, -1)
    assert torch.equal(nhwc_conv(x, w), expected)
    with pytest.raises(qt.InvalidModelError, match="must have the 3 / 1 channels last"):
        nhwc_conv(x, w[..., :2])
