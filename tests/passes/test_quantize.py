"""Float models with quantizers put in: where they go, what they start from, and what the result can do."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.quantize_graph import QuantizeGraph
from qonnx.util.cleanup import cleanup_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import qonnx_torch as qt
from qonnx_torch.lowering import trace
from qonnx_torch.ops.standard.elementwise import mul
from qonnx_torch.passes.quantization.config import (
    AnyQuantizerConfig,
    FloatQuantizerConfig,
    QuantizationConfig,
    QuantizationRule,
    QuantizerConfig,
)
from qonnx_torch.passes.quantization.quantizing import quantize
from qonnx_torch.passes.training import QuantizerTraining

IMAGE = (2, 3, 8, 8)
NOTHING = QuantizationConfig(weights=None, activations=None, inputs=None)


class Mlp(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
        )


class Cnn(nn.Module):
    """BatchNormalization, a residual sum, a depthwise convolution, pooling, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.bn1(self.conv1(x))))
        y = torch.relu(self.bn2(self.conv2(x)) + x)
        return self.head(torch.flatten(y, 1))


class Attention(nn.Module):
    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in self.qkv(self.norm(x)).chunk(3, -1))
        scores = torch.softmax(q @ k.transpose(-2, -1) / (c // self.heads) ** 0.5, -1)
        return x + self.project((scores @ v).transpose(1, 2).reshape(b, t, c))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def quantizers(module: nn.Module) -> dict[str, qt.nn.Quantizer]:
    return {n: m for n, m in module.named_modules() if isinstance(m, qt.nn.Quantizer)}


def bits(quantizer: qt.nn.Quantizer) -> float:
    return float(quantizer.current_parameters()["bit_width"])


def scale_of(quantizer: qt.nn.Quantizer) -> Tensor:
    return quantizer.current_parameters()["scale"]


def in_qonnx(model: onnx.ModelProto, x: Tensor) -> Tensor:
    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    for value in (*fixed.graph.input, *fixed.graph.output, *fixed.graph.value_info):
        for d in value.type.tensor_type.shape.dim:
            if d.dim_param == "batch":
                d.dim_value = len(x)
    results = execute_onnx(ModelWrapper(fixed), {fixed.graph.input[0].name: x.numpy()})
    return torch.from_numpy(results[fixed.graph.output[0].name])


def in_onnxruntime(model: onnx.ModelProto, x: Tensor) -> Tensor:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


# -- whole networks --------------------------------------------------------------------------------


def uniform(weights: AnyQuantizerConfig, bits: int) -> QuantizationConfig:
    return QuantizationConfig(weights, activations=QuantizerConfig(bits))


CONFIGS = {
    "W8A8": QuantizationConfig(),
    "W4A4": uniform(QuantizerConfig(4, granularity="per_channel"), 4),
    "W2A2": uniform(QuantizerConfig(2, scale="mse"), 2),
    "W1A1": uniform(QuantizerConfig(1), 1),
    "lsq": uniform(QuantizerConfig(4, scale="lsq"), 4),
    "fixed point": uniform(QuantizerConfig(6, power_of_two=True), 6),
    "fp8": QuantizationConfig(*[FloatQuantizerConfig()] * 3),
    "asymmetric": QuantizationConfig(
        activations=QuantizerConfig(4, zero_point="asymmetric"), residuals=QuantizerConfig(6)
    ),
}
NETWORKS = {"mlp": (Mlp, (6,)), "cnn": (Cnn, IMAGE[1:]), "attention": (Attention, (5, 8))}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("kind", "shape"), NETWORKS.values(), ids=NETWORKS)
def test_qonnx_and_onnxruntime_compute_what_the_module_does(
    kind: type[nn.Module], shape: tuple[int, ...], config: QuantizationConfig
) -> None:
    module = quantize(made(kind), config, random(4, *shape))
    x = random(3, *shape, seed=1)
    with torch.no_grad():
        expected = module(x)
    model = qt.export_qonnx(module, functions=True)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    report = qt.verify(module, x, reference="qonnx")
    assert report.passed, report
    assert qt.verify(module, x, reference="onnxruntime").passed
    again = qt.import_model(model)
    assert torch.equal(again(x), expected)
    assert set(again.state_dict()) >= {n for n, _ in made(kind).named_parameters()}
    assert in_onnxruntime(model, x).shape == expected.shape == in_qonnx(qt.export_qonnx(module), x).shape


@pytest.mark.parametrize("name", ["W8A8", "W4A4", "W2A2", "W1A1", "lsq", "fixed point"])
def test_a_few_steps_reduce_the_loss(name: str) -> None:
    module = quantize(made(Cnn).train(), CONFIGS[name], random(16, *IMAGE[1:]))
    assert module.training
    x, target = random(16, *IMAGE[1:]), torch.arange(16) % 5
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in module.parameters())
    assert losses[-1] < 0.8 * losses[0], losses


