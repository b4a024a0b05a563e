"""Compares every gradient, by name, with Brevitas 0.13.4 itself or with the formula of its paper.

    python benchmarks/quantizer_gradients.py [--points 100000] [--json FILE]

Per quantizer and gradient, at least `--points` values go through several parameter sets: random ones in and
out of range, every half step (ties, bounds, half a step beyond them), far outliers. Shown is the largest
difference of the result and of the gradient of x, absolute and in rounding units of the reference (float32).
The gradients of the parameters are sums over all values; shown is the error of either side relative to the
size of the summands, in float32 rounding units. There the truth is the sum, in float64, of the reference's
own summands. Exit status 1 where a gradient of x is off by more than one rounding unit.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from qonnx_torch import ops

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from brevitas.core.bit_width import BitWidthConst
    from brevitas.core.function_wrapper import FloatClamp, FloorSte, RoundSte, TensorClamp, TensorClampSte
    from brevitas.core.quant import BinaryQuant, ClampedBinaryQuant, IntQuant, TruncIntQuant
    from brevitas.core.quant.float import FloatQuant
    from brevitas.core.utils import StatelessBuffer
    from brevitas.function.ops import compute_max_mantissa

NAMES = ("scale", "zero_point", "bit_width")
UNIT = 2.0**-23
Function = Callable[..., Tensor]
# A formula gives, from x and the parameters, the result and its derivative by each of them, per element.
Formula = Callable[..., tuple[Tensor, ...]]


class Given(nn.Module):
    """A module that returns a given value, whatever it is asked: what Brevitas wants as scaling_impl."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, *_: Any) -> Any:
        return self.value


class MaxMantissa(nn.Module):
    def forward(self, mantissa_bits: Tensor) -> Tensor:
        return compute_max_mantissa(mantissa_bits)


@dataclass
class Row:
    """One line of the table; differences are the largest over the parameter sets."""

    quantizer: str
    gradient: str
    reference: str
    values: int = 0
    forward: float = 0.0
    dx: float = 0.0
    dx_units: float = 0.0
    sums: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Ours and its reference: a function that autograd differentiates, or a formula; the parameter sets."""

    quantizer: str
    gradient: str
    reference: str
    ours: Function
    theirs: Function | None
    sets: Sequence[tuple[tuple[float, ...], dict[str, Any]]]
    formula: Formula | None = None
    reach: float = 1.0  # the values reach this many times farther


def values(points: int, scale: float, reach: float) -> Tensor:
    """Returns random values in and out of range, every half step, and far outliers."""
    generator = torch.Generator().manual_seed(1)
    random = torch.randn(points, generator=generator) * 10 * scale * reach
    half_steps = torch.arange(-600, 601) / 2 * scale
    small = torch.pow(10, torch.empty(points // 10).uniform_(-5, 0, generator=generator)) * scale
    outliers = torch.tensor([1e3, -1e3, 1e5, -1e5]) * scale
    return torch.cat([random, half_steps, half_steps * reach, small, -small, outliers])


def gradients(function: Function, leaves: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Returns the result, and the gradients of x and the parameters (zeros where there are none)."""
    leaves = [t.detach().clone().requires_grad_() for t in leaves]
    y = function(*leaves)
    return y.detach(), list(torch.autograd.grad(y, leaves, grad, materialize_grads=True))


def units(actual: Tensor, expected: Tensor) -> float:
    """Returns the largest difference in rounding units of the expected values."""
    size = expected.abs()
    spacing = torch.nextafter(size, torch.full_like(size, math.inf)) - size
    return float(((actual.double() - expected.double()).abs() / spacing.double()).max())


def compare(comparison: Comparison, points: int) -> Row:
    """Returns the row of a comparison."""
    row = Row(comparison.quantizer, comparison.gradient, comparison.reference)
    for parameters, attributes in comparison.sets:
        x = values(points, parameters[0], comparison.reach)
        grad = torch.linspace(-1, 2, len(x))
        leaves = [x, *(torch.tensor(p) for p in parameters)]
        y, found = gradients(partial(comparison.ours, **attributes), leaves, grad)
        if comparison.theirs is not None:
            theirs = partial(comparison.theirs, **attributes)
            expected_y, expected = gradients(theirs, leaves, grad)
            each = gradients(theirs, [t.expand(x.shape) for t in leaves], grad)[1]
        else:
            expected_y, *derivatives = comparison.formula(*leaves, **attributes)
            each = [(d.double() * grad).float() for d in derivatives]
            expected = [each[0], *(e.sum() for e in each[1:])]
        row.values += len(x)
        row.forward = max(row.forward, float((y - expected_y).abs().max()))
        row.dx = max(row.dx, float((found[0] - expected[0]).abs().max()))
        row.dx_units = max(row.dx_units, units(found[0], expected[0]))
        for name, ours, own, summands in zip(NAMES, found[1:], expected[1:], each[1:], strict=False):
            # The size of what is added up: summands like round(v) - v are differences of two larger terms.
            size = float(
                (grad.abs() * ((x / parameters[0]).abs() + (y / parameters[0]).abs())).double().sum()
            )
            size *= 1.0 if name == "scale" else parameters[0]
            exact = float(summands.double().sum())
            entry = row.sums.setdefault(name, {"difference": 0.0, "ours": 0.0, "reference": 0.0})
            entry["difference"] = max(entry["difference"], abs(float(ours) - float(own)))
            entry["ours"] = max(entry["ours"], abs(float(ours) - exact) / size / UNIT)
            entry["reference"] = max(entry["reference"], abs(float(own) - exact) / size / UNIT)
    return row


