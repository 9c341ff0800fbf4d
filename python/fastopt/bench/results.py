"""What a run has measured, and its form as JSON.

A Report holds the machine and one Result per case and thread count; a Result holds one Entry per
contender, with every sample. All figures derive from the samples here, in one place for the table,
the plot and the comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fastopt.bench.timing import Contender, Spread, ratio

FORMAT = 1  # of the JSON


@dataclass(frozen=True)
class Entry:
    """One contender's measurements."""

    name: str
    target: str | None
    version: str | None
    moved_bytes: int
    repeats: int
    samples: list[float]  # seconds of one run, one figure a round
    kept_bytes: int | None = None  # for backward, where that was counted
    state_bytes: float | None = None  # memory of the states for each element, where measured

    @classmethod
    def of(cls, c: Contender) -> Entry:
        samples = list(c.samples)
        return cls(
            c.name,
            c.target,
            c.version,
            c.moved_bytes,
            c.repeats,
            samples,
            kept_bytes=c.kept_bytes,
            state_bytes=c.state_bytes,
        )

    @property
    def seconds(self) -> Spread:
        return Spread.of(self.samples)

    @property
    def gigabytes_per_second(self) -> float:
        return self.moved_bytes / self.seconds.median / 1e9


@dataclass(frozen=True)
class Result:
    """One case at one thread count."""

    suite: str
    case: str
    work: str
    threads: int
    tensors: int
    elements: int
    entries: list[Entry]

    @property
    def title(self) -> str:
        return f"{self.case}, {self.work}"

    def matching(self, name: str, entry: Entry) -> Entry:
        """The fastopt or limit entry with ``entry``'s target; the first one for other packages."""
        candidates = [e for e in self.entries if e.name == name]
        return next((e for e in candidates if e.target == entry.target), candidates[0])

    def limit_fraction(self, entry: Entry) -> Spread:
        """The limit's time over the entry's, round by round."""
        return ratio(self.matching("limit", entry).samples, entry.samples)

    def speedup(self, entry: Entry) -> Spread:
        """How many times fastopt is as fast as the entry, round by round."""
        return ratio(entry.samples, self.matching("fastopt", entry).samples)

    def label(self, entry: Entry) -> str:
        """The name, with the target where several were measured."""
        several = len({e.target for e in self.entries if e.target}) > 1
        return f"{entry.name} {entry.target}" if several and entry.target else entry.name

    def to_json(self) -> dict[str, Any]:
        """The fields, and the figures that can be derived from them, for readers of the file."""
        data = asdict(self)
        for entry, written in zip(self.entries, data["entries"], strict=True):
            samples = written.pop("samples")
            written |= {
                "seconds": asdict(entry.seconds),
                "gigabytes_per_second": entry.gigabytes_per_second,
                "limit_fraction": asdict(self.limit_fraction(entry)),
                "fastopt_speedup": asdict(self.speedup(entry)),
                "samples": samples,
            }
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        fields = {key: data[key] for key in cls.__dataclass_fields__}
        fields["entries"] = [
            Entry(**{key: entry[key] for key in Entry.__dataclass_fields__ if key in entry})
            for entry in data["entries"]
        ]
        return cls(**fields)


@dataclass(frozen=True)
class Report:
    """A whole run."""

    machine: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what could not be measured, and why

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "machine": self.machine,
            "notes": self.notes,
            "results": [result.to_json() for result in self.results],
        }

    @classmethod
    def from_json(cls, data: Any) -> Report:
        """Raises ValueError for anything that ``to_json`` has not made."""
        try:
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']}, expected {FORMAT}")
            results = [Result.from_json(result) for result in data["results"]]
            return cls(data["machine"], results, data["notes"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the JSON of a bench run ({error!r})") from None


def group_by_suite(results: Sequence[Result]) -> dict[tuple[str, int], list[Result]]:
    """The results of each suite and thread count, the suites in the order measured."""
    suites = list(dict.fromkeys(result.suite for result in results))
    groups: dict[tuple[str, int], list[Result]] = {}
    for result in sorted(results, key=lambda r: (suites.index(r.suite), r.threads)):
        groups.setdefault((result.suite, result.threads), []).append(result)
    return groups


def group_by_title(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each case and optimizer; more than one are a series over sizes."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.title, []).append(result)
    return groups


def size_unit(series: Sequence[Result]) -> str:
    """What grows along a series: the attribute's name."""
    return "tensors" if len({result.tensors for result in series}) > 1 else "elements"
