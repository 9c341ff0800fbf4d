"""No instruction set leaks into another one's code, and no multiply-add is fused: read from binaries.

A template that two targets instantiate would be a weak symbol, and the linker would be free to hand
the AVX-512 copy to the baseline; a fused multiply-add rounds once where the reference rounds twice.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from fastopt import _C

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = Path(_C.__file__)
X86 = platform.machine() in ("x86_64", "AMD64")
COMPILER = os.environ.get("CXX", "g++")

needs_nm = pytest.mark.skipif(not shutil.which("nm"), reason="needs nm, of binutils")
needs_objdump = pytest.mark.skipif(not shutil.which("objdump"), reason="needs objdump, of binutils")
needs_compiler = pytest.mark.skipif(
    not shutil.which(COMPILER) or not (ROOT / "csrc").is_dir(),
    reason=f"needs {COMPILER} and the sources",
)


def output_of(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def symbols(file: Path, *options: str) -> dict[str, str]:
    """The symbols that nm lists, demangled: name to type."""
    listed = re.findall(r"^[0-9a-f ]* ([A-Za-z]) (.+)$", output_of("nm", "-C", *options, file), re.M)
    return {name: kind for kind, name in listed}


# ---- the extension, as it is installed ------------------------------------------------------------

# Instances of the standard library's templates and the run-time type information of its types, which
# libstdc++ declares with default visibility whatever a program asks for.
UNAVOIDABLE = re.compile(r"(std|__gnu_cxx)::|(typeinfo|typeinfo name|vtable) for ")


@needs_nm
def test_the_extension_exports_nothing_but_its_entry() -> None:
    exported = symbols(EXTENSION, "--dynamic", "--defined-only")
    assert exported.pop("PyInit__C") == "T"
    assert not [name for name in exported if "fastopt" in name or "pybind11" in name]
    assert not [name for name in exported if not UNAVOIDABLE.search(name)]


@needs_nm
def test_no_symbol_of_a_target_is_weak() -> None:
    """In the extension a target has local symbols only, if any: a release build is stripped."""
    in_targets = {
        name: kind
        for name, kind in symbols(EXTENSION).items()
        if re.search(r"fastopt::(scalar|avx2|avx512|neon)::", name)
    }
    assert all(kind.islower() and kind not in "uvw" for kind in in_targets.values()), in_targets


# x86: vfmadd213ps, vfnmsub132sd, vfmaddsub...; Arm: fmadd, fnmsub, fmla, fmls.
FUSED = re.compile(r"\s(v?fn?m(?:add|sub)\w*|fml[as]\w*)\s")


def fused_in(file: Path) -> list[str]:
    code = output_of("objdump", "--disassemble", "--no-show-raw-insn", file)
    assert "ret" in code, "a disassembly of functions shows their returns"
    return FUSED.findall(code)


@needs_objdump
def test_no_multiply_add_is_fused() -> None:
    assert fused_in(EXTENSION) == []


@needs_objdump
@needs_compiler
@pytest.mark.skipif(not X86, reason="names x86's flag")
def test_a_fused_multiply_add_would_be_found(tmp_path: Path) -> None:
    source, binary = tmp_path / "fused.cpp", tmp_path / "fused.o"
    source.write_text("float f(float a, float b) { return __builtin_sqrtf(a * b + a); }\n")
    flags = ["-O2", "-mfma", "-ffp-contract=fast", "-fno-math-errno"]
    output_of(COMPILER, *flags, "-c", source, "-o", binary)
    assert fused_in(binary)


# ---- each target's object file, of the installed build or compiled as CMake does ------------------


def cmake(file: str) -> str:
    """A CMake file without its comments."""
    path = ROOT / "cmake" / file
    return re.sub(r"#.*", "", path.read_text()) if path.is_file() else ""


def target_flags() -> dict[str, list[str]]:
    """Name to machine flags, of the targets that this machine's compiler can build."""
    calls = re.findall(r"fastopt_add_target\((\w+)\s*([^)]*)\)", cmake("Targets.cmake"))
    flags = {name: shlex.split(rest) for name, rest in calls if not rest.startswith("flags")}
    flags.pop("name", None)  # the function's own definition
    return {name: it for name, it in flags.items() if (name == "neon") != X86 or name == "scalar"}


