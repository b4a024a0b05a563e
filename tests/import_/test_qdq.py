"""QuantizeLinear and DequantizeLinear become quantizers, and only where the numbers stay the same."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, fx

import qonnx_torch as qt
import qonnx_torch.nn as qnn

T = TensorProto
CONTRIB = "com.microsoft"
BOUNDS = {
    T.INT8: (-128, 127),
    T.UINT8: (0, 255),
    T.INT16: (-32768, 32767),
    T.UINT16: (0, 65535),
    T.INT4: (-8, 7),
    T.UINT4: (0, 15),
    T.INT2: (-2, 1),
    T.UINT2: (0, 3),
}


def typed(value: Any, element_type: int) -> onnx.TensorProto:
    array = np.asarray(value)
    return numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(element_type)))


def make(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, tuple[Any, int]],
    *,
    x: Sequence[int | str] | None = (2, 3, 4),
    outputs: Sequence[str] = ("y",),
    output_types: Mapping[str, int] | None = None,
    opset: int = 21,
) -> ModelProto:
    """A model with an input x (none where its shape is None) and constants given as (value, element type)."""
    initializers = []
    for name, (value, element_type) in constants.items():
        proto = typed(value, element_type)
        proto.name = name
        initializers.append(proto)
    inputs = [] if x is None else [helper.make_tensor_value_info("x", T.FLOAT, x)]
    types = output_types or {}
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info(o, types.get(o, T.FLOAT), None) for o in outputs],
        initializers,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10 if opset < 25 else 13)


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """A node; inputs and outputs are names with blanks between, `-` stands for an absent one."""
    names = ["" if n == "-" else n for n in inputs.split()]
    return helper.make_node(op_type, names, outputs.split(), name=attributes.pop("name", ""), **attributes)


def pair(x: str = "x", y: str = "y", parameters: str = "s z", **attributes: Any) -> list[NodeProto]:
    return [
        node("QuantizeLinear", f"{x} {parameters}", f"{y}_q", name=f"{y}_QuantizeLinear", **attributes),
        node("DequantizeLinear", f"{y}_q {parameters}", y, name=f"{y}_DequantizeLinear", **attributes),
    ]


SCALE = {"s": (0.1, T.FLOAT)}
U8 = {**SCALE, "z": (0, T.UINT8)}
ODD = {**SCALE, "z": (3, T.UINT8)}


def quantizers(module: fx.GraphModule) -> list[qnn.Quantizer]:
    return [m for m in module.modules() if isinstance(m, qnn.Quantizer)]


def kinds(module: fx.GraphModule) -> list[str]:
    return sorted(type(q).__name__ for q in quantizers(module))


def operators(module: fx.GraphModule) -> list[str]:
    nodes = (n.meta.get("onnx") for n in module.graph.nodes if n.op in ("call_function", "call_module"))
    return [origin.op_type for origin in nodes if origin is not None and origin.op_type != "getitem"]


def hard_values(shape: Sequence[int], scale: float = 0.1, seed: int = 0) -> Tensor:
    """Mostly ties and their neighbours, within the range and outside; infinities."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(-300, 300, shape) + rng.choice([0.0, 0.5, 0.5, 0.25], shape)
    x = (steps * np.float32(scale)).astype(np.float32)
    up = np.nextafter(x, np.float32(np.inf) * rng.choice([-1, 1], shape).astype(np.float32))
    x = np.where(rng.random(shape) < 0.4, up, x)
    x = np.where(rng.random(shape) < 0.03, np.float32(np.inf) * rng.choice([-1, 1], shape), x)
    return torch.from_numpy(x.astype(np.float32))


