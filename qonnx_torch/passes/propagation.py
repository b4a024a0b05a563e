"""A module run on fake tensors, which have shapes and types but no values; subgraphs included."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from qonnx_torch.errors import UnsupportedModelError, shortened
from qonnx_torch.nn.quantizer import Quantizer
from qonnx_torch.nn.subgraphs import SubgraphOperator
from qonnx_torch.ops.quantizers.numerics import result_dtype
from qonnx_torch.passes.bounded import numbers_made

__all__ = ["DataDependentShapeError", "FakeInterpreter", "propagate"]


class DataDependentShapeError(UnsupportedModelError):
    """A node's result depends on data, so that no inference can tell its shape."""


class _TooLongError(DataDependentShapeError):
    """A node takes too many steps, or makes too many Python numbers, to find out what it gives."""


_MOST_STEPS = 1 << 16  # nodes of subgraphs, each time that they run: a Loop may have any number of iterations
_NUMBERS_OF_STEP = 16
_MOST_NUMBERS = 1 << 20  # Python numbers that a node makes: a Tile may have any number of repetitions


class FakeInterpreter(fx.Interpreter):
    """Runs a module on fake tensors and keeps what each node gives.

    Args:
        module: the module.
        partial: leave out nodes whose results depend on data, and those behind them, rather than raise.

    Attributes:
        results: node -> what it gave.
        varying: node -> the axes along which its sizes changed while its graph ran several times.
        subgraphs: graph in the module, at any depth -> what its nodes gave when it first ran. A graph that
            did not run (the other branch) is tried; what cannot be inferred of it is left out.
        steps: number of torch operations, and of nodes in subgraphs, that `propagate` ran.

    Raises:
        UnsupportedModelError: a node cannot be inferred; the message names it.
    """

    def __init__(self, module: fx.GraphModule, *, partial: bool = False) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.partial = partial
        self.extra_traceback = False  # fx would add the node's code and advice on its own tools to messages
        self.results: dict[fx.Node, Any] = {}
        self.varying: dict[fx.Node, set[int]] = {}
        self.subgraphs: dict[fx.GraphModule, FakeInterpreter] = {}
        self.steps = 0
        self._steps = [0]  # one counter for all that run within each other

    def count(self, steps: int) -> None:
        """Notes that so many nodes of subgraphs run now; raises where they are too many.

        To make numbers, or to look at them, counts too.
        """
        self._steps[0] += steps
        if self._steps[0] > _MOST_STEPS:
            raise _TooLongError(f"more than {_MOST_STEPS} steps in subgraphs would run")

    @property
    def subgraph_steps(self) -> int:
        """The number of nodes of subgraphs that ran."""
        return self._steps[0]

    def within(self, graph: fx.GraphModule) -> FakeInterpreter:
        """Returns an interpreter for a subgraph, whose steps count with the others."""
        inner = FakeInterpreter(graph)
        inner._steps = self._steps
        return inner

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls a function that does not make too many Python numbers."""
        count = numbers_made(target, args, kwargs)
        if count > _MOST_NUMBERS:
            raise _TooLongError(f"it makes {count} numbers")
        self.count(count // _NUMBERS_OF_STEP)
        return super().call_function(target, args, kwargs)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls a module; looks into the subgraphs of one that has them."""
        module = self.fetch_attr(target)
        if isinstance(module, Quantizer):
            with _BroadcastingQuantizers():
                return super().call_module(target, args, kwargs)
        if not isinstance(module, SubgraphOperator):
            return super().call_module(target, args, kwargs)
        graphs = module.subgraphs()
        with _replaced(module, {name: _Watched(graph, self) for name, graph in graphs.items()}):
            result = super().call_module(target, args, kwargs)
            for name, graph in graphs.items():
                if graph not in self.subgraphs:
                    with suppress(Exception):  # it did not run: whatever it lacks, nobody asked for it
                        getattr(module, name)(*module.example_arguments(*args)[name])
        return result

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node and records its result."""
        if any(self.env.get(source) is _UNKNOWN for source in n.all_input_nodes):
            return _UNKNOWN
        try:
            result = super().run_node(n)
        except Exception as error:
            data = (DataDependentOutputException, DynamicOutputShapeException, DataDependentShapeError)
            depends = isinstance(error, data)
            if depends and self.partial:
                return _UNKNOWN
            if isinstance(error, UnsupportedModelError) and str(error).startswith(_NOT_INFERRED):
                raise  # of a node in a subgraph
            origin = n.meta.get("onnx")
            name = str(origin or n.name)
            reason = shortened(str(error).splitlines()[0]) if str(error) else type(error).__name__
            if depends and not isinstance(error, _TooLongError):
                reason = "it depends on data"
            kind = DataDependentShapeError if depends else UnsupportedModelError
            raise kind(f"{_NOT_INFERRED}{name} cannot be inferred: {reason}") from error
        self.results[n] = result
        return result


_NOT_INFERRED = "the shape of node "
_UNKNOWN = object()
"""Stands for results that depend on data, in a partial inference."""


class _BroadcastingQuantizers(TorchFunctionMode):
    """Lets quantizers whose result has the broadcast shape of their arguments give just that.

    Without values the two dozen operations that one consists of tell nothing else, and each takes its time.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _BROADCASTING:
            return func(*args, **(kwargs or {}))
        x, scale, *others = args
        dtype = scale.dtype if func is _QDQ else result_dtype(x, scale)
        for parameter in (scale, *others):
            if parameter.dim():
                x = x.to(dtype) + parameter.to(dtype)
        return x.to(dtype, copy=True)


