"""What several ranks send each other: how it is printed, and that it arrives, one rank after the
other in one process on the stand-ins."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pytest
import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from mpkir.backends.body import bodies_of
from mpkir.backends.cuda.emit import emit
from mpkir.machine import machine_named
from mpkir.pipeline import context
from mpkir.runtime.build_cuda import build_cuda, find_nvcc
from mpkir.runtime.ranks.peers import Peers

HOST = Path(__file__).parent / "host"
RANKS, COLUMNS, TILE = 4, 64, 16
WHOLE = "affine_map<(d0) -> (0, 0)>"
TILES = "affine_map<(d0) -> (0, d0 * 16)>"
ROWS = "affine_map<(d0) -> (0, 0, d0 * 16)>"
BOX, BOXES = "tensor<1x16xf32>", "tensor<4x1x16xf32>"


def _text(flag: str) -> str:
    """Each rank's x, sent to all; their sum in rank order plus a residual, everywhere; what is
    gathered of it, from a view of row 2."""
    rows = "\n".join(
        f"    %r{r} = mpk_tensor.slice %s dim 0 start {r} step 1 : {BOXES} to tensor<1x1x16xf32>\n"
        f"    %q{r} = mpk_tensor.reshape %r{r} : tensor<1x1x16xf32> to {BOX}"
        for r in range(RANKS)
    )
    return f"""
