"""BatchNormalization folded into the linear operator before it, in front of the weight's quantizer.

With f = scale / sqrt(var + epsilon), per channel, and q the weight's quantizer of scale s:

    BatchNormalization(q(W) x + b) = q'(W f) x + (b - mean) f + B,   q' of scale s |f|

The integers of the quantized weight stay what they were (with the sign of f).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

import qonnx_torch.nn as qnn
from qonnx_torch.errors import QonnxTorchError, UnsupportedModelError
from qonnx_torch.nn.scales import StatisticsScale
from qonnx_torch.ops.standard.convolution import conv, conv_transpose
from qonnx_torch.ops.standard.elementwise import add
from qonnx_torch.ops.standard.linear import gemm, mat_mul
from qonnx_torch.ops.standard.movement import transpose
from qonnx_torch.ops.standard.shape import unsqueeze
from qonnx_torch.passes.constants import nested_graphs
from qonnx_torch.passes.shapes import infer_shapes
from qonnx_torch.passes.tensors import TensorTable
from qonnx_torch.passes.training import update_statistics
from qonnx_torch.provenance import value_names

__all__ = ["BatchNormalizationFolding", "fold_batch_normalization"]


@dataclass(frozen=True, slots=True)
class BatchNormalizationFolding:
    """What `fold_batch_normalization` did.

    Attributes:
        folded: names of the BatchNormalization modules that are gone.
        kept: name -> why it is still there.
    """

    folded: tuple[str, ...]
    kept: Mapping[str, str]


class _KeptError(Exception):
    """Why a BatchNormalization cannot be folded."""


def fold_batch_normalization(module: fx.GraphModule) -> BatchNormalizationFolding:
    """Folds BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul before it, in place.

    1. The weight becomes W f. Its quantizer's scale becomes s |f| and, where it was per tensor, per output
       channel; what is learned of it goes on being learned. Where rounding W f would move a weight to
       another integer, the weight moves by a rounding unit instead.
    2. A float bias becomes (b - mean) f + B; without one, the normalization's B takes its place. After a
       MatMul it is an Add, and an Add of a constant that is there already is used.
    3. Where f is 0, the weights become 0 and the scale stays.

    In `eval()` the module computes the same up to float rounding. In `train()` the statistics are no longer
    those of the batch, so an optimizer is best made after it. A BatchNormalization is kept, with the reason,
    where its input is no such operator or has other users; where its parameters, the weight or the bias are
    shared, computed or, for the bias, quantized; where the quantized weights could not stay the same: a
    negative f needs a range that is symmetric about 0 (or no weight at the odd end), a learned power of two
    cannot become any value, and neither can one scale that follows the whole weight, which
    `freeze_quantizers` makes an ordinary one. So is one in a subgraph (the branch of an If).

    Args:
        module: a graph with BatchNormalization modules. For MatMul the input shapes must be known.

    Returns:
        What was folded, and what was kept and why.
    """
    update_statistics(module)
    kept: dict[str, str] = {}
    for prefix, graph, _ in list(nested_graphs(module))[1:]:
        for name, submodule in graph.named_modules():
            if isinstance(submodule, qnn.BatchNormalization) and prefix + name not in kept:
                kept[prefix + name] = "it is in a subgraph"
    pairs = [(n, module.get_submodule(str(n.target))) for n in module.graph.nodes if n.op == "call_module"]
    folded: list[str] = []
    ranks = _ranks(module) if any(n.target is mat_mul for n in module.graph.nodes) else {}
    try:
        for node, normalization in pairs:
            if isinstance(normalization, qnn.BatchNormalization):
                try:
                    with torch.no_grad():
                        _Fold(module, node, normalization, ranks).apply()
                    folded.append(str(node.target))
                except (_KeptError, QonnxTorchError) as reason:
                    kept[str(node.target)] = str(reason)
    finally:  # whatever happens, the code is that of the graph, in which each fold is done or not begun
        if folded:
            module.graph.lint()
            module.recompile()
    return BatchNormalizationFolding(tuple(folded), kept)


def _ranks(module: fx.GraphModule) -> dict[fx.Node, int]:
    try:
        infos = infer_shapes(module)
    except UnsupportedModelError:
        return {}
    names = value_names(module)
    return {node: len(infos[n[0]].shape) for node, n in names.items() if n and n[0] in infos}


def _keep(reason: str) -> NoReturn:
    raise _KeptError(reason)


class _Fold:
    """One BatchNormalization: everything is checked and computed first, then applied."""

    def __init__(
        self,
        module: fx.GraphModule,
        node: fx.Node,
        normalization: qnn.BatchNormalization,
        ranks: dict[fx.Node, int],
    ) -> None:
        self.module = module
        self.node = node
        self.tensors = TensorTable(module)
        if isinstance(normalization, qnn.BatchNormalizationChannelsLast):
            _keep("it has its channels last")
        if normalization.training_mode:
            _keep("it normalizes by the batch (training_mode)")
        if len(self.tensors.calls(str(node.target))) > 1:
            _keep("it is called more than once")
        scale, shift, mean, var = (self._constant(a, "its own parameters are") for a in node.args[1:5])
        self.factor = scale / torch.sqrt(var + normalization.epsilon)
        self.mean, self.shift = mean, shift
        if not bool(torch.isfinite(self.factor).all()):
            _keep("its variance and scale give a factor that is not finite")
        self.added: fx.Node | None = None
        self.linear = self._find_linear()
        self.axis = self._channel_axis(ranks)
        self._find_weight()

    def _constant(self, node: Any, what: str) -> Tensor:
        """Returns a constant of the graph in float64."""
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            _keep(f"{what} computed in the graph")
        return self.tensors[str(node.target)].detach().to(torch.float64)

    def _find_linear(self) -> fx.Node:
        """Walks up from the normalization to the operator, past an Add of a constant and an Unsqueeze."""
        node = self.node.args[0]
        while isinstance(node, fx.Node):
            if len(node.users) > 1:
                _keep(f"{node.name} before it has other users")
            if node.target in (conv, conv_transpose, gemm, mat_mul):
                return node
            axes = node.args[1] if node.target is unsqueeze else None
            if isinstance(axes, (list, tuple)) and min(axes) > 1:
                node = node.args[0]
            elif node.target is add and self.added is None:
                self.added = node
                _, node = self._addends(node)
            else:
                _keep(f"it follows {node.name}, which is no Conv, ConvTranspose, Gemm or MatMul")
        _keep("it follows no Conv, ConvTranspose, Gemm or MatMul")

    def _addends(self, node: fx.Node) -> tuple[fx.Node, fx.Node]:
        """Returns the constant and the other operand of an Add."""
        for constant, other in (node.args[:2], node.args[1::-1]):
            if isinstance(constant, fx.Node) and isinstance(other, fx.Node) and constant.op == "get_attr":
                return constant, other
        _keep(f"it follows {node.name}, which adds no constant")

    def _channel_axis(self, ranks: dict[fx.Node, int]) -> int:
        """Returns the dimension of the operator's weight input that is the output channel."""
        if self.linear.target is conv:
            return 0
        if self.linear.target is conv_transpose:
            if self.linear.kwargs.get("group", 1) != 1:
                _keep("the output channels of a grouped ConvTranspose are no dimension of its weight")
            return 1
        if self.linear.target is mat_mul and ranks.get(self.linear) != 2:
            _keep("its MatMul has a result of another rank than 2, or of an unknown one")
        return 0 if self.linear.kwargs.get("transB") else 1

    def _find_weight(self) -> None:
        """Walks up from the operator to its weight, past transposes and a quantizer."""
        self.quantizer: qnn.Quantizer | None = None
        self.to_quantizer: list[list[int]] = []  # how the weight is transposed before its quantizer
        axis, node = self.axis, self.linear.args[1]
        while isinstance(node, fx.Node) and node.op != "get_attr":
            if len(node.users) > 1:
                _keep(f"{node.name}, its weight, has other users")
            if node.target is transpose:
                perm = self._permutation(node)
                axis = perm[axis]
                if self.quantizer is not None:
                    self.to_quantizer.insert(0, perm)
            else:
                self._take_quantizer(node)
                self.quantizer_axis = axis
            node = node.args[0]
        weight = self._constant(node, "its weight is")
        assert isinstance(node, fx.Node)
        self.weight_path, self.weight_axis = str(node.target), axis
        if weight.shape[axis] != self.factor.numel():
            _keep(f"its {self.factor.numel()} channels are not those of {self.weight_path}")
        if self.tensors.is_shared(self.weight_path):
            _keep(f"{self.weight_path} is shared")

    def _permutation(self, node: fx.Node) -> list[int]:
        perm: Any = node.kwargs.get("perm")
        if perm is not None:
            return list(perm)
        while node.op != "get_attr":
            if not node.all_input_nodes:
                _keep(f"its weight is computed from {node.name}")
            node = node.all_input_nodes[0]
        return list(range(self.tensors[str(node.target)].dim()))[::-1]

    def _take_quantizer(self, node: fx.Node) -> None:
        quantizer = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(quantizer, (qnn.Quant, qnn.BipolarQuant, qnn.FloatQuant)) or self.quantizer:
            _keep(f"its weight goes through {node.name}")
        if len(quantizer.current_parameters()) < len(quantizer.parameter_names):
            _keep(f"the parameters of {node.target} are computed in the graph")
        if len(self.tensors.calls(str(node.target))) > 1:
            _keep(f"the quantizer {node.target} is called more than once")
        self.quantizer = quantizer

    # -- what it becomes ---------------------------------------------------------------------------

    def apply(self) -> None:
        """Computes and checks the new weight and bias, then changes the module, which cannot fail."""
        weight = self.tensors[self.weight_path]
        scaled = (weight.to(torch.float64) * _along(self.factor, self.weight_axis, weight.dim())).to(weight)
        biases = self._new_biases()
        if self.quantizer is not None:
            scaled, scale = self._requantized(weight, scaled, self.quantizer)
            self.quantizer.set_parameters(scale=scale)
        self.tensors.set(self.weight_path, scaled)
        for path, value in biases.items():
            self.tensors.set(path, value)
        self._rewire()

    def _requantized(self, weight: Tensor, scaled: Tensor, quantizer: qnn.Quantizer) -> tuple[Tensor, Tensor]:
        """Returns the scaled weight, moved by rounding units where needed, and its quantizer's scale."""
        order = list(range(weight.dim()))
        for perm in self.to_quantizer:
            order = [order[p] for p in perm]
        back = sorted(range(len(order)), key=order.__getitem__)
        factor = _along(self.factor, self.quantizer_axis, weight.dim())
        scale = quantizer.current_parameters()["scale"]
        growth = torch.where(factor == 0, 1.0, factor.abs())
        new_scale = (scale.to(torch.float64) * growth).to(scale.dtype)
        if not bool(((new_scale != 0) | (scale == 0)).all() & torch.isfinite(new_scale).all()):
            _keep("its factor takes a scale out of the range of its type")
        trial = copy.deepcopy(quantizer)
        trial.enable()
        wanted = trial(weight.permute(order)).to(torch.float64) * factor
        trial.set_parameters(scale=new_scale)
        new = _settled(trial, scaled.permute(order), wanted)
        moved = ~torch.isclose(trial(new).to(torch.float64), wanted, rtol=1e-6, atol=0.0)
        if bool(moved.any()):
            why = self._why_moved(quantizer, new_scale, negative=bool((factor < 0).any()))
            _keep(f"{int(moved.sum())} quantized weights of {self.weight_path} would change{why}")
        return new.permute(back), new_scale

    def _why_moved(self, quantizer: qnn.Quantizer, new_scale: Tensor, *, negative: bool) -> str:
        follows = isinstance(quantizer.scale_training, StatisticsScale) and quantizer.scale_training.following
        if follows and new_scale.shape != quantizer.current_tensor("scale").shape:
            return ": the scale follows the whole weight: freeze_quantizers first"
        return ", where its factor is negative" if negative else ""

    def _new_biases(self) -> dict[str, Tensor]:
        """Returns the new constants by path; a new path where there was no bias."""
        shift = self.shift - self.mean * self.factor
        own = self.linear.args[2] if len(self.linear.args) > 2 else None
        new: dict[str, Tensor] = {}
        if own is not None:
            bias = self._bias(own, 1) * float(self.linear.kwargs.get("beta", 1.0))  # type: ignore[arg-type]
            after = 0 if self.added is not None else shift
            new[self._unshared(own)] = (bias * self.factor + after).to(self._dtype)
        if self.added is not None:
            constant, _ = self._addends(self.added)
            rank = 2 if self.linear.target in (gemm, mat_mul) else self.tensors[self.weight_path].dim()
            bias = self._bias(constant, rank - 1)
            value = (bias * self.factor + shift).to(self._dtype)
            new[self._unshared(constant)] = value.reshape(-1, *[1] * (rank - 2))
        self.new_bias = None if new else self._free_path()
        if self.new_bias is not None:
            new[self.new_bias] = shift.to(self._dtype)
        return new

    @property
    def _dtype(self) -> torch.dtype:
        return self.tensors[self.weight_path].dtype

    def _bias(self, node: Any, trailing: int) -> Tensor:
        """Returns a bias as (channels,); its channels are the dimension `trailing` from the end."""
        if isinstance(node, fx.Node) and node.op == "call_module":
            _keep(f"its bias is quantized by {node.target}: the shift would be rounded")
        bias = self._constant(node, "its bias is")
        channels = self.factor.numel()
        aligned = [1] * (trailing - bias.dim()) + list(bias.shape)
        if bias.numel() != 1 and (bias.numel() != channels or aligned[-trailing] != channels):
            _keep(f"its bias has the shape {tuple(bias.shape)}, which is not one value per channel")
        return bias.reshape(-1).expand(channels)

    def _unshared(self, node: Any) -> str:
        path = str(node.target)
        if self.tensors.is_shared(path):
            _keep(f"{path}, its bias, is shared")
        return path

    def _free_path(self) -> str:
        shift = self.node.args[2]
        assert isinstance(shift, fx.Node)
        path = str(shift.target)
        return path if not self.tensors.is_shared(path) else self.tensors.new_path(f"{self.node.name}_bias")

    def _rewire(self) -> None:
        graph = self.module.graph
        if self.new_bias is not None:
            with graph.inserting_before(self.linear):
                bias = graph.get_attr(self.new_bias)
            if self.linear.target is mat_mul:
                with graph.inserting_after(self.linear):
                    total = graph.call_function(add, (self.linear, bias))
                self.linear.replace_all_uses_with(total, lambda user: user is not total)
            else:
                self.linear.args = (*self.linear.args[:2], bias)
        if "beta" in self.linear.kwargs:
            self.linear.update_kwarg("beta", 1.0)
        source = self.node.args[0]
        assert isinstance(source, fx.Node)
        self.node.replace_all_uses_with(source)
        constants = self.node.all_input_nodes[1:]
        graph.erase_node(self.node)
        self._take_out(str(self.node.target), constants)

    def _take_out(self, path: str, constants: list[fx.Node]) -> None:
        """Takes out the module, but not what lives below its path, as its tensors do in a traced graph."""
        owner_path, _, leaf = path.rpartition(".")
        owner, old = self.module.get_submodule(owner_path), self.module.get_submodule(path)
        place = nn.Module()
        for held in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"):
            setattr(place, held, getattr(old, held))
        place.training = old.training
        setattr(owner, leaf, place)
        self.tensors.drop_unread(constants)
        if not (place._parameters or place._buffers or place._modules):
            delattr(owner, leaf)


def _along(vector: Tensor, axis: int, rank: int) -> Tensor:
    return vector.reshape([-1 if d == axis else 1 for d in range(rank)])


def _settled(quantizer: nn.Module, weight: Tensor, wanted: Tensor) -> Tensor:
    """Returns the weight, by one rounding unit up or down where only that is quantized as wanted."""
    for end in (torch.inf, -torch.inf):
        near = torch.nextafter(weight, torch.full_like(weight, end))
        now, then = (
            torch.isclose(quantizer(w).to(wanted), wanted, rtol=1e-6, atol=0) for w in (weight, near)
        )
        weight = torch.where(then & ~now, near, weight)
    return weight
