"""`python -m fastopt verify`: that it passes, that it can fail, and what it refuses."""

import inspect
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from fastopt import _C, kernels, optim, reference, verify
from fastopt.verify import packed
from fastopt.verify.compare import Report
from fastopt.verify.run import DTYPES, supported_targets
from fastopt.verify.storage import COLUMNS

QUICK = ["--quick", "--target", "scalar", "--rule"]


@pytest.fixture(autouse=True)
def wide_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets no line wrap."""
    monkeypatch.setenv("COLUMNS", "200")


def run(arguments: list[str], folder: Path) -> tuple[int, dict[str, Any]]:
    """The exit status and the JSON."""
    status = verify.main([*arguments, "--json", str(folder / "verify.json")])
    return status, json.loads((folder / "verify.json").read_text())


class Told(Exception):
    """A wrong bit was found."""


def assert_told(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    """The run finds a wrong bit, and is spared the seconds that the rest of it would take."""
    compare = Report.compare

    def until_one_is_wrong(report: Report, *arguments: Any) -> bool:
        if not compare(report, *arguments):
            assert report.wrong_bits > 0
            assert report.examples
            raise Told
        return True

    monkeypatch.setattr(Report, "compare", until_one_is_wrong)
    with pytest.raises(Told):
        verify.main([*QUICK, rule])


# That it passes


def test_all_is_right_and_the_settings_come_back(tmp_path: Path, capsys: Any) -> None:
    settings = _C.cpu_target(), torch.get_num_threads()
    status, facts = run(["--quick", "--rule", "adagrad"], tmp_path)
    assert status == 0
    assert (_C.cpu_target(), torch.get_num_threads()) == settings
    assert (facts["passed"], facts["wrong_bits"], facts["wrong"]) == (True, 0, [])
    columns = [*(dtype.name for dtype in DTYPES), *COLUMNS]
    rows = [row for row in facts["rows"] if row["rule"] == "adagrad"]
    assert [(row["dtype"], row["target"]) for row in rows] == [
        (column, target) for column in columns for target in supported_targets()
    ]
    for row in rows:
        assert row["elements"] > (10_000 if row["dtype"] in COLUMNS else 100_000)
        assert row["options"] >= (2 if row["dtype"] in COLUMNS else 8)
    assert facts["elements"] == sum(row["elements"] for row in facts["rows"])
    for row in rows:
        if row["dtype"] == "float32":  # a few roundings
            assert 0.5 < row["max_ulp"] < 20
        else:
            assert row["max_ulp"] is None
    assert "every bit equals" in capsys.readouterr().out

    _, alone = run([*QUICK, "adagrad"], tmp_path)  # a filter does not change the inputs
    assert alone["rows"] == [row for row in facts["rows"] if row["target"] == "scalar"]


# That it can fail


def test_a_wrong_constant_in_a_reference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    right = reference.rmsprop

    def wrong(*args: Any, alpha: float, **options: Any) -> Any:
        T = args[0].dtype.type
        return right(*args, alpha=float(np.nextafter(T(alpha), T(1))), **options)  # one ulp more

    monkeypatch.setattr(reference, "rmsprop", wrong)
    status, facts = run([*QUICK, "rmsprop"], tmp_path)
    assert status == 1
    assert not facts["passed"]
    assert all(row["wrong_bits"] > 0 for row in facts["rows"])
    first = facts["wrong"][0]
    assert (first["call"], first["dtype"]) == ("fastopt.kernels.rmsprop_", "float32")
    assert first["options"]["centered"] is False
    assert {"param", "grad", "square_avg"} <= set(first["inputs"])
    assert first["got"] != first["expected"]
    assert "(0x" in first["got"]
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert all(first[key] in out for key in ("got", "expected", "index", "parameter"))
    assert first["inputs"]["grad"] in out


MUTANTS = [
    ("sgd", "step == 1", "step <= 2"),
    ("sgd", "T(1 - dampening)", "(T(1) - T(dampening))"),
    ("sgd", "lr / (1 - power(momentum, step))", "lr / (1 - momentum**step)"),
    ("adagrad", "np.sqrt(sum) + T(eps)", "np.sqrt(sum + T(eps))"),
    ("adagrad", "T(rate) * (g / (np.sqrt(sum) + T(eps)))", "T(rate) * g / (np.sqrt(sum) + T(eps))"),
    ("rmsprop", "np.where(avg < 0, T(0), avg)", "np.fmax(avg, T(0))"),
    ("adam", "maximum(max_exp_avg_sq, v)", "np.fmax(max_exp_avg_sq, v)"),
    ("lamb", "T(lr * ratio) * u", "T(lr) * T(ratio) * u"),
    (
        "lamb",
        'as_stored("exp_avg", T(beta1) * exp_avg + T(1 - beta1) * g)',
        "T(beta1) * exp_avg + T(1 - beta1) * g",
    ),
]


@pytest.mark.parametrize(("rule", "right", "wrong"), MUTANTS)
def test_a_wrong_reference(monkeypatch: pytest.MonkeyPatch, rule: str, right: str, wrong: str) -> None:
    module = sys.modules[f"fastopt.reference.{rule}"]
    source = inspect.getsource(module)
    assert right in source
    mutant = dict(vars(module))
    exec(source.replace(right, wrong), mutant)
    monkeypatch.setattr(reference, rule, mutant[rule])
    assert_told(monkeypatch, rule)


def flip_one_bit(arrays: Any, past: int = 0) -> None:
    """Flip the lowest bit of a finite number: the last of an array, or `past` elements after it."""
    for array in arrays if isinstance(arrays, list) else [arrays]:
        if isinstance(array, torch.Tensor):  # bfloat16
            array = array.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        if array.size > 0:
            longer = np.lib.stride_tricks.as_strided(array, (array.size + past,))
            finite = np.flatnonzero(np.isfinite(longer))
            if finite.size and (past == 0 or finite[-1] == len(longer) - 1):
                longer.view(f"u{array.itemsize}")[finite[-1]] ^= 1
                return
    raise AssertionError("no finite number")


def spoil_kernel(
    monkeypatch: pytest.MonkeyPatch, when: Callable[[], bool], argument: int = 0, past: int = 0
) -> None:
    """Let adagrad_ spoil one of its arrays whenever `when()` holds."""
    right = kernels.adagrad_

    def wrong(*args: Any, **options: Any) -> None:
        right(*args, **options)
        if when():
            flip_one_bit(args[argument], past)

    monkeypatch.setattr(kernels, "adagrad_", wrong)


def once() -> Callable[[], bool]:
    """True at the sixth call alone."""
    calls = iter(range(10**6))
    return lambda: next(calls) == 5


@pytest.mark.parametrize(
    ("argument", "past"), [(0, 0), (1, 0), (2, 0), (0, 1)], ids=["param", "grad", "sum", "beside"]
)
def test_one_flipped_bit_of_a_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, argument: int, past: int
) -> None:
    spoil_kernel(monkeypatch, once(), argument, past)
    status, facts = run([*QUICK, "adagrad"], tmp_path)
    assert status == 1
    assert facts["wrong_bits"] == 1
    assert len(facts["wrong"]) == 1
    wrong = facts["wrong"][0]
    assert wrong["array"] == ("param", "grad", "sum")[argument]
    assert ("outside" in wrong["index"]) == (past > 0)


def test_a_fault_of_one_target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spoil_kernel(monkeypatch, lambda: _C.cpu_target() == "scalar")
    _, facts = run(["--quick", "--rule", "adagrad"], tmp_path)
    rows = [row for row in facts["rows"] if row["rule"] == "adagrad"]
    assert all((row["wrong_bits"] > 0) == (row["target"] == "scalar") for row in rows)


def test_a_fault_of_one_thread_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spoil_kernel(monkeypatch, lambda: torch.get_num_threads() == 3)
    _, facts = run([*QUICK, "adagrad"], tmp_path)
    assert {wrong["threads"] for wrong in facts["wrong"]} == {3}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("argument", [0, 1, 2], ids=["param", "grad", "sum"])
def test_one_flipped_bit_beside_other_types(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, column: str, argument: int
) -> None:
    """In the first case of a column, and in no other."""
    labels: list[str] = []
    plan = verify.Plan

    class Watched(plan):
        def cases(self) -> Any:
            labels.clear()  # of the count that a progress bar asks for
            for case in super().cases():
                labels.append(case[1].column)
                yield case

    monkeypatch.setattr(verify, "Plan", Watched)
    spoil_kernel(monkeypatch, lambda: labels[-1] == column and labels.count(column) == 1, argument)
    status, facts = run([*QUICK, "adagrad"], tmp_path)
    assert status == 1
    assert {wrong["dtype"] for wrong in facts["wrong"]} == {column}
    assert {wrong["array"] for wrong in facts["wrong"]} == {("param", "grad", "sum")[argument]}


def test_a_reference_that_rounds_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """To odd instead of even: only what is stored in bfloat16 differs."""
    right = reference.to_bfloat16

    def wrong(x: Any) -> Any:
        bits = right(x)
        ties = x.view(np.uint32) & 0xFFFF == 0x8000
        return np.where(ties, bits ^ 1, bits)

    monkeypatch.setattr(reference, "to_bfloat16", wrong)
    status, facts = run([*QUICK, "sgd"], tmp_path)
    assert status == 1
    wrong_rows = {row["dtype"] for row in facts["rows"] if row["wrong_bits"]}
    assert "bfloat16" in wrong_rows
    assert "float64" not in wrong_rows
    others = [it for it in facts["wrong"] if it["dtype"] not in ("bfloat16", "mixed")]
    assert {it["array"] for it in others} <= {"copy"}  # which may be of bfloat16 beside any parameter


def test_one_flipped_bit_of_an_optimizer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spoil = once()

    class Adagrad(optim.Adagrad):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            params = [p for group in self.param_groups for p in group["params"]]
            if any(p.isfinite().any() for p in params) and spoil():
                flip_one_bit([p if p.dtype == torch.bfloat16 else p.numpy() for p in params])

    monkeypatch.setattr(optim, "Adagrad", Adagrad)
    status, facts = run([*QUICK, "adagrad"], tmp_path)
    assert (status, facts["wrong_bits"]) == (1, 1)
    assert facts["wrong"][0]["call"] == "fastopt.optim.Adagrad"


# Dropout


def test_states_that_are_float32_by_default_are_right(tmp_path: Path) -> None:
    """LAMB's beside float16 parameters."""
    status, facts = run([*QUICK, "lamb"], tmp_path)
    assert (status, facts["wrong_bits"]) == (0, 0)
    assert [row["elements"] > 0 for row in facts["rows"] if row["dtype"] == "float16"] == [True]


