"""Parametrisations of a quantizer's scale: what is learned when a scale is trained.

Each is a module whose `forward(x, threshold)` gives the scale; `threshold` is the end of the range in units
of the scale: -low for signed integers, high for unsigned ones, the largest value of a minifloat, 1 of a
bipolar quantizer. Every learned scale is kept at least 1e-10, with gradient 1 also below (Brevitas'
ScalarClampMinSte). What is learned is float32 (or wider), also where the scale itself is of half precision.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.ops.quantizers.rounding import gradients_flow, straight_through

__all__ = [
    "SCALE_TRAINING",
    "Log2Scale",
    "PowerOfTwoScale",
    "ScaleTraining",
    "Statistic",
    "StatisticsScale",
    "StepScale",
    "ThresholdScale",
    "has_collapsed",
    "kind_of",
    "make_scale",
    "positive_in",
]

ScaleTraining = Literal["frozen", "step", "threshold", "log2", "power_of_two", "statistics"]
SCALE_TRAINING: tuple[str, ...] = get_args(ScaleTraining)
Statistic = Literal["max", "mean"]

_SMALLEST = 1e-10


def _positive(scale: Tensor, smallest: float = _SMALLEST) -> Tensor:
    kept = torch.clamp_min(scale.detach(), smallest)
    return kept + (scale - scale.detach()) if gradients_flow() else kept


def positive_in(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a positive scale in a dtype, where it stays positive."""
    if scale.dtype == dtype or not dtype.is_floating_point:
        return scale
    limits = torch.finfo(dtype)
    return _positive(scale, max(_SMALLEST, limits.smallest_normal * limits.eps)).to(dtype)


class StepScale(nn.Module):
    """The scale itself is learned (as in LSQ): scale = step."""

    def __init__(self, scale: Tensor, threshold: Tensor) -> None:
        super().__init__()
        self.step = nn.Parameter(scale.detach().clone())

    def forward(self, x: Tensor, threshold: Tensor) -> Tensor:
        """Returns step, kept positive."""
        return _positive(self.step)


class ThresholdScale(nn.Module):
    """The end of the range is learned (as in Brevitas): scale = end / threshold."""

    def __init__(self, scale: Tensor, threshold: Tensor) -> None:
        super().__init__()
        self.end = nn.Parameter(_dividend(scale.detach(), threshold.to(scale.dtype)))

    def forward(self, x: Tensor, threshold: Tensor) -> Tensor:
        """Returns end / threshold, end kept positive."""
        return _positive(self.end) / threshold.to(self.end.dtype)


def has_collapsed(training: nn.Module | None) -> bool:
    """Returns whether training has brought a scale down to the least that it is kept at, or below."""
    if not isinstance(training, (StepScale, ThresholdScale)):
        return False
    return any(bool((p <= _SMALLEST).any()) for p in training.parameters() if not p.is_meta)


def _dividend(scale: Tensor, threshold: Tensor) -> Tensor:
    """Returns v with v / threshold == scale in floating point wherever there is one."""
    best = scale * threshold
    for direction in (-torch.inf, torch.inf):
        near = torch.nextafter(scale * threshold, torch.full_like(best, direction))
        better = (best / threshold != scale) & (near / threshold == scale)
        best = torch.where(better, near, best)
    return best


class Log2Scale(nn.Module):
    """The logarithm is learned: scale = 2^log2. The first scale is met to a rounding unit."""

    def __init__(self, scale: Tensor, threshold: Tensor) -> None:
        super().__init__()
        self.log2 = nn.Parameter(torch.log2(scale.detach()))

    def forward(self, x: Tensor, threshold: Tensor) -> Tensor:
        """Returns 2^log2, kept positive."""
        return _positive(torch.exp2(self.log2))


class PowerOfTwoScale(nn.Module):
    """A power of two is learned: scale = 2^round(exponent), straight-through; another first scale snaps."""

    def __init__(self, scale: Tensor, threshold: Tensor) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.log2(scale.detach()))

    def forward(self, x: Tensor, threshold: Tensor) -> Tensor:
        """Returns 2^round(exponent), kept positive."""
        return _positive(torch.exp2(straight_through(self.exponent, torch.round(self.exponent))))


class StatisticsScale(nn.Module):
    """The scale follows the tensor (Brevitas' weights): a statistic of |x| / threshold, per slice.

    Attributes:
        statistic: `max`, or `mean`, which makes the error of a bipolar quantizer smallest (XNOR-Net,
            Rastegari et al. 2016, arXiv:1603.05279, equation 6).
        following: False keeps the scale that was last computed.
    """

    def __init__(self, scale: Tensor, threshold: Tensor, statistic: Statistic = "max") -> None:
        super().__init__()
        self.shape = scale.shape
        self.statistic: Statistic = statistic
        self.following = True

    def forward(self, x: Tensor, threshold: Tensor) -> Tensor:
        """Returns the statistic over the dimensions where the scale has size 1, divided by threshold."""
        aligned = (1,) * (x.dim() - len(self.shape)) + tuple(self.shape)
        dims = [d for d, n in enumerate(aligned) if n == 1]
        size = torch.abs(x)
        if self.statistic == "mean":
            size = torch.mean(_wide(size), dims, True) if dims else _wide(size)
        else:
            size = _wide(_largest(size, dims) if dims else size)
        return _positive(size.reshape(self.shape)) / threshold.to(size.dtype)


def _largest(size: Tensor, dims: list[int]) -> Tensor:
    """Returns the maximum over dimensions; per channel, as in Brevitas, one of equals takes the gradient."""
    if len(dims) == size.dim():
        return torch.amax(size, dims, True)
    kept = [d for d in range(size.dim()) if d not in dims]
    rows = size.permute(*kept, *dims).flatten(len(kept))
    return torch.max(rows, -1).values


_KINDS: dict[ScaleTraining, type[nn.Module]] = {
    "step": StepScale,
    "threshold": ThresholdScale,
    "log2": Log2Scale,
    "power_of_two": PowerOfTwoScale,
    "statistics": StatisticsScale,
}


def kind_of(training: nn.Module) -> ScaleTraining:
    """Returns the name of a parametrisation."""
    return next(kind for kind, known in _KINDS.items() if type(training) is known)


def make_scale(
    kind: ScaleTraining, scale: Tensor, threshold: Tensor, statistic: Statistic = "max"
) -> nn.Module | None:
    """Returns the parametrisation of a kind that starts at a scale; None for `frozen`.

    Args:
        kind: a name of `ScaleTraining`.
        scale: any shape, positive.
        threshold: end of the range in units of the scale, broadcastable to it.
        statistic: what the kind `statistics` follows.

    Raises:
        QonnxTorchError: no such kind, or a scale or a threshold that is not positive.
    """
    if kind not in SCALE_TRAINING:
        raise QonnxTorchError(f"scale training {kind!r} does not exist; known: {', '.join(SCALE_TRAINING)}")
    if kind == "frozen":
        return None
    if not bool((scale > 0).all()):
        raise QonnxTorchError(
            f"a scale can be trained only where it is positive; it is {scale.min().item():g}"
        )
    if kind in ("threshold", "statistics") and not bool((threshold > 0).all()):
        raise QonnxTorchError(f"a range that ends at {threshold.max().item():g} leaves no scale to learn")
    if kind == "statistics":
        return StatisticsScale(scale, threshold, statistic)
    return _KINDS[kind](_wide(scale.detach()), threshold)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype is torch.float64 else tensor.to(torch.float32)
