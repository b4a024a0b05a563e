"""What the importer makes of broken and hostile files: thousands of mutations of real and of small models.

Every file must be imported, or refused with InvalidModelError or UnsupportedModelError; no other exception,
no crash of the interpreter, no hang, no memory out of proportion. Four in ten files are imported as bytes,
three with batch="dynamic", the others as a ModelProto and by a path (with external data beside it). What was
imported is then called with zeros: torch may refuse that (another contract), but the interpreter must stay
alive.

    python benchmarks/fuzz.py [--files 10000] [--seed 0] [--save FOLDER] [--only N]     or: make fuzz

The corpus are the models in tests/models, the onnx package's backend cases, and the folder of real models
that QONNX_TORCH_CORPUS names, where it does. File N of a seed is always the same.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import math
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from _mutations import NAMES, mutated
from google.protobuf.message import DecodeError
from onnx import ModelProto
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import qonnx_torch as qt
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError
from qonnx_torch.passes.shapes import declared_inputs
from qonnx_torch.testing import backend_cases

ROOT = Path(__file__).resolve().parents[1]
IMPORT_SECONDS, RUN_SECONDS = 20.0, 10.0
MEMORY = 1 << 30  # bytes above what the worker has; the files have less than 2 MiB
TIMES = 40  # what an import may take besides, in sizes of the file
TIMES_OF_INPUTS = 256  # and of the inputs, where a batch is tried
LARGEST = 2 << 20

LISTED = ("imported", "InvalidModelError", "UnsupportedModelError")
RUNS = ("ran", "torch or rule refused", "memory", "hang", "crash")


def corpus() -> list[bytes]:
    folder = os.environ.get("QONNX_TORCH_CORPUS")
    paths = [*sorted(ROOT.glob("tests/models/**/*.onnx"))]
    paths += sorted(Path(folder).glob("*/model.onnx")) if folder else []
    files = [p.read_bytes() for p in paths]
    cases = [c.model.SerializeToString() for kind in ("node", "simple") for c in backend_cases(kind)]
    weighted = [*files, *dict.fromkeys(cases)]
    return [content for content in weighted if 0 < len(content) <= LARGEST]


def file_of(files: Sequence[bytes], seed: int, number: int) -> tuple[str, bytes]:
    dice = random.Random(f"{seed}:{number}")
    if dice.random() < 0.25:  # the real models are few beside the backend cases
        return mutated(files[:100], dice)
    return mutated(files, dice)


# -- the worker ----------------------------------------------------------------------------------------


TRIED = (4, 5, 6)


def allowed_memory(content: bytes, number: int) -> int:
    """Returns how much memory the import of a file may take."""
    allowed = MEMORY // 4 + TIMES * len(content)
    if number % 10 in TRIED:
        with contextlib.suppress(DecodeError):
            for value in ModelProto.FromString(content).graph.input:
                dims = [d.dim_value for d in value.type.tensor_type.shape.dim if d.dim_value > 0]
                allowed += TIMES_OF_INPUTS * min(4 * math.prod(dims), MEMORY // 4)
    return allowed


def peak_memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(process: int | None) -> float:
    """Returns how long a process has computed; a loaded machine makes nothing hang."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def import_one(content: bytes, number: int, folder: Path) -> tuple[str, str, Any]:
    try:
        if number % 10 in TRIED:
            return "imported", "", qt.import_model(content, batch="dynamic")
        if number % 10 == 7:
            (folder / "model.onnx").write_bytes(content)
            return "imported", "", qt.import_model(folder / "model.onnx")
        if number % 10 > 7:
            with contextlib.suppress(DecodeError):
                return "imported", "", qt.import_model(ModelProto.FromString(content))
        return "imported", "", qt.import_model(content)
    except (InvalidModelError, UnsupportedModelError) as error:
        invalid = isinstance(error, InvalidModelError)
        return "InvalidModelError" if invalid else "UnsupportedModelError", str(error), None
    except BaseException as error:
        return f"unlisted {type(error).__name__}", traceback.format_exc(), None


