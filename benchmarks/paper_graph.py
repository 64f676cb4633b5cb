"""The task graphs of the paper's Table 2, as regions: Qwen3 with the operators and grids of the
paper's own demonstration programs (one sequence, one token a step, 128 workers).

Bodies are left empty; what a task reads and writes is all that its dependences come from. Weights
are left out: nobody writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedConfig
from xdsl.dialects import func
from xdsl.dialects.builtin import FloatAttr, MemRefType, ModuleOp, TensorType, bf16
from xdsl.ir import Block, Region
from xdsl.ir.affine import AffineExpr, AffineMap

from mpkir.dialects import task, tensor

WORKERS = 128
"""Of the paper's GPU; the rest of the SMs schedule."""
VOCABULARY = 153600
"""Padded so that it can be cut."""

Access = tuple[str, Sequence[int], Sequence[int | None]]
"""A buffer's name, the sizes of a task's box, and along each dimension which coordinate of the grid
moves it by its size (None: none does)."""


@dataclass
class _Step:
    """A step at task level under construction."""

    block: Block = field(default_factory=Block)
    buffers: dict[str, task.BufferOp] = field(default_factory=dict[str, task.BufferOp])

    def buffer(self, name: str, *shape: int, state: bool = False) -> str:
        """A new buffer's name."""
        kind = task.BufferKind.STATE if state else task.BufferKind.SCRATCH
        self.buffers[name] = task.BufferOp(kind, name, MemRefType(bf16, shape))
        self.block.add_op(self.buffers[name])
        return name

    def family(
        self, name: str, grid: Sequence[int], reads: Sequence[Access], writes: Sequence[Access]
    ) -> None:
        """Add the tasks of one operator."""
        boxes = [self.box(len(grid), access) for access in (*reads, *writes)]
        types = [TensorType(bf16, box.shape) for box in boxes]
        body = Block(arg_types=types[: len(reads)])
        results = [tensor.FullOp(FloatAttr(0.0, bf16), type) for type in types[len(reads) :]]
        body.add_ops([*results, task.YieldOp(*(op.result for op in results))])
        values = [self.buffers[access[0]].result for access in (*reads, *writes)]
        grid_op = task.GridOp(name, grid, values[: len(reads)], values[len(reads) :], boxes, body)
        self.block.add_op(grid_op)

    @staticmethod
    def box(rank: int, access: Access) -> task.RegionAttr:
        _, sizes, moved_by = access
        offsets = tuple(
            AffineExpr.constant(0) if dim is None else AffineExpr.dimension(dim) * size
            for size, dim in zip(sizes, moved_by, strict=True)
        )
        return task.RegionAttr(AffineMap(rank, 0, offsets), list(sizes))

    def whole(self, name: str) -> Access:
        """All of a buffer, for every task."""
        shape = self.buffers[name].result.type.get_shape()
        return name, shape, [None] * len(shape)

    def linear(self, name: str, x: str, y: str, tasks: int, residual: str | None = None) -> None:
        """A product whose outputs are cut evenly; the residual is read where it is added."""
        columns = self.buffers[y].result.type.get_shape()[-1] // tasks
        reads = [self.whole(x), *([(residual, [columns], [0])] if residual else [])]
        self.family(name, [tasks], reads, [(y, [columns], [0])])

    def whole_tasks(self, name: str, reads: Sequence[str], y: str) -> None:
        """An operator of one task."""
        self.family(name, [1], [self.whole(x) for x in reads], [self.whole(y)])


def _linear_grid(features: int) -> int:
    """Tasks of a product, by the rule of the paper's programs."""
    return 96 if features % 96 == 0 else 64


