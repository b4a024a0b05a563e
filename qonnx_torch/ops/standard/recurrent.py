"""Recurrent layers: RNN, GRU and LSTM.

They are plain functions: their weights and states are inputs, and they behave alike in training and in
evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._recurrence import Cell, Layer
from qonnx_torch.ops.standard.gate_functions import GateFunction, gate_functions

__all__: list[str] = []


@operator("RNN", outputs=2)
def rnn(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> tuple[Tensor, Tensor]:
    """Returns all and the last hidden states: H_t = f(X_t W^T + H_(t-1) R^T + Wb + Rb).

    Args:
        X: (T, N, I), or (N, T, I) with layout 1.
        W: (D, H, I), one for each of the D directions.
        R: (D, H, H).
        B: (D, 2 H): Wb, Rb.
        sequence_lens: (N,), steps that count of each sample; T where absent.
        initial_h: (D, N, H), or (N, D, H) with layout 1; zeros where absent.
        activation_alpha: numbers of the functions, in their order.
        activation_beta: likewise.
        activations: f of each direction; Tanh where absent.
        clip: bound on the magnitude of what enters f.
        direction: forward, reverse or bidirectional.
        hidden_size: H, which the shapes tell too.
        layout: 1 has the samples first.

    Returns:
        Y (T, D, N, H), zero behind the end of a sequence, and Y_h (D, N, H); (N, T, D, H) and (N, D, H)
        with layout 1.

    Raises:
        InvalidModelError: an unknown direction or activation, or a hidden_size that R does not have.

    Source: ONNX RNN-22.
    """
    _check_hidden_size(hidden_size, R)
    count = _directions(direction)
    functions = gate_functions(activations, ("Tanh",), count, activation_alpha, activation_beta, clip)
    fused = None
    first = functions[0][0].name
    if all(own[0].is_plain(first) for own in functions):
        fused = {"tanh": torch.rnn_tanh, "relu": torch.rnn_relu}.get(first)

    def cell_of(d: int) -> tuple[Tensor | None, Cell]:
        (f,), recurrence = functions[d], R[d]
        return _bias(B, d), lambda x, states: (f(x + F.linear(states[0], recurrence)),)

    layer = Layer(X, W, R, B, sequence_lens, (initial_h,), direction, layout)
    return layer.fused(fused, [0]) if fused and layer.can_fuse() else layer.run(cell_of)  # type: ignore[return-value]


@operator("GRU", outputs=2)
def gru(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Returns all and the last hidden states: H_t = (1 - z) * h + z * H_(t-1).

    The gates are

        z = f(X_t Wz^T + H_(t-1) Rz^T + Wbz + Rbz)
        r = f(X_t Wr^T + H_(t-1) Rr^T + Wbr + Rbr)
        h = g(X_t Wh^T + (r * H_(t-1)) Rh^T + Rbh + Wbh)
        h = g(X_t Wh^T + r * (H_(t-1) Rh^T + Rbh) + Wbh)    with linear_before_reset

    Args:
        X: (T, N, I), or (N, T, I) with layout 1.
        W: (D, 3 H, I): Wz, Wr, Wh.
        R: (D, 3 H, H): Rz, Rr, Rh.
        B: (D, 6 H): Wbz, Wbr, Wbh, Rbz, Rbr, Rbh.
        sequence_lens: (N,), steps that count of each sample; T where absent.
        initial_h: (D, N, H), or (N, D, H) with layout 1; zeros where absent.
        activation_alpha: numbers of the functions, in their order.
        activation_beta: likewise.
        activations: f and g of each direction; Sigmoid and Tanh where absent.
        clip: bound on the magnitude of what enters f and g.
        direction: forward, reverse or bidirectional.
        hidden_size: H, which the shapes tell too.
        layout: 1 has the samples first.
        linear_before_reset: the reset gate stands behind the linear map.

    Returns:
        Y and Y_h, of the shapes that `rnn` has.

    Raises:
        InvalidModelError: an unknown direction or activation, or a hidden_size that R does not have.

    Source: ONNX GRU-22.
    """
    _check_hidden_size(hidden_size, R)
    names = ("Sigmoid", "Tanh")
    functions = gate_functions(
        activations, names, _directions(direction), activation_alpha, activation_beta, clip
    )

    def cell_of(d: int) -> tuple[Tensor | None, Cell]:
        f, g = functions[d]
        size, recurrence = R.shape[2], R[d]
        bias, inner = _bias(B, d), None
        if linear_before_reset and B is not None:
            outer, own = B[d].chunk(2)
            inner = own[2 * size :]
            bias = torch.cat((outer[: 2 * size] + own[: 2 * size], outer[2 * size :]))

        def next_state(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (h,) = states
            gates, candidate = recurrence.split([2 * size, size])
            x_gates, x_candidate = x.split([2 * size, size], -1)
            z, r = f(x_gates + F.linear(h, gates)).chunk(2, -1)
            if linear_before_reset:
                new = g(x_candidate + r * F.linear(h, candidate, inner))
            else:
                new = g(x_candidate + F.linear(r * h, candidate))
            return ((1 - z) * new + z * h,)

        return bias, next_state

    layer = Layer(X, W, R, B, sequence_lens, (initial_h,), direction, layout)
    if linear_before_reset and _are_plain(functions, names) and layer.can_fuse():
        return layer.fused(torch.gru, [1, 0, 2])  # type: ignore[return-value]
    return layer.run(cell_of)  # type: ignore[return-value]


@operator("LSTM", outputs=3)
def lstm(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    P: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns all hidden states, the last one and the last cell: H_t = o * h(C_t).

    The gates and the cell are

        i = f(X_t Wi^T + H_(t-1) Ri^T + Pi * C_(t-1) + Wbi + Rbi)
        f = f(X_t Wf^T + H_(t-1) Rf^T + Pf * C_(t-1) + Wbf + Rbf), or 1 - i with input_forget
        c = g(X_t Wc^T + H_(t-1) Rc^T + Wbc + Rbc)
        C_t = f * C_(t-1) + i * c
        o = f(X_t Wo^T + H_(t-1) Ro^T + Po * C_t + Wbo + Rbo)

    Args:
        X: (T, N, I), or (N, T, I) with layout 1.
        W: (D, 4 H, I): Wi, Wo, Wf, Wc.
        R: (D, 4 H, H): Ri, Ro, Rf, Rc.
        B: (D, 8 H): Wbi, Wbo, Wbf, Wbc, Rbi, Rbo, Rbf, Rbc.
        sequence_lens: (N,), steps that count of each sample; T where absent.
        initial_h: (D, N, H), or (N, D, H) with layout 1; zeros where absent.
        initial_c: like initial_h.
        P: (D, 3 H), peepholes: Pi, Po, Pf.
        activation_alpha: numbers of the functions, in their order.
        activation_beta: likewise.
        activations: f, g and h of each direction; Sigmoid, Tanh and Tanh where absent.
        clip: bound on the magnitude of what enters f and g. What enters h is not clipped: the specification
            could be read so, but no runtime does it.
        direction: forward, reverse or bidirectional.
        hidden_size: H, which the shapes tell too.
        input_forget: 1 couples the forget gate to the input gate.
        layout: 1 has the samples first.

    Returns:
        Y, Y_h and Y_c; Y and Y_h of the shapes that `rnn` has, Y_c like Y_h.

    Raises:
        InvalidModelError: an unknown direction or activation, or a hidden_size that R does not have.

    Source: ONNX LSTM-22.
    """
    _check_hidden_size(hidden_size, R)
    names = ("Sigmoid", "Tanh", "Tanh")
    functions = gate_functions(
        activations, names, _directions(direction), activation_alpha, activation_beta, clip
    )

    def cell_of(d: int) -> tuple[Tensor | None, Cell]:
        (f, g, h), recurrence = functions[d], R[d]
        own = None if P is None else P[d]

        def next_states(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden, cell = states
            peepholes = (0.0, 0.0, 0.0) if own is None else own.chunk(3)
            i, o, forget, c = (x + F.linear(hidden, recurrence)).chunk(4, -1)
            i = f(i + peepholes[0] * cell)
            forget = 1 - i if input_forget else f(forget + peepholes[2] * cell)
            cell = forget * cell + i * g(c)
            return f(o + peepholes[1] * cell) * h.unclipped(cell), cell

        return _bias(B, d), next_states

    layer = Layer(X, W, R, B, sequence_lens, (initial_h, initial_c), direction, layout)
    if P is None and not input_forget and _are_plain(functions, names) and layer.can_fuse():
        return layer.fused(torch.lstm, [0, 2, 3, 1])  # type: ignore[return-value]
    return layer.run(cell_of)  # type: ignore[return-value]


def _directions(direction: str) -> int:
    if direction not in ("forward", "reverse", "bidirectional"):
        raise InvalidModelError(f"direction {direction!r} is not forward, reverse or bidirectional")
    return 2 if direction == "bidirectional" else 1


def _check_hidden_size(hidden_size: int | None, R: Tensor) -> None:
    if hidden_size is not None and hidden_size != R.shape[-1]:
        raise InvalidModelError(f"hidden_size {hidden_size} is not that of R {tuple(R.shape)}")


def _are_plain(functions: list[list[GateFunction]], names: Sequence[str]) -> bool:
    return all(f.is_plain(name.lower()) for own in functions for f, name in zip(own, names, strict=True))


def _bias(B: Tensor | None, direction: int) -> Tensor | None:
    """Returns the sum of the biases of W and R."""
    return None if B is None else torch.add(*B[direction].chunk(2))
