"""Linear models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.ml.scores import as_floats, as_rows, post_transform, refuse_strings

__all__ = ["linear_classifier", "linear_regressor"]


@operator("LinearRegressor", domain="ai.onnx.ml")
def linear_regressor(
    X: Tensor,
    *,
    coefficients: Sequence[float] | None = None,
    intercepts: Sequence[float] | None = None,
    post_transform: str = "NONE",
    targets: int = 1,
) -> Tensor:
    """Returns X coefficients^T + intercepts, as float32.

    Args:
        X: (N, F), or (F,).
        coefficients: targets * F numbers, those of a target together.
        intercepts: one for each target; 0 where absent.
        post_transform: NONE, LOGISTIC, SOFTMAX, SOFTMAX_ZERO or PROBIT.
        targets: number of results.

    Returns: (N, targets).

    Source: ONNX LinearRegressor-1.
    """
    x = as_rows(X)
    weight = as_floats(() if coefficients is None else coefficients, x).reshape(targets, -1)
    bias = None if intercepts is None else as_floats(intercepts, x)
    return _transform(F.linear(x, weight, bias), post_transform).float()


@operator("LinearClassifier", domain="ai.onnx.ml", outputs=2)
def linear_classifier(
    X: Tensor,
    *,
    classlabels_ints: Sequence[int] | None = None,
    classlabels_strings: Sequence[str] | None = None,
    coefficients: Sequence[float],
    intercepts: Sequence[float] | None = None,
    multi_class: int = 0,
    post_transform: str = "NONE",
) -> tuple[Tensor, Tensor]:
    """Returns the best label of each row, and its scores X coefficients^T + intercepts.

    Args:
        X: (N, F), or (F,).
        classlabels_ints: labels of the classes.
        classlabels_strings: not supported.
        coefficients: F numbers for each class.
        intercepts: one for each class; 0 where absent.
        multi_class: changes nothing here.
        post_transform: NONE, LOGISTIC, SOFTMAX, SOFTMAX_ZERO or PROBIT.

    Returns:
        Labels (N,) int64 and scores (N, classes) float32. The only score s of two labels becomes (1 - s, s),
        or (-s, s) where it is transformed.

    Raises:
        UnsupportedModelError: labels are strings.

    Source: ONNX LinearClassifier-1.
    """
    refuse_strings("classlabels_strings", classlabels_strings)
    x = as_rows(X)
    weight = as_floats(coefficients, x).reshape(-1, x.shape[1])
    bias = None if intercepts is None else as_floats(intercepts, x)
    scores = F.linear(x, weight, bias)
    labels = tuple(classlabels_ints or ())
    if weight.shape[0] == 1:
        negative, positive = labels if len(labels) == 2 else (0, *labels[:1]) if labels else (0, 1)
        best = torch.where(scores[:, 0] > 0, positive, negative)
        if len(labels) == 2:
            untransformed = post_transform == "NONE"
            scores = torch.cat((1 - scores if untransformed else -scores, scores), -1)
    else:
        known = labels or tuple(range(weight.shape[0]))
        best = torch.tensor(known, device=x.device)[scores.argmax(-1)]
    scores = _transform(scores, post_transform)
    return best, scores.float()


_transform = post_transform
