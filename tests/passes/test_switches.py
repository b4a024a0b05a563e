"""A trainer's switches on a whole module: quantization, learning, batch statistics."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qonnx_torch as qt
from qonnx_torch.errors import QonnxTorchError

ROOT = Path(__file__).parent.parent.parent
MODEL = ROOT / "examples" / "digits" / "digits_w4a4.onnx"
STEP = qt.QuantizerTraining(scale="step", gradient="lsq")


def data(rows: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    arrays = np.load(MODEL.parent / "digits.npz")
    return torch.from_numpy(arrays["x_train"][:rows] / np.float32(16)), torch.from_numpy(
        arrays["y_train"][:rows]
    ).long()


def load(**training) -> torch.fx.GraphModule:
    return qt.import_model(MODEL, batch="dynamic", training=qt.TrainingConfig(STEP, STEP, **training))


def quantizers(module: torch.nn.Module) -> list[qt.nn.Quantizer]:
    return [m for m in module.modules() if isinstance(m, qt.nn.Quantizer)]


def train(module: torch.nn.Module, steps: int, compiled=None) -> list[float]:
    x, y = data()
    module.train()
    optimizer = torch.optim.SGD(qt.parameter_groups(module), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy((module if compiled is None else compiled)(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def without_quantizers(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The float network of a graph: its quantizers erased, by hand."""
    plain = copy.deepcopy(module)
    for node in list(plain.graph.nodes):
        if node.op == "call_module" and isinstance(plain.get_submodule(node.target), qt.nn.Quantizer):
            node.replace_all_uses_with(node.args[0])
            plain.graph.erase_node(node)
    plain.recompile()
    return plain


def test_off_is_the_float_network() -> None:
    x, _ = data()
    module = load()
    plain, quantized = without_quantizers(module), module(x)
    qt.disable_quantization(module)
    assert torch.equal(module(x), plain(x))
    assert train(module, 3) == train(plain, 3)
    assert all(p.grad is not None for p in module.parameters())
    qt.enable_quantization(module)
    assert not torch.equal(module.eval()(x), plain.eval()(x))
    untouched = load()
    qt.disable_quantization(untouched)
    qt.enable_quantization(untouched)
    assert torch.equal(untouched(x), quantized)


def test_all_kinds_but_those_that_give_another_quantity(models_folder: Path) -> None:
    for name, kinds in {
        "brevitas_bipolar_mlp": {qt.nn.BipolarQuant},
        "brevitas_fp8": {qt.nn.FloatQuant},
        "brevitas_conv_trunc": {qt.nn.Quant, qt.nn.Trunc},
        "trunc_v1": {qt.nn.Quant},
        "multithreshold": set(),
    }.items():
        module = qt.import_model(models_folder / f"{name}.onnx")
        qt.disable_quantization(module)
        assert {type(q) for q in quantizers(module) if not q.enabled} == kinds
        x = torch.from_numpy(np.load(models_folder / f"{name}.npz")["in0_s0"])
        results = module(x)
        assert all(torch.isfinite(y).all() for y in (results if isinstance(results, tuple) else (results,)))
        qt.enable_quantization(module)
        assert all(q.enabled for q in quantizers(module))


def test_names_and_patterns() -> None:
    module = load()
    names = [n for n, m in module.named_modules() if isinstance(m, qt.nn.Quantizer)]
    qt.disable_quantization(module, "*weight*")
    off = {n for n in names if not module.get_submodule(n).enabled}
    assert off == {n for n in names if "weight" in n}
    qt.enable_quantization(module, [*off])
    qt.freeze_quantizers(module, [names[0], "*weight*"])
    frozen = {n for n in names if not any(p.requires_grad for p in module.get_submodule(n).parameters())}
    assert frozen == {names[0], *off}
    for switch in (
        qt.disable_quantization,
        qt.enable_quantization,
        qt.freeze_quantizers,
        qt.unfreeze_quantizers,
    ):
        with pytest.raises(QonnxTorchError, match="'conv9' is the name of no quantizer"):
            switch(module, ["*", "conv9"])
    with pytest.raises(QonnxTorchError, match="'conv9' is the name of no BatchNormalization; there are: bn1"):
        qt.freeze_batch_normalization(module, "conv9")


def test_a_refused_name_changes_nothing() -> None:
    module = load()
    with pytest.raises(QonnxTorchError):
        qt.disable_quantization(module, ["*weight*", "conv9"])
    assert all(q.enabled for q in quantizers(module))


