"""Convolutions of any number of spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._windows import (
    is_symmetric,
    pad_spatial,
    resolve_pads,
    spatial_values,
    symmetric_padding,
)

__all__: list[str] = []

_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@operator("Conv")
def conv(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Returns the convolution over all spatial dimensions.

    Args:
        X: (N, C, D1, ...).
        W: (M, C / group, k1, ...).
        B: (M,).
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        dilations: one per spatial dimension.
        group: number of groups.
        kernel_shape: k1, ...; taken from W where absent.
        pads: begins, then ends.
        strides: one per spatial dimension.

    Raises: InvalidModelError where X, W and the attributes do not fit. Source: ONNX Conv-22.
    """
    rank = _spatial_rank(X, W, kernel_shape)
    strides = spatial_values(strides, rank, "strides")
    dilations = spatial_values(dilations, rank, "dilations")
    pads = resolve_pads(X.shape[2:], W.shape[2:], strides, dilations, pads, auto_pad)
    X, padding = symmetric_padding(X, pads)
    return _convolve(X, W, B, strides, padding, dilations, group)


def _spatial_rank(X: Tensor, W: Tensor, kernel_shape: Sequence[int] | None) -> int:
    if X.dim() != W.dim() or X.dim() < 3:
        raise InvalidModelError(
            f"X {tuple(X.shape)} and W {tuple(W.shape)} must have one rank, of at least 3 dimensions"
        )
    if kernel_shape and list(kernel_shape) != list(W.shape[2:]):
        raise InvalidModelError(f"kernel_shape {tuple(kernel_shape)} is not that of W {tuple(W.shape)}")
    return X.dim() - 2


def _convolve(
    X: Tensor,
    W: Tensor,
    B: Tensor | None,
    strides: Sequence[int],
    padding: Sequence[int],
    dilations: Sequence[int],
    group: int,
) -> Tensor:
    """Returns a convolution; beyond three dimensions the sum of those at each place of the first one."""
    rank = W.dim() - 2
    if rank <= 3:
        y: Tensor = _CONV[rank](X, W, B, list(strides), list(padding), list(dilations), group)
        return y
    X = pad_spatial(X, [padding[0], *[0] * (rank - 1)], [padding[0], *[0] * (rank - 1)])
    stride, dilation, places = strides[0], dilations[0], W.shape[2]
    length = (X.shape[2] - dilation * (places - 1) - 1) // stride + 1
    total = X.new_zeros(())
    for i in range(places):
        rows = X.narrow(2, i * dilation, (length - 1) * stride + 1)[:, :, ::stride].transpose(1, 2)
        total = total + _convolve(
            rows.flatten(0, 1), W[:, :, i], None, strides[1:], padding[1:], dilations[1:], group
        )
    total = total.reshape(X.shape[0], length, *total.shape[1:]).transpose(1, 2)
    return total if B is None else total + B.reshape(-1, *[1] * rank)


