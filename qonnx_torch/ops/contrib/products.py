"""Matrix products and convolutions with what onnxruntime fuses into them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.contrib.activation import activated
from qonnx_torch.ops.convolution import conv
from qonnx_torch.ops.linear import gemm, mat_mul

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


@operator("MatMulNBits", domain=_DOMAIN)
def mat_mul_n_bits(
    A: Tensor,
    B: Tensor,
    scales: Tensor,
    zero_points: Tensor | None = None,
    g_idx: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    K: int,
    N: int,
    accuracy_level: int = 0,
    bits: int = 4,
    block_size: int,
    weight_prepacked: int = 0,
) -> Tensor:
    """Returns A W^T + bias with W = (B - zero_points) * scales, block by block of each row.

    Args:
        A: (..., K).
        B: (N, blocks, block_size * bits / 8) bytes, the first value of a byte in its low bits; where a
            dimension is 0, W is 0.
        scales: (N, blocks), or as many in another shape.
        zero_points: (N, blocks) of A's dtype, or (N, ceil(blocks * bits / 8)) bytes packed like B;
            2^(bits - 1) where absent.
        g_idx: (K,), block of each column; columns in order where absent.
        bias: (N,).
        K: columns of W.
        N: rows of W.
        accuracy_level: how coarsely an implementation may compute; here it changes nothing.
        bits: 2, 4 or 8.
        block_size: columns of a block.
        weight_prepacked: only 0 is supported: the layout above.

    Returns: (..., N).

    Raises:
        InvalidModelError: the weight is packed for one kind of device, or another number of bits.

    Source: onnxruntime MatMulNBits-1.
    """
    if weight_prepacked or bits not in (2, 4, 8):
        raise InvalidModelError(f"MatMulNBits: weight_prepacked {weight_prepacked}, {bits} bits")
    if B.numel() == 0:
        y = A.new_zeros((*A.shape[:-1], N))
        return y if bias is None else y + bias
    blocks = -(-K // block_size)
    codes = _unpacked(B.reshape(N, blocks, -1), bits).to(scales.dtype)  # (N, blocks, block_size)
    scale = scales.reshape(N, blocks, 1)
    if zero_points is None:
        zero: Tensor | float = float(1 << (bits - 1))
    elif zero_points.is_floating_point():
        zero = zero_points.reshape(N, blocks, 1)
    else:
        zero = _unpacked(zero_points.reshape(N, -1), bits)[:, :blocks].unsqueeze(-1).to(scales.dtype)
    if g_idx is None:
        weight = ((codes - zero) * scale).flatten(1)[:, :K]
    else:
        block = g_idx.to(torch.int64)
        offset = zero[:, block, 0] if isinstance(zero, Tensor) else zero
        weight = (codes.flatten(1)[:, :K] - offset) * scale[:, block, 0]
    return F.linear(A, weight.to(A.dtype), bias)


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


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """Returns the values in bytes (..., n) as (..., n * 8 / bits), the low bits first."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    values = packed.view(torch.uint8).unsqueeze(-1) >> shifts
    return (values & ((1 << bits) - 1)).flatten(-2)
