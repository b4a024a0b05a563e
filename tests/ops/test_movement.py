"""Operators that put elements elsewhere: every element type, corners, older forms."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import qonnx_torch as qt
from qonnx_torch.ops.standard import indexing, movement

TYPES = [
    bool, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float16,
    ml_dtypes.bfloat16, np.float32, np.float64, np.complex64, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e8m0fnu,
]  # fmt: skip
"""What the operators that compute nothing hold; the last three only where a schema has them."""
X = np.arange(1, 25).reshape(2, 3, 4)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("op_type", "inputs", "attributes", "compute"), [
    ("Transpose", (), {"perm": [2, 0, 1]}, lambda x: x.transpose(2, 0, 1)),
    ("Reshape", ((4, -1),), {}, lambda x: x.reshape(4, 6)),
    ("Squeeze", (), {}, lambda x: x),
    ("Unsqueeze", ((-1, 0),), {}, lambda x: x[None, ..., None]),
    ("Flatten", (), {"axis": 2}, lambda x: x.reshape(6, 4)),
    ("Identity", (), {}, lambda x: x),
    ("Pad", ((0, 1, 2, 0, -1, 1),), {}, lambda x: np.pad(x[:, :2], ((0, 0), (1, 0), (2, 1)))),
])  # fmt: skip
def test_every_type(
    dtype: Any, op_type: str, inputs: tuple, attributes: dict, compute: Any, check_node
) -> None:
    x = X.astype(dtype)
    if op_type == "Pad" and np.dtype(dtype) == ml_dtypes.float8_e8m0fnu:
        pytest.skip("the type has no 0 to pad with")
    check_node(op_type, x, *inputs, expected=np.ascontiguousarray(compute(x)), **attributes)


@pytest.mark.parametrize("dtype", TYPES[:14], ids=str)
def test_types_of_the_others(dtype: Any, check_node) -> None:
    x = X.astype(dtype)
    lengths = np.array([3, 1])
    reversed_rows = np.stack([x[0][::-1], x[1]])
    check_node("ReverseSequence", x, lengths, batch_axis=0, time_axis=1, expected=reversed_rows)
    check_node("Tile", x, (1, 2, 0), expected=np.tile(x, (1, 2, 0)))
    check_node("Expand", x[:, :1], (2, 1, 3, 1), expected=np.broadcast_to(x[:, :1], (2, 2, 3, 4)))
    check_node("Concat", x, x[:, :0], x[:, :1], axis=-2, expected=np.concatenate([x, x[:, :1]], 1))
    check_node("Split", x, (1, 0, 3), axis=-1, outputs=3, expected=np.split(x, [1, 1], -1))
    check_node("DepthToSpace", np.resize(x, (1, 8, 2, 3)), blocksize=2, mode="CRD")
    for mode in ("DCR", "CRD"):
        check_node("SpaceToDepth", np.resize(x, (1, 2, 4, 6)), blocksize=2, mode=mode)


@pytest.mark.parametrize(("length", "count", "sizes"), [(6, 3, [2, 2, 2]), (7, 3, [3, 3, 1]), (3, 1, [3])])
def test_split_into_a_number_of_parts(length: int, count: int, sizes: list[int], run_node) -> None:
    results = run_node("Split", np.zeros((length, 2), np.float32), num_outputs=count, outputs=count)
    assert [len(r) for r in results] == sizes


@pytest.mark.parametrize(("size", "start", "end", "step", "expected"), [
    (4, 3, -(2**63), -1, [3, 2, 1, 0]), (4, -1, -5, -2, [3, 1]), (4, 0, -5, -1, [0]), (4, 0, -4, -1, []),
    (4, -9, -9, -1, [0]), (4, 2**63 - 1, -(2**63), -3, [3, 0]), (4, -9, 9, 2, [0, 2]), (4, 5, 9, 1, []),
    (4, 1, 2**63 - 1, 1, [1, 2, 3]), (0, 0, 5, 1, []), (0, -1, -9, -1, []), (4, -1, -1, -1, []),
])  # fmt: skip
def test_slices(size: int, start: int, end: int, step: int, expected: list[int], run_node) -> None:
    """Starts and ends are clamped, a start before the front to 0, as the specification says."""
    (result,) = run_node("Slice", np.arange(size, dtype=np.float32), (start,), (end,), (0,), (step,))
    assert result.tolist() == expected
    assert list(indexing.slice_(tuple(range(size)), (start,), (end,), (0,), (step,))) == expected


def test_slices_that_are_none_are_refused() -> None:
    with pytest.raises(qt.InvalidModelError, match="a step is 0"):
        indexing.slice_(torch.zeros(3), (0,), (1,), (0,), (0,))
    with pytest.raises(qt.InvalidModelError, match="as many starts as ends, axes and steps"):
        indexing.slice_(torch.zeros(3), (0, 0), (1,))


def test_a_split_that_says_nothing_is_refused() -> None:
    with pytest.raises(qt.InvalidModelError, match="the input split or the attribute num_outputs"):
        movement.split(torch.zeros(3))
