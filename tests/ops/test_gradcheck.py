"""Every differentiable operator: `torch.autograd.gradcheck` on an imported one-operator graph, in float64.

Checked are the gradients of every float input and of every float parameter. A row's arrays are what the graph
gets: a float array is an input, `P` a parameter, `C` a constant of the file, an integer array an input.
Operators whose schema has no double are declared in float32 and run after `module.double()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser
from torch.autograd import gradcheck
from torch.func import functional_call

import qonnx_torch as qt
import qonnx_torch.nn  # registers its modules
from qonnx_torch.registry import REGISTRY, canonical_domain

NEWEST = onnx.defs.onnx_opset_version()
I64, I32, BOOL = np.int64, np.int32, np.bool_


@dataclass(frozen=True)
class P:
    """A float initializer: a parameter of the module."""

    value: np.ndarray


@dataclass(frozen=True)
class C:
    """A constant that is no parameter: bounds, axes, sizes."""

    value: Any
    dtype: Any = I64


@dataclass(frozen=True)
class Row:
    name: str
    model: ModelProto = field(repr=False)
    inputs: tuple[np.ndarray, ...] = field(repr=False)
    outputs: tuple[int, ...] | None = None

    @property
    def single(self) -> bool:
        """Whether the operator gives float32 whatever it gets: its differences are of float32 too."""
        return self.model.graph.node[0].domain == "ai.onnx.ml" and self.model.graph.node[0].op_type not in (
            "ArrayFeatureExtractor",
            "Imputer",
        )


ROWS: list[Row] = []


def has_double(op_type: str, domain: str, opset: int) -> bool:
    """Whether an operator takes float64, as its schema says; what has no schema is taken not to."""
    if not onnx.defs.has(op_type, opset, domain):
        return False
    schema = onnx.defs.get_schema(op_type, opset, domain)
    types = {t for formal in (*schema.inputs, *schema.outputs) for t in formal.types}
    return bool(types & {"tensor(double)", "seq(tensor(double))"})


def one_node(op_type: str, *inputs: Any, opset: int | None = None, domain: str = "", outputs: int = 1,
             check: tuple[int, ...] | None = None, **attributes: Any) -> Row:  # fmt: skip
    """Returns a one-node model. `check` picks the outputs to differentiate; all where absent."""
    version = opset or (5 if domain == "ai.onnx.ml" else NEWEST if domain in ("", CHANNELS_LAST) else 1)
    double = has_double(op_type, domain, version)
    names, declared, initializers, fed = [], [], [], []
    for i, value in enumerate(inputs):
        names.append("" if value is None else f"in{i}")
        if value is None:
            continue
        array = np.asarray(value.value, getattr(value, "dtype", None)) if isinstance(value, (P, C)) else value
        held = array.astype(np.float32) if array.dtype == np.float64 and not double else array
        if isinstance(value, (P, C)):
            initializers.append(numpy_helper.from_array(held, names[-1]))
        else:
            element_type = helper.np_dtype_to_tensor_dtype(held.dtype)
            declared.append(helper.make_tensor_value_info(names[-1], element_type, held.shape))
            fed.append(array)
    results = [f"out{i}" for i in range(outputs)]
    node = helper.make_node(op_type, names, results, domain=domain, **attributes)
    ends = [helper.make_empty_tensor_value_info(r) for r in results]
    graph = helper.make_graph([node], "g", declared, ends, initializers)
    sets = [helper.make_opsetid("", version if domain == "" else opset or 21)]
    if domain:
        sets.append(helper.make_opsetid(domain, version))
    model = helper.make_model(graph, opset_imports=sets)
    label = f"{op_type}-{version}" + (f" {attributes}" if attributes else "")
    return Row(label, model, tuple(fed), check)


def row(op_type: str, *inputs: Any, **options: Any) -> None:
    ROWS.append(one_node(op_type, *inputs, **options))


def graph(name: str, text: str, *inputs: np.ndarray, opset: int = 21, domain: str = "") -> None:
    """Adds a model in ONNX's text form."""
    sets = f'"" : {opset}' + (f', "{domain}" : 1' if domain else "")
    model = parser.parse_model(f"<ir_version: 10, opset_import: [{sets}]>\n{text}")
    ROWS.append(Row(name, model, inputs))


def away(*shape: int, seed: int = 0, low: float = 0.2, high: float = 1.5) -> np.ndarray:
    """Random numbers of both signs, away from 0 and from one another."""
    rng = np.random.default_rng([seed, *shape])
    return rng.choice([-1.0, 1.0], shape) * rng.uniform(low, high, shape)


def positive(*shape: int, seed: int = 0, low: float = 0.3, high: float = 1.7) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape)


def ints(*values: int) -> np.ndarray:
    return np.array(values, I64)


def scalar(value: float) -> np.ndarray:
    return np.array(value)


GENERAL, CHANNELS_LAST, ML = "qonnx.custom_op.general", "qonnx.custom_op.channels_last", "ai.onnx.ml"
TRAINING, MICROSOFT = "ai.onnx.preview.training", "com.microsoft"
# fmt: off
X = away(2, 3)
Y = away(2, 3, seed=1)
IMAGE = away(1, 2, 4, 5)
SEQUENCE = away(3, 2, 2)  # time, batch, features

