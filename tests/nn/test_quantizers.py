"""Quantizer modules: what they own, what they take, and what follows a change of the bit width."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import qonnx_torch.nn as qnn
from qonnx_torch import ops
from qonnx_torch.errors import InvalidModelError
from qonnx_torch.registry import REGISTRY

X = torch.linspace(-3, 3, 61)
MODULES = {
    "Quant": (lambda: qnn.Quant(0.1, 0.0, 4, rounding_mode="floor"), "quant"),
    "BipolarQuant": (lambda: qnn.BipolarQuant(0.5), "bipolar_quant"),
    "Trunc": (lambda: qnn.Trunc(0.1, 0.0, 8, 0.4, 6, narrow=True), "trunc"),
    "FloatQuant": (lambda: qnn.FloatQuant(0.1, 4, 3, 7, 448.0), "float_quant"),
    "MultiThreshold": (
        lambda: qnn.MultiThreshold(torch.tensor([[-1.0, 1.0]]), out_bias=-1.0),
        "multi_threshold",
    ),
}
every_module = pytest.mark.parametrize(("make", "function"), MODULES.values(), ids=MODULES)


@every_module
def test_equals_its_function_and_every_copy_too(make, function) -> None:
    module = make()
    x = X.reshape(1, -1) if function != "multi_threshold" else X.reshape(-1, 1)
    owned = [getattr(module, name) for name in module.parameter_names]
    y = module(x)
    assert torch.equal(y, getattr(ops, function)(x, *owned, **module.onnx_attributes()))
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(again(x), y)
    fresh = make()
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(x), y)


@every_module
def test_owned_parameters_are_buffers_that_move_with_the_module(make, function) -> None:
    module = make()
    assert list(module.state_dict()) == list(module.parameter_names)
    assert not list(module.parameters())
    assert all(b.device.type == "meta" for b in copy.deepcopy(module).to("meta").buffers())


@every_module
def test_registry_knows_the_module(make, function) -> None:
    entry = REGISTRY.of_target(type(make()))
    assert entry is not None
    assert entry is REGISTRY.of_target(getattr(ops, function))
    assert REGISTRY.module_of(entry) is type(make())


def test_parameters_that_the_graph_computes_are_inputs() -> None:
    module = qnn.Quant(None, 0.0, None, signed=True)
    scale, bits = torch.tensor(0.1), torch.tensor(4.0)
    assert torch.equal(module(X, scale, None, bits), ops.quant(X, 0.1, 0.0, 4))
    assert torch.equal(module(X, scale, bit_width=torch.tensor(1.0)), ops.quant(X, 0.1, 0.0, 1))
    with pytest.raises(ValueError, match="Quant: bit_width is neither owned nor given"):
        module(X, scale)
    with pytest.raises(ValueError, match="Quant: zero_point is owned and given at once"):
        module(X, scale, torch.tensor(1.0), bits)


def test_unknown_rounding_mode_is_refused_at_once() -> None:
    with pytest.raises(InvalidModelError, match="rounding_mode 'NEAREST' does not exist"):
        qnn.Quant(rounding_mode="NEAREST")


@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 4)])
def test_the_one_bit_case_follows_the_bit_width(before: int, after: int) -> None:
    expected = ops.quant(X, 0.5, 0.0, after)
    changed = qnn.Quant(0.5, 0.0, before)
    changed.set_bit_width(after)
    assert torch.equal(changed(X), expected)

    loaded = qnn.Quant(0.5, 0.0, before)
    loaded.load_state_dict(qnn.Quant(0.5, 0.0, after).state_dict())
    assert torch.equal(loaded(X), expected)

    inner = torch.nn.Sequential(qnn.Quant(0.5, 0.0, before))
    inner.load_state_dict(torch.nn.Sequential(qnn.Quant(0.5, 0.0, after)).state_dict())
    assert torch.equal(inner(X), expected)

    assigned = qnn.Quant(0.5, 0.0, before)
    assigned.load_state_dict(qnn.Quant(0.5, 0.0, after).state_dict(), assign=True)
    assert torch.equal(assigned(X), expected)


@pytest.mark.parametrize("bits", [1, 4])
def test_a_module_made_on_the_meta_device_learns_its_bit_width_when_loaded(bits: int) -> None:
    with torch.device("meta"):
        module = qnn.Quant(0.5, 0.0, 8)
    module = module.to_empty(device="cpu")
    module.load_state_dict(qnn.Quant(0.5, 0.0, bits).state_dict())
    assert torch.equal(module(X), ops.quant(X, 0.5, 0.0, bits))


def test_forward_does_not_read_the_bit_width() -> None:
    module = qnn.Quant(0.5, 0.0, 4).to("meta")
    assert module(X.to("meta")).shape == X.shape


def test_representation() -> None:
    assert repr(qnn.Quant(0.5, 0.0, 4)) == (
        "Quant(scale=0.5, zero_point=0, bit_width=4, signed=1, narrow=0, rounding_mode=ROUND)"
    )
    assert "scale=(3, 1)" in repr(qnn.Quant(torch.ones(3, 1), None, 4))


def test_assigned_and_in_place_bit_widths_are_the_ones_exported() -> None:
    x = torch.linspace(-3, 3, 101)
    quantizer = qnn.Quant(0.5, 0.0, 4)
    quantizer.bit_width = torch.tensor(1.0)
    assert set(quantizer(x).tolist()) == {-0.5, 0.5}
    quantizer.bit_width = torch.tensor(4.0)
    assert len(set(quantizer(x).tolist())) > 2
    quantizer.bit_width.fill_(1)
    assert quantizer.current_parameters()["bit_width"].item() == 1  # what an export reads
    assert set(quantizer(x).tolist()) == {-0.5, 0.5}
