"""Quantization that starts after a number of training steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Delay", "may_write_buffers"]


def may_write_buffers() -> bool:
    """Returns whether a forward may write its buffers: not under torch.func, whose functions are pure."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is None


class Delay(nn.Module):
    """Lets x pass for a number of training steps, and the quantized tensor from then on.

    A step is a forward pass in `train()` with gradients enabled; `eval()` computes what training last did.
    The counter is a buffer: saved, moved and broadcast with the module, and never read by Python, so that
    the module still compiles to one graph. Under torch.func nothing is counted. A forward that
    `torch.utils.checkpoint` runs again in the backward counts again, and sees the step after its own.

    Args:
        steps: how many steps to let pass.
        device: where the counter lives.
    """

    remaining: Tensor

    def __init__(self, steps: int, *, device: torch.device | None = None) -> None:
        super().__init__()
        self.register_buffer("remaining", torch.tensor(steps, device=device))

    def forward(self, x: Tensor, quantized: Tensor) -> Tensor:
        """Returns x while steps remain, else quantized; both branches stay in autograd's graph."""
        result = torch.where(self.remaining > 0, x, quantized)
        if self.training and torch.is_grad_enabled() and may_write_buffers():
            self.remaining.sub_(1).clamp_(min=0)
        return result
