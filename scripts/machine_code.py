#!/usr/bin/env python3
"""What nvcc made of the CUDA kernels for an H100, read from their machine code: no GPU is needed.

    scripts/machine_code.py LIBRARY... [--write]

A LIBRARY is libfastopt_cuda.so, an object file or a cubin, of sm_90. For each family of kernels:
registers, warps a multiprocessor, stack, the bytes that a thread has on their way before it first needs
one of them, and instructions an element on the shortest way round the loop that moves the family's
bytes. What a division or a root does for rare operands is not on that way, nor what a block's first
thread does. Beside it stands what a multiprocessor can issue while memory moves an element, at 3.0 TB/s
(H100) and 4.3 TB/s (H200).

It fails where a family falls behind its row in docs/cuda.md; --write puts the table there. Needs
cuobjdump and nvdisasm: CUDA's, or those of `pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm`.
"""

from __future__ import annotations

import argparse
import heapq
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "cuda.md"
BEGIN, END = "<!-- machine code -->", "<!-- end of machine code -->"
HEADER = (
    "| kernel | registers | warps an SM | stack | bytes in flight a thread | instructions an element "
    "| affordable at 3.0 / 4.3 TB/s |\n|---|---|---|---|---|---|---|\n"
)
SMS, LANES, CLOCK = 132, 128, 1.755e9  # an H100's
REGISTERS, SHARED, MOST_WARPS, BLOCK_WARPS = 65536, 227 << 10, 64, 8


@dataclass(frozen=True)
class Family:
    """Kernels of one kind. `loads` and `stores`: bytes of a thread's way round the loop."""

    name: str
    symbol: str  # in its demangled name
    loads: int
    stores: int
    elements: int
    moved: float  # bytes an element, to and from memory
    products: int = 0  # wide ones that the way has at least: those of the random numbers
    program: tuple[str, ...] = ()  # instructions of a rule that is interpreted on that way


def step(rule: str, kind: str, states: int) -> str:
    compute = "double" if kind == "ArrayOf<double>" else "float"
    return f"StepKernel<{rule}<{compute}>, {compute}, {kind}, {states}u>"


DRAWS = 20  # two a round of Philox
ADAMW = ("sum", "sum_square", "root_plus", "sum_quotient")  # as fastopt.rules makes it
F32, F64, BF16 = "ArrayOf<float>", "ArrayOf<double>", "ArrayOf<bfloat16>"
FAMILIES = (
    Family("AdamW float32", step("Adam", F32, 3), 64, 48, 4, 28),
    Family("AdamW float64", step("Adam", F64, 3), 64, 48, 2, 56),
    Family("AdamW bfloat16", step("Adam", BF16, 3), 64, 48, 8, 14),
    Family("SGD float32", step("SGD", F32, 0), 32, 16, 4, 12),
    Family("SGD with momentum, float32", step("SGD", F32, 1), 48, 32, 4, 20),
    Family("SGD bfloat16", step("SGD", BF16, 0), 32, 16, 8, 6),
    Family("RMSprop float32", step("RMSprop", F32, 1), 48, 32, 4, 20),
    Family("AdamW as a rule, float32", f"ProgramKernel<float, {F32}, 4", 64, 48, 4, 28, 0, ADAMW),
    Family("AdamW as a rule, bfloat16", "ProgramKernel<float, MixedArray, 4", 32, 24, 4, 14, 0, ADAMW),
    Family("dropout float32", "DropoutElements<float, (fastopt::DropoutForm)0>", 32, 32, 8, 8, DRAWS),
    Family(
        "dropout bfloat16", "DropoutElements<bfloat16, (fastopt::DropoutForm)0>", 16, 16, 8, 4, DRAWS
    ),
)


# ---- the tools ------------------------------------------------------------------------------------


