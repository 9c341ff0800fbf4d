"""What C++ asks of the optimizer that it steps (csrc/bindings/step/stepped.h), all off the fast path.

It reads ``param_groups``, ``defaults`` and ``state`` besides, as torch has them, and knows no other
name of an optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

from torch import Tensor

Group: TypeAlias = dict[str, Any]
Entries: TypeAlias = dict[str, Any]  # of one parameter's state, by their names
Leftover: TypeAlias = tuple[Group, Tensor, str]  # group, parameter, why the kernels do not take it
Late: TypeAlias = tuple[Group, Tensor, Tensor]  # group, parameter, what it is copied to
Part: TypeAlias = tuple[Any, Any, float]  # of the squared norm: mesh and placements, None for tensors


class Stepped(Protocol):
    """An optimizer that C++ can step."""

    # While the groups' options are read.

    def _missing_option(self, group: Group, name: str) -> None:
        """Fill in an option that a group lacks, or raise KeyError."""

    def _check_storage(self, group: Group) -> None:
        """Refuse a group's storage options, or write them as a constructor does."""

    def _as_dict(self, mapping: Any) -> dict[Any, Any]:
        """A mapping that is no plain dict as one; TypeError for what is none."""

    def _check_copies(self, group: Group) -> None:
        """Refuse a group's ``copy_to`` that is no list or does not fit the parameters."""

    # While the parameters are read: nothing has been written yet.

    def _new_state(self, group: Group, param: Tensor, name: str) -> Tensor:
        """An entry of a state that is not there yet, as it is before the first step."""

    def _dtype_of_state(self, group: Group, param: Tensor, name: str) -> Any:
        """What an entry is to be stored in."""

    def _converted(self, group: Group, param: Tensor, name: str) -> Entries:
        """A state that is stored in something else, and its scale, as they are to be stored."""

    def _first_index(self, param: Tensor) -> int | None:
        """Where this process's elements of a DTensor begin in it; None if they are no range."""

    def _dense_copy(self, tensor: Tensor, like: Tensor | None, written: bool) -> Tensor:
        """A copy without gaps, laid out like another tensor if one is given."""

    def _check_late_copies(self, late: list[Late]) -> None:
        """Refuse copies of what the kernels do not take, or of what lies on a device."""

    # While the norm is taken.

    def _norm_is_local(self) -> bool:
        """Whether this process's gradients are all that the norm is of."""

    def _total_squares(self, parts: list[Part]) -> float:
        """The sum of squares over all processes, of those in this one."""

    def _set_grad_norm(self, norm: float | Tensor) -> None:
        """Hear of the norm: a number, or a tensor on the device that has taken it."""

    # While everything is written.

    def _warn_unfused(self, left_over: Iterable[Leftover]) -> None:
        """Hear of a step that leaves everything to torch."""

    def _step_with_torch(self, leftovers: list[Leftover], grad_scale: float) -> None:
        """Step what the kernels do not take."""

    def _copy_back(self, tensor: Tensor, copy: Tensor) -> None:
        """Store what a kernel has made of a dense copy."""

    def _write_late_copies(self, late: list[Late], found_inf: Tensor | None) -> None:
        """Copy these, at the end of a step; not where a device has found_inf."""

    def _bump_versions(self, params: list[Tensor]) -> None:
        """Tell autograd that the kernels have written to these."""
