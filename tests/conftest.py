"""Fixtures of the whole suite: one torch thread per worker, and the real models where there are any."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from hypothesis import settings
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

_CHECKOUT = Path(__file__).resolve().parents[1]
_ENVIRONMENT = "QONNX_TORCH_CORPUS"


def _corpus_folder() -> tuple[Path | None, str]:
    """Returns the folder of real models, or None and why there is none."""
    named = os.environ.get(_ENVIRONMENT)
    folder = Path(named) if named else _CHECKOUT.parent / "shared" / "models"
    if any(folder.glob("*/model.onnx")):
        return folder, ""
    where = (
        f"{_ENVIRONMENT}={named}" if named else f"{_ENVIRONMENT} is not set and ../shared/models is not there"
    )
    return None, f"no folder of real models: {where}"


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    # The same examples in every run; a loaded machine is no failure.
    settings.register_profile("suite", deadline=None, derandomize=True, database=None)
    settings.load_profile("suite")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test that asks for `corpus` once per real model; skips it, with the reason, without any."""
    if "subgraph_case" in metafunc.fixturenames:
        cases = [_subgraph_case(name) for name in _SUBGRAPH_INPUTS]
        metafunc.parametrize("subgraph_case", cases, ids=lambda case: case.name)
    if "corpus" not in metafunc.fixturenames:
        return
    folder, reason = _corpus_folder()
    if folder is None:
        values = [pytest.param(None, marks=[pytest.mark.corpus, pytest.mark.skip(reason=reason)], id="none")]
    else:
        models = sorted(p.parent for p in folder.glob("*/model.onnx"))
        values = [pytest.param(p, marks=pytest.mark.corpus, id=p.name) for p in models]
    metafunc.parametrize("corpus", values)


@pytest.fixture(scope="session")
def corpus_folder() -> Path:
    """The folder of real models; skips where there is none."""
    folder, reason = _corpus_folder()
    if folder is None:
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def models_folder() -> Path:
    """The folder of the small models that lie in the repository."""
    return _CHECKOUT / "tests" / "models"


def _assert_same_bits(actual: torch.Tensor, expected: np.ndarray) -> None:
    got, want = actual.detach().numpy(), np.asarray(expected)
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    integer = f"i{got.dtype.itemsize}"
    same = np.ascontiguousarray(got).view(integer) == np.ascontiguousarray(want).view(integer)
    same |= np.isnan(got) & np.isnan(want)
    if not same.all():
        count = f"{np.count_nonzero(~same)} of {got.size} values differ"
        pytest.fail(f"{count}: {got[~same][:5]} instead of {want[~same][:5]}")


@pytest.fixture(scope="session")
def assert_same_bits() -> Callable[[torch.Tensor, np.ndarray], None]:
    """Asserts equal dtypes, shapes and bit patterns (so -0.0 is not 0.0), where NaN equals NaN."""
    return _assert_same_bits


_IMPORTS = {"": 13, "qonnx.custom_op.general": 1}


def _make_model(
    nodes: Sequence[NodeProto],
    *,
    inputs: Mapping[str, tuple[int | str, ...] | None] | None = None,
    outputs: Sequence[str] = ("y",),
    initializers: Mapping[str, np.ndarray | Sequence[float] | float] | None = None,
    imports: Mapping[str, int] = _IMPORTS,
    ir_version: int = 8,
    input_type: int = TensorProto.FLOAT,
) -> ModelProto:
    tensors = [
        numpy_helper.from_array(value if isinstance(value, np.ndarray) else np.array(value, np.float32), name)
        for name, value in (initializers or {}).items()
    ]
    shapes = {"x": (1, 4)} if inputs is None else inputs
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, input_type, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs],
        tensors,
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in imports.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., ModelProto]:
    """Makes a model of nodes and named arrays; by default opset 13 with one input x (1, 4) and output y."""
    return _make_model


# -- models with subgraphs ---------------------------------------------------------------------------


def _numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def _integer(value: int) -> np.ndarray:
    return np.array(value, dtype=np.int64)


_X, _ROW, _YES, _NO = _numbers(2, 3), _numbers(3), np.array(True), np.array(False)
_SUBGRAPH_INPUTS = {
    "if_constant": ((_X,),),
    "if_data": ((_X, _YES), (_X, _NO)),
    "if_gives_shape": ((_X,), (_numbers(6, 3),)),
    "if_in_loop": ((_X,),),
    "if_normalized": ((_X, _YES), (_X, _NO)),
    "if_quantized": ((_X, _YES), (_X, _NO)),
    "if_shape": ((_X,), (_numbers(5, 3),)),
    "if_two_results": ((_X, _YES), (_X, _NO)),
    "loop": ((_X, _integer(0)), (_X, _integer(1)), (_X, _integer(4))),
    "loop_break": ((_X, _YES), (_X, _NO)),
    "loop_growing": ((_X[:1], _integer(3)), (_X[:1], _integer(0))),
    "loop_in_if": ((_X, _integer(4), _YES), (_X, _integer(0), _YES), (_X, _integer(4), _NO)),
    "loop_int32": ((_X,),),
    "loop_iterations": ((_X,),),
    "loop_no_iteration": ((_X,),),
    "loop_over_rows": ((_numbers(5, 3),),),
    "loop_sequence": ((_numbers(4, 3),),),
    "map_sequence": (([_X, _X[:1]], _ROW),),
    "scan": ((_ROW, _numbers(4, 3)),),
    "scan_axes": ((_ROW[:2], _numbers(2, 4), _numbers(4, 2)),),
    "scan_batch": ((np.array([4, 2]), _numbers(2, 2), _numbers(2, 4, 2)),),
    "scan_map": ((_numbers(4, 3),),),
    "scan_recurrent": ((_ROW, _numbers(4, 3)), (_ROW, _numbers(7, 3))),
    "while_data": ((_X,),),
    "while_shape": ((_X,), (_numbers(4, 3),)),
}
"""Files in tests/models/subgraphs, each with sets of inputs; a list is a sequence."""


@dataclass(frozen=True)
class _SubgraphCase:
    name: str
    model: ModelProto
    inputs: tuple[tuple[Any, ...], ...]


def _subgraph_case(name: str) -> _SubgraphCase:
    path = _CHECKOUT / "tests" / "models" / "subgraphs" / f"{name}.onnxtxt"
    return _SubgraphCase(name, onnx.parser.parse_model(path.read_text()), _SUBGRAPH_INPUTS[name])


@pytest.fixture(scope="session")
def subgraph_case_of() -> Callable[[str], _SubgraphCase]:
    """Reads a small model with subgraphs, and inputs for it, by name; `subgraph_case` is each in turn."""
    return _subgraph_case


def _in_onnxruntime(model: ModelProto, inputs: Sequence[Any]) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return list(session.run(None, dict(zip(names, inputs, strict=True))))


@pytest.fixture(scope="session")
def in_onnxruntime() -> Callable[[ModelProto, Sequence[Any]], list[Any]]:
    """Runs a model on arrays in onnxruntime; QONNX operators need function bodies."""
    return _in_onnxruntime
