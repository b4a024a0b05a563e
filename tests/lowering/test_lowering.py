"""Float modules as graphs of ONNX operators: the same numbers, the same weights, a free batch."""

from __future__ import annotations

import copy
import logging
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qonnx_torch as qt
from qonnx_torch.lowering import trace
from qonnx_torch.registry import REGISTRY

ort = pytest.importorskip("onnxruntime")

IMAGE, SIGNAL, VOLUME, ROWS, TOKENS = (2, 4, 8, 8), (2, 4, 12), (2, 4, 6, 6, 6), (2, 6), (2, 5, 6)


class Call(nn.Module):
    """A module whose forward is a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def aliases(x: Tensor) -> Tensor:
    y = x + 1
    z = y
    y += x
    return y * z


def settled(module: nn.Module) -> nn.Module:
    """Gives every tensor values that show: running statistics away from 0 and 1, biases away from 0."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator)
            tensor.data.copy_(values.abs() + 0.5 if name.endswith("var") else 0.5 * values)
    return module.eval()


def run_onnx(model: onnx.ModelProto, *inputs: Tensor) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})


def op_types(module: torch.fx.GraphModule) -> list[str]:
    return [n.op_type for n in qt.export_qonnx(module).graph.node]


EXACT, ROUNDED = 0.0, 2e-6  # the second: relative to the largest value, where a function is several operators

