"""Rules in Python on CUDA's interpreter, walked: the bits of the function, and of the CPU's steps."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from _optim_cases import Snapshot, array_of, parameters, set_gradients
from _walk import CHUNK, THREADS, Walk
from fastopt import optim
from fastopt.rules import (
    Rule,
    RuleError,
    count,
    exp,
    library,
    log,
    maximum,
    mean,
    minimum,
    norm,
    rule,
    sign,
    sqrt,
    total,
    where,
)
from fastopt.rules import abs as absolute
from fastopt.verify import device, packed, programs
from fastopt.verify.compare import Report, differing
from fastopt.verify.pools import Pools
from fastopt.verify.storage import MIXES, Storage, alike

Options = dict[str, Any]
LIBRARY = {name: it for name, it in vars(library).items() if isinstance(it, Rule)}
SIZES = sorted(
    {it + more for it in (1, 4, THREADS, THREADS * 4, CHUNK, 2 * CHUNK) for more in (-1, 0, 1)}
)
SPECIAL = (0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 3e38, -3e38, 1e-20, 2.0)
each_rule = pytest.mark.parametrize("name", LIBRARY)
SUM_CHUNK = 4096
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@rule
def everything(p, g, m, v, *, t, lr=0.1, eps=1e-3):  # type: ignore[no-untyped-def]
    """Every kind of instruction."""
    a, b = absolute(p), -g
    c = where((p < g) & ~(g <= m) | (p == v), a, b)
    d = where(p > 0.5, where(m < lr, c, 2.0), where(v >= eps, 1.0, sign(c)))
    e = maximum(minimum(p, g), minimum(maximum(m, -1.5), lr))
    f = (p * g + m / (absolute(v) + eps)) - (1 - p) / 3.0 + 2.0 / (a + 1) + p * p
    h = sqrt(absolute(v)) + eps + maximum(sqrt(absolute(m)), lr)
    m = lr * m + (1 - lr) * (g * g)
    v = 0.5 * v + 0.25 * (p * e) - lr * (d / h) + where(g == 0, 0.0, f)
    return where(p != p, p, p - lr * v), m, v


@rule
def wide(p, g, m, *, t, lr=0.1):  # type: ignore[no-untyped-def]
    """More values at once than fit into a column of packets."""
    values = [p * float(k + 1) + g for k in range(10)]
    total = values[0]
    for value in values[1:]:
        total = total * value - m
    for value in values:
        total = total / (value + 2.0)
    return p - lr * total, m + total


@rule
def summed(p, g, m, *, t, lr=0.1):  # type: ignore[no-untyped-def]
    """Three passes: sums of elements and of squares, numbers of numbers of them."""
    u = g + lr * p
    share = mean(u) / (norm(m) + 1.0) + total(p) * 1e-3
    m = 0.5 * m + share * u
    ratio = sqrt(norm(m) + count(m > 0)) ** 0.5 % 3.0
    return p - lr * (m * ratio), m


def numbers(rng: np.random.Generator, size: int, dtype: Any) -> Any:
    values = rng.standard_normal(size) * 10.0 ** rng.integers(-6, 6, size)
    places = rng.random(size) < 0.3
    values[places] = rng.choice(SPECIAL, size)[places]
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def assert_same(got: Any, want: Any) -> None:
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert differing(got.reshape(-1), want.reshape(-1))[1] == 0


def check(it: Rule, arrays: list[Any], starts: list[int], **options: Any) -> None:
    """With each array that many elements into a buffer; what is around it stays."""
    want = it.reference(*arrays, **options)
    buffers = [np.full(array.size + 40, 7, array.dtype) for array in arrays]
    got = [buffer[at : at + x.size] for buffer, at, x in zip(buffers, starts, arrays, strict=True)]
    for to, x in zip(got, arrays, strict=True):
        to[...] = x
    it.kernel_(*got, **options)
    assert_same(got[1], arrays[1])
    results = [got[0], *got[2:]]
    for result, expected in zip(results, want[: len(results)], strict=True):  # not what is kept
        assert_same(result, expected)
    for buffer, at, x in zip(buffers, starts, arrays, strict=True):
        assert (np.delete(buffer, np.arange(at, at + x.size)) == 7).all()


@each_dtype
@pytest.mark.parametrize("it", [everything, wide], ids=["everything", "wide"])
def test_every_instruction_at_every_edge(cuda_walk: Walk, it: Rule, dtype: Any) -> None:
    """Of packets, rounds and chunks; aligned, alike at any element of a packet, and apart."""
    rng = np.random.default_rng(0)
    count = 2 + len(it.states)
    for size in SIZES:
        arrays = [numbers(rng, size, dtype) for _ in range(count)]
        for starts in ([0] * count, [3] * count, rng.integers(0, 9, count).tolist()):
            check(it, arrays, starts, t=3)


@each_dtype
@each_rule
def test_the_librarys_rules(cuda_walk: Walk, name: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    it = LIBRARY[name]
    for t in (1, 2, 1000):
        arrays = [numbers(rng, 3001, dtype) for _ in range(2 + len(it.states))]
        for state in it.squares:
            place = 2 + it.states.index(state)
            arrays[place] = abs(arrays[place])
        check(it, arrays, [0] * len(arrays), t=t)


@pytest.mark.parametrize("mix", [alike("bfloat16"), alike("float16"), *MIXES], ids=str)
def test_arrays_of_any_mix(cuda_walk: Walk, mix: Any) -> None:
    """As on the CPU, whose bits are tested beside the functions'."""
    rng = np.random.default_rng(0)
    for it in (library.adopt, wide):
        states = [Storage(mix.state(number)) for number in range(len(it.states))]
        storages = [Storage(mix.param), Storage(mix.grad), *states]
        for size in (5, 1027, CHUNK + 9):
            stored = [storage.rounded(numbers(rng, size, np.float32)) for storage in storages]
            ours, cpus = ([x.copy() for x in stored] for _ in range(2))
            it.kernel_(*(s.argument(x) for s, x in zip(storages, ours, strict=True)), t=3)
            with cuda_walk.out_of_use():
                it.kernel_(*(s.argument(x) for s, x in zip(storages, cpus, strict=True)), t=3)
            for storage, one, other in zip(storages, ours, cpus, strict=True):
                assert_same(storage.visible(one), storage.visible(other))


