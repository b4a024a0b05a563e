"""QONNX's layers besides the quantizers: what its lowering passes write, and markers.

Source: QONNX 1.0.0, domain qonnx.custom_op.general.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.qonnx.channels_last import channels_last
from qonnx_torch.ops.quantizers.rounding import round_to_integer
from qonnx_torch.ops.standard._windows import pad_spatial, windows
from qonnx_torch.ops.standard.pool import average_pool, max_pool
from qonnx_torch.registry import QONNX_DOMAIN

__all__ = ["debug_marker", "im2col", "max_pool_nhwc", "quant_avg_pool_2d", "xnor_popcount_mat_mul"]

max_pool_nhwc = operator("MaxPoolNHWC", domain=QONNX_DOMAIN)(
    channels_last(max_pool, "max_pool_nhwc", __name__)
)


@operator("QuantAvgPool2d", domain=QONNX_DOMAIN, required=("stride", "kernel", "ibits", "obits", "signed"))
def quant_avg_pool_2d(
    x: Tensor,
    *,
    stride: int = 1,
    kernel: int = 1,
    ibits: int = 1,
    obits: int = 1,
    signed: int = 0,
    data_layout: str = "NCHW",
) -> Tensor:
    """Returns the sum over windows, shifted right until it has `obits` bits: an average in integers.

    floor(round(average * kernel^2) / 2^shift), where shift = bits of (2^ibits - 1) * kernel^2 less obits, at
    least 0. Gradient: that of the sum over 2^shift (rounding passes it through).

    Args:
        x: (N, C, H, W), or (N, H, W, C) of data_layout NHWC; integers in floating point.
        stride: of both dimensions.
        kernel: window size of both dimensions.
        ibits: bits of the input.
        obits: bits of the output.
        signed: whether the integers are signed; carried along.
        data_layout: NCHW or NHWC.

    Raises: InvalidModelError for another layout. Source: QONNX 1.0.0, operator QuantAvgPool2d.
    """
    if data_layout not in ("NCHW", "NHWC"):
        raise InvalidModelError(f"QuantAvgPool2d: data_layout {data_layout!r}: NCHW or NHWC")
    last = data_layout == "NHWC"
    mean = average_pool(
        x.movedim(-1, 1) if last else x, kernel_shape=(kernel, kernel), strides=(stride, stride)
    )
    shift = max(0, ((2**ibits - 1) * kernel * kernel).bit_length() - obits)
    total = round_to_integer(mean * (kernel * kernel), "ROUND")
    y = round_to_integer(total / 2**shift, "FLOOR")
    return (y.movedim(1, -1) if last else y).to(torch.float32)


@operator("Im2Col", domain=QONNX_DOMAIN, required=("stride", "kernel_size"))
def im2col(
    x: Tensor,
    *,
    stride: Sequence[int],
    kernel_size: Sequence[int],
    input_shape: str = "",
    pad_amount: Sequence[int] = (0, 0, 0, 0),
    pad_value: int = 0,
    depthwise: int = 0,
    dilations: Sequence[int] = (1, 1),
) -> Tensor:
    """Returns the windows of an image, each laid out in a row: (N, OH, OW, kh * kw * C), channels fastest.

    Args:
        x: (N, H, W, C).
        stride: along H and W.
        kernel_size: kh, kw.
        input_shape: x's shape as text; carried along, x's own counts.
        pad_amount: begins of H and W, then ends.
        pad_value: what is padded.
        depthwise: how hardware orders its work; carried along.
        dilations: along H and W.

    Source: QONNX 1.0.0, operator Im2Col (which mixes up the samples of a batch; here each keeps its own).
    """
    pads = list(pad_amount)
    padded = pad_spatial(x.movedim(-1, 1), pads[:2], pads[2:], pad_value)
    view = windows(padded, kernel_size, stride, dilations)  # (N, C, OH, OW, kh, kw)
    return view.permute(0, 2, 3, 4, 5, 1).flatten(3)


@operator("XnorPopcountMatMul", domain=QONNX_DOMAIN)
def xnor_popcount_mat_mul(a: Tensor, b: Tensor) -> Tensor:
    """Returns, of matrices of 0 and 1, in how many places each row of a agrees with each column of b.

    (((2 a - 1) @ (2 b - 1)) + K) / 2. Source: QONNX 1.0.0, operator XnorPopcountMatMul.

    >>> xnor_popcount_mat_mul(torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[1.0], [1.0], [1.0]]))
    tensor([[2.]])
    """
    return (torch.matmul(2.0 * a - 1.0, 2.0 * b - 1.0) + a.shape[-1]) * 0.5


@operator("DebugMarker", domain=QONNX_DOMAIN, required=("export_debug_name",))
def debug_marker(x: Tensor, *, export_debug_name: str = "") -> Tensor:
    """Returns x, of which Brevitas wrote down a name to compare it by. Source: QONNX 1.0.0, DebugMarker."""
    return x
