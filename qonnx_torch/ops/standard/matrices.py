"""Operators on matrices as such: triangles, diagonals, determinants."""

from __future__ import annotations

import torch
from torch import Tensor

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._numbers import integers

__all__: list[str] = []


@operator("Trilu", since_version=14, static=("k",))
def trilu(input: Tensor, k: int | None = None, *, upper: int = 1) -> Tensor:
    """Returns the triangle of matrices (*, N, M) above (or below) their diagonal k, with it; 0 elsewhere.

    Source: ONNX Trilu-14.
    """
    diagonal = 0 if k is None else integers(k)[0]
    rows = torch.arange(input.shape[-2], device=input.device).unsqueeze(1)
    columns = torch.arange(input.shape[-1], device=input.device)
    kept = columns - rows >= diagonal if upper else columns - rows <= diagonal
    return torch.where(kept, input, torch.zeros((), dtype=input.dtype, device=input.device))


@operator("EyeLike", since_version=9)
def eye_like(input: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    """Returns a matrix of the input's shape, 1 on its diagonal k, else 0, in the input's type or `dtype`.

    Raises: InvalidModelError where the input is no matrix. Source: ONNX EyeLike-22.
    """
    if input.dim() != 2:
        raise InvalidModelError(f"EyeLike needs a matrix, not {input.dim()} dimensions")
    rows = torch.arange(input.shape[0], device=input.device).unsqueeze(1)
    columns = torch.arange(input.shape[1], device=input.device)
    return (columns - rows == k).to(input.dtype if dtype is None else torch_dtype(dtype))


@operator("Det", since_version=11)
def det(X: Tensor) -> Tensor:
    """Returns the determinants of square matrices (*, M, M) as (*). Source: ONNX Det-22."""
    wide = X if X.dtype in (torch.float32, torch.float64) else X.to(torch.float32)
    determinants: Tensor = torch.linalg.det(wide)
    return determinants.to(X.dtype)
