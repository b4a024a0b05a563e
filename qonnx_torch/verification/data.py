"""Input data: reading it in every accepted form, and checking it before anything runs."""

from __future__ import annotations

import inspect
import os
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto, helper
from torch import fx, nn

from qonnx_torch.errors import VerificationError
from qonnx_torch.provenance import provenance_of, value_names

__all__ = [
    "Array",
    "Data",
    "TensorSpec",
    "arrays_by_name",
    "checked",
    "input_specs",
    "read_arrays",
    "to_tensor",
]

Array = npt.NDArray[Any]

Data = (
    torch.Tensor
    | Array
    | str
    | os.PathLike[str]
    | Sequence["torch.Tensor | Array | str | os.PathLike[str]"]
    | Mapping[str, "torch.Tensor | Array"]
)
"""One array, several in order, arrays by ONNX value name, or .npy and .npz files."""

_POSITIONAL = re.compile(r"(in|out|arr_)(\d+)")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a graph input must look like.

    Attributes:
        name: its ONNX value name.
        dtype: element type; None where it is not known (the module has no provenance).
        shape: one entry per dimension, None where it is free; None where not even the rank is known.
    """

    name: str
    dtype: np.dtype[Any] | None = None
    shape: tuple[int | None, ...] | None = None

    def shape_text(self) -> str:
        """Returns the declared shape as messages show it: `(?, 3, 32, 32)`."""
        dims = ["?" if d is None else str(d) for d in self.shape or ()]
        return f"({', '.join(dims)}{',' if len(dims) == 1 else ''})"


def input_specs(module: nn.Module) -> list[TensorSpec]:
    """Returns what a module takes, in order: from its provenance, or else by the names of its arguments."""
    if not isinstance(module, fx.GraphModule):
        parameters = inspect.signature(module.forward).parameters.values()
        usable = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        return [TensorSpec(p.name) for p in usable if p.default is p.empty]
    names = value_names(module)
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    declared = {}
    provenance = provenance_of(module)
    if provenance is not None:
        graph = ModelProto.FromString(provenance.skeleton).graph
        declared = {i.name: i.type.tensor_type for i in graph.input if i.type.HasField("tensor_type")}
    specs = []
    for node in placeholders:
        name = next(iter(names[node]), node.name)
        tensor = declared.get(name)
        shape = None
        if tensor is not None and tensor.HasField("shape"):
            shape = tuple(d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim)
        known = tensor is not None and tensor.elem_type
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)) if tensor and known else None
        specs.append(TensorSpec(name, dtype, shape))
    return specs


# -- reading ---------------------------------------------------------------------------------------


def _load(path: str | os.PathLike[str]) -> Array | dict[str, Array]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except FileNotFoundError:
        raise VerificationError(f"{Path(path)}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = _why_unusable(path, error)
        raise VerificationError(f"{Path(path)}: not a usable .npy or .npz file ({reason})") from None


def _why_unusable(path: str | os.PathLike[str], error: Exception) -> str:
    """Returns why NumPy refused a file, without its advice to unpickle it, which executes what is in it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    with open(path, "rb") as file:
        start = file.read(6)
    if not start.startswith((b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06")):
        return "it holds no NumPy array; save one with numpy.save" if start else "it is empty"
    if "Object arrays" in str(error):
        return "it holds Python objects; save an array of numbers"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _array(value: Any, what: str) -> Array:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return np.asarray((value.float() if value.dtype is torch.bfloat16 else value).numpy())
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise VerificationError(f"{what}: it is no array ({error}); sequences cannot be compared") from None
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise VerificationError(f"{what}: element type {array.dtype} cannot be used; give numbers")
    return array


def read_arrays(data: Data) -> list[Array] | dict[str, Array]:
    """Returns data as arrays: in order, or by name where names were given.

    Raises:
        VerificationError: an unusable file, mixed forms, or elements that are no numbers.
    """
    if isinstance(data, (str, os.PathLike)):
        loaded = _load(data)
        return read_arrays(loaded) if isinstance(loaded, dict) else [_array(loaded, str(data))]
    if isinstance(data, Mapping):
        return {str(k): _array(v, repr(k)) for k, v in data.items()}
    if isinstance(data, (torch.Tensor, np.ndarray)):
        return [_array(data, "the array")]
    if not isinstance(data, Sequence):
        raise VerificationError(f"data of type {type(data).__name__}: give arrays, tensors or files")
    arrays: list[Array] = []
    for position, item in enumerate(data):
        if isinstance(item, (str, os.PathLike)):
            loaded = _load(item)
            if isinstance(loaded, dict):
                if len(data) == 1:
                    return read_arrays(loaded)
                raise VerificationError(f"{Path(item)}: an .npz file holds several arrays; give it alone")
            item = loaded
        arrays.append(_array(item, f"array {position}"))
    return arrays


def _by_position(named: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array] | None:
    """Returns in0, in1, ... (or out0, arr_0, ...) under the names they stand for, or None for other keys."""
    result = {}
    for key, array in named.items():
        match = _POSITIONAL.fullmatch(key)
        if match is None or int(match[2]) >= len(names):
            return None
        result[names[int(match[2])]] = array
    return result if len(result) == len(named) else None


def arrays_by_name(
    data: Data, names: Sequence[str], what: str, also: frozenset[str] = frozenset()
) -> dict[str, Array]:
    """Returns data by ONNX value name.

    Args:
        data: arrays in the order of `names`, or by name; `in0`, `out1` and `arr_0` name a position.
        names: the values that are wanted, in order.
        what: for messages: "input" or "output".
        also: other names that may occur.

    Raises:
        VerificationError: another number of arrays than names, or an unknown name.
    """
    arrays = read_arrays(data)
    if isinstance(arrays, dict):
        unknown = [k for k in arrays if k not in names and k not in also]
        positional = _by_position(arrays, names) if unknown else None
        if unknown and positional is None:
            raise VerificationError(
                f"{what} {unknown[0]!r} is not known: the model's {what}s are {', '.join(map(repr, names))}; "
                f"give them under these names, or as {what[: -len('put')]}0, ... in this order"
            )
        return arrays if positional is None else positional
    if len(arrays) != len(names):
        raise VerificationError(
            f"{len(arrays)} {what} array{'s' * (len(arrays) != 1)} given, but the model has {len(names)} "
            f"{what}{'s' * (len(names) != 1)}: {', '.join(map(repr, names))}"
        )
    return dict(zip(names, arrays, strict=True))


# -- checking --------------------------------------------------------------------------------------


def checked(
    specs: Sequence[TensorSpec], data: Data, *, allow_nan: bool = False, cast: bool = False
) -> list[Array]:
    """Returns the input arrays in graph order, in their declared element types.

    Element types are converted where every value stays the same (uint8 pixels to float, float64 that holds
    float32 values); otherwise only with `cast`. Shapes are checked but for the first dimension, which
    `batch_slices` looks at.

    Raises:
        VerificationError: wrong number of arrays, unknown name, wrong rank or dimension, values that the
            declared type cannot hold, no elements, or NaN without `allow_nan`.
    """
    names = [s.name for s in specs]
    named = arrays_by_name(data, names, "input")
    missing = [n for n in names if n not in named]
    if missing:
        raise VerificationError(
            f"input {missing[0]!r} is missing; the model's inputs are {', '.join(map(repr, names))}"
        )
    return [_checked(spec, named[spec.name], allow_nan=allow_nan, cast=cast) for spec in specs]


def _checked(spec: TensorSpec, array: Array, *, allow_nan: bool, cast: bool) -> Array:
    if spec.shape is not None:
        fits = array.ndim == len(spec.shape) and all(
            d is None or d == given for d, given in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if not fits:
            raise VerificationError(
                f"input {spec.name!r}: shape {array.shape} given, the model takes {spec.shape_text()}; "
                "reshape the data"
            )
    if array.size == 0:
        raise VerificationError(f"input {spec.name!r}: shape {array.shape} given, which holds no elements")
    if not allow_nan and array.dtype.kind == "f" and np.isnan(array).any():
        index = tuple(int(i) for i in np.argwhere(np.isnan(array))[0])
        raise VerificationError(
            f"input {spec.name!r}: NaN at index {index} (the first of {int(np.isnan(array).sum())}); "
            "clean the data, or pass allow_nan=True (command line: --allow-nan)"
        )
    return array if spec.dtype is None else _converted(spec.name, array, spec.dtype, cast=cast)


def _converted(name: str, array: Array, dtype: np.dtype[Any], *, cast: bool) -> Array:
    if array.dtype == dtype:
        return array
    with np.errstate(all="ignore"):
        converted = array.astype(dtype)
        back = converted.astype(array.dtype)
    wide = array.dtype.kind == "f" and dtype.kind not in "biu"
    changed = ~((back == array) | (np.isnan(array) & np.isnan(converted)) if wide else back == array)
    if dtype.kind == "b":
        changed |= (array != 0) & (array != 1)
    if changed.any() and not (cast and wide):
        index = tuple(int(i) for i in np.argwhere(changed)[0])
        hint = "; convert it yourself, or pass cast=True (command line: --cast) to round" if wide else ""
        raise VerificationError(
            f"input {name!r}: {array.dtype} given, the model takes {dtype}, which cannot hold "
            f"{int(changed.sum())} of {array.size} values (first at {index}: {array[index]}){hint}"
        )
    return np.asarray(converted)


def to_tensor(array: Array, device: torch.device) -> torch.Tensor:
    """Returns a copy of an array as a tensor."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array.view(np.int16))).view(torch.bfloat16).to(device)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="))).to(device)
