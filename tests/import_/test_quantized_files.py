"""Files of onnxruntime's quantizer and of Brevitas, made here: imported, run, trained, exported."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

import qonnx_torch as qt
import qonnx_torch.nn as qnn

ROOT = Path(__file__).resolve().parents[2]


def _files() -> ModuleType:
    """The module that makes the files; the benchmark uses it, too."""
    path = ROOT / "benchmarks" / "_qdq_files.py"
    spec = importlib.util.spec_from_file_location("qdq_files", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILES = _files()
KINDS = [*FILES.STATIC, *FILES.DYNAMIC]
IMAGES = FILES.data()[2][:64]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantized")


@pytest.fixture(scope="session", params=FILES.NETWORKS)
def network(request: pytest.FixtureRequest, folder: Path) -> Path:
    """A float network that was trained for one epoch."""
    path = folder / f"{request.param}.onnx"
    FILES.float_file(request.param, path, epochs=1)
    return path


@pytest.fixture
def quantized(request: pytest.FixtureRequest, network: Path) -> Path:
    """That network in a kind of file."""
    path = network.with_suffix(f".{request.param}.onnx")
    if not path.exists():
        make = FILES.static_file if request.param in FILES.STATIC else FILES.dynamic_file
        make(request.param, network, path)
    return path


every_kind = pytest.mark.parametrize("quantized", KINDS, indirect=True)
every_pair = pytest.mark.parametrize("quantized", [k for k in KINDS if k.startswith("qdq")], indirect=True)


def run(model: Path | bytes, images: torch.Tensor = IMAGES) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    return result


def close(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for what follows a sum that another order of additions takes over a tie."""
    off = np.abs(found - expected)
    assert np.mean(off.max(-1) > 1e-5) <= 0.25
    assert off.max() < 0.05 * np.abs(expected).max()
    assert np.mean(found.argmax(-1) == expected.argmax(-1)) > 0.95


@every_kind
def test_numbers(quantized: Path) -> None:
    fused, plain = qt.import_model(quantized), qt.import_model(quantized, fuse_qdq=False)
    with torch.no_grad():
        found = fused(IMAGES)
        assert torch.equal(found, plain(IMAGES))
    expected = run(quantized)
    if "qoperator" in quantized.name:
        np.testing.assert_array_equal(found.numpy(), expected)
    elif "a16" in quantized.name:  # the last step is so small that sums in float32 take another one
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)
    else:
        close(found.numpy(), expected)


@every_pair
def test_pairs_are_quantizers(quantized: Path) -> None:
    module = qt.import_model(quantized)
    operators = [n.meta["onnx"].op_type for n in module.graph.nodes if "onnx" in n.meta]
    assert "QuantizeLinear" not in operators
    assert "DequantizeLinear" not in operators
    pairs = sum(n.op_type == "DequantizeLinear" for n in onnx.load(quantized).graph.node)
    assert sum(isinstance(m, qnn.Quantizer) for m in module.modules()) == pairs
    integers = {n for n, b in module.named_buffers() if not b.is_floating_point() and b.numel() > 1}
    assert not [name for name in integers if not name.endswith("zero_point")]


@every_pair
def test_training_and_export(quantized: Path) -> None:
    """Every parameter learns; what was learned is exported, and qonnx and onnxruntime compute it."""
    config = qt.TrainingConfig(
        weights=qt.QuantizerTraining(gradient="lsq", scale="log2"),
        activations=qt.QuantizerTraining(gradient="lsq", scale="log2"),
    )
    module = qt.import_model(quantized, training=config)
    images, labels = (t[:96] for t in FILES.data()[:2])
    optimizer = torch.optim.Adam(qt.parameter_groups(module, quantizer_lr=1e-3), lr=1e-3)
    losses = []
    module.train()
    for _ in range(12):
        optimizer.zero_grad()
        loss = F.cross_entropy(module(images), labels)
        loss.backward()
        if not losses:
            without = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
            assert not without
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) < losses[0]  # 4 bit weights start on their grid, and then leave it all at once
    module.eval()
    exported = qt.export_qonnx(module, functions=True)
    onnx.checker.check_model(exported, full_check=True)
    with torch.no_grad():
        expected = module(IMAGES)
        assert torch.equal(qt.import_model(exported)(IMAGES), expected)
    close(run(exported.SerializeToString()), expected.numpy())


@pytest.mark.parametrize(("weights", "activations"), [(8, 8), (4, 4), (2, 3)])
def test_brevitas_qcdq(folder: Path, weights: int, activations: int) -> None:
    path = folder / f"brevitas_{weights}_{activations}.onnx"
    FILES.brevitas_file(path, weights, activations)
    fused, plain = qt.import_model(path), qt.import_model(path, fuse_qdq=False)
    found = sorted(type(m).__name__ for m in fused.modules() if isinstance(m, qnn.Quantizer))
    assert found == ["Quant"] * 5 + ["QuantizeDequantizeLinear"]  # one activation has a zero point
    bits = sorted(int(m.bit_width) for m in fused.modules() if isinstance(m, qnn.Quant))
    assert bits == sorted([8, activations, weights, weights, weights])
    for image in IMAGES[:8].split(1):
        with torch.no_grad():
            assert torch.equal(fused(image), plain(image))
            np.testing.assert_allclose(fused(image).numpy(), run(path, image), atol=1e-5)
    exported = qt.export_qonnx(fused)
    assert torch.equal(qt.import_model(exported)(IMAGES[:1]), fused(IMAGES[:1]))
