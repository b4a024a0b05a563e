"""If and Loop, with their subgraphs as Python callables.

A subgraph takes its formal inputs and then what it reads from the graph around it (`captured`); it returns
a tuple of its outputs. Values are tensors, Python numbers (shapes), lists (sequences) or None (empty
optionals).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan as scan_tensors
from torch._higher_order_ops.while_loop import while_loop

from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.ops._operator import as_tensor, is_shape_value, operator
from qonnx_torch.ops.standard._subgraphs import (
    ElementType,
    Subgraph,
    alike,
    fresh,
    has_no_value,
    integer,
    is_symbolic,
    no_elements,
    refuse,
    stacked,
    truth,
)

__all__ = ["if_", "loop"]


@operator("If", outputs=None, on_numbers=True, python_only=("captured", "uniform"))
def if_(
    cond: Tensor,
    *,
    then_branch: Callable[..., Any],
    else_branch: Callable[..., Any],
    captured: Sequence[Any] = (),
    uniform: bool = False,
) -> tuple[Any, ...]:
    """Returns the outputs of `then_branch` where the condition holds, else those of `else_branch`.

    A condition that is a Python number is decided while tracing. A tensor is read, but `torch.export` keeps
    both branches (`torch.cond`, which wants equal types and shapes), and so does a compiled graph where they
    are `uniform`; else it breaks. On fake tensors, which have no values, both run and must agree.

    Args:
        cond: bool, one element.
        then_branch: callable of the captured values.
        else_branch: callable of the captured values.
        captured: what the branches read from around them.
        uniform: whether the branches are known to give tensors of the same types and shapes.

    Raises:
        InvalidModelError: a condition of more than one element.

    Source: ONNX If-25.
    """
    if isinstance(cond, Tensor):
        if torch.compiler.is_exporting() or (uniform and torch.compiler.is_compiling()):
            return _both_branches(cond, then_branch, else_branch, captured)
        if has_no_value(cond):
            results = tuple(then_branch(*captured))
            return results if alike(results, tuple(else_branch(*captured))) else refuse(cond)
    return tuple((then_branch if truth(cond) else else_branch)(*captured))


def _both_branches(
    cond: Tensor, then_branch: Subgraph, else_branch: Subgraph, captured: Sequence[Any]
) -> tuple[Any, ...]:
    def branch(subgraph: Subgraph) -> Callable[[], tuple[Any, ...]]:
        return lambda: fresh(subgraph(*captured))

    return tuple(torch.cond(cond.reshape(()), branch(then_branch), branch(else_branch), ()))


@operator("Loop", outputs=None, on_numbers=True, python_only=("captured", "scan_outputs"))
def loop(
    M: Tensor | None = None,
    cond: Tensor | None = None,
    *v_initial: Any,
    body: Callable[..., Any],
    captured: Sequence[Any] = (),
    scan_outputs: Sequence[ElementType] = (),
) -> tuple[Any, ...]:
    """Returns the final carried values and the scan outputs, stacked along a new first dimension.

    for (i = 0; i < M and cond; ++i): cond, *v, *elements = body(i, True, *v, *captured). The body's condition
    counts also where `cond` is absent. The specification ignores it there, but onnxruntime does not, and
    exporters rely on that: so onnxscript writes a `break`.

    M and a condition that are Python numbers are followed while tracing: the loop unrolls. Else, and for a
    dynamic size as M, `torch.export` keeps a loop without scan outputs as `while_loop`, and one that runs M
    times as `scan`. On fake tensors, which have no values, the carried
    values must keep their types and shapes.

    Args:
        M: int64, one element: the greatest number of iterations; no limit where absent.
        cond: bool, one element: whether to start; absent is true.
        v_initial: initial carried values.
        body: callable of the iteration and the condition (True), which are Python numbers, and of the carried
            and the captured values.
        captured: what the body reads from around it.
        scan_outputs: dtype and dimensions of each scan output's elements, as far as they are declared.

    Raises:
        InvalidModelError: M or a condition of more than one element.

    Source: ONNX Loop-25.
    """
    run = _Loop(body, captured)
    limit: Any = integer(M) if M is not None and not _cannot_be_read(M, scan_outputs) else M
    going: Any = True if cond is None else cond
    values: tuple[Any, ...] = v_initial
    elements: list[tuple[Any, ...]] = []
    iteration = 0
    while True:
        unread = [v for v in (limit, going) if _cannot_be_read(v, scan_outputs)]
        if unread and scan_outputs:
            refuse(unread[0])
        if unread and has_no_value(unread[0]):
            found = run.on_fakes(iteration, values)
            return refuse(unread[0]) if found is None else found
        if unread or (is_symbolic(limit) and not scan_outputs):
            return run.as_while_loop(iteration, limit, going, values)
        if is_symbolic(limit) and truth(going):
            return run.as_scan(limit, values)
        if not ((limit is None or iteration < limit) and truth(going)):
            break
        going, values, element = run.step(iteration, values)
        elements.append(element)
        iteration += 1
    if elements:
        return (*values, *(stacked(parts) for parts in zip(*elements, strict=True)))
    arguments = (0, True, *v_initial, *captured)
    axes = [0] * len(scan_outputs)
    return (*values, *no_elements(body, arguments, 1 + len(values), scan_outputs, axes))


def _cannot_be_read(value: Any, scan_outputs: Sequence[ElementType]) -> bool:
    """Whether a value is a tensor whose number is not there: a fake one, or one in an exported graph."""
    if torch.compiler.is_exporting():
        return isinstance(value, Tensor) and not scan_outputs
    return has_no_value(value)


class _Loop:
    """The body of a loop with what it reads from around it."""

    def __init__(self, body: Subgraph, captured: Sequence[Any]) -> None:
        self.body = body
        self.captured = captured

    def step(self, iteration: Any, values: Sequence[Any]) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
        """Runs the body once; returns the condition, the carried values and the scan outputs' elements."""
        result, *rest = self.body(iteration, True, *values, *self.captured)
        carried = len(values)
        return result, tuple(rest[:carried]), tuple(rest[carried:])

    def on_fakes(self, iteration: int, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Returns values like the carried ones; None where two more iterations change types or shapes."""
        later = values
        for i in (iteration, iteration + 1):
            _, later, _ = self.step(i, later)
        return later if alike(values, later) else None

    def as_scan(self, limit: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Returns the carried values and the scan outputs of a `scan` over `limit` iterations."""

        def step(carried: tuple[Any, ...], i: Tensor) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            result, later, elements = self.step(i, carried)
            if not truth(result):
                raise UnsupportedModelError("Loop: an exported loop of dynamic length cannot end early")
            return fresh(later), fresh(map(as_tensor, elements))

        first, *carried = self.as_tensors((0, *values))
        steps = torch.arange(limit, device=first.device)
        final, stacks = scan_tensors(step, fresh(carried), steps)
        return (*final, *stacks)

    def as_tensors(self, values: Sequence[Any]) -> list[Any]:
        """Returns values with the numbers among them as tensors, which the body computes on as well."""
        device = next((v.device for v in (*values, *self.captured) if isinstance(v, Tensor)), None)
        return [as_tensor(v, device=device) if is_shape_value(v) else v for v in values]

    def as_while_loop(
        self, iteration: int, limit: Any, going: Any, values: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Returns the carried values of a `while_loop` over the remaining iterations."""
        limit = limit.reshape(()) if isinstance(limit, Tensor) else limit
        first: Any = iteration
        if torch.is_grad_enabled():  # while_loop has no gradients beside Python numbers
            first, *values = self.as_tensors((iteration, *values))  # type: ignore[assignment]

        def starts(i: Any, condition: Tensor, *carried: Any) -> Any:
            return condition.clone() if limit is None else condition & as_tensor(i < limit)

        def step(i: Any, condition: Tensor, *carried: Any) -> tuple[Any, ...]:
            result, later, _ = self.step(i, carried)
            return (i + 1, as_tensor(result).reshape(()).clone(), *fresh(later))

        condition = as_tensor(going).reshape(())
        return tuple(while_loop(starts, step, (first, condition, *values))[2:])
