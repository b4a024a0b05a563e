"""What goes to the terminal: results to stdout, everything else to stderr."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["error", "notice", "notices", "progress_bar", "result"]


def result(text: str) -> None:
    """Writes a result."""
    print(text)


def notice(text: str) -> None:
    """Writes something to know."""
    print(f"notice: {text}", file=sys.stderr)


def error(text: str) -> None:
    """Writes why the command failed."""
    print(f"error: {text}", file=sys.stderr)


@contextmanager
def notices() -> Iterator[None]:
    """Shows warnings to the user as one-line notices, and those meant for developers not at all."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        notice(str(message).strip().splitlines()[0])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        yield


@contextmanager
def progress_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a callback (finished, total) that moves a bar on stderr; silent where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance
