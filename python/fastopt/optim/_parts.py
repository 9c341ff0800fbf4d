"""Parts of an optimizer's parameters, stepped by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

from fastopt.optim._stepped import Group

if TYPE_CHECKING:
    from fastopt.optim._fused import Fused

Optimizer = TypeVar("Optimizer", bound="Fused")


def place_of(optimizer: Fused, param: Tensor) -> tuple[int, int]:
    """The index of the parameter's group, and its own index there.

    Found once for all, by the parameters' identities: with thousands of them a search for each would
    take seconds. KeyError for a parameter that is in no group.
    """
    whole: Fused = vars(optimizer).get("_whole", optimizer)
    places = {} if whole._places is None else whole._places
    group, index = places.get(id(param), (0, 0))
    groups = whole.param_groups
    params = groups[group]["params"] if group < len(groups) else []  # engines take groups away
    if index < len(params) and params[index] is param:
        return group, index
    whole._places = {
        id(it): (group, index)
        for group, params in enumerate(it["params"] for it in groups)
        for index, it in enumerate(params)
    }
    return whole._places[id(param)]


def some_of(group: Group, indices: Sequence[int]) -> Group:
    """A group of some of a group's parameters, with its options."""
    part = {**group, "params": [group["params"][index] for index in indices]}
    if (copies := group.get("copy_to")) is not None:
        part["copy_to"] = [copies[index] for index in indices]
    return part


def part_of(whole: Optimizer, groups: list[Group]) -> Optimizer:
    """An optimizer of these groups alone, with the whole one's state.

    That it takes torch's path does not mean that all do, so it does not warn of that.
    """
    part: Optimizer = object.__new__(type(whole))
    vars(part).update(vars(whole), param_groups=groups, _whole=whole, _has_warned=True)
    return part
