"""The dynamic dimensions of a model, as torch.export wants them."""

from __future__ import annotations

from typing import Any

from torch import fx
from torch.export import Dim

from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.passes.shapes import declared_inputs

__all__ = ["dynamic_shapes"]


def dynamic_shapes(module: fx.GraphModule) -> tuple[dict[int, Any], ...]:
    """Returns the declared dynamic dimensions of the inputs, as `torch.export.export` takes them.

    1. A dimension with a name in the file is `Dim.DYNAMIC`: torch refuses to export where the graph works for
       one size only.
    2. One without name and size is `Dim.AUTO`: torch makes it dynamic where it can.

    Neither is a `Dim` of its own name, because torch refuses those wherever the graph has a condition on
    the sizes (that a Slice of a computed length is not empty, say); with hints it puts such conditions, and
    the equality of dimensions of one name, into the program, which checks them when it runs.

    >>> import torch, qonnx_torch as qt
    >>> def export(module, *args):
    ...     return torch.export.export(module, args, dynamic_shapes=qt.dynamic_shapes(module))

    Give example inputs whose dynamic dimensions are 2 or more and differ where they may: torch takes 0 and 1
    for constants. The program then also takes 1.

    Args:
        module: an imported module (`import_model(..., batch="dynamic")` makes a fixed batch dynamic).

    Returns:
        For each input, in order: axis -> hint; empty where every dimension is fixed.

    Raises:
        UnsupportedModelError: the module does not know what its file declared.
    """
    specs = declared_inputs(module)
    if specs is None:
        raise UnsupportedModelError("the module does not know the declared shapes of its inputs")
    return tuple(
        {
            axis: Dim.DYNAMIC if isinstance(size, str) else Dim.AUTO
            for axis, size in enumerate(spec.shape or ())
            if not isinstance(size, int)
        }
        for spec in specs
    )
