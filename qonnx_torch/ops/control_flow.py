"""If and Loop, with their subgraphs as Python callables.

A subgraph takes its formal inputs and then what it reads from the graph around it (`captured`), and returns a
tuple of its outputs. Values are tensors, Python numbers (shapes), lists (sequences) or None (empty optionals).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from qonnx_torch.ops._operator import as_tensor, operator
from qonnx_torch.ops._subgraphs import (
    ElementType,
    Subgraph,
    alike,
    has_no_value,
    integer,
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
    both branches (`torch.cond`, which wants equal types and shapes), and so does a compiled graph of `uniform`
    branches; of others it breaks there. On fake tensors, which have no values, both run and must agree.

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
        # What a branch of torch.cond returns must not be one of its inputs.
        return lambda: tuple(v.clone() if isinstance(v, Tensor) else v for v in subgraph(*captured))

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

    for (i = 0; i < M and cond; ++i): cond, *v, *elements = body(i, True, *v, *captured). Without `cond` the
    number of iterations alone counts, as the specification has it (onnxruntime goes by the body's condition
    there, too); with neither, it is the body's condition, since nothing else could end the loop.

    M and a condition that are Python numbers are followed while tracing: the loop unrolls. Else `torch.export`
    keeps a loop without scan outputs as `while_loop`. On fake tensors, which have no values, the carried
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
    run = _Loop(body, captured, follows_body=cond is not None or M is None)
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
            return run.on_fakes(iteration, values) or refuse(unread[0])
        if unread:
            return run.as_while_loop(iteration, limit, going, values)
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

    def __init__(self, body: Subgraph, captured: Sequence[Any], *, follows_body: bool) -> None:
        self.body = body
        self.captured = captured
        self.follows_body = follows_body

    def step(self, iteration: Any, values: Sequence[Any]) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
        """Runs the body once; returns the condition, the carried values and the scan outputs' elements."""
        result, *rest = self.body(iteration, True, *values, *self.captured)
        carried = len(values)
        return result if self.follows_body else True, tuple(rest[:carried]), tuple(rest[carried:])

    def on_fakes(self, iteration: int, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Returns values like the carried ones; nothing where two more iterations change types or shapes."""
        later = values
        for i in (iteration, iteration + 1):
            _, later, _ = self.step(i, later)
        return later if alike(values, later) else ()

    def as_while_loop(
        self, iteration: int, limit: Any, going: Any, values: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Returns the carried values of a `while_loop` over the remaining iterations."""
        limit = limit.reshape(()) if isinstance(limit, Tensor) else limit
        # while_loop has no gradients beside a Python int; the body computes on a tensor as well.
        first = torch.tensor(iteration) if torch.is_grad_enabled() else iteration

        def starts(i: Any, condition: Tensor, *carried: Any) -> Any:
            return condition.clone() if limit is None else condition & as_tensor(i < limit)

        def step(i: Any, condition: Tensor, *carried: Any) -> tuple[Any, ...]:
            result, later, _ = self.step(i, carried)
            # What the body returns must not be one of its inputs.
            fresh = [v.clone() if isinstance(v, Tensor) else v for v in later]
            return (i + 1, as_tensor(result).reshape(()).clone(), *fresh)

        condition = as_tensor(going).reshape(())
        return tuple(while_loop(starts, step, (first, condition, *values))[2:])
