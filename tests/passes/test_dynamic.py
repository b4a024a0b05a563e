"""Dynamic dimensions: arithmetic on shapes stays symbolic in torch.export and torch.compile.

Every graph runs at several sizes, eagerly, as an exported program and compiled, against onnxruntime.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, parser
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.export import Dim

import qonnx_torch as qt
from qonnx_torch.errors import UnsupportedModelError

SIZES = [
    {"batch": 5, "seq": 13, "h": 22, "w": 26, "h2": 17, "w2": 29},
    {"batch": 7, "seq": 11, "h": 18, "w": 24, "h2": 31, "w2": 19},
    {"batch": 1, "seq": 15, "h": 20, "w": 28, "h2": 23, "w2": 21},
]
"""None is another's or a constant's, so that torch takes no two for one; the last has batch 1."""

CONSTANTS = """
    zero = Constant <value = int64 {0}> ()
    one = Constant <value = int64 {1}> ()
    two = Constant <value = int64 {2}> ()
    v0 = Constant <value = int64[1] {0}> ()
    v1 = Constant <value = int64[1] {1}> ()
    v2 = Constant <value = int64[1] {2}> ()
    v4 = Constant <value = int64[1] {4}> ()
    minus = Constant <value = int64[1] {-1}> ()
    f0 = Constant <value = float {0.0}> ()
    f1 = Constant <value = float {1.0}> ()
    large = Constant <value = float {-10000.0}> ()
"""


@dataclass(frozen=True)
class Graph:
    """A graph: `inputs` and `outputs` as in ONNX's text, and its nodes, which may use CONSTANTS."""

    inputs: str
    outputs: str
    nodes: str
    unbacked: int = 0

    def model(self, opset: int = 18) -> ModelProto:
        head = f'<ir_version: 10, opset_import: ["" : {opset}]>\n'
        return parser.parse_model(
            f"{head}agraph ({self.inputs}) => ({self.outputs}) {{{CONSTANTS}{self.nodes}}}"
        )


