"""What is known of registers on a way through machine code, for scripts/machine_code.py.

A kernel that asks how its arrays are stored has a way for each answer. Given what lies in the
launch's parameters, the values that come of it are followed from instruction to instruction, as far as
these are moves, comparisons, selections and logic; all others are unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

Values = dict[str, int]  # of registers and predicates, by their names
WORD = 0xFFFFFFFF
COMPARISONS = {"GT": int.__gt__, "GE": int.__ge__, "LT": int.__lt__, "LE": int.__le__}
COMPARISONS |= {"NE": int.__ne__, "EQ": int.__eq__}
CONSTANT = re.compile(r"c\[0x0\]\[(?:U?R\w+\+)?(0x[0-9a-f]+)\]")
REGISTER = re.compile(r"(U?R)(\d+)")
PREDICATE = re.compile(r"U?P\d")


class Instruction(Protocol):
    predicate: str
    opcode: str
    operands: str


def value(values: Values, operand: str) -> int | None:
    """Of a register, a predicate or a number; None if it is unknown."""
    operand = operand.replace(".reuse", "")
    if operand in ("RZ", "URZ"):
        return 0
    if operand in ("PT", "UPT"):
        return 1
    if operand.startswith("!"):
        its = value(values, operand[1:])
        return None if its is None else 1 - its
    if re.fullmatch(r"-?(0x[0-9a-f]+|\d+)", operand):
        return int(operand, 0) & WORD
    return values.get(operand)


def table(lut: int, operands: list[int], bits: int) -> int:
    """A function of three operands, bit by bit."""
    a, b, c = operands
    return sum(
        (lut >> (4 * (a >> n & 1) + 2 * (b >> n & 1) + (c >> n & 1)) & 1) << n for n in range(bits)
    )


def compared(opcode: str, operands: list[int]) -> int | None:
    """What ISETP finds: of its operands, and of the predicates that it combines them with."""
    parts = opcode.split(".")
    a, b = operands[:2]
    if "U32" not in parts and "EX" not in parts:
        a, b = ((it ^ 0x80000000) - 0x80000000 for it in (a, b))
    if "EX" in parts:  # the upper words, and what came of the lower ones
        if parts[1] not in ("NE", "EQ"):
            return None
        lower = bool(operands[3])
        found = (a != b or lower) if parts[1] == "NE" else (a == b and lower)
    else:
        found = COMPARISONS[parts[1]](a, b)
    return int(found or operands[2]) if "OR" in parts else int(found and operands[2])


def result(
    values: Values, opcode: str, operands: list[str], memory: Mapping[int, int]
) -> Values | None:
    """What an instruction leaves in which registers; None if that is unknown."""
    name = opcode.split(".")[0].removeprefix("U")
    first = operands[0]
    if name == "LDC":
        found = CONSTANT.fullmatch(operands[1])
        if not found:
            return None
        size = 8 if ".64" in opcode else 1 if "8" in opcode else 2 if "16" in opcode else 4
        places = range(int(found[1], 16), int(found[1], 16) + size)
        if any(place not in memory for place in places):
            return None
        number = int.from_bytes(bytes(memory[place] for place in places), "little")
        register = REGISTER.fullmatch(first)
        assert register is not None
        above = {f"{register[1]}{int(register[2]) + 1}": number >> 32} if size == 8 else {}
        return {first: number & WORD} | above
    logic = name in ("LOP3", "PLOP3")
    sources = operands[2:] if name in ("ISETP", "PLOP3") or PREDICATE.fullmatch(first) else operands[1:]
    its = [value(values, it) for it in sources]
    needed = its[:3] if logic else its
    if any(it is None for it in needed):
        return None
    known = [it for it in its if it is not None]
    if opcode in ("MOV", "UMOV", "R2UR") or opcode.startswith("IMAD.MOV"):
        return {first: known[-1]}
    if name == "ISETP":
        found_so = compared(opcode, known)
        return None if found_so is None else {first: found_so}
    if name == "SEL":
        return {first: known[0] if known[2] else known[1]}
    if name == "PLOP3" and its[3] is not None:
        return {first: table(its[3], known[:3], 1)}
    if name == "LOP3" and its[3] is not None:
        number = table(its[3], known[:3], 32)
        return {first: int(number != 0) if PREDICATE.fullmatch(first) else number}
    if opcode in ("VIADD", "IMAD.IADD", "UIADD3", "IADD3") and not any(
        PREDICATE.fullmatch(it) for it in operands
    ):
        return {first: sum(known) & WORD}
    return None


def forget(values: Values, opcode: str, operands: list[str]) -> None:
    """What an instruction may write."""
    if opcode.startswith(("ST", "BRA", "BSSY", "BSYNC", "RED", "ATOM")) or not operands:
        return
    if opcode.startswith("R2P"):
        for name in [it for it in values if re.fullmatch(r"P\d", it)]:
            del values[name]
    for operand in operands[:3]:
        if PREDICATE.fullmatch(operand):
            values.pop(operand, None)
    register = REGISTER.match(operands[0])
    if register:
        words = 4 if ".128" in opcode else 2 if re.search(r"\.64|WIDE|CS2R", opcode) else 1
        for word in range(words):
            values.pop(f"{register[1]}{int(register[2]) + word}", None)


def step(values: Values, it: Instruction, memory: Mapping[int, int]) -> None:
    """Follow one instruction."""
    operands = [operand.strip() for operand in it.operands.split(",")]
    runs = value(values, it.predicate.removeprefix("@")) if it.predicate else 1
    if runs == 0:
        return
    left = result(values, it.opcode, operands, memory) if runs == 1 else None
    forget(values, it.opcode, operands)
    values.update(left or {})


def jumps(values: Values, it: Instruction) -> bool | None:
    """Whether a branch is taken; None if that is unknown."""
    asked = [it.predicate.removeprefix("@")] if it.predicate else []
    asked += re.findall(r"!?U?P\d", it.operands)
    known = [value(values, predicate) for predicate in asked]
    if 0 in known:
        return False
    return None if None in known else True
