"""Model-local functions that let plain ONNX runtimes execute QONNX operators with qonnx's numbers.

:func:`attach_functions` gives every QONNX node a ``FunctionProto`` of standard operators. One operator has
several behaviours (rounding mode, 1-bit width, element types); each is its own function *overload* with a
readable name (``ROUND``, ``FLOOR``, ``BIPOLAR``, ``ROUND_DOUBLE``), so a body holds neither strings nor
``If``. ``signed``, ``narrow`` and similar numbers stay attribute references. The nodes themselves stay QONNX
nodes: qonnx, hls4ml and FINN ignore the overload and the functions.

Attach last: version converters and optimizers drop or inline functions, and a pass that edits an attribute, a
bit width or a type leaves the overload stale until :func:`refresh_functions` is called.

Runtimes. onnxruntime resolves overloads from 1.27 on. Older ones ignore them: a file that uses two variants
of one operator loads there without complaint and computes both with the same body, hence wrong values; inline
the functions for those, with onnx_ir's ``InlinePass`` (``onnx.inliner`` of onnx 1.23 forgets the defaults of
absent attributes).

Element types. qonnx computes in NumPy, so every step runs in the NumPy promotion of its operands: float32
``x`` over a float64 scale, or plus an int64 zero point, continues in float64, and the end is cast to float32.
Each body is specialised for the steps that need float64: ``ROUND_DOUBLE`` does all steps in float64,
``ROUND_DOUBLE_SUM`` only the named one. Types come from initializers, constants, declared types
and, failing these, shape inference; a type that stays unknown is taken to be float32. Outputs are float32
unless the model declares float16, bfloat16 or float64 for them (``..._TO_FLOAT16``).

Known exceptions to equality with qonnx 1.0.0, bit for bit:

* Graph optimisation may remove ``+ 0`` (onnxruntime, constant zero point 0): -0.0 then keeps its sign, where
  qonnx gives +0.0. The values are equal. Without optimisation the bits are equal, too.
* If *all* floating-point operands are float16 or bfloat16, NumPy rounds each step to that type; the functions
  compute in float32.
* A fractional bit width needs ``2 ** width``; runtimes and NumPy builds may differ in its last place.
* FloatQuant takes ``floor(log2(|x|))``, and a float32 log2 rounds up to k for values just below ``2 ** k``,
  which shows in the modes CEIL, FLOOR and DOWN. The functions reproduce a *correctly rounded* log2, found
  equal to NumPy's on x86 with and without AVX-512; a platform whose log2 rounds otherwise may differ within a
  few ulp of ``2 ** k``. Likewise NumPy's AVX-512 ``exp2(127)`` is one ulp off; it matters only for 0 mantissa
  bits and ``|x| >= 2 ** 127``.
* Trunc version 2 rounds ``log2(out_scale / scale)``; in float64 a ratio within an ulp of ``2 ** (k + 0.5)``
  may go to the other neighbour.
* A QONNX node inside another model-local function gets its function, too, but onnxruntime 1.32 does not
  resolve overloads there: inline such functions first.
* Channels-last Conv sums in the order of the runtime's own convolution kernel.

Source: QONNX operator specification, qonnx 1.0.0; where text and code disagree, the code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import AttributeProto, TensorProto, numpy_helper, shape_inference
from onnx_ir.passes.common import InlinePass
from onnxscript import opset15, script
from onnxscript.onnx_types import TensorType
from onnxscript.values import OnnxFunction, Opset

__all__ = ["attach_functions", "refresh_functions", "strip_functions"]

if TYPE_CHECKING:
    Tensor = Any
    Script = OnnxFunction[..., Any]
else:
    Tensor = TensorType
    Script = OnnxFunction

MIN_OPSET: Final = 15
"""CastLike, which the bodies use, is there from this operator set on."""
MIN_IR_VERSION: Final = 10
"""Function overloads are there from this IR version on."""

FLOAT: Final = int(TensorProto.FLOAT)
DOUBLE: Final = int(TensorProto.DOUBLE)


def _scalar(value: float, elem_type: int = FLOAT) -> TensorProto:
    """Return a 0-d tensor: values that Python literals in a script cannot give (float64, infinity, NaN)."""
    return onnx.helper.make_tensor("value", elem_type, [], [value])


LN2: Final = _scalar(float(np.log(2.0)), DOUBLE)
INFINITY: Final = _scalar(float("inf"))
NAN: Final = _scalar(float("nan"))
TINY: Final = {
    FLOAT: _scalar(float(np.finfo(np.float32).tiny), FLOAT),
    DOUBLE: _scalar(float(np.finfo(np.float64).tiny), DOUBLE),
}

# Typed Any: the operators' own signatures tie the types of inputs together, which Cast must be free of.
op: Any = opset15
_LOCAL: Final = Opset("qonnx_torch.local", 1)


# ----------------------------------------------------------------------------------------------------
# Pieces: scripts that the bodies call. They are inlined when a body is built and never reach a model.
# ----------------------------------------------------------------------------------------------------


@script(_LOCAL, default_opset=opset15)
def half_even(v: Tensor) -> Tensor:
    """Round to nearest, ties to even: 2.5 -> 2."""
    return op.Round(v)


@script(_LOCAL, default_opset=opset15)
def ceil(v: Tensor) -> Tensor:
    """Round up."""
    return op.Ceil(v)


@script(_LOCAL, default_opset=opset15)
def floor(v: Tensor) -> Tensor:
    """Round down."""
    return op.Floor(v)


@script(_LOCAL, default_opset=opset15)
def away_from_zero(v: Tensor) -> Tensor:
    """Round away from zero: -2.1 -> -3."""
    return op.Sign(v) * op.Ceil(op.Abs(v))


@script(_LOCAL, default_opset=opset15)
def toward_zero(v: Tensor) -> Tensor:
    """Round toward zero: -2.9 -> -2, and -0.5 -> -0.0."""
    # This way round: onnxruntime's Where turns a -0.0 of its second input, not of its third, into 0.0.
    return op.Where(v > 0.0, op.Floor(v), op.Ceil(v))


@script(_LOCAL, default_opset=opset15)
def half_away_from_zero(v: Tensor) -> Tensor:
    """Round to nearest, ties away from zero; by this very formula, so 0.49999997 -> 1 in float32."""
    return op.Sign(v) * op.Floor(op.Abs(v) + 0.5)


@script(_LOCAL, default_opset=opset15)
def half_toward_zero(v: Tensor) -> Tensor:
    """Round to nearest, ties toward zero; by this very formula, so 0.0 -> -0.0."""
    return op.Sign(v) * op.Ceil(op.Abs(v) - 0.5)


@script(_LOCAL, default_opset=opset15)
def to_bipolar(v: Tensor) -> Tensor:
    """Return 1 for v >= 0 (both zeros) and else -1 (NaN, too)."""
    return op.Where(v >= 0.0, op.CastLike(1.0, v), op.CastLike(-1.0, v))


@script(_LOCAL, default_opset=opset15)
def clamp_to_width(v: Tensor, width: Tensor, signed: Tensor, narrow: Tensor) -> Tensor:
    """Clamp to [-2^(b-1) + narrow, 2^(b-1) - 1] if signed, else [0, 2^b - 1 - narrow]; NaN and -0.0 pass."""
    is_signed = op.CastLike(signed, width)
    is_narrow = op.CastLike(narrow, width)
    power = op.Pow(op.CastLike(2.0, width), width - is_signed)
    # One subtraction, as in qonnx: from 25 bits on, two would round differently.
    high = op.CastLike(power - (1.0 + (1.0 - is_signed) * is_narrow), v)
    low = op.CastLike(is_signed * is_narrow - is_signed * power, v)
    below = op.Where(v > high, high, v)
    return op.Where(below < low, low, below)


@script(_LOCAL, default_opset=opset15)
def log2_of_float(v: Tensor) -> Tensor:
    """log2 of a float32 value, correctly rounded: taken in float64."""
    log = op.Log(op.Cast(v, to=DOUBLE)) / op.Constant(value=LN2)
    return op.Cast(log, to=FLOAT)


@script(_LOCAL, default_opset=opset15)
def log2_of_double(v: Tensor) -> Tensor:
    """log2 of a float64 value; near 2^k from the exact v / 2^k - 1, hence correctly rounded there."""
    log = op.Log(v) / op.Constant(value=LN2)
    exponent = op.Round(log)
    remainder = v * op.Pow(op.CastLike(2.0, v), -exponent) - 1.0
    return op.Where(op.Abs(remainder) < 1e-9, exponent + remainder / op.Constant(value=LN2), log)


@script(_LOCAL, default_opset=opset15)
def clip_to_range(v: Tensor, maximum: Tensor) -> Tensor:
    """Saturate at +-maximum; NaN passes."""
    above = op.Where(v < -maximum, -maximum, v)
    return op.Where(above > maximum, maximum, above)


@script(_LOCAL, default_opset=opset15)
def overflow_to_infinity(v: Tensor, maximum: Tensor) -> Tensor:
    """Turn values beyond +-maximum into infinities of their sign; NaN passes."""
    infinity = op.CastLike(op.Constant(value=INFINITY), v)
    above = op.Where(v < -maximum, -infinity, v)
    return op.Where(v > maximum, infinity, above)


@script(_LOCAL, default_opset=opset15)
def overflow_to_nan(v: Tensor, maximum: Tensor) -> Tensor:
    """Turn values beyond +-maximum, and infinities in any case, into NaN."""
    overflow = op.Or(op.Abs(v) > maximum, op.IsInf(v))
    return op.Where(overflow, op.CastLike(op.Constant(value=NAN), v), v)


_ROUNDING: Final[Mapping[str, Script]] = {
    "ROUND": half_even,
    "CEIL": ceil,
    "FLOOR": floor,
    "UP": away_from_zero,
    "DOWN": toward_zero,
    "HALF_UP": half_away_from_zero,
    "HALF_DOWN": half_toward_zero,
}
_SAME_ROUNDING: Final[Mapping[str, str]] = {"HALF_EVEN": "ROUND", "ROUND_TO_ZERO": "DOWN"}
_LOG2: Final[Mapping[int, Script]] = {FLOAT: log2_of_float, DOUBLE: log2_of_double}
_OVERFLOW: Final[Mapping[str, Script]] = {
    "": clip_to_range,
    "INF": overflow_to_infinity,
    "NAN": overflow_to_nan,
}
_PIECES: Final[Sequence[Script]] = (
    *_ROUNDING.values(),
    *_LOG2.values(),
    *_OVERFLOW.values(),
    to_bipolar,
    clamp_to_width,
)


# ----------------------------------------------------------------------------------------------------
# Bodies: each maker returns the script of one variant. Its docstring travels in the FunctionProto.
# ----------------------------------------------------------------------------------------------------


def _quant(mode: str, quotient: int, sum_: int, width: int) -> Script:
    """Return Quant for a bit width that is not 1 or is unsigned.

    y = clamp(x / scale + zeropt), then (rounding(y) - zeropt) * scale; scale and zeropt broadcast to x,
    bitwidth holds one value. ``quotient``, ``sum_`` and ``width`` are the element types of x / scale, of the
    sum and all that follows, and of 2 ** bitwidth.

    Source: QONNX operator specification, IntQuant, qonnx 1.0.0 (clamps first, then rounds).
    """
    rounding = _ROUNDING[mode]

    @script(_LOCAL, default_opset=opset15)
    def body(
        x: Tensor,
        scale: Tensor,
        zeropt: Tensor,
        bitwidth: Tensor,
        signed: int,
        narrow: int,
        rounding_mode: str = "ROUND",
    ) -> Tensor:
        """(rounding(clamp(x / scale + zeropt)) - zeropt) * scale. QONNX specification, qonnx 1.0.0."""
        zero = op.Cast(zeropt, to=sum_)
        y = op.Cast(op.Cast(x, to=quotient) / op.Cast(scale, to=quotient), to=sum_) + zero
        is_signed = op.Constant(value_int=signed)
        is_narrow = op.Constant(value_int=narrow)
        clamped = clamp_to_width(y, op.Cast(bitwidth, to=width), is_signed, is_narrow)
        q = rounding(clamped)
        return op.Cast((q - zero) * op.Cast(scale, to=sum_), to=FLOAT)

    return body


def _quant_bipolar(quotient: int, sum_: int) -> Script:
    """Return Quant for a signed bit width of 1: no clamp and no rounding, but +1 for y >= 0 and else -1.

    y = x / scale + zeropt, then (+-1 - zeropt) * scale. Element types as for :func:`_quant`.

    Source: QONNX operator specification, IntQuant, qonnx 1.0.0 (the special case is in its code only).
    """

    @script(_LOCAL, default_opset=opset15)
    def body(
        x: Tensor,
        scale: Tensor,
        zeropt: Tensor,
        bitwidth: Tensor,
        signed: int,
        narrow: int,
        rounding_mode: str = "ROUND",
    ) -> Tensor:
        """((x / scale + zeropt >= 0 ? 1 : -1) - zeropt) * scale. QONNX specification, qonnx 1.0.0."""
        zero = op.Cast(zeropt, to=sum_)
        y = op.Cast(op.Cast(x, to=quotient) / op.Cast(scale, to=quotient), to=sum_) + zero
        q = to_bipolar(y)
        return op.Cast((q - zero) * op.Cast(scale, to=sum_), to=FLOAT)

    return body


def _quant_dynamic(mode: str, quotient: int, sum_: int, width: int) -> Script:
    """Return Quant for a bit width that only the run decides: both of the above, selected by bitwidth == 1.

    Source: QONNX operator specification, IntQuant, qonnx 1.0.0.
    """
    rounding = _ROUNDING[mode]

    @script(_LOCAL, default_opset=opset15)
    def body(
        x: Tensor,
        scale: Tensor,
        zeropt: Tensor,
        bitwidth: Tensor,
        signed: int,
        narrow: int,
        rounding_mode: str = "ROUND",
    ) -> Tensor:
        """Quant whose bit width may turn out to be 1 (bipolar). QONNX specification, qonnx 1.0.0."""
        zero = op.Cast(zeropt, to=sum_)
        y = op.Cast(op.Cast(x, to=quotient) / op.Cast(scale, to=quotient), to=sum_) + zero
        is_signed = op.Constant(value_int=signed)
        is_narrow = op.Constant(value_int=narrow)
        bits = op.Cast(bitwidth, to=width)
        clamped = clamp_to_width(y, bits, is_signed, is_narrow)
        rounded = rounding(clamped)
        bipolar = to_bipolar(y)
        q = op.Where(bits * op.CastLike(is_signed, bits) == 1.0, bipolar, rounded)
        return op.Cast((q - zero) * op.Cast(scale, to=sum_), to=FLOAT)

    return body


def _bipolar_quant(result: int) -> Script:
    """Return BipolarQuant: +scale for x >= 0 (both zeros), else -scale (NaN, too). Exact in any type.

    Source: QONNX operator specification, BipolarQuant, qonnx 1.0.0.
    """

    @script(_LOCAL, default_opset=opset15)
    def body(x: Tensor, scale: Tensor) -> Tensor:
        """(x >= 0 ? 1 : -1) * scale. QONNX specification, qonnx 1.0.0."""
        step = op.Cast(scale, to=result)
        return op.Where(x >= 0.0, op.CastLike(1.0, step), op.CastLike(-1.0, step)) * step

    return body


def _trunc_v1(mode: str, quotient: int, sum_: int, step: int, result: int) -> Script:
    """Return Trunc version 1 (5 inputs), which drops the low bits and keeps the input scale.

    y = round(x / scale + zeropt) / 2^(in_bitwidth - out_bitwidth), then (rounding(y) - zeropt) * scale.
    ``quotient``, ``sum_`` and ``step`` are the element types of x / scale, the sum, and the power of two.

    Source: QONNX operator specification, Trunc (version 1), qonnx 1.0.0.
    """
    rounding = _ROUNDING[mode]
    carrier = max(sum_, step)  # FLOAT < DOUBLE

    @script(_LOCAL, default_opset=opset15)
    def body(
        x: Tensor,
        scale: Tensor,
        zeropt: Tensor,
        in_bitwidth: Tensor,
        out_bitwidth: Tensor,
        rounding_mode: str = "FLOOR",
    ) -> Tensor:
        """(rounding(round(x / scale + zeropt) / 2^(in - out)) - zeropt) * scale. Trunc v1, qonnx 1.0.0."""
        y = op.Cast(op.Cast(x, to=quotient) / op.Cast(scale, to=quotient), to=sum_) + op.Cast(zeropt, to=sum_)
        dropped = op.Cast(in_bitwidth, to=step) - op.Cast(out_bitwidth, to=step)
        trunc_scale = op.Pow(op.CastLike(2.0, dropped), dropped)
        shifted = op.Cast(op.Round(y), to=carrier) / op.Cast(trunc_scale, to=carrier)
        q = rounding(shifted)
        return op.Cast((q - op.Cast(zeropt, to=carrier)) * op.Cast(scale, to=carrier), to=result)

    return body


def _trunc_v2(mode: str, quotient: int, sum_: int, step: int, width: int, result: int) -> Script:
    """Return Trunc version 2 (6 inputs), which keeps the value: a clamp, and an output scale.

    t = 2^round(log2(out_scale / scale)), y = clamp(round(x / scale + zeropt) / t), then
    (rounding(y) - zeropt / t) * out_scale; in_bitwidth is not used. ``step`` is the element type of
    out_scale / scale and of t, ``width`` that of 2 ** out_bitwidth.

    Source: QONNX operator specification, Trunc (version 2), qonnx 1.0.0.
    """
    rounding = _ROUNDING[mode]
    log2 = _LOG2[step]
    carrier = max(sum_, step)  # FLOAT < DOUBLE

    @script(_LOCAL, default_opset=opset15)
    def body(
        x: Tensor,
        scale: Tensor,
        zeropt: Tensor,
        in_bitwidth: Tensor,
        out_scale: Tensor,
        out_bitwidth: Tensor,
        rounding_mode: str = "FLOOR",
        narrow: int = 0,
        signed: int = 1,
    ) -> Tensor:
        """(rounding(clamp(round(x / scale + zeropt) / t)) - zeropt / t) * out_scale.

        With t = 2^round(log2(out_scale / scale)). Trunc v2, qonnx 1.0.0.
        """
        y = op.Cast(op.Cast(x, to=quotient) / op.Cast(scale, to=quotient), to=sum_) + op.Cast(zeropt, to=sum_)
        ratio = op.Cast(out_scale, to=step) / op.Cast(scale, to=step)
        exponent = log2(ratio)
        trunc_scale = op.Cast(op.Pow(op.CastLike(2.0, exponent), op.Round(exponent)), to=carrier)
        shifted = op.Cast(op.Round(y), to=carrier) / trunc_scale
        is_signed = op.Constant(value_int=signed)
        is_narrow = op.Constant(value_int=narrow)
        clamped = clamp_to_width(shifted, op.Cast(out_bitwidth, to=width), is_signed, is_narrow)
        q = rounding(clamped)
        return op.Cast(
            (q - op.Cast(zeropt, to=carrier) / trunc_scale) * op.Cast(out_scale, to=carrier), to=result
        )

    return body


def _float_quant(mode: str, overflow: str, scaled: int, grid: int, range_: int) -> Script:
    """Return FloatQuant to a minifloat of given exponent and mantissa widths.

    v = x / scale, e = max(floor(log2(|v| + tiny)) - mantissa_bitwidth, 1 - exponent_bias -
    mantissa_bitwidth), q = 2^e * rounding(v / 2^e), M = min(largest value of the format, max_val); q beyond
    +-M saturates to +-M (``overflow`` ""), becomes +-infinity ("INF") or NaN ("NAN"); then q * scale. An
    infinite v gives NaN, also where saturating. ``scaled``, ``grid`` and ``range_`` are the element types of
    v, of q, and of M's exponent. The clip is in float64 as in NumPy, because the largest value is a float64
    there.

    Source: QONNX operator specification, FloatQuant, qonnx 1.0.0 (has_subnormal is ignored in its code).
    """
    rounding = _ROUNDING[mode]
    log2 = _LOG2[scaled]
    limit = _OVERFLOW[overflow]
    tiny = TINY[scaled]

    @script(_LOCAL, default_opset=opset15)
    def body(
        x: Tensor,
        scale: Tensor,
        exponent_bitwidth: Tensor,
        mantissa_bitwidth: Tensor,
        exponent_bias: Tensor,
        max_val: Tensor,
        has_inf: int,
        has_nan: int,
        has_subnormal: int,
        saturation: int,
        rounding_mode: str = "ROUND",
    ) -> Tensor:
        """limit(2^e * rounding(x / scale / 2^e)) * scale.

        With e = max(floor(log2|x / scale|), 1 - bias) - mantissa width. QONNX specification, qonnx 1.0.0.
        """
        v = op.Cast(x, to=scaled) / op.Cast(scale, to=scaled)
        log = log2(op.Abs(v) + op.Constant(value=tiny))
        mantissa = op.Cast(mantissa_bitwidth, to=grid)
        normal = op.Cast(op.Floor(log), to=grid) - mantissa
        subnormal = 1.0 - op.Cast(exponent_bias, to=grid) - mantissa
        exponent = op.Where(normal < subnormal, subnormal, normal)
        ulp = op.Pow(op.CastLike(2.0, exponent), exponent)
        q = rounding(op.Cast(v, to=grid) / ulp)
        top = op.Cast(exponent_bitwidth, to=range_)
        top_exponent = op.Pow(op.CastLike(2.0, top), top) - 1.0 - op.Cast(exponent_bias, to=range_)
        top_power = op.Cast(op.Pow(op.CastLike(2.0, top), top_exponent), to=DOUBLE)
        digits = op.Ceil(op.Cast(mantissa_bitwidth, to=DOUBLE))
        top_mantissa = 2.0 - op.Pow(op.CastLike(2.0, digits), -digits)
        maximum = op.Min(top_mantissa * top_power, op.Cast(max_val, to=DOUBLE))
        limited = limit(op.Cast(ulp * q, to=DOUBLE), maximum)
        return op.Cast(limited * op.Cast(scale, to=DOUBLE), to=FLOAT)

    return body


def _multi_threshold(trailing: int, compared: int, counted: int, result: int) -> Script:
    """Return MultiThreshold: how many of its channel's thresholds each element reaches, scaled and biased.

    out_scale * sum_t(x >= thresholds[channel, t]) + out_bias; thresholds (C or 1, T), NaN counts none.
    ``trailing`` is the number of axes of x after its channel axis; ``compared`` and ``counted`` are the
    element types of the comparison and of the count. The comparison holds T booleans per element.

    Source: QONNX operator specification, MultiThreshold, qonnx 1.0.0.
    """
    per_channel = [0, *[1] * trailing, -1]  # (C, T) -> (C, 1, ..., 1, T)

    @script(_LOCAL, default_opset=opset15)
    def body(
        x: Tensor,
        thresholds: Tensor,
        out_scale: float = 1.0,
        out_bias: float = 0.0,
        out_dtype: str = "",
        data_layout: str = "",
    ) -> Tensor:
        """out_scale * count(x >= thresholds) + out_bias. QONNX specification, qonnx 1.0.0."""
        steps = op.Reshape(thresholds, op.Constant(value_ints=per_channel))
        last = op.Constant(value_ints=[-1])
        reached = op.Unsqueeze(op.Cast(x, to=compared), last) >= op.Cast(steps, to=compared)
        count = op.ReduceSum(op.Cast(reached, to=counted), last, keepdims=0)
        factor = op.Cast(op.Constant(value_float=out_scale), to=counted)
        return op.Cast(count * factor + op.Cast(op.Constant(value_float=out_bias), to=counted), to=result)

    return body


def _perms(rank: int) -> tuple[list[int], list[int]]:
    """Return the permutations of ``rank`` axes from channels last to channels first, and back."""
    return [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]


def _conv(rank: int) -> Script:
    """Return channels-last Conv: x (N, ..., C), w (M, ..., C / group), b (M,), result (N, ..., M).

    Source: qonnx 1.0.0, qonnx.custom_op.channels_last.
    """
    first, last = _perms(rank)

    @script(_LOCAL, default_opset=opset15)
    def body(
        x: Tensor,
        w: Tensor,
        b: Tensor,
        auto_pad: str,
        dilations: Sequence[int],
        group: int,
        kernel_shape: Sequence[int],
        pads: Sequence[int],
        strides: Sequence[int],
    ) -> Tensor:
        """Conv of channels-last x and w. qonnx 1.0.0, channels_last."""
        y = op.Conv(
            op.Transpose(x, perm=first),
            op.Transpose(w, perm=first),
            b,
            auto_pad=auto_pad,
            dilations=dilations,
            group=group,
            kernel_shape=kernel_shape,
            pads=pads,
            strides=strides,
        )
        return op.Transpose(y, perm=last)

    return body


def _max_pool(rank: int) -> Script:
    """Return channels-last MaxPool: x (N, ..., C).

    Source: qonnx 1.0.0, qonnx.custom_op.channels_last.
    """
    first, last = _perms(rank)

    @script(_LOCAL, default_opset=opset15)
    def body(
        x: Tensor,
        auto_pad: str,
        ceil_mode: int,
        dilations: Sequence[int],
        kernel_shape: Sequence[int],
        pads: Sequence[int],
        strides: Sequence[int],
    ) -> Tensor:
        """MaxPool of channels-last x. qonnx 1.0.0, channels_last."""
        y = op.MaxPool(
            op.Transpose(x, perm=first),
            auto_pad=auto_pad,
            ceil_mode=ceil_mode,
            dilations=dilations,
            kernel_shape=kernel_shape,
            pads=pads,
            strides=strides,
        )
        return op.Transpose(y, perm=last)

    return body


def _batch_normalization(rank: int) -> Script:
    """Return channels-last BatchNormalization: x (N, ..., C), the four parameters (C,).

    Source: qonnx 1.0.0, qonnx.custom_op.channels_last.
    """
    first, last = _perms(rank)

    @script(_LOCAL, default_opset=opset15)
    def body(
        x: Tensor, scale: Tensor, b: Tensor, mean: Tensor, var: Tensor, epsilon: float, momentum: float
    ) -> Tensor:
        """BatchNormalization of channels-last x. qonnx 1.0.0, channels_last."""
        y = op.BatchNormalization(
            op.Transpose(x, perm=first), scale, b, mean, var, epsilon=epsilon, momentum=momentum
        )
        return op.Transpose(y, perm=last)

    return body


@functools.cache
def _function(maker: Callable[..., Script], arguments: tuple[Any, ...]) -> onnx.FunctionProto:
    """Return the body that ``maker`` makes of ``arguments``, pieces inlined; copy it before editing."""
    main = maker(*arguments).to_function_proto()
    model = onnx.helper.make_model(
        onnx.helper.make_graph([], "empty", [], []),
        functions=[main, *(piece.to_function_proto() for piece in _PIECES)],
        opset_imports=[onnx.helper.make_opsetid("", MIN_OPSET)],
        ir_version=MIN_IR_VERSION,
    )
    inlined = ir.from_proto(model)
    InlinePass(criteria=lambda function: function.name != main.name)(inlined)
    function: onnx.FunctionProto
    (function,) = (f for f in ir.to_proto(inlined).functions if f.name == main.name)
    # Declared types would tie the body to float32, and inliners name nodes anew anyway.
    function.ClearField("value_info")
    for node in function.node:
        node.ClearField("name")
    _drop_idle_casts(function)
    return function


_OUTPUT_TYPE_IS_INPUT: Final[Mapping[str, int]] = {
    **dict.fromkeys(("Abs", "Ceil", "Floor", "Log", "Neg", "Round", "Sign", "ReduceSum", "Unsqueeze"), 0),
    **dict.fromkeys(("Add", "Div", "Min", "Mul", "Pow", "Sub"), 0),
    "CastLike": 1,
    "Where": 1,
}
"""Operators of the bodies whose output has the element type of an input, and which input."""


def _drop_idle_casts(function: onnx.FunctionProto) -> None:
    """Remove casts to the type that a value has already: scripts cast wherever a variant may need it."""
    types: dict[str, int] = {}
    same: dict[str, str] = {}
    kept = []
    for node in function.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        attributes = {a.name: a for a in node.attribute}
        elem_type = None
        if node.op_type == "Cast":
            elem_type = attributes["to"].i
        elif "value" in attributes:
            elem_type = attributes["value"].t.data_type
        elif node.op_type in _OUTPUT_TYPE_IS_INPUT:
            elem_type = types.get(node.input[_OUTPUT_TYPE_IS_INPUT[node.op_type]])
        if elem_type is not None:
            if node.op_type in ("Cast", "CastLike") and types.get(node.input[0]) == elem_type:
                same[node.output[0]] = node.input[0]
                continue
            types[node.output[0]] = elem_type
        kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    function.output[:] = [same.get(name, name) for name in function.output]
    function.ClearField("node")
    function.node.extend(kept)


# ----------------------------------------------------------------------------------------------------
# What is known at a node
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """Element type of a value, and its rank if known."""

    elem_type: int
    rank: int | None


def _declared(graph: onnx.GraphProto) -> dict[str, _Known]:
    """Return what the inputs, outputs, value_info and initializers of one graph declare."""
    known = {}
    for info in (*graph.value_info, *graph.output, *graph.input):
        tensor = info.type.tensor_type
        if tensor.elem_type != TensorProto.UNDEFINED:
            rank = len(tensor.shape.dim) if tensor.HasField("shape") else None
            known[info.name] = _Known(tensor.elem_type, rank)
    for tensor_proto in graph.initializer:
        known[tensor_proto.name] = _Known(tensor_proto.data_type, len(tensor_proto.dims))
    return known


def _constant_value(node: onnx.NodeProto) -> TensorProto | None:
    """Return the tensor of a Constant node."""
    for attribute in node.attribute if node.op_type == "Constant" and not node.domain else ():
        value = onnx.helper.get_attribute_value(attribute)
        match attribute.name:
            case "value":
                tensor: TensorProto = attribute.t
                return tensor
            case "value_float" | "value_floats":
                return numpy_helper.from_array(np.asarray(value, np.float32))
            case "value_int" | "value_ints":
                return numpy_helper.from_array(np.asarray(value, np.int64))
    return None


class _Scope:
    """Types and constants of one graph or function body; the enclosing graph and inference are asked last."""

    def __init__(
        self,
        body: onnx.GraphProto | onnx.FunctionProto,
        inference: Callable[[], Mapping[str, _Known]],
        outer: _Scope | None = None,
    ) -> None:
        self._known: dict[str, _Known] = {}
        self._constants: dict[str, TensorProto] = {}
        self.inference = inference
        self._outer = outer
        if isinstance(body, onnx.GraphProto):
            self._known = _declared(body)
            overridable = {info.name for info in body.input}
            self._constants = {t.name: t for t in body.initializer if t.name not in overridable}
        for node in body.node:
            if (tensor := _constant_value(node)) is not None:
                self._constants[node.output[0]] = tensor
                self._known[node.output[0]] = _Known(tensor.data_type, len(tensor.dims))

    def declared(self, name: str) -> _Known | None:
        """Return what the model itself says of a value."""
        return self._known.get(name) or (self._outer.declared(name) if self._outer else None)

    def known(self, name: str) -> _Known | None:
        """Return what the model says of a value or, failing that, what shape inference finds."""
        return self.declared(name) or self.inference().get(name)

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """Return a value that no run can change; None for computed, overridable and external ones."""
        tensor = self._constants.get(name)
        if tensor is None:
            hidden = name in self._known
            return self._outer.constant(name) if self._outer and not hidden else None
        return None if tensor.data_location == TensorProto.EXTERNAL else numpy_helper.to_array(tensor)


def _infer(model: onnx.ModelProto) -> Mapping[str, _Known]:
    """Return what shape inference finds, with elementwise stand-ins for QONNX nodes; nothing where it fails.

    Large initializers become inputs: only their type and shape matter here, and they would be copied twice.
    """
    copy = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions
    )
    copy.graph.CopyFrom(
        onnx.GraphProto(
            name=model.graph.name,
            node=model.graph.node,
            input=model.graph.input,
            output=model.graph.output,
            value_info=model.graph.value_info,
        )
    )
    inputs = {info.name for info in model.graph.input}
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims) <= 64:
            copy.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            copy.graph.input.append(info)
    for node in _nodes(copy.graph):
        if _DOMAINS.get(node.domain) is _GENERAL and node.op_type in _GENERAL:
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output[:1]))
    try:
        inferred = shape_inference.infer_shapes(copy)
    except shape_inference.InferenceError:
        return {}
    known: dict[str, _Known] = {}
    for graph in _graphs(inferred.graph):
        known = {**_declared(graph), **known}
    return known


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node has as attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs nested in it."""
    yield graph
    for node in graph.node:
        for subgraph in _subgraphs(node):
            yield from _graphs(subgraph)


