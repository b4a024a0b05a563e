"""Bodies of the channels-last operators: transpositions around the standard operator."""

from __future__ import annotations

from collections.abc import Sequence

from .pieces import Script, Tensor, op, standard_script

__all__ = ["batch_normalization", "conv", "max_pool"]


def _perms(rank: int) -> tuple[list[int], list[int]]:
    """Returns the permutations of `rank` axes from channels last to channels first, and back."""
    return [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]


def conv(rank: int) -> Script:
    """Returns channels-last Conv: x (N, ..., C), w (M, ..., C / group), b (M,), result (N, ..., M).

    Source: qonnx 1.0.0, qonnx.custom_op.channels_last.
    """
    first, last = _perms(rank)

    @standard_script
    def body(
        x: Tensor,
        w: Tensor,
        b: Tensor,
        auto_pad: str,
        dilations: Sequence[int],
        group: int,
        kernel_shape: Sequence[int],
        pads: Sequence[int],
        strides: Sequence[int],
    ) -> Tensor:
        """Conv of channels-last x and w. qonnx 1.0.0, channels_last."""
        y = op.Conv(
            op.Transpose(x, perm=first),
            op.Transpose(w, perm=first),
            b,
            auto_pad=auto_pad,
            dilations=dilations,
            group=group,
            kernel_shape=kernel_shape,
            pads=pads,
            strides=strides,
        )
        return op.Transpose(y, perm=last)

    return body


def max_pool(rank: int) -> Script:
    """Returns channels-last MaxPool: x (N, ..., C).

    Source: qonnx 1.0.0, qonnx.custom_op.channels_last.
    """
    first, last = _perms(rank)

    @standard_script
    def body(
        x: Tensor,
        auto_pad: str,
        ceil_mode: int,
        dilations: Sequence[int],
        kernel_shape: Sequence[int],
        pads: Sequence[int],
        strides: Sequence[int],
    ) -> Tensor:
        """MaxPool of channels-last x. qonnx 1.0.0, channels_last."""
        y = op.MaxPool(
            op.Transpose(x, perm=first),
            auto_pad=auto_pad,
            ceil_mode=ceil_mode,
            dilations=dilations,
            kernel_shape=kernel_shape,
            pads=pads,
            strides=strides,
        )
        return op.Transpose(y, perm=last)

    return body


def batch_normalization(rank: int) -> Script:
    """Returns channels-last BatchNormalization: x (N, ..., C), the four parameters (C,).

    Source: qonnx 1.0.0, qonnx.custom_op.channels_last.
    """
    first, last = _perms(rank)

    @standard_script
    def body(
        x: Tensor, scale: Tensor, b: Tensor, mean: Tensor, var: Tensor, epsilon: float, momentum: float
    ) -> Tensor:
        """BatchNormalization of channels-last x. qonnx 1.0.0, channels_last."""
        y = op.BatchNormalization(
            op.Transpose(x, perm=first), scale, b, mean, var, epsilon=epsilon, momentum=momentum
        )
        return op.Transpose(y, perm=last)

    return body
