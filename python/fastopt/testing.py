"""For the tests of other packages: is every bit of a rule right?

from fastopt.testing import assert_rule

def test_adopt() -> None:
    assert_rule(mypackage.adopt)
"""

from __future__ import annotations

from fastopt.rules import Rule
from fastopt.verify.compare import Report
from fastopt.verify.run import Plan, supported_targets, verify

__all__ = ["assert_rule", "verify_rule"]


def verify_rule(rule: Rule, *, quick: bool = True, seed: int = 0) -> Report:
    """Compare a rule's programs with the function itself, bit for bit.

    On every CPU target of this machine, in float32, float64, bfloat16, float16 and mixes, and what its
    optimizer stores under masters, random rounding and 8-bit states; on random, extreme, denormal,
    zero, infinite and NaN numbers, at several steps and thread counts.

    Args:
        rule: what ``@rule`` made.
        quick: seconds; else every choice of options in every storage.
        seed: of the inputs.

    Returns:
        What was compared: ``elements``, ``wrong_bits``, ``examples``.
    """
    return verify(Plan(rules=(), targets=supported_targets(), seed=seed, quick=quick, programs=(rule,)))


def assert_rule(rule: Rule, *, quick: bool = True, seed: int = 0) -> None:
    """AssertionError, with the first wrong elements, unless :func:`verify_rule` finds all right."""
    report = verify_rule(rule, quick=quick, seed=seed)
    if report.wrong_bits:
        shown = "\n".join(str(it) for it in report.examples[:3])
        raise AssertionError(f"{rule.__name__}: {report.wrong_bits:,} wrong bits\n{shown}")
    assert report.elements > 0
