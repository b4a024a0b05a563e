"""Import, export, import again: unchanged graphs node for node, edited ones with the same numbers."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.util.cleanup import cleanup_model

import qonnx_torch as qt
from qonnx_torch.provenance import provenance_of

MODELS = sorted((Path(__file__).parent.parent / "models").glob("*.onnx"))
# What the reference cannot run; tests/models/README.md says why.
NOT_IN_QONNX = {
    "brevitas_dynamic_batch": "qonnx needs a fixed batch size",
    "opset6_gemm": "neither qonnx nor onnxruntime implements Gemm-6",
}


def read(path: Path) -> onnx.ModelProto:
    return onnx.load(path)  # with external data


def samples(path: Path, sample: int = 0) -> list[torch.Tensor]:
    data = np.load(path.with_suffix(".npz"))
    return [torch.from_numpy(data[f"in{i}_s{sample}"]) for i in range(9) if f"in{i}_s{sample}" in data]


def goldens(path: Path) -> list[np.ndarray]:
    data = np.load(path.with_suffix(".npz"))
    return [data[f"out{i}_s0"] for i in range(99) if f"out{i}_s0" in data]


def run(module: torch.nn.Module, inputs: list[torch.Tensor]) -> list[np.ndarray]:
    with torch.no_grad():
        result = module(*inputs)
    return [t.numpy() for t in (result if isinstance(result, tuple) else (result,))]


def assert_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def load(path: Path, **options: object) -> torch.fx.GraphModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return qt.import_model(path, **options)


def forget_structure(module: torch.fx.GraphModule) -> None:
    """Makes a module look edited, so that its export is canonical."""
    changed = dataclasses.replace(provenance_of(module), fingerprint="edited")
    object.__setattr__(module, "provenance", changed)


def node_key(node: onnx.NodeProto) -> tuple:
    attributes = [
        a.SerializeToString(deterministic=True).replace(b"ROUND_TO_ZERO", b"DOWN")
        if a.name != "rounding_mode"
        else a.s.replace(b"ROUND_TO_ZERO", b"DOWN")
        for a in node.attribute
    ]
    return node.op_type, list(node.input), list(node.output), node.name, attributes


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_unchanged_model_comes_back(path: Path) -> None:
    source, result = read(path), qt.export_qonnx(load(path, fuse_qdq=False))
    assert [node_key(n) for n in source.graph.node] == [node_key(n) for n in result.graph.node]
    names = [i.name for i in source.graph.initializer]
    assert [i.name for i in result.graph.initializer] == names
    for a, b in zip(source.graph.initializer, result.graph.initializer, strict=True):
        assert a.data_type == b.data_type
        assert onnx.numpy_helper.to_array(a).tobytes() == onnx.numpy_helper.to_array(b).tobytes()
    own = next(o.version for o in source.opset_import if o.domain == "")
    assert result.opset_import[0] == onnx.helper.make_opsetid("", min(own, 21))


@pytest.mark.parametrize("functions", [False, True], ids=["plain", "functions"])
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_file_level_rules(path: Path, functions: bool) -> None:
    model = qt.export_qonnx(load(path), functions=functions)
    onnx.checker.check_model(model, full_check=True)
    graph = model.graph
    assert 8 <= model.ir_version <= 10
    assert model.opset_import[0].domain == ""
    assert model.opset_import[0].version <= 21
    domains = [o.domain for o in model.opset_import]
    assert len(domains) == len(set(domains))
    assert {n.domain for n in graph.node} <= set(domains)
    assert not {i.name for i in graph.input} & {i.name for i in graph.initializer}
    ends = {v.name for v in (*graph.input, *graph.output)}
    intermediates = {o for n in graph.node for o in n.output if o} - ends
    assert sorted(v.name for v in graph.value_info) == sorted(intermediates)
    have = {v.name for v in graph.input} | {i.name for i in graph.initializer} | {""}
    for node in graph.node:
        assert set(node.input) <= have
        have |= set(node.output)


@pytest.mark.parametrize("canonical", [False, True], ids=["unchanged", "canonical"])
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_reference_executes_the_export(path: Path, canonical: bool) -> None:
    if path.stem in NOT_IN_QONNX:
        pytest.skip(NOT_IN_QONNX[path.stem])
    module = load(path)
    if canonical:
        forget_structure(module)
    model = cleanup_model(ModelWrapper(qt.export_qonnx(module)))
    inputs = [x.numpy() for x in samples(path)]
    feed = {v.name: x for v, x in zip(model.graph.input, inputs, strict=True)}
    result = execute_onnx(model, feed)
    assert_equal([result[o.name] for o in model.graph.output], goldens(path))


@pytest.mark.parametrize("form", ["unchanged", "canonical", "functions"])
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_reimport_gives_the_same_numbers(path: Path, form: str) -> None:
    module, inputs = load(path), samples(path)
    if form == "canonical":
        forget_structure(module)
    again = qt.import_model(qt.export_qonnx(module, functions=form == "functions"))
    assert_equal(run(again, inputs), run(module, inputs))
    if form == "unchanged":
        assert list(again.state_dict()) == list(module.state_dict())
        first, second = qt.export_qonnx(module), qt.export_qonnx(again)
        assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_plain_onnxruntime_executes_functions(path: Path) -> None:
    module, inputs = load(path), samples(path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    content = qt.export_qonnx(module, functions=True).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    feed = {v.name: x.numpy() for v, x in zip(session.get_inputs(), inputs, strict=True)}
    for found, expected in zip(session.run(None, feed), run(module, inputs), strict=True):
        largest = np.abs(expected[np.isfinite(expected)]).max(initial=0)
        # Sums are added up in another order; no model here has a rounding so near to a tie that it flips.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * max(1.0, float(largest)))


def test_opset_version_is_followed() -> None:
    module = load(next(p for p in MODELS if p.stem == "brevitas_conv_per_channel"))
    for version in (13, 15, 17, 18, 20, 21, 22):
        model = qt.export_qonnx(module, opset_version=version)
        onnx.checker.check_model(model, full_check=True)
        assert model.opset_import[0].version == version
    path = next(p for p in MODELS if p.stem == "newest_opset")
    assert qt.export_qonnx(load(path), opset_version=25).opset_import[0].version == 25
    with pytest.raises(qt.ExportError, match="Gelu does not exist in opset 13; ask for a newer one"):
        qt.export_qonnx(load(path), opset_version=13)


def test_axes_become_an_attribute_again() -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (2, 3, 4))],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (2,))],
        [onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, (2,), [1, -1])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    older = qt.export_qonnx(qt.import_model(model), opset_version=13)
    onnx.checker.check_model(older, full_check=True)
    x = [torch.arange(24.0).reshape(2, 3, 4)]
    assert_equal(run(qt.import_model(older), x), [np.array([5.5, 17.5], dtype=np.float32)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset_version": 9, "functions": True}, "function bodies need opset 15"),
        ({"functions": True, "ir_version": 8}, "function overloads need IR 10"),
    ],
)
def test_impossible_versions_are_refused(options: dict, message: str) -> None:
    module = load(next(p for p in MODELS if p.stem == "brevitas_mlp_w2a2"))
    with pytest.raises(qt.ExportError, match=message):
        qt.export_qonnx(module, **options)


@pytest.mark.parametrize("edited", [False, True], ids=["unchanged", "canonical"])
@pytest.mark.parametrize(
    ("name", "version"),
    [("opset_version", v) for v in (-1, 0, 5, onnx.defs.onnx_opset_version() + 1, 99)]
    + [("ir_version", v) for v in (0, 3, onnx.IR_VERSION + 1, 99)],
)
def test_versions_that_do_not_exist_are_refused(name: str, version: int, edited: bool) -> None:
    module = load(next(p for p in MODELS if p.stem == "brevitas_mlp_w2a2"))
    if edited:
        forget_structure(module)
    with pytest.raises(qt.ExportError, match=rf"{name}={version}: it must be from \d+ to \d+, or None"):
        qt.export_qonnx(module, **{name: version})


@pytest.mark.parametrize("version", [4, onnx.IR_VERSION])
def test_ir_version_is_followed(version: int) -> None:
    module = load(next(p for p in MODELS if p.stem == "brevitas_mlp_w2a2"))
    assert qt.export_qonnx(module, ir_version=version).ir_version == version


def quantizers(module: torch.nn.Module) -> dict[str, qt.nn.Quant]:
    return {n: m for n, m in module.named_modules() if isinstance(m, qt.nn.Quant)}


def test_shared_parameters_part_when_trained_apart() -> None:
    path = next(p for p in MODELS if p.stem == "brevitas_attention")
    module, inputs = load(path), samples(path)
    shared = next(
        t
        for t in provenance_of(module).tensors
        if len(t.paths) > 1 and all(p.endswith(".zero_point") for p in t.paths)
    )
    with torch.no_grad():
        module.get_buffer(shared.paths[-1]).add_(1)
    model = qt.export_qonnx(module)
    names = [i.name for i in model.graph.initializer]
    assert shared.name in names
    assert f"{shared.name}_1" in names
    onnx.checker.check_model(model, full_check=True)
    assert_equal(run(qt.import_model(model), inputs), run(module, inputs))


def test_trained_weights_are_no_change_of_structure() -> None:
    path = next(p for p in MODELS if p.stem == "brevitas_conv_per_channel")
    module, inputs = load(path), samples(path)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.01)
    source, result = read(path), qt.export_qonnx(module)
    assert [node_key(n) for n in source.graph.node] == [node_key(n) for n in result.graph.node]
    assert_equal(run(qt.import_model(result), inputs), run(module, inputs))


def test_a_quantizer_attribute_changed_by_hand_is_written() -> None:
    path = next(p for p in MODELS if p.stem == "brevitas_mlp_w2a2")
    module, inputs = load(path), samples(path)
    for quantizer in quantizers(module).values():
        quantizer.rounding_mode = "FLOOR"
    model = qt.export_qonnx(module)
    modes = {a.s for n in model.graph.node for a in n.attribute if a.name == "rounding_mode"}
    assert modes == {b"FLOOR"}
    assert_equal(run(qt.import_model(model), inputs), run(module, inputs))


def test_an_edited_graph_is_written_whole() -> None:
    path = next(p for p in MODELS if p.stem == "brevitas_conv_per_channel")
    module, inputs = load(path), samples(path)
    module.add_module("extra", qt.nn.Quant(0.125, 0, 5, signed=True, narrow=False))
    module.add_module("act", torch.nn.ReLU())
    output = next(n for n in module.graph.nodes if n.op == "output")
    with module.graph.inserting_before(output):
        quantized = module.graph.call_module("extra", (output.args[0],))
        activated = module.graph.call_module("act", (quantized,))
        halved = module.graph.call_function(torch.mul, (activated, 0.5))
    output.args = (halved,)
    module.recompile()
    model = qt.export_qonnx(module)
    onnx.checker.check_model(model, full_check=True)
    assert [n.op_type for n in model.graph.node[-3:]] == ["Quant", "Relu", "Mul"]
    assert_equal(run(qt.import_model(model), inputs), run(module, inputs))


def test_nodes_without_an_operator_are_listed() -> None:
    module = load(next(p for p in MODELS if p.stem == "brevitas_mlp_w2a2"))
    output = next(n for n in module.graph.nodes if n.op == "output")
    with module.graph.inserting_before(output):
        first = module.graph.call_function(torch.fft.fft, (output.args[0],))
        second = module.graph.call_function(torch.special.erfcx, (output.args[0],))
    output.args = ((second, first),)
    module.recompile()
    with pytest.raises(qt.ExportError, match=r"2 nodes cannot be written:\n.*fft.*\n.*erfcx") as caught:
        qt.export_qonnx(module)
    assert "no ONNX operator" in str(caught.value)


def test_a_module_that_is_no_graph_is_refused() -> None:
    with pytest.raises(qt.ExportError, match=r"Linear is no torch\.fx\.GraphModule.*import_model") as caught:
        qt.export_qonnx(torch.nn.Linear(2, 2))
    assert "symbolic_trace" not in str(caught.value)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_export_alike(duplicate) -> None:
    path = next(p for p in MODELS if p.stem == "legacy_opset9_shape_chain")
    module = load(path)
    expected = qt.export_qonnx(module).SerializeToString(deterministic=True)
    assert qt.export_qonnx(duplicate(module)).SerializeToString(deterministic=True) == expected


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(next(p for p in MODELS if p.stem == "brevitas_mlp_w2a2"))
    target = tmp_path / "model.onnx"
    qt.export_qonnx(module, target)
    whole = target.read_bytes()
    assert list(tmp_path.iterdir()) == [target]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(qt.ExportError, match="No space left on device"):
        qt.export_qonnx(module, target)
    assert target.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(qt.ExportError, match="No such file or directory"):
        qt.export_qonnx(module, tmp_path / "missing" / "model.onnx")


@pytest.mark.corpus
def test_corpus_round_trip(corpus: Path) -> None:
    try:
        module = load(corpus / "model.onnx", fuse_qdq=False)
    except qt.UnsupportedModelError as error:
        pytest.skip(str(error).splitlines()[0])
    data = np.load(corpus / "inputs.npz")
    inputs = [torch.from_numpy(data[f"in{i}_s0"]) for i in range(9) if f"in{i}_s0" in data]
    source, result = onnx.load(corpus / "model.onnx"), qt.export_qonnx(module)
    assert [node_key(n) for n in source.graph.node] == [node_key(n) for n in result.graph.node]
    onnx.checker.check_model(result, full_check=True)
    expected = run(module, inputs)
    assert_equal(run(qt.import_model(result), inputs), expected)
    forget_structure(module)
    assert_equal(run(qt.import_model(qt.export_qonnx(module, args=tuple(inputs))), inputs), expected)
