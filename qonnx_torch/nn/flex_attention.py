"""Attention whose scores and probabilities go through subgraphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from qonnx_torch.nn.subgraphs import SubgraphOperator
from qonnx_torch.ops.standard.attention import flex_attention
from qonnx_torch.registry import REGISTRY

__all__ = ["FlexAttention"]


class FlexAttention(SubgraphOperator):
    """Attention; see `qonnx_torch.ops.standard.attention.flex_attention`.

    Args:
        prob_mod: graph of the probabilities; None leaves them as they are.
        score_mod: graph of the scores, likewise.
        scale: of the scores.
        softmax_precision: ONNX element type of scores and probabilities.
        captured: number of values that the graphs read from around them.

    Source: ONNX FlexAttention-1 (ai.onnx.preview).
    """

    prob_mod: nn.Module | None
    score_mod: nn.Module | None

    def __init__(
        self,
        *,
        prob_mod: nn.Module | None = None,
        score_mod: nn.Module | None = None,
        scale: float | None = None,
        softmax_precision: int | None = None,
        captured: int = 0,
    ) -> None:
        super().__init__(captured, prob_mod=prob_mod, score_mod=score_mod)
        self.scale = scale
        self.softmax_precision = softmax_precision

    def onnx_attributes(self) -> dict[str, Any]:
        """Returns scale and softmax_precision, where they are given."""
        attributes = {"scale": self.scale, "softmax_precision": self.softmax_precision}
        return {name: value for name, value in attributes.items() if value is not None}

    def forward(self, *values: Any) -> Tensor:
        """Returns the attention's output; `values` are Q, K, V, then captured."""
        inputs, captured = self.split(values)

        def with_captured(graph: nn.Module | None) -> Callable[[Tensor], Tensor] | None:
            def modify(x: Tensor) -> Tensor:
                assert graph is not None
                (result,) = graph(x, *captured)
                modified: Tensor = result
                return modified

            return None if graph is None else modify

        result: Tensor = flex_attention(
            *inputs,
            prob_mod=with_captured(self.prob_mod),
            score_mod=with_captured(self.score_mod),
            **self.onnx_attributes(),
        )
        return result

    def example_arguments(self, *values: Any) -> dict[str, tuple[Any, ...]]:
        """Returns the scores for either graph: both have the shape and type of the probabilities."""
        inputs, captured = self.split(values)
        seen: list[Tensor] = []

        def keep(scores: Tensor) -> Tensor:
            seen.append(scores)
            return scores

        flex_attention(*inputs, score_mod=keep, **self.onnx_attributes())
        return dict.fromkeys(self.subgraphs(), (seen[0], *captured))


REGISTRY.add_module(flex_attention, FlexAttention)
