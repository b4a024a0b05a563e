"""Padding arithmetic shared by convolutions and pools."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.errors import InvalidModelError

__all__ = ["resolve_pads", "symmetric_padding"]


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
    """
    rank = len(kernel)
    if auto_pad in ("", "NOTSET"):
        if pads and len(pads) != 2 * rank:
            raise InvalidModelError(f"pads {tuple(pads)}: {rank} spatial dimensions need {2 * rank} values")
        return list(pads or [0] * 2 * rank)
    if auto_pad == "VALID":
        return [0] * 2 * rank
    begins, ends = [], []
    for n, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
        total = max(0, ((n + s - 1) // s - 1) * s + d * (k - 1) + 1 - n)
        small, large = total // 2, total - total // 2
        begins.append(small if auto_pad == "SAME_UPPER" else large)
        ends.append(large if auto_pad == "SAME_UPPER" else small)
    return begins + ends


def symmetric_padding(x: Tensor, pads: Sequence[int], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """Returns x and the pads of each spatial dimension that torch's operator can add itself.

    Where begin and end differ, x comes back padded and the rest is zero.
    """
    rank = len(pads) // 2
    begins, ends = list(pads[:rank]), list(pads[rank:])
    if begins == ends and all(p >= 0 for p in begins):
        return x, begins
    flat: list[int] = []
    for begin, end in zip(reversed(begins), reversed(ends), strict=True):
        flat += [begin, end]
    return F.pad(x, flat, value=value), [0] * rank
