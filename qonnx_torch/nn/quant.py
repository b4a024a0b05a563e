"""Quant, the uniform quantizer, and what all quantizer modules share: they own their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.nn.scales import ScaleTraining, StatisticsScale, make_scale
from qonnx_torch.ops.gradients import Gradient
from qonnx_torch.ops.library import integer_bounds
from qonnx_torch.ops.quantizers import quant
from qonnx_torch.ops.rounding import resolve_rounding_mode, straight_through
from qonnx_torch.registry import REGISTRY

__all__ = ["Parameter", "Quant", "Quantizer"]

Parameter = Tensor | float | int | None


class Quantizer(nn.Module):
    """Base of the quantizers: owned parameters are buffers, absent ones arrive as inputs of `forward`.

    `parameter_names` are the ONNX inputs after x, in order. A parameter given as None is computed elsewhere
    in the graph and passed to `forward` at its position; all others live here, under their names.
    """

    parameter_names: ClassVar[tuple[str, ...]] = ()

    def _own(self, **parameters: Parameter) -> None:
        for name, value in parameters.items():
            if value is not None and not isinstance(value, Tensor):
                value = torch.tensor(float(value))
            self.register_buffer(name, value)

    def _resolve(self, *given: Tensor | None) -> list[Tensor]:
        values = []
        padded = [*given, *[None] * (len(self.parameter_names) - len(given))]
        for name, value in zip(self.parameter_names, padded, strict=True):
            owned = getattr(self, name)
            if (owned is None) == (value is None):
                reason = "is neither owned nor given" if value is None else "is owned and given at once"
                raise ValueError(f"{type(self).__name__}: {name} {reason}")
            values.append(owned if value is None else value)
        return values

    def onnx_attributes(self) -> dict[str, Any]:
        """Returns the ONNX attributes of this quantizer, by ONNX name."""
        raise NotImplementedError

    def current_parameters(self) -> dict[str, Tensor]:
        """Returns the parameters as they stand, by name, without those that are computed elsewhere.

        What is learned in another form (a threshold, a logarithm) is given as the plain value it stands for.
        """
        owned = ((name, getattr(self, name)) for name in self.parameter_names)
        return {name: value.detach() for name, value in owned if value is not None}

    def extra_repr(self) -> str:
        """Shows the owned scalars and the attributes."""
        owned = ((n, getattr(self, n)) for n in self.parameter_names)
        shown = [
            f"{n}={v.item():g}" if v.numel() == 1 else f"{n}={tuple(v.shape)}"
            for n, v in owned
            if v is not None and not v.is_meta
        ]
        return ", ".join(shown + [f"{k}={v}" for k, v in self.onnx_attributes().items()])


class Quant(Quantizer):
    """Uniform quantizer: y = (round(clamp(x / scale + zero_point, low, high)) - zero_point) * scale.

    Args:
        scale: broadcastable to x; None where the graph computes it (likewise the next two).
        zero_point: broadcastable to x.
        bit_width: one value, in bits; assign it, or use `set_bit_width`, to change it.
        signed: whether the integers are signed.
        narrow: drop the lowest (signed) or highest (unsigned) integer.
        rounding_mode: ROUND, CEIL, FLOOR, UP, DOWN, HALF_UP or HALF_DOWN, in any case.
        gradient: `ste`, `pass`, `lsq` or `pact`; see `qonnx_torch.ops.gradients`. Free to be set later.
        batched: whether the first dimension of x is a batch, as with activations; LSQ's gradient scale
            1 / sqrt(N high) does not count it. Free to be set later.

    Shape: any x -> the same shape. dtype: float32 (or x's, where scale has the same).
    Raises: InvalidModelError for an unknown rounding mode; ValueError in `forward` for a parameter that is
    owned and given, or neither.
    Source: QONNX 1.0.0, operator IntQuant. See `qonnx_torch.ops.quant`.
    """

    parameter_names = ("scale", "zero_point", "bit_width")

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
        self.scale_training: nn.Module | None = None
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
            zero_point: `learned` makes it a parameter.
            bit_width: `learned` makes it a parameter, rounded to whole bits (straight-through), at least 2.

        Raises:
            QonnxTorchError: an unknown kind, a parameter that is computed elsewhere, a scale that is not
                positive, or a learned bit width of a 1-bit quantizer.
        """
        current = self.current_parameters()
        wanted = {"scale": scale, "zero_point": zero_point, "bit_width": bit_width}
        for name, kind in wanted.items():
            if kind != "frozen" and name not in current:
                raise QonnxTorchError(f"{name} is computed elsewhere in the graph; it cannot be {kind} here")
        for name, kind in (("zero_point", zero_point), ("bit_width", bit_width)):
            if kind not in ("frozen", "learned"):
                raise QonnxTorchError(f"{name} training {kind!r} does not exist; known: frozen, learned")
        if bit_width == "learned" and self._one_bit:
            raise QonnxTorchError("a bit width of 1 cannot be learned: one bit is another quantizer")
        if bit_width == "learned" and bool((current["bit_width"] % 1 != 0).any()):
            raise QonnxTorchError("only whole bit widths can be learned; round it first")
        for name, value in current.items():
            self._hold(name, value, learned=wanted[name] == "learned")
        self.scale_training = None
        if scale != "frozen":
            threshold = self._threshold(current["bit_width"]) if "bit_width" in current else None
            if threshold is None:
                raise QonnxTorchError("the bit width is computed elsewhere; the scale's range is unknown")
            self.scale_training = make_scale(scale, current["scale"], threshold)

    def current_tensor(self, name: str) -> Tensor:
        """Returns an owned parameter's own tensor. Raises QonnxTorchError where it is computed elsewhere."""
        tensor = getattr(self, name)
        if not isinstance(tensor, Tensor):
            raise QonnxTorchError(f"{name} is computed elsewhere in the graph")
        return tensor

    def _hold(self, name: str, value: Tensor, *, learned: bool) -> None:
        """Keeps an owned parameter as a buffer, or as an `nn.Parameter` where it is learned."""
        delattr(self, name)
        if learned:
            floating = value if value.is_floating_point() else value.to(torch.float32)
            self.register_parameter(name, nn.Parameter(floating.clone()))
        else:
            self.register_buffer(name, value.clone())

    def _threshold(self, bit_width: Tensor) -> Tensor:
        low, high = integer_bounds(bit_width, signed=self.signed, narrow=self.narrow)
        threshold = -low if self.signed else high
        return threshold.reshape(()) if threshold.numel() == 1 else threshold

    def current_parameters(self) -> dict[str, Tensor]:
        """Returns scale, zero point and bit width as plain values, as far as they are owned."""
        self._refresh_one_bit()  # the bit width may have been changed in place, which nothing announces
        current = super().current_parameters()
        if "bit_width" in current:
            current["bit_width"] = self._whole_bits(current["bit_width"])
        training = self.scale_training
        if training is not None and not isinstance(training, StatisticsScale):
            with torch.no_grad():
                current["scale"] = training(current["scale"], self._threshold(current["bit_width"]))
        return current

    def _whole_bits(self, bit_width: Tensor) -> Tensor:
        if not isinstance(self.bit_width, nn.Parameter):
            return bit_width
        return straight_through(bit_width, torch.clamp_min(torch.round(bit_width.detach()), 2.0))

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
        s, z, b = self._resolve(scale, zero_point, bit_width)
        b = self._whole_bits(b)
        if self.scale_training is not None:
            learned = self.scale_training(x, self._threshold(b))
            if isinstance(self.scale_training, StatisticsScale):
                s.copy_(learned.detach())  # what an export writes
            s = learned
        return quant(
            x,
            s,
            z,
            b,
            signed=self.signed,
            narrow=self.narrow,
            rounding_mode=self.rounding_mode,
            one_bit=self._one_bit,
            gradient=self.gradient,
            elements=self._elements(x) if self.gradient == "lsq" else None,
        )

    def _elements(self, x: Tensor) -> int:
        return x.numel() // max(1, x.shape[0]) if self.batched and x.dim() > 0 else x.numel()


REGISTRY.add_module(quant, Quant)
