"""Shapes by fake tensors against the shapes that execution gives."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx

import qonnx_torch as qt
from qonnx_torch.ops import as_tensor, is_shape_value
from qonnx_torch.provenance import value_names

MODELS = sorted((Path(__file__).parent.parent / "models").glob("*.onnx"))


def load(path: Path, **options) -> fx.GraphModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return qt.import_model(path, **options)


class Recorder(fx.Interpreter):
    def run_node(self, n: fx.Node):
        result = super().run_node(n)
        self.seen = {**getattr(self, "seen", {}), n: result}
        return result


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_shapes_are_those_of_execution(path: Path) -> None:
    module = load(path)
    data = np.load(path.with_suffix(".npz"))
    inputs = [torch.from_numpy(data[f"in{i}_s0"]) for i in range(9) if f"in{i}_s0" in data]
    recorder = Recorder(module)
    recorder.run(*inputs)
    infos = qt.infer_shapes(module, *inputs)
    compared = 0
    for node, names in value_names(module).items():
        result = recorder.seen[node]
        if node.op == "output" or (isinstance(result, tuple) and not is_shape_value(result[0])):
            continue
        tensor = as_tensor(result)
        info = infos[names[0]]
        if not is_shape_value(result) and len(names) > 1:
            continue
        assert (info.shape, info.dtype) == (tuple(tensor.shape), tensor.dtype), names
        compared += 1
    assert compared > 0


def test_dynamic_dimensions_keep_their_names() -> None:
    path = next(p for p in MODELS if p.stem == "brevitas_conv_per_channel")
    fixed = qt.infer_shapes(load(path))
    dynamic = qt.infer_shapes(load(path, batch="dynamic"))
    activations = [name for name, info in fixed.items() if info.shape and info.shape[0] == 1]
    assert len(activations) > 5
    for name in activations:
        assert dynamic[name].shape == ("batch", *fixed[name].shape[1:])


def test_training_mode_and_statistics_are_left_alone() -> None:
    module = load(next(p for p in MODELS if p.stem == "brevitas_conv_per_channel")).train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    qt.infer_shapes(module)
    assert all(m.training for m in module.modules())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_the_first_node_that_fails_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    module = load(next(p for p in MODELS if p.stem == "brevitas_mlp_w2a2"))
    with pytest.raises(
        qt.UnsupportedModelError, match=r"the shape of node .*(MatMul|Gemm).*cannot be inferred"
    ):
        qt.infer_shapes(module, torch.zeros(1, 3))
    assert "Traceback" not in capfd.readouterr().err