GRAPHS = {
    "Shape, Gather, Unsqueeze, Concat, Reshape": Graph(
        "float[batch, seq, 8] x",
        "float[batch, seq, 2, 4] y",
        """
        s = Shape(x)
        b = Gather(s, zero)
        t = Gather(s, one)
        b1 = Unsqueeze(b, v0)
        t1 = Unsqueeze(t, v0)
        shape = Concat<axis = 0>(b1, t1, v2, v4)
        y = Reshape(x, shape)
        """,
    ),
    "Flatten, Reshape with -1": Graph(
        "float[batch, 3, 4] x",
        "float[B, 12] y",
        """
        rows = Constant <value = int64[2] {-1, 6}> ()
        back = Constant <value = int64[2] {-1, 12}> ()
        f = Flatten<axis = 1>(x)
        r = Reshape(f, rows)
        y = Reshape(r, back)
        """,
    ),
    "Expand as torch writes it": Graph(
        "float[batch, 1, 8] x, float[batch, seq, 8] like",
        "float[batch, seq, 8] y",
        """
        s = Shape(like)
        n = Shape(s)
        ones = ConstantOfShape <value = int64[1] {1}> (n)
        marks = Mul(ones, minus)
        free = Equal(s, marks)
        shape = Where(free, ones, s)
        y = Expand(x, shape)
        """,
    ),
    "Expand with constant sizes": Graph(
        "float[batch, 1, 8] x",
        "float[batch, 4, 8] y",
        """
        s = Constant <value = int64[3] {-1, 4, -1}> ()
        n = Shape(s)
        ones = ConstantOfShape <value = int64[1] {1}> (n)
        marks = Mul(ones, minus)
        free = Equal(s, marks)
        shape = Where(free, ones, s)
        y = Expand(x, shape)
        """,
    ),
    "Slice with a computed end": Graph(
        "float[batch, seq, 8] x, float[64, 8] positions",
        "float[batch, seq, 8] y",
        """
        end = Shape<start = 1, end = 2>(x)
        p = Slice(positions, v0, end, v0)
        y = Add(x, p)
        """,
    ),
    "Slice at the half": Graph(
        "float[batch, seq, 8] x",
        "float[batch, T, 8] y",
        """
        n = Shape<start = 1, end = 2>(x)
        half = Div(n, v2)
        a = Slice(x, v0, half, v1)
        b = Slice(x, half, n, v1)
        y = Concat<axis = 1>(b, a)
        """,
    ),
    "Range over a Shape": Graph(
        "float[batch, seq, 8] x",
        "float[batch, seq, 8] y",
        """
        s = Shape(x)
        t = Gather(s, one)
        r = Range(zero, t, one)
        f = Cast<to = 1>(r)
        u = Unsqueeze(f, v1)
        y = Add(x, u)
        """,
    ),
    "causal mask from Trilu": Graph(
        "float[batch, 2, seq, seq] x",
        "float[batch, 2, seq, seq] y",
        """
        s = Shape(x)
        t = Gather(s, two)
        t1 = Unsqueeze(t, v0)
        square = Concat<axis = 0>(t1, t1)
        ones = ConstantOfShape <value = float[1] {1.0}> (square)
        lower = Trilu<upper = 0>(ones)
        hidden = Equal(lower, f0)
        bias = Where(hidden, large, f0)
        a = Add(x, bias)
        y = Softmax(a)
        """,
    ),
    "causal mask from Range": Graph(
        "float[batch, 2, seq, seq] x",
        "float[batch, 2, seq, seq] y",
        """
        s = Shape<start = 2, end = 3>(x)
        t = Squeeze(s)
        r = Range(zero, t, one)
        columns = Unsqueeze(r, v0)
        rows = Unsqueeze(r, v1)
        seen = LessOrEqual(columns, rows)
        bias = Where(seen, f0, large)
        a = Add(x, bias)
        y = Softmax(a)
        """,
    ),
    "padding mask": Graph(
        "int64[batch, seq] mask, float[batch, 2, seq, seq] x",
        "float[batch, 2, seq, seq] y",
        """
        axes = Constant <value = int64[2] {1, 2}> ()
        u = Unsqueeze(mask, axes)
        f = Cast<to = 1>(u)
        m = Sub(f1, f)
        bias = Mul(m, large)
        a = Add(x, bias)
        y = Softmax(a)
        """,
    ),
    "Resize to the size of another": Graph(
        "float[batch, 3, h, w] x, float[batch, 3, h2, w2] like",
        "float[batch, 3, h2, w2] y",
        """
        inner = Shape<start = 2>(like)
        outer = Shape<end = 2>(x)
        sizes = Concat<axis = 0>(outer, inner)
        r = Resize<mode = "linear">(x, , , sizes)
        y = Add(r, like)
        """,
    ),
    "Resize to twice the size": Graph(
        "float[batch, 3, h, w] x",
        "float[batch, 3, H, W] y",
        """
        inner = Shape<start = 2>(x)
        twice = Mul(inner, two)
        outer = Shape<end = 2>(x)
        sizes = Concat<axis = 0>(outer, twice)
        y = Resize<mode = "nearest">(x, , , sizes)
        """,
    ),
    "Resize by factors": Graph(
        "float[batch, 3, h, w] x",
        "float[batch, 3, H, W] y",
        """
        scales = Constant <value = float[4] {1.0, 1.0, 2.0, 1.5}> ()
        y = Resize<mode = "linear">(x, , scales)
        """,
    ),
    "Conv and pools with SAME padding": Graph(
        "float[batch, 3, h, w] x, float[6, 3, 3, 3] weight",
        "float[batch, 6, H, W] y",
        """
        c = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, weight)
        p = MaxPool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>(c)
        g = GlobalAveragePool(p)
        y = Mul(p, g)
        """,
    ),
    "windows of an image": Graph(
        "float[batch, h, w, 4] x",
        "float[N, 4, 4] y",
        """
        s = Shape(x)
        h = Gather(s, one)
        w = Gather(s, two)
        h_half = Div(h, two)
        w_half = Div(w, two)
        rows = Unsqueeze(h_half, v0)
        columns = Unsqueeze(w_half, v0)
        shape = Concat<axis = 0>(minus, rows, v2, columns, v2, v4)
        r = Reshape(x, shape)
        p = Transpose<perm = [0, 1, 3, 2, 4, 5]>(r)
        flat = Constant <value = int64[3] {-1, 4, 4}> ()
        y = Reshape(p, flat)
        """,
    ),
    "Tile once per sample": Graph(
        "float[batch, 4] x, float[1, 4] row",
        "float[N, 4] y",
        """
        b = Shape<end = 1>(x)
        repeats = Concat<axis = 0>(b, v1)
        t = Tile(row, repeats)
        y = Concat<axis = 0>(t, x)
        """,
    ),
    "Pad to a multiple": Graph(
        "float[batch, seq, 8] x",
        "float[batch, T, 8] y",
        """
        n = Shape<start = 1, end = 2>(x)
        over = Mod(n, v4)
        missing = Sub(v4, over)
        amount = Mod(missing, v4)
        before = Constant <value = int64[4] {0, 0, 0, 0}> ()
        pads = Concat<axis = 0>(before, amount, v0)
        y = Pad(x, pads)
        """,
    ),
    "scale by the root of a size": Graph(
        "float[batch, seq, 8] x",
        "float[batch, seq, 8] y",
        """
        n = Shape<start = 1, end = 2>(x)
        f = Cast<to = 1>(n)
        root = Sqrt(f)
        y = Div(x, root)
        """,
    ),
    "mean by counted elements": Graph(
        "float[batch, seq, 8] x",
        "float[batch, 8] y",
        """
        total = ReduceSum<keepdims = 0>(x, v1)
        n = Size(x)
        b = Shape<end = 1>(x)
        b0 = Squeeze(b)
        eight = Constant <value = int64 {8}> ()
        per = Mul(b0, eight)
        steps = Div(n, per)
        f = Cast<to = 1>(steps)
        y = Div(total, f)
        """,
    ),
    "TopK of half": Graph(
        "float[batch, seq] x",
        "float[batch, K] y",
        """
        n = Shape<start = 1, end = 2>(x)
        k = Div(n, v2)
        y, i = TopK(x, k)
        """,
    ),
    "EyeLike": Graph(
        "float[batch, seq, seq] x",
        "float[batch, seq, seq] y",
        """
        s = Shape<start = 1>(x)
        zeros = ConstantOfShape <value = float[1] {0.0}> (s)
        eye = EyeLike(zeros)
        y = Add(x, eye)
        """,
    ),
    "ScatterND over the batch": Graph(
        "float[batch, seq, 8] x",
        "float[batch, seq, 8] y",
        """
        s = Shape(x)
        zeros = ConstantOfShape <value = float[1] {0.0}> (s)
        b = Gather(s, zero)
        r = Range(zero, b, one)
        rows = Unsqueeze(r, v1)
        y = ScatterND(zeros, rows, x)
        """,
    ),
    "positions from CumSum": Graph(
        "int64[batch, seq] mask, float[64, 8] table",
        "float[batch, seq, 8] y",
        """
        c = CumSum(mask, one)
        p = Mul(c, mask)
        y = Gather(table, p)
        """,
    ),
    "If on a size": Graph(
        "float[batch, seq, 8] x",
        "float[batch, T, 8] y",
        """
        limit = Constant <value = int64[1] {100}> ()
        n = Shape<start = 1, end = 2>(x)
        c = Greater(n, limit)
        c0 = Squeeze(c)
        y = If(c0) <then_branch = then_g () => (float[B, T, 8] a) { a = Neg(x) },
                    else_branch = else_g () => (float[B, T, 8] b) { b = Abs(x) }>
        """,
    ),
    "Loop of three": Graph(
        "float[batch, seq, 8] x",
        "float[batch, T, 8] y",
        """
        three = Constant <value = int64 {3}> ()
        y = Loop(three, , x) <body = body_g (int64 i, bool go, float[B, T, 8] v) =>
            (bool on, float[B, T, 8] u) { on = Identity(go)
                                          u = Sin(v) }>
        """,
    ),
    "LSTM": Graph(
        "float[seq, batch, 4] x, float[2, 12, 4] w, float[2, 12, 3] r, float[2, 24] b",
        "float[seq, 2, batch, 3] y, float[2, batch, 3] h, float[2, batch, 3] c",
        """
        y, h, c = LSTM<hidden_size = 3, direction = "bidirectional">(x, w, r, b)
        """,
    ),
    "GRU of sequences of several lengths": Graph(
        "float[seq, batch, 4] x, float[1, 9, 4] w, float[1, 9, 3] r, int32[batch] lengths",
        "float[seq, 1, batch, 3] y, float[1, batch, 3] h",
        """
        y, h = GRU<hidden_size = 3, direction = "reverse">(x, w, r, , lengths)
        """,
    ),
    "RNN": Graph(
        "float[seq, batch, 4] x, float[1, 3, 4] w, float[1, 3, 3] r, float[1, batch, 3] h0",
        "float[seq, 1, batch, 3] y, float[1, batch, 3] h",
        """
        y, h = RNN<hidden_size = 3, clip = 0.9>(x, w, r, , , h0)
        """,
    ),
    "NonZero of a mask": Graph(
        "float[batch, seq] x",
        "int64[2, N] y",
        """
        seen = Greater(x, f0)
        y = NonZero(seen)
        """,
        unbacked=1,
    ),
}


