"""Model-local functions on import: ours stand for those of operators that we know, all others are inlined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import onnx
import onnx_ir as ir
from onnx import FunctionProto, ModelProto, NodeProto, ValueInfoProto
from onnx_ir.passes.common import InlinePass

from qonnx_torch.errors import InvalidModelError, UnsupportedModelError, shortened
from qonnx_torch.ordering import check_nodes, label, subgraphs
from qonnx_torch.registry import REGISTRY, canonical_domain

__all__ = ["inline_functions"]

_MOST_NODES = 1_000_000
"""A model whose functions call functions may become this long, no longer."""

_Key = tuple[str, str, str]


def inline_functions(model: ModelProto) -> None:
    """Replaces the calls of a model's own functions, in place, so that none is left.

    A function that has the name of an operator known here is dropped and the operator takes its place (with
    all its overloads). The body of any other takes the place of its call, however deep functions call
    functions and in whichever subgraph.

    Raises:
        InvalidModelError: functions that call each other in a circle, two functions of one name, or a call
            that no function of that name has an overload for.
        UnsupportedModelError: bodies that would grow beyond a million nodes, or one written for an operator
            set that means something else than the model's.

    Source: ONNX IR specification, Functions (IR version 8; overloads since 10).
    """
    if not model.functions:
        return
    known = {(f.domain, f.name) for f in model.functions if _is_known(f.domain, f.name)}
    kept = [f for f in model.functions if (f.domain, f.name) not in known]
    for node in _all_nodes([*model.graph.node, *(n for f in kept for n in f.node)]):
        if node.overload and (node.domain, node.op_type) in known:
            node.overload = ""
    functions = _by_key(kept)
    calls = _expanded_calls(model, functions)
    if calls:
        graph = model.graph
        values = [v.name for v in (*graph.input, *graph.initializer)]
        check_nodes(graph.node, values, [o.name for o in graph.output])
        for key in calls:
            check_nodes(functions[key].node, functions[key].input, functions[key].output)
        _inline(model, [functions[key] for key in calls])
    del model.functions[:]


def _is_known(domain: str, name: str) -> bool:
    return REGISTRY.find(canonical_domain(domain), name, 1 << 30) is not None


def _by_key(functions: Sequence[FunctionProto]) -> dict[_Key, FunctionProto]:
    result: dict[_Key, FunctionProto] = {}
    for function in functions:
        key = (function.domain, function.name, function.overload)
        if key in result:
            raise InvalidModelError(f"the function {_spell(key)} is defined twice")
        result[key] = function
    return result


def _spell(key: _Key) -> str:
    domain, name, overload = key
    return f"{domain}::{name}" + (f" (overload {overload!r})" if overload else "")


def _all_nodes(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """Yields nodes and those of their subgraphs."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for graph in subgraphs(node).values():
            waiting.extend(graph.node)


def _called(nodes: Sequence[NodeProto], functions: dict[_Key, FunctionProto]) -> Counter[_Key]:
    """Returns how often each function is called by nodes, directly."""
    names = {(domain, name) for domain, name, _ in functions}
    calls: Counter[_Key] = Counter()
    for node in _all_nodes(nodes):
        key = (node.domain, node.op_type, node.overload)
        if key in functions:
            calls[key] += 1
        elif (node.domain, node.op_type) in names:
            raise InvalidModelError(
                f"node {label(node)} calls {_spell(key)}, which the model does not define"
            )
    return calls


def _expanded_calls(model: ModelProto, functions: dict[_Key, FunctionProto]) -> list[_Key]:
    """Returns the functions that the graph calls, directly or not; checks that they end, and how large."""
    within = {key: _called(f.node, functions) for key, f in functions.items()}
    sizes: dict[_Key, int] = {}
    for start in functions:
        _measure(start, functions, within, sizes)
    calls = _called(model.graph.node, functions)
    total = sum(sizes[key] * count for key, count in calls.items())
    if total > _MOST_NODES:
        raise UnsupportedModelError(
            f"the model's functions would be inlined into {total} nodes; at most {_MOST_NODES} are"
        )
    reached = set(calls)
    waiting = list(calls)
    while waiting:
        more = set(within[waiting.pop()]) - reached
        reached |= more
        waiting += more
    return [key for key in functions if key in reached]


def _measure(
    start: _Key,
    functions: dict[_Key, FunctionProto],
    within: dict[_Key, Counter[_Key]],
    sizes: dict[_Key, int],
) -> None:
    """Notes how many nodes a function's body has, calls expanded (no recursion: chains may be long)."""
    path: list[_Key] = [start]
    open_keys = {start}
    while path:
        key = path[-1]
        missing = next((k for k in within[key] if k not in sizes), None) if key not in sizes else None
        if missing is not None:
            if missing in open_keys:
                raise InvalidModelError(f"the function {_spell(missing)} calls itself")
            path.append(missing)
            open_keys.add(missing)
            continue
        own = sum(1 for _ in _all_nodes(functions[key].node))
        sizes[key] = own + sum(sizes[k] * n for k, n in within[key].items())
        open_keys.discard(path.pop())


def _inline(model: ModelProto, functions: Sequence[FunctionProto]) -> None:
    """Puts the bodies in place of the calls. The initializers' data stay out of it: they may be gigabytes."""
    graph = model.graph
    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=functions)
    _import_domains(light)
    light.graph.name = graph.name
    light.graph.node.extend(graph.node)
    light.graph.output.extend(graph.output)
    names = dict.fromkeys([*(i.name for i in graph.input), *(i.name for i in graph.initializer)])
    light.graph.input.extend(ValueInfoProto(name=name) for name in names)
    try:
        result = ir.to_proto(InlinePass()(ir.from_proto(light)).model)
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # each level of the graph wraps the error of the one below
            cause = cause.__cause__
        reason = shortened(str(cause).partition("\n")[0])
        raise InvalidModelError(f"the model's functions cannot be inlined: {reason}") from None
    del graph.node[:]
    graph.node.extend(result.graph.node)
    del model.opset_import[:]
    model.opset_import.extend(result.opset_import)


def _import_domains(model: ModelProto) -> None:
    """Imports what the bodies need, and refuses bodies that the model's operator sets would misread."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    for function in model.functions:
        for entry in function.opset_import:
            if entry.domain not in versions:
                versions[entry.domain] = entry.version
                model.opset_import.append(entry)
            wanted = versions[entry.domain]
            if entry.version == wanted:
                continue
            changed = next(
                (
                    node
                    for node in _all_nodes(function.node)
                    if node.domain == entry.domain and not _same(node, entry.version, wanted)
                ),
                None,
            )
            if changed is not None:
                raise UnsupportedModelError(
                    f"the function {function.domain}::{function.name} is written for version "
                    f"{entry.version} of {entry.domain or 'ai.onnx'}, where {changed.op_type} means "
                    f"something else than in the model's {wanted}; write both for one version"
                )
            entry.version = wanted


def _same(node: NodeProto, version: int, other: int) -> bool:
    """Whether an operator is the same in two versions of its domain."""
    if node.domain in ("", "ai.onnx"):
        try:
            first, second = (onnx.defs.get_schema(node.op_type, v) for v in (version, other))
        except onnx.defs.SchemaError:
            return True
        return first.since_version == second.since_version
    domain = canonical_domain(node.domain)
    ours = [REGISTRY.find(domain, node.op_type, v) for v in (version, other)]
    return ours[0] is ours[1]
