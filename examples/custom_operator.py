"""An operator of one's own: define it, then import, run, train, cost and export models that use it.

The operator is a hardware-friendly attention score: a blocked dot product with a leaky slope.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

import qonnx_torch as qt

# -- 1. Define it: the signature is the operator's schema, the body is plain torch ---------------------


def score_macs(y: Tensor, x: Tensor, weight: Tensor, **attributes: float) -> float:
    """Returns the multiply-accumulates of one call: one per output element and channel."""
    return float(y.numel() * x.shape[-1])


@qt.register_op("my.domain", "LeakyScore", since_version=2, macs=score_macs)
def leaky_score(x: Tensor, weight: Tensor, *, slope: float = 0.1) -> Tensor:
    """Returns x W with negative results times `slope`: (N, K), (K, M) -> (N, M)."""
    return torch.nn.functional.leaky_relu(x @ weight, slope)


# -- 2. A model that uses it, as any exporter might write it -------------------------------------------


def make_model(path: Path) -> None:
    """Writes Quant -> LeakyScore -> Relu with a float weight of 8 x 4."""
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    constants = {"weight": weight, "scale": np.float32(0.125), "zero_point": np.float32(0)}
    constants["bit_width"] = np.float32(4)
    quant = helper.make_node(
        "Quant",
        ["x", "scale", "zero_point", "bit_width"],
        ["xq"],
        "quant",
        domain="qonnx.custom_op.general",
        signed=1,
        narrow=0,
        rounding_mode="ROUND",
    )
    score = helper.make_node("LeakyScore", ["xq", "weight"], ["s"], "score", domain="my.domain", slope=0.25)
    graph = helper.make_graph(
        [quant, score, helper.make_node("Relu", ["s"], ["y"], "relu")],
        "custom",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    versions = {"": 17, "qonnx.custom_op.general": 1, "my.domain": 2}
    sets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    path.write_bytes(helper.make_model(graph, opset_imports=sets).SerializeToString())


def main() -> None:
    """Runs every step and checks its outcome."""
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        source, target = Path(folder, "custom.onnx"), Path(folder, "trained.onnx")
        make_model(source)

        # 3. It imports and runs like a built-in operator, and its weight is a parameter.
        module = qt.import_model(source)
        x = torch.randn(16, 8)
        expected = torch.relu(leaky_score(module.get_submodule("quant")(x), module.weight, slope=0.25))
        assert torch.equal(module(x), expected)
        assert qt.infer_shapes(module)["s"].shape == ("batch", 4)

        # 4. It is traced, trains and is costed.
        program = torch.export.export(module, (x,), dynamic_shapes=qt.dynamic_shapes(module)).module()
        assert torch.allclose(program(x[:5]), module(x[:5]))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        goal = torch.randn(16, 4).relu()
        losses = []
        for _ in range(50):
            loss = torch.nn.functional.mse_loss(module(x), goal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.7 * losses[0], losses
        cost = qt.inference_cost(module)
        assert cost.macs == 8 * 4, cost
        print(cost.table())

        # 5. It goes back out, under its own domain and version, and comes in again.
        proto = qt.export_qonnx(module, target)
        assert {o.domain: o.version for o in proto.opset_import}["my.domain"] == 2
        again = qt.import_model(target)
        assert torch.equal(again(x), module(x))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; exported and imported again: the same outputs")


if __name__ == "__main__":
    main()
