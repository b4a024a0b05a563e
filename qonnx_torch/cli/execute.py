"""`qonnx-torch exec`: run a model over .npy and .npz files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import notice, progress_bar, result
from .files import batch_argument, data_argument, file_name, staged

if TYPE_CHECKING:
    from torch import fx

    from qonnx_torch.verification import TensorSpec
    from qonnx_torch.verification.data import Array

__all__ = ["command"]


class OutputMode(str, Enum):
    """How output files are called."""

    tensor_name = "tensor_name"
    tensor_index = "tensor_index"


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX or QONNX model.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE", help="Inputs in graph order: .npy files or one .npz. None: all zeros."
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=FILE", help="An input by its name.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch size of the model: keep, dynamic or a number.")] = "keep",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples per call, with a dynamic batch.")
    ] = None,
    max_iters: Annotated[int | None, typer.Option(min=1, help="Stop after so many calls.")] = None,
    output_dir: Annotated[Path, typer.Option(help="Folder of the output files; made if needed.")] = Path(),
    output_prefix: Annotated[str, typer.Option(help="How output file names begin.")] = "out_",
    output_mode: Annotated[
        OutputMode, typer.Option(help="What follows in output file names.")
    ] = OutputMode.tensor_name,
    no_save: Annotated[bool, typer.Option("--no-save", help="Write no output files.")] = False,
    labels: Annotated[
        str | None, typer.Option(metavar="FILE", help="Labels (.npy): print the top-1 accuracy.")
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(min=0, max=100, help="In percent: below it exit with 1.")
    ] = None,
    expose: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN[,PATTERN]",
            help="Save intermediate values whose names contain a word, or are as a whole like a pattern with "
            "* or ?.",
        ),
    ] = None,
    pix2float: Annotated[
        bool, typer.Option("--pix2float", help="Map inputs from uint8 [0, 255] to float [0, 1].")
    ] = False,
    zero_center: Annotated[
        bool, typer.Option("--zero-center", help="With --pix2float: map to [-1, 1].")
    ] = False,
    allow_nan: Annotated[bool, typer.Option("--allow-nan", help="Accept NaN in the inputs.")] = False,
    cast: Annotated[
        bool, typer.Option("--cast", help="Round float data to the type that the model declares.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Run a model over data and save its outputs.

    Each output is one .npy file with all samples. The first dimension of the data may be a multiple of the
    model's batch size. An .npz file has its arrays under the model's input names, or as in0, in1, ...
    """
    if zero_center and not pix2float:
        raise typer.BadParameter("--zero-center works only with --pix2float")
    if min_accuracy is not None and labels is None:
        raise typer.BadParameter("--min-accuracy needs --labels")
    if files and inputs:
        raise typer.BadParameter("give inputs as arguments or with --input, not both")
    patterns = [] if expose is None else [p.strip() for p in expose.split(",") if p.strip()]
    if expose is not None and not patterns:
        raise typer.BadParameter("--expose is empty: give parts of value names, or '*' for all")
    size = batch_argument(batch)

    import torch

    from qonnx_torch.import_ import import_model
    from qonnx_torch.verification import input_specs, run
    from qonnx_torch.verification.data import read_arrays
    from qonnx_torch.verification.graph import output_names

    if threads is not None:
        torch.set_num_threads(threads)
    module = import_model(model, batch=size)
    specs = input_specs(module)
    given = files or inputs
    data = read_arrays(data_argument(given)) if given else _zeros(specs)
    if pix2float:
        data = _each(data, zero_center=zero_center)
    known = None if labels is None else _labels(labels)
    with progress_bar(f"running {model.name}") as progress:
        values = run(
            module,
            data,
            batch_size=batch_size,
            device=device,
            expose=patterns,
            max_batches=max_iters,
            allow_nan=allow_nan,
            cast=cast,
            progress=progress,
        )
    names = output_names(module)
    if patterns and values.keys() <= set(names):
        notice(f"--expose {expose!r} names outputs only, which have their own files; no intermediate values")
    accuracy = (
        None if known is None else _accuracy(module, names, values, known, all_samples=max_iters is None)
    )
    saved = {} if no_save else _save(names, values, output_dir, output_prefix, output_mode)
    report = {
        "outputs": [
            {"name": n, "shape": list(values[n].shape), "type": str(values[n].dtype), "file": saved.get(n)}
            for n in names
        ],
        "exposed": [n for n in values if n not in names],
        "intermediates_file": saved.get(""),
        "accuracy": accuracy,
    }
    _print(report, as_json=as_json)
    if accuracy is not None and min_accuracy is not None and accuracy["percent"] < min_accuracy:
        notice(f"the accuracy is below {min_accuracy:g} %")
        return 1
    return 0


