"""Activation functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.ops._operator import operator

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
    return torch.where(X < 0, slope * X, X)


@operator("Elu")
def elu(X: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Returns X where X >= 0, else alpha * (exp(X) - 1). Source: ONNX Elu-6."""
    return F.elu(X, alpha)


@operator("Selu")
def selu(
    X: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Tensor:
    """Returns gamma * X where X > 0, else gamma * (alpha * exp(X) - alpha). Source: ONNX Selu-6."""
    return gamma * torch.where(X > 0, X, alpha * torch.exp(X) - alpha)


@operator("ThresholdedRelu")
def thresholded_relu(X: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Returns X where X > alpha, else 0. Source: ONNX ThresholdedRelu-10."""
    return torch.where(alpha < X, X, torch.zeros_like(X))


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
    return F.softplus(X)


@operator("Softsign")
def softsign(input: Tensor) -> Tensor:
    """Returns x / (1 + |x|). Source: ONNX Softsign-1."""
    return F.softsign(input)


@operator("Gelu", since_version=20)
def gelu(X: Tensor, *, approximate: str = "none") -> Tensor:
    """Returns X * P(N(0, 1) <= X), or its tanh approximation. Source: ONNX Gelu-20."""
    return F.gelu(X, approximate=approximate)


@operator("Softmax", since_version=13)
def softmax(input: Tensor, *, axis: int = -1) -> Tensor:
    """Returns exp(x) / sum(exp(x)) along an axis. Source: ONNX Softmax-13."""
    return torch.softmax(input, axis)


@operator("LogSoftmax", since_version=13)
def log_softmax(input: Tensor, *, axis: int = -1) -> Tensor:
    """Returns the logarithm of `softmax`. Source: ONNX LogSoftmax-13."""
    return torch.log_softmax(input, axis)


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
