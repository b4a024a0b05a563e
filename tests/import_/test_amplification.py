"""Small files that ask for the same data, or for numbers, over and over: refused by name, or done lazily."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

import qonnx_torch as qt
from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.import_.following import computed
from qonnx_torch.ops.standard.movement import expand
from qonnx_torch.passes.bounded import Bounded, RefusedError, numbers_made
from qonnx_torch.registry import REGISTRY

QONNX = "qonnx.custom_op.general"
node = helper.make_node
pytestmark = pytest.mark.usefixtures("within_bounds")


def make(
    nodes: Sequence[NodeProto],
    constants: Sequence[TensorProto] = (),
    *,
    shape: Sequence[int] = (1, 4),
    outputs: Sequence[str] = ("y",),
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        constants,
    )
    sets = [helper.make_opsetid("", 21), helper.make_opsetid(QONNX, 1), helper.make_opsetid("d", 1)]
    return helper.make_model(graph, opset_imports=sets, ir_version=10)


def constant(name: str, value: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


# -- numbers -------------------------------------------------------------------------------------------


def loop_with(*made: NodeProto) -> tuple[GraphProto, list[TensorProto]]:
    """A loop's body in which nodes compute on the condition, which is True in each round."""
    information = helper.make_tensor_value_info
    inputs = [
        information("i", TensorProto.INT64, []),
        information("c", TensorProto.BOOL, []),
        information("a", TensorProto.FLOAT, [1, 4]),
    ]
    outputs = [
        information("going", TensorProto.BOOL, []),
        information("b", TensorProto.FLOAT, [1, 4]),
        information(made[-1].output[0], TensorProto.BOOL, None),
    ]
    nodes = [node("Identity", ["c"], ["going"]), node("Identity", ["a"], ["b"]), *made]
    return helper.make_graph(nodes, "body", inputs, outputs), [constant("m", np.int64(1))]


COUNTED = {
    "Expand": [node("Expand", ["c", "size"], ["e"])],
    "Tile": [node("Unsqueeze", ["c", "axes"], ["u"]), node("Tile", ["u", "size"], ["e"])],
    "broadcasting": [
        node("Unsqueeze", ["c", "axes"], ["u"]),
        node("Expand", ["u", "row"], ["r"]),
        node("Expand", ["u", "column"], ["k"]),
        node("And", ["r", "k"], ["e"]),
    ],
    "Gather": [
        node("Unsqueeze", ["c", "axes"], ["u"]),
        node("Expand", ["u", "row"], ["r"]),
        node("Expand", ["zero", "row"], ["index"]),
        node("Gather", ["r", "index"], ["e"]),
    ],
}


@pytest.mark.parametrize("case", COUNTED)
def test_numbers_that_become_many(case: str) -> None:
    body, constants = loop_with(*COUNTED[case])
    constants += [
        constant("size", np.array([4096, 4096])),
        constant("axes", np.array([0, 1])),
        constant("row", np.array([1, 4096])),
        constant("column", np.array([4096, 1])),
        constant("zero", np.int64(0)),
    ]
    model = make([node("Loop", ["m", "", "x"], ["y", "ys"], body=body)], constants)
    assert len(model.SerializeToString()) < 1000
    qt.import_model(model)


RANGE, CONSTANT = (REGISTRY.get("", name, 21).target for name in ("Range", "ConstantOfShape"))


@pytest.mark.parametrize(("name", "args", "attributes", "count"), [
    ("Expand", (True, (3, 4)), {}, 12),
    ("Expand", ((1, 2), (3, 1)), {}, 6),
    ("Tile", (((1,), (2,)), (2, 5)), {}, 20),
    ("Add", (((1,), (2,)), (1, 2, 3)), {}, 6),
    ("Gather", (((1, 2), (3, 4)), (0, 0, 0)), {"axis": 1}, 6),
    ("Concat", ((1, 2), (3,)), {"axis": 0}, 3),
    ("Range", (0, 10, 3), {"as_numbers": True}, 4),
    ("Range", (0, 10, 3), {}, 3),
    ("ConstantOfShape", ((2, 3),), {"as_numbers": True}, 6),
    ("ConstantOfShape", ((2, 3),), {}, 0),
    ("Add", (torch.ones(3), 1), {}, 0),
])  # fmt: skip
def test_how_many_numbers(name: str, args: tuple[Any, ...], attributes: dict[str, Any], count: int) -> None:
    """At least as many as there are; exactly so many where numbers are repeated."""
    assert numbers_made(REGISTRY.get("", name, 21).target, args, attributes) == count


@pytest.mark.parametrize(("target", "args", "attributes"), [
    (expand, (1, (60_000, 2)), {}),
    (RANGE, (0, 1 << 62, 1), {"as_numbers": True}),
    (CONSTANT, ((60_000, 60_000),), {"as_numbers": True}),
])  # fmt: skip
def test_many_numbers_are_not_followed(
    target: Any, args: tuple[Any, ...], attributes: dict[str, Any]
) -> None:
    assert computed(target, args, attributes, []) is None


