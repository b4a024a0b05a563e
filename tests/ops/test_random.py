"""Random operators: what they draw from, their types, and that a seed repeats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

import qonnx_torch as qt

MANY = np.zeros((100, 100), np.float32)
LIKE = {"RandomNormalLike": (MANY,), "RandomUniformLike": (MANY,), "RandomNormal": (), "RandomUniform": ()}


@pytest.mark.parametrize("op_type", LIKE)
def test_draws(op_type: str, run_node) -> None:
    torch.manual_seed(0)
    bounds = {"mean": 3.0, "scale": 2.0} if "Normal" in op_type else {"low": -1.0, "high": 5.0}
    shape = {} if LIKE[op_type] else {"shape": [100, 100]}
    (x,) = run_node(op_type, *LIKE[op_type], **bounds, **shape)
    assert x.dtype == np.float32
    assert x.shape == (100, 100)
    expected = (3.0, 2.0) if "Normal" in op_type else (2.0, 6 / np.sqrt(12))
    np.testing.assert_allclose((x.mean(), x.std()), expected, atol=0.1)
    if "Uniform" in op_type:
        assert -1 <= x.min() < -0.99
        assert 4.99 < x.max() < 5


@pytest.mark.parametrize("op_type", [*LIKE, "Bernoulli", "Multinomial"])
def test_a_seed_repeats(op_type: str, run_node) -> None:
    inputs = LIKE.get(op_type, (np.full((5, 40), 0.5, np.float32),))
    attributes: dict[str, Any] = {} if inputs else {"shape": [5, 40]}
    attributes |= {"sample_size": 20} if op_type == "Multinomial" else {}
    first, again, other = (run_node(op_type, *inputs, seed=s, **attributes)[0] for s in (0.25, 0.25, 0.5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("element_type", [TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_types(element_type: int, run_node) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(element_type)
    for op_type, inputs in LIKE.items():
        shape = {} if inputs else {"shape": [3]}
        assert run_node(op_type, *inputs, dtype=element_type, **shape)[0].dtype == dtype
    assert run_node("RandomNormalLike", MANY.astype(dtype))[0].dtype == dtype


def test_the_input_gives_its_type_only_where_it_is_floating(run_node) -> None:
    integers = np.zeros((2, 3), np.int32)
    with pytest.raises(qt.InvalidModelError, match=r"random numbers cannot be torch\.int32"):
        run_node("RandomNormalLike", integers)
    assert run_node("RandomNormalLike", integers, dtype=TensorProto.FLOAT)[0].shape == (2, 3)


def test_bernoulli(run_node) -> None:
    torch.manual_seed(0)
    p = np.broadcast_to(np.array([0.0, 0.25, 1.0], np.float32), (4000, 3)).copy()
    (x,) = run_node("Bernoulli", p, dtype=TensorProto.INT32)
    assert x.dtype == np.int32
    np.testing.assert_allclose(x.mean(0), [0, 0.25, 1], atol=0.03)


def test_multinomial_draws_by_logarithms(run_node) -> None:
    torch.manual_seed(0)
    logits = np.array([[0, np.log(3), -np.inf], [-np.inf, -np.inf, 2]], np.float32)
    (x,) = run_node("Multinomial", logits, sample_size=4000, dtype=TensorProto.INT64)
    assert x.shape == (2, 4000)
    np.testing.assert_allclose((x[0] == 0).mean(), 0.25, atol=0.03)
    assert not (x[0] == 2).any()
    assert (x[1] == 2).all()


def dropout(outputs: int, opset: int, **constants: Any) -> torch.fx.GraphModule:
    names = ["x", *constants]
    node = helper.make_node(
        "Dropout", names, ["y", "mask"][:outputs], **({"ratio": 0.75} if opset < 12 else {})
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [100, 100])],
        [helper.make_empty_tensor_value_info(n) for n in node.output],
        [helper.make_tensor(k, TensorProto.BOOL if isinstance(v, bool) else TensorProto.FLOAT, (), [v])
         for k, v in constants.items()],
    )  # fmt: skip
    return qt.import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))


@pytest.mark.parametrize("opset", [10, 13, 22])
def test_dropout_has_a_mask(opset: int) -> None:
    module = dropout(2, opset, **({} if opset < 12 else {"ratio": 0.75}))
    x = torch.ones(100, 100)
    y, mask = module(x)
    assert torch.equal(y, x)
    assert mask.dtype == torch.bool
    assert mask.all()
    torch.manual_seed(0)
    y, mask = module.train()(x)
    assert abs(mask.float().mean().item() - 0.25) < 0.02
    assert torch.equal(y, mask * 4.0)


def test_dropout_that_the_file_asks_for() -> None:
    module = dropout(2, 13, ratio=0.5, mode=True)
    torch.manual_seed(0)
    y, mask = module(torch.ones(100, 100))
    assert abs(mask.float().mean().item() - 0.5) < 0.02
    assert torch.equal(y, mask * 2.0)
    assert torch.equal(dropout(1, 13, ratio=0.0, mode=True)(torch.ones(2)), torch.ones(2))
    assert torch.equal(dropout(2, 13, ratio=1.0, mode=True)(torch.ones(2))[0], torch.zeros(2))
