"""How graphs of this project are traced again, as unpickling does."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import fx, nn

from qonnx_torch.ops._operator import retracing
from qonnx_torch.registry import REGISTRY

__all__ = ["RepresentationTracer"]


class RepresentationTracer(fx.Tracer):
    """Re-traces a graph of this project: buffers are read, not computed on; stateful operators stay whole.

    Attributes:
        records_constants: operators without any traced input are nodes as well, not values.
    """

    proxy_buffer_attributes = True
    records_constants: ClassVar[bool] = True

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Returns the graph of a module."""
        if not self.records_constants:
            return super().trace(root, concrete_args)
        retracing.append(self)
        try:
            return super().trace(root, concrete_args)
        finally:
            retracing.pop()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Keeps the modules of `qonnx_torch.nn`, those that implement an operator, and torch's own, whole."""
        own = __name__.rpartition(".")[0]
        known = type(m).__module__.startswith(own) or REGISTRY.of_target(type(m)) is not None
        return known or super().is_leaf_module(m, module_qualified_name)
