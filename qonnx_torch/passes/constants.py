"""Values of a graph, and of the graphs in it, that depend on no input, such as quantized weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from qonnx_torch.nn.subgraphs import SubgraphOperator
from qonnx_torch.passes.bounded import Bounded

__all__ = ["ConstantValues", "graphs_in", "nested_graphs"]


class ConstantValues:
    """Evaluates nodes that depend on parameters only, each once.

    Args:
        module: the graph.
        given: its inputs that are constant, with what gives their values.
    """

    def __init__(
        self, module: fx.GraphModule, given: Mapping[fx.Node, Callable[[], Any]] | None = None
    ) -> None:
        self._given = given or {}
        self._interpreter = fx.Interpreter(module, garbage_collect_values=False)
        self._values: dict[fx.Node, Any] = {}
        self._constant: dict[fx.Node, bool] = {}
        for node in module.graph.nodes:
            inputs = node.all_input_nodes
            self._constant[node] = (
                node.op == "get_attr"
                or node in self._given
                or (
                    node.op in ("call_function", "call_module")
                    and bool(inputs)
                    and all(self._constant[i] for i in inputs)
                )
            )

    def is_constant(self, node: fx.Node) -> bool:
        """Returns whether a node depends on no graph input."""
        return self._constant[node]

    def value(self, node: fx.Node) -> Any:
        """Returns the value of a constant node."""
        waiting = [node]
        while waiting:  # no recursion: chains may be long
            step = waiting[-1]
            missing = [s for s in step.all_input_nodes if s not in self._values]
            if missing and step not in self._given:
                waiting += missing
                continue
            if step not in self._values:
                self._values[step] = self._compute(step)
            waiting.pop()
        return self._values[node]

    def _compute(self, node: fx.Node) -> Any:
        if node in self._given:
            return self._given[node]()
        self._interpreter.env = self._values
        with torch.no_grad():
            return self._interpreter.run_node(node)

    def rank(self, node: fx.Node) -> int | None:
        """Returns the number of dimensions of a constant node; None where that is too much work, or fails."""
        if self._hangs_on_subgraphs(node):
            return None
        try:
            with Bounded():
                value = self.value(node)
        except Exception:  # whatever it is: it fails again, with its own message, when the module runs
            return None
        return value.dim() if isinstance(value, torch.Tensor) else None

    def _hangs_on_subgraphs(self, node: fx.Node) -> bool:
        """Whether subgraphs, which may run for as long as they like, enter a value."""
        waiting, seen = [node], {node}
        while waiting:
            step = waiting.pop()
            if step.op == "call_module" and isinstance(
                self._interpreter.fetch_attr(str(step.target)), SubgraphOperator
            ):
                return True
            waiting += (new := set(step.all_input_nodes) - seen)
            seen |= new
        return False


def nested_graphs(module: fx.GraphModule) -> Iterator[tuple[str, fx.GraphModule, ConstantValues]]:
    """Yields a graph and the subgraphs in it, at any depth, with the prefix of their submodules' names.

    What a subgraph reads from the graph around it is constant where it is so there.
    """
    yield from _nested("", module, ConstantValues(module))


def graphs_in(module: nn.Module) -> Iterator[tuple[str, fx.GraphModule, ConstantValues]]:
    """Yields the graphs in any module, itself perhaps, as `nested_graphs` does."""
    seen: set[nn.Module] = set()
    for name, submodule in module.named_modules():
        if isinstance(submodule, fx.GraphModule) and submodule not in seen:
            for found in _nested(f"{name}." if name else "", submodule, ConstantValues(submodule)):
                seen.add(found[1])
                yield found


def _nested(
    prefix: str, module: fx.GraphModule, constants: ConstantValues
) -> Iterator[tuple[str, fx.GraphModule, ConstantValues]]:
    yield prefix, module, constants
    seen: set[str] = set()
    for node in module.graph.nodes:
        target = str(node.target)
        operator = module.get_submodule(target) if node.op == "call_module" else None
        if not isinstance(operator, SubgraphOperator) or target in seen:
            continue
        seen.add(target)
        captured = operator.split(node.args)[1]
        for name, graph in operator.subgraphs().items():
            inputs = [n for n in graph.graph.nodes if n.op == "placeholder"]
            pairs = zip(inputs[len(inputs) - len(captured) :], captured, strict=True)
            given = {
                own: partial(constants.value, outer)
                for own, outer in pairs
                if isinstance(outer, fx.Node) and constants.is_constant(outer)
            }
            yield from _nested(f"{prefix}{target}.{name}.", graph, ConstantValues(graph, given))
