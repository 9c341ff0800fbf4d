"""The reference of dropout is what its documents say: known answers, formulas, storage types."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from _dropout_cases import DTYPES, RATES, assert_same, bfloat16, known_answers, values
from fastopt import reference

ONE = np.ones(4, np.float32)

# ---- random numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [7, 10])
def test_known_answers(rounds: int) -> None:
    lines = known_answers(rounds)
    for line in lines:
        assert reference.philox4x32(line[:4], line[4:6], rounds).tolist() == line[6:]
    columns = np.array(lines).T  # all at once
    assert np.array_equal(reference.philox4x32(columns[:4], columns[4:6], rounds), columns[6:].T)


def draws(count: int, seed: int, offset: int, index: int) -> list[int]:
    """The definition, one element at a time."""
    found = []
    for i in range(index, index + count):
        block, place = divmod(i, 8)
        counter = [block % 2**32, block >> 32, offset % 2**32, offset >> 32]
        word = reference.philox4x32(counter, [seed % 2**32, seed % 2**64 >> 32])[place // 2]
        found.append(int(word) >> 16 * (place % 2) & 0xFFFF)
    return found


@pytest.mark.parametrize("index", [0, 5, 2**35 - 9, 2**63 - 21])
@pytest.mark.parametrize(
    ("seed", "offset"), [(0, 0), (2**64 - 1, 2**56 - 1), (-1, 1), (-(2**63), 2**32)]
)
def test_an_element_takes_its_draw(seed: int, offset: int, index: int) -> None:
    for p in (0.1, 0.5):
        mask = reference.dropout_mask(20, p, seed=seed, offset=offset, index=index)
        threshold = round((1 - p) * 65536)
        assert mask.tolist() == [d < threshold for d in draws(20, seed, offset, index)]


def test_a_negative_seed_is_its_twos_complement() -> None:
    masks = [reference.dropout_mask(1000, 0.5, seed=seed) for seed in (-3, 2**64 - 3, 3)]
    assert np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


def test_rows_share_a_draw() -> None:
    x = np.ones((3, 5, 7), np.float32)
    kept = reference.dropout_rows(x, 7, 0.5, seed=1, index=3) != 0
    rows = reference.dropout_mask((3, 5), 0.5, seed=1, index=3)
    assert np.array_equal(kept, np.repeat(rows[..., None], 7, -1))
    ragged = reference.dropout_rows(np.ones(10), 4, 0.5, seed=1)
    assert np.array_equal(ragged != 0, np.repeat(reference.dropout_mask(3, 0.5, seed=1), 4)[:10])


# ---- thresholds and scales ------------------------------------------------------------------------


@pytest.mark.parametrize("p", [*RATES, 1 / 3, 0.3, 2**-17, 3 * 2**-17, 5e-324])
def test_the_effective_rate(p: float) -> None:
    """Kept elements times the scale have the expectation of x, for a rate within 2^-17 of 1 - p."""
    threshold = round(Fraction(1 - p) * 65536)  # ties to even
    assert abs(Fraction(threshold, 65536) - (1 - Fraction(p))) <= Fraction(1, 2**17) + Fraction(
        1, 2**53
    )
    x = np.linspace(1, 2, 1000)
    y = reference.dropout(x, p, seed=3)
    kept = reference.dropout_mask(1000, p, seed=3)
    if threshold == 0:
        assert not kept.any()
    else:
        assert_same(y, np.where(kept, x * (65536 / threshold), 0))
    assert y[~kept].tobytes() == bytes(8 * int((~kept).sum()))
    if threshold == 65536:
        assert y.tobytes() == x.tobytes()


def test_what_is_dropped_is_positive_zero() -> None:
    x = np.array([np.nan, np.inf, -np.inf, -1.0, -0.0] * 20, np.float32)
    for y in (reference.dropout(x, 1, seed=0), reference.relu_dropout(x, 1, seed=0)):
        assert y.tobytes() == bytes(y.nbytes)
    kept = reference.dropout_mask(100, 0.5, seed=0)
    y = reference.dropout(x, 0.5, seed=0)
    assert y[~kept].tobytes() == bytes(4 * int((~kept).sum()))
    assert_same(y[kept], (x * np.float32(2))[kept])


# ---- forms ----------------------------------------------------------------------------------------


def test_forms_agree_with_torch() -> None:
    random = np.random.default_rng(0)
    x, residual = random.standard_normal((2, 30, 50))
    bias = random.standard_normal(50)
    keyed = {"seed": 4, "offset": 9}
    kept = reference.dropout_mask(x.shape, 0.3, **keyed)
    scale = 65536 / round(0.7 * 65536)
    assert_same(
        reference.bias_dropout_add(x, bias, residual, 0.3, **keyed),
        residual + np.where(kept, scale * (x + bias), 0),
    )
    relu = torch.relu(torch.from_numpy(x)).numpy()
    assert np.array_equal(reference.relu_dropout(x, 0.3, **keyed), np.where(kept, scale * relu, 0))
    nan = np.array([np.nan, -np.nan])
    assert np.isnan(reference.relu_dropout(nan, 0, **keyed)).all()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_alpha_dropout_keeps_mean_and_variance(p: float) -> None:
    x = np.random.default_rng(1).standard_normal(1_000_000)
    y = reference.alpha_dropout(x, p, seed=1)
    assert abs(y.mean()) < 0.01
    assert abs(y.var() - 1) < 0.01
    q = round((1 - p) * 65536) / 65536  # torch's scalars, for its own rate
    alpha = -1.7580993408473766
    a = 1 / math.sqrt((alpha**2 * (1 - q) + 1) * q)
    kept = reference.dropout_mask(x.shape, p, seed=1)
    expected = np.where(kept, a * x - a * alpha * (1 - q), alpha * a - alpha * a * (1 - q))
    np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-15)


def test_alpha_dropout_of_all_and_of_nothing() -> None:
    x = np.array([1.0, -2.0, -0.0, 3.0], np.float32)
    assert reference.alpha_dropout(x, 1, seed=0).tobytes() == bytes(16)
    assert reference.alpha_dropout(x, 0, seed=0).tobytes() == x.tobytes()
    zeros = torch.nn.functional.alpha_dropout(torch.from_numpy(x), 1.0, training=True)
    assert not zeros.any()  # torch agrees, but for the sign of a zero


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shapes_and_dtypes_stay(dtype: np.dtype[Any]) -> None:
    for shape in ((), (0,), (3,), (2, 0, 3), (2, 3, 4)):
        x = np.ones(shape, dtype)
        for y in (reference.dropout(x, 0.5, seed=1), reference.alpha_dropout(x, 0.5, seed=1)):
            assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert reference.dropout_mask((2, 3), 0.5, seed=1).shape == (2, 3)
    assert reference.dropout_mask(5, 0.5, seed=1).shape == (5,)


# ---- storage --------------------------------------------------------------------------------------


def every_kind_of_float32() -> np.ndarray:
    """Random bits, and every bfloat16 and its neighbours and halves: ties, carries, the top."""
    random = np.random.default_rng(2)
    upper = np.arange(2**16, dtype=np.uint32)[:, None] << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    bits = np.concatenate([(upper | lower).ravel(), random.integers(0, 2**32, 10**5, np.uint32)])
    return bits.view(np.float32)


def test_bfloat16_rounds_as_torch_does() -> None:
    x = every_kind_of_float32()
    ours = reference.to_bfloat16(x)
    theirs = torch.from_numpy(x).bfloat16().view(torch.uint16).numpy()
    nan = np.isnan(x)
    assert np.array_equal(ours[~nan], theirs[~nan])
    assert np.isnan(reference.from_bfloat16(ours[nan])).all()
    assert (ours[nan] & 0x40).all(), "quiet"


def test_bfloat16_and_back() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    x = reference.from_bfloat16(bits)
    nan = np.isnan(x)
    assert np.array_equal(reference.to_bfloat16(x)[~nan], bits[~nan])
    if bfloat16 is not None:
        assert_same(x, bits.view(bfloat16).astype(np.float32))
    assert reference.to_bfloat16(np.float32(1.5).reshape(())).shape == ()
    with pytest.raises(TypeError, match="float32, not float64"):
        reference.to_bfloat16(np.ones(3))
    with pytest.raises(TypeError, match="uint16, not uint8"):
        reference.from_bfloat16(np.ones(3, np.uint8))


def test_numpys_float16_rounds_to_nearest_even() -> None:
    x = np.concatenate([every_kind_of_float32(), np.float32([65519.99, 65520, 2**-25, 3 * 2**-26])])
    with np.errstate(over="ignore", under="ignore"):
        ours = x.astype(np.float16)
    theirs = torch.from_numpy(x).half().numpy()
    assert_same(ours, theirs)


def test_half_precision_is_computed_in_single() -> None:
    random = np.random.default_rng(3)
    for dtype in DTYPES[2:]:
        x = values(random, 1000, dtype)
        wide = reference.dropout(x.astype(np.float32), 0.1, seed=1)
        with np.errstate(over="ignore", under="ignore"):
            assert_same(reference.dropout(x, 0.1, seed=1), wide.astype(dtype))


# ---- refusals -------------------------------------------------------------------------------------

CALLS: dict[str, Any] = {
    "dropout": lambda **o: reference.dropout(ONE, **o),
    "dropout_mask": lambda **o: reference.dropout_mask(4, **o),
    "relu_dropout": lambda **o: reference.relu_dropout(ONE, **o),
    "alpha_dropout": lambda **o: reference.alpha_dropout(ONE, **o),
    "dropout_rows": lambda **o: reference.dropout_rows(ONE, 2, **o),
    "bias_dropout_add": lambda **o: reference.bias_dropout_add(ONE, None, None, **o),
}
WRONG: list[tuple[str, Any, type[Exception]]] = [
    *(("p", p, ValueError) for p in (-1e-9, 1.1, math.nan, math.inf)),
    *(("p", p, TypeError) for p in ("0.5", None, 1j)),
    *(("seed", seed, ValueError) for seed in (2**64, -(2**63) - 1)),
    *(("seed", seed, TypeError) for seed in (1.0, "1", None)),
    *(("offset", offset, ValueError) for offset in (-1, 2**56)),
    *(("offset", offset, TypeError) for offset in (0.5, None)),
    *(("index", index, ValueError) for index in (-1, 2**63)),
    ("index", 1.5, TypeError),
]


@pytest.mark.parametrize(("name", "wrong", "error"), WRONG)
@pytest.mark.parametrize("call", CALLS)
def test_wrong_numbers(call: str, name: str, wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^{name}: expected .*, got "):
        CALLS[call](**{"p": 0.5, "seed": 0, name: wrong})


def test_wrong_arrays() -> None:
    add = reference.bias_dropout_add
    for wrong in ([1.0], np.ones(2, int), np.ones(2, complex), np.ma.ones(2), 1.0):
        with pytest.raises((TypeError, AttributeError)):
            reference.dropout(wrong, 0.5, seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^bias: expected shape"):
        add(ONE, np.ones(3, np.float32), None, 0.5, seed=0)
    with pytest.raises(ValueError, match=r"^residual: expected shape"):
        add(ONE, None, np.ones((2, 2), np.float32), 0.5, seed=0)
    with pytest.raises(TypeError, match=r"^bias: expected float32 like x"):
        add(ONE, np.ones(4), None, 0.5, seed=0)
    for wrong_inner, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError)):
        with pytest.raises(error, match=r"^inner: expected"):
            reference.dropout_rows(ONE, wrong_inner, 0.5, seed=0)  # type: ignore[arg-type]
