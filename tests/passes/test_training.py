"""Training configurations: the numbers stay, gradients arrive, and what was learned is exported plainly."""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import qonnx_torch as qt
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.nn.scales import SCALE_TRAINING

ROOT = Path(__file__).parent.parent.parent
MODEL = ROOT / "examples" / "digits" / "digits_w4a4.onnx"
LEARNED = [kind for kind in SCALE_TRAINING if kind != "frozen"]


def data(rows: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    arrays = np.load(MODEL.parent / "digits.npz")
    x = torch.from_numpy(arrays["x_train"][:rows] / np.float32(16))
    return x, torch.from_numpy(arrays["y_train"][:rows]).long()


def load(**training) -> torch.fx.GraphModule:
    both = qt.QuantizerTraining(**training)
    frozen = qt.QuantizerTraining()
    config = qt.TrainingConfig(weights=both, activations=frozen if both.scale == "statistics" else both)
    return qt.import_model(MODEL, batch="dynamic", training=config)


def quantizers(module: torch.nn.Module) -> list[qt.nn.Quant]:
    return [m for m in module.modules() if isinstance(m, qt.nn.Quant)]


def steps(module: torch.nn.Module, count: int, rate: float = 1e-2) -> list[float]:
    x, y = data()
    optimizer = torch.optim.SGD(module.parameters(), lr=rate)
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = F.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", ["frozen", "step", "threshold"])
def test_the_numbers_stay(kind: str) -> None:
    x, _ = data()
    with torch.no_grad():
        assert torch.equal(load(scale=kind)(x), qt.import_model(MODEL, batch="dynamic")(x))


@pytest.mark.parametrize("kind", LEARNED)
def test_learned_scales_get_gradients_and_are_exported_plainly(kind: str) -> None:
    module = load(scale=kind)
    x, _ = data()
    before = [q.current_parameters()["scale"].clone() for q in quantizers(module)]
    losses = steps(module, 3)
    assert all(np.isfinite(losses))
    learned = qt.quantizer_parameters(module)
    assert len(learned) == (0 if kind == "statistics" else len(before))
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learned)
    if kind == "power_of_two":  # three small steps of an exponent need not reach the next one
        logs = torch.cat(
            [torch.log2(q.current_parameters()["scale"]).reshape(-1) for q in quantizers(module)]
        )
        assert torch.equal(logs, torch.round(logs))
    elif kind != "statistics":
        after = [q.current_parameters()["scale"] for q in quantizers(module)]
        assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) > len(before) // 2
    module.eval()
    with torch.no_grad():
        again = qt.import_model(qt.export_qonnx(module))  # before any run with the last weights
        assert torch.equal(again(x), module(x))
    assert not any(isinstance(q.scale, torch.nn.Parameter) for q in quantizers(again))


def test_zero_point_and_bit_width_are_learned() -> None:
    module = load(zero_point="learned", bit_width="learned")
    for quantizer in quantizers(module):
        with torch.no_grad():
            quantizer.bit_width.sub_(0.3)  # rounds back to whole bits
    x, _ = data()
    with torch.no_grad():
        assert torch.equal(module(x), qt.import_model(MODEL, batch="dynamic")(x))
    steps(module, 2)
    assert all(q.bit_width.grad is not None and q.zero_point.grad is not None for q in quantizers(module))
    module.eval()
    again = qt.import_model(qt.export_qonnx(module))
    assert {q.bit_width.item() for q in quantizers(again)} <= {2.0, 3.0, 4.0, 7.0, 8.0}
    with torch.no_grad():
        assert torch.equal(again(x), module(x))


def test_threshold_gradient_is_the_step_gradient_over_the_range() -> None:
    """scale = v / 7 for 4 bits, signed narrow, so d/dv = d/dscale / 7; the chain rule."""
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    found = {}
    for kind in ("step", "threshold"):
        quantizer = qt.nn.Quant(0.25, 0.0, 4, signed=True, narrow=True)
        quantizer.train_parameters(scale=kind)
        (quantizer(x) ** 2).sum().backward()
        found[kind] = next(quantizer.parameters()).grad
    torch.testing.assert_close(found["threshold"], found["step"] / 7)


