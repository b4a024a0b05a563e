"""Weights in blocks of a few bits that share a scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator

__all__: list[str] = []

_DOMAIN = "com.microsoft"


@operator("MatMulNBits", domain=_DOMAIN)
def mat_mul_n_bits(
    A: Tensor,
    B: Tensor,
    scales: Tensor,
    zero_points: Tensor | None = None,
    g_idx: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    K: int,
    N: int,
    accuracy_level: int = 0,
    bits: int = 4,
    block_size: int,
    weight_prepacked: int = 0,
) -> Tensor:
    """Returns A W^T + bias with W = (B - zero_points) * scales, block by block of each row.

    Args:
        A: (..., K).
        B: (N, blocks, block_size * bits / 8) bytes, the first value of a byte in its low bits; where a
            dimension is 0, W is 0.
        scales: (N, blocks), or as many in another shape.
        zero_points: (N, blocks) of A's dtype, or (N, ceil(blocks * bits / 8)) bytes packed like B;
            2^(bits - 1) where absent.
        g_idx: (K,), block of each column; columns in order where absent.
        bias: (N,).
        K: columns of W.
        N: rows of W.
        accuracy_level: how coarsely an implementation may compute; here it changes nothing.
        bits: 2, 4 or 8.
        block_size: columns of a block.
        weight_prepacked: only 0 is supported: the layout above.

    Returns: (..., N).

    Raises:
        InvalidModelError: the weight is packed for one kind of device, or another number of bits.

    Source: onnxruntime MatMulNBits-1.
    """
    if weight_prepacked or bits not in (2, 4, 8):
        raise InvalidModelError(f"MatMulNBits: weight_prepacked {weight_prepacked}, {bits} bits")
    if B.numel() == 0:
        y = A.new_zeros((*A.shape[:-1], N))
        return y if bias is None else y + bias
    blocks = -(-K // block_size)
    codes = _unpacked(B.reshape(N, blocks, -1), bits).to(scales.dtype)  # (N, blocks, block_size)
    scale = scales.reshape(N, blocks, 1)
    if zero_points is None:
        zero: Tensor | float = float(1 << (bits - 1))
    elif zero_points.is_floating_point():
        zero = zero_points.reshape(N, blocks, 1)
    else:
        zero = _unpacked(zero_points.reshape(N, -1), bits)[:, :blocks].unsqueeze(-1).to(scales.dtype)
    if g_idx is None:
        weight = ((codes - zero) * scale).flatten(1)[:, :K]
    else:
        block = g_idx.to(torch.int64)
        offset = zero[:, block, 0] if isinstance(zero, Tensor) else zero
        weight = (codes.flatten(1)[:, :K] - offset) * scale[:, block, 0]
    return F.linear(A, weight.to(A.dtype), bias)


@operator("GatherBlockQuantized", domain=_DOMAIN, python_only=("packed",))
def gather_block_quantized(
    data: Tensor,
    indices: Tensor,
    scales: Tensor,
    zero_points: Tensor | None = None,
    *,
    bits: int = 4,
    block_size: int = 128,
    gather_axis: int = 0,
    quantize_axis: int = 1,
    packed: bool = True,
) -> Tensor:
    """Returns the slices of (data - zero_points) * scales along an axis, zeros for indices that do not exist.

    Args:
        data: (...) of INT4, UINT4 or a small float type, or bytes with 8 / bits values along the last
            dimension, the first in the low bits.
        indices: any shape; negative ones count from the end.
        scales: data's shape, with one for each block along quantize_axis (elsewhere 1 is repeated).
        zero_points: scales' shape, of data's kind; absent they are 2^(bits - 1) for bytes, else 0.
        bits: of the values in a byte: 2, 4 or 8.
        block_size: values that share a scale; 0 for all along the axis.
        gather_axis: where to pick.
        quantize_axis: where the blocks are.
        packed: whether uint8 data are bytes with 8 / bits values each; else they are UINT4.

    Returns: data's shape with indices' shape for gather_axis, of scales' dtype.

    Source: onnxruntime GatherBlockQuantized-1.
    """
    rank = data.dim()
    blocks, picked = quantize_axis % rank, gather_axis % rank
    default = 0.0
    if data.dtype == torch.uint8 and packed:
        data, default = _unpacked(data, bits), float(1 << (bits - 1))
        if zero_points is not None:
            zero_points = _unpacked(zero_points, bits)[..., : scales.shape[-1]]
    zero = scales.new_full((1,) * rank, default) if zero_points is None else zero_points.to(scales.dtype)
    length = data.shape[picked]
    found = (indices >= -length) & (indices < length)
    place = torch.where(found, indices % length, 0).reshape(-1)
    size = block_size or data.shape[blocks]
    if picked != blocks:  # dequantize only what is asked for
        data = data.index_select(picked, place)
        scales, zero = _selected(scales, picked, place), _selected(zero, picked, place)
    block = torch.arange(data.shape[blocks], device=data.device) // size
    scale, offset = _selected(scales, blocks, block), _selected(zero, blocks, block)
    values = (data.to(scales.dtype) - offset) * scale
    if picked == blocks:
        values = values.index_select(picked, place)
    values = values.movedim(picked, 0) * found.reshape(-1, *[1] * (rank - 1))
    values = values.reshape(*indices.shape, *values.shape[1:])
    return values.movedim(list(range(indices.dim())), list(range(picked, picked + indices.dim())))


def _selected(x: Tensor, axis: int, index: Tensor) -> Tensor:
    """Returns the slices at an index along an axis; what is the same everywhere as it is."""
    return x if x.shape[axis] == 1 else x.index_select(axis, index)


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """Returns the values in bytes (..., n) as (..., n * 8 / bits), the low bits first."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    values = packed.view(torch.uint8).unsqueeze(-1) >> shifts
    return (values & ((1 << bits) - 1)).flatten(-2)
