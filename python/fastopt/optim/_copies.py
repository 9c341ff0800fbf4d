"""Copies of the parameters that a step writes besides, for whoever works with them elsewhere.

Every fastopt optimizer takes this keyword-only option:

copy_to
    A list of tensors as long as the parameters, in which None stands for no copy; with several groups,
    a key of each. A step writes each parameter that it has stepped to its tensor, rounded to nearest
    even: float32, bfloat16 or float16, or float64 or float32 of float64 parameters. With
    ``master_weights`` it is the float32 number behind the parameter that is rounded. On the CPU this is
    done within the step's pass over memory, so that it costs the bytes of the copy; on CUDA devices,
    and for what torch's step takes, torch copies after it.

    A tensor has its parameter's shape and device and lies as ``torch.empty_like(parameter)`` would
    (pinned memory is fine); for a DTensor it is one that is cut up alike, or a plain one for the part
    in this process. It has memory of its own. All this is looked at before a step writes anything.

    Copies change in no other way: they hold what they held until their parameter's first step, where a
    step is skipped or has no gradient, while averages are swapped in and after a load. They are not in
    ``state_dict()``, whose groups have None there; ``load_state_dict`` keeps those that the optimizer
    has. A deep copy or a pickle of the optimizer has copies of its own, as it has parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from fastopt._threads import fit_for_forks
from fastopt.optim import _engines
from fastopt.optim._distributed import is_dtensor, local_part
from fastopt.optim._stepped import Group, Late

CopiesT: TypeAlias = Sequence[Tensor | None] | None

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class CopyTo(list[Tensor | None]):
    """``copy_to`` as a group holds it. Whoever prints an optimizer is not shown all its numbers."""

    def __repr__(self) -> str:
        return f"<{len(self)} tensors>"


class Copies(Optimizer):
    """Mixin: an optimizer whose step writes copies of its parameters."""

    _copying: ClassVar[dict[str, Any]] = {"copy_to": None}
    """The option that asks for nothing."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's."""
        super().add_param_group(param_group)
        try:
            self._take_copies(self.param_groups[-1])
        except Exception:
            del self.param_groups[-1]
            raise

    def _set_copies(self, copy_to: CopiesT) -> None:
        """What the constructor was given, which is of the one group that there is."""
        self.defaults["copy_to"] = None
        if copy_to is not None:
            group = self.param_groups[0]
            if len(self.param_groups) > 1 or group.get("copy_to") is not None:
                raise ValueError(
                    f"copy_to: expected a key of each group, or one group without it; got "
                    f"{len(self.param_groups)} groups and a list for all"
                )
            group["copy_to"] = copy_to
            self._take_copies(group)
        for group in self.param_groups:
            group.setdefault("copy_to", None)

    def _take_copies(self, group: Group) -> None:
        if group.get("copy_to") is None:
            return
        self._check_copies(group)
        group["copy_to"] = CopyTo(group["copy_to"])
        copies = [it for _, _, it in self._copies_of([group])]
        params = [param for group in self.param_groups for param in group["params"]]
        others = [it for known in self.param_groups if known is not group for it in _listed(known)]
        _check_apart(copies, [*params, *(it for it in others if it is not None)])

    @staticmethod
    def _copies_of(groups: Iterable[Group]) -> Iterator[Late]:
        for group in groups:
            for param, copy in zip(group["params"], _listed(group), strict=False):
                if copy is not None:
                    yield group, param, copy

    def _kept_copies(self, groups: Iterable[Group]) -> None:
        """Give the groups that a load has made the copies of those before it."""
        for group, before in zip(self.param_groups, groups, strict=True):
            if "copy_to" in before:
                group["copy_to"] = before["copy_to"]

    # What C++ asks for (_stepped.py).

    def _check_copies(self, group: Group) -> None:
        """Refuse a group's ``copy_to`` if it does not fit the parameters."""
        copies, params = group["copy_to"], list(group["params"])
        if not isinstance(copies, (list, tuple)):
            raise TypeError(
                f"copy_to: expected a list of {len(params)} tensors, one for each parameter of the "
                f"group, or None; got {type(copies).__name__}"
            )
        if len(copies) != len(params):
            _engines.refuse_copies(self, "copy_to", "None")
            raise ValueError(
                f"copy_to: expected a list of {len(params)} tensors, one for each parameter of the "
                f"group, got {len(copies)}"
            )
        for index, (param, copy) in enumerate(zip(params, copies, strict=True)):
            if copy is not None:
                self._check_copy(f"copy_to[{index}]", param, copy)

    def _check_copy(self, name: str, param: Tensor, copy: Any) -> None:
        if not isinstance(copy, Tensor):
            raise TypeError(f"{name}: expected a tensor or None, got {type(copy).__name__}")
        trouble = _trouble(param, copy)
        if trouble is None:
            return
        expected, got = trouble
        _engines.refuse_copies(self, "copy_to", "None")
        raise ValueError(
            f"{name}: expected {expected} for a parameter of shape {tuple(param.shape)}, got {got}"
        )

    def _check_late_copies(self, late: list[Late]) -> None:
        """Refuse copies of what the kernels do not take, or of what lies on a device."""
        for group, param, copy in late:
            index = next(i for i, it in enumerate(group["params"]) if it is param)
            self._check_copy(f"copy_to[{index}]", param, copy)
        others: list[Tensor] = []
        for param in (it for group in self.param_groups for it in group["params"]):
            state = self.state.get(param, {})
            others += [it for it in (param, param.grad, *state.values()) if isinstance(it, Tensor)]
        _check_apart([copy for _, _, copy in late], others)

    @fit_for_forks()
    @torch.no_grad()
    def _write_late_copies(self, late: list[Late], found_inf: Tensor | None) -> None:
        """Copy what the kernels have not copied; nothing where a device has ``found_inf``."""
        with torch._C.DisableTorchFunction():
            for group, param, copy in late:
                source, to = _whole(group, param, self.state.get(param, {})), local_part(copy.detach())
                if found_inf is not None:
                    source = torch.where(found_inf.reshape(()) != 0, to, source.to(to.dtype))
                to.copy_(source)


