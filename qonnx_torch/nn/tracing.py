"""How graphs of this project are traced again, as unpickling does."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, fx, nn

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
        self._paths: dict[int, tuple[Tensor, str]] | None = None
        if not self.records_constants:
            return super().trace(root, concrete_args)
        retracing.append(self)
        try:
            return super().trace(root, concrete_args)
        finally:
            retracing.pop()

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Returns the node of a parameter or buffer; fx would go through all of them for each."""
        if not isinstance(attr_val, Tensor):
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        if self._paths is None:
            named = (*self.root.named_buffers(), *self.root.named_parameters())
            self._paths = {id(tensor): (tensor, path) for path, tensor in named}
        tensor, path = self._paths.get(id(attr_val), (None, ""))
        if tensor is not attr_val:
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        if path not in parameter_proxy_cache:
            parameter_proxy_cache[path] = self.create_proxy("get_attr", path, (), {})
        return parameter_proxy_cache[path]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Keeps the modules of `qonnx_torch.nn`, those that implement an operator, and torch's own, whole."""
        own = __name__.rpartition(".")[0]
        known = type(m).__module__.startswith(own) or REGISTRY.of_target(type(m)) is not None
        return known or super().is_leaf_module(m, module_qualified_name)
