"""Loading a checkpoint, all or nothing, and bringing states into what the options store them in.

torch casts states to their parameter's dtype on their way in, which would round those of a 16-bit
parameter that are kept in more, and make numbers of codes. So what torch has made of a state_dict is
completed, after its groups, from the state_dict itself: before any hook of the program's own sees it,
and undone together with the rest if it cannot be.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor

from fastopt._threads import fit_for_forks
from fastopt.optim._copies import Copies
from fastopt.optim._distributed import cut_like, first_row, is_dtensor, local_part
from fastopt.optim._entries import Kind, scale_of, torchs_of
from fastopt.optim._stepped import Entries
from fastopt.optim._storage import CODES, DTYPES, HALVES, Storage, decoded
from fastopt.optim._tail import with_weight
from fastopt.reference.codes import encode_blocks
from fastopt.reference.dither import BLOCK


class Loading(Storage, Copies):
    """Mixin: an optimizer that loads what others have stored in other dtypes."""

    @fit_for_forks()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, with every state in the dtype that the options say.

        States that come in another dtype than they are kept in (from torch.optim, or under other
        options) are converted. If this raises, groups and states are as they were.
        """
        before = self.state, self.param_groups
        given: list[dict[str, Any]] = []
        # The last hook before torch loads, so that it sees what the others have made of the dict, and
        # the first one after.
        take = self.register_load_state_dict_pre_hook(lambda _, it: given.append(it))
        complete = self.register_load_state_dict_post_hook(
            lambda _: self._complete(given[-1], before[1]), prepend=True
        )
        try:
            super().load_state_dict(state_dict)
        except BaseException:
            self.state, self.param_groups = before
            raise
        finally:
            take.remove()
            complete.remove()

    def _complete(self, given: dict[str, Any], groups: list[Entries]) -> None:
        """What torch has loaded, in our options and dtypes; nothing but new objects is written to.

        `groups`: those before the load.
        """
        self._kept_copies(groups)
        for place, group in enumerate(self.param_groups):
            group.update(self._options_that_hold(place))
            self._check_storage(group)
        indices = chain.from_iterable(group["params"] for group in given["param_groups"])
        places = ((group, param) for group in self.param_groups for param in group["params"])
        for index, (group, param) in zip(indices, places, strict=True):
            saved = given["state"].get(index)
            if isinstance(saved, Mapping):
                self.state[param] = self._loaded(group, param, dict(saved), dict(self.state[param]))

    def _options_that_hold(self, place: int) -> Entries:
        """The storage options that the constructor was given, or the group when it was added."""
        own = vars(self).get("_own_storage", ())
        given = {
            key: self.defaults[key]
            for key, neutral in self._storage.items()
            if self.defaults.get(key, neutral) != neutral
        }
        if len(own) == len(self.param_groups):
            given |= own[place]
        if given.keys() & {"master_weights", "stochastic_rounding"}:  # of which one excludes the other
            given = {"master_weights": False, "stochastic_rounding": False} | given
        return given

    def _loaded(self, group: Entries, param: Tensor, saved: Entries, made: Entries) -> Entries:
        """A parameter's state: what torch has ``made`` of it, with what that lost from ``saved``."""
        saved = with_weight(group, saved)
        made = {key: value for key, value in made.items() if key in saved}
        for name, value in saved.items():
            kind = self._kind(name)
            if not isinstance(value, Tensor) or kind in (Kind.SCALE, Kind.FOREIGN):
                continue
            if kind is Kind.COUNT:  # torch keeps it as it comes, in 16 bits, too
                if value.dtype in HALVES:
                    made[name] = value.to(torch.float32)
                if self._counts_itself:
                    made[name] = made[name].to(param.device)
            elif kind is Kind.NUMBER:
                made[name] = value.to(made[name].device) if name in made else value
            else:
                made |= self._in_its_dtype(group, param, name, saved, made[name])
        made = {key: it for key, it in made.items() if it is not None or saved[key] is None}
        shared = [key for key, value in made.items() if value is saved.get(key)]
        if len(shared) < len(made):  # torch shares what it need not convert: then all of it or nothing
            made |= {key: made[key].clone() for key in shared if isinstance(made[key], Tensor)}
        return made

    def _in_its_dtype(
        self, group: Entries, param: Tensor, name: str, saved: Entries, made: Tensor
    ) -> Entries:
        dtype = self._dtype_of_state(group, param, name)
        plain = type(made) in (Tensor, torch.nn.Parameter)
        has_codes = scale_of(name) in saved or saved[name].dtype in CODES
        if not has_codes and made.dtype == dtype and (plain or is_dtensor(made)):
            return {}
        return self._stored(group, param, name, saved)

    def _converted(self, group: Entries, param: Tensor, name: str) -> Entries:
        """What C++ asks for where a state is not stored as its group's options say (any longer)."""
        self._check_storage(group)
        return self._stored(group, param, name, dict(self.state[param]))

    def _without_ours(self, param: Tensor, state: Mapping[str, Any]) -> Entries:
        """What torch's class keeps of a state, as it stores that, and what a program has put there."""
        kept = {}
        for name, value in state.items():
            kind = self._kind(name)
            if name not in torchs_of(self._rule) and kind is not Kind.FOREIGN:
                continue
            if kind is Kind.STATE and isinstance(value, Tensor):
                value = decoded(dict(state), name)
                small = {value.dtype, param.dtype} <= {*DTYPES.values()}
                value = value.to(param.dtype) if small else value
            kept[name] = value
        return kept

    def _stored(self, group: Entries, param: Tensor, name: str, saved: Entries) -> Entries:
        """New entries for a state, in the dtype of the options; None for a scale that is no more."""
        dtype, scale = self._dtype_of_state(group, param, name), scale_of(name)
        value, local = saved[name].detach(), local_part(param)
        if value.dtype in CODES:
            self._check_codes(param, name, value, saved.get(scale))
            if value.dtype == dtype:
                both = {name: value, scale: saved[scale].detach()}
                return {key: it.clone().to(param.device) for key, it in both.items()}
            value = decoded(saved, name)
        elif type(value).dequantize is not Tensor.dequantize:  # of another library's, torchao's for one
            value = value.dequantize()
        if dtype not in CODES:
            rest = {scale: None} if scale in saved else {}
            return {name: value.to(param.device, dtype, copy=True), **rest}
        if type(value) not in (Tensor, torch.nn.Parameter) and not is_dtensor(value):
            raise ValueError(f"{name} of type {type(value).__name__}: expected numbers, to be coded")
        if local_part(value).shape != local.shape:
            raise ValueError(
                f"{name} of shape {tuple(local_part(value).shape)} for a parameter of shape "
                f"{tuple(local.shape)}: expected the same, to be coded"
            )
        numbers = local_part(value).to("cpu", torch.float32).numpy()
        packed = encode_blocks(numbers, CODES[dtype], step=0, first_row=first_row(param) or 0)
        codes, scales = (torch.from_numpy(it).to(local.device) for it in packed)
        return {name: cut_like(param, codes), scale: cut_like(param, scales, scales.shape[1])}

    def _check_codes(self, param: Tensor, name: str, codes: Tensor, scales: Any) -> None:
        blocks = -(-prod(param.shape[1:]) // BLOCK)
        expected = tuple(param.shape), (*param.shape[:1], blocks)
        got = tuple(codes.shape), tuple(scales.shape) if isinstance(scales, Tensor) else None
        if got != expected:
            raise ValueError(
                f"{name} of 8-bit codes of shape {got[0]}, with {name}_scale of shape {got[1]}: "
                f"expected {expected[0]} and {expected[1]}, for a parameter of shape {expected[0]}"
            )
