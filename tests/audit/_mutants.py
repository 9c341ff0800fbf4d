"""An optimizer that is right, and with one fault planted for each check.

`Right` is AdamW by its definition, fastopt.reference.adamw, on NumPy's arrays: first everything is
read and computed, then everything is written.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from _optim_cases import array_of
from fastopt import reference

Array = np.ndarray[Any, np.dtype[Any]]
Group = dict[str, Any]
KEYS = ("lr", "betas", "eps", "weight_decay", "maximize")


class Work(NamedTuple):
    """A parameter with what it and its state will be."""

    param: Tensor
    step: Tensor
    states: dict[str, Tensor]
    results: tuple[Array, ...]


def tensor_of(array: Array) -> Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


class Right(Optimizer):
    """AdamW."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        given = (lr, betas, eps, weight_decay, maximize)
        super().__init__(params, dict(zip(KEYS, given, strict=True)))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else self.call(closure)
        work = [self.work(group, param) for group in self.param_groups for param in self.ready(group)]
        for it in work:
            self.write(it)
        return loss

    def call(self, closure: Callable[[], Any]) -> Any:
        with torch.enable_grad():
            return closure()

    def ready(self, group: Group) -> list[Tensor]:
        """The parameters to be stepped."""
        return [param for param in group["params"] if param.grad is not None]

    def options(self, group: Group) -> Group:
        options = {key: group[key] for key in KEYS}
        options["lr"] = float(self.rate(group))
        return options

    def rate(self, group: Group) -> Any:
        return group["lr"]

    def gradient(self, group: Group, param: Tensor) -> Tensor:
        assert param.grad is not None
        return param.grad

    def state_of(self, param: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The count before this step, and the averages; not yet in the state."""
        state = self.state.get(param) or {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(param),
            "exp_avg_sq": torch.zeros_like(param),
        }
        return state["step"], {key: state[key] for key in ("exp_avg", "exp_avg_sq")}

    def work(self, group: Group, param: Tensor) -> Work:
        step, states = self.state_of(param)
        options, number = self.options(group), int(step) + 1
        arrays = [array_of(it) for it in (param, self.gradient(group, param), *states.values())]
        results = self.computed(arrays, number, options)
        return Work(param, step, states, self.rounded(group, param, results))

    def computed(self, arrays: list[Array], number: int, options: Group) -> tuple[Array, ...]:
        return reference.adamw(*arrays, step=number, **options)

    def rounded(self, group: Group, param: Tensor, results: tuple[Array, ...]) -> tuple[Array, ...]:
        return results

    def write(self, work: Work) -> None:
        if work.param not in self.state:
            self.state[work.param] = {"step": work.step, **work.states}
        work.step.add_(1)
        work.param.copy_(tensor_of(work.results[0]))
        for state, array in zip(work.states.values(), work.results[1:], strict=True):
            state.copy_(tensor_of(array))


class LastBit(Right):
    """Results of some elements are the next number toward 0."""

    def chosen(self, group: Group, param: Tensor) -> slice | None:
        """Which elements, in C order."""
        raise NotImplementedError

    def rounded(self, group: Group, param: Tensor, results: tuple[Array, ...]) -> tuple[Array, ...]:
        which = self.chosen(group, param)
        if which is None:
            return results
        numbers = np.ascontiguousarray(results[0])
        flat = numbers.reshape(-1)
        flat[which] = np.nextafter(flat[which], np.zeros((), flat.dtype))
        return (numbers.reshape(results[0].shape), *results[1:])


# ---- numbers ------------------------------------------------------------------------------------


class SingleCorrections(Right):
    """The powers of betas are taken in float32."""

    def computed(self, arrays: list[Array], number: int, options: Group) -> tuple[Array, ...]:
        b1, b2 = options["betas"]
        one = np.float32(1)
        ratio = np.sqrt(float(one - np.float32(b2) ** np.float32(number)) / (1 - b2**number))
        ratio *= (1 - b1**number) / float(one - np.float32(b1) ** np.float32(number))
        return super().computed(arrays, number, options | {"lr": options["lr"] * ratio})


class Drifting(Right):
    """A factor that should be 1 is off by 1e-8, and multiplied anew in each step."""

    def computed(self, arrays: list[Array], number: int, options: Group) -> tuple[Array, ...]:
        return super().computed(arrays, number, options | {"lr": options["lr"] * (1 + 1e-8 * number)})


class RoundingAverages(Right):
    """States of 16 bits are rounded to nearest."""

    def computed(self, arrays: list[Array], number: int, options: Group) -> tuple[Array, ...]:
        if arrays[0].dtype.itemsize > 2:
            return super().computed(arrays, number, options)
        results = super().computed([it.astype(np.float32) for it in arrays], number, options)
        return tuple(it.astype(arrays[0].dtype) for it in results)


class HalfDecay(Right):
    """Decays by half of what is asked for."""

    def options(self, group: Group) -> Group:
        options = super().options(group)
        return options | {"weight_decay": 0.5 * options["weight_decay"]}


class DecayOutside(Right):
    """What rounding takes from a bfloat16 parameter is added in the next step, not what decay did."""

    def state_of(self, param: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        step, states = super().state_of(param)
        if param.dtype == torch.bfloat16:
            lost = self.state[param]["lost"] if param in self.state else torch.zeros_like(param)
            states["lost"] = lost
        return step, states

    def work(self, group: Group, param: Tensor) -> Work:
        if param.dtype != torch.bfloat16:
            return super().work(group, param)
        step, states = self.state_of(param)
        options = self.options(group)
        decayed = param * (1 - options["lr"] * options["weight_decay"])
        whole = decayed.float() + states["lost"].float()
        averages = [array_of(states[key]) for key in ("exp_avg", "exp_avg_sq")]
        grad = array_of(self.gradient(group, param))
        arrays = [array_of(whole), grad, *averages]
        results = self.computed(arrays, int(step) + 1, options | {"weight_decay": 0.0})
        exact = results[0]
        rounded = exact.astype(grad.dtype)
        lost = (exact - rounded.astype(np.float32)).astype(grad.dtype)
        return Work(param, step, states, (rounded, *results[1:], lost))


class Flushing(Right):
    """Denormal results are 0."""

    def rounded(self, group: Group, param: Tensor, results: tuple[Array, ...]) -> tuple[Array, ...]:
        tiny = ml_dtypes.finfo(results[0].dtype).smallest_normal
        return tuple(np.where(np.abs(it) < tiny, np.zeros_like(it), it) for it in results)


class Hiding(Right):
    """Gradients that are no numbers are 0."""

    def gradient(self, group: Group, param: Tensor) -> Tensor:
        return torch.nan_to_num(super().gradient(group, param), 0.0, 0.0, 0.0)


class OnlyDown(Right):
    """Takes no notice of maximize."""

    def options(self, group: Group) -> Group:
        return super().options(group) | {"maximize": False}


# ---- places -------------------------------------------------------------------------------------


class Tail(LastBit):
    """What is left over of eights rounds otherwise."""

    def chosen(self, group: Group, param: Tensor) -> slice:
        return slice(param.numel() // 8 * 8, None)


class Unaligned(LastBit):
    def chosen(self, group: Group, param: Tensor) -> slice | None:
        return slice(None) if param.data_ptr() % 64 else None


class Threaded(LastBit):
    def chosen(self, group: Group, param: Tensor) -> slice | None:
        return slice(None) if torch.get_num_threads() > 1 else None


class AfterEmpty(LastBit):
    """A parameter that follows an empty one."""

    def chosen(self, group: Group, param: Tensor) -> slice | None:
        place = [it is param for it in group["params"]].index(True)
        return slice(None) if place and group["params"][place - 1].numel() == 0 else None


class Racing(LastBit):
    """Long tensors have elements that come out otherwise each time."""

    def chosen(self, group: Group, param: Tensor) -> slice | None:
        if param.numel() < 65536:
            return None
        begin = int(np.random.default_rng().integers(1 << 15))
        return slice(begin, begin + 100)


class NoEmpty(Right):
    def work(self, group: Group, param: Tensor) -> Work:
        if param.dim() > 1 and param.numel() == 0:
            raise ValueError("cannot reshape an empty tensor")
        return super().work(group, param)


class Short(Right):
    """Counts elements in 7 bits."""

    def rounded(self, group: Group, param: Tensor, results: tuple[Array, ...]) -> tuple[Array, ...]:
        numbers, before = results[0].copy(), array_of(param)
        numbers.reshape(-1)[128:] = before.reshape(-1)[128:]
        return (numbers, *results[1:])


# ---- memory -------------------------------------------------------------------------------------


class ReadsOn(Right):
    """An expanded gradient is read as if it had as many elements as its parameter."""

    def gradient(self, group: Group, param: Tensor) -> Tensor:
        grad = super().gradient(group, param)
        if 0 not in grad.stride():
            return grad
        dense = torch.empty(grad.shape)
        return grad.as_strided(grad.shape, dense.stride(), grad.storage_offset())


class InMemoryOrder(Right):
    """Parameter and gradient are gone through in the order of their own memory."""

    def gradient(self, group: Group, param: Tensor) -> Tensor:
        grad = super().gradient(group, param)
        last = sum((n - 1) * it for n, it in zip(param.shape, param.stride(), strict=True))
        if param.is_contiguous() or last != param.numel() - 1 or not grad.is_contiguous():
            return grad
        return grad.as_strided(param.shape, param.stride(), grad.storage_offset())


class Strided(LastBit):
    def chosen(self, group: Group, param: Tensor) -> slice | None:
        return None if param.is_contiguous() else slice(None)


class WritesBeside(Right):
    """A strided parameter's gaps are written to."""

    def write(self, work: Work) -> None:
        super().write(work)
        if work.param.stride()[-1:] == (2,):
            work.param.as_strided((1,), (1,), work.param.storage_offset() + 1).zero_()


class Negating(Right):
    """Turns the gradient itself round to maximize."""

    def write(self, work: Work) -> None:
        super().write(work)
        group = next(it for it in self.param_groups if any(work.param is p for p in it["params"]))
        if group["maximize"] and work.param.grad is not None:
            work.param.grad.neg_()


class Caching(Right):
    """Writes to the memory that a parameter had in its first step."""

    def write(self, work: Work) -> None:
        known = self.__dict__.setdefault("known", {})
        data = known.setdefault(work.param, work.param.data)
        super().write(work)
        if data.data_ptr() != work.param.data_ptr():
            data.copy_(work.param)
            work.param.copy_(torch.zeros_like(work.param))


class Unnoticed(Right):
    def write(self, work: Work) -> None:
        version = work.param._version
        super().write(work)
        torch._C._autograd._unsafe_set_version_counter((work.param,), (version,))


# ---- groups -------------------------------------------------------------------------------------


class NotLate(Right):
    """As torch's fused SGD: all of a group have a state, or none."""

    def ready(self, group: Group) -> list[Tensor]:
        ready = super().ready(group)
        if len({param in self.state for param in ready}) > 1:
            raise TypeError("expected Tensor, got NoneType")
        return ready


class Decaying(Right):
    """Parameters without gradients decay."""

    def ready(self, group: Group) -> list[Tensor]:
        for param in group["params"]:
            if param.grad is None:
                param.mul_(1 - group["lr"] * group["weight_decay"])
        return super().ready(group)


class Counting(Right):
    """Counts steps that a parameter has not had."""

    def ready(self, group: Group) -> list[Tensor]:
        for param in group["params"]:
            if param.grad is None and param in self.state:
                self.state[param]["step"] += 1
        return super().ready(group)


class OneCount(Right):
    """A new group goes on with the count of the first."""

    def state_of(self, param: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        step, states = super().state_of(param)
        first = self.param_groups[0]["params"]
        if param not in self.state and not any(param is it for it in first) and first[0] in self.state:
            step = self.state[first[0]]["step"].clone()
        return step, states


class FirstRate(Right):
    def rate(self, group: Group) -> Any:
        return self.param_groups[0]["lr"]


class OneDtype(Right):
    def ready(self, group: Group) -> list[Tensor]:
        if len({param.dtype for param in group["params"]}) > 1:
            raise RuntimeError("expected all parameters to be of one dtype")
        return super().ready(group)


class Strict(Right):
    """Groups have only the options that it knows."""

    def options(self, group: Group) -> Group:
        known = {*KEYS, "params", "param_names", "initial_lr"}
        if more := group.keys() - known:
            raise TypeError(f"unexpected keyword arguments {sorted(more)}")
        return super().options(group)


class Guessing(Right):
    """A rate that is missing is 0."""

    def options(self, group: Group) -> Group:
        return super().options({"lr": 0.0, **group})


class Nameless(Right):
    def __init__(self, params: Any, **options: Any) -> None:
        params = [it[1] if isinstance(it, tuple) else it for it in params]
        super().__init__(params, **options)


# ---- saving -------------------------------------------------------------------------------------


class Forgetting(Right):
    """The averages of matrices are 0 after loading."""

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        for param, state in self.state.items():
            if param.dim() > 1:
                state["exp_avg"] = torch.zeros_like(param)


class Narrowing(Right):
    """A count of steps is loaded in the parameter's dtype."""

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        for param, state in self.state.items():
            state["step"] = state["step"].to(param.dtype)


class Tag:
    """Nothing that torch knows."""


class Unsafe(Right):
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"made by": Tag()}


class Keeping(Right):
    """Loads only what it has not got."""

    def load_state_dict(self, state_dict: Any) -> None:
        kept = dict(self.state)
        super().load_state_dict(state_dict)
        self.state.update(kept)


class Shallow(Right):
    def __deepcopy__(self, memo: Any) -> "Shallow":
        return copy.copy(self)


class Stateless(Right):
    """A pickle has no state; a copy has."""

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"state": {}}

    def __deepcopy__(self, memo: Any) -> "Stateless":
        other = type(self).__new__(type(self))
        other.__setstate__(copy.deepcopy(super().__getstate__(), memo))
        return other


