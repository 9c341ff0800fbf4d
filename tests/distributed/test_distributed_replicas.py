"""DistributedDataParallel and ZeroRedundancyOptimizer on two processes, beside torch.optim there.

`job` is that of test_distributed.py.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import fastopt
from _distributed_cases import (
    STEPS,
    Answer,
    alone,
    assert_all_same_bits,
    assert_close,
    everything,
    network,
    train,
)
from _optim_cases import CASES, EVERY, FULL, Array, Options, array_of, assert_same_bits, gradients
from _ranks import Job
from fastopt.averages import AveragedModel

each_optimizer = pytest.mark.parametrize("name", CASES)

# ---- DistributedDataParallel ----------------------------------------------------------------------


class Products(nn.Module):
    """The sum of parameters times inputs, so that the gradients are the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.params = nn.ParameterList(network().parameters())

    def forward(self, inputs: list[Tensor]) -> Tensor:
        return torch.stack([(p * x).sum() for p, x in zip(self.params, inputs, strict=True)]).sum()


def train_replicas(name: str, options: Options, ours: bool) -> Answer:
    model = DistributedDataParallel(Products())
    params = list(model.parameters())
    optimizer: Any = CASES[name].classes[not ours](params, **options)
    for step in range(STEPS):
        optimizer.zero_grad()
        model(gradients(params, 2 * step + dist.get_rank())).backward()
        optimizer.step()
    return everything(params, optimizer)


@each_optimizer
def test_replicas_stay_equal_and_near_torchs(job: Job, name: str) -> None:
    ours, other = job.run(train_replicas, name, {}, True)
    assert_all_same_bits(ours, other)
    theirs, _ = job.run(train_replicas, name, {}, False)
    limit = 2 * EVERY[name].distance[torch.float32]
    start = [array_of(param) for param in network().parameters()]
    for i, param in enumerate(start):
        a, b = ours[f"param {i}"], theirs[f"param {i}"]
        scale = np.spacing(np.maximum(np.abs(param), np.abs(b)))
        assert np.all(np.abs(a - b) <= limit * scale)


def test_replicas_clip_by_their_own_norm(job: Job) -> None:
    """Which is everybody's, since the gradients are averaged before."""
    options = {"lr": 0.1, "max_grad_norm": 1.0}
    ours, other = job.run(train_replicas, "SGD", options, True)
    params = list(network().parameters())
    optimizer = fastopt.optim.SGD(params, **options)
    for step in range(STEPS):
        for param, a, b in zip(
            params, gradients(params, 2 * step), gradients(params, 2 * step + 1), strict=True
        ):
            param.grad = a / 2 + b / 2
        optimizer.step()
    assert_all_same_bits(ours, other)
    assert_close(ours, everything(params, optimizer))


# ---- ZeroRedundancyOptimizer ----------------------------------------------------------------------


def train_zero(name: str, options: Options, ours: bool, as_bucket_view: bool = False) -> Answer:
    params = list(network().parameters())
    optimizer = ZeroRedundancyOptimizer(
        params,
        optimizer_class=CASES[name].classes[not ours],
        parameters_as_bucket_view=as_bucket_view,
        **options,
    )
    norms = train(params, optimizer)
    owned = sum(len(group["params"]) for group in optimizer.optim.param_groups)
    return {
        "params": {str(i): array_of(p) for i, p in enumerate(params)},
        "norms": norms,
        "owned": owned,
    }


@each_optimizer
def test_partitions_have_the_bits_of_one_process(job: Job, name: str) -> None:
    expected, _ = alone(name, FULL[name])
    theirs, _ = job.run(train_zero, name, FULL[name], False)
    for as_bucket_view in (False, True):
        for answer in job.run(train_zero, name, FULL[name], True, as_bucket_view):
            for i, array in answer["params"].items():
                assert_same_bits(torch.from_numpy(array), expected[f"param {i}"])
            assert_close(answer["params"], theirs["params"], rtol=1e-4)
            assert 0 < answer["owned"] < len(answer["params"])


def test_the_norm_of_partitions_is_the_whole_one(job: Job) -> None:
    options = {"lr": 0.1, "max_grad_norm": 1.0}
    expected, norms = alone("AdamW", options)
    first, second = job.run(train_zero, "AdamW", options, True)
    assert first["norms"] == second["norms"]
    np.testing.assert_allclose(first["norms"], norms, rtol=1e-15)
    assert_all_same_bits(first["params"], second["params"])
    for i, array in first["params"].items():
        np.testing.assert_allclose(array, expected[f"param {i}"], rtol=1e-6, atol=1e-6)


