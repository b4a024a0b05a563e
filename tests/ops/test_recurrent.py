"""RNN, GRU and LSTM against onnxruntime; layouts, old forms, fused kernels, gradients against themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops.standard.recurrent import gru, lstm, rnn

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FUNCTIONS: dict[str, Callable[..., Any]] = {"RNN": rnn, "GRU": gru, "LSTM": lstm}
T, N, F, H = 5, 3, 2, 4
LENGTHS = np.array([5, 2, 4], np.int32)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape).astype(np.float32)


def inputs(op_type: str, directions: int, *optional: str) -> list[Any]:
    """X, W, R, then the optional inputs that are named: B, lengths, states, P."""
    gates = GATES[op_type]
    values = [numbers(T, N, F), numbers(directions, gates * H, F, seed=1), numbers(directions, gates * H, H)]
    values.append(numbers(directions, 2 * gates * H) if "B" in optional else None)
    values.append(LENGTHS if "lengths" in optional else None)
    values.append(numbers(directions, N, H, seed=2) if "states" in optional else None)
    if op_type == "LSTM":
        values.append(numbers(directions, N, H, seed=3) if "states" in optional else None)
        values.append(numbers(directions, 3 * H) if "P" in optional else None)
    while values[-1] is None:
        values.pop()
    return values


def outputs(op_type: str) -> int:
    return 3 if op_type == "LSTM" else 2


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("optional", [(), ("B", "states"), ("B", "lengths", "states", "P"), ("lengths",)])
@pytest.mark.parametrize("op_type", GATES)
def test_directions_and_inputs(op_type: str, optional: tuple[str, ...], direction: str, check_node) -> None:
    count = 2 if direction == "bidirectional" else 1
    extra = {"linear_before_reset": len(optional) % 2} if op_type == "GRU" else {}
    check_node(op_type, *inputs(op_type, count, *optional), opset=14, outputs=outputs(op_type),
               source="onnxruntime", tolerance=1e-5, hidden_size=H, direction=direction, **extra)  # fmt: skip


ACTIVATIONS = [
    ("Relu", (), ()),
    ("Sigmoid", (), ()),
    ("Affine", (0.7,), (0.2,)),
    ("LeakyRelu", (0.3,), ()),
    ("LeakyRelu", (), ()),
    ("ThresholdedRelu", (0.2,), ()),
    ("ScaledTanh", (1.5,), (0.5,)),
    ("HardSigmoid", (0.3,), (0.4,)),
    ("HardSigmoid", (), ()),
    ("Elu", (0.5,), ()),
    ("Elu", (), ()),
    ("Softsign", (), ()),
    ("Softplus", (), ()),
]


@pytest.mark.parametrize(("name", "alpha", "beta"), ACTIVATIONS)
def test_activations(name: str, alpha: tuple[float, ...], beta: tuple[float, ...], check_node) -> None:
    given = {"activation_alpha": alpha} if alpha else {}
    given |= {"activation_beta": beta} if beta else {}
    check_node("RNN", *inputs("RNN", 1, "B"), opset=14, outputs=2, source="onnxruntime", tolerance=1e-5,
               hidden_size=H, activations=[name], **given)  # fmt: skip


@pytest.mark.parametrize("op_type", ["GRU", "LSTM"])
def test_numbers_of_activations_are_consumed_in_order(op_type: str, check_node) -> None:
    """Those that take none are passed over; the second direction goes on where the first one stops."""
    own = ["HardSigmoid", "Tanh", "LeakyRelu"][: outputs(op_type)]
    check_node(op_type, *inputs(op_type, 2, "B"), opset=14, outputs=outputs(op_type), source="onnxruntime",
               tolerance=1e-5, hidden_size=H, direction="bidirectional", activations=own + own[::-1],
               activation_alpha=[0.3, 0.1, 0.2, 0.25][: 2 * (outputs(op_type) - 1)],
               activation_beta=[0.4, 0.6])  # fmt: skip


@pytest.mark.parametrize("op_type", GATES)
def test_clip(op_type: str, check_node) -> None:
    extra = {"input_forget": 1} if op_type == "LSTM" else {}
    check_node(op_type, *inputs(op_type, 1, "B", "states"), opset=14, outputs=outputs(op_type),
               source="onnxruntime", tolerance=1e-5, hidden_size=H, clip=0.25, **extra)  # fmt: skip


@pytest.mark.parametrize("op_type", GATES)
def test_empty_sequences_have_no_last_state(op_type: str, check_node) -> None:
    values = inputs(op_type, 2, "B", "lengths", "states")
    values[4] = np.array([0, 5, 0], np.int32)
    check_node(op_type, *values, opset=14, outputs=outputs(op_type), source="onnxruntime", tolerance=1e-5,
               hidden_size=H, direction="bidirectional")  # fmt: skip


@pytest.mark.parametrize("optional", [("B", "states"), ("B", "lengths", "states")])
@pytest.mark.parametrize("op_type", GATES)
def test_layout_is_transposition(op_type: str, optional: tuple[str, ...]) -> None:
    values = [None if v is None else torch.from_numpy(v) for v in inputs(op_type, 2, *optional)]
    function = FUNCTIONS[op_type]
    y, *states = function(*values, direction="bidirectional")
    turned = list(values)
    for i in (0, 5, 6):
        if i < len(turned) and turned[i] is not None:
            turned[i] = turned[i].transpose(0, 1)
    y_first, *states_first = function(*turned, direction="bidirectional", layout=1)
    assert y_first.shape == (N, T, 2, H)
    torch.testing.assert_close(y_first, y.permute(2, 0, 1, 3))
    for ours, theirs in zip(states_first, states, strict=True):
        torch.testing.assert_close(ours, theirs.transpose(0, 1))


@pytest.mark.parametrize("op_type", GATES)
def test_fused_kernels_are_the_steps(op_type: str) -> None:
    """All lengths given takes the loop over time, none the kernel of torch."""
    values = [None if v is None else torch.from_numpy(v) for v in inputs(op_type, 2, "B", "states")]
    extra = {"linear_before_reset": 1} if op_type == "GRU" else {}
    looped = list(values)
    looped[4] = torch.full((N,), T, dtype=torch.int32)
    for ours, theirs in zip(
        FUNCTIONS[op_type](*values, direction="bidirectional", **extra),
        FUNCTIONS[op_type](*looped, direction="bidirectional", **extra),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("op_type", GATES)
def test_other_dtypes(op_type: str, dtype: torch.dtype) -> None:
    values = [None if v is None else torch.from_numpy(v) for v in inputs(op_type, 1, "B", "states")]
    expected = FUNCTIONS[op_type](*values)
    for ours, theirs in zip(
        FUNCTIONS[op_type](*(None if v is None else v.to(dtype) for v in values)), expected, strict=True
    ):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.float(), theirs, rtol=0.05, atol=0.05 if dtype.itemsize < 4 else 1e-5)


@pytest.mark.parametrize("op_type", GATES)
def test_old_forms(op_type: str, run_node) -> None:
    """Below opset 7 an attribute says whether all states are wanted; which outputs there are says it too."""
    values = inputs(op_type, 1, "B")
    new = run_node(op_type, *values, opset=7, outputs=outputs(op_type), hidden_size=H)
    old = run_node(op_type, *values, opset=3, outputs=outputs(op_type), hidden_size=H, output_sequence=1)
    for ours, theirs in zip(old, new, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_errors() -> None:
    x, w, r = (torch.from_numpy(v) for v in inputs("RNN", 1))
    with pytest.raises(InvalidModelError, match="direction 'sideways' is not forward"):
        rnn(x, w, r, direction="sideways")
    with pytest.raises(InvalidModelError, match="activation 'Gelu' is none of"):
        rnn(x, w, r, activations=("Gelu",))
    with pytest.raises(InvalidModelError, match="2 are needed, 1 are given"):
        rnn(x, w.expand(2, -1, -1), r.expand(2, -1, -1), activations=("Tanh",), direction="bidirectional")


@pytest.mark.parametrize("op_type", GATES)
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize(("name", "shape"), [
    ("X", (3, 2)), ("X", (3, 2, 5)), ("W", (1, 2, 4)), ("W", (2, 8, 4)), ("R", (2, 3, 3)), ("B", (1, 3)),
    ("sequence_lens", (3,)), ("initial_h", (1, 1, 3)), ("initial_h", (2, 1, 3)), ("initial_h", (1, 2, 4)),
])  # fmt: skip
def test_shapes_that_do_not_fit(op_type: str, layout: int, name: str, shape: tuple[int, ...]) -> None:
    """torch's own kernels read beyond tensors that are too small."""
    rows = 3 * GATES[op_type]
    function = {"RNN": rnn, "GRU": gru, "LSTM": lstm}[op_type]
    fitting = {"X": (5, 2, 4), "W": (1, rows, 4), "R": (1, rows, 3)}
    given = {k: torch.zeros(v) for k, v in {**fitting, name: shape}.items()}
    if layout:
        given = {k: v.transpose(0, 1) if k in ("X", "initial_h") else v for k, v in given.items()}
    with pytest.raises(InvalidModelError, match=r"must have (the shape|rank 3)|is not that of"):
        function(**given, layout=layout)


@pytest.mark.parametrize("op_type", GATES)
def test_compiled_with_gradients(op_type: str) -> None:
    values = [v if v is None else torch.from_numpy(v).requires_grad_() for v in inputs(op_type, 1, "B")]
    compiled = torch.compile(FUNCTIONS[op_type], fullgraph=True, backend="aot_eager")

    def gradients(function: Callable[..., Any]) -> tuple[Any, ...]:
        return torch.autograd.grad(function(*values)[0].square().sum(), values)

    for ours, theirs in zip(gradients(compiled), gradients(FUNCTIONS[op_type]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
