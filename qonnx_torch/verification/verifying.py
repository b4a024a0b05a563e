"""`verify`: does a module compute what a reference computes?"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from onnx import ModelProto
from torch import Tensor, fx, nn

from qonnx_torch.errors import VerificationError
from qonnx_torch.import_ import ModelSource

from .compare import LayerTally, OutputTally, TeacherForced, Tolerance
from .data import Array, Data, checked, input_specs, to_tensor
from .graph import GraphValue, ancestors, graph_values, output_names
from .references import Given, Reference, Values, reference_for
from .report import VerificationReport
from .runner import Progress, batch_of, batch_slices, execute, faithful, join, on_device

__all__ = ["verify"]

_BATCH = 64
"""Samples compared at a time where the batch size is free: their intermediate values are all held."""


def verify(
    module: nn.Module,
    inputs: Data,
    expected: Data | None = None,
    *,
    reference: Literal["onnxruntime", "qonnx"]
    | str
    | os.PathLike[str]
    | ModelProto
    | nn.Module
    | None = None,
    intermediates: Data | None = None,
    model: ModelSource | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-5,
    tie_eps: float = 1e-4,
    allow_tie_flips: bool = True,
    exact_quantizers: bool = True,
    layers: bool = True,
    batch_size: int | None = None,
    device: str | None = None,
    allow_nan: bool = False,
    cast: bool = False,
    progress: Progress | None = None,
) -> VerificationReport:
    """Returns how what a module computes compares with expected values or with a reference.

    Two float values are the same if |actual - expected| <= atol + rtol * max|expected|; integers and booleans
    (class ids, indices of TopK) are the same only if they are equal. Where the reference
    has intermediate values, each value of the graph is compared twice: as it came in the run, where
    differences accumulate, and computed by its node from the reference's own inputs (teacher-forced), which
    shows the node that causes one. For quantizers the integer codes count. An element of the run with another
    code is a *tie flip* if a rounding boundary lies within `tie_eps` steps, plus float32 noise, of the
    reference's input: two correct implementations that sum in another order differ there by a whole step.
    Anything else is an *error*, and so is any other code on identical input bits: quantizers are bit-exact,
    hence it comes from another rounding mode or parameter (but see `exact_quantizers`).

    The report has `passed` if no layer has errors and every output is within tolerance or, with
    `allow_tie_flips`, differs downstream of counted tie flips (`tie_flips` says how many).

    Args:
        module: the module; layers are compared for `torch.fx.GraphModule`s (what `import_model` returns).
        inputs: an array or tensor, a sequence in graph-input order, a mapping by ONNX value name, or .npy and
            .npz files (keys of the latter: value names, or in0, in1, ...).
        expected: the outputs in the same forms (keys: value names, or out0, out1, ...); a mapping may leave
            out outputs and hold intermediate values too.
        reference: instead of `expected`: "onnxruntime" (optimisations off, one thread) or "qonnx", both on
            the CPU, another module, or a model (file), which is imported. Values of another module are
            matched by name and operator type.
        intermediates: expected intermediate values by ONNX value name; unknown names are left out.
        model: what onnxruntime or qonnx execute; by default the module itself, exported. Give the file that
            the module came from to check the import independently of the export.
        rtol: relative tolerance, of max|expected|.
        atol: absolute tolerance.
        tie_eps: how near to a rounding boundary counts as a tie, in steps of the quantizer.
        allow_tie_flips: whether an output may differ downstream of tie flips.
        exact_quantizers: the reference has the same quantizers bit for bit, as onnxruntime (function bodies),
            qonnx and modules of ours have. With False a tie counts as a flip also on identical inputs: for
            values by a program that is known to quantize in other steps, such as x * (1 / scale).
        layers: compare intermediate values where the reference has them.
        batch_size: samples compared at a time where the batch size is free; 64 by default.
        device: where the module runs; by default where it is.
        allow_nan: accept NaN in the inputs.
        cast: round floating inputs to the declared type where it cannot hold them exactly.
        progress: called with the number of finished batches and their total.

    Raises:
        VerificationError: unusable data, nothing or too much to compare with, a reference that is not
            installed or cannot execute the model, or a node that fails.
        QonnxTorchError: the reference model cannot be imported, or the module cannot be exported.
    """
    specs = input_specs(module)
    arrays = checked(specs, inputs, allow_nan=allow_nan, cast=cast)
    module, place = on_device(module, device)
    values = graph_values(module) if layers and isinstance(module, fx.GraphModule) else []
    total = max((a.shape[0] for a in arrays if a.ndim), default=1)
    against = _reference(module, expected, intermediates, reference, model, values, total)
    free = all(s.shape is None or not s.shape or s.shape[0] is None for s in specs)
    same_rows = len({a.shape[0] for a in arrays if a.ndim}) == 1
    if batch_size is None and free and same_rows:
        batch_size = _BATCH if against.batch is None else max(_BATCH // against.batch, 1) * against.batch
    slices = batch_slices(specs, arrays, batch_size)
    session = _Session(module, values, against, Tolerance(rtol, atol, tie_eps, exact_quantizers))
    with faithful(module):
        for done, rows in enumerate(slices, start=1):
            batch = [batch_of(a, rows) for a in arrays]
            session.compare([to_tensor(a, place) for a in batch], batch, rows)
            if progress is not None:
                progress(done, len(slices))
    return session.report(total, allow_tie_flips=allow_tie_flips)


def _reference(
    module: nn.Module,
    expected: Data | None,
    intermediates: Data | None,
    reference: Any,
    model: ModelSource | None,
    values: Sequence[GraphValue],
    samples: int,
) -> Reference:
    given = expected is not None or intermediates is not None
    if given == (reference is not None):
        raise VerificationError(
            "verify needs either expected values or a reference"
            + (", not both" if given else ": 'onnxruntime', 'qonnx', a module or a model file")
        )
    if given:
        return Given.of(module, expected, intermediates, samples)
    return reference_for(reference, module, model, values)


class _Session:
    """One verification while it runs, batch by batch."""

    def __init__(
        self,
        module: nn.Module,
        values: Sequence[GraphValue],
        reference: Reference,
        tolerance: Tolerance,
    ) -> None:
        self.module, self.values = module, values
        self.reference, self.tolerance = reference, tolerance
        self.names = output_names(module) if isinstance(module, fx.GraphModule) else []
        self.outputs: list[OutputTally] = []
        self.tallies = {v.node: LayerTally(v) for v in self.values}
        self.static = {v.name for v in self.values if v.static}
        self.outputs_are_all = all(v.name in self.names for v in self.values)
        self.batches = 0

    def compare(self, tensors: Sequence[Tensor], arrays: Sequence[Array], rows: slice) -> None:
        """Runs one batch on both sides and adds up the differences."""
        results, environment = execute(self.module, tensors, keep=bool(self.values))
        theirs, parts = _in_parts(self.reference, arrays, rows, self.static)
        if len(theirs.outputs) != len(results):
            raise VerificationError(
                f"the module has {len(results)} outputs, {self.reference.name} has {len(theirs.outputs)}"
            )
        if not self.outputs:
            self.outputs = [OutputTally(name) for name in results]
        for tally, actual, wanted in zip(self.outputs, results.values(), theirs.outputs, strict=True):
            if wanted is not None:
                self._compare_output(tally, actual, wanted)
        if self.values and (theirs.inner or self.outputs_are_all):
            self._compare_layers(tensors, environment, theirs, lenient=self.reference.lenient or parts > 1)
        self.batches += 1

    def _compare_output(self, tally: OutputTally, actual: Tensor, wanted: Array) -> None:
        expected = to_tensor(wanted, actual.device)
        if expected.shape != actual.shape:
            raise VerificationError(
                f"output {tally.name!r}: the module gives shape {tuple(actual.shape)}, {self.reference.name} "
                f"{tuple(expected.shape)}"
            )
        tally.difference.add(actual, expected)

    def _compare_layers(
        self, tensors: Sequence[Tensor], environment: Mapping[fx.Node, Any], theirs: Values, *, lenient: bool
    ) -> None:
        assert isinstance(self.module, fx.GraphModule)
        expected = dict(theirs.inner)
        for name, wanted in zip(self.names, theirs.outputs, strict=False):
            if wanted is not None:
                expected[name] = wanted
        TeacherForced(
            self.module,
            environment,
            expected,
            self.tallies,
            self.tolerance,
            lenient=lenient,
            settled=self.batches > 0,
        ).run(*tensors)

    def report(self, samples: int, *, allow_tie_flips: bool) -> VerificationReport:
        """Returns the frozen result."""
        flipped = {node for node, tally in self.tallies.items() if tally.ties}
        behind = set()
        if isinstance(self.module, fx.GraphModule) and flipped:
            results: Any = self.module.graph.output_node().args[0]
            nodes = results if isinstance(results, (tuple, list)) else [results]
            for tally, node in zip(self.outputs, nodes, strict=True):
                if ancestors([node]) & flipped:
                    behind.add(tally.name)
        return VerificationReport(
            reference=self.reference.name,
            samples=samples,
            outputs=tuple(
                t.result(self.tolerance, behind_tie_flips=t.name in behind)
                for t in self.outputs
                if t.difference.elements
            ),
            layers=tuple(t.result(self.tolerance) for t in self.tallies.values() if t.run.elements),
            rtol=self.tolerance.rtol,
            atol=self.tolerance.atol,
            tie_eps=self.tolerance.tie_eps,
            allow_tie_flips=allow_tie_flips,
            exact_quantizers=self.tolerance.exact_quantizers,
        )


def _in_parts(
    reference: Reference, arrays: Sequence[Array], rows: slice, static: set[str]
) -> tuple[Values, int]:
    """Returns the reference's values for one batch, and in how many batches of its own it ran."""
    count = rows.stop - rows.start
    size = reference.batch or count
    if count == size:
        return reference.values(arrays, rows), 1
    if count % size:
        raise VerificationError(
            f"{reference.name} runs batches of {size}, which do not divide the {count} samples"
        )
    parts = []
    for start in range(0, count, size):
        part = slice(start, start + size)
        parts.append(reference.values([batch_of(a, part) for a in arrays], part))
    outputs = [
        None if o[0] is None else join([p for p in o if p is not None], fixed=False)
        for o in zip(*(p.outputs for p in parts), strict=True)
    ]
    inner = {n: join([np.asarray(p.inner[n]) for p in parts], fixed=n in static) for n in parts[0].inner}
    return Values(outputs, inner), len(parts)
