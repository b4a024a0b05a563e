"""Analyses and rewrites over GraphModules."""

from qonnx_torch.passes.cost import InferenceCost, inference_cost
from qonnx_torch.passes.shapes import ValueInfo, infer_shapes

__all__ = ["InferenceCost", "ValueInfo", "infer_shapes", "inference_cost"]
