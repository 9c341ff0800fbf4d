"""What a check is: a function with a docstring, and the three ways in which it can end."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .subject import Subject

Function: TypeAlias = "Callable[[Subject], str | None]"


class Failed(Exception):
    """The case in which a check failed: the smallest, since cases are tried in the order of size."""


class NotApplicable(Exception):
    """Why a check has nothing to say about this optimizer."""


@dataclass(frozen=True)
class Check:
    """One question to an optimizer.

    Its function returns what was measured, if that is a number worth to be shown. Where the dtype
    matters, it is asked once for each.
    """

    name: str
    family: str
    function: Function
    each_dtype: bool

    @property
    def loss(self) -> str:
        """What a user loses where it fails: the docstring on one line."""
        return " ".join(inspect.cleandoc(self.function.__doc__ or "").split())


CHECKS: dict[str, Check] = {}
"""Every check, in the order in which they are asked."""


def check(*, each_dtype: bool = False) -> Callable[[Function], Function]:
    """Registers a function under its name, in the family of its module."""

    def register(function: Function) -> Function:
        name, family = function.__name__, function.__module__.rpartition(".")[2]
        if name in CHECKS:
            raise ValueError(f"check {name!r} is registered already")
        CHECKS[name] = Check(name, family, function, each_dtype)
        return function

    return register


@contextmanager
def case(about: str) -> Iterator[None]:
    """Names what is tried, in whatever fails there; an error of the optimizer is a failure, too."""
    try:
        yield
    except NotApplicable:
        raise
    except Failed as error:
        raise Failed(f"{about}: {error}") from error
    except Exception as error:
        raise Failed(f"{about}: {told(error)}") from error


@contextmanager
def refusable(what: str) -> Iterator[None]:
    """Where an optimizer may refuse what is asked of it, as long as it says so."""
    try:
        yield
    except (Failed, NotApplicable):
        raise
    except Exception as error:
        raise NotApplicable(f"refuses {what}: {told(error)}") from error


def told(error: BaseException) -> str:
    """An error on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
