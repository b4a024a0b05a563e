"""Parameters of a module, rounded onto a fixed-point grid."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from onnx import ModelProto
from torch import Tensor, fx

from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.names import onnx_name
from qonnx_torch.ops.quantizers.rounding import ROUNDING_MODES, resolve_rounding_mode
from qonnx_torch.passes.tensors import named_tensors
from qonnx_torch.provenance import provenance_of, replace_skeleton
from qonnx_torch.registry import REGISTRY

__all__ = ["quantize_parameters"]

_DATATYPE = "finn_datatype"  # the key under which qonnx, too, keeps a tensor's datatype


@dataclass(frozen=True, slots=True)
class _FixedPoint:
    """FIXED<bits,integer_bits>: k * 2^(integer_bits - bits), k a signed integer of `bits` bits."""

    bits: int
    integer_bits: int

    @property
    def step(self) -> float:
        return 2.0 ** (self.integer_bits - self.bits)

    @property
    def ends(self) -> tuple[float, float]:
        half = 2.0 ** (self.bits - 1)
        return -half * self.step, (half - 1) * self.step


def _parse(datatype: str) -> _FixedPoint:
    found = re.fullmatch(r"FIXED<(\d+),(\d+)>", datatype.replace(" ", ""))
    if found is None or not int(found[2]) < int(found[1]):
        raise QonnxTorchError(
            f"{datatype!r} is no fixed-point type: FIXED<bits,integer bits>, with fewer of those"
        )
    return _FixedPoint(int(found[1]), int(found[2]))


def quantize_parameters(
    module: fx.GraphModule,
    datatype: str | Mapping[str, str],
    *,
    op_types: Iterable[str] = ("Add", "Mul"),
    names: Iterable[str] | None = None,
    rounding_mode: str = "ROUND",
) -> dict[str, float]:
    """Rounds parameters onto a fixed-point grid, in place, and returns what that changes.

    value = clip(round(value / step) * step, low, high) with step = 2^(integer bits - bits). The parameters
    stay float tensors and go on training, off the grid then; for training on a grid use `quantize`. An export
    declares their datatype (`quantization_annotation`, key `finn_datatype`).

    Args:
        module: an imported or traced module.
        datatype: FIXED<bits,integer bits> for all that are chosen, or by name: a mapping from the ONNX names
            of tensors (which are the `state_dict` keys) or patterns of them (`fnmatch`) to types. The last
            pattern that fits counts.
        op_types: operators whose constant float inputs are chosen; not with a mapping or `names`.
        names: ONNX names of the tensors, or patterns of them, instead of `op_types`.
        rounding_mode: as in `qonnx_torch.nn.Quant`.

    Returns:
        ONNX name -> the largest absolute change of an element. Values outside the range are clipped, with a
        warning.

    Raises:
        QonnxTorchError: no such type, or a name or operator type that fits nothing.

    Source: qonnx 1.0.0, FixedPointQuantizeParams and FixedPointQuantizeParamsFromDict.
    """
    rounded = ROUNDING_MODES[resolve_rounding_mode(rounding_mode)]
    tensors = _tensors(module)
    if isinstance(datatype, Mapping):
        chosen = _by_name(tensors, datatype)
    elif names is not None:
        chosen = _by_name(tensors, dict.fromkeys(names, datatype))
    else:
        chosen = dict.fromkeys(_by_type(module, tensors, tuple(op_types)), datatype)
    types = {name: _parse(text) for name, text in chosen.items()}
    errors = {}
    for name, kind in types.items():
        tensor = tensors[name].detach()
        low, high = kind.ends
        wanted = rounded(tensor.to(torch.float32) / kind.step) * kind.step
        if bool((wanted < low).any() | (wanted > high).any()):
            ends = f"[{wanted.min().item():g}, {wanted.max().item():g}]"
            message = f"{name}: {ends} does not fit into {chosen[name]} [{low:g}, {high:g}] and is clipped"
            warnings.warn(message, UserWarning, stacklevel=2)
            wanted = wanted.clamp(low, high)
        errors[name] = float((tensor - wanted).abs().max())
        tensor.copy_(wanted)
    _annotate(module, {name: f"FIXED<{kind.bits},{kind.integer_bits}>" for name, kind in types.items()})
    return errors


def _annotate(module: fx.GraphModule, datatypes: Mapping[str, str]) -> None:
    """Writes the datatypes into what the file says of its tensors, as qonnx and FINN read them."""
    provenance = provenance_of(module)
    if provenance is None:
        return
    model = ModelProto.FromString(provenance.skeleton)
    annotations = {a.tensor_name: a for a in model.graph.quantization_annotation}
    for name, datatype in datatypes.items():
        annotation = annotations.get(name) or model.graph.quantization_annotation.add(tensor_name=name)
        entries = {e.key: e for e in annotation.quant_parameter_tensor_names}
        entry = entries.get(_DATATYPE) or annotation.quant_parameter_tensor_names.add(key=_DATATYPE)
        entry.value = datatype
    replace_skeleton(module, model.SerializeToString())


def _tensors(module: fx.GraphModule) -> dict[str, Tensor]:
    """Returns the float tensors that the graph reads, by ONNX name."""
    provenance = provenance_of(module)
    names = {p: t.name for t in provenance.tensors for p in t.paths} if provenance else {}
    state = named_tensors(module)
    paths = [str(n.target) for n in module.graph.nodes if n.op == "get_attr"]
    found: dict[str, Tensor] = {names.get(p, onnx_name(p)): state[p] for p in paths}
    return {name: t for name, t in found.items() if t.is_floating_point() and t.numel()}


def _by_name(tensors: Mapping[str, Tensor], types: Mapping[str, str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for pattern, datatype in types.items():
        fitting = [name for name in tensors if name == pattern or fnmatchcase(name, pattern)]
        if not fitting:
            raise QonnxTorchError(f"no float parameter is called {pattern!r}; there are {_shown(tensors)}")
        chosen.update(dict.fromkeys(fitting, datatype))
    return chosen


def _by_type(module: fx.GraphModule, tensors: Mapping[str, Tensor], op_types: tuple[str, ...]) -> list[str]:
    known = {operator.op_type for operator in REGISTRY}
    unknown = [t for t in op_types if t not in known]
    if unknown:
        raise QonnxTorchError(f"operator type {unknown[0]!r} does not exist; they are spelled as in ONNX")
    ids = {id(t): name for name, t in tensors.items()}
    state = named_tensors(module)
    chosen = []
    for node in module.graph.nodes:
        target = type(module.get_submodule(str(node.target))) if node.op == "call_module" else node.target
        operator = REGISTRY.of_target(target)
        if operator is not None and operator.op_type in op_types:
            paths = [str(i.target) for i in node.all_input_nodes if i.op == "get_attr"]
            chosen += [ids[id(state[p])] for p in paths if id(state[p]) in ids]
    return list(dict.fromkeys(chosen))


def _shown(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")
