"""The other quantizer modules: they own their parameters, and compute with the functions in `ops`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qonnx_torch.nn.quantizer import Parameter, Quantizer
from qonnx_torch.ops.quantizers.gradients import FLOAT_GRADIENTS, TRUNC_GRADIENTS, Gradient
from qonnx_torch.ops.quantizers.minifloat import largest_float
from qonnx_torch.ops.quantizers.operators import bipolar_quant, float_quant, multi_threshold, trunc, trunc_v1
from qonnx_torch.ops.quantizers.rounding import resolve_rounding_mode
from qonnx_torch.registry import REGISTRY

__all__ = ["BipolarQuant", "FloatQuant", "MultiThreshold", "Trunc", "TruncV1"]


class BipolarQuant(Quantizer):
    """Bipolar quantizer: +scale where x >= 0, else -scale.

    Args:
        scale: broadcastable to x; None where the graph computes it.
        gradient: `pass`, or clipped (`ste`); see `qonnx_torch.ops.bipolar_quant`. Free to be set later.

    Shape: any x -> the same shape. Source: QONNX 1.0.0, operator BipolarQuant.
    """

    parameter_names = ("scale",)
    statistic = "mean"

    def __init__(self, scale: Parameter = 1.0, *, gradient: Gradient = "pass") -> None:
        super().__init__()
        self._own(scale=scale)
        self.gradient: Gradient = gradient

    def onnx_attributes(self) -> dict[str, Any]:
        """Returns an empty dictionary: the operator has no attributes."""
        return {}

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Returns x binarized; pass scale exactly when the module does not own it."""
        return self._run(x, scale)

    def _quantize(self, x: Tensor, *parameters: Tensor) -> Tensor:
        return bipolar_quant(x, *parameters, gradient=self.gradient)

    def _threshold(self, *others: Tensor) -> Tensor:
        return self.current_tensor("scale").new_ones((), dtype=torch.float32)


class Trunc(Quantizer):
    """Truncation of least significant bits, keeping the value's size (QONNX Trunc, version 2).

    Args:
        scale: scale of x.
        zero_point: zero point of x.
        input_bit_width: bits of x (not used in the computation).
        output_scale: scale of the result.
        output_bit_width: bits of the result.
        signed: whether the integers are signed.
        narrow: drop the lowest (signed) or highest (unsigned) integer.
        rounding_mode: as in `Quant`; FLOOR by default.
        gradient: `ste` or `pass`; see `qonnx_torch.ops.quantizers.truncation`. Free to be set later.

    Shape: any x -> the same shape. Source: QONNX 1.0.0, operator Trunc version 2; see `ops.trunc`.
    """

    parameter_names = ("scale", "zero_point", "input_bit_width", "output_scale", "output_bit_width")
    gradients = TRUNC_GRADIENTS

    def __init__(
        self,
        scale: Parameter,
        zero_point: Parameter,
        input_bit_width: Parameter,
        output_scale: Parameter,
        output_bit_width: Parameter,
        *,
        signed: bool = True,
        narrow: bool = False,
        rounding_mode: str = "FLOOR",
        gradient: Gradient = "ste",
    ) -> None:
        super().__init__()
        self._own(
            scale=scale,
            zero_point=zero_point,
            input_bit_width=input_bit_width,
            output_scale=output_scale,
            output_bit_width=output_bit_width,
        )
        self.signed = bool(signed)
        self.narrow = bool(narrow)
        self.rounding_mode = resolve_rounding_mode(rounding_mode)
        self.gradient: Gradient = gradient

    def onnx_attributes(self) -> dict[str, Any]:
        """Returns signed, narrow and rounding_mode."""
        return {"signed": int(self.signed), "narrow": int(self.narrow), "rounding_mode": self.rounding_mode}

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        """Returns x truncated; pass exactly the parameters that the module does not own."""
        return self._run(x, *parameters)

    def _quantize(self, x: Tensor, *parameters: Tensor) -> Tensor:
        return trunc(
            x,
            *parameters,
            signed=self.signed,
            narrow=self.narrow,
            rounding_mode=self.rounding_mode,
            gradient=self.gradient,
        )


class TruncV1(Quantizer):
    """Truncation as a shift right that keeps the input scale (QONNX Trunc, version 1).

    Args:
        scale: scale of x and of the result.
        zero_point: zero point of x and of the result.
        input_bit_width: bits of x.
        output_bit_width: bits of the result.
        rounding_mode: as in `Quant`; FLOOR by default.
        gradient: `ste` or `pass`, which are the same here. Free to be set later.

    Shape: any x -> the same shape. Source: QONNX 1.0.0, operator Trunc version 1; see `ops.trunc_v1`.
    """

    parameter_names = ("scale", "zero_point", "input_bit_width", "output_bit_width")
    gradients = TRUNC_GRADIENTS
    switchable = False

    def __init__(
        self,
        scale: Parameter,
        zero_point: Parameter,
        input_bit_width: Parameter,
        output_bit_width: Parameter,
        *,
        rounding_mode: str = "FLOOR",
        gradient: Gradient = "ste",
    ) -> None:
        super().__init__()
        self._own(
            scale=scale,
            zero_point=zero_point,
            input_bit_width=input_bit_width,
            output_bit_width=output_bit_width,
        )
        self.rounding_mode = resolve_rounding_mode(rounding_mode)
        self.gradient: Gradient = gradient

    def onnx_attributes(self) -> dict[str, Any]:
        """Returns rounding_mode."""
        return {"rounding_mode": self.rounding_mode}

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        """Returns x truncated; pass exactly the parameters that the module does not own."""
        return self._run(x, *parameters)

    def _quantize(self, x: Tensor, *parameters: Tensor) -> Tensor:
        return trunc_v1(x, *parameters, rounding_mode=self.rounding_mode, gradient=self.gradient)