builtin.module attributes {{mpk.mesh = {{tp = {RANKS}}}}} {{
func.func @step() {{
  %x = mpk_task.buffer input "x" : memref<1x64xf32>
  %residual = mpk_task.buffer scratch "residual" {flag} : memref<1x64xbf16>
  %partial = mpk_task.buffer scratch "partial" exchange {flag} : memref<4x1x64xf32>
  %y = mpk_task.buffer scratch "y" {flag} : memref<1x64xbf16>
  %z = mpk_task.buffer output "z" : memref<1x64xf32>
  %third = mpk_task.buffer output "third" : memref<1x64xf32>
  %mine = mpk_task.mine %partial : memref<4x1x64xf32> to memref<1x64xf32>
  %row = mpk_task.view %partial : memref<4x1x64xf32> to
    memref<1x64xf32, strided<[64, 1], offset: 128>>
  mpk_task.grid @residual [4] reads(%x : memref<1x64xf32>) writes(%residual : memref<1x64xbf16>)
      boxes [#mpk_task.region<{TILES}, [1, 16]>, #mpk_task.region<{TILES}, [1, 16]>] {{
  ^bb0(%0 : {BOX}):
    %1 = mpk_tensor.elementwise %0 {{
    ^bb0(%a : f32):
      %b = arith.truncf %a : f32 to bf16
      mpk_tensor.yield %b : bf16
    }} : ({BOX}) -> tensor<1x16xbf16>
    mpk_task.yield %1 : tensor<1x16xbf16>
  }}
  mpk_task.grid @send [4] reads(%x : memref<1x64xf32>) writes(%mine : memref<1x64xf32>)
      boxes [#mpk_task.region<{TILES}, [1, 16]>, #mpk_task.region<{TILES}, [1, 16]>] {{
  ^bb0(%0 : {BOX}):
    mpk_task.yield %0 : {BOX}
  }}
  mpk_task.grid @sum [4] reads(%partial, %residual : memref<4x1x64xf32>, memref<1x64xbf16>)
      writes(%y : memref<1x64xbf16>)
      boxes [#mpk_task.region<{ROWS}, [4, 1, 16]>, #mpk_task.region<{TILES}, [1, 16]>,
             #mpk_task.region<{TILES}, [1, 16]>] {{
  ^bb0(%s : {BOXES}, %e : tensor<1x16xbf16>):
{rows}
    %1 = mpk_tensor.elementwise %q0, %q1, %q2, %q3, %e {{
    ^bb0(%a : f32, %b : f32, %c : f32, %d : f32, %f : bf16):
      %ab = arith.addf %a, %b : f32
      %abc = arith.addf %ab, %c : f32
      %abcd = arith.addf %abc, %d : f32
      %g = arith.extf %f : bf16 to f32
      %h = arith.addf %abcd, %g : f32
      %i = arith.truncf %h : f32 to bf16
      mpk_tensor.yield %i : bf16
    }} : ({BOX}, {BOX}, {BOX}, {BOX}, tensor<1x16xbf16>) -> tensor<1x16xbf16>
    mpk_task.yield %1 : tensor<1x16xbf16>
  }}
  mpk_task.grid @out [4] reads(%y, %row : memref<1x64xbf16>,
      memref<1x64xf32, strided<[64, 1], offset: 128>>)
      writes(%z, %third : memref<1x64xf32>, memref<1x64xf32>)
      boxes [#mpk_task.region<{TILES}, [1, 16]>, #mpk_task.region<{TILES}, [1, 16]>,
             #mpk_task.region<{TILES}, [1, 16]>, #mpk_task.region<{TILES}, [1, 16]>] {{
  ^bb0(%0 : tensor<1x16xbf16>, %1 : {BOX}):
    %2 = mpk_tensor.elementwise %0 {{
    ^bb0(%a : bf16):
      %b = arith.extf %a : bf16 to f32
      mpk_tensor.yield %b : f32
    }} : (tensor<1x16xbf16>) -> {BOX}
    mpk_task.yield %2, %1 : {BOX}, {BOX}
  }}
  func.return
}}
}}
"""


@pytest.fixture(params=["flagged", ""])
def module(request: pytest.FixtureRequest) -> ModuleOp:
    module = Parser(context(), _text(request.param)).parse_module()
    module.verify()
    return module


def _source(module: ModuleOp, target: str = "h100") -> str:
    return emit(bodies_of(module), machine_named(target), 1)


def test_rows_of_ranks_are_asked_for_together() -> None:
    source = _source(Parser(context(), _text("flagged")).parse_module())
    assert source.startswith(f"#define MPK_RANKS {RANKS}\n")
    _, send, total, out = source.split("struct body_")[1:]
    assert "mpk::publish_all<64>(p1(w, " in send
    assert "w.at<mpk::Exchanged<float>>(1) + (mpk::i64(mpk::own_rank()) * 64 + " in send
    assert "using kernel_2 = mpk::Gathered<body_2>;" in total
    assert len(re.findall(r"mpk::Fetched<mpk::Exchanged<float>, 1> e\d;", total)) == RANKS
    assert "mpk::Fetched<mpk::Tagged<mpk::bf16>, 1> e4;" in total
    assert "await" not in total
    assert "+ (128 + " in out


def test_one_rank_knows_nothing_of_it() -> None:
    text = re.sub(r"builtin.module attributes .*\n", "builtin.module {\n", _text(""))
    text = text.replace(" exchange", "").replace("mpk_task.mine", "mpk_task.view")
    source = _source(Parser(context(), text).parse_module())
    assert not re.search("MPK_RANKS|rank|Exchanged|_all|Gathered|Sent", source)


def test_all_ranks_have_the_sums(module: ModuleOp, tmp_path: Path) -> None:
    """Rows of all ranks are added in their order, in fp32; everybody has the same bits."""
    text = re.sub(r"#include <mpk/.*>\n", "", _source(module))
    (tmp_path / "kernel.cpp").write_text('#include "stand_in.hpp"\n' + text)
    library = tmp_path / "kernel.so"
    command = ["c++", "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{HOST}", "-o", str(library)]
    subprocess.run([*command, str(tmp_path / "kernel.cpp")], check=True)
    loaded = ctypes.CDLL(str(library))
    # One heap for each rank: x, residual, partial, y, z, third, 8 bytes for each element.
    places = (0, 1, 2, 2 + RANKS, 3 + RANKS, 4 + RANKS)
    heaps = torch.zeros(RANKS, 5 + RANKS, COLUMNS, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, RANKS, COLUMNS, generator=generator)
    peers = [Peers(rank, RANKS) for rank in range(RANKS)]
    for rank, other in ((rank, other) for rank in range(RANKS) for other in range(RANKS)):
        peers[rank].delta[other] = (other - rank) * heaps[0].nbytes
    operands = {0: (0, 1), 1: (0, 2), 2: (2, 1, 3), 3: (3, 2, 4, 5)}
    stop = ctypes.c_int(2)
    for step in range(2):
        heaps[:, 0].view(torch.float32)[:, :COLUMNS] = x[step]
        for body, buffers in operands.items():
            for rank in range(RANKS):
                loaded.set_peers(ctypes.byref(peers[rank]))
                pointers = [heaps[rank, places[b]].data_ptr() for b in buffers]
                array = (ctypes.c_void_p * 12)(*pointers)
                for index in range(COLUMNS // TILE):
                    at = ctypes.c_longlong(step)
                    loaded.run_task(body, index, array, at, step, ctypes.byref(stop))
        total = x[step, 0]
        for rank in range(1, RANKS):
            total = total + x[step, rank]
        right = (total + x[step].bfloat16().float()).bfloat16().float()
        assert torch.equal(heaps[:, places[4]].view(torch.float32)[:, :COLUMNS], right)
        third = heaps[:, places[5]].view(torch.float32)[:, :COLUMNS]
        assert torch.equal(third, x[step, 2].expand(RANKS, COLUMNS))


@pytest.mark.skipif(find_nvcc() is None, reason="needs nvcc")
def test_it_compiles(module: ModuleOp) -> None:
    source = _source(module)
    assert b"mpk_peers" in build_cuda(source, "sm_90a")
    assert b"mpk_peers" in build_cuda("#define MPK_ALONE\n" + source, "sm_90a")


@pytest.mark.skipif(find_nvcc() is None, reason="needs nvcc")
def test_it_is_linked_with_nvshmem(module: ModuleOp, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.nvshmem", reason="nvidia-nvshmem-cu13 is not installed")
    source = _source(module, "h100{transport=nvshmem}")
    ranks = f"#define MPK_RANKS {RANKS}\n"
    assert source == _source(module).replace(ranks, f"{ranks}#define MPK_NVSHMEM\n")
    (tmp_path / "kernel.cubin").write_bytes(build_cuda(source, "sm_90a"))
    command = ["nm", "--demangle", str(tmp_path / "kernel.cubin")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    symbols = {words[-1]: words[-2] for line in lines if (words := line.split(maxsplit=2))}
    undefined = {name for name, kind in symbols.items() if kind == "U"}
    # These the driver has.
    assert undefined <= {"vprintf", "__assertfail", ".nv.reservedSmem.offset0"}
    # What the host fills in: ours, and by nvshmemx_cumodule_init.
    for name in ("mpk_peers", "mpk_far", "nvshmemi_device_state_d"):
        assert symbols[name] == "R"
    for name in ("nvshmemi_transfer_rma_p", "nvshmemi_transfer_quiet"):
        assert any(name in symbol for symbol in symbols)
