"""The product loop and the copies that benchmarks/kernel_code.py finds in machine code."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from mpkir.errors import MpkirError

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "kernel_code.py"))

LISTING = """
	.section	.text.another,"ax",@progbits
.L_x_9:
        /*0000*/                   HMMA.16816.F32.BF16 R36, R36, R4, RZ ;
        /*0010*/                   BRA `(.L_x_9) ;
	.section	.text.mpk_run,"ax",@progbits
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   BAR.SYNC.DEFER_BLOCKING 0x1, 0x100 ;
.L_x_2:
        /*0020*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P2, [R32+URZ+0x30000], R9 ;
        /*0030*/              @!P2 BRA `(.L_x_3) ;
.L_x_4:
        /*0040*/                   LDS.128 R16, [R28+0x200] ;
        /*0050*/                   IMAD.MOV.U32 R36, RZ, RZ, R16 ;
        /*0060*/                   HMMA.16816.F32.BF16 R36, R36, R4, RZ ;
        /*0070*/                   MEMBAR.SC.CTA ;
        /*0080*/              @!P3 SYNCS.ARRIVE.TRANS64.A1T0 RZ, [R32+URZ+0x30060], RZ ;
        /*0090*/              @!P2 BRA `(.L_x_2) ;
        /*00a0*/              @UP0 BRA `(.L_x_1) ;
        /*00b0*/                   EXIT ;
.L_x_3:
        /*00c0*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P2, [R32+URZ+0x30000], R9 ;
        /*00d0*/               @P2 BRA `(.L_x_4) ;
        /*00e0*/                   BRA `(.L_x_3) ;
.L_x_5:
        /*00f0*/                   SYNCS.PHASECHK.TRANS64 P0, [R7+URZ+0x30000], R58 ;
        /*0100*/              @!P0 BRA `(.L_x_6) ;
        /*0110*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P4, [R7+URZ+0x30000], R58 ;
        /*0120*/              @!P4 BRA `(.L_x_5) ;
.L_x_6:
        /*0130*/                   UMOV UR9, 0x400 ;
        /*0140*/                   UBLKCP.S.G [UR12], [UR22], UR9, desc[UR24] ;
"""


def test_the_innermost_loop_that_multiplies_stages_is_counted():
    (loop,) = SCRIPT["Code"].of(LISTING).product_loops()
    assert loop == {
        "stages_at_once": 1,
        "instructions": 8.0,
        "tensor core": 1.0,
        "shared memory": 1.0,
        "barrier": 3.0,
        "move": 1.0,
        "branch": 2.0,
    }


POLLS = """
	.section	.text.mpk_run,"ax",@progbits
.L_x_1:
        /*0000*/                   LDG.E.128.STRONG.GPU R8, desc[UR8][R2.64] ;
        /*0010*/                   LDG.E.128.STRONG.GPU R12, desc[UR8][R2.64+0x200] ;
.L_x_2:
        /*0020*/                   LDS.64 R2, [R27+0x30100] ;
        /*0030*/              @!P2 LDG.E.128.STRONG.GPU R8, desc[UR8][R2.64] ;
        /*0040*/              @!P3 LDG.E.128.STRONG.GPU R12, desc[UR8][R2.64+0x200] ;
        /*0050*/               @P2 BRA `(.L_x_2) ;
.L_x_3:
        /*0060*/                   LDG.E.128.STRONG.GPU R8, desc[UR8][R2.64] ;
        /*0070*/               @P2 BRA `(.L_x_3) ;
        /*0080*/               @P2 BRA `(.L_x_1) ;
"""


def test_the_innermost_loop_that_asks_for_several_vectors_again_is_a_poll():
    loops = SCRIPT["Code"].of(POLLS).poll_loops()
    assert loops == [{"polled": 2, "instructions": 4, "shared_reads": 1}]


def test_a_copy_is_so_many_instructions_behind_the_landing_before_it():
    assert SCRIPT["Code"].of(LISTING).behind_landings() == [3]


def test_resources_are_what_ptxas_reports():
    report = """ptxas info    : Function properties for mpk_run
    48 bytes stack frame, 108 bytes spill stores, 232 bytes spill loads
ptxas info    : Used 168 registers, used 2 barriers, 48 bytes cumulative stack size"""
    wanted = {"registers": 168, "stack_bytes": 48, "spill_stores": 108, "spill_loads": 232}
    assert SCRIPT["resources"](report) == wanted
    with pytest.raises(MpkirError, match="ptxas has not said"):
        SCRIPT["resources"]("nothing")
