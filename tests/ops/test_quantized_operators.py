"""Operators on quantized integers, of ONNX and of onnxruntime, against onnxruntime's kernels.

Equal where the results are integers, but for QLinearAdd and the average pools: next to a tie the order of a
sum's roundings decides, which differs between onnxruntime's loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

import qonnx_torch as qt
from qonnx_torch.ops.contrib import quantized
from qonnx_torch.ops.standard import integer_linear

CONTRIB = "com.microsoft"
Draw = Callable[..., Any]


def model_of(
    op_type: str, inputs: Sequence[Any], domain: str, outputs: int, **attributes: Any
) -> onnx.ModelProto:
    """A model of one node with an input for each array (None: left out)."""
    names = ["" if value is None else f"i{k}" for k, value in enumerate(inputs)]
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in zip(names, inputs, strict=True)
        if value is not None
    ]
    results = [f"o{k}" for k in range(outputs)]
    node = helper.make_node(op_type, names, results, domain=domain, **attributes)
    graph = helper.make_graph([node], "g", declared, [onnx.ValueInfoProto(name=o) for o in results])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def both(
    op_type: str, inputs: Sequence[Any], domain: str = CONTRIB, outputs: int = 1, **attributes: Any
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What we and what onnxruntime make of one node."""
    arrays = [None if value is None else np.asarray(value) for value in inputs]
    model = model_of(op_type, arrays, domain, outputs, **attributes)
    feed = {f"i{k}": value for k, value in enumerate(arrays) if value is not None}
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, feed)
    found = qt.import_model(model)(*(torch.from_numpy(v.copy()) for v in feed.values()))
    found = found if isinstance(found, tuple) else (found,)
    return [t.numpy() for t in found], expected


def assert_equal(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


class Random:
    """Integers of a type, scales and zero points."""

    def __init__(self, seed: int, kind: Any = np.uint8) -> None:
        self.generator = np.random.default_rng(seed)
        self.kind = kind

    def integers(self, *shape: int, kind: Any = None) -> np.ndarray:
        limits = np.iinfo(kind or self.kind)
        return self.generator.integers(limits.min, limits.max + 1, shape).astype(kind or self.kind)

    def scale(self, *shape: int, low: float = 0.005, high: float = 0.05) -> np.ndarray:
        return self.generator.uniform(low, high, shape).astype(np.float32)

    def zero(self, kind: Any = None) -> np.ndarray:
        return self.integers(kind=kind)

    def biases(self, *shape: int) -> np.ndarray:
        return self.generator.integers(-5000, 5000, shape).astype(np.int32)


TYPES = [np.uint8, np.int8]
PAIRS = [(np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8)]
every_type = pytest.mark.parametrize("kind", TYPES, ids=lambda k: k.__name__)
every_pair = pytest.mark.parametrize(("kind", "weight"), PAIRS, ids=lambda k: k.__name__)
per_channel = pytest.mark.parametrize("per_channel", [False, True])


@every_pair
@per_channel
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 0, 1, 1], "strides": [1, 2]},
        {"auto_pad": "SAME_LOWER", "dilations": [1, 1]},
        {"dilations": [2, 1]},
    ],
    ids=lambda a: "-".join(a) or "plain",
)
@pytest.mark.parametrize("bias", [False, True])
def test_qlinear_conv(
    kind: Any, weight: Any, per_channel: bool, attributes: dict[str, Any], bias: bool
) -> None:
    r = Random(0, kind)
    channels = (6,) if per_channel else ()
    zero = np.zeros(channels, weight) if weight is np.int8 else np.full(channels, 130, weight)
    inputs = [r.integers(2, 3, 9, 8), r.scale(), r.zero(), r.integers(6, 3, 3, 2, kind=weight)]
    inputs += [r.scale(*channels, low=0.001, high=0.01), zero, r.scale(low=0.05, high=0.3), r.zero()]
    inputs += [r.biases(6)] if bias else []
    assert_equal(*both("QLinearConv", inputs, "", **attributes))
    if attributes.get("auto_pad") is None:
        inputs[0] = np.ascontiguousarray(inputs[0].transpose(0, 2, 3, 1))
        assert_equal(*both("QLinearConv", inputs, channels_last=1, **attributes))


