"""Computing what a file asks for within bounds, before it is known to be worth it.

A few bytes of constants can ask for terabytes (a ConstantOfShape, a Tile, an outer product of three vectors).
So each torch operation is asked for the size of its result before it runs.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["Bounded", "RefusedError"]

_MOST_ELEMENTS = 1 << 20

# Their results depend on the data, so that they have no size beforehand. None has more elements than the
# input, times its dimensions.
_NO_LARGER = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
}

_SIZED_BY_FLOATS = ("arange", "range", "upsample", "_upsample")
_DIVISIONS = ("div", "floor_divide", "remainder", "fmod")  # the least integer by -1 ends the process


class RefusedError(Exception):
    """An operation was not run: its result is too large, depends on chance, or it could crash."""


class Bounded(TorchDispatchMode):
    """While active, torch operations run only if their results have at most 2**20 elements and are certain.

    Others raise RefusedError.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler, for a second, only to keep it off this mode

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs an operation, or refuses it."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise RefusedError(f"{name} depends on chance")
        if name.startswith(_DIVISIONS) and any(_holds_least(a) for a in args):
            raise RefusedError(f"{name} of the least integer")
        if name not in _NO_LARGER and not _is_surely_small(func, args, kwargs):
            sizes = _without_data(func, args, kwargs)
            if sum(t.numel() for t in tree_leaves(sizes) if isinstance(t, torch.Tensor)) > _MOST_ELEMENTS:
                raise RefusedError(f"the result of {name} is too large")
        return func(*args, **kwargs)


def _holds_least(value: Any) -> bool:
    """Whether the least number of a signed type is among a tensor's integers."""
    if not isinstance(value, torch.Tensor) or value.dtype not in _SIGNED or not value.numel():
        return False
    return bool((value == torch.iinfo(value.dtype).min).any())


_SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)


def _is_surely_small(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the arguments alone tell that a result is of moderate size.

    For most small operations they do; the exact size would make torch import its compiler, for a second.
    """
    leaves = tree_leaves((args, kwargs))
    elements = [leaf.numel() for leaf in leaves if isinstance(leaf, torch.Tensor)]
    bound = (1 + sum(elements)) * math.prod(n for n in elements if n)
    if torch.Tag.pointwise in func.tags:
        return bound <= _MOST_ELEMENTS
    bound *= math.prod(1 + abs(leaf) for leaf in leaves if isinstance(leaf, int))
    by_floats = func.overloadpacket.__name__.startswith(_SIZED_BY_FLOATS)
    return func.is_view or (bound <= _MOST_ELEMENTS and not by_floats)


def _without_data(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns an operation's results as tensors without data."""

    def strip(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    args, kwargs = tree_map_only(torch.Tensor, strip, (args, kwargs))
    if any(argument.name == "device" for argument in func._schema.arguments):
        kwargs = {**kwargs, "device": torch.device("meta")}
    return func(*args, **kwargs)
