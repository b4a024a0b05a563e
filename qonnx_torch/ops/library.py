"""The quantizers as `torch.library` operators in the namespace `qonnx_torch`.

Each has a CompositeImplicitAutograd implementation in plain torch operations: one node under `torch.export`
and symbolic tracing, fused by `torch.compile`, differentiable by ordinary autograd (straight-through at the
rounding), and usable under `torch.func`.

The forward value is bit for bit that of qonnx 1.0.0, which computes in NumPy: the arithmetic follows NumPy's
type promotion (a float64 scale, or an int64 zero point, makes float64 arithmetic), divides truly, clamps,
then rounds. The result is float32, or has the dtype of x where x and scale share another floating dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qonnx_torch.ops.gradients import carry_gradient, clamp, scaled_gradient
from qonnx_torch.ops.rounding import ROUNDING_MODES, gradients_flow, round_to_integer, straight_through

__all__ = ["integer_bounds"]


def _promote(*tensors: Tensor) -> torch.dtype:
    """Returns the dtype in which NumPy computes with these tensors; half precision counts as float32."""
    wide = (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)
    return torch.float64 if any(t.dtype in wide for t in tensors) else torch.float32


def _result_dtype(x: Tensor, scale: Tensor) -> torch.dtype:
    return x.dtype if x.dtype == scale.dtype and x.is_floating_point() else torch.float32


def _shift(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Returns x / scale + zero_point in NumPy's promoted dtypes."""
    carrier = _promote(x, scale)
    y = x.to(carrier) / scale.to(carrier)
    carrier = _promote(y, zero_point)
    return y.to(carrier) + zero_point.to(carrier)


