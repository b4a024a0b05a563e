"""Pools, resizing and padding as ONNX operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import fx

from qonnx_torch.lowering.emitter import Emitter, NotLoweredError
from qonnx_torch.lowering.layers import Ints, each, spatial
from qonnx_torch.lowering.table import lowers
from qonnx_torch.ops.standard import movement, padding, pool
from qonnx_torch.ops.standard.resize import resize

__all__: list[str] = ["interpolate", "pad"]


def _windows(kernel_size: Ints, stride: Ints | None, padding: Ints, ceil_mode: bool, rank: int) -> Any:
    kernel = each(kernel_size, rank)
    steps = kernel if stride is None or stride == [] else each(stride, rank)
    return {
        "kernel_shape": kernel,
        "strides": steps,
        "pads": each(padding, rank) * 2,
        "ceil_mode": int(ceil_mode),
    }


def _max_pool(rank: int) -> Any:
    def max_pool(
        g: Emitter,
        input: fx.Node,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        spatial(g, input, rank)
        if return_indices:
            raise NotLoweredError("the indices of MaxPool are not available")
        windows = _windows(kernel_size, stride, padding, ceil_mode, rank)
        return g.call(pool.max_pool, input, dilations=each(dilation, rank), **windows)

    return max_pool


def _avg_pool(rank: int) -> Any:
    def avg_pool(
        g: Emitter,
        input: fx.Node,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        spatial(g, input, rank)
        if divisor_override is not None:
            raise NotLoweredError("AveragePool has no divisor_override")
        windows = _windows(kernel_size, stride, padding, ceil_mode, rank)
        return g.call(pool.average_pool, input, count_include_pad=int(count_include_pad), **windows)

    return avg_pool


def _adaptive_pool(rank: int, windows: Any, everything: Any) -> Any:
    def adaptive_pool(g: Emitter, input: fx.Node, output_size: Any, return_indices: bool = False) -> Any:
        spatial(g, input, rank)
        if return_indices:
            raise NotLoweredError("the indices of MaxPool are not available")
        wanted = each(output_size, rank)
        if all(n == 1 for n in wanted):
            return g.call(everything, input)
        sizes = g.fixed_sizes(input, range(2, rank + 2))
        target = [n if n is not None else have for n, have in zip(wanted, sizes, strict=True)]
        if any(have % n for n, have in zip(target, sizes, strict=True)):
            raise NotLoweredError(f"{tuple(sizes)} does not divide evenly into {tuple(target)} windows")
        kernel = tuple(have // n for n, have in zip(target, sizes, strict=True))
        return g.call(windows, input, kernel_shape=kernel, strides=kernel)

    return adaptive_pool


for _rank, _max, _avg, _adaptive_max, _adaptive_avg in (
    (1, F.max_pool1d, F.avg_pool1d, F.adaptive_max_pool1d, F.adaptive_avg_pool1d),
    (2, F.max_pool2d, F.avg_pool2d, F.adaptive_max_pool2d, F.adaptive_avg_pool2d),
    (3, F.max_pool3d, F.avg_pool3d, F.adaptive_max_pool3d, F.adaptive_avg_pool3d),
):
    lowers(_max)(_max_pool(_rank))
    lowers(_avg)(_avg_pool(_rank))
    lowers(_adaptive_max)(_adaptive_pool(_rank, pool.max_pool, pool.global_max_pool))
    lowers(_adaptive_avg)(_adaptive_pool(_rank, pool.average_pool, pool.global_average_pool))


@lowers(F.interpolate)
def interpolate(
    g: Emitter,
    input: fx.Node,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    """Writes Resize, by factors where they are given or whole, else by sizes."""
    modes = {"nearest": "nearest", "bicubic": "cubic"} | dict.fromkeys(
        ("linear", "bilinear", "trilinear"), "linear"
    )
    if mode not in modes or antialias or recompute_scale_factor:
        raise NotLoweredError(f"Resize has no mode {mode!r} of torch, no antialias, no recomputed factors")
    rank = g.rank(input) - 2
    attributes: dict[str, Any] = {"mode": modes[mode]}
    if mode == "nearest":
        attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    else:
        attributes["coordinate_transformation_mode"] = "align_corners" if align_corners else "half_pixel"
    if scale_factor is not None:
        factors = tuple(float(f) for f in each(scale_factor, rank))
        return g.call(resize, input, None, (1.0, 1.0, *factors), **attributes)
    old, new = g.fixed_sizes(input, range(2, rank + 2)), each(size, rank)
    if all(n % o == 0 for n, o in zip(new, old, strict=True)):
        whole = (1.0, 1.0, *(float(n // o) for n, o in zip(new, old, strict=True)))
        return g.call(resize, input, None, whole, **attributes)
    return g.call(resize, input, None, None, new, axes=tuple(range(2, rank + 2)), **attributes)


@lowers(F.pixel_shuffle)
def pixel_shuffle(g: Emitter, input: fx.Node, upscale_factor: int) -> Any:
    """Writes DepthToSpace in the order column, row, depth."""
    if g.rank(input) != 4:
        raise NotLoweredError("DepthToSpace wants (N, C, H, W)")
    return g.call(movement.depth_to_space, input, blocksize=upscale_factor, mode="CRD")


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@lowers(F.pad)
def pad(
    g: Emitter, input: fx.Node, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Any:
    """Writes Pad; torch gives pairs from the last dimension on, ONNX all begins, then all ends."""
    if not all(isinstance(n, int) for n in pad):
        raise NotLoweredError("the padding depends on the batch")
    rank = g.rank(input)
    missing = [0] * (rank - len(pad) // 2)
    begins = (*missing, *reversed(pad[0::2]))
    ends = (*missing, *reversed(pad[1::2]))
    fill = (float(value),) if mode == "constant" and value else ()
    return g.call(padding.pad, input, begins + ends, *fill, mode=_PAD_MODES[mode])
