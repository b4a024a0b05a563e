"""QuantizeDequantizeLinear: ONNX's order of rounding, against onnxruntime's pair and gradients by hand."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from qonnx_torch import ops
from qonnx_torch.errors import QonnxTorchError

NAMES = ("ste", "pass", "lsq", "pact")


def hard_values(scale: float, count: int = 20000) -> Tensor:
    """Ties, their neighbours, values far outside, signed zeros and infinities."""
    rng = np.random.default_rng(0)
    ties = (np.arange(-300, 300) + 0.5).astype(np.float32) * np.float32(scale)
    near = [np.nextafter(ties, np.float32(e)) for e in (-np.inf, np.inf)]
    odd = np.array([0.0, -0.0, np.inf, -np.inf, 1e38, -1e38, 1e-45, -1e-45], np.float32)
    wide = rng.normal(size=count).astype(np.float32) * np.float32(200 * scale)
    return torch.from_numpy(np.concatenate([ties, *near, odd, wide]))


def pair(x: Tensor, scale: np.ndarray, zero_point: np.ndarray, axis: int = 1) -> np.ndarray:
    """What onnxruntime makes of QuantizeLinear and DequantizeLinear."""
    parameters = ["scale", "zero"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *parameters], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", *parameters], ["y"], axis=axis),
    ]
    shape = list(x.shape)
    graph = helper.make_graph(
        nodes,
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(zero_point, "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    result: np.ndarray = session.run(None, {"x": x.numpy()})[0]
    return result


@pytest.mark.parametrize("scale", [0.1, 0.25, 0.0371, 1 / 3])
@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("offset", [0, 1, 3, 100, -7])
def test_equals_the_pair_of_onnxruntime(kind: str, scale: float, offset: int, assert_same_bits) -> None:
    limits = np.iinfo(kind)
    zero_point = np.array(max(offset, limits.min), kind)
    x = hard_values(scale)
    y = ops.quantize_dequantize_linear(
        x, torch.tensor(scale), int(zero_point), low=int(limits.min), high=int(limits.max)
    )
    assert_same_bits(y, pair(x, np.float32(scale), zero_point))  # the sign of zero, too


def test_per_axis(assert_same_bits) -> None:
    x = hard_values(0.1)[:19980].reshape(4, 5, -1)
    scale = np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32)
    zero_point = np.array([0, 1, 128, 200, 255], np.uint8)
    y = ops.quantize_dequantize_linear(
        x,
        torch.from_numpy(scale).reshape(5, 1),
        torch.from_numpy(zero_point).reshape(5, 1),
        low=0,
        high=255,
    )
    assert_same_bits(y, pair(x, scale, zero_point))


def test_quant_rounds_elsewhere() -> None:
    """Why there is this operator: at an odd zero point every tie goes the other way in QONNX's Quant."""
    x = torch.tensor([0.5, 1.5, 2.5])
    assert ops.quantize_dequantize_linear(x, 1.0, 1, low=0, high=255).tolist() == [0.0, 2.0, 2.0]
    assert ops.quant(x, 1.0, 1.0, 8, signed=False).tolist() == [1.0, 1.0, 3.0]


def test_bounds_of_a_clip() -> None:
    x = torch.tensor([-9.0, -4.6, -4.0, 0.4, 3.0, 9.0])
    y = ops.quantize_dequantize_linear(x, 1.0, -1, low=-5, high=2)
    assert y.tolist() == [-4.0, -4.0, -4.0, 0.0, 3.0, 3.0]


def test_nan_stays() -> None:
    assert ops.quantize_dequantize_linear(torch.tensor([torch.nan]), 1.0, 3).isnan().all()


