"""What a verification found."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["LayerResult", "OutputResult", "VerificationReport"]


@dataclass(frozen=True, slots=True)
class OutputResult:
    """How one graph output compares.

    Attributes:
        name: ONNX value name.
        elements: compared elements.
        differing: elements that are not equal (NaN equals NaN).
        max_abs_diff: largest |actual - expected|; infinite where only one is finite, or where shapes differ.
        tolerance: atol + rtol * max|expected|; 0 for integers and booleans.
        behind_tie_flips: some tie flip lies upstream.
    """

    name: str
    elements: int
    differing: int
    max_abs_diff: float
    tolerance: float
    behind_tie_flips: bool = False

    @property
    def equal(self) -> bool:
        """Whether every element is equal."""
        return self.differing == 0

    @property
    def within_tolerance(self) -> bool:
        """Whether no element differs by more than the tolerance."""
        return self.max_abs_diff <= self.tolerance


@dataclass(frozen=True, slots=True)
class LayerResult:
    """How one value of the graph compares: in the run, and computed from the reference's own inputs.

    Attributes:
        name: ONNX value name.
        op_type: operator that computes it.
        node: ONNX node name; may be empty.
        quantizer: whether it is a quantizer, whose integer codes are compared.
        elements: compared elements.
        differing: elements that differ in the run, whatever the amount.
        max_abs_diff: largest difference in the run.
        tolerance: atol + rtol * max|expected|; 0 for integers and booleans.
        codes_differing: quantizers: elements with another integer code in the run; these are:
        tie_flips: the input agrees within tolerance, and a rounding boundary lies within what it deviates by,
        carried: the input differs already (from a flip or an error upstream), or
        code_errors: neither.
        forced_differing: elements that differ when the node gets the reference's own inputs.
        forced_max_abs_diff: largest such difference.
        forced_tie_flips: quantizers: other codes within float noise of a rounding boundary; only where the
            reference lacks an input, or with `exact_quantizers=False`.
        forced_errors: elements that differ beyond tolerance (quantizers: in their code, and no tie flip).
    """

    name: str
    op_type: str
    node: str
    quantizer: bool
    elements: int
    differing: int
    max_abs_diff: float
    tolerance: float
    codes_differing: int
    tie_flips: int
    carried: int
    code_errors: int
    forced_differing: int
    forced_max_abs_diff: float
    forced_tie_flips: int
    forced_errors: int

    @property
    def errors(self) -> int:
        """Differing elements that no tie explains: the node itself computes something else."""
        return max(self.forced_errors, self.code_errors)

    @property
    def diverges(self) -> bool:
        """Whether the run is beyond tolerance here, a quantizer gives other codes, or the node has errors."""
        return self.codes_differing > 0 or self.errors > 0 or self.max_abs_diff > self.tolerance


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """The result of `qonnx_torch.verify`.

    Attributes:
        reference: what the module was compared with.
        samples: rows of the data (0 where there is no batch).
        outputs: one entry per compared graph output.
        layers: one entry per value that the reference has too, in graph order; empty without such values.
        rtol: relative tolerance, of max|expected|.
        atol: absolute tolerance.
        tie_eps: how near to a rounding boundary counts as a tie, in steps.
        allow_tie_flips: whether an output may be beyond tolerance downstream of tie flips.
        exact_quantizers: whether a tie on the reference's own inputs counts as an error.
    """

    reference: str
    samples: int
    outputs: tuple[OutputResult, ...]
    layers: tuple[LayerResult, ...]
    rtol: float
    atol: float
    tie_eps: float
    allow_tie_flips: bool
    exact_quantizers: bool = True

    @property
    def errors(self) -> int:
        """Elements over all layers that differ where their own node is to blame."""
        return sum(layer.errors for layer in self.layers)

    @property
    def tie_flips(self) -> int:
        """Elements over all quantizers whose code flipped on a rounding tie in the run."""
        return sum(layer.tie_flips for layer in self.layers)

    @property
    def equal(self) -> bool:
        """Whether every output is exactly equal."""
        return all(output.equal for output in self.outputs)

    @property
    def passed(self) -> bool:
        """Whether the module computes what the reference computes.

        No layer has errors, and every output is within tolerance or, with `allow_tie_flips`, differs
        downstream of counted tie flips.
        """
        return self.errors == 0 and all(
            o.within_tolerance or (self.allow_tie_flips and o.behind_tie_flips) for o in self.outputs
        )

    @property
    def first_divergence(self) -> LayerResult | OutputResult | None:
        """Where to look first; None where the report passed.

        The first layer that has errors: its own node is to blame. Without any, `first_difference`.
        """
        if self.passed:
            return None
        return next((layer for layer in self.layers if layer.errors), None) or self.first_difference

    @property
    def first_difference(self) -> LayerResult | OutputResult | None:
        """The first layer that diverges (`LayerResult.diverges`), else the first output beyond tolerance.

        Whatever the verdict: a report with tie flips passes and has one.
        """
        for layer in self.layers:
            if layer.diverges:
                return layer
        return next((o for o in self.outputs if not o.within_tolerance), None)

    def summary(self) -> str:
        """Returns the verdict in one line."""
        exact = sum(o.equal for o in self.outputs)
        within = sum(o.within_tolerance for o in self.outputs)
        text = "passed" if self.passed else "FAILED"
        text += f" against {self.reference}: {exact} of {len(self.outputs)} outputs equal"
        text += f", {within} within tolerance"
        if self.layers:
            text += f"; {len(self.layers)} layers, {self.tie_flips} tie flips, {self.errors} errors"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain values; infinite differences as the string "inf"."""
        first, difference = self.first_divergence, self.first_difference
        content = asdict(self)
        for row, layer in zip(content["layers"], self.layers, strict=True):
            row["errors"], row["diverges"] = layer.errors, layer.diverges
        for row, output in zip(content["outputs"], self.outputs, strict=True):
            row["equal"], row["within_tolerance"] = output.equal, output.within_tolerance
        content.update(
            passed=self.passed,
            equal=self.equal,
            tie_flips=self.tie_flips,
            errors=self.errors,
            first_divergence=first.name if first else None,
            first_difference=difference.name if difference else None,
        )
        result: dict[str, Any] = _finite(content)
        return result

    def to_json(self) -> str:
        """Returns `to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def table(self, width: int = 150) -> str:
        """Returns the comparison as text: tables of layers (where there are any) and outputs, the verdict."""
        console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
        if self.layers:
            console.print(_layer_table(self.layers))
        console.print(_output_table(self.outputs))
        console.print(self.summary(), soft_wrap=True, markup=False, highlight=False)
        kind, first = "first divergence", self.first_divergence
        if first is None:
            kind, first = "first difference", self.first_difference
        if first is not None:
            console.print(f"{kind}: {describe(first)}", soft_wrap=True, markup=False, highlight=False)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        return str(text).rstrip("\n")


def describe(result: LayerResult | OutputResult) -> str:
    """Returns where and how a value differs, in one line."""
    if isinstance(result, OutputResult):
        differ = f"max difference {result.max_abs_diff:.3g}, tolerance {result.tolerance:.3g}"
        return f"output {result.name!r}: {differ}"
    text = f"{result.op_type} {result.name!r}"
    text += f" (node {result.node!r})" if result.node else ""
    text += f": {result.differing} of {result.elements} elements differ, by {result.max_abs_diff:.3g} at most"
    if result.quantizer:
        text += (
            f"; {result.codes_differing} codes: {result.tie_flips} tie flips, {result.carried} carried, "
            f"{result.errors} errors"
        )
    elif result.errors:
        text += f"; {result.errors} beyond tolerance {result.tolerance:.3g} on the reference's own inputs"
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return "inf" if isinstance(value, float) and value == float("inf") else value


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.2e}"


def _layer_table(layers: tuple[LayerResult, ...]) -> Table:
    title = "layers: in the run | on the reference's own inputs"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("operator")
    table.add_column("value", overflow="fold")
    for head in (
        "elements",
        "differ",
        "max diff",
        "codes",
        "ties",
        "carried",
        "| differ",
        "max diff",
        "ties",
        "errors",
    ):
        table.add_column(head, justify="right")
    for row in layers:
        codes = (row.codes_differing, row.tie_flips, row.carried) if row.quantizer else ("", "", "")
        cells: list[Any] = [row.elements, row.differing, _number(row.max_abs_diff), *codes]
        forced_ties = row.forced_tie_flips if row.quantizer else ""
        cells += [row.forced_differing, _number(row.forced_max_abs_diff), forced_ties, row.errors]
        style = "bold red" if row.errors else "yellow" if row.diverges else ""
        table.add_row(*(Text(str(c)) for c in (row.op_type, row.name, *cells)), style=style)
    return table


def _output_table(outputs: tuple[OutputResult, ...]) -> Table:
    table = Table(title="outputs", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("output", overflow="fold")
    for head in ("elements", "differ", "max diff", "tolerance", "verdict"):
        table.add_column(head, justify="right")
    for row in outputs:
        verdict = "equal" if row.equal else "within tolerance" if row.within_tolerance else "beyond tolerance"
        if not row.within_tolerance and row.behind_tie_flips:
            verdict += " (behind tie flips)"
        cells = (row.elements, row.differing, _number(row.max_abs_diff), _number(row.tolerance), verdict)
        table.add_row(*(Text(str(c)) for c in (row.name, *cells)))
    return table