LAYERS: list[tuple[nn.Module, tuple[int, ...], list[str], float]] = [
    (nn.Conv1d(4, 6, 3, stride=2, padding=1), SIGNAL, ["Conv"], EXACT),
    (nn.Conv2d(4, 6, (3, 2), dilation=2, bias=False), IMAGE, ["Conv"], EXACT),
    (nn.Conv2d(4, 8, 3, padding=1, groups=4), IMAGE, ["Conv"], EXACT),
    (nn.Conv2d(4, 6, 4, padding="same"), IMAGE, ["Conv"], ROUNDED),  # torch pads unevenly inside its kernel
    (nn.Conv2d(4, 6, 3, padding="same", dilation=2), IMAGE, ["Conv"], EXACT),
    (nn.Conv2d(4, 6, 3, padding="valid"), IMAGE, ["Conv"], EXACT),
    (nn.Conv3d(4, 6, 3), VOLUME, ["Conv"], EXACT),
    (nn.ConvTranspose1d(4, 6, 3, stride=2), SIGNAL, ["ConvTranspose"], EXACT),
    (
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        IMAGE,
        ["ConvTranspose"],
        EXACT,
    ),
    (nn.ConvTranspose3d(4, 6, 2, stride=2, bias=False), VOLUME, ["ConvTranspose"], EXACT),
    (nn.Linear(6, 3), ROWS, ["Gemm"], EXACT),
    (nn.Linear(6, 3, bias=False), ROWS, ["Gemm"], EXACT),
    (nn.Linear(6, 3), TOKENS, ["Transpose", "MatMul", "Add"], ROUNDED),
    (nn.BatchNorm1d(6), ROWS, ["BatchNormalization"], ROUNDED),
    (nn.BatchNorm1d(4), SIGNAL, ["BatchNormalization"], ROUNDED),
    (nn.BatchNorm2d(4, eps=1e-3), IMAGE, ["BatchNormalization"], ROUNDED),
    (nn.BatchNorm2d(4, affine=False), IMAGE, ["BatchNormalization"], ROUNDED),
    (nn.BatchNorm3d(4), VOLUME, ["BatchNormalization"], ROUNDED),
    (nn.LayerNorm(6), TOKENS, ["LayerNormalization"], EXACT),
    (nn.LayerNorm((5, 6), elementwise_affine=False), TOKENS, ["LayerNormalization"], EXACT),
    (nn.LayerNorm(6, bias=False), TOKENS, ["LayerNormalization"], EXACT),
    (nn.GroupNorm(2, 4), IMAGE, ["GroupNormalization"], EXACT),
    (nn.InstanceNorm2d(4, affine=True), IMAGE, ["InstanceNormalization"], EXACT),
    (nn.InstanceNorm1d(4), SIGNAL, ["InstanceNormalization"], EXACT),
    (nn.RMSNorm(6), TOKENS, ["Mul", "ReduceMean", "Add", "Sqrt", "Div", "Mul"], ROUNDED),
    (nn.MaxPool1d(3, 2), SIGNAL, ["MaxPool"], EXACT),
    (nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), IMAGE, ["MaxPool"], EXACT),
    (nn.MaxPool3d(2), VOLUME, ["MaxPool"], EXACT),
    (nn.AvgPool1d(3), SIGNAL, ["AveragePool"], ROUNDED),
    (nn.AvgPool2d(3, stride=2, padding=1), IMAGE, ["AveragePool"], ROUNDED),
    (nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), IMAGE, ["AveragePool"], ROUNDED),
    (nn.AvgPool2d(3, stride=2, ceil_mode=True), IMAGE, ["AveragePool"], ROUNDED),
    (nn.AvgPool3d(2), VOLUME, ["AveragePool"], ROUNDED),
    (nn.AdaptiveAvgPool2d(1), IMAGE, ["GlobalAveragePool"], EXACT),
    (nn.AdaptiveAvgPool2d((2, None)), IMAGE, ["AveragePool"], ROUNDED),
    (nn.AdaptiveMaxPool2d(1), IMAGE, ["GlobalMaxPool"], EXACT),
    (nn.AdaptiveMaxPool1d(4), SIGNAL, ["MaxPool"], EXACT),
    (nn.Flatten(), IMAGE, ["Flatten"], EXACT),
    (nn.Flatten(2), IMAGE, ["Reshape"], EXACT),
    (nn.Flatten(0, 1), IMAGE, ["Reshape"], EXACT),
    (nn.Unflatten(1, (2, 3)), ROWS, ["Reshape"], EXACT),
    (nn.Dropout(0.3), ROWS, ["Dropout"], EXACT),
    (nn.Upsample(scale_factor=2), IMAGE, ["Resize"], EXACT),
    (nn.Upsample(size=(16, 24)), IMAGE, ["Resize"], EXACT),
    (nn.Upsample(size=(11, 5), mode="bilinear"), IMAGE, ["Resize"], 2e-5),
    (nn.Upsample(size=(11, 5), mode="bilinear", align_corners=True), IMAGE, ["Resize"], 2e-5),
    (nn.Upsample(scale_factor=2, mode="bicubic"), IMAGE, ["Resize"], 2e-5),
    (nn.PixelShuffle(2), IMAGE, ["DepthToSpace"], EXACT),
    (nn.ZeroPad2d((1, 2, 0, 1)), IMAGE, ["Pad"], EXACT),
    (nn.ConstantPad1d(1, 0.5), SIGNAL, ["Pad"], EXACT),
    (nn.ReflectionPad2d(1), IMAGE, ["Pad"], EXACT),
    (nn.ReplicationPad2d(1), IMAGE, ["Pad"], EXACT),
    (nn.ReLU(), ROWS, ["Relu"], EXACT),
    (nn.ReLU6(), ROWS, ["Clip"], EXACT),
    (nn.Hardtanh(-0.5, 0.7), ROWS, ["Clip"], EXACT),
    (nn.LeakyReLU(0.2), ROWS, ["LeakyRelu"], EXACT),
    (nn.PReLU(), IMAGE, ["PRelu"], EXACT),
    (nn.PReLU(4), IMAGE, ["Unsqueeze", "PRelu"], EXACT),
    (nn.ELU(0.7), ROWS, ["Elu"], EXACT),
    (nn.SELU(), ROWS, ["Selu"], ROUNDED),
    (nn.GELU(), ROWS, ["Gelu"], EXACT),
    (nn.GELU("tanh"), ROWS, ["Gelu"], EXACT),
    (nn.SiLU(), ROWS, ["Sigmoid", "Mul"], ROUNDED),
    (nn.Mish(), ROWS, ["Softplus", "Tanh", "Mul"], ROUNDED),
    (nn.Sigmoid(), ROWS, ["Sigmoid"], EXACT),
    (nn.LogSigmoid(), ROWS, ["Neg", "Softplus", "Neg"], ROUNDED),
    (nn.Tanh(), ROWS, ["Tanh"], EXACT),
    (nn.Softmax(-1), TOKENS, ["Softmax"], EXACT),
    (nn.LogSoftmax(1), TOKENS, ["LogSoftmax"], EXACT),
    (nn.Softplus(), ROWS, ["Softplus"], EXACT),
    (nn.Softplus(2.0), ROWS, ["Mul", "Softplus", "Div"], ROUNDED),
    (nn.Softsign(), ROWS, ["Softsign"], EXACT),
    (nn.Hardsigmoid(), ROWS, ["HardSigmoid"], ROUNDED),
    (nn.Hardswish(), ROWS, ["HardSwish"], ROUNDED),
    (nn.GLU(), ROWS, ["Split", "Sigmoid", "Mul"], ROUNDED),
]

