"""Domains, versions, initializers, node order: how files differ in what they say about the same graph."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import qonnx_torch as qt
import qonnx_torch.nn as qnn
from qonnx_torch.provenance import provenance_of

X = torch.tensor([[0.0, 0.4, -0.6, 9.0]])
QONNX = "qonnx.custom_op.general"
PARAMETERS = {"s": 0.5, "z": 0.0, "b": 3.0}
QUANTIZED = [[0.0, 0.5, -0.5, 1.5]]


def quant(inputs=("x", "s", "z", "b"), output="y", domain=QONNX, op_type="Quant", **attributes):
    attributes = {"signed": 1, "narrow": 0, **attributes}
    return helper.make_node(op_type, list(inputs), [output], f"make {output}", domain=domain, **attributes)


# -- domains and versions ------------------------------------------------------------------------------


@pytest.mark.parametrize("op_type", ["Quant", "IntQuant"])
@pytest.mark.parametrize("domain", [QONNX, "onnx.brevitas", "finn", "finn.custom_op.general", "", "ai.onnx"])
@pytest.mark.parametrize("version", [None, 1, 2])
def test_domain_aliases_and_missing_imports(domain, op_type, version, make_model) -> None:
    imports = {"": 13} if version is None or domain in ("", "ai.onnx") else {"": 13, domain: version}
    model = make_model([quant(domain=domain, op_type=op_type)], initializers=PARAMETERS, imports=imports)
    module = qt.import_model(model)
    assert module(X).tolist() == QUANTIZED
    assert [type(m) for n, m in module.named_modules() if n] == [qnn.Quant]


def test_two_names_of_one_domain_in_one_file(make_model) -> None:
    nodes = [quant(output="h", domain="onnx.brevitas"), quant(["h", "s", "z", "b"], "y")]
    imports = {"": 13, "onnx.brevitas": 1, QONNX: 2}
    module = qt.import_model(make_model(nodes, initializers=PARAMETERS, imports=imports))
    assert module(X).tolist() == QUANTIZED


def test_ai_onnx_is_the_default_domain(make_model) -> None:
    model = make_model([helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")], imports={"ai.onnx": 13})
    assert torch.equal(qt.import_model(model)(X), torch.relu(X))


def test_missing_default_import_is_guessed_with_a_warning(make_model) -> None:
    model = make_model([helper.make_node("Relu", ["x"], ["y"])], imports={QONNX: 1})
    with pytest.warns(UserWarning, match="imports no ai.onnx operator set; reading it as opset"):
        module = qt.import_model(model)
    assert torch.equal(module(X), torch.relu(X))


@pytest.mark.parametrize("opset", range(6, 26))
def test_every_operator_set(opset, make_model) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    model = make_model(
        nodes, initializers={"w": np.eye(4, dtype=np.float32)}, imports={"": opset}, ir_version=4
    )
    assert torch.equal(qt.import_model(model)(X), torch.relu(X))


@pytest.mark.parametrize("ir_version", [3, 4, 8, 10, 13])
def test_initializers_listed_as_inputs(ir_version, make_model) -> None:
    inputs = {"x": (1, 4), "s": (), "w": (1, 4), "z": (), "b": ()}
    nodes = [quant(output="h"), helper.make_node("Add", ["h", "w"], ["y"])]
    model = make_model(
        nodes, inputs=inputs, initializers={**PARAMETERS, "w": [[1.0] * 4]}, ir_version=ir_version
    )
    module = qt.import_model(model)
    assert (module(X) - 1).tolist() == QUANTIZED
    assert sum(n.op == "placeholder" for n in module.graph.nodes) == 1


@pytest.mark.parametrize(("inputs", "version"), [(5, 1), (6, 2)])
def test_trunc_is_read_by_its_number_of_inputs(inputs, version, make_model) -> None:
    names = ["x", "s", "z", "b", "o", "ob"] if inputs == 6 else ["x", "s", "z", "b", "ob"]
    node = helper.make_node("Trunc", names, ["y"], "cut", domain=QONNX, rounding_mode="FLOOR")
    initializers = {"s": 0.25, "z": 0.0, "b": 8.0, "ob": 6.0, **({"o": 1.0} if inputs == 6 else {})}
    right = make_model([node], initializers=initializers, imports={"": 13, QONNX: version})
    wrong = make_model([node], initializers=initializers, imports={"": 13, QONNX: 3 - version})
    expected = [[0.0, 0.0, -1.0, 9.0]] if version == 2 else [[0.0, 0.0, -0.25, 2.25]]
    assert qt.import_model(right)(X).tolist() == expected
    with pytest.warns(UserWarning, match=rf"'cut' .* inputs of version {version}, but"):
        module = qt.import_model(wrong)
    assert module(X).tolist() == expected


def test_unknown_attributes_of_quantizers_are_ignored_with_a_warning(make_model) -> None:
    model = make_model([quant(note="hello")], initializers=PARAMETERS)
    with pytest.warns(UserWarning, match="has no attribute 'note'"):
        module = qt.import_model(model)
    assert module(X).tolist() == QUANTIZED


# -- parameters ----------------------------------------------------------------------------------------


def test_a_shared_initializer_is_one_parameter(make_model) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    module = qt.import_model(make_model(nodes, initializers={"w": 2 * np.eye(4, dtype=np.float32)}))
    assert [n for n, _ in module.named_parameters()] == ["w"]
    assert torch.equal(module(X), 4 * X)
    module(X).sum().backward()
    assert module.w.grad is not None


def test_quantizers_own_copies_of_a_shared_scale(make_model) -> None:
    nodes = [quant(output="h"), quant(["h", "s", "z", "b"], "y")]
    module = qt.import_model(make_model(nodes, initializers=PARAMETERS))
    first, second = (m for m in module.modules() if isinstance(m, qnn.Quant))
    assert first.scale.data_ptr() != second.scale.data_ptr()
    assert [len(t.paths) for t in provenance_of(module).tensors] == [2, 2, 2]


@pytest.mark.parametrize(("value", "kind"), [
    (np.float32([1, 2, 3, 4]), "parameter"),
    (np.float64([1, 2, 3, 4]), "parameter"),
    (np.float16([1, 2, 3, 4]), "parameter"),
    (np.int64([1, 2, 3, 4]), "buffer"),
    (np.int8([1, 2, 3, 4]), "buffer"),
])  # fmt: skip
def test_float_initializers_are_parameters_and_others_buffers(value, kind, make_model) -> None:
    input_type = helper.np_dtype_to_tensor_dtype(value.dtype)
    model = make_model(
        [helper.make_node("Add", ["x", "layer.w"], ["y"])],
        initializers={"layer.w": value},
        input_type=input_type,
    )
    module = qt.import_model(model)
    found = dict(module.named_parameters() if kind == "parameter" else module.named_buffers())
    assert list(found) == ["layer.w"]
    assert torch.equal(module(torch.from_numpy(value)), torch.from_numpy(2 * value))


@pytest.mark.parametrize(("value", "trains"), [([1e-5], False), (1e-5, False), ([1.0, 2.0, 3.0, 4.0], True)])
def test_single_numbers_of_constant_nodes_are_no_parameters(value, trains, make_model) -> None:
    """An epsilon that trained would go below 0."""
    constant = numpy_helper.from_array(np.float32(value))
    nodes = [
        helper.make_node("Constant", [], ["c"], value=constant),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    module = qt.import_model(make_model(nodes))
    assert [name for name, _ in module.named_parameters()] == (["c"] if trains else [])
    assert list(module.state_dict()) == ["c"]


@pytest.mark.parametrize("how", ["value", "value_float", "value_floats"])
def test_constant_nodes_are_initializers_too(how, make_model) -> None:
    value = {
        "value": numpy_helper.from_array(np.float32([3.0])),
        "value_float": 3.0,
        "value_floats": [3.0],
    }[how]
    nodes = [
        helper.make_node("Constant", [], ["c"], **{how: value}),
        helper.make_node("Mul", ["x", "c"], ["y"]),
    ]
    module = qt.import_model(make_model(nodes))
    assert list(module.state_dict()) == ["c"]
    assert torch.equal(module(X), 3 * X)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (4,), (1, 4)])
def test_shapes_of_quantizer_parameters(shape, make_model) -> None:
    scale = np.full(shape, 0.5, np.float32)
    model = make_model([quant()], initializers={"s": scale, "z": np.zeros_like(scale), "b": [3.0]})
    assert qt.import_model(model)(X).tolist() == QUANTIZED


def test_dtypes_of_quantizer_parameters_are_kept(make_model) -> None:
    values = {"s": np.float64(0.5), "z": np.int64(0), "b": np.int64(3)}
    module = qt.import_model(
        make_model([quant()], initializers={k: np.asarray(v) for k, v in values.items()})
    )
    (quantizer,) = (m for m in module.modules() if isinstance(m, qnn.Quant))
    assert [b.dtype for b in quantizer.buffers()] == [torch.float64, torch.int64, torch.int64]
    assert module(X).tolist() == QUANTIZED


def test_computed_quantizer_parameters(make_model) -> None:
    nodes = [
        helper.make_node("Log", ["levels"], ["l"]),
        helper.make_node("Div", ["l", "log2"], ["l2"]),
        helper.make_node("Ceil", ["l2"], ["bits"]),
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Div", ["largest", "steps"], ["scale"]),
        quant(["x", "scale", "z", "bits"]),
    ]
    initializers = {"levels": 7.0, "log2": np.log(np.float32(2)), "steps": 3.0, "z": 0.0}
    module = qt.import_model(make_model(nodes, initializers=initializers))
    assert module(X).tolist() == qt.ops.quant(X, 3.0, 0.0, 3).tolist()


def test_batch_normalization_statistics_update_in_training(make_model) -> None:
    node = helper.make_node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"], "bn", momentum=0.9)
    initializers = {"g": [1.0, 2.0], "b": [0.0, 1.0], "m": [0.5, 0.5], "v": [1.0, 4.0]}
    module = qt.import_model(make_model([node], inputs={"x": ("n", 2)}, initializers=initializers))
    assert {n for n, _ in module.named_parameters()} == {"g", "b"}
    assert {n for n, _ in module.named_buffers()} == {"m", "v"}
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    before = module(x)
    assert torch.equal(module.m, torch.tensor([0.5, 0.5]))
    module.train()(x)
    torch.testing.assert_close(module.m, 0.9 * torch.tensor([0.5, 0.5]) + 0.1 * x.mean(0))
    torch.testing.assert_close(module.v, 0.9 * torch.tensor([1.0, 4.0]) + 0.1 * x.var(0))
    assert not torch.equal(module.eval()(x), before)


def test_dropout_follows_the_mode(make_model) -> None:
    module = qt.import_model(make_model([helper.make_node("Dropout", ["x"], ["y"])]))
    assert torch.equal(module(X), X)
    torch.manual_seed(0)
    assert not torch.equal(module.train()(torch.ones(4, 4)), torch.ones(4, 4))


# -- structure -----------------------------------------------------------------------------------------


def test_unsorted_nodes_are_sorted(make_model) -> None:
    nodes = [
        helper.make_node("Add", ["a", "b"], ["y"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Neg", ["x"], ["a"]),
    ]
    assert torch.equal(qt.import_model(make_model(nodes))(X), -X + torch.relu(-X))


def test_outputs_that_are_inputs_or_initializers(make_model) -> None:
    model = make_model([], outputs=["x", "w"], initializers={"w": [1.0, 2.0]})
    x, w = qt.import_model(model)(X)
    assert torch.equal(x, X)
    assert w.tolist() == [1.0, 2.0]


def test_a_shape_as_output_is_a_tensor(make_model) -> None:
    nodes = [helper.make_node("Shape", ["x"], ["y"]), helper.make_node("Size", ["x"], ["n"])]
    shape, size = qt.import_model(make_model(nodes, outputs=["y", "n"]))(X)
    assert shape.dtype == size.dtype == torch.int64
    assert (shape.tolist(), size.item(), size.shape) == ([1, 4], 4, ())


def test_unused_outputs_and_empty_optional_inputs(make_model) -> None:
    nodes = [
        helper.make_node("Clip", ["x", "", "high"], ["h"]),
        helper.make_node("Dropout", ["h"], ["y", ""]),
    ]
    module = qt.import_model(make_model(nodes, initializers={"high": 0.5}))
    assert torch.equal(module(X), X.clamp(max=0.5))


def test_several_inputs_keep_their_order(make_model) -> None:
    node = helper.make_node("Sub", ["second", "first"], ["y"])
    module = qt.import_model(make_model([node], inputs={"first": (1,), "second": (1,)}))
    assert module(torch.tensor([1.0]), torch.tensor([5.0])).item() == 4


def test_the_model_that_was_given_stays_as_it_is(make_model) -> None:
    model = make_model([quant(domain="finn")], initializers=PARAMETERS)
    before = copy.deepcopy(model)
    qt.import_model(model)
    assert model == before


def test_metadata_and_documentation_ride_along(make_model) -> None:
    model = make_model([quant()], initializers=PARAMETERS)
    model.doc_string = "what it is"
    model.metadata_props.add(key="author", value="someone")
    annotation = model.graph.quantization_annotation.add(tensor_name="y")
    annotation.quant_parameter_tensor_names.add(key="finn_datatype", value="INT3")
    skeleton = type(model).FromString(provenance_of(qt.import_model(model)).skeleton)
    assert skeleton.doc_string == "what it is"
    assert skeleton.metadata_props == model.metadata_props
    assert skeleton.graph.quantization_annotation == model.graph.quantization_annotation
    assert skeleton.graph.node == model.graph.node


def test_other_element_types(make_model) -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)
    module = qt.import_model(make_model([node], input_type=TensorProto.FLOAT16))
    assert module(X.half()).dtype == torch.bfloat16