# -- elementwise -----------------------------------------------------------------------------------------

for name in ("Abs", "Neg", "Sign", "Ceil", "Floor", "Round", "Reciprocal", "Exp", "Erf", "Sin", "Cos", "Tan",
             "Atan", "Sinh", "Cosh", "Asinh", "Identity", "Tanh", "Sigmoid", "Softplus", "Softsign", "Mish",
             "HardSwish", "HardSigmoid", "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu",
             "Swish", "Gelu"):
    row(name, X)
row("Shrink", X, lambd=0.1, bias=0.3)
row("Gelu", X, approximate="tanh")
row("Swish", X, alpha=1.7)
row("Elu", X, alpha=1.7)
row("Celu", X, alpha=1.7)
for name in ("Asin", "Acos", "Atanh"):
    row(name, away(2, 3, high=0.8))
row("Acosh", positive(2, 3, low=1.2, high=3))
row("Sqrt", positive(2, 3))
row("Log", positive(2, 3))
for name in ("Add", "Sub", "Mul", "Div"):
    row(name, X, P(away(3, seed=2)))
    row(name, X, away(2, seed=2), opset=6, broadcast=1, axis=0)
row("Pow", positive(2, 3), P(away(3, seed=3)))
row("Pow", X, C(3.0, np.float64))
row("Mod", X, away(3, seed=2, low=0.4), fmod=1)
row("SwiGLU", X, Y)
row("SwiGLU", X, Y, alpha=1.4)
for name in ("Max", "Min", "Sum", "Mean"):
    row(name, X, P(away(3, seed=2)), away(2, 1, seed=3))
row("Clip", X, C(-0.9, np.float64), C(0.8, np.float64))
row("Clip", X, opset=6, min=-0.9, max=0.8)
row("Clip", X, scalar(-0.9), scalar(0.8))
row("Where", np.array([[True, False, True]]), X, P(Y))
row("PRelu", X, P(away(3, seed=2)))
row("PRelu", away(2, 3, 2), P(away(3, seed=2)), opset=6)
row("Cast", X, to=TensorProto.DOUBLE)
row("CastLike", X, away(1))
row("Softmax", X)
row("Softmax", away(2, 2, 2), axis=1)
row("LogSoftmax", X, axis=0)
row("Softmax", away(2, 2, 2), opset=11, axis=1)
row("LogSoftmax", away(2, 2, 2), opset=11, axis=1)
row("Trilu", away(3, 3), C(1))
row("Dropout", X)
row("Dropout", X, C(0.5, np.float64), C(False, BOOL), outputs=2, check=(0,))

# -- reductions, products --------------------------------------------------------------------------------

for name in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
             "ReduceSumSquare", "ReduceLogSumExp"):
    row(name, X)
    row(name, X, C([1]), keepdims=0)
row("ReduceLogSum", positive(2, 3), C([0]))
row("ReduceMean", X, opset=13, axes=[0])
for name in ("CumSum", "CumProd"):
    row(name, X, C(1))
    row(name, X, C(0), exclusive=1, reverse=1)
row("MatMul", away(2, 2, 3), P(away(3, 2)))
row("MatMul", away(3), away(2, 3, 2))
row("Gemm", X, P(away(2, 3, seed=2)), P(away(2, seed=3)), transB=1, alpha=0.7, beta=1.3)
row("Gemm", away(3, 2), away(3, 2, seed=2), transA=1)
row("Einsum", X, away(3, 2, seed=1), equation="ij,jk->ki")
row("Einsum", away(2, 2), equation="ii")
row("Det", away(2, 3, 3))

# -- shape and indexing ----------------------------------------------------------------------------------

row("Transpose", away(2, 3, 2), perm=[2, 0, 1])
row("Concat", X, P(away(1, 3)), axis=0)
row("Split", away(4, 2), C([1, 3]), outputs=2)
row("Slice", away(4, 3), C([3, 0]), C([-5, 2]), C([0, 1]), C([-2, 1]))
row("Gather", X, ints(2, 0, 2, -1), axis=1)
row("Gather", P(away(4, 2)), ints(1, 1, 3))
row("GatherElements", X, np.array([[0, 0, 1]], I64))
row("GatherND", X, np.array([[0, 1], [1, -1]], I64))
row("Scatter", X, np.array([[1, 0, 1]], I64), away(1, 3, seed=4), opset=10)
row("ScatterElements", X, np.array([[1, 0, -1]], I64), away(1, 3, seed=4))
row("ScatterND", X, np.array([[1], [0]], I64), away(2, 3, seed=4))
for reduction in ("add", "mul", "max", "min"):
    row("ScatterElements", X, np.array([[1, 0, 1]], I64), away(1, 3, seed=4), reduction=reduction)
    row("ScatterND", X, np.array([[0, 1], [1, 2]], I64), away(2, seed=4), reduction=reduction)
