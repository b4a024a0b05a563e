"""Partitions on import: the models that GenericPartition nodes name take the place of the nodes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from onnx import GraphProto, ModelProto, NodeProto

from qonnx_torch.errors import InvalidModelError, UnsupportedModelError, quoted
from qonnx_torch.graphs import label, subgraphs
from qonnx_torch.registry import QONNX_DOMAIN, canonical_domain

from .reading import open_model, tensors_of
from .tensors import TensorStore

__all__ = ["inline_partitions"]

_MOST_PARTITIONS = 1000
_DEEPEST = 100
_MOST_NODES = 1_000_000


def inline_partitions(model: ModelProto, folder: Path | None, tensors: TensorStore) -> None:
    """Puts the graphs of the models that GenericPartition nodes name in place of the nodes.

    The node's inputs and outputs stand for the partition's, by position; its other values, its initializers
    and its nodes get the node's name in front. Partitions may have partitions. In subgraphs it is the same,
    but that the initializers go into the main graph, where all subgraphs find them.

    A partition is read from the model's own folder only: at the path that the node has, or, since QONNX
    writes absolute paths, under the same file name beside the model. Links out of the folder do not count.

    Args:
        model: changed in place.
        folder: where the model lies; None for one that came as bytes.
        tensors: the data of its large tensors; those of the partitions are added.

    Raises:
        UnsupportedModelError: a partition that is not in the folder, or is written for another operator set;
            more than a thousand partitions, or than a million nodes in all; copies of one that are many
            times the files' bytes.
        InvalidModelError: a partition that cannot be read, has other inputs or outputs than its node, or
            contains itself.

    Source: QONNX 1.0.0, operator GenericPartition.
    """
    if _has_partitions(model.graph):
        _Inliner(model, folder, tensors).run()


def _has_partitions(graph: GraphProto) -> bool:
    return any(
        _is_partition(node) or any(map(_has_partitions, subgraphs(node).values())) for node in graph.node
    )


def _is_partition(node: NodeProto) -> bool:
    return node.op_type == "GenericPartition" and canonical_domain(node.domain) in ("", QONNX_DOMAIN)


class _Inliner:
    def __init__(self, model: ModelProto, folder: Path | None, tensors: TensorStore) -> None:
        self.model = model
        self.tensors = tensors
        self.folder = None if folder is None else Path(os.path.realpath(folder))
        self.taken = set(_names(model.graph))
        self.count = 0
        self.read: dict[Path, ModelProto] = {}
        self.sizes: dict[Path, int] = {}

    def run(self) -> None:
        self._expand(self.model.graph, ())

    def _expand(self, graph: GraphProto, within: tuple[Path, ...]) -> None:
        """Inlines the partitions of a graph and its subgraphs, in place."""
        nodes = self._expanded(list(graph.node), within)
        del graph.node[:]
        graph.node.extend(nodes)

    def _expanded(self, nodes: list[NodeProto], within: tuple[Path, ...]) -> list[NodeProto]:
        result: list[NodeProto] = []
        for node in nodes:
            for inner in subgraphs(node).values():
                if _has_partitions(inner):
                    self._expand(inner, within)
            if _is_partition(node):
                path = self._locate(node)
                if path in within:
                    raise InvalidModelError(
                        f"node {label(node)}: the partition {path.name!r} contains itself"
                    )
                if len(within) == _DEEPEST:
                    raise UnsupportedModelError(f"partitions are nested more than {_DEEPEST} deep")
                result += self._expanded(self._inlined(node, path), (*within, path))
            else:
                result.append(node)
            if len(result) > _MOST_NODES:
                raise UnsupportedModelError(f"the partitions have more than {_MOST_NODES} nodes")
        return result

    def _locate(self, node: NodeProto) -> Path:
        """Returns the file of a partition, its links resolved."""
        name = next((a.s.decode("utf-8", "replace") for a in node.attribute if a.name == "model"), "")
        if self.folder is None:
            raise UnsupportedModelError(
                f"node {label(node)} is in the file {quoted(name)}; import the model by its path"
            )
        candidates = [self.folder / name, self.folder / Path(name.replace("\\", "/")).name]
        for candidate in candidates if name and "\0" not in name else []:
            path = Path(os.path.realpath(candidate))
            if path.is_relative_to(self.folder) and os.path.isfile(path):  # also where a name is too long
                return path
        raise UnsupportedModelError(
            f"node {label(node)}: its model {quoted(name)} is not in the model's folder; put the file there"
        )

    def _inlined(self, node: NodeProto, path: Path) -> list[NodeProto]:
        """Returns the nodes of a partition with their new names; its tensors go into the model."""
        self.count += 1
        if self.count > _MOST_PARTITIONS:
            raise UnsupportedModelError(f"more than {_MOST_PARTITIONS} partitions")
        is_first = path not in self.read
        if is_first:
            self.read[path] = open_model(path, self.tensors)[0]
            self.sizes[path] = self.read[path].ByteSize()
        child = self.read[path]
        self._check_opsets(node, child)
        graph = GraphProto()
        if not is_first:
            self.tensors.charge(self.sizes[path], f"node {label(node)}: its partition")
        graph.CopyFrom(child.graph)
        for tensor in () if is_first else tensors_of(graph):
            self.tensors.again(tensor, f"node {label(node)}: its partition")
        values, prefix = self._new_names(node, graph)
        # What a partition only passes on has no node that could take the outer name.
        passed = {i.name for i in graph.input} | {i.name for i in graph.initializer}
        outputs = [o.name for o in graph.output]
        again = {n for i, n in enumerate(outputs) if n in passed or n in outputs[:i]}
        _rename(graph, lambda name: values.get(name) or prefix + name, prefix)
        nodes = list(graph.node)
        for name, outer in zip(outputs, node.output, strict=False):
            if outer and name in again and values.get(name) != outer:
                inner = values.get(name) or prefix + name
                nodes.append(
                    NodeProto(op_type="Identity", input=[inner], output=[outer], name=f"{outer}_identity")
                )
        own = self.model.graph
        own.initializer.extend(graph.initializer)
        own.value_info.extend(graph.value_info)
        own.quantization_annotation.extend(graph.quantization_annotation)
        return nodes

    def _check_opsets(self, node: NodeProto, child: ModelProto) -> None:
        known = {canonical_domain(o.domain): o.version for o in self.model.opset_import}
        for entry in child.opset_import:
            domain = canonical_domain(entry.domain)
            version = known.setdefault(domain, entry.version)
            if version != entry.version:
                raise UnsupportedModelError(
                    f"node {label(node)}: its partition is written for {domain or 'ai.onnx'} "
                    f"{entry.version}, the model for {version}; convert one of them"
                )
            if domain not in {canonical_domain(o.domain) for o in self.model.opset_import}:
                self.model.opset_import.append(entry)
        if child.functions:
            raise UnsupportedModelError(
                f"node {label(node)}: its partition has functions of its own; inline them first"
            )

    def _new_names(self, node: NodeProto, graph: GraphProto) -> tuple[dict[str, str], str]:
        """Returns what the partition's inputs and outputs are called outside, and what others begin with."""
        given = {i.name for i in graph.initializer}
        inputs = [i.name for i in graph.input]
        outputs = [o.name for o in graph.output]
        unfed = [name for name in inputs[len(node.input) :] if name not in given]
        if len(node.input) > len(inputs) or unfed or len(node.output) > len(outputs):
            raise InvalidModelError(
                f"node {label(node)} has {len(node.input)} inputs and {len(node.output)} outputs, its "
                f"partition {len(inputs)} and {len(outputs)}"
            )
        values = dict(zip(inputs, node.input, strict=False))
        produced = {o for n in graph.node for o in n.output}
        for name, outer in zip(outputs, node.output, strict=False):
            if name in produced and name not in values and outer:
                values[name] = outer
        for name in given & set(values):  # the node's input stands for it
            position = next(i for i, t in enumerate(graph.initializer) if t.name == name)
            del graph.initializer[position]
        base = f"{node.name or next(o for o in node.output if o)}_"
        prefix, number = base, 1
        while any(prefix + name in self.taken for name in _names(graph)):
            number += 1
            prefix = f"{base}{number}_"
        self.taken.update(prefix + name for name in _names(graph))
        return values, prefix


def _names(graph: GraphProto) -> Iterator[str]:
    """Yields the names of a graph's values and tensors, those of its subgraphs too."""
    yield from (v.name for v in (*graph.input, *graph.output, *graph.initializer))
    for node in graph.node:
        yield from node.input
        yield from node.output
        for inner in subgraphs(node).values():
            yield from _names(inner)


def _rename(graph: GraphProto, new: Callable[[str], str], prefix: str) -> None:
    """Renames all values, tensors and nodes of a graph and its subgraphs, in place."""
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = new(value.name)
    for annotation in graph.quantization_annotation:
        annotation.tensor_name = new(annotation.tensor_name)
        for entry in annotation.quant_parameter_tensor_names:
            entry.value = entry.value if entry.key == "finn_datatype" else new(entry.value)
    for node in graph.node:
        node.name = prefix + node.name if node.name else ""
        for names in (node.input, node.output):
            renamed = [new(name) if name else "" for name in names]
            del names[:]
            names.extend(renamed)
        for inner in subgraphs(node).values():
            _rename(inner, new, prefix)
