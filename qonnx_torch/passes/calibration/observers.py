"""Observers: what calibration remembers of the tensors that a quantizer will see.

An observer is given one tensor after the other and then asked for a range, or a mean, in the shape of the
quantizer's scale: per tensor where the scale has one element, else per slice of the dimensions where it has
more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.errors import QonnxTorchError

__all__ = [
    "HistogramObserver",
    "MSEObserver",
    "MeanObserver",
    "MinMaxObserver",
    "MovingAverageObserver",
    "Observer",
    "PercentileObserver",
    "RangeObserver",
]

RangeError = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(values (C, N), low, high) -> what quantizing the values costs, (C, N); ends in the scale's shape."""


class Observer:
    """Base of the observers: gives every tensor to `_observe` as rows, one row per element of the scale.

    Args:
        shape: shape of the quantizer's scale, broadcastable to the tensors.
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.shape = torch.Size(shape)
        self.count = 0

    @property
    def channels(self) -> int:
        """Number of elements of the scale."""
        return self.shape.numel()

    def observe(self, x: Tensor) -> None:
        """Takes note of a tensor. Raises QonnxTorchError where it is empty, or has NaN or infinity."""
        if x.numel() == 0:
            raise QonnxTorchError("cannot be calibrated on an empty tensor")
        values = rows(x.detach().to(torch.float32), self.shape)
        if not bool(torch.isfinite(values).all()):
            raise QonnxTorchError("cannot be calibrated on NaN or infinity; look at the data and the weights")
        self._observe(values)
        self.count += 1

    def _observe(self, values: Tensor) -> None:
        """Takes note of finite values of shape (channels, N)."""
        raise NotImplementedError


class RangeObserver(Observer):
    """An observer that tells the range a quantizer should cover."""

    def range(self, error: RangeError) -> tuple[Tensor, Tensor]:
        """Returns the smallest and largest value to cover, in the scale's shape.

        Args:
            error: what quantizing to a range costs; only `MSEObserver` asks.
        """
        raise NotImplementedError


class MinMaxObserver(RangeObserver):
    """The smallest and the largest value of all tensors (method `max`)."""

    low: Tensor | None = None
    high: Tensor | None = None

    def _observe(self, values: Tensor) -> None:
        low, high = values.amin(1), values.amax(1)
        if self.low is None or self.high is None:
            self.low, self.high = low, high
        else:
            self.low, self.high = self._update(self.low, low, self.high, high)

    def _update(self, low: Tensor, new_low: Tensor, high: Tensor, new_high: Tensor) -> tuple[Tensor, Tensor]:
        return torch.minimum(low, new_low), torch.maximum(high, new_high)

    def range(self, error: RangeError) -> tuple[Tensor, Tensor]:
        """Returns the ends seen."""
        assert self.low is not None
        assert self.high is not None
        return self.low.reshape(self.shape), self.high.reshape(self.shape)


class MovingAverageObserver(MinMaxObserver):
    """The moving averages of each tensor's smallest and largest value (method `moving_average`).

    end = end + momentum * (new - end), starting at the first tensor's.

    Args:
        shape: shape of the quantizer's scale.
        momentum: share of a new tensor, in (0, 1].
    """

    def __init__(self, shape: tuple[int, ...] = (), *, momentum: float = 0.1) -> None:
        super().__init__(shape)
        if not 0 < momentum <= 1:
            raise QonnxTorchError(f"momentum={momentum:g}: the share of a new tensor lies in (0, 1]")
        self.momentum = momentum

    def _update(self, low: Tensor, new_low: Tensor, high: Tensor, new_high: Tensor) -> tuple[Tensor, Tensor]:
        return torch.lerp(low, new_low, self.momentum), torch.lerp(high, new_high, self.momentum)


class HistogramObserver(MinMaxObserver):
    """Counts values in bins of equal width about 0, per channel, beside the ends seen.

    The width of a channel's bins is a power of two. Where a value lies outside, it doubles, and each pair of
    neighbours becomes one bin: exact, so that the order of the tensors does not matter.

    Args:
        shape: shape of the quantizer's scale.
    """

    counts: Tensor | None = None  # (C, bins); bin k holds [(k - bins / 2) * width, ... + width)
    width: Tensor | None = None  # (C,), powers of two

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        super().__init__(shape)
        # Fine where there is one channel, bounded memory where there are many.
        self.bins = min(max(2**18 // max(self.channels, 1), 2**11), 2**16)
        self.bins = 2 ** (self.bins.bit_length() - 1)

    def _observe(self, values: Tensor) -> None:
        super()._observe(values)
        needed = self._width_for(values.abs().amax(1))
        if self.counts is None or self.width is None:
            self.width = needed
            self.counts = torch.zeros(len(values), self.bins, dtype=torch.int64, device=values.device)
        else:
            self._grow(needed)
        k = torch.floor(values / self.width.unsqueeze(1)).to(torch.int64) + self.bins // 2
        row = torch.arange(len(values), device=values.device).unsqueeze(1) * self.bins
        counts = torch.bincount((row + k).reshape(-1), minlength=self.counts.numel())
        self.counts += counts.reshape(self.counts.shape)

    def _width_for(self, largest: Tensor) -> Tensor:
        """Returns the smallest width with which the bins reach beyond the largest magnitude."""
        mantissa, _ = torch.frexp(largest)  # largest = mantissa * 2^e, mantissa < 1
        width = largest / (self.bins // 2) / mantissa
        return torch.nan_to_num(width, nan=0.0).clamp_min(torch.finfo(width.dtype).tiny)

    def _grow(self, width: Tensor) -> None:
        assert self.counts is not None
        assert self.width is not None
        quarter = self.bins // 4
        while bool((behind := self.width < width).any()):
            pairs = self.counts[behind].reshape(-1, self.bins // 2, 2).sum(2)
            self.counts[behind] = F.pad(pairs, (quarter, quarter))
            self.width = torch.where(behind, 2 * self.width, self.width)

    def edges(self) -> Tensor:
        """Returns the lower edges of the bins and the upper edge of the last, (C, bins + 1), in float64."""
        assert self.width is not None
        k = torch.arange(-(self.bins // 2), self.bins // 2 + 1, device=self.width.device)
        return k * self.width.to(torch.float64).unsqueeze(1)


class PercentileObserver(HistogramObserver):
    """The range that holds a percentage of all values (method `percentile`).

    Where values are negative and positive, an equal share is cut off at either end; where all have one sign,
    everything at the end away from 0.

    Args:
        shape: shape of the quantizer's scale.
        percentage: share of the values that the range holds, in (0, 100].
    """

    def __init__(self, shape: tuple[int, ...] = (), *, percentage: float = 99.99) -> None:
        super().__init__(shape)
        if not 0 < percentage <= 100:
            raise QonnxTorchError(f"percentage={percentage:g}: a share of the values lies in (0, 100]")
        self.percentage = percentage

    def range(self, error: RangeError) -> tuple[Tensor, Tensor]:
        """Returns the ends of the range, to a bin's width (linear within a bin)."""
        low, high = (end.reshape(-1) for end in super().range(error))
        one_sided = (low >= 0) | (high <= 0)
        cut = 1 - self.percentage / 100
        share = torch.where(one_sided, cut, cut / 2).to(torch.float64)
        lower = torch.where(low >= 0, low, torch.maximum(low, self._quantile(share)))
        upper = torch.where(high <= 0, high, torch.minimum(high, self._quantile(1 - share)))
        return lower.reshape(self.shape), upper.reshape(self.shape)

    def _quantile(self, share: Tensor) -> Tensor:
        assert self.counts is not None
        total = self.counts.sum(1, keepdim=True)
        below = self.counts.cumsum(1).to(torch.float64)
        wanted = share.unsqueeze(1) * total
        k = torch.searchsorted(below, wanted).clamp_max(self.bins - 1)
        inside = self.counts.gather(1, k)
        part = (wanted - (below.gather(1, k) - inside)) / inside.clamp_min(1)
        edges = self.edges()
        lower, upper = edges.gather(1, k), edges.gather(1, k + 1)
        return (lower + part.clamp(0, 1) * (upper - lower)).squeeze(1).to(torch.float32)


