"""Times import and execution beside qonnx, on the same models, in one run.

    python benchmarks/import_and_execute.py [MODEL ...] [--rounds 5] [--no-compile] [--json FILE]

Without models: the demo model, and TFC, CNV, MobileNet and ResNet18 where the folder of real models is
(QONNX_TORCH_CORPUS, or ../shared/models beside the checkout).

What is compared, always as CPU time of this process on one core:
  import       `import_model(path)`, against qonnx's `ModelWrapper(path)` and `cleanup_model`, its preparation
  eager        the imported module, against qonnx's `execute_onnx`, at batch 1 and 32
  compiled     the same under `torch.compile(fullgraph=True)`; compiling is reported apart, as wall time
qonnx gets batch 32 by `cleanup_model(..., override_inpsize=32)`, which is its ChangeBatchSize; where that
does not work, sample by sample (marked *). The contenders take turns in every round; a ratio is taken
within a round, and the medians over the rounds are shown. The outputs are compared too: an activation on a
rounding tie makes two correct float32 implementations differ by a step, so look at the size of a difference.
"""

from __future__ import annotations

import os

if hasattr(os, "sched_setaffinity"):  # one core for all, also for the sessions that qonnx makes itself
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.util.cleanup import cleanup_model
from rich.console import Console
from rich.table import Table

import qonnx_torch as qt

CHECKOUT = Path(__file__).resolve().parents[1]
CORPUS_MODELS = ("bv_tfc_2w2a_dynamo", "bv_cnv_2w2a", "bv_mobilenet_v1_w025_4w4a_64", "bv_resnet18_w16_4w4a")
BATCH = 32

Run = Callable[[], Any]


@dataclass
class Result:
    """Medians of one model, in milliseconds, and of the ratios qonnx / ours."""

    model: str
    milliseconds: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    compile_seconds: dict[str, float] = field(default_factory=dict)
    largest_difference: dict[str, float] = field(default_factory=dict)
    sample_by_sample: bool = False


def default_models() -> list[Path]:
    """Returns the demo model and the real models that are there."""
    folder = Path(os.environ.get("QONNX_TORCH_CORPUS", CHECKOUT.parent / "shared" / "models"))
    corpus = [folder / name / "model.onnx" for name in CORPUS_MODELS]
    return [CHECKOUT / "examples" / "digits" / "digits_w4a4.onnx", *(p for p in corpus if p.exists())]


def label(path: Path) -> str:
    """Returns the name of a model file, or of its folder where the file is just called model."""
    return path.parent.name if path.stem == "model" else path.stem


def cpu_time(run: Run, least: float) -> float:
    """Returns the CPU seconds of one run, over as many as take `least` seconds together."""
    count, started = 0, time.process_time()
    while True:
        run()
        count += 1
        elapsed = time.process_time() - started
        if elapsed >= least:
            return elapsed / count


def qonnx_model(path: Path, batch: int | None = None) -> ModelWrapper:
    """Returns qonnx's model, cleaned up as its documentation says before executing."""
    return cleanup_model(ModelWrapper(str(path)), override_inpsize=batch)


def qonnx_run(path: Path, x: np.ndarray, result: Result) -> Run:
    """Returns how qonnx executes a batch: at once, or sample by sample where it must."""
    single = qonnx_model(path)
    name = single.graph.input[0].name
    if len(x) == 1:
        return lambda: next(iter(execute_onnx(single, {name: x}).values()))
    try:
        wide = qonnx_model(path, len(x))
        execute_onnx(wide, {name: x})
    except Exception as error:  # whatever it cannot do is no matter of this script
        print(f"{result.model}: qonnx runs sample by sample ({type(error).__name__})", file=sys.stderr)
        result.sample_by_sample = True
        return lambda: np.concatenate([next(iter(execute_onnx(single, {name: s[None]}).values())) for s in x])
    return lambda: next(iter(execute_onnx(wide, {name: x}).values()))