def one_parameter_for_two() -> tuple[float, Array]:
    param = nn.Parameter(torch.zeros(2))
    param.grad = torch.tensor([3.0, 4.0])
    optimizer = ZeroRedundancyOptimizer(
        [param], optimizer_class=fastopt.optim.SGD, lr=1.0, max_grad_norm=2.5
    )
    optimizer.step()
    return optimizer.optim.grad_norm.item(), array_of(param)


def test_a_process_without_parameters_takes_part_in_the_norm(job: Job) -> None:
    for norm, param in job.run(one_parameter_for_two):
        assert norm == 5.0
        np.testing.assert_allclose(param, [-1.5, -2.0], rtol=1e-6)


def refused_by_one_partition() -> str:
    """The one that holds the parameter with a sparse gradient, which needs torch's step."""
    params = [nn.Parameter(torch.ones(300)), nn.Parameter(torch.ones(200))]
    params[0].grad, params[1].grad = torch.ones(300), torch.ones(200).to_sparse()
    optimizer = ZeroRedundancyOptimizer(
        params, optimizer_class=fastopt.optim.SGD, lr=1.0, max_grad_norm=1.0
    )
    with pytest.raises(ValueError, match="max_grad_norm") as caught:
        optimizer.step()
    assert all(torch.all(param == 1) for param in params)
    return str(caught.value)


def test_a_refusal_of_one_partition_is_everybodys(job: Job) -> None:
    messages = job.run(refused_by_one_partition)
    assert sorted("grad: sparse" in it for it in messages) == [False, True]
    assert sorted("refused on rank" in it for it in messages) == [False, True]


def average_partitions(dtype: torch.dtype, options: Options, as_bucket_view: bool) -> Answer:
    model = network().to(dtype)
    params = list(model.parameters())
    zero = ZeroRedundancyOptimizer(
        params,
        optimizer_class=fastopt.optim.AdamW,
        parameters_as_bucket_view=as_bucket_view,
        **options,
    )
    with pytest.raises(TypeError, match=r"got ZeroRedundancyOptimizer \(its \.optim is\)"):
        AveragedModel(model, zero)
    train(params, zero)
    trained = [param.detach().clone() for param in params]
    averaged = AveragedModel(model, zero.optim)
    with zero.optim.swap_ema():
        swapped = {str(i): array_of(param.float()) for i, param in enumerate(params)}
    assert all(torch.equal(*pair) for pair in zip(params, trained, strict=True))
    averages = averaged.module.parameters()
    return {
        "swapped": swapped,
        "model": {str(i): array_of(it.float()) for i, it in enumerate(averages)},
    }


@pytest.mark.parametrize("as_bucket_view", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_partitions_have_the_averages_of_all_parameters(
    job: Job, dtype: torch.dtype, as_bucket_view: bool
) -> None:
    options = {"lr": 0.1, "ema_decay": 0.9, "ema_bias_correction": as_bucket_view}
    params = list(network().to(dtype).parameters())
    optimizer = fastopt.optim.AdamW(params, **options)
    train(params, optimizer)
    with optimizer.swap_ema():
        expected = {str(i): array_of(param.float()) for i, param in enumerate(params)}
    for answer in job.run(average_partitions, dtype, options, as_bucket_view):
        assert_all_same_bits(answer["swapped"], expected)
        assert_all_same_bits(answer["model"], expected)


def resume_partitions(name: str) -> Answer:
    """Through a state_dict that the first process has gathered."""
    options = {**FULL[name], "max_grad_norm": 1e9}
    params = list(network().parameters())
    optimizer = ZeroRedundancyOptimizer(params, optimizer_class=CASES[name].ours, **options)
    train(params, optimizer, range(3))
    optimizer.consolidate_state_dict(to=0)
    box = [optimizer.state_dict() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    other_params = copy.deepcopy(params)
    other = ZeroRedundancyOptimizer(other_params, optimizer_class=CASES[name].ours, **options)
    assert box[0] is not None
    other.load_state_dict(box[0])
    train(other_params, other, range(3, STEPS))
    return {str(i): array_of(param) for i, param in enumerate(other_params)}


@each_optimizer
def test_partitions_resume_with_the_same_bits(job: Job, name: str) -> None:
    expected, _ = alone(name, {**FULL[name], "max_grad_norm": 1e9})
    for answer in job.run(resume_partitions, name):
        for i, array in answer.items():
            assert_same_bits(torch.from_numpy(array), expected[f"param {i}"])
