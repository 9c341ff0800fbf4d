"""`python -m fastopt audit` and fastopt.audit: what they pass, what they say, what they refuse."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from _mutants import MUTANTS, Right

from fastopt import audit, optim
from fastopt.audit import find, show
from fastopt.audit.run import Answer, Report
from fastopt.rules import library

FEW = ["first_steps", "maximize", "huge_tensors"]


def run(arguments: list[str], folder: Path) -> tuple[int, dict[str, Any]]:
    """The exit status and the JSON."""
    status = audit.main([*arguments, "--json", str(folder / "audit.json")])
    return status, json.loads((folder / "audit.json").read_text())


# ---- our own ------------------------------------------------------------------------------------

OURS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("Adagrad", {"lr_decay": 0.01}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("AdamW", {"amsgrad": True}),
    ("AdamW", {"state_dtype": "int8"}),
    ("NAdam", {}),
    ("LAMB", {}),
    ("Lion", {}),
    ("ADOPT", {}),
    ("ScheduleFreeAdamW", {}),
    ("StableAdamW", {}),
]
SECONDS = {"late_steps", "averages_in_16_bits", "leaks"}


@pytest.mark.parametrize(("name", "options"), OURS, ids=str)
def test_ours_pass(name: str, options: dict[str, Any]) -> None:
    """The rest, and what takes long, is in docs/audit.md's table."""
    cls = getattr(optim, name)
    checks = [it for it in audit.CHECKS if it not in SECONDS]
    report = audit.audit(find.maker(cls, options), find.rule_of(cls), checks=checks)
    assert {it.check: it.detail for it in report.answers if it.status == "failed"} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in optim.__all__ if find.rule_named(name)])
def test_all_of_ours_pass_all(name: str) -> None:
    cls = getattr(optim, name)
    report = audit.audit(find.maker(cls, {}), find.rule_of(cls), quick=False)
    assert {it.check: it.detail for it in report.answers if it.status == "failed"} == {}


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"stochastic_rounding": True}, torch.bfloat16),
        ({"master_weights": True}, torch.bfloat16),
        ({"master_weights": True}, torch.float16),
    ],
    ids=str,
)
def test_ours_in_16_bits_pass(options: dict[str, Any], dtype: torch.dtype) -> None:
    checks = [it for it in audit.CHECKS if it not in SECONDS]
    report = audit.audit(find.maker(optim.AdamW, options), "adamw", dtypes=[dtype], checks=checks)
    assert {it.check: it.detail for it in report.answers if it.status == "failed"} == {}
    assert report.status("decay_of_16_bits") == ("passed" if dtype == torch.bfloat16 else "n/a")


# ---- what it says -------------------------------------------------------------------------------


def test_a_failure_is_1_and_names_the_smallest_case(tmp_path: Path, capsys: Any) -> None:
    arguments = ["torch.optim.AdamW", "fused=True", "--quick", "--check", "memory_beside", "maximize"]
    status, facts = run(arguments, tmp_path)
    assert status == 1
    assert (facts["passed"], facts["failed"]) == (False, ["memory_beside"])
    shown = capsys.readouterr().out
    assert "every second element, shape (2, 3, 4, 5)" in " ".join(shown.split())
    assert "FAILED: 1 failed, 1 passed, 0 n/a" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_pass_is_0(tmp_path: Path, capsys: Any) -> None:
    status, facts = run(["fastopt.optim.Lion", "lr=1e-3", "--quick", "--check", *FEW], tmp_path)
    assert (status, facts["finished"], facts["passed"], facts["failed"]) == (0, True, True, [])
    answers = [(it["check"], it["dtype"], it["status"]) for it in facts["answers"]]
    assert answers == [
        ("first_steps", "float32", "passed"),
        ("first_steps", "bfloat16", "passed"),
        ("maximize", "", "passed"),
        ("huge_tensors", "", "n/a"),
    ]
    assert "against the rule lion" in capsys.readouterr().out


def test_an_interrupt_is_2_with_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def some(subject: Any, names: Any, hear: Any, report: Report) -> None:
        hear("maximize")
        report.answers.append(Answer("maximize", "numbers", "", "passed", "", 0.1))
        raise KeyboardInterrupt

    monkeypatch.setattr(audit, "run", some)
    status, facts = run(["fastopt.optim.Lion", "--quick"], tmp_path)
    assert (status, facts["finished"], facts["passed"], len(facts["answers"])) == (2, False, False, 1)
    assert "INTERRUPTED" in capsys.readouterr().out


