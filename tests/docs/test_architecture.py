"""docs/architecture.md's table of folders beside every #include and import; no circle of imports."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC, PACKAGE = ROOT / "csrc", ROOT / "python" / "fastopt"
LIBRARIES = {
    "NumPy": "numpy",
    "torch": "torch",
    "rich": "rich",
    "matplotlib": "matplotlib",
    "timm": "timm",
}
EVERYBODYS = CSRC / "target.h"

pytestmark = pytest.mark.skipif(not CSRC.is_dir(), reason="needs fastopt's source tree")


@dataclass(frozen=True)
class Row:
    """A row of the table: the places it is about, and what they may use."""

    places: tuple[Path, ...]
    allowed: tuple[Path | str, ...]  # a file, a folder with all that is in it, or a library


@functools.cache
def table() -> list[Row]:
    """The rows, whose second and later places are named by their last part alone."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.split("\n## Folders\n")[1].split("\n## ")[0]
    rows = []
    for line in section.splitlines():
        if not line.startswith("| `"):
            continue
        folder, _, uses = line.strip("| ").split(" | ")
        first, *others = (ROOT / it for it in re.findall(r"`([^`]+)`", folder))
        places = (first, *(first.parent / other.name for other in others))
        base = CSRC if first.is_relative_to(CSRC) else PACKAGE
        plain = re.sub(r"\([^)]*\)", "", uses)  # in which reasons stand
        named = [base / it for it in re.findall(r"`([^`]+)`", plain)]
        libraries = [LIBRARIES[it] for it in re.findall(rf"\b(?:{'|'.join(LIBRARIES)})\b", plain)]
        assert len(named) + len(libraries) > 0 or uses == "nothing", line
        rows.append(Row(places, (*named, *libraries)))
    return rows


@functools.cache
def row_of(path: Path) -> Row:
    """The row of the nearest place that a file is, or lies in."""
    found = [(len(place.parts), row) for row in table() for place in row.places if covers(place, path)]
    assert found, f"{path.relative_to(ROOT)} has no row in docs/architecture.md"
    return max(found, key=lambda it: it[0])[1]


def covers(place: Path | str, used: Path | str) -> bool:
    """Whether something used is a place, or lies in it."""
    return used == place or (isinstance(used, Path) and place in used.parents)


# ---- what there is --------------------------------------------------------------------------------


def includes(path: Path) -> Iterator[Path]:
    """Of a C++ file, fastopt's own."""
    for name in re.findall(r'^#\s*include "([^"]+)"', path.read_text(), re.MULTILINE):
        if (CSRC / name).is_file():
            yield CSRC / name
        else:
            assert name.startswith("dlpack"), f"{path}: {name}"


def imports(path: Path, *, at_once: bool = False) -> Iterator[Path | str]:
    """Files of fastopt and names of libraries that a Python file imports when it runs.

    `at_once`: while it is itself imported, and not later, in a function.
    """
    here = ["fastopt", *path.relative_to(PACKAGE).parent.parts]
    for node in running(ast.parse(path.read_text()), at_once):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from filter(None, map(file_of, found))


def running(node: ast.AST, at_once: bool) -> Iterator[ast.AST]:
    """The nodes below one, but for those that only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if at_once and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        yield child
        yield from running(child, at_once)


def file_of(name: str) -> Path | str | None:
    """The file of a module or of a name in it; the name of a library; None of Python's own."""
    first, *rest = name.split(".")
    if first != "fastopt":
        return None if first in sys.stdlib_module_names else first
    path = PACKAGE
    for part in rest:
        if path == PACKAGE and part == "_C":
            return PACKAGE / "_C"
        if (path / f"{part}.py").is_file():
            return path / f"{part}.py"
        if not (path / part).is_dir():
            break
        path = path / part
    return path / "__init__.py"


SOURCES = [path for path in sorted(CSRC.rglob("*")) if path.suffix in (".h", ".cpp", ".cu")]
MODULES = sorted(PACKAGE.rglob("*.py"))
USES: dict[Path, set[Path | str]] = {
    **{path: set(includes(path)) - {EVERYBODYS} for path in SOURCES},
    **{path: set(imports(path)) for path in MODULES},
}


# ---- the tests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", USES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_uses_what_the_table_allows(path: Path) -> None:
    row = row_of(path)
    for used in USES[path]:
        if isinstance(used, Path) and used != PACKAGE / "_C" and row_of(used) == row:
            continue
        name, may = path.relative_to(ROOT), any(covers(it, used) for it in row.allowed)
        assert may, f"{used}: docs/architecture.md does not let {name} use it"


@pytest.mark.parametrize("row", table(), ids=lambda row: str(row.places[0].relative_to(ROOT)))
def test_the_table_allows_nothing_that_nobody_uses(row: Row) -> None:
    assert all(place.exists() for place in row.places)
    used = {it for path, uses in USES.items() if row_of(path) == row for it in uses}
    for allowed in row.allowed:
        assert any(covers(allowed, it) for it in used), allowed


def test_no_circle_of_imports() -> None:
    """Among modules, at the time of their import."""
    graph = {
        path: {it for it in imports(path, at_once=True) if isinstance(it, Path)} - {path}
        for path in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(str(Path(it).relative_to(PACKAGE)) for it in error.args[1]))


def test_an_import_in_a_function_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    path = PACKAGE / "reference" / "adam.py"
    text = "def later() -> None:\n    from fastopt import optim\n    import torch\n"
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    assert {PACKAGE / "optim" / "__init__.py", "torch"} <= set(imports(path))
    assert not {PACKAGE / "optim" / "__init__.py", "torch"} & set(imports(path, at_once=True))
