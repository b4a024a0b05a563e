"""The values of a graph while it is written: names, initializers, shapes and types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from onnx import ModelProto, TensorProto, helper
from torch import fx

from qonnx_torch.dtypes import onnx_element_type, torch_dtype
from qonnx_torch.errors import ExportError
from qonnx_torch.names import Names, onnx_name
from qonnx_torch.passes.shapes import ValueInfo
from qonnx_torch.provenance import provenance_of

from .naming import infos_by_name, unique_value_names
from .restore import state_of
from .tensors import constant_proto, packed_types, tensor_proto

__all__ = ["Values"]


class Values:
    """The values of a graph, or of a subgraph: then `outer` has those of the graph around it.

    Names are unique over all graphs of a model, so that none hides another.

    Args:
        module: the graph.
        outer: the values of the graph around it.
        prefix: the path of the subgraph in the module of that graph.
        captured: names of the values there that are the subgraph's last inputs.

    Attributes:
        of: fx node -> the name of its value, once it is written.
        names: fx node -> the names that it is to have.
        infos: name -> shape and dtype, as far as they are known.
        initializers: what was written so far.
        source: the file's model, without the data that live in the module.
        packed: name -> element type narrower than a byte.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        outer: Values | None = None,
        prefix: str = "",
        captured: Sequence[str] = (),
    ) -> None:
        self.outer = outer
        placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
        self.captured = dict(zip(placeholders[len(placeholders) - len(captured) :], captured, strict=True))
        self.of: dict[fx.Node, str] = dict(self.captured)
        self.taken: Names = Names() if outer is None else outer.taken
        self.names = unique_value_names(module, self.taken, self.captured)
        self.taken |= {n for names in self.names.values() for n in names}
        self.infos = infos_by_name(self.names)
        self.state = state_of(module)
        self.initializers: dict[str, TensorProto] = {}
        self.initializer_names: set[str] = set() if outer is None else outer.initializer_names
        self.borrowed = {} if outer is None else outer.constants_in(prefix)
        provenance = provenance_of(module)
        self.parameter_names = {p: t.name for t in provenance.tensors for p in t.paths} if provenance else {}
        self.source = ModelProto.FromString(provenance.skeleton) if provenance else ModelProto()
        self.packed = packed_types(self.source)

    def constants_in(self, prefix: str) -> dict[str, str]:
        """Returns the constants of this graph that live in a subgraph: path in it -> path here."""
        known = [*self.parameter_names, *self.borrowed]
        return {path.removeprefix(prefix): path for path in known if path.startswith(prefix)}

    def value_info(self, node: fx.Node) -> onnx.ValueInfoProto:
        """Returns the declaration of an input."""
        name = self.names[node][0]
        self.of[node] = name
        file = [v for v in self.source.graph.input if v.name == name and not v.type.HasField("tensor_type")]
        if name not in self.infos or file:  # a sequence or an optional
            return self.declared(name, self.source.graph.input)
        info = self.infos[name]
        element_type = self.packed.get(name) or onnx_element_type(info.dtype)
        return helper.make_tensor_value_info(name, element_type, list(info.shape))

    def declared(
        self, name: str, values: Sequence[onnx.ValueInfoProto], position: int | None = None
    ) -> onnx.ValueInfoProto:
        """Returns what the file declares of a value without an inferred shape: by name, or by position.

        Raises:
            ExportError: of a model's input or output, where that is nothing.
        """
        found = next((v for v in values if v.name == name), None)
        if found is None and position is not None and position < len(values):
            found = values[position]
        if found is None and self.outer is None:
            raise ExportError(f"the type of {name!r} is not known")
        return onnx.ValueInfoProto(name=name, type=found.type if found is not None else None)

    def declared_dtype(self, output: int) -> torch.dtype | None:
        """Returns the dtype that the file declares of an output."""
        declared = self.source.graph.output
        element_type = declared[output].type.tensor_type.elem_type if output < len(declared) else 0
        return torch_dtype(element_type) if element_type else None

    def parameter_info(self, value: str) -> ValueInfo | None:
        """Returns shape and dtype of an initializer, of this graph or one around it."""
        proto = self.initializers.get(value)
        if proto is not None:
            return ValueInfo(tuple(proto.dims), torch_dtype(proto.data_type))
        outer = self.outer
        return None if outer is None else outer.infos.get(value) or outer.parameter_info(value)

    def fresh(self, name: str) -> str:
        """Returns a name that no graph of the model has, and takes it."""
        return self.taken.fresh(name, self.initializer_names)

    def parameter(self, path: str) -> str:
        """Returns the initializer of a parameter or buffer; equal ones that had one name share it again."""
        if path in self.borrowed and self.outer is not None:
            return self.outer.parameter(self.borrowed[path])
        if path not in self.state:
            raise ExportError(f"{path} is no parameter or buffer of the module")
        tensor = self.state[path]
        name = self.parameter_names.get(path, onnx_name(path))
        proto = tensor_proto(tensor, name, self.packed.get(name))
        known = self.initializers.get(name)
        if known == proto:
            return name
        elsewhere = name in self.initializer_names and known is None
        if known is not None or elsewhere or name in self.taken:
            proto.name = self.fresh(f"{name}_{path.rpartition('.')[2]}" if name in self.taken else name)
        return self.initializer(proto)

    def initializer(self, proto: TensorProto) -> str:
        """Adds an initializer, and returns its name."""
        self.initializers[proto.name] = proto
        self.initializer_names.add(proto.name)
        return proto.name

    def input(self, value: Any, hint: str, like: torch.dtype | None = None) -> str:
        """Returns the value name of an argument; Python numbers become initializers."""
        if value is None:
            return ""
        if isinstance(value, fx.Node):
            return self.of[value]
        if isinstance(value, (tuple, list)) and any(isinstance(v, fx.Node) for v in value):
            raise ExportError(f"{hint} mixes numbers and computed values; compute it with Concat")
        return self.initializer(constant_proto(value, self.fresh(hint), like=like))

    def common_dtype(self, values: Sequence[Any]) -> torch.dtype | None:
        """Returns the dtype of the first of the values that has one."""
        return next((d for d in map(self.dtype, values) if d is not None), None)

    def dtype(self, value: Any) -> torch.dtype | None:
        """Returns the dtype of what a node gives; None of anything else."""
        if not isinstance(value, fx.Node):
            return None
        if value.op == "get_attr":
            return self.state[str(value.target)].dtype
        info = self.infos.get(self.of[value])
        return info.dtype if info else None

    def info(self, value: str) -> ValueInfo:
        """Returns shape and dtype of a value. Raises ExportError where they are not known."""
        info = self.infos.get(value) or self.parameter_info(value)
        if info is None:
            raise ExportError(f"the shape of {value!r} is not known")
        return info
