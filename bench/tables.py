"""Write the tables of measurements from the newest runs in bench/results.

python -m fastopt bench large small models tail lowbit --json bench/results/DATE-MACHINE.json
python bench/tables.py            # writes bench/results/README.md, and README.md between its markers
python bench/tables.py --check    # exits 1 if one of them is not what it would write

README.md gets the cases of `DIGEST`, a line for each; bench/results/README.md gets all.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fastopt.bench.results import Report, Result

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

# suite, tensors, step, elements
DIGEST = [
    ("large", "1 x 64M", "AdamW", 2**26),
    ("large", "1 x 64M", "SGD", 2**26),
    ("large", "1 x 64M", "RMSprop", 2**26),
    ("models", "ResNet-50", "AdamW", 25_557_032),
    ("models", "GPT-2 small", "AdamW", 124_439_808),
    ("small", "200 x 64", "AdamW", 12_800),
    ("small", "200 x 64", "SGD", 12_800),
    ("tail", "1 x 64M", "clip + AdamW + EMA", 2**26),
    ("tail", "200 x 64", "clip + AdamW + EMA", 12_800),
    ("lowbit", "1 x 64M", "AdamW bf16", 2**26),
    ("lowbit", "1 x 64M", "AdamW bf16, stochastic rounding", 2**26),
    ("lowbit", "1 x 64M", "AdamW float32, int8 state", 2**26),
    ("lbfgs", "1 x 1M", "LBFGS", 1_000_000),
    ("dropout", "1 x 64M", "float32 in place", 2**26),
    ("dropout", "512 x 1024", "MLP", 524_288),
]
DIGEST_ON_GPU = [
    ("large", "4096 x 64K", "AdamW", 2**28),
    ("large", "4096 x 64K", "SGD", 2**28),
    ("models", "GPT-2 small", "AdamW, replayed", 124_439_808),
    ("models", "GPT-2 small", "AdamW, host", 124_439_808),
    ("small", "200 x 64", "AdamW, host", 12_800),
    ("tail", "4096 x 64K", "clip + AdamW + EMA", 2**28),
    ("lowbit", "4096 x 64K", "AdamW float32, bf16 state", 2**28),
    ("lowbit", "4096 x 64K", "AdamW float32, int8 state", 2**28),
    ("lowbit", "4096 x 64K", "AdamW bf16", 2**28),
    ("lowbit", "4096 x 64K", "AdamW bf16, stochastic rounding", 2**28),
    ("lowbit", "4096 x 64K", "AdamW bf16, int8 state", 2**28),
    ("dropout", "256M", "dropout bfloat16", 2**28),
]
EXPLAINED = (
    "Medians of interleaved rounds. *Limit* is a loop that reads and writes the same bytes and adds "
    "once in between, on a GPU the device's own copy; *of limit* its time over fastopt's. In bold, how "
    "many times faster fastopt is than the peer, round by round."
)

Run = tuple[Path, Report, list[Result]]


def seconds(value: float) -> str:
    """A time in the unit that suits it."""
    return f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.0f} µs"


def spelled(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def tensors(result: Result) -> str:
    """What a case works on; dropout's arrays are named by their size only."""
    names = {10_000: "1 x 10K", 1_000_000: "1 x 1M", 2**26: "1 x 64M"}
    return names[result.elements] if result.case == "dropout" else result.case


def of_limit(result: Result) -> str:
    """The limit's time over fastopt's, unless it is that of a call."""
    ours = next(entry for entry in result.entries if entry.name == "fastopt")
    is_call = result.elements < 100_000 or result.work.endswith("host")
    return "–" if is_call else f"{result.limit_fraction(ours).median:.2f}"


def speedups(result: Result) -> dict[str, float]:
    """How many times faster fastopt is than each peer, the closest first."""
    peers = [entry for entry in result.entries if entry.name not in ("fastopt", "limit")]
    closest = sorted(peers, key=lambda entry: entry.seconds.median)
    return {entry.name: result.speedup(entry).median for entry in closest}


def row(result: Result) -> str:
    """One case: fastopt, its fraction of the limit, and the peers that come closest."""
    times = {entry.name: entry.seconds.median for entry in result.entries}
    ours = next(entry for entry in result.entries if entry.name == "fastopt")
    limit = result.matching("limit", ours).seconds.median
    others = "; ".join(
        f"{name} {seconds(times[name])} (**{ratio:.2f}×**)"
        for name, ratio in list(speedups(result).items())[:2]
    )
    return (
        f"| {tensors(result)} | {result.work} | {result.threads} | {seconds(ours.seconds.median)} "
        f"| {seconds(limit)} | {of_limit(result)} | {others} |"
    )


