"""What the search for a division thinks that things cost, and what it chooses at true widths.

Two H200s have been timed: an all-reduce by itself, and steps with sums of one shot and of two
(allreduce-h200.json, decode-tp-h200.json, shots-h200.json).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdsl.context import Context
from xdsl.dialects import func
from xdsl.ir import Block, Operation

from mpkir.dialects import tensor
from mpkir.frontend import decode_step, model_from_config
from mpkir.machine import Machine, machine_named
from mpkir.passes.raise_operators import RaiseOperatorsPass
from mpkir.passes.sharding.costs import Costs
from mpkir.passes.sharding.forms import Exchange, Kind, Way
from mpkir.passes.sharding.rules import ways_of
from mpkir.passes.sharding.search import cheapest_ways
from mpkir.tools.bench.shapes import configurations

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
LAYERS = 2
F32, BF16 = 4, 2


@cache
def step_of(shapes: str) -> Block:
    """Two layers of a model's decode step."""
    config: Any = configurations()[shapes]
    config.num_hidden_layers = LAYERS
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:LAYERS]
    module = decode_step(model_from_config(config), 1024)
    RaiseOperatorsPass().apply(Context(), module)
    (step,) = (op for op in module.body.block.ops if isinstance(op, func.FuncOp))
    return step.body.block


def exchanges(ways: Mapping[Operation, Way]) -> Counter[Kind]:
    """What products exchange, and how often."""
    return Counter(
        way.exchange.kind
        for op, way in ways.items()
        if isinstance(op, tensor.LinearOp) and way.exchange is not None
    )


def as_it_is(machine: Machine) -> Machine:
    return machine


def with_slow_bodies(machine: Machine) -> Machine:
    return replace(machine, timing=replace(machine.timing, body=8 * machine.timing.body))


def with_slow_hops(machine: Machine) -> Machine:
    return replace(machine, hops=replace(machine.hops, flag=2 * machine.hops.flag))


Change = Callable[[Machine], Machine]


@pytest.mark.parametrize("change", [as_it_is, with_slow_bodies, with_slow_hops])
@pytest.mark.parametrize(
    ("shapes", "tp"), [("qwen3-8b", 2), ("qwen3-32b", 2), ("qwen3-8b", 8), ("llama-3.1-70b", 8)]
)
def test_a_token_is_summed_up_at_once(shapes: str, tp: int, change: Change) -> None:
    """Two sums a layer, as has been measured with two ranks (two shots took 3.6 % more of Qwen3-8B)
    and as the simulator has it with eight, where gathers in their place take 6 and 2 % more: each
    worker would read all that the output and down projections multiply. Nothing hinges on a
    constant that only tasks with barriers have, nor on how a hop's time is told from a task's."""
    machine = change(machine_named("h200"))
    found = exchanges(cheapest_ways(step_of(shapes), Costs(machine, tp, scatters=False)))
    assert found == {Kind.SUM: 2 * LAYERS}


@pytest.mark.parametrize("result_bytes", [4096, 8192, 16384])
def test_a_sum_costs_what_an_all_reduce_takes(result_bytes: int) -> None:
    """Until all SMs have it, with the best size of tile; partial sums are in fp32."""
    records = json.loads((RESULTS / "allreduce-h200.json").read_text(encoding="utf-8"))
    measured = min(
        each["us"]
        for each in records
        if each["system"] == "mpkir-megakernel"
        and each["bytes"] == result_bytes
        and each["seen_by"] == "all SMs"
    )
    one = Exchange(Kind.SUM, 2, result_bytes * F32 // BF16)
    assert Costs(machine_named("h200"), 2).of_exchange(one) == pytest.approx(measured, rel=0.08)


def test_what_crosses_hosts_takes_the_network() -> None:
    """Eight of sixteen ranks are far; the others get theirs over the links meanwhile."""
    machine = machine_named("h200")
    timing, size = machine.timing, 1 << 20
    gather = Exchange(Kind.SHARDS, 16, size)
    far = size * 8 / (timing.network_bandwidth * 1e3)
    cost = Costs(machine, 16).of_exchange(gather)
    assert cost == pytest.approx(machine.hops.peer + timing.network + far)
    near = size * 7 / (timing.link_bandwidth * 1e3)
    cost = Costs(machine, 8).of_exchange(gather)
    assert cost == pytest.approx(machine.hops.peer + near)


def test_every_worker_reads_what_a_product_multiplies() -> None:
    """Columns of a wide product take all of x, which costs more than the hop that they save."""
    machine = machine_named("h200")
    costs = Costs(machine, 8)
    (down,) = (
        op
        for op in step_of("llama-3.1-70b").ops
        if isinstance(op, tensor.LinearOp) and "layers.1.mlp.down_proj" in str(op.location)
    )
    reads = {
        way.operands[0].of: costs.of_way(down, replace(way, exchange=None))
        for way in ways_of(down, 8)
        if way.operands[1].of == 8
    }
    x = 28672 * BF16
    apart = x * 7 / 8 / (machine.timing.l2_bandwidth * 1e3)
    assert reads[1] - reads[8] == pytest.approx(apart, rel=0.01)