def test_qlinear_conv_in_groups_and_one_dimension() -> None:
    r = Random(1)
    common = [r.scale(), np.zeros((), np.int8), r.scale(low=0.05, high=0.3), r.zero()]
    for shape, filters in (((2, 6, 9, 9), (4, 3, 3, 3)), ((2, 3, 20), (4, 3, 5))):
        inputs = [r.integers(*shape), r.scale(), r.zero(), r.integers(*filters, kind=np.int8), *common]
        assert_equal(*both("QLinearConv", inputs, "", group=shape[1] // filters[1]))


@pytest.mark.parametrize("weight", TYPES, ids=lambda k: k.__name__)
@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_conv_integer(weight: Any, zeros: int) -> None:
    r = Random(2)
    inputs = [r.integers(2, 3, 9, 8), r.integers(5, 3, 3, 3, kind=weight), r.zero(), r.zero(weight)]
    assert_equal(*both("ConvInteger", inputs[: 2 + zeros], "", pads=[1, 1, 0, 1]))


@every_pair
@pytest.mark.parametrize("form", ["none", "scalar", "column"])
def test_mat_mul_integer(kind: Any, weight: Any, form: str) -> None:
    r = Random(3, kind)
    inputs = [r.integers(2, 5, 33), r.integers(33, 7, kind=weight)]
    if form != "none":
        inputs += [r.zero(), r.integers(*((7,) if form == "column" else ()), kind=weight)]
    assert_equal(*both("MatMulInteger", inputs, ""))


def test_mat_mul_integer_per_row() -> None:
    """onnxruntime has none; by hand. A zero point per row may be (M,), or (..., M, 1)."""
    r = Random(4)
    a, b = (torch.from_numpy(r.integers(*s).astype(np.uint8)) for s in ((2, 5, 9), (9, 7)))
    rows = torch.from_numpy(r.integers(5))
    expected = (a.int() - rows.int().reshape(5, 1)) @ b.int()
    assert torch.equal(integer_linear.mat_mul_integer(a, b, rows), expected)
    deep = torch.from_numpy(r.integers(2, 5, 1))
    assert torch.equal(integer_linear.mat_mul_integer(a, b, deep), (a.int() - deep.int()) @ b.int())


def test_sums_wrap_at_32_bits() -> None:
    a = torch.full((1, 40000), 255, dtype=torch.uint8)
    b = torch.full((40000, 1), 255, dtype=torch.uint8)
    exact = 255 * 255 * 40000
    assert int(integer_linear.mat_mul_integer(a, b)) == (exact + 2**31) % 2**32 - 2**31
    assert exact > 2**31


def test_sums_are_exact_under_autocast() -> None:
    r = Random(5)
    a, b = torch.from_numpy(r.integers(8, 200)), torch.from_numpy(r.integers(200, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = integer_linear.mat_mul_integer(a, b)
    assert torch.equal(found, a.int() @ b.int())


@pytest.mark.parametrize("kinds", [(np.int16, np.int16), (np.uint16, np.int16), (np.int16, np.uint16)])
def test_mat_mul_integer_16(kinds: Any) -> None:
    r = Random(6)
    a, b = r.integers(3, 50, kind=kinds[0]), r.integers(50, 4, kind=kinds[1])
    if kinds == (np.int16, np.int16):
        assert_equal(*both("MatMulInteger16", [a, b]))
    exact = a.astype(np.int64) @ b.astype(np.int64)
    found = integer_linear.mat_mul_integer_16(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_array_equal(found.numpy(), exact.astype(np.int32))


@every_pair
@per_channel
def test_qlinear_mat_mul(kind: Any, weight: Any, per_channel: bool) -> None:
    r = Random(7, kind)
    columns = (7,) if per_channel else ()
    inputs = [r.integers(2, 5, 33), r.scale(), r.zero(), r.integers(33, 7, kind=weight)]
    inputs += [r.scale(*columns, low=0.001, high=0.01), r.integers(*columns, kind=weight)]
    inputs += [r.scale(low=0.05, high=0.3), r.zero()]
    assert_equal(*both("QLinearMatMul", inputs, ""))


def test_qlinear_mat_mul_of_float8() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(s, generator=generator).to(torch.float8_e4m3fn) for s in ((3, 5), (5, 4)))
    scales = [torch.tensor(v) for v in (0.5, 0.25, 0.125)]
    zero = torch.zeros((), dtype=torch.float8_e4m3fn)
    y = integer_linear.qlinear_mat_mul(a, scales[0], zero, b, scales[1], zero, scales[2], zero)
    product = (a.float() * 0.5) @ (b.float() * 0.25) / 0.125
    assert torch.equal(y.float(), product.to(torch.float8_e4m3fn).float())


@every_pair
@per_channel
@pytest.mark.parametrize("result", ["integers", "floats"])
@pytest.mark.parametrize("turned", [0, 1])
def test_qgemm(kind: Any, weight: Any, per_channel: bool, result: str, turned: int) -> None:
    r = Random(8, kind)
    columns = (7,) if per_channel else ()
    b = r.integers(*((7, 33) if turned else (33, 7)), kind=weight)
    a = r.integers(*((33, 5) if turned else (5, 33)))
    inputs = [a, r.scale(), r.zero(), b, r.scale(*columns, low=0.001, high=0.01)]
    inputs += [r.integers(*columns, kind=weight), r.biases(5, 7) if turned else r.biases(7)]
    inputs += [r.scale(low=0.05, high=0.3), r.zero()] if result == "integers" else []
    assert_equal(*both("QGemm", inputs, alpha=1.5, transA=turned, transB=turned))


@every_pair
@per_channel
@pytest.mark.parametrize("bias", [False, True])
def test_mat_mul_integer_to_float(kind: Any, weight: Any, per_channel: bool, bias: bool) -> None:
    r = Random(9, kind)
    columns = (7,) if per_channel else ()
    inputs = [r.integers(2, 5, 33), r.integers(33, 7, kind=weight), r.scale(), r.scale(*columns)]
    inputs += [r.zero(), r.integers(*columns, kind=weight)]
    inputs += [r.generator.normal(size=7).astype(np.float32)] if bias else []
    assert_equal(*both("MatMulIntegerToFloat", inputs))


@pytest.mark.parametrize("weight", TYPES, ids=lambda k: k.__name__)
@per_channel
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_dynamic_quantize_mat_mul(weight: Any, per_channel: bool, offset: float) -> None:
    r = Random(10)
    columns = (7,) if per_channel else ()
    a = (r.generator.normal(size=(2, 5, 33)) + offset).astype(np.float32)
    inputs = [a, r.integers(33, 7, kind=weight), r.scale(*columns), r.integers(*columns, kind=weight)]
    assert_equal(*both("DynamicQuantizeMatMul", inputs))


@every_type
@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("shape", [(2, 3, 17, 13), (13,), (3, 1, 1), ()])
def test_elementwise(kind: Any, op_type: str, shape: tuple[int, ...]) -> None:
    different = total = 0
    for seed in range(10):
        r = Random(seed, kind)
        inputs = [r.integers(2, 3, 17, 13), r.scale(), r.zero(), r.integers(*shape), r.scale(), r.zero()]
        (found,), (expected,) = both(op_type, [*inputs, r.scale(), r.zero()])
        different += int((found != expected).sum())
        total += found.size
        assert np.abs(found.astype(int) - expected).max() <= 1
    assert different <= (total * 5e-4 if op_type == "QLinearAdd" else 0)


@every_type
def test_functions_of_one_value(kind: Any) -> None:
    r = Random(11, kind)
    x = np.arange(256).astype(np.uint8).view(kind)
    sixteenth = np.float32(1 / 256)
    assert_equal(*both("QLinearSigmoid", [x, r.scale(), r.zero(), sixteenth, r.zero()]))
    assert_equal(*both("QLinearLeakyRelu", [x, r.scale(), r.zero(), r.scale(), r.zero()], alpha=0.1))


@every_type
@pytest.mark.parametrize(("axis", "opset"), [(-1, 13), (1, 13), (2, 12), (1, 11)])
def test_qlinear_softmax(kind: Any, axis: int, opset: int) -> None:
    r = Random(12, kind)
    zero = np.array(0 if kind is np.uint8 else -128, kind)
    inputs = [r.integers(2, 3, 17, 13), r.scale(low=0.02, high=0.2), r.zero(), np.float32(1 / 256), zero]
    assert_equal(*both("QLinearSoftmax", inputs, axis=axis, opset=opset))


@every_type
def test_selection_and_concatenation(kind: Any) -> None:
    r = Random(13, kind)
    condition = r.integers(17, 13) % 2 == 0
    x, y = r.integers(2, 3, 17, 13), r.integers(3, 1, 13)
    inputs = [condition, x, r.scale(), r.zero(), y, r.scale(), r.zero(), r.scale(), r.zero()]
    assert_equal(*both("QLinearWhere", inputs))
    parts = [x, r.scale(), r.zero(), r.integers(2, 5, 17, 13), r.scale(), r.zero()]
    assert_equal(*both("QLinearConcat", [r.scale(), r.zero(), *parts], axis=1))
    with pytest.raises(qt.InvalidModelError, match="3 per tensor"):
        quantized.qlinear_concat(*(torch.ones(()) for _ in range(4)), axis=0)


@every_type
@pytest.mark.parametrize("last", [0, 1])
def test_pools(kind: Any, last: int) -> None:
    r = Random(14, kind)
    x = r.integers(2, 9, 8, 5) if last else r.integers(2, 5, 9, 8)
    around = [x, r.scale(), r.zero(), r.scale(), r.zero()]
    assert_equal(*both("QLinearGlobalAveragePool", around, channels_last=last))
    for count in (0, 1):
        (found,), (expected,) = both(
            "QLinearAveragePool",
            around,
            channels_last=last,
            count_include_pad=count,
            kernel_shape=[3, 2],
            strides=[2, 1],
            pads=[1, 0, 1, 1],
        )
        assert (found != expected).mean() < 1e-3
        assert np.abs(found.astype(int) - expected).max() <= 1
    if last:
        assert_equal(*both("NhwcMaxPool", [x], kernel_shape=[2, 3], pads=[1, 1, 0, 1], strides=[2, 1]))


def test_reductions_without_kernels_in_onnxruntime() -> None:
    r = Random(15)
    x = torch.from_numpy(r.integers(2, 3, 4))
    scale, zero = torch.tensor(0.1), torch.tensor(7, dtype=torch.uint8)
    from qonnx_torch.ops.contrib import quantized_pools

    mean = quantized_pools.qlinear_reduce_mean(x, scale, zero, scale, zero, axes=[1], keepdims=0)
    expected = torch.round((x.float() - 7).mul(0.1).mean(1) / 0.1) + 7
    assert torch.equal(mean, expected.to(torch.uint8))
    total = quantized_pools.reduce_sum_integer(x, axes=[0, 2], keepdims=1)
    assert total.dtype == torch.uint32
    assert torch.equal(total.to(torch.int64), x.long().sum((0, 2), keepdim=True))
    product = quantized.mul_integer(x, zero, x, None)
    assert torch.equal(product, (x.int() - 7) * x.int())


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int16])
def test_quantize_and_dequantize_of_onnxruntime(kind: Any) -> None:
    r = Random(16, kind)
    x = (r.generator.normal(size=(3, 4)) * 50).astype(np.float32)
    assert_equal(*both("QuantizeLinear", [x, r.scale(), r.zero()]))
    assert_equal(*both("QuantizeLinear", [x, r.scale(4), r.integers(4)], axis=1))
    assert_equal(*both("DequantizeLinear", [r.integers(3, 4), r.scale(3), r.integers(3)], axis=0))


@pytest.mark.parametrize(
    ("op_type", "inputs"),
    [
        ("QLinearAdd", [np.zeros(3, np.uint8), np.float32(1)]),
        ("QLinearMul", [np.zeros(3, np.uint8), np.float32(1), None, np.zeros(3, np.uint8)]),
        ("QLinearSigmoid", [np.zeros(3, np.uint8), np.float32(1)]),
    ],
)
def test_missing_inputs(op_type: str, inputs: list[Any]) -> None:
    arrays = [None if v is None else np.asarray(v) for v in inputs]
    module = qt.import_model(model_of(op_type, arrays, CONTRIB, 1))
    with pytest.raises(qt.InvalidModelError, match=f"{op_type} needs its input"):
        module(*(torch.from_numpy(v) for v in arrays if v is not None))


# -- whole layers ----------------------------------------------------------------------------------


def near(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-6 * max(1.0, float(np.abs(other).max())))


@pytest.mark.parametrize("weight", TYPES, ids=lambda k: k.__name__)
@per_channel
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("peepholes", [False, True])
def test_dynamic_quantize_lstm(weight: Any, per_channel: bool, direction: str, peepholes: bool) -> None:
    r = Random(17)
    count, size = 2 if direction == "bidirectional" else 1, 6
    shape = (count, 4 * size) if per_channel else (count,)
    zero = np.full(shape, 0 if weight is np.int8 else 128, weight)
    normal = r.generator.normal
    inputs: list[Any] = [normal(size=(5, 3, 4)).astype(np.float32)]
    inputs += [r.integers(count, 4, 4 * size, kind=weight), r.integers(count, size, 4 * size, kind=weight)]
    inputs += [normal(size=(count, 8 * size)).astype(np.float32), None]
    inputs += [normal(size=(count, 3, size)).astype(np.float32) for _ in range(2)]
    inputs += [normal(size=(count, 3 * size)).astype(np.float32) if peepholes else None]
    inputs += [r.scale(*shape, low=0.002, high=0.006), zero, r.scale(*shape, low=0.002, high=0.006), zero]
    near(*both("DynamicQuantizeLSTM", inputs, outputs=3, hidden_size=size, direction=direction))


@pytest.mark.parametrize("weight", TYPES, ids=lambda k: k.__name__)
@pytest.mark.parametrize("mask", ["none", "lengths", "ones"])
@pytest.mark.parametrize("causal", [0, 1])
def test_qattention(weight: Any, mask: str, causal: int) -> None:
    r = Random(18)
    masks = {
        "none": None,
        "lengths": np.array([3, 5], np.int32),
        "ones": np.int32([[1, 1, 0, 1, 1], [1] * 5]),
    }
    inputs = [r.integers(2, 5, 8), r.integers(8, 36, kind=weight), r.scale(36), r.scale()]
    inputs += [r.scale(low=0.002, high=0.004), masks[mask], r.zero(), np.array(3, weight)]
    near(*both("QAttention", inputs, num_heads=3, unidirectional=causal))


def test_qattention_with_a_past() -> None:
    r = Random(19)
    past = r.generator.normal(size=(2, 2, 3, 4, 4)).astype(np.float32)
    inputs = [r.integers(2, 5, 8), r.integers(8, 36, kind=np.int8), r.scale(36), r.scale(), r.scale(), None]
    near(*both("QAttention", [*inputs, r.zero(), np.int8(0), past], outputs=2, num_heads=3, unidirectional=1))


@pytest.mark.parametrize("segments", [False, True])
def test_qembed_layer_normalization(segments: bool) -> None:
    r = Random(20)
    ids, kinds = (r.generator.integers(0, n, (2, 5)).astype(np.int32) for n in (11, 2))
    tables: list[Any] = [r.integers(n, 16) for n in (11, 7, 2)] + [r.integers(16), r.integers(16)]
    scales: list[Any] = [r.scale(low=0.01) for _ in range(5)]
    zeros: list[Any] = [r.zero() for _ in range(5)]
    if not segments:
        tables[2] = scales[2] = zeros[2] = None
    mask = np.int32([[1, 1, 1, 0, 0], [1] * 5])
    inputs = [ids, kinds if segments else None, *tables, mask, *scales, *zeros]
    near(*both("QEmbedLayerNormalization", inputs, outputs=2, epsilon=1e-6))


def test_nhwc_conv() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(2, 7, 6, 4, generator=generator), torch.randn(5, 4, 3, 2, generator=generator)
    expected = torch.nn.functional.conv2d(x.movedim(-1, 1), w, padding=(1, 0)).movedim(1, -1)
    from qonnx_torch.ops.contrib import quantized_layers

    found = quantized_layers.nhwc_conv(x, w.movedim(1, -1), pads=[1, 0, 1, 0])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["QLinearConv", "QLinearMatMul"])
def test_they_come_back_from_an_export(name: str) -> None:
    r = Random(21)
    x = r.integers(2, 3, 9, 8) if name == "QLinearConv" else r.integers(2, 33)
    w = r.integers(6, 3, 3, 2) if name == "QLinearConv" else r.integers(33, 7)
    arrays = [x, r.scale(), r.zero(), w, r.scale(), r.zero(), r.scale(low=0.5, high=1.0), r.zero()]
    model = model_of(name, arrays, "", 1)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("o0", onnx.TensorProto.UINT8, None))
    module = qt.import_model(model)
    tensors = [torch.from_numpy(np.asarray(a).copy()) for a in arrays]
    again = qt.import_model(qt.export_qonnx(module))
    assert torch.equal(again(*tensors), module(*tensors))
    compiled = torch.compile(module, fullgraph=True)
    assert torch.equal(compiled(*tensors), module(*tensors))
