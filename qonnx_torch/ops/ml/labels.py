"""Operators that translate numbers into numbers by a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.ml.scores import refuse_strings

__all__ = ["label_encoder", "look_up", "one_hot_encoder", "table_of_attributes"]

Table = tuple[Tensor, Tensor, Tensor]
"""Sorted keys, their values, and one value for what NaN and one for what else stands for."""


@operator("LabelEncoder", domain="ai.onnx.ml", since_version=2)
def label_encoder(
    X: Tensor,
    *,
    default_float: float = -0.0,
    default_int64: int = -1,
    default_string: str = "_Unused",
    default_tensor: tuple[int, Any] | None = None,
    keys_floats: Sequence[float] | None = None,
    keys_int64s: Sequence[int] | None = None,
    keys_strings: Sequence[str] | None = None,
    keys_tensor: tuple[int, Any] | None = None,
    values_floats: Sequence[float] | None = None,
    values_int64s: Sequence[int] | None = None,
    values_strings: Sequence[str] | None = None,
    values_tensor: tuple[int, Any] | None = None,
) -> Tensor:
    """Returns for each element the value that stands beside it among the keys, or a default.

    Of keys that repeat the last one counts; NaN is found too.

    Args:
        X: any shape, of the keys' type.
        default_float: for what is no key, where the values are floats.
        default_int64: the same, for integers.
        default_string: not supported.
        default_tensor: the same, for values_tensor: element type and number; -1 or -0.0 where absent.
        keys_floats: float32 keys.
        keys_int64s: int64 keys.
        keys_strings: not supported.
        keys_tensor: keys of any type: element type and numbers.
        values_floats: float32 values.
        values_int64s: int64 values.
        values_strings: not supported.
        values_tensor: values of any type: element type and numbers.

    Raises:
        InvalidModelError: no keys or no values, or not as many of both.
        UnsupportedModelError: strings.

    Source: ONNX LabelEncoder-4.
    """
    return look_up(X, *(part.to(X.device) for part in table_of_attributes(locals())))


@operator("OneHotEncoder", domain="ai.onnx.ml")
def one_hot_encoder(
    X: Tensor,
    *,
    cats_int64s: Sequence[int] | None = None,
    cats_strings: Sequence[str] | None = None,
    zeros: int = 1,
) -> Tensor:
    """Returns for each element a row with 1 at its category and 0 elsewhere, as float32.

    Args:
        X: any shape (...); fractions are cut off.
        cats_int64s: the categories.
        cats_strings: not supported.
        zeros: 0 makes elements of no category an error; else their rows are zeros.

    Returns: (..., categories).

    Raises:
        UnsupportedModelError: strings.
        RuntimeError: an element of no category, with zeros = 0.

    Source: ONNX OneHotEncoder-1.
    """
    refuse_strings("cats_strings", cats_strings)
    categories = torch.tensor(cats_int64s or (), dtype=torch.int64, device=X.device)
    equal = X.to(torch.int64).unsqueeze(-1) == categories
    if not zeros:
        torch._assert_async(equal.any(-1).all(), "OneHotEncoder: an element is of no category")
    return equal.float()


def look_up(X: Tensor, keys: Tensor, values: Tensor, defaults: Tensor) -> Tensor:
    """Returns the values of the keys that X's elements equal.

    Args:
        X: any shape.
        keys: (n,), sorted, without NaN.
        values: (n,).
        defaults: (2,): what NaN gives, and what else is no key.
    """
    result = defaults[1].expand(X.shape)
    if len(keys):
        dtype = torch.promote_types(X.dtype, keys.dtype)
        x, known = X.to(dtype), keys.to(dtype)
        place = torch.searchsorted(known, x.contiguous()).clamp(max=len(keys) - 1)
        result = torch.where(known[place] == x, values[place], result)
    return torch.where(X.isnan(), defaults[0], result) if X.is_floating_point() else result


def table_of_attributes(attributes: Mapping[str, Any]) -> Table:
    """Returns sorted distinct keys with their values, the last of equal keys, and what the rest gives.

    Raises:
        InvalidModelError: no keys or no values, or not as many of both.
        UnsupportedModelError: strings.
    """
    for name in ("keys_strings", "values_strings"):
        refuse_strings(name, attributes.get(name))
    keys, key_type = _column("keys", attributes)
    values, value_type = _column("values", attributes)
    if len(keys) != len(values):
        raise InvalidModelError(f"LabelEncoder: {len(keys)} keys and {len(values)} values")
    given = attributes.get("default_tensor")
    default: float = -0.0 if value_type.is_floating_point else -1
    if given is not None:
        default = given[1]
    elif not attributes.get("values_tensor"):
        default = attributes.get(
            "default_float" if value_type.is_floating_point else "default_int64", default
        )
    known = {k: v for k, v in zip(keys, values, strict=True) if k == k}
    for_nan = next((v for k, v in zip(reversed(keys), reversed(values), strict=True) if k != k), default)
    ordered = sorted(known)
    return (
        torch.tensor(ordered, dtype=key_type),
        torch.tensor([known[k] for k in ordered], dtype=value_type),
        torch.tensor([for_nan, default], dtype=value_type),
    )


def _column(name: str, attributes: Mapping[str, Any]) -> tuple[Sequence[float], torch.dtype]:
    """Returns the numbers of a column of the table, and their dtype."""
    integers, floats = attributes.get(f"{name}_int64s"), attributes.get(f"{name}_floats")
    if integers:
        return integers, torch.int64
    if floats:
        return floats, torch.float32
    tensor = attributes.get(f"{name}_tensor")
    if tensor is None:
        raise InvalidModelError(f"LabelEncoder needs one of {name}_int64s, {name}_floats and {name}_tensor")
    numbers = tensor[1]
    return (numbers if isinstance(numbers, (tuple, list)) else (numbers,)), torch_dtype(tensor[0])
