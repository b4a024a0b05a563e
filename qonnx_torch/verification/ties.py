"""Rounding ties: whether float noise explains that a quantizer gave another code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

import qonnx_torch.nn as qnn
from qonnx_torch.ops.quantizers.uniform_onnx import out_of_blocks
from qonnx_torch.ops.standard.quantize_linear import quantize_linear

from .graph import module_behind

__all__ = ["QuantizerView", "quantizer_view"]

_FLOAT32_EPS = 2.0**-23


@dataclass(frozen=True, slots=True)
class QuantizerView:
    """A quantizer node as a function of its data input alone.

    Attributes:
        data: the fx node of the data input.
        quantize: x -> y.
        step_in: distance of two codes on the input side, broadcastable to x.
        step_out: distance of two codes on the output side.
        offset: magnitude that is added to x before rounding (zero point times scale): its sum rounds too.
    """

    data: fx.Node
    quantize: Callable[[Tensor], Tensor]
    step_in: Tensor
    step_out: Tensor
    offset: Tensor

    def codes_differ(self, gap: Tensor) -> Tensor:
        """Returns where |y1 - y2| is a difference of codes rather than of the dequantization's last bits."""
        return gap > 0.5 * self.step_out.abs().double()

    def explained(self, x: Tensor, deviation: Tensor | float, y: Tensor, tie_eps: float) -> Tensor:
        """Returns where noise on the input explains the output y: the elements that are tie flips.

        A quantizer is monotone, so y is explained if it lies between quantize(x - e) and quantize(x + e) with
        e = tie_eps * step_in + deviation + 4 eps32 (|x| + offset): a rounding boundary (or several) within e
        of x. Beyond the clamp both ends give the same code, so nothing is explained there.

        Args:
            x: the reference's input of the quantizer.
            deviation: how far the input that was really used is from x; broadcastable.
            y: the output to explain, of x's shape.
            tie_eps: in steps.
        """
        wide = x.double()
        reach = tie_eps * self.step_in.abs().double() + deviation
        reach = reach + 4 * _FLOAT32_EPS * (wide.abs() + self.offset.abs().double())
        ends = [self.quantize((wide + sign * reach).to(x.dtype)).double() for sign in (-1, 1)]
        slack = 0.25 * self.step_out.abs().double()
        return (y >= torch.minimum(*ends) - slack) & (y <= torch.maximum(*ends) + slack)


def quantizer_view(
    module: fx.GraphModule, node: fx.Node, fetch: Callable[[Any], Any], x: Tensor
) -> QuantizerView | None:
    """Returns the view of a quantizer node, or None for any other node.

    Args:
        module: the graph's module.
        node: the node.
        fetch: gives the value of an fx argument.
        x: the data input, for grids that depend on it (FloatQuant).
    """
    if not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if node.target is quantize_linear:
        rest: list[Any] = [fetch(a) for a in node.args[1:]]
        attributes: dict[str, Any] = dict(node.kwargs)
        scale = _along_axis(rest[0], x, attributes.get("axis", 1))
        one, zero = torch.ones((), device=x.device), torch.zeros((), device=x.device)
        return QuantizerView(
            node.args[0], lambda v: quantize_linear(v, *rest, **attributes), scale, one, zero
        )
    submodule = module_behind(module, node)
    if not isinstance(submodule, qnn.Quantizer):
        return None
    given = [fetch(a) for a in node.args[1:]]
    names = submodule.parameter_names
    given += [None] * (len(names) - len(given))
    parameters = {n: getattr(submodule, n) if g is None else g for n, g in zip(names, given, strict=True)}
    step_in, step_out = _steps(submodule, parameters, x)
    # What is rounded is x / scale + zero_point, but for ONNX's order, which adds it afterwards.
    adds = "zero_point" in parameters and not isinstance(submodule, qnn.QuantizeDequantizeLinear)
    offset = parameters["zero_point"] * step_in if adds else torch.zeros_like(step_in)
    quantizer = submodule
    return QuantizerView(node.args[0], lambda v: quantizer(v, *given), step_in, step_out, offset)


def _along_axis(scale: Tensor, x: Tensor, axis: int) -> Tensor:
    if scale.numel() == 1:
        return scale.reshape(())
    view = [1] * x.dim()
    view[axis] = -1
    return scale.reshape(view)


def _steps(quantizer: qnn.Quantizer, parameters: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(quantizer, qnn.MultiThreshold):
        thresholds = parameters["thresholds"]
        gaps = (thresholds.amax(-1) - thresholds.amin(-1)) / max(thresholds.shape[-1] - 1, 1)
        positive = gaps[gaps > 0]
        step = positive.min() if positive.numel() else torch.ones((), device=x.device)
        return step, torch.tensor(quantizer.out_scale, device=x.device)
    scale = parameters["scale"]
    if isinstance(quantizer, qnn.FloatQuant):
        mantissa, bias = parameters["mantissa_bit_width"], parameters["exponent_bias"]
        exponent = torch.floor(torch.log2((x / scale).abs().double() + torch.finfo(torch.float32).tiny))
        step = torch.exp2(torch.maximum(exponent - mantissa, 1.0 - bias - mantissa)) * scale
        return step, step
    if isinstance(quantizer, qnn.QuantizeDequantizeLinear):
        scale = out_of_blocks(
            scale.expand(quantizer.aligned(x).shape), x, quantizer.axis, quantizer.block_size
        )
    return scale, parameters.get("output_scale", scale)