@operator("ConvTranspose")
def conv_transpose(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Returns the transposed convolution over all spatial dimensions.

    Args:
        X: (N, C, D1, ...).
        W: (C, M / group, k1, ...).
        B: (M,).
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        dilations: one per spatial dimension.
        group: number of groups.
        kernel_shape: k1, ...; taken from W where absent.
        output_padding: added to one side of the output.
        output_shape: spatial output shape, from which pads follow.
        pads: begins, then ends, cut from the full output.
        strides: one per spatial dimension.

    Raises: InvalidModelError where X, W and the attributes do not fit. Source: ONNX ConvTranspose-22.
    """
    rank = _spatial_rank(X, W, kernel_shape)
    strides = spatial_values(strides, rank, "strides")
    dilations = spatial_values(dilations, rank, "dilations")
    extra = list(output_padding or [0] * rank)
    if output_shape is None and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        output_shape = [n * s for n, s in zip(X.shape[2:], strides, strict=True)]
    if output_shape:
        full = [
            (n - 1) * s + d * (k - 1) + 1 + o
            for n, s, d, k, o in zip(X.shape[2:], strides, dilations, W.shape[2:], extra, strict=True)
        ]
        pads = _pads_for(full, output_shape[-rank:], auto_pad)
    elif auto_pad == "VALID":
        pads = None
    pads = list(pads or [0] * 2 * rank)
    begins, ends = pads[:rank], pads[rank:]
    fits = all(o < s or o < d for o, s, d in zip(extra, strides, dilations, strict=True))
    if is_symmetric(begins, ends) and fits and rank <= 3:
        y: Tensor = _CONV_TRANSPOSE[rank](X, W, B, strides, begins, extra, group, dilations)
        return y
    # Asymmetric: compute everything, with room for the output padding, and cut.
    grown = any(b < 0 for b in begins) or any(o > e for o, e in zip(extra, ends, strict=True))
    y = _transposed(X, W, None if grown else B, strides, dilations, group)
    y = pad_spatial(y, [-b for b in begins], [o - e for o, e in zip(extra, ends, strict=True)])
    return y + B.reshape(-1, *[1] * rank) if grown and B is not None else y


def _pads_for(full: Sequence[int], wanted: Sequence[int], auto_pad: str) -> list[int]:
    """Returns the pads (begins, then ends) that leave the wanted shape of the full output.

    The specification gives the odd element to the begin unless SAME_UPPER. What lacks comes at the end.
    """
    total = [f - o for f, o in zip(full, wanted, strict=True)]
    small = [max(0, t) // 2 for t in total]
    large = [max(0, t) - h for t, h in zip(total, small, strict=True)]
    begins, ends = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    return [*begins, *(e + min(0, t) for e, t in zip(ends, total, strict=True))]


def _transposed(
    X: Tensor, W: Tensor, B: Tensor | None, strides: Sequence[int], dilations: Sequence[int], group: int
) -> Tensor:
    """Returns the full transposed convolution; beyond three dimensions a convolution of the stretched X."""
    rank = W.dim() - 2
    if rank <= 3:
        y: Tensor = _CONV_TRANSPOSE[rank](X, W, B, list(strides), 0, 0, group, list(dilations))
        return y
    for axis, stride in enumerate(strides, start=2):
        if stride > 1:  # stride - 1 zeros between the elements
            stretched = F.pad(X.movedim(axis, -1).unsqueeze(-1), (0, stride - 1)).flatten(-2)
            X = stretched.narrow(-1, 0, stretched.shape[-1] - stride + 1).movedim(-1, axis)
    grouped = W.unflatten(0, (group, -1)).transpose(1, 2).flatten(0, 1)  # (M, C / group, k1, ...)
    reach = [d * (k - 1) for d, k in zip(dilations, W.shape[2:], strict=True)]
    return _convolve(X, grouped.flip(list(range(2, W.dim()))), B, [1] * rank, reach, dilations, group)


@operator("CausalConvWithState", since_version=27, outputs=2)
def causal_conv_with_state(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    past_state: Tensor | None = None,
    *,
    activation: str = "none",
) -> tuple[Tensor, Tensor]:
    """Returns the depthwise convolution that looks only back, and the inputs that the next call looks at.

    Args:
        input: (N, C, L).
        weight: (C, 1, k).
        bias: (C,).
        past_state: (N, C, k - 1), what came before the input; zeros where absent.
        activation: none, silu or swish (the same).

    Returns:
        The output (N, C, L), and the last k - 1 elements of past state and input (N, C, k - 1).

    Raises: InvalidModelError for another activation. Source: ONNX CausalConvWithState-27.
    """
    if activation not in ("none", "silu", "swish"):
        raise InvalidModelError(f"activation {activation!r}: none, silu or swish")
    before = weight.shape[-1] - 1
    if past_state is None:
        padded = F.pad(input, (before, 0))
    else:
        padded = torch.cat([past_state, input], -1)
    y = F.conv1d(padded, weight, bias, groups=weight.shape[0])
    if activation != "none":
        y = F.silu(y.to(torch.promote_types(y.dtype, torch.float32))).to(y.dtype)
    return y, padded[..., padded.shape[-1] - before :]
