"""`python -m fastopt`: exit statuses, and results that survive whatever becomes of the output."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastopt
from fastopt import __main__ as command
from fastopt import _arguments, _output, bench, demo, verify
from fastopt.demo import optimizers, precision
from fastopt.verify import show
from fastopt.verify.compare import Report, Row

QUICK = ["--quick", "--target", "scalar", "--rule", "lion"]


def shell(line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A line of bash; $FASTOPT is the command. Its status is that of the first of a pipe."""
    variables = {**os.environ, "FASTOPT": f"{sys.executable} -m fastopt", **variables}
    line += "; exit ${PIPESTATUS[0]}"
    return subprocess.run(
        ["bash", "-c", line], env=variables, capture_output=True, text=True, timeout=300
    )


# ---- what becomes of the output -------------------------------------------------------------------


def test_a_reader_that_has_seen_enough() -> None:
    done = shell("$FASTOPT verify --quick --target scalar --rule lion | head -1")
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)
    done = shell("$FASTOPT info | true")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(tmp_path: Path) -> None:
    file = tmp_path / "v.json"
    line = f"$FASTOPT verify --quick --target scalar --rule lion --json {file} > /dev/full"
    done = shell(line)
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(file.read_text())["passed"]


def test_closed_and_narrow_and_ascii_output(tmp_path: Path) -> None:
    file = tmp_path / "i.json"
    done = shell(f"$FASTOPT info --json {file} >&- 2>&-")
    assert done.returncode == 0
    assert json.loads(file.read_text())["cpu_targets"]
    line = "$FASTOPT verify --quick --target scalar --rule lion"
    done = shell(line, COLUMNS="0", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert "lion" in done.stdout
    assert "every bit equals" in done.stdout


def test_ctrl_c_ends_with_what_there_is(tmp_path: Path) -> None:
    file = tmp_path / "v.json"
    file.write_text("old")
    arguments = [sys.executable, "-m", "fastopt", "verify", "--json", str(file)]
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a background job
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "v.json.part").exists():  # results are written as they come
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert file.read_text() == "old"
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "INTERRUPTED" in out
    assert "Traceback" not in error
    facts = json.loads(file.read_text())
    assert (facts["finished"], facts["passed"], facts["wrong_bits"]) == (False, False, 0)
    assert facts["rows"]
    assert not (tmp_path / "v.json.part").exists()


# ---- statuses -------------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), ValueError("wrong"), OSError(28, "full"), MemoryError()]
)
def test_every_other_failure_is_2(error: BaseException, capsys: Any) -> None:
    assert _output.run(raising(error)) == 2
    assert capsys.readouterr().err


def test_a_wrong_bit_counts_though_interrupted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def some(plan: Any, advance: Any, report: Report) -> None:
        report.rows["lion", "float32", "scalar"] = Row("lion", "float32", "scalar", wrong_bits=wrong)
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "verify", some)
    for wrong in (0, 3):
        file = tmp_path / f"{wrong}.json"
        assert verify.main([*QUICK, "--json", str(file)]) == (1 if wrong else 2)
        assert json.loads(file.read_text())["wrong_bits"] == wrong


def test_an_interrupted_bench_keeps_what_it_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    right, calls = bench.Run.measure_case, iter(range(10))

    def once(self: Any, *case: Any) -> None:
        if next(calls):
            raise KeyboardInterrupt
        right(self, *case)

    monkeypatch.setattr(bench.Run, "measure_case", once)
    file, options = tmp_path / "b.json", ["--quick", "--rounds", "2", "--threads", "1"]
    assert bench.main(["small", *options, "--json", str(file)]) == 2
    facts = json.loads(file.read_text())
    assert len(facts["results"]) == 1
    assert any("interrupted" in note for note in facts["notes"])
    assert "interrupted" in capsys.readouterr().err
    file.write_text("old")
    assert bench.main(["small", *options, "--json", str(file)]) == 2  # nothing measured
    assert file.read_text() == "old"


