"""Mutated files, a few hundred in the unit tests; `make fuzz` goes through thousands.

The mutations are those of benchmarks/fuzz.py.
"""

from __future__ import annotations

import contextlib
import importlib.util
import random
import warnings
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

import qonnx_torch as qt
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError

ROOT = Path(__file__).resolve().parents[2]
SMALL_ENOUGH = 30_000


def _mutations() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_mutations", ROOT / "benchmarks" / "_mutations.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MUTATIONS = _mutations()
CORPUS = [p.read_bytes() for p in sorted(ROOT.glob("tests/models/**/*.onnx"))]
CORPUS = [content for content in CORPUS if len(content) < SMALL_ENOUGH]
CHANGES = [*MUTATIONS.ON_MODELS, *MUTATIONS.ON_BYTES]


def import_or_refuse(content: bytes, as_message: bool, batch: Literal["keep", "dynamic"] = "keep") -> None:
    """Imports a file; nothing but the two errors of the contract may come out."""
    source: ModelProto | bytes = content
    if as_message:
        with contextlib.suppress(DecodeError):
            source = ModelProto.FromString(content)
    with warnings.catch_warnings(), contextlib.suppress(InvalidModelError, UnsupportedModelError):
        warnings.simplefilter("ignore")
        qt.import_model(source, batch=batch)


@settings(max_examples=200)
@given(seed=st.integers(0, 1 << 62), as_message=st.booleans(), batch=st.sampled_from(["keep", "dynamic"]))
def test_any_mutation(seed: int, as_message: bool, batch: Literal["keep", "dynamic"]) -> None:
    _, content = MUTATIONS.mutated(CORPUS, random.Random(seed))
    import_or_refuse(content, as_message, batch)


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
@settings(max_examples=15)
@given(seed=st.integers(0, 1 << 62))
def test_each_mutation(change: object, seed: int) -> None:
    _, content = MUTATIONS.mutated(CORPUS, random.Random(seed), change)
    import_or_refuse(content, as_message=False)


def test_mutations_are_reproducible() -> None:
    first, again = (MUTATIONS.mutated(CORPUS, random.Random("0:7")) for _ in range(2))
    assert first == again


def test_mutations_do_break_files() -> None:
    """Each change makes files that are refused; many make some that get past all checks."""
    outcomes: dict[str, set[str]] = {change.__name__: set() for change in CHANGES}
    for number in range(30 * len(CHANGES)):
        change = CHANGES[number % len(CHANGES)]
        name, content = MUTATIONS.mutated(CORPUS, random.Random(number), change)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                qt.import_model(content)
            outcomes[name].add("imported")
        except (InvalidModelError, UnsupportedModelError):
            outcomes[name].add("refused")
    assert all("refused" in found for found in outcomes.values())
    assert sum("imported" in found for found in outcomes.values()) > len(CHANGES) // 2
