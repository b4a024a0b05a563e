"""Runs of a module on fake tensors, at sizes of its dynamic dimensions that it runs at.

Which sizes a graph takes is not declared: a U-Net wants multiples of 2^k, a table of positions short
sequences, an addition equal ones. So an ordered list of sizes is tried, and the first that runs is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, count, islice
from typing import Any

from torch import fx

from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.passes.dimensions import Dimensions
from qonnx_torch.passes.propagation import DataDependentShapeError, FakeInterpreter, propagate

__all__ = ["Search", "Trial", "Trials", "shown"]

Inputs = Callable[[Mapping[str, int]], Sequence[Any]]
"""Gives what `propagate` takes as inputs, for sizes of the dynamic dimensions by name."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A run, and the sizes by the names of the dimensions that it was at."""

    sizes: Mapping[str, int]
    run: FakeInterpreter


@dataclass(frozen=True, slots=True)
class Trials:
    """Runs of one module that together say what its shapes are.

    Attributes:
        base: two runs at different sizes; one where there is nothing dynamic, or no other size works.
        checks: further runs, small and large; what they contradict is not known.
        apart: whether names of one size in all runs had to be so: otherwise nothing tells them apart.
    """

    base: tuple[Trial, ...]
    checks: tuple[Trial, ...] = ()
    apart: bool = True

    def within(self, graph: fx.GraphModule) -> Trials:
        """Returns the runs of a subgraph that runs in all of `base`."""
        base, checks = (
            tuple(Trial(t.sizes, t.run.subgraphs[graph]) for t in trials if graph in t.run.subgraphs)
            for trials in (self.base, self.checks)
        )
        return Trials(base, checks, self.apart)


@dataclass(frozen=True, slots=True)
class _Pattern:
    """Sizes unit * k, with k prime or any integer, from `start`."""

    unit: int
    start: int
    prime: bool = False

    def sizes(self, number: int) -> tuple[list[int], list[int]]:
        """Returns two choices of that many sizes, none twice.

        One ascends and one descends, so that no sum or multiple of one dimension is another one in both.
        """
        factors = (k for k in count(self.start) if not self.prime or _is_prime(k))
        sizes = [self.unit * k for k in islice(factors, 2 * number)]
        return sizes[:number], sizes[: -number - 1 : -1]


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % k for k in range(2, int(number**0.5) + 1))


_HIGHLY_COMPOSITE = 40320  # 2^7 * 3^2 * 5 * 7
_PATTERNS = (
    _Pattern(1, 37, prime=True),
    _Pattern(48, 3, prime=True),
    *(_Pattern(unit, 1 + (unit == 1)) for unit in (1, 2, 4, 8)),
    _Pattern(_HIGHLY_COMPOSITE, 1),
)
_SMALL = (1, 2, 4, 16)
_LARGE = 10007
_MOST_MERGES = 40  # runs to find out which dimensions must be equal
_ASCENDING = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 224, 256, 384, 512, 1024)

Partition = tuple[tuple[str, ...], ...]
"""Symbols in groups that get one size each."""


@dataclass(frozen=True, slots=True)
class _Failure:
    reached: int
    sizes: Mapping[str, int]
    error: UnsupportedModelError | RuntimeError