def both(model: ModelProto, *inputs: Tensor) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The fused and the plain import, after a check that they give the same numbers."""
    fused, plain = qt.import_model(model), qt.import_model(model, fuse_qdq=False)
    with torch.no_grad():
        results, expected = fused(*inputs), plain(*inputs)
    several = isinstance(results, tuple)
    for found, wanted in zip(*((results, expected) if several else ((results,), (expected,))), strict=True):
        assert found.dtype == wanted.dtype
        assert torch.equal(found, wanted)
    return fused, plain


# -- which quantizer -------------------------------------------------------------------------------


@pytest.mark.parametrize("element_type", BOUNDS, ids=T.DataType.Name)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("form", ["scalar", "vector", "axis", "last", "block"])
def test_every_type_and_granularity(element_type: int, offset: int, form: str) -> None:
    shape = {"scalar": (), "vector": (1,), "axis": (3,), "last": (40,), "block": (2, 3, 10)}[form]
    attributes: dict[str, int] = {"axis": {"axis": 1, "last": -1, "block": 2}.get(form, 1)}
    if form == "block":
        attributes["block_size"] = 4
    scale = np.random.default_rng(0).choice([0.1, 0.25, 0.0371], shape).astype(np.float32)
    zero_point = np.full(shape, offset)
    constants = {"s": (scale, T.FLOAT), "z": (zero_point, element_type)}
    opset = 25 if element_type in (T.INT2, T.UINT2) else 21
    model = make(pair(**attributes), constants, x=(2, 3, 40), opset=opset)
    fused, _ = both(model, hard_values((2, 3, 40)))
    standard = not offset and form != "block"
    assert kinds(fused) == ["Quant" if standard else "QuantizeDequantizeLinear"]
    assert operators(fused) == kinds(fused)
    low, high = BOUNDS[element_type]
    (quantizer,) = quantizers(fused)
    assert [int(v) for v in quantizer.integer_range()] == [low, high]


@pytest.mark.parametrize(
    ("element_type", "low", "high", "expected"),
    [
        (T.INT8, -8, 7, (4, True, False)),
        (T.INT8, -7, 7, (4, True, True)),
        (T.INT8, -127, 127, (8, True, True)),
        (T.INT8, -1, 1, (2, True, True)),
        (T.INT8, 0, 127, (7, False, False)),
        (T.UINT8, 0, 15, (4, False, False)),
        (T.UINT8, 0, 254, (8, False, True)),
        (T.UINT8, 0, 1, (1, False, False)),
        (T.UINT8, None, 7, (3, False, False)),
        (T.INT8, -128, None, (8, True, False)),
        (T.INT16, -512, 511, (10, True, False)),
        (T.INT8, -1, 0, None),  # a Quant of one signed bit is bipolar
        (T.INT8, -5, 3, None),
        (T.UINT8, 2, 9, None),
    ],
)
def test_a_clip_is_a_bit_width(element_type: int, low: int | None, high: int | None, expected: Any) -> None:
    constants = {**SCALE, "z": (0, element_type)}
    names = ["q"]
    for name, end in (("low", low), ("high", high)):
        names.append("-" if end is None else name)
        if end is not None:
            constants[name] = (end, element_type)
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("Clip", " ".join(names), "c"),
        node("DequantizeLinear", "c s z", "y"),
    ]
    fused, _ = both(make(nodes, constants), hard_values((2, 3, 4)))
    (quantizer,) = quantizers(fused)
    if expected is None:
        assert isinstance(quantizer, qnn.QuantizeDequantizeLinear)
        assert (quantizer.low, quantizer.high) == (low, high)
    else:
        assert isinstance(quantizer, qnn.Quant)
        assert (int(quantizer.bit_width), quantizer.signed, quantizer.narrow) == expected


@pytest.mark.parametrize("constants_as", ["initializers", "nodes"])
def test_constants_of_either_kind(constants_as: str) -> None:
    model = make([*pair(), node("Relu", "y", "out")], {**ODD, "unread": (1, T.INT8)}, outputs=["out"])
    if constants_as == "nodes":
        graph = model.graph
        for initializer in list(graph.initializer):
            constant = helper.make_node("Constant", [], [initializer.name], value=initializer)
            graph.node.insert(0, constant)
        del graph.initializer[:]
    fused, _ = both(model, hard_values((2, 3, 4)))
    assert kinds(fused) == ["QuantizeDequantizeLinear"]


@pytest.mark.parametrize("element_type", [T.FLOAT16, T.BFLOAT16], ids=T.DataType.Name)
@pytest.mark.parametrize("offset", [0, 3])
def test_half_precision(element_type: int, offset: int) -> None:
    model = make(pair(), {"s": (0.0371, element_type), "z": (offset, T.INT8)})
    model.graph.input[0].type.tensor_type.elem_type = element_type
    model.graph.output[0].type.tensor_type.elem_type = element_type
    dtype = torch.float16 if element_type == T.FLOAT16 else torch.bfloat16
    fused, _ = both(model, hard_values((2, 3, 4), 0.0371).to(dtype))
    assert kinds(fused) == ["QuantizeDequantizeLinear"]


FLOATS = {
    T.FLOAT8E4M3FN: 19,
    T.FLOAT8E4M3FNUZ: 19,
    T.FLOAT8E5M2: 19,
    T.FLOAT8E5M2FNUZ: 19,
    T.FLOAT4E2M1: 23,
}


@pytest.mark.parametrize("element_type", FLOATS, ids=T.DataType.Name)
@pytest.mark.parametrize("scale", [1.0, 0.25, 0.0371, 448.0])
def test_small_floats_exhaustively(element_type: int, scale: float) -> None:
    """All values of the type, all ties between two of them, the neighbours of both, and far outside."""
    dtype = helper.tensor_dtype_to_np_dtype(element_type)
    codes = np.arange(16 if element_type == T.FLOAT4E2M1 else 256, dtype=np.uint8)
    grid = codes.view(dtype).astype(np.float64) if element_type != T.FLOAT4E2M1 else E2M1
    grid = np.unique(grid[np.isfinite(grid)])
    exact = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2, grid * 1.5, [grid[-1] * 1e6, 1e-30]])
    x = (exact * scale).astype(np.float32)
    x = np.concatenate([x, *(np.nextafter(x, np.float32(e)) for e in (-np.inf, np.inf))])
    random = np.random.default_rng(0).normal(size=20000) * np.abs(grid).max() * scale
    x = np.concatenate([x, random.astype(np.float32), np.float32([0.0, -0.0, 1e-45, -1e-45])])
    constants = {"s": (scale, T.FLOAT), "z": (0, element_type)}
    model = make(pair(), constants, x=[len(x)], opset=FLOATS[element_type])
    fused, plain = both(model, torch.from_numpy(x))
    assert kinds(fused) == ["FloatQuant"]
    infinite = torch.full((len(x),), torch.inf)
    assert fused(infinite).isnan().all()  # as qonnx does it
    assert plain(infinite).isfinite().all()


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E2M1 = np.concatenate([-E2M1, E2M1])


def test_what_nan_becomes() -> None:
    """A quantizer passes NaN on; what QuantizeLinear makes of it is undefined."""
    for constants in (U8, ODD):
        assert qt.import_model(make(pair(), constants))(torch.full((2, 3, 4), torch.nan)).isnan().all()


def test_the_sign_of_zero() -> None:
    """QuantizeDequantizeLinear keeps it as DequantizeLinear gives it; Quant, as qonnx has it, does not."""
    x = torch.full((2, 3, 4), -0.01)
    for offset, negative in ((0, True), (3, False)):
        y = qt.import_model(make(pair(), {**SCALE, "z": (offset, T.INT8)}))(x)
        assert torch.equal(y, torch.zeros_like(x))
        assert bool(y.signbit().all()) is negative
        assert bool(y.signbit().any()) is negative


# -- integer weights -------------------------------------------------------------------------------


def weights(element_type: int, shape: tuple[int, ...] = (3, 4)) -> tuple[np.ndarray, int]:
    low, high = BOUNDS[element_type]
    integers = np.random.default_rng(0).integers(low, high + 1, shape)
    integers.reshape(-1)[:2] = low, high
    return integers, element_type


@pytest.mark.parametrize("element_type", BOUNDS, ids=T.DataType.Name)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("form", ["tensor", "axis", "block"])
def test_integer_weights_are_float_parameters(element_type: int, offset: int, form: str) -> None:
    shape = {"tensor": (), "axis": (3,), "block": (3, 2)}[form]
    attributes = {"axis": 0} if form == "axis" else {"axis": 1, "block_size": 2} if form == "block" else {}
    scale = np.random.default_rng(1).uniform(0.001, 0.1, shape).astype(np.float32)
    constants = {
        "layer.weight": weights(element_type),
        "s": (scale, T.FLOAT),
        "z": (np.full(shape, offset), element_type),
    }
    nodes = [
        node("DequantizeLinear", "layer.weight s z", "w", **attributes),
        node("Gemm", "x w", "y", transB=1),
    ]
    opset = 25 if element_type in (T.INT2, T.UINT2) else 21
    fused, plain = both(make(nodes, constants, x=(2, 4), opset=opset), torch.randn(2, 4))
    parameters = dict(fused.named_parameters())
    assert list(parameters) == ["layer.weight"]
    assert parameters["layer.weight"].dtype == torch.float32
    fused(torch.randn(2, 4)).square().sum().backward()
    assert parameters["layer.weight"].grad.abs().sum() > 0
    assert "layer.weight" in dict(plain.named_buffers())
    standard = not offset and form != "block"
    assert kinds(fused) == ["Quant" if standard else "QuantizeDequantizeLinear"]


@pytest.mark.parametrize("element_type", [t for t in FLOATS if t != T.FLOAT4E2M1], ids=T.DataType.Name)
def test_weights_of_small_floats(element_type: int) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4)) * 3
    constants = {"w8": (values.astype(np.float32), element_type), **SCALE}
    nodes = [node("DequantizeLinear", "w8 s", "w"), node("Gemm", "x w", "y", transB=1)]
    fused, _ = both(make(nodes, constants, x=(2, 4)), torch.randn(2, 4))
    assert kinds(fused) == ["FloatQuant"]
    assert [n for n, _ in fused.named_parameters()] == ["w8"]


@pytest.mark.parametrize("element_type", FLOATS, ids=T.DataType.Name)
def test_weights_of_small_floats_that_stay_are_buffers(element_type: int) -> None:
    """torch cannot add gradients of these types, and a step would leave their grid."""
    opset = 25 if element_type == T.FLOAT4E2M1 else 21
    constants = {"w8": (np.arange(8.0).reshape(4, 2) % 5, element_type), "s": (np.full((2, 2), 0.1), T.FLOAT)}
    constants["z"] = (np.zeros((2, 2)), element_type)
    nodes = [
        node("DequantizeLinear", "w8 s z", "w", axis=0, block_size=2),
        node("DequantizeLinear", "w8 s z", "v", axis=0, block_size=2),
        node("Add", "w v", "u"),
        node("MatMul", "x u", "y"),
    ]
    for fuse in (True, False):
        module = qt.import_model(make(nodes, constants, x=(2, 4), opset=opset), fuse_qdq=fuse)
        assert [n for n, _ in module.named_parameters()] == ["s"]
        assert {"w8", "z"} <= {n for n, _ in module.named_buffers()}
        x = torch.randn(2, 4, requires_grad=True)
        module(x).sum().backward()
        assert x.grad.abs().sum() > 0
        assert module.get_parameter("s").grad.abs().sum() > 0
        exported = qt.export_qonnx(module)
        assert torch.equal(qt.import_model(exported)(x), module(x))


@pytest.mark.parametrize("digits", [10, 22, 31])
def test_biases_of_32_bits(digits: int) -> None:
    """float32 has 24 digits: integers with more come back as the neighbour that is the same float."""
    rng = np.random.default_rng(0)
    constants = {
        "bias": (rng.integers(-(2**digits), 2**digits, 1000), T.INT32),
        "s": (rng.uniform(1e-4, 1e-1, 1000), T.FLOAT),
    }
    nodes = [node("DequantizeLinear", "bias s", "b", axis=0), node("Add", "x b", "y")]
    fused, _ = both(make(nodes, constants, x=(2, 3, 1000)), torch.randn(2, 3, 1000))
    assert operators(fused) == ["Quant", "Add"]
    assert [int(quantizer.bit_width) for quantizer in quantizers(fused)] == [32]


def test_weights_that_do_not_come_back_stay() -> None:
    """The products of 16 bit integers need more digits than a scale of half precision leaves them."""
    constants = {"w16": weights(T.INT16, (3, 400)), "s": (0.00371, T.FLOAT16)}
    nodes = [node("DequantizeLinear", "w16 s", "w"), node("Cast", "w", "y", to=T.FLOAT)]
    fused, _ = both(make([*nodes, node("Add", "x y", "z")], constants, x=(3, 400), outputs=["z"]), X400)
    assert operators(fused) == ["DequantizeLinear", "Cast", "Add"]


X400 = torch.randn(3, 400, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [0.0, -0.1, np.inf, np.nan])
def test_scales_that_are_no_steps_stay(scale: float) -> None:
    constants = {"w8": weights(T.INT8), "s": (np.float32(scale), T.FLOAT), "z": (0, T.UINT8)}
    nodes = [*pair(y="h"), node("DequantizeLinear", "w8 s", "w"), node("Gemm", "h w", "y", transB=1)]
    assert kinds(qt.import_model(make(nodes, constants))) == []


def test_scales_of_denormals() -> None:
    """They hold few digits: a weight is fused only where each of its elements comes back."""
    constants = {"w8": weights(T.INT8), "s": (np.float32(1e-44), T.FLOAT)}
    nodes = [node("DequantizeLinear", "w8 s", "w"), node("Gemm", "x w", "y", transB=1)]
    both(make(nodes, constants, x=(2, 4)), torch.randn(2, 4))


def test_clipped_weights() -> None:
    """Brevitas writes a Clip behind its integer weights, too."""
    constants = {**U8, "w8": (np.array([[-100, 7, 3, -7]]), T.INT8), "zw": (0, T.INT8)}
    constants |= {"low": (-7, T.INT8), "high": (7, T.INT8)}
    nodes = [
        node("Clip", "w8 low high", "c"),
        node("DequantizeLinear", "c s zw", "w"),
        node("Gemm", "x w", "y", transB=1),
    ]
    fused, _ = both(make(nodes, constants, x=(2, 4)), torch.randn(2, 4))
    (quantizer,) = quantizers(fused)
    assert (int(quantizer.bit_width), quantizer.narrow) == (4, True)
    torch.testing.assert_close(fused.get_parameter("w8"), torch.tensor([[-0.7, 0.7, 0.3, -0.7]]))


def test_one_weight_read_twice() -> None:
    """Two DequantizeLinear of the same numbers are one quantizer; of other numbers each has its floats."""
    constants = {"w8": weights(T.INT8, (4, 4)), "s": (0.1, T.FLOAT), "t": (0.2, T.FLOAT)}
    nodes = [
        node("DequantizeLinear", "w8 s", "a"),
        node("DequantizeLinear", "w8 s", "b"),
        node("MatMul", "x a", "h"),
        node("MatMul", "h b", "y"),
    ]
    fused, _ = both(make(nodes, constants, x=(2, 4)), torch.randn(2, 4))
    assert operators(fused) == ["Quant", "MatMul", "MatMul"]
    nodes[1] = node("DequantizeLinear", "w8 t", "b")
    fused, plain = both(make(nodes, constants, x=(2, 4)), torch.randn(2, 4))
    assert kinds(fused) == ["Quant", "Quant"]
    parameters = dict(fused.named_parameters())
    assert sorted(parameters) == ["w8", "w8_1"]
    assert not torch.equal(parameters["w8"], parameters["w8_1"])
    x = torch.randn(2, 4)
    fused(x).sum().backward()
    assert all(p.grad is not None for p in parameters.values())
    assert torch.equal(qt.import_model(qt.export_qonnx(fused))(x), plain(x))


def test_a_bias_of_zeros_that_layers_share() -> None:
    """Tools make equal constants one; the layers learn biases of their own."""
    constants = {"b0": (np.zeros(4), T.INT32), **{f"s{i}": (0.1 * i, T.FLOAT) for i in (1, 2, 3)}}
    nodes = [node("DequantizeLinear", f"b0 s{i}", f"b{i}") for i in (1, 2, 3)]
    nodes += [node("Sum", "x b1 b2 b3 b1", "y")]
    fused, _ = both(make(nodes, constants, x=(2, 4)), torch.randn(2, 4))
    assert sorted(n for n, _ in fused.named_parameters()) == ["b0", "b0_1", "b0_2"]


def test_an_embedding_of_integers() -> None:
    """A Gather of an integer table: the table trains."""
    constants = {"table": weights(T.INT8, (5, 4)), **SCALE, "i": ([0, 3, 3], T.INT64)}
    nodes = [
        node("Gather", "table i", "rows"),
        node("DequantizeLinear", "rows s", "e"),
        node("Add", "x e", "y"),
    ]
    fused, _ = both(make(nodes, constants, x=(3, 4)), torch.randn(3, 4))
    assert operators(fused) == ["Quant", "Gather", "Add"]
    assert fused.get_parameter("table").shape == (5, 4)


@pytest.mark.parametrize("offset", [0, 2])
@pytest.mark.parametrize("form", ["tensor", "axis"])
def test_weights_that_are_read_as_integers_too_are_quantized_again(offset: int, form: str) -> None:
    """One weight stays one: what reads the integers gets those of the trained weight."""
    shape, attributes = ((), {}) if form == "tensor" else ((4,), {"axis": 0})
    constants = {"w8": weights(T.INT8, (4, 4)), "s": (np.full(shape, 0.1), T.FLOAT), "u": (0.1, T.FLOAT)}
    constants |= {"z": (np.full(shape, offset), T.INT8), "zu": (3, T.UINT8)}
    nodes = [
        node("DequantizeLinear", "w8 s" + " z" * bool(offset), "w", **attributes),
        node("MatMul", "x w", "h"),
        node("QuantizeLinear", "h u zu", "hq"),
        node("MatMulInteger", "hq w8", "n"),
        node("Identity", "w8", "integers"),
    ]
    types = {"n": T.INT32, "integers": T.INT8}
    model = make(nodes, constants, x=(2, 4), outputs=["h", "n", "integers"], output_types=types)
    fused, _ = both(model, torch.randn(2, 4))
    assert len(kinds(fused)) == 1
    weight = fused.get_parameter("w8")
    fused(torch.randn(2, 4))[0].sum().backward()
    assert weight.grad is not None
    with torch.no_grad():
        weight.add_(1.0).clamp_(-10, 10)
    y, n, integers = fused(X4)
    expected = torch.round(weight / 0.1) + offset
    assert torch.equal(integers, expected.clamp(-128, 127).to(torch.int8))
    torch.testing.assert_close(y, X4 @ ((integers.float() - offset) * 0.1))
    exported = qt.export_qonnx(fused)
    onnx.checker.check_model(exported, full_check=True)
    assert all(
        torch.equal(*pair) for pair in zip(qt.import_model(exported)(X4), (y, n, integers), strict=True)
    )


X4 = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def test_integers_that_an_output_shows_stay() -> None:
    constants = {"w8": weights(T.INT8, (4, 4)), **SCALE}
    nodes = [node("DequantizeLinear", "w8 s", "w"), node("MatMul", "x w", "y")]
    model = make(nodes, constants, x=(2, 4), outputs=["y", "w8"], output_types={"w8": T.INT8})
    fused, _ = both(model, torch.randn(2, 4))
    assert kinds(fused) == []


def test_scales_that_are_quantized_are_no_weights() -> None:
    """Scales per row, themselves in 8 bits: constants, of which the weight's quantizer has the product."""
    constants = {
        "w8": weights(T.INT8, (4, 4)),
        "s8": ([10, 20, 30, 40], T.UINT8),
        **SCALE,
        "z": (np.zeros(4), T.INT8),
    }
    nodes = [
        node("DequantizeLinear", "s8 s", "rows"),
        node("DequantizeLinear", "w8 rows z", "w", axis=0),
        node("MatMul", "x w", "y"),
    ]
    fused, plain = both(make(nodes, constants, x=(2, 4)), torch.randn(2, 4))
    assert operators(fused) == ["Quant", "MatMul"]
    assert [n for n, _ in fused.named_parameters()] == ["w8"]
    exported = qt.export_qonnx(fused)
    assert "rows" in [i.name for i in exported.graph.initializer]
    assert torch.equal(qt.import_model(exported)(X4), plain(X4))


