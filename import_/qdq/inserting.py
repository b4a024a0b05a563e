"""Quantizers put in the place of nodes, in one graph."""

from __future__ import annotations

from onnx import NodeProto

from qonnx_torch.names import Names

from .choices import Choice
from .graph import Graph
from .grids import DEQUANTIZE, DYNAMIC, QUANTIZE
from .levels import Level

__all__ = ["Inserter"]


class Inserter:
    """Puts quantizers into a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        replaced = (QUANTIZE, DEQUANTIZE, DYNAMIC)
        self.node_names = Names(n.name for n in graph.nodes if n.op_type not in replaced)

    def insert(
        self, level: Level, choice: Choice, x: str, quantize: int | None, *, alone: bool = False
    ) -> None:
        """Puts a quantizer between x and what is behind a level.

        Args:
            level: a value on the grid.
            choice: the quantizer.
            x: what it reads.
            quantize: position of the QuantizeLinear, where that goes.
            alone: whether the quantizer takes its place; else it takes that of a DequantizeLinear.
        """
        graph = self.graph
        first = self._first_end(level.ends)
        last = graph.nodes[level.all_ends()[0] if first is None else first]
        source = None if quantize is None else graph.nodes[quantize]
        y = last.output[0] if first is not None else graph.names.fresh(f"{level.name}_dequantized")
        name = self._name((source.name if source is not None else "") or last.name, choice.op_type)
        node = choice.node(graph, x, y, name)
        if choice.op_type == "QuantizeDequantizeLinear" and first is not None:
            _keep_names(node, source, None if level.clip is None else graph.nodes[level.clip], last)
        freed = self._take_ends(level.ends, y)
        for position in level.moves:
            graph.redirect(position, level.name, y)
        copied = self._copy_moves(level, y)
        for value, ends in level.moved.items():
            freed += copied[value] if value in copied else self._end_moved(value, ends)
        slot = quantize if quantize is not None and alone else freed[0]
        graph.replace(slot, node)
        graph.givers[y] = slot

    def _take_ends(self, ends: list[int], y: str) -> list[int]:
        """Lets what reads the outputs of DequantizeLinear nodes read y; returns which of the nodes is gone.

        y is the output of one of them, or another value.
        """
        graph, freed = self.graph, []
        for end in ends:
            output = graph.nodes[end].output[0]
            if output == y:
                graph.remove(end)
                freed.append(end)
            else:
                graph.substitute(end, output, y)
        return freed

    def _first_end(self, ends: list[int]) -> int | None:
        """Returns the DequantizeLinear whose output keeps its name: one that must, where there is one."""
        graph = self.graph
        outputs = {end: graph.nodes[end].output[0] for end in ends}
        bound = (end for end in ends if graph.is_output(outputs[end]) or graph.is_captured(outputs[end]))
        return next(bound, ends[0] if ends else None)

    def _end_moved(self, value: str, ends: list[int]) -> list[int]:
        """Lets moved integers be floats, and what DequantizeLinear nodes made of them be they themselves."""
        graph = self.graph
        graph.retype(value)
        first = self._first_end(ends)
        if first is None:
            return []
        name = graph.nodes[first].output[0]
        freed = self._take_ends(ends, name)
        graph.rename_output(graph.givers[value], value, name)
        graph.givers[name] = graph.givers.pop(value)
        for reader in list(graph.readers[value]):
            graph.redirect(reader, value, name)
        return freed

    def _copy_moves(self, level: Level, y: str) -> dict[str, list[int]]:
        """Moves the elements of y as shared nodes move a level's, up to the DequantizeLinear nodes behind.

        Returns what the nodes give -> positions of the DequantizeLinear nodes that are gone.
        """
        graph = self.graph
        new, freed = {level.name: y}, {}
        for position in level.shared:
            node = NodeProto()
            node.CopyFrom(graph.nodes[position])
            node.name = self.unique(f"{node.name}_dequantized" if node.name else "")
            for i, name in enumerate(node.input):
                node.input[i] = new.get(name, name)
            for i, value in enumerate(node.output):
                first = self._first_end(level.moved.get(value, []))
                fresh = graph.names.fresh(f"{value}_dequantized") if value and first is None else ""
                new[value] = fresh if first is None else graph.nodes[first].output[0]
                node.output[i] = new[value] if value in level.moved else fresh
                freed[value] = self._take_ends(level.moved.get(value, []), new[value])
            graph.append(node)
        return freed

    def _name(self, name: str, op_type: str) -> str:
        """Returns the quantizer's name, after that of a node which it replaces."""
        if not name:
            return ""
        for suffix in (DYNAMIC, QUANTIZE, DEQUANTIZE):
            if name.endswith(suffix):
                name = name.removesuffix(suffix) + op_type
                break
        return self.unique(name)

    def unique(self, name: str) -> str:
        """Returns a node's name, with a number behind where another node has it; none stays none."""
        if not name:
            return ""
        return self.node_names.fresh(name)

    def drop_unread(self, levels: list[Level]) -> None:
        """Takes out what only clipped integers that nothing reads any more."""
        for level in reversed(levels):  # a Clip comes after the one that it reads
            if level.clip is not None and not self.graph.readers[level.name] and not level.others:
                self.graph.remove(level.clip)


def _keep_names(node: NodeProto, quantize: NodeProto | None, clip: NodeProto | None, last: NodeProto) -> None:
    """Notes what the nodes were called that an export will write again."""
    nodes = {"quantize": quantize, "clip": clip, "dequantize": last}
    for kind, source in nodes.items():
        if source is not None:
            node.metadata_props.add(key=kind, value=source.name)
            if source is not last:
                node.metadata_props.add(key=f"{kind}_output", value=source.output[0])
