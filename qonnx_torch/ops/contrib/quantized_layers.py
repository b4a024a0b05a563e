"""Whole layers on quantized weights: attention, embeddings, LSTM (com.microsoft), and NhwcConv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError, UnsupportedModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.contrib.attention import attend, padding_bias
from qonnx_torch.ops.contrib.normalization import embed_layer_normalization
from qonnx_torch.ops.standard._recurrence import Cell, Layer
from qonnx_torch.ops.standard.attention import merge_heads, split_heads
from qonnx_torch.ops.standard.convolution import conv
from qonnx_torch.ops.standard.gate_functions import gate_functions
from qonnx_torch.ops.standard.integer_linear import dynamic_quantize_mat_mul, mat_mul_integer_to_float
from qonnx_torch.ops.standard.quantize_linear import dequantize_linear

__all__: list[str] = []

_DOMAIN = "com.microsoft"


@operator("QAttention", domain=_DOMAIN, python_only=("outputs",))
def qattention(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    input_scale: Tensor,
    weight_scale: Tensor,
    mask_index: Tensor | None = None,
    input_zero_point: Tensor | None = None,
    weight_zero_point: Tensor | None = None,
    past: Tensor | None = None,
    *,
    do_rotary: int = 0,
    mask_filter_value: float = -10000.0,
    num_heads: int,
    past_present_share_buffer: int = 0,
    scale: float | None = None,
    unidirectional: int = 0,
    outputs: int = 1,
) -> Any:
    """Returns Attention whose projection is MatMulIntegerToFloat of input and weight, plus bias.

    Args:
        input: (N, L, I), 8 bits.
        weight: (I, 3 C), 8 bits.
        bias: (3 C,), floating.
        input_scale: 0-d, as input_zero_point.
        weight_scale: 0-d, or (3 C,), as weight_zero_point.
        mask_index: which keys count, as in Attention.
        input_zero_point: see input_scale.
        weight_zero_point: see weight_scale.
        past: (2, N, H, P, C / H), earlier keys and values.
        do_rotary: only 0 is supported.
        mask_filter_value: what masked scores get added.
        num_heads: H.
        past_present_share_buffer: only 0 is supported.
        scale: 1 / sqrt(C / H) where absent.
        unidirectional: 1 hides later keys.
        outputs: 2: also the keys and values of past and present.

    Returns: (N, L, C), float.

    Raises: UnsupportedModelError: do_rotary or past_present_share_buffer.

    Source: onnxruntime 1.32, com.microsoft QAttention-1.
    """
    if do_rotary or past_present_share_buffer:
        raise UnsupportedModelError("QAttention with do_rotary or past_present_share_buffer is not supported")
    projected: Tensor = mat_mul_integer_to_float(
        input, weight, input_scale, weight_scale, input_zero_point, weight_zero_point, bias
    )
    q, k, v = (split_heads(part, num_heads) for part in projected.chunk(3, -1))
    if past is not None:
        k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
    masked = padding_bias(mask_index, q, k, mask_filter_value)
    before = 0 if past is None else past.shape[3]
    y, _ = attend(q, k, v, masked, None, scale or None, causal=bool(unidirectional), past=before)
    y = merge_heads(y)
    return y if outputs == 1 else (y, torch.stack((k, v)))


@operator("QEmbedLayerNormalization", domain=_DOMAIN, outputs=2)
def qembed_layer_normalization(
    input_ids: Tensor,
    segment_ids: Tensor | None = None,
    word_embedding_quant: Tensor | None = None,
    position_embedding_quant: Tensor | None = None,
    segment_embedding: Tensor | None = None,
    gamma_quant: Tensor | None = None,
    beta_quant: Tensor | None = None,
    mask: Tensor | None = None,
    word_embedding_scale: Tensor | None = None,
    position_embedding_scale: Tensor | None = None,
    segment_embedding_scale: Tensor | None = None,
    gamma_scale: Tensor | None = None,
    beta_scale: Tensor | None = None,
    word_embedding_zero_point: Tensor | None = None,
    position_embedding_zero_point: Tensor | None = None,
    segment_embedding_zero_point: Tensor | None = None,
    gamma_zero_point: Tensor | None = None,
    beta_zero_point: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
) -> tuple[Tensor, Tensor]:
    """Returns EmbedLayerNormalization of dequantized tables, and the number of words that the mask counts.

    Only the segments and the mask may be left out. Source: onnxruntime 1.32, com.microsoft
    QEmbedLayerNormalization-1.
    """

    def table(what: str, x: Tensor | None, scale: Tensor | None, zero_point: Tensor | None) -> Tensor:
        if x is None or scale is None:
            raise InvalidModelError(f"QEmbedLayerNormalization needs its input {what} and its scale")
        zero = None if zero_point is None else zero_point.reshape(())
        result: Tensor = dequantize_linear(x, scale.reshape(()), zero)
        return result

    segments = None
    if segment_ids is not None:
        segments = table(
            "segment_embedding", segment_embedding, segment_embedding_scale, segment_embedding_zero_point
        )
    y, counted = embed_layer_normalization(
        input_ids,
        segment_ids,
        table("word_embedding", word_embedding_quant, word_embedding_scale, word_embedding_zero_point),
        table(
            "position_embedding",
            position_embedding_quant,
            position_embedding_scale,
            position_embedding_zero_point,
        ),
        segments,
        table("gamma", gamma_quant, gamma_scale, gamma_zero_point),
        table("beta", beta_quant, beta_scale, beta_zero_point),
        mask,
        epsilon=epsilon,
        outputs=2,
    )
    return y, counted


@operator("DynamicQuantizeLSTM", domain=_DOMAIN, outputs=3)
def dynamic_quantize_lstm(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    P: Tensor | None = None,
    W_scale: Tensor | None = None,
    W_zero_point: Tensor | None = None,
    R_scale: Tensor | None = None,
    R_zero_point: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns LSTM with DynamicQuantizeMatMul in its gates: of the whole X, and of the states of each step.

    Args:
        X: (T, N, I), float.
        W: (D, I, 4 H), 8 bits: the gates i, o, f, c, as in LSTM.
        R: (D, H, 4 H), 8 bits.
        B: (D, 8 H), float.
        sequence_lens: (N,), steps that count of each sample.
        initial_h: (D, N, H).
        initial_c: (D, N, H).
        P: (D, 3 H), peepholes, float.
        W_scale: (D,), or (D, 4 H), as W_zero_point.
        W_zero_point: see W_scale.
        R_scale: (D,), or (D, 4 H), as R_zero_point.
        R_zero_point: see R_scale.
        activation_alpha: and the other attributes, as in LSTM.
        activation_beta: see activation_alpha.
        activations: see activation_alpha.
        clip: see activation_alpha.
        direction: see activation_alpha.
        hidden_size: see activation_alpha.
        input_forget: see activation_alpha.

    Returns: Y (T, D, N, H), Y_h and Y_c (D, N, H).

    Raises: InvalidModelError for missing scales.

    Source: onnxruntime 1.32, com.microsoft DynamicQuantizeLSTM-1. Its results differ where samples end before
    others (it leaves what lies behind an end out of the ranges) and with several threads (each has a range).
    """
    if W_scale is None or R_scale is None:
        raise InvalidModelError("DynamicQuantizeLSTM needs W_scale and R_scale")
    of_w, of_r = W_scale, R_scale
    count = W.shape[0]
    functions = gate_functions(
        activations, ("Sigmoid", "Tanh", "Tanh"), count, activation_alpha, activation_beta, clip
    )

    def own(parameter: Tensor | None, d: int) -> Tensor | None:
        return None if parameter is None else parameter[d]

    def project(x: Tensor, d: int) -> Tensor:
        bias = None if B is None else torch.add(*B[d].chunk(2))
        y: Tensor = dynamic_quantize_mat_mul(x, W[d], of_w[d], own(W_zero_point, d), bias)
        return y

    def cell_of(d: int) -> tuple[Tensor | None, Cell]:
        f, g, h = functions[d]
        peepholes = P[d].chunk(3) if P is not None else (0.0, 0.0, 0.0)

        def next_states(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden, cell = states
            recurrent = dynamic_quantize_mat_mul(hidden, R[d], of_r[d], own(R_zero_point, d))
            i, o, forget, c = (x + recurrent).chunk(4, -1)
            i = f(i + peepholes[0] * cell)
            forget = 1 - i if input_forget else f(forget + peepholes[2] * cell)
            cell = forget * cell + i * g(c)
            return f(o + peepholes[1] * cell) * h.unclipped(cell), cell

        return None, next_states

    turned = W.transpose(1, 2), R.transpose(1, 2)
    layer = Layer(X, *turned, None, sequence_lens, (initial_h, initial_c), direction, 0)
    return layer.run(cell_of, project)  # type: ignore[return-value]


@operator("NhwcConv", domain=_DOMAIN)
def nhwc_conv(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Returns Conv of X (N, D1, ..., C), in the same order.

    W is (M, k1, ..., C / group), as onnxruntime's kernels take it; its documentation says
    (M, C / group, k1, ...).

    Raises: InvalidModelError where the last dimension of W are not the channels.
    Source: onnxruntime 1.32, com.microsoft NhwcConv-1, which has no kernel for CPUs.
    """
    if W.shape[-1] * group != X.shape[-1]:
        raise InvalidModelError(
            f"NhwcConv: W {tuple(W.shape)} must have the {X.shape[-1]} / {group} channels last"
        )
    W = W.movedim(-1, 1)
    y: Tensor = conv(
        X.movedim(-1, 1),
        W,
        B,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return y.movedim(1, -1)