# -- parameters that nodes compute from constants --------------------------------------------------

CHAINS: dict[str, tuple[list[NodeProto], dict[str, Any]]] = {
    "identity": ([node("Identity", "a", "s")], {"a": (0.1, T.FLOAT)}),
    "identities": ([node("Identity", "a", "b"), node("Identity", "b", "s")], {"a": (0.1, T.FLOAT)}),
    "cast": ([node("Cast", "a", "s", to=T.FLOAT)], {"a": (0.1, T.FLOAT16)}),
    "reshape": ([node("Reshape", "a shape", "s")], {"a": ([0.1], T.FLOAT), "shape": ([], T.INT64)}),
    "squeeze": ([node("Squeeze", "a", "s")], {"a": ([[0.1]], T.FLOAT)}),
    "unsqueeze": (
        [node("Unsqueeze", "a axes", "s")],
        {"a": (0.1, T.FLOAT), "axes": ([0], T.INT64)},
    ),
    "product": ([node("Mul", "a b", "s")], {"a": (0.2, T.FLOAT), "b": (0.5, T.FLOAT)}),
    "power": ([node("Pow", "two a", "s")], {"two": (2.0, T.FLOAT), "a": (-3.0, T.FLOAT)}),
    "largest": (
        [node("Abs", "a", "b"), node("ReduceMax", "b", "top", keepdims=0), node("Div", "top n", "s")],
        {"a": ([-3.0, 12.7], T.FLOAT), "n": (127.0, T.FLOAT)},
    ),
    "piece": (
        [node("Split", "a", "b c", num_outputs=2), node("Squeeze", "c", "s")],
        {"a": ([0.3, 0.1], T.FLOAT)},
    ),
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("side", ["both", "quantize", "dequantize"])
def test_a_scale_computed_from_constants(chain: str, side: str) -> None:
    """As torch's exporter writes it: quantizers of one scale read it through an Identity."""
    nodes, constants = CHAINS[chain]
    plain_model = make([*nodes, node("Identity", "s", "y")], constants, outputs=["y"])
    direct = qt.import_model(plain_model)(torch.zeros(2, 3, 4))
    constants = {
        **constants,
        "w": (np.eye(4), T.FLOAT),
        "z": (3, T.UINT8),
        "direct": (direct.detach(), T.FLOAT),
    }
    names = ["direct" if side == "dequantize" else "s", "direct" if side == "quantize" else "s"]
    nodes = [
        node("MatMul", "x w", "m"),
        *nodes,
        node("QuantizeLinear", f"m {names[0]} z", "q"),
        node("DequantizeLinear", f"q {names[1]} z", "y"),
    ]
    fused, _ = both(make(nodes, constants), hard_values((2, 3, 4)).clamp(-50, 50))
    assert operators(fused) == ["MatMul", "QuantizeDequantizeLinear"]
    assert [n for n, _ in fused.named_parameters()] == ["w"]
    fused(torch.randn(2, 3, 4)).sum().backward()
    assert fused.get_parameter("w").grad.abs().sum() > 0
    exported = qt.export_qonnx(fused)
    onnx.checker.check_model(exported, full_check=True)
    assert [n.op_type for n in exported.graph.node] == ["MatMul", "QuantizeLinear", "DequantizeLinear"]
    x = torch.randn(2, 3, 4)
    assert torch.equal(qt.import_model(exported)(x), fused(x))


def test_a_zero_point_computed_from_constants() -> None:
    nodes = [node("Cast", "a", "z", to=T.UINT8), *pair()]
    fused, _ = both(make(nodes, {**SCALE, "a": (3.0, T.FLOAT)}), hard_values((2, 3, 4)))
    assert operators(fused) == ["QuantizeDequantizeLinear"]
    assert int(quantizers(fused)[0].zero_point) == 3


def test_a_chain_that_something_else_reads_stays() -> None:
    nodes = [node("Identity", "a", "s"), *pair(), node("Mul", "y s", "out")]
    constants = {"a": (0.1, T.FLOAT), "z": (3, T.UINT8)}
    fused, _ = both(make(nodes, constants, outputs=["out"]), hard_values((2, 3, 4)))
    assert operators(fused) == ["Identity", "QuantizeDequantizeLinear", "Mul"]


def test_a_chain_around_a_subgraph() -> None:
    then = helper.make_graph(pair("x", "t"), "then", [], [helper.make_tensor_value_info("t", T.FLOAT, None)])
    other = helper.make_graph(
        [node("Neg", "x", "e")], "else", [], [helper.make_tensor_value_info("e", T.FLOAT, None)]
    )
    nodes = [
        node("Identity", "a", "s"),
        node("ReduceSum", "x", "total", keepdims=0),
        node("Greater", "total zero", "condition"),
        helper.make_node("If", ["condition"], ["y"], then_branch=then, else_branch=other),
    ]
    model = make(nodes, {"a": (0.1, T.FLOAT), "z": (3, T.UINT8), "zero": (0.0, T.FLOAT)})
    fused, _ = both(model, torch.rand(2, 3, 4))
    assert kinds(fused) == ["QuantizeDequantizeLinear"]


def test_scales_of_a_large_table() -> None:
    """More of them than of any shape: 5000 rows in half precision, read through a Cast."""
    scale = np.random.default_rng(0).uniform(0.001, 0.01, 5000)
    table = np.random.default_rng(1).integers(-128, 128, (5000, 4))
    constants = {"table": (table, T.INT8), "half": (scale, T.FLOAT16), "i": ([0, 4999], T.INT64)}
    nodes = [
        node("Cast", "half", "s", to=T.FLOAT),
        node("DequantizeLinear", "table s", "rows", axis=0),
        node("Gather", "rows i", "e"),
        node("Add", "x e", "y"),
    ]
    fused, _ = both(make(nodes, constants, x=(2, 4)), torch.randn(2, 4))
    assert operators(fused) == ["Quant", "Gather", "Add"]


# -- what lies around the pair ---------------------------------------------------------------------


def test_several_ends_are_one_quantizer() -> None:
    nodes = [
        *pair(),
        node("DequantizeLinear", "y_q s z", "again"),
        node("Add", "y again", "out"),
    ]
    fused, _ = both(make(nodes, ODD, outputs=["out", "again"]), hard_values((2, 3, 4)))
    assert sorted(operators(fused)) == ["Add", "QuantizeDequantizeLinear"]


def test_two_outputs_of_one_quantizer() -> None:
    nodes = [*pair(), node("DequantizeLinear", "y_q s z", "again")]
    fused, _ = both(make(nodes, ODD, outputs=["y", "again"]), hard_values((2, 3, 4)))
    assert sorted(operators(fused)) == ["Identity", "QuantizeDequantizeLinear"]


def test_ends_with_other_parameters_stay() -> None:
    nodes = [*pair(), node("DequantizeLinear", "y_q t z", "other")]
    constants = {**ODD, "t": (0.2, T.FLOAT)}
    fused, _ = both(make(nodes, constants, outputs=["y", "other"]), hard_values((2, 3, 4)))
    assert sorted(operators(fused)) == ["DequantizeLinear", "QuantizeDequantizeLinear", "QuantizeLinear"]


@pytest.mark.parametrize(
    "change",
    [
        {"t": (0.2, T.FLOAT)},
        {"t": (0.1, T.FLOAT), "zt": (2, T.UINT8)},
    ],
)
def test_another_scale_or_zero_point_is_no_pair(change: dict[str, Any]) -> None:
    zero = "zt" if "zt" in change else "z"
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", f"q t {zero}", "y")]
    fused, _ = both(make(nodes, {**ODD, **change}), hard_values((2, 3, 4)))
    assert kinds(fused) == []


def test_equal_constants_of_other_names_are_a_pair() -> None:
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q t zt", "y")]
    constants = {**ODD, "t": ([0.1], T.FLOAT), "zt": ([3], T.UINT8)}
    fused, _ = both(make(nodes, constants), hard_values((2, 3, 4)))
    assert kinds(fused) == ["QuantizeDequantizeLinear"]


def test_a_missing_zero_point_is_zero() -> None:
    nodes = [node("QuantizeLinear", "x s", "q"), node("DequantizeLinear", "q s z", "y")]
    fused, _ = both(make(nodes, U8), hard_values((2, 3, 4)))
    (quantizer,) = quantizers(fused)
    assert (int(quantizer.bit_width), quantizer.signed) == (8, False)
    nodes = [node("QuantizeLinear", "x s", "q", output_dtype=T.INT4), node("DequantizeLinear", "q s", "y")]
    fused, _ = both(make(nodes, SCALE), hard_values((2, 3, 4)))
    (quantizer,) = quantizers(fused)
    assert (int(quantizer.bit_width), quantizer.signed) == (4, True)


def test_integers_that_are_an_output_stay_beside_the_quantizer() -> None:
    model = make(pair(), ODD, outputs=["y", "y_q"], output_types={"y_q": T.UINT8})
    fused, plain = both(model, hard_values((2, 3, 4)))
    assert sorted(operators(fused)) == ["QuantizeDequantizeLinear", "QuantizeLinear"]
    x = torch.randn(2, 3, 4, requires_grad=True)
    fused(x)[0].sum().backward()
    assert x.grad.abs().sum() > 0
    exported = qt.export_qonnx(fused)
    onnx.checker.check_model(exported, full_check=True)
    again = qt.import_model(exported)
    assert all(torch.equal(*results) for results in zip(again(x), plain(x), strict=True))


@pytest.mark.parametrize("offset", [0, 3])
def test_moved_integers_that_others_read_stay_beside_moved_floats(offset: int) -> None:
    """What moves them is there twice then: once for the integers and once for the floats."""
    nodes = [
        pair()[0],
        node("Transpose", "y_q", "t", perm=[2, 0, 1], name="move"),
        node("Split", "t", "a b", axis=0, num_outputs=2, name="cut"),
        node("DequantizeLinear", "a s z", "fa"),
        node("DequantizeLinear", "t s z", "ft"),
        node("Cast", "b", "n", to=T.INT32),
    ]
    constants = {**SCALE, "z": (offset, T.UINT8)}
    outputs, types = ["fa", "ft", "n", "t"], {"n": T.INT32, "t": T.UINT8}
    fused, plain = both(make(nodes, constants, outputs=outputs, output_types=types), hard_values((2, 3, 4)))
    quantizer = "QuantizeDequantizeLinear" if offset else "Quant"
    expected = ["Cast", quantizer, "QuantizeLinear", "Split", "Split", "Transpose", "Transpose"]
    assert sorted(operators(fused)) == sorted(expected)
    x = torch.randn(2, 3, 4, requires_grad=True)
    (fused(x)[0].sum() + fused(x)[1].sum()).backward()
    assert x.grad.abs().sum() > 0
    exported = qt.export_qonnx(fused)
    onnx.checker.check_model(exported, full_check=True)
    again = qt.import_model(exported)
    assert all(torch.equal(*results) for results in zip(again(x), plain(x), strict=True))


@pytest.mark.parametrize("order", ["Max Min", "Min Max"])
@pytest.mark.parametrize("first", [True, False])
def test_max_and_min_are_a_clip(order: str, first: bool) -> None:
    constants = {**SCALE, "z": (0, T.INT8), "Max": (-7, T.INT8), "Min": ([7], T.INT8)}
    one, two = order.split()
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node(one, f"q {one}" if first else f"{one} q", "a"),
        node(two, f"a {two}" if first else f"{two} a", "c"),
        node("DequantizeLinear", "c s z", "y"),
    ]
    fused, _ = both(make(nodes, constants), hard_values((2, 3, 4)))
    assert operators(fused) == ["Quant"]
    (quantizer,) = quantizers(fused)
    assert (int(quantizer.bit_width), quantizer.narrow) == (4, True)


