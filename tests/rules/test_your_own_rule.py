"""docs/your_own_rule.md does what it says."""

import re
from pathlib import Path

import pytest

from conftest import RunPython

DOCUMENT = Path(__file__).parents[2] / "docs" / "your_own_rule.md"


@pytest.mark.skipif(not DOCUMENT.is_file(), reason="needs the repository's documents")
def test_the_document_runs(run_python: RunPython, tmp_path: Path) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S))
    script = tmp_path / "your_own_rule.py"
    script.write_text(code)
    result = run_python(str(script))
    assert result.returncode == 0, result.stderr
    assert "adopt: 6 instructions on 2 states, 28 bytes an element in float32" in result.stdout
    assert "  r0 = maximum(sqrt(exp_avg_sq), eps)\n" in result.stdout
    assert "2 parameters: 2 on fastopt's kernels" in result.stdout


@pytest.mark.skipif(not DOCUMENT.is_file(), reason="needs the repository's examples")
def test_the_example_runs(run_python: RunPython, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "losses.png"
    result = run_python(str(DOCUMENT.parents[1] / "examples" / "own_rule.py"), "--plot", str(picture))
    assert result.returncode == 0, result.stderr
    assert ": 0 wrong bits" in result.stdout
    assert picture.stat().st_size > 5000
