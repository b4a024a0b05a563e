"""Matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.ops._operator import operator
from qonnx_torch.ops._windows import resolve_pads, symmetric_padding

__all__: list[str] = []


@operator("MatMul")
def mat_mul(A: Tensor, B: Tensor) -> Tensor:
    """Returns the matrix product, batched as in numpy.matmul. Source: ONNX MatMul-13."""
    return torch.matmul(A, B)


@operator("Gemm")
def gemm(
    A: Tensor,
    B: Tensor,
    C: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """Returns alpha * A' @ B' + beta * C.

    Args:
        A: (M, K), or (K, M) with transA.
        B: (K, N), or (N, K) with transB.
        C: broadcastable to (M, N).
        alpha: factor on the product.
        beta: factor on C.
        transA: transpose A.
        transB: transpose B.

    Source: ONNX Gemm-13.
    """
    A = A.t() if transA else A
    if alpha == 1.0 and (C is None or (beta == 1.0 and C.dim() == 1)):
        return F.linear(A, B if transB else B.t(), C)
    y = torch.matmul(A, B.t() if transB else B)
    y = y if alpha == 1.0 else alpha * y
    return y if C is None else y + (C if beta == 1.0 else beta * C)


@operator("Einsum", since_version=12)
def einsum(*Inputs: Tensor, equation: str) -> Tensor:
    """Returns the Einstein summation. Source: ONNX Einsum-12."""
    return torch.einsum(equation, *Inputs)


_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


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
    """Returns the convolution of 1 to 3 spatial dimensions.

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

    Source: ONNX Conv-22.
    """
    rank = X.dim() - 2
    kernel = list(W.shape[2:])
    strides = list(strides or [1] * rank)
    dilations = list(dilations or [1] * rank)
    pads = resolve_pads(X.shape[2:], kernel, strides, dilations, pads, auto_pad)
    X, padding = symmetric_padding(X, pads)
    return _CONV[rank](X, W, B, strides, padding, dilations, group)


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
    """Returns the transposed convolution of 1 to 3 spatial dimensions.

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

    Source: ONNX ConvTranspose-22.
    """
    rank = X.dim() - 2
    kernel = list(W.shape[2:])
    strides = list(strides or [1] * rank)
    dilations = list(dilations or [1] * rank)
    extra = list(output_padding or [0] * rank)
    full = [
        (n - 1) * s + d * (k - 1) + 1 + o
        for n, s, d, k, o in zip(X.shape[2:], strides, dilations, kernel, extra, strict=True)
    ]
    if output_shape is None and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        output_shape = [n * s for n, s in zip(X.shape[2:], strides, strict=True)]
    if output_shape is not None:
        total = [f - o for f, o in zip(full, output_shape[-rank:], strict=True)]
        small = [max(0, t) // 2 for t in total]
        large = [max(0, t) - h for t, h in zip(total, small, strict=True)]
        # The specification gives the odd element to the begin unless SAME_UPPER. What lacks comes at the end.
        begins, ends = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
        pads = [*begins, *(e + min(0, t) for e, t in zip(ends, total, strict=True))]
    pads = list(pads or [0] * 2 * rank)
    begins, ends = pads[:rank], pads[rank:]
    if begins == ends and all(o < s or o < d for o, s, d in zip(extra, strides, dilations, strict=True)):
        return _CONV_TRANSPOSE[rank](X, W, B, strides, begins, extra, group, dilations)
    # Asymmetric: compute everything, with room for the output padding, and cut.
    y = _CONV_TRANSPOSE[rank](X, W, B, strides, 0, 0, group, dilations)
    cut: list[int] = []
    for begin, end, more in zip(reversed(begins), reversed(ends), reversed(extra), strict=True):
        cut += [-begin, more - end]
    if any(c > 0 for c in cut) and B is not None:
        bias = B.reshape(-1, *[1] * rank)
        return F.pad(y - bias, cut) + bias
    return F.pad(y, cut)
