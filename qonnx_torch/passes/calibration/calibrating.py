"""Runs a module on data, and sets its quantizers by what they saw."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

import qonnx_torch.nn as qnn
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.passes.calibration.observers import Observer
from qonnx_torch.passes.calibration.rules import (
    NothingSeenError,
    calibrate_quantizer,
    can_be_calibrated,
    make_observer,
    solution,
)
from qonnx_torch.passes.constants import graphs_in

__all__ = ["calibrate", "calibrate_weights", "observe"]


def calibrate(
    module: nn.Module,
    batches: Iterable[Any],
    *,
    method: str = "max",
    steps: int | None = None,
    progress: bool = True,
    **options: float,
) -> dict[str, Observer]:
    """Sets the scale (and zero point) of every activation's quantizer from data, in place.

    The module runs in `eval()` on the batches while the quantizers of activations let the float tensors pass
    and observe them (weights stay quantized); afterwards each is set by the rules of `calibrate_quantizer`.
    A quantizer with parameters that the graph computes, and one without a scale (Trunc, MultiThreshold),
    quantizes all along and stays as it is. One that saw only zeros stays as it is, with a warning.

    Args:
        module: an imported module, or one that contains quantizers or imported modules.
        batches: a DataLoader or any iterable. Of a batch that is a tuple or list, as many leading elements
            are taken as the module has inputs, so that labels may follow; they are moved to its device.
        method: `max`, `moving_average`, `percentile`, `mse` or `lsq`.
        steps: number of batches to take; None takes all.
        progress: show a bar on stderr, where that is a terminal.
        options: of the method, see `calibrate_quantizer`.

    Returns:
        What was observed, by name of the quantizer.

    Raises:
        QonnxTorchError: an unknown method or option, no batch, a batch of another form, or values that are
            not finite; the message names the quantizer.
    """
    quantizers = _activation_quantizers(module)
    observers = {name: make_observer(quantizer, method, options) for name, quantizer in quantizers.items()}
    observe(module, quantizers, observers, batches, steps=steps, progress=progress)
    seen = {name: observer for name, observer in observers.items() if observer.count}
    for name, observer in seen.items():
        with _named(name, quantizers[name]):
            quantizers[name].set_parameters(**solution(quantizers[name], observer))
    return seen


def observe(
    module: nn.Module,
    quantizers: Mapping[str, qnn.Quantizer],
    observers: Mapping[str, Observer],
    batches: Iterable[Any],
    *,
    steps: int | None = None,
    progress: bool = True,
) -> None:
    """Shows to observers what the quantizers of the same names are given, which pass it on as it is.

    Args:
        module: runs in `eval()` on the batches; see `calibrate` for them and the next two.
        quantizers: by name.
        observers: by name.
        batches: see module.
        steps: see module.
        progress: see module.

    Raises:
        QonnxTorchError: no batch, a batch of another form, or values that are not finite.
    """
    with _observing(quantizers, observers), _evaluating(module), torch.no_grad():
        count = 0
        for batch in _shown(batches, steps) if progress else _limited(batches, steps):
            module(*_inputs(module, batch))
            count += 1
    if not count:
        raise QonnxTorchError("there is no batch to calibrate on")


def calibrate_weights(module: nn.Module, *, method: str = "max", **options: float) -> tuple[str, ...]:
    """Sets the scale (and zero point) of every weight's quantizer from its weight, in place.

    The rules are those of `calibrate_quantizer`. Weights are found in the graphs inside a module: what
    depends on no input and has at least two dimensions (the scale of a bias is usually the product of an
    input's and a weight's). A quantizer whose parameters the graph computes, or whose scale follows its
    weight, stays as it is; so does one whose weight is all 0, with a warning.

    Args:
        module: an imported module, or one that contains imported modules.
        method: `max`, `percentile`, `mse` or `lsq`.
        options: of the method, see `calibrate_quantizer`.

    Returns:
        The names of the quantizers that were set.

    Raises:
        QonnxTorchError: as `calibrate_quantizer` does; the message names the quantizer.
    """
    done = []
    for prefix, graph, constants in graphs_in(module):
        for node in graph.graph.nodes:
            quantizer = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
            if quantizer is None or not can_be_calibrated(quantizer) or not constants.is_constant(node):
                continue
            values = constants.value(node.all_input_nodes[0])
            if values.dim() < 2 or quantizer.scale_kind == "statistics":
                continue
            name = prefix + str(node.target)
            with _named(name, quantizer):
                calibrate_quantizer(quantizer, values, method=method, **options)
                done.append(name)
    return tuple(done)


# -- which quantizers, and how they observe --------------------------------------------------------


def _activation_quantizers(module: nn.Module) -> dict[str, qnn.Quantizer]:
    weights: set[str] = set()
    for prefix, graph, constants in graphs_in(module):
        weights |= {
            prefix + str(n.target)
            for n in graph.graph.nodes
            if n.op == "call_module" and constants.is_constant(n)
        }
    return {n: m for n, m in module.named_modules() if can_be_calibrated(m) and n not in weights}


@contextmanager
def _observing(quantizers: Mapping[str, qnn.Quantizer], observers: Mapping[str, Observer]) -> Iterator[None]:
    """Lets the quantizers pass their input on, and show it to their observers."""

    def watch(name: str, quantizer: qnn.Quantizer, args: tuple[Any, ...], output: Tensor) -> Tensor:
        x: Tensor = args[0]
        if isinstance(x, nn.Parameter):  # a weight, in a module that is no graph
            return output
        with _named(name, quantizer):
            observers[name].observe(quantizer.aligned(x))
        return x

    handles = [q.register_forward_hook(partial(watch, name)) for name, q in quantizers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for submodule in training:
            submodule.training = True


@contextmanager
def _named(name: str, quantizer: qnn.Quantizer) -> Iterator[None]:
    """Puts a quantizer's name before errors; data that say nothing are a warning."""
    try:
        yield
    except NothingSeenError as error:
        scale = quantizer.current_parameters()["scale"]
        shown = f"{scale.item():g}" if scale.numel() == 1 else f"of shape {tuple(scale.shape)}"
        warnings.warn(f"quantizer {name}: {error}; it keeps its scale {shown}", UserWarning, stacklevel=4)
    except QonnxTorchError as error:
        raise QonnxTorchError(f"quantizer {name}: {error}") from None