def test_eight_bits_change_little() -> None:
    module, x = made(Cnn), random(32, *IMAGE[1:])
    quantized = quantize(module, args=x)
    with torch.no_grad():
        expected = module(x)
        error = (quantized(x) - expected).square().mean() / expected.square().mean()
    assert 0 < error < 1e-3


# -- placement -------------------------------------------------------------------------------------


def test_where_quantizers_go() -> None:
    module = quantize(made(Cnn), args=random(*IMAGE))
    assert list(quantizers(module)) == [  # in the order in which the graph calls them
        "x_quant",
        "conv1.weight_quant",
        "relu_quant",
        "conv2.weight_quant",
        "relu_1_quant",
        "head.weight_quant",
    ]
    nodes = {n.name: n for n in qt.export_qonnx(module).graph.node}
    assert nodes["pool"].input[0] == "relu_quant"  # before the pool, and read by the sum through it
    assert nodes["relu_quant"].input[0] == "relu"
    assert nodes["add"].input[1] == "pool"
    assert nodes["flatten"].input[0] == "relu_1_quant"
    assert nodes["head"].input[1] == "head.weight_quant"
    signed = {n: q.signed for n, q in quantizers(module).items()}
    assert [n for n, s in signed.items() if not s] == ["relu_quant", "relu_1_quant"]
    assert [n for n, q in quantizers(module).items() if q.narrow] == [n for n in signed if "weight" in n]


def test_a_module_is_quantized_at_every_product_of_attention() -> None:
    module = quantize(made(Attention), args=random(2, 5, 8))
    weights = {"qkv.weight_quant", "project.weight_quant"}
    # One quantizer behind the fused projection serves q, k and v; the scores and the mix have their own.
    assert set(quantizers(module)) == weights | {
        "norm_quant",
        "qkv_quant",
        "softmax_quant",
        "matmul_1_quant",
    }
    assert not module.get_submodule("softmax_quant").signed
    nodes = {n.name: n for n in qt.export_qonnx(module).graph.node}
    assert nodes["qkv/Transpose"].input[0] == "qkv.weight_quant"  # at the parameter itself
    per_channel = QuantizerConfig(4, granularity="per_channel")
    other = quantize(made(Attention), QuantizationConfig(weights=per_channel), random(2, 5, 8))
    assert scale_of(other.get_submodule("qkv.weight_quant")).shape == (24, 1)


def test_residual_sums_share_a_quantizer() -> None:
    config = QuantizationConfig(residuals=QuantizerConfig(6))
    module = quantize(made(Cnn), config, random(*IMAGE))
    calls = [n for n in module.graph.nodes if n.target == "add.input_quant"]
    assert len(calls) == 2
    model = qt.export_qonnx(module)
    pair = [n for n in model.graph.node if n.name.startswith("add.input_quant")]
    assert [list(n.input[1:]) for n in pair] == [list(pair[0].input[1:])] * 2
    inside = {}
    hook = module.get_submodule("bn2").register_forward_hook(lambda m, a, y: inside.update(y=y))
    x = random(*IMAGE)
    module(x)
    hook.remove()
    end = 31 * scale_of(module.get_submodule("add.input_quant"))
    assert end >= 0.8 * inside["y"].abs().max()  # both branches were seen


def test_module_outputs_and_biases() -> None:
    config = QuantizationConfig(outputs=QuantizerConfig(8), biases=QuantizerConfig(16))
    module = quantize(made(Mlp), config, random(4, 6))
    found = quantizers(module)
    assert {"0.bias_quant", "3.bias_quant", "5.bias_quant", "5_quant"} < set(found)
    assert bits(found["5.bias_quant"]) == 16
    x = random(4, 6)
    grid = module(x) / scale_of(found["5_quant"])
    assert torch.allclose(grid, grid.round(), atol=1e-4)
    assert [o.name for o in qt.export_qonnx(module).graph.output] == ["5"]  # an output keeps its name


def test_rules_by_layer_name_and_type() -> None:
    eight, three = QuantizerConfig(8), QuantizerConfig(3)
    config = QuantizationConfig(
        QuantizerConfig(2),
        QuantizerConfig(2),
        QuantizerConfig(2),
        rules=(
            QuantizationRule(layers="first", weights=eight, activations=eight),
            QuantizationRule(layers="last", weights=eight),
            QuantizationRule(names=("hea?",), activations=three),
            QuantizationRule(op_types=("Conv",), names=("conv2",), weights=None),
        ),
    )
    found = quantizers(quantize(made(Cnn), config, random(*IMAGE)))
    widths = {n: bits(q) for n, q in found.items()}
    assert widths == {
        "conv1.weight_quant": 8,
        "head.weight_quant": 8,
        "x_quant": 8,
        "relu_quant": 2,
        "relu_1_quant": 3,
    }


