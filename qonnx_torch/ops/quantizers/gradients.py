"""The gradients of a uniform quantizer, by name. The forward value is the same under every name.

With y = x / scale + zero_point, r = round(y), bounds low and high, and q the quantizer's integer:

- `ste`: that of clamp(r, low, high), rounding taken as the identity. d/dx is 1 where low <= r <= high, up to
  half a step outside the bounds, else 0; scale, zero point and bit width get theirs. Brevitas' TensorClamp.
- `pass`: that of y: d/dx is 1 everywhere, nothing reaches the bit width. Brevitas' TensorClampSte.
- `lsq`: that of clamp(y, low, high), zero from the bounds on: d/dscale is r - y inside, low or high outside,
  times 1 / sqrt(N high) where the number N of elements is given. Esser et al. 2019 (arXiv:1902.08153),
  equations 3 and 5, and section 2.2.
- `pact`: that of the clipping alone: d/dx is 1 inside; the clipping threshold scale * high gets 1 where
  y >= high, so that scale gets high. Choi et al. 2018 (arXiv:1805.06085), section 3.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.ops.quantizers.numerics import promote
from qonnx_torch.ops.quantizers.rounding import ROUNDING_MODES, gradients_flow, straight_through

__all__ = [
    "FLOAT_GRADIENTS",
    "GRADIENTS",
    "TRUNC_GRADIENTS",
    "Gradient",
    "binarize",
    "carry_gradient",
    "clamp",
    "clamp_from_the_bounds_on",
    "gradient_factor",
    "resolve_gradient",
    "scaled_gradient",
]

Gradient = Literal["ste", "pass", "lsq", "pact"]
GRADIENTS: tuple[str, ...] = get_args(Gradient)
# LSQ is about a learned step, which truncation has not; PACT about a clipping without a rounding.
TRUNC_GRADIENTS = ("ste", "pass")
FLOAT_GRADIENTS = ("ste", "pass", "lsq")


def resolve_gradient(name: str, operator: str = "", known: tuple[str, ...] = GRADIENTS) -> str:
    """Returns the name of a gradient. Raises QonnxTorchError that lists the known ones.

    Args:
        name: the name asked for.
        operator: where only some of the gradients are defined, of what.
        known: the names that are defined.
    """
    if name not in GRADIENTS:
        raise QonnxTorchError(f"gradient {name!r} does not exist; known gradients: {', '.join(known)}")
    if name not in known:
        raise QonnxTorchError(f"gradient {name!r} is not defined for {operator}; choose {' or '.join(known)}")
    return name


def clamp(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Returns x limited to [low, high]; NaN and -0.0 stay, and gradients reach the bounds."""
    low, high = (b.to(x.dtype) if isinstance(b, Tensor) else b for b in (low, high))
    x = torch.where(x > high, high, x)
    return torch.where(x < low, low, x)


def clamp_from_the_bounds_on(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Returns what `clamp` returns, with no gradient of x at the bounds either."""
    x = torch.where(x >= high, high.to(x.dtype), x)
    return torch.where(x <= low, low.to(x.dtype), x)


def gradient_factor(high: Tensor | float, elements: int, like: Tensor) -> Tensor:
    """Returns LSQ's 1 / sqrt(elements * high), in the dtype and on the device of a tensor."""
    carrier = promote(like)  # the product overflows half precision
    high = high.detach().to(carrier) if isinstance(high, Tensor) else like.new_tensor(high, dtype=carrier)
    # One bit has no positive integer; its range ends at 1. An empty batch has no elements, and no gradient.
    return torch.rsqrt(torch.clamp_min(torch.clamp_min(high, 1) * elements, 1)).to(like.dtype)


def scaled_gradient(scale: Tensor, high: Tensor | float, elements: int) -> Tensor:
    """Returns scale with its gradient multiplied by LSQ's 1 / sqrt(elements * high)."""
    return straight_through(scale * gradient_factor(high, elements, scale), scale)


def binarize(y: Tensor, unit: Tensor | float, gradient: str) -> Tensor:
    """Returns +1 where y >= 0, else -1 (also for NaN), with the gradient of y or of y clipped to +-unit."""
    one = torch.ones_like(y)
    q = torch.where(y.detach() >= 0, one, -one)
    if gradient == "pass":
        return straight_through(y, q)
    unit = torch.as_tensor(unit, dtype=y.dtype, device=y.device)
    clipped = clamp(y, -unit, unit)
    return straight_through(clipped, q.expand_as(clipped))


def carry_gradient(
    y: Tensor, q: Tensor, low: Tensor, high: Tensor, *, rounding_mode: str, gradient: str
) -> Tensor:
    """Returns the integer q, bit for bit, with the gradient of a name (for `pact`, of the integer part)."""
    if not gradients_flow():
        return q
    if gradient == "pass":
        # A bit width that is to be learned gets a zero here, as it gets one where nothing is clamped.
        return straight_through(y + 0 * (high - low).to(y.dtype) if high.requires_grad else y, q)
    if gradient == "ste":
        rounded = straight_through(y, ROUNDING_MODES[rounding_mode](y))
        return straight_through(clamp(rounded, low, high), q)
    return straight_through(clamp_from_the_bounds_on(y, low, high), q)
