"""Which overload a QONNX node needs: its name, and the body that belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from onnx import TensorProto, helper

from qonnx_torch.registry import CHANNELS_LAST_DOMAIN, QONNX_DOMAIN, canonical_domain

from . import channels_last, quantizers
from .pieces import FLOAT, Script
from .sites import Site

__all__ = ["Variant", "find_selector", "is_elementwise"]

DType = np.dtype[Any]


@dataclass(frozen=True, slots=True)
class Variant:
    """An overload: its name, and the maker and arguments of its body."""

    overload: str
    maker: Callable[..., Script]
    arguments: tuple[Any, ...]


Selector = Callable[[Site], Variant]


def find_selector(domain: str, op_type: str) -> Selector | None:
    """Returns what chooses an operator's variant, by any name of its domain; None for other operators."""
    return _SELECTORS.get((canonical_domain(domain), op_type))


def is_elementwise(domain: str, op_type: str) -> bool:
    """Returns whether an operator has a function, and an output of the type and shape of its first input."""
    return canonical_domain(domain) == QONNX_DOMAIN and find_selector(domain, op_type) is not None


def _carrier(*types: DType) -> DType:
    """Returns the type, float32 or float64, in which NumPy divides values of these types.

    It raises 2.0 to them in that type, too. Integers alone give float64; half precision is computed in
    float32 (see the package's exceptions).
    """
    promoted = np.result_type(*types)
    return np.dtype(np.float64 if promoted == np.float64 or promoted.kind in "iub" else np.float32)


def _power(width: DType, following: DType) -> DType:
    """Returns the type for 2 ** width: the width's own; for integers, exact in both, that of what follows."""
    return following if width.kind in "iub" else _carrier(width)


def _name(words: tuple[str, ...], steps: Mapping[str, DType], result: int) -> str:
    """Returns the words, which steps are in float64, and a result type other than float32."""
    parts = [word for word in words if word]
    double = [step.upper() for step, carrier in steps.items() if carrier == np.float64]
    if double:
        parts += ["DOUBLE", *(double if len(double) < len(steps) else [])]
    if result != FLOAT:
        parts += ["TO", TensorProto.DataType.Name(result)]
    return "_".join(parts)


def _variant(
    maker: Callable[..., Script],
    site: Site,
    words: tuple[str, ...] = (),
    options: tuple[str | int, ...] = (),
    **steps: DType,
) -> Variant:
    """Returns the variant whose body is `maker(*options, *types of the steps, type of the output)`."""
    result = site.result_type()
    carriers = (helper.np_dtype_to_tensor_dtype(carrier) for carrier in steps.values())
    return Variant(_name(words, steps, result), maker, (*options, *carriers, result))


def _select_quant(site: Site) -> Variant:
    """Returns the variant of Quant and IntQuant."""
    site.need_inputs(4)
    mode, signed = site.mode("ROUND"), site.flag("signed")
    site.flag("narrow")
    x, scale, zeropt, bitwidth = site.types(0, 1, 2, 3)
    quotient = _carrier(x, scale)
    sum_ = _carrier(quotient, zeropt)
    width = _power(bitwidth, sum_)
    bits = site.scope.constant(site.node.input[3])
    if bits is not None and bits.size != 1:
        raise site.error(f"the bit width has shape {bits.shape}, but must hold one value")
    if signed and bits is None:
        words = (mode, "DYNAMIC")
        return _variant(
            quantizers.quant_dynamic, site, words, (mode,), quotient=quotient, sum=sum_, width=width
        )
    if signed and bits is not None and bits.item() == 1:
        return _variant(quantizers.quant_bipolar, site, ("BIPOLAR",), quotient=quotient, sum=sum_)
    return _variant(quantizers.quant, site, (mode,), (mode,), quotient=quotient, sum=sum_, width=width)


def _select_bipolar_quant(site: Site) -> Variant:
    """Returns the variant of BipolarQuant."""
    site.need_inputs(2)
    return _variant(quantizers.bipolar_quant, site)


