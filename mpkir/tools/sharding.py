"""What one of several GPUs computes of a model, as a configuration of its own, for planning.

The compiler does not divide a model yet. One rank of tensor parallelism computes a model with a
part of the heads, of the intermediate size and of the vocabulary; what it hands over after the
output and the down projection, and its share of the last argmax, meet in an all-reduce, which the
simulator adds as latency. Experts are divided as tensors too: each rank has a part of every one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mpkir.analysis.plan import Plan
from mpkir.analysis.task_times import KILO
from mpkir.errors import MpkirError

ALL_REDUCED = ("*o_proj*", "*down_proj*", "*experts.1", "argmax_partial*")
"""Families of the decoders of Hugging Face whose results the ranks add up, or compare."""

PACKET = 8
"""Bytes that one fp32 value is sent in: the value and the epoch that says that it is there."""

_DIVIDED = ("num_attention_heads", "intermediate_size", "moe_intermediate_size", "vocab_size")


def shard_config(config: dict[str, Any], ranks: int) -> dict[str, Any]:
    """The configuration of one rank's part. MpkirError if something does not divide.

    Fewer key heads than ranks are repeated, as usual: every rank then has one.
    """
    result = dict(config)
    heads = config["num_attention_heads"]
    result.setdefault("head_dim", config["hidden_size"] // heads)
    result["head_dim"] = result["head_dim"] or config["hidden_size"] // heads
    for key in _DIVIDED:
        size = config.get(key)
        if not size:
            continue
        if size % ranks:
            raise MpkirError(f"{key} = {size} does not divide by {ranks} ranks")
        result[key] = size // ranks
    keys = config.get("num_key_value_heads") or heads
    if keys % ranks and ranks % keys:
        raise MpkirError(f"{keys} key heads and {ranks} ranks do not divide each other")
    result["num_key_value_heads"] = max(1, keys // ranks)
    return result


@contextmanager
def shard(source: str, ranks: int) -> Iterator[Path]:
    """A file with one rank's configuration, while the context lasts. Raises MpkirError."""
    path = Path(source)
    if path.suffix != ".json":
        raise MpkirError("only a config.json can be planned for several devices", where=source)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MpkirError(f"the configuration cannot be read ({error})", where=source) from error
    with TemporaryDirectory() as folder:
        target = Path(folder) / "config.json"
        try:
            target.write_text(json.dumps(shard_config(config, ranks)), encoding="utf-8")
        except KeyError as error:
            raise MpkirError(f"the configuration has no {error}", where=source) from error
        yield target


def all_reduce_time(plan: Plan, ranks: int, patterns: Sequence[str]) -> float:
    """Microseconds of an all-reduce of the widest result.

    Within a host in one shot: every rank sends all of its own to every other one, each value a
    packet, and waits for theirs. Over hosts, each rank then exchanges the sums of its part of the
    values with its fellows in the other hosts, and tells them to its own host.
    """
    values = 0
    for family in plan.graph.families:
        if any(fnmatchcase(family.name, pattern) for pattern in patterns):
            values = max(values, int(plan.costs[family.number].written.sum()) // 4)
    timing, hop = plan.machine.timing, plan.machine.hops.peer
    inside = min(ranks, timing.host_devices)
    link = timing.link_bandwidth * KILO
    time = hop + (inside - 1) * values * PACKET / link
    hosts = -(-ranks // timing.host_devices)
    if hosts > 1:
        part = values / inside * PACKET
        across = timing.network + (hosts - 1) * part / (timing.network_bandwidth * KILO)
        time += across + hop + (inside - 1) * part / link
    return time
