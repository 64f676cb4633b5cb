"""Which memory ranks share, and what NVSHMEM's own headers say of the structures it is given."""

from __future__ import annotations

import ctypes
import json
import subprocess
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mpkir.errors import MpkirError
from mpkir.runtime.cpu import find_compiler
from mpkir.runtime.manifest import Buffer
from mpkir.runtime.ranks import memory, nvshmem, nvshmem_package, transport
from mpkir.runtime.ranks.far import Far
from mpkir.runtime.ranks.layout import layout_of
from mpkir.runtime.ranks.peers import Peers
from mpkir.runtime.ranks.shared_memory import SharedMemory


def test_exchange_buffers_lie_behind_the_counters():
    buffers = (
        Buffer("x", "input", "float32", (1, 8)),
        Buffer("a", "scratch", "float32", (2, 3), exchange=True),
        Buffer("b", "scratch", "bfloat16", (2, 200), flagged=True, exchange=True),
    )
    target = SimpleNamespace(transport="direct")
    manifest: Any = SimpleNamespace(
        events=("e",) * 65, buffers=buffers, target=target, ranks=2, peer_events=3
    )
    layout = layout_of(manifest)
    assert layout.buffers == {"a": 512, "b": 768}
    assert layout.bytes == 768 + 1792  # 400 words of 4 bytes
    target.transport = "nvshmem"
    assert layout_of(manifest).buffers == layout.buffers
    assert (layout_of(manifest).told, layout_of(manifest).bytes) == (2560, 2560 + 4 * 2 * 3)


def test_cpus_of_several_hosts_are_refused():
    group: Any = SimpleNamespace(is_one_host=False, rank=0)
    with pytest.raises(MpkirError, match="ranks on several hosts share no memory"):
        SharedMemory(4096, group)


@pytest.fixture
def _any_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "check_distinct", lambda group, gpu: None)
    properties = SimpleNamespace(uuid="GPU-1")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


def test_two_ranks_on_one_gpu_are_refused():
    group: Any = SimpleNamespace(
        gather=lambda own: [b"GPU-1", b"GPU-2", own], fail=lambda error: error
    )
    transport.check_distinct(group, "GPU-3")
    with pytest.raises(MpkirError, match="ranks 1 and 2 have the same GPU"):
        transport.check_distinct(group, "GPU-2")


@pytest.mark.usefixtures("_any_gpu")
def test_gpus_of_several_hosts_need_nvshmem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nvshmem_package, "find_spec", lambda name: None)
    group: Any = SimpleNamespace(is_one_host=False)
    with pytest.raises(MpkirError, match="pip install nvidia-nvshmem-cu13"):
        transport.open_heap(4096, torch.device("cuda"), group)


@pytest.mark.usefixtures("_any_gpu")
def test_far_ranks_need_a_program_that_was_compiled_for_them(monkeypatch: pytest.MonkeyPatch):
    heap = SimpleNamespace(far=(2, 3))
    monkeypatch.setattr(nvshmem, "Nvshmem", lambda size, device, group: heap)
    members = [f"rank {n} (process {n} on host {n // 2})" for n in range(4)]
    group: Any = SimpleNamespace(is_one_host=False, members=members)
    gpu = torch.device("cuda")
    assert transport.open_heap(4096, gpu, group, transport.NVSHMEM) is heap
    with pytest.raises(MpkirError, match=r"only a network connects .* rank 2 .*, rank 3 ") as error:
        transport.open_heap(4096, gpu, group)
    assert "compile it again with --transport nvshmem" in str(error.value)
    heap.far = ()
    assert transport.open_heap(4096, gpu, group) is heap


def test_two_ranks_are_far_from_each_other_or_neither():
    said = {0: [2, 3], 1: [3], 2: [0, 1], 3: [0, 1]}
    gathered = [json.dumps(each).encode() for each in said.values()]
    for rank, far in enumerate([(2, 3), (2, 3), (0, 1), (0, 1)]):
        group: Any = SimpleNamespace(rank=rank, gather=lambda own: gathered)
        assert nvshmem._far_from(group, said[rank]) == far


class _Heap:
    """Memory of the second of four ranks, two of which are far."""

    def __init__(self, size: int) -> None:
        self.memory = torch.zeros(size, dtype=torch.uint8)
        self.deltas, self.far = (-4096, 0, 0, 0), (2, 3)
        self.entered: list[int] = []

    def enter(self, module: int) -> None:
        self.entered.append(module)


