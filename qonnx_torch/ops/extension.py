"""Operators of one's own: everything that the built-in ones have, from one decorated function or module."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from qonnx_torch.ops._operator import operator
from qonnx_torch.registry import REGISTRY, Operator, canonical_domain, describe, spelled_type

__all__ = ["register_op"]

_ATTRIBUTE_TYPES = ("int", "float", "str", "bool", "Sequence[int]", "Sequence[float]", "Sequence[str]")

T = TypeVar("T", bound=Callable[..., Any])


def register_op(
    domain: str,
    op_type: str,
    *,
    since_version: int = 1,
    static: tuple[str, ...] = (),
    outputs: int | None = 1,
    macs: Callable[..., float] | None = None,
) -> Callable[[T], T]:
    """Gives an ONNX operator an implementation: it imports, runs, trains, is traced, inferred, and exported.

    The signature is the operator's schema: inputs are positional parameters (optional ones default to None,
    `*inputs` takes any number), attributes keyword-only ones, annotated `int`, `float`, `str`, `bool` (0 or
    1 in the file), `Sequence[int]`, `Sequence[float]` or `Sequence[str]`; an attribute without a default is
    required.

    What is decorated is a function on tensors, or an `nn.Module` class where the operator trains otherwise
    than it evaluates: then `forward` takes the inputs and `__init__` the attributes, which stay readable as
    attributes of the module. A file holds inputs and attributes, and nothing else: weights are inputs
    (initializers in the file, parameters of the imported module). What such a module learns in parameters
    or buffers of its own can only be exported if a method `onnx_attributes(self)` puts it into attributes.

    The implementation computes with torch. One that leaves torch (NumPy, a simulator) runs as it is; to be
    traced and exported it must be a `torch.library.custom_op` with a `register_fake`, which tells shapes.

    >>> import torch, qonnx_torch as qt
    >>> @qt.register_op("my.domain", "ScaledTanh", since_version=2)
    ... def scaled_tanh(x, *, alpha: float = 1.0):
    ...     return alpha * torch.tanh(x)

    Args:
        domain: operator domain of the nodes.
        op_type: operator type of the nodes.
        since_version: first version of the domain's operator set with this behaviour. Other versions may be
            registered beside it; a node gets the highest one that is not above its model's.
        static: inputs that the implementation takes as Python numbers (sizes, axes): tuples of those of
            1-d tensors.
        outputs: number of outputs: above 1 a tuple of that many is returned; None for a tuple whose length
            depends on the node.
        macs: multiply-accumulates of one call, for `inference_cost`: called with the result, then the inputs
            and the attributes as the implementation is, all tensors without data. None: counts nothing.

    Returns:
        The decorated function or class, to be called as before.

    Raises:
        ValueError: that version of the operator has an implementation already (the same function or class
            may be defined again, as when a notebook's cell runs twice), or is built in; a domain, type,
            version or number that cannot be.
        TypeError: a signature that is no schema (an input is annotated `int`, an attribute with what ONNX
            attributes cannot hold, `**kwargs`, a tuple is returned as one output), or a class that is no
            `nn.Module`.
    """
    domain = canonical_domain(domain)
    _check_options(domain, op_type, since_version, outputs)
    options: dict[str, Any] = {"since_version": since_version, "static": static, "outputs": outputs}

    def register(target: T) -> T:
        REGISTRY.forget(domain, op_type, since_version, target)
        if inspect.isclass(target) and not issubclass(target, nn.Module):
            raise TypeError(f"{target.__name__} is neither a function nor an nn.Module class")
        schema = _schema_of(target) if inspect.isclass(target) else inspect.signature(target)
        entry = describe(target, schema, domain=domain, op_type=op_type, macs=macs, **options)
        _check_schema(entry, schema, static)
        if inspect.isclass(target):
            REGISTRY.add(entry)
            REGISTRY.add_target(target, entry)
            REGISTRY.add_module(target, target)
            return target
        return operator(op_type, domain=domain, macs=macs, **options)(_with_outputs_counted(target, entry))

    return register


def _check_options(domain: str, op_type: str, since_version: int, outputs: int | None) -> None:
    if not op_type:
        raise ValueError("an operator needs a type, as its nodes have in their op_type")
    if type(since_version) is not int or since_version < 1:
        raise ValueError(f"{op_type}: since_version is {since_version!r}; versions are 1, 2, ...")
    if outputs is not None and (type(outputs) is not int or outputs < 1):
        raise ValueError(f"{op_type}: outputs is {outputs!r}; it is 1, 2, ... or None")
    known = REGISTRY.find(domain, op_type, 1 << 30)
    if known is not None and known.target.__module__.startswith("qonnx_torch."):
        raise ValueError(f"{known} is built in; give yours a domain of its own")


def _check_schema(entry: Operator, schema: inspect.Signature, static: tuple[str, ...]) -> None:
    """Refuses signatures that cannot be the schema of an operator."""
    for name, parameter in schema.parameters.items():
        kind = spelled_type(parameter)
        if parameter.kind is parameter.VAR_KEYWORD:
            raise TypeError(f"{entry.op_type}: **{name} names no attributes; write out each")
        if parameter.kind is parameter.KEYWORD_ONLY:
            if kind not in _ATTRIBUTE_TYPES:
                way_out = "; make it an input, a constant one is an initializer" if "Tensor" in kind else ""
                raise TypeError(
                    f"{entry.op_type}: its attribute {name!r} is annotated {kind!r}; ONNX attributes are "
                    f"{', '.join(_ATTRIBUTE_TYPES)}, each also with | None{way_out}"
                )
        elif name not in static and parameter.annotation is not parameter.empty and kind in _ATTRIBUTE_TYPES:
            raise TypeError(
                f"{entry.op_type}: its input {name!r} is annotated {kind!r}. Attributes are keyword-only: "
                "put them behind a `*`; an input that is wanted as Python numbers is named in static="
            )
    unknown = [name for name in static if name not in entry.inputs]
    if unknown:
        raise ValueError(f"{entry.op_type}: static names {unknown[0]!r}; its inputs are {list(entry.inputs)}")
    returned = str(schema.return_annotation).replace("typing.", "").lower()
    if entry.outputs == 1 and returned.startswith("tuple["):
        raise TypeError(f"{entry.op_type} returns a tuple: say outputs=, the number of its outputs")


def _with_outputs_counted(function: T, entry: Operator) -> T:
    """Returns a function that raises where it returns another number of outputs than it has."""
    if entry.outputs == 1:
        return function

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        results = function(*args, **kwargs)
        if not isinstance(results, (tuple, list)) or len(results) != (entry.outputs or len(results)):
            several = isinstance(results, (tuple, list))
            given = f"{len(results)} results" if several else type(results).__name__
            wanted = "a tuple" if entry.outputs is None else f"a tuple of {entry.outputs}"
            raise TypeError(f"{entry} returned {given} instead of {wanted}")
        return results

    return counted  # type: ignore[return-value]


def _schema_of(module: Any) -> inspect.Signature:
    """Returns the inputs of a module's `forward` and the arguments of its constructor as one signature."""
    forward = inspect.signature(module.forward)
    inputs = list(forward.parameters.values())[1:]
    plain = module.__init__ is nn.Module.__init__  # takes anything
    attributes = [] if plain else list(inspect.signature(module).parameters.values())
    keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in attributes]
    positional = [p for p in inputs if p.kind is not p.KEYWORD_ONLY]
    return inspect.Signature(positional + keywords, return_annotation=forward.return_annotation)
