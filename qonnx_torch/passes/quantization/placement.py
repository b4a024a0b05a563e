"""Which operators are quantized how, and where the quantizer of a value belongs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

import qonnx_torch.nn as qnn
from qonnx_torch.errors import QonnxTorchError, UnsupportedModelError
from qonnx_torch.ops.standard import (
    activation,
    elementwise,
    indexing,
    movement,
    padding,
    pool,
    quantize_linear,
    reduction,
    resize,
    shape,
)
from qonnx_torch.passes.constants import ConstantValues
from qonnx_torch.passes.inputs import Inputs
from qonnx_torch.passes.quantization.config import (
    AnyQuantizerConfig,
    Position,
    QuantizationConfig,
    QuantizationRule,
)
from qonnx_torch.passes.shapes import FakeInterpreter, UndeclaredInputsError, declared_inputs, propagate
from qonnx_torch.passes.tensors import named_tensors
from qonnx_torch.registry import REGISTRY

__all__ = ["BIASED", "Plan", "Values", "plans"]

BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})
"""Operators whose third input is a bias."""

_PRESERVING = frozenset(
    {
        shape.reshape,
        shape.flatten,
        shape.squeeze,
        shape.unsqueeze,
        movement.transpose,
        movement.concat,
        movement.split,
        indexing.slice_,
        indexing.gather,
        indexing.gather_elements,
        movement.expand,
        movement.tile,
        padding.pad,
        movement.depth_to_space,
        movement.space_to_depth,
        pool.max_pool,
        pool.global_max_pool,
        reduction.reduce_max,
        reduction.reduce_min,
        elementwise.identity,
    }
)
"""Functions that give only values that they were given (or 0, which every quantizer keeps)."""

_NEVER_NEGATIVE = frozenset(
    {
        activation.relu,
        activation.sigmoid,
        activation.hard_sigmoid,
        activation.softmax,
        activation.softmax_coerced,
        activation.softplus,
        elementwise.abs,
        elementwise.sqrt,
        elementwise.exp,
    }
)
_KEEPING_SIGN = frozenset(
    {
        pool.average_pool,
        pool.global_average_pool,
        reduction.reduce_mean,
        reduction.reduce_sum,
        elementwise.add,
        elementwise.mul,
        elementwise.sum,
        elementwise.mean,
        elementwise.min,
        elementwise.max,
    }
)
"""Functions that give no negative value where they are given none."""


@dataclass(slots=True)
class Plan:
    """How one operator is quantized; `inputs` is for those of its inputs that are the module's own."""

    op_type: str
    name: str
    weights: AnyQuantizerConfig | None = None
    activations: AnyQuantizerConfig | None = None
    inputs: AnyQuantizerConfig | None = None
    biases: AnyQuantizerConfig | None = None
    outputs: AnyQuantizerConfig | None = None
    positions: dict[Position, AnyQuantizerConfig | None] = field(default_factory=dict)


