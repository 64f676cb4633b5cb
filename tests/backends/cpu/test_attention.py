"""Attention with caches against PyTorch: whole and split, groups, windows, positions, prologues."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

TORCH = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


@dataclass
class Shape:
    tokens: int = 1
    heads: int = 4
    kv: int = 2
    depth: int = 32
    capacity: int = 80
    window: int | None = None
    cap: float | None = None
    dtype: str = "bf16"


SHAPES = {
    "plain": Shape(),
    "one group of three": Shape(heads=9, kv=3, depth=64),
    "many heads to one": Shape(heads=7, kv=1, depth=40),
    "window": Shape(window=8),
    "soft cap": Shape(cap=3.0),
    "several tokens": Shape(tokens=5, heads=6, kv=2),
    "f32": Shape(dtype="f32", depth=20),
    "f16": Shape(dtype="f16", tokens=2),
}

NORM_AND_TURN = """
  ^bb0(%0 : {t}, %1 : tensor<{d}x{e}>, %2 : tensor<{n}xi64>, %3 : tensor<{r}xf32>):
    %4 = mpk_tensor.rms_norm %0, %1 eps 1.0e-6 : ({t}, tensor<{d}x{e}>) -> {t}
    %5 = mpk_tensor.rotary %4, %2, %3 : ({t}, tensor<{n}xi64>, tensor<{r}xf32>) -> {t}
    mpk_tensor.yield %5 : {t}"""


def program(s: Shape, split: tuple[int, int] | None, prologue: bool) -> str:
    e, d, n, r = s.dtype, s.depth, s.tokens, s.depth // 2
    q, k = f"tensor<1x{n}x{s.heads}x{d}x{e}>", f"tensor<1x{n}x{s.kv}x{d}x{e}>"
    cache = f"tensor<1x{s.kv}x{s.capacity}x{d}x{e}>"
    extra = f"tensor<{d}x{e}>, tensor<{n}xi64>, tensor<{r}xf32>"
    regions = "".join(
        f"{which}_prologue {{{NORM_AND_TURN.format(t=t, d=d, e=e, n=n, r=r)} }} "
        f"with %norm, %p, %f : {extra} "
        for which, t in (("q", q), ("k", k))
    )
    options = (regions if prologue else "") + "scale 0.2"
    options += f" window {s.window}" if s.window else ""
    options += f" soft_cap {s.cap}" if s.cap else ""
    types = f"({q}, {k}, {k}, {cache}, {cache}, tensor<{n}xi64>)"
    operands = f"%q, %k, %v cache %kc, %vc at %p {options} : {types}"
    if split is None:
        call = f"%y, %kr, %vr = mpk_tensor.attention {operands} -> ({q}, {cache}, {cache})"
    else:
        block, chunks = split
        blocks = f"tensor<1x{s.kv}x{s.capacity // block // chunks}x{chunks}x{block}x{d}x{e}>"
        acc = f"tensor<1x{n}x{s.heads}x{chunks}x{d}xf32>"
        stats = f"tensor<1x{n}x{s.heads}x{chunks}x2xf32>"
        operands = operands.replace("%kc, %vc", "%kb, %vb").replace(cache, blocks)
        call = f"""
        %kb = mpk_tensor.reshape %kc : {cache} to {blocks}
        %vb = mpk_tensor.reshape %vc : {cache} to {blocks}
        %acc, %stats, %kn, %vn = mpk_tensor.attention_split chunks {chunks} {operands} -> ({acc},
          {stats}, {blocks}, {blocks})
        %y = mpk_tensor.attention_merge block {block} %acc, %stats at %p : ({acc}, {stats},
          tensor<{n}xi64>) -> {q}
        %kr = mpk_tensor.reshape %kn : {blocks} to {cache}
        %vr = mpk_tensor.reshape %vn : {blocks} to {cache}"""
    return f"""
      %q = mpk_tensor.input "q" : {q}
      %k = mpk_tensor.input "k" : {k}
      %v = mpk_tensor.input "v" : {k}
      %norm = mpk_tensor.weight "norm" : tensor<{d}x{e}>
      %f = mpk_tensor.weight "f" : tensor<{r}xf32>
      %kc = mpk_tensor.state "kc" : {cache}
      %vc = mpk_tensor.state "vc" : {cache}
      %p = mpk_tensor.position : tensor<{n}xi64>
      {call}
      mpk_tensor.output "y", %y : {q}
      mpk_tensor.store_state "kc", %kr : {cache}
      mpk_tensor.store_state "vc", %vr : {cache}"""


def reference(s: Shape, q, k_cache, v_cache, position: int):
    group = s.heads // s.kv
    keys = k_cache[0].float().repeat_interleave(group, 0)
    values = v_cache[0].float().repeat_interleave(group, 0)
    scores = 0.2 * torch.einsum("thd,hjd->htj", q[0].float(), keys)
    if s.cap:
        scores = s.cap * torch.tanh(scores / s.cap)
    j = torch.arange(s.capacity)
    at = position + torch.arange(s.tokens)[:, None]
    seen = (j <= at) & (j > at - (s.window or 10**9))
    scores = scores.masked_fill(~seen, float("-inf"))
    return torch.einsum("htj,hjd->thd", scores.softmax(-1), values)[None]


def turned(x, norm, frequency, position: int):
    y = torch.nn.functional.rms_norm(x.float(), norm.shape, norm.float(), 1e-6)
    angle = (position + torch.arange(x.shape[1]))[:, None].float() * frequency
    cosine, sine = angle.cos()[:, None], angle.sin()[:, None]
    a, b = y.chunk(2, -1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)


@pytest.mark.parametrize("split", [None, (16, 5), (8, 2)])
@pytest.mark.parametrize("name", SHAPES)
def test_attention(start, name: str, split: tuple[int, int] | None):
    s, dtype = SHAPES[name], TORCH[SHAPES[name].dtype]
    prologue = name in ("plain", "several tokens", "one group of three")
    step = start(program(s, split, prologue), tokens=s.tokens)
    norm = (1 + 0.1 * torch.randn(s.depth)).to(dtype)
    frequency = 10000.0 ** -(torch.arange(s.depth // 2) / (s.depth // 2))
    step(norm=norm, f=frequency)
    for state in ("kc", "vc"):
        step.buffers[state].copy_(torch.randn(1, s.kv, s.capacity, s.depth))
    for position in (0, 1, 31, 32, 63, 64, s.capacity - s.tokens):
        q = torch.randn(1, s.tokens, s.heads, s.depth).to(dtype)
        k, v = (torch.randn(1, s.tokens, s.kv, s.depth).to(dtype) for _ in range(2))
        before = {state: step.buffers[state].clone() for state in ("kc", "vc")}
        got = step(position, q=q, k=k, v=v)
        rows = slice(position, position + s.tokens)
        new_k = turned(k, norm, frequency, position) if prologue else k
        before["kc"][:, :, rows] = got["kc"][:, :, rows]
        before["vc"][:, :, rows] = v.transpose(1, 2)
        torch.testing.assert_close(
            got["kc"][:, :, rows].float(), new_k.transpose(1, 2).float(), rtol=1e-2, atol=1e-2
        )
        assert torch.equal(got["kc"], before["kc"])
        assert torch.equal(got["vc"], before["vc"])
        new_q = turned(q, norm, frequency, position) if prologue else q
        expected = reference(s, new_q, got["kc"], got["vc"], position)
        tolerance = 1e-4 if s.dtype == "f32" else 1e-2
        torch.testing.assert_close(
            got["y"].float(), expected, rtol=tolerance, atol=tolerance, msg=f"at {position}"
        )


def test_caches_of_which_a_row_of_the_table_has_no_room_for_the_result(start):
    """With norms of queries and keys that have weights and biases a task touches 13 buffers."""
    x, cache = "tensor<1x1x2x16xf32>", "tensor<1x2x32x16xf32>"

    def prologue(which: str) -> str:
        return f"""{which}_prologue {{
  ^bb0(%0 : {x}, %1 : tensor<16xf32>, %2 : tensor<16xf32>, %3 : tensor<1xi64>, %4 : tensor<8xf32>):
    %5 = mpk_tensor.layer_norm %0, %1, %2 eps 1.0e-5 : ({x}, tensor<16xf32>, tensor<16xf32>) -> {x}
    %6 = mpk_tensor.rotary %5, %3, %4 : ({x}, tensor<1xi64>, tensor<8xf32>) -> {x}
    mpk_tensor.yield %6 : {x} }} with %{which}w, %{which}b, %p, %f : tensor<16xf32>,
      tensor<16xf32>, tensor<1xi64>, tensor<8xf32>"""

    step = start(f"""
      %q = mpk_tensor.input "q" : {x}
      %k = mpk_tensor.input "k" : {x}
      %v = mpk_tensor.input "v" : {x}
      %qw = mpk_tensor.weight "qw" : tensor<16xf32>
      %qb = mpk_tensor.weight "qb" : tensor<16xf32>
      %kw = mpk_tensor.weight "kw" : tensor<16xf32>
      %kb = mpk_tensor.weight "kb" : tensor<16xf32>
      %f = mpk_tensor.weight "f" : tensor<8xf32>
      %kc = mpk_tensor.state "kc" : {cache}
      %vc = mpk_tensor.state "vc" : {cache}
      %p = mpk_tensor.position : tensor<1xi64>
      %y, %kr, %vr = mpk_tensor.attention %q, %k, %v cache %kc, %vc at %p {prologue("q")}
        {prologue("k")} scale 0.2 : ({x}, {x}, {x}, {cache}, {cache}, tensor<1xi64>)
        -> ({x}, {cache}, {cache})
      mpk_tensor.output "y", %y : {x}
      mpk_tensor.store_state "kc", %kr : {cache}
      mpk_tensor.store_state "vc", %vr : {cache}""")
    weights = {name: torch.randn(16) for name in ("qw", "qb", "kw", "kb")}
    q, k, v = (torch.randn(1, 1, 2, 16) for _ in range(3))
    # At position 0 nothing turns.
    got = step(0, q=q, k=k, v=v, f=torch.ones(8), **weights)
    keys = torch.nn.functional.layer_norm(k, (16,), weights["kw"], weights["kb"])
    torch.testing.assert_close(got["kc"][:, :, 0], keys[:, 0])
    assert torch.equal(got["vc"][:, :, 0], v[:, 0])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("mask", [None, "i1", "f32"])
def test_sdpa(start, causal: bool, mask: str | None):
    q, k = "tensor<2x6x5x24xbf16>", "tensor<2x3x9x24xbf16>"
    masks = "mask %m " if mask else ""
    m_type = f", tensor<5x9x{mask}>" if mask else ""
    step = start(f"""
      %q = mpk_tensor.input "q" : {q}
      %k = mpk_tensor.input "k" : {k}
      %v = mpk_tensor.input "v" : {k}
      {f'%m = mpk_tensor.input "m" : tensor<5x9x{mask}>' if mask else ""}
      %y = mpk_tensor.sdpa {"causal" if causal else ""} %q, %k, %v {masks}scale 0.3 : ({q}, {k},
        {k}{m_type}) -> {q}
      mpk_tensor.output "y", %y : {q}""")
    a, b, c = (
        torch.randn(shape).bfloat16() for shape in ((2, 6, 5, 24), (2, 3, 9, 24), (2, 3, 9, 24))
    )
    inputs = {"q": a, "k": b, "v": c}
    scores = 0.3 * a.float() @ b.float().repeat_interleave(2, 1).mT
    if causal:
        scores = scores.masked_fill(torch.ones(5, 9).triu(1).bool(), float("-inf"))
    if mask == "i1":
        inputs["m"] = torch.rand(5, 9) > 0.3
        inputs["m"][:, 0] = True
        scores = scores.masked_fill(~inputs["m"], float("-inf"))
    elif mask:
        inputs["m"] = torch.randn(5, 9)
        scores = scores + inputs["m"]
    expected = scores.softmax(-1) @ c.float().repeat_interleave(2, 1)
    torch.testing.assert_close(step(**inputs)["y"].float(), expected, rtol=1e-2, atol=1e-2)


def test_cache_append_touches_its_rows_only(start):
    step = start(
        """
      %c = mpk_tensor.state "c" initial 3 : tensor<1x2x10x4xf32>
      %n = mpk_tensor.input "n" : tensor<1x2x3x4xf32>
      %p = mpk_tensor.position : tensor<3xi64>
      %r = mpk_tensor.cache_append %c, %n at %p : (tensor<1x2x10x4xf32>, tensor<1x2x3x4xf32>,
        tensor<3xi64>) -> tensor<1x2x10x4xf32>
      mpk_tensor.store_state "c", %r : tensor<1x2x10x4xf32>""",
        tokens=3,
    )
    new = torch.randn(1, 2, 3, 4)
    expected = torch.full((1, 2, 10, 4), 3.0)
    expected[:, :, 4:7] = new
    assert torch.equal(step(4, n=new)["c"], expected)
