"""Which operator a node means: domain aliases, missing operator set imports, versions."""

from __future__ import annotations

import secrets
import warnings

import onnx
from onnx import ModelProto, NodeProto

from qonnx_torch.errors import InvalidModelError, shortened
from qonnx_torch.graphs import label
from qonnx_torch.registry import (
    CHANNELS_LAST_DOMAIN,
    QONNX_DOMAIN,
    REGISTRY,
    canonical_domain,
    is_stray_qonnx,
)

__all__ = ["OperatorSets", "canonical_domain_of", "check_versions", "mark_version", "marked_version"]

_MARK = f"version {secrets.token_hex(8)}"  # no file's nodes have it


def _newest_opset_of_ir(ir_version: int) -> int:
    """Returns the newest ai.onnx operator set that was released with an IR version."""
    candidates = [row[2] for row in onnx.helper.VERSION_TABLE if row[1] <= ir_version]
    return max(candidates, default=1)


def check_versions(model: ModelProto) -> None:
    """Refuses operator set imports of versions that cannot be, or that contradict each other.

    Raises:
        InvalidModelError: a negative version, one that onnx cannot look up, version 0 of ai.onnx, or two
            versions of one domain.
    """
    for imports in (model.opset_import, *(function.opset_import for function in model.functions)):
        versions: dict[str, int] = {}
        for entry in imports:
            domain = canonical_domain(entry.domain)
            called = shortened(domain or "ai.onnx")
            if not (0 if domain else 1) <= entry.version <= _LARGEST_VERSION:
                raise InvalidModelError(f"version {entry.version} of {called} is imported; there is none")
            if versions.setdefault(entry.domain if domain else "", entry.version) != entry.version:
                raise InvalidModelError(f"two versions of {called} are imported; there must be one")


_LARGEST_VERSION = (1 << 31) - 1


def mark_version(node: NodeProto, version: int) -> None:
    """Notes on a node that it is to be read at another version than the one that the model imports."""
    node.metadata_props.add(key=_MARK, value=str(version))


def marked_version(node: NodeProto) -> int | None:
    """Returns the version that `mark_version` has noted on a node."""
    return next((int(entry.value) for entry in node.metadata_props if entry.key == _MARK), None)


def canonical_domain_of(node: NodeProto) -> str:
    """Returns the canonical domain of a node; old exporters left QONNX's operators in the default domain."""
    domain = canonical_domain(node.domain)
    return QONNX_DOMAIN if domain == "" and is_stray_qonnx(node.op_type) else domain


class OperatorSets:
    """The operator sets of a model: for each node the canonical domain and the version in force.

    A missing import of a QONNX domain means its version 1; a missing import of ai.onnx the newest set
    released with the file's IR version (with a warning, since it is a guess). QONNX operators that old
    exporters left in the default domain are found in theirs. Nodes out of functions may have another version.

    Attributes:
        versions: canonical domain -> the version that the model imports.
        mixed: whether a node with another version has been seen: then the file's nodes cannot be written
            under one import, as they stand.
    """

    def __init__(self, model: ModelProto) -> None:
        self.versions: dict[str, int] = {}
        self.mixed = False
        self._domains: dict[tuple[str, str], str] = {}
        for entry in model.opset_import:
            domain = canonical_domain(entry.domain)
            self.versions[domain] = max(entry.version, self.versions.get(domain, 0))
        newest = max(operator.since_version for operator in REGISTRY if not operator.domain)
        if self.versions.get("", 0) > newest:
            warnings.warn(
                f"the model imports ai.onnx {self.versions['']}; its operators are read as in {newest}, the "
                "newest operator set that is known here",
                stacklevel=2,
            )
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
            domain = self._domains[key] = canonical_domain_of(node)
        return domain

    def version(self, node: NodeProto) -> int:
        """Returns the operator set version that a node is to be read at.

        A Trunc node says by its number of inputs which version it is (5: 1, 6: 2); exporters have written
        the import wrongly, and the other reading would take a scale for a bit width.

        Raises:
            InvalidModelError: a Trunc node with another number of inputs.
        """
        domain = self.domain(node)
        marked = marked_version(node)
        version = self.versions.get(domain, 1) if marked is None else marked
        self.mixed |= marked is not None
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
        if domain == CHANNELS_LAST_DOMAIN and marked is None:
            return self.versions[""]
        return version
