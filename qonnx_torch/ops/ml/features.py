"""Operators that select, clean and scale features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator

__all__: list[str] = []

_DOMAIN = "ai.onnx.ml"


@operator("ArrayFeatureExtractor", domain=_DOMAIN)
def array_feature_extractor(X: Tensor, Y: Tensor) -> Tensor:
    """Returns the elements of X (..., C) at the indices Y along the last axis, (..., n).

    A vector X (C,) gives a matrix (1, n), as onnxruntime does it. Source: ONNX ArrayFeatureExtractor-1.
    """
    picked = X.index_select(-1, Y.reshape(-1))
    return picked.unsqueeze(0) if X.dim() == 1 else picked


@operator("Binarizer", domain=_DOMAIN)
def binarizer(X: Tensor, *, threshold: float = 0.0) -> Tensor:
    """Returns 1 where X is greater than the threshold, else 0, in X's dtype. Source: ONNX Binarizer-1."""
    return (threshold < X).to(X.dtype)


@operator("Imputer", domain=_DOMAIN)
def imputer(
    X: Tensor,
    *,
    imputed_value_floats: Sequence[float] | None = None,
    imputed_value_int64s: Sequence[int] | None = None,
    replaced_value_float: float = 0.0,
    replaced_value_int64: int = 0,
) -> Tensor:
    """Returns X with the elements that equal one value (NaN too) replaced.

    Args:
        X: (..., F).
        imputed_value_floats: what takes their place, one for all features or one each.
        imputed_value_int64s: the same, for integers.
        replaced_value_float: the value to replace.
        replaced_value_int64: the same, for integers.

    Raises:
        InvalidModelError: no value to put there.

    Source: ONNX Imputer-1.
    """
    values: Sequence[float] | None = imputed_value_floats
    replaced: float = replaced_value_float
    if not values or (imputed_value_int64s and not X.is_floating_point()):
        values, replaced = imputed_value_int64s, replaced_value_int64
    if not values:
        raise InvalidModelError("Imputer needs imputed_value_floats or imputed_value_int64s")
    missing = X.isnan() if replaced != replaced else X.eq(replaced)
    return torch.where(missing, torch.tensor(values, dtype=X.dtype, device=X.device), X)


@operator("Normalizer", domain=_DOMAIN)
def normalizer(X: Tensor, *, norm: str = "MAX") -> Tensor:
    """Returns each row divided by its norm, as float32; rows with norm 0 stay as they are.

    Args:
        X: (N, C), or (C,).
        norm: MAX, the largest element; L1, the sum of the magnitudes; L2, the root of the sum of squares.

    Raises:
        InvalidModelError: an unknown norm.

    Source: ONNX Normalizer-1; the specification leaves the magnitudes in L1 open, onnxruntime takes them.
    """
    x = X if X.dtype == torch.float64 else X.float()
    axis = min(1, X.dim() - 1)
    if norm == "MAX":
        divisor = x.amax(axis, keepdim=True)
    elif norm == "L1":
        divisor = x.abs().sum(axis, keepdim=True)
    elif norm == "L2":
        squares = x.square().sum(axis, keepdim=True)
        divisor = torch.where(squares == 0, squares, squares.clamp(min=torch.finfo(x.dtype).tiny).sqrt())
    else:
        raise InvalidModelError(f"norm {norm!r} is not MAX, L1 or L2")
    return (x / torch.where(divisor == 0, 1.0, divisor)).float()


@operator("Scaler", domain=_DOMAIN)
def scaler(
    X: Tensor, *, offset: Sequence[float] | None = None, scale: Sequence[float] | None = None
) -> Tensor:
    """Returns (X - offset) * scale, as float32.

    Args:
        X: (..., F).
        offset: one for all features, or one each; 0 where absent.
        scale: the same; 1 where absent.

    Source: ONNX Scaler-1.
    """
    x = X if X.dtype == torch.float64 else X.float()
    if offset:
        x = x - torch.tensor(offset, dtype=x.dtype, device=x.device)
    if scale:
        x = x * torch.tensor(scale, dtype=x.dtype, device=x.device)
    return x.float()


@operator("FeatureVectorizer", domain=_DOMAIN)
def feature_vectorizer(*X: Tensor, inputdimensions: Sequence[int] | None = None) -> Tensor:
    """Returns the inputs side by side, as float32.

    Args:
        X: each (N, C), or (C,), which is (1, C).
        inputdimensions: features of each input; others are cut off, missing ones are 0.

    Returns: (N, sum of the features).

    Source: ONNX FeatureVectorizer-1.
    """
    columns = []
    for i, x in enumerate(X):
        x = (x.reshape(1, -1) if x.dim() == 1 else x.flatten(1)).float()
        if inputdimensions is not None and i < len(inputdimensions):
            x = torch.nn.functional.pad(x, (0, inputdimensions[i] - x.shape[1]))
        columns.append(x)
    return torch.cat(columns, 1)
