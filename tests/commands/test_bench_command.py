"""`python -m fastopt bench` as a whole, on small tensors. Nothing here asserts a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastopt import _C
from fastopt.bench import lowbit, main, run


class TestCommand:
    """The whole command, on tensors of a few elements."""

    ARGUMENTS = ("small", "--quick", "--rounds", "2", "--threads", "1", "--optimizers", "SGD")

    @pytest.fixture(autouse=True)
    def instant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Measurements of one run each: the figures mean nothing and take no time."""
        monkeypatch.setattr(run, "QUICK_SHORTEST", 0.0)

    def test_output(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file, picture = tmp_path / "run.json", tmp_path / "run.png"
        threads, target = torch.get_num_threads(), _C.cpu_target()
        others = [name for name, t in _C.cpu_targets().items() if t["supported"]]
        options = ["--target", *others, "--json", str(file), "--plot", str(picture)]
        assert main([*self.ARGUMENTS, *options]) == 0
        assert (torch.get_num_threads(), _C.cpu_target()) == (threads, target)

        printed = capsys.readouterr().out
        for text in ("200 x 64, SGD", "1 x 64, SGD", "torch fused", "of limit", "12,800 elements"):
            assert text in printed
        assert picture.read_bytes().startswith(b"\x89PNG")

        data = json.loads(file.read_text())
        assert data["machine"]["command"].startswith("python -m fastopt bench small --quick")
        assert {"date", "cpu", "cpus", "torch", "load_average"} <= data["machine"].keys()
        measured = data["results"][0]["entries"]
        names = [(entry["name"], entry["target"]) for entry in measured]
        for name in others:
            assert ("fastopt", name) in names
            assert ("limit", name) in names
        assert {"torch fused", "torch foreach", "torch default"} <= {name for name, _ in names}
        assert all(len(entry["samples"]) == 2 for entry in measured)
        assert all(entry["seconds"]["median"] > 0 for entry in measured)

    def test_curve(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        picture = tmp_path / "curve.png"
        arguments = ["curve", "--quick", "--rounds", "1", "--threads", "1", "--plot", str(picture)]
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert "elements" in printed
        assert "100,000" in printed
        assert picture.read_bytes().startswith(b"\x89PNG")

    def test_dropout(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        picture = tmp_path / "dropout.png"
        arguments = ["dropout", "--quick", "--rounds", "1", "--threads", "1", "--plot", str(picture)]
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        for text in ("dropout, bfloat16 in place", "transformer layer", "keeps", "torch dropout"):
            assert text in printed
        assert picture.read_bytes().startswith(b"\x89PNG")

    def test_lowbit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """All of its works; the 8-bit packages, slow and not always there, have tests of their own."""
        monkeypatch.setattr(lowbit, "PEERS", [p for p in lowbit.PEERS if p.module == "torch"])
        file, picture = tmp_path / "run.json", tmp_path / "run.png"
        arguments = ["lowbit", "--quick", "--rounds", "1", "--threads", "1"]
        assert main([*arguments, "--json", str(file), "--plot", str(picture)]) == 0
        printed = capsys.readouterr().out
        assert "AdamW bf16, stochastic rounding" in printed
        assert "state B" in printed
        assert picture.read_bytes().startswith(b"\x89PNG")
        data = json.loads(file.read_text())
        assert [case["work"] for case in data["results"]] == list(lowbit.WORKS)
        sizes = [entry["state_bytes"] for case in data["results"] for entry in case["entries"]]
        assert sum(size is None for size in sizes) == len(lowbit.WORKS)  # the limits

    def test_rules(self, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["rules", "--quick", "--rounds", "1", "--threads", "1"]
        assert main([*arguments, "--optimizers", "Lion", "Adan", "AdamW bf16"]) == 0
        printed = capsys.readouterr().out
        for text in ("1 x 1M, Lion", "200 x 64, Adan", "1 x 32K, AdamW bf16", "1 x 64, first step"):
            assert text in printed
        assert printed.count("fastopt compiled") == 6
        assert printed.count(" torch ") >= 9

    def test_compare(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        old = tmp_path / "old.json"
        assert main([*self.ARGUMENTS, "--json", str(old)]) == 0
        data = json.loads(old.read_text())
        for case in data["results"]:
            for entry in case["entries"]:  # a time that nobody can reach again, without spread
                entry["samples"] = [1e-12 if entry["name"] == "fastopt" else 1.0] * 2
        old.write_text(json.dumps(data))
        assert main([*self.ARGUMENTS, "--compare", str(old)]) == 1
        assert "slower" in capsys.readouterr().out
        for case in data["results"]:
            for entry in case["entries"]:
                entry["samples"] = [1.0 if entry["name"] == "fastopt" else 1e-12] * 2
        old.write_text(json.dumps(data))
        assert main([*self.ARGUMENTS, "--compare", str(old)]) == 0
        data["results"] = []
        old.write_text(json.dumps(data))
        assert main([*self.ARGUMENTS, "--compare", str(old)]) == 2

    def test_too_little_memory(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("fastopt.bench.machine.available_bytes", lambda device: 1000)
        assert main(list(self.ARGUMENTS)) == 0
        assert "needs 0.0 GiB of memory" in " ".join(capsys.readouterr().out.split())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nonsense"], "no suite 'nonsense'"),
            (["--threads", "0"], "positive whole number"),
            (["--target", "nonsense"], "invalid choice"),
            (["--json", "/nowhere/at/all.json"], "existing folder"),
            (["--compare", "/nowhere/at/all.json"], "No such file"),
            (["--device", "abacus"], "invalid choice"),
        ],
    )
    def test_wrong_arguments(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        assert exit.value.code == 2
        assert message in capsys.readouterr().err


def test_a_missing_package_is_named() -> None:
    script = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('rich', 'matplotlib') else find(name, *a)\n"
        "from fastopt.__main__ import main\n"
        "sys.exit(main(['bench', '--quick', '--plot', 'x.png']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().endswith(
        'rich, matplotlib, not installed here: pip install "fastopt[demo]"'
    )
    assert done.stdout == ""
