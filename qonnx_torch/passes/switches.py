"""What a trainer switches on and off: quantization, the learning of quantizers, batch statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import fx, nn

import qonnx_torch.nn as qnn
from qonnx_torch.errors import QonnxTorchError

__all__ = [
    "disable_quantization",
    "enable_quantization",
    "freeze_batch_normalization",
    "freeze_quantizers",
    "unfreeze_batch_normalization",
    "unfreeze_quantizers",
]

Names = str | Iterable[str] | None
M = TypeVar("M", bound=nn.Module)


def disable_quantization(module: nn.Module, names: Names = None) -> None:
    """Lets the float tensors pass through quantizers, those of weights too: the float network of a graph.

    Quant, BipolarQuant, FloatQuant and Trunc (version 2, which keeps the size of values) are switched off;
    MultiThreshold and Trunc version 1 go on, as their results are other quantities than their inputs. Learned
    parameters stay in autograd's graph, with zero gradients, so that DistributedDataParallel misses none.
    An export writes the quantizers all the same.

    Args:
        module: any module with quantizers in it.
        names: names of quantizers as in `module.named_modules()`, with the wildcards of `fnmatch`; None is
            all that can be switched off.

    Raises:
        QonnxTorchError: a name that fits no quantizer that can be switched off.
    """
    for quantizer in _switchable(module, names):
        quantizer.disable()


def enable_quantization(module: nn.Module, names: Names = None, *, after_steps: int = 0) -> None:
    """Quantizes (again), at once or after a number of training steps.

    Args:
        module: any module with quantizers in it.
        names: as in `disable_quantization`.
        after_steps: forward passes in `train()`, with gradients enabled, in which the float tensors still
            pass; until then `eval()` is float, too. Each quantizer counts in a buffer of its own
            (`<quantizer>.delay.remaining` in the `state_dict`), which only a delay creates; call this before
            loading a checkpoint that has one. Without a delay it is removed. A quantizer that a graph calls
            several times counts as many calls as one step.

    Raises:
        QonnxTorchError: as `disable_quantization`, and a negative number of steps.
    """
    calls = _calls(module)
    for quantizer in _switchable(module, names):
        quantizer.enable(after_steps * max(1, calls[quantizer]))


def freeze_quantizers(module: nn.Module, names: Names = None) -> None:
    """Stops what quantizers learn where it stands: no gradients, and scales of statistics follow no more.

    DistributedDataParallel notes at its construction which parameters take gradients: wrap the module again
    after a change.

    Args:
        module: any module with quantizers in it.
        names: as in `disable_quantization`, of any quantizer; None is all.

    Raises:
        QonnxTorchError: a name that fits no quantizer.
    """
    for quantizer in _selected(module, qnn.Quantizer, names):
        quantizer.freeze()


def unfreeze_quantizers(module: nn.Module, names: Names = None) -> None:
    """Lets quantizers learn again what `configure_training` or `train_parameters` chose.

    Args and errors: as `freeze_quantizers`.
    """
    for quantizer in _selected(module, qnn.Quantizer, names):
        quantizer.unfreeze()


def freeze_batch_normalization(module: nn.Module, names: Names = None) -> None:
    """Uses running statistics in `train()` too, and updates them no more; scale and shift still train.

    Args:
        module: any module with BatchNormalization (`qonnx_torch.nn`) in it.
        names: names of such modules, with the wildcards of `fnmatch`; None is all.

    Raises:
        QonnxTorchError: a name that fits no BatchNormalization.
    """
    for normalization in _selected(module, qnn.BatchNormalization, names):
        normalization.freeze()


def unfreeze_batch_normalization(module: nn.Module, names: Names = None) -> None:
    """Uses and updates the statistics of the batch in `train()` again.

    Args and errors: as `freeze_batch_normalization`.
    """
    for normalization in _selected(module, qnn.BatchNormalization, names):
        normalization.unfreeze()


def _calls(module: nn.Module) -> Counter[nn.Module]:
    """Returns how often the graphs in a module call each submodule."""
    graphs = [m for m in module.modules() if isinstance(m, fx.GraphModule)]
    return Counter(
        graph.get_submodule(str(node.target))
        for graph in graphs
        for node in graph.graph.nodes
        if node.op == "call_module"
    )


def _switchable(module: nn.Module, names: Names) -> list[qnn.Quantizer]:
    found = {n: m for n, m in module.named_modules() if isinstance(m, qnn.Quantizer) and m.switchable}
    return _matching(found, names, "quantizer that can be switched off")


def _selected(module: nn.Module, kind: type[M], names: Names) -> list[M]:
    found = {n: m for n, m in module.named_modules() if isinstance(m, kind)}
    return _matching(found, names, "quantizer" if kind is qnn.Quantizer else kind.__name__)


def _matching(found: dict[str, M], names: Names, what: str) -> list[M]:
    if names is None:
        return list(found.values())
    chosen: dict[str, M] = {}
    for pattern in (names,) if isinstance(names, str) else names:
        matches = {n: m for n, m in found.items() if fnmatchcase(n, pattern)}
        if not matches:
            raise QonnxTorchError(
                f"{pattern!r} is the name of no {what}; there are: {', '.join(found) or 'none'}"
            )
        chosen |= matches
    return list(chosen.values())