def _select_trunc(site: Site) -> Variant:
    """Returns the variant of Trunc: version 1 with 5 inputs, 2 with 6, whatever the opset import says."""
    inputs = site.need_inputs(5, 6)
    mode = site.mode("FLOOR")
    x, scale, zeropt, in_bits, fifth = site.types(0, 1, 2, 3, 4)
    quotient = _carrier(x, scale)
    sum_ = _carrier(quotient, zeropt)
    if inputs == 5:
        step = _carrier(in_bits, fifth)
        return _variant(
            quantizers.trunc_v1, site, (mode, "V1"), (mode,), quotient=quotient, sum=sum_, step=step
        )
    site.flag("signed", 1)
    site.flag("narrow", 0)
    step = _carrier(fifth, scale)
    (out_bits,) = site.types(5)
    width = _power(out_bits, _carrier(sum_, step))
    return _variant(
        quantizers.trunc_v2, site, (mode, "V2"), (mode,), quotient=quotient, sum=sum_, step=step, width=width
    )


def _select_float_quant(site: Site) -> Variant:
    """Returns the variant of FloatQuant."""
    site.need_inputs(6)
    mode = site.mode("ROUND")
    has_inf, has_nan, saturates = site.flag("has_inf"), site.flag("has_nan"), site.flag("saturation")
    site.flag("has_subnormal")
    if not (saturates or has_inf or has_nan):
        raise site.error("saturation is 0, but has_inf and has_nan are 0, too: set one, or saturation")
    overflow = "" if saturates else "INF" if has_inf else "NAN"
    x, scale, exponent, mantissa, bias = site.types(0, 1, 2, 3, 4)
    scaled = _carrier(x, scale)
    grid = _carrier(scaled, mantissa, _carrier(bias))
    range_ = _carrier(_carrier(exponent), bias)
    words = (mode, overflow)
    return _variant(quantizers.float_quant, site, words, words, scaled=scaled, grid=grid, range=range_)


def _select_multi_threshold(site: Site) -> Variant:
    """Returns the variant of MultiThreshold."""
    site.need_inputs(2)
    layout = (site.attribute("data_layout") or b"").decode("utf-8", "replace")
    rank = site.rank()
    if rank is None:
        # Without a shape, the layout's letters count the axes.
        rank = len(layout)
    if rank < 2:
        raise site.error(f"input '{site.node.input[0]}' needs a known rank of at least 2 (or a data_layout)")
    # Without a layout, qonnx takes 3-D inputs for NWC and all others for channels first.
    channel = layout.index("C") if "C" in layout else 2 if rank == 3 and not layout else 1
    if channel >= rank:
        raise site.error(f"data_layout '{layout}' names axis {channel}, but the input has rank {rank}")
    trailing = rank - 1 - channel
    words = ("CHANNEL", "LAST" if trailing == 0 else f"BEFORE_{trailing}")
    x, thresholds = site.types(0, 1)
    compared, counted = _carrier(x, thresholds), _carrier(x)
    return _variant(quantizers.multi_threshold, site, words, (trailing,), compared=compared, counted=counted)


def _select_by_rank(maker: Callable[[int], Script], *inputs: int) -> Selector:
    """Returns the selector of a channels-last operator, whose body differs by rank only."""

    def select(site: Site) -> Variant:
        site.need_inputs(*inputs)
        rank = site.rank()
        if rank is None or rank < 3:
            raise site.error(
                f"input '{site.node.input[0]}' needs a known rank of at least 3, but has rank {rank}"
            )
        return Variant(f"RANK_{rank}", maker, (rank,))

    return select


_SELECTORS: Final[Mapping[tuple[str, str], Selector]] = {
    (QONNX_DOMAIN, "Quant"): _select_quant,
    (QONNX_DOMAIN, "IntQuant"): _select_quant,
    (QONNX_DOMAIN, "BipolarQuant"): _select_bipolar_quant,
    (QONNX_DOMAIN, "Trunc"): _select_trunc,
    (QONNX_DOMAIN, "FloatQuant"): _select_float_quant,
    (QONNX_DOMAIN, "MultiThreshold"): _select_multi_threshold,
    (CHANNELS_LAST_DOMAIN, "Conv"): _select_by_rank(channels_last.conv, 2, 3),
    (CHANNELS_LAST_DOMAIN, "MaxPool"): _select_by_rank(channels_last.max_pool, 1),
    (CHANNELS_LAST_DOMAIN, "BatchNormalization"): _select_by_rank(channels_last.batch_normalization, 5),
}
