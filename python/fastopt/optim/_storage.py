"""What parameters and states are stored in.

Every fastopt optimizer takes these keyword-only options (LAMB the first alone, and no codes in it):

state_dtype
    What the states are stored in. ``torch.bfloat16`` takes half the memory of float32, and half the
    bytes for a step to move; ``"int8"`` about a quarter. Arithmetic is in float32 all the same.
    None, the default, is torch's choice, the parameter's dtype. Groups keep the dtype's name
    (``"bfloat16"``), which the option takes, too.

    16-bit states, the default ones of 16-bit parameters too, are rounded up or down by a dither, a
    function of the step and the element's place, so that what a step changes is right on average
    however small it is; SGD and Lion count their steps for it, in ``step``. torch.float16 is for
    optimizers that keep no squares, since it cannot hold them below 6e-8; float16 parameters of the
    others have such states by default, as torch's have, with a warning: set torch.float32 or
    torch.bfloat16. ``"int8"`` keeps a code of 8 bits for each element and a
    float32 scale (``<state>_scale``) for every 256 of a row along dimension 0; see
    docs/numerics.md. It is for parameters of at least two dimensions, 4096 elements and rows of 64:
    the states of others, of parameters that are not contiguous and of DTensors that are cut otherwise
    than by rows stay float32.
    float64 parameters take no other dtype than theirs. ``RMSprop(centered=True)``, which divides by
    the difference of two averages, keeps those in float32 and refuses a ``state_dtype`` of less.
master_weights
    Train 16-bit parameters as if they were float32, and keep what they lack: for bfloat16 the lower
    16 bits of each number (``param_low``), for float16 the float32 numbers (``master``). The
    parameters are these numbers rounded. States are float32 unless ``state_dtype`` says otherwise.
    A parameter may be written to between steps: what is written counts, though a bfloat16 keeps its
    ``param_low`` and so ends up within half of its last bit.
stochastic_rounding
    Round bfloat16 parameters up or down at random, in proportion, so that steps too small for their
    16 bits are not lost but made now and then. A function of a seed, the number of the step (both in
    the state ``rounding``) and the element's place in memory.
rounding_seed
    Where the seeds of random rounding come from: each parameter's is a function of this number, a
    whole one of 64 bits, and of the parameter's place in the groups when its first step is made. It
    does not depend on torch's generator, so that replicas stay equal whatever their processes draw.
    Where processes hold different parameters, or parts that are not DTensors, their rank in
    ``grad_norm_group`` counts, too; where that is not set, give each a number of its own.

What is given to a constructor, or with a group of its own, holds for whatever is loaded later; where
nothing is, the checkpoint's options do. An option that changes in a group takes effect at the next
step, which brings the states into the new dtype; those of a float64 parameter are its own.

Step counts stay float32, and averages (``ema_decay``) of 16-bit parameters are float32: what a step
adds to an average would mostly be lost in 16 bits. They take in parameters before these are rounded.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain
from math import prod
from numbers import Integral
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from fastopt.optim._distributed import cut_like, first_index, first_row, is_dtensor, local_part
from fastopt.optim._entries import Kind, Ruled, scale_of, torchs_of
from fastopt.reference.codes import decode_blocks, is_worth_codes
from fastopt.reference.dither import BLOCK

StateDtype: TypeAlias = torch.dtype | Literal["float32", "bfloat16", "float16", "int8"] | None

HALVES = (torch.bfloat16, torch.float16)
LONGEST_VECTOR = 1 << 18  # of elements; what is longer is no bias but many parameters, flattened
CODES = {torch.int8: "signed8", torch.uint8: "root8"}
WHOLE = {Kind.LOW: torch.int16, Kind.ROUNDING: torch.int64}  # what holds no real numbers
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Storage(Ruled):
    """Mixin: an optimizer whose parameters and states are stored as its groups ask."""

    _storage: ClassVar[dict[str, Any]] = {
        "state_dtype": None,
        "master_weights": False,
        "stochastic_rounding": False,
        "rounding_seed": 0,
    }
    """The options that ask for nothing."""

    _no_int8: ClassVar[str | None] = None
    """Why its states cannot be kept in 8 bits."""

    _has_warned_flat: bool = False

    @property
    def _counts_itself(self) -> bool:
        """Whether a count of steps is ours and none of torch's class. On a device it is kept there."""
        return not self._facts.counts_steps

    def _storage_options(
        self,
        state_dtype: StateDtype,
        master_weights: bool,
        stochastic_rounding: bool,
        rounding_seed: int = 0,
    ) -> dict[str, Any]:
        """The options as a group holds them, checked."""
        stored = dtype_as_text(state_dtype)
        if stored not in (None, *DTYPES, "int8") or type(stored) not in (str, type(None)):
            raise ValueError(
                f"Invalid state_dtype value: {state_dtype!r}; expected torch.float32, torch.bfloat16, "
                'torch.float16 (or their names), "int8" or None'
            )
        name = type(self).__name__
        if stored == "float16" and self._facts.squares:
            raise ValueError(
                f"state_dtype=torch.float16: {name} keeps squares or sizes of gradients, which "
                "float16 cannot hold below 6e-8; expected torch.bfloat16 or torch.float32"
            )
        if stored == "int8" and self._no_int8 is not None:
            raise ValueError(
                f'state_dtype="int8": {name} {self._no_int8}; expected torch.bfloat16 or torch.float32'
            )
        if master_weights and stochastic_rounding:
            raise ValueError(
                "stochastic_rounding=True: expected master_weights=False with it, since a parameter "
                "with a master is that master rounded"
            )
        if not isinstance(rounding_seed, Integral) or not -(2**63) <= rounding_seed < 2**64:
            raise ValueError(
                f"Invalid rounding_seed value: {rounding_seed!r}; expected a whole number of 64 bits"
            )
        return {
            "state_dtype": stored,
            "master_weights": master_weights,
            "stochastic_rounding": stochastic_rounding,
            "rounding_seed": int(rounding_seed),
        }

    def _check_storage(self, group: dict[str, Any]) -> None:
        """Refuse a group's own options as the constructor does, and write those it has as it does."""
        options = {key: group.get(key, none) for key, none in self._storage.items()}
        for key, value in self._storage_options(**options).items():
            if key in group:
                group[key] = value

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's."""
        if isinstance(param_group, dict):  # else torch says what is wrong
            self._check_storage({**self.defaults, **param_group})
            if "state_dtype" in param_group:
                param_group["state_dtype"] = dtype_as_text(param_group["state_dtype"])
        own = {key: param_group[key] for key in self._storage if key in param_group}
        super().add_param_group(param_group)
        for options in (self.defaults, self.param_groups[-1]):
            options.update({key: tuple(it) for key, it in options.items() if is_foreign_list(it)})
        vars(self).setdefault("_own_storage", []).append(own)

    def _first_index(self, param: Tensor) -> int | None:
        return first_index(param)

    def _new_storage(self, group: dict[str, Any], param: Tensor, name: str) -> Tensor | None:
        """A state that only storage knows, or None."""
        self._check_storage(group)
        kind = self._kind(name)
        if kind is Kind.LOW:
            return torch.zeros_like(param, dtype=torch.int16)
        if kind is Kind.MASTER:
            return param.detach().to(torch.float32, copy=True)
        if kind is Kind.SCALE:
            part, blocks = local_part(param), -(-prod(param.shape[1:]) // BLOCK)
            return cut_like(param, torch.zeros(part.shape[0], blocks, device=part.device), blocks)
        self._warn_of_squares(group, param, name)
        return None

    def _warn_of_squares(self, group: dict[str, Any], param: Tensor, name: str) -> None:
        if name in self._facts.squares and self._dtype_of_state(group, param, name) == torch.float16:
            warnings.warn(
                f"fastopt.optim.{type(self).__name__} keeps {name} of float16 parameters in float16, "
                "as torch does, which cannot hold squares below 6e-8 or above 65504; set state_dtype "
                "to torch.float32 or torch.bfloat16",
                stacklevel=2,
            )

    def _dtype_of_state(self, group: dict[str, Any], param: Tensor, name: str) -> torch.dtype:
        """What a state of this parameter is stored in."""
        kind = self._kind(name)
        if kind in WHOLE:
            return WHOLE[kind]
        if param.dtype not in (torch.float32, *HALVES):
            return param.dtype
        if kind in (Kind.AVERAGE, Kind.MASTER, Kind.SCALE):
            return torch.float32
        wanted = dtype_as_text(group.get("state_dtype"))
        if wanted == "int8":
            if not is_worth_blocks(param):
                self._warn_flat(param)
                return torch.float32
            return torch.uint8 if name in self._facts.squares else torch.int8
        if wanted is not None:
            return DTYPES[wanted]
        return torch.float32 if group.get("master_weights") else param.dtype

    def _warn_flat(self, param: Tensor) -> None:
        """Say, once, that no codes are kept of what an engine has flattened."""
        is_flat = getattr(param, "_fsdp_flattened", False) or param.numel() > LONGEST_VECTOR
        if param.ndim != 1 or not is_flat or self._has_warned_flat:
            return
        self._has_warned_flat = True
        warnings.warn(
            f'state_dtype="int8": the states of a parameter of shape {tuple(param.shape)} stay '
            "float32, since codes go by rows and it has one dimension, as flattened parameters have; "
            "torch.bfloat16 states take half of that",
            UserWarning,
            stacklevel=2,
        )

    def _in_torch_format(
        self, packed: dict[str, Any], of_the_rule: dict[str, Any], ours: dict[str, Any]
    ) -> dict[str, Any]:
        """What ``state_dict(as_torch=True)`` makes of a state_dict.

        `ours` are the options that torch lacks, `of_the_rule` those that it would go wrong without.
        """
        for index, group in enumerate(packed["param_groups"]):
            for key, neutral in of_the_rule.items():
                if group.get(key, neutral) != neutral:
                    raise ValueError(
                        f"{key}={group[key]!r} in group {index}: torch.optim.{type(self).__name__} "
                        f"has no such option; expected {key}={neutral!r} for as_torch=True"
                    )
        groups = [
            {key: value for key, value in group.items() if key not in ours}
            for group in packed["param_groups"]
        ]
        params = [param for group in self.param_groups for param in group["params"]]
        indices = chain.from_iterable(group["params"] for group in groups)
        states = dict(packed["state"])  # with what is no parameter's, which a program has put there
        for index, param in zip(indices, params, strict=True):
            if index in states:
                states[index] = self._state_in_torch_format(param, states[index])
                if not states[index]:
                    del states[index]
        return {**packed, "state": states, "param_groups": groups}

    def _state_in_torch_format(self, param: Tensor, state: dict[str, Any]) -> dict[str, Any]:
        kept = {name: decoded(state, name) for name in torchs_of(self._rule) if name in state}
        return {
            name: value.to(param.dtype)
            if self._kind(name) is Kind.STATE and isinstance(value, Tensor)
            else value
            for name, value in kept.items()
        }


def is_foreign_list(value: Any) -> bool:
    """Whether an option is a list of another library's, as Hydra's, which would go into checkpoints."""
    return isinstance(value, Sequence) and not isinstance(value, (tuple, list, str, bytes))


def holds_codes(state: dict[str, Any], name: str) -> bool:
    """Whether an entry is codes of 8 bits: by its dtype, whatever stands beside it."""
    value = state[name]
    return isinstance(value, Tensor) and value.dtype in CODES and scale_of(name) in state


def in_one_dtype(state: dict[str, Any]) -> dict[str, Any]:
    """A parameter's state with its 16-bit entries as float32, in which all of them can lie.

    FullyShardedDataParallel gathers a parameter's states in one vector of one dtype, and an average is
    float32. A load brings them back into what the options say, exactly.
    """
    return {
        name: value.float() if isinstance(value, Tensor) and value.dtype in HALVES else value
        for name, value in state.items()
    }


def dtype_as_text(dtype: Any) -> Any:
    """A state_dtype as groups keep it, so that whatever carries text carries them: "bfloat16" of
    torch.bfloat16 and of "torch.bfloat16". What is none of these stays what it is.
    """
    text = str(dtype) if isinstance(dtype, (torch.dtype, str)) else ""
    name = text.removeprefix("torch.")
    return name if name in DTYPES else dtype


def decoded(state: dict[str, Any], name: str) -> Any:
    """An entry of a parameter's state; numbers where that holds codes."""
    if not holds_codes(state, name):
        return state[name]
    codes, scales = (local_part(it.detach()) for it in (state[name], state[scale_of(name)]))
    numbers = torch.from_numpy(decode_blocks(codes.cpu().numpy(), scales.cpu().numpy()))
    return cut_like(state[name], numbers.to(codes.device))


def is_worth_blocks(param: Tensor) -> bool:
    """Whether 8-bit states of this parameter are supported and save memory."""
    if not is_dtensor(param) and type(param) not in (Tensor, torch.nn.Parameter):
        return False
    if first_row(param) is None:  # blocks lie within rows, and so rows must lie within processes
        return False
    return is_worth_codes(param.shape) and local_part(param).is_contiguous()