def test_a_max_that_adds_a_dimension_stays() -> None:
    constants = {**SCALE, "z": (0, T.INT8), "low": ([[[[-7]]]], T.INT8)}
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("Max", "q low", "c"),
        node("DequantizeLinear", "c s z", "y"),
    ]
    fused, _ = both(make(nodes, constants), hard_values((2, 3, 4)))
    assert kinds(fused) == []


def test_integers_that_an_operator_reads_stay_beside_the_quantizer() -> None:
    constants = {**ODD, "w8": weights(T.UINT8, (4, 2))}
    nodes = [*pair(), node("MatMulInteger", "y_q w8", "n")]
    model = make(nodes, constants, outputs=["y", "n"], output_types={"n": T.INT32})
    fused, _ = both(model, hard_values((2, 3, 4)))
    assert sorted(operators(fused)) == ["MatMulInteger", "QuantizeDequantizeLinear", "QuantizeLinear"]


def test_computed_scales_stay() -> None:
    nodes = [node("ReduceMax", "x", "s", keepdims=0), *pair()]
    fused, _ = both(make(nodes, {"z": (3, T.UINT8)}), hard_values((2, 3, 4)).clamp(-9, 9).abs() + 1)
    assert kinds(fused) == []


def test_integers_of_x_stay() -> None:
    nodes = [node("Cast", "x", "n", to=T.INT32), *pair("n")]
    fused, _ = both(make(nodes, U8, opset=13), torch.randn(2, 3, 4) * 100)
    assert kinds(fused) == []


