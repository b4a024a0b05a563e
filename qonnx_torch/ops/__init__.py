"""What every operator means: pure functions on tensors with ONNX signatures."""

from qonnx_torch.ops import (
    activation,
    channels_last,
    elementwise,
    linear,
    normalization,
    pool,
    quantize_linear,
    random,
    reduction,
    resize,
    shape,
)
from qonnx_torch.ops._operator import as_tensor, is_shape_value, operator
from qonnx_torch.ops.compilation import exact_options
from qonnx_torch.ops.gradients import GRADIENTS
from qonnx_torch.ops.quantizers import bipolar_quant, float_quant, multi_threshold, quant, trunc, trunc_v1
from qonnx_torch.ops.rounding import resolve_rounding_mode

__all__ = [
    "GRADIENTS",
    "activation",
    "as_tensor",
    "bipolar_quant",
    "channels_last",
    "elementwise",
    "exact_options",
    "float_quant",
    "is_shape_value",
    "linear",
    "multi_threshold",
    "normalization",
    "operator",
    "pool",
    "quant",
    "quantize_linear",
    "random",
    "reduction",
    "resize",
    "resolve_rounding_mode",
    "shape",
    "trunc",
    "trunc_v1",
]