# -- copies --------------------------------------------------------------------------------------------


def quant(x: str, y: str, **attributes: Any) -> NodeProto:
    return node("Quant", [x, "s", "z", "b"], [y], y, domain=QONNX, signed=1, narrow=0, **attributes)


def quantizers(count: int, size: int) -> ModelProto:
    """Quantizers in a row, each of which owns a copy of the same scale."""
    names = ["x", *(f"v{i}" for i in range(count - 1)), "y"]
    nodes = [quant(a, b) for a, b in pairwise(names)]
    scale = np.ones(size, np.float32)
    constants = [constant("s", scale), constant("z", np.float32(0)), constant("b", np.float32(8))]
    return make(nodes, constants, shape=(1, size))


def test_a_scale_of_thousands_of_quantizers() -> None:
    model = quantizers(3000, 1 << 20)
    assert len(model.SerializeToString()) < 5 << 20
    with pytest.raises(
        UnsupportedModelError, match=r"node '\w+' \(Quant\): its scale 's' is another copy .* 132 MiB"
    ):
        qt.import_model(model)


@pytest.mark.parametrize(
    ("count", "size", "batch"), [(500, 1, "keep"), (500, 1 << 12, "keep"), (16, 1 << 20, "keep"), (50, 99, 3)]
)
def test_scales_that_are_shared_in_earnest(count: int, size: int, batch: Any) -> None:
    module = qt.import_model(quantizers(count, size), batch=batch)
    assert sum(isinstance(m, qt.nn.Quant) for m in module.modules()) == count


def functions(levels: int, size: int) -> ModelProto:
    """Functions each of which calls the one before ten times; the first has a constant."""
    value = constant("", np.zeros(size, np.float32))
    first = [node("Constant", [], ["c"], value=value), node("Add", ["x", "c"], ["y"])]
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("d", 1)]
    bodies = [helper.make_function("d", "F0", ["x"], ["y"], first, sets)]
    for k in range(1, levels):
        names = ["x", *(f"t{i}" for i in range(9)), "y"]
        calls = [node(f"F{k - 1}", [a], [b], domain="d") for a, b in pairwise(names)]
        bodies.append(helper.make_function("d", f"F{k}", ["x"], ["y"], calls, sets))
    model = make([node(f"F{levels - 1}", ["x"], ["y"], domain="d")], shape=(size,))
    model.functions.extend(bodies)
    return model


def test_a_constant_of_a_function_called_without_end() -> None:
    for levels in (4, 5):
        with pytest.raises(UnsupportedModelError, match=r"the body of the function d::F\d is another copy"):
            qt.import_model(functions(levels, 1 << 18))
    assert qt.import_model(functions(2, 1 << 18))(torch.ones(1 << 18)).sum() == 1 << 18
    assert qt.import_model(functions(4, 4))(torch.ones(4)).tolist() == [1.0] * 4


def partitions(folder: Path, count: int, size: int) -> Path:
    weight = constant("w", np.zeros(size, np.float32))
    onnx.save(make([node("Add", ["x", "w"], ["y"])], [weight], shape=(size,)), folder / "p.onnx")
    names = ["x", *(f"v{i}" for i in range(count - 1)), "y"]
    nodes = [node("GenericPartition", [a], [b], b, domain=QONNX, model="p.onnx") for a, b in pairwise(names)]
    onnx.save(make(nodes, shape=(size,)), folder / "m.onnx")
    return folder / "m.onnx"


def test_a_partition_of_a_thousand_nodes(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"node '\w+' \(GenericPartition\): its partition is another copy"
    ):
        qt.import_model(partitions(tmp_path, 1000, 1 << 21))


@pytest.mark.parametrize("size", [1 << 10, 1 << 19])
def test_each_use_of_a_partition_has_weights_of_its_own(tmp_path: Path, size: int) -> None:
    module = qt.import_model(partitions(tmp_path, 3, size))
    first, second, third = module.parameters()
    with torch.no_grad():
        first.fill_(1)
        second.fill_(2)
    assert third.sum() == 0
    assert module(torch.zeros(size))[0] == 3


# -- external data -------------------------------------------------------------------------------------