def test_dynamic_quantization_trains() -> None:
    nodes = [
        node("DynamicQuantizeLinear", "x", "q s z", name="d_DynamicQuantizeLinear"),
        node("DequantizeLinear", "q s z", "y"),
    ]
    fused, plain = both(make(nodes, {}), torch.randn(2, 3, 4) * 5)
    assert operators(fused) == ["DynamicQuantizeLinear", "QuantizeDequantizeLinear"]
    x = torch.randn(2, 3, 4, requires_grad=True)
    fused(x).square().sum().backward()
    assert x.grad.abs().sum() > 0
    exported = qt.export_qonnx(fused)
    assert [n.op_type for n in exported.graph.node] == [
        "DynamicQuantizeLinear",
        "QuantizeLinear",
        "DequantizeLinear",
    ]
    assert torch.equal(qt.import_model(exported)(x), plain(x))


@pytest.mark.parametrize(
    ("moves", "constants"),
    [
        ([node("Identity", "y_q", "m")], {}),
        ([node("Reshape", "y_q shape", "m")], {"shape": ([-1], T.INT64)}),
        ([node("Transpose", "y_q", "m", perm=[2, 0, 1])], {}),
        ([node("Flatten", "y_q", "m")], {}),
        ([node("Slice", "y_q one two", "m")], {"one": ([0], T.INT64), "two": ([1], T.INT64)}),
        ([node("Unsqueeze", "y_q one", "n"), node("Squeeze", "n one", "m")], {"one": ([1], T.INT64)}),
        ([node("MaxPool", "y_q", "m", kernel_shape=[2], pads=[1, 0])], {}),
        ([node("MaxPool", "y_q", "m -", kernel_shape=[2], strides=[2])], {}),
        ([node("Gather", "y_q one", "m", axis=2)], {"one": ([1, 0, 3], T.INT64)}),
        ([node("Tile", "y_q one", "m")], {"one": ([2, 1, 1], T.INT64)}),
    ],
    ids=lambda v: "+".join(n.op_type for n in v) if isinstance(v, list) else "",
)
@pytest.mark.parametrize("offset", [0, 3])
def test_moved_integers_are_moved_floats(
    moves: list[NodeProto], constants: dict[str, Any], offset: int
) -> None:
    nodes = [pair()[0], *moves, node("DequantizeLinear", "m s z", "out")]
    constants = {**constants, **SCALE, "z": (offset, T.UINT8)}
    fused, _ = both(make(nodes, constants, outputs=["out"]), hard_values((2, 3, 4)))
    assert operators(fused)[0] == ("QuantizeDequantizeLinear" if offset else "Quant")
    assert len(operators(fused)) == 1 + len(moves)
    exported = qt.export_qonnx(fused)
    onnx.checker.check_model(exported, full_check=True)
    x = hard_values((2, 3, 4), seed=1)
    assert torch.equal(qt.import_model(exported)(x), fused(x))


