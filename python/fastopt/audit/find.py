"""From a command line to an optimizer: dotted paths, ``key=value`` options, names of rules."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from fastopt.rules import Rule as PythonRule
from fastopt.verify import programs

from .model import Rule, known_rules, rule_named
from .subject import MakeOptimizer


def find_class(path: str) -> type[Optimizer]:
    """The optimizer's class at ``package.module.Name``; of a rule in Python, that which it makes."""
    found: Any = None
    names = path.replace(":", ".").split(".")
    for count in range(len(names) - 1, 0, -1):
        module = ".".join(names[:count])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and (module + ".").startswith(error.name + "."):
                continue
            raise ValueError(f"{module} cannot be imported: {error}") from error
        except Exception as error:
            raise ValueError(f"{module} cannot be imported: {error}") from error
        break
    try:
        for name in names[count:] if found is not None else names:
            found = getattr(found, name)
    except AttributeError:
        raise ValueError(f"there is no {path}") from None
    if isinstance(found, PythonRule):
        found = found.optimizer(found.__name__, "fastopt.audit")
    if not (inspect.isclass(found) and issubclass(found, Optimizer)):
        raise ValueError(f"{path} is {found!r:.60}, not a class of torch optimizers")
    return found


def find_rule(name: str) -> Rule:
    """A rule that fastopt has, by its name, or anybody's as ``package.module:name``."""
    found = programs.find(name) if ":" in name else rule_named(name)
    if found is None:
        raise ValueError(f"no rule {name!r}; there are {', '.join(known_rules())}")
    return found


def rule_of(cls: type[Optimizer]) -> Rule | None:
    """The rule that a class is made of, or of which it has the name."""
    rule: Rule | None = getattr(cls, "rule", None)
    return rule if isinstance(rule, PythonRule) else rule_named(cls.__name__)


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """``key=value``: numbers, tuples, True, None, torch.bfloat16; whatever else is a string."""
    options: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"{word!r} is not key=value")
        value: Any = getattr(torch, text[6:], None) if text.startswith("torch.") else None
        if value is None:
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                value = text
        options[key] = value
    return options


def maker(cls: type[Optimizer], options: dict[str, Any]) -> MakeOptimizer:
    """What makes one of this class with these options."""

    def make(params: Any) -> Optimizer:
        return cls(params, **options)

    return make
