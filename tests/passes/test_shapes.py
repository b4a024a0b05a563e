"""Shapes by fake tensors against the shapes that execution gives."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
import torch
from torch import fx, nn

import qonnx_torch as qt
from qonnx_torch.ops import as_tensor, is_shape_value
from qonnx_torch.passes import shapes, trials
from qonnx_torch.passes.propagation import FakeInterpreter, propagate
from qonnx_torch.provenance import value_names

MODELS = sorted((Path(__file__).parent.parent / "models").glob("*.onnx"))


def load(path: Path, **options) -> fx.GraphModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return qt.import_model(path, **options)


class Recorder(fx.Interpreter):
    def run_node(self, n: fx.Node):
        result = super().run_node(n)
        self.seen = {**getattr(self, "seen", {}), n: result}
        return result


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_shapes_are_those_of_execution(path: Path) -> None:
    module = load(path)
    data = np.load(path.with_suffix(".npz"))
    inputs = [torch.from_numpy(data[f"in{i}_s0"]) for i in range(9) if f"in{i}_s0" in data]
    recorder = Recorder(module)
    recorder.run(*inputs)
    infos = qt.infer_shapes(module, *inputs)
    compared = 0
    for node, names in value_names(module).items():
        result = recorder.seen[node]
        if node.op == "output" or (isinstance(result, tuple) and not is_shape_value(result[0])):
            continue
        tensor = as_tensor(result)
        info = infos[names[0]]
        if not is_shape_value(result) and len(names) > 1:
            continue
        assert (info.shape, info.dtype) == (tuple(tensor.shape), tensor.dtype), names
        compared += 1
    assert compared > 0


def test_dynamic_dimensions_keep_their_names() -> None:
    path = next(p for p in MODELS if p.stem == "brevitas_conv_per_channel")
    fixed = qt.infer_shapes(load(path))
    dynamic = qt.infer_shapes(load(path, batch="dynamic"))
    activations = [name for name, info in fixed.items() if info.shape and info.shape[0] == 1]
    assert len(activations) > 5
    for name in activations:
        assert dynamic[name].shape == ("batch", *fixed[name].shape[1:])


def test_training_mode_and_statistics_are_left_alone() -> None:
    module = load(next(p for p in MODELS if p.stem == "brevitas_conv_per_channel")).train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    qt.infer_shapes(module)
    assert all(m.training for m in module.modules())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_the_first_node_that_fails_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    module = load(next(p for p in MODELS if p.stem == "brevitas_mlp_w2a2"))
    with pytest.raises(
        qt.UnsupportedModelError, match=r"the shape of node .*(MatMul|Gemm).*cannot be inferred"
    ):
        qt.infer_shapes(module, torch.zeros(1, 3))
    assert "Traceback" not in capfd.readouterr().err


# -- dynamic dimensions: what is said of them holds at every size that the graph takes ---------------


def rank(shape: tuple) -> str:
    return "float[" + ",".join("abcde"[: len(shape)]) + "]"


def graph(inputs: list[tuple], body: str, shape: tuple) -> fx.GraphModule:
    """Returns a graph of inputs x, z, ... with an output y; names of dimensions may be any text."""
    names = "xzuv"[: len(inputs)]
    declared = ", ".join(f"{rank(dims)} {name}" for name, dims in zip(names, inputs, strict=True))
    text = f'<ir_version: 8, opset_import: ["": 17]> g ({declared}) => ({rank(shape)} y) {body}'
    model = onnx.parser.parse_model(text)
    for value, dims in zip(model.graph.input, inputs, strict=True):
        element_type = value.type.tensor_type.elem_type
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, element_type, dims))
    return qt.import_model(model)


SLICE = "<int64[1] b = {{0}}, int64[1] e = {{{}}}> {{ y = Slice (x, b, e) }}"
TO_LENGTH = """<int64[1] b = {0}, int64[1] most = {4}> {
    s = Shape <start = 0, end = 1> (x)  e = Min (s, most)  y = Slice (x, b, e)
}"""
POSITIONS = """<int64[1] b = {0}, int64[2] rows = {16, 4}> {
    table = ConstantOfShape (rows)  s = Shape <start = 1, end = 2> (x)
    p = Slice (table, b, s)  y = Add (x, p)
}"""
WINDOWS = """<int64[1] four = {4}, int64[1] rest = {-1}, int64[1] three = {3}> {
    h = Shape <start = 1, end = 2> (x)  n = Div (h, four)
    s = Concat <axis = 0> (rest, n, four, three)  y = Reshape (x, s)
}"""
UNET = """<float[4] s = {1, 1, 2, 2}> {
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
    t = Resize <mode = "nearest"> (p, , s)  y = Concat <axis = 1> (t, x)
}"""
BY_SIZE = """<int64 three = {3}, int64 zero = {0}> {
    s = Shape (x)  n = Gather (s, zero)  c = Greater (n, three)
    y = If (c) <then_branch = t () => (float[p, q] g) { g = Identity (x) },
                else_branch = e () => (float[p, q] h) { h = Concat <axis = 1> (x, x) }>
}"""
CAT, PLUS = "{ y = Concat <axis = 1> (x, z) }", "{ y = Add (x, z) }"
TWO_CATS = "{ k = Concat <axis = 1> (x, z)  l = Concat <axis = 1> (u, v)  y = Concat <axis = 0> (l, l) }"
GROUPS = "<int64[3] s = {-1, 2, 3}> { y = Reshape (x, s) }"
HALVES = "{ p, q = Split <axis = 0> (x)  y = Sub (p, q) }"
HALF = "{ p, q = Split <axis = 0> (x)  y = Sub (p, z) }"
LONGER = """<float[1, 4] one = {1, 1, 1, 1}> { t = Concat <axis = 0> (x, one)  y = Add (t, z) }"""
LONGER_FIRST = """<float[1, 4] one = {1, 1, 1, 1}> { t = Concat <axis = 0> (z, one)  y = Add (t, x) }"""
CASES = [
    # inputs, body, declared shape of y, sizes that the graph takes
    ("x[:10]", [("N", 4)], SLICE.format(10), (None, 4), [{"N": 6}, {"N": 12}]),
    ("x[:100]", [("N", 4)], SLICE.format(100), (None, 4), [{"N": 6}, {"N": 150}]),
    ("x[:5000]", [("N", 4)], SLICE.format(5000), (None, 4), [{"N": 6}, {"N": 5001}]),
    ("x[:2]", [("N", 4)], SLICE.format(2), (None, 4), [{"N": 1}, {"N": 2}]),
    ("x[:1]", [("N", 4)], SLICE.format(1), (1, 4), [{"N": 1}, {"N": 2}]),
    ("x[:min(N, 4)]", [("N", 4)], TO_LENGTH, (None, 4), [{"N": 3}, {"N": 7}]),
    ("If on a size", [("N", 4)], BY_SIZE, ("N", None), [{"N": 3}, {"N": 4}]),
    ("positions", [("B", "S", 4)], POSITIONS, ("B", "S", 4), [{"B": 2, "S": 3}, {"B": 20, "S": 16}]),
    ("windows", [("N", "H", 3)], WINDOWS, ("N", None, 4, 3), [{"N": 2, "H": 8}, {"N": 1, "H": 4}]),
    (
        "groups",
        [("N", 3)],
        "<int64[3] s={-1,2,3}> { y = Reshape (x, s) }",
        (None, 2, 3),
        [{"N": 2}, {"N": 8}],
    ),
    ("halves", [("N", 4)], HALVES, (None, 4), [{"N": 2}, {"N": 8}]),
    ("U-Net", [("N", 3, "H", "W")], UNET, ("N", 6, "H", "W"), [{"N": 1, "H": 4, "W": 6}]),
    ("equal", [("N", 4), ("M", 4)], CAT, ("N", 8), [{"N": 3, "M": 3}]),
    ("equal or 1", [("N", 4), ("M", 4)], PLUS, (None, 4), [{"N": 1, "M": 3}, {"N": 3, "M": 1}]),
    (
        "two pairs that are equal",
        [("N", 4), ("M", 4), ("K", 2), ("L", 2)],
        TWO_CATS,
        (None, 4),
        [{"N": 3, "M": 3, "K": 2, "L": 2}],
    ),
    ("N+1", [("N", 4), ("N+1", 4)], LONGER, ("N+1", 4), [{"N": 2, "N+1": 3}]),
    ("N - 1", [("N", 4), ("N - 1", 4)], LONGER_FIRST, ("N", 4), [{"N": 3, "N - 1": 2}]),
    ("2*N", [("2*N", 4), ("N", 4)], HALF, ("N", 4), []),
    (
        "(N//2)",
        [("N", 4), ("(N//2)", 4)],
        "{ p, q = Split <axis = 0> (x)  y = Sub (p, z) }",
        ("(N//2)", 4),
        [],
    ),
    ("not really one", [("N+1", 4), ("N", 4)], CAT, ("N+1", 8), [{"N+1": 3, "N": 3}]),
    ("a name with a sign", [("batch-size", 4)], "{ y = Relu (x) }", ("batch-size", 4), [{"batch-size": 3}]),
    ("no name at all", [("a b(", 4), ("1/0", 4)], "{ y = Relu (x) }", ("a b(", 4), []),
]


@pytest.mark.parametrize(
    ("inputs", "body", "shape", "sizes"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_what_is_said_of_dynamic_dimensions_holds(inputs, body, shape, sizes) -> None:
    module = graph(inputs, body, shape)
    infos = qt.infer_shapes(module)
    assert infos["y"].shape == shape
    assert [infos[name].shape for name in "xzuv"[: len(inputs)]] == inputs
    for given in sizes:
        y = module(*(torch.zeros([given.get(d, d) for d in dims]) for dims in inputs))
        assert all(d is None or given.get(d, d) == n for d, n in zip(shape, y.shape, strict=True))


def test_examples_are_sizes_that_work() -> None:
    """11 rows are one group; at no other size does the second graph run, so that nothing is known."""
    multiple = graph([("N", 3)], "<int64[3] s = {-1, 11, 3}> { y = Reshape (x, s) }", (0, 0, 0))
    assert qt.infer_shapes(multiple, torch.zeros(22, 3), dynamic=True)["y"].shape == (None, 11, 3)
    assert qt.infer_shapes(multiple, torch.zeros(22, 3))["y"].shape == (2, 11, 3)
    only = graph([("N", 3)], "<int64[2] s = {11, 3}> { y = Reshape (x, s) }", (0, 0))
    infos = qt.infer_shapes(only, torch.zeros(11, 3), dynamic=True)
    assert [infos[name].shape for name in "xy"] == [("N", 3), (None, None)]


@pytest.mark.parametrize(
    ("inputs", "sizes"),
    [([("N", 4), ("N", 4)], (2, 3)), ([("N", 4), ("N+1", 4)], (2, 4)), ([("N", 4), (None, 4)], (0, 3))],
    ids=["one name", "an expression", "no elements"],
)
def test_examples_that_contradict_the_names_take_their_place(inputs, sizes) -> None:
    module = graph(inputs, "{ y = Concat <axis = 0> (x, z) }", (0, 0))
    infos = qt.infer_shapes(module, *(torch.zeros(n, 4) for n in sizes), dynamic=True)
    assert [infos[name].shape[0] for name in "xzy"] == [*sizes, sum(sizes)]


def test_sizes_that_were_tried_are_said_to_be() -> None:
    module = graph([("N", 4)], "<float[3] w = {1, 2, 3}> { y = Add (x, w) }", (0, 0))
    with pytest.raises(qt.UnsupportedModelError) as caught:
        qt.infer_shapes(module)
    text = str(caught.value)
    assert text.startswith("the shape of node 'y' (Add) cannot be inferred: ")
    assert "; the sizes tried for the dynamic dimensions were N = 37 (other sizes fail, too); " in text
    assert text.endswith("give example inputs as args")


LOOP = """<bool go = {1}> {
    s = Shape <start = 0, end = 1> (x)  n = Squeeze (s)
    y = Loop (n, go, x) <body = b (int64 i, bool c, float[p, q] v) => (bool d, float[p, q] w) {
        d = Identity (c)  w = Relu (v)
    }>
}"""


@pytest.mark.parametrize(
    ("body", "most"), [("{ y = Relu (x) }", 10007), (LOOP, 41)], ids=["any size", "a loop of N steps"]
)
def test_large_sizes_are_tried_where_they_take_no_more_steps(
    body: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def propagate(module, inputs, interpreter):
        tried.append(inputs[0][0][0])
        return shapes.propagate(module, inputs, interpreter)

    monkeypatch.setattr(trials, "propagate", propagate)
    assert qt.infer_shapes(graph([("N", 4)], body, (0, 0)))["y"].shape == ("N", 4)
    assert max(tried) == most
    assert len(tried) <= 4  # of an ordinary model: two and two checks


ZERO = torch.zeros(())


def quantizers(scale: torch.Tensor) -> dict[str, tuple[nn.Module, list[torch.Tensor]]]:
    """Returns modules that own nothing, with their parameters."""
    flags = {"signed": True, "narrow": False, "rounding_mode": "ROUND"}
    bits = torch.tensor(4.0)
    return {
        "Quant": (qt.nn.Quant(None, None, None, **flags), [scale, ZERO, bits]),
        "Quant of a zero point per channel": (
            qt.nn.Quant(None, None, None, **flags),
            [scale, torch.zeros(3, 1, 1), bits],
        ),
        "Quant of a bit width per channel": (
            qt.nn.Quant(None, None, None, **flags),
            [scale, ZERO, bits.expand(1, 1, 4)],
        ),
        "BipolarQuant": (qt.nn.BipolarQuant(None), [scale]),
        "Trunc": (qt.nn.Trunc(*[None] * 5, **flags), [scale, ZERO, bits + 4, scale * 16, bits]),
        "FloatQuant": (
            qt.nn.FloatQuant(
                *[None] * 5, has_inf=False, has_nan=False, saturation=True, rounding_mode="ROUND"
            ),
            [scale, bits, bits - 1, bits + 3, bits * 60],
        ),
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale_dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 1), (2, 1, 3, 1, 1)])
@pytest.mark.parametrize("name", list(quantizers(torch.ones(()))))
def test_quantizers_have_the_shape_to_which_their_arguments_broadcast(
    name: str, shape: tuple[int, ...], scale_dtype: torch.dtype, dtype: torch.dtype
) -> None:
    module, parameters = quantizers(torch.full(shape, 0.5, dtype=scale_dtype))[name]
    graph = fx.Graph()
    inputs = [graph.placeholder(f"x{i}") for i in range(1 + len(parameters))]
    graph.output(graph.call_module("quantizer", tuple(inputs)))
    traced = fx.GraphModule(nn.ModuleDict({"quantizer": module}), graph)
    x = torch.randn(2, 3, 5, 4).to(dtype)
    real = traced(x, *parameters)
    specs = [(tuple(t.shape), t.dtype) for t in (x, *parameters)]
    (output,) = (n for n in graph.nodes if n.op == "output")
    found = propagate(traced, specs, FakeInterpreter(traced))[output]
    assert (found.shape, found.dtype) == (real.shape, real.dtype)
