"""What the commands' argument parsers share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def writable(text: str) -> Path:
    """A file that can be written, found out now rather than at the end of the work."""
    try:
        path = Path(os.path.realpath(text))
        if not path.parent.is_dir() or path.is_dir():
            raise argparse.ArgumentTypeError(f"{text!r} is not a file in an existing folder")
        is_new = not path.exists()
        if is_new or path.is_file():  # a pipe would wait for its reader
            with path.open("ab"):
                pass
        if is_new:
            path.unlink()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {error.strerror}") from None
    return Path(text)
