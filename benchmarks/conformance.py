"""How many of the onnx package's backend cases pass: run, traced, exported again; and in the peers.

    python benchmarks/conformance.py [REGEX] [--export --dynamic --compile --round-trip --peers | --all]

Always: every case is imported, run and compared as the onnx package compares; what is excluded in
tests/backend is listed with its reason. Then, of the cases that pass:

--export      `torch.export.export`, the program's outputs bit by bit against the module's
--dynamic     the same with the first dimension of every input dynamic where it is 2 or more
--compile     `torch.compile(fullgraph=True)` with the backend "eager", so what is counted is the tracing
--round-trip  written by `export_qonnx` unchanged, and in canonical form after an edit (an Identity in front
              of the first output): valid for onnx.checker with full_check, the same outputs once imported
--peers       the same cases in the onnx package's reference evaluator, in onnxruntime, and in onnx2torch
              where it is installed

Where a case gives a parameter (axes, sizes) as an input, tracing depends on data that real models have as
constants: a case that fails for that is tried again with the parameters as constants, and counted apart.
Exit status 1 where a case fails that is not excluded, or a round trip gives other outputs or an invalid file.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import io
import json
import logging
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, fx
from torch.export import Dim
from torch.utils import _pytree

import qonnx_torch as qt
from qonnx_torch.backend import QonnxTorchBackendRep, prepare
from qonnx_torch.errors import ExportError
from qonnx_torch.registry import REGISTRY
from qonnx_torch.testing import KINDS, BackendCase, backend_cases

EXCLUSIONS = Path(__file__).resolve().parents[1] / "tests" / "backend" / "exclusions.json"
WITH_CONSTANTS = "passed, parameters as constants"
REASONS = (
    (r"DynamicOutputShape|GuardOnDataDependent|data-dependent|unbacked|item\(\)|\.tolist|Runtime assertion",
     "a Python number is read from data (a size, a condition, a number of steps)"),
    (r"torch\.cond|while_loop|HigherOrder|higher.order",
     "control flow on data that torch's operators do not take"),
)  # fmt: skip


@dataclass
class Tally:
    """The outcomes of one question by kind of case.

    Attributes:
        counts: kind -> outcome -> number of cases.
        failures: case -> outcome and what is wrong.
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, case: BackendCase, outcome: str, detail: str = "") -> None:
        self.counts.setdefault(case.kind, Counter())[outcome] += 1
        if not outcome.startswith("passed"):
            self.failures[case.name] = outcome, detail


