"""A kernel for each body (per_operator.cuh) on threads, each kernel started before the one before
has ended; and on what host and kernel hand each other.

The stand-ins are those of test_roles.py: a warp is one thread, a copy lands at once.
"""

from __future__ import annotations

import ctypes
import random
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mpkir.runtime.build_cuda import INCLUDE, find_nvcc
from mpkir.runtime.launch import GpuLaunchArgs
from mpkir.runtime.per_operator import Launch, OperatorArgs, Progress, State, launches_of
from mpkir.runtime.table import MAX_OPERANDS, Table, TableNames, build_table

HOST = Path(__file__).parent / "host" / "roles"
PLAIN, STREAM = 0, 1
ORDER = re.compile(
    r"__device__ __forceinline__ (void (?:wait_for_kernels|let_next_start)\(\)) \{.*?\n\}",
    re.DOTALL,
)


class Kernel(ctypes.Structure):
    """`struct Kernel` of host/roles/operators.cpp."""

    _fields_ = (("args", OperatorArgs), ("body", ctypes.c_int), ("blocks", ctypes.c_int))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("operators")
    names = ("abi", "bodies", "dispatcher", "dynamic", "peers", "per_operator")
    names += ("queue", "runtime", "trace")
    for name in names:
        text = (INCLUDE / "mpk" / f"{name}.cuh").read_text()
        if name == "per_operator":  # the stand-in orders the threads of kernels
            text, count = ORDER.subn(r"\1;", text)
            assert count == 2
        (folder / f"{name}.cuh").write_text(text)
    for file in HOST.iterdir():
        text = file.read_text()
        if file.name == "sync.cuh":  # kernels of different sizes run at the same time
            assert "inline Index gridDim;" in text
            text = text.replace("inline Index gridDim;", "inline thread_local Index gridDim;")
        (folder / file.name).write_text(text)
    # Not unique: another library of this process has a gridDim that is not of one thread.
    flags = ["-std=c++17", "-O1", "-pthread", "-shared", "-fPIC", "-w", "-fno-gnu-unique"]
    target = folder / "operators.so"
    subprocess.run(["c++", *flags, "-o", str(target), str(folder / "operators.cpp")], check=True)
    return ctypes.CDLL(str(target))


class Chain:
    """Families, one after another, of `sizes` tasks; each reads all that the one before made, the
    first what the last made in the step before."""

    def __init__(
        self, library: ctypes.CDLL, sizes: list[int], bodies: list[int], seed: int
    ) -> None:
        self.library, self.sizes, self.bodies = library, sizes, bodies
        rng = random.Random(seed)
        self.made = [np.zeros(1 + size, np.int64) for size in sizes]
        for numbers, size in zip(self.made, sizes, strict=True):
            numbers[0] = size
        self.weights = [
            np.array([rng.randrange(1000) for _ in range(size)], np.int64) for size in sizes
        ]
        self.expected = [0] * sizes[-1]
        self.state = State()

    def run(self, position: int, steps: int, most_blocks: int) -> int:
        """The number of steps done; all are replayed, those after a stop for nothing."""
        self.state = State(progress=Progress(position=position))
        self.state.control.stop_at = steps
        control = ctypes.addressof(self.state)
        kernels = (Kernel * len(self.sizes))()
        for number, (size, body) in enumerate(zip(self.sizes, self.bodies, strict=True)):
            operands = (self.made[number - 1], self.weights[number], self.made[number])
            pointers = [array.ctypes.data for array in operands]
            kernels[number] = Kernel(
                OperatorArgs(
                    launch=GpuLaunchArgs(control=control + State.control.offset),
                    operand=(ctypes.c_void_p * MAX_OPERANDS)(*pointers),
                    progress=control + State.progress.offset,
                    family=number,
                    tasks=size,
                    first=int(number == 0),
                    last=int(number + 1 == len(self.sizes)),
                ),
                body,
                min(size, most_blocks),
            )
        self.library.mpk_replay(kernels, len(kernels), steps)
        return min(self.state.control.stop_at, steps)

    def play(self, position: int) -> None:
        """One step, a task after another."""
        for weights in self.weights:
            total = sum(self.expected)
            self.expected = [
                (31 * total + int(weight) + index + position) & 0x7FFFFFFF
                for index, weight in enumerate(weights)
            ]