def zeros(module: torch.fx.GraphModule) -> list[torch.Tensor] | None:
    inputs = []
    for spec in declared_inputs(module) or ():
        if spec.shape is None:
            return None
        dims = [d if isinstance(d, int) else 2 for d in spec.shape]
        count = 1
        for d in dims:
            count *= max(d, 1)
        if count > 1 << 20 or any(d < 0 for d in dims):
            return None
        inputs.append(torch.zeros(dims, dtype=spec.dtype))
    return inputs


def run_one(module: Any) -> str:
    try:
        inputs = zeros(module)
        if inputs is None:
            return "not run"
        with torch.no_grad():
            module(*inputs)
    except MemoryError:
        return "memory"
    except Exception as error:
        return "memory" if "allocate memory" in str(error) else "torch or rule refused"
    return "ran"


def work(files: Sequence[bytes], seed: int, numbers: Sequence[int], pipe: Connection) -> None:
    import resource

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for name in ("external_data.bin", "w.bin"):
        shutil.copy(ROOT / "tests" / "models" / "external_data.bin", folder / name)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * MEMORY, resource.RLIM_INFINITY))
    for number in numbers:
        change, content = file_of(files, seed, number)
        pipe.send(("import", number, change))
        before, started = reset_peak(), time.process_time()
        outcome, message, module = import_one(content, number, folder)
        seconds, memory = time.process_time() - started, peak_memory() - before
        pipe.send(("run", number, outcome, message, seconds, memory, allowed_memory(content, number)))
        ran = "" if module is None else run_one(module)
        del module
        pipe.send(("done", number, ran))
    shutil.rmtree(folder)


# -- the parent ----------------------------------------------------------------------------------------


class Tally:
    """The outcomes, and what is to be looked at."""

    def __init__(self, save: Path | None, files: Sequence[bytes], seed: int) -> None:
        self.imports: collections.Counter[tuple[str, str]] = collections.Counter()
        self.runs: collections.Counter[str] = collections.Counter()
        self.findings: list[tuple[int, str, str]] = []
        self.seconds: list[tuple[float, int]] = []
        self.memory: list[tuple[int, int]] = []
        self.save, self.files, self.seed = save, files, seed

    def imported(self, number: int, change: str, outcome: str, message: str) -> None:
        self.imports[change, outcome] += 1
        if outcome not in LISTED:
            self.find(number, outcome, message)

    def find(self, number: int, what: str, message: str) -> None:
        self.findings.append((number, what, message))
        if self.save is not None:
            self.save.mkdir(parents=True, exist_ok=True)
            name = f"{self.seed}_{number}"
            (self.save / f"{name}.onnx").write_bytes(file_of(self.files, self.seed, number)[1])
            (self.save / f"{name}.txt").write_text(f"{what}\n{message}\n")


