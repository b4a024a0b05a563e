"""Calibration: scales and zero points from data, before training or instead of it."""

from qonnx_torch.passes.calibration.calibrating import calibrate, calibrate_weights, observe
from qonnx_torch.passes.calibration.rules import METHODS, calibrate_quantizer, make_observer, solution

__all__ = [
    "METHODS",
    "calibrate",
    "calibrate_quantizer",
    "calibrate_weights",
    "make_observer",
    "observe",
    "solution",
]
