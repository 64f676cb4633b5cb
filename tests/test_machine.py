"""Machine models and the errors about them."""

from __future__ import annotations

import os

import pytest

from mpkir.errors import MpkirError
from mpkir.machine import machine_named, machine_names


@pytest.mark.parametrize("name", machine_names())
def test_a_model_is_consistent(name: str):
    machine = machine_named(name)
    assert machine.name == name
    assert machine.workers >= 1
    assert machine.kind == ("cpu" if name == "cpu" else "cuda")
    if machine.shared_memory:
        assert machine.ring.bytes + machine.scratch <= machine.shared_memory
        assert machine.ring.slot_bytes % 16 == 0
        in_flight = (machine.ring.in_flight, *machine.ring.in_flights)
        assert 1 <= max(in_flight) < machine.ring.slots


def test_a_model_by_architecture():
    assert machine_named("sm_80").name == "a100"
    assert machine_named("sm_90a").name == "h100"


def test_workers():
    assert machine_named("cpu").workers == os.cpu_count()
    assert machine_named("cpu", workers=3).workers == 3
    assert machine_named("h100", workers=7).workers == 7
    with pytest.raises(MpkirError, match="at least one worker, got 0"):
        machine_named("cpu", workers=0)


def test_an_unknown_name():
    with pytest.raises(MpkirError, match="no machine is named 'h1000'; choose one of a100, cpu"):
        machine_named("h1000")


def test_ranks_of_one_host_share_its_cpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert [machine_named("cpu", ranks=ranks).workers for ranks in (1, 2, 4, 8)] == [6, 3, 1, 1]
    assert machine_named("cpu", 5, 2).workers == 5
    assert machine_named("h200", ranks=4).workers == machine_named("h200").workers


def test_options_of_a_target():
    machine = machine_named("h200{transport=nvshmem}", workers=7)
    assert (machine.name, machine.transport, machine.workers) == ("h200", "nvshmem", 7)
    assert machine_named("h200{launch=per-operator, transport=direct}").launch == "per-operator"
    for target, what in {
        "h200{transport=pigeon}": "no transport is named 'pigeon'; choose one of direct, nvshmem",
        "cpu{transport=nvshmem}": "cpu has no transport 'nvshmem'",
        "h200{link=nvshmem}": "targets have no option 'link'; choose of launch, transport",
    }.items():
        with pytest.raises(MpkirError, match=what):
            machine_named(target)
