"""Activation functions as ONNX operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from qonnx_torch.lowering.arithmetic import convert
from qonnx_torch.lowering.emitter import Emitter, NotLoweredError
from qonnx_torch.lowering.table import lowers
from qonnx_torch.ops.standard import activation, elementwise, movement

__all__: list[str] = []


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what writes a function of one tensor that has an operator of its own."""

    def write(g: Emitter, input: fx.Node, inplace: bool = False) -> Any:
        return g.call(function, input)

    return write


lowers(torch.relu, torch.relu_, F.relu, "relu", "relu_")(_plain(activation.relu))
lowers(torch.sigmoid, F.sigmoid, "sigmoid", "sigmoid_")(_plain(activation.sigmoid))
lowers(torch.tanh, F.tanh, "tanh", "tanh_")(_plain(activation.tanh))
lowers(F.softsign)(_plain(activation.softsign))
lowers(F.hardswish)(_plain(activation.hard_swish))
lowers(F.selu, torch.selu)(_plain(activation.selu))


@lowers(F.leaky_relu, F.leaky_relu_)
def leaky_relu(g: Emitter, input: fx.Node, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    """Writes LeakyRelu."""
    return g.call(activation.leaky_relu, input, alpha=float(negative_slope))


@lowers(F.prelu, torch.prelu)
def prelu(g: Emitter, input: fx.Node, weight: fx.Node) -> Any:
    """Writes PRelu with one slope per channel."""
    return g.call(activation.p_relu_per_channel, input, weight)


@lowers(F.elu)
def elu(g: Emitter, input: fx.Node, alpha: float = 1.0, inplace: bool = False) -> Any:
    """Writes Elu."""
    return g.call(activation.elu, input, alpha=float(alpha))


@lowers(F.gelu)
def gelu(g: Emitter, input: fx.Node, approximate: str = "none") -> Any:
    """Writes Gelu."""
    return g.call(activation.gelu, input, approximate=approximate)


@lowers(F.silu)
def silu(g: Emitter, input: fx.Node, inplace: bool = False) -> Any:
    """Writes x * Sigmoid(x)."""
    return g.call(elementwise.mul, input, g.call(activation.sigmoid, input))


@lowers(F.mish)
def mish(g: Emitter, input: fx.Node, inplace: bool = False) -> Any:
    """Writes x * Tanh(Softplus(x))."""
    return g.call(elementwise.mul, input, g.call(activation.tanh, g.call(activation.softplus, input)))


@lowers(F.softplus)
def softplus(g: Emitter, input: fx.Node, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """Writes Softplus; with a beta Softplus(beta x) / beta."""
    if beta == 1:
        return g.call(activation.softplus, input)
    scaled = g.call(elementwise.mul, input, float(beta))
    return g.call(elementwise.div, g.call(activation.softplus, scaled), float(beta))


@lowers(F.logsigmoid)
def logsigmoid(g: Emitter, input: fx.Node) -> Any:
    """Writes -Softplus(-x)."""
    return g.call(elementwise.neg, g.call(activation.softplus, g.call(elementwise.neg, input)))


@lowers(F.hardsigmoid)
def hardsigmoid(g: Emitter, input: fx.Node, inplace: bool = False) -> Any:
    """Writes HardSigmoid with torch's slope 1 / 6."""
    return g.call(activation.hard_sigmoid, input, alpha=1 / 6, beta=0.5)


@lowers(torch.clamp, torch.clip, "clamp", "clip", "clamp_", "clip_")
def clamp(g: Emitter, input: fx.Node, min: Any = None, max: Any = None) -> Any:
    """Writes Clip between two numbers."""
    if isinstance(min, fx.Node) or isinstance(max, fx.Node):
        raise NotLoweredError("Clip is written only with bounds that are numbers")
    bounds = [None if b is None else convert(g, b, g.dtype(input)) for b in (min, max)]
    return g.call(elementwise.clip, input, *(bounds if bounds[1] is not None else bounds[:1]))


@lowers(F.hardtanh, F.hardtanh_)
def hardtanh(
    g: Emitter, input: fx.Node, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Any:
    """Writes Clip."""
    return clamp(g, input, min_val, max_val)


@lowers(F.relu6)
def relu6(g: Emitter, input: fx.Node, inplace: bool = False) -> Any:
    """Writes Clip between 0 and 6."""
    return clamp(g, input, 0.0, 6.0)


@lowers(torch.clamp_min, "clamp_min", "clamp_min_")
def clamp_min(g: Emitter, input: fx.Node, min: float) -> Any:
    """Writes Clip from below."""
    return clamp(g, input, min)


@lowers(torch.clamp_max, "clamp_max", "clamp_max_")
def clamp_max(g: Emitter, input: fx.Node, max: float) -> Any:
    """Writes Clip from above."""
    return clamp(g, input, None, max)


@lowers(F.softmax, torch.softmax, "softmax")
def softmax(
    g: Emitter, input: fx.Node, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Any:
    """Writes Softmax along one dimension."""
    return _soft(g, activation.softmax, input, dim, dtype)


@lowers(F.log_softmax, torch.log_softmax, "log_softmax")
def log_softmax(
    g: Emitter, input: fx.Node, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Any:
    """Writes LogSoftmax along one dimension."""
    return _soft(g, activation.log_softmax, input, dim, dtype)


def _soft(g: Emitter, function: Callable[..., Any], input: fx.Node, dim: int | None, dtype: Any) -> Any:
    if dim is None or dtype not in (None, g.dtype(input)):
        raise NotLoweredError("it is written only with a dim, and in the input's dtype")
    return g.call(function, input, axis=dim)


@lowers(F.glu)
def glu(g: Emitter, input: fx.Node, dim: int = -1) -> Any:
    """Writes a * Sigmoid(b) of the two halves."""
    axis = dim % g.rank(input)
    size = g.fixed_sizes(input, range(axis, axis + 1))[0]
    first, second = g.call(movement.split, input, (size // 2, size // 2), axis=axis)
    return g.call(elementwise.mul, first, g.call(activation.sigmoid, second))
