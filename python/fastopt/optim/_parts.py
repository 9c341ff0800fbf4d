"""A step of some of an optimizer's parameters."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from fastopt import _C
from fastopt.optim._copies import CopiesT
from fastopt.optim._entries import Ruled
from fastopt.optim._stepped import Group

Whole = TypeVar("Whole", bound="Parts")

_changing = threading.Lock()  # the sets of parameters under way


class Parts(Ruled):
    """Mixin: an optimizer that can step a part of its parameters."""

    _places: dict[int, tuple[int, int]] | None = None
    """By the identities of parameters, where they stood in the groups when somebody last asked."""

    _under_way: set[int] | None = None
    """The identities of the parameters that :meth:`step_parameters` is stepping."""

    def step_parameters(
        self,
        params: Iterable[Tensor],
        *,
        grad_norm: float | Tensor | None = None,
        grad_scale: float | Tensor | None = None,
        copy_to: CopiesT = None,
    ) -> None:
        """Step some of the parameters, by the gradients that they have now, and no others.

        A step that is taken in parts, in whatever order, has the bits of one that takes all
        parameters at once: each counts its own steps, and has its group's options as they are now.
        Parts may be taken in other threads, at the same time, and while ``backward()`` goes on with the
        rest. No ``step()`` of the whole may run meanwhile; and what is named in two parts is stepped
        twice.

        Hooks of the optimizer's step do not run, for they are for whole ones. A scheduler counts
        this as a step of the optimizer before its own.

        Args:
            params: of this optimizer. Those without a gradient are passed over. Gradients stay.
            grad_norm: for ``max_grad_norm``, the norm of all gradients of the whole step, unscaled; it
                becomes :attr:`grad_norm`.
            grad_scale: what the gradients have been multiplied by, above 0. In its place, what a
                GradScaler or a program has set: ``optimizer.grad_scale``. Where ``optimizer.found_inf``
                is set and not 0, nothing is written.
            copy_to: in place of the groups', a list as long as ``params``; see
                :mod:`fastopt.optim._copies`.

        Raises:
            ValueError: for what is not among the optimizer's parameters or comes twice, and for
                ``max_grad_norm`` without ``grad_norm``, since no part knows the norm of all.
            RuntimeError: for a parameter that another thread is stepping in this way.

        Example::

            def step(param):  # in a worker's thread, once its gradient is complete
                optimizer.step_parameters([param])
                param.grad = None
        """
        if isinstance(params, Tensor):
            raise TypeError("params: expected a list of parameters, got a tensor")
        params = list(params)
        groups = _groups_of(self, params, copy_to)
        norm = None if grad_norm is None else float(grad_norm)
        _check_norm(groups, norm)
        scale = _scale_of(self, grad_scale)
        names = {id(it) for it in params}
        self._begin(names)
        try:
            part = part_of(self, groups)
            if torch.compiler.is_dynamo_compiling():
                part._step_outside_graphs(scale, norm)
            else:
                part._step_as_it_is(scale, norm)
        finally:
            with _changing:
                assert self._under_way is not None
                self._under_way -= names
        vars(self)["_opt_called"] = True  # what a scheduler looks for

    def _begin(self, names: set[int]) -> None:
        with _changing:
            busy = vars(self).setdefault("_under_way", set())
            if busy & names:
                raise RuntimeError(
                    "params: expected parameters that no other thread steps meanwhile; one of these is "
                    "under way in another call of step_parameters"
                )
            busy |= names

    def _step_as_it_is(self, scale: Tensor | None, norm: float | None) -> None:
        found_inf = getattr(self, "found_inf", None)
        stepped = cast(Any, self)
        _C.step(self._rule, stepped, torch.get_num_threads(), scale, found_inf, norm)

    _step_outside_graphs = _disable_dynamo(_step_as_it_is)


def _groups_of(whole: Parts, params: Sequence[Any], copy_to: CopiesT) -> list[Group]:
    """Groups of these parameters alone, in the order in which the optimizer has them."""
    if copy_to is not None and (not isinstance(copy_to, (list, tuple)) or len(copy_to) != len(params)):
        got = len(copy_to) if isinstance(copy_to, (list, tuple)) else type(copy_to).__name__
        raise ValueError(f"copy_to: expected a list of {len(params)} tensors like params, got {got}")
    found: dict[tuple[int, int], Tensor | None] = {}
    for number, param in enumerate(params):
        if not isinstance(param, Tensor):
            raise TypeError(f"params[{number}]: expected a parameter, got {type(param).__name__}")
        try:
            place = place_of(whole, param)
        except KeyError:
            raise ValueError(
                f"params[{number}]: expected one of the optimizer's parameters, got a tensor of shape "
                f"{tuple(param.shape)} that is in none of its groups"
            ) from None
        if place in found:
            raise ValueError(f"params[{number}]: expected each parameter once, got one again")
        found[place] = None if copy_to is None else copy_to[number]
    groups = []
    for group in sorted({group for group, _ in found}):
        indices = sorted(index for its, index in found if its == group)
        part = some_of(whole.param_groups[group], indices)
        if copy_to is not None:
            part["copy_to"] = [found[group, index] for index in indices]
        groups.append(part)
    return groups


def _check_norm(groups: Sequence[Group], grad_norm: float | None) -> None:
    if grad_norm is not None and grad_norm < 0:
        raise ValueError(f"grad_norm: expected a number >= 0, got {grad_norm!r}")
    for group in groups:
        limit = group.get("max_grad_norm")
        if limit is not None and grad_norm is None:
            raise ValueError(
                f"max_grad_norm={limit!r}: a step of some parameters does not know the norm of all "
                "gradients; expected it as grad_norm, or None"
            )
        if limit is None and grad_norm is not None:
            raise ValueError("grad_norm: expected max_grad_norm with it, or None")


def _scale_of(whole: Parts, given: float | Tensor | None) -> Tensor | None:
    if given is None or isinstance(given, Tensor):
        set_by_others: Tensor | None = getattr(whole, "grad_scale", None)
        return set_by_others if given is None else given
    if not 0 < given < math.inf:
        raise ValueError(f"grad_scale: expected a finite number above 0 or None, got {given!r}")
    return torch.tensor(given, dtype=torch.float64)  # as a GradScaler sets one


def place_of(optimizer: Parts, param: Tensor) -> tuple[int, int]:
    """The index of the parameter's group, and its own index there.

    Found once for all, by the parameters' identities: with thousands of them a search for each would
    take seconds. KeyError for a parameter that is in no group.
    """
    whole: Parts = vars(optimizer).get("_whole", optimizer)
    places = {} if whole._places is None else whole._places
    group, index = places.get(id(param), (0, 0))
    groups = whole.param_groups
    params = groups[group]["params"] if group < len(groups) else []  # engines take groups away
    if index < len(params) and params[index] is param:
        return group, index
    places = {
        id(it): (group, index)
        for group, params in enumerate(it["params"] for it in groups)
        for index, it in enumerate(params)
    }
    whole._places = places
    return places[id(param)]


def some_of(group: Group, indices: Sequence[int]) -> Group:
    """A group of some of a group's parameters, with its options."""
    part = {**group, "params": [group["params"][index] for index in indices]}
    if (copies := group.get("copy_to")) is not None and len(copies) == len(group["params"]):
        part["copy_to"] = [copies[index] for index in indices]
    return part


def part_of(whole: Whole, groups: list[Group]) -> Whole:
    """An optimizer of these groups alone, with the whole one's state.

    That it takes torch's path does not mean that all do, so it does not warn of that.
    """
    part: Whole = object.__new__(type(whole))
    vars(part).update(vars(whole), param_groups=groups, _whole=whole, _has_warned=True)
    return part
