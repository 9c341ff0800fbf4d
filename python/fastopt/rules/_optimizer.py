"""The class of a rule: a torch optimizer whose step is the rule's program."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from fastopt.optim._fused import Fused
from fastopt.optim._stepped import Group, Leftover
from fastopt.optim._tail import tail_options
from fastopt.optim.adam import Adam
from fastopt.optim.lion import Lion

from ._functions import reading
from ._numbers import as_number

if TYPE_CHECKING:
    from ._rule import Rule

AROUND = """
    params: parameters, ``(name, parameter)`` pairs, or dicts that define groups.
    {options}: of the rule.
    maximize: ascend instead of descend.
    capturable: keep the number of the step, and others that the rule keeps, on the parameter's
        device, so that a CUDA graph may capture a step; see docs/cuda.md.
    max_grad_norm, error_if_nonfinite, ema_decay, ema_bias_correction: clip and average in the same
        pass; see :mod:`fastopt.optim`.
    state_dtype, master_weights, stochastic_rounding, rounding_seed: what parameters and states are
        stored in; see :mod:`fastopt.optim._storage`.
    copy_to: a list of tensors that each step also writes its parameters to, rounded; see
        :mod:`fastopt.optim._copies`.
"""


class RuleOptimizer(Fused):
    """An optimizer that ``rule.optimizer(name)`` made."""

    rule: ClassVar[Rule]
    """What it was made of."""

    _rule = "sgd"  # of a class that is made: its rule's name
    _extras: ClassVar[dict[str, Any]] = {"capturable": False}

    def __init__(self, params: Any, **options: Any) -> None:
        around = {**self._tail, **self._storage, **self._copying}
        settings = {key: options.pop(key, none) for key, none in around.items()}
        defaults = {it.name: options.get(it.name, it.default) for it in self.rule.options}
        for option in self.rule.options:
            option.check(defaults[option.name])
        capturable = bool(options.get("capturable", False))
        super().__init__(params, defaults | {"capturable": capturable})
        self._set_extras(
            **tail_options(**{key: settings[key] for key in self._tail}),
            **self._storage_options(**{key: settings[key] for key in self._storage}),
            copy_to=settings["copy_to"],
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        cls = type(self)
        if is_found(cls):
            return super().__reduce_ex__(protocol)
        return _rebuilt, (self.rule, cls.__name__, cls.__module__), self.__getstate__()

    def _new_state(self, group: Group, param: Tensor, name: str) -> Tensor:
        if name in self.rule.kept:
            device = param.device if group.get("capturable") else "cpu"
            return torch.tensor(self.rule.kept[name], dtype=torch.float64, device=device)
        begin = self.rule.start.get(name)
        if isinstance(begin, (int, float)):
            return torch.full_like(param, begin, dtype=self._dtype_of_state(group, param, name))
        if begin is not None:
            return param.detach().to(self._dtype_of_state(group, param, name), copy=True)
        return super()._new_state(group, param, name)

    def _dtype_of_state(self, group: Group, param: Tensor, name: str) -> torch.dtype:
        if name in self.rule.start and group.get("state_dtype") == "int8":
            return torch.float32 if param.dtype != torch.float64 else param.dtype  # a parameter, too
        return super()._dtype_of_state(group, param, name)

    def _step_with_torch(self, leftovers: list[Leftover], grad_scale: float) -> None:
        """Step what the kernels do not take: the function itself, on torch's tensors."""
        self._refuse_leftovers(leftovers)
        for group, param, _ in leftovers:
            self._step_one(group, param, grad_scale)

    def _refuse_leftovers(self, leftovers: list[Leftover]) -> None:
        for group, param, reason in leftovers:
            self._check_fallback(group, param, reason)

    def _check_fallback(self, group: Group, param: Tensor, reason: str) -> None:
        what = (
            f"a parameter of shape {tuple(param.shape)} that fastopt's kernels do not take ({reason})"
        )
        name = type(self).__name__
        grad = param.grad
        if grad is not None and grad.is_sparse:
            raise ValueError(f"{name}: expected a dense gradient for {what}")
        if not param.dtype.is_floating_point:
            raise ValueError(f"{name}: expected real numbers, got {param.dtype} in {what}")
        for key, none in {**self._tail, **self._storage}.items():
            if group.get(key, none) != none:
                raise ValueError(
                    f"{name}: {key}={group[key]!r} is for kernels; expected {none!r} for {what}"
                )

    @torch.no_grad()
    def _step_one(self, group: Group, param: Tensor, grad_scale: float) -> None:
        assert param.grad is not None
        state = self.state[param]
        for name in ("step", *self.rule.states, *self.rule.kept):
            if name not in state:
                state[name] = self._new_state(group, param, name)
        state["step"] += 1
        grad = param.grad if grad_scale == 1 else param.grad / grad_scale
        given = {it.name: group[it.name] for it in self.rule.options}
        given |= {name: float(state[name]) for name in self.rule.kept}
        choice, values = self.rule._numbers(given)
        arrays = [param.detach(), grad, *(state[name] for name in self.rule.states)]
        with reading(param):
            results = self.rule._call(arrays, [float(state["step"]), *values], choice)
        results = results if isinstance(results, tuple) else (results,)
        arrays = [param, *(state[name] for name in self.rule.states)]
        for name, number in zip(self.rule.kept, results[len(arrays) :], strict=True):
            state[name].fill_(as_number(number).value)
        # All before one is written: a result may be another one's array.
        results = tuple(it.clone() for it in results[: len(arrays)])
        for to, it in zip(arrays, results, strict=True):
            to.copy_(it)


