"""What is verified: every rule with every combination of its options that makes sense.

A new rule is one `Rule` in `RULES`. Its reference, kernel and optimizer are looked up by name, at
each call anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from fastopt import optim, reference
from fastopt._facts import Facts, facts_of
from fastopt.optim._fused import Fused

Options = dict[str, Any]

STEPS = (1, 2, 10, 1000, 10**6)
"""Numbers of the first step of a trial; each is followed by the next ones."""


def always(options: Options) -> bool:
    """The default of `State.used` and of `Rule.allowed`."""
    return True


@dataclass(frozen=True)
class State:
    """A state array of a rule."""

    name: str
    square: bool = False  # made of squares, hence mostly not negative
    used: Callable[[Options], bool] = always


@dataclass(frozen=True)
class Rule:
    """A rule and its options.

    Its reference is fastopt.reference's `name`, its kernel fastopt.kernels' with an underscore. Which
    states there are the rule says itself; which of them an option needs is said here anew.
    """

    name: str
    optimizer: str  # the class in fastopt.optim
    choices: Mapping[str, tuple[Any, ...]]  # every combination of these is verified,
    numbers: Mapping[str, tuple[Any, ...]]  # with values drawn from these where it has no 0
    allowed: Callable[[Options], bool] = field(default=always)
    used: Mapping[str, Callable[[Options], bool]] = field(default_factory=dict)  # always, if not named
    factor: Callable[[Options, int], float] | None = None  # of a step, in the rule's product

    @property
    def cls(self) -> type[Fused]:
        """The optimizer."""
        found: type[Fused] = getattr(optim, self.optimizer)
        return found

    @property
    def called(self) -> str:
        """The optimizer's name, for people."""
        return f"fastopt.optim.{self.optimizer}"

    @property
    def kept(self) -> dict[str, float]:
        """The numbers that a rule in Python keeps, as they begin."""
        return {}

    def reference(self, *arrays: Any, step: int, **options: Any) -> tuple[Any, ...]:
        """What fastopt.reference makes of them."""
        results: tuple[Any, ...] = getattr(reference, self.name)(*arrays, step=step, **options)
        return results

    def start(self, state: str, param: Any) -> Any:
        """What a state begins as."""
        return np.zeros_like(param)

    def takes_codes(self, state: str) -> bool:
        """Whether it may be kept in 8 bits."""
        return True

    @cached_property
    def facts(self) -> Facts:
        """What the rule says of itself."""
        return facts_of(self.cls._rule)

    @cached_property
    def states(self) -> tuple[State, ...]:
        """The states, in the rule's order."""
        squares = self.facts.squares
        return tuple(
            State(name, name in squares, self.used.get(name, always)) for name in self.facts.states
        )

    @property
    def norms(self) -> bool:
        """Whether it steps by norms of whole parameters."""
        return self.facts.norms

    @property
    def takes_packings(self) -> bool:
        """Whether it takes masters, random rounding and states in 8 bits."""
        return not self.norms

    def combinations(self) -> list[Options]:
        """Every combination of the choices that is allowed."""
        values = itertools.product(*self.choices.values())
        every = [dict(zip(self.choices, combination, strict=True)) for combination in values]
        return [options for options in every if self.allowed(options)]

    def draw(self, combination: Options, rng: np.random.Generator) -> Options:
        """The combination with its numbers drawn."""
        options = dict(combination)
        for name, values in self.numbers.items():
            if combination.get(name, True):
                options[name] = values[rng.integers(len(values))]
        return options

    def constructed(self, options: Options) -> Options:
        """Those that the optimizer is made with: it keeps the product itself."""
        return {key: value for key, value in options.items() if key != self.facts.product}

    def within(self, options: Options, steps: Iterable[int]) -> Options:
        """The options with the product that an optimizer has in the last of these steps."""
        if self.factor is None or self.facts.product is None:
            return options
        product = np.float32(1)
        for step in steps:
            product *= np.float32(self.factor(options, step))
        return options | {self.facts.product: float(product)}


def sgd_allowed(options: Options) -> bool:
    """Forms of momentum exclude each other and need a momentum."""
    forms = [options[n] for n in ("dampening", "nesterov", "exponential_average")]
    if sum(map(bool, forms)) > (1 if options["momentum"] else 0):
        return False
    if options["bias_correction"] and not options["exponential_average"]:
        return False
    return cautious_allowed(options)


def decay_allowed(options: Options) -> bool:
    """Where nothing decays there is nothing to decouple."""
    if options.get("cautious_decay") and not options["decoupled_weight_decay"]:
        return False
    return bool(options["weight_decay"] or not options["decoupled_weight_decay"])


def cautious_allowed(options: Options) -> bool:
    """Where nothing decays there is nothing to be cautious of."""
    return bool(options["weight_decay"] or not options["cautious_decay"])


def has_momentum(options: Options) -> bool:
    """Whether there is one to keep."""
    return bool(options["momentum"] != 0)


