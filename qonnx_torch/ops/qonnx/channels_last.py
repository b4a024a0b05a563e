"""QONNX's channels-last operators: the ONNX ones on tensors (N, D1, ..., C).

Source: QONNX 1.0.0, domain qonnx.custom_op.channels_last. Attributes are those of the ONNX operators; pads,
strides and the like belong to the spatial dimensions. A Conv's weight is (M, k1, ..., C / group).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard.convolution import conv
from qonnx_torch.ops.standard.normalization import batch_normalization
from qonnx_torch.ops.standard.pool import max_pool
from qonnx_torch.registry import CHANNELS_LAST_DOMAIN

__all__ = [
    "batch_normalization_channels_last",
    "channels_last",
    "conv_channels_last",
    "max_pool_channels_last",
]


def channels_last(function: Callable[..., Any], name: str, module: str, moved: int = 1) -> Callable[..., Any]:
    """Returns an operator function on channels-last data: its first `moved` inputs and first output move.

    It has no optional outputs, which would count in the other layout. Generated code finds it by its name in
    its module.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        first = [a.movedim(-1, 1) for a in args[:moved]]
        result = function(*first, *args[moved:], **kwargs)
        if isinstance(result, tuple):
            return (result[0].movedim(1, -1), *result[1:])
        return result.movedim(1, -1)

    signature = inspect.signature(function)
    parameters = [p for n, p in signature.parameters.items() if n != "outputs"]
    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapper.__name__ = wrapper.__qualname__ = name
    wrapper.__module__ = module
    return wrapper


conv_channels_last = operator("Conv", domain=CHANNELS_LAST_DOMAIN)(
    channels_last(conv, "conv_channels_last", __name__, moved=2)
)
max_pool_channels_last = operator("MaxPool", domain=CHANNELS_LAST_DOMAIN)(
    channels_last(max_pool, "max_pool_channels_last", __name__)
)
batch_normalization_channels_last = operator(
    "BatchNormalization", domain=CHANNELS_LAST_DOMAIN, python_only=("update_statistics",)
)(channels_last(batch_normalization, "batch_normalization_channels_last", __name__))