row("TensorScatter", away(2, 4, 2), away(2, 2, 2, seed=1), ints(1, 0))
row("TensorScatter", away(2, 4, 2), away(2, 2, 2, seed=1), ints(3, 2), mode="circular")
row("Compress", away(4, 2), np.array([True, False, True]), axis=0)
row("OneHot", ints(0, 2), C(3), away(2))
row("TopK", away(2, 4), C([2]), outputs=2, check=(0,))
row("Unique", np.array([0.3, 1.2, -0.7]), outputs=1)
row("Expand", away(2, 1), C([3, 2, 4]))
row("Tile", X, C([2, 2]))
row("Pad", X, C([1, 0, 0, 2]), scalar(0.7))
for mode in ("reflect", "edge", "wrap"):
    row("Pad", away(3, 4), C([1, 2, 1, 1]), mode=mode)
row("Pad", away(3, 4), C([-1, 1, 0, -2]))
row("CenterCropPad", away(4, 2), C([2, 4]))
row("ReverseSequence", away(3, 2), ints(2, 3))
row("Reshape", X, C([3, -1]))
row("Flatten", away(2, 2, 2), axis=2)
row("Squeeze", away(2, 1, 3), C([1]))
row("Unsqueeze", X, C([0, 3]))
row("DepthToSpace", away(1, 4, 2, 2), blocksize=2, mode="CRD")
row("SpaceToDepth", away(1, 1, 4, 2), blocksize=2)

# -- convolution, pooling, normalization, resizing -------------------------------------------------------

row("Conv", away(1, 2, 5), P(away(2, 2, 3)), P(away(2)), pads=[1, 2], strides=[2])
row("Conv", IMAGE, away(2, 1, 2, 2, seed=1), group=2, dilations=[2, 1], auto_pad="SAME_UPPER")
row("ConvTranspose", away(1, 2, 3), P(away(2, 1, 3)), P(away(1)), strides=[2], output_padding=[1])
row("ConvTranspose", away(1, 2, 3, 3), P(away(2, 1, 2, 2)), group=2, pads=[1, 0, 0, 1])
row("DeformConv", away(1, 1, 3, 3), P(away(1, 1, 2, 2)), away(1, 8, 2, 2, low=0.1, high=0.4), P(away(1)),
    positive(1, 4, 2, 2))
