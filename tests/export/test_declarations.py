"""Declared shapes and types: refreshed where the module has changed, refused where they cannot be true."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import qonnx_torch as qt

MakeModel = Callable[..., onnx.ModelProto]
RNG = np.random.default_rng(0)
INTERNALS = ("While executing", "traceback", "tlparse", "Traceback")


def linear(make_model: MakeModel, *, rows: int | str | None = 1, columns: int | None = 4) -> onnx.ModelProto:
    """Returns x (rows, columns) -> MatMul w (4, 3) -> Add b (3,) -> y, with the output declared, too."""
    model = make_model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], "matmul"),
            helper.make_node("Add", ["h", "b"], ["y"], "add"),
        ],
        inputs={"x": (rows, columns) if columns else None},
        initializers={"w": RNG.random((4, 3), np.float32), "b": RNG.random(3, np.float32)},
    )
    dims = [rows if isinstance(rows, int) else "samples", 3]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, dims))
    return model


def replace_head(module: torch.fx.GraphModule, size: int = 20) -> None:
    module.w = nn.Parameter(torch.rand(4, size))
    module.b = nn.Parameter(torch.rand(size))


def declared(value: onnx.ValueInfoProto) -> tuple[list[Any], int]:
    tensor = value.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim]
    return dims, tensor.elem_type


def refusal(module: torch.fx.GraphModule, **options: Any) -> str:
    with pytest.raises(qt.ExportError) as caught:
        qt.export_qonnx(module, **options)
    text = str(caught.value)
    assert not any(word in text for word in INTERNALS), text
    return text


def test_a_new_head_is_declared(make_model: MakeModel) -> None:
    module = qt.import_model(linear(make_model))
    replace_head(module)
    model = qt.export_qonnx(module)
    onnx.checker.check_model(model, full_check=True)
    assert declared(model.graph.output[0]) == ([1, 20], TensorProto.FLOAT)
    assert [declared(v) for v in model.graph.value_info] == [([1, 20], TensorProto.FLOAT)]


def test_a_new_head_after_a_dynamic_batch_is_declared(make_model: MakeModel) -> None:
    module = qt.import_model(linear(make_model, rows="batch"))
    replace_head(module)
    model = qt.export_qonnx(module)
    assert declared(model.graph.output[0])[0] == ["batch", 20]


def test_names_of_dimensions_that_agree_stay(make_model: MakeModel) -> None:
    source = linear(make_model, rows="batch")
    model = qt.export_qonnx(qt.import_model(source))
    assert list(model.graph.input) == list(source.graph.input)
    assert list(model.graph.output) == list(source.graph.output)
    assert declared(model.graph.output[0])[0] == ["samples", 3]


@pytest.mark.parametrize("edited", [False, True], ids=["unchanged graph", "edited graph"])
def test_shapes_that_do_not_fit_are_refused(make_model: MakeModel, edited: bool) -> None:
    module = qt.import_model(linear(make_model))
    module.b = nn.Parameter(torch.rand(7))
    if edited:
        add_activation(module)
    text = refusal(module)
    assert "the shape of node 'add' (Add) cannot be inferred: " in text
    assert "args" not in text


def test_example_inputs_that_do_not_fit_are_refused(make_model: MakeModel) -> None:
    module = qt.import_model(linear(make_model))
    assert "node 'matmul' (MatMul)" in refusal(module, args=(torch.rand(1, 5),))


def add_activation(module: torch.fx.GraphModule) -> None:
    output = next(n for n in module.graph.nodes if n.op == "output")
    with module.graph.inserting_before(output):
        output.args = (module.graph.call_function(torch.relu, (output.args[0],)),)
    module.recompile()


def test_undeclared_inputs_keep_the_files_declarations_while_they_hold(make_model: MakeModel) -> None:
    source = linear(make_model, columns=None)
    module = qt.import_model(source)
    assert list(qt.export_qonnx(module).graph.output) == list(source.graph.output)
    replace_head(module)
    assert refusal(module).endswith("inputs are not declared; give example inputs as args")
    model = qt.export_qonnx(module, args=(torch.rand(5, 4),))
    onnx.checker.check_model(model, full_check=True)
    assert declared(model.graph.input[0])[0] == [5, 4]
    assert declared(model.graph.output[0])[0] == [5, 20]


def test_example_inputs_that_agree_keep_the_dynamic_dimensions(make_model: MakeModel) -> None:
    module = qt.import_model(linear(make_model, rows="batch"))
    x = (torch.rand(5, 4),)
    model = qt.export_qonnx(module, args=x)
    assert declared(model.graph.input[0])[0] == ["batch", 4]
    assert declared(model.graph.value_info[0])[0] == ["batch", 3]
    add_activation(module)
    assert declared(qt.export_qonnx(module, args=x).graph.output[0])[0] == ["batch", 3]


def dynamic_reshape(make_model: MakeModel, group: int) -> onnx.ModelProto:
    """Returns a model that takes only multiples of `group` rows, which no declaration can say."""
    return make_model(
        [
            helper.make_node("Reshape", ["x", "shape"], ["r"], "reshape"),
            helper.make_node("Mul", ["r", "w"], ["y"], "mul"),
        ],
        inputs={"x": ("rows", 3)},
        initializers={"shape": np.array([-1, group, 3]), "w": np.ones((group, 3), np.float32)},
    )


def test_dynamic_dimensions_of_certain_sizes(make_model: MakeModel) -> None:
    module = qt.import_model(dynamic_reshape(make_model, 2))
    assert [n.op_type for n in qt.export_qonnx(module).graph.node] == ["Reshape", "Mul"]
    module.w = nn.Parameter(torch.rand(1, 1, 2, 3))
    for args in ((), (torch.rand(8, 3),)):
        model = qt.export_qonnx(module, args=args)
        assert declared(model.graph.input[0])[0] == ["rows", 3]
        assert declared(model.graph.output[0])[0] == [1, "", 2, 3]


def test_example_inputs_are_sizes_that_work(make_model: MakeModel) -> None:
    """Multiples of 11 are not among those that are tried; the example's size and its multiples are."""
    module = qt.import_model(dynamic_reshape(make_model, 11))
    module.w = nn.Parameter(torch.rand(1, 1, 11, 3))
    text = refusal(module)
    assert "node 'reshape' (Reshape)" in text
    assert "the sizes tried for the dynamic dimensions were rows = 37 (other sizes fail, too)" in text
    assert text.endswith("if the dynamic dimensions take only certain sizes, give example inputs as args")
    model = qt.export_qonnx(module, args=(torch.rand(22, 3),))
    assert declared(model.graph.input[0])[0] == ["rows", 3]
    assert declared(model.graph.output[0])[0] == [1, "", 11, 3]


