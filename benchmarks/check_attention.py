"""Attention by itself: a chain of cached attentions, checked against fp32 and timed at positions up
to 16,000.

    python benchmarks/check_attention.py --build build/attention    # anywhere, no GPU
    python benchmarks/check_attention.py --build build/in-ring --ablate ring-caches=1
    python benchmarks/check_attention.py --artifacts build/attention --json out.json

The queries of each attention are the result of the one before, its keys and values heads of it, so
that the chain is what a layer's is, without products. Times are of one attention with its merge:
of launches of 64 steps of a long chain less those of a short one, over the difference in length.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from mpkir.errors import MpkirError
from mpkir.runtime.program import Program, load

CAPACITY = 16384
POSITIONS = (0, 1, 31, 32, 63, 64, 158, 511, 512, 1000, 4000, 16000)
SHORT, LONG = 2, 8
STEPS, REPEATS = 64, 15
BANDWIDTH = 3.14e12
EPS = 1e-6


@dataclass(frozen=True)
class Shape:
    """Heads and head size of an attention; some have a norm on queries and keys, some a window."""

    heads: int
    kv: int
    depth: int
    window: int | None = None
    soft_cap: float | None = None


SHAPES = {
    "llama-3.2-1b": Shape(32, 8, 64),
    "qwen3-0.6b": Shape(16, 8, 128),
    "qwen3-8b": Shape(32, 8, 128),
    "qwen3-30b-a3b": Shape(32, 4, 128),
    "qwen3-235b-a22b": Shape(64, 4, 128),
    "smollm2-135m": Shape(9, 3, 64),
    "qwen2.5-7b": Shape(28, 4, 128),
    "window": Shape(8, 4, 256, window=100, soft_cap=20.0),
}

_PROLOGUE = """{{
  ^bb0(%0 : {t}, %1 : tensor<{d}xbf16>, %2 : tensor<1xi64>, %3 : tensor<{r}xf32>):
    %4 = mpk_tensor.rms_norm %0, %1 eps 1.0e-6 : ({t}, tensor<{d}xbf16>) -> {t}
    %5 = mpk_tensor.rotary %4, %2, %3 : ({t}, tensor<1xi64>, tensor<{r}xf32>) -> {t}
    mpk_tensor.yield %5 : {t} }} with %{norm}, %p, %f :
      tensor<{d}xbf16>, tensor<1xi64>, tensor<{r}xf32>"""


def text(s: Shape, layers: int, capacity: int) -> str:
    """A module of so many attentions in a chain."""
    d, r = s.depth, s.depth // 2
    q, k = f"tensor<1x1x{s.heads}x{d}xbf16>", f"tensor<1x1x{s.kv}x{d}xbf16>"
    cache = f"tensor<1x{s.kv}x{capacity}x{d}xbf16>"
    options = f"scale {d**-0.5}"
    options += f" window {s.window}" if s.window else ""
    options += f" soft_cap {s.soft_cap}" if s.soft_cap else ""
    lines = [
        "func.func @step() {",
        f'%y0 = mpk_tensor.input "x" : {q}',
        f'%qn = mpk_tensor.weight "qn" : tensor<{d}xbf16>',
        f'%kn = mpk_tensor.weight "kn" : tensor<{d}xbf16>',
        f'%f = mpk_tensor.weight "f" : tensor<{r}xf32>',
        "%p = mpk_tensor.position : tensor<1xi64>",
    ]
    for i in range(layers):
        for name, start in (("k", 0), ("v", s.heads - s.kv)):
            lines += [
                f"%{name}{i} = mpk_tensor.slice %y{i} dim 2 start {start} step 1 : {q} to {k}",
                f'%{name}c{i} = mpk_tensor.state "{name}c{i}" : {cache}',
            ]
        prologues = (
            f"q_prologue {_PROLOGUE.format(t=q, d=d, r=r, norm='qn')} "
            f"k_prologue {_PROLOGUE.format(t=k, d=d, r=r, norm='kn')}"
        )
        lines += [
            f"%y{i + 1}, %kr{i}, %vr{i} = mpk_tensor.attention %y{i}, %k{i}, %v{i} cache %kc{i}, "
            f"%vc{i} at %p {prologues} {options}",
            f"  : ({q}, {k}, {k}, {cache}, {cache}, tensor<1xi64>) -> ({q}, {cache}, {cache})",
            f'mpk_tensor.store_state "kc{i}", %kr{i} : {cache}',
            f'mpk_tensor.store_state "vc{i}", %vr{i} : {cache}',
        ]
    lines += [f'mpk_tensor.output "y", %y{layers} : {q}', "func.return", "}"]
    return "\n".join(lines)


def build(
    output: Path, names: list[str], target: str, capacity: int, handoffs: str, ablate: str
) -> None:
    """Compile the chains; needs the compiler, no GPU. MpkirError if no ablation is called so."""
    from xdsl.parser import Parser

    from mpkir.compiler import compile_module
    from mpkir.machine import machine_named
    from mpkir.pipeline import context
    from mpkir.tools.ablations import DEFAULT, ablation_named

    variant = (ablation_named(ablate) if ablate else DEFAULT).variant
    for name in names:
        shape = SHAPES[name]
        for layers in (SHORT, LONG):
            begun = perf_counter()
            module = Parser(context(), text(shape, layers, capacity)).parse_module()
            place = output / f"{name}-{layers}"
            machine = replace(machine_named(target), handoffs=tuple(handoffs.split(",")))
            constants = weights(shape)
            compile_module(module, machine, output=place, constants=constants, variant=variant)
            print(f"{place}: {perf_counter() - begun:.1f} s", flush=True)


def weights(s: Shape) -> dict[str, torch.Tensor]:
    """Norm weights and frequencies, the same wherever they are made."""
    generator = torch.Generator().manual_seed(1)
    norms = 1 + 0.1 * torch.randn(2, s.depth, generator=generator)
    return {
        "qn": norms[0].bfloat16(),
        "kn": norms[1].bfloat16(),
        "f": 10000.0 ** -(torch.arange(s.depth // 2) / (s.depth // 2)),
    }


def prepared(x: torch.Tensor, norm: torch.Tensor, f: torch.Tensor, position: int) -> torch.Tensor:
    """Head norm and rotary of [heads, D], in fp32."""
    x = x.float()
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * norm.float()
    angle = torch.tensor(float(position), device=x.device) * f
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def expected(
    s: Shape, x: torch.Tensor, caches: dict[str, torch.Tensor], layers: int, position: int
) -> torch.Tensor:
    """What the chain gives, in fp32 but for what is stored in bf16; appends to the caches."""
    given = {name: tensor.to(x.device) for name, tensor in weights(s).items()}
    y = x[0, 0]
    first = max(0, position + 1 - (s.window or position + 1))
    for i in range(layers):
        keys, values = caches[f"kc{i}"][0], caches[f"vc{i}"][0]
        keys[:, position] = prepared(y[: s.kv], given["kn"], given["f"], position).bfloat16()
        values[:, position] = y[s.heads - s.kv :]
        q = prepared(y, given["qn"], given["f"], position).view(s.kv, s.heads // s.kv, s.depth)
        scores = s.depth**-0.5 * q @ keys[:, first : position + 1].float().mT
        if s.soft_cap:
            scores = s.soft_cap * torch.tanh(scores / s.soft_cap)
        y = scores.softmax(-1) @ values[:, first : position + 1].float()
        y = y.reshape(s.heads, s.depth).bfloat16()
    return y


def check(s: Shape, program: Program, layers: int, position: int) -> float:
    """The relative error of one step at a position; raises where cache rows are wrong."""
    torch.manual_seed(position)
    caches = {
        f"{name}c{i}": torch.randn_like(program.buffer(f"{name}c{i}"))
        for i in range(layers)
        for name in "kv"
    }
    for name, cache in caches.items():
        cache[:, :, position:] = float("nan")  # nobody may look there
        program.buffer(name).copy_(cache)
    x = torch.randn_like(program.buffer("x"))
    program.buffer("x").copy_(x)
    program.run(position, 1)
    wanted = expected(s, x, caches, layers, position).float()
    found = program.buffer("y")[0, 0].float()
    for name, cache in caches.items():
        ours = program.buffer(name)
        before = torch.equal(ours[:, :, :position], cache[:, :, :position])
        after = bool(ours[:, :, position + 1 :].isnan().all())
        row = (ours[:, :, position].float() - cache[:, :, position].float()).norm()
        if not before or not after or row > 0.02 * cache[:, :, position].float().norm():
            raise SystemExit(f"{name} is wrong at position {position}: {before} {after} {row}")
    return float((found - wanted).norm() / wanted.norm())


def step_us(program: Program, position: int) -> float:
    """The median time of a step around a position, in microseconds."""
    for name in program.manifest.buffers:
        if name.kind == "state":
            program.buffer(name.name).normal_()
    times: list[float] = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        begun = perf_counter()
        program.run(position, STEPS)
        times.append((perf_counter() - begun) / STEPS * 1e6)
    return median(times[2:])


def main() -> None:
    """Build the chains, or check and time them."""
    parser = argparse.ArgumentParser(description="Check and time attention by itself.")
    parser.add_argument("shapes", nargs="*", default=list(SHAPES))
    parser.add_argument("--build", type=Path)
    parser.add_argument("--artifacts", type=Path)
    parser.add_argument("--target", default="h100")
    parser.add_argument("--capacity", type=int, default=CAPACITY)
    parser.add_argument("--handoffs", default="counter,flag")
    parser.add_argument("--ablate", default="", help="to build otherwise, as mpk bench --list says")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.build is not None:
        choices = (given.target, given.capacity, given.handoffs, given.ablate)
        try:
            build(given.build, given.shapes, *choices)
        except MpkirError as error:
            parser.error(str(error))
        return
    if given.artifacts is None:
        parser.error("one of --build and --artifacts")
    records: list[dict[str, object]] = []
    print(f"{'shape':16} {'position':>8} {'error':>8} {'us':>7} {'floor us':>8}")
    for name in given.shapes:
        shape = SHAPES[name]
        short, long = (load(given.artifacts / f"{name}-{layers}") for layers in (SHORT, LONG))
        for position in POSITIONS:
            if position + STEPS >= given.capacity:
                continue
            error = max(
                check(shape, program, layers, position)
                for program, layers in ((short, SHORT), (long, LONG))
            )
            us = (step_us(long, position) - step_us(short, position)) / (LONG - SHORT)
            rows = min(position + STEPS // 2, shape.window or CAPACITY)
            floor = 4e6 * rows * shape.kv * shape.depth / BANDWIDTH
            bad = " WRONG" if not error < 0.03 else ""
            print(f"{name:16} {position:8} {error:8.4f} {us:7.2f} {floor:8.2f}{bad}", flush=True)
            measured = {"position": position, "error": error, "us": us, "floor_us": floor}
            records.append({"name": name, **asdict(shape), **measured})
        del short, long
    if given.json is not None:
        given.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
