"""The copy for inference has the same bits, nothing to train, and less to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import qonnx_torch as qt
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.nn.scales import SCALE_TRAINING

ROOT = Path(__file__).parent.parent.parent
MODEL = ROOT / "examples" / "digits" / "digits_w4a4.onnx"
MODELS = sorted(p.stem for p in (ROOT / "tests" / "models").glob("*.onnx"))


def images() -> torch.Tensor:
    return torch.from_numpy(np.load(MODEL.parent / "digits.npz")["x_test"][:32] / np.float32(16))


def outputs(module: torch.nn.Module, *inputs: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        y = module(*inputs)
    return list(y) if isinstance(y, tuple) else [y]


def same_bits(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(
        torch.equal(torch.isnan(p), torch.isnan(q))
        and torch.equal(p.nan_to_num(), q.nan_to_num())
        and torch.equal(torch.signbit(p), torch.signbit(q))
        for p, q in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_model_keeps_its_bits_also_as_a_file(models_folder: Path, name: str, tmp_path: Path) -> None:
    module = qt.import_model(models_folder / f"{name}.onnx")
    arrays = np.load(models_folder / f"{name}.npz")
    count = sum(node.op == "placeholder" for node in module.graph.nodes)
    inputs = [torch.from_numpy(arrays[f"in{i}_s0"]) for i in range(count)]
    folded = qt.fold_for_inference(module)
    expected = outputs(module, *inputs)
    assert same_bits(outputs(folded, *inputs), expected)
    assert same_bits(outputs(qt.import_model(qt.export_qonnx(folded)), *inputs), expected)
    assert not list(folded.parameters())
    assert not any(n.op == "call_module" and n.args[0].op == "get_attr" for n in folded.graph.nodes)
    safetensors.torch.save_file(folded.state_dict(), tmp_path / "folded.safetensors")


@pytest.mark.parametrize("kind", SCALE_TRAINING)
def test_what_was_learned_becomes_plain(kind: str) -> None:
    weights = qt.QuantizerTraining(scale=kind)
    others = qt.QuantizerTraining(scale="step" if kind == "statistics" else kind, zero_point="learned")
    module = qt.import_model(MODEL, batch="dynamic", training=qt.TrainingConfig(weights, others))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.01)
    module.train()
    folded = qt.fold_for_inference(module)
    assert not folded.training
    assert all(q.scale_kind == "frozen" for q in folded.modules() if isinstance(q, qt.nn.Quantizer))
    assert not list(folded.parameters())
    assert all(m.training for m in module.modules())
    assert same_bits(outputs(folded, images()), outputs(module.eval(), images()))


@pytest.mark.parametrize("switch", ["disabled", "delayed", "delay over", "partly"])
def test_quantizers_that_are_off_are_gone(switch: str) -> None:
    module = qt.import_model(MODEL, batch="dynamic")
    if switch in ("disabled", "partly"):
        qt.disable_quantization(module, "*weight*" if switch == "partly" else None)
    else:
        qt.enable_quantization(module, after_steps=1)
        if switch == "delay over":
            with torch.enable_grad():
                module.train()(images())
            module.eval()
    expected = outputs(module, images())
    folded = qt.fold_for_inference(module)
    assert same_bits(outputs(folded, images()), expected)
    assert same_bits(outputs(qt.import_model(qt.export_qonnx(folded)), images()), expected)
    kept = [m for m in folded.modules() if isinstance(m, qt.nn.Quantizer)]
    assert bool(kept) == (switch in ("delay over", "partly"))
    assert not any("delay" in k for k in folded.state_dict())


def test_the_copy_shares_nothing_and_runs_no_weight_quantizer() -> None:
    module = qt.import_model(MODEL, batch="dynamic")
    folded = qt.fold_for_inference(module)
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    assert not own & {t.untyped_storage().data_ptr() for t in folded.buffers()}
    weights = [n for n, m in module.named_modules() if isinstance(m, qt.nn.Quant) and "weight" in n]
    assert len(weights) == 3
    assert not set(weights) & {n for n, _ in folded.named_modules()}
    expected = outputs(folded, images())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert same_bits(outputs(folded, images()), expected)


def test_it_compiles() -> None:
    folded = qt.fold_for_inference(qt.import_model(MODEL, batch="dynamic"))
    torch._dynamo.reset()
    compiled = torch.compile(folded, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(outputs(compiled, images()), outputs(folded, images()))


def test_after_folding_batch_normalization() -> None:
    module = qt.import_model(MODEL, batch="dynamic")
    qt.fold_batch_normalization(module)
    folded = qt.fold_for_inference(module)
    assert same_bits(outputs(folded, images()), outputs(module, images()))


def test_another_module_is_refused() -> None:
    with pytest.raises(QonnxTorchError, match=r"Sequential is no torch\.fx\.GraphModule"):
        qt.fold_for_inference(torch.nn.Sequential())
