"""Scan and SequenceMap: subgraphs, as Python callables, applied to the elements of tensors and sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan as scan_tensors

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import as_tensor, operator
from qonnx_torch.ops.standard._subgraphs import (
    ElementType,
    Subgraph,
    fresh,
    is_symbolic,
    no_elements,
    stacked,
)

__all__ = ["scan", "scan_8", "sequence_map"]


@operator("Scan", since_version=9, outputs=None, python_only=("captured", "scan_outputs"))
def scan(
    *initial_state_and_scan_inputs: Tensor,
    body: Callable[..., Any],
    num_scan_inputs: int,
    scan_input_axes: Sequence[int] | None = None,
    scan_input_directions: Sequence[int] | None = None,
    scan_output_axes: Sequence[int] | None = None,
    scan_output_directions: Sequence[int] | None = None,
    captured: Sequence[Any] = (),
    scan_outputs: Sequence[ElementType] = (),
) -> tuple[Tensor, ...]:
    """Returns the final states and the scan outputs of running the body along an axis of the scan inputs.

    For each position t: *states, *elements = body(*states, *(x[t] of each scan input), *captured). The loop
    unrolls where it is traced; over a dynamic length `torch.export` keeps it as `scan`.

    Args:
        initial_state_and_scan_inputs: N states, then the scan inputs, all of one length along their axes.
        body: callable of the states, one element of each scan input, and the captured values.
        num_scan_inputs: number of scan inputs.
        scan_input_axes: axis of each scan input, negative ones from the back; 0 where absent.
        scan_input_directions: 1 for each scan input that is read from its end.
        scan_output_axes: axis of the result along which each scan output is stacked; 0 where absent.
        scan_output_directions: 1 for each scan output whose elements are stacked from the end.
        captured: what the body reads from around it.
        scan_outputs: dtype and dimensions of each scan output's elements, as far as they are declared.

    Raises:
        InvalidModelError: scan inputs of different lengths, or an axis that a tensor does not have.

    Source: ONNX Scan-25.
    """
    count = len(initial_state_and_scan_inputs) - num_scan_inputs
    states, inputs = initial_state_and_scan_inputs[:count], initial_state_and_scan_inputs[count:]
    steps = _Steps(inputs, _flags(scan_input_axes, len(inputs)), _flags(scan_input_directions, len(inputs)))
    if is_symbolic(steps.length):
        final, stacks = _exported(body, states, steps, captured)
        axes = _flags(scan_output_axes, len(stacks))
        reverse = _flags(scan_output_directions, len(stacks))
        forward = (s.flip(0) if r else s for s, r in zip(stacks, reverse, strict=True))
        return (*final, *(s.movedim(0, axis) for s, axis in zip(forward, axes, strict=True)))
    final, elements = _run(body, states, steps, captured)
    kept = len(elements) if steps.length else len(scan_outputs)
    axes, reverse = _flags(scan_output_axes, kept), _flags(scan_output_directions, kept)
    if not steps.length:
        arguments = (*states, *steps.like_elements(), *captured)
        return (*final, *no_elements(body, arguments, count, scan_outputs, axes))
    ordered = [parts[::-1] if r else parts for parts, r in zip(elements, reverse, strict=True)]
    return (*final, *(stacked(parts, axis) for parts, axis in zip(ordered, axes, strict=True)))


@operator("Scan", since_version=8, outputs=None, python_only=("captured", "scan_outputs"))
def scan_8(
    sequence_lens: Tensor | None = None,
    *initial_state_and_scan_inputs: Tensor,
    body: Callable[..., Any],
    num_scan_inputs: int,
    directions: Sequence[int] | None = None,
    captured: Sequence[Any] = (),
    scan_outputs: Sequence[ElementType] = (),
) -> tuple[Tensor, ...]:
    """Returns the final states and the scan outputs of a batch of sequences, along dimension 1.

    The body runs for one sequence after the other, without the batch dimension. A sequence that is shorter
    than the longest one is read, also from its end, within its length; the rest of its scan outputs is 0, as
    in onnxruntime.

    Args:
        sequence_lens: int64 (batch,), the lengths; all sequences are whole where absent.
        initial_state_and_scan_inputs: N states (batch, ...), then the scan inputs (batch, length, ...).
        body: callable of the states, one element of each scan input, and the captured values.
        num_scan_inputs: number of scan inputs.
        directions: 1 for each scan input that is read from its end.
        captured: what the body reads from around it.
        scan_outputs: dtype and dimensions of each scan output's elements, as far as they are declared.

    Raises:
        InvalidModelError: scan inputs of different lengths.

    Source: ONNX Scan-8.
    """
    count = len(initial_state_and_scan_inputs) - num_scan_inputs
    states, inputs = initial_state_and_scan_inputs[:count], initial_state_and_scan_inputs[count:]
    if not inputs[0].shape[0]:
        raise InvalidModelError("Scan: a batch of no sequences")
    length = _Steps(inputs, [1] * len(inputs), [0] * len(inputs)).length
    lengths = [length] * inputs[0].shape[0] if sequence_lens is None else sequence_lens.tolist()
    results = []
    for sample, end in enumerate(lengths):
        steps = _Steps([x[sample, :end] for x in inputs], [0] * len(inputs), _flags(directions, len(inputs)))
        first = [state[sample] for state in states]
        final, elements = _run(body, first, steps, captured)
        if steps.length:
            outputs = [_padded(stacked(parts), length) for parts in elements]
        else:
            arguments = (*first, *steps.like_elements(), *captured)
            empty = no_elements(body, arguments, count, scan_outputs, [0] * len(scan_outputs))
            outputs = [_padded(e, length) for e in empty]
        results.append((*final, *outputs))
    return tuple(stacked(parts) for parts in zip(*results, strict=True))


@operator("SequenceMap", outputs=None, on_numbers=True, python_only=("captured",))
def sequence_map(
    input_sequence: Sequence[Tensor],
    *additional_inputs: Any,
    body: Callable[..., Any],
    captured: Sequence[Any] = (),
) -> tuple[list[Tensor], ...]:
    """Returns a sequence for each of the body's outputs: its results for the elements of a sequence.

    Args:
        input_sequence: its length is the number of calls.
        additional_inputs: sequences of that length, whose elements go along, and tensors, which every call
            is given.
        body: callable of one element of each sequence, the tensors, and the captured values.
        captured: what the body reads from around it.

    Raises:
        InvalidModelError: sequences of different lengths.

    Source: ONNX SequenceMap-17.
    """
    lengths = [len(s) for s in (input_sequence, *additional_inputs) if isinstance(s, (list, tuple))]
    if len(set(lengths)) > 1:
        raise InvalidModelError(f"SequenceMap: sequences of different lengths {lengths}")
    results = []
    for i, element in enumerate(input_sequence):
        others = (a[i] if isinstance(a, (list, tuple)) else a for a in additional_inputs)
        results.append(tuple(body(element, *others, *captured)))
    return tuple([as_tensor(v) for v in parts] for parts in zip(*results, strict=True))


class _Steps:
    """The elements of scan inputs along their axes.

    Raises InvalidModelError for inputs of different lengths, or an axis that one does not have.
    """

    def __init__(self, inputs: Sequence[Tensor], axes: Sequence[int], directions: Sequence[int]) -> None:
        if not inputs:
            raise InvalidModelError("Scan: at least one scan input is needed")
        for x, axis in zip(inputs, axes, strict=True):
            if not -x.dim() <= axis < x.dim():
                raise InvalidModelError(f"Scan: no axis {axis} in a scan input of shape {tuple(x.shape)}")
        lengths = [x.shape[axis] for x, axis in zip(inputs, axes, strict=True)]
        if any(n != lengths[0] for n in lengths):
            raise InvalidModelError(f"Scan: scan inputs of different lengths {lengths}")
        self.length = lengths[0]
        self._inputs = list(zip(inputs, axes, directions, strict=True))

    def __getitem__(self, step: int) -> list[Tensor]:
        last = self.length - 1
        return [x.select(axis, last - step if back else step) for x, axis, back in self._inputs]

    def stacks(self) -> tuple[Tensor, ...]:
        """Returns the scan inputs with their steps in order along dimension 0."""
        moved = [(x.movedim(axis, 0), back) for x, axis, back in self._inputs]
        return tuple(x.flip(0) if back else x for x, back in moved)

    def like_elements(self) -> list[Tensor]:
        """Returns tensors of the elements' shapes, also where there are none."""
        return [x.new_zeros([*x.movedim(axis, 0).shape[1:]]) for x, axis, _ in self._inputs]


