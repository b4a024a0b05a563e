"""How the quantizers of a module train: their gradients, and what they learn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import fx, nn

import qonnx_torch.nn as qnn
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.nn.scales import ScaleTraining, StatisticsScale
from qonnx_torch.ops.gradients import Gradient, resolve_gradient
from qonnx_torch.passes.constants import ConstantValues

__all__ = [
    "QuantizerTraining",
    "TrainingConfig",
    "configure_training",
    "quantizer_parameters",
    "update_statistics",
]


@dataclass(frozen=True, slots=True)
class QuantizerTraining:
    """How one quantizer trains.

    Attributes:
        gradient: `ste`, `pass`, `lsq` or `pact`; see `qonnx_torch.ops.gradients`.
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
    """How the quantizers of a module train, those of weights and those of activations.

    The defaults are the gradients of Brevitas' default quantizers, with nothing learned. A quantizer whose
    parameters the graph computes, or that is no Quant, keeps what does not apply to it.

    Attributes:
        weights: for quantizers of tensors that depend on no input.
        activations: for all others.
    """

    weights: QuantizerTraining = field(default_factory=lambda: QuantizerTraining(gradient="pass"))
    activations: QuantizerTraining = field(default_factory=QuantizerTraining)


def configure_training(module: fx.GraphModule, config: TrainingConfig) -> None:
    """Applies a training configuration to every quantizer of a module, in place.

    A Quant whose scale, zero point or bit width the graph computes learns through the graph instead.

    Raises:
        QonnxTorchError: an unknown name, or a scale that cannot be trained.
    """
    constants = ConstantValues(module)
    for node in module.graph.nodes:
        if node.op != "call_module":
            continue
        quantizer = module.get_submodule(str(node.target))
        if not isinstance(quantizer, (qnn.Quant, qnn.BipolarQuant)):
            continue
        is_weight = constants.is_constant(node.all_input_nodes[0])
        training = config.weights if is_weight else config.activations
        resolve_gradient(training.gradient)
        _refuse_what_cannot_learn(str(node.target), training, is_weight)
        quantizer.gradient = training.gradient
        if isinstance(quantizer, qnn.Quant):
            quantizer.batched = not is_weight
            owned = quantizer.current_parameters()
            quantizer.train_parameters(
                scale=training.scale if {"scale", "bit_width"} <= set(owned) else "frozen",
                zero_point=training.zero_point if "zero_point" in owned else "frozen",
                bit_width=training.bit_width if "bit_width" in owned else "frozen",
            )


def _refuse_what_cannot_learn(name: str, training: QuantizerTraining, is_weight: bool) -> None:
    if training.scale == "statistics" and not is_weight:
        raise QonnxTorchError(
            f"quantizer {name}: statistics are for weights; of an activation they would follow every batch"
        )
    if training.bit_width == "learned" and training.gradient == "pass":
        raise QonnxTorchError(f"quantizer {name}: the gradient 'pass' does not reach a learned bit width")


def update_statistics(module: fx.GraphModule) -> None:
    """Brings the scales that follow their weights up to date with them, as an export wants."""
    constants = ConstantValues(module)
    for node in module.graph.nodes:
        if node.op == "call_module" and constants.is_constant(node):
            quantizer = module.get_submodule(str(node.target))
            if isinstance(quantizer, qnn.Quant) and isinstance(quantizer.scale_training, StatisticsScale):
                constants.value(node)


def quantizer_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Returns the learned scales, zero points and bit widths of a module, for a parameter group of their own.

    They are usually trained without weight decay and with a learning rate of their own.
    """
    found = (p for m in module.modules() if isinstance(m, qnn.Quantizer) for p in m.parameters())
    return list(dict.fromkeys(found))