def arrays(model: ModelProto, sizes: Mapping[str, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(sorted(sizes.values()))
    result = []
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [d.dim_value or sizes[d.dim_param] for d in tensor.shape.dim]
        if tensor.elem_type == TensorProto.INT64:
            result.append(rng.integers(0, 2, shape))
        elif tensor.elem_type == TensorProto.INT32:
            result.append(rng.integers(1, sizes["seq"] + 1, shape).astype(np.int32))
        else:
            result.append(rng.standard_normal(shape).astype(np.float32))
    return result


def outputs(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def run(function: Callable[..., Any], inputs: list[np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        return [t.numpy() for t in outputs(function(*map(torch.from_numpy, inputs)))]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float = 1e-5) -> None:
    assert [a.shape for a in found] == [a.shape for a in expected]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def session(model: ModelProto) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    engine = onnxruntime.InferenceSession(model.SerializeToString())
    names = [i.name for i in engine.get_inputs()]
    return lambda inputs: engine.run(None, dict(zip(names, inputs, strict=True)))


def check(module: torch.fx.GraphModule, data: list[list[np.ndarray]], expected: list[list[np.ndarray]],
          unbacked: int = 0, compiled_once: bool = True) -> None:  # fmt: skip
    """Runs a module eagerly, exported and compiled; the first inputs are torch's examples."""
    for inputs, golden in zip(data, expected, strict=True):
        assert_same(run(module, inputs), golden)
    program = torch.export.export(
        module, tuple(map(torch.from_numpy, data[0])), dynamic_shapes=qt.dynamic_shapes(module)
    )
    symbols = [str(symbol) for symbol in program.range_constraints]
    assert len([s for s in symbols if s.startswith("u")]) == unbacked
    assert any(s.startswith("s") for s in symbols)
    exported = program.module()
    for inputs, golden in zip(data, expected, strict=True):
        assert_same(run(exported, inputs), golden)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(module, backend=counter, dynamic=True, fullgraph=True)
    for inputs, golden in list(zip(data, expected, strict=True))[:2]:  # torch compiles anew for a 1
        assert_same(run(compiled, inputs), golden)
    assert counter.frame_count == 1 or not compiled_once


@pytest.mark.parametrize("name", GRAPHS)
def test_sizes_stay_symbolic(name: str) -> None:
    model = GRAPHS[name].model()
    data = [arrays(model, sizes) for sizes in SIZES]
    reference = session(model)
    if GRAPHS[name].unbacked:
        torch._dynamo.config.capture_dynamic_output_shape_ops = True
    try:
        check(qt.import_model(model), data, [reference(d) for d in data], GRAPHS[name].unbacked)
    finally:
        torch._dynamo.config.capture_dynamic_output_shape_ops = False


# -- what torch.onnx writes ------------------------------------------------------------------------------


class Perceptron(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4))


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.up = nn.ConvTranspose2d(8, 3, 2, 2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.features(x)
        larger = nn.functional.interpolate(self.up(y), size=x.shape[2:], mode="bilinear")
        return torch.cat([x, larger], 1), self.head(y.mean((2, 3)))


class Encoder(nn.Module):
    """Embeddings, learned positions, a causal and a padding mask, one block of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(20, 16), nn.Embedding(64, 16)
        self.block = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        steps = ids.shape[1]
        x = self.tokens(ids) + self.positions(torch.arange(steps, device=ids.device))
        causal = torch.full((steps, steps), float("-inf")).triu(1)
        return self.block(x, causal, (1.0 - mask.float()) * -10000.0)


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.query = nn.Parameter(torch.ones(16)), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight
        angles = torch.arange(x.shape[1])[:, None] / 100 ** (torch.arange(0, 16, 2) / 16)
        a, b = self.query(x).unflatten(-1, (8, 2)).unbind(-1)
        cos, sin = angles.cos(), angles.sin()
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def sequences(batch: int, seq: int, features: int = 8) -> tuple[Tensor, ...]:
    return (torch.randn(batch, seq, features),)


def images(batch: int, seq: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 3, 2 * seq, 2 * seq + 8),)


def tokens(batch: int, seq: int) -> tuple[Tensor, ...]:
    mask = (torch.rand(batch, seq) < 0.7).long()
    mask[:, 0] = 1
    return torch.randint(20, (batch, seq)), mask


FREE = Dim.DYNAMIC
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], tuple[Tensor, ...]], Any]] = {
    "perceptron": (Perceptron, sequences, ({0: FREE, 1: FREE},)),
    "convolutional": (Convolutional, images, ({0: FREE, 2: FREE, 3: FREE},)),
    "encoder": (Encoder, tokens, ({0: FREE, 1: FREE},) * 2),
    "rotary": (Rotary, lambda b, t: sequences(b, t, 16), ({0: FREE, 1: FREE},)),
}


def torch_export(network: nn.Module, example: tuple[Tensor, ...], shapes: Any, **options: Any) -> ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network, example, dynamo=True, dynamic_shapes=shapes, verbose=False, **options
        )
    return program.model_proto


@pytest.mark.parametrize(
    ("name", "opset"),
    [("perceptron", 18), ("perceptron", 23), ("convolutional", 18), ("convolutional", 23), ("rotary", 18),
     ("encoder", 23)],
)  # fmt: skip
def test_what_torch_exports_runs_at_all_sizes(name: str, opset: int) -> None:
    make, sample, shapes = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()
    samples = list(itertools.starmap(sample, [(5, 13), (7, 11), (1, 9)]))
    model = torch_export(network, samples[0], shapes, opset_version=opset, optimize=opset == 18)
    reference = session(model)
    data = [[t.numpy() for t in s] for s in samples]
    for inputs in data:
        assert_same(run(network, inputs), reference(inputs))
    check(qt.import_model(model), data, [run(network, inputs) for inputs in data])


MODELS = Path(__file__).parents[1] / "models"
FIXED = {"quant_parameters": "its scale per row ties it to one batch size"}


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
def test_models_export_with_a_dynamic_batch(path: Path) -> None:
    if path.stem in FIXED:
        with pytest.raises(UnsupportedModelError, match="the batch size cannot be changed"):
            qt.import_model(path, batch="dynamic")
        return
    module = qt.import_model(path, batch="dynamic")
    stored = np.load(path.with_suffix(".npz"))
    inputs = [stored[key] for key in sorted(stored) if key.startswith("in") and key.endswith("_s0")]
    data = [[np.concatenate([a] * batch) for a in inputs] for batch in (3, 5, 1)]
    program = torch.export.export(
        module, tuple(map(torch.from_numpy, data[0])), dynamic_shapes=qt.dynamic_shapes(module)
    )
    assert [str(symbol)[0] for symbol in program.range_constraints] == ["s"]
    exported = program.module()
    for arrays_ in data:
        assert_same(run(exported, arrays_), run(module, arrays_), tolerance=0)


# -- the function itself ---------------------------------------------------------------------------------


def test_named_dimensions_must_be_dynamic_and_unnamed_ones_may() -> None:
    inputs = "float[batch, 3, N] x, float[3] y, float[] z, float w"
    text = f"agraph ({inputs}) => (float[A, B, C] u) {{ u = Add(x, z) }}"
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]>\n{text}')
    model.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_param")
    shapes = qt.dynamic_shapes(qt.import_model(model), *(torch.zeros(s) for s in ((2, 3, 4), 3, (), ())))
    assert shapes == ({0: Dim.DYNAMIC, 2: Dim.AUTO}, {}, {}, {})


def test_a_fixed_batch_is_static_until_it_is_made_dynamic() -> None:
    text = "agraph (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }"
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]>\n{text}')
    assert qt.dynamic_shapes(qt.import_model(model)) == ({},)
    module = qt.import_model(model, batch="dynamic")
    program = torch.export.export(module, (torch.zeros(2, 3),), dynamic_shapes=qt.dynamic_shapes(module))
    assert program.module()(torch.zeros(7, 3)).shape == (7, 3)


def test_example_inputs_tell_what_is_not_declared() -> None:
    text = """agraph (seq(float[N, 2]) s, float[N, 2] x) => (float[M, 2] y)
        { c = ConcatFromSequence<axis = 0>(s) y = Concat<axis = 0>(c, x) }"""
    module = qt.import_model(parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]>\n{text}'))
    with pytest.raises(UnsupportedModelError, match="no shape of the input 's': give example inputs"):
        qt.dynamic_shapes(module)
    example = ([torch.ones(2, 2), torch.ones(4, 2)], torch.ones(3, 2))
    shapes = qt.dynamic_shapes(module, *example)
    assert shapes == ([{0: Dim.AUTO, 1: Dim.AUTO}] * 2, {0: Dim.DYNAMIC})
    program = torch.export.export(module, example, dynamic_shapes=shapes)
    assert program.module()([torch.ones(5, 2), torch.ones(6, 2)], torch.ones(7, 2)).shape == (18, 2)


def test_an_erased_input_has_no_shapes() -> None:
    text = "agraph (float[N, 2] a, float[1, M] b) => (float[N, M] y) { y = Add(a, b) }"
    module = qt.import_model(parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]>\n{text}'))
    a, b = (node for node in module.graph.nodes if node.op == "placeholder")
    a.replace_all_uses_with(b)
    module.graph.erase_node(a)
    module.recompile()
    assert qt.dynamic_shapes(module) == ({1: Dim.DYNAMIC},)


def test_a_module_of_unknown_origin_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="no shape of the input"):
        qt.dynamic_shapes(torch.fx.symbolic_trace(nn.ReLU()))