def make_class(rule: Rule, name: str, module: str) -> type[RuleOptimizer]:
    """The class ``name`` of a rule."""
    around = inspect.signature(Lion.__init__, eval_str=True).parameters
    parameters = [around["params"]]
    for option in rule.options:
        positional = option.name != "maximize"
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if positional else inspect.Parameter.KEYWORD_ONLY
        annotation = option.annotation
        if annotation is inspect.Parameter.empty:
            annotation = type_of(option.default)
        parameters.append(
            inspect.Parameter(option.name, kind, default=option.default, annotation=annotation)
        )
    parameters.append(inspect.signature(Adam.__init__, eval_str=True).parameters["capturable"])
    ours = RuleOptimizer
    parameters += [around[key] for key in (*ours._tail, *ours._storage, *ours._copying)]
    parameters.sort(key=lambda it: it.kind)
    signature = inspect.Signature(parameters)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        given = dict(signature.bind(*args, **kwargs).arguments)
        RuleOptimizer.__init__(self, given.pop("params"), **given)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    make: Callable[..., None] = __init__
    make.__qualname__ = f"{name}.__init__"
    make.__signature__ = inspect.Signature([own, *parameters], return_annotation=None)  # type: ignore[attr-defined]
    make.__annotations__ = {it.name: it.annotation for it in parameters} | {"return": None}
    listed = ", ".join(it.name for it in rule.options if it.name != "maximize") or "none"
    text = inspect.cleandoc(rule.__doc__ or f"The rule {rule.__name__}.")
    made = type(
        name,
        (RuleOptimizer,),
        {
            "__init__": make,
            "__doc__": f"{text}\n\nArgs:{AROUND.format(options=listed)}",
            "__module__": module,
            "_rule": rule.name,
            "rule": rule,
        },
    )
    return made


def type_of(default: Any) -> Any:
    """The annotation of an option that has none."""
    if isinstance(default, tuple):
        return tuple[tuple(float for _ in default)]  # type: ignore[misc]
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        return float
    return type(default) if default is not None else Any


def is_found(cls: type[Optimizer]) -> bool:
    """Whether a class can be pickled by its name."""
    return getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls


def _rebuilt(rule: Rule, name: str, module: str) -> RuleOptimizer:
    """An instance of a class that has no name in its module, before its state is set."""
    cls = make_class(rule, name, module)
    return cls.__new__(cls)
