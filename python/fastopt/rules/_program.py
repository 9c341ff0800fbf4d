"""From symbols to instructions: what is fused, in which order, in which place each result lies.

Fusing changes no bit: 1 x and -1 x are x and -x, and a - b is a + -b.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastopt import _C

from ._errors import RuleError
from ._numbers import Number, as_number
from ._symbols import Symbol

OPS = {name: place for place, name in enumerate(_C.array_ops())}
NUMBER_OPS = {name: place for place, name in enumerate(_C.number_ops())}


@dataclass
class Instruction:
    """An operation on places, with its numbers: arrays come first, then registers."""

    op: str
    to: int
    operands: list[int]
    numbers: list[Number]


@dataclass(frozen=True)
class Lowered:
    """What one instruction makes: a fused form of a symbol."""

    op: str
    args: tuple[Symbol, ...]
    numbers: tuple[Number, ...]


class Fusion:
    """Chooses an instruction for every symbol that results need."""

    def __init__(self, results: Sequence[Symbol]) -> None:
        self.uses: Counter[Symbol] = Counter(results)
        seen: set[Symbol] = set()
        waiting = list(results)
        while waiting:
            if (it := waiting.pop()) not in seen:
                seen.add(it)
                self.uses.update(it.args)
                waiting.extend(it.args)
        self.lowered: dict[Symbol, Lowered] = {}

    def of(self, it: Symbol) -> Lowered:
        """The instruction for a symbol that is no input."""
        if it not in self.lowered:
            self.lowered[it] = self._lower(it)
        return self.lowered[it]

    def _is(self, it: Symbol, op: str) -> bool:
        """Whether this operation is needed nowhere else, so that another can take it over."""
        return it.op == op and self.uses[it] == 1

    def _scaled(self, it: Symbol) -> tuple[Number, Symbol]:
        """A number and what it multiplies."""
        if self._is(it, "scale"):
            return it.numbers[0], it.args[0]
        if self._is(it, "negative"):
            return as_number(-1), it.args[0]
        return as_number(1), it

    def _lower(self, it: Symbol) -> Lowered:
        if it.op in ("add", "subtract"):
            return self._sum(it)
        if it.op in ("add_number", "maximum_number") and self._is(it.args[0], "root"):
            fused = "root_plus" if it.op == "add_number" else "root_maximum"
            return Lowered(fused, it.args[0].args, it.numbers)
        if it.op == "add_number" and self._is(it.args[0], "scale"):
            scaled = it.args[0]
            if self._is(scaled.args[0], "root"):
                return Lowered("sum_root", scaled.args[0].args, scaled.numbers + it.numbers)
        if it.op == "minimum_number" and self._is(it.args[0], "maximum_number"):
            inner = it.args[0]
            return Lowered("clip", inner.args, inner.numbers + it.numbers)
        return Lowered(it.op, it.args, it.numbers)

    def _sum(self, it: Symbol) -> Lowered:
        first, second = (self._scaled(arg) for arg in it.args)
        if it.op == "subtract":
            second = -second[0], second[1]
        for (s, x), (t, y) in ((first, second), (second, first)):
            for op, fused in (
                ("square", "sum_square"),
                ("multiply", "sum_product"),
                ("divide", "sum_quotient"),
                ("sign", "sum_sign"),
            ):
                if self._is(y, op):
                    return Lowered(fused, (x, *y.args), (s, t))
        (s, x), (t, y) = first, second
        if x is it.args[0] and y is it.args[1]:
            return Lowered(it.op, it.args, ())
        return Lowered("sum", (x, y), (s, t))


class Schedule:
    """Puts instructions in an order in which results can be written to their arrays at once.

    `results` are what each written array is to hold.
    """

    def __init__(self, arrays: Sequence[Symbol], results: dict[int, Symbol]) -> None:
        self.arrays = list(arrays)
        self.results = {k: it for k, it in results.items() if k >= len(arrays) or it is not arrays[k]}
        self.fusion = Fusion(list(self.results.values()))
        self.order: dict[Symbol, None] = {}
        self._inputs = set(arrays)
        self._readers: dict[Symbol, list[Symbol]] = {}
        self._found: dict[Symbol, int] = {}  # in the order in which they are needed
        for it in self.results.values():
            self._find(it)
        self._needs: dict[Symbol, set[Symbol]] = {}
        self._target: dict[Symbol, int] = {}
        for k, it in self.results.items():
            self._target.setdefault(it, k)
        self._busy: set[Symbol] = set()
        for it in sorted(self.results.values(), key=lambda it: self._found.get(it, -1)):
            self._visit(it)

    def args(self, it: Symbol) -> tuple[Symbol, ...]:
        """What an instruction reads; nothing for an input."""
        return () if it in self._inputs else self.fusion.of(it).args

    def _find(self, it: Symbol) -> None:
        if it in self._inputs or it in self._found:
            return
        for arg in self.args(it):
            self._readers.setdefault(arg, []).append(it)
            self._find(arg)
        self._found[it] = len(self._found)

    def needs(self, it: Symbol) -> set[Symbol]:
        """Everything that an instruction needs, itself too."""
        if it not in self._needs:
            own = {it}
            for arg in self.args(it):
                own |= self.needs(arg)
            self._needs[it] = own
        return self._needs[it]

    def _visit(self, it: Symbol) -> None:
        if it in self._inputs or it in self.order or it in self._busy:
            return
        self._busy.add(it)
        for arg in self.args(it):
            self._visit(arg)
        target = self._target.get(it)
        if target is not None and target < len(
            self.arrays
        ):  # who reads the array's old number comes first, where that can be
            for reader in self._readers.get(self.arrays[target], []):
                if it not in self.needs(reader):
                    self._visit(reader)
        self.order.setdefault(it)
        self._busy.discard(it)


class Allocation:
    """Gives every result a place, and copies at the end what could not be written there at once."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.place = {it: k for k, it in enumerate(schedule.arrays)}
        self.free = list(range(_C.first_register + _C.max_registers - 1, _C.first_register - 1, -1))
        self.code: list[Instruction] = []
        order, fusion = schedule.order, schedule.fusion
        self.last = {arg: i for i, it in enumerate(order) for arg in fusion.of(it).args}
        self.wanted: dict[Symbol, list[int]] = {}
        for k, it in schedule.results.items():
            self.wanted.setdefault(it, []).append(k)
        for i, it in enumerate(order):
            self._emit(i, it)
        self._copy()

    def _emit(self, i: int, it: Symbol) -> None:
        lowered = self.schedule.fusion.of(it)
        operands = [self.place[arg] for arg in lowered.args]
        for arg in set(lowered.args):
            if self.last[arg] == i and arg not in self.wanted and self.place[arg] >= _C.first_register:
                self.free.append(self.place[arg])
        self.place[it] = self._place_for(i, it)
        self.code.append(Instruction(lowered.op, self.place[it], operands, list(lowered.numbers)))

    def _place_for(self, i: int, it: Symbol) -> int:
        for k in self.wanted.get(it, ()):
            is_free = k >= len(self.schedule.arrays)
            if not is_free:
                before = self.schedule.arrays[k]
                is_free = self.last.get(before, -1) <= i and before not in self.wanted
            if is_free:
                self.wanted[it].remove(k)
                self.wanted[it].insert(0, k)
                return k
        if not self.free:
            raise RuleError(
                f"more than {_C.max_registers} numbers of an element are in use at once; expected fewer"
            )
        return self.free.pop()

    def _copy(self) -> None:
        """What still lies elsewhere; an array's old number is read before it is overwritten."""
        waiting = [
            (k, self.place[it])
            for it, places in self.wanted.items()
            for k in places
            if self.place[it] != k
        ]
        while waiting:
            sources = [source for _, source in waiting]
            ready = next((pair for pair in waiting if pair[0] not in sources), None)
            if ready is None:  # a circle: one of its numbers waits in a register
                k, source = waiting.pop(0)
                register = self.free.pop()
                self.code.append(Instruction("copy", register, [source], []))
                waiting.append((k, register))
                continue
            waiting.remove(ready)
            self.code.append(Instruction("copy", ready[0], [ready[1]], []))


