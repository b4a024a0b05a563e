"""Fixtures of the operators' tests: a one-node model through the importer, against a reference."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import qonnx_torch as qt
from qonnx_torch.dtypes import from_array, to_array

_DOMAINS = {"ai.onnx.ml": 3, "com.microsoft": 1}
"""Version in which operators of other domains are tested, but for those in _NEWER."""

_NEWER = {"LabelEncoder": 4, "TreeEnsemble": 5}


def _element_type(array: np.ndarray) -> int:
    return helper.np_dtype_to_tensor_dtype(array.dtype)


def _model(
    op_type: str, inputs: Sequence[Any], opset: int, outputs: int, attributes: dict[str, Any]
) -> tuple[ModelProto, dict[str, np.ndarray]]:
    """Returns a model of one node: arrays are its inputs, tuples and numbers int64 constants, None absent.

    The domain is among the attributes.
    """
    fed: dict[str, np.ndarray] = {}
    constants: dict[str, np.ndarray] = {}
    names = []
    for i, value in enumerate(inputs):
        names.append("" if value is None else f"in{i}")
        if isinstance(value, np.ndarray):
            fed[names[-1]] = value
        elif value is not None:
            array = np.array(value)
            constants[names[-1]] = array.astype(np.int64) if array.dtype.kind == "i" else array
    results = [f"out{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op_type, names, results, **attributes)],
        "one",
        [helper.make_tensor_value_info(n, _element_type(v), v.shape) for n, v in fed.items()],
        [helper.make_empty_tensor_value_info(r) for r in results],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    if attributes.get("domain"):
        version = _NEWER.get(op_type, _DOMAINS[attributes["domain"]])
        imports.append(helper.make_opsetid(attributes["domain"], version))
    return helper.make_model(graph, opset_imports=imports, ir_version=8 if opset < 19 else 10), fed


def _opset(attributes: dict[str, Any]) -> int:
    """Returns the newest operator set; beside operators of another domain one that onnxruntime knows."""
    return 17 if attributes.get("domain") else onnx.defs.onnx_opset_version()


def _expected(source: str, model: ModelProto, fed: dict[str, np.ndarray]) -> list[np.ndarray]:
    if source == "reference":
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ReferenceEvaluator(model).run(None, fed)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, fed)


def _compare(actual: np.ndarray, golden: np.ndarray, tolerance: float) -> None:
    assert actual.dtype == golden.dtype
    assert actual.shape == golden.shape
    if golden.dtype.kind not in "iubfc":  # of ml_dtypes
        actual, golden = actual.astype(np.float64), golden.astype(np.float64)
    if tolerance:
        np.testing.assert_allclose(actual, golden, rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_array_equal(actual, golden)


@pytest.fixture(scope="session")
def run_node() -> Callable[..., list[np.ndarray]]:
    """Runs a model of one node: arrays are inputs, tuples and Python numbers constants, None absent ones."""

    def run(
        op_type: str, *inputs: Any, opset: int = 0, outputs: int = 1, **attributes: Any
    ) -> list[np.ndarray]:
        model, fed = _model(op_type, inputs, opset or _opset(attributes), outputs, attributes)
        with torch.no_grad():
            results = qt.import_model(model)(*map(from_array, fed.values()))
        results = results if isinstance(results, tuple) else (results,)
        infos = [o.type.tensor_type.elem_type or None for o in model.graph.output]
        return [to_array(r, t) for r, t in zip(results, infos, strict=True)]

    return run


@pytest.fixture(scope="session")
def check_node(run_node: Callable[..., list[np.ndarray]]) -> Callable[..., None]:
    """Asserts that a model of one node gives what a reference gives, or the arrays `expected`."""

    def check(
        op_type: str,
        *inputs: Any,
        opset: int = 0,
        outputs: int = 1,
        source: str = "reference",
        tolerance: float = 0.0,
        expected: Any = None,
        **attributes: Any,
    ) -> None:
        results = run_node(op_type, *inputs, opset=opset, outputs=outputs, **attributes)
        if expected is None:
            version = opset or _opset(attributes)
            golden = _expected(source, *_model(op_type, inputs, version, outputs, attributes))
        else:
            golden = list(expected) if outputs > 1 else [expected]
        assert len(results) == len(golden)
        for actual, wanted in zip(results, golden, strict=True):
            wanted = np.asarray(wanted)
            if actual.dtype != wanted.dtype and wanted.dtype.kind not in "iubfc":
                actual = actual.astype(wanted.dtype)  # narrower than a byte, and held in a wider type
            _compare(actual, wanted, tolerance)

    return check
