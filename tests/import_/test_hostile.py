"""Files made to break an importer: each is imported or refused by name, in little time and memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

import qonnx_torch as qt
from qonnx_torch.dtypes import onnx_element_type
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError
from qonnx_torch.passes.bounded import Bounded, RefusedError

QONNX = "qonnx.custom_op.general"
BILLION = 10**9
pytestmark = pytest.mark.usefixtures("within_bounds")


def node(op_type: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **kw: Any) -> NodeProto:
    return helper.make_node(op_type, inputs, outputs, name, **kw)


def value(name: str, element_type: int = TensorProto.FLOAT, shape: Any = (1, 4)) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, element_type, shape)


def make(
    nodes: Sequence[NodeProto],
    constants: dict[str, Any] | None = None,
    *,
    opset: int = 21,
    inputs: Sequence[ValueInfoProto] | None = None,
    outputs: Sequence[str] = ("y",),
) -> ModelProto:
    tensors = []
    for name, given in (constants or {}).items():
        if isinstance(given, TensorProto):
            given.name = name
            tensors.append(given)
        else:
            tensors.append(numpy_helper.from_array(np.asarray(given), name))
    declared = [value("x")] if inputs is None else inputs
    graph = helper.make_graph(nodes, "g", declared, [value(o, 0, None) for o in outputs], tensors)
    domains = {"": opset, QONNX: 1, "ai.onnx.ml": 3}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def behind(made: NodeProto, constants: dict[str, Any], *more: NodeProto) -> ModelProto:
    """A node on constants, whose first output is added to x."""
    last = (made, *more)[-1].output[0]
    return make([made, *more, node("Add", ["x", last], ["y"])], constants)


def expect(model: ModelProto, error: type[Exception] | None = None, match: str = "") -> Any:
    """Imports a model from each kind of source; returns the last module."""
    module = None
    for source in (model, model.SerializeToString()):
        if error is None:
            module = qt.import_model(source)
            continue
        with pytest.raises(error, match=match) as caught:
            qt.import_model(source)
        assert type(caught.value) in (InvalidModelError, UnsupportedModelError)
        assert len(str(caught.value)) < 100_000
    return module


# -- constants that would become gigabytes -------------------------------------------------------------

FLOATS = np.arange(4096, dtype=np.float32)
INT = np.int64
BOMBS = {
    "ConstantOfShape": (node("ConstantOfShape", ["s"], ["c"]), {"s": INT([BILLION])}),
    "ConstantOfShape, small numbers": (node("ConstantOfShape", ["s"], ["c"]), {"s": INT([60_000] * 4)}),
    "Expand": (node("Expand", ["v", "s"], ["c"]), {"v": FLOATS[:1], "s": INT([60_000] * 3)}),
    "Tile": (node("Tile", ["v", "s"], ["c"]), {"v": FLOATS[:1], "s": INT([BILLION])}),
    "Range": (
        node("Range", ["a", "b", "d"], ["c"]),
        {"a": np.float32(0), "b": np.float32(1e12), "d": np.float32(1)},
    ),
    "Range, small steps": (
        node("Range", ["a", "b", "d"], ["c"]),
        {"a": np.float32(0), "b": np.float32(1), "d": np.float32(1e-12)},
    ),
    "Pad": (node("Pad", ["v", "s"], ["c"]), {"v": FLOATS[:1], "s": INT([BILLION] * 2)}),
    "Resize": (
        node("Resize", ["v", "", "s"], ["c"]),
        {"v": FLOATS[:1].reshape(1, 1), "s": np.float32([1e5, 1e5])},
    ),
    "OneHot": (
        node("OneHot", ["i", "n", "v"], ["c"]),
        {"i": INT([1, 2]), "n": INT(BILLION), "v": FLOATS[:2]},
    ),
    "outer product": (node("Einsum", ["v", "v", "v"], ["c"], equation="a,b,c->abc"), {"v": FLOATS}),
    "broadcasting": (
        node("Sum", ["a", "b", "d"], ["c"]),
        {"a": FLOATS.reshape(-1, 1, 1), "b": FLOATS.reshape(-1, 1), "d": FLOATS},
    ),
    "Split": (node("Split", ["v"], ["c", "d"], num_outputs=BILLION), {"v": FLOATS[:8]}),
    "RandomNormal": (node("RandomNormal", [], ["c"], shape=[100_000, 100_000]), {}),
    "HannWindow": (node("HannWindow", ["n"], ["c"]), {"n": INT(10**10)}),
    "DFT": (node("DFT", ["v", "n"], ["c"]), {"v": FLOATS[:4].reshape(1, 4, 1), "n": INT(10**10)}),
    "ConvTranspose": (
        node("ConvTranspose", ["v", "v"], ["c"], strides=[60_000, 60_000]),
        {"v": FLOATS[:64].reshape(1, 1, 8, 8)},
    ),
    "Col2Im": (
        node("Col2Im", ["v", "s", "b"], ["c"]),
        {"v": FLOATS[:1].reshape(1, 1, 1), "s": INT([60_000] * 2), "b": INT([1, 1])},
    ),
    "CenterCropPad": (
        node("CenterCropPad", ["v", "s"], ["c"]),
        {"v": FLOATS[:1], "s": INT([60_000 * 60_000])},
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_results_that_are_not_computed_while_importing(name: str) -> None:
    made, constants = BOMBS[name]
    expect(behind(made, constants))


def test_chains_that_double() -> None:
    nodes = [node("Concat", [f"s{i}", f"s{i}"], [f"s{i + 1}"], axis=0) for i in range(40)]
    expect(make([*nodes, node("Reshape", ["x", "s40"], ["y"])], {"s0": INT([1])}))


def test_chains_of_squares() -> None:
    nodes = [node("Mul", [f"s{i}", f"s{i}"], [f"s{i + 1}"]) for i in range(60)]
    expect(make([*nodes, node("Reshape", ["x", "s60"], ["y"])], {"s0": INT([3])}))
    expect(make([node("Shape", ["x"], ["s0"]), *nodes, node("Reshape", ["x", "s60"], ["y"])]))


@pytest.mark.parametrize("op_type", ["Div", "Mod"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_divisions_that_would_end_the_process(op_type: str, dtype: type[np.signedinteger]) -> None:
    constants = {"a": np.array([np.iinfo(dtype).min], dtype), "b": np.array([-1], dtype), "z": dtype(0)}
    divide = [node(op_type, ["a", b], [f"{b}q"]) for b in ("b", "z")]
    cast = node("Cast", ["bq"], ["s"], to=TensorProto.INT64)
    expect(make([*divide, cast, node("Reshape", ["x", "s"], ["y"])], constants))


@pytest.mark.parametrize("op_type", ["Div", "Mod"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_the_least_integer_by_minus_one_wraps_around(op_type: str, dtype: torch.dtype) -> None:
    least = torch.iinfo(dtype).min
    ends = [value(n, onnx_element_type(dtype), [4]) for n in "ab"]
    module = expect(make([node(op_type, ["a", "b"], ["y"])], inputs=ends))
    a, b = torch.tensor([least, least, 7, -7], dtype=dtype), torch.tensor([-1, 1, -1, 2], dtype=dtype)
    expected = [least, least, -7, -3] if op_type == "Div" else [0, 0, 0, 1]
    assert module(a, b).tolist() == expected


def test_weights_of_quantizers_that_would_be_gigabytes() -> None:
    quantize = node(
        "Quant", ["c", "s", "z", "b"], ["q"], domain=QONNX, signed=1, narrow=0, rounding_mode="ROUND"
    )
    numbers = {"s": np.float32(1), "z": np.float32(0), "b": np.float32(4)}
    made = node("Expand", ["v", "n"], ["c"])
    expect(behind(made, {"v": FLOATS[:1], "n": INT([60_000] * 3), **numbers}, quantize))
    wrong = node("MatMul", ["v", "w"], ["c"])
    expect(
        behind(
            wrong, {"v": np.ones((2, 3), np.float32), "w": np.ones((2, 3), np.float32), **numbers}, quantize
        )
    )


def test_bounded_operations() -> None:
    with Bounded():
        assert torch.ones(3).add(1).tolist() == [2, 2, 2]
        assert torch.cat([torch.ones(1000), torch.ones(1000)]).sum() == 2000
        assert torch.arange(4)[[True, False, True, False]].tolist() == [0, 2]
        with pytest.raises(RefusedError, match="too large"):
            torch.full((1 << 15, 1 << 15), 0.5)
        with pytest.raises(RefusedError, match="too large"):
            torch.nn.functional.interpolate(torch.ones(1, 1, 4, 4), scale_factor=1e4)
        with pytest.raises(RefusedError, match="chance"):
            torch.rand(3)
        with pytest.raises(RefusedError, match="least integer"):
            torch.tensor([-(1 << 63)]) // torch.tensor([-1])


# -- tensors that lie ----------------------------------------------------------------------------------


def tensor(dims: Sequence[int], element_type: int = TensorProto.FLOAT, **data: Any) -> TensorProto:
    return TensorProto(dims=dims, data_type=element_type, **data)


@pytest.mark.parametrize("lie", [
    tensor([BILLION], raw_data=bytes(4)),
    tensor([BILLION], float_data=[1.0]),
    tensor([BILLION]),
    tensor([4], raw_data=bytes(15)),
    tensor([4], raw_data=bytes(17)),
    tensor([4], float_data=[1.0] * 5),
    tensor([4], TensorProto.INT4, raw_data=bytes(3)),
    tensor([4], TensorProto.INT64, raw_data=bytes(16)),
    tensor([-1], raw_data=bytes(4)),
    tensor([1 << 62, 4], raw_data=bytes(4)),
    tensor([1 << 62] * 9, raw_data=b""),
    tensor([0, 1 << 62, 1 << 62], raw_data=b""),
    tensor([1] * 100, raw_data=bytes(4)),
    tensor([1] * 100_000, raw_data=bytes(4)),
])  # fmt: skip
def test_data_that_do_not_fit(lie: TensorProto) -> None:
    model = make([node("Cast", ["w"], ["y"], to=TensorProto.FLOAT)], {"w": lie})
    expect(model, InvalidModelError, r"node 'y' \(Cast\): tensor 'w'")


@pytest.mark.parametrize("element_type", [0, 8, 99, -1, 1 << 20])
def test_element_types_that_do_not_exist(element_type: int) -> None:
    model = make([node("Add", ["x", "w"], ["y"])], {"w": tensor([1], element_type, raw_data=bytes(4))})
    expect(model, UnsupportedModelError, "tensor 'w': element type .* is not supported")


def test_booleans_are_0_or_1() -> None:
    lie = tensor([4], TensorProto.BOOL, raw_data=b"\x02\x00\xff\x01")
    module = expect(make([node("Where", ["w", "x", "n"], ["y"])], {"w": lie, "n": np.float32(0)}))
    (condition,) = module.buffers()
    assert condition.view(torch.uint8).tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize("attribute", ["value_float", "value_int", "value_ints", "value_floats", "value"])
def test_constants_of_another_type_than_they_say(attribute: str) -> None:
    lie = node("Constant", [], ["c"], value_int=3)
    lie.attribute[0].name = attribute
    lie.attribute[0].type = AttributeProto.STRING if attribute == "value_int" else AttributeProto.INT
    model = make([lie, node("Add", ["x", "c"], ["y"])])
    expect(model, InvalidModelError, rf"Constant node 'c' \(Constant\): its attribute {attribute} is of type")


def test_sparse_tensors_of_no_type() -> None:
    sparse = make([node("Relu", ["x"], ["y"])])
    sparse.graph.sparse_initializer.add().values.name = "w"
    expect(sparse, UnsupportedModelError, "tensor 'w': element type")
    constant = NodeProto(op_type="Constant", output=["c"])
    constant.attribute.add(name="sparse_value", type=AttributeProto.SPARSE_TENSOR)
    expect(
        make([constant, node("Add", ["x", "c"], ["y"])]), UnsupportedModelError, "tensor 'c': element type"
    )


@pytest.mark.parametrize("count", [70_000, 1_000_000])
def test_shapes_of_very_many_numbers(count: int) -> None:
    model = make([node("Reshape", ["x", "s"], ["y"])], {"s": np.ones(count, INT)})
    expect(model, UnsupportedModelError, f"its input 's' has {count} elements")


# -- nodes that break their schema ---------------------------------------------------------------------


@pytest.mark.parametrize(("broken", "match"), [
    (node("Relu", ["x"], [], "n"), r"node 'n' \(Relu\): ai.onnx::Relu-1 gives nothing"),
    (node("Relu", ["x"], ["y", "z"]), "has 2 outputs instead of 1"),
    (node("Split", [], ["y"]), "ai.onnx::Split-.* has 0 inputs instead of 1 to 2"),
    (node("CastLike", [], ["y"]), "has 0 inputs instead of 2"),
    (node("QuantizeLinear", ["x"], ["y"]), "has 1 inputs instead of 2 to 3"),
    (node("Concat", ["x", "x"], ["y"], axis="one"), "its attribute 'axis' is of type STRING, not INT"),
    (node("Concat", ["x", "x"], ["y"], axis=[1]), "its attribute 'axis' is of type INTS, not INT"),
    (node("LeakyRelu", ["x"], ["y"], alpha=1), "its attribute 'alpha' is of type INT, not FLOAT"),
    (node("If", ["x"], ["y"], then_branch=1), "its attribute 'then_branch' is of type INT, not GRAPH"),
])  # fmt: skip
def test_nodes_against_their_schemas(broken: NodeProto, match: str) -> None:
    nodes = [broken] if broken.output else [broken, node("Neg", ["x"], ["y"])]
    expect(make(nodes), InvalidModelError, match)


def test_n_grams_of_any_length() -> None:
    counted = node(
        "TfIdfVectorizer", ["i"], ["y"], max_gram_length=1 << 40, max_skip_count=0, min_gram_length=1,
        mode="TF", ngram_counts=[0], ngram_indexes=[0], pool_int64s=[1],
    )  # fmt: skip
    nodes = [node("Cast", ["x"], ["i"], to=TensorProto.INT64), counted]
    expect(make(nodes), InvalidModelError, "n-grams of 1 to")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none(number: float) -> None:
    expect(make([node("LeakyRelu", ["x"], ["y"], alpha=number)]))
    quantize = node(
        "Quant", ["x", "s", "s", "s"], ["y"], domain=QONNX, signed=1, narrow=0, rounding_mode="ROUND"
    )
    expect(make([quantize], {"s": np.float32(number)}))


def test_attributes_of_very_many_numbers() -> None:
    expect(make([node("Transpose", ["x"], ["y"], perm=list(range(50_000)))]))


# -- graphs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "match"), [
    (make([node("Relu", ["y"], ["y"])]), "cycle"),
    (make([node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["a"]), node("Add", ["a", "x"], ["y"])]), "cycle"),
    (make([node("Relu", ["x"], ["y"])], outputs=["y", ""]), "graph output '' is produced by nothing"),
    (make([node("Relu", ["x"], ["y"])], inputs=[value("x"), value("")]), "a graph input has no name"),
    (make([node("Relu", ["x"], ["y"])], inputs=[value("x"), value("x")]), "'x' is declared twice"),
    (make([node("Constant", [], [], value_int=1), node("Relu", ["x"], ["y"])]), "needs one output"),
    (make([node("Relu", ["n" * 10**6], ["y"], "m" * 10**6)]), r"1000000 characters\).*reads 'nnn.*nothing"),
    (ModelProto(), "it holds no graph with outputs"),
], ids=lambda v: "" if isinstance(v, ModelProto) else None)  # fmt: skip
def test_graphs_that_are_none(model: ModelProto, match: str) -> None:
    if model.HasField("graph"):
        expect(model, InvalidModelError, match)
    else:
        with pytest.raises(InvalidModelError, match=match):
            qt.import_model(model)


def test_graphs_without_nodes() -> None:
    x = torch.ones(1, 4)
    assert torch.equal(expect(make([], outputs=["x"]))(x), x)
    twice = expect(make([node("Relu", ["x"], ["y"])], outputs=["y", "y", "x"]))(x)
    assert [t.tolist() for t in twice] == [x.tolist()] * 3


NAMES = [
    "self",
    "forward",
    "__class__",
    "__init__",
    "a);import os;(",
    "y\nimport os\n",
    "n" * 100_000,
    "\u202e",
    ".",
]


def test_names_that_mean_something_to_python() -> None:
    nodes = [node("Relu", [a], [b], b) for a, b in pairwise(NAMES)]
    model = make(nodes, inputs=[value(NAMES[0])], outputs=NAMES[-1:])
    assert expect(model)(torch.ones(1, 4)).tolist() == [[1.0] * 4]


@pytest.mark.parametrize("depth", [31, 33, 1000, 100_000])
def test_names_with_very_many_dots(depth: int) -> None:
    name = ".".join(["a"] * depth)
    module = expect(make([node("Add", ["x", name], ["y"])], {name: np.float32(1)}))
    (key,) = module.state_dict()
    assert key.replace("%2E", ".") == name
    assert module(torch.zeros(1, 4)).tolist() == [[1.0] * 4]


def test_unknown_operators_are_counted_where_they_are_too_many() -> None:
    nodes = [node(f"Strange{i}", ["x"], [f"y{i}"]) for i in range(5000)]
    model = make(nodes, outputs=["y0"])
    expect(model, UnsupportedModelError, r"^5000 of 5000 nodes(.|\n)* version 21\n  and 4000 more$")
    expect(make([node("R" * 10**6, ["x"], ["y"])]), UnsupportedModelError, r"RRR\.\.\. \(\d+ characters\)")


LONG = "l" * 10**6
ONES = {name: np.ones((), np.float32) for name in "szb"}


@pytest.mark.parametrize("model", [
    make([node("Relu", [LONG], ["y"], LONG)]),
    make([node("Relu", ["x", "x"], ["y"], LONG)]),
    make([node("Relu", ["x"], ["y"], LONG, **{LONG: 1})]),
    make([node("Resize", ["x", "", "s"], ["y"], LONG, mode=LONG)], {"s": np.ones(2, np.float32)}),
    make([node("Foo", ["x"], ["y"], LONG, domain=LONG)]),
    make([node("Quant", ["x", "s", "z", "b"], ["y"], LONG, domain="qonnx.custom_op.general", signed=1,
               narrow=0, rounding_mode=LONG)], ONES),
    make([node("Relu", ["x"], ["y"])], inputs=[value("x", shape=[1 << 30] * 100_000)]),
    make([node("Relu", ["x"], ["z"])], outputs=[LONG]),
])  # fmt: skip
def test_messages_stay_short(model: ModelProto) -> None:
    with pytest.raises((InvalidModelError, UnsupportedModelError)) as caught:
        qt.import_model(model)
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize("version", [0, -1, 1 << 31, (1 << 63) - 1, -(1 << 63)])
def test_operator_set_versions_that_cannot_be(version: int) -> None:
    model = make([node("Relu", ["x"], ["y"])], opset=version)
    expect(model, InvalidModelError, f"version {version} of ai.onnx is imported; there is none")


@pytest.mark.parametrize("other", ["", "ai.onnx"])
def test_two_versions_of_an_operator_set(other: str) -> None:
    model = make([node("Relu", ["x"], ["y"])], opset=13)
    model.opset_import.append(helper.make_opsetid(other, 13))
    expect(model)
    model.opset_import[-1].version = 14
    expect(model, InvalidModelError, "two versions of ai.onnx are imported; there must be one")


def test_an_operator_set_of_the_future() -> None:
    with pytest.warns(
        UserWarning, match=r"imports ai.onnx 999; its operators are read as in \d+, the newest"
    ):
        qt.import_model(make([node("Relu", ["x"], ["y"])], opset=999))


def test_an_attribute_given_twice() -> None:
    again = node("Softmax", ["x"], ["y"], axis=0)
    again.attribute.append(helper.make_attribute("axis", 1))
    expect(make([again]), InvalidModelError, "Softmax-13: its attribute 'axis' is given 2 times")


@pytest.mark.parametrize("shape", [(1 << 62,), (1 << 31, 1 << 31, 4), (1 << 62, 1 << 62), (1 << 60, "n")])
def test_inputs_that_no_memory_holds(shape: tuple[int | str, ...]) -> None:
    model = make([node("Relu", ["x"], ["y"])], inputs=[value("x", shape=shape)])
    expect(
        model, UnsupportedModelError, "graph input 'x' is declared with more elements than memory can have"
    )


@pytest.mark.parametrize("version", [0, -5, 10**9, (1 << 63) - 1])
def test_ir_versions_do_not_matter(version: int) -> None:
    model = make([node("Relu", ["x"], ["y"])])
    model.ir_version = version
    expect(model)


def test_thousands_of_imports() -> None:
    model = make([node("Relu", ["x"], ["y"])])
    model.opset_import.extend([helper.make_opsetid(f"domain{i}", i) for i in range(20_000)])
    expect(model)


def nested(depth: int) -> ModelProto:
    graph = helper.make_graph([node("Relu", ["x"], ["t"])], "g", [], [value("t")])
    other = helper.make_graph([node("Neg", ["x"], ["n"])], "e", [], [value("n")])
    for i in range(depth):
        inner = node("If", ["c"], [f"t{i}"], then_branch=graph, else_branch=other)
        graph = helper.make_graph([inner], "g", [], [value(f"t{i}")])
    graph.input.extend([value("x"), value("c", TensorProto.BOOL, ())])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize(("reached", "error", "match"), [
    ("p0.onnx", UnsupportedModelError, "partitions are nested more than 100 deep"),
    ("p60.onnx", None, ""),
    ("n" * 5000, UnsupportedModelError, r"its model 'nnn.* \(5000 characters\) is not in the model's folder"),
])  # fmt: skip
def test_partitions_in_partitions(
    reached: str, error: type[Exception] | None, match: str, tmp_path: Path
) -> None:
    def partition(of: str) -> bytes:
        last = node("Relu", ["x"], ["y"])
        other = node("GenericPartition", ["x"], ["y"], "p", domain=QONNX, model=of)
        return make([other if of else last]).SerializeToString()

    for i in range(150):
        (tmp_path / f"p{i}.onnx").write_bytes(partition(f"p{i + 1}.onnx" if i < 149 else ""))
    (tmp_path / "m.onnx").write_bytes(partition(reached))
    if error is None:
        assert qt.import_model(tmp_path / "m.onnx")(torch.ones(1, 4)).tolist() == [[1.0] * 4]
    else:
        with pytest.raises(error, match=match):
            qt.import_model(tmp_path / "m.onnx")


def test_graphs_in_graphs() -> None:
    module = expect(nested(25))
    assert module(torch.ones(1, 4), torch.tensor(True)).tolist() == [[1.0] * 4]


def test_graphs_nested_deeper_than_protobuf_writes() -> None:
    model = nested(1)
    for _ in range(10):  # in memory alone: each graph in the place of the innermost node of the one before
        graph = model.graph
        while graph.node[0].op_type == "If":
            graph = next(a.g for a in graph.node[0].attribute if a.name == "then_branch")
        graph.node[0].CopyFrom(nested(6).graph.node[0])
        graph.output[0].name = graph.node[0].output[0]
    with pytest.raises(UnsupportedModelError, match="graphs are nested more than 32 deep"):
        qt.import_model(model)


def test_types_in_types() -> None:
    model = make([node("Relu", ["x"], ["y"])])
    declared = model.graph.input[0].type
    declared.Clear()
    for _ in range(3000):
        declared = declared.sequence_type.elem_type
    declared.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(InvalidModelError, match="no ONNX protobuf can hold it"):
        qt.import_model(model)


# -- strings that are no text --------------------------------------------------------------------------

NOT_TEXT = "\uffff\uffff\uffff"


def strings(model: ModelProto) -> Iterator[tuple[Any, str, int | None]]:
    """Yields every string field that is set: the message, the field, and the position in a list."""
    waiting: list[Any] = [model]
    while waiting:
        message = waiting.pop()
        for field, found in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                waiting.extend(found if field.is_repeated else [found])
            elif field.type == field.TYPE_STRING and field.is_repeated:
                yield from ((message, field.name, i) for i in range(len(found)))
            elif field.type == field.TYPE_STRING:
                yield message, field.name, None


def full_of_strings() -> ModelProto:
    model = nested(2)
    body = [node("Neg", ["a"], ["b"], "n", doc_string="d")]
    function = helper.make_function("local", "f", ["a"], ["b"], body, [helper.make_opsetid("", 21)], ["p"])
    function.overload = function.doc_string = "text"
    model.functions.append(function)
    graph = model.graph
    graph.node.append(node("f", ["x"], ["z"], "n", domain="local", doc_string="d"))
    graph.node[-1].overload = "text"
    graph.initializer.append(numpy_helper.from_array(np.float32(1), "w"))
    graph.initializer[0].doc_string = graph.doc_string = model.doc_string = "text"
    graph.value_info.append(helper.make_tensor_value_info("v", 1, ["dim"], "text", ["denoted"]))
    graph.input.append(helper.make_tensor_sequence_value_info("s", 1, ["dim"], "text"))
    graph.quantization_annotation.add(tensor_name="t").quant_parameter_tensor_names.add(key="k", value="v")
    holders = (model, graph, graph.node[0], graph.initializer[0], graph.input[0], function, function.node[0])
    for holder in holders:
        holder.metadata_props.add(key="key", value="value")
    model.producer_name = model.producer_version = model.domain = "text"
    return model


def test_every_string_is_text() -> None:
    places = list(strings(full_of_strings()))
    assert len(places) > 75
    for number in range(len(places)):
        model = full_of_strings()
        message, field, position = list(strings(model))[number]
        if position is None:
            setattr(message, field, NOT_TEXT)
        else:
            getattr(message, field)[position] = NOT_TEXT
        content = model.SerializeToString().replace(
            NOT_TEXT.encode(), b"\xff\xfe\xc3\x28\x80\x00\x01\x02\x03"
        )
        for source in (content, ModelProto.FromString(content)):
            with pytest.raises(InvalidModelError, match=r"the name b'\\xff.*is not UTF-8"):
                qt.import_model(source)


@pytest.mark.parametrize("op_type", ["Loop", "Scan", "SequenceMap"])
def test_values_that_a_subgraph_needs(op_type: str) -> None:
    body = helper.make_graph(
        [node("Identity", [name], [f"{name}_out"]) for name in "ica"],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("a")],
        [value("c_out", TensorProto.BOOL, []), value("a_out"), value("i_out", TensorProto.INT64, [])],
    )
    extra = {"num_scan_inputs": 1} if op_type == "Scan" else {}
    given = node(op_type, ["n", "", ""], ["y"], body=body, **extra)
    expect(
        make([given], {"n": np.int64(3)}), InvalidModelError, "'y' .*a value that its subgraph needs is left"
    )
