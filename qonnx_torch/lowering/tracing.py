"""The tracer: runs a module's own code, and writes each torch call as ONNX operators as it happens."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from qonnx_torch.lowering.emitter import Emitter, NotLoweredError
from qonnx_torch.lowering.modules import MODULES, arguments_of
from qonnx_torch.lowering.table import FUNCTIONS, METHODS
from qonnx_torch.nn.tracing import RepresentationTracer
from qonnx_torch.registry import REGISTRY

__all__ = ["LoweringTracer", "uncompiled"]

_IN_PLACE = {
    operator.iadd: "add",
    operator.isub: "sub",
    operator.imul: "mul",
    operator.itruediv: "truediv",
    operator.ipow: "pow",
    operator.iand: "and",
    operator.ior: "or",
    operator.ixor: "xor",
}
_ALIASING = frozenset(
    """
    T adjoint as_strided broadcast_to chunk contiguous data detach diagonal double dsplit expand
    expand_as flatten float getitem half hsplit imag mH mT movedim moveaxis narrow permute ravel
    real reshape reshape_as select split split_with_sizes squeeze swapaxes swapdims t tensor_split
    to transpose type type_as unbind unflatten unfold unsqueeze view view_as vsplit
    """.split()  # noqa: SIM905
)
"""Methods, functions and properties whose result may share memory with what they are called on."""

_PROPERTIES = frozenset({"shape", "ndim", "dtype", "device", "T", "mT", "is_cuda", "requires_grad"})


class _Value(fx.Proxy):
    """A value while the module's code runs: its rank, dtype and all sizes but the batch are plain numbers.

    Attributes:
        aliases: the values that may share its memory, itself among them.
        is_stale: whether an operation in place has changed it through another one, which a graph of values
            does not show.
    """

    def __init__(self, node: fx.Node, tracer: LoweringTracer) -> None:
        super().__init__(node, tracer)
        self.aliases = [self]
        self.is_stale = False

    def __getattr__(self, k: str) -> Any:
        if k in _PROPERTIES:
            return self.tracer.create_proxy("call_function", getattr, (self, k), {})
        return super().__getattr__(k)

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(operator.itruediv, other)

    def __ipow__(self, other: Any) -> Any:
        return self._in_place(operator.ipow, other)

    def __iand__(self, other: Any) -> Any:
        return self._in_place(operator.iand, other)

    def __ior__(self, other: Any) -> Any:
        return self._in_place(operator.ior, other)

    def __ixor__(self, other: Any) -> Any:
        return self._in_place(operator.ixor, other)

    def __setitem__(self, index: Any, value: Any) -> None:
        raise fx.proxy.TraceError(
            f"{self.node.name}[...] = ... is no ONNX operator; write it out of place (torch.where, torch.cat)"
        )

    def _in_place(self, function: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    def __len__(self) -> int:
        size = self.tracer.create_proxy("call_method", "size", (self, 0), {})
        if isinstance(size, fx.Proxy):
            raise fx.proxy.TraceError("the length of a tensor along its batch is not known while tracing")
        return int(size)

    def __iter__(self) -> Iterator[Any]:
        get = self.tracer.create_proxy
        return iter([get("call_function", operator.getitem, (self, i), {}) for i in range(len(self))])


class LoweringTracer(RepresentationTracer):
    """Traces one module on example inputs; `emitter` holds what comes out.

    Args:
        examples: one per positional argument of `forward`; tensors become graph inputs.
        batch_sizes: sizes of the leading dimension to try, see `Emitter`; empty to keep the examples' own.
    """

    records_constants = False  # what the module's code computes of constants is a constant

    def __init__(self, examples: Sequence[Any], batch_sizes: Sequence[int]) -> None:
        super().__init__()
        self.examples = examples
        self.batch_sizes = batch_sizes
        self.emitter: Emitter
        self.training: dict[nn.Module, bool] = {}
        self.paths: dict[int, str] = {}

    def lower(self, root: nn.Module) -> None:
        """Traces a module as it computes in `eval()`."""
        self.training = {m: m.training for m in root.modules()}
        self.trace(root.eval())

    # -- hooks of fx -------------------------------------------------------------------------------

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Lowers modules of torch and of `qonnx_torch.nn` as one; traces through all others.

        Also through layers with hooks or parametrizations (pruning, weight and spectral normalization): they
        compute more than their class says.
        """
        if parametrize.type_before_parametrizations(m) in MODULES:
            return not (_hooked(m) or parametrize.is_parametrized(m))
        if type(m).__module__.startswith("torch.nn.utils."):  # the parametrizations themselves
            return False
        return super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Makes the graph inputs; parameters of `forward` without an example keep their defaults."""
        root = self.root
        assert isinstance(root, nn.Module)
        tensors = dict((*root.named_parameters(), *root.named_buffers()))
        self.paths = {id(tensor): path for path, tensor in reversed(tensors.items())}  # the first path counts
        self.emitter = Emitter(self.graph, max(1, len(self.batch_sizes)), tensors)
        positional: list[Any] = [root]
        for name, example in zip(_names(root_fn, len(self.examples)), self.examples, strict=True):
            if isinstance(example, Tensor):
                node = self.emitter.placeholder(name, self._fakes_of(example))
                positional.append(self.proxy(node))
            else:
                positional.append(example)
        # forward alone leaves the hooks out; where there are none, it is what the class defines.
        return (nn.Module._call_impl if _hooked(root) else root_fn), positional

    def _fakes_of(self, example: Tensor) -> tuple[Tensor, ...]:
        first = next(e for e in self.examples if isinstance(e, Tensor))
        batched = example.dim() > 0 and first.dim() > 0 and example.shape[0] == first.shape[0]
        sizes: Sequence[int | None] = self.batch_sizes or (None,)
        shapes = [(n, *example.shape[1:]) if batched and n is not None else example.shape for n in sizes]
        return tuple(self.emitter.fake(s, example) for s in shapes)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Wraps a node for the module's code."""
        return _Value(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Hands out parameters as nodes, except to a module that is being evaluated."""
        if self.emitter.evaluating:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Lowers a module or traces through it; runs it where it is being evaluated."""
        if self.emitter.evaluating:
            return forward(*args, **kwargs)
        plain = uncompiled(m)
        return plain(*args, **kwargs) if plain is not m else super().call_module(m, forward, args, kwargs)

    def create_arg(self, a: Any) -> Any:
        """Returns what stands for a value in the graph; tensors made by the module's code become buffers."""
        if isinstance(a, _Value) and a.is_stale:
            raise fx.proxy.TraceError(
                f"{a.node.name} is used after another view of it was changed in place; write that change out "
                "of place (y = y + 1)"
            )
        if isinstance(a, fx.Proxy):
            return a.node
        if isinstance(a, Tensor):
            return self._tensor(a)
        if type(a) in (tuple, list, torch.Size):
            return (list if type(a) is list else tuple)(self.create_arg(v) for v in a)
        if isinstance(a, dict):
            return {k: self.create_arg(v) for k, v in a.items()}
        if isinstance(a, slice):
            return slice(*(self.create_arg(v) for v in (a.start, a.stop, a.step)))
        return a

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Any = None,
    ) -> Any:
        """Writes a call as ONNX operators; returns its value for the module's code to go on with."""
        if kind == "get_attr":
            return self._wrap(self._tensor(self._attribute(target)))
        result = self._lower(kind, target, self.create_arg(args), self.create_arg(kwargs))
        if self._mutates(kind, target, kwargs) and type(args[0]) is _Value and isinstance(result, fx.Node):
            args[0].node = result  # whoever holds the value reads the new one from here on
            for other in args[0].aliases:
                other.is_stale = other.is_stale or other is not args[0]
            return args[0]
        value = self._wrap(result)
        if self._aliases(kind, target, args):
            for own in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(own, _Value):
                    own.aliases = args[0].aliases
                    own.aliases.append(own)
        return value

    # -- lowering ----------------------------------------------------------------------------------

    def _wrap(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.proxy(value)
        if type(value) in (tuple, list):
            return type(value)(self._wrap(v) for v in value)
        if isinstance(value, tuple):  # torch's named results
            return type(value)([self._wrap(v) for v in value])
        return value

    def _attribute(self, path: str) -> Tensor:
        owner, _, leaf = path.rpartition(".")
        assert isinstance(self.root, nn.Module)
        found = self.root.get_submodule(owner).__dict__
        tensor = found["_parameters"].get(leaf)
        result: Tensor = found["_buffers"][leaf] if tensor is None else tensor
        return result

    def _tensor(self, tensor: Tensor) -> fx.Node:
        """Returns the node of a tensor: of the original's own name where it has one, else of a new buffer."""
        path = self.paths.get(id(tensor))
        if path is not None:
            return self.emitter.attribute(path, tensor)
        known = self.tensor_attrs.get(tensor)
        if known is None:
            known = self.tensor_attrs[tensor] = self.emitter.unique(f"constant_{len(self.tensor_attrs)}")
        return self.emitter.attribute(known, tensor.detach())

    def _mutates(self, kind: str, target: Any, kwargs: dict[str, Any]) -> bool:
        if kind == "call_module":
            assert isinstance(self.root, nn.Module)
            return bool(getattr(self.root.get_submodule(target), "inplace", False))
        if kind == "call_method":
            return target.endswith("_") and not target.endswith("__")
        name = getattr(target, "__name__", "")
        of_torch = any(getattr(room, name, None) is target for room in (torch, nn.functional))
        in_place = of_torch and name.endswith("_") and not name.endswith("__")
        return target in _IN_PLACE or in_place or bool(kwargs.get("inplace"))

    def _aliases(self, kind: str, target: Any, args: tuple[Any, ...]) -> bool:
        """Whether the result of a call may share the memory of its first argument."""
        if kind == "call_module":
            assert isinstance(self.root, nn.Module)
            module = self.root.get_submodule(target)
            return isinstance(module, (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout))
        name = args[1] if target is getattr else getattr(target, "__name__", target)
        return bool(args) and isinstance(args[0], _Value) and name in _ALIASING

    def _lower(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        emitter = self.emitter
        scope = self.scope.module_path
        module = self.root.get_submodule(target) if kind == "call_module" else None
        if module is not None:
            name, path = target, target
        else:
            name = _IN_PLACE.get(target) or str(getattr(target, "__name__", target)).strip("_")
            name, path = f"{scope}.{name}" if scope else name, None
        owner = module if module is not None else self.root.get_submodule(scope)
        with emitter.naming(name, path, training=self.training.get(owner, False)):
            try:
                return self._write(kind, target, module, args, kwargs)
            except NotLoweredError as error:
                reason = str(error)
            if module is not None:
                return emitter.keep(emitter.module(module, *args, **kwargs), reason)
            if kind == "call_method":
                return emitter.keep(emitter.method(target, *args, **kwargs), reason)
            return emitter.keep(emitter.call(target, *args, **kwargs), reason)

    def _write(
        self, kind: str, target: Any, module: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        emitter = self.emitter
        if module is not None and REGISTRY.of_target(type(module)) is not None:
            return emitter.module(module, *args, **kwargs)
        if kind == "call_function" and REGISTRY.of_target(target) is not None:
            return emitter.call(target, *args, **kwargs)
        if module is not None:
            if type(module) not in MODULES:
                raise NotLoweredError(f"{type(module).__name__} has no ONNX operator here")
            function, own = MODULES[type(module)].function, arguments_of(module)
            kwargs = {**kwargs, **{k: self.create_arg(v) for k, v in own.items()}}
        else:
            found = METHODS.get(target) if kind == "call_method" else _lookup(target)
            if found is None:
                raise NotLoweredError(f"{getattr(target, '__name__', target)} has no ONNX operator here")
            function = found
        try:
            inspect.signature(function).bind(emitter, *args, **kwargs)
        except TypeError as error:
            raise NotLoweredError(str(error)) from None
        return function(emitter, *args, **kwargs)


def uncompiled(module: nn.Module) -> nn.Module:
    """Returns the module inside one that `torch.compile` gives (OptimizedModule), any other as it is."""
    inner = getattr(module, "_orig_mod", None)  # to know its class would take importing the compiler
    return inner if isinstance(inner, nn.Module) else module


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _lookup(target: Any) -> Callable[..., Any] | None:
    try:
        return FUNCTIONS.get(target)
    except TypeError:  # unhashable
        return None


def _names(function: Any, count: int) -> list[str]:
    """Returns the names of the first positional parameters of `forward`, after self."""
    names: list[str] = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{i}" for i in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    if len(names) < count:
        raise TypeError(f"forward takes {len(names)} arguments, {count} example inputs were given")
    return names[:count]