class FloatQuant(Quantizer):
    """Minifloat quantizer.

    Args:
        scale: broadcastable to x.
        exponent_bit_width: bits of the exponent.
        mantissa_bit_width: bits of the mantissa.
        exponent_bias: bias of the exponent.
        max_val: largest magnitude on the scaled grid.
        has_inf: without saturation, overflow becomes infinity.
        has_nan: without saturation and has_inf, overflow becomes NaN.
        has_subnormal: carried along; no effect on values.
        saturation: overflow becomes the largest value.
        rounding_mode: as in `Quant`.
        gradient: `ste`, `pass` or `lsq`; see `qonnx_torch.ops.quantizers.minifloat`. Free to be set later.

    Shape: any x -> the same shape. Source: QONNX 1.0.0, operator FloatQuant; see `ops.float_quant`.
    """

    parameter_names = ("scale", "exponent_bit_width", "mantissa_bit_width", "exponent_bias", "max_val")
    gradients = FLOAT_GRADIENTS

    def __init__(
        self,
        scale: Parameter,
        exponent_bit_width: Parameter,
        mantissa_bit_width: Parameter,
        exponent_bias: Parameter,
        max_val: Parameter,
        *,
        has_inf: bool = False,
        has_nan: bool = False,
        has_subnormal: bool = True,
        saturation: bool = True,
        rounding_mode: str = "ROUND",
        gradient: Gradient = "ste",
    ) -> None:
        super().__init__()
        self._own(
            scale=scale,
            exponent_bit_width=exponent_bit_width,
            mantissa_bit_width=mantissa_bit_width,
            exponent_bias=exponent_bias,
            max_val=max_val,
        )
        self.has_inf = bool(has_inf)
        self.has_nan = bool(has_nan)
        self.has_subnormal = bool(has_subnormal)
        self.saturation = bool(saturation)
        self.rounding_mode = resolve_rounding_mode(rounding_mode)
        self.gradient: Gradient = gradient

    def onnx_attributes(self) -> dict[str, Any]:
        """Returns has_inf, has_nan, has_subnormal, saturation and rounding_mode."""
        flags = ("has_inf", "has_nan", "has_subnormal", "saturation")
        return {**{f: int(getattr(self, f)) for f in flags}, "rounding_mode": self.rounding_mode}

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        """Returns x rounded to the minifloat grid; pass exactly the parameters the module does not own."""
        return self._run(x, *parameters)

    def _quantize(self, x: Tensor, *parameters: Tensor) -> Tensor:
        return float_quant(
            x,
            *parameters,
            has_inf=self.has_inf,
            has_nan=self.has_nan,
            has_subnormal=self.has_subnormal,
            saturation=self.saturation,
            rounding_mode=self.rounding_mode,
            gradient=self.gradient,
        )

    def _threshold(self, *others: Tensor) -> Tensor:
        exponent_bits, mantissa_bits, bias, max_val = others
        return torch.minimum(largest_float(exponent_bits, mantissa_bits, bias), max_val).to(torch.float32)


class MultiThreshold(Quantizer):
    """Staircase: out_scale * (number of thresholds <= x, per channel) + out_bias.

    Args:
        thresholds: (C, T), or (1, T) for all channels; None where the graph computes them.
        out_dtype: QONNX datatype of the result; carried along.
        out_scale: factor on the count.
        out_bias: added to the scaled count.
        data_layout: for example "NCHW" or "NHWC"; empty means by rank.

    Shape: (N, C, ...) -> the same shape. Source: QONNX 1.0.0, operator MultiThreshold.
    """

    parameter_names = ("thresholds",)
    switchable = False

    def __init__(
        self,
        thresholds: Tensor | None,
        *,
        out_dtype: str = "",
        out_scale: float = 1.0,
        out_bias: float = 0.0,
        data_layout: str = "",
    ) -> None:
        super().__init__()
        self._own(thresholds=thresholds)
        self.out_dtype = out_dtype
        self.out_scale = float(out_scale)
        self.out_bias = float(out_bias)
        self.data_layout = data_layout

    def onnx_attributes(self) -> dict[str, Any]:
        """Returns out_dtype, out_scale, out_bias and data_layout."""
        names = ("out_dtype", "out_scale", "out_bias", "data_layout")
        return {name: getattr(self, name) for name in names}

    def forward(self, x: Tensor, thresholds: Tensor | None = None) -> Tensor:
        """Returns the staircase; pass thresholds exactly when the module does not own them."""
        return self._run(x, thresholds)

    def _quantize(self, x: Tensor, *parameters: Tensor) -> Tensor:
        return multi_threshold(x, *parameters, **self.onnx_attributes())


for _function, _module in (
    (bipolar_quant, BipolarQuant),
    (trunc, Trunc),
    (trunc_v1, TruncV1),
    (float_quant, FloatQuant),
    (multi_threshold, MultiThreshold),
):
    REGISTRY.add_module(_function, _module)
