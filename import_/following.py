"""Values that are known while importing: what operators make of small constants, computed within bounds.

A few bytes of constants can ask for terabytes (a ConstantOfShape, a Tile, an outer product of three vectors).
So each operation is asked for the size of its result before it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["SMALL", "computed"]

SMALL = 4096
"""Constants up to this many elements are followed through computations of shapes."""

_MOST_ELEMENTS = 1 << 20  # of anything in between
_LARGEST_NUMBER = 1 << 16  # of a shape, a number of repetitions, ...

# Their results depend on the data, so that they have no size beforehand; none has more elements than the input
# (times its dimensions).
_NO_LARGER = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}


def computed(
    target: Callable[..., Any], args: Sequence[Any], attributes: Mapping[str, Any], numbers: Iterable[Any]
) -> Any:
    """Returns what an operator makes of constants; None where that is not small, not always the same, or fails.

    Args:
        target: the operator's function.
        args: its inputs.
        attributes: its attributes.
        numbers: those of its arguments that say how large something becomes.
    """
    if any(isinstance(n, int) and abs(n) > _LARGEST_NUMBER for n in tree_leaves(list(numbers))):
        return None
    try:
        with torch.no_grad(), _Bounded():
            result = target(*args, **attributes)
    except Exception:  # whatever it is: it fails again, with its own message, when the module runs
        return None
    tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    return result if sum(t.numel() for t in tensors) <= SMALL else None


class _TooLargeError(Exception):
    pass


class _Bounded(TorchDispatchMode):
    """Runs torch operations whose results are of moderate size and do not depend on chance."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler, for a second, only to keep it off this mode

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise _TooLargeError
        if func.overloadpacket.__name__ not in _NO_LARGER and not _is_surely_small(func, args, kwargs):
            sizes = _without_data(func, args, kwargs)
            if sum(t.numel() for t in tree_leaves(sizes) if isinstance(t, torch.Tensor)) > _MOST_ELEMENTS:
                raise _TooLargeError
        return func(*args, **kwargs)


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
    return func.is_view or (bound <= _MOST_ELEMENTS and not any(isinstance(leaf, float) for leaf in leaves))


def _without_data(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns an operation's results as tensors without data."""

    def strip(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    args, kwargs = tree_map_only(torch.Tensor, strip, (args, kwargs))
    if any(argument.name == "device" for argument in func._schema.arguments):
        kwargs = {**kwargs, "device": torch.device("meta")}
    return func(*args, **kwargs)
