"""Files are written beside and renamed, so that an interrupted export leaves the old file whole."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from onnx import ModelProto

from qonnx_torch.errors import ExportError

__all__ = ["write_model"]


def write_model(model: ModelProto, path: str | os.PathLike[str]) -> None:
    """Writes a model to a file, all of it or nothing.

    A link is followed and stays; a file that is replaced keeps its permissions.

    Raises:
        ExportError: the folder does not exist or cannot be written, or the model is over 2 GB.
    """
    target = Path(os.path.realpath(path))
    try:
        content = model.SerializeToString()
    except ValueError as error:
        raise ExportError(f"{os.fspath(path)}: the model does not fit into one file ({error})") from None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise ExportError(f"{os.fspath(path)}: cannot be written ({error.strerror})") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, _permissions(target))  # mkstemp's are private
        os.replace(temporary, target)
    except OSError as error:
        raise ExportError(f"{os.fspath(path)}: cannot be written ({error.strerror})") from None
    finally:
        Path(temporary).unlink(missing_ok=True)


def _permissions(target: Path) -> int:
    """Returns the permission bits of a file, or those that a new file gets."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
