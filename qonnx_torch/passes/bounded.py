"""Computing what a file asks for within bounds, before it is known to be worth it.

A few bytes of constants can ask for terabytes (a ConstantOfShape, a Tile, an outer product of three vectors).
So each torch operation is asked for the size of its result before it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

from qonnx_torch.ops import is_shape_value
from qonnx_torch.ops.standard._numbers import dimensions
from qonnx_torch.registry import REGISTRY

__all__ = ["Bounded", "RefusedError", "numbers_made"]

_MOST_ELEMENTS = 1 << 20

# Their results depend on the data, so that they have no size beforehand. None has more elements than the
# input, times its dimensions.
_NO_LARGER = {
    "_local_scalar_dense",
    "equal",
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
    """While active, torch operations run only within bounds; others raise RefusedError.

    Without a room, results have at most 2**20 elements and do not depend on chance.

    Args:
        room: bytes that the results may take that are alive at one time.
        steps: how many operations may run.
    """

    def __init__(self, room: int | None = None, steps: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._room = room
        self._steps = steps
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._bytes = 0
        self._known: dict[Any, tuple[int, int]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler, for a second, only to keep it off this mode

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs an operation, or refuses it."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if self._steps is not None:
            if not self._steps:
                raise RefusedError("it takes too many steps")
            self._steps -= 1
        if self._room is None and torch.Tag.nondeterministic_seeded in func.tags:
            raise RefusedError(f"{name} depends on chance")
        if name.startswith(_DIVISIONS) and any(_holds_least(a) for a in args):
            raise RefusedError(f"{name} of the least integer")
        if name not in _NO_LARGER and not _is_surely_small(func, args, kwargs):
            self._require_room(name, *self._sizes(func, args, kwargs))
        result = func(*args, **kwargs)
        if self._room is not None and not func.is_view:
            self._note(result, args)
        return result

    def _sizes(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
        """Returns how many elements and bytes the results have; the same is not found out twice."""
        leaves, structure = tree_flatten((args, kwargs))
        known = [
            (v.shape, v.stride(), v.dtype) if isinstance(v, torch.Tensor) else (type(v), v) for v in leaves
        ]
        try:
            found = self._known.get(key := (func, str(structure), *known))
        except TypeError:  # something in it is not hashable
            return self._find_sizes(func, args, kwargs)
        if found is None:
            found = self._known[key] = self._find_sizes(func, args, kwargs)
        return found

    def _find_sizes(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
        try:
            sizes = tree_leaves(_without_data(func, args, kwargs))
        except NotImplementedError:  # nobody has written down how large its results are
            if self._room is None:
                raise
            return 0, 0
        results = [t for t in sizes if isinstance(t, torch.Tensor)]
        return sum(t.numel() for t in results), sum(t.nbytes for t in results)

    def _require_room(self, name: str, elements: int, needed: int) -> None:
        if self._room is None:
            if elements > _MOST_ELEMENTS:
                raise RefusedError(f"the result of {name} is too large")
        elif self._bytes + needed > self._room:
            self._forget_dead()
            if self._bytes + needed > self._room:
                raise RefusedError(f"with the result of {name}, its values take more than {self._room} bytes")

    def _note(self, result: Any, args: tuple[Any, ...]) -> None:
        """Counts what an operation has made, while it is alive."""
        before = [a.untyped_storage()._cdata for a in tree_leaves(args) if isinstance(a, torch.Tensor)]
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._alive and storage._cdata not in before:
                    self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                    self._bytes += storage.nbytes()

    def _forget_dead(self) -> None:
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self._bytes = sum(size for _, size in self._alive.values())


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


def numbers_made(target: Callable[..., Any], args: Sequence[Any], attributes: Mapping[str, Any]) -> int:
    """Returns a bound of how many Python numbers an operator makes of Python numbers; 0 where it does not.

    A few numbers are made many by repetition (Expand, Tile, ConstantOfShape, Range), by indices (Gather) and
    by broadcasting. All other results have no more elements than the inputs together.
    """
    operator = REGISTRY.of_target(target)
    if operator is None or not all(a is None or is_shape_value(a) for a in args):
        return 0
    try:
        return int(_numbers_made(operator.op_type, [a for a in args if a is not None], attributes))
    except (ArithmeticError, LookupError, TypeError):  # it fails when it is computed, too
        return 0


def _numbers_made(op_type: str, args: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    if attributes.get("as_numbers") and op_type == "Range":
        start, limit, delta = args
        return max(math.ceil((limit - start) / delta), 0)
    sizes = [dimensions(a) for a in args]
    if op_type == "ConstantOfShape":
        return math.prod(tree_leaves(args)) if attributes.get("as_numbers") else 0
    if op_type == "Tile":
        return math.prod(sizes[0]) * math.prod(tree_leaves(args[1]))
    if op_type == "Gather":
        return math.prod(sizes[0]) // sizes[0][attributes.get("axis", 0)] * math.prod(sizes[1])
    joined = sum(math.prod(s) for s in sizes)
    if op_type == "Expand":
        sizes[1], joined = tuple(tree_leaves(args[1])), 0
    common = zip_longest(*(reversed(s) for s in sizes), fillvalue=1)
    return max(math.prod(max(s) for s in common), joined)
