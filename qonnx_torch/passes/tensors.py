"""The parameters and buffers that a graph reads: who reads them, and how to replace or drop them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn

__all__ = ["TensorTable", "named_tensors"]


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Returns every parameter and buffer of a module by path, a shared one under each of its paths."""
    tensors: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    tensors |= dict(module.named_buffers(remove_duplicate=False))
    return tensors


class TensorTable:
    """A module's tensors by path, with the graph's view of them."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = module

    def __getitem__(self, path: str) -> Tensor:
        owner, _, leaf = path.rpartition(".")
        tensor: Tensor = getattr(self._module.get_submodule(owner), leaf)
        return tensor

    def calls(self, target: str) -> list[fx.Node]:
        """Returns the nodes that call a submodule."""
        return [n for n in self._module.graph.nodes if n.op == "call_module" and n.target == target]

    def readers(self, path: str) -> list[fx.Node]:
        """Returns the `get_attr` nodes of a path that are used."""
        nodes = self._module.graph.nodes
        return [n for n in nodes if n.op == "get_attr" and n.target == path and n.users]

    def is_shared(self, path: str) -> bool:
        """Returns whether more than one node uses a tensor, or it lives at another path too."""
        tensor = self[path]
        places = sum(found is tensor for found in named_tensors(self._module).values())
        return places > 1 or sum(len(n.users) for n in self.readers(path)) > 1

    def set(self, path: str, value: Tensor) -> None:
        """Gives a path a new value: in place where the shape stays, else as a new parameter or buffer."""
        owner_path, _, leaf = path.rpartition(".")
        owner = self._module.get_submodule(owner_path)
        old = getattr(owner, leaf, None)
        if isinstance(old, Tensor) and old.shape == value.shape:
            with torch.no_grad():
                old.copy_(value)
        elif isinstance(old, Tensor) and not isinstance(old, nn.Parameter):
            owner.register_buffer(leaf, value)
        else:
            owner.register_parameter(leaf, nn.Parameter(value, old is None or old.requires_grad))

    def new_path(self, name: str) -> str:
        """Returns a name that the module does not have yet."""
        count, path = 0, name
        while hasattr(self._module, path):
            count += 1
            path = f"{name}_{count}"
        return path

    def drop_unread(self, nodes: Iterable[fx.Node]) -> None:
        """Erases `get_attr` nodes without users, and the tensors that no node reads any more."""
        for node in nodes:
            if node.op != "get_attr" or node.users:
                continue
            path = str(node.target)
            self._module.graph.erase_node(node)
            if not any(n.op == "get_attr" and n.target == path for n in self._module.graph.nodes):
                owner, _, leaf = path.rpartition(".")
                delattr(self._module.get_submodule(owner), leaf)
