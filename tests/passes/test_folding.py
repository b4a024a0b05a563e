"""BatchNormalization folded into weights: the quantized integers stay, and so does what is computed."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import helper
from torch import nn

import qonnx_torch as qt
from qonnx_torch.nn.scales import SCALE_TRAINING
from qonnx_torch.passes import folding
from qonnx_torch.passes.shapes import declared_inputs

ROOT = Path(__file__).parent.parent.parent
MODEL = ROOT / "examples" / "digits" / "digits_w4a4.onnx"
GENERAL = "qonnx.custom_op.general"
QUANT = {"signed": 1, "narrow": 1, "rounding_mode": "ROUND"}


def arrays(channels: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "gamma": rng.uniform(0.5, 2, channels).astype(np.float32),
        "beta": rng.normal(size=channels).astype(np.float32),
        "mean": rng.normal(size=channels).astype(np.float32),
        "var": rng.uniform(0.2, 3, channels).astype(np.float32),
    }


def normalized(source: str, name: str = "y"):
    return helper.make_node("BatchNormalization", [source, "gamma", "beta", "mean", "var"], [name], name="bn")


def quantized(weight: str, name: str = "wq", kind: str = "Quant", **attributes):
    inputs = {"Quant": ["s", "z", "b"], "BipolarQuant": ["s"]}[kind]
    attributes = {**QUANT, **attributes} if kind == "Quant" else {}
    return helper.make_node(kind, [weight, *inputs], [name], name=name, domain=GENERAL, **attributes)


def quantizer(module: torch.fx.GraphModule) -> qt.nn.Quantizer:
    return next(m for m in module.modules() if isinstance(m, qt.nn.Quantizer))


def integers(module: torch.fx.GraphModule, weight: str = "w") -> torch.Tensor:
    q = quantizer(module)
    current = q.current_parameters()
    with torch.no_grad():
        y = q(module.get_parameter(weight)).double() / current["scale"].double()
    rounded = torch.round(y)
    torch.testing.assert_close(y, rounded, rtol=1e-6, atol=1e-6)
    return rounded + current.get("zero_point", 0)


@pytest.fixture(name="conv")
def conv_fixture(make_model) -> Callable[..., torch.fx.GraphModule]:
    """A Conv with a quantized weight (4, 3, 2, 2) and a BatchNormalization; arrays can be replaced."""

    def make(bias: bool = False, kind: str = "Quant", attributes: dict | None = None, **given):
        rng = np.random.default_rng(1)
        values = {
            "w": rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
            "s": 0.25,
            "z": 0.0,
            "b": 4.0,
            **arrays(4),
            **given,
        }
        if bias:
            values["bias"] = rng.normal(size=4).astype(np.float32)
        nodes = [
            quantized("w", kind=kind, **(attributes or {})),
            helper.make_node("Conv", ["x", "wq", *(["bias"] if bias else [])], ["c"], name="conv"),
            normalized("c"),
        ]
        return qt.import_model(make_model(nodes, inputs={"x": (2, 3, 5, 5)}, initializers=values))

    return make


def check(module: torch.fx.GraphModule, *inputs: torch.Tensor) -> qt.BatchNormalizationFolding:
    """Folds, and asserts that the module computes the same to float rounding, also as a file."""
    with torch.no_grad():
        expected = module(*inputs)
        report = qt.fold_batch_normalization(module)
        found = module(*inputs)
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
        again = qt.import_model(qt.export_qonnx(module))(*inputs)
    torch.testing.assert_close(again, found, rtol=1e-6, atol=1e-6)
    return report


X = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 3, 5, 5)).astype(np.float32))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [0.25, np.full((4, 1, 1, 1), 0.3, np.float32), np.full((1, 3, 1, 1), 0.2)])
def test_conv(conv, bias: bool, scale) -> None:
    module = conv(bias, s=np.float32(scale))
    before = integers(module)
    old = quantizer(module).current_parameters()["scale"].clone()
    factor = module.gamma / torch.sqrt(module.var + 1e-5)
    report = check(module, X)
    assert (report.folded, dict(report.kept)) == (("bn",), {})
    assert torch.equal(integers(module), before)
    expected = old * factor.reshape(4, 1, 1, 1)
    torch.testing.assert_close(quantizer(module).current_parameters()["scale"], expected)
    assert set(dict(module.named_parameters())) == {"w", "bias" if bias else "beta"}
    assert not any("BatchNormalization" in type(m).__name__ for m in module.modules())


@pytest.mark.parametrize("kind", SCALE_TRAINING)
@pytest.mark.parametrize("per_channel", [False, True])
def test_what_is_learned_goes_on_being_learned(conv, kind: str, per_channel: bool) -> None:
    module = conv(s=np.full((4, 1, 1, 1) if per_channel else (), 0.25, np.float32))
    quantizer(module).train_parameters(scale=kind)
    with torch.no_grad():
        module(X)
    report = check(module, X)
    if kind == "power_of_two" or (kind == "statistics" and not per_channel):
        assert "quantized weights of w would change" in report.kept["bn"]
        return
    assert report.folded
    assert quantizer(module).scale_kind == kind
    module.train()(X).square().sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    learned = list(quantizer(module).parameters())
    assert [p.shape for p in learned] == ([(4, 1, 1, 1)] if kind not in ("frozen", "statistics") else [])


@pytest.mark.parametrize(
    ("given", "attributes", "kept"),
    [
        ({}, {}, False),  # narrow: -7..7
        ({"w": np.full((4, 3, 2, 2), 1.74, np.float32)}, {"narrow": 0}, False),  # nothing at -8
        ({"w": np.full((4, 3, 2, 2), -9.0, np.float32)}, {"narrow": 0}, True),  # all at -8
        ({"z": 1.0}, {}, True),
        ({}, {"rounding_mode": "FLOOR"}, True),
        ({}, {"rounding_mode": "DOWN"}, False),
        ({"b": 1.0, "w": np.zeros((4, 3, 2, 2), np.float32)}, {"narrow": 0}, False),  # bipolar, at the tie
    ],
)
def test_a_negative_factor_turns_the_integers_around(conv, given, attributes, kept: bool) -> None:
    flipped = np.float32([-1, 1, -2, 0.5])
    module = conv(attributes=attributes, **{"gamma": flipped, **given})
    before = integers(module)
    report = check(module, X)
    if kept:
        (reason,) = report.kept.values()
        assert "quantized weights of w would change, where its factor is negative" in reason
        assert torch.equal(integers(module), before)
    else:
        sign = torch.from_numpy(np.sign(flipped)).reshape(4, 1, 1, 1)
        assert torch.equal(integers(module), before * sign)


def test_weights_on_a_tie_stay_where_they_were(conv) -> None:
    """Weights of k + 1/2 steps: multiplied by a factor, half of them would round the other way."""
    ties = (np.random.default_rng(3).integers(-6, 6, (4, 3, 2, 2)) + 0.5).astype(np.float32)
    module = conv(w=ties * 0.3, s=np.float32(0.3))
    before = integers(module)
    assert check(module, X).folded
    assert torch.equal(integers(module), before)
    w = module.w
    with torch.no_grad():
        factor = (arrays(4)["gamma"] / np.sqrt(arrays(4)["var"] + 1e-5)).reshape(4, 1, 1, 1)
        np.testing.assert_allclose(w.numpy(), ties * 0.3 * factor, rtol=3e-7)


@pytest.mark.parametrize("kind", ["Quant", "BipolarQuant"])
def test_a_factor_of_zero(conv, kind: str) -> None:
    module = conv(kind=kind, gamma=np.float32([0, 1, 0, 2]))
    report = check(module, X)
    if kind == "BipolarQuant":  # which has no 0
        assert "24 quantized weights of w would change" in next(iter(report.kept.values()))
    else:
        assert report.folded
        scale = quantizer(module).current_parameters()["scale"]
        assert (scale > 0).all()
        assert not module.w[0].any()


@pytest.mark.parametrize(
    ("op", "transposed", "bias"),
    [
        *itertools.product(["Gemm"], [False, True], ["none", "own", "scalar", "added"]),
        *itertools.product(["MatMul"], [False, True], ["none", "added"]),
        *itertools.product(["ConvTranspose"], [False], ["none", "own", "added"]),
    ],
)
def test_other_operators(make_model, op: str, transposed: bool, bias: str) -> None:
    rng = np.random.default_rng(5)
    deconv = op == "ConvTranspose"
    weight = rng.normal(size=(3, 4, 2, 2) if deconv else (4, 3) if transposed else (3, 4)).astype(np.float32)
    nodes, source = [quantized("w")], "wq"
    if op == "MatMul" and transposed:
        nodes.append(helper.make_node("Transpose", ["wq"], ["wt"], name="t"))
        source = "wt"
    attributes = {"transB": int(transposed), "alpha": 0.5, "beta": 2.0} if op == "Gemm" else {}
    inputs = ["x", source, *(["bias"] if bias in ("own", "scalar") else [])]
    nodes.append(helper.make_node(op, inputs, ["c"], name="linear", **attributes))
    if bias == "added":
        nodes.append(helper.make_node("Add", ["shift", "c"], ["a"], name="add"))
    nodes.append(normalized("a" if bias == "added" else "c"))
    shift = rng.normal(size=(4, 1, 1) if deconv else (4,)).astype(np.float32)
    values = {"w": weight, "s": 0.25, "z": 0.0, "b": 4.0, **arrays(4)}
    if bias != "none":
        own = rng.normal(size=() if bias == "scalar" else 4).astype(np.float32)
        values |= {"shift": shift} if bias == "added" else {"bias": own}
    x = X if deconv else X[:, :, 0, 0]
    module = qt.import_model(make_model(nodes, inputs={"x": tuple(x.shape)}, initializers=values))
    before = integers(module)
    report = check(module, x)
    assert report.folded
    assert not report.kept
    assert torch.equal(integers(module), before)


@pytest.mark.parametrize("group", [1, 3])
def test_grouped_convolutions(make_model, group: int) -> None:
    weight = np.random.default_rng(6).normal(size=(6, 3 // group, 2, 2)).astype(np.float32)
    values = {"w": weight, "s": 0.25, "z": 0.0, "b": 4.0, **arrays(6)}
    nodes = [quantized("w"), helper.make_node("Conv", ["x", "wq"], ["c"], group=group), normalized("c")]
    module = qt.import_model(make_model(nodes, inputs={"x": (2, 3, 5, 5)}, initializers=values))
    assert check(module, X).folded


def test_a_weight_that_is_transposed_before_its_quantizer(make_model) -> None:
    weight = np.random.default_rng(7).normal(size=(2, 3, 2, 4)).astype(np.float32)  # (k, in, k, out)
    values = {"w": weight, "s": 0.25, "z": 0.0, "b": 4.0, **arrays(4)}
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], perm=[3, 1, 0, 2]),
        quantized("wt"),
        helper.make_node("Conv", ["x", "wq"], ["c"]),
        normalized("c"),
    ]
    module = qt.import_model(make_model(nodes, inputs={"x": (2, 3, 5, 5)}, initializers=values))
    assert check(module, X).folded
    assert quantizer(module).current_parameters()["scale"].shape == (4, 1, 1, 1)


def conv_then(*between, weight="wq", extra=(), outputs=("y",), bias=()):
    def make(make_model, last: str):
        nodes = [
            quantized("w"),
            *extra,
            helper.make_node("Conv", ["x", weight, *bias], ["c"], name="conv"),
            *between,
            normalized(last),
        ]
        rng = np.random.default_rng(8)
        values = {
            "w": rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
            **{"s": 0.25, "z": 0.0, "b": 4.0, "two": 2.0},
            "q": rng.normal(size=4).astype(np.float32),
            **arrays(4),
        }
        return qt.import_model(
            make_model(nodes, inputs={"x": (2, 3, 5, 5)}, outputs=outputs, initializers=values)
        )

    return make


@pytest.mark.parametrize(
    ("make", "last", "reason"),
    [
        (
            conv_then(helper.make_node("Relu", ["c"], ["r"], name="r")),
            "r",
            "it follows relu, which is no Conv",
        ),
        (conv_then(outputs=("y", "c")), "c", "conv before it has other users"),
        (
            conv_then(helper.make_node("Relu", ["c"], ["r"]), outputs=("y", "r")),
            "c",
            "conv before it has other users",
        ),
        (
            conv_then(extra=[helper.make_node("Mul", ["wq", "two"], ["w2"], name="m")], weight="w2"),
            "c",
            "its weight goes through mul",
        ),
        (
            conv_then(
                extra=[helper.make_node("Neg", ["w"], ["n"]), helper.make_node("Abs", ["n"], ["a"])],
                outputs=("y", "a"),
            ),
            "c",
            "w is shared",
        ),
        (
            conv_then(extra=[helper.make_node("Neg", ["wq"], ["n"])], outputs=("y", "n")),
            "c",
            "wq, its weight, has other users",
        ),
        (
            conv_then(extra=[quantized("q", "qq")], bias=("qq",)),
            "c",
            "its bias is quantized by qq: the shift would be rounded",
        ),
        (
            conv_then(extra=[helper.make_node("Neg", ["q"], ["nq"])], bias=("nq",)),
            "c",
            "its bias is computed",
        ),
        (conv_then(bias=("beta",)), "c", "beta, its bias, is shared"),
        (
            conv_then(helper.make_node("Add", ["c", "c"], ["a"], name="a")),
            "a",
            "it follows add, which adds no constant",
        ),
    ],
)
def test_what_is_kept_says_why(make_model, make, last: str, reason: str) -> None:
    module = make(make_model, last)
    state = {k: v.clone() for k, v in module.state_dict().items()}
    code = module.code
    report = qt.fold_batch_normalization(module)
    assert not report.folded
    (why,) = report.kept.values()
    assert reason in why
    assert module.code == code
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())


def test_a_matmul_of_higher_rank_is_kept(make_model) -> None:
    values = {"w": np.ones((4, 4), np.float32), "s": 0.25, "z": 0.0, "b": 4.0, **arrays(4)}
    nodes = [quantized("w"), helper.make_node("MatMul", ["x", "wq"], ["c"]), normalized("c")]
    module = qt.import_model(make_model(nodes, inputs={"x": (2, 4, 4)}, initializers=values))
    assert "result of another rank than 2" in next(iter(qt.fold_batch_normalization(module).kept.values()))


def test_a_float_network_is_folded_too(models_folder: Path) -> None:
    module = qt.import_model(models_folder / "opset6_gemm.onnx")
    x = torch.from_numpy(np.load(models_folder / "opset6_gemm.npz")["in0_s0"])
    report = check(module, x)
    assert (len(report.folded), len(report.kept)) == (2, 0)


MODELS = {
    "brevitas_bipolar_mlp": 2,
    "brevitas_conv_per_channel": 2,
    "brevitas_dynamic_batch": 1,
    "brevitas_mlp_w2a2": 2,
    "brevitas_residual_concat": 1,
    "legacy_opset9_shape_chain": 2,
}


@pytest.mark.parametrize("name", MODELS)
def test_the_models_of_the_repository(models_folder: Path, name: str) -> None:
    module = qt.import_model(models_folder / f"{name}.onnx")
    before = weights_in_integers(module)
    report = check(module, torch.from_numpy(np.load(models_folder / f"{name}.npz")["in0_s0"]))
    assert (len(report.folded), dict(report.kept)) == (MODELS[name], {})
    after = weights_in_integers(module)
    assert before
    assert all(torch.equal(after[k].abs(), before[k].abs()) for k in before)


def weights_in_integers(module: torch.fx.GraphModule) -> dict[str, torch.Tensor]:
    found = {}
    for node in module.graph.nodes:
        if node.op == "call_module" and node.args[0].op == "get_attr":
            q = module.get_submodule(node.target)
            if isinstance(q, (qt.nn.Quant, qt.nn.BipolarQuant)):
                current = q.current_parameters()
                with torch.no_grad():
                    y = q(module.get_parameter(node.args[0].target)).double() / current["scale"].double()
                found[node.target] = torch.round(y)
    return found


def test_the_corpus(corpus: Path) -> None:
    """Of every real model the folded normalizations leave the same result; the integers stay."""
    try:
        module = qt.import_model(corpus / "model.onnx")
    except qt.UnsupportedModelError as error:
        pytest.skip(str(error).splitlines()[0])
    if not any(isinstance(m, qt.nn.BatchNormalization) for m in module.modules()):
        pytest.skip("it has no BatchNormalization")
    before = weights_in_integers(module)
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.rand([d if isinstance(d, int) else 2 for d in spec.shape], generator=generator).to(spec.dtype)
        for spec in declared_inputs(module)
    ]
    with torch.no_grad():
        expected = module_values(module, *inputs)
        report = qt.fold_batch_normalization(module)
        found = module_values(module, *inputs)
    assert report.folded or report.kept
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))
    after = weights_in_integers(module)
    assert all(torch.equal(after[k].abs(), before[k].abs()) for k in before)


def module_values(module: torch.fx.GraphModule, *inputs: torch.Tensor) -> list[torch.Tensor]:
    y = module(*inputs)
    return list(y) if isinstance(y, tuple) else [y]


def test_a_folded_network_trains_and_resumes() -> None:
    data = np.load(MODEL.parent / "digits.npz")
    x = torch.from_numpy(data["x_train"][:64] / np.float32(16))
    y = torch.from_numpy(data["y_train"][:64]).long()
    module = qt.import_model(MODEL, batch="dynamic")
    learned = qt.QuantizerTraining(scale="threshold")
    qt.configure_training(module, qt.TrainingConfig(weights=learned, activations=learned))
    assert len(qt.fold_batch_normalization(module).folded) == 2
    module.train()
    optimizer = torch.optim.SGD(qt.parameter_groups(module), lr=0.05)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = F.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    again = qt.import_model(qt.export_qonnx(module))
    with torch.no_grad():
        assert torch.equal(again(x), module.eval()(x))
        assert torch.equal(copy.deepcopy(module)(x), module(x))


# -- traced modules, whose normalizations hold their own tensors --------------------------------------


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn0(self.stem(x)))
        return F.relu(self.bn(self.conv(y)) + y)


NETWORKS = {
    "conv": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)),
    "depthwise": lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6, affine=False)),
    "residual": Residual,
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(75, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)),
    "unbiased": lambda: nn.Sequential(nn.Flatten(), nn.Linear(75, 8, bias=False), nn.BatchNorm1d(8)),
    "deconv": lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
}
WEIGHTS = {
    "mse": qt.QuantizerConfig(4),
    "max per channel": qt.QuantizerConfig(4, granularity="per_channel", scale="max"),
    "fp8": qt.FloatQuantizerConfig(),
}


def settled_network(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    module = kind()
    for m in module.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            m.running_mean.normal_()
            m.running_var.uniform_(0.2, 3)
            if m.affine:
                nn.init.uniform_(m.weight, 0.5, 2)
                nn.init.normal_(m.bias)
    return module.eval()


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("kind", NETWORKS.values(), ids=NETWORKS)
def test_quantized_modules(kind: Callable[[], nn.Module], weights: qt.QuantizerConfig) -> None:
    module = qt.quantize(settled_network(kind), qt.QuantizationConfig(weights=weights), X)
    before = weights_in_integers(module)
    count = sum(isinstance(m, qt.nn.BatchNormalization) for m in module.modules())
    report = check(module, X)
    assert (len(report.folded), dict(report.kept)) == (count, {})
    if not isinstance(weights, qt.FloatQuantizerConfig):
        after = weights_in_integers(module)
        assert before
        assert all(torch.equal(after[k], before[k]) for k in before)
    keys = module.state_dict()
    assert not [k for k in keys if "running_" in k]
    assert not any(isinstance(m, qt.nn.BatchNormalization) for m in module.modules())
    assert torch.equal(pickle.loads(pickle.dumps(module))(X), module(X))
    optimizer = torch.optim.SGD(qt.parameter_groups(module.train()), lr=1e-3)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = module(X).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in module.parameters())
    assert losses[-1] < losses[0]


def test_a_float_module_is_folded_too() -> None:
    module = qt.trace(settled_network(Residual), X)
    assert check(module, X).folded == ("bn0", "bn")
    assert set(module.state_dict()) == {"stem.weight", "bn0.bias", "conv.weight", "conv.bias"}


def test_a_scale_that_follows_the_whole_weight_says_what_to_do() -> None:
    config = qt.QuantizationConfig(weights=qt.QuantizerConfig(4, scale="max"))
    module = qt.quantize(settled_network(Residual), config, X)
    report = qt.fold_batch_normalization(module)
    assert not report.folded
    for reason in report.kept.values():
        assert reason.endswith("would change: the scale follows the whole weight: freeze_quantizers first")
    qt.freeze_quantizers(module)
    assert len(check(module, X).folded) == 2


def test_an_error_leaves_nothing_half_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first normalization is folded, then the second fails while its parameters are computed."""
    module = qt.quantize(settled_network(Residual), args=X)
    with torch.no_grad():
        expected = module(X)
    scaled = folding._Fold._requantized
    monkeypatch.setattr(
        folding._Fold,
        "_requantized",
        lambda self, *given: scaled(self, *given) if self.weight_path == "stem.weight" else 1 / 0,
    )
    with pytest.raises(ZeroDivisionError):
        qt.fold_batch_normalization(module)
    monkeypatch.undo()
    module.graph.lint()
    with torch.no_grad():
        torch.testing.assert_close(module(X), expected, rtol=2e-5, atol=2e-5)
    assert "self.bn0(" not in module.code
    assert check(module, X).folded == ("bn",)


def test_a_weight_computed_from_an_input_is_kept(make_model) -> None:
    nodes = [
        helper.make_node("Transpose", ["v"], ["t"]),
        helper.make_node("MatMul", ["x", "t"], ["c"]),
        normalized("c"),
    ]
    model = make_model(nodes, inputs={"x": (2, 3), "v": (4, 3)}, initializers=arrays(4))
    report = qt.fold_batch_normalization(qt.import_model(model))
    assert report.kept["bn"] == "its weight is computed from v"