def test_dropout_is_right(tmp_path: Path) -> None:
    status, facts = run(["--quick", "--rule", "dropout"], tmp_path)
    assert (status, facts["wrong_bits"]) == (0, 0)
    rows = {(row["rule"], row["dtype"], row["target"]) for row in facts["rows"]}
    assert len(rows) == (2 + 8 * 4) * len(supported_targets())
    assert all(row["elements"] > 40_000 for row in facts["rows"])


DROPOUT_MUTANTS = [
    ("0xCD9E8D57", "0xCD9E8D59"),
    ("draws < threshold", "draws <= threshold"),
    ("return round((1", "return int((1"),
    ("2**DRAW_BITS / threshold", "1 / (threshold / 2**DRAW_BITS) * (1 + 1e-7)"),
    ("~(wide <= 0)", "(wide > 0)"),
    ("np.where(kept, a * wide + b, c)", "np.where(kept, a * (wide + b / a), c)"),
    ("block >> half", "block & np.uint64(0)"),
]


@pytest.mark.parametrize(("right", "wrong"), DROPOUT_MUTANTS)
def test_a_wrong_reference_of_dropout(monkeypatch: pytest.MonkeyPatch, right: str, wrong: str) -> None:
    module = sys.modules["fastopt.reference.dropout"]
    source = inspect.getsource(module)
    assert right in source
    mutant = dict(vars(module))
    exec(source.replace(right, wrong), mutant)
    for name in reference.__all__:
        if "dropout" in name:
            monkeypatch.setattr(reference, name, mutant[name])
    assert_told(monkeypatch, "dropout")


@pytest.mark.parametrize("past", [0, 1], ids=["result", "beside"])
def test_one_flipped_bit_of_dropout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, past: int) -> None:
    right, spoil = kernels.relu_dropout, once()

    def wrong(*args: Any, out: Any, **options: Any) -> Any:
        right(*args, out=out, **options)
        if spoil():
            longer = np.lib.stride_tricks.as_strided(out.reshape(-1), (out.size + past,))
            longer.view(np.uint32)[-1] ^= 1
        return out

    monkeypatch.setattr(kernels, "relu_dropout", wrong)
    status, facts = run([*QUICK, "dropout"], tmp_path)
    assert (status, facts["wrong_bits"], len(facts["wrong"])) == (1, 1, 1)
    assert facts["wrong"][0]["call"] == "fastopt.kernels.relu_dropout"
    assert ("outside" in facts["wrong"][0]["index"]) == (past > 0)


# Masters, random rounding, 8-bit states


def test_a_rule_is_verified_in_every_way_of_storing(tmp_path: Path) -> None:
    status, facts = run([*QUICK, "lion"], tmp_path)
    assert (status, facts["wrong_bits"]) == (0, 0)
    assert {(row["rule"], row["dtype"]) for row in facts["rows"]} == {
        *(("lion", it) for it in (*(dtype.name for dtype in DTYPES), *COLUMNS)),
        *((f"lion, {kind.name}", kind.dtype_name) for kind in packed.KINDS),
    }


def test_packed_is_right(tmp_path: Path) -> None:
    status, facts = run(["--quick", "--rule", "packed"], tmp_path)
    assert (status, facts["wrong_bits"]) == (0, 0)
    rows = {(row["rule"], row["dtype"], row["target"]) for row in facts["rows"]}
    assert len(rows) == (9 * 10 - 4) * len(supported_targets())  # Adagrad has no codes
    assert all(row["elements"] > 30_000 for row in facts["rows"])


