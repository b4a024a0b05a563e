"""Operators of the domain com.microsoft that onnxruntime's optimizer and its model builders write."""

from qonnx_torch.ops.contrib import (
    activation,
    attention,
    block_quantized,
    grouped_attention,
    indexing,
    normalization,
    products,
    quantized,
    quantized_layers,
    quantized_pools,
    rotary,
)

__all__ = [
    "activation",
    "attention",
    "block_quantized",
    "grouped_attention",
    "indexing",
    "normalization",
    "products",
    "quantized",
    "quantized_layers",
    "quantized_pools",
    "rotary",
]
