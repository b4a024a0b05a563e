"""Operators that pick by position: every element type, indices from the end, both index types."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops.standard.indexing import gather_nd

TYPES = [
    bool, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float16,
    ml_dtypes.bfloat16, np.float32, np.float64, np.complex64,
]  # fmt: skip
X = np.arange(24).reshape(2, 3, 4)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("index_type", [np.int32, np.int64], ids=str)
def test_gather(dtype: Any, index_type: Any, check_node) -> None:
    x = X.astype(dtype)
    index = np.array([[0, -1], [2, 1]], index_type)
    check_node("Gather", x, index, axis=1, expected=x[:, index])
    check_node("Gather", x, np.array(-1, index_type), axis=-1, expected=x[..., -1])
    picked = np.array([[[-1, 1, 0, 0]] * 3], index_type)
    check_node("GatherElements", x, picked, axis=0, expected=np.take_along_axis(x, picked % 2, 0))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_gather_nd(dtype: Any, check_node) -> None:
    x = X.astype(dtype)
    check_node("GatherND", x, np.array([[0, 1], [-1, -1]]), expected=x[[0, 1], [1, 2]])
    check_node("GatherND", x, np.array([1, 2, -1]), expected=x[1, 2, 3])
    check_node("GatherND", x, np.array([[[1]], [[-3]]]), batch_dims=1, expected=x[[0, 1], [1, 0]][:, None])
    both = np.array([[[0], [1], [2]], [[3], [-1], [-2]]])
    check_node("GatherND", x, both, batch_dims=2, expected=np.take_along_axis(x, both, 2)[..., 0])


def test_gather_nd_of_no_index() -> None:
    with pytest.raises(InvalidModelError, match=r"indices \(2, 0\); the last dimension must be >= 1"):
        gather_nd(torch.zeros(3), torch.zeros(2, 0, dtype=torch.int64))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_compress_and_non_zero(dtype: Any, check_node) -> None:
    x = (X % 3).astype(dtype)
    check_node("Compress", x, np.array([True, False, True]), axis=1, expected=x[:, [0, 2]])
    check_node("Compress", x, np.array([False, True]), axis=-1, expected=x[..., [1]])
    check_node("Compress", x, np.array([False, True, True]), expected=x.ravel()[[1, 2]])
    check_node("NonZero", x, expected=np.stack(np.nonzero(x)))
    check_node("NonZero", np.asarray(x[0, 0, 1]), expected=np.zeros((0, 1), np.int64))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(dtype: Any, axis: int, check_node) -> None:
    """Indices from -depth to depth - 1 are somewhere, others nowhere; those with digits truncate."""
    off, on = np.array([2, 5]).astype(dtype)
    index = np.array([[0, 2], [-1, 3], [-3, -4]])
    hot = (index % 3)[..., None] == np.arange(3)
    hot &= ((index >= -3) & (index < 3))[..., None]
    expected = np.moveaxis(np.where(hot, on, off).astype(dtype), -1, axis)
    values = np.array([off, on], dtype)
    for indices in (index, index.astype(np.int32), index + np.where(index < 0, -0.5, 0.5)):
        check_node("OneHot", indices, 3, values, axis=axis, expected=expected)
    check_node("OneHot", index, np.array([3.0], np.float32), values, axis=axis, expected=expected)


def test_no_indices(check_node) -> None:
    x, none = X.astype(np.float32), np.zeros((0,), np.int64)
    check_node("Gather", x, none, axis=1, expected=x[:, :0])
    check_node("OneHot", none, 3, np.array([0, 1], np.float32), expected=np.zeros((0, 3), np.float32))
