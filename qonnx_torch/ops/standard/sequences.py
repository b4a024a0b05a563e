"""Sequences (Python lists of tensors) and optionals (a value, or None where empty)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.type_names import TypeName

__all__: list[str] = []


@operator("SequenceConstruct", since_version=11)
def sequence_construct(*inputs: Tensor) -> list[Tensor]:
    """Returns the inputs as a sequence. Source: ONNX SequenceConstruct-11."""
    return list(inputs)


@operator("SequenceEmpty", since_version=11)
def sequence_empty(*, dtype: int = 1) -> list[Tensor]:
    """Returns a sequence without elements; a list has no element type. Source: ONNX SequenceEmpty-11."""
    return []


@operator("SequenceInsert", since_version=11, static=("position",), sequences=("input_sequence",))
def sequence_insert(
    input_sequence: list[Tensor], tensor: Tensor, position: int | None = None
) -> list[Tensor]:
    """Returns the sequence with a tensor inserted before `position`, or at its end. Source: ONNX-11."""
    place = len(input_sequence) if position is None else _position(position, len(input_sequence), 1)
    return [*input_sequence[:place], tensor, *input_sequence[place:]]


@operator("SequenceErase", since_version=11, static=("position",), sequences=("input_sequence",))
def sequence_erase(input_sequence: list[Tensor], position: int | None = None) -> list[Tensor]:
    """Returns the sequence without the tensor at `position`, or without its last. Source: ONNX-11."""
    place = _position(-1 if position is None else position, len(input_sequence), 0)
    return [*input_sequence[:place], *input_sequence[place + 1 :]]


@operator("SequenceAt", since_version=11, static=("position",), sequences=("input_sequence",))
def sequence_at(input_sequence: list[Tensor], position: int) -> Tensor:
    """Returns the tensor at a position; negative ones count from the end. Source: ONNX SequenceAt-11."""
    return input_sequence[_position(position, len(input_sequence), 0)]


@operator("SequenceLength", since_version=11, sequences=("input_sequence",), gives_numbers=True)
def sequence_length(input_sequence: list[Tensor]) -> int:
    """Returns the number of tensors as a Python int. Source: ONNX SequenceLength-11."""
    return len(input_sequence)


@operator("SplitToSequence", since_version=11, static=("split",))
def split_to_sequence(
    input: Tensor, split: int | Sequence[int] | None = None, *, axis: int = 0, keepdims: int = 1
) -> list[Tensor]:
    """Returns the pieces of a tensor along an axis.

    Args:
        input: any shape but ().
        split: sizes of the pieces, or one size, of which the last piece may have less; 1 where absent.
        axis: where to split.
        keepdims: 0 removes the axis where split is absent.

    Source: ONNX SplitToSequence-24.
    """
    if split is None:
        return list(input.split(1, axis) if keepdims else input.unbind(axis))
    return list(input.split(split if isinstance(split, int) else list(split), axis))


@operator("ConcatFromSequence", since_version=11, sequences=("input_sequence",))
def concat_from_sequence(input_sequence: list[Tensor], *, axis: int, new_axis: int = 0) -> Tensor:
    """Returns the tensors joined along an axis, or along a new one. Source: ONNX ConcatFromSequence-11."""
    return torch.stack(input_sequence, axis) if new_axis else torch.cat(input_sequence, axis)


@operator("Optional", since_version=15, sequences=("input",))
def optional(input: Any = None, *, type: TypeName | None = None) -> Any:
    """Returns the input, None where it is absent (an empty optional of that type). Source: ONNX-28."""
    return input


@operator("OptionalHasElement", since_version=15, sequences=("input",), gives_numbers=True)
def optional_has_element(input: Any = None) -> bool:
    """Returns whether an optional has an element, as a Python bool. Source: ONNX OptionalHasElement-28."""
    return input is not None


@operator("OptionalGetElement", since_version=15, sequences=("input",))
def optional_get_element(input: Any) -> Any:
    """Returns the element of an optional, or the tensor or sequence itself.

    Raises: InvalidModelError where it is empty. Source: ONNX OptionalGetElement-28.
    """
    if input is None:
        raise InvalidModelError("OptionalGetElement: the optional is empty; test it with OptionalHasElement")
    return input


def _position(position: Any, length: int, beyond: int) -> int:
    """Returns a position in a sequence, counted from its begin.

    Args:
        position: a number, which a file may also hold as a tensor of one element.
        length: that of the sequence.
        beyond: 1 where the end of the sequence is a position too.
    """
    number: int = position[0] if isinstance(position, (tuple, list)) else position
    place = number + length if number < 0 else number
    if not 0 <= place < length + beyond:
        raise InvalidModelError(f"position {number} in a sequence of {length} tensors")
    return place
