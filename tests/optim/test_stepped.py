"""What C++ and Python know of each other: ``Stepped``, and nothing beside it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import fastopt
from fastopt.optim._entries import AROUND
from fastopt.optim._fused import Fused
from fastopt.optim._stepped import Stepped

SOURCES = Path(__file__).parents[2] / "csrc" / "bindings"
ASKED = {name: it for name, it in vars(Stepped).items() if name.startswith("_") and name[1] != "_"}
ASKED = {name: it for name, it in ASKED.items() if inspect.isfunction(it)}

everything = [getattr(fastopt.optim, name) for name in fastopt.optim.__all__]
CLASSES = [it for it in everything if isinstance(it, type) and issubclass(it, Fused)]

pytestmark = pytest.mark.skipif(not SOURCES.is_dir(), reason="needs fastopt's source tree")


def strings_of(path: Path) -> set[str]:
    """The names with an underscore that a source of C++ has as strings."""
    return set(re.findall(r'"(_[a-z]\w*)"', path.read_text()))


def test_cpp_asks_for_what_python_names() -> None:
    assert strings_of(SOURCES / "step" / "stepped.h") == ASKED.keys()


def test_cpp_asks_nowhere_else() -> None:
    elsewhere = [path for path in SOURCES.rglob("*.[hc]*") if path.name != "stepped.h"]
    members = {name for kind in Fused.__mro__ for name in vars(kind)}
    assert len(elsewhere) > 20
    for path in elsewhere:
        assert not strings_of(path) & members, path


@pytest.mark.parametrize("kind", CLASSES)
def test_every_optimizer_answers_as_it_is_asked(kind: type[Fused]) -> None:
    for method, asked in ASKED.items():
        assert getattr(kind, method) is not asked
        given, wanted = (inspect.signature(it).parameters for it in (getattr(kind, method), asked))
        assert list(given) == list(wanted), method


def test_python_names_the_entries_that_cpp_keeps() -> None:
    source = (SOURCES / "step" / "entries.h").read_text()
    kept = source[source.index("struct Kept {") :]
    assert set(re.findall(r'InternFromString\("(\w+)"\)', kept)) == AROUND.keys()
