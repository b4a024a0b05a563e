"""What every operator means: pure functions on tensors with ONNX signatures, one folder per domain."""

from qonnx_torch.ops import contrib, ml, qonnx, quantizers, standard
from qonnx_torch.ops._operator import as_python, as_tensor, is_shape_value, operator
from qonnx_torch.ops.extension import register_op
from qonnx_torch.ops.quantizers import (
    GRADIENTS,
    bipolar_quant,
    exact_options,
    float_quant,
    multi_threshold,
    quant,
    quantize_dequantize_linear,
    resolve_rounding_mode,
    trunc,
    trunc_v1,
)

__all__ = [
    "GRADIENTS",
    "as_python",
    "as_tensor",
    "bipolar_quant",
    "contrib",
    "exact_options",
    "float_quant",
    "is_shape_value",
    "ml",
    "multi_threshold",
    "operator",
    "qonnx",
    "quant",
    "quantize_dequantize_linear",
    "quantizers",
    "register_op",
    "resolve_rounding_mode",
    "standard",
    "trunc",
    "trunc_v1",
]
