"""What becomes of quantized files of other dialects: imported, fine-tuned, and written again.

    python benchmarks/qdq_files.py [--epochs 3] [--networks convolutional ...] [--json FILE]

Float networks are trained on the digits and written as ONNX; onnxruntime's quantizer makes a file of each
kind of them (QuantizeLinear and DequantizeLinear pairs, QLinear operators, dynamic quantization; 4, 8 and 16
bits), and Brevitas' QCDQ exporter files of its own. For each the table shows

  float         accuracy of the float network on the test images
  file          that of the file in onnxruntime
  ours          that of the file here
  fused = plain whether the quantizers give the same bits as the file's own operators, run one by one here
  largest       the greatest difference of a logit from onnxruntime (unoptimized, one thread), and the share
                of images with a difference above 1e-5: where a sum lies on a tie, the order of its
                additions decides
  quantizers    how many there are; in how many QuantizeLinear and DequantizeLinear stay
  fine-tuned    accuracy after training (LSQ, scales as logarithms), where there are quantizers
  again         whether the exported file, imported again, gives the same bits
  in ORT        the share of images on which onnxruntime, running the exported file, says the same digit

The exit status is 1 where `fused = plain` or `again` does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import _qdq_files as files
import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import qonnx_torch as qt

BREVITAS = {"qcdq_w8a8": (8, 8), "qcdq_w4a4": (4, 4), "qcdq_w2a3": (2, 3)}


@dataclass(frozen=True, slots=True)
class Row:
    network: str
    kind: str
    float_accuracy: float
    file_accuracy: float
    own_accuracy: float
    fused_equals_plain: bool
    largest_difference: float
    differing: float
    quantizers: int
    left: int
    tuned_accuracy: float | None
    again_equal: bool
    agreement: float


def in_onnxruntime(source: bytes | Path, images: Tensor) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    model = source if isinstance(source, bytes) else str(source)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    value = session.get_inputs()[0]
    one_by_one = isinstance(value.shape[0], int)
    parts = images.split(1) if one_by_one else [images]
    return np.concatenate([session.run(None, {value.name: part.numpy()})[0] for part in parts])


@torch.no_grad()
def outputs(module: torch.nn.Module, images: Tensor, one_by_one: bool = False) -> Tensor:
    module.eval()
    return torch.cat([module(part) for part in (images.split(1) if one_by_one else [images])])


def share(logits: np.ndarray | Tensor, labels: Tensor) -> float:
    return float((torch.as_tensor(logits).argmax(1) == labels).float().mean())


def fine_tune(module: torch.fx.GraphModule, epochs: int) -> None:
    x, y, _, _ = files.data()
    optimizer = torch.optim.Adam(qt.parameter_groups(module, quantizer_lr=1e-3), lr=5e-4)
    generator = torch.Generator().manual_seed(0)
    batches = epochs * -(-len(x) // 32)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, batches)
    module.train()
    for _ in range(epochs):
        for index in torch.randperm(len(x), generator=generator).split(32):
            optimizer.zero_grad()
            F.cross_entropy(module(x[index]), y[index]).backward()
            optimizer.step()
            schedule.step()


def measure(network: str, kind: str, path: Path, float_accuracy: float, epochs: int) -> Row:
    _, _, x, y = files.data()
    brevitas = kind in BREVITAS
    batch = "dynamic" if brevitas else "keep"
    training = qt.TrainingConfig(
        weights=qt.QuantizerTraining(gradient="lsq", scale="log2"),
        activations=qt.QuantizerTraining(gradient="lsq", scale="log2"),
    )
    fused, plain = qt.import_model(path, batch=batch), qt.import_model(path, batch=batch, fuse_qdq=False)
    quantizers = sum(isinstance(m, qt.nn.Quantizer) for m in fused.modules())
    operators = [n.meta["onnx"].op_type for n in fused.graph.nodes if "onnx" in n.meta]
    own, expected = outputs(fused, x), in_onnxruntime(path, x)
    difference = np.abs(own.numpy() - expected).max(1)
    same = bool(torch.equal(own, outputs(plain, x)))
    tuned = None
    if quantizers:
        qt.configure_training(fused, training)
        fine_tune(fused, epochs)
        tuned = share(outputs(fused, x), y)
    exported = qt.export_qonnx(fused, functions=True)
    final = outputs(fused, x)
    again = bool(torch.equal(outputs(qt.import_model(exported), x), final))
    theirs = in_onnxruntime(exported.SerializeToString(), x)
    return Row(
        network,
        kind,
        float_accuracy,
        share(expected, y),
        share(own, y),
        same,
        float(difference.max()),
        float((difference > 1e-5).mean()),
        quantizers,
        operators.count("DequantizeLinear"),
        tuned,
        again,
        float((theirs.argmax(1) == final.numpy().argmax(1)).mean()),
    )


def table(rows: list[Row]) -> Table:
    names = ("network", "kind", "float", "file", "ours", "fused = plain", "largest", "quantizers")
    result = Table(*names, "fine-tuned", "again", "in ORT")
    for r in rows:
        result.add_row(
            r.network,
            r.kind,
            f"{r.float_accuracy:.1%}",
            f"{r.file_accuracy:.1%}",
            f"{r.own_accuracy:.1%}",
            "yes" if r.fused_equals_plain else "NO",
            f"{r.largest_difference:.1e} ({r.differing:.1%})",
            f"{r.quantizers}" + (f", {r.left} left" if r.left else ""),
            "" if r.tuned_accuracy is None else f"{r.tuned_accuracy:.1%}",
            "yes" if r.again_equal else "NO",
            f"{r.agreement:.1%}",
        )
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3, help="of training, and of fine-tuning")
    parser.add_argument("--networks", nargs="*", default=[*files.NETWORKS, "brevitas"])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=150)
    _, _, x, y = files.data()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for network in arguments.networks:
            source = Path(scratch) / f"{network}.onnx"
            if network == "brevitas":
                kinds = list(BREVITAS)
            else:
                accuracy = share(outputs(files.float_file(network, source, arguments.epochs), x), y)
                kinds = [*files.STATIC, *files.DYNAMIC]
            for kind in track(kinds, network, console=Console(stderr=True), transient=True):
                path = Path(scratch) / f"{network}.{kind}.onnx"
                if kind in BREVITAS:
                    accuracy = share(outputs(files.brevitas_file(path, *BREVITAS[kind]), x), y)
                else:
                    make = files.static_file if kind in files.STATIC else files.dynamic_file
                    make(kind, source, path)
                rows.append(measure(network, kind, path, accuracy, arguments.epochs))
    console.print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0 if all(row.fused_equals_plain and row.again_equal for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
