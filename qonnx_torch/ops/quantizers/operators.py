"""What the QONNX quantizers mean: Quant/IntQuant, BipolarQuant, Trunc, FloatQuant, MultiThreshold.

The functions resolve their arguments and call the operators of `qonnx_torch.ops.quantizers.library`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import as_tensor, operator
from qonnx_torch.ops.quantizers.gradients import FLOAT_GRADIENTS, TRUNC_GRADIENTS, Gradient, resolve_gradient
from qonnx_torch.ops.quantizers.library import TensorLike, implementation, integer_bounds, parameter
from qonnx_torch.ops.quantizers.rounding import resolve_rounding_mode
from qonnx_torch.registry import QONNX_DOMAIN, REGISTRY

__all__ = ["bipolar_quant", "float_quant", "integer_bounds", "multi_threshold", "quant", "trunc", "trunc_v1"]


@operator(
    "Quant",
    domain=QONNX_DOMAIN,
    required=("signed", "narrow"),
    python_only=("one_bit", "gradient", "elements"),
    on_numbers=True,
)
def quant(
    x: Tensor,
    scale: TensorLike,
    zero_point: TensorLike,
    bit_width: TensorLike,
    *,
    signed: bool = True,
    narrow: bool = False,
    rounding_mode: str = "ROUND",
    one_bit: bool | None = None,
    gradient: Gradient = "ste",
    elements: int | None = None,
) -> Tensor:
    """Returns x rounded to a uniform integer grid, dequantized (QONNX Quant, also called IntQuant).

    (round(clamp(x / scale + zero_point, low, high)) - zero_point) * scale, with low and high from
    `integer_bounds`. A signed quantizer of 1 bit is bipolar: +1 where x / scale + zero_point >= 0, else -1.

    Args:
        x: any shape, floating.
        scale: broadcastable to x; > 0 in practice (0 gives NaN, negative values work).
        zero_point: broadcastable to x; may be fractional.
        bit_width: one value, in bits; may be fractional (then the bounds are).
        signed: whether the integers are signed.
        narrow: drop the lowest (signed) or highest (unsigned) integer.
        rounding_mode: see `resolve_rounding_mode`.
        one_bit: whether bit_width is 1 where that is known beforehand; None decides on the tensor, which
            costs a second branch. A Python number as bit_width makes it known.
        gradient: `ste`, `pass`, `lsq` or `pact`; see `qonnx_torch.ops.quantizers.gradients`.
        elements: for `lsq`, the N of its gradient scale 1 / sqrt(N high): the number of weights, or of
            features for activations; None leaves the gradient of scale unscaled.

    Returns:
        The shape of x broadcast with the parameters; float32, or x's dtype where scale has the same.

    Raises:
        InvalidModelError: unknown rounding mode.
        QonnxTorchError: unknown gradient.

    Source: QONNX 1.0.0, operator IntQuant. The gradient reaches x, scale, zero_point and bit_width.

    >>> quant(torch.tensor([0.5, 1.5, 2.5, -9.0]), 1.0, 0.0, 3)
    tensor([ 0.,  2.,  2., -4.])
    """
    if one_bit is None and not isinstance(bit_width, Tensor):
        one_bit = bit_width == 1
    result: Tensor = implementation("quant", x)(
        x,
        parameter(scale, x),
        parameter(zero_point, x),
        parameter(bit_width, x),
        signed=bool(signed),
        narrow=bool(narrow),
        rounding_mode=resolve_rounding_mode(rounding_mode),
        one_bit=one_bit,
        gradient=resolve_gradient(gradient),
        elements=elements,
    )
    return result


# The operator's name since QONNX 1.0; files of both names are around, Quant is what every client reads.
REGISTRY.add(replace(REGISTRY.get(QONNX_DOMAIN, "Quant", 1), op_type="IntQuant"))


@operator("BipolarQuant", domain=QONNX_DOMAIN, on_numbers=True, python_only=("gradient",))
def bipolar_quant(x: Tensor, scale: TensorLike, *, gradient: Gradient = "pass") -> Tensor:
    """Returns +scale where x >= 0 (also for -0.0), else -scale (also for NaN).

    Args:
        x: any shape, floating.
        scale: broadcastable to x.
        gradient: `pass`: d/dx = scale everywhere (Brevitas' BinaryQuant, for weights); any other name: only
            where |x| <= scale (Brevitas' ClampedBinaryQuant, for activations).

    Returns:
        The shape of x broadcast with scale; float32, or x's dtype where scale has the same.

    Raises:
        QonnxTorchError: unknown gradient.

    Source: QONNX 1.0.0, operator BipolarQuant.

    >>> bipolar_quant(torch.tensor([-0.0, 0.1, -0.1]), 0.5)
    tensor([ 0.5000,  0.5000, -0.5000])
    """
    result: Tensor = implementation("bipolar_quant", x)(
        x, parameter(scale, x), gradient=resolve_gradient(gradient)
    )
    return result


@operator("Trunc", domain=QONNX_DOMAIN, since_version=2, on_numbers=True, python_only=("gradient",))
def trunc(
    x: Tensor,
    scale: TensorLike,
    zero_point: TensorLike,
    input_bit_width: TensorLike,
    output_scale: TensorLike,
    output_bit_width: TensorLike,
    *,
    signed: bool = True,
    narrow: bool = False,
    rounding_mode: str = "FLOOR",
    gradient: Gradient = "ste",
) -> Tensor:
    """Returns x with its least significant bits dropped (QONNX Trunc, version 2; keeps the value's size).

    With t = 2^round(log2(output_scale / scale)) and q = round(x / scale + zero_point):
    (mode(clamp(q / t, low, high)) - zero_point / t) * output_scale, bounds by output_bit_width.

    Args:
        x: any shape; a quantized tensor with the given scale and zero point.
        scale: scale of x, broadcastable.
        zero_point: zero point of x, broadcastable.
        input_bit_width: bits of x; carried along, the reference does not use it.
        output_scale: scale of the result; scale times a power of two.
        output_bit_width: bits of the result.
        signed: whether the integers are signed.
        narrow: drop the lowest (signed) or highest (unsigned) integer.
        rounding_mode: see `resolve_rounding_mode`.
        gradient: `ste` or `pass`; see `qonnx_torch.ops.quantizers.truncation`.

    Returns:
        The shape of x; float32, or x's dtype where scale has the same.

    Raises:
        InvalidModelError: unknown rounding mode.
        QonnxTorchError: a gradient that does not exist, or not for truncation.

    Source: QONNX 1.0.0, operator Trunc version 2.

    >>> trunc(torch.tensor([1.0, 6.0, 7.0, -1.0]), 1.0, 0.0, 8, 4.0, 6)
    tensor([ 0.,  4.,  4., -4.])
    """
    result: Tensor = implementation("trunc", x)(
        x,
        *(parameter(p, x) for p in (scale, zero_point, input_bit_width, output_scale, output_bit_width)),
        signed=bool(signed),
        narrow=bool(narrow),
        rounding_mode=resolve_rounding_mode(rounding_mode),
        gradient=resolve_gradient(gradient, "Trunc", TRUNC_GRADIENTS),
    )
    return result


@operator("Trunc", domain=QONNX_DOMAIN, since_version=1, on_numbers=True, python_only=("gradient",))
def trunc_v1(
    x: Tensor,
    scale: TensorLike,
    zero_point: TensorLike,
    input_bit_width: TensorLike,
    output_bit_width: TensorLike,
    *,
    rounding_mode: str = "FLOOR",
    gradient: Gradient = "ste",
) -> Tensor:
    """Returns x shifted right by input_bit_width - output_bit_width bits (QONNX Trunc, version 1).

    (mode(round(x / scale + zero_point) / 2^(input_bit_width - output_bit_width)) - zero_point) * scale:
    the result keeps the input scale, so its values are smaller than x by that power of two.

    Args:
        x: any shape; a quantized tensor with the given scale and zero point.
        scale: scale of x and of the result, broadcastable.
        zero_point: zero point of x and of the result, broadcastable.
        input_bit_width: bits of x.
        output_bit_width: bits of the result.
        rounding_mode: see `resolve_rounding_mode`.
        gradient: `ste` or `pass`, which are the same, since nothing is clamped.

    Returns:
        The shape of x; float32, or x's dtype where scale has the same.

    Raises:
        InvalidModelError: unknown rounding mode.
        QonnxTorchError: a gradient that does not exist, or not for truncation.

    Source: QONNX 1.0.0, operator Trunc version 1. Gradient: straight-through.

    >>> trunc_v1(torch.tensor([-2.25]), 0.25, 0.0, 8, 6)
    tensor([-0.7500])
    """
    resolve_gradient(gradient, "Trunc", TRUNC_GRADIENTS)
    result: Tensor = implementation("trunc_v1", x)(
        x,
        *(parameter(p, x) for p in (scale, zero_point, input_bit_width, output_bit_width)),
        rounding_mode=resolve_rounding_mode(rounding_mode),
    )
    return result


@operator(
    "FloatQuant",
    domain=QONNX_DOMAIN,
    required=("has_inf", "has_nan", "has_subnormal", "saturation"),
    on_numbers=True,
    python_only=("gradient",),
)
def float_quant(
    x: Tensor,
    scale: TensorLike,
    exponent_bit_width: TensorLike,
    mantissa_bit_width: TensorLike,
    exponent_bias: TensorLike,
    max_val: TensorLike,
    *,
    has_inf: bool = False,
    has_nan: bool = False,
    has_subnormal: bool = True,
    saturation: bool = True,
    rounding_mode: str = "ROUND",
    gradient: Gradient = "ste",
) -> Tensor:
    """Returns x rounded to a minifloat grid (QONNX FloatQuant; always signed, always with subnormals).

    With y = x / scale and step = 2^max(floor(log2|y|) - m, 1 - bias - m):
    clamp(round(y / step) * step, -largest, largest) * scale, where largest is
    min((2 - 2^-m) * 2^(2^e - 1 - bias), max_val). Infinite x gives NaN, as in the reference.

    Args:
        x: any shape, floating.
        scale: broadcastable to x, > 0.
        exponent_bit_width: e, bits.
        mantissa_bit_width: m, bits.
        exponent_bias: bias of the exponent, usually 2^(e-1) - 1.
        max_val: largest magnitude on the scaled grid (448 for OCP E4M3, where 480 would be a NaN code).
        has_inf: without saturation, overflow becomes infinity.
        has_nan: without saturation and has_inf, overflow becomes NaN.
        has_subnormal: carried along; the reference does not use it.
        saturation: overflow becomes the largest value.
        rounding_mode: see `resolve_rounding_mode`.
        gradient: `ste`, `pass` or `lsq`; see `qonnx_torch.ops.quantizers.minifloat`.

    Returns:
        The shape of x; float32, or x's dtype where scale has the same.

    Raises:
        InvalidModelError: unknown rounding mode, or neither saturation nor has_inf nor has_nan.
        QonnxTorchError: a gradient that does not exist, or not for minifloats.

    Source: QONNX 1.0.0, operator FloatQuant (the code, where it differs from the text).

    >>> float_quant(torch.tensor([0.3, 500.0, -1.0625]), 1.0, 4, 3, 7, 448.0).tolist()
    [0.3125, 448.0, -1.0]
    """
    if not (saturation or has_inf or has_nan):
        raise InvalidModelError(
            "FloatQuant without saturation needs a value for overflow: set has_inf or has_nan, or saturation"
        )
    result: Tensor = implementation("float_quant", x)(
        x,
        *(parameter(p, x) for p in (scale, exponent_bit_width, mantissa_bit_width, exponent_bias, max_val)),
        has_inf=bool(has_inf),
        has_nan=bool(has_nan),
        saturation=bool(saturation),
        rounding_mode=resolve_rounding_mode(rounding_mode),
        gradient=resolve_gradient(gradient, "FloatQuant", FLOAT_GRADIENTS),
    )
    return result


@operator("MultiThreshold", domain=QONNX_DOMAIN)
def multi_threshold(
    x: Tensor,
    thresholds: Tensor,
    *,
    out_dtype: str = "",
    out_scale: float = 1.0,
    out_bias: float = 0.0,
    data_layout: str = "",
) -> Tensor:
    """Returns out_scale * (number of thresholds <= x, per channel) + out_bias. NaN counts 0.

    Args:
        x: shape (N, C, ...), or with channels where `data_layout` has its C.
        thresholds: shape (C, T), or (1, T) for all channels.
        out_dtype: QONNX datatype of the result; carried along.
        out_scale: factor on the count.
        out_bias: added to the scaled count.
        data_layout: for example "NCHW" or "NHWC"; empty means NC, NWC, NCHW by rank, and axis 1 above.

    Returns:
        The shape and dtype of x.

    Raises:
        ValueError: thresholds do not fit the channels of x.

    Source: QONNX 1.0.0, operator MultiThreshold. Gradient: that of the line from the first to the last
    threshold, zero outside; with one threshold t, that of clamp(x, t - 1, t + 1).

    >>> multi_threshold(torch.tensor([[-1.0, 0.0, 5.0]]), torch.tensor([[0.0, 1.0, 2.0]]))
    tensor([[0., 1., 3.]])
    """
    layout = data_layout or {3: "NWC"}.get(x.dim(), "")
    axis = layout.index("C") if "C" in layout else 1
    if thresholds.dim() != 2 or thresholds.shape[0] not in (1, x.shape[axis]):
        raise ValueError(
            f"MultiThreshold: thresholds {tuple(thresholds.shape)} must be (C, T) or (1, T) for C = "
            f"{x.shape[axis]} channels on axis {axis} of x {tuple(x.shape)}"
        )
    result: Tensor = torch.ops.qonnx_torch.multi_threshold(
        x, as_tensor(thresholds), out_scale=float(out_scale), out_bias=float(out_bias), channel_axis=axis
    )
    return result