def test_training_with_a_delay_is_float_first_and_quantized_then() -> None:
    delayed, plain = load(), load()
    qt.enable_quantization(delayed, after_steps=2)
    qt.disable_quantization(plain)
    optimizers = [torch.optim.SGD(m.parameters(), lr=1e-2) for m in (delayed, plain)]
    x, y = data()
    for step in range(4):
        if step == 2:
            qt.enable_quantization(plain)
        losses = []
        for module, optimizer in zip((delayed.train(), plain.train()), optimizers, strict=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(module(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            assert all(p.grad is not None for p in module.parameters())
        assert losses[0] == losses[1]


def test_state_dict_keys_are_the_plain_ones_unless_there_is_a_delay() -> None:
    module = qt.import_model(MODEL, batch="dynamic")
    plain = list(module.state_dict())
    for change in (
        qt.disable_quantization,
        qt.enable_quantization,
        qt.freeze_quantizers,
        qt.unfreeze_quantizers,
        qt.freeze_batch_normalization,
        qt.unfreeze_batch_normalization,
        lambda m: qt.calibrate(m, [data()[0]], method="mse"),
        lambda m: qt.calibrate_weights(m, method="mse"),
    ):
        change(module)
        assert list(module.state_dict()) == plain
    again = qt.import_model(qt.export_qonnx(module), batch="dynamic")
    assert list(again.state_dict()) == plain
    again.load_state_dict(module.state_dict())
    qt.enable_quantization(module, after_steps=5)
    extra = set(module.state_dict()) - set(plain)
    assert extra == {
        f"{n}.delay.remaining" for n, m in module.named_modules() if isinstance(m, qt.nn.Quantizer)
    }
    qt.enable_quantization(module)
    assert list(module.state_dict()) == plain


STATES = {
    "learned": lambda m: None,
    "delayed": lambda m: qt.enable_quantization(m, after_steps=4),
    "disabled": qt.disable_quantization,
    "frozen": lambda m: (qt.freeze_quantizers(m), qt.freeze_batch_normalization(m)),
    "calibrated": lambda m: qt.calibrate(m, [data()[0]], method="percentile"),
    "folded": qt.fold_batch_normalization,
}


@pytest.mark.parametrize("state", STATES)
def test_a_resumed_training_goes_on_as_if_never_stopped(state: str, tmp_path: Path) -> None:
    module = load()
    STATES[state](module)
    train(module, 2)
    safetensors.torch.save_file(module.state_dict(), tmp_path / "state.safetensors")
    torch.save(module.state_dict(), tmp_path / "state.pt")
    fresh = [load(), load()]
    for other in fresh:
        STATES[state](other)
    fresh[0].load_state_dict(safetensors.torch.load_file(tmp_path / "state.safetensors"))
    fresh[1].load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module)), *fresh]
    losses = train(module, 4)
    assert np.isfinite(losses).all()
    for other in copies:
        assert train(other, 4) == losses


@pytest.mark.parametrize("state", STATES)
def test_every_state_compiles_in_training(state: str) -> None:
    module = load()
    STATES[state](module)
    twin = copy.deepcopy(module)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    np.testing.assert_allclose(train(module, 6, compiled), train(twin, 6), rtol=1e-4)


@pytest.mark.slow
def test_a_delay_under_the_inductor() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(64, 10), qt.nn.Quant(0.1, 0.0, 4))
    module[1].train_parameters(scale="threshold")
    qt.enable_quantization(module, after_steps=2)
    twin = copy.deepcopy(module)
    torch._dynamo.reset()
    compiled = torch.compile(torch.nn.Sequential(torch.nn.Flatten(), module), fullgraph=True)
    losses = train(module, 4, compiled)
    np.testing.assert_allclose(
        losses, train(twin, 4, torch.nn.Sequential(torch.nn.Flatten(), twin)), rtol=1e-5
    )


def test_frozen_batch_normalization_uses_and_keeps_running_statistics() -> None:
    x, _ = data()
    module = load()
    expected = module.eval()(x)
    qt.freeze_batch_normalization(module)
    statistics = {k: v.clone() for k, v in module.state_dict().items() if "running" in k}
    assert len(statistics) == 4
    assert torch.equal(module.train()(x), expected)
    assert all(torch.equal(module.state_dict()[k], v) for k, v in statistics.items())
    module(x).sum().backward()
    assert all(p.grad is not None for n, p in module.named_parameters() if n.startswith("bn"))
    assert "frozen" in repr(module)
    qt.unfreeze_batch_normalization(module)
    assert not torch.equal(module(x), expected)
    assert not any(torch.equal(module.state_dict()[k], v) for k, v in statistics.items())


