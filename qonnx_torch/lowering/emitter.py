"""Writes nodes of the representation, and knows what each of them gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from qonnx_torch.names import parameter_paths
from qonnx_torch.ops.standard.indexing import gather
from qonnx_torch.ops.standard.shape import shape
from qonnx_torch.provenance import NodeOrigin
from qonnx_torch.registry import REGISTRY

__all__ = ["Emitter", "NotLoweredError"]

_PYTHON = (int, float, bool, str, type(None), torch.dtype, torch.device)


class NotLoweredError(Exception):
    """A call that has no ONNX operator, or not with these arguments; the message is the reason."""


def _is_python(value: Any) -> bool:
    """Whether a result is numbers (a size, a shape, a property) rather than tensors."""
    if isinstance(value, (tuple, list)):
        return all(_is_python(v) for v in value)
    return isinstance(value, _PYTHON)


class Emitter:
    """The graph being written, and the tensors and modules that it will need.

    Every node is evaluated when it is written, on fake tensors, at one batch size or at two. What is the same
    number at both is no node but a Python value; what differs depends on the batch. So nothing specialises
    the batch, and everything else about shapes is known while the model's code runs.

    Args:
        graph: the graph to write to.
        trials: number of batch sizes tried, 1 or 2.
        names: state_dict keys of the original, which no value may be called.
    """

    def __init__(self, graph: fx.Graph, trials: int, names: Iterable[str]) -> None:
        self.graph = graph
        self.trials = trials
        self.tensors: dict[str, Tensor] = {}
        self.modules: dict[str, nn.Module] = {}
        self.results: dict[fx.Node, tuple[Any, ...] | None] = {}
        self.evaluating = False
        self.kept: dict[fx.Node, str] = {}
        self._fakes = FakeTensorMode(allow_non_fake_inputs=True)
        self._attributes: dict[str, fx.Node] = {}
        self._taken = set(names)
        self._name = ""
        self._path = ""
        self._training = False
        self._written: list[fx.Node] = []

    @contextmanager
    def naming(self, name: str, path: str | None, *, training: bool) -> Iterator[None]:
        """Names what is written inside: the last node `name`, those before it `name/OperatorType`.

        Args:
            name: module path, or the scope and name of a function.
            path: where modules that are written live; None for a new place of that name.
            training: the mode of modules that are written.
        """
        self._name, self._path, self._training = name, path or "", training
        self._written = []
        yield
        for node in self._written[:-1]:
            self._give_name(node, f"{name}/{self._type(node)}")
        for node in self._written[-1:]:
            self._give_name(node, name)

    def _give_name(self, node: fx.Node, name: str) -> None:
        name = self.unique(name)
        items = [u for u in node.users if u.target is getitem]
        outputs = tuple(f"{name}_{i}" for i in range(len(items))) if items else (name,)
        node.meta["onnx"] = NodeOrigin(-1, name, self._type(node), outputs)
        for item, output in zip(items, outputs, strict=False):
            item.meta["onnx"] = NodeOrigin(-1, "", "getitem", (output,))

    def _type(self, node: fx.Node) -> str:
        target = type(self.modules[str(node.target)]) if node.op == "call_module" else node.target
        operator = REGISTRY.of_target(target)
        return operator.op_type if operator else str(getattr(target, "__name__", target))

    def unique(self, name: str) -> str:
        """Returns a value name that is new, and takes it."""
        candidate, count = name, 0
        while candidate in self._taken:
            count += 1
            candidate = f"{name}_{count}"
        self._taken.add(candidate)
        return candidate

    # -- nodes -------------------------------------------------------------------------------------

    def placeholder(self, name: str, examples: tuple[Tensor, ...]) -> fx.Node:
        """Returns a graph input; `examples` has one fake tensor per batch size tried."""
        node = self.graph.placeholder(name)
        self.results[node] = examples
        node.meta["onnx"] = NodeOrigin(-1, "", "", (self.unique(name),))
        return node

    def attribute(self, path: str, tensor: Tensor) -> fx.Node:
        """Returns the node of a parameter or buffer that lives at `path`, always the same."""
        node = self._attributes.get(path)
        if node is None:
            target = parameter_paths([path])[path]
            node = self._attributes[path] = self.graph.get_attr(target)
            self.results[node] = (tensor.detach(),) * self.trials
            self.tensors[target] = tensor
        return node

    def constant(self, tensor: Tensor) -> fx.Node:
        """Returns a tensor that the original computes anew each time as a buffer at a new place."""
        return self.attribute(self.unique(f"{self._name}_constant"), tensor)

    def call(self, function: Callable[..., Any], *args: Any, **attributes: Any) -> Any:
        """Returns a node that calls a function; its value where that is a number that no batch changes.

        Several results come back as a tuple of nodes.
        """
        results = self._evaluate(function, args, attributes)
        if results is not None and all(_is_python(r) and r == results[0] for r in results):
            return results[0]
        node = self.graph.create_node("call_function", function, args, attributes, name=self._name)
        return self._add(node, results)

    def module(self, module: nn.Module, *args: Any, **keywords: Any) -> Any:
        """Returns a node that calls a module, which from now on lives where the original is."""
        path = parameter_paths([self._path])[self._path] if self._path else self.unique(self._name)
        module = self.modules.setdefault(path, module)
        results = self._evaluate(module, args, keywords)
        module.train(self._training)
        node = self.graph.create_node("call_module", path, args, keywords, name=self._name)
        return self._add(node, results)

    def method(self, name: str, *args: Any, **keywords: Any) -> Any:
        """Returns a node that calls a tensor method, which no operator stands for."""
        results = self._evaluate(lambda x, *a, **k: getattr(x, name)(*a, **k), args, keywords)
        return self._add(
            self.graph.create_node("call_method", name, args, keywords, name=self._name), results
        )

    def keep(self, value: Any, reason: str) -> Any:
        """Notes that the node written last stays as it is; returns `value`."""
        if self._written:
            self.kept[self._written[-1]] = reason
        return value

    def _add(self, node: fx.Node, results: tuple[Any, ...] | None) -> Any:
        self.results[node] = results
        self._written.append(node)
        if results is None or not isinstance(results[0], (tuple, list)) or _is_python(results[0]):
            return node
        items = []
        for i in range(len(results[0])):
            item = self.graph.call_function(getitem, (node, i))
            self.results[item] = tuple(r[i] for r in results)
            items.append(item)
        kind = type(results[0])  # a named tuple, say: its fields are read by name
        return tuple(items) if kind in (tuple, torch.Size) else kind(items)

    def _evaluate(
        self, function: Callable[..., Any], args: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> tuple[Any, ...] | None:
        """Returns what a call gives at each batch size; None where that depends on data."""
        nodes: list[fx.Node] = []
        fx.node.map_arg((args, dict(keywords)), nodes.append)
        if any(self.results[n] is None for n in nodes):
            return None
        self.evaluating = True
        try:
            with self._fakes, torch.no_grad():
                return tuple(
                    function(*self._at(trial, args), **self._at(trial, dict(keywords)))
                    for trial in range(self.trials)
                )
        except (DataDependentOutputException, DynamicOutputShapeException):
            return None
        finally:
            self.evaluating = False

    def _at(self, trial: int, value: Any) -> Any:
        return fx.node.map_arg(value, lambda n: self.results[n][trial])  # type: ignore[index]

    def fake(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Returns a fake tensor of a shape, with the dtype and device of another."""
        with self._fakes:
            return torch.empty(tuple(shape), dtype=like.dtype, device=like.device)

    # -- what is known -----------------------------------------------------------------------------

    def known(self, value: Any) -> tuple[Any, ...]:
        """Returns what a value is at each batch size tried. Raises NotLoweredError where nobody knows."""
        if not isinstance(value, fx.Node):
            return (value,) * self.trials
        results = self.results[value]
        if results is None:
            raise NotLoweredError("its shape depends on data")
        return results

    def is_tensor(self, value: Any) -> bool:
        """Returns whether a value is a tensor, not a number that depends on the batch."""
        return isinstance(value, fx.Node) and isinstance(self.known(value)[0], Tensor)

    def rank(self, x: fx.Node) -> int:
        """Returns the number of dimensions of a tensor."""
        return int(self.known(x)[0].dim())

    def dtype(self, x: fx.Node) -> torch.dtype:
        """Returns the dtype of a tensor."""
        dtype: torch.dtype = self.known(x)[0].dtype
        return dtype

    def sizes(self, x: fx.Node) -> list[int | None]:
        """Returns the size of each dimension of a tensor, None where it depends on the batch."""
        shapes = zip(*(tuple(r.shape) for r in self.known(x)), strict=True)
        return [int(s[0]) if len(set(s)) == 1 else None for s in shapes]

    def fixed_sizes(self, x: fx.Node, dims: range) -> list[int]:
        """Returns sizes of dimensions. Raises NotLoweredError where one depends on the batch."""
        sizes = [self.sizes(x)[d] for d in dims]
        if any(s is None for s in sizes):
            raise NotLoweredError("a size that depends on the batch would have to be known")
        return [s for s in sizes if s is not None]

    def dim(self, x: fx.Node, axis: int) -> int | fx.Node:
        """Returns one size of a tensor, as a node where it depends on the batch."""
        size = self.sizes(x)[axis]
        if size is not None:
            return size
        node: fx.Node = self.call(gather, self.call(shape, x), axis % self.rank(x), axis=0)
        return node
