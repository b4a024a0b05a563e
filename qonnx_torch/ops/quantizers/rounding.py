"""Rounding modes of QONNX, bit for bit as the reference computes them, with a straight-through gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops.quantizers.blocks import functions_apply

__all__ = [
    "ROUNDING_MODES",
    "gradients_flow",
    "resolve_rounding_mode",
    "round_in_place",
    "round_to_integer",
    "straight_through",
]

ROUNDING_MODES: dict[str, Callable[[Tensor], Tensor]] = {
    "ROUND": torch.round,
    "CEIL": torch.ceil,
    "FLOOR": torch.floor,
    "UP": lambda x: torch.sign(x) * torch.ceil(torch.abs(x)),
    "DOWN": torch.trunc,
    # Written as the reference writes them, also where float32 addition rounds: 0.49999997 becomes 1.
    "HALF_UP": lambda x: torch.sign(x) * torch.floor(torch.abs(x) + 0.5),
    "HALF_DOWN": lambda x: torch.sign(x) * torch.ceil(torch.abs(x) - 0.5),
}
"""Canonical mode -> float to integer-valued float."""

_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "ROUND": Tensor.round_,
    "CEIL": Tensor.ceil_,
    "FLOOR": Tensor.floor_,
    "DOWN": Tensor.trunc_,
}

_ALIASES = {"HALF_EVEN": "ROUND", "ROUND_TO_ZERO": "DOWN"}


def resolve_rounding_mode(mode: str) -> str:
    """Returns the canonical name of a rounding mode, in any case.

    ROUND (= HALF_EVEN), CEIL, FLOOR, UP (away from zero), DOWN (towards zero; Brevitas writes
    ROUND_TO_ZERO), HALF_UP (half away from zero), HALF_DOWN (half towards zero).

    Raises:
        InvalidModelError: no such mode; the message lists the known ones.

    Source: QONNX 1.0.0, operator IntQuant, attribute rounding_mode; ROUND_TO_ZERO from Brevitas 0.13.

    >>> resolve_rounding_mode("round_to_zero")
    'DOWN'
    """
    upper = mode.upper()
    canonical = _ALIASES.get(upper, upper)
    if canonical not in ROUNDING_MODES:
        known = ", ".join([*ROUNDING_MODES, *_ALIASES])
        raise InvalidModelError(f"rounding_mode {mode!r} does not exist; known modes: {known}")
    return canonical


def gradients_flow() -> bool:
    """Returns whether a gradient could be asked for: not under no_grad, unless in forward-mode AD.

    `torch.jit.trace` traces a second time under no_grad, and then wants to see the graph of the first time.
    """
    return (
        torch.is_grad_enabled() or forward_ad._current_level >= 0 or torch._C._get_tracing_state() is not None
    )


def straight_through(value: Tensor, rounded: Tensor) -> Tensor:
    """Returns `rounded`, bit for bit, with the gradient of `value`; both have one shape and dtype."""
    if not gradients_flow():
        return rounded
    if functions_apply():
        result: Tensor = _StraightThrough.apply(value, rounded.detach())  # type: ignore[no-untyped-call]
        return result
    # rounded + (value - value): the second term is an exact zero that carries the gradient. It takes the sign
    # of `rounded`, since -0.0 + 0.0 would be +0.0, and is 0 where value is infinite.
    constant = value.detach()
    zero = torch.where(torch.signbit(rounded), -(constant - value), value - constant)
    return rounded.detach() + torch.nan_to_num(zero, nan=0.0)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def round_in_place(x: Tensor, mode: str) -> Tensor:
    """Rounds x to integers by a canonical mode, without a gradient; returns it."""
    in_place = _IN_PLACE.get(mode)
    return x.copy_(ROUNDING_MODES[mode](x)) if in_place is None else in_place(x)


def round_to_integer(x: Tensor, mode: str) -> Tensor:
    """Returns x rounded to integers (same shape and dtype) by a canonical mode, gradient 1.

    >>> round_to_integer(torch.tensor([0.5, 1.5, 2.5, -2.5]), "ROUND")
    tensor([ 0.,  2.,  2., -2.])
    >>> round_to_integer(torch.tensor([0.5, 1.5, 2.5, -2.5]), "HALF_UP")
    tensor([ 1.,  2.,  3., -3.])
    """
    return straight_through(x, ROUNDING_MODES[mode](x))
