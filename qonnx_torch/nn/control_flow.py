"""Branches, loops, scans and maps: modules that hold the subgraphs, and with them their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from qonnx_torch.nn.subgraphs import SubgraphOperator, declared_outputs, is_complete
from qonnx_torch.ops.standard.control_flow import if_, loop
from qonnx_torch.ops.standard.scan import scan, scan_8, sequence_map
from qonnx_torch.registry import REGISTRY

__all__ = ["If", "Loop", "Scan", "Scan8", "SequenceMap"]


class If(SubgraphOperator):
    """Runs one of two graphs; see `qonnx_torch.ops.standard.control_flow.if_`. Source: ONNX If-25.

    Args:
        then_branch: graph to run where the condition holds.
        else_branch: graph to run where it does not; it gives as many values.
        captured: number of values that the branches read from around them.
    """

    then_branch: nn.Module
    else_branch: nn.Module

    def __init__(self, *, then_branch: nn.Module, else_branch: nn.Module, captured: int = 0) -> None:
        super().__init__(captured, then_branch=then_branch, else_branch=else_branch)
        types = declared_outputs(then_branch)
        alike = types == declared_outputs(else_branch) != () and all(map(is_complete, types))
        self._uniform = alike and all(map(_can_be_captured, (then_branch, else_branch)))
        self._floating = all(dtype is not None and dtype.is_floating_point for dtype, _ in types)

    def forward(self, cond: Tensor | bool, *captured: Any) -> tuple[Any, ...]:
        """Returns the outputs of the branch that the condition selects."""
        # torch.cond has no gradients beside integers; and a branch that trains may update statistics.
        uniform = self._uniform and not self.training and (self._floating or not torch.is_grad_enabled())
        return if_(
            cond,  # type: ignore[arg-type]
            then_branch=self.then_branch,
            else_branch=self.else_branch,
            captured=captured,
            uniform=uniform,
        )

    def example_arguments(self, *values: Any) -> dict[str, tuple[Any, ...]]:
        """Returns the captured values for either branch."""
        captured = tuple(self.split(values)[1])
        return {"then_branch": captured, "else_branch": captured}


class Loop(SubgraphOperator):
    """Runs a graph again and again; see `qonnx_torch.ops.standard.control_flow.loop`. Source: ONNX Loop-25.

    Args:
        body: graph of the iteration, the condition (always True) and the carried values.
        captured: number of values that the body reads from around it.
    """

    body: nn.Module

    def __init__(self, *, body: nn.Module, captured: int = 0) -> None:
        super().__init__(captured, body=body)
        self._outputs = declared_outputs(body)

    def forward(self, *values: Any) -> tuple[Any, ...]:
        """Returns the carried values, then the scan outputs; `values` are M, cond, v_initial, captured."""
        inputs, captured = self.split(values)
        elements = self._outputs[1 + max(0, len(inputs) - 2) :]
        return loop(*inputs, body=self.body, captured=captured, scan_outputs=elements)

    def example_arguments(self, *values: Any) -> dict[str, tuple[Any, ...]]:
        """Returns those of the first iteration."""
        inputs, captured = self.split(values)
        return {"body": (0, True, *inputs[2:], *captured)}


class Scan(SubgraphOperator):
    """Runs a graph along an axis of tensors; see `qonnx_torch.ops.standard.scan.scan`. Source: ONNX Scan-25.

    Args:
        body: graph of the states and one element of each scan input.
        captured: number of values that the body reads from around it.
        num_scan_inputs: number of scan inputs, which are the last inputs.
        scan_input_axes: axis of each scan input.
        scan_input_directions: 1 for each scan input that is read from its end.
        scan_output_axes: axis along which each scan output is stacked.
        scan_output_directions: 1 for each scan output that is stacked from the end.
    """

    body: nn.Module

    def __init__(
        self,
        *,
        body: nn.Module,
        num_scan_inputs: int,
        scan_input_axes: Sequence[int] | None = None,
        scan_input_directions: Sequence[int] | None = None,
        scan_output_axes: Sequence[int] | None = None,
        scan_output_directions: Sequence[int] | None = None,
        captured: int = 0,
    ) -> None:
        super().__init__(captured, body=body)
        self.num_scan_inputs = num_scan_inputs
        self.scan_input_axes = scan_input_axes
        self.scan_input_directions = scan_input_directions
        self.scan_output_axes = scan_output_axes
        self.scan_output_directions = scan_output_directions
        self._outputs = declared_outputs(body)

    def onnx_attributes(self) -> dict[str, Any]:
        """Returns the number of scan inputs, and the axes and directions that are given."""
        names = ("axes", "directions")
        given = {f"scan_{side}_{n}" for side in ("input", "output") for n in names}
        shown = {name: getattr(self, name) for name in sorted(given)}
        return {"num_scan_inputs": self.num_scan_inputs} | {k: v for k, v in shown.items() if v is not None}

    def forward(self, *values: Any) -> tuple[Tensor, ...]:
        """Returns the final states, then the scan outputs; `values` are states, scan inputs, captured."""
        inputs, captured = self.split(values)
        elements = self._outputs[len(inputs) - self.num_scan_inputs :]
        attributes = self.onnx_attributes()
        return scan(*inputs, body=self.body, captured=captured, scan_outputs=elements, **attributes)

    def example_arguments(self, *values: Any) -> dict[str, tuple[Any, ...]]:
        """Returns those of the first step."""
        inputs, captured = self.split(values)
        count = len(inputs) - self.num_scan_inputs
        axes = self.scan_input_axes or [0] * self.num_scan_inputs
        if not all(x.shape[a] for x, a in zip(inputs[count:], axes, strict=True)):
            return {}
        elements = [x.select(a, 0) for x, a in zip(inputs[count:], axes, strict=True)]
        return {"body": (*inputs[:count], *elements, *captured)}


class Scan8(SubgraphOperator):
    """Runs a graph along dimension 1 of a batch; see `qonnx_torch.ops.standard.scan.scan_8`.

    Source: ONNX Scan-8.

    Args:
        body: graph of the states and one element of each scan input, without the batch.
        captured: number of values that the body reads from around it.
        num_scan_inputs: number of scan inputs, which are the last inputs.
        directions: 1 for each scan input that is read from its end.
    """

    body: nn.Module

    def __init__(
        self,
        *,
        body: nn.Module,
        num_scan_inputs: int,
        directions: Sequence[int] | None = None,
        captured: int = 0,
    ) -> None:
        super().__init__(captured, body=body)
        self.num_scan_inputs = num_scan_inputs
        self.directions = directions
        self._outputs = declared_outputs(body)

    def onnx_attributes(self) -> dict[str, Any]:
        """Returns the number of scan inputs, and the directions where they are given."""
        given = {} if self.directions is None else {"directions": self.directions}
        return {"num_scan_inputs": self.num_scan_inputs} | given

    def forward(self, *values: Any) -> tuple[Tensor, ...]:
        """Returns the final states, then the scan outputs; `values` begin with sequence_lens."""
        inputs, captured = self.split(values)
        elements = self._outputs[len(inputs) - 1 - self.num_scan_inputs :]
        attributes = self.onnx_attributes()
        return scan_8(*inputs, body=self.body, captured=captured, scan_outputs=elements, **attributes)

    def example_arguments(self, *values: Any) -> dict[str, tuple[Any, ...]]:
        """Returns those of the first step of the first sequence."""
        inputs, captured = self.split(values)
        count = len(inputs) - self.num_scan_inputs
        if not all(x.shape[0] and x.shape[1] for x in inputs[count:]):
            return {}
        return {"body": (*(s[0] for s in inputs[1:count]), *(x[0, 0] for x in inputs[count:]), *captured)}


class SequenceMap(SubgraphOperator):
    """Runs a graph for each element of a sequence; see `qonnx_torch.ops.standard.scan.sequence_map`.

    Args:
        body: graph of one element of each sequence, and of tensors.
        captured: number of values that the body reads from around it.

    Source: ONNX SequenceMap-17.
    """

    body: nn.Module

    def __init__(self, *, body: nn.Module, captured: int = 0) -> None:
        super().__init__(captured, body=body)
        self._count = len(declared_outputs(body))

    def forward(self, *values: Any) -> tuple[list[Tensor], ...]:
        """Returns one sequence for each of the body's outputs; `values` are the inputs, then captured."""
        inputs, captured = self.split(values)
        results = sequence_map(*inputs, body=self.body, captured=captured)
        return results or tuple([] for _ in range(self._count))  # of no elements

    def example_arguments(self, *values: Any) -> dict[str, tuple[Any, ...]]:
        """Returns those of the first element."""
        inputs, captured = self.split(values)
        if not inputs[0]:
            return {}
        return {"body": (*(x[0] if isinstance(x, (list, tuple)) else x for x in inputs), *captured)}