def _listed(group: Group) -> Sequence[Tensor | None]:
    return group.get("copy_to") or ()


def _trouble(param: Tensor, copy: Tensor) -> tuple[str, str] | None:
    """What was expected of a copy and what it is instead, if it does not fit."""
    if is_dtensor(copy):
        like: Any = param
        its: Any = copy
        if not is_dtensor(param):
            return "a plain tensor", "a DTensor"
        how = like.device_mesh, like.placements, like.shape
        if how != (its.device_mesh, its.placements, its.shape):
            return f"a DTensor of {how}", f"one of {(its.device_mesh, its.placements, its.shape)}"
    part, local = local_part(param.detach()), local_part(copy.detach())
    if type(copy) not in (Tensor, torch.nn.Parameter) and not is_dtensor(copy):
        return "a plain tensor", type(copy).__name__
    if local.layout != torch.strided or local.is_neg() or local.is_conj():
        return "plain memory", f"a tensor of layout {local.layout}, or a lazily negated view"
    if local.shape != part.shape:
        return f"shape {tuple(part.shape)}", f"{tuple(local.shape)}"
    if local.device != part.device:
        return f"one on {part.device}", f"one on {local.device}"
    accepted = (torch.float64, torch.float32) if part.dtype == torch.float64 else DTYPES
    if local.dtype not in accepted:
        return " or ".join(map(str, accepted)), str(local.dtype)
    strides = torch.empty_like(part, device="meta").stride()
    pairs = zip(part.shape, strides, local.stride(), strict=True)
    if part.numel() > 0 and any(n > 1 and a != b for n, a, b in pairs):
        return f"strides {tuple(strides)}, those of torch.empty_like", f"{tuple(local.stride())}"
    return None


def _check_apart(copies: list[Tensor], others: list[Tensor]) -> None:
    """ValueError if a copy shares memory with another one or with one of the others."""
    pieces = [(*_span(it), True) for it in copies] + [(*_span(it), False) for it in others]
    ends: dict[Any, tuple[int, int]] = {}  # by device: of all so far, and of the copies
    for device, begin, end, is_copy in sorted(
        (it for it in pieces if it[1] < it[2]), key=lambda it: it[1]
    ):
        furthest, of_copies = ends.get(device, (0, 0))
        if begin < (furthest if is_copy else of_copies):
            raise ValueError(
                "copy_to: expected memory of their own, but one of its tensors shares memory with "
                "another, or with a parameter, a gradient or a state"
            )
        ends[device] = max(furthest, end), max(of_copies, end if is_copy else 0)


def _span(tensor: Tensor) -> tuple[str, int, int]:
    """The memory between a tensor's first element and its last: device, begin and end."""
    local = local_part(tensor.detach())
    plain = type(local) in (Tensor, torch.nn.Parameter) and local.layout == torch.strided
    if not plain or local.numel() == 0 or local.device.type == "meta":
        return "", 0, 0
    reach = sum((n - 1) * step for n, step in zip(local.shape, local.stride(), strict=True)) + 1
    begin = local.data_ptr()
    return str(local.device), begin, begin + reach * local.element_size()


def _whole(group: Group, param: Tensor, state: dict[str, Any]) -> Tensor:
    """The parameter as a step has left it: the float32 numbers behind it, where it has a master."""
    part = local_part(param.detach())
    if not group.get("master_weights"):
        return part
    if part.dtype == torch.float16 and "master" in state:
        return local_part(state["master"])
    if part.dtype != torch.bfloat16 or "param_low" not in state:
        return part
    low = local_part(state["param_low"])
    upper = part.view(torch.int16).to(torch.int32) - (low < 0).to(torch.int32)
    joined = ((upper << 16) | (low.to(torch.int32) & 0xFFFF)).view(torch.float32)
    return torch.where(joined.isnan(), part.float(), joined)
