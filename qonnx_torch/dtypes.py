"""ONNX element types as torch dtypes, and back; NumPy arrays as tensors, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import TensorProto, TypeProto, helper

from qonnx_torch.errors import ExportError, UnsupportedModelError

__all__ = [
    "FLOAT4E2M1",
    "FLOAT8E8M0",
    "INT2",
    "PACKED_TYPES",
    "UINT2",
    "element_bits",
    "element_type_name",
    "element_type_of",
    "from_array",
    "integer_range",
    "onnx_element_type",
    "to_array",
    "torch_dtype",
]

FLOAT4E2M1, FLOAT8E8M0, UINT2, INT2, FLOAT6E2M3, FLOAT6E3M2 = 23, 24, 25, 26, 27, 28
"""Element types that not every onnx package since 1.17 names; the numbers are those of its `onnx.proto`."""

_TO_TORCH: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.COMPLEX64: torch.complex64,
    TensorProto.COMPLEX128: torch.complex128,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    FLOAT8E8M0: torch.float8_e8m0fnu,
}

PACKED_TYPES: dict[int, torch.dtype] = {
    TensorProto.INT4: torch.int8,
    TensorProto.UINT4: torch.uint8,
    INT2: torch.int8,
    UINT2: torch.uint8,
    FLOAT4E2M1: torch.float16,
    FLOAT6E2M3: torch.float16,
    FLOAT6E3M2: torch.float16,
}
"""Element types narrower than a byte -> the smallest torch dtype that holds their values and computes."""

_PACKED_RANGES: dict[int, tuple[int, int]] = {
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    INT2: (-2, 1),
    UINT2: (0, 3),
}

_NARROW_FLOAT_BITS: dict[int, int] = {FLOAT4E2M1: 4, FLOAT6E2M3: 6, FLOAT6E3M2: 6}

_TO_ONNX = {dtype: element_type for element_type, dtype in _TO_TORCH.items()}

# NumPy has none of these; they travel as integers of the same width.
_AS_INTEGERS = {
    torch.bfloat16: torch.int16,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e4m3fnuz: torch.uint8,
    torch.float8_e5m2: torch.uint8,
    torch.float8_e5m2fnuz: torch.uint8,
    torch.float8_e8m0fnu: torch.uint8,
}


def element_type_name(element_type: int) -> str:
    """Returns how ONNX calls an element type (`FLOAT8E5M2`); its number where there is no such type."""
    known = TensorProto.DataType.values()
    return str(TensorProto.DataType.Name(element_type)) if element_type in known else str(element_type)


def element_type_of(declared: TypeProto) -> int:
    """Returns the element type of a declared tensor, sequence or optional; 0 where there is none."""
    while (kind := declared.WhichOneof("value")) in ("sequence_type", "optional_type"):
        declared = getattr(declared, kind).elem_type
    return declared.tensor_type.elem_type if kind == "tensor_type" else 0


def torch_dtype(element_type: int) -> torch.dtype:
    """Returns the torch dtype that holds an ONNX element type.

    Types narrower than a byte (PACKED_TYPES) are held one element each in the smallest dtype that computes.

    Raises:
        UnsupportedModelError: torch has no such dtype.
    """
    dtype = _TO_TORCH.get(element_type) or PACKED_TYPES.get(element_type)
    if dtype is None:
        raise UnsupportedModelError(f"element type {element_type_name(element_type)} is not supported")
    return dtype


def onnx_element_type(dtype: torch.dtype) -> int:
    """Returns the ONNX element type of a torch dtype.

    Raises:
        ExportError: ONNX has no such element type, or it is not implemented yet.
    """
    if dtype not in _TO_ONNX:
        raise ExportError(
            f"{dtype} cannot be written: convert the tensor to one of {sorted(map(str, _TO_ONNX))}"
        )
    return _TO_ONNX[dtype]


def element_bits(element_type: int) -> int:
    """Returns how many bits an element takes in a file. Raises like `torch_dtype`."""
    if element_type in _PACKED_RANGES:
        low, high = _PACKED_RANGES[element_type]
        return (high - low).bit_length()
    return _NARROW_FLOAT_BITS.get(element_type) or 8 * torch_dtype(element_type).itemsize


def integer_range(element_type: int) -> tuple[int, int]:
    """Returns the smallest and the largest number of an integer element type."""
    if element_type in _PACKED_RANGES:
        return _PACKED_RANGES[element_type]
    limits = torch.iinfo(torch_dtype(element_type))
    return limits.min, limits.max


def from_array(array: np.ndarray[Any, Any], element_type: int | None = None) -> torch.Tensor:
    """Returns an array as a tensor that owns its memory, also of the types that NumPy has from ml_dtypes.

    Args:
        array: any shape; of `element_type`, which is read off its dtype where it is not given.
        element_type: ONNX element type.

    Raises:
        UnsupportedModelError: torch has no such dtype.
    """
    array = np.asarray(array)
    if element_type is None:
        try:
            element_type = helper.np_dtype_to_tensor_dtype(array.dtype.newbyteorder("="))
        except (ValueError, KeyError):
            raise UnsupportedModelError(f"arrays of {array.dtype} are not supported") from None
    dtype = torch_dtype(element_type)
    if element_type in PACKED_TYPES:
        holder = np.float16 if dtype is torch.float16 else np.int8 if dtype is torch.int8 else np.uint8
        return torch.from_numpy(np.array(array.astype(holder)))
    if dtype in _AS_INTEGERS:
        width = np.int16 if _AS_INTEGERS[dtype] is torch.int16 else np.uint8
        return torch.from_numpy(np.array(array).view(width)).view(dtype)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def to_array(tensor: torch.Tensor, element_type: int | None = None) -> np.ndarray[Any, Any]:
    """Returns a tensor as an array of an ONNX element type; without one, of the tensor's own dtype.

    The inverse of `from_array`: bfloat16, float8 and the types narrower than a byte are ml_dtypes' types.

    Raises:
        ExportError: ONNX has no such element type.
    """
    tensor = tensor.detach().cpu().contiguous()
    own = onnx_element_type(tensor.dtype)
    integers = _AS_INTEGERS.get(tensor.dtype)
    if integers is None:
        array: np.ndarray[Any, Any] = tensor.resolve_conj().numpy()
    else:
        array = tensor.view(integers).numpy().view(helper.tensor_dtype_to_np_dtype(own))
    if element_type is None or element_type == own:
        return array
    return array.astype(helper.tensor_dtype_to_np_dtype(element_type))