class DifferentOutputsError(Exception):
    """What ran gives other outputs."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("regex", nargs="?", default="", help="only cases whose name matches")
    for name in ("export", "dynamic", "compile", "round-trip", "peers", "all"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--json", type=Path, help="writes all counts and failures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch._dynamo.config.capture_dynamic_output_shape_ops = True
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    console = Console(width=max(Console().width, 120))
    exclusions = json.loads(EXCLUSIONS.read_text())
    excluded = {name for entry in exclusions.values() for name in entry["cases"]}
    selected = [c for k in KINDS for c in backend_cases(k) if re.search(options.regex, c.name)]
    tallies = {"run": Tally()}
    passed = []
    for case in track(selected, "run", console=console):
        attempt(tallies["run"], case, run, retry=False)
        if case.name not in tallies["run"].failures:
            passed.append(case)
    tried: dict[str, tuple[Callable[[BackendCase], str], list[BackendCase]]] = {
        "export": (exported, passed), "dynamic": (exported_dynamic, passed), "compile": (compiled, passed),
        "round_trip unchanged": (unchanged, passed), "round_trip edited": (edited, passed),
    }  # fmt: skip
    for name, (question, cases) in tried.items():
        if options.all or getattr(options, name.partition(" ")[0]):
            tallies[name.removeprefix("round_trip ")] = tally = Tally()
            for case in track(cases, name, console=console):
                attempt(tally, case, question, retry=True)
    if options.all or options.peers:
        for name, peer in peers().items():
            tallies[name] = tally = Tally()
            for case in track(selected, name, console=console):
                attempt(tally, case, peer, retry=False)
    report(console, tallies, exclusions)
    if options.json:
        figures = {n: {"counts": t.counts, "failures": t.failures} for n, t in tallies.items()}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    unexpected = [n for n in tallies["run"].failures if n not in excluded]
    wrong = [
        name
        for how in ("export", "dynamic", "compile", "unchanged", "edited")
        for name, (outcome, _) in (tallies[how].failures.items() if how in tallies else ())
        if outcome in ("other outputs", "invalid file", "fails when imported again")
    ]
    for name in unexpected + wrong:
        console.print(f"[red]{name}[/red]", *tallies["run"].failures.get(name, ("wrong",)))
    return int(bool(unexpected or wrong))


def attempt(tally: Tally, case: BackendCase, question: Callable[[BackendCase], str], *, retry: bool) -> None:
    """Notes what becomes of a case; one that fails is tried again with its parameters as constants."""
    with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # torch prints graphs that it gives up
        try:
            tally.add(case, question(case))
        except Exception as error:
            if not (retry and case.parameters):
                tally.add(case, *describe(error))
                return
            try:
                question(case.with_constants())
            except Exception as again:
                tally.add(case, *describe(again))
            else:
                tally.add(case, WITH_CONSTANTS)


def describe(error: Exception) -> tuple[str, str]:
    """Returns the class of a failure and its first lines."""
    text = " | ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if isinstance(error, DifferentOutputsError):
        return "other outputs", text
    for pattern, reason in REASONS:
        if re.search(pattern, f"{type(error).__name__} {text}"):
            return reason, text[:300]
    if isinstance(error, ExportError):
        return f"refused: {re.sub('[0-9]+ nodes|node .*? cannot', 'nodes', text)[:60]}", text[:300]
    return type(error).__name__, text[:300]


# -- the questions -------------------------------------------------------------------------------------------


def run(case: BackendCase) -> str:
    rep = prepare(case.model)
    for inputs, expected in case.data_sets:
        case.check(rep.run(inputs), expected)
    return "passed"


def prepared(case: BackendCase) -> tuple[QonnxTorchBackendRep, tuple[Any, ...], Any]:
    """Returns a case's module, the arguments of its first data set, and the outputs."""
    rep = prepare(case.model)
    arguments = rep.tensors(case.data_sets[0][0])
    torch.manual_seed(0)
    return rep, arguments, rep.module(*arguments)


def compare(case: BackendCase, rep: QonnxTorchBackendRep, found: Any, wanted: Any) -> str:
    """Returns how far outputs agree; raises DifferentOutputsError where they are not as expected."""
    if same_bits(found, wanted):
        return "passed"
    try:
        case.check(rep.arrays(found), case.data_sets[0][1])
    except AssertionError as error:
        raise DifferentOutputsError(str(error)) from None
    return "passed, other rounding"


def exported(case: BackendCase) -> str:
    rep, arguments, wanted = prepared(case)
    program = torch.export.export(rep.module, arguments).module()
    torch.manual_seed(0)
    return compare(case, rep, program(*arguments), wanted)


def exported_dynamic(case: BackendCase) -> str:
    rep, arguments, wanted = prepared(case)
    shapes = _pytree.tree_map(lambda a: {0: Dim.AUTO} if may_vary(a) else None, arguments)
    if not any(map(may_vary, _pytree.tree_leaves(arguments))):
        return "no first dimension of 2 or more"
    program = torch.export.export(rep.module, arguments, dynamic_shapes=shapes)
    if not any(str(symbol).startswith("s") for symbol in program.range_constraints):
        return "works for one size only"
    torch.manual_seed(0)
    return compare(case, rep, program.module()(*arguments), wanted)


