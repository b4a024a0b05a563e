"""QONNX's operators that are no quantizers, and those of its channels-last domain."""

from qonnx_torch.ops.qonnx import (
    channels_last,
    columns,
    layers,
    quant_lstm,
)

__all__ = [
    "channels_last",
    "columns",
    "layers",
    "quant_lstm",
]
