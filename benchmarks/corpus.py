"""What becomes of a folder of real models: imported, compared with goldens, exported, executed by the peers.

For each model: do the outputs equal the goldens (exactly, or within 1e-5 + 1e-4 * max|golden|; where neither,
layer by layer against onnxruntime, rounding ties told apart from errors); does the export come back node for
node; does qonnx 1.0.0 execute it with the bits of the golden; does plain onnxruntime execute the export with
functions (optimisations off), and how far from the module.

    python benchmarks/corpus.py [FOLDER]     (default: the folder that QONNX_TORCH_CORPUS names)

The folder holds one folder a model: model.onnx, inputs.npz (in<i>_s<k>), outputs.npz (out<i>_s<k>).
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import qonnx_torch as qt

Arrays = list[np.ndarray]


def arrays(path: Path, kind: str, sample: int) -> Arrays:
    data = np.load(path)
    return [data[f"{kind}{i}_s{sample}"] for i in range(99) if f"{kind}{i}_s{sample}" in data]


def run(module: torch.nn.Module, inputs: Arrays) -> Arrays:
    with torch.no_grad():
        result = module(*map(torch.from_numpy, inputs))
    return [t.numpy() for t in (result if isinstance(result, tuple) else (result,))]


def equal(found: Arrays, expected: Arrays) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found, expected, strict=True))


def largest_difference(found: Arrays, expected: Arrays) -> float:
    pairs = zip(found, expected, strict=True)
    return max(float(np.nanmax(np.abs(a.astype(np.float64) - b), initial=0)) for a, b in pairs)


def within(found: Arrays, expected: Arrays) -> bool:
    for a, b in zip(found, expected, strict=True):
        largest = np.abs(b[np.isfinite(b)]).max(initial=0)
        if not np.allclose(a, b, rtol=0, atol=1e-5 + 1e-4 * float(largest), equal_nan=True):
            return False
    return True


def golden_column(folder: Path, module: torch.fx.GraphModule) -> str:
    verdicts, off = [], None
    for sample in (0, 1):
        inputs = arrays(folder / "inputs.npz", "in", sample)
        expected = arrays(folder / "outputs.npz", "out", sample)
        found = run(module, inputs)
        verdicts.append(equal(found, expected))
        off = off if within(found, expected) else inputs
    if off is None:
        return "exact" if all(verdicts) else "within tolerance"
    report = qt.verify(module, tuple(off), reference="onnxruntime")
    return f"{report.tie_flips} tie flips, {report.errors} errors"


def node_key(node: onnx.NodeProto) -> tuple:
    attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
    return node.op_type, list(node.input), list(node.output), node.name, attributes


def same_nodes(folder: Path, exported: onnx.ModelProto) -> bool:
    source = onnx.load(folder / "model.onnx")
    nodes = [node_key(n) for n in source.graph.node] == [node_key(n) for n in exported.graph.node]
    tensors = [
        {i.name: onnx.numpy_helper.to_array(i).tobytes() for i in m.graph.initializer}
        for m in (source, exported)
    ]
    return nodes and tensors[0] == tensors[1]


def in_qonnx(exported: onnx.ModelProto, folder: Path) -> str:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.util.cleanup import cleanup_model

    copy = onnx.ModelProto()
    copy.CopyFrom(exported)
    inputs = arrays(folder / "inputs.npz", "in", 0)
    try:
        for value, x in zip(copy.graph.input, inputs, strict=True):  # qonnx needs sizes
            for dim, size in zip(value.type.tensor_type.shape.dim, x.shape, strict=True):
                dim.dim_value = size
        if any(d.dim_param for v in exported.graph.input for d in v.type.tensor_type.shape.dim):
            del copy.graph.value_info[:]
        model = cleanup_model(ModelWrapper(copy))
        feed = {v.name: x for v, x in zip(model.graph.input, inputs, strict=True)}
        result = execute_onnx(model, feed)
        found = [result[o.name] for o in model.graph.output]
    except Exception as error:
        return f"cannot ({type(error).__name__})"
    return "equal" if equal(found, arrays(folder / "outputs.npz", "out", 0)) else "differs"


def in_onnxruntime(module: torch.fx.GraphModule, folder: Path) -> str:
    inputs = arrays(folder / "inputs.npz", "in", 0)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    content = qt.export_qonnx(module, functions=True).SerializeToString()
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        feed = {v.name: x for v, x in zip(session.get_inputs(), inputs, strict=True)}
        found = session.run(None, feed)
    except Exception as error:
        return f"cannot ({type(error).__name__})"
    ours, golden = run(module, inputs), arrays(folder / "outputs.npz", "out", 0)
    text = "equal" if equal(found, ours) else f"{largest_difference(found, ours):.1e}"
    return text + (", golden" if equal(found, golden) else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    corpus = os.environ.get("QONNX_TORCH_CORPUS")
    parser.add_argument("folder", nargs="?", type=Path, default=corpus)
    folder = parser.parse_args().folder
    if folder is None:
        print("no corpus: name a folder, or set QONNX_TORCH_CORPUS")
        return 0
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console = Console(width=160)
    table = Table("model", "golden", "node for node", "in qonnx", "functions in onnxruntime")
    rows: list[tuple[str, ...]] = []
    paths = sorted(p.parent for p in Path(folder).glob("*/model.onnx"))
    for path in track(paths, console=Console(stderr=True)):
        try:
            module = qt.import_model(path / "model.onnx")
            plain = qt.import_model(path / "model.onnx", fuse_qdq=False)
        except qt.UnsupportedModelError as error:
            table.add_row(path.name, "refused: " + str(error).splitlines()[-1].strip())
            continue
        exported = qt.export_qonnx(module)
        row = (
            golden_column(path, module),
            "yes" if same_nodes(path, qt.export_qonnx(plain)) else "no",
            in_qonnx(exported, path),
            in_onnxruntime(module, path),
        )
        rows.append(row)
        table.add_row(path.name, *row)
    console.print(table)
    count = len(rows)
    print(f"{count} of {len(paths)} imported")
    for i, wanted in ((0, "exact"), (0, "within tolerance"), (1, "yes"), (2, "equal")):
        print(f"{table.columns[i + 1].header}: {wanted}: {sum(r[i] == wanted for r in rows)} of {count}")
    ran = [r[3] for r in rows if not r[3].startswith("cannot")]
    module, golden = sum(r.startswith("equal") for r in ran), sum(r.endswith("golden") for r in ran)
    print(f"functions in onnxruntime: {len(ran)} run, {module} equal the module, {golden} equal the golden")
    return 0


if __name__ == "__main__":
    sys.exit(main())
