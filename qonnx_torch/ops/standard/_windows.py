"""Padding arithmetic and sliding windows shared by convolutions and pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.errors import InvalidModelError

__all__ = [
    "ceil_extra",
    "is_symmetric",
    "pad_spatial",
    "resolve_pads",
    "spatial_values",
    "surely",
    "symmetric_padding",
    "too_small",
    "windows",
]


def surely(condition: bool | torch.SymBool) -> bool:
    """Returns whether a condition on sizes holds at all sizes; asking makes no symbolic size a fixed one."""
    if isinstance(condition, bool) and not torch.compiler.is_compiling():
        return condition
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # slow to load

    return statically_known_true(condition)


def spatial_values(values: Sequence[int] | None, rank: int, name: str) -> list[int]:
    """Returns an attribute with one value per spatial dimension; ones where it is absent.

    Raises: InvalidModelError for another number of values.
    """
    found = list(values) if values else [1] * rank
    if len(found) != rank:
        raise InvalidModelError(f"{name} {tuple(found)}: {rank} spatial dimensions need {rank} values")
    return found


def resolve_pads(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str,
) -> list[int]:
    """Returns explicit pads (begins, then ends) for an ONNX window operator.

    SAME_UPPER and SAME_LOWER give ceil(n / stride) outputs; the odd element goes to the end or the begin.

    Raises: InvalidModelError for a wrong number of pads, or an auto_pad that does not exist.
    """
    rank = len(kernel)
    if auto_pad in ("", "NOTSET"):
        if pads and len(pads) != 2 * rank:
            raise InvalidModelError(f"pads {tuple(pads)}: {rank} spatial dimensions need {2 * rank} values")
        return list(pads or [0] * 2 * rank)
    if auto_pad == "VALID":
        return [0] * 2 * rank
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise InvalidModelError(f"auto_pad {auto_pad!r}: NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    begins, ends = [], []
    for n, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
        total = _at_least_zero(((n + s - 1) // s - 1) * s + d * (k - 1) + 1 - n)
        small, large = total // 2, total - total // 2
        begins.append(small if auto_pad == "SAME_UPPER" else large)
        ends.append(large if auto_pad == "SAME_UPPER" else small)
    return begins + ends


def _at_least_zero(n: Any) -> Any:
    return max(0, n) if isinstance(n, int) else torch.sym_max(0, n)


def is_symmetric(begins: Sequence[int], ends: Sequence[int]) -> bool:
    """Returns whether torch's operators can add these pads themselves: known, equal, none negative."""
    return all(surely(b == e) and surely(b >= 0) for b, e in zip(begins, ends, strict=True))


def pad_spatial(x: Tensor, begins: Sequence[int], ends: Sequence[int], value: float = 0.0) -> Tensor:
    """Returns x with its last dimensions padded, or cut where a pad is negative."""
    flat: list[int] = []
    for begin, end in zip(reversed(begins), reversed(ends), strict=True):
        flat += [begin, end]
    return x if all(surely(p == 0) for p in flat) else F.pad(x, flat, value=value)


def symmetric_padding(x: Tensor, pads: Sequence[int], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """Returns x and the pads of each spatial dimension that torch's operator can add itself.

    Where begin and end differ, x comes back padded and the rest is zero.
    """
    rank = len(pads) // 2
    begins, ends = list(pads[:rank]), list(pads[rank:])
    if is_symmetric(begins, ends):
        return x, begins
    return pad_spatial(x, begins, ends, value), [0] * rank


def too_small(x: Tensor, kernel: Sequence[int], dilations: Sequence[int]) -> bool:
    """Returns whether x (N, C, D1, ...), padded already, has a dimension where no window fits."""
    sides = zip(x.shape[2:], kernel, dilations, strict=True)
    return any(isinstance(n, int) and n < d * (k - 1) + 1 for n, k, d in sides)


def windows(x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """Returns a view of all windows of x.

    Args:
        x: (N, C, D1, ...), padded already.
        kernel: k1, ...
        strides: one per spatial dimension.
        dilations: one per spatial dimension.

    Returns:
        (N, C, O1, ..., k1, ...); an O is 0 where no window fits.
    """
    if too_small(x, kernel, dilations):
        spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
        counts = [max(0, (n - w) // s + 1) for n, w, s in zip(x.shape[2:], spans, strides, strict=True)]
        return x.new_zeros((*x.shape[:2], *counts, *kernel))
    for i, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        x = x.unfold(2 + i, d * (k - 1) + 1, s)
        x = x[..., ::d] if d > 1 else x
    return x


def ceil_extra(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> list[int]:
    """Returns how much to add at each end so that flooring gives ONNX's ceil_mode output size.

    A last window that would start in the end padding is dropped, as in torch and onnxruntime.
    """
    rank = len(kernel)
    extra = []
    for i, (n, k, s, d) in enumerate(zip(spatial, kernel, strides, dilations, strict=True)):
        span = n + pads[i] + pads[rank + i] - d * (k - 1) - 1
        count = -(-span // s) + 1
        if (count - 1) * s >= n + pads[i]:
            count -= 1
        extra.append(_at_least_zero((count - 1) * s - span))
    return extra