class Worker:
    """A process, what it is doing, and since when."""

    def __init__(self, files: Sequence[bytes], seed: int, numbers: list[int]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, other = context.Pipe()
        self.numbers = numbers
        self.stage, self.number, self.change, self.since = "start", -1, "", 0.0
        self.process = context.Process(target=work, args=(files, seed, numbers, other), daemon=True)
        self.process.start()
        other.close()

    def is_late(self) -> bool:
        limit = {"import": IMPORT_SECONDS, "run": RUN_SECONDS}.get(self.stage, 60.0)
        return cpu_seconds(self.process.pid) - self.since > limit

    def rest(self) -> list[int]:
        left = self.numbers.index(self.number) + 1 if self.number in self.numbers else 0
        return self.numbers[left:]


def handle(worker: Worker, tally: Tally, report: tuple[Any, ...]) -> bool:
    """Notes what a worker reports; whether a file is done."""
    stage, number, *rest = report
    worker.stage, worker.number, worker.since = stage, number, cpu_seconds(worker.process.pid)
    if stage == "import":
        (worker.change,) = rest
    elif stage == "run":
        outcome, message, seconds, memory, allowed = rest
        tally.seconds.append((seconds, number))
        tally.memory.append((memory, number))
        if memory > allowed:
            outcome, message = "memory", f"{memory >> 20} MiB of {allowed >> 20} ({outcome})"
        tally.imported(number, worker.change, outcome, message)
    else:
        if rest[0]:
            tally.runs[rest[0]] += 1
        return True
    return False


def lost(worker: Worker, tally: Tally, how: str) -> None:
    """Notes a worker that crashed or was stopped."""
    worker.process.kill()
    worker.process.join()
    how = f"{how} ({worker.process.exitcode})" if how == "crash" else how
    if worker.stage in ("start", "done"):
        raise RuntimeError(f"the worker itself failed after file {worker.number}: {how}")
    if worker.stage == "import":
        tally.imported(worker.number, worker.change, how, "")
    elif worker.stage == "run":
        tally.runs[how.split()[0]] += 1
        if how.startswith("crash"):
            tally.find(worker.number, f"{how} while running", "")


def fuzz(files: Sequence[bytes], seed: int, numbers: list[int], processes: int, tally: Tally) -> None:
    parts = [numbers[i::processes] for i in range(processes)]
    workers = [Worker(files, seed, part) for part in parts if part]
    console = Console(stderr=True)
    with Progress(console=console) as progress:
        bar = progress.add_task("files", total=len(numbers))
        while workers:
            wait([w.pipe for w in workers], timeout=1.0)
            for worker in list(workers):
                how = "hang" if worker.is_late() else ""
                try:
                    while worker.pipe.poll():
                        progress.advance(bar, handle(worker, tally, worker.pipe.recv()))
                except EOFError:
                    how = "crash"
                if how:
                    workers.remove(worker)
                    if how == "crash" and not worker.rest() and worker.stage == "done":
                        worker.process.join()
                        continue
                    lost(worker, tally, how)
                    progress.advance(bar)
                    if worker.rest():
                        workers.append(Worker(files, seed, worker.rest()))


def show(tally: Tally, console: Console) -> None:
    outcomes = sorted({o for _, o in tally.imports}, key=lambda o: (o not in LISTED, o))
    table = Table("mutation", *outcomes, title="files by mutation and outcome of the import")
    for name in NAMES:
        row = [tally.imports[name, o] for o in outcomes]
        table.add_row(name, *map(str, row))
    totals = [sum(n for (_, o), n in tally.imports.items() if o == outcome) for outcome in outcomes]
    table.add_row("all", *map(str, totals), style="bold")
    console.print(table)
    console.print(f"what was imported, called with zeros: {dict(tally.runs)}")
    slowest = max(tally.seconds, default=(0.0, -1))
    largest = max(tally.memory, default=(0, -1))
    console.print(
        f"slowest import {slowest[0]:.2f} s (file {slowest[1]}), most memory {largest[0] >> 20} MiB "
        f"(file {largest[1]})"
    )
    for number, what, message in tally.findings:
        tail = "\n".join(line[:300] for line in message.strip().splitlines()[-4:])
        console.print(f"file {number}: {what}\n{tail}", style="red", markup=False, highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--save", type=Path, help="where to put the files that fail")
    parser.add_argument("--only", type=int, help="the number of one file, whose error is shown whole")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the backend cases divide by zero while they are made
    files = corpus()
    console = Console(width=150)
    console.print(f"{len(files)} models, {arguments.files} files, seed {arguments.seed}")
    if arguments.only is not None:
        change, content = file_of(files, arguments.seed, arguments.only)
        if arguments.save is not None:
            arguments.save.write_bytes(content)
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        outcome, message, module = import_one(content, arguments.only, folder)
        print(change, outcome, message, sep="\n")
        print("" if module is None else run_one(module))
        return 0
    tally = Tally(arguments.save, files, arguments.seed)
    fuzz(files, arguments.seed, list(range(arguments.files)), arguments.processes, tally)
    show(tally, console)
    if arguments.json is not None:
        rows = [{"mutation": m, "outcome": o, "files": n} for (m, o), n in sorted(tally.imports.items())]
        figures = {"seed": arguments.seed, "imports": rows, "runs": dict(tally.runs)}
        arguments.json.write_text(json.dumps(figures, indent=2))
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
