"""Dynamic dimensions as inputs declare them: symbols, and integer expressions of symbols."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping

__all__ = ["Dimensions"]

_LONGEST = 200  # characters of an expression
_MOST_CANDIDATES = 1 << 14  # sizes of a symbol that only an expression tells
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


class Dimensions:
    """The dynamic dimensions of a graph's inputs, by the names that the file gives them.

    Case 1: a name is an integer expression of + - * // ( ) over symbols ("s0 + 1", "batch//2"), one of which
    is a dimension itself or stands beside a number: its size follows from theirs.
    Case 2: any other name is a symbol ("N", "batch-size", "floor(N/2)").

    Args:
        names: of the dimensions; a name that comes again is the same dimension.
        evaluate: False takes every name for a symbol.

    Attributes:
        symbols: what sizes are to be chosen for.
        names: all that have a size: the symbols, then the expressions.
    """

    def __init__(self, names: Iterable[str], *, evaluate: bool = True) -> None:
        unique = list(dict.fromkeys(names))
        parsed = {name: _parsed(name) if evaluate else None for name in unique}
        own = {name for name, tree in parsed.items() if tree is None}
        self.expressions: dict[str, ast.expr] = {}
        symbols: dict[str, None] = {}
        for name, tree in parsed.items():
            if tree is not None and (_has_number(tree) or own & _symbols(tree)):
                self.expressions[name] = tree
                symbols |= dict.fromkeys(sorted(_symbols(tree)))
            else:
                symbols[name] = None
        self.symbols = tuple(sorted(symbols, key=lambda s: s not in own))
        self.names = (*self.symbols, *(name for name in self.expressions if name not in symbols))

    def sizes(self, assignment: Mapping[str, int]) -> dict[str, int] | None:
        """Returns the size of every name, or None where one would not be positive."""
        sizes = {symbol: assignment[symbol] for symbol in self.symbols}
        try:
            sizes |= {name: _evaluate(tree, assignment) for name, tree in self.expressions.items()}
        except ZeroDivisionError:
            return None
        return sizes if all(size > 0 for size in sizes.values()) else None

    def assignment(self, sizes: Mapping[str, int]) -> dict[str, int] | None:
        """Returns the sizes of the symbols behind those of all names, or None where there are none."""
        found = {symbol: sizes[symbol] for symbol in self.symbols if symbol in sizes}
        for name, tree in self.expressions.items():
            missing = _symbols(tree) - found.keys()
            if len(missing) == 1:
                (symbol,) = missing
                candidates = ({**found, symbol: size} for size in range(1, _MOST_CANDIDATES))
                found = next((c for c in candidates if _gives(tree, c, sizes[name])), found)
        if set(found) != set(self.symbols):
            return None
        given = self.sizes(found)
        return found if given is not None and given.items() >= sizes.items() else None


def _gives(tree: ast.expr, sizes: Mapping[str, int], size: int) -> bool:
    try:
        return _evaluate(tree, sizes) == size
    except ZeroDivisionError:
        return False


def _parsed(name: str) -> ast.expr | None:
    """Returns the expression that a name is, or None for a mere name and what is not an expression."""
    if len(name) > _LONGEST:
        return None
    try:
        tree = ast.parse(name.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return None if isinstance(tree, ast.Name) or not _symbols(tree) or not _is_integer(tree) else tree


def _is_integer(tree: ast.expr) -> bool:
    if isinstance(tree, ast.BinOp):
        return type(tree.op) in _OPERATORS and _is_integer(tree.left) and _is_integer(tree.right)
    if isinstance(tree, ast.UnaryOp):
        return isinstance(tree.op, ast.USub) and _is_integer(tree.operand)
    return isinstance(tree, ast.Name) or (isinstance(tree, ast.Constant) and type(tree.value) is int)


def _symbols(tree: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _has_number(tree: ast.expr) -> bool:
    return any(isinstance(node, ast.Constant) for node in ast.walk(tree))


def _evaluate(tree: ast.expr, sizes: Mapping[str, int]) -> int:
    match tree:
        case ast.BinOp(left, op, right):
            return _OPERATORS[type(op)](_evaluate(left, sizes), _evaluate(right, sizes))
        case ast.UnaryOp(_, operand):
            return -_evaluate(operand, sizes)
        case ast.Constant(int(number)):
            return number
        case ast.Name(symbol):
            return sizes[symbol]
    raise TypeError(f"{ast.dump(tree)} is no integer expression")
