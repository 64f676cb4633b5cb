"""A program is refused on a machine that it was not compiled for."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from mpkir.errors import MpkirError
from mpkir.runtime.host import check_host, cpu_arch, cpu_features
from mpkir.runtime.manifest import Target

CPU = Target("cpu", "cpu", cpu_arch(), workers=2, features=tuple(cpu_features()))
H100 = Target("cuda", "h100", "sm_90a", workers=132, shared_bytes=200_000)


def gpu(name: str, major: int, minor: int, sms: int, shared: int) -> SimpleNamespace:
    return SimpleNamespace(
        name=name,
        major=major,
        minor=minor,
        multi_processor_count=sms,
        shared_memory_per_block_optin=shared,
    )


def refusal(target: Target, device: str = "cpu") -> str:
    with pytest.raises(MpkirError) as caught:
        check_host(target, torch.device(device), "a/")
    return str(caught.value)


def test_this_machine_is_this_machine():
    check_host(CPU, torch.device("cpu"), "a/")


def test_other_cpus():
    assert "a/: compiled for a vax CPU, this machine is" in refusal(
        dataclasses.replace(CPU, arch="vax")
    )
    message = refusal(dataclasses.replace(CPU, features=("avx1024", "zzz")))
    assert "compiled for a CPU with avx1024, zzz, which this one lacks; compile" in message


def test_no_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees no NVIDIA GPU here; run it where there is one" in refusal(H100, "cuda")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (gpu("A100", 8, 0, 108, 166_912), "compiled for sm_90a (h100), this GPU is A100 (sm_80)"),
        (gpu("B200", 10, 0, 148, 232_448), "this GPU is B200 (sm_100)"),
        (gpu("H100 PCIe", 9, 0, 114, 232_448), "132 SMs that run at once, H100 PCIe has 114"),
        (gpu("H100", 9, 0, 132, 100_000), "needs 200000 bytes of shared memory on each SM, H100"),
    ],
)
def test_other_gpus(monkeypatch: pytest.MonkeyPatch, found: SimpleNamespace, message: str):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: found)
    assert message in refusal(H100, "cuda")


def test_cubins_run_on_later_minor_versions(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    ampere = dataclasses.replace(H100, arch="sm_80", workers=80, shared_bytes=90_000)
    for found in (gpu("A100", 8, 0, 108, 166_912), gpu("A10", 8, 6, 80, 101_376)):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, found=found: found)
        check_host(ampere, torch.device("cuda"), "a/")
