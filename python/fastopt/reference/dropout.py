"""Inverted dropout: each element is kept or dropped by a random number that only its place decides.

Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014, Dropout: a simple way to prevent
neural networks from overfitting; scaled at training time.
Salmon, Moraes, Dror & Shaw 2011, Parallel random numbers: as easy as 1, 2, 3: Philox.
Klambauer, Unterthiner, Mayr & Hochreiter 2017, Self-normalizing neural networks: alpha dropout.

All forms share these terms.

Draws. Element i of an array, in C order, has a draw of 16 bits: number i' mod 8 of Philox block
    i' div 8, where i' = index + i. A block's four 32-bit words give two draws each, the low half
    first. Philox's key is the seed, its counter the number of the block and the offset.
Threshold. An element is kept if its draw is below T = (1 − p) 2¹⁶, rounded to a whole number (ties
    to even). So the rate of keeping is q = T / 2¹⁶, within 2⁻¹⁷ = 7.6e-6 of 1 − p.
Scale. Kept elements are multiplied by s = 1 / q, in double and rounded once, which leaves the
    expectation as it was for the q that is in effect. p = 1 gives zeros, p so small that q = 1
    gives x.
Arithmetic. In the array's dtype, float32 or float64; float16 and bfloat16 (of ml_dtypes) are
    computed in float32 and rounded once, to nearest even. Dropped elements are +0, whatever x is.
Seed, offset, index. Whole numbers: `seed` from −2⁶³ to 2⁶⁴ − 1, in two's complement; `offset` from 0
    to 2⁵⁶ − 1 (the top byte of the counter names what the numbers are for, 0 for dropout); `index`
    of the first element, so that a part of an array draws what the whole would.
Errors. TypeError for a value of the wrong kind; ValueError for one out of range.
"""

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .storage import is_bfloat16, narrow, widen

Array: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]

DRAW_BITS = 16
DRAWS_PER_BLOCK = 8
SELU_SATURATION = -1.7580993408473766  # −λα: what SELU tends to at −∞


def philox4x32(counter: Sequence[Any], key: Sequence[Any], rounds: int = 10) -> npt.NDArray[np.uint32]:
    """Philox4x32: four random words for each counter.

    With c the counter's words and k the key's, a round is

        a = 0xD2511F53 c₀    c₀' = hi(b) ⊕ c₁ ⊕ k₀    c₁' = lo(b)    k₀' = k₀ + 0x9E3779B9
        b = 0xCD9E8D57 c₂    c₂' = hi(a) ⊕ c₃ ⊕ k₁    c₃' = lo(a)    k₁' = k₁ + 0xBB67AE85

    where hi and lo are the halves of a product of 64 bits and sums are modulo 2³².

    Args:
        counter: four words, each a number or an array below 2³²; they broadcast.
        key: two words, likewise.

    Returns:
        uint32, of the broadcast shape and 4.
    """
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = (np.asarray(word, np.uint64) for word in key)
    for _ in range(rounds):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (b >> half) ^ c1 ^ k0, b & low, (a >> half) ^ c3 ^ k1, a & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), -1).astype(np.uint32)


def dropout_mask(
    shape: int | Sequence[int], p: float, *, seed: int, offset: int = 0, index: int = 0
) -> Mask:
    """Which elements of an array are kept: m = (draw < T)."""
    shape = (operator.index(shape),) if not isinstance(shape, Sequence) else tuple(shape)
    threshold = keep_threshold(p)
    draws = draw(math.prod(shape), seed=seed, offset=offset, index=index)
    return (draws < threshold).reshape(shape)


def dropout(x: Array, p: float, *, seed: int, offset: int = 0, index: int = 0) -> Array:
    """Dropout of x: y = m ? s x : 0."""
    return bias_dropout_add(x, None, None, p, seed=seed, offset=offset, index=index)


@np.errstate(all="ignore")
def bias_dropout_add(
    x: Array,
    bias: Array | None,
    residual: Array | None,
    p: float,
    *,
    seed: int,
    offset: int = 0,
    index: int = 0,
) -> Array:
    """Dropout between a linear layer's bias and a residual: y = residual + (m ? s (x + bias) : 0).

    Args:
        bias: like x's last dimension; or None for no such addition.
        residual: like x; or None, likewise.
    """
    check_arrays(x, bias=(bias, x.shape[-1:] or (1,)), residual=(residual, x.shape))
    kept = dropout_mask(x.shape, p, seed=seed, offset=offset, index=index)
    y = widen(x)
    T = y.dtype.type
    if bias is not None:
        y = y + widen(bias)
    y = np.where(kept, T(keep_scale(keep_threshold(p))) * y, T(0))
    if residual is not None:
        y = widen(residual) + y
    return narrow(y, x.dtype).reshape(x.shape)


@np.errstate(all="ignore")
def relu_dropout(x: Array, p: float, *, seed: int, offset: int = 0, index: int = 0) -> Array:
    """Dropout of max(x, 0): y = m and not x ≤ 0 ? s x : 0. A NaN that is kept stays."""
    check_arrays(x)
    kept = dropout_mask(x.shape, p, seed=seed, offset=offset, index=index)
    wide = widen(x)
    T = wide.dtype.type
    y = np.where(kept & ~(wide <= 0), T(keep_scale(keep_threshold(p))) * wide, T(0))
    return narrow(y, x.dtype)


