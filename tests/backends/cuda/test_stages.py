"""A stage of the ring is given back behind its reads.

Loads of shared memory that are on their way when a warp arrives at a barrier can be overtaken by
the copy that fills the stage again (docs/performance.md, the fifth round). What a GPU did once in
three million stages is seen here in the order of instructions.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from mpkir.backends.body import bodies_of
from mpkir.backends.cuda.emit import emit
from mpkir.frontend import decode_step
from mpkir.machine import machine_named
from mpkir.pipeline import lower
from mpkir.runtime.build_cuda import INCLUDE, find_nvcc

FENCE = "void finish_reads() { __threadfence_block(); }"
_CONFIG = LlamaConfig(
    num_hidden_layers=1,
    vocab_size=160,
    hidden_size=256,
    intermediate_size=512,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
)


def overtaken(ptx: str) -> tuple[int, int]:
    """Arrivals behind vectors of weights that nothing makes wait for them, and all vectors."""
    unfinished, found, loads = False, 0, 0
    for line in ptx.splitlines():
        if "ld.shared.v4" in line:
            unfinished, loads = True, loads + 1
        elif any(word in line for word in ("membar.", "fence.", "bar.sync", "barrier.sync")):
            unfinished = False
        elif "mbarrier.arrive.shared" in line:
            found += unfinished
    return found, loads


@pytest.mark.parametrize("caches", [False, True])
@pytest.mark.skipif(find_nvcc() is None, reason="no nvcc")
def test_reads_of_a_stage_are_finished_before_it_is_given_back(
    caches: bool, tmp_path: Path
) -> None:
    machine = machine_named("h100", workers=66)
    machine = replace(machine, ring=replace(machine.ring, caches=caches))
    model = AutoModelForCausalLM.from_config(_CONFIG, dtype=torch.bfloat16).eval()
    module = decode_step(model, 512, batch=8)  # so many that x is not in shared memory
    lower(module, machine)
    source = tmp_path / "kernel.cu"
    source.write_text(emit(bodies_of(module), machine, 1))
    ptx = _ptx(source, INCLUDE)
    found, loads = overtaken(ptx)
    assert loads > 0
    assert found == 0
    assert ("complete_tx::bytes [" in ptx) == caches  # stages of caches, which stay in L2

    without = tmp_path / "include"
    shutil.copytree(INCLUDE, without)
    header = without / "mpk" / "sync.cuh"
    assert FENCE in header.read_text()
    header.write_text(header.read_text().replace(FENCE, "void finish_reads() {}"))
    assert overtaken(_ptx(source, without))[0] > 0


def _ptx(source: Path, include: Path) -> str:
    nvcc, target = find_nvcc(), source.with_suffix(".ptx")
    command = [nvcc, "-std=c++17", "-O3", "-arch=compute_90a", "-ptx", f"-I{include}"]
    subprocess.run([*command, "-o", str(target), str(source)], check=True, capture_output=True)
    return target.read_text()
