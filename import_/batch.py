"""Another batch size for a model that was exported at a fixed one.

What freezes a batch size is constants: the leading dimension of a Reshape's shape, a Resize's sizes, and a
Flatten that starts at the batch. They are found by running the module on fake tensors at the file's batch
size and at a multiple of it: where a node's input grew with the batch, its constant must grow too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, MutableSequence, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper
from torch import fx

from qonnx_torch.errors import QonnxTorchError, UnsupportedModelError, quoted
from qonnx_torch.graphs import reads, subgraphs, value_names_of
from qonnx_torch.ops.standard.recurrent import gru, lstm, rnn
from qonnx_torch.ops.standard.resize import resize
from qonnx_torch.ops.standard.shape import flatten, reshape
from qonnx_torch.passes.inputs import Inputs
from qonnx_torch.passes.shapes import FakeInterpreter, InputSpec, declared_inputs, propagate
from qonnx_torch.provenance import value_names

from .builder import build
from .constants import is_constant
from .dialects import OperatorSets
from .tensors import TensorStore
from .trial import require_samples_apart

__all__ = ["rebatch"]

_FACTOR = 3
_RECURRENT = (rnn, gru, lstm)
_STATES = range(5, 7)  # the inputs initial_h and initial_c
_MOST_ELEMENTS = 1 << 26  # of an input


def rebatch(model: ModelProto, batch: int | str, tensors: TensorStore) -> ModelProto:
    """Returns the model with the leading dimension of its inputs set to a number, or to a name.

    The inputs that share the first input's leading dimension are taken as batched.

    Args:
        model: the model.
        batch: the number or the name.
        tensors: the data of its large tensors.

    Raises:
        UnsupportedModelError: the batch cannot be told apart from other dimensions somewhere; the message
            names the node.
    """
    module = _build(model, tensors)
    specs = declared_inputs(module) or []
    batched = _batched_inputs(specs)
    if not batched:
        raise UnsupportedModelError("no input has a leading dimension, so there is no batch to change")
    specs = _sized(module, specs, batched)
    old = specs[batched[0]].shape[0]  # type: ignore[index]
    size = old if isinstance(old, int) else 1
    _require_moderate_inputs(specs)
    opset = OperatorSets(model).versions[""]
    problem: QonnxTorchError | None = None
    try:
        reference = _run(module, specs, batched, size, 1)
    except UnsupportedModelError as error:
        raise _refused(error) from None
    for merge_forward in (True, False):
        finder = _FrozenConstants(module, reference, opset, merge_forward=merge_forward)
        try:
            grown = _run(module, specs, batched, size, _FACTOR, finder)
            _require_growth(module, reference, grown)
            result = _rewritten(model, module, finder.changes)
            _set_batch(result, {specs[i].name for i in batched}, batch, reference, grown, module)
            require_samples_apart(_build(result, tensors), specs, batched, tensors.room())
            return result
        except QonnxTorchError as error:
            problem = problem or error
        if not finder.ambiguous:
            break  # the other reading is the same
    assert problem is not None
    raise _refused(problem)


def _build(model: ModelProto, tensors: TensorStore) -> fx.GraphModule:
    """Returns the module of a model; its copies of constants are not counted, since it does not stay."""
    before = tensors.copied
    module = build(model, tensors)
    tensors.copied = before
    return module


def _refused(problem: QonnxTorchError) -> UnsupportedModelError:
    return UnsupportedModelError(f"the batch size cannot be changed; use batch='keep' ({problem})")


def _batched_inputs(specs: Sequence[InputSpec]) -> list[int]:
    leading = [s.shape[0] if s.shape else None for s in specs]
    first = next((n for n in leading if n is not None), None)
    return [i for i, s in enumerate(specs) if s.shape and s.shape[0] == first]


def _sized(module: fx.GraphModule, specs: list[InputSpec], batched: Sequence[int]) -> list[InputSpec]:
    """Returns the inputs with the least size that works for each dynamic dimension but the batch."""
    others = [d for i, spec in enumerate(specs) for d in spec.dims[i in batched :]]
    if all(isinstance(d, int) for d in others):
        return specs
    try:
        sizes = Inputs(module).smallest().sizes
    except UnsupportedModelError:
        return specs
    result = []
    for i, spec in enumerate(specs):
        if spec.shape is not None:
            batch = spec.shape[: i in batched]
            shape = (sizes.get(d, 1) if isinstance(d, str) else d for d in spec.dims[len(batch) :])
            spec = replace(spec, shape=(*batch, *shape))
        result.append(spec)
    return result


def _require_moderate_inputs(specs: Sequence[InputSpec]) -> None:
    """Refuses inputs that are too large to try two samples with."""
    for spec in specs:
        elements = math.prod(d for d in spec.shape or () if isinstance(d, int))
        if elements > _MOST_ELEMENTS:
            raise UnsupportedModelError(
                f"input {quoted(spec.name)} has {elements} elements; two samples are tried, and with more "
                f"than {_MOST_ELEMENTS} that is too much; use batch='keep'"
            )


def _run(
    module: fx.GraphModule,
    specs: Sequence[InputSpec],
    batched: Sequence[int],
    size: int,
    factor: int,
    interpreter: FakeInterpreter | None = None,
) -> dict[fx.Node, Any]:
    shapes = []
    for i, spec in enumerate(specs):
        dims = [d if isinstance(d, int) else 1 for d in spec.shape or ()]
        if i in batched:
            dims[0] = size * factor
        shapes.append((dims, spec.dtype))
    return propagate(module, shapes, interpreter or FakeInterpreter(module))


class _FrozenConstants(FakeInterpreter):
    """Runs at a multiple of the batch and mends the constants that stand in the way, noting each change."""

    def __init__(
        self, module: fx.GraphModule, reference: dict[fx.Node, Any], opset: int, *, merge_forward: bool
    ) -> None:
        super().__init__(module)
        self.reference = reference
        self.opset = opset
        self.merge_forward = merge_forward
        self.changes: dict[fx.Node, tuple[str, Any]] = {}
        self.ambiguous = False
        self._zeros = _zero_states(module)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls the operator, with a mended constant where its input grew with the batch."""
        node = self._node
        if target in (reshape, flatten, resize, *_RECURRENT) and isinstance(args[0], torch.Tensor):
            before = tuple(self.reference[node.all_input_nodes[0]].shape)
            axes = [i for i, (b, a) in enumerate(zip(before, args[0].shape, strict=True)) if a != b]
            if axes:
                args, kwargs = self._mend(node, target, args, kwargs, before, axes[0])
        return super().call_function(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node; remembers which one for `call_function`."""
        self._node = n
        return super().run_node(n)

    def _mend(
        self,
        node: fx.Node,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        before: tuple[int, ...],
        axis: int,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if target in _RECURRENT:
            zero = [i for i, state in enumerate(node.args) if i in _STATES and state in self._zeros]
            if zero:  # absent states are zeros, for any batch
                self.changes[node] = ("absent", zero)
                args = tuple(None if i in zero else a for i, a in enumerate(args))
        elif target is flatten:
            if kwargs.get("axis", 1) == 0 and axis == 0 and before[0] == 1:
                kwargs = {**kwargs, "axis": 1}
                self.changes[node] = ("axis", 1)
        elif target is resize:
            if len(args) > 3 and _is_constant(node.args[3]) and not kwargs.get("axes"):
                args, kwargs = self._mend_sizes(node, args, kwargs, before, axis)
        elif _is_constant(node.args[1]):
            shape = self._grown_shape(node, before, axis, bool(kwargs.get("allowzero", 0)))
            if shape != tuple(node.args[1]):
                self.changes[node] = ("shape", shape)
                args = (args[0], shape)
        return args, kwargs

    def _mend_sizes(
        self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], before: tuple[int, ...], axis: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Leaves the batch out of a Resize's sizes.

        Case 1: every factor size / length is a number that float32 holds: scales say the same.
        Case 2: opset 18 has an attribute for the axes that sizes are for.
        Otherwise floor(length * factor) could miss the size, and the sampling points would move.
        """
        sizes = [int(n) for n in args[3]]
        if sizes[axis] != before[axis]:
            raise UnsupportedModelError(f"Resize to {tuple(sizes)} changes the batch")
        factors = [n / o for n, o in zip(sizes, before, strict=True)]
        if all(
            torch.tensor(f, dtype=torch.float32).item() * o == n
            for f, n, o in zip(factors, sizes, before, strict=True)
        ):
            scales = tuple(1.0 if i == axis else f for i, f in enumerate(factors))
            self.changes[node] = ("scales", scales)
            return (args[0], None, scales), kwargs
        if self.opset < 18:
            raise UnsupportedModelError(
                f"Resize to sizes {tuple(sizes)} has no form with a free batch below opset 18"
            )
        axes = tuple(i for i in range(len(sizes)) if i != axis)
        rest = tuple(sizes[i] for i in axes)
        self.changes[node] = ("sizes", (axes, rest))
        return (args[0], None, None, rest), {**kwargs, "axes": axes}

    def _grown_shape(
        self, node: fx.Node, before: tuple[int, ...], axis: int, allowzero: bool
    ) -> tuple[int, ...]:
        """Returns a Reshape's constant with the batch left open.

        The batch is the factor before[axis] after a block of p = prod(before[:axis]) elements, row-major.
        Case 1: a result dimension starts right there and is the batch.
        Case 2: nothing stands before the batch: it is in front of the first dimension.
        Case 3: both the dimension that ends there and the one that starts there could take it: tried in turn.
        """
        constant = tuple(int(n) for n in node.args[1])  # type: ignore[union-attr,arg-type]
        resolved = tuple(self.reference[node].shape)
        block, size = math.prod(before[:axis]), before[axis]
        starts = [math.prod(resolved[:i]) for i in range(len(resolved))]
        exact = [i for i, s in enumerate(starts) if s == block and resolved[i] == size]
        begins = [i for i, s in enumerate(starts) if s == block]
        ends = [i for i, s in enumerate(starts) if s * resolved[i] == block * size and s < block]
        if exact:
            where = exact[0]
        elif block == 1 and begins:
            where = begins[0]
        elif begins and ends:
            self.ambiguous = True
            where = begins[-1] if self.merge_forward else ends[0]
        elif begins or ends:
            where = (begins or ends)[0]
        else:
            raise UnsupportedModelError(f"Reshape {constant} of {before} does not keep the batch together")
        if constant[where] == -1 or (constant[where] == 0 and not allowzero):
            return constant
        if where == axis and exact and not allowzero:
            return (*constant[:where], 0, *constant[where + 1 :])
        return tuple(-1 if i == where else n for i, n in enumerate(resolved))


def _zero_states(module: fx.GraphModule) -> set[Any]:
    """Returns the constants among the initial states of recurrent layers that are zero."""
    nodes = (n for n in module.graph.nodes if n.target in _RECURRENT)
    constants = {s for n in nodes for s in n.args[_STATES.start :] if isinstance(s, fx.Node)}
    tensors = module.state_dict()
    return {s for s in constants if s.op == "get_attr" and not tensors[str(s.target)].any()}


def _is_constant(numbers: Any) -> TypeGuard[Sequence[int]]:
    """Whether an operator's sizes stand in the graph, so that they do not follow the batch."""
    return isinstance(numbers, (tuple, list)) and bool(numbers) and all(type(n) is int for n in numbers)


def _outputs(module: fx.GraphModule) -> list[fx.Node]:
    node = next(n for n in module.graph.nodes if n.op == "output")
    return list(node.all_input_nodes)


def _require_growth(module: fx.GraphModule, reference: dict[fx.Node, Any], grown: dict[fx.Node, Any]) -> None:
    """Refuses an output that does not grow by the batch's factor in one dimension, or stay as it is."""
    for node in _outputs(module):
        if not all(isinstance(values[node], torch.Tensor) for values in (reference, grown)):
            raise UnsupportedModelError(f"output {node.name} is no tensor")
        before, after = tuple(reference[node].shape), tuple(grown[node].shape)
        same_rank = len(before) == len(after)
        changed = [(b, a) for b, a in zip(before, after, strict=False) if a != b]
        if not same_rank or len(changed) > 1 or any(a != b * _FACTOR for b, a in changed):
            raise UnsupportedModelError(f"output {node.name} of shape {before} becomes {after}")


def _rewritten(
    model: ModelProto, module: fx.GraphModule, changes: dict[fx.Node, tuple[str, Any]]
) -> ModelProto:
    """Returns a copy of the model with the changed constants, each under a name of its own."""
    result = ModelProto()
    result.CopyFrom(model)
    uses = Counter(n for node in result.graph.node for n in reads(node))
    names = value_names_of(result)
    constants = {i.name: i for i in result.graph.initializer}
    for fx_node, (what, value) in changes.items():
        node = result.graph.node[fx_node.meta["onnx"].index]
        if what == "axis":
            _set_attribute(node, "axis", value)
            continue
        if what == "absent":
            for slot in value:
                node.input[slot] = ""
            continue
        if what in ("scales", "sizes"):
            slot = 2 if what == "scales" else 3
            if what == "sizes":
                axes, value = value
                _set_attribute(node, "axes", list(axes))
            inputs = [node.input[0], *[""] * (slot - 1)]
            name = names.fresh(f"{node.output[0]}_{what}")
            dtype = torch.float32 if what == "scales" else torch.int64
            result.graph.initializer.append(
                numpy_helper.from_array(torch.tensor(value, dtype=dtype).numpy(), name)
            )
            del node.input[:]
            node.input.extend([*inputs, name])
            continue
        tensor = numpy_helper.from_array(torch.tensor(value, dtype=torch.int64).numpy())
        old = node.input[1]
        known = constants.get(old)
        if known is not None and uses[old] == 1:
            tensor.name = old
            known.CopyFrom(tensor)
        else:
            tensor.name = node.input[1] = names.fresh(f"{node.output[0]}_shape")
            result.graph.initializer.append(tensor)
    _drop_unused_constants(result, before=uses)
    return result


def _drop_unused_constants(model: ModelProto, before: Counter[str]) -> None:
    """Removes the constants that only the rewritten nodes used."""
    used = {n for node in model.graph.node for n in reads(node)} | {o.name for o in model.graph.output}
    stale = {name for name in before if name not in used}
    for values in (model.graph.initializer, model.graph.input):  # old files list initializers in both
        _delete(values, [v.name in stale for v in values])
    _delete(model.graph.node, [is_constant(n) and n.output[0] in stale for n in model.graph.node])


def _delete(values: MutableSequence[Any], which: Sequence[bool]) -> None:
    for position in reversed([i for i, gone in enumerate(which) if gone]):
        del values[position]


def _set_attribute(node: NodeProto, name: str, value: int | list[int]) -> None:
    for attribute in [a for a in node.attribute if a.name == name]:
        node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, value))