@pytest.mark.parametrize(("axis", "size"), [(1, 8), (0, 3), (-1, 7)])
def test_blocks(axis: int, size: int) -> None:
    """Each block as its own tensor; the last one may be shorter."""
    x = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    count = -(-x.shape[axis] // size)
    shape = [9, 16]
    shape[axis] = count
    generator = torch.Generator().manual_seed(1)
    scale = torch.rand(shape, generator=generator) + 0.05
    zero_point = torch.randint(0, 16, shape, generator=generator)
    place = (axis % 2) + 1
    y = ops.quantize_dequantize_linear(
        x, scale.unsqueeze(place), zero_point.unsqueeze(place), low=0, high=15, axis=axis, block_size=size
    )
    spread = [t.repeat_interleave(size, axis).narrow(axis, 0, x.shape[axis]) for t in (scale, zero_point)]
    assert torch.equal(y, ops.quantize_dequantize_linear(x, *spread, low=0, high=15))


def by_hand(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int, name: str) -> tuple[Tensor, ...]:
    """The gradients of the sum of y, in float64, per element of x."""
    y = x / scale
    r, bottom, top = torch.round(y), low - zero, high - zero
    if name == "pass":
        q = torch.clamp(r, bottom, top)
        return torch.ones_like(y), q - y, torch.zeros_like(y)
    tested = r if name == "ste" else y
    below = tested <= bottom if name == "lsq" else tested < bottom
    above = tested > top if name == "ste" else tested >= top
    inside = ~(below | above)
    kept = torch.clamp(y, bottom, top) if name == "pact" else torch.clamp(r, bottom, top)
    # Outside, y is (bound - zero_point) scale: the zero point takes a step away.
    return inside.double(), kept - torch.where(inside, y, 0.0), torch.where(inside, 0.0, -scale)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("per_axis", [False, True])
def test_gradients_by_hand(name: str, per_axis: bool) -> None:
    x = torch.linspace(-40, 40, 3 * 2001, dtype=torch.float64).reshape(3, -1)
    scale = torch.tensor([[0.1], [0.25], [0.3]] if per_axis else 0.1, dtype=torch.float64)
    zero = torch.tensor([[3.0], [0.0], [250.0]] if per_axis else 7.0, dtype=torch.float64)
    leaves = [t.clone().requires_grad_() for t in (x, scale, zero)]
    ops.quantize_dequantize_linear(*leaves, low=0, high=255, gradient=name).sum().backward()
    found = by_hand(x, scale, zero, 0, 255, name)
    for leaf, expected in zip(leaves, found, strict=True):
        torch.testing.assert_close(leaf.grad, expected.sum_to_size(leaf.shape), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_zero_point_it_is_quant(name: str) -> None:
    x = torch.randn(64, 700, generator=torch.Generator().manual_seed(0)) * 20
    results = []
    for quantize in (
        lambda x, s: ops.quant(x, s, 0.0, 8, gradient=name, elements=700),
        lambda x, s: ops.quantize_dequantize_linear(x, s, 0, gradient=name, elements=700),
    ):
        leaves = x.clone().requires_grad_(), torch.tensor(0.1, requires_grad=True)
        y = quantize(*leaves)
        y.square().sum().backward()
        results.append((y, *(leaf.grad for leaf in leaves)))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_divides_in_half_precision(name: str, dtype: torch.dtype) -> None:
    x = (torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)
    steps = x.double() / 0.0371
    x = x[((steps + 131).abs() > 3) & ((steps - 124).abs() > 3)]  # where both precisions clip alike
    leaves = x.clone().requires_grad_(), torch.tensor(0.0371, dtype=dtype, requires_grad=True)
    y = ops.quantize_dequantize_linear(*leaves, 3, low=-128, high=127, gradient=name)
    q = torch.clamp(torch.round(x / leaves[1].detach()).float() + 3, -128, 127) - 3
    assert y.dtype == dtype
    assert torch.equal(y, (q * leaves[1].detach().float()).to(dtype))
    y.float().sum().backward()
    expected = by_hand(*(t.detach().double() for t in leaves), torch.tensor(3.0), -128, 127, name)
    assert (leaves[0].grad.double() - expected[0]).abs().max() < 0.02
    mean = leaves[1].grad.double() / len(x)
    torch.testing.assert_close(mean, expected[1].mean(), rtol=0.05, atol=0.05)  # sums of half precision


def test_unknown_gradient() -> None:
    with pytest.raises(QonnxTorchError, match="gradient 'lqs' does not exist; known gradients: ste, pass,"):
        ops.quantize_dequantize_linear(torch.zeros(1), 1.0, 0, gradient="lqs")
