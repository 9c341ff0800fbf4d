"""Makes docs/audit.md of the registry of checks and of docs/audit.json (scripts/audit_field.py).

python scripts/audit_page.py [--check]
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from pathlib import Path
from typing import Any

from audit_facts import FACTS, fact_of

from fastopt import audit
from fastopt.audit import checks

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, RESULTS = DOCS / "audit.md", DOCS / "audit.json"

TOP = """# How right is an optimizer?

    python -m fastopt audit torch.optim.AdamW fused=True

asks any torch optimizer the questions below: a dotted path, options of its constructor, `--rule` where
the class's name does not say what it should compute. A row says passed; FAILED, with the smallest case
that failed; or n/a, and why. The exit status is 1 if a check failed. `--quick` takes under a minute,
`--dtype` and `--device` say where, `--json` keeps the answers. In a test of your own:

```python
from fastopt import audit

report = audit.audit(lambda params: MyAdamW(params, lr=1e-3), "adamw")
assert report.failed == []
```

Numbers are held against a rule of fastopt in float64 (`fastopt.reference`, `fastopt.rules.library`, or
a rule in Python of yours, `--rule package.module:name`); where there is none, against the optimizer's
own steps in float64, which tell rounding but no wrong formula. A step's error is measured on a
parameter that is 0 before it, so that what it makes of it is the step itself. Nothing is read of an
optimizer but its groups, its `state_dict`, and step counts in its state.

`tests/audit/_mutants.py` has an optimizer that is right and, for each check, the same with that fault
planted: it fails that check, and others only for that reason.

Limits: it runs in one process, so an optimizer that crashes takes the audit with it. Optimizers whose
step is of all parameters at once (by a norm over all of them, or as Prodigy's) fail checks that step a
parameter by itself. A rule without a name here is held against itself, and formulas are not compared.
Tensors of 2³¹ elements are asked with `--huge` only, in tens of gigabytes, and were not for the table.

*This page is made by `python scripts/audit_page.py`.*
"""

FIELD = """## The field

{date}, {machine}; {versions}. Made by `python scripts/audit_field.py`, which runs
`python -m fastopt audit LINE --quick`: on the CPU, in float32 and bfloat16 unless the line says
otherwise. Counts are of checks.
"""


def families() -> list[str]:
    """A table of checks for each family."""
    lines = ["## The checks", ""]
    for family in dict.fromkeys(it.family for it in audit.CHECKS.values()):
        question = " ".join((inspect.getdoc(getattr(checks, family)) or "").split())
        lines += [
            f"**{family}** — {question}",
            "",
            "| check | what is lost where it fails |",
            "|---|---|",
        ]
        found = [it for it in audit.CHECKS.values() if it.family == family]
        lines += [f"| `{it.name}` | {it.loss} |" for it in found]
        lines.append("")
    return lines


def table(rows: dict[str, Any]) -> list[str]:
    lines = ["| optimizer | failed | passed | n/a | what failed |", "|---|---|---|---|---|"]
    for line, row in rows.items():
        if "error" in row:
            lines.append(f"| `{line}` | | | | could not be asked: {row['error']} |")
            continue
        failed = row["failed"]
        names = ", ".join(failed) if failed else "–"
        lines.append(f"| `{line}` | {len(failed)} | {row['passed']} | {row['n/a']} | {names} |")
    return lines


def facts(rows: dict[str, Any]) -> list[str]:
    """What the failures of others come from, each fact once."""
    lines = ["", "## What failed, checked by hand", ""]
    for fact in FACTS:
        about = [
            line
            for line, row in rows.items()
            if any(fact_of(line, check) is fact for check in row.get("failed", {}))
        ]
        if about:
            names = ", ".join(dict.fromkeys(it.partition(" ")[0] for it in about))
            lines.append(f"* **{', '.join(f'`{it}`' for it in fact.checks)}** ({names}): {fact.text}")
    return lines


def page() -> str:
    known = json.loads(RESULTS.read_text())
    versions = ", ".join(f"{name} {it}" for name, it in known["versions"].items())
    head = FIELD.format(date=known["date"], machine=known["machine"], versions=versions,
                        more=known.get("more", ""))  # fmt: skip
    lines = [TOP, *families(), head, *table(known["rows"]), *facts(known["rows"]), ""]
    return "\n".join(lines)


def unsaid_failures() -> list[str]:
    """What others failed of which no fact tells why."""
    rows = json.loads(RESULTS.read_text())["rows"]
    return [
        f"{line}: {check}: {detail}"
        for line, row in rows.items()
        for check, detail in row.get("failed", {}).items()
        if fact_of(line, check) is None
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Make docs/audit.md.")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    if unsaid := unsaid_failures():
        print("failures without a fact in scripts/audit_facts.py:", *unsaid, sep="\n")
        return 1
    if parser.parse_args().check:
        return 0 if PAGE.read_text(encoding="utf-8") == page() else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
