"""The package list, the symlinks, and the one direction in which the folders depend on each other."""

import ast
import fnmatch
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
MOVED = {"import_", "export"}  # these stand at the top level and install inside the package

# Which folders (and single modules) a folder may import. "base" is every module directly in qonnx_torch/.
BELOW = {
    "base": set(),
    "ops": {"base"},
    "nn": {"base", "ops"},
    "lowering": {"base", "ops", "nn"},
    "passes": {"base", "ops", "nn", "lowering"},
    "import_": {"base", "ops", "nn", "passes"},
    "export": {"base", "ops", "nn", "passes"},
    "verification": {"base", "ops", "nn", "passes", "import_", "export"},
    "cli": {"base", "ops", "nn", "passes", "import_", "export", "verification", "__init__", "testing"},
}
ABOVE = {"__init__", "__main__", "backend", "testing"}  # may import anything; only cli imports them


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def settings() -> dict[str, Any]:
    return pyproject()["tool"]["setuptools"]


def package_files() -> Iterator[tuple[str, Path]]:
    """Every file of the package with the dotted name of its folder, symlinks not followed."""
    for top, package in (("qonnx_torch", "qonnx_torch"), *((m, f"qonnx_torch.{m}") for m in sorted(MOVED))):
        for folder, subfolders, names in os.walk(ROOT / top, followlinks=False):
            subfolders[:] = sorted(s for s in subfolders if s != "__pycache__")
            relative = Path(folder).relative_to(ROOT / top)
            for name in sorted(names):
                yield ".".join((package, *relative.parts)), Path(folder, name)


def modules() -> list[tuple[str, Path]]:
    return [(package, path) for package, path in package_files() if path.suffix == ".py"]


def unit_of(dotted: str) -> str:
    """The part of the package that a dotted name below qonnx_torch belongs to, as named in BELOW or ABOVE."""
    parts = dotted.split(".")
    if len(parts) == 1:
        return "__init__"
    if parts[1] in BELOW or parts[1] in ABOVE:
        return parts[1]
    if (ROOT / "qonnx_torch" / f"{parts[1]}.py").exists():
        return "base"
    return parts[1] if (ROOT / "qonnx_torch" / parts[1]).is_dir() else "__init__"


def imported(package: str, tree: ast.AST) -> Iterator[tuple[int, str, int]]:
    """Line, absolute dotted name and relative level of every import, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            if base == "qonnx_torch":  # `from qonnx_torch import ops` names the folder last
                yield from ((node.lineno, f"{base}.{alias.name}", node.level) for alias in node.names)
            else:
                yield node.lineno, base, node.level


def faults() -> Iterator[str]:
    for package, path in modules():
        unit = unit_of(package if "." in package else f"qonnx_torch.{path.stem}")
        allowed = set(BELOW) | ABOVE if unit in ABOVE else BELOW.get(unit)
        where = path.relative_to(ROOT)
        if allowed is None:
            yield f"{where}: the folder {unit} is new: say in BELOW what it may import"
            continue
        for line, name, level in imported(package, ast.parse(path.read_text(encoding="utf-8"))):
            if name.split(".")[0] != "qonnx_torch":
                continue
            target = unit_of(name)
            if target != unit and target not in allowed:
                yield f"{where}:{line}: {unit} must not import {name} ({target})"
            if unit in MOVED and (target == unit) != (level > 0):
                style = "relatively" if target == unit else "absolutely"
                yield f"{where}:{line}: {name} must be imported {style}"


def test_every_package_on_disk_is_listed() -> None:
    listed = settings()["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == {package for package, _ in modules()}


def test_every_package_has_an_init() -> None:
    have = {package for package, path in modules() if path.name == "__init__.py"}
    assert have == {package for package, _ in modules()}


def test_every_data_file_is_listed() -> None:
    patterns = settings()["package-data"]
    forgotten = [
        str(path.relative_to(ROOT))
        for package, path in package_files()
        if path.suffix not in {".py", ".pyc"}
        and not path.is_symlink()
        and not any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns.get(package, []))
    ]
    assert not forgotten


def test_version_is_the_same_in_both_places() -> None:
    tree = ast.parse((ROOT / "qonnx_torch" / "__init__.py").read_text(encoding="utf-8"))
    versions = [
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and "__version__" in [t.id for t in n.targets if isinstance(t, ast.Name)]
    ]
    assert versions == [pyproject()["project"]["version"]]


def test_moved_folders_are_mapped() -> None:
    folders = {package: path.parent.relative_to(ROOT) for package, path in modules()}
    moved = {package: folder.as_posix() for package, folder in folders.items() if folder.parts[0] in MOVED}
    expected = {"qonnx_torch": "qonnx_torch", **moved}
    assert settings()["package-dir"] == expected


@pytest.mark.parametrize("name", sorted(MOVED))
def test_symlink_resolves(name: str) -> None:
    link = ROOT / "qonnx_torch" / name
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == ROOT / name


def test_dependencies_point_one_way() -> None:
    assert not list(faults())
