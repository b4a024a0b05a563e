"""QONNX's channels-last operators: the ONNX ones on tensors (N, D1, ..., C).

Source: QONNX 1.0.0, domain qonnx.custom_op.channels_last. Attributes are those of the ONNX operators; pads,
strides and the like belong to the spatial dimensions. A Conv's weight is (M, k1, ..., C / group).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.linear import conv
from qonnx_torch.ops.normalization import batch_normalization
from qonnx_torch.ops.pool import max_pool
from qonnx_torch.registry import CHANNELS_LAST_DOMAIN

__all__ = ["batch_normalization_channels_last", "conv_channels_last", "max_pool_channels_last"]


def _channels_last(function: Callable[..., Any], moved: int = 1) -> Callable[..., Any]:
    """Returns an operator function on channels-last data: its first `moved` inputs and first output move."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        first = [a.movedim(-1, 1) for a in args[:moved]]
        result = function(*first, *args[moved:], **kwargs)
        if isinstance(result, tuple):
            return (result[0].movedim(1, -1), *result[1:])
        return result.movedim(1, -1)

    wrapper.__name__ = wrapper.__qualname__ = f"{function.__name__}_channels_last"
    wrapper.__module__ = __name__  # where generated code finds it
    return wrapper


conv_channels_last = operator("Conv", domain=CHANNELS_LAST_DOMAIN)(_channels_last(conv, moved=2))
max_pool_channels_last = operator("MaxPool", domain=CHANNELS_LAST_DOMAIN)(_channels_last(max_pool))
batch_normalization_channels_last = operator(
    "BatchNormalization", domain=CHANNELS_LAST_DOMAIN, python_only=("update_statistics",)
)(_channels_last(batch_normalization))
