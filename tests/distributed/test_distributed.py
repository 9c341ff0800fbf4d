"""FSDP2 and DTensors on two processes: bits, norms, refusals, checkpoints.

`job` keeps two processes (gloo on the loopback, one thread each). Functions
without `test_` run in them, and answer with NumPy arrays and numbers.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.optim import Optimizer

import fastopt
from _distributed_cases import (
    STEPS,
    Answer,
    alone,
    assert_all_same_bits,
    assert_close,
    everything,
    network,
    set_gradients,
    train,
    whole,
)
from _optim_cases import CASES, FULL, Array, Options, assert_same_bits
from _ranks import Job

each_optimizer = pytest.mark.parametrize("name", CASES)

# ---- FSDP2 and DTensor ----------------------------------------------------------------------------


def sharded(layout: str) -> nn.Module:
    """The network's parameters as DTensors on two processes, cut up in one way or another."""
    model = network()
    if layout == "fully_shard":
        return fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    if layout == "hybrid":  # replicas of shards, of which there is one each
        return fully_shard(
            model, mesh=init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicas", "shards"))
        )
    shape, placements = {
        "replicas": ((2,), [Replicate()]),
        "columns": ((2,), [Shard(1)]),
        "twice cut": ((1, 2), [Shard(0), Shard(0)]),
    }[layout]
    mesh = init_device_mesh("cpu", shape)
    for module in model.modules():
        for key, param in list(module.named_parameters(recurse=False)):
            cut = [Shard(0) if it == Shard(1) and param.ndim == 1 else it for it in placements]
            setattr(module, key, nn.Parameter(distribute_tensor(param, mesh, cut)))
    return model


def train_sharded(layout: str, name: str, options: Options) -> Answer:
    params = list(sharded(layout).parameters())
    optimizer: Any = CASES[name].ours(params, **options)
    versions = [param._version for param in params]
    norms = train(params, optimizer)
    for param, version in zip(params, versions, strict=True):
        assert param._version > version
        for key, state in optimizer.state[param].items():
            is_number = key in ("step", "ema_weight")
            assert is_number or state.placements == param.placements
            assert type(state) is (Tensor if is_number else DTensor)
    assert {it.path for it in optimizer.fused_report()} == {"fastopt"}
    return {"everything": everything(params, optimizer), "norms": norms}


LAYOUTS = ["fully_shard", "hybrid", "replicas", "columns", "twice cut"]