def test_a_pattern_fits_what_lies_below() -> None:
    rule = QuantizationRule(names=("project",), weights=QuantizerConfig(3))
    found = quantizers(quantize(made(Attention), QuantizationConfig(rules=(rule,)), random(2, 5, 8)))
    assert bits(found["project.weight_quant"]) == 3
    assert bits(found["qkv.weight_quant"]) == 8


def test_one_value_wanted_in_two_ways_is_refused() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(x)
            return self.a(x) + self.b(x)

    rule = QuantizationRule(names=("b",), activations=QuantizerConfig(4))
    with pytest.raises(qt.QonnxTorchError, match=r"relu is read by a, which wants .*, and by b, which wants"):
        quantize(Fork(), QuantizationConfig(rules=(rule,)), random(2, 6))
    exact = QuantizationRule(names=("b",), positions={("input", 0): QuantizerConfig(4)})
    module = quantize(Fork(), QuantizationConfig(rules=(exact,)), random(2, 6))
    assert len(quantizers(module)) == 3  # b reads what a reads, quantized once


def test_an_imported_model_with_quantizers_is_completed(models_folder: Any) -> None:
    module = qt.import_model(models_folder / "brevitas_mlp_w2a2.onnx")
    before = set(quantizers(module))
    again = quantize(
        module, QuantizationConfig(outputs=QuantizerConfig(8)), random(4, *_input_shape(module)[1:])
    )
    added = set(quantizers(again)) - before
    assert before < set(quantizers(again))
    assert len(added) <= 2, added  # the output, and the input where the file has none
    assert not any("weight" in n for n in added)
    for name in before:
        own, other = module.get_submodule(name), again.get_submodule(name)
        assert torch.equal(scale_of(own), scale_of(other))


@pytest.mark.parametrize("fuse", [False, True])
def test_integers_of_a_qcdq_file_are_quantized_values(models_folder: Any, fuse: bool) -> None:
    module = qt.import_model(models_folder / "brevitas_mlp_qcdq.onnx", fuse_qdq=fuse)
    again = quantize(module, args=random(4, *_input_shape(module)[1:]))
    assert len(quantizers(again)) == len(quantizers(module)) == (7 if fuse else 0)


def _input_shape(module: torch.fx.GraphModule) -> tuple[int, ...]:
    shape = next(iter(qt.infer_shapes(module).values())).shape
    return tuple(d if isinstance(d, int) else 4 for d in shape)


# -- scales ----------------------------------------------------------------------------------------


def test_weights_start_from_themselves() -> None:
    """max |w| / 7 per channel; mean |w| for one bit; 2 mean |w| / sqrt(7) for LSQ; the next power of two."""
    module = made(Mlp)
    w = module[3].weight.detach()
    cases = {
        7: (QuantizerConfig(4, granularity="per_channel", scale="max"), w.abs().amax(1, keepdim=True) / 7),
        1: (QuantizerConfig(1), w.abs().mean()),
        2: (QuantizerConfig(4, scale="lsq"), 2 * w.abs().mean() / 7**0.5),
        3: (
            QuantizerConfig(4, scale="max", power_of_two=True),
            torch.exp2(torch.ceil(torch.log2(w.abs().max() / 7))),
        ),
        4: (FloatQuantizerConfig(scale="max"), w.abs().max() / 448),
        5: (QuantizerConfig(4, scale=0.125), torch.tensor(0.125)),
    }
    for config, expected in cases.values():
        weights = QuantizationConfig(weights=config, activations=None, inputs=None)
        found = quantize(module, weights, random(4, 6)).get_submodule("3.weight_quant")
        torch.testing.assert_close(scale_of(found), expected, rtol=1e-6, atol=0)


def test_activations_are_calibrated_on_float_values() -> None:
    module = made(Mlp)
    batches = [random(4, 6, seed=1), random(4, 6, seed=2)]
    largest_value = QuantizerConfig(8, scale="max")
    config = QuantizationConfig(activations=largest_value, inputs=largest_value)
    labelled = [(b, torch.zeros(4)) for b in batches]
    found = quantize(module, config, args=random(1, 6, seed=3), calibration=labelled)
    with torch.no_grad():
        weight = found.get_submodule("0.weight_quant")(found.get_parameter("0.weight"))
        hidden = torch.cat([nn.functional.linear(b, weight, module[0].bias) for b in batches])
        largest = module[2](module[1](hidden)).max()
    torch.testing.assert_close(scale_of(found.get_submodule("2_quant")), largest / 255, rtol=1e-5, atol=0)
    largest = torch.cat(batches).abs().max()
    torch.testing.assert_close(scale_of(found.get_submodule("input_quant")), largest / 128, rtol=1e-6, atol=0)


