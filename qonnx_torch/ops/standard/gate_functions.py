"""The activation functions that RNN, GRU and LSTM name in their attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.errors import InvalidModelError

__all__ = ["GateFunction", "gate_functions"]


@dataclass(frozen=True, slots=True)
class GateFunction:
    """An activation function with its numbers, behind the clipping of its argument.

    Attributes:
        name: lower case.
        alpha: first number, where the function has one.
        beta: second number, where the function has one.
        clip: bound on the magnitude of the input; None leaves it as it is.
    """

    name: str
    alpha: float
    beta: float
    clip: float | None

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the function of x, element by element."""
        return self.unclipped(x if self.clip is None else x.clamp(-self.clip, self.clip))

    def unclipped(self, x: Tensor) -> Tensor:
        """Returns the function of x as it is."""
        return _FUNCTIONS[self.name].compute(x, self.alpha, self.beta)

    def is_plain(self, name: str) -> bool:
        """Returns whether this is the named function without clipping."""
        return self.clip is None and self.name == name


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a function is computed, and the defaults of the numbers that it takes (None: it takes none)."""

    compute: Callable[[Tensor, float, float], Tensor]
    alpha: float | None = None
    beta: float | None = None


_FUNCTIONS = {
    "relu": _Kind(lambda x, a, b: torch.relu(x)),
    "tanh": _Kind(lambda x, a, b: torch.tanh(x)),
    "sigmoid": _Kind(lambda x, a, b: torch.sigmoid(x)),
    "affine": _Kind(lambda x, a, b: a * x + b, 1.0, 0.0),
    "leakyrelu": _Kind(lambda x, a, b: F.leaky_relu(x, a), 0.01),
    "thresholdedrelu": _Kind(lambda x, a, b: torch.where(x >= a, x, 0.0), 1.0),
    "scaledtanh": _Kind(lambda x, a, b: a * torch.tanh(b * x), 1.0, 1.0),
    "hardsigmoid": _Kind(lambda x, a, b: (a * x + b).clamp(0.0, 1.0), 0.2, 0.5),
    "elu": _Kind(lambda x, a, b: F.elu(x, a), 1.0),
    "softsign": _Kind(lambda x, a, b: F.softsign(x)),
    "softplus": _Kind(lambda x, a, b: torch.logaddexp(x, x.new_zeros(()))),
}


def gate_functions(
    names: Sequence[str] | None,
    defaults: Sequence[str],
    directions: int,
    alpha: Sequence[float] | None,
    beta: Sequence[float] | None,
    clip: float | None,
) -> list[list[GateFunction]]:
    """Returns the activation functions of each direction.

    Args:
        names: those of the first direction, then those of the second; the defaults where absent.
        defaults: the functions of one direction.
        directions: 1 or 2.
        alpha: first numbers, consumed in order by the functions that take one; then their defaults.
        beta: second numbers, likewise.
        clip: bound on the magnitude of each function's input; None or 0 means none.

    Raises:
        InvalidModelError: an unknown function, or too few of them.
    """
    given = list(names) if names else list(defaults) * directions
    wanted = len(defaults) * directions
    if len(given) < wanted:
        raise InvalidModelError(f"activations {tuple(given)}: {wanted} are needed, {len(given)} are given")
    alphas, betas = iter(alpha or ()), iter(beta or ())
    functions = []
    for name in given[:wanted]:
        kind = _FUNCTIONS.get(name.lower())
        if kind is None:
            raise InvalidModelError(f"activation {name!r} is none of {sorted(_FUNCTIONS)}")
        a = 0.0 if kind.alpha is None else next(alphas, kind.alpha)
        b = 0.0 if kind.beta is None else next(betas, kind.beta)
        functions.append(GateFunction(name.lower(), a, b, clip or None))
    count = len(defaults)
    return [functions[d * count : (d + 1) * count] for d in range(directions)]
