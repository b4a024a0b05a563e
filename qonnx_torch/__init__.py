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
    from qonnx_torch.lowering import trace
    from qonnx_torch.ops import register_op
    from qonnx_torch.passes import (
        BatchNormalizationFolding,
        FloatQuantizerConfig,
        QuantizationConfig,
        QuantizationRule,
        QuantizerConfig,
        QuantizerTraining,
        TrainingConfig,
        calibrate,
        calibrate_quantizer,
        calibrate_weights,
        configure_training,
        disable_quantization,
        dynamic_shapes,
        enable_quantization,
        fold_batch_normalization,
        fold_for_inference,
        freeze_batch_normalization,
        freeze_quantizers,
        infer_shapes,
        inference_cost,
        parameter_groups,
        quantize,
        quantize_parameters,
        quantizer_parameters,
        unfreeze_batch_normalization,
        unfreeze_quantizers,
    )
    from qonnx_torch.verification import verify

__version__ = "0.1.0"

__all__ = [
    "BatchNormalizationFolding",
    "ExportError",
    "FloatQuantizerConfig",
    "InvalidModelError",
    "QonnxTorchError",
    "QuantizationConfig",
    "QuantizationRule",
    "QuantizerConfig",
    "QuantizerTraining",
    "TrainingConfig",
    "UnsupportedModelError",
    "VerificationError",
    "__version__",
    "calibrate",
    "calibrate_quantizer",
    "calibrate_weights",
    "configure_training",
    "disable_quantization",
    "dynamic_shapes",
    "enable_quantization",
    "errors",
    "export_qonnx",
    "fold_batch_normalization",
    "fold_for_inference",
    "freeze_batch_normalization",
    "freeze_quantizers",
    "import_model",
    "infer_shapes",
    "inference_cost",
    "nn",
    "ops",
    "parameter_groups",
    "quantize",
    "quantize_parameters",
    "quantizer_parameters",
    "register_op",
    "trace",
    "unfreeze_batch_normalization",
    "unfreeze_quantizers",
    "verify",
]

_HOMES = {
    "BatchNormalizationFolding": "qonnx_torch.passes",
    "ExportError": "qonnx_torch.errors",
    "FloatQuantizerConfig": "qonnx_torch.passes",
    "InvalidModelError": "qonnx_torch.errors",
    "QonnxTorchError": "qonnx_torch.errors",
    "QuantizationConfig": "qonnx_torch.passes",
    "QuantizationRule": "qonnx_torch.passes",
    "QuantizerConfig": "qonnx_torch.passes",
    "QuantizerTraining": "qonnx_torch.passes",
    "TrainingConfig": "qonnx_torch.passes",
    "UnsupportedModelError": "qonnx_torch.errors",
    "VerificationError": "qonnx_torch.errors",
    "calibrate": "qonnx_torch.passes",
    "calibrate_quantizer": "qonnx_torch.passes",
    "calibrate_weights": "qonnx_torch.passes",
    "configure_training": "qonnx_torch.passes",
    "disable_quantization": "qonnx_torch.passes",
    "dynamic_shapes": "qonnx_torch.passes",
    "enable_quantization": "qonnx_torch.passes",
    "export_qonnx": "qonnx_torch.export",
    "fold_batch_normalization": "qonnx_torch.passes",
    "fold_for_inference": "qonnx_torch.passes",
    "freeze_batch_normalization": "qonnx_torch.passes",
    "freeze_quantizers": "qonnx_torch.passes",
    "import_model": "qonnx_torch.import_",
    "infer_shapes": "qonnx_torch.passes",
    "inference_cost": "qonnx_torch.passes",
    "parameter_groups": "qonnx_torch.passes",
    "quantize": "qonnx_torch.passes",
    "quantize_parameters": "qonnx_torch.passes",
    "quantizer_parameters": "qonnx_torch.passes",
    "register_op": "qonnx_torch.ops",
    "trace": "qonnx_torch.lowering",
    "unfreeze_batch_normalization": "qonnx_torch.passes",
    "unfreeze_quantizers": "qonnx_torch.passes",
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
