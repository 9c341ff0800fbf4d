#!/usr/bin/env python3
"""What nvcc made of the CUDA kernels for an H100, read from their machine code: no GPU is needed.

    scripts/machine_code.py LIBRARY... [--write]

A LIBRARY is libfastopt_cuda.so, an object file or a cubin, of sm_90. For each family of kernels:
registers, warps a multiprocessor, stack, the bytes that a thread has on their way before it first needs
one of them, and instructions an element on the shortest way round the loop that moves the family's
bytes. What a division or a root does for rare operands is not on that way, nor what a block's first
thread does; where a kernel asks how its arrays are stored, the way is that of the family's. Beside it
stands what a multiprocessor can issue while memory moves an element, at 3.0 TB/s
(H100) and 4.3 TB/s (H200).

It fails where a family falls behind its row in docs/cuda.md; --write puts the table there. Needs
cuobjdump and nvdisasm: CUDA's, or those of `pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import machine_listing as listing

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
    least: int = 0  # bytes of the accesses that are counted
    memory: Mapping[int, int] = field(default_factory=dict)  # the launch's parameters, as far as given


def step(rule: str, kind: str, states: int) -> str:
    compute = "double" if kind == "ArrayOf<double>" else "float"
    return f"StepKernel<{rule}<{compute}>, {compute}, {kind}, {states}u>"


# Where a table's first item lies among the parameters of a launch, and what of it in there
# (csrc/cuda/table.h, face.h).
ITEMS, AVERAGE, DTYPES = 0x210 + 192, 56, 132
KINDS = ("float32", "float64", "bfloat16", "float16", "signed8", "root8")  # csrc/numeric/dtype.h
MASTERS = ("none", "low_half", "whole", "stochastic")  # csrc/cpu/packing.h


def stored(*kinds: str) -> dict[int, int]:
    """The parameters, byte by byte, of a launch on arrays of these kinds, without an average."""
    fields = {AVERAGE: bytes(8), DTYPES: bytes(map(KINDS.index, kinds))}
    return {ITEMS + at + n: byte for at, its in fields.items() for n, byte in enumerate(its)}


def packed(rule: str, states: int, storage: str) -> str:
    return f"PackedKernel<{rule}<float>, {states}u, {storage}"


def one_storage(numbers: str, states: str, master: str) -> str:
    """The name of the kind of storage that the compiler knows."""
    kinds = (f"(fastopt::DType){KINDS.index(it)}" for it in (numbers, states))
    return f"OneStorage<{', '.join(kinds)}, (fastopt::Master){MASTERS.index(master)}"


DRAWS, ROUNDING_DRAWS = 20, 14  # two a round of Philox
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
    Family(
        "AdamW float32, bfloat16 states",
        step("Adam", "MixedArray", 3),
        *(48, 32, 4, 20),
        memory=stored("float32", "float32", "bfloat16", "bfloat16"),
    ),
    Family(
        "AdamW float32, int8 states",
        packed("Adam", 3, one_storage("float32", "signed8", "none")),
        *(80, 48, 8, 16),
        least=8,
    ),
    Family(
        "AdamW bfloat16, int8 states",
        packed("Adam", 3, one_storage("bfloat16", "signed8", "none")),
        *(48, 32, 8, 10),
        least=8,
    ),
    Family(
        "AdamW bfloat16 with masters",
        packed("Adam", 3, "SplitStorage"),
        *(112, 96, 8, 26),
        least=8,
        memory=stored("bfloat16", "bfloat16", "float32", "float32"),
    ),
    Family(
        "AdamW bfloat16, random rounding",
        packed("Adam", 3, one_storage("bfloat16", "bfloat16", "stochastic")),
        *(64, 48, 8, 14, ROUNDING_DRAWS),
        least=8,
    ),
    Family("norm float32", "SumKernel>", 32, 0, 8, 4),
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
    goal = listing.Goal(family.loads, family.stores, family.products, family.least)
    way, times = listing.loop_of(kernel.text, goal, family.memory)
    interpreted = listing.program_cost(kernel.text, family.program) if family.program else 0
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
