"""docs/audit.md is what its script makes, and every failure of others in it is explained."""

import json
import subprocess
import sys
from pathlib import Path

from fastopt.audit import CHECKS

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "audit_page.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr + "\nrun python scripts/audit_page.py"


def test_the_field_knows_the_checks_and_fastopt_passes_them() -> None:
    rows = json.loads((ROOT / "docs" / "audit.json").read_text())["rows"]
    ours = [row for row in rows.values() if row["package"] == "fastopt"]
    assert ours
    assert all(row["failed"] == {} for row in ours)
    for row in rows.values():
        assert row.get("failed", {}).keys() <= CHECKS.keys()
