"""One all-reduce of 4, 8 and 16 KB between GPUs: our kernel, NCCL, torch's symmetric memory.

    torchrun --standalone --nproc-per-node 2 benchmarks/allreduce.py [--json FILE]

The kernel of `allreduce.cu` makes thousands of rounds that depend on each other, with the stores,
polls and the skeleton that programs use; the last sums are compared, bit for bit, with the same
arithmetic on the CPU. The other two stand in CUDA graphs of 100 calls. Microseconds of a round are
medians over launches, of the slowest rank. Multicast (NVLS) is not used by anything here.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

os.environ["NCCL_NVLS_ENABLE"] = "0"
os.environ["TORCH_SYMM_MEM_DISABLE_MULTICAST"] = "1"
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one host, which may have no network

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symm_mem

sys.path.insert(0, str(Path(__file__).parents[1]))

from mpkir.runtime.build_cuda import build_cuda
from mpkir.runtime.cuda_module import CudaModule, arch_of
from mpkir.runtime.ranks.peers import PEERS, Peers
from mpkir.tools.bench.records import append_records, provenance

THREADS, WARM, CALLS = 256, 200, 100
PLACES = {2048: (16, 32, 64), 4096: (16, 32, 64, 128), 8192: (32, 64, 128)}
"""Columns of an all-reduce (bf16 elements of its result), and widths of a task's tile."""


