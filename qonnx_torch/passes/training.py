"""How the quantizers of a module train: their gradients, what they learn, and at which rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import fx, nn

import qonnx_torch.nn as qnn
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.nn.scales import ScaleTraining
from qonnx_torch.ops.quantizers.gradients import Gradient, resolve_gradient
from qonnx_torch.passes.constants import ConstantValues, nested_graphs

__all__ = [
    "QuantizerTraining",
    "TrainingConfig",
    "configure_quantizer",
    "configure_training",
    "parameter_groups",
    "quantizer_parameters",
    "update_statistics",
]


@dataclass(frozen=True, slots=True)
class QuantizerTraining:
    """How one quantizer trains.

    Attributes:
        gradient: `ste`, `pass`, `lsq` or `pact`; see `qonnx_torch.ops.quantizers.gradients`.
        scale: what is learned of the scale: `frozen`, `step`, `threshold`, `log2`, `power_of_two`,
            `statistics`; see `qonnx_torch.nn.scales`.
        zero_point: `frozen` or `learned`.
        bit_width: `frozen` or `learned` (whole bits, at least 2).
    """

    gradient: Gradient = "ste"
    scale: ScaleTraining = "frozen"
    zero_point: Literal["frozen", "learned"] = "frozen"
    bit_width: Literal["frozen", "learned"] = "frozen"


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How the quantizers of a module train: those of weights, of biases and of activations.

    The defaults are the gradients of Brevitas' default quantizers, with nothing learned. What does not apply
    to a quantizer leaves it as it is: a parameter that the graph computes learns through the graph, Trunc and
    MultiThreshold have no scale to learn, Trunc no gradient of LSQ. A rule that does not apply is refused.
    Each quantizer learns for itself, also where the file has one constant for several.

    Attributes:
        weights: for quantizers of tensors that depend on no input.
        activations: for all others.
        biases: for quantizers of weights of at most one dimension. Their scale is usually the product of an
            input's and a weight's; it is left alone unless this says otherwise.
        rules: quantizer name, with the wildcards of `fnmatch` -> what goes before all that; the last that
            fits counts.
    """

    weights: QuantizerTraining = field(default_factory=lambda: QuantizerTraining(gradient="pass"))
    activations: QuantizerTraining = field(default_factory=QuantizerTraining)
    biases: QuantizerTraining = field(default_factory=lambda: QuantizerTraining(gradient="pass"))
    rules: Mapping[str, QuantizerTraining] = field(default_factory=dict)


def configure_training(module: fx.GraphModule, config: TrainingConfig) -> None:
    """Applies a training configuration to every quantizer of a module, in place.

    Raises:
        QonnxTorchError: an unknown name, a rule that fits no quantizer, a gradient that a quantizer does not
            have, or a scale that cannot be trained; the message names the quantizer.
    """
    unused = set(config.rules)
    for name, quantizer, node, constants in _quantizers(module):
        source = node.all_input_nodes[0]
        is_weight = constants.is_constant(source)
        matching = [pattern for pattern in config.rules if fnmatchcase(name, pattern)]
        unused -= set(matching)
        if matching:
            training = config.rules[matching[-1]]
        elif is_weight:
            training = config.biases if constants.rank(source) in (0, 1) else config.weights
        else:
            training = config.activations
        try:
            _check(training, is_weight)
            _apply(quantizer, training if matching else _applicable(quantizer, training), is_weight)
        except QonnxTorchError as error:
            raise QonnxTorchError(f"quantizer {name}: {error}") from None
    if unused:
        raise QonnxTorchError(f"rules that fit no quantizer: {', '.join(sorted(unused))}")


def _check(training: QuantizerTraining, is_weight: bool) -> None:
    resolve_gradient(training.gradient)
    if training.scale == "statistics" and not is_weight:
        raise QonnxTorchError("statistics are for weights; of an activation they would follow every batch")
    if training.bit_width == "learned" and training.gradient == "pass":
        raise QonnxTorchError("the gradient 'pass' does not reach a learned bit width")


