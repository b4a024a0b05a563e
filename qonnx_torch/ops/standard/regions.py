"""Regions of interest: pooling over boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import as_python, operator
from qonnx_torch.ops.standard._precision import wide

__all__: list[str] = []


@operator("RoiAlign", since_version=10)
def roi_align(
    X: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Returns boxes of X cut into bins, each pooled over points between the elements.

    Args:
        X: (N, C, H, W).
        rois: (R, 4), boxes as x1, y1, x2, y2.
        batch_indices: (R,), which sample of X a box is in.
        coordinate_transformation_mode: half_pixel, or output_half_pixel: boxes are not moved by half an
            element, and are at least one element large.
        mode: avg; or max: of the four elements around each point, times their weights, the largest.
        output_height: number of bins along H.
        output_width: number of bins along W.
        sampling_ratio: points per bin and dimension; 0: as many as a bin of the box has elements, rounded up,
            which depends on the data.
        spatial_scale: factor from the coordinates of boxes to those of X.

    Returns:
        (R, C, output_height, output_width).

    Source: ONNX RoiAlign-22.
    """
    if mode not in ("avg", "max"):
        raise InvalidModelError(f"RoiAlign: mode {mode!r}: avg or max")
    dtype = wide(X.dtype)
    aligned = coordinate_transformation_mode == "half_pixel"
    x1, y1, x2, y2 = (rois.to(dtype) * spatial_scale - (0.5 if aligned else 0.0)).unbind(-1)
    rows = _bins(y1, y2, output_height, X.shape[2], sampling_ratio, aligned)
    columns = _bins(x1, x2, output_width, X.shape[3], sampling_ratio, aligned)
    # Four elements around each point: (R, output_height, output_width, points, points, 4).
    samples = batch_indices.reshape(-1, 1, 1, 1, 1)
    places, weights = [], []
    for y, share_y in rows.corners:
        for x, share_x in columns.corners:
            row = samples * X.shape[2] + y[:, :, None, :, None]
            places.append(row * X.shape[3] + x[:, None, :, None, :])
            weights.append(share_y[:, :, None, :, None] * share_x[:, None, :, None, :])
    table = X.to(dtype).permute(0, 2, 3, 1).flatten(0, 2)  # (N * H * W, C)
    place, weight = torch.stack(places, -1), torch.stack(weights, -1)
    if mode == "avg":
        pooled = F.embedding_bag(
            place.flatten(0, 2).flatten(1),
            table,
            mode="sum",
            per_sample_weights=weight.flatten(0, 2).flatten(1),
        ).reshape(-1, output_height, output_width, X.shape[1])
        count = (rows.count.clamp(min=0) * columns.count.clamp(min=0)).clamp(min=1)
        pooled = pooled / count.reshape(-1, 1, 1, 1)
    else:
        used = rows.used[:, :, None, :, None] & columns.used[:, None, :, None, :]
        values = F.embedding(place, table) * weight.unsqueeze(-1)
        values = values.amax(-2).masked_fill(~used.unsqueeze(-1), -torch.inf).flatten(3, 4).amax(3)
        pooled = torch.where(values == -torch.inf, torch.zeros_like(values), values)
    return pooled.permute(0, 3, 1, 2).to(X.dtype)


class _Bins:
    """The points of the bins of boxes along one dimension.

    Attributes:
        corners: the elements before and after each point, (R, bins, points), and their weights.
        used: which of the points each box has, (R, 1, points).
        count: points per bin of each box, (R,).
    """

    def __init__(self, corners: list[tuple[Tensor, Tensor]], used: Tensor, count: Tensor) -> None:
        self.corners, self.used, self.count = corners, used, count


def _bins(start: Tensor, end: Tensor, bins: int, length: int, sampling_ratio: int, aligned: bool) -> _Bins:
    extent = end - start if aligned else (end - start).clamp(min=1.0)
    size = extent / bins
    if sampling_ratio > 0:
        count, most = torch.full_like(size, sampling_ratio), sampling_ratio
    else:
        count = torch.ceil(size)
        most = _largest(count)
    number = torch.arange(most, dtype=size.dtype, device=size.device)
    used = (number < count[:, None])[:, None]
    size, start = size.reshape(-1, 1, 1), start.reshape(-1, 1, 1)
    first = torch.arange(bins, dtype=size.dtype, device=size.device).reshape(-1, 1)
    steps = count.clamp(min=1).reshape(-1, 1, 1)
    position = start + first * size + (number + 0.5) * size / steps
    counts = used & (position >= -1.0) & (position <= length)
    position = position.clamp(min=0)
    before = position.floor().clamp(max=length - 1)
    share = torch.where(before < length - 1, position - before, torch.zeros_like(position))
    after = (before + 1).clamp(max=length - 1)
    corners = [(before, (1 - share) * counts), (after, share * counts)]
    return _Bins([(index.to(torch.int64), weight) for index, weight in corners], used, count)


def _largest(count: Tensor) -> int:
    """Returns the largest of the numbers of points, at least 1, which the data decide."""
    try:
        most: int = as_python(torch.cat([count, count.new_ones(1)]).max().to(torch.int64))
    except DataDependentOutputException:  # only shapes are inferred, which are the same for any number
        return 1
    torch._check(most >= 1)
    return most


@operator("MaxRoiPool")
def max_roi_pool(
    X: Tensor, rois: Tensor, *, pooled_shape: Sequence[int], spatial_scale: float = 1.0
) -> Tensor:
    """Returns boxes of X cut into bins, and the maximum of each (0 where it has no element).

    Args:
        X: (N, C, H, W).
        rois: (R, 5), boxes as sample, x1, y1, x2, y2, rounded to whole elements.
        pooled_shape: number of bins along H and W.
        spatial_scale: factor from the coordinates of boxes to those of X.

    Returns:
        (R, C, *pooled_shape).

    Source: ONNX MaxRoiPool-22.
    """
    dtype = wide(X.dtype)
    corners = rois[:, 1:].to(dtype) * spatial_scale
    x1, y1, x2, y2 = (corners.sign() * (corners.abs() + 0.5).floor()).unbind(-1)
    x = X.to(dtype)[rois[:, 0].to(torch.int64)]
    for first, last, bins, axis in ((x1, x2, pooled_shape[1], 3), (y1, y2, pooled_shape[0], 2)):
        size = (last - first + 1).clamp(min=1) / bins
        place = torch.arange(x.shape[axis], device=X.device)
        pooled = []
        for i in range(bins):
            begin, end = (i * size).floor() + first, ((i + 1) * size).ceil() + first
            inside = (place >= begin[:, None]) & (place < end[:, None])
            inside = inside[:, None, None] if axis == 3 else inside[:, None, :, None]
            pooled.append(x.masked_fill(~inside, -torch.inf).amax(axis))
        x = torch.stack(pooled, axis)
    return torch.where(x == -torch.inf, torch.zeros_like(x), x).to(X.dtype)
