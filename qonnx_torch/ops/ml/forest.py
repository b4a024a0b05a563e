"""Decision trees as flat tables, walked by all rows and all trees at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError

__all__ = ["Forest", "Nodes", "Votes", "aggregate", "leaves", "votes_of"]

_MODES = {
    "BRANCH_LEQ": (True, True, False),
    "BRANCH_LT": (True, False, False),
    "BRANCH_GTE": (False, True, True),
    "BRANCH_GT": (False, False, True),
    "BRANCH_EQ": (False, True, False),
    "BRANCH_NEQ": (True, False, True),
    "LEAF": (True, True, True),
}
"""Comparison -> whether it holds where the feature is less than, equal to and greater than the threshold."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of all trees, as columns; a leaf is its own child."""

    features: Sequence[int]
    thresholds: Sequence[float]
    modes: Sequence[str]
    true: Sequence[int]
    false: Sequence[int]
    missing_true: Sequence[int]
    roots: Sequence[int]


@dataclass(frozen=True, slots=True)
class Forest:
    """Trees as tensors.

    Attributes:
        features: (nodes,), which feature a node looks at.
        thresholds: (nodes,).
        holds: (4, nodes) bool: whether the way to the true child is taken where the feature is less, equal,
            greater and NaN.
        children: (2, nodes): false and true child.
        roots: (trees,).
        depth: steps from the roots to the deepest leaf.
    """

    features: Tensor
    thresholds: Tensor
    holds: Tensor
    children: Tensor
    roots: Tensor
    depth: int

    tensors: ClassVar[tuple[str, ...]] = ("features", "thresholds", "holds", "children", "roots")

    @classmethod
    def of(cls, nodes: Nodes, dtype: torch.dtype) -> Forest:
        """Returns the tensors of the nodes.

        Raises:
            InvalidModelError: columns of several lengths, an unknown mode, a child that does not exist, or
                trees that go round in circles.
        """
        count = len(nodes.features)
        lengths = {len(c) for c in (nodes.thresholds, nodes.modes, nodes.true, nodes.false)}
        if lengths != {count}:
            raise InvalidModelError(f"the columns of the nodes have {sorted({*lengths, count})} elements")
        unknown = set(nodes.modes) - set(_MODES)
        if unknown:
            raise InvalidModelError(f"nodes_modes has {min(unknown)!r}, which is none of {sorted(_MODES)}")
        children = np.array([nodes.false, nodes.true], dtype=np.int64).reshape(2, count)
        roots = np.array(nodes.roots, dtype=np.int64)
        depth = _depth(children, roots)
        missing = [bool(m) for m in nodes.missing_true] or [False] * count
        holds = [*zip(*(_MODES[m] for m in nodes.modes), strict=True), missing]
        return cls(
            features=torch.tensor(nodes.features, dtype=torch.int64),
            thresholds=torch.tensor(nodes.thresholds, dtype=dtype),
            holds=torch.tensor(holds),
            children=torch.tensor(children),
            roots=torch.tensor(roots),
            depth=depth,
        )


def leaves(forest: Forest, x: Tensor) -> Tensor:
    """Returns the node at which each row ends in each tree, (N, trees)."""
    place = forest.roots.expand(x.shape[0], -1)
    less, equal, greater, missing = forest.holds
    for _ in range(forest.depth):
        value = x.gather(1, forest.features[place])
        threshold = forest.thresholds[place].to(x.dtype)
        true = (
            (value < threshold) & less[place]
            | (value == threshold) & equal[place]
            | (value > threshold) & greater[place]
            | value.isnan() & missing[place]
        )
        place = torch.where(true, forest.children[1][place], forest.children[0][place])
    return place


@dataclass(frozen=True, slots=True)
class Votes:
    """What the leaves say.

    Attributes:
        of_leaf: (nodes, votes): which votes a node has; the number of all votes where it has no more.
        targets: (all votes + 1,): which target a vote is for; the number of targets for the last.
    """

    of_leaf: Tensor
    targets: Tensor


def votes_of(nodes: Sequence[int], targets: Sequence[int], nodes_count: int, targets_count: int) -> Votes:
    """Returns the votes by leaf.

    Args:
        nodes: node of each vote.
        targets: target of each vote.
        nodes_count: number of nodes.
        targets_count: number of targets.

    Raises:
        InvalidModelError: a target that does not exist.
    """
    place = np.array(nodes, dtype=np.int64)
    wanted = np.array(targets, dtype=np.int64)
    if len(wanted) != len(place) or (len(wanted) and not 0 <= wanted.min() <= wanted.max() < targets_count):
        raise InvalidModelError(f"{len(place)} votes need as many targets below {targets_count}")
    order = np.argsort(place, kind="stable")
    counts = np.bincount(place, minlength=nodes_count)
    starts = np.concatenate(([0], np.cumsum(counts)))[:-1]
    slot = np.arange(len(place)) - starts[place[order]]
    table = np.full((nodes_count, max(1, int(counts.max(initial=0)))), len(place), dtype=np.int64)
    table[place[order], slot] = order
    return Votes(torch.tensor(table), torch.tensor([*wanted.tolist(), targets_count]))


def aggregate(place: Tensor, votes: Votes, weights: Tensor, targets: int, how: str) -> Tensor:
    """Returns the votes of all trees joined by target, (N, targets).

    Args:
        place: (N, trees), leaves.
        votes: those of each leaf.
        weights: (all votes,).
        targets: number of targets.
        how: SUM, AVERAGE (over the trees), MIN or MAX; a target without votes has 0.
    """
    cast = votes.of_leaf[place].flatten(1)
    values = torch.cat((weights, weights.new_zeros(1)))[cast]
    result = values.new_zeros((values.shape[0], targets + 1))
    if how in ("SUM", "AVERAGE"):
        result = result.scatter_add(1, votes.targets[cast], values)
        result = result / place.shape[1] if how == "AVERAGE" else result
    elif how in ("MIN", "MAX"):
        reduce = "amin" if how == "MIN" else "amax"
        result = result.scatter_reduce(1, votes.targets[cast], values, reduce, include_self=False)
    else:
        raise InvalidModelError(f"aggregate_function {how!r} is none of SUM, AVERAGE, MIN, MAX")
    return result[:, :targets]


def _depth(children: np.ndarray[Any, Any], roots: np.ndarray[Any, Any]) -> int:
    """Returns the steps after which every way from a root has come to a leaf."""
    count = children.shape[1]
    for nodes in (children, roots):
        if nodes.size and not 0 <= nodes.min() <= nodes.max() < count:
            raise InvalidModelError(f"a tree goes on at node {nodes.max()} of {count}")
    inner = (children != np.arange(count)).any(0)
    reached, depth = np.unique(roots), 0
    while True:
        reached = reached[inner[reached]]
        if not len(reached):
            return depth
        depth += 1
        if depth > count:
            raise InvalidModelError("a tree goes round in circles")
        reached = np.unique(children[:, reached])
