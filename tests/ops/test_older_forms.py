"""Older operator forms whose expected values are derived by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import qonnx_torch as qt


def one_node(
    node: onnx.NodeProto, shape: tuple[int, ...], opset: int, **constants: np.ndarray
) -> torch.fx.GraphModule:
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return qt.import_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    )


@pytest.mark.parametrize("shape", [(2, 4, 4, 4), (2, 4, 3, 5), (2, 4)])
def test_prelu_6_slope_is_per_channel(shape: tuple[int, ...]) -> None:
    """-1 in channel c becomes -slope[c]: PRelu-6 has no broadcasting, its slope is one or one per channel."""
    slope = np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32)
    module = one_node(helper.make_node("PRelu", ["x", "slope"], ["y"]), shape, 6, slope=slope)
    y = module(-torch.ones(shape)).detach().numpy()
    expected = np.broadcast_to(-slope.reshape(1, 4, *[1] * (len(shape) - 2)), shape)
    np.testing.assert_array_equal(y, expected)
    newer = qt.import_model(qt.export_qonnx(module, opset_version=17))
    np.testing.assert_array_equal(newer(-torch.ones(shape)).detach().numpy(), expected)


def test_dropout_takes_a_seed() -> None:
    module = one_node(helper.make_node("Dropout", ["x"], ["y"], seed=3), (4,), 13)
    assert torch.equal(module(torch.ones(4)), torch.ones(4))


def test_range_keeps_its_element_type() -> None:
    start, limit, delta = (torch.tensor(v, dtype=torch.float16) for v in (1, 5, 2))
    assert qt.ops.standard.shape.range_(start, limit, delta).dtype == torch.float16


def test_conv_with_a_wrong_number_of_pads_is_refused() -> None:
    weight = np.ones((1, 1, 3, 3), dtype=np.float32)
    module = one_node(helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1]), (1, 1, 5, 5), 13, w=weight)
    with pytest.raises(qt.InvalidModelError, match="2 spatial dimensions need 4 values"):
        module(torch.ones(1, 1, 5, 5))


BATCH = np.random.default_rng(0).normal(2, 3, (4, 2, 3)).astype(np.float32)


def statistics(*shape: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {n: rng.uniform(0.5, 2, shape).astype(np.float32) for n in ("scale", "b", "mean", "var")}


def old_batch_normalization(opset: int, outputs: int, shape: tuple[int, ...], **attributes: int) -> object:
    names = ["y", "new_mean", "new_var", "saved_mean", "saved_var"][:outputs]
    node = helper.make_node("BatchNormalization", ["x", "scale", "b", "mean", "var"], names, momentum=0.75,
                            epsilon=0.0, **attributes)  # fmt: skip
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, BATCH.shape)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names],
        [onnx.numpy_helper.from_array(v, k) for k, v in statistics(*shape).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    return qt.import_model(model)(torch.from_numpy(BATCH))


@pytest.mark.parametrize(("opset", "attributes"), [(6, {"is_test": 0}), (6, {}), (7, {}), (9, {})])
def test_older_batch_normalization_trains_where_it_has_training_outputs(
    opset: int, attributes: dict[str, int]
) -> None:
    """(x - mean) / sqrt(variance) of the batch; running = running * 3 / 4 + batch / 4."""
    given = statistics(2)
    mean, var = BATCH.mean((0, 2)), BATCH.var((0, 2))
    y = (BATCH - mean[:, None]) / np.sqrt(var)[:, None] * given["scale"][:, None] + given["b"][:, None]
    running = [given["mean"] * 0.75 + mean * 0.25, given["var"] * 0.75 + var * 0.25]
    found = old_batch_normalization(opset, 5, (2,), **attributes)
    for actual, expected in zip(found, (y, *running, mean, var), strict=True):
        np.testing.assert_allclose(actual.detach(), expected, rtol=1e-5, atol=1e-6)


def test_batch_normalization_6_trains_without_further_outputs_only_where_it_says_so() -> None:
    given = statistics(2)
    inferred = (BATCH - given["mean"][:, None]) / np.sqrt(given["var"])[:, None]
    inferred = inferred * given["scale"][:, None] + given["b"][:, None]
    for attributes in ({}, {"is_test": 1}):
        found = old_batch_normalization(6, 1, (2,), **attributes)
        np.testing.assert_allclose(found.detach(), inferred, rtol=1e-5, atol=1e-6)
    trained = old_batch_normalization(6, 1, (2,), is_test=0)
    np.testing.assert_allclose(trained.detach().mean((0, 2)), given["b"], rtol=1e-5)


@pytest.mark.parametrize("opset", [6, 7])
def test_batch_normalization_that_is_not_spatial(opset: int) -> None:
    """Each feature has its own mean, variance, scale and offset; the batch's are over the first dimension."""
    given = statistics(2, 3)
    expected = (BATCH - given["mean"]) / np.sqrt(given["var"]) * given["scale"] + given["b"]
    more = {"is_test": 1} if opset == 6 else {}
    found = old_batch_normalization(opset, 1, (2, 3), spatial=0, **more)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-5, atol=1e-6)
    y, _, _, mean, var = old_batch_normalization(opset, 5, (2, 3), spatial=0)
    np.testing.assert_allclose(mean.detach(), BATCH.mean(0), rtol=1e-5)
    np.testing.assert_allclose(var.detach(), BATCH.var(0), rtol=1e-5)
    np.testing.assert_allclose(y.detach().mean(0), given["b"], rtol=1e-4)


def test_batch_normalization_of_one_channel() -> None:
    """Version 9 and up: an input of one dimension is a batch of one channel."""
    x, one = torch.arange(4.0), torch.ones(1)
    y = qt.ops.standard.normalization.batch_normalization(x, 2 * one, one, one, 4 * one, epsilon=0.0)
    assert torch.equal(y, (x - 1) / 2 * 2 + 1)