def numerics_flags() -> list[str]:
    """The flags that keep the bits."""
    return re.findall(r"^\s*(-f[\w=-]+)\s*$", cmake("Numerics.cmake"), re.M)


def ways() -> list[str]:
    """The ways of storing, each of which is compiled once for a target."""
    found = re.search(r"set\(FASTOPT_WAYS ([\w\s]+)\)", cmake("Targets.cmake"))
    return found[1].split() if found else []


SOURCES = sorted((ROOT / "csrc/cpu").glob("target*.cpp"))
WAY = ROOT / "csrc/cpu/way.cpp"
OBJECTS = {source.stem: (source, "") for source in SOURCES} | {way: (WAY, way) for way in ways()}


def tables() -> set[str]:
    """What the dispatch takes from each target, `ways::way` for the rows of every way."""
    dispatch = (ROOT / "csrc/cpu/dispatch.cpp").read_text()
    return set(re.findall(r"extern const \w+ (\w+)", dispatch))


def tables_of(source: Path, way: str) -> set[str]:
    """What one of a target's object files defines of them."""
    defined = re.findall(r"^extern const \w+ (\w+)", source.read_text(), re.M)
    return {f"ways::{way}" if table == "FASTOPT_WAY" else table for table in defined}


@needs_compiler
def test_flags_and_tables_are_found() -> None:
    assert tables() - {"way"} == {table for source in SOURCES for table in tables_of(source, "")}
    assert tables_of(WAY, "mixed") == {"ways::mixed"}
    listed = re.findall(r"X\(target, (\w+)\)", (ROOT / "csrc/cpu/kernel.h").read_text())
    assert ways() == listed
    assert len(ways()) > 1
    assert all(source.name in cmake("Targets.cmake") for source in [*SOURCES, WAY])
    assert {"-ffp-contract=off", "-fno-math-errno"} <= set(numerics_flags())
    assert set(target_flags()) == set(_C.cpu_targets())


def built(source: Path, way: str, name: str) -> Path | None:
    """The object file that an installation from here left in build/, unless something is newer."""
    library = f"fastopt_{name}_{way}" if way else f"fastopt_{name}"
    pattern = f"build/cp*-cp*-*/CMakeFiles/{library}.dir/csrc/cpu/{source.name}.o"
    found = max(ROOT.glob(pattern), key=lambda it: it.stat().st_mtime, default=None)
    made_of = [it for folder in ("csrc", "cmake") for it in (ROOT / folder).rglob("*") if it.is_file()]
    newest = max(it.stat().st_mtime for it in made_of)
    return found if found is not None and found.stat().st_mtime > newest else None


def compiled(source: Path, way: str, name: str, binary: Path) -> Path:
    definitions = [f"-DFASTOPT_TARGET={name}", f"-DFASTOPT_SIMD_{name.upper()}"]
    definitions += [f"-DFASTOPT_WAY={way}"] if way else []
    standard = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", f"-I{ROOT / 'csrc'}"]
    flags = [*standard, *numerics_flags(), *target_flags()[name], *definitions]
    output_of(COMPILER, *flags, "-c", source, "-o", binary)
    return binary


@needs_nm
@needs_objdump
@needs_compiler
@pytest.mark.parametrize("name", target_flags())
@pytest.mark.parametrize("part", OBJECTS)
def test_a_target_is_its_tables_and_nothing_else(part: str, name: str, tmp_path: Path) -> None:
    source, way = OBJECTS[part]
    binary = built(source, way, name) or compiled(source, way, name, tmp_path / f"{name}.o")

    defined = symbols(binary, "--extern-only", "--defined-only")
    assert defined.keys() == {f"fastopt::{name}::{table}" for table in tables_of(source, way)}
    assert set(defined.values()) <= {"D", "R"}, "constant data, neither weak nor unique"
    from_libc = {"memcpy", "memmove", "memset"}
    assert not symbols(binary, "--undefined-only").keys() - {"_GLOBAL_OFFSET_TABLE_"} - from_libc
    assert ".init_array" not in output_of("objdump", "--section-headers", binary), "static initialisers"
    assert fused_in(binary) == []
