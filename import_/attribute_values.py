"""The values that attributes may have which choose among a few: what else stands there is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.registry import Operator

__all__ = ["check_values"]

_ML, _MICROSOFT, _TRAINING = "ai.onnx.ml", "com.microsoft", "ai.onnx.preview.training"
_FLAG = (0, 1)
_DIRECTIONS = ("forward", "reverse", "bidirectional")
_REDUCTIONS = ("none", "add", "mul", "max", "min")
_LOSSES = ("none", "sum", "mean")
_SCORES = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
_KERNELS = ("LINEAR", "POLY", "RBF", "SIGMOID")
_PADDINGS = ("constant", "reflect", "edge", "wrap")
_COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple")
"""Of them `simple` is that of operator set 10, which named none."""

_VALUES: dict[tuple[str, str], dict[str, tuple[str | int, ...]]] = {
    ("", "Attention"): {"qk_matmul_output_mode": (0, 1, 2, 3)},
    ("", "BitShift"): {"direction": ("LEFT", "RIGHT")},
    ("", "Cast"): {"round_mode": ("up", "down", "nearest")},
    ("", "CastLike"): {"round_mode": ("up", "down", "nearest")},
    ("", "CausalConvWithState"): {"activation": ("none", "silu", "swish")},
    ("", "CumProd"): {"exclusive": _FLAG, "reverse": _FLAG},
    ("", "CumSum"): {"exclusive": _FLAG, "reverse": _FLAG},
    ("", "DepthToSpace"): {"mode": ("DCR", "CRD")},
    ("", "GRU"): {"direction": _DIRECTIONS, "layout": _FLAG},
    ("", "Gelu"): {"approximate": ("none", "tanh")},
    ("", "GridSample"): {
        "mode": ("linear", "nearest", "cubic"),
        "padding_mode": ("zeros", "border", "reflection"),
    },
    ("", "ImageDecoder"): {"pixel_format": ("RGB", "BGR", "Grayscale")},
    ("", "LSTM"): {"direction": _DIRECTIONS, "input_forget": _FLAG, "layout": _FLAG},
    ("", "LinearAttention"): {"update_rule": ("linear", "gated", "delta", "gated_delta")},
    ("", "LpNormalization"): {"p": (1, 2)},
    ("", "MaxPool"): {"storage_order": _FLAG},
    ("", "NegativeLogLikelihoodLoss"): {"reduction": _LOSSES},
    ("", "Pad"): {"mode": _PADDINGS},
    ("", "RNN"): {"direction": _DIRECTIONS, "layout": _FLAG},
    ("", "Resize"): {
        "coordinate_transformation_mode": _COORDINATES,
        "keep_aspect_ratio_policy": ("stretch", "not_larger", "not_smaller"),
        "mode": ("nearest", "linear", "cubic"),
        "nearest_mode": _NEAREST,
    },
    ("", "RoiAlign"): {
        "coordinate_transformation_mode": ("half_pixel", "output_half_pixel"),
        "mode": ("avg", "max"),
    },
    ("", "ScatterElements"): {"reduction": _REDUCTIONS},
    ("", "ScatterND"): {"reduction": _REDUCTIONS},
    ("", "SoftmaxCrossEntropyLoss"): {"reduction": _LOSSES},
    ("", "SpaceToDepth"): {"mode": ("DCR", "CRD")},
    ("", "TensorScatter"): {"mode": ("linear", "circular")},
    ("", "TfIdfVectorizer"): {"mode": ("TF", "IDF", "TFIDF")},
    (_ML, "LinearClassifier"): {"post_transform": _SCORES},
    (_ML, "LinearRegressor"): {"post_transform": _SCORES},
    (_ML, "Normalizer"): {"norm": ("MAX", "L1", "L2")},
    (_ML, "SVMClassifier"): {"kernel_type": _KERNELS, "post_transform": _SCORES},
    (_ML, "SVMRegressor"): {"kernel_type": _KERNELS, "post_transform": _SCORES},
    (_ML, "TreeEnsemble"): {"aggregate_function": (0, 1, 2, 3), "post_transform": (0, 1, 2, 3, 4)},
    (_ML, "TreeEnsembleClassifier"): {"post_transform": _SCORES},
    (_ML, "TreeEnsembleRegressor"): {
        "aggregate_function": ("SUM", "AVERAGE", "MIN", "MAX"),
        "post_transform": _SCORES,
    },
    (_MICROSOFT, "CDist"): {"metric": ("euclidean", "sqeuclidean")},
    (_MICROSOFT, "DynamicQuantizeLSTM"): {"direction": _DIRECTIONS, "input_forget": _FLAG},
    (_MICROSOFT, "GridSample"): {
        "mode": ("bilinear", "nearest", "bicubic"),
        "padding_mode": ("zeros", "border", "reflection"),
    },
    (_MICROSOFT, "Pad"): {"mode": _PADDINGS},
    (_TRAINING, "Momentum"): {"mode": ("standard", "nesterov")},
}
"""(Domain, operator) -> attribute -> its values in the newest form, after the specification's text."""

_EVERYWHERE: dict[str, tuple[str | int, ...]] = {
    "auto_pad": ("", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"),
}


def check_values(operator: Operator, attributes: Mapping[str, Any]) -> None:
    """Refuses an attribute with a value that is none of those it may have.

    Raises:
        InvalidModelError: the attribute, its value, and those that there are.
    """
    allowed = _VALUES.get((operator.domain, operator.op_type), _EVERYWHERE)
    for name, value in attributes.items():
        values = allowed.get(name) or _EVERYWHERE.get(name)
        if values is not None and value not in values:
            listed = ", ".join(map(repr, values))
            raise InvalidModelError(f"{operator}: its attribute {name!r} is {value!r}, none of {listed}")
