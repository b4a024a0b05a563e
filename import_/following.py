"""Values that are known while importing: what operators make of small constants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from qonnx_torch.passes.bounded import Bounded, numbers_made

__all__ = ["SMALL", "computed"]

SMALL = 4096
"""Constants up to this many elements are followed through computations of shapes."""

_LARGEST_NUMBER = 1 << 16  # of a shape, a number of repetitions, ...


def computed(
    target: Callable[..., Any],
    args: Sequence[Any],
    attributes: Mapping[str, Any],
    numbers: Iterable[Any],
    most: int = SMALL,
) -> Any:
    """Returns what an operator makes of constants; None where that is not small, not certain, or fails.

    Args:
        target: the operator's function.
        args: its inputs.
        attributes: its attributes.
        numbers: those of its arguments that say how large something becomes.
        most: elements that the result may have.
    """
    if any(isinstance(n, int) and abs(n) > _LARGEST_NUMBER for n in tree_leaves(list(numbers))):
        return None
    if numbers_made(target, args, attributes) > most:
        return None
    try:
        with torch.no_grad(), Bounded():
            result = target(*args, **attributes)
    except Exception:  # whatever it is: it fails again, with its own message, when the module runs
        return None
    leaves = tree_leaves(result)
    count = sum(leaf.numel() if isinstance(leaf, torch.Tensor) else 1 for leaf in leaves)
    return result if count <= most else None