_QDQ = torch.ops.qonnx_torch.quantize_dequantize_linear
_BROADCASTING = {
    torch.ops.qonnx_torch.quant,
    _QDQ,
    torch.ops.qonnx_torch.bipolar_quant,
    torch.ops.qonnx_torch.trunc,
    torch.ops.qonnx_torch.float_quant,
}


class _Watched(nn.Module):
    """Stands for a subgraph, and tells an interpreter what its nodes give."""

    def __init__(self, graph: fx.GraphModule, interpreter: FakeInterpreter) -> None:
        super().__init__()
        self.graph = graph
        self.interpreter = interpreter
        placeholders = (n for n in graph.graph.nodes if n.op == "placeholder")
        self._read = [i for i, n in enumerate(placeholders) if n.users]
        self._known: dict[Any, Any] = {}  # of a Loop, most iterations give what the one before gave

    def forward(self, *args: Any) -> Any:
        leaves = tree_leaves([args[i] for i in self._read])
        self.interpreter.count(1 + len(leaves) // _NUMBERS_OF_STEP)
        key = _key(leaves)
        if key in self._known:
            return self._known[key]
        result = self._run(*args)
        if key is not None:
            self._known[key] = result
        return result

    def _run(self, *args: Any) -> Any:
        inner = self.interpreter.within(self.graph)
        self.interpreter.count(len(self.graph.graph.nodes))
        try:
            return inner.run(*args)
        finally:
            for graph, run in ((self.graph, inner), *inner.subgraphs.items()):
                first = self.interpreter.subgraphs.setdefault(graph, run)
                if first is not run:
                    _merge(first, run)


def _key(leaves: Sequence[Any]) -> tuple[Any, ...] | None:
    """Returns all that results depend on; None where that has no hash, or is the data of tensors."""
    key: list[Any] = []
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            key.append((type(leaf), leaf))
        elif isinstance(leaf, FakeTensor) and leaf.constant is None:
            key.append((tuple(leaf.shape), leaf.stride(), leaf.dtype))
        else:
            return None
    try:
        hash(result := tuple(key))
    except TypeError:  # symbolic sizes
        return None
    return result


def _merge(first: FakeInterpreter, later: FakeInterpreter) -> None:
    """Notes in one run of a graph what another gave in other shapes; a value of another rank is left out."""
    for node, value in later.results.items():
        known = first.results.get(node)
        if isinstance(value, Tensor) and isinstance(known, Tensor) and value.dim() == known.dim():
            axes = {i for i, (a, b) in enumerate(zip(known.shape, value.shape, strict=True)) if a != b}
            if axes:
                first.varying.setdefault(node, set()).update(axes)
        elif _sizes_in(known) != _sizes_in(value):
            first.results.pop(node, None)


def _sizes_in(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return tuple(map(_sizes_in, value)) if isinstance(value, (tuple, list)) else ()


@contextmanager
def _replaced(module: nn.Module, children: Mapping[str, nn.Module]) -> Iterator[None]:
    before = {name: getattr(module, name) for name in children}
    try:
        for name, child in children.items():
            setattr(module, name, child)
        yield
    finally:
        for name, child in before.items():
            setattr(module, name, child)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch from logging the traceback of an inference that fails; the error says it all."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _evaluating(module: fx.GraphModule) -> Iterator[None]:
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for m, training in modes.items():
            m.training = training


_VIEWS = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)
"""What notes for each view of a view how all of them were made: quadratic in a chain of Reshapes."""


def propagate(
    module: fx.GraphModule,
    inputs: Sequence[tuple[Sequence[int], torch.dtype] | list[Tensor] | None],
    interpreter: FakeInterpreter,
) -> dict[fx.Node, Any]:
    """Returns what each node gives on fake inputs of these shapes and dtypes, in `eval()`.

    Nodes in subgraphs are left out; the interpreter has them.
    """
    mode = _CountingMode(allow_non_fake_inputs=True)
    views = torch._C._ExcludeDispatchKeyGuard(_VIEWS)
    with _evaluating(module), _quiet(), torch.no_grad(), mode, views:
        interpreter.run(*map(_fake, inputs))
    interpreter.steps = mode.operations + interpreter.subgraph_steps
    return interpreter.results


class _CountingMode(FakeTensorMode):
    """Fake tensors, and the number of operations on them."""

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return super().__torch_dispatch__(func, types, args, kwargs)


def _fake(like: tuple[Sequence[int], torch.dtype] | list[Tensor] | None) -> Any:
    if isinstance(like, tuple):
        return torch.empty(tuple(like[0]), dtype=like[1])
    return None if like is None else [torch.empty(t.shape, dtype=t.dtype) for t in like]
