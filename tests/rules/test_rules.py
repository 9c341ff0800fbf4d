"""Rules in Python: their programs have the bits of the function, on every target and storage."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fastopt import _C, kernels, optim
from fastopt.optim._storage import decoded
from fastopt.reference.dither import half_draws
from fastopt.reference.storage import store_state
from fastopt.rules import Rule, exp, log, maximum, minimum, rule, sign, sqrt, where
from fastopt.rules import abs as absolute
from fastopt.rules.library import adamw
from fastopt.verify.compare import differing
from fastopt.verify.storage import MIXES, Storage, alike

SIZES = (0, 1, 3, 15, 63, 64, 65, 127, 129, 255, 257, 1000, 70001)
SPECIAL = (0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 3e38, -3e38, 1e-20, 2.0)


def numbers(rng: np.random.Generator, size: int, dtype: Any) -> Any:
    """Random numbers of every size, and special ones between them."""
    values = rng.standard_normal(size) * 10.0 ** rng.integers(-6, 6, size)
    values[rng.random(size) < 0.2] = 0
    places = rng.random(size) < 0.2
    values[places] = rng.choice(SPECIAL, size)[places]
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def assert_same(got: Any, want: Any) -> None:
    """The same bits, NaN for NaN."""
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert differing(got.reshape(-1), want.reshape(-1))[1] == 0


def check(it: Rule, arrays: list[Any], **options: Any) -> None:
    """The program's bits are the function's."""
    want = it.reference(*arrays, **options)
    got = [array.copy() for array in arrays]
    it.kernel_(*got, **options)
    assert_same(got[1], arrays[1])
    for result, expected in zip([got[0], *got[2:]], want, strict=True):
        assert_same(result, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
def test_adamw_has_the_bits_of_the_function_and_of_the_compiled_kernel(
    target: str, size: int, dtype: Any
) -> None:
    rng = np.random.default_rng(size)
    arrays = [numbers(rng, size, dtype) for _ in range(4)]
    for t in (1, 2, 1000):
        for options in (
            {},
            {"lr": 0.1, "betas": (0.0, 0.5), "eps": 0.0, "weight_decay": 0.0, "maximize": True},
        ):
            check(adamw, arrays, t=t, **options)
            ours, compiled = ([array.copy() for array in arrays] for _ in range(2))
            adamw.kernel_(*ours, t=t, **options)
            kernels.adamw_(*compiled, step=t, **options)
            for a, b in zip(ours, compiled, strict=True):
                assert_same(a, b)


@pytest.mark.parametrize("mix", [alike("bfloat16"), alike("float16"), *MIXES], ids=str)
def test_arrays_of_any_mix(target: str, mix: Any) -> None:
    rng = np.random.default_rng(0)
    storages = [Storage(mix.param), Storage(mix.grad), Storage(mix.state(0)), Storage(mix.state(1))]
    for size in SIZES:
        stored = [it.rounded(numbers(rng, size, np.float32)) for it in storages]
        wide = [it.numbers(x) for it, x in zip(storages, stored, strict=True)]
        want = adamw.reference(*wide, t=3)
        got = [x.copy() for x in stored]
        adamw.kernel_(*(it.argument(x) for it, x in zip(storages, got, strict=True)), t=3)
        assert_same(storages[0].visible(got[0]), storages[0].visible(storages[0].rounded(want[0])))
        for number, (it, x, y) in enumerate(zip(storages[2:], got[2:], want[1:], strict=True)):
            draws = half_draws(np.arange(size), step=3, state=number)
            assert_same(it.visible(x), it.visible(it.rounded(y, draws)))


def test_the_reference_takes_16_bits_as_other_references_do() -> None:
    rng = np.random.default_rng(0)
    arrays = [numbers(rng, 50, np.float16) for _ in range(4)]
    param, m, v = adamw.reference(*arrays, t=3)
    wide = adamw.reference(*(array.astype(np.float32) for array in arrays), t=3)
    with np.errstate(over="ignore"):
        assert_same(param, wide[0].astype(np.float16))
        for number, (got, want) in enumerate(zip((m, v), wide[1:], strict=True)):
            assert_same(got, store_state(want, np.float16, step=3, state=number))


# ---- every operation ----


ARRAYS: dict[str, Callable[..., Any]] = {
    "copy": lambda a, b, c, s, t: b,
    "negative": lambda a, b, c, s, t: -a,
    "absolute": lambda a, b, c, s, t: absolute(a),
    "root": lambda a, b, c, s, t: sqrt(a),
    "square": lambda a, b, c, s, t: a**2,
    "sign": lambda a, b, c, s, t: sign(a),
    "add": lambda a, b, c, s, t: a + b,
    "subtract": lambda a, b, c, s, t: a - b,
    "multiply": lambda a, b, c, s, t: a * b,
    "divide": lambda a, b, c, s, t: a / b,
    "maximum": lambda a, b, c, s, t: maximum(a, b),
    "minimum": lambda a, b, c, s, t: minimum(a, b),
    "less": lambda a, b, c, s, t: where(a < b, a, b),
    "greater": lambda a, b, c, s, t: where(a > b, a, b),
    "at most": lambda a, b, c, s, t: where(a <= b, 1.0, b),
    "at least": lambda a, b, c, s, t: where(a >= b, a, 2.0),
    "equal": lambda a, b, c, s, t: where(a == b, 1.0, 0.0),
    "unequal": lambda a, b, c, s, t: where(a != b, s, t),
    "both": lambda a, b, c, s, t: where((a > b) & (b > c), 1.0, 0.0),
    "either": lambda a, b, c, s, t: where((a > b) | (b > c), 1.0, 0.0),
    "opposite": lambda a, b, c, s, t: where(~(a > b), 1.0, 0.0),
    "number less": lambda a, b, c, s, t: where(a < s, 1.0, 0.0),
    "number greater": lambda a, b, c, s, t: where(s < a, 1.0, 0.0),
    "number at most": lambda a, b, c, s, t: where(a <= s, 1.0, 0.0),
    "number at least": lambda a, b, c, s, t: where(a >= s, 1.0, 0.0),
    "number equal": lambda a, b, c, s, t: where(a == 1.0, 1.0, 0.0),
    "add number": lambda a, b, c, s, t: a + s,
    "subtract number": lambda a, b, c, s, t: a - s,
    "from number": lambda a, b, c, s, t: s - a,
    "scale": lambda a, b, c, s, t: s * a,
    "over number": lambda a, b, c, s, t: a / s,
    "number over": lambda a, b, c, s, t: s / a,
    "maximum with a number": lambda a, b, c, s, t: maximum(a, 0.0),
    "maximum of a number": lambda a, b, c, s, t: maximum(0.0, a),
    "minimum with a number": lambda a, b, c, s, t: minimum(a, -0.0),
    "minimum of a number": lambda a, b, c, s, t: minimum(-0.0, a),
    "clip": lambda a, b, c, s, t: minimum(maximum(a, -s), s),
    "sum": lambda a, b, c, s, t: s * a - t * b,
    "sum with one": lambda a, b, c, s, t: a - t * b,
    "sum of negatives": lambda a, b, c, s, t: -a - b,
    "sum with a square": lambda a, b, c, s, t: s * a + t * (b * b),
    "sum with a product": lambda a, b, c, s, t: t * (b * c) - a,
    "sum with a quotient": lambda a, b, c, s, t: a - s * (b / c),
    "sum with a sign": lambda a, b, c, s, t: s * a + t * sign(b),
    "plain product": lambda a, b, c, s, t: a + b * c,
    "root plus": lambda a, b, c, s, t: sqrt(a) + s,
    "sum with a root": lambda a, b, c, s, t: t * sqrt(a) + s,
    "root maximum": lambda a, b, c, s, t: maximum(sqrt(a), s),
    "number of itself": lambda a, b, c, s, t: s * a + t * a,
    "twice": lambda a, b, c, s, t: (s * a + b) * (s * a - b),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_every_operation(target: str, name: str) -> None:
    act = ARRAYS[name]

    @rule
    def one(p, g, q, *, t, s=0.3, u=-1.7):
        return act(p, g, q, s, u), act(q, p, g, u, s)

    rng = np.random.default_rng(0)
    pairs = np.array(list(itertools.product(SPECIAL, SPECIAL)))
    for dtype in (np.float32, np.float64):
        with np.errstate(over="ignore"):
            a, b = (column.astype(dtype) for column in pairs.T)
        check(one, [a, b, b[::-1].copy()])
        check(one, [numbers(rng, 3000, dtype) for _ in range(3)], s=1e-3, u=1e30)


def test_where_results_land() -> None:
    """States that change places, come of one another, stay, or are the gradient."""

    @rule
    def turned(p, g, a, b, c, *, t):
        return p, b, a, c

    @rule
    def around(p, g, a, b, c, *, t):
        return c, p, a, b

    @rule
    def shared(p, g, a, b, c, *, t):
        m = a + b
        return m, m, g, m * p

    @rule
    def crossed(p, g, a, b, c, *, t):
        return a + b, b * c, c - p, p / a

    rng = np.random.default_rng(0)
    for it in (turned, around, shared, crossed):
        check(it, [numbers(rng, 1000, np.float32) for _ in range(5)])
    assert [it.op for it in turned.program().code] == ["copy"] * 3
    assert not around.program().results[0].args


def test_an_unchanged_array_is_not_written() -> None:
    @rule
    def still(p, g, a, *, t):
        return p, a + g

    p = np.ones(100, np.float32)
    p.flags.writeable = True
    check(still, [p, p + 1, p + 2])
    assert [it.to for it in still.program().code] == [2]


def test_results_are_written_to_their_arrays_at_once() -> None:
    code = adamw.program().code
    assert [(it.op, it.to) for it in code] == [
        ("sum", 2),
        ("sum_square", 3),
        ("root_plus", _C.first_register),
        ("sum_quotient", 0),
    ]


def test_what_is_fused() -> None:
    @rule
    def one(p, g, a, b, *, t, s=0.3):
        return p - s * sign(a), s * sqrt(b) + 1.0, sqrt(g) + s

    assert [it.op for it in one.program().code] == ["sum_sign", "sum_root", "root_plus"]


def test_an_array_that_is_written_before_its_result_is_known(target: str) -> None:
    """And one that a root or a quotient is taken from: bfloat16 is stored when all is known."""

    @rule
    def late(p, g, a, b, *, t, s=0.3):
        b = 0.9 * b + 0.1 * (g * g)
        a = 0.5 * a - s * (g / (sqrt(b) + 1.0))
        p = (p + a) * s
        return p - sqrt(absolute(p)), a - s * g, b

    rng = np.random.default_rng(0)
    halves = Storage("bfloat16")
    for size in SIZES:
        stored = [halves.rounded(numbers(rng, size, np.float32)) for _ in range(4)]
        want = late.reference(*map(halves.numbers, stored), t=3)
        got = [x.copy() for x in stored]
        late.kernel_(*map(halves.argument, got), t=3)
        assert_same(halves.visible(got[1]), halves.visible(stored[1]))
        assert_same(halves.visible(got[0]), halves.visible(halves.rounded(want[0])))
        for number, (x, y) in enumerate(zip(got[2:], want[1:], strict=True)):
            draws = half_draws(np.arange(size), step=3, state=number)
            assert_same(halves.visible(x), halves.visible(halves.rounded(y, draws)))


# ---- Numbers and guards ----


@rule
def guarded(p, g, m, *, t, lr=0.1, warmup=3, decay=0.0, kind="plain", tuning=None):
    if t < warmup:
        lr = lr * t / warmup
    if decay:
        p = (1 - lr * decay) * p
    if kind == "signed" and tuning is None:
        g = sign(g)
    elif tuning is not None:
        g = tuning * g
    if t == 1:
        return p, g
    m = 0.9 * m + exp(-t / 10) * g
    return p - lr * m / (log(t + 1.0) + 2 ** (t / 3) + t**-2), m


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"warmup": 0},
        {"decay": 0.1},
        {"kind": "signed"},
        {"tuning": 3.0},
        {"tuning": 3},
        {"lr": 1e-300},
    ],
    ids=str,
)
def test_a_guard_answers_each_step_anew(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    arrays = [numbers(rng, 300, np.float64) for _ in range(3)]
    for t in (1, 2, 3, 4, 1000, 2, 1, 500_000):
        check(guarded, arrays, t=t, **options)
        check(guarded, [it.astype(np.float32) for it in arrays], t=t, **options)


def test_numbers_in_c_are_those_in_python() -> None:
    @rule
    def of_numbers(p, g, *, t, x=1.0, y=1.0):
        numbers = [exp(x), log(x), x**y, y**2, sqrt(x), x % y, maximum(x, y), minimum(x, y), x / y, -x]
        for it in numbers:
            p = p + it
        return p

    rng = np.random.default_rng(0)
    edges = [0.0, -0.0, 1.0, -1.0, 709.0, -745.0, -708.5, 1e-310, 1e308, 0.5, 2.0, 3.0]
    pairs = [*itertools.product(edges, edges), *(rng.standard_normal((400, 2)) * 10).tolist()]
    for x, y in pairs:
        found = of_numbers.program(x=x, y=y)
        computed = found.traced.numbers([2.0, x, y, 0.0])
        assert computed is not None
        for instruction in found.code:
            for number in instruction.numbers:
                assert any(np.array_equal(number.value, it, equal_nan=True) for it in computed)
    assert (log(1.0).value, exp(0.0).value) == (0, 1)
    for x in rng.uniform(-700, 700, 2000):
        assert exp(x).value == pytest.approx(np.exp(x), rel=4e-16)
        assert log(abs(x)).value == pytest.approx(np.log(abs(x)), rel=4e-16)


def test_a_guard_that_changes_each_step_is_told_once() -> None:
    @rule
    def restless(p, g, *, t, k=1.0):
        return p - g if k == t else p + g

    @rule
    def ladder(p, g, *, t):
        n = 0
        while n < t:
            n += 1
        return p - g / n

    arrays = [np.ones(3, np.float32) for _ in range(2)]
    for t in range(1, 40):
        check(restless, arrays, t=t)

    def climb() -> None:
        for t in range(1, 80):
            check(ladder, arrays, t=t)

    with pytest.warns(UserWarning, match=r"(?s)ladder has been traced 16 times.*while n < t") as told:
        climb()
    assert len(told) == 1


# ---- five states ----


@rule(squares=("c", "e"), start={"d": "param"})
def five(p, g, a, b, c, d, e, *, t, lr=1e-2):
    """As many states as a rule may keep."""
    a = 0.9 * a + 0.1 * g
    b = 0.5 * b - 0.5 * a
    c = 0.9 * c + 0.1 * (g * g)
    d = d - lr * a
    e = maximum(e, c)
    return p - lr * (b / (sqrt(e) + 1e-3)) + 0.01 * (d - p), a, b, c, d, e


def test_as_many_states_as_a_rule_may_keep(target: str) -> None:
    rng = np.random.default_rng(0)
    assert len(five.states) == _C.max_states
    for size in SIZES:
        check(five, [numbers(rng, size, np.float32) for _ in range(7)])


Five = five.optimizer("Five")


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.5, "ema_decay": 0.9}], ids=str)
def test_five_states_in_8_bits(options: dict[str, Any]) -> None:
    """Nothing is written beside its place, and what is stored is what a single state would hold."""
    torch.manual_seed(0)
    start = torch.randn(64, 256)
    param = torch.nn.Parameter(start.clone())
    optimizer = Five([param], state_dtype="int8", **options)
    plain = torch.nn.Parameter(start.clone())
    exact = Five([plain], **options)
    for seed in range(5):
        torch.manual_seed(seed)
        grad = torch.randn_like(param)
        for it, opt in ((param, optimizer), (plain, exact)):
            it.grad = grad.clone()
            opt.step()
    state = optimizer.state[param]
    dtypes = {name: state[name].dtype for name in "abcde"}
    assert dtypes == {
        "a": torch.int8,
        "b": torch.int8,
        "c": torch.uint8,
        "d": torch.float32,
        "e": torch.uint8,
    }
    for name in "abcde":
        whole = state[name]
        if whole.dtype != torch.float32:
            whole = decoded(state, name)
        want = exact.state[plain][name]
        assert (whole - want).abs().max() < 0.1 * want.abs().max()


# ---- around the rule ----

AROUND = [
    {},
    {"max_grad_norm": 0.1, "ema_decay": 0.9},
    {"state_dtype": "int8", "ema_decay": 0.9, "ema_bias_correction": True},
    {"state_dtype": torch.bfloat16, "maximize": True},
]
HALVES = [
    {},
    {"master_weights": True, "max_grad_norm": 1.0},
    {"stochastic_rounding": True},
    {"stochastic_rounding": True, "state_dtype": "int8"},
    {"master_weights": True, "state_dtype": torch.bfloat16, "ema_decay": 0.5},
    {"state_dtype": torch.float32},
]
CASES = [
    *((torch.float32, it) for it in AROUND),
    *((torch.float64, it) for it in AROUND[:2]),
    *((torch.bfloat16, it) for it in HALVES),
    *((torch.float16, it) for it in HALVES[:2]),
]

AdamWRule = adamw.optimizer("AdamWRule")


@pytest.mark.parametrize(("dtype", "options"), CASES, ids=str)
def test_an_optimizer_has_the_bits_of_the_compiled_one(
    target: str, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    """So everything that is stored or done around a rule is the same for programs."""
    shapes = [(3,), (70, 130), (65,), (64, 1100), ()]
    runs = []
    for kind in (AdamWRule, optim.AdamW):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
        optimizer: Any = kind(params, lr=0.02, **options)
        for _ in range(4):
            for param in params:
                param.grad = torch.randn(param.shape).to(dtype)
            optimizer.step()
        assert all(it.path == "fastopt" for it in optimizer.fused_report())
        runs.append((params, optimizer))
    for a, b in zip(*(params for params, _ in runs), strict=True):
        assert torch.equal(a, b)
        ours, compiled = (optimizer.state[it] for (_, optimizer), it in zip(runs, (a, b), strict=True))
        assert ours.keys() == compiled.keys()
        for name in ours:
            assert torch.equal(ours[name], compiled[name]), name


def test_threads_have_the_same_bits(set_threads: Callable[[int], None]) -> None:
    rng = np.random.default_rng(0)
    arrays = [numbers(rng, 300_001, np.float32) for _ in range(4)]
    for threads in (1, 2, 3):
        set_threads(threads)
        check(adamw, arrays, t=7)
