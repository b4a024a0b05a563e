"""One recurrent layer over time: directions, lengths of sequences, layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops.scan import scan

from qonnx_torch.errors import InvalidModelError

__all__ = ["Cell", "Layer"]

Cell = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""Next states (the first is the output) from the input's share of the gates and the present states."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The inputs that RNN, GRU and LSTM have in common.

    Args:
        X: (T, N, I), or (N, T, I) with layout 1.
        W: (D, G H, I), weights of G gates for each of D directions.
        R: (D, G H, H).
        B: (D, 2 G H), biases of W, then of R.
        sequence_lens: (N,), steps that count of each sample.
        states: initial states (D, N, H), or (N, D, H) with layout 1; zeros where None.
        direction: forward, reverse or bidirectional.
        layout: 1 has the samples first.

    Raises:
        InvalidModelError: shapes that do not fit together. torch's kernels do not look: they read what lies
            behind the tensors.
    """

    X: Tensor
    W: Tensor
    R: Tensor
    B: Tensor | None
    sequence_lens: Tensor | None
    states: tuple[Tensor | None, ...]
    direction: str
    layout: int

    def __post_init__(self) -> None:
        if self.X.dim() != 3 or self.R.dim() != 3:
            raise InvalidModelError(f"X {tuple(self.X.shape)} and R {tuple(self.R.shape)} must have rank 3")
        directions, rows, hidden = self.R.shape
        if directions != (2 if self.direction == "bidirectional" else 1):
            raise InvalidModelError(f"R {tuple(self.R.shape)} is not that of direction {self.direction!r}")
        samples = self.X.shape[0 if self.layout else 1]
        state = (samples, directions, hidden) if self.layout else (directions, samples, hidden)
        named = [("W", self.W, (directions, rows, self.X.shape[-1])), ("B", self.B, (directions, 2 * rows))]
        named += [("sequence_lens", self.sequence_lens, (samples,))]
        named += [(f"initial_{letter}", s, state) for letter, s in zip("hc", self.states, strict=False)]
        for name, tensor, shape in named:
            if tensor is not None and tuple(tensor.shape) != shape:
                raise InvalidModelError(
                    f"{name} {tuple(tensor.shape)} must have the shape {shape}: X is {tuple(self.X.shape)}, "
                    f"R {tuple(self.R.shape)}"
                )

    def run(
        self,
        cell_of: Callable[[int], tuple[Tensor | None, Cell]],
        project: Callable[[Tensor, int], Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        """Returns the outputs of all steps (T, D, N, H) and the last states (D, N, H), in the layout.

        Args:
            cell_of: gives for a direction the bias of the input's share of the gates, and the cell.
            project: gives the input's share itself, of all steps in a direction.
        """
        x = self._inputs()
        initial = self._initial(x)
        outputs, last = [], []
        for d in range(self.W.shape[0]):
            bias, cell = cell_of(d)
            gates = F.linear(x, self.W[d], bias) if project is None else project(x, d)
            reverse = self.direction == "reverse" or d == 1
            y, states = self._one_direction(gates, tuple(s[d] for s in initial), cell, reverse)
            outputs.append(y)
            last.append(states)
        final = tuple(torch.stack(own) for own in zip(*last, strict=True))
        return self._results(torch.stack(outputs, 1), final)

    def can_fuse(self) -> bool:
        """Returns whether torch's fused kernels compute this: all steps count, and the dtype is known.

        `torch.compile` (2.13) fails in LSTM's on CPU where weights need gradients, and takes the others apart
        into steps, as `run` does.
        """
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            return False
        computed = self.X.dtype in (torch.float32, torch.float64) or self.X.device.type == "cuda"
        steps = self._inputs().shape[0]
        return computed and self.sequence_lens is None and not _is_symbolic(steps) and steps > 0

    def fused(self, kernel: Callable[..., Any], order: Sequence[int]) -> tuple[Tensor, ...]:
        """Returns the same as `run`, by one of torch's kernels, whose gates are ours in another order."""
        x = self._inputs()
        initial = self._initial(x)
        weights: list[Tensor] = []
        for d in range(self.W.shape[0]):
            own = [self.W[d], self.R[d]]
            own += [] if self.B is None else list(self.B[d].chunk(2))
            weights += [self._reordered(w, order) for w in own]
        states: Any = initial if len(initial) > 1 else initial[0]
        if self.direction == "reverse":
            x = x.flip(0)
        # train=True: without it cuDNN computes no gradient; without dropout it changes nothing else.
        both = self.W.shape[0] == 2
        y, *final = kernel(x, states, weights, self.B is not None, 1, 0.0, True, both, False)
        if self.direction == "reverse":
            y = y.flip(0)
        y = y.unflatten(-1, (self.W.shape[0], self.R.shape[2])).transpose(
            1, 2
        )  # (T, N, D, H) -> (T, D, N, H)
        return self._results(y, tuple(final))

    def _inputs(self) -> Tensor:
        return self.X.transpose(0, 1) if self.layout else self.X

    def _initial(self, x: Tensor) -> tuple[Tensor, ...]:
        shape = (self.W.shape[0], x.shape[1], self.R.shape[2])
        return tuple(
            x.new_zeros(shape) if s is None else s.transpose(0, 1) if self.layout else s for s in self.states
        )

    def _one_direction(
        self, gates: Tensor, states: tuple[Tensor, ...], cell: Cell, reverse: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        steps = gates.shape[0]
        if reverse:
            gates = self._reversed(gates)
        inputs = [gates]
        if self.sequence_lens is not None:
            times = torch.arange(steps, device=gates.device)
            inputs.append((times[:, None] < self.sequence_lens).unsqueeze(-1))

        def step(states: tuple[Tensor, ...], inputs: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
            new = cell(inputs[0], states)
            if len(inputs) == 1:
                return new, new[0]
            keep = inputs[1]  # whether the step counts
            kept = tuple(torch.where(keep, n, s) for n, s in zip(new, states, strict=True))
            return kept, torch.where(keep, new[0], 0.0)

        if _is_symbolic(steps):
            states, y = _scan(step, states, inputs)
        else:
            outputs = []
            for own in zip(*(i.unbind() for i in inputs), strict=True):
                states, output = step(states, own)
                outputs.append(output)
            if not outputs:
                return gates.new_zeros((0, *states[0].shape)), states
            y = torch.stack(outputs)
        if self.sequence_lens is not None:  # an empty sequence has no last state; onnxruntime gives 0
            states = tuple(torch.where(self.sequence_lens.unsqueeze(-1) > 0, s, 0.0) for s in states)
        return (self._reversed(y) if reverse else y), states

    def _reversed(self, x: Tensor) -> Tensor:
        """Returns x (T, N, ...) with the steps that count of each sample in the opposite order."""
        if self.sequence_lens is None:
            return x.flip(0)
        times = torch.arange(x.shape[0], device=x.device)[:, None]
        lengths = self.sequence_lens.to(torch.int64)
        source = torch.where(times < lengths, lengths - 1 - times, times)
        return x.gather(0, source.unsqueeze(-1).expand_as(x))

    def _reordered(self, weight: Tensor, order: Sequence[int]) -> Tensor:
        gates = weight.chunk(len(order))
        return torch.cat([gates[i] for i in order]) if len(order) > 1 else weight

    def _results(self, y: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.layout:
            return y.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in states)
        return y, *states


def _is_symbolic(steps: int | torch.SymInt) -> bool:
    """Returns whether a number of steps is dynamic in a graph that is being traced."""
    if not torch.compiler.is_compiling():
        return False
    from torch.fx.experimental.symbolic_shapes import has_static_value  # slow to load

    return not has_static_value(steps)


def _scan(
    step: Callable[..., tuple[tuple[Tensor, ...], Tensor]], states: tuple[Tensor, ...], inputs: list[Tensor]
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Returns the last states and all outputs of any number of steps, as one node of a traced graph."""

    def combine(states: list[Tensor], inputs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        new, output = step(tuple(states), inputs)
        return list(new), output.clone()  # results must not share memory

    first = [state.clone(memory_format=torch.contiguous_format) for state in states]
    last, outputs = scan(combine, first, inputs)
    return tuple(last), outputs