def _applicable(quantizer: qnn.Quantizer, training: QuantizerTraining) -> QuantizerTraining:
    """Returns what of a training a quantizer can do; for the rest, what it does now or `frozen`."""
    owned = quantizer.current_parameters()
    can_learn = {name for name in quantizer.learnable if name in owned}
    if "bit_width" in can_learn and bool((owned["bit_width"] == 1).all()):
        can_learn.remove("bit_width")
    has_gradient = training.gradient in quantizer.gradients
    return QuantizerTraining(
        gradient=training.gradient if has_gradient else getattr(quantizer, "gradient", "ste"),
        scale=training.scale if quantizer.owns_scale else "frozen",
        zero_point=training.zero_point if "zero_point" in can_learn else "frozen",
        bit_width=training.bit_width if "bit_width" in can_learn else "frozen",
    )


def configure_quantizer(quantizer: qnn.Quantizer, training: QuantizerTraining, *, is_weight: bool) -> None:
    """Sets how one quantizer trains, in place. Raises QonnxTorchError where it cannot train so."""
    _check(training, is_weight)
    _apply(quantizer, training, is_weight)


def _apply(quantizer: qnn.Quantizer, training: QuantizerTraining, is_weight: bool) -> None:
    if training.gradient not in quantizer.gradients:
        raise QonnxTorchError(
            f"{type(quantizer).__name__} has no gradient {training.gradient!r}, only "
            f"{', '.join(quantizer.gradients)}"
        )
    if hasattr(quantizer, "gradient"):
        quantizer.gradient = training.gradient
    if isinstance(quantizer, (qnn.Quant, qnn.QuantizeDequantizeLinear)):
        quantizer.batched = not is_weight
    others: dict[str, Any] = {"zero_point": training.zero_point, "bit_width": training.bit_width}
    for name, kind in others.items():
        if kind == "learned" and name not in quantizer.learnable:
            raise QonnxTorchError(
                f"{type(quantizer).__name__} has no {name.replace('_', ' ')} that can be learned"
            )
    if {training.scale, *others.values()} == {"frozen"} and next(quantizer.parameters(), None) is None:
        return  # as it is
    quantizer.train_parameters(scale=training.scale, **{n: others[n] for n in quantizer.learnable})


def update_statistics(module: fx.GraphModule) -> None:
    """Brings the scales that follow their weights up to date with them, as an export wants."""
    for _, quantizer, node, constants in _quantizers(module):
        if quantizer.scale_kind == "statistics":
            source = node.all_input_nodes[0]
            if constants.is_constant(source):
                quantizer.update_statistics(constants.value(source))


def _quantizers(module: fx.GraphModule) -> Iterator[tuple[str, qnn.Quantizer, fx.Node, ConstantValues]]:
    """Yields name, quantizer and node wherever a graph, or a subgraph in it, calls one."""
    for prefix, graph, constants in nested_graphs(module):
        for node in graph.graph.nodes:
            quantizer = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(quantizer, qnn.Quantizer):
                yield f"{prefix}{node.target}", quantizer, node, constants


def quantizer_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Returns the learned scales, zero points and bit widths of a module, frozen ones too."""
    found = (p for m in module.modules() if isinstance(m, qnn.Quantizer) for p in m.parameters())
    return list(dict.fromkeys(found))


def parameter_groups(
    module: nn.Module, *, weight_decay: float = 0.0, quantizer_lr: float | None = None
) -> list[dict[str, Any]]:
    """Returns the parameters of a module in groups for any `torch.optim` optimizer.

    The first group has everything but the quantizers' learned parameters, with the weight decay; the second,
    where there are any, has those, without: decay would pull a scale towards 0, which is no neutral value.
    Every parameter that takes a gradient is in one group, once; frozen ones are in none.

    Args:
        module: any module with quantizers in it.
        weight_decay: of the first group.
        quantizer_lr: learning rate of the second group; None leaves it to the optimizer's.

    >>> quantizer = qnn.Quant(0.1, 0.0, 4)
    >>> quantizer.train_parameters(scale="step")
    >>> groups = parameter_groups(nn.Sequential(nn.Linear(2, 2), quantizer), weight_decay=1e-4)
    >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
    [(2, 0.0001), (1, 0.0)]
    """
    learned = [p for p in quantizer_parameters(module) if p.requires_grad]
    taken = set(learned)
    others = [p for p in module.parameters() if p.requires_grad and p not in taken]
    groups: list[dict[str, Any]] = [{"params": others, "weight_decay": weight_decay}] if others else []
    if learned:
        rate = {} if quantizer_lr is None else {"lr": quantizer_lr}
        groups.append({"params": learned, "weight_decay": 0.0, **rate})
    return groups
