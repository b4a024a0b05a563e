"""Layers that compute more than their class says: hooks, pruning, parametrizations, torch.compile."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as spectral_norm_hook
from torch.nn.utils import weight_norm as weight_norm_hook

import qonnx_torch as qt
from qonnx_torch.lowering import trace

ROWS, IMAGE = (4, 6), (2, 3, 6, 6)


def doubled(module: nn.Module, when: str) -> nn.Module:
    if when == "after":
        module.register_forward_hook(lambda m, args, y: 2 * y)
    else:
        module.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    return module


def pruned(module: nn.Module) -> nn.Module:
    return prune.l1_unstructured(module, "weight", 0.5)


class Halved(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w / 2


def halved_twice(module: nn.Module) -> nn.Module:
    for _ in range(2):
        nn.utils.parametrize.register_parametrization(module, "weight", Halved())
    return module


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "hook": (lambda: doubled(nn.Linear(6, 3), "after"), ROWS),
    "pre-hook": (lambda: doubled(nn.Conv2d(3, 4, 3), "before"), IMAGE),
    "hook of an activation": (lambda: doubled(nn.PReLU(), "after"), ROWS),
    "hook of a normalization": (lambda: doubled(nn.BatchNorm2d(3), "after"), IMAGE),
    "pruned": (lambda: pruned(nn.Conv2d(3, 4, 3)), IMAGE),
    "parametrized twice": (lambda: halved_twice(nn.Linear(6, 3)), ROWS),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(6, 3)), ROWS),
    "weight_norm of all": (lambda: parametrizations.weight_norm(nn.Linear(6, 3), dim=None), ROWS),
    "weight_norm along 1": (lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3), dim=1), IMAGE),
    "weight_norm by hook": (lambda: weight_norm_hook(nn.Conv2d(3, 4, 3)), IMAGE),
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), IMAGE),
    "spectral_norm by hook": (lambda: spectral_norm_hook(nn.Linear(6, 3)), ROWS),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("inside", [True, False], ids=["layer", "root"])
@pytest.mark.parametrize("name", CASES)
def test_the_same_numbers_and_gradients(name: str, inside: bool) -> None:
    make, shape = CASES[name]
    torch.manual_seed(0)
    module = make()
    module = (nn.Sequential(module, nn.Tanh()) if inside else module).eval()
    x = torch.randn(3, *shape[1:])
    module(x)  # the result that a hook leaves in an attribute has gradients now
    traced = trace(module, torch.randn(shape))
    expected = module(x)
    torch.testing.assert_close(traced(x), expected, rtol=1e-6, atol=1e-6)
    expected.square().sum().backward()
    traced(x).square().sum().backward()
    own = dict(module.named_parameters())
    assert set(own) == {n for n, _ in traced.named_parameters()}
    for key, parameter in traced.named_parameters():
        torch.testing.assert_close(parameter.grad, own[key].grad, rtol=1e-5, atol=1e-5)
    again = qt.import_model(qt.export_qonnx(traced))
    torch.testing.assert_close(again(x), expected, rtol=1e-6, atol=1e-6)


def test_a_kept_module_keeps_its_hooks(caplog: pytest.LogCaptureFixture) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(6, 4)
            self.lstm.register_forward_hook(lambda m, args, y: (y[0] * 2, y[1]))

        def forward(self, x: Tensor) -> Any:
            return self.lstm(x)[0]

    module, x = Recurrent(), torch.randn(5, 2, 6)
    traced = trace(module, x, batch="keep")
    assert "LSTM has no ONNX operator here" in caplog.text
    assert torch.equal(traced(x), module(x))


def compiled_inside() -> nn.Module:
    return nn.Sequential(torch.compile(nn.Linear(6, 3), backend="eager"), nn.ReLU())


def compiled_in_place() -> nn.Module:
    module = nn.Sequential(nn.Sequential(nn.Linear(6, 3), nn.ReLU()))
    module.compile(backend="eager")
    module[0].compile(backend="eager")
    return module


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.compile(nn.Sequential(nn.Linear(6, 3), nn.ReLU()), backend="eager"),
        compiled_inside,
        compiled_in_place,
    ],
    ids=["whole", "inside", "in place"],
)
def test_what_torch_compile_gives_is_traced_as_what_it_was(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module, x = make(), torch.randn(5, 6)
    module(x)
    traced = trace(module, torch.randn(ROWS))
    assert [n.op_type for n in qt.export_qonnx(traced).graph.node] == ["Gemm", "Relu"]
    torch.testing.assert_close(traced(x), module(x), rtol=1e-6, atol=1e-6)
    whole = {k.removeprefix("_orig_mod.") for k in module.state_dict()}
    assert set(traced.state_dict()) == whole
    assert copy.deepcopy(traced)(x).shape == (5, 3)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_is_refused() -> None:
    scripted = torch.jit.trace(nn.Linear(6, 3), torch.randn(ROWS))
    for module, name in ((scripted, "TopLevelTracedModule"), (nn.Sequential(nn.ReLU(), scripted), "1")):
        with pytest.raises(qt.UnsupportedModelError, match=f"{name} is TorchScript, .* give the nn.Module"):
            trace(module, torch.randn(ROWS))
        with pytest.raises(qt.UnsupportedModelError, match="is TorchScript"):
            qt.quantize(module, args=torch.randn(ROWS))
