"""What a type checker and an editor see: annotations, docstrings, stubs, and programs that use it all.

Four programs in surface/ use everything that is public; they must run, and pass `mypy --strict`.
"""

import ast
import functools
import inspect
import os
import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler

import fastopt
from conftest import RunPython

ROOT = Path(__file__).resolve().parents[2]
SURFACE = ("whole_surface.py", "more_optimizers.py", "rules_surface.py", "on_arrays.py")
PROGRAMS = [Path(__file__).parent / "surface" / name for name in SURFACE]
PACKAGE = Path(fastopt.__file__).parent
MODULES = [fastopt, fastopt.kernels, fastopt.nn, fastopt.nn.functional, fastopt.optim]
MODULES += [fastopt.reference, fastopt.averages, fastopt.gradients, fastopt.schedules]
OPTIMIZERS = [getattr(fastopt.optim, name) for name in fastopt.optim.__all__]
OPTIMIZERS = [it for it in OPTIMIZERS if inspect.isclass(it) and issubclass(it, torch.optim.Optimizer)]
OPTIMIZERS = [it for it in OPTIMIZERS if it.__module__.startswith("fastopt")]

needs_mypy = pytest.mark.skipif(not find_spec("mypy"), reason="needs mypy, of fastopt[dev]")


# ---- what is public -------------------------------------------------------------------------------


def public() -> dict[str, Any]:
    """Every public name, `optim.Adam` for example, and what it stands for; not what is torch's."""
    named = {
        f"{module.__name__.removeprefix('fastopt.')}.{name}": getattr(module, name)
        for module in MODULES
        for name in module.__all__
    }
    return {name: it for name, it in named.items() if not is_torchs(it)}


def is_torchs(it: Any) -> bool:
    name = it.__name__ if inspect.ismodule(it) else getattr(it, "__module__", None)
    return str(name).startswith("torch.")


FUNCTIONS = {name: it for name, it in public().items() if inspect.isfunction(it)}
CLASSES = {name: it for name, it in public().items() if inspect.isclass(it)}


def members(cls: type) -> dict[str, Any]:
    """The public methods and properties of a class that fastopt defines."""
    return {
        name: member
        for base in reversed(cls.__mro__)
        if base.__module__.startswith("fastopt")
        for name, member in vars(base).items()
        if not name.startswith("_")
        and isinstance(member, (types.FunctionType, property, functools.cached_property))
    }


def constructor(cls: type) -> types.FunctionType | None:
    """The ``__init__`` that fastopt wrote for a class; None where that is another's."""
    inits = (vars(base).get("__init__") for base in cls.__mro__)
    nearest = next(init for init in inits if init)
    written = isinstance(nearest, types.FunctionType) and not is_dataclass(cls)
    return nearest if written and nearest.__module__.startswith("fastopt") else None


def callables() -> Iterator[Any]:
    """Every public function, constructor, method and property's getter, as a pytest parameter."""
    for name, function in FUNCTIONS.items():
        yield pytest.param(function, id=name)
    for name, cls in CLASSES.items():
        if init := constructor(cls):
            yield pytest.param(init, id=f"{name}()")
        for key, member in members(cls).items():
            yield pytest.param(getattr(member, "fget", member), id=f"{name}.{key}")


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return [it for it in inspect.signature(function).parameters.values() if it.name != "self"]


def test_public_names_are_found() -> None:
    assert {"fastopt.info", "kernels.adam_", "reference.adam"} <= FUNCTIONS.keys()
    assert {"nn.mc_dropout", "nn.functional.dropout"} <= FUNCTIONS.keys()
    assert {"nn.Dropout", "nn.StochasticDepth"} <= CLASSES.keys()
    assert {cls.__name__ for cls in OPTIMIZERS} <= {name.split(".")[-1] for name in CLASSES}
    assert {"step", "grad_norm", "swap_ema", "ema_parameters"} <= members(fastopt.optim.Adam).keys()


# ---- annotations and docstrings -------------------------------------------------------------------


@pytest.mark.parametrize("function", [*callables()])
def test_annotations_are_complete(function: Callable[..., Any]) -> None:
    for parameter in parameters(function):
        assert parameter.annotation is not parameter.empty, parameter
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty
    hints = typing.get_type_hints(function)  # NameError for what a reader could not resolve either
    assert {it.name for it in parameters(function)} | {"return"} <= hints.keys()


