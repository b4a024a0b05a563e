"""Stateful modules: the quantizers and the operators with train/eval behaviour."""

from qonnx_torch.nn.normalization import BatchNormalization, BatchNormalizationChannelsLast, Dropout
from qonnx_torch.nn.quant import Quant
from qonnx_torch.nn.quantizer import Quantizer
from qonnx_torch.nn.quantizers import BipolarQuant, FloatQuant, MultiThreshold, Trunc, TruncV1

__all__ = [
    "BatchNormalization",
    "BatchNormalizationChannelsLast",
    "BipolarQuant",
    "Dropout",
    "FloatQuant",
    "MultiThreshold",
    "Quant",
    "Quantizer",
    "Trunc",
    "TruncV1",
]
