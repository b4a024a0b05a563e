"""The operator registry: which function or module implements which ONNX operator, in both directions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, get_args

from qonnx_torch.errors import UnsupportedModelError

__all__ = [
    "CHANNELS_LAST_DOMAIN",
    "DOMAIN_ALIASES",
    "PROJECT_DOMAIN",
    "QONNX_DOMAIN",
    "REGISTRY",
    "Operator",
    "OperatorRegistry",
    "canonical_domain",
    "describe",
    "is_stray_qonnx",
    "spelled_type",
]

QONNX_DOMAIN = "qonnx.custom_op.general"
CHANNELS_LAST_DOMAIN = "qonnx.custom_op.channels_last"
PROJECT_DOMAIN = "qonnx_torch"
"""Of operators that stand in imported graphs for several nodes of a file, and that no file contains."""

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
        needed_inputs: how many of the inputs cannot be left out.
        attributes: attribute name -> default (`inspect.Parameter.empty` where required).
        static: inputs that the target takes as Python numbers (a Reshape's shape, a Slice's starts).
        numbers: inputs that are Python numbers where they are constant 0-d tensors (a Clip's bounds): they
            are part of what the operator does, and nothing to be trained.
        sequences: inputs that are Python lists of tensors (or None) rather than tensors.
        on_shapes: also computes on Python ints, so it may stand in a Shape chain.
        gives_numbers: the result is Python numbers, also of tensors (Shape, Size).
        outputs: number of outputs that are always there; None where it depends on the node (Split).
        counts_outputs: the target takes the number of outputs that a node asks for (MaxPool's Indices).
        python_only: keyword parameters of the target that are no ONNX attributes. The importer gives `like`
            (a tensor on whose device the result is made) and `as_numbers` (it stands in a Shape chain).
        required: attributes that a node must have, also where the function has a default.
        subgraphs: attributes that are graphs (the branches of an If); the target takes callables.
        attribute_types: attribute name -> its Python type as the signature spells it.
        macs: multiply-accumulates of a call, of (result, *inputs, **attributes); None where others say.
    """

    domain: str
    op_type: str
    since_version: int
    target: Any
    inputs: tuple[str, ...]
    variadic: bool
    needed_inputs: int
    attributes: dict[str, Any]
    static: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    sequences: frozenset[str] = frozenset()
    on_shapes: bool = False
    gives_numbers: bool = False
    outputs: int | None = 1
    counts_outputs: bool = False
    python_only: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    subgraphs: frozenset[str] = frozenset()
    attribute_types: dict[str, str] = field(default_factory=dict)
    macs: Callable[..., float] | None = None

    def attributes_of(self, module: Any) -> dict[str, Any]:
        """Returns the attributes of a module that implements this operator."""
        if hasattr(module, "onnx_attributes"):
            return dict(module.onnx_attributes())
        for name in self.attributes:
            if not hasattr(module, name):
                raise TypeError(
                    f"{self}: {type(module).__name__} must keep its argument {name!r} as self.{name}, so "
                    "that an export can write the attribute"
                )
        return {name: getattr(module, name) for name in self.attributes}

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
            known = versions[operator.since_version].target
            raise ValueError(
                f"{operator} is implemented by {known.__module__}.{known.__qualname__} already; register "
                "another version or domain"
            )
        versions[operator.since_version] = operator

    def add_target(self, target: Any, operator: Operator) -> None:
        """Registers what implements an operator, for the way back. The newest version of a target wins."""
        known = self._by_target.get(target)
        if known is None or known.since_version < operator.since_version:
            self._by_target[target] = operator

    def forget(self, domain: str, op_type: str, version: int, target: Any) -> None:
        """Removes an entry whose target has the same module and name: it is being defined again.

        Modules that were imported before keep the old target, which still is known as that operator's.
        """
        versions = self._by_type.get((domain, op_type), {})
        known = versions.get(version)
        if known is not None and _qualified(known.target) == _qualified(target):
            del versions[version]

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


def _qualified(target: Any) -> tuple[str, str]:
    return target.__module__, target.__qualname__


REGISTRY = OperatorRegistry()
"""The operators of qonnx_torch; filled by importing `qonnx_torch.ops` and `qonnx_torch.nn`."""


def is_stray_qonnx(op_type: str) -> bool:
    """Returns whether an operator of the default domain is a QONNX one that an old exporter left there."""
    return not REGISTRY.find("", op_type, _ANY_VERSION) and bool(
        REGISTRY.find(QONNX_DOMAIN, op_type, _ANY_VERSION)
    )


_ANY_VERSION = 1 << 30


def spelled_type(parameter: inspect.Parameter) -> str:
    """Returns an attribute's type as built-in operators spell it: `int`, `Sequence[float]`, ..."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        default = parameter.default
        several = isinstance(default, (tuple, list)) and bool(default)
        return f"Sequence[{type(default[0]).__name__}]" if several else type(default).__name__
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    text = str(annotation).removesuffix(" | None").replace("typing.", "").replace("collections.abc.", "")
    text = re.sub(r"^Optional\[(.*)\]$", r"\1", text)
    found = re.fullmatch(r"(?:list|tuple|List|Tuple|Sequence)\[(int|float|str)(?:, \.\.\.)?\]", text)
    return f"Sequence[{found.group(1)}]" if found else text


def describe(
    target: Callable[..., Any],
    signature: inspect.Signature,
    *,
    domain: str,
    op_type: str,
    since_version: int,
    static: tuple[str, ...] = (),
    numbers: tuple[str, ...] = (),
    sequences: tuple[str, ...] = (),
    on_shapes: bool = False,
    gives_numbers: bool = False,
    outputs: int | None = 1,
    required: tuple[str, ...] = (),
    python_only: tuple[str, ...] = (),
    macs: Callable[..., float] | None = None,
) -> Operator:
    """Returns the entry that a signature spells: positional inputs, keyword-only attributes."""
    inputs: list[str] = []
    attributes: dict[str, Any] = {}
    types: dict[str, str] = {}
    variadic = False
    needed = 0
    for name, parameter in signature.parameters.items():
        if name in python_only:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY:
            attributes[name] = parameter.default
            types[name] = spelled_type(parameter)
        else:
            inputs.append(name)
            variadic = variadic or parameter.kind is parameter.VAR_POSITIONAL
            needed += parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
    return Operator(
        domain=domain,
        op_type=op_type,
        since_version=since_version,
        target=target,
        inputs=tuple(inputs),
        variadic=variadic,
        needed_inputs=needed,
        attributes=attributes,
        static=frozenset(static),
        numbers=frozenset(numbers),
        sequences=frozenset(sequences),
        on_shapes=on_shapes,
        gives_numbers=gives_numbers,
        outputs=outputs,
        counts_outputs="outputs" in python_only,
        python_only=frozenset(python_only),
        attribute_types=types,
        macs=macs,
        subgraphs=frozenset(name for name, kind in types.items() if "Callable" in kind),
        required=frozenset(required) | {n for n, d in attributes.items() if d is inspect.Parameter.empty},
    )
