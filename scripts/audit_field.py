"""Audits the optimizers of the field, each in a process of its own, for the table in docs/audit.md.

    python scripts/audit_field.py [--only TEXT]

A package that is not installed here is left out, with a word. The answers go to docs/audit.json;
`python scripts/audit_page.py` makes the page of them. What others failed is said in FACTS there, each
checked by hand once: a failure without a fact fails tests/audit/test_page.py.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "audit.json"
TIMEOUT = 900  # seconds of one optimizer

OURS = """SGD momentum=0.9
Adagrad
RMSprop
Adam
AdamW
AdamW amsgrad=True
Adadelta
Adamax
NAdam
RAdam
Lion
LAMB
ADOPT
AdEMAMix
Adan
LaProp
Signum
MARS
ScheduleFreeAdamW
ScheduleFreeSGD
CautiousAdamW
CautiousLion
StableAdamW
AdaBelief
Yogi
AdamW state_dtype=int8
AdamW state_dtype=torch.float32
AdamW stochastic_rounding=True --dtype bfloat16
AdamW master_weights=True --dtype bfloat16 float16"""
ALL = ("foreach=False", "foreach=True", "fused=True")
TORCHS = {
    "SGD momentum=0.9": ALL,
    "Adagrad": ("foreach=False", "foreach=True", "fused=True"),
    "RMSprop": ALL[:2],
    "Adam": ALL,
    "AdamW": ALL,
    "Adadelta": ALL[:2],
    "Adamax": ALL[:2],
    "NAdam": ALL[:2],
    "RAdam": ALL[:2],
    "ASGD": ALL[:2],
    "Rprop": ALL[:2],
    "Adafactor": ALL[:2],
}
OTHERS = {
    "deepspeed": """deepspeed.ops.adam.DeepSpeedCPUAdam --rule adamw
deepspeed.ops.adam.DeepSpeedCPUAdam adamw_mode=False --rule adam""",
    "torch-optimi": """optimi.SGD lr=1e-2 momentum=0.9
optimi.Adam lr=1e-3
optimi.AdamW lr=1e-3
optimi.Lion lr=1e-4
optimi.RAdam lr=1e-3
optimi.StableAdamW lr=1e-3
optimi.Adan lr=1e-3""",
    "bitsandbytes": """bitsandbytes.optim.AdamW
bitsandbytes.optim.AdamW8bit
bitsandbytes.optim.Lion
bitsandbytes.optim.Lion8bit
bitsandbytes.optim.SGD lr=1e-2 momentum=0.9""",
    "torchao": """torchao.optim.AdamW8bit
torchao.optim.AdamW4bit
torchao.optim.AdamWFp8
torchao.optim._AdamW bf16_stochastic_round=True --rule adamw""",
    "pytorch-optimizer": """pytorch_optimizer.AdamP
pytorch_optimizer.AdaBelief rectify=False
pytorch_optimizer.AdaFactor
pytorch_optimizer.Adan
pytorch_optimizer.ADOPT
pytorch_optimizer.AdEMAMix weight_decouple=True
pytorch_optimizer.CAME
pytorch_optimizer.Lamb max_grad_norm=0.0
pytorch_optimizer.LaProp
pytorch_optimizer.Lion
pytorch_optimizer.MARS optimize_1d=True
pytorch_optimizer.ScheduleFreeAdamW
pytorch_optimizer.SOAP
pytorch_optimizer.StableAdamW
pytorch_optimizer.Tiger
pytorch_optimizer.Yogi""",
}


def field() -> list[tuple[str, str]]:
    """Packages, by their names on PyPI, with what is audited of them, as on a command line."""
    found = [("fastopt", f"fastopt.optim.{it}") for it in OURS.splitlines()]
    for name, ways in TORCHS.items():
        found += [("torch", f"torch.optim.{name} {way}") for way in ways]
    found += [(package, it) for package, lines in OTHERS.items() for it in lines.splitlines()]
    return found


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def audited(line: str) -> dict[str, Any]:
    """What an audit found, in short; `error` where it could not be told."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "audit.json"
        words = ["-m", "fastopt", "audit", *line.split(), "--quick", "--json", str(file)]
        environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1"}  # compiling takes minutes a tensor
        try:
            done = subprocess.run(
                [sys.executable, *words],
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                env=environment,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {TIMEOUT} s"}
        if done.returncode not in (0, 1):
            lines = done.stderr.strip().splitlines()
            return {"error": lines[-1] if lines else f"status {done.returncode}"}
        facts = json.loads(file.read_text())
    failed: dict[str, str] = {}
    for it in facts["answers"]:
        if it["status"] == "failed":
            failed.setdefault(it["check"], f"{it['dtype']}: {it['detail']}".removeprefix(": "))
    statuses: dict[str, set[str]] = {}
    for it in facts["answers"]:
        statuses.setdefault(it["check"], set()).add(it["status"])
    passed = [name for name, it in statuses.items() if "passed" in it and "failed" not in it]
    rest = len(statuses) - len(passed) - len(failed)
    return {"failed": failed, "passed": len(passed), "n/a": rest, "seconds": facts["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Audit the optimizers of the field.")
    parser.add_argument("--only", default="", help="what has this in its line; the rest stays as it is")
    arguments = parser.parse_args()
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}, "versions": {}}
    rows: dict[str, Any] = {}
    for package, line in field():
        if arguments.only not in line:
            continue
        if version(package) is None:
            print(f"{line}: {package} is not installed")
            continue
        known["versions"][package] = version(package)
        rows[line] = {"package": package, **audited(line)}
        failed = rows[line].get("error") or ", ".join(rows[line]["failed"]) or "passed"
        print(f"{line}: {failed}", flush=True)
        merged = {**known["rows"], **rows}
        facts = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "versions": known["versions"],
            "rows": {key: merged[key] for _, key in field() if key in merged},
        }
        RESULTS.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
