"""Machine code as nvdisasm lists it, for scripts/machine_code.py: instructions, their blocks, and the
shortest way round a loop.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import known_values

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Instruction:
    predicate: str
    opcode: str
    operands: str

    @property
    def is_predicated(self) -> bool:
        return self.predicate not in ("", "@PT")

    @property
    def is_wide_product(self) -> bool:
        return self.opcode.startswith(("IMAD.WIDE.U32", "IMAD.HI.U32", "UIMAD.WIDE.U32"))

    @property
    def bytes(self) -> int:
        """Of a load from or a store to global memory."""
        if not self.opcode.startswith(("LDG", "STG")):
            return 0
        for mark, size in ((".128", 16), (".64", 8), (".U16", 2), (".S16", 2), (".U8", 1), (".S8", 1)):
            if mark in self.opcode:
                return size
        return 4

    def registers(self) -> list[int]:
        """Of all operands, in their order."""
        return [int(number) for number in re.findall(r"\bR(\d+)", self.operands)]


@dataclass
class Block:
    """Instructions that run one after another, and the labels of what may come next."""

    instructions: list[Instruction]
    following: list[str]

    @property
    def is_slow(self) -> bool:
        """Whether it calls a subroutine: a division or root of a rare operand."""
        return any(it.opcode.startswith("CALL") for it in self.instructions)


INSTRUCTION = re.compile(r"/\*[0-9a-f]+\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
LABEL = re.compile(r"^(\.L_x_\d+):")
TARGET = re.compile(r"`\((\.L_x_\d+)\)")


def blocks_of(text: str) -> dict[str, Block]:
    """The blocks of a function as nvdisasm prints it, by their labels; "" is where it begins."""
    blocks: dict[str, Block] = {"": Block([], [])}
    current, unnamed, is_open = "", 0, True

    def begin(label: str) -> None:
        nonlocal current, is_open
        if is_open:
            blocks[current].following.append(label)
        blocks[label] = Block([], [])
        current, is_open = label, True

    for line in text.splitlines():
        if found := LABEL.match(line.strip()):
            begin(found[1])
            continue
        if not (found := INSTRUCTION.search(line)):
            continue
        it = Instruction(found[1] or "", found[2], found[3])
        if not is_open:  # what nobody jumps to, or what follows a jump
            unnamed += 1
            blocks[f"unnamed {unnamed}"] = Block([], [])
            current, is_open = f"unnamed {unnamed}", True
        blocks[current].instructions.append(it)
        name = it.opcode.split(".")[0]
        if name == "BRA":
            target = TARGET.search(it.operands)
            if target:
                blocks[current].following.append(target[1])
            # A uniform branch has its own predicate among the operands.
            is_open = it.is_predicated or bool(re.match(r"!?U?P\d", it.operands))
            if is_open:
                unnamed += 1
                begin(f"unnamed {unnamed}")
        elif name in ("EXIT", "RET") and not it.is_predicated:
            is_open = False
    return blocks


@dataclass(frozen=True)
class Way:
    """Instructions from a loop's head round to it again."""

    instructions: tuple[Instruction, ...]

    @property
    def in_flight(self) -> int:
        """Bytes whose loads come before the first instruction that needs one of them."""
        waiting: set[int] = set()
        total = 0
        for it in self.instructions:
            registers = it.registers()
            is_load = it.opcode.startswith("LDG")
            if waiting & set(registers[1:] if is_load else registers):
                return total
            if is_load and registers:
                total += it.bytes
                waiting |= {registers[0] + k for k in range(max(1, it.bytes // 4))}
        return total


def heads_of(blocks: dict[str, Block]) -> list[str]:
    """The blocks to which a later one, or the same, goes back."""
    places = {label: place for place, label in enumerate(blocks)}
    return sorted(
        {
            following
            for label, block in blocks.items()
            for following in block.following
            if following in places and places[following] <= places[label]
        },
        key=places.__getitem__,
    )


def moved_by(block: Block, least: int) -> set[tuple[int, int]]:
    """The bytes that a block may load and store, by accesses of at least so many: what has a predicate
    moves its own or none.
    """
    sums = {(0, 0)}
    for it in block.instructions:
        if it.bytes >= max(1, least):
            more = (it.bytes, 0) if it.opcode.startswith("LDG") else (0, it.bytes)
            moved = {(loaded + more[0], stored + more[1]) for loaded, stored in sums}
            sums = moved | sums if it.is_predicated else moved
    return sums


@dataclass(frozen=True)
class Goal:
    """What a way moves, by accesses of at least so many bytes, and the wide products on it."""

    loads: int
    stores: int
    products: int = 0
    least: int = 0


def ways_out(
    block: Block, known: known_values.Values, memory: Mapping[int, int]
) -> tuple[list[str], known_values.Values]:
    """The blocks that may come next, as far as what is known tells, and what is known there."""
    values = dict(known)
    for it in block.instructions:
        if memory:
            known_values.step(values, it, memory)
    last = block.instructions[-1] if block.instructions else None
    if memory and last is not None and last.opcode.startswith("BRA") and len(block.following) == 2:
        taken = known_values.jumps(values, last)  # its target stands first
        if taken is not None:
            return [block.following[0 if taken else 1]], values
    return block.following, values


def known_at(blocks: dict[str, Block], head: str, memory: Mapping[int, int]) -> known_values.Values:
    """What is known where a loop begins, on one way to it."""
    queue: list[tuple[str, known_values.Values]] = [("", {})]
    seen = set()
    for label, values in queue:
        if label == head:
            return values
        if label in seen or label not in blocks or blocks[label].is_slow:
            continue
        seen.add(label)
        following, after = ways_out(blocks[label], values, memory)
        queue += [(it, after) for it in following]
    return {}


def shortest_way(
    blocks: dict[str, Block], head: str, goal: Goal, memory: Mapping[int, int]
) -> Way | None:
    """From a block round to it again, over fast blocks, that moves what the goal says."""
    start = known_at(blocks, head, memory) if memory else {}
    queue: list[Any] = [(0, 0, head, 0, 0, 0, (), start)]
    seen = set()
    serial = 0
    while queue:
        cost, _, label, loaded, stored, drawn, way, values = heapq.heappop(queue)
        if (
            label == head
            and way
            and (loaded, stored, drawn) == (goal.loads, goal.stores, goal.products)
        ):
            return Way(tuple(it for name in way for it in blocks[name].instructions))
        state = (label, loaded, stored, drawn)  # what is known is all but the same on every way there
        if state in seen or (label == head and way):
            continue
        seen.add(state)
        block = blocks.get(label)
        if block is None or block.is_slow:
            continue
        drawn = min(goal.products, drawn + sum(it.is_wide_product for it in block.instructions))
        labels, after = ways_out(block, values, memory)
        for more_loaded, more_stored in moved_by(block, goal.least):
            if loaded + more_loaded > goal.loads or stored + more_stored > goal.stores:
                continue
            for following in labels:
                serial += 1
                moved = (loaded + more_loaded, stored + more_stored, drawn)
                there = (following, *moved, (*way, label), after)
                heapq.heappush(queue, (cost + len(block.instructions), serial, *there))
    return None


def loop_of(text: str, goal: Goal, memory: Mapping[int, int] | None = None) -> tuple[Way, int]:
    """The shortest way round a loop that moves a goal's bytes, and how many times a pass it does so."""
    blocks = blocks_of(text)
    for times in (1, 2, 4):
        whole = Goal(times * goal.loads, times * goal.stores, times * goal.products, goal.least)
        ways = (shortest_way(blocks, head, whole, memory or {}) for head in heads_of(blocks))
        found = [way for way in ways if way is not None]
        if found:
            return min(found, key=lambda way: len(way.instructions)), times
    raise SystemExit(f"machine_code: no loop loads {goal.loads} and stores {goal.stores} bytes")


def op_register(block: Block) -> str | None:
    """Where an interpreter's loop has the number of a program's instruction, if the block begins it."""
    for load in block.instructions:
        if load.opcode == "LDC.U16" and load.operands.endswith("+0x210]"):
            source = load.operands.split(",")[0]
            for it in block.instructions:
                operands = [operand.strip() for operand in it.operands.split(",")]
                if it.opcode == "LOP3.LUT" and operands[1:3] == [source, "0xff"]:
                    return operands[0]
    return None


def answer(block: Block, register: str, op: int) -> bool | None:
    """Whether the branch at a block's end is taken for this instruction of a program; None if it asks
    for something else.
    """
    branch = block.instructions[-1]
    found = re.fullmatch(r"@(!?)(P\d)", branch.predicate)
    if not found or not branch.opcode.startswith("BRA"):
        return None
    for it in reversed(block.instructions[:-1]):
        operands = [operand.strip() for operand in it.operands.split(",")]
        if operands[0] != found[2]:
            continue
        if not it.opcode.startswith("ISETP") or operands[2] != register:
            return None
        number = 0 if operands[3] == "RZ" else int(operands[3], 16)
        return known_values.COMPARISONS[it.opcode.split(".")[1]](op, number) != (found[1] == "!")
    return None


def cost_of(blocks: dict[str, Block], head: str, op: int) -> int:
    """Instructions from an interpreter's loop head round to it, for an instruction of a program."""
    register = op_register(blocks[head])
    assert register is not None
    cost, label = 0, head
    for _ in range(1000):
        block = blocks[label]
        cost += len(block.instructions)
        taken = answer(block, register, op)
        following = [it for it in block.following if it == head or not blocks[it].is_slow]
        if taken is not None and len(block.following) == 2:  # its target stands first
            label = block.following[0 if taken else 1]
        else:
            label = head if head in following else following[0]
        if label == head:
            return cost
    raise SystemExit(f"machine_code: instruction {op} of a program leads nowhere")


def program_cost(text: str, program: tuple[str, ...]) -> int:
    """What an interpreter's loop takes for a program, a packet of a thread."""
    names = (ROOT / "csrc" / "rules" / "program.h").read_text()
    ops = re.findall(r"X\((\w+)\)", names.partition("enum class Op")[0])
    blocks = blocks_of(text)
    heads = [label for label, block in blocks.items() if op_register(block)]
    if len(heads) != 1:
        raise SystemExit(f"machine_code: {len(heads)} loops interpret programs")
    return sum(cost_of(blocks, heads[0], ops.index(name)) for name in program)
