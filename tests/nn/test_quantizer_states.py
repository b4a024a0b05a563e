"""What a quantizer can be told: to be off, to start late, to stop learning, to take other values."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from brevitas.core.quant.delay import DelayWrapper

import qonnx_torch.nn as qnn
from qonnx_torch import ops
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.nn.scales import SCALE_TRAINING

X = torch.linspace(-3, 3, 61)
ODD = torch.tensor([-0.0, 0.0, 1e-40, -torch.inf, torch.nan, 3.3])
SWITCHABLE = {
    "Quant": lambda: qnn.Quant(0.1, 0.0, 4),
    "QuantizeDequantizeLinear": lambda: qnn.QuantizeDequantizeLinear(0.1, 1, low=-8, high=7),
    "BipolarQuant": lambda: qnn.BipolarQuant(0.5),
    "FloatQuant": lambda: qnn.FloatQuant(0.1, 4, 3, 7, 448.0),
    "Trunc": lambda: qnn.Trunc(0.1, 0.0, 8, 0.4, 6),
}
FIXED = {
    "TruncV1": lambda: qnn.TruncV1(0.1, 0.0, 8, 6),
    "MultiThreshold": lambda: qnn.MultiThreshold(torch.tensor([[-1.0, 1.0]])),
}
LEARNED = [kind for kind in SCALE_TRAINING if kind != "frozen"]
WITH_SCALE = ["Quant", "QuantizeDequantizeLinear", "BipolarQuant", "FloatQuant"]
switchable = pytest.mark.parametrize("make", SWITCHABLE.values(), ids=SWITCHABLE)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


@switchable
@pytest.mark.parametrize("learned", [False, True])
def test_off_is_the_identity_bit_for_bit(make, learned: bool) -> None:
    quantizer = make()
    if learned and not isinstance(quantizer, qnn.Trunc):
        quantizer.train_parameters(scale="step")
    quantized = quantizer(X)
    quantizer.disable()
    assert same_bits(quantizer(ODD), ODD)
    assert "disabled" in repr(quantizer)
    quantizer.enable()
    assert torch.equal(quantizer(X), quantized)
    assert not torch.equal(quantized, X)


@pytest.mark.parametrize("make", FIXED.values(), ids=FIXED)
def test_another_quantity_cannot_be_switched_off(make) -> None:
    for switch in (lambda q: q.disable(), lambda q: q.enable(3)):
        with pytest.raises(QonnxTorchError, match="cannot be switched off: its result is another quantity"):
            switch(make())
    make().enable()


def test_off_gives_learned_parameters_a_zero_gradient() -> None:
    """DistributedDataParallel waits for the gradient of every parameter."""
    quantizer = qnn.Quant(0.1, 0.0, 4)
    quantizer.train_parameters(scale="threshold", zero_point="learned", bit_width="learned")
    quantizer.disable()
    x = X.clone().requires_grad_()
    quantizer(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(X))
    parameters = list(quantizer.parameters())
    assert len(parameters) == 3
    assert all(p.grad is not None and not p.grad.any() for p in parameters)


def test_off_gives_a_scale_from_the_graph_a_zero_gradient() -> None:
    scale = torch.tensor(0.1, requires_grad=True)
    quantizer = qnn.Quant(None, 0.0, 4)
    quantizer.disable()
    quantizer(X, scale).sum().backward()
    assert scale.grad.item() == 0


def test_off_without_anything_learned_is_the_tensor_itself() -> None:
    quantizer = qnn.Quant(0.1, 0.0, 4)
    quantizer.disable()
    assert quantizer(X) is X
    assert quantizer(torch.arange(3)).dtype is torch.float32


@switchable
def test_delay_is_that_of_brevitas(make) -> None:
    ours, theirs = make().train(), DelayWrapper(3)
    plain = make()
    ours.enable(after_steps=3)
    for _ in range(5):
        assert torch.equal(ours(X), theirs(X, plain(X)))


def test_delay_counts_training_steps_only() -> None:
    quantizer = qnn.Quant(0.1, 0.0, 4)
    quantizer.enable(after_steps=2)
    quantizer.eval()
    for _ in range(3):
        assert torch.equal(quantizer(X), X)
    quantizer.train()
    with torch.no_grad():
        quantizer(X)  # no training step: statistics of a BatchNormalization, say
    assert quantizer.delay.remaining.item() == 2
    quantizer(X)
    quantizer(X)
    assert torch.equal(quantizer(X), ops.quant(X, 0.1, 0.0, 4))
    assert torch.equal(quantizer.eval()(X), ops.quant(X, 0.1, 0.0, 4))
    assert quantizer.delay.remaining.item() == 0


def test_delay_gives_gradients_of_the_branch_it_takes() -> None:
    quantizer = qnn.Quant(0.1, 0.0, 4)
    quantizer.train_parameters(scale="step")
    quantizer.enable(after_steps=1)
    for expected in (torch.ones_like(X), ((X / 0.1).round().clamp(-8, 7) == (X / 0.1).round()).float()):
        x = X.clone().requires_grad_()
        quantizer.zero_grad()
        quantizer(x).sum().backward()
        assert torch.equal(x.grad, expected)
        step = next(quantizer.parameters()).grad
        assert step.item() == 0 if expected.all() else step.item() != 0


def test_the_counter_is_a_buffer_while_there_is_a_delay() -> None:
    quantizer = qnn.Quant(0.1, 0.0, 4)
    plain = list(quantizer.state_dict())
    quantizer.enable(after_steps=7)
    assert set(quantizer.state_dict()) == {*plain, "delay.remaining"}
    quantizer(X)
    other = qnn.Quant(0.1, 0.0, 4)
    other.enable(after_steps=1)
    other.load_state_dict(quantizer.state_dict())
    assert other.delay.remaining.item() == 6
    assert quantizer.to("meta").delay.remaining.is_meta
    quantizer.enable()
    assert list(quantizer.state_dict()) == plain
    with pytest.raises(QonnxTorchError, match="after_steps=-1"):
        quantizer.enable(after_steps=-1)


@pytest.mark.parametrize("name", WITH_SCALE)
@pytest.mark.parametrize("kind", LEARNED)
def test_frozen_stays_and_unfrozen_learns(name: str, kind: str) -> None:
    quantizer = SWITCHABLE[name]()
    quantizer.train_parameters(scale=kind)
    quantizer(X)
    frozen = quantizer.current_parameters()["scale"].clone()
    quantizer.freeze()
    x = X.clone().requires_grad_()
    quantizer(x * 2).square().sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in quantizer.parameters())
    assert torch.equal(quantizer.current_parameters()["scale"], frozen)
    quantizer.update_statistics(X * 3)
    assert torch.equal(quantizer.current_parameters()["scale"], frozen)
    quantizer.unfreeze()
    quantizer(x * 2).square().sum().backward()
    if kind == "statistics":
        assert torch.equal(quantizer.current_parameters()["scale"], frozen * 2)
    assert all(p.grad is not None for p in quantizer.parameters())


@pytest.mark.parametrize(
    ("make", "largest", "statistic"),
    [
        (lambda s: qnn.Quant(s, 0.0, 4, narrow=True), 7.0, "max"),
        (lambda s: qnn.Quant(s, 0.0, 4, signed=False), 15.0, "max"),
        (lambda s: qnn.FloatQuant(s, 4, 3, 7, 448.0), 448.0, "max"),
        (lambda s: qnn.FloatQuant(s, 4, 3, 7, 1e9), 480.0, "max"),  # (2 - 2^-3) * 2^(2^4 - 1 - 7)
        (lambda s: qnn.BipolarQuant(s), 1.0, "mean"),
    ],
)
def test_statistics_and_thresholds_of_every_kind(make, largest: float, statistic: str) -> None:
    weight = torch.tensor([[7.0, -1.0], [0.5, -3.5], [1.0, 14.0]])
    quantizer = make(torch.ones(3, 1))
    quantizer.train_parameters(scale="statistics")
    quantizer(weight)
    size = weight.abs().amax(1, True) if statistic == "max" else weight.abs().mean(1, True)
    assert torch.equal(quantizer.current_parameters()["scale"], size / largest)
    quantizer.train_parameters(scale="threshold")
    torch.testing.assert_close(quantizer.scale_training.end, size, rtol=1e-6, atol=0)
    quantizer.freeze()
    assert torch.equal(quantizer.current_parameters()["scale"], size / largest)


@pytest.mark.parametrize("name", WITH_SCALE)
@pytest.mark.parametrize("kind", LEARNED)
def test_new_values_keep_what_is_learned_and_its_tensors(name: str, kind: str) -> None:
    quantizer = SWITCHABLE[name]()
    quantizer.train_parameters(scale=kind)
    before = list(quantizer.parameters())
    quantizer.freeze()
    quantizer.set_parameters(scale=0.25)
    assert quantizer.scale_kind == kind
    assert [id(p) for p in quantizer.parameters()] == [id(p) for p in before]
    assert not any(p.requires_grad for p in quantizer.parameters())
    assert quantizer.current_parameters()["scale"].item() == 0.25
    quantizer.set_parameters(scale=torch.tensor([[0.5], [2.0]]))
    assert quantizer.current_parameters()["scale"].tolist() == [[0.5], [2.0]]
    assert not any(p.requires_grad for p in quantizer.parameters())
    assert next(iter(quantizer.state_dict())) == "scale"


def test_new_values_of_the_other_parameters() -> None:
    quantizer = qnn.Quant(torch.full((2, 1), 0.5), torch.tensor(0, dtype=torch.int8), torch.tensor(4))
    quantizer.train_parameters(scale="threshold", zero_point="learned")
    quantizer.set_parameters(bit_width=6, zero_point=3, scale=0.125)
    current = quantizer.current_parameters()
    assert current["scale"].tolist() == [[0.125], [0.125]]
    assert current["bit_width"].dtype is torch.int64
    assert (current["zero_point"].item(), current["bit_width"].item()) == (3, 6)
    expected = ops.quant(X.expand(2, -1), torch.full((2, 1), 0.125), 3.0, 6)
    assert torch.equal(quantizer(X.expand(2, -1)), expected)
    with pytest.raises(QonnxTorchError, match="scale is computed elsewhere"):
        qnn.Quant(None, 0.0, 4).set_parameters(scale=1.0)


def test_another_number_of_bits_keeps_a_learned_scale() -> None:
    quantizer = qnn.Quant(0.25, 0.0, 4)
    quantizer.train_parameters(scale="threshold")
    quantizer.set_parameters(bit_width=8)
    assert quantizer.current_parameters()["scale"].item() == 0.25


@pytest.mark.parametrize("kind", ["step", "threshold"])
def test_half_precision_scales_are_learned_in_float32(kind: str) -> None:
    values = torch.tensor([0.1, 0.0333, 1.7, 6e-5, 1 / 3], dtype=torch.float16).reshape(-1, 1)
    for bits in (2, 3, 4, 7, 8):
        quantizer = qnn.Quant(values.clone(), 0.0, bits, narrow=True)
        x = torch.randn(5, 100, generator=torch.Generator().manual_seed(bits)).to(torch.float16)
        frozen = quantizer(x)
        quantizer.train_parameters(scale=kind)
        assert all(p.dtype is torch.float32 for p in quantizer.parameters())
        assert torch.equal(quantizer.current_parameters()["scale"], values)
        learned = quantizer(x)
        assert learned.dtype is frozen.dtype is torch.float16
        assert torch.equal(learned, frozen)
        learned.float().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in quantizer.parameters())


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("bits", [4, 8, 9, 16, 32])
def test_bit_widths_of_small_integer_types_do_not_overflow(dtype: torch.dtype, bits: int) -> None:
    x = torch.linspace(-3e9, 3e9, 101)
    for signed in (True, False):
        expected = ops.quant(x, 1.0, 0.0, torch.tensor(bits, dtype=torch.int64), signed=signed)
        quantizer = qnn.Quant(1.0, 0.0, torch.tensor(bits, dtype=dtype), signed=signed)
        assert torch.equal(quantizer(x), expected)
        quantizer.train_parameters(scale="threshold")
        assert torch.equal(quantizer(x), expected)
        assert quantizer.threshold().item() == 2 ** (bits - signed) - (not signed)


STATES = {
    "delayed": lambda q: q.enable(after_steps=3),
    "disabled": lambda q: q.disable(),
    "frozen": lambda q: q.freeze(),
    **{kind: (lambda q, k=kind: q.train_parameters(scale=k)) for kind in LEARNED},
}


@pytest.mark.parametrize("name", WITH_SCALE)
@pytest.mark.parametrize("state", STATES)
def test_copies_are_in_the_same_state(name: str, state: str) -> None:
    quantizer = SWITCHABLE[name]()
    if state not in LEARNED:
        quantizer.train_parameters(scale="step")
    STATES[state](quantizer)
    quantizer(X)
    buffer = io.BytesIO()
    torch.save(quantizer, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=False)
    copies = (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer)), saved)
    for _ in range(3):
        y = quantizer(X * 2)
        for other in copies:
            assert torch.equal(other(X * 2), y)
            flags = [p.requires_grad for p in quantizer.parameters()]
            assert [p.requires_grad for p in other.parameters()] == flags


@pytest.mark.parametrize("name", WITH_SCALE)
@pytest.mark.parametrize("state", STATES)
def test_every_state_compiles_to_one_graph_and_trains(name: str, state: str) -> None:
    quantizer = SWITCHABLE[name]()
    if state not in LEARNED:
        quantizer.train_parameters(scale="step")
    STATES[state](quantizer)
    twin = copy.deepcopy(quantizer)
    torch._dynamo.reset()
    compiled = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    for factor in (1.0, 1.5, 2.0, 2.5, 3.0):  # the delay ends on the way
        results = []
        for module in (compiled, twin):
            module.zero_grad()
            x = (X * factor).requires_grad_()
            y = module(x)
            y.square().sum().backward()
            results.append((y, x.grad, *(p.grad for p in module.parameters() if p.requires_grad)))
        for ours, expected in zip(*results, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(quantizer.buffers(), twin.buffers(), strict=True))


@pytest.mark.parametrize("name", SWITCHABLE)
@pytest.mark.parametrize("kind", ["frozen", *LEARNED])
def test_float32_under_autocast(name: str, kind: str) -> None:
    quantizer = SWITCHABLE[name]()
    if name != "Trunc":
        quantizer.train_parameters(scale=kind)
    wide = copy.deepcopy(quantizer)
    x = X.to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = quantizer(x)
    x32 = X.to(torch.bfloat16).float().requires_grad_()
    expected = wide(x32)
    assert y.dtype is torch.float32
    assert torch.equal(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    assert torch.equal(x.grad, x32.grad.to(torch.bfloat16))
    for ours, theirs in zip(quantizer.parameters(), wide.parameters(), strict=True):
        assert ours.grad.dtype is torch.float32
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("kind", ["step", "threshold", "log2", "statistics"])
def test_an_integer_scale_becomes_a_float_when_it_is_learned(kind: str) -> None:
    quantizer = qnn.Quant(torch.tensor(1), 0.0, 4)
    quantizer.train_parameters(scale=kind)
    x = torch.randn(100, requires_grad=True)
    quantizer(x).square().sum().backward()
    for parameter in quantizer.parameters():
        assert parameter.grad is not None
        with torch.no_grad():
            parameter.mul_(0.7).sub_(0.1)
    scale = quantizer.current_parameters()["scale"]
    assert scale.is_floating_point()
    assert 0 < scale < 1


def test_set_parameters_widens_an_integer_scale_that_cannot_hold_the_value() -> None:
    quantizer = qnn.Quant(torch.tensor(1), 0.0, 4)
    quantizer.set_parameters(scale=2.0)
    assert quantizer.scale.dtype == torch.int64
    quantizer.set_parameters(scale=0.5)
    assert quantizer.current_parameters()["scale"] == 0.5


def test_statistics_per_channel_share_no_gradient_among_equals_as_in_brevitas() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import brevitas.nn as bnn
        from brevitas.quant import Int8WeightPerTensorFloat

    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-8, 9, (6, 4, 3, 3), generator=generator) * 0.25  # many equal largest values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = bnn.QuantConv2d(
            4,
            6,
            3,
            bias=False,
            weight_quant=Int8WeightPerTensorFloat,
            weight_bit_width=4,
            weight_scaling_per_output_channel=True,
        )
        theirs.weight.data.copy_(weight)
        direction = torch.randn(weight.shape, generator=generator)
        (theirs.quant_weight().value * direction).sum().backward()
    ours = qnn.Quant(torch.ones(6, 1, 1, 1), 0.0, 4, signed=True, narrow=True, gradient="pass")
    ours.train_parameters(scale="statistics")
    leaf = weight.clone().requires_grad_()
    (ours(leaf) * direction).sum().backward()
    torch.testing.assert_close(leaf.grad, theirs.weight.grad, rtol=1e-5, atol=1e-5)


def test_an_empty_batch_leaves_lsq_finite() -> None:
    quantizer = qnn.Quant(0.1, 0.0, 4, gradient="lsq")
    quantizer.train_parameters(scale="step")
    quantizer(torch.zeros(0, 8)).sum().backward()
    assert next(quantizer.parameters()).grad == 0


def test_a_half_precision_scale_stays_positive() -> None:
    quantizer = qnn.Quant(torch.tensor(0.1, dtype=torch.float16), 0.0, 4)
    quantizer.train_parameters(scale="step")
    with torch.no_grad():
        next(quantizer.parameters()).fill_(-1.0)
    assert quantizer.current_parameters()["scale"] > 0
    assert torch.isfinite(quantizer(torch.randn(5, dtype=torch.float16))).all()


def test_a_learned_zero_point_stays_whole() -> None:
    quantizer = qnn.Quant(0.1, 3.0, 4, signed=False)
    quantizer.train_parameters(zero_point="learned")
    with torch.no_grad():
        quantizer.zero_point.sub_(0.4)
    assert quantizer.current_parameters()["zero_point"] == 3
    assert quantizer(torch.zeros(1)) == 0
    quantizer(torch.full((4,), 9.0)).sum().backward()
    torch.testing.assert_close(quantizer.zero_point.grad, torch.tensor(-0.4))  # -scale for each clipped value


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("kind", ["threshold", "statistics"])
def test_one_signed_bit_learns_its_scale(kind: str, narrow: bool) -> None:
    quantizer = qnn.Quant(0.25, 0.0, 1, narrow=narrow)
    quantizer.train_parameters(scale=kind)
    y = quantizer(torch.tensor([0.3, -0.1]))
    assert torch.equal(y.abs(), torch.full((2,), 0.25 if kind == "threshold" else 0.3))


def test_scales_of_statistics_work_under_torch_func() -> None:
    quantizer = qnn.Quant(0.25, 0.0, 4, gradient="pass")
    quantizer.train_parameters(scale="statistics")
    x = torch.randn(3, 8)
    found = torch.func.vmap(torch.func.grad(lambda row: quantizer(row).square().sum()))(x)
    for row, gradient in zip(x, found, strict=True):
        leaf = row.clone().requires_grad_()
        quantizer(leaf).square().sum().backward()
        torch.testing.assert_close(gradient, leaf.grad)
