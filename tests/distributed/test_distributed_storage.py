"""Low-precision storage on two processes with FSDP2: bits, and checkpoints that go on with them.

`job` keeps two processes (gloo on the loopback, one thread each). Functions without `test_` run in
them, and answer with NumPy arrays.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import fastopt
from _distributed_cases import STEPS, assert_all_same_bits, everything, train
from _optim_cases import Array
from _ranks import Job

# By name: optimizer, dtype of the parameters, options.
CASES: dict[str, tuple[str, torch.dtype, dict[str, Any]]] = {
    "int8 AdamW": ("AdamW", torch.float32, {"state_dtype": "int8", "amsgrad": True}),
    "int8 SGD": ("SGD", torch.float32, {"state_dtype": "int8", "lr": 0.1, "momentum": 0.9}),
    "bf16 state": ("AdamW", torch.float32, {"state_dtype": torch.bfloat16}),
    "bf16 model": ("AdamW", torch.bfloat16, {}),
    "bf16 SGD": ("SGD", torch.bfloat16, {"lr": 0.1, "momentum": 0.9}),
    "masters": ("AdamW", torch.bfloat16, {"master_weights": True}),
    "int8 and masters": ("AdamW", torch.bfloat16, {"master_weights": True, "state_dtype": "int8"}),
}
each_case = pytest.mark.parametrize("case", CASES)


def network(dtype: torch.dtype) -> nn.Sequential:
    """On two processes: 17 rows of 300 (two blocks, the second short) as 9 and 8, 70 of 64."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(300, 17), nn.ReLU(), nn.Linear(64, 70)).to(dtype)


def sharded(dtype: torch.dtype) -> nn.Module:
    return fully_shard(network(dtype), mesh=init_device_mesh("cpu", (2,)))


def new_optimizer(model: nn.Module, case: str) -> Any:
    name, _, options = CASES[case]
    return getattr(fastopt.optim, name)(list(model.parameters()), **options)


def numbers(params: list[Tensor], optimizer: Any) -> dict[str, Array]:
    """Every parameter and state, gathered; the bits of those that are bfloat16."""
    assert {it.path for it in optimizer.fused_report()} == {"fastopt"}
    found = everything(params, optimizer).items()
    return {key: it.view(np.uint16) if it.dtype.itemsize == 2 else it for key, it in found}


def run(model: nn.Module, case: str) -> dict[str, Array]:
    optimizer, params = new_optimizer(model, case), list(model.parameters())
    train(params, optimizer)
    return numbers(params, optimizer)


def run_sharded(case: str) -> dict[str, Array]:
    return run(sharded(CASES[case][1]), case)


@each_case
def test_shards_have_the_bits_of_one_process(job: Job, case: str) -> None:
    expected = run(network(CASES[case][1]), case)
    coded = [key for key, it in expected.items() if it.dtype == np.int8]
    assert len(coded) == (2 if "int8" in case else 0)
    for answer in job.run(run_sharded, case):
        assert_all_same_bits(answer, expected)


def state_of(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
    }


def save_sharded(directory: str, case: str) -> None:
    model = sharded(CASES[case][1])
    optimizer = new_optimizer(model, case)
    train(list(model.parameters()), optimizer, range(3))
    dcp.save(state_of(model, optimizer), checkpoint_id=directory)


def resume(directory: str, case: str, model: nn.Module) -> dict[str, Array]:
    params = list(model.parameters())
    with torch.no_grad():
        for param in params:
            param.zero_()
    optimizer = new_optimizer(model, case)
    state = state_of(model, optimizer)
    dcp.load(state, checkpoint_id=directory)
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])
    train(params, optimizer, range(3, STEPS))
    return numbers(params, optimizer)


def save_and_resume_sharded(directory: str, case: str) -> dict[str, Array]:
    save_sharded(directory, case)
    return resume(directory, case, sharded(CASES[case][1]))


@each_case
@pytest.mark.filterwarnings("ignore:.*torch.distributed:UserWarning")
def test_checkpoints_go_on_with_the_same_bits(job: Job, case: str, tmp_path: Path) -> None:
    """On two processes, and in one."""
    dtype = CASES[case][1]
    expected = run(network(dtype), case)
    for answer in job.run(save_and_resume_sharded, str(tmp_path), case):
        assert_all_same_bits(answer, expected)
    assert_all_same_bits(resume(str(tmp_path), case, network(dtype)), expected)


def cut_by_columns() -> list[str]:
    """Blocks lie within rows, so a part of each row has no blocks of its own."""
    mesh = init_device_mesh("cpu", (2,))
    param = nn.Parameter(distribute_tensor(torch.ones(64, 128), mesh, [Shard(1)]))
    param.grad = torch.ones_like(param)
    optimizer = fastopt.optim.AdamW([param], state_dtype="int8")
    optimizer.step()
    assert all(type(it) is DTensor for key, it in optimizer.state[param].items() if key != "step")
    return [str(it.dtype) for it in optimizer.state[param].values()]


def test_parts_of_rows_keep_float32_states(job: Job) -> None:
    assert job.run(cut_by_columns) == [["torch.float32"] * 3] * 2
