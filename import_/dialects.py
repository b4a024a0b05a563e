"""Which operator a node means: domain aliases, missing operator set imports, versions."""

from __future__ import annotations

import warnings

import onnx
from onnx import ModelProto, NodeProto

from qonnx_torch.errors import InvalidModelError, shortened
from qonnx_torch.ordering import label
from qonnx_torch.registry import CHANNELS_LAST_DOMAIN, QONNX_DOMAIN, canonical_domain, is_stray_qonnx

__all__ = ["OperatorSets", "check_versions"]


def _newest_opset_of_ir(ir_version: int) -> int:
    """Returns the newest ai.onnx operator set that was released with an IR version."""
    candidates = [row[2] for row in onnx.helper.VERSION_TABLE if row[1] <= ir_version]
    return max(candidates, default=1)


def check_versions(model: ModelProto) -> None:
    """Refuses operator set imports of versions that cannot be.

    Raises:
        InvalidModelError: a negative version, one that onnx cannot look up, or version 0 of ai.onnx.
    """
    for entry in (*model.opset_import, *(entry for f in model.functions for entry in f.opset_import)):
        domain = canonical_domain(entry.domain)
        if not (0 if domain else 1) <= entry.version <= _LARGEST_VERSION:
            raise InvalidModelError(
                f"version {entry.version} of {shortened(domain or 'ai.onnx')} is imported; there is none"
            )


_LARGEST_VERSION = (1 << 31) - 1


class OperatorSets:
    """The operator sets of a model: for each node the canonical domain and the version in force.

    A missing import of a QONNX domain means its version 1; a missing import of ai.onnx the newest set
    released with the file's IR version (with a warning, since it is a guess). QONNX operators that old
    exporters left in the default domain are found in theirs.
    """

    def __init__(self, model: ModelProto) -> None:
        self.versions: dict[str, int] = {}
        self._domains: dict[tuple[str, str], str] = {}
        for entry in model.opset_import:
            domain = canonical_domain(entry.domain)
            self.versions[domain] = max(entry.version, self.versions.get(domain, 0))
        if "" not in self.versions:
            if self._uses_default_domain(model) and model.ir_version >= 3:
                guess = _newest_opset_of_ir(model.ir_version)
                warnings.warn(
                    f"the model imports no ai.onnx operator set; reading it as opset {guess}", stacklevel=2
                )
                self.versions[""] = guess
            else:
                self.versions[""] = _newest_opset_of_ir(model.ir_version)
        self.versions.setdefault(QONNX_DOMAIN, 1)
        self.versions.setdefault(CHANNELS_LAST_DOMAIN, self.versions[""])

    def _uses_default_domain(self, model: ModelProto) -> bool:
        return any(self.domain(node) == "" for node in model.graph.node)

    def domain(self, node: NodeProto) -> str:
        """Returns the canonical domain of a node."""
        key = (node.domain, node.op_type)
        domain = self._domains.get(key)
        if domain is None:
            domain = canonical_domain(node.domain)
            if domain == "" and is_stray_qonnx(node.op_type):
                domain = QONNX_DOMAIN
            self._domains[key] = domain
        return domain

    def version(self, node: NodeProto) -> int:
        """Returns the operator set version that a node is to be read at.

        A Trunc node says by its number of inputs which version it is (5: 1, 6: 2); exporters have written
        the import wrongly, and the other reading would take a scale for a bit width.

        Raises:
            InvalidModelError: a Trunc node with another number of inputs.
        """
        domain = self.domain(node)
        version = self.versions.get(domain, 1)
        if (domain, node.op_type) == (QONNX_DOMAIN, "Trunc"):
            by_inputs = {5: 1, 6: 2}.get(len(node.input))
            if by_inputs is None:
                raise InvalidModelError(
                    f"node {label(node)}: {len(node.input)} inputs; version 1 has 5, version 2 has 6"
                )
            if by_inputs != min(version, 2):
                warnings.warn(
                    f"node {label(node)} has the inputs of version {by_inputs}, but {domain} is "
                    f"imported at version {version}; reading version {by_inputs}",
                    stacklevel=2,
                )
            return by_inputs
        if domain == CHANNELS_LAST_DOMAIN:
            return self.versions[""]
        return version
