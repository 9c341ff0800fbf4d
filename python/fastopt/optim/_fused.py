"""The step that every fastopt optimizer shares.

``Fused`` comes before a torch.optim class among the bases and replaces nothing but the update: one
call into C++ reads every group, gradient and state tensor, checks them, and then writes. Parameters
that the kernels do not take (sparse, complex, differentiable, tensor subclasses, other dtypes, devices
without kernels) go through torch's own step, before any other is written.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd.grad_mode import _unsafe_preserve_version_counter as keep_version
from torch.optim import Optimizer

from fastopt import _C
from fastopt._threads import fit_for_forks
from fastopt.optim import _engines
from fastopt.optim._copies import CopiesT
from fastopt.optim._entries import Kind
from fastopt.optim._hooks import hooked
from fastopt.optim._loading import Loading
from fastopt.optim._parts import Parts
from fastopt.optim._report import Reports, torchs_class
from fastopt.optim._rounding import new_rounding
from fastopt.optim._stepped import Entries, Group, Leftover
from fastopt.optim._storage import dtype_as_text, in_one_dtype
from fastopt.optim._tail import Tail, with_weight


def torch_step_of(optimizer: Optimizer) -> Callable[..., Any]:
    """The step of the torch.optim class that ``optimizer`` derives from, without its hook wrapper.

    torch wraps a class's ``step`` with hooks and profiling once an instance of it has been built;
    fastopt's own ``step`` has been wrapped too, so calling torch's as it stands would run each hook
    twice, but only in programs that also built the torch class.
    """
    step: Any = cast(Any, torchs_class(type(optimizer))).step
    while getattr(step, "hooked", False):
        step = step.__wrapped__
    return cast(Callable[..., Any], step)


def shares_places(tensor: Tensor) -> bool:
    """Whether two of its elements lie in one place."""
    if tensor.numel() == 0:
        return False
    sizes = [(s, n) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n > 1]
    reach = 0  # of the dimensions so far, from the nearest elements on
    for stride, size in sorted(sizes):
        if stride <= reach:
            break
        reach += stride * (size - 1)
    else:
        return False
    places = torch.zeros((), dtype=torch.int64)
    for stride, size in sizes:
        places = places.unsqueeze(-1) + torch.arange(size) * stride
    return len(set(places.flatten().tolist())) < tensor.numel()


class Fused(Parts, Tail, Loading, Reports):
    """Mixin: ``class AdamW(Fused, torch.optim.AdamW)``."""

    _extras: ClassVar[dict[str, Any]] = {}
    """Options that torch's class lacks, with the values at which the two agree."""

    _unread: ClassVar[tuple[str, ...]] = ()
    """Options that torch's class has and its step does not read."""

    @hooked
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one optimization step.

        Args:
            closure: re-evaluates the model and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if torch.compiler.is_dynamo_compiling():
            self._update_outside_graphs()
        else:
            self._update()
        return loss

    def _update(self) -> None:
        # A GradScaler sets these for fused=True, and leaves unscaling and skipping to the step.
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        self._has_exchanged = False
        try:
            _C.step(self._rule, self, torch.get_num_threads(), grad_scale, found_inf)
        except Exception:
            self._announce_failure()
            raise

    # torch.compile breaks its graph here, and nowhere below: the update is not for it to trace.
    # Not torch.compiler.disable, which would import torch._dynamo with fastopt, for seconds.
    _update_outside_graphs = _disable_dynamo(_update)

    def _left_over(self) -> list[Leftover]:
        return _C.left_over(self._rule, self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._find_grad_norm_group()
        for group in self.param_groups:  # a state_dict of torch.optim does not have these
            for key, neutral in self._neutral().items():
                group.setdefault(key, self.defaults.get(key, neutral))
            self._check_storage(group)
            for param in group["params"]:
                if "ema_step" in self.state.get(param, {}):
                    self.state[param] = with_weight(group, self.state[param])
        if "state_dtype" in self.defaults:
            self.defaults["state_dtype"] = dtype_as_text(self.defaults["state_dtype"])

    @fit_for_forks()
    def state_dict(self, *, as_torch: bool = False) -> dict[str, Any]:
        """As torch's; averages that a first step would make are in it as that step would make them.

        Args:
            as_torch: what the torch.optim class of this name could have saved, for a program without
                fastopt. States are numbers in the parameter's dtype; averages, masters and all
                options that torch lacks are left out. ValueError for an option that changes the rule,
                and from an optimizer that torch lacks.

        Adagrad has state before its first step, which torch.distributed.checkpoint takes for all:
        it would load nothing that is missing from this.
        """
        packed = super().state_dict()
        for packed_group in packed["param_groups"]:
            packed_group |= {key: it for key, it in self._copying.items() if key in packed_group}
        if as_torch and torchs_class(type(self)) is None:
            raise ValueError(f"as_torch=True: torch.optim has no {type(self).__name__}")
        if as_torch:
            return self._in_torch_format(packed, self._extras, self._neutral())
        for group, packed_group in zip(self.param_groups, packed["param_groups"], strict=True):
            if "state_dtype" in packed_group:
                packed_group["state_dtype"] = dtype_as_text(group["state_dtype"])
            if group.get("ema_decay") is None:
                continue
            names = ["ema", "ema_weight"] if group.get("ema_bias_correction") else ["ema"]
            for param, index in zip(group["params"], packed_group["params"], strict=True):
                state = packed["state"].get(index)
                if state and "ema" not in state:
                    fresh = {name: self._new_state(group, param, name) for name in names}
                    state = packed["state"][index] = {**state, **fresh}
                if state and getattr(param, "_fsdp_flattened", False):
                    packed["state"][index] = in_one_dtype(state)
        return packed

    @classmethod
    def _neutral(cls) -> dict[str, Any]:
        """Every option that torch's class lacks, with the value at which the two agree."""
        return {**cls._extras, **cls._tail, **cls._storage, **cls._copying}

    def _set_extras(self, copy_to: CopiesT = None, **extras: Any) -> None:
        """Add options that torch's constructor does not know to the defaults and the groups."""
        self._set_copies(copy_to)
        self._find_grad_norm_group()
        self.defaults.update(extras)
        for group in self.param_groups:
            for key, value in extras.items():
                group.setdefault(key, value)

    # What C++ asks for (_stepped.py), and what that needs.

    def _missing_option(self, group: Group, name: str) -> None:
        """Fill in an option that a group lacks: the constructor's, where torch's step needs none.

        KeyError, as in torch's step, where it does.
        """
        if torchs_class(type(self)) is None or name in self._neutral():
            group[name] = self.defaults[name]
        elif name not in self._unread:
            raise KeyError(name)

    @fit_for_forks()
    def _new_state(self, group: Group, param: Tensor, name: str) -> Tensor:
        """A state tensor as torch's class would make it."""
        self._check_engines(group, name)
        kind = self._kind(name)
        if kind in (Kind.COUNT, Kind.NUMBER):
            ours = name == "ema_weight" or self._counts_itself
            on_device = ours or group.get("capturable") or group.get("fused")
            double = torch.get_default_dtype() == torch.float64 and not group.get("fused")
            starts_at_1 = name == self._facts.product
            if name == "ema_weight":  # an average without one has begun as the parameter
                double = param.dtype == torch.float64
                starts_at_1 = "ema" in self.state.get(param, {})
            return torch.full(
                (),
                1.0 if starts_at_1 else 0.0,
                dtype=torch.float64 if double else torch.float32,
                device=param.device if on_device else "cpu",
            )
        if kind is Kind.ROUNDING:
            return new_rounding(self, group, param)
        if (made := self._new_storage(group, param, name)) is not None:
            return made
        dtype = self._dtype_of_state(group, param, name)
        state = torch.empty_like(param, dtype=dtype, memory_format=torch.preserve_format)
        copies = kind is Kind.AVERAGE and not group["ema_bias_correction"]
        return state.copy_(param.detach()) if copies else state.zero_()

    def _check_engines(self, group: Group, name: str) -> None:
        """Refuse what an engine's tensors in the parameters' place would make something else of."""
        if self._kind(name) is Kind.AVERAGE:
            self._find_grad_norm_group()  # whose parts the averages are of
            _engines.refuse_copies(
                self,
                f"ema_decay={group['ema_decay']!r}",
                "ema_decay=None, and torch.optim.swa_utils.AveragedModel for averages of the model",
            )
        elif group.get("state_dtype") == "int8":
            _engines.refuse_copies(self, 'state_dtype="int8"', "torch.bfloat16 or torch.float32")
        elif self._facts.norms:
            what = f"{type(self).__name__}, which steps by norms or sums of whole parameters"
            _engines.refuse_copies(self, what, "a class whose steps are elementwise")

    @fit_for_forks()
    def _converted(self, group: Group, param: Tensor, name: str) -> Entries:
        self._check_engines(group, name)
        return super()._converted(group, param, name)

    def _as_dict(self, mapping: Any) -> dict[Any, Any]:
        """What a mapping that is no plain dict, or whose items are read in its own way, says."""
        if not isinstance(mapping, Mapping):
            raise TypeError(
                "param_groups and state: expected a dict or another mapping of each group and each "
                f"parameter, got {mapping!r}"
            )
        return {key: mapping[key] for key in mapping}

    @fit_for_forks()
    def _copy_back(self, tensor: Tensor, copy: Tensor) -> None:
        """Store what a kernel has made of a dense copy. No mode of functions has a say any more."""
        with torch._C.DisableTorchFunction(), torch.no_grad():
            tensor.copy_(copy)

    @fit_for_forks()
    @torch.no_grad()
    def _dense_copy(self, tensor: Tensor, like: Tensor | None, written: bool) -> Tensor:
        """``tensor`` laid out like ``like``, or without gaps where that is None."""
        if written and shares_places(tensor):
            what = "parameter" if like is None else "state"
            raise RuntimeError(
                f"{what} of shape {tuple(tensor.shape)} and strides {tensor.stride()}: "
                "several elements share one place in memory; expected one place each"
            )
        copy = torch.empty_like(tensor if like is None else like, dtype=tensor.dtype).copy_(tensor)
        if written:  # back once, the same bits: what refuses this does so before the step
            counted = contextlib.nullcontext() if tensor.is_inference() else keep_version(tensor)
            with counted:
                self._copy_back(tensor, copy)
        return copy

    def _bump_versions(self, params: list[Tensor]) -> None:
        """Tell autograd that the kernels have written to these."""
        torch.autograd.graph.increment_version(params)

    def _warn_unfused(self, left_over: Iterable[Leftover]) -> None:
        left_over = list(left_over)
        self._refuse_leftovers(left_over)  # or it would announce a step that is not made
        super()._warn_unfused(left_over)

    def _refuse_leftovers(self, leftovers: list[Leftover]) -> None:
        """ValueError for a parameter that neither the kernels nor torch's step can take."""
        for group, param, reason in leftovers:
            if torchs_class(type(self)) is None:
                raise ValueError(
                    f"torch.optim has no {type(self).__name__} for a parameter of shape "
                    f"{tuple(param.shape)} that fastopt's kernels do not take ({reason})"
                )
            for key, neutral in self._neutral().items():
                if key not in self._copying and group.get(key, neutral) != neutral:
                    raise ValueError(
                        f"a parameter of shape {tuple(param.shape)} needs torch's step ({reason}), and "
                        f"torch.optim has no such option as {key}={group[key]!r}; expected {key}="
                        f"{neutral!r}, or what fastopt's kernels take"
                    )

    @fit_for_forks()
    def _step_with_torch(self, leftovers: list[Leftover], grad_scale: float) -> None:
        """Step the parameters that the kernels do not take with torch's own code."""
        by_group: dict[int, Group] = {}
        # Most of torch's classes refuse a sparse gradient: they are to meet it before they write.
        leftovers = sorted(leftovers, key=lambda it: it[1].grad is None or not it[1].grad.is_sparse)
        self._refuse_leftovers(leftovers)
        for group, param, _ in leftovers:
            by_group.setdefault(id(group), {**group, "params": []})["params"].append(param)
        params = [param for _, param, _ in leftovers]
        # Torch's step is that of another object with the same state, so that whatever ends it leaves
        # this one as it is.
        part = object.__new__(type(self))
        vars(part).update(vars(self), param_groups=list(by_group.values()))
        vars(part).pop("grad_scale", None)
        step = functools.partial(torch_step_of(self), part)
        if grad_scale == 1:
            step()
        else:
            scaled = [None if it.grad is None else it.grad / grad_scale for it in params]
            _C.call_with_grads(params, scaled, step)
        del part.param_groups
        vars(self).update(vars(part))  # what the class may have noted
