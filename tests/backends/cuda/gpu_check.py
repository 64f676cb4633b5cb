"""Runs handwritten.cu on a GPU: logits against torch in fp32, repeatability, stop, and timing.

    python tests/backends/cuda/gpu_check.py small|llama [in_flight ...]

It needs no part of the compiler: the table is made here, one event for each operator.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))

from mpkir.errors import MpkirError
from mpkir.runtime.build_cuda import build_cuda
from mpkir.runtime.cuda import CudaProgram
from mpkir.runtime.cuda_module import arch_of
from mpkir.runtime.table import Table, TableNames

EPS = 1e-5
DEVICE = "cuda"


@dataclass(frozen=True)
class Shape:
    hidden: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    vocabulary: int
    capacity: int
    layers: int
    chunk: int = 128
    rows: tuple[int, int, int, int, int] = (8, 16, 8, 16, 16)  # qkv, o, gate_up, down, head
    argmax_chunk: int = 1024

    @property
    def splits(self) -> int:
        return -(-self.capacity // self.chunk)

    @property
    def candidates(self) -> int:
        return -(-self.vocabulary // self.argmax_chunk)

    def source(self, in_flight: int, stop: int) -> str:
        values = {
            "HIDDEN": self.hidden,
            "HEADS": self.heads,
            "KV_HEADS": self.kv_heads,
            "HEAD": self.head,
            "INNER": self.inner,
            "VOCABULARY": self.vocabulary,
            "CAPACITY": self.capacity,
            "CHUNK_ROWS": self.chunk,
            "ROWS_QKV": self.rows[0],
            "ROWS_O": self.rows[1],
            "ROWS_GATE": self.rows[2],
            "ROWS_DOWN": self.rows[3],
            "ROWS_HEAD": self.rows[4],
            "ARGMAX_CHUNK": self.argmax_chunk,
            "SHARED_BYTES": 232448,
            "IN_FLIGHT": in_flight,
            "SCALE": f"{self.head**-0.5}f",
            "STOP": stop,
        }
        defines = "".join(f"#define {name} {value}\n" for name, value in values.items())
        text = (Path(__file__).parent / "handwritten.cu").read_text()
        return text.replace("#ifndef HIDDEN", defines + "#ifndef HIDDEN")


SMALL = Shape(576, 9, 3, 64, 1536, 49152, 512, 4, rows=(16, 16, 16, 16, 32))
LLAMA = Shape(2048, 32, 8, 64, 8192, 128256, 1024, 16)


@dataclass
class Builder:
    """Collects buffers, families and tasks; tasks go to the workers in turn."""

    workers: int
    buffers: dict[str, torch.Tensor] = field(default_factory=dict)
    families: list[list[int]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    arrivals: list[int] = field(default_factory=list)
    lists: list[list[list[int]]] = field(default_factory=list)
    turn: int = 0

    def __post_init__(self) -> None:
        self.lists = [[] for _ in range(self.workers)]

    def event(self) -> int:
        self.arrivals.append(0)
        return len(self.arrivals) - 1

    def family(
        self,
        name: str,
        body: int,
        grid: int,
        operands: Sequence[str],
        wait: int,
        lag: int,
        signal: int,
    ):
        ids = list(self.buffers)
        number = len(self.families)
        chosen = [ids.index(operand) for operand in operands]
        self.families.append([body, grid, 0, 0, *chosen, *[-1] * (12 - len(chosen))])
        self.names.append(name)
        for index in range(grid):
            worker = self.lists[(self.turn + index) % self.workers]
            worker.append([number, index, wait, -1, lag, signal, 1, 0])
        self.turn = (self.turn + grid) % self.workers
        self.arrivals[signal] += grid

    def table(self) -> Table:
        tasks = [task for tasks in self.lists for task in tasks]
        for task in tasks:
            task[3] = self.arrivals[task[2]] if task[2] >= 0 else 0
        offsets = np.cumsum([0, *map(len, self.lists)])
        names = TableNames(
            tuple(self.buffers),
            tuple(f"b{i}" for i in range(1 + max(f[0] for f in self.families))),
            tuple(self.names),
            tuple(f"e{i}" for i in range(len(self.arrivals))),
        )
        arrays = [
            np.array(a, dtype=np.int32) for a in (tasks, offsets, self.families, self.arrivals)
        ]
        table = Table(*arrays, names)
        table.validate()
        return table


def build(shape: Shape, workers: int, seed: int = 0) -> Builder:
    torch.manual_seed(seed)
    s, b = shape, Builder(workers)
    new = dict(device=DEVICE, dtype=torch.bfloat16)

    def weight(name: str, *size: int) -> None:
        b.buffers[name] = torch.randn(*size, **new) * size[-1] ** -0.5

    def norm(name: str) -> None:
        b.buffers[name] = 1 + 0.1 * torch.randn(s.hidden, **new)

    b.buffers["tokens"] = torch.full((s.capacity + 1,), -1, dtype=torch.int64, device=DEVICE)
    b.buffers["inv_freq"] = 10000.0 ** -(
        torch.arange(0, s.head, 2, dtype=torch.float32, device=DEVICE) / s.head
    )
    b.buffers["table"] = torch.randn(s.vocabulary, s.hidden, **new)
    q_size, kv_size = s.heads * s.head, s.kv_heads * s.head
    for layer in range(s.layers):
        p = f"l{layer}."
        norm(p + "norm1")
        weight(p + "wq", q_size, s.hidden)
        weight(p + "wk", kv_size, s.hidden)
        weight(p + "wv", kv_size, s.hidden)
        weight(p + "wo", s.hidden, q_size)
        norm(p + "norm2")
        weight(p + "gate", s.inner, s.hidden)
        weight(p + "up", s.inner, s.hidden)
        weight(p + "down", s.hidden, s.inner)
        for cache in ("kc", "vc"):
            b.buffers[p + cache] = torch.zeros(s.kv_heads, s.capacity, s.head, **new)
        for name, size in (
            ("q", q_size),
            ("k", kv_size),
            ("v", kv_size),
            ("y", q_size),
            ("x1", s.hidden),
            ("h", s.inner),
            ("x2", s.hidden),
        ):
            b.buffers[p + name] = torch.full((size,), float("nan"), **new)
        b.buffers[p + "acc"] = torch.full((s.heads, s.splits, s.head), float("nan"), device=DEVICE)
        b.buffers[p + "stats"] = torch.full((s.heads, s.splits, 2), float("nan"), device=DEVICE)
    norm("norm")
    b.buffers["x"] = torch.full((s.hidden,), float("nan"), **new)
    b.buffers["logits"] = torch.full((s.vocabulary,), float("nan"), device=DEVICE)
    b.buffers["value"] = torch.zeros(s.candidates, device=DEVICE)
    b.buffers["index"] = torch.zeros(s.candidates, dtype=torch.int64, device=DEVICE)
    b.buffers["token"] = torch.zeros(1, dtype=torch.int64, device=DEVICE)

    rows = s.rows
    end, now = b.event(), b.event()
    b.family("embed", 0, 1, ["tokens", "table", "x"], end, 1, now)
    x = "x"
    for layer in range(s.layers):
        p = f"l{layer}."
        qkv = b.event()
        for name, body, size in (("q", 1, q_size), ("k", 2, kv_size), ("v", 2, kv_size)):
            b.family(
                p + name,
                body,
                size // rows[0],
                [x, p + "norm1", p + "w" + name, p + name],
                now,
                0,
                qkv,
            )
        split = b.event()
        operands = (
            [p + n for n in ("q", "k", "v")]
            + ["inv_freq"]
            + [p + n for n in ("kc", "vc", "acc", "stats")]
        )
        b.family(p + "attention", 3, s.kv_heads * s.splits, operands, qkv, 0, split)
        merge = b.event()
        b.family(p + "merge", 4, s.kv_heads, [p + "acc", p + "stats", p + "y"], split, 0, merge)
        o = b.event()
        b.family(p + "o", 5, s.hidden // rows[1], [p + "y", p + "wo", x, p + "x1"], merge, 0, o)
        gate = b.event()
        b.family(
            p + "gate_up",
            6,
            s.inner // rows[2],
            [p + "x1", p + "norm2", p + "gate", p + "up", p + "h"],
            o,
            0,
            gate,
        )
        now = b.event()
        b.family(
            p + "down",
            7,
            s.hidden // rows[3],
            [p + "h", p + "down", p + "x1", p + "x2"],
            gate,
            0,
            now,
        )
        x = p + "x2"
    logits, best = b.event(), b.event()
    b.family("head", 8, s.vocabulary // rows[4], [x, "norm", "table", "logits"], now, 0, logits)
    b.family("argmax", 9, s.candidates, ["logits", "value", "index"], logits, 0, best)
    b.family("next", 10, 1, ["value", "index", "token", "tokens"], best, 0, end)
    return b


def reference(
    shape: Shape, buffers: dict[str, torch.Tensor], tokens: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Logits [T, vocabulary] of the same model over whole sequences."""
    s, t = shape, len(tokens)

    def w(name: str) -> torch.Tensor:
        return buffers[name].to(dtype)

    def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        f = x.float()
        return (f * torch.rsqrt(f.square().mean(-1, keepdim=True) + EPS)).to(dtype) * weight

    angle = torch.arange(t, device=DEVICE)[:, None] * buffers["inv_freq"]
    cos, sin = (
        angle.cos().repeat(1, 2).to(dtype)[:, None],
        angle.sin().repeat(1, 2).to(dtype)[:, None],
    )

    def turn(x: torch.Tensor) -> torch.Tensor:
        a, c = x.chunk(2, -1)
        return x * cos + torch.cat((-c, a), -1) * sin

    x = w("table")[tokens]
    for layer in range(s.layers):
        p = f"l{layer}."
        n = rms(x, w(p + "norm1"))
        q = turn((n @ w(p + "wq").T).view(t, s.heads, s.head)).transpose(0, 1)
        k = turn((n @ w(p + "wk").T).view(t, s.kv_heads, s.head)).transpose(0, 1)
        v = (n @ w(p + "wv").T).view(t, s.kv_heads, s.head).transpose(0, 1)
        group = s.heads // s.kv_heads
        y = torch.nn.functional.scaled_dot_product_attention(
            q[None],
            k.repeat_interleave(group, 0)[None],
            v.repeat_interleave(group, 0)[None],
            is_causal=True,
        )[0]
        x = x + y.transpose(0, 1).reshape(t, -1) @ w(p + "wo").T
        n = rms(x, w(p + "norm2"))
        h = torch.nn.functional.silu(n @ w(p + "gate").T) * (n @ w(p + "up").T)
        x = x + h @ w(p + "down").T
    return (rms(x, w("norm")) @ w("table").T).float()


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def check(shape: Shape, b: Builder, program: CudaProgram) -> None:
    tokens = b.buffers["tokens"]
    prompt = torch.randint(0, shape.vocabulary, (5,), device=DEVICE)
    tokens.fill_(-1)
    tokens[:5] = prompt
    wanted = [0, 1, 4, 5, 63, 64, 127, 128, 129, 300]
    got, position = {}, 0
    for target in wanted:
        if target > position:
            assert program.run(position, target - position) == target - position
        assert program.run(target, 1) == 1
        got[target] = b.buffers["logits"].clone()
        position = target + 1
    sequence = tokens[: position + 1].clone()
    exact = reference(shape, b.buffers, sequence[:position], torch.float32)
    half = reference(shape, b.buffers, sequence[:position], torch.bfloat16)
    print("position  error     torch bf16  ratio")
    for target in wanted:
        ours, theirs = error(got[target], exact[target]), error(half[target], exact[target])
        print(f"{target:8d}  {ours:.2e}  {theirs:.2e}    {ours / theirs:.2f}")
    best = exact[4:].argmax(-1)
    differ = (best != sequence[5 : position + 1]).nonzero().flatten().tolist()
    top = exact[4:].topk(2, -1).values
    gaps = [f"{(top[i, 0] - top[i, 1]).item():.4f}" for i in differ[:5]]
    print(f"greedy tokens that differ from fp32's: {len(differ)} of {len(best)}, top-2 gaps {gaps}")
    tokens.fill_(-1)
    tokens[:5] = prompt
    assert program.run(0, position) == position
    same = bool((tokens[: position + 1] == sequence).all()) and torch.equal(
        b.buffers["logits"], got[wanted[-1]]
    )
    for _ in range(20):
        tokens.fill_(-1)
        tokens[:5] = prompt
        program.run(0, position)
        same = same and torch.equal(b.buffers["logits"], got[wanted[-1]])
    print(f"one launch of {position} steps gives the same bits, 21 times: {same}")
    stop = sequence[40].item()
    first = (sequence[5:] == stop).nonzero()[0].item() + 5
    stopper = CudaProgram(
        build_cuda(shape.source(4, stop), arch_of(tokens.device)),
        b.table(),
        list(b.buffers.values()),
    )
    tokens.fill_(-1)
    tokens[:5] = prompt
    done = stopper.run(0, 200)
    again = stopper.run(done, 3)
    print(f"stops after {done} steps (wanted {first}), goes on for {again}")


