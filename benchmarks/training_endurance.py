"""Trains the demo network for many steps: does memory stay, and does a checkpoint resume with the same
losses?

    python benchmarks/training_endurance.py [--steps 1000] [--json FILE]

The imported demo network trains with learned scales (LSQ for activations, statistics for weights). The
resident memory of the process is read every tenth of the way. In the middle the model is saved three ways,
and each is resumed with the optimizer's state on the batches that follow:

  state_dict    of the module and the optimizer, loaded into a fresh import of the original file
  export        the module exported as QONNX and imported again, then the state_dict loaded
  pickle        torch.save of the whole module

Exit status 1 where memory after the first tenth grows by more than 16 MiB, or a resumed loss differs in any
bit.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from _digits import MODEL, data, train_step, training_batches
from rich.console import Console
from rich.progress import track
from torch import Tensor, fx, nn

import qonnx_torch as qt

TRAINING = qt.TrainingConfig(
    weights=qt.QuantizerTraining("pass", scale="statistics"),
    activations=qt.QuantizerTraining("lsq", scale="step"),
)
RESUMED_STEPS = 50
ALLOWED_GROWTH = 16 * 2**20  # bytes


def resident_bytes() -> int:
    """Returns the resident memory of this process (Linux), in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Returns the optimizer of a model."""
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def run(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Sequence[Tensor], x: Tensor, y: Tensor
) -> list[float]:
    """Trains on some batches; returns their losses."""
    model.train()
    return [train_step(model, optimizer, x[i], y[i]) for i in batches]


def resumptions(model: fx.GraphModule) -> dict[str, fx.GraphModule]:
    """Returns the model as it comes back from each kind of checkpoint."""
    state = copy.deepcopy(model.state_dict())
    fresh = qt.import_model(MODEL, batch="dynamic", training=TRAINING)
    fresh.load_state_dict(state)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.onnx"
        qt.export_qonnx(model, path)
        exported = qt.import_model(path, training=TRAINING)
    exported.load_state_dict(state)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return {"state_dict": fresh, "export": exported, "pickle": torch.load(buffer, weights_only=False)}


def main() -> int:
    """Runs the check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000, help="training steps")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    x, y, *_ = data()
    batches = [
        i for _, (_, i) in zip(range(options.steps), training_batches(len(x), 10**6, seed=0), strict=False)
    ]
    model = qt.import_model(MODEL, batch="dynamic", training=TRAINING)
    optimizer = optimizer_of(model)

    tenth, half = max(1, options.steps // 10), options.steps // 2
    losses: list[float] = []
    memory: list[int] = []
    resumed: dict[str, bool] = {}
    for start in track(range(0, options.steps, tenth), description="training", console=console):
        if start <= half < start + tenth:
            checkpoints = resumptions(model)
            state = copy.deepcopy(optimizer.state_dict())
            following = batches[start : start + RESUMED_STEPS]
        losses += run(model, optimizer, batches[start : start + tenth], x, y)
        memory.append(resident_bytes())
    begin = half // tenth * tenth
    for kind, again in checkpoints.items():
        other = optimizer_of(again)
        other.load_state_dict(copy.deepcopy(state))  # an optimizer goes on in the tensors it loads
        resumed[kind] = run(again, other, following, x, y) == losses[begin : begin + RESUMED_STEPS]

    growth = memory[-1] - memory[0]
    console.print("resident MiB after each tenth: " + ", ".join(f"{m / 2**20:.1f}" for m in memory))
    console.print(
        f"growth after the first tenth: {growth / 2**20:.1f} MiB over {options.steps - tenth} steps"
    )
    for kind, same in resumed.items():
        console.print(
            f"resumed from {kind}: {'the same' if same else 'DIFFERENT'} losses, {len(following)} steps"
        )
    if options.json:
        figures = {"steps": options.steps, "resident_bytes": memory, "resumed_equal": resumed}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return int(growth > ALLOWED_GROWTH or not all(resumed.values()))


if __name__ == "__main__":
    sys.exit(main())
