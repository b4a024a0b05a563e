"""Analyses and rewrites over GraphModules."""

from qonnx_torch.passes.calibration import calibrate, calibrate_quantizer, calibrate_weights
from qonnx_torch.passes.cost import InferenceCost, inference_cost
from qonnx_torch.passes.dynamic import dynamic_shapes
from qonnx_torch.passes.folding import BatchNormalizationFolding, fold_batch_normalization
from qonnx_torch.passes.inference import fold_for_inference
from qonnx_torch.passes.quantization import (
    FloatQuantizerConfig,
    QuantizationConfig,
    QuantizationRule,
    QuantizerConfig,
    quantize,
    quantize_parameters,
)
from qonnx_torch.passes.shapes import ValueInfo, infer_shapes
from qonnx_torch.passes.switches import (
    disable_quantization,
    enable_quantization,
    freeze_batch_normalization,
    freeze_quantizers,
    unfreeze_batch_normalization,
    unfreeze_quantizers,
)
from qonnx_torch.passes.training import (
    QuantizerTraining,
    TrainingConfig,
    configure_training,
    parameter_groups,
    quantizer_parameters,
)

__all__ = [
    "BatchNormalizationFolding",
    "FloatQuantizerConfig",
    "InferenceCost",
    "QuantizationConfig",
    "QuantizationRule",
    "QuantizerConfig",
    "QuantizerTraining",
    "TrainingConfig",
    "ValueInfo",
    "calibrate",
    "calibrate_quantizer",
    "calibrate_weights",
    "configure_training",
    "disable_quantization",
    "dynamic_shapes",
    "enable_quantization",
    "fold_batch_normalization",
    "fold_for_inference",
    "freeze_batch_normalization",
    "freeze_quantizers",
    "infer_shapes",
    "inference_cost",
    "parameter_groups",
    "quantize",
    "quantize_parameters",
    "quantizer_parameters",
    "unfreeze_batch_normalization",
    "unfreeze_quantizers",
]