def tool(name: str) -> str:
    """A program of CUDA's, of the path or of a package."""
    packaged = Path(sysconfig.get_paths()["purelib"]) / "nvidia" / "cu13" / "bin" / name
    found = shutil.which(name) or (str(packaged) if packaged.is_file() else None)
    if found is None:
        raise SystemExit(f"machine_code: no {name}; pip install nvidia-cuda-{name} has it")
    if found == str(packaged):
        packaged.chmod(0o755)
    return found


def run(*command: str | Path, cwd: Path | None = None, text: str | None = None) -> str:
    return subprocess.run(
        command, cwd=cwd, input=text, check=True, capture_output=True, text=True
    ).stdout


# ---- reading --------------------------------------------------------------------------------------


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


def shortest_way(
    blocks: dict[str, Block], head: str, loads: int, stores: int, products: int, least: int
) -> Way | None:
    """From a block round to it again, over fast blocks, with so many bytes loaded and stored."""
    queue: list[tuple[int, int, str, int, int, int, tuple[str, ...]]] = [(0, 0, head, 0, 0, 0, ())]
    seen: set[tuple[str, int, int, int]] = set()
    serial = 0
    while queue:
        cost, _, label, loaded, stored, drawn, way = heapq.heappop(queue)
        if label == head and way and (loaded, stored, drawn) == (loads, stores, products):
            return Way(tuple(it for name in way for it in blocks[name].instructions))
        if (label, loaded, stored, drawn) in seen or (label == head and way):
            continue
        seen.add((label, loaded, stored, drawn))
        block = blocks.get(label)
        if block is None or block.is_slow:
            continue
        drawn = min(products, drawn + sum(it.is_wide_product for it in block.instructions))
        for more_loaded, more_stored in moved_by(block, least):
            if loaded + more_loaded > loads or stored + more_stored > stores:
                continue
            for following in block.following:
                serial += 1
                there = (following, loaded + more_loaded, stored + more_stored, drawn, (*way, label))
                heapq.heappush(queue, (cost + len(block.instructions), serial, *there))
    return None


def loop_of(text: str, loads: int, stores: int, products: int = 0, least: int = 0) -> tuple[Way, int]:
    """The shortest way round a loop that moves these bytes, and how many times a pass it does so."""
    blocks = blocks_of(text)
    for times in (1, 2, 4):
        goal = (times * loads, times * stores, times * products, least)
        ways = (shortest_way(blocks, head, *goal) for head in heads_of(blocks))
        found = [way for way in ways if way is not None]
        if found:
            return min(found, key=lambda way: len(way.instructions)), times
    raise SystemExit(f"machine_code: no loop loads {loads} and stores {stores} bytes")


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


COMPARISONS = {"GT": int.__gt__, "GE": int.__ge__, "LT": int.__lt__, "LE": int.__le__}
COMPARISONS |= {"NE": int.__ne__, "EQ": int.__eq__}


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
        return COMPARISONS[it.opcode.split(".")[1]](op, number) != (found[1] == "!")
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


# ---- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    name: str
    registers: int
    warps: int
    stack: int
    in_flight: int
    instructions: float
    affordable: tuple[float, float]

    def text(self) -> str:
        slow, fast = (f"{it:.0f}" for it in self.affordable)
        return (
            f"| {self.name} | {self.registers} | {self.warps} | {self.stack} | {self.in_flight} "
            f"| {self.instructions:.1f} | {slow} / {fast} |\n"
        )

    def worse_than(self, recorded: list[str]) -> list[str]:
        """In what it falls behind the cells of its recorded row."""
        warps, stack, in_flight, instructions = (float(it) for it in recorded[2:6])
        found = {
            f"{self.warps} warps an SM, recorded are {warps:.0f}": self.warps < warps,
            f"{self.stack} bytes of stack, recorded are {stack:.0f}": self.stack > stack,
            f"{self.in_flight} bytes in flight, recorded are {in_flight:.0f}": self.in_flight
            < in_flight,
            f"{self.instructions:.1f} instructions an element, recorded are {instructions:.1f}": (
                self.instructions > 1.05 * instructions
            ),
        }
        return [f"{self.name}: {what}" for what, is_worse in found.items() if is_worse]