FUNCTIONS: list[tuple[str, Callable[[Tensor], Any], tuple[int, ...], list[str], float]] = [
    (
        "relu",
        lambda x: x.relu() + F.relu(x) + torch.relu(x),
        ROWS,
        ["Relu", "Relu", "Add", "Relu", "Add"],
        EXACT,
    ),
    ("clamp", lambda x: x.clamp(0), ROWS, ["Clip"], EXACT),
    ("clamp_max", lambda x: torch.clamp(x, max=0.5), ROWS, ["Clip"], EXACT),
    ("arithmetic", lambda x: (1 - x) * 2 / 3 + x.sub(x, alpha=0.5), ROWS, None, ROUNDED),
    ("integers", lambda x: x + torch.arange(6), ROWS, ["Cast", "Add"], EXACT),
    ("pow", lambda x: x**2 + x.square(), ROWS, ["Pow", "Mul", "Add"], ROUNDED),
    ("unary", lambda x: (-x).abs().exp().log().sqrt().sin().cos().floor().sign(), ROWS, None, ROUNDED),
    ("rsqrt", lambda x: torch.rsqrt(x.square() + 1), ROWS, ["Mul", "Add", "Sqrt", "Reciprocal"], ROUNDED),
    ("where", lambda x: torch.where(x > 0, x, -1.0), ROWS, ["Greater", "Where"], EXACT),
    ("masked_fill", lambda x: x.masked_fill(x < 0, 0.25), ROWS, ["Less", "Where"], EXACT),
    (
        "masks",
        lambda x: ((x > 0) & ~(x > 1)).float(),
        ROWS,
        ["Greater", "Greater", "Not", "And", "Cast"],
        EXACT,
    ),
    ("matmul", lambda x: x @ x.transpose(-1, -2), TOKENS, ["Transpose", "MatMul"], EXACT),
    ("einsum", lambda x: torch.einsum("bij,bkj->bik", x, x), TOKENS, ["Einsum"], EXACT),
    ("mean", lambda x: x.mean((2, 3)), IMAGE, ["ReduceMean"], EXACT),
    ("sums", lambda x: x.sum(1, keepdim=True) + x.amax(-1).sum(), ROWS, None, ROUNDED),
    ("maximum", lambda x: torch.maximum(x, -x) + x.max(), ROWS, ["Neg", "Max", "ReduceMax", "Add"], EXACT),
    ("argmax", lambda x: x.argmax(1), ROWS, ["ArgMax"], EXACT),
    ("cumsum", lambda x: x.cumsum(1), ROWS, ["CumSum"], ROUNDED),
    ("view", lambda x: x.view(x.size(0), -1), IMAGE, ["Reshape"], EXACT),
    ("merge", lambda x: x.reshape(x.shape[0] * x.shape[1], 6), TOKENS, ["Reshape"], EXACT),
    ("split heads", lambda x: x.view(x.shape[0], x.size(1), 2, 3).permute(0, 2, 1, 3), TOKENS, None, EXACT),
    ("batch last", lambda x: x.reshape(4, x.shape[0], 64), IMAGE, ["Reshape"], EXACT),
    ("flatten", lambda x: torch.flatten(x, 1), IMAGE, ["Flatten"], EXACT),
    ("flatten all", lambda x: x.flatten(), IMAGE, ["Reshape"], EXACT),
    ("squeeze", lambda x: x[:, :1].squeeze(1).unsqueeze(-1).squeeze(), ROWS, None, EXACT),
    ("expand", lambda x: x[:, :1].expand(-1, 6) * x[:1].expand_as(x), ROWS, None, EXACT),
    ("repeat", lambda x: x.repeat(1, 2), ROWS, ["Tile"], EXACT),
    ("cat", lambda x: torch.cat([x, x.relu()], 1), IMAGE, ["Relu", "Concat"], EXACT),
    (
        "stack",
        lambda x: torch.stack((x, -x), dim=1),
        ROWS,
        ["Neg", "Unsqueeze", "Unsqueeze", "Concat"],
        EXACT,
    ),
    ("chunk", lambda x: x.chunk(2, 1)[1] - x.split([4, 2], dim=1)[0][:, :3], ROWS, None, EXACT),
    ("unbind", lambda x: x.unbind(1)[2], TOKENS, ["Gather"], EXACT),
    ("index", lambda x: x[:, 1:5:2, None, -1], TOKENS, ["Slice", "Gather", "Unsqueeze"], EXACT),
    ("ellipsis", lambda x: x[..., :-2], IMAGE, ["Slice"], EXACT),
    ("gather rows", lambda x: x[:, torch.tensor([0, 2, 2])], TOKENS, ["Gather"], EXACT),
    ("interpolate", lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), IMAGE, ["Resize"], EXACT),
    ("pad", lambda x: F.pad(x, (1, 0, 2, 1), value=1.0), IMAGE, ["Pad"], EXACT),
    ("attention", lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), TOKENS, None, ROUNDED),
    ("scale of size", lambda x: x / math.sqrt(x.size(-1)), TOKENS, ["Div"], EXACT),
    ("mean over batch", lambda x: x.sum(0) / x.shape[0], ROWS, None, ROUNDED),
    ("in place", lambda x: torch.relu_(y := x + 1) * y, ROWS, ["Add", "Relu", "Mul"], EXACT),
    ("aliases", aliases, ROWS, ["Add", "Add", "Mul"], EXACT),
    ("functional", lambda x: F.layer_norm(x, (6,)), TOKENS, ["LayerNormalization"], EXACT),
]