# ---- optimizers -----------------------------------------------------------------------------------

TAIL: Options = {"max_grad_norm": 0.5, "ema_decay": 0.9, "ema_bias_correction": True}
CHUNKS = sorted({it * SUM_CHUNK + more for it in (1, 8, 9, 33) for more in (-1, 0, 1)} | {1, 31, 33})


@each_dtype
def test_sums_at_every_edge(cuda_walk: Walk, dtype: Any) -> None:
    """Of lanes, chunks and blocks; of many tensors at once, each with its own."""
    rng = np.random.default_rng(0)
    for size in CHUNKS:
        arrays = [rng.standard_normal(size).astype(dtype) for _ in range(3)]
        check(summed, arrays, [0] * 3, t=3)
    special = [numbers(rng, 3 * SUM_CHUNK + 5, dtype) for _ in range(3)]
    check(summed, special, [1, 2, 3], t=3)


def test_sums_of_more_chunks_than_one_sum_takes(cuda_walk: Walk) -> None:
    @rule
    def centred(p, g, *, t, lr=0.1):  # type: ignore[no-untyped-def]
        return p - lr * (g - mean(g))

    rng = np.random.default_rng(0)
    size = SUM_CHUNK**2 + SUM_CHUNK + 1
    check(centred, [rng.standard_normal(size, np.float32) for _ in range(2)], [0, 0], t=1)


CLASSES = [
    "CautiousAdamW",
    "CautiousLion",
    "StableAdamW",
    "MARS",
    "ADOPT",
    "AdEMAMix",
    "Adan",
    "LaProp",
    "Signum",
    "Yogi",
    "ScheduleFreeAdamW",
]


