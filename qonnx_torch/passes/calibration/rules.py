"""The scale and zero point of one quantizer that follow from what an observer saw."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn

import qonnx_torch.nn as qnn
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.passes.calibration.observers import (
    MeanObserver,
    MinMaxObserver,
    MovingAverageObserver,
    MSEObserver,
    Observer,
    PercentileObserver,
    RangeObserver,
)

__all__ = [
    "METHODS",
    "NothingSeenError",
    "calibrate_quantizer",
    "can_be_calibrated",
    "make_observer",
    "solution",
]

METHODS: dict[str, type[Observer]] = {
    "max": MinMaxObserver,
    "moving_average": MovingAverageObserver,
    "percentile": PercentileObserver,
    "mse": MSEObserver,
    "lsq": MeanObserver,
}
"""Name of a calibration method -> its observer, whose keywords are the method's options."""


class NothingSeenError(QonnxTorchError):
    """All values are 0: no scale follows from them."""


def calibrate_quantizer(
    quantizer: qnn.Quantizer, values: Tensor, *, method: str = "max", **options: float
) -> None:
    """Sets the scale (and zero point) of one quantizer from one tensor, in place.

    - A uniform quantizer (Quant, QuantizeDequantizeLinear) whose zero point is 0 and not learned is
      symmetric: with [low, high] the range that the method finds, scale = max(-low, high) / -(smallest
      integer) where signed, and high / largest integer where unsigned. Any other is affine: the range is
      extended to hold 0, scale = (high - low) / (largest - smallest integer), zero_point = round(smallest
      integer - low / scale), so that 0 is represented exactly.
    - FloatQuant: scale = max(-low, high) / largest value.
    - BipolarQuant, and a Quant of one signed bit: scale = mean |x|, by every method. It is the scale with the
      smallest squared error (XNOR-Net, Rastegari et al. 2016, arXiv:1603.05279, equation 6).
    - `lsq` on a Quant: scale = 2 mean |x| / sqrt(largest integer), and the zero point stays (Esser et al.
      2019, arXiv:1902.08153, section 2.1).

    What is learned goes on being learned, from the new values on. A channel in which all values are 0 takes
    the largest scale of the others.

    Args:
        quantizer: one that owns all its parameters.
        values: what it is to quantize; of any shape that its scale broadcasts to.
        method: `max`, `moving_average`, `percentile`, `mse` or `lsq`.
        options: `percentage` (99.99) of `percentile`, `momentum` (0.1) of `moving_average`.

    Raises:
        QonnxTorchError: an unknown method or option, a quantizer that cannot be calibrated, or values that
            are empty, not finite, or all 0.
    """
    if not can_be_calibrated(quantizer):
        raise QonnxTorchError(
            f"{type(quantizer).__name__} cannot be calibrated: it must be a Quant, QuantizeDequantizeLinear, "
            "BipolarQuant or FloatQuant that owns all its parameters"
        )
    observer = make_observer(quantizer, method, options)
    observer.observe(quantizer.aligned(values))
    quantizer.set_parameters(**solution(quantizer, observer))


def can_be_calibrated(module: nn.Module) -> TypeGuard[qnn.Quantizer]:
    """Returns whether a module is a quantizer with a scale, and owns all its parameters."""
    return isinstance(module, qnn.Quantizer) and module.owns_scale


def make_observer(quantizer: qnn.Quantizer, method: str, options: Mapping[str, float]) -> Observer:
    """Returns the observer of a method, in the shape of the quantizer's scale.

    Raises:
        QonnxTorchError: an unknown method or option, or a method that does not fit the quantizer.
    """
    if method not in METHODS:
        raise QonnxTorchError(f"calibration method {method!r} does not exist; known: {', '.join(METHODS)}")
    if method == "lsq" and isinstance(quantizer, qnn.FloatQuant):
        raise QonnxTorchError("'lsq' is a rule for integers; calibrate FloatQuant by another method")
    kind = MeanObserver if _is_bipolar(quantizer) else METHODS[method]
    shape = tuple(quantizer.current_tensor("scale").shape)
    known = inspect.signature(METHODS[method]).parameters
    for name in options:
        if name not in known or name == "shape":
            raise QonnxTorchError(f"calibration method {method!r} has no option {name!r}")
    return kind(shape) if _is_bipolar(quantizer) else kind(shape, **options)


def solution(quantizer: qnn.Quantizer, observer: Observer) -> dict[str, Tensor]:
    """Returns the parameters that follow from what was observed."""
    if isinstance(observer, MeanObserver):
        scale = observer.mean()
        if _is_uniform(quantizer) and not _is_bipolar(quantizer):
            scale = 2 * scale / torch.sqrt(_positive_end(quantizer.integer_range()[1]))
        return {"scale": _usable(scale, quantizer)}
    assert isinstance(observer, RangeObserver)
    low, high = observer.range(partial(_squared_error, quantizer))
    return _parameters_of_range(quantizer, low, high)


def _parameters_of_range(quantizer: qnn.Quantizer, low: Tensor, high: Tensor) -> dict[str, Tensor]:
    if _is_uniform(quantizer) and not _is_symmetric(quantizer):
        lowest, highest = quantizer.integer_range()
        low, high = low.clamp_max(0), high.clamp_min(0)
        scale = _usable((high - low) / _positive_end(highest - lowest), quantizer)
        return {"scale": scale, "zero_point": torch.round(lowest - low / scale)}
    one_sided = _is_uniform(quantizer) and bool(quantizer.integer_range()[0] >= 0)
    magnitude = high.clamp_min(0) if one_sided else torch.maximum(low.abs(), high.abs())
    return {"scale": _usable(magnitude / _positive_end(quantizer.threshold()), quantizer)}


def _squared_error(quantizer: qnn.Quantizer, values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    current = quantizer.current_parameters() | _parameters_of_range(quantizer, low, high)
    column = {n: p.reshape(-1, 1) if p.shape == low.shape else p for n, p in current.items()}
    return (quantizer._quantize(values, *(column[n] for n in quantizer.parameter_names)) - values).square()


def _is_bipolar(quantizer: qnn.Quantizer) -> bool:
    if isinstance(quantizer, qnn.Quant):
        return quantizer.signed and bool((quantizer.current_tensor("bit_width") == 1).all())
    return isinstance(quantizer, qnn.BipolarQuant)


def _is_uniform(quantizer: qnn.Quantizer) -> TypeGuard[qnn.Quant | qnn.QuantizeDequantizeLinear]:
    return isinstance(quantizer, (qnn.Quant, qnn.QuantizeDequantizeLinear))


def _is_symmetric(quantizer: qnn.Quant | qnn.QuantizeDequantizeLinear) -> bool:
    zero_point = quantizer.current_tensor("zero_point")
    return not isinstance(zero_point, nn.Parameter) and not bool(zero_point.any())


def _positive_end(end: Tensor) -> Tensor:
    if not bool((end > 0).all()):
        raise QonnxTorchError(f"a range that ends at {end.max().item():g} leaves no scale to find")
    return end.to(torch.float32)


def _usable(scale: Tensor, quantizer: qnn.Quantizer) -> Tensor:
    """Returns scales as the quantizer can hold them; a channel of zeros gets the largest of the others."""
    dtype = quantizer.current_tensor("scale").dtype
    scale = scale.to(dtype).to(torch.float32)
    if not bool(torch.isfinite(scale).all()):
        raise QonnxTorchError(f"the values are too large for a scale of type {dtype}")
    if not bool((scale > 0).any()):
        raise NothingSeenError("all values that it can represent are 0")
    return torch.where(scale > 0, scale, scale.max())
