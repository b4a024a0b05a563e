"""Comparing values: in the run, and node by node on the reference's own values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from qonnx_torch.ops import as_tensor, is_shape_value

from .data import Array, to_tensor
from .graph import GraphValue
from .report import LayerResult, OutputResult
from .runner import Interpreter
from .ties import QuantizerView, quantizer_view

__all__ = ["Difference", "LayerTally", "OutputTally", "TeacherForced", "Tolerance"]

_UNSEEN_INPUT_NOISE = 64 * 2.0**-23
"""Float32 noise of an accumulated value, relative to its largest element, where it cannot be measured."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """When two values count as the same: |actual - expected| <= atol + rtol * max|expected|.

    Integers and booleans must be equal. `exact_quantizers`: a quantizer that gets the reference's own bits
    must give the reference's codes, ties included.
    """

    rtol: float
    atol: float
    tie_eps: float
    exact_quantizers: bool = True

    def of(self, largest: float) -> float:
        """Returns the allowed difference for values up to `largest`."""
        return self.atol + self.rtol * largest


def gap_between(actual: Tensor, expected: Tensor) -> Tensor:
    """Returns |actual - expected| in float64: 0 where both are NaN, infinite where only one is finite.

    Integers that differ are at least 1 apart, also beyond 2^53, where float64 does not tell them apart.
    """
    a, e = actual.double(), expected.double()
    if is_integral(actual) and is_integral(expected):
        unequal = (actual.long() != expected.long()) | (a != e)
        return torch.where(unequal, (a - e).abs().clamp(min=1.0), 0.0)
    gap = torch.nan_to_num((a - e).abs(), nan=torch.inf, posinf=torch.inf)
    return torch.where((a == e) | (a.isnan() & e.isnan()), 0.0, gap)


def is_integral(value: Tensor) -> bool:
    """Returns whether the elements are integers or booleans, to which no tolerance applies."""
    return not (value.is_floating_point() or value.is_complex())


def largest_of(expected: Tensor) -> float:
    """Returns the largest finite magnitude, 0 where there is none."""
    finite = expected.double().abs()
    finite = finite[finite.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0


@dataclass(slots=True)
class Difference:
    """How far a value is from the expected one, over all batches."""

    elements: int = 0
    differing: int = 0
    largest_gap: float = 0.0
    largest: float = 0.0
    exact: bool = False

    def add(self, actual: Tensor, expected: Tensor) -> Tensor:
        """Counts one batch and returns its gaps."""
        gap = gap_between(actual, expected)
        self.exact = is_integral(actual)
        self.elements += gap.numel()
        self.differing += int((gap > 0).sum())
        if gap.numel():
            self.largest_gap = max(self.largest_gap, float(gap.max()))
        self.largest = max(self.largest, largest_of(expected))
        return gap

    def allowed(self, tolerance: Tolerance) -> float:
        """Returns the allowed difference: none for integers and booleans."""
        return 0.0 if self.exact else tolerance.of(self.largest)

    def add_mismatch(self, expected: Tensor) -> None:
        """Counts one batch whose shape is another: everything differs."""
        self.elements += expected.numel()
        self.differing += expected.numel()
        self.largest_gap = torch.inf
        self.largest = max(self.largest, largest_of(expected))


@dataclass(slots=True)
class OutputTally:
    """One graph output over all batches."""

    name: str
    difference: Difference = field(default_factory=Difference)

    def result(self, tolerance: Tolerance, *, behind_tie_flips: bool) -> OutputResult:
        """Returns the frozen result."""
        d = self.difference
        return OutputResult(
            self.name, d.elements, d.differing, d.largest_gap, d.allowed(tolerance), behind_tie_flips
        )


@dataclass(slots=True)
class LayerTally:
    """One intermediate value over all batches."""

    value: GraphValue
    run: Difference = field(default_factory=Difference)
    forced: Difference = field(default_factory=Difference)
    quantizer: bool = False
    codes: int = 0
    ties: int = 0
    carried: int = 0
    code_errors: int = 0
    forced_ties: int = 0
    forced_errors: int = 0

    def result(self, tolerance: Tolerance) -> LayerResult:
        """Returns the frozen result."""
        return LayerResult(
            name=self.value.name,
            op_type=self.value.op_type,
            node=self.value.node_name,
            quantizer=self.quantizer,
            elements=self.run.elements,
            differing=self.run.differing,
            max_abs_diff=self.run.largest_gap,
            tolerance=self.run.allowed(tolerance),
            codes_differing=self.codes,
            tie_flips=self.ties,
            carried=self.carried,
            code_errors=self.code_errors,
            forced_differing=self.forced.differing,
            forced_max_abs_diff=self.forced.largest_gap,
            forced_tie_flips=self.forced_ties,
            forced_errors=self.forced_errors,
        )


class TeacherForced(Interpreter):
    """Computes each value from the reference's values, and compares both it and that of the run.

    After a node has run, its value is replaced by the reference's where the reference has it: every node thus
    gets the reference's own inputs, and no difference is passed on. Where the reference lacks a value the
    computed one stands in, and the next value that it has is compared for the nodes in between together. If
    an unseen quantizer is among them, a tie there cannot be told from an error: no errors are counted.

    A quantizer all of whose inputs are the reference's own bits has no ties: our quantizers are bit-exact, so
    another code is an error (another rounding mode, another scale), unless `tolerance.exact_quantizers` is
    off. Ties remain where an input is not the reference's own.

    Args:
        module: the module to verify.
        run: what each of its nodes gave in the run.
        expected: the reference's values, by ONNX value name.
        tallies: where results are added, by fx node.
        tolerance: when float values count as the same.
        lenient: leave out values of another shape, rather than counting them as errors.
        settled: values that do not depend on the data have been compared already; they are only replaced.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        run: Mapping[fx.Node, Any],
        expected: Mapping[str, Array],
        tallies: Mapping[fx.Node, LayerTally],
        tolerance: Tolerance,
        *,
        lenient: bool,
        settled: bool,
    ) -> None:
        super().__init__(module, keep=True)
        self.graph_module = module
        self.of_run = run
        self.expected = expected
        self.tallies = tallies
        self.tolerance = tolerance
        self.lenient = lenient
        self.settled = settled
        self.taken: set[fx.Node] = set()
        self.unclear: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node, compares its value, and returns the reference's where there is one."""
        result = super().run_node(n)
        if n.op in ("placeholder", "get_attr"):
            self.taken.add(n)
        tally = self.tallies.get(n)
        if any(i in self.unclear for i in n.all_input_nodes):
            self.unclear.add(n)
        if tally is None or not (isinstance(result, Tensor) or is_shape_value(result)):
            return result
        if is_shape_value(result) and any(isinstance(r, Tensor) for r in _elements(result)):
            return result
        local = as_tensor(result)
        view = self._view(n, local)
        tally.quantizer = tally.quantizer or view is not None
        if tally.value.name not in self.expected:
            if view is not None and not tally.value.static:
                self.unclear.add(n)
            return result
        expected = to_tensor(self.expected[tally.value.name], local.device)
        settled = self.settled and tally.value.static
        if expected.shape != local.shape:
            if not self.lenient and not settled:
                tally.run.add_mismatch(expected)
                tally.forced.add_mismatch(expected)
                tally.forced_errors += expected.numel()
            return result
        if not settled:
            self._compare(n, tally, local, expected, view)
        self.unclear.discard(n)
        replaced = expected.to(local.dtype)
        if not gap_between(replaced, expected).any():
            self.taken.add(n)
        return replaced if isinstance(result, Tensor) else result

    def _view(self, n: fx.Node, local: Tensor) -> QuantizerView | None:
        fetch: Callable[[Any], Any] = lambda a: self.env[a] if isinstance(a, fx.Node) else a  # noqa: E731
        x = fetch(n.args[0]) if n.args else None
        return quantizer_view(self.graph_module, n, fetch, x) if isinstance(x, Tensor) else None

    def _compare(
        self, n: fx.Node, tally: LayerTally, local: Tensor, expected: Tensor, view: QuantizerView | None
    ) -> None:
        of_run = as_tensor(self.of_run[n])
        run_gap = tally.run.add(of_run, expected)
        gap = tally.forced.add(local, expected)
        beyond = gap > (0.0 if is_integral(local) else self.tolerance.of(largest_of(expected)))
        if view is not None:
            codes = view.codes_differ(gap)
            ties = codes & self._explained_alone(n, view, codes, expected)
            tally.forced_ties += int(ties.sum())
            beyond = codes & ~ties | beyond & ~codes
            self._classify_run(tally, view, run_gap, expected, codes & ~ties)
        if n not in self.unclear:
            tally.forced_errors += int(beyond.sum())

    def _explained_alone(self, n: fx.Node, view: QuantizerView, codes: Tensor, expected: Tensor) -> Tensor:
        if not codes.any():
            return codes
        if self.tolerance.exact_quantizers and all(i in self.taken for i in n.all_input_nodes):
            return torch.zeros_like(codes)
        x = self.env[view.data]
        noise = 0.0 if view.data in self.taken else _UNSEEN_INPUT_NOISE * largest_of(x)
        return view.explained(x, noise, expected.double(), self.tolerance.tie_eps)

    def _classify_run(
        self, tally: LayerTally, view: QuantizerView, run_gap: Tensor, expected: Tensor, wrong: Tensor
    ) -> None:
        """Sorts the codes that differ in the run; `wrong`: they are errors on the reference's inputs."""
        codes = view.codes_differ(run_gap)
        if not codes.any():
            return
        x = self.env[view.data]
        deviation = gap_between(self.of_run[view.data], x)
        same_input = deviation <= self.tolerance.of(largest_of(x))
        reach = torch.where(same_input, deviation, 0.0)
        explained = view.explained(x, reach, expected.double(), self.tolerance.tie_eps)
        explained &= ~(wrong & (deviation == 0))  # the run had the reference's input, too
        tally.codes += int(codes.sum())
        tally.ties += int((codes & same_input & explained).sum())
        tally.carried += int((codes & ~same_input).sum())
        if view.data not in self.unclear:
            tally.code_errors += int((codes & same_input & ~explained).sum())


def _elements(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
