"""Operators that behave differently in training: BatchNormalization and Dropout."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qonnx_torch.ops.qonnx.channels_last import batch_normalization_channels_last
from qonnx_torch.ops.standard.normalization import batch_normalization
from qonnx_torch.ops.standard.random import dropout
from qonnx_torch.registry import REGISTRY

__all__ = ["BatchNormalization", "BatchNormalizationChannelsLast", "Dropout"]


class BatchNormalization(nn.Module):
    """Batch normalization with its tensors as inputs, as in ONNX; `train()` updates the statistics.

    In `eval()`: (X - mean) / sqrt(var + epsilon) * scale + B. In `train()` the statistics of the batch take
    the place of mean and var, and the tensors given as mean and var are updated in place:
    running = running * momentum + batch * (1 - momentum), with the unbiased variance, as torch does.

    Args:
        epsilon: added to the variance.
        momentum: share of the old running statistics that stays (1 - torch's momentum).
        training_mode: 1 means that the file itself asks for batch statistics.
        saved_statistics: 1: then also the mean and variance of the batch are outputs (versions below 14).

    Attributes:
        frozen: True computes also in `train()` as in `eval()`; set by `freeze` and `unfreeze`.

    Shape: (N, C, ...) -> the same. Source: ONNX BatchNormalization-15.
    """

    _function = staticmethod(batch_normalization)

    def __init__(
        self,
        *,
        epsilon: float = 1e-5,
        momentum: float = 0.9,
        training_mode: int = 0,
        saved_statistics: int = 0,
    ) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.momentum = momentum
        self.training_mode = training_mode
        self.saved_statistics = saved_statistics
        self.frozen = False

    def freeze(self) -> None:
        """Uses the running statistics in `train()` too, and updates them no more; scale and B still train."""
        self.frozen = True

    def unfreeze(self) -> None:
        """Uses and updates the statistics of the batch in `train()` again."""
        self.frozen = False

    def onnx_attributes(self) -> dict[str, Any]:
        """Returns epsilon, momentum and training_mode."""
        return {"epsilon": self.epsilon, "momentum": self.momentum, "training_mode": self.training_mode}

    def forward(self, X: Tensor, scale: Tensor, B: Tensor, input_mean: Tensor, input_var: Tensor) -> Any:
        """Returns the normalized X; with training_mode 1 also the new running mean and variance, ..."""
        return self._function(
            X,
            scale,
            B,
            input_mean,
            input_var,
            **self.onnx_attributes(),
            saved_statistics=self.saved_statistics,
            update_statistics=self.training and not self.frozen,
        )

    def extra_repr(self) -> str:
        """Shows epsilon and momentum, and that it is frozen."""
        return f"epsilon={self.epsilon:g}, momentum={self.momentum:g}" + (", frozen" if self.frozen else "")


class BatchNormalizationChannelsLast(BatchNormalization):
    """`BatchNormalization` of a tensor with channels last. Source: QONNX 1.0.0, channels_last domain."""

    _function = staticmethod(batch_normalization_channels_last)


class Dropout(nn.Module):
    """Identity in `eval()`; in `train()` zeroes elements with probability `ratio` and scales the others.

    Shape: any -> the same. Source: ONNX Dropout-22, whose inputs ratio and training_mode are given here as
    Python values; training follows the module's mode, as is usual in torch.

    Args:
        seed: of the choice, where the file itself asks for training_mode; `train()` uses torch's generator.
        outputs: 2 also returns where the elements stay.
    """

    def __init__(self, *, seed: int | None = None, outputs: int = 1) -> None:
        super().__init__()
        self.seed = seed
        self.outputs = outputs

    def forward(self, data: Tensor, ratio: float = 0.5, training_mode: bool = False) -> Any:
        """Returns data, with dropout while the module trains."""
        seed = None if self.training else self.seed
        return dropout(data, ratio, training_mode or self.training, seed=seed, outputs=self.outputs)

    def onnx_attributes(self) -> dict[str, Any]:
        """Returns seed, where the file had one; ratio and training_mode are inputs."""
        return {} if self.seed is None else {"seed": self.seed}


REGISTRY.add_module(batch_normalization, BatchNormalization)
REGISTRY.add_module(batch_normalization_channels_last, BatchNormalizationChannelsLast)
REGISTRY.add_module(dropout, Dropout)
