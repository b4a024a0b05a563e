"""Layers as ONNX operators: convolutions, products with weights, normalizations, dropout, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

import qonnx_torch.nn as qnn
from qonnx_torch.lowering.arithmetic import add
from qonnx_torch.lowering.emitter import Emitter, NotLoweredError
from qonnx_torch.lowering.table import lowers
from qonnx_torch.ops.standard import (
    activation,
    comparison,
    convolution,
    elementwise,
    indexing,
    linear,
    movement,
    normalization,
    reduction,
)

__all__ = ["Ints", "each", "spatial"]

Ints = int | Sequence[int]


def each(value: Ints, count: int) -> tuple[int, ...]:
    """Returns one number per spatial dimension."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return values * count if len(values) == 1 else values


def spatial(g: Emitter, x: fx.Node, expected: int) -> int:
    """Returns the number of spatial dimensions. Raises NotLoweredError where there is no batch."""
    if g.rank(x) != expected + 2:
        raise NotLoweredError(f"ONNX wants a batch dimension and {expected} spatial ones; it has {g.rank(x)}")
    return expected


# -- convolutions and products ---------------------------------------------------------------------


def _convolution(rank: int) -> Any:
    def conv(
        g: Emitter,
        input: fx.Node,
        weight: fx.Node,
        bias: fx.Node | None = None,
        stride: Ints = 1,
        padding: Ints | str = 0,
        dilation: Ints = 1,
        groups: int = 1,
        *,
        padding_mode: str = "zeros",
    ) -> Any:
        spatial(g, input, rank)
        if padding_mode != "zeros":
            raise NotLoweredError(f"padding_mode {padding_mode!r}: Conv pads with zeros")
        kernel = tuple(g.fixed_sizes(weight, range(2, rank + 2)))
        dilations = each(dilation, rank)
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
            begins = tuple(t // 2 for t in total)
            pads = begins + tuple(t - b for t, b in zip(total, begins, strict=True))
        else:
            pads = each(0 if padding == "valid" else padding, rank) * 2  # type: ignore[arg-type]
        attributes = {"kernel_shape": kernel, "pads": pads, "strides": each(stride, rank)}
        attributes["dilations"] = dilations
        return g.call(convolution.conv, input, weight, *_optional(bias), group=groups, **attributes)

    return conv


def _transposed(rank: int) -> Any:
    def conv_transpose(
        g: Emitter,
        input: fx.Node,
        weight: fx.Node,
        bias: fx.Node | None = None,
        stride: Ints = 1,
        padding: Ints = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        dilation: Ints = 1,
    ) -> Any:
        spatial(g, input, rank)
        return g.call(
            convolution.conv_transpose,
            input,
            weight,
            *_optional(bias),
            group=groups,
            kernel_shape=tuple(g.fixed_sizes(weight, range(2, rank + 2))),
            pads=each(padding, rank) * 2,
            strides=each(stride, rank),
            dilations=each(dilation, rank),
            output_padding=each(output_padding, rank),
        )

    return conv_transpose


def _optional(value: fx.Node | None) -> tuple[fx.Node, ...]:
    return () if value is None else (value,)


for _rank, _conv, _deconv in (
    (1, F.conv1d, F.conv_transpose1d),
    (2, F.conv2d, F.conv_transpose2d),
    (3, F.conv3d, F.conv_transpose3d),
):
    lowers(_conv)(_convolution(_rank))
    lowers(_deconv)(_transposed(_rank))


@lowers(F.linear)
def linear_layer(g: Emitter, input: fx.Node, weight: fx.Node, bias: fx.Node | None = None) -> Any:
    """Writes Gemm for a matrix, else Transpose, MatMul and Add."""
    if g.rank(input) == 2 and g.rank(weight) == 2:
        return g.call(linear.gemm, input, weight, *_optional(bias), transB=1)
    weight = g.call(movement.transpose, weight, perm=(1, 0)) if g.rank(weight) == 2 else weight
    y = g.call(linear.mat_mul, input, weight)
    return y if bias is None else g.call(elementwise.add, y, bias)


@lowers(F.embedding)
def embedding(
    g: Emitter,
    input: fx.Node,
    weight: fx.Node,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """Writes Gather; of padding_idx only the gradient would know."""
    if max_norm is not None or scale_grad_by_freq or padding_idx is not None:
        raise NotLoweredError("Gather has no max_norm, scale_grad_by_freq or padding_idx")
    return g.call(indexing.gather, weight, input, axis=0)


# -- normalization ---------------------------------------------------------------------------------


def _affine(g: Emitter, weight: Any, bias: Any, size: Sequence[int], like: fx.Node) -> tuple[Any, Any]:
    """Returns scale and offset; buffers of ones and zeros where the layer has none."""
    tensor = g.known(like)[0]
    kind = {"dtype": tensor.dtype, "device": tensor.device}
    scale = g.constant(torch.ones(tuple(size), **kind)) if weight is None else weight
    offset = g.constant(torch.zeros(tuple(size), **kind)) if bias is None else bias
    return scale, offset


@lowers(F.batch_norm)
def batch_norm(
    g: Emitter,
    input: fx.Node,
    running_mean: fx.Node | None,
    running_var: fx.Node | None,
    weight: fx.Node | None = None,
    bias: fx.Node | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Writes BatchNormalization, which follows the module's mode."""
    if running_mean is None or running_var is None or training:
        raise NotLoweredError("without running statistics it normalizes by the batch also in eval()")
    if momentum is None:
        raise NotLoweredError("a cumulative average (momentum=None) has no counterpart")
    scale, offset = _affine(g, weight, bias, g.fixed_sizes(running_mean, range(1)), running_mean)
    module = qnn.BatchNormalization(epsilon=eps, momentum=1 - momentum)
    return g.module(module, input, scale, offset, running_mean, running_var)


@lowers(F.layer_norm)
def layer_norm(
    g: Emitter,
    input: fx.Node,
    normalized_shape: Sequence[int],
    weight: fx.Node | None = None,
    bias: fx.Node | None = None,
    eps: float = 1e-5,
) -> Any:
    """Writes LayerNormalization."""
    scale, _ = (weight, None) if weight is not None else _affine(g, None, 0, normalized_shape, input)
    function = normalization.layer_normalization
    return g.call(function, input, scale, *_optional(bias), axis=-len(normalized_shape), epsilon=eps)


@lowers(F.group_norm)
def group_norm(
    g: Emitter,
    input: fx.Node,
    num_groups: int,
    weight: fx.Node | None = None,
    bias: fx.Node | None = None,
    eps: float = 1e-5,
) -> Any:
    """Writes GroupNormalization."""
    scale, offset = _affine(g, weight, bias, g.fixed_sizes(input, range(1, 2)), input)
    function = normalization.group_normalization
    return g.call(function, input, scale, offset, num_groups=num_groups, epsilon=eps)


@lowers(F.instance_norm)
def instance_norm(
    g: Emitter,
    input: fx.Node,
    running_mean: fx.Node | None = None,
    running_var: fx.Node | None = None,
    weight: fx.Node | None = None,
    bias: fx.Node | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Writes InstanceNormalization, where no running statistics are kept."""
    if running_mean is not None or not use_input_stats:
        raise NotLoweredError("InstanceNormalization keeps no running statistics")
    if g.rank(input) < 3:
        raise NotLoweredError("InstanceNormalization wants a batch dimension")
    scale, offset = _affine(g, weight, bias, g.fixed_sizes(input, range(1, 2)), input)
    return g.call(normalization.instance_normalization, input, scale, offset, epsilon=eps)


# -- others ----------------------------------------------------------------------------------------


@lowers(F.dropout, torch.dropout)
def dropout(g: Emitter, input: fx.Node, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
    """Writes Dropout, which follows the module's mode, or always drops where the call says so."""
    return g.module(qnn.Dropout(), input, p, *((True,) if training else ()))


@lowers(F.scaled_dot_product_attention)
def attention(
    g: Emitter,
    query: fx.Node,
    key: fx.Node,
    value: fx.Node,
    attn_mask: fx.Node | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Writes softmax(scale * query @ key' + mask) @ value."""
    if dropout_p or enable_gqa:
        raise NotLoweredError("attention with dropout in eval() or with grouped queries is not written")
    rank = g.rank(key)
    perm = (*range(rank - 2), rank - 1, rank - 2)
    depth = g.fixed_sizes(query, range(rank - 1, rank))[0]
    scores = g.call(linear.mat_mul, query, g.call(movement.transpose, key, perm=perm))
    scores = g.call(elementwise.mul, scores, 1 / math.sqrt(depth) if scale is None else scale)
    if is_causal:
        rows, columns = g.fixed_sizes(scores, range(rank - 2, rank))
        attn_mask = g.constant(
            torch.ones(rows, columns, dtype=torch.bool, device=g.known(query)[0].device).tril()
        )
    if attn_mask is not None and g.dtype(attn_mask) is torch.bool:
        scores = g.call(comparison.where, attn_mask, scores, -math.inf)
    elif attn_mask is not None:
        scores = add(g, scores, attn_mask)
    return g.call(linear.mat_mul, g.call(activation.softmax, scores, axis=-1), value)


@lowers(*([F.rms_norm] if hasattr(F, "rms_norm") else []))
def rms_norm(
    g: Emitter,
    input: fx.Node,
    normalized_shape: Sequence[int],
    weight: fx.Node | None = None,
    eps: float | None = None,
) -> Any:
    """Writes x / sqrt(mean(x^2) + eps) * weight: RMSNormalization itself is newer than opset 21."""
    axes = tuple(range(-len(normalized_shape), 0))
    square = g.call(reduction.reduce_mean, g.call(elementwise.mul, input, input), axes, keepdims=1)
    epsilon = torch.finfo(g.dtype(input)).eps if eps is None else eps
    root = g.call(elementwise.sqrt, g.call(elementwise.add, square, epsilon))
    y = g.call(elementwise.div, input, root)
    return y if weight is None else g.call(elementwise.mul, y, weight)


@lowers(torch._weight_norm)
def weight_norm(g: Emitter, v: fx.Node, size: fx.Node, dim: int = 0) -> Any:
    """Writes v * (size / |v|), with the norm over all dimensions but `dim`; of -1, over all."""
    kept = () if dim == -1 else (dim,)
    axes = tuple(d for d in range(g.rank(v)) if d not in kept)
    return g.call(elementwise.mul, v, g.call(elementwise.div, size, g.call(reduction.reduce_l2, v, axes)))
