"""What the commands' argument parsers share."""

from __future__ import annotations

import argparse
from pathlib import Path


def writable(text: str) -> Path:
    """A file that can be written, found out now rather than at the end of the work."""
    path = Path(text)
    if not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a file in an existing folder")
    return path
