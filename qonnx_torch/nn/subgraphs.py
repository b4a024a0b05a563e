"""What the operators with subgraphs share: the graphs, and with them their weights, are children."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import ModelProto, ValueInfoProto
from torch import fx, nn

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.ops.standard._subgraphs import ElementType
from qonnx_torch.provenance import provenance_of

__all__ = ["SubgraphOperator", "declared_outputs", "is_complete"]


class SubgraphOperator(nn.Module):
    """Base of the operators with subgraphs, which are children by the names of the ONNX attributes.

    It is called with the operator's inputs (None where absent) and then with the values that the subgraphs
    read from the graph around them. Each subgraph takes its formal inputs and then those values, and returns
    a tuple.

    Args:
        captured: number of values that the subgraphs read from around them.
        subgraphs: attribute name -> graph.
    """

    def __init__(self, captured: int, **subgraphs: nn.Module | None) -> None:
        super().__init__()
        self.captured = captured
        for name, subgraph in subgraphs.items():
            self.add_module(name, subgraph)

    def subgraphs(self) -> dict[str, fx.GraphModule]:
        """Returns the graphs by the names of their attributes."""
        return {name: child for name, child in self.named_children() if isinstance(child, fx.GraphModule)}

    def onnx_attributes(self) -> dict[str, Any]:
        """Returns the attributes that are no graphs."""
        return {}

    def split(self, values: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """Returns what a call was given as the operator's inputs and the captured values."""
        inputs = len(values) - self.captured
        return values[:inputs], values[inputs:]

    def example_arguments(self, *values: Any) -> dict[str, tuple[Any, ...]]:
        """Returns for each subgraph arguments like those that a call with `values` gives it.

        Subgraphs for which there are none (the body of a map over no elements) are left out.
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Shows the attributes and the number of captured values."""
        shown = self.onnx_attributes() | {"captured": self.captured}
        return ", ".join(f"{name}={value}" for name, value in shown.items())


def declared_outputs(subgraph: nn.Module) -> tuple[ElementType, ...]:
    """Returns what the file declares of a subgraph's outputs; nothing where it comes from no file."""
    provenance = provenance_of(subgraph)
    if provenance is None:
        outputs = subgraph.graph.output_node().args[0] if isinstance(subgraph, fx.GraphModule) else ()
        return tuple((None, None) for _ in outputs) if isinstance(outputs, tuple) else ()
    model = ModelProto.FromString(provenance.skeleton)
    return tuple(_element_type(value) for value in model.graph.output)


def _element_type(value: ValueInfoProto) -> ElementType:
    tensor = value.type.tensor_type
    dtype = torch_dtype(tensor.elem_type) if tensor.elem_type else None
    if not tensor.HasField("shape"):
        return dtype, None
    return dtype, tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim
    )


def is_complete(declared: ElementType) -> bool:
    """Returns whether dtype and every dimension, be it by name, are declared."""
    dtype, dims = declared
    return dtype is not None and dims is not None and None not in dims
