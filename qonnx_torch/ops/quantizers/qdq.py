"""QuantizeLinear and DequantizeLinear as one operator, a quantizer that can be trained.

It stands for the pair in imported graphs, in a domain of this project; exports write the pair.
"""

from __future__ import annotations

from torch import Tensor

from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.quantizers.gradients import Gradient, resolve_gradient
from qonnx_torch.ops.quantizers.library import TensorLike, implementation, parameter
from qonnx_torch.ops.quantizers.uniform_onnx import in_blocks, out_of_blocks
from qonnx_torch.registry import PROJECT_DOMAIN

__all__ = ["quantize_dequantize_linear"]


@operator(
    "QuantizeDequantizeLinear",
    domain=PROJECT_DOMAIN,
    python_only=("gradient", "elements"),
    on_numbers=True,
)
def quantize_dequantize_linear(
    x: Tensor,
    scale: TensorLike,
    zero_point: TensorLike,
    *,
    low: int = -128,
    high: int = 127,
    element_type: int = 3,
    axis: int = -1,
    block_size: int = 0,
    gradient: Gradient = "ste",
    elements: int | None = None,
) -> Tensor:
    """Returns DequantizeLinear(Clip(QuantizeLinear(x))): x on a grid of integers, in ONNX's order.

    (clamp(round(x / scale) + zero_point, low, high) - zero_point) * scale; rounds half to even, before the
    zero point is added (QONNX's Quant adds it first).

    Args:
        x: any shape, floating.
        scale: broadcastable to x; > 0 in practice. With blocks: to x whose dimension `axis`, of size D,
            is split into (ceil(D / block_size), block_size).
        zero_point: like scale; a whole number.
        low: smallest integer.
        high: largest integer.
        element_type: ONNX type of the integers; carried along, an export needs it.
        axis: the dimension that is in blocks; of parameters per axis, carried along.
        block_size: elements per block; 0: x is in no blocks.
        gradient: `ste`, `pass`, `lsq` or `pact`; see `qonnx_torch.ops.quantizers.gradients`.
        elements: for `lsq`, the N of its gradient scale 1 / sqrt(N (high - zero_point)); None leaves the
            gradient of scale unscaled.

    Returns:
        The shape of x; float32, or x's dtype where scale has the same. Infinity saturates; NaN stays NaN,
        which QuantizeLinear leaves undefined.

    Raises:
        QonnxTorchError: unknown gradient.

    Source: ONNX QuantizeLinear-25, DequantizeLinear-25. A scale of half precision divides in half precision,
    as the type of y_scale says there; older versions do not say, and onnxruntime divides in float32 for them.

    >>> import torch
    >>> quantize_dequantize_linear(torch.tensor([0.5, 1.5, 2.5, -9.0]), 1.0, 1, low=-4, high=3)
    tensor([ 0.,  2.,  2., -5.])
    """
    blocks = in_blocks(x, axis, block_size)
    result: Tensor = implementation("quantize_dequantize_linear", x)(
        blocks,
        parameter(scale, x),
        parameter(zero_point, x),
        low=low,
        high=high,
        gradient=resolve_gradient(gradient),
        elements=elements,
    )
    return out_of_blocks(result, x, axis, block_size)
