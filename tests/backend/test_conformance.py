"""The onnx package's own backend tests, all of them, less what is excluded by name and reason.

An exclusion that starts to pass fails the run.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx.backend.test")

# The runner makes a folder per model there, also for the models that lie in the onnx package itself.
os.environ.setdefault("ONNX_MODELS", tempfile.mkdtemp(prefix="onnx-models-"))

import torch
from onnx.backend.test import BackendTest

from qonnx_torch.backend import QonnxTorchBackend, prepare
from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.testing import KINDS, BackendCase, backend_cases

EXCLUSIONS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("exclusions.json").read_text())
"""Subject -> why its cases cannot pass, and which they are."""

REFUSED = ("strings", "gradient")
"""Subjects whose cases are not imported; the others give other values than are expected."""


def _names(*subjects: str) -> list[str]:
    return [name for subject in subjects or EXCLUSIONS for name in EXCLUSIONS[subject]["cases"]]


def _cases() -> dict[str, type]:
    suite = BackendTest(QonnxTorchBackend, __name__)
    for name in _names():
        suite.xfail(f"^{name}_(cpu|cuda)$")
    cases = suite.test_cases
    if not QonnxTorchBackend.supports_device("CUDA"):
        for case in cases.values():
            for name in [n for n in vars(case) if n.startswith("test_") and n.endswith("_cuda")]:
                delattr(case, name)
    return cases


_CASES = _cases()
globals().update(_CASES)


@cache
def cases(kind: str = "node") -> dict[str, BackendCase]:
    return {case.name: case for case in backend_cases(kind)}


def test_every_exclusion_names_a_case() -> None:
    names = {n.rpartition("_")[0] for case in _CASES.values() for n in vars(case) if n.startswith("test_")}
    assert set(_names()) <= names
    assert len(set(_names())) == len(_names())


def test_strings_are_what_is_excluded_for_strings() -> None:
    assert set(_names("strings")) == {c.name for kind in KINDS for c in cases(kind).values() if c.has_strings}


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "node"])
def test_no_other_model_is_skipped(kind: str) -> None:
    """The runner skips what the backend calls incompatible, which would hide it."""
    for case in cases(kind).values():
        assert QonnxTorchBackend.is_compatible(case.model) == (case.name not in _names(*REFUSED)), case.name


@pytest.mark.parametrize("subject", REFUSED)
def test_what_is_not_supported_is_refused_by_name(subject: str) -> None:
    for name in _names(subject):
        model = next(cases(kind)[name].model for kind in KINDS if name in cases(kind))
        with pytest.raises(UnsupportedModelError) as raised:
            prepare(model)
        operators = "|".join(node.op_type for node in model.graph.node)
        assert re.search(f"STRING|strings|{operators}", str(raised.value)), name


@pytest.mark.parametrize("name", _names("random"))
def test_random_cases_have_the_right_type_and_share(name: str) -> None:
    """What can be told of them: shapes, dtypes, and which values there are, how often."""
    case = cases()[name]
    inputs, expected = case.data_sets[0]
    torch.manual_seed(0)
    prepared = prepare(case.model)
    found = [prepared.run(inputs) for _ in range(200)] if "seed" not in name else [prepared.run(inputs)]
    for outputs in found:
        for a, b in zip(outputs, expected, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
    first = np.stack([np.asarray(outputs[0], np.float64) for outputs in found])
    if "bernoulli" in name:
        assert set(np.unique(first)) <= {0.0, 1.0}
        # The function body that ONNX gives draws a 1 where the random number is greater than the probability.
        share = 1 - inputs[0] if "expanded" in name else inputs[0]
        if len(found) > 1:
            np.testing.assert_allclose(first.mean(0), share, atol=0.15)
        return
    ratio = float(inputs[1]) if len(inputs) > 1 else 0.5
    kept = first != 0
    scaled = np.broadcast_to(inputs[0] / (1 - ratio), first.shape)
    np.testing.assert_allclose(first[kept], scaled[kept], rtol=1e-6)
    np.testing.assert_allclose(kept.mean(), 1 - ratio, atol=0.2)  # a seed gives the same 60 each time
    if name.endswith("_mask"):
        np.testing.assert_array_equal(np.stack([o[1] for o in found]), kept)


def test_the_loop_that_the_runner_cannot_compare() -> None:
    case = cases()["test_loop16_seq_none"]
    for inputs, expected in case.data_sets:
        case.check(prepare(case.model).run(inputs), expected)


def test_what_only_rounding_tells_apart_is_within_two_units() -> None:
    for name in _names("softmax in float16", "inverse transform"):
        case = cases()[name]
        for inputs, expected in case.data_sets:
            for a, b in zip(prepare(case.model).run(inputs), expected, strict=True):
                unit = np.finfo(b.dtype).eps * np.abs(b).max()
                np.testing.assert_allclose(a, b, rtol=0, atol=2 * float(unit))
