"""Parametrisations of a quantizer's scale: what is learned when a scale is trained.

Each is a module whose `forward(x, threshold)` gives the scale; `threshold` is the integer that stands for the
end of the range: -low for signed quantizers, high for unsigned ones. Every learned scale is kept at least
1e-10, with gradient 1 also below (Brevitas' ScalarClampMinSte).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.ops.rounding import straight_through

__all__ = [
    "SCALE_TRAINING",
    "Log2Scale",
    "PowerOfTwoScale",
    "ScaleTraining",
    "StatisticsScale",
    "StepScale",
    "ThresholdScale",
    "make_scale",
]

ScaleTraining = Literal["frozen", "step", "threshold", "log2", "power_of_two", "statistics"]
SCALE_TRAINING: tuple[str, ...] = get_args(ScaleTraining)

_SMALLEST = 1e-10


def _positive(scale: Tensor) -> Tensor:
    return straight_through(scale, torch.clamp_min(scale.detach(), _SMALLEST))


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
    """The scale follows the tensor (Brevitas' weights): max |x| / threshold, per slice of its shape."""

    def __init__(self, scale: Tensor, threshold: Tensor) -> None:
        super().__init__()
        self.shape = scale.shape

    def forward(self, x: Tensor, threshold: Tensor) -> Tensor:
        """Returns max |x| over the dimensions where the scale has size 1, divided by threshold."""
        aligned = (1,) * (x.dim() - len(self.shape)) + tuple(self.shape)
        dims = [d for d, n in enumerate(aligned) if n == 1]
        largest = torch.amax(torch.abs(x), dims, keepdim=True) if dims else torch.abs(x)
        return _positive(largest.reshape(self.shape)) / threshold.to(x.dtype)


_KINDS: dict[str, type[nn.Module]] = {
    "step": StepScale,
    "threshold": ThresholdScale,
    "log2": Log2Scale,
    "power_of_two": PowerOfTwoScale,
    "statistics": StatisticsScale,
}


def make_scale(kind: str, scale: Tensor, threshold: Tensor) -> nn.Module | None:
    """Returns the parametrisation of a kind that starts at a scale; None for `frozen`.

    Raises:
        QonnxTorchError: no such kind, or a scale that is not positive.
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
    return _KINDS[kind](scale, threshold)