def gpu_of(report: Report) -> str | None:
    """The GPU that was measured."""
    gpu = report.machine.get("gpu")
    return gpu["name"] if gpu else None


def newest_runs() -> list[Run]:
    """The newest runs that have a suite which no newer one has, on a CPU or a GPU; with what is new of
    each."""
    paths = {path: Report.from_json(json.loads(path.read_text())) for path in RESULTS.glob("*.json")}
    newest_first = sorted(paths.items(), key=lambda item: item[1].machine["date"], reverse=True)
    runs: list[Run] = []
    seen: set[tuple[str, bool]] = set()
    for path, report in newest_first:
        on_gpu = gpu_of(report) is not None
        fresh = [result for result in report.results if (result.suite, on_gpu) not in seen]
        seen |= {(result.suite, on_gpu) for result in fresh}
        if fresh:
            runs.append((path, report, fresh))
    return runs


def machine_of(report: Report) -> str:
    machine = report.machine
    processor = gpu_of(report) or f"{machine['cpu']}, {machine['cpus']} CPUs"
    return f"{processor}, torch {machine['torch']}"


def all_tables(runs: list[Run]) -> str:
    """bench/results/README.md."""
    lines = ["# Measured", "", EXPLAINED]
    for path, report, results in runs:
        lines += [
            "",
            f"{report.machine['date'][:10]}, {machine_of(report)}: `{report.machine['command']}` "
            f"([all samples]({path.name})):",
            "",
            "| tensors | step | threads | fastopt | limit | of limit | the closest others |",
            "|---|---|---|---|---|---|---|",
            *(row(result) for result in results if result.suite != "curve"),
        ]
    return "\n".join(lines) + "\n"


def line_of(case: tuple[str, str, str, int], results: list[Result]) -> str | None:
    """A line of the digest: every thread count's ratio, and the two peers that come closest."""
    suite, on, work, elements = case
    found = [
        it
        for it in results
        if (it.suite, tensors(it), it.work, it.elements) == (suite, on, work, elements)
    ]
    if not found:
        return None
    ratios = [speedups(it) for it in sorted(found, key=lambda it: it.threads)]
    names = sorted(set.intersection(*map(set, ratios)), key=lambda it: min(r[it] for r in ratios))
    others = ", ".join(
        f"{name} **{' / '.join(spelled(r[name]) for r in ratios)}**" for name in names[:2]
    )
    fractions = " / ".join(of_limit(it) for it in found)
    step = f"dropout, {work}" if suite == "dropout" and suite not in work else work
    return f"| {on} | {step} | {fractions if '–' not in fractions else '–'} | {others} |"


def table(cases: list[tuple[str, str, str, int]], runs: list[Run]) -> list[str]:
    """The digest's lines of some runs."""
    results = [result for _, _, results in runs for result in results]
    return [
        "| tensors | step | of the limit | times faster than |",
        "|---|---|---|---|",
        *filter(None, (line_of(case, results) for case in cases)),
        "",
    ]


def machines_of(cases: list[tuple[str, str, str, int]], runs: list[Run]) -> str:
    """Those that have run a suite of the digest's."""
    suites = {case[0] for case in cases}
    found = {
        machine_of(report)
        for _, report, results in runs
        if any(result.suite in suites for result in results)
    }
    return "; ".join(sorted(found))


def digest(runs: list[Run]) -> str:
    """The text between README's markers."""
    on_cpu = [run for run in runs if gpu_of(run[1]) is None]
    on_gpu = [run for run in runs if gpu_of(run[1]) is not None]
    lines = [
        f"{machines_of(DIGEST, on_cpu)}; 1 / 2 threads. How many times faster fastopt is than the "
        "closest others, and what fraction it reaches of the speed at which a loop with one addition "
        "moves the same bytes:",
        "",
        *table(DIGEST, on_cpu),
    ]
    if on_gpu:
        lines += [
            f"{machines_of(DIGEST_ON_GPU, on_gpu)}; the limit is the device's own copy of the same "
            "bytes, *host* the time until `step()` returns, *replayed* a step's in a CUDA graph:",
            "",
            *table(DIGEST_ON_GPU, on_gpu),
        ]
    link = "[bench/results](bench/results/README.md)"
    return "\n".join([*lines, f"All cases and times, the commands and every sample: {link}."])


def main() -> int:
    runs = newest_runs()
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    texts = {
        readme: f"{before}{BEGIN}\n{digest(runs)}\n{END}{after}",
        RESULTS / "README.md": all_tables(runs),
    }
    if "--check" in sys.argv:
        return int(any(not path.exists() or path.read_text() != new for path, new in texts.items()))
    for path, text in texts.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
