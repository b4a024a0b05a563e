"""Shape values of any number of dimensions, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import qonnx_torch as qt
from qonnx_torch.ops import as_tensor
from qonnx_torch.ops.standard import casting, comparison, elementwise, indexing, movement, reduction, shape
from qonnx_torch.ops.standard._numbers import single

PAIRS = ((1, 2, 3), (4, 5, 6))
MATRIX = np.array(PAIRS)


@pytest.mark.parametrize(("actual", "expected"), [
    (lambda: elementwise.add(PAIRS, (10, 20, 30)), np.add(MATRIX, [10, 20, 30])),
    (lambda: elementwise.mul(PAIRS, ((1,), (2,))), MATRIX * [[1], [2]]),
    (lambda: elementwise.add((), 3), np.zeros(0)),
    (lambda: elementwise.div((-7, 7, 7), (2, -2, 2)), [-3, -3, 3]),
    (lambda: elementwise.mod((-7, 7), 3), [2, 1]),
    (lambda: elementwise.mod((-7, 7), 3, fmod=1), [-1, 1]),
    (lambda: elementwise.pow((2, 3), (3, -1)), [8, 0]),
    (lambda: elementwise.clip((-5, 5, 9), 0, 7), [0, 5, 7]),
    (lambda: elementwise.sign((-2, 0, 7)), [-1, 0, 1]),
    (lambda: elementwise.round((0.5, 1.5, 2.5, -0.5)), [0.0, 2.0, 2.0, -0.0]),
    (lambda: elementwise.reciprocal((4.0, 3.0)), [0.25, np.float32(1 / 3)]),
    (lambda: comparison.where((True, False), PAIRS[0][:2], 9), [1, 9]),
    (lambda: comparison.equal(PAIRS, 5), MATRIX == 5),
    (lambda: movement.transpose(PAIRS), MATRIX.T),
    (lambda: movement.concat(PAIRS, ((7,), (8,)), axis=-1), np.concatenate([MATRIX, [[7], [8]]], 1)),
    (lambda: movement.split(PAIRS, (1, 2), axis=1)[1], MATRIX[:, 1:]),
    (lambda: movement.tile(PAIRS, (2, 2)), np.tile(MATRIX, (2, 2))),
    (lambda: movement.expand((1, 2, 3), (2, 1)), np.broadcast_to([1, 2, 3], (2, 3))),
    (lambda: indexing.slice_(PAIRS, (-1, 0), (-9, 2), (1, 0), (-2, 1)), MATRIX[:, ::-2]),
    (lambda: indexing.gather(PAIRS, ((0, -1), (1, 1)), axis=1), MATRIX[:, [[0, -1], [1, 1]]]),
    (lambda: indexing.gather(PAIRS, 1), MATRIX[1]),
    (lambda: indexing.non_zero((0, 3, 0, 4)), [[1, 3]]),
    (lambda: indexing.non_zero(PAIRS), np.stack(np.nonzero(MATRIX))),
    (lambda: reduction.reduce_sum(PAIRS, (0,), keepdims=0), MATRIX.sum(0)),
    (lambda: reduction.reduce_max(PAIRS, (-1,), keepdims=1), MATRIX.max(1, keepdims=True)),
    (lambda: reduction.reduce_prod(PAIRS, keepdims=0), 720),
    (lambda: reduction.reduce_min(PAIRS, (), noop_with_empty_axes=1), MATRIX),
    (lambda: shape.reshape(PAIRS, (0, -1, 1)), MATRIX.reshape(2, 3, 1)),
    (lambda: shape.reshape((7,), ()), 7),
    (lambda: shape.squeeze(((1,), (2,)), (1,)), [1, 2]),
    (lambda: shape.squeeze(((1,),)), 1),
    (lambda: shape.unsqueeze(PAIRS, (0, -1)), MATRIX[None, ..., None]),
    (lambda: shape.shape(PAIRS, start=-1), [3]),
    (lambda: shape.size(PAIRS), 6),
    (lambda: shape.constant_of_shape((2, 2), value=(7, 5), as_numbers=True), np.full((2, 2), 5)),
    (lambda: shape.range_(1, 6, 2, as_numbers=True), [1, 3, 5]),
    (lambda: casting.cast((2.9, -2.9), to=7), [2, -2]),
    (lambda: casting.cast_like((2, 0), (True,)), [True, False]),
])  # fmt: skip
def test_as_arrays_compute(actual: Any, expected: Any) -> None:
    result = actual()
    np.testing.assert_array_equal(as_tensor(result).numpy(), expected)


def test_beside_a_tensor_they_become_one() -> None:
    x = torch.tensor([1.5, 2.5])
    assert elementwise.add(x, (1, 2)).tolist() == [2.5, 4.5]
    assert comparison.where(torch.tensor([True, False]), (1, 2), 9).tolist() == [1, 9]
    assert elementwise.max(3, x, 2).tolist() == [3.0, 3.0]


def test_floats_are_those_of_float32() -> None:
    assert elementwise.mul(10, single(0.7)) == 7.0
    assert elementwise.floor(elementwise.mul(10, single(0.9))) == 9.0
    assert single(0.1) == np.float32(0.1)
    assert single(float("inf")) == float("inf")


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(qt.InvalidModelError, match="do not broadcast"):
        elementwise.add((1, 2), (1, 2, 3))
    with pytest.raises(qt.InvalidModelError, match="6 elements do not have the shape"):
        shape.reshape(PAIRS, (4,))
    with pytest.raises(qt.InvalidModelError, match="axis 1 of a tensor"):
        shape.squeeze(PAIRS, (1,))
