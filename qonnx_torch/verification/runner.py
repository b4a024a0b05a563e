"""Running a module over data, in batches, with intermediate values on demand."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from qonnx_torch.errors import QonnxTorchError, VerificationError
from qonnx_torch.ops import as_tensor, is_shape_value

from .data import Array, Data, TensorSpec, checked, input_specs, to_tensor
from .graph import GraphValue, graph_values, output_names

__all__ = [
    "Progress",
    "batch_slices",
    "execute",
    "faithful",
    "join",
    "matching",
    "on_device",
    "run",
    "tensors_of",
]

Progress = Callable[[int, int], None]
"""Called with the number of finished batches and their total."""

_FAILURES = (
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    AssertionError,
    QonnxTorchError,
)


def run(
    module: nn.Module,
    inputs: Data,
    *,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    expose: str | Sequence[str] = (),
    max_batches: int | None = None,
    allow_nan: bool = False,
    cast: bool = False,
    progress: Progress | None = None,
) -> dict[str, Array]:
    """Returns what a module computes over data: ONNX value name -> array, outputs first.

    The module runs in `eval()` without gradients and with TF32 off; its state is as before afterwards.

    Args:
        module: an imported module, or any `nn.Module` (its outputs are then called out0, out1, ...).
        inputs: see `Data`; the first dimension may be a multiple of the model's fixed batch size.
        batch_size: samples per call where the model's batch size is free; all at once by default.
        device: where to run; by default where the module is. The module itself is not moved.
        expose: patterns of intermediate values to return as well: a plain word is a part of the name, with
            `*` or `?` the pattern stands for the whole name. Outputs are returned anyway.
        max_batches: stop after so many batches.
        allow_nan: accept NaN in the data.
        cast: round floating data to the declared type where it cannot hold it exactly.
        progress: called after each batch.

    Raises:
        VerificationError: unusable data, a pattern that is empty or matches nothing, no such device, a node
            that fails.
    """
    specs = input_specs(module)
    arrays = checked(specs, inputs, allow_nan=allow_nan, cast=cast)
    slices = batch_slices(specs, arrays, batch_size)[:max_batches]
    module, place = on_device(module, device)
    values = graph_values(module) if isinstance(module, fx.GraphModule) else []
    patterns = [expose] if isinstance(expose, str) else list(expose)
    wanted = matching(values, patterns)
    for pattern in patterns:
        if not pattern or not matching(wanted, [pattern]):
            raise VerificationError(_nothing_matches(pattern, values))
    parts: dict[str, list[Array]] = {}
    with faithful(module):
        for done, rows in enumerate(slices, start=1):
            tensors = [to_tensor(batch_of(a, rows), place) for a in arrays]
            results, environment = execute(module, tensors, keep=bool(wanted))
            for name, tensor in results.items():
                parts.setdefault(name, []).append(_to_array(tensor))
            for value in (v for v in wanted if v.name not in results):
                parts.setdefault(value.name, []).append(_to_array(as_tensor(environment[value.node])))
            if progress is not None:
                progress(done, len(slices))
    fixed = {v.name for v in values if v.static or is_shape_value(environment.get(v.node))}
    return {name: join(arrays, fixed=name in fixed) for name, arrays in parts.items()}


def matching(values: Sequence[GraphValue], patterns: Sequence[str]) -> list[GraphValue]:
    """Returns the values whose names contain a pattern, or match it as a whole with `*` and `?`."""
    return [v for v in values if any(p in v.name or fnmatch.fnmatchcase(v.name, p) for p in patterns)]


def _nothing_matches(pattern: str, values: Sequence[GraphValue]) -> str:
    if not pattern:
        return "an empty pattern of values to expose; give a part of their names, or '*' for all"
    hint, part = "", pattern.strip("*")
    if part != pattern and matching(values, [f"*{part}*"]):
        hint = f" ({pattern!r} stands for a whole name; try '*{part}*')"
    some = ", ".join(repr(v.name) for v in values[:5]) or "none"
    return f"no intermediate value matches {pattern!r}{hint}; the first of {len(values)} values: {some}"


# -- batches ---------------------------------------------------------------------------------------


def batch_slices(specs: Sequence[TensorSpec], arrays: Sequence[Array], batch_size: int | None) -> list[slice]:
    """Returns the rows of each call; one call for all rows where the model's batch size is free.

    Raises:
        VerificationError: rows that do not divide into the model's batches, or inputs with different rows.
    """
    if batch_size is not None and batch_size < 1:
        raise VerificationError(f"a batch size of {batch_size} cannot run; give 1 or more")
    batched = [(s, a) for s, a in zip(specs, arrays, strict=True) if a.ndim]
    total = max((a.shape[0] for _, a in batched), default=1)
    if any(s.shape and s.shape[0] is not None for s, _ in batched):
        step = _fixed_step(batched, total)
        if batch_size not in (None, step):
            raise VerificationError(
                f"batch size {batch_size} asked for, but the model takes {step}; import it with "
                f'batch={batch_size} or batch="dynamic" (command line: --batch {batch_size} or dynamic)'
            )
    else:
        step = batch_size or total
        rows = {a.shape[0] for _, a in batched}
        if len(rows) > 1 and step < total:
            raise VerificationError(
                f"inputs with different first dimensions {sorted(rows)} run only in one batch"
            )
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]


def _fixed_step(batched: Sequence[tuple[TensorSpec, Array]], total: int) -> int:
    """Returns the rows per call where the model fixes them."""
    counts, sizes = set(), set()
    for spec, array in batched:
        size = spec.shape[0] if spec.shape else None
        if size is not None and array.shape[0] % size:
            raise VerificationError(
                f"input {spec.name!r}: shape {array.shape} given, the model takes {spec.shape_text()}: the "
                f"first dimension must be {size} or a multiple of it; to run any number of samples import "
                'the model with batch="dynamic" (command line: --batch dynamic)'
            )
        counts.add(array.shape[0] // size if size is not None else None)
        sizes.add(size)
    if counts <= {1, None}:
        return total
    (size, *others) = sizes
    if len(counts) > 1 or others or size is None:
        text = ", ".join(f"{s.name!r} {a.shape} for {s.shape_text()}" for s, a in batched)
        raise VerificationError(f"the inputs hold different numbers of batches: {text}")
    return size


def batch_of(array: Array, rows: slice) -> Array:
    """Returns the rows of one call (all of it for a 0-d array)."""
    return array if array.ndim == 0 else array[rows]


def join(parts: Sequence[Array], *, fixed: bool) -> Array:
    """Returns the values of all batches as one: concatenated, or the first where it is the same in all."""
    if fixed or len(parts) == 1:
        return parts[0]
    return np.stack(parts) if parts[0].ndim == 0 else np.concatenate(parts)


# -- execution -------------------------------------------------------------------------------------


class Interpreter(fx.Interpreter):
    """Runs node by node; an error names the ONNX node."""

    def __init__(self, module: fx.GraphModule, *, keep: bool) -> None:
        super().__init__(module, garbage_collect_values=not keep)
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        try:
            return super().run_node(n)
        except _FAILURES as error:
            origin = n.meta.get("onnx")
            name = origin.name or ", ".join(origin.outputs) if origin else n.name
            reason = _reason(error)
            kind = f" ({origin.op_type})" if origin and origin.op_type else ""
            raise VerificationError(f"node {name!r}{kind} failed: {reason}") from error


def _reason(error: Exception) -> str:
    """Returns the first paragraph of a message in one line: what follows is torch's view of its own graph."""
    paragraph = str(error).strip().split("\n\n")[0]
    return " ".join(paragraph.split()) or type(error).__name__


