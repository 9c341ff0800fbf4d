"""From symbols to instructions: what is fused, in which order, in which place each result lies.

Fusing changes no bit: 1 x and -1 x are x and -x, and a - b is a + -b.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
        self.results = {k: it for k, it in results.items() if it is not arrays[k]}
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
        if target is not None:  # who reads the array's old number comes first, where that can be
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
            before = self.schedule.arrays[k]
            still_read = self.last.get(before, -1) > i or before in self.wanted
            if not still_read:
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


class Numbering:
    """Counts a program's numbers through: the inputs, the constants, then what nodes make of them."""

    def __init__(self, inputs: Sequence[Number]) -> None:
        self.inputs = len(inputs)
        self.constants: list[float] = []
        self.nodes: list[tuple[int, Number]] = []
        self._number = {id(it): k for k, it in enumerate(inputs)}
        self._kept = list(inputs)
        self._of_constant: dict[str, int] = {}
        self._of_node: dict[tuple[str, tuple[int, ...]], int] = {}
        self._nodes: list[tuple[str, tuple[int, ...]]] = []

    def of(self, it: Number) -> int:
        """A number's own; constants' are counted from -2 on, downwards, nodes' from 2**20 on."""
        if id(it) in self._number:
            return self._number[id(it)]
        if it.op == "constant":
            place = self._of_constant.get(it.value.hex())
            if place is None:
                place = self._of_constant[it.value.hex()] = -2 - len(self.constants)
                self.constants.append(it.value)
        else:
            key = it.op, tuple(self.of(arg) for arg in it.args)
            place = self._of_node.get(key)
            if place is None:
                place = self._of_node[key] = (1 << 20) + len(self._nodes)
                self._nodes.append(key)
        self._kept.append(it)
        self._number[id(it)] = place
        return place

    @property
    def node_count(self) -> int:
        return len(self._nodes)

    def final(self, place: int) -> int:
        """The number as the program counts it, once all constants are known."""
        if place >= 1 << 20:
            return self.inputs + len(self.constants) + place - (1 << 20)
        return self.inputs - 2 - place if place < -1 else place

    def final_nodes(self) -> Iterator[tuple[int, int, int]]:
        for op, args in self._nodes:
            places = [self.final(arg) for arg in args]
            yield NUMBER_OPS[op], places[0], places[-1]


def allocated(arrays: Sequence[Symbol], results: dict[int, Symbol]) -> list[Instruction]:
    """The instructions that make `results` of arrays, each in its place."""
    code = Allocation(Schedule(arrays, results)).code
    if len(code) > _C.max_instructions:
        raise RuleError(f"{len(code)} instructions; expected at most {_C.max_instructions}")
    return code


def numbered(
    code: Sequence[Instruction],
    inputs: Sequence[Number],
    guards: Sequence[tuple[Number, bool]],
    arrays: int,
) -> _C.Traced:
    """The program as C++ takes it."""
    numbering = Numbering(inputs)
    asked = [(numbering.of(it), answer) for it, answer in guards]
    guard_nodes = numbering.node_count
    steps = []
    for it in code:
        operands = [*it.operands, *[it.operands[0] if it.operands else 0] * 3][:3]
        numbers = [numbering.of(n) for n in it.numbers]
        steps.append((OPS[it.op], it.to, operands, [*numbers, -1, -1][:2]))
    return _C.Traced(
        steps=[(op, to, *operands, *map(numbering.final, ns)) for op, to, operands, ns in steps],
        inputs=len(inputs),
        constants=numbering.constants,
        nodes=list(numbering.final_nodes()),
        guards=[(numbering.final(place), answer) for place, answer in asked],
        guard_nodes=guard_nodes,
        arrays=arrays,
        written=sum({1 << it.to for it in code if it.to < arrays}),
    )
