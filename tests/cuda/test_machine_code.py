"""scripts/machine_code.py: what it reads of a listing, and that it tells when a kernel falls behind."""

from typing import Any

import pytest

from _scripts import script
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
# A kernel that asks how an array is stored: what 4 bytes an element take is two accesses.
KINDS = """
        /*0000*/                   LDC.U8 R5, c[0x0][R0+0x354] ;
        /*0010*/                   LDC.64 R8, c[0x0][R0+0x308] ;
        /*0020*/                   ISETP.NE.U32.AND P1, PT, R8, RZ, PT ;
        /*0030*/                   ISETP.NE.AND.EX P1, PT, R9, RZ, PT, P1 ;
.L_x_0:
        /*0040*/                   LOP3.LUT R6, R5, 0x1, RZ, 0xfc, !PT ;
        /*0050*/                   ISETP.NE.AND P0, PT, R6, 0x1, PT ;
        /*0060*/                   LDG.E.128 R12, desc[UR6][R2.64] ;
        /*0070*/               @P0 BRA `(.L_x_1) ;
        /*0080*/                   LDG.E.128 R16, desc[UR6][R2.64+0x10] ;
        /*0090*/                   FADD R12, R12, R16 ;
.L_x_1:
        /*00a0*/              @!P1 BRA `(.L_x_2) ;
        /*00b0*/                   FADD R12, R12, R12 ;
        /*00c0*/                   FADD R12, R12, R12 ;
.L_x_2:
        /*00d0*/                   STG.E.128 desc[UR6][R2.64], R12 ;
        /*00e0*/               @P2 BRA `(.L_x_0) ;
        /*00f0*/                   EXIT ;
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
    return script("machine_code")


def test_the_way_round_a_loop_moves_its_bytes_and_calls_nothing(reader: Any) -> None:
    way, times = reader.listing.loop_of(LISTING, reader.listing.Goal(32, 24))
    assert (len(way.instructions), times) == (ROUND, 1)
    assert not any(it.opcode.startswith("CALL") for it in way.instructions)
    way, times = reader.listing.loop_of(
        LISTING, reader.listing.Goal(36, 24)
    )  # what has a predicate may load, too
    assert (len(way.instructions), times) == (ROUND, 1)
    way, times = reader.listing.loop_of(LISTING, reader.listing.Goal(16, 12))  # unrolled twice
    assert (len(way.instructions), times) == (ROUND, 2)
    with pytest.raises(SystemExit, match="no loop loads 48 and stores 24 bytes"):
        reader.listing.loop_of(LISTING, reader.listing.Goal(48, 24))


def test_bytes_in_flight_end_where_one_is_needed(reader: Any) -> None:
    way, _ = reader.listing.loop_of(LISTING, reader.listing.Goal(32, 24))
    assert way.in_flight == 36
    needed = LISTING.replace("LDG.E.128 R8, desc[UR6][R12.64]", "LDG.E.128 R8, desc[UR6][R6.64]")
    assert reader.listing.loop_of(needed, reader.listing.Goal(32, 24))[0].in_flight == 16


def test_small_accesses_need_not_count(reader: Any) -> None:
    way, times = reader.listing.loop_of(LISTING, reader.listing.Goal(32, 24, least=8))
    assert (len(way.instructions), times) == (ROUND, 1)
    with pytest.raises(SystemExit, match="no loop loads 36"):
        reader.listing.loop_of(LISTING, reader.listing.Goal(36, 24, least=8))


def test_the_way_is_the_one_of_what_is_stored(reader: Any) -> None:
    """What the launch's parameters say decides a branch; the average is not there."""
    float32, bfloat16 = reader.stored("float32"), reader.stored("bfloat16")
    assert (
        len(reader.listing.loop_of(KINDS, reader.listing.Goal(16, 16), bfloat16)[0].instructions) == 7
    )
    assert len(reader.listing.loop_of(KINDS, reader.listing.Goal(16, 16))[0].instructions) == 7
    with pytest.raises(SystemExit, match="no loop loads 32"):
        reader.listing.loop_of(KINDS, reader.listing.Goal(32, 16), bfloat16)
    there = bfloat16 | {reader.ITEMS + reader.AVERAGE: 1}
    assert len(reader.listing.loop_of(KINDS, reader.listing.Goal(16, 16), there)[0].instructions) == 9
    odd = float32 | {reader.ITEMS + reader.DTYPES: 1}
    assert len(reader.listing.loop_of(KINDS, reader.listing.Goal(32, 16), odd)[0].instructions) == 9


def test_values_are_followed_as_far_as_they_are_known(reader: Any) -> None:
    def after(*lines: str, **values: int) -> dict[str, int]:
        known = dict(values)
        for line in lines:
            opcode, _, operands = line.partition(" ")
            predicate, opcode = ("", opcode) if not opcode.startswith("@") else (opcode, operands)
            if predicate:
                opcode, _, operands = opcode.partition(" ")
            it = reader.listing.Instruction(predicate, opcode, operands)
            reader.listing.known_values.step(known, it, {0x210: 7, 0x211: 1})
        return known

    assert after("LDC.U8 R3, c[0x0][0x210]") == {"R3": 7}
    assert after("LDC.U16 R3, c[0x0][R9+0x210]") == {"R3": 263}
    assert after("LDC R3, c[0x0][0x210]", R3=1) == {}  # of which two bytes are known
    assert after("SEL R4, R3, 0x5, P1", R3=2, P1=0) == {"R3": 2, "P1": 0, "R4": 5}
    assert after("SEL R4, R3, 0x5, P1", R3=2, R4=9) == {"R3": 2}
    assert after("LOP3.LUT R4, R3, 0xfe, RZ, 0xc0, !PT", R3=5)["R4"] == 4
    assert after("LOP3.LUT P2, RZ, R3, 0x2, RZ, 0xc0, !PT", R3=5)["P2"] == 0
    assert after("PLOP3.LUT P0, PT, P1, P2, PT, 0x80, 0x0", P1=1, P2=1)["P0"] == 1
    assert after("ISETP.GT.AND P0, PT, R3, -0x1, PT", R3=0)["P0"] == 1
    assert after("ISETP.GT.U32.AND P0, PT, R3, -0x1, PT", R3=0)["P0"] == 0
    assert after("ISETP.EQ.OR P0, PT, R3, RZ, !P4", R3=0, P4=1)["P0"] == 1
    assert after("IADD3 R4, R3, 0x1, RZ", R3=-1 & 0xFFFFFFFF)["R4"] == 0
    assert after("@P0 MOV R3, 0x4", P0=0, R3=1) == {"P0": 0, "R3": 1}
    assert after("@P0 MOV R3, 0x4", R3=1) == {}  # whether it runs is unknown
    assert after("LDG.E.128 R4, desc[UR6][R2.64]", R4=1, R7=1, R8=1) == {"R8": 1}
    assert after("R2P PR, R3, 0x7e", P1=1, R3=1) == {"R3": 1}


def test_an_instruction_of_a_program_takes_its_own_way(reader: Any) -> None:
    blocks = reader.listing.blocks_of(DISPATCH)
    assert reader.listing.op_register(blocks[".L_x_9"]) == "R22"
    assert [reader.listing.cost_of(blocks, ".L_x_9", op) for op in range(3)] == [6, 10, 7]


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
