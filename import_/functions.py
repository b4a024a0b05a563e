"""Model-local functions on import: bodies of operators that we know are dropped, ours replace them."""

from __future__ import annotations

from onnx import ModelProto

from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.registry import REGISTRY, canonical_domain

__all__ = ["strip_known_functions"]


def strip_known_functions(model: ModelProto) -> None:
    """Removes the function bodies of known operators, and the overloads that chose among them, in place.

    Raises:
        UnsupportedModelError: a node calls a function that is no operator known here.
    """
    known = {(f.domain, f.name) for f in model.functions if _is_known(f.domain, f.name)}
    kept = [f for f in model.functions if (f.domain, f.name) not in known]
    del model.functions[:]
    called = {(f.domain, f.name) for f in kept} & {(n.domain, n.op_type) for n in model.graph.node}
    if called:
        names = ", ".join(sorted(f"{d}::{n}" for d, n in called))
        raise UnsupportedModelError(
            f"the model calls functions of its own ({names}); inline them first with onnx.inliner"
        )
    for node in model.graph.node:
        if node.overload and (node.domain, node.op_type) in known:
            node.overload = ""


def _is_known(domain: str, name: str) -> bool:
    return REGISTRY.find(canonical_domain(domain), name, 1 << 30) is not None
