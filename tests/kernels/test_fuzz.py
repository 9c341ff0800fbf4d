"""What runs the fuzzers finds what they are to find: wrong results, crashes, hangs; and goes on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import _fuzz

# Every case has four parts; from 3 on it goes wrong with the second of them.
FAULTY = """
import os, sys, time
sys.path.insert(0, {tests!r})
import _fuzz

_fuzz.SECONDS = 1

def attempt(seed, parts, log):
    for name, _ in parts:
        log(name)
    if seed == 3 and ("b", 1) in parts:
        raise AssertionError("a wrong bit")
    if seed == 5:
        os.abort()
    if seed == 6:
        time.sleep(60)
    return "even" if seed % 2 == 0 else "odd"

draw = lambda random: [("a", 0), ("b", 1), ("c", 2), ("b", 3)]
_fuzz.main(_fuzz.Fuzzer(draw, attempt), sys.argv[1:])
"""


@pytest.fixture
def faulty(tmp_path: Path) -> str:
    file = tmp_path / "faulty.py"
    file.write_text(FAULTY.format(tests=str(Path(_fuzz.__file__).parent)))
    return str(file)


def test_what_goes_well_is_counted(faulty: str) -> None:
    assert _fuzz.run(faulty, 0, 3) == (Counter(even=2, odd=1), "")


def test_wrong_results_crashes_and_hangs_are_told_with_what_led_to_them(faulty: str) -> None:
    outcomes, failures = _fuzz.run(faulty, 0, 9)
    assert outcomes == Counter(even=1, odd=1, wrong=3)  # of the last process alone, and the failures
    assert "case 3:\n  b\n" in failures, "the parts that it needs"
    assert "AssertionError: a wrong bit" in failures
    assert "case 5 ended the process (-6):\n  a\n  b\n  c\n  b\n" in failures
    assert "case 6 ended the process (1):" in failures
    assert "Timeout (0:00:01)!" in failures


def test_a_block_with_too_few_of_an_outcome_fails(faulty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fuzz, "CALLS", 3)
    _fuzz.check(faulty, 0, {"odd": 0.3})
    with pytest.raises(AssertionError, match=r"odd: \{'even': 2, 'odd': 1\}"):
        _fuzz.check(faulty, 0, {"odd": 0.5})
    monkeypatch.setattr(_fuzz, "CALLS", 4)
    with pytest.raises(AssertionError, match=r"python faulty\.py CASE"):
        _fuzz.check(faulty, 0, {})