def execute(
    module: nn.Module, tensors: Sequence[torch.Tensor], *, keep: bool
) -> tuple[dict[str, torch.Tensor], Mapping[fx.Node, Any]]:
    """Returns a module's outputs by name and, with `keep`, what each fx node gave.

    Raises:
        VerificationError: a node failed; the message names it.
    """
    if isinstance(module, fx.GraphModule):
        names = output_names(module)
        if keep:
            interpreter = Interpreter(module, keep=True)
            results = tensors_of(interpreter.run(*tensors))
            return dict(zip(names, results, strict=True)), interpreter.env
    try:
        result = module(*tensors)
    except _FAILURES as error:
        if isinstance(module, fx.GraphModule):
            Interpreter(module, keep=False).run(*tensors)  # fails again, and says where
        raise VerificationError(f"the module failed: {_reason(error)}") from error
    results = tensors_of(result)
    if not isinstance(module, fx.GraphModule):
        names = [f"out{i}" for i in range(len(results))]
    return dict(zip(names, results, strict=True)), {}


def tensors_of(result: Any) -> list[torch.Tensor]:
    """Returns what a module gave as a list of tensors.

    Raises:
        VerificationError: it gave something else.
    """
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    for item in results:
        if not isinstance(item, torch.Tensor):
            raise VerificationError(f"the module must return tensors, not {type(item).__name__}")
    return results


def on_device(module: nn.Module, device: str | torch.device | None) -> tuple[nn.Module, torch.device]:
    """Returns the module on a device (a copy where it is elsewhere), and that device.

    Raises:
        VerificationError: torch does not know the device, or cannot use it.
    """
    here = next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    if device is None:
        return module, here
    try:
        place = torch.device(device)
    except RuntimeError:
        raise VerificationError(f"device {device!r} does not exist; use cpu, cuda or cuda:0") from None
    if place.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (place.index or 0) >= count:
            raise VerificationError(
                f"device {device!r} is not there: torch sees {count} CUDA devices; use cpu"
            )
    if place.type == here.type and place.index in (None, here.index):
        return module, here
    return copy.deepcopy(module).to(place), place


@contextmanager
def faithful(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no TF32; everything is as before afterwards."""
    modes = {m: m.training for m in module.modules()}
    try:
        module.eval()
        with _full_float32(), torch.no_grad():
            yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextmanager
def _full_float32() -> Iterator[None]:
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    slots: list[tuple[Any, str, Any]] = [(part, "allow_tf32", False) for part in (matmul, cudnn)]
    try:
        before = [getattr(part, name) for part, name, _ in slots]
    except (
        RuntimeError
    ):  # the user has set the switches that torch 2.9 brought; the old ones cannot be read then
        slots = [(part, "fp32_precision", "ieee") for part in (matmul, cudnn.conv, cudnn.rnn)]
        before = [getattr(part, name) for part, name, _ in slots]
    try:
        for part, name, value in slots:
            setattr(part, name, value)
        yield
    finally:
        for (part, name, _), value in zip(slots, before, strict=True):
            setattr(part, name, value)


def _to_array(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach().cpu()
    return np.asarray((tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy())
