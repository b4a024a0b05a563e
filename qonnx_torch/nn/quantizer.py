"""What all quantizer modules share: they own their parameters, may learn them, and can be switched off."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.nn.delay import Delay, may_write_buffers
from qonnx_torch.nn.scales import (
    ScaleTraining,
    Statistic,
    StatisticsScale,
    kind_of,
    make_scale,
    positive_in,
)
from qonnx_torch.ops.quantizers.gradients import GRADIENTS, Gradient

__all__ = ["Parameter", "Quantizer"]

Parameter = Tensor | float | int | None


class Quantizer(nn.Module):
    """Base of the quantizers: owned parameters are buffers, absent ones arrive as inputs of `forward`.

    `parameter_names` are the ONNX inputs after x, in order, the scale first. A parameter given as None is
    computed elsewhere in the graph and passed to `forward` at its position; all others live here, under
    their names.

    A subclass gives `forward`, which calls `_run`; `_quantize(x, *parameters)`; and `_threshold` where its
    scale can be learned.

    Attributes:
        enabled: whether it quantizes; set by `enable` and `disable`.
        delay: what holds quantization back for a number of training steps, or None.
        scale_training: the parametrisation of a learned scale (`nn.scales`), or None.
    """

    parameter_names: ClassVar[tuple[str, ...]] = ()
    learnable: ClassVar[tuple[str, ...]] = ()  # what beside the scale `train_parameters` can make a parameter
    gradients: ClassVar[tuple[str, ...]] = GRADIENTS  # the names that its `gradient` may have
    statistic: ClassVar[Statistic] = "max"  # what a scale of the kind `statistics` follows
    switchable: ClassVar[bool] = True  # whether the float tensor can stand in for the quantized one
    gradient: Gradient  # of those that have one by name

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self.delay: Delay | None = None
        self.scale_training: nn.Module | None = None

    # -- what it owns ------------------------------------------------------------------------------

    def _own(self, **parameters: Parameter) -> None:
        for name, value in parameters.items():
            if value is not None and not isinstance(value, Tensor):
                value = torch.tensor(float(value))
            self.register_buffer(name, value)

    def _resolve(self, *given: Tensor | None) -> list[Tensor]:
        values = []
        padded = [*given, *[None] * (len(self.parameter_names) - len(given))]
        for name, value in zip(self.parameter_names, padded, strict=True):
            owned = getattr(self, name)
            if (owned is None) == (value is None):
                reason = "is neither owned nor given" if value is None else "is owned and given at once"
                raise ValueError(f"{type(self).__name__}: {name} {reason}")
            values.append(owned if value is None else value)
        return values

    def current_tensor(self, name: str) -> Tensor:
        """Returns an owned parameter's own tensor. Raises QonnxTorchError where it is computed elsewhere."""
        tensor = getattr(self, name)
        if not isinstance(tensor, Tensor):
            raise QonnxTorchError(f"{name} is computed elsewhere in the graph")
        return tensor

    def current_parameters(self) -> dict[str, Tensor]:
        """Returns the parameters as they stand, by name, without those that are computed elsewhere.

        What is learned in another form (a threshold, a logarithm) is given as the plain value it stands for,
        in the dtype that the parameter has in a file.
        """
        current = self._owned()
        training = self.scale_training
        if training is not None and not isinstance(training, StatisticsScale):
            scale = current["scale"]
            with torch.no_grad():
                learned = training(scale, self._owned_threshold(current))
                current["scale"] = positive_in(learned, scale.dtype)
        return current

    def _owned(self) -> dict[str, Tensor]:
        owned = ((name, getattr(self, name)) for name in self.parameter_names)
        return {name: value.detach() for name, value in owned if value is not None}

    def set_parameters(self, **values: Parameter) -> None:
        """Replaces owned parameters by new values; whatever is learned goes on being learned, from there.

        Each keeps its dtype (unless an integer type cannot hold the value) and device, and its shape where
        the value has one element. Learned tensors stay
        the same `nn.Parameter` while their shape is, so that an optimizer made before goes on.

        Args:
            values: parameter name -> new value.

        Raises:
            QonnxTorchError: a parameter that is computed elsewhere, or a learned scale that is not positive.
        """
        updated = self.current_parameters()
        for name, value in values.items():
            own = self.current_tensor(name)
            new = torch.as_tensor(value, device=own.device).detach()
            integers = not own.is_floating_point() and torch.equal(new, torch.round(new))
            new = new.to(own.dtype if own.is_floating_point() or integers else torch.float32)
            updated[name] = new.expand(own.shape) if new.numel() == 1 else new
        # A change of the bit width moves the threshold; the scale of every kind starts again where it was.
        restarted = self._parametrised(self.scale_kind, updated)
        for name, new in updated.items():
            own = self.current_tensor(name)
            if own.shape == new.shape and own.dtype == new.dtype:
                with torch.no_grad():
                    own.copy_(new)
            elif isinstance(own, nn.Parameter):
                setattr(self, name, nn.Parameter(new.clone(), own.requires_grad))
            else:
                setattr(self, name, new.clone())
        if self.scale_training is not None and restarted is not None:
            _take_over(self.scale_training, restarted)
            self.scale_training = restarted

    @property
    def owns_scale(self) -> bool:
        """Whether it has a scale that can be learned or calibrated: one in a range that it knows."""
        has_range = type(self)._threshold is not Quantizer._threshold
        return has_range and all(getattr(self, name) is not None for name in self.parameter_names)

    # -- what it learns ----------------------------------------------------------------------------

    @property
    def scale_kind(self) -> ScaleTraining:
        """What is learned of the scale: a name of `nn.scales.ScaleTraining`."""
        return "frozen" if self.scale_training is None else kind_of(self.scale_training)

    def train_parameters(self, *, scale: ScaleTraining = "frozen") -> None:
        """Chooses what is learned, from the values as they stand; can be called again at any time.

        What was learned in the same form before stays the same `nn.Parameter`.

        Args:
            scale: `frozen`, `step`, `threshold`, `log2`, `power_of_two` or `statistics`; see `nn.scales`.

        Raises:
            QonnxTorchError: an unknown kind, a quantizer without a scale to learn, a scale that is computed
                elsewhere, or one that is not positive.
        """
        current = self.current_parameters()
        training = self._parametrised(scale, current)
        if training is not None and not current["scale"].is_floating_point():
            current["scale"] = current["scale"].to(torch.float32)  # what is learned is no integer
        for name, value in current.items():
            self._hold(name, value)
        if training is not None and self.scale_training is not None and scale == self.scale_kind:
            _take_over(self.scale_training, training)
        self.scale_training = training
        self.unfreeze()

    def threshold(self) -> Tensor:
        """Returns the end of the range in units of the scale: scale * threshold is the largest magnitude.

        Raises:
            QonnxTorchError: a quantizer that has none, or whose parameters are computed elsewhere.
        """
        return self._owned_threshold(self._owned())

    def _parametrised(self, kind: ScaleTraining, current: dict[str, Tensor]) -> nn.Module | None:
        if kind == "frozen":
            return None
        if "scale" not in current:
            raise QonnxTorchError(f"scale is computed elsewhere in the graph; it cannot be {kind} here")
        return make_scale(kind, current["scale"], self._owned_threshold(current), self.statistic)

    def _owned_threshold(self, current: dict[str, Tensor]) -> Tensor:
        missing = [name for name in self.parameter_names if name not in current]
        if missing:
            raise QonnxTorchError(
                f"{' and '.join(missing)} computed elsewhere in the graph: the scale's range is unknown here"
            )
        return self._threshold(*(current[name] for name in self.parameter_names[1:]))

    def _threshold(self, *others: Tensor) -> Tensor:
        """Returns the end of the range in units of the scale, from the parameters after the scale."""
        raise QonnxTorchError(f"{type(self).__name__} has no scale that can be learned")

    def _hold(self, name: str, value: Tensor) -> None:
        """Keeps an owned parameter as a buffer."""
        delattr(self, name)
        self.register_buffer(name, value.clone())

    def _learn(self, name: str, value: Tensor, parameter: nn.Parameter | None) -> None:
        """Keeps an owned parameter as an `nn.Parameter`, the given one where there is one."""
        delattr(self, name)
        floating = value if value.is_floating_point() else value.to(torch.float32)
        self.register_parameter(name, nn.Parameter(floating.clone()) if parameter is None else parameter)

    def update_statistics(self, x: Tensor) -> None:
        """Brings a scale that follows its tensor up to date with x, as an export wants; others stay."""
        training = self.scale_training
        if isinstance(training, StatisticsScale) and training.following:
            current = self.current_parameters()
            with torch.no_grad():
                scale = training(self.aligned(x), self._owned_threshold(current))
                self.current_tensor("scale").copy_(scale)

    def freeze(self) -> None:
        """Stops what is learned where it stands: no gradients, and a scale of statistics follows no more."""
        self._set_learning(False)

    def unfreeze(self) -> None:
        """Lets what `train_parameters` chose be learned again."""
        self._set_learning(True)

    def _set_learning(self, learning: bool) -> None:
        for parameter in self.parameters():
            parameter.requires_grad_(learning)
        if isinstance(self.scale_training, StatisticsScale):
            self.scale_training.following = learning

    # -- whether it quantizes ----------------------------------------------------------------------

    def disable(self) -> None:
        """Lets the float tensor pass. Raises QonnxTorchError where that would be another quantity."""
        self._check_switchable()
        self.enabled, self.delay = False, None

    def enable(self, after_steps: int = 0) -> None:
        """Quantizes (again), at once or after a number of training steps.

        Args:
            after_steps: forward passes in `train()`, with gradients, that still let the float tensor pass.
                The counter is the buffer `delay.remaining`; with 0 there is none.

        Raises:
            QonnxTorchError: a negative number, or a delay of a quantizer that cannot be switched off.
        """
        if after_steps < 0:
            raise QonnxTorchError(f"after_steps={after_steps}: a delay is a number of steps, 0 or more")
        self.enabled, self.delay = True, None
        if after_steps:
            self._check_switchable()
            device = next((t.device for t in (*self.buffers(), *self.parameters())), None)
            self.delay = Delay(after_steps, device=device).train(self.training)

    def _check_switchable(self) -> None:
        if not self.switchable:
            raise QonnxTorchError(
                f"{type(self).__name__} cannot be switched off: its result is another quantity than its input"
            )

    # -- what it computes --------------------------------------------------------------------------

    def aligned(self, x: Tensor) -> Tensor:
        """Returns x in the shape to which the parameters broadcast: its own, unless they are per block."""
        return x

    def _run(self, x: Tensor, *given: Tensor | None) -> Tensor:
        """Returns x quantized with the parameters owned and given, unless switched off."""
        values = self._resolve(*given)
        if not self.enabled:
            return _passed(x, (*self.parameters(), *values))
        if self.scale_training is not None:
            values[0] = self._learned_scale(x, self.scale_training, values)
        quantized = self._quantize(x, *values)
        if self.delay is None:
            return quantized
        delayed: Tensor = self.delay(x, quantized)
        return delayed

    def _quantize(self, x: Tensor, *parameters: Tensor) -> Tensor:
        """Returns x quantized with the parameters, in the order of `parameter_names`."""
        raise NotImplementedError

    def _learned_scale(self, x: Tensor, training: nn.Module, values: list[Tensor]) -> Tensor:
        scale, *others = values
        statistics = isinstance(training, StatisticsScale)
        if statistics and not training.following:
            return scale
        learned = positive_in(training(x, self._threshold(*others)), scale.dtype)
        if statistics and may_write_buffers():
            scale.copy_(learned.detach())  # what an export writes
        return learned

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.scale_training is not None:  # the scale that goes with what was learned, not the first one
            destination[f"{prefix}scale"] = self.current_parameters()["scale"]

    def onnx_attributes(self) -> dict[str, Any]:
        """Returns the ONNX attributes of this quantizer, by ONNX name."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Shows the owned scalars, the attributes, and that it is disabled."""
        owned = ((n, getattr(self, n)) for n in self.parameter_names)
        shown = [
            f"{n}={v.item():g}" if v.numel() == 1 else f"{n}={tuple(v.shape)}"
            for n, v in owned
            if v is not None and not v.is_meta
        ]
        shown += [f"{k}={v}" for k, v in self.onnx_attributes().items()]
        return ", ".join(shown if self.enabled else [*shown, "disabled"])


def _passed(x: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
    """Returns x, bit for bit, with a zero gradient for every learned parameter.

    DistributedDataParallel waits for the gradient of each. x - 0.0 is x for every x, also for -0.0.
    """
    x = x if x.is_floating_point() else x.to(torch.float32)
    learned = [p for p in parameters if p.requires_grad] if torch.is_grad_enabled() else []
    for parameter in learned:
        x = x - (parameter * 0).sum().to(x.dtype)
    return x


def _take_over(old: nn.Module, new: nn.Module) -> None:
    """Makes the learned tensors of `old`, with the values of `new`, those of `new`, where shapes agree."""
    for name, parameter in old.named_parameters():
        fresh = new.get_parameter(name)
        fresh.requires_grad_(parameter.requires_grad)
        if parameter.shape == fresh.shape:
            with torch.no_grad():
                parameter.copy_(fresh)
            setattr(new, name, parameter)
    if isinstance(old, StatisticsScale) and isinstance(new, StatisticsScale):
        new.following = old.following
