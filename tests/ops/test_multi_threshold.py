"""MultiThreshold against qonnx's node, whose layout handling counts too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper
from qonnx.custom_op.general.multithreshold import MultiThreshold

from qonnx_torch import ops


def reference(x: np.ndarray, thresholds: np.ndarray, **attributes: object) -> np.ndarray:
    node = helper.make_node("MultiThreshold", ["x", "t"], ["y"], **attributes)
    context = {"x": x, "t": thresholds}
    MultiThreshold(node, 1).execute_node(context, None)
    return context["y"]


LAYOUTS = [
    ((4, 3), ""),
    ((4, 3), "NC"),
    ((4, 2, 3), ""),
    ((4, 3, 2), "NCW"),
    ((4, 2, 3), "NWC"),
    ((2, 3, 4, 5), ""),
    ((2, 3, 4, 5), "NCHW"),
    ((2, 4, 5, 3), "NHWC"),
    ((2, 3, 2, 2, 2), ""),
    ((2, 2, 2, 2, 3), "NDHWC"),
]


@pytest.mark.parametrize(("shape", "layout"), LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("out_scale", "out_bias"), [(1.0, 0.0), (2.0, -3.0), (0.1, 0.3)])
def test_equals_qonnx(shape, layout, channels, out_scale, out_bias, assert_same_bits) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=shape).astype(np.float32)
    x.flat[:6] = np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5
    thresholds = np.sort(generator.normal(size=(channels, 7))).astype(np.float32)
    thresholds[0, 3], thresholds[0, 6], thresholds[-1, 0] = 0.0, np.inf, -np.inf
    thresholds[0, 4] = x.flat[7]  # equality counts
    attributes = {"data_layout": layout, "out_dtype": "UINT4", "out_scale": out_scale, "out_bias": out_bias}
    expected = reference(x, thresholds, **attributes)
    for track in (False, True):
        tensor = torch.from_numpy(x).requires_grad_(track)
        assert_same_bits(ops.multi_threshold(tensor, torch.from_numpy(thresholds), **attributes), expected)


@pytest.mark.parametrize("steps", [1, 255])
def test_unsorted_thresholds_few_and_many(steps: int, assert_same_bits) -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(8, 5)).astype(np.float32)
    thresholds = generator.normal(size=(5, steps)).astype(np.float32)
    expected = reference(x, thresholds, out_dtype="INT8")
    assert_same_bits(ops.multi_threshold(torch.from_numpy(x), torch.from_numpy(thresholds)), expected)


def test_compiled_equals_qonnx(assert_same_bits) -> None:
    generator = np.random.default_rng(2)
    x = generator.normal(size=(2, 3, 4, 5)).astype(np.float32)
    x.flat[:4] = np.nan, np.inf, -np.inf, -0.0
    thresholds = np.sort(generator.normal(size=(3, 7))).astype(np.float32)
    attributes = {"out_dtype": "INT4", "out_scale": 0.1, "out_bias": 0.3}
    compiled = torch.compile(ops.multi_threshold, fullgraph=True)
    actual = compiled(torch.from_numpy(x), torch.from_numpy(thresholds), **attributes)
    assert_same_bits(actual, reference(x, thresholds, **attributes))


def test_gradient_is_that_of_the_line_between_the_outer_thresholds() -> None:
    x = torch.tensor([[-2.0, -0.5, 0.5, 3.0, 9.0]], requires_grad=True)
    thresholds = torch.tensor([[-1.0, 0.0, 3.0]])
    ops.multi_threshold(x.T, thresholds, out_scale=2.0).sum().backward()
    # Two steps of 2 over a distance of 4; none outside.
    assert x.grad.tolist() == [[0.0, 1.0, 1.0, 1.0, 0.0]]


def test_gradient_with_one_threshold() -> None:
    x = torch.tensor([[-2.0, -0.5, 0.5, 0.9, 9.0]], requires_grad=True)
    ops.multi_threshold(x.T, torch.tensor([[0.0]])).sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0, 1.0, 1.0, 0.0]]


def test_thresholds_that_do_not_fit_are_refused() -> None:
    expected = r"thresholds \(2, 4\) must be \(C, T\) or \(1, T\) for C = 3 channels on axis 1"
    with pytest.raises(ValueError, match=expected):
        ops.multi_threshold(torch.ones(2, 3), torch.ones(2, 4))
