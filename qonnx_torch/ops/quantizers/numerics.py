"""What the quantizers' arithmetic shares: NumPy's type promotion, shift and scale, the integer bounds.

The reference, qonnx 1.0.0, computes in NumPy: a float64 scale, or an int64 zero point, makes float64
arithmetic. The result is float32, or has the dtype of x where x and scale share another floating dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["integer_bounds", "promote", "result_dtype", "shift", "unshift"]

_WIDE = frozenset((torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64))


def promote(*tensors: Tensor) -> torch.dtype:
    """Returns the dtype in which NumPy computes with these tensors; half precision counts as float32."""
    for tensor in tensors:
        if tensor.dtype in _WIDE:
            return torch.float64
    return torch.float32


def result_dtype(x: Tensor, scale: Tensor) -> torch.dtype:
    """Returns the dtype of a quantizer's result: that of x and scale where they share one, else float32."""
    return x.dtype if x.dtype == scale.dtype and x.is_floating_point() else torch.float32


def shift(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Returns x / scale + zero_point in NumPy's promoted dtypes."""
    carrier = promote(x, scale)
    y = x.to(carrier) / scale.to(carrier)
    carrier = promote(y, zero_point)
    return y.to(carrier) + zero_point.to(carrier)


def unshift(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Returns (q - zero_point) * scale in NumPy's promoted dtypes."""
    carrier = promote(q, zero_point)
    y = q.to(carrier) - zero_point.to(carrier)
    carrier = promote(y, scale)
    return y.to(carrier) * scale.to(carrier)


def integer_bounds(bit_width: Tensor, *, signed: bool, narrow: bool) -> tuple[Tensor, Tensor]:
    """Returns the smallest and largest integer of a quantizer, in the dtype of bit_width (integers: int64).

    signed: [-2^(b-1) (+1 if narrow), 2^(b-1) - 1]; unsigned: [0, 2^b - 1 (-1 if narrow)].
    The operator's text lets narrow act on signed quantizers only; the reference and Brevitas narrow both.

    >>> [int(v) for v in integer_bounds(torch.tensor(8), signed=False, narrow=True)]
    [0, 254]
    """
    if not bit_width.is_floating_point():
        bit_width = bit_width.to(torch.int64)  # 2^7 is no int8
    if signed:
        half = torch.pow(2, bit_width - 1)
        return (-half + 1 if narrow else -half), half - 1
    return 0 * bit_width, torch.pow(2, bit_width) - (2 if narrow else 1)
