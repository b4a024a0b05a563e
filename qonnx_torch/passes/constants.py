"""Values of a graph that depend on no input, such as quantized weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

__all__ = ["ConstantValues"]


class ConstantValues:
    """Evaluates nodes that depend on parameters only, each once."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._interpreter = fx.Interpreter(module, garbage_collect_values=False)
        self._values: dict[fx.Node, Any] = {}
        self._constant: dict[fx.Node, bool] = {}
        for node in module.graph.nodes:
            inputs = node.all_input_nodes
            self._constant[node] = node.op == "get_attr" or (
                node.op in ("call_function", "call_module")
                and bool(inputs)
                and all(self._constant[i] for i in inputs)
            )

    def is_constant(self, node: fx.Node) -> bool:
        """Returns whether a node depends on no graph input."""
        return self._constant[node]

    def value(self, node: fx.Node) -> Any:
        """Returns the value of a constant node."""
        if node not in self._values:
            for source in node.all_input_nodes:
                self.value(source)
            self._interpreter.env = self._values
            with torch.no_grad():
                self._values[node] = self._interpreter.run_node(node)
        return self._values[node]