def test_examples_of_another_type_leave_dynamic_dimensions_so(make_model: MakeModel) -> None:
    module = qt.import_model(linear(make_model, rows="batch")).double()
    model = qt.export_qonnx(module, args=(torch.rand(5, 4, dtype=torch.float64),))
    onnx.checker.check_model(model, full_check=True)
    assert declared(model.graph.input[0]) == (["batch", 4], TensorProto.DOUBLE)


def test_a_name_of_two_sizes_does_not_stay(make_model: MakeModel) -> None:
    node = helper.make_node("Concat", ["x", "z"], ["y"], "concat", axis=0)
    module = qt.import_model(make_model([node], inputs={"x": ("n", 3), "z": ("n", 3)}))
    model = qt.export_qonnx(module, args=(torch.rand(2, 3), torch.rand(4, 3)))
    assert [declared(v)[0] for v in model.graph.input] == [[2, 3], [4, 3]]


UNET = """<ir_version: 9, opset_import: ["": 17]>
g (float[N,3,H,W] x) => (float[N,6,H,W] y) <float[3,3,1,1] w = {1,0,0,0,1,0,0,0,1}, float[4] s = {1,1,2,2}> {
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
    c = Conv (p, w)
    u = Resize <mode = "nearest"> (c, , s)
    y = Concat <axis = 1> (u, x)
}"""