def test_asymmetric_activations_cover_their_range() -> None:
    activations = QuantizerConfig(4, scale="max", zero_point="asymmetric")
    x = random(64, 6) + 2
    module = quantize(made(Mlp), QuantizationConfig(activations=activations, inputs=activations), x)
    quantizer = quantizers(module)["input_quant"]
    low, high = min(float(x.min()), 0.0), float(x.max())
    parameters = quantizer.current_parameters()
    assert not quantizer.signed
    assert float(parameters["scale"]) == pytest.approx((high - low) / 15, rel=1e-6)
    assert float(parameters["zero_point"]) == round(-low / float(parameters["scale"]))


def test_how_quantizers_train_by_default() -> None:
    def kinds(config: AnyQuantizerConfig) -> list[tuple[str, str]]:
        found = quantizers(quantize(made(Mlp), QuantizationConfig(config, config, config), random(4, 6)))
        return [(found[n].gradient, found[n].scale_kind) for n in ("3.weight_quant", "2_quant")]

    assert kinds(QuantizerConfig(4)) == [("ste", "threshold")] * 2
    assert kinds(QuantizerConfig(4, scale="max")) == [("pass", "statistics"), ("ste", "threshold")]
    assert kinds(QuantizerConfig(4, scale="lsq")) == [("lsq", "step")] * 2
    assert kinds(QuantizerConfig(4, power_of_two=True)) == [("ste", "power_of_two")] * 2
    assert kinds(QuantizerConfig(4, scale=0.1)) == [("pass", "frozen"), ("ste", "frozen")]
    assert kinds(QuantizerConfig(4, training=QuantizerTraining("pact", "log2"))) == [("pact", "log2")] * 2


def test_explicit_scales_need_no_data() -> None:
    fixed = QuantizerConfig(8, scale=0.0625)
    config = QuantizationConfig(QuantizerConfig(4), fixed, fixed)
    imported = qt.import_model(qt.export_qonnx(trace(made(Mlp), random(2, 6))))
    module = quantize(imported, config)
    assert {float(scale_of(q)) for n, q in quantizers(module).items() if "weight" not in n} == {0.0625}


# -- the result ------------------------------------------------------------------------------------


def test_the_module_is_not_changed_and_nothing_is_shared() -> None:
    traced = made(Cnn)
    imported = qt.import_model(qt.export_qonnx(trace(traced, random(*IMAGE))))
    for module in (traced, imported):
        before = copy.deepcopy(module.state_dict())
        quantized = quantize(module, args=random(*IMAGE))
        assert list(module.state_dict()) == list(before)
        assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
        own = {t.data_ptr() for t in module.state_dict().values()}
        assert not own & {t.data_ptr() for t in quantized.state_dict().values()}


def test_weights_keep_their_keys() -> None:
    module = made(Cnn)
    quantized = quantize(module, args=random(*IMAGE))
    own = {k for k in module.state_dict() if not k.endswith("num_batches_tracked")}
    assert own < set(quantized.state_dict())
    missing, unexpected = quantized.load_state_dict(module.state_dict(), strict=False)
    assert all("_quant." in k for k in missing)
    assert all(k.endswith("num_batches_tracked") for k in unexpected)


def test_copies_pickles_and_checkpoints() -> None:
    module = quantize(made(Cnn), CONFIGS["W4A4"], random(*IMAGE))
    x = random(3, *IMAGE[1:], seed=4)
    names = [v.name for v in qt.export_qonnx(module).graph.value_info]
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), module(x))
        assert [v.name for v in qt.export_qonnx(other).graph.value_info] == names
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    fresh = quantize(made(Cnn), CONFIGS["W4A4"], random(*IMAGE, seed=5))
    fresh.load_state_dict(torch.load(buffer))
    assert torch.equal(fresh(x), module(x))


def test_compiles_to_one_graph() -> None:
    module = quantize(made(Cnn).train(), CONFIGS["W4A4"], random(*IMAGE))
    x = random(*IMAGE, seed=6)
    expected = copy.deepcopy(module)(x)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    result = compiled(x)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    result.sum().backward()


def test_other_passes_read_the_result() -> None:
    module = quantize(made(Cnn), CONFIGS["W4A4"], random(*IMAGE))
    infos = qt.infer_shapes(module)
    assert infos["relu_quant"].shape == ("batch", 8, 8, 8)
    layers = {c.name: (c.input_type.name, c.weight_type.name) for c in qt.inference_cost(module).layers}
    assert set(layers) == {"conv1", "conv2", "head"}


# -- QuantizeGraph of qonnx ------------------------------------------------------------------------


