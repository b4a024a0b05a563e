"""ONNX element types as torch dtypes, and back."""

from __future__ import annotations

import torch
from onnx import TensorProto

from qonnx_torch.errors import ExportError, UnsupportedModelError

__all__ = ["onnx_element_type", "torch_dtype"]

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
    TensorProto.BFLOAT16: torch.bfloat16,
}

_TO_ONNX = {dtype: element_type for element_type, dtype in _TO_TORCH.items()}


def torch_dtype(element_type: int) -> torch.dtype:
    """Returns the torch dtype of an ONNX element type.

    Raises:
        UnsupportedModelError: torch has no such dtype, or it is not implemented yet.
    """
    if element_type not in _TO_TORCH:
        known = TensorProto.DataType.values()
        name = TensorProto.DataType.Name(element_type) if element_type in known else str(element_type)
        raise UnsupportedModelError(f"element type {name} is not supported")
    return _TO_TORCH[element_type]


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
