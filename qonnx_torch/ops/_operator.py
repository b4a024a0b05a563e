"""The decorator that turns a plain function into an ONNX operator."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.fx import Proxy

from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.registry import REGISTRY, describe

__all__ = ["as_python", "as_tensor", "is_shape_value", "operator"]

F = TypeVar("F", bound=Callable[..., Any])

retracing: list[Any] = []
"""The tracers that trace a graph of this project again: every operator is a node, also one without inputs."""

_SHAPE_TYPES = (int, float, bool, tuple, list, torch.SymInt, torch.SymFloat, torch.SymBool)


def is_shape_value(value: object) -> bool:
    """Returns whether a value is Python ints (a shape or a part of one) rather than a tensor."""
    return isinstance(value, _SHAPE_TYPES)


def as_tensor(
    value: Any,
    dtype: torch.dtype | None = None,
    *,
    device: torch.device | None = None,
    like: Any = None,
) -> torch.Tensor:
    """Returns a shape value as the tensor that ONNX has there.

    A number gives a 0-d tensor, a tuple of n numbers a tensor of shape (n,), nested ones a matrix. Tensors
    pass through.

    Args:
        value: Python numbers, or a tensor.
        dtype: the result's; int64, bool or float32 after the numbers where absent.
        device: the result's.
        like: a tensor that has that device.
    """
    if isinstance(value, Proxy):
        args = (value,) if dtype is None else (value, dtype)
        kwargs = {} if like is None else {"like": like}
        return value.tracer.create_proxy("call_function", as_tensor, args, kwargs)  # type: ignore[return-value]
    if isinstance(value, torch.Tensor):
        return value if dtype is None else value.to(dtype)
    first = value
    while isinstance(first, (tuple, list)) and first:
        first = first[0]
    if dtype is not None:
        pass
    elif isinstance(first, (bool, torch.SymBool)):
        dtype = torch.bool
    elif isinstance(first, (float, torch.SymFloat)):
        dtype = torch.float32
    else:
        dtype = torch.int64
    if device is None and isinstance(like, torch.Tensor):
        device = like.device
    return torch.tensor(value, dtype=dtype, device=device)


def as_python(value: Any) -> Any:
    """Returns a tensor as a Python number, or as a tuple (of tuples) of them; Python values pass through.

    Raises:
        UnsupportedModelError: more than 2**20 elements, which no axes, sizes or positions have.
    """
    if isinstance(value, torch.Tensor):
        if value.numel() > _MOST_NUMBERS:
            raise UnsupportedModelError(
                f"a tensor of shape {tuple(value.shape)} is to be {value.numel()} Python numbers; more than "
                f"{_MOST_NUMBERS} are too many"
            )
        value = value.tolist()
    return tuple(as_python(v) for v in value) if isinstance(value, (list, tuple)) else value


_MOST_NUMBERS = 1 << 20


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
    sequences: tuple[str, ...] = (),
    on_shapes: bool = False,
    gives_numbers: bool = False,
    outputs: int | None = 1,
    required: tuple[str, ...] = (),
    python_only: tuple[str, ...] = (),
    on_numbers: bool = False,
    macs: Callable[..., float] | None = None,
) -> Callable[[F], F]:
    """Registers a function as the implementation of an ONNX operator.

    The function's signature is the operator's schema: inputs positional, attributes keyword-only with the
    specification's defaults. Handed an `torch.fx.Proxy` it records itself as one node, so that symbolic
    tracing (and with it the unpickling of a GraphModule) keeps it whole.

    Args:
        op_type: ONNX operator type.
        domain: canonical operator domain.
        since_version: first operator set version with this behaviour.
        static: inputs that are Python numbers: baked in where the file has constants, ints where they come
            from a Shape, read off the tensor (which breaks a compiled graph) where data give them.
        numbers: inputs that are Python numbers where a file has constant 0-d tensors. One that is static too
            is a number wherever it is a constant, and stays a tensor where it is computed.
        sequences: inputs that are Python lists of tensors (ONNX sequences), or None (empty optionals).
        on_shapes: the function also computes on Python ints (it may stand in a Shape chain). Without it,
            Python values that arrive at a tensor input become tensors first.
        gives_numbers: the result is Python numbers, also of tensors (Shape, Size).
        outputs: number of outputs that are always there; None where it depends on the node. A function
            whose further outputs are optional has the python_only parameter `outputs`, the number that the
            node asks for (1 where absent): it returns a tensor for 1, else a tuple of that many.
        required: attributes that a node in a file must have, also where the function has a default.
        python_only: keyword parameters that are no ONNX attributes.
        on_numbers: the function itself takes Python numbers as inputs (a quantizer's bit width, say).
        macs: multiply-accumulates of a call, of (result, *inputs, **attributes).
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        parameters = [p for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
        names = [p.name for p in parameters]
        tensors_only = not (on_shapes or on_numbers)
        read = frozenset(static) - frozenset(numbers)
        untouched = frozenset((*sequences, *numbers)) | (frozenset() if tensors_only else frozenset(names))

        def convert(args: tuple[Any, ...]) -> tuple[Any, ...]:
            """Gives each input its kind: Python numbers where it is static, else tensors."""
            device = next((a.device for a in args if isinstance(a, torch.Tensor)), None)
            converted = []
            for i, value in enumerate(args):
                name = names[min(i, len(names) - 1)] if names else ""
                if name in read:
                    value = as_python(value) if isinstance(value, torch.Tensor) else value
                elif name not in untouched and is_shape_value(value):
                    value = as_tensor(value, device=device)
                converted.append(value)
            return tuple(converted)

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            proxy = _any_proxy(args, kwargs)
            if proxy is not None or retracing:
                tracer = retracing[-1] if proxy is None else proxy.tracer
                return tracer.create_proxy("call_function", wrapper, args, kwargs)
            if static or (tensors_only and any(is_shape_value(a) for a in args)):
                args = convert(args)
            return function(*args, **kwargs)

        entry = describe(
            wrapper,
            signature,
            domain=domain,
            op_type=op_type,
            since_version=since_version,
            static=static,
            numbers=numbers,
            sequences=sequences,
            on_shapes=on_shapes,
            gives_numbers=gives_numbers,
            outputs=outputs,
            required=required,
            python_only=python_only,
            macs=macs,
        )
        REGISTRY.add(entry)
        REGISTRY.add_target(wrapper, entry)
        return wrapper  # type: ignore[return-value]

    return decorate
