"""ONNX's own quantization: every type, per tensor, axis and block."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

import qonnx_torch as qt
from qonnx_torch.ops.standard.quantize_linear import dequantize_linear, quantize_linear

TYPES = {
    "int8": 10, "uint8": 10, "int16": 21, "uint16": 21, "int4": 21, "uint4": 21, "int2": 25, "uint2": 25,
    "float8_e4m3fn": 19, "float8_e4m3fnuz": 19, "float8_e5m2": 19, "float8_e5m2fnuz": 19, "float4_e2m1fn": 23,
    "float6_e2m3fn": 28, "float6_e3m2fn": 28,
}  # fmt: skip
"""Quantized type -> the operator set from which on it is allowed."""
LAYOUTS: dict[str, tuple[tuple[int, ...], dict[str, int], int]] = {
    "tensor": ((), {}, 10),
    "one": ((1,), {}, 13),
    "axis": ((6,), {"axis": 1}, 13),
    "last": ((4,), {"axis": -1}, 13),
    "block": ((2, 3, 4), {"axis": 1, "block_size": 2}, 21),
    "ragged": ((2, 6, 2), {"axis": -1, "block_size": 3}, 21),
}
"""Layout -> the scale's shape for x (2, 6, 4), attributes, first operator set."""


def numpy_type(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


def parameters(name: str, layout: str, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray, dict, int]:
    shape, attributes, opset = LAYOUTS[layout]
    generator = np.random.default_rng(len(name))
    scale = generator.uniform(0.1, 0.5, shape).astype(dtype)
    low = -1 if name.startswith("int") else 0
    zeros = np.zeros(shape) if "float" in name else generator.integers(low, 2, shape)
    return np.asarray(scale), np.asarray(zeros).astype(numpy_type(name)), attributes, max(opset, TYPES[name])


X = np.random.default_rng(0).normal(0, 3, (2, 6, 4)).astype(np.float32)
TIES = (np.arange(-24, 24, dtype=np.float32) / 2).reshape(2, 6, 4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", TYPES)
def test_quantize(name: str, layout: str, check_node) -> None:
    scale, zero, attributes, opset = parameters(name, layout)
    check_node("QuantizeLinear", X, scale, zero, opset=opset, **attributes)
    check_node("QuantizeLinear", TIES, np.ones_like(scale), zero, opset=opset, **attributes)
    if opset >= 21:
        element_type = helper.np_dtype_to_tensor_dtype(zero.dtype)
        check_node("QuantizeLinear", X, scale, opset=opset, output_dtype=element_type, **attributes)
    if name.startswith("float8"):
        check_node("QuantizeLinear", 1e5 * X, scale, zero, opset=opset, saturate=0, **attributes)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", TYPES)
def test_dequantize(name: str, layout: str, dtype: Any, check_node) -> None:
    scale, zero, attributes, opset = parameters(name, layout, dtype)
    opset = max(opset, 19)
    low, high = (
        (-6, 6) if "float" in name else (-2, 2) if name == "int2" else (0, 4) if name[0] == "u" else (-8, 8)
    )
    x = np.random.default_rng(1).integers(low, high, (2, 6, 4)).astype(numpy_type(name))
    for zeros in ((), (zero,)):
        check_node("DequantizeLinear", x, scale, *zeros, opset=opset, **attributes)
    if opset >= 23:
        check_node("DequantizeLinear", x, scale, opset=opset, output_dtype=TensorProto.FLOAT16, **attributes)


def test_dequantize_int32(check_node) -> None:
    x = np.random.default_rng(1).integers(-(2**20), 2**20, (2, 3)).astype(np.int32)
    check_node("DequantizeLinear", x, np.float32(0.1).reshape(()), opset=10, source="onnxruntime")


def test_a_scale_of_half_precision_divides_in_it() -> None:
    """8.359375 / 0.28857... is 28.97 in float16 and exact in float32; precision asks for the latter."""
    x, scale = torch.tensor([8.359375]), torch.tensor(0.2886, dtype=torch.float16)
    in_half = torch.round(x.half() / scale)
    assert quantize_linear(x, scale, torch.tensor(0, dtype=torch.int8)).item() == in_half.item()
    wide = quantize_linear(x, scale, torch.tensor(0, dtype=torch.int8), precision=TensorProto.FLOAT)
    assert wide.item() == round(8.359375 / scale.item())


def test_output_dtype_says_what_the_zero_point_does_not_show() -> None:
    x, scale = torch.tensor([-100.0, 3.0, 100.0]), torch.tensor(1.0)
    zero = torch.tensor(1, dtype=torch.int8)  # an INT4 one is held in int8
    assert quantize_linear(x, scale, zero, output_dtype=TensorProto.INT4).tolist() == [-8, 4, 7]
    assert quantize_linear(x, scale, zero).tolist() == [-99, 4, 101]


@pytest.mark.parametrize(("shape", "message"), [((2, 2), "block_size"), ((2, 6, 4), "block_size")])
def test_a_scale_that_does_not_fit_is_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(qt.InvalidModelError, match=message):
        quantize_linear(torch.from_numpy(X), torch.ones(shape))
    with pytest.raises(qt.InvalidModelError, match="needs a scale of x's 3 dimensions, not 1"):
        dequantize_linear(torch.from_numpy(X).to(torch.int8), torch.ones(6), block_size=2)


def test_scales_train() -> None:
    scale = torch.tensor([0.5, 0.25], requires_grad=True)
    x = torch.tensor([[1, 2], [3, 4]], dtype=torch.int8)
    dequantize_linear(x, scale, torch.tensor([1, 1], dtype=torch.int8), axis=0).sum().backward()
    assert scale.grad.tolist() == [1.0, 5.0]


@pytest.mark.parametrize("x", [X, np.abs(X), -np.abs(X), X[:1, :1, :1]])
def test_dynamic(x: np.ndarray, check_node) -> None:
    for opset in (11, 28):
        check_node("DynamicQuantizeLinear", x, opset=opset, outputs=3)
    check_node("DynamicQuantizeLinear", x, opset=11, outputs=3, source="onnxruntime")


def test_dynamic_of_zeros(check_node) -> None:
    """Nothing to scale: the reference takes a range of 1."""
    check_node("DynamicQuantizeLinear", np.zeros((2, 3), np.float32), outputs=3)
    check_node("DynamicQuantizeLinear", np.zeros((2, 0), np.float32), outputs=3, source="onnxruntime")
