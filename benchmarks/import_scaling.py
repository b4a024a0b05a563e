"""How time and memory of an import grow with the model, beside qonnx's clean-up and onnx2torch.

Chains of Conv, Relu, Add and Quant (and of Conv, Relu, Add alone, which onnx2torch can read) of 100 to 20,000
nodes, and a model of eight 4096 x 4096 matrices (512 MiB): in the file, as Constant nodes, as packed
`float_data`, in a file beside it, and given as bytes or as a ModelProto.

    python benchmarks/import_scaling.py [--nodes 100 1000 ...] [--limit 120] [--json FILE]

Every measurement is a process of its own with one thread: CPU seconds of the import (the least of three where
one takes under ten seconds), and the peak of the resident memory above what the process had before, in units
of the model's bytes. A contender that takes longer than the limit (seconds) is stopped.

Exit status 1: 5,000 nodes take a second of CPU or more, twice the nodes more than 2.3 times as long, or the
memory of an import by path is 2.5 times the model's bytes or more.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from rich.console import Console
from rich.progress import track
from rich.table import Table

QONNX = "qonnx.custom_op.general"
SIDE, COUNT = 4096, 8
MEMORY_SOURCES = ("path", "bytes", "ModelProto")


def chain(nodes: int, *, quantized: bool) -> ModelProto:
    """A chain in which every Conv has weights of its own and the quantizers share their constants."""
    tensors = [numpy_helper.from_array(np.float32(v), n) for n, v in (("s", 0.1), ("z", 0.0), ("b", 4.0))]
    tensors = tensors if quantized else []
    kinds = ("Conv", "Relu", "Add", "Quant") if quantized else ("Conv", "Relu", "Add")
    made, last = [], "x"
    for i in range(nodes):
        kind, block = kinds[i % len(kinds)], f"blocks.{i // len(kinds)}"
        name, output = f"/{block}/{kind}", "y" if i == nodes - 1 else f"{block}.{kind}_out"
        inputs = [last, last] if kind == "Add" else [last]
        attributes: dict[str, Any] = {}
        if kind == "Conv":
            weight = np.full((4, 4, 1, 1), 0.25, np.float32)
            tensors.append(numpy_helper.from_array(weight, f"{block}.conv.weight"))
            inputs.append(tensors[-1].name)
            attributes = {"kernel_shape": [1, 1]}
        elif kind == "Quant":
            inputs += ["s", "z", "b"]
            attributes = {"domain": QONNX, "signed": 1, "narrow": 0, "rounding_mode": "ROUND"}
        made.append(helper.make_node(kind, inputs, [output], name, **attributes))
        last = output
    shape = [1, 4, 8, 8]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "xy"]
    graph = helper.make_graph(made, "chain", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid(QONNX, 1)]
    return helper.make_model(graph, opset_imports=opsets[: 1 + quantized], ir_version=8)


def matrices(side: int, count: int, place: str) -> ModelProto:
    """x @ w0 @ w1 ..."""
    random = np.random.default_rng(0)
    nodes, tensors, last = [], [], "x"
    for i in range(count):
        array = random.standard_normal((side, side), dtype=np.float32)
        if place == "float_data":
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=array.shape)
            tensor.float_data.extend(array.ravel())
        else:
            tensor = numpy_helper.from_array(array, f"w{i}")
        if place == "Constant nodes":
            nodes.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
        else:
            tensors.append(tensor)
        output = "y" if i == count - 1 else f"h{i}"
        nodes.append(helper.make_node("MatMul", [last, tensor.name], [output]))
        last = output
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, side]) for n in "xy"]
    graph = helper.make_graph(nodes, "matrices", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


# -- one measurement, in a process of its own ----------------------------------------------------------


def with_qonnx_torch(source: Any) -> Any:
    import qonnx_torch as qt

    return qt.import_model(source)


def with_qonnx(source: Any) -> Any:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.cleanup import cleanup_model

    return cleanup_model(ModelWrapper(str(source)))


def with_onnx2torch(source: Any) -> Any:
    import onnx2torch

    return onnx2torch.convert(str(source) if isinstance(source, Path) else source)


def with_onnx(source: Any) -> Any:
    return onnx.load(source)


CONTENDERS: dict[str, Callable[[Any], Any]] = {
    "qonnx_torch": with_qonnx_torch,
    "qonnx clean-up": with_qonnx,
    "onnx2torch": with_onnx2torch,
    "onnx.load": with_onnx,
}


def memory(key: str) -> int:
    """Bytes resident now (VmRSS) or at most (VmHWM); 0 where the system does not tell."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024
    return 0


def measure(contender: str, warm_up: Path, path: Path, source: str) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    run = CONTENDERS[contender]
    run(warm_up)
    before = memory("VmRSS")
    given: Any = path
    if source == "bytes":
        given = path.read_bytes()
    elif source == "ModelProto":
        given = onnx.load(path)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    seconds: list[float] = []
    peaks: list[int] = []
    while len(seconds) < 3 and sum(seconds) < 10:
        gc.collect()
        started = time.process_time()
        result = run(given)
        seconds.append(time.process_time() - started)
        peaks.append(memory("VmHWM") - before)
        del result
    return {"seconds": min(seconds), "peak": peaks[0]}