@pytest.mark.parametrize("by", ["direct", "nvshmem"])
def test_what_a_binary_is_told_of_the_others(by: str, monkeypatch: pytest.MonkeyPatch):
    heaps: list[_Heap] = []

    def opened(size: int, device: Any, group: Any, chosen: str) -> _Heap:
        assert chosen == by
        heaps.append(_Heap(size))
        return heaps[-1]

    monkeypatch.setattr(memory, "open_heap", opened)
    manifest: Any = SimpleNamespace(
        events=("a", "b", "c"),
        buffers=(),
        target=SimpleNamespace(transport=by),
        ranks=4,
        peer_events=2,
    )
    group: Any = SimpleNamespace(rank=1, ranks=4)
    peers = memory.PeerMemory(manifest, torch.device("cpu"), group)
    written: dict[str, bytes] = {}
    binary: Any = SimpleNamespace(handle=77, write_global=written.__setitem__)
    peers.enter(binary, [5, 8, 264])
    peers.counters[:] = torch.tensor([5, 4, 1])
    assert Peers.from_buffer_copy(written["mpk_peers"]).first_peer_event == 1
    assert (heaps[0].entered, "mpk_far" in written) == (
        ([77], True) if by != "direct" else ([], False)
    )
    if by == "direct":
        assert peers.arrivals().tolist() == [5, 4, 1]
        return
    heaps[0].memory[256:].view(torch.int32).view(4, 2)[2:] = torch.tensor([[2, 0], [4, -(2**31)]])
    assert peers.arrivals().tolist() == [5, 10, 1 - 2**31]
    far = Far.from_buffer_copy(written["mpk_far"])
    begin = heaps[0].memory.data_ptr()
    assert (far.ranks, far.events) == (0b1100, 2)
    assert (far.counters - begin, far.told - begin) == (4, 256)
    assert len(heaps[0].memory) == 256 + 4 * 4 * 2
    assert (ctypes.c_uint32 * 2).from_address(far.steps)[:] == [2, 66]
    assert (ctypes.c_uint64 * 2).from_address(far.own)[:] == [0, 0]


@pytest.mark.usefixtures("_any_gpu")
def test_an_unknown_transport(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MPKIR_TRANSPORT", "pigeon")
    group: Any = SimpleNamespace(is_one_host=True)
    with pytest.raises(MpkirError, match="'pigeon' is no way to share memory"):
        transport.open_heap(4096, torch.device("cuda"), group)


_HEADERS = """
#include <cstddef>
#include <cstdio>
typedef struct CUmod_st* CUmodule;
#include "device_host/nvshmem_types.h"
#define SHOW(type, field) std::printf(#type " %zu %zu\\n", sizeof(type), offsetof(type, field));
int main() {
  SHOW(nvshmemx_uniqueid_v1, internal)
  SHOW(nvshmemx_uniqueid_args_v1, nranks)
  SHOW(nvshmemx_init_args_v1, content)
  SHOW(nvshmemx_init_attr_v1, args)
}
"""


def test_structures_are_those_of_nvshmems_headers(tmp_path: Path):
    pytest.importorskip("nvidia.nvshmem", reason="nvidia-nvshmem-cu13 is not installed")
    spec = find_spec("nvidia.nvshmem")
    assert spec is not None
    (folder,) = spec.submodule_search_locations or ()
    source, binary = tmp_path / "show.cpp", tmp_path / "show"
    source.write_text(_HEADERS)
    include = f"-I{folder}/include"
    subprocess.run([*find_compiler(), include, "-o", str(binary), str(source)], check=True)
    shown = subprocess.run([str(binary)], capture_output=True, text=True, check=True).stdout
    kinds = (
        (nvshmem.UniqueId, "internal"),
        (nvshmem.UniqueIdArgs, "nranks"),
        (nvshmem.InitArgs, "content"),
        (nvshmem.InitAttr, "args"),
    )
    sizes = [tuple(map(int, line.split()[1:])) for line in shown.splitlines()]
    assert sizes == [(ctypes.sizeof(kind), getattr(kind, name).offset) for kind, name in kinds]
    library = nvshmem.load_library()
    assert library.nvshmemx_get_uniqueid