ROWS_OF_ALL = [
    *(pytest.param(m, s, t, tol, id=f"{type(m).__name__}-{i}") for i, (m, s, t, tol) in enumerate(LAYERS)),
    *(pytest.param(Call(f), s, t, tol, id=name) for name, f, s, t, tol in FUNCTIONS),
]


def largest_difference(actual: Any, expected: Any) -> float:
    actual, expected = (torch.as_tensor(v).detach().double() for v in (actual, expected))
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize(("module", "shape", "types", "tolerance"), ROWS_OF_ALL)
def test_each_layer_and_function(
    module: nn.Module,
    shape: tuple[int, ...],
    types: list[str] | None,
    tolerance: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The same numbers at another batch size, in torch and, of the exported file, in onnxruntime."""
    module = settled(module)
    torch.manual_seed(0)
    lowered = trace(module, torch.randn(shape))
    assert not caplog.records
    x = torch.randn(3, *shape[1:])
    with torch.no_grad():
        expected = module(x)
        found = lowered(x)
    assert found.dtype is expected.dtype
    assert largest_difference(found, expected) <= tolerance
    if types is not None:
        assert op_types(lowered) == types
    model = qt.export_qonnx(lowered)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert largest_difference(run_onnx(model, x)[0], expected) <= 2e-5


class Residual(nn.Module):
    """BatchNormalization, a residual sum in place, pooling, dropout, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8, momentum=0.3))
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.block(x)
        y += x
        y = self.pool(F.relu(y)).mean(dim=(2, 3))
        return self.head(self.drop(y))


class Block(nn.Module):
    """A transformer block as people write it, with sizes taken from the tensors."""

    def __init__(self, width: int = 8, heads: int = 2, length: int = 6) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(11, width)
        self.position = nn.Embedding(length, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, width))
        self.register_buffer("mask", torch.ones(length, length).tril())
        self.head = nn.Linear(width, 11, bias=False)
        self.head.weight = self.embedding.weight  # tied

    def forward(self, tokens: Tensor, scale: Tensor | None = None) -> Tensor:
        _, length = tokens.shape
        assert length <= self.mask.shape[0]
        x = self.embedding(tokens) + self.position(torch.arange(length, device=tokens.device))
        b, t, c = x.size()
        q, k, v = self.qkv(self.norm(x)).split(c, dim=2)
        q, k, v = (z.view(b, t, self.heads, c // self.heads).transpose(1, 2) for z in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.mask[:t, :t] == 0, float("-inf"))
        y = (F.softmax(scores, dim=-1) @ v).transpose(1, 2).contiguous().view(b, t, c)
        x = x + self.project(y)
        if scale is not None:
            x = x * scale
        return self.head(x + self.mlp(x))


def test_a_network_keeps_its_weights_and_names() -> None:
    module = settled(Residual())
    lowered = trace(module, torch.randn(2, 3, 8, 8))
    own = dict(module.state_dict())
    kept = {k for k in own if not k.endswith("num_batches_tracked")}
    assert set(lowered.state_dict()) == kept
    assert all(torch.equal(lowered.state_dict()[k], own[k]) for k in kept)
    assert {n for n, _ in lowered.named_parameters()} == {n for n, _ in module.named_parameters()}
    assert not {p.data_ptr() for p in lowered.parameters()} & {p.data_ptr() for p in module.parameters()}
    names = [n.name for n in qt.export_qonnx(lowered).graph.node]
    assert names == [
        "conv1",
        "bn1",
        "relu",
        "block.0",
        "block.1",
        "add",
        "relu_1",
        "pool",
        "mean",
        "drop",
        "head",
    ]


def test_a_layer_called_twice_has_its_weights_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x).relu())

    module = settled(Twice())
    lowered = trace(module, torch.randn(IMAGE))
    model = qt.export_qonnx(lowered)
    assert [n.name for n in model.graph.node] == [
        "layer.0",
        "layer.1",
        "relu",
        "layer.0_1",
        "layer.1_1",
    ]
    assert len(model.graph.initializer) == 6
    x = torch.randn(3, *IMAGE[1:])
    assert largest_difference(lowered(x), module(x)) <= ROUNDED
    assert largest_difference(run_onnx(model, x)[0], module(x)) <= 2e-5


