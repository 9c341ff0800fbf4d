"""Functions by value: a rule of a notebook goes to processes that cannot import it."""

from __future__ import annotations

import builtins
import marshal
import sys
from collections.abc import Iterator
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any


def value_of(function: Any) -> tuple[bytes, dict[str, Any]]:
    """A function's code, and what of its surroundings the code names."""
    code: CodeType = function.__code__
    cells = function.__closure__ or ()
    return marshal.dumps(code), {
        "name": function.__qualname__,
        "module": function.__module__,
        "doc": function.__doc__,
        "annotations": {
            key: it for key, it in function.__annotations__.items() if isinstance(it, (str, type))
        },
        "defaults": function.__defaults__,
        "kwdefaults": function.__kwdefaults__,
        "globals": {
            name: _packed(function.__globals__[name], function)
            for name in sorted(_names(code))
            if name in function.__globals__
        },
        "cells": [_packed(it.cell_contents, function) for it in cells],
    }


def function_of(code: bytes, around: dict[str, Any]) -> FunctionType:
    """The function that `value_of` took apart."""
    scope: dict[str, Any] = {"__builtins__": builtins, "__name__": around["module"]}
    cells = tuple(CellType() for _ in around["cells"])
    made = FunctionType(marshal.loads(code), scope, None, around["defaults"], cells)
    for cell, it in zip(cells, around["cells"], strict=True):
        cell.cell_contents = _unpacked(it, made)
    scope.update({name: _unpacked(it, made) for name, it in around["globals"].items()})
    made.__kwdefaults__ = around["kwdefaults"]
    made.__qualname__, made.__doc__ = around["name"], around["doc"]
    made.__name__ = around["name"].rsplit(".", 1)[-1]
    made.__annotations__ = around["annotations"]
    return made


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for it in code.co_consts:
        if isinstance(it, CodeType):
            yield from _names(it)


def _packed(it: Any, function: Any) -> tuple[str, Any]:
    if it is function:
        return "itself", None
    if isinstance(it, ModuleType):
        return "module", it.__name__
    if isinstance(it, FunctionType) and it.__module__ == function.__module__:
        return "function", value_of(it)
    return "value", it


def _unpacked(packed: tuple[str, Any], function: FunctionType) -> Any:
    kind, it = packed
    if kind == "itself":
        return function
    if kind == "module":
        __import__(it)
        return sys.modules[it]
    return function_of(*it) if kind == "function" else it
