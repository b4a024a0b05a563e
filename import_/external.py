"""External data: files beside a model, and nothing else."""

from __future__ import annotations

import bisect
import os
import stat
from collections import defaultdict
from pathlib import Path

import torch
from onnx import TensorProto

from qonnx_torch.errors import InvalidModelError, quoted

from .data import Copied, Mapped
from .tensors import byte_count

__all__ = ["ExternalFiles"]


class ExternalFiles:
    """The files of external data that a model may use: those in its folder, or in folders within.

    Links are followed; where they lead must be in there too. A model that is itself a link (as in the caches
    that download tools keep) may have its data beside what it links to.
    """

    def __init__(self, model: Path) -> None:
        self._folder = model.parent
        self._roots = {Path(os.path.realpath(model.parent)), Path(os.path.realpath(model)).parent}
        self._mapped: dict[Path, torch.Tensor] = {}
        self._given: dict[Path, list[tuple[int, int]]] = defaultdict(list)

    def find(self, tensor: TensorProto, kind: str, name: str) -> Mapped | Copied:
        """Returns where a tensor's data lie; they are copied where another's lie there, in part at least.

        Args:
            tensor: a message that says so in `external_data`.
            kind: what it is in the model.
            name: what it is called there.

        Raises:
            InvalidModelError: the place is not in the model's folder, is no ordinary file, or does not hold
                the bytes that the tensor's shape and type ask for.
        """
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        length = byte_count(tensor, name)
        try:
            offset = _number(entries.get("offset", "0"), "offset")
            given = _number(entries["length"], "length") if "length" in entries else length
            if given != length:
                raise ValueError(f"it is {given} bytes long, but shape and type ask for {length}")
            path, file = self._map(location)
            if offset + length > file.numel():
                raise ValueError(f"{length} bytes from {offset} on are not in a file of {file.numel()} bytes")
        except (OSError, ValueError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise InvalidModelError(
                f"the external data {quoted(location)} of {kind} {quoted(name)} cannot be used: "
                f"{reason or str(error).partition(chr(10))[0]}"
            ) from None
        found = Mapped(file, offset, length)
        return found if self._take(path, offset, offset + length) else Copied(found)

    def _take(self, path: Path, start: int, end: int) -> bool:
        """Notes a part of a file as one tensor's own; returns whether it is."""
        given = self._given[path]  # without overlaps, in order
        place = bisect.bisect(given, (start, end))
        before, after = given[max(place - 1, 0) : place], given[place : place + 1]
        if start < end and (any(e > start for _, e in before) or any(s < end for s, _ in after)):
            return False
        if start < end:
            given.insert(place, (start, end))
        return True

    def _map(self, location: str) -> tuple[Path, torch.Tensor]:
        """Returns where a file is, and its bytes: a private mapping that keeps no file open."""
        path = self._path(location)
        if path not in self._mapped:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is no ordinary file")
            self._mapped[path] = (
                torch.from_file(str(path), shared=False, size=status.st_size, dtype=torch.uint8)
                if status.st_size
                else torch.empty(0, dtype=torch.uint8)
            )
        return path, self._mapped[path]

    def _path(self, location: str) -> Path:
        if not location:
            raise ValueError("no file is named")
        path = Path(os.path.realpath(self._folder / location))
        outside = Path(location).is_absolute() or ".." in Path(location).parts
        if outside or not any(path.is_relative_to(root) for root in self._roots):
            raise ValueError("it is not in the model's folder")
        return path


def _number(text: str, what: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"{what} {quoted(text)} is no number") from None
    if number < 0:
        raise ValueError(f"{what} {number} is negative")
    return number
