"""Operators with random behaviour: torch's generator draws, or one of the seed that a node gives."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._numbers import integers

__all__ = ["dropout"]


def _generator(seed: float | None, device: torch.device | None = None) -> torch.Generator | None:
    """Returns the generator of a seed: the same numbers in every call. None without one: torch's own."""
    if seed is None:
        return None
    (bits,) = struct.unpack("<q", struct.pack("<d", seed))
    # Generators may read the lower half alone, where simple numbers have nothing but zeros.
    return torch.Generator(device or "cpu").manual_seed((bits ^ bits >> 32) & 0xFFFFFFFF)


def _result_dtype(x: Tensor, dtype: int | None) -> torch.dtype:
    result = x.dtype if dtype is None else torch_dtype(dtype)
    if not result.is_floating_point:
        raise InvalidModelError(
            f"random numbers cannot be {result}: the attribute dtype must name a float type"
        )
    return result


@operator("Dropout", static=("ratio", "training_mode"), python_only=("outputs",))
def dropout(
    data: Tensor,
    ratio: float = 0.5,
    training_mode: bool = False,
    *,
    seed: int | None = None,
    outputs: int = 1,
) -> Any:
    """Returns data, with elements zeroed at rate `ratio` and the others scaled in training.

    Args:
        data: any shape.
        ratio: share of the elements that become 0; the others are divided by 1 - ratio.
        training_mode: without it, data comes back.
        seed: of the choice; torch's own generator where absent.
        outputs: 2 also returns where the elements stay, bool.

    Source: ONNX Dropout-22.
    """
    rate = integers(ratio)[0]
    if not integers(training_mode)[0] or rate == 0:
        return data if outputs == 1 else (data, torch.ones_like(data, dtype=torch.bool))
    if outputs == 1 and seed is None:
        return F.dropout(data, rate, True)
    draw = torch.rand(data.shape, generator=_generator(seed, data.device), device=data.device)
    mask = draw >= rate
    result = torch.where(mask, data / (1 - rate), 0) if rate < 1 else torch.zeros_like(data)
    return result if outputs == 1 else (result, mask)


@operator("RandomNormal", python_only=("like",))
def random_normal(
    *,
    shape: Sequence[int],
    dtype: int = 1,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
    like: Any = None,
) -> Tensor:
    """Returns normal numbers of the given mean and standard deviation, on like's device. Source: ONNX-22."""
    device = like.device if isinstance(like, Tensor) else None
    numbers = torch.randn(
        tuple(shape), generator=_generator(seed, device), dtype=torch_dtype(dtype), device=device
    )
    return numbers * scale + mean


@operator("RandomUniform", python_only=("like",))
def random_uniform(
    *,
    shape: Sequence[int],
    dtype: int = 1,
    low: float = 0.0,
    high: float = 1.0,
    seed: float | None = None,
    like: Any = None,
) -> Tensor:
    """Returns numbers drawn evenly from [low, high), on like's device. Source: ONNX RandomUniform-22."""
    device = like.device if isinstance(like, Tensor) else None
    numbers = torch.rand(
        tuple(shape), generator=_generator(seed, device), dtype=torch_dtype(dtype), device=device
    )
    return numbers * (high - low) + low


@operator("RandomNormalLike")
def random_normal_like(
    input: Tensor,
    *,
    dtype: int | None = None,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
) -> Tensor:
    """Returns normal numbers in the input's shape, in its type or `dtype`. Source: ONNX-22."""
    generator = _generator(seed, input.device)
    kind = _result_dtype(input, dtype)
    numbers = torch.randn(input.shape, generator=generator, dtype=kind, device=input.device)
    return numbers * scale + mean


@operator("RandomUniformLike")
def random_uniform_like(
    input: Tensor,
    *,
    dtype: int | None = None,
    low: float = 0.0,
    high: float = 1.0,
    seed: float | None = None,
) -> Tensor:
    """Returns numbers drawn evenly from [low, high) in the input's shape, in its type or `dtype`.

    Source: ONNX RandomUniformLike-22.
    """
    generator = _generator(seed, input.device)
    kind = _result_dtype(input, dtype)
    numbers = torch.rand(input.shape, generator=generator, dtype=kind, device=input.device)
    return numbers * (high - low) + low


@operator("Bernoulli", since_version=15)
def bernoulli(input: Tensor, *, dtype: int | None = None, seed: float | None = None) -> Tensor:
    """Returns 1 with the probability that the input says, else 0, in its type or `dtype`.

    Source: ONNX Bernoulli-22.
    """
    draw = torch.bernoulli(input, generator=_generator(seed, input.device))
    return draw.to(input.dtype if dtype is None else torch_dtype(dtype))


@operator("Multinomial", since_version=7)
def multinomial(input: Tensor, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None) -> Tensor:
    """Returns classes (batch, sample_size), drawn by log-probabilities (batch, classes), as int32 or int64.

    Source: ONNX Multinomial-22.
    """
    generator = _generator(seed, input.device)
    probabilities = torch.softmax(input.to(torch.float32), -1)
    draw = torch.multinomial(probabilities, sample_size, replacement=True, generator=generator)
    return draw.to(torch_dtype(dtype))
