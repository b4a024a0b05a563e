"""Where the data of large tensors lie until they are wanted."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from onnx import TensorProto

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.provenance import TENSOR_ENCODINGS

__all__ = ["Copied", "Data", "InBytes", "InFile", "InMessage", "InTensor", "Mapped", "data_field", "identity"]


def data_field(proto: TensorProto) -> str:
    """Returns the field of a message that holds its data."""
    return next((f for f in TENSOR_ENCODINGS if getattr(proto, f)), "raw_data")


class Data(Protocol):
    """Where the data of a tensor lie. They are little-endian, except in a message."""

    @property
    def field(self) -> str:
        """The TensorProto field that they are written in."""

    @property
    def length(self) -> int:
        """Their number of bytes."""

    def content(self) -> bytes:
        """Returns a copy of them."""

    def tensor(self, dtype: torch.dtype, count: int) -> torch.Tensor:
        """Returns them as `count` elements of a type with whole bytes."""


@dataclass(frozen=True, slots=True)
class InBytes:
    """In a serialized model that the caller has.

    Attributes:
        whole: the serialized model.
        offset: of the data, in bytes.
        length: of the data, in bytes.
        field: the TensorProto field that they are written in.
    """

    whole: bytes
    offset: int
    length: int
    field: str = "raw_data"

    def content(self) -> bytes:
        """Returns a copy of the data."""
        return self.whole[self.offset : self.offset + self.length]

    def tensor(self, dtype: torch.dtype, count: int) -> torch.Tensor:
        """Returns a copy of the data."""
        result = torch.empty(count, dtype=dtype)
        part = memoryview(self.whole)[self.offset : self.offset + self.length]
        result.view(torch.uint8).numpy()[:] = np.frombuffer(part, np.uint8)
        return result


Identity = tuple[int, int, int, int]


def identity(status: os.stat_result) -> Identity:
    """Returns what tells a file from another, and from itself after a change."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class InFile:
    """In a model file, from where they are read into the tensor at once.

    Attributes:
        path: the file.
        state: its identity when it was opened first.
        offset: of the data, in bytes.
        length: of the data, in bytes.
        field: the TensorProto field that they are written in.
    """

    path: Path
    state: Identity
    offset: int
    length: int
    field: str = "raw_data"

    def content(self) -> bytes:
        """Returns a copy of the data."""
        buffer = bytearray(self.length)
        self._read(memoryview(buffer))
        return bytes(buffer)

    def tensor(self, dtype: torch.dtype, count: int) -> torch.Tensor:
        """Returns a copy of the data."""
        result = torch.empty(count, dtype=dtype)
        self._read(result.view(torch.uint8).numpy().data)
        return result

    def _read(self, buffer: memoryview) -> None:
        try:
            with self.path.open("rb", buffering=0) as file:
                same = identity(os.fstat(file.fileno())) == self.state
                file.seek(self.offset)
                while same and buffer:
                    count = file.readinto(buffer)
                    same, buffer = bool(count), buffer[count:]
        except OSError as error:
            raise InvalidModelError(f"{self.path}: cannot be read ({error.strerror})") from None
        if not same:
            raise InvalidModelError(f"{self.path}: changed while it was being read")


@dataclass(frozen=True, slots=True)
class Mapped:
    """In a file beside the model, mapped into memory: read when touched, copied where written to.

    Attributes:
        file: the whole file as uint8, mapped privately.
        offset: of the data, in bytes.
        length: of the data, in bytes.
    """

    file: torch.Tensor
    offset: int
    length: int
    field: str = "raw_data"

    def content(self) -> bytes:
        """Returns a copy of the data."""
        return self.file[self.offset : self.offset + self.length].numpy().tobytes()

    def tensor(self, dtype: torch.dtype, count: int) -> torch.Tensor:
        """Returns the data where they lie, with a storage of their own; unaligned ones are copied."""
        part = self.file[self.offset : self.offset + self.length].numpy()
        if self.offset % dtype.itemsize:
            part = part.copy()
        return torch.frombuffer(part.data, dtype=dtype, count=count)


@dataclass(frozen=True, slots=True)
class InTensor:
    """In a tensor that was computed while importing."""

    data: torch.Tensor
    field: str = "raw_data"

    @property
    def length(self) -> int:
        """Their number of bytes."""
        return self.data.nbytes

    def content(self) -> bytes:
        """Returns a copy of the data."""
        return self.data.contiguous().view(torch.uint8).numpy().tobytes()

    def tensor(self, dtype: torch.dtype, count: int) -> torch.Tensor:
        """Returns the tensor itself."""
        return self.data.contiguous()


@dataclass(frozen=True, slots=True)
class Copied:
    """Where another tensor has its data already, which this one must not share: training would change both.

    Attributes:
        data: where they lie.
    """

    data: Data

    @property
    def field(self) -> str:
        """The TensorProto field that they are written in."""
        return self.data.field

    @property
    def length(self) -> int:
        """Their number of bytes."""
        return self.data.length

    def content(self) -> bytes:
        """Returns a copy of them."""
        return self.data.content()

    def tensor(self, dtype: torch.dtype, count: int) -> torch.Tensor:
        """Returns a copy of them."""
        found = self.data.tensor(dtype, count)
        return found if isinstance(self.data, (InBytes, InFile)) else found.clone()


@dataclass(frozen=True, slots=True)
class InMessage:
    """In a message that the caller has."""

    message: TensorProto

    @property
    def field(self) -> str:
        """The TensorProto field that they are written in."""
        return data_field(self.message)

    @property
    def length(self) -> int:
        """Their number of bytes."""
        width = {"raw_data": 1, "double_data": 8, "int64_data": 8, "uint64_data": 8}.get(self.field, 4)
        return len(getattr(self.message, self.field)) * width
