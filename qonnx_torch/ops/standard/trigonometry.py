"""Trigonometric and hyperbolic functions and their inverses; Tanh stands with the activations."""

from __future__ import annotations

import torch
from torch import Tensor

from qonnx_torch.ops._operator import operator

__all__: list[str] = []


@operator("Sin", since_version=7)
def sin(input: Tensor) -> Tensor:
    """Returns the sine. Source: ONNX Sin-22."""
    return torch.sin(input)


@operator("Cos", since_version=7)
def cos(input: Tensor) -> Tensor:
    """Returns the cosine. Source: ONNX Cos-22."""
    return torch.cos(input)


@operator("Tan", since_version=7)
def tan(input: Tensor) -> Tensor:
    """Returns the tangent. Source: ONNX Tan-22."""
    return torch.tan(input)


@operator("Asin", since_version=7)
def asin(input: Tensor) -> Tensor:
    """Returns the inverse of the sine. Source: ONNX Asin-22."""
    return torch.asin(input)


@operator("Acos", since_version=7)
def acos(input: Tensor) -> Tensor:
    """Returns the inverse of the cosine. Source: ONNX Acos-22."""
    return torch.acos(input)


@operator("Atan", since_version=7)
def atan(input: Tensor) -> Tensor:
    """Returns the inverse of the tangent. Source: ONNX Atan-22."""
    return torch.atan(input)


@operator("Sinh", since_version=9)
def sinh(input: Tensor) -> Tensor:
    """Returns the hyperbolic sine. Source: ONNX Sinh-22."""
    return torch.sinh(input)


@operator("Cosh", since_version=9)
def cosh(input: Tensor) -> Tensor:
    """Returns the hyperbolic cosine. Source: ONNX Cosh-22."""
    return torch.cosh(input)


@operator("Asinh", since_version=9)
def asinh(input: Tensor) -> Tensor:
    """Returns the inverse of the hyperbolic sine. Source: ONNX Asinh-22."""
    return torch.asinh(input)


@operator("Acosh", since_version=9)
def acosh(input: Tensor) -> Tensor:
    """Returns the inverse of the hyperbolic cosine. Source: ONNX Acosh-22."""
    return torch.acosh(input)


@operator("Atanh", since_version=9)
def atanh(input: Tensor) -> Tensor:
    """Returns the inverse of the hyperbolic tangent. Source: ONNX Atanh-22."""
    return torch.atanh(input)