def numbers_of(results: Sequence[Symbol]) -> Iterator[Number]:
    """Every Number that these symbols come of."""
    seen: set[int] = set()
    waiting: list[Symbol | Number] = list(results)
    while waiting:
        it = waiting.pop()
        if id(it) in seen:
            continue
        seen.add(id(it))
        waiting.extend(it.args)
        if isinstance(it, Symbol):
            waiting.extend(it.numbers)
        else:
            yield it


class Numbering:
    """Counts a program's numbers through: inputs, the size and sums, constants, nodes by stages."""

    def __init__(self, inputs: Sequence[Number], sums: Sequence[Number]) -> None:
        self.inputs = len(inputs) + (1 + len(sums) if sums else 0)
        self.size = len(inputs)
        self.constants: list[float] = []
        self.nodes: list[tuple[str, tuple[int, ...], int]] = []  # op, operands, stage
        known = [*inputs, *([None] if sums else []), *sums]
        self._place = {id(it): k for k, it in enumerate(known) if it is not None}
        self._same: dict[tuple[Any, ...], int] = {}
        self._kept: list[Number] = list(inputs)  # whose ids stand in _place

    def of(self, it: Number) -> int:
        """A number's own; constants' are counted from -2 on, downwards, nodes' from NODES on."""
        if id(it) in self._place:
            return self._place[id(it)]
        if it.op == "size":
            return self.size
        args = () if it.op == "constant" else tuple(self.of(arg) for arg in it.args)
        key = (it.op, it.value.hex()) if it.op == "constant" else (it.op, args)
        place = self._same.get(key)
        if place is None and it.op == "constant":
            place = -2 - len(self.constants)
            self.constants.append(it.value)
        elif place is None:
            place = NODES + len(self.nodes)
            self.nodes.append((it.op, args, it.stage))
        self._same[key] = self._place[id(it)] = place
        self._kept.append(it)
        return place

    def close(self) -> None:
        """Once all numbers are known: their final places."""
        order = sorted(range(len(self.nodes)), key=lambda k: self.nodes[k][2])
        first = self.inputs + len(self.constants)
        self._final = {NODES + k: first + place for place, k in enumerate(order)}
        self._order = order

    def final(self, place: int) -> int:
        """The number as the program counts it."""
        if place >= NODES:
            return self._final[place]
        return self.inputs - 2 - place if place < -1 else place

    def final_nodes(self) -> Iterator[tuple[int, int, int]]:
        for k in self._order:
            op, args, _ = self.nodes[k]
            yield NUMBER_OPS[op], self.final(args[0]), self.final(args[-1])

    def known_before(self, stage: int) -> int:
        """How many nodes need no sum of this stage or a later one."""
        return sum(1 for _, _, own in self.nodes if own <= stage)


