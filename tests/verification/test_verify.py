"""verify: references, forms of data, the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto, helper
from torch import nn

import qonnx_torch as qt
from qonnx_torch.errors import VerificationError
from qonnx_torch.import_ import import_model
from qonnx_torch.verification import verify

MODELS = Path(__file__).resolve().parents[1] / "models"


def sample(name: str, k: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    with np.load(MODELS / f"{name}.npz") as data:
        inputs = [data[key] for key in data.files if key.startswith("in") and key.endswith(f"_s{k}")]
        outputs = [data[key] for key in data.files if key.startswith("out") and key.endswith(f"_s{k}")]
    return inputs, outputs


def intermediates(name: str) -> dict[str, np.ndarray]:
    with np.load(MODELS / f"{name}.npz") as data:
        return {key[len("mid_s0/") :]: data[key] for key in data.files if key.startswith("mid_s0/")}


def test_is_public() -> None:
    assert qt.verify is verify


@pytest.mark.parametrize("name", sorted(p.stem for p in MODELS.glob("*.onnx")))
def test_every_model_has_its_golden_outputs_and_intermediates(name: str) -> None:
    inputs, outputs = sample(name)
    inner = intermediates(name)
    module = import_model(MODELS / f"{name}.onnx")
    report = verify(module, inputs, outputs, intermediates=inner or None, allow_nan=True)
    assert report.passed, report.table()
    assert report.errors == 0
    if inner:
        assert len(report.layers) >= len(inner) / 2


@pytest.mark.parametrize(
    "name", ["brevitas_mlp_w2a2", "legacy_opset9_shape_chain", "brevitas_conv_trunc", "multithreshold"]
)
@pytest.mark.parametrize("program", ["onnxruntime", "qonnx"])
def test_programs_as_references(name: str, program: str) -> None:
    pytest.importorskip(program)
    path = MODELS / f"{name}.onnx"
    inputs, _ = sample(name)
    report = verify(import_model(path), inputs, reference=program, model=path)
    assert report.passed, report.table()
    assert report.reference == program
    assert any(row.quantizer for row in report.layers)
    assert all(row.forced_differing == 0 for row in report.layers if row.quantizer)


@pytest.mark.parametrize("program", ["onnxruntime", "qonnx"])
def test_a_module_is_its_own_model(program: str) -> None:
    pytest.importorskip(program)
    module = import_model(MODELS / "brevitas_mlp_w2a2.onnx")
    with torch.no_grad():
        next(module.parameters()).mul_(0.5)  # no longer what the file has
    inputs, _ = sample("brevitas_mlp_w2a2")
    assert verify(module, inputs, reference=program).passed


@pytest.mark.parametrize("program", ["onnxruntime", "qonnx"])
def test_a_dynamic_batch_against_a_frozen_file(program: str) -> None:
    pytest.importorskip(program)
    path = MODELS / "reshape_batch1.onnx"
    x = np.concatenate([sample("reshape_batch1", k)[0][0] for k in (0, 1, 0)])
    report = verify(import_model(path, batch="dynamic"), x, reference=program, model=path)
    assert report.passed, report.table()
    assert report.samples == 3
    assert report.outputs[0].elements == 3 * sample("reshape_batch1")[1][0].size
    alone = verify(import_model(path), x[:1], reference=program, model=path)
    ratio = {
        row.name: row.elements / one.elements for row, one in zip(report.layers, alone.layers, strict=False)
    }
    assert set(ratio.values()) == {1, 3}, "what does not depend on the data is compared once"


@pytest.mark.parametrize("program", ["onnxruntime", "qonnx"])
def test_a_symbolic_batch(program: str) -> None:
    pytest.importorskip(program)
    path = MODELS / "brevitas_dynamic_batch.onnx"
    inputs, _ = sample("brevitas_dynamic_batch")  # 3 samples
    report = verify(import_model(path), inputs, reference=program, model=path, batch_size=2)  # 2 + 1
    assert report.passed, report.table()


@pytest.mark.parametrize("program", ["onnxruntime", "qonnx"])
def test_a_missing_program_says_what_to_install(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n == program or n.startswith(f"{program}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, program, None)
    monkeypatch.setitem(sys.modules, f"{program}.core.onnx_exec", None)
    path = MODELS / "brevitas_mlp_w2a2.onnx"
    with pytest.raises(VerificationError, match=rf"{program} is not installed.*qonnx-torch\["):
        verify(import_model(path), sample("brevitas_mlp_w2a2")[0], reference=program, model=path)


def test_a_file_as_reference() -> None:
    path = MODELS / "multi_io.onnx"
    inputs, _ = sample("multi_io")
    report = verify(import_model(path), inputs, reference=str(path))
    assert report.equal
    assert len(report.outputs) == 3


def test_an_unusable_reference() -> None:
    module = import_model(MODELS / "multi_io.onnx")
    with pytest.raises(VerificationError, match=r"neither 'onnxruntime' nor 'qonnx': nowhere.onnx"):
        verify(module, sample("multi_io")[0], reference="nowhere.onnx")


def test_exactly_one_thing_to_compare_with() -> None:
    module = import_model(MODELS / "multi_io.onnx")
    inputs, outputs = sample("multi_io")
    with pytest.raises(VerificationError, match="either expected values or a reference"):
        verify(module, inputs)
    with pytest.raises(VerificationError, match="not both"):
        verify(module, inputs, outputs, reference="qonnx")


def test_any_module_without_layers() -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 2)
    x = torch.randn(8, 4)
    report = verify(module, x, module(x))
    assert report.equal
    assert report.layers == ()
    assert not verify(module, x, module(x) + 1).passed
    assert verify(module, x, reference=nn.Sequential(module)).passed


def test_forms_of_data(tmp_path: Path) -> None:
    path = MODELS / "multi_io.onnx"
    module = import_model(path)
    inputs, outputs = sample("multi_io")
    names = [s.name for s in qt.verification.input_specs(module)]
    named = dict(zip(names, inputs, strict=True))
    np.savez(tmp_path / "named.npz", **named)
    np.savez(tmp_path / "in.npz", **{f"in{i}": a for i, a in enumerate(inputs)})
    np.savez(tmp_path / "out.npz", **{f"out{i}": a for i, a in enumerate(outputs)})
    np.savez(tmp_path / "arr.npz", *inputs)
    for i, array in enumerate(inputs):
        np.save(tmp_path / f"in{i}.npy", array)
    files = [tmp_path / f"in{i}.npy" for i in range(len(inputs))]
    tensors = tuple(torch.from_numpy(a) for a in inputs)
    for data in (
        inputs,
        tensors,
        named,
        tmp_path / "named.npz",
        tmp_path / "in.npz",
        tmp_path / "arr.npz",
        files,
    ):
        assert verify(module, data, tmp_path / "out.npz").equal
    assert len(verify(module, inputs, {"out0": outputs[0]}).outputs) == 1


def test_expected_values_of_another_shape_are_refused() -> None:
    module = import_model(MODELS / "multi_io.onnx")
    inputs, outputs = sample("multi_io")
    with pytest.raises(VerificationError, match="the module gives shape"):
        verify(module, inputs, [outputs[0][..., :-1], *outputs[1:]])
    with pytest.raises(VerificationError, match="1 output array given, but the model has 3 outputs"):
        verify(module, inputs, outputs[0])
    with pytest.raises(VerificationError, match="output 'nothing' is not known"):
        verify(module, inputs, {"nothing": outputs[0]})


def test_the_tolerance_is_relative_to_the_largest_value() -> None:
    module = nn.Identity()
    x = np.array([[100.0, 0.0]], np.float32)
    # 100 * 1e-4 + 1e-5 = 0.01001, for every element.
    assert verify(module, x, np.array([[100.0, 0.01]], np.float32)).passed
    assert not verify(module, x, np.array([[100.0, 0.011]], np.float32)).passed
    assert not verify(module, x, np.array([[100.0, 0.01]], np.float32), rtol=1e-5).passed


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.array([[90_000, 1]]), np.array([[90_001, 1]])),  # within 9.00001 by the tolerance for floats
        (np.array([[2**53]]), np.array([[2**53 + 1]])),  # equal in float64
        (np.array([[True, False]]), np.array([[True, True]])),
    ],
)
@pytest.mark.parametrize("tolerances", [{}, {"rtol": 1.0, "atol": 10.0}])
def test_integers_and_booleans_are_compared_exactly(
    given: np.ndarray, expected: np.ndarray, tolerances: dict[str, float]
) -> None:
    report = verify(nn.Identity(), given, expected, **tolerances)
    (output,) = report.outputs
    assert (output.differing, output.max_abs_diff, output.tolerance) == (1, 1.0, 0.0)
    assert (output.within_tolerance, report.passed) == (False, False)
    assert verify(nn.Identity(), given, given, **tolerances).equal


def test_indices_inside_the_graph_are_compared_exactly(make_model: Callable[..., ModelProto]) -> None:
    nodes = [
        helper.make_node("ArgMax", ["x"], ["index"], axis=1, keepdims=0),
        helper.make_node("Cast", ["index"], ["y"], to=1),
    ]
    module = import_model(make_model(nodes, inputs={"x": (1, 50_000)}))
    x = np.zeros((1, 50_000), np.float32)
    x[0, 40_000] = 1
    expected = {"index": np.array([40_001]), "y": np.array([40_001], np.float32)}
    report = verify(module, x, expected)
    assert (report.outputs[0].within_tolerance, report.errors, report.passed) == (True, 1, False)
    assert report.first_divergence is report.layers[0]


def test_nan_and_infinity_compare_as_values() -> None:
    module = nn.Identity()
    x = np.array([[np.nan, np.inf, 1.0]], np.float32)
    assert verify(module, x, x, allow_nan=True).equal
    report = verify(module, x, np.array([[np.nan, 1.0, np.nan]], np.float32), allow_nan=True)
    assert (report.outputs[0].differing, report.outputs[0].max_abs_diff) == (2, np.inf)
    assert not report.passed
    assert json.loads(report.to_json())["outputs"][0]["max_abs_diff"] == "inf"


def test_report_as_table_and_json() -> None:
    path = MODELS / "brevitas_mlp_w2a2.onnx"
    inputs, outputs = sample("brevitas_mlp_w2a2")
    report = verify(import_model(path), inputs, reference=import_model(path))
    table = report.table()
    assert all(row.name[:20] in table for row in report.layers)
    assert "passed" in table
    content = json.loads(report.to_json())
    assert content == json.loads(json.dumps(report.to_dict()))
    assert content["passed"] is True
    assert content["first_divergence"] is content["first_difference"] is None
    assert content["exact_quantizers"] is True
    assert [row["name"] for row in content["layers"]] == [row.name for row in report.layers]
    wrong = verify(import_model(path), inputs, outputs[0] + 1)
    assert "FAILED" in wrong.table()
    assert "first divergence: output" in wrong.table()


def test_names_that_look_like_markup_stay_whole(make_model: Callable[..., ModelProto]) -> None:
    name = "[bold]y[/bold]"
    module = import_model(make_model([helper.make_node("Identity", ["x"], [name])], outputs=[name]))
    assert name in verify(module, np.ones((1, 4)), np.ones((1, 4))).table()
