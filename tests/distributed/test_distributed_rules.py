"""Rules in Python on DTensors: the bits of one process.

One that sums over a tensor, of which each process has a part, is stepped by the function itself, whose
sums DTensor adds up.
"""

from __future__ import annotations

from typing import Any

import pytest
from test_distributed import sharded

import fastopt
from _distributed_cases import Answer, assert_all_same_bits, assert_close, everything, network, train
from _ranks import Job
from fastopt.optim import ruled

SUMMING = ["CautiousAdamW", "CautiousLion", "MARS", "StableAdamW"]
OPTIONS: dict[str, dict[str, Any]] = {
    "ADOPT": {"weight_decay": 0.1, "ema_decay": 0.9},
    "AdEMAMix": {},
    "Adan": {},
    "ScheduleFreeAdamW": {"lr": 0.01, "warmup_steps": 3.0},
    "Signum": {},
}


def train_sharded(name: str, options: dict[str, Any], path: str = "fastopt") -> Answer:
    params = list(sharded("fully_shard").parameters())
    optimizer: Any = getattr(fastopt.optim, name)(params, **options)
    train(params, optimizer)
    assert {it.path for it in optimizer.fused_report()} == {path}
    return everything(params, optimizer)


@pytest.mark.parametrize("name", OPTIONS)
def test_sharded_training_has_the_bits_of_one_process(job: Job, name: str) -> None:
    params = list(network().parameters())
    optimizer = getattr(ruled, name)(params, **OPTIONS[name])
    train(params, optimizer)
    expected = everything(params, optimizer)
    for answer in job.run(train_sharded, name, OPTIONS[name]):
        assert_all_same_bits(answer, expected)


@pytest.mark.parametrize("name", SUMMING)
def test_sums_over_a_tensor_that_lies_in_parts(job: Job, name: str) -> None:
    params = list(network().parameters())
    optimizer = getattr(ruled, name)(params)
    train(params, optimizer)
    expected = everything(params, optimizer)
    for answer in job.run(train_sharded, name, {}, "torch"):
        assert_close(answer, expected)
