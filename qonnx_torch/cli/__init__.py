"""The command line `qonnx-torch`. One module per command; `COMMANDS` lists them.

Exit status: 0 it holds (or is done), 1 it does not hold, 2 it could not run, 130 interrupted. Nothing heavy
is imported at module level here or in the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from qonnx_torch import __version__
from qonnx_torch.errors import QonnxTorchError

from . import execute, info, verify
from .console import error, notices

__all__ = ["app", "main"]

COMMANDS: dict[str, Callable[..., int]] = {
    "info": info.command,
    "exec": execute.command,
    "verify": verify.command,
}
"""Command name -> function. Its docstring is the help; what it returns is the exit status."""

_CLICK_ERROR = typer.BadParameter.__mro__[2]
"""ClickException, wherever the installed typer has it from."""

app = typer.Typer(
    name="qonnx-torch",
    help="Read, run and verify QONNX models with PyTorch.",
    epilog="Exit status: 0 holds or done, 1 does not hold, 2 could not run.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"qonnx-torch {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (anywhere in the line).")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status.

    Args:
        argv: arguments without the program's name; those of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"] or ["--help"]
    with notices():
        try:
            status = app(arguments, prog_name="qonnx-torch", standalone_mode=False)
            return status if isinstance(status, int) else 0
        except (KeyboardInterrupt, typer.Abort):
            error("interrupted")
            return 130
        except Exception as problem:
            if debug:
                traceback.print_exc()
            error(_text(problem))
            return 2


def _text(problem: Exception) -> str:
    if isinstance(problem, _CLICK_ERROR):
        context = getattr(problem, "ctx", None)
        where = context.command_path if context else "qonnx-torch"
        return f"{problem.format_message()} (see {where} --help)"  # type: ignore[attr-defined]
    if isinstance(problem, QonnxTorchError):
        return str(problem)
    if isinstance(problem, OSError) and problem.strerror:
        return f"{problem.filename}: {problem.strerror}" if problem.filename else problem.strerror
    first = (str(problem).strip() or "no message").splitlines()[0]
    return f"unexpected {type(problem).__name__}: {first} (run again with --debug for the traceback)"