def stop_at(library: ctypes.CDLL, family: int, modulus: int = 1) -> None:
    ctypes.c_int.in_dll(library, "stop_family").value = family
    ctypes.c_int.in_dll(library, "stop_modulus").value = modulus


CHAINS = {
    "streams": ([3, 9, 1, 7], [STREAM] * 4),
    "plain": ([3, 9, 2], [PLAIN] * 3),
    "both": ([1, 70, 5, 3, 6], [PLAIN, STREAM, STREAM, PLAIN, STREAM]),
    "one task": ([1], [STREAM]),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("most_blocks", [1, 3])
def test_kernels_that_overlap(library: ctypes.CDLL, name: str, most_blocks: int) -> None:
    stop_at(library, -1)
    chain = Chain(library, *CHAINS[name], seed=1)
    position = 7
    for steps in (1, 6):
        assert chain.run(position, steps, most_blocks) == steps
        for _ in range(steps):
            chain.play(position)
            position += 1
        assert chain.made[-1][1:].tolist() == chain.expected
        assert chain.state.progress.position == position
        assert (chain.state.progress.step, chain.state.progress.arrived) == (steps, 0)


@pytest.mark.parametrize("last", [PLAIN, STREAM])
def test_steps_after_a_stop_do_nothing(library: ctypes.CDLL, last: int) -> None:
    stop_at(library, 1, 3)
    chain = Chain(library, [4, 1, 5], [STREAM, PLAIN, last], seed=2)
    position, stopped = 0, 0
    for _ in range(5):
        done = chain.run(position, 8, 2)
        for _ in range(done):
            chain.play(position)
            position += 1
        assert chain.made[-1][1:].tolist() == chain.expected
        assert (chain.state.progress.position, chain.state.progress.step) == (position, done)
        stopped += done < 8
    assert stopped


def table() -> Table:
    return build_table(
        [[(0, 0, -1, 0, 0, -1, 0), (1, 0, -1, 0, 0, -1, 0)], [(0, 1, -1, 0, 0, -1, 0)]],
        [(1, 2, 0, 0, 0, 1), (0, 1, 0, 0, 1, 0)],
        [],
        TableNames(("x", "y"), ("plain", "stream"), ("first", "second"), ()),
    )


def test_a_kernel_for_each_family_in_order() -> None:
    assert launches_of(table(), [8, 1]) == (
        Launch(family=0, body=1, blocks=1, tasks=2, last=False),
        Launch(family=1, body=0, blocks=1, tasks=1, last=True),
    )
    assert launches_of(table(), [1, 8])[0].blocks == 2


@pytest.mark.skipif(find_nvcc() is None, reason="no nvcc")
def test_structures_are_those_of_the_kernel(tmp_path: Path) -> None:
    checks = [f"sizeof(mpk::{t.__name__}) == {ctypes.sizeof(t)}" for t in (OperatorArgs, Progress)]
    checks += [
        f"offsetof(mpk::{t.__name__}, {name}) == {getattr(t, name).offset}"
        for t, names in (
            (OperatorArgs, ("launch", "operand", "progress", "family", "tasks", "first", "last")),
            (Progress, ("position", "step", "arrived")),
        )
        for name in names
    ]
    checks += [
        f"offsetof(mpk::LaunchArgs, {name}) == {getattr(GpuLaunchArgs, name).offset}"
        for name in ("control", "position", "dynamic", "dynamic_tasks")
    ]
    source = tmp_path / "sizes.cu"
    lines = ["#include <cstddef>", "#include <mpk/per_operator.cuh>"]
    source.write_text("\n".join((*lines, *(f"static_assert({c});" for c in checks))) + "\n")
    command = [find_nvcc(), "-std=c++17", "-arch=sm_90a", f"-I{INCLUDE}", "-cubin", "-o"]
    subprocess.run([*command, "/dev/null", str(source)], check=True)