@pytest.mark.parametrize(("batched", "elements"), [(True, 50), (False, 1000)])
def test_lsq_scales_its_gradient_by_the_number_of_features(batched: bool, elements: int) -> None:
    """Esser 2019, section 2.2: g = 1 / sqrt(N Qp), N = features of one sample, or weights; Qp = 7 here."""
    x = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    quantizer = qt.nn.Quant(0.25, 0.0, 4, gradient="lsq", batched=batched)
    quantizer.train_parameters(scale="step")
    quantizer(x).sum().backward()
    scale = torch.tensor(0.25, requires_grad=True)
    qt.ops.quant(x, scale, 0.0, 4, gradient="lsq").sum().backward()
    expected = scale.grad / (elements * 7) ** 0.5
    torch.testing.assert_close(next(quantizer.parameters()).grad, expected)


def test_statistics_follow_the_tensor_per_channel() -> None:
    quantizer = qt.nn.Quant(torch.ones(3, 1), 0.0, 4, signed=True, narrow=True)
    quantizer.train_parameters(scale="statistics")
    weight = torch.tensor([[7.0, -1.0], [0.5, -3.5], [1.0, 14.0]])
    assert torch.equal(quantizer(weight).abs().amax(1), torch.tensor([7.0, 3.5, 14.0]))
    assert torch.equal(quantizer.current_parameters()["scale"], torch.tensor([[1.0], [0.5], [2.0]]))


def test_configuration_can_change_and_copies_keep_it() -> None:
    module = load(scale="threshold", gradient="lsq")
    assert all(q.gradient == "lsq" for q in quantizers(module))
    losses = steps(module, 2)
    for duplicate in (copy.deepcopy(module), _saved(module)):
        assert steps(copy.deepcopy(module), 2) == steps(duplicate, 2)
    qt.configure_training(module, qt.TrainingConfig())
    assert qt.quantizer_parameters(module) == []
    assert np.isfinite(losses).all()


def _saved(module: torch.nn.Module) -> torch.nn.Module:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def test_a_checkpoint_resumes_after_export_and_import() -> None:
    config = qt.TrainingConfig(
        weights=qt.QuantizerTraining(gradient="pass"),
        activations=qt.QuantizerTraining(scale="step"),
    )
    module = qt.import_model(MODEL, batch="dynamic", training=config)
    steps(module, 3)
    resumed = qt.import_model(qt.export_qonnx(module), training=config)
    resumed.load_state_dict(module.state_dict())
    assert steps(resumed, 3) == steps(module, 3)


def test_default_gradients_are_those_of_brevitas() -> None:
    module = qt.import_model(MODEL)
    gradients = {n: m.gradient for n, m in module.named_modules() if isinstance(m, qt.nn.Quant)}
    assert {g for n, g in gradients.items() if "weight" in n} == {"pass"}
    assert {g for n, g in gradients.items() if "weight" not in n} == {"ste"}


@pytest.mark.parametrize(
    ("quantizer", "options", "message"),
    [
        (qt.nn.Quant(1.0, 0, 4), {"scale": "magic"}, "scale training 'magic' does not exist"),
        (qt.nn.Quant(1.0, 0, 4), {"zero_point": "step"}, "zero_point training 'step' does not exist"),
        (qt.nn.Quant(None, 0, 4), {"scale": "step"}, "scale is computed elsewhere"),
        (qt.nn.Quant(-1.0, 0, 4), {"scale": "log2"}, "only where it is positive"),
        (qt.nn.Quant(1.0, 0, 1), {"bit_width": "learned"}, "bit width of 1 cannot be learned"),
        (qt.nn.Quant(1.0, 0, 3.5), {"bit_width": "learned"}, "only whole bit widths can be learned"),
        (qt.nn.Quant(1.0, 0.25, 4), {"zero_point": "learned"}, "only whole zero points can be learned"),
        (
            qt.nn.Quant(1.0, 0, 1, signed=False, narrow=True),
            {"scale": "threshold"},
            r"a range that ends at -?0 leaves no scale",
        ),
    ],
)
def test_impossible_configurations_are_refused(quantizer, options: dict, message: str) -> None:
    with pytest.raises(QonnxTorchError, match=message):
        quantizer.train_parameters(**options)


