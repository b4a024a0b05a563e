"""How graphs of this project are traced again, as unpickling does."""

from __future__ import annotations

from torch import fx, nn

from qonnx_torch.registry import REGISTRY

__all__ = ["RepresentationTracer"]


class RepresentationTracer(fx.Tracer):
    """Re-traces a graph of this project: buffers are read, not computed on; stateful operators stay whole."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Keeps the modules of `qonnx_torch.nn`, those that implement an operator, and torch's own, whole."""
        own = __name__.rpartition(".")[0]
        known = type(m).__module__.startswith(own) or REGISTRY.of_target(type(m)) is not None
        return known or super().is_leaf_module(m, module_qualified_name)
