"""The dtype to compute in where torch's kernels lack, or round away too much of, an element type."""

from __future__ import annotations

import torch

__all__ = ["wide"]

_HALVES = (torch.float16, torch.bfloat16)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Returns float32 for half precision, int64 for integers and booleans, else the dtype itself."""
    if dtype in _HALVES:
        return torch.float32
    return dtype if dtype.is_floating_point or dtype.is_complex else torch.int64