@pytest.mark.parametrize("function", [*callables()])
def test_there_is_a_docstring(function: Callable[..., Any]) -> None:
    if function.__name__ != "__init__":  # a class describes its constructor
        assert inspect.getdoc(function)


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_a_class_describes_its_arguments(cls: type) -> None:
    assert cls.__doc__
    names = [it.name for it in parameters(constructor(cls) or object)]
    assert [name for name in names if name not in cls.__doc__] == []


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_an_editor_shows_every_option_of_a_constructor(cls: type) -> None:
    """No ``**kwargs`` swallows a misspelt option, and none is hidden by one."""
    kinds = {it.kind for it in inspect.signature(cls).parameters.values()}
    assert kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    "name", [it for it in FUNCTIONS if it.startswith(("kernels.", "reference.", "nn.functional."))]
)
def test_a_rule_names_every_argument(name: str) -> None:
    variadic = {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    assert not variadic & {it.kind for it in parameters(FUNCTIONS[name])}


# ---- the example ----------------------------------------------------------------------------------


def dotted(node: ast.expr) -> str:
    """``optim.Adam`` of the expression that means it, "" of others."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


@pytest.fixture(scope="module")
def example() -> list[ast.AST]:
    """The nodes of the examples' syntax trees."""
    return [node for it in PROGRAMS for node in ast.walk(ast.parse(it.read_text()))]


def test_the_example_uses_every_public_name(example: list[ast.AST]) -> None:
    used = {dotted(node) for node in example if isinstance(node, ast.Attribute)}
    for node in example:
        if isinstance(node, ast.ImportFrom) and node.module == "fastopt":
            used |= {f"fastopt.{alias.name}" for alias in node.names}
    assert public().keys() - used == set()


def test_the_example_uses_every_public_member(example: list[ast.AST]) -> None:
    used = {node.attr for node in example if isinstance(node, ast.Attribute)}
    for name, cls in CLASSES.items():
        offered = (
            set(members(cls)) | {it.name for it in fields(cls)} if is_dataclass(cls) else members(cls)
        )
        for base in (torch.nn.Module, LRScheduler):  # whose forward() and get_lr() others call
            if issubclass(cls, base):
                offered = {it for it in offered if not hasattr(base, it)}
        assert set(offered) - used == set(), name


def test_the_example_passes_every_option(example: list[ast.AST]) -> None:
    """By keyword: all hyperparameters of all optimizers, modules, kernels and references."""
    passed: dict[str, set[str | None]] = {}
    for node in example:
        if isinstance(node, ast.Call):
            passed.setdefault(dotted(node.func), set()).update(it.arg for it in node.keywords)
    layers = {name: cls for name, cls in CLASSES.items() if name.startswith("nn.")}
    optimizers = {f"optim.{c.__name__}": c for c in OPTIMIZERS}
    for name, function in {**FUNCTIONS, **layers, **optimizers}.items():
        options = {it.name for it in parameters(function) if it.kind is it.KEYWORD_ONLY}
        if function in OPTIMIZERS:
            options = {it.name for it in parameters(function)} - {"params"}
        if function is fastopt.optim.LBFGS:
            options -= {"maximize"}  # of torch 2.15 and later
        assert options - passed.get(name, set()) == set(), name


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_the_example_runs(run_python: RunPython, path: Path) -> None:
    result = run_python(str(path))
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr


def mypy(*arguments: str | Path, cwd: Path, path: Path | None) -> subprocess.CompletedProcess[str]:
    """Run ``python -m *arguments``; `path` is a folder of packages that the interpreter lacks."""
    env = os.environ | ({"MYPYPATH": str(path)} if path else {})
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)


@needs_mypy
def test_the_example_passes_mypy_strict() -> None:
    """With the package as it is installed; an editable one is where mypy does not look."""
    editable = PACKAGE.parent.name not in ("site-packages", "dist-packages")
    path = PACKAGE.parent if editable else None
    result = mypy("mypy", "--strict", *PROGRAMS, cwd=ROOT, path=path)
    assert result.returncode == 0, result.stdout + result.stderr


# ---- what is installed for type checkers ----------------------------------------------------------


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "_C.pyi").is_file()


@needs_mypy
def test_the_stub_is_what_the_extension_is(tmp_path: Path) -> None:
    """mypy's stubtest imports the extension and compares; here without the rest of the package."""
    for folder in ("fastopt", "fastopt/optim"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.pyi").touch()
    for name in ("_C.pyi", "optim/_stepped.py"):  # what C++ asks of an optimizer
        shutil.copy(PACKAGE / name, tmp_path / "fastopt" / name)
    result = mypy("mypy.stubtest", "fastopt._C", cwd=tmp_path, path=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
