"""Operators that are ensembles of decision trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.ml.ensemble import AGGREGATES, TRANSFORMS, Ensemble, classic_ensemble, ensemble
from qonnx_torch.ops.ml.scores import post_transform, refuse_strings

__all__ = ["classify", "regress", "tree_ensemble", "tree_ensemble_classifier", "tree_ensemble_regressor"]

_transform = post_transform


@operator("TreeEnsembleRegressor", domain="ai.onnx.ml")
def tree_ensemble_regressor(
    X: Tensor,
    *,
    aggregate_function: str = "SUM",
    base_values: Sequence[float] | None = None,
    base_values_as_tensor: tuple[int, Any] | None = None,
    n_targets: int = 1,
    nodes_falsenodeids: Sequence[int] = (),
    nodes_featureids: Sequence[int] = (),
    nodes_hitrates: Sequence[float] | None = None,
    nodes_hitrates_as_tensor: tuple[int, Any] | None = None,
    nodes_missing_value_tracks_true: Sequence[int] | None = None,
    nodes_modes: Sequence[str] = (),
    nodes_nodeids: Sequence[int] = (),
    nodes_treeids: Sequence[int] = (),
    nodes_truenodeids: Sequence[int] = (),
    nodes_values: Sequence[float] | None = None,
    nodes_values_as_tensor: tuple[int, Any] | None = None,
    post_transform: str = "NONE",
    target_ids: Sequence[int] = (),
    target_nodeids: Sequence[int] = (),
    target_treeids: Sequence[int] = (),
    target_weights: Sequence[float] | None = None,
    target_weights_as_tensor: tuple[int, Any] | None = None,
) -> Tensor:
    """Returns the joined weights of the leaves that each row reaches, plus base_values, as float32.

    The columns nodes_* describe the nodes of all trees, target_* the weights at their leaves. A node asks
    whether a feature is at most (BRANCH_LEQ), below, ... its value, and goes to the true or false child; NaN
    goes as nodes_missing_value_tracks_true says. A column *_as_tensor takes the place of the floats.

    Args:
        X: (N, F), or (F,).
        aggregate_function: SUM, AVERAGE (over the trees), MIN or MAX.
        n_targets: number of results.
        post_transform: NONE, LOGISTIC, SOFTMAX, SOFTMAX_ZERO or PROBIT.

    Returns: (N, n_targets).

    Raises:
        InvalidModelError: the columns describe no trees.

    Source: ONNX TreeEnsembleRegressor-5.
    """
    trees = classic_ensemble(_attributes(locals()), "target", n_targets)
    return regress(trees.to(X.device), X, aggregate_function, post_transform).float()


@operator("TreeEnsembleClassifier", domain="ai.onnx.ml", outputs=2)
def tree_ensemble_classifier(
    X: Tensor,
    *,
    base_values: Sequence[float] | None = None,
    base_values_as_tensor: tuple[int, Any] | None = None,
    class_ids: Sequence[int] = (),
    class_nodeids: Sequence[int] = (),
    class_treeids: Sequence[int] = (),
    class_weights: Sequence[float] | None = None,
    class_weights_as_tensor: tuple[int, Any] | None = None,
    classlabels_int64s: Sequence[int] | None = None,
    classlabels_strings: Sequence[str] | None = None,
    nodes_falsenodeids: Sequence[int] = (),
    nodes_featureids: Sequence[int] = (),
    nodes_hitrates: Sequence[float] | None = None,
    nodes_hitrates_as_tensor: tuple[int, Any] | None = None,
    nodes_missing_value_tracks_true: Sequence[int] | None = None,
    nodes_modes: Sequence[str] = (),
    nodes_nodeids: Sequence[int] = (),
    nodes_treeids: Sequence[int] = (),
    nodes_truenodeids: Sequence[int] = (),
    nodes_values: Sequence[float] | None = None,
    nodes_values_as_tensor: tuple[int, Any] | None = None,
    post_transform: str = "NONE",
) -> tuple[Tensor, Tensor]:
    """Returns the best label of each row, and the scores of the classes: the summed weights of its leaves.

    The trees are those of `tree_ensemble_regressor`, with class_* for target_*.

    Args:
        X: (N, F), or (F,).
        classlabels_int64s: labels of the classes.
        classlabels_strings: not supported.
        post_transform: NONE, LOGISTIC, SOFTMAX, SOFTMAX_ZERO or PROBIT.

    Returns:
        Labels (N,) int64 and scores (N, classes) float32.

    Raises:
        InvalidModelError: the columns describe no trees.
        UnsupportedModelError: labels are strings.

    Source: ONNX TreeEnsembleClassifier-5.
    """
    refuse_strings("classlabels_strings", classlabels_strings)
    labels = tuple(classlabels_int64s or ())
    trees = classic_ensemble(_attributes(locals()), "class", len(labels))
    return classify(trees.to(X.device), X, labels, frozenset(class_ids), post_transform)


@operator("TreeEnsemble", domain="ai.onnx.ml", since_version=5)
def tree_ensemble(
    X: Tensor,
    *,
    aggregate_function: int = 1,
    leaf_targetids: Sequence[int],
    leaf_weights: tuple[int, Any],
    membership_values: tuple[int, Any] | None = None,
    n_targets: int = 1,
    nodes_falseleafs: Sequence[int],
    nodes_falsenodeids: Sequence[int],
    nodes_featureids: Sequence[int],
    nodes_hitrates: tuple[int, Any] | None = None,
    nodes_missing_value_tracks_true: Sequence[int] | None = None,
    nodes_modes: tuple[int, Any],
    nodes_splits: tuple[int, Any],
    nodes_trueleafs: Sequence[int],
    nodes_truenodeids: Sequence[int],
    post_transform: int = 0,
    tree_roots: Sequence[int],
) -> Tensor:
    """Returns the joined weights of the leaves that each row reaches.

    The columns nodes_* describe the inner nodes of all trees, leaf_* their leaves. A node compares a feature
    with its split, or looks whether it is among the next set of membership_values (NaN ends a set).

    Args:
        X: (N, F).
        aggregate_function: 0 AVERAGE (over the trees), 1 SUM, 2 MIN or 3 MAX.
        n_targets: number of results.
        post_transform: 0 NONE, 1 SOFTMAX, 2 LOGISTIC, 3 SOFTMAX_ZERO or 4 PROBIT.

    Returns: (N, n_targets), of X's dtype.

    Raises:
        InvalidModelError: the columns describe no trees.

    Source: ONNX TreeEnsemble-5.
    """
    how, transform = named(aggregate_function, AGGREGATES), named(post_transform, TRANSFORMS)
    trees = ensemble(_attributes(locals()), n_targets)
    return regress(trees.to(X.device), X, how, transform).to(X.dtype)


def regress(trees: Ensemble, X: Tensor, how: str, transform: str) -> Tensor:
    """Returns the transformed results of the trees, (N, targets)."""
    scores = trees.scores(X, how)
    return _transform(scores + trees.base if len(trees.base) else scores, transform)


def classify(
    trees: Ensemble, X: Tensor, labels: Sequence[int], voted: frozenset[int], transform: str
) -> tuple[Tensor, Tensor]:
    """Returns the best labels (N,) and the transformed scores (N, classes).

    1. One label: it is the best one where the score is positive, else 0.
    2. Two labels, and all votes are for one of them: its score s stands for both, as (1 - s, s) where all
       weights are positive and nothing is transformed (probabilities), else as (-s, s). Votes for the
       second label alone leave the first one's score at its base.
    3. Else the label with the highest score.
    """
    scores = trees.scores(X)
    scores = scores + trees.base if len(trees.base) else scores
    known = torch.tensor(labels, device=scores.device)
    if len(labels) == 1:
        best = torch.where(scores[:, 0] > 0, known[0], 0)
    elif len(labels) == 2 and len(voted) == 1:
        (vote,) = voted
        score = scores[:, vote : vote + 1]
        probable = trees.positive and transform in ("NONE", "PROBIT")
        both = torch.cat((1 - score if probable else -score, score), -1)
        best = known[both.argmax(-1)]
        scores = both if vote == 0 else scores
    else:
        best = known[scores.argmax(-1)]
    return best, _transform(scores, transform).float()


def named(index: int, names: Sequence[str]) -> str:
    """Returns one of several names by its number."""
    if not 0 <= index < len(names):
        raise InvalidModelError(f"{index} is none of {dict(enumerate(names))}")
    return names[index]


def _attributes(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "X"}
