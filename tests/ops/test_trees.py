"""Ensembles of trees against onnxruntime and scikit-learn; where they err, against the specification."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops.ml.trees import tree_ensemble, tree_ensemble_classifier, tree_ensemble_regressor

F32 = np.float32
MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
X = np.random.default_rng(0).integers(-2, 3, (12, 3)).astype(F32)


@pytest.fixture
def check(check_node):
    return partial(check_node, domain="ai.onnx.ml", source="onnxruntime", tolerance=1e-5)


def trees(count: int, modes: Sequence[str], seed: int = 0, depth: int = 3) -> dict[str, list[Any]]:
    """Random trees over three features, as the columns nodes_*; node ids begin at 0 in each."""
    rng = np.random.default_rng([seed, count])
    names = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids",
             "missing_value_tracks_true")  # fmt: skip
    columns: dict[str, list[Any]] = {f"nodes_{name}": [] for name in names}

    def grow(tree: int, left: int) -> int:
        index = columns["nodes_treeids"].count(tree)
        place = len(columns["nodes_treeids"])
        leaf = left == 0 or rng.random() < 0.15
        mode = "LEAF" if leaf else str(rng.choice(modes))
        row = (
            tree,
            index,
            int(rng.integers(3)),
            float(rng.integers(-2, 3)),
            mode,
            0,
            0,
            int(rng.integers(2)),
        )
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
        if not leaf:
            columns["nodes_truenodeids"][place] = grow(tree, left - 1)
            columns["nodes_falsenodeids"][place] = grow(tree, left - 1)
        return index

    for tree in range(count):
        grow(tree, depth)
    return columns


def votes(columns: dict[str, list[Any]], prefix: str, targets: Sequence[int], low: float = -1.0) -> None:
    """Lets each leaf vote for all the targets."""
    rng = np.random.default_rng(len(columns["nodes_modes"]))
    rows = zip(columns["nodes_treeids"], columns["nodes_nodeids"], columns["nodes_modes"], strict=True)
    leaves = [(tree, node) for tree, node, mode in rows if mode == "LEAF"]
    cast = [(*leaf, target, float(F32(rng.uniform(low, 1)))) for leaf in leaves for target in targets]
    for i, name in enumerate(("treeids", "nodeids", "ids", "weights")):
        columns[f"{prefix}_{name}"] = [vote[i] for vote in cast]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_modes_and_aggregates(mode: str, how: str, check) -> None:
    columns = trees(3, [mode])
    votes(columns, "target", range(2))
    check(
        "TreeEnsembleRegressor", X, n_targets=2, aggregate_function=how, base_values=[0.5, -0.25], **columns
    )


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_transforms(transform: str, check) -> None:
    columns = trees(4, MODES)
    votes(columns, "target", range(3))
    check("TreeEnsembleRegressor", X, n_targets=3, post_transform=transform, **columns)


def test_inputs_of_other_dtypes(check) -> None:
    columns = trees(4, MODES[:5], seed=1)
    votes(columns, "target", [0])
    of_floats = tree_ensemble_regressor(torch.from_numpy(X), **columns)
    for dtype in (torch.int64, torch.int32):
        torch.testing.assert_close(
            tree_ensemble_regressor(torch.from_numpy(X).to(dtype), **columns), of_floats
        )
    for name in ("nodes_values", "target_weights"):
        columns[f"{name}_as_tensor"] = numpy_helper.from_array(np.array(columns.pop(name)), name)
    check("TreeEnsembleRegressor", X.astype(np.float64), n_targets=1, **columns)


def test_missing_values_go_where_their_node_says(check) -> None:
    x = X.copy()
    x[np.random.default_rng(1).random(x.shape) < 0.4] = np.nan
    columns = trees(4, MODES[:5], seed=2)  # onnxruntime sends NaN to the true child of BRANCH_NEQ
    votes(columns, "target", [0])
    check("TreeEnsembleRegressor", x, n_targets=1, **columns)
    columns = {
        "nodes_treeids": [0] * 3, "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0],
        "nodes_values": [1.0, 0.0, 0.0], "nodes_modes": ["BRANCH_NEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0],
        "target_weights": [1.0, 2.0],
    }  # fmt: skip
    nan = torch.tensor([[torch.nan]])
    assert tree_ensemble_regressor(nan, **columns).item() == 2.0
    assert tree_ensemble_regressor(nan, **columns, nodes_missing_value_tracks_true=(1, 0, 0)).item() == 1.0


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("base", [None, [0.1, -0.2, 0.3]])
def test_classifier(transform: str, base: list[float] | None, check) -> None:
    columns = trees(5, MODES, seed=3)
    votes(columns, "class", range(3))
    given = {} if base is None else {"base_values": base}
    check("TreeEnsembleClassifier", X, outputs=2, classlabels_int64s=[4, 9, 7], post_transform=transform,
          **columns, **given)  # fmt: skip


@pytest.mark.parametrize(("transform", "low"), [("NONE", 0.0), ("NONE", -1.0), ("LOGISTIC", -1.0)])
@pytest.mark.parametrize("base", [None, [0.1]])
def test_two_classes_with_one_score(transform: str, low: float, base: list[float] | None, check) -> None:
    """As gradient boosting has it: the votes are for the first of two classes, and mean the second."""
    columns = trees(3, MODES, seed=4)
    votes(columns, "class", [0], low)
    given = {} if base is None else {"base_values": base}
    check("TreeEnsembleClassifier", X, outputs=2, classlabels_int64s=[4, 9], post_transform=transform,
          **columns, **given)  # fmt: skip


LEAF = {
    "nodes_treeids": (0,), "nodes_nodeids": (0,), "nodes_featureids": (0,), "nodes_values": (0.0,),
    "nodes_modes": ("LEAF",), "nodes_truenodeids": (0,), "nodes_falsenodeids": (0,),
}  # fmt: skip


def classify(ids: tuple[int, ...], weights: tuple[float, ...], labels: tuple[int, ...], **rest: Any) -> Any:
    places = (0,) * len(ids)
    label, scores = tree_ensemble_classifier(
        torch.zeros(1, 1), class_ids=ids, class_weights=weights, class_treeids=places, class_nodeids=places,
        classlabels_int64s=labels, **LEAF, **rest,
    )  # fmt: skip
    return label.item(), [round(s, 4) for s in scores[0].tolist()]


def test_the_best_of_two_classes_is_the_one_with_the_higher_score() -> None:
    """onnxruntime takes the second where its score is positive."""
    assert classify((0, 1), (0.75, 0.25), (10, 20)) == (10, [0.75, 0.25])
    assert classify((0, 1), (-0.5, -0.25), (10, 20)) == (20, [-0.5, -0.25])
    assert classify((1,), (0.25,), (10, 20)) == (10, [0.0, 0.25])
    assert classify((0,), (0.75,), (5,)) == (5, [0.75])
    assert classify((0,), (-0.75,), (5,)) == (0, [-0.75])
    assert classify((0,), (0.25,), (10, 20), post_transform="SOFTMAX")[0] == 20


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("how", [0, 1, 2, 3])
def test_tree_ensemble(dtype: Any, how: int, check) -> None:
    given: dict[str, Any] = {
        "nodes_splits": np.array([0.5, -1.0, 1.0], dtype),
        "leaf_weights": np.array([1.5, -2.0, 0.5, 3.0, -1.0], dtype),
        "nodes_modes": np.array([0, 3, 5], np.uint8),
    }
    attributes = {k: numpy_helper.from_array(v, k) for k, v in given.items()}
    check("TreeEnsemble", X.astype(dtype), n_targets=2, aggregate_function=how, tree_roots=[0, 2],
          nodes_featureids=[0, 1, 2], nodes_trueleafs=[0, 1, 1], nodes_truenodeids=[1, 0, 3],
          nodes_falseleafs=[1, 1, 1], nodes_falsenodeids=[2, 1, 4], leaf_targetids=[0, 1, 0, 1, 0],
          **attributes)  # fmt: skip


def test_membership() -> None:
    x = torch.tensor([[1.0], [2.0], [3.0], [torch.nan], [7.0]])
    y = tree_ensemble(
        x, nodes_modes=(2, (6, 6)), membership_values=(1, (1.0, 3.0, torch.nan, 7.0, torch.nan)),
        nodes_splits=(1, (0.0, 0.0)), nodes_featureids=(0, 0), tree_roots=(0,), leaf_targetids=(0, 0, 0),
        leaf_weights=(1, (10.0, 20.0, 30.0)), nodes_trueleafs=(1, 1), nodes_truenodeids=(0, 1),
        nodes_falseleafs=(0, 1), nodes_falsenodeids=(1, 2), nodes_missing_value_tracks_true=(0, 1),
    )  # fmt: skip
    assert y[:, 0].tolist() == [10.0, 30.0, 10.0, 20.0, 20.0]


@pytest.mark.parametrize("classes", [0, 2, 3])
def test_forests_of_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    x = rng.normal(size=(200, 3)).astype(F32)
    y = (
        x[:, 0] * x[:, 1] + x[:, 2]
        if not classes
        else (x.sum(1) > 0).astype(int) + (x[:, 0] > 1) * (classes - 2)
    )
    kind = RandomForestClassifier if classes else RandomForestRegressor
    forest = kind(n_estimators=7, max_depth=5, random_state=0).fit(x, y)
    prefix, columns = ("class" if classes else "target"), {f"nodes_{n}": [] for n in LEAF_COLUMNS}
    cast: list[tuple[Any, ...]] = []
    for number, estimator in enumerate(forest.estimators_):
        tree = estimator.tree_
        for node in range(tree.node_count):
            leaf = tree.children_left[node] < 0
            children = (0, 0) if leaf else (tree.children_left[node], tree.children_right[node])
            row = (number, node, 0 if leaf else tree.feature[node], tree.threshold[node],
                   "LEAF" if leaf else "BRANCH_LEQ", *children)  # fmt: skip
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            if leaf:
                for target, value in enumerate(tree.value[node][0]):
                    cast.append((number, node, target, value / 7))
    for i, name in enumerate(("treeids", "nodeids", "ids", "weights")):
        columns[f"{prefix}_{name}"] = [vote[i] for vote in cast]
    if classes:
        label, scores = tree_ensemble_classifier(
            torch.from_numpy(x), **columns, classlabels_int64s=range(classes)
        )
        np.testing.assert_array_equal(label.numpy(), forest.predict(x))
        np.testing.assert_allclose(scores.numpy(), forest.predict_proba(x), atol=1e-5)
    else:
        result = tree_ensemble_regressor(torch.from_numpy(x), **columns)
        np.testing.assert_allclose(result.numpy()[:, 0], forest.predict(x), rtol=1e-4)


LEAF_COLUMNS = ["treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes_truenodeids": (7,), "nodes_modes": ("BRANCH_LEQ",)}, "name a node that does not exist"),
        ({"nodes_modes": ("BRANCH_LEQ",)}, "a tree goes round in circles"),
        ({"nodes_modes": ("BRANCH",)}, "nodes_modes has 'BRANCH'"),
        ({"nodes_featureids": ()}, "the columns of the nodes have"),
        ({"nodes_nodeids": ()}, "have different lengths"),
        ({"target_ids": (3,)}, "1 votes need as many targets below 1"),
        ({"target_nodeids": (3,)}, "name a node that does not exist"),
        ({"aggregate_function": "MEAN"}, "aggregate_function 'MEAN' is none of"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    vote = {"target_treeids": (0,), "target_nodeids": (0,), "target_ids": (0,), "target_weights": (1.0,)}
    attributes: dict[str, Any] = LEAF | vote | change
    if "circles" in message:
        attributes |= {"nodes_truenodeids": (0,), "nodes_nodeids": (0,)}
        attributes = {
            **{k: v * 2 for k, v in attributes.items() if k.startswith("nodes")}, **vote,
            "nodes_nodeids": (0, 1), "nodes_truenodeids": (1, 0), "nodes_falsenodeids": (1, 0),
        }  # fmt: skip
    with pytest.raises(InvalidModelError, match=message):
        tree_ensemble_regressor(torch.zeros(1, 1), **attributes)