def test_configurations_that_cannot_learn_are_refused() -> None:
    with pytest.raises(QonnxTorchError, match="statistics are for weights"):
        qt.import_model(
            MODEL, training=qt.TrainingConfig(activations=qt.QuantizerTraining(scale="statistics"))
        )
    learned = qt.QuantizerTraining(gradient="pass", bit_width="learned")
    with pytest.raises(QonnxTorchError, match="'pass' does not reach a learned bit width"):
        qt.import_model(MODEL, training=qt.TrainingConfig(weights=learned))


def test_a_state_of_another_kind_is_refused() -> None:
    kinds = ("step", "threshold", "log2", "power_of_two")
    modules = {kind: load(scale=kind) for kind in kinds}
    for kind in kinds:
        for other in set(kinds) - {kind}:
            with pytest.raises(RuntimeError, match="Missing key"):
                modules[kind].load_state_dict(modules[other].state_dict())


def test_one_bit_learns_its_scale_by_lsq() -> None:
    quantizer = qt.nn.Quant(0.2, 0.0, 1, gradient="lsq")
    quantizer.train_parameters(scale="step")
    quantizer(torch.randn(4, 8)).sum().backward()
    assert torch.isfinite(next(quantizer.parameters()).grad)


def test_set_bit_width_also_of_a_learned_one() -> None:
    quantizer = qt.nn.Quant(0.2, 0.0, torch.tensor([8.0]))
    quantizer.train_parameters(scale="statistics", bit_width="learned")
    quantizer.set_bit_width(4)
    assert quantizer(torch.linspace(-1, 1, 101)).unique().numel() <= 16
    assert quantizer.current_parameters()["bit_width"].tolist() == [4.0]


# -- biases, rules, and quantizers that are no Quant -----------------------------------------------


def test_biases_keep_their_scale_unless_told_otherwise() -> None:
    """Their scale is the product of an input's and a weight's, which max |b| would replace."""
    statistics = qt.QuantizerTraining(gradient="pass", scale="statistics")
    bias = torch.nn.Parameter(torch.tensor([1.0, -3.0]))
    graph = torch.fx.Graph()
    owner = torch.nn.Module()
    owner.bias, owner.quantizer = bias, qt.nn.Quant(0.25, 0.0, 8)
    graph.output(graph.call_module("quantizer", (graph.get_attr("bias"),)))
    module = torch.fx.GraphModule(owner, graph)
    qt.configure_training(module, qt.TrainingConfig(weights=statistics))
    assert owner.quantizer.scale_kind == "frozen"
    qt.configure_training(module, qt.TrainingConfig(biases=statistics))
    assert owner.quantizer.scale_kind == "statistics"


def test_rules_by_name_go_before_the_rest() -> None:
    step = qt.QuantizerTraining(gradient="lsq", scale="step")
    frozen = qt.QuantizerTraining(gradient="pass")
    rules = {"*weight*": step, "conv1*": frozen}
    module = qt.import_model(MODEL, training=qt.TrainingConfig(rules=rules))
    for name, quantizer in module.named_modules():
        if isinstance(quantizer, qt.nn.Quant):
            lsq = "weight" in name and not name.startswith("conv1")
            expected = ("lsq", "step") if lsq else ("pass" if "weight" in name else "ste", "frozen")
            assert (quantizer.gradient, quantizer.scale_kind) == expected
    with pytest.raises(QonnxTorchError, match=r"rules that fit no quantizer: conv9\*"):
        qt.configure_training(module, qt.TrainingConfig(rules={"*": frozen, "conv9*": step}))


@pytest.mark.parametrize(("scale", "learned"), [("step", "step"), ("threshold", "end")])
def test_an_export_warns_of_a_scale_that_training_has_lost(scale: Any, learned: str) -> None:
    lsq = qt.QuantizerTraining(gradient="lsq", scale=scale)
    module = qt.import_model(MODEL, training=qt.TrainingConfig(weights=lsq))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qt.export_qonnx(module)
    name = next(n for n, q in module.named_modules() if getattr(q, "scale_kind", None) == scale)
    with torch.no_grad():
        getattr(module.get_submodule(name).scale_training, learned).fill_(-0.5)
    with pytest.warns(UserWarning, match=rf"the scales of {name} down to zero or below; 1e-10 is written"):
        model = qt.export_qonnx(module)
    assert qt.import_model(model).get_submodule(name).current_parameters()["scale"].max() <= 1e-10


