"""Torch tensors as TensorProtos."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from qonnx_torch.dtypes import onnx_element_type

__all__ = ["constant_proto", "fill", "tensor_proto"]


def tensor_proto(tensor: torch.Tensor, name: str) -> TensorProto:
    """Returns a tensor as a TensorProto with raw data."""
    proto = TensorProto(name=name, data_type=onnx_element_type(tensor.dtype), dims=list(tensor.shape))
    proto.raw_data = _bytes(tensor)
    return proto


def fill(proto: TensorProto, tensor: torch.Tensor, encoding: str) -> None:
    """Writes a tensor into a TensorProto that has only its header, in the field that the source file used.

    Where the shape or type has changed, or the field does not suit, the data are written as raw bytes.
    """
    element_type = onnx_element_type(tensor.dtype)
    same = element_type == proto.data_type and list(proto.dims) == list(tensor.shape)
    if encoding != "raw_data" and same and tensor.dtype is not torch.bfloat16:
        typed = helper.make_tensor(
            proto.name, element_type, list(tensor.shape), tensor.detach().cpu().numpy().reshape(-1)
        )
        if len(getattr(typed, encoding)) == tensor.numel():
            getattr(proto, encoding).extend(getattr(typed, encoding))
            return
    proto.data_type = element_type
    del proto.dims[:]
    proto.dims.extend(tensor.shape)
    proto.raw_data = _bytes(tensor)


def _bytes(tensor: torch.Tensor) -> bytes:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.int16)
    array: Any = tensor.numpy()
    return bytes(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def constant_proto(value: Any, name: str, *, like: torch.dtype | None = None) -> TensorProto:
    """Returns Python numbers as a TensorProto: int64, bool, or the given floating dtype (float32)."""
    first = value[0] if isinstance(value, (tuple, list)) and value else value
    if isinstance(first, bool):
        array = np.asarray(value, dtype=np.bool_)
    elif isinstance(first, float) or (like is not None and like.is_floating_point):
        tensor = torch.tensor(
            value, dtype=like if like is not None and like.is_floating_point else torch.float32
        )
        return tensor_proto(tensor, name)
    else:
        array = np.asarray(value, dtype=np.int64)
    return numpy_helper.from_array(array, name)
