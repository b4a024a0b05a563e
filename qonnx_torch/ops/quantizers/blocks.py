"""Elementwise chains in pieces that stay in the processor's cache, and when that way may be taken.

A chain of n elementwise operations over a large tensor moves it n times through main memory. Taken piece by
piece, it moves once. In compiled code the compiler fuses the chain; this is for eager mode on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["BLOCK", "functions_apply", "gradient_blocks", "is_large", "map_blocks", "plain_cpu", "tied"]

BLOCK = 1 << 15
"""Elements per piece and thread: 128 KiB of float32, so that three or four share a second-level cache."""

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


# torch 2.6 does not tell an export from a compilation.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def functions_apply() -> bool:
    """Returns whether a `torch.autograd.Function` may be used: not under torch.func, nor in forward-mode AD.

    A Function with a hand-written backward has no rule for vmap and jvp, and torch.func.grad does not reach
    into operators that are made of one. `torch.jit.trace` would record it as an opaque Python call, and
    `torch.export` would record its forward alone, which has no gradient.
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and torch._C._get_tracing_state() is None
        and not _is_exporting()
    )


def plain_cpu(*tensors: Tensor) -> bool:
    """Returns whether these are ordinary CPU tensors in eager mode, on which out= and item() may be used.

    Not while a compiler, an exporter or a dispatch mode looks on, under torch.func, or for subclasses.
    """
    if torch.compiler.is_compiling() or not functions_apply() or torch._C._len_torch_dispatch_stack():
        return False
    if torch._C._dispatch_tls_is_dispatch_key_included("VmapMode"):  # autograd.grad(is_grads_batched=True)
        return False
    return all(type(t) in _PLAIN_TYPES and t.is_cpu for t in tensors)


def tied(x: Tensor, grad: Tensor) -> Tensor:
    """Returns x, for a backward in plain operations, so that compilers do not move its use into the forward.

    They would compute there the masks that need no incoming gradient, and keep these instead of x. But on the
    CPU, storing and loading booleans takes Inductor several times as long as all the rest together.
    """
    looked_on = torch._C._len_torch_dispatch_stack() > 0
    return torch.where(grad == grad, x, x) if x.is_cpu and looked_on else x


def is_large(x: Tensor) -> bool:
    """Returns whether pieces are worth while: a tensor of up to two stays in the cache anyway."""
    return x.numel() > 2 * BLOCK * torch.get_num_threads()


def map_blocks(function: Callable[..., Tensor], x: Tensor, *parameters: Tensor) -> Tensor:
    """Returns an elementwise function of x and parameters that broadcast to it, computed piece by piece.

    Args:
        function: called with pieces of x and of the parameters, and `out`, the piece of the result to write.
        x: gives the result its memory format.
        parameters: broadcastable with x.
    """
    result = _empty_result(x, *parameters)
    for out, *pieces in _blocks(result, x, *parameters):
        function(*pieces, out=out)
    return result


def gradient_blocks(
    function: Callable[..., tuple[Tensor | None, ...]],
    grad: Tensor,
    inputs: tuple[Tensor, ...],
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Returns the gradients of an elementwise function, computed piece by piece.

    Sums are taken within a piece as torch takes them, and over the pieces in float64.

    Args:
        function: called with a piece of grad and of each input; returns the gradient of each input, per
            element or already summed. None where it is not needed.
        grad: the gradient of the result, in its full shape.
        inputs: x first, then what broadcasts to it.
        needs: which gradients are asked for; None stands for the others.
    """
    x, *parameters = inputs
    full = x if x.shape == grad.shape else grad
    dx = torch.empty_like(full) if needs[0] else full
    sums = [
        torch.zeros(p.shape if n else (), dtype=torch.float64)
        for p, n in zip(parameters, needs[1:], strict=True)
    ]
    for out, *pieces in _blocks(dx, grad, *inputs, *sums):
        found = function(*pieces[: 1 + len(inputs)])
        if found[0] is not None and needs[0]:
            out.copy_(found[0])
        for total, part, needed in zip(pieces[1 + len(inputs) :], found[1:], needs[1:], strict=True):
            if part is not None and needed:
                total.add_(part.sum_to_size(total.shape))
    results = (dx.sum_to_size(x.shape), *(s.to(p.dtype) for s, p in zip(sums, parameters, strict=True)))
    return tuple(r if needed else None for r, needed in zip(results, needs, strict=True))


def _empty_result(x: Tensor, *parameters: Tensor) -> Tensor:
    if all(p.numel() == 1 and p.dim() <= x.dim() for p in parameters):
        return torch.empty_like(x)
    shape = torch.broadcast_shapes(x.shape, *(p.shape for p in parameters))
    return torch.empty_like(x) if shape == x.shape else x.new_empty(shape)


def _blocks(first: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yields matching pieces (views) of tensors, in the memory order of the first, which has the full shape.

    The others are cut where they vary and repeated where they do not.
    """
    if not is_large(first):
        yield first, *others
        return
    rank = first.dim()
    order = sorted(range(rank), key=first.stride, reverse=True)
    aligned = (t.reshape((1,) * (rank - t.dim()) + t.shape).permute(order) for t in others)
    # Each operation splits a piece evenly among the threads, so each thread finds its part in its own cache.
    yield from _pieces((first.permute(order), *aligned), BLOCK * torch.get_num_threads())


def _pieces(tensors: tuple[Tensor, ...], block: int) -> Iterator[tuple[Tensor, ...]]:
    rows, *_ = tensors[0].shape
    row = tensors[0].numel() // rows
    if row > block and tensors[0].dim() > 1:
        for i in range(rows):
            yield from _pieces(tuple(t[i if t.shape[0] > 1 else 0] for t in tensors), block)
        return
    first, *others = tensors
    size = max(1, block // row)
    cut = [t.split(size) if t.shape[0] > 1 else repeat(t) for t in others]
    yield from zip(first.split(size), *cut, strict=False)
