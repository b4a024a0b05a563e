"""The dynamic dimensions of a model, as torch.export wants them."""

from __future__ import annotations

from typing import Any

from torch import fx
from torch.export import Dim

from qonnx_torch.passes.shapes import UndeclaredInputsError, declared_inputs
from qonnx_torch.provenance import value_names

__all__ = ["dynamic_shapes"]


def dynamic_shapes(module: fx.GraphModule, *args: Any) -> tuple[Any, ...]:
    """Returns the declared dynamic dimensions of the inputs, as `torch.export.export` takes them.

    1. A dimension with a name in the file is `Dim.DYNAMIC`: torch refuses to export where the graph works for
       one size only.
    2. One without name and size, or with an expression (`N // 2`), is `Dim.AUTO`: torch makes it dynamic
       where it can.

    Neither is a `Dim` of its own name, because torch refuses those wherever the graph has a condition on
    the sizes (that a Slice of a computed length is not empty, say); with hints it puts such conditions, and
    the equality of dimensions of one name, into the program, which checks them when it runs.

    >>> import torch, qonnx_torch as qt
    >>> def export(module, *args):
    ...     return torch.export.export(module, args, dynamic_shapes=qt.dynamic_shapes(module))

    Give torch example inputs whose dynamic dimensions are 2 or more and differ where they may: it takes 0
    and 1 for constants. The program then also takes 1.

    Args:
        module: an imported module (`import_model(..., batch="dynamic")` makes a fixed batch dynamic).
        *args: the example inputs. They are needed only where the file declares no shape: of tensors without
            one, and of sequences, all dimensions are `Dim.AUTO`.

    Returns:
        For each input that the graph has now, in order: axis -> hint, empty where every dimension is fixed;
        a list of those for a sequence, None for an empty optional.

    Raises:
        UndeclaredInputsError: example inputs are needed; it is an UnsupportedModelError.
    """
    declared = {spec.name: spec.shape for spec in declared_inputs(module) or ()}
    names = [own[0] for node, own in value_names(module).items() if node.op == "placeholder"]
    if args and len(args) != len(names):
        raise ValueError(f"{len(args)} example inputs are given; the graph has {len(names)}: {names}")
    hints: list[Any] = []
    for i, name in enumerate(names):
        shape = declared.get(name)
        if shape is not None:
            sizes = {axis: size for axis, size in enumerate(shape) if not isinstance(size, int)}
            hints.append({a: Dim.DYNAMIC if _is_name(s) else Dim.AUTO for a, s in sizes.items()})
        elif args:
            hints.append(_all_dimensions(args[i]))
        else:
            raise UndeclaredInputsError(
                f"the file declares no shape of the input {name!r}: give example inputs, "
                "dynamic_shapes(module, *args)"
            )
    return tuple(hints)


def _is_name(size: str | None) -> bool:
    return size is not None and size.isidentifier()


def _all_dimensions(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_all_dimensions(v) for v in value]
    return None if value is None else dict.fromkeys(range(value.dim()), Dim.AUTO)