class MSEObserver(HistogramObserver):
    """The range for which the quantizer's mean squared error on the histogram is smallest (method `mse`).

    Both ends of what was seen are multiplied by a common factor, at most `reach`; of 64 factors, and then 32
    between the neighbours of the best, that with the smallest error is taken, per channel.

    Args:
        shape: shape of the quantizer's scale.
        reach: largest factor. Above 1 it makes up for a signed range that ends one step earlier on its
            positive side.
    """

    def __init__(self, shape: tuple[int, ...] = (), *, reach: float = 1.0) -> None:
        super().__init__(shape)
        self.reach = reach

    def range(self, error: RangeError) -> tuple[Tensor, Tensor]:
        """Returns the ends of the best range."""
        assert self.counts is not None
        low, high = (end.reshape(-1) for end in super().range(error))
        edges = self.edges()
        used = (self.counts > 0).any(0)  # bins that no channel uses cost time only
        centers = ((edges[:, :-1] + edges[:, 1:]) / 2)[:, used].to(torch.float32)
        weights = self.counts[:, used].to(torch.float64)

        def cost(factor: Tensor) -> Tensor:
            ends = ((end * factor).reshape(self.shape) for end in (low, high))
            return (error(centers, *ends).to(torch.float64) * weights).sum(1)

        step = self.reach / 64
        coarse = step * torch.arange(1, 65, device=low.device)
        best = _argmin(cost, coarse.unsqueeze(1).expand(-1, len(low)))
        offsets = step * torch.linspace(-1, 1, 33, device=low.device)
        fine = (best + offsets.unsqueeze(1)).clamp(min=step / 64, max=self.reach)
        best = _argmin(cost, fine)
        return (low * best).reshape(self.shape), (high * best).reshape(self.shape)


def _argmin(cost: Callable[[Tensor], Tensor], candidates: Tensor) -> Tensor:
    """Returns for every column of candidates (K, C) the one with the smallest cost; the last among equals."""
    best, lowest = candidates[0], cost(candidates[0])
    for candidate in candidates[1:]:
        found = cost(candidate)
        best = torch.where(found <= lowest, candidate, best)
        lowest = torch.minimum(found, lowest)
    return best


class MeanObserver(Observer):
    """The mean of |x| over all values (method `lsq`, and every method of a bipolar quantizer)."""

    total: Tensor | None = None
    elements = 0

    def _observe(self, values: Tensor) -> None:
        total = values.abs().sum(1, dtype=torch.float64)
        self.total = total if self.total is None else self.total + total
        self.elements += values.shape[1]

    def mean(self) -> Tensor:
        """Returns the mean magnitude, in the scale's shape."""
        assert self.total is not None
        return (self.total / self.elements).to(torch.float32).reshape(self.shape)


def rows(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns x as (C, N): one row per element of a tensor of that shape, broadcast to x."""
    x = x.broadcast_to(torch.broadcast_shapes(x.shape, shape))
    aligned = (1,) * (x.dim() - len(shape)) + tuple(shape)
    kept = [d for d, n in enumerate(aligned) if n != 1]
    rest = [d for d, n in enumerate(aligned) if n == 1]
    return x.permute(*kept, *rest).reshape(torch.Size(shape).numel(), -1)
