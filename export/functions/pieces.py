"""Scripts that the bodies call: rounding modes, clamping, log2, overflow.

They are inlined when a body is built and never reach a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import TensorProto
from onnxscript import opset15, script
from onnxscript.onnx_types import TensorType
from onnxscript.values import OnnxFunction, Opset

__all__ = [
    "DOUBLE",
    "FLOAT",
    "LOG2",
    "OVERFLOW",
    "PIECES",
    "ROUNDING",
    "TINY",
    "Script",
    "Tensor",
    "clamp_to_width",
    "largest_minifloat",
    "op",
    "standard_script",
    "to_bipolar",
]

if TYPE_CHECKING:
    Tensor = Any
    Script = OnnxFunction[..., Any]
else:
    Tensor = TensorType
    Script = OnnxFunction

FLOAT: Final = int(TensorProto.FLOAT)
DOUBLE: Final = int(TensorProto.DOUBLE)

# Typed Any: the operators' own signatures tie the types of inputs together, which Cast must be free of.
op: Any = opset15
standard_script = script(Opset("qonnx_torch.local", 1), default_opset=opset15)
"""Decorator: a function of standard operators, of the oldest operator set that has CastLike."""


def _scalar(value: float, elem_type: int = FLOAT) -> TensorProto:
    """Returns a 0-d tensor: values that Python literals in a script cannot give (float64, infinity, NaN)."""
    return onnx.helper.make_tensor("value", elem_type, [], [value])


LN2: Final = _scalar(float(np.log(2.0)), DOUBLE)
INFINITY: Final = _scalar(float("inf"))
NAN: Final = _scalar(float("nan"))
TINY: Final = {
    FLOAT: _scalar(float(np.finfo(np.float32).tiny), FLOAT),
    DOUBLE: _scalar(float(np.finfo(np.float64).tiny), DOUBLE),
}


@standard_script
def half_even(v: Tensor) -> Tensor:
    """Rounds to nearest, ties to even: 2.5 -> 2."""
    return op.Round(v)


@standard_script
def ceil(v: Tensor) -> Tensor:
    """Rounds up."""
    return op.Ceil(v)


@standard_script
def floor(v: Tensor) -> Tensor:
    """Rounds down."""
    return op.Floor(v)


@standard_script
def away_from_zero(v: Tensor) -> Tensor:
    """Rounds away from zero: -2.1 -> -3."""
    return op.Sign(v) * op.Ceil(op.Abs(v))


@standard_script
def toward_zero(v: Tensor) -> Tensor:
    """Rounds toward zero: -2.9 -> -2, and -0.5 -> -0.0."""
    # This way round: onnxruntime's Where turns a -0.0 of its second input, not of its third, into 0.0.
    return op.Where(v > 0.0, op.Floor(v), op.Ceil(v))


@standard_script
def half_away_from_zero(v: Tensor) -> Tensor:
    """Rounds to nearest, ties away from zero; by this very formula, so 0.49999997 -> 1 in float32."""
    return op.Sign(v) * op.Floor(op.Abs(v) + 0.5)


@standard_script
def half_toward_zero(v: Tensor) -> Tensor:
    """Rounds to nearest, ties toward zero; by this very formula, so 0.0 -> -0.0."""
    return op.Sign(v) * op.Ceil(op.Abs(v) - 0.5)


@standard_script
def to_bipolar(v: Tensor) -> Tensor:
    """Returns 1 for v >= 0 (both zeros) and else -1 (NaN, too)."""
    return op.Where(v >= 0.0, op.CastLike(1.0, v), op.CastLike(-1.0, v))


@standard_script
def clamp_to_width(v: Tensor, width: Tensor, signed: int, narrow: int) -> Tensor:
    """Clamps to [-2^(b-1) + narrow, 2^(b-1) - 1] if signed, else [0, 2^b - 1 - narrow]; NaN and -0.0 pass."""
    is_signed = op.CastLike(op.Constant(value_int=signed), width)
    is_narrow = op.CastLike(op.Constant(value_int=narrow), width)
    power = op.Pow(op.CastLike(2.0, width), width - is_signed)
    # One subtraction, as in qonnx: from 25 bits on, two would round differently.
    high = op.CastLike(power - (1.0 + (1.0 - is_signed) * is_narrow), v)
    low = op.CastLike(is_signed * is_narrow - is_signed * power, v)
    below = op.Where(v > high, high, v)
    return op.Where(below < low, low, below)


@standard_script
def log2_of_float(v: Tensor) -> Tensor:
    """log2 of a float32 value, correctly rounded: taken in float64."""
    log = op.Log(op.Cast(v, to=DOUBLE)) / op.Constant(value=LN2)
    return op.Cast(log, to=FLOAT)


@standard_script
def log2_of_double(v: Tensor) -> Tensor:
    """log2 of a float64 value; near 2^k from the exact v / 2^k - 1, hence correctly rounded there."""
    log = op.Log(v) / op.Constant(value=LN2)
    exponent = op.Round(log)
    remainder = v * op.Pow(op.CastLike(2.0, v), -exponent) - 1.0
    return op.Where(op.Abs(remainder) < 1e-9, exponent + remainder / op.Constant(value=LN2), log)


@standard_script
def largest_minifloat(exponent_bits: Tensor, mantissa_bits: Tensor, bias: Tensor) -> Tensor:
    """Returns (2 - 2^-ceil(m)) * 2^(2^e - 1 - bias), a float64, for e exponent and m mantissa bits."""
    exponent = op.Pow(op.CastLike(2.0, exponent_bits), exponent_bits) - 1.0 - bias
    power = op.Cast(op.Pow(op.CastLike(2.0, exponent), exponent), to=DOUBLE)
    digits = op.Ceil(mantissa_bits)
    return (2.0 - op.Pow(op.CastLike(2.0, digits), -digits)) * power


@standard_script
def clip_to_range(v: Tensor, maximum: Tensor) -> Tensor:
    """Saturates at +-maximum; NaN passes."""
    above = op.Where(v < -maximum, -maximum, v)
    return op.Where(above > maximum, maximum, above)


@standard_script
def overflow_to_infinity(v: Tensor, maximum: Tensor) -> Tensor:
    """Turns values beyond +-maximum into infinities of their sign; NaN passes."""
    infinity = op.CastLike(op.Constant(value=INFINITY), v)
    above = op.Where(v < -maximum, -infinity, v)
    return op.Where(v > maximum, infinity, above)


@standard_script
def overflow_to_nan(v: Tensor, maximum: Tensor) -> Tensor:
    """Turns values beyond +-maximum, and infinities in any case, into NaN."""
    overflow = op.Or(op.Abs(v) > maximum, op.IsInf(v))
    return op.Where(overflow, op.CastLike(op.Constant(value=NAN), v), v)


ROUNDING: Final[Mapping[str, Script]] = {
    "ROUND": half_even,
    "CEIL": ceil,
    "FLOOR": floor,
    "UP": away_from_zero,
    "DOWN": toward_zero,
    "HALF_UP": half_away_from_zero,
    "HALF_DOWN": half_toward_zero,
}
LOG2: Final[Mapping[int, Script]] = {FLOAT: log2_of_float, DOUBLE: log2_of_double}
OVERFLOW: Final[Mapping[str, Script]] = {
    "": clip_to_range,
    "INF": overflow_to_infinity,
    "NAN": overflow_to_nan,
}
PIECES: Final[Sequence[Script]] = (
    *ROUNDING.values(),
    *LOG2.values(),
    *OVERFLOW.values(),
    to_bipolar,
    clamp_to_width,
    largest_minifloat,
)
"""Everything that a body may call."""