def test_an_export_writes_quantizers_that_are_off() -> None:
    x, _ = data()
    module = load()
    quantized = module(x)
    qt.disable_quantization(module)
    assert torch.equal(qt.import_model(qt.export_qonnx(module))(x), quantized)
    qt.enable_quantization(module, after_steps=3)
    assert torch.equal(qt.import_model(qt.export_qonnx(module.train()))(x), quantized)
    assert {q.delay.remaining.item() for q in quantizers(module)} == {3}


def test_statistics_are_exported_as_they_stand_also_where_quantization_is_off() -> None:
    config = qt.TrainingConfig(weights=qt.QuantizerTraining(gradient="pass", scale="statistics"))
    module = qt.import_model(MODEL, batch="dynamic", training=config)
    expected = [2 * q.current_parameters()["scale"] for q in quantizers(module)]
    qt.disable_quantization(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    again = qt.import_model(qt.export_qonnx(module))
    kinds = [q.scale_kind for q in quantizers(module)]
    assert kinds.count("statistics") >= 3
    for quantizer, kind, scale in zip(quantizers(again), kinds, expected, strict=True):
        if kind == "statistics":
            torch.testing.assert_close(quantizer.scale, scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_training_keeps_quantizers_in_float32(autocast: bool) -> None:
    module = load().train()
    seen = {}
    for name, quantizer in module.named_modules():
        if isinstance(quantizer, qt.nn.Quant):
            quantizer.register_forward_hook(lambda m, a, y, n=name: seen.update({n: (m, a[0], y)}))
    x, y = data()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = F.cross_entropy(module(x), y)
    loss.backward()
    dtypes = {a.dtype for _, a, _ in seen.values()}
    assert dtypes == ({torch.float32, torch.bfloat16} if autocast else {torch.float32})
    for quantizer, a, result in seen.values():
        assert result.dtype is torch.float32
        assert torch.equal(result, quantizer(a.float()))
    assert all(p.grad.dtype is torch.float32 and torch.isfinite(p.grad).all() for p in module.parameters())


def test_parameter_groups() -> None:
    module = torch.nn.Sequential(load(), torch.nn.Linear(10, 10))
    groups = qt.parameter_groups(module, weight_decay=1e-2, quantizer_lr=1e-4)
    everything = [p for group in groups for p in group["params"]]
    assert len(everything) == len({id(p) for p in everything}) == len(list(module.parameters()))
    assert [(g["weight_decay"], g.get("lr")) for g in groups] == [(1e-2, None), (0.0, 1e-4)]
    learned = groups[1]["params"]
    assert {id(p) for p in learned} == {id(p) for p in qt.quantizer_parameters(module)}
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 1e-4]
    assert "lr" not in qt.parameter_groups(module)[1]

    qt.freeze_quantizers(module, "*weight*")
    frozen = sum(not p.requires_grad for p in module.parameters())
    assert len(qt.parameter_groups(module)[1]["params"]) == len(learned) - frozen
    qt.freeze_quantizers(module)
    assert len(qt.parameter_groups(module)) == 1


def test_weight_decay_leaves_learned_scales_alone() -> None:
    module = load()
    before = [p.clone() for p in qt.quantizer_parameters(module)]
    optimizer = torch.optim.SGD(qt.parameter_groups(module, weight_decay=0.5), lr=1.0)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, qt.quantizer_parameters(module), strict=True))
    assert not torch.equal(module.get_parameter("fc.weight"), load().get_parameter("fc.weight"))


def test_a_quantizer_called_twice_waits_as_many_steps_as_the_others() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.once, self.twice = qt.nn.Quant(0.5, 0.0, 4), qt.nn.Quant(0.5, 0.0, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.once(self.twice(x) + self.twice(x + 1))

    module = qt.trace(Twice(), torch.zeros(2, 3)).train()
    qt.enable_quantization(module, after_steps=2)
    x = torch.full((2, 3), 0.25)
    seen = [bool((module(x) == 2 * x + 1).all()) for _ in range(3)]
    assert seen == [True, True, False]
