"""Torch tensors as TensorProtos."""

from __future__ import annotations

from typing import Any

import torch
from onnx import TensorProto, helper

from qonnx_torch.dtypes import onnx_element_type
from qonnx_torch.errors import ExportError

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
    """Returns Python numbers as a TensorProto of the given dtype; without one int64, bool or float32.

    Raises:
        ExportError: an integer dtype that cannot hold the numbers.
    """
    first = value[0] if isinstance(value, (tuple, list)) and value else value
    if like is None:
        like = (
            torch.bool
            if isinstance(first, bool)
            else torch.float32
            if isinstance(first, float)
            else torch.int64
        )
    try:
        tensor = torch.tensor(value, dtype=like)
        exact = like.is_floating_point or bool((tensor == torch.tensor(value)).all())
    except (RuntimeError, OverflowError, TypeError):
        exact = False
    if not exact:
        raise ExportError(f"the constant {value!r} is no {like} value, which the tensor beside it is")
    return tensor_proto(tensor, name)
