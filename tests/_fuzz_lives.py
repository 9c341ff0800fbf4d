"""Optimizers for the fuzzer, and what may happen to them between steps."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.optim import lr_scheduler

import _fuzz
from _fuzz_calls import Raises
from _fuzz_steps import HALVES, REFUSALS, Picture, copied, outcome, params_of
from _optim_cases import EVERY, EXTRA_OPTIONS, FULL, TORCH_OPTIONS, Options, Subclass, sparse_gradient

DTYPES = [torch.float32, torch.float64, *HALVES]
SHAPES = [(), (0,), (1,), (7,), (16,), (33,), (3, 5), (2, 3, 4), (17, 9), (2, 3, 2, 2)]


class Life:
    """An optimizer and what happens to it."""

    def __init__(self, random: Random, log: _fuzz.Log) -> None:
        self.log = log
        self.name = random.choice(list(EVERY))
        self.random = random
        self.steps, self.is_over = 0, False
        options = dict(
            random.choice(
                TORCH_OPTIONS[self.name] + EXTRA_OPTIONS.get(self.name, []) + [FULL[self.name]]
            )
        )
        options |= random.choice([{}, {}, {}, {"max_grad_norm": 1.0}, {"ema_decay": 0.9}])
        if "ema_decay" in options:
            options["ema_bias_correction"] = random.random() < 0.5
        options |= draw_storage(random)
        dtypes = random.choice(
            [[torch.float32], [torch.float64], [torch.bfloat16], [torch.float16], DTYPES]
        )
        params = [new_param(random, random.choice(dtypes)) for _ in range(random.randrange(1, 4))]
        split = random.randrange(len(params))
        groups = [{"params": part} for part in (params[:split], params[split:]) if part]
        log(f"{self.name}({[told(it) for it in params]}, {options})")
        self.optimizer: Any = EVERY[self.name].ours(groups, **options)

    def any_param(self, random: Random) -> Tensor | None:
        params = params_of(self.optimizer)
        return random.choice(params) if params else None


def told(value: Any) -> str:
    """A value in a line of the log."""
    if not isinstance(value, Tensor):
        return repr(value) if type(value) is not Raises else "Raises()"
    return f"{type(value).__name__}({value.dtype}, {tuple(value.shape)}, {value.stride()})"


def draw_storage(random: Random) -> Options:
    """Options of storage; some are not for every class."""
    if random.random() < 0.6:
        return {}
    dtype = random.choice([None, None, torch.bfloat16, torch.float32, "int8", torch.float16])
    return {
        "state_dtype": dtype,
        **random.choice([{}, {"master_weights": True}, {"stochastic_rounding": True}]),
    }


def new_param(random: Random, dtype: torch.dtype) -> Tensor:
    shape = random.choice(SHAPES) if random.random() < 0.9 else random.choice([(64, 64), (5000,)])
    data = laid_out(random, random_numbers(random, shape, dtype))
    kind = random.random()
    if kind < 0.03:
        return torch.nn.Parameter(data.to(torch.complex64))
    if kind < 0.06:
        return data.as_subclass(Subclass).requires_grad_()
    return torch.nn.Parameter(data)


def random_numbers(random: Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    numbers = torch.randn(
        shape, generator=generator, dtype=torch.complex64 if dtype.is_complex else None
    )
    if random.random() < 0.1 and numbers.numel():
        numbers.view(-1)[0] = random.choice([0.0, 1e30, float("inf"), float("nan")])
    return numbers.to(dtype)


def laid_out(random: Random, data: Tensor) -> Tensor:
    """The same numbers in another order of memory, with gaps, or off their alignment."""
    how = random.random()
    if how < 0.8 or data.ndim == 0:
        return data
    if how < 0.9 and data.ndim > 1:
        return data.transpose(0, -1).contiguous().transpose(0, -1)
    if how < 0.97:
        return torch.stack([data, data], -1)[..., 1]
    return off_by_one(data) if data.numel() else data


def off_by_one(data: Tensor) -> Tensor:
    """At an address between elements."""
    memory = bytearray(data.numel() * data.element_size() + 1)
    moved = torch.frombuffer(memory, dtype=data.dtype, count=data.numel(), offset=1).view(data.shape)
    return moved.copy_(data)


# ---- what happens between steps -------------------------------------------------------------------

GOOD_OPTIONS: dict[str, list[Any]] = {
    "lr": [0.0, 0.01, 0.1, 1, torch.tensor(0.01), torch.tensor(0.01, dtype=torch.float64)],
    "weight_decay": [0, 0.0, 0.1],
    "betas": [(0.9, 0.999), (0.5, 0.5), [0.0, 0.9]],
    "momentum": [0.0, 0.9],
    "amsgrad": [False, True],
    "maximize": [False, True],
    "centered": [False, True],
    "eps": [1e-8, 1e-3],
    "ema_decay": [None, 0.5, 0.9],
    "foreach": [None, True, False],
    "fused": [None, False],
    "differentiable": [False, False, True],
}
NEVER_MISSING = ("ema_decay", "foreach", "fused", "differentiable")
BAD_OPTIONS = ["x", None, float("nan"), -1.0, torch.ones(3), (0.9,), object(), Raises(), 10**400]


def option(life: Life, random: Random) -> None:
    group = random.choice(life.optimizer.param_groups)
    key = random.choice(sorted(GOOD_OPTIONS.keys() & group.keys()))
    kind = random.random()
    if kind < 0.05 and key not in NEVER_MISSING:
        del group[key]
    else:
        group[key] = random.choice(GOOD_OPTIONS[key] if kind < 0.85 else BAD_OPTIONS)
    life.log(f"group[{key!r}]: {told(group[key]) if key in group else 'missing'}")


def surgery(life: Life, random: Random) -> None:
    """Another tensor, or something else, in the place of a state."""
    states = [(param, state) for param, state in life.optimizer.state.items() if state]
    if not states:
        return
    param, state = random.choice(states)
    key = random.choice(list(state))
    value = state[key]
    if not isinstance(value, Tensor):
        return
    make = random.choice(
        [
            lambda: value.clone(),
            lambda: laid_out(random, value.clone()),
            lambda: torch.zeros_like(value),
            lambda: value.to(
                random.choice([torch.bfloat16, torch.float32, torch.float64, torch.float16])
            ),
            lambda: torch.zeros(param.shape).to(
                random.choice([torch.int8, torch.int64, torch.float32])
            ),
            lambda: value.reshape(-1),
            lambda: torch.ones((*value.shape, 2)),
            lambda: None,
            lambda: 3,
            lambda: 2.5,
            lambda: "text",
            lambda: value.to("meta"),
        ]
    )
    how = random.random()
    if how < 0.1:
        del state[key]
    elif how < 0.2:
        state["note"] = copied(make())
    elif how < 0.25:
        life.optimizer.state[param] = {}
    elif how < 0.3:
        del life.optimizer.state[param]
    else:
        state[key] = make()
    log_state = {key: told(it) for key, it in life.optimizer.state.get(param, {}).items()}
    life.log(f"state of {told(param)}: {log_state}")


def data(life: Life, random: Random) -> None:
    param = life.any_param(random)
    if param is None:
        return
    plain = param.detach()
    new = random.choice(
        [
            lambda: plain.clone(),
            lambda: laid_out(random, plain.clone()),
            lambda: plain.t().contiguous().t() if plain.ndim == 2 else plain.clone(),
            lambda: plain.to(random.choice(DTYPES)) if not plain.is_complex() else plain,
            lambda: plain.reshape(-1),
        ]
    )()
    if type(param) is not Subclass:
        param.grad = None
        param.data = new
        life.log(f"p.data = {told(new)}")


def freeze(life: Life, random: Random) -> None:
    param = life.any_param(random)
    if param is not None and param.is_leaf:
        param.requires_grad_(random.random() < 0.5)
        param.grad = random.choice([None, param.grad])
        life.log(f"requires_grad = {param.requires_grad}")


def add_group(life: Life, random: Random) -> None:
    before = Picture(life.optimizer)
    kind = random.random()
    group: Any = {
        "params": [new_param(random, random.choice(DTYPES))],
        **random.choice(TORCH_OPTIONS[life.name]),
    }
    group.pop("initial_accumulator_value", None)
    if kind < 0.1:
        group["params"] = [life.any_param(random)]
    elif kind < 0.3:
        group |= random.choice(
            [{"params": "x"}, {"params": [3]}, {"state_dtype": "garbage"}, {"params": None}]
        )
    elif kind < 0.35:
        group = random.choice([None, [], "x"])
    error = outcome(lambda: life.optimizer.add_param_group(group))
    life.log(f"add_param_group: {error!r:.100}")
    if error is not None:
        few_bits = life.optimizer.defaults["state_dtype"] not in (None, "float32")
        assert kind < 0.35 or (group.get("centered") and few_bits), repr(error)
        before.assert_same()


def look(life: Life, random: Random) -> None:
    """What only looks changes nothing."""
    optimizer, before = life.optimizer, Picture(life.optimizer)
    looks: dict[str, Callable[[], Any]] = {
        "state_dict": optimizer.state_dict,
        "as_torch": lambda: optimizer.state_dict(as_torch=True),
        "repr": lambda: repr(optimizer),
        "ema_parameters": optimizer.ema_parameters,
        "zero_grad": lambda: None,
        "grad_norm": lambda: optimizer.grad_norm,
        "swap_ema": lambda: swapped(optimizer),
    }
    what = random.choice(list(looks))
    error = outcome(looks[what])
    life.log(f"{what}: {error!r:.100}")
    assert error is None or isinstance(error, REFUSALS), repr(error)
    before.assert_same()


def swapped(optimizer: Any) -> None:
    with optimizer.swap_ema():
        pass


def schedule(life: Life, random: Random) -> None:
    make = random.choice([lr_scheduler.StepLR, lr_scheduler.LinearLR, lr_scheduler.ExponentialLR])
    settings = {"step_size": 1} if make is lr_scheduler.StepLR else {}
    settings |= {"gamma": 0.5} if make is not lr_scheduler.LinearLR else {}
    error = outcome(lambda: make(life.optimizer, **settings).step())
    life.log(f"{make.__name__}: {error!r:.100}")


def grads(life: Life, random: Random) -> None:
    for param in params_of(life.optimizer):
        if random.random() < 0.15:
            param.grad = None
            continue
        if param.ndim == 2 and random.random() < 0.01:
            param.grad = sparse_gradient(random.getrandbits(20), param.shape).to(param.dtype)
            continue
        grad = laid_out(random, random_numbers(random, tuple(param.shape), param.dtype))
        param.grad = grad.as_subclass(Subclass) if type(param) is Subclass else grad
    life.log("gradients")


def zero(life: Life, random: Random) -> None:
    life.optimizer.zero_grad(set_to_none=random.random() < 0.5)
    life.log("zero_grad")
