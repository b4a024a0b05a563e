"""Functions of whole models: attach, strip, refresh."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import onnx

from .building import MIN_IR_VERSION, MIN_OPSET, build_function
from .overloads import Variant, find_selector, is_elementwise
from .scopes import Scope, all_nodes, infer, scoped_nodes
from .sites import Site

__all__ = ["attach_functions", "refresh_functions", "strip_functions"]


def attach_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy of a model in which every QONNX node has a function that computes qonnx's numbers.

    Functions that the model has for these operators are replaced (see `strip_functions`), so attaching twice
    changes nothing; only functions in use are attached. The nodes keep their operators and get the `overload`
    that matches their attributes and types. The IR version is raised to 10 if lower. A model without QONNX
    nodes is only copied.

    Args:
        model: QONNX model at opset 15 or above, with an opset import for each domain in use.

    Returns:
        The copy. Plain onnxruntime (1.27 or later) runs it; the numbers are those of qonnx 1.0.0 but for the
        exceptions that the docstring of `qonnx_torch.export.functions` lists.

    Raises:
        ValueError: The opset is below 15, or nodes have no function: all of them are listed, with the reason
            (an unknown rounding mode, a missing or impossible attribute, a wrong number of inputs, a rank
            that must be known, a domain without import).

    Source: QONNX operator specification, qonnx 1.0.0.
    """
    result = strip_functions(model)
    sites = list(_sites(result))
    if not sites:
        return result
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in result.opset_import}
    if opsets.get("", 0) < MIN_OPSET:
        raise ValueError(
            f"functions need opset >= {MIN_OPSET}, but the model has opset {opsets.get('', 0)}: "
            "upgrade it first, for instance with onnx.version_converter"
        )
    functions: dict[tuple[str, str, str], onnx.FunctionProto] = {}
    for site, variant in zip(sites, _variants(sites, opsets), strict=True):
        node = site.node
        key = (node.domain, node.op_type, variant.overload)
        if key not in functions:
            functions[key] = _function(variant, node, opsets)
        if variant.overload:
            node.overload = variant.overload
    result.functions.extend(functions.values())
    result.ir_version = max(result.ir_version, MIN_IR_VERSION)
    return result


def strip_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy of a model without functions and overloads for the operators that get functions here.

    Functions and overloads of all other operators stay, and so does the IR version, which `attach_functions`
    may have raised.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for index, function in reversed(list(enumerate(result.functions))):
        if find_selector(function.domain, function.name):
            del result.functions[index]
    for body in (result.graph, *result.functions):
        for node in all_nodes(body):
            if find_selector(node.domain, node.op_type):
                node.ClearField("overload")
    return result


def refresh_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy of a model whose functions match its nodes again, after a pass edited the model.

    Strips the functions and attaches them anew; arguments and errors are those of `attach_functions`.
    """
    return attach_functions(strip_functions(model))


def _sites(model: onnx.ModelProto) -> Iterator[Site]:
    """Yields the nodes that get a function: those of the graph, then those in the model's other functions."""
    inference = functools.cache(lambda: infer(model, lambda n: is_elementwise(n.domain, n.op_type)))
    scopes = [(model.graph, Scope(model.graph, inference)), *((f, Scope(f, dict)) for f in model.functions)]
    for body, scope in scopes:
        for node, inner in scoped_nodes(body, scope):
            if find_selector(node.domain, node.op_type):
                yield Site(node, inner)


def _variants(sites: Sequence[Site], opsets: Mapping[str, int]) -> list[Variant]:
    """Returns the variants of all sites, in their order.

    To be called before any node gets its overload: the inference that this may start reads the nodes.
    """
    variants: list[Variant] = []
    problems: list[str] = []
    for site in sites:
        node = site.node
        select = find_selector(node.domain, node.op_type)
        assert select is not None
        try:
            if node.domain not in opsets:
                raise site.error("the model has no opset import for this domain: add one")
            variants.append(select(site))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("no function for:\n  " + "\n  ".join(problems))
    return variants


def _function(variant: Variant, node: onnx.NodeProto, opsets: Mapping[str, int]) -> onnx.FunctionProto:
    """Returns the function of a variant under a node's operator name and the model's own opset versions."""
    function = onnx.FunctionProto()
    function.CopyFrom(build_function(variant.maker, variant.arguments))
    function.domain, function.name = node.domain, node.op_type
    if variant.overload:
        function.overload = variant.overload
    function.ClearField("opset_import")
    function.opset_import.extend(onnx.helper.make_opsetid(d, opsets[d]) for d in ("", node.domain))
    return function
