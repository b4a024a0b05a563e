"""QONNX models as trainable PyTorch modules, and back.

    import qonnx_torch as qt

    module = qt.import_model("model.onnx", batch="dynamic")
    report = qt.verify(module, x, reference="onnxruntime")
    qt.export_qonnx(module, "out.onnx")

Names load on first use, so that importing the package (and `qonnx-torch --help`) does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qonnx_torch import errors, nn, ops
    from qonnx_torch.errors import (
        ExportError,
        InvalidModelError,
        QonnxTorchError,
        UnsupportedModelError,
        VerificationError,
    )
    from qonnx_torch.export import export_qonnx
    from qonnx_torch.import_ import import_model
    from qonnx_torch.passes import (
        QuantizerTraining,
        TrainingConfig,
        configure_training,
        infer_shapes,
        inference_cost,
        quantizer_parameters,
    )
    from qonnx_torch.verification import verify

__version__ = "0.1.0"

__all__ = [
    "ExportError",
    "InvalidModelError",
    "QonnxTorchError",
    "QuantizerTraining",
    "TrainingConfig",
    "UnsupportedModelError",
    "VerificationError",
    "__version__",
    "configure_training",
    "errors",
    "export_qonnx",
    "import_model",
    "infer_shapes",
    "inference_cost",
    "nn",
    "ops",
    "quantizer_parameters",
    "verify",
]

_HOMES = {
    "ExportError": "qonnx_torch.errors",
    "InvalidModelError": "qonnx_torch.errors",
    "QonnxTorchError": "qonnx_torch.errors",
    "UnsupportedModelError": "qonnx_torch.errors",
    "VerificationError": "qonnx_torch.errors",
    "QuantizerTraining": "qonnx_torch.passes",
    "TrainingConfig": "qonnx_torch.passes",
    "configure_training": "qonnx_torch.passes",
    "export_qonnx": "qonnx_torch.export",
    "import_model": "qonnx_torch.import_",
    "infer_shapes": "qonnx_torch.passes",
    "inference_cost": "qonnx_torch.passes",
    "quantizer_parameters": "qonnx_torch.passes",
    "verify": "qonnx_torch.verification",
}
_MODULES = ("errors", "nn", "ops")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"qonnx_torch.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'qonnx_torch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
