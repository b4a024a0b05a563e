"""Bodies of the quantizers: each function here makes the script of one variant of an operator.

Arguments of type int are ONNX element types, unless their makers say otherwise: of the steps that they name,
and of the output (`result`). What qonnx rounds to float32 at the end is cast twice; casts that change nothing
are dropped when a body is built. The docstring of a script travels in the model.

Source: QONNX operator specification, qonnx 1.0.0.
"""

from __future__ import annotations

from .pieces import (
    DOUBLE,
    FLOAT,
    LOG2,
    OVERFLOW,
    ROUNDING,
    TINY,
    Script,
    Tensor,
    clamp_to_width,
    largest_minifloat,
    op,
    standard_script,
    to_bipolar,
)

__all__ = [
    "bipolar_quant",
    "float_quant",
    "multi_threshold",
    "quant",
    "quant_bipolar",
    "quant_dynamic",
    "trunc_v1",
    "trunc_v2",
]


def quant(mode: str, quotient: int, sum_: int, width: int, result: int) -> Script:
    """Returns Quant for a bit width that is not 1 or is unsigned.

    y = clamp(x / scale + zeropt), then (rounding(y) - zeropt) * scale; scale and zeropt broadcast to x,
    bitwidth holds one value. `quotient`, `sum_` and `width` are the element types of x / scale, of the
    sum and all that follows, and of 2 ** bitwidth.

    Source: QONNX operator specification, IntQuant, qonnx 1.0.0 (clamps first, then rounds).
    """
    rounding = ROUNDING[mode]

    @standard_script
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
        q = rounding(clamp_to_width(y, op.Cast(bitwidth, to=width), signed=signed, narrow=narrow))
        return op.Cast(op.Cast((q - zero) * op.Cast(scale, to=sum_), to=FLOAT), to=result)

    return body


def quant_bipolar(quotient: int, sum_: int, result: int) -> Script:
    """Returns Quant for a signed bit width of 1: no clamp and no rounding, but +1 for y >= 0 and else -1.

    y = x / scale + zeropt, then (+-1 - zeropt) * scale. Element types as for `quant`.

    Source: QONNX operator specification, IntQuant, qonnx 1.0.0 (the special case is in its code only).
    """

    @standard_script
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
        return op.Cast(op.Cast((to_bipolar(y) - zero) * op.Cast(scale, to=sum_), to=FLOAT), to=result)

    return body


def quant_dynamic(mode: str, quotient: int, sum_: int, width: int, result: int) -> Script:
    """Returns Quant for a bit width that only the run decides: both of the above, selected by bitwidth == 1.

    Source: QONNX operator specification, IntQuant, qonnx 1.0.0.
    """
    rounding = ROUNDING[mode]

    @standard_script
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
        bits = op.Cast(bitwidth, to=width)
        rounded = rounding(clamp_to_width(y, bits, signed=signed, narrow=narrow))
        is_bipolar = bits * op.CastLike(op.Constant(value_int=signed), bits) == 1.0
        q = op.Where(is_bipolar, to_bipolar(y), rounded)
        return op.Cast(op.Cast((q - zero) * op.Cast(scale, to=sum_), to=FLOAT), to=result)

    return body


def bipolar_quant(result: int) -> Script:
    """Returns BipolarQuant: +scale for x >= 0 (both zeros), else -scale (NaN, too). Exact in any type.

    Source: QONNX operator specification, BipolarQuant, qonnx 1.0.0.
    """

    @standard_script
    def body(x: Tensor, scale: Tensor) -> Tensor:
        """(x >= 0 ? 1 : -1) * scale. QONNX specification, qonnx 1.0.0."""
        step = op.Cast(scale, to=result)
        return op.Where(x >= 0.0, op.CastLike(1.0, step), op.CastLike(-1.0, step)) * step

    return body


