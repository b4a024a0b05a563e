"""Write the small test models, their golden outputs and the README's table.

``CASES`` at the end is the table of all models: a name, a function which builds the ``ModelProto``, how
inputs are drawn, which reference computes the goldens, and one line that says what the model is there for.
Each model gives ``NAME.onnx`` and ``NAME.npz``. The keys in the latter are

``in<i>_s<k>``, ``out<i>_s<k>``
    input and output of sample k (0 or 1); i counts the graph inputs that are not initializers, or the graph
    outputs;
``mid_s0/<tensor name>``
    what the nodes computed in between for sample 0 (no constants, no graph outputs), named as in the file.

The references:

qonnx
    ``cleanup_model`` and then ``execute_onnx`` gives the outputs; ``execute_onnx`` on the stored graph, with
    nothing but inferred shapes added, gives the tensors in between. Both must agree exactly, or the script
    stops. Some files are of a kind that qonnx cannot read as it stands; then a repair function makes an
    equivalent copy for it first, and the stored file stays as it was built. Each repair says what it does.
onnx.reference
    the reference evaluator of the onnx package, for the float model that neither qonnx nor onnxruntime runs.

Everything is seeded: a second run with the same versions writes the same bytes. The script needs torch,
brevitas, onnxoptimizer (for Brevitas' exporter), onnxscript, qonnx and onnxruntime.
"""

from __future__ import annotations

import argparse
import copy
import io
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import numpy as np
import onnx
import onnx.reference
import onnxruntime
import torch
from brevitas.export import export_onnx_qcdq, export_qonnx
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8Bias,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    ShiftedUint8ActPerTensorFloat,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
    TruncTo8bit,
    Uint8ActPerTensorFloat,
)
from brevitas.quant.float_quant_ocp import Fp8e4m3OCPActPerTensorFloat, Fp8e4m3OCPWeightPerTensorFloat
from onnx import ModelProto, TensorProto, helper, numpy_helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.util.cleanup import cleanup_model
from torch import Tensor, nn

QONNX = "qonnx.custom_op.general"
BREVITAS = "onnx.brevitas"
FINN = "finn.custom_op.general"
CHANNELS_LAST = "qonnx.custom_op.channels_last"
QUANT_OPS = {"Quant", "IntQuant", "BipolarQuant", "FloatQuant", "Trunc"}
ROUNDING_MODES = ("ROUND", "HALF_EVEN", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN")
SAMPLES = 2
UNWANTED_NOTES = (".stack_trace", ".fx_node", ".graph_signature")

Arrays = dict[str, np.ndarray]
Sampler = Callable[[np.random.Generator, tuple[int, ...], int], np.ndarray]
Repair = Callable[[ModelProto], None]


# ------------ input samples


def normal(rng: np.random.Generator, shape: tuple[int, ...], _index: int) -> np.ndarray:
    """Draw from the standard normal distribution."""
    return rng.standard_normal(shape, dtype=np.float32)


def unit(rng: np.random.Generator, shape: tuple[int, ...], _index: int) -> np.ndarray:
    """Draw multiples of 1/255 between 0 and 1, as pixels have."""
    return rng.integers(0, 256, shape).astype(np.float32) / np.float32(255)


def ties(rng: np.random.Generator, shape: tuple[int, ...], index: int) -> np.ndarray:
    """Draw multiples of 1/8 between -4 and 4 (exact ties for scales 1/4 and 1); sample 1 is wide instead.

    Wide means normal values times 10 to the power of something between -3 and 3, with both signed zeros.
    """
    if index == 0:
        return rng.integers(-32, 33, shape).astype(np.float32) / np.float32(8)
    x = rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 3, shape)
    x.flat[:2] = 0.0, -0.0
    return x.astype(np.float32)


def extremes(rng: np.random.Generator, shape: tuple[int, ...], index: int) -> np.ndarray:
    """As ``ties``, but sample 1 also has infinities, a NaN, and values around subnormals and maxima."""
    x = ties(rng, shape, index)
    if index:
        x.flat[2:11] = np.inf, -np.inf, np.nan, 448, 464, -480, 57344, 2.0**-9, 2.0**-10
    return x


# ------------ hand-made graphs


