"""QONNX's quantizers: the arithmetic, its gradients, and the operators that torch sees."""

from qonnx_torch.ops.quantizers.compilation import exact_options
from qonnx_torch.ops.quantizers.gradients import GRADIENTS
from qonnx_torch.ops.quantizers.operators import (
    bipolar_quant,
    float_quant,
    multi_threshold,
    quant,
    trunc,
    trunc_v1,
)
from qonnx_torch.ops.quantizers.qdq import quantize_dequantize_linear
from qonnx_torch.ops.quantizers.rounding import resolve_rounding_mode

__all__ = [
    "GRADIENTS",
    "bipolar_quant",
    "exact_options",
    "float_quant",
    "multi_threshold",
    "quant",
    "quantize_dequantize_linear",
    "resolve_rounding_mode",
    "trunc",
    "trunc_v1",
]
