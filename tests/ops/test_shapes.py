"""Shapes as Python ints: the chains around Reshape, in eager, exported with a dynamic batch, and compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import fx

import qonnx_torch as qt
from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.ops import as_tensor, is_shape_value
from qonnx_torch.provenance import value_names

X = torch.arange(24.0).reshape(2, 3, 4)
I64, I32, F32, F64 = TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.DOUBLE


def node(op_type: str, inputs: str, output: str, **attributes: Any):
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# Each chain ends in y; the constants are in CONSTANTS; what it computes is the function.
CONSTANTS = {
    "zero": np.int64(0),
    "one": np.int64(1),
    "two": np.int64(2),
    "minus": np.int64(-1),
    "most": np.float32(0.6),
    "zeros": ints(0),
    "ones": ints(1),
    "twos": ints(2),
    "threes": ints(3),
    "minuses": ints(-1),
    "tail": ints(3, 4),
    "index": ints(0, 2),
    "onehalf": ints(1, -1, 4, 7),
    "three": np.int64(3),
    "two_columns": ints(-1, 2),
    "pad_limit": ints(3),
    "third": np.float32(1 / 3),
    "five": np.float32(5 / 6),
    "most_ints": ints(2**62),
    "two32": np.int32(2),
    "less64": np.float64(2 - 1e-9),
    "half64": np.float64(0.5),
    "least": ints(-(2**63)),
}
CHAINS: dict[str, tuple[list[Any], Any]] = {
    "gather-unsqueeze-concat": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n", axis=0),
            node("Unsqueeze", "n zeros", "u"),
            node("Concat", "u minuses", "shape", axis=0),
            node("Reshape", "x shape", "y"),
        ],
        lambda x: x.reshape(x.shape[0], -1),
    ),
    "slice-of-the-shape": (
        [
            node("Shape", "x", "s"),
            node("Slice", "s zeros ones zeros", "head"),
            node("Concat", "head minuses", "shape", axis=0),
            node("Reshape", "x shape", "y"),
        ],
        lambda x: x.reshape(x.shape[0], -1),
    ),
    "multiply-and-divide": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s one", "c"),
            node("Gather", "s two", "w"),
            node("Mul", "c w", "m"),
            node("Div", "m two", "d"),
            node("Unsqueeze", "d zeros", "u"),
            node("Concat", "minuses u twos", "shape", axis=0),
            node("Reshape", "x shape", "y"),
        ],
        lambda x: x.reshape(-1, x.shape[1] * x.shape[2] // 2, 2),
    ),
    "casts": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n"),
            node("Cast", "n", "n32", to=I32),
            node("Cast", "n32", "n64", to=I64),
            node("Unsqueeze", "n64 zeros", "u"),
            node("Concat", "u tail", "shape", axis=0),
            node("Reshape", "x shape", "y"),
        ],
        lambda x: x.reshape(x.shape[0], 3, 4),
    ),
    "float-arithmetic": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s two", "w"),
            node("Cast", "w", "f", to=F32),
            node("Mul", "f most", "h"),
            node("Floor", "h", "g"),
            node("Cast", "g", "i", to=I64),
            node("Unsqueeze", "i zeros", "u"),
            node("Concat", "minuses threes u twos", "shape", axis=0),
            node("Reshape", "x shape", "y"),
        ],
        lambda x: x.reshape(-1, 3, x.shape[2] // 2, 2),
    ),
    "gather-two-and-product": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s index", "both"),
            node("ReduceProd", "both", "p", keepdims=1),
            node("Concat", "p minuses", "shape", axis=0),
            node("Reshape", "x shape", "y"),
        ],
        lambda x: x.reshape(x.shape[0] * x.shape[2], -1),
    ),
    "squeeze": (
        [
            node("Shape", "x", "s"),
            node("Slice", "s zeros ones", "head"),
            node("Squeeze", "head zeros", "n"),
            node("Unsqueeze", "n zeros", "u"),
            node("Concat", "u minuses", "shape", axis=0),
            node("Reshape", "x shape", "y"),
        ],
        lambda x: x.reshape(x.shape[0], -1),
    ),
    "expand-and-size": (
        [
            node("Shape", "x", "s"),
            node("Size", "x", "count"),
            node("Unsqueeze", "count zeros", "u"),
            node("Reshape", "x u", "flat"),
            node("Reshape", "flat s", "same"),
            node("Slice", "same zeros ones zeros", "first"),
            node("Expand", "first s", "y"),
        ],
        lambda x: x[:1].expand_as(x),
    ),
    "constant-of-shape": (
        [
            node("Shape", "x", "s"),
            node("ConstantOfShape", "s", "z"),
            node("Add", "x z", "y"),
        ],
        lambda x: x,
    ),
    "end-computed": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s two", "w"),
            node("Sub", "w one", "end"),
            node("Unsqueeze", "end zeros", "ends"),
            node("Slice", "x zeros ends twos", "y"),
        ],
        lambda x: x[:, :, :-1],
    ),
    "shape-into-tensor-arithmetic": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s two", "w"),
            node("Cast", "w", "f", to=F32),
            node("Div", "x f", "y"),
        ],
        lambda x: x / x.shape[2],
    ),
    "expand-as-torch-writes-it": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n"),
            node("Unsqueeze", "n zeros", "u"),
            node("Concat", "u onehalf", "wanted", axis=0),
            node("Slice", "wanted zeros threes", "w"),
            node("Shape", "w", "rank"),
            node("ConstantOfShape", "rank", "o", value=numpy_helper.from_array(ints(1))),
            node("Mul", "o minus", "m"),
            node("Equal", "w m", "e"),
            node("Where", "e o w", "shape"),
            node("Slice", "x zeros ones zeros", "first"),
            node("Slice", "first zeros ones ones", "row"),
            node("Expand", "row shape", "y"),
        ],
        lambda x: x[:1, :1].expand(x.shape[0], 1, -1),
    ),
    "axes-are-a-range": (
        [
            node("Shape", "x", "s"),
            node("Size", "s", "rank"),
            node("Range", "one rank one", "axes"),
            node("ReduceSum", "x axes", "y"),
        ],
        lambda x: x.sum((1, 2), keepdim=True),
    ),
    "pads-as-torch-writes-them": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s two", "w"),
            node("Mod", "w three", "r"),
            node("Unsqueeze", "r zeros", "u"),
            node("Concat", "zeros u", "given", axis=0),
            node("Shape", "given", "length"),
            node("Size", "s", "rank"),
            node("Mul", "rank two", "all"),
            node("Sub", "all length", "rest"),
            node("ConstantOfShape", "rest", "none", value=numpy_helper.from_array(ints(0))),
            node("Concat", "given none", "flat", axis=0),
            node("Reshape", "flat two_columns", "rows"),
            node("Slice", "rows minuses least zeros minuses", "turned"),
            node("Transpose", "turned", "columns", perm=[1, 0]),
            node("Reshape", "columns minuses", "pads"),
            node("Pad", "x pads", "y"),
        ],
        lambda x: F.pad(x, (0, x.shape[2] % 3)),
    ),
    "arithmetic": (
        [
            node("Shape", "x", "s"),
            node("Abs", "s", "a"),
            node("Neg", "a", "b"),
            node("Sign", "b", "c"),
            node("Max", "s twos", "d"),
            node("Add", "d c", "e"),
            node("Pow", "e twos", "f"),
            node("ReduceMin", "f", "g", keepdims=0),
            node("ReduceMax", "f", "h", keepdims=1),
            node("Min", "g h one", "i"),
            node("ReduceSum", "i", "j", keepdims=1),
            node("Clip", "j one two", "k"),
            node("CastLike", "k zeros", "l"),
            node("Slice", "x zeros l ones", "y"),
        ],
        lambda x: x[:, :1],
    ),
    "logic": (
        [
            node("Shape", "x", "s"),
            node("Less", "s most_ints", "a"),
            node("Greater", "s zeros", "b"),
            node("And", "a b", "c"),
            node("Not", "c", "d"),
            node("Or", "d c", "e"),
            node("Xor", "e d", "f"),
            node("LessOrEqual", "s zeros", "g"),
            node("GreaterOrEqual", "s most_ints", "h"),
            node("Or", "f g", "i"),
            node("Or", "i h", "j"),
            node("Where", "j zeros s", "k"),
            node("Reshape", "x k", "y"),
        ],
        lambda x: x,
    ),
    "selection": (
        [
            node("Shape", "x", "s"),
            node("Slice", "s ones threes zeros", "sizes"),
            node("Equal", "sizes threes", "e"),
            node("NonZero", "e", "where"),
            node("Transpose", "where", "column"),
            node("Squeeze", "column ones", "behind"),
            node("Add", "behind one", "axes"),
            node("ReduceMax", "x axes", "y"),
        ],
        lambda x: x.amax(1, keepdim=True),
    ),
    "rounded-up-as-in-float32": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n"),
            node("Cast", "n", "f", to=F32),
            node("Mul", "f third", "t"),
            node("Ceil", "t", "c"),
            node("Mul", "x c", "y"),
        ],
        lambda x: x * -(-x.shape[0] // 3),
    ),
    "rounded-down-as-in-float32": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n"),
            node("Cast", "n", "f", to=F32),
            node("Mul", "f five", "t"),
            node("Floor", "t", "c"),
            node("Cast", "t", "i", to=I64),
            node("Cast", "i", "j", to=F32),
            node("Add", "c j", "k"),
            node("Mul", "x k", "y"),
        ],
        lambda x: x * 2 * (x.shape[0] * 5 // 6),
    ),
    "int32-arithmetic": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n"),
            node("Cast", "n", "i", to=I32),
            node("Mul", "i two32", "m"),
            node("Div", "m two32", "d"),
            node("Cast", "d", "n64", to=I64),
            node("Unsqueeze", "n64 zeros", "u"),
            node("Concat", "u tail", "shape", axis=0),
            node("Reshape", "x shape", "y"),
        ],
        lambda x: x.reshape(x.shape[0], 3, 4),
    ),
    "double-arithmetic": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n"),
            node("Cast", "n", "d", to=F64),
            node("Mul", "d less64", "m"),
            node("Floor", "m", "f"),
            node("Cast", "f", "i", to=I64),  # 2 n - 1: float32 would have 2 n
            node("Cast", "m", "j", to=I64),
            node("Add", "i j", "k"),
            node("Cast", "k", "l", to=F32),
            node("Mul", "x l", "y"),
        ],
        lambda x: x * 2 * (2 * x.shape[0] - 1),
    ),
    "scaled-by-a-double-half": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s two", "w"),
            node("Cast", "w", "d", to=F64),
            node("Mul", "d half64", "h"),
            node("Floor", "h", "f"),
            node("Cast", "f", "i", to=I64),
            node("Unsqueeze", "i zeros", "u"),
            node("Concat", "minuses threes u twos", "shape", axis=0),
            node("Reshape", "x shape", "y"),
        ],
        lambda x: x.reshape(-1, 3, x.shape[2] // 2, 2),
    ),
    "negative-gather": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s minus", "w"),
            node("Unsqueeze", "w zeros", "u"),
            node("Concat", "minuses u", "shape", axis=0),
            node("Reshape", "x shape", "y"),
        ],
        lambda x: x.reshape(-1, x.shape[-1]),
    ),
}  # fmt: skip
every_chain = pytest.mark.parametrize("chain", CHAINS)


def build(chain: str, make_model) -> fx.GraphModule:
    nodes, _ = CHAINS[chain]
    used = {name for n in nodes for name in n.input}
    constants = {name: np.asarray(value) for name, value in CONSTANTS.items() if name in used}
    model = make_model(nodes, inputs={"x": ("n", 3, 4)}, initializers=constants, imports={"": 18})
    return qt.import_model(model)


@every_chain
def test_value(chain: str, make_model) -> None:
    module = build(chain, make_model)
    for x in (X, X[:1], torch.cat([X, X])):
        assert torch.equal(module(x), CHAINS[chain][1](x))


@every_chain
def test_one_fx_node_per_onnx_node(chain: str, make_model) -> None:
    module = build(chain, make_model)
    named = {name for names in value_names(module).values() for name in names}
    assert named == {"x", *(n.output[0] for n in CHAINS[chain][0])}


@every_chain
def test_exports_with_a_dynamic_batch(chain: str, make_model) -> None:
    module = build(chain, make_model)
    program = torch.export.export(module, (X,), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    for x in (X, torch.cat([X, X, X])):
        assert torch.equal(program.module()(x), CHAINS[chain][1](x))


@every_chain
def test_captured_whole_by_dynamo(chain: str, make_model) -> None:
    torch._dynamo.reset()
    captured = torch.compile(build(chain, make_model), fullgraph=True, dynamic=True, backend="eager")
    for x in (X, torch.cat([X, X])):
        assert torch.equal(captured(x), CHAINS[chain][1](x))


@every_chain
def test_on_the_device_of_the_input(chain: str, make_model) -> None:
    module = build(chain, make_model).to("meta")
    y = module(X.to("meta"))
    assert (y.device.type, y.shape) == ("meta", CHAINS[chain][1](X).shape)


# What onnxruntime has for N = 2049 behind a Shape, cast to a type, computed on, and cast to the last type.
@pytest.mark.parametrize(("to", "steps", "last", "expected"), [
    (F64, [("Div", np.float64(3)), ("Mul", np.float64(1e9))], I64, 683000000000),
    (F64, [("Div", np.float64(7))], F64, 2049 / 7),
    (F64, [("Sqrt", None), ("Reciprocal", None)], F64, 1 / 2049**0.5),
    (F32, [("Div", np.float32(7))], F32, np.float32(2049) / np.float32(7)),
    (F32, [("Div", np.float32(0))], F32, np.inf),
    (F32, [("Sub", np.float32(2050)), ("Sqrt", None)], F32, np.nan),
    (F32, [("Mul", np.float32(3e38))], F32, np.inf),
    (F32, [("Mod", np.float32(1000.5), 1)], F32, 48),
    (F32, [("Mul", np.float32(1e38)), ("Floor", None)], F32, np.inf),
    (TensorProto.FLOAT16, [], I64, 2048),
    (TensorProto.FLOAT16, [("Div", np.float16(2))], TensorProto.FLOAT16, 1024),
    (TensorProto.UINT8, [], I64, 1),
    (TensorProto.INT8, [("Identity", None)], TensorProto.INT8, 1),
    (TensorProto.UINT16, [], TensorProto.UINT16, 2049),
    (I32, [("Mul", np.int32(2000000))], I64, -196967296),
    (I32, [("Sub", np.int32(-(2**31) + 2)), ("Neg", None), ("Abs", None)], I32, 2147481601),
    (I32, [("Pow", np.int32(3))], I32, 2049**3 - 2 * 2**32),
    (I32, [("Mul", np.int32(2**19)), ("Add", np.int32(2**30))], I32, 2049 * 2**19 + 2**30 - 2**32),
    (I64, [("Mul", np.int64(2**40)), ("Mul", np.int64(2**40))], I64, 0),
    (I64, [("Mul", np.int64(2**53)), ("Cast", I32)], I32, 0),
    (I64, [("Add", np.int64(2**33)), ("Cast", I32)], I32, 2049),
])  # fmt: skip
def test_numbers_are_those_of_their_element_type(to, steps, last, expected, make_model) -> None:
    nodes, value, constants = [node("Shape", "x", "s"), node("Cast", "s", "c", to=to)], "c", {}
    for i, (op_type, constant, *fmod) in enumerate(steps):
        inputs, attributes = value, {"fmod": 1} if fmod else {}
        if op_type == "Cast":
            attributes["to"] = constant
        elif constant is not None:
            inputs, constants[f"k{i}"] = f"{value} k{i}", np.asarray(constant)
        value = f"v{i}"
        nodes.append(node(op_type, inputs, value, **attributes))
    nodes.append(node("Cast", value, "y", to=last))
    model = make_model(nodes, inputs={"x": ("n",)}, initializers=constants, imports={"": 18})
    y = qt.import_model(model)(torch.zeros(2049)).detach()
    assert y.dtype == torch_dtype(last)
    np.testing.assert_array_equal(y.numpy(), [np.array(expected, y.numpy().dtype)])


def test_what_is_no_shape_type_comes_back_from_a_tensor(make_model) -> None:
    nodes = [node("Shape", "x", "s"), node("Cast", "s", "h", to=TensorProto.FLOAT16),
             node("Cast", "h", "i", to=I64), node("Reshape", "x i", "y")]  # fmt: skip
    module = qt.import_model(make_model(nodes, inputs={"x": ("n", 3)}, imports={"": 18}))
    assert module(torch.ones(2, 3)).shape == (2, 3)


def test_a_table_of_another_type_is_a_tensor(make_model) -> None:
    nodes = [node("Shape", "x", "s"), node("Size", "s", "rank"), node("Gather", "table rank", "g"),
             node("Add", "g g", "h"), node("Cast", "h", "y", to=I64)]  # fmt: skip
    table = np.array([0, 100, 200], np.uint8)
    model = make_model(nodes, inputs={"x": ("n", 3)}, initializers={"table": table})
    assert qt.import_model(model)(torch.ones(2, 3)).item() == 144


@pytest.mark.parametrize("kind", [np.int32, np.float16, np.float64])
def test_a_range_keeps_its_type_and_device(kind, make_model) -> None:
    numbers = {"start": kind(1), "limit": kind(6), "delta": kind(2)}
    nodes = [node("Range", "start limit delta", "r"), node("Cast", "r", "f", to=F32), node("Add", "x f", "y")]
    module = qt.import_model(make_model(nodes, inputs={"x": ("n", 3)}, initializers={
        name: np.asarray(value) for name, value in numbers.items()
    }))  # fmt: skip
    assert module(torch.zeros(1, 3)).tolist() == [[1.0, 3.0, 5.0]]


@pytest.mark.parametrize(("value", "dtype", "shape"), [
    (3, torch.int64, ()), (True, torch.bool, ()), (0.5, torch.float32, ()), ((1, 2), torch.int64, (2,)),
    ((), torch.int64, (0,)), ([0.5, 1.0], torch.float32, (2,)),
])  # fmt: skip
def test_shape_values_as_tensors(value, dtype, shape) -> None:
    assert is_shape_value(value)
    tensor = as_tensor(value)
    assert (tensor.dtype, tuple(tensor.shape)) == (dtype, shape)
    assert as_tensor(tensor) is tensor
    assert not is_shape_value(tensor)


# -- channels last: the standard operator between two transpositions ------------------------------------

LAST = "qonnx.custom_op.channels_last"
IMAGE = torch.randn(2, 7, 6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("op_type", "shapes", "attributes"), [
    ("MaxPool", [], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    ("MaxPool", [], {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "ceil_mode": 0}),
    ("BatchNormalization", [(4,)] * 4, {"epsilon": 1e-3}),
    ("Conv", [(6, 3, 2, 4), (6,)], {"strides": [2, 1], "pads": [1, 0, 1, 1], "kernel_shape": [3, 2]}),
    ("Conv", [(4, 3, 3, 1)], {"group": 4, "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}),
])  # fmt: skip
def test_channels_last(op_type, shapes, attributes, make_model) -> None:
    generator = np.random.default_rng(0)
    values = [generator.uniform(0.1, 1, s).astype(np.float32) for s in shapes]
    names = [f"p{i}" for i in range(len(shapes))]

    def module(domain: str, arrays: list[np.ndarray]) -> fx.GraphModule:
        n = helper.make_node(op_type, ["x", *names], ["y"], domain=domain, **attributes)
        initializers = dict(zip(names, arrays, strict=True))
        imports = {"": 14, LAST: 1}
        model = make_model([n], inputs={"x": None}, initializers=initializers, imports=imports)
        return qt.import_model(model)

    first = [np.moveaxis(v, -1, 1) if v.ndim == 4 else v for v in values]
    expected = module("", first)(IMAGE.movedim(-1, 1)).movedim(1, -1)
    assert torch.equal(module(LAST, values)(IMAGE), expected)
