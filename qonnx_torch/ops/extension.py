"""Operators of one's own: everything that the built-in ones have, from one decorated function or module."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from qonnx_torch.ops._operator import operator
from qonnx_torch.registry import REGISTRY, canonical_domain, describe

__all__ = ["register_op"]

_ATTRIBUTE_TYPES = ("int", "float", "str", "Sequence[int]", "Sequence[float]", "Sequence[str]")

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
    `*inputs` takes any number), attributes keyword-only ones, annotated `int`, `float`, `str`,
    `Sequence[int]`, `Sequence[float]` or `Sequence[str]`; an attribute without a default is required.

    What is decorated is a function on tensors, or an `nn.Module` class where the operator has state or trains
    otherwise than it evaluates: then `forward` takes the inputs and `__init__` the attributes, which stay
    readable as attributes of the module.

    >>> import torch, qonnx_torch as qt
    >>> @qt.register_op("my.domain", "ScaledTanh", since_version=2)
    ... def scaled_tanh(x, *, alpha: float = 1.0):
    ...     return alpha * torch.tanh(x)

    Args:
        domain: operator domain of the nodes.
        op_type: operator type of the nodes.
        since_version: first version of the domain's operator set with this behaviour. Other versions may be
            registered beside it; a node gets the highest one that is not above its model's.
        static: inputs that the implementation takes as Python numbers (sizes, axes).
        outputs: number of outputs: above 1 a tuple is returned; None where it depends on the node.
        macs: multiply-accumulates of one call, for `inference_cost`: called with the result, then the inputs
            and the attributes as the implementation is, all tensors without data. None: counts nothing.

    Returns:
        The decorated function or class, to be called as before.

    Raises:
        ValueError: that version of the operator has an implementation already. The same function or class
            may be defined again (as when a notebook's cell runs twice).
        TypeError: an attribute's annotation is no type of ONNX attributes, or a class is no `nn.Module`.
    """
    domain = canonical_domain(domain)
    options: dict[str, Any] = {"since_version": since_version, "static": static, "outputs": outputs}

    def register(target: T) -> T:
        REGISTRY.forget(domain, op_type, since_version, target)
        if inspect.isclass(target) and not issubclass(target, nn.Module):
            raise TypeError(f"{target.__name__} is neither a function nor an nn.Module class")
        schema = _schema_of(target) if inspect.isclass(target) else inspect.signature(target)
        entry = describe(target, schema, domain=domain, op_type=op_type, macs=macs, **options)
        for name, kind in entry.attribute_types.items():
            if kind not in _ATTRIBUTE_TYPES:
                raise TypeError(
                    f"{op_type}: its attribute {name!r} is annotated {kind!r}; ONNX attributes are "
                    f"{', '.join(_ATTRIBUTE_TYPES)}"
                )
        if inspect.isclass(target):
            REGISTRY.add(entry)
            REGISTRY.add_target(target, entry)
            REGISTRY.add_module(target, target)
            return target
        return operator(op_type, domain=domain, macs=macs, **options)(target)

    return register


def _schema_of(module: Any) -> inspect.Signature:
    """Returns the inputs of a module's `forward` and the arguments of its constructor as one signature."""
    inputs = list(inspect.signature(module.forward).parameters.values())[1:]
    attributes = list(inspect.signature(module).parameters.values())
    keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in attributes]
    return inspect.Signature([p for p in inputs if p.kind is not p.KEYWORD_ONLY] + keywords)