def test_what_does_not_apply_leaves_a_quantizer_alone_and_is_refused_of_a_rule(models_folder: Path) -> None:
    model = models_folder / "brevitas_conv_trunc.onnx"
    lsq = qt.QuantizerTraining(gradient="lsq", scale="step")
    module = qt.import_model(model, training=qt.TrainingConfig(activations=lsq))
    assert {m.gradient for m in module.modules() if isinstance(m, qt.nn.Trunc)} == {"ste"}
    assert "lsq" in {m.gradient for m in module.modules() if isinstance(m, qt.nn.Quant)}
    with pytest.raises(
        QonnxTorchError, match=r"quantizer .*[Tt]runc.*: Trunc has no gradient 'lsq', only ste, pass"
    ):
        qt.import_model(model, training=qt.TrainingConfig(rules={"*Trunc*": lsq}))


def test_a_rule_for_a_scale_that_the_graph_computes_is_refused() -> None:
    class Dynamic(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant = qt.nn.Quant(None, 0.0, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.quant(x, x.detach().abs().amax() / 7)

    module = qt.trace(Dynamic(), torch.randn(2, 3))
    step = qt.QuantizerTraining(scale="step")
    qt.configure_training(module, qt.TrainingConfig(activations=step))
    with pytest.raises(QonnxTorchError, match="quantizer quant: scale is computed elsewhere"):
        qt.configure_training(module, qt.TrainingConfig(rules={"quant": step}))


def test_a_new_configuration_keeps_the_parameters_that_stay() -> None:
    module = load(gradient="lsq", scale="step", zero_point="learned")
    before = {n: p for n, p in module.named_parameters() if "Quant" in n}
    qt.freeze_quantizers(module)
    both = qt.QuantizerTraining("ste", "step", "learned")
    qt.configure_training(module, qt.TrainingConfig(both, both))
    after = dict(module.named_parameters())
    assert before
    assert all(after[name] is parameter and parameter.requires_grad for name, parameter in before.items())


def test_the_state_has_the_scale_that_goes_with_what_was_learned() -> None:
    module = load(scale="threshold")
    steps(module, 3)
    plain = qt.import_model(MODEL, batch="dynamic")
    plain.load_state_dict(module.state_dict(), strict=False)
    x, _ = data()
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), module.eval()(x))


def test_training_that_can_set_nothing_is_said(models_folder: Path) -> None:
    with pytest.warns(UserWarning, match="the model has no quantizer that it could set"):
        qt.import_model(
            models_folder / "brevitas_mlp_qcdq.onnx", training=qt.TrainingConfig(), fuse_qdq=False
        )
    with pytest.raises(TypeError, match="training must be a TrainingConfig, not dict"):
        qt.import_model(MODEL, training={})


@pytest.mark.parametrize("name", ["brevitas_fp8", "brevitas_bipolar_mlp"])
@pytest.mark.parametrize("kind", LEARNED)
def test_scales_of_other_quantizers_are_learned_and_exported(
    models_folder: Path, name: str, kind: str
) -> None:
    path = models_folder / f"{name}.onnx"
    training = qt.QuantizerTraining(gradient="pass", scale=kind)
    frozen = qt.QuantizerTraining()
    module = qt.import_model(
        path, training=qt.TrainingConfig(training, frozen if kind == "statistics" else training)
    )
    x = torch.from_numpy(np.load(models_folder / f"{name}.npz")["in0_s0"])
    others = [m for m in module.modules() if isinstance(m, (qt.nn.FloatQuant, qt.nn.BipolarQuant))]
    before = [q.current_parameters()["scale"].clone() for q in others]
    if kind in ("step", "threshold"):
        with torch.no_grad():
            assert torch.equal(module(x), qt.import_model(path)(x))
    optimizer = torch.optim.Adam(qt.parameter_groups(module, quantizer_lr=1e-5), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        module(x).square().sum().backward()
        optimizer.step()
    learned = qt.quantizer_parameters(module)
    assert len(learned) == (0 if kind == "statistics" else len(others))
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learned)
    if kind != "power_of_two":  # two small steps of an exponent need not reach the next one
        after = [q.current_parameters()["scale"] for q in others]
        assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))
    with torch.no_grad():
        again = qt.import_model(qt.export_qonnx(module))
        assert torch.equal(again(x), module.eval()(x))
