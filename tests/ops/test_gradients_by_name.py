"""The gradients by name, against Brevitas itself and against the formulas of the LSQ and PACT papers."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from qonnx_torch import ops
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.ops.quantizers.operators import integer_bounds

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from brevitas.core.bit_width import BitWidthConst
    from brevitas.core.function_wrapper import (
        CeilSte,
        FloatClamp,
        FloorSte,
        RoundSte,
        TensorClamp,
        TensorClampSte,
    )
    from brevitas.core.quant import BinaryQuant, ClampedBinaryQuant, IntQuant, TruncIntQuant
    from brevitas.core.quant.float import FloatQuant
    from brevitas.core.utils import StatelessBuffer
    from brevitas.function.ops import compute_max_mantissa

POINTS = 100_000


class Same(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def values(scale: float, zero_point: float = 0.0) -> Tensor:
    """Random values in and out of range, and every half step: ties, bounds, half a step beyond them."""
    random = torch.randn(POINTS, generator=torch.Generator().manual_seed(1)) * 10 * scale
    ties = (torch.arange(-600, 601) / 2 - zero_point) * scale
    return torch.cat([random, ties, torch.tensor([1e3, -1e3])])


def gradients(function, *leaves: Tensor | float) -> tuple[Tensor, list[Tensor]]:
    leaves = tuple(torch.as_tensor(v, dtype=torch.float32).clone().requires_grad_() for v in leaves)
    y = function(*leaves)
    (y * torch.linspace(-1, 2, y.numel())).sum().backward()
    return y.detach(), [torch.zeros_like(v) if v.grad is None else v.grad for v in leaves]


def per_element(function, *leaves: Tensor | float) -> list[Tensor]:
    """Returns the gradients of a reference, each in float64: every parameter's as a sum over its elements.

    Each element gets parameters of its own, so that the reference itself adds nothing up.
    """
    x, *parameters = (torch.as_tensor(v, dtype=torch.float32) for v in leaves)
    _, (dx, *found) = gradients(function, x, *(p.expand(x.shape) for p in parameters))
    return [dx.double(), *(d.double().sum_to_size(p.shape) for d, p in zip(found, parameters, strict=True))]


@pytest.mark.parametrize(("name", "clamp"), [("ste", TensorClamp), ("pass", TensorClampSte)])
@pytest.mark.parametrize(("signed", "narrow"), [(True, False), (True, True), (False, False), (False, True)])
@pytest.mark.parametrize(("scale", "zero_point"), [(0.25, 0.0), (0.3, 0.0), (0.1, 2.0), (0.05, -3.25)])
@pytest.mark.parametrize("bits", [2.0, 3.0, 4.0, 8.0])
def test_equals_brevitas(
    name: str, clamp: type, signed: bool, narrow: bool, scale: float, zero_point: float, bits: float
) -> None:
    theirs = IntQuant(narrow_range=narrow, signed=signed, input_view_impl=Same(), tensor_clamp_impl=clamp())

    def ours(x: Tensor, s: Tensor, z: Tensor, b: Tensor) -> Tensor:
        return ops.quant(x, s, z, b, signed=signed, narrow=narrow, one_bit=False, gradient=name)

    def reference(x: Tensor, s: Tensor, z: Tensor, b: Tensor) -> Tensor:
        return theirs(s, z, b, x)

    x = values(scale, zero_point)
    y, found = gradients(ours, x, scale, zero_point, bits)
    expected_y, expected = gradients(reference, x, scale, zero_point, bits)
    assert torch.equal(y, expected_y)
    assert torch.equal(found[0], expected[0])
    # The parameters' are sums of Brevitas' summands, to a float32 rounding unit of the size of the summands.
    exact = per_element(reference, x, scale, zero_point, bits)
    weights = torch.linspace(-1, 2, len(x)).abs().double()
    magnitude = (weights * ((y / scale).abs() + (x / scale).abs())).sum()
    assert abs(found[1] - exact[1]) <= 2**-23 * magnitude
    assert abs(found[2] - exact[2]) <= 2**-23 * (weights * scale).sum()
    assert abs(found[3] - exact[3]) <= 2**-23 * (weights * scale * math.log(2) * 2**bits).sum()


class Scaling(torch.nn.Module):
    """What Brevitas' binary quantizers want as scaling_impl: gives back the scale under test."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale


@pytest.mark.parametrize(("name", "theirs"), [("pass", BinaryQuant), ("ste", ClampedBinaryQuant)])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_bipolar_equals_brevitas(name: str, theirs: type, scale: float) -> None:
    def reference(x: Tensor, s: Tensor) -> Tensor:
        return theirs(scaling_impl=Scaling(s))(x)[0]

    x = values(scale)
    y, found = gradients(lambda x, s: ops.bipolar_quant(x, s, gradient=name), x, scale)
    expected_y, expected = gradients(reference, x, scale)
    assert torch.equal(y, expected_y)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("elements", [None, 64])