def test_moves_to_several_ends() -> None:
    nodes = [
        pair()[0],
        node("Split", "y_q", "a b", axis=2, num_outputs=2),
        node("DequantizeLinear", "a s z", "fa"),
        node("Transpose", "b", "bt", perm=[0, 2, 1]),
        node("DequantizeLinear", "b s z", "fb"),
        node("DequantizeLinear", "bt s z", "fbt"),
        node("DequantizeLinear", "y_q s z", "whole"),
    ]
    outputs = ["fa", "fb", "fbt", "whole"]
    fused, _ = both(make(nodes, ODD, outputs=outputs), hard_values((2, 3, 4)))
    assert sorted(operators(fused)) == ["QuantizeDequantizeLinear", "Split", "Transpose"]


@pytest.mark.parametrize(
    "move",
    [
        node("MaxPool", "y_q", "m", kernel_shape=[3], strides=[2], ceil_mode=1),
        node("MaxPool", "y_q", "m", kernel_shape=[2], dilations=[2], pads=[2, 2]),
        node("Concat", "y_q y_q", "m", axis=0),
    ],
    ids=["ceil", "dilated", "concat"],
)
def test_what_does_more_than_to_move_stays(move: NodeProto) -> None:
    nodes = [pair()[0], move, node("DequantizeLinear", "m s z", "out")]
    fused, _ = both(make(nodes, ODD, outputs=["out"]), hard_values((2, 3, 4)))
    assert kinds(fused) == []


def test_an_operator_between_stays_where_the_scale_is_per_axis() -> None:
    constants = {"s": ([0.1, 0.2, 0.3], T.FLOAT), "z": ([1, 2, 3], T.UINT8)}
    nodes = [
        node("QuantizeLinear", "x s z", "q", axis=1),
        node("Transpose", "q", "m", perm=[1, 0, 2]),
        node("DequantizeLinear", "m s z", "y", axis=0),
    ]
    fused, _ = both(make(nodes, constants), hard_values((2, 3, 4)))
    assert kinds(fused) == []


def test_two_clips_of_one_value() -> None:
    constants = {**U8, "seven": (7, T.UINT8), "fifteen": (15, T.UINT8), "none": (0, T.UINT8)}
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("Clip", "q none fifteen", "c"),
        node("Clip", "c none seven", "d"),
        node("DequantizeLinear", "c s z", "a"),
        node("DequantizeLinear", "d s z", "b"),
        node("DequantizeLinear", "q s z", "e"),
    ]
    fused, _ = both(make(nodes, constants, outputs=["a", "b", "e"]), hard_values((2, 3, 4)))
    assert sorted(int(q.bit_width) for q in quantizers(fused)) == [3, 4, 8]
    assert operators(fused) == ["Quant"] * 3


