"""The values on one grid of integers, and what reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnx import NodeProto

from .graph import Graph
from .grids import DEQUANTIZE, Grid, dequantized_grid, is_linear
from .moving import moved_values, moves_elements

__all__ = ["Level", "levels_of"]

Bounds = tuple[int, int] | None


@dataclass(slots=True)
class Level:
    """A value on a grid: what a QuantizeLinear gives, a Clip of that, or an integer constant.

    Attributes:
        name: the value.
        bounds: its smallest and largest integer; None of floats.
        clip: position of the Clip that gives it, or None.
        ends: positions of the DequantizeLinear nodes that read it.
        moves: positions of the nodes that read it and only move elements, to such ends in the end.
        moved: what these give, and others after them -> positions of the DequantizeLinear nodes that read it.
        others: whether anything else reads it.
    """

    name: str
    bounds: Bounds
    clip: int | None = None
    ends: list[int] = field(default_factory=list)
    moves: list[int] = field(default_factory=list)
    moved: dict[str, list[int]] = field(default_factory=dict)
    others: bool = False

    @property
    def is_used(self) -> bool:
        """Whether it has floats behind it."""
        return bool(self.all_ends())

    def all_ends(self) -> list[int]:
        """Returns the positions of all DequantizeLinear nodes behind it."""
        return sorted([*self.ends, *(end for ends in self.moved.values() for end in ends)])


class _ShownError(Exception):
    """A value on the grid is an output of the graph."""


def levels_of(
    graph: Graph, name: str, grid: Grid | None, element_type: int, bounds: Bounds, rank: int | None
) -> tuple[list[Level], Grid | None]:
    """Returns the levels that begin at a value, and the grid.

    There are none where a value on the grid is an output of the graph.

    Args:
        graph: the graph.
        name: what is on the grid.
        grid: the grid; None for that of the first DequantizeLinear that is found.
        element_type: of the value.
        bounds: smallest and largest integer of that type.
        rank: number of dimensions of the value, where it is known.
    """
    finder = _Finder(graph, grid, element_type, rank)
    try:
        return finder.find(name, bounds), finder.grid
    except _ShownError:
        return [], finder.grid


class _Finder:
    def __init__(self, graph: Graph, grid: Grid | None, element_type: int, rank: int | None) -> None:
        self.graph = graph
        self.grid = grid
        self.element_type = element_type
        self.rank = rank

    def find(self, name: str, bounds: Bounds) -> list[Level]:
        levels: list[Level] = []
        found: set[str] = set()  # a broken file may have a cycle
        waiting = [Level(name, bounds)]
        while waiting:
            level = waiting.pop()
            if level.name in found:
                continue
            found.add(level.name)
            levels.append(level)
            self._check(level)
            for position in sorted(self.graph.readers[level.name]):
                self._take(position, level, waiting)
        return levels

    def _check(self, level: Level) -> None:
        if self.graph.is_output(level.name):
            raise _ShownError
        level.others = self.graph.is_captured(level.name)

    def _take(self, position: int, level: Level, waiting: list[Level]) -> None:
        """Notes what a node that reads a level's value is for it."""
        node = self.graph.nodes[position]
        if self._is_end(node, level.name):
            level.ends.append(position)
            return
        clipped = _clip_bounds(self.graph, node, level)
        if clipped is not None:
            waiting.append(Level(node.output[0], clipped, position))
            return
        moved = self._moved(position, level.name)
        if moved is None:
            level.others = True
        else:
            level.moves.append(position)
            level.moved |= moved

    def _is_end(self, node: NodeProto, name: str) -> bool:
        if not is_linear(node, DEQUANTIZE) or list(node.input).count(name) != 1 or node.input[0] != name:
            return False
        grid = dequantized_grid(self.graph, node, self.element_type)
        if self.grid is None:
            self.grid = grid
        return grid is not None and self.grid is not None and grid.same_as(self.grid, self.graph, self.rank)

    def _moved(self, first: int, name: str) -> dict[str, list[int]] | None:
        """Returns the values behind a node that moves elements, with their ends; None if others read them."""
        moved: dict[str, list[int]] = {}
        waiting = [(first, name)]
        while waiting:
            position, source = waiting.pop()
            node = self.graph.nodes[position]
            if not self._moves(node, source):
                return None
            for value in moved_values(node):
                if self.graph.is_output(value):
                    raise _ShownError
                if self.graph.is_captured(value) or value in moved or value == name:
                    return None
                moved[value] = []
                for reader in sorted(self.graph.readers[value]):
                    if self._is_end(self.graph.nodes[reader], value):
                        moved[value].append(reader)
                    else:
                        waiting.append((reader, value))
        grid = self.grid if any(moved.values()) else None
        return moved if grid is not None and grid.is_per_tensor(self.graph) else None

    def _moves(self, node: NodeProto, name: str) -> bool:
        grid = self.grid
        if grid is None:
            grid = Grid("", "", self.element_type, 1, 0)
            return node.op_type != "Pad" and moves_elements(self.graph, node, name, grid)
        return moves_elements(self.graph, node, name, grid)


def _clip_bounds(graph: Graph, node: NodeProto, level: Level) -> Bounds:
    """Returns the integers that a Clip with constant bounds leaves of a level's; None of any other node."""
    if node.op_type != "Clip" or node.domain not in ("", "ai.onnx") or level.bounds is None:
        return None
    if len(node.output) != 1 or not node.output[0]:
        return None
    if list(node.input).count(level.name) != 1 or node.input[0] != level.name or node.attribute:
        return None
    ends = list(level.bounds)
    for i, name in enumerate(node.input[1:3]):
        if not name:
            continue
        value = graph.constant(name)
        if value is None or value.numel() != 1 or value.is_floating_point():
            return None
        end = int(value.reshape(()))
        ends = [max(e, end) for e in ends] if i == 0 else [min(e, end) for e in ends]
    return ends[0], ends[1]
