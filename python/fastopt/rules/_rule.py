"""``@rule``: a function that is a reference, a program on every target, and an optimizer."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from fastopt import _C
from fastopt.kernels._apply import AROUND, apply
from fastopt.reference.storage import is_stored, narrow, store_state, widen

from ._errors import RuleError
from ._functions import reading
from ._numbers import Number, as_number
from ._trace import Trace, branches, never_negative, trace
from ._values import function_of, value_of

if TYPE_CHECKING:
    from ._optimizer import RuleOptimizer

_count = itertools.count(1)

PROGRAMS_UNTIL_WARNING = 16
RANGES = {  # as csrc/rules/rule.h calls them; of other names any number
    **dict.fromkeys(("lr", "eps", "weight_decay", "momentum_decay"), "non_negative"),
    "betas": "unit",
}


@dataclass(frozen=True)
class Option:
    """A keyword of a rule."""

    name: str
    default: Any
    annotation: Any

    @property
    def range(self) -> str:
        """Which numbers it takes."""
        return RANGES.get(self.name, "any")

    @property
    def is_flag(self) -> bool:
        """Whether it is read as true or false."""
        return isinstance(self.default, bool)

    @property
    def numbers(self) -> tuple[float, ...]:
        """The default's, where it is a number or a tuple of them; else nothing."""
        if isinstance(self.default, tuple):
            return tuple(float(it) for it in self.default)
        is_plain = isinstance(self.default, (int, float)) and not self.is_flag
        return (float(self.default),) if is_plain else ()

    def check(self, value: Any) -> None:
        """ValueError or TypeError, in torch's words, for what the option cannot be."""
        if not self.numbers:
            if value is None or isinstance(value, (bool, str, int, float)):
                return
            raise TypeError(
                f"Invalid {self.name} value: {value!r}; expected a number, a bool, a string or None"
            )
        if isinstance(self.default, tuple):
            is_list = isinstance(value, Sequence) and not isinstance(value, str)
            if not is_list or len(value) != len(self.numbers):
                raise ValueError(
                    f"Invalid {self.name} value: {value!r}; expected {len(self.numbers)} numbers"
                )
            for index, it in enumerate(value):
                self._check_number(it, index)
        else:
            self._check_number(value)

    def _check_number(self, value: Any, index: int | None = None) -> None:
        if isinstance(value, torch.Tensor):
            if value.numel() != 1:
                raise ValueError(f"Tensor {self.name} must be 1-element")
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
            raise TypeError(f"Invalid {self.name} value: {value!r}; expected a number")
        if self.name == "lr" and not value >= 0:
            raise ValueError(f"Invalid learning rate: {value}; expected >= 0")
        if self.range == "unit" and not 0 <= value < 1:
            raise ValueError(
                f"Invalid beta parameter at index {index}: {value}; expected 0 <= beta < 1"
            )
        if self.range == "non_negative" and not value >= 0:
            raise ValueError(f"Invalid {self.name} value: {value}; expected >= 0")
        if not math.isfinite(value):
            raise ValueError(f"Invalid {self.name} value: {value}; expected a finite number")


