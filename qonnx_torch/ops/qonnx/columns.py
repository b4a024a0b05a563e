"""Column blocks put back into an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._precision import wide
from qonnx_torch.ops.standard._windows import resolve_pads, spatial_values, windows

__all__: list[str] = []


@operator("Col2Im", since_version=18, static=("image_shape", "block_shape"))
def col2im(
    input: Tensor,
    image_shape: Sequence[int],
    block_shape: Sequence[int],
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Returns the image (N, C, D1, ...) in which the columns are summed where blocks overlap.

    Args:
        input: (N, C * product of block_shape, number of blocks).
        image_shape: D1, ...
        block_shape: k1, ..., before dilation.
        dilations: one per spatial dimension.
        pads: begins, then ends; what falls there is left out.
        strides: one per spatial dimension.

    Raises: InvalidModelError where the number of blocks does not fit. Source: ONNX Col2Im-18.
    """
    rank = len(image_shape)
    strides = spatial_values(strides, rank, "strides")
    dilations = spatial_values(dilations, rank, "dilations")
    pads = resolve_pads(image_shape, block_shape, strides, dilations, pads, "NOTSET")
    padded = [n + b + e for n, b, e in zip(image_shape, pads[:rank], pads[rank:], strict=True)]
    cells = torch.arange(math.prod(padded), device=input.device).reshape(1, 1, *padded)
    # The cell of each element of a column: blocks (O1, ..., k1, ...) as columns (k1 * ..., O1 * ...).
    blocks = windows(cells, block_shape, strides, dilations)[0, 0].flatten(0, rank - 1).flatten(1).t()
    if blocks.shape[1] != input.shape[-1]:
        raise InvalidModelError(
            f"Col2Im: {input.shape[-1]} blocks of {tuple(block_shape)}; the image {tuple(image_shape)} has "
            f"{blocks.shape[1]}"
        )
    columns = input.unflatten(1, (-1, math.prod(block_shape))).flatten(2)
    columns = columns.to(wide(input.dtype))
    image: Tensor = columns.new_zeros((*columns.shape[:2], math.prod(padded)))
    image = image.index_add(2, blocks.reshape(-1), columns).reshape(*columns.shape[:2], *padded)
    for axis, (begin, n) in enumerate(zip(pads[:rank], image_shape, strict=True), start=2):
        image = image.narrow(axis, begin, n)
    return image.to(input.dtype)
