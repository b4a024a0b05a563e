"""Where the modules of quantizers stand, and what they own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from onnx import ModelProto, NodeProto, helper

import qonnx_torch as qt

MakeModel = Callable[..., ModelProto]
X = torch.tensor([[-20.0, -3.0, 9.0, 20.0]])
CONSTANTS = {"scale": 1.0, "zero_point": 0.0, "bit_width": 4.0}


def quant(source: str, result: str, path: str, signed: int = 1, zero_point: str = "") -> NodeProto:
    """A Quant whose constants are called after a path."""
    inputs = [source, f"{path}.scale", zero_point or f"{path}.zero_point", f"{path}.bit_width"]
    domain = "qonnx.custom_op.general"
    return helper.make_node("Quant", inputs, [result], result, domain=domain, signed=signed, narrow=0)


def add(a: str, b: str, result: str) -> NodeProto:
    return helper.make_node("Add", [a, b], [result])


SIGNED, UNSIGNED = [-8.0, -3.0, 7.0, 7.0], [0.0, 0.0, 9.0, 15.0]

CASES: dict[str, tuple[Sequence[NodeProto], dict[str, list[float]], set[str]]] = {
    "one of a computed zero point, then another": (
        [quant("x", "a", "q", zero_point="z"), quant("x", "b", "q", signed=0, zero_point="z")],
        {"a": SIGNED, "b": UNSIGNED},
        {"q.scale", "q.bit_width", "b.scale", "b.bit_width"},
    ),
    "all constants": (
        [quant("x", "a", "q"), quant("x", "b", "q", signed=0), quant("x", "c", "q")],
        {"a": SIGNED, "b": UNSIGNED, "c": SIGNED},
        {f"{path}.{name}" for path in ("q", "b") for name in CONSTANTS},
    ),
    "all constants, then a computed zero point": (
        [quant("x", "a", "q"), quant("x", "b", "q", zero_point="z")],
        {"a": SIGNED, "b": SIGNED},
        {f"q.{name}" for name in CONSTANTS} | {"b.scale", "b.bit_width"},
    ),
    "a weight of the scale's name, read before": (
        [add("x", "q.scale", "t"), quant("t", "a", "q")],
        {"a": [-8.0, -2.0, 7.0, 7.0]},
        {"q.scale"} | {f"a.{name}" for name in CONSTANTS},
    ),
    "a weight of the scale's name, read after": (
        [quant("x", "t", "q"), add("t", "q.scale", "a")],
        {"a": [-7.0, -2.0, 8.0, 8.0]},
        {"q%2Escale"} | {f"q.{name}" for name in CONSTANTS},
    ),
    "a weight beside, read before": (
        [add("x", "q.w", "t"), quant("t", "a", "q")],
        {"a": [-8.0, -1.0, 7.0, 7.0]},
        {"q.w"} | {f"a.{name}" for name in CONSTANTS},
    ),
    "a weight that is called like an attribute of the module": (
        [quant("x", "t", "q"), add("t", "q.signed", "a")],
        {"a": [-7.0, -2.0, 8.0, 8.0]},
        {"q%2Esigned"} | {f"q.{name}" for name in CONSTANTS},
    ),
    "one within another, the inner first": (
        [quant("x", "t", "q.inner"), quant("t", "a", "q", signed=0)],
        {"a": [0.0, 0.0, 7.0, 7.0]},
        {f"{path}.{name}" for path in ("q.inner", "a") for name in CONSTANTS},
    ),
    "one within another, the outer first": (
        [quant("x", "t", "q"), quant("t", "a", "q.inner", signed=0)],
        {"a": [0.0, 0.0, 7.0, 7.0]},
        {f"{path}.{name}" for path in ("q.inner", "q") for name in CONSTANTS},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_quantizer_keeps_its_own(case: str, make_model: MakeModel) -> None:
    nodes, expected, keys = CASES[case]
    values = {f"{path}.{k}": v for path in ("q", "q.inner") for k, v in CONSTANTS.items()}
    values |= {"q.w": 2.0, "q.signed": 1.0}
    used = {name for node in nodes for name in node.input}
    model = make_model(
        nodes,
        inputs={"x": (1, 4), **({"z": ()} if "z" in used else {})},
        outputs=list(expected),
        initializers={k: v for k, v in values.items() if k in used},
    )
    module = qt.import_model(model)
    for again in (module, qt.import_model(qt.export_qonnx(module))):
        found = again(X, *[torch.tensor(0.0)] * ("z" in used))
        found = found if isinstance(found, tuple) else (found,)
        assert [t[0].tolist() for t in found] == list(expected.values())
        assert set(again.state_dict()) == keys
