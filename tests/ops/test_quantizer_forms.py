"""The forms of a quantizer agree: composed of autograd's operations, hand-written, and in pieces."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from qonnx_torch import ops
from qonnx_torch.ops.quantizers import blocks
from qonnx_torch.ops.quantizers.gradients import FLOAT_GRADIENTS, binarize
from qonnx_torch.ops.quantizers.numerics import integer_bounds
from qonnx_torch.ops.quantizers.rounding import ROUNDING_MODES
from qonnx_torch.ops.quantizers.uniform import composed_quant

UNIT = 2.0**-23
BITS = 3.0


@pytest.fixture(params=[None, 64], ids=["whole", "in pieces"], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs everything with the usual size of pieces, and with one that cuts these small tensors often."""
    if request.param:
        monkeypatch.setattr(blocks, "BLOCK", request.param)


def values(*shape: int, step: float = 0.3) -> Tensor:
    """Random values in and out of range, ties, and values half a step outside."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) * 4 * step
    ties = torch.randint(-12, 13, shape, generator=generator) / 2 * step
    return torch.where(torch.rand(shape, generator=generator) < 0.4, ties, x)


LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: values(4, 6, 5, 7),
    "channels last": lambda: values(4, 6, 5, 7).contiguous(memory_format=torch.channels_last),
    "transposed": lambda: values(7, 6, 5, 4).transpose(0, 3),
    "sliced": lambda: values(4, 12, 5, 9)[:, ::2, :, 1:8],
    "expanded": lambda: values(4, 6, 1, 7).expand(4, 6, 5, 7),
    "vector": lambda: values(700),
    "number": lambda: values(),
}
GENERATOR = torch.Generator().manual_seed(1)
SCALES: dict[str, Tensor] = {
    "per tensor": torch.tensor(0.3),
    "one element": torch.tensor([0.3]),
    "per channel": torch.rand(6, 1, 1, generator=GENERATOR) + 0.1,
    "per output channel": torch.rand(4, 1, 1, 1, generator=GENERATOR) + 0.1,
    "per column": torch.rand(7, generator=GENERATOR) + 0.1,
    "per element": torch.rand(4, 6, 5, 7, generator=GENERATOR) + 0.1,
}


def composed(x: Tensor, s: Tensor, z: Tensor, b: Tensor, **how: Any) -> Tensor:
    low, high = integer_bounds(b, signed=how["signed"], narrow=False)
    return composed_quant(x, s, z, low, high, how["one_bit"], how["rounding_mode"], how["gradient"])


def assert_equal_forms(x: Tensor, s: Tensor, z: Tensor, bits: float = BITS, **how: Any) -> None:
    """The results and dx have the same bits; ds, dz and db are the same to two units."""
    how = {"signed": True, "one_bit": False, "rounding_mode": "ROUND", "gradient": "ste", **how}
    leaves = [(t.clone(memory_format=torch.preserve_format) if t is not x else t) for t in (x, s, z)]
    leaves = [t.detach().requires_grad_() for t in (*leaves, torch.tensor(bits))]
    y = ops.quant(*leaves, **how)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad(y, leaves, grad, materialize_grads=True)

    full = [t.detach().expand(y.shape).clone().requires_grad_() for t in (x, s, z)]
    each_bits = torch.full(y.shape, bits, requires_grad=True)
    expected = composed(*full, each_bits, **how)
    each = torch.autograd.grad(expected, [*full, each_bits], grad, materialize_grads=True)

    assert torch.equal(y.view(torch.int32), expected.view(torch.int32))
    assert found[0].shape == x.shape
    if x.shape == y.shape:
        assert torch.equal(found[0], each[0])
        probe = torch.empty_like(x)
        assert y.stride() == probe.stride()
        assert found[0].stride() == probe.stride()
    quotient = (x / s).abs()
    sizes = (1, (y / s).abs() + quotient, s.abs(), s.abs() * 2.0**bits)
    for a, b, size in zip(found, each, sizes, strict=True):
        magnitude = (grad.abs() * size).double().sum_to_size(a.shape)
        assert ((a - b.double().sum_to_size(a.shape)).abs() <= 2 * UNIT * magnitude).all()


@pytest.mark.parametrize("gradient", ops.GRADIENTS)
@pytest.mark.parametrize("mode", ROUNDING_MODES)
@pytest.mark.parametrize("signed", [True, False])
def test_gradients_and_rounding_modes(gradient: str, mode: str, signed: bool) -> None:
    for scale, zero_point in product(("per tensor", "per channel"), (0.0, 0.75)):
        assert_equal_forms(
            values(4, 6, 5, 7), SCALES[scale], torch.tensor(zero_point),
            gradient=gradient, rounding_mode=mode, signed=signed,
        )  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scale", SCALES)
def test_layouts(layout: str, scale: str) -> None:
    # "vector" and "number" broadcast up to the scale's shape, where they fit it at all.
    x, s = LAYOUTS[layout](), SCALES[scale]
    if layout == "vector" and s.numel() > 1:
        x = x[:7]
    for zero_point in (torch.tensor(0.0), torch.full_like(s, 0.75)):
        assert_equal_forms(x, s, zero_point)


@pytest.mark.parametrize("gradient", ops.GRADIENTS)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_one_bit(gradient: str, layout: str) -> None:
    for scale in ("per tensor", "per channel"):
        assert_equal_forms(
            LAYOUTS[layout](), SCALES[scale], torch.tensor(0.25), 1.0, one_bit=True, gradient=gradient
        )


@pytest.mark.parametrize("gradient", ops.GRADIENTS)
def test_fractional_bits(gradient: str) -> None:
    assert_equal_forms(values(4, 6, 5, 7), torch.tensor(0.3), torch.tensor(0.0), 2.5, gradient=gradient)


@pytest.mark.parametrize("gradient", ["ste", "pass"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scale", ["per tensor", "per channel"])
def test_bipolar(gradient: str, layout: str, scale: str) -> None:
    x, s = LAYOUTS[layout]().requires_grad_(), SCALES[scale].clone().requires_grad_()
    if layout == "vector":
        x = x.detach()[:7].requires_grad_()
    y = ops.bipolar_quant(x, s, gradient=gradient)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    dx, ds = torch.autograd.grad(y, (x, s), grad)
    full = [t.detach().expand(y.shape).clone().requires_grad_() for t in (x, s)]
    expected = binarize(full[0], full[1], gradient) * full[1]
    each = torch.autograd.grad(expected, full, grad)
    assert torch.equal(y.view(torch.int32), expected.view(torch.int32))
    if x.shape == y.shape:
        assert torch.equal(dx, each[0])
    for a, b in ((dx, each[0]), (ds, each[1])):
        exact = b.double().sum_to_size(a.shape)
        assert ((a - exact).abs() <= UNIT * 2 * grad.abs().double().sum_to_size(a.shape)).all()


OTHERS: dict[str, tuple[Callable[..., Tensor], tuple[float, ...], dict[str, Any]]] = {
    **{
        f"float_quant {name}": (ops.float_quant, (0.3, 4, 3, 7, 6.5), {"gradient": name})
        for name in FLOAT_GRADIENTS
    },
    "trunc": (ops.trunc, (0.1, 1.0, 8, 0.4, 4), {"rounding_mode": "FLOOR"}),
    "trunc_v1": (ops.quantizers.trunc_v1, (0.1, 1.0, 8, 6), {}),
}


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "sliced"])
@pytest.mark.parametrize("name", OTHERS)
def test_recomputed_equals_composed(name: str, layout: str) -> None:
    function, parameters, attributes = OTHERS[name]
    leaves = [LAYOUTS[layout](), *(torch.tensor(float(p)) for p in parameters)]
    leaves = [t.detach().requires_grad_() for t in leaves]
    y = function(*leaves, **attributes)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad(y, leaves, grad, materialize_grads=True)
    expected, vjp = torch.func.vjp(lambda *t: function(*t, **attributes), *(t.detach() for t in leaves))
    assert torch.equal(y.view(torch.int32), expected.view(torch.int32))
    assert y.stride() == torch.empty_like(leaves[0]).stride()
    dx, *sums = vjp(grad)
    assert torch.equal(found[0], dx)
    for a, b in zip(found[1:], sums, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("name", OTHERS)
def test_recomputed_where_x_is_broadcast(name: str) -> None:
    function, parameters, attributes = OTHERS[name]
    x, scale = values(300), parameters[0] * torch.tensor([[0.5], [1.0], [2.0]])
    rest = [torch.tensor(float(p)) for p in parameters[1:]]
    leaves = [x.requires_grad_(), scale.requires_grad_()]
    found = torch.autograd.grad(function(*leaves, *rest, **attributes).sum(), leaves)
    rows = [function(x, s, *rest, **attributes).sum() for s in scale]  # the same, a row at a time
    for a, b in zip(found, torch.autograd.grad(sum(rows), leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("gradient", ops.GRADIENTS)
def test_only_what_is_asked_for_gets_a_gradient(gradient: str) -> None:
    tensors = (values(4, 6, 5, 7), torch.tensor(0.3), torch.tensor(0.5), torch.tensor(BITS))
    everything = [t.clone().requires_grad_() for t in tensors]
    ops.quant(*everything, gradient=gradient).square().sum().backward()
    for wanted in product((False, True), repeat=4):
        some = [t.clone().requires_grad_(w) for t, w in zip(tensors, wanted, strict=True)]
        y = ops.quant(*some, gradient=gradient)
        assert y.requires_grad == any(wanted)
        if any(wanted):
            y.square().sum().backward()
        for a, b, w in zip(some, everything, wanted, strict=True):
            # `pass` says nothing about the bit width: a zero where it is in the graph at all.
            assert (a.grad is not None) == w
            assert a.grad is None or torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("name", ["quant", *OTHERS])
def test_no_gradient_under_no_grad(name: str) -> None:
    function, parameters, attributes = OTHERS.get(name, (ops.quant, (0.3, 0.0, BITS), {}))
    x = values(300).requires_grad_()
    tracked = function(x, *parameters, **attributes)
    with torch.no_grad():
        y = function(x, *parameters, **attributes)
    assert y.grad_fn is None
    assert torch.equal(y, tracked)


@pytest.mark.parametrize("gradient", ops.GRADIENTS)
@pytest.mark.parametrize("learned", [False, True])
def test_the_backward_keeps_nothing_large_but_x(gradient: str, learned: bool) -> None:
    kept: list[Tensor] = []
    x = values(4, 6, 5, 7).requires_grad_()
    s = torch.tensor(0.3, requires_grad=learned)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ops.quant(x, s, 0.0, BITS, gradient=gradient)
    large = [t for t in kept if t.numel() > 1]
    assert all(t.data_ptr() == x.data_ptr() for t in large)
    assert len(large) == (0 if gradient == "pass" and not learned else 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["quant", "bipolar"])
def test_the_backward_keeps_half_precision_as_it_is(name: str, dtype: torch.dtype) -> None:
    kept: list[Tensor] = []
    x = values(300).to(dtype).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        SECOND[name if name == "bipolar" else "quant ste"](x, torch.tensor(0.3, dtype=dtype))
    assert [t.data_ptr() for t in kept if t.numel() > 1] == [x.data_ptr()]


@pytest.mark.parametrize("name", OTHERS)
def test_the_recomputed_backward_keeps_x(name: str) -> None:
    function, parameters, attributes = OTHERS[name]
    kept: list[Tensor] = []
    x = values(300).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        function(x, *parameters, **attributes)
    assert all(t.numel() == 1 or t.data_ptr() == x.data_ptr() for t in kept)


SECOND: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{f"quant {g}": lambda x, s, g=g: ops.quant(x, s, 0.25, 3, gradient=g) for g in ops.GRADIENTS},
    "quant lsq scaled": lambda x, s: ops.quant(x, s, 0.25, 3, gradient="lsq", elements=9),
    "bipolar": lambda x, s: ops.bipolar_quant(x, s, gradient="ste"),
    "float_quant": lambda x, s: ops.float_quant(x, s, 4, 3, 7, 6.5),
}


@pytest.mark.parametrize("name", SECOND)
def test_second_derivatives_equal_those_of_torch_func(name: str) -> None:
    x, s = values(200), torch.tensor(0.3)

    def penalty(x: Tensor, s: Tensor) -> Tensor:
        return (SECOND[name](x, s) * torch.cos(x)).sum()

    leaves = [x.clone().requires_grad_(), s.clone().requires_grad_()]
    first = torch.autograd.grad(penalty(*leaves), leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)

    def squares(x: Tensor, s: Tensor) -> Tensor:
        return sum(g.square().sum() for g in torch.func.grad(penalty, argnums=(0, 1))(x, s))

    for a, b in zip(second, torch.func.grad(squares, argnums=(0, 1))(x, s), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SECOND)
@pytest.mark.parametrize("per_row", [False, True])
def test_gradients_of_a_graph_equal_those_without(name: str, per_row: bool) -> None:
    # create_graph takes the composed form; here also where x is broadcast to the scale's rows.
    scale = torch.tensor([[0.2], [0.3], [0.7]]) if per_row else torch.tensor(0.3)
    leaves = [values(200).requires_grad_(), scale.requires_grad_()]
    plain = torch.autograd.grad(SECOND[name](*leaves).square().sum(), leaves)
    with_graph = torch.autograd.grad(SECOND[name](*leaves).square().sum(), leaves, create_graph=True)
    for a, b in zip(with_graph, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", SECOND)
def test_second_derivatives_in_half_precision(name: str, dtype: torch.dtype) -> None:
    # All is computed in float32 from values that half precision holds, then rounded once to it.
    halves = [values(200).to(dtype).requires_grad_(), torch.tensor(0.3, dtype=dtype, requires_grad=True)]
    wide = [t.detach().float().requires_grad_() for t in halves]
    results = []
    for x, s in (halves, wide):
        y = SECOND[name](x, s.float())
        first = torch.autograd.grad((y * torch.cos(x.float())).sum(), (x, s), create_graph=True)
        second = torch.autograd.grad(first[0].float().square().sum(), (x, s))
        assert all(g.dtype == x.dtype for g in (*first, *second))
        results.append((*first, *second))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=4 * torch.finfo(dtype).eps, atol=0.02)


@pytest.mark.parametrize("name", SECOND)
def test_batched_backward_equals_a_loop(name: str) -> None:
    leaves = [values(200).requires_grad_(), torch.tensor(0.3, requires_grad=True)]
    y = SECOND[name](*leaves)
    grads = torch.randn(3, 200, generator=torch.Generator().manual_seed(3))
    batched = torch.autograd.grad(y, leaves, grads, is_grads_batched=True, retain_graph=True)
    for i, grad in enumerate(grads):
        for many, one in zip(batched, torch.autograd.grad(y, leaves, grad, retain_graph=True), strict=True):
            torch.testing.assert_close(many[i], one, rtol=1e-5, atol=1e-4)


def test_expanded_incoming_gradient() -> None:
    x = values(4, 6, 5, 7).requires_grad_()
    ops.quant(x, 0.3, 0.0, 3).sum().backward()  # sum() hands back one element, expanded
    inside = torch.round(x.detach() / 0.3).clamp(-4, 3) == torch.round(x.detach() / torch.tensor(0.3))
    assert torch.equal(x.grad, inside.float())


def test_a_checkpoint_recomputes_the_same() -> None:
    x, s = values(4, 6, 5, 7).requires_grad_(), torch.tensor(0.3, requires_grad=True)
    plain = torch.autograd.grad(ops.quant(x, s, 0.0, 3).square().sum(), (x, s))
    y = torch.utils.checkpoint.checkpoint(ops.quant, x, s, 0.0, 3, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(y.square().sum(), (x, s)), plain, strict=True):
        assert torch.equal(a, b)


def test_half_precision_is_computed_in_float32() -> None:
    x = values(300).to(torch.bfloat16).requires_grad_()
    s = torch.tensor(0.3, requires_grad=True)
    y = ops.quant(x, s, 0.0, 4)
    y.sum().backward()
    wide = x.detach().float().requires_grad_()
    expected = ops.quant(wide, 0.3, 0.0, 4)
    expected.sum().backward()
    assert y.dtype == torch.float32
    assert torch.equal(y, expected)
    assert x.grad.dtype == torch.bfloat16
    assert torch.equal(x.grad.float(), wide.grad)


def test_float64_stays_float64() -> None:
    x = values(300).double().requires_grad_()
    y = ops.quant(x, torch.tensor(0.3, dtype=torch.float64), 0.0, 4)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == torch.float64
    expected = torch.round((x / 0.3).clamp(-8, 7)) * 0.3
    assert torch.equal(y, expected)


@pytest.mark.parametrize("small", [torch.int8, torch.uint8, torch.int32, torch.int64])
def test_integer_bit_widths(small: torch.dtype) -> None:
    x = values(300) * 100
    assert torch.equal(ops.quant(x, 0.3, 0.0, torch.tensor(8, dtype=small)), ops.quant(x, 0.3, 0.0, 8))


def test_jit_trace_records_the_operator() -> None:
    parameters = (torch.tensor(0.3), torch.tensor(0.0), torch.tensor(3.0))
    traced = torch.jit.trace(lambda x: ops.quant(x, *parameters, one_bit=False), (values(300),))
    assert "qonnx_torch::quant" in str(traced.graph)
    x = values(500)
    assert torch.equal(traced(x), ops.quant(x, *parameters))
