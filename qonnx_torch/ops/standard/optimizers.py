"""Steps of optimizers, as exported training graphs have them.

Every operator takes the tensors of each kind one after the other (all parameters, then all gradients, ...)
and returns what is new of them in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator

__all__: list[str] = []

DOMAIN = "ai.onnx.preview.training"


@operator("Adagrad", domain=DOMAIN, outputs=None)
def adagrad(
    R: Tensor,
    T: Tensor,
    *inputs: Tensor,
    decay_factor: float = 0.0,
    epsilon: float = 1e-6,
    norm_coefficient: float = 0.0,
) -> tuple[Tensor, ...]:
    """Returns new parameters X and sums H of squared gradients G.

        g = G + norm_coefficient X
        H' = H + g^2
        X' = X - R / (1 + T decay_factor) g / (sqrt(H') + epsilon)

    Args:
        R: learning rate, 0-d.
        T: steps so far, 0-d.
        inputs: X, G and H, each of any shape.
        decay_factor: by which the learning rate shrinks.
        epsilon: against division by zero.
        norm_coefficient: of the L2 penalty.

    Source: ONNX ai.onnx.preview.training Adagrad-1.
    """
    rate = R / (1 + T * decay_factor)

    def step(x: Tensor, g: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        g = g + norm_coefficient * x
        h = h + g * g
        return x - rate * g / (h.sqrt() + epsilon), h

    return _each(step, inputs, 3)


@operator("Adam", domain=DOMAIN, outputs=None)
def adam(
    R: Tensor,
    T: Tensor,
    *inputs: Tensor,
    alpha: float = 0.9,
    beta: float = 0.999,
    epsilon: float = 1e-6,
    norm_coefficient: float = 0.0,
    norm_coefficient_post: float = 0.0,
) -> tuple[Tensor, ...]:
    """Returns new parameters X, averages V of the gradients G, and averages H of their squares.

        g = G + norm_coefficient X
        V' = alpha V + (1 - alpha) g
        H' = beta H + (1 - beta) g^2
        r = R sqrt(1 - beta^T) / (1 - alpha^T), or R where T is 0
        X' = (1 - norm_coefficient_post) (X - r V' / (sqrt(H') + epsilon))

    Args:
        R: learning rate, 0-d.
        T: steps so far, 0-d.
        inputs: X, G, V and H, each of any shape.
        alpha: share of the old V.
        beta: share of the old H.
        epsilon: against division by zero.
        norm_coefficient: of the L2 penalty.
        norm_coefficient_post: by which the parameters shrink after the step.

    Source: ONNX ai.onnx.preview.training Adam-1.
    """
    steps = T.clamp(min=1)
    corrected = R * (1 - torch.pow(beta, steps)).sqrt() / (1 - torch.pow(alpha, steps))
    rate = torch.where(T > 0, corrected, R)

    def step(x: Tensor, g: Tensor, v: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        g = g + norm_coefficient * x
        v = alpha * v + (1 - alpha) * g
        h = beta * h + (1 - beta) * g * g
        return (1 - norm_coefficient_post) * (x - rate * v / (h.sqrt() + epsilon)), v, h

    return _each(step, inputs, 4)


@operator("Momentum", domain=DOMAIN, outputs=None)
def momentum(
    R: Tensor, T: Tensor, *inputs: Tensor, alpha: float, beta: float, mode: str, norm_coefficient: float
) -> tuple[Tensor, ...]:
    """Returns new parameters X and momenta V of their gradients G.

        g = G + norm_coefficient X
        V' = alpha V + (beta, or 1 where T is 0) g
        X' = X - R V', or X - R (g + alpha V') with Nesterov's momentum

    Args:
        R: learning rate, 0-d.
        T: steps so far, 0-d.
        inputs: X, G and V, each of any shape.
        alpha: share of the old V.
        beta: factor on the gradient.
        mode: standard or nesterov.
        norm_coefficient: of the L2 penalty.

    Raises: InvalidModelError for another mode. Source: ONNX ai.onnx.preview.training Momentum-1.
    """
    if mode not in ("standard", "nesterov"):
        raise InvalidModelError(f"Momentum: mode {mode!r}: standard or nesterov")
    share = torch.where(T > 0, torch.full_like(R, beta), 1.0)

    def step(x: Tensor, g: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        g = g + norm_coefficient * x
        v = alpha * v + share * g
        return x - R * (v if mode == "standard" else g + alpha * v), v

    return _each(step, inputs, 3)


def _each(
    step: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor], kinds: int
) -> tuple[Tensor, ...]:
    """Returns the results of a step for each parameter, those of one kind together."""
    if not inputs or len(inputs) % kinds:
        raise InvalidModelError(f"an optimizer with {kinds} tensors per parameter got {len(inputs)}")
    count = len(inputs) // kinds
    results = [step(*inputs[i::count]) for i in range(count)]
    return tuple(part for parts in zip(*results, strict=True) for part in parts)
