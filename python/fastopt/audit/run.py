"""Asking every check, and what it answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from . import checks  # noqa: F401  registers them
from .registry import CHECKS, Check, Failed, NotApplicable, told
from .subject import Subject, nameof, settings_kept

Status = Literal["passed", "failed", "n/a"]


@dataclass(frozen=True)
class Answer:
    """What one check found in one dtype."""

    check: str
    family: str
    dtype: str  # empty where the check does not depend on it
    status: Status
    detail: str  # what was measured, the smallest failing case, or why it does not apply
    seconds: float


@dataclass
class Report:
    """All answers so far."""

    answers: list[Answer] = field(default_factory=list)

    def of(self, check: str) -> list[Answer]:
        return [it for it in self.answers if it.check == check]

    def status(self, check: str) -> Status:
        """Failed where one answer is; not applicable where all are."""
        found = {it.status for it in self.of(check)}
        return "failed" if "failed" in found else "passed" if "passed" in found else "n/a"

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return [name for name in dict.fromkeys(it.check for it in self.answers)
                if self.status(name) == "failed"]  # fmt: skip

    @property
    def passed(self) -> bool:
        return not self.failed


def questions(subject: Subject, names: Sequence[str] | None = None) -> list[tuple[Check, str]]:
    """The checks with the dtypes in which they are asked."""
    asked = []
    for check in CHECKS.values():
        if names is None or check.name in names:
            dtypes = [nameof(it) for it in subject.dtypes] if check.each_dtype else [""]
            asked += [(check, dtype) for dtype in dtypes]
    return asked


def ask(subject: Subject, check: Check, dtype: str) -> Answer:
    """One check's answer."""
    begin, status, detail = time.perf_counter(), "passed", ""
    main = subject.dtype
    subject.dtype = getattr(torch, dtype) if dtype else main
    try:
        with settings_kept():
            detail = check.function(subject) or ""
    except NotApplicable as reason:
        status, detail = "n/a", str(reason)
    except Failed as failure:
        status, detail = "failed", str(failure)
    except Exception as error:
        status, detail = "failed", told(error)
    finally:
        subject.dtype = main
    return Answer(check.name, check.family, dtype, status, detail, time.perf_counter() - begin)  # type: ignore[arg-type]


def run(
    subject: Subject,
    names: Sequence[str] | None = None,
    advance: Callable[[str], object] = lambda label: None,
    report: Report | None = None,
) -> Report:
    """Ask all of them; `advance` hears of each before it is asked.

    A report that is given is filled as it goes, and has what there is if the work is interrupted.
    """
    report = Report() if report is None else report
    for check, dtype in questions(subject, names):
        advance(f"{check.name} {dtype}".strip())
        report.answers.append(ask(subject, check, dtype))
    return report


def iterate(report: Report) -> Iterator[tuple[str, Status, list[Answer]]]:
    """Each check with its status and its answers."""
    for name in dict.fromkeys(it.check for it in report.answers):
        yield name, report.status(name), report.of(name)
