"""scripts/machine_code.py: what it reads of a listing, and that it tells when a kernel falls behind."""

import importlib.util
import sys
from typing import Any

import pytest

from _walk import ROOT

# A loop as nvdisasm prints it: two loads, a division that may have to call, two stores. Before it, a
# loop that moves nothing.
LISTING = """
        /*0000*/                   S2R R0, SR_TID.X ;
.L_x_0:
        /*0010*/                   VIADD R0, R0, 0x1 ;
        /*0020*/                   ISETP.NE.AND P0, PT, R0, RZ, PT ;
        /*0030*/               @P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0040*/                   LDG.E.128 R4, desc[UR6][R2.64] ;
        /*0050*/                   LDG.E.128 R8, desc[UR6][R12.64] ;
        /*0060*/               @P1 LDG.E R20, desc[UR6][R14.64] ;
        /*0070*/                   FADD R4, R4, R8 ;
        /*0080*/                   BSSY B0, `(.L_x_3) ;
        /*0090*/              @!P0 BRA `(.L_x_2) ;
        /*00a0*/                   CALL.REL.NOINC `($__internal_0_$__slowpath) ;
        /*00b0*/                   BRA `(.L_x_3) ;
.L_x_2:
        /*00c0*/                   FMUL R4, R4, R8 ;
.L_x_3:
        /*00d0*/                   BSYNC B0 ;
        /*00e0*/                   STG.E.128 desc[UR6][R2.64], R4 ;
        /*00f0*/                   STG.E.64 desc[UR6][R12.64], R8 ;
        /*0100*/               @P2 BRA `(.L_x_1) ;
        /*0110*/                   EXIT ;
"""
ROUND = 11  # instructions of the second loop, on the way that does not call

# An interpreter's loop: it asks for 0, then for 1; each of these leads back.
DISPATCH = """
.L_x_9:
        /*0000*/                   LDC.U16 R17, c[0x0][R33+0x210] ;
        /*0010*/                   LOP3.LUT R22, R17, 0xff, RZ, 0xc0, !PT ;
        /*0020*/                   ISETP.NE.AND P0, PT, R22, RZ, PT ;
        /*0030*/              @!P0 BRA `(.L_x_10) ;
        /*0040*/                   ISETP.GT.AND P0, PT, R22, 0x1, PT ;
        /*0050*/               @P0 BRA `(.L_x_11) ;
        /*0060*/                   FADD R1, R1, R2 ;
        /*0070*/                   FADD R1, R1, R2 ;
.L_x_10:
        /*0080*/                   STS [R28], R1 ;
.L_x_11:
        /*0090*/              @!P2 BRA `(.L_x_9) ;
        /*00a0*/                   EXIT ;
"""


@pytest.fixture(scope="module")
def reader() -> Any:
    spec = importlib.util.spec_from_file_location("machine_code", ROOT / "scripts" / "machine_code.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_way_round_a_loop_moves_its_bytes_and_calls_nothing(reader: Any) -> None:
    way, times = reader.loop_of(LISTING, 32, 24)
    assert (len(way.instructions), times) == (ROUND, 1)
    assert not any(it.opcode.startswith("CALL") for it in way.instructions)
    way, times = reader.loop_of(LISTING, 36, 24)  # what has a predicate may load, too
    assert (len(way.instructions), times) == (ROUND, 1)
    way, times = reader.loop_of(LISTING, 16, 12)  # unrolled twice
    assert (len(way.instructions), times) == (ROUND, 2)
    with pytest.raises(SystemExit, match="no loop loads 48 and stores 24 bytes"):
        reader.loop_of(LISTING, 48, 24)


def test_bytes_in_flight_end_where_one_is_needed(reader: Any) -> None:
    way, _ = reader.loop_of(LISTING, 32, 24)
    assert way.in_flight == 36
    needed = LISTING.replace("LDG.E.128 R8, desc[UR6][R12.64]", "LDG.E.128 R8, desc[UR6][R6.64]")
    assert reader.loop_of(needed, 32, 24)[0].in_flight == 16


def test_an_instruction_of_a_program_takes_its_own_way(reader: Any) -> None:
    blocks = reader.blocks_of(DISPATCH)
    assert reader.op_register(blocks[".L_x_9"]) == "R22"
    assert [reader.cost_of(blocks, ".L_x_9", op) for op in range(3)] == [6, 10, 7]


def test_warps_follow_registers_and_shared_memory(reader: Any) -> None:
    assert [reader.warps_of(it, 0) for it in (32, 64, 80, 88, 128)] == [64, 32, 24, 16, 16]
    assert [reader.warps_of(32, it << 10) for it in (20, 46, 100)] == [64, 32, 16]


def test_what_falls_behind_the_document_is_told(reader: Any) -> None:
    row = reader.Row("a kernel", 64, 32, 0, 64, 40.0, (277, 193))
    document = f"before\n{reader.BEGIN}\n{reader.END}\nafter\n"
    written = reader.with_table(document, [row])
    assert reader.with_table(written, [row]) == written
    cells = reader.recorded(written)["a kernel"]
    assert not row.worse_than(cells)
    for worse, what in (
        (reader.Row("a kernel", 80, 24, 0, 64, 40.0, (277, 193)), "24 warps an SM, recorded are 32"),
        (reader.Row("a kernel", 64, 32, 8, 64, 40.0, (277, 193)), "8 bytes of stack, recorded are 0"),
        (
            reader.Row("a kernel", 64, 32, 0, 32, 40.0, (277, 193)),
            "32 bytes in flight, recorded are 64",
        ),
        (reader.Row("a kernel", 64, 32, 0, 64, 43.0, (277, 193)), "43.0 instructions an element"),
    ):
        assert [what in it for it in worse.worse_than(cells)] == [True]


def test_the_document_has_a_row_for_each_family(reader: Any) -> None:
    rows = reader.recorded((ROOT / "docs" / "cuda.md").read_text())
    assert list(rows) == [family.name for family in reader.FAMILIES]
    assert all(row[3] == "0" for row in rows.values())