def _unshift(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Returns (q - zero_point) * scale in NumPy's promoted dtypes."""
    carrier = _promote(q, zero_point)
    y = q.to(carrier) - zero_point.to(carrier)
    carrier = _promote(y, scale)
    return y.to(carrier) * scale.to(carrier)


def integer_bounds(bit_width: Tensor, *, signed: bool, narrow: bool) -> tuple[Tensor, Tensor]:
    """Returns the smallest and largest integer of a quantizer, in the dtype of bit_width.

    signed: [-2^(b-1) (+1 if narrow), 2^(b-1) - 1]; unsigned: [0, 2^b - 1 (-1 if narrow)].
    The operator's text lets narrow act on signed quantizers only; the reference and Brevitas narrow both.

    >>> [int(v) for v in integer_bounds(torch.tensor(8), signed=False, narrow=True)]
    [0, 254]
    """
    if signed:
        half = torch.pow(2, bit_width - 1)
        return (-half + 1 if narrow else -half), half - 1
    return 0 * bit_width, torch.pow(2, bit_width) - (2 if narrow else 1)


def _bipolar(y: Tensor, unit: Tensor | float, gradient: str) -> Tensor:
    """Returns +1 where y >= 0, else -1 (also for NaN), with the gradient of y or of y clipped to +-unit."""
    one = torch.ones_like(y)
    q = torch.where(y.detach() >= 0, one, -one)
    if gradient == "pass":
        return straight_through(y, q)
    unit = torch.as_tensor(unit, dtype=y.dtype, device=y.device)
    return straight_through(clamp(y, -unit, unit), q)


def _quant_impl(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    bit_width: Tensor,
    *,
    signed: bool,
    narrow: bool,
    rounding_mode: str,
    one_bit: bool | None,
    gradient: str = "ste",
    elements: int | None = None,
) -> Tensor:
    low, high = integer_bounds(bit_width, signed=signed, narrow=narrow)
    step = scale if elements is None else scaled_gradient(scale, high, elements)
    y = _shift(x, step, zero_point)
    q = ROUNDING_MODES[rounding_mode](clamp(y, low, high).detach())
    q = carry_gradient(y, q, low, high, rounding_mode=rounding_mode, gradient=gradient)
    if signed and one_bit is not False:
        bipolar = _bipolar(y, 1.0, gradient)
        q = bipolar if one_bit else torch.where(bit_width == 1, bipolar, q)
    result = _unshift(q, step, zero_point).to(_result_dtype(x, scale))
    if gradient == "pact" and one_bit is not True and gradients_flow():
        clipped = torch.where(y < low, _unshift(low, step, zero_point).to(x.dtype), x)
        clipped = torch.where(y >= high, _unshift(high, step, zero_point).to(x.dtype), clipped)
        result = straight_through(clipped.to(result.dtype), result)
    return result


def _bipolar_quant_impl(x: Tensor, scale: Tensor, *, gradient: str = "pass") -> Tensor:
    carrier = _promote(x, scale)
    unit = scale.to(carrier)
    return (_bipolar(x.to(carrier), unit, gradient) * unit).to(_result_dtype(x, scale))


def _trunc_impl(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    input_bit_width: Tensor,
    output_scale: Tensor,
    output_bit_width: Tensor,
    *,
    signed: bool,
    narrow: bool,
    rounding_mode: str,
) -> Tensor:
    y = round_to_integer(_shift(x, scale, zero_point), "ROUND")
    carrier = _promote(scale, output_scale)
    ratio = output_scale.to(carrier) / scale.to(carrier)
    step = torch.exp2(round_to_integer(torch.log2(ratio), "ROUND"))
    carrier = _promote(y, step)
    y = y.to(carrier) / step.to(carrier)
    low, high = integer_bounds(output_bit_width, signed=signed, narrow=narrow)
    q = round_to_integer(clamp(y, low, high), rounding_mode)
    carrier = _promote(zero_point, step)
    output_zero_point = zero_point.to(carrier) / step.to(carrier)
    return _unshift(q, output_scale, output_zero_point).to(_result_dtype(x, scale))


def _trunc_v1_impl(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    input_bit_width: Tensor,
    output_bit_width: Tensor,
    *,
    rounding_mode: str,
) -> Tensor:
    y = round_to_integer(_shift(x, scale, zero_point), "ROUND")
    carrier = _promote(input_bit_width, output_bit_width)
    step = torch.pow(2.0, input_bit_width.to(carrier) - output_bit_width.to(carrier))
    carrier = _promote(y, step)
    q = round_to_integer(y.to(carrier) / step.to(carrier), rounding_mode)
    return _unshift(q, scale, zero_point).to(_result_dtype(x, scale))


def _float_quant_impl(
    x: Tensor,
    scale: Tensor,
    exponent_bit_width: Tensor,
    mantissa_bit_width: Tensor,
    exponent_bias: Tensor,
    max_val: Tensor,
    *,
    has_inf: bool,
    has_nan: bool,
    saturation: bool,
    rounding_mode: str,
) -> Tensor:
    carrier = _promote(x, scale)
    y = x.to(carrier) / scale.to(carrier)

    # The quantization step 2^(floor(log2 |y|) - mantissa bits), not below the step of the subnormals.
    # log2 is taken in float64 and rounded to the carrier: then floor() errs where the reference's correctly
    # rounded float32 log2 errs (just below powers of two), whatever log2 the device or compiler has.
    magnitude = torch.abs(y.detach()) + torch.finfo(carrier).tiny
    exponent = torch.floor(torch.log2(magnitude.to(torch.float64)).to(carrier))
    carrier = _promote(exponent, exponent_bias, mantissa_bit_width)
    bias, mantissa_bits = exponent_bias.to(carrier), mantissa_bit_width.to(carrier)
    step = torch.exp2(torch.maximum(exponent.to(carrier) - mantissa_bits, 1.0 - bias - mantissa_bits))

    carrier = _promote(y, step)
    y, step = y.to(carrier), step.to(carrier)
    q = step * round_to_integer(y / step, rounding_mode)

    largest = torch.minimum(_largest_float(exponent_bit_width, mantissa_bit_width, exponent_bias), max_val)
    largest = largest.to(torch.float64)
    q64 = q.to(torch.float64)
    overflow = torch.abs(q64.detach()) > largest
    result = torch.clamp(q64, -largest, largest)
    if not saturation:
        infinite = torch.copysign(torch.full_like(result, torch.inf), result) if has_inf else torch.nan
        result = torch.where(overflow, infinite, result)
    return (result * scale.to(torch.float64)).to(_result_dtype(x, scale))


def _largest_float(exponent_bit_width: Tensor, mantissa_bit_width: Tensor, exponent_bias: Tensor) -> Tensor:
    """Returns (2 - 2^-m) * 2^(2^e - 1 - bias), the largest value when no code is kept for inf or NaN.

    The reference adds the bits of the largest mantissa one by one: a fractional m counts as the next integer.
    """
    exponent = torch.pow(2.0, exponent_bit_width) - 1.0 - exponent_bias
    bits = torch.ceil(mantissa_bit_width.to(torch.float64))
    return (2.0 - torch.pow(2.0, -bits)) * torch.exp2(exponent.to(torch.float64))


def _multi_threshold_impl(
    x: Tensor, thresholds: Tensor, *, out_scale: float, out_bias: float, channel_axis: int
) -> Tensor:
    table = thresholds.reshape((*thresholds.shape[:-1], *[1] * (x.dim() - 1 - channel_axis), -1))
    count = (x.detach().unsqueeze(-1) >= table).sum(-1).to(x.dtype)
    first, last = table[..., 0], table[..., -1]
    steps = thresholds.shape[-1] - 1
    # Straight-through: the staircase is replaced by the line from its first to its last step.
    slope = torch.where(last > first, steps / (last - first), 1.0)
    line = torch.clamp(x, first, last) if steps else torch.clamp(x, first - 1, last + 1)
    return out_scale * straight_through(line * slope, count) + out_bias


_LIBRARY = torch.library.Library("qonnx_torch", "DEF")

for _schema, _implementation in (
    (
        "quant(Tensor x, Tensor scale, Tensor zero_point, Tensor bit_width, *, bool signed, bool narrow, "
        "str rounding_mode, bool? one_bit, str gradient='ste', SymInt? elements=None) -> Tensor",
        _quant_impl,
    ),
    ("bipolar_quant(Tensor x, Tensor scale, *, str gradient='pass') -> Tensor", _bipolar_quant_impl),
    (
        "trunc(Tensor x, Tensor scale, Tensor zero_point, Tensor input_bit_width, Tensor output_scale, "
        "Tensor output_bit_width, *, bool signed, bool narrow, str rounding_mode) -> Tensor",
        _trunc_impl,
    ),
    (
        "trunc_v1(Tensor x, Tensor scale, Tensor zero_point, Tensor input_bit_width, "
        "Tensor output_bit_width, *, str rounding_mode) -> Tensor",
        _trunc_v1_impl,
    ),
    (
        "float_quant(Tensor x, Tensor scale, Tensor exponent_bit_width, Tensor mantissa_bit_width, "
        "Tensor exponent_bias, Tensor max_val, *, bool has_inf, bool has_nan, bool saturation, "
        "str rounding_mode) -> Tensor",
        _float_quant_impl,
    ),
    (
        "multi_threshold(Tensor x, Tensor thresholds, *, float out_scale, float out_bias, "
        "int channel_axis) -> Tensor",
        _multi_threshold_impl,
    ),
):
    _LIBRARY.define(_schema)
    _name = _schema.partition("(")[0]
    _LIBRARY.impl(_name, _implementation, "CompositeImplicitAutograd")
    # Under vmap too the operator is its parts; without this, vmap loops over the samples and warns.
    _LIBRARY.impl(_name, _implementation, "FuncTorchBatchedDecomposition")
