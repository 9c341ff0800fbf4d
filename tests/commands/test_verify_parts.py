"""The parts of `python -m fastopt verify`: its table of rules, its inputs, its comparison."""

import inspect
from typing import Any

import ml_dtypes  # noqa: F401  names bfloat16 to NumPy
import numpy as np
import pytest
import torch

from fastopt import reference
from fastopt.verify.accuracy import Accuracy
from fastopt.verify.cases import RULES, Rule
from fastopt.verify.compare import differing
from fastopt.verify.dropout import FORMS
from fastopt.verify.memory import ALIGNED, EDGES, Block, Layout, crowd, edges, single
from fastopt.verify.pools import KINDS, Pools, draw
from fastopt.verify.run import DTYPES
from fastopt.verify.storage import MIXES, Storage

NAMES = [rule.name for rule in RULES]


# The table


def test_every_rule_is_in_the_table() -> None:
    parts = {
        "power",
        "nadam_mu",
        "grad_norm",
        "clip_factor",
        "unscaled",
        "ema",
    }  # of a step, but no rules
    parts |= {"corrected_ema", "lbfgs", "lbfgs_direction", "LBFGSMemory", "newton_step"}
    parts |= {"philox4x32", "to_bfloat16", "from_bfloat16"}  # of dropout
    forms = {form.function for form in FORMS}
    assert sorted(NAMES) == sorted(set(reference.__all__) - parts - forms)
    assert forms == {name for name in reference.__all__ if "dropout" in name}


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_the_table_knows_every_argument(rule: Rule) -> None:
    parameters = inspect.signature(getattr(reference, rule.name)).parameters.values()
    arrays = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [state.name for state in rule.states] == [p.name for p in arrays[2:]]
    options = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"step", "as_stored"}
    assert options == {*rule.choices, *rule.numbers}


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_exactly_the_allowed_combinations_are_in_the_table(rule: Rule) -> None:
    """Every combination that the rule takes is allowed, but for those that repeat another."""
    everything = Rule(rule.name, rule.optimizer, rule.choices, {})
    ones = [np.ones(1) for _ in range(2 + len(rule.states))]
    for options in everything.combinations():
        idle = (not options.get("momentum", 1) and options.get("dampening")) or (
            not options["weight_decay"]
            and (options.get("decoupled_weight_decay") or options.get("cautious_decay"))
        )
        try:
            getattr(reference, rule.name)(*ones, **options)
        except ValueError:
            assert not rule.allowed(options)
        else:
            assert rule.allowed(options) or idle


# The parts


