"""torchao's CPUOffloadOptimizer: an optimizer for each parameter's copy on the host.

    python examples/offload/torchao_offload.py

On a GPU all that is needed is

    CPUOffloadOptimizer(model.parameters(), fastopt.optim.AdamW, lr=1e-4, state_dtype="bfloat16")

Without one, torchao's own class runs here on stand-ins for streams, events and pinned memory.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torchao.optim.cpu_offload as torchao
from task import OPTIONS, by_hand, check, network, train

import fastopt


@contextlib.contextmanager
def without_a_gpu() -> Iterator[None]:
    """The CPU as a device whose streams have always done their work."""
    event = types.SimpleNamespace(synchronize=lambda: None)
    stream = types.SimpleNamespace(
        wait_stream=lambda other: None, record_event=lambda: event, synchronize=lambda: None
    )
    empty_like = torch.empty_like

    def unpinned(*args: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        return empty_like(*args, **options)

    with (
        mock.patch.object(torchao, "get_available_devices", return_value=["cpu", "xpu"]),
        mock.patch.multiple(
            torch.xpu,
            Stream=lambda: stream,
            current_stream=lambda: stream,
            stream=lambda it: contextlib.nullcontext(),
        ),
        mock.patch.object(torch, "empty_like", unpinned),
    ):
        yield


def main(**options: Any) -> None:
    model = network()
    optimizer = torchao.CPUOffloadOptimizer(
        model.parameters(), fastopt.optim.AdamW, **OPTIONS, **options
    )
    kinds = {type(it) for it in (*optimizer.optim_dict.values(), optimizer.d_opt)}
    assert kinds == {fastopt.optim.AdamW}  # `d_opt` has what is too small to be sent
    train(model, optimizer)
    check(f"torchao's, {options or 'float32 states'}", model.parameters(), by_hand(**options))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with contextlib.nullcontext() if torch.cuda.is_available() else without_a_gpu():
        main()
        main(state_dtype="bfloat16")
