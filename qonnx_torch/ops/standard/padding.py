"""Padding and cropping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._axes import axes_of
from qonnx_torch.ops.standard._integers import on_bits
from qonnx_torch.ops.standard._numbers import integers

__all__: list[str] = []


@operator("Pad", static=("pads", "constant_value", "axes"), numbers=("constant_value",))
def pad(
    data: Tensor,
    pads: Sequence[int],
    constant_value: Tensor | float | None = None,
    axes: Sequence[int] | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    """Returns data padded; negative pads cut first.

    Args:
        data: any shape.
        pads: begins, then ends, one of each per axis.
        constant_value: for mode constant; 0 where absent.
        axes: which axes pads are for; all where absent.
        mode: constant, reflect (without the edge), edge or wrap; a period may be wider than the axis.

    Raises: InvalidModelError for another mode or number of pads. Source: ONNX Pad-25.
    """
    rank = data.dim()
    amounts = integers(pads)
    dims = axes_of(axes, rank) if axes is not None else list(range(rank))
    if len(amounts) != 2 * len(dims):
        raise InvalidModelError(f"Pad: {len(dims)} axes need {2 * len(dims)} pads, not {len(amounts)}")
    widths = {a: (amounts[i], amounts[i + len(dims)]) for i, a in enumerate(dims)}
    if mode == "constant":
        flat = [n for a in reversed(range(rank)) for n in widths.get(a, (0, 0))]
        if isinstance(constant_value, Tensor):
            return _computed(data, flat, constant_value)
        return _constant(data, flat, 0 if constant_value is None else integers(constant_value)[0])
    if mode not in _SOURCES:
        raise InvalidModelError(f"Pad: mode {mode!r} is none of {['constant', *_SOURCES]}")
    for axis, (before, after) in widths.items():
        if not (type(before) is int and before == 0 and type(after) is int and after == 0):
            data = _extended(data, axis, before, after, mode)
    return data


def _constant(data: Tensor, flat: list[Any], fill: Any) -> Tensor:
    if data.dtype == torch.float8_e8m0fnu:
        return _constant(data.to(torch.float32), flat, fill).to(data.dtype)
    if data.dtype == torch.uint64 and fill >= 1 << 63:
        return on_bits(lambda x: torch.constant_pad_nd(x, flat, fill - (1 << 64)), data)
    return torch.constant_pad_nd(data, flat, fill)


def _computed(data: Tensor, flat: list[Any], fill: Tensor) -> Tensor:
    """Returns data padded with the number in a tensor, which is not read."""
    inside = torch.constant_pad_nd(torch.ones_like(data, dtype=torch.bool), flat, False)
    padded, fill = _constant(data, flat, 0), fill.reshape(()).to(data.dtype)
    return on_bits(lambda x, value: torch.where(inside, x, value), padded, fill)


def _extended(data: Tensor, axis: int, before: Any, after: Any, mode: str) -> Tensor:
    """Returns data with an axis lengthened, or cut where the amounts are negative."""
    if before < 0 or after < 0:
        cut = torch.sym_max(-before, 0)
        data = data.narrow(axis, cut, data.shape[axis] - cut - torch.sym_max(-after, 0))
    size = data.shape[axis]
    positions = torch.arange(
        -torch.sym_max(before, 0), size + torch.sym_max(after, 0), device=data.device
    )  # of the result, counted from the first element of data
    index = _SOURCES[mode](positions, size)
    return on_bits(lambda x: x.index_select(axis, index), data)


def _reflect(positions: Tensor, size: Any) -> Tensor:
    period = torch.sym_max(2 * (size - 1), 1)
    place = positions % period
    return torch.where(place < size, place, period - place)


def _edge(positions: Tensor, size: Any) -> Tensor:
    return positions.clamp(0, size - 1)


def _wrap(positions: Tensor, size: Any) -> Tensor:
    place: Tensor = positions % size
    return place


_SOURCES = {"reflect": _reflect, "edge": _edge, "wrap": _wrap}
"""Mode -> positions around an axis and its size -> the positions in it whose elements stand there."""


@operator("CenterCropPad", since_version=18, static=("shape",))
def center_crop_pad(input_data: Tensor, shape: Sequence[int], *, axes: Sequence[int] | None = None) -> Tensor:
    """Returns the input cropped around its centre, or padded with zeros on both sides, to a shape.

    Where the difference is odd, the crop lies half a step to the left, and the larger pad to the right.

    Args:
        input_data: any shape.
        shape: the new size of each axis.
        axes: which axes those are; all where absent.

    Source: ONNX CenterCropPad-18.
    """
    dims = axes_of(axes, input_data.dim()) if axes is not None else list(range(input_data.dim()))
    pads = {
        a: _centred(target - input_data.shape[a]) for a, target in zip(dims, integers(shape), strict=True)
    }
    flat = [n for a in reversed(range(input_data.dim())) for n in pads.get(a, (0, 0))]
    return _constant(input_data, flat, 0)


def _centred(difference: Any) -> tuple[Any, Any]:
    """Returns how much to pad before and after (to cut, where negative)."""
    before = difference // 2 if difference >= 0 else -(-difference // 2)
    return before, difference - before