def trunc_v1(mode: str, quotient: int, sum_: int, step: int, result: int) -> Script:
    """Returns Trunc version 1 (5 inputs), which drops the low bits and keeps the input scale.

    y = round(x / scale + zeropt) / 2^(in_bitwidth - out_bitwidth), then (rounding(y) - zeropt) * scale.
    `quotient`, `sum_` and `step` are the element types of x / scale, the sum, and the power of two.

    Source: QONNX operator specification, Trunc (version 1), qonnx 1.0.0.
    """
    rounding = ROUNDING[mode]
    carrier = max(sum_, step)  # FLOAT < DOUBLE

    @standard_script
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
        trunc_scale = op.Cast(op.Pow(op.CastLike(2.0, dropped), dropped), to=carrier)
        q = rounding(op.Cast(op.Round(y), to=carrier) / trunc_scale)
        return op.Cast((q - op.Cast(zeropt, to=carrier)) * op.Cast(scale, to=carrier), to=result)

    return body


def trunc_v2(mode: str, quotient: int, sum_: int, step: int, width: int, result: int) -> Script:
    """Returns Trunc version 2 (6 inputs), which keeps the value: a clamp, and an output scale.

    t = 2^round(log2(out_scale / scale)), y = clamp(round(x / scale + zeropt) / t), then
    (rounding(y) - zeropt / t) * out_scale; in_bitwidth is not used. `step` is the element type of
    out_scale / scale and of t, `width` that of 2 ** out_bitwidth.

    Source: QONNX operator specification, Trunc (version 2), qonnx 1.0.0.
    """
    rounding = ROUNDING[mode]
    log2 = LOG2[step]
    carrier = max(sum_, step)  # FLOAT < DOUBLE

    @standard_script
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
        exponent = op.Round(log2(ratio))
        trunc_scale = op.Cast(op.Pow(op.CastLike(2.0, exponent), exponent), to=carrier)
        shifted = op.Cast(op.Round(y), to=carrier) / trunc_scale
        q = rounding(clamp_to_width(shifted, op.Cast(out_bitwidth, to=width), signed=signed, narrow=narrow))
        value = (q - op.Cast(zeropt, to=carrier) / trunc_scale) * op.Cast(out_scale, to=carrier)
        return op.Cast(value, to=result)

    return body


def float_quant(mode: str, overflow: str, scaled: int, grid: int, range_: int, result: int) -> Script:
    """Returns FloatQuant to a minifloat of given exponent and mantissa widths.

    v = x / scale, e = max(floor(log2(|v| + tiny)) - mantissa_bitwidth, 1 - exponent_bias -
    mantissa_bitwidth), q = 2^e * rounding(v / 2^e), M = min(largest value of the format, max_val); q beyond
    +-M saturates to +-M (`overflow` ""), becomes +-infinity ("INF") or NaN ("NAN"); then q * scale. An
    infinite v gives NaN, also where saturating. `scaled`, `grid` and `range_` are the element types of
    v, of q, and of M's exponent. The clip is in float64 as in NumPy, because the largest value is a float64
    there.

    Source: QONNX operator specification, FloatQuant, qonnx 1.0.0 (has_subnormal is ignored in its code).
    """
    rounding = ROUNDING[mode]
    log2 = LOG2[scaled]
    limit = OVERFLOW[overflow]
    tiny = TINY[scaled]

    @standard_script
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
        largest = largest_minifloat(
            op.Cast(exponent_bitwidth, to=range_),
            op.Cast(mantissa_bitwidth, to=DOUBLE),
            op.Cast(exponent_bias, to=range_),
        )
        maximum = op.Min(largest, op.Cast(max_val, to=DOUBLE))
        limited = limit(op.Cast(ulp * q, to=DOUBLE), maximum)
        return op.Cast(op.Cast(limited * op.Cast(scale, to=DOUBLE), to=FLOAT), to=result)

    return body


def multi_threshold(trailing: int, compared: int, counted: int, result: int) -> Script:
    """Returns MultiThreshold: how many of its channel's thresholds each element reaches, scaled and biased.

    out_scale * sum_t(x >= thresholds[channel, t]) + out_bias; thresholds (C or 1, T), NaN counts none.
    `trailing` is the number of axes of x after its channel axis; `compared` and `counted` are the
    element types of the comparison and of the count. The comparison holds T booleans per element.

    Source: QONNX operator specification, MultiThreshold, qonnx 1.0.0.
    """
    per_channel = [0, *[1] * trailing, -1]  # (C, T) -> (C, 1, ..., 1, T)

    @standard_script
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