def _run(
    body: Subgraph, states: Sequence[Tensor], steps: _Steps, captured: Sequence[Any]
) -> tuple[tuple[Tensor, ...], list[tuple[Any, ...]]]:
    """Returns the final states and, for each scan output, its elements in the order of the steps."""
    count = len(states)
    elements: list[tuple[Any, ...]] = []
    for step in range(steps.length):
        results = body(*states, *steps[step], *captured)
        states = results[:count]
        elements.append(tuple(results[count:]))
    return tuple(states), list(zip(*elements, strict=True))


def _exported(
    body: Subgraph, states: Sequence[Tensor], steps: _Steps, captured: Sequence[Any]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Returns the final states and the scan outputs, stacked along dimension 0."""
    count = len(states)

    def step(
        carried: tuple[Tensor, ...], elements: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        results = body(*carried[:count], *elements, *captured)
        return fresh((*results[:count], carried[count])), fresh(results[count:])

    # A state that nothing reads stands in for none at all, which torch does not take.
    inputs = steps.stacks()
    final, stacks = scan_tensors(step, (*fresh(states), inputs[0].new_zeros(())), inputs)
    return tuple(final[:count]), tuple(stacks)


def _flags(values: Sequence[int] | None, count: int) -> list[int]:
    """Returns an attribute with one number for each of `count` tensors; 0 where it is absent."""
    if values is not None and len(values) not in (0, count):
        raise InvalidModelError(f"Scan: an attribute has {len(values)} numbers for {count} tensors")
    return list(values) if values else [0] * count


def _padded(x: Tensor, length: int) -> Tensor:
    """Returns x, (n, ...), with zeros up to (length, ...)."""
    return torch.cat([x, x.new_zeros([length - x.shape[0], *x.shape[1:]])]) if x.shape[0] < length else x