def _zeros(specs: Sequence[TensorSpec]) -> dict[str, Array]:
    import numpy as np

    notice("no input files: all inputs are zero")
    return {s.name: np.zeros([d or 1 for d in s.shape or ()], s.dtype or np.float32) for s in specs}


def _each(data: list[Array] | dict[str, Array], *, zero_center: bool) -> list[Array] | dict[str, Array]:
    if isinstance(data, dict):
        return {name: _from_pixels(array, zero_center=zero_center) for name, array in data.items()}
    return [_from_pixels(array, zero_center=zero_center) for array in data]


def _from_pixels(pixels: Array, *, zero_center: bool) -> Array:
    """Returns pixels / 255 or 2 * pixels / 255 - 1 as float32, rounded where qonnx-exec rounds."""
    import numpy as np

    values = (pixels / 255.0).astype(np.float32)
    return (2 * values - 1.0).astype(np.float32) if zero_center else values


def _labels(path: str) -> Array:
    from qonnx_torch.errors import VerificationError
    from qonnx_torch.verification.data import read_arrays

    arrays = read_arrays(path)
    if len(arrays) != 1:
        raise VerificationError(f"{path}: holds {len(arrays)} arrays; labels are one array")
    (array,) = arrays.values() if isinstance(arrays, dict) else arrays
    while array.ndim > 1 and array.shape[-1] == 1:
        array = array[..., 0]
    return array


def _accuracy(
    module: fx.GraphModule,
    names: Sequence[str],
    values: Mapping[str, Array],
    labels: Array,
    *,
    all_samples: bool,
) -> dict[str, Any]:
    """Returns how often the top class is the label: argmax of output 0, or the indices of TopK or ArgMax."""
    import numpy as np

    from qonnx_torch.errors import VerificationError
    from qonnx_torch.verification.graph import graph_values

    types = {v.name: v.op_type for v in graph_values(module)}
    indices = [n for n in names if types.get(n) in ("ArgMax", "TopK") and values[n].dtype.kind in "iu"]
    if indices:
        top = values[indices[0]]
        top = top[..., 0] if top.ndim == labels.ndim + 1 else top
    else:
        output = values[names[0]]
        top = np.argmax(output, axis=-1) if output.ndim else output
    wanted = labels if all_samples else labels[: len(top)]
    if top.shape != wanted.shape:
        raise VerificationError(
            f"labels: shape {labels.shape} given, the model gives classes of shape {top.shape}; one label is "
            "needed for each sample"
        )
    hits = int(np.count_nonzero(top == wanted))
    return {"correct": hits, "samples": int(top.size), "percent": 100.0 * hits / top.size}


def _save(
    names: Sequence[str], values: Mapping[str, Array], folder: Path, prefix: str, mode: OutputMode
) -> dict[str, str]:
    """Writes the output files and returns them by value name, that of intermediate values under ""."""
    saved: dict[str, str] = {}
    taken: set[str] = {"intermediates"}
    inner = {name: array for name, array in values.items() if name not in names}
    with staged() as stage:
        for position, name in enumerate(names):
            part = file_name(name, taken) if mode is OutputMode.tensor_name else str(position)
            path = folder / f"{prefix}{part}.npy"
            stage.write_npy(path, values[name])
            saved[name] = str(path)
        if inner:
            path = folder / f"{prefix}intermediates.npz"
            stage.write_npz(path, inner)
            saved[""] = str(path)
    return saved


def _print(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        result(json.dumps(report, indent=2))
        return
    for row in report["outputs"]:
        where = f" -> {row['file']}" if row["file"] else ""
        result(f"{row['name']}: {row['type']} {tuple(row['shape'])}{where}")
    if report["exposed"]:
        where = f" -> {report['intermediates_file']}" if report["intermediates_file"] else ""
        result(f"{len(report['exposed'])} intermediate values{where}")
    if report["accuracy"]:
        row = report["accuracy"]
        result(f"accuracy: {row['percent']:.2f} % ({row['correct']} of {row['samples']})")