def paper_graph(config: PreTrainedConfig) -> ModuleOp:
    """The step of a Qwen3 model, dense or with experts, at task level."""
    step = _Step()
    hidden = config.hidden_size
    tokens = step.buffer("tokens", 1025, state=True)
    x = step.buffer("embed.out", hidden)
    step.whole_tasks("embed", [tokens], x)
    for number in range(config.num_hidden_layers):
        x = _layer(step, config, f"l{number}", x)
    normed = step.buffer("norm.out", hidden)
    step.whole_tasks("norm", [x], normed)
    logits = step.buffer("logits", VOCABULARY)
    step.linear("head", normed, logits, WORKERS)
    best = step.buffer("best", WORKERS)
    cut = VOCABULARY // WORKERS
    step.family("argmax", [WORKERS], [(logits, [cut], [0])], [(best, [1], [0])])
    step.whole_tasks("token", [best], tokens)
    step.block.add_op(func.ReturnOp())
    return ModuleOp([func.FuncOp("step", ((), ()), Region(step.block))])


def _layer(step: _Step, config: PreTrainedConfig, name: str, x: str) -> str:
    hidden, heads = config.hidden_size, config.num_key_value_heads
    group = (config.num_attention_heads // heads + 2) * config.head_dim
    normed = step.buffer(f"{name}.norm1.out", hidden)
    step.whole_tasks(f"{name}.norm1", [x], normed)
    # Queries, keys and values of one group of heads stand together.
    qkv = step.buffer(f"{name}.qkv.out", heads * group)
    step.linear(f"{name}.qkv", normed, qkv, _linear_grid(heads * group))
    cache = step.buffer(f"{name}.cache", heads, 1024, 2 * config.head_dim, state=True)
    rows = (cache, [1, 1024, 2 * config.head_dim], [0, None, None])
    width = group - 2 * config.head_dim
    attended = step.buffer(f"{name}.attention.out", heads * width)
    step.family(
        f"{name}.attention",
        [heads],
        [(qkv, [group], [0]), rows],
        [(attended, [width], [0]), rows],
    )
    projected = step.buffer(f"{name}.o.out", hidden)
    step.linear(f"{name}.o", attended, projected, hidden // 64, residual=x)
    normed = step.buffer(f"{name}.norm2.out", hidden)
    step.whole_tasks(f"{name}.norm2", [projected], normed)
    if getattr(config, "num_experts", 0):
        return _experts(step, config, name, normed, projected)
    tasks = _linear_grid(2 * config.intermediate_size)
    both = step.buffer(f"{name}.gate_up.out", 2 * config.intermediate_size)
    step.linear(f"{name}.gate_up", normed, both, tasks)
    # Two tasks of the product make what one of these takes.
    width = config.intermediate_size // (tasks // 2)
    product = step.buffer(f"{name}.silu.out", config.intermediate_size)
    step.family(f"{name}.silu", [tasks // 2], [(both, [2 * width], [0])], [(product, [width], [0])])
    y = step.buffer(f"{name}.down.out", hidden)
    step.linear(f"{name}.down", product, y, hidden // 64, residual=projected)
    return y


def _experts(step: _Step, config: PreTrainedConfig, name: str, normed: str, residual: str) -> str:
    """Which slots of the chosen experts a task computes depends on data: a group of tasks stands
    for a part of the slots.
    """
    hidden, chosen = config.hidden_size, config.num_experts_per_tok
    scores = step.buffer(f"{name}.router.out", config.num_experts)
    step.whole_tasks(f"{name}.router", [normed], scores)
    routes = step.buffer(f"{name}.topk.out", 2 * chosen)
    step.whole_tasks(f"{name}.topk", [scores], routes)
    up = step.buffer(f"{name}.w13.out", 12, 12)
    step.family(
        f"{name}.w13",
        [12, 12],
        [step.whole(normed), step.whole(routes)],
        [(up, [1, 1], [0, 1])],
    )
    product = step.buffer(f"{name}.silu.out", chosen, config.moe_intermediate_size)
    step.whole_tasks(f"{name}.silu", [up], product)
    groups, columns = 6, hidden // 16
    down = step.buffer(f"{name}.w2.out", groups, hidden)
    step.family(
        f"{name}.w2",
        [groups, 16],
        [step.whole(product), step.whole(routes)],
        [(down, [1, columns], [0, 1])],
    )
    y = step.buffer(f"{name}.sum.out", hidden)
    step.family(
        f"{name}.sum",
        [hidden // 256],
        [(down, [groups, 256], [None, 0]), step.whole(routes), (residual, [256], [0])],
        [(y, [256], [0])],
    )
    return y