@each_optimizer
def test_sharded_training_has_the_bits_of_one_process(job: Job, name: str) -> None:
    options = {**FULL[name], "ema_decay": 0.9, "ema_bias_correction": True}
    expected, _ = alone(name, options)
    for answer in job.run(train_sharded, "fully_shard", name, options):
        assert_all_same_bits(answer["everything"], expected)


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_other_shardings_too(job: Job, layout: str) -> None:
    expected, _ = alone("AdamW", FULL["AdamW"])
    for answer in job.run(train_sharded, layout, "AdamW", FULL["AdamW"]):
        assert_all_same_bits(answer["everything"], expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_norm_of_dtensors_is_the_whole_one(job: Job, layout: str) -> None:
    options = {"lr": 0.1, "momentum": 0.9, "max_grad_norm": 1.0}
    expected, norms = alone("SGD", options)
    first, second = job.run(train_sharded, layout, "SGD", options)
    assert first["norms"] == second["norms"]
    np.testing.assert_allclose(first["norms"], norms, rtol=1e-15)
    assert_all_same_bits(first["everything"], second["everything"])
    assert_close(first["everything"], expected, rtol=1e-6)


def train_with_fsdp(ours: bool) -> Answer:
    """A training loop as people write it: forward, backward, clip, step."""
    model = network()
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    params = list(model.parameters())
    optimizer: Any = (
        fastopt.optim.AdamW(params, lr=0.01, max_grad_norm=0.1)
        if ours
        else torch.optim.AdamW(params, lr=0.01)
    )
    norms = []
    for step in range(STEPS):
        torch.manual_seed(100 * step + dist.get_rank())
        optimizer.zero_grad()
        (model(torch.randn(8, 5)) ** 3 + model(torch.randn(8, 5))).mean().backward()
        if not ours:
            norms.append(nn.utils.clip_grad_norm_(params, 0.1).full_tensor().item())
        optimizer.step()
        if ours:
            norms.append(optimizer.grad_norm.item())
    return {"everything": {f"{i}": whole(param) for i, param in enumerate(params)}, "norms": norms}


def test_training_with_fsdp_goes_as_with_torch(job: Job) -> None:
    (ours, other), (theirs, _) = job.run(train_with_fsdp, True), job.run(train_with_fsdp, False)
    assert ours["norms"] == other["norms"]
    assert_all_same_bits(ours["everything"], other["everything"])
    np.testing.assert_allclose(ours["norms"], theirs["norms"], rtol=1e-4)
    assert_close(ours["everything"], theirs["everything"], rtol=1e-4)


def step_with_scaler(fused: bool) -> Answer:
    """At the third of four steps, one process has an infinite gradient."""
    params = list(sharded("fully_shard").parameters())
    optimizer = fastopt.optim.AdamW(params, lr=0.1, fused=fused, max_grad_norm=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    moved = []
    for step in range(4):
        set_gradients(params, step)
        for param in params:
            param.grad *= scaler.scale(torch.ones(())).item()
        if step == 2 and dist.get_rank() == 1:
            params[0].grad.to_local()[0, 0] = torch.inf
        before = [whole(param) for param in params]
        scaler.step(optimizer)
        scaler.update(1024.0)
        moved.append(any(np.any(a != whole(b)) for a, b in zip(before, params, strict=True)))
    return {"everything": everything(params, optimizer), "moved": moved}


@pytest.mark.parametrize("fused", [False, True])
def test_an_overflow_on_one_process_skips_the_step_on_all(job: Job, fused: bool) -> None:
    first, second = job.run(step_with_scaler, fused)
    assert first["moved"] == second["moved"] == [True, True, False, True]
    assert_all_same_bits(first["everything"], second["everything"])


def mismatched(what: str) -> tuple[list[Tensor], Options]:
    """Parameters with gradients whose norm cannot be known, or that need torch's step."""
    mesh = init_device_mesh("cpu", (2,))
    grad_of = {
        "partial grads": lambda: DTensor.from_local(torch.ones(4, 3), mesh, [Partial()]),
        "grads cut otherwise": lambda: distribute_tensor(torch.ones(4, 3), mesh, [Shard(1)]),
    }
    placements = [Replicate()] if what == "partial grads" else [Shard(0)]
    param = nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, placements))
    if what in grad_of:
        param.grad = grad_of[what]()
    else:
        param.grad = torch.ones_like(param)
    params: list[Tensor] = [param]
    if what == "plain beside DTensors":
        params.append(nn.Parameter(torch.ones(3)))
        params[1].grad = torch.ones(3)
    if what == "partial params":
        params = [nn.Parameter(DTensor.from_local(torch.ones(3), mesh, [Partial()]))]
        params[0].grad = torch.ones_like(params[0])
    if what == "a mesh of some":
        part = init_device_mesh("cpu", (2, 1), mesh_dim_names=("a", "b"))["b"]
        params = [nn.Parameter(distribute_tensor(torch.ones(3), part, [Shard(0)]))]
        params[0].grad = torch.ones_like(params[0])
    if what == "fsdp1":
        model = FullyShardedDataParallel(network(), device_id=torch.device("cpu"), use_orig_params=True)
        params = list(model.parameters())
        for it in params:
            it.grad = torch.ones_like(it)
    return params, {"lr": 0.1, "max_grad_norm": 1.0}


def refusal(what: str) -> str:
    params, options = mismatched(what)
    before = [copy.deepcopy(getattr(param, "_local_tensor", param).detach()) for param in params]
    optimizer = fastopt.optim.AdamW(params, **options)
    with pytest.raises(ValueError, match="max_grad_norm") as caught:
        optimizer.step()
    assert not optimizer.state
    for param, value in zip(params, before, strict=True):
        assert torch.equal(getattr(param, "_local_tensor", param), value)
    return str(caught.value)


