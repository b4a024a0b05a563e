"""Distributed data parallel training of an imported QONNX model: two processes, gloo on the CPU.

    torchrun --standalone --nproc-per-node 2 examples/ddp_training.py

Started without torchrun the script starts itself with it. An imported model is an ordinary module: learned
scales are parameters whose gradients are averaged, everything that counts is a buffer, and no parameter goes
unused, so DistributedDataParallel needs no options. With its BatchNormalization frozen the model computes
each sample by itself, so that two processes with half a batch each must learn what one process learns with
the whole batch; that is what the script checks, beside the accuracy.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.parallel import DistributedDataParallel

import qonnx_torch as qt

HERE = Path(__file__).parent / "digits"
PROCESSES = 2
STEPS = 120
BATCH_SIZE = 64


def load() -> fx.GraphModule:
    """Returns the demo model at 2 bits per weight, with learned activation ranges and frozen statistics."""
    learned = qt.TrainingConfig(activations=qt.QuantizerTraining(scale="threshold"))
    model = qt.import_model(HERE / "digits_w4a4.onnx", batch="dynamic", training=learned)
    for name, quantizer in model.named_modules():
        if isinstance(quantizer, qt.nn.Quant) and "weight" in name:
            quantizer.set_bit_width(2)
    qt.calibrate_weights(model, method="mse")
    qt.freeze_batch_normalization(model)
    return model.train()


def train(model: nn.Module, x: Tensor, y: Tensor, rank: int, processes: int) -> list[float]:
    """Trains on this process's share of every batch; returns the losses of the whole batches."""
    groups = qt.parameter_groups(model, weight_decay=1e-4, quantizer_lr=1e-3)
    optimizer = torch.optim.AdamW(groups, lr=2e-3)
    generator = torch.Generator().manual_seed(0)  # the same batches in every process
    losses = []
    for _ in range(STEPS):
        index = torch.randperm(len(x), generator=generator)[:BATCH_SIZE]
        share = index[rank::processes]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[share]), y[share])
        loss.backward()  # DistributedDataParallel averages the gradients here
        optimizer.step()
        total = loss.detach().clone()
        if processes > 1:
            dist.all_reduce(total)
        losses.append(total.item() / processes)
    return losses


def train_together(x: Tensor, y: Tensor) -> tuple[fx.GraphModule, list[float]]:
    """Trains one model in all processes of the group; returns it, and the losses of the whole batches."""
    parallel = DistributedDataParallel(load())
    losses = train(parallel, x, y, dist.get_rank(), dist.get_world_size())
    return parallel.module, losses


def main() -> None:
    """Trains in this process of a group, and in the first one compares with training alone."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    data = np.load(HERE / "digits.npz")
    x, x_test = (torch.from_numpy(data[k].astype(np.float32) / 16) for k in ("x_train", "x_test"))
    y, y_test = (torch.from_numpy(data[k].astype(np.int64)) for k in ("y_train", "y_test"))

    model, losses = train_together(x, y)
    for name, tensor in model.state_dict().items():
        first = tensor.clone()
        dist.broadcast(first, 0)
        assert torch.equal(first, tensor), f"{name} differs between the processes"
    if rank == 0:
        alone = train(load(), x, y, 0, 1)
        apart = [abs(a - b) / b for a, b in zip(losses, alone, strict=True)]
        model.eval()
        with torch.no_grad():
            accuracy = (model(x_test).argmax(1) == y_test).float().mean().item()
        print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {STEPS} steps, test accuracy {accuracy:.2%}")
        print(f"largest relative difference of the loss from training alone: {max(apart):.1e}")
        # Sums in another order can let a value fall on the other side of a rounding: no such limit later.
        assert max(apart[:5]) < 1e-4, "two processes learn something else than one"
        assert sum(losses[-20:]) < sum(losses[:20]), f"the loss does not fall: {losses}"
        assert accuracy > 0.96, f"accuracy {accuracy:.2%}"
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    if "RANK" in os.environ:
        main()
        # torch keeps gloo's threads alive behind DistributedDataParallel, and they can abort an interpreter
        # that is ending (pytorch/pytorch#179291): leave without ending it.
        sys.stdout.flush()
        os._exit(0)
    else:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
        command = [sys.executable, *torchrun, __file__]
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        sys.exit(subprocess.run(command, check=False, env={**os.environ, **threads}).returncode)
