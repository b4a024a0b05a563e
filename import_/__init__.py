"""ONNX bytes to `torch.fx.GraphModule`."""

from __future__ import annotations

import contextlib
import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from torch import fx

from qonnx_torch.nn import Quantizer
from qonnx_torch.passes.training import TrainingConfig, configure_training

from .batch import rebatch
from .builder import build
from .functions import inline_functions
from .partitions import inline_partitions
from .qdq import fuse_qdq as fuse
from .qdq import refuse_own_operators
from .reading import ModelSource, open_model

__all__ = ["ModelSource", "import_model"]


def import_model(
    model: ModelSource,
    *,
    batch: int | Literal["keep", "dynamic"] = "keep",
    training: TrainingConfig | None = None,
    fuse_qdq: bool = True,
) -> fx.GraphModule:
    """Returns an ONNX or QONNX model as a trainable `torch.fx.GraphModule`.

    One fx node per ONNX node; called with tensors in graph-input order it returns a tensor, or a tuple where
    the graph has several outputs. It comes back in `eval()` and computes what the file computes.

    `state_dict()` keys are the initializer names: initializers of FLOAT, FLOAT16, BFLOAT16 and DOUBLE are
    parameters, all others (and the running statistics of BatchNormalization, and single numbers that Constant
    nodes have) buffers. A quantizer is a module
    that owns its scale, zero point and bit width, named after its node.

    Quantized models of other dialects train too: a QuantizeLinear with the DequantizeLinear behind it is one
    quantizer, and integer weights are float parameters with a quantizer behind them (see `fuse_qdq`).

    Args:
        model: a path, serialized bytes, or a ModelProto. External data beside a path are mapped into memory,
            copy-on-write: they take memory when touched, and are never written; the files may be deleted or
            replaced, but must not be cut or rewritten in place while the module lives.
        batch: "keep" leaves the batch size that the file has; "dynamic" makes it free and a number sets it,
            also for models exported at a fixed batch size (constant Reshape shapes are rewritten).
        training: the quantizers' gradients and what they learn; by default the gradients of Brevitas'
            default quantizers, with scales, zero points and bit widths frozen.
        fuse_qdq: makes QuantizeLinear -> (Clip) -> DequantizeLinear one quantizer, and integers of which
            DequantizeLinear makes use the floats that they stand for, wherever that computes the same numbers
            for every finite x; in integers also for an infinite one (`import_.qdq` has the rules). An export
            has QONNX's quantizers there, and QuantizeLinear and DequantizeLinear only where QONNX computes
            others. False keeps the file's operators, node for node; integers have no gradient. A warning says
            which pair could not be fused where that stops a weight's training.

    Raises:
        InvalidModelError: unreadable file, or a graph that breaks the specification.
        UnsupportedModelError: operators that are not supported (all are listed), a batch size that cannot be
            changed, or data that would be copied to many times the file's size.

    Source: every ONNX operator set from 6 on, IR 3 and up; QONNX 1.0.0 operators in every domain
    that they have had.
    """
    if batch not in ("keep", "dynamic") and not (type(batch) is int and batch > 0):
        raise ValueError(f"batch must be 'keep', 'dynamic' or a positive number, not {batch!r}")
    if training is not None and not isinstance(training, TrainingConfig):
        raise TypeError(f"training must be a TrainingConfig, not {type(training).__name__}")
    with _without_collections():
        proto, tensors = open_model(model)
        folder = Path(model).parent if isinstance(model, (str, os.PathLike)) else None
        inline_partitions(proto, folder, tensors)
        inline_functions(proto, tensors)
        refuse_own_operators(proto)
        unfused = fuse(proto, tensors) if fuse_qdq else None
        if batch != "keep":
            proto = rebatch(proto, "batch" if batch == "dynamic" else batch, tensors)
        module = build(proto, tensors)
        configure_training(module, training or TrainingConfig())
    if unfused is not None:
        warnings.warn(unfused, UserWarning, stacklevel=2)
    if training is not None and not any(isinstance(m, Quantizer) for m in module.modules()):
        warnings.warn(
            "training was given, but the model has no quantizer that it could set (QuantizeLinear and "
            "DequantizeLinear alone train nothing: fuse_qdq=True makes quantizers of them where it can)",
            UserWarning,
            stacklevel=2,
        )
    return module


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Keeps the garbage collector off.

    Of the hundreds of objects per node that an import makes nearly all stay, so going through them again and
    again takes a quarter of the time and frees nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
