"""Each check can fail: an optimizer with that fault planted fails it, and no others."""

from typing import Any

import pytest
import torch
from _mutants import MUTANTS, Right, Short

from fastopt.audit import CHECKS, audit
from fastopt.audit.checks import places
from fastopt.audit.model import known_rules
from fastopt.audit.run import ask
from fastopt.audit.subject import Subject, settings_kept

DTYPES = (torch.float32, torch.bfloat16)
LONG = {"late_steps", "averages_in_16_bits", "leaks", "thread_counts", "repeated_runs"}  # seconds


def failures(kind: Any, checks: list[str]) -> dict[str, str]:
    """The checks that an optimizer fails, with what they say."""
    report = audit(kind, "adamw", dtypes=DTYPES, checks=checks)
    return {it.check: it.detail for it in report.answers if it.status == "failed"}


def test_every_check_has_a_mutant() -> None:
    assert MUTANTS.keys() | {"huge_tensors"} == CHECKS.keys()
    for name, check in CHECKS.items():
        assert check.loss.endswith("."), name


def test_what_is_right_passes_all() -> None:
    report = audit(Right, "adamw", dtypes=DTYPES)
    assert {it.check: it.detail for it in report.answers if it.status == "failed"} == {}
    # Asked of tensors of gigabytes, and of updates that are smaller than bfloat16's rounding.
    unasked = [name for name in CHECKS if report.status(name) == "n/a"]
    assert unasked == ["decay_of_16_bits", "huge_tensors"]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    others = [it for it in CHECKS if it not in LONG or it in (name, *mutant.also)]
    found = failures(mutant.kind, others)
    assert name in found
    assert found.keys() <= {name, *mutant.also}, found


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fails_no_long_check(name: str) -> None:
    mutant = MUTANTS[name]
    found = failures(mutant.kind, sorted(LONG))
    assert found.keys() <= {name, *mutant.also}, found


def test_elements_beyond_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of 2**31 elements, on fewer."""
    monkeypatch.setattr(places, "HUGE", 257)
    for kind, status in ((Right, "passed"), (Short, "failed")):
        with settings_kept():
            subject = Subject(kind, known_rules()["adamw"], dtypes=DTYPES, quick=True, huge=True)
            answer = ask(subject, CHECKS["huge_tensors"], "")
        assert answer.status == status, answer.detail
        assert status == "passed" or "last 65 of 257" in answer.detail