def test_rank_from_inference() -> None:
    """The axis of a tensor whose rank only onnx's inference tells."""
    constants = {"w": (np.ones((5, 3, 1)), T.FLOAT), "s": (np.arange(1, 6) * 0.1, T.FLOAT)}
    constants["z"] = (np.zeros(5), T.INT8)
    nodes = [node("Conv", "x w", "c"), *pair("c", axis=1)]
    fused, _ = both(make(nodes, constants), torch.randn(2, 3, 4))
    assert kinds(fused) == ["Quant"]
    (quantizer,) = quantizers(fused)
    assert tuple(quantizer.scale.shape) == (5, 1)


def test_an_unknown_rank_stays() -> None:
    constants = {"s": ([0.1, 0.2, 0.3], T.FLOAT), "z": ([0, 0, 0], T.INT8)}
    model = make(pair(axis=1), constants)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    fused, _ = both(model, torch.randn(2, 3, 4))
    assert kinds(fused) == []
    model = make(pair(axis=-2), constants)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    fused, _ = both(model, torch.randn(2, 3, 4))
    assert kinds(fused) == ["Quant"]


@pytest.mark.parametrize("element_type", [T.UINT16, T.INT16, T.UINT8, T.INT4], ids=T.DataType.Name)
@pytest.mark.parametrize("offset", [0, 5])
def test_operators_of_onnxruntime(element_type: int, offset: int) -> None:
    nodes = pair()
    for n in nodes:
        n.domain = CONTRIB
    constants = {**SCALE, "z": (offset, element_type)}
    fused, plain = both(make(nodes, constants, opset=13), hard_values((2, 3, 4)))
    assert kinds(fused) == ["QuantizeDequantizeLinear" if offset else "Quant"]
    exported = qt.export_qonnx(fused)
    onnx.checker.check_model(exported, full_check=True)
    assert not any(n.domain == CONTRIB for n in exported.graph.node)
    x = hard_values((2, 3, 4), seed=1)
    assert torch.equal(qt.import_model(exported)(x), plain(x))


@pytest.mark.parametrize("opset", [10, 11, 12, 13, 17, 19, 21, 22, 23])
@pytest.mark.parametrize("offset", [0, 3])
def test_operator_sets(opset: int, offset: int) -> None:
    fused, _ = both(make(pair(), {**SCALE, "z": (offset, T.UINT8)}, opset=opset), hard_values((2, 3, 4)))
    exported = qt.export_qonnx(fused)
    onnx.checker.check_model(exported, full_check=True)
    assert exported.opset_import[0].version == (min(opset, 21))


def test_initializers_among_the_inputs() -> None:
    """Files from before IR version 4 list them there."""
    constants = {"w8": weights(T.INT8), "s": (0.1, T.FLOAT), "z": (0, T.UINT8), "zw": (0, T.INT8)}
    nodes = [*pair(y="h"), node("DequantizeLinear", "w8 s zw", "w"), node("Gemm", "h w", "y", transB=1)]
    model = make(nodes, constants, x=(2, 4), opset=11)
    model.ir_version = 3
    for i in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(i.name, i.data_type, i.dims))
    fused, _ = both(model, torch.randn(2, 4))
    assert kinds(fused) == ["Quant", "Quant"]
    exported = qt.export_qonnx(fused)
    onnx.checker.check_model(exported, full_check=True)
    assert [v.name for v in exported.graph.input] == ["x"]


def test_pairs_in_subgraphs() -> None:
    """A branch with a pair of its own, with constants from outside, and with integers from outside."""
    then = helper.make_graph(pair("x", "t"), "then", [], [helper.make_tensor_value_info("t", T.FLOAT, None)])
    other = helper.make_graph(
        [
            node("DequantizeLinear", "outside s z", "a"),
            node("DequantizeLinear", "own own_s", "b"),
            node("Add", "a b", "e"),
        ],
        "else",
        [],
        [helper.make_tensor_value_info("e", T.FLOAT, None)],
        [
            numpy_helper.from_array(np.int8([1, 2, 3, 4]), "own"),
            numpy_helper.from_array(np.float32(0.5), "own_s"),
        ],
    )
    nodes = [
        node("QuantizeLinear", "x s z", "outside"),
        node("ReduceSum", "x", "total", keepdims=0),
        node("Greater", "total zero", "condition"),
        helper.make_node("If", ["condition"], ["y"], then_branch=then, else_branch=other),
    ]
    model = make(nodes, {**ODD, "zero": (0.0, T.FLOAT)})
    for sign in (1, -1):
        fused, _ = both(model, sign * torch.rand(2, 3, 4))
    assert kinds(fused) == ["Quant", "QuantizeDequantizeLinear"]
    (mine,) = [q for q in quantizers(fused) if isinstance(q, qnn.QuantizeDequantizeLinear)]
    assert mine.owns_scale  # a copy of its own
    exported = qt.export_qonnx(fused)
    onnx.checker.check_model(exported, full_check=True)
    again = qt.import_model(exported)
    for sign in (1, -1):
        x = sign * torch.rand(2, 3, 4)
        assert torch.equal(again(x), fused(x))


# -- what is told of pairs that stay ---------------------------------------------------------------

LAYER = {"w": (np.ones((4, 4)), T.FLOAT)}
STAYING: dict[str, tuple[list[NodeProto], dict[str, Any], str]] = {
    "other scale": (
        [node("QuantizeLinear", "m s z", "q"), node("DequantizeLinear", "q t z", "y")],
        {**ODD, "t": (0.2, T.FLOAT)},
        "1 QuantizeLinear stays in the graph .*node 'q' .*whose DequantizeLinear has other parameters",
    ),
    "negative scale": (pair("m"), {"s": (-0.1, T.FLOAT), "z": (3, T.UINT8)}, "is not positive and finite"),
    "computed": (
        [node("ReduceMax", "x", "s", keepdims=0), *pair("m")],
        {"z": (3, T.UINT8)},
        r"node 'y_QuantizeLinear' .*whose scale or zero point is computed from data",
    ),
    "two": (
        [*pair("m", "h"), node("MatMul", "h w", "n"), *pair("n")],
        {"s": (0.0, T.FLOAT), "z": (3, T.UINT8)},
        "2 QuantizeLinear stay in the graph .*the first: node 'h_QuantizeLinear'",
    ),
    "joined": (
        [
            node("QuantizeLinear", "m s z", "q"),
            node("Concat", "q q", "c", axis=0),
            node("DequantizeLinear", "c s z", "y"),
        ],
        ODD,
        "behind which another operator comes before the DequantizeLinear",
    ),
    "not saturated": (
        [
            node("QuantizeLinear", "m s z", "q", saturate=0),
            node("DequantizeLinear", "q s z", "y"),
        ],
        {**SCALE, "z": (0, T.FLOAT8E4M3FN)},
        "which does more than to round to a grid",
    ),
}


