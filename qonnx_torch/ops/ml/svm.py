"""Support vector machines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.ml.scores import as_floats, as_rows, post_transform, refuse_strings

__all__ = ["svm_classifier", "svm_regressor"]

_transform = post_transform


@operator("SVMRegressor", domain="ai.onnx.ml")
def svm_regressor(
    X: Tensor,
    *,
    coefficients: Sequence[float] = (),
    kernel_params: Sequence[float] | None = None,
    kernel_type: str = "LINEAR",
    n_supports: int = 0,
    one_class: int = 0,
    post_transform: str = "NONE",
    rho: Sequence[float] = (0.0,),
    support_vectors: Sequence[float] = (),
) -> Tensor:
    """Returns sum over j of coefficients_j k(x, support_vector_j) + rho, as float32.

    Args:
        X: (N, F), or (F,).
        coefficients: one for each support vector; for each feature where there are none.
        kernel_params: gamma, coef0 and degree.
        kernel_type: LINEAR x.v, POLY (gamma x.v + coef0)^degree, RBF exp(-gamma |x - v|^2) or SIGMOID
            tanh(gamma x.v + coef0).
        n_supports: number of support vectors; 0 for a linear model.
        one_class: 1 returns 1 where the sum is positive, else -1.
        post_transform: NONE, LOGISTIC, SOFTMAX, SOFTMAX_ZERO or PROBIT.
        rho: one number.
        support_vectors: n_supports * F numbers.

    Returns: (N, 1).

    Source: ONNX SVMRegressor-1.
    """
    x = as_rows(X)
    weight = as_floats(coefficients, x)
    if n_supports:
        vectors = as_floats(support_vectors, x).reshape(n_supports, -1)
        values = _kernel(x, vectors, kernel_type, kernel_params)
    else:
        values = x
    score = (values @ weight + as_floats(rho, x)[0]).unsqueeze(-1)
    if one_class:
        score = torch.where(score > 0, 1.0, -1.0)
    return _transform(score, post_transform).float()


@operator("SVMClassifier", domain="ai.onnx.ml", outputs=2)
def svm_classifier(
    X: Tensor,
    *,
    classlabels_ints: Sequence[int] | None = None,
    classlabels_strings: Sequence[str] | None = None,
    coefficients: Sequence[float] = (),
    kernel_params: Sequence[float] | None = None,
    kernel_type: str = "LINEAR",
    post_transform: str = "NONE",
    prob_a: Sequence[float] | None = None,
    prob_b: Sequence[float] | None = None,
    rho: Sequence[float] = (0.0,),
    support_vectors: Sequence[float] = (),
    vectors_per_class: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the best label of each row, and its scores.

    With support vectors each pair of classes i < j has one score, the sum of coefficients * kernel over the
    vectors of both, plus rho; a positive one is a vote for i. Probabilities come from the scores of the pairs
    1 / (1 + exp(prob_a s + prob_b)) by pairwise coupling (Wu, Lin and Weng 2004, second method). Without
    support vectors each class has a linear score.

    Args:
        X: (N, F), or (F,).
        classlabels_ints: labels of the classes.
        classlabels_strings: not supported.
        coefficients: (classes - 1) rows, one number for each support vector; or F for each class.
        kernel_params: gamma, coef0 and degree.
        kernel_type: as in `svm_regressor`.
        post_transform: NONE, LOGISTIC, SOFTMAX, SOFTMAX_ZERO or PROBIT.
        prob_a: one number for each pair; where present the scores are probabilities.
        prob_b: the same.
        rho: one number for each pair; one for a linear model.
        support_vectors: F numbers for each.
        vectors_per_class: how many belong to each class.

    Returns:
        Labels (N,) int64; scores (N, classes) or (N, pairs) float32. The only score s of two classes becomes
        (-s, s).

    Raises:
        UnsupportedModelError: labels are strings.

    Source: ONNX SVMClassifier-1.
    """
    refuse_strings("classlabels_strings", classlabels_strings)
    x = as_rows(X)
    labels = tuple(classlabels_ints or ())
    counts = tuple(vectors_per_class or ())
    classes = max(len(labels), 1)
    weight, offset = as_floats(coefficients, x), as_floats(rho, x)
    probable = bool(counts) and prob_a is not None and prob_b is not None and len(prob_a) > 0
    if sum(counts):
        vectors = as_floats(support_vectors, x).reshape(sum(counts), -1)
        kernels = _kernel(x, vectors, kernel_type, kernel_params)
        scores = _pair_scores(kernels, weight.reshape(-1, sum(counts)), offset, counts)
        best = _votes(scores, len(counts)).argmax(-1)
        if probable:
            a, b = as_floats(prob_a or (), x), as_floats(prob_b or (), x)
            scores = _coupled(torch.sigmoid(-(a * scores + b)), len(counts))
    else:
        scores = x @ weight.reshape(classes, -1).t() + offset[0]
        best = scores.argmax(-1)
    known = labels or tuple(range(scores.shape[1]))
    chosen = torch.tensor(known, device=x.device)[best]
    if classes == 1:
        chosen = (scores[:, 0] > 0).to(torch.int64)
    if scores.shape[1] == 1 and len(labels) == 2:
        scores = torch.cat((-scores, scores), -1)
    return chosen, _transform(scores, post_transform).float()


