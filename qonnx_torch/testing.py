"""The onnx package's backend cases as data: models with inputs and the outputs that they must give.

`onnx.backend.test` makes unit tests of them; here they are a table for whoever walks over operators.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, TypeProto, numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

import qonnx_torch.nn  # registers the operators  # noqa: F401
from qonnx_torch.dtypes import element_type_of
from qonnx_torch.registry import REGISTRY, canonical_domain

__all__ = ["KINDS", "BackendCase", "backend_cases"]

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted", "real")
"""What the onnx package has: one-operator models, small ones, and networks without weights ("real")."""

_DataSet = tuple[list[Any], list[Any]]


@dataclass(frozen=True, slots=True)
class BackendCase:
    """A model with inputs and the outputs that it must give.

    Attributes:
        name: `test_<operator>_...`.
        kind: one of KINDS.
        model: the model.
        data_sets: pairs of inputs and expected outputs, arrays (lists of them for sequences, None for empty
            optionals).
        rtol: relative tolerance that the onnx package allows.
        atol: absolute tolerance that the onnx package allows.
        parameters: inputs that say what an operator does (axes, sizes, scales of a Resize) rather than what
            it works on. Real models have them as constants.
    """

    name: str
    kind: str
    model: ModelProto = field(repr=False)
    data_sets: tuple[_DataSet, ...] = field(repr=False)
    rtol: float
    atol: float
    parameters: frozenset[str] = frozenset()

    @property
    def has_strings(self) -> bool:
        """Whether inputs or outputs are strings."""
        ends = (*self.model.graph.input, *self.model.graph.output)
        return any(element_type_of(v.type) == TensorProto.STRING for v in ends)

    @property
    def operators(self) -> tuple[str, ...]:
        """The registered operators of the graph's own nodes, as `str(Operator)`."""
        found = (_operator(self.model, node) for node in self.model.graph.node)
        return tuple(dict.fromkeys(str(operator) for operator in found if operator is not None))

    def check(self, outputs: Sequence[Any], expected: Sequence[Any]) -> None:
        """Raises AssertionError where outputs are not what is expected, as the onnx package compares."""
        if _structure(outputs) != _structure(expected):
            raise AssertionError(f"{_structure(outputs)} instead of {_structure(expected)}")
        Runner.assert_similar_outputs(_leaves(expected), _leaves(outputs), self.rtol, self.atol)

    def with_constants(self) -> BackendCase:
        """Returns the case with its parameters as initializers, of the values of the first data set."""
        (inputs, outputs), *_ = self.data_sets
        model, remaining = ModelProto(), []
        model.CopyFrom(self.model)
        for value, array in zip(_inputs(self.model), inputs, strict=True):
            if value.name in self.parameters and value.type.HasField("tensor_type"):
                model.graph.initializer.append(numpy_helper.from_array(array, value.name))
            else:
                remaining.append(array)
        constants = {i.name for i in model.graph.initializer}
        for value in [v for v in model.graph.input if v.name in constants]:
            model.graph.input.remove(value)
        return replace(self, model=model, data_sets=((remaining, outputs),), parameters=frozenset())


def backend_cases(kind: str = "node") -> Iterator[BackendCase]:
    """Yields the cases of a kind in the onnx package's order.

    Args:
        kind: one of KINDS. Nothing is downloaded: all of them lie in the onnx package.
    """
    parameters: dict[str, frozenset[str]] = {}
    for case in load_model_tests(kind=kind):
        if case.model is not None:
            model, sets = case.model, [_arrays(pair) for pair in case.data_sets or ()]
        elif case.model_dir is not None:
            folder = Path(case.model_dir)
            model = onnx.load(folder / "model.onnx")
            sets = [_read(model, path) for path in sorted(folder.glob("test_data_set*"))]
        else:
            model, pair = _light(str(case.url))
            sets = [pair]
        # The function body of an operator has the inputs of the case of that operator, which comes first.
        source = re.sub(r"_expanded(_ver\d+)?$", "", case.name)
        parameters[case.name] = _parameters(model) | parameters.get(source, frozenset())
        yield BackendCase(case.name, kind, model, tuple(sets), case.rtol, case.atol, parameters[case.name])


def _operator(model: ModelProto, node: onnx.NodeProto) -> Any:
    domain = canonical_domain(node.domain)
    version = max((o.version for o in model.opset_import if canonical_domain(o.domain) == domain), default=1)
    return REGISTRY.find(domain, node.op_type, version)


def _parameters(model: ModelProto) -> frozenset[str]:
    names: set[str] = set()
    for node in model.graph.node:
        operator = _operator(model, node)
        if operator is not None:
            wanted = operator.static | operator.numbers
            names |= {n for slot, n in zip(operator.inputs, node.input, strict=False) if slot in wanted}
        elif node.op_type == "Upsample":
            names |= set(node.input[1:])
    return frozenset(names & {v.name for v in _inputs(model)})


def _arrays(pair: tuple[Sequence[Any], Sequence[Any]]) -> _DataSet:
    inputs, outputs = (
        [numpy_helper.to_array(v) if isinstance(v, TensorProto) else v for v in part] for part in pair
    )
    return inputs, outputs


def _read(model: ModelProto, folder: Path) -> _DataSet:
    inputs, outputs = (
        [_value(folder / f"{end}_{i}.pb", v.type) for i, v in enumerate(declared)]
        for end, declared in (("input", _inputs(model)), ("output", model.graph.output))
    )
    return inputs, outputs


def _inputs(model: ModelProto) -> list[onnx.ValueInfoProto]:
    constants = {i.name for i in model.graph.initializer}
    return [v for v in model.graph.input if v.name not in constants]


def _value(path: Path, declared: TypeProto) -> Any:
    data = path.read_bytes()
    if declared.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if declared.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(TensorProto.FromString(data))


def _light(url: str) -> tuple[ModelProto, _DataSet]:
    """Returns a network whose weights are constant, with the runner's dummy inputs and the stored outputs."""
    path = Path(onnx.__file__).parent / Path(url).relative_to("onnx")
    model = onnx.load(path)
    inputs = [Runner.generate_dummy_data(v, seed=0, name=path.stem, random=False) for v in _inputs(model)]
    outputs = [
        _value(path.with_name(f"{path.stem}_output_{i}.pb"), v.type) for i, v in enumerate(model.graph.output)
    ]
    return model, (inputs, outputs)


def _leaves(value: Any) -> list[Any]:
    """Returns the arrays in lists of lists."""
    if isinstance(value, (list, tuple)):
        return [leaf for element in value for leaf in _leaves(element)]
    return [] if value is None else [value]


def _structure(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_structure(element) for element in value]
    return None if value is None else "array"
