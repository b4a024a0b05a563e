"""Activation functions, alone and behind a bias."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator

__all__ = ["activated"]

_DOMAIN = "com.microsoft"


@operator("Gelu", domain=_DOMAIN)
def gelu(X: Tensor) -> Tensor:
    """Returns X / 2 (1 + erf(X / sqrt(2))). Source: onnxruntime Gelu-1."""
    return F.gelu(X)


@operator("FastGelu", domain=_DOMAIN)
def fast_gelu(X: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns the tanh approximation of Gelu, of X + bias. Source: onnxruntime FastGelu-1."""
    return F.gelu(X if bias is None else X + bias, approximate="tanh")


@operator("BiasGelu", domain=_DOMAIN)
def bias_gelu(A: Tensor, B: Tensor) -> Tensor:
    """Returns Gelu of A + B; B (C,) stands along the last dimension. Source: onnxruntime BiasGelu-1."""
    return F.gelu(A + B)


@operator("QuickGelu", domain=_DOMAIN)
def quick_gelu(X: Tensor, *, alpha: float = 1.702) -> Tensor:
    """Returns X sigmoid(alpha X). Source: onnxruntime QuickGelu-1."""
    return X * torch.sigmoid(alpha * X)


@operator("ScaledSiLU", domain=_DOMAIN)
def scaled_silu(X: Tensor, scale: Tensor | None = None, *, alpha: float = 1.0) -> Tensor:
    """Returns SiLU of scale * X, or of alpha * X without a scale. Source: onnxruntime ScaledSiLU-1."""
    z = X * alpha if scale is None else (X * scale.reshape(())).to(X.dtype)
    return z * torch.sigmoid(z)


@operator("BiasSplitGelu", domain=_DOMAIN)
def bias_split_gelu(X: Tensor, bias: Tensor) -> Tensor:
    """Returns left * Gelu(right) of the two halves of X + bias. Source: onnxruntime BiasSplitGelu-1."""
    left, right = (X + bias).chunk(2, -1)
    return left * F.gelu(right)


@operator("BiasAdd", domain=_DOMAIN)
def bias_add(X: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    """Returns X + bias + skip. Source: onnxruntime BiasAdd-1."""
    return X + bias + skip


@operator("BiasSoftmax", domain=_DOMAIN)
def bias_softmax(data: Tensor, bias: Tensor, *, axis: int = 1, is_inner_broadcast: int) -> Tensor:
    """Returns the softmax of data + bias over all dimensions from `axis` on.

    Args:
        data: any shape.
        bias: of data's shape from some dimension on; dimensions that are 1 or missing are repeated.
        axis: first dimension of the softmax.
        is_inner_broadcast: 1: the missing dimensions stand right before `axis`, else in front.

    Source: onnxruntime BiasSoftmax-1.
    """
    first = axis % data.dim()
    while is_inner_broadcast and bias.dim() < data.dim():
        bias = bias.unsqueeze(max(0, first - (data.dim() - bias.dim())))
    total = data + bias
    return torch.softmax(total.flatten(first), -1).reshape(total.shape)


def activated(x: Tensor, name: str, alpha: float | None, beta: float | None) -> Tensor:
    """Returns an activation function by name, as fused operators have it; none for an empty name.

    Args:
        x: any shape.
        name: Relu, Tanh, Sigmoid, LeakyRelu, HardSigmoid, Elu, ThresholdedRelu, Softplus, Softsign or Clip.
        alpha: first number: a slope, a factor, or the lower bound of Clip.
        beta: second number: an offset, or the upper bound of Clip.

    Raises:
        InvalidModelError: another name.
    """
    if name == "":
        return x
    if name == "Relu":
        return torch.relu(x)
    if name == "Tanh":
        return torch.tanh(x)
    if name == "Sigmoid":
        return torch.sigmoid(x)
    if name == "Softsign":
        return x / (1 + x.abs())
    if name == "LeakyRelu":
        return F.leaky_relu(x, 0.01 if alpha is None else alpha)
    if name == "HardSigmoid":
        return ((0.2 if alpha is None else alpha) * x + (0.5 if beta is None else beta)).clamp(0, 1)
    if name == "Elu":
        return F.elu(x, 1.0 if alpha is None else alpha)
    if name == "ThresholdedRelu":
        return torch.where(x > (1.0 if alpha is None else alpha), x, 0.0)
    if name == "Softplus":
        return torch.logaddexp(x, x.new_zeros(()))
    if name == "Clip":
        return x.clamp(alpha, beta) if alpha is not None or beta is not None else x
    raise InvalidModelError(f"activation {name!r} is not known")
