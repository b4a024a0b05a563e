"""`qonnx-torch info`: what is in a model file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import result

__all__ = ["command"]


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX or QONNX model.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Show operators, quantizers and parameters of a model.

    Works for models with unsupported operators too: they are listed.
    """
    from .inspection import inspect_model

    report = inspect_model(model)
    result(json.dumps(report, indent=2) if as_json else _text(report))
    return 0


def _text(report: dict[str, Any]) -> str:
    lines = [
        f"{report['file']}: IR {report['ir_version']}, made by {report['producer'] or 'an unnamed producer'}"
    ]
    for row in report["opsets"]:
        note = f" (now {row['canonical']})" if row["canonical"] != row["domain"] else ""
        note += "" if row["imported"] else " (not imported by the file)"
        lines.append(f"  operators   {row['domain'] or 'ai.onnx'} {row['version']}{note}")
    for kind in ("inputs", "outputs"):
        for row in report[kind]:
            shape = (
                ", ".join("?" if d is None else str(d) for d in row["shape"])
                if row["shape"] is not None
                else "..."
            )
            lines.append(f"  {kind[:-1]:11} {row['name']}: {row['type']} ({shape})")
    size = report["parameters"]
    lines.append(f"  parameters  {size['count']} in {size['tensors']} tensors, {size['bytes'] / 1e6:.2f} MB")
    for name in report["external_files"]:
        lines.append(f"  external    {name}")
    lines.append(f"{report['node_count']} nodes")
    lines += [f"  {count:5} {operator}" for operator, count in report["nodes"].items()]
    if report["quantizers"]:
        lines.append(f"{sum(q['count'] for q in report['quantizers'])} quantizers")
        for row in report["quantizers"]:
            details = ", ".join(
                str(v) for k, v in row.items() if k not in ("type", "count") and v not in (None, "")
            )
            lines.append(f"  {row['count']:5} {row['type']}: {details}")
    if report["unsupported"]:
        lines.append(f"{len(report['unsupported'])} nodes with unsupported operators")
        for row in report["unsupported"]:
            lines.append(
                f"  {row['node']!r}: {row['domain'] or 'ai.onnx'}::{row['op_type']} {row['version']}"
            )
    return "\n".join(lines)