def warps_of(registers: int, shared: int) -> int:
    """Those that a multiprocessor holds of blocks of 256 threads."""
    a_warp = -(-registers // 8) * 8 * 32
    blocks = min(REGISTERS // (a_warp * BLOCK_WARPS), SHARED // (shared + 1024))
    return min(MOST_WARPS, blocks * BLOCK_WARPS)


def affordable(moved: float) -> tuple[float, float]:
    slow, fast = (SMS * LANES * CLOCK * moved / speed for speed in (3.0e12, 4.3e12))
    return slow, fast


@dataclass
class Kernel:
    text: str
    registers: int
    stack: int
    shared: int


def kernels_of(library: Path) -> dict[str, Kernel]:
    """Every kernel for sm_90, by its demangled name."""
    cuobjdump, nvdisasm = tool("cuobjdump"), tool("nvdisasm")
    found: dict[str, Kernel] = {}
    with tempfile.TemporaryDirectory() as folder:
        if library.suffix == ".cubin":
            cubins = [library]
        else:
            run(cuobjdump, "-xelf", "sm_90", library.resolve(), cwd=Path(folder))
            cubins = sorted(Path(folder).glob("*.cubin"))
        for cubin in cubins:
            usage = run(cuobjdump, "-res-usage", cubin.resolve())
            code = run(nvdisasm, "-c", cubin.resolve())
            numbers = dict(
                re.findall(r"Function (\S+):\s+(REG:\d+ STACK:\d+ SHARED:\d+)", usage, re.MULTILINE)
            )
            names = run("c++filt", text="\n".join(numbers)).splitlines()
            for (symbol, used), name in zip(numbers.items(), names, strict=True):
                _, _, rest = code.partition(f"\n.text.{symbol}:\n")
                text, _, _ = rest.partition("\n\t.section")
                registers, stack, shared = (int(it) for it in re.findall(r":(\d+)", used))
                found[name.replace("fastopt::cuda::(anonymous namespace)::", "")] = Kernel(
                    text, registers, stack, shared
                )
    return found


def row_of(family: Family, kernels: dict[str, Kernel]) -> Row:
    names = [name for name in kernels if f"<{family.symbol}" in name]
    if len(names) != 1:
        raise SystemExit(f"machine_code: {len(names)} kernels are {family.symbol}")
    kernel = kernels[names[0]]
    way, times = loop_of(kernel.text, family.loads, family.stores, family.products)
    interpreted = program_cost(kernel.text, family.program) if family.program else 0
    return Row(
        family.name,
        kernel.registers,
        warps_of(kernel.registers, kernel.shared),
        kernel.stack,
        way.in_flight,
        (len(way.instructions) / times + interpreted) / family.elements,
        affordable(family.moved),
    )


def recorded(document: str) -> dict[str, list[str]]:
    """The cells of the table's rows, by their kernel."""
    table = document.partition(BEGIN)[2].partition(END)[0]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "|" in line
    ]
    return {row[0]: row for row in rows[2:]}


def with_table(document: str, rows: list[Row]) -> str:
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"machine_code: {DOCUMENT} has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{HEADER}{''.join(row.text() for row in rows)}{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("library", type=Path, nargs="+")
    parser.add_argument("--write", action="store_true", help="put the table into docs/cuda.md")
    arguments = parser.parse_args()
    kernels: dict[str, Kernel] = {}
    for library in arguments.library:
        kernels |= kernels_of(library)
    rows = [row_of(family, kernels) for family in FAMILIES]
    print(HEADER + "".join(row.text() for row in rows), end="")
    if arguments.write:
        DOCUMENT.write_text(with_table(DOCUMENT.read_text(), rows))
        return 0
    known = recorded(DOCUMENT.read_text())
    worse = [f"{row.name}: no recorded row" for row in rows if row.name not in known]
    worse += [it for row in rows if row.name in known for it in row.worse_than(known[row.name])]
    for it in worse:
        print(f"machine_code: {it}", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