PACKED_MUTANTS = [
    ("storage", "(low < 0)", "(low <= 0)"),
    ("storage", "bits + draws", "bits + draws // 2"),
    ("codes", "starts(block)", "starts(block + 1)"),
    ("codes", "hashes(step, code,", "hashes(step + 1, code,"),
    ("dither", "np.uint64(0x9E3779B1)", "np.uint64(0x1E3779B1)"),
    ("dither", "0x27D4EB2F", "0x27D4EB2D"),
    ("dither", "state << 29", "state << 30"),
    ("codes", "np.float32(502)", "np.float32(503)"),
    ("codes", "np.float32(2.0**-20)", "np.float32(2.0**-21)"),
]


@pytest.mark.parametrize("rule", ["packed", "adamw"])
@pytest.mark.parametrize(("module", "right", "wrong"), PACKED_MUTANTS)
def test_a_wrong_reference_of_packed(
    monkeypatch: pytest.MonkeyPatch, module: str, right: str, wrong: str, rule: str
) -> None:
    original = sys.modules[f"fastopt.reference.{module}"]
    source = inspect.getsource(original)
    assert right in source
    mutant = types.ModuleType(module, original.__doc__)
    vars(mutant).update(vars(original))
    exec(source.replace(right, wrong), vars(mutant))
    monkeypatch.setattr(verify.packed, module, mutant)
    assert_told(monkeypatch, rule)


# L-BFGS


def test_lbfgs_is_right(tmp_path: Path) -> None:
    status, facts = run(["--quick", "--rule", "lbfgs"], tmp_path)
    assert (status, facts["wrong_bits"]) == (0, 0)
    assert all(row["elements"] > 100_000 for row in facts["rows"])
    assert len(facts["rows"]) == 2 * len(supported_targets())


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("change_q = change_q - alpha[j] * change_change[:, j]", "change_q = change_q * 1"),
        ("d = -gamma * grad", "d = -1.0 * grad"),
        ("weight = alpha[i] - ", "weight = alpha[i] + "),
        ("change = grad - memory.grad", "change = grad + memory.grad"),
    ],
)
def test_a_wrong_reference_of_lbfgs(monkeypatch: pytest.MonkeyPatch, right: str, wrong: str) -> None:
    original = sys.modules["fastopt.reference.lbfgs"]
    source = inspect.getsource(original)
    assert right in source
    mutant = types.ModuleType("fastopt.reference.mutant")
    monkeypatch.setitem(sys.modules, mutant.__name__, mutant)  # where dataclasses look
    exec(source.replace(right, wrong), vars(mutant))
    monkeypatch.setattr(reference, "lbfgs", vars(mutant)["lbfgs"])
    monkeypatch.setattr(reference, "LBFGSMemory", vars(mutant)["LBFGSMemory"])
    assert_told(monkeypatch, "lbfgs")


@pytest.mark.parametrize("rule", ["lbfgs", "lamb"])
def test_rules_of_the_cpu_on_the_device(rule: str, cuda_is_walked: None, capsys: Any) -> None:
    assert verify.main(["--device", "cuda", "--rule", rule]) == 2
    assert "on the CPU only" in capsys.readouterr().err


# What it refuses


def test_cuda_without_a_device(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert verify.main(["--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


@pytest.fixture
def cuda_is_walked(cuda_walk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify.device, "device", torch.device("cpu"))


@pytest.mark.parametrize("rule", ["sgd", "nadam", "dropout", "packed", "fastopt.rules.library:mars"])
def test_cuda_by_the_walk(rule: str, cuda_is_walked: None, tmp_path: Path, capsys: Any) -> None:
    """All that a run on a GPU does, but for where its memory lies."""
    written = tmp_path / "report.json"
    run = ["--quick", "--device", "cuda", "--rule", rule, "--json", str(written)]
    assert verify.main(run) == 0, capsys.readouterr().out
    report = json.loads(written.read_text())
    assert (report["device"], report["targets"]) == ("cuda", ["cuda"])
    assert report["elements"] > 0


def test_a_wrong_bit_on_the_device_is_found(
    cuda_is_walked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = reference.sgd

    def wrong(param: Any, *rest: Any, **options: Any) -> Any:
        result, *others = right(param, *rest, **options)
        return (np.asarray(np.nextafter(result, np.inf)), *others)

    monkeypatch.setattr(reference, "sgd", wrong)
    assert verify.main(["--quick", "--device", "cuda", "--rule", "sgd"]) == 1


def test_without_rich(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(verify, "find_spec", lambda name: None)
    assert verify.main([]) == 2
    assert 'pip install "fastopt[demo]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rule", "nonsense"], "adagrad"),
        (["--target", "sse9"], "scalar"),
        (["--seed", "-1"], "whole number >= 0"),
        (["--json", "no/such/folder/file"], "existing folder"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        verify.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