row("CausalConvWithState", away(1, 2, 3), P(away(2, 1, 3)), P(away(2)), away(1, 2, 2, seed=1), outputs=2)
row("CausalConvWithState", away(1, 2, 3), P(away(2, 1, 3)), outputs=2, activation="silu")
row("Col2Im", away(1, 4, 4), C([3, 3]), C([2, 2]))
row("MaxPool", IMAGE, kernel_shape=[2, 3], pads=[1, 0, 0, 1])
row("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], outputs=2, check=(0,))
row("AveragePool", IMAGE, kernel_shape=[2, 3], pads=[1, 0, 0, 1], ceil_mode=1, strides=[2, 2])
row("AveragePool", IMAGE, kernel_shape=[2, 2], count_include_pad=1, pads=[1, 1, 1, 1])
row("LpPool", IMAGE, kernel_shape=[2, 2], p=3)
row("GlobalAveragePool", IMAGE)
row("GlobalMaxPool", IMAGE)
row("GlobalLpPool", IMAGE, p=3)
row("MaxUnpool", away(1, 1, 2, 2), np.array([[[[5, 7], [13, 15]]]], I64), kernel_shape=[2, 2], strides=[2, 2])
row("MaxRoiPool", away(1, 2, 4, 4), C([[0.0, 0, 0, 3, 3]], np.float64), pooled_shape=[2, 2])
row("RoiAlign", away(1, 2, 4, 4), np.array([[0.6, 0.7, 3.1, 2.9]]), ints(0), output_height=2, output_width=2,
    sampling_ratio=2)
row("RoiAlign", away(1, 1, 4, 4), C([[0.6, 0.7, 3.1, 2.9]], np.float64), ints(0), mode="max",
    sampling_ratio=2)
row("BatchNormalization", away(2, 3, 2), P(away(3)), P(away(3, seed=1)), C(away(3, seed=2), np.float64),
    C(positive(3), np.float64))
row("BatchNormalization", away(2, 3, 2), P(away(3)), P(away(3, seed=1)), C(away(3, seed=2), np.float64),
    C(positive(3), np.float64), training_mode=1, outputs=3)
row("InstanceNormalization", away(2, 2, 3), P(away(2)), P(away(2, seed=1)))
row("LayerNormalization", away(2, 2, 3), P(away(3)), P(away(3, seed=1)), outputs=3, stash_type=11)
row("LayerNormalization", away(2, 2, 3), P(away(2, 3)), axis=1)
row("GroupNormalization", away(2, 4, 2), P(away(4)), P(away(4, seed=1)), num_groups=2)
row("GroupNormalization", away(2, 4, 2), P(away(2)), P(away(2, seed=1)), num_groups=2, opset=18)
row("RMSNormalization", away(2, 3), P(away(3)))
row("LpNormalization", X, p=2)
row("LpNormalization", X, p=1, axis=0)
row("LRN", away(1, 4, 2), size=3, alpha=0.1)
row("MeanVarianceNormalization", away(2, 2, 2, 2))
for attributes in ({"mode": "nearest"}, {"mode": "linear"}, {"mode": "cubic"},
                   {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
                   {"mode": "linear", "antialias": 1}):
    row("Resize", away(1, 1, 3, 4), None, C([1, 1, 0.7, 1.6], np.float32), **attributes)
row("Resize", away(1, 1, 3, 4), None, None, C([1, 1, 5, 2]), mode="cubic", cubic_coeff_a=-0.5)
row("Upsample", away(1, 1, 2, 2), C([1, 1, 2, 2], np.float32), mode="linear", opset=9)
for mode in ("linear", "cubic", "nearest"):
    row("GridSample", away(1, 1, 4, 4), away(1, 2, 2, 2, low=0.1, high=0.8), mode=mode)
row("GridSample", away(1, 1, 4, 4), away(1, 2, 2, 2, high=1.4), padding_mode="reflection", align_corners=1)
row("GridSample", away(1, 1, 2, 3, 3), away(1, 1, 2, 2, 3, high=0.8), padding_mode="border")
row("AffineGrid", away(1, 2, 3), C([1, 1, 2, 3]))
row("AffineGrid", away(1, 3, 4), C([1, 1, 2, 2, 2]), align_corners=1)

# -- losses ----------------------------------------------------------------------------------------------

for reduction in ("none", "sum", "mean"):
    row("NegativeLogLikelihoodLoss", X, ints(2, 0), P(positive(3)), reduction=reduction)
    row("SoftmaxCrossEntropyLoss", X, ints(2, 0), P(positive(3)), reduction=reduction, outputs=2)
row("SoftmaxCrossEntropyLoss", away(2, 3, 2), np.array([[0, 1], [2, 1]], I64), ignore_index=1)

# -- steps of optimizers: learning rate, step, parameters, gradients, averages -------------------------------

STEP = (scalar(0.1), C(3), X, Y)
row("Adagrad", *STEP, positive(2, 3), domain=TRAINING, outputs=2, norm_coefficient=0.1, decay_factor=0.2)
row("Adam", *STEP, away(2, 3, seed=2), positive(2, 3), domain=TRAINING, outputs=3)
for mode in ("standard", "nesterov"):
    row("Momentum", *STEP, away(2, 3, seed=2), domain=TRAINING, outputs=2, mode=mode, alpha=0.9, beta=0.7,
        norm_coefficient=0.1)

# -- recurrent, attention, signal ------------------------------------------------------------------------

for name, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
    weights = (P(away(1, 2 * gates, 2)), P(away(1, 2 * gates, 2, seed=1)), P(away(1, 4 * gates)))
    two = (P(away(2, 2 * gates, 2)), P(away(2, 2 * gates, 2, seed=1)), P(away(2, 4 * gates)))
    outputs = 3 if name == "LSTM" else 2
    row(name, SEQUENCE, *weights, hidden_size=2, outputs=outputs)
    row(name, SEQUENCE, *two, None, away(2, 2, 2, seed=2), hidden_size=2, direction="bidirectional",
        outputs=outputs)
    row(name, SEQUENCE, *weights, np.array([3, 1], I32), hidden_size=2, direction="reverse", clip=0.9,
        outputs=outputs)
row("GRU", SEQUENCE, P(away(1, 6, 2)), P(away(1, 6, 2, seed=1)), P(away(1, 12)), hidden_size=2, outputs=2,
    linear_before_reset=1)
row("LSTM", SEQUENCE, P(away(1, 8, 2)), P(away(1, 8, 2, seed=1)), P(away(1, 16)), None, away(1, 2, 2, seed=2),
    away(1, 2, 2, seed=3), P(away(1, 6)), hidden_size=2, outputs=3)
ATTENTION = (away(1, 2, 3, 2), away(1, 2, 3, 2, seed=1), away(1, 2, 3, 2, seed=2))
row("Attention", *ATTENTION)
row("Attention", *ATTENTION, away(3, 3), softcap=2.0, is_causal=1)
row("Attention", *ATTENTION, None, away(1, 2, 2, 2, seed=3), away(1, 2, 2, 2, seed=4), outputs=4,
    qk_matmul_output_mode=3)
row("Attention", away(1, 2, 4), away(1, 2, 2, seed=1), away(1, 2, 2, seed=2), q_num_heads=2, kv_num_heads=1)
row("RotaryEmbedding", away(1, 1, 2, 4), P(away(2, 2)), P(away(2, 2, seed=1)), ints(1, 0).reshape(1, 2))
row("RotaryEmbedding", away(1, 1, 2, 4), away(1, 2, 2), away(1, 2, 2, seed=1), interleaved=1)
for rule in ("linear", "gated", "delta", "gated_delta"):
    decay = -positive(1, 2, 1, seed=4) if "gated" in rule else None
    beta = positive(1, 2, 1, seed=5, high=0.9) if "delta" in rule else None
    row("LinearAttention", away(1, 2, 2), away(1, 2, 2, seed=1), away(1, 2, 2, seed=2),
        away(1, 1, 2, 2, seed=3), decay, beta, q_num_heads=1, kv_num_heads=1, update_rule=rule,
        outputs=2)
row("DFT", away(1, 4, 1), None, C(1))
row("DFT", away(1, 4, 2), C(5), C(1), inverse=1)
row("DFT", away(1, 4, 1), None, C(1), onesided=1)
row("STFT", away(1, 6, 1), C(2), P(positive(4)), C(4))

# -- quantized representations: what is smooth in them ----------------------------------------------------

row("DequantizeLinear", np.array([[1, -3], [4, 2]], np.int8), P(positive(2)), C([0, 1], np.int8), axis=1)
row("DequantizeLinear", np.array([3, -7], np.int8), P(positive()))

# -- sequences, optionals, control flow --------------------------------------------------------------------

graph("sequences", """
agraph (double[2, 3] x, double[2, 3] y) => (double[N, 3] z, double[3] w) {
    zero = Constant<value = int64 {0}>()
    one = Constant<value = int64 {1}>()
    empty = SequenceEmpty<dtype = 11>()
    s0 = SequenceInsert(empty, x)
    s1 = SequenceInsert(s0, y, zero)
    s2 = SequenceErase(s1, one)
    pair = SequenceConstruct(x, y)
    rows = SplitToSequence<axis = 0, keepdims = 0>(x)
    w = SequenceAt(rows, one)
    first = SequenceAt(s2, zero)
    both = ConcatFromSequence<axis = 0>(pair)
    z = Concat<axis = 0>(both, first)
}""", X, Y)
graph("optionals", """
agraph (double[2, 3] x) => (double[2, 3] y) {
    o = Optional(x)
    p = Identity(o)
    e = OptionalGetElement(p)
    y = Mul(e, e)
}""", X)
graph("If", """
agraph (double[2, 3] x, bool c) => (double[2, 3] y) <double[3] w = {0.3, -0.7, 1.1}> {
    y = If(c) <then_branch = then_g () => (double[2, 3] a) { a = Mul(x, w) },
               else_branch = else_g () => (double[2, 3] b) { b = Sub(x, w) }>
}""", X, np.array(True))
graph("Loop", """
agraph (double[2, 3] x, int64 n) => (double[2, 3] y, double[T, 2, 3] steps) <double[3] w = {0.3, -0.7, 1.1}> {
    y, steps = Loop(n, , x) <body = body_g (int64 i, bool go, double[2, 3] v) =>
        (bool on, double[2, 3] u, double[2, 3] s) {
            on = Identity(go)
            p = Mul(v, w)
            u = Tanh(p)
            s = Add(u, v)
        }>
}""", X, np.array(3, I64))
graph("Scan", """
agraph (double[3] h, double[2, 3] x) => (double[3] y, double[2, 3] steps) {
    y, steps = Scan<num_scan_inputs = 1, body = body_g (double[3] v, double[3] r) =>
        (double[3] u, double[3] s) {
            p = Mul(v, r)
            u = Tanh(p)
            s = Add(u, r)
        }>(h, x)
}""", away(3), X)
graph("Scan of opset 8", """
agraph (double[1, 3] h, double[1, 2, 3] x) => (double[1, 3] y, double[1, 2, 3] steps) {
    y, steps = Scan<num_scan_inputs = 1, body = body_g (double[3] v, double[3] r) =>
        (double[3] u, double[3] s) {
            p = Mul(v, r)
            u = Tanh(p)
            s = Add(u, r)
        }>( , h, x)
}""", away(1, 3), away(1, 2, 3), opset=8)
graph("SequenceMap", """
agraph (double[2, 3] x, double[3] w) => (double[2, 3] y) {
    rows = SplitToSequence<axis = 0>(x)
    mapped = SequenceMap(rows) <body = body_g (double[1, 3] r) => (double[1, 3] s) { s = Mul(r, w) }>
    y = ConcatFromSequence<axis = 0>(mapped)
}""", X, away(3))
graph("FlexAttention", """
agraph (double[1, 1, 2, 2] q, double[1, 1, 2, 2] k, double[1, 1, 2, 2] v) => (double[1, 1, 2, 2] y)
<double w = {0.7}> {
    y = ai.onnx.preview.FlexAttention(q, k, v) <score_mod = score_g (double[1, 1, 2, 2] s) =>
        (double[1, 1, 2, 2] t) { t = Mul(s, w) }>
}""", *(a[:, :1, :2] for a in ATTENTION), opset=26, domain="ai.onnx.preview")

# -- QONNX -------------------------------------------------------------------------------------------------

row("Conv", away(1, 4, 4, 2), P(away(2, 2, 3, 2)), domain=CHANNELS_LAST, kernel_shape=[2, 3],
    pads=[1, 0, 0, 1])
row("MaxPool", away(1, 4, 4, 2), domain=CHANNELS_LAST, kernel_shape=[2, 2], strides=[2, 2])
row("BatchNormalization", away(2, 2, 2, 3), P(away(3)), P(away(3, seed=1)), C(away(3, seed=2), np.float64),
    C(positive(3), np.float64), domain=CHANNELS_LAST)
row("MaxPoolNHWC", away(1, 4, 4, 2), domain=GENERAL, kernel_shape=[2, 2], strides=[2, 2])
row("Im2Col", away(1, 3, 3, 2), domain=GENERAL, stride=[1, 1], kernel_size=[2, 2], input_shape="(1,3,3,2)",
    pad_amount=[1, 0, 0, 1])
row("DebugMarker", X, domain=GENERAL, export_debug_name="here")

# -- ai.onnx.ml --------------------------------------------------------------------------------------------

row("ArrayFeatureExtractor", X, ints(2, 0), domain=ML, opset=1)
row("FeatureVectorizer", X, away(2, 1), domain=ML, inputdimensions=[3, 1], opset=1)
row("Imputer", X, domain=ML, imputed_value_floats=[1.0, 2.0, 3.0], replaced_value_float=9.0, opset=1)
row("LinearRegressor", X, domain=ML, coefficients=[0.5, -1, 2, 1, 0.3, 1], intercepts=[0.1, 0.2], targets=2,
    opset=1)
row("LinearClassifier", X, domain=ML, coefficients=[0.5, -1, 2, 1, 0.3, 1], intercepts=[0.1, 0.2],
    classlabels_ints=[3, 5], outputs=2, check=(1,), post_transform="SOFTMAX", opset=1)
for norm in ("MAX", "L1", "L2"):
    row("Normalizer", X, domain=ML, norm=norm, opset=1)
row("Scaler", X, domain=ML, offset=[0.5, 1, -1], scale=[2.0, 0.5, 1.5], opset=1)
for kernel in ("LINEAR", "POLY", "RBF", "SIGMOID"):
    row("SVMRegressor", X, domain=ML, kernel_type=kernel, kernel_params=[0.5, 0.3, 2.0], n_supports=2,
        coefficients=[0.7, -0.4], rho=[0.2], support_vectors=[0.5, -1, 2, 1, 0.3, 1], opset=1)
row("SVMClassifier", X, domain=ML, kernel_type="RBF", kernel_params=[0.5, 0.0, 0.0], vectors_per_class=[1, 1],
    coefficients=[0.7, -0.4], rho=[0.2], support_vectors=[0.5, -1, 2, 1, 0.3, 1], classlabels_ints=[0, 1],
    prob_a=[0.5], prob_b=[0.1], outputs=2, check=(1,), opset=1)

# -- com.microsoft: what onnxruntime's optimizer writes ------------------------------------------------------

row("SimplifiedLayerNormalization", away(2, 3), P(away(3)))
row("SkipLayerNormalization", away(1, 2, 3), away(1, 2, 3, seed=1), P(away(3)), P(away(3, seed=1)),
    P(away(3, seed=2)), domain=MICROSOFT)
row("SkipSimplifiedLayerNormalization", away(1, 2, 3), away(1, 2, 3, seed=1), P(away(3)), domain=MICROSOFT)
row("EmbedLayerNormalization", np.array([[0, 2]], I32), np.array([[1, 0]], I32), P(away(3, 4)), P(away(2, 4)),
    P(away(2, 4, seed=1)), P(away(4)), P(away(4, seed=1)), domain=MICROSOFT)
for name in ("Gelu", "FastGelu", "QuickGelu"):
    row(name, X, domain=MICROSOFT)
row("FastGelu", X, P(away(3)), domain=MICROSOFT)
row("BiasGelu", X, P(away(3)), domain=MICROSOFT)
row("ScaledSiLU", X, scalar(0.7), domain=MICROSOFT)
row("BiasSplitGelu", away(1, 2, 4), P(away(4)), domain=MICROSOFT)
row("BiasAdd", away(1, 2, 4), P(away(4)), away(1, 2, 4, seed=1), domain=MICROSOFT)
row("BiasSoftmax", away(2, 2, 3), away(1, 2, 3), domain=MICROSOFT, axis=2, is_inner_broadcast=0)
row("CDist", X, away(3, 3, seed=1), domain=MICROSOFT, metric="euclidean")
row("CDist", X, away(3, 3, seed=1), domain=MICROSOFT)
row("FusedMatMul", X, P(away(2, 3, seed=1)), domain=MICROSOFT, transB=1, alpha=0.5)
row("TransposeMatMul", X, P(away(2, 3, seed=1)), domain=MICROSOFT, transB=1, alpha=0.5)
row("FusedGemm", X, P(away(3, 2)), P(away(2)), domain=MICROSOFT, activation="Tanh")
row("FusedConv", away(1, 2, 3, 3), P(away(2, 2, 2, 2)), P(away(2)), away(1, 2, 2, 2), domain=MICROSOFT,
    activation="LeakyRelu", activation_params=[0.1])
row("NhwcConv", away(1, 3, 3, 2), P(away(2, 2, 2, 2)), P(away(2)), domain=MICROSOFT)
row("NhwcMaxPool", away(1, 4, 4, 2), domain=MICROSOFT, kernel_shape=[2, 2], strides=[2, 2])
row("Inverse", away(2, 2) + 3 * np.eye(2), domain=MICROSOFT)
row("Trilu", away(3, 3), C(1), domain=MICROSOFT)
row("ExpandDims", X, C(1, I32), domain=MICROSOFT)
row("Pad", X, C([1, 0, 0, 2]), domain=MICROSOFT)
row("GatherND", X, np.array([[0, 1], [1, 2]], I64), domain=MICROSOFT)
row("Unique", np.array([0.3, 1.2, -0.7]), domain=MICROSOFT, outputs=3, check=(0,))
row("GridSample", away(1, 1, 4, 4), away(1, 2, 2, 2, low=0.1, high=0.8), domain=MICROSOFT)
row("RotaryEmbedding", away(1, 2, 4), ints(0), P(away(3, 2)), P(away(3, 2, seed=1)), domain=MICROSOFT)
row("Attention", away(1, 2, 4), P(away(4, 12)), P(away(12)), domain=MICROSOFT, num_heads=2)
row("MultiHeadAttention", *(away(1, 2, 4, seed=i) for i in range(3)), P(away(12)), domain=MICROSOFT,
    num_heads=2)
row("GroupQueryAttention", away(1, 2, 4), away(1, 2, 2, seed=1), away(1, 2, 2, seed=2), None, None,
    np.array([1], I32), C(2, I32), domain=MICROSOFT, num_heads=2, kv_num_heads=1, outputs=3)
row("MatMulNBits", away(2, 16), C(np.arange(16).reshape(2, 1, 8) * 7, np.uint8), P(positive(2, 1)), None,
    None, P(away(2)), domain=MICROSOFT, K=16, N=2, bits=4, block_size=16)
row("GatherBlockQuantized", C(np.arange(32).reshape(2, 16), np.uint8), np.array([1, 0], I64),
    P(positive(2, 1)), domain=MICROSOFT, bits=8, block_size=16)
row("MatMulIntegerToFloat", np.array([[1, 2, 3]], np.uint8), np.array([[1], [-2], [3]], np.int8),
    P(positive()), P(positive(1)), None, None, P(away(1)), domain=MICROSOFT)
row("DequantizeLinear", np.array([1, -3, 4], np.int8), P(positive()), C(1, np.int8), domain=MICROSOFT)

# fmt: on

PREDICATE = "gives booleans"
INTEGERS = "computes on integers or booleans"
INDICES = "gives indices or counts"
PIECEWISE = "is piecewise constant"
RANDOM = "draws random numbers; its input gives shape or probabilities only"
PARAMETERS = "its inputs are sizes, read as Python numbers"
STRAIGHT_THROUGH = "its gradient is an estimate by design, tested in "
NOT_DIFFERENTIABLE = {
    **dict.fromkeys(
        ("ai.onnx::And-1", "ai.onnx::Or-1", "ai.onnx::Xor-1", "ai.onnx::Not-1", "ai.onnx::BitShift-11",
         "ai.onnx::BitwiseAnd-18", "ai.onnx::BitwiseOr-18", "ai.onnx::BitwiseXor-18",
         "ai.onnx::BitwiseNot-18"), INTEGERS),
    **dict.fromkeys(
        ("ai.onnx::Equal-1", "ai.onnx::Greater-1", "ai.onnx::GreaterOrEqual-12", "ai.onnx::Less-1",
         "ai.onnx::LessOrEqual-12", "ai.onnx::IsNaN-1", "ai.onnx::IsInf-10",
         "ai.onnx::OptionalHasElement-15"), PREDICATE),
    **dict.fromkeys(
        ("ai.onnx::ArgMax-1", "ai.onnx::ArgMin-1", "ai.onnx::NonZero-9", "ai.onnx::ImageDecoder-20",
         "ai.onnx::Shape-1", "ai.onnx::Size-1", "ai.onnx::NonMaxSuppression-10", "ai.onnx::SequenceLength-11",
         "ai.onnx.ml::LabelEncoder-2",
         "ai.onnx::TfIdfVectorizer-9"), INDICES),
    **dict.fromkeys(
        ("ai.onnx::RandomNormal-1", "ai.onnx::RandomNormalLike-1", "ai.onnx::RandomUniform-1",
         "ai.onnx::RandomUniformLike-1", "ai.onnx::Bernoulli-15", "ai.onnx::Multinomial-7"), RANDOM),
    **dict.fromkeys(
        ("ai.onnx::ConstantOfShape-9", "ai.onnx::EyeLike-9", "ai.onnx::HannWindow-17",
         "ai.onnx::HammingWindow-17",
         "ai.onnx::BlackmanWindow-17", "ai.onnx::MelWeightMatrix-17", "ai.onnx::Range-11"), PARAMETERS),
    **dict.fromkeys(
        ("ai.onnx.ml::Binarizer-1", "ai.onnx.ml::OneHotEncoder-1", "ai.onnx.ml::TreeEnsemble-5",
         "ai.onnx.ml::TreeEnsembleClassifier-1", "ai.onnx.ml::TreeEnsembleRegressor-1",
         "qonnx.custom_op.general::MultiThreshold-1", "qonnx.custom_op.general::XnorPopcountMatMul-1",
         "ai.onnx::DynamicQuantizeLinear-11", "ai.onnx::Hardmax-1", "ai.onnx::Hardmax-13"), PIECEWISE),
    **dict.fromkeys(
        ("ai.onnx::ConvInteger-10", "ai.onnx::MatMulInteger-10", "ai.onnx::QLinearConv-10",
         "ai.onnx::QLinearMatMul-10", "com.microsoft::MatMulInteger16-1", "com.microsoft::MulInteger-1",
         "com.microsoft::ReduceSumInteger-1", "com.microsoft::QGemm-1", "com.microsoft::QLinearAdd-1",
         "com.microsoft::QLinearAveragePool-1", "com.microsoft::QLinearConcat-1",
         "com.microsoft::QLinearConv-1", "com.microsoft::QLinearGlobalAveragePool-1",
         "com.microsoft::QLinearLeakyRelu-1", "com.microsoft::QLinearMul-1",
         "com.microsoft::QLinearReduceMean-1", "com.microsoft::QLinearSigmoid-1",
         "com.microsoft::QLinearSoftmax-1", "com.microsoft::QLinearWhere-1",
         "com.microsoft::QuantizeLinear-1"), INTEGERS),
    **dict.fromkeys(
        ("com.microsoft::DynamicQuantizeMatMul-1", "com.microsoft::DynamicQuantizeLSTM-1",
         "com.microsoft::QAttention-1", "com.microsoft::QEmbedLayerNormalization-1"),
        "computes on integers inside, that it rounds its inputs to or is given"),
    "ai.onnx::BitCast-26": "reads the bits as another type",
    "ai.onnx::QuantizeLinear-10": "gives integers (float8 for some zero points)",
    **dict.fromkeys(
        ("qonnx.custom_op.general::Quant-1", "qonnx.custom_op.general::IntQuant-1",
         "qonnx.custom_op.general::BipolarQuant-1", "qonnx.custom_op.general::FloatQuant-1",
         "qonnx.custom_op.general::Trunc-1", "qonnx.custom_op.general::Trunc-2",
         "qonnx.custom_op.general::QuantLSTMCell-1", "qonnx.custom_op.general::QuantAvgPool2d-1",
         "qonnx_torch::QuantizeDequantizeLinear-1"),
        STRAIGHT_THROUGH + "test_gradients_by_name.py and test_quantizer_gradients.py"),
}  # fmt: skip
"""Registered operators without a row, and why."""


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    graphs: list[GraphProto] = [model.graph]
    while graphs:
        for node in graphs.pop().node:
            yield node
            graphs += [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]


BUILT_IN = sorted(str(o) for o in REGISTRY if o.target.__module__.partition(".")[0] == "qonnx_torch")
"""The registered operators without those that tests of `register_op` add."""


def operators_of(model: ModelProto) -> set[str]:
    """Returns the registered operators of a graph and the graphs in it."""
    versions = {canonical_domain(o.domain): o.version for o in model.opset_import}
    keys = ((canonical_domain(n.domain), n.op_type) for n in _nodes(model))
    return {str(REGISTRY.find(*key, versions.get(key[0], 1))) for key in keys}


@pytest.mark.parametrize("case", ROWS, ids=lambda r: r.name)
def test_gradients_are_those_of_finite_differences(case: Row) -> None:
    module = qt.import_model(case.model).double()
    parameters = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    arguments = [torch.from_numpy(a).clone() for a in case.inputs]
    for argument in arguments:
        argument.requires_grad_(argument.is_floating_point())
    inputs = [a for a in arguments if a.requires_grad] + list(parameters.values())

    def function(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = iter(tensors)
        arguments_ = [next(given) if a.requires_grad else a for a in arguments]
        results = functional_call(module, dict(zip(parameters, given, strict=True)), tuple(arguments_))
        results = results if isinstance(results, tuple) else (results,)
        chosen = range(len(results)) if case.outputs is None else case.outputs
        return tuple(results[i] for i in chosen)

    results = function(*inputs)
    assert all(r.requires_grad for r in results), "a gradient stops on its way"
    if case.single:
        assert {r.dtype for r in results} == {torch.float32}
        assert gradcheck(lambda *t: function(*t)[0].double(), inputs, eps=1e-3, atol=2e-3, rtol=1e-3)
    else:
        assert {r.dtype for r in results} == {torch.float64}
        assert gradcheck(function, inputs, atol=1e-6, rtol=1e-5)


def test_every_registered_operator_has_a_row_or_a_reason() -> None:
    registered = set(BUILT_IN)
    covered = {name for r in ROWS for name in operators_of(r.model)}
    assert registered - covered - set(NOT_DIFFERENTIABLE) == set()
    assert covered & set(NOT_DIFFERENTIABLE) == set()
    assert set(NOT_DIFFERENTIABLE) <= registered
