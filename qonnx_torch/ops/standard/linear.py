"""Matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._integers import whole
from qonnx_torch.ops.standard._precision import wide

__all__: list[str] = []


@operator("MatMul")
def mat_mul(A: Tensor, B: Tensor) -> Tensor:
    """Returns the matrix product, batched as in numpy.matmul. Source: ONNX MatMul-13."""
    return _product(A, B)


def _product(A: Tensor, B: Tensor) -> Tensor:
    """Returns the matrix product; of integers in int64, which wraps around as any narrower type does."""
    if A.is_floating_point():
        return torch.matmul(A, B)
    a, b = A.to(wide(A.dtype)), B.to(wide(B.dtype))
    if a.device.type == "cpu":
        return torch.matmul(a, b).to(A.dtype)
    # Accelerators have no integer matrix product: multiply and sum.
    rows, columns = a if a.dim() > 1 else a.unsqueeze(0), b if b.dim() > 1 else b.unsqueeze(1)
    y = (rows.unsqueeze(-1) * columns.unsqueeze(-3)).sum(-2)
    y = y if b.dim() > 1 else y.squeeze(-1)
    return (y if a.dim() > 1 else y.squeeze(-1 if b.dim() == 1 else -2)).to(A.dtype)


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
    """Returns alpha * A' @ B' + beta * C; of integers with such factors the whole part.

    Args:
        A: (M, K), or (K, M) with transA.
        B: (K, N), or (N, K) with transB.
        C: broadcastable to (M, N); not looked at where beta is 0.
        alpha: factor on the product.
        beta: factor on C.
        transA: transpose A.
        transB: transpose B.

    Source: ONNX Gemm-13.
    """
    dtype = A.dtype
    A, B = A.t() if transA else A, B.t() if transB else B
    C = None if beta == 0.0 else C
    if dtype.is_floating_point and alpha == 1.0 and (C is None or (beta == 1.0 and C.dim() == 1)):
        return F.linear(A, B.t(), C)
    y = _product(A, B)
    if not dtype.is_floating_point:  # torch adds no unsigned integers
        carrier = torch.int64 if alpha == beta == 1.0 else torch.float64
        y, C = y.to(carrier), None if C is None else C.to(carrier)
    y = y if alpha == 1.0 else alpha * y
    y = y if C is None else y + (C if beta == 1.0 else beta * C)
    return y.to(dtype)


@operator("Einsum", since_version=12)
def einsum(*Inputs: Tensor, equation: str) -> Tensor:
    """Returns the Einstein summation; integers wrap around. Source: ONNX Einsum-28."""
    dtype = Inputs[0].dtype
    if dtype.is_floating_point:
        return torch.einsum(equation, *Inputs)
    result = torch.einsum(equation, *map(whole, Inputs))
    return result.view(dtype) if dtype == torch.uint64 else result.to(dtype)