def _set_batch(
    model: ModelProto,
    inputs: set[str],
    batch: int | str,
    reference: dict[fx.Node, Any],
    grown: dict[fx.Node, Any],
    module: fx.GraphModule,
) -> None:
    def assign(dim: Any) -> None:
        if isinstance(batch, int):
            dim.dim_value = batch
        else:
            dim.dim_param = batch

    for value in model.graph.input:
        if value.name in inputs:
            assign(value.type.tensor_type.shape.dim[0])
    for value, node in zip(model.graph.output, _outputs(module), strict=False):
        dims = value.type.tensor_type.shape.dim
        sizes = zip(dims, reference[node].shape, grown[node].shape, strict=False)
        for dim, before, after in sizes:
            if before != after:
                assign(dim)
    del model.graph.value_info[:]  # they carry the old batch; the exporter infers them anew
    old = {
        reference[n].shape[0]
        for n, own in value_names(module).items()
        if n.op == "placeholder" and own[0] in inputs
    }
    for node in model.graph.node:
        for subgraph in subgraphs(node).values():
            _forget_sizes(subgraph, old)


def _forget_sizes(graph: GraphProto, sizes: Container[int]) -> None:
    """Takes sizes that may be the old batch out of what a subgraph declares, as above."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value in sizes:
                dim.Clear()
    for node in graph.node:
        for subgraph in subgraphs(node).values():
            _forget_sizes(subgraph, sizes)
