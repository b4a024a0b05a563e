"""Operators with random behaviour."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.ops._operator import operator

__all__ = ["dropout"]


@operator("Dropout", static=("ratio", "training_mode"))
def dropout(data: Tensor, ratio: float = 0.5, training_mode: bool = False, *, seed: int | None = None) -> Any:
    """Returns data, with elements zeroed at rate `ratio` and the others scaled in training.

    The mask output is not available; `seed` is ignored: torch has its own generator. Source: ONNX Dropout-13.
    """
    return F.dropout(data, ratio, training_mode) if training_mode else data
