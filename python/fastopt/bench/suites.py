"""The suites: which tensors are worked on, and by whom.

A new suite is one entry in SUITES: its cases, and a function that makes a case's arrays and enters
the contenders, among them one named "limit" and one named "fastopt" for each CPU target.

Whether a step finds its arrays in a cache is not steered but follows from their size, as it does in
training:

- large: cold. The arrays are far larger than any cache; each step streams them from memory.
- small: warm. Everything fits in the second-level cache, and step follows step; what is measured is
  the way from Python to the kernel and back. The limit is then what one call into C++ costs.
- tail: as large, models and small, whose tensors it takes.
- dropout: warm up to a million elements, cold at 64 million; see dropout.py.
- lowbit: cold, as large.
- rules: cold at 64 million elements, warm at 32 thousand and at 200 x 64.
- lbfgs: cold where the last-level cache is smaller than 100 MB, but for the small case.
- models: cold, but for what a very large last-level cache keeps of the smaller models.
- curve: from warm to cold; the bends are the caches.

With --quick all are warm: for trying things out, not for figures to quote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from fastopt.bench import dropout, lbfgs, lowbit, peers, rules
from fastopt.bench.shapes import MODELS, Shape, count, shrink
from fastopt.bench.tail import torch_tail
from fastopt.bench.timing import Contender
from fastopt.bench.workload import SETTINGS, Workload, needed_bytes

Tensors = dict[str, list[tuple[Shape, ...]]]  # by the name of the case


@dataclass(frozen=True)
class Case:
    """One piece of work on tensors of these shapes."""

    name: str
    work: str  # an optimizer of workload.SETTINGS, on float32, or one of lowbit.WORKS, rules.WORKS
    shapes: tuple[Shape, ...]


@dataclass
class Scene:
    """What a run asks of a case."""

    targets: list[str]
    threads: int
    compile: bool = False  # whether peers that need torch.compile join
    show: Callable[[str], object] = lambda text: None  # told who prepares
    failed: set[str] = field(default_factory=set)  # takes the errors of those that cannot join


Enter = Callable[[Scene], list[Contender]]


@dataclass(frozen=True)
class Suite:
    """What ``python -m fastopt bench NAME`` measures."""

    description: str
    rounds: int
    cases: Callable[[bool, Sequence[str] | None], list[Case]]  # quick or not; optimizers asked for
    prepare: Callable[[Case], Enter]  # makes the arrays
    needed_bytes: Callable[[Case], int]


def limits_and_ours(workload: Workload, scene: Scene) -> Iterator[Contender]:
    """The limit and fastopt's step on every target."""
    for target in scene.targets:
        yield workload.limit(target, scene.threads)
        yield workload.ours(target)


def step_suite(
    description: str,
    rounds: int,
    tensors: Callable[[bool], Tensors],
    optimizers: Sequence[str],
    allowed: Callable[[peers.Peer], bool] = lambda peer: peer.state_size == 4,
) -> Suite:
    """A suite of optimizers' steps; ``optimizers`` unless others are asked for."""

    def cases(quick: bool, chosen: Sequence[str] | None) -> list[Case]:
        return [
            Case(name, optimizer, shapes)
            for name, series in tensors(quick).items()
            for optimizer in chosen or optimizers
            if optimizer in SETTINGS
            for shapes in series
        ]

    def prepare(case: Case) -> Enter:
        workload = Workload(case.work, case.shapes)

        def enter(scene: Scene) -> list[Contender]:
            joining = [peer for peer in peers.PEERS if allowed(peer)]
            theirs = peers.join(workload, joining, scene.compile, scene.failed, scene.show)
            return [*limits_and_ours(workload, scene), *theirs]

        return enter

    def needed(case: Case) -> int:
        return needed_bytes(case.work, case.shapes)

    return Suite(description, rounds, cases, prepare, needed)


def tail_suite() -> Suite:
    """Clipping and averaging in the step, against three calls."""
    works = ("clip + AdamW", "clip + AdamW + EMA")

    def cases(quick: bool, chosen: Sequence[str] | None) -> list[Case]:
        tensors = large(quick) | {"200 x 64": small(quick)["200 x 64"]}
        tensors |= {name: shapes for name, shapes in models(quick).items() if name == "GPT-2 small"}
        return [Case(name, work, shapes[0]) for name, shapes in tensors.items() for work in works]

    def prepare(case: Case) -> Enter:
        workload = Workload(case.work, case.shapes)

        return lambda scene: [*limits_and_ours(workload, scene), torch_tail(workload)]

    return Suite(
        "clipping and averaging inside the step (cold, but for 200 x 64)",
        15,
        cases,
        prepare,
        lambda case: needed_bytes(case.work, case.shapes),
    )