def is_centered(options: Options) -> bool:
    """Whether a mean is taken off the squares."""
    return bool(options["centered"])


def is_amsgrad(options: Options) -> bool:
    """Whether the largest average counts."""
    return bool(options["amsgrad"])


def nadam_factor(options: Options, step: int) -> float:
    """What a step of NAdam multiplies its product by."""
    return reference.nadam_mu(step, options["betas"][0], options["momentum_decay"])


SWITCH = (False, True)
COMMON_CHOICES = {"weight_decay": (0.0, 0.1), "maximize": SWITCH}
# In float32, 1e-40 is denormal and 1e-60 rounds to 0, which does not switch an option off.
COMMON_NUMBERS = {"lr": (1e-3, 1e-2, 0.3), "weight_decay": (0.1, 1e-2, 1e-4, 1e-60)}
MOMENTUM = (0.9, 0.5, 0.99, 1e-60)
BETAS = ((0.9, 0.999), (0.8, 0.95), (0.0, 0.5), (0.99, 0.9))
EPS = (1e-8, 1e-3, 1e-40, 1e-60, 0.0)

ADAM_CHOICES = {
    **COMMON_CHOICES,
    "amsgrad": SWITCH,
    "bias_correction": SWITCH,
    "eps_inside_sqrt": SWITCH,
    "cautious_decay": SWITCH,
}
ADAM_NUMBERS = {
    **COMMON_NUMBERS,
    "betas": BETAS,
    "eps": EPS,
}

RULES = (
    Rule(
        "sgd",
        "SGD",
        choices={
            **COMMON_CHOICES,
            "momentum": (0.0, 0.9),
            "dampening": (0.0, 0.97),
            "nesterov": SWITCH,
            "exponential_average": SWITCH,
            "bias_correction": SWITCH,
            "cautious_decay": SWITCH,
        },
        numbers={**COMMON_NUMBERS, "momentum": MOMENTUM, "dampening": (0.97, -0.5, 1.0)},
        allowed=sgd_allowed,
        used={"momentum_buffer": has_momentum},
    ),
    Rule(
        "adagrad",
        "Adagrad",
        choices={**COMMON_CHOICES, "lr_decay": (0.0, 0.01)},
        numbers={**COMMON_NUMBERS, "lr_decay": (0.01, 1e-5, 1.0), "eps": (1e-10, *EPS)},
    ),
    Rule(
        "rmsprop",
        "RMSprop",
        choices={
            **COMMON_CHOICES,
            "momentum": (0.0, 0.9),
            "centered": SWITCH,
            "eps_inside_sqrt": SWITCH,
        },
        numbers={
            **COMMON_NUMBERS,
            "alpha": (0.99, 0.9, 0.5, 0.0),
            "eps": EPS,
            "momentum": MOMENTUM,
        },
        used={"grad_avg": is_centered, "momentum_buffer": has_momentum},
    ),
    Rule(
        "adam",
        "Adam",
        choices={**ADAM_CHOICES, "decoupled_weight_decay": SWITCH},
        numbers=ADAM_NUMBERS,
        allowed=decay_allowed,
        used={"max_exp_avg_sq": is_amsgrad},
    ),
    Rule(
        "adamw",
        "AdamW",
        choices=ADAM_CHOICES,
        numbers=ADAM_NUMBERS,
        allowed=cautious_allowed,
        used={"max_exp_avg_sq": is_amsgrad},
    ),
    Rule(
        "lamb",
        "LAMB",
        choices={**COMMON_CHOICES, "bias_correction": SWITCH, "always_adapt": SWITCH},
        numbers={**ADAM_NUMBERS, "eps": (1e-6, 1e-8, 1e-3)},  # 0 / 0 would be in all of a parameter
    ),
    Rule(
        "lion",
        "Lion",
        choices={**COMMON_CHOICES, "cautious_decay": SWITCH},
        numbers={**COMMON_NUMBERS, "betas": BETAS},
        allowed=cautious_allowed,
    ),
    Rule(
        "adadelta",
        "Adadelta",
        choices=COMMON_CHOICES,
        numbers={**COMMON_NUMBERS, "rho": (0.9, 0.5, 0.0, 1.0), "eps": (1e-6, *EPS)},
    ),
    Rule(
        "radam",
        "RAdam",
        choices={**COMMON_CHOICES, "decoupled_weight_decay": SWITCH},
        numbers=ADAM_NUMBERS,
        allowed=decay_allowed,
    ),
    Rule(
        "adamax",
        "Adamax",
        choices=COMMON_CHOICES,
        numbers=ADAM_NUMBERS,
    ),
    Rule(
        "nadam",
        "NAdam",
        choices={**COMMON_CHOICES, "decoupled_weight_decay": SWITCH},
        numbers={
            **ADAM_NUMBERS,
            "momentum_decay": (4e-3, 0.0, 1.0, 1e-60),
            "mu_product": (0.9, 0.4, 1e-3, 0.0),
        },
        allowed=decay_allowed,
        factor=nadam_factor,
    ),
)
