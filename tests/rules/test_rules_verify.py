"""Anybody's rule is verified by one call or command, and a wrong instruction is found."""

from typing import Any

import numpy as np
import pytest

from conftest import RunPython
from fastopt.rules import _program, library, rule, sqrt
from fastopt.rules.library import compiled
from fastopt.testing import assert_rule, verify_rule
from fastopt.verify import packed, programs


@pytest.mark.parametrize("name", ["adopt", "cautious_adamw", "laprop"])
def test_a_rule_is_verified(name: str) -> None:
    report = verify_rule(getattr(library, name))
    assert report.elements > 100_000
    assert {row.target for row in report.rows.values()} >= {"scalar"}
    assert {row.dtype for row in report.rows.values()} == {
        "float32", "float64", "bfloat16", "float16", "mixed"
    }  # fmt: skip
    assert report.wrong_bits == 0


STORED = {"yogi": library, "schedule_free_adamw": library, "stable_adamw": library, "lamb": compiled}


@pytest.mark.parametrize("name", STORED)
def test_what_its_optimizer_stores_is_verified(name: str) -> None:
    """States that begin as a number or as the parameter, numbers that are kept, sums."""
    report = verify_rule(getattr(STORED[name], name))
    rows = {(row.rule, row.dtype) for row in report.rows.values() if row.rule != f"{name}, program"}
    assert rows == {(f"{name}, program, {kind.name}", kind.dtype_name) for kind in packed.KINDS}
    assert report.wrong_bits == 0


def test_a_wrong_state_of_its_optimizer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs.Stored, "start", lambda self, state, param: np.zeros_like(param))
    wrong = {row.rule for row in verify_rule(library.yogi).rows.values() if row.wrong_bits}
    assert wrong == {f"yogi, program, {kind.name}" for kind in packed.KINDS}


@pytest.mark.parametrize(
    ("op", "other"),
    [("sum_square", "sum"), ("root_plus", "root_maximum"), ("sum_quotient", "sum_product")],
)
def test_a_wrong_instruction_is_found(op: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_program.OPS, op, _program.OPS[other])

    @rule
    def planted(p, g, v, *, t, lr=0.1):
        v = 0.9 * v + 0.1 * (g * g)
        return p - lr * (g / (sqrt(v) + 1e-8)), v

    assert planted.verify() > 1000
    with pytest.raises(AssertionError, match=r"planted: [0-9,]+ wrong bits"):
        assert_rule(planted)


RULE = """
from fastopt.rules import rule, sign

@rule
def mine(p, g, m, *, t, lr=0.1, nesterov=False):
    m = 0.9 * m + g
    return p - lr * sign(m + g if nesterov else m), m

Mine = mine.optimizer("Mine")
nothing = 3
"""


def test_the_command_takes_a_module_and_a_name(run_python: RunPython, tmp_path: Any) -> None:
    (tmp_path / "mymodule.py").write_text(RULE)

    def run(name: str) -> Any:
        arguments = ("-m", "fastopt", "verify", "--quick", "--rule", name, "--target", "scalar")
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        code += f"from fastopt.__main__ import main; sys.exit(main({list(arguments[2:])!r}))"
        return run_python("-c", code)

    for name in ("mymodule:mine", "mymodule:Mine"):
        result = run(name)
        assert result.returncode == 0, result.stderr
        assert "every bit equals" in result.stdout
    for name, said in (
        ("mymodule:nothing", "is int, not a rule"),
        ("mymodule:absent", "has no attribute 'absent'"),
        ("nomodule:it", "No module named 'nomodule'"),
        ("adamm", "invalid choice: 'adamm'"),
    ):
        result = run(name)
        assert result.returncode == 2
        assert said in result.stderr