def norm_refused(what: str) -> str:
    """LAMB's norms are those of single parameters."""
    params, _ = mismatched(what)
    before = [copy.deepcopy(getattr(param, "_local_tensor", param).detach()) for param in params]
    optimizer = fastopt.optim.LAMB(params)
    assert {it.path for it in optimizer.fused_report()} == {"torch"}
    with pytest.raises(ValueError, match="no LAMB for a parameter") as caught:
        optimizer.step()
    assert not optimizer.state
    for param, value in zip(params, before, strict=True):
        assert torch.equal(getattr(param, "_local_tensor", param), value)
    return str(caught.value)


@pytest.mark.parametrize("what", ["partial grads", "grads cut otherwise", "fsdp1"])
def test_lamb_refuses_parameters_whose_norm_it_may_not_know(job: Job, what: str) -> None:
    reason = "of FullyShardedDataParallel" if what == "fsdp1" else "a DTensor, of which this process"
    for message in job.run(norm_refused, what):
        assert reason in message


def flat_states() -> set[str]:
    """What FSDP1 gathers of bfloat16 states beside a float32 average, and loads again."""
    model = FullyShardedDataParallel(network(), device_id=torch.device("cpu"), use_orig_params=True)
    optimizer = fastopt.optim.AdamW(model.parameters(), state_dtype="bfloat16", ema_decay=0.9)
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    before = {param: dict(state) for param, state in optimizer.state.items()}
    gathered = FullyShardedDataParallel.optim_state_dict(model, optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    for param, state in before.items():
        for key, value in state.items():
            assert_same_bits(optimizer.state[param][key], value, key)
    return {f"{key} {it.dtype}" for state in gathered["state"].values() for key, it in state.items()}


def test_bfloat16_states_of_fsdp1_are_gathered_beside_an_average(job: Job) -> None:
    names = ("step", "exp_avg", "exp_avg_sq", "ema")
    assert job.run(flat_states)[0] == {f"{name} torch.float32" for name in names}


REFUSALS = {
    "partial grads": "torch's step (grad is a DTensor of torch.Size([4, 3]), placements (Partial",
    "grads cut otherwise": "torch's step (grad is a DTensor of torch.Size([4, 3]), placements (Shard",
    "partial params": "needs torch's step (a sum over processes",
    "plain beside DTensors": "got both",
    "a mesh of some": "spans 1 of 2 processes",
    "fsdp1": "got shards of FullyShardedDataParallel",
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_norm_that_is_not_known_is_refused(job: Job, what: str) -> None:
    for message in job.run(refusal, what):
        assert REFUSALS[what] in message


def refused_by_one_shard(layout: str, rank: int, what: str) -> tuple[str, list[Array]]:
    """By one process alone, for its state. The steps before and after go well."""
    params = list(sharded(layout).parameters())
    optimizer = fastopt.optim.AdamW(params, lr=0.1, max_grad_norm=1.0)
    train(params, optimizer, range(1))
    before = [whole(param) for param in params]
    state = optimizer.state[params[-1]]
    kept = dict(state)
    if dist.get_rank() == rank:
        if what == "no kernel":
            state["exp_avg"] = state["exp_avg"].to(torch.complex64)
        else:
            del state["step"]
    set_gradients(params, 1)
    with pytest.raises((ValueError, KeyError)) as caught:
        optimizer.step()
    assert all(np.array_equal(a, whole(b)) for a, b in zip(before, params, strict=True))
    state.update(kept)
    train(params, optimizer, range(1, 3))
    return str(caught.value), [whole(param) for param in params]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rank", "what"), [(0, "no kernel"), (1, "no step")])
def test_a_refusal_of_one_shard_is_everybodys(job: Job, layout: str, rank: int, what: str) -> None:
    answers = job.run(refused_by_one_shard, layout, rank, what)
    own = "exp_avg of dtype complex64" if what == "no kernel" else "step"
    assert own in answers[rank][0]
    assert f"max_grad_norm: refused on rank {rank}, whose error" in answers[1 - rank][0]
    for a, b in zip(answers[0][1], answers[1][1], strict=True):
        assert np.array_equal(a, b)


def step_on_torchs_path() -> list[Array]:
    params, _ = mismatched("grads cut otherwise")
    optimizer = fastopt.optim.SGD(params, lr=0.5)
    with pytest.warns(UserWarning, match="grad is a DTensor"):
        optimizer.step()
    return [whole(param) for param in params]


def test_gradients_that_are_cut_otherwise_take_torchs_step(job: Job) -> None:
    for (param,) in job.run(step_on_torchs_path):
        assert_same_bits(torch.from_numpy(param), torch.full((4, 3), 0.5))


def norm_over_a_group() -> tuple[float, float]:
    """Each process holds other parameters: by itself, or as a DTensor on a mesh of its own."""
    norms = []
    meshes = init_device_mesh("cpu", (2, 1), mesh_dim_names=("stage", "shard"))
    for mesh in (None, meshes["shard"]):
        param = torch.zeros(2)
        grad = torch.tensor([1.0, 2.0]) if dist.get_rank() == 0 else torch.tensor([2.0, 4.0])
        if mesh is not None:
            param, grad = (DTensor.from_local(it, mesh, [Shard(0)]) for it in (param, grad))
        param = nn.Parameter(param)
        param.grad = grad
        optimizer = fastopt.optim.SGD([param], lr=1.0, max_grad_norm=1.0)
        optimizer.grad_norm_group = meshes.get_group("stage")
        optimizer.step()
        norms.append(optimizer.grad_norm.item())
    return norms[0], norms[1]


def test_a_group_may_be_given(job: Job) -> None:
    assert job.run(norm_over_a_group) == [(5.0, 5.0), (5.0, 5.0)]


# ---- checkpoints of FSDP2 -------------------------------------------------------------------------

CHECKPOINTED = {"ema_decay": 0.9, "ema_bias_correction": True, "max_grad_norm": 1e9}


def load(directory: str, model: nn.Module, optimizer: Optimizer) -> None:
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
    }
    dcp.load(state, checkpoint_id=directory)
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])


