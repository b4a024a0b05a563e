"""Value names of a graph that may have been edited."""

from __future__ import annotations

from collections.abc import Mapping
from operator import getitem
from typing import Any

from torch import fx

from qonnx_torch.names import Names
from qonnx_torch.ops import as_tensor
from qonnx_torch.passes.shapes import ValueInfo
from qonnx_torch.provenance import value_names

__all__ = ["infos_by_name", "output_values", "unique_value_names"]


def output_values(node: fx.Node) -> tuple[Any, ...]:
    """Returns what a graph's output node returns, as a tuple."""
    results = node.args[0]
    return tuple(results) if isinstance(results, (tuple, list)) else (results,)


def unique_value_names(
    module: fx.GraphModule, taken: Names | None = None, given: Mapping[fx.Node, str] | None = None
) -> dict[fx.Node, tuple[str, ...]]:
    """Returns the value names that each node is written with.

    1. The ONNX names that the nodes came with; fx names for those that a user has added.
    2. A name that an edit has copied is used once; the others are numbered.
    3. A graph output keeps its name: where an edit has put another node in front of it, that node takes the
       name, and the value that had it is numbered.

    Args:
        module: a graph, or a subgraph.
        taken: names that the graphs around a subgraph have; those that are given out are added.
        given: names of a subgraph's inputs for values of the graph around it.
    """
    names: dict[fx.Node, tuple[str, ...]] = {}
    taken = Names() if taken is None else taken
    given = given or {}
    for node, wanted in value_names(module).items():
        if node in given:
            names[node] = (given[node],)
            continue
        if node.op == "output" or node.target in (getitem, as_tensor):
            names[node] = wanted  # these pass on the names of other nodes
            continue
        outputs = max((_index(u) + 1 for u in node.users if u.target is getitem), default=1)
        own = [*wanted, *(f"{node.name}_{i}" for i in range(len(wanted), outputs))]
        names[node] = tuple(taken.fresh(name) if name else "" for name in own)
    _restore_output_names(module, names, taken)
    return names


def _index(node: fx.Node) -> int:
    index = node.args[1]
    return index if isinstance(index, int) else 0


def _restore_output_names(
    module: fx.GraphModule, names: dict[fx.Node, tuple[str, ...]], taken: Names
) -> None:
    output = next(n for n in module.graph.nodes if n.op == "output")
    results = output_values(output)
    if len(names[output]) != len(results):
        return
    passing = (getitem, as_tensor, "output")
    owners = {name: node for node, own in names.items() for name in own if node.target not in passing}
    for wanted, result in zip(names[output], results, strict=True):
        plain = isinstance(result, fx.Node) and result.op in ("call_function", "call_module")
        if not plain or result.target in (getitem, as_tensor) or names[result][0] in names[output]:
            continue
        owner = owners.get(wanted)
        if owner is not None and owner.op == "placeholder":
            continue
        if owner is None and wanted in taken:
            continue  # by a graph around this one
        if owner is not None:
            names[owner] = tuple(taken.fresh(n) if n == wanted else n for n in names[owner])
        taken.add(wanted)
        names[result] = (wanted, *names[result][1:])


def infos_by_name(names: Mapping[fx.Node, tuple[str, ...]]) -> dict[str, ValueInfo]:
    """Returns the shapes and dtypes that `infer_shapes` left with the nodes, by value name."""
    infos: dict[str, ValueInfo] = {}
    for node, own in names.items():
        found = node.meta.get("value_info", ())
        for name, info in zip(own, found if isinstance(found, tuple) else (found,), strict=False):
            if name and info is not None:
                infos.setdefault(name, info)
    return infos
