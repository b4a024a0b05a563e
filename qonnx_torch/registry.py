"""The operator registry: which function or module implements which ONNX operator, in both directions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from qonnx_torch.errors import UnsupportedModelError

__all__ = [
    "CHANNELS_LAST_DOMAIN",
    "DOMAIN_ALIASES",
    "QONNX_DOMAIN",
    "REGISTRY",
    "Operator",
    "OperatorRegistry",
    "canonical_domain",
    "describe",
    "is_stray_qonnx",
]

QONNX_DOMAIN = "qonnx.custom_op.general"
CHANNELS_LAST_DOMAIN = "qonnx.custom_op.channels_last"

DOMAIN_ALIASES = {
    "ai.onnx": "",
    "onnx.brevitas": QONNX_DOMAIN,
    "finn": QONNX_DOMAIN,
    "finn.custom_op.general": QONNX_DOMAIN,
}
"""Historical names of a domain -> the name used today (Brevitas and FINN renamed theirs twice)."""


def canonical_domain(domain: str) -> str:
    """Returns today's name of an operator domain (`onnx.brevitas` -> `qonnx.custom_op.general`)."""
    return DOMAIN_ALIASES.get(domain, domain)


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator at one version: what it is called in ONNX and what implements it here.

    Attributes:
        domain: canonical operator domain (`""` for ai.onnx).
        op_type: ONNX operator type.
        since_version: first version of the domain's operator set with this behaviour.
        target: the function that implements it.
        inputs: ONNX input names in order, as the target's parameters are called.
        variadic: the last input may repeat (Concat, Sum, ...).
        attributes: attribute name -> default (`inspect.Parameter.empty` where required).
        static: inputs that must be known when the graph is built (a Reshape's shape, a Slice's starts).
        numbers: inputs that are Python numbers where they are constant 0-d tensors (a Clip's bounds): they
            are part of what the operator does, and nothing to be trained.
        on_shapes: also computes on Python ints, so it may stand in a Shape chain.
        outputs: number of outputs that are always there; None where it depends on the node (Split).
        required: attributes that a node must have, also where the function has a default.
        attribute_types: attribute name -> its Python type as the signature spells it.
    """

    domain: str
    op_type: str
    since_version: int
    target: Any
    inputs: tuple[str, ...]
    variadic: bool
    attributes: dict[str, Any]
    static: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    on_shapes: bool = False
    outputs: int | None = 1
    required: frozenset[str] = frozenset()
    attribute_types: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.domain or 'ai.onnx'}::{self.op_type}-{self.since_version}"


class OperatorRegistry:
    """Operators by (domain, type) and version, and back from their targets.

    A look-up returns the entry with the highest `since_version` not above the model's operator set version.
    """

    def __init__(self) -> None:
        self._by_type: dict[tuple[str, str], dict[int, Operator]] = {}
        self._by_target: dict[Any, Operator] = {}
        self._modules: dict[Any, type[Any]] = {}

    def add(self, operator: Operator) -> None:
        """Registers an operator. Raises ValueError where that version or target is taken."""
        versions = self._by_type.setdefault((operator.domain, operator.op_type), {})
        if operator.since_version in versions:
            raise ValueError(f"{operator} is registered twice")
        versions[operator.since_version] = operator

    def add_target(self, target: Any, operator: Operator) -> None:
        """Registers what implements an operator, for the way back. The newest version of a target wins."""
        known = self._by_target.get(target)
        if known is None or known.since_version < operator.since_version:
            self._by_target[target] = operator

    def add_module(self, target: Any, module: type[Any]) -> None:
        """Registers the `nn.Module` class that holds the state of the operator implemented by `target`."""
        self._modules[target] = module
        self._by_target[module] = self._by_target[target]

    def module_of(self, operator: Operator) -> type[Any] | None:
        """Returns the `nn.Module` class that holds an operator's state, or None for a stateless one."""
        return self._modules.get(operator.target)

    def find(self, domain: str, op_type: str, version: int) -> Operator | None:
        """Returns the operator in force at `version` of the (canonical) domain, or None."""
        versions = self._by_type.get((domain, op_type), {})
        usable = [v for v in versions if v <= version]
        return versions[max(usable)] if usable else None

    def get(self, domain: str, op_type: str, version: int) -> Operator:
        """Like `find`; raises UnsupportedModelError that lists what is registered."""
        operator = self.find(domain, op_type, version)
        if operator is None:
            since = sorted(self._by_type.get((domain, op_type), {}))
            known = f"known since version {since}" if since else "not known in that domain"
            raise UnsupportedModelError(f"{domain or 'ai.onnx'}::{op_type} at version {version}: {known}")
        return operator

    def of_target(self, target: Any) -> Operator | None:
        """Returns the operator that a function or module class implements, or None."""
        try:
            return self._by_target.get(target)
        except TypeError:  # unhashable: certainly not a registered function or class
            return None

    def __iter__(self) -> Iterator[Operator]:
        for versions in self._by_type.values():
            yield from versions.values()


REGISTRY = OperatorRegistry()
"""The operators of qonnx_torch; filled by importing `qonnx_torch.ops` and `qonnx_torch.nn`."""


def is_stray_qonnx(op_type: str) -> bool:
    """Returns whether an operator of the default domain is a QONNX one that an old exporter left there."""
    return not REGISTRY.find("", op_type, _ANY_VERSION) and bool(
        REGISTRY.find(QONNX_DOMAIN, op_type, _ANY_VERSION)
    )


_ANY_VERSION = 1 << 30


def describe(
    target: Callable[..., Any],
    signature: inspect.Signature,
    *,
    domain: str,
    op_type: str,
    since_version: int,
    static: tuple[str, ...] = (),
    numbers: tuple[str, ...] = (),
    on_shapes: bool = False,
    outputs: int | None = 1,
    required: tuple[str, ...] = (),
    python_only: tuple[str, ...] = (),
) -> Operator:
    """Returns the entry that a signature spells: positional inputs, keyword-only attributes."""
    inputs: list[str] = []
    attributes: dict[str, Any] = {}
    types: dict[str, str] = {}
    variadic = False
    for name, parameter in signature.parameters.items():
        if name in python_only:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY:
            attributes[name] = parameter.default
            types[name] = str(parameter.annotation).removesuffix(" | None")
        else:
            inputs.append(name)
            variadic = variadic or parameter.kind is parameter.VAR_POSITIONAL
    return Operator(
        domain=domain,
        op_type=op_type,
        since_version=since_version,
        target=target,
        inputs=tuple(inputs),
        variadic=variadic,
        attributes=attributes,
        static=frozenset(static),
        numbers=frozenset(numbers),
        on_shapes=on_shapes,
        outputs=outputs,
        attribute_types=types,
        required=frozenset(required) | {n for n, d in attributes.items() if d is inspect.Parameter.empty},
    )
