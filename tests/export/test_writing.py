"""What stands at the path stays what it is: a link a link, its target's permissions as they were."""

from __future__ import annotations

import stat
from pathlib import Path

import onnx
import pytest

from qonnx_torch.export.writing import write_model


@pytest.mark.parametrize("exists", [True, False], ids=["target exists", "dangling"])
def test_a_link_is_followed(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    target, link = folder / "model.onnx", tmp_path / "link.onnx"
    if exists:
        target.write_bytes(b"old")
    link.symlink_to(target)
    write_model(onnx.ModelProto(producer_name="new"), link)
    assert link.is_symlink()
    assert onnx.load(target).producer_name == "new"
    assert sorted(tmp_path.iterdir()) == [folder, link]
    assert list(folder.iterdir()) == [target]


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_permissions_stay(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    target.chmod(mode)
    write_model(onnx.ModelProto(producer_name="new"), target)
    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert onnx.load(target).producer_name == "new"