def fault(b: Builder, binary: bytes) -> None:
    table = b.table()
    table.tasks[10, 3] += 1
    try:
        CudaProgram(binary, table, list(b.buffers.values()), watchdog_s=0.2).run(0, 1)
        print("no fault reported")
    except MpkirError as caught:
        print(f"fault: {caught}")


def time_of(program: CudaProgram, position: int, steps: int) -> float:
    """Milliseconds a step, median of 9 launches."""
    times = []
    for _ in range(10):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        program.launch(position, steps)
        end.record()
        assert program.finish(steps) == steps
        times.append(begin.elapsed_time(end) / steps)
    return sorted(times[1:])[4]


def main() -> None:
    shape = {"small": SMALL, "llama": LLAMA}[sys.argv[1]]
    depths = [int(a) for a in sys.argv[2:]] or [4]
    workers = torch.cuda.get_device_properties(0).multi_processor_count
    arch = arch_of(torch.device("cuda", 0))
    b = build(shape, workers)
    floor = (
        sum(
            t.numel() * 2
            for n, t in b.buffers.items()
            if n == "table" or ".w" in n or n.split(".")[-1] in ("gate", "up", "down")
        )
        / 3.14e9
    )
    binary = build_cuda(shape.source(depths[0], -2), arch)
    program = CudaProgram(binary, b.table(), list(b.buffers.values()), watchdog_s=2.0)
    print(
        f"{sys.argv[1]}: {program.threads} threads, {program.shared_bytes} bytes, "
        f"{b.table().task_count} tasks"
    )
    check(shape, b, program)
    fault(b, binary)
    for depth in depths:
        binary = build_cuda(shape.source(depth, -2), arch)
        program = CudaProgram(binary, b.table(), list(b.buffers.values()), watchdog_s=2.0)
        b.buffers["tokens"].fill_(7)
        free = b.table()
        free.tasks[:, 2] = -1
        unbound = CudaProgram(binary, free, list(b.buffers.values()), watchdog_s=2.0)
        for name, p in (("counters", program), ("nobody waits", unbound)):
            ms = time_of(p, 256, 64)
            print(
                f"in flight {depth} {name:12s} {ms:.4f} ms/step, floor {floor:.4f}, "
                f"{100 * floor / ms:.1f} % of 3.14 TB/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
