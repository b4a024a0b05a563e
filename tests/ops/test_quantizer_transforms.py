"""The quantizers as operators: opcheck, torch.func, torch.compile, torch.export, tracing and pickling."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qonnx_torch.nn as qnn
from qonnx_torch import ops
from qonnx_torch.ops.quantizers.rounding import round_to_integer

NAMESPACE = torch.ops.qonnx_torch
X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


def scalars(*values: float) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(float(v)) for v in values)


QUANT = {"signed": True, "narrow": False, "rounding_mode": "ROUND"}
FLOAT = {"has_inf": False, "has_nan": False, "saturation": True, "rounding_mode": "ROUND"}
CALLS: dict[str, tuple[Any, tuple[Tensor, ...], dict[str, Any]]] = {
    "quant": (NAMESPACE.quant.default, scalars(0.1, 0, 4), {**QUANT, "one_bit": False}),
    "quant-1bit": (NAMESPACE.quant.default, scalars(0.1, 0, 1), {**QUANT, "one_bit": True}),
    "quant-tensor-bits": (NAMESPACE.quant.default, scalars(0.1, 0.5, 4), {**QUANT, "one_bit": None}),
    "quantize_dequantize_linear": (
        NAMESPACE.quantize_dequantize_linear.default,
        scalars(0.1, 3),
        {"low": -8, "high": 7},
    ),
    "quantize_dequantize_linear-per-axis": (
        NAMESPACE.quantize_dequantize_linear.default,
        (torch.tensor([[0.1], [0.2], [0.3]]), torch.tensor([[3.0], [0.0], [-8.0]])),
        {"low": -8, "high": 7, "gradient": "lsq"},
    ),
    "bipolar_quant": (NAMESPACE.bipolar_quant.default, scalars(0.1), {}),
    "trunc": (NAMESPACE.trunc.default, scalars(0.1, 0, 8, 0.4, 6), {**QUANT, "rounding_mode": "FLOOR"}),
    "trunc_v1": (NAMESPACE.trunc_v1.default, scalars(0.1, 0, 8, 6), {"rounding_mode": "FLOOR"}),
    "float_quant": (NAMESPACE.float_quant.default, scalars(0.1, 4, 3, 7, 448), FLOAT),
    "float_quant-infinity": (
        NAMESPACE.float_quant.default,
        scalars(0.1, 4, 3, 7, 448),
        {**FLOAT, "has_inf": True, "saturation": False},
    ),
    "multi_threshold": (
        NAMESPACE.multi_threshold.default,
        (torch.linspace(-1, 1, 15).reshape(3, 5),),
        {"out_scale": 1.0, "out_bias": 0.0, "channel_axis": 1},
    ),
}
every_call = pytest.mark.parametrize(("op", "parameters", "attributes"), CALLS.values(), ids=CALLS)


@every_call
@pytest.mark.parametrize("track", [False, True])
def test_opcheck(op, parameters, attributes, track) -> None:
    # All four parts apply: the schema, autograd, fake tensors and AOTAutograd with dynamic shapes.
    arguments = tuple(t.clone().requires_grad_(track) for t in (X, *parameters))
    torch.library.opcheck(op, arguments, attributes)


@pytest.mark.parametrize("gradient", ops.GRADIENTS)
@pytest.mark.parametrize("bits", [1.0, 4.0])
def test_opcheck_of_a_learned_bit_width(gradient: str, bits: float) -> None:
    # one_bit is not known beforehand, so compilers see both branches, and eager mode the one that is taken.
    arguments = tuple(t.clone().requires_grad_() for t in (X, *scalars(0.1, 0.5, bits)))
    attributes = {**QUANT, "one_bit": None, "gradient": gradient}
    torch.library.opcheck(NAMESPACE.quant.default, arguments, attributes)


@every_call
def test_func_grad_equals_autograd(op, parameters, attributes) -> None:
    x = X.clone().requires_grad_()
    op(x, *parameters, **attributes).sum().backward()
    grad = torch.func.grad(lambda x: op(x, *parameters, **attributes).sum())(X)
    assert torch.equal(grad, x.grad)


@every_call
def test_forward_mode_equals_reverse_mode(op, parameters, attributes) -> None:
    def f(x: Tensor) -> Tensor:
        return op(x, *parameters, **attributes)

    y, tangent = torch.func.jvp(f, (X,), (torch.ones_like(X),))
    assert torch.equal(y, f(X))
    grad = torch.func.grad(lambda x: f(x).sum())(X)  # elementwise, so the Jacobian is diagonal
    # A minifloat's slope q / y comes of a product; its two modes multiply in opposite order.
    torch.testing.assert_close(tangent, grad, rtol=2**-21 if "float" in str(op) else 0, atol=0)


@every_call
def test_vmap_is_batched(op, parameters, attributes, capfd) -> None:
    xs = torch.stack([X, 3 * X, -X])

    def f(x: Tensor) -> Tensor:
        return op(x, *parameters, **attributes)

    assert torch.equal(torch.vmap(f)(xs), torch.stack([f(x) for x in xs]))
    per_sample = torch.vmap(torch.func.grad(lambda x: f(x).sum()))(xs)
    assert torch.equal(per_sample, torch.stack([torch.func.grad(lambda x: f(x).sum())(x) for x in xs]))
    assert "performance drop" not in capfd.readouterr().err


@every_call
def test_vmap_over_a_parameter(op, parameters, attributes) -> None:
    first, *rest = parameters
    many = torch.stack([first, 2 * first])

    def f(p: Tensor) -> Tensor:
        return op(X, p, *rest, **attributes)

    assert torch.equal(torch.vmap(f)(many), torch.stack([f(p) for p in many]))


# -- a module of the user ------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)
        self.quant = qnn.Quant(torch.full((4,), 0.1), 0.0, 4)
        self.float_quant = qnn.FloatQuant(1.0, 4, 3, 7, 448.0)
        self.trunc = qnn.Trunc(0.1, 0.0, 8, 0.4, 6)
        self.bipolar = qnn.BipolarQuant(0.5)

    def forward(self, x):  # no annotations: torch.fx cannot pickle those that are strings
        y = self.trunc(self.float_quant(self.quant(self.linear(x))))
        return ops.quant(self.bipolar(y) + y, 0.5, 0.0, 3, signed=True, narrow=True)


FUNCTIONS = [ops.quant, ops.float_quant, ops.trunc, ops.bipolar_quant, ops.quant]
OPERATORS = [getattr(NAMESPACE, f.__name__).default for f in FUNCTIONS]
BATCH = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def test_export_keeps_each_quantizer_as_one_node() -> None:
    net = Net().eval()
    dynamic = ({0: torch.export.Dim("n", min=1)},)
    program = torch.export.export(net, (BATCH,), dynamic_shapes=dynamic)
    targets = [n.target for n in program.graph.nodes if n.op == "call_function"]
    assert [t for t in targets if "qonnx_torch" in str(t)] == OPERATORS
    for n in (1, 5, 9):
        assert torch.equal(program.module()(BATCH[:n].repeat(2, 1)), net(BATCH[:n].repeat(2, 1)))


class LearnedPowers(nn.Module):
    """Quantizes by a scale and a bit width that are rounded straight-through, outside of any operator."""

    def __init__(self) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor(-2.2))
        self.bits = nn.Parameter(torch.tensor(2.9))
        self.register_buffer("zero_point", torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.exp2(round_to_integer(self.exponent, "ROUND"))
        return ops.quant(x, scale, self.zero_point, round_to_integer(self.bits, "ROUND"), one_bit=False)


@pytest.mark.parametrize("strict", [False, True])
def test_export_keeps_straight_through_gradients_of_a_module(strict: bool) -> None:
    x, module = 3 * X, LearnedPowers()
    exported = torch.export.export(module, (x,), strict=strict).module()
    expected, found = (m(x).square().sum() for m in (module, exported))
    assert torch.equal(found, expected)
    gradients = torch.autograd.grad(expected, (module.exponent, module.bits))
    assert all(g != 0 for g in gradients)
    again = torch.autograd.grad(found, [exported.get_parameter(n) for n in ("exponent", "bits")])
    torch.testing.assert_close(again, gradients)


@pytest.mark.parametrize("function", [LearnedPowers(), lambda x: round_to_integer(x, "ROUND")])
def test_jit_trace_finds_one_graph_with_and_without_gradients(function) -> None:
    # torch.jit.trace traces again under no_grad, and raises TracingCheckError where the graphs differ.
    x = X.clone().requires_grad_()
    traced = torch.jit.trace(function, (x,))
    (grad,) = torch.autograd.grad(traced(x).sum(), x)
    (expected,) = torch.autograd.grad(function(x).sum(), x)
    assert torch.equal(grad, expected)


def test_symbolic_tracing_keeps_each_quantizer_as_one_node() -> None:
    traced = fx.symbolic_trace(Net().eval())
    targets = [n.target for n in traced.graph.nodes if n.op == "call_function"]
    assert [t for t in targets if t in FUNCTIONS] == FUNCTIONS
    traced.graph.lint()


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_a_traced_module_compute_the_same(copy_of) -> None:
    traced = fx.symbolic_trace(Net().eval())
    again = copy_of(traced)
    assert [n.target for n in again.graph.nodes] == [n.target for n in traced.graph.nodes]
    assert torch.equal(again(BATCH), traced(BATCH))


def test_compiled_training_step_equals_the_eager_one() -> None:
    eager = nn.Sequential(nn.Linear(4, 4), qnn.Quant(0.1, 0.0, 4))
    trained = copy.deepcopy(eager)
    compiled = torch.compile(trained, fullgraph=True)
    y = compiled(BATCH)
    assert torch.equal(y, eager(BATCH))  # the straight-through path has the same bits too
    y.square().sum().backward()
    eager(BATCH).square().sum().backward()
    assert eager[0].weight.grad.abs().sum() > 0
    torch.testing.assert_close(trained[0].weight.grad, eager[0].weight.grad)


def test_tracing_the_function_alone() -> None:
    graph = fx.Graph()
    x = fx.Proxy(graph.placeholder("x"))
    y = ops.quant(x, 0.5, 0.0, 4, signed=True)
    assert y.node.target is ops.quant
    assert y.node.args[1:] == (0.5, 0.0, 4)


def test_a_known_bit_width_spares_the_second_branch() -> None:
    program = torch.export.export(Net().eval(), (BATCH,))
    flags = [n.kwargs["one_bit"] for n in program.graph.nodes if n.target == NAMESPACE.quant.default]
    assert flags == [False, False]