def may_vary(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.dim() > 0 and argument.shape[0] > 1


def compiled(case: BackendCase) -> str:
    rep, arguments, wanted = prepared(case)
    torch._dynamo.reset()
    function = torch.compile(rep.module, fullgraph=True, backend="eager")
    torch.manual_seed(0)
    return compare(case, rep, function(*arguments), wanted)


def unchanged(case: BackendCase) -> str:
    rep, arguments, wanted = prepared(case)
    return written(case, rep.module, arguments, wanted)


def edited(case: BackendCase) -> str:
    rep, arguments, wanted = prepared(case)
    module = with_identity(rep.module)
    try:
        return written(case, module, arguments, wanted)
    except ExportError as error:
        if "give example inputs" not in str(error):
            raise
    return f"{written(case, module, arguments, wanted, given=True)}, given example inputs"


def with_identity(module: fx.GraphModule) -> fx.GraphModule:
    """Returns a copy with an Identity in front of the first output: it is written in canonical form."""
    module = copy.deepcopy(module)
    output = next(n for n in module.graph.nodes if n.op == "output")
    (results,) = output.args
    first, *others = results if isinstance(results, (tuple, list)) else (results,)
    with module.graph.inserting_before(output):
        new = module.graph.call_function(REGISTRY.get("", "Identity", 1).target, (first,))
    output.args = ((new, *others),) if isinstance(results, (tuple, list)) else (new,)
    module.recompile()
    return module


def written(
    case: BackendCase, module: fx.GraphModule, arguments: tuple[Any, ...], wanted: Any, given: bool = False
) -> str:
    model = qt.export_qonnx(module, args=arguments if given else ())
    if is_valid(case.model) and not is_valid(model):
        return "invalid file"
    try:
        again = prepare(model)
        torch.manual_seed(0)
        found = again.module(*arguments)
    except Exception:
        return "fails when imported again"
    return compare(case, again, found, wanted)


def is_valid(model: ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:
        return False
    return True


def same_bits(found: Any, wanted: Any) -> bool:
    a, b = _pytree.tree_leaves(found), _pytree.tree_leaves(wanted)
    return len(a) == len(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and bits(x) == bits(y)
        if isinstance(x, Tensor) and isinstance(y, Tensor)
        else x is y or x == y
        for x, y in zip(a, b, strict=True)
    )


def bits(x: Tensor) -> bytes:
    x = torch.where(x.isnan(), torch.nan, x) if x.dtype in (torch.float32, torch.float64) else x
    return x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if x.numel() else b""


# -- the peers -----------------------------------------------------------------------------------------------


def peers() -> dict[str, Callable[[BackendCase], str]]:
    found: dict[str, Callable[[BackendCase], str]] = {"reference evaluator": in_reference}
    if importlib.util.find_spec("onnxruntime"):
        found["onnxruntime"] = in_onnxruntime
    if importlib.util.find_spec("onnx2torch"):
        found["onnx2torch"] = in_onnx2torch
    return found


def in_reference(case: BackendCase) -> str:
    evaluator = onnx.reference.ReferenceEvaluator(case.model)
    return in_session(case, evaluator.input_names, evaluator.run)


def in_onnxruntime(case: BackendCase) -> str:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        case.model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    return in_session(case, [i.name for i in session.get_inputs()], session.run)


def in_session(case: BackendCase, names: Iterable[str], run: Callable[..., Any]) -> str:
    for inputs, expected in case.data_sets:
        case.check(list(run(None, dict(zip(names, inputs, strict=False)))), expected)
    return "passed"


def in_onnx2torch(case: BackendCase) -> str:
    import onnx2torch

    module = onnx2torch.convert(case.model)
    rep = QonnxTorchBackendRep(module, case.model, torch.device("cpu"))
    for inputs, expected in case.data_sets:
        case.check(rep.run(inputs), expected)
    return "passed"


# -- the report ----------------------------------------------------------------------------------------------


def report(console: Console, tallies: dict[str, Tally], exclusions: dict[str, Any]) -> None:
    table = Table("question", *KINDS, title="cases that pass, of those tried")
    for name, tally in tallies.items():
        cells = []
        for kind in KINDS:
            counts = tally.counts.get(kind, Counter())
            good = sum(n for outcome, n in counts.items() if outcome.startswith("passed"))
            cells.append(f"{good} of {counts.total()}" if counts else "")
        table.add_row(name, *cells)
    console.print(table)
    for name, tally in tallies.items():
        total: Counter[str] = Counter()
        for counts in tally.counts.values():
            total += counts
        if name in ("reference evaluator", "onnxruntime", "onnx2torch"):
            continue
        details = Table(f"{name}: outcome", "cases", "which")
        for outcome, number in total.most_common():
            which = [n.removeprefix("test_") for n, (o, _) in tally.failures.items() if o == outcome]
            details.add_row(outcome, str(number), ", ".join(which[:12]) + (" ..." if len(which) > 12 else ""))
        console.print(details)
    table = Table("excluded", "cases", "reason")
    for subject, entry in exclusions.items():
        table.add_row(subject, str(len(entry["cases"])), entry["reason"])
    console.print(table)


if __name__ == "__main__":
    started = time.perf_counter()
    status = main()
    print(f"{time.perf_counter() - started:.0f} s")
    sys.exit(status)
