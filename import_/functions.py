"""Model-local functions on import: ours stand for those of operators that we know, all others are inlined."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import FunctionProto, ModelProto, NodeProto

from qonnx_torch.errors import InvalidModelError, UnsupportedModelError
from qonnx_torch.graphs import check_nodes, label
from qonnx_torch.registry import CHANNELS_LAST_DOMAIN, REGISTRY, canonical_domain

from .constants import is_constant
from .dialects import canonical_domain_of, mark_version
from .inlining import DEEPEST, Key, inline_calls, key_of, levels, spelled
from .legacy import is_rewritten
from .sparse import make_dense
from .tensors import TensorStore

__all__ = ["inline_functions"]

_MOST_NODES = 100_000
_TIMES = 4
"""Bodies may become so many nodes, and so many times those of the file."""

_BEYOND = 1 << 62  # no size is counted further: functions that call functions make numbers of any length


def inline_functions(model: ModelProto, tensors: TensorStore) -> None:
    """Replaces the calls of a model's own functions, in place, so that none is left.

    A function that has the name of an operator known here is dropped and the operator takes its place (with
    all its overloads). The body of any other takes the place of its call, however deep functions call
    functions and in whichever subgraph. A node of a body that means something else, or is written otherwise,
    in the operator set that the model imports is read at the version that its function imports.

    Args:
        model: the model.
        tensors: says how large the model is.

    Raises:
        InvalidModelError: functions that call each other in a circle, two functions of one name, or a call
            that no function of that name has an overload for, or with more inputs or outputs than it has.
        UnsupportedModelError: bodies that would grow beyond a hundred thousand nodes and four times the
            file's, or to many times the file's bytes.

    Source: ONNX IR specification, Functions (IR version 8; overloads since 10).
    """
    if not model.functions:
        return
    known = {_name(f) for f in model.functions if REGISTRY.find(*_name(f), 1 << 30) is not None}
    kept = [f for f in model.functions if _name(f) not in known]
    for _, node in levels([*model.graph.node, *(n for f in kept for n in f.node)]):
        if node.overload and (canonical_domain(node.domain), node.op_type) in known:
            node.overload = ""
    functions = _by_key(kept)
    graph = model.graph
    outline = _outline(graph.node, functions, {_name(f) for f in kept})
    if outline.calls:
        values = [v.name for v in (*graph.input, *graph.initializer)]
        check_nodes(graph.node, values, [o.name for o in graph.output])
        most = _MOST_NODES + _TIMES * sum(
            1 for _ in levels([*graph.node, *(n for f in kept for n in f.node)])
        )
        called = _measured(outline, functions, most, tensors)
        for function in called.values():
            check_nodes(function.node, function.input, function.output)
        version_of = _versions(model, called)
        inline_calls(graph, called, tensors, most, version_of, mark_version)
        make_dense(model, tensors)  # a sparse constant may have been an attribute of a call
    del model.functions[:]


def _name(function: FunctionProto) -> tuple[str, str]:
    return canonical_domain(function.domain), function.name


def _by_key(functions: Sequence[FunctionProto]) -> dict[Key, FunctionProto]:
    result: dict[Key, FunctionProto] = {}
    for function in functions:
        key = (*_name(function), function.overload)
        if key in result:
            raise InvalidModelError(f"the function {spelled(key)} is defined twice")
        result[key] = function
    return result


@dataclass(frozen=True, slots=True)
class _Size:
    """How much a body is, calls expanded."""

    nodes: int
    content: int  # bytes
    height: int  # graphs in each other


@dataclass(frozen=True, slots=True)
class _Outline:
    """The nodes of a graph or body: how often it calls each function, how deep, and its own size."""

    calls: Counter[Key]
    depths: Mapping[Key, int]
    own: _Size


def _outline(
    nodes: Sequence[NodeProto], functions: Mapping[Key, FunctionProto], names: set[tuple[str, str]]
) -> _Outline:
    calls: Counter[Key] = Counter()
    depths: dict[Key, int] = {}
    count = height = 0
    for level, node in levels(nodes):
        key = key_of(node)
        if key in functions:
            calls[key] += 1
            depths[key] = max(level, depths.get(key, 0))
        elif key[:2] in names:
            raise InvalidModelError(
                f"node {label(node)} calls {spelled(key)}, which the model does not define"
            )
        count, height = count + 1, max(height, level)
    return _Outline(calls, depths, _Size(count, sum(node.ByteSize() for node in nodes), height))


def _measured(
    graph: _Outline, functions: Mapping[Key, FunctionProto], most: int, tensors: TensorStore
) -> dict[Key, FunctionProto]:
    """Returns the functions that a graph calls, directly or not; checks that they end, and how large."""
    names = {key[:2] for key in functions}
    sizes: dict[Key, _Size] = {}
    outlines: dict[Key, _Outline] = {}
    for start in graph.calls:
        path: list[tuple[Key, Iterator[Key]]] = []  # no recursion: chains may be long
        step: Key | None = start
        while step is not None or path:
            if step is not None and step not in sizes:
                if step in outlines:
                    raise InvalidModelError(f"the function {spelled(step)} calls itself")
                outlines[step] = _outline(functions[step].node, functions, names)
                path.append((step, iter(outlines[step].calls)))
            if not path:
                break
            step = next(path[-1][1], None)
            if step is None:
                key, _ = path.pop()
                sizes[key] = _expanded(outlines[key], sizes)
    total = _expanded(graph, sizes)
    nodes = sum(sizes[key].nodes * count for key, count in graph.calls.items())
    if nodes > most:
        raise UnsupportedModelError(
            f"the model's functions would be inlined into {nodes} nodes; at most {most} are"
        )
    if total.height > DEEPEST:
        raise UnsupportedModelError(f"inlining the model's functions nests graphs more than {DEEPEST} deep")
    for key, count in graph.calls.items():
        tensors.charge(sizes[key].content * count, f"the body of the function {spelled(key)}")
    return {key: functions[key] for key in outlines}


def _expanded(outline: _Outline, sizes: Mapping[Key, _Size]) -> _Size:
    """Returns the size of nodes with the bodies in the place of the calls."""
    nodes, content, height = outline.own.nodes, outline.own.content, outline.own.height
    for key, count in outline.calls.items():
        nodes = min(nodes + sizes[key].nodes * count, _BEYOND)
        content = min(content + sizes[key].content * count, _BEYOND)
        height = max(height, outline.depths[key] + sizes[key].height)
    return _Size(nodes, content, height)


def _versions(
    model: ModelProto, functions: Mapping[Key, FunctionProto]
) -> Callable[[Key, NodeProto], int | None]:
    """Imports what the bodies need; returns at which version a function's node has to be read, if another."""
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = canonical_domain(entry.domain)
        versions[domain] = max(entry.version, versions.get(domain, 0))
    changed: dict[Key, dict[str, int]] = {}
    for key, function in functions.items():
        own: dict[str, int] = {}
        for entry in function.opset_import:
            domain = canonical_domain(entry.domain)
            own[domain] = max(entry.version, own.get(domain, 0))
        for domain, version in own.items():
            if domain not in versions:
                versions[domain] = version
                model.opset_import.add(domain=domain, version=version)
        own[CHANNELS_LAST_DOMAIN] = own.get("", versions.get("", 0))  # as `OperatorSets` has it
        changed[key] = {d: v for d, v in own.items() if v != versions.get(d, versions.get("", v))}

    def version_of(key: Key, node: NodeProto) -> int | None:
        if not changed[key] or is_constant(node):
            return None
        domain = canonical_domain_of(node)
        version = changed[key].get(domain)
        wanted = versions.get(domain, versions.get("", 0))
        return None if version is None or _same(domain, node.op_type, version, wanted) else version

    return version_of


@functools.cache
def _same(domain: str, op_type: str, version: int, wanted: int) -> bool:
    """Whether an operator of one version can be read and written as in another: types may be added."""
    operators = [REGISTRY.find(domain, op_type, v) for v in (version, wanted)]
    if operators[0] is not operators[1] or (not domain and is_rewritten(op_type, version, wanted)):
        return False
    old, new = _schema(domain, op_type, version), _schema(domain, op_type, wanted)
    if old is None or new is None:
        return old is new
    if old.since_version == new.since_version:
        return True
    return (
        version < wanted
        and (old.min_input, old.max_input) == (new.min_input, min(new.max_input, old.max_input))
        and (old.min_output, old.max_output) == (new.min_output, min(new.max_output, old.max_output))
        and all(_same_attribute(a, new.attributes.get(name)) for name, a in old.attributes.items())
        and not any(a.required for name, a in new.attributes.items() if name not in old.attributes)
    )


def _schema(domain: str, op_type: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def _same_attribute(old: onnx.defs.OpSchema.Attribute, new: onnx.defs.OpSchema.Attribute | None) -> bool:
    return new is not None and (old.type, old.required, old.default_value) == (
        new.type,
        new.required,
        new.default_value,
    )
