from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from torch import Tensor

from fastopt.optim._stepped import Leftover, Stepped

class _Target(TypedDict):
    supported: bool
    description: str

def step(
    rule: str,
    optimizer: Stepped,
    threads: int,
    grad_scale: object | None,
    found_inf: object | None,
    norm: float | None = None,
) -> None: ...
def left_over(rule: str, optimizer: Stepped) -> list[Leftover]: ...
def torch_is_watched() -> bool: ...
def call_with_grads(
    params: list[Tensor], grads: list[Tensor | None], function: Callable[[], Any]
) -> None: ...
def rule(name: str) -> dict[str, Any]: ...
def apply(
    rule: str,
    arrays: list[Sequence[Any] | None],
    steps: list[float],
    options: dict[str, Any],
    indexed: bool,
    threads: int,
    names: Sequence[str] = ("param", "grad"),
    grad_scale: Any = None,
    copy_to: Sequence[Any] | None = None,
) -> None: ...

class _pybind11_type(type): ...

class Traced(metaclass=_pybind11_type):
    def __init__(
        self,
        stages: Sequence[tuple[Sequence[tuple[int, ...]], Sequence[bool], int]],
        inputs: int,
        constants: Sequence[float],
        nodes: Sequence[tuple[int, int, int]],
        guards: Sequence[tuple[int, bool]],
        guard_nodes: int,
        arrays: int,
        written: int,
        kept: Sequence[int],
    ) -> None: ...
    def numbers(self, inputs: Sequence[float]) -> list[float] | None: ...

def define_rule(
    name: str,
    states: Sequence[str],
    squares: Sequence[int],
    options: Sequence[tuple[str, Sequence[float], str, object]],
    kept: Sequence[tuple[str, float]],
    has_sums: bool,
    trace: Callable[[tuple[Any, ...], list[float], list[int]], list[Traced]],
) -> None: ...
def array_ops() -> list[str]: ...
def number_ops() -> list[str]: ...

max_states: int
first_summand: int
max_summands: int
first_register: int
max_registers: int
max_instructions: int

def dropout(
    x: object,
    out: object,
    p: float,
    seed: int | Tensor,
    offset: int | Tensor,
    index: int,
    threads: int,
    mask: object | None = None,
    mask_out: object | None = None,
    scale: float | None = None,
    relu: bool = False,
    fresh: bool = False,
) -> None: ...
def bias_dropout_add(
    x: object,
    bias: object | None,
    residual: object | None,
    out: object,
    p: float,
    seed: int | Tensor,
    offset: int | Tensor,
    index: int,
    threads: int,
    mask: object | None = None,
    mask_out: object | None = None,
) -> None: ...
def alpha_dropout(
    x: object,
    out: object,
    p: float,
    seed: int | Tensor,
    offset: int | Tensor,
    index: int,
    threads: int,
    mask_out: object | None = None,
) -> float: ...
def dropout_rows(
    x: object,
    out: object,
    inner: int,
    p: float,
    seed: int | Tensor,
    offset: int | Tensor,
    index: int,
    threads: int,
) -> None: ...
def dropout_mask(
    out: object,
    count: int,
    p: float,
    seed: int | Tensor,
    offset: int | Tensor,
    index: int,
    threads: int,
) -> None: ...
def philox(seed: int, offset: int, block: int) -> tuple[int, int, int, int]: ...
def gather(
    pieces: Sequence[object | None],
    like: Sequence[object],
    out: object,
    direction: object | None,
    threads: int,
) -> tuple[float, float, float]: ...
def move(
    params: Sequence[object], begin: object | None, direction: object, t: float, threads: int
) -> None: ...

class Curvature(metaclass=_pybind11_type):
    def observe(
        self,
        grad: object,
        prev_grad: object,
        direction: object,
        t: float,
        step: object,
        change: object,
        steps: Sequence[object],
        changes: Sequence[object],
        threads: int,
    ) -> tuple[float, float]: ...
    def keep(self) -> None: ...
    def drop_oldest(self) -> None: ...
    def restore(self, steps: Sequence[object], changes: Sequence[object], threads: int) -> None: ...
    def direction(
        self,
        grad: object,
        steps: Sequence[object],
        changes: Sequence[object],
        out: object,
        threads: int,
    ) -> tuple[float, float]: ...
    def weights(self) -> list[float]: ...

def cpu_targets() -> dict[str, _Target]: ...
def cpu_target() -> str: ...
def set_cpu_target(name: str) -> None: ...
def reads_in_place(tensor: Tensor) -> bool: ...
def use_tensor_layout(wanted: bool) -> bool: ...
def knows_autograd_layout() -> tuple[bool, bool, bool]: ...
def load_cuda(path: str, takes_cpu: bool = False) -> None: ...
def cuda_trouble(device: int | None = None) -> str | None: ...
def in_forked_child() -> bool: ...
def max_threads() -> int: ...