def _nodes(body: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a body and of all graphs nested in it."""
    for node in body.node:
        yield node
        for subgraph in _subgraphs(node):
            yield from _nodes(subgraph)


def _sites(body: onnx.GraphProto | onnx.FunctionProto, scope: _Scope) -> Iterator[_Site]:
    """Yield the nodes of a body and of all graphs nested in it that have a function, with their scopes."""
    for node in body.node:
        if node.op_type in _DOMAINS.get(node.domain, {}):
            yield _Site(node, scope)
        for subgraph in _subgraphs(node):
            yield from _sites(subgraph, _Scope(subgraph, scope.inference, scope))


@dataclass(frozen=True, slots=True)
class _Site:
    """A QONNX node and the scope it stands in."""

    node: onnx.NodeProto
    scope: _Scope

    def error(self, problem: str) -> ValueError:
        """Return an error that names the node, its operator and domain."""
        name = self.node.name or (self.node.output[0] if self.node.output else "")
        return ValueError(f"{self.node.op_type} node '{name}' (domain '{self.node.domain}'): {problem}")

    def attribute(self, name: str) -> Any:
        """Return the value of an attribute, or None if absent."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                if attribute.ref_attr_name:
                    raise self.error(
                        f"attribute '{name}' refers to a function's attribute, but must be known here"
                    )
                return onnx.helper.get_attribute_value(attribute)
        return None

    def flag(self, name: str, default: int | None = None) -> bool:
        """Return an attribute that is 0 or 1."""
        value = self.attribute(name)
        if value is None:
            value = default
        if value not in (0, 1):
            found = "is missing" if value is None else f"is {value!r}"
            raise self.error(f"attribute '{name}' {found}, but must be 0 or 1")
        return bool(value)

    def mode(self, default: str) -> str:
        """Return the rounding mode in capitals, synonyms resolved."""
        value = self.attribute("rounding_mode")
        written = default if value is None else value.decode("utf-8", "replace")
        mode = _SAME_ROUNDING.get(written.upper(), written.upper())
        if mode not in _ROUNDING:
            allowed = ", ".join([*_ROUNDING, *_SAME_ROUNDING])
            raise self.error(f"rounding_mode '{written}' is unknown; use one of {allowed}")
        return mode

    def need_inputs(self, *counts: int) -> int:
        """Return the number of inputs after checking it."""
        inputs = list(self.node.input)
        if len(inputs) not in counts or not all(inputs):
            allowed = " or ".join(map(str, counts))
            raise self.error(f"has inputs {inputs}, but needs {allowed}, all of them given")
        return len(inputs)

    def types(self, *positions: int) -> tuple[npt.DTypeLike, ...]:
        """Return the NumPy types of some inputs; float32 for unknown ones and types NumPy lacks."""
        known = (self.scope.known(self.node.input[position]) for position in positions)
        dtypes = (onnx.helper.tensor_dtype_to_np_dtype(k.elem_type if k else FLOAT) for k in known)
        return tuple(dtype if dtype.kind in "iubf" else np.float32 for dtype in dtypes)

    def rank(self, position: int = 0) -> int | None:
        """Return the rank of an input, if known."""
        known = self.scope.known(self.node.input[position])
        return known.rank if known else None

    def result_type(self) -> int:
        """Return the declared element type of the output if it is a floating-point type, else float32."""
        declared = self.scope.declared(self.node.output[0])
        floats = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
        return declared.elem_type if declared and declared.elem_type in floats else FLOAT


@dataclass(frozen=True, slots=True)
class _Variant:
    """An overload: its name, and the maker and arguments of its body."""

    overload: str
    maker: Callable[..., Script]
    arguments: tuple[Any, ...]
    result: int = FLOAT
    """Element type that the body's float32 result is cast to at the end."""


# ----------------------------------------------------------------------------------------------------
# Operator -> variant
# ----------------------------------------------------------------------------------------------------


def _carrier(*types: npt.DTypeLike) -> int:
    """Return the type, float32 or float64, in which NumPy divides values of these types.

    It raises 2.0 to them in that type, too. Integers alone give float64; half precision is computed in
    float32 (see the module's exceptions).
    """
    promoted = np.result_type(*types)
    return DOUBLE if promoted == np.float64 or promoted.kind in "iub" else FLOAT


def _dtype(carrier: int) -> npt.DTypeLike:
    """Return the NumPy type of a carrier."""
    return np.float64 if carrier == DOUBLE else np.float32


def _power(width: npt.DTypeLike, following: int) -> int:
    """Return the type for 2 ** width: the width's own; for integers, exact in both, that of what follows."""
    return following if np.dtype(width).kind in "iub" else _carrier(width)


def _overload(*words: str, result: int = FLOAT, **steps: int) -> str:
    """Return a name: the words, which steps are in float64, and a result type other than float32."""
    double = [step.upper() for step, carrier in steps.items() if carrier == DOUBLE]
    parts = [word for word in words if word]
    if double:
        parts += ["DOUBLE", *(double if len(double) < len(steps) else [])]
    if result != FLOAT:
        parts += ["TO", TensorProto.DataType.Name(result)]
    return "_".join(parts)


def _select_quant(site: _Site) -> _Variant:
    """Return the variant of Quant and IntQuant."""
    site.need_inputs(4)
    mode, signed = site.mode("ROUND"), site.flag("signed")
    site.flag("narrow")
    x, scale, zeropt, bitwidth = site.types(0, 1, 2, 3)
    quotient = _carrier(x, scale)
    sum_ = _carrier(_dtype(quotient), zeropt)
    width = _power(bitwidth, sum_)
    result = site.result_type()
    bits = site.scope.constant(site.node.input[3])
    if bits is not None and bits.size != 1:
        raise site.error(f"the bit width has shape {bits.shape}, but must hold one value")
    if signed and bits is not None and bits.item() == 1:
        name = _overload("BIPOLAR", result=result, quotient=quotient, sum=sum_)
        return _Variant(name, _quant_bipolar, (quotient, sum_), result)
    dynamic = signed and bits is None
    words = (mode, "DYNAMIC" if dynamic else "")
    name = _overload(*words, result=result, quotient=quotient, sum=sum_, width=width)
    return _Variant(name, _quant_dynamic if dynamic else _quant, (mode, quotient, sum_, width), result)


def _select_bipolar_quant(site: _Site) -> _Variant:
    """Return the variant of BipolarQuant."""
    site.need_inputs(2)
    result = site.result_type()
    return _Variant(_overload(result=result), _bipolar_quant, (result,))


def _select_trunc(site: _Site) -> _Variant:
    """Return the variant of Trunc: version 1 with 5 inputs, 2 with 6, whatever the opset import says."""
    inputs = site.need_inputs(5, 6)
    mode, result = site.mode("FLOOR"), site.result_type()
    x, scale, zeropt, in_bits, fifth = site.types(0, 1, 2, 3, 4)
    quotient = _carrier(x, scale)
    sum_ = _carrier(_dtype(quotient), zeropt)
    if inputs == 5:
        step = _carrier(in_bits, fifth)
        name = _overload(mode, "V1", result=result, quotient=quotient, sum=sum_, step=step)
        return _Variant(name, _trunc_v1, (mode, quotient, sum_, step, result))
    site.flag("signed", 1)
    site.flag("narrow", 0)
    step = _carrier(fifth, scale)
    (out_bits,) = site.types(5)
    width = _power(out_bits, max(sum_, step))
    name = _overload(mode, "V2", result=result, quotient=quotient, sum=sum_, step=step, width=width)
    return _Variant(name, _trunc_v2, (mode, quotient, sum_, step, width, result))


def _select_float_quant(site: _Site) -> _Variant:
    """Return the variant of FloatQuant."""
    site.need_inputs(6)
    mode, result = site.mode("ROUND"), site.result_type()
    has_inf, has_nan, saturates = site.flag("has_inf"), site.flag("has_nan"), site.flag("saturation")
    site.flag("has_subnormal")
    if not (saturates or has_inf or has_nan):
        raise site.error("saturation is 0, but has_inf and has_nan are 0, too: set one, or saturation")
    overflow = "" if saturates else "INF" if has_inf else "NAN"
    x, scale, exponent, mantissa, bias = site.types(0, 1, 2, 3, 4)
    scaled = _carrier(x, scale)
    grid = _carrier(_dtype(scaled), mantissa, _dtype(_carrier(bias)))
    range_ = _carrier(_dtype(_carrier(exponent)), bias)
    name = _overload(mode, overflow, result=result, scaled=scaled, grid=grid, range=range_)
    return _Variant(name, _float_quant, (mode, overflow, scaled, grid, range_), result)


def _select_multi_threshold(site: _Site) -> _Variant:
    """Return the variant of MultiThreshold."""
    site.need_inputs(2)
    layout = (site.attribute("data_layout") or b"").decode("utf-8", "replace")
    rank = site.rank()
    if rank is None:
        # Without a shape, the layout's letters count the axes.
        rank = len(layout)
    if rank < 2:
        raise site.error(f"input '{site.node.input[0]}' needs a known rank of at least 2 (or a data_layout)")
    # Without a layout, qonnx takes 3-D inputs for NWC and all others for channels first.
    channel = layout.index("C") if "C" in layout else 2 if rank == 3 and not layout else 1
    if channel >= rank:
        raise site.error(f"data_layout '{layout}' names axis {channel}, but the input has rank {rank}")
    x, thresholds = site.types(0, 1)
    compared, counted, result = _carrier(x, thresholds), _carrier(x), site.result_type()
    trailing = rank - 1 - channel
    words = ("CHANNEL", "LAST" if trailing == 0 else f"BEFORE_{trailing}")
    name = _overload(*words, result=result, compared=compared, counted=counted)
    return _Variant(name, _multi_threshold, (trailing, compared, counted, result))


def _select_by_rank(maker: Callable[[int], Script], *inputs: int) -> Callable[[_Site], _Variant]:
    """Return the selector of a channels-last operator, whose body differs by rank only."""

    def select(site: _Site) -> _Variant:
        site.need_inputs(*inputs)
        rank = site.rank()
        if rank is None or rank < 3:
            raise site.error(
                f"input '{site.node.input[0]}' needs a known rank of at least 3, but has rank {rank}"
            )
        return _Variant(f"RANK_{rank}", maker, (rank,))

    return select


_Operators = Mapping[str, Callable[[_Site], _Variant]]

_GENERAL: Final[_Operators] = {
    "Quant": _select_quant,
    "IntQuant": _select_quant,
    "BipolarQuant": _select_bipolar_quant,
    "Trunc": _select_trunc,
    "FloatQuant": _select_float_quant,
    "MultiThreshold": _select_multi_threshold,
}
_CHANNELS_LAST: Final[_Operators] = {
    "Conv": _select_by_rank(_conv, 2, 3),
    "MaxPool": _select_by_rank(_max_pool, 1),
    "BatchNormalization": _select_by_rank(_batch_normalization, 5),
}
_DOMAINS: Final[Mapping[str, _Operators]] = {
    "qonnx.custom_op.general": _GENERAL,
    "onnx.brevitas": _GENERAL,
    "finn.custom_op.general": _GENERAL,
    "finn": _GENERAL,
    "qonnx.custom_op.channels_last": _CHANNELS_LAST,
}


# ----------------------------------------------------------------------------------------------------
# Models
# ----------------------------------------------------------------------------------------------------


def _instantiate(variant: _Variant, node: onnx.NodeProto, opsets: Mapping[str, int]) -> onnx.FunctionProto:
    """Return the function of a variant under a node's operator name and the model's own opset versions."""
    function = onnx.FunctionProto()
    function.CopyFrom(_function(variant.maker, variant.arguments))
    function.domain, function.name = node.domain, node.op_type
    if variant.overload:
        function.overload = variant.overload
    if variant.result != FLOAT:
        (output,) = function.output
        cast = onnx.helper.make_node("Cast", [output], ["result"], to=variant.result)
        function.node.append(cast)
        function.output[:] = ["result"]
    function.ClearField("opset_import")
    function.opset_import.extend(onnx.helper.make_opsetid(d, opsets[d]) for d in ("", node.domain))
    return function


def attach_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model in which every QONNX node has a function that computes qonnx's numbers.

    Functions that the model has for these operators are replaced (see :func:`strip_functions`), so attaching
    twice changes nothing; only functions in use are attached. The nodes keep their operators and get the
    ``overload`` that matches their attributes and types. The IR version is raised to 10 if lower. A model
    without QONNX nodes is only copied.

    Args:
        model: QONNX model at opset 15 or above, with an opset import for each domain in use.

    Returns:
        The copy. Plain onnxruntime (1.27 or later) runs it; the numbers are those of qonnx 1.0.0 but for the
        exceptions that this module's docstring lists.

    Raises:
        ValueError: The opset is below 15, or nodes have no function: all of them are listed, with the reason
            (an unknown rounding mode, a missing or impossible attribute, a wrong number of inputs, a rank
            that must be known, a domain without import).

    Source: QONNX operator specification, qonnx 1.0.0.
    """
    result = strip_functions(model)
    inference = functools.cache(functools.partial(_infer, result))
    sites = list(_sites(result.graph, _Scope(result.graph, inference)))
    for local in result.functions:
        sites += _sites(local, _Scope(local, dict))
    if not sites:
        return result
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in result.opset_import}
    if opsets.get("", 0) < MIN_OPSET:
        raise ValueError(
            f"functions need opset >= {MIN_OPSET}, but the model has opset {opsets.get('', 0)}: "
            "upgrade it first, for instance with onnx.version_converter"
        )
    functions: dict[tuple[str, str, str], onnx.FunctionProto] = {}
    overloads: list[str] = []
    problems: list[str] = []
    for site in sites:
        node = site.node
        try:
            if node.domain not in opsets:
                raise site.error("the model has no opset import for this domain: add one")
            variant = _DOMAINS[node.domain][node.op_type](site)
        except ValueError as error:
            problems.append(str(error))
            continue
        key = (node.domain, node.op_type, variant.overload)
        if key not in functions:
            functions[key] = _instantiate(variant, node, opsets)
        overloads.append(variant.overload)
    if problems:
        raise ValueError("no function for:\n  " + "\n  ".join(problems))
    # Only now: inference above may still have to read the model without overloads.
    for site, overload in zip(sites, overloads, strict=True):
        if overload:
            site.node.overload = overload
    result.functions.extend(functions.values())
    result.ir_version = max(result.ir_version, MIN_IR_VERSION)
    return result


def strip_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model without functions and overloads for the QONNX operators of this module.

    Functions and overloads of all other operators stay, and so does the IR version, which
    :func:`attach_functions` may have raised.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    kept = [f for f in result.functions if f.name not in _DOMAINS.get(f.domain, {})]
    if len(kept) != len(result.functions):
        kept_copies = [onnx.FunctionProto.FromString(f.SerializeToString()) for f in kept]
        result.ClearField("functions")
        result.functions.extend(kept_copies)
    for body in (result.graph, *result.functions):
        for node in _nodes(body):
            if node.op_type in _DOMAINS.get(node.domain, {}):
                node.ClearField("overload")
    return result


def refresh_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model whose functions match its nodes again, after a pass edited the model.

    Strips the functions and attaches them anew; arguments and errors are those of :func:`attach_functions`.
    """
    return attach_functions(strip_functions(model))