@np.errstate(all="ignore")
def dropout_rows(
    x: Array, inner: int, p: float, *, seed: int, offset: int = 0, index: int = 0
) -> Array:
    """Dropout by rows of `inner` elements: element i has the draw of index + i div inner.

    Channel dropout of (N, C, H, W) has inner = H W; stochastic depth (Huang et al. 2016), which drops
    whole samples of a batch, has all but the first dimension.
    """
    check_arrays(x)
    inner = whole("inner", inner, 1, 2**63, ">= 1")
    rows = dropout_mask(-(-x.size // inner), p, seed=seed, offset=offset, index=index)
    kept = np.repeat(rows, min(inner, x.size))[: x.size].reshape(x.shape)
    wide = widen(x)
    T = wide.dtype.type
    return narrow(np.where(kept, T(keep_scale(keep_threshold(p))) * wide, T(0)), x.dtype)


@np.errstate(all="ignore")
def alpha_dropout(x: Array, p: float, *, seed: int, offset: int = 0, index: int = 0) -> Array:
    """Dropout that keeps mean 0 and variance 1: y = m ? a x + b : c.

    Dropped elements become α' = −λα of SELU; a and b then restore mean and variance:

        a = (q (1 + (1 − q) α'²))^(−1/2)    b = −a (1 − q) α'    c = a α' + b
    """
    check_arrays(x)
    threshold = keep_threshold(p)
    if threshold in (0, 1 << DRAW_BITS):
        return dropout(x, p, seed=seed, offset=offset, index=index)
    kept = dropout_mask(x.shape, p, seed=seed, offset=offset, index=index)
    wide = widen(x)
    T = wide.dtype.type
    a, b, c = (T(value) for value in alpha_scalars(threshold))
    return narrow(np.where(kept, a * wide + b, c), x.dtype)


# ---- the terms ------------------------------------------------------------------------------------


def keep_threshold(p: float) -> int:
    """T: draws below it are kept. 0 keeps none, 65536 all."""
    if not isinstance(p, Real):
        raise TypeError(f"p: expected a number from 0 to 1, got {p!r}")
    if not 0 <= p <= 1:
        raise ValueError(f"p: expected a number from 0 to 1, got {p!r}")
    return round((1 - float(p)) * 2**DRAW_BITS)


def keep_scale(threshold: int) -> float:
    """s = 1 / q; 0 where nothing is kept."""
    return 2**DRAW_BITS / threshold if threshold else 0.0


def alpha_scalars(threshold: int) -> tuple[float, float, float]:
    """a, b and c of alpha dropout."""
    q = threshold / 2**DRAW_BITS
    a = 1 / math.sqrt(q * (1 + (1 - q) * (SELU_SATURATION * SELU_SATURATION)))
    b = -a * (1 - q) * SELU_SATURATION
    return a, b, a * SELU_SATURATION + b


def draw(count: int, *, seed: int, offset: int, index: int) -> npt.NDArray[np.uint16]:
    """The draws of elements index to index + count."""
    words = words_behind(
        count, DRAWS_PER_BLOCK, seed=seed, offset=offset, index=index, domain=0, rounds=10
    )
    start = index % DRAWS_PER_BLOCK
    return halves(words)[start : start + count]


def words_behind(
    count: int, per_block: int, *, seed: int, offset: int, index: int, domain: int, rounds: int
) -> npt.NDArray[np.uint32]:
    """The blocks of which elements index to index + count take draws, `per_block` each: four words."""
    seed = whole("seed", seed, -(2**63), 2**64, "from -2**63 to 2**64 - 1") % 2**64
    offset = whole("offset", offset, 0, 2**56, "from 0 to 2**56 - 1") | domain << 56
    accepted = ">= 0 such that all draws have indices below 2**63"
    index = whole("index", index, 0, 2**63 - count, accepted)
    first, last = index // per_block, -(-(index + count) // per_block)
    block = np.arange(last - first, dtype=np.uint64) + np.uint64(first)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    return philox4x32(
        (block & low, block >> half, offset & 0xFFFFFFFF, offset >> 32),
        (seed & 0xFFFFFFFF, seed >> 32),
        rounds,
    )


def halves(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint16]:
    """Each word's two, the low one first, in one row."""
    return words.astype("<u4").reshape(-1).view("<u2").astype(np.uint16)


# ---- checks ---------------------------------------------------------------------------------------


def whole(name: str, value: Any, first: int, end: int, accepted: str) -> int:
    """The value as an int in [first, end)."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number {accepted}, got {value!r}") from None
    if not first <= number < end:
        raise ValueError(f"{name}: expected a whole number {accepted}, got {value!r}")
    return number


def check_arrays(x: Array, **others: tuple[Array | None, tuple[int, ...]]) -> None:
    """Check dtypes, and the shape that each of the others must have."""
    for name, array, shape in (("x", x, None), *((n, a, s) for n, (a, s) in others.items())):
        if array is None and name != "x":
            continue
        if type(array) is not np.ndarray:
            raise TypeError(f"{name}: expected a numpy.ndarray, got {type(array).__name__}")
        if array.dtype not in (np.float16, np.float32, np.float64) and not is_bfloat16(array.dtype):
            raise TypeError(
                f"{name}: expected float32, float64, float16 or bfloat16, got {array.dtype}"
            )
        if array.dtype != x.dtype:
            raise TypeError(f"{name}: expected {x.dtype} like x, got {array.dtype}")
        if shape is not None and array.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
