"""The quantizers as `torch.library` operators in the namespace `qonnx_torch`.

Each has a CompositeImplicitAutograd implementation in plain torch operations: one node under `torch.export`
and symbolic tracing, fused by `torch.compile`, differentiable, and usable under `torch.func`.

The forward value is bit for bit that of qonnx 1.0.0, which computes in NumPy: the arithmetic follows NumPy's
type promotion (a float64 scale, or an int64 zero point, makes float64 arithmetic), divides truly, clamps,
then rounds. The result is float32, or has the dtype of x where x and scale share another floating dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qonnx_torch.ops.quantizers.bipolar import bipolar_quant
from qonnx_torch.ops.quantizers.blocks import plain_cpu
from qonnx_torch.ops.quantizers.compilation import tag_compile_caches
from qonnx_torch.ops.quantizers.minifloat import float_quant
from qonnx_torch.ops.quantizers.numerics import integer_bounds
from qonnx_torch.ops.quantizers.rounding import straight_through
from qonnx_torch.ops.quantizers.truncation import trunc, trunc_v1
from qonnx_torch.ops.quantizers.uniform import uniform_quant
from qonnx_torch.ops.quantizers.uniform_onnx import quantize_dequantize_linear

__all__ = ["IMPLEMENTATIONS", "TensorLike", "implementation", "integer_bounds", "parameter"]

TensorLike = Tensor | float | int


def _multi_threshold(
    x: Tensor, thresholds: Tensor, *, out_scale: float, out_bias: float, channel_axis: int
) -> Tensor:
    table = thresholds.reshape((*thresholds.shape[:-1], *[1] * (x.dim() - 1 - channel_axis), -1))
    count = (x.detach().unsqueeze(-1) >= table).sum(-1).to(x.dtype)
    first, last = table[..., 0], table[..., -1]
    steps = thresholds.shape[-1] - 1
    # Straight-through: the staircase is replaced by the line from its first to its last step.
    slope = torch.where(last > first, steps / (last - first), 1.0)
    line = torch.clamp(x, first, last) if steps else torch.clamp(x, first - 1, last + 1)
    return out_scale * straight_through(line * slope, count) + out_bias


_UNIFORM = "bool signed, bool narrow, str rounding_mode"
_SCHEMAS: dict[str, Callable[..., Tensor]] = {
    f"quant(Tensor x, Tensor scale, Tensor zero_point, Tensor bit_width, *, {_UNIFORM}, "
    "bool? one_bit, str gradient='ste', SymInt? elements=None) -> Tensor": uniform_quant,
    "quantize_dequantize_linear(Tensor x, Tensor scale, Tensor zero_point, *, int low, int high, "
    "str gradient='ste', SymInt? elements=None) -> Tensor": quantize_dequantize_linear,
    "bipolar_quant(Tensor x, Tensor scale, *, str gradient='pass') -> Tensor": bipolar_quant,
    "trunc(Tensor x, Tensor scale, Tensor zero_point, Tensor input_bit_width, Tensor output_scale, "
    f"Tensor output_bit_width, *, {_UNIFORM}, str gradient='ste') -> Tensor": trunc,
    "trunc_v1(Tensor x, Tensor scale, Tensor zero_point, Tensor input_bit_width, "
    "Tensor output_bit_width, *, str rounding_mode) -> Tensor": trunc_v1,
    "float_quant(Tensor x, Tensor scale, Tensor exponent_bit_width, Tensor mantissa_bit_width, "
    "Tensor exponent_bias, Tensor max_val, *, bool has_inf, bool has_nan, bool saturation, "
    "str rounding_mode, str gradient='ste') -> Tensor": float_quant,
    "multi_threshold(Tensor x, Tensor thresholds, *, float out_scale, float out_bias, "
    "int channel_axis) -> Tensor": _multi_threshold,
}

_LIBRARY = torch.library.Library("qonnx_torch", "DEF")

IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {}
"""Name of an operator -> what it consists of."""

for _schema, _implementation in _SCHEMAS.items():
    _name = _schema.partition("(")[0]
    IMPLEMENTATIONS[_name] = _implementation
    _LIBRARY.define(_schema)
    _LIBRARY.impl(_name, _implementation, "CompositeImplicitAutograd")
    # Under vmap too the operator is its parts; without this, vmap loops over the samples and warns.
    _LIBRARY.impl(_name, _implementation, "FuncTorchBatchedDecomposition")

tag_compile_caches()


def implementation(name: str, x: Tensor) -> Callable[..., Tensor]:
    """Returns an operator, or what it consists of where nothing looks on: torch need not dispatch it then."""
    found: Callable[..., Tensor] = (
        IMPLEMENTATIONS[name] if plain_cpu(x) else getattr(torch.ops.qonnx_torch, name)
    )
    return found


def parameter(value: TensorLike, x: Tensor) -> Tensor:
    """Returns a quantizer parameter as a tensor on x's device; a Python number becomes 0-d float32."""
    return value if isinstance(value, Tensor) else torch.tensor(float(value), device=x.device)
