"""Ensembles of decision trees from the attributes that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops.ml.forest import Forest, Nodes, Votes, aggregate, leaves, votes_of
from qonnx_torch.ops.ml.scores import as_rows

__all__ = ["AGGREGATES", "TRANSFORMS", "Ensemble", "classic_ensemble", "ensemble", "numbers"]

AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
_COMPARISONS = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
_MEMBER = len(_COMPARISONS)


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Trees and what their leaves say.

    Attributes:
        forest: the trees.
        votes: those of each leaf.
        weights: (votes,).
        base: (targets,), (1,) or (0,): added to the joined votes.
        targets: number of targets, or of classes.
        positive: no weight in the file is negative.
    """

    forest: Forest
    votes: Votes
    weights: Tensor
    base: Tensor
    targets: int
    positive: bool

    def scores(self, X: Tensor, how: str = "SUM") -> Tensor:
        """Returns the joined votes of the trees for each row, (N, targets)."""
        x = as_rows(X)
        weights = self.weights.to(torch.promote_types(x.dtype, self.weights.dtype))
        return aggregate(leaves(self.forest, x), self.votes, weights, self.targets, how)

    def to(self, device: torch.device) -> Ensemble:
        """Returns the trees on a device."""
        forest = replace(self.forest, **{n: getattr(self.forest, n).to(device) for n in Forest.tensors})
        votes = Votes(self.votes.of_leaf.to(device), self.votes.targets.to(device))
        return replace(
            self, forest=forest, votes=votes, weights=self.weights.to(device), base=self.base.to(device)
        )


def numbers(floats: Sequence[float] | None, tensor: tuple[int, Any] | None) -> Tensor:
    """Returns the numbers of an attribute that a file may have as floats or as a tensor."""
    if tensor is None:
        return torch.tensor(floats or (), dtype=torch.float32)
    return torch.tensor(tensor[1], dtype=torch_dtype(tensor[0])).reshape(-1)


def classic_ensemble(attributes: Mapping[str, Any], prefix: str, targets: int) -> Ensemble:
    """Returns the trees of TreeEnsembleClassifier (prefix class) or TreeEnsembleRegressor (target).

    Raises:
        InvalidModelError: a node that does not exist, or columns of several lengths.
    """

    def column(name: str) -> tuple[Any, ...]:
        return tuple(attributes.get(name) or ())

    trees, ids = column("nodes_treeids"), column("nodes_nodeids")
    places = {key: i for i, key in enumerate(zip(trees, ids, strict=False))}
    roots = {tree: i for i, tree in reversed(list(enumerate(trees)))}
    modes = column("nodes_modes")
    true, false = column("nodes_truenodeids"), column("nodes_falsenodeids")
    if not len(trees) == len(ids) == len(modes) == len(true) == len(false):
        raise InvalidModelError("the columns nodes_* have different lengths")
    try:
        children = [
            [i if mode == "LEAF" else places[tree, child] for i, (tree, mode, child) in enumerate(rows)]
            for rows in (zip(trees, modes, own, strict=True) for own in (true, false))
        ]
        voters = zip(column(f"{prefix}_treeids"), column(f"{prefix}_nodeids"), strict=True)
        voting = [places[key] for key in voters]
    except (KeyError, ValueError) as error:
        raise InvalidModelError(f"the trees name a node that does not exist: {error}") from None
    thresholds = numbers(attributes.get("nodes_values"), attributes.get("nodes_values_as_tensor"))
    weights = numbers(attributes.get(f"{prefix}_weights"), attributes.get(f"{prefix}_weights_as_tensor"))
    nodes = Nodes(
        features=column("nodes_featureids"),
        thresholds=thresholds.tolist(),
        modes=modes,
        true=children[0],
        false=children[1],
        missing_true=column("nodes_missing_value_tracks_true"),
        roots=[roots[tree] for tree in sorted(roots)],
    )
    return Ensemble(
        forest=Forest.of(nodes, thresholds.dtype),
        votes=votes_of(voting, column(f"{prefix}_ids"), len(trees), targets),
        weights=weights,
        base=numbers(attributes.get("base_values"), attributes.get("base_values_as_tensor")),
        targets=targets,
        positive=bool((weights >= 0).all()),
    )


