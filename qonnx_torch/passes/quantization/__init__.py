"""Quantizers for a float model: where they go, what they are, and the values they start from."""

from qonnx_torch.passes.quantization.config import (
    FloatQuantizerConfig,
    QuantizationConfig,
    QuantizationRule,
    QuantizerConfig,
)
from qonnx_torch.passes.quantization.fixed_point import quantize_parameters
from qonnx_torch.passes.quantization.quantizing import quantize

__all__ = [
    "FloatQuantizerConfig",
    "QuantizationConfig",
    "QuantizationRule",
    "QuantizerConfig",
    "quantize",
    "quantize_parameters",
]
