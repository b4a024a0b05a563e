"""Analyses and rewrites over GraphModules."""

from qonnx_torch.passes.shapes import ValueInfo, infer_shapes

__all__ = ["ValueInfo", "infer_shapes"]