class Rule:
    """An update rule that is a function ``(p, g, states…, *, t, options…) -> (p, states…)``.

    Called, it is the function. See :func:`rule` for the settings.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        squares: Sequence[str] | None = None,
        start: Mapping[str, str | float] | None = None,
        numbers: Sequence[str] | Mapping[str, float] = (),
        sums: bool = False,
        name: str | None = None,
    ) -> None:
        self.function = function
        self.__name__, self.__qualname__ = function.__name__, function.__qualname__
        self.__doc__, self.__module__ = function.__doc__, function.__module__
        self.__wrapped__ = function
        code = function.__code__
        self.where = f"{code.co_filename}, line {code.co_firstlineno}: {self.__name__}"
        self.kept = dict(numbers) if isinstance(numbers, Mapping) else dict.fromkeys(numbers, 0.0)
        self.arrays, self.options = self._read_signature()
        self.states = self.arrays[2:]
        self.start = dict(start or {})
        self._check_names("start", self.start, self.states)
        for state, begins in self.start.items():
            is_plain = isinstance(begins, (int, float)) and not isinstance(begins, bool)
            if begins != "param" and not is_plain:
                raise ValueError(f"start[{state!r}]: expected 'param' or a number, got {begins!r}")
        self._check_names("squares", squares or (), self.states)
        self._squares, self._sums, self._own_name = squares, sums, name
        self._traces = 0
        with suppress(NameError):  # of a function that is defined below
            self._defined  # noqa: B018  meets mistakes here

    @cached_property
    def _defined(self) -> tuple[str, tuple[str, ...], bool]:
        """The name under which C++ knows the rule, its squares, and whether it has sums."""
        choice, values = self._numbers({})
        plain = [self._trace(choice, [t, *values]) for t in (1.0, 2.0)]
        sums = self._sums or any(len(it.stages) > 1 for it in plain)
        squares = tuple(self._find_squares(plain) if self._squares is None else self._squares)
        name = self._own_name or f"{self.__module__}.{self.__qualname__}#{next(_count)}"
        _C.define_rule(
            name,
            self.states,
            [self.states.index(it) for it in squares],
            [(it.name, list(it.numbers), it.range, it.default) for it in self.options],
            list(self.kept.items()),
            sums,
            self._traced,
        )
        return name, squares, sums

    @property
    def name(self) -> str:
        return self._defined[0]

    @property
    def squares(self) -> tuple[str, ...]:
        """The states that are never negative."""
        return self._defined[1]

    @property
    def sums(self) -> bool:
        """Whether it sums over a tensor."""
        return self._defined[2]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<rule {self.__qualname__}{self.signature}>"

    @cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    def reference(self, *arrays: Any, t: int = 1, **options: Any) -> tuple[Any, ...]:
        """The function itself on NumPy arrays: what every kernel's bits are compared with.

        Arrays are float32 or float64, all alike, or stored in 16 bits in any mix with float32, in
        which case it computes in float32 and rounds each result as its array is stored: the
        parameter to nearest, states by the dither of step t. They are read, not written to. Returns
        new arrays: the parameter and the states.
        """
        numbers = self._numbers(options)
        self._check_once(numbers, t)
        self._check_arrays(arrays)
        wide = [widen(it) if is_stored(it.dtype) else it for it in arrays]
        results, after = self._on_numpy(wide, [float(t), *numbers[1]], numbers[0])
        expected = [arrays[0], *arrays[2:]]

        def rounded(number: int, x: Any, dtype: Any) -> Any:
            if not is_stored(dtype):
                return np.array(x)
            if number == 0:
                return narrow(x, dtype).copy()
            return store_state(x, dtype, step=t, state=number - 1, like=arrays[0])

        new = [
            rounded(number, it, like.dtype)
            for number, (it, like) in enumerate(zip(results, expected, strict=True))
        ]
        return (*new, *after)

    def _on_numpy(
        self, arrays: Sequence[Any], values: Sequence[float], choice: Sequence[Any]
    ) -> tuple[list[Any], list[float]]:
        """The results on arrays of the type that is computed in, and the numbers that are kept."""
        given = [np.atleast_1d(it).view() for it in arrays]
        for it in given:
            it.flags.writeable = False
        with np.errstate(all="ignore"), reading(given[0]):
            results = self._call(given, values, choice)
        if not isinstance(results, tuple):
            results = (results,)
        names = [self.arrays[0], *self.states]
        after = [float(as_number(it).value) for it in results[len(names) :]]
        results = results[: len(names)]
        like = given[0]
        for name, it in zip(names, results, strict=True):
            if not isinstance(it, np.ndarray) or it.dtype != like.dtype or it.shape != like.shape:
                got = f"{it.dtype} of shape {it.shape}" if isinstance(it, np.ndarray) else repr(it)
                raise RuleError(
                    f"{self.where} returns {got} for {name} on NumPy arrays; expected "
                    f"{like.dtype} of shape {like.shape}: use the functions of fastopt.rules"
                )
        return [it.reshape(arrays[0].shape) for it in results], after

    def kernel_(
        self, *arrays: Any, t: Any = 1, grad_scale: Any = None, copy_to: Any = None, **options: Any
    ) -> None:
        """The rule in place, on NumPy arrays, torch tensors or whatever has DLPack; or lists of them.

        ``t`` is the number of the step, or one for each array. The numbers that the rule keeps are
        options here, as they are before the step. ``grad_scale`` and
        ``copy_to`` are as in :mod:`fastopt.kernels`.
        """
        self._numbers(options)
        if len(arrays) != len(self.arrays):
            raise TypeError(f"{self.__name__}.kernel_: expected {', '.join(self.arrays)}")
        named = dict(zip(self.arrays, arrays, strict=True))
        apply(self.name, named, t, options, grad_scale=grad_scale, copy_to=copy_to)

    def program(self, *, t: int = 2, **options: Any) -> Trace:
        """What runs at step ``t`` with these options, instruction by instruction: print it."""
        choice, values = self._numbers(options)
        return self._trace(choice, [float(t), *values])

    def verify(self, *, quick: bool = True, seed: int = 0) -> int:
        """How many bits are wrong, on every target and in every storage; 0 if it is as it should be.

        :func:`fastopt.testing.verify_rule` tells more.
        """
        from fastopt.testing import verify_rule

        return verify_rule(self, quick=quick, seed=seed).wrong_bits

    def optimizer(self, name: str, module: str | None = None) -> type[RuleOptimizer]:
        """A torch optimizer with this rule and all that fastopt's have around it.

        Assign it to ``name`` at a module's top level, so that it can be pickled by its name.
        """
        from ._optimizer import make_class

        if module is None:
            module = str(sys._getframe(1).f_globals.get("__name__", "__main__"))
        return make_class(self, name, module)

    def __reduce__(self) -> Any:
        found: Any = sys.modules.get(self.__module__)
        for name in self.__qualname__.split("."):
            found = getattr(found, name, None)
        # By value where another process would not find it: in a notebook, in __main__, in a function.
        if found is self and self.__module__ not in ("__main__", "__mp_main__"):
            return self.__qualname__
        settings = {
            "squares": self._squares, "start": self.start, "numbers": self.kept, "sums": self._sums
        }  # fmt: skip
        return _revived, (*value_of(self.function), settings)

    def __deepcopy__(self, memo: Any) -> Rule:
        return self

    __copy__ = __deepcopy__

    # ---- the function's signature ----

    def _read_signature(self) -> tuple[tuple[str, ...], tuple[Option, ...]]:
        arrays, kept, options, has_step = [], [], [], False
        for it in self.signature.parameters.values():
            if it.kind is it.KEYWORD_ONLY and it.name == "t":
                has_step = True
            elif it.kind is it.KEYWORD_ONLY:
                if it.name in AROUND:
                    raise RuleError(
                        f"{self.where}: option {it.name} is what kernel_ takes around every rule; "
                        "expected another name"
                    )
                if it.default is it.empty:
                    raise RuleError(f"{self.where}: option {it.name} has no default; expected one")
                options.append(Option(it.name, it.default, it.annotation))
            elif it.kind in (it.POSITIONAL_ONLY, it.POSITIONAL_OR_KEYWORD) and it.default is it.empty:
                kept.append(it.name) if it.name in self.kept else arrays.append(it.name)
                if kept and it.name not in self.kept:
                    raise RuleError(f"{self.where}: array {it.name} stands behind a number")
            else:
                raise RuleError(
                    f"{self.where}: parameter {it}; expected arrays without default, then * and options"
                )
        if len(arrays) < 2:
            raise RuleError(f"{self.where}: expected the parameter and its gradient as first arguments")
        if len(arrays) - 2 > _C.max_states:
            raise RuleError(
                f"{self.where}: {len(arrays) - 2} states; expected at most {_C.max_states}: "
                f"{', '.join(arrays[2:])}"
            )
        if kept != list(self.kept):
            raise RuleError(
                f"{self.where}: numbers={list(self.kept)} are not its last arguments before the *"
            )
        if not has_step:
            raise RuleError(
                f"{self.where}: expected a keyword-only parameter t, the number of the step"
            )
        if all(it.name != "maximize" for it in options):
            options.append(Option("maximize", False, bool))
        for option in options:
            option.check(option.default)
        return tuple(arrays), tuple(options)

    def _check_names(self, argument: str, names: Any, known: Sequence[str]) -> None:
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{argument}: {self.__name__} has no state {name!r}; it has {list(known)}"
                )

    # ---- calls of the function ----

    def _numbers(self, options: Mapping[str, Any]) -> tuple[tuple[Any, ...], list[float]]:
        """The options that are no numbers, and the numbers, as C++ reads them."""
        known = {it.name for it in self.options} | set(self.kept)
        for name in options:
            if name not in known:
                raise TypeError(f"{self.__name__} has no option {name!r}; it has {sorted(known)}")
        choice: list[Any] = []
        values: list[float] = []
        for option in self.options:
            value = options.get(option.name, option.default)
            option.check(value)
            if option.numbers:
                values += map(float, value) if isinstance(value, (tuple, list)) else [float(value)]
            elif option.is_flag:
                values.append(0.0)
                choice.append(bool(value))
            else:
                counts = isinstance(value, (int, float)) and not isinstance(value, bool)
                values.append(float(value) if counts else 0.0)
                choice.append(... if counts else value)
        return tuple(choice), values + [
            float(options.get(it, begin)) for it, begin in self.kept.items()
        ]

    def _call(self, arrays: Sequence[Any], values: Sequence[Any], choice: Sequence[Any]) -> Any:
        """The function on arrays of any kind, with the numbers of a step."""
        numbers = iter(it if isinstance(it, Number) else Number("input", (), it) for it in values)
        kept: dict[str, Any] = {"t": next(numbers)}
        others = iter(choice)
        for option in self.options:
            if isinstance(option.default, tuple):
                kept[option.name] = tuple(next(numbers) for _ in option.numbers)
            elif option.numbers:
                kept[option.name] = next(numbers)
            else:
                value, as_number = next(others), next(numbers)
                kept[option.name] = as_number if value is ... else value
        after = list(numbers)
        param, grad, *states = arrays
        if "maximize" not in self.signature.parameters and kept.pop("maximize"):
            grad = -grad
        return self.function(param, grad, *states, *after, **kept)

    def _trace(
        self,
        choice: Sequence[Any],
        values: Sequence[float],
        given: Sequence[int] = (),
        answers: Sequence[bool] = (),
    ) -> Trace:
        return trace(
            lambda arrays, numbers: self._call(arrays, numbers, choice),
            self.__name__,
            self.arrays,
            tuple(self.kept),
            dict(zip(self._number_names, values, strict=True)),
            self.where,
            given,
            answers,
        )

    @cached_property
    def _number_names(self) -> list[str]:
        """What the numbers of a step are called, in C++'s order."""
        names = ["t"]
        for option in self.options:
            several = isinstance(option.default, tuple)
            names += (
                [f"{option.name}[{k}]" for k in range(len(option.numbers))]
                if several
                else [option.name]
            )
        return [*names, *self.kept]

    def _traced(
        self, choice: tuple[Any, ...], values: list[float], given: list[int]
    ) -> list[_C.Traced]:
        """What C++ calls where no program holds; with numbers that are given on a device, all."""
        if given:
            traced = functools.partial(self._trace, choice, values, given)
            return [it.traced for it in branches(traced, self.where)]
        found = self._trace(choice, values)
        self._traces += 1
        if self._traces == PROGRAMS_UNTIL_WARNING:
            lines = found.guards[-1][2].strip() if found.guards else self.where
            warnings.warn(
                f"{self.__name__} has been traced {self._traces} times, since what Python branches on "
                f"keeps changing, the last time at {lines}; expected few different answers: "
                "each costs about a millisecond",
                UserWarning,
                stacklevel=2,
            )
        return [found.traced]

    def _find_squares(self, traces: Sequence[Trace]) -> list[str]:
        known = [never_negative(it) for it in traces]
        squares = [it for it in self.states if all(it in names for names in known)]
        return [it for it in squares if it not in self.start or self.start[it] != "param"]

    def _check_once(self, numbers: tuple[tuple[Any, ...], list[float]], t: int) -> None:
        """Let a mistake in the function meet the tracer's words before NumPy's."""
        checked_already = self.__dict__.setdefault("_checked", set())
        if numbers[0] not in checked_already:
            self._trace(numbers[0], [float(t), *numbers[1]])
            checked_already.add(numbers[0])

    def _check_arrays(self, arrays: Sequence[Any]) -> None:
        if len(arrays) != len(self.arrays):
            raise TypeError(
                f"{self.__name__}: expected {len(self.arrays)} arrays: {', '.join(self.arrays)}"
            )
        for name, it in zip(self.arrays, arrays, strict=True):
            if type(it) is not np.ndarray:
                raise TypeError(f"{name} must be a numpy.ndarray, not {type(it).__name__}")
            is_double = it.dtype == np.float64
            if not (is_double or it.dtype == np.float32 or is_stored(it.dtype)):
                raise TypeError(
                    f"{name} must be of dtype float32, float64, float16 or bfloat16, not {it.dtype}"
                )
            if is_double != (arrays[0].dtype == np.float64):
                raise TypeError(
                    f"{name} is {it.dtype}, {self.arrays[0]} {arrays[0].dtype}: expected one of both"
                )
            if it.shape != arrays[0].shape:
                raise ValueError(f"{name} must have shape {arrays[0].shape}, not {it.shape}")


