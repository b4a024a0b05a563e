"""Facts about a model file that need no import: `qonnx-torch info` prints them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from onnx import (
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    external_data_helper,
    helper,
    numpy_helper,
)

import qonnx_torch.nn  # noqa: F401 (fills the registry)
from qonnx_torch.errors import InvalidModelError
from qonnx_torch.graphs import is_constant
from qonnx_torch.import_.dialects import OperatorSets
from qonnx_torch.import_.reading import read_model
from qonnx_torch.ops import resolve_rounding_mode
from qonnx_torch.registry import QONNX_DOMAIN, REGISTRY, canonical_domain

__all__ = ["inspect_model"]

_QUANTIZERS = ("Quant", "IntQuant", "BipolarQuant", "Trunc", "FloatQuant", "MultiThreshold")
_BITS_AT = {"Quant": 3, "IntQuant": 3}
_DEFAULT_MODE = {"Quant": "ROUND", "IntQuant": "ROUND", "Trunc": "FLOOR", "FloatQuant": "ROUND"}


def inspect_model(path: Path) -> dict[str, Any]:
    """Returns what is in a model file, as plain values that JSON can hold.

    Keys: file, ir_version, producer, opsets, inputs, outputs, nodes (operator -> count), node_count,
    functions, quantizers (grouped, with a count), parameters (tensors, elements, bytes), external_files,
    unsupported.

    Raises:
        InvalidModelError: the file cannot be read.
    """
    model = read_model(path)
    sets = OperatorSets(model)
    constants = {t.name: t for t in model.graph.initializer}
    parameters = list(constants.values())
    for node in model.graph.node:
        if is_constant(node) and len(node.attribute) == 1 and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    nodes = Counter(f"{sets.domain(n) or 'ai.onnx'}::{n.op_type}" for n in model.graph.node)
    initializers = {t.name for t in parameters}
    return {
        "file": str(path),
        "ir_version": model.ir_version,
        "producer": " ".join(filter(None, (model.producer_name, model.producer_version))),
        "opsets": _opsets(model, sets),
        "inputs": [_value(v) for v in model.graph.input if v.name not in initializers],
        "outputs": [_value(v) for v in model.graph.output],
        "node_count": len(model.graph.node),
        "nodes": dict(sorted(nodes.items(), key=lambda item: (-item[1], item[0]))),
        "functions": len(model.functions),
        "quantizers": _quantizers(model, sets, constants),
        "parameters": {
            "tensors": len(parameters),
            "count": sum(_elements(t) for t in parameters),
            "bytes": sum(_bytes(t) for t in parameters),
        },
        "external_files": _external_files(path),
        "unsupported": _unsupported(model, sets),
    }


def _opsets(model: ModelProto, sets: OperatorSets) -> list[dict[str, Any]]:
    rows = [
        {"domain": o.domain, "version": o.version, "canonical": canonical_domain(o.domain), "imported": True}
        for o in model.opset_import
    ]
    imported = {row["canonical"] for row in rows}
    for node in model.graph.node:
        domain = sets.domain(node)
        if domain not in imported:
            imported.add(domain)
            version = sets.versions.get(domain, 1)
            rows.append({"domain": node.domain, "version": version, "canonical": domain, "imported": False})
    return rows


def _value(value: ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = [d.dim_value if d.dim_value > 0 else d.dim_param or None for d in tensor.shape.dim]
    known = tensor.elem_type in TensorProto.DataType.values() and tensor.elem_type
    name = TensorProto.DataType.Name(tensor.elem_type).lower() if known else "unknown"
    return {"name": value.name, "type": name, "shape": shape}


def _elements(tensor: TensorProto) -> int:
    return int(np.prod(list(tensor.dims), dtype=np.int64))


def _bytes(tensor: TensorProto) -> int:
    try:
        return _elements(tensor) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        return len(tensor.raw_data)


def _external_files(path: Path) -> list[str]:
    raw = ModelProto.FromString(path.read_bytes())
    return sorted(
        {
            external_data_helper.ExternalDataInfo(t).location
            for t in raw.graph.initializer
            if external_data_helper.uses_external_data(t)
        }
    )


def _unsupported(model: ModelProto, sets: OperatorSets) -> list[dict[str, Any]]:
    rows = []
    for node in model.graph.node:
        domain = sets.domain(node)
        try:
            version = sets.version(node)
        except InvalidModelError:
            version = 0
        upsample = domain == "" and node.op_type in ("Upsample", "Constant")
        if version == 0 or (REGISTRY.find(domain, node.op_type, version) is None and not upsample):
            name = node.name or next(iter(node.output), "")
            rows.append({"node": name, "domain": domain, "op_type": node.op_type, "version": version})
    return rows


# -- quantizers ------------------------------------------------------------------------------------


def _quantizers(
    model: ModelProto, sets: OperatorSets, constants: dict[str, TensorProto]
) -> list[dict[str, Any]]:
    groups: Counter[tuple[tuple[str, Any], ...]] = Counter()
    weights = constants | {
        node.output[0]: constants[node.input[0]]
        for node in model.graph.node
        if node.op_type == "Clip" and node.input[0] in constants
    }
    for node in model.graph.node:
        domain = sets.domain(node)
        if domain == QONNX_DOMAIN and node.op_type in _QUANTIZERS:
            groups[tuple(_quantizer(node, constants).items())] += 1
        elif domain == "" and node.op_type == "QuantizeLinear":
            groups[tuple(_quantize_linear(node, constants).items())] += 1
        elif domain == "" and node.op_type == "DequantizeLinear" and node.input[0] in weights:
            groups[tuple(_quantize_linear(node, constants, weights[node.input[0]]).items())] += 1
    return [dict(group) | {"count": count} for group, count in groups.most_common()]


def _number(tensor: TensorProto | None) -> float | None:
    """Returns the value of a one-element constant, or None for anything else."""
    if tensor is None or _elements(tensor) != 1:
        return None
    return float(numpy_helper.to_array(tensor).reshape(()))


def _bits(tensor: TensorProto | None) -> str:
    number = _number(tensor)
    return "computed bits" if number is None else f"{number:g} bit"


def _granularity(tensor: TensorProto | None) -> str:
    if tensor is None:
        return "computed scale"
    sizes = [d for d in tensor.dims if d != 1]
    if not sizes:
        return "scale per tensor"
    kind = "channel" if len(sizes) == 1 else "element"
    return f"scale per {kind} ({_elements(tensor)})"


def _quantizer(node: NodeProto, constants: dict[str, TensorProto]) -> dict[str, Any]:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    given = [constants.get(name) for name in node.input] + [None] * 6
    row: dict[str, Any] = {"type": node.op_type, "bits": None, "sign": None, "scale": _granularity(given[1])}
    if node.op_type == "MultiThreshold":
        thresholds = given[1]
        row["bits"] = f"{thresholds.dims[-1]} thresholds" if thresholds is not None else "computed thresholds"
        row["scale"] = f"out_scale {attributes.get('out_scale', 1.0):g}"
        return row
    if node.op_type == "BipolarQuant":
        row["bits"] = "1 bit"
        return row
    if node.op_type == "FloatQuant":
        exponent, mantissa = _number(given[2]), _number(given[3])
        known = exponent is not None and mantissa is not None
        row["bits"] = f"e{exponent:g}m{mantissa:g}" if known else "computed format"
    else:
        row["bits"] = _bits(given[_BITS_AT.get(node.op_type, len(node.input) - 1)])
        row["sign"] = "signed" if attributes.get("signed", 1) else "unsigned"
        row["sign"] += " narrow" if attributes.get("narrow", 0) else ""
        zero = given[2]
        if zero is None or np.any(numpy_helper.to_array(zero)):
            row["zero_point"] = "zero point"
    row["rounding"] = _rounding(attributes, node.op_type)
    return row


def _rounding(attributes: dict[str, Any], op_type: str) -> str:
    given = attributes.get("rounding_mode", _DEFAULT_MODE[op_type])
    text = given.decode("utf-8", "replace") if isinstance(given, bytes) else str(given)
    try:
        return resolve_rounding_mode(text)
    except InvalidModelError:
        return f"{text} (unknown)"


def _quantize_linear(
    node: NodeProto, constants: dict[str, TensorProto], integers: TensorProto | None = None
) -> dict[str, Any]:
    """Returns the row of a QuantizeLinear, or of a DequantizeLinear of constant integers."""
    zero = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    typed = zero if integers is None else integers
    kind = TensorProto.DataType.Name(typed.data_type).lower() if typed is not None else "uint8"
    row: dict[str, Any] = {
        "type": node.op_type,
        "bits": kind,
        "scale": _granularity(constants.get(node.input[1])),
    }
    if zero is not None and np.any(numpy_helper.to_array(zero)):
        row["zero_point"] = "zero point"
    row["rounding"] = "ROUND"
    return row