def external(folder: Path, places: Sequence[tuple[int, int]], elements: int) -> Path:
    """A model that adds tensors of float32 at (offset, length) of a file."""
    (folder / "w.bin").write_bytes(b"\0" * 4 * elements)
    tensors = []
    for i, (offset, count) in enumerate(places):
        tensor = TensorProto(
            name=f"w{i}", data_type=TensorProto.FLOAT, dims=[count], data_location=TensorProto.EXTERNAL
        )
        tensor.external_data.add(key="location", value="w.bin" if i % 2 else "./w.bin")
        tensor.external_data.add(key="offset", value=str(offset))
        tensors.append(tensor)
    sums = [node("ReduceSum", [t.name], [f"t{i}"], keepdims=0) for i, t in enumerate(tensors)]
    total = node("Sum", ["x", *(n.output[0] for n in sums)], ["y"])
    (folder / "m.onnx").write_bytes(make([*sums, total], tensors).SerializeToString())
    return folder / "m.onnx"


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("count", [1 << 13, 1 << 20])
def test_the_same_data_for_hundreds_of_tensors(tmp_path: Path, offset: int, count: int) -> None:
    path = external(tmp_path, [(offset, count)] * (400 if count > 1 << 13 else 5000), count + 1)
    with pytest.raises(UnsupportedModelError, match=r"initializer 'w\d+' is another copy of what the model"):
        qt.import_model(path)


@pytest.mark.parametrize("places", [
    [(0, 40_000), (0, 40_000)],
    [(0, 40_000), (80_000, 40_000)],
    [(80_000, 40_000), (0, 40_000)],
    [(0, 20_000), (80_000, 20_000), (40_000, 20_000)],
    [(0, 60_000), (40_000, 20_000)],
])  # fmt: skip
def test_tensors_at_one_place_are_trained_apart(tmp_path: Path, places: Sequence[tuple[int, int]]) -> None:
    module = qt.import_model(external(tmp_path, places, 60_000))
    weights = list(module.parameters())
    assert len(weights) == len(places)
    for i, weight in enumerate(weights):
        with torch.no_grad():
            weight.fill_(i + 1)
    assert [w.unique().tolist() for w in weights] == [[i + 1] for i in range(len(weights))]


def test_tensors_beside_each_other_stay_where_they_lie(tmp_path: Path) -> None:
    places = [(0, 20_000), (160_000, 20_000), (80_000, 20_000)]
    first, last, middle = qt.import_model(external(tmp_path, places, 60_000)).parameters()
    assert middle.data_ptr() - first.data_ptr() == last.data_ptr() - middle.data_ptr() == 80_000


# -- room ----------------------------------------------------------------------------------------------


def test_operations_within_a_room() -> None:
    """What is alive counts; what has been given up does not."""
    x, mib = torch.ones(1 << 18), 1 << 20  # 1 MiB each
    with Bounded(room=8 * mib):
        for _ in range(100):
            y = x + 1
        assert torch.equal(y, y.clone())
        kept = [x + i for i in range(6)]
        with pytest.raises(RefusedError, match=r"values take more than 8388608 bytes"):
            torch.ones(1 << 40)
        with pytest.raises(RefusedError, match="the result of cat"):
            torch.cat(kept)
        del kept
        assert x.expand(1000, -1).shape == (1000, 1 << 18)
        assert torch.rand(1 << 18).shape == x.shape
        with pytest.raises(RefusedError, match="the result of clone"):
            x.expand(1000, -1).clone(memory_format=torch.contiguous_format)


def test_a_number_of_operations() -> None:
    with Bounded(room=1 << 20, steps=3):
        x = torch.ones(2) + 1 + 1
        with pytest.raises(RefusedError, match="too many steps"):
            x + 1


def test_outputs_too_large_to_compare_and_outputs_that_are_not() -> None:
    def expanded(count: int) -> ModelProto:
        return make([node("Expand", ["x", "s"], ["y"])], [constant("s", np.array([count, 1, 1]))])

    with pytest.raises(UnsupportedModelError, match=r"output 0 cannot be compared: with the result of"):
        qt.import_model(expanded(1 << 22), batch="dynamic")
    large = make([node("Relu", ["x"], ["y"])], shape=(1, 3, 400, 400))
    assert qt.import_model(large, batch="dynamic")(torch.ones(2, 3, 8, 8)).shape == (2, 3, 8, 8)


def test_an_endless_loop_in_front_of_a_quantizer() -> None:
    """Whether a quantizer's constants have a rank is not worth running the loop that computes them."""
    body = helper.make_graph(
        [node("Identity", ["c"], ["going"]), node("Add", ["a", "a"], ["b"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("a", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, None),
        ],
    )
    flags = {"domain": QONNX, "signed": 1, "narrow": 0, "rounding_mode": "ROUND"}
    nodes = [
        node("Loop", ["m", "", "one"], ["s"], body=body),
        node("Quant", ["w", "s", "zero", "four"], ["q"], **flags),
        node("Quant", ["q", "one", "zero", "four"], ["r"], **flags),  # of a weight or of a bias?
        node("Mul", ["x", "r"], ["y"]),
    ]
    numbers = {"one": 1.0, "zero": 0.0, "four": 4.0, "w": [1.0]}
    constants = [numpy_helper.from_array(np.float32(v), k) for k, v in numbers.items()]
    qt.import_model(make(nodes, [numpy_helper.from_array(np.int64(1 << 62), "m"), *constants]))
