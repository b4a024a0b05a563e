"""Matrix products and convolutions with what onnxruntime fuses into them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.contrib.activation import activated
from qonnx_torch.ops.standard.convolution import conv
from qonnx_torch.ops.standard.linear import gemm, mat_mul

__all__: list[str] = []

_DOMAIN = "com.microsoft"


@operator("FusedMatMul", domain=_DOMAIN)
def fused_mat_mul(
    A: Tensor,
    B: Tensor,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Tensor:
    """Returns alpha * A' B', batched as in numpy.matmul.

    Args:
        A: (..., M, K), or (..., K, M) with transA; vectors are not transposed.
        B: (..., K, N), or (..., N, K) with transB.
        alpha: factor.
        transA: transpose the last two dimensions of A.
        transB: transpose the last two dimensions of B.
        transBatchA: A's first dimension belongs behind its batch dimensions.
        transBatchB: the same of B.

    Source: onnxruntime FusedMatMul-1.
    """
    y: Tensor = mat_mul(_arranged(A, transA, transBatchA), _arranged(B, transB, transBatchB))
    return y if alpha == 1.0 else y * alpha


@operator("TransposeMatMul", domain=_DOMAIN)
def transpose_mat_mul(
    A: Tensor, B: Tensor, *, alpha: float = 1.0, transA: int = 0, transB: int = 0
) -> Tensor:
    """Returns what `fused_mat_mul` does. Source: onnxruntime TransposeMatMul-1."""
    y: Tensor = fused_mat_mul(A, B, alpha=alpha, transA=transA, transB=transB)
    return y


@operator("FusedGemm", domain=_DOMAIN)
def fused_gemm(
    A: Tensor,
    B: Tensor,
    C: Tensor | None = None,
    *,
    activation: str = "",
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """Returns an activation function of Gemm.

    Args:
        A: (M, K), or (K, M) with transA.
        B: (K, N), or (N, K) with transB.
        C: broadcastable to (M, N).
        activation: its name; none where empty.
        activation_alpha: its first number.
        activation_beta: its second number.
        activation_gamma: its third number, which none of the functions here has.
        alpha: factor on the product.
        beta: factor on C.
        transA: transpose A.
        transB: transpose B.

    Source: onnxruntime FusedGemm-1.
    """
    y = gemm(A, B, C, alpha=alpha, beta=beta, transA=transA, transB=transB)
    return activated(y, activation, activation_alpha, activation_beta)


@operator("FusedConv", domain=_DOMAIN)
def fused_conv(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    Z: Tensor | None = None,
    *,
    activation: str = "",
    activation_params: Sequence[float] | None = None,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Returns an activation function of Conv plus Z.

    Args:
        X: (N, C, D1, ...).
        W: (M, C / group, k1, ...).
        B: (M,).
        Z: of the result's shape, added before the activation.
        activation: its name; none where empty.
        activation_params: its numbers.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        dilations: one per spatial dimension.
        group: number of groups.
        kernel_shape: k1, ...; taken from W where absent.
        pads: begins, then ends.
        strides: one per spatial dimension.

    Source: onnxruntime FusedConv-1.
    """
    y = conv(
        X, W, B, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape,
        pads=pads, strides=strides,
    )  # fmt: skip
    alpha, beta = (*(activation_params or ()), None, None)[:2]
    return activated(y if Z is None else y + Z, activation, alpha, beta)


@operator("Inverse", domain=_DOMAIN)
def inverse(X: Tensor) -> Tensor:
    """Returns the inverse of each matrix of X (..., n, n). Source: onnxruntime Inverse-1."""
    wide = X if X.dtype == torch.float64 else X.float()
    y: Tensor = torch.linalg.inv(wide)
    return y.to(X.dtype)


@operator("CDist", domain=_DOMAIN)
def c_dist(A: Tensor, B: Tensor, *, metric: str = "sqeuclidean") -> Tensor:
    """Returns the distance between each row of A (M, N) and each row of B (K, N): (M, K).

    Args:
        A: (M, N).
        B: (K, N).
        metric: euclidean, or sqeuclidean, its square.

    Raises:
        InvalidModelError: another metric, which onnxruntime does not compute either.

    Source: onnxruntime CDist-1.
    """
    if metric == "euclidean":
        return torch.cdist(A, B, compute_mode="donot_use_mm_for_euclid_dist")
    if metric != "sqeuclidean":
        raise InvalidModelError(f"CDist: metric {metric!r} is not euclidean or sqeuclidean")
    return (A.unsqueeze(1) - B).square().sum(-1)


def _arranged(x: Tensor, transpose: int, batch: int) -> Tensor:
    if x.dim() < 2:
        return x
    x = x.movedim(0, -2) if batch else x
    return x.transpose(-1, -2) if transpose else x