class Arguments(ctypes.Structure):
    """Of a kernel in allreduce.cu."""

    _fields_ = (
        ("exchange", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("last", ctypes.c_void_p),
        ("times", ctypes.c_void_p),
        ("control", ctypes.c_void_p),
        ("done", ctypes.c_uint),
        ("rounds", ctypes.c_int),
        ("warm", ctypes.c_int),
    )


@cache
def hosts() -> dist.ProcessGroup:
    """The ranks' processes, without their GPUs."""
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    return group


def world() -> dist.ProcessGroup:
    """All ranks, with their GPUs."""
    group = dist.group.WORLD
    assert group is not None
    return group


def meet() -> None:
    """Wait for all ranks, with nothing under way on the GPU."""
    torch.cuda.synchronize()
    dist.barrier(hosts())


@dataclass
class Kernels:
    """The kernels, loaded, and the memory that they share with the other ranks'."""

    module: CudaModule
    exchange: torch.Tensor
    rank: int
    ranks: int

    @staticmethod
    def load(rank: int, ranks: int, device: torch.device) -> Kernels:
        text = (Path(__file__).parent / "allreduce.cu").read_text(encoding="utf-8")
        names = [
            f"ALLREDUCE({columns}, {tile}, {everyone})"
            for columns, tiles in PLACES.items()
            for tile in tiles
            for everyone in ("false", "true")
        ]
        source = "\n".join((f"#define MPK_RANKS {ranks}", text, *names, ""))
        if rank == 0:
            build_cuda(source, arch_of(device))  # the others find it in the cache
        meet()
        module = CudaModule(build_cuda(source, arch_of(device)), device)
        words = 2 * ranks * max(PLACES)
        exchange = symm_mem.empty(words, dtype=torch.int64, device=device)
        exchange.zero_()
        handle = symm_mem.rendezvous(exchange, world())
        places = [int(place) for place in handle.buffer_ptrs]
        peers = Peers(rank, ranks)
        peers.delta[:ranks] = [place - places[rank] for place in places]
        module.write_global(PEERS, bytes(peers))
        meet()
        return Kernels(module, exchange, rank, ranks)

    def measure(
        self, columns: int, tile: int, everyone: bool, rounds: int, launches: int
    ) -> list[float]:
        """Microseconds of a round, of each launch. RuntimeError for wrong sums or a timeout."""
        module, device = self.module, self.exchange.device
        name = f"allreduce_{columns}_{tile}_{str(everyone).lower()}"
        function = module.function(name)
        self.exchange.zero_()
        sums = torch.zeros(2 * columns, dtype=torch.int32, device=device)
        last = torch.zeros(columns, device=device)
        times = torch.zeros(2, dtype=torch.int64, device=device)
        control = torch.zeros(64, dtype=torch.int32, device=device)
        memory = (self.exchange, sums, last, times, control)
        ctas = min(columns // tile, module.processors)
        right = expected(columns, rounds, self.ranks)
        found: list[float] = []
        for launch in range(launches):
            args = Arguments(*(each.data_ptr() for each in memory), launch * rounds, rounds, WARM)
            parameters = (ctypes.c_void_p * 1)(ctypes.addressof(args))
            meet()
            module.call(
                f"launch {name}",
                module.driver.cuLaunchCooperativeKernel(
                    function,
                    *(ctas, 1, 1),
                    *(THREADS, 1, 1),
                    0,
                    torch.cuda.current_stream().cuda_stream,
                    ctypes.addressof(parameters),
                ),
            )
            torch.cuda.synchronize()
            if int(control[1]) != 0:
                raise RuntimeError(f"{name}: rank {self.rank} waited in vain in launch {launch}")
            if not torch.equal(last.cpu(), right):
                wrong = int((last.cpu() != right).sum())
                raise RuntimeError(f"{name}: rank {self.rank} has {wrong} wrong sums")
            begin, end = times.tolist()
            found.append((end - begin) / 1e3 / (rounds - WARM))
        return found


@cache
def expected(columns: int, rounds: int, ranks: int) -> torch.Tensor:
    """The last sums, f32 [columns]: the kernel's arithmetic with the same roundings."""
    column = torch.arange(columns)
    value = torch.zeros(columns)
    for number in range(rounds):
        total = torch.zeros(0)
        for rank in range(ranks):
            partial = value * (0.5 / ranks) + (rank + 1 + (number * 7 + column) % 16).float()
            total = partial if rank == 0 else total + partial
        value = total.bfloat16().float()
    return value


def in_graph(call: Callable[[], Any], launches: int) -> list[float]:
    """Microseconds of a call, of each replay of a CUDA graph of many."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for _ in range(CALLS):
            call()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    found: list[float] = []
    for _ in range(launches):
        meet()
        graph.replay()  # so that the ranks' next one begins together
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) * 1e3 / CALLS)
    # Ending NCCL waits for graphs that hold its calls.
    graph.reset()
    return found


def by_nccl(columns: int, launches: int, device: torch.device) -> list[float]:
    """Of NCCL, in bf16."""
    values = torch.full((columns,), float(dist.get_rank() + 1), device=device).bfloat16()
    dist.all_reduce(values)
    ranks = dist.get_world_size()
    if not torch.equal(values.float(), torch.full_like(values, ranks * (ranks + 1) / 2).float()):
        raise RuntimeError("NCCL: wrong sums")
    return in_graph(lambda: dist.all_reduce(values), launches)


def by_symmetric_memory(columns: int, launches: int, device: torch.device) -> list[float]:
    """Of torch's one-shot all-reduce, in bf16."""
    values = symm_mem.empty(columns, dtype=torch.bfloat16, device=device)
    symm_mem.rendezvous(values, world())
    values.fill_(float(dist.get_rank() + 1))
    result = torch.empty_like(values)
    group = world().group_name

    def call() -> None:
        torch.ops.symm_mem.one_shot_all_reduce_out(values, "sum", group, result)

    meet()
    call()
    ranks = dist.get_world_size()
    if not torch.equal(result.float(), torch.full_like(result, ranks * (ranks + 1) / 2).float()):
        raise RuntimeError("symmetric memory: wrong sums")
    return in_graph(call, launches)


def slowest(found: list[float]) -> tuple[float, float, float]:
    """Median, least and most over launches, each of the slowest rank."""
    each: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(each, found, group=hosts())
    worst = [max(times) for times in zip(*each, strict=True)]
    return statistics.median(worst), min(worst), max(worst)


def main() -> None:
    """Measure all of it; rank 0 prints and writes the records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5000)
    parser.add_argument("--launches", type=int, default=15)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-peers", action="store_true", help="the kernel alone")
    given = parser.parse_args()
    local = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local)
    device = torch.device("cuda", local)
    dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
    hosts()
    rank, ranks = dist.get_rank(), dist.get_world_size()
    records: list[dict[str, Any]] = []

    def note(system: str, columns: int, found: list[float], **facts: Any) -> None:
        median, least, most = slowest(found)
        record = {
            "benchmark": "allreduce",
            "system": system,
            "model": f"{columns * 2 // 1024} KB",
            "gpu": torch.cuda.get_device_name(device),
            "gpus": ranks,
            "batch": 1,
            "bytes": columns * 2,
            "us": round(median, 3),
            "us_min": round(least, 3),
            "us_max": round(most, 3),
            "launches": len(found),
            **facts,
            **provenance(),
        }
        records.append(record)
        if rank == 0:
            shown = ", ".join(f"{key} {value}" for key, value in facts.items())
            print(f"{record['model']:>6} {system:24} {median:8.3f} us  {shown}", flush=True)

    kernels = Kernels.load(rank, ranks, device)
    for columns, tiles in PLACES.items():
        for tile in tiles:
            for everyone in (False, True):
                found = kernels.measure(columns, tile, everyone, given.rounds, given.launches)
                seen = "all SMs" if everyone else "its own SM"
                note("mpkir-megakernel", columns, found, tile=tile, seen_by=seen)
    if not given.no_peers:
        for columns in PLACES:
            note("nccl", columns, by_nccl(columns, given.launches, device))
            found = by_symmetric_memory(columns, given.launches, device)
            note("torch-symmetric-memory", columns, found)
    if rank == 0 and given.json is not None:
        append_records(given.json, records)
    meet()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