def test_interrupted_demos_keep_what_they_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    pytest.importorskip("sklearn")
    for module, function, options in (
        (optimizers, "compare", ["--epochs", "1"]),
        (precision, "train", ["--quick", "--seeds", "1"]),
    ):
        right, calls = getattr(module, function), iter(range(10))

        def once(*arguments: Any, right: Any = right, calls: Any = calls) -> Any:
            if next(calls):
                raise KeyboardInterrupt
            return right(*arguments)

        monkeypatch.setattr(module, function, once)
        file, plot = tmp_path / f"{function}.json", tmp_path / f"{function}.png"
        assert module.main([*options, "--json", str(file), "--plot", str(plot)]) == 2
        facts = json.loads(file.read_text())
        assert not facts["finished"]
        assert len(facts.get("results", facts.get("runs"))) == 1
        assert plot.exists()
        assert "interrupted" in capsys.readouterr().out


def test_the_command_alone_shows_the_help(capsys: Any) -> None:
    assert command.main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in command.COMMANDS)
    assert max(map(len, out.splitlines())) <= 80
    for text in (fastopt.__doc__, command.__doc__):
        assert f"python -m fastopt {' | '.join(command.COMMANDS)}" in str(text)


# ---- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("main", [verify.main, bench.main, demo.main, command.print_info])
@pytest.mark.parametrize("where", ["missing/x.json", "/proc/x.json", "", "x" * 300])
def test_a_place_that_cannot_be_written_is_refused_at_once(
    main: Any, where: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["--json", where])
    assert ended.value.code == 2
    assert "--json" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    file, link = tmp_path / "a.json", tmp_path / "link.json"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    assert _arguments.writable(str(link)) == link
    with pytest.raises(TypeError):
        _output.write_json(link, {"a": object()})
    assert file.read_text() == "old"
    _output.write_json(link, {"a": 1})
    assert link.is_symlink()
    assert json.loads(file.read_text()) == {"a": 1}
    assert file.stat().st_mode & 0o777 == 0o640
    _output.write_json(Path("/dev/null"), {})
    assert not Path("/dev/null").is_file()
    assert sorted(it.name for it in tmp_path.iterdir()) == ["a.json", "link.json"]


# ---- verify's table -------------------------------------------------------------------------------


def reported() -> Report:
    report = Report()
    for name, dtype in (
        ("adam", "float32"),
        ("bias, dropout", "float32"),
        ("adam, int8, master", "bfloat16"),
    ):
        for target in ("avx2", "scalar"):
            report.row(name, dtype, target).elements = 10**6
    report.row("adam, int8, master", "bfloat16", "scalar").wrong_bits = 12
    return report


def test_a_row_for_each_rule_and_way_of_storing(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _output.new_console().print(show.make_table(reported()))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    assert rows[0][:3] == ["adam", "float32", "0"]
    assert rows[1] == ["bfloat16", "int8", "master", "0", "2.0", "M", "12", "scalar"]
    assert rows[2][:3] == ["bias,", "dropout", "float32"]
    _output.new_console().print(show.make_long_table(reported()))
    assert len(capsys.readouterr().out.splitlines()) == 3 + 6


def test_the_smallest_failing_case_comes_first(capsys: Any) -> None:
    report = Report()
    row = report.row("adam", "float32", "scalar")
    for size in (5000, 3, 70):
        zeros = verify.run.np.zeros(20)
        report.compare(
            row,
            zeros + 1,
            zeros,
            lambda i, size=size: {"index": f"{i} of {size}", "options": {"eps": size}},
        )
    assert len(report.examples) == 10
    assert {it["options"]["eps"] for it in report.examples} == {3}
    plan = verify.Plan(rules=(), targets=("scalar",))
    show.show(report, plan, 1.0, True)
    out = capsys.readouterr().out
    assert out.index("WRONG") < out.index("stored in")