NODES = 1 << 20


@dataclass(frozen=True)
class Stage:
    """A pass over the tensor: what it leaves to be summed up, or, the last one, the step itself."""

    code: tuple[Instruction, ...]
    sums: tuple[Number, ...]


def stages_of(arrays: Sequence[Symbol], results: dict[int, Symbol]) -> list[Stage]:
    """The passes that make `results` of arrays, each in its place."""
    found: dict[int, Number] = {}
    for it in numbers_of(list(results.values())):
        if it.op in ("total", "squares"):
            found.setdefault(id(it), it)
    stages = []
    for stage in range(1, max((it.stage for it in found.values()), default=0) + 1):
        sums = [it for it in found.values() if it.stage == stage]
        if len(sums) > _C.max_summands:
            raise RuleError(
                f"{len(sums)} sums that do not depend on each other; expected at most {_C.max_summands}"
            )
        wanted = {_C.first_summand + k: it.args[0] for k, it in enumerate(sums)}
        stages.append(Stage(allocated(arrays, wanted), tuple(sums)))
    return [*stages, Stage(allocated(arrays, results), ())]


def allocated(arrays: Sequence[Symbol], results: dict[int, Symbol]) -> tuple[Instruction, ...]:
    """The instructions that make `results` of arrays, each in its place."""
    code = Allocation(Schedule(arrays, results)).code
    if len(code) > _C.max_instructions:
        raise RuleError(f"{len(code)} instructions; expected at most {_C.max_instructions}")
    return tuple(code)


def numbered(
    stages: Sequence[Stage],
    inputs: Sequence[Number],
    guards: Sequence[tuple[Number, bool]],
    kept: Sequence[Number],
    arrays: int,
) -> _C.Traced:
    """The program as C++ takes it."""
    numbering = Numbering(inputs, [it for stage in stages for it in stage.sums])
    asked = [(numbering.of(it), answer) for it, answer in guards]
    guard_nodes = len(numbering.nodes)
    after = [numbering.of(it) for it in kept]
    steps: list[list[tuple[int, int, list[int], list[int]]]] = []
    for stage in stages:
        steps.append([])
        for it in stage.code:
            operands = [*it.operands, *[it.operands[0] if it.operands else 0] * 3][:3]
            numbers = [numbering.of(n) for n in it.numbers]
            steps[-1].append((OPS[it.op], it.to, operands, [*numbers, -1, -1][:2]))
    numbering.close()
    return _C.Traced(
        stages=[
            (
                [(op, to, *operands, *map(numbering.final, ns)) for op, to, operands, ns in code],
                [it.op == "squares" for it in stage.sums],
                numbering.known_before(k),
            )
            for k, (stage, code) in enumerate(zip(stages, steps, strict=True))
        ],
        inputs=numbering.inputs,
        constants=numbering.constants,
        nodes=list(numbering.final_nodes()),
        guards=[(numbering.final(place), answer) for place, answer in asked],
        guard_nodes=guard_nodes,
        arrays=arrays,
        written=sum({1 << it.to for it in stages[-1].code if it.to < arrays}),
        kept=[numbering.final(place) for place in after],
    )
