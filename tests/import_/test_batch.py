"""Another batch size for a frozen model: right numbers, or a refusal that says what to do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import qonnx_torch as qt

MODELS = Path(__file__).parent.parent / "models"


def model(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[int], opset: int = 17, **initializers: np.ndarray
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


node = helper.make_node
WEIGHT = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)

GOOD = {
    "flatten by reshape": (
        [node("Reshape", ["x", "s"], ["r"]), node("MatMul", ["r", "w"], ["y"])],
        (1, 3, 4),
        17,
    ),
    "reshape keeps leading one": ([node("Reshape", ["x", "t"], ["y"])], (1, 3, 4), 17),
    "rows of all samples": ([node("Reshape", ["x", "rows"], ["y"])], (1, 3, 4), 17),
    "flatten from axis 0": (
        [node("Flatten", ["x"], ["f"], axis=0), node("MatMul", ["f", "w"], ["y"])],
        (1, 3, 4),
        17,
    ),
    "squeeze of a channel": ([node("Squeeze", ["x", "one"], ["y"])], (1, 1, 4), 17),
    "transposes around": (
        [node("Transpose", ["x"], ["a"], perm=[1, 0, 2]), node("Transpose", ["a"], ["y"], perm=[1, 0, 2])],
        (1, 3, 4),
        17,
    ),
}
CONSTANTS = {"s": ints(1, 12), "t": ints(1, 4, 3), "rows": ints(3, 4), "one": ints(1), "w": WEIGHT}


def with_constants(nodes, shape, opset) -> onnx.ModelProto:
    used = {i for n in nodes for i in n.input}
    return model(nodes, shape, opset, **{k: v for k, v in CONSTANTS.items() if k in used})


@pytest.mark.parametrize("batch", ["dynamic", 3])
@pytest.mark.parametrize("name", GOOD)
def test_samples_are_computed_as_one_by_one(name: str, batch: str | int) -> None:
    source = with_constants(*GOOD[name])
    one, many = qt.import_model(source), qt.import_model(source, batch=batch)
    x = torch.randn(3, *GOOD[name][1][1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.cat([one(x[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(many(x), expected)
        assert torch.equal(many(x[:1]), one(x[:1]))


REFUSED = {
    "softmax over the batch": [node("Softmax", ["x"], ["y"], axis=0)],
    "maximum of everything": [node("ReduceMax", ["x"], ["m"]), node("Div", ["x", "m"], ["y"])],
    "mean over the batch": [node("ReduceMean", ["x"], ["y"], axes=[0])],
    "first sample only": [node("Gather", ["x", "zero"], ["y"], axis=0)],
    "slice of the batch": [node("Slice", ["x", "z1", "o1", "z1"], ["y"])],
    "running sum over the batch": [node("CumSum", ["x", "zero"], ["y"])],
    "samples interleaved": [
        node("Transpose", ["x"], ["t"], perm=[1, 2, 0]),
        node("Reshape", ["t", "s"], ["y"]),
    ],
    "a little of the largest neighbour": [
        node("ReduceMax", ["x"], ["m"], axes=[0], keepdims=1),
        node("Mul", ["m", "little"], ["n"]),
        node("Add", ["x", "n"], ["y"]),
    ],
    "only of large neighbours": [
        node("ReduceMax", ["x"], ["m"], axes=[0], keepdims=1),
        node("Sub", ["m", "big"], ["n"]),
        node("Relu", ["n"], ["r"]),
        node("Add", ["x", "r"], ["y"]),
    ],
    "doubled batch": [node("Concat", ["x", "x"], ["y"], axis=0)],
    "squeezed batch": [node("Squeeze", ["x", "z1"], ["y"])],
}


@pytest.mark.parametrize("name", REFUSED)
def test_mixed_or_lost_samples_are_refused(name: str) -> None:
    constants = {"zero": np.array(0, dtype=np.int64), "z1": ints(0), "o1": ints(1), "s": ints(1, 12)}
    constants |= {"little": np.float32(0.03), "big": np.float32(10)}
    used = {i for n in REFUSED[name] for i in n.input}
    source = model(REFUSED[name], (1, 3, 4), 17, **{k: v for k, v in constants.items() if k in used})
    qt.import_model(source)
    with pytest.raises(
        qt.UnsupportedModelError, match="the batch size cannot be changed; use batch='keep'"
    ) as caught:
        qt.import_model(source, batch="dynamic")
    assert "While executing" not in str(caught.value)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("sizes", [(13, 7), (12, 3), (23, 11)])
@pytest.mark.parametrize("opset", [13, 18])
def test_resize_keeps_its_sizes(sizes: tuple[int, int], opset: int, mode: str) -> None:
    """6 -> 13: floor(6 * float32(13 / 6)) is 12, so scales cannot say it; 18 and on have axes."""
    source = model(
        [node("Resize", ["x", "", "", "sizes"], ["y"], mode=mode)],
        (1, 2, 6, 6),
        opset,
        sizes=ints(1, 2, *sizes),
    )
    exact = all((n / 6) in (2.0, 0.5) for n in sizes)
    if opset < 18 and not exact:
        with pytest.raises(qt.UnsupportedModelError, match="no form with a free batch below opset 18"):
            qt.import_model(source, batch="dynamic")
        return
    one, many = qt.import_model(source), qt.import_model(source, batch="dynamic")
    x = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(many(x), torch.cat([one(x[i : i + 1]) for i in range(3)]))
    again = qt.import_model(qt.export_qonnx(many))
    with torch.no_grad():
        assert torch.equal(again(x), many(x))


@pytest.mark.parametrize("heads", [2, 4])
def test_attention_with_the_batch_inside(heads: int) -> None:
    """Sequence first: (L, 1, E) -> (L, heads, E / heads) -> per head, and back; only a trial tells where."""
    length, width = 5, 8
    source = model(
        [
            node("Transpose", ["x"], ["a"], perm=[1, 0, 2]),
            node("Reshape", ["a", "split"], ["b"]),
            node("Transpose", ["b"], ["c"], perm=[1, 0, 2]),
            node("Transpose", ["c"], ["ct"], perm=[0, 2, 1]),
            node("MatMul", ["c", "ct"], ["d"]),
            node("Softmax", ["d"], ["e"], axis=-1),
            node("MatMul", ["e", "c"], ["f"]),
            node("Transpose", ["f"], ["g"], perm=[1, 0, 2]),
            node("Reshape", ["g", "join"], ["h"]),
            node("Transpose", ["h"], ["y"], perm=[1, 0, 2]),
        ],
        (1, length, width),
        split=ints(length, heads, width // heads),
        join=ints(length, 1, width),
    )
    one = qt.import_model(source)
    x = torch.randn(3, length, width, generator=torch.Generator().manual_seed(0))
    many = qt.import_model(source, batch="dynamic")
    with torch.no_grad():
        torch.testing.assert_close(many(x), torch.cat([one(x[i : i + 1]) for i in range(3)]))


def test_a_number_is_written_to_the_file() -> None:
    module = qt.import_model(MODELS / "reshape_batch1.onnx", batch=4)
    exported = qt.export_qonnx(module)
    assert exported.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    assert exported.graph.output[0].type.tensor_type.shape.dim[0].dim_value == 4
    dynamic = qt.export_qonnx(qt.import_model(MODELS / "reshape_batch1.onnx", batch="dynamic"))
    assert dynamic.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("batch", [0, -1, True, "free", 1.0])
def test_other_values_are_refused(batch: object) -> None:
    with pytest.raises(ValueError, match="batch must be 'keep', 'dynamic' or a positive number"):
        qt.import_model(MODELS / "reshape_batch1.onnx", batch=batch)


def test_inputs_that_are_not_batched_keep_their_shape() -> None:
    graph = helper.make_graph(
        [node("MatMul", ["x", "w"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8)),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, (8, 5)),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 5))],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    module = qt.import_model(source, batch="dynamic")
    assert module(torch.ones(3, 8), torch.ones(8, 5)).shape == (3, 5)


def test_new_constants_have_names_of_their_own() -> None:
    """y_shape is a graph input already, and r_shape a value in a subgraph."""
    branch = {
        key: helper.make_graph(
            [node("Neg", ["r"], ["r_shape"]), node(op_type, ["r_shape"], [key])],
            key,
            [],
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, None)],
        )
        for key, op_type in (("then_branch", "Neg"), ("else_branch", "Relu"))
    }
    source = model(
        [
            node("Reshape", ["x", "s"], ["y"]),
            node("Reshape", ["x", "s"], ["r"]),
            node("If", ["c"], ["b"], **branch),
            node("Sum", ["y", "y_shape", "b"], ["z"]),
        ],
        (1, 6),
        s=ints(1, 2, 3),
    )
    source.graph.input.append(helper.make_tensor_value_info("y_shape", TensorProto.FLOAT, (1, 2, 3)))
    source.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, ()))
    source.graph.output[0].name = "z"
    module = qt.import_model(source, batch="dynamic")
    assert [n.name for n in module.graph.nodes if n.op == "placeholder"] == ["x", "y_shape", "c"]
    x = torch.arange(12.0).reshape(2, 6)
    y = module(x, torch.ones(2, 2, 3), torch.tensor(True))
    assert torch.equal(y, 2 * x.reshape(2, 2, 3) + 1)


def test_the_time_grows_with_the_nodes() -> None:
    """A thousand constants are mended in three seconds; it was quadratic."""
    nodes = [
        node("Reshape", ["x" if i == 0 else f"v{i - 1}", "st"[i % 2]], ["y" if i == 3999 else f"v{i}"])
        for i in range(4000)
    ]
    source = model(nodes, (2, 6), s=ints(2, 3, 2), t=ints(2, 6))
    started = time.process_time()
    module = qt.import_model(source, batch="dynamic")
    assert time.process_time() - started < 12  # 3 to 5 s on one core; 27 s before
    assert module(torch.ones(5, 6)).shape == (5, 6)


def chain_of_loops(rounds: object) -> onnx.ModelProto:
    body = onnx.parser.parse_graph(
        """b (int64 i, bool c, float[] a) => (bool going, float[] n) { going = Identity(c)  n = Add(a, a) }"""
    )
    for value in (body.input[2], body.output[1]):
        value.type.tensor_type.ClearField("shape")
    return model([node("Loop", ["m", "", "x"], ["y"], body=body)], (1, 4), m=np.asarray(rounds))


def test_loops_are_tried() -> None:
    module = qt.import_model(chain_of_loops(np.int64(100)), batch="dynamic")
    assert torch.equal(module(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_a_loop_of_more_rounds_than_can_be_tried() -> None:
    expected = r"use batch='keep' \(the shape of node 'y' \(Loop\) cannot be inferred: more than 65536 steps"
    with pytest.raises(qt.UnsupportedModelError, match=expected):
        qt.import_model(chain_of_loops(np.int64(1 << 62)), batch="dynamic")


def test_a_loop_whose_rounds_depend_on_data() -> None:
    """What fake tensors do not tell is bounded when the samples are tried."""
    source = chain_of_loops(np.int64(1))
    del source.graph.initializer[:]
    counts = [
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Abs", ["most"], ["positive"]),
        node("Mul", ["positive", "huge"], ["many"]),
        node("Cast", ["many"], ["m"], to=TensorProto.INT64),
    ]
    loop = source.graph.node[0]
    nodes = [*counts, loop]
    source = model(nodes, (1, 4), huge=np.float32(1e15))
    with pytest.raises(qt.UnsupportedModelError, match=r"node 'y' \(Loop\).*it takes too many steps"):
        qt.import_model(source, batch="dynamic")


def test_values_that_take_too_much_memory() -> None:
    nodes = [node("Expand", ["x", "s"], ["e"]), node("Neg", ["e"], ["y"])]
    source = model(nodes, (1, 1), s=ints(1, 1 << 28))
    qt.import_model(source)
    expected = (
        r"use batch='keep' \(node 'y' \(Neg\) does not run with two samples: .* take more than \d+ bytes"
    )
    with pytest.raises(qt.UnsupportedModelError, match=expected):
        qt.import_model(source, batch="dynamic")


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("op_type", ["RNN", "GRU", "LSTM"])
def test_constant_states_of_zeros(op_type: str, layout: int) -> None:
    """PyTorch's exporter writes them for one sample; absent ones are zeros for any number."""
    rows = 3 * {"RNN": 1, "GRU": 3, "LSTM": 4}[op_type]
    rng = np.random.default_rng(0)
    weights = {k: rng.standard_normal((1, rows, n)).astype(np.float32) for k, n in (("w", 4), ("r", 3))}
    states = ["h", "h"] if op_type == "LSTM" else ["h"]
    layer = node(op_type, ["x", "w", "r", "", "", *states], ["y"], hidden_size=3, layout=layout)
    if not layout:  # the batch is the first dimension of the model's input
        layer.input[0] = "t"
    nodes = [layer] if layout else [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), layer]
    source = model(nodes, (1, 5, 4), h=np.zeros((1, 1, 3), np.float32), **weights)
    x = torch.from_numpy(rng.standard_normal((6, 5, 4)).astype(np.float32))
    kept, free = qt.import_model(source), qt.import_model(source, batch="dynamic")
    one_by_one = torch.cat([kept(sample[None]) for sample in x], 0 if layout else 2)
    torch.testing.assert_close(free(x), one_by_one)
    with pytest.raises(qt.InvalidModelError, match=r"initial_h .* must have the shape"):
        kept(x)
    source.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones((1, 1, 3), np.float32), "h"))
    with pytest.raises(qt.UnsupportedModelError, match=r"initial_h .* must have the shape"):
        qt.import_model(source, batch="dynamic")


