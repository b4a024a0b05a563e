"""Analyses and rewrites over GraphModules."""

from qonnx_torch.passes.cost import InferenceCost, inference_cost
from qonnx_torch.passes.shapes import ValueInfo, infer_shapes
from qonnx_torch.passes.training import (
    QuantizerTraining,
    TrainingConfig,
    configure_training,
    quantizer_parameters,
)

__all__ = [
    "InferenceCost",
    "QuantizerTraining",
    "TrainingConfig",
    "ValueInfo",
    "configure_training",
    "infer_shapes",
    "inference_cost",
    "quantizer_parameters",
]