class Values:
    """What is known of the values of a module, which quantizers may be added to."""

    def __init__(self, module: fx.GraphModule, examples: Sequence[Tensor]) -> None:
        self.module = module
        try:
            results = propagate(module, _input_sizes(module, examples), FakeInterpreter(module))
        except UndeclaredInputsError:
            raise
        except UnsupportedModelError:  # of dynamic dimensions, other sizes may do
            results = Inputs(module, examples).trials().base[0].run.results
        self._results = {n: r for n, r in results.items() if isinstance(r, Tensor)}
        self._tensors = named_tensors(module)
        constants = ConstantValues(module)
        self._constant = {n for n in module.graph.nodes if constants.is_constant(n)}

    def add_quantizer(self, node: fx.Node) -> None:
        """Takes note of a quantizer node that was inserted behind a known value."""
        value = node.all_input_nodes[0]
        self._results[node] = self._results[value]
        if value in self._constant:
            self._constant.add(node)

    def is_constant(self, node: fx.Node) -> bool:
        """Returns whether a value depends on no input of the module."""
        return node in self._constant

    def constant(self, node: fx.Node) -> Tensor:
        """Returns a constant value."""
        if node.op == "get_attr":
            return self._tensors[str(node.target)].detach()
        value: Tensor = ConstantValues(self.module).value(node)
        return value

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Returns the shape of a tensor; a dynamic dimension has some size."""
        return tuple(self._results[node].shape)

    def dtype(self, node: fx.Node) -> torch.dtype:
        """Returns the dtype of a tensor."""
        return self._results[node].dtype

    def is_floating(self, node: fx.Node) -> bool:
        """Returns whether a value is a tensor of floating numbers."""
        return node in self._results and self._results[node].is_floating_point()

    def gives_quantized(self, node: fx.Node) -> bool:
        """Returns whether a value comes right from a quantizer, or from integers (DequantizeLinear)."""
        return self.quantizer(node) is not None or node.target is quantize_linear.dequantize_linear

    def quantizer(self, node: fx.Node) -> qnn.Quantizer | None:
        """Returns the quantizer that a node calls, or None."""
        found = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        return found if isinstance(found, qnn.Quantizer) else None

    def op_type(self, node: fx.Node) -> str | None:
        """Returns the ONNX operator type of a node, or None where it is no operator."""
        if node.op == "call_module":
            operator = REGISTRY.of_target(type(self.module.get_submodule(str(node.target))))
        else:
            operator = REGISTRY.of_target(node.target) if node.op == "call_function" else None
        return operator.op_type if operator else None

    def preserves(self, node: fx.Node) -> bool:
        """Returns whether an operator only passes values on, so that they stay quantized."""
        if node.op == "call_module":
            return isinstance(self.module.get_submodule(str(node.target)), qnn.Dropout)
        if node.target is resize.resize:
            return node.kwargs.get("mode", "nearest") == "nearest"
        if node.target is padding.pad:
            return len(node.args) < 3 or node.args[2] in (None, 0, 0.0)
        if node.target is getitem:
            source = node.args[0]
            return isinstance(source, fx.Node) and self.preserves(source)
        return node.op == "call_function" and node.target in _PRESERVING

    def sources(self, node: fx.Node) -> Iterator[fx.Node]:
        """Yields the values behind a value from which operators that preserve values took it."""
        if not self.preserves(node):
            yield node
            return
        many = node.target is movement.concat
        inputs = [a for a in node.args if isinstance(a, fx.Node)]
        for value in dict.fromkeys(inputs if many else inputs[:1]):
            yield from self.sources(value)

    def is_quantized(self, node: fx.Node) -> bool:
        """Returns whether a value comes from quantizers alone."""
        return all(map(self.gives_quantized, self.sources(node)))

    def is_never_negative(self, node: fx.Node) -> bool:
        """Returns whether a value is known to be at least 0 everywhere."""
        quantizer = self.quantizer(node)
        if quantizer is not None:
            unsigned = isinstance(quantizer, qnn.Quant) and not quantizer.signed
            zero_point = getattr(quantizer, "zero_point", None)
            return unsigned and isinstance(zero_point, Tensor) and not bool(zero_point.detach().any())
        if node.target in _NEVER_NEGATIVE:
            return True
        if node.target is elementwise.clip:
            return len(node.args) > 1 and self._is_at_least_zero(node.args[1])
        inputs = [a for a in node.args if isinstance(a, fx.Node)]
        if node.target is elementwise.mul and len(inputs) == 2 and inputs[0] is inputs[1]:
            return True
        if self.preserves(node) or node.target in _KEEPING_SIGN:
            first = node.target in _PRESERVING and node.target is not movement.concat
            numbers = [] if first else [a for a in node.args if isinstance(a, (int, float)) and a < 0]
            return (
                bool(inputs)
                and not numbers
                and all(map(self.is_never_negative, inputs[:1] if first else inputs))
            )
        return self.is_constant(node) and self._is_at_least_zero(node)

    def _is_at_least_zero(self, value: Any) -> bool:
        if isinstance(value, fx.Node):
            if not self.is_constant(value):
                return False
            value = self.constant(value)
        return bool((value >= 0).all()) if isinstance(value, Tensor) else value is not None and value >= 0


def _input_sizes(
    module: fx.GraphModule, examples: Sequence[Tensor]
) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Returns shapes and dtypes of the inputs: of the examples, or as declared with some batch size."""
    if examples:
        return [(tuple(e.shape), e.dtype) for e in examples]
    specs = declared_inputs(module)
    if specs is None or any(s.shape is None for s in specs):
        raise UndeclaredInputsError("the shapes of the inputs are not declared: give example inputs as args")
    return [(tuple(d if isinstance(d, int) else _BATCH for d in s.shape or ()), s.dtype) for s in specs]


