"""Exceptions of qonnx_torch. Every message names the node or value, the rule and the way out."""

from __future__ import annotations

__all__ = [
    "ExportError",
    "InvalidModelError",
    "QonnxTorchError",
    "UnsupportedModelError",
    "VerificationError",
]


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