def _revived(code: bytes, around: dict[str, Any], settings: dict[str, Any]) -> Rule:
    """A rule that was pickled by value."""
    return Rule(function_of(code, around), **settings)


@overload
def rule(function: Callable[..., Any], /) -> Rule: ...
@overload
def rule(
    *,
    squares: Sequence[str] | None = None,
    start: Mapping[str, str | float] | None = None,
    numbers: Sequence[str] | Mapping[str, float] = (),
    sums: bool = False,
    name: str | None = None,
) -> Callable[[Callable[..., Any]], Rule]: ...
def rule(function: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
    """Make a rule of a function ``(p, g, states…, *, t, options…) -> (p, states…)``.

    Args:
        squares: the states that are sums or averages of squares, or other divisors that are never
            negative; found by themselves where this is not given.
        start: ``{"z": "param"}`` for a state that begins as the parameter, or a number; others begin
            at 0.
        numbers: arguments behind the states that are not arrays but numbers, which go in and come out
            like states, in double, one of each for a parameter; with a dict, what they begin at.
        sums: whether some options ask for sums over a tensor; found by itself if the defaults do.
        name: what classes and kernels of fastopt's own know it by; other rules need none.
    """
    if function is None:
        return lambda it: Rule(it, **settings)
    return Rule(function, **settings)
