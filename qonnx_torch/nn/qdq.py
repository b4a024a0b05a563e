"""QuantizeDequantizeLinear, the uniform quantizer in ONNX's order."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qonnx_torch.dtypes import element_type_name, integer_range
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.nn.quantizer import Parameter, Quantizer
from qonnx_torch.nn.scales import ScaleTraining
from qonnx_torch.ops.quantizers.gradients import Gradient
from qonnx_torch.ops.quantizers.library import implementation
from qonnx_torch.ops.quantizers.qdq import quantize_dequantize_linear
from qonnx_torch.ops.quantizers.rounding import straight_through
from qonnx_torch.ops.quantizers.uniform_onnx import in_blocks, out_of_blocks
from qonnx_torch.registry import REGISTRY

__all__ = ["QuantizeDequantizeLinear"]


class QuantizeDequantizeLinear(Quantizer):
    """ONNX's QuantizeLinear (Clip) DequantizeLinear, as one quantizer.

    y = (clamp(round(x / scale) + zero_point, low, high) - zero_point) * scale. An import makes one where a
    Quant would compute other numbers (a zero point that is not 0), or could not say what it does (a Clip to
    bounds that no bit width has, scales per block). An export writes the pair again.

    Args:
        scale: broadcastable to x; None where the graph computes it (likewise the next). With blocks:
            broadcastable to x whose dimension `axis`, of size D, is split into (blocks, block_size).
        zero_point: like scale; whole numbers.
        low: smallest integer; None for that of the type.
        high: largest integer; None for that of the type.
        element_type: ONNX type of the integers (`TensorProto.INT8`, ...).
        axis: the dimension of x that parameters per axis, or blocks, belong to.
        block_size: elements per block along `axis`; 0 for none.
        gradient: `ste`, `pass`, `lsq` or `pact`; see `qonnx_torch.ops.quantizers.gradients`. Free to be
            set later.
        batched: whether the first dimension of x is a batch, which LSQ's gradient scale does not count.

    Shape: any x -> the same shape. dtype: float32 (or x's, where scale has the same).
    Raises: QonnxTorchError for an empty range or a type that is no integer's; ValueError in `forward` for a
    parameter that is owned and given, or neither.
    Source: ONNX QuantizeLinear-25, DequantizeLinear-25. See `qonnx_torch.ops.quantize_dequantize_linear`.
    """

    parameter_names = ("scale", "zero_point")
    learnable = ("zero_point",)

    def __init__(
        self,
        scale: Parameter = 1.0,
        zero_point: Parameter = 0.0,
        *,
        low: int | None = None,
        high: int | None = None,
        element_type: int = 3,
        axis: int = -1,
        block_size: int = 0,
        gradient: Gradient = "ste",
        batched: bool = True,
    ) -> None:
        super().__init__()
        self._own(scale=scale, zero_point=zero_point)
        smallest, largest = integer_range(element_type)
        self.low = smallest if low is None else max(int(low), smallest)
        self.high = largest if high is None else min(int(high), largest)
        if self.low >= self.high:
            raise QonnxTorchError(
                f"the integers from {low} to {high} are no range within {element_type_name(element_type)}"
            )
        self.element_type = int(element_type)
        self.axis = int(axis)
        self.block_size = int(block_size)
        self.gradient: Gradient = gradient
        self.batched = batched

    def train_parameters(
        self, *, scale: ScaleTraining = "frozen", zero_point: Literal["frozen", "learned"] = "frozen"
    ) -> None:
        """Chooses what is learned, from the values as they stand; can be called again at any time.

        Args:
            scale: `frozen`, `step`, `threshold`, `log2`, `power_of_two` or `statistics`; see `nn.scales`.
            zero_point: `learned` makes it a parameter, rounded to whole numbers of the integer type
                (straight-through).

        Raises:
            QonnxTorchError: an unknown kind, a parameter that is computed elsewhere, or a scale that is not
                positive.
        """
        if zero_point not in ("frozen", "learned"):
            known_kinds = "known: frozen, learned"
            raise QonnxTorchError(f"zero_point training {zero_point!r} does not exist; {known_kinds}")
        current = self.current_parameters()
        if zero_point == "learned" and "zero_point" not in current:
            raise QonnxTorchError("zero_point is computed elsewhere in the graph; it cannot be learned here")
        known = self.zero_point
        super().train_parameters(scale=scale)
        if zero_point == "learned":
            parameter = known if isinstance(known, nn.Parameter) else None
            self._learn("zero_point", current["zero_point"], parameter)
        self.unfreeze()

    def integer_range(self) -> tuple[Tensor, Tensor]:
        """Returns the smallest and largest integer."""
        device = self.current_tensor("scale").device
        low, high = torch.tensor([self.low, self.high], dtype=torch.float32, device=device)
        return low, high

    def _threshold(self, *others: Tensor) -> Tensor:
        shift = others[0].detach().to(torch.float32)
        threshold = torch.maximum(shift - self.low, self.high - shift)
        return threshold.reshape(()) if threshold.numel() == 1 else threshold

    def _owned(self) -> dict[str, Tensor]:
        owned = super()._owned()
        if isinstance(self.zero_point, nn.Parameter):
            owned["zero_point"] = self._whole(owned["zero_point"])
        return owned

    def _resolve(self, *given: Tensor | None) -> list[Tensor]:
        scale, zero_point = super()._resolve(*given)
        if isinstance(self.zero_point, nn.Parameter):
            zero_point = straight_through(zero_point, self._whole(zero_point.detach()))
        return [scale, zero_point]

    def _whole(self, zero_point: Tensor) -> Tensor:
        return torch.clamp(torch.round(zero_point), *integer_range(self.element_type))

    def onnx_attributes(self) -> dict[str, Any]:
        """Returns low, high, element_type, axis and block_size."""
        names = ("low", "high", "element_type", "axis", "block_size")
        return {name: getattr(self, name) for name in names}

    def aligned(self, x: Tensor) -> Tensor:
        """Returns x in blocks, where the parameters are per block."""
        return in_blocks(x, self.axis, self.block_size)

    def forward(self, x: Tensor, scale: Tensor | None = None, zero_point: Tensor | None = None) -> Tensor:
        """Returns x quantized and dequantized; pass exactly the parameters that the module does not own."""
        y = self._run(self.aligned(x), scale, zero_point)
        return out_of_blocks(y, x, self.axis, self.block_size)

    def _quantize(self, x: Tensor, *parameters: Tensor) -> Tensor:
        result: Tensor = implementation("quantize_dequantize_linear", x)(
            x,
            *parameters,
            low=self.low,
            high=self.high,
            gradient=self.gradient,
            elements=self._elements(x) if self.gradient == "lsq" else None,
        )
        return result

    def _elements(self, x: Tensor) -> int:
        return math.prod(x.shape[1:]) if self.batched and x.dim() > 0 else x.numel()


REGISTRY.add_module(quantize_dequantize_linear, QuantizeDequantizeLinear)
