"""docs/guide.md: its blocks run in their order, its files are there, its pictures are small."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
GUIDE = DOCS / "guide.md"

pytestmark = pytest.mark.skipif(not GUIDE.is_file(), reason="needs the repository's docs")


def test_the_blocks_run(set_threads: Callable[[int], None]) -> None:
    """In one namespace, as a reader would paste them; they assert what the text says of them."""
    pytest.importorskip("sklearn")
    set_threads(1)
    text = GUIDE.read_text()
    namespace: dict[str, Any] = {}
    blocks = list(re.finditer(r"```python\n(.*?)```", text, re.DOTALL))
    assert len(blocks) > 10
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        # Empty lines before it, so that a traceback tells the line of the page.
        exec(compile("\n" * line + block[1], str(GUIDE), "exec"), namespace)


def test_what_it_links_to_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", GUIDE.read_text())
    assert links
    assert [link for link in links if not (DOCS / link).exists()] == []


def test_its_pictures_are_small() -> None:
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", GUIDE.read_text())
    assert pictures
    assert all((DOCS / it).stat().st_size < 100_000 for it in pictures)
