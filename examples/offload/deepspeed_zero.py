"""DeepSpeed ZeRO 1, 2 and 3 with the optimizer offloaded to the CPU; and by way of Accelerate.

    DS_ACCELERATOR=cpu python examples/offload/deepspeed_zero.py [--stage 3] [--accelerate]

Two flags keep fastopt's optimizer in its place: DeepSpeed refuses any but its own without them, and
Accelerate, without the first, puts DeepSpeedCPUAdam in the place of whatever it was given, Lion and
SGD included.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
import torch
import torch.distributed as dist
from task import OPTIONS, STEPS, by_hand, check, loss_of, network
from torch import Tensor, nn

import fastopt


def config(stage: int) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 16,
        "gradient_accumulation_steps": 1,
        "steps_per_print": 1_000_000,
        "zero_optimization": {"stage": stage, "offload_optimizer": {"device": "cpu"}},
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
    }


def by_deepspeed(model: nn.Module, optimizer: Any, stage: int) -> Any:
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config(stage))[0]


def by_accelerate(model: nn.Module, optimizer: Any, stage: int) -> Any:
    import accelerate

    plugin = accelerate.DeepSpeedPlugin(hf_ds_config=config(stage))
    return accelerate.Accelerator(deepspeed_plugin=plugin).prepare(model, optimizer)[0]


def parameters(engine: Any) -> list[Tensor]:
    params = list(engine.module.parameters())
    with deepspeed.zero.GatheredParameters(params):
        return [param.detach().clone() for param in params]


def main(stage: int, accelerate: bool) -> None:
    model = network()
    optimizer = fastopt.optim.AdamW(model.parameters(), **OPTIONS)
    engine = (by_accelerate if accelerate else by_deepspeed)(model, optimizer, stage)
    inner = engine.optimizer
    while hasattr(inner, "optimizer"):
        inner = inner.optimizer
    assert inner is optimizer, f"the engine steps a {type(inner).__name__}"
    for step in range(STEPS):
        engine.backward(loss_of(engine, step))
        engine.step()
    name = f"DeepSpeed ZeRO-{stage}{' by Accelerate' if accelerate else ''}"
    check(name, parameters(engine), by_hand())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stage", type=int, choices=(1, 2, 3), default=3)
    parser.add_argument("--accelerate", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        main(arguments.stage, arguments.accelerate)
        dist.destroy_process_group()
