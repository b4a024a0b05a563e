"""What cannot be imported: the right error, with the culprit named."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, external_data_helper, helper, numpy_helper

import qonnx_torch as qt
from qonnx_torch.errors import InvalidModelError, QonnxTorchError, UnsupportedModelError

MODELS = Path(__file__).resolve().parents[1] / "models"
QONNX = "qonnx.custom_op.general"


def node(op_type, inputs, outputs, name="", **attributes):
    return helper.make_node(op_type, inputs, outputs, name, **attributes)


# -- graphs --------------------------------------------------------------------------------------------


def test_cycle(make_model) -> None:
    nodes = [
        node("Add", ["x", "c"], ["a"], "first"),
        node("Relu", ["a"], ["c"], "second"),
        node("Neg", ["c"], ["y"]),
    ]
    with pytest.raises(InvalidModelError, match=r"cycle .*'first' \(Add\), 'second' \(Relu\)"):
        qt.import_model(make_model(nodes))


def test_value_that_nothing_produces(make_model) -> None:
    with pytest.raises(
        InvalidModelError, match=r"node 'adder' \(Add\) reads 'ghost', which nothing produces"
    ):
        qt.import_model(make_model([node("Add", ["x", "ghost"], ["y"], "adder")]))


def test_output_that_nothing_produces(make_model) -> None:
    with pytest.raises(InvalidModelError, match="graph output 'ghost' is produced by nothing"):
        qt.import_model(make_model([node("Relu", ["x"], ["y"])], outputs=["ghost"]))


@pytest.mark.parametrize("twice", ["y", "x", "w"])
def test_value_produced_twice(twice, make_model) -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("Neg", ["x"], [twice], "again")]
    with pytest.raises(InvalidModelError, match=rf"value '{twice}' is produced twice .*'again' \(Neg\)"):
        qt.import_model(make_model(nodes, initializers={"w": 1.0}))


def test_initializer_twice(make_model) -> None:
    model = make_model([node("Add", ["x", "w"], ["y"])], initializers={"w": 1.0})
    model.graph.initializer.append(model.graph.initializer[0])
    with pytest.raises(InvalidModelError, match="initializer 'w' occurs twice"):
        qt.import_model(model)


def test_every_unknown_operator_is_listed(make_model) -> None:
    nodes = [
        node("Relu", ["x"], ["a"], "fine"),
        node("Frobnicate", ["a"], ["b"], "strange"),
        node("Quantise", ["b"], ["c"], domain=QONNX),
        node("Einsum", ["c"], ["d"], "too new", equation="ij"),
        node("Thing", ["d"], ["y"], "other", domain="com.example"),
    ]
    with pytest.raises(UnsupportedModelError) as error:
        qt.import_model(make_model(nodes, imports={"": 11, QONNX: 2, "com.example": 7}))
    assert str(error.value).splitlines() == [
        "4 of 5 nodes have operators that are not supported:",
        "  'strange' (Frobnicate): ai.onnx::Frobnicate version 11",
        f"  'c' (Quantise): {QONNX}::Quantise version 2",
        "  'too new' (Einsum): ai.onnx::Einsum version 11",
        "  'other' (Thing): com.example::Thing version 7",
    ]


def test_hardware_graph_is_refused(make_model) -> None:
    domain = "finn.custom_op.fpgadataflow.hls"
    attributes = {"MW": 4, "MH": 4, "SIMD": 2, "PE": 2, "inputDataType": "BIPOLAR", "weightDataType": "INT2"}
    nodes = [
        node("MVAU_hls", ["x", "w0", "t0"], ["h"], domain=domain, backend="fpgadataflow", **attributes),
        node("MVAU_hls", ["h", "w1"], ["y"], domain=domain, noActivation=1, **attributes),
    ]
    weights = np.ones((4, 4), np.float32)
    model = make_model(
        nodes,
        initializers={"w0": weights, "t0": np.zeros((4, 3), np.float32), "w1": weights},
        imports={"": 14, "onnx.brevitas": 1},
    )
    with pytest.raises(UnsupportedModelError) as error:
        qt.import_model(model)
    assert str(error.value).splitlines() == [
        "2 of 2 nodes have operators that are not supported:",
        f"  'h' (MVAU_hls): {domain}::MVAU_hls version 1",
        f"  'y' (MVAU_hls): {domain}::MVAU_hls version 1",
    ]


@pytest.mark.parametrize(("bad", "message"), [
    (node("Relu", ["x"], ["y"], "n", colour=3), r"node 'n' \(Relu\): ai.onnx::Relu-1 has no attribute 'col"),
    (node("Add", ["x"], ["y"], "n"), r"node 'n' \(Add\): ai.onnx::Add-1 has 1 inputs instead of 2"),
    (node("Relu", ["x", "x"], ["y"], "n"), r"ai.onnx::Relu-1 has 2 inputs instead of 1"),
    (node("Add", ["x", ""], ["y"], "n"), r"node 'n' \(Add\): .*its input B cannot be left out"),
    (node("Concat", ["x", "x"], ["y"], "n"), r"node 'n' \(Concat\): .* needs the attribute 'axis'"),
    (node("Quant", ["x", "w", "w", "w"], ["y"], "n", domain=QONNX, signed=1),
     r"node 'n' \(Quant\): qonnx.custom_op.general::Quant-1 needs the attribute 'narrow'"),
    (node("Quant", ["x", "w", "w"], ["y"], "n", domain=QONNX, signed=1, narrow=0),
     r"node 'n' \(Quant\): .* has 3 inputs instead of 4"),
    (node("Quant", ["x", *["w"] * 3], ["y"], "n", domain=QONNX, signed=1, narrow=0, rounding_mode="UPWARDS"),
     r"node 'n' \(Quant\): rounding_mode 'UPWARDS' does not exist; known modes: ROUND"),
    (node("Trunc", ["x", "w", "w", "w"], ["y"], "n", domain=QONNX),
     r"node 'n' \(Trunc\): 4 inputs; version 1 has 5, version 2 has 6"),
    (node("Constant", [], ["y"], "n"), r"Constant node 'n' \(Constant\) needs exactly one attribute"),
])  # fmt: skip
def test_node_that_breaks_its_schema(bad, message, make_model) -> None:
    with pytest.raises(InvalidModelError, match=message):
        qt.import_model(make_model([bad], initializers={"w": 1.0}))


def test_shape_computed_from_data_is_read_when_the_module_runs(make_model) -> None:
    nodes = [node("Cast", ["x"], ["i"], to=TensorProto.INT64), node("Reshape", ["x", "i"], ["y"], "r")]
    module = qt.import_model(make_model(nodes))
    assert module(torch.tensor([2.0, 1.0])).shape == (2, 1)


def test_element_type_without_a_counterpart(make_model) -> None:
    model = make_model([node("Identity", ["w"], ["y"])], initializers={"w": 1.0})
    model.graph.initializer[0].data_type = TensorProto.STRING
    with pytest.raises(UnsupportedModelError, match=r"'w'.*STRING"):
        qt.import_model(model)


@pytest.mark.parametrize("dims", [(3,), (-4,), (1 << 40,), (1 << 62, 1 << 62)])
def test_data_that_do_not_fit_their_shape(dims, make_model) -> None:
    model = make_model([node("Add", ["x", "w"], ["y"])], initializers={"w": [1.0] * 4})
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    with pytest.raises(InvalidModelError, match="'w'"):
        qt.import_model(model)


# -- files ---------------------------------------------------------------------------------------------


def test_no_such_file(tmp_path) -> None:
    with pytest.raises(
        InvalidModelError, match=r"missing\.onnx: cannot be read \(No such file or directory\)"
    ):
        qt.import_model(tmp_path / "missing.onnx")


def test_a_folder(tmp_path) -> None:
    with pytest.raises(InvalidModelError, match="cannot be read"):
        qt.import_model(tmp_path)


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "m.onnx"),
    (b"import torch\nprint('hello')\n", "m.onnx: not an ONNX"),
    (b"PK\x03\x04 not a model", "m.onnx: not an ONNX"),
    (bytes(1000), "m.onnx: not an ONNX"),
    ("ein Text mit Umlauten: äöü".encode(), "m.onnx: not an ONNX"),
])  # fmt: skip
def test_a_file_that_is_no_model(content, reason, tmp_path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidModelError, match=reason):
        qt.import_model(path)


def import_quietly(content: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        qt.import_model(content)


def test_truncation_anywhere_is_an_error() -> None:
    content = (MODELS / "opset6_gemm.onnx").read_bytes()
    whole = ModelProto.FromString(content)
    tail = len(content) - len(whole.opset_import[0].SerializeToString()) - 2
    for length in [*range(0, tail, 37), tail - 1, len(content) - 1]:
        with pytest.raises(InvalidModelError):
            import_quietly(content[:length])


@settings(max_examples=150)
@given(st.data())
def test_damaged_files_never_crash(data) -> None:
    name = data.draw(st.sampled_from(["constants_as_nodes", "newest_opset", "no_domain_quant", "multi_io"]))
    content = bytearray((MODELS / f"{name}.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(QonnxTorchError):  # and nothing else
        import_quietly(bytes(content))


# -- external data -------------------------------------------------------------------------------------


def external_model(folder: Path, location: str) -> Path:
    weight = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    graph = helper.make_graph(
        [node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    external_data_helper.set_external_data(model.graph.initializer[0], location, 0, 16)
    model.graph.initializer[0].ClearField("raw_data")
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_missing_external_data(tmp_path) -> None:
    expected = r"m\.onnx: the external data 'weights\.bin' of initializer 'w' cannot be used"
    with pytest.raises(InvalidModelError, match=expected):
        qt.import_model(external_model(tmp_path, "weights.bin"))


def test_external_data_that_is_too_short(tmp_path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(7))
    with pytest.raises(InvalidModelError, match="'w'"):
        qt.import_model(external_model(tmp_path, "weights.bin"))


@pytest.mark.parametrize("how", ["parent", "absolute", "link", "detour"])
def test_external_data_outside_the_folder(how, tmp_path) -> None:
    outside, folder = tmp_path / "secret.bin", tmp_path / "model"
    outside.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    folder.mkdir()
    if how == "link":
        (folder / "link.bin").symlink_to(outside)
    location = {
        "parent": "../secret.bin",
        "absolute": str(outside),
        "link": "link.bin",
        "detour": "../model/../secret.bin",
    }[how]
    with pytest.raises(InvalidModelError, match="of initializer 'w' cannot be used"):
        qt.import_model(external_model(folder, location))


@pytest.mark.parametrize("value", ["ten", "", "-5"])
def test_external_data_at_no_place(value, tmp_path) -> None:
    path = external_model(tmp_path, "weights.bin")
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    model = ModelProto.FromString(path.read_bytes())
    for entry in model.graph.initializer[0].external_data:
        entry.value = value if entry.key == "offset" else entry.value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidModelError, match="'w'"):
        qt.import_model(path)


def test_external_data_needs_a_path() -> None:
    expected = r"the model: initializer '.*' is in the external file 'external_data.bin'; import the model by"
    with pytest.raises(InvalidModelError, match=expected):
        qt.import_model((MODELS / "external_data.onnx").read_bytes())


def test_external_data_with_another_offset(tmp_path) -> None:
    for name in ("external_data.onnx", "external_data.bin"):
        shutil.copy(MODELS / name, tmp_path)
    data = (tmp_path / "external_data.bin").read_bytes()
    (tmp_path / "external_data.bin").write_bytes(data[: len(data) // 2])
    with pytest.raises(InvalidModelError, match=r"external_data\.onnx|initializer|tensor"):
        qt.import_model(tmp_path / "external_data.onnx")


def test_external_data_of_constant_nodes_lie_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    np.array([1.0, 2.0], dtype=np.float32).tofile(folder / "w.bin")
    np.array([7.0, 8.0], dtype=np.float32).tofile(elsewhere / "w.bin")
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "w.bin"
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["w"], value=tensor), helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2,))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2,))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    monkeypatch.chdir(elsewhere)
    assert qt.import_model(folder / "model.onnx")(torch.ones(2)).tolist() == [1.0, 2.0]
    with pytest.raises(
        qt.InvalidModelError, match=r"'w' is in the external file 'w.bin'; import the model by"
    ):
        qt.import_model(model.SerializeToString())


def test_an_input_declared_twice_is_refused() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, (2,))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value, value], [value])
    graph.output[0].name = "y"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(qt.InvalidModelError, match="graph input 'x' is declared twice"):
        qt.import_model(model)
