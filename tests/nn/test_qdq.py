"""The module QuantizeDequantizeLinear: what it owns, learns and tells."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from onnx import TensorProto

import qonnx_torch as qt
import qonnx_torch.nn as qnn
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.nn.scales import SCALE_TRAINING

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)) * 4


def per_tensor() -> qnn.QuantizeDequantizeLinear:
    return qnn.QuantizeDequantizeLinear(
        0.1, torch.tensor(100, dtype=torch.uint8), element_type=TensorProto.UINT8
    )


def per_axis() -> qnn.QuantizeDequantizeLinear:
    scale = torch.linspace(0.1, 0.6, 6).reshape(6, 1)
    zero_point = torch.tensor([-9, 0, 1, 2, 3, 40], dtype=torch.int8).reshape(6, 1)
    return qnn.QuantizeDequantizeLinear(scale, zero_point, axis=-2)


def per_block() -> qnn.QuantizeDequantizeLinear:
    scale = torch.linspace(0.1, 0.9, 18).reshape(6, 3, 1)
    zero_point = torch.arange(18, dtype=torch.uint8).reshape(6, 3, 1) % 16
    return qnn.QuantizeDequantizeLinear(
        scale, zero_point, element_type=TensorProto.UINT4, axis=-1, block_size=3
    )


KINDS = {"tensor": per_tensor, "axis": per_axis, "block": per_block}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@every_kind
@pytest.mark.parametrize("kind", SCALE_TRAINING)
@pytest.mark.parametrize("gradient", ["ste", "pass", "lsq", "pact"])
def test_every_parametrisation_trains(make, kind: str, gradient: str) -> None:
    module = make()
    before = module(X)
    module.gradient = gradient
    module.train_parameters(scale=kind, zero_point="learned")
    if kind not in ("statistics", "power_of_two"):
        torch.testing.assert_close(module(X), before, rtol=1e-5, atol=1e-6)
    x = X.clone().requires_grad_()
    module(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@every_kind
def test_a_learned_zero_point_is_whole_and_of_its_type(make) -> None:
    module = make()
    module.train_parameters(zero_point="learned")
    with torch.no_grad():
        module.zero_point.add_(0.4)
        module.zero_point.view(-1)[0] = 1e6
    current = module.current_parameters()["zero_point"]
    assert torch.equal(current, torch.round(current))
    limits = {TensorProto.UINT8: 255, TensorProto.INT8: 127, TensorProto.UINT4: 15}
    assert current.max() == limits[module.element_type]


@every_kind
def test_statistics_are_per_element_of_the_scale(make) -> None:
    module = make()
    module.train_parameters(scale="statistics")
    y = module(X)
    largest = {
        "tensor": X.abs().max(),
        "axis": X.abs().amax(1, keepdim=True),
        "block": torch.nn.functional.pad(X, (0, 1)).reshape(6, 3, 3).abs().amax(-1, keepdim=True),
    }[next(k for k, v in KINDS.items() if v is make)]
    zero_point = module.zero_point.float()
    end = torch.maximum(zero_point - module.low, module.high - zero_point)
    torch.testing.assert_close(module.scale, (largest / end).reshape(module.scale.shape))
    assert y.shape == X.shape


@every_kind
@pytest.mark.parametrize("method", ["max", "percentile", "mse", "lsq", "moving_average"])
def test_calibration(make, method: str) -> None:
    module = make()
    with torch.no_grad():
        module.scale.mul_(20)
    worse = (module(X) - X).square().mean()
    qt.calibrate_quantizer(module, X, method=method)
    assert (module(X) - X).square().mean() < worse
    zero_point = module.current_parameters()["zero_point"].float()
    assert bool(((zero_point >= module.low) & (zero_point <= module.high)).all())


def test_an_affine_range_holds_zero_and_both_ends() -> None:
    module = per_tensor()
    x = torch.tensor([-1.0, 0.0, 2.0])
    qt.calibrate_quantizer(module, x)
    assert module(x)[1] == 0
    torch.testing.assert_close(module(x), x, rtol=0, atol=0.01)
    assert module.zero_point.dtype == torch.uint8
    assert int(module.zero_point) == 85


@every_kind
def test_copies_and_checkpoints(make) -> None:
    module = make()
    module.train_parameters(scale="log2", zero_point="learned")
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(X), module(X))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5)
    stored = io.BytesIO()
    torch.save(module.state_dict(), stored)
    stored.seek(0)
    again = make()
    again.train_parameters(scale="log2", zero_point="learned")
    again.load_state_dict(torch.load(stored))
    assert torch.equal(again(X), module(X))


@every_kind
def test_compiled_and_exported(make) -> None:
    module = make()
    assert torch.equal(torch.compile(module, fullgraph=True)(X), module(X))
    program = torch.export.export(module, (X,))
    targets = [str(n.target) for n in program.graph.nodes]
    assert targets.count("qonnx_torch.quantize_dequantize_linear.default") == 1
    assert torch.equal(program.module()(X), module(X))


def test_set_parameters_keeps_what_is_learned() -> None:
    module = per_tensor()
    module.train_parameters(scale="step", zero_point="learned")
    learned = dict(module.named_parameters())
    module.set_parameters(scale=0.2, zero_point=7)
    assert dict(module.named_parameters()).keys() == learned.keys()
    assert all(learned[n] is p for n, p in module.named_parameters())
    assert module.current_parameters()["zero_point"] == 7
    module.freeze()
    assert not any(p.requires_grad for p in module.parameters())
    module.train_parameters()
    assert not list(module.parameters())


def test_computed_parameters_are_inputs() -> None:
    module = qnn.QuantizeDequantizeLinear(None, None, element_type=TensorProto.UINT8)
    y = module(X, torch.tensor(0.1), torch.tensor(100, dtype=torch.uint8))
    assert torch.equal(y, per_tensor()(X))
    with pytest.raises(ValueError, match="scale is neither owned nor given"):
        module(X)
    with pytest.raises(QonnxTorchError, match="zero_point is computed elsewhere"):
        module.train_parameters(zero_point="learned")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: qnn.QuantizeDequantizeLinear(low=3, high=3), "from 3 to 3 are no range within INT8"),
        (
            lambda: qnn.QuantizeDequantizeLinear(low=200, high=300),
            "from 200 to 300 are no range within INT8",
        ),
        (lambda: per_tensor().train_parameters(zero_point="on"), "zero_point training 'on' does not exist"),
        (lambda: per_tensor().train_parameters(scale="on"), "scale training 'on' does not exist"),
    ],
)
def test_refusals(call, message: str) -> None:
    with pytest.raises(QonnxTorchError, match=message):
        call()


def test_bounds_stay_within_the_type() -> None:
    module = qnn.QuantizeDequantizeLinear(low=-1000, high=5)
    assert (module.low, module.high) == (-128, 5)
    assert "element_type=3" in repr(module)
