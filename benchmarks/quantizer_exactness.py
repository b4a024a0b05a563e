"""Counts the values in which our quantizers differ from qonnx 1.0.0, bit for bit, eager and compiled.

    python benchmarks/quantizer_exactness.py [--points 1000000] [--no-compile] [--json FILE]

Per operator and rounding mode, `--points` values go through several parameter sets (bit widths, signs,
narrow ranges, zero points, scales per tensor and per channel, dtypes): random ones over six decades, ties and
integer bounds with their neighbours, signed zeros, infinities, NaN, denormals, and values just below powers
of two.
Two results are equal where their float32 bits are, or where both are NaN. Exit status 1 where any differ.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from qonnx.custom_op.general.bipolar_quant import binary_quant
from qonnx.custom_op.general.floatquant import float_quant as qonnx_float_quant
from qonnx.custom_op.general.intquant import int_quant
from qonnx.custom_op.general.multithreshold import multithreshold
from qonnx.custom_op.general.trunc import trunc_v1 as qonnx_trunc_v1
from qonnx.custom_op.general.trunc import trunc_v2 as qonnx_trunc_v2
from rich.console import Console
from rich.progress import track
from rich.table import Table

from qonnx_torch import ops
from qonnx_torch.ops.quantizers.operators import trunc_v1
from qonnx_torch.ops.quantizers.rounding import ROUNDING_MODES

CHANNELS = 4


@dataclass(frozen=True)
class Case:
    """One set of parameters (in ONNX order, after x) and attributes; `step` scales the points."""

    parameters: tuple[np.ndarray, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    step: float = 1.0


@dataclass(frozen=True)
class Subject:
    """One operator: ours, the reference (called alike), its cases; no `modes` where it does not round."""

    ours: Callable[..., torch.Tensor]
    reference: Callable[..., np.ndarray]
    cases: list[Case]
    modes: tuple[str, ...] = tuple(ROUNDING_MODES)


def case(*values: Any, dtypes: str = "", step: float | None = None, **attributes: Any) -> Case:
    """Returns a case; `dtypes` has one letter per parameter (f float32, d float64, i int64)."""
    kinds = {"f": np.float32, "d": np.float64, "i": np.int64}
    letters = dtypes or "f" * len(values)
    parameters = tuple(np.asarray(v, kinds[k]) for v, k in zip(values, letters, strict=True))
    return Case(parameters, attributes, float(np.max(np.abs(values[0]))) if step is None else step)


PER_CHANNEL = np.array([0.5, 0.1, 0.0473, 0.003]).reshape(CHANNELS, 1)
SIGNED = {"signed": 1, "narrow": 0}
UNSIGNED = {"signed": 0, "narrow": 0}
E4M3 = {"has_inf": 0, "has_nan": 1, "has_subnormal": 1, "saturation": 1}

SUBJECTS = {
    "Quant": Subject(
        ops.quant,
        lambda x, s, z, b, *, signed, narrow, rounding_mode: int_quant(
            x, s, z, b, signed, narrow, rounding_mode
        ),
        [
            case(0.0473, 0.0, 4.0, **SIGNED),
            case(0.1, 0.0, 8.0, signed=1, narrow=1),
            case(1 / 32, 3.0, 8.0, **UNSIGNED),
            case(0.25, -1.25, 2.0, signed=0, narrow=1),
            case(PER_CHANNEL, 0.0, 3.0, **SIGNED),
            case(PER_CHANNEL, PER_CHANNEL * 10, 5.0, **UNSIGNED),
            case(0.5, 0.25, 1.0, **SIGNED),
            case(1e-3, 0.0, 32.0, **SIGNED),
            case(0.5, 0.0, 2.5, **SIGNED),
            case(0.1, 3, 8, dtypes="dii", **UNSIGNED),
        ],
    ),
    "Trunc-1": Subject(
        trunc_v1,
        lambda x, s, z, b, o, *, rounding_mode: qonnx_trunc_v1(x, s, z, b, o, rounding_mode),
        [
            case(0.25, 0.0, 8.0, 6.0),
            case(0.1, -1.25, 8.0, 4.0),
            case(PER_CHANNEL, 3.0, 8.0, 6.0),
            case(0.1, 0, 8, 6, dtypes="fiii"),
        ],
    ),
    "Trunc-2": Subject(
        ops.trunc,
        lambda x, s, z, b, os, o, *, signed, narrow, rounding_mode: qonnx_trunc_v2(
            x, s, z, b, narrow, signed, os, o, rounding_mode
        ),
        [
            case(0.25, 0.0, 8.0, 1.0, 6.0, **SIGNED),
            case(0.1, 3.0, 8.0, 0.4, 6.0, **UNSIGNED),
            case(PER_CHANNEL, -1.25, 8.0, PER_CHANNEL * 4, 4.0, signed=1, narrow=1),
            case(0.1, 0.0, 8.0, 0.9, 6.0, **SIGNED),
        ],
    ),
    "FloatQuant": Subject(
        ops.float_quant,
        lambda x, s, e, m, bias, limit, *, rounding_mode, **flags: qonnx_float_quant(
            x, s, e, m, bias, max_val=limit, rounding_mode=rounding_mode, **flags
        ),
        [
            case(1.0, 4.0, 3.0, 7.0, 448.0, **E4M3),
            case(0.0473, 5.0, 2.0, 15.0, 57344.0, **E4M3),
            case(PER_CHANNEL, 3.0, 2.0, 3.0, 28.0, **E4M3),
            case(0.5, 2.0, 1.0, 1.0, 6.0, **{**E4M3, "saturation": 0}),
            case(0.1, 5.0, 2.0, 15.0, 57344.0, **{**E4M3, "has_inf": 1, "saturation": 0}),
            case(0.1, 4, 3, 7, 448, dtypes="diiid", **E4M3),
        ],
    ),
    "BipolarQuant": Subject(ops.bipolar_quant, binary_quant, [case(0.0473), case(PER_CHANNEL)], ()),
    "MultiThreshold": Subject(
        partial(ops.multi_threshold, data_layout="NCW"),
        lambda x, t, *, out_scale, out_bias: multithreshold(x, t, out_scale, out_bias),
        [
            case(np.arange(-7.5, 7.5).reshape(1, -1), step=0.5, out_scale=1.0, out_bias=0.0),
            case(
                np.sort(np.random.default_rng(0).normal(size=(CHANNELS, 7))),
                step=0.5,
                out_scale=0.1,
                out_bias=-0.3,
            ),
        ],
        (),
    ),
}


def points(count: int, step: float, seed: int) -> np.ndarray:
    """Returns float32 values of shape (count / CHANNELS, CHANNELS, 1): 60 % random, the rest awkward."""
    generator = np.random.default_rng(seed)
    wide = generator.normal(size=count) * 10 ** generator.uniform(-3, 3, size=count) * step
    ties = generator.integers(-600, 601, size=count) / 2 * step
    bounds = np.ldexp(1.0, generator.integers(0, 33, size=count)) + generator.integers(-4, 5, size=count) / 2
    powers = np.ldexp(1.0, generator.integers(-148, 127, size=count))
    specials = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-40, 0.49999997, 8388609.0, 3.4e38]
    )
    kind = generator.random(count)
    sign = generator.choice([-1.0, 1.0], size=count)
    x = np.select(
        [kind < 0.6, kind < 0.8, kind < 0.9, kind < 0.98],
        [wide, ties, bounds * step * sign, powers * sign],
        generator.choice(specials, size=count),
    ).astype(np.float32)
    neighbour = generator.integers(-1, 2, size=count)  # the value itself, or the next float on either side
    awkward = (kind >= 0.6) & (kind < 0.98)
    x = np.where(awkward & (neighbour < 0), np.nextafter(x, np.float32(-np.inf)), x)
    x = np.where(awkward & (neighbour > 0), np.nextafter(x, np.float32(np.inf)), x)
    return x.reshape(-1, CHANNELS, 1)


def mismatches(actual: torch.Tensor, expected: np.ndarray) -> int:
    """Returns the number of values with other bits (NaN equals NaN)."""
    got = actual.numpy()
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return expected.size
    return int(
        np.count_nonzero(
            (got.view(np.int32) != expected.view(np.int32)) & ~(np.isnan(got) & np.isnan(expected))
        )
    )


def measure(name: str, subject: Subject, count: int, compiled: bool) -> list[dict[str, Any]]:
    """Returns one row per rounding mode: operator, mode, points, mismatches eager and compiled."""
    modes: tuple[str | None, ...] = subject.modes or (None,)
    rows = {m: {"operator": name, "mode": m or "", "points": 0, "eager": 0, "compiled": None} for m in modes}
    per_case = count // len(subject.cases) // CHANNELS * CHANNELS

    for i, c in enumerate(subject.cases):
        x = points(per_case, c.step, seed=i)
        arguments = [torch.from_numpy(x), *(torch.from_numpy(p.copy()) for p in c.parameters)]

        def every_mode(*arguments: torch.Tensor, c: Case = c) -> list[torch.Tensor]:
            each = ({"rounding_mode": m} if m else {} for m in modes)
            return [subject.ours(*arguments, **c.attributes, **mode) for mode in each]

        with torch.no_grad():
            results = {"eager": every_mode(*arguments)}
            if compiled:
                torch._dynamo.reset()
                results["compiled"] = torch.compile(every_mode, fullgraph=True)(*arguments)
        for j, mode in enumerate(modes):
            with np.errstate(all="ignore"):
                attributes = {**c.attributes, **({"rounding_mode": mode} if mode else {})}
                value = subject.reference(x.copy(), *c.parameters, **attributes)
            expected = np.asarray(value).astype(np.float32)  # as the reference's nodes do
            rows[mode]["points"] += x.size
            for how, values in results.items():
                rows[mode][how] = (rows[mode][how] or 0) + mismatches(values[j], expected)
    return list(rows.values())


def main() -> int:
    """Runs the comparison; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=1_000_000, help="values per operator and rounding mode")
    parser.add_argument("--no-compile", action="store_true", help="only eager")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()

    torch.set_num_threads(1)
    console = Console()
    started = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for name, subject in track(SUBJECTS.items(), "comparing", console=console, transient=True):
        rows += measure(name, subject, options.points, not options.no_compile)
    seconds = time.perf_counter() - started

    table = Table(title="values that differ from qonnx 1.0.0")
    for column in ("operator", "mode"):
        table.add_column(column)
    for column in ("points", "eager", "compiled"):
        table.add_column(column, justify="right")
    for row in rows:
        compiled = "-" if row["compiled"] is None else f"{row['compiled']:,}"
        table.add_row(row["operator"], row["mode"], f"{row['points']:,}", f"{row['eager']:,}", compiled)
    console.print(table)
    total = sum(r["points"] for r in rows)
    wrong = sum(r["eager"] + (r["compiled"] or 0) for r in rows)
    console.print(f"{total:,} points, {wrong:,} mismatches, {seconds:.0f} s; torch {torch.__version__}")
    if options.json:
        environment = {"torch": torch.__version__, "numpy": np.__version__, "machine": platform.machine()}
        options.json.write_text(
            json.dumps({"environment": environment, "seconds": seconds, "rows": rows}, indent=1) + "\n"
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
