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
        shared: such nodes, before those behind them, whose results something else reads, too.
        others: whether anything else reads it, or what moves its elements, or it is an output of the graph.
    """

    name: str
    bounds: Bounds
    clip: int | None = None
    ends: list[int] = field(default_factory=list)
    moves: list[int] = field(default_factory=list)
    moved: dict[str, list[int]] = field(default_factory=dict)
    shared: list[int] = field(default_factory=list)
    others: bool = False

    @property
    def is_used(self) -> bool:
        """Whether it has floats behind it."""
        return bool(self.all_ends())

    def all_ends(self) -> list[int]:
        """Returns the positions of all DequantizeLinear nodes behind it."""
        return sorted([*self.ends, *(end for ends in self.moved.values() for end in ends)])


def levels_of(
    graph: Graph, name: str, grid: Grid | None, element_type: int, bounds: Bounds, rank: int | None
) -> tuple[list[Level], Grid | None]:
    """Returns the levels that begin at a value, and the grid.

    Args:
        graph: the graph.
        name: what is on the grid.
        grid: the grid; None for that of the first DequantizeLinear that is found.
        element_type: of the value.
        bounds: smallest and largest integer of that type.
        rank: number of dimensions of the value, where it is known.
    """
    finder = _Finder(graph, grid, element_type, rank)
    return finder.find(name, bounds), finder.grid


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
            level.others = self._is_shown(level.name)
            for position in sorted(self.graph.readers[level.name]):
                self._take(position, level, waiting)
        return levels

    def _is_shown(self, name: str) -> bool:
        return self.graph.is_output(name) or self.graph.is_captured(name)

    def _take(self, position: int, level: Level, waiting: list[Level]) -> None:
        """Notes what a node that reads a level's value is for it."""
        node = self.graph.nodes[position]
        if self._is_end(node, level.name):
            level.ends.append(position)
            return
        clipped = _clip_bounds(self.graph, node, level, self.rank)
        if clipped is not None:
            waiting.append(Level(node.output[0], clipped, position))
            return
        moves = self._moves_to_ends(position, level.name)
        if not moves:
            level.others = True
            return
        if self._has_others(moves):
            level.others = True
            level.shared += moves
        else:
            level.moves.append(position)
        for move in moves:
            level.moved |= {value: self._ends_of(value) for value in moved_values(self.graph.nodes[move])}

    def _is_end(self, node: NodeProto, name: str) -> bool:
        if not is_linear(node, DEQUANTIZE) or list(node.input).count(name) != 1 or node.input[0] != name:
            return False
        grid = dequantized_grid(self.graph, node, self.element_type)
        if self.grid is None:
            self.grid = grid
        return grid is not None and self.grid is not None and grid.same_as(self.grid, self.graph, self.rank)

    def _moves_to_ends(self, first: int, name: str) -> list[int]:
        """Returns the nodes from one on that only move elements, each before those behind it.

        Only those on the way to a DequantizeLinear, of the one grid; none where there is no such way.
        """
        found: dict[int, list[int]] = {}  # node -> those that move what it gives
        values = {name}
        waiting = [(first, name)]
        while waiting:
            position, source = waiting.pop()
            if position in found or not self._moves(self.graph.nodes[position], source):
                continue
            found[position] = []
            for value in moved_values(self.graph.nodes[position]):
                if value in values:
                    return []
                values.add(value)
                found[position] += sorted(self.graph.readers[value])
                waiting += [(reader, value) for reader in sorted(self.graph.readers[value], reverse=True)]
        wanted: set[int] = set()
        for position in reversed(found):
            ends = [e for value in moved_values(self.graph.nodes[position]) for e in self._ends_of(value)]
            if ends or wanted.intersection(found[position]):
                wanted.add(position)
        moves = [position for position in found if position in wanted]
        return moves if moves and self.grid is not None and self.grid.is_per_tensor(self.graph) else []

    def _ends_of(self, value: str) -> list[int]:
        readers = sorted(self.graph.readers[value])
        return [reader for reader in readers if self._is_end(self.graph.nodes[reader], value)]

    def _has_others(self, moves: list[int]) -> bool:
        """Whether something else reads what these nodes give."""
        for value in (v for move in moves for v in moved_values(self.graph.nodes[move])):
            behind = {*moves, *self._ends_of(value)}
            if self._is_shown(value) or not behind.issuperset(self.graph.readers[value]):
                return True
        return False

    def _moves(self, node: NodeProto, name: str) -> bool:
        grid = self.grid
        if grid is None:
            grid = Grid("", "", self.element_type, 1, 0)
            return node.op_type != "Pad" and moves_elements(self.graph, node, name, grid)
        return moves_elements(self.graph, node, name, grid)


def _clip_bounds(graph: Graph, node: NodeProto, level: Level, rank: int | None) -> Bounds:
    """Returns the integers that a Clip, Max or Min with constants leaves of a level's; else None."""
    if node.op_type not in ("Clip", "Max", "Min") or node.domain not in ("", "ai.onnx"):
        return None
    if level.bounds is None or node.attribute or len(node.output) != 1 or not node.output[0]:
        return None
    names = list(node.input)
    if names.count(level.name) != 1 or (node.op_type == "Clip" and names[0] != level.name):
        return None
    names.remove(level.name)
    kinds = ["Max", "Min"] if node.op_type == "Clip" else [node.op_type] * len(names)
    ends = list(level.bounds)
    for kind, name in zip(kinds, names, strict=False):
        if not name:
            continue
        value = graph.constant(name)
        if value is None or value.numel() != 1 or value.is_floating_point():
            return None
        if node.op_type != "Clip" and value.dim() > (rank or 0):
            return None  # it would give the integers more dimensions
        end = int(value.reshape(()))
        ends = [max(e, end) for e in ends] if kind == "Max" else [min(e, end) for e in ends]
    return ends[0], ends[1]
