"""The dynamic dimensions of a model, as torch.export wants them."""

from __future__ import annotations

from typing import Any

from torch import fx
from torch.export import Dim

from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.names import identifier
from qonnx_torch.passes.shapes import declared_inputs

__all__ = ["dynamic_shapes"]


def dynamic_shapes(module: fx.GraphModule) -> tuple[dict[int, Any], ...]:
    """Returns the declared dynamic dimensions of the inputs, as `torch.export.export` takes them.

    A dimension with a name in the file is a `torch.export.Dim` of that name, the same one wherever the name
    occurs; one without a name is `Dim.AUTO`, which torch makes dynamic where it can.

    >>> import torch, qonnx_torch as qt
    >>> def export(module, *args):
    ...     return torch.export.export(module, args, dynamic_shapes=qt.dynamic_shapes(module))

    Give example inputs whose dynamic dimensions are 2 or more: torch takes 0 and 1 for constants.

    Args:
        module: an imported module (`import_model(..., batch="dynamic")` makes a fixed batch dynamic).

    Returns:
        For each input, in order: axis -> Dim; empty where every dimension is fixed.

    Raises:
        UnsupportedModelError: the module does not know what its file declared.
    """
    specs = declared_inputs(module)
    if specs is None:
        raise UnsupportedModelError("the module does not know the declared shapes of its inputs")
    taken: set[str] = set()
    dims: dict[str, Any] = {}
    result = []
    for spec in specs:
        own: dict[int, Any] = {}
        for axis, size in enumerate(spec.shape or ()):
            if isinstance(size, str):
                if size not in dims:
                    dims[size] = Dim(identifier(size, taken, "dim"))
                own[axis] = dims[size]
            elif size is None:
                own[axis] = Dim.AUTO
        result.append(own)
    return tuple(result)
