"""What torch calls -> how they are written with ONNX operators. The other files of this folder fill it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["FUNCTIONS", "METHODS", "lowers"]

Lowering = Callable[..., Any]
F = TypeVar("F", bound=Lowering)

FUNCTIONS: dict[Any, Lowering] = {}
"""A function of torch -> what writes it; its parameters are the function's own, after the emitter."""

METHODS: dict[str, Lowering] = {}
"""The name of a tensor method -> what writes it."""


def lowers(*targets: Any) -> Callable[[F], F]:
    """Registers a function as what writes calls of torch functions (objects) and tensor methods (names).

    Its parameters are the emitter, then those of the torch function, under torch's names. It returns a node,
    a Python value or a tuple of them, and raises NotLoweredError, before writing anything, for arguments that
    ONNX cannot express.
    """

    def register(function: F) -> F:
        for target in dict.fromkeys(targets):  # torch has several names for some
            table: dict[Any, Lowering] = METHODS if isinstance(target, str) else FUNCTIONS
            if target in table:
                raise ValueError(f"{target} is lowered twice")
            table[target] = function
        return function

    return register
