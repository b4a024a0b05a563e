"""Conversions between element types."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qonnx_torch.dtypes import (
    FLOAT4E2M1,
    FLOAT8E8M0,
    PACKED_TYPES,
    element_type_name,
    integer_range,
    onnx_element_type,
    torch_dtype,
)
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError
from qonnx_torch.ops._operator import as_tensor, is_shape_value, operator
from qonnx_torch.ops.standard._numbers import NUMBER_TYPES, each, fitted, whole_towards_zero
from qonnx_torch.ops.standard._small_floats import (
    FLOAT8_TYPES,
    NARROW_FLOATS,
    to_float8,
    to_narrow_float,
    to_power_of_two,
)

__all__ = ["converted"]

_FLOAT8_BY_DTYPE = {torch_dtype(t): t for t in (*FLOAT8_TYPES, FLOAT8E8M0)}


def converted(x: Tensor, to: int, saturate: bool = True, round_mode: str = "up") -> Tensor:
    """Returns a tensor in an ONNX element type, as Cast converts.

    Args:
        x: any shape.
        to: ONNX element type.
        saturate: float8 targets: what is out of range becomes the largest value.
        round_mode: FLOAT8E8M0 targets: up, down or nearest.
    """
    dtype = torch_dtype(to)
    if dtype.is_complex or x.is_complex():
        return x.to(dtype)
    if to in FLOAT8_TYPES or to == FLOAT8E8M0:
        if not x.is_floating_point() or x.dtype.itemsize == 1:
            x = x.to(torch.float32)
        if to == FLOAT8E8M0:
            return to_power_of_two(x, saturate, round_mode)
        return to_float8(x, to, saturate)
    if to in NARROW_FLOATS:
        return to_narrow_float(x, to)
    if to in PACKED_TYPES:
        low, high = integer_range(to)
        whole = x.to(torch.int64)  # truncates; the higher bits are discarded
        return (((whole - low) & (high - low)) + low).to(dtype)
    return x.to(dtype)


def _cast_numbers(value: Any, to: int, number_type: int | None) -> Any:
    """Returns shape values in another of the element types that Python numbers have."""
    dtype = torch_dtype(to)

    def convert(number: Any) -> Any:
        if dtype == torch.bool:
            return bool(number)
        if dtype.is_floating_point:
            return fitted(torch.sym_float(number), to)
        return fitted(whole_towards_zero(number, number_type, 8 * dtype.itemsize), to)

    return each(convert, value)


@operator("Cast", on_shapes=True, python_only=("number_type",))
def cast(
    input: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up", number_type: int | None = None
) -> Tensor:
    """Returns the input in another element type; a shape value stays Python.

    Floating point becomes an integer by truncation, True where it is not 0; integers lose their higher bits.

    Args:
        input: any shape.
        to: ONNX element type (`onnx.TensorProto.DataType`).
        saturate: float8 targets: 1 makes what is too large the largest value, 0 infinity or NaN.
        round_mode: FLOAT8E8M0 targets: up, down or nearest.
        number_type: of an input that is Python numbers, INT32 or DOUBLE.

    Raises: UnsupportedModelError where torch has no such dtype. Source: ONNX Cast-28.
    """
    if is_shape_value(input):
        if to in NUMBER_TYPES:
            return _cast_numbers(input, to, number_type)  # type: ignore[no-any-return]
        input = as_tensor(input, None if number_type is None else torch_dtype(number_type))
    return converted(input, to, bool(saturate), round_mode)


@operator("CastLike", since_version=15, on_shapes=True)
def cast_like(input: Tensor, target_type: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Returns the input in the element type of another tensor; else like `cast`. Source: ONNX CastLike-25."""
    if is_shape_value(input) and is_shape_value(target_type):
        to = onnx_element_type(as_tensor(target_type).dtype)
        return _cast_numbers(input, to, None)  # type: ignore[no-any-return]
    dtype = as_tensor(target_type).dtype
    x = as_tensor(input, device=target_type.device if isinstance(target_type, Tensor) else None)
    if dtype in _FLOAT8_BY_DTYPE:
        return converted(x, _FLOAT8_BY_DTYPE[dtype], bool(saturate), round_mode)
    return x.to(dtype)


@operator("BitCast", since_version=26)
def bit_cast(input: Tensor, *, to: int) -> Tensor:
    """Returns the bits of the input read as another element type of the same width.

    Raises: InvalidModelError where the widths differ. Source: ONNX BitCast-26.
    """
    if to in PACKED_TYPES:
        return _from_code(_code(input), to)
    dtype = torch_dtype(to)
    if dtype.itemsize != input.dtype.itemsize:
        raise InvalidModelError(
            f"BitCast needs types of one width, not {input.dtype} and {element_type_name(to)}"
        )
    return input.view(dtype)


_FLOAT4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def _code(x: Tensor) -> Tensor:
    """Returns the bits, as int16, of what is held in int8, uint8 (integers) or float16 (FLOAT4E2M1)."""
    if not x.is_floating_point():
        return x.to(torch.int16)
    values = torch.tensor(_FLOAT4_VALUES, dtype=x.dtype, device=x.device)
    return torch.searchsorted(values, x.abs().contiguous()).to(torch.int16) + 8 * torch.signbit(x)


def _from_code(code: Tensor, element_type: int) -> Tensor:
    """Returns what bits stand for in an element type narrower than a byte."""
    if element_type in NARROW_FLOATS:
        if element_type != FLOAT4E2M1:
            raise UnsupportedModelError(f"BitCast to {element_type_name(element_type)} is not supported")
        values = torch.tensor(_FLOAT4_VALUES, dtype=torch.float16, device=code.device)
        magnitude = values[(code & 7).long()]
        return torch.where(code & 8 != 0, -magnitude, magnitude)
    low, high = integer_range(element_type)
    return (((code - low) & (high - low)) + low).to(torch_dtype(element_type))
