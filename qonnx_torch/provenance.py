"""Where an imported module came from: what a faithful export needs beyond the graph itself."""

from __future__ import annotations

import hashlib
import operator as python_operator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx, nn

from qonnx_torch.errors import quoted, shortened
from qonnx_torch.registry import REGISTRY

__all__ = [
    "TENSOR_ENCODINGS",
    "NodeOrigin",
    "Provenance",
    "TensorOrigin",
    "attach_provenance",
    "computing_nodes",
    "fingerprint",
    "provenance_of",
    "replace_skeleton",
    "value_names",
]

TENSOR_ENCODINGS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")
"""The TensorProto fields that can hold a tensor's data."""

_ATTRIBUTE = "provenance"
_PRESERVED = "_user_preserved_attributes"  # what fx copies along in deepcopy


@dataclass(frozen=True, slots=True)
class NodeOrigin:
    """The ONNX node behind one fx node.

    Attributes:
        index: its position in the file's node list; -1 for a graph input or output.
        name: its ONNX name (may be empty).
        op_type: its ONNX operator type.
        outputs: its ONNX value names.
    """

    index: int
    name: str
    op_type: str
    outputs: tuple[str, ...]

    def __str__(self) -> str:
        """Returns how messages name the node: its name, or its first output where it has none."""
        name = self.name or next((o for o in self.outputs if o), "")
        return f"{quoted(name)} ({shortened(self.op_type)})"


@dataclass(frozen=True, slots=True)
class TensorOrigin:
    """A constant of the file that lives in the module.

    Attributes:
        name: its ONNX name (initializer, or output of a Constant node).
        paths: where it lives: `state_dict` keys. A constant shared by quantizers lives in each of them.
        encoding: the TensorProto field that held its data, one of TENSOR_ENCODINGS.
    """

    name: str
    paths: tuple[str, ...]
    encoding: str


@dataclass(frozen=True)
class Provenance:
    """Everything about the source file that the graph does not carry.

    Attributes:
        skeleton: the serialized ModelProto, with the data of the tensors listed in `tensors` left out.
        nodes: one entry per computing fx node, in graph order.
        tensors: the constants that live in the module.
        fingerprint: of the graph's structure at import; while it is unchanged the skeleton still holds.
    """

    skeleton: bytes
    nodes: tuple[NodeOrigin, ...]
    tensors: tuple[TensorOrigin, ...]
    fingerprint: str = field(default="")


def computing_nodes(graph: fx.Graph) -> list[fx.Node]:
    """Returns the nodes of a graph except `get_attr`, which tracing may repeat or merge."""
    return [node for node in graph.nodes if node.op != "get_attr"]


def fingerprint(module: fx.GraphModule) -> str:
    """Returns a digest of what the graph computes with: targets, wiring, literals, attributes, subgraphs.

    Node names and the values of tensors do not enter.
    """
    order = {node: i for i, node in enumerate(computing_nodes(module.graph))}

    def describe(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return ("attr", value.target) if value.op == "get_attr" else ("node", order[value])
        if isinstance(value, (tuple, list)):
            return tuple(describe(v) for v in value)
        if isinstance(value, dict):
            return tuple(sorted((k, describe(v)) for k, v in value.items()))
        return repr(value)

    digest = hashlib.sha256()
    for node in order:
        target = node.target
        if node.op == "call_module":
            submodule = module.get_submodule(str(target))
            operator = REGISTRY.of_target(type(submodule))
            attributes = operator.attributes_of(submodule) if operator is not None else {}
            if hasattr(submodule, "learned_attributes"):  # parameters are values of tensors
                learned = dict(submodule.named_parameters(recurse=False))
                attributes = {k: v for k, v in attributes.items() if k not in learned}
            named = submodule.named_children()
            children = {n: fingerprint(c) for n, c in named if isinstance(c, fx.GraphModule)}
            described = sorted((attributes | children).items())
            name = repr((type(submodule).__qualname__, target, described))
        elif node.op in ("placeholder", "output"):
            name = ""
        elif target is python_operator.getitem:
            name = "getitem"
        else:
            name = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', target)}"
        digest.update(repr((node.op, name, describe(node.args), describe(node.kwargs))).encode())
    return digest.hexdigest()


def attach_provenance(module: fx.GraphModule, provenance: Provenance) -> None:
    """Stores provenance on a module so that it survives deepcopy and pickling."""
    _store(module, replace(provenance, fingerprint=fingerprint(module)))


def _store(module: fx.GraphModule, provenance: Provenance) -> None:
    setattr(module, _ATTRIBUTE, provenance)
    module.meta.setdefault(_PRESERVED, {})[_ATTRIBUTE] = provenance


def replace_skeleton(module: fx.GraphModule, skeleton: bytes) -> None:
    """Replaces what a module knows of its file beside the graph; that the graph has changed stays known."""
    provenance = provenance_of(module)
    assert provenance is not None
    _store(module, replace(provenance, skeleton=skeleton))


def provenance_of(module: nn.Module) -> Provenance | None:
    """Returns the provenance of a module, or None where it has none."""
    found = module.__dict__.get(_ATTRIBUTE)
    return found if isinstance(found, Provenance) else None


def value_names(module: fx.GraphModule) -> dict[fx.Node, tuple[str, ...]]:
    """Returns the ONNX names of what each computing node gives; its fx name where it has none.

    A node with several outputs has all their names; the `getitem` nodes after it have one each.
    """
    nodes = computing_nodes(module.graph)
    provenance = provenance_of(module)
    if provenance is not None and fingerprint(module) == provenance.fingerprint:
        return {node: origin.outputs for node, origin in zip(nodes, provenance.nodes, strict=True)}
    return {node: node.meta["onnx"].outputs if "onnx" in node.meta else (node.name,) for node in nodes}
