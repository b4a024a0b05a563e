"""Gradients of the quantizers against formulas derived by hand (straight-through at every rounding)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from qonnx_torch import ops
from qonnx_torch.ops.quantizers.operators import integer_bounds, trunc_v1
from qonnx_torch.ops.quantizers.rounding import ROUNDING_MODES, round_to_integer, straight_through


def gradients(function, *parameters: Tensor | float, x: Tensor) -> list[Tensor]:
    """Returns d sum(function) / d (x, *parameters)."""
    leaves = [torch.as_tensor(v, dtype=torch.float32).clone().requires_grad_() for v in (x, *parameters)]
    function(*leaves).sum().backward()
    return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]


def values(scale: float, zero_point: float = 0.0) -> Tensor:
    """Random values, ties, and values half a step and far outside of every range in use here."""
    ties = (torch.arange(-40, 41) / 2 - zero_point) * scale
    random = torch.randn(500, generator=torch.Generator().manual_seed(0)) * 8 * scale
    return torch.cat([ties, random, torch.tensor([1e4, -1e4])])


@pytest.mark.parametrize("mode", ROUNDING_MODES)
@pytest.mark.parametrize(("signed", "narrow"), [(True, False), (True, True), (False, False), (False, True)])
@pytest.mark.parametrize(("scale", "zero_point"), [(0.5, 0.0), (0.3, 0.0), (0.25, 3.0), (0.1, -1.25)])
def test_quant(mode: str, signed: bool, narrow: bool, scale: float, zero_point: float) -> None:
    # y = x / s + z, r = round(y) with dr/dy = 1, c = clamp(r, lo, hi), out = (c - z) s: the mask is on r, so
    # values up to half a step outside the bounds are inside. There dc/dx = 1/s, dc/ds = -x/s^2, dc/dz = 1.
    #   d/dx = 1            d/ds = (r - z) - x/s = r - y      d/dz = s (1 - 1) = 0    d/db = 0
    # Outside: c is the bound, so dc/dx = dc/ds = dc/dz = 0.
    #   d/dx = 0            d/ds = r - z                      d/dz = -s               d/db = s d(bound)/db
    # with d hi/db = ln2 2^(b-1) signed, ln2 2^b unsigned, and d lo/db = -ln2 2^(b-1) signed, 0 unsigned.
    bits = 4.0
    x = values(scale, zero_point)

    def quant(x: Tensor, s: Tensor, z: Tensor, b: Tensor) -> Tensor:
        return ops.quant(x, s, z, b, signed=signed, narrow=narrow, rounding_mode=mode)

    dx, ds, dz, db = gradients(quant, scale, zero_point, bits, x=x)
    y = x / torch.tensor(scale) + zero_point
    low, high = integer_bounds(torch.tensor(bits), signed=signed, narrow=narrow)
    r = ROUNDING_MODES[mode](y)
    above, below = r > high, r < low
    inside = ~(above | below)
    r = r.clamp(low, high)
    slope = math.log(2) * 2 ** (bits - 1 if signed else bits)
    low_slope = -slope if signed else 0.0

    assert torch.equal(dx, inside.float())
    assert_close(ds, torch.where(inside, r - y, r - zero_point).sum(), rtol=1e-5, atol=1e-3)
    assert_close(dz, -scale * (~inside).sum(), rtol=1e-5, atol=1e-4)
    assert_close(db, scale * (slope * above.sum() + low_slope * below.sum()), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("one_bit", [True, None])
def test_one_bit_quant(one_bit: bool | None) -> None:
    # q = +-1 with dq/dy = 1 everywhere, out = (q - z) s: d/dx = 1, d/ds = (q - z) - x/s, d/dz = 0, d/db = 0.
    x, scale, zero_point = values(0.5), 0.5, 0.25

    def quant(x: Tensor, s: Tensor, z: Tensor, b: Tensor) -> Tensor:
        return ops.quant(x, s, z, b, signed=True, narrow=False, one_bit=one_bit, gradient="pass")

    dx, ds, dz, db = gradients(quant, scale, zero_point, 1.0, x=x)
    q = torch.where(x / scale + zero_point >= 0, 1.0, -1.0)
    assert torch.equal(dx, torch.ones_like(x))
    assert_close(ds, (q - zero_point - x / scale).sum(), rtol=1e-5, atol=1e-3)
    assert_close(dz, torch.tensor(0.0))
    assert_close(db, torch.tensor(0.0))


def test_per_channel_gradients_reach_their_channel() -> None:
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1))
    scale = torch.tensor([0.5, 0.1, 0.02]).reshape(3, 1)
    _, ds = gradients(lambda x, s: ops.quant(x, s, 0.0, 4), scale, x=x)
    for channel in range(3):
        _, alone = gradients(lambda x, s: ops.quant(x, s, 0.0, 4), scale[channel], x=x[:, channel])
        assert_close(ds[channel], alone)


def test_bipolar_quant() -> None:
    # out = s sign(x) with d sign/dx = 1: d/dx = s, d/ds = sign(x).
    x = torch.tensor([-2.0, -0.0, 0.0, 0.3])
    dx, ds = gradients(ops.bipolar_quant, 0.5, x=x)
    assert dx.tolist() == [0.5] * 4
    assert ds == 2


@pytest.mark.parametrize("mode", ["FLOOR", "ROUND", "CEIL"])
@pytest.mark.parametrize(("output_scale", "zero_point"), [(1.0, 0.0), (0.9, 1.0)])
@pytest.mark.parametrize("name", ["ste", "pass"])
def test_trunc(mode: str, output_scale: float, zero_point: float, name: str) -> None:
    # y = round(x/s + z), t = 2^round(log2(o/s)), r = mode(y/t), out = (clamp(r) - z/t) o; the roundings have
    # slope 1, so dt/do = t/o and dt/ds = -t/s. With n = -z/t, and c = clamp(r):
    # Inside:  d/dx = o/(s t)   d/ds = o/(s t) (y - z - x/s)    d/dz = 0      d/do = c + n - (y - z)/t
    # Outside: d/dx = 0         d/ds = o/(s t) (-z)             d/dz = -o/t   d/do = c + n + z/t = c
    # where `ste` is inside for r in [lo, hi], so up to t (1 - 1/t) beyond hi under FLOOR, and `pass` always.
    scale, x = 0.25, values(0.5)

    def trunc(x: Tensor, s: Tensor, z: Tensor, o: Tensor) -> Tensor:
        return ops.trunc(x, s, z, 8.0, o, 4.0, rounding_mode=mode, gradient=name)

    dx, ds, dz, do = gradients(trunc, scale, zero_point, output_scale, x=x)
    t = 2.0 ** round(math.log2(output_scale / scale))
    y = torch.round(x / scale + zero_point)
    r = ROUNDING_MODES[mode](y / t)
    inside = ((r <= 7) & (r >= -8)) if name == "ste" else torch.ones_like(x, dtype=torch.bool)
    c = r.clamp(-8, 7)
    ratio = output_scale / (scale * t)
    assert_close(dx, inside * ratio)
    expected = torch.where(inside, y - zero_point - x / scale, torch.tensor(-zero_point)) * ratio
    assert_close(ds, expected.sum(), rtol=1e-4, atol=1e-2)
    assert_close(dz, -output_scale / t * (~inside).sum(), rtol=1e-5, atol=1e-4)
    assert_close(do, torch.where(inside, c - y / t, c).sum(), rtol=1e-4, atol=1e-2)


def test_trunc_v1() -> None:
    # t = 2^(in - out), r = mode(y/t), out = (r - z) s:
    # d/dx = 1/t, d/ds = r - z - x/(s t), d/dz = s (1/t - 1).
    scale, zero_point, x = 0.25, 1.0, values(0.5)
    dx, ds, dz = gradients(lambda x, s, z: trunc_v1(x, s, z, 8.0, 6.0), scale, zero_point, x=x)
    r = torch.floor(torch.round(x / scale + zero_point) / 4)
    assert_close(dx, torch.full_like(x, 0.25))
    assert_close(ds, (r - zero_point - x / scale / 4).sum(), rtol=1e-4, atol=1e-2)
    assert_close(dz, torch.tensor(scale * (1 / 4 - 1) * len(x)))


def float_values() -> Tensor:
    """Values of every exponent, also below the smallest, and around the limit: 12 s = 6."""
    small = torch.tensor([0.0, 1e-4, -3e-4, 0.0021, -0.0079])
    return torch.cat([values(0.5), small, torch.tensor([6.1, 6.3, -6.1, -6.3])])


@pytest.mark.parametrize("name", ["ste", "pass"])
def test_float_quant(name: str) -> None:
    # y = x/s, e = max(floor(log2 |y|), 1 - bias), t = 2^(e - m), r = round(y/t), q = t r, out = clamp(q) s.
    # The roundings have slope 1, so above the subnormals d e/dy = 1/(y ln 2), d t/dy = t/y and
    #   dq/dy = r t/y + t d(y/t)/dy = q/y + 1 - y/y = q/y,      below them d t/dy = 0 and dq/dy = 1.
    # Inside (|q| <= limit; `pass`: everywhere):
    #   d/dx = dq/dy    d/ds = q - y dq/dy (0 above the subnormals)    d/d limit = 0
    # Outside: 0, +-limit and +-s; `pass` has clamp(q) - y dq/dy for d/ds, and no d/d limit.
    scale, limit, x = 0.5, 12.0, float_values()

    def float_quant(x: Tensor, s: Tensor, limit: Tensor) -> Tensor:
        return ops.float_quant(x, s, 4, 3, 7, limit, gradient=name)

    dx, ds, d_limit = gradients(float_quant, scale, limit, x=x)
    y = x / scale
    q = ops.float_quant(x, scale, 5, 3, 7, 1e9) / scale  # one more bit of exponent: without a limit
    slope = torch.where(y.abs() >= 2.0**-6, q / y, 1.0)
    inside = q.abs() <= limit
    if name == "pass":
        assert_close(dx, slope, rtol=1e-6, atol=0)
        assert_close(ds, (q.clamp(-limit, limit) - y * slope).sum(), rtol=1e-5, atol=1e-3)
        assert d_limit == 0
        return
    assert_close(dx, inside * slope, rtol=1e-6, atol=0)
    expected = torch.where(inside, q - y * slope, torch.sign(x) * limit)
    assert_close(ds, expected.sum(), rtol=1e-5, atol=1e-3)
    assert_close(d_limit, (torch.sign(x) * scale)[~inside].sum())


def test_float_quant_lsq() -> None:
    # The step is a constant: inside (|y| < limit) d/dx = 1 and d/ds = q - y, outside 0 and +-limit.
    scale, limit, x = 0.5, 12.0, float_values()
    dx, ds, d_limit = gradients(
        lambda x, s, limit: ops.float_quant(x, s, 4, 3, 7, limit, gradient="lsq"), scale, limit, x=x
    )
    y = x / scale
    q = ops.float_quant(x, scale, 5, 3, 7, 1e9) / scale  # one more bit of exponent: without a limit
    inside = y.abs() < limit
    assert torch.equal(dx, inside.float())
    assert_close(ds, torch.where(inside, q - y, torch.sign(x) * limit).sum(), rtol=1e-4, atol=1e-2)
    assert_close(d_limit, (torch.sign(x) * scale)[~inside].sum())


def test_overflow_to_nan_has_no_gradient() -> None:
    x = torch.tensor([1.0, 1e6], requires_grad=True)
    y = ops.float_quant(x, 1.0, 4, 3, 7, 448, has_nan=True, saturation=False)
    y[:1].sum().backward()
    assert y.isnan().tolist() == [False, True]
    assert x.grad.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_special_values_leave_other_gradients_alone(value: float) -> None:
    x = torch.tensor([0.3, value, -0.2], requires_grad=True)
    ops.quant(x, 0.1, 0.0, 4).nansum().backward()
    assert x.grad[0] == x.grad[2] == 1


def test_straight_through_is_exact_and_passes_the_gradient() -> None:
    x = torch.tensor([0.5, -0.3, 1e30, -0.0, math.inf, 3e-45], requires_grad=True)
    rounded = ROUNDING_MODES["ROUND"](x)
    y = straight_through(x, rounded)
    assert torch.equal(y.view(torch.int32), rounded.view(torch.int32))
    y[:4].sum().backward()
    assert x.grad[:4].tolist() == [1.0] * 4


@pytest.mark.parametrize("mode", ROUNDING_MODES)
def test_round_to_integer_has_gradient_one(mode: str) -> None:
    x = values(0.25).requires_grad_()
    round_to_integer(x, mode).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