@pytest.mark.parametrize("example", [False, True], ids=["", "example"])
@pytest.mark.parametrize("edited", ["", "opset", "quantized", "folded"])
def test_a_dynamic_unet_stays_dynamic(edited: str, example: bool) -> None:
    x = torch.rand(1, 3, 8, 8)
    module = qt.import_model(onnx.parser.parse_model(UNET))
    if edited == "quantized":
        module = qt.quantize(module, qt.QuantizationConfig(), calibration=[x])
    elif edited == "folded":
        module = qt.fold_for_inference(module)
    options: dict[str, Any] = {"opset_version": 21} if edited == "opset" else {}
    model = qt.export_qonnx(module, args=(x,) if example else (), **options)
    onnx.checker.check_model(model, full_check=True)
    assert declared(model.graph.input[0])[0] == ["N", 3, "H", "W"]
    assert declared(model.graph.output[0])[0] == ["N", 6, "H", "W"]


def test_a_length_that_saturates_is_not_declared() -> None:
    """x[:10] has min(N, 10) rows: onnxruntime compares what is declared with what it computes."""
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N,4] x) => (float[a,4] y) <int64[1] first = {0}, int64[1] end = {10}> {
        t = Slice (x, first, end)
        y = Relu (t)
    }"""
    model = qt.export_qonnx(qt.import_model(onnx.parser.parse_model(text)), opset_version=21)
    assert declared(model.graph.output[0])[0] == ["a", 4]
    assert [declared(v)[0] for v in model.graph.value_info] == [["", 4]]


def test_shapes_that_depend_on_data(make_model: MakeModel) -> None:
    source = make_model(
        [
            helper.make_node("Range", ["start", "x", "delta"], ["r"], "range"),
            helper.make_node("Mul", ["r", "w"], ["y"], "mul"),
        ],
        inputs={"x": ()},
        initializers={"start": 0.0, "delta": 1.0, "w": np.ones(1, np.float32)},
    )
    source.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"]))
    module = qt.import_model(source)
    assert list(qt.export_qonnx(module).graph.output) == list(source.graph.output)
    module.w = nn.Parameter(torch.rand(1, 1))
    text = refusal(module)
    assert "node 'range' (Range) cannot be inferred: it depends on data; " in text
    assert text.endswith("nor do the file's declarations hold: w has another shape or dtype now")


@pytest.mark.parametrize("edited", [False, True], ids=["unchanged graph", "edited graph"])
def test_a_converted_module_is_refused_with_the_way_back(make_model: MakeModel, edited: bool) -> None:
    advice = "torch.float32 in the file: convert the module with module.float(), or give example inputs"
    module = qt.import_model(linear(make_model)).double()
    if edited:
        add_activation(module)
    assert advice in refusal(module)
    model = qt.export_qonnx(module, args=(torch.rand(1, 4, dtype=torch.float64),))
    onnx.checker.check_model(model, full_check=True)
    assert declared(model.graph.input[0]) == ([1, 4], TensorProto.DOUBLE)
    assert declared(model.graph.output[0]) == ([1, 3], TensorProto.DOUBLE)
    qt.export_qonnx(module.float())


@pytest.mark.parametrize("edited", [False, True], ids=["unchanged graph", "edited graph"])
def test_types_that_torch_promotes_are_refused(make_model: MakeModel, edited: bool) -> None:
    model = make_model([helper.make_node("Add", ["x", "b"], ["y"], "add")], initializers={"b": [1.0] * 4})
    module = qt.import_model(model).double()
    if edited:
        add_activation(module)
    text = refusal(module)
    assert "node 'add' (Add): 'x' is float and 'b' is double; they must have one type" in text
    assert "module.float()" in text


def test_a_real_model_converted_to_double_is_refused(models_folder: Path) -> None:
    module = qt.import_model(models_folder / "brevitas_mlp_w2a2.onnx")
    text = refusal(module.double())
    assert "module.float()" in text