@pytest.mark.parametrize("case", STAYING)
def test_pairs_that_stop_a_weights_training_are_told(case: str) -> None:
    nodes, constants, text = STAYING[case]
    model = make([node("MatMul", "x w", "m"), *nodes], {**LAYER, **constants})
    with pytest.warns(UserWarning, match=text) as record:
        qt.import_model(model)
    assert len(record) == 1
    assert record[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qt.import_model(model, fuse_qdq=False)  # which asks for it


def test_pairs_in_subgraphs_are_told_of() -> None:
    then = helper.make_graph(
        [node("QuantizeLinear", "m s z", "q"), node("DequantizeLinear", "q t z", "t1")],
        "then",
        [],
        [helper.make_tensor_value_info("t1", T.FLOAT, None)],
    )
    other = helper.make_graph(
        [node("Neg", "x", "e")], "else", [], [helper.make_tensor_value_info("e", T.FLOAT, None)]
    )
    branches = {"then_branch": then, "else_branch": other}
    nodes = [node("MatMul", "x w", "m"), helper.make_node("If", ["c"], ["y"], **branches)]
    constants = {**LAYER, **ODD, "t": (0.2, T.FLOAT), "c": (True, T.BOOL)}
    with pytest.warns(UserWarning, match="node 'q' .*other parameters"):
        qt.import_model(make(nodes, constants))


def test_nothing_is_told_where_no_weight_is_stopped() -> None:
    """Of integers that are computed on, of a pair at the input, and of what is fused beside integers."""
    integers = [
        node("MatMul", "x w", "m"),
        node("QuantizeLinear", "m s z", "q"),
        node("MatMulInteger", "q w8", "n"),
        node("Cast", "n", "f", to=T.FLOAT),
        node("QuantizeLinear", "x s z", "xq"),
        node("DequantizeLinear", "xq t z", "d"),
        node("Add", "d f", "e"),
        *pair("e"),
        node("Cast", "y_q", "i", to=T.INT32),
    ]
    constants = {**LAYER, **ODD, "w8": weights(T.INT8, (4, 4)), "t": (0.2, T.FLOAT)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qt.import_model(make(integers, constants, outputs=["y", "i"], output_types={"i": T.INT32}))


# -- the module ------------------------------------------------------------------------------------


def small_network() -> ModelProto:
    rng = np.random.default_rng(0)
    constants = {
        "s": (0.05, T.FLOAT),
        "z": (128, T.UINT8),
        "conv.weight": weights(T.INT8, (5, 3, 3)),
        "ws": (rng.uniform(0.001, 0.01, 5), T.FLOAT),
        "wz": (np.zeros(5), T.INT8),
        "conv.bias": (rng.integers(-500, 500, 5), T.INT32),
        "bs": (rng.uniform(1e-4, 1e-3, 5), T.FLOAT),
        "s2": (0.02, T.FLOAT),
        "z2": (0, T.UINT8),
    }
    nodes = [
        *pair(y="h"),
        node("DequantizeLinear", "conv.weight ws wz", "w", axis=0, name="w_DequantizeLinear"),
        node("DequantizeLinear", "conv.bias bs", "b", axis=0, name="b_DequantizeLinear"),
        node("Conv", "h w b", "c", pads=[1, 1], name="conv"),
        node("Relu", "c", "r", name="relu"),
        *pair("r", "y", "s2 z2"),
    ]
    return make(nodes, constants, opset=17)


def test_names_and_state() -> None:
    module = qt.import_model(small_network())
    assert [n for n, _ in module.named_parameters()] == ["conv.weight", "conv.bias"]
    modules = {n: type(m).__name__ for n, m in module.named_modules() if isinstance(m, qnn.Quantizer)}
    assert modules == {
        "h_QuantizeDequantizeLinear": "QuantizeDequantizeLinear",
        "w_Quant": "Quant",
        "b_Quant": "Quant",
        "y_Quant": "Quant",
    }
    assert tuple(module.get_submodule("w_Quant").scale.shape) == (5, 1, 1)
    assert module.get_submodule("h_QuantizeDequantizeLinear").zero_point.dtype == torch.uint8


def test_training_configuration() -> None:
    config = qt.TrainingConfig(
        weights=qt.QuantizerTraining(gradient="lsq", scale="step"),
        activations=qt.QuantizerTraining(gradient="lsq", scale="step", zero_point="learned"),
    )
    module = qt.import_model(small_network(), training=config)
    names = [n for n, _ in module.named_parameters()]
    assert "h_QuantizeDequantizeLinear.zero_point" in names
    assert "h_QuantizeDequantizeLinear.scale_training.step" in names
    assert "w_Quant.scale_training.step" in names
    optimizer = torch.optim.SGD(qt.parameter_groups(module, quantizer_lr=1e-4), lr=0.01)
    x, target = torch.randn(8, 3, 4), torch.rand(8, 5, 4)
    module.train()
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (module(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    exported = qt.export_qonnx(module)
    onnx.checker.check_model(exported, full_check=True)
    module.eval()
    assert torch.equal(qt.import_model(exported)(x[:2]), module(x[:2]))
    assert torch.equal(qt.fold_for_inference(module)(x), module(x))


def test_dynamic_batch() -> None:
    module = qt.import_model(small_network(), batch="dynamic")
    assert module(torch.randn(7, 3, 4)).shape == (7, 5, 4)


def test_calibration_and_cost() -> None:
    module = qt.import_model(small_network())
    seen = qt.calibrate(module, [torch.randn(2, 3, 4) for _ in range(3)], progress=False)
    assert set(seen) == {"h_QuantizeDequantizeLinear", "y_Quant"}
    cost = qt.inference_cost(module).to_dict()["total_cost"]
    assert cost["unsupported"] == []


def test_warning_about_training_without_quantizers() -> None:
    model = make(pair(), ODD)
    with pytest.warns(UserWarning, match="DequantizeLinear alone train nothing: fuse_qdq=True"):
        qt.import_model(model, training=qt.TrainingConfig(), fuse_qdq=False)
    qt.import_model(model, training=qt.TrainingConfig())  # no warning


def test_the_callers_model_stays() -> None:
    model = small_network()
    before = model.SerializeToString(deterministic=True)
    qt.import_model(model)
    assert model.SerializeToString(deterministic=True) == before


def test_this_projects_domain_is_no_file_format() -> None:
    """What stands in imported graphs for the pair is not to be read from files."""
    nodes = [helper.make_node("QuantizeDequantizeLinear", ["x", "s", "z"], ["y"], domain="qonnx_torch")]
    with pytest.raises(qt.UnsupportedModelError, match="QuantizeDequantizeLinear"):
        qt.import_model(make(nodes, ODD))


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: m.graph.node[1].input.pop(),
        lambda m: m.graph.node[0].attribute.append(helper.make_attribute("axis", "one")),
        lambda m: m.graph.node[1].attribute.append(helper.make_attribute("axis", 2**40)),
        lambda m: m.graph.node[0].input.__setitem__(1, "gone"),
        lambda m: m.graph.initializer[0].dims.append(5),
        lambda m: m.graph.initializer[1].ClearField("raw_data"),
        lambda m: m.graph.node[0].output.__setitem__(0, ""),
        lambda m: m.graph.node.append(m.graph.node[1]),
        lambda m: m.graph.node.append(node("Clip", "y_q", "s")),
        lambda m: m.graph.node.append(helper.make_node("Constant", [], [])),
        lambda m: m.graph.node[1].attribute.append(helper.make_attribute("saturate", 1)),
    ],
    ids=range(11),
)
def test_broken_files_are_refused_as_ever(damage) -> None:
    model = make(pair(), ODD)
    damage(model)
    results = []
    for fuse in (True, False):
        try:
            qt.import_model(model, fuse_qdq=fuse)
            results.append("imported")
        except (qt.InvalidModelError, qt.UnsupportedModelError) as error:
            results.append(type(error).__name__)
    assert results[0] == results[1]