def save_sharded(directory: str, name: str) -> None:
    model = sharded("fully_shard")
    params = list(model.parameters())
    optimizer = CASES[name].ours(params, **FULL[name], **CHECKPOINTED)
    train(params, optimizer, range(3))
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
    }
    dcp.save(state, checkpoint_id=directory)


def resume(directory: str, name: str, model: nn.Module) -> dict[str, Array]:
    with torch.no_grad():
        for param in model.parameters():
            param.zero_()
    params = list(model.parameters())
    optimizer = CASES[name].ours(params, **FULL[name], **CHECKPOINTED)
    load(directory, model, optimizer)
    train(params, optimizer, range(3, STEPS))
    return everything(params, optimizer)


def save_and_resume_sharded(directory: str, name: str) -> dict[str, Array]:
    save_sharded(directory, name)
    return resume(directory, name, sharded("fully_shard"))


@each_optimizer
@pytest.mark.filterwarnings("ignore:.*torch.distributed:UserWarning")
def test_checkpoints_of_two_processes_go_on_with_the_same_bits(
    job: Job, name: str, tmp_path: Path
) -> None:
    expected, _ = alone(name, {**FULL[name], **CHECKPOINTED})
    for answer in job.run(save_and_resume_sharded, str(tmp_path), name):
        assert_all_same_bits(answer, expected)
    assert_all_same_bits(resume(str(tmp_path), name, network()), expected)


def resume_from_whole_state(name: str) -> dict[str, Array]:
    """Through state dicts that are gathered on the first process and cut up again."""
    options = {**FULL[name], **CHECKPOINTED}
    model, other = sharded("fully_shard"), sharded("fully_shard")
    params, other_params = list(model.parameters()), list(other.parameters())
    optimizer, other_optimizer = (CASES[name].ours(it, **options) for it in (params, other_params))
    train(params, optimizer, range(3))
    gather = StateDictOptions(full_state_dict=True, cpu_offload=True)
    scatter = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(other, get_model_state_dict(model, options=gather), options=scatter)
    state = get_optimizer_state_dict(model, optimizer, options=gather)
    set_optimizer_state_dict(other, other_optimizer, state, options=scatter)
    train(other_params, other_optimizer, range(3, STEPS))
    return everything(other_params, other_optimizer)


@each_optimizer
def test_gathered_states_go_on_with_the_same_bits(job: Job, name: str) -> None:
    expected, _ = alone(name, {**FULL[name], **CHECKPOINTED})
    for answer in job.run(resume_from_whole_state, name):
        assert_all_same_bits(answer, expected)