class Roots(Right):
    """exp_avg_sq is kept as its root, unless in 16 bits."""

    def computed(self, arrays: list[Array], number: int, options: Group) -> tuple[Array, ...]:
        if arrays[3].itemsize == 2:
            return super().computed(arrays, number, options)
        with np.errstate(all="ignore"):
            squares = np.asarray(np.square(arrays[3]))
            param, average, squares = super().computed([*arrays[:3], squares], number, options)
            return param, average, np.asarray(np.sqrt(squares))


# ---- calls --------------------------------------------------------------------------------------


class NoGrad(Right):
    def call(self, closure: Callable[[], Any]) -> Any:
        return closure()


class Twice(Right):
    """Runs its hooks by itself, beside torch's wrapper."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for hook in self._optimizer_step_pre_hooks.values():
            hook(self, (), {})
        return super().step(closure)


class InitialRate(Right):
    def rate(self, group: Group) -> Any:
        return group.get("initial_lr", group["lr"])


class ReadsRateOnce(Right):
    """A rate that is a tensor is read in the first step."""

    def rate(self, group: Group) -> Any:
        if not isinstance(group["lr"], Tensor):
            return group["lr"]
        known = self.__dict__.setdefault("known", {})
        return known.setdefault(id(group), float(group["lr"]))


class Scaled(Right):
    """Says that it unscales gradients, and does not."""

    _step_supports_amp_scaling = True


# ---- care ---------------------------------------------------------------------------------------


class GroupByGroup(Right):
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else self.call(closure)
        for group in self.param_groups:
            for it in [self.work(group, param) for param in self.ready(group)]:
                self.write(it)
        return loss


class Hoarding(Right):
    def write(self, work: Work) -> None:
        super().write(work)
        self.__dict__.setdefault("seen", []).append(work.param.grad.clone())


class Mutant(NamedTuple):
    """A fault, and the other checks that fail for the same reason."""

    kind: type[Optimizer]
    also: tuple[str, ...] = ()


MUTANTS: dict[str, Mutant] = {
    "first_steps": Mutant(SingleCorrections),
    "late_steps": Mutant(Drifting),
    "averages_in_16_bits": Mutant(RoundingAverages),
    "weight_decay": Mutant(HalfDecay),
    "decay_of_16_bits": Mutant(DecayOutside),
    "denormal_numbers": Mutant(Flushing),
    "infinite_and_nan": Mutant(Hiding),
    "maximize": Mutant(OnlyDown),
    "positions": Mutant(Tail),
    "alignment": Mutant(Unaligned),
    "thread_counts": Mutant(Threaded),
    "order_of_parameters": Mutant(AfterEmpty),
    "repeated_runs": Mutant(Racing, also=("thread_counts",)),
    "empty_tensors": Mutant(NoEmpty),
    "layouts_of_gradients": Mutant(ReadsOn),
    "layouts_of_parameters": Mutant(InMemoryOrder),
    "bits_of_layouts": Mutant(Strided),
    "memory_beside": Mutant(WritesBeside),
    "gradients_kept": Mutant(Negating),
    "replaced_data": Mutant(Caching),
    "versions": Mutant(Unnoticed),
    "late_gradients": Mutant(NotLate),
    "no_gradients": Mutant(Decaying),
    "thawed_parameters": Mutant(Counting),
    "late_groups": Mutant(OneCount, also=("round_trips_with_torch",)),
    "options_of_groups": Mutant(FirstRate),
    "mixed_dtypes": Mutant(OneDtype),
    "foreign_keys": Mutant(Strict, also=("round_trips_with_torch",)),
    "missing_options": Mutant(Guessing),
    "named_parameters": Mutant(Nameless),
    "resuming": Mutant(Forgetting, also=("loading_twice", "round_trips_with_torch")),
    "loaded_states": Mutant(Narrowing),
    "safe_files": Mutant(Unsafe),
    "loading_twice": Mutant(Keeping),
    "copies": Mutant(Shallow),
    "pickles": Mutant(Stateless),
    "round_trips_with_torch": Mutant(Roots),
    "closures": Mutant(NoGrad),
    "hooks": Mutant(Twice),
    "schedulers": Mutant(InitialRate),
    "tensor_rates": Mutant(ReadsRateOnce),
    "grad_scaler": Mutant(Scaled),
    "errors_write_nothing": Mutant(GroupByGroup),
    "leaks": Mutant(Hoarding),
}
