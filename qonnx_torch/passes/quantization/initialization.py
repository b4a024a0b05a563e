"""Quantizers as a configuration asks for them: made, given their first scale, and set to train."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, fx

import qonnx_torch.nn as qnn
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.passes.calibration import calibrate_quantizer, make_observer, observe, solution
from qonnx_torch.passes.calibration.observers import Observer
from qonnx_torch.passes.calibration.rules import NothingSeenError
from qonnx_torch.passes.quantization.config import AnyQuantizerConfig, FloatQuantizerConfig, QuantizerConfig
from qonnx_torch.passes.training import QuantizerTraining, configure_quantizer

__all__ = ["Role", "calibrate_activations", "initialize", "make_quantizer", "train"]

Role = Literal["weight", "activation"]
Pending = Mapping[str, tuple[qnn.Quantizer, AnyQuantizerConfig]]

_UNSET = 1.0  # every scale that is not given is found before anyone sees the module


def make_quantizer(
    config: AnyQuantizerConfig,
    role: Role,
    *,
    signed: bool,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
) -> qnn.Quantizer:
    """Returns a quantizer with the scale of its configuration, or one yet to be found.

    Args:
        config: what it should be.
        role: `weight` for what depends on no input.
        signed: whether values may be negative, for a configuration that leaves it open.
        shape: of the scale, () for one per tensor.
        dtype: of the scale: that of the values, which they keep then. The other parameters stay float32.

    Raises:
        QonnxTorchError: scales that do not fit the channels.
    """
    scale = _scale(config, shape).to(dtype)
    if isinstance(config, FloatQuantizerConfig):
        exponent, mantissa = config.exponent_bit_width, config.mantissa_bit_width
        mode = config.rounding_mode
        return qnn.FloatQuant(scale, exponent, mantissa, config.bias, config.largest, rounding_mode=mode)
    asymmetric = config.zero_point == "asymmetric"
    signed = config.signed if config.signed is not None else signed and not asymmetric
    if config.bit_width == 1 and signed:
        return qnn.BipolarQuant(scale)
    symmetric = config.zero_point in ("symmetric", 0)
    narrow = config.narrow if config.narrow is not None else role == "weight" and signed and symmetric
    # A zero point that is not 0 tells the calibration that the range need not be symmetric.
    zero_point = _UNSET if asymmetric else 0.0 if symmetric else float(config.zero_point)
    return qnn.Quant(
        scale,
        torch.full(tuple(shape), zero_point) if asymmetric else zero_point,
        config.bit_width,
        signed=signed,
        narrow=narrow,
        rounding_mode=config.rounding_mode,
        batched=role == "activation",
    )


def _scale(config: AnyQuantizerConfig, shape: Sequence[int]) -> Tensor:
    given = config.scale
    if isinstance(given, tuple):
        channels = torch.Size(shape).numel()
        if len(given) != channels:
            raise QonnxTorchError(f"{len(given)} scales were given for {channels} channels")
        return torch.tensor(given, dtype=torch.float64).reshape(tuple(shape))
    return torch.full(tuple(shape), _UNSET if isinstance(given, str) else given, dtype=torch.float64)


def initialize(name: str, quantizer: qnn.Quantizer, config: AnyQuantizerConfig, values: Tensor) -> None:
    """Finds the scale of a weight's quantizer on the weight, where it is not given."""
    if not isinstance(config.scale, str):
        return
    with _named(name):
        observer = make_observer(quantizer, config.scale, config.options)
        observer.observe(values)
    _set(name, quantizer, config, observer)


def calibrate_activations(
    module: fx.GraphModule, pending: Pending, data: Iterable[Any] | None, *, progress: bool
) -> None:
    """Finds the scales of quantizers on data that run through a module with float activations.

    Args:
        module: the module with its quantizers.
        pending: name -> quantizer and what is asked of it; all others quantize.
        data: batches; None where there are none.
        progress: show a bar on a terminal.

    Raises:
        QonnxTorchError: no data, or data on which no scale can be found; the message names the quantizer.
    """
    if not pending:
        return
    if data is None:
        names = ", ".join(list(pending)[:5]) + (", ..." if len(pending) > 5 else "")
        raise QonnxTorchError(
            f"{len(pending)} quantizers of activations take their scale from data ({names}): give "
            "calibration, or real inputs as args, or a number as scale"
        )
    observers: dict[str, Observer] = {}
    for name, (quantizer, config) in pending.items():
        with _named(name):
            observers[name] = make_observer(quantizer, str(config.scale), config.options)
    quantizers = {name: quantizer for name, (quantizer, _) in pending.items()}
    observe(module, quantizers, observers, data, progress=progress)
    for name, (quantizer, config) in pending.items():
        _set(name, quantizer, config, observers[name])


def _set(name: str, quantizer: qnn.Quantizer, config: AnyQuantizerConfig, observer: Observer) -> None:
    """Sets the scale that follows from what was seen; with a warning, that of -1 to 1 where it was only 0."""
    with _named(name):
        if not observer.count:
            raise QonnxTorchError("the data never reached it")
        try:
            quantizer.set_parameters(**solution(quantizer, observer))
        except NothingSeenError as error:
            one = torch.ones_like(quantizer.current_tensor("scale"))
            calibrate_quantizer(quantizer, torch.stack((-one, one)))
            warnings.warn(
                f"quantizer {name}: {error}; it starts with the range -1 to 1: calibrate it once there are "
                "other values, or give it a number as scale",
                UserWarning,
                stacklevel=2,
            )
        _snap(quantizer, config)


def _snap(quantizer: qnn.Quantizer, config: AnyQuantizerConfig) -> None:
    """Rounds the scale up to a power of two where that is asked for: nothing that it covers is cut off."""
    if config.power_of_two:
        scale = quantizer.current_parameters()["scale"]
        quantizer.set_parameters(scale=torch.exp2(torch.ceil(torch.log2(scale))))


def train(name: str, quantizer: qnn.Quantizer, config: AnyQuantizerConfig, role: Role) -> None:
    """Sets how a quantizer trains, by its configuration."""
    training = config.training or _default_training(quantizer, config, role)
    try:
        configure_quantizer(quantizer, training, is_weight=role == "weight")
    except QonnxTorchError as error:
        raise QonnxTorchError(f"quantizer {name}: {error}") from None


def _default_training(quantizer: qnn.Quantizer, config: AnyQuantizerConfig, role: Role) -> QuantizerTraining:
    if not isinstance(config.scale, str):
        return QuantizerTraining("pass" if role == "weight" else "ste")
    if config.power_of_two:
        return QuantizerTraining("ste", "power_of_two")
    if config.scale == "lsq" and isinstance(quantizer, qnn.Quant):
        return QuantizerTraining("lsq", "step")
    symmetric = not isinstance(config, QuantizerConfig) or config.zero_point in ("symmetric", 0)
    follows = config.scale == "max" or isinstance(quantizer, qnn.BipolarQuant)  # mean |w| by every method
    if role == "weight" and follows and symmetric:
        return QuantizerTraining("pass", "statistics")
    return QuantizerTraining("ste", "threshold")


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except QonnxTorchError as error:
        raise QonnxTorchError(f"quantizer {name}: {error}; or give it a number as scale") from None
