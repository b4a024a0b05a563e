"""The onnx package's own backend tests, all of them, less what is excluded by name and reason.

An exclusion that starts to pass fails the run.
"""

from __future__ import annotations

import os
import tempfile

import pytest

pytest.importorskip("onnx.backend.test")

# The runner makes a folder per model there, also for the models that lie in the onnx package itself.
os.environ.setdefault("ONNX_MODELS", tempfile.mkdtemp(prefix="onnx-models-"))

from onnx.backend.test import BackendTest

from qonnx_torch.backend import QonnxTorchBackend

EXCLUDED: dict[str, str] = {}
"""Case -> why it cannot pass."""


def _cases() -> dict[str, type]:
    suite = BackendTest(QonnxTorchBackend, __name__)
    for name in EXCLUDED:
        suite.xfail(f"^{name}_(cpu|cuda)$")
    cases = suite.test_cases
    if not QonnxTorchBackend.supports_device("CUDA"):
        for case in cases.values():
            for name in [n for n in vars(case) if n.startswith("test_") and n.endswith("_cuda")]:
                delattr(case, name)
    return cases


_CASES = _cases()
globals().update(_CASES)


def test_every_exclusion_names_a_case() -> None:
    names = {n.rpartition("_")[0] for case in _CASES.values() for n in vars(case) if n.startswith("test_")}
    assert set(EXCLUDED) <= names