def trained(name: str, dtype: torch.dtype, shapes: Any = None, **options: Any) -> list[Any]:
    """All parameters and states after steps that leave some parameters behind."""
    shapes = shapes or [(67, 3), (70, 130), (5,), (0,), (3, 2, CHUNK)]
    params = parameters(dtype, shapes=shapes)
    optimizer = getattr(optim, name)(params, **options)
    for step in range(4):
        set_gradients(params, seed=step)
        for number in range(min(len(params), 3)):
            if step % (number + 1):
                params[number].grad = None
        optimizer.step()
    states = [optimizer.state[param] for param in params]
    tensors: list[Tensor] = [*params, *(state[key] for state in states for key in sorted(state))]
    assert not any(it.reason for it in optimizer.fused_report())
    return [array_of(it) for it in tensors]


def as_on_the_cpu(walk: Walk, name: str, dtype: torch.dtype, **options: Any) -> None:
    ours = trained(name, dtype, **options)
    with walk.out_of_use():
        cpus = trained(name, dtype, **options)
    for one, other in zip(ours, cpus, strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.filterwarnings("ignore:.*cannot hold squares")
def test_optimizers_step_as_on_the_cpu(name: str, dtype: torch.dtype, cuda_walk: Walk) -> None:
    as_on_the_cpu(cuda_walk, name, dtype)
    as_on_the_cpu(cuda_walk, name, dtype, **TAIL)
    if dtype is torch.float32:
        as_on_the_cpu(cuda_walk, name, dtype, state_dtype=torch.bfloat16)


def test_more_parameters_than_a_launch_takes(cuda_walk: Walk) -> None:
    for name in ("ADOPT", "StableAdamW"):
        as_on_the_cpu(cuda_walk, name, torch.float32, shapes=[(7,), (3, 5)] * 300)


def test_parameters_that_share_memory_step_one_after_the_other(cuda_walk: Walk) -> None:
    results = []
    for place in (cuda_walk.in_use, cuda_walk.out_of_use):
        with place():
            memory = torch.linspace(-1, 1, 3000)
            params = [torch.nn.Parameter(torch.empty(0)) for _ in range(2)]
            for param in params:
                param.data = memory
                param.grad = torch.linspace(1, 2, 3000)
            optim.StableAdamW(params, lr=0.1).step()
            results.append(memory.numpy().tobytes())
    assert results[0] == results[1]


def test_scaled_gradients_and_skipped_steps(cuda_walk: Walk) -> None:
    results = []
    for place in (cuda_walk.in_use, cuda_walk.out_of_use):
        with place():
            params = parameters()
            optimizer = optim.ADOPT(params)
            for step in range(4):
                set_gradients(params, seed=step)
                optimizer.grad_scale, optimizer.found_inf = (
                    torch.tensor(8.0),
                    torch.tensor(float(step == 1)),
                )
                optimizer.step()
            results.append([array_of(param).tobytes() for param in params])
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_nothing_depends_on_the_order_of_threads(dtype: torch.dtype, cuda_walk: Walk) -> None:
    for name in ("AdEMAMix", "CautiousAdamW"):
        forwards = trained(name, dtype)
        with cuda_walk.going(backwards=True):
            backwards = trained(name, dtype)
        assert [it.tobytes() for it in forwards] == [it.tobytes() for it in backwards]


def test_it_is_the_walk_that_runs(cuda_walk: Walk) -> None:
    for optimizer_class in (optim.Signum, optim.StableAdamW):
        params = parameters(shapes=[(3, 5)])
        before = params[0].detach().clone()
        set_gradients(params, seed=0)
        optimizer = optimizer_class(params, lr=0.1)
        with cuda_walk.going(blocks=(0, 0)):
            optimizer.step()
        assert torch.equal(params[0], before)
        optimizer.step()
        assert not torch.equal(params[0], before)


# ---- masters, random rounding, 8-bit states ------------------------------------------------------


@rule
def crowded(p, g, a, b, c, d, e, *, t, lr=0.1):  # type: ignore[no-untyped-def]
    """All states that there may be, and more values at once than fit into the wider columns."""
    states = [a, b, c, d, e]
    values = [p * float(k + 1) + g * it for k, it in enumerate(states)]
    all_of_them = values[0]
    for value in values[1:]:
        all_of_them = all_of_them * 0.5 - value
    for value in values:
        all_of_them = all_of_them / (absolute(value) + 2.0)
    new = [0.5 * it + 0.25 * g + 0.01 * value for it, value in zip(states, values, strict=True)]
    return p - lr * all_of_them, *new


@rule(squares=("m",), start={"z": "param", "m": 1.0})
def still(p, g, m, z, *, t, lr=0.1):  # type: ignore[no-untyped-def]
    """What a step leaves alone: its codes are rounded anew, by the step's dither."""
    return p, m, z + lr * g


PACKED: dict[str, Any] = {
    **{
        name: getattr(optim, name).rule
        for name in ("ADOPT", "Adan", "StableAdamW", "ScheduleFreeAdamW")
    },
    "crowded": crowded,
    "still": still,
    "summed": summed,
}
SHAPES = ((64, 64), (5, 1023), (3, 520), (80, 67), (65,), (), (0,))
NUMBERED = [f"{it.dtype_name} {it.name}" for it in packed.KINDS]


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("number", range(len(packed.KINDS)), ids=NUMBERED)
def test_what_is_stored_has_the_bits_of_the_function(
    name: str, number: int, cuda_walk: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "device", torch.device("cpu"))
    it = PACKED[name]
    pools = Pools(np.dtype(np.float32), seed=0)
    pool = pools.runs.tame if it.sums else pools.runs
    rng = np.random.default_rng(0)
    trial = packed.PackedTrial(packed.KINDS[number], programs.Stored(it), {}, SHAPES, pool, rng)
    report = Report()
    trial.check(report, report.row(name, "", device.CUDA), threads=1)
    assert report.elements > 50_000
    assert report.wrong_bits == 0, report.examples[0]


WAYS = [
    (torch.float32, {"state_dtype": "int8"}),
    (torch.float16, {"master_weights": True}),
    (torch.bfloat16, {"stochastic_rounding": True}),
]
each_way = pytest.mark.parametrize(("dtype", "way"), WAYS, ids=str)
FEW = [(64, 64), (33, 131), (7,), (0,)]


@each_way
def test_what_is_stored_with_the_whole_tail(dtype: torch.dtype, way: Options, cuda_walk: Walk) -> None:
    for name in ("ADOPT", "StableAdamW", "ScheduleFreeAdamW"):
        as_on_the_cpu(cuda_walk, name, dtype, shapes=FEW, **way, **TAIL)


@each_way
def test_more_packed_parameters_than_a_launch_takes(
    dtype: torch.dtype, way: Options, cuda_walk: Walk
) -> None:
    for name in ("ADOPT", "StableAdamW"):
        as_on_the_cpu(cuda_walk, name, dtype, shapes=[(7,), (64, 64), (3, 5)] * 70, **way)


@each_way
def test_packed_kernels_do_not_depend_on_the_order_of_threads(
    dtype: torch.dtype, way: Options, cuda_walk: Walk
) -> None:
    for name in ("AdEMAMix", "StableAdamW"):
        forwards = trained(name, dtype, shapes=FEW, **way)
        with cuda_walk.going(backwards=True):
            backwards = trained(name, dtype, shapes=FEW, **way)
        assert [it.tobytes() for it in forwards] == [it.tobytes() for it in backwards]


@each_way
def test_it_is_the_packed_kernel_that_runs(dtype: torch.dtype, way: Options, cuda_walk: Walk) -> None:
    for name in ("Signum", "StableAdamW"):
        param = torch.ones(64, 64, dtype=dtype)
        param.grad = torch.ones_like(param)
        optimizer = getattr(optim, name)([param], lr=0.1, **way)
        with cuda_walk.going(blocks=(0, 0)):
            optimizer.step()
        assert (param == 1).all()
        optimizer.step()
        assert not (param == 1).any()


# ---- numbers on the device -------------------------------------------------------------------------


@rule(numbers={"weights": 0.5, "largest": -1.0})
def branching(p, g, z, weights, largest, *, t, lr=0.1, warm=3):  # type: ignore[no-untyped-def]
    """Numbers that are kept, and ifs on the step, on what is kept and on the rate."""
    largest = maximum(largest, lr)
    if t <= warm:
        weights = weights + largest * log(t + 1.0)
        return p - lr * g, z + g, weights, largest
    share = exp(-weights) + t**0.5
    if weights > 3.0 and t > warm:
        share = share % 1.0
    z = share * z + (1 - b_of(t)) * g
    return p - (lr if lr > 0.05 else 0.05) * z, z, weights + 0.25, largest


def b_of(t: Any) -> Any:
    return 0.9 ** (t - 2.0) if t % 2 == 0 else 1 / t


@rule(numbers={"sizes": 1.0})
def branching_sums(p, g, m, sizes, *, t, lr=0.1):  # type: ignore[no-untyped-def]
    """Of several programs some have sums."""
    if t == 1:
        return p, g + m, sizes
    m = m + g * (1 / (norm(g) + t))
    if t > 3:
        return p - lr * m * mean(m), m, sizes * 0.5
    return p - lr * sizes * m, m, sizes + t


Branching, BranchingSums = branching.optimizer("Branching"), branching_sums.optimizer("BranchingSums")
THERE = {**{name: getattr(optim, name) for name in CLASSES}, "Branching": Branching,
         "BranchingSums": BranchingSums}  # fmt: skip


def graphed(cls: Any, dtype: torch.dtype, walk: Walk | None, **options: Any) -> list[bytes]:
    """All bits after a step, another one, which a graph captures, and four replays of that one."""
    shapes = [(7, 3), (41, 131), (0,)]
    params = parameters(dtype, shapes=shapes)
    optimizer = cls(params, capturable=True, **options) if walk else cls(params, **options)
    grads = [torch.empty_like(param) for param in params]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    for step in range(6):
        for param, new in zip(parameters(dtype, shapes=shapes), grads, strict=True):
            new.copy_(param.detach() * (step - 2.5))
        if walk and step == 1:
            with walk.captured():
                optimizer.step()
        elif walk and step > 1:
            walk.replay()
        else:
            optimizer.step()
    states = [optimizer.state[param] for param in params]
    found = [*params, *(state[key] for state in states for key in sorted(state))]
    return [array_of(it).tobytes() for it in found]


REPLAYED = [(name, torch.float32) for name in THERE]
REPLAYED += [(name, torch.bfloat16) for name in ("Branching", "BranchingSums", "StableAdamW")]
REPLAYED += [(name, torch.float64) for name in ("Branching", "BranchingSums")]


@each_way
@pytest.mark.parametrize("name", ["ADOPT", "Branching", "BranchingSums"])
def test_a_replay_steps_on_what_is_packed(
    name: str, dtype: torch.dtype, way: Options, cuda_walk: Walk
) -> None:
    ours = graphed(THERE[name], dtype, cuda_walk, **way, **TAIL)
    with cuda_walk.out_of_use():
        cpus = graphed(THERE[name], dtype, None, **way, **TAIL)
    assert ours == cpus


@pytest.mark.parametrize(("name", "dtype"), REPLAYED)
def test_a_replay_steps_on(name: str, dtype: torch.dtype, cuda_walk: Walk) -> None:
    """By numbers that the device computes, of the step that it counts and of what is kept there."""
    ours = graphed(THERE[name], dtype, cuda_walk, **TAIL)
    with cuda_walk.out_of_use():
        cpus = graphed(THERE[name], dtype, None, **TAIL)
    assert ours == cpus


def test_a_replay_takes_the_rate_as_it_is(cuda_walk: Walk) -> None:
    for cls in (Branching, BranchingSums, optim.ADOPT):
        results = []
        for walk in (cuda_walk, None):
            place = cuda_walk.in_use() if walk else cuda_walk.out_of_use()
            with place:
                lr = torch.tensor(0.25, dtype=torch.float64)
                (param,) = params = parameters(shapes=[(41, 101)])
                optimizer = cls(params, lr=lr if walk else 0.25, capturable=walk is not None)
                param.grad = torch.linspace(-1, 1, param.numel()).reshape(param.shape)
                for step in range(5):
                    lr.fill_(0.25 * 0.5**step)
                    if walk is None:
                        optimizer.param_groups[0]["lr"] = float(lr)
                        optimizer.step()
                    elif step == 1:
                        with walk.captured():
                            optimizer.step()
                    elif step > 1:
                        walk.replay()
                    else:
                        optimizer.step()
                results.append(
                    [array_of(it).tobytes() for it in (param, *optimizer.state[param].values())]
                )
        assert results[0] == results[1]


def test_a_step_that_is_skipped_keeps_its_numbers(cuda_walk: Walk) -> None:
    (param,) = params = parameters(shapes=[(7, 3)])
    optimizer = Branching(params, capturable=True)
    param.grad = torch.ones_like(param)
    optimizer.step()
    before = [array_of(it).tobytes() for it in (param, *optimizer.state[param].values())]
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.tensor(1.0)
    optimizer.step()
    assert [array_of(it).tobytes() for it in (param, *optimizer.state[param].values())] == before
    optimizer.found_inf.zero_()
    optimizer.step()
    assert optimizer.state[param]["step"] == 2


def test_a_checkpoint_moves_its_numbers(cuda_walk: Walk) -> None:
    """From the host to the device and back."""
    results = []
    for first, then in ((False, False), (True, False), (False, True)):
        (param,) = params = parameters(shapes=[(7, 3)])
        param.grad = torch.ones_like(param)
        optimizer = Branching(params, capturable=first)
        for _ in range(3):
            optimizer.step()
        saved = optimizer.state_dict()
        optimizer = Branching(params, capturable=then)
        saved["param_groups"][0]["capturable"] = then
        optimizer.load_state_dict(saved)
        for _ in range(3):
            optimizer.step()
        state = optimizer.state[param]
        assert state["weights"].dtype == torch.float64
        results.append([array_of(it).tobytes() for it in (param, *state.values())])
    assert results[0] == results[1] == results[2]


@rule
def endless(p, g, *, t):  # type: ignore[no-untyped-def]
    k = 0
    while k < t:
        k, p = k + 1, p - g
    return p


@rule
def many_ways(p, g, *, t):  # type: ignore[no-untyped-def]
    for k in range(6):
        p = p - g if t % (k + 2.0) == 1 else p + g
    return p


@pytest.mark.parametrize("it", [endless, many_ways], ids=["endless", "many"])
def test_ifs_that_lead_too_many_ways_are_refused(it: Rule, cuda_walk: Walk) -> None:
    params = parameters(shapes=[(7,)])
    optimizer = it.optimizer("Ways")(params, capturable=True)
    set_gradients(params, seed=0)
    before = params[0].detach().clone()
    with pytest.raises(RuleError, match=r"ifs lead more than 32 ways, on numbers that lie on the dev"):
        optimizer.step()
    assert torch.equal(params[0], before)
    assert not optimizer.state


def test_more_numbers_than_a_device_is_given_take_the_function_itself(cuda_walk: Walk) -> None:
    names = [f"k{number}" for number in range(6)]
    text = f"def many(p, g, {', '.join(names)}, *, t):\n    return p - t * g, {', '.join(names)}\n"
    found: dict[str, Any] = {}
    exec(text, found)
    many = rule(numbers=names)(found["many"])
    params = parameters(shapes=[(7,)])
    optimizer = many.optimizer("Many")(params, capturable=True)
    set_gradients(params, seed=0)
    assert params[0].grad is not None
    want = params[0].detach() - params[0].grad
    with cuda_walk.failing(after=0):  # nothing is launched
        optimizer.step()
    message = "keeps more numbers than CUDA's kernels take, while a CUDA graph captures"
    with cuda_walk.captured(), pytest.raises(RuntimeError, match=message):
        optimizer.step()
    assert torch.equal(params[0], want)


@pytest.mark.parametrize("cls", [optim.ADOPT, Branching])
def test_numbers_of_the_host_are_refused_in_a_capture(cls: Any, cuda_walk: Walk) -> None:
    params = parameters()
    optimizer = cls(params)
    set_gradients(params, seed=0)
    optimizer.step()
    before = Snapshot(optimizer)
    message = "step lies on the CPU while a CUDA.*expected capturable=True"
    with cuda_walk.captured(), pytest.raises(RuntimeError, match=message):
        optimizer.step()
    before.assert_unchanged()