def float_model(make_model: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "W1"], ["c1"], name="Conv_0"),
        helper.make_node("Relu", ["c1"], ["r"], name="Relu_0"),
        helper.make_node("Conv", ["r", "W2"], ["c2"], name="Conv_1"),
        helper.make_node("Flatten", ["c2"], ["f"], name="Flatten_0"),
        helper.make_node("Gemm", ["f", "W3", "b"], ["y"], name="Gemm_0", transB=1),
    ]
    shapes = {"W1": (4, 2, 3, 3), "W2": (4, 4, 3, 3), "W3": (5, 16), "b": (5,)}
    weights = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    return make_model(nodes, inputs={"x": (1, 2, 6, 6)}, initializers=weights)


A, B = (0.25, 0, 4, 0, 1, "ROUND"), (0.125, 1, 6, 1, 1, "FLOOR")
MAPS = {
    "names": {"name": {"Conv_0": [(("input", 0), A), (("input", 1), B)], "Conv_1": [(("output", 0), A)]}},
    "types": {
        "op_type": {"Gemm": [(("input", i), p) for i, p in enumerate((A, B, B))] + [(("output", 0), A)]}
    },
    "both": {
        "name": {"Conv_0": [(("input", 0), B), (("input", 1), A), (("output", 0), A)]},
        "op_type": {"Conv": [(("input", 0), A), (("input", 1), B)], "Relu": [(("input", 0), B)]},
    },
}


@pytest.mark.parametrize("positions", MAPS.values(), ids=MAPS)
def test_positions_do_what_qonnx_does(make_model: Callable[..., onnx.ModelProto], positions: Any) -> None:
    model = float_model(make_model)
    reference = cleanup_model(ModelWrapper(model)).transform(QuantizeGraph(positions))
    x = random(1, 2, 6, 6, seed=7)
    expected = next(iter(execute_onnx(reference, {reference.graph.input[0].name: x.numpy()}).values()))

    def changes(entries: Any) -> dict[Any, QuantizerConfig]:
        keys = ("scale", "zero_point", "bit_width", "narrow", "signed", "rounding_mode")
        return {p: QuantizerConfig(**dict(zip(keys, values, strict=True))) for p, values in entries}

    rules = [
        QuantizationRule(op_types=(t,), positions=changes(p)) for t, p in positions.get("op_type", {}).items()
    ]
    rules += [
        QuantizationRule(names=(n,), positions=changes(p)) for n, p in positions.get("name", {}).items()
    ]
    config = QuantizationConfig(weights=None, activations=None, inputs=None, rules=tuple(rules))
    module = quantize(qt.import_model(model), config)
    exported = qt.export_qonnx(module)
    count = sum(n.op_type == "Quant" for n in reference.graph.node)
    assert sum(n.op_type == "Quant" for n in exported.graph.node) == count
    found = next(iter(execute_onnx(ModelWrapper(exported), {"x": x.numpy()}).values()))
    np.testing.assert_array_equal(found, expected)
    torch.testing.assert_close(module(x), torch.from_numpy(expected), rtol=2e-6, atol=2e-6)


def test_an_imported_float_model(make_model: Callable[..., onnx.ModelProto]) -> None:
    module = quantize(qt.import_model(float_model(make_model)), CONFIGS["W4A4"], random(1, 2, 6, 6))
    assert set(quantizers(module)) == {"x_quant", "W1_quant", "W2_quant", "W3_quant", "r_quant", "c2_quant"}
    assert scale_of(module.get_submodule("W3_quant")).shape == (5, 1)
    assert not module.get_submodule("r_quant").signed
    x = random(1, 2, 6, 6, seed=1)
    assert qt.verify(module, x, reference="qonnx").passed
    assert qt.verify(module, x, reference="onnxruntime").passed
    model = qt.export_qonnx(pickle.loads(pickle.dumps(module)))
    assert {"W1", "W2", "W3", "b"} < {i.name for i in model.graph.initializer}
    names = {name for node in model.graph.node for name in node.output}
    assert {"c1", "r", "c2", "f", "y"} <= names


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuantizerConfig(0.5), "bit_width 0.5: a quantizer has at least 1 bit"),
        (lambda: QuantizerConfig(scale="median"), "scale 'median' is neither a number nor a method; known"),
        (lambda: QuantizerConfig(scale=-1.0), "a scale is positive"),
        (lambda: QuantizerConfig(granularity="per_row"), "granularity 'per_row' does not exist"),  # type: ignore[arg-type]
        (lambda: QuantizerConfig(zero_point="middle"), "zero_point 'middle'"),  # type: ignore[arg-type]
        (lambda: QuantizerConfig(rounding_mode="UPWARDS"), "rounding_mode 'UPWARDS' does not exist"),
        (lambda: QuantizerConfig(scale=0.1, power_of_two=True), "a power of two is taken only"),
        (lambda: FloatQuantizerConfig(0, 3), "E0M3: a minifloat has at least one exponent bit"),
        (lambda: QuantizationRule(op_types="Conv"), r"op_types is a tuple of strings: \('Conv',\)"),  # type: ignore[arg-type]
        (lambda: QuantizationRule(layers="middle"), "layers 'middle' does not exist"),  # type: ignore[arg-type]
        (lambda: QuantizationRule(positions={("side", 0): None}), "it is .'input', i. or"),  # type: ignore[dict-item]
    ],
)
def test_impossible_configurations(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(qt.QonnxTorchError, match=message):
        make()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (QuantizationConfig(op_types=("Convolution",)), "operator type 'Convolution' does not exist"),
        (
            QuantizationConfig(rules=(QuantizationRule(op_types=("Tanh",)),)),
            r"no operator fits rule\(op_types",
        ),
        (
            QuantizationConfig(rules=(QuantizationRule(names=("conv9*",)),)),
            r"conv9\*.*; there are conv1, bn1, relu",
        ),
        (
            QuantizationConfig(rules=(QuantizationRule(names=("relu",), positions={("input", 3): None}),)),
            r"relu \(Relu\) has no input 3 to quantize",
        ),
        (
            QuantizationConfig(weights=QuantizerConfig(scale=(0.1, 0.2), granularity="per_channel")),
            "2 scales were given for 8",
        ),
        (QuantizationConfig(activations=QuantizerConfig(options={"speed": 1})), "has no option 'speed'"),
        (
            QuantizationConfig(weights=FloatQuantizerConfig(scale="lsq")),
            "conv1.weight_quant: 'lsq' is a rule for integers",
        ),
    ],
)
def test_configurations_that_do_not_fit(config: QuantizationConfig, message: str) -> None:
    with pytest.raises(qt.QonnxTorchError, match=message):
        quantize(made(Cnn), config, random(*IMAGE))