def test_double_precision_stays() -> None:
    module = Call(lambda x: (x * 0.1 + 1 / 3).clamp(0.1, 0.7))
    x = torch.randn(ROWS, dtype=torch.float64)
    lowered = trace(module, x)
    assert torch.equal(lowered(x), module(x))
    assert np.array_equal(run_onnx(qt.export_qonnx(lowered), x)[0], module(x).numpy())


def test_training_is_the_same() -> None:
    """Gradients, and running statistics with each layer's own momentum, after two steps."""
    module = settled(Residual()).train()
    module.drop.p = 0.0
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    lowered = trace(module, x)
    assert lowered.training
    for net in (module, lowered):
        for _ in range(2):
            net(x).square().mean().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(lowered.get_parameter(name).grad, parameter.grad, rtol=1e-5, atol=1e-6)
    for name, buffer in module.named_buffers():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(lowered.get_buffer(name), buffer, rtol=1e-6, atol=1e-7)


def test_dropout_follows_the_mode() -> None:
    class Functional(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5, self.training)

    for module in (nn.Dropout(0.5), Functional()):
        lowered = trace(module.train(), torch.ones(2, 50))
        x = torch.ones(4, 50)
        assert set(lowered(x).unique().tolist()) == {0.0, 2.0}
        assert torch.equal(lowered.eval()(x), x)


def test_a_frozen_layer_stays_in_its_mode() -> None:
    module = Residual().train()
    module.bn1.eval()
    lowered = trace(module, torch.randn(2, 3, 8, 8))
    modes = {n: m.training for n, m in lowered.named_modules() if isinstance(m, qt.nn.BatchNormalization)}
    assert modes == {"bn1": False, "block.1": True}


def test_a_transformer_block(caplog: pytest.LogCaptureFixture) -> None:
    module = settled(Block())
    lowered = trace(module, torch.randint(0, 11, (2, 6)))
    assert not caplog.records
    tokens = torch.randint(0, 11, (5, 6), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = module(tokens)
        assert largest_difference(lowered(tokens), expected) <= ROUNDED
    assert "head.weight" not in lowered.state_dict()  # tied weights stay one, under the first name
    model = qt.export_qonnx(lowered)
    assert not {"Shape", "Gather"} & {n.op_type for n in model.graph.node if n.name.endswith("Shape")}
    assert largest_difference(run_onnx(model, tokens)[0], expected) <= 2e-5


def test_every_node_is_an_operator_with_the_declared_names() -> None:
    lowered = trace(settled(Block()), torch.randint(0, 11, (2, 6)))
    for node in lowered.graph.nodes:
        if node.op == "call_function" and node.target is not __import__("operator").getitem:
            assert REGISTRY.of_target(node.target) is not None, node
    infos = qt.infer_shapes(lowered)
    assert infos["tokens"].shape == ("batch", 6)
    assert infos["qkv/MatMul"].shape == ("batch", 6, 24)


def test_names_and_inputs_survive_copies_and_pickles() -> None:
    lowered = trace(settled(Residual()), torch.randn(2, 3, 8, 8))
    x = torch.randn(3, 3, 8, 8)
    for other in (copy.deepcopy(lowered), pickle.loads(pickle.dumps(lowered))):
        assert torch.equal(other(x), lowered(x))
        assert list(qt.infer_shapes(other)) == list(qt.infer_shapes(lowered))
        assert largest_difference(run_onnx(qt.export_qonnx(other), x)[0], lowered(x)) <= 2e-5


def test_compiles_to_one_graph() -> None:
    lowered = trace(settled(Residual()), torch.randn(2, 3, 8, 8))
    x = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(lowered, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), lowered(x), rtol=1e-6, atol=1e-6)


