"""Choosing among overlapping boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from qonnx_torch.ops._operator import operator

__all__: list[str] = []


@operator(
    "NonMaxSuppression",
    since_version=10,
    static=("max_output_boxes_per_class", "iou_threshold", "score_threshold"),
)
def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    max_output_boxes_per_class: int | None = None,
    iou_threshold: float | None = None,
    score_threshold: float | None = None,
    *,
    center_point_box: int = 0,
) -> Tensor:
    """Returns which boxes stay: by falling score those that overlap no better one of their class too much.

    Args:
        boxes: (N, K, 4), any two opposite corners y1, x1, y2, x2; or x and y of the center, width, height.
        scores: (N, classes, K).
        max_output_boxes_per_class: per sample and class; 0 (none) where absent.
        iou_threshold: a box goes whose intersection over union with a better one is larger; 0 where absent.
        score_threshold: a box goes whose score is not larger.
        center_point_box: whether boxes have their center.

    Returns:
        int64 (number of boxes, 3): sample, class and box, sorted so and by falling score. The number depends
        on the data.

    Source: ONNX NonMaxSuppression-11.
    """
    result: Tensor = torch.ops.qonnx_torch.non_max_suppression(
        boxes,
        scores,
        int(_number(max_output_boxes_per_class, 0)),
        float(_number(iou_threshold, 0.0)),
        None if score_threshold is None else float(_number(score_threshold, 0.0)),
        bool(center_point_box),
    )
    return result


def _number(value: object, default: float) -> float:
    """Returns an input of one element, which may be a number or a list of one."""
    while isinstance(value, (tuple, list)):
        value = value[0] if value else None
    return default if value is None else value  # type: ignore[return-value]


@torch.library.custom_op("qonnx_torch::non_max_suppression", mutates_args=())
def _non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    most: int,
    iou_threshold: float,
    score_threshold: float | None,
    center_point_box: bool,
) -> Tensor:
    if center_point_box:
        center, half = boxes[..., :2], boxes[..., 2:] / 2
        low, high = center - half, center + half
    else:
        low, high = (
            torch.minimum(boxes[..., :2], boxes[..., 2:]),
            torch.maximum(boxes[..., :2], boxes[..., 2:]),
        )
    kept = [torch.empty((0, 3), dtype=torch.int64, device=boxes.device)]
    for sample in range(scores.shape[0] if most > 0 else 0):
        for category in range(scores.shape[1]):
            score = scores[sample, category]
            order = torch.sort(score, descending=True, stable=True).indices
            if score_threshold is not None:
                order = order[score[order] > score_threshold]
            chosen = order[_best(low[sample][order], high[sample][order], most, iou_threshold)]
            where = chosen.new_tensor([sample, category]).expand(len(chosen), 2)
            kept.append(torch.cat([where, chosen[:, None]], 1))
    return torch.cat(kept)


@_non_max_suppression.register_fake
def _(
    boxes: Tensor,
    scores: Tensor,
    most: int,
    iou_threshold: float,
    score_threshold: float | None,
    center_point_box: bool,
) -> Tensor:
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((count, 3), dtype=torch.int64)


def _best(low: Tensor, high: Tensor, most: int, threshold: float) -> Tensor:
    """Returns the positions of the boxes that stay, of boxes (K, 2) sorted by falling score."""
    area = (high - low).prod(1)
    remaining = torch.arange(len(low), device=low.device)
    chosen: list[Tensor] = []
    while len(remaining) and len(chosen) < most:
        best, remaining = remaining[0], remaining[1:]
        chosen.append(best)
        sides = torch.minimum(high[best], high[remaining]) - torch.maximum(low[best], low[remaining])
        common = sides.prod(1)
        union = area[best] + area[remaining] - common
        overlaps = (sides > 0).all(1) & (common > 0) & (area[remaining] > 0) & (area[best] > 0) & (union > 0)
        remaining = remaining[~(overlaps & (common / union > threshold))]
    return torch.stack(chosen) if chosen else remaining[:0]
