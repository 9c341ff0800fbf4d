"""Arithmetic of Numbers: doubles, as csrc/numeric/elementary.h and bindings/traced.cpp have them.

Where Python raises, these give the infinity or NaN of IEEE 754.
"""

from __future__ import annotations

import math

from fastopt.reference import power

LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")  # ln 2, its first 32 bits
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")  # and the rest


def divide(a: float, b: float) -> float:
    """a / b."""
    if b != 0:
        return a / b
    return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1.0, b)


def root(x: float) -> float:
    """The square root; NaN of what is less than 0."""
    return math.sqrt(x) if not x < 0 else math.nan


def remainder(a: float, b: float) -> float:
    """a - floor(a / b) b, as ``%`` of Python's floats."""
    return a % b if b != 0 and math.isfinite(a) else math.nan


def maximum(a: float, b: float) -> float:
    """The larger one; NaN if either is."""
    return a if a >= b or a != a else b


def minimum(a: float, b: float) -> float:
    """The smaller one; NaN if either is."""
    return a if b >= a or a != a else b


def exponential(x: float) -> float:
    """e ** x, right to a few ulp: x = k ln 2 + r and a series in r."""
    if x != x:
        return x
    if x > 710:
        return math.inf
    if x < -746:
        return 0.0
    k = int(x * float.fromhex("0x1.71547652b82fep+0") + (-0.5 if x < 0 else 0.5))
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    series = 1.0
    for i in range(14, 0, -1):
        series = 1 + r / i * series
    half = int(k / 2)
    return series * 2.0**half * 2.0 ** (k - half)


def logarithm(x: float) -> float:
    """ln x, right to a few ulp: x = 2**e m with m near 1 and a series in (m - 1) / (m + 1)."""
    if not x > 0:
        return -math.inf if x == 0 else math.nan
    if x == math.inf:
        return x
    m, e = math.frexp(x)
    m, e = 2 * m, e - 1
    if m > 1.4142135623730951:
        m, e = 0.5 * m, e + 1
    s = (m - 1) / (m + 1)
    square = s * s
    series = 0.0
    for i in range(23, 1, -2):
        series = (series + 1.0 / i) * square
    return e * LN2_HIGH + (e * LN2_LOW + (2 * s + 2 * s * series))


def power_of(base: float, exponent: float) -> float:
    """base ** exponent: by squaring for a whole exponent, else by `exponential` and `logarithm`."""
    size = abs(exponent)
    if size <= 2**53 and size == int(size):
        whole = power(base, int(size))
        return divide(1.0, whole) if exponent < 0 else whole
    return exponential(exponent * logarithm(base))