def _can_be_captured(graph: nn.Module) -> bool:
    """Returns whether no node of a branch reads data, as `torch.cond` wants, as far as that can be told."""
    if not isinstance(graph, fx.GraphModule):
        return False
    numbers: set[fx.Node] = set()
    for node in graph.graph.nodes:
        module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, SubgraphOperator):
            inner = module.subgraphs().values()
            if not (isinstance(module, (If, Scan)) and all(map(_can_be_captured, inner))):
                return False
        operator = REGISTRY.of_target(node.target)
        if operator is None:
            continue
        if operator.op_type in _SIZED_BY_DATA:
            return False
        if operator.gives_numbers or (operator.on_shapes and numbers >= {*node.all_input_nodes}):
            numbers.add(node)
        read = (v for slot, v in zip(operator.inputs, node.args, strict=False) if slot in operator.static)
        if any(isinstance(v, fx.Node) and v not in numbers for v in read):
            return False
    return True


_SIZED_BY_DATA = frozenset(
    {"NonZero", "Unique", "Compress", "NonMaxSuppression", "SequenceAt", "SplitToSequence"}
)

REGISTRY.add_module(if_, If)
REGISTRY.add_module(loop, Loop)
REGISTRY.add_module(scan, Scan)
REGISTRY.add_module(scan_8, Scan8)
REGISTRY.add_module(sequence_map, SequenceMap)
