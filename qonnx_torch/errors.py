"""Exceptions of qonnx_torch. Every message names the node or value, the rule and the way out."""

from __future__ import annotations

__all__ = [
    "ExportError",
    "InvalidModelError",
    "QonnxTorchError",
    "UnsupportedModelError",
    "VerificationError",
    "quoted",
    "shortened",
]


def quoted(name: str) -> str:
    r"""Returns a name from a file as messages show it: quoted, escaped, and cut where it is long.

    >>> quoted("a\\nb"), quoted("x" * 1000)[-25:]
    ("'a\\\\nb'", "xxx'... (1000 characters)")
    """
    return repr(name) if len(name) <= 200 else f"{name[:100]!r}... ({len(name)} characters)"


def shortened(text: str, most: int = 200) -> str:
    """Returns a text as messages show it: cut to the half where it has more characters than `most`."""
    return text if len(text) <= most else f"{text[: most // 2]}... ({len(text)} characters)"


class QonnxTorchError(Exception):
    """Base class of every error that qonnx_torch raises on purpose."""


class InvalidModelError(QonnxTorchError):
    """The file or graph breaks the ONNX or QONNX specification: no importer could accept it."""


class UnsupportedModelError(QonnxTorchError):
    """The model is well formed but uses something that qonnx_torch does not implement."""


class ExportError(QonnxTorchError):
    """A module cannot be written in the requested dialect without changing what it computes."""


class VerificationError(QonnxTorchError):
    """A verification or execution could not be carried out (inputs, reference or data are unusable)."""
