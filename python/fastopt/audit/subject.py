"""What is audited: a function that makes an optimizer, and what checks need to use one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from .compare import doubles, same_bits, within
from .model import Model, OwnModel, Rule, RuleModel, has_sums
from .registry import NotApplicable, told

MakeOptimizer: TypeAlias = Callable[[Any], Optimizer]
Gradients: TypeAlias = "Sequence[Tensor | None]"

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
QUICK_DTYPES = (torch.float32, torch.bfloat16)
WHOLE = (torch.float32, torch.float64)
CLOSE, CLOSE_IN_16_BITS = 32.0, 8.0  # ulp: what rounding in another order may make of a few steps
RANDOM = ("stochastic_rounding", "bf16_stochastic_round")  # options by which it rounds at random


class Subject:
    """An optimizer under audit."""

    def __init__(
        self,
        make: MakeOptimizer,
        rule: Rule | None = None,
        *,
        device: str = "cpu",
        dtypes: Sequence[torch.dtype] | None = None,
        quick: bool = False,
        huge: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        self._make, self.rule, self.device = make, rule, device
        self.quick, self.huge = quick, huge
        self.options = options or {}  # of the rule, where groups have none of the name
        self.refused: dict[torch.dtype, str] = {}
        self.dtypes = [it for it in dtypes or (QUICK_DTYPES if quick else DTYPES) if self._takes(it)]
        if not self.dtypes:
            raise ValueError("; ".join(f"{nameof(it)}: {why}" for it, why in self.refused.items()))
        self.dtype = self.dtypes[0]

    def _takes(self, dtype: torch.dtype) -> bool:
        """Whether it steps a parameter of this dtype."""
        try:
            param = self.parameter((3, 5), dtype=dtype)
            optimizer = self.optimizer([param])
            param.grad = torch.ones_like(param)
            optimizer.step()
        except Exception as error:
            self.refused[dtype] = told(error)
            return False
        return True

    # ---- optimizers -----------------------------------------------------------------------------

    def optimizer(self, params: Any) -> Optimizer:
        """A new one, of parameters or of groups with options of their own."""
        return self._make(params)

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The options of a group that names none."""
        return dict(self.optimizer([self.parameter((1,))]).param_groups[0])

    def needs(self, *keys: str) -> None:
        """NotApplicable unless its groups have these options."""
        for key in keys:
            if key not in self.defaults:
                raise NotApplicable(f"has no option {key}")

    def only(self, **options: Any) -> dict[str, Any]:
        """Those of the options that its groups have."""
        return {key: value for key, value in options.items() if key in self.defaults}

    @cached_property
    def has_sums(self) -> bool:
        """Whether it steps by sums over a parameter; asked of it where no rule says so."""
        if self.rule is not None:
            return has_sums(self.rule)
        results = []
        for factor in (1.0, 3.0):
            param = self.parameter((9, 8))
            optimizer = self.optimizer([param])
            for number in range(2):
                param.grad = self.gradient(param, number)
                param.grad[0, 0] *= factor
                optimizer.step()
            results.append(doubles(param).reshape(-1)[1:])
        return bool((results[0] != results[1]).any())

    @cached_property
    def is_random(self) -> bool:
        """Whether it rounds at random."""
        return any((self.options | self.defaults).get(key) for key in RANDOM)

    def needs_same_bits(self) -> None:
        """NotApplicable where equal inputs in two places need not give equal bits."""
        if self.is_random:
            raise NotApplicable("rounds at random, each place for itself")

    @property
    def comparable_steps(self) -> int:
        """How many steps depend on no place: states of 16 bits may be rounded by their place."""
        return 3 if self.dtype in WHOLE else 1

    # ---- tensors --------------------------------------------------------------------------------

    def tensor(self, numbers: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A copy on the device, in the dtype."""
        return numbers.to(device=self.device, dtype=dtype or self.dtype, copy=True)

    def parameter(
        self, shape: tuple[int, ...], seed: int = 1, dtype: torch.dtype | None = None
    ) -> torch.nn.Parameter:
        """Of normal numbers."""
        return torch.nn.Parameter(self.tensor(normal(shape, seed), dtype))

    def parameters(self, shapes: Sequence[tuple[int, ...]], seed: int = 1) -> list[torch.nn.Parameter]:
        return [self.parameter(shape, seed + i) for i, shape in enumerate(shapes)]

    def gradient(self, like: Tensor, seed: int) -> Tensor:
        """Normal numbers, laid out as the parameter."""
        grad = torch.empty_like(like, requires_grad=False)
        return grad.copy_(normal(tuple(like.shape), 1000 + seed))

    def set_gradients(self, params: Sequence[Tensor], seed: int) -> None:
        """Each parameter's depends on its number among them and on the seed."""
        for i, param in enumerate(params):
            param.grad = self.gradient(param, 100 * seed + i)

    def train(
        self, optimizer: Optimizer, params: Sequence[Tensor], steps: range, without: Any = None
    ) -> None:
        """Steps of these numbers; `without(i, number)` tells which parameters have no gradient."""
        for number in steps:
            self.set_gradients(params, number)
            for i, param in enumerate(params):
                if without is not None and without(i, number):
                    param.grad = None
            optimizer.step()

    def alone(
        self, param: Tensor, which: int, numbers: Sequence[int], **options: Any
    ) -> torch.nn.Parameter:
        """What `train` makes of a parameter that is the only one: number `which` of a list."""
        copy = torch.nn.Parameter(param.detach().clone())
        optimizer = self.optimizer([{"params": [copy], **options}])
        for number in numbers:
            copy.grad = self.gradient(copy, 100 * number + which)
            optimizer.step()
        return copy

    # ---- comparing ------------------------------------------------------------------------------

    def model(self, optimizer: Optimizer, param: Tensor, group: int = 0) -> Model:
        """A parameter in float64; NotApplicable where nothing says what it should become."""
        options = optimizer.param_groups[group]
        if self.rule is not None:
            return RuleModel(self.rule, self.options, options, doubles(param))
        if not hasattr(self, "_own"):
            self._own = torch.float64 in self.dtypes or self._takes(torch.float64)
        if not self._own or self.dtype == torch.float64:
            raise NotApplicable("no rule is known by its name (--rule), nor does it take float64")
        rest = {key: it for key, it in options.items() if key != "params"}
        return OwnModel(self._make, rest, doubles(param))

    def same(self, got: Tensor, want: Tensor) -> None:
        """Failed unless equal: to the bit, or within rounding where norms are summed up."""
        if self.has_sums:
            self.close(got, want)
        else:
            same_bits(got, want)

    def close(self, got: Tensor, want: Tensor) -> None:
        """Failed unless equal within rounding."""
        within(got, doubles(want), CLOSE if got.dtype in WHOLE else CLOSE_IN_16_BITS)


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal numbers in float64, the same on every machine."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def nameof(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextmanager
def settings_kept() -> Iterator[None]:
    """Restores threads, random state, grad mode and denormals, and keeps warnings to itself."""
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)  # waking others for each small tensor is slow
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_grad_enabled(grad)
