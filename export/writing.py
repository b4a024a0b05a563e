"""Files are written beside and renamed, so that an interrupted export leaves the old file whole."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from onnx import ModelProto

from qonnx_torch.errors import ExportError

__all__ = ["write_model"]


def write_model(model: ModelProto, path: str | os.PathLike[str]) -> None:
    """Writes a model to a file, all of it or nothing.

    Raises:
        ExportError: the folder does not exist or cannot be written, or the model is over 2 GB.
    """
    target = Path(path)
    try:
        content = model.SerializeToString()
    except ValueError as error:
        raise ExportError(f"{target}: the model does not fit into one file ({error})") from None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise ExportError(f"{target}: cannot be written ({error.strerror})") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp's are private
        os.replace(temporary, target)
    except OSError as error:
        raise ExportError(f"{target}: cannot be written ({error.strerror})") from None
    finally:
        Path(temporary).unlink(missing_ok=True)