def test_lsq_formula(signed: bool, elements: int | None) -> None:
    """Esser 2019, equations 3 and 5: v = x/s; dv = 1 where -Qn < v < Qp; ds = round(v) - v, -Qn or Qp."""
    scale, bits = 0.3, 3.0
    x = values(scale)
    low, high = (float(v) for v in integer_bounds(torch.tensor(bits), signed=signed, narrow=False))

    def quant(x: Tensor, s: Tensor) -> Tensor:
        return ops.quant(x, s, 0.0, bits, signed=signed, gradient="lsq", elements=elements)

    weights = torch.linspace(-1, 2, x.numel())
    _, (dx, ds) = gradients(quant, x, scale)
    v = x / torch.tensor(scale)
    inside = (v > low) & (v < high)
    expected = torch.where(inside, torch.round(v) - v, torch.where(v >= high, high, low))
    factor = 1.0 if elements is None else 1 / math.sqrt(elements * high)
    assert torch.equal(dx != 0, inside & (weights != 0))
    # One rounding unit: the gradient is multiplied by the scale and divided by it again.
    torch.testing.assert_close(dx, torch.where(inside, weights, 0 * weights), rtol=2**-23, atol=0)
    torch.testing.assert_close(ds, (expected * weights).sum() * factor, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("functional", [False, True])
def test_lsq_of_an_empty_batch(functional: bool) -> None:
    # N = 0: nothing was quantized, so nothing of the loss depends on the scale.
    def loss(s: Tensor) -> Tensor:
        return ops.quant(torch.empty(0, 3), s, 0.0, 4, gradient="lsq", elements=0).sum()

    scale = torch.tensor(0.3, requires_grad=True)
    (grad,) = torch.autograd.grad(loss(scale), scale)
    assert (torch.func.grad(loss)(scale.detach()) if functional else grad) == 0


def test_lsq_of_many_elements_in_half_precision() -> None:
    # N high = 700000 is no float16, but 1 / sqrt(N high) is.
    def loss(s: Tensor) -> Tensor:
        return ops.quant(
            torch.full((8,), 9.0, dtype=s.dtype), s, 0.0, 4, gradient="lsq", elements=100_000
        ).sum()

    grad = torch.func.grad(loss)(torch.tensor(0.5, dtype=torch.float16))
    torch.testing.assert_close(grad.float(), torch.tensor(8 * 7 / math.sqrt(700_000)), rtol=2**-9, atol=0)


def test_pact_formula() -> None:
    """Choi 2018: d/dx is 1 in [0, alpha); d/dalpha is 1 where x >= alpha; alpha = scale * (2^b - 1)."""
    scale, bits = 0.3, 2.0
    x = values(scale)
    weights = torch.linspace(-1, 2, x.numel())
    _, (dx, ds) = gradients(lambda x, s: ops.quant(x, s, 0.0, bits, signed=False, gradient="pact"), x, scale)
    v = x / torch.tensor(scale)
    above = v >= 3
    assert torch.equal(dx, torch.where((v >= 0) & ~above, weights, torch.zeros_like(weights)))
    torch.testing.assert_close(ds, (3.0 * weights * above).sum(), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("name", ops.GRADIENTS)
def test_forward_is_the_same_under_every_name(name: str) -> None:
    x = torch.cat([values(0.3), torch.tensor([math.inf, -math.inf, math.nan, -0.0, 0.0])])
    with torch.no_grad():
        expected = ops.quant(x, 0.3, 0.5, 3, signed=True, rounding_mode="FLOOR")
    found = ops.quant(x.requires_grad_(), 0.3, 0.5, 3, signed=True, rounding_mode="FLOOR", gradient=name)
    assert torch.equal(found.detach().view(torch.int32), expected.view(torch.int32))


class MaxMantissa(torch.nn.Module):
    """What Brevitas' FloatQuant wants as compute_max_mantissa."""

    def forward(self, mantissa_bits: Tensor) -> Tensor:
        return compute_max_mantissa(mantissa_bits)


class GivenScale(torch.nn.Module):
    """What Brevitas' FloatQuant wants as scaling_impl: gives back the scale under test."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor, threshold: Tensor | None) -> Tensor:
        return self.scale


@pytest.mark.parametrize(("name", "clamp"), [("ste", TensorClamp), ("pass", TensorClampSte)])
@pytest.mark.parametrize("scale", [1.0, 0.25, 0.3])
@pytest.mark.parametrize(
    ("exponent", "mantissa", "bias", "limit"),
    [(4, 3, 7, 448.0), (5, 2, 15, 57344.0), (3, 2, 3, 28.0), (2, 1, 1, 6.0)],
)
def test_float_quant_equals_brevitas(
    name: str, clamp: type, scale: float, exponent: int, mantissa: int, bias: int, limit: float
) -> None:
    def reference(x: Tensor, s: Tensor) -> Tensor:
        theirs = FloatQuant(
            signed=True,
            exponent_bit_width_impl=BitWidthConst(exponent),
            mantissa_bit_width_impl=BitWidthConst(mantissa),
            exponent_bias_impl=StatelessBuffer(torch.tensor(float(bias))),
            float_clamp_impl=FloatClamp(clamp(), signed=True, max_available_float=limit),
            input_view_impl=Same(),
            compute_max_mantissa=MaxMantissa(),
            scaling_impl=GivenScale(s),
        )
        return theirs(x)[0]

    def ours(x: Tensor, s: Tensor) -> Tensor:
        return ops.float_quant(x, s, exponent, mantissa, bias, limit, gradient=name)

    generator = torch.Generator().manual_seed(1)
    decades = torch.pow(10, torch.empty(POINTS).uniform_(-5, 1, generator=generator)) * limit / 5 * scale
    half_steps = torch.arange(-64, 65) / 16 * scale  # ties, of several exponents
    edge = torch.linspace(0.9, 1.2, 301) * limit * scale
    x = torch.cat([values(scale), decades, -decades, half_steps, edge, -edge])
    y, found = gradients(ours, x, scale)
    expected_y, expected = gradients(reference, x, scale)
    assert torch.equal(y, expected_y)
    assert torch.equal(found[0], expected[0])
    exact = per_element(reference, x, scale)
    magnitude = (torch.linspace(-1, 2, len(x)).double().abs() * ((y / scale).abs() + (x / scale).abs())).sum()
    assert abs(found[1] - exact[1]) <= 2**-22 * magnitude


@pytest.mark.parametrize(("name", "clamp"), [("ste", TensorClamp), ("pass", TensorClampSte)])
@pytest.mark.parametrize("mode", ["FLOOR", "ROUND", "CEIL"])
@pytest.mark.parametrize(("signed", "narrow"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize(("scale", "zero_point"), [(0.25, 0.0), (0.3, 0.0), (0.1, 3.0)])
def test_trunc_equals_brevitas(
    name: str, clamp: type, mode: str, signed: bool, narrow: bool, scale: float, zero_point: float
) -> None:
    rounding = {"FLOOR": FloorSte, "ROUND": RoundSte, "CEIL": CeilSte}[mode]()
    theirs = TruncIntQuant(
        rounding, BitWidthConst(4), narrow_range=narrow, tensor_clamp_impl=clamp()
    )  # TruncMsbScaling: drops 8 - 4 bits, so that the scale grows by 16

    def reference(x: Tensor, s: Tensor) -> Tensor:
        return theirs(x, s, torch.tensor(zero_point), torch.tensor(8.0), torch.tensor(signed))[0]

    def ours(x: Tensor, s: Tensor) -> Tensor:
        return ops.trunc(
            x, s, zero_point, 8, s * 16, 4, signed=signed, narrow=narrow, rounding_mode=mode, gradient=name
        )

    x = torch.cat([values(scale, zero_point) * 16, values(scale, zero_point)])
    y, found = gradients(ours, x, scale)
    expected_y, expected = gradients(reference, x, scale)
    assert torch.equal(y, expected_y)
    torch.testing.assert_close(found[0], expected[0], rtol=2**-23, atol=0)  # one rounding unit
    exact = per_element(reference, x, scale)
    magnitude = (torch.linspace(-1, 2, len(x)).double().abs() * ((y / scale).abs() + (x / scale).abs())).sum()
    assert abs(found[1] - exact[1]) <= 2**-22 * magnitude


@pytest.mark.parametrize("name", ["lsq", "pact"])
def test_gradients_that_make_no_sense_are_refused(name: str) -> None:
    x = torch.zeros(1)
    for operator, call in {
        "Trunc": lambda: ops.trunc(x, 1.0, 0.0, 8, 4.0, 6, gradient=name),
        "Trunc ": lambda: ops.trunc_v1(x, 1.0, 0.0, 8, 6, gradient=name),
    }.items():
        with pytest.raises(
            QonnxTorchError, match=f"'{name}' is not defined for {operator.strip()}; choose ste or pass"
        ):
            call()
    if name == "pact":
        with pytest.raises(
            QonnxTorchError, match="'pact' is not defined for FloatQuant; choose ste or pass or lsq"
        ):
            ops.float_quant(x, 1.0, 4, 3, 7, 448.0, gradient=name)


@pytest.mark.parametrize("name", ["ste", "pass"])
def test_the_first_trunc_knows_both_names(name: str) -> None:
    x = values(0.25)
    _, (dx,) = gradients(lambda x: ops.trunc_v1(x, 0.25, 0.0, 8, 6, gradient=name), x)
    torch.testing.assert_close(dx, torch.linspace(-1, 2, len(x)) / 4, rtol=2**-23, atol=0)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(QonnxTorchError, match="gradient 'dorefa' does not exist; known gradients: ste, pass"):
        ops.quant(torch.zeros(1), 1.0, 0.0, 4, gradient="dorefa")
