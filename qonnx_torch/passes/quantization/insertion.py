"""Puts quantizers into a graph, where `quantize` says that they belong."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any

from torch import Tensor, fx

import qonnx_torch.nn as qnn
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.names import Names, identifier, onnx_name
from qonnx_torch.ops.standard import movement
from qonnx_torch.ops.standard.elementwise import add, identity
from qonnx_torch.passes.quantization.config import AnyQuantizerConfig, QuantizationConfig
from qonnx_torch.passes.quantization.initialization import Role, initialize, make_quantizer
from qonnx_torch.passes.quantization.placement import BIASED, Plan, Values, plans
from qonnx_torch.provenance import NodeOrigin, value_names

__all__ = ["Inserter", "Site"]


@dataclass(slots=True)
class Site:
    """A quantizer that was inserted. `exact` ones stand where they were explicitly asked for."""

    quantizer: qnn.Quantizer
    config: AnyQuantizerConfig
    role: Role
    wanted_by: str
    exact: bool


class Inserter:
    """Inserts quantizers into one graph, by a configuration.

    Attributes:
        sites: quantizer name -> what was inserted.
        pending: those whose scale is to be found on data.
    """

    def __init__(self, module: fx.GraphModule, examples: Sequence[Tensor]) -> None:
        self.module = module
        self.values = Values(module, examples)
        self.sites: dict[str, Site] = {}
        self.pending: dict[str, tuple[qnn.Quantizer, AnyQuantizerConfig]] = {}
        self._paths = Names(name for name, _ in module.named_modules())
        self._names = {n for own in value_names(module).values() for n in own}
        self._names |= {onnx_name(p) for p in module.state_dict()}
        self._weights: set[str] = set()

    def insert(self, config: QuantizationConfig) -> None:
        """Inserts every quantizer that the configuration asks for; warns where that is none at all."""
        planned = plans(self.values, config)
        for node, plan in planned.items():
            self._check_positions(node, plan)
            self._inputs(node, plan, constant=True)
        self._weights = set(self.sites)
        for node, plan in planned.items():
            self._inputs(node, plan, constant=False)
            if config.residuals is not None and node.target is add:
                self._residual(node, plan, config.residuals)
            for index, result in _results(node).items():
                self._output(result, plan, index)
        if config.outputs is not None:
            for result in self.module.graph.output_node().all_input_nodes:
                if not self.values.is_quantized(result):
                    self._behind(result, config.outputs, "the outputs of the module", exact=True)
        if not any(map(self.values.gives_quantized, self.module.graph.nodes)):
            _warn_of_nothing(config, planned)

    # -- the cases of `quantize` -------------------------------------------------------------------

    def _inputs(self, node: fx.Node, plan: Plan, *, constant: bool) -> None:
        for index, value in enumerate(node.args):
            if isinstance(value, fx.Node) and self.values.is_constant(value) == constant:
                self._input(node, plan, index, value)

    def _input(self, node: fx.Node, plan: Plan, index: int, value: fx.Node) -> None:
        if ("input", index) in plan.positions:  # Case 5
            self._exactly(node, plan, index, value)
        elif self.values.is_constant(value):  # Case 1
            config = plan.biases if index == 2 and plan.op_type in BIASED else plan.weights
            if config is not None:
                self._weight(node, plan, value, config)
        else:  # Case 2
            for source in dict.fromkeys(self.values.sources(value)):
                if self.values.is_constant(source):
                    self._table(source, plan)
                    continue
                origin = source.all_input_nodes[0] if str(source.target) in self.sites else source
                config = plan.inputs if origin.op == "placeholder" else plan.activations
                if config is not None:
                    self._behind(source, config, plan.name)

    def _weight(self, node: fx.Node, plan: Plan, value: fx.Node, config: AnyQuantizerConfig) -> None:
        axis = _output_channel(node, plan.op_type, len(self.values.shape(value)), value)
        while value.target in (movement.transpose, identity):
            if value.target is movement.transpose:
                perm: Any = value.kwargs.get("perm")
                rank = len(self.values.shape(value))
                axis = perm[axis] if perm is not None else rank - 1 - axis
            value = value.all_input_nodes[0]
        self._behind(value, config, plan.name, axis=axis)

    def _table(self, source: fx.Node, plan: Plan) -> None:
        """Quantizes a constant that others are taken from (an embedding), unless it is a weight itself."""
        if plan.weights is not None and str(source.target) not in self._weights:
            self._behind(source, plan.weights, plan.name, axis=0)

    def _residual(self, node: fx.Node, plan: Plan, config: AnyQuantizerConfig) -> None:  # Case 3
        values = [a for a in node.args if isinstance(a, fx.Node)]
        computed = [v for v in values if self.values.is_floating(v) and not self.values.is_constant(v)]
        if len(computed) < 2:
            return
        signed = not all(map(self.values.is_never_negative, values))
        path = self._new(
            f"{plan.name}.input_quant", config, "activation", plan.name, values[0], 1, signed, exact=True
        )
        calls = {v: self._call(path, v, node) for v in dict.fromkeys(values)}
        node.args = tuple(calls[a] if isinstance(a, fx.Node) else a for a in node.args)

    def _output(self, result: fx.Node, plan: Plan, index: int) -> None:
        config = plan.positions.get(("output", index), plan.outputs)
        exact = ("output", index) in plan.positions
        readers = [u for u in result.users if self.values.quantizer(u) is None]
        if config is None or (exact and len(readers) < len(result.users)):
            return
        if exact or not self.values.is_quantized(result):  # Cases 5 and 4
            self._behind(result, config, plan.name, exact=True)

    def _exactly(self, node: fx.Node, plan: Plan, index: int, value: fx.Node) -> None:
        config = plan.positions["input", index]
        if config is None or self.values.gives_quantized(value) or not self.values.is_floating(value):
            return
        constant = self.values.is_constant(value)
        axis = _output_channel(node, plan.op_type, len(self.values.shape(value)), value) if constant else 1
        name = f"{value.target}_quant" if value.op == "get_attr" else f"{plan.name}.input_{index}_quant"
        signed = constant or not self.values.is_never_negative(value)
        role: Role = "weight" if constant else "activation"
        path = self._new(name, config, role, plan.name, value, axis, signed, exact=True)
        node.args = (*node.args[:index], self._call(path, value, node), *node.args[index + 1 :])

    def _check_positions(self, node: fx.Node, plan: Plan) -> None:
        for side, index in plan.positions:
            value = node.args[index] if index < len(node.args) else None
            if not (index in _results(node) if side == "output" else isinstance(value, fx.Node)):
                raise QonnxTorchError(f"{plan.name} ({plan.op_type}) has no {side} {index} to quantize")

    # -- insertion ---------------------------------------------------------------------------------

    def _behind(
        self,
        value: fx.Node,
        config: AnyQuantizerConfig,
        wanted_by: str,
        *,
        axis: int = 1,
        exact: bool = False,
    ) -> None:
        """Quantizes a value for all its readers; Case 6: once."""
        if self.values.gives_quantized(value):
            known = self.sites.get(str(value.target))
            if known is not None and known.config != config and not (exact or known.exact):
                raise QonnxTorchError(
                    f"{value.all_input_nodes[0].name} is read by {known.wanted_by}, which wants "
                    f"{known.config}, and by {wanted_by}, which wants {config}: a value has one quantizer. "
                    "Let one rule fit both, or quantize one of them at its own input (positions)"
                )
            return
        if not self.values.is_floating(value):
            return
        constant = self.values.is_constant(value)
        name = str(value.target) if value.op == "get_attr" else value.meta["onnx"].outputs[0]
        signed = constant or not self.values.is_never_negative(value)
        role: Role = "weight" if constant else "activation"
        path = self._new(f"{name}_quant", config, role, wanted_by, value, axis, signed, exact=exact)
        readers = [u for u in value.users if self.values.quantizer(u) is None]
        quantized = self._call(path, value, value.next)
        for reader in readers:
            reader.replace_input_with(value, quantized)

    def _new(
        self,
        name: str,
        config: AnyQuantizerConfig,
        role: Role,
        wanted_by: str,
        value: fx.Node,
        axis: int,
        signed: bool,
        *,
        exact: bool,
    ) -> str:
        """Adds the module of a quantizer for a value, and returns its path."""
        path = self._path(name)
        try:
            quantizer = make_quantizer(
                config,
                role,
                signed=signed,
                shape=self._scale_shape(value, config, axis),
                dtype=self.values.dtype(value),
            )
        except QonnxTorchError as error:
            raise QonnxTorchError(f"quantizer {path}: {error}") from None
        device = next((t.device for t in (*self.module.parameters(), *self.module.buffers())), None)
        quantizer.to(device).train(self.module.training)
        if self.values.is_constant(value):
            initialize(path, quantizer, config, self.values.constant(value))
        elif isinstance(config.scale, str):
            self.pending[path] = quantizer, config
        self.module.add_submodule(path, quantizer)
        self.sites[path] = Site(quantizer, config, role, wanted_by, exact)
        return path

    def _scale_shape(self, value: fx.Node, config: AnyQuantizerConfig, axis: int) -> tuple[int, ...]:
        if config.granularity == "per_tensor":
            return ()
        sizes = self.values.shape(value)
        if axis >= len(sizes):
            raise QonnxTorchError(f"a value of shape {sizes} has no channels on axis {axis}")
        return tuple(size if i == axis else 1 for i, size in enumerate(sizes))

    def _call(self, path: str, value: fx.Node, before: fx.Node) -> fx.Node:
        with self.module.graph.inserting_before(before):
            node = self.module.graph.call_module(path, (value,))
        name, count = path, 0
        while name in self._names:
            count += 1
            name = f"{path}_{count}"
        self._names.add(name)
        node.meta["onnx"] = NodeOrigin(-1, name, type(self.sites[path].quantizer).__name__, (name,))
        self.values.add_quantizer(node)
        return node

    def _path(self, wanted: str) -> str:
        """Returns a new module path: the wanted one where it can be one, else an identifier like it."""
        if not re.fullmatch(r"\w+(\.\w+)*", wanted, flags=re.ASCII):
            return identifier(wanted, self._paths, "quant")
        return self._paths.fresh(wanted)


def _warn_of_nothing(config: QuantizationConfig, planned: Mapping[fx.Node, Plan]) -> None:
    parts = ("weights", "activations", "inputs", "outputs", "biases", "residuals", "rules")
    if not any(getattr(config, part) for part in parts):
        return  # nothing was asked for
    found = sorted({plan.op_type for plan in planned.values()})
    sought = [t for t in found if t in config.op_types]
    if sought:
        reason = f"the configuration asks for no quantizer at its {', '.join(sought)}"
    else:
        only = ", ".join(found) or "calls that have no ONNX operator"
        reason = f"op_types of the configuration are {', '.join(config.op_types)}, and it has only {only}"
    warnings.warn(f"nothing in the module was quantized: {reason}", UserWarning, stacklevel=4)


def _results(node: fx.Node) -> dict[int, fx.Node]:
    """Returns the results of a node by position."""
    items = {int(u.args[1]): u for u in node.users if u.target is getitem}  # type: ignore[arg-type]
    return items or {0: node}


def _output_channel(node: fx.Node, op_type: str, rank: int, value: fx.Node) -> int:
    """Returns the axis of a constant input that stands for output channels."""
    if op_type == "ConvTranspose":
        return 1
    if op_type == "Gemm" and value in node.args[1:2]:
        return 0 if node.kwargs.get("transB") else 1
    if op_type == "MatMul":
        return max(rank - 1 if value is node.args[1] else rank - 2, 0)
    return 0
