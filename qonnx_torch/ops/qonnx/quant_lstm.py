"""Brevitas' quantized LSTM layer, exported as one QONNX operator."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.quantizers.operators import quant
from qonnx_torch.registry import QONNX_DOMAIN

__all__ = ["quant_lstm_cell"]

_TENSORS = (
    "quant_input",
    "quant_hidden_state",
    "quant_cell_state",
    *(f"quant_weight_{source}{gate}" for source in "ih" for gate in "ifco"),
    *(f"quant_bias_{gate}" for gate in ("input", "forget", "cell", "output")),
)
_QUANTIZERS = (
    "output",
    "cell_state",
    "input_acc",
    "forget_acc",
    "cell_acc",
    "output_acc",
    "input_sigmoid",
    "forget_sigmoid",
    "cell_tanh",
    "output_sigmoid",
    "hidden_state_tanh",
)
_PARAMETERS = tuple(f"{name}_{part}" for name in _QUANTIZERS for part in ("scale", "zero_point", "bit_width"))
_NARROW = {name: f"{name}_narrow" for name in _QUANTIZERS} | {"output_sigmoid": "output_sigmoid_narrow_range"}


def _signature() -> inspect.Signature:
    """Returns the operator's schema: 15 tensors, three inputs and three attributes of each quantizer."""
    inputs = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation="Tensor")
        for name in (*_TENSORS, *_PARAMETERS)
    ]
    attributes: list[tuple[str, str, Any]] = [(n, "int", 0) for n in ("batch_first", "reverse_input", "cifg")]
    for name in _QUANTIZERS:
        attributes.append((_NARROW[name], "int", 0))
        attributes.append((f"{name}_signed", "int", 1))
        attributes.append((f"{name}_rounding_mode", "str", "ROUND"))
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, kind, default in attributes
    ]
    return inspect.Signature([*inputs, *keywords])


def _with_signature(function: Callable[..., Any]) -> Callable[..., Any]:
    function.__signature__ = _signature()  # type: ignore[attr-defined]
    return function


@operator("QuantLSTMCell", domain=QONNX_DOMAIN, outputs=3, numbers=_PARAMETERS, on_numbers=True)
@_with_signature
def quant_lstm_cell(*inputs: Tensor, **attributes: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what an LSTM over a whole sequence gives, with each intermediate value quantized.

    Per step, with q_* the quantizers (as of `quant`), x the input, h the hidden and c the cell state:
        i = q_input_sigmoid(sigmoid(q_input_acc(x W_ii' + h W_hi' + b_input))), likewise f (forget) and
        o (output); g = q_cell_tanh(tanh(q_cell_acc(x W_ic' + h W_hc' + b_cell)));
        with cifg f = q_input_sigmoid(1) - i;
        c = q_cell_state(q_cell_state(f c) + q_cell_state(i g));
        h = q_output(o q_hidden_state_tanh(tanh(c))).

    Args:
        inputs: quant_input (L, N, I), or (N, L, I) of batch_first; quant_hidden_state and quant_cell_state
            (N, H); quant_weight_ii, _if, _ic, _io (H, I) and _hi, _hf, _hc, _ho (H, H); quant_bias_input,
            _forget, _cell, _output (H,); then scale, zero point and bit width of each quantizer: output,
            cell_state, input_acc, forget_acc, cell_acc, output_acc, input_sigmoid, forget_sigmoid, cell_tanh,
            output_sigmoid, hidden_state_tanh.
        attributes: batch_first; reverse_input: run from the end; cifg: the forget gate follows from the input
            gate; and of each quantizer <name>_narrow (output_sigmoid_narrow_range), _signed, _rounding_mode.

    Returns:
        All hidden states in the order of the input, (L, N, H) or (N, L, H), the last one and the last cell
        state (N, H).

    Source: Brevitas 0.13, `brevitas.nn.QuantLSTM` and its QONNX export.
    """
    given = _signature().bind(*inputs, **attributes)
    given.apply_defaults()
    v = given.arguments

    def q(name: str, x: Tensor) -> Tensor:
        result: Tensor = quant(
            x,
            *(v[f"{name}_{part}"] for part in ("scale", "zero_point", "bit_width")),
            signed=bool(v[f"{name}_signed"]),
            narrow=bool(v[_NARROW[name]]),
            rounding_mode=v[f"{name}_rounding_mode"],
        )
        return result

    def gate(name: str, x: Tensor, h: Tensor) -> Tensor:
        letter = name[0]
        total = F.linear(x, v[f"quant_weight_i{letter}"]) + F.linear(h, v[f"quant_weight_h{letter}"])
        total = q(f"{name}_acc", total + v[f"quant_bias_{name}"])
        return (
            q("cell_tanh", torch.tanh(total))
            if name == "cell"
            else q(f"{name}_sigmoid", torch.sigmoid(total))
        )

    h, c = v["quant_hidden_state"], v["quant_cell_state"]
    time = 1 if v["batch_first"] else 0
    steps = v["quant_input"].unbind(time)
    states = []
    for x in reversed(steps) if v["reverse_input"] else steps:
        i, g, o = (gate(name, x, h) for name in ("input", "cell", "output"))
        f = q("input_sigmoid", torch.ones_like(i)) - i if v["cifg"] else gate("forget", x, h)
        c = q("cell_state", q("cell_state", f * c) + q("cell_state", i * g))
        h = q("output", o * q("hidden_state_tanh", torch.tanh(c)))
        states.append(h)
    return torch.stack(states[::-1] if v["reverse_input"] else states, time), h, c