def test_the_module_is_not_changed() -> None:
    module = Residual().train()
    before = copy.deepcopy(module.state_dict())
    trace(module, torch.randn(2, 3, 8, 8))
    assert module.training
    assert all(m.training for m in module.modules())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_what_has_no_operator_stays_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(6, 4, batch_first=True)
            self.norm = nn.BatchNorm1d(4, momentum=None)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.rnn(x)
            return torch.fft.fft(self.norm(y[:, -1])).real.erfinv_()

    module = settled(Odd())
    x = torch.rand(2, 5, 6)
    lowered = trace(module, x)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for text in (
        "rnn (LSTM has no ONNX operator here)",
        "norm (a cumulative average",
        "fft_fft (",
        "erfinv (",
    ):
        assert text in record.getMessage()
    other = torch.rand(3, 5, 6)
    torch.testing.assert_close(lowered(other), module(other), rtol=0, atol=0, equal_nan=True)
    with pytest.raises(qt.ExportError, match="local_response_norm has no ONNX operator"):
        qt.export_qonnx(trace(nn.LocalResponseNorm(2), torch.rand(IMAGE)))


def test_a_batch_that_is_written_down_stays(caplog: pytest.LogCaptureFixture) -> None:
    lowered = trace(Call(lambda x: x.view(2, 3, 2).relu()), torch.randn(ROWS))
    assert "the batch size of Call stays as in args" in caplog.text
    assert qt.export_qonnx(lowered).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2


def test_the_batch_can_be_kept() -> None:
    lowered = trace(Call(lambda x: x.view(x.shape[0] * 3, -1)), torch.randn(ROWS), batch="keep")
    assert qt.export_qonnx(lowered).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2


def test_several_inputs_and_outputs() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor, factor: float = 2.0) -> tuple[Tensor, Tensor]:
            return x * factor, x + y

    lowered = trace(Two(), (torch.ones(2, 3), torch.ones(1, 3)))
    model = qt.export_qonnx(lowered)
    dims = [[d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input]
    assert dims == [["batch", 3], [1, 3]]
    assert [i.name for i in model.graph.input] == ["x", "y"]
    first, second = lowered(torch.ones(4, 3), torch.ones(1, 3))
    assert first.tolist() == second.tolist() == [[2.0] * 3] * 4


def test_quantizers_and_operators_in_a_module_stay_themselves() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant = qt.nn.Quant(0.1, 0.0, 4)

        def forward(self, x: Tensor) -> Tensor:
            return qt.ops.trunc(self.quant(x), *(torch.tensor(v) for v in (0.1, 0.0, 4.0, 0.2, 3.0)))

    x = torch.randn(2, 6)
    module = Mixed()
    lowered = trace(module, x)
    assert op_types(lowered) == ["Quant", "Trunc"]
    assert torch.equal(lowered(x), module(x))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x if x.sum() > 0 else -x, "cannot be traced: .*control flow"),
        (lambda x: {"y": x}, "a graph returns a tensor or a tuple of tensors"),
        (lambda x: (x, None), "a graph returns a tensor or a tuple of tensors"),
        (lambda x: x.view(5, 5), "cannot be traced"),
    ],
)
def test_what_cannot_be_traced_is_refused(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(qt.UnsupportedModelError, match=message):
        trace(Call(function), torch.randn(ROWS))


def test_examples_are_needed() -> None:
    with pytest.raises(qt.UnsupportedModelError, match="at least one tensor"):
        trace(nn.ReLU(), ())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0][:, -1])


def test_a_module_that_stays_runs_and_is_refused_by_name_in_an_export() -> None:
    module, x = Recurrent().eval(), torch.randn(3, 5, 4)
    traced = trace(module, torch.randn(2, 5, 4))
    with torch.no_grad():
        torch.testing.assert_close(traced(x), module(x))
    with pytest.raises(qt.ExportError, match="lstm: a module of type LSTM has no ONNX operator"):
        qt.export_qonnx(traced)
