"""Whether the samples of a batch are computed each for itself: tried with two of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx

from qonnx_torch.errors import QonnxTorchError, UnsupportedModelError, shortened
from qonnx_torch.passes.bounded import Bounded, RefusedError
from qonnx_torch.passes.shapes import InputSpec

__all__ = ["require_samples_apart"]

_MOST_FOR_INPUTS = 1 << 32  # bytes
_STEPS = 1 << 17
_STEPS_OF_NODE = 100


def require_samples_apart(
    module: fx.GraphModule, specs: Sequence[InputSpec], batched: Sequence[int], room: int
) -> None:
    """Refuses a model in which samples of one batch change each other, or are lost.

    1. A sample beside another gives the very bits that it gives beside a third: the same kernels run.
    2. It gives nearly what it gives alone. Other kernels may flip a rounding here and there, so the distance
       is compared with that between two samples.
    3. An output that does not grow with the batch is the same for every sample.

    Args:
        module: the model.
        specs: its inputs.
        batched: which of them have a batch.
        room: bytes that its values may take, in proportion to the file.

    Raises:
        UnsupportedModelError: it is so, or the model does not run with two samples, or takes too much memory
            or too many steps for it.
    """
    generator = torch.Generator().manual_seed(0)

    def sample(size: float) -> list[torch.Tensor]:
        values = []
        for i, spec in enumerate(specs):
            dims = [d if isinstance(d, int) else 1 for d in spec.shape or ()]
            dims = [1, *dims[1:]] if i in batched else dims
            value = torch.randn(dims, generator=generator) * size
            values.append(value if spec.dtype is torch.float32 else (value > 0).to(spec.dtype))
        return values

    first, second, third = sample(1.0), sample(3.0), sample(100.0)

    def beside(other: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        pairs = enumerate(zip(first, other, strict=True))
        return [torch.cat([a, b]) if i in batched else a for i, (a, b) in pairs]

    second = [x if i in batched else first[i] for i, x in enumerate(second)]
    trial = _Trial(module)
    steps = _STEPS + _STEPS_OF_NODE * len(module.graph.nodes)
    room = 3 * room + min(128 * sum(t.nbytes for t in first), _MOST_FOR_INPUTS)
    with torch.no_grad(), Bounded(room, steps):
        runs = [trial.run(*beside(second)), trial.run(*beside(third)), trial.run(*first), trial.run(*second)]
        for i, outputs in enumerate(_zip_outputs(*runs)):
            if not all(isinstance(output, torch.Tensor) for output in outputs):
                raise UnsupportedModelError(f"output {i} is no tensor")
            try:
                apart = _are_apart(*(_comparable(output) for output in outputs))
            except RefusedError as error:
                raise UnsupportedModelError(f"output {i} cannot be compared: {error}") from None
            if not apart:
                raise UnsupportedModelError(f"in output {i} the samples of a batch change each other")


class _Trial(fx.Interpreter):
    """Runs a module; what fails is no fault of the caller's."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node. Raises UnsupportedModelError where it fails; the message names the node."""
        try:
            return super().run_node(n)
        except QonnxTorchError:
            raise
        except Exception as error:
            origin = n.meta.get("onnx")
            name = str(origin or n.name)
            reason = shortened(str(error).partition("\n")[0])
            raise UnsupportedModelError(f"node {name} does not run with two samples: {reason}") from None


def _comparable(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a tensor of a dtype in which torch compares and subtracts."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor


def _are_apart(pair: torch.Tensor, other: torch.Tensor, one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether an output for two samples has, for each, what it is for that one alone."""
    if len({t.dim() for t in (pair, other, one, two)}) > 1:
        return False
    axes = [a for a, (p, q) in enumerate(zip(one.shape, pair.shape, strict=True)) if p != q]
    if not axes:
        return _same(one, two) and _same(pair, one)
    half, rest = one.shape[axes[0]], [n for a, n in enumerate(one.shape) if a != axes[0]]
    for t, parts in ((two, 1), (pair, 2), (other, 2)):
        if t.shape[axes[0]] != parts * half or [n for a, n in enumerate(t.shape) if a != axes[0]] != rest:
            return False
    own, again = (t.narrow(axes[0], 0, half) for t in (pair, other))
    expected = torch.cat([one, two], axes[0])
    smallest = 1e-5 * float(torch.nan_to_num(expected.double()).abs().sum().detach())
    near = _distance(pair, expected) <= max(0.05 * _distance(one, two), smallest)
    return near and _same(own, again)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(torch.isnan(a), torch.isnan(b)) and torch.equal(
        torch.nan_to_num(a), torch.nan_to_num(b)
    )


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nan_to_num(a.double() - b.double(), nan=0.0).abs().sum().detach())


def _zip_outputs(*results: Any) -> Iterator[tuple[torch.Tensor, ...]]:
    yield from zip(*(r if isinstance(r, tuple) else (r,) for r in results), strict=True)