def _kernel(x: Tensor, vectors: Tensor, kind: str, params: Sequence[float] | None) -> Tensor:
    """Returns the kernel of each row (N, F) and each vector (V, F): (N, V)."""
    gamma, coef0, degree = params or (0.0, 0.0, 0.0)
    if kind == "RBF":
        return torch.exp(-gamma * (x.unsqueeze(1) - vectors).square().sum(-1))
    product = x @ vectors.t()
    if kind == "LINEAR":
        return product
    if kind == "POLY":
        return (gamma * product + coef0) ** degree
    if kind == "SIGMOID":
        return torch.tanh(gamma * product + coef0)
    raise InvalidModelError(f"kernel_type {kind!r} is none of LINEAR, POLY, RBF, SIGMOID")


def _pair_scores(kernels: Tensor, weight: Tensor, rho: Tensor, counts: Sequence[int]) -> Tensor:
    """Returns the score of each pair of classes, (N, pairs)."""
    parts = kernels.split(list(counts), 1)
    weights = weight.split(list(counts), 1)
    scores = [
        parts[i] @ weights[i][j - 1] + parts[j] @ weights[j][i]
        for i, j in combinations(range(len(counts)), 2)
    ]
    return torch.stack(scores, -1) + rho


def _votes(scores: Tensor, classes: int) -> Tensor:
    """Returns how many pairs each class wins, (N, classes)."""
    wins = torch.zeros((scores.shape[0], classes), dtype=torch.int64, device=scores.device)
    for pair, (i, j) in enumerate(combinations(range(classes), 2)):
        positive = (scores[:, pair] > 0).to(torch.int64).unsqueeze(-1)
        place = torch.arange(classes, device=scores.device)
        wins = wins + positive * (place == i) + (1 - positive) * (place == j)
    return wins


def _coupled(pairs: Tensor, classes: int) -> Tensor:
    """Returns the probabilities of the classes from those of the pairs.

    The iteration stops, row by row, where libsvm's does: near the solution, not at it.

    Args:
        pairs: (N, pairs), probability of i against j for i < j.
        classes: number of classes.

    Returns: (N, classes).
    """
    pairs = pairs.clamp(1e-7, 1 - 1e-7)
    rows = [[torch.zeros_like(pairs[:, 0])] * classes for _ in range(classes)]
    for pair, (i, j) in enumerate(combinations(range(classes), 2)):
        rows[i][j], rows[j][i] = pairs[:, pair], 1 - pairs[:, pair]
    r = torch.stack([torch.stack(row, -1) for row in rows], -2)  # (N, i, j)
    diagonal = r.square().sum(-2)
    q = torch.diag_embed(diagonal) - r * r.transpose(-1, -2)
    p = torch.full_like(diagonal, 1 / classes)
    done = torch.zeros_like(p[:, :1], dtype=torch.bool)
    for _ in range(max(100, classes)):
        qp = (q @ p.unsqueeze(-1)).squeeze(-1)
        pqp = (p * qp).sum(-1, keepdim=True)
        done = done | ((qp - pqp).abs().amax(-1, keepdim=True) < 0.005 / classes)
        new = p
        for t in range(classes):
            own = diagonal[:, t : t + 1]
            step = (pqp - qp[:, t : t + 1]) / own
            new = new + step * (torch.arange(classes, device=p.device) == t)
            pqp = (pqp + step * (step * own + 2 * qp[:, t : t + 1])) / (1 + step) ** 2
            qp = (qp + step * q[:, t]) / (1 + step)
            new = new / (1 + step)
        p = torch.where(done, p, new)
    return p
