"""Compiled quantizers compute, and differentiate, what eager ones do; on CUDA too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qonnx_torch import ops
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.ops.quantizers import compilation
from qonnx_torch.ops.quantizers.compilation import exact_options

BITS = 3.0
SCALES = {"per tensor": torch.tensor(0.3), "per channel": torch.linspace(0.1, 1.1, 6).reshape(6, 1, 1)}


def values(*shape: int, step: float = 0.3) -> Tensor:
    """Random values in and out of range, ties, and values half a step outside."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) * 4 * step
    ties = torch.randint(-12, 13, shape, generator=generator) / 2 * step
    return torch.where(torch.rand(shape, generator=generator) < 0.4, ties, x)


@pytest.fixture
def reset() -> None:
    """Forgets what other tests compiled."""
    torch._dynamo.reset()


@pytest.mark.parametrize("gradient", ops.GRADIENTS)
@pytest.mark.parametrize("scale", ["per tensor", "per channel"])
@pytest.mark.usefixtures("reset")
def test_compiled_equals_eager(gradient: str, scale: str) -> None:
    def function(x: Tensor, s: Tensor, z: Tensor, b: Tensor) -> Tensor:
        return ops.quant(x, s, z, b, one_bit=False, gradient=gradient)

    compiled = torch.compile(function, fullgraph=True, options=exact_options())
    x = torch.cat([values(4, 6, 5, 7), torch.tensor([-0.0, 0.0]).expand(4, 6, 5, 2)], 3)
    leaves = [t.clone().requires_grad_() for t in (x, SCALES[scale], torch.tensor(0.75), torch.tensor(BITS))]
    eager = [t.detach().clone().requires_grad_() for t in leaves]
    y, expected = compiled(*leaves), function(*eager)
    assert torch.equal(y.view(torch.int32), expected.view(torch.int32))
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    y.backward(grad)
    expected.backward(grad)
    assert torch.equal(leaves[0].grad, eager[0].grad)
    for a, b in zip(leaves[1:], eager[1:], strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-3)


@pytest.mark.usefixtures("reset")
def test_compiled_bipolar_equals_eager() -> None:
    leaves = [values(4, 6, 5, 7).requires_grad_(), torch.tensor(0.3, requires_grad=True)]
    compiled = torch.compile(lambda x, s: ops.bipolar_quant(x, s, gradient="ste"), fullgraph=True)
    y, expected = compiled(*leaves), ops.bipolar_quant(*leaves, gradient="ste")
    assert torch.equal(y, expected)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    dx, ds = torch.autograd.grad(y, leaves, grad)
    expected_dx, expected_ds = torch.autograd.grad(expected, leaves, grad)
    assert torch.equal(dx, expected_dx)
    torch.testing.assert_close(ds, expected_ds, rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("reset")
def test_compiled_once_for_every_batch_size() -> None:
    def function(x: Tensor, s: Tensor) -> Tensor:
        return ops.quant(x, s, 0.0, 4, gradient="lsq", elements=x.numel())

    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    s = torch.tensor(0.3, requires_grad=True)
    for batch in (5, 9, 200):
        x = values(batch, 7).requires_grad_()
        dx, ds = torch.autograd.grad(compiled(x, s).sum(), (x, s))
        expected_dx, expected_ds = torch.autograd.grad(function(x, s).sum(), (x, s))
        assert torch.equal(dx, expected_dx)
        torch.testing.assert_close(ds, expected_ds, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("reset")
@pytest.mark.parametrize("transform", [torch.vmap, lambda f: torch.func.grad(lambda x: f(x).square().sum())])
def test_compiled_under_torch_func(transform: Callable[..., Any]) -> None:
    function = transform(lambda x: ops.quant(x, 0.3, 0.0, 4))
    x = values(20, 30)
    assert torch.equal(torch.compile(function, fullgraph=True)(x), function(x))


def test_exact_options_are_refused_where_torch_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_EAGER_NUMERICS", ("eager_numerics.of_the_future",))
    with pytest.raises(QonnxTorchError, match=r"no Inductor option eager_numerics\.of_the_future"):
        exact_options()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("gradient", ops.GRADIENTS)
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.usefixtures("reset")
def test_cuda_equals_cpu(gradient: str, compiled: bool) -> None:
    def function(x: Tensor, s: Tensor, z: Tensor, b: Tensor) -> Tensor:
        return ops.quant(x, s, z, b, one_bit=False, gradient=gradient)

    on_cuda = torch.compile(function, fullgraph=True, options=exact_options()) if compiled else function
    tensors = (values(64, 6, 50, 7), SCALES["per channel"], torch.tensor(0.75), torch.tensor(BITS))
    cpu = [t.clone().requires_grad_() for t in tensors]
    cuda = [t.cuda().requires_grad_() for t in tensors]
    y, expected = on_cuda(*cuda), function(*cpu)
    assert torch.equal(y.cpu().view(torch.int32), expected.view(torch.int32))
    y.square().sum().backward()
    expected.square().sum().backward()
    assert torch.equal(cuda[0].grad.cpu(), cpu[0].grad)
    for a, b in zip(cuda[1:], cpu[1:], strict=True):
        torch.testing.assert_close(a.grad.cpu(), b.grad, rtol=1e-4, atol=1e-2)


def test_compile_caches_tell_versions_apart(tmp_path: Path) -> None:
    """The same call in two processes comes from the cache; not where the sources differ (another tag)."""
    code = """
import sys, torch, torch.compiler.config
import qonnx_torch as qt
from torch._dynamo.utils import counters
qt.ops  # loads the operators
assert torch.compiler.config.cache_key_tag.startswith("qonnx_torch ")
torch.compiler.config.cache_key_tag += sys.argv[1]
torch.compile(lambda x: qt.ops.quant(x, 0.1, 0.0, 4))(torch.randn(8))
print(counters["aot_autograd"]["autograd_cache_hit"])
"""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    environment.pop("TORCHINDUCTOR_FORCE_DISABLE_CACHES", None)
    hits = []
    for tag in ("a", "a", "b"):
        command = [sys.executable, "-c", code, tag]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        hits.append(int(done.stdout))
    assert hits == [0, 1, 0]
