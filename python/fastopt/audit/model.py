"""What a parameter should become: a rule in float64 beside it, fed the same gradients."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.optim import Optimizer

from fastopt import reference, rules
from fastopt.verify import programs
from fastopt.verify.cases import RULES
from fastopt.verify.cases import Rule as Compiled

from .compare import Doubles, doubles

Rule: TypeAlias = "Compiled | rules.Rule"
Group: TypeAlias = "dict[str, Any]"

SUFFIXES = ("8bit", "4bit", "32bit", "fp8")
BETAS = ("beta1", "beta2", "beta3")  # what some packages have in the place of betas


def known_rules() -> dict[str, Rule]:
    """Every rule that fastopt has, by its name."""
    found: dict[str, Rule] = {rule.__name__: rule for rule in programs.library()}
    return found | {rule.name: rule for rule in RULES}


def plain(name: str) -> str:
    """A name as it is compared: without capitals, underscores and what tells of storage."""
    name = name.lower().replace("_", "")
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def rule_named(name: str) -> Rule | None:
    """The rule of this name, or of a class of this name."""
    for known, rule in known_rules().items():
        if plain(known) == plain(name):
            return rule
    return None


def name_of(rule: Rule) -> str:
    return rule.name if isinstance(rule, Compiled) else rule.__name__


def has_sums(rule: Rule | None) -> bool:
    """Whether it steps by norms or sums of a whole parameter."""
    if isinstance(rule, Compiled):
        return rule.norms
    return rule is not None and rule.sums


class Model:
    """A parameter as float64 would have it."""

    def __init__(self, param: Doubles) -> None:
        self.param = param

    def step(self, grad: Doubles, number: int) -> None:
        """Take step `number` by a gradient."""
        raise NotImplementedError

    def set_to_zero(self) -> None:
        self.param = np.zeros_like(self.param)


class RuleModel(Model):
    """By a rule's definition, with the options that the parameter's group holds at the time."""

    def __init__(self, rule: Rule, given: Group, group: Group, param: Doubles) -> None:
        super().__init__(param)
        self.rule, self.given, self.group = rule, given, group
        if isinstance(rule, Compiled):
            function = getattr(reference, rule.name)
            parameters = inspect.signature(function).parameters.values()
            self.keys = {it.name for it in parameters if it.kind == it.KEYWORD_ONLY} - {"step"}
            start = group.get("initial_accumulator_value", 0.0) if rule.name == "adagrad" else 0.0
            self.states = [np.full_like(param, start) for _ in rule.states]
            self.product = np.float32(1)
        else:
            self.keys = {option.name for option in rule.options}
            starts = [rule.start.get(name, 0.0) for name in rule.states]
            self.states = [
                param.copy() if it == "param" else np.full_like(param, float(it)) for it in starts
            ]
            self.kept = dict(rule.kept)

    def options(self) -> dict[str, Any]:
        """Those that the rule knows, of the group or else of the constructor, as numbers."""
        options = self.given | self.group
        if "betas" in self.keys and "betas" not in self.group and BETAS[0] in self.group:
            options["betas"] = tuple(self.group[it] for it in BETAS if it in self.group)
        return {key: number(options[key]) for key in self.keys & options.keys()}

    def step(self, grad: Doubles, number: int) -> None:
        options = self.options()
        if isinstance(self.rule, Compiled):
            if self.rule.factor is not None:
                factor = self.rule.factor(self.rule_options(options), number)
                self.product *= np.float32(factor)  # in float32, as torch keeps it
                options["mu_product"] = float(self.product)
            function: Callable[..., Any] = getattr(reference, self.rule.name)
            results = function(self.param, grad, *self.states, step=number, **options)
            self.param, self.states = results[0], list(results[1:])
            return
        results = self.rule.reference(
            self.param, grad, *self.states, t=number, **{**options, **self.kept}
        )
        count = 1 + len(self.states)
        self.param, self.states = results[0], list(results[1:count])
        self.kept = dict(zip(self.kept, results[count:], strict=True))

    def rule_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """With the defaults of what is not given."""
        function = getattr(reference, name_of(self.rule))
        defaults = {it.name: it.default for it in inspect.signature(function).parameters.values()}
        return {key: options.get(key, defaults[key]) for key in self.keys}


class OwnModel(Model):
    """By the same optimizer in float64, where no rule is known: what only rounding may tell apart."""

    def __init__(self, make: Callable[[Any], Optimizer], group: Group, param: Doubles) -> None:
        self.tensor = torch.nn.Parameter(torch.from_numpy(param.copy()))
        self.optimizer = make([{**group, "params": [self.tensor]}])
        self.taken = 0
        super().__init__(param)

    def step(self, grad: Doubles, number: int) -> None:
        with torch.no_grad():
            self.tensor.copy_(torch.from_numpy(self.param))
        self.tensor.grad = torch.from_numpy(grad.copy())
        if number != self.taken + 1:
            set_step_counts(self.optimizer, number - 1)
        self.optimizer.step()
        self.param, self.taken = doubles(self.tensor), number


def number(value: Any) -> Any:
    """A tensor or a sequence of them as Python's numbers."""
    if isinstance(value, torch.Tensor):
        return value.item()
    if isinstance(value, (tuple, list)):
        return tuple(number(it) for it in value)
    return value


def set_step_counts(optimizer: Optimizer, count: int) -> bool:
    """Make an optimizer believe that it has taken so many steps; False if it counts none."""
    places: list[dict[str, Any]] = [*optimizer.state.values(), *optimizer.param_groups]
    found = False
    for entries in places:
        step = entries.get("step")
        if isinstance(step, torch.Tensor):
            step.fill_(count)
        elif isinstance(step, (int, float)):
            entries["step"] = count
        else:
            continue
        found = True
    return found