# -- the references ------------------------------------------------------------------------------------


def int_quant(
    clamp: nn.Module, x: Tensor, s: Tensor, z: Tensor, b: Tensor, *, signed: bool, narrow: bool
) -> Tensor:
    return IntQuant(
        narrow_range=narrow, signed=signed, input_view_impl=nn.Identity(), tensor_clamp_impl=clamp
    )(s, z, b, x)


def binary_quant(kind: type, x: Tensor, s: Tensor) -> Tensor:
    return kind(scaling_impl=Given(s))(x)[0]


def float_quant(clamp: nn.Module, x: Tensor, s: Tensor, *, format: tuple[float, ...]) -> Tensor:
    exponent, mantissa, bias, limit = format
    quantizer = FloatQuant(
        signed=True,
        exponent_bit_width_impl=BitWidthConst(int(exponent)),
        mantissa_bit_width_impl=BitWidthConst(int(mantissa)),
        exponent_bias_impl=StatelessBuffer(torch.tensor(bias)),
        float_clamp_impl=FloatClamp(clamp, signed=True, max_available_float=limit),
        input_view_impl=nn.Identity(),
        compute_max_mantissa=MaxMantissa(),
        scaling_impl=Given(s),
    )
    return quantizer(x)[0]


def trunc_quant(clamp: nn.Module, x: Tensor, s: Tensor, *, mode: str, zero_point: float) -> Tensor:
    rounding = FloorSte() if mode == "FLOOR" else RoundSte()
    quantizer = TruncIntQuant(rounding, BitWidthConst(4), tensor_clamp_impl=clamp)  # drops 8 - 4 bits
    return quantizer(x, s, torch.tensor(zero_point), torch.tensor(8.0), torch.tensor(True))[0]


def lsq(
    x: Tensor, s: Tensor, z: Tensor, b: Tensor, *, signed: bool, elements: int | None = None
) -> tuple[Tensor, ...]:
    """Esser et al. 2019, equations 1 to 3 and 5, and the gradient scale of section 2.2; zero point 0."""
    low, high = (-(2 ** (float(b) - 1)), 2 ** (float(b) - 1) - 1) if signed else (0.0, 2 ** float(b) - 1)
    v = x / s
    inside = (low < v) & (v < high)
    step = torch.where(inside, torch.round(v).double() - v, torch.where(v >= high, high, low).double())
    factor = 1.0 if elements is None else 1 / math.sqrt(elements * high)
    return torch.round(v.clamp(low, high)) * s, inside.double(), step * factor


def pact(x: Tensor, s: Tensor, z: Tensor, b: Tensor, *, signed: bool) -> tuple[Tensor, ...]:
    """Choi et al. 2018, section 3: alpha = scale (2^b - 1) gets 1 where x >= alpha; zero point 0."""
    high = 2 ** float(b) - 1
    v = x / s
    y = torch.round(v.clamp(0, high)) * s
    return y, ((v >= 0) & (v < high)).double(), torch.where(v >= high, high, 0.0).double()


def constant_step(x: Tensor, s: Tensor, *, format: tuple[float, ...]) -> tuple[Tensor, ...]:
    """LSQ's rule on a minifloat grid: d/dscale is q - y inside (|y| < limit), +-limit outside."""
    y, limit = x / s, format[3]
    clamp = TensorClamp()
    unlimited = float_quant(clamp, y, torch.tensor(1.0), format=(8.0, *format[1:3], math.inf))
    inside = y.abs() < limit
    step = torch.where(inside, unlimited.double() - y, torch.sign(y) * limit)
    return float_quant(clamp, x, s, format=format), inside.double(), step


# -- the rows ------------------------------------------------------------------------------------------