class Graph:
    """A graph under construction: every method adds something and returns the name of the tensor it makes.

    Parameters become initializers or, with ``constants=True``, outputs of Constant nodes.
    ``list_parameters=True`` lists the initializers among the graph inputs too, as IR version 3 demands and as
    older exporters did.
    """

    def __init__(
        self, opset: int = 13, ir: int = 8, *, constants: bool = False, list_parameters: bool = False
    ) -> None:
        self.opset, self.ir = opset, ir
        self.constants, self.list_parameters = constants, list_parameters
        self.imports: dict[str, int] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.shapes: list[onnx.ValueInfoProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._count = 0

    def fresh(self, prefix: str) -> str:
        """Return a tensor name that is not in use."""
        self._count += 1
        return f"{prefix}_{self._count}"

    def input(self, name: str, *shape: int | str) -> str:
        """Add a float graph input."""
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def param(self, value: object, dtype: type | None = np.float32, name: str | None = None) -> str:
        """Add a parameter; ``dtype=None`` keeps the dtype of the value."""
        array = np.asarray(value) if dtype is None else np.asarray(value, dtype=dtype)
        name = name or self.fresh("p")
        if self.constants:
            return self.node("Constant", out=name, value=numpy_helper.from_array(array))
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        """Add a 1-d int64 parameter."""
        return self.param(values, np.int64)

    def node(
        self, op: str, *inputs: str, out: str | None = None, domain: str = "", name: str = "", **attrs: Any
    ) -> str:
        """Add a node with one output; without ``name`` the node stays unnamed."""
        out = out or self.fresh(op.lower())
        self.nodes.append(helper.make_node(op, inputs, [out], name=name, domain=domain, **attrs))
        return out

    def quant(
        self,
        x: str,
        scale: object = 0.25,
        zero_point: object = 0.0,
        bits: object = 4.0,
        *,
        op: str = "Quant",
        domain: str = QONNX,
        out: str | None = None,
        **attrs: Any,
    ) -> str:
        """Add a Quant or IntQuant, by default signed and not narrow; a string parameter names a tensor."""
        names = [p if isinstance(p, str) else self.param(p) for p in (scale, zero_point, bits)]
        attrs = {"signed": 1, "narrow": 0} | attrs
        return self.node(op, x, *names, out=out, domain=domain, **attrs)

    def shape(self, name: str, *shape: int) -> str:
        """Store the shape of a tensor."""
        self.shapes.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def output(self, name: str, *shape: int | str, dtype: int = TensorProto.FLOAT) -> None:
        """Declare a tensor as graph output."""
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def model(self, name: str = "hand_made") -> ModelProto:
        """Assemble the model."""
        inputs = list(self.inputs)
        if self.list_parameters:
            inputs += [
                helper.make_tensor_value_info(p.name, p.data_type, list(p.dims)) for p in self.initializers
            ]
        graph = helper.make_graph(
            self.nodes, name, inputs, self.outputs, self.initializers, value_info=self.shapes
        )
        imports = [helper.make_opsetid("", self.opset)]
        imports += [helper.make_opsetid(domain, number) for domain, number in self.imports.items()]
        return helper.make_model(
            graph, opset_imports=imports, ir_version=self.ir, producer_name="make_models"
        )


def legacy_opset9_shape_chain() -> ModelProto:
    """A network like Brevitas wrote in 2021: its old domain without import, and a shape computed by nodes."""
    rng = np.random.default_rng(1)
    g = Graph(opset=9, ir=6, list_parameters=True)
    old = {"domain": BREVITAS}
    x = g.input("0", 1, 1, 4, 4)
    batch = g.node("Gather", g.node("Shape", x), g.param(0, np.int64, "10"), axis=0)
    shape = g.node("Concat", g.node("Unsqueeze", batch, axes=[0]), g.ints(-1), axis=0)
    x = g.node("Reshape", x, shape)
    x = g.node("Sub", g.node("Mul", x, g.param(2.0)), g.param([1.0]))
    x = g.quant(x, 1 / 128, bits=8.0, narrow=1, **old)
    for index, (inputs, outputs) in enumerate([(16, 12), (12, 8)]):
        weight = g.param(rng.normal(size=(outputs, inputs)), name=f"features.{index}.weight")
        weight = g.node("BipolarQuant", weight, g.param(0.5), domain=BREVITAS)
        x = g.node("MatMul", x, g.node("Transpose", weight, perm=[1, 0]))
        stats = [rng.uniform(0.5, 1.5, outputs), rng.normal(size=outputs), rng.normal(size=outputs)]
        stats.append(rng.uniform(1.0, 3.0, outputs))
        x = g.node("BatchNormalization", x, *map(g.param, stats), epsilon=1e-5, momentum=0.9)
        if index == 0:
            x = g.node("BipolarQuant", x, g.param([1.0]), domain=BREVITAS)
        else:
            x = g.quant(x, 0.5, bits=2.0, narrow=1, **old)
    weight = g.quant(
        g.param(rng.normal(size=(5, 8)), name="features.2.weight"), 0.4, bits=2.0, narrow=1, **old
    )
    x = g.node("MatMul", x, g.node("Transpose", weight, perm=[1, 0]))
    g.node("Add", g.node("Mul", x, g.param(0.7)), g.param(-0.125), out="77")
    g.output("77", 1, 5)
    return g.model()


def no_domain_quant() -> ModelProto:
    """Quant nodes in the default domain, where standard ONNX knows no such operator."""
    rng = np.random.default_rng(2)
    g = Graph(opset=9, ir=6, list_parameters=True)
    x = g.quant(g.input("input.1", 1, 6), 0.1, bits=8.0, domain="", rounding_mode="ROUND")
    weight = g.quant(
        g.param(rng.normal(size=(4, 6))), 0.3, bits=2.0, narrow=1, domain="", rounding_mode="ROUND"
    )
    x = g.node("MatMul", x, g.node("Transpose", weight, perm=[1, 0]))
    g.quant(g.node("Relu", x), 0.47, bits=2.0, signed=0, domain="", rounding_mode="ROUND", out="out")
    g.output("out", 1, 4)
    return g.model()


def finn_general_int64_bits() -> ModelProto:
    """What a QKeras converter wrote: FINN's domain, int64 widths and zero points, float64 scales."""
    rng = np.random.default_rng(3)
    g = Graph(opset=9, ir=4)

    def quant(x: str, scale: object, bits: int, **attrs: Any) -> str:
        parameters = (g.param(scale, np.float64), g.param(0, np.int64), g.param(bits, np.int64))
        return g.quant(x, *parameters, domain=FINN, rounding_mode="ROUND", **attrs)

    x = quant(g.input("input_1", 1, 6), 1 / 16, 8)
    weight = quant(g.param(rng.normal(size=(6, 5))), rng.uniform(0.05, 0.3, (1, 5)), 6, narrow=1)
    x = g.node("Add", g.node("MatMul", x, weight), quant(g.param(rng.normal(size=5)), 0.125, 4))
    x = quant(g.node("Relu", x), 0.3, 3, signed=0)
    weight = quant(g.param(rng.normal(size=(5, 3))), 1.0, 1)
    g.node("Softmax", g.node("MatMul", x, weight), axis=1, out="probabilities")
    g.output("probabilities", 1, 3)
    return g.model()


def quant_parameters() -> ModelProto:
    """One input, one output per way to parametrise Quant or IntQuant, computed parameters among them."""
    rng = np.random.default_rng(4)
    rows, columns = 2, 16
    g = Graph(opset=13, ir=8)
    g.imports[QONNX] = 1
    x = g.input("x", rows, columns)

    def case(name: str, *parameters: object, **attrs: Any) -> None:
        g.output(g.quant(x, *parameters, out=f"y_{name}", **attrs), rows, columns)

    for mode in ROUNDING_MODES:
        case(f"mode_{mode.lower()}", rounding_mode=mode)
        case(f"mode_{mode.lower()}_odd_zero_point", 0.25, 3.0, signed=0, rounding_mode=mode)
    case("mode_lower_case", rounding_mode="floor")
    case("mode_absent", op="IntQuant")
    case("narrow", narrow=1, op="IntQuant")
    case("unsigned", signed=0)
    case("unsigned_narrow", 0.05, 0.0, 8.0, signed=0, narrow=1)
    case("zero_point_fraction", 0.25, 2.5, signed=0)
    case("zero_point_per_channel", 0.25, rng.integers(0, 15, columns), signed=0)
    case("bits_1_signed", 0.5, 0.0, 1.0)
    case("bits_1_signed_zero_point", 0.5, 0.25, 1.0, narrow=1)
    case("bits_1_unsigned", 0.5, 0.0, 1.0, signed=0)
    case("bits_1_unsigned_narrow", 0.5, 0.0, 1.0, signed=0, narrow=1)
    case("bits_fraction", 0.25, 0.0, 2.5, op="IntQuant")
    case("bits_16", 2.0**-9, 0.0, 16.0)
    case("bits_24", 2.0**-16, 0.0, 24.0)
    case("bits_int64", 0.25, 0.0, g.param(3, np.int64))
    case("all_1d", [0.25], [1.0], [5.0])
    case("scale_per_column", rng.uniform(0.05, 1, columns))
    case("scale_per_row", rng.uniform(0.05, 1, (rows, 1)), narrow=1)
    case("scale_per_element", rng.uniform(0.05, 1, (rows, columns)))
    case("scale_negative", -0.25)

    largest = g.node("ReduceMax", g.node("Abs", x), keepdims=0)
    lowest = g.node("ReduceMin", x, keepdims=0)
    scale = g.node("Div", g.node("Add", largest, g.param(0.01)), g.param(7.0))
    case("computed_scale", scale)
    case(
        "computed_scale_per_row", g.node("Div", g.node("ReduceMax", g.node("Abs", x), axes=[1]), g.param(6.7))
    )
    case(
        "computed_zero_point",
        scale,
        g.node("Ceil", g.node("Neg", g.node("Div", lowest, scale))),
        5.0,
        signed=0,
    )
    levels = g.node("Add", g.node("Div", largest, g.param(0.27)), g.param(2.0))
    log2 = g.node("Div", g.node("Log", levels), g.node("Log", g.param(2.0)))
    case("computed_bits", 0.27, 0.0, g.node("Add", g.node("Ceil", log2), g.param(1.0)))
    constant_log2 = g.node("Div", g.node("Log", g.param(11.0)), g.node("Log", g.param(2.0)))
    case("constant_folded_bits", 0.25, 0.0, g.node("Ceil", constant_log2))
    case("computed_all", scale, g.node("Floor", g.node("Div", lowest, scale)), g.node("Ceil", log2))
    return g.model()


def floatquant_flags() -> ModelProto:
    """One output per FloatQuant variant: formats, has_inf, has_nan, saturation, scales, modes."""
    shape = (2, 24)
    g = Graph(opset=13, ir=8)
    g.imports[QONNX] = 1
    x = g.input("x", *shape)
    e4m3, e5m2, e3m2 = (4.0, 3.0, 7.0, 448.0), (5.0, 2.0, 15.0, 57344.0), (3.0, 2.0, 3.0, 28.0)
    per_channel = np.exp2(np.random.default_rng(5).integers(-4, 3, 24)) * 1.1

    def case(
        name: str, fmt: tuple[float, ...], scale: object = 1.0, mode: str | None = "ROUND", **flags: int
    ) -> None:
        attrs = {"has_inf": 0, "has_nan": 0, "has_subnormal": 1, "saturation": 1} | flags
        if mode is not None:
            attrs["rounding_mode"] = mode
        parameters = [g.param(value) for value in (scale, *fmt)]
        g.output(g.node("FloatQuant", x, *parameters, out=f"y_{name}", domain=QONNX, **attrs), *shape)

    case("e4m3_nan", e4m3, has_nan=1)
    case("e4m3_nan_overflow", e4m3, has_nan=1, saturation=0)
    case("e5m2_inf_nan", e5m2, has_inf=1, has_nan=1)
    case("e5m2_inf_nan_overflow", e5m2, 0.01, has_inf=1, has_nan=1, saturation=0)
    case("e5m2_inf_overflow", (5.0, 2.0, 15.0, 100.0), 1.0, has_inf=1, saturation=0)
    case("e3m2", e3m2, 0.5)
    case("e3m2_no_subnormal", e3m2, 0.5, has_subnormal=0)
    case("e2m1", (2.0, 1.0, 1.0, 6.0), 0.75)
    case("e4m3_max_above_format", (4.0, 3.0, 7.0, 1e6), 0.5)
    case("e4m3_bias", (4.0, 3.0, 11.0, 1e6), 1.0)
    case("per_channel", e4m3, per_channel)
    case("mode_absent", e3m2, 0.3, None)
    case("mode_floor", e3m2, 0.3, "FLOOR")
    case("mode_ceil", e3m2, 0.3, "CEIL")
    return g.model()


def trunc(inputs: int) -> ModelProto:
    """Trunc with five inputs (operator set 1) or six (set 2, which adds the output scale)."""
    shape = (2, 16)
    g = Graph(opset=13, ir=8)
    g.imports[QONNX] = inputs - 4
    x = g.quant(g.input("x", *shape), 1 / 16, bits=8.0, rounding_mode="ROUND", out="x_quant")

    def case(name: str, zero_point: float, out_bits: float, out_scale: float, **attrs: Any) -> None:
        values = (
            [1 / 16, zero_point, 8.0, out_bits]
            if inputs == 5
            else [1 / 16, zero_point, 8.0, out_scale, out_bits]
        )
        g.output(g.node("Trunc", x, *map(g.param, values), out=f"y_{name}", domain=QONNX, **attrs), *shape)

    for mode in ("FLOOR", "ROUND", "CEIL", "DOWN", "HALF_UP"):
        case(f"mode_{mode.lower()}", 0.0, 6.0, 1 / 4, rounding_mode=mode)
    case("zero_point", 3.0, 5.0, 1 / 2, rounding_mode="FLOOR")
    case("same_width", 0.0, 8.0, 1 / 16, rounding_mode="FLOOR")
    if inputs == 6:
        case("scale_no_power_of_two", 0.0, 5.0, 0.45, rounding_mode="FLOOR")
        case("saturates", 0.0, 3.0, 1 / 4, rounding_mode="ROUND", signed=1, narrow=1)
        case("unsigned", 0.0, 3.0, 1 / 4, rounding_mode="ROUND", signed=0, narrow=0)
    return g.model()


def multithreshold() -> ModelProto:
    """MultiThreshold in its layouts around a convolution and a classifier that ends in TopK and ArgMax."""
    rng = np.random.default_rng(6)
    g = Graph(opset=13, ir=8)
    g.imports[QONNX] = 1

    def threshold(x: str, channels: int, steps: int, **attrs: Any) -> str:
        values = np.sort(rng.normal(size=(channels, steps)), axis=1)
        return g.node("MultiThreshold", x, g.param(values), domain=QONNX, **attrs)

    x = g.input("x", 1, 3, 6, 6)
    x = threshold(x, 3, 7, out_dtype="INT4", out_bias=-4.0, data_layout="NCHW")
    weight = g.param(rng.integers(-3, 4, (4, 3, 3, 3)))
    x = g.node("Mul", g.node("Conv", x, weight, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), g.param(0.05))
    x = threshold(x, 4, 3, out_dtype="UINT2")
    x = g.node("Transpose", x, perm=[0, 2, 3, 1], out="nhwc")
    x = g.node("Mul", x, g.param([[[[0.4, -0.3, 0.2, 0.5]]]]))
    x = threshold(x, 4, 15, out_dtype="FLOAT32", out_scale=0.125, out_bias=-0.5, data_layout="NHWC")
    x = g.node("Reshape", x, g.ints(1, 144))
    x = g.node("MatMul", x, g.param(rng.normal(size=(144, 6)) / 4))
    x = threshold(x, 1, 15, out_dtype="UINT4")
    x = threshold(x, 6, 1, out_dtype="BIPOLAR", out_scale=2.0, out_bias=-1.0, data_layout="NC")
    x = g.node("MatMul", x, g.param(rng.normal(size=(6, 5))), out="logits")
    g.node("ArgMax", x, axis=1, keepdims=0, out="best")
    k = g.ints(2)
    g.nodes.append(
        helper.make_node("TopK", [x, k], ["top_values", "top_indices"], axis=-1, largest=1, sorted=1)
    )
    g.output("logits", 1, 5)
    g.output("best", 1, dtype=TensorProto.INT64)
    g.output("top_values", 1, 2)
    g.output("top_indices", 1, 2, dtype=TensorProto.INT64)
    return g.model()


def channels_last_conv() -> ModelProto:
    """Convolutions in QONNX' channels-last domain: input N, H, W, C and weights O, H, W, I.

    The shapes are stored, as in files that qonnx' own conversion wrote; without them qonnx cannot infer any.
    """
    rng = np.random.default_rng(7)
    g = Graph(opset=13, ir=8)
    g.imports |= {QONNX: 1, CHANNELS_LAST: 1}

    def layer(
        x: str, shape: list[int], inputs: int, *, group: int = 1, stride: int = 1, bias: bool = False
    ) -> str:
        outputs = shape[-1]
        weight = g.param(rng.normal(size=(outputs, 3, 3, inputs // group)))
        weight = g.quant(weight, rng.uniform(0.1, 0.4, (outputs, 1, 1, 1)), narrow=1, rounding_mode="ROUND")
        g.shape(weight, outputs, 3, 3, inputs // group)
        parameters = [weight] + ([g.param(rng.normal(size=outputs))] if bias else [])
        attrs = {"kernel_shape": [3, 3], "strides": [stride] * 2, "dilations": [1, 1], "group": group}
        x = g.node("Conv", x, *parameters, domain=CHANNELS_LAST, pads=[1, 1, 1, 1], **attrs)
        return g.shape(x, *shape)

    def act(x: str, shape: list[int], scale: float) -> str:
        x = g.shape(g.node("Relu", x), *shape)
        return g.shape(g.quant(x, scale, signed=0, rounding_mode="ROUND"), *shape)

    x = g.quant(g.input("image", 1, 8, 7, 3), 1 / 128, bits=8.0, rounding_mode="ROUND")
    x = g.shape(x, 1, 8, 7, 3)
    x = act(layer(x, [1, 8, 7, 4], 3), [1, 8, 7, 4], 0.2)
    x = act(layer(x, [1, 8, 7, 4], 4, group=4), [1, 8, 7, 4], 0.3)
    x = act(layer(x, [1, 4, 4, 6], 4, group=2, stride=2, bias=True), [1, 4, 4, 6], 0.3)
    x = layer(x, [1, 2, 2, 5], 6, stride=2, bias=True)
    g.node("ReduceMean", x, axes=[1, 2], keepdims=0, out="logits")
    g.output("logits", 1, 5)
    return g.model()


def opset6_gemm() -> ModelProto:
    """A float network as PyTorch 0.3 wrote it: Gemm with broadcast, BatchNormalization with is_test."""
    rng = np.random.default_rng(8)
    g = Graph(opset=6, ir=3, list_parameters=True)
    x = g.input("0", 2, 6)
    for inputs, outputs in ((6, 8), (8, 5)):
        weight, bias = g.param(rng.normal(size=(outputs, inputs))), g.param(rng.normal(size=outputs))
        x = g.node("Gemm", x, weight, bias, alpha=1.0, beta=1.0, broadcast=1, transB=1)
        x = g.node("Unsqueeze", x, axes=[2])
        stats = [rng.uniform(0.5, 1.5, outputs), rng.normal(size=outputs), rng.normal(size=outputs)]
        stats.append(rng.uniform(1.0, 3.0, outputs))
        x = g.node("BatchNormalization", x, *map(g.param, stats), epsilon=1e-5, is_test=1, momentum=0.9)
        x = g.node("Relu", g.node("Squeeze", x, axes=[2]))
    g.node("Softmax", x, axis=1, out="36")
    g.output("36", 2, 5)
    return g.model()


def constants_as_nodes() -> ModelProto:
    """No initializers at all, every node of the same name, Identity and Dropout in the way."""
    rng = np.random.default_rng(9)
    g = Graph(opset=13, ir=7, constants=True)
    g.imports[QONNX] = 1
    x = g.node("Identity", g.input("x", 1, 6))
    scale = g.node("Constant", value_float=0.0625)
    bits = g.node("Constant", value_floats=[8.0])
    zero = g.node("Identity", g.param(0.0))
    x = g.quant(x, scale, zero, bits, rounding_mode="ROUND")
    weight = g.quant(
        g.node("Identity", g.param(rng.normal(size=(8, 6)))), 0.2, zero, 4.0, rounding_mode="ROUND"
    )
    x = g.node("Gemm", x, weight, g.param(rng.normal(size=8)), transB=1)
    x = g.node("Dropout", x, g.param(0.5), g.param(False, np.bool_))
    x = g.quant(g.node("Relu", x), scale, zero, 4.0, signed=0, rounding_mode="ROUND")
    x = g.node("Reshape", x, g.node("Constant", value_ints=[1, 2, 4]))
    g.node("Mul", g.node("Dropout", x), g.param([0.5, 1.0, -1.0, 2.0]), out="y")
    g.output("y", 1, 2, 4)
    model = g.model()
    for node in model.graph.node:
        node.name = "node"
    return model


def external_data() -> ModelProto:
    """A two-layer network; ``save`` puts its tensors of 64 bytes or more into ``external_data.bin``."""
    rng = np.random.default_rng(10)
    g = Graph(opset=13, ir=8)
    g.imports[QONNX] = 1
    x = g.quant(g.input("x", 1, 12), 1 / 32, bits=8.0, rounding_mode="ROUND")
    weight = g.param(rng.normal(size=(16, 12)), name="fc1.weight")
    weight = g.quant(
        weight, g.param(rng.uniform(0.1, 0.3, (16, 1)), name="fc1.scale"), narrow=1, rounding_mode="ROUND"
    )
    x = g.node("Gemm", x, weight, g.param(rng.normal(size=16), name="fc1.bias"), transB=1)
    x = g.quant(g.node("Relu", x), 0.3, signed=0, rounding_mode="ROUND")
    weight = g.quant(
        g.param(rng.normal(size=(5, 16)), name="fc2.weight"), 0.25, narrow=1, rounding_mode="ROUND"
    )
    g.node("Gemm", x, weight, g.param(rng.normal(size=5), name="fc2.bias"), transB=1, out="y")
    g.output("y", 1, 5)
    return g.model()


def newest_opset() -> ModelProto:
    """Opset 25 and IR 13: axes as input, allowzero, Split with num_outputs, and Quant nodes in between."""
    rng = np.random.default_rng(11)
    g = Graph(opset=25, ir=13)
    g.imports[QONNX] = 2
    x = g.quant(g.input("x", 1, 4, 6, 6), 1 / 64, bits=8.0, rounding_mode="ROUND")
    weight = g.quant(g.param(rng.normal(size=(6, 4, 3, 3))), 0.15, narrow=1, rounding_mode="HALF_EVEN")
    x = g.node("Conv", x, weight, g.param(rng.normal(size=6)), kernel_shape=[3, 3])
    x = g.quant(g.node("Relu", x), 0.3, signed=0, rounding_mode="ROUND")
    x = g.node("ReduceMean", x, g.ints(2, 3), keepdims=1)
    x = g.node("Reshape", x, g.ints(1, 6), allowzero=1)
    g.nodes.append(helper.make_node("Split", [x], ["left", "right"], axis=1, num_outputs=2))
    x = g.quant(g.node("Sub", "left", "right"), 0.05, bits=6.0, rounding_mode="ROUND")
    g.node("Gelu", x, approximate="tanh", out="y")
    g.output("y", 1, 3)
    return g.model()


def multi_io() -> ModelProto:
    """Two inputs, three outputs, one of them an input passed through, and optional inputs left empty."""
    g = Graph(opset=13, ir=8)
    g.imports[QONNX] = 1
    a, b = g.input("a", 1, 3, 4, 5), g.input("b", 1, 3, 4, 5)
    left = g.quant(a, 0.1, bits=6.0, rounding_mode="ROUND")
    right = g.quant(b, [[[[0.1]], [[0.2]], [[0.05]]]], rounding_mode="ROUND")
    total = g.node("Add", left, right)
    g.node("Clip", total, "", g.param(1.25), out="clipped")
    resize = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    g.node("Resize", total, "", g.param([1, 1, 2, 2]), out="enlarged", **resize)
    g.node("Identity", a, out="a_again")
    g.output("clipped", 1, 3, 4, 5)
    g.output("enlarged", 1, 3, 8, 10)
    g.output("a_again", 1, 3, 4, 5)
    return g.model()


def reshape_batch1() -> ModelProto:
    """A network frozen at batch 1 by the constants of its Reshapes: [1, -1] and [1, c, h, w]."""
    rng = np.random.default_rng(12)
    g = Graph(opset=13, ir=8)
    g.imports[QONNX] = 1

    def weight(*shape: int) -> str:
        return g.quant(g.param(rng.normal(size=shape)), 0.2, narrow=1, rounding_mode="ROUND")

    def activation(x: str) -> str:
        return g.quant(g.node("Relu", x), 0.37, signed=0, rounding_mode="ROUND")

    x = g.quant(g.input("image", 1, 2, 8, 8), 1 / 64, bits=8.0, rounding_mode="ROUND")
    x = activation(g.node("Conv", x, weight(4, 2, 3, 3), kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    x = g.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = g.node("Reshape", x, g.ints(1, -1), out="flat")
    x = activation(g.node("MatMul", x, weight(64, 18)))
    x = g.node("Reshape", x, g.ints(1, 2, 3, 3), out="unflat")
    x = activation(g.node("Conv", x, weight(3, 2, 2, 2), kernel_shape=[2, 2]))
    x = g.node("Reshape", x, g.ints(1, 12))
    g.node("Gemm", x, weight(5, 12), g.param(rng.normal(size=5)), transB=1, out="logits")
    g.output("logits", 1, 5)
    return onnx.shape_inference.infer_shapes(g.model())


# ------------ Brevitas networks


def activation(bits: int, *, signed: bool = False, **options: Any) -> nn.Module:
    """Return a quantized ReLU, or with ``signed`` a quantized identity."""
    if signed:
        return qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=bits, **options)
    return qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, bit_width=bits, **options)


def linear(inputs: int, outputs: int, bits: int | None = 4, **options: Any) -> nn.Module:
    """Return a quantized linear layer with one weight scale."""
    options = {"bias": True, "weight_quant": Int8WeightPerTensorFloat, "weight_bit_width": bits} | options
    return qnn.QuantLinear(inputs, outputs, **options)


def conv(inputs: int, outputs: int, bits: int | None = 4, **options: Any) -> nn.Module:
    """Return a quantized 3x3 convolution with one weight scale per output channel and no bias."""
    options = {
        "padding": 1,
        "bias": False,
        "weight_quant": Int8WeightPerChannelFloat,
        "weight_bit_width": bits,
    } | options
    return qnn.QuantConv2d(inputs, outputs, 3, **options)


def mlp_w2a2() -> nn.Module:
    """Two-bit weights and activations, as in FINN's TFC networks."""
    return nn.Sequential(
        activation(8, signed=True),
        linear(16, 24, 2, bias=False),
        nn.BatchNorm1d(24),
        activation(2, signed=True),
        linear(24, 20, 2, bias=False),
        nn.BatchNorm1d(20),
        activation(2),
        linear(20, 6, 2),
    )


def conv_per_channel() -> nn.Module:
    """Convolutions with a scale per output channel, pooling and a classifier."""
    return nn.Sequential(
        activation(8, signed=True),
        conv(2, 6),
        nn.BatchNorm2d(6),
        activation(4),
        nn.MaxPool2d(2),
        conv(6, 8, 3, groups=2),
        nn.BatchNorm2d(8),
        activation(3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        linear(32, 5, weight_quant=Int8WeightPerChannelFloat),
    )


class ConvTrunc(nn.Module):
    """An average pool whose division is a truncation (rounding mode FLOOR), signed and unsigned."""

    def __init__(self) -> None:
        super().__init__()
        pool = {"kernel_size": 2, "trunc_quant": TruncTo8bit, "return_quant_tensor": True}
        self.quant_in = activation(8, signed=True)
        self.conv = conv(2, 4, padding=0)
        self.act = activation(6, return_quant_tensor=True)
        self.pool = qnn.TruncAvgPool2d(bit_width=4, **pool)
        self.signed = activation(6, signed=True, return_quant_tensor=True)
        self.pool_signed = qnn.TruncAvgPool2d(bit_width=5, **(pool | {"return_quant_tensor": False}))
        self.fc = linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        x = self.pool(self.act(self.conv(self.quant_in(x))))
        x = self.pool_signed(self.signed(x.value if hasattr(x, "value") else x))
        return self.fc(torch.flatten(x, 1))


def fp8() -> nn.Module:
    """Eight-bit floats (OCP e4m3) for weights and activations."""
    formats = {"weight_quant": Fp8e4m3OCPWeightPerTensorFloat}
    return nn.Sequential(
        qnn.QuantIdentity(act_quant=Fp8e4m3OCPActPerTensorFloat),
        conv(2, 4, None, **formats),
        qnn.QuantReLU(act_quant=Fp8e4m3OCPActPerTensorFloat),
        nn.Flatten(),
        linear(144, 5, None, **formats),
    )


def bipolar_mlp() -> nn.Module:
    """One-bit weights and activations."""
    binary = {"weight_quant": SignedBinaryWeightPerTensorConst, "bias": False}
    return nn.Sequential(
        qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst),
        linear(16, 24, 1, **binary),
        nn.BatchNorm1d(24),
        qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst),
        linear(24, 6, 1, **binary),
        nn.BatchNorm1d(6),
    )


def round_to_zero() -> nn.Module:
    """A rounding mode for which Brevitas writes a name that QONNX does not have."""
    mode = {"float_to_int_impl_type": "ROUND_TO_ZERO"}
    return nn.Sequential(
        activation(8, signed=True, **mode),
        linear(16, 12),
        activation(4, **mode),
        linear(12, 6),
    )


class ResidualConcat(nn.Module):
    """Addition and concatenation with a shared quantizer, transposed convolution, nearest upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = activation(6, signed=True)
        self.conv1, self.bn1 = conv(3, 4), nn.BatchNorm2d(4)
        self.conv2, self.act2 = conv(4, 4, groups=4), activation(4)
        self.down, self.act_down = conv(8, 6, stride=2), activation(4)
        self.up = qnn.QuantConvTranspose2d(
            6, 4, 2, stride=2, weight_quant=Int8WeightPerTensorFloat, weight_bit_width=4, bias=True
        )
        self.conv3 = conv(10, 2, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        x = self.shared(self.bn1(self.conv1(self.shared(x))))
        y = self.act2(self.conv2(x))
        x = self.shared(x + self.shared(y))
        low = self.act_down(self.down(torch.cat([x, y], 1)))
        up = self.shared(self.up(low))
        return self.conv3(torch.cat([up, nn.functional.interpolate(low, scale_factor=2, mode="nearest")], 1))


class Attention(nn.Module):
    """A transformer block of two heads, every operand of a matrix product quantized."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.quant_in, self.norm1, self.norm2 = (
            activation(8, signed=True),
            nn.LayerNorm(width),
            nn.LayerNorm(width),
        )
        self.qkv = nn.ModuleList(linear(width, width, bias=bias) for bias in (True, True, False))
        self.act_qkv = nn.ModuleList(activation(6, signed=True) for _ in range(3))
        self.act_scores = qnn.QuantIdentity(act_quant=Uint8ActPerTensorFloat, bit_width=6)
        self.act_context, self.proj = activation(6, signed=True), linear(width, width)
        self.act_norm, self.up, self.down = activation(8, signed=True), linear(width, 24), linear(24, width)
        self.act_hidden, self.shared = activation(4), activation(8, signed=True)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on a batch of sequences (N, length, width)."""
        batch, length, width = x.shape
        x = self.shared(x)
        hidden = self.quant_in(self.norm1(x))
        split = [
            act(layer(hidden)).reshape(batch, length, self.heads, -1).transpose(1, 2)
            for layer, act in zip(self.qkv, self.act_qkv, strict=True)
        ]
        scores = split[0] @ split[1].transpose(-2, -1) / (width // self.heads) ** 0.5
        context = self.act_scores(torch.softmax(scores, -1)) @ split[2]
        context = context.transpose(1, 2).reshape(batch, length, width)
        x = self.shared(x + self.proj(self.act_context(context)))
        return x + self.down(self.act_hidden(self.up(self.act_norm(self.norm2(x)))))


def mlp_qcdq() -> nn.Module:
    """What QuantizeLinear, Clip and DequantizeLinear can express, an asymmetric activation among it."""
    return nn.Sequential(
        activation(8, signed=True, return_quant_tensor=True),
        linear(
            16, 12, 4, weight_quant=Int8WeightPerChannelFloat, bias_quant=Int8Bias, return_quant_tensor=False
        ),
        activation(4),
        linear(12, 10, 8),
        qnn.QuantIdentity(act_quant=ShiftedUint8ActPerTensorFloat, bit_width=8),
        linear(10, 6, 2),
    )


def dynamic_batch() -> nn.Module:
    """A small convolutional network to be exported with a symbolic batch size."""
    return nn.Sequential(
        activation(8, signed=True),
        conv(1, 4),
        nn.BatchNorm2d(4),
        activation(4),
        nn.MaxPool2d(2),
        nn.Flatten(),
        linear(36, 5),
    )


def calibrated(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> nn.Module:
    """Build a network with random weights and let it see random inputs, which fixes the activations' scales.

    Five passes in training mode also collect the batch statistics; there is no learning.
    """
    torch.manual_seed(zlib.crc32(build.__name__.encode()))
    model = build().train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
        for _ in range(5):
            model(torch.randn(32, *shape))
    return model.eval()


def brevitas(
    build: Callable[[], nn.Module],
    *shape: int,
    dynamo: bool = False,
    qcdq: bool = False,
    dynamic: bool = False,
) -> Callable[[], ModelProto]:
    """Return a function that builds, calibrates and exports a network with random weights."""

    def export() -> ModelProto:
        model = calibrated(build, shape)
        options: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"], "dynamo": dynamo}
        if dynamo:
            options |= {"optimize": True, "external_data": False, "verbose": False}
        if dynamic:
            options["dynamic_axes"] = {"input": {0: "batch"}, "output": {0: "batch"}}
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "model.onnx")
            (export_onnx_qcdq if qcdq else export_qonnx)(
                model, args=torch.randn(1, *shape), export_path=path, **options
            )
            return without_traces(onnx.load(path))

    return export


def without_traces(model: ModelProto) -> ModelProto:
    """Remove notes of the dynamo exporter: stack traces hold local paths, the others are merely long.

    Namespaces, class hierarchies and name scopes stay, and everything that has a meaning for the graph.
    """
    for owner in (model.graph, *model.graph.node):
        kept = [entry for entry in owner.metadata_props if not entry.key.endswith(UNWANTED_NOTES)]
        del owner.metadata_props[:]
        owner.metadata_props.extend(kept)
    return model


# ------------ repairs, on a copy for the reference


def set_domain(model: ModelProto) -> None:
    """Move quantizers to QONNX' domain, as clean-up does; without it the stored graph has no shapes."""
    for node in model.graph.node:
        if node.op_type in QUANT_OPS:
            node.domain = QONNX
    model.opset_import.append(helper.make_opsetid(QONNX, 1))


def name_rounding_mode(model: ModelProto) -> None:
    """Write Brevitas' ROUND_TO_ZERO as DOWN, which is QONNX' name for it; qonnx refuses the former."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "rounding_mode" and attribute.s == b"ROUND_TO_ZERO":
                attribute.s = b"DOWN"


def fix_batch(model: ModelProto, batch: int) -> None:
    """Replace symbolic dimensions by a number and drop inferred shapes: qonnx executes static shapes only."""
    del model.graph.value_info[:]
    for tensor in (*model.graph.input, *model.graph.output):
        for dim in tensor.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = batch


# ------------ goldens


def free_inputs(model: ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the graph inputs that are not initializers."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    return [tensor for tensor in model.graph.input if tensor.name not in initializers]


def draw(case: Case, model: ModelProto, index: int) -> list[np.ndarray]:
    """Draw the inputs of one sample; a symbolic dimension becomes the sample's batch size."""
    rng = np.random.default_rng([zlib.crc32(case.name.encode()), index])
    shapes = [
        [dim.dim_value or case.batches[index] for dim in t.type.tensor_type.shape.dim]
        for t in free_inputs(model)
    ]
    return [case.sampler(rng, tuple(shape), index) for shape in shapes]


def run_qonnx(case: Case, stored: ModelProto, inputs: list[np.ndarray]) -> tuple[list[np.ndarray], Arrays]:
    """Return the outputs of the cleaned graph, and what the nodes of the stored graph compute in between."""
    model = copy.deepcopy(stored)
    for repair in case.repairs:
        repair(model)
    if case.dynamic:
        fix_batch(model, len(inputs[0]))
    names = [tensor.name for tensor in free_inputs(model)]

    clean = cleanup_model(ModelWrapper(copy.deepcopy(model)))
    clean_names = [tensor.name for tensor in clean.graph.input]
    assert len(clean_names) == len(names), "clean-up changed the number of inputs"
    result = execute_onnx(clean, dict(zip(clean_names, inputs, strict=True)))
    outputs = [result[tensor.name] for tensor in clean.graph.output]

    raw = ModelWrapper(model).transform(InferShapes())
    context = execute_onnx(raw, dict(zip(names, inputs, strict=True)), return_full_exec_context=True)
    for tensor, output in zip(stored.graph.output, outputs, strict=True):
        np.testing.assert_array_equal(context[tensor.name], output, err_msg=f"{case.name}: {tensor.name}")
    return outputs, between(stored, context)


def run_reference(
    _case: Case, stored: ModelProto, inputs: list[np.ndarray]
) -> tuple[list[np.ndarray], Arrays]:
    """Execute with onnx.reference, once for the outputs and once more for what lies between."""
    feed = dict(zip([tensor.name for tensor in free_inputs(stored)], inputs, strict=True))
    evaluator = onnx.reference.ReferenceEvaluator(stored)
    outputs = evaluator.run(None, feed)
    context = evaluator.run(None, feed, intermediate=True)
    return outputs, between(stored, context)


def between(stored: ModelProto, context: Arrays) -> Arrays:
    """Keep the tensors that nodes compute, without constants and graph outputs."""
    skip = {tensor.name for tensor in stored.graph.output} | {""}
    nodes = [node for node in stored.graph.node if node.op_type != "Constant"]
    return {name: np.asarray(context[name]) for node in nodes for name in node.output if name not in skip}


REFERENCES = {"qonnx": run_qonnx, "onnx.reference": run_reference}


# ------------ the table


@dataclass(frozen=True)
class Case:
    """One row: a model, its inputs, its reference and what it is there for."""

    name: str
    build: Callable[[], ModelProto]
    about: str
    sampler: Sampler = normal
    reference: str = "qonnx"
    repairs: tuple[Repair, ...] = ()
    batches: tuple[int, ...] = field(default=())

    @property
    def dynamic(self) -> bool:
        """Whether the batch size is symbolic."""
        return bool(self.batches)


CASES = (
    Case(
        "brevitas_mlp_w2a2",
        brevitas(mlp_w2a2, 16),
        "2-bit MLP, per-tensor scales; TorchScript-based exporter",
    ),
    Case(
        "brevitas_conv_per_channel",
        brevitas(conv_per_channel, 2, 8, 8, dynamo=True),
        "convolutions (one grouped) with a scale per channel, MaxPool, Gemm; dynamo-based exporter",
    ),
    Case(
        "brevitas_conv_trunc",
        brevitas(ConvTrunc, 2, 10, 10),
        "average pools that truncate (Trunc with six inputs, FLOOR)",
    ),
    Case(
        "brevitas_fp8",
        brevitas(fp8, 2, 6, 6),
        "FloatQuant, OCP e4m3 weights and activations",
    ),
    Case(
        "brevitas_bipolar_mlp",
        brevitas(bipolar_mlp, 16),
        "BipolarQuant weights and activations",
    ),
    Case(
        "brevitas_round_to_zero",
        brevitas(round_to_zero, 16),
        "rounding mode ROUND_TO_ZERO, which is no QONNX name",
        repairs=(name_rounding_mode,),
    ),
    Case(
        "brevitas_residual_concat",
        brevitas(ResidualConcat, 3, 8, 8),
        "Add, Concat, ConvTranspose, Resize, depthwise and strided Conv; one quantizer shared by five places",
    ),
    Case(
        "brevitas_attention",
        brevitas(Attention, 6, 16, dynamo=True),
        "transformer block: MatMul, Softmax, LayerNormalization, Reshape, Transpose; dynamo-based exporter",
    ),
    Case(
        "brevitas_mlp_qcdq",
        brevitas(mlp_qcdq, 16, qcdq=True),
        "Brevitas' QCDQ export: QuantizeLinear, Clip, DequantizeLinear; a zero point, an 8-bit bias",
    ),
    Case(
        "brevitas_dynamic_batch",
        brevitas(dynamic_batch, 1, 6, 6, dynamic=True),
        "symbolic batch size; sample 0 has batch 3, sample 1 batch 2",
        batches=(3, 2),
    ),
    Case(
        "legacy_opset9_shape_chain",
        legacy_opset9_shape_chain,
        "domain onnx.brevitas without import, opset 9, IR 6, initializers among the inputs, input named 0, "
        "unnamed nodes, shape chain before Reshape, 2 * x - 1, Quant without rounding_mode",
        sampler=unit,
    ),
    Case(
        "no_domain_quant",
        no_domain_quant,
        "Quant in the default domain, opset 9",
        repairs=(set_domain,),
    ),
    Case(
        "finn_general_int64_bits",
        finn_general_int64_bits,
        "domain finn.custom_op.general without import, opset 9; int64 bit widths and zero points, "
        "float64 scales, a signed 1-bit weight",
    ),
    Case(
        "quant_parameters",
        quant_parameters,
        "Quant and IntQuant: rounding modes, zero points, widths, scale shapes, parameters computed by nodes",
        sampler=ties,
    ),
    Case(
        "floatquant_flags",
        floatquant_flags,
        "FloatQuant formats and flags; sample 1 has infinities and NaN",
        sampler=extremes,
    ),
    Case("trunc_v1", lambda: trunc(5), "Trunc with five inputs (operator set 1)", sampler=ties),
    Case("trunc_v2", lambda: trunc(6), "Trunc with six inputs (operator set 2)", sampler=ties),
    Case(
        "multithreshold",
        multithreshold,
        "MultiThreshold NCHW, NHWC, NC and global, out_scale, out_bias; Conv, MatMul, TopK, ArgMax",
    ),
    Case(
        "channels_last_conv",
        channels_last_conv,
        "Conv of qonnx.custom_op.channels_last with and without bias, grouped, depthwise, strided",
    ),
    Case(
        "opset6_gemm",
        opset6_gemm,
        "float; IR 3, opset 6: Gemm with broadcast, BatchNormalization with is_test, axes as attributes",
        reference="onnx.reference",
    ),
    Case(
        "constants_as_nodes",
        constants_as_nodes,
        "all parameters from Constant nodes of several kinds, all node names equal, Identity, Dropout",
    ),
    Case("external_data", external_data, "larger tensors in external_data.bin beside the file"),
    Case(
        "newest_opset",
        newest_opset,
        "opset 25, IR 13: ReduceMean with axes input, Reshape with allowzero, Split with num_outputs, Gelu",
    ),
    Case(
        "multi_io",
        multi_io,
        "two inputs, three outputs, an input passed on by Identity, empty optional inputs (Clip, Resize)",
    ),
    Case(
        "reshape_batch1",
        reshape_batch1,
        "frozen at batch 1 by constant Reshapes [1, -1], [1, c, h, w] and [1, 12], with stored shapes",
    ),
)


# ------------ writing


def save(case: Case, model: ModelProto, folder: Path) -> ModelProto:
    """Store the model, for ``external_data`` in two files, and return it as loaded again."""
    path = folder / f"{case.name}.onnx"
    if case.name == "external_data":
        data = folder / "external_data.bin"
        data.unlink(missing_ok=True)  # onnx would append to it
        options = {"save_as_external_data": True, "location": data.name, "size_threshold": 64}
        onnx.save(model, path, **options)
    else:
        onnx.save(model, path)
    return onnx.load(path)


def goldens(case: Case, model: ModelProto) -> Arrays:
    """Draw the samples, execute the reference and name the arrays."""
    arrays: Arrays = {}
    for index in range(SAMPLES):
        inputs = draw(case, model, index)
        outputs, between_ = REFERENCES[case.reference](case, model, [x.copy() for x in inputs])
        arrays |= {f"in{i}_s{index}": x for i, x in enumerate(inputs)}
        arrays |= {f"out{i}_s{index}": x for i, x in enumerate(outputs)}
        if index == 0:
            arrays |= {f"mid_s0/{name}": x for name, x in between_.items()}
    return arrays


def describe_reference(case: Case) -> str:
    """Say in words how the goldens were made."""
    names = [repair.__name__ for repair in case.repairs] + ["fix_batch"] * case.dynamic
    return case.reference + (" after " + ", ".join(f"`{name}`" for name in names) if names else "")


def readme(rows: Iterable[str]) -> str:
    """Return the text of README.md."""
    packages = ("torch", "brevitas", "onnxoptimizer", "qonnx", "onnx", "onnxruntime")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    text = io.StringIO()
    text.write(f"""# Test models

Written by `make_models.py` (this file too); all of it is the project's own work, with random weights.
`NAME.onnx` is the model, `NAME.npz` has two samples: `in<i>_s<k>` and `out<i>_s<k>` for sample k, where i
counts the graph inputs that are not initializers, or the graph outputs, and `mid_s0/<tensor>` for what the
nodes compute in between for sample 0.

Golden values come from qonnx (`cleanup_model`, then `execute_onnx`), which computes standard operators with
onnxruntime, and for `opset6_gemm` from `onnx.reference`, because neither of the two runs it. The values in
between come from qonnx on the stored graph; the script checks that both ways give exactly the same outputs.
"after `f`" means that qonnx got an equivalent copy, made by the function `f` of `make_models.py`, since it
cannot execute the file as stored; the function says why. Notes of the dynamo-based exporter that hold stack
traces, FX nodes and the graph signature are removed from its files (local paths, and size).

Made with {versions}.

| model | what it is there for | nodes | opsets | golden |
|---|---|---|---|---|
""")
    text.writelines(f"{row}\n" for row in rows)
    return text.getvalue()


def row(case: Case, model: ModelProto) -> str:
    """Return the line of the README's table."""
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    operators = ", ".join(f"{op} {count}" if count > 1 else op for op, count in sorted(counts.items()))
    opsets = ", ".join(f"{entry.domain or 'onnx'} {entry.version}" for entry in model.opset_import)
    cells = [
        f"`{case.name}`",
        case.about,
        operators,
        f"{opsets} (IR {model.ir_version})",
        describe_reference(case),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="output folder")
    parser.add_argument(
        "--only", nargs="*", help="names of the models to write (README.md is then left alone)"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    onnxruntime.set_default_logger_severity(3)
    torch.set_num_threads(1)

    rows = []
    for case in CASES:
        if arguments.only and case.name not in arguments.only:
            continue
        model = save(case, case.build(), arguments.out)
        arrays = goldens(case, model)
        np.savez_compressed(arguments.out / f"{case.name}.npz", **arrays)
        rows.append(row(case, model))
        between_ = sum(key.startswith("mid_") for key in arrays)
        print(f"{case.name}: {len(model.graph.node)} nodes, {between_} tensors in between")
    if not arguments.only:
        (arguments.out / "README.md").write_text(readme(rows))


if __name__ == "__main__":
    main()
