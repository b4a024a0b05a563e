"""The modules of torch: each is the function that it calls, with arguments that it holds as attributes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from qonnx_torch.lowering import activations, pools, shaping
from qonnx_torch.lowering.emitter import Emitter, NotLoweredError
from qonnx_torch.lowering.table import FUNCTIONS

__all__ = ["MODULES", "Layer", "arguments_of"]


@dataclass(frozen=True, slots=True)
class Layer:
    """How a module is written.

    Attributes:
        function: what writes the function that it calls.
        arguments: parameter of that function -> attribute of the module.
    """

    function: Callable[..., Any]
    arguments: dict[str, str]


def arguments_of(module: nn.Module) -> dict[str, Any]:
    """Returns the arguments that a module holds for its function."""
    return {name: getattr(module, attribute) for name, attribute in MODULES[type(module)].arguments.items()}


def _layer(target: Any, *names: str, **renamed: str) -> Layer:
    function = FUNCTIONS.get(target, target)
    return Layer(function, {n: n for n in names} | renamed)


def _same(g: Emitter, input: fx.Node) -> fx.Node:
    return input


def _upsample(g: Emitter, input: fx.Node, size: Any, scale_factor: Any, mode: str, align_corners: Any) -> Any:
    return pools.interpolate(g, input, size, scale_factor, mode, align_corners)


def _softmax_2d(g: Emitter, input: fx.Node) -> Any:
    if g.rank(input) != 4:
        raise NotLoweredError("it is written only of (N, C, H, W)")
    return activations.softmax(g, input, 1)


_CONV = ("weight", "bias", "stride", "padding", "dilation", "groups", "padding_mode")
_DECONV = ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_BATCH_NORM = _layer(F.batch_norm, "running_mean", "running_var", "weight", "bias", "momentum", "eps")
_INSTANCE_NORM = _layer(F.instance_norm, "running_mean", "running_var", "weight", "bias", "eps")

MODULES: dict[type[nn.Module], Layer] = {
    nn.Conv1d: _layer(F.conv1d, *_CONV),
    nn.Conv2d: _layer(F.conv2d, *_CONV),
    nn.Conv3d: _layer(F.conv3d, *_CONV),
    nn.ConvTranspose1d: _layer(F.conv_transpose1d, *_DECONV),
    nn.ConvTranspose2d: _layer(F.conv_transpose2d, *_DECONV),
    nn.ConvTranspose3d: _layer(F.conv_transpose3d, *_DECONV),
    nn.Linear: _layer(F.linear, "weight", "bias"),
    nn.Embedding: _layer(F.embedding, "weight", "max_norm", "scale_grad_by_freq", "padding_idx"),
    nn.BatchNorm1d: _BATCH_NORM,
    nn.BatchNorm2d: _BATCH_NORM,
    nn.BatchNorm3d: _BATCH_NORM,
    nn.InstanceNorm1d: _INSTANCE_NORM,
    nn.InstanceNorm2d: _INSTANCE_NORM,
    nn.InstanceNorm3d: _INSTANCE_NORM,
    nn.LayerNorm: _layer(F.layer_norm, "normalized_shape", "weight", "bias", "eps"),
    nn.GroupNorm: _layer(F.group_norm, "num_groups", "weight", "bias", "eps"),
    nn.MaxPool1d: _layer(F.max_pool1d, *_MAX),
    nn.MaxPool2d: _layer(F.max_pool2d, *_MAX),
    nn.MaxPool3d: _layer(F.max_pool3d, *_MAX),
    nn.AvgPool1d: _layer(F.avg_pool1d, *_AVG),
    nn.AvgPool2d: _layer(F.avg_pool2d, *_AVG, "divisor_override"),
    nn.AvgPool3d: _layer(F.avg_pool3d, *_AVG, "divisor_override"),
    nn.AdaptiveMaxPool1d: _layer(F.adaptive_max_pool1d, "output_size", "return_indices"),
    nn.AdaptiveMaxPool2d: _layer(F.adaptive_max_pool2d, "output_size", "return_indices"),
    nn.AdaptiveMaxPool3d: _layer(F.adaptive_max_pool3d, "output_size", "return_indices"),
    nn.AdaptiveAvgPool1d: _layer(F.adaptive_avg_pool1d, "output_size"),
    nn.AdaptiveAvgPool2d: _layer(F.adaptive_avg_pool2d, "output_size"),
    nn.AdaptiveAvgPool3d: _layer(F.adaptive_avg_pool3d, "output_size"),
    nn.Dropout: _layer(F.dropout, "p"),
    nn.Identity: _layer(_same),
    nn.Flatten: _layer(torch.flatten, "start_dim", "end_dim"),
    nn.Unflatten: _layer(shaping.unflatten, "dim", sizes="unflattened_size"),
    nn.Upsample: _layer(_upsample, "size", "scale_factor", "mode", "align_corners"),
    nn.PixelShuffle: _layer(F.pixel_shuffle, "upscale_factor"),
    nn.ReLU: _layer(F.relu),
    nn.ReLU6: _layer(F.relu6),
    nn.Hardtanh: _layer(F.hardtanh, "min_val", "max_val"),
    nn.LeakyReLU: _layer(F.leaky_relu, "negative_slope"),
    nn.PReLU: _layer(F.prelu, "weight"),
    nn.ELU: _layer(F.elu, "alpha"),
    nn.SELU: _layer(F.selu),
    nn.GELU: _layer(F.gelu, "approximate"),
    nn.SiLU: _layer(F.silu),
    nn.Mish: _layer(F.mish),
    nn.Sigmoid: _layer(torch.sigmoid),
    nn.LogSigmoid: _layer(F.logsigmoid),
    nn.Tanh: _layer(torch.tanh),
    nn.Softmax: _layer(F.softmax, "dim"),
    nn.Softmax2d: _layer(_softmax_2d),
    nn.LogSoftmax: _layer(F.log_softmax, "dim"),
    nn.Softplus: _layer(F.softplus, "beta", "threshold"),
    nn.Softsign: _layer(F.softsign),
    nn.Hardsigmoid: _layer(F.hardsigmoid),
    nn.Hardswish: _layer(F.hardswish),
    nn.GLU: _layer(F.glu, "dim"),
}
"""Module class -> how it is written. Subclasses are traced through: they may compute something else."""

for _rank in (1, 2, 3):
    for _name, _mode in (
        ("Constant", "constant"),
        ("Zero", "constant"),
        ("Reflection", "reflect"),
        ("Replication", "replicate"),
    ):
        _class = getattr(nn, f"{_name}Pad{_rank}d", None)
        if _class is not None:
            _value = {"value": "value"} if _name == "Constant" else {}

            def _pad(g: Emitter, input: fx.Node, pad: Any, value: Any = None, mode: str = _mode) -> Any:
                return pools.pad(g, input, pad, mode, value)

            MODULES[_class] = _layer(_pad, pad="padding", **_value)
if hasattr(nn, "RMSNorm"):
    MODULES[nn.RMSNorm] = _layer(F.rms_norm, "normalized_shape", "weight", "eps")
