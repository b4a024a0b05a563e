"""Files of the command line: data in, results out in one piece."""

from __future__ import annotations

import errno
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from qonnx_torch.verification.data import Array, Data

__all__ = ["Stage", "batch_argument", "data_argument", "file_name", "staged"]


def batch_argument(text: str) -> Any:
    """Returns "keep", "dynamic" or a positive number. Raises a usage error for anything else."""
    if text in ("keep", "dynamic"):
        return text
    if text.isascii() and text.isdecimal() and int(text) > 0:
        return int(text)
    raise typer.BadParameter(f"--batch {text!r}: give keep, dynamic or a positive number")


def data_argument(files: Sequence[str]) -> Data:
    """Returns what FILE and NAME=FILE arguments name: files in order, or arrays by value name.

    Raises:
        typer.BadParameter: both kinds are mixed, or a name occurs twice.
        VerificationError: an unusable file.
    """
    from qonnx_torch.errors import VerificationError
    from qonnx_torch.verification.data import read_arrays

    named: dict[str, Array] = {}
    plain = [f for f in files if "=" not in f or os.path.exists(f)]
    if len(plain) == len(files):
        return list(files)
    if plain:
        raise typer.BadParameter(f"{plain[0]!r} has no name, others have: give all as NAME=FILE, or none")
    for argument in files:
        name, _, path = argument.rpartition("=")
        arrays = read_arrays([path])
        if isinstance(arrays, dict):
            raise VerificationError(f"{path}: an .npz file holds several arrays; give it without a name")
        if name in named:
            raise typer.BadParameter(f"{name!r} is given twice")
        named[name] = arrays[0]
    return named


def file_name(name: str, taken: set[str]) -> str:
    """Returns a value name as a part of a file name that is safe everywhere, and adds it to `taken`.

    >>> file_name("/block/conv.out:0", set()), file_name("", set())
    ('_block_conv.out_0', '_')
    """
    base = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:120] or "_"
    if base.startswith("."):
        base = "_" + base[1:]
    result, count = base, 0
    while result.lower() in taken:  # some file systems do not tell case
        count += 1
        result = f"{base}_{count}"
    taken.add(result.lower())
    return result


class Stage:
    """Files that appear together, at `commit`: each is written beside its place and renamed."""

    def __init__(self) -> None:
        self._files: list[tuple[Path, Path]] = []
        self._new: list[Path] = []  # files and folders that were not there before

    def write(self, path: Path, content: Callable[[IO[bytes]], None]) -> None:
        """Writes a file beside its place. Folders on the way are made.

        Raises:
            OSError: it cannot be written, or its place is a folder.
        """
        self._new += [p for p in reversed(path.parents) if not p.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._files.append((temporary, path))
        with open(temporary, "wb") as file:
            content(file)

    def write_npy(self, path: Path, array: Array) -> None:
        """Writes one array."""
        import numpy as np

        self.write(path, lambda file: np.lib.format.write_array(file, array, allow_pickle=False))

    def write_npz(self, path: Path, arrays: Mapping[str, Array]) -> None:
        """Writes arrays by name, whatever characters the names have."""
        import numpy as np

        def content(file: IO[bytes]) -> None:
            # numpy.savez takes names as keywords, and would stumble over "file".
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)

        self.write(path, content)

    def commit(self) -> None:
        """Renames the files to their places."""
        while self._files:
            temporary, path = self._files[0]
            new = not path.exists()
            os.replace(temporary, path)
            del self._files[0]
            if new:
                self._new.append(path)
        self._new.clear()

    def discard(self) -> None:
        """Removes what is not committed, and the folders made for it."""
        for temporary, _ in self._files:
            temporary.unlink(missing_ok=True)
        self._files.clear()
        for path in reversed(self._new):
            with suppress(OSError):  # somebody else may use the folder by now
                path.rmdir() if path.is_dir() else path.unlink()
        self._new.clear()


@contextmanager
def staged() -> Iterator[Stage]:
    """Commits what was staged in the block, or removes it all if the block fails."""
    stage = Stage()
    try:
        yield stage
        stage.commit()
    finally:
        stage.discard()
