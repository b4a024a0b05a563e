"""Sequences and optionals: graphs in ONNX's text form, against the onnx package's reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TypeProto, helper, parser
from onnx.reference import ReferenceEvaluator

import qonnx_torch as qt
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError
from qonnx_torch.type_names import type_name, type_of_name

X, Y = np.arange(12.0, dtype=np.float32).reshape(3, 4), np.ones((2, 4), np.float32)

GRAPHS = {
    "at": "s = SequenceConstruct(x, y)  p = Constant<value_int = -1>()  z = SequenceAt(s, p)",
    "insert": "s = SequenceConstruct(x, y)  p = Constant<value_int = -1>()  t = SequenceInsert(s, y, p) "
    "z = ConcatFromSequence<axis = 0>(t)",
    "append": "s = SequenceEmpty()  t = SequenceInsert(s, x)  u = SequenceInsert(t, y) "
    "z = ConcatFromSequence<axis = -2>(u)",
    "erase": "s = SequenceConstruct(x, y, x)  p = Constant<value_int = 1>()  t = SequenceErase(s, p) "
    "u = SequenceErase(t)  z = ConcatFromSequence<axis = 0>(u)",
    "stack": "s = SequenceConstruct(x, x)  z = ConcatFromSequence<axis = -1, new_axis = 1>(s)",
    "length": "s = SequenceConstruct(x, y)  n = SequenceLength(s)  f = Cast<to = 1>(n)  z = Mul(x, f)",
    "length as output": "s = SequenceConstruct(x, y)  z = SequenceLength(s)",
    "split": "s = SplitToSequence<axis = 1>(x)  z = ConcatFromSequence<axis = 0>(s)",
    "split without the axis": "s = SplitToSequence<axis = 1, keepdims = 0>(x)  "
    "z = ConcatFromSequence<axis = 0, new_axis = 1>(s)",
    "split in twos": "p = Constant<value_int = 2>()  s = SplitToSequence<keepdims = 0>(x, p)  "
    "q = Constant<value_int = 1>()  z = SequenceAt(s, q)",
    "split by sizes": "p = Constant<value_ints = [1, 2]>()  s = SplitToSequence(x, p)  "
    "q = Constant<value_int = 1>()  z = SequenceAt(s, q)",
    "shape elements": "a = Shape(x)  b = Shape(y)  s = SequenceConstruct(a, b)  "
    "z = ConcatFromSequence<axis = 0>(s)",
    "identity": "s = SequenceConstruct(x, y)  t = Identity(s)  z = ConcatFromSequence<axis = 0>(t)",
    "computed position": "n = ReduceSum<keepdims = 0>(y)  m = Cast<to = 7>(n)  e = Constant<value_int = 8>() "
    "p = Sub(m, e)  s = SequenceConstruct(x, y)  z = SequenceAt(s, p)",
}


def model(body: str, opset: int = 18):
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[3, 4] x, float[2, 4] y) => (z) {{ {body} }}'
    )
    return parser.parse_model(text)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("opset", [11, 18])
def test_sequences(name: str, opset: int) -> None:
    if opset == 11:  # Constant has only a tensor there, and ReduceSum no input of axes
        body = (
            GRAPHS[name].replace("value_int =", "value = int64").replace("value_ints =", "value = int64[2]")
        )
        body = body.replace("int64[2] [1, 2]", "int64[2] {1, 2}")
        for number in ("-1", "1", "2", "8"):
            body = body.replace(f"int64 {number}>", f"int64 {{{number}}}>")
    else:
        body = GRAPHS[name]
    proto = model(body, opset)
    (expected,) = ReferenceEvaluator(proto).run(None, {"x": X, "y": Y})
    actual = qt.import_model(proto)(torch.from_numpy(X), torch.from_numpy(Y))
    assert actual.numpy().dtype == expected.dtype
    np.testing.assert_array_equal(actual.numpy(), expected)


@pytest.mark.parametrize(("position", "found"), [("2", "2"), ("-3", "-3")])
def test_positions_outside(position: str, found: str) -> None:
    body = f"s = SequenceConstruct(x, y)  p = Constant<value_int = {position}>()  z = SequenceAt(s, p)"
    with pytest.raises(InvalidModelError, match=f"position {found} in a sequence of 2 tensors"):
        qt.import_model(model(body))(torch.from_numpy(X), torch.from_numpy(Y))


def test_gradients_and_export() -> None:
    module = qt.import_model(model(GRAPHS["insert"]))
    x = torch.from_numpy(X).requires_grad_()
    module(x, torch.from_numpy(Y)).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * torch.from_numpy(X))
    program = torch.export.export(module, (x.detach(), torch.from_numpy(Y)))
    torch.testing.assert_close(program.module()(x, torch.from_numpy(Y)), module(x, torch.from_numpy(Y)))


OPTIONALS = {
    "element": "o = Optional(x)  z = OptionalGetElement(o)",
    "of a sequence": "s = SequenceConstruct(x, y)  o = Optional(s)  t = OptionalGetElement(o)  "
    "z = ConcatFromSequence<axis = 0>(t)",
    "tensor itself": "z = OptionalGetElement(x)",
    "has": "o = Optional(x)  z = OptionalHasElement(o)",
    "tensor has": "z = OptionalHasElement(x)",
    "nothing has": "z = OptionalHasElement()",
}


@pytest.mark.parametrize("name", OPTIONALS)
def test_optionals(name: str) -> None:
    actual = qt.import_model(model(OPTIONALS[name]))(torch.from_numpy(X), torch.from_numpy(Y))
    if "has" in name:
        assert actual.dtype == torch.bool
        assert actual.shape == ()
        assert actual.item() == (name != "nothing has")
    else:
        np.testing.assert_array_equal(actual.numpy(), np.concatenate((X, Y)) if "sequence" in name else X)


def test_empty_optional() -> None:
    """The type that it would have is an attribute, and goes back into the file."""
    proto = model("o = Optional()  z = OptionalHasElement(o)")
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, None))
    proto.graph.node[0].attribute.append(helper.make_attribute("type", kind))
    module = qt.import_model(proto)
    node = next(n for n in module.graph.nodes if n.kwargs.get("type"))
    assert node.kwargs["type"] == "seq(tensor(float))"
    assert not module(torch.from_numpy(X), torch.from_numpy(Y))
    with pytest.raises(InvalidModelError, match="the optional is empty; test it with OptionalHasElement"):
        qt.ops.standard.sequences.optional_get_element(None)


@pytest.mark.parametrize(
    "name",
    ["tensor(float)", "seq(tensor(int64))", "optional(seq(tensor(bfloat16)))", "optional(tensor(bool))"],
)
def test_type_names(name: str) -> None:
    assert type_name(type_of_name(name)) == name


def test_type_names_of_other_types() -> None:
    with pytest.raises(InvalidModelError, match="'tensor' is no type"):
        type_of_name("tensor")
    with pytest.raises(InvalidModelError, match="a type without a value"):
        type_name(TypeProto())
    proto = TypeProto()
    proto.map_type.key_type = 7
    with pytest.raises(UnsupportedModelError, match="the type map_type is not supported"):
        type_name(proto)