def test_no_data_is_refused() -> None:
    imported = qt.import_model(qt.export_qonnx(trace(made(Mlp), random(2, 6))))
    with pytest.raises(
        qt.QonnxTorchError, match=r"3 quantizers .* take their scale from data \(input_quant, .*give"
    ):
        quantize(imported)
    with pytest.raises(qt.QonnxTorchError, match="Mlp is traced: give example inputs"):
        quantize(made(Mlp))
    with pytest.raises(qt.QonnxTorchError, match="there is no batch to calibrate on"):
        quantize(imported, calibration=[])
    with pytest.raises(qt.QonnxTorchError, match=r"quantizer input_quant: .*NaN"):
        quantize(imported, args=torch.full((2, 6), float("nan")))


def test_config_changes_nothing_where_nothing_is_asked() -> None:
    module = made(Mlp)
    x = random(4, 6)
    quantized = quantize(module, NOTHING, x)
    assert not quantizers(quantized)
    torch.testing.assert_close(quantized(x), module(x), rtol=1e-6, atol=1e-6)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))])
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.slope = nn.PReLU(4)
        self.act = nn.ReLU6()
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.blocks[0](x))
        return self.fc(self.act(x + self.slope(self.conv(x))).mean((2, 3)))


def test_a_training_resumes_after_export_and_import() -> None:
    """The same keys in the same order, so that module and optimizer resume; shared quantizers stay shared."""
    threshold = QuantizerTraining("ste", "threshold")
    config = QuantizationConfig(residuals=QuantizerConfig(8))
    module = quantize(Residual(), config, random(8, 3, 8, 8))
    x, target = random(8, 3, 8, 8, seed=5), torch.arange(8) % 5

    def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(module(x), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    optimizer = torch.optim.Adam(module.train().parameters(), lr=1e-2)
    train(module, optimizer, 3)
    training = qt.TrainingConfig(threshold, threshold)
    again = qt.import_model(qt.export_qonnx(module), training=training).train()
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in module.named_parameters()]
    again.load_state_dict(module.state_dict())
    assert again.get_submodule("add.input_quant") is not None
    assert sum(n.target == "add.input_quant" for n in again.graph.nodes) == 2
    resumed = torch.optim.Adam(again.parameters(), lr=1e-2)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(again, resumed, 3) == train(module, optimizer, 3)


def test_a_kept_batch_runs_in_qonnx() -> None:
    x = random(4, 3, 8, 8)
    module = quantize(Residual().eval(), args=x, batch="keep")
    model = ModelWrapper(qt.export_qonnx(module))
    (result,) = execute_onnx(model, {model.graph.input[0].name: x.numpy()}).values()
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(result), module(x), rtol=1e-5, atol=1e-5)


# -- values of only zeros, other dtypes, tables, nothing at all -------------------------------------


