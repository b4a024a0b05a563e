"""Fourier transforms, windows and mel weights against the onnx package's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops.standard.signal import dft, stft


def numbers(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(list(shape)).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("length", [None, 4, 7, 9])
@pytest.mark.parametrize("axis", [0, 1, -2])
@pytest.mark.parametrize(
    ("parts", "inverse", "onesided"), [(1, 0, 0), (2, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 0), (2, 1, 1)]
)
def test_dft(parts: int, inverse: int, onesided: int, axis: int, length: int | None, check_node) -> None:
    x = numbers(5, 7, parts)
    check_node("DFT", x, length, axis, tolerance=1e-5, inverse=inverse, onesided=onesided)
    if axis == 1:  # the default of the older form, where the axis is an attribute
        for given in ({}, {"axis": 1}):
            check_node(
                "DFT", x, length, opset=17, tolerance=1e-5, inverse=inverse, onesided=onesided, **given
            )


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_dft_of_other_dtypes(dtype: Any, check_node) -> None:
    check_node("DFT", numbers(3, 8, 2, dtype=dtype), tolerance=1e-2 if dtype is np.float16 else 1e-12)


def test_dft_along_the_complex_numbers() -> None:
    with pytest.raises(InvalidModelError, match="the last axis holds real and imaginary parts"):
        dft(torch.zeros(4, 2), None, -1)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize(("step", "window", "length"), [(3, 8, None), (2, 8, 8), (1, None, 5), (4, 7, None)])
def test_stft(
    parts: int, onesided: int, step: int, window: int | None, length: int | None, check_node
) -> None:
    given = None if window is None else numbers(window)
    check_node("STFT", numbers(2, 21, parts), step, given, length, tolerance=1e-5, onesided=onesided)


def test_stft_of_one_frame(check_node) -> None:
    check_node("STFT", numbers(2, 9, 1), 1, tolerance=1e-5)


def test_stft_with_another_window() -> None:
    with pytest.raises(InvalidModelError, match="a window of 4 elements, frame_length 5"):
        stft(torch.zeros(1, 9, 1), 1, torch.zeros(4), 5)


@pytest.mark.parametrize("name", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
@pytest.mark.parametrize("element_type", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_windows(name: str, periodic: int, element_type: int, check_node) -> None:
    for size in (2, 9, 10):
        check_node(name, size, tolerance=1e-3 if element_type == TensorProto.FLOAT16 else 1e-6,
                   periodic=periodic, output_datatype=element_type)  # fmt: skip


@pytest.mark.parametrize("bands", [3, 40])
@pytest.mark.parametrize("length", [31, 400, 1024])
@pytest.mark.parametrize(("rate", "low", "high"), [(8192, 0.0, 4096.0), (16000, 125.0, 7600.0)])
def test_mel_weights(bands: int, length: int, rate: int, low: float, high: float, check_node) -> None:
    edges = np.float32(low), np.float32(high)
    check_node("MelWeightMatrix", bands, length, rate, *edges, tolerance=1e-6)
