"""What `quantize` is told: the quantizers of weights and activations, and the rules that change them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.ops.quantizers.rounding import resolve_rounding_mode
from qonnx_torch.passes.calibration import METHODS
from qonnx_torch.passes.training import QuantizerTraining

__all__ = [
    "AnyQuantizerConfig",
    "FloatQuantizerConfig",
    "Position",
    "QuantizationConfig",
    "QuantizationRule",
    "QuantizerConfig",
]

Granularity = Literal["per_tensor", "per_channel"]
Scale = float | tuple[float, ...] | str


def _check(granularity: str, scale: Scale, power_of_two: bool) -> None:
    if granularity not in get_args(Granularity):
        raise QonnxTorchError(f"granularity {granularity!r} does not exist; known: per_tensor, per_channel")
    if isinstance(scale, str):
        if scale not in METHODS:
            raise QonnxTorchError(
                f"scale {scale!r} is neither a number nor a method; known methods: {', '.join(METHODS)}"
            )
        return
    values = scale if isinstance(scale, tuple) else (scale,)
    if not all(0 < s < float("inf") for s in values):
        raise QonnxTorchError(f"scale {scale}: a scale is positive")
    if power_of_two:
        raise QonnxTorchError(f"scale {scale}: a power of two is taken only of a scale that a method finds")


@dataclass(frozen=True, slots=True)
class QuantizerConfig:
    """One uniform quantizer (Quant), or of one signed bit a BipolarQuant.

    Attributes:
        bit_width: bits, at least 1.
        signed: None: unsigned where no value can be negative, or where the zero point is asymmetric, else
            signed.
        narrow: drop the lowest (signed) or highest (unsigned) integer. None: for weights that are signed and
            symmetric, as Brevitas does, not else.
        rounding_mode: as in `qonnx_torch.nn.Quant`.
        granularity: one scale, or one per channel: of weights the output channels, of embeddings the rows, of
            activations axis 1.
        scale: a number, one per channel, or how to find it: `mse`, `max`, `percentile`, `moving_average` or
            `lsq` (`qonnx_torch.calibrate` explains them; weights take no moving average). With few bits the
            largest value is a poor end of the range: `mse` gives it up where that costs less. Where all
            values are 0, the range is -1 to 1, with a warning.
        options: of that method.
        zero_point: `symmetric` (0), `asymmetric` (found with the scale), or a number.
        power_of_two: round the scale that was found up to a power of two.
        training: how it trains. None: weights as Brevitas' default quantizers (gradient `pass`, the scale
            follows the weight) where their scale is `max`; `lsq` as in its paper (gradient `lsq`, the step is
            learned); a scale given as a number is frozen; a power of two is learned as one; all others learn
            the end of their range (`threshold`), as Brevitas' activations do. Other gradients are `ste`.
    """

    bit_width: float = 8
    signed: bool | None = None
    narrow: bool | None = None
    rounding_mode: str = "ROUND"
    granularity: Granularity = "per_tensor"
    scale: Scale = "mse"
    options: Mapping[str, float] = field(default_factory=dict)
    zero_point: float | Literal["symmetric", "asymmetric"] = "symmetric"
    power_of_two: bool = False
    training: QuantizerTraining | None = None

    def __post_init__(self) -> None:
        if self.bit_width < 1:
            raise QonnxTorchError(f"bit_width {self.bit_width:g}: a quantizer has at least 1 bit")
        if isinstance(self.zero_point, str) and self.zero_point not in ("symmetric", "asymmetric"):
            raise QonnxTorchError(
                f"zero_point {self.zero_point!r} is neither a number nor symmetric nor asymmetric"
            )
        resolve_rounding_mode(self.rounding_mode)
        _check(self.granularity, self.scale, self.power_of_two)


_OCP_LARGEST = {(4, 3): 448.0, (5, 2): 57344.0}  # these give codes away to NaN and infinity


@dataclass(frozen=True, slots=True)
class FloatQuantizerConfig:
    """One minifloat quantizer (FloatQuant); by default OCP's E4M3.

    Attributes:
        exponent_bit_width: bits of the exponent.
        mantissa_bit_width: bits of the mantissa.
        exponent_bias: None: 2^(exponent_bit_width - 1) - 1.
        max_value: largest magnitude. None: OCP's for E4M3 (448) and E5M2 (57344), else that of a format
            whose codes are all finite, 2^(2^exponent_bit_width - 1 - bias) * (2 - 2^-mantissa_bit_width).
        rounding_mode: as in `qonnx_torch.nn.FloatQuant`.
        granularity: as in `QuantizerConfig`; so are scale, options, power_of_two and training.

    Source: OCP 8-bit Floating Point Specification 1.0, OCP Microscaling Formats 1.0 (E2M1: 6, E3M2: 28).

    >>> FloatQuantizerConfig(2, 1).largest, FloatQuantizerConfig(3, 2).largest
    (6.0, 28.0)
    """

    exponent_bit_width: int = 4
    mantissa_bit_width: int = 3
    exponent_bias: float | None = None
    max_value: float | None = None
    rounding_mode: str = "ROUND"
    granularity: Granularity = "per_tensor"
    scale: Scale = "mse"
    options: Mapping[str, float] = field(default_factory=dict)
    power_of_two: bool = False
    training: QuantizerTraining | None = None

    def __post_init__(self) -> None:
        if self.exponent_bit_width < 1 or self.mantissa_bit_width < 0:
            raise QonnxTorchError(
                f"E{self.exponent_bit_width}M{self.mantissa_bit_width}: a minifloat has at least one "
                "exponent bit, and its mantissa no negative number of bits"
            )
        resolve_rounding_mode(self.rounding_mode)
        _check(self.granularity, self.scale, self.power_of_two)

    @property
    def bias(self) -> float:
        """The exponent bias in force."""
        default = 2.0 ** (self.exponent_bit_width - 1) - 1
        return default if self.exponent_bias is None else self.exponent_bias

    @property
    def largest(self) -> float:
        """The largest magnitude in force."""
        if self.max_value is not None:
            return self.max_value
        exponent, mantissa = self.exponent_bit_width, self.mantissa_bit_width
        finite: float = 2.0 ** (2**exponent - 1 - self.bias) * (2 - 2.0**-mantissa)
        return _OCP_LARGEST.get((exponent, mantissa), finite) if self.exponent_bias is None else finite


AnyQuantizerConfig = QuantizerConfig | FloatQuantizerConfig
Position = tuple[Literal["input", "output"], int]
Change = AnyQuantizerConfig | None | Literal["keep"]


@dataclass(frozen=True, slots=True)
class QuantizationRule:
    """Changes how some operators are quantized. Where several rules fit, later ones win, part by part.

    A rule fits an operator that fits all of `op_types`, `names` and `layers` that are given. One without
    `op_types` changes, beside `positions`, only operators of the types that are quantized anyway.

    Attributes:
        op_types: ONNX operator types.
        names: patterns (`fnmatch`) of ONNX node names, which for a traced module are module paths. A pattern
            also fits what lies below: `layer1` fits `layer1.0.conv1`, `fc` fits `fc/MatMul`.
        layers: `first` or `last`: operators with weights that have no other such before, or behind, them.
        weights: quantizer of constant inputs; None for none, `keep` for no change; likewise the next three.
        activations: quantizer of computed inputs, placed where `quantize` says.
        biases: quantizer of the bias.
        outputs: quantizer of the result.
        positions: ("input", i) or ("output", i) -> quantizer of exactly that edge or result, None for none.
    """

    op_types: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    layers: Literal["first", "last"] | None = None
    weights: Change = "keep"
    activations: Change = "keep"
    biases: Change = "keep"
    outputs: Change = "keep"
    positions: Mapping[Position, AnyQuantizerConfig | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_strings(self, "op_types", "names")
        if self.layers not in (None, "first", "last"):
            raise QonnxTorchError(f"layers {self.layers!r} does not exist; known: first, last")
        for side, index in self.positions:
            if side not in ("input", "output") or index < 0:
                raise QonnxTorchError(
                    f"position {(side, index)}: it is ('input', i) or ('output', i), i >= 0"
                )

    def __str__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self)[:3]}
        return f"rule({', '.join(f'{k}={v!r}' for k, v in given.items() if v)})"


@dataclass(frozen=True, slots=True)
class QuantizationConfig:
    """Which values of a module are quantized, and how; 8 bits by default.

    Attributes:
        weights: constant inputs of the quantized operators, and constants that these are taken from, such as
            embeddings; None for none, as in the next five.
        activations: computed inputs of the quantized operators.
        inputs: inputs of the module that reach a quantized operator.
        outputs: outputs of the module.
        biases: third inputs of Conv, ConvTranspose and Gemm, where they are constant.
        residuals: both inputs of every Add of two computed values, with one quantizer for both, as integer
            hardware adds them.
        op_types: ONNX operator types that are quantized.
        rules: exceptions; later ones win.
    """

    weights: AnyQuantizerConfig | None = field(default_factory=QuantizerConfig)
    activations: AnyQuantizerConfig | None = field(default_factory=QuantizerConfig)
    inputs: AnyQuantizerConfig | None = field(default_factory=QuantizerConfig)
    outputs: AnyQuantizerConfig | None = None
    biases: AnyQuantizerConfig | None = None
    residuals: AnyQuantizerConfig | None = None
    op_types: tuple[str, ...] = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    rules: tuple[QuantizationRule, ...] = ()

    def __post_init__(self) -> None:
        _check_strings(self, "op_types")


def _check_strings(config: QuantizationRule | QuantizationConfig, *names: str) -> None:
    for name in names:
        if isinstance(getattr(config, name), str):
            raise QonnxTorchError(f"{name} is a tuple of strings: ({getattr(config, name)!r},)")