def measure(path: Path, rounds: int, least: float, compiled: bool, console: Console) -> Result:
    """Returns the medians for one model."""
    result = Result(label(path))
    with console.status(f"{result.model}: preparing"):
        contenders: dict[str, tuple[str, Run]] = {
            "import": ("import", lambda: qt.import_model(path)),
            "import qonnx": ("import", lambda: qonnx_model(path)),
        }
        module = qt.import_model(path, batch="dynamic")
        shape = [d.dim_value for d in ModelWrapper(str(path)).graph.input[0].type.tensor_type.shape.dim]
        for batch in (1, BATCH):
            x = np.random.default_rng(0).random((batch, *shape[1:]), dtype=np.float32)
            tensor = torch.from_numpy(x)
            runs: dict[str, Run] = {"eager": lambda tensor=tensor: module(tensor)}
            if compiled:
                torch._dynamo.reset()
                fast = torch.compile(module, fullgraph=True, dynamic=False)
                started = time.perf_counter()
                fast(tensor)
                result.compile_seconds[f"batch {batch}"] = time.perf_counter() - started
                runs["compiled"] = lambda tensor=tensor, fast=fast: fast(tensor)
            runs["qonnx"] = qonnx_run(path, x, result)
            golden = runs["qonnx"]()
            for how, run in runs.items():
                contenders[f"{how} {batch}"] = (f"batch {batch}", run)
                if how != "qonnx":
                    difference = np.abs(run().numpy() - golden)
                    result.largest_difference[f"{how} {batch}"] = float(difference.max())

    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        with console.status(f"{result.model}: round {number + 1} of {rounds}"):
            for name, (_, run) in contenders.items():
                times[name].append(cpu_time(run, least))
    result.milliseconds = {name: 1e3 * statistics.median(t) for name, t in times.items()}
    for name, (group, _) in contenders.items():
        peer = "import qonnx" if group == "import" else f"qonnx {group.removeprefix('batch ')}"
        if name != peer:
            pairs = zip(times[peer], times[name], strict=True)
            result.ratios[name] = statistics.median(theirs / ours for theirs, ours in pairs)
    return result


def show(results: list[Result], console: Console) -> None:
    """Prints the table: milliseconds of qonnx, and how many times as long it takes as ours."""
    table = Table(title="CPU milliseconds, and (ratio) how many times as long qonnx takes")
    table.add_column("model")
    columns = ["import qonnx", "import"]
    columns += [f"{how} {batch}" for batch in (1, BATCH) for how in ("qonnx", "eager", "compiled")]
    for column in columns:
        table.add_column(column, justify="right")
    for result in results:
        cells = []
        for column in columns:
            value = result.milliseconds.get(column)
            text = "-" if value is None else f"{value:.3g}"
            if column in result.ratios:
                text += f" ({result.ratios[column]:.3g})"
            if column == f"qonnx {BATCH}" and result.sample_by_sample:
                text += "*"
            cells.append(text)
        table.add_row(result.model, *cells)
    console.print(table)
    for result in results:
        compiling = ", ".join(f"{k}: {v:.0f} s" for k, v in result.compile_seconds.items())
        largest = max(result.largest_difference.values())
        console.print(
            f"{result.model}: largest difference from qonnx {largest:.2g}"
            + (f"; compiled once in {compiling}" if compiling else "")
        )


def main() -> int:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, help="ONNX files; else the demo and known real ones")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which all contenders take turns")
    parser.add_argument("--least", type=float, default=0.2, help="least CPU seconds per contender and round")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console = Console(width=max(Console().width, 140))
    results = []
    with torch.no_grad():
        for path in options.models or default_models():
            results.append(measure(path, options.rounds, options.least, not options.no_compile, console))
    show(results, console)
    if options.json:
        environment = {"torch": torch.__version__, "python": platform.python_version()}
        rows = [asdict(r) for r in results]
        options.json.write_text(
            json.dumps({"environment": environment, "rounds": options.rounds, "models": rows}, indent=1)
            + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