_BATCH = 37


# -- plans -----------------------------------------------------------------------------------------


def plans(values: Values, config: QuantizationConfig) -> dict[fx.Node, Plan]:
    """Returns how each operator is quantized, without those that are not.

    An operator that computes a constant (a weight's norm, say) is none that is quantized, unless a rule names
    its type: what it gives is.

    Raises:
        QonnxTorchError: a rule or an operator type that fits nothing.
    """
    _check_types(values, config)
    operators = {n: t for n in values.module.graph.nodes if (t := values.op_type(n)) is not None}
    layers = [n for n, t in operators.items() if t in config.op_types and not values.is_constant(n)]
    ends = _first_and_last(values, layers)
    used: set[int] = set()
    found: dict[fx.Node, Plan] = {}
    for node, op_type in operators.items():
        plan = Plan(op_type, node.meta["onnx"].name or node.name)
        chosen = op_type in config.op_types and not values.is_constant(node)
        if chosen:
            plan.weights, plan.activations = config.weights, config.activations
            plan.inputs, plan.biases = config.inputs, config.biases
        for i, rule in enumerate(config.rules):
            if _fits(rule, node, plan, ends):
                used.add(i)
                _change(plan, rule, chosen=chosen or bool(rule.op_types))
        found[node] = plan
    unused = [str(rule) for i, rule in enumerate(config.rules) if i not in used]
    if unused:
        names = [p.name for p in found.values()]
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise QonnxTorchError(f"no operator fits {', '.join(unused)}; there are {shown}")
    return found


def _check_types(values: Values, config: QuantizationConfig) -> None:
    known = {operator.op_type for operator in REGISTRY}
    asked = [*config.op_types, *(t for rule in config.rules for t in rule.op_types)]
    unknown = [t for t in asked if t not in known]
    if unknown:
        raise QonnxTorchError(f"operator type {unknown[0]!r} does not exist; they are spelled as in ONNX")


def _fits(rule: QuantizationRule, node: fx.Node, plan: Plan, ends: dict[str, set[fx.Node]]) -> bool:
    return (
        (not rule.op_types or plan.op_type in rule.op_types)
        and (not rule.names or any(_matches(plan.name, pattern) for pattern in rule.names))
        and (rule.layers is None or node in ends[rule.layers])
    )


def _matches(name: str, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern + below) for below in ("", "/*", ".*"))


def _change(plan: Plan, rule: QuantizationRule, *, chosen: bool) -> None:
    plan.positions.update(rule.positions)
    if not chosen:
        return
    for part in ("weights", "activations", "biases", "outputs"):
        change = getattr(rule, part)
        if change != "keep":
            setattr(plan, part, change)
    if rule.activations != "keep":
        plan.inputs = rule.activations


def _first_and_last(values: Values, chosen: Iterable[fx.Node]) -> dict[str, set[fx.Node]]:
    """Returns the operators with weights that have no other such before them, and none behind them."""
    layers = [n for n in chosen if any(values.is_constant(i) for i in n.all_input_nodes)]
    nodes = list(values.module.graph.nodes)

    def reached(order: Iterable[fx.Node], neighbours: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
        beyond: set[fx.Node] = set()
        for node in order:
            if any(n in beyond or n in wanted for n in neighbours(node)):
                beyond.add(node)
        return beyond

    wanted = set(layers)
    after = reached(nodes, lambda n: n.all_input_nodes)
    before = reached(reversed(nodes), lambda n: n.users)
    return {"first": wanted - after, "last": wanted - before}
