"""Every standard operator, one row per behaviour: a one-node model through the importer, against a reference.

The expected value comes from onnxruntime, or from onnx.reference where onnxruntime has no implementation.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import qonnx_torch as qt
import qonnx_torch.nn
from qonnx_torch.registry import REGISTRY
from qonnx_torch.testing import backend_cases

F32, I64, BOOL = np.float32, np.int64, np.bool_


@dataclass(frozen=True)
class C:
    """A constant: an initializer of the model instead of an input."""

    value: Any
    dtype: Any = F32

    def array(self) -> np.ndarray:
        return np.asarray(self.value, self.dtype)


@dataclass(frozen=True)
class Row:
    op_type: str
    inputs: list[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 13
    outputs: int = 1
    source: str = "onnxruntime"
    tolerance: float = 1e-6


ROWS: list[Row] = []


def row(op_type: str, *inputs: Any, opset: int = 13, outputs: int = 1, source: str = "onnxruntime",
        tolerance: float = 1e-6, **attributes: Any) -> None:  # fmt: skip
    ROWS.append(Row(op_type, list(inputs), attributes, opset, outputs, source, tolerance))


def ints(*values: int) -> C:
    return C(list(values), I64)


def random(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape).astype(F32)


def integers(*shape: int, seed: int = 0, dtype: Any = I64, low: int = -5, high: int = 6) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(low, high, shape).astype(dtype)


SPECIAL = np.array([0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-30, np.inf, -np.inf, np.nan, 3e38], F32)
X = random(2, 3, 4)
IMAGE = random(2, 4, 7, 6)

# -- activations ---------------------------------------------------------------------------------------

for name in ("Relu", "LeakyRelu", "Elu", "Selu", "ThresholdedRelu", "Sigmoid", "HardSigmoid", "Tanh"):
    row(name, 3 * X)
    row(name, SPECIAL[:10])
for name in ("Softplus", "Softsign"):
    row(name, 3 * X)
row("LeakyRelu", X, alpha=0.3, opset=16)
row("Elu", X, alpha=2.0)
row("Selu", X, alpha=2.0, gamma=3.0)
row("ThresholdedRelu", X, alpha=0.5)
row("HardSigmoid", X, alpha=0.3, beta=0.4)
row("HardSwish", 4 * X, opset=14)
row("PRelu", X, C(0.1))
row("PRelu", X, C(random(3, 1)), opset=16)
row("Gelu", X, opset=20)
row("Gelu", X, opset=20, approximate="tanh", tolerance=3e-6)
for name in ("Softmax", "LogSoftmax", "Hardmax"):
    for opset in (11, 13):
        row(name, X, opset=opset)
        for axis in (0, 1, 2, -1, -2):
            row(name, X, opset=opset, axis=axis)

# -- elementwise ---------------------------------------------------------------------------------------

for name in ("Abs", "Sign", "Neg", "Ceil", "Floor", "Round", "Reciprocal", "Exp", "Erf"):
    row(name, SPECIAL, tolerance=0 if name in ("Abs", "Sign", "Neg", "Ceil", "Floor", "Round") else 1e-6)
for name in ("Abs", "Neg", "Sign"):
    row(name, integers(3, 4))
row("Sqrt", np.abs(X))
row("Log", np.abs(X) + 0.1)
row("Sin", X)
row("Cos", X)
row("IsNaN", SPECIAL)
for name in ("Add", "Sub", "Mul", "Div"):
    row(name, X, random(3, 1, seed=1))
    row(name, X, C(random(2, 1, 1, seed=2)))
    row(name, integers(4, 5), integers(4, 5, seed=1, low=1, high=5))
    row(name, X, random(2, 3, 4, seed=1), opset=6, source="reference")
    row(name, X, random(4, seed=1), opset=7)
row("Div", integers(40, low=-20, high=20), C(3, I64))
row("Div", integers(40, low=-20, high=20), C(-3, I64))
row("Div", integers(40, low=-20, high=20, dtype=np.int32), C(7, np.int32))
row("Pow", np.abs(X), random(4))
row("Pow", X, C(2.0))
row("Pow", X, C(3, I64))
row("Pow", integers(3, 4), C(2, I64))
row("Mod", integers(40, low=-9, high=9), C(4, I64))
row("Mod", integers(40, low=-9, high=9), C(-4, I64))
row("Mod", integers(40, low=-9, high=9), C(4, I64), fmod=1)
row("Mod", X, random(4, seed=3), fmod=1)
for name in ("Min", "Max", "Sum", "Mean"):
    row(name, X)
    row(name, X, random(3, 1, seed=1), random(4, seed=2))
row("Min", SPECIAL, C(1.0))
row("Max", SPECIAL, C(1.0))
row("Min", integers(5), integers(5, seed=1))
for opset in (6, 11, 13):
    source = "reference" if opset == 6 else "onnxruntime"
    row("Clip", X, *([C(-0.5), C(0.7)] if opset > 6 else []), opset=opset, source=source,
        **({"min": -0.5, "max": 0.7} if opset == 6 else {}))  # fmt: skip
row("Clip", X, opset=10, max=0.3)
row("Clip", X, opset=10)
row("Clip", X, C(-0.5))
row("Clip", X, None, C(0.5))
row("Clip", SPECIAL, C(-1.0), C(1.0), tolerance=0)
row("Clip", integers(9), C(-2, I64), C(3, I64))
row("Where", integers(2, 1, 4, dtype=BOOL), X, random(3, 1, seed=1))
for name in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"):
    row(name, SPECIAL, SPECIAL[::-1].copy())
    row(name, integers(4, 5), integers(5, seed=1))
for name in ("And", "Or", "Xor"):
    row(name, integers(2, 3, low=0, high=2, dtype=BOOL), integers(3, low=0, high=2, dtype=BOOL))
row("Not", integers(5, low=0, high=2, dtype=BOOL))
row("Identity", X)
row("Cast", 3 * X, to=TensorProto.INT32)
row("Cast", 3 * X, to=TensorProto.BOOL)
row("Cast", 3 * X, to=TensorProto.FLOAT16)
row("Cast", integers(5), to=TensorProto.FLOAT)
row("Cast", X, to=TensorProto.DOUBLE)

# -- products ------------------------------------------------------------------------------------------

row("MatMul", random(5, 4), C(random(4, 3)))
row("MatMul", random(2, 1, 5, 4), C(random(3, 4, 6)))
row("MatMul", random(4), C(random(4, 3)))
row("MatMul", random(5, 4), random(4))
row("MatMul", random(4), random(4))
for c in (
    [],
    [C(random(3))],
    [C(random(5, 1))],
    [C(random(5, 3))],
    [C(0.5)],
    [C(random(1, 3))],
    [C(random(1))],
):
    row("Gemm", random(5, 4), C(random(4, 3)), *c)
    row("Gemm", random(4, 5), C(random(3, 4)), *c, transA=1, transB=1, alpha=0.5, beta=2.0)
row("Gemm", random(5, 4), C(random(3, 4)), C(random(3)), transB=1)
row("Gemm", random(5, 4), C(random(3, 4)), C(random(3)), transB=1, beta=0.0)
row("Gemm", random(5, 4), C(random(4, 3)), C(random(3)), opset=6, broadcast=1, source="reference")
row("Gemm", random(5, 4), C(random(4, 3)), C(random(5, 3)), opset=6, source="reference")
row("Gemm", random(5, 4), C(random(4, 3)), C(random(3)), opset=7)
row("Einsum", random(2, 3, 4), random(2, 4, 5), equation="bij,bjk->bik")
row("Einsum", random(3, 3), equation="ii->i")
for dtype in (np.int32, np.uint32, np.uint64):
    LARGE = integers(4, 5, dtype=dtype, low=0, high=2**31 - 1)
    row("MatMul", LARGE, integers(5, 3, dtype=dtype, low=0, high=2**31 - 1))  # products wrap around
    row("Gemm", LARGE >> 16, LARGE.T >> 16, integers(4, dtype=dtype, low=0), source="reference")
row("Gemm", integers(2, 3), integers(3, 4), integers(4), alpha=0.5, beta=1.5, source="reference")

# -- convolutions and pools ----------------------------------------------------------------------------

WEIGHT = C(random(6, 4, 3, 2))
for attributes in (
    {},
    {"pads": [1, 1, 1, 1]},
    {"pads": [2, 0, 1, 1]},
    {"strides": [2, 3], "pads": [1, 0, 1, 0]},
    {"dilations": [2, 3]},
    {"dilations": [2, 1], "strides": [1, 2], "pads": [0, 1, 2, 3]},
    {"auto_pad": "VALID", "strides": [2, 2]},
    {"auto_pad": "SAME_UPPER"},
    {"auto_pad": "SAME_LOWER"},
    {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
    {"kernel_shape": [3, 2], "auto_pad": "NOTSET"},
):
    row("Conv", IMAGE, WEIGHT, C(random(6)), **attributes, tolerance=3e-6)
row("Conv", IMAGE, WEIGHT)
row("Conv", IMAGE, C(random(4, 1, 3, 3)), group=4)
row("Conv", IMAGE, C(random(6, 2, 1, 1)), C(random(6)), group=2)
row("Conv", random(2, 3, 9), C(random(4, 3, 3)), pads=[2, 1], strides=[2])
row("Conv", random(1, 2, 4, 5, 6), C(random(3, 2, 2, 3, 2)), pads=[0, 1, 0, 1, 1, 1])
row("Conv", IMAGE, random(6, 4, 3, 2), random(6), opset=6, source="reference")
HYPER = random(1, 2, 4, 5, 4, 3)
HYPER_WINDOWS = {"pads": [1, 0, 1, 1, 0, 2, 1, 0], "strides": [2, 1, 2, 1], "dilations": [1, 2, 1, 1]}
for attributes in ({}, HYPER_WINDOWS):
    row("Conv", HYPER, C(random(3, 2, 2, 2, 2, 2)), C(random(3)), source="reference", tolerance=3e-6,
        **attributes)  # fmt: skip
row("Conv", IMAGE.astype(np.float16), C(random(6, 4, 3, 2), np.float16), tolerance=2e-3)
row("CausalConvWithState", random(2, 3, 5), C(random(3, 1, 4)), opset=27, outputs=2)
row("CausalConvWithState", random(2, 3, 5), C(random(3, 1, 4)), C(random(3)), random(2, 3, 3), opset=27,
    outputs=2, activation="silu")  # fmt: skip
row("CausalConvWithState", random(2, 3, 2), C(random(3, 1, 1)), opset=27, outputs=2, activation="swish")
COLUMNS = {"strides": [1, 2], "dilations": [2, 1], "pads": [1, 0, 2, 1]}
row("Col2Im", random(2, 18, 15), ints(4, 5), ints(2, 3), opset=18, pads=[0, 1, 0, 1], source="reference")
row("Col2Im", random(2, 12, 10), ints(4, 5), ints(2, 3), opset=18, source="reference", **COLUMNS)
row("Col2Im", integers(1, 8, 12, dtype=np.int32), ints(2, 3, 4), ints(1, 2, 2), opset=18, source="reference")
DEFORMED = (random(2, 4, 6, 5), C(random(6, 2, 3, 2)), random(2, 24, 3, 4, low=-1.5, high=1.5))
for opset, more in ((19, []), (22, [C(random(6))]), (22, [None, random(2, 12, 3, 4)])):
    row("DeformConv", *DEFORMED, *more, opset=opset, group=2, offset_group=2, strides=[2, 1],
        pads=[1, 0, 1, 0], source="reference", tolerance=1e-5)  # fmt: skip
row("DeformConv", IMAGE, C(random(2, 4, 2, 2)), random(2, 8, 5, 5), opset=19, dilations=[2, 1],
    source="reference", tolerance=1e-5)  # fmt: skip

WEIGHT = C(random(4, 3, 3, 2))
for attributes in (
    {},
    {"strides": [2, 3]},
    {"strides": [2, 3], "output_padding": [1, 2]},
    {"strides": [2, 2], "pads": [1, 0, 1, 0]},
    {"strides": [2, 2], "pads": [0, 1, 2, 0]},
    {"strides": [2, 2], "pads": [0, 1, 2, 0], "output_padding": [1, 0]},
    {"dilations": [2, 3], "strides": [2, 1], "pads": [1, 1, 1, 1]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 1]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 1]},
    {"auto_pad": "VALID", "strides": [2, 1]},
    {"output_shape": [14, 13], "strides": [2, 2]},
    {"output_shape": [15, 12], "strides": [2, 2]},
    {"output_shape": [14, 13], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
):
    row("ConvTranspose", IMAGE, WEIGHT, C(random(3)), **attributes, tolerance=3e-6)
row("ConvTranspose", IMAGE, C(random(4, 2, 3, 3)), group=2, strides=[2, 2])
row("ConvTranspose", random(2, 3, 5), C(random(3, 4, 3)), strides=[2], pads=[1, 0])
row("ConvTranspose", random(1, 2, 3, 3, 3), C(random(2, 2, 2, 2, 2)), strides=[2, 1, 2])
row("ConvTranspose", HYPER, C(random(2, 3, 2, 1, 2, 2)), C(random(3)), strides=[2, 1, 1, 2],
    pads=[1, 0, 0, 0, 0, 1, 0, 1], source="reference", tolerance=3e-6)  # fmt: skip
row("ConvTranspose", random(1, 1, 3), C(random(1, 1, 1)), C(random(1)), strides=[3], output_shape=[8],
    auto_pad="SAME_UPPER")  # fmt: skip

POOLS = (
    {},
    {"strides": [2, 2]},
    {"strides": [2, 3], "pads": [1, 0, 1, 1]},
    {"strides": [2, 2], "ceil_mode": 1},
    {"strides": [3, 2], "ceil_mode": 1, "pads": [1, 1, 1, 0]},
    {"strides": [3, 3], "ceil_mode": 1, "pads": [0, 0, 1, 1]},
    {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"auto_pad": "VALID", "strides": [2, 2]},
)
for attributes in POOLS:
    row("MaxPool", IMAGE, kernel_shape=[3, 2], **attributes, tolerance=0)
    row("AveragePool", IMAGE, kernel_shape=[3, 2], **attributes)
    row("AveragePool", IMAGE, kernel_shape=[3, 2], count_include_pad=1, **attributes)
row("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 3], strides=[1, 2], tolerance=0)
row(
    "MaxPool",
    IMAGE,
    kernel_shape=[2, 2],
    dilations=[2, 2],
    pads=[1, 1, 1, 1],
    ceil_mode=1,
    strides=[2, 2],
    tolerance=0,
)
row("MaxPool", IMAGE, kernel_shape=[3, 3], pads=[2, 2, 2, 2], tolerance=0)
row("MaxPool", -np.abs(IMAGE), kernel_shape=[3, 3], pads=[1, 1, 1, 1], tolerance=0)
row("MaxPool", integers(1, 2, 6, 6, dtype=np.int8), kernel_shape=[3, 3], pads=[1, 0, 0, 1])
row("MaxPool", random(2, 3, 9), kernel_shape=[3], strides=[2], ceil_mode=1)
row("MaxPool", random(1, 2, 5, 5, 5), kernel_shape=[2, 3, 2], strides=[2, 1, 2])
row("MaxPool", IMAGE, kernel_shape=[2, 2], opset=8, strides=[2, 2])
TIED_IMAGE = np.round(IMAGE)
for attributes in (*POOLS[:5], {"dilations": [2, 1]}, {"storage_order": 1, "pads": [1, 1, 0, 0]}):
    row("MaxPool", TIED_IMAGE, kernel_shape=[3, 2], outputs=2, **attributes)
row("MaxPool", np.full((1, 1, 4), -128, np.int8), kernel_shape=[3], pads=[2, 1], outputs=2)
row("MaxPool", np.full((1, 2, 4), -np.inf, F32), kernel_shape=[3], pads=[2, 1], outputs=2)
row("MaxPool", integers(2, 3, 7, dtype=np.uint8, low=0), kernel_shape=[3], strides=[2], pads=[1, 0])
row("MaxPool", integers(2, 3, 7, dtype=np.uint8, low=0), kernel_shape=[3], pads=[1, 1])
for storage_order in (0, 1):
    row("MaxPool", np.round(random(2, 2, 4, 3, 5)), kernel_shape=[2, 2, 3], storage_order=storage_order,
        outputs=2)  # fmt: skip
row("MaxPool", IMAGE, kernel_shape=[3, 3], dilations=[3, 3], outputs=1)
row("MaxPool", IMAGE[:, :, :4], kernel_shape=[3, 3], dilations=[2, 2])  # no window fits: no element
row("AveragePool", random(2, 3, 9), kernel_shape=[3], strides=[2], ceil_mode=1, pads=[1, 1])
row(
    "AveragePool", random(1, 2, 5, 5, 5), kernel_shape=[2, 3, 2], pads=[0, 1, 0, 1, 1, 1], count_include_pad=1
)
row("AveragePool", IMAGE, kernel_shape=[2, 2], opset=7)
row("AveragePool", IMAGE, kernel_shape=[2, 2], opset=19, dilations=[1, 1])
for attributes in ({}, {"count_include_pad": 1}, {"ceil_mode": 1}, {"ceil_mode": 1, "count_include_pad": 1}):
    row("AveragePool", IMAGE, kernel_shape=[3, 2], opset=19, dilations=[2, 3], strides=[2, 1],
        pads=[1, 1, 2, 0], **attributes)  # fmt: skip
row("AveragePool", random(1, 2, 5, 4, 5).astype(np.float16), kernel_shape=[2, 2, 2], tolerance=2e-3)
for attributes in POOLS[:5]:
    row("LpPool", IMAGE, kernel_shape=[3, 2], opset=18, **attributes)
row("LpPool", IMAGE, kernel_shape=[3, 2], opset=18, dilations=[2, 1], p=3)
row("LpPool", IMAGE, kernel_shape=[3, 2], opset=11, p=1, auto_pad="SAME_LOWER", strides=[2, 2])
row("LpPool", random(2, 3, 9), kernel_shape=[3], opset=7, pads=[1, 2])
for p in (1, 2, 3):
    row("GlobalLpPool", IMAGE, p=p)
UNPOOLED = (random(1, 2, 2, 2), np.array([[[[5, 7], [13, 15]], [[16, 18], [30, 28]]]], I64))
for opset, more in ((9, []), (11, [ints(1, 2, 5, 6)])):
    row("MaxUnpool", *UNPOOLED, *more, opset=opset, kernel_shape=[2, 2], strides=[2, 2], source="reference")
row("GlobalAveragePool", IMAGE)
row("GlobalAveragePool", random(2, 3, 9))
row("GlobalMaxPool", IMAGE)
row("GlobalMaxPool", random(2, 3, 9))

# -- normalization -------------------------------------------------------------------------------------

STATISTICS = (C(random(4)), C(random(4, seed=1)), C(random(4, seed=2)), C(random(4, seed=3, low=0.1)))
for opset in (7, 9, 14, 15):
    row("BatchNormalization", IMAGE, *STATISTICS, opset=opset, epsilon=1e-3)
row("BatchNormalization", IMAGE.astype(np.float16), *STATISTICS, opset=15, tolerance=2e-3)
row("BatchNormalization", IMAGE, *STATISTICS, opset=14, training_mode=1, outputs=1, source="reference")
row("BatchNormalization", IMAGE, *STATISTICS, opset=6, is_test=1, source="reference")
row("BatchNormalization", random(5, 4), *STATISTICS, opset=15)
row(
    "BatchNormalization",
    IMAGE,
    *STATISTICS,
    opset=15,
    training_mode=1,
    outputs=3,
    momentum=0.7,
    source="reference",
)
row("InstanceNormalization", IMAGE, C(random(4)), C(random(4, seed=1)), epsilon=1e-3, tolerance=3e-6)
for axis in (-1, 1, 2, -3):
    shape = X.shape[axis:]
    row(
        "LayerNormalization",
        X,
        C(random(*shape)),
        C(random(*shape, seed=1)),
        opset=17,
        axis=axis,
        tolerance=3e-6,
    )
    row("RMSNormalization", X, C(random(*shape)), opset=23, axis=axis, source="reference", tolerance=3e-6)
row("LayerNormalization", X, C(random(4)), opset=17, epsilon=1e-2)
for outputs in (2, 3):
    row("LayerNormalization", X, C(random(3, 4)), C(random(4)), opset=17, axis=1, outputs=outputs,
        tolerance=3e-6)  # fmt: skip
row("LayerNormalization", X.astype(np.float16), C(random(4), np.float16), opset=17, tolerance=2e-3)
row("InstanceNormalization", random(2, 4, 1), C(random(4)), C(random(4, seed=1)), epsilon=1.0)
row("GroupNormalization", IMAGE, C(random(2)), C(random(2, seed=1)), opset=18, num_groups=2, tolerance=3e-6)
row("MeanVarianceNormalization", IMAGE, tolerance=1e-5)
row("MeanVarianceNormalization", IMAGE, opset=9, axes=[-1, 1], source="reference", tolerance=1e-5)
row("LpNormalization", np.zeros((2, 3), F32), source="reference")
row("GroupNormalization", IMAGE, C(random(4)), C(random(4, seed=1)), opset=21, num_groups=2, tolerance=3e-6)
for p in (1, 2):
    row("LpNormalization", X, p=p, axis=1)
row("LRN", random(2, 9, 3, 3), size=3, alpha=1e-2, beta=0.5, bias=2.0)
row("LRN", random(9, 9, 2, 2), size=4, alpha=1e-1, source="reference")  # its loop runs over N, not C
for opset in (6, 7, 11, 12, 13):
    row("Dropout", X, opset=opset, **({"is_test": 1, "source": "input"} if opset == 6 else {}))
row("Dropout", X, C(0.3), C(False, BOOL))

# -- reductions ----------------------------------------------------------------------------------------

REDUCE = (
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
)
for name in REDUCE:
    for keepdims in (0, 1):
        row(name, X, opset=11, axes=[0, -1], keepdims=keepdims)
        row(name, X, ints(0, -1), opset=18, keepdims=keepdims)
    row(name, X, opset=11)
    row(name, X, opset=18, keepdims=0)
    row(name, X, opset=18, noop_with_empty_axes=1, source="reference")
    row(name, X, opset=18, keepdims=0, noop_with_empty_axes=0)
row("ReduceSum", X, ints(1), opset=13, keepdims=0)
row("ReduceSum", integers(3, 4), ints(0))
row("ReduceMax", integers(3, 4), opset=12, axes=[1])
TIES = np.array([[1, 3, 3, 2], [0, 0, 0, 0], [5, 4, 5, 5]], F32)
for name in ("ArgMax", "ArgMin"):
    for axis in (0, 1, -1):
        for last in (0, 1):
            row(name, TIES, axis=axis, select_last_index=last, keepdims=last)
    row(name, X)
    row(name, X, opset=11, axis=2)
for largest in (0, 1):
    row("TopK", TIES, ints(3), largest=largest, outputs=2)
    row("TopK", random(4, 5, 3), ints(2), largest=largest, axis=1, outputs=2)
row("TopK", TIES, ints(4), outputs=2, opset=10)
row("TopK", TIES, opset=9, k=2, axis=1, outputs=2)
row("TopK", integers(20), ints(7), outputs=2)
for attributes in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
    row("CumSum", X, C(1, I64), opset=14, **attributes)
row("CumSum", X, C(-1, np.int32), opset=11)
row("CumSum", integers(3, 4), C([0], I64))

# -- movement ------------------------------------------------------------------------------------------

for shape in ([2, 12], [-1, 4], [0, -1], [0, 0, 2, 2], [24], [4, 3, 2]):
    row("Reshape", X, ints(*shape))
row("Reshape", np.zeros((0, 3), F32), ints(3, 0), opset=14, allowzero=1)
for axis in (0, 1, 2, 3, -1, -2):
    row("Flatten", X, axis=axis)
row("Flatten", IMAGE)
for opset, axes in ((11, {"axes": [1, -1]}), (11, {}), (13, {})):
    row("Squeeze", random(3, 1, 4, 1), opset=opset, **axes)
row("Squeeze", random(3, 1, 4, 1), ints(-1))
row("Squeeze", random(3, 1, 4, 1), ints(1, 3))
row("Unsqueeze", X, opset=11, axes=[0, 3])
row("Unsqueeze", X, ints(-1, 0))
row("Unsqueeze", X, ints(3, 1))
row("Transpose", X)
row("Transpose", X, perm=[2, 0, 1])
row("Concat", X, random(2, 1, 4), axis=1)
row("Concat", X, X, X, axis=-1)
row("Concat", X, opset=4, axis=0, source="reference")
row("Split", random(6, 4), opset=11, outputs=3)
row("Split", random(6, 4), opset=11, split=[1, 2, 3], outputs=3)
row("Split", random(6, 4), ints(1, 3), axis=1, outputs=2)
row("Split", random(6, 4), outputs=2)
row("Split", random(7, 4), opset=18, num_outputs=3, outputs=3)
row("Split", random(6, 4), opset=18, num_outputs=2, axis=-1, outputs=2)
row("Slice", X, opset=9, starts=[0, 1], ends=[1, 3])
row("Slice", X, opset=9, starts=[-3, 0], ends=[-1, 100], axes=[2, 0])
row("Slice", X, ints(1), ints(3))
row("Slice", X, ints(0, -3), ints(100, -1), ints(1, 2))
row("Slice", X, ints(-1), ints(-100), ints(2), ints(-1))
row("Slice", X, ints(3), ints(0), ints(-1), ints(-2))
row("Slice", X, ints(2), ints(-(2**63)), ints(1), ints(-1))
row("Slice", X, ints(0), ints(2**63 - 1), ints(2), ints(3))
row("Slice", X, ints(3), ints(1), ints(2))
row("Slice", X, ints(2, 3), ints(-5, -9), ints(1, 2), ints(-1, -2))
for axis in (0, 1, -1):
    row("Gather", X, integers(2, 2, low=-2, high=2), axis=axis)
row("Gather", X, C(-1, I64), axis=1)
row("Gather", X, C(0, np.int32))
row("Gather", C(random(10, 4)), integers(3, 5, low=0, high=10))
row("GatherElements", X, integers(2, 3, 4, low=-2, high=2), axis=0)
row("GatherElements", X, integers(2, 3, 2, low=-4, high=4), axis=2)
row("Expand", random(3, 1), ints(2, 1, 4))
row("Expand", random(3, 1), ints(3, 4))
row("Expand", random(2, 3, 4), ints(4))
row("Tile", X, ints(1, 2, 3))
row("ConstantOfShape", ints(2, 3))
row("ConstantOfShape", ints(2, 0), value=numpy_helper.from_array(np.array([3], I64)))
row("ConstantOfShape", ints(2), value=numpy_helper.from_array(np.array([0.5], F32)))
row("Range", C(1, I64), C(10, I64), C(3, I64))
row("Range", C(1.0), C(-2.0), C(-0.5))
row("Shape", X)
row("Shape", X, opset=15, start=1)
row("Shape", X, opset=15, start=-2, end=-1)
row("Size", X)
for mode in ("constant", "reflect", "edge"):
    row("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 3, 1), mode=mode)
    row("Pad", IMAGE, opset=10, pads=[0, 0, 1, 2, 0, 0, 3, 1], mode=mode)
    row("Pad", X, ints(0, 1, 0, 0, 1, 2), mode=mode)
row("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 3, 1), opset=19, mode="wrap")
row("Pad", IMAGE, ints(1, 0, 0, 2, 0, 3, 0, 0), C(1.5))
row("Pad", IMAGE, ints(0, 0, -1, 2, 0, 0, 1, -2))
row("Pad", IMAGE, ints(1, 2), C(-1.0), ints(-2), opset=18)
row("Pad", IMAGE, ints(1, 2, 0, 1), None, ints(3, 1), opset=18)
row("Pad", X, opset=10, pads=[0, 1, 0, 0, 0, 1], value=2.0)
row("Pad", integers(3, 4), ints(0, 1, 1, 0), C(7, I64))
for mode in ("DCR", "CRD"):
    row("DepthToSpace", random(2, 12, 2, 3), blocksize=2, mode=mode)
row("SpaceToDepth", random(2, 3, 4, 6), blocksize=2)

# -- Resize --------------------------------------------------------------------------------------------

SMALL = random(1, 2, 4, 5)
COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
for transform in COORDINATES:
    for scales in ([1, 1, 2, 3], [1, 1, 0.6, 1.7]):
        for nearest in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"):
            row("Resize", SMALL, None, C(scales), mode="nearest", nearest_mode=nearest,
                coordinate_transformation_mode=transform)  # fmt: skip
        for mode in ("linear", "cubic"):
            row("Resize", SMALL, None, C(scales), mode=mode, coordinate_transformation_mode=transform,
                tolerance=3e-6)  # fmt: skip
row("Resize", SMALL, None, None, ints(1, 2, 7, 3), mode="nearest")
row("Resize", SMALL, None, None, ints(1, 2, 7, 3), mode="linear", tolerance=3e-6)
row(
    "Resize",
    SMALL,
    None,
    None,
    ints(1, 2, 1, 1),
    mode="linear",
    coordinate_transformation_mode="pytorch_half_pixel",
)
row(
    "Resize",
    SMALL,
    None,
    C([1, 1, 2.5, 2]),
    mode="cubic",
    cubic_coeff_a=-0.5,
    exclude_outside=1,
    tolerance=3e-6,
)
row("Resize", SMALL, C([]), C([1, 1, 2, 2]), opset=11, mode="nearest")
row("Resize", SMALL, None, C([2, 2]), opset=18, axes=[2, 3], mode="nearest", source="reference")
row("Resize", SMALL, None, C([1, 1, 1.7, 2.2]), opset=19, mode="linear", source="reference",
    coordinate_transformation_mode="half_pixel_symmetric", tolerance=3e-6)  # fmt: skip
row("Resize", SMALL, C([1, 1, 2, 3]), opset=10, mode="nearest")
row("Resize", SMALL, C([1, 1, 0.5, 2]), opset=10, mode="nearest")
row("Resize", SMALL, C([1, 1, 2, 2]), opset=10, mode="linear")
row("Resize", SMALL, C([1, 1, 0.6, 1.7]), opset=10, mode="nearest")  # up where it shrinks, else down
row("Resize", random(1, 10), None, C([1, 0.7]))  # 10 times the float32 below 0.7 is 7
for mode in ("linear", "cubic"):
    for scales in ([1, 1, 0.6, 0.4], [1, 1, 0.3, 1.7]):
        row("Resize", random(1, 2, 8, 9), None, C(scales), opset=18, mode=mode, antialias=1, tolerance=3e-6)
    row("Resize", random(1, 2, 8, 9), None, C([1, 1, 0.6, 0.4]), opset=18, mode=mode, antialias=1,
        exclude_outside=1, source="reference", tolerance=3e-6)  # fmt: skip
for mode in ("nearest", "linear", "cubic"):
    row("Resize", SMALL, C([0, 0, 0.1, -0.2, 1, 1, 0.7, 1.3]), None, ints(1, 2, 3, 7), mode=mode,
        coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=9.0,
        tolerance=3e-6)  # fmt: skip
row("Resize", SMALL, C([0.3, 0.8]), None, ints(1), opset=18, axes=[3], mode="linear", source="reference",
    coordinate_transformation_mode="tf_crop_and_resize")  # fmt: skip
for policy in ("not_larger", "not_smaller"):
    row("Resize", SMALL, None, None, ints(9, 7), opset=18, axes=[3, 2], mode="linear", tolerance=3e-6,
        keep_aspect_ratio_policy=policy)  # fmt: skip
row("Resize", integers(1, 1, 4, 5, dtype=np.uint8, low=0, high=255), None, None, ints(1, 1, 7, 3), opset=18,
    mode="cubic", source="reference")  # fmt: skip
row("Resize", random(2, 3, 4).astype(np.float64), None, C([1, 2, 0.5]), mode="linear", source="reference")
row("Upsample", SMALL, C([1, 1, 2, 3]), opset=9, mode="nearest")
row("Upsample", SMALL, opset=7, mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])
row("Upsample", SMALL, opset=7, mode="linear", scales=[1.0, 1.0, 2.0, 2.0])
row("Upsample", np.ones((1, 2, 3, 4), F32), opset=6, height_scale=1.0, width_scale=1.0, source="input")

# -- sampling and regions ------------------------------------------------------------------------------

POINTS = random(2, 5, 3, 2, low=-1.7, high=1.7)
for align_corners in (0, 1):
    row("AffineGrid", random(2, 2, 3), ints(2, 1, 4, 3), opset=20, align_corners=align_corners)
    row("AffineGrid", random(1, 3, 4), ints(1, 1, 2, 4, 3), opset=20, align_corners=align_corners)
    for padding_mode in ("zeros", "border", "reflection"):
        GRID = {"padding_mode": padding_mode, "align_corners": align_corners, "tolerance": 1e-5}
        for mode in ("bilinear", "nearest", "bicubic"):
            row("GridSample", IMAGE, POINTS, opset=16, mode=mode, **GRID)
        row("GridSample", IMAGE, np.round(POINTS * 4) / 4, opset=22, mode="nearest", **GRID)
        for mode in ("linear", "nearest", "cubic"):
            row("GridSample", random(1, 2, 3, 4, 3), random(1, 2, 2, 2, 3), opset=20, mode=mode,
                source="reference", **GRID)  # fmt: skip
            row("GridSample", random(1, 2, 4), random(1, 5, 1), opset=22, mode=mode, source="reference",
                **GRID)  # fmt: skip
row("GridSample", IMAGE, POINTS, opset=16)
row("GridSample", integers(1, 1, 4, 4, dtype=np.int32), POINTS[:1], opset=22, mode="nearest",
    source="reference")  # fmt: skip

BOXES = np.array([[0.5, 1.2, 4.3, 5.9], [2, 2, 2.5, 7], [-2, -1, 9, 8], [4, 3, 3, 2]], F32)
REGIONS = (IMAGE, BOXES, np.array([0, 1, 1, 0], I64))
for mode in ("avg", "max"):
    for sampling_ratio in (0, 2):
        POOLED = {"mode": mode, "sampling_ratio": sampling_ratio, "output_height": 2, "output_width": 3}
        row("RoiAlign", *REGIONS, opset=10, spatial_scale=0.5, tolerance=1e-5, **POOLED)
        row("RoiAlign", *REGIONS, opset=16, tolerance=1e-5, **POOLED)
        row("RoiAlign", *REGIONS, opset=22, coordinate_transformation_mode="output_half_pixel",
            tolerance=1e-5, source="reference", **POOLED)  # fmt: skip
BOXES = np.array([[0, 0.5, 1.2, 4.3, 5.9], [1, 2, 2, 2.5, 7], [1, 0, 0, 9, 8], [0, 7, 5, 12, 9]], F32)
row("MaxRoiPool", IMAGE, BOXES, pooled_shape=[2, 3])
row("MaxRoiPool", IMAGE, BOXES, pooled_shape=[3, 1], spatial_scale=0.5)

BOXES = np.random.default_rng(5).integers(0, 5, (2, 9, 4)).astype(F32)
SCORES = np.round(random(2, 3, 9, low=0, high=1), 1)  # with ties, of which the first comes first
for opset in (10, 11):
    row("NonMaxSuppression", BOXES, SCORES, C(4, I64), C(0.3), C(0.2), opset=opset)
row("NonMaxSuppression", BOXES, SCORES, np.array([9], I64), np.array([0.5], F32), opset=11,
    center_point_box=1)  # fmt: skip
row("NonMaxSuppression", BOXES, SCORES, C(0, I64), C(0.3), C(0.2), opset=11)
row("NonMaxSuppression", BOXES, SCORES, C(9, I64), C(0.0), C(0.95), opset=11)

# -- ONNX's own quantization ---------------------------------------------------------------------------

TIED = (np.arange(-300, 300, dtype=F32) / 2 * F32(0.1)).reshape(2, 3, 100)
for dtype in (np.uint8, np.int8):
    zero = 3 if dtype is np.uint8 else -5
    row("QuantizeLinear", TIED, C(0.1), C(zero, dtype))
    row("QuantizeLinear", TIED, C([0.1, 0.2, 0.3]), C([0, zero, 1], dtype), axis=1)
    row("DequantizeLinear", integers(2, 3, 4, low=0, high=100, dtype=dtype), C(0.1), C(zero, dtype))
    row(
        "DequantizeLinear",
        integers(2, 3, 4, low=0, high=100, dtype=dtype),
        C([0.1, 0.2]),
        C([0, zero], dtype),
        axis=-3,
    )
row("QuantizeLinear", TIED, C(0.1))
row("QuantizeLinear", TIED, C(0.1), C(0, np.uint8), opset=10)
row("QuantizeLinear", TIED, C(0.003), C(100, np.int16), opset=21)
row("QuantizeLinear", TIED, C(0.1), opset=21, output_dtype=TensorProto.INT8)
row("DequantizeLinear", integers(4, 5, dtype=np.int8), C(0.1))
row("DequantizeLinear", integers(4, 5, dtype=np.int32, low=-(2**20), high=2**20), C(0.1))

# -- the driver ----------------------------------------------------------------------------------------


def one_node(row: Row) -> tuple[ModelProto, list[np.ndarray]]:
    names = [("" if v is None else f"in{i}") for i, v in enumerate(row.inputs)]
    pairs = [(n, v) for n, v in zip(names, row.inputs, strict=True) if n]
    given = [(n, v) for n, v in pairs if not isinstance(v, C)]
    constants = [(n, v.array()) for n, v in pairs if isinstance(v, C)]
    outputs = [f"out{i}" for i in range(row.outputs)]
    graph = helper.make_graph(
        [helper.make_node(row.op_type, names, outputs, **row.attributes)],
        "one",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in given
        ],
        [helper.make_empty_tensor_value_info(o) for o in outputs],
        [numpy_helper.from_array(v, n) for n, v in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", row.opset)], ir_version=8)
    return model, [v for _, v in given]


def expected(row: Row, model: ModelProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
    names = [i.name for i in model.graph.input]
    feed = dict(zip(names, inputs, strict=True))
    if row.source == "input":
        return inputs
    if row.source == "reference":
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ReferenceEvaluator(model).run(None, feed)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, feed)


def label(row: Row) -> str:
    shapes = "-".join(
        "none" if v is None else "x".join(map(str, np.shape(v.value if isinstance(v, C) else v))) or "scalar"
        for v in row.inputs
    )
    attributes = "-".join(f"{k}={v}" for k, v in row.attributes.items() if not isinstance(v, TensorProto))
    return f"{row.op_type}-{row.opset}-{shapes}-{attributes}".replace(" ", "").rstrip("-")


@pytest.mark.parametrize("row", [pytest.param(r, id=label(r)) for r in ROWS])
def test_equals_the_reference(row: Row) -> None:
    model, inputs = one_node(row)
    want = expected(row, model, inputs)
    module = qt.import_model(model)
    with torch.no_grad():
        got = module(*(torch.from_numpy(v) for v in inputs))
    got = got if isinstance(got, tuple) else (got,)
    assert len(got) == len(want)
    for actual, golden in zip(got, want, strict=True):
        golden = np.asarray(golden)
        actual = actual.numpy()
        assert actual.dtype == golden.dtype
        assert actual.shape == golden.shape
        if golden.dtype.kind != "f" or not row.tolerance or not golden.size:
            np.testing.assert_array_equal(actual, golden)
        else:
            finite = np.abs(golden[np.isfinite(golden)])
            largest = max(1.0, float(finite.max())) if finite.size else 1.0
            np.testing.assert_allclose(
                actual, golden, rtol=row.tolerance, atol=row.tolerance * min(largest, 100)
            )


_RANDOM = "draws; see test_random.py"
_SEQUENCES = "has sequences or optionals, which no row has"
EXCLUDED: dict[str, str] = {
    "ai.onnx::PRelu-1": "the references broadcast it as PRelu-7; derived by hand in test_older_forms.py",
    "ai.onnx::SimplifiedLayerNormalization-1": "onnxruntime's own, with a schema nowhere",
    "ai.onnx::Multinomial-7": _RANDOM,
    "ai.onnx::RandomNormal-1": _RANDOM,
    "ai.onnx::RandomNormalLike-1": _RANDOM,
    "ai.onnx::RandomUniform-1": _RANDOM,
    "ai.onnx::ConcatFromSequence-11": _SEQUENCES,
    "ai.onnx::Optional-15": _SEQUENCES,
    "ai.onnx::SequenceAt-11": _SEQUENCES,
    "ai.onnx::SequenceConstruct-11": _SEQUENCES,
    "ai.onnx::SequenceErase-11": _SEQUENCES,
}
"""Registered standard operators that nothing compares with a reference, and why."""


def test_every_registered_operator_has_a_row_or_a_case() -> None:
    """A case is one of the onnx package's, which tests/backend runs."""
    covered = {str(REGISTRY.find("", r.op_type, r.opset)) for r in ROWS}
    for case in backend_cases("node"):
        versions = [o.version for o in case.model.opset_import if o.domain in ("", "ai.onnx")]
        nodes = [n.op_type for n in case.model.graph.node if not n.domain and versions]
        covered |= {str(REGISTRY.find("", op_type, versions[0])) for op_type in nodes}
    registered = {str(o) for o in REGISTRY if o.domain == ""}
    assert registered
    assert registered - covered <= set(EXCLUDED)