class Search:
    """Looks for sizes that a module runs at.

    Args:
        module: the module.
        dimensions: its dynamic dimensions.
        inputs: gives inputs of a size.
        partial: as of FakeInterpreter.
    """

    def __init__(
        self, module: fx.GraphModule, dimensions: Dimensions, inputs: Inputs, *, partial: bool = False
    ) -> None:
        self._module = module
        self._dimensions = dimensions
        self._inputs = inputs
        self._partial = partial
        self._reached = 0
        self._failures: list[_Failure] = []
        self._ran = False

    def find(self, example: Mapping[str, int] | None = None) -> Trials:
        """Returns runs that say what the shapes are.

        1. Sizes that have nothing to do with each other: primes, multiples of a highly composite number,
           small ones.
        2. The same with those dimensions equal that must be; where that cannot be told, with all equal.
        3. Multiples of the example's sizes, and at last these themselves.

        Args:
            example: symbol -> size, known to work.

        Raises:
            UnsupportedModelError: nothing runs; DataDependentShapeError where that is not for the sizes.
        """
        given = self._attempt(example) if example is not None else None
        if example is not None and given is None:
            raise self._failures[0].error
        known = (given,) if given is not None else ()
        apart: Partition = tuple((symbol,) for symbol in self._dimensions.symbols)
        found = self._merged(apart)
        if found is not None:
            partition, pattern, base = found
            return Trials(base, (*known, *self._checks(partition, pattern, base)))
        together: Partition = (self._dimensions.symbols,)
        for pattern in _PATTERNS if len(apart) > 1 else ():
            base = self._pair(together, pattern)[0]
            if base:
                return Trials(base, (*known, *self._checks(together, pattern, base)), apart=False)
        if given is not None and example is not None:
            return self._multiples(given, example)
        raise self.error()

    def smallest(self) -> Trial:
        """Returns a run at the smallest sizes: 1 each, or else what comes next and works.

        Raises:
            UnsupportedModelError: nothing runs.
        """
        symbols = self._dimensions.symbols
        together = (dict.fromkeys(symbols, size) for size in _ASCENDING)
        found = next((t for t in map(self._attempt, together) if t is not None), None)
        found = found or self.find().base[0]
        sizes = {symbol: found.sizes[symbol] for symbol in symbols}
        for symbol in symbols if len(symbols) > 1 else ():
            for size in (s for s in _ASCENDING if s < sizes[symbol]):
                trial = self._attempt({**sizes, symbol: size})
                if trial is not None:
                    found, sizes = trial, {**sizes, symbol: size}
                    break
        return found

    def error(self) -> UnsupportedModelError:
        """Returns an error that says how far the module came, at which sizes, and what to do."""
        if not self._failures:
            names = ", ".join(map(repr, self._dimensions.expressions))
            return UnsupportedModelError(f"no sizes were found for which {names} are positive")
        furthest = max(self._failures, key=lambda failure: failure.reached)
        others = " (other sizes fail, too)" if len(self._failures) > 1 else ""
        return UnsupportedModelError(
            f"{str(furthest.error).partition(chr(10))[0]}; the sizes tried for the dynamic dimensions were "
            f"{shown(furthest.sizes)}{others}; if the dynamic dimensions take only certain sizes, give "
            "example inputs as args"
        )

    def _attempt(self, assignment: Mapping[str, int]) -> Trial | None:
        """Runs the module at these sizes; returns None where it fails, and notes how far it came."""
        sizes = self._dimensions.sizes(assignment)
        self._reached = 0
        if sizes is None:
            return None
        first, self._ran = not self._ran, True
        run = FakeInterpreter(self._module, partial=self._partial)
        try:
            propagate(self._module, self._inputs(sizes), run)
        except (
            UnsupportedModelError,
            RuntimeError,
        ) as error:  # the latter: inputs beyond what torch can count
            if first and isinstance(error, DataDependentShapeError):
                raise
            self._reached = len(run.env)
            self._failures.append(_Failure(self._reached, sizes, error))
            return None
        self._reached = len(self._module.graph.nodes)
        return Trial(sizes, run)

    def _at(self, partition: Partition, sizes: Sequence[int]) -> Trial | None:
        return self._attempt(
            {symbol: size for group, size in zip(partition, sizes, strict=True) for symbol in group}
        )

    def _pair(self, partition: Partition, pattern: _Pattern) -> tuple[tuple[Trial, ...], int]:
        """Returns two runs, or none and how far the first came."""
        first, second = pattern.sizes(len(partition))
        one = self._at(partition, first)
        reached = self._reached
        two = self._at(partition, second) if one is not None else None
        return ((one, two), reached) if one is not None and two is not None else ((), reached)

    def _merged(self, apart: Partition) -> tuple[Partition, _Pattern, tuple[Trial, ...]] | None:
        """Tries all patterns; then makes equal, pair by pair, what lets the module run further."""
        partition, chosen, reached = apart, _PATTERNS[0], -1
        merges = 0
        while True:
            options: list[tuple[int, Partition, _Pattern]] = []
            for pattern in _PATTERNS:
                base, far = self._pair(partition, pattern)
                if base:
                    return partition, pattern, base
                options.append((far, partition, pattern))
            far, _, chosen = max(options, key=lambda option: option[0])
            reached, options = max(far, reached), []
            for one, other in combinations(partition, 2):
                merges += 1
                if merges > _MOST_MERGES:
                    return None
                candidate = tuple(
                    (*one, *other) if group is one else group for group in partition if group is not other
                )
                base, far = self._pair(candidate, chosen)
                if base:
                    return candidate, chosen, base
                options.append((far, candidate, chosen))
            if not options:
                return None
            far, partition, _ = max(options, key=lambda option: option[0])
            if far <= reached:
                return None

    def _checks(self, partition: Partition, pattern: _Pattern, base: Sequence[Trial]) -> list[Trial]:
        """Returns runs at sizes of the same kind that are far from those of `base`, as far as there are.

        1. Small ones: the first that work.
        2. Large ones, unless the number of steps to run hangs on the sizes (in a Loop, say).
        3. Where dimensions are equal, each of them 1 alone: it may be broadcast.
        """
        number = len(partition)
        small = ([unit * k for k in range(1, number + 1)] for unit in _SMALL)
        checks = [next((t for t in (self._at(partition, sizes) for sizes in small) if t is not None), None)]
        if len({trial.run.steps for trial in base}) == 1:
            far = _Pattern(pattern.unit, max(3, _LARGE // pattern.unit), prime=True)
            checks.append(self._at(partition, far.sizes(number)[0]))
        assignment = {symbol: base[0].sizes[symbol] for symbol in self._dimensions.symbols}
        alone = [symbol for group in partition if len(group) > 1 for symbol in group]
        checks += [self._attempt({**assignment, symbol: 1}) for symbol in alone[:_MOST_MERGES]]
        return [trial for trial in checks if trial is not None]

    def _multiples(self, given: Trial, example: Mapping[str, int]) -> Trials:
        """Returns runs at multiples of sizes that work; only the run at these where there are none."""
        first, second = _Pattern(1, 3, prime=True).sizes(len(example))
        apart = [dict(zip(example, factors, strict=True)) for factors in (first, second)]
        equal = [dict.fromkeys(example, factor) for factor in (2, 3)]
        for different, factors in ((True, apart), (False, equal)):
            trials = [self._attempt({s: n * f[s] for s, n in example.items()}) for f in factors]
            ran = tuple(trial for trial in trials if trial is not None)
            if len(ran) == len(trials):
                return Trials((given, *ran), apart=different)
        return Trials((given,), apart=False)


def shown(sizes: Mapping[str, int]) -> str:
    """Returns sizes as a reader wants them: N = 37, H = 43."""
    return ", ".join(f"{name} = {size}" for name, size in sizes.items())
