"""The gradients by name, against Brevitas itself and against the formulas of the LSQ and PACT papers."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from qonnx_torch import ops
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.ops.quantizers import integer_bounds

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from brevitas.core.function_wrapper import TensorClamp, TensorClampSte
    from brevitas.core.quant import BinaryQuant, ClampedBinaryQuant, IntQuant

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

    x = values(scale, zero_point)
    y, found = gradients(ours, x, scale, zero_point, bits)
    expected_y, expected = gradients(lambda x, s, z, b: theirs(s, z, b, x), x, scale, zero_point, bits)
    assert torch.equal(y, expected_y)
    for label, a, b in zip(("x", "scale", "zero point"), found, expected, strict=False):
        assert torch.equal(a, b), label
    # The bit width's is one sum over all values, added up in another order.
    torch.testing.assert_close(found[3], expected[3], rtol=1e-4, atol=1e-2)


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


def test_unknown_names_are_refused() -> None:
    with pytest.raises(QonnxTorchError, match="gradient 'dorefa' does not exist; known gradients: ste, pass"):
        ops.quant(torch.zeros(1), 1.0, 0.0, 4, gradient="dorefa")
