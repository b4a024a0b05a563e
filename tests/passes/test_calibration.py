"""Calibration: the rules against torch, Brevitas and brute force, and everything that can go wrong."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from brevitas.core.stats import AbsPercentile
from brevitas.nn import QuantLinear
from brevitas.quant import (
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    ShiftedUint8WeightPerTensorFloat,
)
from torch.ao.quantization.observer import (
    MinMaxObserver as TorchMinMax,
)
from torch.ao.quantization.observer import (
    MovingAverageMinMaxObserver as TorchMovingAverage,
)
from torch.ao.quantization.observer import (
    PerChannelMinMaxObserver as TorchPerChannel,
)
from torch.utils.data import DataLoader, TensorDataset

import qonnx_torch as qt
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.nn.scales import SCALE_TRAINING
from qonnx_torch.passes.calibration.observers import HistogramObserver, MSEObserver, PercentileObserver, rows

ROOT = Path(__file__).parent.parent.parent
MODEL = ROOT / "examples" / "digits" / "digits_w4a4.onnx"
METHODS = ["max", "moving_average", "percentile", "mse", "lsq"]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scale_of(quantizer: qt.nn.Quantizer) -> torch.Tensor:
    return quantizer.current_parameters()["scale"]


def images(rows: int = 256) -> torch.Tensor:
    return torch.from_numpy(np.load(MODEL.parent / "digits.npz")["x_train"][:rows] / np.float32(16))


# -- one quantizer ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("per_channel", "rule"), [(0, Int8WeightPerTensorFloat), (1, Int8WeightPerChannelFloat)]
)
def test_max_of_a_symmetric_weight_is_brevitas(per_channel: int, rule: type) -> None:
    layer = QuantLinear(20, 6, bias=False, weight_quant=rule)
    quantizer = qt.nn.Quant(torch.ones(6, 1) if per_channel else 1.0, 0.0, 8, narrow=True)
    qt.calibrate_quantizer(quantizer, layer.weight)
    theirs = layer.quant_weight().scale.detach()
    assert torch.equal(scale_of(quantizer), theirs.reshape(scale_of(quantizer).shape))
    assert torch.equal(quantizer(layer.weight), layer.quant_weight().value)


def test_max_of_an_affine_weight_is_brevitas() -> None:
    layer = QuantLinear(20, 6, bias=False, weight_quant=ShiftedUint8WeightPerTensorFloat)
    quantizer = qt.nn.Quant(1.0, 1.0, 8, signed=False)
    qt.calibrate_quantizer(quantizer, layer.weight)
    theirs = layer.quant_weight()
    assert scale_of(quantizer).item() == theirs.scale.item()
    assert quantizer.zero_point.item() == theirs.zero_point.item()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("offset", [0.0, 5.0, -5.0])
def test_affine_ranges_are_those_of_torch(signed: bool, offset: float) -> None:
    x = normal(64, 5) + offset
    kind, low, high = (torch.qint8, -128, 127) if signed else (torch.quint8, 0, 255)
    quantizer = qt.nn.Quant(1.0, 3.0, 8, signed=signed)
    qt.calibrate_quantizer(quantizer, x)
    theirs = TorchMinMax(kind, torch.per_tensor_affine, quant_min=low, quant_max=high)
    theirs(x)
    scale, zero_point = theirs.calculate_qparams()
    assert scale_of(quantizer).item() == scale.item()
    assert quantizer.zero_point.item() == zero_point.item()
    assert quantizer(torch.zeros(1)).item() == 0

    channels = qt.nn.Quant(torch.ones(5), torch.ones(5), 8, signed=signed)
    qt.calibrate_quantizer(channels, x)
    theirs = TorchPerChannel(1, kind, torch.per_channel_affine, quant_min=low, quant_max=high)
    theirs(x)
    scale, zero_point = theirs.calculate_qparams()
    assert torch.equal(scale_of(channels), scale)
    assert torch.equal(channels.zero_point, zero_point.float())


def test_a_learned_zero_point_makes_a_quantizer_affine() -> None:
    quantizer = qt.nn.Quant(1.0, 0.0, 8, signed=False)
    quantizer.train_parameters(scale="step", zero_point="learned")
    learned = quantizer.zero_point
    qt.calibrate_quantizer(quantizer, torch.tensor([-1.0, 4.1]))
    assert quantizer.zero_point is learned
    assert learned.item() == 50  # 0 - round(-1 / (5.1 / 255))


@pytest.mark.parametrize(
    ("quantizer", "expected"),
    [
        (qt.nn.Quant(1.0, 0.0, 4), 6 / 8),
        (qt.nn.Quant(1.0, 0.0, 4, narrow=True), 6 / 7),
        (qt.nn.Quant(1.0, 0.0, 4, signed=False), 3 / 15),
        (qt.nn.FloatQuant(1.0, 4, 3, 7, 448.0), 6 / 448),
        (qt.nn.BipolarQuant(1.0), 10 / 3),
        (qt.nn.Quant(1.0, 0.0, 1), 10 / 3),
    ],
)
def test_max_by_hand(quantizer: qt.nn.Quantizer, expected: float) -> None:
    qt.calibrate_quantizer(quantizer, torch.tensor([3.0, -6.0, 1.0]))
    torch.testing.assert_close(scale_of(quantizer).item(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("signed", "highest"), [(True, 7), (False, 15)])
def test_lsq_is_the_paper(signed: bool, highest: int) -> None:
    """Esser et al. 2019, section 2.1: s = 2 <|v|> / sqrt(Qp)."""
    x = normal(1000, seed=1)
    quantizer = qt.nn.Quant(1.0, 0.0, 4, signed=signed)
    qt.calibrate_quantizer(quantizer, x, method="lsq")
    expected = 2 * np.abs(x.numpy().astype(np.float64)).mean() / np.sqrt(highest)
    torch.testing.assert_close(scale_of(quantizer).item(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("percentage", [90.0, 99.0, 99.9, 100.0])
def test_percentile_is_the_quantile(percentage: float) -> None:
    x = normal(100_000, seed=2)
    cases = (
        (qt.nn.Quant(1.0, 1.0, 8), x, (100 - percentage) / 200),
        (qt.nn.Quant(1.0, 1.0, 8), x.abs(), (100 - percentage) / 100),
        (qt.nn.Quant(1.0, 1.0, 8), -x.abs(), (100 - percentage) / 100),
    )
    for quantizer, values, cut in cases:
        qt.calibrate_quantizer(quantizer, values, method="percentile", percentage=percentage)
        found = (255 * scale_of(quantizer)).item()
        # Definitions of a quantile differ by one of the 100,000 values, which 2e-5 covers.
        narrow, wide = (quantile_range(values, cut + d) for d in (2e-5, -2e-5))
        # A bin is 2^-12 wide here, 2^16 bins from -8 to 8, and there are two ends.
        assert narrow - 2**-11 <= found <= wide + 2**-11


def quantile_range(values: torch.Tensor, cut: float) -> float:
    cut = min(max(cut, 0.0), 1.0)
    low = torch.quantile(values, cut) if values.min() < 0 else 0.0
    high = torch.quantile(values, 1 - cut) if values.max() > 0 else 0.0
    return float(high - low)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("kind", ["normal", "laplace"])
def test_mse_finds_the_best_scale(bits: int, signed: bool, kind: str) -> None:
    rng = np.random.default_rng(bits)
    values = rng.normal(size=5000) if kind == "normal" else rng.laplace(size=5000)
    x = torch.from_numpy((values if signed else np.abs(values)).astype(np.float32))
    quantizer = qt.nn.Quant(1.0, 0.0, bits, signed=signed)
    qt.calibrate_quantizer(quantizer, x, method="mse")
    found = (quantizer(x) - x).square().mean().item()
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)

    def error(scale: float) -> float:
        v = x.numpy().astype(np.float64)
        return float(np.mean((np.clip(np.round(v / scale), low, high) * scale - v) ** 2))

    largest = float(x.abs().max())
    best = min(error(s) for s in np.linspace(0.005, 1, 1000) * largest / max(high, 1))
    assert found <= best * 1.005


def test_mse_of_a_bipolar_quantizer_is_the_mean() -> None:
    x = normal(3, 500, seed=3)
    for quantizer in (qt.nn.BipolarQuant(torch.ones(3, 1)), qt.nn.Quant(torch.ones(3, 1), 0.0, 1)):
        for method in METHODS:
            qt.calibrate_quantizer(quantizer, x, method=method)
            torch.testing.assert_close(scale_of(quantizer), x.abs().mean(1, True), rtol=1e-6, atol=0)
    scales = np.linspace(0.5, 1.2, 701)
    v = x.numpy()
    best = [scales[np.argmin([((np.where(r >= 0, s, -s) - r) ** 2).mean() for s in scales])] for r in v]
    np.testing.assert_allclose(scale_of(quantizer).reshape(-1), best, atol=0.001)


@pytest.mark.parametrize("method", ["mse", "percentile", "max"])
def test_channels_are_calibrated_apart(method: str) -> None:
    x = normal(7, 4, 30, seed=4) * torch.tensor([1.0, 10.0, 0.001, 300.0]).reshape(4, 1)
    together = qt.nn.Quant(torch.ones(1, 4, 1), 0.0, 4)
    qt.calibrate_quantizer(together, x, method=method)
    for c in range(4):
        alone = qt.nn.Quant(1.0, 0.0, 4)
        qt.calibrate_quantizer(alone, x[:, c], method=method)
        torch.testing.assert_close(scale_of(together)[0, c, 0], scale_of(alone), rtol=0.01, atol=0)


@pytest.mark.parametrize("kind", SCALE_TRAINING)
@pytest.mark.parametrize("name", ["Quant", "FloatQuant", "BipolarQuant"])
def test_what_is_learned_starts_at_the_calibrated_scale(kind: str, name: str) -> None:
    x = normal(4, 50, seed=5)
    quantizers = {
        "Quant": lambda: qt.nn.Quant(0.5, 0.0, 4),
        "FloatQuant": lambda: qt.nn.FloatQuant(0.5, 4, 3, 7, 448.0),
        "BipolarQuant": lambda: qt.nn.BipolarQuant(0.5),
    }
    learning, plain = quantizers[name](), quantizers[name]()
    learning.train_parameters(scale=kind)
    for quantizer in (learning, plain):
        qt.calibrate_quantizer(quantizer, x)
    assert learning.scale_kind == kind
    if kind == "power_of_two":
        assert torch.log2(scale_of(learning)) == torch.round(torch.log2(scale_of(plain)))
    else:
        torch.testing.assert_close(scale_of(learning), scale_of(plain), rtol=2e-7, atol=0)


@pytest.mark.parametrize(
    ("quantizer", "values", "options", "message"),
    [
        (
            qt.nn.Quant(),
            normal(3),
            {"method": "median"},
            "'median' does not exist; known: max, moving_average",
        ),
        (qt.nn.Quant(), normal(3), {"percentage": 5}, "'max' has no option 'percentage'"),
        (qt.nn.Quant(), normal(3), {"method": "percentile", "percentage": 0}, "percentage=0"),
        (qt.nn.Quant(), normal(3), {"method": "moving_average", "momentum": 2}, "momentum=2"),
        (qt.nn.Quant(), torch.zeros(3), {}, "all values that it can represent are 0"),
        (qt.nn.Quant(), torch.zeros(3), {"method": "mse"}, "all values that it can represent are 0"),
        (qt.nn.Quant(signed=False), -torch.ones(3), {}, "all values that it can represent are 0"),
        (qt.nn.Quant(), torch.tensor([1.0, torch.nan]), {}, "NaN or infinity"),
        (qt.nn.Quant(), torch.tensor([1.0, torch.inf]), {"method": "mse"}, "NaN or infinity"),
        (qt.nn.Quant(), torch.zeros(0), {}, "an empty tensor"),
        (qt.nn.Quant(None), normal(3), {}, "Quant cannot be calibrated"),
        (qt.nn.Trunc(1, 0, 8, 1, 4), normal(3), {}, "Trunc cannot be calibrated"),
        (qt.nn.Quant(1.0, 0.0, 1, signed=False, narrow=True), normal(3), {}, "a range that ends at 0"),
        (qt.nn.FloatQuant(1, 4, 3, 7, 448.0), normal(3), {"method": "lsq"}, "'lsq' is a rule for integers"),
        (
            qt.nn.Quant(torch.tensor(1.0).half(), 0.0, 2),
            torch.tensor([1e6]),
            {},
            "too large for a scale of type",
        ),
    ],
)
def test_refusals(quantizer: qt.nn.Quantizer, values: torch.Tensor, options: dict, message: str) -> None:
    before = {k: v.clone() for k, v in quantizer.current_parameters().items()}
    with pytest.raises(QonnxTorchError, match=message):
        qt.calibrate_quantizer(quantizer, values, **options)
    assert all(torch.equal(v, before[k]) for k, v in quantizer.current_parameters().items())


@pytest.mark.parametrize("method", METHODS)
def test_a_channel_of_zeros_takes_the_largest_of_the_others(method: str) -> None:
    x = normal(3, 100, seed=6)
    x[1] = 0
    for zero_point in (0.0, 1.0):
        quantizer = qt.nn.Quant(torch.ones(3, 1), zero_point, 4)
        qt.calibrate_quantizer(quantizer, x, method=method)
        scale = scale_of(quantizer)
        assert scale[1] == scale.max()
        assert torch.isfinite(quantizer(x)).all()
        assert (scale > 0).all()


# -- observers -------------------------------------------------------------------------------------


def test_the_histogram_grows_exactly() -> None:
    """What is counted in steps, over 12 orders of magnitude, is what is counted at once."""
    parts = [normal(2, 1000, seed=s) * 10.0 ** (s - 8) for s in range(12)]
    step_by_step, at_once = (HistogramObserver((2, 1)) for _ in range(2))
    for part in parts:
        step_by_step.observe(part)
    at_once.observe(torch.cat(parts, 1))
    assert torch.equal(step_by_step.counts, at_once.counts)
    assert torch.equal(step_by_step.edges(), at_once.edges())
    assert step_by_step.counts.sum().item() == 24_000
    edges = at_once.edges()
    for c, row in enumerate(torch.cat(parts, 1)):
        expected, _ = np.histogram(row.numpy().astype(np.float64), edges[c].numpy().astype(np.float64))
        assert np.array_equal(at_once.counts[c], expected)


@pytest.mark.parametrize("largest", [1e-45, 1e-38, 1.0, 3.4e38])
def test_the_histogram_takes_every_magnitude(largest: float) -> None:
    observer = PercentileObserver(percentage=100)
    for x in (torch.zeros(5), torch.tensor([largest, -largest / 2])):
        observer.observe(x)
    assert observer.counts.sum().item() == 7
    low, high = observer.range(lambda *_: torch.zeros(1))
    assert (low.item(), high.item()) == (torch.tensor(-largest / 2).item(), torch.tensor(largest).item())


def test_rows_follow_the_shape_of_the_scale() -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    assert rows(x, ()).shape == (1, 24)
    assert rows(x, (1, 1, 1)).shape == (1, 24)
    assert rows(x, (3, 1))[1].tolist() == [4, 5, 6, 7, 16, 17, 18, 19]
    assert rows(x, (4,))[2].tolist() == [2, 6, 10, 14, 18, 22]
    assert rows(x, (2, 1, 4))[5].tolist() == [13, 17, 21]
    assert rows(torch.tensor([1.0, 2.0]), (3, 1)).tolist() == [[1, 2]] * 3


def test_mse_prefers_the_whole_range_where_nothing_is_lost() -> None:
    observer = MSEObserver()
    observer.observe(torch.tensor([-1.0, 2.0]))
    low, high = observer.range(lambda values, low, high: torch.zeros_like(values))
    assert (low.item(), high.item()) == (-1, 2)


# -- a module --------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    """Two quantizers and a weight's, as a user writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
        self.linear.weight = torch.nn.Parameter(normal(8, 8, seed=9).abs())
        self.first = qt.nn.Quant(1.0, 0.0, 4)
        self.weight = qt.nn.Quant(0.25, 0.0, 4)
        self.second = qt.nn.Quant(1.0, 0.0, 4, signed=False)

    def forward(self, x: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        y = torch.nn.functional.linear(self.first(x), self.weight(self.linear.weight))
        return self.second(torch.relu(y))


@pytest.mark.parametrize("method", ["max", "moving_average"])
def test_activations_see_float_values_of_all_batches(method: str) -> None:
    net = Net()
    batches = [normal(16, 8, seed=s) * (s + 1) for s in range(4)]
    seen = qt.calibrate(net, batches, method=method)
    assert set(seen) == {"first", "second"}
    assert scale_of(net.weight).item() == 0.25
    weight = net.weight(net.linear.weight)
    for name, inputs in (("first", batches), ("second", [torch.relu(x @ weight.T) for x in batches])):
        theirs = TorchMinMax() if method == "max" else TorchMovingAverage(averaging_constant=0.1)
        for x in inputs:
            theirs(x)
        threshold = 8 if name == "first" else 15
        ends = torch.stack((-theirs.min_val, theirs.max_val))
        expected = (ends.max() if name == "first" else ends[1]) / threshold
        torch.testing.assert_close(scale_of(net.get_submodule(name)), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_calibrating_an_imported_model_keeps_its_accuracy(method: str) -> None:
    module = qt.import_model(MODEL, batch="dynamic")
    arrays = np.load(MODEL.parent / "digits.npz")
    x, y = torch.from_numpy(arrays["x_test"] / np.float32(16)), torch.from_numpy(arrays["y_test"]).long()
    weights = [n for n, q in module.named_modules() if isinstance(q, qt.nn.Quant) and "weight" in n]
    others = [n for n, q in module.named_modules() if isinstance(q, qt.nn.Quant) and n not in weights]
    for q in (module.get_submodule(n) for n in (*weights, *others)):
        q.set_parameters(scale=100.0)
    loader = DataLoader(TensorDataset(images(), torch.zeros(256)), batch_size=64)
    assert set(qt.calibrate_weights(module, method="mse")) <= set(weights)
    seen = qt.calibrate(module, loader, method=method)
    assert set(seen) == set(others)
    with torch.no_grad():
        accuracy = (module(x).argmax(1) == y).float().mean().item()
    # The file's own accuracy is 97.6 %; LSQ's first scales are meant to be trained.
    assert accuracy > (0.8 if method == "lsq" else 0.94)


def test_calibration_leaves_no_trace() -> None:
    module = qt.import_model(MODEL, batch="dynamic").train()
    modes = {n: m.training for n, m in module.named_modules()}
    state = {k: v.clone() for k, v in module.state_dict().items()}
    seen = qt.calibrate(module, [images()], progress=False)
    assert {n: m.training for n, m in module.named_modules()} == modes
    assert not any(m._forward_hooks for m in module.modules())
    changed = {k for k, v in module.state_dict().items() if not torch.equal(v, state[k])}
    assert changed == {f"{name}.scale" for name in seen}
    with pytest.raises(QonnxTorchError, match="NaN or infinity"):
        qt.calibrate(module, [images() * torch.nan])
    assert {n: m.training for n, m in module.named_modules()} == modes
    assert not any(m._forward_hooks for m in module.modules())


def test_an_imported_model_inside_another_module() -> None:
    inner = qt.import_model(MODEL, batch="dynamic")
    outer = torch.nn.Sequential(copy.deepcopy(inner), qt.nn.Quant(1.0, 0.0, 8))
    alone = qt.calibrate(inner, [images()])
    assert set(qt.calibrate(outer, [images()])) == {*(f"0.{n}" for n in alone), "1"}
    for name in alone:
        assert torch.equal(scale_of(inner.get_submodule(name)), scale_of(outer[0].get_submodule(name)))
    assert qt.calibrate_weights(outer) == tuple(f"0.{n}" for n in qt.calibrate_weights(inner))


def test_batches_of_every_form(models_folder: Path) -> None:
    def scales(batches, **options) -> list[float]:
        net = Net()
        torch.nn.init.eye_(net.linear.weight)
        qt.calibrate(net, batches, **options)
        return [scale_of(net.first).item(), scale_of(net.second).item()]

    x, y = normal(16, 8), torch.zeros(16)
    expected = scales([x])
    for batch in ((x,), [x, y], (x, "label", None), (x, y, y)):
        assert scales([batch]) == expected
    assert scales(iter([x])) == expected
    assert scales([x, 9 * x], steps=1) == expected
    assert scales(DataLoader(TensorDataset(x, y), batch_size=16), progress=False) == expected

    two = qt.import_model(models_folder / "multi_io.onnx")
    inputs = [torch.rand(i.shape) for i in np_inputs(two)]
    qt.calibrate(two, [(*inputs, y)])
    with pytest.raises(
        QonnxTorchError, match="a tuple whose first 2 elements are the module's inputs; it is a T"
    ):
        qt.calibrate(two, [inputs[0]])


def np_inputs(module: torch.fx.GraphModule) -> list:
    from qonnx_torch.passes.shapes import declared_inputs

    return declared_inputs(module)


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {}, "there is no batch to calibrate on"),
        ([{"x": torch.ones(1, 8)}], {}, "it is a dict"),
        ([()], {}, "it is a tuple of nothing"),
        ([("a", torch.ones(1, 8))], {}, "it is a tuple of str, Tensor"),
        ([torch.ones(1, 8)], {"steps": 0}, "steps=0"),
        ([torch.ones(1, 8)], {"method": "guess"}, "'guess' does not exist"),
        ([torch.full((1, 8), torch.nan)], {}, "quantizer first: cannot be calibrated on NaN"),
    ],
)
def test_batches_that_are_refused(batches: list, options: dict, message: str) -> None:
    with pytest.raises(QonnxTorchError, match=message):
        qt.calibrate(Net(), batches, **options)


def test_a_quantizer_that_saw_only_zeros_keeps_its_scale_with_a_warning() -> None:
    net = Net()
    torch.nn.init.constant_(net.linear.weight, -1)
    with pytest.warns(
        UserWarning, match="quantizer second: all values that it can represent are 0; it keeps its"
    ):
        qt.calibrate(net, [torch.ones(2, 8)])
    assert scale_of(net.second).item() == 1
    assert scale_of(net.first).item() == 1 / 8


def test_nothing_is_printed_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    qt.calibrate(Net(), [torch.ones(1, 8)])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("percentage", [90.0, 99.0, 99.9])
def test_percentile_of_magnitudes_is_that_of_brevitas(percentage: float) -> None:
    x = normal(100_000, seed=7).abs()
    theirs = AbsPercentile(high_percentile_q=percentage, stats_reduce_dim=None)(x)
    quantizer = qt.nn.Quant(1.0, 0.0, 8, signed=False)
    qt.calibrate_quantizer(quantizer, x, method="percentile", percentage=percentage)
    torch.testing.assert_close(255 * scale_of(quantizer), theirs, rtol=0, atol=2**-12 + 1e-4)
