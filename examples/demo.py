"""The main job of qonnx_torch, start to end, on a model that lies beside this file.

A Brevitas-trained QONNX network is imported, verified, costed, weakened, fine-tuned, exported, executed by
plain onnxruntime and imported again. Every step checks its own outcome; the exit status is 1 if one fails.

    python examples/demo.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track

import qonnx_torch as qt

HERE = Path(__file__).parent / "digits"
EPOCHS = 4
console = Console()


def heading(text: str) -> None:
    """Prints the name of a step."""
    console.print(f"\n[bold]{text}[/bold]")


def check(holds: bool, text: str) -> None:
    """Prints an outcome; ends the demo where it does not hold."""
    console.print(f"  {'[green]ok[/green]' if holds else '[red]FAILED[/red]'}  {text}", highlight=False)
    if not holds:
        sys.exit(1)


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Returns the share of rows whose largest entry is at the label."""
    return (logits.argmax(1) == labels).float().mean().item()


def evaluate(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Returns the accuracy of a model in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return accuracy(model(x), y)


def batches(x: torch.Tensor, y: torch.Tensor, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields the data in a new random order."""
    order = torch.randperm(len(x))
    for start in range(0, len(x), size):
        index = order[start : start + size]
        yield x[index], y[index]


def weaken(model: torch.nn.Module, amount: float) -> None:
    """Adds noise to every weight, in proportion to the spread of its tensor."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter += amount * parameter.std() * torch.randn_like(parameter)


def fine_tune(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Trains with an ordinary loop: the quantizers pass gradients straight through. Returns the last loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    loss = torch.tensor(0.0)
    for _ in track(range(EPOCHS), description="  fine-tuning", console=console):
        for images, labels in batches(x, y, 32):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
    return loss.item()


def run_in_onnxruntime(path: Path, x: torch.Tensor) -> torch.Tensor:
    """Returns the output of plain onnxruntime, its graph optimisations off (they change roundings)."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def main() -> None:
    """Runs the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder to keep the exported files in")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    started = time.perf_counter()

    data = np.load(HERE / "digits.npz")
    x_train, x_test = (torch.from_numpy(data[k].astype(np.float32) / 16) for k in ("x_train", "x_test"))
    y_train, y_test = (torch.from_numpy(data[k].astype(np.int64)) for k in ("y_train", "y_test"))
    golden = np.load(HERE / "golden.npz")["logits"]

    heading("1  Import: a QONNX file exported by Brevitas becomes a torch.fx.GraphModule")
    model = qt.import_model(HERE / "digits_w4a4.onnx", batch="dynamic")
    quantizers = [m for m in model.modules() if isinstance(m, qt.nn.Quant)]
    parameters = sum(p.numel() for p in model.parameters())
    check(len(quantizers) > 0, f"{len(quantizers)} quantizers, {parameters:,} trainable parameters")

    heading("2  Verify: the reference (qonnx 1.0.0) has computed these 360 x 10 logits")
    report = qt.verify(model, x_test, expected=golden)
    check(report.passed, report.summary())
    before = evaluate(model, x_test, y_test)
    check(before > 0.95, f"accuracy on the held-out test images: {before:.2%}")

    heading("3  Cost of one image")
    console.print(qt.inference_cost(model).table(), highlight=False, soft_wrap=True)

    heading("4  Fine-tune: the weights are disturbed, then trained in a plain PyTorch loop")
    weaken(model, 0.8)
    weak = evaluate(model, x_test, y_test)
    console.print(f"  accuracy after the disturbance: {weak:.2%}", highlight=False)
    loss = fine_tune(model, x_train, y_train)
    tuned = evaluate(model, x_test, y_test)
    check(
        tuned > weak + 0.05, f"accuracy {weak:.2%} -> {tuned:.2%} in {EPOCHS} epochs (last loss {loss:.3f})"
    )

    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        plain, runnable = folder / "tuned.onnx", folder / "tuned_with_functions.onnx"

        heading("5  Export: QONNX again, the tuned weights in the nodes and names of the original")
        qt.export_qonnx(model, plain)
        qt.export_qonnx(model, runnable, functions=True)
        sizes = ", ".join(f"{p.name} {p.stat().st_size:,} bytes" for p in (plain, runnable))
        check(plain.exists() and runnable.exists(), sizes)

        heading("6  Execute the exported file in plain onnxruntime, through its function bodies")
        with torch.no_grad():
            ours = model(x_test)
        theirs = run_in_onnxruntime(runnable, x_test)
        difference = (ours - theirs).abs().max().item()
        same = accuracy(theirs, y_test)
        check(difference < 1e-4, f"largest difference {difference:.1e}; accuracy {same:.2%}")

        heading("7  Round trip: the exported file comes back as the same module")
        again = qt.import_model(plain)
        with torch.no_grad():
            equal = torch.equal(again(x_test), ours)
        same_keys = list(again.state_dict()) == list(model.state_dict())
        check(equal and same_keys, "outputs equal bit for bit, state_dict keys equal")

    console.print(f"\nAll of it held, in {time.perf_counter() - started:.1f} s.", highlight=False)


if __name__ == "__main__":
    main()