def down_and_up(constant: bool) -> onnx.ModelProto:
    """A U-Net in small: a strided convolution, and back to the size of the input, whatever that is."""
    nodes = [
        node("Conv", ["x", "w"], ["d"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Shape", ["x"], ["s"]),
        node("Resize", ["d", "", "", "s"], ["u"], mode="nearest"),
        node("Add", ["u", "x"], ["y"]),
    ]
    shape = (1, 2, 8, 8) if constant else ("batch", 2, "height", "width")
    weight = np.random.default_rng(0).standard_normal((2, 2, 4, 4)).astype(np.float32)
    return model(nodes, shape, w=weight)


@pytest.mark.parametrize("constant", [False, True])
def test_other_dynamic_dimensions_have_sizes_that_work(constant: bool) -> None:
    source = down_and_up(constant)
    module, expected = qt.import_model(source, batch="dynamic"), qt.import_model(source)
    x = torch.randn(3, 2, 8, 8)
    torch.testing.assert_close(module(x), torch.cat([expected(sample[None]) for sample in x]))
    fixed = qt.export_qonnx(qt.import_model(source, batch=5)).graph.input[0].type.tensor_type.shape.dim
    assert fixed[0].dim_value == 5
    assert fixed[2].dim_param == ("" if constant else "height")
