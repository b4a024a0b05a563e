"""One of the onnx package's cases for each operator through torch.export and torch.compile(fullgraph=True).

The first dimension of every input is dynamic where it is 2 or more; parameters (axes, sizes) are constants,
as in real models. All cases: `benchmarks/conformance.py --export --dynamic --compile`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import Dim
from torch.utils._pytree import tree_map

from qonnx_torch.backend import prepare
from qonnx_torch.testing import BackendCase, backend_cases

EXCLUSIONS = json.loads(Path(__file__).with_name("exclusions.json").read_text())

LOOP = "the number of steps depends on the data, and with it the size of a result"
EXPORT_FAILS = {"ai.onnx::Loop-1": LOOP}
"""Operator -> why torch.export cannot trace its case."""

COMPILE_FAILS = {"ai.onnx::Loop-1": LOOP}
"""Operator -> why a compiled graph breaks in its case."""


@cache
def cases() -> dict[str, BackendCase]:
    """Returns the first case of each operator that passes, with its parameters as constants."""
    excluded = {name for entry in EXCLUSIONS.values() for name in entry["cases"]}
    found: dict[str, BackendCase] = {}
    for case in backend_cases():
        if case.name not in excluded and len(case.model.graph.node) == 1:
            for name in case.operators:
                found.setdefault(name, case)
    return {name: case.with_constants() if case.parameters else case for name, case in found.items()}


def arguments(case: BackendCase) -> tuple[Any, tuple[Any, ...]]:
    rep = prepare(case.model)
    return rep, rep.tensors(case.data_sets[0][0])


def check(case: BackendCase, rep: Any, result: Any) -> None:
    case.check(rep.arrays(result), case.data_sets[0][1])


def hint(argument: Any) -> Any:
    varies = isinstance(argument, Tensor) and argument.dim() > 0 and argument.shape[0] > 1
    return {0: Dim.AUTO} if varies else None


@pytest.mark.parametrize("name", sorted(cases()))
def test_exports(name: str, request: pytest.FixtureRequest) -> None:
    if name in EXPORT_FAILS:
        request.applymarker(pytest.mark.xfail(reason=EXPORT_FAILS[name]))
    rep, given = arguments(cases()[name])
    with torch.no_grad():
        program = torch.export.export(rep.module, given, dynamic_shapes=tree_map(hint, given))
        check(cases()[name], rep, program.module()(*given))


@pytest.mark.parametrize("name", sorted(cases()))
def test_compiles_without_a_break(name: str, request: pytest.FixtureRequest) -> None:
    if name in COMPILE_FAILS:
        request.applymarker(pytest.mark.xfail(reason=COMPILE_FAILS[name]))
    rep, given = arguments(cases()[name])
    torch._dynamo.reset()
    with torch.no_grad(), torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        check(cases()[name], rep, torch.compile(rep.module, fullgraph=True, backend="eager")(*given))