def dropout_suite() -> Suite:
    """Dropout of one array, and of networks forwards and backwards, beside torch's."""

    def cases(quick: bool, chosen: Sequence[str] | None) -> list[Case]:
        sizes = (10_000, 100_000) if quick else (10_000, 1_000_000, 64 << 20)
        batch, width = (8, 64) if quick else (512, 1024)
        one = [Case("dropout", work, ((size,),)) for work in list(dropout.WORKS)[:4] for size in sizes]
        return [
            *one,
            Case(
                f"{batch // 64 or 1} x 64 x {width // 2}",
                "transformer layer",
                ((batch // 64 or 1, 64, width // 2),),
            ),
            Case(f"{batch} x {width}", "MLP", ((batch, width),)),
            Case(f"{batch} x {width}", "the MLP's dropout", ((batch, width),) * dropout.LAYERS),
        ]

    def prepare(case: Case) -> Enter:
        return lambda scene: dropout.WORKS[case.work](case.shapes, scene.targets)

    return Suite(
        "dropout beside torch's: one array (warm, the largest cold), networks",
        15,
        cases,
        prepare,
        lambda case: dropout.needed_bytes(case.work, case.shapes),
    )


def lowbit_suite() -> Suite:
    """Parameters and states in fewer bits, against torch's fused step of the same parameters."""

    def cases(quick: bool, chosen: Sequence[str] | None) -> list[Case]:
        # Two dimensions, since 8-bit states have a scale for every 256 elements of a row.
        name, shape = ("1 x 1M", (16, 1 << 16)) if quick else ("1 x 64M", (1 << 10, 1 << 16))
        return [Case(name, work, (shape,)) for work in lowbit.WORKS]

    def prepare(case: Case) -> Enter:
        workload = lowbit.LowbitWorkload(case.work, case.shapes)

        def enter(scene: Scene) -> list[Contender]:
            joining = lowbit.peers_of(workload.storage)
            theirs = list(peers.join(workload, joining, scene.compile, scene.failed, scene.show))
            for contender in theirs:
                if not contender.name.startswith("torch fused"):
                    contender.most_rounds = lowbit.PEER_ROUNDS
            return [*limits_and_ours(workload, scene), *theirs]

        return enter

    return Suite(
        "parameters and states stored in fewer bits (cold)",
        11,
        cases,
        prepare,
        lambda case: lowbit.NEEDED * count(case.shapes),
    )


def rules_suite() -> Suite:
    """Rules in Python beside their compiled kernels, plain PyTorch and torch.compile."""

    def cases(quick: bool, chosen: Sequence[str] | None) -> list[Case]:
        name, shape = ("1 x 1M", (16, 1 << 16)) if quick else ("1 x 64M", (1 << 10, 1 << 16))
        works = [it for it in chosen or rules.WORKS if it in rules.WORKS]
        large = [Case(name, work, (shape,)) for work in works]
        warm = [Case("1 x 32K", work, ((1 << 15,),)) for work in works]
        several = [Case("200 x 64", work, ((64,),) * 200) for work in works]
        return [*large, *warm, *several, Case("1 x 64", rules.FIRST, ((64,),))]

    def prepare(case: Case) -> Enter:
        if case.work == rules.FIRST:
            return lambda scene: list(rules.first_steps(scene.targets, scene.compile))
        arrays = rules.Arrays(rules.WORKS[case.work], case.shapes)
        return lambda scene: list(arrays.contenders(scene.targets, scene.threads, scene.compile))

    return Suite(
        "rules in Python beside compiled kernels (cold, in cache, many small ones, first step)",
        11,
        cases,
        prepare,
        lambda case: rules.NEEDED * count(case.shapes),
    )


def lbfgs_suite() -> Suite:
    """An iteration of L-BFGS beside torch's."""

    def cases(quick: bool, chosen: Sequence[str] | None) -> list[Case]:
        sizes = {"1 x 1000": 1000} | ({} if quick else {"1 x 1M": 1_000_000})
        return [Case(name, "LBFGS", ((size,),)) for name, size in sizes.items()]

    def prepare(case: Case) -> Enter:
        return lambda scene: lbfgs.contenders(case.shapes, scene.targets, scene.threads)

    return Suite(
        f"one iteration of L-BFGS with {lbfgs.HISTORY} pairs",
        15,
        cases,
        prepare,
        lambda case: lbfgs.NEEDED * count(case.shapes),
    )


def large(quick: bool) -> Tensors:
    return {"1 x 1M": [((1 << 20,),)]} if quick else {"1 x 64M": [((64 << 20,),)]}


def small(quick: bool) -> Tensors:
    return {"200 x 64": [((64,),) * 200], "1 x 64": [((64,),)]}


def models(quick: bool) -> Tensors:
    factor = 8 if quick else 1
    return {name: [tuple(shrink(shapes(), factor))] for name, shapes in MODELS.items()}


def curve(quick: bool) -> Tensors:
    largest, most = (100_000, 100) if quick else (100_000_000, 10_000)
    return {
        "one tensor": [((size,),) for size in half_decades(100, largest)],
        "tensors of 64": [((64,),) * number for number in half_decades(1, most)],
    }


def half_decades(first: int, last: int) -> list[int]:
    """1, 3, 10, 30, ... times ``first``, up to ``last``."""
    values = [first, 3 * first]
    while values[-1] < last:
        values.append(10 * values[-2])
    return [value for value in values if value <= last]


ALL = ("AdamW", "SGD", "Adagrad", "RMSprop")

SUITES = {
    "large": step_suite(
        "one tensor far larger than the caches (cold)",
        rounds=15,
        tensors=large,
        optimizers=ALL,
        allowed=lambda peer: True,  # also those that keep less state and so move less
    ),
    "small": step_suite("many small tensors, and one (warm)", rounds=31, tensors=small, optimizers=ALL),
    "models": step_suite(
        "the tensors of well-known networks (cold)",
        rounds=11,
        tensors=models,
        optimizers=("AdamW", "SGD"),
    ),
    "curve": step_suite(
        "from small to large (warm to cold)",
        rounds=11,
        tensors=curve,
        optimizers=("AdamW",),
        allowed=lambda peer: peer.name in ("torch fused", "DeepSpeed CPU"),
    ),
    "tail": tail_suite(),
    "dropout": dropout_suite(),
    "lowbit": lowbit_suite(),
    "rules": rules_suite(),
    "lbfgs": lbfgs_suite(),
}