class ZeroHead(nn.Module):
    """What trains from zero: a head and its bias; an input of zeros, and a Relu that gives only zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.state, self.dead, self.head = (nn.Linear(6, 6) for _ in range(4))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x) + self.state(x * 0)
        return self.head(y) + self.dead(torch.relu(y - 1e3))


@pytest.mark.parametrize(
    ("config", "weight", "relu"),
    [
        (QuantizerConfig(8), 1 / 127, 1 / 255),
        (QuantizerConfig(4, scale="lsq"), 1 / 7, 1 / 15),
        (QuantizerConfig(4, power_of_two=True), 1 / 4, 1 / 8),  # up, from 1 / 7 and 1 / 15
        (QuantizerConfig(8, granularity="per_channel", scale="max"), 1 / 127, 1 / 255),
        (FloatQuantizerConfig(), 1 / 448, 1 / 448),
    ],
)
def test_zeros_start_with_the_range_from_minus_one_to_one(
    config: AnyQuantizerConfig, weight: float, relu: float
) -> None:
    module, x = made(ZeroHead), random(4, 6)
    whole = QuantizationConfig(config, config, config, biases=config)
    with pytest.warns(UserWarning, match="it starts with the range") as seen:
        quantized = quantize(module, whole, x)
    named = {str(w.message).split(":")[0].removeprefix("quantizer ") for w in seen}
    assert named == {"head.weight_quant", "head.bias_quant", "relu_quant", "mul_quant"}
    for w in seen:
        assert "are 0; it starts with the range -1 to 1: calibrate it once" in str(w.message)
    for name, scale in {"head.weight_quant": weight, "head.bias_quant": weight, "relu_quant": relu}.items():
        own = quantized.get_submodule(name).scale  # as it was found; a statistic follows the zeros
        torch.testing.assert_close(own, torch.full_like(own, scale), rtol=1e-6, atol=0)
    weights = quantized.get_submodule("head.weight_quant")(quantized.get_parameter("head.weight"))
    assert not weights.any()
    quantized.train()(x).sum().backward()
    assert quantized.get_parameter("head.weight").grad.abs().sum() > 0


def test_zeros_on_an_asymmetric_grid() -> None:
    config = QuantizerConfig(8, scale="max", zero_point="asymmetric")
    with pytest.warns(UserWarning, match="input_quant: all values"):
        module = quantize(made(Mlp), QuantizationConfig(activations=config, inputs=config), torch.zeros(2, 6))
    found = module.get_submodule("input_quant").current_parameters()
    assert float(found["scale"]) == pytest.approx(2 / 255)
    assert abs(float(found["zero_point"]) - 127.5) == 0.5  # 0 - -1 / (2 / 255) is a tie


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("config", [CONFIGS["W8A8"], CONFIGS["W4A4"], CONFIGS["fp8"], CONFIGS["W1A1"]])
def test_other_dtypes(dtype: torch.dtype, config: QuantizationConfig) -> None:
    module, x = made(Cnn).to(dtype), random(*IMAGE).to(dtype)
    quantized = quantize(module, config, x)
    for quantizer in quantizers(quantized).values():
        current = quantizer.current_parameters()
        assert current["scale"].dtype is dtype
        assert all(v.dtype is torch.float32 for n, v in current.items() if n != "scale")
    result = quantized(x)
    assert result.dtype is dtype
    if dtype is not torch.bfloat16:  # which ONNX's Conv and MaxPool do not take
        assert torch.equal(qt.import_model(qt.export_qonnx(quantized))(x), result)
    result.float().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in quantized.parameters() if p.grad is not None)
    # The scales are those of the same network in float32, to the rounding of the dtype.
    other = quantizers(quantize(made(Cnn), config, random(*IMAGE)))
    for name, quantizer in quantizers(quantized).items():
        expected = scale_of(other[name])
        close = {torch.float16: 0.03, torch.bfloat16: 0.1, torch.float64: 1e-5}[dtype]
        torch.testing.assert_close(scale_of(quantizer).float(), expected, rtol=close, atol=1e-9)


class Embedded(nn.Module):
    """Tokens to tokens; the head is tied to the embedding where asked for."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(self.table(tokens))))