def test_what_is_said_of_several_dtypes() -> None:
    def answer(dtype: str, status: Any, detail: str) -> Answer:
        return Answer("positions", "places", dtype, status, detail, 0.0)

    same = [answer("float32", "failed", "size 9"), answer("bfloat16", "failed", "size 9")]
    assert show.told("failed", same) == "size 9"
    other = [answer("float32", "passed", ""), answer("bfloat16", "failed", "size 9")]
    assert show.told("failed", other) == "bfloat16: size 9"


# ---- other people's -----------------------------------------------------------------------------


def test_a_rule_is_known_by_the_name_of_the_class_or_by_the_class() -> None:
    assert find.rule_of(torch.optim.AdamW) is find.find_rule("adamw")
    assert find.rule_of(optim.ScheduleFreeSGD) is library.schedule_free_sgd
    assert find.rule_of(type("Lion8bit", (torch.optim.SGD,), {})) is find.find_rule("Lion")
    assert find.rule_of(torch.optim.ASGD) is None
    assert find.find_rule("fastopt.rules.library:adopt") is library.adopt
    assert find.find_class("fastopt.rules.library.adopt").__name__ == "adopt"
    assert find.find_class("torch.optim:SGD") is torch.optim.SGD


def test_an_optimizer_without_a_rule_is_held_against_itself() -> None:
    report = audit.audit(lambda params: torch.optim.Rprop(params), checks=["first_steps"])
    assert report.status("first_steps") == "passed"
    assert "ulp from float64" in report.answers[0].detail
    wrong = MUTANTS["weight_decay"].kind  # what no formula tells apart
    assert audit.audit(wrong, checks=["weight_decay"]).passed
    assert not audit.audit(wrong, "adamw", checks=["weight_decay"]).passed


def test_options_that_the_groups_lack_are_said() -> None:
    class Uncorrected(Right):
        def options(self, group: Any) -> Any:
            return super().options(group) | {"bias_correction": False}

    report = audit.audit(Uncorrected, "adamw", checks=["first_steps"])
    assert report.failed == ["first_steps"]
    options = {"bias_correction": False, "unknown": 3}
    assert audit.audit(Uncorrected, "adamw", options=options, checks=["first_steps"]).passed


def test_the_settings_come_back() -> None:
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    audit.audit(Right, "adamw", checks=["first_steps", "repeated_runs"])
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), random)


def test_an_error_of_the_optimizer_is_a_failure() -> None:
    class Raising(Right):
        def step(self, closure: Any = None) -> Any:
            if len(self.state) > 1:
                raise RuntimeError("no\nmore")
            return super().step(closure)

    report = audit.audit(Raising, "adamw", checks=["mixed_dtypes"])
    assert report.failed == ["mixed_dtypes"]
    assert "RuntimeError: no more" in report.answers[0].detail


# ---- what it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["torch.optim.Nothing"], "there is no torch.optim.Nothing"),
        (["nowhere.Adam"], "there is no nowhere.Adam"),
        (["torch.nn.Linear"], "not a class of torch optimizers"),
        (["torch.optim.Adam", "fused"], "'fused' is not key=value"),
        (["torch.optim.Adam", "--assume", "eps"], "'eps' is not key=value"),
        (["torch.optim.Adam", "--rule", "nothing"], "no rule 'nothing'"),
        (["torch.optim.Adam", "--check", "nothing"], "invalid choice: 'nothing'"),
        (["torch.optim.Adam", "--dtype", "int8"], "invalid choice: 'int8'"),
    ],
    ids=str,
)
def test_a_wrong_command_is_2(arguments: list[str], message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        audit.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_what_steps_nothing_is_2(capsys: Any) -> None:
    assert audit.main(["torch.optim.Adam", "lr=-1.0", "--quick"]) == 2
    assert "Invalid learning rate: -1.0" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no check 'nothing'"):
        audit.audit(Right, checks=["nothing"])


def test_options_of_a_command_line() -> None:
    words = ["lr=1e-3", "betas=(0.9, 0.95)", "fused=True", "dtype=torch.bfloat16", "mode=fast"]
    assert find.parse_options([*words, "x=None"]) == {
        "lr": 1e-3,
        "betas": (0.9, 0.95),
        "fused": True,
        "dtype": torch.bfloat16,
        "mode": "fast",
        "x": None,
    }
