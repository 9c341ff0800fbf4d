from collections.abc import Sequence
from typing import Any, TypedDict

class _Target(TypedDict):
    supported: bool
    description: str

def step(rule: str, optimizer: object, threads: int, grad_scale: float = 1.0) -> None: ...
def apply(
    rule: str,
    arrays: list[Sequence[Any] | None],
    steps: list[float],
    options: dict[str, Any],
    indexed: bool,
    threads: int,
) -> None: ...
def cpu_targets() -> dict[str, _Target]: ...
def cpu_target() -> str: ...
def set_cpu_target(name: str) -> None: ...
def max_threads() -> int: ...
