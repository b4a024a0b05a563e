"""Operations in place, which a graph of values has none of: written out right, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qonnx_torch as qt


class Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def masks(x: Tensor) -> tuple[Tensor, ...]:
    """`&` and `|` are called and_ and or_, and are not in place."""
    a, b = x > 0, x < 1
    return a & b, a | b, a ^ b, a


def masks_in_place(x: Tensor) -> tuple[Tensor, ...]:
    a, b = x > 0, x < 1
    same = a
    a &= b
    b ^= same
    return same, a, b


def sums_in_place(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    same = y
    y += 1
    y.mul_(3)
    y **= 2
    return y, same, F.relu_(y - 20)


def view_alone(x: Tensor) -> Tensor:
    """What the view was taken of is not used any more."""
    y = (x * 2).reshape(5, -1)
    y.add_(1)
    return y.flatten()


def view_afterwards(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 1
    y.add_(1)
    return y, y.reshape(5, -1), y[:, 0]


def copy(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 1
    z = y.clone()
    z.add_(1)
    return y, z


@pytest.mark.parametrize("function", [
    masks, masks_in_place, sums_in_place, view_alone, view_afterwards, copy,
], ids=lambda f: f.__name__)  # fmt: skip
def test_the_same_numbers(function: Callable[[Tensor], Any]) -> None:
    x = torch.linspace(-2, 2, 10).reshape(2, 5)
    found, expected = qt.trace(Call(function), x)(x), Call(function)(x)
    found, expected = (v if isinstance(v, tuple) else (v,) for v in (found, expected))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def through_a_slice(x: Tensor) -> Tensor:
    y = x * 1
    y[:, 0].mul_(2)
    return y


def seen_by_a_view(x: Tensor) -> Tensor:
    y = x * 1
    z = y.reshape(-1)
    y.add_(1.0)
    return z


def through_a_part(x: Tensor) -> Tensor:
    y = x * 1
    first, _ = y.split([2, 3], 1)
    first += 1
    return y


@pytest.mark.parametrize(
    "function", [through_a_slice, seen_by_a_view, through_a_part], ids=lambda f: f.__name__
)
def test_changes_through_another_view_are_refused(function: Callable[[Tensor], Any]) -> None:
    with pytest.raises(qt.UnsupportedModelError, match="used after another view of it was changed"):
        qt.trace(Call(function), torch.rand(2, 5))


def test_item_assignment_is_refused() -> None:
    def assign(x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 0] = 0.0
        return y

    with pytest.raises(qt.UnsupportedModelError, match=r"x\[\.\.\.\] = \.\.\. is no ONNX operator; write it"):
        qt.trace(Call(assign), torch.rand(2, 5))
