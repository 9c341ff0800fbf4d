"""stochastic_rounding: bfloat16 parameters rounded at random, by draws that a key decides."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import fastopt
from _distributed_cases import Answer
from _low_cases import (
    COPIES,
    LARGE,
    RULES,
    TAILS,
    THREADS,
    UNCODED,
    Low,
    assert_equal,
    assert_same_everything,
    low_parameters,
    raw,
    set_grads,
    train,
)
from _optim_cases import CASES, EVERY, Options, option_id
from _ranks import Job
from fastopt.optim import step_in_backward
from fastopt.reference import philox4x32
from fastopt.reference.dropout import draw
from fastopt.reference.rounding import rounding_draws, seed_of_parameter
from fastopt.reference.storage import from_bfloat16, round_stochastic, to_bfloat16

SHAPES = [(7,), (33, 5), (1023,), (1025,), (4, 513), (), (0,)]
RANDOM: Options = {"stochastic_rounding": True}
each_rule = pytest.mark.parametrize(("name", "options"), RULES + UNCODED, ids=option_id)
WIDE: list[Options] = [{}, {"state_dtype": torch.float32}]


# ---- the rounding itself --------------------------------------------------------------------------


def test_numbers_of_16_bits_stay_whatever_is_drawn() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    x = from_bfloat16(bits)
    for number in (0, 1, 0x7FFF, 0x8000, 0xFFFF):
        got = round_stochastic(x, np.full_like(bits, number))
        assert (got[~np.isnan(x)] == bits[~np.isnan(x)]).all()
        assert np.isnan(from_bfloat16(got[np.isnan(x)])).all()


def test_every_draw_once_is_the_exact_expectation() -> None:
    """Over all draws, a number goes up as often as its lower half says."""
    draws = np.arange(1 << 16, dtype=np.uint16)
    for bits in (0x3F800000, 0x3F800001, 0x3F808000, 0x3F80FFFF, 0xC1234567, 0x00001234, 0x007FFFFF):
        x = np.full(1 << 16, bits, np.uint32).view(np.float32)
        got = round_stochastic(x, draws)
        assert int((got != bits >> 16).sum()) == bits & 0xFFFF
        assert set(got.tolist()) <= {bits >> 16, (bits >> 16) + 1}
        assert from_bfloat16(got).astype(np.float64).mean() == float(x[0])


def test_what_is_not_finite_stays_so_and_the_largest_may_overflow() -> None:
    special = np.array([0x7F800000, 0xFF800000, 0x7F800001, 0xFFC00000, 0x7F7FFFFF], np.uint32)
    got = from_bfloat16(round_stochastic(special.view(np.float32), np.full(5, 0xFFFF, np.uint16)))
    assert got[0] == got[4] == np.inf
    assert got[1] == -np.inf
    assert np.isnan(got[2:4]).all()


# ---- the draws ------------------------------------------------------------------------------------


def drawn_one_by_one(count: int, seed: int, offset: int, index: int) -> list[int]:
    """The definition, one element at a time: a draw as bytes of its block."""
    found = []
    for i in range(index, index + count):
        block, place = divmod(i, 16)
        counter = [block % 2**32, block >> 32, offset % 2**32, offset >> 32 | 1 << 24]
        words = philox4x32(counter, [seed % 2**32, seed % 2**64 >> 32], rounds=7)
        word, byte = int(words[place % 8 // 2]), 2 * (place % 2) - place // 8
        low, high = (word >> 8 * (at % 4) & 0xFF for at in (byte, byte + 1))
        found.append(high << 8 | low)
    return found


@pytest.mark.parametrize("index", [0, 5, 2**36 - 9, 2**63 - 41])
@pytest.mark.parametrize(
    ("seed", "offset"), [(0, 0), (2**64 - 1, 2**56 - 1), (-1, 1), (-(2**63), 2**32)]
)
def test_an_element_takes_its_draw(seed: int, offset: int, index: int) -> None:
    got = rounding_draws(40, seed=seed, offset=offset, index=index)
    assert got.dtype == np.uint16
    assert got.tolist() == drawn_one_by_one(40, seed, offset, index)


def test_each_byte_is_an_upper_half_once_and_a_lower_half_once() -> None:
    blocks = rounding_draws(16 * 100, seed=3, offset=4, index=0).reshape(100, 16)
    counter = [np.arange(100), 0, 4, 1 << 24]
    given = np.sort(philox4x32(counter, [3, 0], rounds=7).astype("<u4").view(np.uint8))
    for half in (blocks & 0xFF, blocks >> 8):
        assert np.array_equal(np.sort(half), given)


# ---- steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("states", WIDE, ids=option_id)
@each_rule
def test_steps_equal_the_reference(backend: str, name: str, options: Options, states: Options) -> None:
    params = low_parameters(SHAPES, torch.bfloat16)
    low = Low(name, EVERY[name].ours(params, **options, **states, **RANDOM))
    for step in range(3):
        set_grads(params, step)
        low.step()


@pytest.mark.parametrize("tail", TAILS, ids=option_id)
def test_clipping_and_averaging(backend: str, tail: Options) -> None:
    """The average is of the numbers before they are rounded."""
    params = low_parameters(SHAPES, torch.bfloat16)
    low = Low("AdamW", CASES["AdamW"].ours(params, **tail, **RANDOM))
    for step in range(3):
        set_grads(params, step)
        low.step()


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_threads(backend: str, shape: tuple[int, ...], threads: int, set_threads: Any) -> None:
    set_threads(threads)
    params = low_parameters([shape], torch.bfloat16)
    low = Low("SGD", CASES["SGD"].ours(params, lr=0.1, momentum=0.9, **RANDOM))
    for step in range(2):
        set_grads(params, step)
        low.step()


def test_nan_and_infinity(backend: str) -> None:
    params = low_parameters([(2000,)], torch.bfloat16)
    optimizer = CASES["SGD"].ours(params, lr=1.0, **RANDOM)
    with torch.no_grad():
        params[0][::5] = float("inf")
        params[0][1::5] = float("nan")
    low = Low("SGD", optimizer)
    set_grads(params, 0)
    low.step()
    assert params[0][::5].isposinf().all()
    assert params[0][1::5].isnan().all()


def test_the_expectation_is_the_number(set_threads: Any) -> None:
    """A step of 1/1000 of the last bit, 500 times: the mean moves as float32 would.

    Of n = 65536 elements, each moves by u = 2^-7 with probability q at a step; the mean of what they
    moved has a standard deviation below u sqrt(steps q / n), and lies within 5 of them but for one
    run in 1.7 million. The seed is fixed.
    """
    set_threads(1)
    n, steps, unit = 1 << 16, 500, 2.0**-7
    param = torch.nn.Parameter(torch.full((n,), 1.5, dtype=torch.bfloat16))
    plain = torch.nn.Parameter(param.detach().clone())
    lr = unit / 1000
    random = CASES["SGD"].ours([param], lr=lr, **RANDOM)
    nearest = CASES["SGD"].ours([plain], lr=lr)
    param.grad = plain.grad = torch.full_like(param, -1.0)
    for _ in range(steps):
        random.step()
        nearest.step()
    assert (plain == 1.5).all()
    moved = param.detach().double().mean().item() - 1.5
    assert abs(moved - steps * lr) < 5 * unit * math.sqrt(steps / 1000 / n)
    assert len(param.detach().unique()) > 3


# ---- the key --------------------------------------------------------------------------------------


def rounded_once(seed: int, count: int, shape: tuple[int, ...] = (5000,)) -> Any:
    """The parameter after one step from 1.5 by a third of the last bit."""
    param = torch.nn.Parameter(torch.full(shape, 1.5, dtype=torch.bfloat16))
    optimizer = CASES["SGD"].ours([param], lr=2.0**-7 / 3, **RANDOM)
    optimizer.state[param]["rounding"] = torch.tensor([seed, count - 1])
    param.grad = torch.full_like(param, -1.0)
    optimizer.step()
    assert optimizer.state[param]["rounding"].tolist() == [seed, count]
    return raw(param).reshape(-1)


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63), 12345])
@pytest.mark.parametrize("count", [1, 2**24 + 1, 2**33])
def test_seed_count_and_place_decide(backend: str, seed: int, count: int) -> None:
    got = rounded_once(seed, count)
    x = np.float32(1.5) + np.float32(2.0**-7 / 3)
    draws = rounding_draws(5000, seed=seed, offset=count, index=0)
    assert_equal(got, round_stochastic(np.full(5000, x, np.float32), draws), "rounded")
    assert_equal(got, rounded_once(seed, count, (50, 100)), "another shape")
    assert_equal(got[:77], rounded_once(seed, count, (77,)), "a part")
    assert (got != rounded_once(seed, count + 1)).mean() > 0.3
    assert (got != rounded_once(seed ^ 1, count)).mean() > 0.3


def test_dropout_has_other_draws() -> None:
    pair = [draws(1000, seed=1, offset=2, index=0) for draws in (draw, rounding_draws)]
    assert (pair[0] != pair[1]).mean() > 0.99


def seeds_of(optimizer: Any) -> list[int]:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    return [int(optimizer.state[param]["rounding"][0]) for param in params]


def test_the_seed_is_half_a_block_by_place_and_rank() -> None:
    for seed in (0, 1, -1, 2**63, 2**64 - 1):
        key = [seed % 2**32, seed % 2**64 >> 32]
        low, high = (int(it) for it in philox4x32([5, 3, 7, 2 << 24], key)[:2])
        assert seed_of_parameter(seed, (3, 5), 7) % 2**64 == low | high << 32
        assert -(2**63) <= seed_of_parameter(seed, (3, 5), 7) < 2**63
    assert seed_of_parameter(-1, (0, 0)) == seed_of_parameter(2**64 - 1, (0, 0))


def test_the_option_and_the_place_rule_and_not_torchs_generator() -> None:
    for seed, options in [(0, {}), (0, {"rounding_seed": 0}), (7, {"rounding_seed": 7})]:
        before = torch.manual_seed(len(options)).get_state()
        groups = [{"params": low_parameters([(3,), (4,)], torch.bfloat16)}]
        groups.append({"params": low_parameters([(3,)], torch.bfloat16), "rounding_seed": 9})
        optimizer = CASES["AdamW"].ours(groups, **options, **RANDOM)
        train(optimizer, range(2))
        optimizer.add_param_group({"params": low_parameters([(2,), (1,)], torch.bfloat16)})
        train(optimizer, range(2, 4))
        places = {(0, 0): seed, (0, 1): seed, (1, 0): 9, (2, 0): seed, (2, 1): seed}
        found = seeds_of(optimizer)
        assert found == [seed_of_parameter(it, place) for place, it in places.items()]
        assert len(set(found)) == len(found)
        assert torch.equal(torch.get_rng_state(), before)


def test_a_parameter_that_is_put_in_anothers_place_has_that_places_seed() -> None:
    optimizer = CASES["SGD"].ours(low_parameters([(3,), (4,)], torch.bfloat16), **RANDOM)
    train(optimizer, range(1))
    group = optimizer.param_groups[0]
    group["params"] = [low_parameters([(5,)], torch.bfloat16)[0], group["params"][0]]
    train(optimizer, range(1, 3))
    assert seeds_of(optimizer) == [seed_of_parameter(0, (0, 0))] * 2  # the second has kept its own


@pytest.mark.parametrize("left", [0, 1, 2])
def test_groups_that_are_taken_away_leave_the_others_in_their_new_places(left: int) -> None:
    groups = [{"params": low_parameters([(size,), (4,)], torch.bfloat16)} for size in (3, 5, 7)]
    optimizer = CASES["SGD"].ours(groups, **RANDOM)
    train(optimizer, range(1))
    optimizer.state.clear()
    optimizer.param_groups = [optimizer.param_groups[2], *optimizer.param_groups[:left]]
    train(optimizer, range(1, 2))
    places = [(group, index) for group in range(left + 1) for index in range(2)]
    assert seeds_of(optimizer) == [seed_of_parameter(0, place) for place in places]


def test_steps_in_backward_have_the_seeds_of_the_whole_optimizer() -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3))).to(torch.bfloat16)
    handle = step_in_backward(model, fastopt.optim.AdamW, **RANDOM)
    model(torch.ones(2, 4, dtype=torch.bfloat16)).sum().backward()
    assert seeds_of(handle.optimizer) == [seed_of_parameter(0, (0, i)) for i in range(6)]


def test_an_older_checkpoint_keeps_its_seed() -> None:
    """From where there was no such option."""
    params = low_parameters([(9, 31)], torch.bfloat16)
    saved = CASES["SGD"].ours(params, **RANDOM)
    saved.state[params[0]]["rounding"] = torch.tensor([-12345, 1])
    state = saved.state_dict()
    del state["param_groups"][0]["rounding_seed"]
    other = CASES["SGD"].ours(low_parameters([(9, 31)], torch.bfloat16), rounding_seed=3, **RANDOM)
    other.load_state_dict(state)
    assert other.param_groups[0]["rounding_seed"] == 3
    train(other, range(1))
    assert other.state[other.param_groups[0]["params"][0]]["rounding"].tolist() == [-12345, 2]


@pytest.mark.parametrize("wrong", [-(2**63) - 1, 2**64, 1.0, None, "1"], ids=repr)
def test_a_seed_that_is_no_number_of_64_bits_is_refused(wrong: Any) -> None:
    params = low_parameters([(2,)], torch.bfloat16)
    for name in EVERY.keys() - {"LAMB"}:  # which does not round at random
        with pytest.raises(ValueError, match=r"Invalid rounding_seed .*a whole number"):
            EVERY[name].ours(params, rounding_seed=wrong)
    optimizer = CASES["SGD"].ours(params, **RANDOM)
    with pytest.raises(ValueError, match="Invalid rounding_seed value"):
        optimizer.add_param_group({"params": low_parameters([(2,)]), "rounding_seed": wrong})
    optimizer.param_groups[0]["rounding_seed"] = wrong
    set_grads(params, 0)
    with pytest.raises(ValueError, match="Invalid rounding_seed value"):
        optimizer.step()
    assert not optimizer.state


@each_rule
@pytest.mark.parametrize(
    "storage", [RANDOM, {"master_weights": True}, {"state_dtype": "int8"}], ids=str
)
def test_a_step_under_another_default_device(name: str, options: Options, storage: Options) -> None:
    """Where every new tensor would be on "meta"."""
    if storage.get("state_dtype") and (name, options) in UNCODED:
        return
    found = []
    for device in ("cpu", "meta"):
        params = low_parameters([(65, 64), (3,)], torch.bfloat16)
        set_grads(params, 0)
        optimizer = EVERY[name].ours(params, **options, **storage, ema_decay=0.9)
        with torch.device(device):
            optimizer.step()
        found.append(optimizer)
    assert_same_everything(*found)


def test_a_transposed_parameter_draws_in_the_order_of_memory() -> None:
    straight = low_parameters([(60, 50)], torch.bfloat16)[0]
    turned = torch.nn.Parameter(straight.detach().clone().T)
    for param in (straight, turned):
        optimizer = CASES["SGD"].ours([param], lr=1e-3, **RANDOM)
        param.grad = torch.ones_like(param)
        optimizer.step()
    assert_equal(raw(turned.T), raw(straight), "parameter")


# ---- options and states ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", COPIES)
@each_rule
def test_a_copy_continues(name: str, options: Options, way: str) -> None:
    first = EVERY[name].ours(low_parameters([(9, 31)], torch.bfloat16), **options, **RANDOM)
    train(first, range(2))
    other = COPIES[way](first)
    assert_same_everything(other, first)
    train(first, range(2, 5))
    train(other, range(2, 5))
    assert_same_everything(other, first)


def test_only_bfloat16_is_rounded_at_random() -> None:
    params = [low_parameters([(100,)], dtype)[0] for dtype in (torch.float32, torch.bfloat16)]
    optimizer = CASES["SGD"].ours(params, lr=1e-3, **RANDOM)
    plain = low_parameters([(100,)])
    train(optimizer, range(2))
    train(CASES["SGD"].ours(plain, lr=1e-3), range(2))
    assert_equal(raw(params[0]), raw(plain[0]), "float32")
    assert "rounding" not in optimizer.state[params[0]]
    assert (raw(params[1]) != to_bfloat16(plain[0].detach().numpy())).any()


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2), torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int32)]
)
def test_a_wrong_key_is_refused(wrong: torch.Tensor) -> None:
    params = low_parameters([(5,)], torch.bfloat16)
    optimizer = CASES["SGD"].ours(params, **RANDOM)
    optimizer.state[params[0]]["rounding"] = wrong
    set_grads(params, 0)
    reason = r"rounding is no int64 tensor of a seed and a count\), and .* stochastic_rounding=True"
    with pytest.raises(ValueError, match=reason):
        optimizer.step()


# ---- parts ----------------------------------------------------------------------------------------


def round_sharded(cut: int) -> Answer:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    torch.manual_seed(torch.distributed.get_rank())
    mesh = init_device_mesh("cpu", (2,))
    placements = [Replicate() if cut < 0 else Shard(cut)]
    whole = torch.full((7, 30), 1.5, dtype=torch.bfloat16)
    param = torch.nn.Parameter(distribute_tensor(whole, mesh, placements))
    optimizer = CASES["SGD"].ours([param], lr=2.0**-7 / 3, **RANDOM)
    param.grad = distribute_tensor(torch.full_like(whole, -1.0), mesh, placements)
    try:
        optimizer.step()
    except ValueError as error:
        return {"error": str(error)}
    seed = int(optimizer.state[param]["rounding"][0])
    return {"param": raw(param.full_tensor()), "seed": seed}  # type: ignore[attr-defined]


@pytest.mark.parametrize("cut", [0, -1])
def test_a_dtensor_is_rounded_as_the_whole_would_be(job: Job, cut: int) -> None:
    for answer in job.run(round_sharded, cut):
        got = rounded_once(answer["seed"], 1, (7, 30))
        assert_equal(answer["param"].reshape(-1), got, "parameter")


def test_columns_of_a_dtensor_are_refused(job: Job) -> None:
    for answer in job.run(round_sharded, 1):
        assert "a part that is not a range of its elements" in answer["error"]


def train_replicas(kind: str) -> Answer:
    """Each process seeds torch's generator for itself, as one does for dropout's sake."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    torch.manual_seed(0)
    model: Any = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Linear(30, 20))
    model = model.to(torch.bfloat16)
    if kind == "HSDP":
        mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicas", "shards"))
        model = fully_shard(model, mesh=mesh)
    else:
        model = DistributedDataParallel(model)
    torch.manual_seed(1 + dist.get_rank())
    options: Any = {"lr": 1e-3, **RANDOM}
    if kind == "ZeRO":
        optimizer: Any = ZeroRedundancyOptimizer(
            model.parameters(), optimizer_class=fastopt.optim.AdamW, **options
        )
    else:
        optimizer = fastopt.optim.AdamW(model.parameters(), **options)
    for _ in range(5):
        x = torch.randn(4, 20, dtype=torch.bfloat16)
        optimizer.zero_grad()
        (model(x) - x).square().mean().backward()
        optimizer.step()
    own = getattr(optimizer, "optim", optimizer)
    params = [getattr(param, "_local_tensor", param) for param in model.parameters()]
    answer: Answer = {str(i): raw(param) for i, param in enumerate(params)}
    return {"params": answer, "seeds": seeds_of(own)}


@pytest.mark.parametrize("kind", ["DDP", "HSDP", "ZeRO"])
def test_replicas_stay_equal_under_unequal_generators(job: Job, kind: str) -> None:
    first, second = job.run(train_replicas, kind)
    for key, value in first["params"].items():
        assert_equal(second["params"][key], value, key)
    both = first["seeds"] + second["seeds"]
    assert len(set(both)) == 4  # with ZeRO, each process has others
    assert (first["seeds"] == second["seeds"]) == (kind != "ZeRO")
