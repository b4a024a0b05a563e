"""What some operators are called, or mean, in the operator set that is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from qonnx_torch.errors import ExportError
from qonnx_torch.ops.standard.normalization import group_normalization_per_group
from qonnx_torch.registry import Operator

__all__ = ["attributes_at", "name_at"]

_Attributes = dict[str, Any]
_Rule = Callable[[Operator, _Attributes, int, "np.ndarray[Any, Any] | None"], _Attributes]


_RENAMED = {"Scatter": (11, "ScatterElements")}
"""Operator -> the ai.onnx operator set since which it has another name, and that name."""


def name_at(operator: Operator, opset: int) -> str:
    """Returns what an operator is called in an ai.onnx operator set."""
    since, name = _RENAMED.get(operator.op_type, (opset + 1, operator.op_type))
    return name if not operator.domain and opset >= since else operator.op_type


def attributes_at(
    operator: Operator,
    attributes: Mapping[str, Any],
    opset: int,
    inputs: list[str],
    constants: Mapping[str, TensorProto],
) -> dict[str, Any]:
    """Returns an operator's attributes as an ai.onnx operator set spells them.

    Args:
        operator: the operator, in its newest form.
        attributes: those that are written.
        opset: the operator set.
        inputs: the node's value names.
        constants: initializers by name.

    Raises:
        ExportError: that operator set cannot say it.
    """
    rule = _RULES.get(operator.op_type)
    if rule is None:
        return dict(attributes)
    third = constants.get(inputs[2]) if len(inputs) > 2 else None
    return rule(operator, dict(attributes), opset, None if third is None else numpy_helper.to_array(third))


def _grid_sample(
    operator: Operator, attributes: _Attributes, opset: int, third: np.ndarray[Any, Any] | None
) -> _Attributes:
    if opset < 20:
        mode = attributes.get("mode", "linear")
        attributes["mode"] = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return attributes


def _roi_align(
    operator: Operator, attributes: _Attributes, opset: int, third: np.ndarray[Any, Any] | None
) -> _Attributes:
    if opset < 16 and attributes.pop("coordinate_transformation_mode", "half_pixel") != "output_half_pixel":
        raise ExportError(f"RoiAlign has no half_pixel in opset {opset}; ask for 16 or newer")
    return attributes


def _group_normalization(
    operator: Operator, attributes: _Attributes, opset: int, third: np.ndarray[Any, Any] | None
) -> _Attributes:
    per_group = operator.target is group_normalization_per_group
    if per_group == (opset >= 21):
        raise ExportError(
            f"GroupNormalization has a scale per {'channel' if per_group else 'group'} in opset {opset}; "
            f"ask for {'18 to 20' if per_group else '21 or newer'}"
        )
    return attributes


def _resize(
    operator: Operator, attributes: _Attributes, opset: int, third: np.ndarray[Any, Any] | None
) -> _Attributes:
    if attributes.get("nearest_mode") == "simple":  # of opset 10, see qonnx_torch.ops.standard.resize
        if third is not None and (third >= 1).all():
            attributes["nearest_mode"] = "floor"
        elif third is not None and (third <= 1).all():
            attributes["nearest_mode"] = "ceil"
        elif attributes.get("mode", "nearest") == "nearest":
            raise ExportError(
                f"Resize of opset 10 rounds up where it shrinks and down where it grows, which opset {opset} "
                "cannot say of one node; resize the axes one after the other"
            )
        else:
            del attributes["nearest_mode"]
    return attributes


_RULES: dict[str, _Rule] = {
    "GridSample": _grid_sample,
    "RoiAlign": _roi_align,
    "GroupNormalization": _group_normalization,
    "Resize": _resize,
}