def ensemble(attributes: Mapping[str, Any], targets: int) -> Ensemble:
    """Returns the trees of a TreeEnsemble.

    A node that tests for membership becomes a chain of nodes, each of which tests for one member.

    Raises:
        InvalidModelError: a leaf or node that does not exist, or columns of several lengths.
    """
    features, thresholds = list(attributes["nodes_featureids"]), numbers(None, attributes["nodes_splits"])
    kinds = [int(kind) for kind in numbers(None, attributes["nodes_modes"]).tolist()]
    missing = list(attributes.get("nodes_missing_value_tracks_true") or [0] * len(kinds))
    ways = [
        (attributes["nodes_truenodeids"], attributes["nodes_trueleafs"]),
        (attributes["nodes_falsenodeids"], attributes["nodes_falseleafs"]),
    ]
    count, leaf_count = len(kinds), len(attributes["leaf_targetids"])
    if {len(c) for way in ways for c in way} | {len(features), len(thresholds), len(missing)} != {count}:
        raise InvalidModelError("the columns nodes_* have different lengths")
    if not all(0 <= kind <= _MEMBER for kind in kinds):
        raise InvalidModelError(f"nodes_modes has {max(kinds)}; the modes are 0 to {_MEMBER}")
    # Leaves stand behind the nodes, further members behind the leaves.
    true, false = ([n + count if leaf else n for n, leaf in zip(*way, strict=True)] for way in ways)
    own = list(range(count, count + leaf_count))
    columns = _Columns(
        features=features + [0] * leaf_count,
        thresholds=thresholds.tolist() + [0.0] * leaf_count,
        modes=[*(_COMPARISONS[min(kind, 4)] if kind != 5 else "BRANCH_NEQ" for kind in kinds)]
        + ["LEAF"] * leaf_count,
        true=true + own,
        false=false + own,
        missing=missing + [0] * leaf_count,
    )
    members = _members(attributes.get("membership_values"))
    for node, kind in enumerate(kinds):
        if kind == _MEMBER:
            columns.test_members(node, next(members, []))
    nodes = Nodes(
        columns.features, columns.thresholds, columns.modes, columns.true, columns.false, columns.missing,
        attributes["tree_roots"],
    )  # fmt: skip
    weights = numbers(None, attributes["leaf_weights"])
    return Ensemble(
        forest=Forest.of(nodes, thresholds.dtype),
        votes=votes_of(own, attributes["leaf_targetids"], len(columns.features), targets),
        weights=weights,
        base=weights.new_zeros(0),
        targets=targets,
        positive=bool((weights >= 0).all()),
    )


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of the nodes while members become nodes."""

    features: list[int]
    thresholds: list[float]
    modes: list[str]
    true: list[int]
    false: list[int]
    missing: list[int]

    def test_members(self, node: int, members: Sequence[float]) -> None:
        """Makes a node go to its true child where the feature is one of the members."""
        if not members:
            self.true[node] = self.false[node]
            return
        self.thresholds[node] = members[0]
        for member in members[1:]:
            self.features.append(self.features[node])
            self.thresholds.append(member)
            self.modes.append("BRANCH_EQ")
            self.true.append(self.true[node])
            self.false.append(self.false[node])
            self.missing.append(self.missing[node])
            self.false[node] = len(self.features) - 1
            node = len(self.features) - 1


def _members(attribute: tuple[int, Any] | None) -> Any:
    """Yields the members of each set: NaN ends a set."""
    found: list[float] = []
    for number in numbers(None, attribute).tolist() if attribute is not None else ():
        if number != number:
            yield found
            found = []
        else:
            found.append(number)
    if found:
        yield found