TOKENS = torch.arange(10).reshape(2, 5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_embeddings_are_weights(tied: bool, granularity: Any) -> None:
    torch.manual_seed(0)
    weights = QuantizerConfig(4, granularity=granularity, scale="max")
    config = QuantizationConfig(weights, QuantizerConfig(8))
    module = quantize(Embedded(tied), config, TOKENS)
    table = module.get_submodule("table.weight_quant")
    assert (bits(table), table.narrow, table.gradient) == (4, True, "pass")
    rows = module.get_parameter("table.weight").detach().abs()
    largest = rows.amax() if granularity == "per_tensor" else rows.amax(1, keepdim=True)  # as Brevitas' rows
    torch.testing.assert_close(scale_of(table), largest / 7)
    assert bits(module.get_submodule("relu_quant")) == 8
    assert ("head.weight_quant" in quantizers(module)) != tied
    assert qt.verify(module, TOKENS, reference="onnxruntime").passed


def test_a_tied_embedding_follows_the_operator_whose_weight_it_is() -> None:
    last = QuantizationRule(layers="last", weights=QuantizerConfig(6))
    config = QuantizationConfig(QuantizerConfig(4), rules=(last,))
    found = quantizers(quantize(Embedded(), config, TOKENS))
    assert (bits(found["table.weight_quant"]), bits(found["body.weight_quant"])) == (6, 4)
    own = QuantizationRule(op_types=("Gather",), weights=QuantizerConfig(3))
    found = quantizers(quantize(Embedded(False), QuantizationConfig(rules=(own,)), TOKENS))
    assert (bits(found["table.weight_quant"]), bits(found["head.weight_quant"])) == (3, 8)
    none = QuantizationConfig(weights=None)
    assert set(quantizers(quantize(Embedded(), none, TOKENS))) == {"relu_quant"}


def test_two_readers_that_want_a_table_differently_are_refused() -> None:
    class Two(Embedded):
        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.table(tokens)) + self.body(self.table(tokens)).sum()

    rule = QuantizationRule(names=("head",), weights=QuantizerConfig(4))
    with pytest.raises(
        qt.QonnxTorchError,
        match=r"table_weight is read by head, which wants .*=4.* and by body/MatMul, which wants .*=8",
    ):
        quantize(Two(False), QuantizationConfig(rules=(rule,)), TOKENS)


@pytest.mark.parametrize(
    ("module", "config", "message"),
    [
        (nn.ReLU(), None, "op_types of the configuration are Conv, .*MatMul, and it has only Relu"),
        (nn.LSTM(6, 4), None, "only calls that have no ONNX operator"),
        (nn.Linear(6, 3), QuantizationConfig(op_types=("Conv",)), "are Conv, and it has only Gemm"),
        (
            nn.Linear(6, 3),
            QuantizationConfig(None, None, None, biases=None, residuals=QuantizerConfig(8)),
            "asks for no quantizer at its Gemm",
        ),
    ],
)
def test_nothing_to_quantize_is_a_warning(module: nn.Module, config: Any, message: str) -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            return y[0] if isinstance(y, tuple) else y

    with pytest.warns(UserWarning, match=f"nothing in the module was quantized: .*{message}"):
        assert not quantizers(quantize(Root(), config, random(4, 6)))


# -- layers that compute more than their class says -------------------------------------------------


def test_pruned_weights_are_quantized_behind_their_mask() -> None:
    module = made(Mlp)
    prune.l1_unstructured(module[3], "weight", 0.5)
    x = random(4, 6)
    quantized = quantize(module.train(), CONFIGS["W4A4"], x)
    zeros = module[3].weight_mask == 0
    optimizer = torch.optim.SGD(quantized.parameters(), lr=0.1)
    before = quantized.get_parameter("3.weight_orig").detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        quantized(x).square().sum().backward()
        optimizer.step()
    after = quantized.get_parameter("3.weight_orig").detach()
    assert torch.equal(after[zeros], before[zeros])
    assert not torch.equal(after[~zeros], before[~zeros])
    (call,) = (n for n in quantized.graph.nodes if n.target == "3.mul_quant")
    assert call.args[0].target is mul
    assert not [n for n in quantizers(quantized) if n.startswith("3.weight_")]  # neither factor is quantized
    assert qt.verify(quantized.eval(), x, reference="qonnx").passed


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_weights_are_quantized_as_they_are_used(wrap: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(wrap(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)).eval()
    largest = QuantizationConfig(weights=QuantizerConfig(4, scale="max"))
    quantized = quantize(module, largest, random(4, 6))
    (name,) = (n for n in quantizers(quantized) if n.startswith("0."))  # not the products of the norm too
    scale = scale_of(quantized.get_submodule(name))
    torch.testing.assert_close(scale, module[0].weight.detach().abs().max() / 7)
    assert qt.verify(quantized, random(4, 6), reference="qonnx").passed


def test_compiled_modules() -> None:
    module, x = made(Mlp), random(4, 6)
    quantized = quantize(torch.compile(module, backend="eager"), args=x)
    assert set(quantized.state_dict()) == set(quantize(module, args=x).state_dict())


def test_a_compiled_import_keeps_its_names() -> None:
    imported = qt.import_model(qt.export_qonnx(trace(made(Mlp), random(2, 6))))
    compiled = torch.compile(imported)
    x = random(4, 6)
    found = quantize(compiled, args=x)  # not traced: the nodes and names are those of the file
    assert quantizers(found).keys() == quantizers(quantize(imported, args=x)).keys()
    assert torch.equal(found(x), quantize(imported, args=x)(x))
