"""ONNX names as module paths: reversible, and never able to smuggle code into a generated forward()."""

from __future__ import annotations

import itertools
import keyword
import re
from collections.abc import Container, Iterable
from urllib.parse import quote, unquote

from torch import fx, nn

__all__ = ["Identifiers", "free_name", "identifier", "onnx_name", "parameter_paths"]

# Attributes of a GraphModule (and the one that `provenance` adds), and words that generated code cannot use.
_RESERVED = frozenset([*dir(fx.GraphModule(nn.Module(), fx.Graph())), "provenance", "self", *keyword.kwlist])

_DEEPEST = 64  # modules within modules; torch walks them by recursion


def parameter_paths(names: Iterable[str]) -> dict[str, str]:
    """Returns the `state_dict` key of each initializer name: the name itself wherever that is a legal path.

    Other characters than letters, digits and `_ : / -` are percent-encoded; so is a first letter where the
    element is a Python keyword or would hide a method of the module, and a dot where it cannot separate
    modules (`a` and `a.b` both being tensors, an empty element, or more than 64 elements). `onnx_name` is the
    inverse.

    >>> parameter_paths(["conv.weight", "a b", "forward"])
    {'conv.weight': 'conv.weight', 'a b': 'a%20b', 'forward': '%66orward'}
    """
    names = list(names)
    taken = set(names)
    paths = {}
    for name in names:
        elements = name.split(".", _DEEPEST)
        if len(elements) > _DEEPEST or "" in elements:
            elements = [name]
        prefixes = itertools.accumulate(elements[:-1], "{}.{}".format)
        if not taken.isdisjoint(prefixes):
            elements = [name]
        paths[name] = ".".join(_element(e) for e in elements)
    return paths


def _element(text: str) -> str:
    escaped = quote(text, safe=":/-").replace(".", "%2E").replace("~", "%7E")
    if escaped in _RESERVED:
        escaped = f"%{ord(escaped[0]):02X}{escaped[1:]}"
    return escaped


def onnx_name(path: str) -> str:
    """Returns the initializer name behind a `state_dict` key.

    >>> onnx_name("a%20b"), onnx_name("%66orward")
    ('a b', 'forward')
    """
    return unquote(path)


class Identifiers(set[str]):
    """Names that are given away, and how far each has been counted (many nodes may have one name)."""

    def __init__(self, given: Iterable[str] = ()) -> None:
        super().__init__(given)
        self.counts: dict[str, int] = {}


def identifier(text: str, taken: set[str], fallback: str) -> str:
    """Returns a new Python identifier made from an ONNX name, and adds it to `taken`."""
    base = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or fallback
    if base[0].isdigit():
        base = f"{fallback}_{base}"
    return free_name(base, taken, _RESERVED)


def free_name(wanted: str, taken: set[str], reserved: Container[str] = ()) -> str:
    """Returns the first of wanted, wanted_1, wanted_2, ... that is free, and adds it to `taken`.

    >>> taken = Identifiers(["a"])
    >>> free_name("a", taken), free_name("a", taken), free_name("b", taken)
    ('a_1', 'a_2', 'b')
    """
    counts = taken.counts if isinstance(taken, Identifiers) else {}
    name, count = wanted, counts.get(wanted, 0)
    while name in taken or name in reserved:
        count += 1
        name = f"{wanted}_{count}"
    counts[wanted] = count
    taken.add(name)
    return name