# -- the batches -----------------------------------------------------------------------------------


def _limited(batches: Iterable[Any], steps: int | None) -> Iterable[Any]:
    if steps is not None and steps < 1:
        raise QonnxTorchError(f"steps={steps}: calibration needs at least one batch")
    return itertools.islice(batches, steps)


def _shown(batches: Iterable[Any], steps: int | None) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    lengths = [n for n in (steps, len(batches) if isinstance(batches, Sized) else None) if n is not None]
    return track(
        _limited(batches, steps),
        "calibrating",
        total=min(lengths, default=None),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _inputs(module: nn.Module, batch: Any) -> list[Tensor]:
    given = list(batch) if isinstance(batch, (tuple, list)) else [batch]
    wanted = _input_count(module)
    if len(given) < wanted or not all(isinstance(t, Tensor) for t in given[:wanted]):
        raise QonnxTorchError(
            f"a batch must be a tensor, or a tuple whose first {wanted} elements are the module's inputs; "
            f"it is {_form(batch)}"
        )
    device = next((t.device for t in (*module.parameters(), *module.buffers())), None)
    return [tensor.to(device) for tensor in given[:wanted]]


def _input_count(module: nn.Module) -> int:
    if isinstance(module, fx.GraphModule):
        return sum(node.op == "placeholder" for node in module.graph.nodes)
    parameters = inspect.signature(module.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return max(1, sum(p.kind in positional and p.default is p.empty for p in parameters))


def _form(batch: Any) -> str:
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {', '.join(type(t).__name__ for t in batch) or 'nothing'}"
    return f"a {type(batch).__name__}"
