"""The check for hazards of warp-group products, on short pieces of machine code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.kernels import hazards, sass

PRODUCT = "HGMMA.64x64x16.F32.BF16 R24, R4, gdesc[UR8], R24, gsb0"  # A in R4 to R7, the accumulator in R24 to R55
WAIT = "WARPGROUP.DEPBAR.LE gsb0, 0x{}"


def found(*lines: str) -> list[str]:
    """The hazards in instructions; a line that ends with a colon is a label."""
    text, address = [], 0
    for line in (*lines, "EXIT"):
        if line.endswith(":"):
            text.append(line)
        else:
            text.append(f"        /*{address:04x}*/    {line} ;")
            address += 16
    return hazards.find(sass.parse("\n".join(text)))


@pytest.mark.parametrize(
    ("instruction", "what"),
    [
        ("MOV R4, RZ", "writes operand A"),
        ("IMAD.WIDE R6, R0, R1, R2", "writes operand A"),
        ("IMAD.WIDE R3, R0, R1, R2", "writes operand A"),  # R3 and R4
        ("@P0 MOV R7, RZ", "writes operand A"),
        ("LDSM.16.M88.4 R0, [R60]", ""),  # R0 to R3
        ("LDSM.16.M88.4 R1, [R60]", "writes operand A"),
        ("LDS.128 R2, [R60]", "writes operand A"),
        ("SHFL.BFLY PT, R5, R60, 0x1, 0x1f", "writes operand A"),
        ("HMMA.16816.F32.BF16 R4, R60, R64, RZ", "writes operand A"),
        ("HGMMA.64x16x16.F32.BF16 R0, gdesc[UR8], RZ, !UPT, gsb0", "writes operand A"),
        ("MOV R24, RZ", "writes the accumulator"),
        ("CS2R R54, SRZ", "writes the accumulator"),
        ("FADD R60, R55, R61", "reads the accumulator"),
        ("FFMA R60, R61, R62, -R30.reuse", "reads the accumulator"),
        ("FMNMX R60, |R30|, R61, !PT", "reads the accumulator"),
        ("STG.E.128 desc[UR4][R60.64], R20", ""),  # R20 to R23
        ("STG.E.128 desc[UR4][R60.64], R21", "reads the accumulator"),
        ("STG.E desc[UR4][R23.64], R60", "reads the accumulator"),  # an address in R23 and R24
        ("HGMMA.64x64x16.F32.BF16 R60, R24, gdesc[UR8], R60, gsb0", "reads the accumulator"),
        ("HGMMA.64x32x16.F32.BF16 R40, R8, gdesc[UR8], R40, gsb0", "writes a part of the accumulator"),
        (PRODUCT.replace("R4,", "R8,"), ""),  # adds to the same accumulator, in order
        ("MOV R60, R4", ""),  # operand A may be read
        ("ISETP.GE.AND P0, PT, R4, R5, PT", ""),
        ("R2UR UR4, R5", ""),
        ("MOV R8, RZ", ""),
        ("MOV R56, RZ", ""),
    ],
)
def test_what_may_not_happen_before_the_wait(instruction: str, what: str) -> None:
    assert bool(what) == bool(found(PRODUCT, instruction, WAIT.format(0)))
    assert all(what in fault for fault in found(PRODUCT, instruction))
    assert not found(PRODUCT, WAIT.format(0), instruction)


def test_a_wait_that_leaves_groups_ends_the_older_ones() -> None:
    other = "HGMMA.64x64x16.F32.BF16 R64, R8, gdesc[UR8], R64, gsb0"
    assert not found(PRODUCT, other, WAIT.format(1), "MOV R4, RZ")
    assert found(PRODUCT, other, WAIT.format(1), "MOV R8, RZ")
    assert found(PRODUCT, other, WAIT.format(2), "MOV R4, RZ")


def test_products_of_one_group_end_together() -> None:
    open_group = "HGMMA.64x64x16.F32.BF16 R64, R8, gdesc[UR8], R64"
    assert found(open_group, PRODUCT, WAIT.format(1), "MOV R8, RZ")
    assert not found(open_group, PRODUCT, WAIT.format(0), "MOV R8, RZ")
    assert found(open_group, WAIT.format(0), "MOV R8, RZ")  # a wait covers closed groups only
    assert found(open_group, "MOV R8, RZ")


def test_paths_around_a_loop_and_past_a_branch() -> None:
    loop = (".L_x_0:", "HMMA.16816.F32.BF16 R4, R60, R64, RZ", PRODUCT, WAIT.format(1), "@P0 BRA `(.L_x_0)")
    (fault,) = found(*loop, WAIT.format(0))
    assert fault == "HMMA.16816.F32.BF16 at 0x0 writes operand A of the product at 0x10"
    assert not found(*(line.replace("0x1", "0x0") for line in loop), WAIT.format(0))
    skipped = (PRODUCT, "@P0 BRA `(.L_x_1)", WAIT.format(0), ".L_x_1:", "MOV R4, RZ")
    assert found(*skipped)
    assert not found(*(line.replace("@P0 BRA", "BRA") for line in skipped[:3]), "MOV R4, RZ", ".L_x_1:", "EXIT")
    assert not found(PRODUCT, "@P0 EXIT", WAIT.format(0), "MOV R4, RZ")


@pytest.mark.parametrize("branch", ["BRA.DIV UR4, `(.L_x_1)", "BRA.U UP0, `(.L_x_1)", "@P1 BRA `(.L_x_1)"])
def test_code_behind_a_branch_that_may_not_be_taken_is_looked_at(branch: str) -> None:
    assert found(PRODUCT, branch, "MOV R4, RZ", "EXIT", ".L_x_1:", WAIT.format(0))


def test_a_wait_under_a_predicate_may_not_happen() -> None:
    assert found(PRODUCT, "@P0 " + WAIT.format(0), "MOV R4, RZ")


@pytest.mark.parametrize(
    ("instruction", "what"),
    [
        ("IMAD.WIDE R60, R61, R62, R23", "reads the accumulator"),  # the addend is in R23 and R24
        ("F2F.F32.F64 R60, R23", "reads the accumulator"),
        ("F2I.S64 R6, R60", "writes operand A"),
        ("F2I.U64.F32 R3, R60", "writes operand A"),
    ],
)
def test_wide_operands(instruction: str, what: str) -> None:
    (fault,) = found(PRODUCT, instruction)
    assert what in fault


@pytest.mark.parametrize("name", ["HGMMA.32x8x16.F32.BF16", "QGMMA.32x64x32.F32.E4M3.E4M3", "IGMMA.64x64x32.S8.S8"])
def test_an_unknown_form_of_product_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown form of warp-group product: {name} at 0x0"):
        found(f"{name} R24, R4, gdesc[UR8], R24, gsb0")


def test_a_jump_that_cannot_be_followed_is_an_error() -> None:
    with pytest.raises(ValueError, match="a jump that is not followed: BRX R4 -0x10 at 0x10"):
        found(PRODUCT, "BRX R4 -0x10")
