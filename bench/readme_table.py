"""Write README's tables of measurements from the newest runs in bench/results.

python -m fastopt bench large small models tail lowbit --json bench/results/DATE-MACHINE.json
python bench/readme_table.py            # rewrites README.md between its two markers
python bench/readme_table.py --check    # exits 1 if README.md is not what it would write
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fastopt.bench.results import Report, Result

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def seconds(value: float) -> str:
    """A time in the unit that suits it."""
    return f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.0f} µs"


def row(result: Result) -> str:
    """One case: fastopt, its fraction of the limit, and the peers that come closest."""
    ours = next(entry for entry in result.entries if entry.name == "fastopt")
    limit = result.matching("limit", ours)
    peers = [entry for entry in result.entries if entry.name not in ("fastopt", "limit")]
    closest = sorted(peers, key=lambda entry: entry.seconds.median)[:2]
    others = "; ".join(
        f"{entry.name} {seconds(entry.seconds.median)} (**{result.speedup(entry).median:.2f}×**)"
        for entry in closest
    )
    in_cache = result.elements < 100_000  # where the limit is the cost of one call
    of_limit = "–" if in_cache else f"{result.limit_fraction(ours).median:.2f}"
    return (
        f"| {result.case} | {result.work} | {result.threads} | {seconds(ours.seconds.median)} "
        f"| {seconds(limit.seconds.median)} | {of_limit} | {others} |"
    )


def newest_runs() -> dict[str, list[Result]]:
    """Each suite's results from the newest run that has it, by what the run was."""
    paths = {path: Report.from_json(json.loads(path.read_text())) for path in RESULTS.glob("*.json")}
    newest_first = sorted(paths.items(), key=lambda item: item[1].machine["date"], reverse=True)
    runs: dict[str, list[Result]] = {}
    seen: set[str] = set()
    for path, report in newest_first:
        fresh = [result for result in report.results if result.suite not in seen]
        seen |= {result.suite for result in fresh}
        if fresh:
            machine = report.machine
            title = (
                f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['date'][:10]}, "
                f"torch {machine['torch']}; `{machine['command']}` "
                f"([all samples](bench/results/{path.name}))"
            )
            runs[title] = fresh
    return runs


def text_of(runs: dict[str, list[Result]]) -> str:
    """The text between the markers."""
    lines = [
        "Medians of interleaved rounds. *Limit* is a loop that reads and writes the same bytes and "
        "adds once in between; *of limit* its time over fastopt's. In bold, how many times faster "
        "fastopt is than the peer, round by round.",
    ]
    for title, results in runs.items():
        lines += [
            "",
            f"{title}:",
            "",
            "| tensors | step | threads | fastopt | limit | of limit | the closest others |",
            "|---|---|---|---|---|---|---|",
            *(row(result) for result in results if result.suite != "curve"),
        ]
    return "\n".join(lines)


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    new = f"{before}{BEGIN}\n{text_of(newest_runs())}\n{END}{after}"
    if "--check" in sys.argv:
        return int(new != text)
    readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
