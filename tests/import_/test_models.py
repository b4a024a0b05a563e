"""Every model in tests/models imports and computes its golden, outputs and everything in between."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx

import qonnx_torch as qt
from qonnx_torch.provenance import provenance_of, value_names

MODELS = Path(__file__).resolve().parents[1] / "models"
NAMES = sorted(p.stem for p in MODELS.glob("*.onnx"))

# All arithmetic in these is exact in float32 (integers, powers of two) or element by element.
EXACT = {"floatquant_flags", "multi_io", "quant_parameters", "trunc_v1", "trunc_v2"}


def golden(name: str) -> Any:
    return np.load(MODELS / f"{name}.npz")


def samples(data: Any, sample: int) -> tuple[list[torch.Tensor], list[np.ndarray]]:
    inputs = [
        torch.from_numpy(data[k])
        for k in sorted(data.files)
        if k.startswith("in") and k.endswith(f"_s{sample}")
    ]
    count = sum(k.startswith("out") and k.endswith(f"_s{sample}") for k in data.files)
    return inputs, [data[f"out{i}_s{sample}"] for i in range(count)]


def run(module: Any, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        y = module(*inputs)
    return list(y) if isinstance(y, tuple) else [y]


def assert_golden(actual: torch.Tensor, expected: np.ndarray, exact: bool, what: str = "") -> None:
    got = actual.detach().numpy()
    assert got.dtype == expected.dtype, what
    assert got.shape == expected.shape, what
    if exact or expected.dtype.kind != "f":
        np.testing.assert_array_equal(got, expected, err_msg=what)
    else:
        tolerance = 1e-5 + 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance, err_msg=what)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_the_golden(name: str) -> None:
    module = qt.import_model(MODELS / f"{name}.onnx")
    assert not module.training
    for sample in (0, 1):
        inputs, expected = samples(golden(name), sample)
        actual = run(module, inputs)
        assert len(actual) == len(expected)
        for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
            assert_golden(a, e, name in EXACT, f"output {i} of sample {sample}")


@pytest.mark.parametrize("name", NAMES)
def test_intermediate_values_equal_the_golden(name: str) -> None:
    module = qt.import_model(MODELS / f"{name}.onnx", fuse_qdq=False)
    data = golden(name)
    values: dict[str, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            names = onnx_names.get(n, ())
            if len(names) == 1:
                values[names[0]] = result
            return result

    onnx_names = value_names(module)
    with torch.no_grad():
        Recorder(module).run(*samples(data, 0)[0])
    stored = {k.removeprefix("mid_s0/"): data[k] for k in data.files if k.startswith("mid_s0/")}
    missing = [k for k in stored if k not in values]
    assert not missing
    for key, expected in stored.items():
        actual = values[key]
        if not isinstance(actual, torch.Tensor):  # a shape, as Python ints
            actual = torch.tensor(actual)
        assert_golden(actual, expected, name in EXACT, key)


@pytest.mark.parametrize("name", NAMES)
def test_copies_keep_outputs_and_provenance(name: str) -> None:
    module = qt.import_model(MODELS / f"{name}.onnx")
    inputs, _ = samples(golden(name), 0)
    expected = run(module, inputs)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    copies = {
        "deepcopy": copy.deepcopy(module),
        "pickle": pickle.loads(pickle.dumps(module)),
        "torch.save": torch.load(buffer, weights_only=False),
        "pickle of a deepcopy": pickle.loads(pickle.dumps(copy.deepcopy(module))),
    }
    for how, again in copies.items():
        for a, e in zip(run(again, inputs), expected, strict=True):
            assert torch.equal(a.nan_to_num(), e.nan_to_num()), how
        assert provenance_of(again) == provenance_of(module), how
        assert list(value_names(again).values()) == list(value_names(module).values()), how
        assert list(again.state_dict()) == list(module.state_dict()), how
        assert not again.training, how


@pytest.mark.parametrize("name", NAMES)
def test_bytes_and_proto_import_like_the_file(name: str) -> None:
    if name == "external_data":
        pytest.skip("its data lies beside the file")
    path = MODELS / f"{name}.onnx"
    module, again = qt.import_model(path), qt.import_model(path.read_bytes())
    assert again.code == module.code
    assert provenance_of(again) == provenance_of(module)


@pytest.mark.parametrize("name", ["brevitas_conv_per_channel", "legacy_opset9_shape_chain"])
def test_compiles_as_one_graph(name: str) -> None:
    module = qt.import_model(MODELS / f"{name}.onnx")
    compiled = torch.compile(module, fullgraph=True)
    inputs, expected = samples(golden(name), 0)
    for a, e in zip(run(compiled, inputs), expected, strict=True):
        assert_golden(a, e, exact=False)


@pytest.mark.parametrize("name", ["brevitas_dynamic_batch", "legacy_opset9_shape_chain", "brevitas_fp8"])
def test_exports_with_a_dynamic_batch(name: str) -> None:
    module = qt.import_model(MODELS / f"{name}.onnx")
    x = torch.cat([samples(golden(name), s)[0][0] for s in (0, 1)])
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    for batch in (x, x.repeat(3, *[1] * (x.dim() - 1))):
        for a, e in zip(run(program.module(), [batch]), run(module, [batch]), strict=True):
            assert torch.equal(a, e)
