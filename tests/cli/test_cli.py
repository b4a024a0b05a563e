"""The command line: exit status, what goes where, files in one piece."""

from __future__ import annotations

import errno
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from qonnx_torch import cli
from qonnx_torch.cli import files, main

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "models"
DIGITS = ROOT / "examples" / "digits"
DEMO = str(DIGITS / "digits_w4a4.onnx")
Make = Callable[..., ModelProto]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own folder with the first 20 test digits: pixels x.npy, labels y.npy."""
    with np.load(DIGITS / "digits.npz") as data:
        np.save(tmp_path / "x.npy", (data["x_test"][:20] / 16).astype(np.float32))
        np.save(tmp_path / "y.npy", data["y_test"][:20])
    with np.load(DIGITS / "golden.npz") as data:
        np.savez(tmp_path / "golden.npz", logits=data["logits"][:20])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def io_model() -> tuple[str, list[str], list[str]]:
    """A model with several inputs and outputs, its inputs as files, and the names of its outputs."""
    with np.load(MODELS / "multi_io.npz") as data:
        paths = []
        for key in (k for k in data.files if k.startswith("in") and k.endswith("_s0")):
            np.save(f"{key}.npy", data[key])
            paths.append(f"{key}.npy")
    path = MODELS / "multi_io.onnx"
    return str(path), paths, [o.name for o in onnx.load(path).graph.output]


def made(work: Path) -> set[str]:
    """What a command left beside the files of the fixture."""
    there = {str(p.relative_to(work)) for p in work.rglob("*")}
    return there - {"x.npy", "y.npy", "golden.npz"}


# -- help, usage -----------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
from qonnx_torch.cli import COMMANDS, main
for arguments in ([], ["--version"], *([name, "--help"] for name in COMMANDS)):
    assert main(arguments) == 0
heavy = {"torch", "onnx", "numpy", "onnxruntime", "qonnx"} & set(sys.modules)
assert not heavy, heavy
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert all(name in run.stdout for name in ("info", "exec", "verify", "--debug", "Exit status"))


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_has_a_help_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    options = [i for i, line in enumerate(lines) if line.strip().startswith("--")]
    assert options
    for i in options:
        first, _, rest = lines[i].strip().partition("  ")
        assert rest.strip() or lines[i + 1].startswith("      "), first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["exec"], "Missing argument 'MODEL'"),
        (["exec", DEMO, "--batch", "0"], "--batch '0': give keep, dynamic or a positive number"),
        (["exec", DEMO, "--expose", " ,"], "--expose is empty: give parts of value names, or '*' for all"),
        (["exec", DEMO, "--zero-center"], "--zero-center works only with --pix2float"),
        (["exec", DEMO, "--min-accuracy", "5"], "--min-accuracy needs --labels"),
        (["exec", DEMO, "x.npy", "--input", "image=x.npy"], "not both"),
        (["exec", DEMO, "--input", "image=x.npy", "--input", "x.npy"], "has no name, others have"),
        (["verify", DEMO, "--inputs", "x.npy"], "give --expected or --against"),
        (["verify", DEMO, "--inputs", "x.npy", "--against", "qonnx", "--expected", "y.npy"], "not both"),
        (["verify", DEMO], "Missing option '--inputs'"),
    ],
)
def test_usage(work: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert made(work) == set()


# -- errors: one line, status 2, nothing written ---------------------------------------------------


def bad_models(folder: Path, make_model: Make) -> dict[str, tuple[str, str]]:
    """File name -> how to make it, and what the message says."""
    content = Path(DEMO).read_bytes()
    (folder / "truncated.onnx").write_bytes(content[: len(content) // 2])
    (folder / "text.onnx").write_text("This is not a model.")
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "external.onnx").write_bytes((MODELS / "external_data.onnx").read_bytes())
    unknown = [helper.make_node("Frobnicate", ["x"], ["y"], name="f", domain="acme")]
    onnx.save(make_model(unknown, imports={"": 13, "acme": 3}), str(folder / "unknown.onnx"))
    return {
        "truncated.onnx": "not an ONNX protobuf (truncated, nested too deeply, or another kind of file)",
        "text.onnx": "not an ONNX protobuf",
        "empty.onnx": "not an ONNX",
        "external.onnx": "external_data.bin",
        "unknown.onnx": "acme::Frobnicate",
        "nowhere.onnx": "cannot be read (No such file or directory)",
    }


@pytest.mark.parametrize("command", ["exec", "verify"])
@pytest.mark.parametrize(
    "name", ["truncated.onnx", "text.onnx", "empty.onnx", "external.onnx", "unknown.onnx", "nowhere.onnx"]
)
def test_bad_models(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_model: Make,
    capsys: pytest.CaptureFixture[str],
    command: str,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    message = bad_models(tmp_path, make_model)[name]
    np.save("x.npy", np.zeros((1, 4), np.float32))
    before = sorted(tmp_path.iterdir())
    options = ["x.npy"] if command == "exec" else ["--inputs", "x.npy", "--expected", "x.npy"]
    assert main([command, name, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith("error: ")
    assert message in err
    assert sorted(tmp_path.iterdir()) == before


DATA = {
    "shape": (np.zeros((20, 1, 8, 7), np.float32), "shape (20, 1, 8, 7) given, the model takes (1, 1, 8, 8)"),
    "rank": (np.zeros((8, 8), np.float32), "shape (8, 8) given"),
    "type": (
        np.full((1, 1, 8, 8), 0.1),
        "float64 given, the model takes float32, which cannot hold 64 of 64",
    ),
    "text": (np.full((1, 1, 8, 8), "a"), "element type <U1 cannot be used"),
    "nan": (np.full((1, 1, 8, 8), np.nan, np.float32), "input 'image': NaN at index (0, 0, 0, 0)"),
}


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("command", ["exec", "verify"])
def test_bad_data(work: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str) -> None:
    array, message = DATA[kind]
    np.save("bad.npy", array)
    options = ["bad.npy"] if command == "exec" else ["--inputs", "bad.npy", "--expected", "golden.npz"]
    assert main([command, DEMO, *options]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert made(work) == {"bad.npy"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.npy", "x.npy"], "2 input arrays given, but the model has 1 input: 'image'"),
        (["--input", "picture=x.npy"], "input 'picture' is not known: the model's inputs are 'image'"),
        (["none.npy"], "none.npy: no such file"),
        (["text.npy"], "text.npy: not a usable .npy or .npz file"),
        (["x.npy", "--device", "cuda:7"], "device 'cuda:7'"),
        (["x.npy", "--device", "tpu"], "device 'tpu'"),
        (["x.npy", "--batch-size", "3"], "batch size 3 asked for, but the model takes 1"),
        (["x.npy", "--expose", "nothing"], "no intermediate value matches 'nothing'"),
        (["x.npy", "--expose", "conv,nothing"], "no intermediate value matches 'nothing'"),
        (["x.npy", "--expose", "conv*"], "'conv*' stands for a whole name; try '*conv*'"),
        (["x.npy", "--labels", "golden.npz"], "labels: shape (20, 10) given"),
        (["x.npy", "--output-dir", "text.npy"], "text.npy"),
        (["x.npy", "--output-dir", "a", "--output-prefix", "b/../../y.npy/"], ""),
    ],
)
def test_exec_that_cannot_run(
    work: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (work / "text.npy").write_text("no array")
    assert main(["exec", DEMO, *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert made(work) == {"text.npy"}


def test_an_unexpected_error_is_one_line(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise LookupError("first line\nsecond line")

    monkeypatch.setattr("qonnx_torch.import_.import_model", fail)
    assert main(["exec", DEMO, "x.npy"]) == 2
    err = capsys.readouterr().err
    assert err == "error: unexpected LookupError: first line (run again with --debug for the traceback)\n"
    assert main(["exec", DEMO, "x.npy", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_interruption(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupt)
    assert main(["exec", DEMO, "x.npy", "--output-dir", "new/folder"]) == 130
    assert made(work) == set()


# -- files in one piece ----------------------------------------------------------------------------


def full_disk(at: int) -> Callable[..., None]:
    """Returns a `numpy.lib.format.write_array` that fails half way through its n-th file."""
    real = np.lib.format.write_array
    count = 0

    def write(file: Any, array: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        if count == at:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, array, **options)

    return write


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_nothing_is_left_when_writing_fails(
    work: Path,
    io_model: tuple[str, list[str], list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    model, inputs, outputs = io_model
    before = made(work)
    (work / f"out_{outputs[0]}.npy").write_text("the old file")
    monkeypatch.setattr(np.lib.format, "write_array", full_disk(at))
    assert main(["exec", model, *inputs, "--expose", "*"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert made(work) == before | {f"out_{outputs[0]}.npy"}
    assert (work / f"out_{outputs[0]}.npy").read_text() == "the old file"


def test_nothing_new_is_left_when_renaming_fails(
    work: Path, io_model: tuple[str, list[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs, _ = io_model
    before = made(work)
    real, count = files.os.replace, 0

    def replace(source: Any, target: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise PermissionError(errno.EACCES, "Permission denied", str(target))
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    assert main(["exec", model, *inputs, "--output-dir", "new"]) == 2
    assert made(work) == before


def test_file_names_are_safe_and_distinct() -> None:
    taken: set[str] = set()
    names = [files.file_name(n, taken) for n in ("a/b", "a:b", "A/B", "../x", "", ".hidden", "é" * 300)]
    assert names == ["a_b", "a_b_1", "A_B_2", "_./x".replace("/", "_"), "_", "_hidden", "_" * 120]
    assert len({n.lower() for n in names}) == len(names)


# -- info ------------------------------------------------------------------------------------------


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", DEMO]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for text in ("IR 9", "pytorch", "image: float (1, 1, 8, 8)", "6 qonnx.custom_op.general::Quant"):
        assert text in out
    assert "4 bit, signed narrow, scale per channel (16), ROUND" in out
    assert main(["info", DEMO, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (
        report["nodes"]["qonnx.custom_op.general::Quant"]
        == sum(q["count"] for q in report["quantizers"])
        == 6
    )
    assert report["unsupported"] == []
    model = onnx.load(DEMO)
    assert report["parameters"]["tensors"] == len(model.graph.initializer)


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda p: p.stem)
def test_info_reads_every_model(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["node_count"] == sum(report["nodes"].values())
    assert report["unsupported"] == []
    assert bool(report["external_files"]) == (path.stem == "external_data")
    assert main(["info", str(path)]) == 0


def test_info_counts_the_quantizers_of_other_dialects(capsys: pytest.CaptureFixture[str]) -> None:
    """Three QuantizeLinear, and the integers of three weights (two of them clipped) and a bias."""
    assert main(["info", str(MODELS / "brevitas_mlp_qcdq.onnx")]) == 0
    out = capsys.readouterr().out
    assert "7 quantizers" in out
    assert "2 DequantizeLinear: int8, scale per channel (12), ROUND" in out


def test_info_lists_unsupported_nodes_and_old_domains(
    tmp_path: Path, make_model: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["h"], name="f", domain="acme"),
        helper.make_node("BipolarQuant", ["h", "s"], ["y"], domain="onnx.brevitas"),
    ]
    onnx.save(
        make_model(nodes, initializers={"s": 1.0}, imports={"": 13, "acme": 3}), str(tmp_path / "m.onnx")
    )
    assert main(["info", str(tmp_path / "m.onnx")]) == 0
    out = capsys.readouterr().out
    assert "1 nodes with unsupported operators\n  'f': acme::Frobnicate 3" in out
    assert "onnx.brevitas 1 (now qonnx.custom_op.general) (not imported by the file)" in out
    assert "1 BipolarQuant: 1 bit, scale per tensor" in out


# -- exec ------------------------------------------------------------------------------------------


def test_exec_saves_and_measures(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exec", DEMO, "x.npy", "--labels", "y.npy", "--min-accuracy", "90"]) == 0
    out, err = capsys.readouterr()
    assert "logits: float32 (20, 10) -> out_logits.npy" in out
    assert "of 20)" in out
    assert err == ""
    golden = np.load("golden.npz")["logits"]
    np.testing.assert_allclose(np.load("out_logits.npy"), golden, rtol=0, atol=1e-4)
    assert made(work) == {"out_logits.npy"}


def test_exec_json_is_all_of_stdout(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = (np.load("y.npy") + 1) % 10
    np.save("wrong.npy", wrong)
    arguments = ["--labels", "wrong.npy", "--min-accuracy", "50", "--no-save", "--json", "--batch", "dynamic"]
    assert main(["exec", DEMO, "x.npy", *arguments]) == 1
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["accuracy"]["samples"] == 20
    assert report["accuracy"]["percent"] < 50
    assert report["outputs"] == [{"name": "logits", "shape": [20, 10], "type": "float32", "file": None}]
    assert err == "notice: the accuracy is below 50 %\n"
    assert made(work) == {"wrong.npy"}


def test_exec_without_inputs_takes_zeros(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("zeros.npy", np.zeros((1, 1, 8, 8), np.float32))
    assert main(["exec", DEMO, "--output-prefix", "a_"]) == 0
    assert "all inputs are zero" in capsys.readouterr().err
    assert main(["exec", DEMO, "--input", "image=zeros.npy", "--output-prefix", "b_"]) == 0
    np.testing.assert_array_equal(np.load("a_logits.npy"), np.load("b_logits.npy"))


def test_exec_output_names(work: Path, io_model: tuple[str, list[str], list[str]]) -> None:
    model, inputs, outputs = io_model
    before = made(work)
    options = ["--output-dir", "deep/er", "--output-prefix", "r-", "--output-mode", "tensor_index"]
    assert main(["exec", model, *inputs, *options]) == 0
    expected = {f"deep/er/r-{i}.npy" for i in range(len(outputs))}
    assert made(work) - before == {"deep", "deep/er"} | expected


def test_exec_exposes_values(work: Path) -> None:
    assert (
        main(["exec", DEMO, "x.npy", "--expose", "weight_quant, /act?/*Quant_output_0", "--max-iters", "3"])
        == 0
    )
    with np.load("out_intermediates.npz") as inner:
        assert len(inner.files) == 5
        assert all("/" in name for name in inner.files)
        assert {inner[n].shape[0] for n in inner.files if "act" in n.split("/")[1]} == {3}
    assert np.load("out_logits.npy").shape == (3, 10)


def test_exposing_only_outputs_is_said(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exec", DEMO, "x.npy", "--expose", "logits"]) == 0
    assert "notice: --expose 'logits' names outputs only" in capsys.readouterr().err
    assert made(work) == {"out_logits.npy"}
    assert main(["exec", DEMO, "x.npy", "--expose", "logits,conv"]) == 0
    assert capsys.readouterr().err == ""


def test_the_readme_exposes_values_of_the_demo_model(work: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    line = next(x for x in text.splitlines() if x.startswith("qonnx-torch exec") and "--expose" in x)
    arguments = shlex.split(line, comments=True)[1:]
    assert main([DEMO if a == "model.onnx" else "cpu" if a == "cuda" else a for a in arguments]) == 0
    with np.load("out_intermediates.npz") as inner:
        assert any(n.startswith("/conv1/") for n in inner.files)


def test_an_error_inside_a_node_hides_torchs_view_of_the_graph(
    tmp_path: Path, make_model: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    nodes = [helper.make_node("Squeeze", ["x", "axes"], ["y"], name="the_squeeze")]
    axes = np.array([0], np.int64)
    onnx.save(make_model(nodes, inputs={"x": ("n", 3)}, initializers={"axes": axes}), "m.onnx")
    np.save("x.npy", np.zeros((2, 3), np.float32))
    for batch in ("keep", "2"):
        assert main(["exec", "m.onnx", "x.npy", "--batch", batch]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "'the_squeeze' (Squeeze)" in err
        assert err.rstrip(")\n").endswith("is not 1")


def test_exposed_values_verify_the_model(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exec", DEMO, "x.npy", "--expose", "*"]) == 0
    arguments = [
        "--inputs",
        "x.npy",
        "--expected",
        "out_logits.npy",
        "--intermediates",
        "out_intermediates.npz",
    ]
    assert main(["verify", DEMO, *arguments]) == 0
    out = capsys.readouterr().out
    assert "1 of 1 outputs equal" in out
    assert "15 layers, 0 tie flips, 0 errors" in out


@pytest.mark.parametrize("zero_center", [False, True])
def test_pixels_are_mapped_as_qonnx_exec_maps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_model: Make, zero_center: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(make_model([helper.make_node("Identity", ["x"], ["y"])], inputs={"x": (1, 256)}), "same.onnx")
    pixels = np.arange(256, dtype=np.uint8)[None]
    np.save("p.npy", pixels)
    assert (
        main(["exec", "same.onnx", "p.npy", "--pix2float", *(["--zero-center"] if zero_center else [])]) == 0
    )
    expected = (pixels / 255.0).astype(np.float32)  # the formulas of qonnx.util.exec_qonnx
    if zero_center:
        expected = (2 * expected - 1.0).astype(np.float32)
    result = np.load("out_y.npy")
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("last", ["ArgMax", "TopK"])
def test_labels_where_the_model_gives_indices(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_model: Make,
    last: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if last == "ArgMax":
        nodes, outputs = [helper.make_node("ArgMax", ["x"], ["y"], axis=1)], ["y"]
    else:
        nodes, outputs = [helper.make_node("TopK", ["x", "k"], ["v", "y"])], ["v", "y"]
    model = make_model(nodes, outputs=outputs, initializers={"k": np.array([2], np.int64)})
    onnx.save(model, "top.onnx")
    x = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [0, 5, 1, 1]], np.float32)
    np.save("x.npy", x)
    np.save("labels.npy", np.array([[3], [0], [2]]))  # the last one is wrong
    assert main(["exec", "top.onnx", "x.npy", "--labels", "labels.npy", "--no-save"]) == 0
    assert "accuracy: 66.67 % (2 of 3)" in capsys.readouterr().out


# -- verify ----------------------------------------------------------------------------------------


def test_verify_holds(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", DEMO, "--inputs", "x.npy", "--expected", "golden.npz"]) == 0
    assert "passed against expected values" in capsys.readouterr().out


def test_verify_does_not_hold(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("wrong.npz", out0=np.load("golden.npz")["logits"] + 1)
    arguments = ["verify", DEMO, "--inputs", "image=x.npy", "--expected", "wrong.npz"]
    assert main(arguments) == 1
    assert "first divergence: output 'logits'" in capsys.readouterr().out
    assert main([*arguments, "--atol", "2"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 1
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["passed"], report["first_divergence"], err) == (False, "logits", "")
    assert report["outputs"][0]["max_abs_diff"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("program", ["onnxruntime", "qonnx"])
def test_verify_against_a_program(work: Path, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(program)
    np.save("few.npy", np.load("x.npy")[:2])
    assert main(["verify", DEMO, "--inputs", "few.npy", "--against", program, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["reference"] == program
    assert len(report["layers"]) == 15
    assert report["errors"] == 0


def test_verify_where_the_reference_quantizes_in_other_steps(
    tmp_path: Path, make_model: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    attributes = {"domain": "qonnx.custom_op.general", "signed": 1, "narrow": 0, "rounding_mode": "ROUND"}
    node = helper.make_node("Quant", ["x", "s", "z", "b"], ["y"], **attributes)
    onnx.save(make_model([node], initializers={"s": 1.0, "z": 0.0, "b": 4.0}), "m.onnx")
    np.save("x.npy", np.array([[0.5, 1, 1, 1]], np.float32))  # a tie: 0 to even
    np.save("y.npy", np.array([[1, 1, 1, 1]], np.float32))
    arguments = ["verify", "m.onnx", "--inputs", "x.npy", "--expected", "y.npy"]
    assert main(arguments) == 1
    assert "1 errors" in capsys.readouterr().out
    assert main([*arguments, "--inexact-quantizers"]) == 0
    assert "1 tie flips, 0 errors" in capsys.readouterr().out


def test_verify_against_another_file(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(DEMO)
    weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
    changed = onnx.numpy_helper.to_array(weight).copy()
    changed[0] *= -1
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    onnx.save(model, "other.onnx")
    assert main(["verify", DEMO, "--inputs", "x.npy", "--against", "other.onnx"]) == 1
    assert "first divergence: Quant" in capsys.readouterr().out
    assert main(["verify", DEMO, "--inputs", "x.npy", "--against", DEMO, "--batch", "dynamic"]) == 0


@pytest.mark.parametrize(
    "program",
    [["-c", "import sys; from qonnx_torch.cli import main; sys.exit(main())"], ["-m", "qonnx_torch"]],
)
def test_the_program_ends_with_the_status(work: Path, program: list[str]) -> None:
    arguments = [sys.executable, *program, "exec", "nowhere.onnx"]
    run = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "error: nowhere.onnx: cannot be read (No such file or directory)\n"
