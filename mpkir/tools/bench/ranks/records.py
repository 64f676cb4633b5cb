"""What results hold of systems on several ranks, and what their times mean for each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mpkir.errors import MpkirError
from mpkir.machine import machine_named
from mpkir.runtime.manifest import Manifest
from mpkir.runtime.ranks.group import Group
from mpkir.tools.bench.models import ModelSource
from mpkir.tools.bench.ranks.programs import ALONE, Programs
from mpkir.tools.bench.records import bytes_per_step, device_name, provenance, read_bandwidth
from mpkir.tools.bench.session import Settings
from mpkir.tools.bench.systems import System
from mpkir.tools.bench.timing import Times

BENCHMARK = "decode-tp"
Record = dict[str, Any]


class Comparison:
    """Records of what was measured of one model at one batch size.

    Every rank makes one, at the same time: on a CPU they measure the memory's bandwidth together.
    """

    def __init__(
        self,
        source: ModelSource,
        programs: Programs,
        batch: int,
        settings: Settings,
        group: Group,
        device: torch.device,
    ) -> None:
        self._source, self._programs, self._batch = source, programs, batch
        self._settings, self._ranks, self._device = settings, group.ranks, device
        machine = machine_named(programs.many.manifest.target.name)
        group.barrier()
        own = read_bandwidth(device, machine)
        each = [float(json.loads(told)) for told in group.gather(json.dumps(own).encode())]
        self._bandwidth = {1: sum(each), group.ranks: sum(each) / group.ranks}
        if device.type == "cuda":
            self._bandwidth = {1: own, group.ranks: own}

    def records(
        self,
        systems: Sequence[System],
        times: Mapping[str, Times | MpkirError],
        position: int,
        facts: Mapping[str, dict[str, Any]],
    ) -> list[Record]:
        """One for each system that was timed."""
        found: list[Record] = []
        for system in systems:
            timed = times[system.label]
            if isinstance(timed, Times):
                own = facts.get(system.label, {})
                found.append(self._record(system, timed, position) | own)
        compare(found)
        return found

    def _record(self, system: System, times: Times, position: int) -> Record:
        tp = system.facts["tp"]
        size = self._bytes(tp, position)
        floor = size / self._bandwidth[tp] / 1e6
        roles = self._programs.many.manifest.language
        assert roles is not None
        return {
            "benchmark": BENCHMARK,
            "system": system.name,
            **system.facts,
            "model": self._source.name,
            "weights": "random" if self._source.random else "checkpoint",
            "gpu": device_name(self._device),
            "gpus": 0 if self._device.type == "cpu" else tp,
            "batch": self._batch,
            "positions": [position, position + self._settings.steps - 1],
            "capacity": roles.capacity,
            **times.record(),
            **provenance(),
            "bytes": size,  # of one rank
            "floor_ms": round(floor, 5),
            "bandwidth_gb_s": round(self._bandwidth[tp], 1),
            "gb_s": round(size / times.median / 1e6, 1),
            "share_of_floor": round(floor / times.median, 4),
        }

    def _bytes(self, tp: int, position: int) -> int:
        """What one of `tp` ranks has to read in the middle step."""
        one = self._programs.one
        manifest: Manifest = (
            one.manifest if tp == 1 and one is not None else self._programs.many.manifest
        )
        return bytes_per_step(manifest, position + self._settings.steps // 2)


def compare(records: Sequence[Record]) -> None:
    """Say in the record of our program on all ranks what the others of its run make of it.

    of_one_rank    its time over that on one rank
    exposed_ms     what a step waits for other ranks: its time less that of the same with nobody to
                   wait for; exposed_share: of the step
    times_faster   than the fastest of PyTorch's
    """
    ours = [each for each in records if each["system"].startswith("mpkir")]
    many = next((r for r in ours if r["tp"] > 1 and "variant" not in r), None)
    if many is None:
        return
    for each in ours:
        if each["tp"] == 1:
            many["of_one_rank"] = round(many["ms"] / each["ms"], 4)
        elif each.get("variant") == ALONE.name:
            many["exposed_ms"] = round(many["ms"] - each["ms"], 5)
            many["exposed_share"] = round(1 - each["ms"] / many["ms"], 4)
    peers = [each["ms"] for each in records if each not in ours]
    if peers:
        many["times_faster"] = round(min(peers) / many["ms"], 3)
