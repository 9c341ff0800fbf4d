"""How a command ends and where its results go, whatever becomes of its output.

The exit status is 1 for a wrong bit (verify) or a slower case (bench) and for nothing else; 2 for all
other failures. Results are saved before they are printed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 2  # the exit status
NARROWEST = 20  # columns; less are no screen, and rich would print nothing into 0
SECONDS = 1.0  # between two states of a file that is written while the work goes on


def run(command: Callable[[], int]) -> int:
    """A command's exit status, with everything that may end it early told in a line or two."""
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:  # closed from the start
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # where the encoding has no ± or µ
    try:
        status = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = FAILED
    except BrokenPipeError:
        status = FAILED
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        status = FAILED
    except Exception:
        traceback.print_exc()
        status = FAILED
    if not flushed(sys.stdout):
        discard(sys.stdout)
        status = status or FAILED
    return status


def flushed(stream: TextIO) -> bool:
    try:
        stream.flush()
    except (OSError, ValueError):
        return False
    return True


def discard(stream: TextIO) -> None:
    """Send what is still to be written nowhere, or Python would fail on it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def printing() -> Iterator[None]:
    """For what is printed after the work: a reader that has seen enough (head) changes nothing."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout)


def new_console(**options: Any) -> Console:
    """rich's, of a width in which something can be seen."""
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:  # rich's exits with status 1
            raise

    console = Ours(**options)
    return console if console.width >= NARROWEST else Ours(width=80, **options)


@contextmanager
def progress(columns: tuple[Any, ...]) -> Iterator[Any]:
    """rich's progress bar, on a terminal only, and beside the results."""
    from rich.progress import Progress

    console = new_console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield bar


def write_json(path: Path, facts: Any) -> None:
    """All or nothing: the old file stays until the new one is complete."""
    target = Path(os.path.realpath(path))
    text = json.dumps(facts, indent=1) + "\n"
    if target.exists() and not target.is_file():  # a device or a pipe
        target.write_text(text, encoding="utf-8")
        return
    part = part_of(target)
    part.write_text(text, encoding="utf-8")
    if target.exists():
        shutil.copymode(target, part)
    part.replace(target)


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


@contextmanager
def saved(path: Path | None, facts: Callable[[], Any]) -> Iterator[Callable[[], None]]:
    """Saves the facts when the block ends, however it ends; None is not worth to be saved.

    The function that it gives is called when there are new ones. They are written to a file beside
    the old one (FILE.part), which is what is left if the process is killed.
    """
    last = time.monotonic()

    def save() -> None:
        nonlocal last
        if path is None or time.monotonic() < last + SECONDS:
            return
        last = time.monotonic()
        target = Path(os.path.realpath(path))
        if (new := facts()) is not None and (not target.exists() or target.is_file()):
            part_of(target).write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")

    try:
        yield save
    finally:
        if path is not None and (new := facts()) is not None:
            write_json(path, new)
