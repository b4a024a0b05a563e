"""Activation functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._integers import whole

__all__: list[str] = []


@operator("Relu")
def relu(X: Tensor) -> Tensor:
    """Returns max(X, 0). Source: ONNX Relu-14."""
    return torch.relu(X)


@operator("LeakyRelu")
def leaky_relu(X: Tensor, *, alpha: float = 0.01) -> Tensor:
    """Returns X where X >= 0, else alpha * X. Source: ONNX LeakyRelu-16."""
    return F.leaky_relu(X, alpha)


@operator("PRelu", since_version=1)
def p_relu_per_channel(X: Tensor, slope: Tensor) -> Tensor:
    """Returns X where X >= 0, else slope * X, slope (C,) for channels on axis 1. Source: ONNX PRelu-6."""
    if slope.dim() == 1 and slope.numel() > 1:
        slope = slope.reshape(-1, *[1] * (X.dim() - 2))
    return p_relu(X, slope)


@operator("PRelu", since_version=7)
def p_relu(X: Tensor, slope: Tensor) -> Tensor:
    """Returns X where X >= 0, else slope * X, slope broadcastable to X. Source: ONNX PRelu-16."""
    if X.dtype in (torch.uint32, torch.uint64):
        return X.expand(torch.broadcast_shapes(X.shape, slope.shape))
    return torch.where(X < 0, slope * X, X)


@operator("Elu")
def elu(X: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Returns X where X >= 0, else alpha * (exp(X) - 1). Source: ONNX Elu-6."""
    return F.elu(X, alpha)


@operator("Celu", since_version=12)
def celu(X: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Returns max(0, X) + min(0, alpha * (exp(X / alpha) - 1)). Source: ONNX Celu-28."""
    return F.celu(X, alpha)


@operator("Selu")
def selu(
    X: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Tensor:
    """Returns gamma * X where X > 0, else gamma * (alpha * exp(X) - alpha). Source: ONNX Selu-6."""
    return gamma * torch.where(X > 0, X, alpha * torch.exp(X.clamp(max=0)) - alpha)


@operator("ThresholdedRelu")
def thresholded_relu(X: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Returns X where X > alpha, else 0. Source: ONNX ThresholdedRelu-10."""
    return torch.where(alpha < X, X, 0)


@operator("Shrink", since_version=9)
def shrink(input: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Returns x + bias where x < -lambd, x - bias where x > lambd, else 0. Source: ONNX Shrink-9."""
    x = input if input.is_floating_point() else whole(input).to(torch.float64)
    y = torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, 0))
    return y.to(input.dtype)


@operator("Sigmoid")
def sigmoid(X: Tensor) -> Tensor:
    """Returns 1 / (1 + exp(-X)). Source: ONNX Sigmoid-13."""
    return torch.sigmoid(X)


@operator("HardSigmoid")
def hard_sigmoid(X: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """Returns max(0, min(1, alpha * X + beta)). Source: ONNX HardSigmoid-6."""
    return torch.clamp(alpha * X + beta, 0, 1)


@operator("HardSwish", since_version=14)
def hard_swish(X: Tensor) -> Tensor:
    """Returns X * max(0, min(1, X / 6 + 1/2)). Source: ONNX HardSwish-14."""
    return X * torch.clamp(X / 6 + 0.5, 0, 1)


@operator("Tanh")
def tanh(input: Tensor) -> Tensor:
    """Returns the hyperbolic tangent. Source: ONNX Tanh-13."""
    return torch.tanh(input)


@operator("Softplus")
def softplus(X: Tensor) -> Tensor:
    """Returns log(1 + exp(X)). Source: ONNX Softplus-1."""
    return F.softplus(X, threshold=40)  # beyond 40, where torch returns X, float64 has no digit left


@operator("Softsign")
def softsign(input: Tensor) -> Tensor:
    """Returns x / (1 + |x|). Source: ONNX Softsign-1."""
    return F.softsign(input)


@operator("Gelu", since_version=20)
def gelu(X: Tensor, *, approximate: str = "none") -> Tensor:
    """Returns X * P(N(0, 1) <= X), or its tanh approximation.

    Of an infinite float32 X torch's kernel on CPUs makes NaN (oneDNN, torch 2.13).
    Source: ONNX Gelu-20.
    """
    return F.gelu(X, approximate=approximate)


@operator("Mish", since_version=18)
def mish(X: Tensor) -> Tensor:
    """Returns X * tanh(log(1 + exp(X))). Source: ONNX Mish-22."""
    return F.mish(X)


@operator("Swish", since_version=24)
def swish(X: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Returns X / (1 + exp(-alpha * X)). Source: ONNX Swish-24."""
    return X * torch.sigmoid(alpha * X)


@operator("SwiGLU", since_version=28)
def swi_glu(A: Tensor, B: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Returns swish(A) * B, of one shape. Source: ONNX SwiGLU-28."""
    return A * torch.sigmoid(alpha * A) * B


@operator("Softmax", since_version=13)
def softmax(input: Tensor, *, axis: int = -1) -> Tensor:
    """Returns exp(x) / sum(exp(x)) along an axis. Source: ONNX Softmax-13."""
    return torch.softmax(input, axis)


@operator("LogSoftmax", since_version=13)
def log_softmax(input: Tensor, *, axis: int = -1) -> Tensor:
    """Returns the logarithm of `softmax`. Source: ONNX LogSoftmax-13."""
    return torch.log_softmax(input, axis)


@operator("Hardmax", since_version=13)
def hardmax(input: Tensor, *, axis: int = -1) -> Tensor:
    """Returns 1 at the first maximum along an axis, 0 elsewhere. Source: ONNX Hardmax-13."""
    if not input.shape[axis]:
        return input.clone()
    first = input.argmax(axis, keepdim=True)
    return torch.zeros_like(input).scatter(axis, first, 1)


def _as_matrix(x: Tensor, axis: int) -> Tensor:
    axis = axis % x.dim() if axis < 0 else axis
    return x.flatten(axis) if axis < x.dim() else x.unsqueeze(-1)


@operator("Softmax", since_version=1)
def softmax_coerced(input: Tensor, *, axis: int = 1) -> Tensor:
    """Returns the softmax over all dimensions from `axis` on, taken together. Source: ONNX Softmax-11."""
    return torch.softmax(_as_matrix(input, axis), -1).reshape(input.shape)


@operator("LogSoftmax", since_version=1)
def log_softmax_coerced(input: Tensor, *, axis: int = 1) -> Tensor:
    """Returns the logarithm of `softmax_coerced`. Source: ONNX LogSoftmax-11."""
    return torch.log_softmax(_as_matrix(input, axis), -1).reshape(input.shape)


@operator("Hardmax", since_version=1)
def hardmax_coerced(input: Tensor, *, axis: int = 1) -> Tensor:
    """Returns 1 at the first maximum over all dimensions from `axis` on, else 0. Source: ONNX Hardmax-11."""
    return hardmax(_as_matrix(input, axis), axis=-1).reshape(input.shape)
