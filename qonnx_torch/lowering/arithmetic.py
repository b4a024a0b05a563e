"""Arithmetic, comparisons, matrix products and reductions as ONNX operators."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from qonnx_torch.dtypes import onnx_element_type
from qonnx_torch.lowering.emitter import Emitter, NotLoweredError
from qonnx_torch.lowering.table import lowers
from qonnx_torch.ops.standard import (
    casting,
    comparison,
    cumulative,
    elementwise,
    linear,
    reduction,
    selection,
    trigonometry,
)

__all__ = ["add", "convert"]


def convert(g: Emitter, value: Any, dtype: torch.dtype) -> Any:
    """Returns a value in a dtype: through Cast where it is a tensor or a size, else as a number."""
    if not isinstance(value, fx.Node) and dtype is torch.float64:
        return g.constant(torch.tensor(value, dtype=dtype))  # a number beside a tensor becomes a float32
    if not isinstance(value, fx.Node):
        return float(value) if dtype.is_floating_point else bool(value) if dtype is torch.bool else value
    if g.is_tensor(value) and g.dtype(value) is dtype:
        return value
    return g.call(casting.cast, value, to=onnx_element_type(dtype))


def _operands(g: Emitter, a: Any, b: Any, *, floating: bool = False) -> tuple[Any, Any]:
    """Returns operands of one dtype, as torch promotes them; ONNX converts nothing by itself."""
    tensors = [v for v in (a, b) if g.is_tensor(v)]
    if not tensors:
        return a, b
    dtype = torch.result_type(*(g.known(v)[0] for v in (a, b)))
    dtype = torch.get_default_dtype() if floating and not dtype.is_floating_point else dtype
    return convert(g, a, dtype), convert(g, b, dtype)


@lowers(torch.add, operator.add, operator.iadd, "add", "add_")
def add(g: Emitter, input: Any, other: Any, *, alpha: float = 1) -> Any:
    """Writes Add, after a Mul where there is an alpha."""
    return _scaled(g, elementwise.add, input, other, alpha)


@lowers(torch.sub, operator.sub, operator.isub, "sub", "sub_")
def sub(g: Emitter, input: Any, other: Any, *, alpha: float = 1) -> Any:
    """Writes Sub, after a Mul where there is an alpha."""
    return _scaled(g, elementwise.sub, input, other, alpha)


def _scaled(g: Emitter, function: Callable[..., Any], a: Any, b: Any, alpha: float) -> Any:
    b = b if alpha == 1 else mul(g, b, alpha)
    return g.call(function, *_operands(g, a, b))


@lowers(torch.mul, operator.mul, operator.imul, "mul", "mul_", torch.multiply)
def mul(g: Emitter, input: Any, other: Any) -> Any:
    """Writes Mul."""
    return g.call(elementwise.mul, *_operands(g, input, other))


@lowers(torch.div, operator.truediv, operator.itruediv, "div", "div_", torch.true_divide)
def div(g: Emitter, input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """Writes Div of floating numbers, which integers become."""
    if rounding_mode is not None:
        raise NotLoweredError(f"Div has no rounding_mode {rounding_mode!r}")
    if not (g.is_tensor(input) or g.is_tensor(other)):
        raise NotLoweredError("a quotient of sizes is no size")
    return g.call(elementwise.div, *_operands(g, input, other, floating=True))


@lowers(operator.floordiv)
def floordiv(g: Emitter, input: Any, other: Any) -> Any:
    """Writes Div of sizes, which are positive."""
    if g.is_tensor(input) or g.is_tensor(other):
        raise NotLoweredError("// of tensors rounds down, Div does not")
    return g.call(elementwise.div, input, other)


@lowers(operator.mod, torch.remainder, "remainder")
def mod(g: Emitter, input: Any, other: Any) -> Any:
    """Writes Mod of integers, with the sign of the divisor."""
    a, b = _operands(g, input, other)
    if g.is_tensor(a) and g.dtype(a).is_floating_point:
        raise NotLoweredError("Mod of floating numbers has the sign of the dividend")
    return g.call(elementwise.mod, a, b)


@lowers(torch.pow, operator.pow, operator.ipow, "pow", "pow_")
def pow(g: Emitter, input: Any, exponent: Any) -> Any:
    """Writes Pow."""
    if not g.is_tensor(input):
        raise NotLoweredError("Pow is written only of a tensor")
    return g.call(elementwise.pow, *_operands(g, input, exponent))


def _binary(function: Callable[..., Any]) -> Callable[..., Any]:
    def write(g: Emitter, input: Any, other: Any) -> Any:
        return g.call(function, *_operands(g, input, other))

    return write


lowers(torch.eq, operator.eq, "eq")(_binary(comparison.equal))
lowers(torch.gt, operator.gt, "gt")(_binary(comparison.greater))
lowers(torch.ge, operator.ge, "ge")(_binary(comparison.greater_or_equal))
lowers(torch.lt, operator.lt, "lt")(_binary(comparison.less))
lowers(torch.le, operator.le, "le")(_binary(comparison.less_or_equal))
lowers(torch.maximum, "maximum")(_binary(elementwise.max))
lowers(torch.minimum, "minimum")(_binary(elementwise.min))
lowers(torch.logical_and, "logical_and")(_binary(comparison.logical_and))
lowers(torch.logical_or, "logical_or")(_binary(comparison.logical_or))


def _unary(function: Callable[..., Any]) -> Callable[..., Any]:
    def write(g: Emitter, input: Any) -> Any:
        return g.call(function, input)

    return write


for _function, *_targets in (
    (elementwise.neg, torch.neg, operator.neg, "neg", "neg_"),
    (elementwise.abs, torch.abs, operator.abs, "abs", "abs_"),
    (elementwise.exp, torch.exp, "exp"),
    (elementwise.log, torch.log, "log"),
    (elementwise.sqrt, torch.sqrt, "sqrt"),
    (elementwise.reciprocal, torch.reciprocal, "reciprocal"),
    (elementwise.erf, torch.erf, "erf"),
    (trigonometry.sin, torch.sin, "sin"),
    (trigonometry.cos, torch.cos, "cos"),
    (elementwise.floor, torch.floor, "floor"),
    (elementwise.ceil, torch.ceil, "ceil"),
    (elementwise.round, torch.round, "round"),
    (elementwise.sign, torch.sign, "sign"),
    (comparison.is_nan, torch.isnan, "isnan"),
    (comparison.logical_not, torch.logical_not, "logical_not"),
):
    lowers(*_targets)(_unary(_function))


@lowers(torch.square, "square")
def square(g: Emitter, input: fx.Node) -> Any:
    """Writes x * x."""
    return g.call(elementwise.mul, input, input)


@lowers(torch.rsqrt, "rsqrt")
def rsqrt(g: Emitter, input: fx.Node) -> Any:
    """Writes the reciprocal of Sqrt."""
    return g.call(elementwise.reciprocal, g.call(elementwise.sqrt, input))


@lowers(operator.invert)
def invert(g: Emitter, input: fx.Node) -> Any:
    """Writes Not of a mask."""
    if g.dtype(input) is not torch.bool:
        raise NotLoweredError("~ is written only of masks")
    return g.call(comparison.logical_not, input)


def _mask(function: Callable[..., Any]) -> Callable[..., Any]:
    def write(g: Emitter, input: Any, other: Any) -> Any:
        if not all(g.is_tensor(v) and g.dtype(v) is torch.bool for v in (input, other)):
            raise NotLoweredError("it is written only of masks")
        return g.call(function, input, other)

    return write


lowers(operator.and_, operator.iand)(_mask(comparison.logical_and))
lowers(operator.or_, operator.ior)(_mask(comparison.logical_or))
lowers(operator.xor, operator.ixor)(_mask(comparison.logical_xor))


@lowers(torch.where)
def where(g: Emitter, condition: fx.Node, input: Any, other: Any) -> Any:
    """Writes Where."""
    return g.call(comparison.where, condition, *_operands(g, input, other))


@lowers(torch.masked_fill, "masked_fill", "masked_fill_")
def masked_fill(g: Emitter, input: fx.Node, mask: fx.Node, value: Any) -> Any:
    """Writes Where with the value where the mask is."""
    return g.call(comparison.where, mask, convert(g, value, g.dtype(input)), input)


@lowers("to", "type")
def to(g: Emitter, input: fx.Node, dtype: Any = None, *rest: Any, **keywords: Any) -> Any:
    """Writes Cast."""
    if rest or keywords or not isinstance(dtype, torch.dtype):
        raise NotLoweredError("only a dtype can be changed in ONNX")
    return convert(g, input, dtype)


for _name, _dtype in (("float", torch.float32), ("half", torch.float16), ("double", torch.float64)):
    lowers(_name)(lambda g, input, _dtype=_dtype: convert(g, input, _dtype))
for _name, _dtype in (("int", torch.int32), ("long", torch.int64), ("bool", torch.bool)):
    lowers(_name)(lambda g, input, _dtype=_dtype: convert(g, input, _dtype))


@lowers("type_as")
def type_as(g: Emitter, input: fx.Node, other: fx.Node) -> Any:
    """Writes Cast."""
    return convert(g, input, g.dtype(other))


@lowers(torch.matmul, torch.mm, torch.bmm, torch.mv, torch.dot, torch.vdot, operator.matmul)
@lowers("matmul", "mm", "bmm", "mv", "dot", "vdot")
def matmul(g: Emitter, input: fx.Node, other: fx.Node) -> Any:
    """Writes MatMul."""
    return g.call(linear.mat_mul, input, other)


@lowers(torch.einsum)
def einsum(g: Emitter, equation: str, *operands: Any) -> Any:
    """Writes Einsum."""
    tensors = operands[0] if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    return g.call(linear.einsum, *tensors, equation=equation)


# -- reductions ------------------------------------------------------------------------------------

Dims = int | Sequence[int] | None


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    def write(
        g: Emitter, input: fx.Node, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None
    ) -> Any:
        if dtype not in (None, g.dtype(input)):
            raise NotLoweredError("a reduction keeps its dtype in ONNX")
        axes = None if dim is None or dim == () else (dim,) if isinstance(dim, int) else tuple(dim)
        given = () if axes is None else (axes,)
        return g.call(function, input, *given, keepdims=int(keepdim))

    return write


lowers(torch.mean, "mean")(_reduction(reduction.reduce_mean))
lowers(torch.sum, "sum")(_reduction(reduction.reduce_sum))
lowers(torch.amax, "amax")(_reduction(reduction.reduce_max))
lowers(torch.amin, "amin")(_reduction(reduction.reduce_min))
lowers(torch.prod, "prod")(_reduction(reduction.reduce_prod))


def _extreme(function: Callable[..., Any], pairwise: Callable[..., Any]) -> Callable[..., Any]:
    def write(
        g: Emitter, input: fx.Node, dim: Any = None, keepdim: bool = False, *, other: Any = None
    ) -> Any:
        other = dim if g.is_tensor(dim) else other
        if other is not None:
            return g.call(pairwise, *_operands(g, input, other))
        if dim is not None:
            raise NotLoweredError("with a dim it also gives indices; take amax or amin")
        return g.call(function, input, keepdims=0)

    return write


lowers(torch.max, "max")(_extreme(reduction.reduce_max, elementwise.max))
lowers(torch.min, "min")(_extreme(reduction.reduce_min, elementwise.min))


def _arg(function: Callable[..., Any]) -> Callable[..., Any]:
    def write(g: Emitter, input: fx.Node, dim: int | None = None, keepdim: bool = False) -> Any:
        if dim is None:
            raise NotLoweredError("it is written only with a dim")
        return g.call(function, input, axis=dim, keepdims=int(keepdim))

    return write


lowers(torch.argmax, "argmax")(_arg(selection.arg_max))
lowers(torch.argmin, "argmin")(_arg(selection.arg_min))


@lowers(torch.cumsum, "cumsum")
def cumsum(g: Emitter, input: fx.Node, dim: int) -> Any:
    """Writes CumSum."""
    return g.call(cumulative.cum_sum, input, dim)
