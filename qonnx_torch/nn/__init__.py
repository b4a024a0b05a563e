"""Stateful modules: the quantizers and the operators with train/eval behaviour."""

from qonnx_torch.nn.control_flow import If, Loop, Scan, Scan8, SequenceMap
from qonnx_torch.nn.flex_attention import FlexAttention
from qonnx_torch.nn.learned import (
    LabelEncoder,
    LearnedOperator,
    LinearClassifier,
    LinearRegressor,
    OneHotEncoder,
    SVMClassifier,
    SVMRegressor,
    TfIdfVectorizer,
    TreeEnsemble,
    TreeEnsembleClassifier,
    TreeEnsembleRegressor,
)
from qonnx_torch.nn.normalization import BatchNormalization, BatchNormalizationChannelsLast, Dropout
from qonnx_torch.nn.qdq import QuantizeDequantizeLinear
from qonnx_torch.nn.quant import Quant
from qonnx_torch.nn.quantizer import Quantizer
from qonnx_torch.nn.quantizers import BipolarQuant, FloatQuant, MultiThreshold, Trunc, TruncV1
from qonnx_torch.nn.subgraphs import SubgraphOperator

__all__ = [
    "BatchNormalization",
    "BatchNormalizationChannelsLast",
    "BipolarQuant",
    "Dropout",
    "FlexAttention",
    "FloatQuant",
    "If",
    "LabelEncoder",
    "LearnedOperator",
    "LinearClassifier",
    "LinearRegressor",
    "Loop",
    "MultiThreshold",
    "OneHotEncoder",
    "Quant",
    "QuantizeDequantizeLinear",
    "Quantizer",
    "SVMClassifier",
    "SVMRegressor",
    "Scan",
    "Scan8",
    "SequenceMap",
    "SubgraphOperator",
    "TfIdfVectorizer",
    "TreeEnsemble",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
    "Trunc",
    "TruncV1",
]