def comparisons() -> list[Comparison]:
    """Returns all comparisons."""
    clamps = {"ste": TensorClamp, "pass": TensorClampSte}
    integers = [
        ((s, z, b), {"signed": signed, "narrow": narrow})
        for s, z in ((0.25, 0.0), (0.3, 0.0), (0.1, 2.0), (0.05, -3.25))
        for b in (2.0, 4.0, 8.0)
        for signed, narrow in ((True, False), (True, True), (False, False), (False, True))
    ]
    signs = [((0.3, 0.0, b), {"signed": signed}) for b in (2.0, 4.0, 8.0) for signed in (True, False)]
    formats = [(4.0, 3.0, 7.0, 448.0), (5.0, 2.0, 15.0, 57344.0), (3.0, 2.0, 3.0, 28.0), (2.0, 1.0, 1.0, 6.0)]
    floats = [((s,), {"format": f}) for s in (1.0, 0.25, 0.3) for f in formats]
    truncs = [
        ((s,), {"mode": m, "zero_point": z}) for s, z in ((0.25, 0.0), (0.1, 3.0)) for m in ("FLOOR", "ROUND")
    ]

    def quant(name: str, *arguments: Tensor, **attributes: Any) -> Tensor:
        return ops.quant(*arguments, **{"one_bit": False, "gradient": name, **attributes})

    def minifloat(name: str, x: Tensor, s: Tensor, *, format: tuple[float, ...]) -> Tensor:
        return ops.float_quant(x, s, *format, gradient=name)

    def trunc(name: str, x: Tensor, s: Tensor, *, mode: str, zero_point: float) -> Tensor:
        return ops.trunc(x, s, zero_point, 8, s * 16, 4, rounding_mode=mode, gradient=name)

    rows = []
    for name, clamp in clamps.items():
        reference = f"Brevitas IntQuant, {clamp.__name__}"
        rows.append(
            Comparison("Quant", name, reference, partial(quant, name), partial(int_quant, clamp()), integers)
        )
    rows.append(Comparison("Quant", "lsq", "Esser 2019", partial(quant, "lsq"), None, signs, lsq))
    scaled = [(p, {**a, "elements": 4096}) for p, a in signs]
    rows.append(Comparison("Quant", "lsq, N = 4096", "Esser 2019", partial(quant, "lsq"), None, scaled, lsq))
    unsigned = [(p, a) for p, a in signs if not a["signed"]]
    rows.append(Comparison("Quant", "pact", "Choi 2018", partial(quant, "pact"), None, unsigned, pact))
    scales = [((s,), {}) for s in (1.0, 0.3, 0.0473)]
    for name, kind in (("pass", BinaryQuant), ("ste", ClampedBinaryQuant)):
        ours = partial(ops.bipolar_quant, gradient=name)
        theirs = partial(binary_quant, kind)
        rows.append(Comparison("BipolarQuant", name, f"Brevitas {kind.__name__}", ours, theirs, scales))
    for name, clamp in clamps.items():
        reference, theirs = f"Brevitas FloatQuant, {clamp.__name__}", partial(float_quant, clamp())
        rows.append(
            Comparison("FloatQuant", name, reference, partial(minifloat, name), theirs, floats, reach=10)
        )
    formula = "LSQ's rule, constant step"
    rows.append(
        Comparison(
            "FloatQuant", "lsq", formula, partial(minifloat, "lsq"), None, floats, constant_step, reach=10
        )
    )
    for name, clamp in clamps.items():
        reference, theirs = f"Brevitas TruncIntQuant, {clamp.__name__}", partial(trunc_quant, clamp())
        rows.append(Comparison("Trunc", name, reference, partial(trunc, name), theirs, truncs, reach=16))
    return rows


def show(rows: list[Row], console: Console) -> None:
    """Prints the table."""
    table = Table(title="largest differences; of sums: error of ours / of the reference, in rounding units")
    for column in ("quantizer", "gradient", "reference"):
        table.add_column(column)
    for column in ("values", "forward", "dx", "dx in units", "dscale", "dzero_point", "dbit_width"):
        table.add_column(column, justify="right")
    for row in rows:
        sums = [row.sums.get(name) for name in NAMES]
        cells = [f"{s['ours']:.3f} / {s['reference']:.3f}" if s else "-" for s in sums]
        head = (row.quantizer, row.gradient, row.reference, f"{row.values:,}")
        table.add_row(*head, f"{row.forward:g}", f"{row.dx:.2g}", f"{row.dx_units:g}", *cells)
    console.print(table)


def main() -> int:
    """Runs the comparison; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000, help="random values per parameter set")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console = Console(width=max(Console().width, 160))
    rows = []
    for comparison in comparisons():
        with console.status(f"{comparison.quantizer}, {comparison.gradient}"):
            rows.append(compare(comparison, options.points))
    show(rows, console)
    if options.json:
        document = {"torch": torch.__version__, "rows": [vars(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if any(row.dx_units > 1 for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