def measured(
    contender: str, warm_up: Path, path: Path, limit: float, source: str = "path"
) -> dict[str, float] | str:
    """Returns the figures of a measurement, or why there are none."""
    command = [sys.executable, __file__, "--measure", contender, str(warm_up), str(path), source]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=limit + 30)
    except subprocess.TimeoutExpired:
        return f"> {limit:.0f} s"
    if process.returncode:
        lines = process.stderr.strip().splitlines()
        return f"cannot ({lines[-1].partition(':')[0].rpartition('.')[2]})" if lines else "crashed"
    figures: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return figures


# -- the tables ----------------------------------------------------------------------------------------


def shown(figures: dict[str, float] | str, key: str, unit: float = 1.0) -> str:
    return figures if isinstance(figures, str) else f"{figures[key] / unit:.2f}"


def compare_chains(
    folder: Path, sizes: Sequence[int], limit: float, console: Console
) -> tuple[list[dict[str, Any]], bool]:
    rows: list[dict[str, Any]] = []
    for quantized in (True, False):
        what = "Conv, Relu, Add, Quant" if quantized else "Conv, Relu, Add"
        warm_up = folder / "warm_up.onnx"
        onnx.save(chain(12, quantized=quantized), warm_up)
        stopped: set[str] = set()
        for size in track(sizes, what, console=Console(stderr=True), transient=True):
            path = folder / f"{size}.onnx"
            onnx.save(chain(size, quantized=quantized), path)
            row: dict[str, Any] = {"chain": what, "nodes": size}
            for name in ("qonnx_torch", "qonnx clean-up", "onnx2torch"):
                row[name] = "-" if name in stopped else measured(name, warm_up, path, limit)
                if isinstance(row[name], str):
                    stopped.add(name)
            rows.append(row)
    table = Table("chain of", "nodes", "qonnx_torch", "per node", "qonnx clean-up", "onnx2torch")
    table.title = "CPU seconds of the import"
    for row in rows:
        ours = row["qonnx_torch"]
        each = f"{1e6 * ours['seconds'] / row['nodes']:.0f} µs" if isinstance(ours, dict) else ""
        others = [shown(row[name], "seconds") for name in ("qonnx clean-up", "onnx2torch")]
        table.add_row(row["chain"], f"{row['nodes']:,}", shown(ours, "seconds"), each, *others)
    console.print(table)
    return rows, _holds(rows)


def _holds(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether 5,000 nodes take under a second, and twice the nodes at most 2.3 times as long."""
    good = True
    for row in rows:
        seconds = row["qonnx_torch"]["seconds"]
        good = good and (row["nodes"] != 5000 or seconds < 1.0)
        for other in rows:
            doubled = other["chain"] == row["chain"] and other["nodes"] == 2 * row["nodes"]
            if doubled and row["nodes"] >= 1000:  # the smallest are over before the clock ticks
                good = good and other["qonnx_torch"]["seconds"] <= 2.3 * seconds
    return good


def compare_memory(
    folder: Path, side: int, limit: float, console: Console
) -> tuple[list[dict[str, Any]], bool]:
    size = COUNT * side * side * 4
    rows: list[dict[str, Any]] = []
    small = folder / "small.onnx"
    onnx.save(matrices(4, 2, "raw_data"), small)
    for place in ("raw_data", "Constant nodes", "float_data", "external file"):
        path = folder / "matrices.onnx"
        model = matrices(side, COUNT, place)
        onnx.save(model, path, save_as_external_data=place == "external file", location="matrices.bin")
        del model
        for source in MEMORY_SOURCES:
            if source == "bytes" and place == "external file":
                continue  # bytes have no folder
            row: dict[str, Any] = {"data": place, "source": source}
            row["qonnx_torch"] = measured("qonnx_torch", small, path, limit, source)
            for name in ("onnx2torch", "onnx.load") if source == "path" else ():
                row[name] = measured(name, small, path, limit)
            rows.append(row)
        for written in (path, folder / "matrices.bin"):
            written.unlink(missing_ok=True)
    table = Table("data in", "given as", "qonnx_torch", "onnx2torch", "onnx.load alone")
    table.title = (
        f"{COUNT} x {side} x {side} float32 ({size >> 20} MiB): CPU seconds and peak memory in model sizes"
    )
    for row in rows:
        cells = []
        for name in ("qonnx_torch", "onnx2torch", "onnx.load"):
            figures = row.get(name, "")
            peak = "" if isinstance(figures, str) else f" s, {shown(figures, 'peak', size)}x"
            cells.append(shown(figures, "seconds") + peak)
        table.add_row(row["data"], row["source"], *cells)
    console.print(table)
    console.print("The peak counts what the caller holds: bytes and a ModelProto are 1x before it begins.")
    return rows, all(r["qonnx_torch"]["peak"] < 2.5 * size for r in rows if r["source"] == "path")


def main() -> int:
    if sys.argv[1:2] == ["--measure"]:
        contender, warm_up, path, source = sys.argv[2:]
        print(json.dumps(measure(contender, Path(warm_up), Path(path), source)))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1000, 5000, 10_000, 20_000])
    parser.add_argument("--side", type=int, default=SIDE, help="of the matrices")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one measurement")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    console = Console(width=130)
    with tempfile.TemporaryDirectory(prefix="import-scaling-") as name:
        folder = Path(name)
        chains, linear = compare_chains(folder, arguments.nodes, arguments.limit, console)
        large, bounded = compare_memory(folder, arguments.side, arguments.limit, console)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"chains": chains, "memory": large}, indent=2))
    console.print(f"targets: time {'hold' if linear else 'MISSED'}, memory {'hold' if bounded else 'MISSED'}")
    return 0 if linear and bounded else 1


if __name__ == "__main__":
    sys.exit(main())
