"""The decorator that turns a plain function into an ONNX operator."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.fx import Proxy

from qonnx_torch.registry import REGISTRY, describe

__all__ = ["as_tensor", "is_shape_value", "operator"]

F = TypeVar("F", bound=Callable[..., Any])

_SHAPE_TYPES = (int, float, bool, tuple, list, torch.SymInt, torch.SymFloat, torch.SymBool)


def is_shape_value(value: object) -> bool:
    """Returns whether a value is Python ints (a shape or a part of one) rather than a tensor."""
    return isinstance(value, _SHAPE_TYPES)


def as_tensor(value: Any, *, device: torch.device | None = None) -> torch.Tensor:
    """Returns a shape value as the tensor that ONNX has there: int64, bool, or float32.

    A number gives a 0-d tensor, a tuple of n numbers a tensor of shape (n,). Tensors pass through.
    """
    if isinstance(value, Proxy):
        return value.tracer.create_proxy("call_function", as_tensor, (value,), {})  # type: ignore[return-value]
    if isinstance(value, torch.Tensor):
        return value
    first = value[0] if isinstance(value, (tuple, list)) and value else value
    if isinstance(first, (bool, torch.SymBool)):
        dtype = torch.bool
    elif isinstance(first, (float, torch.SymFloat)):
        dtype = torch.float32
    else:
        dtype = torch.int64
    return torch.tensor(value, dtype=dtype, device=device)


def _any_proxy(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Proxy | None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Proxy):
            return value
        if isinstance(value, (tuple, list)):
            for element in value:
                if isinstance(element, Proxy):
                    return element
    return None


def operator(
    op_type: str,
    *,
    domain: str = "",
    since_version: int = 1,
    static: tuple[str, ...] = (),
    numbers: tuple[str, ...] = (),
    on_shapes: bool = False,
    outputs: int | None = 1,
    required: tuple[str, ...] = (),
    python_only: tuple[str, ...] = (),
    on_numbers: bool = False,
) -> Callable[[F], F]:
    """Registers a function as the implementation of an ONNX operator.

    The function's signature is the operator's schema: inputs positional, attributes keyword-only with the
    specification's defaults. Handed an `torch.fx.Proxy` it records itself as one node, so that symbolic
    tracing (and with it the unpickling of a GraphModule) keeps it whole.

    Args:
        op_type: ONNX operator type.
        domain: canonical operator domain.
        since_version: first operator set version with this behaviour.
        static: inputs that must be Python values when the graph is built.
        numbers: inputs that are Python numbers where a file has constant 0-d tensors.
        on_shapes: the function also computes on Python ints (it may stand in a Shape chain). Without it,
            Python values that arrive at a tensor input become tensors first.
        outputs: number of outputs that are always there; None where it depends on the node.
        required: attributes that a node in a file must have, also where the function has a default.
        python_only: keyword parameters that are no ONNX attributes.
        on_numbers: the function itself takes Python numbers as inputs (a quantizer's bit width, say).
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        parameters = [p for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
        keep = [p.name in static for p in parameters]
        variadic = bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_POSITIONAL

        def tensors(args: tuple[Any, ...]) -> tuple[Any, ...]:
            if not any(is_shape_value(a) for a in args):
                return args
            device = next((a.device for a in args if isinstance(a, torch.Tensor)), None)
            return tuple(
                as_tensor(a, device=device)
                if is_shape_value(a) and not (keep[min(i, len(keep) - 1)] and not variadic)
                else a
                for i, a in enumerate(args)
            )

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            proxy = _any_proxy(args, kwargs)
            if proxy is not None:
                return proxy.tracer.create_proxy("call_function", wrapper, args, kwargs)
            return function(*(args if on_shapes or on_numbers else tensors(args)), **kwargs)

        entry = describe(
            wrapper,
            signature,
            domain=domain,
            op_type=op_type,
            since_version=since_version,
            static=static,
            numbers=numbers,
            on_shapes=on_shapes,
            outputs=outputs,
            required=required,
            python_only=python_only,
        )
        REGISTRY.add(entry)
        REGISTRY.add_target(wrapper, entry)
        return wrapper  # type: ignore[return-value]

    return decorate
