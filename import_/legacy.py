"""Older forms of ONNX operators, rewritten into the newest form that `qonnx_torch.ops` implements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Aligned", "Literal", "NodeForm", "is_rewritten", "modernize"]


@dataclass(frozen=True, slots=True)
class Literal:
    """An input given as a Python value because an older operator had it as an attribute."""

    value: Any


@dataclass(frozen=True, slots=True)
class Aligned:
    """An input whose dimensions an older operator laid beside another's, from an axis on."""

    value: str
    other: str
    axis: int


@dataclass(slots=True)
class NodeForm:
    """A node's inputs (value names, None where absent, or literals) and attributes, open to rewriting."""

    op_type: str
    inputs: list[str | Literal | Aligned | None]
    attributes: dict[str, Any]
    outputs: int

    def pop(self, name: str, default: Any = None) -> Any:
        """Removes and returns an attribute."""
        return self.attributes.pop(name, default)

    def append(self, value: Any, position: int) -> None:
        """Puts a literal at an input position, leaving those before it absent."""
        while len(self.inputs) < position:
            self.inputs.append(None)
        if value is not None:
            self.inputs.append(Literal(value))


_LARGEST_FLOAT = 3.4028234663852886e38
"""The largest float32."""

Rewrite = Callable[[NodeForm], None]
_REWRITES: dict[str, list[tuple[int, Rewrite]]] = {}


def _below(version: int, *op_types: str) -> Callable[[Rewrite], Rewrite]:
    """Registers how nodes of these types from operator sets below `version` are rewritten."""

    def register(rewrite: Rewrite) -> Rewrite:
        for op_type in op_types:
            _REWRITES.setdefault(op_type, []).append((version, rewrite))
        return rewrite

    return register


def modernize(form: NodeForm, version: int) -> None:
    """Rewrites a node of the ai.onnx operator set `version` into its newest form, in place.

    Raises:
        UnsupportedModelError: the old behaviour has no newest form.
    """
    if version < 6:
        form.pop("consumed_inputs")
    for limit, rewrite in _REWRITES.get(form.op_type, ()):
        if version < limit:
            rewrite(form)


def is_rewritten(op_type: str, version: int, other: int) -> bool:
    """Returns whether nodes of a type are rewritten otherwise in one ai.onnx operator set than in another."""
    older, newer = sorted((version, other))
    return any(older < limit <= newer for limit, _ in _REWRITES.get(op_type, ()))


@_below(13, "Squeeze", "Unsqueeze", "ReduceSum")
@_below(18, "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
@_below(18, "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")
def _axes_become_an_input(form: NodeForm) -> None:
    if len(form.inputs) == 1:
        form.append(form.pop("axes"), 1)


@_below(13, "Split")
def _split_becomes_an_input(form: NodeForm) -> None:
    if len(form.inputs) == 1:
        form.append(form.pop("split"), 1)


@_below(18, "Split")
def _equal_parts_are_counted(form: NodeForm) -> None:
    if len(form.inputs) == 1:
        form.attributes["num_outputs"] = form.outputs


@_below(11, "Clip")
def _limits_become_inputs(form: NodeForm) -> None:
    form.append(form.pop("min", -_LARGEST_FLOAT), 1)
    form.append(form.pop("max", _LARGEST_FLOAT), 2)


@_below(11, "Pad")
def _pads_become_inputs(form: NodeForm) -> None:
    if len(form.inputs) == 1:
        form.append(form.pop("pads", form.pop("paddings")), 1)
        form.append(form.pop("value"), 2)


@_below(10, "Slice")
def _bounds_become_inputs(form: NodeForm) -> None:
    for position, name in enumerate(("starts", "ends", "axes"), start=1):
        form.append(form.pop(name), position)


@_below(10, "TopK")
def _k_becomes_an_input(form: NodeForm) -> None:
    form.append((form.pop("k"),), 1)


@_below(5, "Reshape")
def _shape_becomes_an_input(form: NodeForm) -> None:
    form.append(form.pop("shape"), 1)


@_below(12, "Dropout")
def _ratio_becomes_an_input(form: NodeForm) -> None:
    form.pop("is_test")
    form.append(form.pop("ratio", 0.5), 1)


@_below(14, "BatchNormalization")
def _old_batch_normalization(form: NodeForm) -> None:
    # Without spatial each feature is normalized for itself, as the shape of scale says.
    form.pop("spatial")
    # Training has further outputs; version 6 says so besides. What says neither only infers, as usual.
    test = form.pop("is_test")
    if not test and (test == 0 or form.outputs > 1):
        form.attributes |= {"training_mode": 1, "saved_statistics": 1}


@_below(7, "Gemm")
def _gemm_always_broadcasts(form: NodeForm) -> None:
    form.pop("broadcast")


@_below(7, "Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")
def _explicit_broadcast(form: NodeForm) -> None:
    broadcast, axis = form.pop("broadcast"), form.pop("axis")
    if broadcast and axis is not None and len(form.inputs) == 2:
        form.inputs[1] = Aligned(str(form.inputs[1]), str(form.inputs[0]), axis)


@_below(4, "Concat")
def _concat_default_axis(form: NodeForm) -> None:
    form.attributes.setdefault("axis", 1)


@_below(10, "Upsample")
def _upsample(form: NodeForm) -> None:
    form.op_type = "Resize"
    if len(form.inputs) == 1:
        scales = form.pop("scales")
        if scales is None:  # version 1, which had one attribute per image dimension
            scales = (1.0, 1.0, form.pop("height_scale", 1.0), form.pop("width_scale", 1.0))
        form.inputs += [None, Literal(tuple(scales))]
    else:
        form.inputs = [form.inputs[0], None, form.inputs[1]]
    _asymmetric(form)


@_below(11, "Resize")
def _resize_10(form: NodeForm) -> None:
    form.inputs = [form.inputs[0], None, form.inputs[1]]
    _asymmetric(form)
    form.attributes["nearest_mode"] = "simple"


@_below(20, "GridSample")
def _grid_sample_modes(form: NodeForm) -> None:
    mode = form.attributes.get("mode", "bilinear")
    form.attributes["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)


@_below(16, "RoiAlign")
def _roi_align_10(form: NodeForm) -> None:
    form.attributes["coordinate_transformation_mode"] = "output_half_pixel"


def _asymmetric(form: NodeForm) -> None:
    form.attributes["coordinate_transformation_mode"] = "asymmetric"
    form.attributes["nearest_mode"] = "floor"
    if form.attributes.get("mode") == "bilinear":
        form.attributes["mode"] = "linear"


@_below(7, "RNN", "GRU", "LSTM")
def _recurrent_outputs_are_optional(form: NodeForm) -> None:
    form.pop("output_sequence")


@_below(20, "DFT")
def _dft_axis_becomes_an_input(form: NodeForm) -> None:
    form.append(form.pop("axis", 1), 2)
