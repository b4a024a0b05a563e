"""Quant, the uniform quantizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.nn.quantizer import Parameter, Quantizer
from qonnx_torch.nn.scales import ScaleTraining
from qonnx_torch.ops.quantizers.gradients import Gradient
from qonnx_torch.ops.quantizers.operators import integer_bounds, quant
from qonnx_torch.ops.quantizers.rounding import resolve_rounding_mode, straight_through
from qonnx_torch.registry import REGISTRY

__all__ = ["Quant"]


class Quant(Quantizer):
    """Uniform quantizer: y = (round(clamp(x / scale + zero_point, low, high)) - zero_point) * scale.

    Args:
        scale: broadcastable to x; None where the graph computes it (likewise the next two).
        zero_point: broadcastable to x.
        bit_width: one value, in bits; assign it, or use `set_bit_width`, to change it.
        signed: whether the integers are signed.
        narrow: drop the lowest (signed) or highest (unsigned) integer.
        rounding_mode: ROUND, CEIL, FLOOR, UP, DOWN, HALF_UP or HALF_DOWN, in any case.
        gradient: `ste`, `pass`, `lsq` or `pact`; see `qonnx_torch.ops.quantizers.gradients`. Free to be
            set later.
        batched: whether the first dimension of x is a batch, as with activations; LSQ's gradient scale
            1 / sqrt(N high) does not count it. Free to be set later.

    Shape: any x -> the same shape. dtype: float32 (or x's, where scale has the same).
    Raises: InvalidModelError for an unknown rounding mode; ValueError in `forward` for a parameter that is
    owned and given, or neither.
    Source: QONNX 1.0.0, operator IntQuant. See `qonnx_torch.ops.quant`.
    """

    parameter_names = ("scale", "zero_point", "bit_width")
    learnable = ("zero_point", "bit_width")

    def __init__(
        self,
        scale: Parameter = 1.0,
        zero_point: Parameter = 0.0,
        bit_width: Parameter = 8,
        *,
        signed: bool = True,
        narrow: bool = False,
        rounding_mode: str = "ROUND",
        gradient: Gradient = "ste",
        batched: bool = True,
    ) -> None:
        super().__init__()
        self._own(scale=scale, zero_point=zero_point, bit_width=bit_width)
        self.gradient: Gradient = gradient
        self.batched = batched
        self.signed = bool(signed)
        self.narrow = bool(narrow)
        self.rounding_mode = resolve_rounding_mode(rounding_mode)
        self._one_bit: bool | None = None
        self._refresh_one_bit()

    def train_parameters(
        self,
        *,
        scale: ScaleTraining = "frozen",
        zero_point: Literal["frozen", "learned"] = "frozen",
        bit_width: Literal["frozen", "learned"] = "frozen",
    ) -> None:
        """Chooses what is learned, from the values as they stand; can be called again at any time.

        Args:
            scale: `frozen`, `step`, `threshold`, `log2`, `power_of_two` or `statistics`; see `nn.scales`.
            zero_point: `learned` makes it a parameter, rounded to whole numbers (straight-through), so that 0
                stays on the grid.
            bit_width: `learned` makes it a parameter, rounded to whole bits (straight-through), at least 2.
                Another bit halves the steps of a range that stays where the scale is a `threshold` or of
                `statistics`, else it doubles the range of steps that stay.

        Raises:
            QonnxTorchError: an unknown kind, a parameter that is computed elsewhere, a scale that is not
                positive, or a learned bit width of a 1-bit quantizer.
        """
        current = self.current_parameters()
        wanted = {"zero_point": zero_point, "bit_width": bit_width}
        for name, kind in wanted.items():
            if kind not in ("frozen", "learned"):
                raise QonnxTorchError(f"{name} training {kind!r} does not exist; known: frozen, learned")
            if kind == "learned" and name not in current:
                raise QonnxTorchError(f"{name} is computed elsewhere in the graph; it cannot be learned here")
        if bit_width == "learned" and self._one_bit:
            raise QonnxTorchError("a bit width of 1 cannot be learned: one bit is another quantizer")
        for name, kind in wanted.items():
            if kind == "learned" and bool((current[name] % 1 != 0).any()):
                what = name.replace("_", " ")
                raise QonnxTorchError(f"only whole {what}s can be learned; round it first")
        known = {name: getattr(self, name, None) for name in wanted}
        super().train_parameters(scale=scale)
        for name, kind in wanted.items():
            if kind == "learned":
                parameter = known[name]
                self._learn(name, current[name], parameter if isinstance(parameter, nn.Parameter) else None)
        self.unfreeze()

    def _threshold(self, *others: Tensor) -> Tensor:
        _, bit_width = others
        if self.signed and self._one_bit:
            return torch.ones((), device=bit_width.device)  # +-1, also where narrow
        low, high = integer_bounds(bit_width, signed=self.signed, narrow=self.narrow)
        threshold = -low if self.signed else high
        return threshold.reshape(()) if threshold.numel() == 1 else threshold

    def integer_range(self) -> tuple[Tensor, Tensor]:
        """Returns the smallest and largest integer. Raises QonnxTorchError without a bit width of its own."""
        self.current_tensor("bit_width")
        return integer_bounds(self._owned()["bit_width"], signed=self.signed, narrow=self.narrow)

    def _owned(self) -> dict[str, Tensor]:
        self._refresh_one_bit()  # the bit width may have been changed in place, which nothing announces
        owned = super()._owned()
        if isinstance(self.bit_width, nn.Parameter):
            owned["bit_width"] = _whole_bits(owned["bit_width"])
        if isinstance(self.zero_point, nn.Parameter):
            owned["zero_point"] = torch.round(owned["zero_point"])
        return owned

    def _resolve(self, *given: Tensor | None) -> list[Tensor]:
        scale, zero_point, bit_width = super()._resolve(*given)
        if isinstance(self.bit_width, nn.Parameter):
            bit_width = _whole_bits(bit_width)
        if isinstance(self.zero_point, nn.Parameter):
            zero_point = straight_through(zero_point, torch.round(zero_point.detach()))
        return [scale, zero_point, bit_width]

    def _refresh_one_bit(self) -> None:
        # Read once, not in forward: a value read there would break graph capture and wait for the GPU.
        bits = self.bit_width
        if isinstance(bits, Tensor) and not bits.is_meta:
            self._one_bit = bool((bits == 1).all())
        else:
            self._one_bit = None

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], *args: Any) -> None:
        super()._load_from_state_dict(state_dict, *args)
        self._refresh_one_bit()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "bit_width" and "_one_bit" in self.__dict__:
            self._refresh_one_bit()

    def set_bit_width(self, bit_width: Tensor | float | int) -> None:
        """Replaces the owned bit width (bits), keeping its shape, dtype and device."""
        with torch.no_grad():
            self.current_tensor("bit_width").fill_(float(bit_width))
        self._refresh_one_bit()

    def onnx_attributes(self) -> dict[str, Any]:
        """Returns signed, narrow and rounding_mode."""
        return {"signed": int(self.signed), "narrow": int(self.narrow), "rounding_mode": self.rounding_mode}

    def forward(
        self,
        x: Tensor,
        scale: Tensor | None = None,
        zero_point: Tensor | None = None,
        bit_width: Tensor | None = None,
    ) -> Tensor:
        """Returns x quantized and dequantized; pass exactly the parameters that the module does not own."""
        return self._run(x, scale, zero_point, bit_width)

    def _quantize(self, x: Tensor, *parameters: Tensor) -> Tensor:
        return quant(
            x,
            *parameters,
            signed=self.signed,
            narrow=self.narrow,
            rounding_mode=self.rounding_mode,
            one_bit=self._one_bit,
            gradient=self.gradient,
            elements=self._elements(x) if self.gradient == "lsq" else None,
        )

    def _elements(self, x: Tensor) -> int:
        return math.prod(x.shape[1:]) if self.batched and x.dim() > 0 else x.numel()


def _whole_bits(bit_width: Tensor) -> Tensor:
    return straight_through(bit_width, torch.clamp_min(torch.round(bit_width.detach()), 2.0))


REGISTRY.add_module(quant, Quant)