def test_nans_are_equal_and_zeros_are_not() -> None:
    got = np.array([0x7FC00000, 0xFFC00123, 0x80000000, 0x3F800000, 0x7F800000], np.uint32)
    want = np.array([0x7FC00001, 0x7FC00000, 0x00000000, 0x7FC00000, 0x7F7FFFFF], np.uint32)
    places, bits = differing(got.view(np.float32), want.view(np.float32))
    assert places.tolist() == [2, 3, 4]
    assert bits == sum(int(got[i] ^ want[i]).bit_count() for i in (2, 3, 4))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kinds_of_numbers(dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(1)
    numbers = {kind: draw(kind, 1000, dtype, rng) for kind in KINDS}
    assert all(array.dtype == dtype for array in numbers.values())
    for array in numbers.values():
        assert 400 < np.signbit(array).sum() < 600
    smallest = np.finfo(dtype).smallest_normal
    denormal = np.abs(numbers["denormal"])
    assert np.all((denormal > 0) & (denormal <= 2 * smallest))
    assert (denormal < smallest).sum() > 300
    decades = np.log10(np.abs(numbers["extreme"]))
    limit = {"float32": 38, "float64": 308}[dtype.name]
    assert -limit <= decades.min() < -0.95 * limit
    assert 0.95 * limit < decades.max() <= limit
    for pool in (Pools(dtype, 0).mixed, Pools(dtype, 0).runs):
        assert set(pool.kinds.tolist()) == set(range(len(KINDS)))


def starts(layout: Layout) -> set[int]:
    return {piece.start % ALIGNED for piece in layout.pieces}


def test_layouts() -> None:
    rng = np.random.default_rng(2)
    small = edges((1, 10), rng, offsets=4)
    assert sorted({piece.size for piece in small.pieces}) == sorted(EDGES)
    assert starts(small) == {0, 1, 2, 3}
    assert {piece.step for piece in small.pieces} == {1, 10}
    assert starts(single(70001, (1,), rng)) <= {1, 2, 3}
    many = crowd((1, 2, 1000), rng)
    assert many.inside.sum() > 65536
    for layout in (small, many):
        assert layout.inside.sum() == sum(piece.size for piece in layout.pieces)
        for piece in layout.pieces:  # a gap before and after
            assert not layout.inside[piece.start - 1]
            assert not layout.inside[piece.start + piece.size : piece.start + piece.size + 1].any()
            assert [
                step
                for begin, end, step in layout.segments
                if begin <= piece.start and piece.start + piece.size <= end
            ] == [piece.step]


def test_block() -> None:
    dtypes = {"param": np.dtype(np.float32), "grad": np.dtype(np.uint16)}
    block = Block(100, {"param": 0, "grad": 3}, dtypes)
    assert {name: array.dtype for name, array in block.arrays.items()} == dtypes
    assert block["param"].ctypes.data % 64 == 0
    assert block["grad"].ctypes.data % 64 == 6
    other = block.copy()
    other["grad"][7] = 1
    assert not any(memory.any() for memory in block.memory.values())
    assert np.flatnonzero(other.memory["grad"]).tolist() == [7 + 3]
    block.assign(other)
    assert block["grad"][7] == 1
    assert all(len(memory) > 103 for memory in block.memory.values())


@pytest.mark.parametrize("name", ["float32", "float64", "bfloat16", "float16"])
def test_storage(name: str) -> None:
    storage, native = Storage(name), np.dtype(name)  # ml_dtypes has named its type
    bits = np.random.default_rng(3).integers(0, 1 << 16, 1000).astype(storage.bits)
    stored, expected = bits.view(storage.dtype), bits.view(native)
    assert storage.compute == (np.float64 if name == "float64" else np.float32)
    numbers = storage.numbers(stored)
    assert numbers.dtype == storage.compute
    with np.errstate(invalid="ignore"):
        assert differing(numbers, expected.astype(storage.compute))[1] == 0
    assert differing(storage.visible(stored), storage.visible(storage.rounded(numbers)))[1] == 0
    tensor = storage.tensor(stored)
    assert tensor.dtype == getattr(torch, name)
    assert tensor.data_ptr() == stored.ctypes.data
    assert np.shares_memory(storage.of_tensor(tensor), stored)
    third = np.linspace(-1e5, 1e5, 999, dtype=storage.compute)
    with np.errstate(over="ignore"):
        assert storage.rounded(third).tobytes() == third.astype(native).tobytes()


def test_mixes() -> None:
    """Every type stands in every place, and none of a column's mixes is of one type."""
    for mix in MIXES:
        assert len({mix.param, mix.grad, *mix.states}) > 1
        assert mix.storage("ema").name == "float32"
    for place in ("param", "grad", "states"):
        found = {name for mix in MIXES for name in np.atleast_1d(getattr(mix, place)).tolist()}
        assert found == {"float32", "bfloat16", "float16"}


def test_pools_of_16_bits() -> None:
    """The same kinds at the same places; rounding keeps what is denormal and what is infinite."""
    pool, rng = Pools(np.dtype(np.float32), 0).mixed, np.random.default_rng(4)
    for name in ("bfloat16", "float16"):
        storage = Storage(name)
        numbers = storage.numbers(pool.values[name])
        for kind, test in (("nan", np.isnan), ("infinite", np.isinf), ("zero", lambda x: x == 0)):
            assert test(numbers[pool.kinds == KINDS.index(kind)]).all()
        smallest = {"bfloat16": 2.0**-126, "float16": 2.0**-14}[name]
        denormal = np.abs(numbers[pool.kinds == KINDS.index("denormal")])
        assert ((denormal > 0) & (denormal < smallest)).mean() > 0.3
        extreme = np.abs(numbers[pool.kinds == KINDS.index("extreme")])
        assert np.isfinite(extreme).mean() > 0.99
        square, _ = pool.cut(storage, 640, True, rng)
        negative = np.signbit(storage.numbers(square))
        assert np.all(np.flatnonzero(negative) % 64 == 63)


def test_accuracy() -> None:
    """Of x - y in float32, where it does not cancel: half an ulp."""

    def step(arrays: Any, number: int) -> dict[str, Any]:
        return {"param": arrays["param"] - arrays["grad"]}

    x = np.linspace(1, 2, 4096, dtype=np.float32)
    arrays = {"param": x, "grad": np.roll(x, 3) / 3}
    accuracy = Accuracy(step, arrays, [(0, len(x), 1)], np.arange(len(x)))
    assert 0.4 < accuracy.error(step(arrays, 1)) <= 0.5
    assert accuracy.error({"param": np.nextafter(step(arrays, 1)["param"], np.float32(9))}) > 1
