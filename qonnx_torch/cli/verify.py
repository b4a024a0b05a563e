"""`qonnx-torch verify`: does a model compute what a reference computes?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .console import progress_bar, result
from .files import batch_argument, data_argument

__all__ = ["command"]


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX or QONNX model.")],
    inputs: Annotated[
        list[str],
        typer.Option(
            "--inputs", metavar="FILE|NAME=FILE", help=".npz or .npy; once for each input, in graph order."
        ),
    ],
    expected: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|NAME=FILE", help="Expected outputs: .npz or .npy; once for each output."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="REFERENCE", help="Instead: onnxruntime, qonnx, or another model file."),
    ] = None,
    intermediates: Annotated[
        str | None, typer.Option(metavar="FILE", help="Expected intermediate values (.npz, by value name).")
    ] = None,
    rtol: Annotated[
        float, typer.Option(min=0, help="Relative tolerance, of the largest expected magnitude.")
    ] = 1e-4,
    atol: Annotated[float, typer.Option(min=0, help="Absolute tolerance.")] = 1e-5,
    tie_eps: Annotated[
        float, typer.Option(min=0, help="How near to a rounding boundary is a tie, in steps.")
    ] = 1e-4,
    no_tie_flips: Annotated[
        bool,
        typer.Option(
            "--no-tie-flips", help="Fail outputs beyond tolerance also where tie flips explain them."
        ),
    ] = False,
    inexact_quantizers: Annotated[
        bool,
        typer.Option(
            "--inexact-quantizers",
            help="Ties are no errors on identical inputs either: the reference quantizes in other steps.",
        ),
    ] = False,
    no_layers: Annotated[bool, typer.Option("--no-layers", help="Compare outputs only.")] = False,
    batch: Annotated[str, typer.Option(help="Batch size of the model: keep, dynamic or a number.")] = "keep",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples per call, with a dynamic batch.")
    ] = None,
    allow_nan: Annotated[bool, typer.Option("--allow-nan", help="Accept NaN in the inputs.")] = False,
    cast: Annotated[
        bool, typer.Option("--cast", help="Round float data to the type that the model declares.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda or cuda:N.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Compare a model with expected outputs or a reference.

    Where the reference can, layer by layer; says where they first differ.

    An .npz file has its arrays under ONNX value names, or as in0, in1, ... (expected: out0, out1, ...).
    Quantizer codes that flipped on a rounding tie are counted apart from errors. Exit status 0: it computes
    the same; 1: it does not; 2: it could not be compared.
    """
    if against is None and not expected and intermediates is None:
        raise typer.BadParameter("give --expected or --against: what is the model compared with?")
    if against is not None and (expected or intermediates is not None):
        raise typer.BadParameter("give --expected or --against, not both")
    size = batch_argument(batch)

    from qonnx_torch.import_ import import_model
    from qonnx_torch.verification import verify

    module = import_model(model, batch=size)
    options: dict[str, Any] = {}
    if against in ("onnxruntime", "qonnx"):
        options["model"] = model  # the file itself, so that the import is checked and not the export
    with progress_bar(f"verifying {model.name}") as progress:
        report = verify(
            module,
            data_argument(inputs),
            data_argument(expected) if expected else None,
            reference=against,
            intermediates=intermediates,
            rtol=rtol,
            atol=atol,
            tie_eps=tie_eps,
            allow_tie_flips=not no_tie_flips,
            exact_quantizers=not inexact_quantizers,
            layers=not no_layers,
            batch_size=batch_size,
            device=device,
            allow_nan=allow_nan,
            cast=cast,
            progress=progress,
            **options,
        )
    result(report.to_json() if as_json else report.table())
    return 0 if report.passed else 1
