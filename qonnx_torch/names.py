"""ONNX names as module paths: reversible, and never able to smuggle code into a generated forward()."""

from __future__ import annotations

import itertools
import keyword
import re
from collections.abc import Container, Iterable
from urllib.parse import quote, unquote

from torch import fx, nn

__all__ = ["Names", "identifier", "onnx_name", "parameter_paths"]

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


class Names(set[str]):
    """Names that are given away; a new one is counted on from the last like it, as many nodes may have one.

    >>> names = Names(["a"])
    >>> names.fresh("a"), names.fresh("a"), names.fresh("b")
    ('a_1', 'a_2', 'b')
    """

    def __init__(self, given: Iterable[str] = ()) -> None:
        super().__init__(given)
        self._counts: dict[str, int] = {}

    def fresh(self, wanted: str, reserved: Container[str] = ()) -> str:
        """Returns the first of wanted, wanted_1, wanted_2, ... that is free, and adds it."""
        name, count = wanted, self._counts.get(wanted, 0)
        while name in self or name in reserved:
            count += 1
            name = f"{wanted}_{count}"
        self._counts[wanted] = count
        self.add(name)
        return name


def identifier(text: str, taken: Names, fallback: str) -> str:
    """Returns a new Python identifier made from an ONNX name, and adds it to `taken`."""
    base = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or fallback
    if base[0].isdigit():
        base = f"{fallback}_{base}"
    return taken.fresh(base, _RESERVED)
